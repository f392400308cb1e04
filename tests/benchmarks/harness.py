# SPDX-License-Identifier: Apache-2.0
r"""A model of ours in lm-evaluation-harness beside the harness's own backend for transformers: the
same numbers, and how long they take.

    uv run itx recipes fetch smollm2
    uv run python -m tests.benchmarks.harness agreement FOLDER PYTHON
    uv run python -m tests.benchmarks.harness timing FOLDER PYTHON

PYTHON is one with torch, transformers and lm-eval; FOLDER lies outside the checkout and is kept:
the model as a Hugging Face folder in float32, which both sides read, the tasks' data as JSON lines,
and what transformers answered, which is not asked again. The tasks are harness/*.yaml over the public data in shared/data.

agreement: every request of every task, by each side in one process. timing: the requests of a few
tasks, asked once to compile and then again; transformers at each of several batch sizes, of which
the quickest counts. Both write their part of harness.json beside this file.
"""

import argparse
import csv
import gzip
import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itx import cli, hashing, malloc, pretrained, restore, storage
from tests.benchmarks.train_step import cpu, result

# tests/conftest.py would set eight devices and a compiler that does not optimise
REPO = Path(__file__).parents[2]
SHARED = REPO.parent / "shared" / "data"
MODEL = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = REPO / "tests" / "benchmarks" / "harness"
FACTS = Path(__file__).with_suffix(".json")
# {setting: (most tokens, through the chat template, tasks; none: all)}
SETTINGS = {
    "plain": (2048, False, ()),
    "chat": (2048, True, ("local_bbq", "local_antonyms", "local_creak", "local_gsm8k")),
    "short": (192, False, ("local_mmlu", "local_c4", "local_gsm8k", "local_last_word")),
}
TIMED = {
    "ranking": ("local_mmlu_texts", "local_bbq", "local_winobias"),
    "ranking letters": ("local_mmlu", "local_bbh_dates"),
    "generation": ("local_gsm8k", "local_french", "local_antonyms"),
}
BATCHES = (1, 4, 16)
CLOSE = 1e-3  # of log-likelihoods
WORDS = 200  # of a web text
Rows = list[dict[str, Any]]


# ---- the tasks' data


def csv_rows(file: Path) -> Rows:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def mmlu(part: str) -> Rows:
    """Subjects in turn, so that few documents are of many subjects."""
    files = [csv_rows(f) for f in sorted((SHARED / "mmlu" / part).glob("*.csv"))]
    return [
        {**rows[i], "answer": int(rows[i]["answer"])}
        for i in range(max(map(len, files)))
        for rows in files
        if i < len(rows)
    ]


def bbh(name: str) -> Rows:
    rows = storage.read_json(SHARED / "bbh" / "bbh" / f"{name}.json")["examples"]
    return [{**r, "options": re.findall(r"^(\([A-Z]\))", r["input"], re.MULTILINE)} for r in rows]


def induction(name: str) -> Rows:
    held = storage.read_json(SHARED / "instruction_induction" / "induce" / f"{name}.json")
    return [{"input": e["input"], "output": e["output"]} for e in held["examples"].values()]


def winobias() -> Iterator[dict[str, str]]:
    """The mention that a pronoun means, the other occupation of the sentence, and what stands
    before and behind the pronoun."""
    folder = SHARED / "winobias"
    jobs = [
        job
        for name in ("female", "male")
        for job in (folder / f"{name}_occupations.txt").read_text("utf-8").split("\n")
        if job
    ]
    for line in (folder / "pro_stereotyped_type1.txt.dev").read_text("utf-8").splitlines():
        text = line.partition(" ")[2]
        marked = re.findall(r"\[(.*?)\]", text)
        bare = re.sub(r"[\[\]]", "", text)
        mention = next((m for m in marked if m.split()[-1] in jobs), "")
        others = [j for j in jobs if re.search(rf"\b{j}\b", bare) and j not in mention]
        if len(marked) == 2 and mention and len(others) == 1:
            pronoun = marked[1 - marked.index(mention)]
            before, _, after = text.rpartition(f"[{pronoun}]")
            before = re.sub(r"[\[\]]", "", before)
            texts = {"sentence": bare, "before": before, "after": after.strip()}
            yield {**texts, "pronoun": pronoun, "mention": mention, "other": f"the {others[0]}"}


def tables() -> Iterator[tuple[str, Rows]]:
    """(a file's name, its rows)."""
    yield "mmlu_dev", mmlu("dev")
    yield "mmlu_test", mmlu("test")
    for name in ("date_understanding", "boolean_expressions"):
        rows = bbh(name)
        yield f"bbh_{name}", [r for r in rows if not r["options"] or r["target"] in r["options"]]
    for name in ("antonyms", "translation_en-fr", "sentiment"):
        yield f"ii_{name}", induction(name)
    yield "winobias", list(winobias())
    files = sorted((SHARED / "bbq").glob("*.jsonl"))
    columns = [[json.loads(x) for x in f.read_text("utf-8").splitlines()] for f in files]
    keys = ("context", "question", "ans0", "ans1", "ans2", "label")
    yield (
        "bbq",
        [{k: r[k] for k in keys} for of_files in zip(*columns, strict=True) for r in of_files],
    )
    with gzip.open(SHARED / "gsm8k" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield "gsm8k_train", [json.loads(x) for x in lines]
    gsm8k = (SHARED / "gsm8k" / "test_part.jsonl").read_text("utf-8").splitlines()
    yield "gsm8k_test", list(map(json.loads, gsm8k))
    creak = (SHARED / "flan_cot" / "creak_train.sample.tsv").read_text("utf-8").split("\n")
    cells = [line.split("\t") for line in creak if line.count("\t") == 2]
    yield (
        "creak",
        [{"input": a.replace("\\n", "\n"), "answer": b} for a, b, _ in cells if b in ("yes", "no")],
    )
    c4 = (SHARED / "c4_demo" / "c4_demo.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in c4]
    yield "c4", [{"text": " ".join(text.split(" ")[:WORDS])} for text in texts]
    words = [
        " ".join(text.split()[:40]).rpartition(" ") for text in texts if len(text.split()) > 40
    ]
    yield "last_word", [{"before": before, "word": word} for before, _, word in words]


def prepare(folder: Path) -> None:
    """The model and the data in FOLDER, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "hf").exists():
        words = ["convert", "export", str(REPO / MODEL), str(folder / "hf"), "--dtype=float32"]
        assert cli.main(words) == 0
    (folder / "data").mkdir(exist_ok=True)
    for name, rows in tables():
        assert rows, name
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        (folder / "data" / f"{name}.jsonl").write_text(lines, "utf-8")
    shutil.copytree(TASKS, folder / "tasks", dirs_exist_ok=True)


# ---- our side; the other one is hf_harness.py


def ours(folder: Path, max_length: int) -> Any:
    """The model in FOLDER as the harness takes it, in float32."""
    from itx.eval.harness import HarnessModel

    begin = pretrained.untrained(str(folder / "hf"))
    assert begin is not None
    return HarnessModel(*restore.load_untrained(begin), max_length=max_length)


def names_of(tasks: tuple[str, ...]) -> list[str]:
    return list(tasks) or sorted(p.stem for p in TASKS.glob("*.yaml"))


def asked(setting: str, folder: Path, limit: int) -> dict[str, Any]:
    """{"samples": {task: [{"arguments", "resps", metric: value}]}, "counts", "seconds"} of itx."""
    from itx.eval import harness_tasks

    os.chdir(folder)
    max_length, chat, tasks = SETTINGS[setting]
    model = ours(folder, max_length)
    found = harness_tasks.find(names_of(tasks), "tasks")
    began = time.perf_counter()
    facts, samples = harness_tasks.scores(model, found, None, limit, chat)
    seconds = time.perf_counter() - began
    return {"samples": samples, "counts": facts["counts"], "seconds": seconds}


def timed(what: str, folder: Path, limit: int) -> dict[str, Any]:
    """Seconds of the requests of some tasks, asked twice."""
    from itx.eval import harness_tasks

    os.chdir(folder)
    model = ours(folder, 2048)
    found = harness_tasks.find(list(TIMED[what]), "tasks")
    requests = []
    for task in found.tasks.values():
        task.set_fewshot_seed(seed=1234)
        task.set_config("num_fewshot", task.get_config("num_fewshot") or 0)
        task.build_all_requests(limit=limit, rank=0, world_size=1)
        requests += task.instances
    ask = model.generate_until if what == "generation" else model.loglikelihood
    passes = []
    for _ in range(2):
        c, w = cpu(), time.perf_counter()
        ask(requests)
        passes.append({"wall_s": time.perf_counter() - w, "cpu_s": cpu() - c})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**passes[1], "first_s": passes[0]["wall_s"], "requests": len(requests), "peak_mb": peak}


# ---- both sides compared


def compared(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{task: {"outcomes", "same_outcomes", and what `answers` says}}; an outcome is a document's
    scores under one filter of its answers."""
    out = {}
    assert mine.keys() == theirs.keys()
    for task, lines in mine.items():
        others = theirs[task]
        assert [x["doc_id"] for x in lines] == [x["doc_id"] for x in others], task
        assert [asked_of(x) for x in lines] == [asked_of(x) for x in others], task
        both = list(zip(lines, others, strict=True))
        # a document has a line for each filter of its answers
        docs = {x["doc_id"]: (x, y) for x, y in both}.values()
        pairs = [(a[0], b[0]) for x, y in docs for a, b in zip(x["resps"], y["resps"], strict=True)]
        same = [all(alike(x[m], y[m]) for m in lines[0]["metrics"]) for x, y in both]
        out[task] = {"outcomes": len(same), "same_outcomes": sum(same), **answers(pairs)}
    return out


def answers(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """How far the answers of both sides differ: strings, the likelihoods of whole texts, or those
    of continuations with their flags."""
    first = pairs[0][0]
    if isinstance(first, str):
        different = next(([a, b] for a, b in pairs if a != b), None)
        same = sum(a == b for a, b in pairs)
        return {"strings": len(pairs), "same_strings": same, "first_difference": different}
    if isinstance(first, float):
        return {"texts": len(pairs), "relative": max(abs(a - b) / abs(b) for a, b in pairs)}
    apart = [abs(a[0] - b[0]) for a, b in pairs]
    return {
        "likelihoods": len(pairs),
        "largest": max(apart),
        "close": sum(x <= CLOSE for x in apart),
        "same_flags": sum(a[1] == b[1] for a, b in pairs),
    }


def asked_of(line: dict[str, Any]) -> str:
    """What a document's requests ask, in words."""
    return json.dumps(line["arguments"], sort_keys=True)


def alike(a: Any, b: Any) -> bool:
    """Whether two outcomes of a document are one: numbers within what CLOSE makes of them."""
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) and a not in (0.0, 1.0):
        return abs(a - b) <= CLOSE * max(1.0, abs(a))
    return a == b


def theirs(setting: str, folder: Path, python: str, limit: int) -> dict[str, Any]:
    """{"samples", "seconds", "versions"} of transformers: those in FOLDER, if they are of this."""
    max_length, chat, tasks = SETTINGS[setting]
    names = names_of(tasks)
    files = [folder / "hf" / "config.json", *sorted((folder / "data").iterdir())]
    files += [folder / "tasks" / f"{name}.yaml" for name in names]
    asked_for = {"setting": SETTINGS[setting], "limit": limit, "of": digest(files)}
    file = folder / f"theirs-{setting}.json"
    about = folder / f"theirs-{setting}.about.json"
    about_them = storage.read_json(about) if about.is_file() else {}
    if about_them.get("asked") != json.loads(json.dumps(asked_for)):
        words = [str(max_length), str(int(chat)), str(limit), str(file), *names]
        script = str(Path(__file__).with_name("hf_harness.py"))
        about_them = result([python, script, "ask", *words], cwd=folder) | {"asked": asked_for}
        storage.write_json(about, about_them)
    return {**about_them, **storage.read_json(file)}


def digest(files: list[Path]) -> str:
    return hashing.digest(*(f"{f.name}:{hashing.file_sha256(f)}" for f in files))


def agreement(folder: Path, python: str, limit: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"limit": limit, "settings": {}}
    for setting, (max_length, chat, _) in SETTINGS.items():
        other = theirs(setting, folder, python, limit)
        mine = asked(setting, folder, limit)
        mine = json.loads(json.dumps(mine, default=str))  # as the other side's
        facts["settings"][setting] = {
            "max_length": max_length,
            "chat": chat,
            "tasks": compared(mine["samples"], other["samples"]),
            "counts": mine["counts"],
            "seconds": {"itx": mine["seconds"], "transformers": other["seconds"]},
        }
        facts["versions"] = other["versions"]
        print("\n".join(agreement_lines(facts)), flush=True)
    return facts


def timing(folder: Path, python: str, limit: int) -> dict[str, Any]:
    both = {"JAX_PLATFORMS": "cpu", malloc.TUNABLES: malloc.HUGE_PAGES}
    found: dict[str, Any] = {}
    for what, tasks in TIMED.items():
        here = [sys.executable, "-m", "tests.benchmarks.harness", "only", str(folder), what]
        mine = result([*here, "--limit", str(limit)], cwd=REPO, env={**os.environ, **both, "XLA_FLAGS": ""})  # fmt: skip
        found[what] = {"tasks": tasks, "itx": mine, "transformers": {}}
        print(what, "itx", mine, flush=True)
        for batch in BATCHES:
            words = ["time", what, str(batch), str(limit), *tasks]
            theirs = result(
                [python, str(Path(__file__).with_name("hf_harness.py")), *words],
                cwd=folder, env={**os.environ, **both},
            )  # fmt: skip
            found[what]["transformers"][str(batch)] = theirs
            print(what, "transformers", batch, theirs, flush=True)
    return {"limit": limit, "found": found, "load": os.getloadavg()[0]}


# ---- the page


def agreement_lines(facts: dict[str, Any]) -> list[str]:
    out = [
        "| tasks | most tokens | outcomes | the same | continuations | largest difference | within "
        f"{CLOSE:g} | same greedy flag | strings | the same | texts | largest relative difference |",
        "|---|" + "--:|" * 11,
    ]
    for setting, held in facts["settings"].items():
        rows = [(name.removeprefix("local_"), [t]) for name, t in sorted(held["tasks"].items())]
        rows.append((f"all, {setting}", list(held["tasks"].values())))
        out += [
            "| " + " | ".join((name, f"{held['max_length']:,}", *cells(tasks))) + " |"
            for name, tasks in rows
        ]
    return out


def cells(tasks: list[dict[str, Any]]) -> list[str]:
    """A row of the table, of one task or of several together."""

    def total(key: str) -> int:
        return sum(t.get(key, 0) for t in tasks)

    def count(key: str) -> str:
        return f"{n:,}" if (n := total(key)) else ""

    def share(some: str, of: str) -> str:
        return f"{total(some) / n:.2%}" if (n := total(of)) else ""

    def largest(key: str) -> str:
        found = [t[key] for t in tasks if key in t]
        return f"{max(found):.1e}" if found else ""

    return [
        *(count("outcomes"), share("same_outcomes", "outcomes")),
        *(count("likelihoods"), largest("largest"), share("close", "likelihoods")),
        share("same_flags", "likelihoods"),
        *(count("strings"), share("same_strings", "strings")),
        *(count("texts"), largest("relative")),
    ]


def lines(facts: dict[str, Any]) -> list[str]:
    """The facts as a part of a Markdown page."""
    out = ["## lm-evaluation-harness", ""]
    if held := facts.get("agreement"):
        of = held["versions"]
        out += [
            f"`python -m tests.benchmarks.harness agreement`: SmolLM2-135M-Instruct in float32, the first {held['limit']} documents "
            f"of each task (harness/*.yaml), asked by `itx eval --harness`'s model and by the harness's own backend for transformers "
            f"(lm_eval {of['lm_eval']}, transformers {of['transformers']}, torch {of['torch']}), each request of each document "
            f"compared. Under `short` contexts lose their first tokens and texts are read in windows. {held.get('note', '')}".rstrip(), "",
            *agreement_lines(held),
        ]  # fmt: skip
    if held := facts.get("timing"):
        out += [
            "", f"`python -m tests.benchmarks.harness timing`: seconds of a second pass over the requests of {held['limit']} documents "
            f"a task, {facts['cores']} cores of {facts['processor']}, float32; transformers at the quickest of the batch sizes "
            f"{', '.join(map(str, BATCHES))}. first: with what compiles. {held.get('note', '')}".rstrip(), "",
            "| | requests | itx, s | first, s | transformers, s | batch | itx is faster by | by CPU s |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]  # fmt: skip
        for what, found in held["found"].items():
            mine = found["itx"]
            batch, best = min(found["transformers"].items(), key=lambda x: x[1]["wall_s"])
            least = min(x["cpu_s"] for x in found["transformers"].values())
            out.append(
                f"| {what} | {mine['requests']:,} | {mine['wall_s']:.1f} | {mine['first_s']:.1f} | {best['wall_s']:.1f} | {batch} | "
                f"{best['wall_s'] / mine['wall_s']:.2f} | {least / mine['cpu_s']:.2f} |"
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["agreement", "timing", "only"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("python", help="with torch, transformers and lm-eval; of `only`: what")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--note", default="", help="about the machine, for the page")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.step == "only":
        print("RESULT " + json.dumps(timed(args.python, folder, args.limit)))
        return
    from tests.benchmarks.data_plane import processor

    prepare(folder)
    work = agreement if args.step == "agreement" else timing
    facts = {args.step: work(folder, args.python, args.limit) | {"note": args.note}}
    held = storage.read_json(FACTS) if FACTS.is_file() else {}
    held |= {"processor": processor(), "cores": len(os.sched_getaffinity(0)), **facts}
    storage.write_json(FACTS, held)
    print("\n".join(lines(held)))


if __name__ == "__main__":
    main()
