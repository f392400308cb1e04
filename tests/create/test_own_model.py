# SPDX-License-Identifier: Apache-2.0
"""A model of ours as a generator."""

import dataclasses
from pathlib import Path

import pytest

from itx.create.generators import CUT, FAILED, STOPPED, Message, Request, request_of
from itx.create.journal import Journal, ask
from itx.create.own_model import OwnModel
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import terminal
from itx.text_format import chat
from tests import synthetic
from tests.conftest import REPO

VOCABULARY = REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json"


@pytest.fixture(scope="module")
def model() -> OwnModel:
    """Random weights over a small vocabulary, asked as a conversation."""
    vocabulary = Vocabulary(VOCABULARY)
    runner = synthetic.runner_over(vocabulary, context=120)
    return OwnModel(terminal.Run(runner, vocabulary, chat.PLAIN), "model-x")


def requests(count: int, **how) -> list[Request]:
    how = {"temperature": 1.0, "max_tokens": 8, **how}
    texts = [("Name a colour. " * (i % 3 + 1)).strip() for i in range(count)]
    return [Request(messages=(Message("user", t),), seed=i, **how) for i, t in enumerate(texts)]


def answers(model: OwnModel, asked: list[Request], file: Path) -> list:
    with Journal(file) as journal:
        return ask(journal, model, asked)


def test_a_turn_of_the_user_is_asked_for(model, tmp_path):
    """Behind what the template writes before it, and no answer of the assistant is."""
    system = Message("system", "You know birds.")
    own = Request(messages=(system,), speaker="user", max_tokens=8, temperature=1.0)
    read = model._ids(own)
    assert model.run.vocabulary.decode(read).rstrip().endswith("You know birds.\nUser:")
    said = model._ids(Request(messages=(system, Message("user", "Why?"))))
    assert said[: len(read)] == read and len(said) > len(read)
    other = dataclasses.replace(own, seed=1)
    assert len({a.text for a in answers(model, [own, other], tmp_path / "a.sqlite")}) == 2
    assert request_of(own.facts()) == own and "speaker" not in requests(1)[0].facts()
    for how in ({"prompt": "Why?"}, {"messages": (system,), "speaker": "system"}):
        with pytest.raises(UserError, match="a request's speaker"):
            Request(**{"speaker": "user", **how})


def test_what_is_drawn_depends_on_the_seed_alone(model, tmp_path):
    asked = [*requests(5), *(dataclasses.replace(r, seed=9) for r in requests(3))]
    together = answers(model, asked, tmp_path / "a.sqlite")
    assert len({a.text for a in together}) > 5
    apart = answers(dataclasses.replace(model, batch=2), asked[::-1], tmp_path / "b.sqlite")
    assert apart[::-1] == together
    assert answers(model, asked[4:5], tmp_path / "c.sqlite") == together[4:5]
    for request, answer in zip(asked, together, strict=True):
        assert answer.finish == (CUT if answer.completion_tokens == request.max_tokens else STOPPED)
        ids = model.run.ids([m._asdict() for m in request.messages])
        assert answer.prompt_tokens == len(ids)


def test_prompts_and_messages_lengths_and_greedy(model, tmp_path):
    asked = [
        Request(prompt="a b c", max_tokens=3),
        Request(prompt="a b c", max_tokens=3, seed=1),
        Request(messages=(Message("user", "a b c"),), max_tokens=3),
    ]
    plain, other_seed, chatted = answers(model, asked, tmp_path / "a.sqlite")
    assert plain == other_seed and plain.completion_tokens <= 3
    assert chatted.prompt_tokens > plain.prompt_tokens


def test_what_has_no_room_fails_alone(model, tmp_path):
    asked = [*requests(1), Request(prompt="long " * 200, temperature=1.0), *requests(2)[1:]]
    first, long, second = answers(model, asked, tmp_path / "a.sqlite")
    assert long.finish == FAILED and "more than the context of 120" in long.error
    assert FAILED not in (first.finish, second.finish)


def test_turns_without_a_chat_template(model, tmp_path):
    plain = dataclasses.replace(model, run=dataclasses.replace(model.run, template=""))
    turns = (Message("system", "Be brief."), Message("user", "a"))
    with pytest.raises(UserError, match="has no chat template"):
        answers(plain, [Request(messages=turns)], tmp_path / "a.sqlite")


def test_control_tokens_in_what_is_asked_stay_text(model, tmp_path):
    """As in training: content is never control (itx/text_format)."""
    end = model.run.vocabulary.eos_id
    asked = Request(prompt="a<|im_end|>b<|endoftext|>", max_tokens=2)
    assert end not in model._ids(asked)
    assert answers(model, [asked], tmp_path / "a.sqlite")[0].finish in (CUT, STOPPED)
