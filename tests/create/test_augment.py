# SPDX-License-Identifier: Apache-2.0
"""Rows made of rows: what each operator does to them, that every job is counted, that the right
answer stays right, and that no rationale is kept whose answer is another than the known one."""

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from rapidfuzz.distance import OSA

from itx import cli
from itx.create import (
    arithmetic,
    augment,
    choices,
    filters,
    lineage,
    operators,
    parents,
    rationales,
    rewrites,
    rules,
)
from itx.create.augment import Settings
from itx.create.generators import Completion, Request, Scripted
from itx.create.journal import Journal, ask
from itx.create.row import Row
from itx.create.steps import Changed, Job, NotApplicable, Parent
from itx.errors import UserError
from itx.eval import metrics
from itx.leaks import contamination
from itx.tasks import registry, templates
from itx.text import numbers, script, words
from tests.conftest import REPO
from tests.create.openai_server import Served, answer, serving

ENGLISH = "Write a short letter to the old baker who lives behind the church and ask him for bread."
RUSSIAN = (
    "Напиши короткое письмо старому пекарю, который живёт за церковью, и попроси у него хлеба."
)
CHINESE = "请给住在教堂后面的老面包师写一封短信，向他要一些面包。"


def parent(instruction: str, output: str = "It is done.", given: str = "", **more) -> Parent:
    row = Row(instruction, given, output)
    return Parent(more.pop("id", row.instruction[:12]), row, (output,), **more)


def job(p: Parent, seed: int = 0, **more) -> Job:
    return Job(p, (seed, "test", p.id, 0), **more)


def script_of(request: Request) -> str:
    return request.prompt or request.messages[-1].content


def run(folder: Path, of: list[Parent], names: str, model=None, **how) -> augment.Result:
    folder.mkdir(exist_ok=True)
    generator = Scripted(model or (lambda request: "Please say it."))
    asked = how.pop("asked", ())
    every = filters.chosen(filters.every(()), how.pop("without", ()))
    with Journal(folder / "journal.sqlite") as kept:
        return augment.run(
            lambda requests: ask(kept, generator, requests),
            generator.name,
            of,
            operators.chosen(names.split()),
            Settings(**how),
            every,
            asked,
        )


def kept(result: augment.Result) -> list[lineage.Made]:
    return [m for m in result.made if not m.lineage.dropped]


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


# ---- typos


def test_keys_that_touch():
    latin, cyrillic = rules.neighbours("Latin"), rules.neighbours("Cyrillic")
    assert set(latin["g"]) == set("tyfhvb") and set(latin["q"]) == set("wa")
    assert set(cyrillic["п"]) == set("енарми") and set(cyrillic["й"]) == set("цф")
    for near in (latin, cyrillic):
        assert all(c in near[d] and c != d for c in near for d in near[c])


@pytest.mark.parametrize(("said", "alphabet"), [(ENGLISH, "Latin"), (RUSSIAN, "Cyrillic")])
def test_typos_are_single_slips_of_the_right_keyboard(said, alphabet):
    slips = Counter()
    for seed in range(200):
        made = rules.typos(job(parent(said, "Дело сделано."), seed))
        assert isinstance(made, Changed)
        before, after = said.split(), made.row.instruction.split()
        assert len(before) == len(after) and before != after
        for a, b in zip(before, after, strict=True):
            if a == b:
                continue
            slips[a] += 1
            a, b = (re.sub(r"\W", "", w) for w in (a, b))
            assert OSA.distance(a, b) == 1 and (a[0], a[-1]) == (b[0], b[-1])
            assert len(a) >= rules.MIN_LETTERS and script(b) == alphabet
            if len(a) == len(b) and sorted(a) != sorted(b):
                at = next(i for i in range(len(a)) if a[i] != b[i])
                assert b[at] in rules.neighbours(alphabet)[a[at]]
    assert len(slips) >= 4  # not one word alone


@pytest.mark.parametrize(
    ("said", "output", "why"),
    [
        (CHINESE, "好的。", "no keyboard of letters for Han"),
        ("東京へ行く電車はどれですか。", "山手線", "no keyboard of letters for Hi"),
        ("1 + 2 = ?", "3", "no keyboard of letters for a text without letters"),
        ("Spell the word for a large river.", "river", "about its letters"),
        ("Сколько букв в этом слове?", "пять", "about its letters"),
        ("Is it so?", "never mind", "no word that may have a typo"),
    ],
)
def test_typos_where_they_make_no_sense(said, output, why):
    made = rules.typos(job(parent(said, output)))
    assert isinstance(made, NotApplicable) and why in made.why


def test_what_no_typo_touches():
    said = 'Which city did Napoleon leave: "Moscow burning" or `paris_code`? See https://a.org/way.'
    p = parent(said, "Moscow leave", "Never count 12345 people without reading.")
    for seed in range(300):
        made = rules.typos(job(p, seed, known=frozenset(words(p.row.whole))))
        both = f"{made.row.instruction} {made.row.input}"
        for piece in ("Napoleon", '"Moscow burning"', "`paris_code`", "https://a.org/way", "12345"):
            assert piece in both
        assert {"leave", "never", "without"} <= set(words(both))
        assert made.row.output == "Moscow leave"


# ---- a sentence around, another form


@pytest.mark.parametrize(("said", "language"), [(ENGLISH, "en"), (RUSSIAN, "ru"), (CHINESE, "zh")])
def test_frames_are_of_the_language_and_keep_every_sign(said, language):
    every = filters.every(())
    seen = set()
    for seed in range(60):
        made = rules.frame(job(parent(said), seed))
        assert said in made.row.instruction and made.row.instruction != said
        around = made.row.instruction.replace(said, "")
        assert script(around) == script(said)
        assert filters.verdicts(made.row, every) == {}
        seen.add(around)
    assert len(seen) == len(rules.FRAMES[language])


def test_what_leads_on_gets_nothing_behind_it():
    for seed in range(40):
        made = rules.frame(job(parent("Translate into French:", given="a cat"), seed))
        assert made.row.instruction.endswith("Translate into French:")
    made = rules.frame(job(parent("Γράψε ένα μικρό γράμμα στον παλιό φούρναρη του χωριού.")))
    assert isinstance(made, NotApplicable) and "no wording in el" in made.why


@pytest.mark.parametrize(
    ("said", "given"),
    [(ENGLISH, "He is called Tom, and his bread is good."), (RUSSIAN, "Его зовут Том."), (CHINESE, "他叫汤姆。")],
)  # fmt: skip
def test_forms_keep_every_word(said, given):
    """The words of both stand there, whatever the form; only what an input is called is added."""
    called = {w for names in rules.CALLED.values() for n in names for w in words(n)} | {"text"}
    every, forms = filters.every(()), set()
    for seed in range(60):
        made = rules.formats(job(parent(said, given=given), seed))
        assert isinstance(made, Changed) and given in made.row.asked
        left = Counter(words(made.row.asked)) - Counter(words(f"{said} {given}"))
        assert set(left) <= called and not Counter(words(said)) - Counter(words(made.row.asked))
        assert filters.verdicts(made.row, every) == {}
        forms.add(made.row.asked.replace(said, "").replace(given, ""))
    assert len(forms) >= 5


def test_names_and_points_in_another_form():
    seen = set()
    for seed in range(80):
        p = parent("Premise: It rains.\nHypothesis: It is dry: truly.\n- yes\n- no", "no")
        made = rules.formats(job(p, seed)).row.instruction
        assert [w for w in words(made)] == words(p.row.instruction)
        seen.add(made)
    assert "[Premise] It rains.\n[Hypothesis] It is dry: truly.\n- yes\n- no" in seen
    assert "Premise: It rains.\nHypothesis: It is dry: truly.\n* yes\n* no" in seen
    plain = rules.formats(job(parent("Name a bird that sings at night.")))
    assert isinstance(plain, NotApplicable)


# ---- options


def read_back(asked: str, said: str, known: list[str]) -> str:
    """The option that an answer stands for, read by one who knows no style: its text, or what
    stands behind its label, or both."""
    said = said.strip()
    label = re.match(r"\(?([a-hA-H1-9])(?:[).:]\s*|$)", said)
    if said in known:
        return said
    if label and said[label.end() :] in known:
        said = label[0]
    (line,) = re.findall(rf"^\(?{label[1]}[).:]\s*(.+)$", asked, flags=re.MULTILINE | re.IGNORECASE)
    return line


WORDS = {
    "Latin": "red green blue, dark|not blue|a red house|12 boats|C|the 3rd one|Rome|Not Rome".split("|"),
    "Cyrillic": "красный|синий, тёмный|не синий|красный дом|12 лодок|Рим|не Рим".split("|"),
    "Han": "红色|深蓝色|不是蓝色|红房子|12条船|罗马|不是罗马".split("|"),
}  # fmt: skip
QUESTIONS = {"Latin": "Choose the right option of these.", "Cyrillic": "Выбери правильный вариант.", "Han": "请选择正确的答案。"}  # fmt: skip


def test_the_right_option_stays_right():
    """Drawn questions in three alphabets, with labels of several forms and answers of three."""
    draw, done, moved = random.Random(0), Counter(), 0
    for _ in range(1500):
        alphabet = draw.choice(list(WORDS))
        known = draw.sample(WORDS[alphabet], draw.randrange(2, 6))
        right = draw.randrange(len(known))
        mark = draw.choice(["{})", "({})", "{}.", "{}:"])
        signs = "abcdefgh" if draw.random() < 0.4 else "ABCDEFGH"
        if draw.random() < 0.3 and mark in ("{})", "{}."):
            signs = "12345678"
        labels = [mark.format(c) for c in signs[: len(known)]]
        listed = "\n".join(f"{c} {o}" for c, o in zip(labels, known, strict=True))
        said = draw.choice(
            [signs[right], labels[right], known[right], f"{labels[right]} {known[right]}"]
        )
        p = parent(f"{QUESTIONS[alphabet]}\n{listed}", said)
        made = choices.options(job(p, draw.randrange(10**6)))
        if isinstance(made, NotApplicable):
            done[made.why] += 1
            continue
        done["made"] += 1
        assert read_back(made.row.asked, made.row.output, known) == known[right], (p.row, made.row)
        assert set(made.row.options) == set(known) and made.row.options != tuple(known)
        assert filters.options(made.row) == ""
        moved += made.row.asked != p.row.asked and made.row.output != p.row.output
    assert done["made"] > 1200 and moved > 500
    # an option called "C" may be meant by the answer "C", and then nobody knows
    assert done["the answer is not one option alone"]


@pytest.mark.parametrize(
    ("asked", "said", "why"),
    [
        ("Choose one.\na) yes\nb) no\nc) all of the above", "a", "an option speaks of the others"),
        ("Выбери вариант.\n1. да\n2. всё вышеперечисленное", "1", "an option speaks of the others"),
        ("选择正确的答案。\nA. 红\nB. 以上都是", "A", "an option speaks of the others"),
        ("Choose one. Why is option B wrong?\na) yes\nb) no", "b", "speaks of an option by its label"),
        ("Choose one.\na) yes\nb) no", "a and b", "not one option alone"),
        ("Choose one.\na) yes\nb) yes", "a", "two options are the same"),
        ("Name a colour.", "red", "no options are listed"),
        ("Choose one.\n1. 2\n2. 1", "1", "not one option alone"),
    ],
)  # fmt: skip
def test_options_that_stay_as_they_are(asked, said, why):
    made = choices.options(job(parent(asked, said)))
    assert isinstance(made, NotApplicable) and why in made.why


@pytest.mark.parametrize("name", ["entails", "ru_entails", "has_word"])
def test_options_of_a_task(name):
    """What a task's fields say of its options, in the list that its own wording shows."""
    registry.load_modules(["tasks"])
    source = parents.drawn(parents.of(name, "", 0), 200, 0)
    seen = Counter()
    for p in source.parents:
        if p.choice is None:
            assert not p.row.options
            seen["not listed"] += 1
            continue
        c = p.choice
        assert p.row.asked.count(c.listed) == 1
        assert p.row.output == c.called[c.right] and p.references == (p.row.output,)
        made = choices.options(job(p))
        if isinstance(made, NotApplicable):
            seen[made.why] += 1
            continue
        right = read_back(made.row.asked, made.row.output, list(c.options))
        assert right == c.options[c.right]
        seen["made"] += 1
    assert seen["made"] > 20, seen


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
    asked: Counter[str] = Counter()

    class Stop(Exception):
        pass

    for allowed in (3, 40, 10**9):
        left = [allowed]

        def stopping(request, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            asked[request.digest] += 1
            return model(request)

        try:
            result = run(tmp_path / "other", PARENTS, EVERY, stopping)
        except Stop:
            continue
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
    """Its own rationales, written by people, are hardly ever accused (25 accusations were read: 15
    are true); of results that are changed every one is found where the sum can be read."""
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
        return answer(f"Tell me in a few words of your own what the {what} has to do all day.")

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
