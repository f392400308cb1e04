# SPDX-License-Identifier: Apache-2.0
"""Self-Instruct from seeds to a task: what is asked, how answers are read, what is kept and why not."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from itx import cli
from itx.create import filters, lineage, prompts, seeds, self_instruct
from itx.create.generators import Completion, Request, Scripted
from itx.create.journal import Journal, ask
from itx.create.novelty import Pool
from itx.create.row import Row
from itx.create.self_instruct import Settings
from itx.data import lock as locks
from itx.errors import UserError
from itx.hashing import digest
from itx.hashing import draw as drawn
from itx.leaks import contamination
from itx.text import words
from tests import samples
from tests.conftest import REPO
from tests.create.openai_server import Served, answer, serving
from tests.create.rows import stopped_and_continued

NOUNS = "river lantern baker violin garden window soldier pepper mountain letter tiger carpet engine blanket doctor harbour".split()
VERBS = "Describe Compare Explain Rename Summarise Defend Paint Question Count Praise".split()


def script(request: Request) -> str:
    """A model that makes instructions of drawn words, and now and then what is none."""
    said = request.prompt or request.messages[-1].content
    draw = random.Random(f"{request.seed}/{said[-60:]}")
    if said.endswith("Is it classification?"):
        return draw.choice([" Yes", " No", " No", " Perhaps"])
    if said.endswith("Input:"):
        return draw.choice([
            f" (none)\nOutput: The {draw.choice(NOUNS)} was seen by number {draw.random():.6f} of the {draw.choice(NOUNS)}s.",
            f" a {draw.choice(NOUNS)}\nOutput: It stands behind the {draw.choice(NOUNS)}, and {draw.random():.6f} is its name.",
            " a thing without an end",
            "\nOutput: I'm sorry, but I cannot help with that.",
        ])  # fmt: skip
    if said.endswith("Output:"):
        return f" {draw.choice(NOUNS)} {draw.random():.5f}\nInput: the {draw.choice(NOUNS)} of {draw.random():.6f}"
    lines = []
    for n in range(9, 9 + draw.randrange(1, 5)):
        nouns = " and the ".join(draw.sample(NOUNS, 3))
        task = f"{draw.choice(VERBS)} the {nouns} in {draw.randrange(2, 99)} {draw.choice(NOUNS)} words."
        lines.append(
            f"{n}. {draw.choice([task] * 8 + ['Draw a picture of the sea and the land.', '#tag this for me please.', 'Go.'])}"
        )
    return "\n".join(lines).removeprefix("9.")


def made(tmp_path: Path, asked=(), model=script, **how) -> self_instruct.Result:
    settings = Settings(**{"wanted": 12, "rounds": 30, "requests": 4, **how})
    generator = Scripted(model)
    with Journal(tmp_path / "journal.sqlite") as kept:
        return self_instruct.run(
            lambda requests: ask(kept, generator, requests),
            generator.name,
            seeds.shipped(["en"]),
            settings,
            filters.every(("en",)),
            asked,
        )


# ---- seeds


def test_the_seeds_are_enough_sound_and_unlike_each_other():
    every = filters.every(("en", "ru"))
    pool = Pool()
    for language, least in (("en", 120), ("ru", 40)):
        held = seeds.shipped([language])
        assert len(held) >= least and len({s.id for s in held}) == len(held)
        assert 0.15 < sum(s.is_classification for s in held) / len(held) < 0.5
        for s in held:
            assert pool.admit(s.instruction) is None, s.id
            assert filters.verdicts(Row(s.instruction, s.input, s.output), every) == {}, s.id


def test_the_seeds_are_none_of_the_public_ones(shared):
    public = Pool()
    for line in (
        (shared / "self_instruct/seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        public.add(json.loads(line)["instruction"])
    assert len(public) == 175
    near = [s.id for s in seeds.shipped(["en"]) if public.nearest(s.instruction)]
    assert near == []


def test_seed_files(tmp_path, shared):
    file = tmp_path / "own.jsonl"
    file.write_text('{"instruction": "Назови цвет", "output": "синий"}\n\n', encoding="utf-8")
    (own,) = seeds.of_file(str(file))
    assert (own.instruction, own.input, own.output) == ("Назови цвет", "", "синий")
    assert len(seeds.of_file(str(shared / "self_instruct/seed_tasks.jsonl"))) == 175
    for held, told in (
        ("{", "line 1 is not JSON"),
        ('{"instruction": "a"}', "line 1 has no texts"),
        ("[1]", "line 1 holds no object"),
        ("", "holds no seeds"),
        ('{"id": 1, "instruction": "a", "output": "b"}\n' * 2, "share an id"),
    ):
        file.write_text(held)
        with pytest.raises(UserError, match=told):
            seeds.of_file(str(file))
    with pytest.raises(UserError, match="no seeds in 'fr' come with itx"):
        seeds.shipped(["fr"])


# ---- reading answers


@pytest.mark.parametrize(
    ("said", "cut", "tasks", "lost"),
    [
        (" Name a bird.\n10. Name a fish.", False, ["Name a bird.", "Name a fish."], {}),
        ("9. Name a bird.\n10) Name a fish.", False, ["Name a bird.", "Name a fish."], {}),
        ("Task 9: Name a bird.\r\nTask 10: Назови рыбу.", False, ["Name a bird.", "Назови рыбу."], {}),
        (" Name a bird.\n10. Name a", True, ["Name a bird."], {"cut off": 1}),
        (" Name a bird\n that sings.\n10. ", False, ["Name a bird that sings."], {"empty": 1}),
        (" Name a bird.\n\nI hope this helps!", False, ["Name a bird."], {"text behind a task": 1}),
        ("", False, [], {"empty": 1}),
        ("", True, [], {"cut off": 1}),
        (" 说出一种鸟。\n10．说出一种鱼。", False, ["说出一种鸟。 10．说出一种鱼。"], {}),
        (" <|im_end|>{0}", False, ["<|im_end|>{0}"], {}),
    ],
)  # fmt: skip
def test_lists_of_instructions(said, cut, tasks, lost):
    assert prompts.read_instructions(said, cut) == (tasks, lost)


@pytest.mark.parametrize(
    ("said", "kind"),
    [(" Yes", True), ("No.", False), ("**Yes**, it is", True), ("да", True), ("Нет", False), ("是", True), ("不是", False), ("", None), ("Maybe", None), ("Nothing", None), ("Yesterday", None)],
)  # fmt: skip
def test_kinds(said, kind):
    assert prompts.read_kind(said) is kind


@pytest.mark.parametrize(
    ("said", "output_first", "read"),
    [
        (" a cat\nOutput: It purrs.", False, ("a cat", "It purrs.", False)),
        ("(none)\nOutput: It purrs.\nAnd sleeps.", False, ("", "It purrs.\nAnd sleeps.", False)),
        ("Input: None\nOutput: It purrs.", False, ("", "It purrs.", False)),
        ("**Input:** a\n**Output:** b", False, ("a", "b", False)),
        (" a\nOutput: b\nInput: c\nOutput: d", False, ("a", "b", True)),
        (" a cat", False, "no output"),
        ("", False, "no output"),
        (" positive\nInput: I love it.", True, ("I love it.", "positive", False)),
        ("Class label: positive\nInput: I love it.", True, ("I love it.", "positive", False)),
        (" positive", True, "no input"),
        (" positive\nInput: (none)", True, "a label without an input"),
    ],
)
def test_instances(said, output_first, read):
    assert prompts.read_instance(said, output_first) == read


def test_any_answer_is_read(tmp_path):
    """Noise of the marks that are looked for."""
    draw = random.Random(0)
    parts = [
        "9.",
        "\n",
        "Input:",
        "Output:",
        " ",
        "Task:",
        "(none)",
        "Yes",
        "\x00",
        "я",
        "10)",
        "\r\n",
        "**",
    ]
    for _ in range(2000):
        said = "".join(draw.choices(parts, k=draw.randrange(12)))
        tasks, _ = prompts.read_instructions(said, draw.random() < 0.5)
        assert all(t.strip() for t in tasks)
        prompts.read_kind(said)
        prompts.read_instance(said, draw.random() < 0.5)


# ---- the whole


def test_rows_know_where_they_came_from(tmp_path):
    result = made(tmp_path, wanted=25)
    kept = [m for m in result.made if not m.lineage.dropped]
    assert len(kept) >= 25 and result.rounds < 30
    ids = {s.id for s in seeds.shipped(["en"])}
    machine = {drawn_id for m in result.made if (drawn_id := instruction_id(m))}
    for m in result.made:
        assert len(m.lineage.parents) == prompts.SHOWN and set(m.lineage.parents) <= ids | machine
        assert m.lineage.generator == "scripted" and "instructions" in m.lineage.made_by
        assert bool(m.lineage.dropped) or m.row.output
    # two made before are shown once there are some
    last = kept[-1].lineage.parents
    assert sum(p in ids for p in last) == prompts.SEEDS
    for m in kept:
        assert {"instructions", "kind"} < m.lineage.made_by.keys() and len(m.lineage.made_by) == 3
        assert not m.lineage.verdicts
    reasons = Counter(m.lineage.dropped.split(":")[0] for m in result.made)
    for reason in ("keyword", "not novel", "length", "beginning", "unreadable", "refusal"):
        assert reasons[reason], reason
    assert result.notes["kind: neither yes nor no, taken for no"]


def instruction_id(made_row: lineage.Made) -> str:
    return digest(made_row.row.instruction)


def test_no_two_kept_instructions_are_alike_and_none_is_like_a_seed(tmp_path):
    result = made(tmp_path)
    pool = Pool(texts=[s.instruction for s in seeds.shipped(["en"])])
    kept = [m for m in result.made if not m.lineage.dropped]
    assert all(pool.admit(m.row.instruction) is None for m in kept)
    alike = next(m for m in result.made if m.lineage.dropped.startswith("not novel"))
    assert " with " in alike.lineage.dropped and "ROUGE-L 0." in alike.lineage.dropped


def test_the_same_again_and_another_seed(tmp_path):
    (tmp_path / "b").mkdir()
    first, again = made(tmp_path), made(tmp_path)
    assert first == again == made(tmp_path / "b")
    assert made(tmp_path / "b", seed=1).made != first.made


def test_it_goes_on_where_it_was_stopped(tmp_path):
    """Stopped after each number of answers: what is answered is not asked again, and the rows are
    the same."""
    whole = made(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    result, asked = stopped_and_continued(
        script, (3, 10, 40), lambda model: made(other, model=model)
    )
    assert result == whole and set(asked.values()) == {1}


def test_what_an_evaluation_asks_is_dropped(tmp_path):
    plain = made(tmp_path)
    row = next(
        m.row for m in plain.made if not m.lineage.dropped and len(words(m.row.instruction)) > 6
    )
    asked = contamination.spellings("held", drawn("x"), [row.instruction], ["none of them"])
    result = made(tmp_path, asked)
    (hit,) = [m for m in result.made if m.row.instruction == row.instruction and m.row.output]
    assert hit.lineage.dropped.startswith("leak: held: ") and "leak" in hit.lineage.verdicts


def test_an_answer_that_repeats_a_seed_is_dropped(tmp_path):
    seed = next(s for s in seeds.shipped(["en"]) if not s.is_classification and len(s.output) > 40)

    def model(request):
        said = request.prompt
        if said.endswith("Input:"):
            return f" (none)\nOutput: {seed.output}"
        return script(request)

    result = made(tmp_path, model=model, rounds=3)
    assert any(m.lineage.dropped == f"copies a seed: {seed.id}" for m in result.made)


def test_failures_and_cut_answers_are_counted(tmp_path):
    def model(request):
        if request.max_tokens == self_instruct.MAX_TOKENS["input first"]:
            return Completion(" a\nOutput: The old bridge was", "cut")
        if request.seed % 3 == 0:
            return Completion("", "failed", error="status 400: too long")
        return script(request)

    result = made(tmp_path, model=model, rounds=4)
    reasons = Counter(m.lineage.dropped for m in result.made)
    assert reasons["truncated: it reached the limit of tokens"]
    assert result.notes["instructions: no answer (status 400: too long)"]


# ---- the command


def served() -> Served:
    def fault(n, body):
        said = body["messages"][-1]["content"]
        return answer(script(Request(prompt=said, seed=body["seed"])))

    return Served(fault)


WORDS = "create self-instruct --name garden --wanted 8 --requests 3 --languages en".split()


@pytest.fixture
def created(tmp_path, monkeypatch) -> tuple[Path, list[str], Served]:
    """A version made over HTTP."""
    monkeypatch.setenv("NO_PROXY", "*")
    server = served()
    with serving(server) as address:
        line = [*WORDS, "--root", str(tmp_path), "--server", address, "--server_model", "small"]
        assert cli.main([*line, "--json", str(tmp_path / "facts.json")]) == 0
        received = server.received
        assert cli.main(line) == 0  # these settings have made it already
        assert server.received == received
        assert cli.main([*line, "--seed", "1"]) == 0
    return tmp_path, line, server


def test_from_a_server_to_a_task(created, capsys):
    root, line, server = created
    facts = json.loads((root / "facts.json").read_text())
    assert facts["task"] == "created.garden.v1" and facts["counts"]["kept"] >= 8
    assert facts["calls"]["attempts"] == {"answered": facts["calls"]["answers"]}
    assert sorted(lineage.versions(root / "created/garden")) == [1, 2]
    kept = [
        json.loads(x)
        for x in (root / "created/garden/v1/kept.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(kept) == facts["counts"]["kept"]

    # the same rows from the recording, under another name
    replay = [*WORDS, "--root", str(root), "--replay", str(root / "created/garden/journal.sqlite")]
    replay[replay.index("garden")] = "again"
    assert cli.main(replay) == 0
    assert (root / "created/again/v1/kept.jsonl").read_bytes() == (
        root / "created/garden/v1/kept.jsonl"
    ).read_bytes()

    capsys.readouterr()
    row = kept[0]["lineage"]["id"]
    assert cli.main(["data", "why", row[:12], "--root", str(root)]) == 0
    told = capsys.readouterr().out
    assert f"{row} of created." in told and "made by server small" in told
    assert cli.main(["data", "why", "no-such", "--root", str(root)]) == 2

    # at once a task
    assert cli.main(["tasks", "check", "created.garden.v1", "--root", str(root)]) == 0

    # a changed row is told
    file = root / "created/garden/v2/kept.jsonl"
    file.write_text(file.read_text("utf-8") + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="kept.jsonl is damaged"):
        lineage.check(root / "created/garden/v2")


def own_recipe(root: Path, **arguments) -> Path:
    """A small recipe over the data of a folder."""
    sizes = {"window_examples": 16, "sequence_length": 512, "target_length": 256, "max_epochs": 1e6}
    where = {"root": str(root), "vocab": "bytes"}
    return samples.write_recipe(root, root / "cache", **{**where, **sizes, **arguments})


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    page = (REPO / "itx/create/README.md").read_text(encoding="utf-8")
    commands = page.split("```")[1].strip().splitlines()
    assert len(commands) == 4
    own_recipe(tmp_path, mixture="created.mine.v1", modules=("tasks",))
    with serving(served()) as address:
        for command in commands:
            words = command.split()[1:]
            words = [address if w.startswith("http") else w for w in words]
            if "ROW" in words:
                line = (
                    (tmp_path / "created/mine/v1/dropped.jsonl").read_text("utf-8").splitlines()[0]
                )
                words[words.index("ROW")] = json.loads(line)["lineage"]["id"]
            if "self-instruct" in words:
                words += ["--wanted", "8"]  # not the hundred of the default
            samples.itx(*words, cwd=tmp_path, PYTHONPATH=str(REPO))
    assert list((tmp_path / "cache/locks").glob("*.json"))


@pytest.mark.slow
def test_a_version_is_built_in_a_mixture(created):
    root, *_ = created
    (root / "own_tasks.py").write_text(
        "import tasks\nfrom itx.tasks import mixture\n"
        "mixture('gardens', ['created.garden.v1', 'created.garden.v2'])\n"
    )
    recipe = own_recipe(root, mixture="gardens", modules=("own_tasks",))
    samples.itx("data", "build", recipe, cwd=root, PYTHONPATH=str(REPO))
    (file,) = (root / "cache/locks").glob("*.json")
    lock = locks.read(file)
    kept = {
        f"v{n}": lineage.read_manifest(p)["counts"]["kept"]
        for n, p in lineage.versions(root / "created/garden").items()
    }
    names = {t["name"].split(":")[0]: t["audit"]["read"] for t in lock["tasks"]}
    assert names == {f"created.garden.{v}": n for v, n in kept.items()}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--name", "a b"], "letters, digits and _ alone"),
        (["--seeds", "absent.jsonl"], "no such file"),
        (["--without", "emty"], "no filter is called 'emty'"),
        (["--languages", "english"], "language 'english' is none"),
        (["--wanted", "0"], "--wanted 0: must be at least 1"),
        (["--server", "http://127.0.0.1:9/v1"], "--server_model NAME is missing"),
        (["--server", "http://a:pw@h/v1", "--server_model", "m"], "no name, password or query"),
        (["--replay", "absent.sqlite"], "no journal is there"),
        ([], "give one of --model MODEL, --server URL and --replay JOURNAL"),
    ],
)
def test_what_is_refused_leaves_nothing(more, told, tmp_path, capsys):
    assert cli.main([*WORDS, "--root", str(tmp_path), *more]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jsonl")) and not list(tmp_path.rglob("v1"))
