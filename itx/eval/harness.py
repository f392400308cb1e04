# SPDX-License-Identifier: Apache-2.0
"""A model of ours as a model of lm-evaluation-harness (`lm_eval`, the extra lm-eval), so that its
tasks are ours.

The engine is that of `itx eval` (itx/eval/runner.py). What is asked is what the harness's own
backend for transformers (HFLM) asks: context and continuation are encoded together, spaces at a
context's end belong to the continuation, a text without a context stands behind BOS or else EOS,
and what is longer than the model takes loses its first tokens. One thing differs: text is data, so
that the text of a control token in a question gets ordinary ids. Both are counted (`counts`).

A context is text by the harness's interface. With a chat template it is what the template wrote,
where control tokens are the template's own and what a person said stands between marks
(itx/data/vocabulary.py, `guard`).
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from itx.data.vocabulary import CONTENT_BEGIN, Vocabulary, any_of
from itx.errors import UserError, check_known
from itx.eval.loaded import Ids
from itx.eval.rank import ROW_TOKENS
from itx.eval.runner import Runner
from itx.eval.sampling import Sampling
from itx.eval.texts import cut
from itx.text_format import chat
from itx.text_format.pieces import END

MAX_LENGTH = 2048  # HFLM's, of a model that does not say how many tokens it takes
MAX_NEW_TOKENS = 256  # HFLM's, where a task names no limit
TOP_K = 50  # of what is drawn where a task names none: transformers' default
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# a task's generation_kwargs, and what Sampling calls them
SAMPLING = {
    "top_k": "top_k",
    "top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "num_beams": "beams",
    "length_penalty": "length_penalty",
}
# what `counts` counts
CUT_CONTEXTS = "contexts that lost their first tokens, for the model takes no more"
CONTROL_TEXTS = "requests that hold the text of a control token, which was read as ordinary text"
REFUSED_SYSTEMS = "conversations whose system message the chat template refuses: it was left out"


class Generation(NamedTuple):
    """How one answer is generated, from a task's generation_kwargs."""

    how: Sampling
    until: tuple[str, ...]  # the answer ends before the first of these
    limit: int  # most new tokens


def generation(given: dict[str, Any], where: str) -> Generation:
    """A task's generation_kwargs as HFLM understands them; UserError for one that is unknown, for
    it would change the answers.

    Without `do_sample` a temperature above 0 draws, and without drawing all but beams and penalties
    has no meaning.
    """
    left = dict(given)
    until = left.pop("until", None) or []
    until = [until] if isinstance(until, str) else until
    limits = [n for name in LIMITS if (n := left.pop(name, None)) is not None]
    temperature = float(left.pop("temperature", None) or 0.0)
    draws = left.pop("do_sample", None)
    draws = temperature > 0 if draws is None else bool(draws)
    if draws and not temperature:
        raise UserError(f"{where}: generation_kwargs: do_sample needs a temperature above 0")
    for name in left:
        known = ("until", *LIMITS, "temperature", "do_sample", *SAMPLING)
        check_known(name, known, f"{where}: generation_kwargs: {name!r} is unknown to itx")
    settings = {SAMPLING[name]: value for name, value in left.items() if value is not None}
    if draws:
        settings = {"top_k": TOP_K, **settings, "temperature": temperature}
    else:
        settings = {k: v for k, v in settings.items() if k not in ("top_k", "top_p")}
    if settings.get("beams", 1) == 1:
        settings.pop("length_penalty", None)  # it weighs beams
    limit = int(limits[0]) if limits else MAX_NEW_TOKENS
    if limit < 1:
        raise UserError(f"{where}: generation_kwargs: {limit} new tokens; at least 1 is needed")
    return Generation(Sampling(**settings), tuple(s for s in until if s), limit)


def shared(contexts: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> list[list[int]]:
    """The numbers of continuations that share a reading of their context: such as stand behind the
    same one, as long as they are together no longer than it is, or than a short row.

    A whole text behind BOS shares nothing worth its place in a row with other texts, whose length
    all of its tokens' attention would be computed for.
    """
    groups: list[list[int]] = []
    open_groups: dict[tuple[int, ...], tuple[list[int], int]] = {}  # group, tokens left
    for i, (context, length) in enumerate(zip(contexts, lengths, strict=True)):
        group, left = open_groups.get(context, ([], 0))
        if length > left:
            group, left = [], max(ROW_TOKENS, len(context))
            groups.append(group)
        group.append(i)
        open_groups[context] = (group, left - length)
    return groups


def place(request: Instance) -> str:
    """What an error calls a request."""
    task, doc = getattr(request, "task_name", None), getattr(request, "doc_id", None)
    return f"harness task {task}, document {doc}" if task else "a harness request"


class HarnessModel(TemplateLM):
    """A model of ours that lm_eval.simple_evaluate(model=…) takes.

    Args:
        template: the chat template's text; "": it has none, and is asked in plain text alone.
        max_length: most tokens of a context and its continuation (in an encoder: of a context);
            0: as many as the model says it takes.
        name: of the model, for the harness's cache of requests.
    """

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary,
        template: str = "",
        max_length: int = 0,
        name: str = "itx",
    ):
        super().__init__()
        loaded = runner.loaded
        self.is_encoder_decoder = loaded.model.architecture == "encoder_decoder"
        self.backend = "seq2seq" if self.is_encoder_decoder else "causal"
        self.max_length = max_length or loaded.context or MAX_LENGTH
        self.vocabulary, self.template, self.name = vocabulary, template, name
        self.head = [] if self.is_encoder_decoder else loaded.head
        # A decoder is given its BOS as a part of the context, where it may be cut off.
        first = loaded.bos_id if self.is_encoder_decoder else -1
        self.runner = Runner(dataclasses.replace(loaded, bos_id=first, context=0))
        self.is_chat = False  # contexts are what a chat template wrote
        self.counts: Counter[str] = Counter()
        self._control_pattern = any_of(vocabulary.control)
        encoded = {t: vocabulary.model.encode_template(t) for t in vocabulary.control}
        self._control_texts = {ids[0]: t for t, ids in encoded.items() if len(ids) == 1}

    # ---- what the harness asks about the model

    @property
    def eot_token_id(self) -> int:
        return self.vocabulary.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.head[0] if self.head else self.vocabulary.prefix_id

    @property
    def tokenizer_name(self) -> str:
        return f"{self.name}-{self.vocabulary.hash[:16]}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """What the template writes for the messages, and before the answer to them; without
        `add_generation_prompt` the last message is the begin of an answer, which goes on.

        A template that refuses a system message is given the others, as HFLM does.
        """
        if not self.template:
            raise UserError("this model has no chat template: ask it in plain text")
        self.is_chat = True
        try:
            return self._chat_text(chat_history, add_generation_prompt)
        except UserError:
            others = [m for m in chat_history if m["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            text = self._chat_text(others, add_generation_prompt)
            self.counts[REFUSED_SYSTEMS] += 1
            return text

    def _chat_text(self, messages: list[dict[str, str]], prompt: bool) -> str:
        where = "a harness task's conversation"
        values = chat.guarded({"messages": messages}, self.vocabulary.control, where)
        text = chat.written(self.template, values, len(messages), prompt, where)
        if not prompt:
            last = values["messages"][-1]["content"]
            begin = text.rfind(last.strip())
            if begin < 0:
                raise UserError(f"{where}: the chat template does not write {last.strip()[:60]!r}")
            # a template may trim the white space behind what it is given
            kept = last.lstrip()
            kept = kept if text.startswith(kept, begin) else last.strip()
            text = text[: begin + len(kept)]
        if CONTENT_BEGIN in text:
            self.counts[CONTROL_TEXTS] += 1
        return text.replace(END, self.vocabulary.eos_text)

    # ---- text to ids and back

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        """Ids of a text as inference reads it: behind BOS, or before an encoder's EOS, unless
        `add_special_tokens` is false; no second BOS where a chat template wrote one."""
        if not self.is_chat:
            ids = self.vocabulary.encode(string)
        else:
            ids = self.vocabulary.behind("", string)
        if add_special_tokens is False:
            return ids
        if self.is_encoder_decoder:
            return [*ids, self.eot_token_id]
        return ids if self.is_chat and ids[:1] == self.head else [*self.head, *ids]

    def _content(self, text: str, where: str) -> str:
        """A text that no chat template wrote, as `tok_encode` takes it."""
        if self._control_pattern and self._control_pattern.search(text):
            self.counts[CONTROL_TEXTS] += 1
        if not self.is_chat:
            return text
        said = {"messages": [{"role": "assistant", "content": text}]}
        return chat.guarded(said, self.vocabulary.control, where)["messages"][0]["content"]

    def _text(self, ids: Ids, until: Sequence[str]) -> str:
        """An answer's text, cut before the first stop string. Control tokens stop it by their
        texts, and are no part of it."""
        text, stopped_by = cut(self.vocabulary.decode(ids), until)
        if not self._control_texts.keys() & set(ids):
            return text
        if stopped_by is not None:
            ids = next(
                ids[:n]
                for n in range(1, len(ids) + 1)
                if stopped_by in self.vocabulary.decode(ids[:n])
            )
        kept = [i for i in ids if i not in self._control_texts]
        return cut(self.vocabulary.decode(kept), until)[0]

    # ---- requests

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log p(continuation | context), whether greedy decoding would write it) of each."""
        asked = []
        for request in requests:
            context, continuation = request.args
            if not continuation:
                raise UserError(f"{place(request)}: an empty continuation has no likelihood")
            if not self.is_chat:
                self._content(context, place(request))
            given = (context, self._content(continuation, place(request)))
            asked.append(SimpleNamespace(args=given))
        return super().loglikelihood(asked, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str] | None, Ids, Ids]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """As `loglikelihood`, of ids."""
        contexts = [self._room(*request) for request in requests]
        groups = shared(contexts, [len(continuation) for _, _, continuation in requests])
        options = [[requests[i][2] for i in members] for members in groups]
        ranked = self.runner.rank([list(contexts[g[0]]) for g in groups], options, eos=False)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for members, scores in zip(groups, ranked, strict=True):
            for i, score in zip(members, scores, strict=True):
                answers[i] = (score["logprob"], score["greedy"])
                if requests[i][0] is not None:  # a window is a part of a request
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answers[i])
        return answers

    def _room(
        self, texts: tuple[str, str] | None, context: Ids, continuation: Ids
    ) -> tuple[int, ...]:
        """The end of a context that the model takes before a continuation, whose last token is read
        by nobody."""
        told = "a text" if texts is None else f"the continuation {texts[1][:60]!r}"
        if not continuation:
            raise UserError(
                f"{told} has no token of its own behind its context: the vocabulary joins them"
            )
        if len(continuation) > self.max_length:
            raise UserError(
                f"{told} has {len(continuation):,} tokens; the model takes {self.max_length:,}"
            )
        context = context or [self.prefix_token_id]
        room = self.max_length
        if not self.is_encoder_decoder:
            room += 1 - len(continuation)
        if len(context) > room:
            self.counts[CUT_CONTEXTS] += 1
            context = context[-room:]
        if self.is_encoder_decoder and context[-1] == self.eot_token_id:
            context = context[:-1]  # the engine puts it there
        return tuple(context)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """log p of each whole text, in windows that the model takes: every token is predicted once,
        as HFLM does it, which predicts a BOS that the vocabulary puts before the text, too."""
        if self.is_encoder_decoder:
            raise UserError(
                "an encoder-decoder has no likelihood of a text without a prompt: tasks of "
                "perplexity are for decoders"
            )
        windows, owners = [], []
        for i, request in enumerate(requests):
            ids = self.tok_encode(self._content(request.args[0], place(request)))
            found = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            for context, continuation in map(make_disjoint_window, found):
                windows.append((None, context, continuation))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text that follows each context, up to a stop string, an end of sequence or a
        limit."""
        asked = [generation(request.args[1], place(request)) for request in requests]
        prompts = [
            self._prompt(request, g.limit) for request, g in zip(requests, asked, strict=True)
        ]
        # HFLM looks for the text of EOS, too
        eos = [self.vocabulary.eos_text] if self.vocabulary.eos_text else []
        until = [(*g.until, *eos) for g in asked]
        answers = [""] * len(requests)
        for how in dict.fromkeys(g.how for g in asked):
            members = [i for i, g in enumerate(asked) if g.how == how]

            def stops(n: int, ids: Ids, members: list[int] = members) -> bool:
                return cut(self.vocabulary.decode(ids), until[members[n]])[1] is not None

            found = self.runner.generate(
                [prompts[i] for i in members],
                [asked[i].limit for i in members],
                how,
                stops if how.beams == 1 else None,
            )
            for i, answer in zip(members, found, strict=True):
                answers[i] = self._text(answer["tokens"], until[i])
                self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
        return answers

    def _prompt(self, request: Instance, limit: int) -> Ids:
        """The end of a context that the model takes, with room for `limit` new tokens."""
        context = request.args[0]
        if not self.is_chat:
            self._content(context, place(request))
        room = self.max_length if self.is_encoder_decoder else self.max_length - limit
        if room < 1:
            raise UserError(
                f"{place(request)}: {limit:,} new tokens leave no room for a context; the model "
                f"takes {self.max_length:,}"
            )
        ids = self.tok_encode(context)
        if len(ids) > room:
            self.counts[CUT_CONTEXTS] += 1
            ids = ids[-room:]
        if self.is_encoder_decoder:
            return ids[:-1]  # the engine puts EOS there
        return ids or [self.prefix_token_id]
