# SPDX-License-Identifier: Apache-2.0
"""Is a pod ready to train? Each worker says what it is, and one place compares the answers.

    python tpu/check.py here [--bucket gs://B] [--file F]…    on a worker: one line of JSON
    python3 tpu/check.py compare NODE.WORKER.facts …          a table; exit 1 where a check fails

`tpu/pod.sh check` does both. The comparison needs nothing but Python.
"""

import argparse
import concurrent.futures
import email.utils
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

DEVICES_SECONDS = 45  # to start all TPUs of a slice: about 20 s where nothing holds them
BUCKET_SECONDS = 20
MIN_FREE_GB = 20  # for the libraries, the shards of a cache and a temporary checkpoint
# The clock of reference says whole seconds. Google refuses tokens minutes off; logs of workers
# are put in order by their clocks.
MAX_SKEW_SECONDS = 3.0
TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
METADATA = "http://" + os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
DEVICES = """
import json, jax
d = jax.local_devices()
print(json.dumps({"platform": d[0].platform, "kind": d[0].device_kind, "local": len(d),
                  "all": jax.device_count(), "processes": jax.process_count()}))
"""

# ---- on a worker


def here(args: argparse.Namespace) -> int:
    """Print what this worker is. What could not be found out stands under "errors", by check."""
    asked: dict[str, Callable] = {
        "code": code,
        "files": lambda: {f: _sha256(Path(f)) for f in args.file},
        "free_gb": lambda: round(shutil.disk_usage(Path.home()).free / 1e9, 1),
        "skew": skew,
        "holders": lambda: holders(args.tpu_files or TPU_FILES),
    }
    if args.bucket:
        asked["bucket"] = lambda: bucket(args.bucket)
    facts = {"host": platform.node(), "errors": {}}
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, future in {n: pool.submit(find) for n, find in asked.items()}.items():
            _note(facts, name, future.result)
    if facts.get("holders"):
        facts["errors"]["devices"] = "not tried, for other processes hold the TPU"
    else:
        _note(facts, "devices", devices)
    facts["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(facts))
    return 0


def _note(facts: dict, name: str, find: Callable) -> None:
    try:
        facts[name] = find()
    except Exception as e:  # whatever it is, it is this check's finding
        facts["errors"][name] = " ".join(f"{type(e).__name__}: {e}".split())[:300]


def devices() -> dict:
    """What JAX sees, asked in a process that then lets go of the TPU."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", DEVICES], capture_output=True, text=True, timeout=DEVICES_SECONDS
        )
    except subprocess.TimeoutExpired as e:
        raise RuntimeError(
            f"the TPU did not start within {DEVICES_SECONDS} s: a worker of the slice is missing, "
            "or another process holds the TPU"
        ) from e
    if done.returncode:
        raise RuntimeError(_in_words(done.stderr))
    return json.loads(done.stdout.splitlines()[-1])


def _in_words(said: str) -> str:
    """What JAX's last words mean."""
    if "already in use" in said or "libtpu_lockfile" in said or "ALLOW_MULTIPLE_LIBTPU" in said:
        return (
            "another process on this worker has loaded libtpu, and one at a time may: end it, or "
            "remove /tmp/libtpu_lockfile if there is none"
        )
    return (said.strip().splitlines() or ["JAX ended without a word"])[-1]


def code() -> dict[str, str]:
    """The code's version and those of the libraries that compute."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from itx import versions

    return {"itx": versions.code_version(), **versions.versions()}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _metadata(path: str) -> tuple[str, float]:
    """(a value of the machine's metadata server, its clock)."""
    request = urllib.request.Request(
        f"{METADATA}/computeMetadata/v1/{path}", headers={"Metadata-Flavor": "Google"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        clock = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
        return answer.read().decode(), clock


def skew() -> float:
    """Seconds by which this clock is ahead of the metadata server's, which says whole seconds."""
    _, clock = _metadata("instance/zone")
    return round(time.time() - clock - 0.5, 1)


def bucket(name: str) -> dict:
    """Write a file there, read it and remove it; the bucket's place and this machine's zone."""
    file = f"{name.rstrip('/')}/itx-check/{platform.node()}-{os.getpid()}"
    text = f"{platform.node()} {time.time()}"
    began = time.monotonic()
    _gcloud("storage", "cp", "-", file, given=text)
    try:
        if _gcloud("storage", "cat", file) != text:
            raise RuntimeError(f"{file} is not what was written")
    finally:
        _gcloud("storage", "rm", file)
    seconds = round(time.monotonic() - began, 1)
    top = "/".join(name.split("/")[:3])
    place = _gcloud("storage", "buckets", "describe", top, "--format=value(location)").strip()
    zone = _metadata("instance/zone")[0].rpartition("/")[2]
    return {"seconds": seconds, "location": place.lower(), "zone": zone}


def _gcloud(*words: str, given: str | None = None) -> str:
    done = subprocess.run(
        ["gcloud", *words], input=given, capture_output=True, text=True, timeout=BUCKET_SECONDS
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise RuntimeError(f"gcloud {' '.join(words[:2])}: {said[-1]}")
    return done.stdout


def holders(patterns: tuple[str, ...]) -> list[str]:
    """Processes that hold a device file of the TPU, as "pid command"; those of other users are
    seen by root alone, which `sudo` of a TPU's VM gives without a password."""
    files = {os.path.realpath(f) for p in patterns for f in glob.glob(p)}
    if not files:
        return []
    script = (
        "import glob, os, sys\n"
        "for fd in glob.glob('/proc/[0-9]*/fd/*'):\n"
        "    try:\n"
        "        if os.readlink(fd) in sys.argv[1:]: print(fd.split('/')[2])\n"
        "    except OSError: pass\n"
    )
    root = ["sudo", "--non-interactive"] if os.geteuid() and shutil.which("sudo") else []
    command = [*root, sys.executable, "-c", script, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise RuntimeError(f"the processes cannot be listed: {done.stderr.strip()[-200:]}")
    found = []
    for pid in sorted(set(done.stdout.split()), key=int):
        words = Path(f"/proc/{pid}/cmdline")
        if words.exists():
            text = words.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{pid} {text.strip()[:80]}")
    return found


# ---- the comparison


def compare(args: argparse.Namespace) -> int:
    """Print a table; 1 where a check fails."""
    answers, silent = {}, {}
    for file in args.facts:
        path = Path(file)
        try:
            answers[path.stem] = json.loads(path.read_text("utf-8"))
        except ValueError:
            silent[path.stem] = " ".join(path.read_text("utf-8", "replace").split())[-200:]
    results = judged(answers, args.platform)
    if silent:
        lines = "; ".join(f"{w}: {said or 'no answer'}" for w, said in silent.items())
        results.insert(0, ("answers", False, lines))
    width = max(len(name) for name, *_ in results)
    for name, is_good, told in results:
        clean = "".join(c if c.isprintable() else " " for c in told)
        print(f"{name:{width}}  {'ok  ' if is_good else 'FAIL'}  {clean}")
    failed = [name for name, is_good, _ in results if not is_good]
    count = len(answers) + len(silent)
    print(f"{count} worker(s): " + (f"failed: {', '.join(failed)}" if failed else "ready"))
    return 1 if failed else 0


def judged(answers: dict[str, dict], wanted: str) -> list[tuple[str, bool, str]]:
    """(check, whether it holds, what was seen) of each check.

    Args:
        answers: {"NODE.WORKER": what `here` printed}.
        wanted: the platform that JAX must see.
    """
    results = [
        _topology(answers, wanted),
        _alike("code and libraries", answers, "code"),
        _alike("config and lock", answers, "files"),
    ]
    if any("bucket" in a or "bucket" in a["errors"] for a in answers.values()):
        results.append(_each("bucket", answers, "bucket", _bucket_fault, _bucket))
    results += [
        _each("disk", answers, "free_gb", _disk_fault, lambda all: f"at least {min(all)} GB free"),
        _each("clocks", answers, "skew", _skew_fault, lambda all: f"within {_spread(all)} s"),
        _each("other processes", answers, "holders", _holders_fault, lambda all: "none"),
    ]
    if answers:
        slowest = max(a.get("seconds", 0.0) for a in answers.values())
        results.append(("time", slowest < 60, f"{slowest} s on the slowest worker"))
    return results


def _each(
    name: str, answers: dict, key: str, fault: Callable, summary: Callable
) -> tuple[str, bool, str]:
    """A check of each worker's own answer."""
    told = {w: a["errors"][key] for w, a in answers.items() if key in a["errors"]}
    told |= {w: f for w, a in answers.items() if key in a and (f := fault(a[key]))}
    if told:
        return name, False, "; ".join(f"{w}: {t}" for w, t in told.items())
    return name, True, summary([a[key] for a in answers.values()]) if answers else "no answer"


def _alike(name: str, answers: dict, key: str) -> tuple[str, bool, str]:
    """A check that all workers answer the same; the odd ones are named."""
    errors = {w: a["errors"][key] for w, a in answers.items() if key in a["errors"]}
    if errors:
        return name, False, "; ".join(f"{w}: {t}" for w, t in errors.items())
    if faults := _differences({w: a[key] for w, a in answers.items()}):
        return name, False, "; ".join(faults)
    held = next(iter(answers.values()))[key] if answers else {}
    shown = {k: v for k, v in held.items() if key == "files" or k in ("itx", "jax", "jaxlib")}
    return name, True, ", ".join(f"{k} {v}" for k, v in shown.items()) or "none was named"


def _differences(parts_of: dict[str, dict]) -> list[str]:
    """What is not the same on all workers, with the odd ones, of {worker: {part: value}}."""
    faults = []
    for part in sorted({p for parts in parts_of.values() for p in parts}):
        values = {w: parts.get(part, "absent") for w, parts in parts_of.items()}
        common = Counter(values.values()).most_common(1)[0][0]
        if odd := {w: v for w, v in values.items() if v != common}:
            told = ", ".join(f"{v} on {w}" for w, v in odd.items())
            faults.append(f"{part} is {common}, but {told}")
    return faults


def _topology(answers: dict, wanted: str) -> tuple[str, bool, str]:
    """The check that the workers see the same devices, and that those of a slice are whole.

    JAX is asked without a coordinator, so that what it calls all devices and processes are those
    of the worker's own slice.
    """
    name, is_good, told = _each(
        "topology", answers, "devices", lambda d: _device_fault(d, wanted), _devices
    )
    if not is_good:
        return name, is_good, told
    seen = {w: a["devices"] for w, a in answers.items()}
    faults = _differences(seen)
    slices: dict[str, list[dict]] = {}
    for worker, of in seen.items():
        slices.setdefault(worker.rpartition(".")[0], []).append(of)
    for node, workers in slices.items():
        local = sum(of["local"] for of in workers)
        if odd := {of["all"] for of in workers} - {local}:
            faults.append(f"{node}: its workers have {local} devices, JAX sees {_listed(odd)}")
        if odd := {of["processes"] for of in workers} - {len(workers)}:
            faults.append(
                f"{node}: {len(workers)} worker(s) answer, JAX sees {_listed(odd)} processes"
            )
    return (name, False, "; ".join(faults)) if faults else (name, True, told)


def _listed(counts: set[int]) -> str:
    return " and ".join(map(str, sorted(counts)))


def _device_fault(of: dict, wanted: str) -> str:
    return "" if of["platform"] == wanted else f"JAX sees {of['platform']}, not {wanted}"


def _devices(all: list[dict]) -> str:
    kinds = Counter(f"{d['kind']}, {d['local']} of {d['all']} devices each" for d in all)
    return "; ".join(f"{n} worker(s): {kind}" for kind, n in kinds.items())


def _bucket_fault(of: dict) -> str:
    region = of["zone"].rpartition("-")[0]
    if of["location"] == region or "-" not in of["location"]:  # us, eu, asia: of several regions
        return ""
    return f"the bucket is in {of['location']}, the TPU in {region}: slow, and its traffic is paid"


def _bucket(all: list[dict]) -> str:
    slowest = max(b["seconds"] for b in all)
    return f"written and read in {slowest} s at most, in {all[0]['location']}"


def _disk_fault(free_gb: float) -> str:
    return "" if free_gb >= MIN_FREE_GB else f"{free_gb} GB free, {MIN_FREE_GB} GB are needed"


def _skew_fault(seconds: float) -> str:
    return "" if abs(seconds) <= MAX_SKEW_SECONDS else f"{seconds:+.1f} s off its machine's clock"


def _spread(all: list[float]) -> str:
    return f"{max(abs(x) for x in all):.1f}"


def _holders_fault(found: list[str]) -> str:
    return f"the TPU is held by {'; '.join(found)}" if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("here")
    worker.add_argument("--bucket", default="")
    worker.add_argument("--file", action="append", default=[])
    worker.add_argument("--tpu-files", action="append", help="in place of the TPU's device files")
    comparison = commands.add_parser("compare")
    comparison.add_argument("facts", nargs="+")
    comparison.add_argument("--platform", default="tpu")
    args = parser.parse_args()
    return here(args) if args.command == "here" else compare(args)


if __name__ == "__main__":
    sys.exit(main())
