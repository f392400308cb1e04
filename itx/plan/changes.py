# SPDX-License-Identifier: Apache-2.0
"""What may be changed of a run whose training step does not fit: settings in the order of what they
cost, each compiled before it is proposed.

Settings that leave the run's mathematics as they are come first: recomputation, the mesh,
microbatches. Then a smaller state of the optimizer, and LoRA over a frozen base. What the compiler
would refuse for certain (arguments alone take more than there is) is not compiled, and said.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from itx import config_check, recipe, train
from itx.config import RunConfig
from itx.errors import RunFailed, UserError
from itx.plan import compiled, devices, fast, programs
from itx.plan.plan import Asked, in_a_line, layers_of

WANTED = 3  # so many changes that fit end the search


class Change(NamedTuple):
    settings: tuple[str, ...]  # as the command line takes them
    costs: str  # what it changes besides memory


RECOMPUTE = ("--model.remat=full",)
ALL_FSDP = ("--mesh.data=1", "--mesh.fsdp=-1")
ADAFACTOR = ("--optim.name=adafactor", "--optim.kwargs={}")
LORA = ("--peft.method=lora", "--peft.base_dtype=bfloat16")


def changes(config: RunConfig, devices: int) -> Iterator[Change]:
    """What may be tried, cheapest first; each adds to those before it of its kind."""
    mesh, settings, costs = config.mesh, (), []
    if config.model.remat != "full":
        settings, costs = settings + RECOMPUTE, [*costs, "layers are computed twice"]
        yield Change(settings, ", ".join(costs))
    replicas = config.mesh.replica * mesh.tensor
    if mesh.data != 1 or mesh.fsdp not in (-1, devices // max(1, replicas)):
        settings, costs = settings + ALL_FSDP, [*costs, "parameters travel between chips"]
        yield Change(settings, ", ".join(costs))
    rows = config.data.global_batch // max(1, devices // mesh.tensor)
    micro, smaller = settings, costs
    for n in _doublings(config.train.microbatches, rows):
        micro = (*settings, f"--train.microbatches={n}")
        smaller = [*costs, f"{n} parts of a batch one after another"]
        yield Change(micro, ", ".join(smaller))
    for tensor in (2, 4, 8):
        if tensor > mesh.tensor and config.model.num_kv_heads % tensor == 0 and devices > tensor:
            split = (*one_row_each(config, settings, devices // tensor), f"--mesh.tensor={tensor}")
            split += tuple(s for s in ALL_FSDP if s not in split)
            yield Change(split, f"each layer is split over {tensor} chips, which talk within it")
    if config.peft.method == "full":
        if config.optim.name not in ("adafactor", "sgd"):
            yield Change((*micro, *ADAFACTOR), "another optimizer: choose its learning rate anew")
        yield Change(
            (*settings, *LORA), "an adapter trains, not the model: choose its learning rate anew"
        )
        yield Change((*micro, *LORA), "an adapter trains; " + ", ".join(smaller))


def one_row_each(config: RunConfig, settings: tuple[str, ...], parts: int) -> tuple[str, ...]:
    """The settings with as many microbatches as leave each part of the mesh one row."""
    rows = config.data.global_batch // max(1, parts)
    return (*settings, f"--train.microbatches={rows}") if rows > 1 else settings


def _doublings(n: int, most: int) -> list[int]:
    """Twice n, four times n, …, most, as far as they divide it."""
    return [m for m in (n << k for k in range(1, 12)) if m <= most and most % m == 0]


def changed(asked: Asked, change: Change) -> Asked:
    config = asked.config
    for text in change.settings:
        config, _ = recipe.override(config, text)
    config_check.check(config)
    config, mesh, _ = devices.mesh_of(config, asked.topology)
    train.check_divisible(config, mesh)
    return Asked(config, asked.topology, mesh)


def proposals(asked: Asked, max_seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What became of each change, in the order of trying: {"settings", "costs", "verdict":
    "fits" | "does not fit" | "arguments alone do not fit" | "is refused" | "the compiler fails" |
    "not compiled: …", "peak_bytes", "reason"}.

    Those that are predicted to fit (itx/plan/fast.py) are compiled first. No compilation begins
    after `max_seconds`.
    """
    out, waiting = [], []
    for order, change in enumerate(changes(asked.config, asked.mesh.size)):
        facts = {"settings": list(change.settings), "costs": change.costs}
        out.append(facts)
        try:
            other = changed(asked, change)
        except UserError as e:
            facts |= {"verdict": "is refused", "reason": str(e)}
            continue
        predicted = fast.predict(other)
        facts["predicted_bytes"] = predicted["peak_bytes"]
        if fast.ruled_out(other, predicted):
            facts |= {"verdict": "arguments alone do not fit"}
        else:
            waiting.append((not fast.fits(other, predicted), order, other, facts))
    fitting, began = 0, time.monotonic()  # predictions, a second each, are not counted
    for _, _, other, facts in sorted(waiting, key=lambda w: w[:2]):
        if fitting == WANTED:
            facts["verdict"] = f"not compiled: {WANTED} changes fit already"
        elif time.monotonic() - began >= max_seconds:
            facts["verdict"] = f"not compiled: --max_seconds={max_seconds:g} were over"
        else:
            say(f"trying {' '.join(facts['settings'])}")
            facts |= by_compiler(other, say)
            fitting += facts["verdict"] == "fits"
    return out


def by_compiler(other: Asked, say: Callable[[str], None]) -> dict[str, Any]:
    """What the compiler says of a run's training step."""
    program = programs.trace("train", other.config, other.mesh)
    try:
        own, _ = compiled.compile_program("train", program, other.topology, layers_of(other.config))
    except RunFailed as e:
        say(str(e))
        return {"verdict": "the compiler fails", "reason": str(e)}
    say(in_a_line(own))
    facts = {k: own[k] for k in ("peak_bytes", "reason", "compile_seconds") if k in own}
    return facts | {"verdict": "fits" if own["fits"] else "does not fit"}
