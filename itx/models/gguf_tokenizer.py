# SPDX-License-Identifier: Apache-2.0
"""A GGUF file's vocabulary as the files of Hugging Face's tokenizer.

`tokenizer.ggml.model` says which kind it is: `gpt2` (BPE over bytes, cut by the expressions that
`tokenizer.ggml.pre` names), `llama` (SentencePiece's BPE, whose merges follow from the scores) or
`t5` (SentencePiece's unigrams). What is no plain text, a token's type says: control tokens are
special, so that no content becomes one; user-defined tokens are found whole in any text.
"""

import base64
import json
import re
from typing import Any, NamedTuple

from itx.data.vocabulary import CONTROL_FORM, SENTINELS
from itx.errors import UserError, did_you_mean
from itx.models.gguf import File

PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens
SPACE = "▁"  # SentencePiece's
CHAT_TEMPLATE = "tokenizer.chat_template"

# How the pre-tokenizers cut a text, as their own tokenizer.json says
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BY_THREE = _CONTRACTIONS + rf"|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"
_BY_ONE = _CONTRACTIONS + rf"|{_LETTERS}|\p{{N}}|{_REST}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Pre(NamedTuple):
    """A pre-tokenizer of byte-level BPE."""

    pattern: str = ""  # "": GPT-2's own
    digits: bool = False  # each digit stands alone
    nfc: bool = False  # texts are composed first
    whole: bool = False  # a piece that is a token is not merged
    bos: bool = False  # BOS begins a text where the file does not say


PRE = {
    "gpt-2": Pre(),
    "smollm": Pre(digits=True),
    "starcoder": Pre(digits=True),
    "refact": Pre(digits=True),
    "llama-bpe": Pre(_BY_THREE, whole=True, bos=True),
    "llama3": Pre(_BY_THREE, whole=True, bos=True),
    "llama-v3": Pre(_BY_THREE, whole=True, bos=True),
    "dbrx": Pre(_BY_THREE),
    "smaug-bpe": Pre(_BY_THREE),
    "qwen2": Pre(_BY_ONE, nfc=True),
    "deepseek-r1-qwen": Pre(_BY_ONE, nfc=True),
    "stablelm2": Pre(_BY_ONE),
    "tekken": Pre(_TEKKEN, whole=True, bos=True),
}
# Ends of a turn: one that the chat template writes ends an answer, though the file's EOS is another
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


class Tokens(NamedTuple):
    """The tokens of a file, without the fillers at their end."""

    texts: list[str]
    types: list[int]
    scores: list[float]  # [] where the file has none

    def of_type(self, *types: int) -> list[int]:
        return [i for i, t in enumerate(self.types) if t in types]


def read_tokens(file: File) -> Tokens:
    """The tokens of a file; UserError where its lists do not belong together."""
    texts = _list(file, "tokens", str)
    if not texts:
        raise UserError(f"{file.path}: {PREFIX}tokens is missing or empty")
    types = _list(file, "token_type", int) or [NORMAL] * len(texts)
    scores = _list(file, "scores", float)
    for name, values in (("token_type", types), ("scores", scores)):
        if values and len(values) != len(texts):
            raise UserError(
                f"{file.path}: {PREFIX}{name} has {len(values):,} entries for {len(texts):,} tokens"
            )
    fillers = [
        i for i, t in enumerate(types) if t == UNUSED and texts[i].startswith(("[PAD", "<pad"))
    ]
    if file.values[PREFIX + "model"] == "t5" and len(fillers) >= SENTINELS:
        # T5's sentinels are no pieces of its SentencePiece model, and stand behind them
        for n, i in enumerate(fillers[:SENTINELS]):
            texts[i], types[i] = f"<extra_id_{SENTINELS - 1 - n}>", CONTROL
    while types and types[-1] == UNUSED and texts[-1].startswith(("[PAD", "<pad")):
        texts, types = texts[:-1], types[:-1]
    if len(set(texts)) < len(texts):
        twice = next(t for t in texts if texts.count(t) > 1)
        raise UserError(f"{file.path}: {twice!r} stands twice among its tokens")
    types = [
        CONTROL if kind == USER_DEFINED and CONTROL_FORM.fullmatch(text) else kind
        for text, kind in zip(texts, types, strict=True)
    ]
    return Tokens(texts, types, scores[: len(texts)])


def _list(file: File, name: str, kind: type) -> list:
    values = file.values.get(PREFIX + name, [])
    if not isinstance(values, list) or any(type(v) is not kind for v in values):
        raise UserError(f"{file.path}: {PREFIX}{name} is no list of {kind.__name__}")
    return list(values)


def special_ids(file: File, count: int) -> dict[str, int]:
    """{"bos_token_id": …} of those that a file names; UserError for one beyond its tokens."""
    out = {}
    for name in ("bos_token_id", "unknown_token_id", "padding_token_id", *ENDS):
        id = file.values.get(PREFIX + name)
        if id is None:
            continue
        if type(id) is not int or not 0 <= id < count:
            raise UserError(f"{file.path}: {PREFIX}{name}={id!r}; it has {count:,} tokens")
        out[name] = id
    return out


def files(file: File) -> tuple[dict[str, str], dict[str, Any]]:
    """({name: content} of the tokenizer's files, generation_config.json) of a file; of one without
    a vocabulary none."""
    kind = file.values.get(PREFIX + "model", "none")
    if kind in ("none", "no_vocab"):
        return {}, {}
    if kind not in KINDS:
        raise UserError(
            f"{file.path}: a vocabulary of the kind {kind!r}; those known are {', '.join(KINDS)}"
        )
    tokens = read_tokens(file)
    ids = special_ids(file, len(tokens.texts))
    tokenizer = KINDS[kind](file, tokens, ids)
    tokenizer |= {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(tokens),
    }
    bos, eos = _begins(file, kind), _flag(file, "add_eos_token", kind == "t5")
    before = [ids["bos_token_id"]] if bos and "bos_token_id" in ids else []
    behind = [ids["eos_token_id"]] if eos and "eos_token_id" in ids else []
    tokenizer["post_processor"] = _around(before, behind, tokens.texts)
    named = {
        name: tokens.texts[ids[key]]
        for name, key in (
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        )
        if key in ids
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    settings |= {"add_bos_token": bos, "clean_up_tokenization_spaces": False}
    out = {"tokenizer.json": _json(tokenizer), "tokenizer_config.json": _json(settings)}
    _check(file, out["tokenizer.json"], tokens)
    template = file.values.get(CHAT_TEMPLATE)
    if template is not None:
        if not isinstance(template, str):
            raise UserError(f"{file.path}: {CHAT_TEMPLATE} is no text")
        out["chat_template.jinja"] = template
    return out, _generation(tokens, ids, template or "")


def _json(values: dict) -> str:
    return json.dumps(values, ensure_ascii=False)


def _generation(tokens: Tokens, ids: dict[str, int], template: str) -> dict[str, Any]:
    """generation_config.json: the ids that begin, fill and end."""
    ends = [ids[name] for name in ENDS if name in ids]
    ends += [i for i in tokens.of_type(CONTROL) if tokens.texts[i] in TURN_ENDS]
    ends = [i for i in dict.fromkeys(ends) if i in ids.values() or tokens.texts[i] in template]
    out: dict[str, Any] = {"eos_token_id": ends} if ends else {}
    for ours, theirs in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        out |= {ours: ids[theirs]} if theirs in ids else {}
    return out


def _flag(file: File, name: str, default: bool) -> bool:
    value = file.values.get(PREFIX + name, default)
    if type(value) is not bool:
        raise UserError(f"{file.path}: {PREFIX}{name}={value!r}; expected true or false")
    return value


def _begins(file: File, kind: str) -> bool:
    """Whether BOS stands before every text."""
    if kind == "gpt2":
        return _flag(file, "add_bos_token", _pre(file).bos)
    return _flag(file, "add_bos_token", kind == "llama")


def _pre(file: File) -> Pre:
    name = file.values.get(PREFIX + "pre")
    if name not in PRE:
        raise UserError(
            f"{file.path}: {PREFIX}pre={name!r}: how its tokenizer cuts a text is not known here"
            + did_you_mean(str(name), PRE)
            + f"; those known are {', '.join(PRE)}"
        )
    return PRE[name]


def _around(before: list[int], behind: list[int], texts: list[str]) -> dict[str, Any] | None:
    """The post-processor that puts ids before a text and behind it."""
    if not before and not behind:
        return None
    head, tail = (
        [{"SpecialToken": {"id": texts[i], "type_id": 0}} for i in ids] for ids in (before, behind)
    )
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [*head, first, *tail],
        "pair": [*head, first, *tail, *head, second, *tail],
        "special_tokens": {
            texts[i]: {"id": texts[i], "ids": [i], "tokens": [texts[i]]} for i in {*before, *behind}
        },
    }


def _added(tokens: Tokens) -> list[dict[str, Any]]:
    """The tokens that are cut out of a text before anything else."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {
            "id": i,
            "content": tokens.texts[i],
            **flags,
            "special": tokens.types[i] in (CONTROL, UNKNOWN),
        }
        for i in tokens.of_type(CONTROL, USER_DEFINED, UNKNOWN)
    ]


def _check(file: File, tokenizer: str, tokens: Tokens) -> None:
    """UserError where the tokenizer is not one that `tokenizers` reads, gives a token another id,
    or makes a control token of a content."""
    import tokenizers

    try:
        made = tokenizers.Tokenizer.from_str(tokenizer)
    except Exception as e:  # tokenizers raises plain Exception
        raise UserError(f"{file.path}: its tokenizer cannot be built: {e}") from e
    for i, text in enumerate(tokens.texts):
        if made.token_to_id(text) != i:
            raise UserError(
                f"{file.path}: its token {text!r} of id {i} would get the id "
                f"{made.token_to_id(text)}"
            )
    made.encode_special_tokens = True
    for i in tokens.of_type(CONTROL):
        if i in made.encode(tokens.texts[i], add_special_tokens=False).ids:
            raise UserError(
                f"{file.path}: its control token {tokens.texts[i]!r} cannot be told from the same "
                "text in a content"
            )


# ---- the kinds -----------------------------------------------------------------------------------


def _bpe(vocab: dict[str, int], merges: list[str], **more: Any) -> dict[str, Any]:
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    model |= {"byte_fallback": False, "ignore_merges": False}
    return {**model, **more, "vocab": vocab, "merges": merges}


def _byte_level(file: File, tokens: Tokens, ids: dict[str, int]) -> dict[str, Any]:
    """BPE over bytes: GPT-2's and its kin."""
    pre = _pre(file)
    cut: list[dict[str, Any]] = []
    if pre.pattern:
        cut.append(_split(pre.pattern))
    if pre.digits:
        cut.append({"type": "Digits", "individual_digits": True})
    flags = {"add_prefix_space": False, "trim_offsets": False}
    cut.append({"type": "ByteLevel", **flags, "use_regex": not pre.pattern})
    merges = _list(file, "merges", str)
    if not merges:
        raise UserError(f"{file.path}: {PREFIX}merges is missing or empty")
    vocab = {text: i for i, text in enumerate(tokens.texts)}
    return {
        "normalizer": {"type": "NFC"} if pre.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
        "decoder": {"type": "ByteLevel", **flags, "use_regex": True},
        "model": _bpe(vocab, merges, ignore_merges=pre.whole),
    }


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _sentencepiece(file: File, tokens: Tokens, ids: dict[str, int]) -> dict[str, Any]:
    """SentencePiece's BPE: of two neighbours those merge first whose piece has the best score."""
    _expect(file, "remove_extra_whitespaces", False)
    prefix = _flag(file, "add_space_prefix", True)
    if not tokens.scores:
        raise UserError(f"{file.path}: {PREFIX}scores is missing: no merges follow")
    unknown = next(iter(tokens.of_type(UNKNOWN)), ids.get("unknown_token_id"))
    fallback = bool(tokens.of_type(BYTE))
    if unknown is None and not fallback:
        raise UserError(f"{file.path}: it has neither an unknown token nor tokens of bytes")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unk = None if unknown is None else tokens.texts[unknown]
    vocab = {text: i for i, text in enumerate(tokens.texts)}
    more = {"unk_token": unk, "fuse_unk": True, "byte_fallback": fallback}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(vocab, merges_of(tokens), **more),
    }


def merges_of(tokens: Tokens) -> list[str]:
    """The merges that make each piece of two others, best score first; of pieces with one score
    the first, and of one piece's those with the lowest ids."""
    pieces = {tokens.texts[i]: i for i in tokens.of_type(NORMAL)}
    found = []
    for text, i in pieces.items():
        for cut in range(1, len(text)):
            left, right = pieces.get(text[:cut]), pieces.get(text[cut:])
            if left is not None and right is not None:
                found.append((-tokens.scores[i], i, left, right))
    return [f"{tokens.texts[left]} {tokens.texts[right]}" for *_, left, right in sorted(found)]


def _unigram(file: File, tokens: Tokens, ids: dict[str, int]) -> dict[str, Any]:
    """SentencePiece's unigrams: of all cuts of a word the likeliest."""
    _expect(file, "add_space_prefix", True)
    if not tokens.scores:
        raise UserError(f"{file.path}: {PREFIX}scores is missing")
    unknown = next(iter(tokens.of_type(UNKNOWN)), ids.get("unknown_token_id"))
    if unknown is None:
        raise UserError(f"{file.path}: it has no unknown token")
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    cut: list[dict[str, Any]] = [space]
    if _flag(file, "remove_extra_whitespaces", True):
        cut.insert(0, {"type": "WhitespaceSplit"})
    if control := [tokens.texts[i] for i in tokens.of_type(CONTROL, UNKNOWN)]:
        # A control token is a piece here: in a content its first character is cut off, so that
        # no whole one is found
        cut.append(_split("|".join(map(_first_of, sorted(control)))))
    charsmap = bytes(b & 255 for b in _list(file, "precompiled_charsmap", int))
    normal = {"precompiled_charsmap": base64.b64encode(charsmap).decode()}
    scored = zip(tokens.texts, tokens.scores, strict=True)
    return {
        "normalizer": {"type": "Precompiled", **normal} if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
        "decoder": space,
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[text, score] for text, score in scored],
            "byte_fallback": bool(tokens.of_type(BYTE)),
        },
    }


def _first_of(text: str) -> str:
    """A pattern of the first character of a text where the rest stands behind it."""
    return f"{re.escape(text[0])}(?={re.escape(text[1:])})"


def _expect(file: File, name: str, right: bool) -> None:
    """UserError where a flag says another thing than the only one that is done here."""
    if _flag(file, name, right) != right:
        raise UserError(
            f"{file.path}: {PREFIX}{name}={not right}, which is not done here; expected {right}"
        )


KINDS = {"gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigram}
