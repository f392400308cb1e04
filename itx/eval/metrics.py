# SPDX-License-Identifier: Apache-2.0
"""Scores of answers. To add a metric: one function (references, prediction) -> 0..1, and its line
in the table below.

Each has two forms. Per example: `SCORES[name](references, prediction)`, the best over the
references. Over a set, with SeqIO's signature: `METRICS[name](targets, predictions) -> {name:
value}`, where a target is a text or a list of references. The value is the mean over examples, but
for metrics of SET_METRICS (BLEU, chrF), which count over the whole set (itx/eval/translation.py).

Options are keywords of both forms; a task fixes them with `functools.partial(metrics.rouge_l,
stem="english")`.
"""

import functools
import importlib
import inspect
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from itx import shipped, text
from itx.errors import UserError, did_you_mean
from itx.eval import rouge, translation
from itx.eval.translation import SetMetric

Score = Callable[..., float]  # (references, prediction, options) -> 0..1
Target = str | Sequence[str]


# ---- per example


def _equal(references: list[str], prediction: str) -> float:
    """Equal after the one normaliser: case, white space and outer punctuation do not count."""
    answer = text.normalise(prediction, answer=True)
    return float(any(answer == text.normalise(r, answer=True) for r in references))


def _equal_string(references: list[str], prediction: str) -> float:
    """For answers whose case or punctuation is the point, e.g. "write it in capitals"."""
    return float(any(text.exact(prediction) == text.exact(r) for r in references))


def _contains(references: list[str], prediction: str) -> float:
    """The words of a reference stand in the answer: `Столица Франции - Париж.` has `Париж`."""
    return float(any(text.contains(prediction, r) for r in references))


def _numeric(references: list[str], prediction: str) -> float:
    """The last number of the answer equals the last of a reference; units are passed over."""
    answered = text.numbers(prediction)
    expected = [n[-1] for r in references if (n := text.numbers(r))]
    return float(bool(answered) and any(_same_number(answered[-1], number) for number in expected))


# forgives the rounding of decimal fractions and nothing that a person would write
MAX_RELATIVE_ERROR = 1e-6


def _same_number(answered: int | float, expected: int | float) -> bool:
    """A whole number must be met exactly, any other to a relative MAX_RELATIVE_ERROR."""
    if isinstance(expected, int) or expected.is_integer() or not math.isfinite(expected):
        return answered == expected
    return abs(answered - expected) <= MAX_RELATIVE_ERROR * abs(expected)


def _best(score: Callable[..., float]) -> Score:
    """The best over the references of a score of (reference, prediction)."""

    def best(references: list[str], prediction: str, **options: Any) -> float:
        return max((score(r, prediction, **options) for r in references), default=0.0)

    return best


def _token_f1(reference: str, prediction: str) -> float:
    """F1 of the bags of words."""
    return _bag_f1(text.words(reference), text.words(prediction))


def _squad_f1(reference: str, prediction: str) -> float:
    """F1 without English articles, as SQuAD scores; elsewhere that would erase option `A`."""
    return _bag_f1(_no_articles(reference), _no_articles(prediction))


def _no_articles(answer: str) -> list[str]:
    return [w for w in text.words(answer) if w not in ("a", "an", "the")]


def _bag_f1(a: list[str], b: list[str]) -> float:
    common = sum((Counter(a) & Counter(b)).values())
    return 2.0 * common / (len(a) + len(b)) if common else float(not a and not b)


# ---- the table, and the form over a set, as SeqIO's metric functions are

SCORES: dict[str, Score] = {}
METRICS: dict[str, Callable[..., dict[str, float]]] = {}
# name -> (references of all examples, options) -> what counts over the set
SET_METRICS: dict[str, Callable[..., SetMetric]] = {}
OPTIONS: dict[str, tuple[str, ...]] = {}  # keywords


def _metric(
    name: str,
    score: Score,
    options: tuple[str, ...] = (),
    of_set: Callable[..., SetMetric] | None = None,
) -> Callable[..., dict[str, float]]:
    """Enter a metric under its name; returns its form over a set."""

    def metric(
        targets: Sequence[Target], predictions: Sequence[str], **chosen: Any
    ) -> dict[str, float]:
        pairs = zip(targets, predictions, strict=True)
        references = [[t] if isinstance(t, str) else list(t) for t, _ in pairs]
        if of_set:
            return {name: of_set(references, **chosen).of_set(references, predictions)}
        return {name: _mean(functools.partial(score, **chosen), references, predictions)}

    metric.__name__ = metric.__qualname__ = name
    SCORES[name], METRICS[name], OPTIONS[name] = score, metric, options
    if of_set:
        SET_METRICS[name] = of_set
    return metric


def _mean(score: Score, references: Iterable[Sequence[str]], predictions: Sequence[str]) -> float:
    scores = [score(list(r), p) for r, p in zip(references, predictions, strict=True)]
    return sum(scores) / max(1, len(scores))


exact_match = _metric("exact_match", _equal)
accuracy = _metric("accuracy", _equal)  # the same test, named for tasks with labels
exact_string = _metric("exact_string", _equal_string)
contains = _metric("contains", _contains)
numeric = _metric("numeric", _numeric)
rouge_1 = _metric("rouge_1", _best(functools.partial(rouge.n_grams, 1)), ("stem",))
rouge_2 = _metric("rouge_2", _best(functools.partial(rouge.n_grams, 2)), ("stem",))
rouge_l = _metric("rouge_l", _best(rouge.longest), ("stem",))
rouge_lsum = _metric("rouge_lsum", _best(rouge.longest_by_line), ("stem",))
token_f1 = _metric("token_f1", _best(_token_f1))
squad_f1 = _metric("squad_f1", _best(_squad_f1))
bleu = _metric("bleu", translation.bleu_of_one, ("tokenize",), translation.bleu)
chrf = _metric("chrf", translation.chrf_of_one, ("word_order",), translation.chrf)


# ---- names of metrics


def name_of(metric: str | Callable) -> str:
    """A metric as locks and keys hold it: a name, or `module:function`, behind it what
    functools.partial fixes of its arguments as JSON; `resolve` is the way back."""
    if isinstance(metric, str):
        return metric
    fixed = ""
    if isinstance(metric, functools.partial):
        try:
            fixed = " " + json.dumps(
                [metric.args, metric.keywords], ensure_ascii=False, sort_keys=True
            )
        except TypeError as e:
            raise UserError(f"{metric}: its arguments are not plain values: {e}") from e
        metric = metric.func
    name = f"{metric.__module__}:{getattr(metric, '__qualname__', '<object>')}"
    if "<" in name:
        raise UserError(
            f"{name} is a lambda, an object or defined within a function; "
            "name a module-level function"
        )
    return name + fixed


_TRUSTED_PACKAGES = {"tasks"}


def trust(modules: Iterable[str]) -> None:
    """Let `resolve` import functions of these modules' packages. Callers pass what the user named
    in a recipe (data.modules) or on the command line (--modules), or what a task of theirs gives as
    a metric (`module:function`); never what a lock or a run folder names: that is data."""
    named = (m.partition(":")[0].partition(".")[0].strip() for m in modules)
    _TRUSTED_PACKAGES.update(package for package in named if package)


def resolve(name: str) -> Callable[..., dict[str, float]]:
    """The function behind a name of METRICS, or behind `module:function` of a package that the user
    trusts.

    UserError where the package was not named by the user (nothing is imported then), or where the
    name is not that of a function which this module itself defines.
    """
    path, _, fixed = name.partition(" ")
    module, colon, function = path.partition(":")
    own = path if not colon else function if module == __name__ else ""
    if own in METRICS:
        options = _options(name, fixed)
        return functools.partial(METRICS[own], **options) if options else METRICS[own]
    if not colon:
        raise UserError(f"unknown metric {name!r}" + did_you_mean(name, METRICS))
    if module.partition(".")[0] not in _TRUSTED_PACKAGES:
        raise UserError(
            f"metric {path!r} is code of a module that you did not name, and was not imported; "
            f"where you trust it: `itx eval RUN --modules={module}`, or --data.modules of a recipe"
        )
    shipped.put_tasks_on_path()
    try:
        metric = operator.attrgetter(function)(importlib.import_module(module))
        args, keywords = json.loads(fixed) if fixed else ((), {})
    except (ImportError, AttributeError, ValueError, TypeError) as e:
        raise UserError(f"{path!r}: {e}") from e
    if not inspect.isfunction(metric) or metric.__module__ != module:
        raise UserError(f"metric {path!r} is not a function that {module} defines")
    return functools.partial(metric, *args, **keywords) if fixed else metric


def of_row(row: dict) -> str:
    """The metric that judges an answer without a model on an evaluation row. A row that is ranked
    is judged by exact match, and so is one of a task registered straight in SeqIO, whose metrics
    have no form per example."""
    exact = row["primary"] == "rank" or row.get("seqio")
    return "exact_match" if exact else row["metrics"][0]


def _options(name: str, fixed: str) -> dict[str, Any]:
    """What a name fixes of the keywords of a metric of METRICS."""
    if not fixed:
        return {}
    own = name.partition(" ")[0].rpartition(":")[2]
    known = OPTIONS[own]
    try:
        args, keywords = json.loads(fixed)
        unknown = [*args, *(k for k in keywords if k not in known)]
    except (ValueError, TypeError) as e:
        raise UserError(f"metric {name!r}: {fixed!r} is not [[arguments], {{keywords}}]") from e
    if unknown:
        raise UserError(
            f"metric {own!r} has no option {unknown[0]!r}" + did_you_mean(str(unknown[0]), known)
        )
    return keywords


def _own(name: str) -> tuple[str, dict[str, Any]] | None:
    """(name in METRICS, options) of a metric of this module; None for another's function."""
    function = resolve(name)
    options = function.keywords if isinstance(function, functools.partial) else {}
    function = getattr(function, "func", function)
    return next(((n, options) for n, f in METRICS.items() if f is function), None)


def per_example(name: str) -> Score:
    """The per-example form of a metric. A `module:function` is called on one example at a time and
    its first value taken; with several references it gets the list."""
    if name in SCORES:
        return SCORES[name]
    if own := _own(name):
        return functools.partial(SCORES[own[0]], **own[1]) if own[1] else SCORES[own[0]]
    function = resolve(name)

    def score(references: list[str], prediction: str) -> float:
        target = references[0] if len(references) == 1 else references
        value = next(iter(function([target], [prediction]).values()))
        return float(getattr(value, "value", value))

    return score


def set_metric(name: str, references: Sequence[Sequence[str]]) -> SetMetric | None:
    """What counts over a set with these references; None for a metric whose set score is the mean
    over examples."""
    own = _own(name)
    return SET_METRICS[own[0]](references, **own[1]) if own and own[0] in SET_METRICS else None


def of_answers(name: str, references: Sequence[Sequence[str]], predictions: Sequence[str]) -> float:
    """What a set of answers scores under a metric."""
    if counted := set_metric(name, references):
        return counted.of_set(references, predictions)
    return _mean(per_example(name), references, predictions)


def shown(name: str) -> str:
    """A metric's name for people: `bleu, tokenize=zh`."""
    path, _, fixed = name.partition(" ")
    path = path.removeprefix(f"{__name__}:")
    try:
        args, keywords = json.loads(fixed) if fixed else ((), {})
    except (ValueError, TypeError):
        return name
    return ", ".join([path, *map(str, args), *(f"{k}={v}" for k, v in keywords.items())])


def extract(extractor: str | None, prediction: str) -> str | None:
    """The answer in a generated text: the last match of the pattern, None where it never matches.

    >>> extract(r"The answer is\\s+(.+?)\\.", "The answer is 3. No: The answer is 4.")
    '4'
    """
    if extractor is None:
        return prediction.strip()
    answers = [m[1] if m.re.groups else m[0] for m in re.finditer(extractor, prediction)]
    return answers[-1].strip() if answers else None
