# SPDX-License-Identifier: Apache-2.0
"""P3 under `data.root`: the family `p3.*`, one task per data set, from one of two layouts.

Files p3_t0_train/data_per_template/<data set>_<template>.jsonl hold rendered prompts and
completions. A prompt ends in one newline and a completion in the literal text <|endoftext|> (the
source was made for another system): both go. Several prompts of one data set ask about the same
text, so it is the leak test on runs of words, not the hash of the prompt alone, that keeps training
and evaluation apart.

P3's own layout is a folder per template, P3/data/<data set>_<template>/ (or p3/, with or without
data/), of TFRecords <split>.tfrecord-00000-of-00001 with `inputs_pretokenized` and
`targets_pretokenized` beside token ids. Folders *_score_eval hold each option of a question as a
row, right or wrong, for ranking: they are not read, nor are splits of other names than ours, and
what a mixture does not read is named.
"""

import re
from pathlib import Path
from typing import Any

from itx.errors import UserError, did_you_mean
from itx.tasks.registry import family, make_task
from itx.tasks.spec import SPLITS, Skip, Source, TaskSpec
from tasks.from_tfds import origins

FOLDER = "p3_t0_train/data_per_template"
UPSTREAM = ("P3/data", "p3/data", "P3", "p3")
SHARD = re.compile(r"(?P<split>[A-Za-z0-9_.-]+)\.tfrecord-(?P<number>\d{5})-of-(?P<count>\d{5})")
RANKED = "_score_eval"
FEATURES = {"inputs_pretokenized": str, "targets_pretokenized": str}
END = "<|endoftext|>"

# data set -> (cluster, origin), after the task groups of T0 (Sanh et al. 2022, arXiv:2110.08207,
# table of data sets)
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
    # beyond T0's training: of its evaluation, of T0+ and T0++
    "ai2_arc_ARC_Challenge": ("closed_book_qa", "arc"),
    "ai2_arc_ARC_Easy": ("closed_book_qa", "arc"),
    "anli": ("nli", "anli"),
    "app_reviews": ("sentiment", "app_reviews"),
    "cos_e_v1_11": ("commonsense", "commonsense_qa"),  # explanations of its questions
    "dream": ("reading_comprehension", "dream"),
    "glue_qqp": ("paraphrase", "qqp"),
    "hellaswag": ("commonsense", "hellaswag"),
    "openbookqa_main": ("closed_book_qa", "openbookqa"),
    "piqa": ("commonsense", "piqa"),
    "qasc": ("closed_book_qa", "qasc"),
    "quail": ("reading_comprehension", "quail"),
    "quarel": ("reading_commonsense", "quarel"),
    "race_high": ("reading_comprehension", "race"),
    "race_middle": ("reading_comprehension", "race"),
    "social_i_qa": ("commonsense", "social_i_qa"),
    "squad_v2": ("reading_comprehension", "squad"),
    "super_glue_boolq": ("reading_comprehension", "boolq"),
    "super_glue_cb": ("nli", "cb"),
    "super_glue_copa": ("commonsense", "copa"),
    "super_glue_multirc": ("reading_comprehension", "multirc"),
    "super_glue_record": ("reading_commonsense", "record"),
    "super_glue_rte": ("nli", "rte"),
    "super_glue_wic": ("miscellaneous", "wic"),
    "super_glue_wsc_fixed": ("coreference", "wsc"),
    "trivia_qa_unfiltered": ("closed_book_qa", "trivia_qa"),
    "web_questions": ("closed_book_qa", "web_questions"),
    "winogrande_winogrande_debiased": ("coreference", "winogrande"),
    "winogrande_winogrande_xl": ("coreference", "winogrande"),
    "wiqa": ("reading_comprehension", "wiqa"),
}


def prompt_completion_fields(example: dict) -> Any:
    """{prompt, completion} -> {prompt, answer}, the end marker and outer white space taken off."""
    return _asked(example["prompt"], example["completion"].strip().removesuffix(END))


def pretokenized_fields(example: dict) -> Any:
    """P3's own features -> {prompt, answer}."""
    return _asked(example["inputs_pretokenized"], example["targets_pretokenized"])


def _asked(prompt: str, answer: str) -> Any:
    prompt, answer = prompt.strip(), answer.strip()
    if not prompt or not answer:
        return Skip(f"empty {'completion' if prompt else 'prompt'}")
    return {"prompt": prompt, "answer": answer}


def data_set(name: str, where: str) -> str:
    """The data set of a file or folder `<data set>_<template>`."""
    plain = name.replace(".", "_")  # cnn_dailymail_3.0.0, wsc.fixed
    own = [d for d in DATA_SETS if plain.startswith(d + "_")]
    if not own:
        raise UserError(
            f"{where}: no data set of tasks/p3.py has this name; add it there"
            + did_you_mean(plain, DATA_SETS)
        )
    return max(own, key=len)


def p3_members(root: str) -> list[TaskSpec]:
    """One task per data set of which the folder has a file."""
    folder = Path(root) / FOLDER
    upstream = next(
        (f for f in UPSTREAM if root and any((Path(root) / f).glob("*/*.tfrecord-*"))), ""
    )
    if not root or not folder.is_dir() and not upstream:
        raise UserError(
            f"p3: no folder {FOLDER!r} in data.root={root!r}, nor one of P3's own, {UPSTREAM[0]!r}"
        )
    if folder.is_dir() and upstream:
        raise UserError(
            f"p3: {FOLDER!r} and {upstream!r} in data.root={root!r} hold the same set; leave one"
        )
    if upstream:
        return _of_tfrecords(upstream, root)
    files: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        files.setdefault(data_set(path.stem, f"{FOLDER}/{path.name}"), []).append(
            f"{FOLDER}/{path.name}"
        )
    return [
        _task(name, Source("jsonl", {"train": tuple(f)}), prompt_completion_fields)
        for name, f in files.items()
    ]


def _task(name: str, source: Source, fields: Any, **more: Any) -> TaskSpec:
    return make_task(
        f"p3.{name}", version=1, cluster=DATA_SETS[name][0], origin=origins(DATA_SETS[name][1]), source=source,
        fields=fields, templates=[("{prompt}", "{answer}")], metrics=("rouge_l", "exact_match"), module=__name__, **more,
    )  # fmt: skip


def _of_tfrecords(upstream: str, root: str) -> list[TaskSpec]:
    """The tasks of P3's own layout."""
    files: dict[str, dict[str, list[str]]] = {}
    unread: dict[str, set[str]] = {}
    for folder in sorted(
        p for p in (Path(root) / upstream).iterdir() if p.is_dir() and p.name[0] != "."
    ):
        name = data_set(folder.name, f"{upstream}/{folder.name}")
        if folder.name.endswith(RANKED):
            unread.setdefault(name, set()).add(f"folders *{RANKED}")
            continue
        for split, found in _shards(folder, f"{upstream}/{folder.name}").items():
            if split in SPLITS:
                files.setdefault(name, {}).setdefault(split, []).extend(found)
            else:
                unread.setdefault(name, set()).add(f"split {split}")
    if bare := sorted(unread.keys() - files.keys()):
        raise UserError(
            f"p3: of data set {bare[0]} there is nothing but {', '.join(sorted(unread[bare[0]]))}, which is not read"
        )
    out = []
    for name, by_split in files.items():
        why = ", ".join(sorted(unread.get(name, ())))
        source = Source(
            "tfrecord", {s: tuple(f) for s, f in by_split.items()}, options={"features": FEATURES}
        )
        out.append(
            _task(
                name,
                source,
                pretokenized_fields,
                tags={"unread": f"not read of it: {why}"} if why else {},
            )
        )
    return out


def _shards(folder: Path, where: str) -> dict[str, list[str]]:
    """{split: files} of a template's folder; a shard that is not there is an error."""
    found: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.tfrecord-*")):
        m = SHARD.fullmatch(path.name)
        if m is None:
            raise UserError(f"{where}/{path.name}: not named <split>.tfrecord-00000-of-00001")
        found.setdefault(m["split"], []).append(f"{where}/{path.name}")
        counts[m["split"]] = int(m["count"])
    for split, n in counts.items():
        if len(found[split]) != n:
            raise UserError(
                f"{where}: {len(found[split])} of the {n} shards of its {split} split are there"
            )
    if not found:
        raise UserError(f"{where}: no <split>.tfrecord-00000-of-00001 there")
    return found


family("p3", p3_members)
