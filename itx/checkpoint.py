# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one class around Orbax's CheckpointManager.

A checkpoint has three items: `params` {path: array} (trainable and frozen; in an adapter's run only
the adapter, and meta names the base), `opt_state` {path: array} and `meta` (JSON: step, skipped
steps, open log interval, mesh, devices, versions, and all that the run's config.json and
data.lock.json hold). Names are plain strings, so a checkpoint can be read without this program. A
save that was cut short is never seen: Orbax renames a folder into place when it is whole, and the
trainer removes what is left of others. `meta` also holds a digest of each array's bytes, which is
the same for every mesh and number of processes, and one of itself; every reader compares them.
"""

import errno
import hashlib
import logging
import platform
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from itx import hosts, storage, versions
from itx import mesh as meshes
from itx.errors import UserError, error_number, of_the_machine
from itx.mesh import Specs

BLOCK_BYTES = 1 << 26  # of an array, under one hash
# What Orbax and its stores raise if files are absent or hold something else than was saved
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError)
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, None)


class Damaged(UserError):
    """A checkpoint's files do not give what was saved."""


class Checkpoints:
    """`directory`/<step>/{params,opt_state,meta}; the newest `keep` stay (None: all), and the steps
    in `pinned`.

    A reader (`read_only`) leaves the folder as it is: what looks like the rest of a killed save may
    be a trainer's save in progress. Where each of several processes has a folder of its own
    (`is_own`), the writer alone saves, all arrays whole, and the others read.
    """

    def __init__(
        self,
        directory: Path,
        keep: int | None = 3,
        read_only: bool = False,
        is_own: bool = False,
    ):
        import orbax.checkpoint as ocp

        _silence_orbax()
        self.ocp = ocp
        self.directory = Path(directory).resolve()
        if read_only and not self.directory.is_dir():
            raise UserError(f"{self.directory} is no folder: there is no checkpoint to read")
        self.keep, self.pinned = keep, set()
        self.is_shared = not read_only  # all processes call it alike; a reader is each one's own
        self.is_own = is_own and hosts.count() > 1
        # of the steps whose meta was read; each array's read asks for them
        self._digests: dict[int, dict | None] = {}
        processes, create = ocp.options.MultiprocessingOptions(), not read_only
        read_only = read_only or self.is_own and not hosts.is_writer()
        if self.is_own:
            self.directory.mkdir(parents=True, exist_ok=True)
            create = False
        if (read_only or self.is_own) and hosts.count() > 1:  # for itself: no other waits for it
            own = jax.process_index()
            processes = ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"reader{own}"
            )
        self.manager = ocp.CheckpointManager(
            self.directory,
            item_names=("params", "opt_state", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                read_only=read_only,
                create=create,
                cleanup_tmp_directories=not read_only,
                multiprocessing_options=processes,
                # a CPU array is saved from the buffer that the next step may reuse (donation)
                enable_async_checkpointing=jax.default_backend() != "cpu",
            ),
        )

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps())

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks this after a save: the newest `keep` stay, and those that the trainer may
        return to."""
        oldest = 0 if self.keep is None else len(checkpoints) - self.keep
        return [i >= oldest or c.step in self.pinned for i, c in enumerate(checkpoints)]

    def remove_after(self, step: int) -> list[int]:
        """Remove the checkpoints of later steps, the newest first; returns which."""
        if self.is_own and not hosts.is_writer():
            return []  # the writer's folder says what there is
        self.wait()
        later = [s for s in reversed(self.steps()) if s > step]
        for s in later:
            self.manager.delete(s)
            self._digests.pop(s, None)
        return later

    def save(self, step: int, params: dict, opt_state: Any, meta: dict) -> None:
        """`opt_state` None: the model was not trained here. Without arrays, as plain SGD's, it is
        not written."""
        args = self.ocp.args
        arrays = {"params": params}
        if jax.tree.leaves(opt_state):
            arrays["opt_state"] = named_leaves(opt_state)
        if self.is_own:
            arrays = {item: _whole(named) for item, named in arrays.items()}
            if not hosts.is_writer():
                return
        digests = {
            item: {name: digest(x) for name, x in named.items()} for item, named in arrays.items()
        }
        items = {item: args.StandardSave(named) for item, named in arrays.items()}
        items["meta"] = args.JsonSave(storage.sealed(meta | {"digests": digests}))
        self._digests.pop(step, None)
        with storage.named(self.directory):
            self.manager.save(step, args=args.Composite(**items))

    def meta(self, step: int) -> dict:
        """The meta that `save` was given; Damaged if the file is not what was written."""
        self._check_exists(step)
        meta = self._restored(step, "meta", self.ocp.args.JsonRestore())
        if not isinstance(meta, dict):
            raise self._damaged(step, "meta holds no object")
        if "digests" in meta and storage.SEAL not in meta or not storage.is_intact(meta):
            raise self._damaged(step, "meta is not what was saved")
        if meta.get("step", step) != step:
            raise self._damaged(step, f"it holds what was saved at step {meta['step']}")
        self._digests[step] = meta.get("digests")
        return meta

    def digests(self, step: int) -> dict | None:
        """{item: {name: `digest`}} of a checkpoint, read once; None: it was saved before digests
        were kept."""
        self._check_exists(step)
        if step not in self._digests:
            self.meta(step)
        return self._digests[step]

    def shapes(self, step: int, item: str = "params") -> Specs:
        """{name: shape and dtype} of what a checkpoint holds."""
        digests = self.digests(step)
        if digests is None:
            folder, handler = self.directory / str(step) / item, self.ocp.StandardCheckpointHandler
            return self._read(step, item, lambda: handler().metadata(folder).tree)
        return {
            name: jax.ShapeDtypeStruct(tuple(d["shape"]), np.dtype(d["dtype"]))
            for name, d in digests.get(item, {}).items()
        }

    def params(self, step: int, specs: Specs) -> dict[str, jax.Array]:
        """The parameters `specs`, whose values have shardings."""
        return self._restore(step, "params", specs)

    def opt_state(self, step: int, specs: Any) -> Any:
        """Optimizer state in the structure, types and shardings of `specs`."""
        named = named_leaves(specs)
        leaves = self._restore(step, "opt_state", named) if named else {}
        return jax.tree.unflatten(jax.tree.structure(specs), [leaves[name] for name in named])

    def verify(self, step: int) -> bool:
        """Read all of a checkpoint; Damaged if it is not what was saved, False if it holds no
        digests."""
        digests = self.digests(step)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        for item in digests or ("params",):
            saved = self.shapes(step, item)
            self._restore(step, item, meshes.specs(saved, dict.fromkeys(saved, device)))
        return digests is not None

    def set_aside(self, step: int) -> Path:
        """Rename a step's folder, so that it is no longer one of the checkpoints; nothing is
        deleted."""
        folder, n = self.directory / str(step), 1
        while (aside := self.directory / f"{step}.damaged{'' if n == 1 else f'-{n}'}").exists():
            n += 1
        if hosts.is_writer() or self.is_own:
            folder.rename(aside)
        hosts.barrier("a checkpoint set aside")
        self.manager.reload()
        self._digests.pop(step, None)
        return aside

    def _check_exists(self, step: int) -> None:
        if step not in self.manager.all_steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise UserError(
                f"{self.directory} has no checkpoint of step {step}; there are: {known}"
            )

    def _damaged(self, step: int, why: str) -> Damaged:
        return Damaged(f"{self.directory / str(step)} is damaged: {why}")

    def _restore(self, step: int, item: str, specs: Specs) -> dict[str, jax.Array]:
        """Arrays of a checkpoint, compared with their digests as they were saved and only then
        cast."""
        self.check(step, item, specs)
        saved = self.shapes(step, item)
        as_saved = {
            name: jax.ShapeDtypeStruct(spec.shape, saved[name].dtype, sharding=spec.sharding)
            for name, spec in specs.items()
        }
        arrays = self._restored(step, item, self.ocp.args.StandardRestore(as_saved))
        for name, expected in (self.digests(step) or {}).get(item, {}).items():
            if digest(arrays[name]) != expected:
                raise self._damaged(step, f"{item}/{name} is not what was saved")
        return {
            name: x if x.dtype == specs[name].dtype else x.astype(specs[name].dtype)
            for name, x in arrays.items()
        }

    def _restored(self, step: int, item: str, args: Any) -> Any:
        """What Orbax restores of an item."""
        args = self.ocp.args.Composite(**{item: args})
        return self._read(step, item, lambda: self.manager.restore(step, args=args)[item])

    def _read(self, step: int, item: str, read: Callable[[], Any]) -> Any:
        """The result of `read`; Damaged if the files do not hold it. What the system refuses
        (rights, memory, a disk that does not answer) is no fault of the files, and any other error
        is one of this program: both go on as they are."""
        value = fault = None
        try:
            value = read()
        except Exception as e:
            # Orbax raises a bare Exception where a part is absent.
            of_files = isinstance(e, UNREADABLE) or type(e) is Exception
            if not of_files or of_the_machine(e) and error_number(e) not in ABSENT:
                raise
            why, fault = " ".join(str(e).split())[:200], e
            why = f"{item} cannot be read ({type(e).__name__}: {why})"
        damaged = fault is not None
        if self.is_shared:
            damaged = hosts.agreed(damaged, "a damaged checkpoint")
        if damaged:
            why = why if fault else f"another process cannot read {item}"
            raise self._damaged(step, why) from fault
        return value

    def check(self, step: int, item: str, specs: Specs) -> None:
        """UserError where names or shapes differ, before Orbax reads anything."""
        check_shapes(f"{self.directory / str(step)}: {item}", self.shapes(step, item), specs)

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def is_saving(self) -> bool:
        """Whether a save goes on behind training, and the removal of older steps with it."""
        return self.manager.is_saving_in_progress()

    def reload(self) -> None:
        """Look again which steps the folder has: others may have put some there."""
        self.manager.reload()
        self._digests.clear()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.manager.close()


def _silence_orbax() -> None:
    """Orbax and its store raise an error, and also print it with tracebacks, from threads of their
    own. The printing is left out, for the caller says the error in a line; so is the note that a
    reader only reads."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)  # once, however often it is added
    # the thread decides which of the two is called
    _leave_out_late_callbacks("excepthook", lambda kind, error, trace: error)
    _leave_out_late_callbacks("unraisablehook", lambda unraisable: unraisable.exc_value)


_hooks: list[Callable] = []  # those that are in place


def _is_news(record: logging.LogRecord) -> bool:
    return not record.exc_info and re.search("read[ _]only", str(record.msg)) is None


def _leave_out_late_callbacks(name: str, error_of: Callable) -> None:
    """Let a hook of `sys` pass over what the store raises where it calls back and the event loop of
    a read or write that failed is gone."""
    before = getattr(sys, name)

    def hook(*args: Any) -> None:
        error = error_of(*args)
        if type(error) is not RuntimeError or str(error) != "Event loop is closed":
            before(*args)

    if before not in _hooks:
        _hooks.append(hook)
        setattr(sys, name, hook)


def skips(folder: Path) -> dict:
    """{"skipped": [step, …], "returns": [{"to", "at", "left_out"}]} of a run, as its newest
    checkpoint has them."""
    meta: dict = {}
    if folder.is_dir():
        with Checkpoints(folder, read_only=True) as checkpoints:
            if step := checkpoints.latest():
                meta = checkpoints.meta(step)
    return {name: meta.get(name, []) for name in ("skipped", "returns")}


def digest(array: Any) -> dict:
    """{"shape", "dtype", "blocks"} of an array: a hash of each BLOCK_BYTES of it in row-major
    order, wherever its parts lie."""
    host = np.ascontiguousarray(hosts.gather(array))
    flat = host.reshape(-1).view(np.uint8)
    blocks = [flat[at : at + BLOCK_BYTES] for at in range(0, len(flat), BLOCK_BYTES)]
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda block: hashlib.sha256(block).hexdigest(), blocks))
    return {"shape": list(np.shape(array)), "dtype": str(host.dtype), "blocks": hashes}


def _whole(named: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays on the host of the writer, whole; {} on the other processes, which give their
    parts."""
    whole = {}
    for name, array in named.items():
        host = hosts.gather(array)
        if hosts.is_writer():
            whole[name] = np.asarray(host)
    return whole


def check_shapes(what: str, saved: dict[str, Any], specs: dict[str, Any]) -> None:
    """UserError where names or shapes differ."""
    for name in sorted(saved.keys() | specs.keys()):
        theirs, ours = (tuple(x[name].shape) if name in x else "absent" for x in (saved, specs))
        if theirs != ours:
            raise UserError(
                f"{what} are not those of this config: {name} is {theirs} there, {ours} here"
            )


def named_leaves(tree: Any) -> dict[str, Any]:
    """{"1/mu/decoder/…": leaf}, in the tree's order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in flat}


def environment(mesh: Mesh) -> dict:
    """What bitwise equality after a resume depends on, besides the config."""
    device = mesh.devices.flat[0]
    return {
        "mesh": dict(mesh.shape),
        "devices": mesh.devices.size,
        "device_kind": device.device_kind,
        "platform": device.platform,
        "processes": jax.process_count(),
        "machine": platform.machine(),
        "versions": versions.versions(),
        "code": versions.code_version(),
    }


def differences(old: dict, new: dict) -> str | None:
    """One line that names all that changed since the checkpoint, or None if nothing did."""
    old, new = (
        {k: v for k, v in e.items() if k != "versions"} | e.get("versions", {}) for e in (old, new)
    )
    names = [*new, *(old.keys() - new.keys())]
    pairs = {k: (old.get(k, "unknown"), new.get(k, "unknown")) for k in names}
    changed = [f"{k}: {a} -> {b}" for k, (a, b) in pairs.items() if old.get(k) != new.get(k)]
    if not changed:
        return None
    return (
        "resumed in another environment: the data are the same, and losses agree to float "
        "tolerance rather than bit for bit (" + "; ".join(changed) + ")"
    )
