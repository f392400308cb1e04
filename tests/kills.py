# SPDX-License-Identifier: Apache-2.0
"""The drill of random kills: a run is killed again and again, at drawn moments of drawn stages,
with SIGKILL, SIGTERM and SIGINT, and started again with the same command; at its end nothing may
differ from a run that nobody disturbed.

    uv run python -m tests.kills FOLDER [--kills 200] [--jobs 2] [--seed 0] [--write]

FOLDER keeps what was done (journal.jsonl), so the drill goes on where it was stopped; --write puts
the table into tests/README.md. Runs come in chains: each begins with a cache that lacks a third of
its folders, is killed about sixteen times, then left to end, and compared.

A run does not know that it is watched: `watched` wraps functions of the program from outside,
writes the stage that it is in to a file, and delays the rename that commits a checkpoint, so that a
save lasts long enough to be hit.
"""

import argparse
import contextlib
import functools
import importlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import REPO, one_device
from tests.test_kill import curve, digests, parameters

STAGES = ("build", "compile", "restore", "step", "save", "evaluation", "report")
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
EXIT_CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}
LEAST_OF_A_STAGE = 20
MISSING_SHARE = 1 / 3  # of a cache's folders, where a chain begins
COMMIT_SECONDS = 0.4  # added to each commit of a checkpoint
PATIENCE_SECONDS = 400.0  # for a start to reach a stage, and for a signalled process to end
RECIPE = "configs/quickstart.py"
SETTINGS = (
    "--quick",
    "--eval.before=False",
    "--train.steps=40",
    "--train.checkpoint_every=4",
    "--train.log_every=1",
    "--eval.max_new_tokens=4",
)
LOG_OF_COMPILES = ("Compiling ", "Finished XLA compilation")
MARKS = ("<!-- kills -->", "<!-- /kills -->")

# What stands for a stage: module, name (Class.method), stage.
WRAPPED = (
    ("itx.commands.train", "build_in_subprocess", "build"),
    ("itx.restore", "restore", "restore"),
    ("itx.checkpoint", "Checkpoints.save", "save"),
    ("itx.eval.evaluate", "evaluate", "evaluation"),
    ("itx.eval.fixed", "fixed_losses", "evaluation"),
    ("itx.eval.retention", "retention", "evaluation"),
    ("itx.analysis.report", "report", "report"),
)  # fmt: skip


# ---------------------------------------------------------------- inside the watched process


class Stages:
    """The stage of this process, innermost last; each change is a line of a file."""

    def __init__(self, file: str):
        self.out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.stack = ["start"]

    def enter(self, stage: str) -> None:
        self.stack.append(stage)
        self._tell()

    def leave(self) -> None:
        self.stack.pop()
        self._tell()

    def base(self, stage: str) -> None:
        if self.stack[0] != stage:
            self.stack[0] = stage
            self._tell()

    def _tell(self) -> None:
        os.write(self.out, f"{time.monotonic():.4f} {self.stack[-1]}\n".encode())


def watched(file: str, words: list[str]) -> int:
    """`itx` with these words, telling its stages to a file."""
    stages = Stages(file)

    def wrap(module: str, name: str, around) -> None:
        holder = importlib.import_module(module)
        *path, last = name.split(".")
        for part in path:
            holder = getattr(holder, part)
        inner = getattr(holder, last)

        @functools.wraps(inner)
        def outer(*args, **kwargs):
            return around(inner, *args, **kwargs)

        setattr(holder, last, outer)

    def within(stage: str):
        def around(inner, *args, **kwargs):
            stages.enter(stage)
            try:
                return inner(*args, **kwargs)
            finally:
                stages.leave()

        return around

    def stepped(inner, *args, **kwargs):
        stages.base("step")
        return inner(*args, **kwargs)

    def slow(inner, source, *args, **kwargs):
        if "orbax-checkpoint-tmp" in str(source):
            time.sleep(COMMIT_SECONDS)
        return inner(source, *args, **kwargs)

    class Compiles(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            if said.startswith(LOG_OF_COMPILES[0]) and stages.stack[-1] != "compile":
                stages.enter("compile")
            elif said.startswith(LOG_OF_COMPILES[1]) and stages.stack[-1] == "compile":
                stages.leave()

    import jax

    jax.config.update("jax_log_compiles", True)
    logger = logging.getLogger("jax")
    logger.handlers, logger.propagate = [Compiles(level=logging.DEBUG)], False
    for module, name, stage in WRAPPED:
        wrap(module, name, within(stage))
    wrap("itx.log", "Book.add", stepped)
    for name in ("rename", "replace"):
        wrap("os", name, slow)
    from itx import cli

    return cli.main(words)


# ---------------------------------------------------------------- outside


class Drill:
    def __init__(self, folder: Path, kills: int, seed: int):
        self.folder, self.kills, self.seed = folder, kills, seed
        begin_sitting(folder)
        self.journal = folder / "journal.jsonl"
        self.writing = threading.Lock()
        self.lines = (
            [json.loads(x) for x in self.journal.read_text().splitlines()]
            if self.journal.is_file()
            else []
        )

    def note(self, **line) -> None:
        with self.writing:
            self.lines.append(line)
            with open(self.journal, "a") as out:
                out.write(json.dumps(line) + "\n")
        if "signal" in line:
            n = len(self.done())
            print(
                f"{n:4d}  chain {line['chain']}: {line['signal']} in {line['stage']} -> {line['exit']}",
                flush=True,
            )

    def done(self) -> list[dict]:
        """The kills of chains that were compared or are still going on (not those of chains that
        were given up)."""
        lost = {x["chain"] for x in self.lines if x.get("given_up")}
        return [x for x in self.lines if "signal" in x and x["chain"] not in lost]

    def enough(self) -> bool:
        observed = Counter(x["stage"] for x in self.done())
        return sum(observed.values()) >= self.kills and all(
            observed[s] >= min(LEAST_OF_A_STAGE, self.kills // len(STAGES)) for s in STAGES
        )

    def start(self, chain: Path) -> subprocess.Popen:
        environment = one_device() | {"JAX_PLATFORMS": "cpu"}
        where = [f"--data.cache_dir={chain / 'cache'}", "--run_dir", str(chain / "run")]
        command = [
            sys.executable,
            "-m",
            "tests.kills",
            "--watched",
            str(chain / "stages"),
            "train",
            RECIPE,
        ]
        (chain / "stages").write_text("")
        said = open(chain / "said.txt", "ab")  # noqa: SIM115 (the child's; closed below)
        child = subprocess.Popen(
            [*command, *SETTINGS, *where],
            cwd=REPO,
            env=environment,
            start_new_session=True,
            stdout=said,
            stderr=said,
        )
        said.close()
        return child

    def peace(self) -> tuple[Path, dict[str, float]]:
        """The undisturbed run, made once, and the median seconds of each of its stages."""
        peace = self.folder / "peace"
        if not (peace / "done").is_file():
            shutil.rmtree(peace, ignore_errors=True)
            peace.mkdir()
            child = self.start(peace)
            if child.wait() != 0:
                raise SystemExit((peace / "said.txt").read_text())
            (peace / "done").write_text("")
        return peace, typical(peace / "stages")

    def chain(self, number: int) -> None:
        """One run, killed about sixteen times."""
        peace, seconds = self.peace()
        chain = self.folder / f"chain{number}"
        draw = random.Random(f"{self.seed} {number}")
        # a sitting ended within it: its kills count, what was drawn for it is drawn anew
        if chain.is_dir():
            draw = random.Random(f"{self.seed} {number} {len(self.lines)}")
        else:
            begin_chain(peace, chain, draw)
        aims = ["build"] * 3 if not (chain / "run" / "config.json").exists() else []
        middle = [
            "compile",
            "compile",
            "save",
            "save",
            "step",
            "step",
            "restore",
            "restore",
            "restore",
        ]
        draw.shuffle(middle)
        aims += [*middle, "evaluation", "restore", "evaluation", "report", "report"]
        for aim in aims:
            if self.enough():
                break
            if aim == "restore" and not any((chain / "run" / "checkpoints").glob("[0-9]*")):
                aim = "save"
            if not self.kill(number, chain, aim, seconds.get(aim, 0.2), draw):
                break
        self.compare(number, chain, peace)

    def kill(self, number: int, chain: Path, aim: str, seconds: float, draw: random.Random) -> bool:
        """Start the run, kill it in a stage; False where it ended first."""
        name = draw.choice(list(SIGNALS))
        child = self.start(chain)
        occurrence = draw.randint(1, 3) if aim in ("save", "compile", "evaluation") else 1
        reached = wait_for_stage(child, chain / "stages", aim, occurrence)
        if reached:
            time.sleep(draw.uniform(0, seconds * MISSING_SHARE if aim == "build" else seconds))
        if child.poll() is not None:
            if child.returncode:
                self.note(chain=number, failed=f"a start ended by itself with {child.returncode}")
            return False
        stage, sent = stage_of(chain / "stages"), time.monotonic()
        if name == "SIGTERM":  # as a scheduler does: to the process that it started
            os.kill(child.pid, SIGNALS[name])
        else:  # as a terminal does, or the kernel that takes a container away
            os.killpg(child.pid, SIGNALS[name])
        try:
            child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        took = round(time.monotonic() - sent, 2)
        with contextlib.suppress(ProcessLookupError):  # a build's workers, where there are any left
            os.killpg(child.pid, signal.SIGKILL)
        self.note(
            chain=number, aimed=aim, stage=stage, signal=name, exit=child.returncode, seconds=took
        )
        return child.returncode != 0

    def compare(self, number: int, chain: Path, peace: Path) -> None:
        """Let the run end; then nothing may differ."""
        child = self.start(chain)
        code = child.wait()
        faults = [f"the last start ended with {code}"] if code else differences(peace, chain)
        self.note(chain=number, compared=True, faults=faults, lost=lost_batches(peace, chain))
        print(f"chain {number}: {'equal' if not faults else faults}", flush=True)
        if not faults:
            shutil.rmtree(chain)

    def run(self, jobs: int) -> None:
        self.peace()
        compared = {x["chain"] for x in self.lines if x.get("compared")}
        numbers = iter(n for n in range(10**6) if n not in compared)
        taking = threading.Lock()

        def work() -> None:
            while True:
                with taking:
                    open_chains = {x["chain"] for x in self.lines if "signal" in x} - {
                        x["chain"] for x in self.lines if x.get("compared")
                    }
                    number = next(numbers)
                    if self.enough() and number not in open_chains:
                        return
                self.chain(number)

        with ThreadPoolExecutor(jobs) as pool:
            for future in [pool.submit(work) for _ in range(jobs)]:
                future.result()


def begin_chain(peace: Path, chain: Path, draw: random.Random) -> None:
    """A folder whose cache lacks the locks and a drawn share of its renderings."""
    shutil.copytree(peace / "cache", chain / "cache")
    shutil.rmtree(chain / "cache" / "locks")
    folders = sorted(chain.glob("cache/*/*/r*"))
    for folder in draw.sample(folders, int(len(folders) * MISSING_SHARE)):
        shutil.rmtree(folder)


def typical(stages: Path) -> dict[str, float]:
    """Stage -> the median seconds that a run spent in it at a time."""
    lines = [line.split() for line in stages.read_text().splitlines()]
    held: dict[str, list[float]] = {}
    for (begun, stage), (ended, _) in zip(lines, lines[1:], strict=False):
        held.setdefault(stage, []).append(float(ended) - float(begun))
    return {stage: sorted(seconds)[len(seconds) // 2] for stage, seconds in held.items()}


def stage_of(stages: Path) -> str:
    lines = stages.read_text().splitlines()
    return lines[-1].split()[1] if lines else "start"


def wait_for_stage(child: subprocess.Popen, stages: Path, aim: str, occurrence: int) -> bool:
    """Whether the run is in its `occurrence`-th stay in a stage, or in its last where there are
    fewer in time."""
    until = time.monotonic() + PATIENCE_SECONDS
    while child.poll() is None and time.monotonic() < until:
        seen = [line.split()[1] for line in stages.read_text().splitlines() if line.count(" ") == 1]
        if seen and seen[-1] == aim and seen.count(aim) >= occurrence:
            return True
        time.sleep(0.003)
    return False


def differences(peace: Path, chain: Path) -> list[str]:
    """What differs between the undisturbed run and one that was killed, file by file."""
    a, b = peace / "run", chain / "run"
    faults = []
    if curve(a) != curve(b):
        faults.append("metrics.jsonl differs")
    pa, pb = parameters(a), parameters(b)
    if pa.keys() != pb.keys() or any(pa[k].tobytes() != pb[k].tobytes() for k in pa):
        faults.append("parameters differ")
    for file in sorted(
        [
            *a.glob("eval/*.json"),
            *a.glob("eval/*/scores.json"),
            *a.glob("eval/*/predictions/*.jsonl"),
        ]
    ):
        other = b / file.relative_to(a)
        if not other.is_file() or other.read_bytes() != file.read_bytes():
            faults.append(f"{file.relative_to(a)} differs")
    ca, cb = (
        {k: v for k, v in digests(x / "cache").items() if not k.endswith(".lock")}
        for x in (peace, chain)
    )
    # a lock of other settings is no fault
    more = [k for k in cb.keys() - ca.keys() if not k.startswith("locks/")]
    faults += [f"cache: {k} differs" for k in sorted(ca) if ca[k] != cb.get(k)] + [
        f"cache: {k} is new" for k in sorted(more)
    ]
    return faults


def lost_batches(peace: Path, chain: Path) -> int:
    """Steps of the undisturbed run that the other did not log, or logged otherwise."""
    a, b = ({line["step"]: line for line in curve(x / "run")} for x in (peace, chain))
    return sum(b.get(step) != line for step, line in a.items())


# ---------------------------------------------------------------- the table


def table(lines: list[dict], commit: str) -> str:
    """The drill's result in Markdown, from the journal alone."""
    kills = [x for x in lines if "signal" in x]
    compared = [x for x in lines if x.get("compared")]
    faults = [f"chain {x['chain']}: {f}" for x in compared for f in x["faults"]]
    faults += [f"chain {x['chain']}: {x['failed']}" for x in lines if "failed" in x]
    wrong = [x for x in kills if x["exit"] not in (EXIT_CODES[x["signal"]], 0)]
    rows = [
        "| stage | SIGKILL | SIGTERM | SIGINT | all | slowest end after SIGTERM or SIGINT |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for stage in (*STAGES, "start"):
        here = [x for x in kills if x["stage"] == stage]
        counts = Counter(x["signal"] for x in here)
        slow = max((x["seconds"] for x in here if x["signal"] != "SIGKILL"), default=None)
        rows.append(
            f"| {stage} | {' | '.join(str(counts[s]) for s in SIGNALS)} | {len(here)} | "
            f"{'-' if slow is None else f'{slow:.1f} s'} |"
        )
    said = [
        f"{len(kills)} kills in {len(compared)} runs of `{RECIPE} {' '.join(SETTINGS)}` at commit {commit}; "
        f"{len(compared) - len({x['chain'] for x in compared if x['faults']})} of {len(compared)} runs ended bitwise equal "
        f"to the undisturbed one (metrics, parameters, scores, predictions, cache); "
        f"{sum(x['lost'] for x in compared)} batches lost.",
        f"Exit codes other than 143 after SIGTERM and 130 after SIGINT (0 where the run was just done): {len(wrong)}"
        + "".join(f"; {x['signal']} in {x['stage']}: {x['exit']}" for x in wrong) + ".",
        *([] if not faults else ["Faults: " + "; ".join(faults) + "."]),
        "`start` is what lies between the named stages: imports, the audit, opening files.",
    ]  # fmt: skip
    return "\n".join([*said[:1], "", *rows, "", *said[1:]])


def put_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Write a table between its marks in a page."""
    before, rest = page.read_text(encoding="utf-8").split(marks[0])
    page.write_text(
        f"{before}{marks[0]}\n{text}\n{marks[1]}{rest.split(marks[1])[1]}", encoding="utf-8"
    )


def begin_sitting(folder: Path) -> None:
    """Make the drill's folder, or see that it was begun with this code: results of two codes are
    not one table."""
    folder.mkdir(parents=True, exist_ok=True)
    file, now = (
        folder / "code",
        {"commit": revision("--short", "HEAD"), "itx": revision("HEAD:itx")},
    )
    if not file.is_file():
        file.write_text(json.dumps(now))
    elif (then := json.loads(file.read_text()))["itx"] != now["itx"]:
        raise SystemExit(
            f"{folder} holds results of commit {then['commit']}; itx/ is another now: give another folder"
        )


def begun_with(folder: Path) -> str:
    """The commit that a drill's folder was begun with."""
    return json.loads((folder / "code").read_text())["commit"]


def revision(*of: str) -> str:
    return subprocess.run(
        ["git", "rev-parse", *of], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    if sys.argv[1:2] == ["--watched"]:
        return watched(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into tests/README.md")
    args = parser.parse_args()
    drill = Drill(args.folder.resolve(), args.kills, args.seed)
    drill.run(args.jobs)
    text = table(drill.lines, begun_with(drill.folder))
    print(text)
    if args.write:
        put_between(REPO / "tests" / "README.md", MARKS, text)
    return int(any(x.get("faults") or "failed" in x for x in drill.lines))


if __name__ == "__main__":
    raise SystemExit(main())
