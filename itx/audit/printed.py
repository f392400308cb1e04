# SPDX-License-Identifier: Apache-2.0
"""The audit as a terminal shows it; its tables fit 120 columns."""

from collections import Counter
from collections.abc import Iterator

from itx.audit import sentences
from itx.audit.facts import AuditFacts
from itx.audit.mixture import MixtureFacts
from itx.audit.tasks import TaskFacts
from itx.eval import tables
from itx.leaks.contamination import TESTED
from itx.text import visible


def print_audit(facts: AuditFacts, tasks: bool = True) -> None:
    """The audit as tables; without `tasks` its sums, warnings and errors alone."""
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
    for line in _lines(facts):
        console.print(line, markup=False)


def _lines(facts: AuditFacts) -> Iterator[str]:
    yield sentences.accounts(facts)
    leaks = facts["leaks"]
    dropped = sum(p["dropped"] for p in leaks["dropped"])
    tested = (
        f"{len(leaks['left'])} pairs of tasks still touch; tested for {TESTED}; not for paraphrase"
    )
    if leaks["untested"]:
        tested = f"not tested again: {leaks['untested']}"
    yield f"leaks: {dropped} training records left out, {tested}"
    yield from _patches(facts)
    yield from _mixture(facts["mixture"])
    for x in facts["left_out"]:
        yield f"left out of {x['mixture']}: {x['task']} ({x['reason']})"
    for task, why in sorted(facts["easy"].items()):
        yield f"easy: {task} ({why}); left out of averages that have others"
    for kind in ("warnings", "errors"):
        for line in facts[kind]:
            yield f"{kind[:-1]}: {line}"


def _patches(facts: AuditFacts) -> Iterator[str]:
    for p in facts["patches"]:
        by = f" by {visible(p['editor'])}" if p["editor"] else ""
        yield f"patch {visible(p['file'])}{by}: {p['entries']:,} rows judged"
        for task, n in p["untrained"].items():
            yield f"patch {visible(p['file'])}: {n:,} rows of {task}, which is not trained on"
    done: Counter = Counter()
    for counts in facts["patched"].values():
        done.update(counts)
    if done:
        said = ", ".join(f"{n:,} {what}" for what, n in sorted(done.items()))
        yield f"patches of {len(facts['patched'])} tasks: {said}"


def _mixture(m: MixtureFacts) -> Iterator[str]:
    yield f"unigram entropy of targets {m['unigram_entropy']:.3f} nats/token"
    if len(caps := m["loss_positions"]) > 1:
        shares = ", ".join(f"{n} in {share:.0%} of steps" for n, share in caps.items())
        yield f"logits at {shares}; targets fill {m['filled_sides'][1]:.0%} of them"
    if pair := m["lengths"]:
        now, then = (" and ".join(f"{f:.0%}" for f in pair[k]) for k in ("filled_now", "filled"))
        yield (
            f"lengths: tokens fill {now} of encoder and decoder rows; "
            f"data.sequence_length={pair['sequence_length']} and "
            f"data.target_length={pair['target_length']} would fill {then}"
        )


# {column: what stands there of a task and its facts}, after the task's name
RECORDS = {
    "read": lambda f: f"{f['read']:,}",
    "kept": lambda f: f"{f['kept']:,}",
    "skipped": lambda f: f"{sum(f['skipped'].values()):,}",
    "used": lambda f: f"{f['used']:,}" if "used" in f else "-",
    "epochs": lambda f: f"{f['effective_epochs']:.2f}",
    "% examples": lambda f: f"{f['rate']:.1%}",
    "% input": lambda f: f"{f['input_share']:.1%}",
    "% target": lambda f: f"{f['target_share']:.1%}",
}
TOKENS = {
    "M in": lambda f: f"{f['input_tokens'] / 1e6:.3f}",
    "M out": lambda f: f"{f['target_tokens'] / 1e6:.3f}",
    "p95 in": lambda f: f"{f['input_length']['p95']:.0f}",
    "p95 out": lambda f: f"{f['target_length']['p95']:.0f}",
    "% unk": lambda f: f"{f['unknown_share']:.1%}",
    "% lost": lambda f: f"{sentences.lost_share(f):.1%}",
    "% cut": lambda f: f"{f['cut_share']:.1%}",
    "% EOS": lambda f: f"{f['eos_trained'] / max(1, f['pieces_loaded']):.0%}",
    "% dup": lambda f: f"{f['duplicate_share']:.1%}",
    "% shared": lambda f: f"{f['shared'] / f['kept']:.1%}",
    "wordings": lambda f: _wordings(f),
}


def _wordings(f: TaskFacts) -> str:
    """How many wordings are used, and the smallest and the largest share of the examples that one
    of them has."""
    low, high = f["template_share"]
    return f"{f['templates']} ({100 * low:.0f}-{high:.0%})"


def _tables(title: str, facts: AuditFacts) -> Iterator:
    """What is read and taken, what the examples are like, and what evaluation takes away."""

    def table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]):
        names = [column for column in head if "task" in column]
        return tables.table(title, head, rows, left=names, fold=True)

    tasks, easy = facts["tasks"].items(), facts["easy"]
    rows = [
        (name + " (easy)" * (f["task"] in easy), *(cell(f) for cell in RECORDS.values()))
        for name, f in tasks
    ]
    yield table(title, ("task", *RECORDS), rows)
    rows = [(name, *(cell(f) for cell in TOKENS.values())) for name, f in tasks]
    title = "tokens (in: before the target, out: the target), repeats, wordings"
    yield table(title, ("task", *TOKENS), rows)
    for x in facts["variants"]:
        rows = [
            (f":{v}", f"{share:.1%}", f"{x['got'][v]:.1%}", f"{len(x['without'].get(v, ())):,}")
            for v, share in x["asked"].items()
        ]
        title = f"variants of {x['mixture']}, whose tasks do not all have each"
        yield table(title, ("variant", "asked", "got", "tasks without"), rows)
    if pairs := facts["leaks"]["pairs"]:
        rows = [
            (p["train"], p["evaluation"], f"{p['removed']:,}", f"{p['share']:.1%}") for p in pairs
        ]
        head = ("training task", "evaluation task", "removed", "share")
        yield table("left out of training, for evaluation asks it", head, rows)
