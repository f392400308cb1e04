# SPDX-License-Identifier: Apache-2.0
"""Where each made row came from, and the folder of a version of made data.

    ROOT/created/NAME/journal.sqlite     what was asked and answered, of all versions
    ROOT/created/NAME/v1/kept.jsonl      the rows of the task created.NAME.v1 (tasks/created.py)
                         dropped.jsonl   the rows that are none, each with its reason
                         manifest.json   settings, generator, seeds, counts, digests of the files

A version is never changed: the same settings give the same version, others the next number. Each
line has {instruction, input, output} and `lineage`:

    id          a digest of the row's texts
    parents     ids of the seeds and rows that stood in the context of the request that made it, or
                of the row that an operator changed
    operator    what was done to the parent (operators.py); "" for a new row
    preserving  whether the row asks what its parent asks, and has the same answer
    generator   its name
    made_by     for each stage that asked: the request's digest, the digest of its prompt, its seed
    verdicts    {filter: what it found}, of those that found something
    dropped     why it is not kept; "" for a row that is kept
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from itx import hashing, storage
from itx.create.generators import Request
from itx.create.row import Row
from itx.errors import UserError, check_known, did_you_mean

FOLDER, KEPT, DROPPED, MANIFEST = "created", "kept.jsonl", "dropped.jsonl", "manifest.json"
JOURNAL = "journal.sqlite"
CLUSTER = "open_instructions"  # of rows whose source tells none
NAME = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
VERSION = re.compile(r"v([1-9]\d*)")


@dataclass(frozen=True)
class Lineage:
    parents: tuple[str, ...]
    generator: str
    made_by: dict[str, dict[str, Any]]
    verdicts: dict[str, str] = field(default_factory=dict)
    dropped: str = ""
    operator: str = ""
    preserving: bool = False


@dataclass(frozen=True)
class Made:
    """A row and where it came from. An instruction that was dropped has no output."""

    row: Row
    lineage: Lineage

    @property
    def id(self) -> str:
        return hashing.digest(*self.row.texts)

    def without(self, why: str, **found: str) -> "Made":
        """The row, dropped for what was found when it was made already."""
        held = self.lineage
        verdicts = {**held.verdicts, **found}
        return replace(self, lineage=replace(held, verdicts=verdicts, dropped=why))

    def facts(self) -> dict[str, Any]:
        instruction, given, output = self.row.texts
        texts = {"instruction": instruction, "input": given, "output": output}
        return {
            **texts,
            "finish": self.row.finish,
            "lineage": {"id": self.id, **asdict(self.lineage)},
        }


def made_of(held: dict[str, Any]) -> Made:
    """A row as its line has it."""
    came = {k: v for k, v in held["lineage"].items() if k != "id"}
    row = Row(held["instruction"], held["input"], held["output"], finish=held["finish"])
    return Made(row, Lineage(**{**came, "parents": tuple(came["parents"])}))


def asked(request: Request) -> dict[str, Any]:
    """What a row keeps of a request that made it; the journal has all of it."""
    said = request.prompt or json.dumps([list(m) for m in request.messages])
    return {"request": request.digest, "prompt": hashing.digest(said), "seed": request.seed}


def folder(root: str, name: str) -> Path:
    """The folder of a name; UserError for a name that no task can have."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: letters, digits and _ alone, as in the name of a task")
    return Path(root) / FOLDER / name


def versions(place: Path) -> dict[int, Path]:
    """{number: folder} of the versions that are there, ascending."""
    found = {int(m[1]): p for p in place.glob("v*") if (m := VERSION.fullmatch(p.name))}
    return dict(sorted(found.items()))


def of_task(root: str, task: str) -> Path:
    """The folder of the version that a task stands for, `created.NAME.v1`."""
    folders = (p.parent for p in (Path(root) / FOLDER).glob(f"*/v*/{MANIFEST}"))
    known = {f"{FOLDER}.{p.parent.name}.{p.name}": p for p in sorted(folders)}
    check_known(task, known, f"no made data {task!r} under {Path(root) / FOLDER}")
    return known[task]


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a version's file."""
    with file.open(encoding="utf-8") as held:
        for line in held:
            yield json.loads(line)


def same(place: Path, key: str) -> Path | None:
    """The version that was made with these settings, if there is one."""
    for path in versions(place).values():
        if read_manifest(path)["key"] == key:
            return path
    return None


def read_manifest(version: Path) -> dict[str, Any]:
    return storage.read_object(version / MANIFEST, "key", "task", "counts", "files")


def write(place: Path, name: str, key: str, made: Sequence[Made], facts: dict[str, Any]) -> Path:
    """A new version, whole or not at all; its folder."""
    number = max(versions(place), default=0) + 1
    to = place / f"v{number}"
    with storage.whole_folder(to) as part:
        for file, rows in (
            (KEPT, [m for m in made if not m.lineage.dropped]),
            (DROPPED, [m for m in made if m.lineage.dropped]),
        ):
            written = (json.dumps(m.facts(), ensure_ascii=False) + "\n" for m in rows)
            (part / file).write_text("".join(written), encoding="utf-8")
        files = {f: hashing.file_sha256(part / f) for f in (KEPT, DROPPED)}
        manifest = {
            "task": f"created.{name}.v{number}",
            "key": key,
            **facts,
            "counts": counts(made),
            "files": files,
        }
        storage.write_json(part / MANIFEST, storage.sealed(manifest))
    return to


def counts(made: Sequence[Made]) -> dict[str, Any]:
    """How many rows were made, kept, and dropped for each reason; how often each filter found
    something, in kept rows never."""
    reasons = Counter(m.lineage.dropped.partition(": ")[0] for m in made if m.lineage.dropped)
    verdicts = Counter(name for m in made for name in m.lineage.verdicts)
    kept = len(made) - reasons.total()
    return {
        "made": len(made),
        "kept": kept,
        "dropped": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "verdicts": dict(sorted(verdicts.items())),
    }


def check(version: Path) -> None:
    """UserError where a version's files are not what its manifest says."""
    for file, sha256 in read_manifest(version)["files"].items():
        if not (version / file).is_file() or hashing.file_sha256(version / file) != sha256:
            raise UserError(f"{version / file} is damaged: it is not what was written")


def find(root: str, row: str) -> list[tuple[str, dict[str, Any]]]:
    """(task, line) of each version that holds the row whose id begins so, those that keep it first;
    UserError where none holds one, or several begin so."""
    ids: dict[str, dict[str, dict]] = {}  # {id: {task: line}}
    for place in sorted((Path(root) / FOLDER).glob("*/v*")):
        if not VERSION.fullmatch(place.name):
            continue
        task = read_manifest(place)["task"]
        for file in (KEPT, DROPPED):
            for held in lines(place / file):
                ids.setdefault(held["lineage"]["id"], {}).setdefault(task, held)
    found = [i for i in ids if i.startswith(row)]
    if not found:
        raise UserError(f"no made row {row!r} under {Path(root) / FOLDER}" + did_you_mean(row, ids))
    if len(found) > 1:
        raise UserError(f"{len(found)} rows begin with {row!r}: {', '.join(found[:4])}")
    return sorted(ids[found[0]].items(), key=lambda x: bool(x[1]["lineage"]["dropped"]))
