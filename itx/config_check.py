# SPDX-License-Identifier: Apache-2.0
"""Whether the values of a RunConfig can be meant: their types, their bounds, and what one asks of
another. `setting` does the same for a value of a JSON file that others wrote."""

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin

from itx import storage
from itx.config import RunConfig, fields_by_name, flatten
from itx.errors import UserError, check_known, did_you_mean

PATHS = (
    "data.root data.cache_dir data.vocab data.tfds_data_dir data.chat_template model.pretrained "
    "peft.adapter"
).split()
WRITERS = ("wandb", "trackio")  # what train.writers may name (itx/writers.py)


def check(config: RunConfig) -> None:
    """UserError for a value that cannot be meant: out of range, or in conflict with another."""
    values = flatten(dataclasses.asdict(config))
    for name in PATHS:
        storage.local(str(values[name]), f"{name}=")
    for name, f in fields_by_name().items():
        value = values[name]
        if not is_a(value, f.type):
            if get_origin(f.type) is Literal:
                raise UserError(
                    f"{name}={value!r}: no such choice" + did_you_mean(str(value), get_args(f.type))
                )
            raise UserError(f"{name}={value!r}: not a {getattr(f.type, '__name__', f.type)}")
        if f.type is float and (
            math.isnan(value) or math.isinf(value) and not name.startswith("data.max_")
        ):
            raise UserError(f"{name}={value}: must be a finite number")
        least = f.metadata["at_least"]
        if least is not None and value < least:
            raise UserError(f"{name}={value}: must be at least {least}")
        if f.metadata["share"] and not 0 <= value < 1:
            raise UserError(f"{name}={value}: a share, at least 0 and below 1")
    for name in config.train.writers:
        check_known(name, WRITERS, f"train.writers={name}: no such service")
    m = config.model
    if m.num_heads % m.num_kv_heads:
        raise UserError(
            f"model.num_kv_heads={m.num_kv_heads} does not divide model.num_heads={m.num_heads}"
        )
    if m.prefix_lm and m.architecture == "encoder_decoder":
        raise UserError("model.prefix_lm is for decoders: an encoder sees all of the prompt anyway")
    if m.sliding_window and m.architecture == "encoder_decoder":
        raise UserError("model.sliding_window is for decoders")
    if m.global_every == 1 or m.global_every and not m.sliding_window:
        raise UserError(
            f"model.global_every={m.global_every}: no layer slides "
            f"(model.sliding_window={m.sliding_window})"
        )
    if config.data.replay and not config.data.replay_task:
        raise UserError(
            f"data.replay={config.data.replay} needs data.replay_task, a text task (tasks/text.py)"
        )
    if config.eval.keep_best and not config.eval.every:
        raise UserError(
            "eval.keep_best=true needs eval.every, the steps between scores on dev: the best of "
            "them is kept"
        )
    _check_peft(config)


def _check_peft(config: RunConfig) -> None:
    peft, data = config.peft, config.data
    if peft.adapter and not config.model.pretrained:
        raise UserError(
            f"peft.adapter={peft.adapter}: an adapter is for one base; name it: model.pretrained=…"
        )
    if peft.method in ("prefix", "prompt"):
        # a prefix stands before the decoder's row, a prompt before that which holds the instruction
        short = config.model.architecture == "encoder_decoder" and peft.method == "prefix"
        row = "target_length" if short else "sequence_length"
        if peft.length >= getattr(data, row):
            raise UserError(
                f"peft.length={peft.length}: a {peft.method} longer than the context, "
                f"data.{row}={getattr(data, row)}"
            )
    if peft.method == "lora" and peft.alpha <= 0:
        raise UserError(f"peft.alpha={peft.alpha}: must be above 0, or LoRA adds nothing")
    if peft.method == "lora" and not peft.targets:
        raise UserError(
            "peft.targets is empty: LoRA adapts the weights that its regexes match, e.g. .*/(wq|wv)"
        )


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type; an int may stand for a float, None for an empty
    dict."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, (tuple, list)):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(is_a(v, inner[0]) for v in value)
        return len(value) == len(inner) and all(
            is_a(v, t) for v, t in zip(value, inner, strict=True)
        )
    if get_origin(kind) is dict:
        return value is None or isinstance(value, dict)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def setting(values: dict, key: str, kind: type, where: str, default: Any = None) -> Any:
    """A value of a JSON file that others wrote, or the default where it is absent or null;
    UserError where that is None, or the value of another type than `kind`. Whole numbers count
    something: at least 1."""
    value = default if values.get(key) is None else values[key]
    if value is None:
        raise UserError(f"{where}: no {key!r}" + did_you_mean(key, values))
    if not is_a(value, kind) or kind is int and value < 1:
        expected = {
            int: "a whole number from 1",
            float: "a number",
            str: "a name",
            bool: "true or false",
        }
        raise UserError(f"{where}: {key}={value!r}; expected {expected.get(kind, 'an object')}")
    return value
