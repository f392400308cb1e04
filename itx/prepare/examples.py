# SPDX-License-Identifier: Apache-2.0
"""A split's examples: records are read, `fields` is called, each example is kept once or counted.

record --fields()--> values --item_of()--> Item | Skip | Bad
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from itx import text
from itx.data.cache import CONFLICT, REPEATED
from itx.errors import UserError, did_you_mean
from itx.hashing import draw
from itx.prepare import kinds, render, sources
from itx.prepare import values as checks
from itx.prepare.records import Bad
from itx.prepare.types import Item
from itx.tasks.spec import Skip, TaskSpec, Values

SKIP_BAD = "; --data.skip_bad=True counts and skips such examples"
MAX_SHOWN = 200  # characters of a record that an error shows


def items(
    spec: TaskSpec,
    split: str,
    root: str,
    seed: int,
    counts: Counter,
    skip_bad: bool = False,
    faults: dict[str, str] | None = None,
) -> Iterator[Item]:
    """The split's examples in source order, once per identity; every record read is yielded or
    counted.

    Args:
        seed: data.suite_seed, for procedural sources.
        counts: counts["read"] counts records; the reasons beside it add up to what was not
            yielded. A record whose `fields` gives several value dicts counts the further ones as
            "read" too.
        faults: gets the first record of each reason that is a fault of the data, in words.
    """
    faults = {} if faults is None else faults
    slots, once = checks.every_slot(spec), Once(spec, counts, faults)
    for source_split, low, high in sources.source_splits(spec.source, split):
        records = sources.open_source(
            spec.source, source_split, root, seed, counts, skip_bad, faults
        )
        for record_id, record in records:
            where = f"task {spec.name!r}, example {record_id}"
            several = fields_of(spec, record, where, skip_bad, faults)
            counts["read"] += len(several) - 1
            for n, values in enumerate(several):
                item = item_of(spec, record_id, n, values, slots)
                if isinstance(item, Bad):
                    if not skip_bad:
                        raise UserError(f"{where}: {item.detail}{SKIP_BAD}")
                    faults.setdefault(item.reason, f"{where}: {item.detail}")
                if not isinstance(item, Item):
                    counts[item.reason] += 1
                    continue
                if not low <= _place(spec, item) / 2.0**64 < high:
                    counts["another split"] += 1
                    continue
                if once(item):
                    yield item


class Once:
    """Tells whether an example is the first of its identity; a further one is counted, as repeated
    or as in conflict.

    Args:
        counts, faults: as `items` takes them.
    """

    def __init__(self, spec: TaskSpec, counts: Counter, faults: dict[str, str]):
        self.spec, self.counts, self.faults = spec, counts, faults
        self.answer = kinds.of(spec).answer
        self.seen: dict[int, tuple[str, Any]] = {}  # identity -> (id of who has it, its answer)

    def __call__(self, item: Item) -> bool:
        where = f"task {self.spec.name!r}, example {item.id}"
        identity = identity_of(self.spec, item.values)
        answer = self.answer(self.spec, item.values, where)
        if identity not in self.seen:
            self.seen[identity] = (item.id, answer)
            return True
        earlier, given = self.seen[identity]
        self.counts[REPEATED if answer == given else CONFLICT] += 1
        if answer != given:
            told = f"{item.id} has {_shown(answer)} where {earlier} has {_shown(given)}"
            self.faults.setdefault(CONFLICT, told)
        return False


def identity_of(spec: TaskSpec, values: Values) -> int:
    """64 bits that two examples share that are one."""
    return render.identity(kinds.of(spec).shared(spec, values))


def item_of(
    spec: TaskSpec, record_id: str, n: int, values: Values | Skip, slots: Sequence[str]
) -> Item | Skip | Bad:
    """The n-th example that a record gives, or why there is none.

    Args:
        slots: `values.every_slot` of the task.
    """
    if isinstance(values, Skip):
        return values
    kind = kinds.of(spec)
    try:
        if bad := kind.unusable(spec, values, slots):
            return bad
        content = kind.content(spec, values)
    except TypeError as e:  # a value that JSON cannot hold
        return Bad("unusable field", str(e))
    return Item(f"{record_id}.{n}" if n else record_id, values, content, draw("content", content))


def _place(spec: TaskSpec, item: Item) -> int:
    """64 bits that decide which split an example falls into."""
    if spec.source.split_key is None:
        return item.hash
    return draw("split", text.normalise(spec.source.split_key(item.values)))


def _shown(answer: Any) -> str:
    return checks.shown(answer[0] if isinstance(answer, list) and len(answer) == 1 else answer)


def fields_of(
    spec: TaskSpec,
    record: dict,
    where: str,
    skip_bad: bool,
    faults: dict[str, str] | None = None,
) -> list[Values | Skip]:
    """What `spec.fields` gives, as a list that is not empty. A record that it cannot use is an
    error, or with skip_bad a Skip; the first such is told in `faults`."""
    try:
        given = spec.fields(record)
        several = given if isinstance(given, list) else [given]
        for values in several:
            _check_fields(values)
        check = kinds.of(spec).checked
        several = [v if isinstance(v, Skip) else check(v) for v in several]
    except UserError:
        raise
    # The user's function may raise anything: they are told which example it was.
    except Exception as e:
        key = e.args[0] if isinstance(e, KeyError) and e.args else None
        if isinstance(key, str) and key not in record:
            told = f"needs the field {key!r}" + did_you_mean(key, record)
        else:
            shown = checks.shown(record, MAX_SHOWN)
            told = f"{type(e).__name__}: {e}; the example is {shown}"
        told = f"{where}: fields() {told}"
        if not skip_bad:
            raise UserError(told + SKIP_BAD) from e
        if faults is not None:
            faults.setdefault("unusable fields", told)
        return [Skip("unusable fields")]
    return several or [Skip("fields() gave nothing")]


def _check_fields(values: Any) -> None:
    if isinstance(values, Skip):
        return
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise TypeError(f"gave {kind}, not a dict, a list of dicts or Skip(reason)")
    for k, v in values.items():
        if v is None:
            raise ValueError(f"gave no value (None) for {k!r}")
