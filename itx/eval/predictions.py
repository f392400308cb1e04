# SPDX-License-Identifier: Apache-2.0
"""The files of a row's predictions: predictions/<row>.jsonl, a line for each prompt, and beside it
a key that declares the lines whole."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict
from urllib.parse import quote

from itx import hashing, storage, text
from itx.data.types import EvalRow
from itx.errors import UserError

if TYPE_CHECKING:  # the run folder imports JAX
    from itx.runs import RunFolder

EVAL_VERSION = 2  # raise it when a change alters predictions or scores


class Ranking(TypedDict):
    choice: dict[str, int]  # {normalisation: place of the best option}
    logprob: list[float]  # of each option with its EOS


class PredictionLine(TypedDict):
    """One prompt of a row, the answer, and what the answer scores. A line begins as an example of
    the cache, with keys besides these that are not written."""

    id: str  # of the example, in all its templates
    content: str
    template: str
    prompt: str
    messages: NotRequired[list[dict[str, str]]]  # what the chat template was given of it
    references: list[str]
    prediction: str
    finished: bool  # by EOS or a stop string, within the limit
    extracted: str | None  # the answer in the prediction; None: its pattern does not occur
    score: float  # the row's primary one
    scores: dict[str, float]  # by metric
    options: list[str] | None
    answer_index: int | None  # place of the right option
    rank: NotRequired[Ranking]
    prompt_tokens: int
    logprob: NotRequired[float]  # log p(target + EOS | prompt), for metrics that judge it
    example: NotRequired[dict]  # features, for a postprocess_fn of SeqIO
    shots: NotRequired[int]  # exemplars in the prompt
    example_tags: NotRequired[dict[str, str]]  # what the task's `fields` says of the example


class ScoredRow(EvalRow):
    """A row of the lock and how it is asked."""

    limit: int  # new tokens that an answer may take
    limit_from: str  # the setting that chose it
    max_examples: int  # 0: all


def chosen(line: PredictionLine, ranked: bool) -> int | None:
    """The place of the option that an answer chose, by rank or by what was written; None: none of
    them, or no single one."""
    if ranked:
        return line["rank"]["choice"]["sum"] if "rank" in line else None
    if line["extracted"] is None:
        return None
    answered = text.normalise(line["extracted"], answer=True)
    options = [text.normalise(o, answer=True) for o in line["options"]]
    return options.index(answered) if options.count(answered) == 1 else None


def predictions_file(run: "RunFolder", step: int, row: str) -> Path:
    """Names are percent-encoded, so that no two rows share a file (`x:cot`, `x_cot`)."""
    return run.eval_dir(step) / "predictions" / f"{quote(row, safe='@')}.jsonl"


def read_predictions(run: "RunFolder", step: int, row: str) -> list[PredictionLine]:
    with open(predictions_file(run, step, row), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def read_whole(run: "RunFolder", step: int, row: str) -> list[PredictionLine]:
    """`read_predictions`; UserError where the file is lost or not what was written."""
    file = predictions_file(run, step, row)
    try:
        whole = storage.read_json(_done_file(file))["sha256"] == hashing.file_sha256(file)
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{file} is damaged or lost: `itx eval {run.path}` asks this row again")
    return read_predictions(run, step, row)


def write_predictions(
    run: "RunFolder", step: int, row: ScoredRow, lines: list[PredictionLine]
) -> None:
    """First the lines, then the key that declares them whole."""
    file = predictions_file(run, step, row["name"])
    keys = PredictionLine.__annotations__
    with storage.whole_file(file) as part:
        texts = (
            json.dumps({k: line[k] for k in keys if k in line}, ensure_ascii=False)
            for line in lines
        )
        part.write_text("".join(t + "\n" for t in texts), encoding="utf-8")
    storage.write_json(_done_file(file), _done(file, step, row))


def is_complete(run: "RunFolder", step: int, row: ScoredRow) -> bool:
    """The predictions are there, whole, and made under the same key."""
    file = predictions_file(run, step, row["name"])
    try:
        return storage.read_json(_done_file(file)) == _done(file, step, row)
    except (OSError, ValueError):
        return False


def _done_file(predictions: Path) -> Path:
    return predictions.with_suffix(".done.json")


def _done(predictions: Path, step: int, row: ScoredRow) -> dict[str, str]:
    return {"key": row_key(step, row), "sha256": hashing.file_sha256(predictions)}


def row_key(step: int, row: ScoredRow) -> str:
    """Hash of what a row's predictions depend on, besides the run's own parameters at `step`."""
    keys = ("sha256", "limit", "max_examples", "metrics", "primary")
    parts = [EVAL_VERSION, step, *(row[k] for k in keys)]
    parts += [row["seqio"]] if row.get("seqio") else []
    return hashing.digest(json.dumps(parts))
