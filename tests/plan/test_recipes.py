# SPDX-License-Identifier: Apache-2.0
"""The recipes on their machines still take what tests/benchmarks/plan.json says."""

import json

import pytest

from itx.plan.plan import environment
from tests import plan_table
from tests.conftest import need


@pytest.mark.slow
@pytest.mark.parametrize("name", plan_table.ROWS)
def test_a_recipe_takes_what_the_table_says(name):
    """Minutes each: nice -n 10 uv run pytest -m slow tests/plan -k "Qwen and train" -n 0"""
    need("libtpu")
    recorded = json.loads(plan_table.FILE.read_text("utf-8"))["rows"].get(name)
    if recorded is None:
        pytest.skip(f"{name}: not recorded yet; python -m tests.plan_table measures it")
    versions = {k: environment()[k] for k in ("jax", "libtpu")}
    if {k: recorded["environment"][k] for k in versions} != versions:
        pytest.skip(f"{name}: recorded with other versions than {versions}")
    for before, now in zip(recorded["programs"], plan_table.measure(name)["programs"], strict=True):
        assert (now["program"], now["fits"]) == (before["program"], before["fits"])
        if "peak_bytes" in before:
            assert now["peak_bytes"] == pytest.approx(before["peak_bytes"], rel=0.01)
