# SPDX-License-Identifier: Apache-2.0
"""Rotary positions and windows of a config.json, resolved as transformers 5 resolves them, or
refused.

A file may say the same thing in several places and spellings: `rope_theta` and `rope_scaling`
(transformers 4), `rope_parameters` (transformers 5), `type` for `rope_type`, and for Gemma 3 an
object for each type of layer. Which of them wins is the reader's choice there, not the file's, so
it is the same here; tests/golden/rope.json holds what it does with each. Where it fails, or reads
something that this model does not compute, the key is named.
"""

from typing import Any

from itx.config import ModelConfig
from itx.config_check import setting
from itx.errors import UserError
from itx.models.family import Family

FULL, SLIDING = "full_attention", "sliding_attention"
# Defaults of the classes of transformers, where a file is silent: sliding-window size in tokens,
# max_window_layers
WINDOW, FIRST_SLIDING = 4096, 28
# RoPE's type -> the keys that it reads besides its base; other keys change nothing in transformers,
# and are named as unknown
READS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
NO_SCALING = {"rope_type": "default"}
SWITCH = "use_sliding_window"  # the key by which a file of some families switches its window on


def read(values: dict, family: Family, place: str) -> dict[str, Any]:
    """The settings of RoPE of a ModelConfig."""
    _check_whole(values, place)
    for name in ("rope_scaling", "rope_parameters"):
        setting(values, name, dict, place, {})
    if family.local_theta is not None:
        return _by_layer(values, family, place)
    name, entry = flat(values)
    if FULL in entry or SLIDING in entry:
        raise UserError(
            f"{place}: {name} differs by the type of layer; a {values['model_type']}'s is one "
            "object for all layers"
        )
    settings = _entry(entry, values, f"{place}, {name}", family.theta)
    # A length outside the scaling is read before the one inside
    key = "original_max_position_embeddings"
    if settings["rope_scaling"] == "llama3" and key in values:
        settings["rope_original_length"] = setting(values, key, int, place)
    return settings | {"rope_theta_local": 0.0}


def write(cfg: ModelConfig) -> dict[str, Any]:
    """{"rope_theta", "rope_scaling"} of a config.json."""
    scaling = None
    if cfg.rope_scaling != "none":
        scaling = {"rope_type": cfg.rope_scaling, "factor": cfg.rope_factor}
    if cfg.rope_scaling == "llama3":
        scaling |= {
            "low_freq_factor": cfg.rope_low_factor,
            "high_freq_factor": cfg.rope_high_factor,
            "original_max_position_embeddings": cfg.rope_original_length,
        }
    return {"rope_theta": cfg.rope_theta, "rope_scaling": scaling}


def flat(values: dict) -> tuple[str, dict]:
    """(name, settings) of the one object that counts: the older, where it says anything."""
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    return name, values.get(name) or {}


def _by_layer(values: dict, family: Family, place: str) -> dict[str, Any]:
    """The settings of a family whose sliding layers have a base of their own. The older key,
    rope_scaling, is about the other layers alone."""
    given, scaling = values.get("rope_parameters"), values.get("rope_scaling")
    new, old = given or {}, scaling or {}
    inside = f"{place}, rope_parameters"
    if other := sorted(set(new) - {FULL, SLIDING}):
        raise UserError(
            f"{inside}: {other[0]!r}; a {values['model_type']}'s is an object for {FULL} and one "
            f"for {SLIDING}"
        )
    if scaling is not None and given is not None and not isinstance(new.get(FULL), dict):
        raise UserError(
            f"{inside}: {FULL}={new.get(FULL)!r} beside a rope_scaling; expected an object"
        )
    entry = setting(new, FULL, dict, inside, NO_SCALING) | old
    type_ = entry.get("rope_type", old.get("type"))
    if "type" in old and "rope_type" not in old and old["type"] != type_:
        raise UserError(
            f"{place}: rope_scaling's type={old['type']!r} is what transformers 4 read; 5 reads "
            f"rope_type={type_!r}: write rope_type"
        )
    full = _entry(entry, values, inside if new else f"{place}, rope_scaling", family.theta)
    key, name = "rope_local_base_freq", f"{inside}, {SLIDING}"
    entry = setting(new, SLIDING, dict, inside, NO_SCALING)
    base = {"rope_theta": values[key]} if key in values else {}
    local = _entry(entry, base, name, family.local_theta)
    scaled = local["rope_scaling"]
    if scaled != "none" and (scaled, local["rope_factor"]) != ("linear", 1):
        raise UserError(f"{name}: RoPE of type {scaled!r}; sliding layers are not scaled here")
    return full | {"rope_theta_local": local["rope_theta"]}


def passed_over(values: dict, family: Family) -> list[str]:
    """Keys of RoPE's objects that its type reads neither in transformers nor here."""
    keys, objects = [], [flat(values)]
    new, old = values.get("rope_parameters"), values.get("rope_scaling")
    if family.local_theta is not None:
        objects = [(f"rope_parameters.{t}", (new or {}).get(t)) for t in (FULL, SLIDING)]
        objects.append(("rope_scaling", old))
    elif old and new:
        keys = ["rope_parameters (rope_scaling stands for all of it)"]
    for name, entry in objects:
        entry = entry or {}
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        known |= set(READS.get(_type(entry), ()))
        keys += [f"{name}.{k}" for k in sorted(entry.keys() - known) if entry[k] is not None]
    return keys


def _type(entry: dict) -> Any:
    return entry.get("rope_type", entry.get("type", "default"))


def _entry(entry: dict, outside: dict, place: str, theta: float) -> dict[str, Any]:
    """The settings of one object. `outside` has the keys that stand beside it, `theta` is the base
    if neither says one."""
    name = _type(entry)
    if not isinstance(name, str) or name not in READS:
        raise UserError(
            f"{place}: RoPE of type {name!r}; known are 'default', 'linear' and 'llama3'"
        )
    _check_whole(entry, place)
    base = {"rope_theta": entry.get("rope_theta", outside.get("rope_theta", theta))}
    settings = {"rope_theta": _above_zero(base, "rope_theta", place), "rope_scaling": "none"}
    if name == "default":
        return settings
    settings |= {"rope_scaling": name, "rope_factor": _above_zero(entry, "factor", place)}
    if name == "linear":
        return settings
    low, high = (_above_zero(entry, f"{end}_freq_factor", place) for end in ("low", "high"))
    if low >= high:
        raise UserError(f"{place}: low_freq_factor={low} is not below high_freq_factor={high}")
    key = "original_max_position_embeddings"
    length = None if key in entry else outside.get("max_position_embeddings")
    length = setting(entry, key, int, place, length)
    return settings | {
        "rope_low_factor": low,
        "rope_high_factor": high,
        "rope_original_length": length,
    }


def _above_zero(values: dict, key: str, place: str) -> float:
    number = float(setting(values, key, float, place))
    if not 0 < number < float("inf"):
        raise UserError(f"{place}: {key}={values[key]!r}; expected a number above 0")
    return number


def _check_whole(values: dict, place: str) -> None:
    """UserError if only a part of each head has positions."""
    share = values.get("partial_rotary_factor")
    if share not in (None, 1):
        raise UserError(
            f"{place}: partial_rotary_factor={share!r} would need rotary positions of a part of a "
            "head; expected 1.0"
        )


def windows(values: dict, family: Family, layers: int, place: str) -> dict[str, int]:
    """{"sliding_window", "global_every"}: which layers slide is the class's choice, and the file's
    where it reads it."""
    window, types = _window(values, family, place), _layer_types(values, layers, place)
    own = _own_types(values, family, layers, window, types is None, place)
    if "layer_types" not in family.reads and types not in (None, own):
        raise UserError(
            f"{place}: layer_types={sorted(set(types))}, which a {values['model_type']} does not "
            f"read; its own are {sorted(set(own))}"
        )
    types = types or own
    if SLIDING not in types:
        return {"sliding_window": 0, "global_every": 0}
    if not window:
        off = SWITCH if SWITCH in family.reads else "sliding_window"
        raise UserError(
            f"{place}: layers slide ({SLIDING!r}), but {off}={values.get(off)!r} says that there "
            "is no window"
        )
    every = types.index(FULL) + 1 if FULL in types else 0
    if types != _pattern(every, layers):
        raise UserError(
            f"{place}: layers slide in no regular pattern (layer_types); expected every n-th to be "
            "full"
        )
    return {"sliding_window": window, "global_every": every}


def _pattern(every: int, layers: int) -> list[str]:
    """The types of layers of which every so many-th is full; 0: none is."""
    return [FULL if every and (i + 1) % every == 0 else SLIDING for i in range(layers)]


def _own_types(
    values: dict, family: Family, layers: int, window: int, silent: bool, place: str
) -> list[str]:
    """The types of layers that a family's class chooses; `silent`: the file has no layer_types."""
    key, every = "sliding_window_pattern", family.full_every
    if key in family.reads:
        every = setting(values, key, int, place, None if silent and key in values else every)
    elif values.get(key) not in (None, every):
        raise UserError(f"{place}: {key}={values[key]!r} is no setting of a {values['model_type']}")
    if SWITCH in family.reads and window:
        key = "max_window_layers"
        first = 0  # which `setting` would refuse
        if values.get(key) != 0:
            first = setting(values, key, int, place, None if key in values else FIRST_SLIDING)
        return [SLIDING if i >= first else FULL for i in range(layers)]
    if not every and not window:
        return [FULL] * layers
    return _pattern(every, layers)


def _window(values: dict, family: Family, place: str) -> int:
    """Sliding-window size in tokens; 0: no window."""
    key = "sliding_window"
    if SWITCH in family.reads and not setting(values, SWITCH, bool, place, False):
        return 0
    if key in values and values[key] is None:
        return 0
    window = setting(values, key, int, place, WINDOW)
    return window if key in family.reads else 0


def _layer_types(values: dict, layers: int, place: str) -> list[str] | None:
    types = values.get("layer_types")
    if types is None:
        return None
    listed = isinstance(types, list)
    names = set(map(str, types)) if listed else set()
    if not listed or len(types) != layers or names - {FULL, SLIDING}:
        found = f"{sorted(names)} of {len(types)}" if listed else repr(types)
        raise UserError(
            f"{place}: layer_types={found}; expected {layers} times {SLIDING!r} or {FULL!r}"
        )
    return types
