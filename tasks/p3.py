# SPDX-License-Identifier: Apache-2.0
"""P3, the part that T0 was trained on, under `data.root`: the family `p3.*`, one task per data set.

Files p3_t0_train/data_per_template/<data set>_<template>.jsonl hold rendered prompts and completions. A prompt ends
in one newline and a completion in the literal text <|endoftext|> (the source was made for another system): both go.
Several prompts of one data set ask about the same text, so it is the leak test on runs of words, not the hash of the
prompt alone, that keeps training and evaluation apart.
"""

from pathlib import Path
from typing import Any

from itx.errors import UserError
from itx.tasks.registry import family, make_task
from itx.tasks.spec import Skip, Source, TaskSpec
from tasks.from_tfds import origins

FOLDER = "p3_t0_train/data_per_template"
END = "<|endoftext|>"

# data set -> (cluster, origin), after the task groups of T0 (Sanh et al. 2022, arXiv:2110.08207, table of data sets)
DATA_SETS = {
    "adversarial_qa_dbert": ("reading_comprehension", "adversarial_qa"),
    "adversarial_qa_dbidaf": ("reading_comprehension", "adversarial_qa"),
    "adversarial_qa_droberta": ("reading_comprehension", "adversarial_qa"),
    "ag_news": ("topic_classification", "ag_news"),
    "amazon_polarity": ("sentiment", "amazon_reviews"),
    "cnn_dailymail_3_0_0": ("summarisation", "cnn_dailymail"),
    "common_gen": ("struct_to_text", "common_gen"),
    "commonsense_qa": ("commonsense", "commonsense_qa"),
    "cosmos_qa": ("reading_commonsense", "cosmosqa"),
    "dbpedia_14": ("topic_classification", "dbpedia"),
    "duorc_ParaphraseRC": ("reading_comprehension", "duorc"),
    "duorc_SelfRC": ("reading_comprehension", "duorc"),
    "gigaword": ("summarisation", "gigaword"),
    "glue_mrpc": ("paraphrase", "mrpc"),
    "imdb": ("sentiment", "imdb"),
    "kilt_tasks_hotpotqa": ("closed_book_qa", "hotpotqa"),
    "multi_news": ("summarisation", "multi_news"),
    "paws_labeled_final": ("paraphrase", "paws"),
    "quartz": ("reading_commonsense", "quartz"),
    "quoref": ("reading_comprehension", "quoref"),
    "ropes": ("reading_comprehension", "ropes"),
    "rotten_tomatoes": ("sentiment", "sst"),  # SST's sentences are from the same reviews
    "samsum": ("summarisation", "samsum"),
    "sciq": ("closed_book_qa", "sciq"),
    "trec": ("topic_classification", "trec"),
    "wiki_bio": ("struct_to_text", "wiki_bio"),
    "wiki_hop_original": ("closed_book_qa", "wiki_hop"),
    "wiki_qa": ("closed_book_qa", "wiki_qa"),
    "xsum": ("summarisation", "xsum"),
    "yelp_review_full": ("sentiment", "yelp_reviews"),
}


def prompt_completion_fields(example: dict) -> Any:
    """{prompt, completion} -> {prompt, answer}, the end marker and outer white space taken off."""
    prompt, answer = example["prompt"].strip(), example["completion"].strip().removesuffix(END).strip()
    if not prompt or not answer:
        return Skip(f"empty {'completion' if prompt else 'prompt'}")
    return {"prompt": prompt, "answer": answer}


def p3_members(root: str) -> list[TaskSpec]:
    """One task per data set of which the folder has a file."""
    folder = Path(root) / FOLDER
    if not root or not folder.is_dir():
        raise UserError(f"p3: no folder {FOLDER!r} in data.root={root!r}")
    files: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        own = [d for d in DATA_SETS if path.stem.startswith(d + "_")]
        if not own:
            raise UserError(f"{FOLDER}/{path.name}: no data set of tasks/p3.py has this name; add it there")
        files.setdefault(max(own, key=len), []).append(f"{FOLDER}/{path.name}")
    return [
        make_task(
            f"p3.{name}", version=1, cluster=DATA_SETS[name][0], origin=origins(DATA_SETS[name][1]),
            source=Source("jsonl", {"train": tuple(found)}), fields=prompt_completion_fields,
            templates=[("{prompt}", "{answer}")], metrics=("rouge_l", "exact_match"), module=__name__,
        )
        for name, found in files.items()
    ]  # fmt: skip


family("p3", p3_members)
