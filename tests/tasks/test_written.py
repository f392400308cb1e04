# SPDX-License-Identifier: Apache-2.0
"""What users write, as the contract of tasks has it: classification with exemplars, chain of thought, chats, TFDS."""

import gzip
import json

import pytest

from itx.data import cache
from itx.data import lock as locks
from tests import samples

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

mixture("everything", ["mail_mix", "sums", "sums:cot", "support"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The module and the files it names, and the build of all of it."""
    root = tmp_path_factory.mktemp("written")
    (root / "written.py").write_text(MODULE)
    labels = ("complaint", "question", "praise")
    mails = [{"text": f"письмо {i} from me" if i % 50 else "", "label": labels[i % 3]} for i in range(300)]
    sums = [
        {"question": f"What is {i} plus {i + 1}?", "answer": f"{i} and {i + 1} make {2 * i + 1}.\n#### {2 * i + 1}"}
        for i in range(90)
    ]
    chats = [
        {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": f"hello {i}"}]}
        for i in range(200)
    ]
    text = lambda rows: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)  # noqa: E731
    (root / "mail.jsonl").write_text(text(mails))
    (root / "train.jsonl.gz").write_bytes(gzip.compress(text(sums[:70]).encode()))
    (root / "test_part.jsonl").write_text(text(sums[70:]))
    (root / "chats.jsonl.gz").write_bytes(gzip.compress(text(chats).encode()))
    recipe = samples.write_recipe(root, root / "cache", mixture="everything", modules=("written",), root=str(root),
                                   sequence_length=384)  # fmt: skip
    samples.itx("data", "build", recipe, PYTHONPATH=str(root))
    return root


def test_all_of_them_build_and_every_record_is_accounted_for(folder):
    (file,) = (folder / "cache" / "locks").iterdir()
    lock = locks.read(file)
    tasks = {t["name"]: t for t in lock["tasks"]}
    assert set(tasks) == {"mail", "mail:fs4", "sums", "sums:cot", "support"}
    for t in tasks.values():
        assert t["audit"]["read"] == t["audit"]["kept"] + sum(t["audit"]["skipped"].values())
    assert tasks["mail"]["audit"]["skipped"]["empty"] == 6 and tasks["mail"]["audit"]["read"] == 300
    assert tasks["mail:fs4"]["rate"] == pytest.approx(tasks["mail"]["rate"])
    assert {r["name"] for r in lock["evaluation"]} >= {"mail", "mail@heldout", "mail:fs4", "sums", "sums:cot"}
    assert lock["unscored"] == []  # `support` names no test split: nothing was promised
    shots = cache.Records(folder / "cache" / tasks["mail:fs4"]["folders"][0])
    assert shots.exemplars.shape[1] == 4
    chats = cache.Records(folder / "cache" / tasks["support"]["folders"][0])
    assert len(chats) > 180 and [t for _, t in chats[0]] == [False, True]


@pytest.mark.parametrize("name, says", [("mail", "ok"), ("sums", "ok"), ("support", "ok")])
def test_they_pass_their_own_checks(folder, name, says):
    done = samples.itx("tasks", "check", name, "--modules=written", f"--root={folder}", PYTHONPATH=str(folder))
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
    locked = lambda file: {t["name"]: t for t in locks.read(json.loads(file.read_text())["lock"])["tasks"]}  # noqa: E731

    def build(*more):
        done = samples.itx("data", "build", recipe, "--json", folder / "built.json", *more, PYTHONPATH=str(folder))
        return locked(folder / "built.json"), json.loads((folder / "built.json").read_text())["made"], done.stdout

    before, made, _ = build()
    assert made == []
    longer, made, said = build("--train.steps=120")  # several passes over the small tasks: further renderings
    assert made and "made anew" in said
    for name, t in before.items():
        assert longer[name]["sha256"][: len(t["sha256"])] == t["sha256"] and longer[name]["rate"] == t["rate"]
    assert any(len(longer[n]["sha256"]) > len(before[n]["sha256"]) for n in before)
    module = folder / "written.py"
    text = module.read_text()
    try:
        module.write_text(text.replace("Think step by step.", "Think it over."))
        edited, made, said = build()
        # a template belongs to its task: the direct variant is keyed by it too, and made anew with the same bytes
        assert made == ["sums", "sums:cot"] and "or was not there: sums, sums:cot\n" in said
    finally:
        module.write_text(text)
    changed = {n for n in before if edited[n]["sha256"][0] != before[n]["sha256"][0]}
    assert "sums:cot" in changed and changed <= {"sums", "sums:cot"}
