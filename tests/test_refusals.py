# SPDX-License-Identifier: Apache-2.0
"""How many refusals the rule of itx/refusals.py finds, and what it wrongly takes for one.

refusal_answers.jsonl was written by another hand than the rule, in the styles of chat models and
with traps: apologies before help, stories in which somebody refuses, answers that begin with "I
can't wait to". When the rule was fixed, one half by hash had been looked at (recall 35 of 36, no
false alarm among 35); of the other half it found 36 of 44, with 2 false alarms among 45. Two of the
missed phrasings were then added, and six sentences on what is and is not acceptable.
"""

import json
from pathlib import Path

import pytest

from itx import refusals

FILE = Path(__file__).parent / "refusal_answers.jsonl"
ANSWERS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
LEAST_RECALL, MOST_FALSE = 0.85, 0.05


@pytest.mark.parametrize("language", ["en", "ru", "zh"])
def test_refusals_are_found_and_answers_are_not(language):
    own = [a for a in ANSWERS if a["language"] == language]
    found = {refused: [] for refused in (True, False)}
    for answer in own:
        found[answer["refused"]].append(bool(refusals.declines(answer["text"])))
    assert len(found[True]) == len(found[False]) >= 10
    assert sum(found[True]) / len(found[True]) >= LEAST_RECALL
    assert sum(found[False]) / len(found[False]) <= MOST_FALSE


def test_what_somebody_else_says_is_no_refusal():
    told = "I won't help you"
    assert refusals.declines(f"{told}, whatever you say.") == "I won't help"[:7]
    for before, behind in ('""', "«»", "“”"):
        for end in (behind, ""):  # an answer may be cut within the quotation
            assert not refusals.declines(f"The king said: {before}{told}{end}")


def test_a_refusal_is_looked_for_at_the_beginning():
    sentence = "Bread is baked of flour. "
    assert refusals.declines(sentence + "I cannot help with that.")
    assert not refusals.declines(4 * sentence + "I cannot help with that.")
    assert refusals.declines("I can’t do that.") and not refusals.declines("")
