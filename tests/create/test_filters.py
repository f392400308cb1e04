# SPDX-License-Identifier: Apache-2.0
"""Filters of made rows: what each finds and what it leaves alone. How often, on public data:
tests/create_table.py."""

import random

import pytest

from itx import hashing
from itx.create import collection, contents, filters
from itx.create.generators import CUT, STOPPED
from itx.create.row import Row
from itx.errors import UserError
from itx.leaks import contamination
from tests import create_table, leak_kinds
from tests.create import plants

EVERY = filters.every(("en", "ru", "zh"))
ASK = "Describe what you see in the garden."
SOUND = [
    Row("Name three colours.", "", "Red, green and blue"),
    Row("What is 2 + 2?", "", "4"),
    Row("Which sign ends a question?", "", "?"),
    Row("Is the sky blue?", "", "Yes."),
    Row("Переведи на английский: «вода»", "вода", "water"),
    Row("Translate to French: 'the cat sleeps on the old red chair'", "", "Le chat dort sur la vieille chaise rouge."),
    Row("用一句话介绍北京。", "", "北京是中国的首都，历史悠久，有很多名胜古迹。"),
    Row("Составь список покупок.", "", "- хлеб\n- молоко\n- яблоки\n- соль"),
    Row("Write a poem about rain.", "", "Rain on the roof,\nrain in the lane,\nrain on the foot\nand rain again"),
    Row("Correct the grammar.", "she go home", "She goes home."),
    Row("Write a function that adds.", "", "```python\ndef add(a, b):\n    return a + b\n```"),
    Row("Show a JSON object.", "", '```json\n{"a": [1, 2]}\n```'),
    Row("Where can I read about cats?", "", "See https://en.wikipedia.org/wiki/Cat, or http://localhost:8000/a?b=1."),
    Row("What does http stand for?", "", "HTTP stands for Hypertext Transfer Protocol. Addresses begin with http:// or https://."),
    Row("When did it happen?", "", "It happened on 12-05-1998, between 1914-1918 and 1939 - 1945, or 2023-10-01."),
    Row("How far is it?", "", "The distance is 384 400 km, and 149,597,870 km to the sun; pi is 3.14159265358979."),
    Row("Write a letter.", "", "You can reach us at info@example.com or 555-0123."),
    Row("Name a town in England.", "", "Scunthorpe, in Lincolnshire, or Penistone; the class met in Essex."),
    Row("Write a dialogue between Ann and Bob.", "", "Ann: Hello!\nBob: Good morning, Ann."),
    Row("Choose the right answer.\na) cat\nb) dog", "", "b) dog"),
    Row("Tell me a story about a robot that said sorry.", "", "The robot said: sorry, I cannot swim. Then it learned."),
    Row("Chorus of a song, please.", "", "La la la, sing with me.\nLa la la, one two three.\nLa la la, under the tree."),
]  # fmt: skip


@pytest.mark.parametrize("row", SOUND, ids=lambda row: row.output[:20])
def test_sound_rows_pass_every_filter(row):
    assert filters.verdicts(row, EVERY) == {}


FLAWED = [
    ("empty", Row(ASK, "", "")),
    ("empty", Row(ASK, "", " \u200b\n")),
    ("empty", Row(" ", "", "A tree.")),
    ("empty", Row(ASK, "", "...")),
    ("truncated", Row(ASK, "", "A tree and a", finish=CUT)),
    ("truncated", Row(ASK, "", "There is a tree. It is old and tall. Under it stands a small wooden ben")),
    ("truncated", Row(ASK, "", "I can see an old apple tree, two red bicycles and the")),
    ("truncated", Row(ASK, "", "Here it is:\n```python\nprint(1)")),
    ("length", Row("Go", "", "Yes.")),
    ("length", Row("word " * 200, "", "Yes.")),
    ("language", Row(ASK, "", "Im Garten steht ein alter Apfelbaum, und darunter liegt ein Hund.")),
    ("language", Row("Décris ce que tu vois dans le jardin de ta grand-mère.", "", "A tree.")),
    ("repetition", Row(ASK, "", "I see a tree. " * 12)),
    ("repetition", Row(ASK, "", "a" * 90)),
    ("repetition", Row(ASK, "", "Вот дом. " + "И дом, и сад, и пруд. " * 8)),
    ("refusal", Row(ASK, "", "I'm sorry, but I cannot look at pictures.")),
    ("refusal", Row(ASK, "", "As an AI language model, I don’t have eyes. But gardens have trees.")),
    ("refusal", Row(ASK, "", "К сожалению, я не могу видеть изображения.")),
    ("refusal", Row(ASK, "", "很抱歉，我无法查看图片。")),
    ("format", Row(ASK, "", "A tree.<|im_end|>")),
    ("format", Row(ASK, "", "A tree.\n\n### Instruction:\nName a colour.")),
    ("format", Row(ASK, "", "A tree.\nUser: And then?\nAssistant: A dog.")),
    ("format", Row("Output: a tree", "", "A tree is a plant.")),
    ("personal", Row(ASK, "", "Write to anna.petrova@mail.ru for more.")),
    ("personal", Row(ASK, "", "Call +49 30 1234567 or (212) 736-5000.")),
    ("personal", Row(ASK, "", "Карта 4111 1111 1111 1111, спасибо.")),
    ("personal", Row(ASK, "", "Pay to DE89 3704 0044 0532 0130 00 today.")),
    ("personal", Row(ASK, "", "身份证号是11010519491231002X。")),
    ("code", Row(ASK, "", "```python\ndef f(:\n    pass\n```")),
    ("code", Row(ASK, "", "def f(x)\n    return x")),
    ("code", Row(ASK, "", '```json\n{"a": 1,}\n```')),
    ("address", Row(ASK, "", "See htp://example.org for more.")),
    ("address", Row(ASK, "", "See https:/example.org/a for more.")),
    ("address", Row(ASK, "", "See https:///nothing for more.")),
    ("unsafe", Row(ASK, "", "What the FUCK is this?")),
    ("unsafe", Row(ASK, "", "What the f\u200buck is this?")),
    ("copies", Row(ASK, "", ASK)),
    ("copies", Row("Fix it.", "the cat sat on the mat", "the cat sat  on the mat")),
    ("options", Row("Choose one.\na) cat\nb) dog", "", "A yellow bird")),
    ("options", Row(ASK, "", "perhaps", options=("yes", "no"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row"), FLAWED, ids=lambda x: x if isinstance(x, str) else "")
def test_a_flaw_is_found_by_its_filter(name, row):
    found = filters.verdicts(row, EVERY)
    assert name in found and found[name]


def test_each_filter_has_a_flaw_here():
    assert {name for name, _ in FLAWED} == set(EVERY)


def test_where_the_generator_tells_how_it_ended_its_word_counts():
    said = "There is a tree. It is old and tall. Under it stands a small wooden ben"
    assert filters.truncated(Row(ASK, "", said)) and not filters.truncated(
        Row(ASK, "", said, finish=STOPPED)
    )


def test_personal_data_are_named_by_kind_and_never_shown():
    assert contents.personal("write to anna.petrova@mail.ru") == "an e-mail address"
    assert contents.personal("4111 1111 1111 1112") == ""  # Luhn's check fails
    assert "IBAN" not in contents.personal("DE89 3704 0044 0532 0130 01")
    assert contents.personal("110105194912310021") == ""


def test_a_list_of_words_of_ones_own():
    own = filters.every(unsafe_words=("grape", "виноград"))["unsafe"]
    assert own(Row(ASK, "", "A GRAPE!")) and own(Row(ASK, "", "Спелый виноград."))
    assert not own(Row(ASK, "", "A grapefruit, fuck."))
    assert not filters.every(unsafe_words=())["unsafe"](Row(ASK, "", "fuck"))
    assert filters.unsafe_words_of("# remark\n a b # other\n\nc") == ("a b", "c")


def test_languages_and_names_that_are_none():
    with pytest.raises(UserError, match="language 'english' is none that is told apart"):
        filters.every(("english",))
    with pytest.raises(UserError, match="no filter is called 'emty'.*'empty'"):
        filters.chosen(EVERY, ["emty"])
    assert list(filters.chosen(EVERY, ["empty"])) == list(EVERY)[1:]


def test_nothing_of_a_program_is_run(tmp_path):
    mark = tmp_path / "mark"
    said = f"```python\nopen({str(mark)!r}, 'w')\n```"
    assert contents.code(said) == "" and not mark.exists()
    assert contents.code("```python\n" + "(" * 5000 + "\n```")


@pytest.mark.parametrize(
    "part", ["a ", "<|", "- [", "1 ", "h", "\x00\u202e", "```\n", "+1 (", "q: \n", "a@a."]
)
def test_strange_texts_end_soon(part):
    """No pattern takes time with the square of a text's length: a few seconds would be hours."""
    said = part * (filters.MAX_CHARACTERS // len(part) - 100)
    filters.verdicts(Row(ASK, "", said), EVERY)


def test_a_gigantic_text_is_not_read():
    assert filters.verdicts(Row(ASK, "", "word " * 10**6), EVERY) == {
        "length": "5,000,036 characters, more than are read"
    }


def test_duplicates_and_near_duplicates_name_the_first():
    seen = collection.Duplicates()
    long = "The old lighthouse keeper counted the ships that passed the harbour every evening."
    assert seen(Row(ASK, "", long)) == {}
    assert seen(Row(ASK, "", "Something else is here, namely a short list of birds.")) == {}
    assert seen(Row(ASK.upper(), "", long + "!!")) == {"duplicate": "of row 0"}
    near = seen(Row(ASK, "", long.replace("ships", "boats")))
    assert near["near duplicate"].startswith("of row 0, ROUGE-L 0.9")
    assert seen(Row(ASK, "", "Quite another answer, which nobody gave before, about clouds.")) == {}


def test_leaks_are_those_of_the_build():
    items = leak_kinds.inputs("en", "short", 3) + leak_kinds.inputs("ru", "long", 3)
    asked = [
        a for t in items
        for a in contamination.spellings("mmlu", hashing.draw(t), [t], ["none of them"])
    ]  # fmt: skip
    rows = [Row(f"Please answer: {t.upper()}", "", "A bird.") for t in items]
    rows += [Row(ASK, "", t) for t in leak_kinds.inputs("en", "short", 3, seed=1)]
    found = collection.leaks(rows, asked)
    assert sorted(found) == list(range(6)) and all(f.startswith("mmlu: ") for f in found.values())
    assert collection.leaks([], asked) == collection.leaks(rows, []) == {}


def test_planted_numbers_are_what_they_claim():
    """The plants' own numbers have right check digits: else a miss would be the plant's fault."""
    draw = random.Random(3)
    assert all(contents.personal(plants._card(draw)) == "a payment card" for _ in range(50))
    assert all(contents.personal(plants._iban(draw)).startswith("a bank") for _ in range(50))
    assert all("identity" in contents.personal(plants._chinese_id(draw)) for _ in range(50))


BELOW = {  # kinds that a rule sees in part only
    "truncated, by its text alone": (0.55, 0.6),
    "refusal": (0.65, 0.95),
    "answer not among options": (0.8, 0.95),
    "near duplicate": (0.9, 0.7),
}


@pytest.mark.slow
def test_recall_and_precision_on_other_rows(shared):
    _, kinds = create_table.measures(shared, seed=11)
    for kind, (measure, _) in kinds.items():
        found, alarms, _ = measure()
        recall, precision = BELOW.get(kind, (0.9, 0.95))
        hits = sum(found)
        assert hits / len(found) >= recall, kind
        assert hits / (hits + len(alarms)) >= precision, kind
