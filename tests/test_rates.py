# SPDX-License-Identifier: Apache-2.0
"""`itx loop CONFIG --actions rates`: the rates that are tried, what follows from sources left out,
what is refused, and the whole of it on a lopsided mixture.

    uv run pytest -m slow -s tests/test_rates.py
"""

import json
from pathlib import Path

import pytest

from itx import cli, storage
from itx.analysis import rates, rounds
from itx.commands import rates as searching
from itx.commands import stages
from itx.prepare import members
from tests.conftest import REPO
from tests.create.test_closed_loop import RECIPE
from tests.looped_tasks import TASKS
from tests.samples import itx

SIZES = {"a": ("x", 0.5, 100), "b": ("x", 0.2, 400), "c": ("y", 0.3, 100)}


def lock(sizes: dict[str, tuple[str, float, int]]) -> dict:
    """What is read of a lock, each task in two variants; and a task beside the mixture."""
    tasks = [
        {"name": f"{t}{v}", "task": t, "cluster": c, "rate": rate / 2, "examples": n}
        for t, (c, rate, n) in sizes.items()
        for v in ("", ":fs2")
    ]
    return {"tasks": [*tasks, {"name": "text", "task": "text", "cluster": "z", "rate": 0.1, "examples": 9}]}  # fmt: skip


def test_candidates_have_the_rates_that_they_are_called_by():
    found, same = rates.candidates(lock(SIZES), {"text"})
    assert not same and list(found) == ["as it is", "uniform", "examples-proportional", "temperature 2"]  # fmt: skip

    def whole(factors):
        return {t: SIZES[t][1] * f for t, f in factors.items()}

    assert whole(found["uniform"]) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert whole(found["examples-proportional"]) == pytest.approx({"a": 1 / 6, "b": 4 / 6, "c": 1 / 6})  # fmt: skip
    assert whole(found["temperature 2"]) == pytest.approx({"a": 0.25, "b": 0.5, "c": 0.25})


def test_a_candidate_that_is_another_is_said_and_not_tried():
    equal = {t: (c, 1 / 3, 50) for t, (c, _, _) in SIZES.items()}
    found, same = rates.candidates(lock(equal), {"text"})
    assert list(found) == ["as it is"] and same == dict.fromkeys(("uniform", "examples-proportional", "temperature 2"), "as it is")  # fmt: skip


def test_sources_are_clusters_or_else_tasks():
    assert rates.sources(lock(SIZES), {"text"}) == {"x": ["a", "b"], "y": ["c"]}
    one = {t: ("x", rate, n) for t, (_, rate, n) in SIZES.items()}
    assert list(rates.sources(lock(one), {"text"})) == ["a", "c", "b"]


def test_a_source_is_raised_where_others_need_it_and_lowered_where_they_do_not():
    tasks = {"x": ["a", "b"], "y": ["c"], "z": ["d"]}
    found = [
        {"source": s, "others": {"verdict": v}}
        for s, v in zip(tasks, ("worse", "better", "unresolved"), strict=True)
    ]
    assert rates.proposed(found, tasks) == {"a": 2.0, "b": 2.0, "c": 0.5}
    assert rates.proposed(found[2:], tasks) == {}


def test_factors_go_on_top_of_those_of_the_recipe():
    told = rates.override({"a": 0.5, "b": 3.0}, (("a", 4.0), ("c", 2.0)))
    assert told == "--data.rate_factors=a,2.0,b,3.0,c,2.0"


@pytest.fixture
def proxies(monkeypatch, tmp_path):
    """The search with its runs replaced by a table of gains."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.py").write_text(RECIPE.replace('"faulty"', '"looped"').replace("faulty_tasks", "looped_tasks"))  # fmt: skip
    held = {"gains": {}, "done": []}

    def train(folder, run, recipe):
        held["done"].append((run.name, [w for w in recipe if w.startswith("--data.rate") or "seed" in w]))  # fmt: skip

    def compared(first, other, parts):
        gain = held["gains"].get(Path(other).name, 0.0)
        interval = [gain - 0.1, gain + 0.1]
        one = {"pairs": 9, "difference": gain, "interval": interval, "p": 0.0 if gain else 1.0}
        one["verdict"] = "of itself"
        return {name: dict(one) for name in parts}

    sizes = {f"looped_{n}": (f"c{n}", 0.6 if n == 0 else 0.1, 100) for n in range(TASKS)}
    monkeypatch.setattr(stages, "train", train)
    monkeypatch.setattr(stages, "test", lambda folder, run: {"score": 0.5, "score_interval": [0.4, 0.6]})  # fmt: skip
    monkeypatch.setattr(rounds, "score", lambda run: 0.5)
    monkeypatch.setattr(rates, "_compared", compared)
    monkeypatch.setattr(searching, "read_lock", lambda run: lock(sizes))
    monkeypatch.setattr(members, "beside", lambda data: {"text": 0.1})
    return held


def ran(*words: str) -> tuple[int, dict]:
    command = ["loop", "recipe.py", "--loop_dir", "L", "--actions", "rates", *words]
    code = cli.main(command)
    return code, storage.read_object(Path("L/rates.json"), "chosen")


def test_nothing_is_claimed_where_no_candidate_is_better(proxies, capsys):
    code, facts = ran()
    assert code == 0 and facts["chosen"] == "as it is" and "full" not in facts
    names = [name for name, _ in proxies["done"]]
    assert names[:2] == ["proxy-as_it_is", "proxy-again%2C_another_seed"] and "proxy-without_c4" in names  # fmt: skip
    assert not any(n.startswith("full") or "proposed" in n for n in names)
    assert "no candidate is told to be better" in capsys.readouterr().out


def test_what_proxies_choose_full_runs_must_bear_out(proxies, capsys):
    proxies["gains"] |= {"proxy-uniform": 0.3, "proxy-without_c1": -0.4, "full-uniform": 0.2}
    code, facts = ran("--sources", "2")
    assert code == 0 and facts["chosen"] == "uniform" and list(facts["test"]) == ["L/full-as_it_is", "L/full-uniform"]  # fmt: skip
    assert facts["sources_not_left_out"] == ["c2", "c3", "c4"]
    assert "not left out, --sources takes the largest: c2, c3, c4" in capsys.readouterr().out
    done = dict(proxies["done"])
    assert done["proxy-proposed"] == ["--data.rate_factors=looped_1,2.0"]
    assert "looped_0,0.333" in done["full-uniform"][0]
    assert "rate_factors=(('looped_0', 0.333" in Path(facts["recipe"]).read_text()

    proxies["gains"]["full-uniform"] = 0.0
    code, facts = ran("--sources", "2")
    assert code == 0 and facts["chosen"] == "as it is"
    assert facts["stopped"] == "uniform is better in proxies and unresolved in full runs"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--actions", "rates,drop"], "rates are searched alone"),
        (["--proxy_share", "0"], "--proxy_share 0: above 0"),
        (["--sources", "-1"], "--sources -1: 0 or above"),
        (["--control"], "a search for rates has its own"),
        (["--data.mixture=looped_0"], "two or more tasks"),
        (["--train.steps=4"], "less than 2 steps"),
    ],
)
def test_what_is_refused_leaves_nothing(proxies, capsys, words, told):
    before = sorted(Path().iterdir())
    assert cli.main(["loop", "recipe.py", "--loop_dir", "L", "--actions", "rates", *words]) == 2
    assert told in capsys.readouterr().err and sorted(Path().iterdir()) == before


@pytest.mark.slow
def test_a_lopsided_mixture_is_mended_and_a_fair_one_is_left(tmp_path):
    """Five tables of which nothing helps another: at 60 : 1 : 1 : 1 : 1 four are not learned in time,
    and uniform rates are found; with uniform rates there is nothing to find."""
    (tmp_path / "recipe.py").write_text(RECIPE.replace("tests.faulty_tasks", "tests.looped_tasks"))
    for mixture, chosen in (("looped_lopsided", "uniform"), ("looped", "as it is")):
        how = ["--actions", "rates", "--proxy_share", "0.5", "--loop_dir", mixture]
        settings = [f"--data.mixture={mixture}", "--data.suite_seed=1000", "--train.steps=200"]
        itx("loop", "recipe.py", *settings, *how, cwd=tmp_path, PYTHONPATH=str(REPO))
        facts = json.loads((tmp_path / mixture / "rates.json").read_text())
        print(json.dumps(facts, indent=1))
        assert facts["chosen"] == chosen, facts["stopped"]
