# SPDX-License-Identifier: Apache-2.0
"""Whether a task gives the same examples again: on a second call, and in processes with other hash
seeds.

A cache key names the code that rendered a folder, so the same code must give the same text. Random
numbers, the clock, state that is kept between calls and the order of a set of texts (which each
process draws anew) all break that.
"""

import contextlib
import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from itx.errors import UserError
from itx.processes import child
from itx.tasks import fingerprint, registry
from itx.tasks.spec import TaskSpec

# Two texts in a set have the same order in two processes half of the time; each further process
# halves what is missed.
OTHER_PROCESSES = 3
Digests = list[tuple[str, str]]  # (field, digest of its value), in the order of the fields
# For each record that is read: its own fields, and what `fields` gives.
Seen = list[tuple[Digests, Digests]]


def twice(spec: TaskSpec, seen: Seen, problems: list[str]) -> Callable[[dict], Any]:
    """The task's `fields`, called on two copies of each record; differences go to `problems`,
    digests to `seen`."""

    def fields(example: dict) -> Any:
        first, second = copy.deepcopy(example), copy.deepcopy(example)
        given, again = spec.fields(first), spec.fields(second)
        before, after = digests(example), digests(given)
        if (changed := difference(before, digests(first))) and not problems:
            problems.append(
                f"record {len(seen)}: fields() changes the record that it is given ({changed})"
            )
        elif (changed := difference(after, digests(again))) and not problems:
            problems.append(
                f"record {len(seen)}: fields() gives another result when it is called again on an "
                f"equal record ({changed}): it must not depend on random numbers, the clock or "
                "state that it keeps"
            )
        seen.append((before, after))
        return given

    return fields


def digests(given: Any) -> Digests:
    """What a record or a result of `fields` holds, field by field."""
    several = isinstance(given, list)
    pairs = []
    for n, values in enumerate(given if several else [given]):
        prefix = f"{n}." if several else ""
        parts = values if isinstance(values, dict) else {type(values).__name__: values}
        for k, v in parts.items():
            digest = hashlib.sha256(repr(v).encode(errors="surrogatepass")).hexdigest()
            pairs.append((f"{prefix}{k}", digest))
    return pairs


def difference(one: Digests, other: Digests) -> str:
    """The first field in which two differ, in words; "" where they are equal."""
    if one == other:
        return ""
    names = sorted({k for k, _ in set(one) ^ set(other)})
    return f"the field {names[0]!r}" if names else "the order of its fields"


@contextlib.contextmanager
def other_processes(
    modules: tuple[str, ...], root: str, read: Callable
) -> Iterator[list[Connection]]:
    """Processes with other hash seeds: each answers a task's name with (its fingerprint, Seen), or
    the error's line.

    Args:
        read: (task, root, seen, problems), a function of a module; it calls `twice`.
    """
    own = os.environ.get("PYTHONHASHSEED")
    seeds = [str(s) for s in range(1, OTHER_PROCESSES + 2) if str(s) != own][:OTHER_PROCESSES]
    processes, pipes = [], []
    try:
        for seed in seeds:
            os.environ["PYTHONHASHSEED"] = seed
            process, pipe = child(_serve, modules, root, read)
            processes.append(process)
            pipes.append(pipe)
        _restore("PYTHONHASHSEED", own)
        yield pipes
    finally:
        _restore("PYTHONHASHSEED", own)
        for process in processes:
            process.terminate()
            process.join()


def _restore(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def _serve(pipe: Connection, modules: tuple[str, ...], root: str, read: Callable) -> None:
    """What such a process does, until the check ends."""
    with contextlib.suppress(EOFError):
        while True:
            name = pipe.recv()
            seen: Seen = []
            try:
                registry.load_modules(modules)
                spec = registry.task(name, root)
                read(spec, root, seen, [])
                pipe.send((fingerprint.of_task(spec), seen))
            except UserError as e:
                pipe.send(str(e))


def compare(spec: TaskSpec, seen: Seen, pipes: list[Connection]) -> list[str]:
    """Where the answers of `other_processes` to the task's name are not what this process has
    `seen`; one line."""
    answers = []
    for pipe in pipes:  # all of them, or the next task would be given this one's
        try:
            answers.append(pipe.recv())
        except (EOFError, OSError) as e:
            raise RuntimeError(f"a process that reads task {spec.name!r} again ended") from e
    for answer in answers:
        if isinstance(answer, str):
            return [answer]
        key, elsewhere = answer
        pairs = enumerate(zip(seen, elsewhere, strict=False))
        for n, ((record, given), (other_record, other_given)) in pairs:
            if changed := difference(record, other_record):
                return [
                    f"record {n}: its source gives another record in another process ({changed})"
                ]
            if changed := difference(given, other_given):
                return [
                    f"record {n}: fields() gives another result in another process ({changed}): it "
                    "must not depend on the order of a set or the address of an object"
                ]
        if len(seen) != len(elsewhere):
            return [f"{len(seen)} records are read here, {len(elsewhere)} in another process"]
        if key != fingerprint.of_task(spec):
            return [
                "its options, templates or constants differ in another process; a set must be "
                "sorted"
            ]
    return []
