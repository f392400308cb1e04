# SPDX-License-Identifier: Apache-2.0
"""Delimited text (CSV, TSV): from lines to records, with a look at every quote, for one that is
missing or too many makes rows vanish in a cell.

A quote that does not close within its record is an error in any case, `data.skip_bad` or not:
nobody knows how many rows it took. So is one that closes rows later where the lines between have
the table's columns (`Swallowed`); cells that hold paragraphs, lists or code have other numbers of
delimiters in their lines and are read as they are.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from itx.errors import UserError
from itx.prepare.records import Bad, Rows

# Characters: a column with longer cells holds text, which says nothing about what belongs in it.
MAX_LABEL = 32
MAX_SHAPES = 100  # different short cells (digits apart) of a column of labels or numbers
# Lines of a cell that is judged by its delimiters alone, in a table all of whose columns hold text
MIN_LINES = 3
DELIMITERS = ",;\t|"


def rows(
    lines: Iterable[str],
    name: str,
    columns: Sequence[str] = (),
    delimiter: str = ",",
    quoted: bool = True,
) -> Rows:
    """(line that a record begins in, record) of a table's lines, each with its line end.

    Args:
        name: of the file, for errors.
        columns: of a table without a header.
    """
    taken: list[str] = []  # the lines of the record that is being read

    def each() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    # A setting of the whole process, whose default of 128 KB refuses a long document.
    csv.field_size_limit(2**31 - 1)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    # strict: a quote that never closes is an error, not one cell that swallows the file
    reader = csv.reader(each(), strict=True, delimiter=delimiter, quoting=quoting)
    columns = _columns(list(columns), f"{name}: columns=", delimiter)
    swallowed = Swallowed(delimiter)
    while True:
        taken.clear()
        row = _next_row(reader)
        if row is None:
            break
        at = reader.line_num - len(taken) + 1
        where = f"{name}:{at}: "
        if row == []:  # a blank line
            continue
        if isinstance(row, Bad):
            if quoted and (len(taken) > 1 or taken[0].count('"') % 2):
                opened = _opened(taken, at, columns, delimiter)
                raise UserError(f"{where}{row.reason} ({row.detail}{opened})")
            if not columns:
                told = f"{row.reason} ({row.detail}) where the header should be"
                raise UserError(where + told)
        elif not columns:
            columns = _columns(row, where, delimiter)
            continue
        else:
            swallowed.see(row, taken, at)
            row = _record(columns, row)
            odd = isinstance(row, Bad) and len(taken) > 1
            if odd and _like_rows(taken, len(columns), delimiter):
                opened = _opened(taken, at, columns, delimiter)
                raise UserError(f"{where}{row.reason} ({row.detail}{opened})")
        yield str(at), row
    swallowed.judge(name)


class Swallowed:
    """Looks for quoted cells that hold rows: every line of the record has the table's number of
    delimiters, and in a column that holds labels or numbers every line has what other rows have
    there.

    Where all columns hold text, it needs lines enough, and that no other cell of the table has line
    ends.
    """

    def __init__(self, delimiter: str):
        self.delimiter = delimiter
        self.shapes: list[set[str] | None] = []  # of each column; None: it holds text
        self.rows = self.spanning = 0
        self.suspects: list[tuple[int, list[str]]] = []  # (line it begins in, its lines)

    def see(self, row: Sequence[str], lines: Sequence[str], at: int) -> None:
        if len(lines) > 1:
            self.spanning += 1
            if _like_rows(lines, len(row), self.delimiter):
                self.suspects.append((at, list(lines)))
            return
        self.rows += 1
        self.shapes += [set() for _ in range(len(row) - len(self.shapes))]
        for i, cell in enumerate(row):
            if self.shapes[i] is not None:
                self.shapes[i].add(_shape(cell))
                if len(cell) > MAX_LABEL or len(self.shapes[i]) > MAX_SHAPES:
                    self.shapes[i] = None

    def judge(self, name: str) -> None:
        """At the end of the table: UserError where a cell holds rows."""
        shapes = enumerate(self.shapes)
        known = {i: s for i, s in shapes if s is not None and 2 * len(s) <= self.rows}
        for at, lines in self.suspects:
            rows = [line.rstrip("\r\n").split(self.delimiter) for line in lines]
            alike = any(
                all(i < len(row) and _shape(row[i].strip('"')) in s for row in rows)
                for i, s in known.items()
            )
            alone = not known and len(lines) >= MIN_LINES and self.spanning == len(self.suspects)
            if alike or alone:
                raise UserError(
                    f"{name}:{at}: a quote opens here and closes in line {at + len(lines) - 1}, "
                    "and each line between looks like a row of the table: a quote is missing or "
                    "too many; a cell that is meant to hold these lines can be given as JSON lines"
                )


def _shape(cell: str) -> str:
    return re.sub("[0-9]+", "0", cell)


def _like_rows(lines: Sequence[str], columns: int, delimiter: str) -> bool:
    return columns > 1 and all(line.count(delimiter) == columns - 1 for line in lines)


def _next_row(reader: Iterator[list[str]]) -> list[str] | Bad | None:
    try:
        return next(reader, None)
    except csv.Error as e:
        return Bad("broken row", str(e))


def _record(columns: Sequence[str], row: list[str]) -> dict | Bad:
    if len(row) != len(columns):
        return Bad("wrong number of columns", f"{len(row)} rather than {len(columns)}")
    for column, cell in zip(columns, row, strict=True):
        if byte := _undecoded(cell):
            return Bad("bad utf-8", f"byte {byte} in column {column!r}")
    return dict(zip(columns, row, strict=True))


def _undecoded(text: str) -> str:
    """The first byte of a text that was no UTF-8; "" where there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        return f"0x{ord(e.object[e.start]) & 0xFF:02x}"
    return ""


def _columns(names: list[str], where: str, delimiter: str) -> list[str]:
    """The names of a header, each of which must be another one."""
    if byte := _undecoded("".join(names)):
        raise UserError(f"{where}bad utf-8 in the header (byte {byte})")
    for i, column in enumerate(names):
        if column in names[:i]:
            raise UserError(
                f"{where}columns {names.index(column) + 1} and {i + 1} are both called "
                f"{column!r}; a field has one column"
            )
    if len(names) == 1:
        for other in DELIMITERS:
            if other != delimiter and other in names[0]:
                raise UserError(
                    f"{where}the header has one column, {names[0]!r}: it looks separated by "
                    f"{other!r}, not by {delimiter!r}"
                )
    return names


def _opened(lines: Sequence[str], at: int, columns: Sequence[str], delimiter: str) -> str:
    """Where the last quoted cell of a record opens, for an error."""
    state, column, opened = "begins", 0, (0, 0)
    for n, line in enumerate(lines):
        for c in line:
            if state == "quoted":
                state = "closed" if c == '"' else state
            elif c == '"' and state in ("begins", "closed"):  # a doubled quote is one of the text
                opened = (n, column) if state == "begins" else opened
                state = "quoted"
            elif c == delimiter:
                state, column = "begins", column + 1
            elif state == "closed":  # here the reader gave up
                break
            else:
                state = "bare"
    n, column = opened
    called = repr(columns[column]) if column < len(columns) else str(column + 1)
    return (
        f"; the quote that opens in line {at + n}, column {called}, does not close where its "
        "cell ends"
    )
