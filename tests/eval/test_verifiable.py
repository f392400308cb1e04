# SPDX-License-Identifier: Apache-2.0
"""Instructions that a rule verifies: beside lm-evaluation-harness's own checks, on drawn answers;
and the published layout of IFEval from file to score."""

import json
import random
import sys
import types

import pytest

import tasks  # noqa: F401  (registers)
from itx import languages
from itx.errors import UserError
from itx.eval import evaluate, verifiable
from itx.prepare import check
from itx.tasks import registry
from tasks import ifeval

# kind -> arguments, as a published row gives them
ASKED = {
    "keywords:existence": {"keywords": ["river", "stone"]},
    "keywords:frequency": {"keyword": "river", "frequency": 2, "relation": "at least"},
    "keywords:forbidden_words": {"forbidden_words": ["river", "bad"]},
    "keywords:letter_frequency": {"letter": "e", "let_frequency": 6, "let_relation": "less than"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"num_words": 9, "relation": "less than"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "river"},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:number_bullet_lists": {"num_bullets": 2},
    "detectable_format:constrained_response": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "combination:two_responses": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "Name a river."},
    "startend:end_checker": {"end_phrase": "the end"},
    "startend:quotation": {},
    "punctuation:no_comma": {},
}  # fmt: skip
PIECES = [
    "river", "stone", "bad", "Name a river.", "The end", "the end", "\n\n", "\n", "***", "******", "* one", "- two",
    "*bold*", "**strong**", "[name]", "<<Title>>", "<<>>", "P.S. more", "p. s. x", "Section 1", "Section 2",
    "My answer is yes.", '"', ",", "{}", '{"a": 1}', "```json", "```", "eee", "River", "word", "a", ".", "2",
]  # fmt: skip


def drawn(rng: random.Random) -> str:
    """An answer of drawn pieces; every other one is wrapped as some kinds ask."""
    said = rng.choice([" ", "\n", "\n\n"]).join(rng.choices(PIECES, k=rng.randint(1, 7)))
    return rng.choice([said, f'"{said}"', f"Name a river. {said}", f"{said} the end", said.lower()])


@pytest.fixture(scope="module")
def theirs():
    """The harness's registry of checks. It wants langdetect, which is not asked here."""
    pytest.importorskip("lm_eval")
    held = sys.modules.get("langdetect")
    sys.modules["langdetect"] = types.ModuleType("langdetect")
    try:
        from lm_eval.tasks.ifeval import instructions_registry
    except LookupError:  # pragma: no cover
        pytest.skip("NLTK's data are not here")
    finally:
        sys.modules.pop("langdetect")
        if held:
            sys.modules["langdetect"] = held
    return instructions_registry.INSTRUCTION_DICT


@pytest.mark.parametrize("kind", ASKED)
def test_checks_agree_with_lm_evaluation_harness(theirs, kind):
    """800 drawn answers a kind, some of which follow the instruction and some do not."""
    rng, seen = random.Random(kind), set()
    own = verifiable.instruction(kind, ASKED[kind])
    made = theirs[kind](kind)
    made.build_description(**ASKED[kind])
    for _ in range(800):
        said = drawn(rng)
        expected = bool(said.strip()) and bool(made.check_following(said))
        assert verifiable.follows(own, said) == expected, said
        seen.add(expected)
    assert seen == {True, False}


def test_every_published_kind_is_known(theirs):
    assert verifiable.CHECKS.keys() == theirs.keys()


def test_what_a_words_of_an_instruction_holds_is_no_pattern():
    own = verifiable.instruction("keywords:existence", {"keywords": ["a.c", "(("]})
    assert verifiable.follows(own, "it is a.c ((") and not verifiable.follows(own, "abc ((")


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("One. Two! Three?", 3),
        ("He paid 3.50 for it... and left", 2),
        ("Первое предложение. Второе!", 2),
        ("今天天气很好。我们去公园吧！", 2),
        ("", 0),
        ("—", 0),
    ],
)
def test_sentences_are_counted_in_any_script(said, count):
    assert len(verifiable.sentences(said)) == count


def test_languages():
    pytest.importorskip("py3langid")
    russian = "Сегодня хорошая погода, и мы идём гулять в парк."
    english = "the weather is good today and we are going for a walk in the park."
    asked = verifiable.instruction("language:response_language", {"language": "ru"})
    assert verifiable.follows(asked, russian) and not verifiable.follows(asked, english)
    small = verifiable.instruction("change_case:english_lowercase", {})
    assert verifiable.follows(small, english) and not verifiable.follows(small, english.title())
    assert not verifiable.follows(small, russian.lower())
    large = verifiable.instruction("change_case:english_capital", {})
    assert verifiable.follows(large, english.upper()) and not verifiable.follows(large, english)
    words = {"capital_frequency": 2, "capital_relation": "at least"}
    capital = verifiable.instruction("change_case:capital_word_frequency", words)
    assert verifiable.follows(capital, "I said NO") and not verifiable.follows(capital, "No NO")
    assert languages.language_of(russian)[0] == "ru"


def test_a_frame_is_forgiven_only_loosely():
    json_only = verifiable.instruction("detectable_format:json_format", {})
    framed = 'Sure, here it is:\n{"a": 1}\nAnything else?'
    assert not verifiable.follows(json_only, framed) and verifiable.loosely(json_only, framed)
    assert not verifiable.loosely(json_only, "no JSON at all")
    assert not verifiable.follows(verifiable.instruction("punctuation:no_comma", {}), " \n")


@pytest.mark.parametrize(
    ("kind", "kwargs", "told"),
    [
        ("length_constraints:words", {}, "did you mean"),
        ("length_constraints:number_words", {"num_words": 3, "relation": None}, "'relation'"),
    ],
)
def test_a_row_that_cannot_be_verified_is_told(kind, kwargs, told):
    with pytest.raises(UserError, match=told):
        verifiable.instruction(kind, kwargs)


def row(key: int, **changed) -> dict:
    """As published: every argument of every kind, null where it is another kind's."""
    nothing = dict.fromkeys(["num_words", "relation", "keywords", "end_phrase"])
    kinds = ["punctuation:no_comma", "length_constraints:number_words"]
    kwargs = [nothing, {**nothing, "num_words": 3, "relation": "at least"}]
    return {"key": key, "prompt": f"Write about river {key}.", "instruction_id_list": kinds, "kwargs": kwargs, **changed}  # fmt: skip


def test_the_published_layout_is_read_checked_and_scored(tmp_path):
    (tmp_path / "ifeval").mkdir()
    file = tmp_path / "ifeval" / "input_data.jsonl"
    file.write_text("".join(json.dumps(row(i)) + "\n" for i in range(6)))
    spec = registry.task("ifeval", str(tmp_path))
    assert check.read_all(spec, str(tmp_path)) == (6, [])
    assert check.audit_metrics(spec, str(tmp_path)) == {}
    values = ifeval.fields(row(1))
    assert json.loads(values["answer"])[1]["kwargs"] == {"num_words": 3, "relation": "at least"}
    targets = [values["answer"]] * 3
    said = ["one two three", "one, two, three", "one"]
    assert ifeval.prompts_strict(targets, said) == {"prompts_strict": pytest.approx(1 / 3)}
    assert ifeval.share_strict(targets, said) == {
        "share_strict": pytest.approx((1 + 0.5 + 0.5) / 3)
    }
    assert ifeval.prompts_loose(targets, said) == {"prompts_loose": pytest.approx(1 / 3)}
    bad = row(7, instruction_id_list=["punctuation:no_commas"], kwargs=[{}])
    file.write_text(json.dumps(bad) + "\n")
    assert "did you mean" in check.read_all(spec, str(tmp_path))[1][0]


def test_nothing_but_the_setting_limits_a_verified_answer():
    from itx.config import EvalConfig, RunConfig

    config = RunConfig(eval=EvalConfig(max_new_tokens=700))
    short = {"max_target_tokens": 10}
    assert evaluate.limit(short, config)["limit"] < 100
    assert evaluate.limit({**short, "verified": True}, config)["limit"] == 700
