# SPDX-License-Identifier: Apache-2.0
"""What the audit's facts mean: errors, which stop a run, and warnings, which are printed."""

from collections.abc import Iterator

from itx.audit import sentences
from itx.audit.facts import AuditFacts
from itx.audit.leaks import LeakFacts
from itx.audit.tasks import TaskFacts
from itx.config import DataConfig, RunConfig
from itx.data import cache

# more passes are worth less than new data (Muennighoff et al., 2023)
MAX_USEFUL_EPOCHS = 4.0
MAX_UNKNOWN_SHARE = 0.01  # of a task's tokens, without a warning
MAX_NAMED = 5  # rows in one warning
MAX_CUES = 5  # warnings of cues that go with labels

Findings = Iterator[tuple[str, str]]  # ("errors" or "warnings", a line)


def judge(facts: AuditFacts, config: RunConfig) -> dict[str, list[str]]:
    """{"errors", "warnings"}: sums that do not add up, leaks, too many epochs."""
    lines: dict[str, list[str]] = {"errors": [], "warnings": []}
    for name, task in facts["tasks"].items():
        for kind, line in (*_amounts(task, config.data), *_targets(task)):
            lines[kind].append(f"task {name}: {line}")
        lines["warnings"] += _wordings(name, task)
    lines["warnings"] += faults(facts)
    lines["warnings"] += _bounded(facts, config.data)
    lines["warnings"] += map(sentences.of_variants, facts["variants"])
    lines["warnings"] += _cues(facts)
    lines["warnings"] += _evaluation(facts)
    lines["errors"] += _leaks(facts["leaks"], config.data.max_contamination)
    return lines


def _amounts(task: TaskFacts, data: DataConfig) -> Findings:
    """How much of a task is read, repeated, unknown and cut."""
    counted = task["kept"] + sum(task["skipped"].values())
    if task["read"] != counted:
        yield "errors", f"{task['read']} records read but {counted} kept or skipped"
    epochs = f"{task['effective_epochs']:.1f} epochs"
    if task["effective_epochs"] > data.max_epochs:
        yield "errors", f"{epochs}; data.max_epochs is {data.max_epochs:g}"
    elif task["effective_epochs"] > MAX_USEFUL_EPOCHS:
        yield "warnings", f"{epochs}; above {MAX_USEFUL_EPOCHS:g} little is gained"
    unknown = f"the vocabulary does not know {task['unknown_share']:.1%} of its tokens"
    if task["unknown_share"] > data.max_unknown:
        yield "errors", f"{unknown}; data.max_unknown is {data.max_unknown:g}"
    elif task["unknown_share"] > MAX_UNKNOWN_SHARE:
        yield "warnings", unknown
    if task["cut_share"] > data.max_cut:
        cut = f"{task['cut_share']:.1%} of its examples are cut to fit a row"
        yield "errors", f"{cut}; data.max_cut is {data.max_cut:g}"
    if task["duplicate_share"] > data.max_duplicates:
        repeated = f"{task['duplicate_share']:.1%} of its records repeat an input"
        yield "errors", f"{repeated}; data.max_duplicates is {data.max_duplicates:g}"


def _targets(task: TaskFacts) -> Findings:
    """Whether a task's examples have something to train on, and teach the model to stop."""
    if task["no_target"]:
        yield "errors", f"{task['no_target']} examples have no token to train on before EOS"
    eos, pieces = task["eos_trained"], task["pieces_loaded"]
    if eos < pieces:
        ended = f"only {eos} of {pieces} trained pieces end in EOS under the loss"
        if task.get("cut_targets"):
            yield "warnings", f"{ended}, for targets are cut"
        else:
            yield "errors", f"{ended}; the model would not learn to stop"
    elif eos > pieces:
        yield (
            "errors",
            f"{eos} EOS under the loss in {pieces} trained pieces; "
            "some of its texts hold what the vocabulary reads as EOS",
        )
    elif task["eos_within"]:
        yield (
            "errors",
            f"{task['eos_within']:,} EOS stand within its trained pieces, of all that it has",
        )


def _wordings(name: str, task: TaskFacts) -> list[str]:
    """Warnings about how a task's records became texts and tokens."""
    lines = sentences.of_task(name, task)
    if n := task["split_conversations"]:
        split = (
            f"task {name}: {n:,} conversations are an example for each answer, for "
            "data.chat_template writes earlier turns otherwise once others follow"
        )
        lines = [split, *lines]
    shots = task["fewshot"]
    if shots.get("fewer"):
        lines.append(
            f"task {name}: {shots['fewer']:,} renderings show fewer than {shots['asked']} "
            f"exemplars, {shots['none']:,} of them none"
        )
    return lines


def faults(facts: AuditFacts) -> list[str]:
    """A line for each task and each reason that is a fault of its data, with its first record."""
    lines: dict[tuple[str, str, str], str] = {}
    for what, tasks in (("task", facts["tasks"]), ("evaluation task", facts["evaluation"])):
        for f in tasks.values():  # variants of a task, and rows, have the same records
            for reason, record in f.get("first", {}).items():
                fault = f"records are left out ({reason})"
                if reason == cache.CONFLICT:
                    fault = (
                        "records give another answer to an input that was there before, "
                        "and the first answer is kept"
                    )
                counted = f"{f['skipped'].get(reason, 0):,} {fault}"
                line = f"{what} {f['task']}: {counted}, e.g. {record}"
                lines.setdefault((what, f["task"], reason), line)
    return list(lines.values())


def _cues(facts: AuditFacts) -> list[str]:
    """Groups of people and alphabets that go with a label, which a model may learn in place of the
    task. (How long a prompt is often is the task: that stands in the report alone.)"""
    cues = [c for c in facts["biases"]["cues"] if c["cue"].startswith(("names ", "written "))]
    lines = [
        f"task {c['task']}: the answer {c['label']!r} is {c['share']:.0%} of the {c['records']:,} "
        f"records read whose prompt {_is(c['cue'])}, {c['without']:.0%} of the others"
        for c in cues[:MAX_CUES]
    ]
    if len(cues) > MAX_CUES:
        lines.append(f"{len(cues) - MAX_CUES} further cues of labels stand in the audit")
    return lines


def _is(cue: str) -> str:
    """`names women`, `is written in Latin`."""
    return cue if cue.startswith("names ") else f"is {cue}"


def _bounded(facts: AuditFacts, data: DataConfig) -> list[str]:
    """What data.train_examples leaves out, which somebody else's recipe may have chosen."""
    tasks = {f["task"]: f for f in facts["tasks"].values()}
    left_out = [f["skipped"].get("beyond data.train_examples", 0) for f in tasks.values()]
    if not any(left_out):
        return []
    return [
        f"data.train_examples={data.train_examples} leaves out {sum(left_out):,} examples of "
        f"{sum(map(bool, left_out))} tasks"
    ]


def _evaluation(facts: AuditFacts) -> list[str]:
    """Warnings about what is not scored, scored on little, or not looked for."""
    lines = []
    if unscored := facts["unscored"]:
        lines.append(
            f"{len(unscored)} tasks or rows of evaluation are not scored, for they have no such "
            f"split, no example or no metric: {sentences.first_of(unscored, MAX_NAMED)}"
        )
    if halved := sorted({f["task"] for f in facts["evaluation"].values() if f["halved"]}):
        lines.append(
            f"{len(halved)} tasks are scored on half of a validation split, as they ask: "
            f"{', '.join(halved)}"
        )
    if why := facts["leaks"]["untested"]:
        lines.append(
            "what evaluation asks was not looked for in the training data: "
            f"{why}; build the data again"
        )
    if why := facts["unretained"]:
        lines.append(f"what tuning costs in plain text is not measured: {why}")
    return lines


def _leaks(leaks: LeakFacts, max_share: float) -> list[str]:
    """Errors: too much left out, exemplars that give the answer away, records still there."""
    removed = [
        f"task {p['train']}: {p['share']:.1%} of its records are in evaluation task "
        f"{p['evaluation']} and left out; data.max_contamination is {max_share:g}"
        for p in leaks["pairs"]
        if p["share"] > max_share
    ]
    exemplars = [
        f"{x['of']}: {x['records']} renderings show an exemplar that {x['how']}"
        for x in leaks["exemplars"]
    ]
    left = [
        f"task {p['train']}: {p['records']} training records are in evaluation task "
        f"{p['evaluation']} ({p['how']}); build the data again"
        for p in leaks["left"]
    ]
    return [*removed, *exemplars, *left]
