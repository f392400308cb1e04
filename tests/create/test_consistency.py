# SPDX-License-Identifier: Apache-2.0
"""Whether a model answers rows as it answers their parents."""

import json

import pytest

from itx import cli
from itx.create import consistency
from itx.create.consistency import Pair
from itx.create.generators import Completion, Request
from itx.create.row import Row
from tests.create.openai_server import Served, answer, serving
from tests.create.rows import script_of


def measured(answers: dict[str, str], *pairs: Pair) -> dict:
    def ask(requests: list[Request]) -> list[Completion]:
        said = [answers.get(script_of(r)) for r in requests]
        return [Completion(s or "", "failed" if s is None else "stopped") for s in said]

    return consistency.measured(ask, pairs, True)


def test_what_is_counted():
    river, bird = Row("Name a river.", "", "Nile"), Row("Name a bird.", "", "crow")
    typo, frame = Row("Name a rivver.", "", "Nile"), Row("Hello! Name a bird.", "", "crow")
    pairs = [Pair(river, typo, "typos"), Pair(bird, frame, "typos")]
    both_right = {"Name a river.": "Nile", "Name a rivver.": "nile.", "Name a bird.": "jay", "Hello! Name a bird.": "Jay."}  # fmt: skip
    (found,) = measured(both_right, *pairs).values()
    assert (found["same"], found["parent_right"], found["row_right"]) == (1.0, 0.5, 0.5)
    lost = both_right | {"Name a rivver.": "Rhine", "Hello! Name a bird.": "crow"}
    (found,) = measured(lost, *pairs).values()
    assert (found["same"], found["lost"], found["won"]) == (0.0, 1, 1)
    assert 0 <= found["interval"][0] <= 0.0 < found["interval"][1] < 1
    silent = {k: v for k, v in both_right.items() if k != "Name a rivver."}
    (found,) = measured(silent, *pairs).values()
    assert (found["pairs"], found["without_answer"], found["same"]) == (2, 1, 1.0)


@pytest.mark.parametrize(
    ("before", "now", "same", "unknown"),
    [("A", "B", 1.0, 0), ("B", "A", 0.0, 1), ("A", "A", 0.0, 0), ("Rome", "rome", 1.0, 0), ("Rome", "Oslo", 0.0, 0)],
)  # fmt: skip
def test_labels_of_options_in_another_order(before, now, same, unknown):
    one = Row("Choose.\nA) Paris\nB) Rome", "", "A")
    other = Row("Choose.\nA) Rome\nB) Paris", "", "B")
    answers = {one.instruction: before, other.instruction: now}
    (found,) = measured(answers, Pair(one, other, "options")).values()
    assert (found["same"], found["unknown"]) == (same, unknown)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "*")
    rows = [{"id": str(n), "instruction": f"Say the number {n} in one word.", "output": f"word{n}"} for n in range(6)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    root = ["--root", str(tmp_path)]
    make = ["create", "augment", str(tmp_path / "rows.jsonl"), "--name", "x", *root]
    assert cli.main([*make, "--operators", "typos,frame"]) == 0

    def fault(n, body):
        said = body["messages"][-1]["content"]
        framed = len(said.split()) > len("Say the number 1 in one word.".split())
        number = next(c for c in said if c.isdigit())
        return answer("no idea" if framed and number in "012" else f"word{number}")

    ask = ["create", "consistency", "created.x.v1", *root, "--server_model", "small"]
    with serving(Served(fault)) as address:
        facts = ["--json", str(tmp_path / "facts.json")]
        assert cli.main([*ask, "--server", address, *facts]) == 0
    found = json.loads((tmp_path / "facts.json").read_text())["operators"]
    assert found["typos"]["same"] == found["typos"]["parent_right"] == 1.0
    assert found["frame"]["lost"] == 3 and found["frame"]["same"] == 0.5
    assert "same answer" in capsys.readouterr().out
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert cli.main([*ask, "--server", "http://127.0.0.1:9/v1"]) == 2
    assert "5 parents are not there any more" in capsys.readouterr().err
