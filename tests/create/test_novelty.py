# SPDX-License-Identifier: Apache-2.0
"""The pool decides as the quadratic rule does: every candidate compared with every entry, by a
longest common subsequence that rapidfuzz computes."""

import gzip
import itertools
import json
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from itx.create import novelty
from itx.create.novelty import Nearest, Pool
from itx.errors import UserError
from itx.eval import rouge
from tests import leak_kinds


def quadratic(texts: list[str], threshold: str = "0.7") -> list[Nearest | None]:
    """For each text the entry that it is too like, or None if it joins the pool."""
    ids: dict[str, int] = {}
    every = [
        "".join(chr(ids.setdefault(w, len(ids) + 1)) for w in rouge.words(text)) for text in texts
    ]
    pool: list[str] = []
    out: list[Nearest | None] = []
    for text in every:
        common = process.cdist([text], pool, scorer=LCSseq.similarity, dtype=np.int32)[0]
        sums = np.array([len(text) + len(entry) for entry in pool])
        bound = Fraction(threshold)
        best = None
        for i in np.flatnonzero(common):
            if 2 * int(common[i]) * bound.denominator < bound.numerator * int(sums[i]):
                continue
            likeness = Fraction(2 * int(common[i]), int(sums[i]))
            if best is None or likeness > best[1]:
                best = int(i), likeness
        out.append(Nearest(best[0], float(best[1])) if best else None)
        if best is None:
            pool.append(text)
    return out


def decided(texts: list[str], threshold: str = "0.7") -> list[Nearest | None]:
    pool = Pool(float(threshold))
    return [pool.admit(text) for text in texts]


def near_copies(sentences: list[list[str]], count: int, seed: int, space: str = " ") -> list[str]:
    """Sentences with words left out, doubled, changed and moved: about as many above the threshold
    as below."""
    draw = random.Random(seed)
    every = [w for s in sentences for w in s]
    out = []
    for _ in range(count):
        words = list(draw.choice(sentences))
        for _ in range(draw.randrange(1 + len(words) // 2)):
            i = draw.randrange(len(words))
            edit = draw.randrange(4)
            if edit == 0 and len(words) > 1:
                del words[i]
            elif edit == 1:
                words.insert(i, words[i])
            elif edit == 2:
                words[i] = draw.choice(every)
            else:
                words.insert(draw.randrange(len(words)), words.pop(i))
        out.append(space.join(words))
    return out


@given(
    st.lists(st.lists(st.sampled_from("a b c the the of x"), max_size=13), max_size=14),
    st.sampled_from(["0.1", "0.5", "0.7", "0.75", "0.999999", "1.0"]),
    st.integers(1, 9),
)
@settings(max_examples=300, deadline=None)
def test_decisions_and_nearest_are_those_of_the_quadratic_rule(word_lists, threshold, reorder):
    texts = [" ".join(words) for words in word_lists]
    pool = Pool(float(threshold))
    pool._reorder_at = reorder
    assert [pool.admit(text) for text in texts] == quadratic(texts, threshold)


@given(st.lists(st.text(max_size=30), max_size=8))
@settings(max_examples=100, deadline=None)
def test_of_any_unicode_text(texts):
    assert decided(texts) == quadratic(texts)


def adversarial() -> list[str]:
    """Texts at the bounds' edges: the same words in another order, words many times, likeness of
    exactly 0.7, the shortest and longest partners there can be."""
    order = "one two three four five six seven eight nine ten".split()
    out = [" ".join(p) for p in itertools.islice(itertools.permutations(order[:6]), 0, 720, 7)]
    out += [" ".join(["the"] * n) for n in range(1, 24)]
    for n, m in itertools.product(range(1, 21), repeat=2):  # LCS = min(n, m)
        out.append(" ".join(f"w{n}x{i}" for i in range(m)))
    for same in range(11):  # of ten words; seven are a tie
        out.append(" ".join([*order[:same], *(f"other{same}x{i}" for i in range(10 - same))]))
        out.append(" ".join([*(f"before{same}x{i}" for i in range(10 - same)), *order[-same:]]))
    out += ["alone here", "Alone, HERE!"]
    random.Random(0).shuffle(out)
    return out


def test_adversarial_texts_and_a_prefix_that_is_one_too_short(monkeypatch):
    texts = adversarial()
    expected = quadratic(texts)
    assert decided(texts) == expected
    assert {n.likeness for n in expected if n} >= {0.7, 1.0}
    right = Pool._beginning
    monkeypatch.setattr(Pool, "_beginning", lambda self, n: max(0, right(self, n) - 1))
    assert decided(texts) != expected


def test_a_tie_is_too_like():
    ten = "a b c d e f g h i j"
    pool = Pool(texts=[ten])
    assert pool.nearest("a b c d e f g x y z") == Nearest(0, 0.7)
    assert pool.nearest("a b c d e f w x y z") is None
    assert len(pool) == 1


def test_of_equals_the_first_is_named():
    pool = Pool(texts=["a b c d x", "q r s", "a b c d y", "a b c d"])
    assert pool.nearest("a b c d z") == Nearest(3, 8 / 9)
    pool = Pool(texts=["a b c d x", "q r s", "a b c d y"])
    assert pool.nearest("a b c d z") == Nearest(0, 0.8)


def test_texts_without_words_are_like_nothing():
    pool = Pool()
    assert [pool.admit(t) for t in ("", "?!", "...", "a")] == [None] * 4
    assert pool.admit("A!") == Nearest(3, 1.0)


def test_english_russian_and_chinese():
    for language, space in (("en", " "), ("ru", " "), ("zh", "")):
        whole = leak_kinds.inputs(language, "short", 60) + leak_kinds.inputs(language, "long", 20)
        sentences = [rouge.words(t) for t in whole]
        texts = near_copies(sentences, 500, seed=5, space=space)
        expected = quadratic(texts)
        rejected = sum(n is not None for n in expected)
        assert 100 < rejected < 450, language
        assert decided(texts) == expected


def stock_tokens(text: str) -> list[str]:
    """rouge_score 0.1.2, tokenize.py, without its stemmer."""
    return [x for x in re.split(r"\s+", re.sub(r"[^a-z0-9]+", " ", text.lower())) if x]


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_words_of_ascii_are_those_of_rouge_score(text):
    assert rouge.words(text) == stock_tokens(text)


def test_the_stock_tokens_are_none_in_russian_and_chinese():
    assert stock_tokens("Переведи: 水") == []
    assert rouge.words("Переведи: 水") == ["переведи", "水"]


@pytest.mark.parametrize("threshold", [0, -1, 1.5, 0.12345678])
def test_a_threshold_that_is_none(threshold):
    with pytest.raises(UserError, match="at most 1, with at most six decimals"):
        Pool(threshold)


def real_instructions(folder: Path, count: int) -> list[str]:
    with gzip.open(folder / "alpaca/alpaca_sample.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["instruction"] for line in itertools.islice(lines, count)]


def test_real_instructions_with_near_copies(shared):
    real = real_instructions(shared, 700)
    copies = near_copies([t.split() for t in real if t.split()], 500, seed=1)
    texts = [*real, *copies]
    expected = quadratic(texts)
    assert 150 < sum(n is not None for n in expected) < 600
    assert decided(texts) == expected


@pytest.mark.slow
def test_5000_real_instructions(shared):
    """Of Alpaca, which was made with this rule and has few; of Dolly; and of a set with many alike."""
    texts = real_instructions(shared, 2752)
    for file in ("dolly/dolly_3k_sample.jsonl", "instruction_1100/instruction-data.jsonl"):
        lines = (shared / file).read_text(encoding="utf-8").splitlines()[:1149]
        texts += [json.loads(line)["instruction"] for line in lines]
    expected = quadratic(texts)
    assert len(texts) == 5000 and sum(n is not None for n in expected) > 700
    assert decided(texts) == expected


def test_the_index_looks_at_few(shared):
    """Of 700 entries a candidate's words stand in most; the index leaves a small part to be
    counted, else the rule would be quadratic again."""
    pool = Pool(texts=real_instructions(shared, 700))
    looked = []
    counted = pool._overlaps
    pool._overlaps = lambda known, entries: looked.append(len(entries)) or counted(known, entries)
    for text in real_instructions(shared, 900)[700:]:
        pool.nearest(text)
    assert len(looked) > 150 and np.mean(looked) < 0.15 * len(pool)
    assert novelty.MAX_LIKENESS == 0.7
