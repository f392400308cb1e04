# SPDX-License-Identifier: Apache-2.0
"""The fault matrix: each fault is planted in a copy of a small run, the user's next command is
typed, and what follows is judged from outside: by its exit code, by what it says, and by comparing
all that it leaves with an undisturbed run.

    uv run python -m tests.faults FOLDER [--only WORD] [--jobs 2] [--seed 0] [--write] [--done]

FOLDER keeps each result (one JSON file a case), so the drill goes on where it was stopped; --write
puts the table into tests/README.md. Disk full, read-only and other pid namespaces need `unshare`
(util-linux) and are skipped, by name, where the system does not allow it. Results:

    bitwise              the command ended well, and the run is that of the undisturbed one, byte
                         for byte
    recovered and said   the same, and the command named what it had found
    one clear line       the command refused with one line that names what is wrong, and changed
                         nothing
    anything else        SILENT, TRACEBACK or WRONG: a fault of the program; the exit code is then 1
"""

import argparse
import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests import samples
from tests.conftest import REPO, one_device
from tests.kills import begin_sitting, begun_with, differences, put_between
from tests.test_kill import digests

MARKS = ("<!-- faults -->", "<!-- /faults -->")
GOOD = ("bitwise", "recovered and said", "one clear line")
STOPPED_AT = 4  # of 6 steps: where the run goes on after a fault
TRACEBACK = "Traceback (most recent call last)"
LAST_LINES = 3
PAGE_BYTES = 4096  # tmpfs gives files whole pages


@dataclass
class Case:
    """One row of the matrix."""

    fault: str
    where: str
    act: Callable[["Place"], "Outcome"]

    @property
    def name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.fault} {self.where}".lower()).strip("-")


@dataclass
class Outcome:
    result: str
    said: str = ""  # the line that tells the user
    then: str = ""  # what the same command did afterwards, where that matters


@dataclass
class Place:
    """A copy of the undisturbed run and its cache, stopped after step STOPPED_AT."""

    folder: Path
    peace: Path
    seed: int
    draw: random.Random = field(init=False)

    def __post_init__(self):
        self.draw = random.Random(f"{self.seed} {self.folder.name}")

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.py"

    def stopped(self) -> "Place":
        """Make the copy as a kill after step STOPPED_AT leaves it."""
        self.finished()
        shutil.rmtree(self.run / "checkpoints" / "6")
        shutil.rmtree(self.run / "eval" / "6")
        for file in self.run.glob("report.*"):
            file.unlink()
        return self

    def finished(self) -> "Place":
        self.empty()
        for name in ("run", "cache"):
            shutil.copytree(self.peace / name, self.folder / name, symlinks=True)
        return self

    def empty(self) -> "Place":
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        samples.write_recipe(self.folder, self.cache)
        return self

    def words(self, *more: str) -> list[str]:
        return ["train", str(self.recipe), "--run_dir", str(self.run), *more]

    def train(self, *more: str, **how) -> subprocess.CompletedProcess:
        return itx(*self.words(*more), **how)

    def files(self, *patterns: str) -> list[Path]:
        return sorted(
            f for p in patterns for f in self.folder.glob(p) if f.is_file() and f.stat().st_size
        )


def itx(*words: str, within: str = "", timeout: float = 600.0) -> subprocess.CompletedProcess:
    """The command as a user types it; `within` is a shell line that ends by running "$@"."""
    command = [sys.executable, "-m", "itx.cli", *map(str, words)]
    if within:
        command = ["unshare", *UNSHARE, "sh", "-c", within, "sh", *command]
    return subprocess.run(
        command, cwd=REPO, env=one_device(), capture_output=True, text=True, timeout=timeout
    )


UNSHARE = ("--map-root-user", "--mount")
IN_ANOTHER_PID_NAMESPACE = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc")


def may_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(
            ["unshare", *UNSHARE, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True
        ).returncode
        == 0
    )


# ---------------------------------------------------------------- judging


def judged(
    place: Place, done: subprocess.CompletedProcess, names: str, same_as_before: bool = False
) -> Outcome:
    """What a command that met a fault is worth. `names` is a pattern of what its line must name."""
    text = done.stderr + done.stdout
    if TRACEBACK in text:
        return Outcome("TRACEBACK", raised(text))
    told = [line for line in done.stderr.splitlines() if re.search(names, line)]
    if done.returncode == 0:
        wrong = differences(place.peace, place.folder)
        # figures that are gone cannot come back; training goes on
        if told and wrong == ["metrics.jsonl differs"]:
            return Outcome("recovered and said", told[0], "all but the lost lines: bitwise")
        if wrong:
            return Outcome("SILENT" if not told else "WRONG", "; ".join(wrong[:3]))
        return Outcome("recovered and said", told[0]) if told else Outcome("bitwise")
    lines = [line for line in done.stderr.splitlines() if line.startswith("itx: ")]
    if len(lines) != 1 or done.returncode not in (1, 2) or not re.search(names, lines[0]):
        return Outcome(
            "WRONG",
            f"exit {done.returncode}: " + " | ".join(done.stderr.splitlines()[-LAST_LINES:]),
        )
    return Outcome("one clear line", lines[0])


def raised(text: str) -> str:
    """What the last traceback in a text ends with."""
    lines = text[text.rindex(TRACEBACK) :].splitlines()[1:]
    return next((line for line in lines if line and not line.startswith(" ")), TRACEBACK)


def refused(place: Place, words: list[str], names: str) -> Outcome:
    """A change that may not be: one line, nothing written, and the folder's own command goes on to
    the same end."""
    before = digests(place.run)
    done = itx(*words)
    outcome = judged(place, done, names)
    if outcome.result != "one clear line":
        return Outcome(
            "SILENT" if done.returncode == 0 else outcome.result, outcome.said or "it was accepted"
        )
    if digests(place.run) != before:
        return Outcome("WRONG", "the refused command changed the run folder")
    after = judged(place, place.train(), "resumed")
    if after.result not in GOOD[:2]:
        return Outcome("WRONG", f"then its own command: {after.result} {after.said}")
    return Outcome(outcome.result, outcome.said, "its own command: bitwise")


# ---------------------------------------------------------------- files that are not what they were


def truncated(file: Path, draw: random.Random) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size))


def zeroed(file: Path, draw: random.Random) -> None:
    size = file.stat().st_size
    with open(file, "r+b") as out:
        out.seek(size // 2)
        out.write(bytes(size - size // 2))


def deleted(file: Path, draw: random.Random) -> None:
    file.unlink()


def flipped(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    at = draw.randrange(len(data))
    data[at] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


DAMAGES = {
    "truncated": truncated,
    "zeroed from its middle": zeroed,
    "deleted": deleted,
    "one bit flipped": flipped,
}

# What is damaged, by patterns of its files, and what the line names. A training run meets each of
# them on its way.
FILES = {
    "cache: tokens": (("cache/*/train/*/tokens-*.npy",), "cache"),
    "cache: lengths": (("cache/*/train/*/piece_lengths.npy",), "cache"),
    "cache: which pieces train": (("cache/*/train/*/piece_trained.npy",), "cache"),
    "cache: manifest": (("cache/*/train/*/manifest.json",), "cache|manifest"),
    "cache: evaluation examples": (("cache/*/test*/*/examples.jsonl.gz",), "cache|examples"),
    "cache: lock": (("cache/locks/*.json",), "lock"),
    "cache: vocabulary": (("cache/vocab/*/*",), "vocab"),
    "run: config.json": (("run/config.json",), "config.json"),
    "run: data.lock.json": (("run/data.lock.json",), "lock"),
    "run: vocabulary": (("run/vocab/*",), "vocab"),
    "run: metrics.jsonl": (("run/metrics.jsonl",), "metrics.jsonl"),
    "run: scores.json before tuning": (("run/eval/0/scores.json",), "scores.json"),
    "run: predictions before tuning": (("run/eval/0/predictions/*",), "predictions"),
    "run: fixed examples": (("run/eval/fixed_examples.json",), "fixed_examples.json"),
    "run: audit.json": (("run/audit.json",), "audit.json"),
    "newest checkpoint: parameters": (("run/checkpoints/4/params/**/d/*", "run/checkpoints/4/params/d/*"), "checkpoint|4"),
    "newest checkpoint: optimizer": (("run/checkpoints/4/opt_state/**/d/*", "run/checkpoints/4/opt_state/d/*"), "checkpoint|4"),
    "newest checkpoint: meta": (("run/checkpoints/4/meta/metadata",), "checkpoint|4"),
    "newest checkpoint: Orbax's own": (("run/checkpoints/4/params/_METADATA", "run/checkpoints/4/_CHECKPOINT_METADATA", "run/checkpoints/4/params/manifest.ocdbt"), "checkpoint|4"),
}  # fmt: skip


def damaged(how: str, what: str) -> Callable[[Place], Outcome]:
    patterns, names = FILES[what]

    def act(place: Place) -> Outcome:
        place.stopped()
        files = place.files(*patterns)
        assert files, f"no file of {what}: {patterns}"
        DAMAGES[how](place.draw.choice(files), place.draw)
        return judged(place, place.train(), names)

    return act


def empty_step(place: Place) -> Outcome:
    place.stopped()
    shutil.rmtree(place.run / "checkpoints" / "4")
    (place.run / "checkpoints" / "4").mkdir()
    return judged(place, place.train(), r"checkpoint|\b4\b")


def every_step_damaged(place: Place) -> Outcome:
    place.stopped()
    for step in (place.run / "checkpoints").iterdir():
        flipped(place.draw.choice(sorted(f for f in step.glob("params/d/*"))), place.draw)
    return judged(place, place.train(), "checkpoint")


def reader_of_damaged(place: Place) -> Outcome:
    """`itx generate` of a damaged newest checkpoint changes nothing and says which."""
    place.finished()
    flipped(
        max(place.files("run/checkpoints/6/params/d/*"), key=lambda f: f.stat().st_size), place.draw
    )
    before = digests(place.run)
    done = itx("generate", str(place.run), "--prompt", "2 + 2", "--max_new_tokens", "4")
    if digests(place.run) != before:
        return Outcome("WRONG", "a reader changed the run folder")
    outcome = judged(place, done, "6")
    return (
        Outcome("SILENT", outcome.said)
        if done.returncode == 0 and outcome.result == "bitwise"
        else outcome
    )


# ---------------------------------------------------------------- disks


def full_disk(kibibytes: int, what: str) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        place.stopped() if what == "run" else place.empty()
        held = place.folder / what
        held.mkdir(exist_ok=True)
        kept = place.folder / "kept"
        # what is on the full disk is copied out before the name space, and the disk with it, goes
        within = (
            f"mv {q(held)} {q(kept)}; mkdir {q(held)}; mount -t tmpfs -o size={kibibytes}k none {q(held)} && "
            f'cp -a {q(kept)}/. {q(held)} && "$@"; code=$?; mkdir {q(place.folder / "left")}; '
            f"cp -a {q(held)}/. {q(place.folder / 'left')}; exit $code"
        )
        used = (
            sum(-(-f.stat().st_size // PAGE_BYTES) for f in held.rglob("*") if f.is_file())
            * PAGE_BYTES
            // 1024
        )
        within = within.replace(f"size={kibibytes}k", f"size={used + kibibytes}k")
        done = place.train(within=within)
        shutil.rmtree(held)
        (place.folder / "left").rename(held)
        outcome = judged(place, done, "[Nn]o space left")
        if outcome.result != "one clear line":
            return Outcome(
                "WRONG" if outcome.result == "bitwise" else outcome.result,
                outcome.said or "it was not full",
            )
        after = judged(place, place.train(), "resumed")
        if after.result not in GOOD[:2]:
            return Outcome("WRONG", f"with room again: {after.result} {after.said}")
        return Outcome(outcome.result, outcome.said, "with room again: bitwise")

    return act


def read_only(what: str) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        place.stopped()
        held = q(place.folder / what)
        within = f'mount --bind {held} {held} && mount -o remount,bind,ro {held} && "$@"'
        return judged(place, place.train(within=within), "[Rr]ead-only|not be written")

    return act


def q(path: Path) -> str:
    return shlex.quote(str(path))


# ---------------------------------------------------------------- two at once


def watched(place: Place, *more: str) -> subprocess.Popen:
    """The training command with its stages told and its commits slowed (tests/kills.py)."""
    (place.folder / "stages").write_text("")
    command = [
        sys.executable,
        "-m",
        "tests.kills",
        "--watched",
        str(place.folder / "stages"),
        *place.words(*more),
    ]
    said = open(place.folder / "said.txt", "wb")  # noqa: SIM115 (the child's)
    with said:
        return subprocess.Popen(
            command, cwd=REPO, env=one_device(), start_new_session=True, stdout=said, stderr=said
        )


def until_stage(child: subprocess.Popen, place: Place, stage: str) -> None:
    from tests.kills import wait_for_stage

    assert wait_for_stage(child, place.folder / "stages", stage, 1), (
        place.folder / "said.txt"
    ).read_text()[-2000:]


@contextlib.contextmanager
def held_in_a_save(place: Place) -> Iterator[list[str]]:
    """A trainer that stands still within a save, and goes on to its end after the block; the list
    then holds what differs."""
    child, wrong = watched(place.stopped()), []
    try:
        until_stage(child, place, "save")
        os.killpg(child.pid, signal.SIGSTOP)
        yield wrong
        os.killpg(child.pid, signal.SIGCONT)
        code = child.wait(600)
        wrong += (
            [f"the first ended with {code}"] if code else differences(place.peace, place.folder)
        )
    finally:
        stop(child)


def second_trainer(elsewhere: bool) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        with held_in_a_save(place) as wrong:
            before = digests(place.run)
            command = [sys.executable, "-m", "itx.cli", *place.words()]
            command = [*(IN_ANOTHER_PID_NAMESPACE if elsewhere else ()), *command]
            done = subprocess.run(
                command, cwd=REPO, env=one_device(), capture_output=True, text=True, timeout=600
            )
            untouched = digests(place.run) == before
        outcome = judged(place, done, "train|lock|another")
        if done.returncode == 0:
            return Outcome("SILENT", "a second trainer ran")
        if wrong or not untouched:
            return Outcome("WRONG", "; ".join(wrong) or "the second changed the run folder")
        return Outcome(outcome.result, outcome.said, "the first: bitwise")

    return act


def reader_during_save(words: Callable[[Place], list[str]]) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        with held_in_a_save(place) as wrong:
            done = itx(*words(place))
        if done.returncode or TRACEBACK in done.stderr:
            return Outcome("WRONG", f"the reader: {done.stderr.strip()[-200:]}")
        return (
            Outcome("WRONG", "; ".join(wrong))
            if wrong
            else Outcome("bitwise", then="the reader: exit 0")
        )

    return act


def second_builder(elsewhere: bool) -> Callable[[Place], Outcome]:
    """A build that is stopped half-way, another over the same cache, the first goes on: both end
    with the same bytes."""

    def act(place: Place) -> Outcome:
        place.empty()
        command = [sys.executable, "-m", "itx.cli", "data", "build", str(place.recipe)]
        first = subprocess.Popen(
            command, cwd=REPO, env=one_device(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:

            def parts():
                return [p for p in place.cache.rglob("*") if ".part" in p.name]

            until = time.monotonic() + 300
            while first.poll() is None and not parts() and time.monotonic() < until:
                time.sleep(0.001)
            os.killpg(first.pid, signal.SIGSTOP)
            caught = bool(parts())
            prefix = IN_ANOTHER_PID_NAMESPACE if elsewhere else ()
            second = subprocess.Popen(
                [*prefix, *command], cwd=REPO, env=one_device(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, start_new_session=True,
            )  # fmt: skip
            time.sleep(40)  # the second waits for the first, or goes on beside it
            os.killpg(first.pid, signal.SIGCONT)
            said, codes = second.communicate(timeout=600)[0], (first.wait(600), second.returncode)
        finally:
            stop(first)
        if codes != (0, 0) or TRACEBACK in said:
            return Outcome("WRONG", f"exit codes {codes}: {said.strip()[-200:]}")
        mine, undisturbed = (
            {
                k: v
                for k, v in digests(x / "cache").items()
                if not k.endswith(".lock") and "baselines" not in k
            }
            for x in (place.folder, place.peace)  # baselines are kept by the audit
        )
        if mine != undisturbed:
            return Outcome(
                "WRONG", f"the caches differ: {sorted(mine.items() ^ undisturbed.items())[:2]}"
            )
        return Outcome(
            "bitwise", then="" if caught else "the first was stopped before it had begun a folder"
        )

    return act


def stop(child: subprocess.Popen) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stderr:
        child.stderr.close()


# ---------------------------------------------------------------- steps without a finite loss


def not_finite_for_ever(place: Place) -> Outcome:
    """A rate that makes every loss after it NaN: the run ends with one line rather than at its last
    step."""
    place.empty()
    shutil.copytree(place.peace / "cache", place.cache, symlinks=True)
    done = place.train(
        "--optim.learning_rate=1e38", "--train.steps=200", "--train.checkpoint_every=50"
    )
    return judged(place, done, "finite")


# ---------------------------------------------------------------- the matrix

CHANGES = {
    "--peft.rank=4 --peft.method=lora": "peft",
    "--model.embed_dim=48": "model.embed_dim",
    "--model.num_layers=3": "model.num_layers",
    "--resume.allow=model.num_layers --model.num_layers=3": "model.num_layers|resume.allow",
    "--resume.allow=peft.method --peft.method=lora": "peft.method|resume.allow",
    "--resume.allow=no.field": "no.field",
    "--train.steps=2": "steps",
    "--train.seed=7": "train.seed",
    "--optim.learning_rate=0.1": "learning_rate",
    "--data.global_batch=16": "data.global_batch",
    "--data.sequence_length=64": "data.sequence_length",
    "--data.mixture=sample_mix": "data.mixture",
    "--data.vocab_size=300": "data.vocab_size",
    "--data.cache_dir=gs://bucket/cache": "gs://",
}


def change(words: str, names: str) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        return refused(place.stopped(), place.words(*words.split()), names)

    return act


def cases() -> list[Case]:
    rows = [Case(how, what, damaged(how, what)) for what in FILES for how in DAMAGES]
    rows += [
        Case("emptied", "newest checkpoint: its folder", empty_step),
        Case("one bit flipped", "every checkpoint", every_step_damaged),
        Case("one bit flipped", "checkpoint that `itx generate` reads", reader_of_damaged),
        Case("two trainers", "same run folder", second_trainer(elsewhere=False)),
        Case("two trainers", "same run folder, other pid namespace", second_trainer(elsewhere=True)),
        Case("two builders", "same cache", second_builder(elsewhere=False)),
        Case("two builders", "same cache, other pid namespace", second_builder(elsewhere=True)),
        Case("reader during save", "itx generate", reader_during_save(
            lambda p: ["generate", str(p.run), "--prompt", "2 + 2", "--max_new_tokens", "4"])),
        Case("reader during save", "itx eval", reader_during_save(
            lambda p: ["eval", str(p.run), "--step", "2", "--tasks", "sample_second"])),
        Case("NaN", "from step 2 for ever", not_finite_for_ever),
    ]  # fmt: skip
    rows += [Case("disk full", f"{what}, {room} KiB free", full_disk(room, what)) for what, room in (
        ("run", 8), ("run", 100), ("run", 400), ("run", 1200), ("cache", 8), ("cache", 100))]  # fmt: skip
    rows += [Case("read-only", what, read_only(what)) for what in ("run", "cache")]
    rows += [
        Case("refused change", words, change(words, names)) for words, names in CHANGES.items()
    ]
    return rows


NEEDS_UNSHARE = ("disk full", "read-only")


def work(case: Case, folder: Path, peace: Path, seed: int) -> dict:
    """A case's row, from its file where it was done before."""
    file = folder / "results" / f"{case.name}.json"
    if file.is_file():
        return json.loads(file.read_text())
    place = Place(folder / case.name, peace, seed)
    began = time.monotonic()
    try:
        if (case.fault in NEEDS_UNSHARE or "namespace" in case.where) and not may_unshare():
            outcome = Outcome("skipped: unshare is not allowed here")
        else:
            outcome = case.act(place)
    except (AssertionError, subprocess.SubprocessError, OSError, ValueError) as e:
        outcome = Outcome("WRONG", f"{type(e).__name__}: {e}"[:300])
    row = {"fault": case.fault, "where": case.where, **asdict(outcome)}
    row["said"] = without_folder(row["said"], folder)
    print(
        f"{time.monotonic() - began:5.0f} s  {row['result']:20} {case.fault}: {case.where}  {row['said']}",
        flush=True,
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(row, ensure_ascii=False))
    if row["result"] in GOOD:
        shutil.rmtree(place.folder, ignore_errors=True)
    return row


def without_folder(said: str, folder: Path) -> str:
    """A line with … for the drill's folder and the case's in it; a message may have been cut within
    their path."""
    said = re.sub(re.escape(str(folder)) + r"/[^/\s\"']*", "…", said)
    return re.sub(re.escape(f"{folder.parent}/") + r"[^\s\"')]*", "…", said)


def undisturbed(folder: Path) -> Path:
    peace = Place(folder / "peace", folder / "peace", 0)
    if not (peace.run / "report.html").is_file():
        peace.empty()
        done = peace.train()
        if done.returncode:
            raise SystemExit(done.stderr)
    return peace.folder


def table(rows: list[dict], commit: str) -> str:
    counts = {
        r: sum(row["result"] == r for row in rows) for r in sorted({row["result"] for row in rows})
    }
    head = (
        f"{len(rows)} of {len(cases())} cases at commit {commit}: "
        + ", ".join(f"{n} {result}" for result, n in counts.items())
        + "."
    )
    lines = ["| fault | where | result | what was said |", "|---|---|---|---|"]
    for row in rows:
        said = "; ".join(x for x in (row["said"], row["then"]) if x)
        said = said.removeprefix("itx: ").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {row['fault']} | {row['where']} | {row['result']} | {said[:240]} |")
    return "\n".join([head, "", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into tests/README.md")
    parser.add_argument(
        "--done",
        action="store_true",
        help="run nothing: the table of the cases that were run so far",
    )
    args = parser.parse_args()
    folder = args.folder.resolve()
    begin_sitting(folder)
    peace = undisturbed(folder)
    chosen = [c for c in cases() if args.only in f"{c.fault}: {c.where}"]
    if args.done:
        chosen = [c for c in chosen if (folder / "results" / f"{c.name}.json").is_file()]
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda case: work(case, folder, peace, args.seed), chosen))
    text = table(rows, begun_with(folder))
    if args.write:
        put_between(REPO / "tests" / "README.md", MARKS, text)
    print(text.splitlines()[0])
    return int(
        any(row["result"] not in GOOD and not row["result"].startswith("skipped") for row in rows)
    )


if __name__ == "__main__":
    raise SystemExit(main())
