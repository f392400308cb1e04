# SPDX-License-Identifier: Apache-2.0
"""On a hit a sample of what the cache holds is rendered again: what no key could see is an error
that names the task."""

import json
import sys

import pytest

from itx.errors import UserError
from itx.prepare import jobs, types, vocab, workers
from itx.tasks import registry
from tests.prepare.job_settings import job_settings

MODULE = """
import json
from itx.tasks import function, instruction_task, chat_task
from pathlib import Path

HERE = Path(__file__).parent


def rows(split, root, seed):
    return [{"text": f"letter {i} of {i * 7}", "label": i % 2} for i in range(300)]


def says(e):
    return json.loads((HERE / "words.json").read_text())["says"]


def from_file(e):
    return {"text": f"{says(e)} {e['text']}", "answer": e["label"]}


def rarely(e):
    return {"text": says(e) if e["label"] else e["text"], "answer": e["label"], "n": e["text"]}


def talk(e):
    turns = [("user", e["text"]), ("assistant", says(e)), ("user", "and"), ("assistant", "yes")]
    return {"messages": [{"role": r, "content": c} for r, c in turns]}


def several(e):
    return [{"text": f"{e['text']} {n} {says(e)}", "answer": e["label"]} for n in range(3)]


def skips(e):
    from itx.tasks.spec import Skip

    return {"text": e["text"], "answer": e["label"]} if says(e) == "old" or e["label"] else Skip("no label")


MEMO = {}


def remembers(e):
    return {"text": MEMO.setdefault(e["text"], e["text"].upper()), "answer": e["label"]}


def add(name, fields):
    instruction_task(name, version=1, cluster="c", fields=fields, options=("no", "yes"), metrics=("accuracy",),
                     source=function(rows), templates=[("{text}\\\\n{options}", "{answer}"), ("{text}", "{answer}")])


for fields in (from_file, rarely, several, skips, remembers):
    add("again_" + fields.__name__, fields)
chat_task("again_talk", version=1, cluster="c", source=function(rows), fields=talk)
"""


CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
CASES = {
    "training": types.Job("again_from_file", "train"),
    "a second rendering": types.Job("again_from_file", "train", rendering=1),
    "evaluation": types.Job("again_from_file", "test"),
    "few shots": types.Job("again_from_file:fs2", "train"),
    "some records": types.Job("again_rarely", "train"),
    "several examples of a record": types.Job("again_several", "train"),
    "an example that is skipped now": types.Job("again_skips", "train"),
    "a conversation": types.Job("again_talk", "train"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(settings of a cache that holds the folders of all cases, what says which words are read at
    run time)."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "again_tasks.py").write_text(MODULE)

    def write(says):
        return (folder / "words.json").write_text(json.dumps({"says": says}))

    write("old")
    sys.path.insert(0, str(folder))
    registry.load_modules(("again_tasks",))
    file, cache = vocab.keep_bytes(125, str(folder / "cache")), str(folder / "cache")
    settings = job_settings(file, CHAT, modules=("again_tasks",), cache_dir=cache)
    for job in CASES.values():
        jobs.run(job, settings)
    yield settings, write
    sys.path.remove(str(folder))
    for name in [n for n in registry.TASKS if n.startswith("again_")]:
        del registry.TASKS[name]
    del sys.modules["again_tasks"]


def test_what_is_rendered_as_it_was_is_a_hit(made):
    settings, write = made
    write("old")
    found = workers.make(list(CASES.values()), settings, 1)
    assert {j: w for j, (w, _) in found.items()} == {
        j: jobs.folder(j, settings, f"bytes{125}") for j in CASES.values()
    }


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_read_at_run_time_makes_a_hit_an_error(made, case):
    settings, write = made
    job = CASES[case]
    write("new")
    with pytest.raises(UserError) as raised:
        workers.make([job], settings, 1)
    said, task = str(raised.value), job.variant.partition(":")[0]
    assert (
        f"task {task!r}: example " in said
        and "raise the task's version" in said
        and "\n" not in said
    )


def test_a_key_that_changes_while_functions_run_is_told(made):
    """A second rendering would be kept under another key than the process that asks for it
    gives."""
    settings, _ = made
    todo = [types.Job("again_remembers", "train", rendering=r) for r in range(2)]
    with pytest.raises(
        UserError,
        match="task 'again_remembers': its cache key differs between two processes: a value",
    ):
        workers.make(todo, settings, 1)
