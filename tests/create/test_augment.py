# SPDX-License-Identifier: Apache-2.0
"""Rows made of rows: every job is counted, the same answers give the same rows, and a run goes on
where it was stopped."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from itx import cli
from itx.create import (
    augment,
    lineage,
    operators,
    rewrites,
)
from itx.create.generators import Completion, Request
from itx.errors import UserError
from itx.leaks import contamination
from tests.conftest import REPO
from tests.create.openai_server import Served, answer, serving
from tests.create.rows import (
    CHINESE,
    ENGLISH,
    RUSSIAN,
    job,
    kept,
    parent,
    run,
    script_of,
    stopped_and_continued,
)

# ---- the table


def test_every_operator_is_a_rule_or_asks():
    for name, o in operators.OPERATORS.items():
        assert (o.rule is None) != (o.asks is None), name
        assert not (o.preserving and o.new), name
    assert operators.RULES == ("typos", "frame", "formats", "options")
    for names, told in (
        (["typo"], "did you mean 'typos'"),
        ([], "name one or several"),
        (["typos", "typos"], "each once"),
    ):
        with pytest.raises(UserError, match=told):
            operators.chosen(names)


def test_the_page_lists_every_operator():
    page = (REPO / "itx/create/README.md").read_text(encoding="utf-8")
    table = page.split("<!-- operators -->")[1].split("<!-- /operators -->")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    yes = {True: "yes", False: "no"}
    assert rows == [
        [f"`{name}`", o.does, "a rule" if o.rule else "a model", yes[o.preserving]]
        for name, o in operators.OPERATORS.items()
    ]


# ---- what a model makes


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Name a bird.", "Name a bird."),
        ("Here is the rewritten text:\n\nName a bird.", "Name a bird."),
        ('Sure!\n"Name a bird."', "Name a bird."),
        ("Rewritten text: Name a bird.", "Name a bird."),
        ("**Result:** Name a bird.", "Name a bird."),
        ("Вот новый текст:\n«Назови птицу.»", "Назови птицу."),
        ("以下是改写后的文本：\n说出一种鸟。", "说出一种鸟。"),
        ('"A" and "B"', '"A" and "B"'),
        ("<|im_end|>", "<|im_end|>"),
    ],
)
def test_reading_what_was_rewritten(said, read):
    assert rewrites.read(said) == read


@pytest.mark.parametrize(
    ("before", "output", "said", "flaw"),
    [
        ("Add 3 and 40.", "43", "What are 3 and 41 together?", "loses numbers"),
        ("Add 3 and 40.", "43", "Add 3 and 40!", "unchanged"),
        ("Add 3 and 40.", "43", "What are 40 and 3 together? It is 43.", "holds the answer"),
        (ENGLISH, "Dear baker", RUSSIAN, "changes language"),
        (RUSSIAN, "Дорогой пекарь", CHINESE, "changes language"),
        ("Name a river.", "Nile", "Rewritten prompt about rivers", "names its prompt"),
        ("Name a river.", "Nile", "Tell me about rivers and more. " * 9, "grows"),
        ("Add 3 and 40.", "43", "What do you get from 3 plus 40?", ""),
        ("Name a river.", "Nile", "The river is called so.", "no request"),
        ("Name a river.", "Nile", "I need the name of a river.", ""),
        ("Назови реку Европы.", "Рейн", "Это река Европы.", "no request"),
        ("说出一条河的名字。", "长江", "这是一条河的名字。", "no request"),
        ("Explain why bread rises.", "yeast", "Work out some of them quickly.", "loses its subject"),
        ("Explain why bread rises.", "yeast", "Say what makes a bread rise in the oven.", ""),
        ("说出一条河的名字。", "长江", "请告诉大家一条河叫什么名字。", ""),
        (RUSSIAN, "Дорогой пекарь", "Составь письмо пекарю за церковью с просьбой о хлебе.", ""),
    ],
)  # fmt: skip
def test_flaws_of_a_paraphrase(before, output, said, flaw):
    found = rewrites.flaws(job(parent(before, output)), said, preserving=True)
    assert next(iter(found), "") == flaw


def model(request: Request) -> str | Completion:
    """A model that answers most questions in some way, drawn of the question."""
    said = script_of(request)
    draw = random.Random(f"{request.seed}/{said}")
    if draw.random() < 0.1:
        return Completion("", "failed", error="status 400: too long")
    if draw.random() < 0.1:
        return Completion("It goes on and", "cut")
    nouns = "lantern baker violin garden window soldier pepper mountain tiger".split()
    a, b = draw.sample(nouns, 2)
    return draw.choice([
        f"Describe how the {a} of number {draw.randrange(10**6)} came to the {b}.",
        f"{draw.choice(['Tell', 'Say', 'Explain'])} me what a {a} and a {b} have in common.",
        "",
        "I'm sorry, but I cannot help with that.",
    ])  # fmt: skip


PARENTS = [
    parent(f"Say what a {a} does all day, and with whom.", f"The {a} works with the {b} until dusk.", f"a {a}", id=f"{a}-{b}")
    for a in ("baker", "doctor", "soldier", "tiger", "river")
    for b in ("queen", "uncle")
] + [
    parent("Which one is right? Choose.\na) this\nb) that", "a", id="choice"),
    parent(RUSSIAN, "Дорогой пекарь, дайте мне, пожалуйста, хлеба на завтра и на вечер.", id="russian"),
    parent(CHINESE, "亲爱的面包师，请给我一些面包，谢谢您。", id="chinese"),
]  # fmt: skip
EVERY = " ".join(operators.OPERATORS)


def test_every_job_is_counted_once(tmp_path):
    result = run(tmp_path, PARENTS, EVERY, model, copies=2)
    assert list(result.operators) == EVERY.split()
    for name, of in result.operators.items():
        there = of["kept"] + sum(of["dropped"].values()) + sum(of["not applicable"].values())
        assert there == of["jobs"] == 2 * len(PARENTS), name
    reasons = Counter(m.lineage.dropped.partition(":")[0] for m in result.made)
    for reason in ("no answer", "unreadable", "refusal", "duplicate"):
        assert reasons[reason], reason
    ids = {p.id for p in PARENTS}
    for m in result.made:
        o = operators.OPERATORS.get(m.lineage.operator)
        assert set(m.lineage.parents) <= ids and len(m.lineage.parents) == 1
        assert m.lineage.preserving == bool(o and o.preserving)
        assert m.lineage.generator == (
            "rules" if m.lineage.operator in operators.RULES else "scripted"
        )
        assert bool(m.lineage.made_by) == (m.lineage.generator == "scripted")
    made = [m.id for m in kept(result)]
    assert len(set(made)) == len(made)
    # what keeps the meaning keeps the answer; a label is another where the option has another
    of = {p.id: p.row.output for p in PARENTS}
    same = [m for m in kept(result) if m.lineage.preserving and m.lineage.operator != "options"]
    assert same and all(m.row.output == of[m.lineage.parents[0]] for m in same)


def test_the_same_again_and_another_seed(tmp_path):
    first = run(tmp_path / "a", PARENTS, EVERY, model)
    assert first == run(tmp_path / "a", PARENTS, EVERY, model)
    assert first == run(tmp_path / "b", PARENTS, EVERY, model)
    assert first.made != run(tmp_path / "b", PARENTS, EVERY, model, seed=1).made
    # a parent's rows are its own: others beside it change nothing of what a rule makes
    alone = run(tmp_path / "c", PARENTS[:1], "frame formats")
    both = [
        m
        for m in run(tmp_path / "c", PARENTS, "frame formats").made
        if m.lineage.parents == (PARENTS[0].id,)
    ]
    assert alone.made == both


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Stopped after each number of answers: what is answered is not asked again, and the rows are
    the same."""
    monkeypatch.setattr(augment, "JOBS_AT_ONCE", 40)
    whole = run(tmp_path / "whole", PARENTS, EVERY, model)
    result, asked = stopped_and_continued(
        model, (3, 40), lambda stopping: run(tmp_path / "other", PARENTS, EVERY, stopping)
    )
    assert result == whole and set(asked.values()) == {1} and len(asked) > 60


def test_what_an_evaluation_asks_is_dropped(tmp_path):
    plain = run(tmp_path / "a", PARENTS, "frame")
    victim = kept(plain)[0].row
    asked = contamination.spellings("held", 1, [victim.instruction], ["none of them"])
    result = run(tmp_path / "b", PARENTS, "frame", asked=asked)
    hits = [m for m in result.made if m.lineage.dropped.startswith("leak: held: ")]
    assert victim in [m.row for m in hits] and len(kept(result)) == len(kept(plain)) - len(hits)


def test_a_row_that_is_new_must_be_unlike_all_others(tmp_path):
    said = "Describe how a lantern maker of the old town spends his working day."
    answers = {said: "He cuts the glass in the morning and lights the lamps at night."}
    result = run(tmp_path, PARENTS[:3], "evol_deepen", lambda r: answers.get(script_of(r), said))
    assert len(kept(result)) == 1
    assert [m.lineage.dropped.partition(":")[0] for m in result.made] == [
        "",
        "duplicate",
        "duplicate",
    ]
    like = run(
        tmp_path / "b", PARENTS[:3], "evol_deepen", lambda request: PARENTS[0].row.instruction
    )
    assert not kept(like)


# ---- the command


def write_rows(file: Path) -> None:
    held = [
        {"id": p.id, "instruction": p.row.instruction, "input": p.row.input, "output": p.row.output}
        for p in PARENTS
    ]
    file.write_text("\n".join(json.dumps(h, ensure_ascii=False) for h in held), encoding="utf-8")


def test_from_rows_to_a_task(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "*")
    write_rows(tmp_path / "rows.jsonl")
    line = ["create", "augment", str(tmp_path / "rows.jsonl"), "--root", str(tmp_path)]
    rule = [*line, "--name", "ruled", "--json", str(tmp_path / "facts.json")]
    assert cli.main(rule) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["task"] == "created.ruled.v1" and facts["origin"] == ["created_ruled", "rows"]
    assert facts["drift"]["before"]["rows"] == len(PARENTS) and facts["calls"] == {}
    assert cli.main(rule) == 0 and len(lineage.versions(tmp_path / "created/ruled")) == 1
    told = capsys.readouterr()
    assert (
        "these settings have made it already" in told.err and "no keyboard of letters" in told.out
    )
    assert cli.main(["tasks", "check", "created.ruled.v1", "--root", str(tmp_path)]) == 0

    def fault(n, body):
        what = "baker doctor soldier tiger river carpet engine garden queen uncle".split()[n % 10]
        return answer(f"Tell me what the {what} does all day for himself and with whom he works.")

    with serving(Served(fault)) as address:
        server = ["--server", address, "--server_model", "small", "--operators", "paraphrase"]
        # rows of rows: the parents are those of the version before
        again = ["create", "augment", "created.ruled.v1", "--root", str(tmp_path), "--name", "said"]
        assert cli.main([*again, *server, "--rows", "9"]) == 0
    ids = {h["lineage"]["id"] for h in lineage.lines(tmp_path / "created/ruled/v1/kept.jsonl")}
    made = list(lineage.lines(tmp_path / "created/said/v1/kept.jsonl"))
    assert made and {h["lineage"]["parents"][0] for h in made} <= ids
    assert all(h["lineage"]["preserving"] and h["lineage"]["made_by"]["paraphrase"] for h in made)
    capsys.readouterr()
    assert cli.main(["data", "why", made[0]["lineage"]["id"], "--root", str(tmp_path)]) == 0
    assert "paraphrase" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["absent"], "unknown task 'absent'"),
        (["created.no.v1"], "no made data 'created.no.v1'"),
        (["ROWS", "--operators", "typo"], "no operator is called 'typo'; did you mean 'typos'?"),
        (["ROWS", "--operators", "paraphrase"], "paraphrase ask a model: give one of"),
        (["ROWS", "--server", "http://127.0.0.1:9/v1"], "nobody is asked"),
        (
            ["ROWS", "--operators", "magpie", "--server", "http://h/v1"],
            "by a --model with a chat template",
        ),
        (["ROWS", "--copies", "0"], "--copies 0: must be at least 1"),
        (["ROWS", "--metric", "numerc"], "no metric 'numerc'; did you mean 'numeric'"),
        (["ROWS", "--without", "emty"], "no filter is called 'emty'"),
    ],
)
def test_what_is_refused_leaves_nothing(more, told, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    write_rows(rows)
    words_ = [str(rows) if w == "ROWS" else w for w in more]
    assert cli.main(["create", "augment", *words_, "--name", "x", "--root", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "created").exists()
