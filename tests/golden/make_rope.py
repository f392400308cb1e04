# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/rope.json: what `transformers` makes of every spelling of rotary positions and
windows.

    uv venv hf && uv pip install --python hf/bin/python torch transformers
    hf/bin/python tests/golden/make_rope.py

A case is a family's BASE with some keys changed, loaded from a config.json as a user's is. Of each
layer of the model it has what its attention was handed in a forward pass of TOKENS tokens: the
rotary frequencies (angles of position 1), the factor that cos and sin were multiplied by, and how
many tokens the last one sees. Where the config or the forward pass is refused, the case has the
error's name instead.
"""

import json
import logging
import tempfile
import warnings
from pathlib import Path

import torch
import transformers as tf

HERE = Path(__file__).parent
TOKENS = 12
SIZES = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}  # fmt: skip
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8,
          "patch_size": 4, "model_type": "siglip_vision_model"}  # fmt: skip
GEMMA = {"sliding_window": 5, "query_pre_attn_scalar": 8}
BASES = {
    "llama": SIZES,
    "mistral": SIZES,
    "qwen2": {k: v for k, v in SIZES.items() if k != "head_dim"},  # it has no such key
    "qwen3": SIZES,
    "gemma2": SIZES | GEMMA,
    "gemma3_text": SIZES | GEMMA | {"sliding_window_pattern": 2},
    "gemma3": SIZES | GEMMA | {"sliding_window_pattern": 2},  # changed inside its text_config
}

LLAMA3 = {
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG = {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 32,
}
LINEAR, DEFAULT = {"rope_type": "linear", "factor": 4.0}, {"rope_type": "default"}
FULL, SLIDING = "full_attention", "sliding_attention"


def scalings() -> dict[str, dict]:
    """What may stand in `rope_scaling` as well as, flat, in `rope_parameters`."""
    linear = {
        "factor " + json.dumps(f): {"rope_type": "linear", "factor": f}
        for f in (1.0, 2, 0.5, 0, -2.0, "4", None)
    }
    return {
        "empty": {}, "default": DEFAULT, "default, a factor": DEFAULT | {"factor": 4.0}, "no type": {"factor": 4.0},
        "theta": {"rope_theta": 500.0}, "default, theta": DEFAULT | {"rope_theta": 500.0},
        "theta null": DEFAULT | {"rope_theta": None}, "linear": LINEAR, "linear, theta": LINEAR | {"rope_theta": 500.0},
        "linear as type": {"type": "linear", "factor": 4.0}, "default as type": {"type": "default"},
        "linear, dynamic as type": LINEAR | {"type": "dynamic"}, "default, linear as type": LINEAR | DEFAULT | {"type": "linear"},
        "linear, no factor": {"rope_type": "linear"}, "linear, a length": LINEAR | {"original_max_position_embeddings": 16},
        "linear, attention factor": LINEAR | {"attention_factor": 2.0}, **linear,
        "dynamic": {"rope_type": "dynamic", "factor": 4.0}, "dynamic as type": {"type": "dynamic", "factor": 4.0},
        "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        "yarn as type": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        "yarn, no length": {"rope_type": "yarn", "factor": 4.0},
        "yarn, attention factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0},
        "yarn, theta": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0},
        "longrope": LONG | {"rope_type": "longrope"}, "longrope as type": LONG | {"type": "longrope"},
        "longrope, factor": LONG | {"rope_type": "longrope", "factor": 2.0}, "su": LONG | {"type": "su"},
        "llama3": LLAMA3 | {"rope_type": "llama3"}, "llama3 as type": LLAMA3 | {"type": "llama3"},
        "llama3, theta": LLAMA3 | {"rope_type": "llama3", "rope_theta": 500.0},
        "llama3, no length": {k: v for k, v in LLAMA3.items() if k[0] != "o"} | {"rope_type": "llama3"},
        "llama3, no low": {k: v for k, v in LLAMA3.items() if k[0] != "l"} | {"rope_type": "llama3"},
        "llama3, low is high": LLAMA3 | {"rope_type": "llama3", "low_freq_factor": 4.0},
        "llama3, low above high": LLAMA3 | {"rope_type": "llama3", "low_freq_factor": 8.0},
        "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 500.0},
        "mrope": {"type": "mrope", "mrope_section": [1, 1, 2]}, "cubic": {"rope_type": "cubic", "factor": 4.0},
        "type null": {"rope_type": None}, "a part": DEFAULT | {"partial_rotary_factor": 0.5},
        "linear, a part": LINEAR | {"partial_rotary_factor": 0.5}, "linear, the whole": LINEAR | {"partial_rotary_factor": 1.0},
    }  # fmt: skip


def rotary() -> dict[str, dict]:
    out = {
        "nothing": {}, "theta": {"rope_theta": 500.0}, "theta 500": {"rope_theta": 500}, "theta null": {"rope_theta": None},
        "theta 0": {"rope_theta": 0}, "theta '500'": {"rope_theta": "500"}, "scaling null": {"rope_scaling": None},
        "parameters null": {"rope_parameters": None}, "a part": {"partial_rotary_factor": 0.5},
        "a part, linear": {"partial_rotary_factor": 0.5, "rope_scaling": LINEAR},
        "the whole": {"partial_rotary_factor": 1.0}, "the whole, linear": {"partial_rotary_factor": 1.0, "rope_scaling": LINEAR},
        "a local base": {"rope_local_base_freq": 300.0}, "a local base and theta": {"rope_local_base_freq": 300.0, "rope_theta": 500.0},
        "a local base null": {"rope_local_base_freq": None}, "scaling a name": {"rope_scaling": "linear"},
        "parameters a name": {"rope_parameters": "linear"},
    }  # fmt: skip
    for name, found in scalings().items():
        out[f"scaling: {name}"] = {"rope_scaling": found}
        out[f"parameters: {name}"] = {"rope_parameters": found}
    for name in (
        "empty",
        "default",
        "theta",
        "linear",
        "linear, theta",
        "linear as type",
        "llama3",
        "yarn",
    ):
        found = scalings()[name]
        out[f"scaling beside theta: {name}"] = {"rope_scaling": found, "rope_theta": 700.0}
        out[f"parameters beside theta: {name}"] = {"rope_parameters": found, "rope_theta": 700.0}
        out[f"parameters beside theta null: {name}"] = {
            "rope_parameters": found,
            "rope_theta": None,
        }
        out[f"both, {name} in the new: linear in the old"] = {
            "rope_parameters": found, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}  # fmt: skip
        out[f"both, {name} in the old: default in the new"] = {
            "rope_scaling": found, "rope_parameters": DEFAULT | {"rope_theta": 500.0}}  # fmt: skip
        out[f"both, {name} in the old: theta outside"] = {
            "rope_scaling": found, "rope_parameters": LINEAR | {"rope_theta": 500.0}, "rope_theta": 700.0}  # fmt: skip
    for outer in (8, None):
        out[f"llama3, length {outer} outside"] = {
            "rope_scaling": LLAMA3 | {"rope_type": "llama3"}, "original_max_position_embeddings": outer}  # fmt: skip
    linear_length = LINEAR | {"original_max_position_embeddings": 16}
    out["linear, length outside"] = {
        "rope_scaling": linear_length,
        "original_max_position_embeddings": 8,
    }
    by_layer = {
        "full alone": {FULL: LINEAR}, "sliding alone": {SLIDING: DEFAULT | {"rope_theta": 300.0}},
        "default": {FULL: DEFAULT, SLIDING: DEFAULT}, "empty": {FULL: {}, SLIDING: {}}, "null": {FULL: None, SLIDING: None},
        "linear": {FULL: LINEAR | {"rope_theta": 500.0}, SLIDING: DEFAULT | {"rope_theta": 300.0}},
        "linear as type": {FULL: {"type": "linear", "factor": 4.0}, SLIDING: DEFAULT},
        "llama3": {FULL: LLAMA3 | {"rope_type": "llama3"}, SLIDING: DEFAULT},
        "llama3, no length": {FULL: scalings()["llama3, no length"], SLIDING: DEFAULT},
        "yarn": {FULL: scalings()["yarn"], SLIDING: DEFAULT},
        "sliding scaled": {FULL: DEFAULT, SLIDING: LINEAR}, "sliding scaled as type": {FULL: DEFAULT, SLIDING: {"type": "linear", "factor": 4.0}},
        "sliding scaled by 1": {FULL: DEFAULT, SLIDING: {"rope_type": "linear", "factor": 1.0}},
        "both scaled": {FULL: LINEAR, SLIDING: LINEAR}, "both llama3": {FULL: scalings()["llama3"], SLIDING: scalings()["llama3"]},
        "and flat": {FULL: LINEAR, SLIDING: DEFAULT, "rope_theta": 500.0},
        "and another": {FULL: LINEAR, SLIDING: DEFAULT, "chunked_attention": LINEAR},
        "a part": {FULL: DEFAULT | {"partial_rotary_factor": 0.5}, SLIDING: DEFAULT},
    }  # fmt: skip
    for name, found in by_layer.items():
        out[f"by layer: {name}"] = {"rope_parameters": found}
        out[f"by layer beside theta: {name}"] = {
            "rope_parameters": found,
            "rope_theta": 700.0,
            "rope_local_base_freq": 200.0,
        }
        out[f"by layer beside linear: {name}"] = {
            "rope_parameters": found, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}  # fmt: skip
        out[f"by layer in the old: {name}"] = {"rope_scaling": found}
    return out


def windows() -> dict[str, dict]:
    types = {"full": [FULL] * 3, "slide": [SLIDING] * 3, "turns": [SLIDING, FULL, SLIDING], "late": [FULL, SLIDING, SLIDING],
             "few": [FULL], "chunks": ["chunked_attention"] * 3}  # fmt: skip
    out = {}
    for window in (5, None, 0, "absent"):
        base = {"sliding_window": window}
        for use in (True, False, "absent"):
            for name, layers in {"": "absent", **types}.items():
                if window == 0 and name not in ("", "slide"):
                    continue
                found = base | {"use_sliding_window": use, "layer_types": layers}
                key = f"window {window}, use {use}, types {name or 'absent'}"
                out[key] = {
                    k: v for k, v in found.items() if v != "absent" or k == "sliding_window"
                }
    for most in (0, 1, 2, 3, 28, None):
        out[f"from layer {most} on"] = {
            "sliding_window": 5,
            "use_sliding_window": True,
            "max_window_layers": most,
        }
    for every in (1, 2, 3, None, 0):
        out[f"every {every}"] = {"sliding_window": 5, "sliding_window_pattern": every}
        out[f"every {every}, types"] = {
            "sliding_window": 5,
            "sliding_window_pattern": every,
            "layer_types": types["turns"],
        }
    return out


def values(kind: str, change: dict) -> dict:
    found = {k: v for k, v in (BASES[kind] | change).items() if v != "absent"}
    if kind == "gemma3":
        return {
            "model_type": kind,
            "text_config": {"model_type": "gemma3_text"} | found,
            "vision_config": VISION,
        }
    return {"model_type": kind} | found


def seen(config: dict) -> list | str:
    """Of each layer what its attention is handed; or the name of the error."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        try:
            model = tf.AutoModelForCausalLM.from_config(
                tf.AutoConfig.from_pretrained(folder), attn_implementation="eager"
            )
            layers = [
                m for n, m in model.named_modules() if n.endswith("self_attn") and "vision" not in n
            ]
            handed = []

            def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
                handed.append((kwargs["position_embeddings"], kwargs["attention_mask"]))

            for layer in layers:
                layer.register_forward_pre_hook(hook, with_kwargs=True)
            model.eval()(input_ids=torch.arange(TOKENS)[None])
        except Exception as e:
            return type(e).__name__
    out = []
    for (cos, sin), mask in handed:
        half = cos.shape[-1] // 2
        cos, sin = cos[0, 1, :half].double(), sin[0, 1, :half].double()
        out.append([[round(x, 9) for x in torch.atan2(sin, cos).tolist()], round(torch.hypot(sin, cos).mean().item(), 6),
                    int((mask[0, 0, -1] > -1).sum())])  # fmt: skip
    return out


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    layers, cases = [], []
    for name, change in (rotary() | windows()).items():
        case = {"name": name, "change": change, "seen": {}}
        for kind in BASES:
            # only Gemma 3 reads objects by type of layer; of the others two show it
            if "by layer" in name and kind in ("mistral", "qwen2", "gemma2"):
                continue
            if kind == "gemma3" and (name.startswith("window") or "parameters beside" in name):
                continue  # as in gemma3_text
            found = seen(values(kind, change))
            if isinstance(found, list):
                layers += [one for one in found if one not in layers]
                found = [layers.index(one) for one in found]
            case["seen"][kind] = found
        cases.append(json.dumps(case))
    head = {
        "tokens": TOKENS,
        "transformers": tf.__version__,
        "bases": BASES,
        "vision": VISION,
        "layers": layers,
    }
    (HERE / "rope.json").write_text(
        json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(cases) + "\n]}\n"
    )
    print(len(cases), "cases,", len(layers), "layers")
