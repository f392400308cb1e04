# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one class around Orbax's CheckpointManager.

A checkpoint has three items: `params` {path: array} (trainable and frozen; of an adapter's run the
adapter alone, and meta says over which base), `opt_state` {path: array} and `meta` (JSON: step,
skipped steps, open log interval, mesh, devices, versions, and all that config.json and
data.lock.json of the run hold). Names are plain strings, so a checkpoint can be read without this
program. A save that was cut short is never seen: Orbax renames a folder into place when it is
whole, and the trainer removes what is left of others. `meta` also holds a digest of each array's
bytes, which is the same for every mesh and number of processes, and one of itself; whoever reads a
checkpoint compares them.
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

from itx import storage, versions
from itx.errors import UserError, error_number, of_the_machine

BLOCK_BYTES = 1 << 26  # of an array under one digest
# What Orbax and its stores raise where files hold something else than was saved, or are not there
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError)
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, None)


class Damaged(UserError):
    """A checkpoint's files do not give what was saved."""


class Checkpoints:
    """`directory`/<step>/{params,opt_state,meta}; the newest `keep` stay, None: all, and the steps
    in `pinned`.

    A reader (`read_only`) leaves the folder as it is: what looks like the rest of a killed save may
    be a trainer's save in progress.
    """

    def __init__(self, directory: Path, keep: int | None = 3, read_only: bool = False):
        import orbax.checkpoint as ocp

        _tell_once()
        self.ocp = ocp
        self.directory = Path(directory).resolve()
        if read_only and not self.directory.is_dir():
            raise UserError(f"{self.directory} is no folder: there is no checkpoint to read")
        self.keep, self.pinned = keep, set()
        # of the steps whose meta was read; each array's read asks for them
        self._digests: dict[int, dict | None] = {}
        self.manager = ocp.CheckpointManager(
            self.directory,
            item_names=("params", "opt_state", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                read_only=read_only,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
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
        self.wait()
        later = [s for s in reversed(self.steps()) if s > step]
        for s in later:
            self.manager.delete(s)
            self._digests.pop(s, None)
        return later

    def save(self, step: int, params: dict, opt_state: Any, meta: dict) -> None:
        """opt_state None: of a model that was not trained here. One without arrays, as plain SGD
        has, is not written."""
        args = self.ocp.args
        arrays = {"params": params} | (
            {"opt_state": named_leaves(opt_state)} if jax.tree.leaves(opt_state) else {}
        )
        meta = meta | {
            "digests": {
                item: {name: digest(x) for name, x in of.items()} for item, of in arrays.items()
            }
        }
        items = {item: args.StandardSave(of) for item, of in arrays.items()}
        items["meta"] = args.JsonSave(storage.sealed(meta))
        self._digests.pop(step, None)
        with storage.named(self.directory):
            self.manager.save(step, args=args.Composite(**items))

    def meta(self, step: int) -> dict:
        """What `save` was given; Damaged where the file is not what was written."""
        self._known(step)
        args = self.ocp.args
        meta = self._read(
            step,
            "meta",
            lambda: self.manager.restore(step, args=args.Composite(meta=args.JsonRestore())).meta,
        )
        if not isinstance(meta, dict):
            raise Damaged(f"{self.directory / str(step)} is damaged: meta holds no object")
        if "digests" in meta and storage.SEAL not in meta or not storage.is_intact(meta):
            raise Damaged(f"{self.directory / str(step)} is damaged: meta is not what was saved")
        if meta.get("step", step) != step:
            raise Damaged(
                f"{self.directory / str(step)} is damaged: it holds what was saved at step {meta['step']}"
            )
        self._digests[step] = meta.get("digests")
        return meta

    def digests(self, step: int) -> dict | None:
        """{item: {name: `digest`}} of a checkpoint, None of one that was saved before they were
        kept; read once."""
        self._known(step)
        if step not in self._digests:
            self.meta(step)
        return self._digests[step]

    def shapes(self, step: int, item: str = "params") -> dict:
        """{path: what has its shape and dtype} of what a checkpoint holds."""
        digests = self.digests(step)
        if digests is not None:
            saved = digests.get(item, {})
            return {
                n: jax.ShapeDtypeStruct(tuple(d["shape"]), np.dtype(d["dtype"]))
                for n, d in saved.items()
            }
        folder = self.directory / str(step) / item  # saved before digests were kept
        return self._read(
            step, item, lambda: self.ocp.StandardCheckpointHandler().metadata(folder).tree
        )

    def params(self, step: int, targets: dict) -> dict:
        """Parameters as `targets` says: {path: ShapeDtypeStruct with a sharding}."""
        return self._restore(step, "params", targets)

    def opt_state(self, step: int, targets: Any) -> Any:
        """Optimizer state in the structure, types and shardings of `targets`."""
        order = list(named_leaves(targets))
        leaves = self._restore(step, "opt_state", named_leaves(targets)) if order else {}
        return jax.tree.unflatten(jax.tree.structure(targets), [leaves[n] for n in order])

    def verify(self, step: int) -> bool:
        """Read all of a checkpoint; Damaged where it is not what was saved, False where it holds no
        digests."""
        digests = self.digests(step)
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        for item in digests or ("params",):
            saved = self.shapes(step, item)
            self._restore(
                step,
                item,
                {
                    n: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here)
                    for n, s in saved.items()
                },
            )
        return digests is not None

    def set_aside(self, step: int) -> Path:
        """Rename a step's folder, so that it is no longer one of the checkpoints; nothing is
        deleted."""
        folder, n = self.directory / str(step), 1
        while (aside := self.directory / f"{step}.damaged{'' if n == 1 else f'-{n}'}").exists():
            n += 1
        if jax.process_index() == 0:
            folder.rename(aside)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"step {step} is set aside")
        self.manager.reload()
        self._digests.pop(step, None)
        return aside

    def _known(self, step: int) -> None:
        if step not in self.manager.all_steps():
            raise UserError(
                f"{self.directory} has no checkpoint of step {step}; there are: "
                + (", ".join(map(str, self.steps())) or "none")
            )

    def _restore(self, step: int, item: str, targets: dict) -> dict:
        """Arrays of a checkpoint, compared with their digests as they were saved and only then
        cast."""
        self.check(step, item, targets)
        saved = self.shapes(step, item)
        as_saved = {
            n: jax.ShapeDtypeStruct(t.shape, saved[n].dtype, sharding=t.sharding)
            for n, t in targets.items()
        }
        args = self.ocp.args.Composite(**{item: self.ocp.args.StandardRestore(as_saved)})
        arrays = self._read(step, item, lambda: self.manager.restore(step, args=args)[item])
        for name, then in (self.digests(step) or {}).get(item, {}).items():
            if digest(arrays[name]) != then:
                raise Damaged(
                    f"{self.directory / str(step)} is damaged: {item}/{name} is not what was saved"
                )
        return {
            n: x if x.dtype == targets[n].dtype else x.astype(targets[n].dtype)
            for n, x in arrays.items()
        }

    def _read(self, step: int, item: str, read: Callable[[], Any]) -> Any:
        """What `read` gives; Damaged where the files do not hold it. What the system refuses
        (rights, memory, a disk that does not answer) is no fault of the files, and any other error
        one of this program: both go on as they are."""
        try:
            return read()
        except Exception as e:
            # as Orbax raises where a part is absent
            of_files = isinstance(e, UNREADABLE) or type(e) is Exception
            if not of_files or of_the_machine(e) and error_number(e) not in ABSENT:
                raise
            why = " ".join(str(e).split())[:200]
            raise Damaged(
                f"{self.directory / str(step)} is damaged: {item} cannot be read ({type(e).__name__}: {why})"
            ) from e

    def check(self, step: int, item: str, targets: dict) -> None:
        """UserError where names or shapes differ, before Orbax reads anything."""
        check_shapes(f"{self.directory / str(step)}: {item}", self.shapes(step, item), targets)

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.manager.close()


def _tell_once() -> None:
    """Orbax and its store raise an error, and print it as well, with tracebacks, from threads of
    their own: that is left out, for who calls says it in a line. So is that a reader reads only."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)  # once, however often it is added
    if sys.excepthook is not _late_callback:
        _hooks.append(sys.excepthook)
        sys.excepthook = _late_callback
    if sys.unraisablehook is not _late_unraisable:  # which of the two is called is up to the thread
        _unraisable_hooks.append(sys.unraisablehook)
        sys.unraisablehook = _late_unraisable


_hooks: list[Callable] = []
_unraisable_hooks: list[Callable] = []


def _is_news(record: logging.LogRecord) -> bool:
    return not record.exc_info and re.search("read[ _]only", str(record.msg)) is None


def _late_callback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """The store calls back when the event loop of a read or write that failed is gone."""
    if not _is_late(error):
        _hooks[-1](kind, error, trace)


def _late_unraisable(unraisable: Any) -> None:
    if not _is_late(unraisable.exc_value):
        _unraisable_hooks[-1](unraisable)


def _is_late(error: BaseException | None) -> bool:
    return type(error) is RuntimeError and str(error) == "Event loop is closed"


def skips(folder: Path) -> dict:
    """{"skipped": [step, …], "returns": [{"to", "at", "left_out"}]} of a run, as its newest
    checkpoint has them."""
    meta: dict = {}
    if folder.is_dir():
        with Checkpoints(folder, read_only=True) as checkpoints:
            if step := checkpoints.latest():
                meta = checkpoints.meta(step)
    return {"skipped": meta.get("skipped", []), "returns": meta.get("returns", [])}


def digest(array: Any) -> dict:
    """{"shape", "dtype", "blocks"} of an array: a hash of each BLOCK_BYTES of it in row-major
    order, wherever its parts lie."""
    if not getattr(array, "is_fully_addressable", True):
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    host = np.ascontiguousarray(array)
    flat = host.reshape(-1).view(np.uint8)
    blocks = [flat[at : at + BLOCK_BYTES] for at in range(0, len(flat), BLOCK_BYTES)]
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda block: hashlib.sha256(block).hexdigest(), blocks))
    return {"shape": list(np.shape(array)), "dtype": str(host.dtype), "blocks": hashes}


def check_shapes(what: str, saved: dict[str, Any], targets: dict[str, Any]) -> None:
    """UserError where names or shapes differ."""
    for name in sorted(saved.keys() | targets.keys()):
        there, here = (tuple(x[name].shape) if name in x else "absent" for x in (saved, targets))
        if there != here:
            raise UserError(
                f"{what} are not those of this config: {name} is {there} there, {here} here"
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


def differences(then: dict, now: dict) -> str | None:
    """One line that names all that changed since the checkpoint, or None where nothing did."""
    then, now = (
        {**{k: v for k, v in e.items() if k != "versions"}, **e.get("versions", {})}
        for e in (then, now)
    )
    names = [*now, *(then.keys() - now.keys())]
    changed = [
        f"{k}: {then.get(k, 'unknown')} -> {now.get(k, 'unknown')}"
        for k in names
        if then.get(k) != now.get(k)
    ]
    if not changed:
        return None
    return (
        "resumed in another environment: the data are the same, and losses agree to float "
        "tolerance rather than bit for bit (" + "; ".join(changed) + ")"
    )
