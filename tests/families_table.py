# SPDX-License-Identifier: Apache-2.0
"""Write the README's table of families: sizes counted by shapes, and how far our logits are from
`transformers`'.

    uv run python -m tests.families_table

The error is that of a tiny random model which `transformers` wrote, all norms moved off their
start, padded rows longer than its sliding window (tests/golden/make_hf.py): the largest difference
of a logit by the largest logit, float32.
"""

import jax
import numpy as np

from itx import restore
from itx.config import RunConfig
from itx.models import families, hf, presets
from itx.params import parameters
from tests.models import test_hf as goldens
from tests.readme_figures import put


def size(name: str) -> str:
    """Parameters of a published model."""
    cfg = presets.published(name)
    shapes = parameters(restore.abstract_model(RunConfig(model=cfg), 0)[1])
    n = sum(x.size for x in shapes.values())
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.0f} M"


def error(golden: str) -> float:
    """Largest difference of a logit, by the largest logit."""
    cfg, params, g = goldens.golden(golden)
    inputs, mask = goldens.batch(g, goldens.side)
    out = np.asarray(jax.jit(lambda b: goldens.model_of(cfg, params)(b))(inputs))
    return float(np.abs(out - g["logits"])[mask > 0].max() / np.abs(g["logits"]).max())


def kind_of(model_type: str, gated: bool) -> str:
    """T5 1.0 and 1.1 have one model_type and a golden model each."""
    return model_type + " gated" * (model_type == "t5" and gated)


def table() -> str:
    """A row for each golden model: the family, the published models of it that have a name here,
    the error."""
    rows = [
        [
            "family",
            "published sizes by name (parameters)",
            "logits: largest error by largest logit",
        ],
        ["---"] * 3,
    ]
    of: dict[str, list[str]] = {}
    for name, cfg in presets.PUBLISHED.items():
        # what mT5 computes is T5 1.1 with other rows
        kind = "mt5" if name.startswith("mt5") else families.family_of(cfg)
        of.setdefault(kind_of(kind, cfg.mlp_gated), []).append(name)
    for golden in goldens.FAMILIES:
        kind = hf.read_config(goldens.GOLDEN / golden)["model_type"]
        cfg, family = hf.model_config(goldens.GOLDEN / golden), families.FAMILIES[kind]
        sizes = ", ".join(f"`{n}` {size(n)}" for n in of.pop(kind_of(kind, cfg.mlp_gated)))
        about = ", gated MLP" if kind == "t5" and cfg.mlp_gated else ""
        rows.append([family.classname + about, sizes, f"{error(golden):.1e}"])
    assert not of, f"no golden model of {list(of)}"
    return "\n".join("| " + " | ".join(r) + " |" for r in rows) + "\n"


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    put("families", "uv run python -m tests.families_table", table())


if __name__ == "__main__":
    main()
