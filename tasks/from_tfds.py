# SPDX-License-Identifier: Apache-2.0
"""What the tasks over TFDS data sets share: `fields` for common shapes of rows, wordings, names of
origins.

One file per cluster of FLAN (Wei et al. 2022, arXiv:2109.01652) registers them; FLAN_CLUSTERS lists
the files. Where a set's test part has no labels, its validation part is our test and validation is
cut from train. Wordings are our own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from itx.tasks.spec import Skip, Template

FLAN_CLUSTERS = ("nli", "commonsense", "sentiment", "paraphrase", "closed_book_qa", "reading_comprehension",
                 "struct_to_text", "coreference", "translation", "summarisation", "reading_commonsense",
                 "miscellaneous")  # fmt: skip
# FLAN's rule: these leave training together
NEIGHBOURS = {
    "nli": ("paraphrase",),
    "paraphrase": ("nli",),
    "commonsense": ("reading_comprehension", "reading_commonsense"),
    "reading_comprehension": ("commonsense", "reading_commonsense"),
    "reading_commonsense": ("commonsense", "reading_comprehension"),
}
# A name that a collection uses -> what the data were made from, as `origin` names it everywhere
ALIASES = {
    "rotten_tomatoes": ("sst",),  # SST's sentences are from the same reviews
    "sst2": ("sst",),
    "qnli": ("qnli", "squad"),  # SQuAD's questions, with sentences of its paragraphs
    "wnli": ("wnli", "wsc"),  # pronouns of Winograd schemas, replaced
    "record": ("record", "cnn_dailymail"),  # questions on those articles
    "dart": ("dart", "e2e", "web_nlg"),  # holds both
    "freebase_qa": ("freebase_qa", "trivia_qa"),  # trivia questions, TriviaQA's among them
    "commonsenseqa": ("commonsense_qa",),
    "cosmos_qa": ("cosmosqa",),
    "eqasc": ("qasc",),
    "scitailv1_1": ("scitail",),
    "paws_x": ("paws",),  # PAWS, translated
    "paws_wiki": ("paws",),
    "story_cloze": ("roc_stories",),
    "mathmatics_dataset": ("math_dataset",),
    "natural_questions_open": ("natural_questions",),
    "yelp_polarity": ("yelp_reviews",),
    "reddit_tifu_dataset": ("reddit_tifu",),
}


def origins(*names: str) -> tuple[str, ...]:
    """The names under which kin are found: `origins("rotten_tomatoes")` is ("sst",)."""
    return tuple(dict.fromkeys(o for n in names for o in ALIASES.get(n, (n,))))


def of_cluster(name: str) -> dict[str, Any]:
    """What every task of a cluster says alike."""
    styles = ("inline", "list", "slashes", "(A)")
    return {
        "version": 1,
        "cluster": name,
        "neighbours": NEIGHBOURS.get(name, ()),
        "option_styles": styles,
    }


def to_answer(*prompts: str) -> list[Template]:
    """Prompts whose target is the answer alone."""
    return [(p, "{answer}") for p in prompts]


def checked(values: Mapping[str, Any]) -> Any:
    """Texts stripped; Skip where one is empty, no reference is left, a label is missing or two
    options are alike."""
    out = {k: v.strip() if isinstance(v, str) else v for k, v in values.items()}
    for key in ("answer", "options"):
        if isinstance(out.get(key), (list, tuple)):
            out[key] = list(map(str.strip, out[key]))
    if isinstance(out["answer"], list):
        out["answer"] = list(dict.fromkeys(a for a in out["answer"] if a))
    empty = [k for k, v in out.items() if v in ("", [])] + ["options"] * (
        "" in out.get("options", ())
    )
    if empty:
        return Skip(f"empty {empty[0]}")
    if isinstance(out["answer"], int) and out["answer"] < 0:
        return Skip("no label")
    if len(set(out.get("options", ()))) < len(out.get("options", ())):
        return Skip("two options are alike")
    return out


def plain(
    answer: str = "label", options: Sequence[str] = (), **slots: str
) -> Callable[[dict], Any]:
    """`fields` that rename features: slot=feature; the answer is a text or a label, the options are
    features too."""

    def fields(example: dict) -> Any:
        values = {slot: example[feature] for slot, feature in slots.items()} | {
            "answer": example[answer]
        }
        return checked(values | ({"options": [example[o] for o in options]} if options else {}))

    return fields
