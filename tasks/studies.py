# SPDX-License-Identifier: Apache-2.0
"""What the studies of `itx study` train on and ask (configs/studies/README.md): mixtures of the
English toy tasks that tasks/documents.py speaks of.

Draw I holds out the pair HELD_OUT[I] of clusters and puts the others in an order of its own:

    clusters_N_draw_I    the first N clusters of draw I's order
    ceiling_draw_I       the two that it holds out, and the first six of its order
    named_draw_I         as clusters_8_draw_I, with a task's name in place of its instruction
    bare_draw_I          the same without any instruction
    shots_P_draw_I       the same, P % of the examples behind two exemplars
    alone_N_draw_I       the Nth of the four clusters of `four(I)`; multitask_draw_I all four
    new_draw_I           the two that it holds out, to be tuned on after all
    cot_P_draw_I         clusters_8_draw_I and the story with two steps, P % with its reasoning
"""

import dataclasses
import random

import tasks.toy  # noqa: F401  registers the tasks
from itx.tasks import templates
from itx.tasks.registry import TASKS, instruction_task, mixture
from itx.tasks.spec import Template
from tasks.documents import SKILLS

SPOKEN_OF = tuple(task for _, _, skills in SKILLS.values() for task in skills)
CLUSTERS: dict[str, list[str]] = {}
for _name in SPOKEN_OF:
    CLUSTERS.setdefault(TASKS[_name].cluster, []).append(_name)
# Only these can be held out: they share their inputs with no other cluster, and have at least three
# tasks, so that the instruction information of their tasks is measured against the same wrong
# instructions whatever a run trains on. Each stands in two of five pairs.
ALONE = ("order", "lookup", "arithmetic", "strings", "dates")
HELD_OUT = tuple(zip(ALONE, (*ALONE[1:], ALONE[0]), strict=True))
DRAWS = len(HELD_OUT)
COUNTS = (1, 2, 4, 8)  # of clusters that are trained on
MOST = max(COUNTS)
SHARES = (0, 25, 50, 100)  # percent
REASONED = "found_and_lost"  # the English task that also has its reasoning
BARE, NAMED = "bare", "named"


def trained(draw: int) -> list[str]:
    """The clusters that a draw does not hold out, in its order."""
    among = sorted(CLUSTERS.keys() - set(HELD_OUT[draw]))
    return random.Random(f"study/{draw}").sample(among, len(among))


def tasks_of(clusters: list[str] | tuple[str, ...]) -> list[str]:
    return [task for cluster in clusters for task in CLUSTERS[cluster]]


def four(draw: int) -> list[str]:
    """All of ALONE but one, another in each draw."""
    return [cluster for cluster in ALONE if cluster != ALONE[draw]]


def without_instruction(template: Template, name: str) -> Template:
    """A template's slots alone, a line each, below a task's name where one is given (FLAN,
    arXiv:2109.01652)."""
    slots = dict.fromkeys(templates.slots(template[0]))
    return "\n".join([*([name] if name else []), *(f"{{{s}}}" for s in slots)]), template[1]


def _twin(task: str, kind: str) -> str:
    """A task with the same examples, without instructions; its name."""
    spec = TASKS[task]
    settings = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    for key in ("name", "module", "heldout_templates", "inverted", "cot", "chat", "objective"):
        del settings[key]
    shown = task if kind == NAMED else ""
    wordings = dict.fromkeys(without_instruction(t, shown) for t in spec.templates)
    instruction_task(f"{task}_{kind}", **{**settings, "templates": list(wordings)})
    return f"{task}_{kind}"


TWINS = {kind: {task: _twin(task, kind) for task in SPOKEN_OF} for kind in (NAMED, BARE)}


def _register(draw: int) -> None:
    order = trained(draw)
    whole = tasks_of(order[:MOST])
    for n in COUNTS:
        mixture(f"clusters_{n}_draw_{draw}", tasks_of(order[:n]))
    mixture(
        f"ceiling_draw_{draw}", tasks_of([*HELD_OUT[draw], *order[: MOST - len(HELD_OUT[draw])]])
    )
    for kind, twin in TWINS.items():
        mixture(f"{kind}_draw_{draw}", [twin[task] for task in whole])
    for p in SHARES:
        variants = {"zs": 1 - p / 100, "fs2": p / 100}
        mixture(f"shots_{p}_draw_{draw}", whole, variants={k: v for k, v in variants.items() if v})
        others = [task for task in whole if task != REASONED]
        reasoned = {f"{REASONED}:zs": 1 - p / 100, f"{REASONED}:cot": p / 100}
        share = len(others) / 4  # of the weights a fifth
        weights = {**dict.fromkeys(others, 1.0), **{k: share * v for k, v in reasoned.items() if v}}
        mixture(f"cot_{p}_draw_{draw}", weights)
    for n, cluster in enumerate(four(draw)):
        mixture(f"alone_{n}_draw_{draw}", CLUSTERS[cluster])
    mixture(f"multitask_draw_{draw}", tasks_of(four(draw)))
    mixture(f"new_draw_{draw}", tasks_of(HELD_OUT[draw]))


for _draw in range(DRAWS):
    _register(_draw)
