# SPDX-License-Identifier: Apache-2.0
"""Super-NaturalInstructions under `data.root`: the family `ni.*`, one task per line of
natural_instructions/index.jsonl, or, where there is no index, per file of the upstream repository's
own layout:

    natural-instructions/ (or natural_instructions/)
        tasks/task001_….json                          Categories, Source, Definition,
                                                      Input_language, Instances, …
        splits/default/{train,test,excluded}_tasks.txt     beside other protocols, such as
                                                           splits/xlingual/

Four schemas, told apart by what a file holds: v2 (lists), v2-reduced (some lists are plain
strings), v2-early (Definition a string, no ids), v1 (tasks_v1/: Title, Prompt, Things to Avoid,
Examples). Tasks that a split's test_tasks.txt names are official test tasks: for evaluation only.
So are those that splits/default has in none of its lists or excludes, where it lists what is
trained on: they are of the test tasks' categories or sources. Definitions and positive examples are
the authors'; wordings around them are our own.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from itx.errors import UserError, did_you_mean
from itx.prepare import json_rows, records, sources
from itx.tasks.registry import family, make_task
from itx.tasks.spec import Skip, Source, TaskSpec
from tasks.from_tfds import origins

NI_FOLDER = "natural_instructions"
CLONE = "natural-instructions"  # as the upstream repository is called
NI_TEMPLATES = [
    ("{definition}\n\n{input}", "{answer}"),
    ("{with_examples}\n\nInput: {input}\nOutput:", "{answer}"),
    ("Learn from the examples.\n{with_examples}\n\nInput: {input}\nOutput:", "{answer}"),
    ("{definition}\n\nInput: {input}\nOutput:", "{answer}"),
    ("{input}\n\nWhat to do with the text above: {definition}", "{answer}"),
    (
        "Read the instructions and carry them out.\n{definition}\n\nCase: {input}\nResult:",
        "{answer}",
    ),
]
NI_HELDOUT = [
    ("Here is a job for you. {definition}\nMaterial:\n{input}\nYour solution:", "{answer}"),
    ("Given: {input}\nDo this: {definition}", "{answer}"),
]
# Mean words of a task's answers up to which one wording is right, and exact match is a fair score
SHORT_ANSWER = 3.0
# Positive examples behind a definition: at most so many, and as long as definition, input and they
# are no longer
POSITIVE, CHARACTERS = 2, 1800
# The older schema names neither category nor source: ours, by what the tasks ask
V1 = {
    "subtask022_cosmosqa_passage_inappropriate_binary": ("Toxic Language Detection", ["cosmosqa"]),
    "subtask024_cosmosqa_answer_generation": ("Question Answering", ["cosmosqa"]),
    "subtask043_essential_terms_answering_incomplete_questions": (
        "Question Answering",
        ["essential_terms"],
    ),
    "subtask044_essential_terms_identifying_essential_words": (
        "Question Understanding",
        ["essential_terms"],
    ),
    "subtask045_miscellaneous_sentence_paraphrasing": ("Paraphrasing", ["ni_miscellaneous"]),
    "subtask046_miscellaenous_question_typing": ("Question Understanding", ["ni_miscellaneous"]),
    "subtask047_misc_answering_science_questions": ("Question Answering", ["ni_miscellaneous"]),
}


def slug(text: str) -> str:
    """`Pos Tagging` -> `pos_tagging`: ASCII letters, digits and `_`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def texts(value: Any) -> list[str]:
    """A list of texts from a list or a plain string, stripped, without empty and repeated ones."""
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return list(dict.fromkeys(t.strip() for t in found if isinstance(t, str) and t.strip()))


def ni_fields(definition: str, positive: list[tuple[str, str]]) -> Callable[[dict], Any]:
    """The `fields` of one task: its definition, without and with positive examples, the input, all
    references."""

    def fields(instance: dict) -> Any:
        references = texts(instance["output"])
        if not references:
            return Skip("empty output")
        given = instance["input"].strip()
        if not given:
            return Skip("empty input")
        shown, room = [], CHARACTERS - len(definition) - len(given)
        for example, output in positive:  # never the instance itself
            room -= len(example) + len(output)
            if example != given and room >= 0 and len(shown) < POSITIVE:
                shown.append(f"Input: {example}\nOutput: {output}")
        return {"definition": definition, "with_examples": "\n\n".join([definition, *shown]), "input": given,
                "answer": references}  # fmt: skip

    return fields


def ni_task(
    entry: Mapping[str, Any], document: Mapping[str, Any], official_test: bool = False
) -> TaskSpec:
    """A line of the index and the task's file -> its spec (the name's other characters become
    `_`)."""
    file = ni_file(entry)
    keys = list(document) if isinstance(document, dict) else []
    wrong = ""
    if not keys or not isinstance(document.get("Instances"), list):
        wrong = "Instances"
    elif not texts(document.get("Definition")):
        wrong = "Definition"
    if wrong:
        what = "is not a list of instances" if wrong == "Instances" else "holds no text"
        raise UserError(
            f"{file}: {wrong!r} {what} there" + ("" if wrong in keys else did_you_mean(wrong, keys))
        )
    examples = document.get("Examples")  # v1 keeps them there
    found = document.get("Positive Examples") or (
        examples.get("Positive Examples") if isinstance(examples, dict) else []
    )
    positive = [(p["input"].strip(), texts(p["output"])[0]) for p in found
                if isinstance(p, dict) and isinstance(p.get("input"), str) and texts(p.get("output"))]  # fmt: skip
    # others are told when they are read
    rows = [i for i in document["Instances"] if isinstance(i, dict)]
    answers = [a for i in rows for a in texts(i.get("output"))[:1]]
    short = sum(len(a.split()) for a in answers) <= SHORT_ANSWER * len(answers)
    own = ("exact_match", "rouge_l") if short else ("rouge_l", "token_f1")
    category, origin = V1.get(entry["task"], (entry["category"], entry["source"]))
    if not category:
        where = (
            f"{file}: 'Categories' holds no text"
            if "folder" in entry
            else f"{NI_FOLDER}/index.jsonl: task {entry['task']!r} has no category"
        )
        raise UserError(where)
    languages = [slug(x) for x in texts(document.get("Input_language"))]
    return make_task(
        "ni." + re.sub(r"[^A-Za-z0-9_.]", "_", entry["task"]), version=2, cluster=slug(category),
        source=Source("json", {"train": file}, options={"rows": "Instances", "id": "id"}),
        # a source is given with its address: `scan (https://…)`
        fields=ni_fields(" ".join(texts(document["Definition"])), positive), content=("input",),
        origin=origins(*(slug(s.split("(")[0]) for s in origin or ())),
        metrics=("chrf", "bleu") if slug(category) == "translation" else own,
        templates=NI_TEMPLATES, heldout_templates=NI_HELDOUT, evaluation_only=official_test, module=__name__,
        tags={"language": ", ".join(languages)} if languages and "folder" in entry else {},
    )  # fmt: skip


def ni_file(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('folder', NI_FOLDER)}/{'tasks_v1' if entry.get('format') == 'v1' else 'tasks'}/{entry['task']}.json"


def ni_members(root: str) -> list[TaskSpec]:
    """Every task in the index under a data root, or in the upstream repository's folder."""
    folder = next(
        (f for f in (NI_FOLDER, CLONE) if root and (Path(root) / f / "tasks").is_dir()), NI_FOLDER
    )
    path = Path(root) / folder
    official = evaluated(path)
    if not (path / "index.jsonl").is_file() and any(path.glob("tasks/*.json")):
        return [_of_file(folder, file, official) for file in sorted(path.glob("tasks/*.json"))]
    index = sources.find_file(f"{NI_FOLDER}/index.jsonl", root)
    found = []
    for row, entry in json_rows.read_jsonl(index, {}):
        if isinstance(entry, records.Bad):  # a task would be missing and nobody would know
            raise UserError(f"{NI_FOLDER}/index.jsonl:{row}: {entry.reason} ({entry.detail})")
        for key in ("task", "category", "source"):
            if key not in entry:
                raise UserError(
                    f"{NI_FOLDER}/index.jsonl:{row}: no {key!r}" + did_you_mean(key, entry)
                )
        document = json_rows.read_document(sources.find_file(ni_file(entry), root))
        found.append(ni_task(entry, document, official(entry["task"])))
    return found


def _of_file(folder: str, file: Path, official: Callable[[str], bool]) -> TaskSpec:
    """The task of an upstream file, which says itself what our index says of others."""
    document = json_rows.read_document(file)
    said = document if isinstance(document, dict) else {}
    for key in ("Categories", "Source"):
        if said and key not in said and file.stem not in V1:
            raise UserError(f"{folder}/tasks/{file.name}: no {key!r}" + did_you_mean(key, said))
    category, source = next(iter(texts(said.get("Categories"))), ""), texts(said.get("Source"))
    entry = {"task": file.stem, "category": category, "source": source, "folder": folder}
    return ni_task(entry, document, official(file.stem))


def evaluated(folder: Path) -> Callable[[str], bool]:
    """Whether a task is for evaluation only, by the official lists below splits/."""

    def listed(pattern: str) -> set[str]:
        files = sorted((folder / "splits").glob(pattern))
        return {
            line.removesuffix(".json")
            for f in files
            for line in f.read_text(encoding="utf-8").split()
        }

    tests, trained = listed("*/test_tasks.txt"), listed("default/train_tasks.txt")
    return lambda task: task in tests or bool(trained) and task not in trained


family("ni", ni_members)
