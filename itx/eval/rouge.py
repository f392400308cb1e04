# SPDX-License-Identifier: Apache-2.0
"""ROUGE (Lin, 2004): the overlap of an answer's words with a reference's, as F1 between 0 and 1.

rouge_1, rouge_2   runs of one or two words
rouge_l            the longest common subsequence of words
rouge_lsum         the same over the lines of a summary: of each reference line the words that some
                   line of the answer holds

Words are those of itx/text.py, so that every language has some. On ASCII text they are
rouge_score's, and so are the scores.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence

from itx import text
from itx.errors import UserError, check_known

MAX_UNSTEMMED = 3  # characters of words that are not stemmed, as in rouge_score
ENGLISH = "english"  # stemmed by Porter's rules, as in rouge_score; others by their Snowball rules


def n_grams(n: int, reference: str, prediction: str, stem: str = "") -> float:
    """F1 of the runs of n words."""
    a, b = (Counter(text.ngrams(words(x, stem), n)) for x in (reference, prediction))
    return _f1((a & b).total(), a.total(), b.total())


def longest(reference: str, prediction: str, stem: str = "") -> float:
    """F1 of the longest common subsequence of words."""
    a, b = words(reference, stem), words(prediction, stem)
    return _f1(lcs_length(a, b), len(a), len(b))


def longest_by_line(reference: str, prediction: str, stem: str = "") -> float:
    """F1 of the union of longest common subsequences: each reference line with every line of the
    answer."""
    a, b = ([words(line, stem) for line in x.split("\n")] for x in (reference, prediction))
    in_a, in_b = (Counter(w for line in lines for w in line) for lines in (a, b))
    common: Counter = Counter()
    for line in a:
        common.update(line[i] for i in set().union(*(_common_places(line, other) for other in b)))
    # a word counts at most as often as it stands on either side
    return _f1((common & in_a & in_b).total(), in_a.total(), in_b.total())


def _f1(common: int, a: int, b: int) -> float:
    return 2.0 * common / (a + b) if common else 0.0


def words(answer: str, stem: str = "") -> list[str]:
    """The words of a text, cut to their stems by the rules of a language where one is named."""
    whole = text.words(answer)
    if not stem:
        return whole
    stemmed = _stemmer(stem)
    return [stemmed(w) if len(w) > MAX_UNSTEMMED else w for w in whole]


@functools.cache
def _stemmer(language: str) -> Callable[[str], str]:
    try:
        from nltk.stem.porter import PorterStemmer
        from nltk.stem.snowball import SnowballStemmer
    except ImportError as e:
        raise UserError(
            f"stem={language!r} needs nltk, which is not installed: pip install 'itx[stem]'"
        ) from e
    languages = [x for x in SnowballStemmer.languages if x != "porter"]
    check_known(language, languages, f"stem={language!r} is no language with rules for stems")
    return functools.cache(
        PorterStemmer().stem if language == ENGLISH else SnowballStemmer(language).stem
    )


# ---- longest common subsequence


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence of a and b."""
    return len(a) - _rows(a, b)[-1].bit_count()


def _rows(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """The table of lengths, a row for each beginning of b as the bits of one integer (Hyyrö,
    "Bit-parallel LCS-length computation revisited", 2004): a and b[:j] up to a[:i] have i minus the
    ones among row j's i low bits."""
    places: dict[str, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(a)) - 1
    rows = [full]
    for item in b:
        hit = rows[-1] & places.get(item, 0)
        rows.append(((rows[-1] + hit) | (rows[-1] - hit)) & full)
    return rows


def _common_places(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """Where in `a` one longest common subsequence stands. Of several it is the one that rouge_score
    takes: read from the ends, the last word of `a` is given up first."""
    table = _rows(a, b)

    def length(i: int, j: int) -> int:
        return i - (table[j] & ((1 << i) - 1)).bit_count()

    i, j, common = len(a), len(b), []
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            common.append(i)
        elif length(i, j - 1) > length(i - 1, j):
            j -= 1
        else:
            i -= 1
    return common
