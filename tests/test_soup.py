# SPDX-License-Identifier: Apache-2.0
"""Means of checkpoints: their numbers, that every command takes them, and what cannot be
averaged."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from itx import cli, pretrained, restore, soup, storage
from itx import mesh as meshes
from itx.checkpoint import Checkpoints
from itx.config import MeshConfig, PeftConfig, to_dict
from itx.errors import UserError
from itx.eval import evaluate, retention
from itx.runs import RunFolder
from tests import samples, tiny


@pytest.fixture(scope="module")
def drawn(sample_cache, sample_locks):
    """Makes a run folder with one checkpoint whose parameters are drawn from a seed."""
    lock = sample_locks["sample_held"]

    def make(folder, seed, step=6, lock=lock, **settings):
        config = samples.config(str(sample_cache))
        model = tiny.decoder(**{"smear": 0, **settings})
        train = dataclasses.replace(config.train, seed=seed)
        config = dataclasses.replace(config, model=model, train=train)
        run = RunFolder(folder)
        mesh = meshes.make_mesh(MeshConfig(data=1, fsdp=-1))
        fresh = dataclasses.replace(config, model=dataclasses.replace(model, pretrained=""))
        params = restore.initialiser(fresh, lock["vocabulary"]["size"], mesh)()
        with Checkpoints(run.checkpoints, keep=None) as checkpoints:
            checkpoints.save(step, params, None, {"step": step})
        vocabulary = sample_cache / lock["vocabulary"]["file"]
        storage.copy_folder(vocabulary.parent, run.vocab_model.parent)
        storage.write_json(run.lock_json, storage.sealed(lock))
        about = {"file": "recipe.py", "config": to_dict(config), "origin": {}}
        storage.write_json(run.config_json, storage.sealed(about))
        return run

    return make


@pytest.fixture(scope="module")
def runs(drawn, tmp_path_factory):
    """A base and two runs that began from it."""
    folder = tmp_path_factory.mktemp("soup")
    base = str(drawn(folder / "base", 0).path)
    return [base, *(str(drawn(folder / f"run{i}", i, pretrained=base).path) for i in (1, 2))]


def values(path) -> dict[str, np.ndarray]:
    begin = pretrained.find(str(path))
    with Checkpoints(begin.run.checkpoints, read_only=True) as checkpoints:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = checkpoints.shapes(begin.step)
        params = checkpoints.params(begin.step, meshes.specs(shapes, dict.fromkeys(shapes, device)))
    return {p: np.asarray(x) for p, x in params.items()}


def is_sum(path, *terms) -> bool:
    """Whether a folder's parameters are Σ share · parameters, of which none is another's."""
    got, parts = values(path), [(share, values(p)) for share, p in terms]
    for i, (_, one) in enumerate(parts):
        assert all(
            np.abs(one["embedding"] - other["embedding"]).max() > 0.01 for _, other in parts[:i]
        )
    want = {p: sum(share * of[p] for share, of in parts) for p in got}
    return all(np.allclose(got[p], want[p], atol=1e-6) for p in got)


def said(capfd, *words) -> str:
    assert cli.main(["soup", *map(str, words)]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_soup_is_the_mean_and_a_run_that_commands_take(runs, tmp_path, capfd):
    _, one, two = runs
    out = tmp_path / "made" / "mean"
    assert cli.main(["soup", one, two, "--out", str(out)]) == 0
    assert "0.5 ×" in capfd.readouterr().out
    assert is_sum(out, (0.5, one), (0.5, two))
    assert cli.main(["soup", one, two, "--out", str(out)]) == 0  # it is there already
    assert "is there already and holds something else" in said(
        capfd, one, two, "--weights=1,2", "--out", out
    )
    assert cli.main(["generate", str(out), "--prompt", "Give the first word: red blue"]) == 0
    assert cli.main(["convert", "export", str(out), str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "config.json").is_file()
    words = ["--tasks", "sample_add", "--max_examples", "1", "--json", str(tmp_path / "eval.json")]
    assert cli.main(["eval", str(out), *words]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == 6
    assert cli.main(["runs", "check", str(out)]) == 0


def test_weights_and_the_base_have_their_shares(runs, tmp_path):
    base, one, two = runs
    words = ["soup", one, two, "--weights", "3,1", "--out", str(tmp_path / "weighted")]
    assert cli.main(words) == 0
    assert is_sum(tmp_path / "weighted", (0.75, one), (0.25, two))
    words = ["soup", one, "--with-base=0.4", "--out", str(tmp_path / "between")]
    assert cli.main(words) == 0
    assert is_sum(tmp_path / "between", (0.6, one), (0.4, base))
    about = json.loads((tmp_path / "between" / "config.json").read_text())["soup"]
    assert about["base"] == base and about["base_share"] == 0.4 and not about["merged"]


def test_adapters_are_merged_before_they_are_averaged(adapter_run, tmp_path):
    _, run = adapter_run
    steps = [str(run / "checkpoints" / s) for s in ("4", "6")]
    out = tmp_path / "mean"
    assert cli.main(["soup", *steps, "--out", str(out)]) == 0
    mesh = meshes.make_mesh(MeshConfig(data=1, fsdp=-1))
    merged = [restore.merged_checkpoint(pretrained.find(s), mesh) for s in steps]
    got, apart = values(out), 0.0
    for path, value in got.items():
        one, two = (np.asarray(m[path]) for m in merged)
        apart = max(apart, float(np.abs(one - two).max()))
        assert np.allclose(value, (one + two) / 2, atol=1e-6), path
    assert apart > 1e-4
    config = json.loads((out / "config.json").read_text())
    assert config["config"]["peft"]["method"] == "full" and config["soup"]["merged"]


def test_what_cannot_be_averaged_is_a_line(runs, drawn, adapter_run, sample_locks, tmp_path, capfd):
    base, one, two = runs
    out = tmp_path / "out"
    wide = drawn(tmp_path / "wide", 1, mlp_dim=56).path
    assert "model.mlp_dim is 48 and 56" in said(capfd, one, wide, "--out", out)
    lock = sample_locks["sample_held"]
    lock = {**lock, "vocabulary": {**lock["vocabulary"], "hash": "other"}}
    other = drawn(tmp_path / "other", 1, lock=lock).path
    assert "their vocabularies differ" in said(capfd, one, other, "--out", out)
    assert "peft.method is full and lora" in said(capfd, one, adapter_run[1], "--out", out)
    assert "began from random weights" in said(capfd, base, "--with_base=0.5", "--out", out)
    assert "began from different models" in said(capfd, base, one, "--with_base=0.5", "--out", out)
    assert "is given twice" in said(capfd, one, one, "--out", out)
    assert "2 weights for 1 runs" in said(capfd, one, "--weights=1,2", "--out", out)
    assert "not all are 0" in said(capfd, one, two, "--weights=0,0", "--out", out)
    assert "each is from 0 to 1" in said(capfd, one, "--with_base=2", "--out", out)
    assert "name nothing that shows what is kept" in said(
        capfd, one, "--with_base=0,1", "--out", out
    )
    assert "holds no model" in said(capfd, "nowhere", "--out", out)
    assert not out.exists()


def test_prefixes_and_other_bases_are_refused(adapter_run, tmp_path):
    _, run = adapter_run
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    held = json.loads((copy / "config.json").read_text())
    peft = to_dict(dataclasses.replace(samples.config(""), peft=PeftConfig(method="prefix")))
    held["config"]["peft"] = peft["peft"]
    storage.write_json(copy / "config.json", storage.sealed(held))
    with pytest.raises(UserError, match="a prefix changes no weights"):
        soup.parts([str(run), str(copy)])
    parts = soup.parts([str(run / "checkpoints" / s) for s in ("4", "6")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soup, "_base_of", lambda part: part.name)
        with pytest.raises(UserError, match="are adapters over different bases"):
            soup._check_alike(*parts)


def test_a_curve_of_what_is_kept_against_what_is_gained(runs, tmp_path, capfd, monkeypatch):
    """Each share of the base is a run of its own, scored by the code that scores any run."""
    base, one, _ = runs
    lock = storage.read_json(RunFolder(Path(one)).lock_json)
    copy = tmp_path / "run"
    shutil.copytree(one, copy)
    text = {"name": "books", "sha256": "x", "folder": "books", "objective": "lm", "split": "test"}
    lock = {k: v for k, v in lock.items() if k != storage.SEAL} | {"retention": [text]}
    storage.write_json(copy / "data.lock.json", storage.sealed(lock))
    scored = []

    def share_of(run):
        return json.loads(run.config_json.read_text())["soup"]["base_share"]

    def fake_scores(load, lock, config, run, step):
        scored.append((run.path.name, len(load().loaded.params)))
        return {"groups": [{"group": "instances", "kind": "", "score": 1 - share_of(run) ** 2}]}

    def fake_retention(load, lock, cache_dir, run, step, when):
        assert when == "after" and step == 6
        return {"after": {"books": {"bits_per_byte": 2 - share_of(run)}}}

    monkeypatch.setattr(evaluate, "evaluate", fake_scores)
    monkeypatch.setattr(retention, "retention", fake_retention)
    out = tmp_path / "curve"
    words = ["soup", str(copy), "--with_base", "0,0.5,1", "--out", str(out)]
    assert cli.main(words) == 0
    curve = json.loads((out / "curve.json").read_text())
    assert [(p["base_share"], p["gain"], p["kept"]["books"]) for p in curve["points"]] == [
        (0.0, 1.0, 2.0),
        (0.5, 0.75, 1.5),
        (1.0, 0.0, 1.0),
    ]
    assert [name for name, _ in scored] == ["base-0", "base-0.5", "base-1"]
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "kept: books" in capfd.readouterr().out
    assert is_sum(out / "base-0.5", (0.5, one), (0.5, base))
    ours, theirs = values(out / "base-1"), values(base)
    assert all(np.allclose(ours[p], theirs[p]) for p in ours)


def test_a_point_without_a_gain_is_not_drawn_at_zero(monkeypatch):
    """The table shows "-" for it; a point at 0 would be a measurement."""
    from itx.commands import soup as command

    drawn = []
    monkeypatch.setattr(
        command.plots, "lines_with_points", lambda lines, *_, **more: drawn.append((lines, more))
    )
    points = [
        {"base_share": 0.0, "run": "a", "gain": 0.5, "kept": {"books": 1.25}},
        {"base_share": 1.0, "run": "b", "gain": None, "kept": {"books": 1.0}},
    ]
    command._picture({"gain": "instances", "kept": ["books"], "points": points})
    ((lines, more),) = drawn
    assert lines == {"share of the base": [(1.25, [0.5])]} and more["notes"] == ["0"]
