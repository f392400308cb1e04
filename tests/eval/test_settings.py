# SPDX-License-Identifier: Apache-2.0
"""`itx eval RUN --shots 0,3 --split …`: the run's rows with exemplars and on another split, beside
its own scores."""

import argparse
import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
from flax import nnx

from itx import config as configs
from itx import peft, peft_files, restore, storage
from itx.commands import evaluate as command
from itx.config import PeftConfig
from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import predictions
from itx.models.transformer import Transformer
from itx.params import embedding_rows, parameters
from itx.runs import RunFolder
from tests import samples


class Parrot:
    """Says the first word of the last line, and goes on with another exemplar, as a base model
    does."""

    def __init__(self, vocab: Vocabulary):
        self.vocab, self.prompts = vocab, []

    def generate(self, prompts, limits):
        self.prompts += [self.vocab.decode(p) for p in prompts]
        said = [p.rsplit("\n", 1)[-1].split()[0] for p in self.prompts[-len(prompts) :]]
        return [
            {"tokens": self.vocab.encode(f"{w}\n\nGive the first word: x y"), "finished": True}
            for w in said
        ]

    def rank(self, prompts, options):
        return [[{"logprob": 0.0, "tokens": 1} for _ in several] for several in options]


@pytest.fixture
def run(tmp_path, sample_cache, sample_locks, monkeypatch):
    """A run folder whose model is a Parrot, with scores of its own."""
    config, lock = samples.config(str(sample_cache)), sample_locks["sample_held"]
    run = RunFolder(tmp_path / "run")
    storage.write_json(run.config_json, {"config": configs.to_dict(config)})
    storage.write_json(run.lock_json, lock)
    run.vocab_model.parent.mkdir()
    shutil.copy(sample_cache / lock["vocabulary"]["file"], run.vocab_model)
    storage.write_json(run.scores_json(2), {"rows": {}, "mine": True})
    (run.checkpoints / "2").mkdir(parents=True)  # a step that can be named
    parrot = Parrot(Vocabulary(run.vocab_model))
    monkeypatch.setattr(restore, "load_model", lambda *_: parrot)
    return run, parrot


def ask(run: RunFolder, tmp_path, **asked) -> dict:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    settings = vars(parser.parse_args([str(run.path)])) | {"step": 2} | asked
    facts, code = command.evaluate_run(Namespace(**settings))
    assert code == 0
    return json.loads(json.dumps(facts))


def test_exemplars_on_the_other_split(run, tmp_path, sample_cache, sample_locks, capfd):
    run, parrot = run
    said = ask(
        run,
        tmp_path,
        shots="0,3",
        split="validation",
        tasks="sample_first,sample_second,sample_even",
    )
    assert list(said["settings"]) == ["0", "3"] and said["split"] == "validation"
    zero, three = (set(s["rows"]) for s in said["settings"].values())
    # with exemplars three draws of each row; sample_first:fs3, trained on, is the same row as
    # sample_first
    assert zero == {"sample_first", "sample_first@heldout", "sample_second", "sample_even"}

    def draws(n):
        return {n.replace("@", f"{d}@") if "@" in n else n + d for d in ("", "#1", "#2")}

    named = {"sample_first:fs3", "sample_first:fs3@heldout", "sample_second:fs3", "sample_even:fs3"}
    assert three == {x for n in named for x in draws(n)}
    lines = predictions.read_predictions(
        RunFolder(run.path, "validation-3shots"), 2, "sample_first:fs3"
    )
    trained = next(
        t["folders"][0] for t in sample_locks["sample_held"]["tasks"] if t["name"] == "sample_first"
    )
    asked = {x["content"] for x in lines}
    assert asked and not {int(a, 16) for a in asked} & set(
        cache.Records(sample_cache / trained).content.tolist()
    )
    for x in lines:
        exemplars = x["prompt"].split("\n\n")[:-1]
        assert len(exemplars) == x["shots"] == 3 and "\n\n" not in x["prediction"]
        assert len(x["prediction"].split()) == 1  # what followed the separator is cut off
    bare = predictions.read_predictions(RunFolder(run.path, "validation-0shots"), 2, "sample_first")
    assert {x["content"] for x in bare} == asked and all("\n\n" not in x["prompt"] for x in bare)
    assert all("Give the first word: x y" in x["prediction"] for x in bare)
    for other in ("#1", "#2"):  # another draw shows the same question behind other exemplars
        again = predictions.read_predictions(
            RunFolder(run.path, "validation-3shots"), 2, f"sample_first:fs3{other}"
        )
        pairs = list(zip(lines, again, strict=True))
        assert all(a["prompt"].split("\n\n")[-1] == b["prompt"].split("\n\n")[-1] for a, b in pairs)
        assert any(a["prompt"] != b["prompt"] for a, b in pairs)
    assert all(
        r["split"] == "validation" for s in said["settings"].values() for r in s["rows"].values()
    )
    # the run's own are left alone
    assert storage.read_json(run.scores_json(2)) == {"rows": {}, "mine": True}
    assert not run.test_log.is_file()
    assert all(
        ("shots" in r) == (k == "3")
        for k, s in said["settings"].items()
        for r in s["rows"].values()
    )
    shown = capfd.readouterr().out
    line = next(x for x in shown.splitlines() if x.startswith("│ sample_first "))
    assert "±" in line and "missing" not in line
    assert "0 shots" in shown and "±" in shown and "validation split at step 2" in shown
    known = len(parrot.prompts)
    ask(
        run,
        tmp_path,
        shots="0,3",
        split="validation",
        tasks="sample_first,sample_second,sample_even",
    )
    assert len(parrot.prompts) == known  # what is answered is not asked again


@pytest.fixture
def adapters(run, tmp_path, monkeypatch):
    """Two LoRAs for the run's model, {folder: its Parrot}."""
    run, parrot = run
    config = configs.from_dict(storage.read_json(run.config_json)["config"])
    rows = embedding_rows(config, storage.read_json(run.lock_json)["vocabulary"]["size"])
    made = {}
    for rank in (1, 2):
        method = PeftConfig(method="lora", rank=rank, targets=(r".*/wq",))
        model = peft.add(Transformer(config.model, rows, nnx.Rngs(0)), method, 0)
        folder = str(tmp_path / f"lora_{rank}")
        peft_files.save(folder, config.model, method, parameters(model), "", "base")
        made[folder] = Parrot(parrot.vocab)
    monkeypatch.setattr(restore, "with_adapter", lambda base, folder: made[folder])
    return made


def test_adapters_are_asked_in_each_setting(run, adapters, tmp_path, capfd):
    run, parrot = run
    asked = {
        "split": "validation",
        "tasks": "sample_even",
        "adapter": [*adapters, next(iter(adapters))],
    }
    said = ask(run, tmp_path, shots="0,1", **asked)
    assert list(said) == list(adapters) and not parrot.prompts
    shown = capfd.readouterr().out
    for folder, answer in said.items():
        assert adapters[folder].prompts and list(answer["settings"]) == ["0", "1"]
        assert answer["step"].startswith(Path(folder).name) and answer["step"].endswith("-2")
        assert predictions.read_predictions(
            RunFolder(run.path, "validation-0shots"), answer["step"], "sample_even"
        )
        assert f"split at step {answer['step']}" in " ".join(shown.split())
    known = [len(a.prompts) for a in adapters.values()]
    ask(run, tmp_path, shots="0,1", **asked)
    assert [len(a.prompts) for a in adapters.values()] == known
    # the run's own rows too, and its own model where no adapter is named
    assert (
        list(ask(run, tmp_path, **{**asked, "split": None})) == list(adapters)
        and not parrot.prompts
    )
    assert list(
        ask(run, tmp_path, shots="0", split="validation", tasks="sample_even")["settings"]
    ) == ["0"]
    assert parrot.prompts


def test_a_wrong_adapter_is_told_before_anything_is_built(run, adapters, tmp_path, monkeypatch):
    monkeypatch.setattr(
        command, "further_in_subprocess", lambda request: pytest.fail("something was built")
    )
    for asked in ({"shots": "0"}, {}):
        with pytest.raises(UserError, match="nowhere holds no adapter"):
            ask(run[0], tmp_path, adapter=[*adapters, str(tmp_path / "nowhere")], **asked)
    assert not any(a.prompts for a in adapters.values())


def test_the_base_of_an_adapters_run_has_no_step(run, adapters, tmp_path):
    run, _ = run
    held = storage.read_json(run.config_json)
    held["config"]["peft"]["method"] = "lora"
    storage.write_json(run.config_json, held)
    asked = {"tasks": "sample_even", "adapter": list(adapters)[:1]}
    for more in ({}, {"shots": "0"}):
        with pytest.raises(
            UserError,
            match="--step 2 with an adapter: .* base, .* same at every step; leave the step out",
        ):
            ask(run, tmp_path, **asked, **more)
    for step in (0, None):
        (scores,) = ask(run, tmp_path, **asked, step=step).values()
        assert scores["step"].endswith("-0") and scores["rows"]


def test_a_split_alone_keeps_the_exemplars_as_trained(run, tmp_path, capfd):
    run, _ = run
    (rows,) = (
        s["rows"]
        for s in ask(run, tmp_path, split="test", tasks="sample_first")["settings"].values()
    )
    assert set(rows) == {
        "sample_first",
        "sample_first@heldout",
        *(f"sample_first:fs3{d}" for d in ("", "#1", "#2")),
        *(f"sample_first:fs3{d}@heldout" for d in ("", "#1", "#2")),
    }
    shown = capfd.readouterr().out
    assert (
        "│ sample_first " in shown
        and "│ sample_first:fs3 " in shown
        and "shots as trained" in shown
    )
    assert {p.name for p in run.eval_dir(2).iterdir()} == {"scores.json", "test"}
    assert sum(json.loads(line)["rows"] for line in run.test_log.read_text().splitlines()) == len(
        rows
    )


def test_exemplars_that_do_not_fit_are_told(run, tmp_path, capfd):
    run, _ = run
    (rows,) = (
        s["rows"] for s in ask(run, tmp_path, shots="20", tasks="sample_first")["settings"].values()
    )
    assert {r["shots"] for r in rows.values()} == {20} and all(
        1 < r["mean_shots"] < 20 for r in rows.values()
    )
    mean = sum(r["mean_shots"] for n, r in rows.items() if "@" not in n) / 3
    assert f"({20 - mean:.1f} exemplars missing)" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(
    "asked, message",
    [
        (
            {"split": "valid"},
            "--split 'valid': no split that is evaluated; did you mean 'validation'",
        ),
        ({"split": "train"}, "--split 'train'"),
        ({"shots": "0,five"}, "--shots 0,five: 'five' is not a number of exemplars from 0 to 99"),
        ({"shots": "-1"}, "'-1' is not a number"),
        ({"shots": ""}, "'' is not a number"),
    ],
)
def test_a_wrong_setting_is_told(run, tmp_path, asked, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        ask(run[0], tmp_path, **asked)


def test_an_unknown_task_is_told_by_the_build(run, tmp_path, capfd):
    with pytest.raises(SystemExit, match="2"):
        ask(run[0], tmp_path, shots="2", tasks="sample_frist")
    assert (
        "'sample_frist' is neither an evaluation row of this run nor a registered task; did you "
        "mean 'sample_first'" in (capfd.readouterr().err)
    )


def test_what_cannot_be_asked_is_named(run, tmp_path, capfd):
    run, _ = run
    config = storage.read_json(run.config_json)
    config["config"]["data"]["modules"] = ["tests.sample_tasks", "tests.text_tasks"]
    storage.write_json(run.config_json, config)
    said = ask(run, tmp_path, shots="1", tasks="sample_even,text_lm")
    assert said["skipped"] == [
        {"row": "text_lm:fs1@eval", "reason": "plain text has no answer to score"}
    ]
    assert (
        "not evaluated: text_lm:fs1@eval (plain text has no answer to score)"
        in capfd.readouterr().out
    )
    with pytest.raises(SystemExit, match="2"):
        ask(run, tmp_path, shots="1", tasks="text_lm")
    assert "no evaluation row is left: text_lm:fs1@eval: plain text" in capfd.readouterr().err


COPIED = """
from itx.tasks.registry import instruction_task
from itx.tasks.spec import jsonl

def fields(e): return dict(e)

instruction_task("copied", version=1, cluster="copied",
                 source=jsonl({{"train": {train!r}, "test": {test!r}}}), fields=fields,
                 templates=[("Here: {{text}}", "{{answer}}")])
"""


@pytest.fixture
def copied(run, tmp_path, sample_cache, sample_locks, monkeypatch):
    """The run, with a task of which every second test example is one that was trained on, in other
    wording."""
    run, _ = run
    task = next(t for t in sample_locks["sample_held"]["tasks"] if t["name"] == "sample_first")
    known = [e["input_content"] for e in cache.iterate_examples(sample_cache / task["folders"][0])]
    known = [
        x for i, x in enumerate(known) if i not in task["excluded"][0] and len(x.split()) >= 4
    ][:4]
    new = [f"Nobody ever trained upon sentence number {i}" for i in ("one", "two", "three", "four")]
    files = {}
    for split, texts in (
        ("train", ["some other text"]),
        ("test", [t for k, n in zip(known, new, strict=True) for t in (f"«{k.upper()}!»", n)]),
    ):
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text(
            "".join(json.dumps({"text": t, "answer": "none"}) + "\n" for t in texts)
        )
    (tmp_path / "copied_module.py").write_text(COPIED.format(**files))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    held = storage.read_json(run.config_json)
    held["config"]["data"]["modules"] = ["tests.sample_tasks", "copied_module"]
    storage.write_json(run.config_json, held)
    return run


def test_what_a_new_row_asks_that_was_trained_on_is_told(copied, tmp_path, capfd):
    said = ask(copied, tmp_path, split="test", tasks="copied", max_examples=8)["settings"]["own"]
    row = said["rows"]["copied@eval"]
    assert (row["examples"], row.get("trained_on")) == (8, 0.5)
    assert (
        "look-alike letters" in said["contamination"]["tested_for"]
        and not said["contamination"]["untested"]
    )
    shown = capfd.readouterr().out
    line = next(x for x in shown.splitlines() if x.startswith("│ copied@eval "))
    assert line.split("│")[-2].strip() == "50.0%" and "not for paraphrase" in " ".join(
        shown.split()
    )
    # of the lock: all left out
    own = ask(copied, tmp_path, split="test", tasks="sample_second")["settings"]["own"]
    assert own["rows"]["sample_second"]["trained_on"] == 0


def test_that_it_could_not_be_told_is_told(copied, tmp_path, capfd):
    lock = storage.read_json(copied.lock_json)
    lock["tasks"][0]["folders"][0] = "another/machine/has/it"
    storage.write_json(copied.lock_json, lock)
    said = ask(copied, tmp_path, split="test", tasks="copied")["settings"]["own"]
    assert said.get("contamination", {}).get("untested", "").endswith("has/it is not there")
    assert said["rows"]["copied@eval"]["trained_on"] is None
    assert "% trained on: not tested, for" in " ".join(capfd.readouterr().out.split())
