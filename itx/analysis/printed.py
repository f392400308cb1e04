# SPDX-License-Identifier: Apache-2.0
"""The report as a terminal shows it."""

from collections.abc import Iterator

from itx.analysis import words
from itx.audit.sentences import accounts
from itx.eval.tables import console, cut_lines, percent, shown, table


def print_report(facts: dict) -> None:
    """The averages before and after, and sentences about the rest."""
    rows = []
    for g in facts["groups"]:
        before, after = g.get("before"), g["after"]
        score = shown(after["score"], after["score_interval"])
        numbers = (after["tasks"], len(after["clusters"]))
        rows.append([g["label"], shown(before["score"]) if before else "-", score])
        rows[-1] += [shown(after["chance"]), percent(after["none_of_options"])]
        rows[-1] += [*map(str, numbers), g["says"]]
    title = "scores averaged over tasks, then clusters; 95 % intervals"
    head = ("group", "before", "after", "chance", "none of the options", "tasks", "clusters", "")
    out = console()
    out.print(table(title, head, rows, left=("group", "")))
    for line in _lines(facts):
        out.print(line, markup=False)


def _lines(facts: dict) -> Iterator[str]:
    loss, evaluation = facts["loss"], facts["evaluation"]
    if loss["total"]:
        entropy = loss["unigram_entropy"]
        known = f"; unigram entropy of targets {entropy:.3f}" if entropy else ""
        first, last = loss["total"][0], loss["total"][-1]
        yield f"loss {first:.3f} -> {last:.3f}{known}; {loss['skipped_steps']} steps skipped"
        yield from loss["notes"]
    if facts["goodput"]:
        yield facts["goodput"]["says"]
    if looks := facts["dev"]:
        steps = ", ".join(f"{shown(x['mean'])} at step {x['step']}" for x in looks)
        yield f"trained tasks on dev while training (0: chance, 1: all right): {steps}"
    for g in words.information_groups(facts):
        yield (
            f"the instruction tells, {g['label']}: {words.told(g, 'swapped')} bits against another "
            f"task's, {words.told(g, 'removed')} against none ({g['examples']} examples)"
        )
    yield from retention_lines(facts["retention"])
    yield from safety_lines(facts["safety"])
    if facts["audit"]:
        yield accounts(facts["audit"])
    yield (
        f"scored on {words.splits(evaluation)}, eval.max_examples="
        f"{words.examples_per_row(evaluation)} contents per row in every template; "
        f"{words.easy(facts)}"
    )
    yield from words.scope(evaluation)
    yield from cut_lines(facts["rows"])
    yield from words.lines(facts["summary"])


def retention_lines(measured: dict | None) -> list[str]:
    """Bits per byte before and after, a line for each text."""
    if measured is None:
        return []
    if "unretained" in measured:
        return [f"retention: not measured, for {measured['unretained']}"]
    before = {
        name: f"{t['bits_per_byte']:.3f} -> " for name, t in measured.get("before", {}).items()
    }
    return [
        f"retention on {name}: {before.get(name, '')}"
        f"{t['bits_per_byte']:.3f} bits per byte ({t['bytes']:,} bytes, {t['objective']})"
        for name, t in measured.get("after", {}).items()
    ]


def safety_lines(measured: dict | None) -> list[str]:
    """What is declined before and after, a line for each kind of request."""
    if measured is None:
        return []
    if "unasked" in measured:
        return [f"requests to decline: not asked, for {measured['unasked']}"]
    lines = [f"declines {words.declined(g)}" for g in measured["groups"] if not g["language"]]
    if measured["left_out"]:
        why = next(iter(measured["left_out"].values()))
        lines.append(f"{len(measured['left_out'])} pairs of requests were not asked: {why}, …")
    return lines
