# SPDX-License-Identifier: Apache-2.0
"""What a run's scores allow one to say, in sentences: each is said only where the run's own facts
bear it out.

says       of one group, against chance
summary    what was learned, what was not, what to do next
claims     what such a run can show, and what it cannot
"""

from itx.eval.tables import percent, shown

ROUNDING = 1e-9  # Wilson's lower end of 0 right answers is 0 but for rounding
MANY = 0.1  # from this share of answers on a fault of their form is worth a step of its own
FORGOTTEN = 0.05  # bits per byte that rose by this share are worth one too
# the loss fell by this share from the tenth before the last of its lines to the last
STILL_FALLING = 0.02
NAMED = 5  # of several tasks a sentence names so many
ADAPTERS = {"lora": "a LoRA", "prefix": "a prefix", "prompt": "a soft prompt"}


def main_groups(found: dict) -> list[dict]:
    return [g for g in found["groups"] if g["group"] != "instruction"]


def says(after: dict) -> str:
    """What a group's numbers say against chance."""
    note = "; all its tasks are easy" if after["all_easy"] else ""
    if after["mean"] is None:
        return "no example was scored"
    if not after["lift_interval"]:
        return "one cluster: the points, no interval" + note
    low, high = after["lift_interval"]
    if low > ROUNDING:
        return "above chance" + note
    return ("below chance" if high < 0 else "not resolved from chance") + note


def splits(evaluation: dict) -> str:
    """Which splits the rows are of: a task that has but one is scored on that one."""
    found = evaluation["splits"]
    if len(found) == 1:
        return f"the {next(iter(found))} split"
    return "the splits " + " and ".join(f"{split} ({rows} rows)" for split, rows in found.items())


def examples_per_row(evaluation: dict) -> str:
    """The limits on a row's examples: numbers, or "all"."""
    return ", ".join("all" if n == 0 else str(n) for n in evaluation["max_examples"])


def easy(found: dict) -> str:
    """Which easy tasks stand in an average, and how many in none."""
    if not found["audit"]:
        return "which tasks are easy is not known, for the run has no audit.json"
    whole = [g["label"] for g in found["groups"] if g["after"]["all_easy"]]
    kept = {n for g in found["groups"] if g["after"]["all_easy"] for n in g["after"]["rows"]}
    left_out = {r["task"] for r in found["rows"] if r["easy"] and r["row"] not in kept}
    said = f"{len(left_out)} easy tasks left out"
    return said + (
        f"; only easy tasks are left of: {', '.join(whole)}; they are shown all the same"
        if whole
        else ""
    )


# ---- learned, not learned, next
# --------------------------------------------------------------------


def scope(evaluation: dict) -> list[str]:
    """What of the evaluation splits the scores stand for, a sentence each: examples that a limit
    left out, tasks that are not scored, splits that are halved."""
    limits, out = evaluation["limits"], []
    cut = [
        f"{k} left out {limits[k]:,}"
        for k in ("data.eval_examples", "eval.max_examples")
        if limits[k]
    ]
    if cut:
        out.append(
            f"Of {limits['examples']:,} examples of {limits['tasks']} evaluation tasks "
            f"{limits['asked']:,} were asked: {', '.join(cut)}."
        )
    for names, what in (
        (evaluation["unscored"], "are not scored"),
        (evaluation["halved"], "are scored on half of a validation split, as they ask"),
    ):
        if names:
            shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
            out.append(f"{len(names)} tasks or rows {what}: {shown}.")
    return out


def summary(found: dict) -> dict[str, list[str]]:
    """{"learned", "not learned", "next": sentences}."""
    if not found["steps"]["after"]:
        begun = (
            "its training has not been scored"
            if found["loss"]["total"]
            else "no step of training is recorded"
        )
        return {
            "learned": [f"These are the scores of the model before tuning: {begun}."],
            "not learned": [],
            "next": ["Train it, or let its training go on: the same command resumes."],
        }
    groups = main_groups(found)
    return {
        "learned": _learned(groups) + _instruction(found),
        "not learned": _not_learned(groups),
        "next": _next(found, groups),
    }


def lines(summary: dict[str, list[str]]) -> list[str]:
    return [f"{key}: {' '.join(sentences)}" for key, sentences in summary.items() if sentences]


def change(g: dict) -> str:
    """`rose`, `fell` or `stayed`: whether the score before lies outside of the interval after; ""
    where either is absent."""
    before, interval = g.get("before"), g["after"]["score_interval"]
    if not before or before["score"] is None or not interval:
        return ""
    return (
        "rose"
        if before["score"] < interval[0]
        else "fell"
        if before["score"] > interval[1]
        else "stayed"
    )


def above(g: dict) -> bool:
    return g["says"].startswith("above chance")


def _named(groups: list[dict]) -> str:
    """`unseen templates (0.10 to 0.71, chance 0.25)`"""
    out = []
    for g in groups:
        before, after = g.get("before"), g["after"]
        begin = f"{shown(before['score'])} to " if before and before["score"] is not None else ""
        out.append(
            f"{g['label']} ({begin}{shown(after['score'])}, chance {shown(after['chance'])})"
        )
    return "; ".join(out)


def _learned(groups: list[dict]) -> list[str]:
    rose = [g for g in groups if above(g) and change(g) == "rose"]
    there = [g for g in groups if above(g) and not change(g)]
    out = []
    if rose:
        out.append(f"Better than before and than chance: {_named(rose)}.")
    if there:
        out.append(
            f"Better than chance, with no score before tuning to compare with: {_named(there)}."
        )
    return out or ["Nothing that these scores show."]


def _not_learned(groups: list[dict]) -> list[str]:
    kinds = {
        "Worse than before tuning": [g for g in groups if change(g) == "fell"],
        "As good before tuning": [g for g in groups if above(g) and change(g) == "stayed"],
        "Better than before, but not above chance": [
            g
            for g in groups
            if not above(g) and change(g) == "rose" and g["after"]["lift_interval"]
        ],
        "Not above chance": [
            g
            for g in groups
            if not above(g) and change(g) in ("", "stayed") and g["after"]["lift_interval"]
        ],
        "Not judged, for a single cluster has no interval": [
            g for g in groups if g["after"]["mean"] is not None and not g["after"]["lift_interval"]
        ],
    }
    return [f"{kind}: {_named(of)}." for kind, of in kinds.items() if of]


def _instruction(found: dict) -> list[str]:
    """Whether it matters which instruction stands before the same inputs."""
    kinds = {g["kind"]: g["after"] for g in found["groups"] if g["group"] == "instruction"}
    kept, swapped = kinds.get("none"), kinds.get("swapped")
    if not kept or not swapped or not kept["score_interval"] or swapped["score"] is None:
        return []
    numbers = (
        f"{shown(kept['score'])} under its own instruction, {shown(swapped['score'])} under another"
    )
    if swapped["score"] < kept["score_interval"][0]:
        return [f"It reads the instruction: {numbers}."]
    return [f"No sign that it reads the instruction: {numbers}."]


def _next(found: dict, groups: list[dict]) -> list[str]:
    """What the facts make worth trying, the most telling first; at most three steps."""
    by_group = {g["group"]: g for g in groups}
    trained, unseen = (
        by_group.get("instances"),
        [g for g in groups if g["group"] in ("tasks", "clusters")],
    )
    loss, out = found["loss"], []
    if loss["skipped_steps"] > MANY * max(1, found["steps"]["after"]):
        out.append(
            f"{loss['skipped_steps']} steps had no finite loss: lower optim.learning_rate first."
        )
    wrong_form = [g for g in groups if (g["after"]["none_of_options"] or 0) > MANY]
    if wrong_form:
        worst = max(wrong_form, key=lambda g: g["after"]["none_of_options"])
        out.append(
            f"{percent(worst['after']['none_of_options'])} of the answers of {worst['label']} are "
            "none of the options: read the outputs before anything is concluded from its score."
        )
    cut = [r for r in found["rows"] if r["hit_limit"] > MANY * max(1, r["prompts"])]
    if cut:
        settings = sorted({f"--{r.get('limit_from', 'eval.max_new_tokens')}" for r in cut})
        out.append(
            f"In {len(cut)} rows more than {percent(MANY)} of the answers are cut at their limit; "
            f"where they should be longer, raise {' and '.join(settings)}."
        )
    if _falling(loss["total"]):
        out.append("The loss was still falling at the end: train longer (train.steps).")
    elif trained and trained["says"].startswith(("not resolved", "below")):
        out.append(
            "The tasks that it trained on are not learned: more steps, a higher learning rate or "
            "a larger model."
        )
    if retained := _forgotten(found["retention"]):
        out.append(retained)
    unresolved = [g for g in groups if g["says"].startswith("not resolved")]
    most = [m for m in found["evaluation"]["max_examples"] if m]
    if unresolved and most:
        out.append(
            f"Not resolved with eval.max_examples={max(most)}: score more examples (itx eval RUN)."
        )
    if not unseen and found["holdout"]:
        out.append("Score the tasks that were held out of training too (itx eval RUN).")
    elif not unseen:
        out.append(
            "Hold tasks or clusters out of training, to see whether it follows instructions that "
            "are new."
        )
    elif not any(map(above, unseen)) and not found["run"]["pretrained"]:
        out.append("For unseen tasks begin from a pretrained model (model.pretrained).")
    if not out:
        out.append("Repeat it with two other seeds before it is compared with another recipe.")
    return out[:3]


def _falling(total: list[float]) -> bool:
    n = len(total) // 10
    if not n:
        return False
    last, before = sum(total[-n:]) / n, sum(total[-2 * n : -n]) / n
    return last < (1 - STILL_FALLING) * before


def _forgotten(kept: dict | None) -> str:
    before, after = (kept or {}).get("before", {}), (kept or {}).get("after", {})
    for name, t in after.items():
        bits = before.get(name, {}).get("bits_per_byte")
        if bits and t["bits_per_byte"] > (1 + FORGOTTEN) * bits:
            return (
                f"It forgets: bits per byte on {name} rose from {bits:.3f} to "
                f"{t['bits_per_byte']:.3f}; mix plain text in "
                "(data.replay), train less, or train an adapter."
            )
    return ""


# ---- what such a run can show
# ----------------------------------------------------------------------


def claims(found: dict) -> list[str]:
    """Paragraphs on what the comparison means, for this kind of run."""
    groups = main_groups(found)
    kinds = {g["group"] for g in groups}
    random, tuned = not found["run"]["pretrained"], found["steps"]["after"] > 0
    out = [_origin(found, any(g.get("before") for g in groups))]
    practised = [
        said
        for kind, said in (
            ("instances", "New examples of practised tasks show what was learned."),
            (
                "templates",
                "Unseen templates show whether it depends on the wording it was drilled on.",
            ),
        )
        if kind in kinds
    ]
    if practised and tuned:
        out.append(" ".join(practised))
    if kinds & {"tasks", "clusters"}:
        out.append(
            "Unseen tasks and unseen clusters are what instruction tuning is for."
            + (
                " A small model that knows nothing but its training tasks is expected to gain "
                "little on the former and to stay near chance on the latter; the rows stand here "
                "because a report that left them out would flatter."
                if random
                else ""
            )
        )
        if random:
            out.append(
                "Published gains on unseen tasks rest on pretraining and on size, so nothing here "
                "speaks for or against them. To test that claim, tune a pretrained model."
            )
    else:
        out.append(
            "No task and no cluster that was held out of training is scored: nothing here says "
            "whether it follows instructions that are new to it."
        )
    methods = {g["after"]["method"] for g in groups}
    over = (
        "clusters, tasks and examples"
        if "hierarchical bootstrap" in methods
        else ("clusters" if "t over clusters" in methods else "examples")
    )
    unresolved = any(g["says"].startswith("not resolved") for g in groups)
    if tuned:
        out.append(
            f"One training run: the intervals cover the choice of {over}, not the training seed. "
            "A claim that one recipe beats another needs at least three seeds of each."
            + (
                " “Not resolved” means that these data cannot tell, not that there is no effect."
                if unresolved
                else ""
            )
        )
    return out


def _origin(found: dict, before: bool) -> str:
    """Where the weights came from, and what “before” is."""
    run = found["run"]
    base = f"It began from {run['pretrained']}" if run["pretrained"] else "Its weights began random"
    adapter = ADAPTERS.get(run["method"])
    trained = (
        f" Only {adapter} was trained; the weights under it stayed as they were." if adapter else ""
    )
    if not found["steps"]["after"]:
        return base + " and are not tuned in what is scored here."
    if not before:
        return (
            f"{base}; the model before tuning was not scored on these tasks, so nothing "
            f"here says what tuning added.{trained}"
        )
    if run["pretrained"]:
        return (
            f"{base}, and “before” is that model untuned: a difference is what tuning "
            f"added on these tasks.{trained}"
        )
    return (
        f"{base}, so “before” is noise and not a base model: a difference would say that "
        "training worked, not how much "
        f"instruction tuning adds to a model that already knows language.{trained}"
    )
