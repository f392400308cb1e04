# SPDX-License-Identifier: Apache-2.0
"""The real-data families: nothing lost without a count, every example usable, specs light."""

import gzip
import json
import re
from collections import Counter

import pytest

from itx.config import EvalConfig, RunConfig
from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import evaluate, metrics
from itx.prepare import examples, fewshot, readers, render, sources
from itx.tasks import names, registry, resolve
from itx.tasks.spec import Skip
from tasks import bbh, files, induction, natural_instructions, p3
from tests.tasks.wordings import runs


def counted(
    name: str, root, splits=("train", "validation", "test")
) -> tuple[dict[str, list], Counter]:
    """Items by split, and one split's counts."""
    spec, found, total = registry.task(name, str(root)), {}, Counter()
    for split in splits:
        counts: Counter = Counter()
        found[split] = list(examples.items(spec, split, str(root), 0, counts))
        skipped = sum(n for reason, n in counts.items() if reason != "read")
        assert counts["read"] == len(found[split]) + skipped, (name, split, counts)
        total[split] = counts
    return found, total


def test_alpaca_counts_its_empty_outputs_and_every_row(shared):
    found, counts = counted("alpaca", shared)
    assert counts["train"]["read"] == 12553 and counts["train"]["empty output"] == 5
    # the three splits share out all rows but the empty ones and inputs that repeat
    kept = sum(len(items) for items in found.values())
    repeated = sum(
        c[reason] for c in counts.values() for reason in (cache.REPEATED, cache.CONFLICT)
    )
    assert kept + repeated + 5 == 12553 and len(found["train"]) > 11000
    assert 400 < len(found["validation"]) < 850 and 400 < len(found["test"]) < 850
    hashes = [i.hash for items in found.values() for i in items]
    assert len(set(hashes)) == len(hashes)


def test_placeholders_are_no_input():
    def request(text: str) -> dict:
        return files.request_fields({"instruction": "Do it.", "input": text, "output": "Done."})

    bare = request("")
    assert bare == {"request": "Do it.", "marked": "Do it.", "answer": "Done."}
    for text in (
        "<noinput>",
        "No input required.",
        "\\<noinput\\>",
        "N/A",
        '"<noinput>"',
        "none",
        "< noinput >",
    ):
        assert request(text) == bare, text
    for text in ("No inputs were found in the log", "Noah", "He was <noinput>"):
        assert request(text)["request"] == f"Do it.\n\n{text}"
        assert request(text)["marked"] == f"Do it.\nInput: {text}"
    assert files.request_fields({"instruction": "Do it.", "input": "", "output": " \n"}) == Skip(
        "empty output"
    )


def test_dolly_keeps_its_category(shared):
    found, counts = counted("dolly", shared)
    assert counts["train"]["read"] == 2149
    assert {i.values["category"] for i in found["train"]} >= {
        "open_qa",
        "closed_qa",
        "summarization",
    }


def test_gsm8k_strips_marks_and_keeps_the_test_part_apart(shared):
    found, counts = counted("gsm8k", shared)
    assert counts["train"]["read"] == counts["validation"]["read"] == 7473
    assert len(found["train"]) + len(found["validation"]) == 7473 and len(found["test"]) == 660
    assert 0.03 < len(found["validation"]) / 7473 < 0.07
    raw = [e for _, e in readers.read_jsonl(shared / "gsm8k" / "train.jsonl.gz", {})]
    assert sum("<<" in e["answer"] for e in raw) > 7000  # there are marks to strip
    values = [i.values for i in found["train"]]
    assert not any("<<" in v["rationale"] or "####" in v["rationale"] for v in values)
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", v["answer"]) for v in values)
    raw = {"question": "q", "answer": "48/2 = <<48/2=24>>24 clips, 4 < 5.\n#### 1,024"}
    assert files.gsm8k_fields(raw) == {
        "question": "q",
        "rationale": "48/2 = 24 clips, 4 < 5.",
        "answer": "1024",
    }
    assert files.gsm8k_fields({"question": "q", "answer": "no mark"}) == Skip(
        "no number after ####"
    )


def test_gsm8k_chain_of_thought_gives_its_answer_back(shared):
    spec, variant = registry.task("gsm8k"), names.parse("gsm8k:cot")
    items = list(examples.items(spec, "test", str(shared), 0, Counter()))
    for which in ("train", "heldout"):
        for template in render.choices(spec, variant, which):
            for item in items[:50]:
                r = render.render(spec, variant, item, 0, 0, [template])
                assert re.findall(r.extractor, r.target)[-1] == item.values["answer"]
    direct = render.render(spec, names.parse("gsm8k"), items[0], 0, 0)
    assert direct.target == items[0].values["answer"] != r.target


def test_natural_instructions_all_four_schemas(shared):
    index = {
        e["task"]: e
        for _, e in readers.read_jsonl(shared / "natural_instructions" / "index.jsonl", {})
    }
    formats = Counter(e["format"] for e in index.values())
    members = registry.expand("ni.*", str(shared))
    assert len(members) == len(index) == 123 and set(formats) == {
        "v1",
        "v2",
        "v2-early",
        "v2-reduced",
    }
    read, shown = 0, Counter()
    for name in members:
        spec = registry.task(name, str(shared))
        found, counts = counted(name, shared)
        assert re.fullmatch(r"[a-z0-9_]+", spec.cluster) and all(
            re.fullmatch(r"[a-z0-9_]+", o) for o in spec.origin
        )
        assert found["train"] and counts["train"]["read"] <= 100 and not spec.evaluation_only
        read += counts["train"]["read"]
        item = found["train"][0]
        first = render.render(spec, names.parse(name), item, 0, 0)
        assert item.values["definition"] in first.prompt and item.values["input"] in first.prompt
        assert (
            first.target == item.values["answer"][0]
            and list(first.references) == item.values["answer"]
        )
        for item in found["train"]:  # positive examples: some, never the instance itself
            definition, *examples = item.values["with_examples"].split("\n\nInput: ")
            assert definition == item.values["definition"]
            shown[len(examples)] += 1
            assert not [e for e in examples if e.rsplit("\nOutput: ", 1)[0] == item.values["input"]]
    assert read == sum(e["instances_kept"] for e in index.values()) == 11893
    assert shown[2] > 4000 and shown[0] < 3500 and max(shown) == 2, shown
    clusters = {registry.task(n, str(shared)).cluster for n in members}
    assert len(clusters) > 30

    def origin(task):
        return registry.task(f"ni.{task}", str(shared)).origin

    assert origin("task126_scan_structured_text_generation_command_action_all") == ("scan",)
    assert origin("subtask022_cosmosqa_passage_inappropriate_binary") == ("cosmosqa",)


def ni_spec(document: dict, official_test: bool = False, category: str = "Pos Tagging"):
    entry = {"task": "task1_a-b", "category": category, "source": ["paws-x"], "format": "v2"}
    return natural_instructions.ni_task(entry, document, official_test)


def test_natural_instructions_metric_follows_the_answers():
    def spec(answers: list[str]):
        instances = [
            {"id": str(i), "input": f"in {i}", "output": [a]} for i, a in enumerate(answers)
        ]
        return ni_spec({"Definition": ["Tag it."], "Instances": instances})

    short, long = spec(["yes", "no"]), spec(["a long answer in many words"] * 2)
    assert short.metrics[0] == "exact_match" and long.metrics[0] == "rouge_l"
    assert (short.name, short.cluster, short.origin) == ("ni.task1_a_b", "pos_tagging", ("paws",))


def test_natural_instructions_errors_and_the_official_split(shared, tmp_path):
    good = {"Definition": "Tag it.", "Instances": [{"input": "a", "output": "b"}]}
    assert ni_spec(good).fields(good["Instances"][0])["answer"] == ["b"]
    for broken, message in (
        ({**good, "Definition": [""]}, "'Definition' holds no text"),
        (
            {"Definitions": "Tag it.", "Instances": []},
            "'Definition' holds no text there; did you mean 'Definitions'",
        ),
        ({**good, "Instances": {}}, "'Instances' is not a list of instances"),
    ):
        with pytest.raises(UserError, match=f"tasks/task1_a-b.json: {message}"):
            ni_spec(broken)
    with pytest.raises(UserError, match="has no category"):
        ni_spec(good, category="")
    assert ni_spec(good, official_test=True).evaluation_only
    folder = tmp_path / "natural_instructions"  # a task of the official list is for evaluation only
    (folder / "tasks").mkdir(parents=True)
    (folder / "splits" / "default").mkdir(parents=True)
    official = (
        (shared / "natural_instructions" / "splits" / "default" / "test_tasks.txt")
        .read_text()
        .split()
    )
    (folder / "splits" / "default" / "test_tasks.txt").write_text("\n".join(official))
    lines = [
        {"task": t, "category": "c", "source": [], "format": "v2"}
        for t in (official[0], "task9_own")
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for line in lines:
        (folder / "tasks" / f"{line['task']}.json").write_text(json.dumps(good))
    found = natural_instructions.ni_members(str(tmp_path))
    assert [s.evaluation_only for s in found] == [True, False] and len(official) == 119
    mix = registry.MixtureSpec("m", ("ni.*",))
    assert list(resolve.members(mix, str(tmp_path))) == ["ni.task9_own"]
    with pytest.raises(UserError, match="is for evaluation only"):
        resolve.members(registry.MixtureSpec("m", (found[0].name,)), str(tmp_path))


def test_p3_a_task_per_data_set(shared):
    members = registry.expand("p3.*", str(shared))
    assert len(members) == 30 and {m.removeprefix("p3.") for m in members} < p3.DATA_SETS.keys()
    read = 0
    for name in members:
        spec = registry.task(name, str(shared))
        found, counts = counted(name, shared)
        read += counts["train"]["read"]
        for item in found["train"]:
            r = render.render(spec, names.parse(name), item, 0, 0)
            assert (
                "<|endoftext|>" not in r.prompt + r.target
                and r.prompt == r.prompt.strip()
                and r.target
            )
    assert read == 4278
    with pytest.raises(
        UserError,
        match="p3: no folder 'p3_t0_train/data_per_template' in data.root='', nor one of P3's own, 'P3/data'",
    ):
        p3.p3_members("")


def test_mmlu_keeps_the_order_of_options_and_shows_dev_questions(shared):
    members = registry.expand("mmlu.*", str(shared))
    assert len(members) == 14
    read = Counter()
    for name in members:
        spec = registry.task(name, str(shared))
        assert spec.evaluation_only
        found, counts = counted(name, shared, ("train", "test"))
        read.update({s: counts[s]["read"] for s in counts})
        for item in found["test"]:
            r = render.render(spec, names.parse(name), item, 0, 0)
            options = item.values["options"]
            lines = [
                f"{letter} {option}" for letter, option in zip(r.options, options, strict=True)
            ]
            assert "\n".join(lines) in r.prompt and r.answer_index == item.values["answer"]
        pool = fewshot.pool(spec, found["train"])
        assert (
            len({i.hash for i in fewshot.choose(pool, found["test"][0], 5, 0)}) >= 4
        )  # five, unless the file repeats one
    assert read == {"train": 70, "test": 700}


def test_self_instruct_gives_an_example_per_instance(shared):
    found, counts = counted("self_instruct", shared)
    rows = [
        json.loads(x)
        for x in (shared / "self_instruct" / "seed_tasks.jsonl").read_text().splitlines()
    ]
    assert counts["train"]["read"] == sum(len(r["instances"]) for r in rows) >= 175
    assert (
        len({i.id.split(".jsonl:")[1].split(".")[0] for items in found.values() for i in items})
        > 170
    )


def test_flan_cot_direct_and_with_reasons(shared):
    read = 0
    for name in files.FLAN_COT:
        spec = registry.task(f"flan_cot.{name}")
        found, counts = counted(f"flan_cot.{name}", shared)
        read += counts["train"]["read"]
        for item in found["train"]:
            assert "\\n" not in item.values["question"]
            r = render.render(spec, names.parse(f"flan_cot.{name}:cot"), item, 0, 0)
            # the answer comes back from every target
            assert re.findall(r.extractor, r.target)[-1] == item.values["answer"], (
                name,
                item.values,
            )
    assert read == 7434


def test_evaluation_families_yield_input_and_answer_for_every_row(shared):
    odd = Counter()
    for name in [*registry.expand("bbh.*", str(shared)), *registry.expand("ii.*", str(shared))]:
        spec = registry.task(name, str(shared))
        assert spec.evaluation_only and len(spec.templates) >= 2, name
        read: Counter = Counter()
        for where, example in sources.open_source(spec.source, "test", str(shared), 0, read):
            values = spec.fields(example)
            if isinstance(values, Skip):
                odd[name, values.reason] += 1
                continue
            references, options, index = render.answers(spec, values, where)
            assert values["input"].strip() and all(r.strip() for r in references)
            assert (options is None) == (index is None)
        found, counts = counted(name, shared, ("validation", "test"))
        kept = len(found["validation"]) + len(found["test"])
        repeated = sum(
            c[reason] for c in counts.values() for reason in (cache.REPEATED, cache.CONFLICT)
        )
        left_out = sum(n for (task, _), n in odd.items() if task == name)
        assert kept + repeated + left_out == read["read"]
        assert not found["validation"]  # a lone split is test, whole, as published scores have it
        assert not {i.hash for i in found["validation"]} & {i.hash for i in found["test"]}
    # published rows whose options were broken at commas
    assert odd == {
        ("bbh.movie_recommendation", "the target is not among the options"): 1,
        ("bbh.ruin_names", "the target is not among the options"): 2,
    }


def test_bbh_with_reasoning_asks_as_published_and_reads_the_published_answers(shared):
    """Each exemplar's own reasoning is an answer whose right end is known: it is in the exemplar's
    list of options, where it has one."""
    for name in registry.expand("bbh_cot.*", str(shared)):
        spec = registry.task(name, str(shared))
        item = next(iter(examples.items(spec, "test", str(shared), 0, Counter())))
        made = render.render(spec, names.parse(name), item, 0, 0)
        *shown, own = made.prompt.split("\n\nQ: ")
        assert "canary" not in made.prompt and len(shown) == 4 - made.prompt.startswith("Q: ")
        assert own == f"{item.values['input']}\nA: Let's think step by step."
        for question in shown[-2:]:
            asked, _, reasoning = question.partition("\nA: Let's think step by step.")
            answer = metrics.extract(made.extractor, reasoning)
            options = bbh.options_in(asked) or spec.options
            assert answer and (not options or answer in options), (name, answer)
            # a model that goes on with a next question is cut before it
            assert f"{reasoning}\n\nQ: {asked}".split(spec.stop)[0] == reasoning
        assert made.target.endswith(f"{item.values['answer']}.") and spec.reasons
    config = RunConfig(eval=EvalConfig(max_new_tokens=300))
    row = {"max_target_tokens": 7}
    assert evaluate.limit(row, config)["limit"] < 20
    assert evaluate.limit({**row, "reasons": True}, config)["limit"] == 300


def test_bbh_options():
    assert bbh.options_in("Which?\n(A) in the text\nOptions:\n(A) x\n(B) y (C) z") == ("(A)", "(B)")
    assert bbh.options_in("Valid?\nOptions:\n- valid \n- invalid") == ("valid", "invalid")
    assert bbh.options_in("- a\n- b") == ()


def test_induction_inputs_and_references(shared):
    root = str(shared)

    def examples(name: str) -> list[dict]:
        spec = registry.task(name, root)
        return [
            spec.fields(e) for _, e in sources.open_source(spec.source, "test", root, 0, Counter())
        ]

    for values in examples("ii.cause_and_effect"):
        first, second = values["input"].removeprefix("Sentence 1: ").split(" Sentence 2: ")
        assert values["answer"] in (first, second) and first != second
    places = Counter(
        v["input"].startswith(f"Sentence 1: {v['answer']}") for v in examples("ii.cause_and_effect")
    )
    assert min(places[True], places[False]) >= 5  # the cause is not always first
    assert all(v["input"] not in v["answer"] for v in examples("ii.rhymes"))
    assert any(len(v["answer"]) > 5 for v in examples("ii.translation_en_de"))
    assert {"input": "sewing, wrenches, glue, surgery", "answer": ["can help repair something.",
            "can be used for repairs."]} in examples("ii.common_concept")  # fmt: skip


def test_induction_instructions_are_templates(shared, tmp_path):
    assert len(registry.expand("ii.*", str(shared))) == 24
    templates = registry.task("ii.sentiment", str(shared)).templates
    assert 2 <= len(templates) <= 6 and len(set(templates)) == len(templates)
    folder = tmp_path / "instruction_induction" / "annotations"
    folder.mkdir(parents=True)
    (folder / "sum.json").write_text(
        json.dumps({"annotations": ["Add {x} ", "Add  {x}", "Sum up"]})
    )
    assert induction.instructions("sum", str(tmp_path)) == ["Add {{x}}", "Sum up"]
    (folder / "sum.json").write_text("{}")
    with pytest.raises(UserError, match=r"sum\.json: no list 'annotations'"):
        induction.instructions("sum", str(tmp_path))


def alpaca_with(tmp_path, row: bytes) -> str:
    """A data root whose alpaca file has `row` as its line 2."""
    good = b'{"instruction": "Name a colour.", "input": "", "output": "Red."}\n'
    (tmp_path / "alpaca").mkdir()
    (tmp_path / "alpaca" / "alpaca_sample.jsonl.gz").write_bytes(gzip.compress(good + row + b"\n"))
    return str(tmp_path)


def test_a_missing_field_names_file_and_row(tmp_path):
    root = alpaca_with(tmp_path, b'{"instruction": "Say yes.", "input": "", "outputs": "Yes."}')
    with pytest.raises(UserError) as e:
        list(examples.items(registry.task("alpaca"), "train", root, 0, Counter()))
    for part in ("alpaca_sample.jsonl.gz:2", "'output'", "did you mean 'outputs'"):
        assert part in str(e.value)


def test_a_broken_row_reaches_the_user_through_the_task(tmp_path):
    root = alpaca_with(tmp_path, b'{"instruction": "Say yes."')
    with pytest.raises(UserError, match=r"alpaca_sample\.jsonl\.gz:2: broken JSON"):
        list(examples.items(registry.task("alpaca"), "train", root, 0, Counter()))
    counts: Counter = Counter()
    list(examples.items(registry.task("alpaca"), "train", root, 0, counts, skip_bad=True))
    assert counts["read"] == 2 and counts["broken JSON"] == 1


def test_families_name_a_missing_root_folder_or_task(tmp_path, shared):
    with pytest.raises(UserError, match="give --data.root=FOLDER"):
        registry.expand("ni.*", "")
    with pytest.raises(UserError, match=r"'natural_instructions/index.jsonl' is not in data.root"):
        registry.expand("ni.*", str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'ni.task1600_smcalflow_sentence_generation'"):
        registry.task("ni.task1600_smcalflow_sentence_generatoin", str(shared))


def test_the_mixture_trains_on_no_evaluation_task(shared):
    members = resolve.members(registry.MIXTURES["real_mix"], str(shared))
    assert list(members)[:4] == ["alpaca", "dolly", "gsm8k", "gsm8k:cot"]
    families = Counter(m.split(".")[0] for m in list(members)[4:])
    assert families == {"flan_cot": 14, "ni": 123, "p3": 30}
    assert set(members.values()) == {1.0}


@pytest.mark.parametrize(
    "name", ["alpaca", "dolly", "gsm8k", "ni.task1600_smcalflow_sentence_generation"]
)
def test_held_out_wordings_are_new(shared, name):
    """A held-out template shares no run of four words outside slots with a training template."""
    spec = registry.task(name, str(shared))

    pairs = [(spec.templates, spec.heldout_templates)]
    pairs += [(spec.cot.templates, spec.cot.heldout_templates)] if spec.cot else []
    for training, held in pairs:
        assert len(held) >= 2 and len(training) >= 4 and runs(training)
        assert not runs(training) & runs(held)


def test_rows_of_the_config_hold_nearly_everything(shared):
    """What `too_long="drop"` leaves out of configs/real_mix.py under the T5 vocabulary is a few
    percent."""
    vocabulary = Vocabulary(shared / "tokenizers" / "t5_32k" / "sentencepiece.model")
    for name, most in (
        ("alpaca", 0.02),
        ("dolly", 0.12),
        ("ni.task176_break_decompose_questions", 0.05),
    ):
        spec = registry.task(name, str(shared))
        items = list(examples.items(spec, "train", str(shared), 0, Counter()))[:400]
        records = render.encode(
            [render.render(spec, names.parse(name), i, 0, 0) for i in items], vocabulary
        )
        sizes = [(len(p) + len(t) + 1, len(t) + 1) for (p, _), (t, _) in records]
        assert sum(a > 768 or b > 256 for a, b in sizes) <= most * len(sizes), name
        assert not any(a > 32100 for (p, _), _ in records for a in p)
