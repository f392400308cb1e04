# SPDX-License-Identifier: Apache-2.0
"""What is said of a family of Hugging Face's models: the form of an entry of families.FAMILIES."""

from typing import Any, NamedTuple


class Family(NamedTuple):
    """What a model_type of config.json means."""

    classname: str  # in transformers
    keys: dict[str, str]  # our field -> key
    defaults: dict[str, Any]  # our field -> its value where a file is silent; others are required
    fixed: dict[str, Any]  # our field -> its value in all members
    tensors: dict[str, str]  # our path -> name of the tensor, `{}` standing for the layer
    reads: frozenset[str] = frozenset()  # further keys that its class reads
    ungated: dict[str, str] = {}  # tensors of other names in a model without gated MLPs
    null_kv_heads: bool = False  # num_key_value_heads=null: as many as heads
    # every so many-th layer has no window where a file does not say which; 0: each has one
    full_every: int = 1
    theta: float = 1e4  # base of the rotary frequencies where a file is silent
    # likewise of sliding layers; None: theirs is that of the others
    local_theta: float | None = None
    feed_forward: str = ""  # feed_forward_proj where a T5's file is silent
    part_of: str | None = None  # the model_type of a model that also sees images, with this inside

    @property
    def is_encoder_decoder(self) -> bool:
        return self.fixed.get("architecture") == "encoder_decoder"
