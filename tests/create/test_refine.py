# SPDX-License-Identifier: Apache-2.0
"""`itx create refine`: each kind of action on a run whose analysis was written by hand, what it
refuses, and what is left behind then. (tests/create/refined_proof.py trains.)"""

import json
from collections import Counter
from pathlib import Path

import pytest

from itx import cli, config, recipe, storage
from itx.analysis import actions, found
from itx.config import RunConfig
from itx.create import refined, review
from itx.data import cache
from itx.data import lock as locks
from itx.data.vocabulary import Vocabulary
from itx.hashing import draw, file_sha256
from itx.prepare import jobs, patches, types, vocab
from itx.prepare.types import Settings
from itx.runs import RunFolder
from itx.tasks import registry
from itx.tasks.registry import instruction_task
from itx.tasks.spec import SPLITS, function
from tests import scored
from tests.create.openai_server import Served, answer, serving

LABELS = ("yes", "no", "maybe")
TASK = "refinable"


def rows(split, root, seed):
    for i in range(60):
        who = ("she", "he", "Мария", "")[i % 4]
        yield {"text": f"{who} {split} вопрос {i}".strip(), "label": (i % 5) % 3}


@pytest.fixture(scope="module", autouse=True)
def task():
    instruction_task(
        TASK, version=1, cluster="c", source=function(rows, splits=SPLITS), options=LABELS, metrics=("accuracy",),
        fields=lambda e: {"text": e["text"], "answer": e["label"]},
        templates=[("Ask: {text}", "{answer}"), ("{text}?", "{answer}")],
    )  # fmt: skip
    yield
    del registry.TASKS[TASK]


def items(*files: str):
    return review.training_items(registry.task(TASK), config.DataConfig(patches=files))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on the task, with an analysis that doubts ten labels and proposes each kind of
    action."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    made = RunFolder(Path("runs/first-one"))
    file = vocab.keep_bytes(0, "cache")
    held = RunConfig(
        data=config.DataConfig(mixture=TASK, modules=(), cache_dir="cache", render_seed=3),
        train=config.TrainConfig(steps=7),
        optim=config.OptimConfig(freeze=(r".*/embed$",), kwargs={"b1": 0.5}),
    )
    name, manifest = jobs.run(types.Job(TASK, "train"), Settings(held.data, str(file)))
    folder = {"folder": name, "sha256": cache.manifest_hash(Path("cache") / name), "records": 60}
    lock = scored.lock([scored.task(folder, TASK, "c", 1.0)], [], Vocabulary(file), mixture=TASK)
    storage.write_json(made.config_json, {"config": config.to_dict(held)})
    storage.write_json(made.lock_json, lock)
    doubted = items()[:10]
    named = [{"task": TASK, "content": f"{i.hash:016x}"} for i in doubted]
    rather = [LABELS[(i.values["answer"] + 1) % 3] for i in doubted]
    rather[0], rather[1] = "неизвестно", LABELS[doubted[1].values["answer"]]
    proposed = {
        kind: actions.action(kind, f"because of {kind}", [TASK], **more)
        for kind, more in {
            "relabel": {"examples": named},
            "drop": {"examples": named[5:15]},
            "reweight": {},
            "balance": {"conditions": ["“yes” in refinable"]},
            "generate": {"conditions": ["label = maybe", "prompt has Cyrillic letters", "group = instances"]},
            "counterfactual pairs": {"conditions": ["women, in their place men"]},
            "setting": {"settings": {"eval.max_new_tokens": "128"}},
            "add templates": {},
        }.items()
    }  # fmt: skip
    suspects = [
        {**n, "record": 0, "prompt": "", "label": "", "rather": r, "margin": 2.0}
        for n, r in zip(named, rather, strict=True)
    ]
    finding = {"id": "f" * 16, "kind": "suspects", "text": TASK, "says": "doubts", "tasks": [TASK], "action": proposed["relabel"]["id"]}  # fmt: skip
    slice_ = {**finding, "id": "e" * 16, "kind": "slice", "action": proposed["generate"]["id"]}
    held_actions = {"version": actions.ACTIONS_VERSION, "run": str(made.path), "data": locks.shape_hash(lock), "step": 7, "split": "validation", "actions": list(proposed.values())}  # fmt: skip
    analysis = {"run": str(made.path), "step": 7, "split": "validation", "findings": [finding, slice_], "suspects": {"suspects": suspects}, "actions": held_actions}  # fmt: skip
    storage.write_json(made.eval_dir(7) / "validation" / "analysis.json", analysis)
    return made, proposed, doubted, rather


def refine(run: RunFolder, *words: str) -> int:
    return cli.main(["create", "refine", str(run.path), *words, "--json", "facts.json"])


def facts() -> dict:
    return json.loads(Path("facts.json").read_text("utf-8"))


def after() -> dict[str, dict]:
    """{id: values} of what the refined recipe trains on."""
    made, _ = recipe.load(str(refined.recipe_of(Path(facts()["folder"]))))
    return {i.id: i.values for i in items(*made.data.patches)}


def left() -> dict[str, str]:
    """Every file there is but the journal, which keeps what was paid for."""
    return {str(p): file_sha256(p) for p in sorted(Path().rglob("*")) if p.is_file() and "journal" not in p.name}  # fmt: skip


NUMBER = {k: str(n) for n, k in enumerate(["relabel", "drop", "reweight", "balance", "generate", "counterfactual pairs", "setting", "add templates"], 1)}  # fmt: skip


def test_its_actions_are_listed(run, capsys):
    before = left()
    assert cli.main(["create", "refine", str(run[0].path)]) == 0
    told = capsys.readouterr().out
    assert "8 actions" in told and all(k.split()[0] in told for k in NUMBER) and left() == before


def test_suspects_are_dropped_or_relabelled(run):
    made, _, doubted, rather = run
    before = {i.id: i.values for i in items()}
    assert refine(made, "--actions", NUMBER["relabel"], "--relabel", "drop") == 0
    assert facts()["name"] == "first_one.v1" and len(after()) == 50
    assert before.keys() - after().keys() == {i.id for i in doubted}
    assert facts()["counts"] == {TASK: {"in": 60, "out": 50, "rejected": 10}}
    assert refine(made, "--actions", NUMBER["relabel"], "--relabel", "rather") == 0
    now = after()
    assert facts()["name"] == "first_one.v2" and now.keys() == before.keys()
    changed = {i for i in now if now[i] != before[i]}
    assert changed == {i.id for i in doubted[2:]}
    assert all(LABELS[now[i.id]["answer"]] == r for i, r in list(zip(doubted, rather, strict=True))[2:])  # fmt: skip
    assert facts()["reasons"] == {
        "left as they are: no answer could be read": 1,
        "left as they are: the label was confirmed": 1,
        "relabelled": 8,
    }
    # the same again is the same version
    assert refine(made, "--actions", NUMBER["relabel"], "--relabel", "rather") == 0
    assert facts()["name"] == "first_one.v2" and len(list(Path("refined/first_one").glob("v*"))) == 2  # fmt: skip
    (Path(facts()["folder"]) / refined.PATCH).write_text("{}")
    assert refine(made, "--actions", NUMBER["relabel"], "--relabel", "rather") == 2


def test_the_recipe_is_the_runs_with_what_changes(run):
    made = run[0]
    words = ["--actions", f"{NUMBER['reweight']},{NUMBER['setting']}", "--factor", "3", "--peft.method=lora", "--peft.rank=4"]  # fmt: skip
    assert refine(made, *words, "--name", "other", "--root", "there") == 0
    file = Path("there/refined/other/v1/other_v1.py")
    new, _ = recipe.load(str(file))
    old = config.from_dict(storage.read_json(made.config_json)["config"])
    assert refined.differences(old, new) == facts()["changes"] == {
        "data.rate_factors": [[], [[TASK, 3.0]]],
        "eval.max_new_tokens": [64, 128],
        "peft.method": ["full", "lora"],
        "peft.rank": [8, 4],
    }  # fmt: skip
    assert new.optim.kwargs == {"b1": 0.5} and new.optim.freeze == (r".*/embed$",)
    assert not (file.parent / refined.PATCH).exists() and facts()["counts"] == {}
    manifest = storage.read_json(file.parent / refined.MANIFEST)
    assert manifest["parent"]["run"] == str(made.path) and storage.is_intact(manifest)
    # settings alone, without an action
    assert refine(made, "--train.steps=9") == 0
    assert facts()["changes"] == {"train.steps": [7, 9]} and facts()["actions"] == []


def test_labels_are_balanced(run):
    before = Counter(i.values["answer"] for i in items())
    assert len(set(before.values())) > 1
    assert refine(run[0], "--actions", NUMBER["balance"]) == 0
    now = Counter(v["answer"] for v in after().values())
    assert set(now.values()) == {min(before.values())}


def test_pairs_with_another_groups_words_are_added(run):
    assert refine(run[0], "--actions", NUMBER["counterfactual pairs"]) == 0
    was = {i.id for i in items()}
    new = [v for i, v in after().items() if i not in was]
    assert len(new) == 15 and all(v["text"].startswith("he ") for v in new)
    by_text = {i.values["text"]: i.values["answer"] for i in items()}
    for v in new:
        assert v["answer"] == by_text["s" + v["text"]]
    # where a slice that names a group falls short, rows of others become rows that name it
    file = run[0].eval_dir(7) / "validation" / "analysis.json"
    held = storage.read_json(file)
    held["actions"]["actions"][5]["conditions"] = ["label = yes", "names men"]
    storage.write_json(file, held)
    assert refine(run[0], "--actions", NUMBER["counterfactual pairs"], "--name", "slice") == 0
    assert [v for i, v in after().items() if i not in was] == new
    assert refine(run[0], "--actions", NUMBER["counterfactual pairs"], "--rows", "4") == 0
    assert facts()["reasons"] == {"beyond --rows 4": 11, "added": 4}


def test_a_control_drops_as_many_drawn_rows(run):
    made, _, doubted, _ = run
    assert refine(made, "--actions", NUMBER["relabel"], "--relabel", "rather", "--control") == 0
    gone = {i.id for i in items()} - after().keys()
    # as many as would be relabelled, and others
    assert len(gone) == 8 and gone != {i.id for i in doubted[2:]}
    # the only task that is trained on has no other's rate to raise, and a setting no counterpart
    for kind in ("reweight", "setting"):
        assert refine(made, "--actions", NUMBER[kind], "--control") == 2


def test_what_does_not_fit_is_left_out_where_that_is_asked_for(run):
    made, proposed, doubted, _ = run
    both = ",".join(NUMBER[kind] for kind in ("relabel", "drop", "add templates"))
    words = ("--actions", both, "--relabel", "rather", "--name", "some")
    assert refine(made, *words) == 2
    assert refine(made, *words, "--what_fits") == 0
    told = facts()["left_out"]
    assert set(told) == {proposed["drop"]["id"], proposed["add templates"]["id"]}
    assert "would reject row" in told[proposed["drop"]["id"]]
    # the whole of the earlier action was done, and nothing of the later one
    assert not {i.id for i in items()} - after().keys()
    assert [a["kind"] for a in facts()["actions"]] == ["relabel"]
    assert refine(made, "--actions", NUMBER["add templates"], "--what_fits") == 2


def test_a_control_adds_rows_of_other_groups(run):
    made = run[0]
    assert refine(made, "--actions", NUMBER["counterfactual pairs"], "--name", "own") == 0
    was = {i.id for i in items()}
    own = [v for i, v in after().items() if i not in was]
    words = ("--actions", NUMBER["counterfactual pairs"], "--name", "other", "--control")
    assert refine(made, *words) == 0
    other = [v for i, v in after().items() if i not in was]
    reasons = facts()["reasons"]
    assert own and 0 < len(other) == reasons["added as a control"] <= len(own)
    assert len(own) - len(other) == reasons.get("fewer added than the actions add", 0)
    assert not any(v in own for v in other)


# ---- a generator


def script(asked: str) -> str:
    if "Which of these answers is right?" in asked:
        # the first option, but for one row that is not read
        return "I cannot say" if "вопрос 3" in asked.splitlines()[2] else " 1."
    assert "label = maybe" in asked and "group = instances" not in asked
    shown = [json.loads(x) for x in asked.split("\n\n")[0].split("\n")[1:]]
    assert shown and all(x["answer"] == "maybe" for x in shown)
    number = draw(asked) % 10**9
    good = [{"text": f"новая строка {number} {n}", "answer": "maybe"} for n in range(5)]
    bad = ["not JSON", '{"text": "a"}', json.dumps({"text": "b", "answer": "perhaps"}), json.dumps(shown[0])]  # fmt: skip
    return "\n".join([*(json.dumps(x) for x in good), *bad])


def test_a_generator_relabels_and_writes_rows(run):
    made, _, doubted, _ = run
    server = Served(lambda n, body: answer(script(body["messages"][-1]["content"])))
    with serving(server) as address:
        who = ["--server", address, "--server_model", "small"]
        assert refine(made, "--actions", NUMBER["relabel"], *who) == 0
        now = after()
        unread = [i for i in doubted if i.values["text"].endswith("вопрос 3")]
        assert all(now[i.id]["answer"] == 0 for i in doubted if i not in unread)
        assert facts()["reasons"]["left as they are: no answer could be read"] == len(unread) == 1
        received = server.received
        assert refine(made, "--actions", NUMBER["relabel"], *who) == 0 and server.received == received  # fmt: skip
        assert refine(made, "--actions", NUMBER["generate"], *who, "--rows", "12") == 0
    was = {i.id for i in items()}
    new = [v for i, v in after().items() if i not in was]
    assert len(new) == 12 and all(v["answer"] == 2 and "новая" in v["text"] for v in new)
    reasons = facts()["reasons"]
    assert reasons["added"] == 12 and reasons["not added: not of the form that was shown"] >= 4
    assert reasons["not added: no example of the task"] and reasons["not added: it is there already"]  # fmt: skip
    assert facts()["calls"]["attempts"]["answered"] == server.received
    lines = patches.read(Path(facts()["folder"]) / refined.PATCH).entries
    assert all("request " in e.why for e in lines)


def test_a_generator_that_is_down_leaves_nothing(run, capsys):
    made = run[0]
    before = left()
    server = Served(lambda n, body: (400, {}, b'{"error": {"message": "too long"}}'))
    with serving(server) as address:
        who = ["--server", address, "--server_model", "small"]
        assert refine(made, "--actions", f"{NUMBER['generate']},{NUMBER['reweight']}", *who) == 1
    assert "the generator gave no answer" in capsys.readouterr().err and left() == before


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--actions", "9"], "no action '9': 1 to 8"),
        (["--actions", "zzzz"], "no action 'zzzz'"),
        (["--actions", NUMBER["relabel"]], "say who gives the labels: --relabel drop"),
        (["--actions", NUMBER["relabel"], "--relabel", "drp"], "did you mean 'drop'"),
        (["--actions", NUMBER["relabel"], "--relabel", "ask"], "needs --server or --model"),
        (["--actions", NUMBER["generate"]], "a generator writes the rows"),
        (["--actions", f"{NUMBER['reweight']},{NUMBER['add templates']}"], "wordings are code"),
        (["--actions", f"{NUMBER['relabel']},{NUMBER['balance']}", "--relabel", "rather"], "give one of them"),
        (["--actions", NUMBER["reweight"], "--factor", "0"], "a factor is above 0"),
        (["--actions", NUMBER["reweight"], "--name", "a/b"], "letters, digits and _"),
        (["--actions", NUMBER["reweight"], "--data.patches=x"], "adds its own patch"),
        (["--actions", NUMBER["reweight"], "--train.stps=3"], "unknown setting '--train.stps'"),
        (["--step", "5"], "has no analysis: `itx analyze runs/first-one --step 5` first"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_and_nothing_is_left(run, capsys, words, told):
    before = left()
    assert refine(run[0], *words) == 2
    assert told in capsys.readouterr().err and left() == before


def test_an_analysis_of_something_else_is_refused(run, capsys):
    made = run[0]
    file = made.eval_dir(7) / "validation" / "analysis.json"
    held = storage.read_json(file)
    for change, told in (
        ({"actions": {**held["actions"], "data": "0"}}, "which was trained on other data"),
        ({"actions": {**held["actions"], "version": 1}}, "actions of version 1"),
        ({"split": "test"}, "of the test split"),
    ):
        storage.write_json(file, {**held, **change})
        assert refine(made, "--actions", "1", "--relabel", "drop") == 2
        assert told in capsys.readouterr().err
    # rows that are no longer there
    gone = {**held["actions"]["actions"][0], "examples": [{"task": TASK, "content": "0" * 16}]}
    storage.write_json(file, {**held, "actions": {**held["actions"], "actions": [gone]}})
    assert refine(made, "--actions", "1", "--relabel", "drop") == 2
    assert "its row is gone or has changed" in capsys.readouterr().err
    file.unlink()
    assert refine(made, "--actions", "1") == 2
    assert "has no analysis: `itx analyze runs/first-one` first" in capsys.readouterr().err
    assert cli.main(["create", "refine", "nowhere"]) == 2


def test_a_refinement_of_a_refinement(run):
    """Version n + 1 applies behind version n, whose rows it judges as they are then."""
    made, _, doubted, _ = run
    assert refine(made, "--actions", NUMBER["relabel"], "--relabel", "rather") == 0
    first = facts()["folder"]
    config_of, _ = recipe.load(str(refined.recipe_of(Path(first))))
    storage.write_json(made.config_json, {"config": config.to_dict(config_of)})
    assert refine(made, "--actions", NUMBER["relabel"], "--relabel", "drop") == 0
    config_of, _ = recipe.load(str(refined.recipe_of(Path(facts()["folder"]))))
    assert config_of.data.patches == (f"{first}/patch.jsonl", f"{facts()['folder']}/patch.jsonl")
    assert len(items(*config_of.data.patches)) == 50


# ---- the page of a finding


def test_a_page_opens_on_a_findings_examples(run, capsys):
    made, _, doubted, rather = run
    assert cli.main(["create", "review", str(made.path)]) == 2
    assert "1. doubts; 2. doubts" in capsys.readouterr().err
    line = ["create", "review", str(made.path), "--json", "facts.json", "--finding"]
    assert cli.main([*line, "1"]) == 0
    held = facts()
    assert [r["id"] for r in held["rows"]] == [i.id for i in doubted]
    assert rather[3] in held["rows"][3]["note"] and Path(held["file"]).is_file()
    # a slice has no training rows of its own: those for which its conditions hold
    assert cli.main([*line, "eeee"]) == 0
    shown = {r["id"] for r in facts()["rows"]}
    assert shown == {i.id for i in items() if i.values["answer"] == 2}
    assert cli.main([*line, "3"]) == 2
    assert found.read(str(made.path), None).run.path == made.path
