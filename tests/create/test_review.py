# SPDX-License-Identifier: Apache-2.0
"""The review page: its logic in node, the page itself in Chromium, what it writes in the build; and
the agreement of two people."""

import json
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from itx import cli
from itx.analysis import page
from itx.config import DataConfig
from itx.create import agreement, review
from itx.create.review import Shown
from itx.errors import UserError
from itx.prepare import patches
from itx.prepare.patches import Entry, Patch
from itx.tasks import registry
from itx.tasks.registry import chat_task, instruction_task
from itx.tasks.spec import SPLITS, function
from tests import browser
from tests.conftest import REPO

OPTIONS = ("да", "нет")
NASTY = [
    "</script><script>window.hacked=1</script><b>bold</b>",
    "<!-- <script> --><img src=x onerror=window.hacked=1>",
    "строка\u2028и ещё\u2029одна",
    "\x00\x1b[31m\x07 звонок \x7f",
    "中文问题：哪一个？",
    "مرحبا \u202eabc שלום",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \\u003cb\\u003e",
    "😀 lone \\ud800 \r\nline\rend",
    "Длинное" * 60,
]


def rows(split, root, seed):
    for i, nasty in enumerate(NASTY + [f"вопрос {i}" for i in range(11)]):
        yield {"text": nasty, "label": i % 2}


@pytest.fixture(scope="module", autouse=True)
def tasks():
    instruction_task(
        "reviewed", version=1, cluster="c", source=function(rows, splits=SPLITS), options=OPTIONS, metrics=("accuracy",),
        fields=lambda e: {"text": e["text"], "same": e["text"], "n": 3, "answer": e["label"]},
        templates=[("{text}\n{options}", "{answer}"), ("{same}?", "{answer}")],
    )  # fmt: skip
    talk = lambda *_: [{"messages": [{"role": "user", "content": "привет"}, {"role": "assistant", "content": "да"}]}]  # noqa: E731  # fmt: skip
    chat_task(
        "reviewed_talk",
        version=1,
        cluster="c",
        source=function(talk, splits=SPLITS),
        fields=lambda e: e,
    )
    yield
    for name in ("reviewed", "reviewed_talk"):
        del registry.TASKS[name]


def shown() -> list[Shown]:
    found = []
    for name in ("reviewed", "reviewed_talk"):
        spec = registry.task(name)
        found += [Shown(spec, i, "почему?") for i in review.training_items(spec, DataConfig())]
    return found


def facts(**more) -> dict:
    return review.facts(shown(), "пример", **{"editor": "Анна", **more})


def node(code: str, held: dict):
    """What some code makes of the page's facts, `data`."""
    if not shutil.which("node"):
        pytest.skip("node is not installed: the review page's logic is not run")
    script = f"(module => {{{page.script('review')}\nreturn module.exports;}})({{exports: {{}}}})"
    whole = f"const R = {script}; const data = JSON.parse(process.argv[1]);\n{code}"
    command = ["node", "-e", whole, json.dumps(held)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- the page as a file


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.inside, self.data = Counter(), "", ""

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.inside = dict(attrs).get("id", "")
        assert not {"src", "href", "style", "onerror"} & dict(attrs).keys()

    def handle_data(self, data):
        if self.inside == "data":
            self.data += data
            self.inside = ""


def test_rows_are_no_markup():
    held = facts(tags=["<b>", "да"])
    made = page.review(held)
    read = Elements()
    read.feed(made)
    assert json.loads(read.data) == held
    assert read.tags["script"] == 2 and not read.tags["img"]
    assert "default-src 'none'" in made and "http://" not in made and "https://" not in made
    assert all(n["text"] in [f["text"] for r in held["rows"] for f in r["fields"]] for n in [{"text": x} for x in NASTY])  # fmt: skip


def test_equal_texts_are_one_field():
    first = facts()["rows"][0]
    assert [(f["at"], f["also"], f["number"]) for f in first["fields"]] == [("/text", ["/same"], False), ("/n", [], True)]  # fmt: skip
    assert first["answer"] == {"at": "/answer", "text": False, "index": 0}
    talk = facts()["rows"][-1]
    assert talk["answer"] is None and "/messages/1/content" in [f["at"] for f in talk["fields"]]


def test_what_cannot_be_shown_is_told():
    with pytest.raises(UserError, match="there is no row to review"):
        review.facts([], "x")
    with pytest.raises(UserError, match="10 tags, and a page has keys for 9"):
        facts(tags=list("abcdefghij"))
    with pytest.raises(UserError, match="no task reads this file"):
        review.task_of(str(REPO / "README.md"), "")
    with pytest.raises(UserError, match="unknown task 'revewed'; did you mean 'reviewed'"):
        review.task_of("revewed", "")


# ---- its logic


DECISIONS = """
const state = {decided: {}, added: [], editor: "Анна"};
state.decided[0] = {verdict: "accept"};
state.decided[1] = {verdict: "reject", tags: ["неверно"]};
state.decided[2] = R.chosen(data.rows[2], 1);
state.decided[3] = R.edited(data.rows[3], {"/text": "исправлено\\u2028", "/n": "7"});
state.decided[4] = {tags: ["?"]};
const last = data.rows.length - 1;
state.decided[last] = R.edited(data.rows[last], {"/messages/1/content": "другое"});
state.added.push(R.written(data, "reviewed", {"/text": "новый", "/n": "4", "/answer": "1"}));
state.added.push(R.written(data, "reviewed_talk", {"/messages/0/content": "как?", "/messages/1/content": "так"}));
"""


def test_what_it_writes_is_what_the_build_applies(tmp_path):
    held = facts()
    said = node(DECISIONS + "console.log(JSON.stringify([R.patch(data, state), R.counts(data, state)]))", held)  # fmt: skip
    file = tmp_path / "p.jsonl"
    file.write_text(said[0], encoding="utf-8")
    assert said[1] == {"accept": 1, "reject": 1, "fix": 3, "new": 2, "open": len(held["rows"]) - 5}
    patch = patches.read(file)
    assert patch.head["editor"] == "Анна" and patch.head["of"] == held["digest"]
    before = {i.id: i for x in shown() if x.spec.name == "reviewed" for i in [x.item]}
    spec, counts = registry.task("reviewed"), Counter()
    done = patches.applied(spec, list(before.values()), [patch], counts, {})
    after = {i.id: i.values for i in done.items}
    ids = [r["id"] for r in held["rows"]]
    assert done.counts == {"accepted": 1, "rejected": 1, "fixed": 2, "undecided": 1, "added": 1}
    assert ids[1] not in after and after[ids[0]] == before[ids[0]].values
    assert after[ids[2]] == {**before[ids[2]].values, "answer": 1}
    assert after[ids[3]] == {"text": "исправлено\u2028", "same": "исправлено\u2028", "n": 7, "answer": 1}  # fmt: skip
    (new,) = (v for i, v in after.items() if i not in before)
    assert new == {"text": "новый", "same": "новый", "n": 4, "answer": 1}
    talk = registry.task("reviewed_talk")
    items = review.training_items(talk, DataConfig())
    said = patches.applied(talk, items, [patch], Counter(), {}).items
    assert [i.values["messages"][-1]["content"] for i in said] == ["другое", "так"]


def test_what_is_not_changed_is_accepted_and_mistakes_are_told():
    said = node(
        """
        const all = Object.fromEntries(data.rows[7].fields.map(f => [f.at, String(f.text).replace(/\\r\\n?/g, "\\n")]));
        console.log(JSON.stringify([R.edited(data.rows[7], all), R.chosen(data.rows[1], 1), R.chosen(data.rows[1], 7),
          R.edited(data.rows[0], {"/n": "3.5"}), R.written(data, "reviewed", {"/text": " ", "/n": "1", "/answer": "0"}),
          R.chosen(data.rows.at(-1), 0), R.shown("a\\u202eb\\u0007\\n"),
          R.keyOf({key: "ф", code: "KeyA"}), R.keyOf({key: "q", code: "KeyA"}), R.keyOf({key: "Enter", code: "Enter"})]));
        """,
        facts(),
    )
    assert said == [
        {"verdict": "accept"},
        {"verdict": "accept"},
        None,
        "n is a whole number",
        "text, same is empty",
        None,
        "a⟨U+202E⟩b⟨U+0007⟩\n",
        "a",
        "q",
        "enter",
    ]


def test_progress_is_kept_under_what_is_reviewed():
    said = node(
        """
        const held = {}, store = {getItem: k => held[k] ?? null, setItem: (k, v) => held[k] = String(v)};
        const state = {decided: {3: {verdict: "reject"}}, added: [{task: "reviewed", values: {}}], editor: "Б"};
        for (const what of [3, "new", "editor"]) R.keep(store, data, state, what);
        const other = {...data, digest: "another"};
        console.log(JSON.stringify([R.kept(store, data), R.kept(store, other), R.nextOpen(data, state, 2)]));
        """,
        facts(),
    )
    assert said[0] == {"decided": {"3": {"verdict": "reject"}}, "added": [{"task": "reviewed", "values": {}}], "editor": "Б"}  # fmt: skip
    assert said[1] == {"decided": {}, "added": [], "editor": "Анна"} and said[2] == 4


# ---- in a browser


DRIVER = REPO / "tests" / "create" / "review_driver.js"


def browse(folder: Path, held: dict, script: str) -> dict:
    """What the page is after a script has typed into it."""
    driver = DRIVER.read_text("utf-8").replace("SCRIPT\n", script)
    return browser.driven(folder, page.review(held), driver)


def test_a_person_reviews_in_chromium(tmp_path):
    """Every verdict by at most two keys, on a Russian layout too; what was decided is there when the
    page is opened again; nothing of a row acts."""
    held = facts(editor="")
    first = browse(
        tmp_path,
        held,
        """
        result.first = seen();
        press("a");
        press("к", {code: "KeyR"});   // the key of r on a Russian layout
        press("2");
        press("f"); fill(["исправлено", null]);
        press("t"); press("1"); press("j");
        press("n"); fill(["новый вопрос", "5", "1"]);
        press("n"); press("Escape");
        press("s");
        result.unnamed = seen();
        press("e"); fill(["Анна"]);
        press("s");
        press("j"); press("r"); press("u");
        """,
    )
    assert "row 1 of 21: 0 accepted" in first["first"]["status"] and first["first"]["markup"] == 0
    assert "</script><script>window.hacked=1</script>" in first["first"]["row"]
    assert "почему?" in first["first"]["row"] and not first["last"]["hacked"]
    assert first["unnamed"]["said"] == "give your name first (e)" and len(first["saved"]) == 1
    assert first["narrow"] <= 340
    lines = [json.loads(x) for x in first["saved"][0].split("\n") if x]
    assert lines[0]["editor"] == "Анна"
    assert [x["verdict"] for x in lines[1:]] == ["accept", "reject", "fix", "fix", "undecided", "new"]  # fmt: skip
    assert lines[4]["changes"] == {"/text": "исправлено", "/same": "исправлено"}
    assert lines[5]["tags"] == [review.TAGS[0]]
    assert lines[6]["values"] == {"text": "новый вопрос", "same": "новый вопрос", "n": 5, "answer": 1}  # fmt: skip
    file = tmp_path / "p.jsonl"
    file.write_text(first["saved"][0], encoding="utf-8")
    assert len(patches.read(file).entries) == 6
    again = browse(tmp_path, held, "")
    assert "row 5 of 21: 1 accepted, 1 rejected, 2 fixed, 1 new, 17 open" in again["last"]["status"]
    assert again["last"]["editor"] == "Анна"


def test_a_response_takes_less_than_50_ms(tmp_path):
    """400 long rows of Russian text, each judged by one key, with the layout that follows."""
    held = facts()
    long = "Очень длинный вопрос о том, что было. " * 100
    one = held["rows"][0]
    held["rows"] = [
        {**one, "row": f"{i:016x}", "fields": [{**one["fields"][0], "text": f"{i} {long}"}]}
        for i in range(400)
    ]
    found = browse(tmp_path, held, 'for (let i = 0; i < 400; i++) press(i % 3 ? "a" : "2");')
    times = np.array(found["times"])
    assert found["keys"] == 400 and "0 open" in found["last"]["status"]
    assert np.quantile(times, 0.99) < 50, np.quantile(times, [0.5, 0.9, 0.99, 1])


# ---- agreement


def judged(name: str, verdicts: dict[int, str], tags=()) -> Patch:
    entries = [
        Entry("t", v, f"e{i}", f"{i:016x}", f"{i:016x}", {"/a": name} if v == "fix" else None, tags=tags)
        for i, v in verdicts.items()
    ]  # fmt: skip
    return Patch(f"{name}.jsonl", {"editor": name}, tuple(entries))


def test_agreement_is_that_of_the_books():
    """Cohen's kappa and Gwet's AC1 of a table of two raters, worked out by hand: 45 and 15 against 25 and 15."""
    table = np.zeros((3, 3), int)
    table[:2, :2] = [[45, 15], [25, 15]]
    found = {k: v[0] for k, v in agreement.of_tables(table[None]).items()}
    assert found["agreement"] == pytest.approx(0.60)
    assert found["kappa"] == pytest.approx((0.60 - 0.54) / (1 - 0.54))
    chance = (0.65 * 0.35 + 0.35 * 0.65) / 2
    assert found["ac1"] == pytest.approx((0.60 - chance) / (1 - chance))
    assert agreement.of_tables(np.diag([5, 0, 0])[None])["kappa"] == [1.0]


def test_agreement_of_two_patches(tmp_path, capsys):
    draw = np.random.default_rng(0)
    one = {i: "accept" if draw.random() < 0.7 else "reject" for i in range(200)}
    same = judged("Анна", one, ("да",))
    exact = agreement.facts(same, judged("Б", one))
    assert exact["agreement"]["value"] == exact["kappa"]["value"] == 1.0 and not exact["disagree"]
    assert exact["tags"] == {"да": [200, 0, 0]}
    chance = {i: "accept" if draw.random() < 0.7 else "reject" for i in range(100, 300)}
    apart = agreement.facts(same, judged("Б", chance))
    low, high = apart["kappa"]["interval"]
    assert apart["rows"] == 100 and apart["only"] == [100, 100] and low < 0 < high
    assert apart["apart"] == sum(one[i] != chance[i] for i in range(100, 200))
    fixes = agreement.facts(judged("A", {1: "fix", 2: "fix"}), judged("A", {1: "fix", 2: "accept"}))
    assert fixes["fixed_by_both"] == fixes["same_fix"] == 1
    with pytest.raises(UserError, match="have judged no row in common"):
        agreement.facts(same, judged("Б", {999: "accept"}))
    for patch in (same, judged("Б", chance)):
        text = patches.text_of(patch.head, patch.entries)
        (tmp_path / patch.file).write_text(text, encoding="utf-8")
    files = [str(tmp_path / f) for f in ("Анна.jsonl", "Б.jsonl")]
    assert cli.main(["create", "agreement", *files, "--json", str(tmp_path / "facts.json")]) == 0
    told = capsys.readouterr().out
    assert "Анна and Б: 100 rows judged by both" in told and "Cohen's kappa" in told
    assert json.loads((tmp_path / "facts.json").read_text())["kappa"] == apart["kappa"]
    assert cli.main(["create", "agreement", files[0], str(tmp_path / "none")]) == 2


# ---- the command


def test_a_page_of_a_task_and_of_its_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["create", "review", "reviewed", "--editor", "Анна", "--rows", "5", "--root", str(tmp_path)]  # fmt: skip
    assert cli.main([*line, "--json", "facts.json"]) == 0
    held = json.loads(Path("facts.json").read_text("utf-8"))
    assert len(held["rows"]) == 5 and "15 of 20 rows are not shown" in held["left_out"][0]
    assert page.review({k: v for k, v in held.items() if k != "file"}) == Path("review-reviewed.html").read_text("utf-8")  # fmt: skip
    # a file of a task's rows
    made = tmp_path / "dolly" / "dolly_3k_sample.jsonl"
    made.parent.mkdir()
    made.write_text("".join(json.dumps({"instruction": f"Назови птицу {i}", "input": "", "output": "Дрозд", "category": "x"}) + "\n" for i in range(9)))  # fmt: skip
    assert cli.main(["create", "review", str(made), "--root", str(tmp_path), "--json", "f.json"]) == 0  # fmt: skip
    held = json.loads(Path("f.json").read_text("utf-8"))
    row = held["rows"][0]
    assert row["task"] == "dolly" and row["fields"][0]["also"] == ["/marked"]
    capsys.readouterr()
    for words, told in (
        (["nosuch"], "unknown task"),
        (["reviewed", "--finding", "1"], "is no run"),
        (["reviewed", "--rows", "-1"], "at least 0"),
        (["reviewed", "--patches", "none.jsonl"], "no file 'none.jsonl'"),
    ):
        assert cli.main(["create", "review", *words, "--root", str(tmp_path)]) == 2
        assert told in capsys.readouterr().err
