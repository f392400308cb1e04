# SPDX-License-Identifier: Apache-2.0
"""Two versions side by side, what moved between rows and their parents, and what runs did with a
row."""

import dataclasses
import json
from pathlib import Path

import pytest

from itx import cli
from itx.create import difference, drift, lineage
from itx.create.lineage import Lineage, Made
from itx.create.row import Row
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary
from itx.runs import RunFolder, read_lock
from tests import samples
from tests.conftest import REPO

NOUNS = "river lantern baker violin garden window soldier pepper mountain letter".split()


def made(n: int, dropped: str = "", **more) -> Made:
    row = Row(f"Say what the {NOUNS[n]} is for.", "", f"It is for number {n}.")
    came = {"parents": (f"seed-{n}",), "generator": "small", "made_by": {}, **more}
    verdicts = {dropped.partition(":")[0]: "found"} if dropped else {}
    return Made(row, Lineage(**came, verdicts=verdicts, dropped=dropped))


def version(root: Path, *rows: Made) -> Path:
    facts = {"origin": [], "licence": "unknown", "method": "augment"}
    place = lineage.folder(str(root), "x")
    return lineage.write(place, "x", str(len(lineage.versions(place))), rows, facts)


# ---- versions


def test_rows_that_came_went_and_changed(tmp_path):
    edited = Made(Row("Say it again.", "", "Again."), Lineage((made(3).id,), "editor", {}))
    one = version(tmp_path, *map(made, range(5)), made(5, "length: 1 word"), made(6, "copies: x"))
    other = version(
        tmp_path,
        made(0),
        made(1, "refusal: it says no"),  # kept before
        made(2, generator="large"),
        edited,  # in place of 3
        made(5),  # dropped before
        made(7),
        made(8, "length: 2 words"),
    )
    first, second = difference.read(one), difference.read(other)
    facts = difference.facts(first, second)
    ids = {n: made(n).id for n in range(10)}
    assert not facts["same"]
    assert facts["added"] == {"kept": [edited.id, ids[7]], "dropped": [ids[8]]}
    assert facts["removed"] == {"kept": [ids[3], ids[4]], "dropped": [ids[6]]}
    changed = {c["id"]: (c["was"], c["is"], c["differs"]) for c in facts["changed"]}
    assert changed == {
        ids[1]: ("kept", "refusal: it says no", ["dropped", "verdicts"]),
        ids[2]: ("kept", "kept", ["generator"]),
        ids[5]: ("length: 1 word", "kept", ["dropped", "verdicts"]),
    }
    assert facts["edited"] == [{"was": ids[3], "is": edited.id}]
    counts = facts["counts"]
    assert counts["kept, by generator"] == {"editor": [0, 1], "large": [0, 1], "small": [5, 3]}
    assert counts["dropped, by reason"] == {"copies": [1, 0], "length": [1, 1], "refusal": [0, 1]}
    # from the other side the same, turned round
    back = difference.facts(second, first)
    assert back["added"] == facts["removed"] and back["removed"] == facts["added"]
    assert difference.facts(first, first)["same"]


def test_a_row_made_by_the_same_requests_stands_for_the_other(tmp_path):
    asked = {"paraphrase": {"request": "r1", "prompt": "p", "seed": 1}}
    before = made(0, made_by=asked)
    after = dataclasses.replace(before, row=Row("Something else.", "", "Yes."))
    one, other = version(tmp_path, before), version(tmp_path, after)
    facts = difference.facts(difference.read(one), difference.read(other))
    assert facts["edited"] == [{"was": before.id, "is": after.id}]


def test_a_duplicate_that_was_dropped_hides_no_row_that_is_kept(tmp_path):
    one = version(tmp_path, made(0), made(0, "duplicate: of row 0"))
    other = version(tmp_path, made(0))
    assert difference.facts(difference.read(one), difference.read(other))["changed"] == []


def test_the_command(tmp_path, capsys):
    version(tmp_path, made(0), made(1))
    version(tmp_path, made(0), made(2))
    line = ["data", "diff", "created.x.v1", "created.x.v2", "--root", str(tmp_path)]
    assert cli.main([*line, "--json", str(tmp_path / "facts.json")]) == 0
    told = capsys.readouterr().out
    assert "added, kept in created.x.v2: 1 rows" in told and "the versions differ" in told
    assert json.loads((tmp_path / "facts.json").read_text())["added"]["kept"] == [made(2).id]
    assert cli.main([*line, "--check"]) == 1
    same = ["data", "diff", "created.x.v1", str(tmp_path / "created/x/v1"), "--root", str(tmp_path)]
    assert cli.main([*same, "--check"]) == 0
    for words, told in (
        ([*line[:3], "created.x.v9", "--root", str(tmp_path)], "no made data 'created.x.v9'"),
        ([*line, "--rows", "-1"], "--rows -1: must be at least 0"),
    ):
        assert cli.main(words) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "created/x/v2/kept.jsonl").write_text("", encoding="utf-8")
    assert cli.main(line) == 2
    assert "kept.jsonl is damaged" in capsys.readouterr().err


def test_locks(sample_cache, capsys):
    locks = sorted((sample_cache / "locks").glob("*.json"))
    one = str(locks[0])
    assert cli.main(["data", "diff", one, one, "--check"]) == 0
    assert "the same batches" in capsys.readouterr().out
    assert cli.main(["data", "diff", one, str(locks[1])]) == 0
    assert "other batches" in capsys.readouterr().out
    assert cli.main(["data", "diff", one, str(locks[1]), "--check"]) == 1


# ---- drift


def rows(*pairs: tuple[str, str]) -> list[Row]:
    return [Row(asked, "", said) for asked, said in pairs]


def test_nothing_drifts_from_itself():
    same = rows(
        *[(f"Is the {noun} old?", "yes" if i % 2 else "no") for i, noun in enumerate(NOUNS)]
    )
    found = drift.between(same, same)
    assert set(found["moved"].values()) == {0.0} and set(found["moved"]) == set(drift.KINDS)


@pytest.mark.parametrize(
    ("kind", "before", "after", "moved"),
    [
        ("labels", [("Is it so?", "yes"), ("Is it?", "no")] * 4, [("Is it so?", "yes")] * 8, 0.5),
        ("scripts", [("Is it so?", "yes")] * 8, [("Это так?", "да")] * 4 + [("Is it?", "y")] * 4, 0.5),
        ("groups", [("Who is he?", "x")] * 8, [("Who is she?", "x")] * 8, 1.0),
        ("first_words", [("Name a bird.", "x")] * 8, [("Tell me of a bird.", "x")] * 8, 1.0),
        (
            "languages",
            [("Tell me what the old baker does all day.", "He bakes bread and cake.")] * 8,
            [("Расскажи, что весь день делает старый пекарь.", "Он печёт хлеб и пироги.")] * 8,
            1.0,
        ),
        ("labels", [(f"Is {i} it?", f"answer {i}") for i in range(8)], [("Is it?", "yes")] * 8, None),
    ],
)  # fmt: skip
def test_what_is_moved_is_found(kind, before, after, moved):
    found = drift.between(rows(*before), rows(*after))
    assert found["moved"][kind] == (moved if moved is None else pytest.approx(moved))
    shown = {(what, value) for what, value, *_ in drift.cells(found)}
    assert any(what == kind.replace("_", " ") for what, _ in shown) == (moved is not None)


def test_no_rows_drift_nowhere():
    found = drift.between([], rows(("Is it so?", "yes")))
    assert found["before"]["instruction_words"] == [] and drift.cells(found)


# ---- what runs did with a row


@pytest.mark.slow
def test_a_row_is_followed_into_a_run(tmp_path, capsys):
    """The steps that are told are those whose batches, read token by token, hold its text."""
    held = [
        {"instruction": f"Say what the {a} of the {b} is.", "output": f"It is a {a}."}
        for a in NOUNS
        for b in NOUNS
        if a != b
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, held)), encoding="utf-8")
    samples.itx("create", "augment", tmp_path / "rows.jsonl", "--name", "mine", "--root", tmp_path, "--operators", "frame")  # fmt: skip
    sizes = {"window_examples": 32, "sequence_length": 256, "target_length": 64, "global_batch": 8}
    where = {
        "root": str(tmp_path),
        "vocab": "bytes",
        "mixture": "created.mine.v1",
        "modules": ("tasks",),
    }
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache", **where, **sizes)
    run = tmp_path / "runs/one"
    samples.itx("train", recipe, "--run_dir", run, cwd=tmp_path, PYTHONPATH=str(REPO))

    lock = read_lock(RunFolder(run))
    batches, vocabulary = (
        Batches(lock, tmp_path / "cache"),
        Vocabulary(tmp_path / "cache" / lock["vocabulary"]["file"]),
    )
    seen: dict[str, list[int]] = {}
    kept = list(lineage.lines(tmp_path / "created/mine/v1/kept.jsonl"))
    for step in range(6):
        for row in batches.batch(step)["decoder_target_tokens"]:
            said = vocabulary.decode(row.tolist())
            for h in kept:
                seen.setdefault(h["lineage"]["id"], []).extend(
                    [step] * said.count(h["instruction"])
                )
    assert sum(map(bool, seen.values())) > 5
    # a version that keeps few of the rows, and stands before the one that the run trains on
    root = ["--root", str(tmp_path)]
    best = ["create", "select", "created.mine.v1", *root, "--name", "best", "--by", "length"]
    assert cli.main([*best, "--keep", "5"]) == 0
    line = ["data", "why", "ROW", "--root", str(tmp_path), "--runs", str(tmp_path / "runs")]
    others = 0
    for row, steps in seen.items():
        line[2] = row
        assert cli.main([*line, "--json", str(tmp_path / "facts.json")]) == 0
        (use,) = json.loads((tmp_path / "facts.json").read_text())["uses"]
        assert [s for v in use["variants"] for s in v["steps"]] == steps, row
        assert use["steps"] == 6
        if use["why"]:
            others += 1
            assert "another split" in use["why"] and not steps
    assert 0 < others < len(seen) / 2
    told = capsys.readouterr().out
    assert "batches of 6 steps" in told and "asked by the evaluation row" in told
