# SPDX-License-Identifier: Apache-2.0
"""Conversations: what is trained is what the assistant wrote, in any template, and the ids are
those of the whole text."""

import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pytest

from itx.data import cache
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.order import ORDER_VERSION
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import conversations, examples, fewshot, jobs, render, types, vocab
from itx.tasks import (
    chat_task,
    first_user_turn,
    jsonl,
    names,
    openai_messages,
    registry,
    resolve,
    sharegpt_messages,
)
from itx.tasks.chat import spoken
from itx.tasks.spec import Skip
from itx.text_format import chat
from itx.text_format import pieces as text_pieces
from tests import sample_tasks, samples  # noqa: F401  (sample_tasks registers)
from tests.conftest import REPO
from tests.prepare.job_settings import job_settings

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
# writes earlier answers otherwise once others follow, as templates of models that think do
THINKS = """{% for m in messages %}<{{ m.role }}>
{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<assistant>
{% endif %}"""
# an instruction stands in the last question alone
LATE = """{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST]
{%- if (loop.last or loop.index0 == loop.length - 2) and messages[0].role == 'system' %} {{ messages[0].content }}{% endif %} {{ m.content }}[/INST]
{%- else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"""
STRICT = (
    "{% if messages and messages[0].role == 'assistant' %}{{ raise_exception('the user begins') }}{% endif %}"
    + CHATML
)

TALK = [
    ("system", "Be brief."),
    ("user", "Привет!"),
    ("assistant", "Здравствуй, как дела?"),
    ("user", "2 + 2?"),
    ("assistant", "4"),
]


def pieces(template, values, where):
    return chat.joined(chat.answers(template, values, where))


def values(turns=TALK, **more):
    return {"messages": [{"role": r, "content": c} for r, c in turns], **more}


@pytest.mark.parametrize("template", [chat.PLAIN, CHATML])
def test_pieces_join_to_the_text_and_the_assistants_are_trained(template):
    found = pieces(template, values(), "here")
    whole = chat.written(template, values(), len(TALK), False, "here")
    assert "".join(t for t, _ in found) == whole.rstrip() and [t for _, t in found] == [
        False,
        True,
        False,
        True,
    ]
    said = [t.strip().removesuffix("<|im_end|>") for t, trained in found if trained]
    assert said == ["Здравствуй, как дела?", "4"]
    assert found[-1][0].endswith("<|im_end|>") == (template == CHATML)


def test_templates_differ_and_their_mistakes_are_errors():
    assert pieces(chat.PLAIN, values(), "") != pieces(CHATML, values(), "")
    for template, message in (
        (
            "{% if not add_generation_prompt %}!{% endif %}a",
            "writes what stands before turn 3 otherwise",
        ),
        ("{{ messages[0].content + 1 }}", "here: data.chat_template: TypeError: "),
        ("{% for m in messages %}", "data.chat_template, line 1: Unexpected end of template"),
        ("{{ raise_exception('no system turn') }}", "here: data.chat_template: no system turn"),
        (
            "{{ messages.__class__.__mro__ }}",
            "access to attribute '__class__' of 'list' object is unsafe",
        ),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("nothing", "writes nothing for the assistant's turn 3"),
    ):
        with pytest.raises(UserError, match=message):
            pieces(template, values(), "here")


@pytest.mark.parametrize("template", [THINKS, LATE])
def test_a_template_that_writes_earlier_turns_otherwise_gives_an_example_for_each_answer(
    template, monkeypatch
):
    """What is trained stands behind the very text that the model will read before it."""
    spec = register(monkeypatch)
    found = chat.answers(template, values(), "here", "<|im_end|>")
    assert pieces(template, values(), "here") is None and pieces(CHATML, values(), "here")
    assert chat.last(found) == (
        (chat.written(template, values(), 4, True, ""), False),
        (found[-1].text, True),
    )
    item, counts = types.Item("1", values(), "c", 1), Counter()
    made = list(conversations.prepared([item], template, "<|im_end|>", False, False, spec, counts))
    assert (
        made[0].content.splitlines() == ["system: be brief.", "user: привет!"]
        and made[0].hash != made[1].hash
    )
    assert [i.id for i in made] == ["1/0", "1/1"] and counts == {"read": 1, conversations.SPLIT: 1}
    for i, end, said in zip(made, (2, 4), ("Здравствуй, как дела?", "4"), strict=True):
        r = conversations.render(i, template, "here")
        assert (
            r.pieces[0] == (chat.written(template, values(), end, True, ""), False)
            and len(r.pieces) == 2
        )
        assert r.target.removeprefix("<think></think>") == said and text_pieces.END not in r.prompt
        assert (template == THINKS) == r.target.startswith("<think></think>")
    again = types.Item(
        "2",
        values([*TALK[:2], ("assistant", "Да?"), ("user", "3 + 3?"), ("assistant", "6")]),
        "d",
        2,
    )
    both = list(
        conversations.prepared(
            [item, again], template, "<|im_end|>", False, False, spec, counts := Counter()
        )
    )
    # once per content, as single questions are
    assert [i.id for i in both] == ["1/0", "1/1", "2/1"]
    assert counts == {"read": 2, conversations.SPLIT: 2, "begins as another conversation": 1}
    single = types.Item("3", values(TALK[:3]), made[0].content, made[0].hash)
    for order, kept in (([item, single], ["1/0", "1/1"]), ([single, item], ["3", "1/1"])):
        assert [
            i.id for i in conversations.prepared(order, template, "", False, False, spec, Counter())
        ] == kept
    # of an evaluation
    (whole,) = conversations.prepared([item], template, "<|im_end|>", False, True, spec, Counter())
    assert whole.id == "1" and conversations.render(whole, template, "") == conversations.render(
        made[-1], template, ""
    )
    (row,) = conversations.prepared([item], CHATML, "", False, False, spec, counts)
    assert row.values["pieces"] == pieces(CHATML, values(), "") and counts[conversations.SPLIT] == 2


def test_a_conversation_that_the_template_refuses_is_skipped_only_where_asked(monkeypatch):
    spec = register(monkeypatch)
    items = [types.Item(str(i), values(turns), "c", i) for i, turns in enumerate((TALK[2:], TALK))]
    with pytest.raises(
        UserError,
        match="task 'talk', example 0: data.chat_template: the user begins; --data.skip_bad",
    ):
        list(conversations.prepared(items, STRICT, "", False, False, spec, Counter()))
    counts = Counter()
    (kept,) = conversations.prepared(items, STRICT, "", False, False, spec, counts, skip_bad=True)
    assert kept.id == "1" and counts == {"refused by data.chat_template": 1}
    # a template's own mistake is no conversation's
    with pytest.raises(UserError, match="data.chat_template, line 1"):
        list(
            conversations.prepared(
                items, "{% for m in messages %}", "", False, False, spec, counts, skip_bad=True
            )
        )


@pytest.mark.parametrize(
    "template", [CHATML.replace("'<|im_end|>'", "eos_token"), LATE], ids=["joined", "apart"]
)
def test_the_end_of_sequence_stands_where_the_template_writes_it(template, monkeypatch):
    """Behind a question too, as Zephyr's has it, and behind the earlier answers that a last one
    follows."""
    vocabulary = Vocabulary(REPO / "tests/golden/hf/qwen3/tokenizer.json")
    made = list(conversations.prepared([types.Item("1", values(), "c", 1)], template, vocabulary.eos_text, False, False,
                              register(monkeypatch), Counter()))  # fmt: skip
    assert len(made) == (1 if template != LATE else 2)
    (record,) = render.encode([conversations.render(made[-1], template, "")], vocabulary)
    laid = [i for ids, on in record for i in (*ids, *([vocabulary.eos_id] if on else []))]
    whole = chat.written(template, values(), len(TALK), False, "").rstrip()
    # as transformers writes it
    assert laid == vocabulary.model.encode_template(whole.replace(text_pieces.END, "</s>"))
    assert laid.count(vocabulary.eos_id) == (5 if template != LATE else 2)
    with pytest.raises(UserError, match=r"here: a turn holds U\+FFFF"):
        chat.answers(template, values([("user", "a\uffff"), ("assistant", "b")]), "here")


def test_a_template_comes_from_a_file_or_a_tokenizers_config(tmp_path):
    (tmp_path / "a.jinja").write_text(CHATML)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    (tmp_path / "b.json").write_text(json.dumps({"chat_template": several}))
    (tmp_path / "c.json").write_text("{}")
    assert chat.template_text("", "") == chat.PLAIN
    for name in ("a.jinja", "tokenizer_config.json", "b.json"):
        assert chat.template_text(name, str(tmp_path)) == CHATML
    with pytest.raises(UserError, match="c.json has no 'chat_template'"):
        chat.template_text("c.json", str(tmp_path))
    with pytest.raises(UserError, match="data.chat_template: no file 'd.jinja'"):
        chat.template_text("d.jinja", str(tmp_path))


def test_formats_become_the_same_conversation():
    openai = {"messages": [{"role": r, "content": c} for r, c in TALK]}
    names_ = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = {"conversations": [{"from": names_[r], "value": c} for r, c in TALK]}
    assert openai_messages(openai) == sharegpt_messages(sharegpt) == values()
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                          {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
                          {"role": "tool", "content": "7"}, {"role": "assistant", "content": "It is 7."}]}  # fmt: skip
    read = openai_messages(parts)["messages"]
    assert [m["content"] for m in read] == ["ab", "", "7", "It is 7."]
    assert read[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]
    behind = {"messages": [*openai["messages"], {"role": "user", "content": "more?"}]}
    assert openai_messages(behind) == values()  # nobody answers it
    assert openai_messages({"messages": openai["messages"][:2]}) == Skip("no assistant turn")
    assert openai_messages(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}
    ) == Skip("empty assistant turn")
    for bad, message in (({"role": "bot", "content": "x"}, "turn 0 has the role 'bot'; known: system, user"),
                         ({"role": "user", "content": [{"type": "image_url"}]}, "part 0 of its content is a part of type image_url")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            openai_messages({"messages": [bad]})


def register(monkeypatch, name="talk", file="chats.jsonl", fields=openai_messages, **source):
    monkeypatch.delitem(registry.TASKS, name, raising=False)
    shares = source or {"split_by_hash": {"train": 0.8, "validation": 0.1, "test": 0.1}}
    spec = chat_task(name, version=1, cluster="dialog", fields=fields, source=jsonl(file, **shares))
    monkeypatch.setitem(registry.TASKS, name, registry.TASKS.pop(name))
    return spec


@pytest.mark.parametrize(
    "name, file, fields, rows, tools",
    [
        ("sharegpt", "sharegpt_dummy/dummy_conversation.jsonl", sharegpt_messages, 498, 0),
        ("glaive", "glaive_toolcall/glaive_toolcall_en_demo.jsonl", sharegpt_messages, 300, 100),
    ],
)
def test_real_files_lose_no_assistant_turn(shared, monkeypatch, name, file, fields, rows, tools):
    spec = register(monkeypatch, name, file, fields, split_by_hash={"train": 1.0})
    counts: Counter = Counter()
    items = list(examples.items(spec, "train", str(shared), 0, counts))
    assert counts["read"] == rows == len(items) + sum(n for k, n in counts.items() if k != "read")
    raw = {json.dumps(m["value"].strip()) for line in (shared / file).read_text().splitlines()
           for m in json.loads(line)["conversations"] if m["from"] in ("gpt", "function_call")}  # fmt: skip
    trained, with_tools = set(), 0
    for item in items:
        found = pieces(chat.PLAIN, item.values, item.id)
        assert [t.strip() for t, on in found if on] == [
            spoken(m).strip() for m in item.values["messages"] if m["role"] == "assistant"
        ]
        trained |= {json.dumps(t.strip()) for t, on in found if on}
        with_tools += "tools" in item.values and found[0][0].startswith("Tools: ")
    assert trained <= raw and len(trained) > 0.8 * len(raw) and with_tools >= tools


@pytest.mark.parametrize(
    "tokenizer", ["own", "t5_32k/sentencepiece.model", "mistral_v1_32k/tokenizer.model.v1"]
)
def test_pieces_have_the_ids_of_the_text_as_a_whole(shared, monkeypatch, tmp_path, tokenizer):
    if tokenizer == "own":
        vocabulary = Vocabulary(vocab.train(["sample_first"], 400, "", 0, str(tmp_path)))
    else:
        vocabulary = Vocabulary(shared / "tokenizers" / tokenizer)
    file = "glaive_toolcall/glaive_toolcall_en_demo.jsonl"
    spec = register(monkeypatch, "glaive", file, sharegpt_messages, split_by_hash={"train": 1.0})
    items = list(examples.items(spec, "train", str(shared), 0, Counter()))[:150]
    items.append(types.Item("ru", values(), "c", 1))
    same = apart = 0
    for item in items:
        r = conversations.render(item, chat.PLAIN, item.id)
        ((*pieces, last),) = render.encode([r], vocabulary)
        ids = [i for part, _ in (*pieces, last) for i in part]
        whole = vocabulary.encode("".join(t for t, _ in r.pieces))
        same += ids == whole
        # of equally likely segmentations ("-----") either may be found
        assert sorted(ids) == sorted(whole)
        apart += [i for t, _ in r.pieces for i in vocabulary.encode(t)] == whole
    assert same > 0.95 * len(items)
    # each piece for itself, without what stands before it, differs (T5's reads a newline as a
    # space)
    assert tokenizer.startswith("t5") or apart < len(items) / 2


def write_chats(folder, n=60):
    rows = [{"messages": [{"role": "user", "content": f"first question {i % 20}"}, {"role": "assistant", "content": f"answer {i}"},
                          {"role": "user", "content": f"and then {i}?"}, {"role": "assistant", "content": f"thing {i} it is"}]}
            for i in range(n)]  # fmt: skip
    (folder / "chats.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_conversations_that_begin_alike_fall_into_one_split(tmp_path, monkeypatch):
    write_chats(tmp_path)
    shares = {"train": 0.5, "test": 0.5}

    def splits(**key):
        spec = register(monkeypatch, split_by_hash=shares, **key)
        return {
            s: {
                first_user_turn(i.values)
                for i in examples.items(spec, s, str(tmp_path), 0, Counter())
            }
            for s in shares
        }

    apart, together = splits(), splits(split_key=first_user_turn)
    assert (
        apart["train"] & apart["test"]
        and not together["train"] & together["test"]
        and all(together.values())
    )


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_the_loss_is_on_assistant_turns_alone(tmp_path, monkeypatch, architecture):
    write_chats(tmp_path)
    spec = register(monkeypatch)
    config = samples.config(str(tmp_path / "cache"), "talk", architecture, root=str(tmp_path))
    file = vocab.train(["talk"], 300, str(tmp_path), 0, str(tmp_path / "cache"))
    settings = job_settings(
        file, chat.PLAIN, architecture, root=str(tmp_path), cache_dir=str(tmp_path / "cache")
    )
    folder, manifest = jobs.run(types.Job("talk", "train"), settings)
    items = jobs._read("talk", "train", settings)[0]
    records = cache.Records(tmp_path / "cache" / folder)
    first = {
        i.values["messages"][0]["content"] for i in items
    }  # asked again and again, and kept once as an answer's input
    assert (
        len(records)
        == len(items) + (len(first) if architecture == "encoder_decoder" else 0)
        > len(first)
        > 10
    )
    assert manifest["audit"]["read"] == manifest["audit"]["kept"] + sum(
        manifest["audit"]["skipped"].values()
    )
    vocabulary = Vocabulary(file)
    lock = {
        "version": locks.LOCK_VERSION, "order_version": ORDER_VERSION, "architecture": architecture, "prefix_lm": True, "pad_id": 0,
        "bos_id": vocabulary.bos_id, "eos_id": vocabulary.eos_id, "vocabulary": {"hash": "v", "size": vocabulary.size},
        "sequence_length": config.data.sequence_length, "target_length": config.data.target_length, "global_batch": 4,
        "window_examples": 64, "seed": 0, "renderings": 1, "weighting": "token", "too_long": "error", "evaluation": [],
        "loss_positions": [config.data.target_length],
        "tasks": [{"name": "talk", "rate": 1.0, "examples": len(records), "folders": [folder],
                   "sha256": [cache.manifest_hash(tmp_path / "cache" / folder)], "excluded": [[]]}],
    }  # fmt: skip
    batches = Batches(lock, tmp_path / "cache")
    batch, said = batches.batch(0), Counter()
    for b in range(4):
        for s in range(1, batch["decoder_segment_ids"][b].max() + 1):
            here = batch["decoder_segment_ids"][b] == s
            ids, on = (
                batch["decoder_target_tokens"][b][here],
                batch["decoder_loss_weights"][b][here] > 0,
            )
            # a turn ends in EOS, which is trained too
            text = (
                vocabulary.decode(ids[on]) if architecture == "decoder" else vocabulary.decode(ids)
            )
            said[text.split()[0]] += 1
            ends = int((ids[on] == vocabulary.eos_id).sum())
            assert ends == (2 if architecture == "decoder" else 1)
            assert "question" not in text and "User" not in text
            if architecture == "decoder":
                assert "User: first question" in vocabulary.decode(ids) and not on.all() and on[-1]
                # both ways: only what stands before the first answer
                seen = batch["decoder_causal_attention"][b][here]
                assert seen.sum() == 1 + int(
                    np.flatnonzero(on)[0]
                ) and "answer" not in vocabulary.decode(ids[: seen.sum() - 1])
        positions = batch["loss_positions"][b]
        assert (
            positions[positions >= 0] == np.flatnonzero(batch["decoder_loss_weights"][b] > 0)
        ).all()
    assert (
        set(said) == {"answer"} if architecture == "decoder" else set(said) == {"answer", "thing"}
    )
    # what the model is asked ends where its last turn begins, EOS behind the earlier ones where a
    # decoder was trained so
    *before, (last, _) = records[0]
    asked = cache.prompt_ids(before, vocabulary.eos_id, architecture)
    if architecture == "decoder":
        assert asked.count(vocabulary.eos_id) == 1 and vocabulary.decode(asked).endswith(
            "Assistant:"
        )
    assert vocabulary.decode(last).startswith("thing" if architecture == "decoder" else "answer")
    assert spec.chat


def test_chat_tasks_refuse_what_they_cannot_use(monkeypatch):
    with pytest.raises(
        UserError,
        match="chat task 'x': no templates; the run's data.chat_template writes conversations",
    ):
        chat_task(
            "x",
            version=1,
            cluster="c",
            fields=openai_messages,
            source=jsonl("a.jsonl"),
            templates=[("a", "b")],
        )
    spec = register(monkeypatch)
    assert resolve.supports(spec, names.parse("talk")) and not resolve.supports(
        spec, names.parse("talk:fs2")
    )

    def key(s):
        return jobs.fingerprint.of_task(s)

    assert key(spec) != key(
        dataclasses.replace(
            spec, source=dataclasses.replace(spec.source, split_key=first_user_turn)
        )
    )
    assert fewshot.counts(np.zeros((0, 0)), names.parse("talk")) == {}


def test_an_end_of_sequence_that_the_template_writes_is_not_trained_twice(tmp_path):
    """ChatML models end a turn in <|im_end|>, which their template writes and which is their EOS
    too."""
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(REPO / "tests" / "golden" / "hf" / "qwen3" / name, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    vocabulary, other = (
        Vocabulary(tmp_path / "tokenizer.json"),
        Vocabulary(REPO / "tests/golden/hf/qwen3/tokenizer.json"),
    )
    assert (vocabulary.eos_text, other.eos_text) == ("<|im_end|>", "</s>")
    template = chat.template_text(str(tmp_path / "chat_template.jinja"), "")
    talk = {"messages": [{"role": r, "content": c} for r, c in (("user", "два?"), ("assistant", "2"),
                                                                ("user", "三?"), ("assistant", "3"))]}  # fmt: skip
    item = types.Item("1", talk, "c", 1)
    end = vocabulary.eos_id
    for v, last in ((vocabulary, False), (other, True)):
        r = conversations.render(item, template, "here", v.eos_text)
        (record,) = render.encode([r], v)
        assert [on for _, on in record] == [False, True, False, True]
        assert [ids[-1] == end for ids, on in record if on] == [last, last]
        assert r.references == ("3<|im_end|>" if last else "3",)
    laid = [i for ids, on in render.encode([conversations.render(item, template, "", "<|im_end|>")], vocabulary)[0]
            for i in (*ids, *([end] if on else []))]  # fmt: skip
    whole = chat.written(template, talk, 4, False, "")
    assert laid == vocabulary.model.encode_template(
        whole.rstrip()
    )  # the very ids of the conversation as transformers writes it
