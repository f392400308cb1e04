# SPDX-License-Identifier: Apache-2.0
"""Names, templates, mixtures and holdouts."""

import re

import pytest

from itx.config import DataConfig, EvalConfig, RunConfig
from itx.errors import UserError
from itx.prepare import evaluation, render
from itx.tasks import names, registry, resolve, templates
from itx.tasks.spec import function, holdout
from tests import sample_tasks  # noqa: F401  (registers)

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    "name",
    [
        "rte",
        "rte:fs4",
        "ni.task123_x:cot",
        "rte:fs4:cot:inv:noopt:t3f9a01#12",
        "rte:fs4:opt",
        "rte#2",
    ],
)
def test_a_name_is_parsed_and_written_back(name):
    assert str(names.parse(name)) == name
    assert re.fullmatch(r"[\w\d\.\:_#]+", name, re.ASCII)  # what SeqIO accepts


def test_zs_is_the_bare_name():
    assert names.parse("rte:zs") == names.parse("rte") != names.parse("rte:cot")


@pytest.mark.parametrize(
    "name",
    [
        "rte:cot:fs4",
        "rte:opt:noopt",
        "rte:noopt:cot",
        "rte\n",
        "rte-zs",
        "задача",
        "rte:fs0",
        "rte:t3f9a",
        "",
        "a b",
        "ni/task1",
    ],
)
def test_a_bad_name_is_refused(name):
    with pytest.raises(UserError, match="name"):
        names.parse(name)


def test_a_template_id_is_of_its_text_not_its_place():
    spec = registry.task("sample_first")
    assert templates.template_id(spec.templates[0]) == templates.template_id(
        tuple(spec.templates[0])
    )
    assert len({templates.template_id(t) for t in spec.templates + spec.heldout_templates}) == 3


@pytest.mark.parametrize(
    "target, text, answer",
    [
        ("{rationale}\nThe answer is {answer}.", "3 and 4 make 7.\nThe answer is 7.", "7"),
        ("The answer is {answer}.", "The answer is 3. No: the  answer is 5", None),
        ("The answer is {answer}.", "The answer is 3. The answer is 3.5.", "3.5"),
        ("{rationale}\nОтвет: {answer}", "60 · 2 = 120.\nОтвет: 120 км", "120 км"),
    ],
)
def test_the_extractor_comes_from_the_target_pattern(target, text, answer):
    found = re.findall(templates.answer_pattern(target), text)
    assert (found[-1] if found else None) == (answer or "3")


def test_a_bare_answer_needs_no_extractor():
    assert templates.answer_pattern("{answer}") is None


def test_holes_and_unknown_slots_are_named():
    assert templates.fill("{a} {{b}}", {"a": "1"}) == "1 {b}"
    with pytest.raises(UserError, match="needs the field 'wrods'; did you mean 'words'"):
        templates.fill("{wrods}", {"words": "x"})
    with pytest.raises(UserError, match="'words' is empty"):
        templates.fill("{words}", {"words": " "})
    with pytest.raises(UserError, match="without format or index"):
        templates.slots("{a[0]}")


def make(name="x", **changes):
    plain = {
        "version": 1,
        "cluster": "c",
        "source": function(lambda *_: []),
        "fields": dict,
        "templates": [("{a}", "{answer}")],
    }
    return registry.make_task(name, **(plain | changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"templates": []}, "no templates"),
        ({"templates": [("{a} ", "{answer}")]}, "must not end in a space"),
        ({"templates": ["{a}"]}, "not an .input, target. pair"),
        (
            {"heldout_templates": [("{a}", "{answer}")]},
            "held-out template is also a training template",
        ),
        ({"metrics": [lambda t, p: 0]}, "not a lambda"),
        ({"name": "a:b"}, "only ASCII"),
        ({"primary": "guess"}, "primary"),
        ({"source": function(lambda *_: [], {"train": 0.5, "test": 0.4})}, "sums to"),
        ({"source": function(lambda *_: [], {"trian": 1.0})}, "did you mean 'train'"),
        ({"metrcs": ()}, "metrcs"),
    ],
)
def test_a_wrong_spec_is_refused_at_registration(changes, message):
    make()
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_two_tasks_cannot_share_a_name():
    with pytest.raises(UserError, match="already registered"):
        registry.instruction_task(
            "sample_first",
            version=1,
            cluster="c",
            source=function(lambda *_: []),
            fields=dict,
            templates=[("{a}", "b")],
        )
    with pytest.raises(UserError, match="has this name already"):
        registry.mixture("sample_add", ["sample_first"])


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UserError, match="unknown task 'sample_frist'; did you mean 'sample_first'"):
        registry.task("sample_frist")


OPTIONS = {"options": ("a", "b"), "heldout_templates": [("{x} held {options}", "{answer}")]}
BOTH = {"templates": [("{x} {options}", "{answer}"), ("{x}?", "{answer}")], **OPTIONS}


def test_wordings_with_and_without_options(monkeypatch):
    spec = make(**BOTH)
    every = {k: render.choices(spec, names.parse(f"x{k}")) for k in ("", ":opt", ":noopt")}
    assert every == {
        "": list(spec.templates),
        ":opt": [spec.templates[0]],
        ":noopt": [spec.templates[1]],
    }
    held = {k: len(render.choices(spec, names.parse(f"x{k}"), "heldout")) for k in every}
    assert held == {"": 1, ":opt": 1, ":noopt": 0}
    only = make("only", **{**BOTH, "templates": [BOTH["templates"][0]]})
    free = make("free", templates=[("{x}", "{answer}")])
    for t in (spec, only, free):
        monkeypatch.setitem(registry.TASKS, t.name, t)
    names_ = ("x", "only", "free")
    partial = {
        k: registry.MixtureSpec("m", names_, {f"fs2:{k}": 1.0}, partial=True)
        for k in ("opt", "noopt")
    }
    assert resolve.members(partial["opt"]) == {"x:fs2:opt": 1.0, "only:fs2:opt": 1.0}
    assert resolve.members(partial["noopt"]) == {"x:fs2:noopt": 1.0, "free:fs2:noopt": 1.0}
    assert resolve.left_out(partial["opt"]) == [("free", "it has no wording for :fs2:opt")]
    assert resolve.left_out(partial["noopt"]) == [("only", "it has no wording for :fs2:noopt")]
    whole = registry.MixtureSpec("m", names_, {"zs:opt": 1.0})
    assert resolve.left_out(whole) == []
    with pytest.raises(UserError, match="'free' has none of the variants"):
        resolve.members(whole)
    # a row of held-out wordings only where the variant has some
    config = RunConfig(data=DataConfig(mixture="none"), eval=EvalConfig(instructions=False))
    rows = [r.name for r in evaluation.rows(config, ["x", "x:opt", "x:noopt"])]
    assert rows == ["x", "x@heldout", "x:opt", "x:opt@heldout", "x:noopt"]


def test_holding_out_a_task_takes_its_variants():
    members = resolve.members(registry.MIXTURES["sample_held"])
    assert [members[f"sample_first{v}"] for v in ("", ":fs3", ":inv")] == [0.5, 0.25, 0.25]
    assert members["sample_add"] + members["sample_add:fs3"] == pytest.approx(
        1
    )  # no inverted templates: their share goes to the others
    assert not [m for m in members if m.startswith("sample_second")]


def test_holding_out_a_cluster_takes_its_neighbours():
    spec = registry.MIXTURES["sample_no_parity"]
    assert dict(resolve.removed(spec)) == {
        "sample_even": "cluster sample_parity is held out",
        "sample_add": "cluster sample_sum is a neighbour of sample_parity",
    }
    assert set(resolve.members(spec)) == {"sample_first", "sample_last", "sample_second"}


def test_holding_out_takes_kin_by_origin(monkeypatch):
    for name, origin in (("kin_a", ("sst",)), ("kin_b", ("sst", "x")), ("kin_c", ("y",))):
        monkeypatch.setitem(registry.TASKS, name, make(name, origin=origin, cluster=name))
    monkeypatch.setitem(registry.MIXTURES, "kin_mix", None)
    spec = registry.MixtureSpec(
        "kin_mix", holdout(tasks=["kin_a"], among=["kin_a", "kin_b", "kin_c"])
    )
    assert dict(resolve.removed(spec)) == {
        "kin_a": "held out by name",
        "kin_b": "made from sst, as is kin_a",
    }
    assert set(resolve.members(spec)) == {"kin_c"}


def test_a_wrong_holdout_names_the_nearest():
    spec = registry.MixtureSpec("m", holdout(clusters=["sample_party"], among=["sample_even"]))
    with pytest.raises(
        UserError, match="unknown cluster 'sample_party'; did you mean 'sample_parity'"
    ):
        resolve.removed(spec)


def test_evaluation_only_tasks_are_refused_in_training(monkeypatch):
    monkeypatch.setitem(registry.TASKS, "exam", make("exam", evaluation_only=True))
    with pytest.raises(UserError, match="evaluation only"):
        resolve.members(registry.MixtureSpec("m", ("exam",)))


def test_a_family_that_cannot_list_its_tasks_is_one_line(monkeypatch, tmp_path):
    """`itx tasks list` asks every family, also under a root that is not its own."""

    def listed(root):
        return [(tmp_path / "no index.json").read_text()]

    monkeypatch.setitem(registry.FAMILIES, "lost", listed)
    line = listed.__code__.co_firstlineno + 1
    with pytest.raises(
        UserError, match=rf"family 'lost' .*test_registry.py line {line}: FileNotFoundError"
    ) as e:
        registry.expand("lost.*", str(tmp_path))
    assert "\n" not in str(e.value)
