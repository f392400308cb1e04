# SPDX-License-Identifier: Apache-2.0
"""What evaluation asks is left out of training, however it was copied; what only shares an
instruction is not.

One build holds a training task for each kind of copy: copies of evaluation inputs of three
languages, short and long, among examples that are like them.
"""

import json
import random
import re
import sys
from collections import Counter

import pytest

from itx.config import DataConfig, EvalConfig, RunConfig, TrainConfig
from itx.data import cache
from itx.data import lock as locks
from itx.prepare import build
from itx.tasks import registry
from tests import leak_kinds as kinds
from tests import tiny

MODULE = """
import json
from pathlib import Path
from itx.tasks.registry import family, make_task, mixture
from itx.tasks.spec import jsonl

def text_fields(e): return dict(e)

def members(prefix):
    def listed(root):
        out = []
        for t in json.loads((Path(root) / "index.json").read_text()):
            if t["name"].startswith(prefix):
                form = t["form"]
                more = {"chat": True, "metrics": ("rouge_l",)} if form == "chat" else {
                    "objective": "lm", "content": ("text",), "metrics": ()} if form == "text" else {"templates": [
                    ("\\n".join("{%s}" % k for k in t["slots"]), "{answer}")]}
                out.append(make_task(t["name"], version=1, cluster=prefix, origin=(t["origin"],), fields=text_fields,
                                     source=jsonl(t["files"]), module=__name__, **({} if form == "chat" else {}), **more))
        return out
    return listed

family("trained", members("trained"))
family("asked", members("asked"))
mixture("leak_mix", ["trained.*"])
"""
KINDS = [k for k in (*kinds.EDITS, *kinds.PLACES)]
COUNT, LIKE = 6, 40  # copies of each language and size; examples that are none
BRIEF = [
    kinds.plain("cat", "Katze"), kinds.plain("Word: cat\nSpanish:", "gato"), kinds.plain("What is a cat in Spanish?", "Gato!"),
    kinds.plain("Input: cat\nOutput: gato\n\nInput: fox\nOutput:", "zorro"),
]  # fmt: skip
INSTRUCTIONS = 6  # of a set, each in at most ten of its training records


def name_of(kind: str) -> str:
    return "trained." + "".join(c if c.isalnum() else "_" for c in kind)


class Corpus:
    """Files under a data root, and the index that the module reads."""

    def __init__(self, root):
        self.root, self.index = root, []

    def add(
        self, name: str, rows: list[dict], split: str = "train", origin: str = "copies"
    ) -> None:
        file = f"{name}.{split}.jsonl"
        (self.root / file).write_text(
            "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
        )
        form = "chat" if "messages" in rows[0] else "text" if "text" in rows[0] else "fields"
        slots = [k for k in rows[0] if k != "answer"]
        if old := [t for t in self.index if t["name"] == name]:
            old[0]["files"][split] = file
        else:
            self.index.append(
                {
                    "name": name,
                    "form": form,
                    "slots": slots,
                    "files": {split: file},
                    "origin": origin,
                }
            )
        (self.root / "index.json").write_text(json.dumps(self.index))


def like(first: dict, language: str, count: int, seed: int) -> list[dict]:
    """Records of the same form that hold no copy."""
    texts = kinds.inputs(language, "long", count, seed)
    if "text" in first:
        return [{"text": f"{kinds.FILLER[language]} {t}"} for t in texts]
    if "messages" in first:
        n = len(first["messages"])
        turns = [{"role": ("user", "assistant")[i % 2], "content": "I see."} for i in range(n - 1)]
        return [{"messages": [{"role": "user", "content": t}, *turns[1:], {"role": "assistant", "content": "No."}]}
                for t in texts]  # fmt: skip
    if "context" in first:
        return [
            dict(zip(("context", "question"), kinds.halves(t, language), strict=True), answer="all")
            for t in texts
        ]
    return [kinds.plain(t) for t in texts]


def fill(corpus: Corpus) -> dict[str, list[tuple[str, str, int]]]:
    """Writes the sets; of each kind and record (language, size, which input), in the file's
    order."""
    owners: dict[str, list[tuple[str, str, int]]] = {}
    for language in kinds.LANGUAGES:
        for size in kinds.SIZES:
            asked = kinds.inputs(language, size, COUNT)
            rows = [kinds.plain(x, "none of them") for x in asked]
            corpus.add(f"asked.{language}_{size}", rows, "test", "exam")
            other = kinds.inputs(language, size, 3, seed=7)
            corpus.add(f"asked.{language}_{size}", [kinds.plain(x) for x in other], "train", "exam")
    for kind in KINDS:
        draw, rows, owners[kind] = random.Random(kind), [], []
        for language in kinds.LANGUAGES:
            for size in kinds.SIZES:
                for i, x in enumerate(kinds.inputs(language, size, COUNT)):
                    made = kinds.records(kind, x, language, draw)
                    rows += made
                    owners[kind] += [(language, size, i)] * len(made)
            more = like(rows[-1], language, LIKE, seed=len(owners))
            rows += more
            owners[kind] += [(language, "none", 0)] * len(more)
        corpus.add(name_of(kind), rows)
    return owners


def words(draw: random.Random, count: int) -> str:
    def word():
        return "".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3))

    return " ".join(word() for _ in range(count))


def with_instruction(question: str, fixed: str) -> dict:
    return kinds.plain(f"{fixed}. {question}")


def with_footer(question: str, fixed: str) -> dict:
    return kinds.plain(f"{question} ({fixed})")


def with_tools(question: str, fixed: str) -> dict:
    turns = (("system", fixed.upper()), ("user", question), ("assistant", "No."))
    tools = [
        {
            "type": "function",
            "function": {"name": "find", "description": fixed, "parameters": {"type": "object"}},
        }
    ]
    return {"messages": [{"role": role, "content": text} for role, text in turns], "tools": tools}


def alarms(corpus: Corpus) -> None:
    """Sets that share an instruction, a footer, or a tool's description with what is asked, and
    nothing else."""
    for make in (with_instruction, with_footer, with_tools):
        draw = random.Random(make.__name__)
        fixed = [words(draw, 40) for _ in range(INSTRUCTIONS)]
        rows = [make(words(draw, 6) + "?", fixed[i % INSTRUCTIONS]) for i in range(90)]
        name = make.__name__.removeprefix("with_")
        corpus.add(f"asked.{name}", rows[:30], "test", "exam")
        corpus.add(f"asked.{name}", rows[30:33], "train", "exam")
        # or nothing would be left
        alone = [make(words(draw, 6) + "?", words(draw, 40)) for _ in range(10)]
        corpus.add(f"trained.same_{name}", rows[33:] + alone, origin="other")
    cat = [kinds.plain(f"A {w} story: the cat sat on the mat.") for w in kinds.WORDS["en"]["like"]]
    corpus.add("asked.word", [kinds.plain("cat", "gato"), kinds.plain("yes", "no")], "test", "exam")
    corpus.add("asked.word", [kinds.plain("dog", "perro")], "train", "exam")
    rest = [kinds.plain(f"Tell of {what}.", "a tale") for what in kinds.WORDS["en"]["what"]]
    corpus.add("trained.brief", BRIEF + rest, origin="other")
    corpus.add("trained.same_word", [*cat, kinds.plain("Is it so? yes", "a tale")], origin="other")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(lock, cache folder, owners)."""
    root = tmp_path_factory.mktemp("leaks")
    (root / "leak_module.py").write_text(MODULE)
    sys.path.insert(0, str(root))
    corpus = Corpus(root)
    owners = fill(corpus)
    alarms(corpus)
    config = RunConfig(
        model=tiny.decoder(),
        data=DataConfig(
            mixture="leak_mix", modules=("leak_module",), root=str(root), cache_dir=str(root / "cache"), vocab="bytes",
            sequence_length=2048, target_length=1024, eval_examples=100, window_examples=256, workers=2,
        ),
        train=TrainConfig(steps=2), eval=EvalConfig(split="test", tasks=("asked.*",)),
    )  # fmt: skip
    try:
        lock = locks.read(build.build(config).lock)
    finally:
        sys.path.remove(str(root))
        # what the module registered: another file's tests list all families under a root that has
        # none of these
        for name in ("trained", "asked"):
            registry.FAMILIES.pop(name, None)
        registry.MIXTURES.pop("leak_mix", None)
    return lock, root / "cache", owners


def rows_of(built, name: str) -> tuple[dict, list[int]]:
    """(a task of the lock, of each of its records the row of the file)."""
    lock, where, _ = built
    (task,) = (t for t in lock["tasks"] if t["name"] == name)
    examples = cache.iterate_examples(where / task["folders"][0])
    # of chunks and answers too
    return task, [int(re.search(r"jsonl\D*(\d+)", e["id"])[1]) - 1 for e in examples]


def rows_there(built, name: str) -> set[int]:
    return set(rows_of(built, name)[1])


def left_out(built, name: str) -> set[int]:
    """The rows of a task's file of which a record is left out."""
    task, rows = rows_of(built, name)
    return {rows[i] for i in task["excluded"][0]}


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_left_out_and_examples_like_them_are_not(built, kind):
    out = left_out(built, name_of(kind))
    asked, found, there = Counter(), Counter(), rows_there(built, name_of(kind))
    for row, (language, size, _) in enumerate(built[2][kind]):
        if row not in there:  # a twentieth of a set is for validation, another for test
            continue
        asked[language, size] += 1
        found[language, size] += row in out
    recall = {c: found[c] / n for c, n in asked.items() if c[1] != "none"}
    assert min(recall.values()) == 1, recall
    assert {c: found[c] for c in asked if c[1] == "none"} == {
        (x, "none"): 0 for x in kinds.LANGUAGES
    }


def test_a_word_is_known_as_a_whole_field_and_beside_its_answer(built):
    there = rows_there(built, "trained.brief")
    assert (
        left_out(built, "trained.brief") == there & set(range(len(BRIEF)))
        and len(there & set(range(len(BRIEF)))) > 2
    )


@pytest.mark.parametrize("name", ["same_instruction", "same_footer", "same_tools", "same_word"])
def test_what_shares_an_instruction_a_footer_a_tool_or_a_word_is_trained_on(built, name):
    assert not left_out(built, f"trained.{name}") and len(rows_there(built, f"trained.{name}")) > 6
