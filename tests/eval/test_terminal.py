# SPDX-License-Identifier: Apache-2.0
"""`itx generate`: through a chat template and without, from a file, the command line, a pipe and a
terminal."""

import codecs
import dataclasses
import io
import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import sentencepiece

from itx import cli, restore
from itx.data import cache
from itx.data import lock as locks
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import terminal
from itx.eval.sampling import Sampling
from itx.runs import RunFolder
from itx.text_format import chat
from tests import samples
from tests.conftest import REPO, one_device
from tests.synthetic import changed

TALKS = [
    ("Привет! Меня зовут Вера.", "Здравствуйте, Вера!", "Как меня зовут?", "Вас зовут Вера."),
    ("Hi! My name is Bob.", "Hello, Bob!", "What is my name?", "Your name is Bob."),
    ("法国的首都？", "巴黎。", "谢谢", "不客气。"),
]
ROLES = ("user", "assistant", "user", "assistant")
TASKS = """
from itx.tasks import chat_task, jsonl, openai_messages
chat_task("talk", version=1, cluster="dialog", fields=openai_messages,
          source=jsonl("talk.jsonl", split_by_hash={"train": 1.0}))
"""


def messages(talk, n: int = 4) -> list[dict]:
    return [{"role": role, "content": text} for role, text in zip(ROLES[:n], talk[:n], strict=True)]


@pytest.fixture(scope="module")
def talked(tmp_path_factory) -> Path:
    """The run folder of a few steps on conversations, over bytes."""
    folder = tmp_path_factory.mktemp("talk")
    lines = [json.dumps({"messages": messages(t)}, ensure_ascii=False) for t in TALKS]
    (folder / "talk.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (folder / "talk_tasks.py").write_text(TASKS)
    recipe = samples.write_recipe(
        folder,
        folder / "cache",
        mixture="talk",
        modules=("talk_tasks",),
        root=".",
        vocab="bytes",
        window_examples=16,
        sequence_length=256,
        target_length=96,
        max_epochs=1e6,
    )
    samples.itx("train", recipe, "--run_dir", "run", cwd=folder, PYTHONPATH=str(REPO))
    return folder / "run"


@pytest.fixture(scope="module")
def run(talked) -> terminal.Run:
    folder = RunFolder(talked)
    config = samples.config("", sequence_length=256)
    lock = locks.read(folder.lock_json)
    from itx.mesh import make_mesh

    runner = restore.load_model(
        folder, config, lock, mesh=make_mesh(config.mesh, jax.devices()[:1])
    )
    return terminal.Run(runner, Vocabulary(folder.vocab_model), lock["chat"], max_new_tokens=5)


def test_what_reads_as_another_turn_and_what_is_not_written_is_said(capsys):
    model = SimpleNamespace(
        loaded=SimpleNamespace(model=SimpleNamespace(architecture="decoder"), eos_id=1)
    )
    vocabulary = Vocabulary(REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json")
    plain = terminal.Run(model, vocabulary, chat.PLAIN)
    asked = [terminal.message(t, "x") for t in ("a\nAssistant: b", "a: b")]
    for m in asked:
        terminal.warn(plain, [m], [m])
    assert capsys.readouterr().err == (
        "itx: 'a\\nAssistant: b' holds a line that begins as a turn does; the model cannot tell "
        "it from one\n"
    )
    deaf = dataclasses.replace(
        plain, template="{% for m in messages if m.role != 'system' %}{{ m.content }};{% endfor %}"
    )
    terminal._head(deaf, "Be brief.", "--system")
    assert (
        capsys.readouterr().err
        == "itx: the run's chat template does not write the content of system turns\n"
    )


def test_an_answer_moves_no_cursor():
    """A generated text may hold escape sequences, e.g. one that sets the title of a terminal's
    window."""
    answer = {"text": "a\x1b]0;title\x07b\u202e\n\tБ北", "finished": True}
    said = terminal.shown(answer)
    assert "\x1b" not in said and "\x07" not in said and "\u202e" not in said
    assert said.startswith("a\\x1b]0;title") and said.endswith("\n\tБ北")


def test_a_conversation_is_asked_with_the_ids_that_training_had(talked, run):
    lock = locks.read(talked / "data.lock.json")
    assert lock["chat"] == chat.PLAIN
    records = cache.Records(talked.parent / "cache" / lock["tasks"][0]["folders"][0])
    trained = {
        tuple(cache.prompt_ids(r[:-1], lock["eos_id"], "decoder"))
        for r in (records[i] for i in range(len(records)))
    }
    asked = {tuple(run.ids(messages(talk, 3))) for talk in TALKS}
    assert len(trained) == 3 and asked == trained
    raw = dataclasses.replace(run, template="")
    assert raw.ids(messages(TALKS[0], 1)) == run.vocabulary.encode(TALKS[0][0])


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_run_keeps_the_template_it_was_trained_with(talked, run):
    """Where a run that begins from it, an export and a Hugging Face tokenizer look."""
    assert (talked / "vocab" / "chat_template.jinja").read_text() == run.template


def test_what_a_template_writes_behind_an_answer_ends_it(run):
    assert run.stops() == ()
    ends = dataclasses.replace(run, template=CHATML, stop=("\n\n",))
    assert ends.stops() == ("\n\n", "<|im_end|>")


def test_the_oldest_turns_make_room(run):
    head, talk = (
        [{"role": "system", "content": "Be brief."}],
        [m for t in TALKS for m in messages(t)],
    )
    asked = [*head, *talk, {"role": "user", "content": "And?"}]
    assert run.runner.loaded.context == 0
    assert run.room(asked) == (asked, 0)  # no bound
    small = dataclasses.replace(run, runner=changed(run.runner, context=len(run.ids(asked))))
    assert small.room(asked) == ([*head, *asked[3:]], 2)  # a question goes with its answer
    tiny = dataclasses.replace(run, runner=changed(run.runner, context=10))
    assert tiny.room(asked) == ([*head, asked[-1]], 12)
    with pytest.raises(UserError, match="more than the context of 10"):
        tiny.answers([tiny.room(asked)[0]])


def test_a_conversation_remembers_until_it_is_forgotten(run, capsys):
    lines = ["Привет!", "", "/new is a word", "/system Отвечай кратко.", "你好", "/new", "Hi"]
    found = terminal.converse(run, "Be kind.", io.StringIO("".join(x + "\n" for x in lines)))
    said = capsys.readouterr()
    assert said.out.count("(a new conversation)") == 2 and len(found) == 3
    assert said.err == "itx: /new takes no text; to ask under an instruction: /system is a word\n"
    heads = [f["messages"][0] for f in found]
    assert [h["content"] for h in heads] == ["Be kind.", "Отвечай кратко.", "Отвечай кратко."]
    assert [f["messages"][-1]["content"] for f in found] == ["Привет!", "你好", "Hi"]
    long = terminal.converse(run, "", io.StringIO("a\nb\n"))
    answered = bool(long[0]["answer"].strip())
    assert len(long[1].get("messages", [0])) == (3 if answered else 1)
    alone = terminal.converse(
        dataclasses.replace(run, template=""), "", io.StringIO("a\nb\\nc\n/new\n")
    )
    assert [f["prompt"] for f in alone] == [
        "a",
        "b\nc",
    ] and "no command /new; " in capsys.readouterr().err


STRICT = (
    "{% if messages[0].role == 'system' and messages[0].content | length > 9 %}{{ "
    "raise_exception('too long') }}{% endif %}" + CHATML
)


def test_a_refused_line_leaves_the_conversation_as_it_was(run, capsys):
    """A line beyond the context, an instruction that the template refuses, a command that is
    none."""
    answering = dataclasses.replace(run, how=Sampling(temperature=1.0, seed=3))
    small = dataclasses.replace(answering, runner=changed(run.runner, context=120))
    lines = ["Hi", "x" * 300, "Bob?"]
    found = terminal.converse(small, "", io.StringIO("".join(x + "\n" for x in lines)))
    assert "more than the context of 120" in capsys.readouterr().err
    assert [m["content"] for m in found[1]["messages"] if m["role"] == "user"] == ["Hi", "Bob?"]
    strict = dataclasses.replace(answering, template=STRICT)
    lines = [
        "/system Be.",
        "Hi",
        "/system Be very brief.",
        "Bob?",
        "/sytem a",
        "/help me",
        " /new",
        "Who?",
        "/quit",
        "no",
    ]
    found = terminal.converse(strict, "", io.StringIO("".join(x + "\n" for x in lines)))
    said = capsys.readouterr()
    assert (
        "data.chat_template: too long" in said.err
        and "no command /sytem; did you mean '/system'" in said.err
    )
    # the refused one never began
    assert [f["messages"][0]["content"] for f in found] == ["Be."] * 3
    assert [len(f["messages"]) for f in found] == [
        2,
        4,
        2,
    ] and "forget the conversation" in said.out
    with pytest.raises(UserError, match="too long"):
        terminal.converse(strict, "Be very brief.", io.StringIO("Hi\n"))


def test_a_template_that_writes_earlier_turns_otherwise_is_asked_as_it_trained(run):
    """Models that think: the block stands before the last answer alone, so a second question has
    other text before it."""
    thinks = dataclasses.replace(
        run,
        template=CHATML.replace(
            "{{ m.content }}",
            (
                "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ "
                "m.content }}"
            ),
        ),
    )
    talk = messages(TALKS[1], 3)
    want = chat.written(thinks.template, {"messages": talk}, 3, True, "")
    assert "<think>" not in want and thinks.ids(talk) == run.vocabulary.encode(want)
    found = terminal.converse(thinks, "", io.StringIO("Hi\nBob?\n你好\n"))
    assert len(found) == 3 and thinks.stops() == ("<|im_end|>",)


def test_several_prompts_are_answered_together(run, capsys):
    asked = [messages(talk, 1) for talk in TALKS]
    found = terminal.several(run, asked)
    assert [f["prompt"] for f in found] == [t[0] for t in TALKS]
    assert [f["answer"] for f in found] == [terminal.several(run, [a])[0]["answer"] for a in asked]
    assert capsys.readouterr().out.startswith("> Привет!")
    with pytest.raises(
        UserError, match="a conversation of 3 turns: this run was not trained on conversations"
    ):
        terminal.several(dataclasses.replace(run, template=""), [messages(TALKS[0], 3)])


def test_what_the_vocabulary_does_not_know_is_said(run, tmp_path, capsys):
    """Latin letters alone, as in T5's vocabulary: what is asked in Russian never reaches the
    model."""
    (tmp_path / "latin.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "latin.txt"),
        model_prefix=str(tmp_path / "latin"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    latin = dataclasses.replace(run, vocabulary=Vocabulary(tmp_path / "latin.model"), template="")
    terminal.several(latin, [messages(("the fox",), 1)])
    assert capsys.readouterr().err == ""
    terminal.several(latin, [messages(("the лис",), 1)])
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"itx: the vocabulary does not know [1-3] of the \d tokens of 'the лис'\n", said
    )
    terminal.converse(latin, "", io.StringIO("the лис\n"))
    assert capsys.readouterr().err == said


def test_a_file_of_prompts(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("Переведи:\\nдом\r\n你好\n".encode())
    assert terminal.read_prompts(str(file)) == [
        [{"role": "user", "content": "Переведи:\nдом"}],
        [{"role": "user", "content": "你好"}],
    ]
    file.write_bytes(codecs.BOM_UTF8 + "дом\n".encode())
    assert terminal.read_prompts(str(file)) == [[{"role": "user", "content": "дом"}]]
    file = tmp_path / "p.jsonl"
    file.write_text(
        json.dumps({"prompt": "a\nb"}) + "\n" + json.dumps({"messages": messages(TALKS[0], 3)})
    )
    assert terminal.read_prompts(str(file)) == [
        [{"role": "user", "content": "a\nb"}],
        messages(TALKS[0], 3),
    ]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("p.txt", b"a\n\nb\n", "line 2, is empty"),
        ("p.txt", b"", "line 1, is empty"),
        ("p.txt", b"a\n\xff\n", r"line 2, is not UTF-8 \(byte 0\)"),
        ("p.jsonl", b"{}\n", 'line 1, has neither "prompt" nor "messages"'),
        ("p.jsonl", b"{\n", "line 1, is not JSON"),
        ("p.jsonl", b'{"prompt": 3}\n', 'line 1, "prompt" is no text'),
        ("p.jsonl", b'{"prompt": "\\ud800"}\n', r"line 1, is not UTF-8 \(character 0\)"),
        ("p.jsonl", b'{"messages": []}\n', "no list of turns"),
        (
            "p.jsonl",
            b'{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}\n',
            'has both "prompt" and',
        ),
        (
            "p.jsonl",
            b'{"messages": [{"role": "user", "content": "b"}], "tools": [{}]}\n',
            '"tools" are not written',
        ),
        (
            "p.jsonl",
            b'{"messages": [{"role": "bot", "content": "a"}]}\n',
            "turn 0 is no .*one of system, user",
        ),
        (
            "p.jsonl",
            b'{"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}\n',
            "turn 0 has 'tool_calls', which",
        ),
        (
            "p.jsonl",
            b'{"messages": [{"role": "assistant", "content": "a"}]}\n',
            "nothing is left to answer",
        ),
    ],
)
def test_a_bad_file_of_prompts_is_named(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=match):
        terminal.read_prompts(str(tmp_path / name))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", " "], "--prompt is empty"),
        (["--prompt", "a", "--prompts", "b"], "--prompt or --prompts, not both"),
        (["--prompts", "nowhere.txt"], "--prompts nowhere.txt: No such file"),
        (["--prompt", "a", "--max_new_tokens", "0"], "--max_new_tokens 0: must be at least 1"),
        (["--prompt", "a", "--context", "20"], "more than the context of 20"),
        (["--prompt", "a", "--stop", ""], "an empty stop string"),
        (["--prompt", "a", "--top_p", "0.5"], "need a temperature above 0"),
        (
            ["--prompt", "a", "--system", "b", "--raw"],
            "--system: with --raw a prompt is asked as it is",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_named(talked, capsys, words, message):
    assert cli.main(["generate", str(talked), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_command_takes_every_setting(talked, tmp_path, capsys):
    words = [
        "--temperature=0.8",
        "--top_k=5",
        "--top_p=0.9",
        "--repetition_penalty=1.2",
        "--seed=3",
        "--max_new_tokens=4",
        "--system=Кратко.",
        "--context=200",
        "--stop=§",
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert cli.main(["generate", str(talked), "--prompt", "Как\\nдела?", *words]) == 0
    (found,) = json.loads((tmp_path / "a.json").read_text())
    assert [m["content"] for m in found["messages"]] == ["Кратко.", "Как\nдела?"]
    assert found["answer"] + ("" if found["finished"] else " …") == (
        capsys.readouterr().out.rstrip("\n") if found["answer"] else " …"
    )
    assert (
        cli.main(
            ["generate", str(talked), "--prompt", "a", "--beams=2", "--length_penalty=0.5", "--raw"]
        )
        == 0
    )


def test_in_a_terminal(talked):
    """A person types in three scripts, asks for help, begins anew, presses Ctrl-C and leaves."""
    command = [
        sys.executable,
        "-m",
        "itx.cli",
        "generate",
        str(talked),
        "--max_new_tokens",
        "6",
        "--temperature=1",
    ]
    spawn = [
        sys.executable,
        "-c",
        # A suite that a shell started in the background ignores Ctrl-C, and so would its children.
        "import pty, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "sys.exit(pty.spawn(sys.argv[1:]) >> 8)",
        *command,
    ]
    environment = one_device() | {"PYTHONUTF8": "1", "TERM": "dumb"}
    with subprocess.Popen(
        spawn, cwd=REPO, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:

        def until(end: bytes, seconds: float = 60) -> str:
            got, last = b"", time.monotonic() + seconds
            while not got.endswith(end):
                assert time.monotonic() < last, got.decode(errors="replace")
                if select.select([child.stdout], [], [], 1)[0]:
                    some = os.read(child.stdout.fileno(), 4096)
                    got += some
                    if not some:
                        break
            return got.decode(errors="replace").replace("\r\n", "\n")

        def press(keys: bytes) -> None:
            child.stdin.write(keys)
            child.stdin.flush()

        def say(line: str) -> str:
            press(line.encode() + b"\n")
            return until(b"> ")

        try:
            assert "It remembers the conversation; /help says what there is." in until(b"> ")
            assert "Ctrl-D" in say("/help")
            for line in ("Привет!", "你好", "Hi"):
                answer = say(line).removeprefix(line).strip()
                assert answer and "Traceback" not in answer and "itx:" not in answer
            assert "(a new conversation)" in say("/new")
            # a signal between the prompt and Python's wait for a key is seen at the next key alone
            time.sleep(0.5)
            press(b"\x03")  # at the prompt: nothing
            assert "interrupted" not in until(b"> ")
            press(b"\x04")
            until(b"never", 30)
            assert child.wait(30) == 0
        finally:
            child.kill()  # which hangs up on the command
