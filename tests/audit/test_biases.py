# SPDX-License-Identifier: Apache-2.0
"""Biases of the data: shares are counted, cues that were planted are found, and no others."""

import random

import pytest

from itx.audit import audit as audits
from tests import scored

WORDS = "red blue green white brown pink gold grey".split()


def examples(seed: int, label_of, n: int = 400) -> list[dict]:
    """Prompts that name a woman, a man or nobody, and some that are long or Cyrillic."""
    rng, made = random.Random(seed), []
    for i in range(n):
        person = rng.choice(["she", "he", "it"])
        words = rng.choices(WORDS, k=rng.choice([2, 3, 12]))
        said = ["красный", "синий"] if rng.random() < 0.3 else words
        prompt = f"{person} saw {i} {' '.join(said)}"
        made.append(scored.example(prompt, label_of(rng, person, said), prompt=prompt))
    return made


def facts_of(tmp_path, label_of, seed: int = 0) -> dict:
    _, config, lock, vocab, _ = scored.small_run(tmp_path)
    where = tmp_path / "cache"
    folder = scored.folder(where, "mood/train/r0-x", examples(seed, label_of), vocab)
    lock["tasks"] = [scored.task(folder, "mood", "mood", 1.0)]
    return audits.audit(lock, config.data.cache_dir, config)


def fair(rng, person, said) -> str:
    return rng.choice(["good", "bad"])


def test_shares_are_those_of_the_records(tmp_path):
    facts = facts_of(tmp_path, lambda rng, *_: "good" if rng.random() < 0.7 else "bad")
    found = facts["biases"]["tasks"]["mood"]
    assert found["records"] == 400 and list(found["labels"]) == ["good", "bad"]
    assert found["labels"]["good"] == pytest.approx(0.7, abs=0.06)
    assert found["scripts"] == {
        "Latin": pytest.approx(0.7, abs=0.08),
        "Cyrillic": pytest.approx(0.3, abs=0.08),
    }
    assert found["groups"] == {
        "women": pytest.approx(1 / 3, abs=0.08),
        "men": pytest.approx(1 / 3, abs=0.08),
    }
    assert sum(found["scripts"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "cue, holds",
    [
        ("names women", lambda person, said: person == "she"),
        ("written in Cyrillic", lambda person, said: said[0] == "красный"),
        ("characters", lambda person, said: len(said) == 12),
    ],
)
def test_a_cue_that_was_planted_is_found_and_said(tmp_path, cue, holds):
    def label(rng, person, said) -> str:
        return "bad" if rng.random() < (0.8 if holds(person, said) else 0.4) else "good"

    facts = facts_of(tmp_path, label)
    first = facts["biases"]["cues"][0]
    assert cue in first["cue"] and first["label"] == "bad"
    assert first["share"] - first["without"] > 0.25 and first["adjusted"] < 0.01
    said = [w for w in facts["warnings"] if "the answer 'bad' is" in w]
    assert all(cue in w for w in said[:1]) and bool(said) == (cue != "characters")


def test_fair_data_have_no_cue(tmp_path):
    for seed in range(5):
        facts = facts_of(tmp_path / str(seed), fair, seed)
        assert facts["biases"]["cues"] == [] and facts["biases"]["tested"] == 10


def test_open_answers_have_no_labels(tmp_path):
    facts = facts_of(tmp_path, lambda rng, *_: str(rng.randrange(10**6)))
    assert facts["biases"]["tasks"]["mood"]["labels"] == {} and not facts["biases"]["tested"]
