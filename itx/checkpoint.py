# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one class around Orbax's CheckpointManager.

A checkpoint has three items: `params` {path: array} (trainable and frozen; of an adapter's run the
adapter alone, and meta says over which base), `opt_state` {path: array} and `meta` (JSON: step,
skipped steps, open log interval, mesh, devices, versions, and all that config.json and
data.lock.json of the run hold). Names are plain strings, so a checkpoint can be read without this
program. A save that was cut short is never seen: Orbax renames a folder into place when it is whole, and what is left of others is removed here.
"""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from itx.errors import UserError

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Checkpoints:
    """`directory`/<step>/{params,opt_state,meta}; the newest `keep` stay, None: all."""

    def __init__(self, directory: Path, keep: int | None = 2):
        import orbax.checkpoint as ocp

        self.ocp = ocp
        self.directory = Path(directory).resolve()
        self.manager = ocp.CheckpointManager(
            self.directory,
            item_names=("params", "opt_state", "meta"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                # a CPU array is saved from the buffer that the next step may reuse (donation)
                enable_async_checkpointing=jax.default_backend() != "cpu",
            ),
        )

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps())

    def save(self, step: int, params: dict, opt_state: Any, meta: dict) -> None:
        """opt_state None: of a model that was not trained here."""
        args = self.ocp.args
        items = {"params": args.StandardSave(params), "meta": args.JsonSave(meta)}
        if opt_state is not None:
            items["opt_state"] = args.StandardSave(named_leaves(opt_state))
        self.manager.save(step, args=args.Composite(**items))

    def meta(self, step: int) -> dict:
        args = self.ocp.args
        return self.manager.restore(step, args=args.Composite(meta=args.JsonRestore())).meta

    def shapes(self, step: int, item: str = "params") -> dict:
        """{path: what has its shape and dtype} of what a checkpoint holds."""
        return self.ocp.StandardCheckpointHandler().metadata(self.directory / str(step) / item).tree

    def params(self, step: int, targets: dict) -> dict:
        """Parameters as `targets` says: {path: ShapeDtypeStruct with a sharding}."""
        return self._restore(step, "params", targets)

    def opt_state(self, step: int, targets: Any) -> Any:
        """Optimizer state in the structure, types and shardings of `targets`."""
        leaves = self._restore(step, "opt_state", named_leaves(targets))
        order = list(named_leaves(targets))
        return jax.tree.unflatten(jax.tree.structure(targets), [leaves[n] for n in order])

    def _restore(self, step: int, item: str, targets: dict) -> dict:
        if step not in self.manager.all_steps():
            raise UserError(
                f"{self.directory} has no checkpoint of step {step}; there are: "
                + (", ".join(map(str, self.steps())) or "none")
            )
        self._check(step, item, targets)
        args = self.ocp.args
        return self.manager.restore(step, args=args.Composite(**{item: args.StandardRestore(targets)}))[item]

    def _check(self, step: int, item: str, targets: dict) -> None:
        """UserError where names or shapes differ, before Orbax reads anything."""
        check_shapes(f"{self.directory / str(step)}: {item}", self.shapes(step, item), targets)

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.manager.close()


def check_shapes(what: str, saved: dict[str, Any], targets: dict[str, Any]) -> None:
    """UserError where names or shapes differ."""
    for name in sorted(saved.keys() | targets.keys()):
        there, here = (tuple(x[name].shape) if name in x else "absent" for x in (saved, targets))
        if there != here:
            raise UserError(f"{what} are not those of this config: {name} is {there} there, {here} here")


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
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def differences(then: dict, now: dict) -> str | None:
    """One line that says what changed since the checkpoint, or None where nothing did."""
    changed = [f"{k}: {then.get(k)} -> {now[k]}" for k in now if then.get(k) != now[k]]
    if not changed:
        return None
    return (
        "resumed in another environment: the data are the same, and losses agree to float "
        "tolerance rather than bit for bit (" + "; ".join(changed) + ")"
    )
