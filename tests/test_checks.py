# SPDX-License-Identifier: Apache-2.0
"""`itx doctor` and its checks (itx/checks.py): each passes on a sound run, and each sees a fault that
is planted in what it looks at.

uv run pytest -m slow tests/test_checks.py     all checks through the command; two processes
"""

import dataclasses
import json
import resource

import jax
import numpy as np
import pytest

from itx import checks, cli, compared, peft, restore, train, two_processes
from itx import config as configs
from itx import mesh as meshes
from itx.config import PeftConfig
from itx.errors import RunFailed, UserError
from itx.models import attention, hf
from itx.shrunk import Folded, Shrunk, shrunk
from tests.samples import config, itx, write_recipe


@pytest.fixture(scope="module")
def run(sample_cache, sample_locks) -> Shrunk:
    """A decoder that can be exported, tuned by LoRA with dropout."""
    made = config(str(sample_cache))
    made = dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, smear=0),
        peft=PeftConfig(method="lora", rank=3, dropout=0.1),
    )
    return shrunk(made, sample_locks["sample_held"])


def states(run: Shrunk, folder, *names: str) -> dict[str, str]:
    """{what must be equal: its state}."""
    return {f.what: f.state for name in names for f in checks.CHECKS[name][1](run, folder)}


def test_a_run_is_made_small_and_says_how(run, sample_locks):
    lock = sample_locks["sample_held"]
    assert run.config.model.embed_dim == 64 and run.config.peft.rank == 3
    assert run.config.optim.name == config("").optim.name
    batch = run.batches().batch(0)
    assert batch["decoder_target_tokens"].shape == (8, 128) == (8, lock["sequence_length"])
    assert batch["decoder_target_tokens"].max() < run.ids and compared.most_segments(batch) > 2
    words = " ".join(run.notes)
    assert "0 are cut to fit and 0 left out" in words and "random weights" in words
    long = {**lock, "sequence_length": 4096, "target_length": 1024}
    assert shrunk(run.config, long).lock["sequence_length"] == 192


def test_examples_that_do_not_fit_are_counted(run, sample_locks, monkeypatch):
    lock = sample_locks["sample_held"]
    monkeypatch.setattr("itx.shrunk.ROW_TOKENS", 24)
    monkeypatch.setattr("itx.shrunk.TARGET_TOKENS", 8)
    small = shrunk(run.config, lock)
    assert small.lock["sequence_length"] == 24 and " 0 are cut to fit" not in small.notes[0]
    assert small.batches().batch(0)["decoder_target_tokens"].shape == (8, 24)
    monkeypatch.setattr("itx.shrunk.ROW_TOKENS", 1)
    with pytest.raises(UserError, match="no example fits a row of 1 tokens"):
        shrunk(run.config, lock)


def test_a_difference_that_is_no_number_is_the_largest():
    nan = float("nan")
    assert compared.farthest(iter([("a", 0.1), ("b", nan), ("c", 0.2)])) == (float("inf"), "b")
    assert compared.relative([0.0, 2.0], [0.0, 1.0]) == 0.5 and compared.relative([0], [0]) == 0.0
    assert compared.relative([0.0], [1e-9]) == float("inf")
    for bad in (nan, float("inf"), -float("inf")):
        for a, b in (([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad]), ([bad], [bad])):
            assert compared.relative(a, b) == float("inf") and not compared.differ(a, b)
    assert compared.differ([1.0], [1.1]) and not compared.differ([1.0], [1.0 + 1e-6])
    assert compared.untested(3, "a", "no").state == "not tested"


def test_examples_alone_hold_what_they_held_packed(run):
    batch = run.batches().batch(0)
    alone = compared.unpacked(batch, rows=8)
    assert compared.most_segments(batch) > 1 == compared.most_segments(alone)
    assert len(alone["task_ids"]) % 8 == 0
    for key in ("decoder_loss_weights", "decoder_target_tokens"):
        assert alone[key].sum() == batch[key].sum()
    for one in (batch, alone):
        places = np.sort(np.argwhere(one["decoder_loss_weights"] > 0)[:, 1])
        assert np.array_equal(np.sort(one["loss_positions"][one["loss_positions"] >= 0]), places)


SOUND = {"batches": 2, "adapter": 2, "interop": 2, "isolation": 1}  # check: what it finds
# in the default suite tests of small models ask these: test_train.py, test_meshes.py
SLOW = {"resume": 2, "packing": 2, "microbatches": 2}


def test_rows_of_one_example_test_no_packing(run, tmp_path, monkeypatch):
    inner = Folded.batch
    monkeypatch.setattr(Folded, "batch", lambda *a: compared.unpacked(inner(*a), rows=8))
    assert set(states(run, tmp_path, "packing", "isolation").values()) == {"not tested"}


@pytest.mark.parametrize("name", [*SOUND, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_a_sound_run_passes(run, tmp_path, name):
    found = states(run, tmp_path, name)
    assert list(found.values()) == ["ok"] * (SOUND | SLOW)[name], found


def failing(run: Shrunk, folder, name: str) -> list[str]:
    return [what for what, state in states(run, folder, name).items() if state == "FAILS"]


def test_batches_that_depend_on_what_was_read_are_seen(run, tmp_path, monkeypatch):
    inner, count = Folded.batch, iter(range(1000))

    def batch(self, step, rows=None):
        held = inner(self, step, rows)
        return {**held, "task_ids": held["task_ids"] + next(count)}

    monkeypatch.setattr(Folded, "batch", batch)
    assert len(failing(run, tmp_path, "batches")) == 2


@pytest.mark.slow
def test_a_resume_that_forgets_the_optimizer_is_seen(run, tmp_path, monkeypatch):
    inner = restore.restore

    def forgets(checkpoints, step, setup):
        state, frozen = inner(checkpoints, step, setup)
        fresh, _ = setup.init()
        return {**state, "opt_state": fresh["opt_state"]}, frozen

    monkeypatch.setattr(restore, "restore", forgets)
    assert len(failing(run, tmp_path, "resume")) == 2


def test_attention_across_examples_is_seen(run, tmp_path, monkeypatch):
    inner = attention.bias

    def sees_all(q_segments, k_segments, *rest, **more):
        q_segments, k_segments = ((s > 0).astype(s.dtype) for s in (q_segments, k_segments))
        return inner(q_segments, k_segments, *rest, **more)

    monkeypatch.setattr(attention, "bias", sees_all)
    assert len(failing(run, tmp_path, "isolation")) == 1
    assert len(failing(run, tmp_path, "packing")) == 2


@pytest.mark.slow
def test_a_mean_of_means_is_seen(run, tmp_path, monkeypatch):
    inner = train.summed_gradients

    def half(objective, params, frozen, batch, parts):
        if parts > 1:  # the last part is lost
            batch = jax.tree.map(lambda x: x.at[parts - 1 :: parts].set(x[::parts]), batch)
        return inner(objective, params, frozen, batch, parts)

    monkeypatch.setattr(train, "summed_gradients", half)
    assert len(failing(run, tmp_path, "microbatches")) == 2


@pytest.mark.slow
def test_rows_that_a_mesh_loses_are_seen(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        compared, "MESHES", {k: compared.MESHES[k] for k in ("1×1", "fsdp 4 × tensor 2")}
    )
    assert set(states(run, tmp_path, "meshes").values()) == {"ok"}
    inner = meshes.put

    def loses(batch, mesh, *rest):
        if mesh.size > 1:
            batch = {k: np.concatenate([v[:-1], v[:1]]) for k, v in batch.items()}
        return inner(batch, mesh, *rest)

    monkeypatch.setattr(meshes, "put", loses)
    assert len(failing(run, tmp_path, "meshes")) == 2


def test_an_adapter_that_begins_elsewhere_or_merges_wrongly_is_seen(run, tmp_path, monkeypatch):
    inner = peft.LoRA.merged
    monkeypatch.setattr(peft.LoRA, "merged", lambda self, w: inner(self, w) * 1.01)
    assert failing(run, tmp_path, "adapter") == ["merged = adapter"]
    monkeypatch.setattr(peft.LoRA, "merged", inner)
    add = peft.ADD["lora"]

    def begins_elsewhere(model, settings, rngs):
        add(model, settings, rngs)
        lora = model.decoder.blocks.attention.wq_lora
        lora.b[...] = lora.b[...] + 0.1

    monkeypatch.setitem(peft.ADD, "lora", begins_elsewhere)
    assert failing(run, tmp_path, "adapter") == ["lora at its start = base"]


def test_logits_that_are_no_numbers_fail(run, tmp_path, monkeypatch):
    """On one side or on both, where each difference is NaN: a check that found nothing to compare
    must not pass for one that was not asked."""
    merged, logits, load = peft.LoRA.merged, compared.logits, hf.load
    monkeypatch.setattr(peft.LoRA, "merged", lambda self, w: merged(self, w) * np.nan)
    assert failing(run, tmp_path, "adapter") == ["merged = adapter"]
    monkeypatch.setattr(peft.LoRA, "merged", merged)
    moved = compared.moved
    monkeypatch.setattr(compared, "moved", lambda p: {k: v * np.nan for k, v in moved(p).items()})
    both = ["lora at its start = base", "merged = adapter"]
    assert failing(run, tmp_path, "adapter") == both
    monkeypatch.setattr(compared, "moved", moved)
    broken = {"x": np.nan}
    monkeypatch.setattr(hf, "load", lambda *a: {k: v * broken["x"] for k, v in load(*a).items()})
    for broken["x"] in (np.nan, np.inf):
        assert failing(run, tmp_path, "interop") == ["exported and read = the model"]
    # where only what stands beside an example is no number, nothing shows that it is not seen

    def of_the_first(graphdef, params, batch):
        first = (batch["decoder_segment_ids"] == 1)[..., None]
        return np.where(first, logits(graphdef, params, batch), np.nan)

    monkeypatch.setattr(compared, "logits", of_the_first)
    assert len(failing(run, tmp_path, "isolation")) == 1


@pytest.mark.parametrize(
    "error, where",
    [
        (RunFailed("process 1 of 2: exit 1"), "process 1 of 2: exit 1"),
        (ValueError("\nshapes differ\nand more"), "ValueError: shapes differ"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_check_that_comes_to_no_end_fails_and_the_others_go_on(run, monkeypatch, error, where):
    def ends(run, folder):
        raise error

    monkeypatch.setitem(checks.CHECKS, "processes", (3, ends))
    one, *others = checks.run_all(run, ["processes", "batches"])
    assert (one.state, one.where) == ("FAILS", where)
    assert [f.state for f in others] == ["ok", "ok"]
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        checks.run_all(run, ["processes", "batches"])


def test_an_export_that_changes_a_weight_is_seen(run, tmp_path, monkeypatch):
    inner = hf.tensor

    def rounds(params, path, layer, dtype):
        return inner(params, path, layer, dtype).astype(np.float16).astype(dtype)

    monkeypatch.setattr(hf, "tensor", rounds)
    assert failing(run, tmp_path, "interop") == ["exported and read = the model"]


@pytest.mark.slow
def test_processes_that_differ_are_seen(run, tmp_path, monkeypatch):
    assert set(states(run, tmp_path / "sound", "processes").values()) == {"ok"}
    inner = configs.to_dict

    def other_seed(held):
        made = inner(held)
        return {**made, "train": {**made["train"], "seed": made["train"]["seed"] + 1}}

    monkeypatch.setattr(two_processes.configs, "to_dict", other_seed)
    (fault,) = failing(run, tmp_path / "other", "processes")
    assert fault.endswith("1 = 2 processes")


def test_the_command_says_what_it_found(sample_cache, sample_locks, tmp_path, capsys, monkeypatch):
    """In this process, which has eight devices already."""
    monkeypatch.setattr("itx.commands.doctor._eight_cpu_devices", lambda folder: None)
    file = write_recipe(tmp_path, sample_cache)
    lock = next(f for f in (sample_cache / "locks").iterdir() if '"sample_held"' in f.read_text())
    words = ["doctor", str(file), "--lock", str(lock), "--json", str(tmp_path / "facts.json")]
    assert cli.main([*words, "--checks=batches,isolation"]) == 0
    said = capsys.readouterr().out
    assert "0 of 3 equalities fail; 0 not tested" in said and "token ids" in said
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert [c["state"] for c in facts["checks"]] == ["ok"] * 3 and facts["failed"] == []
    assert cli.main([*words, "--checks=adapter"]) == 0
    assert "1 not tested" in capsys.readouterr().out
    monkeypatch.setattr(compared, "MAX_LOGITS", -1.0)
    assert cli.main([*words, "--checks=isolation"]) == 1
    assert "1 of 1 equalities fail: an example whatever" in capsys.readouterr().out
    assert cli.main([*words, "--checks=meshs"]) == 2
    assert "did you mean 'meshes'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_all_of_it_passes_in_the_work_of_three_minutes(sample_cache, tmp_path, architecture):
    """Of two cores: seconds of the processor, which do not grow with what else runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    file = write_recipe(tmp_path, sample_cache, architecture=architecture)
    done = itx("doctor", file, "--json", tmp_path / "facts.json")
    facts = json.loads((tmp_path / "facts.json").read_text())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 2 * 180 and len(facts["checks"]) == 21, done.stdout
    assert {c["state"] for c in facts["checks"]} <= {"ok", "not tested"}
    assert sum(c["state"] == "ok" for c in facts["checks"]) >= 19
