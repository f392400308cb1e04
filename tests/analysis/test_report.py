# SPDX-License-Identifier: Apache-2.0
"""The report: every number from the run's files, nothing from outside, every text escaped."""

import base64
import hashlib
import html.parser
import json
import math
import random
import re
import shutil

import pytest

from itx import storage
from itx.analysis import page
from itx.analysis.report import facts, report
from itx.audit.audit import audit
from itx.config import to_dict
from itx.errors import UserError
from itx.eval.evaluate import evaluate
from itx.runs import RunFolder
from tests import scored

EVIL = "<script>alert('x')</script> & \"quoted\""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as `itx train` leaves it: scored before and after, with a hostile answer."""
    run, config, lock, vocab, right = scored.small_run(tmp_path_factory.mktemp("report"))
    lock["evaluation"][0]["relation"] = "same task"
    storage.write_json(run.lock_json, lock)
    storage.write_json(
        run.config_json,
        {
            "file": "configs/some.py",
            "command": "itx train configs/some.py --train.steps=4 '<b>'",
            "config": to_dict(config),
            "origin": {"train.steps": "command line"},
            "notes": ["optim.x was 1, is 2"],
            "versions": {"jax": "0.0.1"},
            "code": "abc",
            "data_hash": "def",
        },
    )
    storage.write_json(run.audit_json, audit(lock, config.data.cache_dir, config))
    lines = [
        {
            "step": s,
            "train/loss": 5.0 - s,
            "train/loss/first": 4.0 - s,
            "train/skipped": 3,
            "train/tokens": 10,
            "train/tokens_per_second": 100.0 + s,
        }
        for s in (2, 4)
    ]
    run.metrics_jsonl.write_text("".join(json.dumps(x) + "\n" for x in lines))
    right["t1: " + scored.pairs(1)[0][0]] = EVIL
    for step, answers in ((0, {}), (4, right)):
        model = scored.Reciter(vocab, answers)
        evaluate(lambda model=model: model, lock, config, run, step, say=lambda _: None)
    fixed = {"before": {"first": 3.0, "parity": 2.0}, "after": {"first": 1.0, "parity": 2.5}}
    storage.write_json(run.fixed_json, fixed)
    return run


class Reader(html.parser.HTMLParser):
    """Checks nesting; keeps tags, their addresses and the text."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_works_alone(run, capsys):
    found = report(run)
    source = run.report_html.read_text(encoding="utf-8")
    reader = Reader(source)
    assert reader.open == [] and reader.tags.count("script") == 1 and "link" not in reader.tags
    pictures = [x for x in reader.links if not x.startswith("#")]
    assert len(pictures) == 2 and all(x.startswith("data:image/png;base64,") for x in pictures)
    assert all(base64.b64decode(x.split(",")[1])[:4] == b"\x89PNG" for x in pictures)
    assert run.report_png.read_bytes()[:4] == b"\x89PNG"
    assert EVIL in reader.text and "<b>" in reader.text  # the texts, as texts
    assert EVIL not in source and source.count("<script") == 1
    for said in (
        "eval.max_examples = 4",
        found["command"],
        "jax 0.0.1",
        "held out <by name>",
        "changed on resume",
        "3 steps skipped",
        "same cluster",
        "What this model can and cannot show",
        "fell on 1 of 2 rows",
        "83 records read = 80 usable + 3 skipped",
        "removed",
    ):
        assert said in reader.text, said
    assert "before" in capsys.readouterr().out


def curve(entropy, shape):
    """Logged losses of a run that falls from 6 to 0.3 with noise, stands at the entropy of the
    targets, or leaps."""
    draw = random.Random(3)
    for i in range(120):
        loss = 0.3 + 5.7 * math.exp(-i / 20)
        if shape == "plateau" and i >= 12:
            loss = max(loss, entropy)
        yield (loss if i != 70 or shape != "leap" else loss * 3) * draw.uniform(0.97, 1.03)


@pytest.mark.parametrize("shape", ["falls", "plateau", "leap"])
def test_a_plateau_or_leap_of_the_loss_is_said_and_nothing_else(run, shape, tmp_path, capsys):
    there = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    audited = storage.read_json(there.audit_json)
    audited["mixture"]["unigram_entropy"] = 3.2
    storage.write_json(there.audit_json, storage.sealed(audited))
    lines = [{"step": 10 * i, "train/loss": loss} for i, loss in enumerate(curve(3.2, shape), 1)]
    there.metrics_jsonl.write_text("".join(json.dumps(x) + "\n" for x in lines))
    report(there)
    for text in (
        " ".join(capsys.readouterr().out.split()),
        Reader(there.report_html.read_text()).text,
    ):
        assert ("stands at the unigram entropy" in text) == (shape == "plateau")
        assert ("leapt to" in text and "step 710" in text) == (shape == "leap")


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "\x00"])
@pytest.mark.parametrize("name", ["scores_json", "audit_json", "metrics_jsonl"])
def test_a_damaged_file_is_named(run, name, damage, tmp_path):
    there = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    file = there.scores_json(4) if name == "scores_json" else getattr(there, name)
    file.write_text(damage + "\n")
    try:
        failure = facts(there)
    except Exception as e:
        failure = e
    assert (
        isinstance(failure, UserError) and str(file) in str(failure) and "damaged" in str(failure)
    )


def test_a_changed_digit_is_named(run, tmp_path):
    """Such a file reads as well as it did; what was scored once is believed for as long as the run
    is looked at."""
    there = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    file = there.scores_json(4)
    text = file.read_text(encoding="utf-8")
    at = re.search(r": -?[0-9]*[.][0-9]", text).end() - 1
    file.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :], encoding="utf-8")
    failure = None
    try:
        facts(there)
    except UserError as e:
        failure = e
    assert str(file) in str(failure) and "not what was written" in str(failure)


def test_only_the_pages_own_script_and_style_may_act(run):
    """Its policy names both by their hashes and allows nothing from outside."""
    report(run)
    source = run.report_html.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)
    assert policy and policy[1].startswith("default-src 'none'; img-src data:;")
    for kind in ("script", "style"):
        (own,) = re.findall(f"<{kind}>(.*?)</{kind}>", source, re.S)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(
        r"https?://|url\(|@import|\bon[a-z]+=", re.sub(r"base64,[^\"]*", "", source)
    )


def test_the_page_is_read_by_night_on_a_phone_and_in_any_order(run):
    report(run)
    source = run.report_html.read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in source and "@media (max-width:640px)" in source
    pictures = re.findall(
        r'<source media="\(prefers-color-scheme: dark\)" srcset="data:image/png;base64,([^"]*)"',
        source,
    )
    days = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]*)"', source)
    assert len(pictures) == len(days) == 2 and not set(pictures) & set(days)
    assert source.count("<th") > 20 and source.count("<button") == source.count(
        "<th>"
    ) + source.count('<th class="n">')
    before = re.search(r"<table.*?</table>", source, re.S)[0]
    assert 'data-label="after"' in before  # a phone shows each value beside its name


def test_a_row_is_a_line(run):
    """However many templates it has: what needs room stands apart."""
    scores = storage.read_json(run.scores_json(4))
    many = {
        **scores,
        "rows": {
            n: {**r, "by_template": {f"t{i}": {"score": 0.5, "prompts": 2} for i in range(40)}}
            for n, r in scores["rows"].items()
        },
    }
    storage.write_json(run.scores_json(4), storage.sealed(many))
    report(run)
    storage.write_json(run.scores_json(4), scores)
    source = run.report_html.read_text(encoding="utf-8")
    (rows,) = [
        t
        for t in re.findall(r"<table.*?</table>", source, re.S)
        if ">row<" in t and ">before<" in t
    ]
    assert len(re.findall("<tr", rows)) == 5 and ">parity" in rows
    assert max(len(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", rows, re.S)) < 40


def test_the_first_paragraph_says_what_was_learned_and_what_to_do(run, capsys):
    found = report(run)
    source = run.report_html.read_text(encoding="utf-8")
    text = Reader(source[: source.index("<h2")] + "</body></html>").text
    assert "Learned." in text and "Next." in text
    assert (
        all(s in text for several in found["summary"].values() for s in several)
        and found["summary"]["next"]
    )
    assert found["summary"]["next"][0] in " ".join(capsys.readouterr().out.split())


def test_numbers_are_those_of_the_files(run):
    found = facts(run)
    scores = {s: storage.read_json(run.scores_json(s)) for s in (0, 4)}
    assert found["steps"] == {"before": 0, "after": 4}
    group = found["groups"][0]
    for key, step in (("before", 0), ("after", 4)):
        assert group[key]["mean"] == scores[step]["groups"][0]["mean"]
    assert group["before"]["mean"] != group["after"]["mean"]
    row = next(r for r in found["rows"] if r["row"] == "first")
    assert row["score"] == scores[4]["rows"]["first"]["score"] == 7 / 8 and row["before"] == 0.0
    loss = found["loss"]
    assert loss["total"] == [3.0, 1.0] and loss["tasks"]["first"] == ([2, 4], [2.0, 0.0])
    assert (
        loss["without_loss"] == ["parity"] and loss["tokens"] == 20 and loss["skipped_steps"] == 3
    )
    assert found["evaluation"]["looks_at_test"] == 2 and found["evaluation"]["max_examples"] == [4]
    assert found["settings"]["train.steps"] == {"value": 4, "from": "command line"}
    assert {g["label"]: g["says"] for g in found["groups"]}[
        "unseen tasks, new argument"
    ] == "above chance"


def test_samples_are_good_and_bad_one_per_task_and_the_same_each_time(run):
    samples = facts(run)["samples"]
    assert all(s["score"] >= 0.5 for s in samples["good"]) and all(
        s["score"] < 0.5 for s in samples["bad"]
    )
    assert [s["prediction"] for s in samples["bad"]] == [EVIL]
    tasks = [s["task"] for s in samples["good"]]
    assert (
        sorted(tasks) == ["first", "parity", "second", "steps"] and samples == facts(run)["samples"]
    )


def test_the_same_folder_gives_the_same_files(run):
    files = (run.report_html, run.report_json, run.report_png)
    report(run)
    first = [f.read_bytes() for f in files]
    for f in files:
        f.unlink()
    report(run)
    assert [f.read_bytes() for f in files] == first
    assert not re.search(rb"20\d\d-\d\d-\d\d", first[0] + first[1])


def test_escaping():
    assert page.esc('<a href="x">&\'') == "&lt;a href=&quot;x&quot;&gt;&amp;&#x27;"
    assert "<i>" not in page.macros().table(["<i>", "n"], [["<i>", 1]], {1})


NAMED = (
    "settings",
    "versions",
    "score_clusters",
    "by_gold_position",
    "baselines",
    "tasks",
    "skipped",
)
FIXED = ("group", "ablation", "extracted")  # texts that the page compares with others


def hostile(value, key=""):
    """Facts with EVIL behind every text in them, and behind keys that are names."""
    if isinstance(value, dict):
        return {k + EVIL * (key in NAMED): hostile(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v, key) for v in value]
    return value + EVIL if isinstance(value, str) and key not in FIXED else value


def test_no_text_of_a_run_becomes_a_tag(run):
    """Wherever a text enters the page: names, answers, settings, warnings, what is left out."""
    found = facts(run)
    found["retention"] = {"after": {"t": {"objective": "lm", "bytes": 9, "bits_per_byte": 1.0}}}
    found["audit"] |= {"warnings": ["a"], "errors": ["b"]}
    leak = {"train": "a", "evaluation": "b", "how": "c", "dropped": 1}
    found["audit"]["leaks"]["dropped"] = [leak]
    picture = {"light": b"", "dark": b""}
    sound, source = (page.page(f, picture, picture) for f in (found, hostile(found)))
    assert source.count(page.esc(EVIL)) > 100
    assert "<script>alert" not in source and source.count("<script") == 1
    assert set(Reader(source).tags) == set(Reader(sound).tags)


def test_a_run_that_was_not_scored_is_one_clear_line(tmp_path):
    run, config, lock, *_ = scored.small_run(tmp_path)
    storage.write_json(run.lock_json, lock)
    storage.write_json(run.config_json, {"config": to_dict(config)})
    with pytest.raises(UserError, match="nothing is scored yet"):
        report(run)
