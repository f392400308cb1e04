# SPDX-License-Identifier: Apache-2.0
"""Patches of training data (data.patches): what a person decided on a review page, or refinement
proposes, applied by the build.

A patch is a file of JSON lines. The first is its head, {"patch": PATCH_VERSION, "by": "review" or
"refine", "editor": who, …}; each further one is an entry:

    task      name, without a variant
    id        of the example, for people
    content   hash of the canonical input, as the cache has it, 16 hexadecimal digits
    row       digest of all values as they were when the row was judged (`row_of`)
    verdict   accept | reject | fix | new | undecided (a row that is only tagged)
    changes   {JSON pointer (RFC 6901): text, or the answer's index}, of a fix
    values    of a new pair, what the task's `fields` would give
    tags      words; why: a sentence

Only examples of the training split are changed. Evaluation rows, and the exemplars that they show,
are those of the source, so that runs before and after a patch are asked the same. Files apply in
order, each to what the one before has left. A row that is no longer what was judged is an error:
nobody has judged what it says now.
"""

import functools
import json
import numbers
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from itx import hashing, storage
from itx.config import DataConfig
from itx.data.types import PatchEntry
from itx.errors import UserError, check_known, did_you_mean
from itx.prepare import examples, kinds, render
from itx.prepare import values as checks
from itx.prepare.records import Bad
from itx.prepare.types import Item
from itx.tasks import names, registry
from itx.tasks.spec import Skip, TaskSpec, Values

PATCH_VERSION = 1  # raise it when the meaning of a key changes
VERDICTS = ("accept", "reject", "fix", "new", "undecided")
REJECTED = "rejected by data.patches"
# verdict -> what a build calls it in its counts
COUNTED = {
    "accept": "accepted",
    "reject": "rejected",
    "fix": "fixed",
    "new": "added",
    "undecided": "undecided",
}
_TEXTS = ("task", "id", "content", "row", "why")
_KEYS = (*_TEXTS, "verdict", "changes", "values", "tags")


class Entry(NamedTuple):
    """What was decided of one row."""

    task: str
    verdict: str
    id: str = ""
    content: str = ""
    row: str = ""
    changes: dict[str, str | int] | None = None
    values: Values | None = None
    tags: tuple[str, ...] = ()
    why: str = ""
    line: int = 0  # in its file


class Patch(NamedTuple):
    file: str
    head: dict[str, Any]
    entries: tuple[Entry, ...]

    @property
    def tasks(self) -> Counter:
        return Counter(e.task for e in self.entries)


# ---- the file


def line_of(entry: Entry) -> str:
    """An entry as its file has it, without what is empty."""
    held = {k: v for k, v in entry._asdict().items() if k in _KEYS and v not in ("", (), None)}
    return render.as_json(held) + "\n"


def text_of(head: dict[str, Any], entries: Iterable[Entry]) -> str:
    """A whole patch, as a file has it."""
    first = json.dumps({"patch": PATCH_VERSION, **head}, ensure_ascii=False) + "\n"
    return first + "".join(map(line_of, entries))


def read(file: Path | str) -> Patch:
    """The patch of a file; UserError with the line where it is none."""
    state = storage.identity(os.stat(file))
    return _read(str(file), state)


@functools.lru_cache(maxsize=16)
def _read(file: str, state: tuple) -> Patch:
    del state  # a file that has changed is read again
    lines = storage.objects_in(file)
    _, head = next(lines)
    if head.get("patch") != PATCH_VERSION:
        found = head.get("patch")
        told = f"version {found!r}" if found is not None else "no 'patch' in its first line"
        raise UserError(f"{file}: {told}; a patch of version {PATCH_VERSION} is expected")
    entries, first = [], {}
    for number, held in lines:
        entry = _entry(held, f"{file}, line {number}")
        key = (entry.task, entry.row)
        if entry.row and key in first:
            raise UserError(f"{file}: lines {first[key]} and {number} judge the same row")
        first[key] = number
        entries.append(entry._replace(line=number))
    return Patch(file, head, tuple(entries))


def _entry(held: dict[str, Any], where: str) -> Entry:
    for key in held:
        check_known(key, _KEYS, f"{where}: unknown key {key!r}")
    for key in _TEXTS:
        if not isinstance(held.get(key, ""), str):
            raise UserError(f"{where}: {key!r} is no text")
    verdict, tags = held.get("verdict"), held.get("tags", [])
    check_known(verdict, VERDICTS, f"{where}: verdict {verdict!r}")
    needs = ("task", "values") if verdict == "new" else ("task", "content", "row")
    for key in (*needs, *(("changes",) if verdict == "fix" else ())):
        if not held.get(key):
            raise UserError(f"{where}: a row of verdict {verdict!r} needs {key!r}")
    changes, values = held.get("changes"), held.get("values")
    if changes is not None and not (
        isinstance(changes, dict) and all(type(v) in (str, int) for v in changes.values())
    ):
        raise UserError(f"{where}: 'changes' is no object of texts and numbers")
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{where}: 'values' is no object")
    if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags):
        raise UserError(f"{where}: 'tags' is no list of texts")
    return Entry(**{**held, "tags": tuple(tags)})


# ---- rows and their texts


def row_of(values: Values) -> str:
    """What names a row: a digest of all its values, so that any change of them is seen."""
    return hashing.digest(render.as_json(values, sort_keys=True))


def as_plain(values: Values) -> Values:
    """The values as JSON has them, whole numbers of any library as numbers."""

    def default(value: Any) -> Any:
        return int(value) if isinstance(value, numbers.Integral) else render.plain(value)

    return json.loads(json.dumps(values, ensure_ascii=False, default=default))


def changed(values: Values, changes: dict[str, str | int], where: str) -> Values:
    """The values with others at some pointers, which must be there and hold the same type."""
    new = as_plain(values)
    for pointer, value in changes.items():
        inside: Any = new
        try:
            start, *way, last = (
                p.replace("~1", "/").replace("~0", "~") for p in pointer.split("/")
            )
            if start:
                raise KeyError(pointer)
            for part in way:
                inside = inside[int(part) if isinstance(inside, list) else part]
            last = int(last) if isinstance(inside, list) else last
            before = inside[last]
        except (KeyError, IndexError, ValueError, TypeError) as e:
            raise UserError(
                f"{where}: nothing stands at {pointer!r}" + did_you_mean(pointer, leaves(values))
            ) from e
        if type(before) is not type(value):
            kind = type(before).__name__
            raise UserError(f"{where}: {pointer!r} holds {kind}, not {type(value).__name__}")
        inside[last] = value
    return new


def leaves(value: Any, pointer: str = "") -> dict[str, Any]:
    """{JSON pointer: what stands there}, of all that is no object and no list."""
    if isinstance(value, dict):
        inner = [(k.replace("~", "~0").replace("/", "~1"), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        inner = list(enumerate(value))
    else:
        return {pointer: value}
    return {p: v for k, held in inner for p, v in leaves(held, f"{pointer}/{k}").items()}


# ---- applying them


def files(data: DataConfig) -> list[Path]:
    return [storage.given_file(name, data.root, "data.patches") for name in data.patches]


def key(data: DataConfig, task: str) -> list[str]:
    """What of the patches shapes a task's training examples, for a cache folder's key."""
    several = [(str(f), storage.identity(os.stat(f))) for f in files(data)]
    return [digest for f, state in several if (digest := _digest(f, state, task))]


@functools.lru_cache(maxsize=4096)  # a build asks for each folder of each task
def _digest(file: str, state: tuple, task: str) -> str:
    """Stands for a file's entries of a task; "" where it has none."""
    lines = [line_of(e) for e in _read(file, state).entries if e.task == task]
    return hashing.digest(*lines) if lines else ""


def check(data: DataConfig, trained: Sequence[str]) -> list[PatchEntry]:
    """What a lock says of the patches; UserError for one that names a task that nobody knows, or no
    task that is trained on.

    Args:
        trained: the members of the mixture, with their variants.
    """
    told = []
    # members that are tasks of SeqIO have names of another grammar, and go with no patches
    tasks = {names.parse(member).task for member in trained} if data.patches else set()
    for name, file in zip(data.patches, files(data), strict=True):
        patch = read(file)
        for task in patch.tasks:
            registry.task(task, data.root)
        unused = {task: n for task, n in patch.tasks.items() if task not in tasks}
        if patch.entries and len(unused) == len(patch.tasks):
            raise UserError(
                f"data.patches: {file} is of {', '.join(sorted(unused)[:4])}, and nothing of it is "
                "trained on"
            )
        told.append(
            PatchEntry(
                file=name,
                sha256=hashing.file_sha256(file),
                editor=str(patch.head.get("editor", "")),
                entries=len(patch.entries),
                untrained=unused,
            )
        )
    return told


class Applied(NamedTuple):
    items: list[Item]
    counts: Counter  # of COUNTED


def training_examples(
    spec: TaskSpec, data: DataConfig, counts: Counter, faults: dict[str, str]
) -> Applied:
    """A task's training split with data.patches.

    Args:
        counts, faults: as `examples.items` takes them.
    """
    items = examples.items(spec, "train", data.root, data.suite_seed, counts, data.skip_bad, faults)
    return applied(spec, list(items), map(read, files(data)), counts, faults)


def applied(
    spec: TaskSpec,
    items: Sequence[Item],
    several: Iterable[Patch],
    counts: Counter,
    faults: dict[str, str],
) -> Applied:
    """A task's training examples with its patches; UserError where a row is no longer what was
    judged, or where what a patch says cannot be an example.

    Args:
        counts, faults: as `examples.items` takes them. A new pair counts as read.
    """
    done, left = Counter(), list(items)
    for patch in several:
        entries = [e for e in patch.entries if e.task == spec.name]
        if not entries:
            continue
        by_row = _fresh(spec, left, entries, patch.file)
        verdicts = {e.row: e for e in entries if e.verdict != "new"}
        rows, new = {id(i): row for row, i in by_row.items()}, []
        for item in left:
            entry = verdicts.get(rows.get(id(item), ""))
            judged = _judged(spec, item, entry, patch.file) if entry else item
            if judged is None:
                counts[REJECTED] += 1
            else:
                new.append(judged)
        added = [e for e in entries if e.verdict == "new"]
        for e in added:
            name = f"new:{row_of(e.values or {})}"
            new.append(made(spec, name, e.values or {}, f"{patch.file}, line {e.line}"))
        counts["read"] += len(added)
        done.update(COUNTED[e.verdict] for e in entries)
        once = examples.Once(spec, counts, faults)
        left = list(filter(once, new)) if added or _has(entries, "fix") else new
    return Applied(left, done)


def _judged(spec: TaskSpec, item: Item, entry: Entry, file: str) -> Item | None:
    """An example as an entry on it has it; None where it is rejected."""
    if entry.verdict == "reject":
        return None
    if entry.verdict != "fix":
        return item
    where = f"{file}, line {entry.line}"
    return made(spec, item.id, changed(item.values, entry.changes or {}, where), where)


def _has(entries: Iterable[Entry], verdict: str) -> bool:
    return any(e.verdict == verdict for e in entries)


def _fresh(
    spec: TaskSpec, items: Sequence[Item], entries: Sequence[Entry], file: str
) -> dict[str, Item]:
    """{row: the item} of what is judged; UserError where a row is not there as it was judged."""
    wanted = {e.row for e in entries if e.row}
    by_row = {row: i for i in items if (row := row_of(i.values)) in wanted}
    stale = [e for e in entries if e.row and e.row not in by_row]
    if not stale:
        return by_row
    first = stale[0]
    now = next((i for i in items if f"{i.hash:016x}" == first.content or i.id == first.id), None)
    is_now = f"it is now {checks.shown(now.values)}" if now else "no such example is trained on"
    raise UserError(
        f"{file}: {len(stale)} of {len(wanted)} rows of {spec.name!r} are no longer what was judged"
        f", the first in line {first.line} ({first.id or first.content}: {is_now}); judge them "
        "anew, or take their lines out"
    )


def made(spec: TaskSpec, name: str, values: Values, where: str) -> Item:
    """An example of values that a patch gives; UserError where they can be none."""
    try:
        checked = kinds.of(spec).checked(values)
        item = examples.item_of(spec, name, 0, checked, checks.every_slot(spec))
    except KeyError as e:
        raise UserError(f"{where}: there is no {e.args[0]!r} in {checks.shown(values)}") from e
    except (ValueError, TypeError) as e:  # what a conversation's own check says
        raise UserError(f"{where}: it is no example of {spec.name!r} ({e})") from e
    if isinstance(item, Bad):
        raise UserError(f"{where}: {item.detail}")
    if isinstance(item, Skip):
        raise UserError(f"{where}: it is no example of {spec.name!r} ({item.reason})")
    return item


def again(spec: TaskSpec, item: Item, data: DataConfig) -> Item | None:
    """One training example with the patches, as `applied` makes it; None where it is rejected."""
    for patch in map(read, files(data)):
        row = row_of(item.values)
        entry = next((e for e in patch.entries if e.task == spec.name and e.row == row), None)
        judged = _judged(spec, item, entry, patch.file) if entry else item
        if judged is None:
            return None
        item = judged
    return item
