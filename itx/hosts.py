# SPDX-License-Identifier: Apache-2.0
"""The processes that train one model together: how they find each other, who writes, what they
agree on, and how they end.

Every process runs the same program over its own devices. Process 0 is the writer: it alone writes
the run folder, prints, and decides what may differ between file systems. What is small travels
through the key-value store of JAX's coordinator, which lives in process 0; arrays travel between
the devices. With one process every function here returns at once what it was given.

JAX is imported within functions: the build imports this file, and does without JAX.
"""

import contextlib
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from itx import processes
from itx.errors import RunFailed, UserError, of_the_machine
from itx.text import say

# A process whose heartbeat is missing for so long is gone: JAX then ends the others. (JAX's own
# default is 100 s; a thread outside Python beats, which neither a compiler nor a save holds up.)
HEARTBEAT_SECONDS = 30
SLICE_MILLISECONDS = 500  # of a wait: between two slices Python's handlers of signals run
LINGER_SECONDS = 10.0  # process 0 stays so long at most for the others to hear why it ends
MAX_PAUSE_SECONDS = 0.5  # between two looks at who has come
STOP_SECONDS = 120.0  # to agree on the step at which all stop, and to come together behind it
MAX_LINE = 400  # characters of what is said of another process's error


class Group:
    """This process among several; `client` is JAX's connection to the key-value store."""

    def __init__(self, client: Any, index: int, count: int):
        self.client, self.index, self.count = client, index, count
        self.calls: dict[str, int] = {}  # how often each name was used: the same on all processes
        self.is_over = False  # all have come to the end
        self.ending = threading.Lock()  # whoever holds it ends this process
        self.threads: list[threading.Thread] = []
        # the agreement on a stop: how often `stop` was called, and the call at which it says so
        self.checks, self.stop_at, self.signal = 0, None, 0
        self.has_asked, self.has_stopped = False, False
        self.counting = threading.Lock()

    def key(self, name: str) -> str:
        """A key of the store for the next use of a name."""
        self.calls[name] = self.calls.get(name, 0) + 1
        return f"itx/{name}/{self.calls[name]}"

    def put(self, key: str, value: str) -> bool:
        """Whether the value was put; False where the key has one already."""
        try:
            self.client.key_value_set(key, value)
        except Exception as e:  # JAX's error class is told by its text alone
            if "ALREADY_EXISTS" not in str(e):
                raise
            return False
        return True

    def get(self, key: str, seconds: float | None = None) -> str | None:
        """The value of a key, waited for; None where it has none in that time (None: for ever)."""
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            try:
                return self.client.blocking_key_value_get(key, SLICE_MILLISECONDS)
            except Exception as e:
                if "DEADLINE_EXCEEDED" not in str(e):
                    raise
        return None

    def of_all(self, key: str) -> dict[int, str]:
        """{process: what it has put under the key}."""
        held = self.client.key_value_dir_get(f"{key}/of/")
        return {int(name.rpartition("/")[2]): value for name, value in held}

    def collected(self, name: str, value: Any, seconds: float | None) -> list:
        """What each process gives, in their order, on all of them; RunFailed that names those who
        are missing after `seconds`."""
        key = self.key(name)
        self.put(f"{key}/of/{self.index}", json.dumps(value))
        until = None if seconds is None else time.monotonic() + seconds
        if self.index == 0:
            pause = 0.001
            while len(held := self.of_all(key)) < self.count:
                if until is not None and time.monotonic() > until:
                    raise self._missing(key, name, seconds)
                time.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            whole = "[" + ",".join(held[i] for i in range(self.count)) + "]"
            self.put(f"{key}/all", whole)
            return json.loads(whole)
        whole = self.get(f"{key}/all", seconds)
        if whole is None:
            raise self._missing(key, name, seconds)
        return json.loads(whole)

    def _missing(self, key: str, name: str, seconds: float | None) -> RunFailed:
        held = self.of_all(key)
        missing = ", ".join(str(i) for i in range(self.count) if i not in held) or "none"
        return RunFailed(
            f"{seconds:.0f} s of waiting for all {self.count} processes at {name!r}: missing is "
            f"process {missing}"
        )


_group: Group | None = None


# ---- who is there


def count() -> int:
    return _group.count if _group else 1


def index() -> int:
    """Which of the processes this is."""
    return _group.index if _group else 0


def is_writer() -> bool:
    """Whether this process writes the run folder and prints: process 0 of several."""
    return _group is None or _group.index == 0


# ---- agreement


def barrier(name: str, seconds: float | None = None) -> None:
    """Wait until all processes are here; RunFailed that names those who are missing after
    `seconds` (None: wait as long as they live)."""
    if _group:
        _group.collected(name, None, seconds)


def agreed(flag: bool, name: str = "a flag") -> bool:
    """Whether the flag is set on any process, the same on all of them."""
    return any(_group.collected(name, bool(flag), None)) if _group else bool(flag)


def broadcast(make: Callable[[], Any]) -> Any:
    """The value that `make` returns on the writer, on all processes: numbers, texts, lists and
    objects of JSON. It is called on the writer alone."""
    if _group is None:
        return make()
    key = _group.key("broadcast")
    if _group.index == 0:
        value = make()
        _group.put(key, json.dumps(value))
        return value
    return json.loads(_group.get(key) or "null")


def check_same(make: Callable[[], dict[str, Any]]) -> None:
    """UserError where a value of what `make` returns differs between the processes, with its
    name."""
    if _group is None:
        return
    everyone = _group.collected("the same settings", make(), None)
    for name, value in everyone[0].items():
        for i, other in enumerate(everyone):
            if other.get(name) != value:
                raise UserError(
                    f"{name} is {value!r} on process 0 and {other.get(name)!r} on process {i}: "
                    "give all processes the same command, code and data"
                )


def gather(array: Any) -> np.ndarray:
    """All of a global array on every process; all must call it."""
    if getattr(array, "is_fully_addressable", True) or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


# ---- a signal to one of them


def stop(signal: int) -> int:
    """The signal at which all processes stop, 0 as long as they go on; to be called equally often
    by all, as once a step.

    Args:
        signal: what came to this process, or 0.

    One process that got a signal asks for a stop. A thread of each process then holds its count of
    calls still and tells it; all stop at the call behind the largest count. A process that is
    ahead waits for the others' devices, never for this, so nobody waits for ever. As long as nobody
    asks a call costs a lock and an addition.
    """
    if _group is None:
        return signal
    if signal and not _group.has_asked:
        _group.has_asked = True
        _group.put("itx/stop", str(signal))
    with _group.counting:
        _group.checks += 1
        _group.has_stopped = _group.stop_at is not None and _group.checks >= _group.stop_at
        return _group.signal if _group.has_stopped else 0


def _agree_on_stop(group: Group) -> None:
    """The work of a thread: see `stop`."""
    try:
        signal = int(group.get("itx/stop") or 0)
        if not signal or group.is_over:
            return
        with group.counting:
            checks = group.collected("calls before a stop", group.checks, STOP_SECONDS)
            group.signal, group.stop_at = signal, max(checks) + 1
    except RunFailed as e:  # a process does not answer: the run may not go on as if nothing was
        _end(group, e)
    except Exception:  # the connection is lost, which the other thread reports
        return


# ---- joining


@contextlib.contextmanager
def joined(coordinator: str = "", total: int = 0, index: int = -1) -> Iterator[None]:
    """Inside, this process is one of those that the arguments or the environment name; alone where
    they name none.

    An error or a signal that ends one process ends all: each says in a line which process it was
    and why, and exits with its code.

    Args:
        coordinator: HOST:PORT of process 0, which listens there.
        total: how many there are; 1: whatever the environment says, train alone.
        index: of this process.
    """
    global _group
    arguments = _arguments(coordinator, total, index)
    if arguments is None:
        yield
        return
    _group = group = _connected(arguments)
    for work in (_end_with_others, _agree_on_stop):
        group.threads.append(threading.Thread(target=work, args=(group,), daemon=True))
        group.threads[-1].start()
    out = sys.stdout if group.index == 0 else open(os.devnull, "w")  # noqa: SIM115
    try:
        with contextlib.redirect_stdout(out):
            yield
            barrier("the end")
    except BaseException as e:
        if not (isinstance(e, SystemExit) and group.has_stopped):
            _end(group, e)
        try:
            barrier("the stop", STOP_SECONDS)
        except RunFailed as late:  # one that is late has saved as well
            say(str(late))
        _over(group)
        raise
    _over(group)


def _arguments(coordinator: str, total: int, index: int) -> dict | None:
    """What jax.distributed.initialize takes; None: this process trains alone."""
    if not coordinator and index < 0 and total in (0, 1):
        several = total == 0 and _environment_names_several()
        return {} if several else None
    if not coordinator or total < 1 or index < 0:
        raise UserError(
            "--coordinator HOST:PORT, --processes N and --process I go together (or none of them, "
            "where the environment names the processes)"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={coordinator}: give HOST:PORT of process 0")
    if index >= total:
        raise UserError(f"--process={index}: processes count from 0 to {total - 1}")
    if total == 1:
        return None
    return {
        "coordinator_address": coordinator,
        "num_processes": total,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _environment_names_several() -> bool:
    """Whether an environment that JAX knows (Cloud TPU, GKE, SLURM, Open MPI, Kubernetes) says
    that there are several processes. JAX has no public name for this question."""
    from jax._src.clusters import ClusterEnv

    known = [kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method]
    try:
        present = next((kind for kind in known if kind.is_env_present()), None)
        return present is not None and present.get_process_count() > 1
    except Exception as e:  # whatever a cluster's client raises
        raise UserError(
            f"the environment does not tell how many processes there are ({type(e).__name__}: "
            f"{e}); --processes 1 trains alone"
        ) from e


def _connected(arguments: dict) -> Group:
    """Wait for the other processes, up to five minutes (JAX's default)."""
    import jax
    from jax._src import distributed  # the store has no public name

    # its handler would take SIGTERM away from ours, and answers only between two steps
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **arguments)
    state = distributed.global_state
    return Group(state.client, state.process_id, state.num_processes)


def _over(group: Group) -> None:
    """All have come to the end: the threads that wait for bad news end too."""
    group.is_over = True
    with contextlib.suppress(Exception):  # the store may be gone with process 0
        group.put("itx/ended", "null")
        group.put("itx/stop", "0")
    for thread in group.threads:
        thread.join(2 * SLICE_MILLISECONDS / 1000)


# ---- the end of one is the end of all


def _end(group: Group, error: BaseException) -> None:
    """End this process, and all others with it, for an error of its own. Does not return."""
    line, code = _described(error)
    # a collective of a process that is gone may hold the store up as well
    processes.exits_within(2 * LINGER_SECONDS, code)
    own = {"process": group.index, "host": platform.node(), "line": line, "code": code}
    first = own
    with contextlib.suppress(Exception):
        if not group.put("itx/ended", json.dumps(own)):
            first = json.loads(group.get("itx/ended", LINGER_SECONDS) or "null") or own
    if not group.ending.acquire(blocking=False):
        threading.Event().wait()  # the other thread ends this process
    if first["process"] != group.index:
        _say_who_ended(group, first)
        code = first["code"]
    is_bug = not isinstance(error, (UserError, RunFailed, SystemExit, KeyboardInterrupt))
    if is_bug and of_the_machine(error) is None and first is own:
        traceback.print_exception(error)
    if first["line"] != line or first is own:
        say(f"process {group.index} of {group.count}: {line}")
    _leave(group, code)


def _described(error: BaseException) -> tuple[str, int]:
    """(one line, exit code) of an error."""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) and error.code else 1
        if code - 128 in processes.STOPS:
            return "stopped by a signal; the same command resumes", code
        return f"exit {code}", code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command resumes", 130
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, RunFailed):
        return str(error), 1
    if refused := of_the_machine(error):
        return refused
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f"{os.sep}itx{os.sep}" in f.filename] or frames
    where = f" ({ours[-1].filename}, line {ours[-1].lineno}, in {ours[-1].name})" if ours else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text[:MAX_LINE] + where, 1


def _end_with_others(group: Group) -> None:
    """The work of a thread: end this process when another one has ended the run."""
    try:
        notice = json.loads(group.get("itx/ended") or "null")
    except Exception as e:
        if group.is_over or not group.ending.acquire(blocking=False):
            return
        why = " ".join(str(e).split())[:MAX_LINE]
        say(f"process 0, through which the processes hear of each other, is gone ({why})")
        os._exit(1)
    if notice is None or notice["process"] == group.index or not group.ending.acquire(False):
        return
    _say_who_ended(group, notice)
    _leave(group, notice["code"])


def _say_who_ended(group: Group, notice: dict) -> None:
    say(
        f"process {notice['process']} of {group.count} on {notice['host']} ended this run: "
        f"{notice['line']}"
    )


def _leave(group: Group, code: int) -> None:
    """End this process at once; process 0, which holds the store, when the others have heard."""
    processes.exits_within(LINGER_SECONDS, code)
    with contextlib.suppress(Exception):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        group.put(f"itx/heard/of/{group.index}", "")
        while group.index == 0 and len(group.of_all("itx/heard")) < group.count:
            time.sleep(0.05)
    os._exit(code)
