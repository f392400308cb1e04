# SPDX-License-Identifier: Apache-2.0
"""The studies that come with itx: that their arms differ by nothing but what the question names,
and that the documents of their base instruct nobody."""

import json
import random
import re

import pytest

from itx import recipe, shipped
from itx.config import to_dict
from itx.errors import RunFailed
from itx.leaks import loose
from itx.prepare import evaluation
from itx.prepare.members import members_of
from itx.study import purity, spec
from itx.study.spec import Study
from itx.tasks import names, registry, templates
from tasks import documents, studies

STUDIES = shipped.study_names()


def file(name: str) -> str:
    return str(shipped.STUDIES / f"{name}.py")


def study(name: str, quick: bool = False) -> Study:
    return recipe.called(file(name), "get_study", quick)


def configs(name: str, draw: int) -> dict:
    """{arm: its config in a draw}."""
    of = study(name)
    return {
        arm.name: recipe.load(file(name), [*of.draws[draw].overrides, *map(of.draws[draw].filled, arm.overrides)])[0]
        for arm in of.arms
    }  # fmt: skip


def trained_tasks(config) -> set[str]:
    return {names.parse(m).task for m in members_of(config)}


def slots_used(config) -> int:
    d = config.data
    return config.train.steps * d.global_batch * d.sequence_length


# ---- designs


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_names_what_it_has_and_each_arm_is_a_run(name):
    for quick in (False, True):
        spec.check(study(name, quick))
    of, made = study(name), configs(name, 0)
    assert of.name == name and len(of.draws) == 5 and len(study(name, True).draws) == 2
    shown = {json.dumps(to_dict(c)) for c in made.values()}
    starts = {(arm.begins, json.dumps(to_dict(made[arm.name]))) for arm in of.arms}
    assert len(starts) == len(of.arms) and len(shown) > 1  # no two arms are the same run
    for config in made.values():
        assert config.eval.tasks and members_of(config)
        assert config.eval.max_examples and not config.eval.before


@pytest.mark.parametrize("draw", range(studies.DRAWS))
def test_the_arms_of_clusters_differ_in_clusters_alone(draw):
    """Equally many tokens; what is held out is trained on by the ceiling and by no other arm."""
    made = configs("clusters", draw)
    asked = set(made["ceiling"].eval.tasks)
    clusters = {registry.task(t).cluster for t in asked}
    assert clusters == set(studies.HELD_OUT[draw])
    counts = []
    for name, config in made.items():
        assert set(config.eval.tasks) == asked and config.train.seed == config.data.seed == draw
        tasks = trained_tasks(config)
        own = {registry.task(t).cluster for t in tasks}
        assert tasks == {t for c in own for t in studies.CLUSTERS[c]}  # clusters are whole
        counts.append(len(own))
        if name == "ceiling":
            assert asked < tasks and clusters < own
        else:
            assert not asked & tasks and not clusters & own
    assert counts == [1, 1, 2, 4, 8, 8]
    tuned = {slots_used(c) for name, c in made.items() if name != "not tuned"}
    assert len(tuned) == 1 and slots_used(made["not tuned"]) == 0
    nested = [
        trained_tasks(made[n]) for n in ("1 cluster", "2 clusters", "4 clusters", "8 clusters")
    ]
    assert all(few < many for few, many in zip(nested, nested[1:], strict=False))


def test_each_cluster_is_held_out_equally_often():
    held_out = [c for pair in studies.HELD_OUT for c in pair]
    assert {held_out.count(c) for c in held_out} == {2} and len({*studies.HELD_OUT}) == 5
    assert len({tuple(studies.trained(d)) for d in range(studies.DRAWS)}) == 5


@pytest.mark.parametrize("name", ["clusters", "specialists", "shots"])
def test_all_arms_of_a_draw_answer_the_same_questions(name):
    """A task's information is measured over the same examples, against the same instructions,
    whatever a run trains on, also where it is what the run trains on."""
    jobs: dict[str, set] = {}
    for config in configs(name, 1).values():
        rows = evaluation.rows(config, members_of(config))
        own = {r.name: r.job for r in rows if r.is_information and r.name in config.eval.tasks}
        bare = {t for t in config.eval.tasks if ":" not in t}
        assert own.keys() == bare
        for task, job in own.items():
            jobs.setdefault(task, set()).add(job)
    assert len(jobs) >= 6 and all(len(of) == 1 for of in jobs.values())
    groups = {r.group for c in configs("clusters", 1).values() for r in evaluation.rows(c, members_of(c)) if r.is_information}  # fmt: skip
    assert {"instances", "extra"} <= groups  # the ceiling's are of trained tasks


def test_specialists_and_the_multitask_model_take_equally_many_tokens_in_all():
    made = configs("specialists", 2)
    whole = made.pop("multitask")
    assert sum(map(slots_used, made.values())) == slots_used(whole)
    tasks = [trained_tasks(c) for c in made.values()]
    assert set.union(*tasks) == trained_tasks(whole) and sum(map(len, tasks)) == len(trained_tasks(whole))  # fmt: skip
    assert all(set(c.eval.tasks) == trained_tasks(c) for c in (*made.values(), whole))


def test_names_and_bare_inputs_instruct_nobody():
    sought = purity.instructions(registry.task(t) for t in studies.SPOKEN_OF)
    for kind, twin in studies.TWINS.items():
        for task, other in twin.items():
            own = registry.task(other)
            for prompt, _ in own.templates:
                words = re.sub(r"\{\w+\}", "", prompt).split()
                assert words == ([task] if kind == studies.NAMED else [])
                assert purity.instruction_in(prompt, sought) == ""
            assert own.source is registry.task(task).source
            told = {s for t, _ in own.templates for s in templates.slots(t)}
            assert told == {s for t, _ in registry.task(task).templates for s in templates.slots(t)}


# ---- documents


def some_documents(n: int) -> list[str]:
    return [documents.document(random.Random(f"documents/0/{i}")) for i in range(n)]


def test_documents_hold_no_instruction_and_planted_ones_are_found():
    sought = purity.instructions(registry.task(t) for t in studies.SPOKEN_OF)
    texts = some_documents(2000)
    assert {purity.instruction_in(t, sought) for t in texts} == {""}
    found = 0
    for task in studies.SPOKEN_OF:
        for prompt, _ in registry.task(task).templates:
            planted = f"{texts[0]} {re.sub(r'{[a-z]+}', 'pear', prompt)}".replace("?", ".").upper()
            literal = max(re.split(r"\{\w+\}|\n", prompt), key=lambda part: len(part.split()))
            if len(re.findall(r"\w+", literal)) >= purity.MIN_WORDS:
                assert purity.instruction_in(planted, sought), prompt
                found += 1
    assert found > 200
    assert purity.instruction_in("Is it red?", sought) == "?"


def test_runs_of_words_that_are_too_short_to_look_for_are_counted(monkeypatch):
    """Each run once, in the loose form, and no run that is looked for."""
    config, _ = recipe.load(file("documents"), quick=True)
    words = set()
    for task in map(registry.task, studies.SPOKEN_OF):
        cot = [*task.cot.templates, *task.cot.heldout_templates] if task.cot else []
        for prompt, _ in [*task.templates, *task.heldout_templates, *task.inverted, *cot]:
            lines = re.split(r"\{[^{}]*\}|\n", prompt)
            words |= {loose.loose(line) for line in lines if loose.loose(line).strip()}
    short = {w for w in words if len(w.split()) < purity.MIN_WORDS}
    monkeypatch.setattr(documents, "document", lambda draw: str(draw.random()))
    found = purity.check(config, {"leaks": []})
    assert found["short"] == len(short) > 5
    assert found["instructions"] == len(words) - len(short)


def test_documents_say_of_each_task_what_is_right():
    """Every task is spoken of, in the words of its own answers."""
    text = "\n".join(some_documents(4000))
    phrases = [
        p for _, _, skills in documents.SKILLS.values() for of in skills.values() for p in of
    ]
    for phrase in phrases:
        pattern = ".{1,40}".join(map(re.escape, re.split(r"\{\w+\}", phrase)))
        assert re.search(pattern, text, re.I), phrase
    shown = re.findall(r"^([a-z ]+)\n(?:.*\. )?The first word is (\w+)\.", text, re.M)
    assert len(shown) > 5 and all(words.split()[0] == word for words, word in shown)


def test_a_document_that_instructs_fails_the_study(monkeypatch):
    config, _ = recipe.load(file("documents"), quick=True)
    lock = {"leaks": [{"dropped": 3}, {"dropped": 4}]}
    found = purity.check(config, lock)
    assert found["documents"] > 2500 and found["instructions"] > 300 and found["left_out"] == 7
    assert found["skipped"]["another split"] > 0 and found.keys() == purity.FACTS
    assert set(config.eval.tasks) == set(studies.SPOKEN_OF)  # the build looks for what these ask
    monkeypatch.setattr(
        documents, "document", lambda draw: "red key\nTell: which word comes first."
    )
    with pytest.raises(RunFailed, match="holds 'which word comes first'"):
        purity.check(config, lock)
