# SPDX-License-Identifier: Apache-2.0
"""tpu/pod.sh against a stand-in for gcloud and kubectl that plays a TPU on this machine, and what
the scripts of tpu/ are.

uv run pytest tests/tpu
"""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO

SCRIPTS = sorted((REPO / "tpu").glob("*.sh"))
STUB = Path(__file__).parent / "stub_gcloud.sh"


class Cloud:
    """A folder whose stub is gcloud and kubectl, and the commands that are said in it."""

    def __init__(self, folder: Path):
        self.folder, tools = folder, folder / "bin"
        tools.mkdir()
        for name in ("gcloud", "kubectl"):
            (tools / name).symlink_to(STUB)
        # what `worker.sh install` calls: an environment whose python is this one
        uv = f"""#!/bin/sh
mkdir -p .venv/bin
printf '#!/bin/sh\\necho itx 0\\n' > .venv/bin/itx
printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > .venv/bin/python
chmod +x .venv/bin/*
"""
        (tools / "uv").write_text(uv)
        (tools / "uv").chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "STUB": str(folder),
            "TMPDIR": str(folder),
            "VIRTUAL_ENV": "",
        }

    def start(
        self, *words: str, script: Path = REPO / "tpu/pod.sh", **environment: str
    ) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(script), *words],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pod(
        self, *words: str, code: int = 0, script: Path = REPO / "tpu/pod.sh", **environment: str
    ) -> str:
        """What pod.sh says, both streams; its exit code must be `code`."""
        process = self.start(*words, script=script, **environment)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return out + err

    def before_gcloud(self, lines: str) -> str:
        """A PATH on which lines of bash run before the stub of gcloud does."""
        first = self.folder / "first"
        first.mkdir()
        (first / "gcloud").write_text(f'#!/bin/bash\n{lines}\nexec {STUB} "$@"\n')
        (first / "gcloud").chmod(0o755)
        return f"{first}:{self.environment['PATH']}"

    def refuse(self, words: str, said: str, code: int = 1) -> None:
        with open(self.folder / "refusals", "a") as file:
            file.write(f"{words}\t{code}\t{said}\n")

    def set_state(self, node: str, state: str) -> None:
        (self.folder / "nodes" / node / "state").write_text(f"{state}\n")

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def home(self, node: str, worker: int) -> Path:
        return self.folder / "nodes" / node / str(worker)

    def installed(self, node: str = "pod", workers: int = 2) -> None:
        """A slice that is set up, but for the clone: its workers have worker.sh alone."""
        for i in range(workers):
            folder = self.home(node, i) / "itx" / "tpu"
            folder.mkdir(parents=True)
            shutil.copy(REPO / "tpu/worker.sh", folder)
        self.set_state(node, "READY")


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    yield made
    for file in tmp_path.glob("nodes/*/*/itx-run/pid"):  # nothing is left behind
        try:
            os.killpg(int(file.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue


def faults(script: Path) -> str:
    command = [Path(sys.executable).parent / "shellcheck", script]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.mark.parametrize("file", [*SCRIPTS, STUB], ids=lambda f: f.name)
def test_scripts_are_clean(file):
    assert faults(file) == ""
    assert subprocess.run(["bash", "-n", file]).returncode == 0


def test_a_fault_of_a_script_is_seen(tmp_path):
    (tmp_path / "faulty.sh").write_text(STUB.read_text() + '\nrm -r $1/"$2"\n')
    assert "SC2086" in faults(tmp_path / "faulty.sh")


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (
            ["--type=v5litepod-16"],
            "tpu-vm create pod --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --zone=z",
        ),
        (
            ["--type=v6e:2x4", "--spot"],
            "tpu-vm create pod --accelerator-type=v6e-8 --version=v2-alpha-tpuv6e --spot --zone=z",
        ),
        (
            ["--type=v5p-128", "--queued", "--pause=0"],
            "queued-resources create pod --accelerator-type=v5p-128 --node-id=pod "
            "--runtime-version=v2-alpha-tpuv5 --zone=z",
        ),
        (
            ["--type=v5e-4", "--slices=2", "--spot", "--pause=0"],
            "queued-resources create pod --accelerator-type=v5litepod-4 --node-count=2 "
            "--node-prefix=pod --runtime-version=v2-alpha-tpuv5-lite --spot --zone=z",
        ),
    ],
)
def test_create_says_what_dry_run_shows(cloud, words, call):
    shown = cloud.pod("create", "pod", *words, "--zone=z", "--dry-run")
    assert f"gcloud compute tpus {call}\n" in shown and cloud.calls == []
    cloud.pod("create", "pod", *words, "--zone=z")
    assert f"gcloud compute tpus {call}" in cloud.calls
    nodes = sorted(p.name for p in (cloud.folder / "nodes").iterdir())
    assert nodes == (["pod-0", "pod-1"] if "--slices=2" in words else ["pod"])
    cloud.pod("delete", "pod", "--zone=z", *(w for w in words if "slices" in w))
    assert list((cloud.folder / "nodes").iterdir()) == []
    how = "queued-resources delete pod --force" if "--pause=0" in words else "tpu-vm delete pod"
    assert f"gcloud compute tpus {how} --quiet --zone=z" in cloud.calls


# the last line of what gcloud prints in each case
REFUSALS = {
    "no project": ("The required property [project] is not currently set.", 2, "give --project"),
    "no zone": ("The required property [compute/zone] is not currently set.", 2, "give --zone"),
    "wrong zone": ("INVALID_ARGUMENT: Location us-moon1-a is not found", 2, "no TPUs in that zone"),
    "wrong type": (
        "NOT_FOUND: AcceleratorType 'v5litepod-16' not found in zone",
        2,
        "(z) has no v5e-16",
    ),
    "wrong type, by path": (
        "NOT_FOUND: Resource 'projects/p/locations/z/acceleratorTypes/v5litepod-16' was not found",
        2,
        "(z) has no v5e-16",
    ),
    "wrong version": (
        "NOT_FOUND: Resource 'projects/p/locations/z/runtimeVersions/v2-x' was not found",
        2,
        "(z) has no runtime v2-alpha-tpuv5-lite",
    ),
    "wrong zone, by path": (
        "NOT_FOUND: Resource 'projects/p/locations/z' was not found",
        2,
        "no TPUs in that zone",
    ),
    "no such project": ("NOT_FOUND: Project 'p' not found or deleted", 2, "no such project"),
    "no such project, by path": (
        "The resource 'projects/p' was not found",
        2,
        "no such project",
    ),
    "something else is not there": (
        "NOT_FOUND: Resource 'projects/p/locations/z/operations/7' was not found",
        2,
        "there is no TPU called pod in z",
    ),
    "no such node": (
        "NOT_FOUND: Resource 'projects/p/locations/z/nodes/pod' was not found",
        2,
        "there is no TPU called pod in z",
    ),
    "busy name": (
        "ALREADY_EXISTS: Resource 'projects/p/locations/z/nodes/pod' already exists",
        2,
        "the name pod is taken",
    ),
    "quota": (
        "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded.",
        1,
        "your quota does not allow it",
    ),
    "no room": (
        'There is no more capacity in the zone "z"; you can try in another zone',
        1,
        "has no room now",
    ),
    "no login": ("Please run: $ gcloud auth login to obtain new credentials.", 2, "not logged in"),
    "not allowed": ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", 2, "TPU Admin"),
    "else": ("the moon is full", 1, "gcloud failed (gcloud: ERROR: the moon is full)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_told_in_words(cloud, case):
    said, code, told = REFUSALS[case]
    cloud.refuse("tpu-vm create", said)
    line = cloud.pod("create", "pod", "--type=v5e-16", "--zone=z", code=code).splitlines()[-1]
    assert line.startswith("pod: ") and told in line and said in line


def test_a_name_that_is_not_there_is_told(cloud):
    assert "there is no TPU called typo" in cloud.pod("delete", "typo", code=2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["create", "pod"], "needs --type"),
        (["create", "Pod", "--type=v5e-16"], "needs a NAME"),
        (["create", "pod", "--type=v9-8"], "the families are"),
        (["create", "pod", "--type=v5e-17"], "no such size is known"),
        (["create", "pod", "--type=tpu7x:2x2x1"], "GKE alone"),
        (["start", "pod"], "no command start"),
        (["run", "pod", "--sloth=1"], "no flag --sloth"),
        (["run", "pod", "--slices=two"], "takes a whole number"),
        (["run", "pod", "--bucket=s3://b"], "give gs://NAME"),
        (["setup", "pod", "--nfs=/share"], "give SERVER:/SHARE"),
        (["run", "pod"], "needs the words of the run"),
        (["run", "pod", "--", "true"], "there is no TPU called pod"),
        (["jobset", "pod", "--type=v5e-16"], "--image"),
    ],
)
def test_a_mistake_is_told_before_anything_is_done(cloud, words, told):
    assert told in cloud.pod(*words, code=2)
    assert not [c for c in cloud.calls if " describe " not in c]


def test_a_request_that_fails_in_the_queue_or_waits_too_long(cloud):
    (cloud.folder / "queue").mkdir()
    words = ["create", "pod", "--type=v5e-16", "--queued", "--pause=0"]
    cloud.refuse("queued-resources describe", "the moon is full")
    assert "gcloud failed" in cloud.pod(*words, "--retries=0", code=1)
    cloud.pod("delete", "pod")
    cloud.refuse("queued-resources describe", "the network is down")
    assert "the look at pod failed (exit 1), 1 of 50" in cloud.pod(*words)
    queue = cloud.folder / "queue" / "pod"
    for state, code, told in (
        ("FAILED", 1, "failed in the queue"),
        ("SUSPENDED", 143, "preempted"),
    ):
        stub = f'#!/bin/sh\ncase "$*" in *create*) exit 0;; *) echo {state};; esac\n'
        other = cloud.folder / state
        other.mkdir()
        (other / "gcloud").write_text(stub)
        (other / "gcloud").chmod(0o755)
        path = f"{other}:{cloud.environment['PATH']}"
        assert told in cloud.pod(*words, code=code, PATH=path)
    queue.unlink()
    slow = ["--wait=1", "--pause=1"]
    stub = '#!/bin/sh\ncase "$*" in *create*) exit 0;; *) echo PROVISIONING;; esac\n'
    (cloud.folder / "FAILED" / "gcloud").write_text(stub)
    path = f"{cloud.folder / 'FAILED'}:{cloud.environment['PATH']}"
    assert "still PROVISIONING after 1 s" in cloud.pod(*words[:-1], *slow, code=124, PATH=path)


def test_setup_gives_every_worker_this_clone(cloud):
    cloud.pod("create", "pod", "--type=v5e-8")
    assert "set up (2 workers)" in cloud.pod("setup", "pod")
    for i in range(2):
        clone = cloud.home("pod", i) / "itx"
        for file in ("itx/train.py", "configs/quickstart.py", "tpu/check.py"):
            assert (clone / file).read_bytes() == (REPO / file).read_bytes()
        assert not (clone / "uv.lock").exists()  # git ignores it
    # the share, where it is not mounted yet
    for tool in ("sudo", "mountpoint", "mount.nfs"):
        file = cloud.folder / "bin" / tool
        file.write_text(
            f'#!/bin/sh\necho "{tool} $*" >> {cloud.folder}/mounts; test {tool} = sudo\n'
        )
        file.chmod(0o755)
    cloud.pod("setup", "pod", "--nfs=10.0.0.2:/share")
    mounts = (cloud.folder / "mounts").read_text().splitlines()
    assert mounts.count("sudo mount -t nfs 10.0.0.2:/share /mnt/itx") == 2


def copied_clone(folder: Path) -> Path:
    """A small clone with the scripts, whose files a test may change."""
    shutil.copytree(REPO / "tpu", folder / "tpu")
    shutil.copy(REPO / ".gitignore", folder)
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    return folder


def test_a_second_setup_keeps_what_the_first_did_not_bring(cloud):
    clone = copied_clone(cloud.folder / "clone")
    (clone / "old name.py").touch()
    cloud.pod("create", "pod", "--type=v5e-8")
    cloud.pod("setup", "pod", script=clone / "tpu/pod.sh")
    work = cloud.home("pod", 0) / "itx"
    assert (work / "old name.py").exists()
    made = [".venv/kept", "runs/a/metrics", "checkpoints/8B/model", "cache/语", "models/x"]
    for file in made:
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        (work / file).write_text(file)
    (clone / "old name.py").unlink()
    (clone / "new.py").write_text("new")
    said = cloud.pod("setup", "pod", script=clone / "tpu/pod.sh")
    assert [(work / f).read_text() for f in made] == made
    assert (work / "new.py").read_text() == "new" and not (work / "old name.py").exists()
    assert "no old file is removed" not in said
    # nobody knows what brought these
    (cloud.home("pod", 0) / "itx-files").unlink()
    said = cloud.pod("setup", "pod", script=clone / "tpu/pod.sh")
    assert said.count("no old file is removed") == 1 and "pod: pod worker 0: there is no" in said


def test_an_archive_that_did_not_arrive_is_seen(cloud):
    cloud.installed()
    path = cloud.before_gcloud('[[ "$*" != *" scp "* ]] || exit 0')
    said = cloud.pod("setup", "pod", code=2, PATH=path)
    assert "pod worker 1: setup failed" in said and "is set up" not in said


def test_setup_is_refused_while_a_run_is_going_on(cloud):
    clone = copied_clone(cloud.folder / "clone")
    cloud.pod("create", "pod", "--type=v5e-8")
    cloud.pod("setup", "pod", script=clone / "tpu/pod.sh")
    words = ["bash", "itx/tpu/worker.sh", "start", "sleep", "60"]
    home = cloud.home("pod", 1)
    subprocess.run(words, cwd=home, env=cloud.environment | {"HOME": str(home)}, check=True)
    (clone / "new.py").touch()
    said = cloud.pod("setup", "pod", code=75, script=clone / "tpu/pod.sh")
    assert "pod worker 1: setup failed (exit 75)" in said and "a run is going on here" in said
    assert not list((cloud.folder / "nodes").glob("pod/*/itx/new.py"))
    assert not (home / "itx-run/exit").exists()


def test_a_run_shows_worker_0_and_ends_with_the_worst_code(cloud):
    cloud.installed(workers=3)
    script = 'case $HOME in */0) echo "train 1/2  loss 3"; sleep 0.5; echo "said $1 $JAX_COMPILATION_CACHE_DIR";; */1) echo fine; exit 143;; *) for i in $(seq 40); do echo "odd $i"; done; exit 7;; esac'
    said = cloud.pod(
        "run", "pod", "--bucket=gs://b", "--", "bash", "-c", script, "x", "a 'b", code=7
    )
    assert "said a 'b gs://b/compiled" in said and "first log line of training came" in said
    assert "pod worker 2 (exit 7)" in said and "odd 40" in said and "odd 20\n" not in said
    assert "pod worker 1 (exit 143)" in said and "exit codes of the workers: 0 143 7" in said
    whole = (cloud.folder / "runs/pod-pod/pod.2.txt").read_text()
    assert "odd 1\n" in whole
    assert "exit codes of the workers: 0 143 7" in cloud.pod("logs", "pod", code=7)


def test_control_characters_of_a_log_stay_out_of_the_terminal(cloud):
    cloud.installed(workers=1)
    said = cloud.pod("run", "pod", "--", "printf", r"a\033]0;title\007b\n")
    assert "\033" not in said and "\007" not in said and "title" in said


def test_a_run_that_does_not_begin_everywhere_ends_everywhere(cloud):
    cloud.installed()
    shutil.rmtree(cloud.home("pod", 1) / "itx")
    said = cloud.pod("run", "pod", "--", "sleep", "60", code=127)
    assert "pod worker 1: the start failed" in said
    log = cloud.home("pod", 0) / "itx-run"
    assert (log / "exit").read_text() == "143\n"


def wait_for(condition, seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_run_outlives_the_connection_and_is_stopped_by_hand(cloud):
    cloud.installed()
    script = "trap 'echo saved; exit 143' TERM; echo begun; while true; do sleep 0.1; done"
    process = cloud.start("run", "pod", "--", "bash", "-c", script)
    logs = [cloud.home("pod", i) / "itx-run/log" for i in range(2)]
    wait_for(lambda: all(x.exists() and "begun" in x.read_text() for x in logs))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "what was started goes on" in err
    assert "a run is going on here" in cloud.pod("run", "pod", "--", "true", code=75)
    assert not (logs[0].parent / "exit").exists()
    assert cloud.pod("stop", "pod").count("the run ended after") == 2
    assert [x.read_text().split()[-1] for x in logs] == ["saved"] * 2
    assert "stopped by hand" in cloud.pod("logs", "pod", code=143)
    assert "no run is going on here" in cloud.pod("stop", "pod")


def test_a_broken_connection_is_made_again_and_no_line_is_lost_or_repeated(cloud):
    cloud.installed(workers=1)
    cut = cloud.folder / "cut"
    # the first connection that follows is cut off after a while
    path = cloud.before_gcloud(
        f'if [[ "$*" == *"worker.sh follow"* && ! -e {cut} ]]; then touch {cut}; timeout 0.7 {STUB} "$@"; exit 255; fi'
    )
    words = ["bash", "-c", "for i in $(seq 30); do echo line $i; sleep 0.05; done"]
    said = cloud.pod("run", "pod", "--pause=0", "--", *words, PATH=path)
    lines = [x for x in said.splitlines() if x.startswith("line")]
    assert lines == [f"line {i}" for i in range(1, 31)] and cut.exists()


def test_a_connection_does_not_read_the_terminal(cloud):
    """What reads it in the background is stopped by the kernel: the run would never be shown."""
    cloud.installed()
    path = cloud.before_gcloud('case "$*" in *" ssh "*) read -r -t 5 || true;; esac')
    terminal, end = pty.openpty()
    command = ["setsid", "--ctty", "bash", str(REPO / "tpu/pod.sh"), "run", "pod", "--"]
    environment = cloud.environment | {"PATH": path}
    process = subprocess.Popen(
        [*command, "echo", "shown"],
        cwd=cloud.folder,
        env=environment,
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.write(terminal, b"\n")
    try:
        said, _ = process.communicate(timeout=20)
    finally:
        # the terminal's end takes with it (SIGHUP) what was stopped
        os.close(terminal)
        os.close(end)
        process.kill()
    assert process.returncode == 0 and "shown" in said


def supervised(cloud, script: str, code: int, *flags: str) -> str:
    """What supervise says of a run whose script is `script`; a slice has one worker."""
    words = ["supervise", "pod", "--type=v5e-4", "--pause=0", *flags, "--", "bash", "-c", script]
    return cloud.pod(*words, code=code, STUB_WORKERS="1")


def test_a_preempted_run_gets_a_new_slice_and_goes_on(cloud):
    """The first two slices go away under the run, the third stays."""
    script = f"""echo start >> {cloud.folder}/starts
if [ $(wc -l < {cloud.folder}/starts) -lt 3 ]; then echo PREEMPTED > {cloud.folder}/nodes/pod/state; exit 1; fi
echo done"""
    said = supervised(cloud, script, 0, "--restarts=0", "--spot")
    assert said.count("preempted (pod is PREEMPTED, exit") == 2 and "done" in said
    created = [c for c in cloud.calls if "tpu-vm create" in c]
    deleted = [c for c in cloud.calls if "tpu-vm delete" in c]
    assert len(created) == 3 and len(deleted) == 2 and all("--spot" in c for c in created)


def test_restarts_are_limited(cloud):
    cloud.installed(workers=1)
    said = supervised(cloud, "exit 7", 7, "--restarts=2")
    assert said.count("a crash (exit 7)") == 2 and "3 crashes in a row" in said
    said = supervised(cloud, "exit 143", 143, "--preemptions=1", "--restarts=0")
    assert said.count("preempted (pod is READY, exit 143)") == 1 and "preempted 2 times" in said
    assert "a new start" not in supervised(cloud, "exit 2", 2)
    assert not [c for c in cloud.calls if " create " in c or " delete " in c]


def test_supervise_takes_up_a_run_that_is_going_on(cloud):
    cloud.installed(workers=1)
    process = cloud.start("run", "pod", "--", "bash", "-c", "sleep 2; echo finished")
    wait_for((cloud.home("pod", 0) / "itx-run/log").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    said = supervised(cloud, "echo another", 0)
    assert process.returncode == 130 and "finished" in said and "another" not in said


NO_ROOM = 'There is no more capacity in the zone "z"'


def test_supervise_survives_refusals_and_lost_connections(cloud):
    cloud.refuse("describe pod --format=value(state)", "the network is down")
    cloud.refuse("queued-resources describe", "the network is down")
    for _ in range(2):
        cloud.refuse("tpu-vm create", NO_ROOM)
    cloud.refuse("tpu-vm scp", "the network is down")
    cloud.refuse("tpu-vm ssh", "ssh: connect to host: Connection refused", code=255)
    # after the preemption there is no room again
    script = f"""[ ! -e {cloud.folder}/again ] || {{ echo done; exit 0; }}
touch {cloud.folder}/again
printf 'tpu-vm create\\t1\\t%s\\n' '{NO_ROOM}' >> {cloud.folder}/refusals
echo PREEMPTED > {cloud.folder}/nodes/pod/state; exit 1"""
    said = supervised(cloud, script, 0, "--restarts=0")
    assert "done" in said and (cloud.folder / "refusals").read_text() == ""
    assert "the look at pod failed (exit 1), 1 of 50" in said
    # the queue cannot be asked, then there is no room twice; later once more
    counts = [f"making pod failed (exit 1), {n} of 50" for n in (1, 2, 3, 1)]
    told = [x for x in said.splitlines() if "making pod failed" in x]
    assert len(told) == 4 and all(c in x for c, x in zip(counts, told, strict=True))
    assert "the setup of pod failed (exit 1), 1 of 6" in said
    assert "the setup of pod failed (exit 255), 2 of 6" in said


def test_supervise_survives_a_preemption_during_the_setup(cloud):
    uv, lost = cloud.folder / "bin" / "uv", cloud.folder / "lost"
    state = cloud.folder / "nodes/pod/state"
    first = f"[ -e {lost} ] || {{ touch {lost}; echo PREEMPTED > {state}; exit 1; }}"
    uv.write_text(uv.read_text().replace("#!/bin/sh", f"#!/bin/sh\n{first}", 1))
    said = supervised(cloud, "echo done", 0)
    assert "done" in said and said.count("the setup of pod failed") == 1
    assert len([c for c in cloud.calls if "tpu-vm create" in c]) == 2


def test_supervise_gives_up(cloud):
    for _ in range(3):
        cloud.refuse("tpu-vm create", NO_ROOM)
    said = supervised(cloud, "true", 1, "--retries=2", "--pause=1")
    assert "another attempt in 1 s" in said and "another attempt in 2 s" in said
    assert said.count("has no room now") == 3 and "making pod failed 3 times in a row" in said
    for _ in range(7):
        cloud.refuse("tpu-vm scp", "the network is down")
    assert "the setup of pod failed 7 times in a row" in supervised(cloud, "true", 1)
    cloud.pod("delete", "pod")
    # a mistake is not tried again
    cloud.refuse("tpu-vm create", "NOT_FOUND: AcceleratorType 'x' not found")
    assert "another attempt" not in supervised(cloud, "true", 2)


def test_supervise_keeps_its_place_in_the_queue(cloud):
    cloud.installed(workers=1)
    cloud.set_state("pod", "CREATING")
    (cloud.folder / "queue").mkdir()
    (cloud.folder / "queue/pod").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    state = cloud.folder / "nodes/pod/state"
    cloud.environment["PATH"] = cloud.before_gcloud(
        f'[[ "$*" != *"queued-resources describe"* ]] || echo READY >{state}'
    )
    assert "pod is PROVISIONING" in supervised(cloud, "true", 0, "--queued")
    assert not [c for c in cloud.calls if " create " in c or " delete " in c]


def test_the_manifest_is_what_gke_and_xpk_take(cloud):
    words = ["jobset", "pod", "--type=v5e-16", "--slices=2", "--image=eu/itx:1", "--spot"]
    words += ["--queue=multislice-queue", "--bucket=gs://b", "--restarts=5"]
    words += ["--nfs=10.0.0.2:/share"]
    run = ["itx", "train", 'a "b" \\ c', "--x=@NAME@ & 语"]
    made = yaml.safe_load(cloud.pod(*words, "--", *run))
    assert made["metadata"]["name"] == "pod" and made["spec"]["failurePolicy"]["maxRestarts"] == 5
    assert made["metadata"]["labels"] == {
        "xpk.google.com/workload": "pod",
        "kueue.x-k8s.io/queue-name": "multislice-queue",
    }
    (job,) = made["spec"]["replicatedJobs"]
    of_job = job["template"]["spec"]
    assert (job["replicas"], of_job["parallelism"], of_job["completions"]) == (2, 4, 4)
    pod = of_job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["command"] == run and container["image"] == "eu/itx:1"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["env"] == [{"name": "JAX_COMPILATION_CACHE_DIR", "value": "gs://b/compiled"}]
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["nfs"] == {"server": "10.0.0.2", "path": "/share"}
    assert mount == {"name": volume["name"], "mountPath": "/mnt/itx"}
    # rule 0 ends all for exit code 2; rules 1 and 2 restart without being counted
    rules = of_job["podFailurePolicy"]["rules"]
    assert [r.get("onExitCodes", {}).get("values") for r in rules] == [[2], [143], None]
    assert all(
        r["onExitCodes"]["containerName"] == container["name"] for r in rules if "onExitCodes" in r
    )
    assert cloud.calls == []
    assert "line break" in cloud.pod(*words, "--", "a\nb", code=2)
    cloud.pod(*words, "--apply", "--", *run)
    assert yaml.safe_load((cloud.folder / "applied").read_text()) == made
    small = yaml.safe_load(cloud.pod("jobset", "p", "--type=tpu7x-8", "--image=i", "--", "true"))
    (job,) = small["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu7x",
        "cloud.google.com/gke-tpu-topology": "2x2x1",
    }
    cloud.refuse("kubectl apply", "the server could not find the requested resource")
    said = cloud.pod(*words, "--apply", "--", "true", code=1)
    assert "pod: kubectl failed (kubectl: ERROR: the server" in said


# ---- the check


@pytest.fixture
def metadata():
    """A machine's metadata server, which says the time of `clock` and a zone."""

    class Server(BaseHTTPRequestHandler):
        ahead = 0.0

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"projects/1/zones/us-east5-b")

        def date_time_string(self, timestamp=None):
            return super().date_time_string(time.time() + type(self).ahead)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("localhost", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"localhost:{server.server_port}", Server
    server.shutdown()
    thread.join()
    server.server_close()


JAX = """
class Device: platform, device_kind = "tpu", "TPU v5 lite"
def local_devices(): return [Device] * 4
def device_count(): return 8
def process_count(): return 2
"""


def test_the_check_asks_all_workers(cloud, metadata):
    address, server = metadata
    (cloud.folder / "fake").mkdir()
    (cloud.folder / "fake/jax.py").write_text(JAX)
    cloud.environment |= {"GCE_METADATA_IP": address, "PYTHONPATH": str(cloud.folder / "fake")}
    cloud.pod("create", "pod", "--type=v5e-8")
    cloud.pod("setup", "pod")
    words = ["check", "pod", "--bucket=gs://b", "--config=configs/quickstart.py"]
    said = cloud.pod(*words)
    assert "FAIL" not in said and "2 worker(s): TPU v5 lite, 4 of 8 devices each" in said
    assert (
        "in us-east5" in said and "configs/quickstart.py" in said and "2 worker(s): ready" in said
    )
    assert list((cloud.folder / "bucket").iterdir()) == []
    # other code and config on one worker, a bucket elsewhere, a clock that is off, no answer
    for name in ("itx/train.py", "configs/quickstart.py"):
        with open(cloud.home("pod", 1) / "itx" / name, "a") as file:
            file.write("# changed\n")
    server.ahead = 60.0
    (cloud.folder / "fake/jax.py").write_text(JAX.replace('"tpu"', '"cpu"'))
    said = cloud.pod(*words, code=1, STUB_LOCATION="EUROPE-WEST4")
    failed = [x.split("  ")[0] for x in said.splitlines() if "FAIL" in x]
    assert failed == ["topology", "code and libraries", "config and lock", "bucket", "clocks"]
    assert "the bucket is in europe-west4, the TPU in us-east5" in said
    assert "s off its machine's clock" in said and "on pod.1" in said
    shutil.rmtree(cloud.home("pod", 1) / "itx")
    assert "pod.1: " in cloud.pod("check", "pod", code=1).splitlines()[0]


DEVICES = {"platform": "tpu", "kind": "TPU v5 lite", "local": 4, "all": 8, "processes": 2}


def facts(**changes) -> dict:
    base = {"devices": DEVICES, "code": {"itx": "1"}, "files": {}, "free_gb": 90.0, "skew": 0.1}
    return {"host": "h", "errors": {}, "holders": [], "seconds": 9.0, **base, **changes}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, []),
        ({"free_gb": 3.0}, ["disk"]),
        ({"skew": -4.0}, ["clocks"]),
        ({"holders": ["7 python train.py"]}, ["other processes"]),
        ({"code": {"itx": "2"}}, ["code and libraries"]),
        ({"seconds": 61.0}, ["time"]),
        ({"errors": {"devices": "no TPU"}, "devices": None}, ["topology"]),
        ({"devices": DEVICES | {"platform": "cpu"}}, ["topology"]),
        ({"devices": DEVICES | {"kind": "TPU v4"}}, ["topology"]),
        ({"devices": DEVICES | {"local": 3}}, ["topology"]),
        ({"devices": DEVICES | {"all": 4}}, ["topology"]),
        ({"devices": DEVICES | {"processes": 1}}, ["topology"]),
    ],
)
def test_a_fault_of_one_worker_is_seen(tmp_path, changes, failed):
    odd = {k: v for k, v in facts(**changes).items() if v is not None}
    lines = failures(tmp_path, {"a.0": facts(), "a.1": odd})
    assert [x.split("  ")[0] for x in lines] == failed
    assert all("a.1" in x or "s on the slowest" in x for x in lines)


def failures(folder: Path, answers: dict[str, dict]) -> list[str]:
    """The lines of the checks that fail; the exit code must say whether there are any."""
    for name, held in answers.items():
        (folder / f"{name}.facts").write_text(json.dumps(held))
    files = sorted(map(str, folder.glob("*.facts")))
    command = [sys.executable, "tpu/check.py", "compare", *files]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    lines = [x for x in done.stdout.splitlines() if "FAIL" in x]
    assert done.returncode == bool(lines), done.stdout + done.stderr
    return lines


def test_a_slice_that_is_not_whole_is_seen(tmp_path):
    """All workers agree here: what is wrong is what they add up to."""
    workers = [f"{node}.{i}" for node in ("pod-0", "pod-1") for i in range(2)]
    assert failures(tmp_path, {w: facts() for w in workers}) == []
    wide = facts(devices=DEVICES | {"all": 16})
    (line,) = failures(tmp_path, {w: wide for w in workers})
    assert "pod-0: its workers have 8 devices, JAX sees 16; pod-1: its" in line
    many = facts(devices=DEVICES | {"processes": 4})
    (line,) = failures(tmp_path, {w: many for w in workers})
    assert "pod-1: 2 worker(s) answer, JAX sees 4 processes" in line


def test_a_process_that_holds_the_tpu_is_named(tmp_path):
    file = tmp_path / "accel0"
    file.touch()
    sys.path.insert(0, str(REPO / "tpu"))
    try:
        import check
    finally:
        sys.path.pop(0)
    assert check.holders((str(tmp_path / "accel*"),)) == []
    with open(file):
        (found,) = check.holders((str(tmp_path / "accel*"),))
    assert found.startswith(f"{os.getpid()} ")
    assert "ALLOW" not in check._in_words(
        "x already in use y"
    ) and "one at a time" in check._in_words(
        "RuntimeError: The TPU is already in use by process with pid 7"
    )


def test_the_slurm_script_queues_itself_again_when_it_is_preempted(tmp_path):
    calls = tmp_path / "calls"
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >> {calls}\n'
            + ('shift; exec "$@"\n' if name == "srun" else "")
        )
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "7",
    }

    def submitted(*words: str, **more: str) -> subprocess.Popen:
        command = ["bash", str(REPO / "tpu/slurm.sh"), *words]
        return subprocess.Popen(command, env=environment | more, stderr=subprocess.PIPE, text=True)

    def called() -> list[str]:
        found = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return found

    for code in (0, 1, 2):
        process = submitted("sh", "-c", f"exit {code}")
        process.communicate(timeout=20)
        assert process.returncode == code and len(called()) == 1
    begun = tmp_path / "begun"
    script = f"trap 'exit 143' TERM; touch {begun}; while true; do sleep 0.05; done"
    process = submitted("bash", "-c", script)
    wait_for(begun.exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143 and called()[1:] == ["scontrol requeue 7"]
    process = submitted("sh", "-c", "exit 143", SLURM_RESTART_COUNT="50")
    _, err = process.communicate(timeout=20)
    assert "queued again 50 times already" in err and len(called()) == 1
    process = submitted()
    process.communicate(timeout=20)
    assert process.returncode == 2
