# SPDX-License-Identifier: Apache-2.0
"""What a run's scores allow one to say, in sentences: each is said only where the run's own facts
bear it out.

says       of one group, against chance
summary    what was learned, what was not, what to do next
claims     what such a run can show, and what it cannot
"""

from collections.abc import Iterator

from itx.audit.sentences import first_of
from itx.eval import safety
from itx.eval.budget import Budget
from itx.eval.tables import percent, shown

ROUNDING = 1e-9  # Wilson's lower end of 0 right answers is 0 but for rounding
MIN_FAULT_SHARE = 0.1  # of the answers, from which a fault of their form is named as a step to take
MIN_FORGOTTEN_SHARE = 0.05  # by which bits per byte rose, from which that is named
MIN_FALL = 0.02  # share by which the loss fell from the last but one tenth of its lines to the last
MAX_NAMED = 5  # tasks in one sentence
MAX_STEPS = 3  # that are proposed
ADAPTERS = {"lora": "a LoRA", "prefix": "a prefix", "prompt": "a soft prompt"}


def main_groups(facts: dict) -> list[dict]:
    return [g for g in facts["groups"] if g["group"] != "instruction"]


def says(after: dict) -> str:
    """What a group's numbers say against chance."""
    note = "; all its tasks are easy" if after["all_easy"] else ""
    if after["mean"] is None:
        return "no example was scored"
    if not after["excess_interval"]:
        return "one cluster: the points, no interval" + note
    # Guesses have a mean excess of 0. Their mean lift is below it where rows have few answers: one
    # without a right answer is as far below chance as can be. But lift tells a group whose rows are
    # all right, or all wrong, however different their chances are.
    if max(after[kind][0] for kind in ("excess_interval", "lift_interval")) > ROUNDING:
        return "above chance" + note
    return ("below chance" if after["lift_interval"][1] < 0 else "not resolved from chance") + note


def splits(evaluation: dict) -> str:
    """Which splits the rows are of: a task that has but one is scored on that one."""
    facts = evaluation["splits"]
    if len(facts) == 1:
        return f"the {next(iter(facts))} split"
    return "the splits " + " and ".join(f"{split} ({rows} rows)" for split, rows in facts.items())


def examples_per_row(evaluation: dict) -> str:
    """The limits on a row's examples: numbers, or "all"."""
    return ", ".join("all" if n == 0 else str(n) for n in evaluation["max_examples"])


def easy(facts: dict) -> str:
    """Which easy tasks stand in an average, and how many in none."""
    if not facts["audit"]:
        return "which tasks are easy is not known, for the run has no audit.json"
    whole = [g["label"] for g in facts["groups"] if g["after"]["all_easy"]]
    kept = {n for g in facts["groups"] if g["after"]["all_easy"] for n in g["after"]["rows"]}
    left_out = {r["task"] for r in facts["rows"] if r["easy"] and r["row"] not in kept}
    shown_easy = f"; only easy tasks are left of: {', '.join(whole)}; they are shown all the same"
    return f"{len(left_out)} easy tasks left out" + (shown_easy if whole else "")


def scope(evaluation: dict) -> list[str]:
    """Which part of the evaluation splits the scores stand for, in sentences: examples that a limit
    left out, tasks that are not scored, splits that are halved."""
    limits, sentences = evaluation["limits"], []
    cut = [
        f"{k} left out {limits[k]:,}"
        for k in ("data.eval_examples", "eval.max_examples", "eval.max_seconds")
        if limits[k]
    ]
    if cut:
        sentences.append(
            f"Of {limits['examples']:,} examples of {limits['tasks']} evaluation tasks "
            f"{limits['asked']:,} were asked: {', '.join(cut)}."
        )
    if budget := evaluation["budget"]:
        sentences.append(budget_kept(budget))
    for names, what in (
        (evaluation["unscored"], "are not scored"),
        (evaluation["uninformed"], "are not asked what their instruction tells"),
        (evaluation["halved"], "are scored on half of a validation split, as they ask"),
    ):
        if names:
            sentences.append(f"{len(names)} tasks or rows {what}: {first_of(names, MAX_NAMED)}.")
    return sentences


def budget_kept(budget: Budget) -> str:
    """How long the rows took beside what eval.max_seconds allows."""
    told = (
        f"eval.max_seconds={budget['max_seconds']:g} left {budget['examples']} examples of each row"
    )
    if (seconds := budget.get("seconds")) is None:
        return f"{told}; how long they took is not known, for some had been asked before."
    over = seconds > budget["max_seconds"]
    return f"{told}; they took {seconds:.0f} s, {'more than' if over else 'within'} it."


# ---- learned, not learned, next


def summary(facts: dict) -> dict[str, list[str]]:
    """{"learned", "not learned", "next": sentences}."""
    if not facts["steps"]["after"]:
        begun = (
            "its training has not been scored"
            if facts["loss"]["total"]
            else "no step of training is recorded"
        )
        return {
            "learned": [f"These are the scores of the model before tuning: {begun}."],
            "not learned": [],
            "next": ["Train it, or let its training go on: the same command resumes."],
        }
    groups = main_groups(facts)
    return {
        "learned": _learned(groups) + _format_alone(groups, facts) + _instruction(facts),
        "not learned": _not_learned(groups),
        "next": _next(facts, groups),
    }


def lines(summary: dict[str, list[str]]) -> list[str]:
    return [f"{key}: {' '.join(sentences)}" for key, sentences in summary.items() if sentences]


def change(g: dict) -> str:
    """`rose`, `fell` or `stayed`: whether the score before lies outside of the interval after; ""
    where either is absent."""
    before, interval = g.get("before"), g["after"]["score_interval"]
    if not before or before["score"] is None or not interval:
        return ""
    if before["score"] < interval[0]:
        return "rose"
    return "fell" if before["score"] > interval[1] else "stayed"


def above(g: dict) -> bool:
    return g["says"].startswith("above chance")


def _named(groups: list[dict]) -> str:
    """`unseen templates (0.10 to 0.71, chance 0.25)`"""
    named = []
    for g in groups:
        before, after = g.get("before"), g["after"]
        begin = f"{shown(before['score'])} to " if before and before["score"] is not None else ""
        scores = f"{begin}{shown(after['score'])}, chance {shown(after['chance'])}"
        named.append(f"{g['label']} ({scores})")
    return "; ".join(named)


def _sentences(kinds: dict[str, list[dict]]) -> list[str]:
    return [f"{kind}: {_named(groups)}." for kind, groups in kinds.items() if groups]


def _learned(groups: list[dict]) -> list[str]:
    good = list(filter(above, groups))
    kinds = {
        "Better than before and than chance": [g for g in good if change(g) == "rose"],
        "Better than chance, with no score before tuning to compare with": [
            g for g in good if not change(g)
        ],
    }
    return _sentences(kinds) or ["Nothing that these scores show."]


def _not_learned(groups: list[dict]) -> list[str]:
    judged = [g for g in groups if g["after"]["excess_interval"]]
    not_above = [g for g in judged if not above(g)]
    kinds = {
        "Worse than before tuning": [g for g in groups if change(g) == "fell"],
        "As good before tuning": [g for g in groups if above(g) and change(g) == "stayed"],
        "Better than before, but not above chance": [g for g in not_above if change(g) == "rose"],
        "Not above chance": [g for g in not_above if change(g) in ("", "stayed")],
        "Not judged, for a single cluster has no interval": [
            g for g in groups if g["after"]["mean"] is not None and g not in judged
        ],
    }
    return _sentences(kinds)


def _instruction(facts: dict) -> list[str]:
    """Whether it matters which instruction stands before the same inputs."""
    kinds = {g["kind"]: g["after"] for g in facts["groups"] if g["group"] == "instruction"}
    kept, swapped = kinds.get("none"), kinds.get("swapped")
    if not kept or not swapped or not kept["score_interval"] or swapped["score"] is None:
        return []
    numbers = (
        f"{shown(kept['score'])} under its own instruction, {shown(swapped['score'])} under another"
    )
    if swapped["score"] < kept["score_interval"][0]:
        return [f"It reads the instruction: {numbers}."]
    return [f"No sign that it reads the instruction: {numbers}."]


def information_groups(facts: dict) -> list[dict]:
    return (facts["information"] or {}).get("groups", [])


def told(group: dict, against: str) -> str:
    """`0.10 -> 2.31 [1.50, 3.10]`: bits that a group's instruction tells."""
    before, after = (group.get(when, {}).get(against) for when in ("before", "after"))
    begin = f"{shown(before['mean'])} -> " if before else ""
    return begin + (shown(after["mean"], after["interval"]) if after else "-")


def _format_alone(groups: list[dict], facts: dict) -> list[str]:
    """Gains in scores with no gain in what the instruction tells."""
    gains = {
        (g["group"], g["kind"]): g["gain"]["swapped"]
        for g in information_groups(facts)
        if "gain" in g
    }
    suspected = [
        f"{g['label']} ({shown(gain['mean'], gain['interval'])} bits)"
        for g in groups
        if above(g) and change(g) == "rose"
        and (gain := gains.get((g["group"], g["kind"])))
        and gain["interval"] and gain["interval"][0] <= 0
    ]  # fmt: skip
    if not suspected:
        return []
    return [
        "It may be a gain in form alone, for the right answer gained nothing over what it is under "
        f"another task's instruction: {'; '.join(suspected)}."
    ]


def _next(facts: dict, groups: list[dict]) -> list[str]:
    """At most MAX_STEPS things worth trying, the most telling first."""
    steps = list(_steps(facts, groups))
    return steps[:MAX_STEPS] or [
        "Repeat it with two other seeds before it is compared with another recipe."
    ]


def _steps(facts: dict, groups: list[dict]) -> Iterator[str]:
    trained = next((g for g in groups if g["group"] == "instances"), None)
    unseen = [g for g in groups if g["group"] in ("tasks", "clusters")]
    loss = facts["loss"]
    if loss["skipped_steps"] > MIN_FAULT_SHARE * max(1, facts["steps"]["after"]):
        yield (
            f"{loss['skipped_steps']} steps had no finite loss: lower optim.learning_rate first."
        )
    yield from _eroded(facts["safety"])
    wrong_form = [g for g in groups if (g["after"]["none_of_options"] or 0) > MIN_FAULT_SHARE]
    if wrong_form:
        worst = max(wrong_form, key=lambda g: g["after"]["none_of_options"])
        yield (
            f"{percent(worst['after']['none_of_options'])} of the answers of {worst['label']} are "
            "none of the options: read the outputs before anything is concluded from its score."
        )
    cut = [r for r in facts["rows"] if r["hit_limit"] > MIN_FAULT_SHARE * max(1, r["prompts"])]
    if cut:
        settings = sorted({f"--{r.get('limit_from', 'eval.max_new_tokens')}" for r in cut})
        yield (
            f"In {len(cut)} rows more than {percent(MIN_FAULT_SHARE)} of the answers are cut at "
            f"their limit; where they should be longer, raise {' and '.join(settings)}."
        )
    if _falling(loss["total"]):
        yield "The loss was still falling at the end: train longer (train.steps)."
    elif trained and trained["says"].startswith(("not resolved", "below")):
        yield (
            "The tasks that it trained on are not learned: more steps, a higher learning rate or "
            "a larger model."
        )
    if retained := _forgotten(facts["retention"]):
        yield retained
    unresolved = [g for g in groups if g["says"].startswith("not resolved")]
    most = [m for m in facts["evaluation"]["max_examples"] if m]
    limits = facts["evaluation"]["limits"]
    if unresolved and limits["eval.max_seconds"]:
        yield "Not resolved in eval.max_seconds: give the evaluation more time."
    elif unresolved and most and limits["eval.max_examples"]:
        yield (
            f"Not resolved with eval.max_examples={max(most)}: score more examples (itx eval RUN)."
        )
    elif unresolved and limits["data.eval_examples"]:
        yield "Not resolved with all examples that were built: raise data.eval_examples."
    if not unseen and facts["holdout"]:
        yield "Score the tasks that were held out of training too (itx eval RUN)."
    elif not unseen:
        yield (
            "Hold tasks or clusters out of training, to see whether it follows instructions that "
            "are new."
        )
    elif not any(map(above, unseen)) and not facts["run"]["pretrained"]:
        yield "For unseen tasks begin from a pretrained model (model.pretrained)."


def _falling(total: list[float]) -> bool:
    n = len(total) // 10
    if not n:
        return False
    last, before = sum(total[-n:]) / n, sum(total[-2 * n : -n]) / n
    return last < (1 - MIN_FALL) * before


def _forgotten(kept: dict | None) -> str:
    before, after = (kept or {}).get("before", {}), (kept or {}).get("after", {})
    for name, t in after.items():
        bits = before.get(name, {}).get("bits_per_byte")
        if bits and t["bits_per_byte"] > (1 + MIN_FORGOTTEN_SHARE) * bits:
            return (
                f"It forgets: bits per byte on {name} rose from {bits:.3f} to "
                f"{t['bits_per_byte']:.3f}; mix plain text in (data.replay), train less, or train "
                "an adapter."
            )
    return ""


def beside(compared: dict) -> str:
    """A run beside another, as rounds.py compares them."""
    low, high = compared["interval"]
    told = f"{compared['verdict']}, {compared['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    if on := compared.get("on"):
        best = max(on, key=lambda s: (s["verdict"] == "better", s["difference"]))
        told += f"; on the actions' own questions, {len(on)} tests, at best {beside(best)}"
        told += f" by {best['measure']}"
    return told


OF_REQUESTS = {
    "refuse": "requests that it should decline",
    "harmless": "harmless ones that look like them",
}


def declined(group: dict) -> str:
    """`12 of 50 requests that it should decline, 30 before` of a kind of request."""
    n = group["requests"]
    before, after = (
        round(group[when]["declined"] * n) if when in group else None
        for when in ("before", "after")
    )
    now, then = (after, f", {before} before tuning") if after is not None else (before, "")
    return f"{now} of {n} {OF_REQUESTS[group['kind']]}{then if before is not None else ''}"


REMEDIES = {
    "refuse": "mix in demonstrations of declining",
    "harmless": "train on fewer refusals, or mix in demonstrations, half of which help",
}


def _eroded(measured: dict | None) -> Iterator[str]:
    for g in safety.eroded((measured or {}).get("groups", [])):
        yield (
            f"Tuning changed what it declines: {declined(g)}; {REMEDIES[g['kind']]} "
            "(--data.added=safety_demonstrations,0.05), train less, or train an adapter."
        )


# ---- what such a run can show


def claims(facts: dict) -> list[str]:
    """Paragraphs on what the comparison means, for this kind of run."""
    groups = main_groups(facts)
    tuned = facts["steps"]["after"] > 0
    paragraphs = [_origin(facts, any(g.get("before") for g in groups))]
    kinds = {g["group"] for g in groups}
    practised = {
        "instances": "New examples of practised tasks show what was learned.",
        "templates": "Unseen templates show whether it depends on the wording it was drilled on.",
    }
    if tuned and kinds & practised.keys():
        paragraphs.append(" ".join(said for kind, said in practised.items() if kind in kinds))
    paragraphs += _unseen(kinds, facts["run"]["pretrained"])
    if tuned:
        paragraphs.append(_certainty(groups))
    return paragraphs


def _unseen(kinds: set[str], pretrained: str) -> list[str]:
    """What tasks that were held out of training show, by where the weights came from."""
    if not kinds & {"tasks", "clusters"}:
        return [
            "No task and no cluster that was held out of training is scored: nothing here says "
            "whether it follows instructions that are new to it."
        ]
    purpose = "Unseen tasks and unseen clusters are what instruction tuning is for."
    if pretrained:
        return [purpose]
    return [
        f"{purpose} A small model that knows nothing but its training tasks is expected to gain "
        "little on the former and to stay near chance on the latter; the rows stand here because a "
        "report that left them out would flatter.",
        "Published gains on unseen tasks rest on pretraining and on size, so nothing here speaks "
        "for or against them. To test that claim, tune a pretrained model.",
    ]


def _certainty(groups: list[dict]) -> str:
    """What the intervals cover."""
    methods = {g["after"]["method"] for g in groups}
    over = "clusters" if "t over clusters" in methods else "examples"
    if "hierarchical bootstrap" in methods:
        over = "clusters, tasks and examples"
    sentence = (
        f"One training run: the intervals cover the choice of {over}, not the training seed. "
        "A claim that one recipe beats another needs at least three seeds of each."
    )
    if any(g["says"].startswith("not resolved") for g in groups):
        sentence += (
            " “Not resolved” means that these data cannot tell, not that there is no effect."
        )
    return sentence


def _origin(facts: dict, before: bool) -> str:
    """Where the weights came from, and what “before” is."""
    run = facts["run"]
    base = f"It began from {run['pretrained']}" if run["pretrained"] else "Its weights began random"
    if run.get("adapter"):
        base += f" with the adapter {run['adapter']}"
    adapter = ADAPTERS.get(run["method"])
    trained = (
        f" Only {adapter} was trained; the weights under it stayed as they were." if adapter else ""
    )
    if not facts["steps"]["after"]:
        return base + " and are not tuned in what is scored here."
    if not before:
        return (
            f"{base}; the model before tuning was not scored on these tasks, so nothing "
            f"here says what tuning added.{trained}"
        )
    if run["pretrained"]:
        return (
            f"{base}, and “before” is that model as it was: a difference is what tuning "
            f"added on these tasks.{trained}"
        )
    return (
        f"{base}, so “before” is noise and not a base model: a difference would say that "
        "training worked, not how much "
        f"instruction tuning adds to a model that already knows language.{trained}"
    )
