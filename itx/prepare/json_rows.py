# SPDX-License-Identifier: Apache-2.0
"""JSON as rows: an object a line, or the objects of one document.

JSON leaves open what a key that is there twice means, has no NaN and no Infinity, and can spell
characters that no file can hold. A record with any of them is a Bad that names the place.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itx.errors import UserError, check_known
from itx.prepare.records import UTF8_BOM, Bad, Options, Rows, bad_utf8, lines, opened

NOT_LINES = "this is one JSON document, and not a line for each row: use itx.tasks.json(…)"


def _decoded(text: str, numbers: bool = True) -> tuple[Any, list[Bad]]:
    """(the value of a JSON text, each Bad that stands in it in place of an object or a number).
    numbers: NaN and Infinity are none."""
    bad: list[Bad] = []

    def pairs(items: list[tuple[str, Any]]) -> Any:
        value = dict(items)
        if len(value) == len(items):
            return value
        key = next(k for k, n in Counter(k for k, _ in items).items() if n > 1)
        bad.append(Bad("repeated key", f"the key {key!r} is there twice"))
        return bad[-1]

    def constant(name: str) -> Bad:
        bad.append(Bad("not a JSON number", name))
        return bad[-1]

    constant = constant if numbers else None
    return json.loads(text, object_pairs_hook=pairs, parse_constant=constant), bad


def _place(value: Any, bad: Bad, where: str = "") -> str | None:
    """The path to a Bad in a JSON value, `['meta'][2]`; None where it is not there."""
    if value is bad:
        return where
    parts = value.items() if isinstance(value, dict) else ()
    parts = enumerate(value) if isinstance(value, list) else parts
    return next((p for k, v in parts if (p := _place(v, bad, f"{where}[{k!r}]")) is not None), None)


def _fault(value: Any, bad: Sequence[Bad], text: str) -> Bad | None:
    """What is wrong in a value of a JSON text, and where. bad: of `_decoded`."""
    for fault in bad:
        if place := _place(value, fault):
            return Bad(fault.reason, f"{fault.detail} in the field {place}")
    if isinstance(value, Bad):
        return value
    if "\\u" in text:  # "\ud800" is valid JSON
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as e:
            return Bad("bad utf-8", f"lone surrogate \\u{ord(e.object[e.start]):04x}")
    return None


def _record(value: Any, bad: Sequence[Bad], text: str) -> dict | Bad:
    """A value of a JSON text as a record."""
    if fault := _fault(value, bad, text):
        return fault
    return value if isinstance(value, dict) else Bad("not a JSON object", type(value).__name__)


def _object(line: bytes) -> dict | Bad:
    """The record of a line."""
    try:
        text = line.decode("utf-8")
        return _record(*_decoded(text), text)
    except UnicodeDecodeError as e:
        return bad_utf8(e, "the row")
    except json.JSONDecodeError as e:
        return Bad("broken JSON", f"{e.msg} at column {e.colno}")
    except (RecursionError, ValueError) as e:  # nested too deep, an integer of thousands of digits
        return Bad("broken JSON", str(e))


def read_jsonl(path: Path, options: Options) -> Rows:
    """One JSON object per line, plain or .gz."""
    for n, (row, line) in enumerate(lines(path)):
        record = _object(line)
        if n == 0 and isinstance(record, Bad) and (line[:1] == b"[" or line.strip() == b"{"):
            record = Bad(record.reason, f"{record.detail}; {NOT_LINES}")
        yield str(row), record


def _document(path: Path, numbers: bool = True) -> tuple[Any, list[Bad], str]:
    """`_decoded` of a whole file, plain or .gz, and its text; a damaged file is an error with its
    line."""
    try:
        with opened(path) as f:
            text = f.read().removeprefix(UTF8_BOM).decode("utf-8")
        return *_decoded(text, numbers), text
    except UnicodeDecodeError as e:
        row = e.object[: e.start].count(b"\n") + 1
        raise UserError(f"{path.name}:{row}: bad utf-8 (byte 0x{e.object[e.start]:02x})") from e
    except json.JSONDecodeError as e:
        raise UserError(f"{path.name}:{e.lineno}: broken JSON ({e.msg} at column {e.colno})") from e
    except (RecursionError, ValueError) as e:
        raise UserError(f"{path.name}: broken JSON ({e})") from e


def read_document(path: Path) -> Any:
    """A whole JSON file, plain or .gz, each key of whose objects is there once; else an error. NaN
    may stand in it: one of Natural Instructions' tasks has it for a URL, which nobody reads."""
    value, *found = _document(path, numbers=False)
    if fault := _fault(value, *found):
        raise _unusable(path, fault)
    return value


def _unusable(path: Path, fault: Bad) -> UserError:
    return UserError(f"{path.name}: {fault.reason} ({fault.detail})")


def read_json(path: Path, options: Options) -> Rows:
    """One JSON document; `options["rows"]` names the list or the dict (key = row label) of examples
    in it."""
    rows, bad, text = _document(path)
    key = options.get("rows")
    if key is not None and not isinstance(rows, Bad):
        known = rows if isinstance(rows, dict) else ()
        check_known(key, known, f"{path.name}: no {key!r}")
        rows = rows[key]
    if isinstance(rows, Bad):
        raise _unusable(path, rows)
    if not isinstance(rows, (list, dict)):
        kind = type(rows).__name__
        raise UserError(f"{path.name}: its rows are {kind}, neither a list nor an object")
    for row, value in rows.items() if isinstance(rows, dict) else enumerate(rows, 1):
        yield str(row), _record(value, bad, text)
