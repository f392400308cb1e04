# SPDX-License-Identifier: Apache-2.0
"""BLEU (Papineni et al., 2002) and chrF (Popović, 2015) by sacrebleu, between 0 and 1: metrics of a
whole set of answers.

Both count n-grams in each answer, add the counts up and score the sums, so a set's score is not the
mean of its answers' scores. `SetMetric` keeps the two steps apart: what is resampled for an
interval is the counts (itx/eval/stats.py). An answer alone has a score too (`sentence`), which says
how good that answer is and enters no average.
"""

import copy
import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from itx import text
from itx.errors import UserError, check_known

if TYPE_CHECKING:  # naming a metric, as every task does, takes no NumPy
    import numpy as np

# Ways to cut a text into BLEU's words that need no download; "" chooses one by the script of the
# references.
TOKENIZERS = ("", "13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab")
EXTRA = {"ja-mecab": "ja", "ko-mecab": "ko"}  # the extra of sacrebleu that each needs
DIGITS = 12  # a perfect score is 1 and not 0.9999999999999998
_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_UNSPACED = re.compile(f"[{text.UNSPACED}]")
# Japanese text has more kana than that; a Chinese one holds some in a name at most
LEAST_SHARE_OF_OTHER_SCRIPTS = 0.1


@dataclass(frozen=True)
class SetMetric:
    """Counts that add up over answers, and the score of their sums."""

    metric: Any  # sacrebleu's

    def counts(
        self, references: Sequence[Sequence[str]], predictions: Sequence[str]
    ) -> "np.ndarray":
        """[answers, counts]; an answer may have any number of references."""
        import numpy as np

        # the two steps of sacrebleu's corpus_score, which are methods that each of its metrics
        # defines
        streams = list(itertools.zip_longest(*references))
        return np.array(
            self.metric._extract_corpus_statistics(list(predictions), streams), np.int64
        )

    def score(self, total: "np.ndarray") -> float:
        return _share(self.metric._compute_score_from_stats(total.tolist()).score)

    def of_set(self, references: Sequence[Sequence[str]], predictions: Sequence[str]) -> float:
        return self.score(self.counts(references, predictions).sum(0)) if predictions else 0.0

    def signature(self, references: Sequence[Sequence[str]]) -> str:
        """How sacrebleu names what was computed: the form in which such scores are published."""
        metric, counts = copy.copy(self.metric), set(map(len, references))
        metric.num_refs = counts.pop() if len(counts) == 1 else -1  # -1: their number varies
        return str(metric.get_signature())


def _share(score: float) -> float:
    return round(min(1.0, max(0.0, score / 100.0)), DIGITS)


def bleu(references: Sequence[Sequence[str]], tokenize: str = "") -> SetMetric:
    """BLEU of answers to these references, whose script chooses the tokenizer where none is
    named."""
    return SetMetric(_bleu(tokenize or tokenizer_for(references), False))


def chrf(references: Sequence[Sequence[str]], word_order: int = 0) -> SetMetric:
    """chrF2; with word_order=2 chrF2++. Characters are the same in every script, so nothing is
    chosen."""
    return SetMetric(_chrf(word_order))


def bleu_of_one(references: list[str], prediction: str, tokenize: str = "") -> float:
    """One answer's BLEU, smoothed, over the orders that it is long enough for."""
    metric = _bleu(tokenize or tokenizer_for([references]), True)
    return _share(metric.sentence_score(prediction, references).score)


def chrf_of_one(references: list[str], prediction: str, word_order: int = 0) -> float:
    return _share(_chrf(word_order).sentence_score(prediction, references).score)


@functools.cache
def _bleu(tokenize: str, of_one: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    check_known(tokenize, TOKENIZERS, f"bleu: unknown tokenize={tokenize!r}")
    try:
        return BLEU(tokenize=tokenize, effective_order=of_one)
    except (ImportError, RuntimeError) as e:
        extra = EXTRA.get(tokenize)
        raise UserError(
            f"bleu: tokenize={tokenize!r} needs more: pip install 'sacrebleu[{extra}]'"
        ) from e


@functools.cache
def _chrf(word_order: int) -> Any:
    from sacrebleu.metrics.chrf import CHRF

    if not isinstance(word_order, int) or word_order < 0:
        raise UserError(f"chrf: word_order={word_order!r} must be 0 (chrF) or more (2: chrF++)")
    return CHRF(word_order=word_order)


def tokenizer_for(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's default cuts at spaces and punctuation, and would take a Chinese sentence as one
    word: where most words are of a script without spaces they are cut as its `zh` does, and by
    characters where kana or Thai stand among them.

    >>> [tokenizer_for([[t]]) for t in ("Он пришёл.", "他来了。", "彼は来ました。", "เขามาแล้ว")]
    ['13a', 'zh', 'char', 'char']
    """
    kinds: Counter = Counter()
    for word in (w for several in references for r in several for w in text.words(r)):
        kinds["han" if _HAN.match(word) else "other" if _UNSPACED.match(word) else "spaced"] += 1
    unspaced = kinds["han"] + kinds["other"]
    if 2 * unspaced <= kinds.total():
        return "13a"
    return "zh" if kinds["other"] < LEAST_SHARE_OF_OTHER_SCRIPTS * unspaced else "char"
