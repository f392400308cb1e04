# SPDX-License-Identifier: Apache-2.0
"""`itx eval`, `itx generate` and `itx convert export` of what no run of ours made: a Hugging Face
folder, and an adapter's folder over it."""

import concurrent.futures
import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from itx import cli, peft, peft_files, pretrained, restore, storage
from itx.commands import best_form
from itx.commands import evaluate as command
from itx.config import PeftConfig
from itx.eval import predictions, terminal
from itx.models import hf
from itx.models.transformer import Transformer
from itx.params import parameters, shapes_of
from itx.prepare import further, workers
from itx.runs import RunFolder
from tests.conftest import REPO

QWEN = REPO / "tests" / "golden" / "hf" / "qwen3"


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with a model, and an adapter over it that names its base as the hub does."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(QWEN, folder / "qwen")
    cfg, method = hf.model_config(QWEN), PeftConfig(method="lora", rank=2, targets=(r".*/wq",))
    model = shapes_of(lambda: peft.add(Transformer(cfg, cfg.vocab_size, nnx.Rngs(0)), method, 0))
    model = parameters(model)
    lora = {path: np.full(x.shape, 0.3, np.float32) for path, x in model.items() if "_lora" in path}
    peft_files.save(folder / "lora", cfg, method, lora, "", "Qwen/Qwen3-0.6B")
    (folder / "lora" / peft_files.BASE).unlink()  # as PEFT itself leaves an adapter
    return folder


@pytest.fixture
def ask(desk, monkeypatch, capfd):
    """`itx eval` in that folder; the rows are built in this process, unless `build` is told."""
    monkeypatch.chdir(desk)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    @contextlib.contextmanager
    def threads(count):
        yield concurrent.futures.ThreadPoolExecutor(1)

    def eval_(
        model: str | list[str], *words: str, code: int = 0, build: bool = False
    ) -> dict | str:
        with monkeypatch.context() as patch:
            if not build:
                patch.setattr(workers, "pool", threads)
                patch.setattr(command, "further_in_subprocess", further.make)
            models = [model] if isinstance(model, str) else model
            given = [*models, "--modules", "tests.sample_tasks", "--max_examples", "2", *words]
            assert cli.main(["eval", *given, "--json", "facts.json"]) == code
        said = capfd.readouterr()
        return said.err if code else {"out": said.out, **storage.read_json("facts.json")}

    return eval_


def lines(folder: str, step: str = "0", setting: str = "") -> list[dict]:
    """The lines of sample_first's predictions."""
    run = RunFolder(Path(folder), setting)
    (row,) = (n for n in storage.read_json(run.scores_json(step))["rows"] if "first" in n)
    return predictions.read_predictions(run, step, row)


def test_a_model_is_scored_without_a_run(desk, ask, monkeypatch):
    facts = ask("qwen", "--tasks", "sample_first", build=True)
    folder = Path("runs/eval-qwen")
    assert facts["folder"] == str(folder) and f"scores: {folder}" in facts["out"]
    (scores,) = facts["settings"].values()
    held = storage.read_object(RunFolder(folder).scores_json(0), "rows", "groups")
    assert held["rows"].keys() == scores["rows"].keys() == {"sample_first@eval"}
    row = held["rows"]["sample_first@eval"]
    assert row["examples"] == 2 and row["prompts"] == 4 and row["trained_on"] is None
    assert "not tested, for no data of ours trained this model" in facts["out"]
    # asked through its own template, as its run would be
    asked = lines("runs/eval-qwen")
    assert all(x["messages"][-1] == {"role": "user", "content": x["prompt"]} for x in asked)
    # the same call asks nothing again, other tasks are added
    with monkeypatch.context() as patch:
        patch.setattr(restore, "load_model", lambda *_: pytest.fail("the model was loaded"))
        again = ask(str(desk / "qwen"), "--tasks", "sample_first")
    assert again["settings"] == facts["settings"]
    ask("qwen", "--tasks", "sample_even")
    both = storage.read_object(RunFolder(folder).scores_json(0), "rows", "groups")
    assert both["rows"].keys() == {"sample_first@eval", "sample_even@eval"}
    assert both["groups"][0]["tasks"] == 2
    assert lines("runs/eval-qwen") == asked


def test_several_models_are_asked_the_same_and_compared(desk, ask):
    """The second is the first with one matrix changed, so that its answers differ."""
    shutil.copytree(QWEN, desk / "changed", dirs_exist_ok=True)
    weights = load_file(QWEN / "model.safetensors")
    name = next(n for n in sorted(weights) if n.endswith("q_proj.weight"))
    save_file({**weights, name: -3 * weights[name]}, desk / "changed" / "model.safetensors")
    facts = ask(["qwen", "changed"], "--tasks", "sample_first,sample_even")
    assert list(facts["models"]) == ["qwen", "changed"]
    one = ask("qwen", "--tasks", "sample_first,sample_even")
    assert facts["models"]["qwen"]["settings"] == one["settings"]
    first, other = (lines(f"runs/eval-{n}") for n in ("qwen", "changed"))
    assert [x["prompt"] for x in first] == [x["prompt"] for x in other]
    assert [x["prediction"] for x in first] != [x["prediction"] for x in other]
    (slices,) = facts["compared"]["paired"].values()
    assert sum(s["pairs"] for s in slices) > 0 and "beside eval-qwen" in facts["out"]
    # scores of another split stand beside the folder's own, and are not compared as if they were
    apart = ask(["qwen", "changed"], "--tasks", "sample_first", "--split", "validation")
    assert apart["compared"] is None and "stand beside" in apart["not_compared"]
    assert "not compared in pairs" in apart["out"]


def test_several_models_are_refused_before_one_is_asked(desk, ask):
    tasks = ("--tasks", "sample_first")
    before = sorted(p.name for p in desk.rglob("*"))
    assert "nowhere is not a run folder" in ask(["qwen", "nowhere"], *tasks, code=2)
    assert "--out speaks of one model" in ask(["qwen", "lora"], *tasks, "--out", "x", code=2)
    (desk / "same").mkdir(exist_ok=True)
    shutil.copytree(QWEN, desk / "same" / "qwen", dirs_exist_ok=True)
    assert "are called 'qwen'" in ask(["qwen", "same/qwen"], *tasks, code=2)
    shutil.rmtree(desk / "same")
    assert sorted(p.name for p in desk.rglob("*")) == before


def test_the_best_form_is_chosen_on_dev_and_scored_on_test(ask, monkeypatch):
    tasks = ["--tasks", "sample_first,sample_even"]
    facts = ask("qwen", *tasks, "--best_form")
    forms = {f.name for f in best_form.FORMS}
    assert facts["forms"].keys() == forms and facts["form"] in forms
    assert facts["forms"][facts["form"]] == max(facts["forms"].values())
    assert facts["split"] == "test" and "chosen" in facts["out"]
    # what each form was scored in is what a call of its own would be
    own = ask(
        *("qwen", *tasks, "--split", "validation", "--prompt_format", "chat"),
        *("--system", best_form.ANSWER_ONLY, "--out", "own"),
    )
    assert best_form._mean(own) == facts["forms"]["chat, answer only"]
    (line, *_) = lines("runs/eval-qwen-chat-answer-only")
    assert line["messages"][0] == {"role": "system", "content": best_form.ANSWER_ONLY}
    # another form wins where it scores better
    monkeypatch.setattr(best_form, "_mean", lambda facts: float("exemplars" in facts["folder"]))
    again = ask("qwen", *tasks, "--best_form")
    assert again["form"] == "plain, 4 exemplars" and list(again["settings"]) == ["4"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shots", "4"], "--shots: --best_form chooses it"),
        (["--system", "s"], "--system: --best_form chooses it"),
        (["--split", "validation"], "--best_form chooses there, and scores another split"),
    ],
)
def test_what_the_best_form_decides_is_not_given(ask, words, told):
    assert told in ask("qwen", "--tasks", "sample_first", "--best_form", *words, code=2)


def test_an_adapter_is_scored_over_its_base(ask, monkeypatch):
    told = "names its base; --base=FOLDER says where it lies: Qwen/Qwen3-0.6B: no such path, and"
    assert told in ask("lora", "--tasks", "sample_first", code=2)
    facts = ask("lora", "--base", "qwen", "--tasks", "sample_first")
    assert facts["folder"] == "runs/eval-lora" and facts["step"].startswith("lora-")
    ask("qwen", "--tasks", "sample_first")
    bare, over = lines("runs/eval-qwen"), lines("runs/eval-lora", facts["step"])
    assert [x["prompt"] for x in bare] == [x["prompt"] for x in over]
    assert [x["prediction"] for x in bare] != [x["prediction"] for x in over]
    # --adapter names the same model: nothing is asked again
    monkeypatch.setattr(restore, "load_model", lambda *_: pytest.fail("the model was loaded"))
    words = ["--adapter", "lora", "--tasks", "sample_first", "--out", "runs/eval-lora"]
    assert ask("qwen", *words)["lora"]["settings"] == facts["settings"]


def test_a_folder_of_scores_is_of_one_model_and_one_form(desk, ask, monkeypatch):
    monkeypatch.setattr(command, "further_in_subprocess", lambda _: pytest.fail("it was built"))
    folder = ["--tasks", "sample_first", "--out", "one"]
    ask("qwen", *folder)
    told = ask("qwen", *folder, "--prompt_format", "plain", code=2)
    assert "one holds scores under another data.prompt_format: 'chat', now 'plain'" in told
    shutil.copytree("qwen", "other")
    held = json.loads(Path("other/generation_config.json").read_text())
    Path("other/generation_config.json").write_text(json.dumps(held | {"eos_token_id": [1, 2]}))
    assert "holds scores of other files" in ask("other", *folder, code=2)
    assert "is there and is no folder of scores" in ask(
        "qwen", "--tasks", "sample_first", "--out", "qwen", code=2
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["qwen"], "--tasks: qwen is no run with rows of its own; name tasks"),
        (["qwen", "--tasks", "sample_first", "--step", "3"], "holds one model, and no steps"),
        (["qwen", "--tasks", "x", "--base", "lora"], "the base of an adapter, and qwen is none"),
        (["qwen", "--tasks", "x", "--shots", "no"], "'no' is not a number of exemplars"),
        (["qwen", "--tasks", "x", "--split", "tset"], "did you mean 'test'"),
        (
            ["qwen", "--tasks", "x", "--prompt_format", "plain", "--system", "s"],
            "--system: qwen is asked without turns",
        ),
        (["nowhere", "--tasks", "x"], "nowhere is not a run folder"),
    ],
)
def test_a_mistake_is_told_before_anything_is_built(ask, monkeypatch, words, told):
    monkeypatch.setattr(further, "make", lambda _: pytest.fail("it was built"))
    assert told in ask(*words, "--out", "never", code=2)
    assert not Path("never").exists()


def test_generate_and_export_take_an_adapter_over_its_base(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    lora = ["lora", "--base", "qwen"]
    assert cli.main(["convert", "export", *lora, "out"]) == 2
    assert "lora is an adapter as PEFT loads it already; --merge" in capsys.readouterr().err
    assert cli.main(["convert", "export", *lora, "out", "--merge", "--dtype", "float32"]) == 0
    merged, base = load_file(f"out/{hf.SINGLE}"), load_file(f"qwen/{hf.SINGLE}")
    moved = {n for n in base if (merged[n] != base[n].astype(np.float32)).any()}
    assert moved and all(n.endswith("q_proj.weight") for n in moved)
    loaded = []
    monkeypatch.setattr(
        terminal, "several", lambda run, _: loaded.append(run.runner.loaded) or [{"answer": ""}]
    )
    for model in (lora, ["qwen"]):
        assert cli.main(["generate", *model, "--prompt", "red blue"]) == 0
    assert [x.peft.method for x in loaded] == ["lora", "full"]
    assert loaded[0].params.keys() > loaded[1].params.keys()


def test_a_hugging_face_folder_is_exported_in_another_type(desk, monkeypatch):
    monkeypatch.chdir(desk)
    assert cli.main(["convert", "export", "qwen", "half", "--dtype", "float16"]) == 0
    made, first = load_file(f"half/{hf.SINGLE}"), load_file(f"qwen/{hf.SINGLE}")
    assert {str(x.dtype) for x in made.values()} == {"float16"}
    assert all((made[n] == x.astype(np.float16)).all() for n, x in first.items())
    assert pretrained.chat_template(pretrained.find("half"))
