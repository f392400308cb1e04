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

from itx.config_check import setting
from itx.errors import UserError

FULL, SLIDING = "full_attention", "sliding_attention"
# of the classes of transformers, where a file is silent
THETA, GEMMA3_THETA, GEMMA3_LOCAL_THETA = 1e4, 1e6, 1e4
WINDOW, FIRST_SLIDING = 4096, 28  # likewise
# What each type reads besides its base; a key that it does not read changes nothing there, and is
# named as unknown
READS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
TYPES_WITH_A_LENGTH = ("llama3", "yarn", "longrope")


def read(values: dict, kind: str, where: str) -> dict[str, Any]:
    """The settings of RoPE of a ModelConfig."""
    if values.get("partial_rotary_factor") not in (None, 1):
        raise UserError(_part(where, values["partial_rotary_factor"]))
    for name in ("rope_scaling", "rope_parameters"):
        setting(values, name, dict, where, {})
    if kind == "gemma3_text":
        return _by_layer(values, where)
    name, entry = flat(values)
    if any(layer in entry for layer in (FULL, SLIDING)):
        raise UserError(
            f"{where}: {name} differs by the type of layer, which of all models here only gemma3_text's does"
        )
    found = _entry(entry, values, f"{where}, {name}", THETA)
    # A length outside the scaling is read before the one inside
    if found["rope_scaling"] == "llama3" and "original_max_position_embeddings" in values:
        found["rope_original_length"] = setting(
            values, "original_max_position_embeddings", int, where
        )
    return found | {"rope_theta_local": 0.0}


def flat(values: dict) -> tuple[str, dict]:
    """(name, settings) of the one object that counts: the older, where it says anything."""
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    return name, values.get(name) or {}


def _by_layer(values: dict, where: str) -> dict[str, Any]:
    """Of a Gemma 3, whose sliding layers have a base of their own; the older scaling is of the
    others alone."""
    new, old = values.get("rope_parameters"), values.get("rope_scaling")
    inside = f"{where}, rope_parameters"
    other = sorted(set(new or {}) - {FULL, SLIDING})
    if other:
        raise UserError(
            f"{inside}: {other[0]!r}; a gemma3_text's is an object for {FULL} and one for {SLIDING}"
        )
    if old is not None and new is not None and not isinstance(new.get(FULL), dict):
        raise UserError(
            f"{inside}: {FULL}={new.get(FULL)!r} beside a rope_scaling; expected an object"
        )
    entry = dict(setting(new or {}, FULL, dict, inside, {"rope_type": "default"})) | (old or {})
    if (
        "rope_type" in entry
        and "rope_type" not in (old or {})
        and (old or {}).get("type", "default") != entry["rope_type"]
    ):
        if "type" in (old or {}):
            raise UserError(
                f"{where}: rope_scaling's type={old['type']!r} is what transformers 4 read; 5 reads "
                f"rope_type={entry['rope_type']!r}: write rope_type"
            )
    found = _entry(entry, values, inside if new else f"{where}, rope_scaling", GEMMA3_THETA)
    entry = setting(new or {}, SLIDING, dict, inside, {"rope_type": "default"})
    key, name = "rope_local_base_freq", f"{inside}, {SLIDING}"
    local = _entry(
        entry, {"rope_theta": values[key]} if key in values else {}, name, GEMMA3_LOCAL_THETA
    )
    if local["rope_scaling"] != "none" and (local["rope_scaling"], local["rope_factor"]) != (
        "linear",
        1,
    ):
        raise UserError(
            f"{name}: RoPE of type {local['rope_scaling']!r}; sliding layers are not scaled here"
        )
    return found | {"rope_theta_local": local["rope_theta"]}


def passed_over(values: dict, kind: str) -> list[str]:
    """Keys of the objects that RoPE's type does not read, there or here."""
    if kind == "gemma3_text":
        objects = [
            (f"rope_parameters.{t}", (values.get("rope_parameters") or {}).get(t))
            for t in (FULL, SLIDING)
        ]
        objects.append(("rope_scaling", values.get("rope_scaling")))
    else:
        objects = [flat(values)]
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    out = []
    if kind != "gemma3_text" and values.get("rope_scaling") and values.get("rope_parameters"):
        out.append("rope_parameters (rope_scaling stands for all of it)")
    for name, entry in objects:
        reads = READS.get((entry or {}).get("rope_type", (entry or {}).get("type", "default")), ())
        out += [
            f"{name}.{key}"
            for key in sorted((entry or {}).keys() - known - set(reads))
            if entry[key] is not None
        ]
    return out


def _entry(entry: dict, values: dict, where: str, theta: float) -> dict[str, Any]:
    """Of one object; `values` has what stands outside it, `theta` is the base where nothing says
    one."""
    name = entry.get("rope_type", entry.get("type", "default"))
    if not isinstance(name, str) or name not in READS:
        raise UserError(
            f"{where}: RoPE of type {name!r}; known are 'default', 'linear' and 'llama3'"
        )
    if entry.get("partial_rotary_factor") not in (None, 1):
        raise UserError(_part(where, entry["partial_rotary_factor"]))
    base = next((place["rope_theta"] for place in (entry, values) if "rope_theta" in place), theta)
    out = {
        "rope_theta": _above_zero({"rope_theta": base}, "rope_theta", where),
        "rope_scaling": "none",
    }
    if name == "default":
        return out
    out |= {"rope_scaling": name, "rope_factor": _above_zero(entry, "factor", where)}
    if name == "linear":
        return out
    low, high = (_above_zero(entry, f"{end}_freq_factor", where) for end in ("low", "high"))
    if low >= high:
        raise UserError(f"{where}: low_freq_factor={low} is not below high_freq_factor={high}")
    key = "original_max_position_embeddings"
    length = setting(
        entry, key, int, where, None if key in entry else values.get("max_position_embeddings")
    )
    return out | {"rope_low_factor": low, "rope_high_factor": high, "rope_original_length": length}


def _above_zero(values: dict, key: str, where: str) -> float:
    found = float(setting(values, key, float, where))
    if not 0 < found < float("inf"):
        raise UserError(f"{where}: {key}={values[key]!r}; expected a number above 0")
    return found


def _part(where: str, share: Any) -> str:
    return f"{where}: partial_rotary_factor={share!r} would need rotary positions of a part of a head; expected 1.0"


def windows(values: dict, kind: str, layers: int, where: str) -> dict[str, int]:
    """{"sliding_window", "global_every"}: which layers slide is the class's choice, and the file's
    where it reads it."""
    window, types = _window(values, kind, where), _layer_types(values, layers, where)
    if kind == "gemma3_text":
        key = "sliding_window_pattern"
        every = setting(values, key, int, where, None if types is None and key in values else 6)
    else:
        every = {"gemma2": 2, "mistral": 0}.get(kind, 1)  # every so many-th sees all; 0: none does
        if values.get("sliding_window_pattern") not in (None, every):
            raise UserError(
                f"{where}: sliding_window_pattern={values['sliding_window_pattern']!r} is no setting of a {kind}"
            )
    own = [FULL if every and (i + 1) % every == 0 else SLIDING for i in range(layers)]
    if kind in ("qwen2", "qwen3") and window:
        key = "max_window_layers"
        first = (
            0
            if values.get(key) == 0
            else setting(values, key, int, where, None if key in values else FIRST_SLIDING)
        )
        own = [SLIDING if i >= first else FULL for i in range(layers)]
    if kind == "mistral" and not window:
        own = [FULL] * layers
    if kind in ("llama", "mistral") and types not in (None, own):
        raise UserError(
            f"{where}: layer_types={sorted(set(types))}, which a {kind} does not read; its own are {sorted(set(own))}"
        )
    types = types or own
    if SLIDING not in types:
        return {"sliding_window": 0, "global_every": 0}
    if not window:
        off = "use_sliding_window" if kind in ("qwen2", "qwen3") else "sliding_window"
        raise UserError(
            f"{where}: layers slide ({SLIDING!r}), but {off}={values.get(off)!r} says that there is no window"
        )
    every = types.index(FULL) + 1 if FULL in types else 0
    if any((t == FULL) != bool(every and (i + 1) % every == 0) for i, t in enumerate(types)):
        raise UserError(
            f"{where}: layers slide in no regular pattern (layer_types); expected every n-th to be full"
        )
    return {"sliding_window": window, "global_every": every}


def _window(values: dict, kind: str, where: str) -> int:
    """Tokens that a sliding layer sees; 0: there is none."""
    if kind in ("qwen2", "qwen3") and not setting(values, "use_sliding_window", bool, where, False):
        return 0
    if "sliding_window" in values and values["sliding_window"] is None:
        return 0
    found = setting(values, "sliding_window", int, where, WINDOW)
    return 0 if kind == "llama" else found  # it reads none


def _layer_types(values: dict, layers: int, where: str) -> list[str] | None:
    types = values.get("layer_types")
    if types is not None and (
        not isinstance(types, list)
        or len(types) != layers
        or set(map(str, types)) - {FULL, SLIDING}
    ):
        found = (
            f"{sorted(set(map(str, types)))} of {len(types)}"
            if isinstance(types, list)
            else repr(types)
        )
        raise UserError(
            f"{where}: layer_types={found}; expected {layers} times {SLIDING!r} or {FULL!r}"
        )
    return types
