# SPDX-License-Identifier: Apache-2.0
"""Rotary positions and windows of a config.json: what `transformers` makes of each spelling
(tests/golden/make_rope.py) is what is computed here, or the spelling is refused."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from itx.errors import UserError
from itx.models import families
from itx.models.transformer import Stack

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rope.json").read_text())
CASES = {c["name"]: c for c in GOLDEN["cases"]}
# What is plain enough that nobody's file may be turned away for it, of every family
MUST_BE_READ = {
    "nothing",
    "theta",
    "theta 500",
    "scaling null",
    "parameters null",
    "the whole",
    "the whole, linear",
    "scaling: default",
    "scaling: linear",
    "scaling: linear, theta",
    "scaling: llama3",
    "scaling beside theta: linear",
    "scaling beside theta: llama3",
}
# ... of those that have one object for all layers
MUST_BE_READ_FLAT = {
    "parameters: default",
    "parameters: default, theta",
    "parameters: linear",
    "parameters: linear, theta",
    "parameters: llama3, theta",
    "parameters: linear as type",
    "scaling: linear as type",
    "scaling: llama3 as type",
    "parameters: no type",
    "both, linear in the old: default in the new",
    "both, linear in the new: linear in the old",
    "llama3, length 8 outside",
    "both, default in the old: theta outside",
}
MUST_BE_READ_BY_LAYER = {
    "by layer: default",
    "by layer: linear",
    "by layer: full alone",
    "by layer: llama3",
    "by layer: linear as type",
    "by layer beside theta: linear",
    "by layer beside linear: linear",
    "by layer: sliding alone",
    "a local base",
}
# No layer slides, so it does not matter that there is no window; transformers makes a mask of it
# all the same, and fails
NO_WINDOW_NEEDED = "types full"


def config(kind: str, change: dict) -> dict:
    """As `values` of make_rope.py."""
    found = {k: v for k, v in (GOLDEN["bases"][kind] | change).items() if v != "absent"}
    if kind == "gemma3":
        inner = {"model_type": "gemma3_text"} | found
        return {"model_type": kind, "text_config": inner, "vision_config": GOLDEN["vision"]}
    return {"model_type": kind} | found


@cache
def layers(cfg) -> list[tuple]:
    """(frequencies, factor of cos and sin, tokens that the last of TOKENS sees) of each layer."""
    tables = Stack.ropes(SimpleNamespace(cfg=cfg), np.ones((1, 1), np.int32))
    out = []
    for full in families.global_layers(cfg):
        slides = cfg.sliding_window and not full
        cos, sin = (
            np.asarray(t, np.float64)[0, 0, 0] for t in tables["sliding_rope" if slides else "rope"]
        )
        seen = min(cfg.sliding_window, GOLDEN["tokens"]) if slides else GOLDEN["tokens"]
        out.append((np.arctan2(sin, cos), np.hypot(sin, cos).mean(), seen))
    return out


def differs(ours: list[tuple], theirs: list[int]) -> bool:
    wanted = [GOLDEN["layers"][i] for i in theirs]
    return len(ours) != len(wanted) or any(
        not np.allclose(f, wf, rtol=1e-5, atol=1e-8) or abs(s - ws) > 1e-5 or n != wn
        for (f, s, n), (wf, ws, wn) in zip(ours, wanted, strict=True)
    )


@pytest.mark.parametrize("kind", GOLDEN["bases"])
def test_positions_and_windows_are_those_of_transformers_or_refused(kind):
    wrong, read, count = [], set(), Counter()
    for name, case in CASES.items():
        theirs = case["seen"].get(kind)
        if theirs is None:
            continue
        try:
            ours = layers(families.read(config(kind, case["change"]), "config.json"))
        except UserError as e:
            count["refused"] += 1
            assert str(e).startswith("config.json") and "\n" not in str(e)
            continue
        except Exception as e:  # a traceback for a file's mistake
            wrong.append((name, type(e).__name__))
            continue
        read.add(name)
        if isinstance(theirs, str):
            if NO_WINDOW_NEEDED not in name:
                wrong.append((name, f"transformers refuses it with a {theirs}"))
        elif differs(ours, theirs):
            wrong.append((name, "differs"))
    assert wrong == [], f"{len(wrong)} of {len(read) + count['refused']}"
    must = MUST_BE_READ | (
        MUST_BE_READ_BY_LAYER if kind.startswith("gemma3") else MUST_BE_READ_FLAT
    )
    assert {n for n in must if kind in CASES[n]["seen"]} - read == set()
    assert len(read) > 60 and count["refused"] > 40


def test_the_golden_file_tells_the_spellings_apart():
    """What is computed depends on what is spelled, of every family: else the comparison could not
    fail."""
    for kind in GOLDEN["bases"]:
        found = {
            str(c["seen"][kind]) for c in GOLDEN["cases"] if isinstance(c["seen"].get(kind), list)
        }
        assert len(found) > 12, kind
    either = CASES["both, linear in the old: default in the new"]["seen"]
    assert either["llama"] != CASES["parameters: default, theta"]["seen"]["llama"]
    sliding = CASES["by layer: both scaled"]["seen"]["gemma3_text"]
    assert sliding != CASES["by layer: linear"]["seen"]["gemma3_text"]


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("llama", "scaling: yarn", "rope_scaling: RoPE of type 'yarn'"),
        ("qwen3", "parameters: dynamic as type", "rope_parameters: RoPE of type 'dynamic'"),
        (
            "llama",
            "scaling: a part",
            "partial_rotary_factor=0.5 would need rotary positions of a part",
        ),
        ("mistral", "a part", "partial_rotary_factor=0.5 would need rotary positions of a part"),
        ("llama", "by layer: linear", "by the type of layer"),
        (
            "gemma3_text",
            "by layer: sliding scaled",
            "sliding_attention: RoPE of type 'linear'; sliding layers are not scaled",
        ),
        (
            "gemma3",
            "by layer: sliding scaled as type",
            "sliding_attention: RoPE of type 'linear'; sliding layers",
        ),
        (
            "gemma3_text",
            "scaling: linear as type",
            "type='linear' is what transformers 4 read; 5 reads rope_type='default'",
        ),
        (
            "gemma3_text",
            "parameters: linear",
            "an object for full_attention and one for sliding_attention",
        ),
        ("qwen2", "theta null", "no 'rope_theta'"),
        ("llama", "scaling: factor -2.0", "factor=-2.0; expected a number above 0"),
        (
            "llama",
            "scaling: llama3, low is high",
            "low_freq_factor=4.0 is not below high_freq_factor=4.0",
        ),
        (
            "qwen3",
            "window 5, use False, types turns",
            "layers slide .'sliding_attention'., but use_sliding_window=False",
        ),
        (
            "gemma2",
            "window None, use absent, types turns",
            "layers slide .'sliding_attention'., but sliding_window=None",
        ),
        ("mistral", "window 5, use absent, types full", "which a mistral does not read"),
    ],
)
def test_what_is_refused_is_named(kind, name, words):
    with pytest.raises(UserError, match=words):
        families.read(config(kind, CASES[name]["change"]), "config.json")
