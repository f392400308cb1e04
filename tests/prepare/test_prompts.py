# SPDX-License-Identifier: Apache-2.0
"""data.prompt_format=chat: an instruction task's examples are the very text and ids that a chat
template writes, in training, generation and ranking alike."""

import dataclasses
import json
from collections import Counter

import jinja2
import pytest

from itx.config import DataConfig, RunConfig
from itx.data import cache
from itx.data import lock as locks
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import evaluate
from itx.prepare import again, jobs, render, types
from itx.tasks import instruction_task, jsonl, registry
from itx.text_format import prompts
from tests.conftest import REPO, need
from tests.prepare.job_settings import job_settings

GOLDEN = REPO / "tests" / "golden" / "hf" / "qwen3"
# name -> (template, EOS, whether the template begins with BOS): the forms of five families
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
        " + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|eot_id|>",
    ),
    "mistral": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set head = '' %}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}{{ '[INST] ' + (head if loop.first else '') + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role)"
        " + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "</s>",
    ),
    "qwen3": (  # writes an empty thought into the last answer
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
    ),
}
CONTROL = (
    "<s> <|start_header_id|> <|end_header_id|> <|eot_id|> [INST] [/INST] <start_of_turn> <end_of_turn>"
).split()
ROWS = [
    {"text": "красный red 红", "answer": "да"},
    {"text": "blue <|im_end|> [INST] </s>", "answer": "нет"},  # content, not control
    {"text": "two\n\nlines", "answer": "да"},
    {"text": "🙂 x", "answer": "нет"},
]


def tokenizer(folder, name):
    """The golden tokenizer with the control tokens of all templates; its EOS is the template's."""
    folder.mkdir(parents=True, exist_ok=True)
    held = json.loads((GOLDEN / "tokenizer.json").read_text())
    size = max(held["model"]["vocab"].values()) + 1
    like = held["added_tokens"][0]
    held["added_tokens"] += [like | {"id": size + i, "content": t} for i, t in enumerate(CONTROL)]
    (folder / "tokenizer.json").write_text(json.dumps(held, ensure_ascii=False))
    about = {"pad_token": "<pad>", "eos_token": TEMPLATES[name][1], "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder / "tokenizer.json"


@pytest.fixture
def task(monkeypatch, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    monkeypatch.delitem(registry.TASKS, "yes_or_no", raising=False)
    instruction_task(
        "yes_or_no",
        version=1,
        cluster="classify",
        source=jsonl("rows.jsonl", split_by_hash={"train": 1.0}),
        fields=lambda row: row,
        templates=(("Да или нет?\n{text}", "{answer}"),),
        options=("да", "нет"),
        metrics=("exact_match",),
    )
    monkeypatch.setitem(registry.TASKS, "yes_or_no", registry.TASKS.pop("yes_or_no"))
    jobs._read_once.cache_clear()
    jobs._pool.cache_clear()


def built(folder, name, variant="yes_or_no", **data):
    """(records, lines, vocabulary) of a cache folder in a template's form."""
    data = {
        "prompt_format": "chat",
        "root": str(folder),
        "cache_dir": str(folder / "cache"),
        **data,
    }
    file = tokenizer(folder / name, name)
    settings = job_settings(file, TEMPLATES[name][0], **data)
    where, _ = jobs.run(types.Job(variant, "train"), settings)
    place = folder / "cache" / where
    records = cache.Records(place)
    lines = list(cache.iterate_examples(place))
    return [records[i] for i in range(len(records))], lines, Vocabulary(file)


def reference(name, messages, vocabulary):
    """The text and ids of a whole conversation: Jinja as transformers sets it up, and the tokenizer
    alone. What stands in content is encoded apart, as text, where it holds a control token."""
    template, eos = TEMPLATES[name]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(
        messages=messages, bos_token="", eos_token=eos, add_generation_prompt=False
    )
    return text, vocabulary.model.tokenizer.encode(text, add_special_tokens=False).ids


def said(record):
    return [int(i) for ids, _ in record for i in ids]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", ["", "Отвечай одним словом."])
def test_a_record_has_the_ids_of_the_templates_own_text(tmp_path, task, name, system):
    if name == "gemma" and system:
        with pytest.raises(UserError, match="System role not supported"):
            built(tmp_path, name, system=system)
        return
    records, lines, vocabulary = built(tmp_path, name, system=system)
    plain, *_ = built(tmp_path, name, prompt_format="plain")
    assert len(records) == len(ROWS) == len(plain)
    control = {vocabulary.model.tokenizer.token_to_id(c) for c in vocabulary.control}
    first = [*said(records[0]), vocabulary.eos_id]
    compared = 0
    for record, line, other in zip(records, lines, plain, strict=True):
        assert said(record) != said(other)
        assert [on for _, on in record] == [False, True]
        head = [{"role": "system", "content": system}] if system else []
        asked = [*head, {"role": "user", "content": line["prompt"]}]
        assert line["messages"] == asked
        answer = {"role": "assistant", "content": line["target"]}
        text, ids = reference(name, [*asked, answer], vocabulary)
        ours = said(record)
        # Behind an answer the layout writes EOS; what white space a template has there is the next
        # prompt's.
        ours += [vocabulary.eos_id]
        if any(c in line["prompt"] for c in vocabulary.control):  # transformers would take them
            assert vocabulary.decode(ours) == text.rstrip() + (name == "gemma") * "</s>"
            assert [i for i in ours if i in control] == [i for i in first if i in control]
            continue
        end = vocabulary.model.tokenizer.encode("\n", add_special_tokens=False).ids
        ids = ids[: -len(end)] if text.endswith("\n") else ids
        assert ours == ids + [vocabulary.eos_id] * (name == "gemma")
        compared += 1
    assert compared == len(ROWS) - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_record_has_the_ids_of_transformers(tmp_path, task, name):
    """`apply_chat_template` of transformers itself, whose ids are the tokenizer's and Jinja's."""
    need("transformers")
    import transformers as tf

    records, lines, vocabulary = built(tmp_path, name)
    template, eos = TEMPLATES[name]
    file = str(tmp_path / name / "tokenizer.json")
    theirs = tf.PreTrainedTokenizerFast(tokenizer_file=file, eos_token=eos, bos_token="<s>")
    first = vocabulary.model.tokenizer.token_to_id("<s>")
    compared = 0
    for record, line in zip(records, lines, strict=True):
        if any(c in line["prompt"] for c in vocabulary.control):  # transformers takes them as such
            continue
        answer = {"role": "assistant", "content": line["target"]}
        asked, whole = (
            theirs.apply_chat_template(said, chat_template=template, return_dict=False, **how)
            for said, how in (
                (line["messages"], {"add_generation_prompt": True}),
                ([*line["messages"], answer], {}),
            )
        )
        ours = [*said(record), vocabulary.eos_id]
        ours = [first] * (
            whole[0] == first
        ) + ours  # the layout puts BOS before a row, not a record
        end = len(theirs.decode(whole)) - len(theirs.decode(whole).rstrip())
        whole = whole[: len(whole) - end] + [vocabulary.eos_id] * (name == "gemma")
        assert ours == whole
        assert ours[: len(asked)] == asked
        compared += 1
    assert compared == len(ROWS) - 1


@pytest.mark.parametrize("exemplars_as", ["turns", "text"])
def test_exemplars_are_turns_or_text(tmp_path, task, exemplars_as):
    records, lines, vocabulary = built(
        tmp_path,
        "chatml",
        "yes_or_no:fs2",
        exemplars_as=exemplars_as,
        fewshot_tokens=0,
        sequence_length=2048,
    )
    for record, line in zip(records, lines, strict=True):
        roles = [m["role"] for m in line["messages"]]
        turns = exemplars_as == "turns"
        assert roles == (["user", "assistant"] * 2 + ["user"] if turns else ["user"])
        whole = [m["content"] for m in line["messages"]]
        if turns:
            joined = [f"{q} {a}" for q, a in zip(whole[:-1:2], whole[1::2], strict=True)]
            whole = ["\n\n".join([*joined, whole[-1]])]
        assert whole == [line["prompt"]]
        text = "".join(vocabulary.decode(ids) for ids, _ in record)
        assert text.count("<|im_start|>assistant") == (3 if turns else 1)
        assert [on for _, on in record] == [False, True]  # an exemplar's answer is not trained


@pytest.mark.parametrize("name", TEMPLATES)
def test_ranking_and_generation_read_what_training_read(tmp_path, task, name):
    records, lines, vocabulary = built(tmp_path, name)
    lock = {
        "prompt_format": "chat",
        "chat": TEMPLATES[name][0],
        "system": "",
        "exemplars_as": "turns",
    }
    asked = [
        (evaluate._asked(line, lock)[0], tuple(evaluate.option_targets(line))) for line in lines
    ]
    before, targets = evaluate._ranked_ids(asked, vocabulary, lock)
    for i, (line, record) in enumerate(zip(lines, records, strict=True)):
        (prompt, _), (target, _) = record
        assert before[i] == prompt.tolist()
        assert targets[i][line["answer_index"]] == target.tolist()
        assert len({*map(tuple, targets[i])}) == 2
        # What the model then writes reads as the answer, whatever the template writes around it.
        around = prompts.around(TEMPLATES[name][0], "", vocabulary.eos_text)
        assert prompts.answer(vocabulary.answer(target), *around).strip() == line["target"]
    assert prompts.answer("да<end_of_turn>\nда", "", "<end_of_turn>") == "да"


def test_a_template_that_drops_the_system_is_refused(tmp_path, task):
    deaf = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    prompts.check(deaf, "")
    with pytest.raises(UserError, match="does not write the content of system turns.*data.system"):
        prompts.check(deaf, "Кратко.")
    mute = "{% for m in messages if m.role != 'user' %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    with pytest.raises(UserError, match="does not write the content of user turns"):
        prompts.check(mute, "")


def test_a_form_has_its_own_folder(tmp_path, task):
    """What shapes a record is in its folder's key; what does not is not."""
    file = tokenizer(tmp_path / "t", "chatml")
    data = {"root": str(tmp_path), "prompt_format": "chat"}
    job, template = types.Job("yes_or_no", "train"), TEMPLATES["chatml"][0]

    def key(template=template, **more):
        return jobs.key(job, job_settings(file, template, **{**data, **more}), "hash")

    others = [key(TEMPLATES["qwen3"][0]), key(system="x"), key(prompt_format="plain")]
    assert len({key(), *others}) == 4
    assert key(prompt_format="plain") == key("", prompt_format="auto")


def test_a_lock_of_another_form_is_refused():
    made = {"prompt_format": "chat", "system": "", "exemplars_as": "turns"}
    chatty = RunConfig(data=DataConfig(prompt_format="chat"))
    locks.check_config(made, chatty, "lock")
    locks.check_config({}, RunConfig(), "lock")
    with pytest.raises(UserError, match="data.prompt_format='chat'.*'plain'"):
        locks.check_config(made, RunConfig(), "lock")
    with pytest.raises(UserError, match="data.prompt_format='plain'.*'chat'"):
        locks.check_config({}, chatty, "lock")


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_shuffled_targets_are_another_examples(tmp_path, task, prompt_format):
    """The control keeps prompts and the shares of answers, and trains no example on its own."""
    data = {"prompt_format": prompt_format}
    own, lines, vocabulary = built(tmp_path, "chatml", **data)
    other, told, _ = built(tmp_path, "chatml", targets="shuffled", **data)
    assert [line["prompt"] for line in lines] == [line["prompt"] for line in told]
    assert [r[0][0].tolist() for r in own] == [r[0][0].tolist() for r in other]
    assert [line["target"] for line in lines] != [line["target"] for line in told]
    assert Counter(x["target"] for x in lines) == Counter(x["target"] for x in told)
    for record, line in zip(other, told, strict=True):
        assert vocabulary.answer(record[-1][0]).strip() == line["target"]


def test_evaluation_keeps_its_targets(tmp_path, task):
    job = types.Job("yes_or_no", "test")
    file = tokenizer(tmp_path / "t", "chatml")
    keys = {
        split: {
            jobs.key(
                dataclasses.replace(job, split=split),
                job_settings(file, "", root=str(tmp_path), targets=t),
                "h",
            )
            for t in ("own", "shuffled")
        }
        for split in ("train", "test")
    }
    assert (len(keys["train"]), len(keys["test"])) == (2, 1)


def test_a_shuffled_cache_is_found_as_it_was_made(tmp_path, task, monkeypatch):
    """A second build renders some of a cache's examples again: their own answers are compared, the
    targets that were passed round are not."""
    data = {"targets": "shuffled", "prompt_format": "chat"}
    _, lines, vocabulary = built(tmp_path, "chatml", **data)
    assert any(line["target"] not in line["references"] for line in lines)
    where = {"root": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    settings = job_settings(vocabulary.file, TEMPLATES["chatml"][0], **where, **data)
    job = types.Job("yes_or_no", "train")
    again.check([job], settings, vocabulary)
    answers = render.answers
    monkeypatch.setattr(
        render,
        "answers",
        lambda spec, values, at: answers(spec, {**values, "answer": "нет"}, at),
    )
    with pytest.raises(UserError, match="references was .*да.*, is .*нет"):
        again.check([job], settings, vocabulary)
