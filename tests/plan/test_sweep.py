# SPDX-License-Identifier: Apache-2.0
"""`itx plan --sweep`: which layouts are ranked, by what, and which are compiled."""

import dataclasses
import json

import pytest

from itx import cli
from itx.plan import changes, chips, fast, plan, sweep
from tests.plan.test_plan import DECODER, flat_parameters

pytest.importorskip("libtpu", reason="libtpu, the compiler of TPUs, is not installed")


@pytest.fixture(autouse=True)
def several_may_compile(monkeypatch):
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def asked(cfg=DECODER, topology="v5e-4", slices=1, usable: int | None = None):
    found = chips.topology(topology, slices)
    if usable is not None:
        found = found._replace(chip=found.chip._replace(usable_bytes=usable))
    return plan.ask(cfg, found, lambda line: None)


def laid_out(*settings: str, **more):
    return changes.changed(asked(**more), changes.Change(settings, ""))


def test_splits_take_all_devices_and_divide_the_heads():
    model = dataclasses.replace(DECODER.model, num_heads=4, num_kv_heads=2)
    found = list(sweep.splits(dataclasses.replace(DECODER, model=model), 8))
    assert all(d * f * t == 8 for d, f, t in found) and len({*found}) == len(found)
    assert {t for _, _, t in found} == {1, 2} and {d for d, _, _ in found} == {1, 2, 4, 8}


def test_what_is_sent_follows_the_textbook():
    """Per device of 4, in bfloat16, remat "full": three gathers and a scatter of 3/4 of the weights
    under fsdp, a sum of twice 3/4 of the gradients under data; nothing on one device."""
    weights = 2 * flat_parameters(DECODER)
    full = laid_out("--mesh.data=1", "--mesh.fsdp=4", "--model.remat=full")
    assert sweep.sent_bytes(full)["ICI"] == pytest.approx(4 * weights * 3 / 4, rel=0.02)
    dots = laid_out("--mesh.data=1", "--mesh.fsdp=4", "--model.remat=dots")
    assert sweep.sent_bytes(dots)["ICI"] == pytest.approx(3 * weights * 3 / 4, rel=0.02)
    data = laid_out("--mesh.data=4", "--mesh.fsdp=1")
    assert sweep.sent_bytes(data)["ICI"] == pytest.approx(2 * weights * 3 / 4, rel=0.02)
    twice = laid_out("--mesh.data=1", "--mesh.fsdp=4", "--model.remat=full", "--train.microbatches=2")  # fmt: skip
    assert sweep.sent_bytes(twice)["ICI"] == pytest.approx(2 * sweep.sent_bytes(full)["ICI"])
    assert sum(sweep.sent_bytes(laid_out(topology="v5e-1")).values()) == 0
    slices = laid_out("--mesh.fsdp=4", topology="v5e-4", slices=2)
    assert sweep.sent_bytes(slices)["DCN"] == pytest.approx(weights / 4, rel=0.02)


def test_the_fewest_microbatches_that_fit_are_taken_and_the_fastest_comes_first(capsys):
    easy, none_out = sweep.ranked(asked(), lambda line: None)
    assert all("--train.microbatches=1" in r.settings for r in easy)
    in_turn = [r.seconds["in_turn"] for r in easy]
    assert in_turn == sorted(in_turn) and none_out["predicted not to fit"] == 0
    whole = max(r.predicted_bytes for r in easy)
    tight, out = sweep.ranked(asked(usable=whole - 1), lambda line: None)
    assert len(tight) + sum(out.values()) == len(easy) + sum(none_out.values())
    assert all(fast.fits(r.asked, fast.predict(r.asked)) for r in tight)
    assert any("--train.microbatches=2" in r.settings for r in tight)
    nothing, out = sweep.ranked(asked(usable=1), lambda line: None)
    assert nothing == [] and out["predicted not to fit"] == len(easy)


def test_the_best_are_compiled_until_three_fit_or_the_time_is_over(monkeypatch):
    found, _ = sweep.ranked(asked(), lambda line: None)
    verdicts = iter(["does not fit", "fits", "fits", "fits"])
    monkeypatch.setattr(changes, "by_compiler", lambda own, say: {"verdict": next(verdicts)})
    told = sweep.compiled(found, 99.0, lambda: 0.0, lambda line: None)
    assert [t["verdict"] for t in told[:4]] == ["does not fit", "fits", "fits", "fits"]
    assert {t["verdict"] for t in told[4:]} == {"not compiled: 3 faster ones fit"}
    assert [t["settings"] for t in told] == [list(r.settings) for r in found]
    late = sweep.compiled(found, 0.0, lambda: 0.0, lambda line: None)
    assert {t["verdict"] for t in late} == {"not compiled: --max_seconds=0 were over"}


@pytest.mark.parametrize(("verdict", "code"), [("fits", 0), ("does not fit", 1)])
def test_the_command_says_which_is_the_fastest(monkeypatch, tmp_path, capsys, verdict, code):
    monkeypatch.setattr(changes, "by_compiler", lambda own, say: {"verdict": verdict})
    words = ["plan", "configs/qwen3_4b.py", "--topology=v5p-16", "--sweep", "--data.global_batch=8"]
    assert cli.main([*words, f"--json={tmp_path / 'plan.json'}"]) == code
    facts = json.loads((tmp_path / "plan.json").read_text())
    out = capsys.readouterr().out
    if code == 0:
        assert f"compiled and fits: {' '.join(facts['sweep'][0]['settings'])}" in out
    else:
        assert "no layout was compiled that fits" in out


@pytest.mark.parametrize("other", ["--fast", "--programs=train", "--price_per_chip_hour=1"])
def test_what_a_sweep_does_not_do_is_refused(capsys, other):
    assert cli.main(["plan", "configs/qwen3_4b.py", "--topology=v5p-16", "--sweep", other]) == 2
    assert "beside --" in capsys.readouterr().err
