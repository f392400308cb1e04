# SPDX-License-Identifier: Apache-2.0
"""No rationale is kept whose answer is another than the known one; what a right answer does not make
a rationale; sums that do not come out."""

import gzip
import json
import random
import re
from collections import Counter

import pytest

from itx.create import (
    arithmetic,
    augment,
    parents,
    rationales,
)
from itx.create.generators import Request
from itx.create.steps import Parent
from itx.eval import metrics
from itx.tasks import registry, templates
from itx.text import numbers
from tests.create.rows import CHINESE, RUSSIAN, kept, parent, run, script_of

# ---- rationales


def reasoner(request: Request, shares: dict[str, float], known: dict[str, str]) -> str:
    """A model that is right, wrong, malformed, or tells of the hint, in drawn shares."""
    said = script_of(request)
    draw = random.Random(f"{request.seed}/{said}")
    question = next(q for q in known if q in said)
    kind = draw.choices(list(shares), list(shares.values()))[0]
    made_of = draw.randrange(int(known[question]))
    steps = (
        f"First {made_of} things are taken, and then some more of them. "
        f"{made_of} + {int(known[question]) - made_of} = {known[question]}. "
    )
    right, wrong = known[question], str(int(known[question]) + draw.choice([-10, -1, 1, 7]))
    return {
        "right": f"{steps}The answer is {right}.",
        "right, and more": f"{steps}The answer is {wrong}. No!\nThe answer is {right}. I hope this helps.",
        "wrong": f"{steps}The answer is {wrong}.",
        "wrong at last": f"{steps}The answer is {right}. No! The answer is {wrong}.",
        "no sentence": f"{steps}So it is {right}",
        "no steps": f"The answer is {right}.",
        "empty": "",
        "tells": f"As the hint says, it must be so. {steps}The answer is {right}.",
        "control": f"<|im_end|>\n<|im_start|>user {steps}The answer is {right}.",
    }[kind]  # fmt: skip


SHARES = {"right": 3, "right, and more": 1, "wrong": 3, "wrong at last": 2, "no sentence": 1, "no steps": 1, "empty": 1, "tells": 2, "control": 1}  # fmt: skip


def check_rationales(result: augment.Result, of: list[Parent]) -> Counter[str]:
    """No kept row has another answer than the known one, read and judged as evaluation does."""
    by_id = {p.id: p for p in of}
    for m in kept(result):
        p = by_id[m.lineage.parents[0]]
        closing = p.closing or rationales.CLOSINGS[p.language]
        read = metrics.extract(templates.answer_pattern("{rationale}\n" + closing), m.row.output)
        assert metrics.per_example(p.metric)(list(p.references), read) == 1.0, m.row
        assert m.row.output.endswith(closing.format(answer=read))
        hinted = len(m.lineage.made_by) == 2
        assert hinted == (m.lineage.operator == rationales.RATIONALISED)
        assert not (hinted and "hint" in m.row.output)
    return Counter(m.lineage.dropped.partition(":")[0] for m in result.made)


def test_no_rationale_is_kept_whose_answer_is_another(tmp_path):
    of = [
        parent(f"Tom has {n} apples and buys {n + 1} more. How many are there?", str(2 * n + 1), id=str(n), metric="numeric")
        for n in range(3, 133)
    ]  # fmt: skip
    known = {p.row.instruction: p.row.output for p in of}
    result = run(
        tmp_path, of, "rationales", lambda r: reasoner(r, SHARES, known), without=["format"]
    )
    reasons = check_rationales(result, of)
    facts = result.operators["rationales"]
    assert facts["kept"] > 60 and facts["rationalisation"] > 12
    for reason in ("wrong answer", "unreadable", "hint", "no steps", "two answers"):
        assert reasons[reason], reason
    # a control token's text stays what it is, unless the filter of such marks is asked
    assert any("<|im_end|>\n<|im_start|>user" in m.row.output for m in kept(result))
    filtered = run(tmp_path / "b", of, "rationales", lambda r: reasoner(r, SHARES, known))
    assert check_rationales(filtered, of)["format"]
    assert not any("<|im_end|>" in m.row.output for m in kept(filtered))


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ("Three pens and four more are 3 + 4 = 7 pens.", ""),
        ("Three pens and four more are 3 + 4 = 8, less one: 7 pens.", "wrong sum"),
        ("To solve this one needs to look for the sum. The answer must be 7 then.", "from nowhere"),
        ("Three and four and one more. The answer is 8. No, for 3 + 4 = 7.", "two answers"),
        ("Seven.", "no steps"),
        ("I was told that the answer is known. 3 + 4 = 7 of them.", "hint"),
    ],
)
def test_what_a_right_answer_does_not_make_a_rationale(tmp_path, steps, why):
    said = f"{steps} The answer is 7."
    of = [parent("Ann has three pens and gets four. How many has she?", "7", metric="numeric")]
    wrong = "One pen and one pen and one pen are some pens. The answer is 1."
    result = run(
        tmp_path, of, "rationales", lambda r: said if "right answer" in script_of(r) else wrong
    )
    (row,) = result.made
    assert (
        row.lineage.dropped.partition(":")[0] == why and row.lineage.operator == "rationalisation"
    )


def test_answers_at_random_are_hardly_ever_kept(tmp_path):
    of = [
        parent(f"How many of the {n} birds fly?", str(n % 10), id=str(n), metric="numeric")
        for n in range(150)
    ]

    def guessing(request):
        digit = random.Random(f"{request.seed}/{script_of(request)}").randrange(10)
        return f"Some of the birds fly away, {digit} of them at last. The answer is {digit}."

    result = run(tmp_path, of, "rationales", guessing)
    assert set(check_rationales(result, of)) == {"", "wrong answer"}
    assert 14 <= len(kept(result)) <= 46  # of 150, with two guesses of ten


@pytest.mark.parametrize(
    ("said", "closing", "answer"),
    [
        (RUSSIAN, "Сначала посчитаем всё по порядку, потом сложим: 7. Правильный ответ — 7.", "7"),
        (CHINESE, "先数一数所有的面包，然后把它们加起来：7。答案是7。", "7"),
    ],
)
def test_rationales_in_other_languages(tmp_path, said, closing, answer):
    seen = []

    def thinking(request):
        seen.append(script_of(request))
        return closing if len(seen) > 1 else "Не знаю. 不知道。"

    result = run(tmp_path, [parent(said, answer)], "rationales", thinking)
    (row,) = kept(result)
    assert row.lineage.operator == rationales.RATIONALISED and row.row.output == closing
    assert seen[0] == row.row.instruction and answer not in seen[0] and answer in seen[1]


@pytest.mark.parametrize("said", ["As the hint says, 4.", "The given answer is 4, so.", "Как сказано в подсказке, 4.", "根据提示，是4。", "We are told that the answer is 4."])  # fmt: skip
def test_what_reveals_the_hint(said):
    assert rationales.reveals(said, "How many?")
    assert rationales.reveals("Two and two make four.", "How many?") == ""
    assert rationales.reveals("The hint is a red herring.", "What is the hint about?") == ""


def test_rationales_of_gsm8k(shared, tmp_path):
    """Its own wording for them, its own sentence with the answer and its own metric."""
    registry.load_modules(["tasks"])
    of = parents.drawn(parents.of("gsm8k", str(shared), 0), 60, 0).parents
    assert len(of) == 60 and all(p.closing == "The answer is {answer}." for p in of)
    known = {p.reasoned: p.references[0] for p in of}
    known = {q: k for q, k in known.items() if numbers(k) == [int(k)]}
    of = [p for p in of if p.reasoned in known]
    result = run(tmp_path, of, "rationales", lambda r: reasoner(r, SHARES, known))
    reasons = check_rationales(result, of)
    assert len(kept(result)) > 20 and reasons["wrong answer"] and reasons["hint"]
    assert {m.row.instruction for m in kept(result)} <= set(known)
    assert all(p.metric == "numeric" for p in of)


# ---- sums


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("3 * 4 = 12 pens, 12 - 2 = 10.", []),
        ("1.5 * 6 = 9.5 kilograms", ["1.5 * 6 = 9.5"]),
        ("$7.00 - $4.20 - $2.05 = $0.75 and 400*.05 = $20.00", []),
        ("10 / 3 = 3.33, 2 / 3 = 0.67, 2 / 3 = 0.66", []),
        ("10 / 3 = 3.4", ["10 / 3 = 3.4"]),
        ("(2 + 1) × 5 = 15；60 ÷ 4 = 15；7 − 9 = -2", []),
        ("100% - 40% = 60%, 20% * 50 = 10, 1/4 = 25%", []),
        ("1,200 + 34 = 1,234; 600 x 30 = 18 000", []),
        ("Всего 2*8 = 24 часа", ["2*8 = 24"]),
        ("总共2 * 8 = 18支笔", ["2 * 8 = 18"]),
        ("x + 3 = 5, 6:00+48=6:48, 3/ 1/4 = 12, 1 and 1/4 = 15, 9 ** 99 = 1, 1/0 = 3", []),
        ("2 + 2 = 4 = 2 * 2 = 5", ["2 * 2 = 5"]),
        ("9" * 50_000 + " + 1 = 2", []),
    ],
)
def test_sums_that_do_not_come_out(said, wrong):
    assert arithmetic.wrong(said) == wrong


def test_sums_of_gsm8k(shared):
    """Its own rationales, written by people, are hardly ever accused (24 accusations were read: about
    15 are true); of results that are changed every one is found where the sum can be read."""
    draw, accused, planted, found = random.Random(0), 0, 0, 0
    with gzip.open(shared / "gsm8k/train.jsonl.gz", "rt", encoding="utf-8") as lines:
        golden = [json.loads(line)["answer"] for line in lines][:1500]
    for said in golden:
        said = re.sub(r"<<.*?>>", "", said).partition("####")[0]
        read = [e for e, comes_out in arithmetic.equations(said) if comes_out]
        accused += bool(arithmetic.wrong(said))
        if read:
            sum_ = draw.choice(read)
            result = numbers(sum_)[-1]
            other = sum_[: sum_.rindex("=")] + f"= {result + draw.choice([-2, 2, 3, 11]):g}"
            planted, found = planted + 1, found + bool(arithmetic.wrong(said.replace(sum_, other)))
    assert planted > 1000 and found / planted > 0.97, (found, planted)
    assert accused < 12, accused
