# SPDX-License-Identifier: Apache-2.0
"""What users write, as the contract of tasks has it: classification with exemplars, chain of
thought, chats, TFDS."""

import gzip
import json
import subprocess
import sys

import pytest

import tasks as shipped  # noqa: F401  (registers)
from itx.data import cache
from itx.data import lock as locks
from tests import samples
from tests.conftest import REPO

MODULE = """
from itx.tasks import *

# (a) classification from a JSONL file, with few-shot variants
LABELS = ("complaint", "question", "praise")
instruction_task("mail", version=1, cluster="intent", options=LABELS, metrics=("accuracy",),
    source=jsonl("mail.jsonl", split_by_hash={"train": .9, "validation": .05, "test": .05}),
    fields=lambda r: {"text": r["text"], "answer": LABELS.index(r["label"])} if r["text"] else Skip("empty"),
    templates=[("What kind of message is this?\\n{text}\\n{options}", "{answer}"),
               ("{text}\\n\\nThe mail above is:\\n{options}", "{answer}")],
    heldout_templates=[("Label it.\\n{options}\\nMail: {text}", "{answer}")])
mixture("mail_mix", ["mail"], variants={"zs": .5, "fs4": .5})

# (b) a TFDS set
instruction_task("rte", version=1, cluster="nli", origin=("rte",), options=("yes", "no"), metrics=("accuracy",),
    source=tfds("glue/rte:2.0.0", splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"}),
    fields=lambda e: {"premise": e["sentence1"], "hypothesis": e["sentence2"], "answer": e["label"]},
    templates=[("{premise}\\nIs it so that {hypothesis}?\\n{options}", "{answer}"), ("{hypothesis}\\nDoes this follow?\\n{premise}", "{answer}")],
    heldout_templates=[("Read: {premise}\\nThen {hypothesis}, yes or no?", "{answer}")])

# (c) chain of thought: the same task, a second kind of target
def gsm8k_fields(e):
    rationale, answer = e["answer"].split("####")
    return {"question": e["question"], "rationale": rationale.strip(), "answer": answer.strip()}
instruction_task("sums", version=1, cluster="math", origin=("gsm8k",), fields=gsm8k_fields, metrics=("numeric",),
    source=jsonl({"train": "train.jsonl.gz", "test": "test_part.jsonl"}),
    templates=[("{question}", "{answer}")],
    cot=CoT([("{question}\\nThink step by step.", "{rationale}\\nThe answer is {answer}.")]))

# (d) a chat file: no templates; the chat template belongs to the run
chat_task("support", version=1, cluster="dialog", fields=openai_messages,
    source=jsonl("chats.jsonl.gz", split_by_hash={"train": .98, "validation": .02}, split_key=first_user_turn))

mixture("everything", ["mail_mix", "sums", "sums:cot", "support", "rte"])
"""
# (e) everything but one cluster (its neighbours and same-origin tasks leave too, each printed with
# its reason)
HELD = """
from itx.tasks import *

mixture("no_nli", holdout(clusters=["nli"], tasks=["piqa"]), variants={"zs": .5, "fs4": .5}, maximum=3000)
"""
# Rows in the builder's own schema and under its own label names, in the folder of its version
RTE = """
import sys, tensorflow_datasets as tfds
from tests.prepare.tfds_probe import write
builder = tfds.builder("glue/rte", data_dir=sys.argv[1])
names = builder.info.features["label"].names
row = lambda split, i: {"idx": i, "sentence1": f"{split} премиса {i}", "sentence2": f"假设 {i}",
                        "label": ("entailment", "not_entailment")[i % 2]}
write(builder, {split: [row(split, i) for i in range(n)] for split, n in (("train", 290), ("validation", 30))})
print(builder.info.version, names)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The module and the files it names, and the build of all of it."""
    root = tmp_path_factory.mktemp("written")
    (root / "written.py").write_text(MODULE)
    labels = ("complaint", "question", "praise")
    mails = [
        {"text": f"письмо {i} from me" if i % 50 else "", "label": labels[i % 3]}
        for i in range(300)
    ]
    sums = [
        {
            "question": f"What is {i} plus {i + 1}?",
            "answer": f"{i} and {i + 1} make {2 * i + 1}.\n#### {2 * i + 1}",
        }
        for i in range(90)
    ]
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"hi {i}"},
                {"role": "assistant", "content": f"hello {i}"},
            ]
        }
        for i in range(200)
    ]

    def text(rows):
        return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)

    (root / "mail.jsonl").write_text(text(mails))
    (root / "train.jsonl.gz").write_bytes(gzip.compress(text(sums[:70]).encode()))
    (root / "test_part.jsonl").write_text(text(sums[70:]))
    (root / "chats.jsonl.gz").write_bytes(gzip.compress(text(chats).encode()))
    (root / "tfds").mkdir()
    command = [sys.executable, "-c", RTE, str(root / "tfds")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "2.0.0 ['entailment', 'not_entailment']\n", done.stderr
    recipe = samples.write_recipe(root, root / "cache", mixture="everything", modules=("written",), root=str(root),
                                  sequence_length=384, tfds_data_dir=str(root / "tfds"))  # fmt: skip
    samples.itx("data", "build", recipe, PYTHONPATH=str(root))
    return root


def test_all_of_them_build_and_every_record_is_accounted_for(folder):
    (file,) = (folder / "cache" / "locks").iterdir()
    lock = locks.read(file)
    tasks = {t["name"]: t for t in lock["tasks"]}
    assert set(tasks) == {"mail", "mail:fs4", "sums", "sums:cot", "support", "rte"}
    for t in tasks.values():
        assert t["audit"]["read"] == t["audit"]["kept"] + sum(t["audit"]["skipped"].values())
    assert tasks["mail"]["audit"]["skipped"]["empty"] == 6 and tasks["mail"]["audit"]["read"] == 300
    assert tasks["mail:fs4"]["rate"] == pytest.approx(tasks["mail"]["rate"])
    assert {r["name"] for r in lock["evaluation"]} >= {
        "mail",
        "mail@heldout",
        "mail:fs4",
        "sums",
        "sums:cot",
    }
    assert lock["unscored"] == [
        "support (no test split, only train and validation: --eval.split=validation)"
    ]
    shots = cache.Records(folder / "cache" / tasks["mail:fs4"]["folders"][0])
    assert shots.exemplars.shape[1] == 4
    chats = cache.Records(folder / "cache" / tasks["support"]["folders"][0])
    assert len(chats) > 180 and [t for _, t in chats[0]] == [False, True]


def test_a_tfds_set_is_read_as_its_builder_wrote_it(folder):
    """The instructions' rows, the builder's labels as the task's options; `test` is the builder's
    validation."""
    (file,) = (folder / "cache" / "locks").iterdir()
    lock = locks.read(file)
    (task,) = [t for t in lock["tasks"] if t["name"] == "rte"]
    assert task["audit"]["read"] == task["audit"]["kept"] == 90
    (row,) = [r for r in lock["evaluation"] if r["name"] == "rte"]
    assert row["audit"]["read"] == 30
    shown = list(cache.iterate_examples(folder / "cache" / row["folder"]))
    assert len(shown) == 2 * row["examples"] == 40
    for e in shown:
        number = int(e["input_content"].split("\n")[0].split()[-1])
        assert f"validation премиса {number}" in e["prompt"] and f"假设 {number}" in e["prompt"]
        assert e["options"][e["answer_index"]] == e["target"]
        # no options are shown, so they are called by their text
        if "Does this follow" in e["prompt"]:
            assert e["target"] == ("yes", "no")[number % 2]


def test_a_held_out_cluster_leaves_with_its_neighbours_and_kin_each_with_its_reason(tmp_path):
    (tmp_path / "held.py").write_text(HELD)
    words = ("tasks", "show", "no_nli", "--modules=tasks,held", "--json", tmp_path / "shown.json")
    said = samples.itx(*words, PYTHONPATH=str(tmp_path)).stdout
    shown = json.loads((tmp_path / "shown.json").read_text())
    gone = shown["held out"]
    for name, why in gone.items():
        assert f"held out: {name:<22} {why}\n" in said
    everything = samples.shipped_tasks()
    nli = {n for n, t in everything.items() if t.cluster == "nli"}
    assert len(nli) > 3 and {n: gone[n] for n in nli} == dict.fromkeys(
        nli, "cluster nli is held out"
    )
    assert gone["piqa"] == "held out by name"
    beside = {c for n in nli for c in everything[n].neighbours}
    origins = {o for n in (*nli, "piqa") for o in everything[n].origin}
    left = {n for n in everything if n not in gone}
    assert {everything[n].cluster for n in gone} > beside > set() and len(left) > 20
    assert not any(
        everything[n].cluster in beside or set(everything[n].origin) & origins for n in left
    )
    for name in set(gone) - nli - {"piqa"}:
        assert everything[name].cluster in beside or set(everything[name].origin) & origins, name
        assert "is a neighbour of nli" in gone[name] or gone[name].startswith("made from "), gone[
            name
        ]
    trained = {n for n in left if not everything[n].evaluation_only}
    halves = {n + v: 0.5 for n in trained if everything[n].templated for v in ("", ":fs4")}
    whole = dict.fromkeys((n for n in trained if not everything[n].templated), 1.0)
    assert shown["members"] == halves | whole  # a conversation has no exemplars


@pytest.mark.parametrize(
    "name, says", [("mail", "ok"), ("sums", "ok"), ("support", "ok"), ("rte", "ok")]
)
def test_they_pass_their_own_checks(folder, name, says):
    words = ("tasks", "check", name, "--modules=written", f"--root={folder}")
    done = samples.itx(*words, PYTHONPATH=str(folder), TFDS_DATA_DIR=str(folder / "tfds"))
    assert says in done.stdout.lower()


def test_they_are_shown(folder):
    def show(name: str) -> str:
        words = ("tasks", "show", name, "--modules=written", f"--root={folder}")
        return samples.itx(*words, PYTHONPATH=str(folder)).stdout

    assert show("mail:fs4").count("from me") >= 10  # two training templates, five messages each
    assert "The answer is" in show("sums:cot")
    said = show("support")
    assert "Assistant:" in said and "hello" in said


def test_an_edited_template_rebuilds_its_task_alone_and_an_epoch_more_changes_nothing(folder):
    """Hashes of all other folders stay, and the command says what was made."""
    recipe = folder / "recipe.py"

    def locked(file):
        return {t["name"]: t for t in locks.read(json.loads(file.read_text())["lock"])["tasks"]}

    def build(*more):
        done = samples.itx(
            "data", "build", recipe, "--json", folder / "built.json", *more, PYTHONPATH=str(folder)
        )
        return (
            locked(folder / "built.json"),
            json.loads((folder / "built.json").read_text())["made"],
            done.stdout,
        )

    before, made, _ = build()
    assert made == []
    # several passes over the small tasks: further renderings
    longer, made, said = build("--train.steps=120")
    assert made and "made anew" in said
    for name, t in before.items():
        assert (
            longer[name]["sha256"][: len(t["sha256"])] == t["sha256"]
            and longer[name]["rate"] == t["rate"]
        )
    assert any(len(longer[n]["sha256"]) > len(before[n]["sha256"]) for n in before)
    module = folder / "written.py"
    text = module.read_text()
    try:
        module.write_text(text.replace("Think step by step.", "Think it over."))
        edited, made, said = build()
        # a template belongs to its task: the direct variant is keyed by it too, and made anew with
        # the same bytes
        assert made == ["sums", "sums:cot"] and "or was not there: sums, sums:cot\n" in said
    finally:
        module.write_text(text)
    changed = {n for n in before if edited[n]["sha256"][0] != before[n]["sha256"][0]}
    assert "sums:cot" in changed and changed <= {"sums", "sums:cot"}
