# SPDX-License-Identifier: Apache-2.0
"""Score a model on every evaluation row of the lock: greedy generation and option ranking.

    rows of the lock ──► their first eval.max_examples contents, in every template
        ──► one generation call and one ranking call over all rows together
        ──► predictions/<row>.jsonl, each whole or absent ──► scores.json (summary.py)

A row whose predictions are there under the same key is not asked again, so a killed evaluation
goes on, and `itx eval` reads what `itx train` wrote.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from itx import hashing, movement, storage
from itx.config import RunConfig
from itx.data import cache, verify
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import foreign, metrics, summary

EVAL_VERSION = 2  # raise it when a change here alters predictions or scores
CALL = 16_384  # prompts of one generation call: rows are written after each
NEUTRAL = "Answer:"  # the prompt that calibrates option ranking
LIMIT_STEP = 16  # generation limits are multiples of this (itx/eval/generate.py has few shapes)


def evaluate(
    load: Callable[[], Any], lock: dict, config: RunConfig, run: Any, step: int,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> dict:  # fmt: skip
    """Predictions and scores of the model at `step`; returns what scores.json then holds.

    Args:
        load: gives the model, anything with .generate(prompts, limits) and .rank(prompts, options);
            called only where a row is missing.
        run: a RunFolder (its vocabulary, audit and eval/<step>/).
    """
    rows = [
        {**r, **limit(r, config), "max_examples": config.eval.max_examples}
        for r in lock["evaluation"]
    ]
    missing = [r for r in rows if not is_complete(run, step, r)]
    if missing:
        named = ((r["name"], r["folder"], r["sha256"]) for r in missing)
        verify.folders(named, config.data.cache_dir, lock["vocabulary"]["size"])
        vocabulary = verify.vocabulary_of_run(run, lock)
        runner = load()
        _log_look(run, step, missing)
        for part in _calls(missing, config):
            lines = {r["name"]: examples_of(r, config, vocabulary.eos_id) for r in part}
            say(f"evaluate step {step}: {len(part)} rows, {sum(map(len, lines.values()))} prompts")
            with movement.shown(f"evaluate step {step}"):
                _likelihoods(runner, part, lines)
                _generate(runner, vocabulary, part, lines)
                _rank(runner, vocabulary, part, lines)
            for row in part:
                for line in lines[row["name"]]:
                    score(line, row)
                write_predictions(run, step, row, lines[row["name"]])
    return summary.write_scores(run, step, rows, lock, config)


def limit(row: dict, config: RunConfig) -> dict:
    """{"limit": new tokens that a row may take, "limit_from": the setting that chose it}: its
    longest right answer times eval.limit_factor, at most eval.max_new_tokens."""
    wanted = math.ceil(row["max_target_tokens"] * config.eval.limit_factor)
    room = max(1, -(-wanted // LIMIT_STEP)) * LIMIT_STEP
    if room > config.eval.max_new_tokens:
        return {"limit": config.eval.max_new_tokens, "limit_from": "eval.max_new_tokens"}
    return {"limit": room, "limit_from": "eval.limit_factor"}


def examples_of(row: dict, config: RunConfig, eos_id: int) -> list[dict]:
    """The row's first eval.max_examples examples, in all their templates (0: all), with the ids
    that the model reads."""
    out, seen = [], set()
    records = cache.Records(Path(config.data.cache_dir) / row["folder"])
    # in the order of their content hashes
    for i, line in enumerate(cache.iterate_examples(records.folder)):
        seen.add(line["id"])
        if len(seen) > config.eval.max_examples > 0:
            break
        *before, (target, _) = records[i]
        line["prompt_ids"] = tuple(cache.prompt_ids(before, eos_id, config.model.architecture))
        line["target_ids"] = target.tolist()
        if row.get("shots"):
            line["shots"] = int((records.exemplars[i] > 0).sum())
        out.append(line)
    return out


def _calls(rows: list[dict], config: RunConfig) -> Iterable[list[dict]]:
    """Rows in parts of at most CALL prompts (or one row)."""
    part: list[dict] = []
    total = 0
    for row in rows:
        contents = max(1, row["examples"])
        n = row["records"] * min(contents, config.eval.max_examples or contents) // contents
        if part and total + n > CALL:
            yield part
            part, total = [], 0
        part.append(row)
        total += n
    yield part


# ---- asking the model
# ------------------------------------------------------------------------------


def _generate(
    runner: Any, vocabulary: Vocabulary, rows: list[dict], lines: dict[str, list[dict]]
) -> None:
    """Adds "prediction" and "finished" to the lines; a prompt that several rows share is asked
    once."""
    every = [(line, row["limit"], row.get("stop")) for row in rows for line in lines[row["name"]]]
    asked = list(dict.fromkeys((line["prompt_ids"], most) for line, most, _ in every))
    answers = runner.generate([list(ids) for ids, _ in asked], [most for _, most in asked])
    if len(answers) != len(asked):
        raise RuntimeError(f"{len(asked)} prompts, {len(answers)} answers")
    found = dict(zip(asked, answers, strict=True))
    for line, most, stop in every:
        answer = found[line["prompt_ids"], most]
        line["prediction"] = vocabulary.answer(answer["tokens"])
        if stop:  # a model that never learned our EOS goes on with a next exemplar
            line["prediction"] = line["prediction"].lstrip().split(stop)[0]
        line["finished"] = bool(answer["finished"])
        line["prompt_tokens"] = len(line.pop("prompt_ids"))


def _likelihoods(runner: Any, rows: list[dict], lines: dict[str, list[dict]]) -> None:
    """Adds "logprob", log p(target + EOS | prompt), to the lines of rows with a metric of (targets,
    scores)."""
    asked = [line for r in rows if r.get("seqio") and any(map(foreign.takes_scores, r["metrics"]))
             for line in lines[r["name"]]]  # fmt: skip
    if asked:
        found = runner.rank(
            [list(x["prompt_ids"]) for x in asked], [[x["target_ids"]] for x in asked]
        )
        for line, (answer,) in zip(asked, found, strict=True):
            line["logprob"] = answer["logprob"]


def option_targets(line: dict) -> list[str]:
    """Each option as the template's target would have it: `So it is {answer}.` -> `So it is no.`"""
    options, gold = line["options"], line["answer_index"]
    if gold is None or line["target"].count(options[gold]) != 1:
        return list(options)
    return [line["target"].replace(options[gold], o) for o in options]


def _rank(
    runner: Any, vocabulary: Vocabulary, rows: list[dict], lines: dict[str, list[dict]]
) -> None:
    """Adds "rank" to lines with options: the choice under each normalisation, and the sums.

    sum: log p(option + EOS | prompt); token, byte: per token or byte of the option; calibrated:
    minus the sum behind a neutral prompt. Ablations are not ranked unless ranking is their primary
    score.
    """
    every = [
        (line, tuple(option_targets(line)))
        for row in rows
        if row["primary"] == "rank" or not row["ablation"]
        for line in lines[row["name"]]
        if line["options"] and line["answer_index"] is not None
    ]
    pairs = [(prompt, targets) for line, targets in every for prompt in (line["prompt"], NEUTRAL)]
    asked = list(dict.fromkeys(pairs))
    if not asked:
        return
    texts = list(dict.fromkeys(t for _, targets in asked for t in targets))
    ids = dict(zip(texts, vocabulary.following(texts), strict=True))
    prompts = vocabulary.encode_batch([p for p, _ in asked])
    answers = runner.rank(prompts, [[ids[t] for t in targets] for _, targets in asked])
    found = dict(zip(asked, answers, strict=True))
    for line, targets in every:
        scores, neutral = found[line["prompt"], targets], found[NEUTRAL, targets]
        columns = {
            "sum": [s["logprob"] for s in scores],
            "token": [s["logprob"] / max(1, s["tokens"]) for s in scores],
            "byte": [
                s["logprob"] / max(1, len(t.encode())) for s, t in zip(scores, targets, strict=True)
            ],
            "calibrated": [
                s["logprob"] - n["logprob"] for s, n in zip(scores, neutral, strict=True)
            ],
        }
        choice = {name: max(range(len(v)), key=v.__getitem__) for name, v in columns.items()}
        line["rank"] = {"choice": choice, "logprob": columns["sum"]}


def score(line: dict, row: dict) -> dict:
    """Adds "extracted", "scores" {metric: value} and "score", the row's primary one, to a line."""
    if row.get("seqio"):
        line["extracted"], line["scores"], line["score"] = (
            line["prediction"],
            {},
            foreign.score(row, line),
        )
        return line
    line["extracted"] = metrics.extract(line.get("extractor"), line["prediction"])
    given = line["extracted"]
    line["scores"] = {
        m: 0.0 if given is None else metrics.per_example(m)(line["references"], given)
        for m in row["metrics"]
    }
    ranked = line.get("rank")
    line["score"] = line["scores"][row["metrics"][0]] if row["metrics"] else 0.0
    if row["primary"] == "rank":
        if ranked is None:
            raise UserError(f"evaluation row {row['name']!r}: ranking is its primary score, but example "
                            f"{line['id']} has no options with a right one among them")  # fmt: skip
        line["score"] = float(ranked["choice"]["sum"] == line["answer_index"])
    return line


# ---- files
# -----------------------------------------------------------------------------------------


def row_key(step: int, row: dict) -> str:
    """Hash of what a row's predictions depend on, besides the run's own parameters at `step`."""
    parts = [
        EVAL_VERSION,
        step,
        row["sha256"],
        row["limit"],
        row["max_examples"],
        row["metrics"],
        row["primary"],
    ]
    parts += [row["seqio"]] if row.get("seqio") else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def is_complete(run: Any, step: int, row: dict) -> bool:
    """The predictions are there, whole, and made under the same key."""
    file = summary.predictions_file(run, step, row["name"])
    try:
        done = storage.read_json(file.with_suffix(".done.json"))
        return done == {"key": row_key(step, row), "sha256": hashing.file_sha256(file)}
    except (OSError, ValueError):
        return False


KEPT = ("id", "content", "template", "prompt", "references", "prediction", "finished", "extracted", "score",
        "scores", "options", "answer_index", "rank", "prompt_tokens", "logprob", "example", "shots")  # fmt: skip


def write_predictions(run: Any, step: int, row: dict, lines: list[dict]) -> None:
    """First the lines, then the key that declares them whole."""
    file = summary.predictions_file(run, step, row["name"])
    with storage.whole_file(file) as part:
        texts = (
            json.dumps({k: line[k] for k in KEPT if k in line}, ensure_ascii=False)
            for line in lines
        )
        part.write_text("".join(t + "\n" for t in texts), encoding="utf-8")
    storage.write_json(
        file.with_suffix(".done.json"),
        {"key": row_key(step, row), "sha256": hashing.file_sha256(file)},
    )


def _log_look(run: Any, step: int, rows: list[dict]) -> None:
    """Each look at the test split is noted in the run folder."""
    looked = sum(r["split"] == "test" for r in rows)
    if looked:
        before = run.test_log.read_text(encoding="utf-8") if run.test_log.is_file() else ""
        with storage.whole_file(run.test_log) as part:
            part.write_text(
                before + json.dumps({"step": step, "rows": looked}) + "\n", encoding="utf-8"
            )
