# SPDX-License-Identifier: Apache-2.0
"""Two runs judged blindly: what is shown, that nothing tells whose answer it is, and that votes come
back to the run that they were for."""

import json

import pytest

from itx import cli, storage
from itx.analysis import blind, page
from itx.errors import UserError
from tests import browser
from tests.analysis.test_compare import made, paths

DRIVER = """
const result = {saved: []}, text = id => document.getElementById(id).textContent;
window.Blob = class { constructor(parts) { result.saved.push(parts.join("")); } };
window.URL.createObjectURL = () => "#";
HTMLAnchorElement.prototype.click = () => {};
const press = (key, more = {}) => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true, ...more}));
SCRIPT
Object.assign(result, {status: text("status"), said: text("said"), judge: text("judge"), wanted: text("wanted"), left: text("left"),
  markup: document.querySelectorAll("main b, main script").length, hacked: Boolean(window.hacked)});
page(document, window);  // as when it is opened again: all that it knows is what the browser keeps
result.again = text("status");
document.body.style.width = "340px";
result.narrow = document.querySelector("main").scrollWidth;
const out = document.createElement("pre");
out.id = "result";
out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(result))));
document.body.append(out);
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blind")
    return {
        "good": made(folder / "good", max_examples=20),
        "poor": made(folder / "poor", forgets=60, max_examples=24, seed=3),
    }


@pytest.fixture(scope="module")
def pair(runs):
    return blind.pair(paths(runs, "good", "poor"))


def voted(facts: dict, choose) -> str:
    head = {"votes": 1, "judge": "Анна", "of": facts["digest"], "seed": facts["seed"], "rows": len(facts["rows"])}  # fmt: skip
    lines = [{"id": r["id"], "vote": v} for r in facts["rows"] if (v := choose(r))]
    return "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in (head, *lines))


def right_side(row: dict) -> str:
    """The vote of a judge who knows what the poor run says of what it forgot."""
    return "left" if row["right"].strip() == "blue red white" else "right"


def test_rows_differ_and_nothing_tells_whose_they_are(pair, runs):
    facts = blind.facts(pair, 100, 0)
    assert 5 < len(facts["rows"]) <= 100
    assert all(r["left"] != r["right"] for r in facts["rows"])
    assert any("further wordings" in line for line in facts["left_out"])
    # the better run stands on either side
    assert {right_side(r) for r in facts["rows"]} == {"left", "right"}
    held = page.blind(facts)
    for run in runs.values():
        assert str(run.path) not in held and f"/{run.path.parent.name}/" not in held
    again, other = blind.facts(pair, 100, 0), blind.facts(pair, 100, 1)
    assert again == facts and other != facts
    few = blind.facts(pair, 3, 0)
    assert few["rows"] == facts["rows"][:3]
    assert any("beyond --blind_rows" in line for line in few["left_out"])


@pytest.mark.parametrize("seed", [0, 1])
def test_votes_go_to_the_run_whose_answers_they_chose(pair, tmp_path, seed):
    facts, file = blind.facts(pair, 100, seed), tmp_path / "v.jsonl"
    file.write_text(voted(facts, right_side), encoding="utf-8")
    found = blind.result(blind.decided(pair, blind.read(file)))
    n = len(facts["rows"])
    assert found["won"] == [n, 0] and found["win_rate"] == 0.0 and found["open"] == 0
    assert found["p"] == pytest.approx(2 * 0.5**n)
    assert sum(map(sum, found["groups"].values())) == n
    turned = {"left": "right", "right": "left"}
    file.write_text(voted(facts, lambda r: turned[right_side(r)]), encoding="utf-8")
    wrong = blind.result(blind.decided(pair, blind.read(file)))
    assert wrong["won"] == [0, n] and wrong["win_rate"] == 1.0
    half = iter(["tie", "both bad", None] * n)
    file.write_text(voted(facts, lambda r: next(half)), encoding="utf-8")
    ties = blind.result(blind.decided(pair, blind.read(file)))
    assert ties["win_rate"] == 0.5 and ties["p"] == 1.0 and ties["open"] == n // 3
    assert ties["ties"] > 0 and ties["bad"] > 0
    several = [blind.decided(pair, blind.read(file)) for _ in range(2)]
    assert blind.agreement(several) == {"rows": n - n // 3, "alike": n - n // 3}
    assert blind.agreement(several[:1]) is None


def test_the_command_writes_the_page_and_reads_the_votes(runs, pair, tmp_path, capsys):
    where, told = tmp_path / "b.html", tmp_path / "t.json"
    both = paths(runs, "good", "poor")
    assert cli.main(["compare", *both, "--blind", str(where), "--blind_rows", "9"]) == 0
    assert "9 rows to judge" in capsys.readouterr().out and where.is_file()
    file = tmp_path / "v.jsonl"
    file.write_text(voted(blind.facts(pair, 9, 0), right_side), encoding="utf-8")
    assert cli.main(["compare", *both, "--votes", str(file), str(file), "--json", str(told)]) == 0
    assert "decided alike by all: 9 of 9" in capsys.readouterr().out
    assert storage.read_json(told)["votes"][0]["won"] == [9, 0]


def test_what_is_refused(runs, pair, tmp_path):
    facts, file = blind.facts(pair, 5, 0), tmp_path / "v.jsonl"
    whole = voted(facts, right_side)
    bad = {
        "": "line 1",
        "{}\n": "no votes of version 1",
        whole.replace('"seed": 0', '"seed": "0"'): "'seed' is absent or is no int",
        whole.replace('"vote": "left"', '"v": "left"').replace(
            '"vote": "right"', '"vote": 1'
        ): "a row without a vote",  # fmt: skip
        whole + whole.split("\n")[1] + "\n": "line 7: a row without id, or one that was voted on",
        whole.replace('"vote": "left"', '"vote": "lft"', 1).replace(
            '"vote": "right"', '"vote": "rght"', 1
        ): "vote '",  # fmt: skip
    }
    for text, said in bad.items():
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            blind.read(file)
    file.write_text(whole, encoding="utf-8")
    turned = blind.pair(paths(runs, "poor", "good"))
    with pytest.raises(UserError, match="of other runs or of other answers"):
        blind.decided(turned, blind.read(file))
    with pytest.raises(UserError, match="nothing to judge .*answered alike"):
        blind.facts(blind.pair(paths(runs, "good", "good")), 5, 0)
    with pytest.raises(UserError, match="of two runs, not of 1"):
        blind.pair(paths(runs, "good"))


def test_a_person_votes_in_chromium(pair, tmp_path):
    """Keys on a Russian layout too; what was decided is there when the page is opened again, and
    texts of models do nothing."""
    facts = blind.facts(pair, 6, 0)
    nasty = "</script><script>window.hacked=1</script><b>жирно</b>"
    facts["rows"][4] |= {"left": nasty, "prompt": nasty}
    held = page.blind(facts)
    script = """
        press("1"); press("ArrowRight"); press("0"); press("ч", {code: "KeyX"}); press("s"); result.unnamed = text("said");
        press("e"); document.getElementById("naming").value = "Анна"; press("Enter"); press("s"); press("r");
    """
    first = browser.driven(tmp_path, held, DRIVER.replace("SCRIPT\n", script))
    assert first["unnamed"] == "give your name first (e)" and len(first["saved"]) == 1
    assert first["status"] == "row 5 of 6, 2 open" and first["judge"] == "Анна"
    assert first["left"] == nasty and not first["markup"] and not first["hacked"]
    assert first["wanted"].startswith("wanted: ") and first["narrow"] <= 340
    lines = [json.loads(x) for x in first["saved"][0].split("\n") if x]
    assert [x["vote"] for x in lines[1:]] == ["left", "right", "tie", "both bad"]
    file = tmp_path / "v.jsonl"
    file.write_text(first["saved"][0], encoding="utf-8")
    assert blind.read(file).judge == "Анна" and len(blind.read(file).votes) == 4
    assert first["again"] == "row 5 of 6, 2 open"
