# SPDX-License-Identifier: Apache-2.0
"""What a run will be trained on, measured from the lock and the cache before step 0.

    tasks       records read, kept and skipped by reason; lengths; shares; effective epochs; cut
                prompts, inputs that
                repeat or that other tasks have, examples without a target, EOS under the loss
    mixture     how many examples and tokens the run's steps take; unigram entropy of the targets
                (% lost: of the targets drawn by hash, those that the vocabulary does not give back
                as they were)
    leaks       what the build left out because evaluation asks it, per pair of tasks, and what of
                the search's finds is
                still there; exemplars that are the example itself or one of evaluation's
    baselines   what answers without a model score; tasks where they do well are "easy"

`audit` gives plain values; "errors" in them stop a run, "warnings" are printed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from itx import storage
from itx.audit import baselines, said
from itx.config import RunConfig
from itx.data import cache, packing
from itx.data.loader import Batches
from itx.data.lock import LockedData, loss_tokens
from itx.data.order import Order
from itx.eval import metrics, tables
from itx.leaks import contamination
from itx.tasks import fingerprint

WINDOWS = 4  # windows laid out to learn how many examples a row holds
MANY_EPOCHS = 4.0  # from here on repeated data are worth less than new (Muennighoff et al., 2023)
MANY_UNKNOWN = 0.01  # share of unknown tokens from which a task is warned about
BETTER = 0.05  # of all places: a length pair that fills so many more is proposed
BASELINE_EXAMPLES = 200  # per task
EASY = 0.5  # corrected score of a baseline from which a task is easy
# examples per task that are taken through the loader, to see what it puts under the loss
LOADED = 32


def audit(lock: dict, cache_dir: str | Path, config: RunConfig) -> dict:
    """Everything above as one dict of plain values."""
    batches = Batches(lock, cache_dir)
    data = batches.data
    examples, fill, caps = mixture_examples(lock, data, config.train.steps)
    both = lock["architecture"] == "encoder_decoder"
    capacity = np.array([lock["sequence_length"], lock["target_length"]])
    tasks = {t["name"]: task_facts(t, r[0], u[0], lock["architecture"])
             for t, r, u in zip(lock["tasks"], data.records, data.usable, strict=True)}  # fmt: skip
    for i, (task, shared) in enumerate(zip(lock["tasks"], shared_inputs(lock, data), strict=True)):
        tasks[task["name"]] |= {"shared": shared, **loss_facts(i, batches)}
    _add_shares(tasks, lock, examples)
    by_task = {t: b for t, b in _baselines(lock, Path(cache_dir)) if b}
    out = {
        "mixture": {
            "name": lock.get("mixture", ""), "steps": config.train.steps, "examples": round(examples),
            "filled": float(fill @ capacity / capacity.sum() if both else fill[0]), "filled_sides": fill.tolist(),
            "loss_positions": caps,
            "lengths": proposal(lock, data), "unigram_entropy": unigram_entropy(lock, data),
            "input_tokens": sum(f["input_tokens_seen"] for f in tasks.values()),
            "target_tokens": sum(f["target_tokens_seen"] for f in tasks.values()),
        },
        "tasks": tasks,
        "evaluation": {r["name"]: {"task": r["task"], "group": r["group"], "halved": r.get("halved", False), **r["audit"]}
                       for r in lock["evaluation"]},
        "unscored": lock.get("unscored", []), "unretained": lock.get("unretained", ""), "holdout": lock["holdout"],
        "left_out": lock.get("left_out", []), "variants": lock.get("variants", []),
        "leaks": {"dropped": lock.get("leaks", []), "pairs": removed_shares(lock),
                  **still_there(lock, data, Path(cache_dir)), "exemplars": exemplar_leaks(lock, data, Path(cache_dir))},
        "baselines": by_task,
        "easy": {t: b["easy"] for t, b in by_task.items() if b["easy"]},
    }  # fmt: skip
    return {**out, **judge(out, config)}


def with_uses(facts: dict, examples: np.ndarray, trained: np.ndarray | None = None) -> dict:
    """The audit with what the run's steps took, counted by the order: examples per task, in the
    facts' sequence.

    "used" are a task's records trained on at least once, "only_skipped" those that stand in skipped
    batches alone, "not_reached" those that the steps did not come to.

    Args:
        trained: the records of each task in batches that were not skipped, where some were.
    """
    tasks = {}
    for i, (name, f) in enumerate(facts["tasks"].items()):
        reached = min(int(examples[i]), f["kept"])  # an epoch takes every record once
        used = reached if trained is None else int(trained[i])
        tasks[name] = {**f, "examples_taken": int(examples[i]), "used": used, "only_skipped": reached - used,
                       "not_reached": f["kept"] - reached}  # fmt: skip
    return {**facts, "tasks": tasks}


def accounts(facts: dict) -> str:
    """One sentence in which every record read is found again."""
    tasks = facts["tasks"].values()
    keys = ("read", "kept", "used", "only_skipped", "not_reached",
            "cut", "cut_tokens", "cut_targets", "cut_target_tokens")  # fmt: skip
    total = {k: sum(f.get(k, 0) for f in tasks) for k in keys}
    skipped: Counter = Counter()
    for f in tasks:
        skipped.update(f["skipped"])
    kept = f"{total['kept']:,} usable"
    if all("used" in f for f in tasks):
        steps = f"{facts['mixture']['steps']:,} steps"
        lost = (
            f" + {total['only_skipped']:,} in skipped batches alone"
            if total["only_skipped"]
            else ""
        )
        kept = f"{total['used']:,} trained on{lost} + {total['not_reached']:,} usable but not reached in {steps}"
    cut = "".join(
        f"; {total[n]:,} {what} lost {total[tokens]:,} tokens to fit a row"
        for what, n, tokens in (("prompts", "cut", "cut_tokens"), ("targets", "cut_targets", "cut_target_tokens")) if total[n]
    )  # fmt: skip
    return f"{total['read']:,} records read = {kept} + {sum(skipped.values()):,} skipped ({reasons(skipped)}){cut}."


def reasons(skipped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n:,}" for reason, n in sorted(skipped.items())) or "none"


def faults(facts: dict) -> list[str]:
    """A line for each task and each reason that is a fault of its data, with the first record of
    it."""
    out: dict[tuple[str, str, str], str] = {}
    for what, found in (("task", facts["tasks"]), ("evaluation task", facts["evaluation"])):
        for f in found.values():  # variants of a task, and rows, have the same records
            for reason, first in f.get("first", {}).items():
                told = f"records are left out ({reason})"
                if reason == cache.CONFLICT:
                    told = "records give another answer to an input that was there before, and the first answer is kept"
                line = f"{what} {f['task']}: {f['skipped'].get(reason, 0):,} {told}, e.g. {first}"
                out.setdefault((what, f["task"], reason), line)
    return list(out.values())


def judge(facts: dict, config: RunConfig) -> dict[str, list[str]]:
    """{"errors", "warnings"}: sums that do not add up, leaks, too many epochs."""
    errors, warnings = [], []
    for name, f in facts["tasks"].items():
        counted = f["kept"] + sum(f["skipped"].values())
        if f["read"] != counted:
            errors.append(f"task {name}: {f['read']} records read but {counted} kept or skipped")
        if f["effective_epochs"] > config.data.max_epochs:
            most = f"data.max_epochs is {config.data.max_epochs:g}"
            errors.append(f"task {name}: {f['effective_epochs']:.1f} epochs; {most}")
        elif f["effective_epochs"] > MANY_EPOCHS:
            warnings.append(
                f"task {name}: {f['effective_epochs']:.1f} epochs; above {MANY_EPOCHS:g} little is gained"
            )
        if f["unknown_share"] > config.data.max_unknown:
            most = f"data.max_unknown is {config.data.max_unknown:g}"
            errors.append(
                f"task {name}: the vocabulary does not know {f['unknown_share']:.1%} of its tokens; {most}"
            )
        elif f["unknown_share"] > MANY_UNKNOWN:
            warnings.append(
                f"task {name}: the vocabulary does not know {f['unknown_share']:.1%} of its tokens"
            )
        for share, field, most, what in (
            (
                f["cut_share"],
                "max_cut",
                config.data.max_cut,
                "of its examples are cut to fit a row",
            ),
            (
                f["duplicate_share"],
                "max_duplicates",
                config.data.max_duplicates,
                "of its records repeat an input",
            ),
        ):
            if share > most:
                errors.append(f"task {name}: {share:.1%} {what}; data.{field} is {most:g}")
        if f["no_target"]:
            errors.append(
                f"task {name}: {f['no_target']} examples have no token to train on before EOS"
            )
        if f["eos_trained"] < f["pieces_loaded"]:
            ended = f"only {f['eos_trained']} of {f['pieces_loaded']} trained pieces end in EOS under the loss"
            if f.get("cut_targets"):
                warnings.append(f"task {name}: {ended}, for targets are cut")
            else:
                errors.append(f"task {name}: {ended}; the model would not learn to stop")
        elif f["eos_trained"] > f["pieces_loaded"]:  # a text of the data was read as EOS
            errors.append(f"task {name}: {f['eos_trained']} EOS under the loss in {f['pieces_loaded']} trained pieces; "
                          "some of its texts hold what the vocabulary reads as EOS")  # fmt: skip
        elif f["eos_within"]:
            errors.append(
                f"task {name}: {f['eos_within']:,} EOS stand within its trained pieces, of all that it has"
            )
        if f["split_conversations"]:
            warnings.append(f"task {name}: {f['split_conversations']:,} conversations are an example for each answer, for "
                            "data.chat_template writes earlier turns otherwise once others follow")  # fmt: skip
        warnings += said.sentences(name, f)
        if f["fewshot"].get("fewer"):
            shots = f["fewshot"]
            warnings.append(f"task {name}: {shots['fewer']:,} renderings show fewer than {shots['asked']} exemplars, "
                            f"{shots['none']:,} of them none")  # fmt: skip
    warnings += faults(facts)
    warnings += map(said.of_variants, facts["variants"])
    if facts["unscored"]:
        shown = ", ".join(facts["unscored"][:5]) + (", …" if len(facts["unscored"]) > 5 else "")
        warnings.append(
            f"{len(facts['unscored'])} tasks or rows of evaluation are not scored, for they have no such split, no example or "
            f"no metric: {shown}"
        )
    if halved := sorted({f["task"] for f in facts["evaluation"].values() if f["halved"]}):
        warnings.append(
            f"{len(halved)} tasks are scored on half of a validation split, as they ask: {', '.join(halved)}"
        )
    if why := facts["leaks"]["untested"]:
        warnings.append(
            f"what evaluation asks was not looked for in the training data: {why}; build the data again"
        )
    if facts["unretained"]:
        warnings.append(f"what tuning costs in plain text is not measured: {facts['unretained']}")
    for pair in facts["leaks"]["pairs"]:
        if pair["share"] > config.data.max_contamination:
            errors.append(f"task {pair['train']}: {pair['share']:.1%} of its records are in evaluation task "
                          f"{pair['evaluation']} and left out; data.max_contamination is "
                          f"{config.data.max_contamination:g}")  # fmt: skip
    for shown in facts["leaks"]["exemplars"]:
        errors.append(
            f"{shown['of']}: {shown['records']} renderings show an exemplar that {shown['how']}"
        )
    for pair in facts["leaks"]["left"]:
        errors.append(f"task {pair['train']}: {pair['records']} training records are in evaluation task "
                      f"{pair['evaluation']} ({pair['how']}); build the data again")  # fmt: skip
    return {"errors": errors, "warnings": warnings}


# ---- tasks and mixture
# -----------------------------------------------------------------------------


def mixture_examples(
    lock: dict, data: LockedData, steps: int
) -> tuple[float, np.ndarray, dict[str, float]]:
    """(examples that so many steps take, float [2]: share of a row's two capacities that they fill,
    share of the steps that each of the lock's `loss_positions` serves). A decoder's second capacity
    is what its steps have."""
    order, size = Order(lock, data.usable, data.sizes), lock["global_batch"]
    wanted = steps * size
    rows = examples = w = 0
    taken = np.zeros(2)
    while rows < max(1, wanted) and w < WINDOWS:
        window = order.window(w)
        n = min(len(window), wanted - rows) if wanted else len(window)
        lengths = order.size(*window.segments[: window.starts[n]].T)
        rows, examples, taken, w = (
            rows + n,
            examples + len(lengths),
            taken + lengths.sum(0, dtype=np.int64),
            w + 1,
        )
    caps = [order.cap(range(t * size, (t + 1) * size)) for t in range(max(1, rows // size))]
    share = {c: caps.count(c) / len(caps) for c in order.caps}
    mean = sum(c * x for c, x in share.items())
    return (
        examples / rows * wanted,
        taken / (rows * np.array([order.capacity[0], mean])),
        {str(c): x for c, x in share.items()},
    )


def proposal(lock: dict, data: LockedData) -> dict:
    """Row lengths of an encoder-decoder that waste less, from packing the first window's examples
    with them; {} where there are none.

    {"sequence_length", "target_length", "filled": [2], "filled_now": [2]}: shares of the two
    capacities.
    """
    if lock["architecture"] == "decoder":
        return {}
    order = Order(lock, data.usable, data.sizes)
    size, now = order.size(*order.window(0).segments.T), order.capacity
    pair = packing.length_pair(size, now)
    filled, filled_now = packing.fill(size, pair), packing.fill(size, now)
    places, places_now = (f @ c / sum(c) for f, c in ((filled, pair), (filled_now, now)))
    if places < places_now + BETTER:
        return {}
    return {"sequence_length": pair[0], "target_length": pair[1], "filled": filled.tolist(),
            "filled_now": filled_now.tolist()}  # fmt: skip


def task_facts(task: dict, records: cache.Records, usable: np.ndarray, architecture: str) -> dict:
    """One task's records and lengths, of its first rendering."""
    target = loss_tokens(records, architecture)[usable]
    before = (
        records.lengths[usable, 0]
        - records.lengths[usable, 4 if architecture == "encoder_decoder" else 2]
    )
    manifest = cache.read_manifest(records.folder)
    uses = np.bincount(records.template[usable], minlength=len(manifest["templates"])) / len(usable)
    return {
        "task": task["task"], "cluster": task["cluster"], "rate": task["rate"], **task["audit"],
        "renderings": len(task["folders"]), "templates": len(uses), "template_share": [float(uses.min()), float(uses.max())],
        "fewshot": manifest.get("fewshot", {}), "split_conversations": manifest.get("split_conversations", 0),
        "said": manifest.get("said", {}), "decoded": manifest.get("decoded", {}),
        "eos_within": manifest.get("eos_within", 0), **_repeats(task, manifest.get("repeated", 0), len(usable)),
        "cut_share": max(task["audit"].get(k, 0) for k in ("cut", "cut_targets")) / len(usable),
        "unknown_share": manifest.get("unknown_tokens", 0) / max(1, records.num_tokens),
        "input_tokens": int(before.sum()), "target_tokens": int(target.sum()),
        "input_length": _spread(before), "target_length": _spread(target),
    }  # fmt: skip


def _repeats(task: dict, left: int, usable: int) -> dict:
    """Records whose input the split has more than once: those that the build left out and those
    that are still there."""
    out = sum(
        task["audit"]["skipped"].get(reason, 0) for reason in (cache.REPEATED, cache.CONFLICT)
    )
    return {"repeated": left, "duplicate_share": (out + left) / (out + usable)}


def shared_inputs(lock: dict, data: LockedData) -> list[int]:
    """Of each variant's records how many have an input that another task of the mixture has too."""
    inputs: dict[str, list[np.ndarray]] = {}
    for task, records, usable in zip(lock["tasks"], data.records, data.usable, strict=True):
        inputs.setdefault(task["task"], []).append(records[0].content[usable[0]])
    found, times = np.unique(
        np.concatenate([np.unique(np.concatenate(i)) for i in inputs.values()]), return_counts=True
    )
    several = found[times > 1]
    return [
        int(np.isin(r[0].content[u[0]], several).sum())
        for r, u in zip(data.records, data.usable, strict=True)
    ]


def loss_facts(i: int, batches: Batches) -> dict:
    """What the loss sees of task i: examples without a token of a target, and, of some examples as
    the loader gives them, trained pieces and the EOS under the loss."""
    lock, records, usable = batches.lock, batches.data.records[i][0], batches.data.usable[i][0]
    both = lock["architecture"] == "encoder_decoder"
    some = usable[np.linspace(0, len(usable) - 1, min(LOADED, len(usable))).astype(int)]
    segments = [batches.segment(i, int(record), 0) for record in some]
    ended = sum(
        int(((ids == lock["eos_id"]) & (weights > 0)).sum()) for _, ids, weights in segments
    )
    return {
        "no_target": int((records.lengths[usable, 4 if both else 2] == 0).sum()), "eos_trained": ended,
        "pieces_loaded": len(some) if both else int(records.lengths[some, 3].sum()),
    }  # fmt: skip


def _spread(lengths: np.ndarray) -> dict[str, float]:
    middle, high = np.quantile(lengths, [0.5, 0.95])
    return {
        "mean": float(lengths.mean()),
        "median": float(middle),
        "p95": float(high),
        "max": int(lengths.max()),
    }


def _add_shares(tasks: dict[str, dict], lock: dict, examples: float) -> None:
    """Shares of the mixture by examples and by tokens, and passes over each task's data."""
    for f in tasks.values():
        seen = examples * f["rate"]
        f["effective_epochs"] = seen / f["kept"]
        f["input_tokens_seen"] = round(seen * f["input_length"]["mean"])
        f["target_tokens_seen"] = round(seen * f["target_length"]["mean"])
    for kind in ("input", "target"):
        total = sum(f["rate"] * f[f"{kind}_length"]["mean"] for f in tasks.values())
        for f in tasks.values():
            f[f"{kind}_share"] = f["rate"] * f[f"{kind}_length"]["mean"] / total if total else 0.0


def unigram_entropy(lock: dict, data: LockedData) -> float:
    """Nats per token of the targets (with EOS) under their own frequencies, weighted as the loss
    weighs them.

    A model that has learned nothing but how frequent tokens are has this loss.
    """
    counts = np.zeros(lock["vocabulary"]["size"] + 1)
    for task, records, usable in zip(lock["tasks"], data.records, data.usable, strict=True):
        own = target_counts(records[0], usable[0], lock)
        if lock["weighting"] == "task":  # a task counts by its examples, not by their length
            own *= task["rate"] / own.sum()
        else:
            own *= task["rate"] / len(usable[0])
        counts[: len(own)] += own
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def target_counts(records: cache.Records, usable: np.ndarray, lock: dict) -> np.ndarray:
    """How often each token stands in the usable targets; by example, an example counts as one
    token."""
    ends = records.record_pieces[1:]
    # the record of each piece
    of = np.repeat(np.arange(len(records)), np.diff(records.record_pieces))
    trained = records.piece_trained.copy()
    if lock["architecture"] == "encoder_decoder":
        trained &= np.isin(np.arange(len(of)), ends - 1)
    found = np.flatnonzero(trained & np.isin(of, usable))
    lengths = records.piece_lengths[found]
    size = loss_tokens(records, lock["architecture"])[of[found]]
    weight = 1.0 / size if lock["weighting"] == "example" else np.ones(len(lengths))
    starts = records.piece_starts[found]
    places = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    size = lock["vocabulary"]["size"] + 1
    counts = np.bincount(records.take(places), np.repeat(weight, lengths), size)
    counts[lock["eos_id"]] += weight.sum()
    return counts


# ---- leaks
# -----------------------------------------------------------------------------------------


def removed_shares(lock: dict) -> list[dict]:
    """[{"train", "evaluation", "removed", "share"}]: per pair of tasks what the build left out of
    training, the largest share first. A record that several evaluation tasks ask is counted with
    one of them."""
    removed: Counter = Counter()
    for x in lock.get("leaks", []):
        removed[x["train"], x["evaluation"]] += x["dropped"]
    of_task: Counter = Counter()
    for (train, _), n in removed.items():
        of_task[train] += n
    kept = {t["name"]: t["audit"]["kept"] for t in lock["tasks"]}
    pairs = [{"train": t, "evaluation": e, "removed": n, "share": n / (kept[t] + of_task[t])}
             for (t, e), n in removed.items()]  # fmt: skip
    return sorted(pairs, key=lambda p: (-p["share"], p["train"], p["evaluation"]))


def exemplar_leaks(lock: dict, data: LockedData, cache_dir: Path) -> list[dict]:
    """[{"of", "how", "records"}]: training and evaluation prompts that show their own example, and
    evaluation prompts that show one that the same task is evaluated on. (Training prompts that show
    such a one are in `leaks_left`.)"""
    found: Counter = Counter()
    for task, records, usable in zip(lock["tasks"], data.records, data.usable, strict=True):
        for r, rows in zip(records, usable, strict=True):
            found[f"task {task['name']}", "is the example itself"] += _own(r, rows)
    asked: dict[str, list[np.ndarray]] = {}
    folders = {r["folder"]: r for r in lock["evaluation"]}
    opened = {f: cache.Records(cache_dir / f) for f in folders}
    for f, row in folders.items():
        asked.setdefault(row["task"], []).append(opened[f].content)
    for f, row in folders.items():
        r = opened[f]
        if r.exemplars.shape[1]:
            known = np.isin(r.exemplars, np.concatenate(asked[row["task"]])).any(1)
            found[f"evaluation row {row['name']}", "is the example itself"] += _own(
                r, np.arange(len(r))
            )
            found[f"evaluation row {row['name']}", "is an evaluation example"] += int(known.sum())
    return [{"of": of, "how": how, "records": n} for (of, how), n in sorted(found.items()) if n]


def _own(records: cache.Records, rows: np.ndarray) -> int:
    """How many of the rows have their own input among their exemplars."""
    return int((records.exemplars[rows] == records.content[rows, None]).any(1).sum())


def still_there(lock: dict, data: LockedData, cache_dir: Path) -> dict:
    """{"left": `leaks_left`, "untested": why they could not be looked for, or ""}."""
    try:
        return {"left": leaks_left(lock, data, cache_dir), "untested": ""}
    except contamination.Untestable as e:
        return {"left": [], "untested": str(e)}


def leaks_left(lock: dict, data: LockedData, cache_dir: Path) -> list[dict]:
    """Training records that evaluation asks all the same: of what the search found, those that are
    not left out.

    [{"train", "evaluation", "how", "records"}] per pair of tasks.
    """
    counts: Counter = Counter()
    found = contamination.found(lock, cache_dir)
    for task, usable in zip(lock["tasks"], data.usable, strict=True):
        for i in set().union(*(of.tolist() for of in usable)) & set(found[task["name"]]):
            counts[task["name"], *found[task["name"]][i]] += 1
    return [
        {"train": t, "evaluation": e, "how": how, "records": n}
        for (t, e, how), n in sorted(counts.items())
    ]


# ---- baselines without a model
# ---------------------------------------------------------------------


def _baselines(lock: dict, cache_dir: Path):
    """(task, baselines) for every trained task that has an evaluation row of its own.

    They are kept in the cache by what they depend on: a run that goes on need not wait for them.
    """
    folders = {t["name"]: t["folders"][0] for t in lock["tasks"]}
    done = set()
    for row in lock["evaluation"]:
        if row["group"] != "instances" or row["task"] in done or row["variant"] not in folders:
            continue
        done.add(row["task"])
        train, test = cache_dir / folders[row["variant"]], cache_dir / row["folder"]
        judge = fingerprint.of_function(metrics.per_example(metrics.of_row(row)))
        parts = [
            baselines.VERSION,
            folders[row["variant"]],
            row["folder"],
            row["primary"],
            judge,
            EASY,
            BASELINE_EXAMPLES,
        ]
        kept = (
            cache_dir
            / "baselines"
            / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.json"
        )
        if not kept.is_file():
            asked = {e["id"]: e for e in cache.read_examples(test)}
            found = baselines.of_task(
                row, cache.read_examples(train), list(asked.values()), EASY, BASELINE_EXAMPLES
            )
            storage.write_json(kept, found)
        yield row["task"], storage.read_json(kept)


# ---- shown
# -----------------------------------------------------------------------------------------


def print_audit(facts: dict, tasks: bool = True) -> None:
    """The audit as a table; without `tasks` its sums, warnings and errors alone."""
    console, m = tables.console(), facts["mixture"]
    title = (
        f"data audit: {m['name']}, {len(facts['tasks'])} task variants, {m['steps']} steps, "
        f"about {m['examples']:,} examples, {m['filled']:.1%} of places filled"
    )
    if tasks:
        for table in _tables(title, facts):
            console.print(table)
    else:
        console.print(title, markup=False)
    console.print(accounts(facts), markup=False)
    dropped = sum(p["dropped"] for p in facts["leaks"]["dropped"])
    left = len(facts["leaks"]["left"])
    said = (
        f"{left} pairs of tasks still touch; tested for {contamination.TESTED}; not for paraphrase"
    )
    if why := facts["leaks"]["untested"]:
        said = f"not tested again: {why}"
    console.print(f"leaks: {dropped} training records left out, {said}", markup=False)
    console.print(f"unigram entropy of targets {m['unigram_entropy']:.3f} nats/token")
    if len(caps := m["loss_positions"]) > 1:
        at = ", ".join(f"{n} in {share:.0%} of steps" for n, share in caps.items())
        console.print(
            f"logits at {at}; targets fill {m['filled_sides'][1]:.0%} of them", markup=False
        )
    if pair := m["lengths"]:
        now, then = (" and ".join(f"{f:.0%}" for f in pair[k]) for k in ("filled_now", "filled"))
        console.print(f"lengths: tokens fill {now} of encoder and decoder rows; data.sequence_length={pair['sequence_length']} and "
                      f"data.target_length={pair['target_length']} would fill {then}", markup=False)  # fmt: skip
    for x in facts["left_out"]:
        console.print(f"left out of {x['mixture']}: {x['task']} ({x['reason']})", markup=False)
    for task, why in sorted(facts["easy"].items()):
        console.print(f"easy: {task} ({why}); left out of averages", markup=False)
    for kind in ("warnings", "errors"):
        for line in facts[kind]:
            console.print(f"{kind[:-1]}: {line}", markup=False)


def _tables(title: str, facts: dict) -> Iterator:
    """What is read and taken, what the examples are like, and what evaluation takes away; for 120
    columns."""
    tasks = facts["tasks"].items()
    head = ("read", "kept", "skipped", "used", "epochs", "% examples", "% input", "% target")
    yield _table(title, ("task", *head), [
        (name + (" (easy)" if f["task"] in facts["easy"] else ""), f"{f['read']:,}", f"{f['kept']:,}",
         f"{sum(f['skipped'].values()):,}", f"{f['used']:,}" if "used" in f else "-", f"{f['effective_epochs']:.2f}",
         f"{f['rate']:.1%}", f"{f['input_share']:.1%}", f"{f['target_share']:.1%}") for name, f in tasks
    ])  # fmt: skip
    head = (
        "M in",
        "M out",
        "p95 in",
        "p95 out",
        "% unk",
        "% lost",
        "% cut",
        "% EOS",
        "% dup",
        "% shared",
        "wordings",
    )
    yield _table("tokens (in: before the target, out: the target), repeats, wordings", ("task", *head), [
        (name, f"{f['input_tokens'] / 1e6:.3f}", f"{f['target_tokens'] / 1e6:.3f}", f"{f['input_length']['p95']:.0f}",
         f"{f['target_length']['p95']:.0f}", f"{f['unknown_share']:.1%}", f"{said.lost_share(f):.1%}",
         f"{f['cut_share']:.1%}",
         f"{f['eos_trained'] / max(1, f['pieces_loaded']):.0%}", f"{f['duplicate_share']:.1%}",
         f"{f['shared'] / f['kept']:.1%}", _coverage(f)) for name, f in tasks
    ])  # fmt: skip
    for x in facts["variants"]:
        yield _table(f"variants of {x['mixture']}, whose tasks do not all have each", ("variant", "asked", "got", "tasks without"), [
            (f":{v}", f"{share:.1%}", f"{x['got'][v]:.1%}", f"{len(x['without'].get(v, ())):,}") for v, share in x["asked"].items()
        ])  # fmt: skip
    if pairs := facts["leaks"]["pairs"]:
        yield _table("left out of training, for evaluation asks it", ("training task", "evaluation task", "removed", "share"),
                     [(p["train"], p["evaluation"], f"{p['removed']:,}", f"{p['share']:.1%}") for p in pairs])  # fmt: skip


def _coverage(f: dict) -> str:
    """How many wordings are used, and the smallest and the largest share of the examples that one
    of them has."""
    low, high = f["template_share"]
    return f"{f['templates']} ({100 * low:.0f}-{high:.0%})"


def _table(title: str, head: Sequence[str], rows: list[tuple[str, ...]]):
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title)
    for column in head:
        name = "task" in column
        table.add_column(
            column, justify="left" if name else "right", overflow="fold", no_wrap=not name
        )
    for row in rows:
        table.add_row(*map(escape, row))
    return table
