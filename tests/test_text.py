# SPDX-License-Identifier: Apache-2.0
"""Text in several scripts: normal forms, words, numbers, runs by which a leak is known."""

import doctest
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itx import hashing, text


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(text).attempted >= 4 and doctest.testmod(text).failed == 0


@pytest.mark.parametrize(
    "a, b",
    [
        ("Straße", "STRASSE"),
        ("e\u0301", "é"),
        ("ﬁn", "fin"),
        ("a\u00a0\n b", "A B"),
        ("−5", "-5"),
        ("Ёлка", "ёЛКА"),
    ],
)
def test_texts_that_differ_only_in_form_are_the_same(a, b):
    assert a != b and text.normalise(a) == text.normalise(b)


def test_answers_lose_outer_punctuation_and_inputs_keep_it():
    assert text.normalise("«Да!»", answer=True) == "да" and text.normalise("«Да!»") == "«да!»"
    assert text.normalise("(A)", answer=True) == text.normalise("A", answer=True)
    for kept in ("-5", "50%", "] )", "...", "(a) b (c)", "c#", "don't"):
        assert text.normalise(kept, answer=True) == kept
    assert text.normalise("5", answer=True) != text.normalise("-5", answer=True)


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(s):
    for answer in (False, True):
        once = text.normalise(s, answer)
        assert text.normalise(once, answer) == once


@given(st.text(max_size=30))
def test_words_hold_no_punctuation_symbols_or_space(s):
    for w in text.words(s):
        assert w == w.strip() and w
        assert not any(unicodedata.category(c)[0] in "PSZ" for c in w)


def test_words_of_several_scripts():
    assert text.words("Столица Франции - Париж.") == ["столица", "франции", "париж"]
    assert text.words("北京是首都 OK") == ["北", "京", "是", "首", "都", "ok"]
    assert text.words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # marks stay with their letters
    assert text.words("한국어 문장") == ["한국어", "문장"]  # Korean has spaces
    assert text.words("ｶﾞ") == ["ガ"]  # half-width kana


def test_marks_stand_in_the_parts_of_unicode_that_are_searched():
    marks = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M"]
    assert len(marks) > 2000 and all(any(c in planes for planes in text.MARKS) for c in marks)


@pytest.mark.parametrize(
    "given_, wanted",
    [
        ("60 км/ч", [60]), ("60км/ч", [60]), ("共60元", [60]), ("−7", [-7]), ("10-5", [10, 5]), ("-$5.", [-5]),
        ("3,5", [3.5]), ("0,125", [0.125]), ("1,234", [1234]), ("1.234,5", [1234.5]), ("1,234.5", [1234.5]),
        ("1 234", [1234]), ("1\u00a0234\u202f567,8", [1234567.8]), ("1.234.567", [1234567]),
        ("10 20 300", [10, 20, 300]),
        ("1,2,3", [1, 2, 3]), ("3/4 cup", [0.75]), ("v2 CO2 5 м²", [5]), ("50 %", [50]), ("2e3", [2000]), (".5", [0.5]),
        ("12:30", [12, 30]), ("no", []),
        ("–5", [-5]), ("‐5", [-5]), ("minus 5", [-5]), ("минус 5", [-5]), ("负5", [-5]), ("3–5", [3, 5]),
        ("1 1/2", [1.5]), ("½", [0.5]), ("2½ cups", [2.5]), ("10 20/4", [10, 5]), ("٣٫٥", [3.5]), ("१२", [12]),
        ("１２．５", [12.5]), ("1’234", [1234]), ("1'234", [1234]), ("1_000", [1000]), ("10²", [10]),
        ("12345678901234567891", [12345678901234567891]),
    ],
)  # fmt: skip
def test_numbers(given_, wanted):
    assert text.numbers(given_) == wanted


@given(st.integers(-(10**9), 10**9))
def test_every_way_to_write_a_whole_number_is_read_back(n):
    spaced, minus = f"{n:,}".replace(",", "\u202f"), f"{n}".replace("-", "\u2212")
    for written in (f"{n}", f"{n:,}", spaced, minus, f"ответ: {n} км."):
        assert text.numbers(written) == [n], written


def test_contains_asks_for_whole_words():
    assert text.contains("Столица Франции - Париж.", "Париж")
    assert not text.contains("Парижский", "Париж") and not text.contains("Berlin", "in")
    assert text.contains("the big cat sat", "BIG cat") and not text.contains(
        "big the cat", "big cat"
    )
    assert text.contains("首都是北京。", "北京")


@pytest.mark.parametrize(
    "answer, part",
    [
        ("1.5", "5"),
        ("-5", "5"),
        ("3/4", "4"),
        ("1,250", "250"),
        ("written in C", "C++"),
        ("in C++", "C"),
        ("C#", "C"),
    ],
)
def test_contains_asks_for_whole_tokens(answer, part):
    assert text.contains(f"It is {answer}.", answer) and text.contains(f"It is {part}.", part)
    assert not text.contains(f"It is {answer}.", part)


def test_a_draw_from_a_normalised_text_is_stable():
    def content_key(written):
        return hashing.draw(text.normalise(written))

    assert content_key("Ein  Fall") == content_key("ein fall") != content_key("ein fall.")
    assert content_key("a") == 0x40F89E395B66422F
