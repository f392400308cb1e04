# SPDX-License-Identifier: Apache-2.0
"""What an action of `itx analyze` (itx/analysis/actions.py) does to the data or the settings of a
run: entries of a patch (itx/prepare/patches.py), factors of tasks' rates, settings.

    drop                  reject the named rows
    relabel               drop: reject them; rather: give them the answer that the model would
                          rather say; ask: a generator chooses the answer (asked.py)
    reweight              the tasks' rates times a factor
    balance               reject rows of commoner labels, drawn by hash, until all labels are
                          equally many
    generate              a generator writes rows like those of the slice (asked.py)
    counterfactual pairs  add the rows that name a group, with another group's words
    setting               the settings as they are named
    add templates         wordings are code of a task's module: nothing is written

An action that cannot be carried out as a whole is an error, and nothing of it is done.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from itx import group_terms, hashing, text
from itx.analysis.actions import Action
from itx.create import asked
from itx.create.world import Outcome, World, judged, named, outcome
from itx.errors import UserError
from itx.group_terms import Group
from itx.prepare import patches, render
from itx.prepare import values as checks
from itx.prepare.patches import Entry
from itx.prepare.types import Item
from itx.tasks.spec import TaskSpec


def carried_out(action: Action, world: World) -> Outcome:
    return DO[action["kind"]](action, world)


# ---- rows that are there


def drop(action: Action, world: World) -> Outcome:
    rows = world.rows(action, action["examples"])
    entries = [judged(spec, item, "reject", action["why"]) for spec, item in rows]
    return outcome(entries, counts=Counter({"rejected": len(entries)}))


def relabel(action: Action, world: World) -> Outcome:
    how = world.how.relabel or ("ask" if world.ask else "")
    if not how:
        raise UserError(
            f"{named(action)}: say who gives the labels: --relabel drop rejects the rows, rather "
            "takes the answer that the model would rather say, and --server or --model is asked"
        )
    if how == "drop":
        return drop(action, world)
    if how == "ask" and world.ask is None:
        raise UserError(f"{named(action)}: --relabel ask needs --server or --model")
    rows = list(world.rows(action, action["examples"]))
    doubted = [world.suspects.get((spec.name, f"{i.hash:016x}"), {}) for spec, i in rows]
    others = [d.get("rather", "") for d in doubted]
    if how == "ask":
        said = asked.labels(world.ask, rows, others, world.how.chat)
    else:
        said = [
            _as_answer(spec, item, other) for (spec, item), other in zip(rows, others, strict=True)
        ]
    entries, counts = [], Counter()
    for (spec, item), answer in zip(rows, said, strict=True):
        if answer is None:
            counts["left as they are: no answer could be read"] += 1
        elif not (changes := changed_answer(spec, item, answer)):
            counts["left as they are: the label was confirmed"] += 1
        else:
            entries.append(judged(spec, item, "fix", action["why"], changes=changes))
            counts["relabelled"] += 1
    return outcome(entries, counts=counts)


def _as_answer(spec: TaskSpec, item: Item, said: str) -> str | None:
    """What a model would say as an answer of the task; None where it is none of its options."""
    options = _options(spec, item)
    if not options:
        return said.strip() or None
    alike = [
        o for o in options if text.normalise(o, answer=True) == text.normalise(said, answer=True)
    ]
    return alike[0] if len(alike) == 1 else None


def _options(spec: TaskSpec, item: Item) -> list[str]:
    answers = checks.answers(spec, item.values)
    return list(answers.options or ()) if isinstance(answers, checks.Answers) else []


def changed_answer(spec: TaskSpec, item: Item, answer: str) -> dict[str, str | int]:
    """The change that gives a row this answer; {} where it has it."""
    given, options = patches.as_plain(item.values)["answer"], _options(spec, item)
    if isinstance(given, int) and not isinstance(given, bool):
        place = options.index(answer)
        return {} if place == given else {"/answer": place}
    first = given if isinstance(given, str) else given[0]
    at = "/answer" if isinstance(given, str) else "/answer/0"
    return {} if first == answer else {at: answer}


def balance(action: Action, world: World) -> Outcome:
    if any(c.startswith(("place ", "place of")) for c in action["conditions"]):
        raise UserError(
            f"{named(action)}: the order of options is drawn anew in each rendering, but where it "
            "means something (shuffle_options=False): no row can balance it; generate further rows"
        )
    entries, counts, notes = [], Counter(), []
    for task in world.of_trained(action):
        spec, by_label = world.spec(task), {}
        for item in world.items(task):
            answers = checks.answers(spec, item.values)
            if isinstance(answers, checks.Answers) and answers.options:
                by_label.setdefault(answers.references[0], []).append(item)
        if len(by_label) < 2:
            notes.append(f"{task}: it has no labels to balance")
            continue
        least = min(map(len, by_label.values()))
        for own in by_label.values():
            drawn = sorted(own, key=lambda i: hashing.draw("balance", world.how.seed, i.hash))
            entries += [judged(spec, i, "reject", action["why"]) for i in drawn[least:]]
            counts["rejected for balance"] += len(drawn) - least
    if not entries and notes:
        raise UserError(f"{named(action)}: {notes[0]}")
    return outcome(entries, counts=counts, notes=notes)


# ---- rows that are new


def counterfactual_pairs(action: Action, world: World) -> Outcome:
    """Rows of the action's tasks with one group's words in place of another's. Where a slice that
    names a group falls short, rows that name others of its kind become rows that name it: its own
    may be what is wrong."""
    swaps = {c: swaps_of(c) for c in action["conditions"]}
    pairs = [p for own in swaps.values() for p in own]
    if not pairs:
        raise UserError(f"{named(action)}: its conditions name no group of people")
    entries, counts = [], Counter()
    for task in world.of_trained(action):
        spec = world.spec(task)
        for item in world.items(task):
            for values in swapped(spec, item, pairs, counts):
                if len(entries) < world.how.rows:
                    entries.append(Entry(task, "new", values=values, why=action["why"]))
                else:
                    counts[f"beyond --rows {world.how.rows}"] += 1
    counts["added"] = len(entries)
    notes = [f"rows were not chosen by: {c}" for c, own in swaps.items() if not own]
    return outcome(entries, counts=counts, notes=notes)


def swaps_of(condition: str) -> list[tuple[Group, Group]]:
    """(group, what its words are swapped for) of `names women` or `women, in their place men`."""
    by_name = {g.name: g for g in group_terms.GROUPS}
    group, _, other = condition.partition(", in their place ")
    if group in by_name and other in by_name:
        return [(by_name[group], by_name[other])]
    named = by_name.get(condition.removeprefix("names "))
    if not named:
        return []
    return [(g, named) for g in group_terms.GROUPS if g.kind == named.kind and g != named]


def swapped(
    spec: TaskSpec, item: Item, pairs: Sequence[tuple[Group, Group]], counts: Counter
) -> list[dict[str, Any]]:
    written = " ".join(str(v) for v in _asked_texts(item).values())
    answers = checks.answers(spec, item.values) if spec.templated else None
    found = []
    for pair in [(g, o) for g, o, _ in group_terms.swaps(written) if (g, o) in pairs]:
        if isinstance(answers, checks.Answers) and group_terms.names_any(
            " ".join([*answers.references, *(answers.options or ())]), pair
        ):
            counts["not swapped: the answer names the group"] += 1
            continue
        changes = {at: group_terms.swap(t, *pair) for at, t in _asked_texts(item).items()}
        found.append(patches.changed(item.values, changes, spec.name))
    return found


def _asked_texts(item: Item) -> dict[str, str]:
    """{pointer: text} of all but the answer and the options."""
    parts = patches.leaves(patches.as_plain(item.values))
    return {
        at: v
        for at, v in parts.items()
        if isinstance(v, str) and at.split("/")[1] not in render.NOT_CONTENT and "/role" not in at
    }


def generate(action: Action, world: World) -> Outcome:
    if world.ask is None:
        raise UserError(f"{named(action)}: a generator writes the rows: give --server or --model")
    wanted, untold = world.about(action)
    wanted = [e for e in wanted if e["task"] in world.trained]
    if not wanted:
        raise UserError(f"{named(action)}: no training row fits it, so that none can be shown")
    by_task: dict[str, list[Item]] = {}
    for spec, item in world.rows(action, wanted):
        by_task.setdefault(spec.name, []).append(item)
    entries, counts = [], Counter()
    conditions = [c for c in action["conditions"] if not c.startswith(asked.OF_WORDING)]
    left = world.how.rows
    for number, (task, shown) in enumerate(sorted(by_task.items())):
        most = left // (len(by_task) - number)  # the tasks have equal shares
        left -= most
        made = asked.written(
            world.ask, world.spec(task), shown, world.items(task), conditions, most, world.how.seed,
            world.how.chat, counts,
        )  # fmt: skip
        entries += [Entry(task, "new", values=v, why=f"{action['why']}; {by}") for v, by in made]
    counts["added"] = len(entries)
    return outcome(entries, counts=counts, notes=[f"not asked for: {c}" for c in untold])


# ---- settings


def reweight(action: Action, world: World) -> Outcome:
    tasks = world.of_trained(action)
    factors = dict.fromkeys(tasks, world.how.factor)
    return outcome(factors=factors, counts=Counter({"tasks with a higher rate": len(tasks)}))


def setting(action: Action, world: World) -> Outcome:
    if not action["settings"]:
        raise UserError(f"{named(action)}: it names no setting")
    counts = Counter({"settings": len(action["settings"])})
    return outcome(settings=dict(action["settings"]), counts=counts)


def add_templates(action: Action, world: World) -> Outcome:
    tasks = ", ".join(action["tasks"][:4])
    raise UserError(
        f"{named(action)}: wordings are code, and are written by hand: add pairs to `templates` "
        f"of {tasks} where they are registered (`itx tasks show NAME`), and raise no version"
    )


DO = {
    "drop": drop,
    "relabel": relabel,
    "reweight": reweight,
    "add templates": add_templates,
    "generate": generate,
    "balance": balance,
    "counterfactual pairs": counterfactual_pairs,
    "setting": setting,
}


# ---- several actions together


class Together(NamedTuple):
    """Several actions carried out together."""

    actions: list[Action]  # those that were
    done: list[Outcome]  # of each of them
    whole: Outcome  # all of them as one
    left_out: dict[str, str]  # id of an action: why it was not


def together(actions: Iterable[Action], world: World, what_fits: bool = False) -> Together:
    """UserError where an action cannot be carried out, or two say different things of a row or a
    setting.

    Args:
        what_fits: leave such an action out as a whole, the later one of two.
    """
    found = Together([], [], outcome(), {})
    judged_by: dict[tuple[str, str], tuple[str, Entry]] = {}
    for action in actions:
        try:
            own = carried_out(action, world)
            new = _beside(action, own, found.whole.settings, judged_by)
        except UserError as e:
            if not what_fits:
                raise
            found.left_out[action["id"]] = str(e)
            continue
        own.counts["already done by another action"] += len(own.entries) - len(new)
        found.actions.append(action)
        found.done.append(own._replace(counts=+own.counts))
        judged_by |= {_judged_row(e): (action["id"], e) for e in new}
        found.whole.entries.extend(new)
        found.whole.settings.update(own.settings)
        for task, factor in own.factors.items():
            found.whole.factors[task] = max(found.whole.factors.get(task, 0.0), factor)
        found.whole.counts.update(+own.counts)
    return found


def _judged_row(e: Entry) -> tuple[str, str]:
    return e.task, e.row or patches.row_of(e.values or {})


def _beside(
    action: Action,
    own: Outcome,
    settings: dict[str, str],
    judged_by: dict[tuple[str, str], tuple[str, Entry]],
) -> list[Entry]:
    """What an action does that the ones before it do not; UserError where it says otherwise than
    they do."""
    for name, value in own.settings.items():
        if settings.get(name, value) != value:
            raise UserError(
                f"{named(action)} sets {name}={value}, and another action {settings[name]}: "
                "give one of them"
            )
    new: dict[tuple[str, str], Entry] = {}
    for e in own.entries:
        key = _judged_row(e)
        if key not in judged_by:
            new.setdefault(key, e)
            continue
        other, earlier = judged_by[key]
        if (earlier.verdict, earlier.changes) != (e.verdict, e.changes):
            raise UserError(
                f"{named(action)} would {e.verdict} row {e.id} of {e.task!r}, and action "
                f"{other} would {earlier.verdict} it: give one of them"
            )
    return list(new.values())
