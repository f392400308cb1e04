# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own (TensorFlow stays out of the tests' process): rows for every
registered TFDS task.

python -m tests.tasks.flan_probe FOLDER    writes each set in its builder's own schema below FOLDER
                                           and prints
                                           {TFDS name: {"classes": {feature: names}, "features": …,
                                           "unknown": splits}}

Rows are made from `builder.info.features`: texts differ by row and are English, Russian and Chinese
in turn; labels are valid but for one row per split, which has -1. What a schema alone does not say
(an answer stands in its context, a label counts choices) is in SENSE, after the builders' own
`_generate_examples`. No task module is asked for a shape.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import features as f

ROWS = 30  # of each split, beside those that an instruction such as train[:-200] cuts off
NO_LABEL = 7  # the row of each split that has none
WORDS = (
    (
        "the old mill stands by the river",
        "a farmer sold two grey horses",
        "nobody heard the bell that evening",
    ),
    (
        "старая мельница стоит у реки",
        "крестьянин продал двух лошадей",
        "вечером никто не слышал звона",
    ),
    ("老磨坊在河边", "农民卖了两匹马", "那天晚上没有人听见钟声"),
)


def text(key: str, n: int, part: int = 0) -> str:
    """A text that no other row, feature or part of a list has."""
    return f"{key} {n}.{part}: {WORDS[n % 3][part % 3]}"


def made(feature: Any, key: str, n: int) -> Any:
    """A value of a feature for row n."""
    if isinstance(feature, f.FeaturesDict):
        return {k: made(v, k, n) for k, v in feature.items()}
    if isinstance(feature, f.Sequence):
        inner = feature.feature
        if isinstance(inner, f.FeaturesDict):
            return {k: listed(v, k, n) for k, v in inner.items()}
        return listed(inner, key, n)
    if isinstance(feature, f.ClassLabel):
        return n % feature.num_classes
    if feature.np_dtype in (object, str, bytes):
        return text(key, n)
    return feature.np_dtype(n % 6 * 0.9) if "float" in str(feature.np_dtype) else n


def listed(feature: Any, key: str, n: int) -> list:
    if isinstance(feature, (f.FeaturesDict, f.Sequence)):
        return [made(feature, key, n)]
    if feature.np_dtype in (object, str, bytes):
        return [text(key, n, part) for part in range(3)]
    return [made(feature, key, n + part) for part in range(3)]


def within(row: dict, context: str, n: int) -> dict:
    """SQuAD's answers: they start in the context where they say."""
    words = row[context].split()
    found = [" ".join(words[2:4]), words[-1]]
    return {"text": found, "answer_start": [row[context].index(a) for a in found]}


def arc(row: dict, n: int) -> dict:
    letters = "ABCDE"[: 3 + n % 3]
    choices = {"text": [f"choice {n}.{x}" for x in letters], "label": list(letters)}
    return {"choices": choices, "answerKey": letters[n % len(letters)]}


def coqa(row: dict, n: int) -> dict:
    turns = range(1 + n % 3)
    answers = {"input_text": [row["story"].split()[-1 - t] for t in turns], "answer_start": [0 for _ in turns],
               "answer_end": [5 for _ in turns]}  # fmt: skip
    return {"questions": [text("question", n, t) for t in turns], "answers": answers}


def quac(row: dict, n: int) -> dict:
    context = row["context"] + " CANNOTANSWER"
    answers = within(row, "context", n)
    if n % 5 == 4:
        answers = {"text": ["CANNOTANSWER"], "answer_start": [context.index("CANNOTANSWER")]}
    return {
        "context": context,
        "answers": answers,
        "orig_answer": {k: v[0] for k, v in answers.items()},
    }


def trivia(row: dict, n: int) -> dict:
    empty = {k: {inner: [] for inner in row[k]} for k in ("entity_pages", "search_results")}
    return {**empty, "answer": {**row["answer"], "value": "<unk>" if n % 9 == 8 else f"value {n}"}}


def triples(row: dict, n: int) -> dict:
    table = {"column_header": ["subject", "predicate", "object"] * 2, "row_number": [0] * 3 + [1] * 3,
             "content": [text("content", n, p) for p in range(6)]}  # fmt: skip
    return {"input_text": {**row["input_text"], "table": table}}


def attributes(row: dict, n: int) -> dict:
    table = {
        "column_header": ["name", "food"],
        "row_number": [1, 1],
        "content": [f"The Mill {n}", "Japanese"],
    }
    return {"input_text": {"table": table}}


def wsc(row: dict, n: int) -> dict:
    sentence = f"Anna told Vera {n} that she was late ."
    return {
        "text": sentence,
        "span1_text": "Anna",
        "span1_index": 0,
        "span2_text": "she",
        "span2_index": 5,
    }


# builder (and configuration) -> what to change in a row
SENSE: dict[str, Callable[[dict, int], dict]] = {
    "ai2_arc": arc,
    "coqa": coqa,
    "dart": triples,
    "definite_pronoun_resolution": lambda r, n: {
        "sentence": f"The dog {n} bit the cat because it was hungry.", "pronoun": "it", "candidates": [f"the dog {n}", "the cat"]},
    "drop": lambda r, n: {"answer": f"{n} yards", "validated_answers": [f"{n} yards", f"{n}"][: n % 3]},
    "e2e_cleaned": attributes,
    "hellaswag": lambda r, n: {"endings": [text("ending", n, p) for p in range(4)], "label": n % 4},
    "math_dataset": lambda r, n: {"question": f"Solve {n + 2}*x = {n * (n + 2)} for x.", "answer": str(n)},
    "opinion_abstracts": lambda r, n: {
        "_critics": {"key": [str(p) for p in range(12)], "value": [text("critic", n, p) for p in range(12)]}},
    "quac": quac,
    "sentiment140": lambda r, n: {"polarity": 2 * (n % 3)},
    "squad": lambda r, n: {"answers": within(r, "context", n)},
    "story_cloze": lambda r, n: {"endings": [text("ending", n, p) for p in range(2)], "label": 1 + n % 2},
    "super_glue/copa": lambda r, n: {"question": ("cause", "effect")[n % 2]},
    "super_glue/record": lambda r, n: {
        "query": f"@placeholder was there on day {n}", "entities": [f"Anna {n}", "Вера", "北京"],
        "answers": [f"Anna {n}", "Вера"][: 1 + n % 2]},
    "super_glue/wsc.fixed": wsc,
    "trivia_qa": trivia,
    "web_nlg": triples,
    "winogrande": lambda r, n: {
        "sentence": f"Row {n}: the trophy does not fit in the case because _ is too big.",
        "option1": "the trophy", "option2": "the case"},
}  # fmt: skip


def row(builder: Any, n: int, labelled: bool) -> dict:
    out = made(builder.info.features, "", n)
    for name in (
        builder.name,
        f"{builder.name}/{builder.builder_config.name}" if builder.builder_config else "",
    ):
        out |= SENSE[name](out, n) if name in SENSE else {}
    if not labelled:
        out |= {k: -1 for k, v in builder.info.features.items() if isinstance(v, f.ClassLabel)}
    return out


def classes(feature: Any, path: str = "") -> dict[str, list[str]]:
    """Every ClassLabel of a schema and its names."""
    if isinstance(feature, f.ClassLabel):
        return {path: feature.names}
    if isinstance(feature, f.FeaturesDict):
        return {
            p: n
            for k, v in feature.items()
            for p, n in classes(v, f"{path}/{k}" if path else k).items()
        }
    return classes(feature.feature, path) if isinstance(feature, f.Sequence) else {}


def names_split(builder: Any, split: str) -> bool:
    """Whether the builder's source speaks of a split of this name."""
    code = inspect.getsource(sys.modules[type(builder).__module__])
    family = re.escape(split.rpartition("_")[0])
    return bool(
        re.search(
            rf"Split\.{split.upper()}\b|[\"']{split}[\"']"
            + (rf"|[\"']{family}_\{{\}}" if family else ""),
            code,
        )
    )


def main(folder: str) -> None:
    import tasks  # noqa: F401  registers; the sets' names and the splits that are read are all that is taken
    from itx.tasks import registry

    wanted: dict[str, dict[str, int]] = {}
    for spec in registry.TASKS.values():
        if getattr(spec.source, "kind", "") == "tfds":
            splits = wanted.setdefault(spec.source.options["name"].split(":")[0], {})
            for instruction in spec.source.files.values():
                cut = [int(n) for n in re.findall(r"-?(\d+)", instruction.partition("[")[2])]
                split = instruction.partition("[")[0]
                splits[split] = max(splits.get(split, 0), ROWS + sum(cut))
    out = {}
    for name, splits in wanted.items():
        builder = tfds.builder(name, data_dir=folder)
        Path(builder.data_dir).mkdir(parents=True)
        writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=100)
        writer.initialize_splits(list(splits))
        start = 0
        for split, size in splits.items():  # no row stands in two splits
            writer.add_examples(
                {split: [row(builder, start + i, i != NO_LABEL) for i in range(size)]}
            )
            start += size
        writer.close_all()
        out[builder.info.full_name.replace(f"/{builder.info.version}", "")] = {
            "name": name,
            "version": str(builder.info.version),
            "classes": classes(builder.info.features),
            "unknown": [s for s in splits if not names_split(builder, s)],
        }
    print(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1])
