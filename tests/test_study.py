# SPDX-License-Identifier: Apache-2.0
"""Studies: that their arms differ by nothing but what the question names, that the documents of
their base instruct nobody, their statistics against SciPy's, and what a kill or a failed run leaves
of one. All but one test replace the process that trains a run by one that writes what it leaves.

    uv run pytest -m slow tests/test_study.py
"""

import dataclasses
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as reference

from itx import cli, processes, recipe, shipped, storage
from itx.analysis.compare import MIN_SEEDS
from itx.commands import child
from itx.commands import study as command
from itx.config import to_dict
from itx.errors import RunFailed, UserError
from itx.prepare import evaluation
from itx.prepare.members import members_of
from itx.runs import RunFolder
from itx.study import page, purity, results, spec
from itx.study.spec import Arm, Comparison, Draw, Measure, Study
from itx.tasks import names, registry, templates
from tasks import documents, studies
from tests import samples

STUDIES = shipped.study_names()
TRIED = """
from itx.config import RunConfig, DataConfig, EvalConfig, TrainConfig
from itx.study.spec import Arm, Comparison, Draw, Measure, Study

def get_config(quick=False):
    return RunConfig(data=DataConfig(mixture="m"), train=TrainConfig(steps=5), eval=EvalConfig(tasks=("a", "b")))

def get_study(quick=False):
    return Study(
        name="tried", question="Is it so?",
        arms=(Arm("none", ("--train.steps=0",)), *(Arm(f"{n} of them", (f"--data.mixture=m{n}_{{draw}}",), place=n) for n in (1, 2, 4)),
              Arm("further", begins="4 of them")),
        draws=tuple(Draw(str(i), (f"--train.seed={i}",)) for i in range(4)),
        measures=(Measure("bits", "bits"), Measure("right", "score")),
        comparisons=(Comparison("1 of them", "4 of them", "better", "Others found it so"),), axis="them", log=True,
    )
"""


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
    assert set(config.eval.tasks) == set(studies.SPOKEN_OF)  # the build looks for what these ask
    monkeypatch.setattr(
        documents, "document", lambda draw: "red key\nTell: which word comes first."
    )
    with pytest.raises(RunFailed, match="holds 'which word comes first'"):
        purity.check(config, lock)


# ---- statistics


def tried(**more) -> Study:
    arms = (Arm("a"), Arm("b", place=1), Arm("c", place=2), Arm("d", place=4))
    return Study(
        name="tried", question="?", arms=arms, draws=tuple(Draw(str(i)) for i in range(5)),
        measures=(Measure("bits", "bits"), Measure("text", "text")),
        comparisons=(Comparison("a", "d", "better", "X"),), log=True, **more,
    )  # fmt: skip


def drawn_values(of: Study, shift: float) -> results.Values:
    rng = np.random.default_rng(3)
    return {
        (side, d.name): {m.name: float(rng.normal(shift * i, 0.3)) for m in of.measures}
        for i, side in enumerate(of.sides)
        for d in of.draws
    }


def test_differences_and_slopes_are_scipys():
    of = tried()
    values = drawn_values(of, 1.0)
    bits, text, slope, _ = results.tests(of, values)
    assert "source" in bits and "source" not in text and "first" not in slope
    a, d = ([values[side, str(i)]["bits"] for i in range(5)] for side in "ad")
    paired = reference.ttest_rel(d, a)
    assert bits["difference"] == pytest.approx(np.mean(d) - np.mean(a))
    assert bits["p"] == pytest.approx(paired.pvalue) and bits["verdict"] == "better"
    assert bits["interval"] == pytest.approx(list(paired.confidence_interval()))
    assert abs(bits["difference"] - (np.mean(d) - np.mean(a)) / 2) > 0.5
    error = np.std(np.subtract(d, a), ddof=1) / 5**0.5
    wanted = (reference.t.ppf(0.975, 4) + reference.t.ppf(0.8, 4)) * error
    assert bits["smallest"] == pytest.approx(wanted)
    assert text["verdict"] == "worse"  # more bits per byte
    slopes = [
        reference.linregress([0, 1, 2], [values[s, str(i)]["bits"] for s in "bcd"]).slope
        for i in range(5)
    ]
    assert slope["values"] == pytest.approx(slopes)
    assert slope["margin"] == bits["margin"] / 2  # two doublings
    assert bits["holm"] >= bits["p"]


def test_verdicts_need_draws_and_margins():
    same = {k: dict.fromkeys(v, 0.0) for k, v in drawn_values(tried(), 0).items()}
    assert {t["verdict"] for t in results.tests(tried(), same)} == {"equivalent"}
    few = dataclasses.replace(tried(), draws=tried().draws[: MIN_SEEDS - 1])
    found = results.tests(few, drawn_values(few, 9.0))
    assert {t["verdict"] for t in found} == {"unresolved"} and found[0]["difference"] > 9
    (alone, *_) = results.tests(tried(), {("a", "0"): {"bits": 1.0, "text": 1.0}})
    assert alone["draws"] == 0 and "difference" not in alone


def test_a_gain_in_score_without_one_in_information_is_a_gain_in_format():
    of = dataclasses.replace(tried(), measures=(Measure("bits", "bits"), Measure("right", "score")))
    for bits, told in ((0.0, True), (3.0, False)):
        values = {
            (side, str(i)): {"bits": bits * n + i, "right": 0.3 * n + i / 10 + i * n / 100}
            for n, side in enumerate(of.sides)
            for i in range(5)
        }
        facts = {"tests": results.tests(of, values), "runs": []}
        said = [line for line in page._sentences(facts) if "a gain in format" in line]
        assert len(said) == told


def test_a_side_of_several_arms_is_their_mean_once_all_are_done():
    of = dataclasses.replace(tried(), arms=(Arm("x", side="a"), Arm("y", side="a"), Arm("d")))
    runs = {("x", "0"): {"bits": 1.0, "text": 0.0}, ("y", "0"): {"bits": 2.0, "text": 1.0}, ("x", "1"): {"bits": 5.0, "text": 5.0}}  # fmt: skip
    assert results.by_side(of, runs) == {("a", "0"): {"bits": 1.5, "text": 0.5}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"arms": ()}, "no arm"),
        ({"arms": (Arm("a"), Arm("a"))}, "arm 'a' is there twice"),
        ({"arms": (Arm("a", begins="d"), Arm("d"))}, "arm 'a' begins from 'd'"),
        ({"comparisons": (Comparison("a", "e", "better", ""),)}, "no side 'e'"),
        ({"comparisons": (Comparison("a", "d", "better", "", "byts"),)}, "no measure 'byts'"),
    ],
)
def test_a_study_that_cannot_be_meant(changed, told):
    with pytest.raises(UserError, match=told):
        spec.check(dataclasses.replace(tried(), **changed))


# ---- the command


class Trainers:
    """Stands for the processes of a study's runs: writes what `itx train` leaves behind."""

    def __init__(self, folder, monkeypatch):
        self.file, self.folder = folder / "tried.py", folder / "studied"
        self.file.write_text(TRIED)
        self.trained, self.fail, self.kill = [], "", ""
        self.words = ["study", str(self.file), "--study_dir", str(self.folder)]
        monkeypatch.setattr(processes, "run_child", self.run)
        monkeypatch.setattr(child, "build_in_subprocess", lambda args: "lock.json")
        monkeypatch.setattr(command.locks, "read", lambda file: {"leaks": []})
        monkeypatch.setattr(command.locks, "shape_hash", lambda lock: "data")
        found = {"documents": 7, "instructions": 8, "left_out": 0}
        monkeypatch.setattr(purity, "check", lambda config, lock: found)

    def run(self, words, what, said, environment):
        assert "JAX_COMPILATION_CACHE_DIR" in environment and words[3] == "train"
        run = RunFolder(Path(words[words.index("--run_dir") + 1]))
        overrides = [w for w in words[5:] if w.startswith("--") and "." in w.split("=")[0]]
        config, _ = recipe.load(words[4], overrides)
        if run.path.name == self.kill:
            raise KeyboardInterrupt
        if self.fail and self.fail in run.path.name:
            said.write_text("data: ready\nitx: no finite loss\n")
            raise SystemExit(1)
        self.trained.append(run.path.name)
        if run.path.name == "study-base":
            storage.write_json(run.config_json, storage.sealed({"config": to_dict(config)}))
        sized = re.fullmatch(r"m(\d)_\d", config.data.mixture)
        size = int(sized[1]) if sized else 0
        value = size + config.train.seed / 10 + (0.01 * size * config.train.seed)
        rows = {f"{t}@eval": {"cluster": t, "score": value / 10} for t in config.eval.tasks}
        steps = config.train.steps
        storage.write_json(run.scores_json(steps), storage.sealed({"rows": rows}))
        bits = {t: {"swapped": [value, value]} for t in config.eval.tasks}
        storage.write_json(run.information_json, storage.sealed({"after": bits}))
        mixture = {"input_tokens": 10 * steps, "target_tokens": steps}
        storage.write_json(run.audit_json, storage.sealed({"mixture": mixture}))
        storage.write_json(run.report_json, {})

    def facts(self) -> dict:
        return storage.read_object(self.folder / "study.json")


@pytest.fixture
def trainers(tmp_path, monkeypatch):
    return Trainers(tmp_path, monkeypatch)


def test_every_run_is_made_once_and_each_begins_where_it_should(trainers, capfd):
    assert cli.main(trainers.words) == 0
    assert trainers.trained[0] == "study-base" and len(trainers.trained) == 1 + 5 * 4
    facts = trainers.facts()
    bits, right, *slopes = facts["tests"]
    assert right["verdict"] == "better" and right["difference"] == pytest.approx(0.3045)
    assert bits["verdict"] == "better" and bits["difference"] == pytest.approx(3 + 0.03 * 1.5)
    assert [s["measure"] for s in slopes] == ["bits", "right"] and slopes[0]["verdict"] == "better"
    assert all(r["values"] and r["seconds"] is not None for r in facts["runs"])
    assert {r["tokens"] for r in facts["runs"]} == {0, 55}
    text = (trainers.folder / "study.md").read_text()
    assert "Agrees. Others found it so." in text and "20 of 20 runs done" in text
    assert "7 documents, none of which" in text
    assert b"<svg" in (trainers.folder / "study.svg").read_bytes()
    assert cli.main(trainers.words) == 0 and len(trainers.trained) == 21
    begins = {p.name: p.config.model.pretrained for p in plans_of(trainers)}
    assert begins["further.2"] == str(trainers.folder / "4_of_them.2")
    assert begins["1_of_them.2"] == str(trainers.folder.parent / "study-base")


def plans_of(trainers) -> list:
    args = cli._parser("study").parse_args(trainers.words)
    args.overrides = []
    of = command._study(args, str(trainers.file))
    base = RunFolder(trainers.folder.parent / "study-base")
    return command._plans(args, of, str(trainers.file), trainers.folder, base)


def test_a_study_that_is_killed_goes_on_where_it_was(trainers, capfd):
    trainers.kill = "2_of_them.1"
    assert cli.main(trainers.words) == 130
    done = list(trainers.trained)
    assert done[-1] == "1_of_them.1" and len(trainers.facts()["runs"]) == 20
    assert sum(r["values"] is not None for r in trainers.facts()["runs"]) == len(done) - 1
    assert "Not run: 2_of_them.1" in (trainers.folder / "study.md").read_text()
    trainers.kill = ""
    assert cli.main(trainers.words) == 0
    assert len(trainers.trained) == len(set(trainers.trained)) == 21
    assert trainers.trained[: len(done)] == done
    first = trainers.facts()["runs"][0]
    assert first["run"] == "none.0" and first["seconds"] is not None  # timed before the kill
    assert not list(trainers.folder.glob("*.part"))


def test_a_run_that_fails_is_named_and_so_is_what_begins_from_it(trainers, capfd):
    trainers.fail = "4_of_them.3"
    assert cli.main(trainers.words) == 1
    failed = {r["run"]: r["failed"] for r in trainers.facts()["runs"] if r["failed"]}
    assert failed["4_of_them.3"].startswith("no finite loss (exit 1; all of it: ")
    assert failed["further.3"] == "4_of_them.3, which it begins from, is not done"
    assert len(failed) == 2 and trainers.facts()["tests"][0]["draws"] == 3
    assert "Failed: further.3: 4_of_them.3" in capfd.readouterr().out


def test_a_base_of_another_recipe_is_refused_and_other_documents_are_searched(trainers, capfd):
    assert cli.main([*trainers.words, "--draws", "1"]) == 0
    searched, base = (trainers.folder.parent / name for name in ("study-base.json", "study-base"))
    storage.write_json(searched, storage.sealed({**storage.read_object(searched), "data": "old"}))
    assert cli.main([*trainers.words, "--draws", "2"]) == 0
    assert storage.read_object(searched)["data"] == "data"
    held = storage.read_object(RunFolder(base).config_json)["config"]
    held["data"]["seed"] = 3
    storage.write_json(RunFolder(base).config_json, storage.sealed({"config": held}))
    assert cli.main(trainers.words) == 2
    assert "belongs to another config: data.seed" in capfd.readouterr().err
    assert len(trainers.trained) == 11


def test_only_some_arms_and_draws(trainers, capfd):
    assert cli.main([*trainers.words, "--only", "further", "--draws", "2"]) == 0
    assert trainers.trained == [
        "study-base",
        "4_of_them.0",
        "further.0",
        "4_of_them.1",
        "further.1",
    ]
    text = (trainers.folder / "study.md").read_text()
    assert "4 of 10 runs done" in text and "Not run: none.0, 1_of_them.0" in text
    assert "Not resolved. Others found it so." in text and "not run" in text
    capfd.readouterr()
    assert cli.main([*trainers.words, "--dry_run"]) == 0
    out = capfd.readouterr().out
    assert out.count("done      ") == 4 and "16 of 20 runs to do, about" in out
    assert len(trainers.trained) == 5


def test_a_page_takes_what_was_found_in_between_its_marks(trainers, tmp_path, capfd):
    wanted = tmp_path / "page.md"
    wanted.write_text("# Results\n<!-- study tried -->\nNot run.\n<!-- end study tried -->\nEnd.\n")
    assert cli.main([*trainers.words, "--page", str(wanted)]) == 0
    text = wanted.read_text()
    assert text.startswith("# Results\n<!-- study tried -->\n**Is it so?**") and text.endswith(
        "<!-- end study tried -->\nEnd.\n"
    )
    assert "Not run." not in text and "| 4 of them | 4 |" in text
    assert cli.main([*trainers.words, "--quick", "--page", str(wanted)]) == 2
    assert "a quick variant are no results" in capfd.readouterr().err
    wanted.write_text("# Results\n")
    assert cli.main([*trainers.words, "--page", str(wanted)]) == 2
    assert "needs a line <!-- study tried -->" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clutsers"], "no study named 'clutsers'; did you mean 'clusters'"),
        (["there.py"], "study file 'there.py' is not there"),
        (["clusters", "--only", "8 cluster"], "no arm '8 cluster'; did you mean '8 clusters'"),
        (["clusters", "--draws", "6"], "--draws 6: the study has 1 to 5"),
        (["clusters", "--train.stps=3"], "unknown setting '--train.stps'"),
        (["quickstart.py"], "study file 'quickstart.py' is not there"),
    ],
)
def test_what_is_refused_leaves_nothing(words, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", *words]) == 2
    assert told in capfd.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow  # minutes: the quick base and two runs, for real
def test_a_real_study(tmp_path):
    words = ("study", "clusters", "--quick", "--draws", "1", "--only", "not tuned,2 clusters")
    samples.itx(*words, cwd=tmp_path)
    folder = tmp_path / "runs" / "study-clusters-quick"
    runs = {r["run"]: r for r in storage.read_object(folder / "study.json")["runs"]}
    assert runs["not_tuned.0"]["values"] and runs["2_clusters.0"]["values"]
    assert runs["not_tuned.0"]["values"] != runs["2_clusters.0"]["values"]
    assert "not_tuned.0\n" not in samples.itx(*words, cwd=tmp_path).stdout
    assert samples.itx("compare", folder).returncode == 0
