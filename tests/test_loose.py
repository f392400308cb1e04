# SPDX-License-Identifier: Apache-2.0
"""The loose form: one for all ways to type a text, in every script, and another for another
text."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from itx.leaks.loose import _FOLD, loose, size


def letters(text: str) -> str:
    return loose(text).replace(" ", "").replace("\n", "")


@pytest.mark.parametrize(
    "one, other",
    [
        ("Don’t “stop” — now!", "dont\tSTOP now"), ("Сat and hоuse", "cat and house"), ("ПРИВЕТ, мир", "привет мир"),
        ("Ёлка", "елка"), ("re\u0301sume\u0301", "résumé"), ("resume", "résumé"), ("ｗｉｄｅ", "wide"), ("ﬁne", "fine"),
        ("in\u200bvis\u00adible\ufeff", "invisible"), ("line-\nbreak", "line break"), ("**bold** and _thin_", "bold and thin"),
        ("&lt;b&gt; &quot;x&quot;&nbsp;y", "b x y"), ("what%20is%20%D0%B4", "what is д"), ("\\u0434\\nа", "д а"),
        ("1,000 men", "1000 men"), ("3−5", "3 - 5"), ("1990–1995", "1990-1995"), ("٣ كتب", "3 كتب"), ("مَرْحَبًا", "مرحبا"),
        ("ﾊﾟﾝ", "パン"), ("東京は、どこ？", "東京 は どこ"), ("⼤⼈", "大人"), ("a̶b̶", "ab"), ("\u202eabc", "abc"),
    ],
)  # fmt: skip
def test_the_same_text_however_it_is_typed(one, other):
    assert one != other and letters(one) == letters(other)


@pytest.mark.parametrize(
    "one, other",
    [
        ("22 10", "2 210"), ("3 - 5", "3 + 5"), ("1.5", "15"), ("-5", "5"), ("किताब", "कीताब"), ("กิน", "กิ่น"), ("ば", "は"),
        ("cat", "cats"), ("東京", "京都"), ("2 * 3", "2 / 3"),
    ],
)  # fmt: skip
def test_another_text_has_another_form(one, other):
    assert letters(one) != letters(other)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_has_a_form_of_letters_and_single_gaps(text):
    form = loose(text)
    assert form == form.strip() and "  " not in form and "\n\n" not in form and " \n" not in form
    words, count, _ = size(form)
    assert (words > 0) == (count > 0) == bool(form) and words <= count
    assert not any(unicodedata.category(c)[0] in "PZ" for c in form if c not in " \n")


@example("0/(")
@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_the_short_way_for_ascii_is_the_long_way(text):
    folded = text.translate(_FOLD)
    assert letters(folded) == letters(text) or "&" in text or "%" in text or "\\" in text
