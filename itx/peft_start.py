# SPDX-License-Identifier: Apache-2.0
"""A run that goes on from an adapter (`peft.adapter`): a folder that Hugging Face's PEFT or
`itx convert export` wrote, over the base `model.pretrained`.

The folder says what is tuned: method, rank, scale, targets, virtual tokens. The recipe and the
command line may say the same, and nothing else; dropout is the run's own where it is given.
"""

import dataclasses

from flax import nnx

from itx import peft_files
from itx.config import ModelConfig, PeftConfig, RunConfig, changed
from itx.errors import UserError
from itx.models.transformer import Transformer
from itx.params import shapes_of
from itx.peft import targets

OF_THE_RUN = ("adapter", "base_dtype")  # what no adapter's folder says


def settle(
    config: RunConfig, origin: dict[str, str], rows: int, family: str
) -> tuple[RunConfig, dict[str, str]]:
    """The config and the origins of its values with what the adapter's folder says; UserError where
    the adapter is for another base, or a value that is given is not the adapter's.

    Args:
        rows: of the base's embedding.
        family: the model_type that the base came with, "" for none.
    """
    given, folder = config.peft, config.peft.adapter
    theirs = peft_files.read(folder, config.model, rows, family).peft
    taken = {}
    for name in (f.name for f in dataclasses.fields(PeftConfig) if f.name not in OF_THE_RUN):
        held, asked, where = getattr(theirs, name), getattr(given, name), origin[f"peft.{name}"]
        if name == "targets" and theirs.method == "lora":
            # regexes that match the same weights stay as they were written
            sets = [_targets(peft, config.model, rows) for peft in (given, theirs)]
            held = asked if sets[0] == sets[1] else held
        if where == "default":
            taken[name] = held
        elif asked != held and name != "dropout":
            raise UserError(
                f"peft.{name}={asked!r} ({where}), but the adapter in {folder} has {held!r}: leave "
                "it out, or begin a new adapter without peft.adapter"
            )
    return changed(config, "peft", **taken), origin | {f"peft.{name}": folder for name in taken}


def _targets(peft: PeftConfig, cfg: ModelConfig, rows: int) -> set[str]:
    """The weights that `peft.targets` matches, however its regexes are written."""
    return set(targets(shapes_of(lambda: Transformer(cfg, rows, nnx.Rngs(0))), peft))
