# SPDX-License-Identifier: Apache-2.0
"""Worlds of predictions with one defect planted in them, for the slice finder.

A world is a set of tasks in clusters; each example has an input of some length with words in it, an
alphabet, a label, a place of the right option, and is asked in several wordings. How hard tasks and
examples are is drawn. A defect is a slice, drawn by a seed, inside which right answers become wrong
ones. Slices are described here by the world's own facts, not by the finder's conditions.
"""

from typing import NamedTuple

import numpy as np

from itx.analysis import features

LATIN = [
    a + b
    for a in ("ba", "de", "fi", "go", "lu", "mar")
    for b in "ble ton ra nik sol ven dus gal pim rok".split()
]
CYRILLIC = [
    a + b
    for a in ("ба", "де", "фи", "го", "лу", "мар")
    for b in "бле тон ра ник сол вен дус гал пим рок".split()
]
OPTIONS = ("yes", "no", "maybe")


class World(NamedTuple):
    rows: dict[str, dict]  # of scores.json
    predictions: dict[str, list[dict]]
    facts: list[dict]  # of each prediction, in the order of the rows
    tags: dict[str, dict[str, str]]


def world(seed: int, tasks: int = 12, examples: int = 60, templates: int = 3) -> World:
    rng = np.random.default_rng([seed, 1])
    rows, predictions, facts, tags = {}, {}, [], {}
    for t in range(tasks):
        name, cluster = f"task{t:02}", f"cluster{t // 3}"
        cyrillic = t % 4 == 3
        hard, lines = rng.normal(0.9, 0.6), []
        tags[name] = {"grade": ["easy", "medium", "hard"][int(rng.integers(3))]}
        for e in range(examples):
            length = int(rng.integers(4, 60))
            several = rng.choice(CYRILLIC if cyrillic else LATIN, length).tolist()
            person = rng.choice(["she", "he", ""], p=[0.25, 0.25, 0.5]) if not cyrillic else ""
            content = " ".join([person, *several]).strip()
            gold = int(rng.integers(len(OPTIONS)))
            order = rng.permutation(len(OPTIONS))
            easy = hard + rng.normal(0, 0.8)
            for w in range(templates):
                style = "Question" if w % 2 else "Task"
                options = [OPTIONS[i] for i in order]
                right = rng.normal(0, 0.6) < easy
                wrong = OPTIONS[(gold + 1 + int(rng.integers(2))) % 3]
                lines.append(
                    {
                        "id": f"{name}-{e}",
                        "content": f"{t}-{e}",
                        "template": f"{name}-wording{w}",
                        "prompt": f"{style} {w}: {content}\nOptions: {', '.join(options)}",
                        "references": [OPTIONS[gold]],
                        "prediction": OPTIONS[gold] if right else wrong,
                        "finished": True,
                        "extracted": OPTIONS[gold] if right else wrong,
                        "score": float(right),
                        "scores": {"accuracy": float(right)},
                        "options": options,
                        "answer_index": options.index(OPTIONS[gold]),
                        "prompt_tokens": length + 8,
                    }  # fmt: skip
                )
                facts.append(
                    {
                        "task": name,
                        "cluster": cluster,
                        "wording": w,
                        "style": style,
                        "label": gold,
                        "place": options.index(OPTIONS[gold]),
                        "cyrillic": cyrillic,
                        "person": person,
                        "length": length,
                        "words": set(several),
                        "example": f"{name}-{e}",
                    }  # fmt: skip
                )
        rows[name] = {
            "task": name, "variant": name, "cluster": cluster, "group": "instances", "grade": None,
            "relation": "same task", "metric": "accuracy", "chance": 1 / 3,
        }  # fmt: skip
        predictions[name] = lines
    return World(rows, predictions, facts, tags)


def rerun(of: World, seed: int, share: float = 0.06, spread: float = 0.03) -> World:
    """Another run of the same recipe: some answers differ, by task more or less, and each task is a
    little better or worse."""
    rng = np.random.default_rng([seed, 2])
    predictions = {}
    for name, lines in of.predictions.items():
        rate = share * rng.uniform(0.3, 1.7)
        shift = rng.normal(0, spread)
        flips_to_wrong, flips_to_right = max(0.0, rate - shift), max(0.0, rate + shift)
        predictions[name] = [
            _answered(x, rng.random() >= flips_to_wrong if x["score"] else rng.random() < flips_to_right)
            for x in lines
        ]  # fmt: skip
    return of._replace(predictions=predictions)


def _answered(line: dict, right: bool) -> dict:
    if right == bool(line["score"]):
        return line
    (gold,) = line["references"]
    answer = gold if right else next(o for o in line["options"] if o != gold)
    score = float(right)
    return {
        **line,
        "prediction": answer,
        "extracted": answer,
        "score": score,
        "scores": {"accuracy": score},
    }


class Plant(NamedTuple):
    kind: str
    inside: np.ndarray  # bool [predictions]


MIN_ITEMS = 60  # examples inside a plant


def plants(of: World, seed: int) -> Plant:
    """A slice of the world's facts, of a kind and at a place that the seed draws; of at least
    MIN_ITEMS examples, and of at most half of all."""
    rng = np.random.default_rng([seed, 3])
    while True:
        plant = _drawn(of, rng)
        inside = {f["example"] for f, held in zip(of.facts, plant.inside, strict=True) if held}
        if len(inside) >= MIN_ITEMS and plant.inside.mean() <= 0.5:
            return plant


def _drawn(of: World, rng: np.random.Generator) -> Plant:
    word = _one(rng, LATIN)
    makers = {
        "task": lambda: _where(of, "task", _one(rng, sorted({f["task"] for f in of.facts}))),
        "cluster": lambda: _where(of, "cluster", _one(rng, sorted({f["cluster"] for f in of.facts}))),
        "wording family": lambda: _where(of, "style", _one(rng, ["Question", "Task"])),
        "label": lambda: _where(of, "label", int(rng.integers(3))),
        "option position": lambda: _where(of, "place", int(rng.integers(3))),
        "language": lambda: _where(of, "cyrillic", True),
        "length": lambda: _longer(of, int(rng.integers(25, 50))),
        "group term": lambda: _where(of, "person", _one(rng, ["she", "he"])),
        "word": lambda: np.array([word in f["words"] for f in of.facts]),
        "cluster and label": lambda: _where(of, "cluster", _one(rng, sorted({f["cluster"] for f in of.facts}))) & _where(of, "label", int(rng.integers(3))),
        "label and place": lambda: _where(of, "label", int(rng.integers(3))) & _where(of, "place", int(rng.integers(3))),
        "cluster and length": lambda: _where(of, "cluster", _one(rng, sorted({f["cluster"] for f in of.facts}))) & _longer(of, 35),
        "person and label": lambda: _where(of, "person", _one(rng, ["she", "he"])) & _where(of, "label", int(rng.integers(3))),
    }  # fmt: skip
    kind = _one(rng, sorted(makers))
    return Plant(kind, makers[kind]())


def _one(rng: np.random.Generator, values: list) -> str:
    return values[int(rng.integers(len(values)))]


def _where(of: World, fact: str, value: object) -> np.ndarray:
    return np.array([f[fact] == value for f in of.facts])


def _longer(of: World, words: int) -> np.ndarray:
    return np.array([f["length"] >= words for f in of.facts])


def planted(of: World, plant: Plant, effect: float, seed: int) -> World:
    """The world with right answers made wrong inside the plant, `effect` points of all there."""
    rng = np.random.default_rng([seed, 5])
    scores = np.array([x["score"] for lines in of.predictions.values() for x in lines])
    right = scores[plant.inside].mean()
    spoil = plant.inside & (rng.random(len(scores)) < min(1.0, effect / max(right, 1e-9)))
    predictions, at = {}, 0
    for name, lines in of.predictions.items():
        predictions[name] = [
            _answered(x, bool(x["score"]) and not spoil[at + i]) for i, x in enumerate(lines)
        ]
        at += len(lines)
    return of._replace(predictions=predictions)


def observed(of: World) -> features.Observations:
    return features.observations(of.rows, of.predictions.__getitem__)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))
