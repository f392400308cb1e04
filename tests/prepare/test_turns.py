# SPDX-License-Identifier: Apache-2.0
"""What a record says of its turns reaches the template and the loss, or is refused or counted:
nothing goes unsaid."""

import json

import pytest

from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import jobs, types
from itx.tasks import openai_messages, sharegpt_messages
from itx.text_format import chat
from tests.conftest import REPO
from tests.prepare.job_settings import job_settings
from tests.prepare.test_chat import CHATML, register

QWEN3 = REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json"
# reads all that templates of today read
FULL = """{% for tool in tools or [] %}<tool>{{ tool | tojson }}</tool>
{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>
{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"город": "Омск"}'},
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "天气", "parameters": {"type": "object"}},
    }
]


def build(
    folder,
    monkeypatch,
    rows,
    template=CHATML,
    fields=openai_messages,
    skip_bad=False,
    architecture="decoder",
):
    """(records as [(text, trained?)] and as ids, manifest) of the rows' cache folder."""
    (folder / "chats.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    register(monkeypatch, fields=fields, split_by_hash={"train": 1.0})
    settings = job_settings(
        QWEN3,
        template,
        architecture,
        root=str(folder),
        cache_dir=str(folder / "cache"),
        skip_bad=skip_bad,
    )
    jobs._read_once.cache_clear()
    where, manifest = jobs.run(types.Job("talk", "train"), settings)
    records, vocabulary = cache.Records(folder / "cache" / where), Vocabulary(QWEN3)
    ids = [records[i] for i in range(len(records))]
    return [[(vocabulary.decode(x), bool(on)) for x, on in r] for r in ids], ids, manifest


def row(*turns, **more):
    return {"messages": [{"role": r, "content": c, **rest} for r, c, rest in turns], **more}


def said(found, what=True):
    return [text for record in found for text, trained in record if trained == what]


def plain(record, eos):
    """The ids of a decoder's record as the layout writes them."""
    return [int(i) for ids, on in record for i in (*ids, *([eos] if on else []))]


@pytest.mark.parametrize("fields, key", [(openai_messages, "weight"), (sharegpt_messages, "train")])
def test_a_turn_of_weight_0_is_read_and_not_trained(tmp_path, monkeypatch, fields, key):
    def of(first):
        turns = [("user", "один?"), ("assistant", "uno"), ("user", "二?"), ("assistant", "dos")]
        rows = [{"role": r, "content": c} for r, c in turns]
        rows[1] |= first
        if fields is openai_messages:
            return [{"messages": rows}]
        return [{"conversations": [{"from": m["role"], "value": m["content"], **({key: m[key]} if key in m else {})}
                                   for m in rows]}]  # fmt: skip

    both, ids, _ = build(tmp_path, monkeypatch, of({}), chat.PLAIN, fields)
    for none in (0, False):
        one, ids_one, manifest = build(tmp_path, monkeypatch, of({key: none}), chat.PLAIN, fields)
        assert (
            [t.split("<")[0].strip() for t in said(one)]
            == ["dos"]
            != [t.strip() for t in said(both)]
        )
        eos = Vocabulary(QWEN3).eos_id
        # what the model reads is the same, EOS included
        assert plain(ids_one[0], eos) == plain(ids[0], eos)
        assert manifest["audit"]["kept"] == 1
    assert said(build(tmp_path, monkeypatch, of({key: 1}), chat.PLAIN, fields)[0]) == said(both)
    of_each, ids_each, _ = build(
        tmp_path, monkeypatch, of({key: 0}), chat.PLAIN, fields, architecture="encoder_decoder"
    )
    assert [t.strip() for t in said(of_each)] == ["dos"]
    eos = Vocabulary(QWEN3).eos_id
    assert eos not in plain(ids_each[0][:-1], eos)  # an encoder reads no EOS behind a turn


def test_a_conversation_of_untrained_answers_is_skipped_and_counted(tmp_path, monkeypatch):
    rows = [row(("user", f"q{i}", {}), ("assistant", f"a{i}", {"weight": i})) for i in range(2)]
    found, _, manifest = build(tmp_path, monkeypatch, rows)
    assert [t.removesuffix("<|im_end|>") for t in said(found)] == ["a1"]
    assert manifest["audit"]["skipped"] == {"no assistant turn is trained": 1}


def test_calls_tools_and_reasoning_are_handed_to_the_template(tmp_path, monkeypatch):
    new = row(("user", "погода?", {}), ("assistant", None, {"tool_calls": [CALL], "reasoning_content": "Спрошу."}),
              ("tool", "-3", {"tool_call_id": "c1"}), ("assistant", "−3 °C", {"thinking": "Это −3."}), tools=TOOLS)  # fmt: skip
    old = row(("user", "погода?", {}), ("assistant", None, {"function_call": CALL["function"], "reasoning": "Спрошу."}),
              ("function", "-3", {"name": "weather"}), ("assistant", "−3 °C", {"reasoning_content": "Это −3."}), tools=TOOLS)  # fmt: skip
    wanted = ['<think>Спрошу.</think>\n<call>{"name": "weather", "arguments": {"город": "Омск"}}</call><|im_end|>',
              "<think>Это −3.</think>\n−3 °C<|im_end|>"]  # fmt: skip
    for each in (new, old):
        found, _, manifest = build(tmp_path, monkeypatch, [each], FULL)
        assert said(found) == wanted
        assert manifest.get("said", {}) == {} and "天气" in said(found, False)[0]
    # as text where a template joins the arguments to others
    texts = FULL.replace("call.function | tojson", "call.function.name + call.function.arguments")
    assert (
        '<call>weather{"город": "Омск"}</call>'
        in said(build(tmp_path, monkeypatch, [new], texts)[0])[0]
    )
    of_sharegpt = {"conversations": [{"from": "human", "value": "погода?"},
                                     {"from": "function_call", "value": CALL["function"]["arguments"].join(('{"name": "weather", "arguments": ', "}"))},
                                     {"from": "observation", "value": "-3"}, {"from": "gpt", "value": "ok"}]}  # fmt: skip
    found, *_ = build(tmp_path, monkeypatch, [of_sharegpt], FULL, sharegpt_messages)
    assert said(found) == [wanted[0].split("\n")[1], "ok<|im_end|>"]


def test_what_a_template_does_not_write_is_counted(tmp_path, monkeypatch):
    turns = [
        ("system", "Be\nbrief.", {}),
        ("user", "x?", {}),
        ("assistant", " a ", {"reasoning_content": "Hm"}),
    ]
    rows = [row(*turns), row(*turns[1:], tools=TOOLS)]

    def lost(t):
        return build(tmp_path, monkeypatch, rows, t)[2].get("said", {})

    name = "conversations lose {}, which data.chat_template does not write".format
    deaf = CHATML.replace("in messages %}", "in messages if m.role != 'system' %}", 1)
    assert lost(CHATML) == {name("'reasoning_content'"): 2, name("'tools'"): 1}
    assert lost(deaf) == {**lost(CHATML), name("the content of system turns"): 1}
    shouts = FULL.replace("{{ m.content }}", "{{ m.content | trim | upper }}").replace(
        "m.reasoning_content }}", "m.reasoning_content | replace('m', '!') }}"
    )
    assert lost(FULL) == lost(shouts) == {}  # another form is no loss


def test_white_space_of_contents_is_kept(tmp_path, monkeypatch):
    code = "    if x:\n\treturn 1\n\n"
    found, *_ = build(
        tmp_path, monkeypatch, [row(("user", "\n  why\n", {}), ("assistant", code, {}))]
    )
    assert found[0] == [
        ("<|im_start|>user\n\n  why\n<|im_end|>\n<|im_start|>assistant\n", False),
        (code + "<|im_end|>", True),
    ]


def test_a_developer_is_a_system_where_the_template_knows_none(tmp_path, monkeypatch):
    rows = [row(("developer", "Кратко.", {}), ("user", "x?", {}), ("assistant", "a", {}))]
    assert said(build(tmp_path, monkeypatch, rows)[0], False)[0].startswith(
        "<|im_start|>system\nКратко."
    )
    knows = CHATML + "{# 'developer' #}"
    assert said(build(tmp_path, monkeypatch, rows, knows)[0], False)[0].startswith(
        "<|im_start|>developer\n"
    )


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    "turns, message",
    [
        ([USER, {**ANSWER, "reasonning": "Hm"}], r"turn 1 \(assistant\) has the key 'reasonning'.*did you mean 'reasoning'"),
        ([{**USER, "content": [{"image_url": "x"}]}, ANSWER], r"turn 0 \(user\): part 0 of its content is dict; only text"),
        ([{**USER, "content": [{"type": "text"}]}, ANSWER], r"turn 0 \(user\), part 0: 'text' holds nothing"),
        ([{"content": "a"}, ANSWER], "turn 0 is dict without a 'role'"),
        ([{"role": "user"}, ANSWER], r"turn 0 \(user\) has no content"),
        ([USER, {**ANSWER, "weight": 0.5}], r"turn 1 \(assistant\) has 'weight' 0.5; a turn is trained \(1, true\) or not"),
        ([{**USER, "weight": 1}, ANSWER], r"turn 0 \(user\) is to be trained; only an assistant's turns are"),
        ([{**USER, "tool_calls": [CALL]}, ANSWER], r"turn 0 \(user\) has 'tool_calls', which only an assistant's turn has"),
        ([USER, {**ANSWER, "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}], "call 0: 'arguments': no JSON"),
        ([USER, {**ANSWER, "refusal": "No."}], "has the key 'refusal'"),
        ([USER, {**ANSWER, "thinking": "a", "reasoning": "b"}], "has 'thinking' and 'reasoning', which differ"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name_and_place(tmp_path, monkeypatch, turns, message):
    rows = [{"messages": [USER, ANSWER]}, {"messages": turns}]
    with pytest.raises(UserError, match=f"task 'talk', example .*{message}"):
        build(tmp_path, monkeypatch, rows)
    found, _, manifest = build(tmp_path, monkeypatch, rows, skip_bad=True)
    assert len(found) == 1 and manifest["audit"]["skipped"] == {"unusable fields": 1}


def test_keys_that_hold_nothing_are_no_keys(tmp_path, monkeypatch):
    rows = [
        {"messages": [{**USER, "markdown": None, "tool_calls": []}, {**ANSWER, "refusal": None}]}
    ]
    assert said(build(tmp_path, monkeypatch, rows)[0]) == ["b<|im_end|>"]
    own = lambda e: {"messages": [USER, {**ANSWER, "weigth": 0}]}  # noqa: E731  (of a person's own `fields` as well)
    with pytest.raises(UserError, match="has the key 'weigth'.*did you mean 'weight'"):
        build(tmp_path, monkeypatch, rows, fields=own)


def test_conversations_are_told_apart_by_calls_and_reasoning(tmp_path, monkeypatch):
    def of(n):
        call = {"function": {"name": "f", "arguments": {"n": n}}}
        return row(
            ("user", "x?", {}),
            ("assistant", None, {"tool_calls": [call]}),
            ("tool", "7", {}),
            ("assistant", "b", {}),
        )

    assert len(build(tmp_path, monkeypatch, [of(1), of(2)], FULL)[0]) == 2


def test_arguments_tools_and_reasoning_give_no_control_token(tmp_path, monkeypatch):
    from tests.prepare.test_injection import TEXTS, control_ids

    control = control_ids(Vocabulary(QWEN3))

    def rows(texts):
        def call(t):
            return {"function": {"name": "f", "arguments": {t: [t, {"deep": t}]}}}

        def tool(t):
            return [
                {
                    "type": "function",
                    "function": {"name": "f", "description": t, "parameters": {t: t}},
                }
            ]

        return [row(("user", f"{i}", {}), ("assistant", "", {"tool_calls": [call(t)], "reasoning_content": t}),
                    ("tool", t, {"name": t}), ("assistant", f"b{i}", {}), tools=tool(t))
                for i, t in enumerate(texts)]  # fmt: skip

    def controls(ids):
        return [[[i for i in part if i in control] for part, _ in record] for record in ids]

    _, harmless, _ = build(tmp_path, monkeypatch, rows(["word"]), FULL)
    for form in (FULL, FULL.replace("tojson", "tojson(ensure_ascii=true)")):
        found, ids, _ = build(tmp_path, monkeypatch, rows(TEXTS), form)
        assert len(found) == len(TEXTS) and controls(ids) == controls(harmless) * len(TEXTS)
        # the words of the call are there
        assert all("<call>" in record[1][0] and "<think>" in record[1][0] for record in found)


def test_a_template_that_cuts_within_a_control_text_is_refused(tmp_path, monkeypatch):
    cuts = CHATML.replace("m['content']", "m['content'].split('<|im_end|>')[-1]")
    rows = [row(("user", "a<|im_end|>b", {}), ("assistant", "c", {}))]
    with pytest.raises(
        UserError, match="data.chat_template cuts a content within a control token's text"
    ):
        build(tmp_path, monkeypatch, rows, cuts)


def test_eos_that_the_template_writes_within_a_turn_is_counted_over_all(tmp_path, monkeypatch):
    rows = [
        row(("user", f"q{i}", {}), ("assistant", "twice" if i == 77 else "once", {}))
        for i in range(100)
    ]
    within = CHATML.replace(
        "m['content']", "m['content'] + (eos_token + 'x' if m['content'] == 'twice' else '')"
    )
    assert build(tmp_path, monkeypatch, rows, within)[2].get("eos_within") == 1
    assert build(tmp_path, monkeypatch, rows)[2].get("eos_within") == 0
