# SPDX-License-Identifier: Apache-2.0
"""A model in memory: parameters on a mesh, and the ids that prompts and answers need."""

from dataclasses import dataclass

import jax
from flax import nnx
from jax.sharding import Mesh

from itx.config import ModelConfig, PeftConfig

Ids = list[int]  # of tokens


@dataclass(frozen=True)
class LoadedModel:
    """Parameters {path: array} and what asking them needs; step 0 is the model before tuning.

    Loaded models of several adapters over one base share the base's arrays.
    """

    graphdef: nnx.GraphDef
    params: dict[str, jax.Array]
    mesh: Mesh
    model: ModelConfig
    bos_id: int
    eos_id: int
    pad_id: int
    batch_size: int = 256
    step: int = 0
    peft: PeftConfig = PeftConfig()
    # ids besides eos_id that end an answer: a pretrained model may have several
    more_ends: tuple[int, ...] = ()
    family: str = ""  # model_type of the text model that it began from; "": from random weights
    # most tokens of a prompt and its answer (in an encoder: of a prompt); 0: as many as it takes
    context: int = 0

    @property
    def head(self) -> list[int]:
        """What stands before a prompt in a decoder: BOS, or nothing (bos_id below 0)."""
        return [self.bos_id] if self.bos_id >= 0 else []

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end an answer, first the one that training puts there."""
        return tuple(dict.fromkeys((self.eos_id, *self.more_ends)))

    def can_begin(self, tokens: int) -> bool:
        """Whether there is anything to begin an answer from, behind a prompt of so many tokens."""
        return bool(tokens or self.head) or self.model.architecture == "encoder_decoder"

    def no_room(self, tokens: int, new: int, longest: int = 0) -> str:
        """Why a prompt of so many tokens is not asked for `new` ones; "" where both have room.

        Args:
            longest: most tokens where the model names no context; 0: as many as it takes.
        """
        both = self.model.architecture == "encoder_decoder"
        more, told = (1, "its EOS") if both else (len(self.head) + new, f"{new} new ones")
        context = self.context or longest
        if not context or tokens + more <= context:
            return ""
        return f"has {tokens} tokens, with {told} more than the context of {context}"
