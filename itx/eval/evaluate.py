# SPDX-License-Identifier: Apache-2.0
"""Score a model on every evaluation row of the lock: greedy generation and option ranking.

    rows of the lock ──► their first eval.max_examples contents, in every template, or fewer that
                         take at most eval.max_seconds (budget.py)
        ──► one generation call and one ranking call over all rows together
        ──► predictions/<row>.jsonl, each whole or absent ──► scores.json (summary.py)

A row whose predictions are there under the same key is not asked again, so a killed evaluation
goes on, and `itx eval` reads what `itx train` wrote.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from itx import config as configs
from itx import hosts, movement, storage
from itx.config import RunConfig
from itx.data import cache, verify
from itx.data.types import EvalRow, Lock
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import budget, foreign, metrics, summary
from itx.eval.predictions import PredictionLine, ScoredRow, is_complete, write_predictions
from itx.text_format import prompts
from itx.text_format.prompts import PromptFormat

if TYPE_CHECKING:  # both import JAX, which the build and the audit do without
    from itx.eval.runner import Runner
    from itx.runs import RunFolder

MAX_CALL_PROMPTS = 16_384  # of one generation call: rows are written after each
NEUTRAL = "Answer:"  # the prompt that calibrates option ranking
# generation limits are multiples of this, so that itx/eval/generate.py has few shapes to compile
LIMIT_STEP = 16

Lines = dict[str, list[PredictionLine]]  # by row


def evaluate(
    load: Callable[[], "Runner"],
    lock: Lock,
    config: RunConfig,
    run: "RunFolder",
    step: int,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
    only: str = "",
) -> dict:
    """Predictions and scores of the model at `step`; returns what scores.json then holds (of
    several processes: on the writer, {} on the others).

    Args:
        load: gives the model; called only where a row is missing.
        run: its vocabulary and audit are read, and eval/<step>/ is written.
        only: the group of rows that is asked; "": all. The budget is that of all in any case.
    """
    told, rows, began = f"evaluate step {step}", scored_rows(lock, config), time.monotonic()

    def ask_first() -> None:
        one = configs.changed(config, "eval", max_examples=1)
        for _ in _answered(load, run, rows, lock, one, f"{told}, timed beforehand", say):
            pass

    config, limited = budget.bounded(run, config, rows, ask_first, say)
    rows = [row for row in scored_rows(lock, config) if not only or row["group"] == only]
    names = hosts.broadcast(
        lambda: [row["name"] for row in rows if not is_complete(run, step, row)]
    )
    missing = [row for row in rows if row["name"] in names]
    if missing and hosts.is_writer():
        _log_look(run, step, missing)
    for part, lines in _answered(load, run, missing, lock, config, told, say):
        for row in part if hosts.is_writer() else ():
            write_predictions(run, step, row, lines[row["name"]])
    if not hosts.is_writer():
        return {}
    if limited:
        whole = len(missing) == len(rows) and not only
        limited["seconds"] = time.monotonic() - began if whole else None
    return summary.write_scores(run, step, rows, lock, config, limited)


def _answered(
    load: Callable[[], "Runner"],
    run: "RunFolder",
    rows: list[ScoredRow],
    lock: Lock,
    config: RunConfig,
    told: str,
    say: Callable[[str], None],
) -> Iterator[tuple[list[ScoredRow], Lines]]:
    """Rows in parts, each with its lines answered and scored.

    Args:
        told: what is done, in words.
    """
    if not rows:
        return
    named = ((row["name"], row["folder"], row["sha256"]) for row in rows)
    verify.folders(named, config.data.cache_dir, lock["vocabulary"]["size"])
    vocabulary = verify.vocabulary_of_run(run.vocab_model, lock)
    runner = load()
    for part in _calls(rows, config):
        lines = {row["name"]: examples_of(row, config, vocabulary.eos_id) for row in part}
        say(f"{told}: {len(part)} rows, {sum(map(len, lines.values()))} prompts")
        with movement.shown(told):
            answer(runner, vocabulary, part, lines, lock)
        yield part, lines


def scored_rows(lock: Lock, config: RunConfig) -> list[ScoredRow]:
    """The rows of a lock and how they are asked."""
    asked = {"max_examples": config.eval.max_examples}
    return [{**row, **limit(row, config), **asked} for row in lock["evaluation"]]


def answer(
    runner: "Runner", vocabulary: Vocabulary, rows: list[ScoredRow], lines: Lines, lock: Lock
) -> None:
    """Adds the answers and what they score to lines that have "prompt_ids" (`examples_of`)."""
    _likelihoods(runner, rows, lines)
    _generate(runner, vocabulary, rows, lines, lock)
    _rank(runner, vocabulary, rows, lines, lock)
    for row in rows:
        for line in lines[row["name"]]:
            score(line, row)


def limit(row: EvalRow, config: RunConfig) -> dict[str, int | str]:
    """{"limit": new tokens that a row may take, "limit_from": the setting that chose it}: its
    longest right answer times eval.limit_factor, at most eval.max_new_tokens."""
    if row.get("verified") or row.get("reasons"):
        return {"limit": config.eval.max_new_tokens, "limit_from": "eval.max_new_tokens"}
    tokens = math.ceil(row["max_target_tokens"] * config.eval.limit_factor)
    tokens = max(1, -(-tokens // LIMIT_STEP)) * LIMIT_STEP
    if tokens > config.eval.max_new_tokens:
        return {"limit": config.eval.max_new_tokens, "limit_from": "eval.max_new_tokens"}
    return {"limit": tokens, "limit_from": "eval.limit_factor"}


def examples_of(row: EvalRow, config: RunConfig, eos_id: int) -> list[PredictionLine]:
    """The row's first eval.max_examples examples (0: all), in the order of their content hashes and
    in all their templates, with "prompt_ids", which the model reads, and "target_ids"."""
    lines, seen = [], set()
    records = cache.Records(Path(config.data.cache_dir) / row["folder"])
    for i, line in enumerate(cache.iterate_examples(records.folder)):
        seen.add(line["id"])
        if len(seen) > config.eval.max_examples > 0:
            break
        prompt, line["target_ids"] = records.prompt_and_target(i, eos_id, config.model.architecture)
        line["prompt_ids"] = tuple(prompt)
        if row.get("shots"):
            line["shots"] = int((records.exemplars[i] > 0).sum())
        lines.append(line)
    return lines


def _calls(rows: list[ScoredRow], config: RunConfig) -> Iterator[list[ScoredRow]]:
    """Rows in parts of at most MAX_CALL_PROMPTS prompts (or one row)."""
    part: list[ScoredRow] = []
    total = 0
    for row in rows:
        contents = max(1, row["examples"])
        prompts = row["records"] * min(contents, config.eval.max_examples or contents) // contents
        if part and total + prompts > MAX_CALL_PROMPTS:
            yield part
            part, total = [], 0
        part.append(row)
        total += prompts
    yield part


# ---- asking the model


def _generate(
    runner: "Runner", vocabulary: Vocabulary, rows: list[ScoredRow], lines: Lines, lock: Lock
) -> None:
    """Adds "prediction" and "finished" to the lines; a prompt that several rows share is asked
    once."""
    how = format_of(lock)
    around = how.template and prompts.around(how.template, how.system, vocabulary.eos_text)
    every = [(line, row["limit"], row.get("stop")) for row in rows for line in lines[row["name"]]]
    distinct = list(dict.fromkeys((line["prompt_ids"], most) for line, most, _ in every))
    answers = runner.generate([list(ids) for ids, _ in distinct], [most for _, most in distinct])
    if len(answers) != len(distinct):
        raise RuntimeError(f"{len(distinct)} prompts, {len(answers)} answers")
    answer_of = dict(zip(distinct, answers, strict=True))
    for line, most, stop in every:
        answer = answer_of[line["prompt_ids"], most]
        line["prediction"] = vocabulary.answer(answer["tokens"])
        if "messages" in line:
            line["prediction"] = prompts.answer(line["prediction"], *around)
        elif stop:  # a model that never learned our EOS goes on with a next exemplar
            line["prediction"] = line["prediction"].lstrip().split(stop)[0]
        line["finished"] = bool(answer["finished"])
        line["prompt_tokens"] = len(line.pop("prompt_ids"))


def _likelihoods(runner: "Runner", rows: list[ScoredRow], lines: Lines) -> None:
    """Adds "logprob", log p(target + EOS | prompt), to the lines of rows with a metric of (targets,
    scores)."""
    judged = [
        line
        for row in rows
        if row.get("seqio") and any(map(foreign.takes_scores, row["metrics"]))
        for line in lines[row["name"]]
    ]
    if judged:
        prompts = [list(line["prompt_ids"]) for line in judged]
        answers = runner.rank(prompts, [[line["target_ids"]] for line in judged])
        for line, (answer,) in zip(judged, answers, strict=True):
            line["logprob"] = answer["logprob"]


def option_targets(line: PredictionLine) -> list[str]:
    """Each option as the template's target would have it: `So it is {answer}.` -> `So it is no.`"""
    options, gold = line["options"], line["answer_index"]
    if gold is None or line["target"].count(options[gold]) != 1:
        return list(options)
    return [line["target"].replace(options[gold], option) for option in options]


def _rank(
    runner: "Runner", vocabulary: Vocabulary, rows: list[ScoredRow], lines: Lines, lock: Lock
) -> None:
    """Adds "rank" to lines with options: the choice under each normalisation, and the sums.

    sum: log p(option + EOS | prompt); token, byte: per token or byte of the option; calibrated:
    minus the sum behind a neutral prompt. Ablations are not ranked unless ranking is their primary
    score.
    """
    every = [
        (line, _asked(line, lock), tuple(option_targets(line)))
        for row in rows
        if row["primary"] == "rank" or not row["ablation"]
        for line in lines[row["name"]]
        if line["options"] and line["answer_index"] is not None
    ]
    pairs = [(prompt, targets) for _, asked, targets in every for prompt in asked]
    distinct = list(dict.fromkeys(pairs))
    if not distinct:
        return
    answers = runner.rank(*_ranked_ids(distinct, vocabulary, lock))
    scores_of = dict(zip(distinct, answers, strict=True))
    for line, asked, targets in every:
        scores, neutral = (scores_of[prompt, targets] for prompt in asked)
        sums = [s["logprob"] for s in scores]
        sizes = [max(1, len(t.encode())) for t in targets]
        columns = {
            "sum": sums,
            "token": [s["logprob"] / max(1, s["tokens"]) for s in scores],
            "byte": [x / size for x, size in zip(sums, sizes, strict=True)],
            "calibrated": [x - n["logprob"] for x, n in zip(sums, neutral, strict=True)],
        }
        choice = {name: max(range(len(v)), key=v.__getitem__) for name, v in columns.items()}
        line["rank"] = {"choice": choice, "logprob": sums}


def format_of(lock: Lock) -> PromptFormat:
    """How the prompts of a run's instruction tasks are put to its model."""
    if lock.get("prompt_format") != "chat":
        return prompts.PLAIN
    return PromptFormat(lock["chat"], lock["system"], lock["exemplars_as"])


# What stands before an answer: plain text, or the (role, content) of each message
Asked = str | tuple[tuple[str, str], ...]


def _asked(line: PredictionLine, lock: Lock) -> tuple[Asked, Asked]:
    """A line's own prompt, and NEUTRAL in the same form."""
    if "messages" not in line:
        return line["prompt"], NEUTRAL
    own, neutral = (
        tuple((m["role"], m["content"]) for m in messages)
        for messages in (line["messages"], format_of(lock).messages(NEUTRAL))
    )
    return own, neutral


def _ranked_ids(
    asked: list[tuple[Asked, tuple[str, ...]]], vocabulary: Vocabulary, lock: Lock
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """The ids of each prompt, and of each target behind it."""
    plain = [prompt for prompt, _ in asked if isinstance(prompt, str)]
    texts = list(dict.fromkeys(t for p, targets in asked if isinstance(p, str) for t in targets))
    behind = dict(zip(texts, vocabulary.following(texts), strict=True))
    plain_ids = iter(vocabulary.encode_batch(plain))

    def ids(prompt: Asked, targets: tuple[str, ...]) -> tuple[list[int], list[list[int]]]:
        if isinstance(prompt, str):
            return next(plain_ids), [behind[t] for t in targets]
        messages = [{"role": role, "content": content} for role, content in prompt]
        return prompts.ids(lock["chat"], messages, targets, vocabulary)

    before, targets_of = zip(*(ids(*pair) for pair in asked), strict=True)
    return list(before), list(targets_of)


def question(line: PredictionLine) -> str:
    """What the model is asked last: the prompt, or the last turn before the answer."""
    return line["messages"][-1]["content"] if "messages" in line else line["prompt"]


def with_question(
    line: PredictionLine, asked: str, vocabulary: Vocabulary, lock: Lock
) -> PredictionLine:
    """A line of `examples_of` that asks something else, to be answered anew."""
    changed: PredictionLine = {**line, "prompt": line["prompt"].replace(question(line), asked)}
    if "messages" in line:
        changed["messages"] = [*line["messages"][:-1], {**line["messages"][-1], "content": asked}]
    own, _ = _asked(changed, lock)
    ((ids,), _) = _ranked_ids([(own, (line["target"],))], vocabulary, lock)
    changed["prompt_ids"] = tuple(ids)
    return changed


def score(line: PredictionLine, row: ScoredRow) -> PredictionLine:
    """Adds "extracted", "scores" {metric: value} and "score", the row's primary one, to a line."""
    if row.get("seqio"):
        line["extracted"], line["scores"] = line["prediction"], {}
        line["score"] = foreign.score(row, line)
        return line
    answer = metrics.extract(line.get("extractor"), line["prediction"])
    line["extracted"] = answer
    line["scores"] = {
        name: 0.0 if answer is None else metrics.per_example(name)(line["references"], answer)
        for name in row["metrics"]
    }
    line["score"] = line["scores"][row["metrics"][0]] if row["metrics"] else 0.0
    if row["primary"] == "rank":
        if "rank" not in line:
            raise UserError(
                f"evaluation row {row['name']!r}: ranking is its primary score, but example "
                f"{line['id']} has no options with a right one among them"
            )
        line["score"] = float(line["rank"]["choice"]["sum"] == line["answer_index"])
    return line


def _log_look(run: "RunFolder", step: int, rows: list[ScoredRow]) -> None:
    """Each look at the test split is noted in the run folder."""
    looked = sum(row["split"] == "test" for row in rows)
    if looked:
        before = run.test_log.read_text(encoding="utf-8") if run.test_log.is_file() else ""
        line = json.dumps({"step": step, "rows": looked})
        with storage.whole_file(run.test_log) as part:
            part.write_text(before + line + "\n", encoding="utf-8")
