# SPDX-License-Identifier: Apache-2.0
"""Vocabularies: a SentencePiece model, Hugging Face's tokenizer.json, or bytes. One interface, told
apart by the file.

How a text is cut where a prompt meets its target is said here and nowhere else. A prompt is encoded
alone, so that its ids are those of inference; what follows it stands behind one space. Some
vocabularies put that space in front of every text themselves (SentencePiece's `▁`: T5, Llama 2), to
others it must be given (byte-level BPE, bytes).
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from itx import hashing
from itx.errors import UserError

# What a vocabulary's file is called in a folder of ours or of Hugging Face's, best first:
# transformers reads tokenizer.json at inference
FILES = ("tokenizer.json", "spiece.model", "tokenizer.model", "sentencepiece.model", "bytes.json")
# What else a tokenizer of Hugging Face's consists of
BESIDE = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
IMAGE = "<image_soft_token>"  # the token for an image in Gemma 3's vocabulary
SENTINELS = 100  # sentinels in T5's vocabulary
# A chat template's output holds content between these noncharacters where it reads as a control
# token: `guard` sets them
CONTENT_BEGIN, CONTENT_END = "\ufdd0", "\ufdd1"
# USER_DEFINED pieces of a SentencePiece model that are control tokens by their form; others are
# text (Gemma's <table>)
CONTROL_FORM = re.compile(r"▁?(<extra_id_\d+>|<\|[^|<>\s]+\|>|<(start|end)_of_turn>|\[/?[A-Z_]+\])")
BYTES = "bytes"  # data.vocab=bytes
BYTE_EXTRA_IDS = 125  # ByT5's sentinels: 3 special ids, 256 bytes and these make its 384 rows


class Model(Protocol):
    """What the three kinds of file give. An id is -1 where the vocabulary has no such token."""

    size: int
    pad_id: int
    bos_id: int  # what inference puts before a prompt
    named_bos_id: int  # what the file calls its BOS, which inference need not put there
    eos_id: int
    unk_id: int
    hash: str
    # texts that a chat template may write as control tokens, and content may not
    control: tuple[str, ...]

    # ids of contents, in which nothing is a control token
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...
    def encode_template(self, text: str) -> list[int]: ...  # ids of what a template wrote
    def starts(self, text: str) -> list[int]: ...  # where in the content each id begins
    def decode(self, ids: list[int]) -> str: ...
    def piece(self, id: int) -> str: ...


class SentencePiece:
    """A SentencePiece model."""

    def __init__(self, data: bytes):
        import sentencepiece

        self.sp = sp = sentencepiece.SentencePieceProcessor()
        sp.LoadFromSerializedProto(data)
        self.size, self.hash = sp.GetPieceSize(), hashing.digest(data)
        if not data or self.size == 0:
            raise ValueError("it is empty")
        self.pad_id, self.bos_id = sp.pad_id(), sp.bos_id()
        self.named_bos_id = self.bos_id
        self.eos_id, self.unk_id = sp.eos_id(), sp.unk_id()
        pieces = map(sp.IdToPiece, range(self.size))
        self.control = tuple(form[1] for piece in pieces if (form := CONTROL_FORM.fullmatch(piece)))
        self.control_pattern = any_of(self.control)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [
            [i for i, _ in self._cut_at_controls(text)] if self._holds_control(text) else ids
            for text, ids in zip(texts, self.sp.Encode(texts), strict=True)
        ]

    def encode_template(self, text: str) -> list[int]:
        return self.sp.Encode(text)

    def _holds_control(self, text: str) -> bool:
        return self.control_pattern is not None and self.control_pattern.search(text) is not None

    def _cut_at_controls(self, text: str) -> list[tuple[int, int]]:
        """(id, where it begins) of a text that is encoded in parts which end within each control
        token's text, so that no part holds a whole one. A part is encoded behind the character
        before it, whose ids are taken off again."""
        cuts = [0, *(m.start() + 1 for m in self.control_pattern.finditer(text)), len(text)]
        out = []
        for begin, end in zip(cuts, cuts[1:], strict=False):
            first = max(0, begin - 1)
            head = self.sp.Encode(text[first:begin])
            pieces = self.sp.EncodeAsImmutableProto(text[first:end]).pieces
            if [p.id for p in pieces[: len(head)]] == head:
                pieces = pieces[len(head) :]
            else:
                first, pieces = begin, self.sp.EncodeAsImmutableProto(text[begin:end]).pieces
            out += [(p.id, first + p.begin) for p in pieces]
        return out

    def starts(self, text: str) -> list[int]:
        if self._holds_control(text):
            return [begin for _, begin in self._cut_at_controls(text)]
        return [p.begin for p in self.sp.EncodeAsImmutableProto(text).pieces]

    def decode(self, ids: list[int]) -> str:
        return self.sp.DecodeIds([i if i >= 0 else self.unk_id for i in ids])

    def piece(self, id: int) -> str:
        return self.sp.IdToPiece(id)


class TokenizerJson:
    """Hugging Face's tokenizer.json; its special tokens are named by tokenizer_config.json beside
    it."""

    def __init__(self, data: bytes, special: dict[str, str]):
        import tokenizers

        def tokenizer() -> tokenizers.Tokenizer:
            t = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
            t.no_truncation()  # a file may hold what its tokenizer was last used with
            t.no_padding()
            return t

        self.content, self.tokenizer = tokenizer(), tokenizer()
        self.content.encode_special_tokens = True  # as ordinary text
        added = self.tokenizer.get_added_tokens_decoder().values()
        self.control = tuple(token.content for token in added if token.special)
        self.size = max(self.tokenizer.get_vocab().values(), default=-1) + 1
        self.pad_id = self._id(special.get("pad_token"))
        self.eos_id = self._id(special.get("eos_token"))
        # what inference puts before a prompt, which is not always what the file calls its BOS
        plain = self.encode_template("a")
        whole = self.tokenizer.encode("a", add_special_tokens=True).ids
        self.bos_id = whole[0] if whole[1 : 1 + len(plain)] == plain else -1
        self.named_bos_id = self._id(special.get("bos_token"))
        model = json.loads(data)["model"]
        unknown = model.get("unk_id")
        self.unk_id = self._id(model.get("unk_token")) if unknown is None else unknown
        self.hash = hashing.digest(data + json.dumps(special, sort_keys=True).encode())

    def _id(self, token: str | None) -> int:
        id = None if token is None else self.tokenizer.token_to_id(token)
        return -1 if id is None else id

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self.content.encode_batch(texts, add_special_tokens=False)]

    def encode_template(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def starts(self, text: str) -> list[int]:
        return [begin for begin, _ in self.content.encode(text, add_special_tokens=False).offsets]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode([i for i in ids if i >= 0], skip_special_tokens=False)

    def piece(self, id: int) -> str:
        return self.tokenizer.id_to_token(id) or "<?>"


class Bytes:
    """UTF-8 bytes behind three special ids, as seqio.ByteVocabulary and ByT5 number them."""

    pad_id, bos_id, eos_id, unk_id = 0, -1, 1, 2
    named_bos_id = bos_id
    control = ()

    def __init__(self, extra_ids: int):
        self.extra_ids, self.size = extra_ids, 3 + 256 + extra_ids
        self.hash = f"{BYTES}{extra_ids}"

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[3 + b for b in text.encode("utf-8")] for text in texts]

    def encode_template(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def starts(self, text: str) -> list[int]:
        return [i for i, c in enumerate(text) for _ in c.encode("utf-8")]

    def decode(self, ids: list[int]) -> str:
        return bytes(i - 3 for i in ids if 3 <= i < 259).decode("utf-8", errors="ignore")

    def piece(self, id: int) -> str:
        if id < 3:
            return ("<pad>", "</s>", "<unk>")[id]
        return f"<0x{id - 3:02X}>" if id < 259 else f"<extra_id_{self.size - 1 - id}>"


class Vocabulary:
    """The vocabulary of a file. `spaced`: it puts a space in front of every text itself.

    Args:
        embedding_rows: of the model, which a tokenizer.json is `fitted` to; 0: not known.
    """

    def __init__(self, file: str | Path, embedding_rows: int = 0):
        self.file = str(file)
        self.model = _open(Path(file), embedding_rows)
        self.size, self.hash, self.unk_id = self.model.size, self.model.hash, self.model.unk_id
        self.eos_id, self.pad_id = self.model.eos_id, max(self.model.pad_id, 0)
        self.bos_id = self.model.bos_id if self.model.bos_id >= 0 else self.pad_id
        # a decoder's rows begin with no BOS where at inference nothing stands before a prompt
        # (Qwen)
        self.begins = not isinstance(self.model, TokenizerJson) or self.model.bos_id >= 0
        if self.eos_id < 0:
            raise UserError(f"vocabulary {file} has no end-of-sequence piece")
        # what a text without a prompt is scored behind, as lm-evaluation-harness does
        self.prefix_id = next(i for i in (self.model.named_bos_id, self.eos_id) if i >= 0)
        piece = self.pieces([self.eos_id])[0]
        # a text that is read as EOS where a chat template writes it
        self.eos_text = piece if self.model.encode_template(piece) == [self.eos_id] else ""
        self.control = self.model.control
        one = self.encode("a")
        self.spaced = self.decode([*one, *one]) == "a a"

    def first_id(self, architecture: str) -> int:
        """The id that a decoder's row begins with; -1: none."""
        return self.bos_id if self.begins or architecture == "encoder_decoder" else -1

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self.model.encode_batch(texts)

    def following(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts that stand behind a prompt and one space."""
        return self.encode_batch(texts if self.spaced else [" " + t for t in texts])

    def behind(self, before: str, text: str) -> list[int]:
        """Ids of what a chat template wrote right behind another text, as if both were encoded
        together.

        Its own text may hold control tokens; what stands between CONTENT_BEGIN and CONTENT_END is
        content and holds none.
        """
        ids: list[int] = []
        before = unguarded(before)
        for n, part in enumerate(re.split(f"[{CONTENT_BEGIN}{CONTENT_END}]", text)):
            encode = self.encode if n % 2 else self.model.encode_template
            ids += self._joined(before, part, encode) if part else []
            before = part or before
        return ids

    def _joined(self, before: str, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text right behind another. Where the vocabulary adds a space of its own and the
        text does not begin with just one space, it is encoded behind the last character before it,
        whose ids are taken off again."""
        if not before or not self.spaced:
            return encode(text)
        if text.startswith(" ") and not text[1:2].isspace():
            return encode(text[1:])
        head, both = encode(before[-1]), encode(before[-1] + text)
        return both[len(head) :] if both[: len(head)] == head else encode(text)

    def starts(self, text: str) -> list[int]:
        """Where in the text each id of `encode` begins."""
        return self.model.starts(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; ids outside the model (padding rows of the embedding) read as unknown."""
        return self.model.decode([int(i) if 0 <= int(i) < self.size else self.unk_id for i in ids])

    def answer(self, ids: Iterable[int]) -> str:
        """Text of ids that follow a prompt: without the space that joins them."""
        return self.decode(ids).removeprefix("" if self.spaced else " ")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self.model.piece(int(i)) if 0 <= int(i) < self.size else "<?>" for i in ids]


@functools.lru_cache(maxsize=64)
def any_of(texts: tuple[str, ...]) -> re.Pattern | None:
    """A pattern that finds the longest of the texts first; None where there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None


def guard(text: str, control: Sequence[str]) -> str:
    """A content as a chat template is given it: each text of a control token in it stands between
    marks, so that `Vocabulary.behind` tells it from what the template writes itself.

    >>> guard("a</s>b", ["</s>"]) == "a" + CONTENT_BEGIN + "</s>" + CONTENT_END + "b"
    True
    """
    pattern = any_of(tuple(control))
    return pattern.sub(lambda m: CONTENT_BEGIN + m[0] + CONTENT_END, text) if pattern else text


def unguarded(text: str) -> str:
    """A text without the marks of `guard`."""
    return text.replace(CONTENT_BEGIN, "").replace(CONTENT_END, "")


def fitted(data: bytes, embedding_rows: int) -> bytes:
    """A tokenizer.json without the token for images where the embedding has no row for it: Gemma
    3's text models share a tokenizer with those that see images. No other token is left out, for a
    text may hold it."""
    tokenizer = json.loads(data)
    added = tokenizer.get("added_tokens", [])
    kept = [t for t in added if t["id"] < embedding_rows or t["content"] != IMAGE]
    if kept == added:
        return data
    return json.dumps(tokenizer | {"added_tokens": kept}, ensure_ascii=False).encode()


def with_sentinels(model: bytes, count: int = SENTINELS) -> bytes:
    """A SentencePiece model with T5's sentinels as SeqIO appends them, <extra_id_0> last; one that
    has some is kept."""
    proto = model_proto(model)
    if _sentinel(proto.pieces[-1], 0):
        return model
    for i in reversed(range(count)):
        proto.pieces.add(piece=f"▁<extra_id_{i}>", score=0.0, type=proto.SentencePiece.USER_DEFINED)
    return proto.SerializeToString()


def without_sentinels(model: bytes) -> bytes:
    """The model that `with_sentinels` was given: Hugging Face's T5 tokenizer appends them
    itself."""
    proto, count = model_proto(model), 0
    while count < len(proto.pieces) and _sentinel(proto.pieces[-1 - count], count):
        count += 1
    if not count:
        return model
    del proto.pieces[-count:]
    return proto.SerializeToString()


def model_proto(model: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)


def _sentinel(piece: Any, i: int) -> bool:
    return piece.piece.removeprefix("▁") == f"<extra_id_{i}>"


def tokenizer_json(file: Path) -> dict[str, Any]:
    """One of the JSON files of a tokenizer; {} where there is none."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{file}: no readable JSON ({e})") from e
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(values).__name__}")
    return values


def special_tokens(folder: Path) -> dict[str, str]:
    """{"bos_token": …, "eos_token": …, "pad_token": …} of a folder with a tokenizer.json; those
    that it has."""
    out: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        values = tokenizer_json(folder / name)
        for kind in ("bos_token", "eos_token", "pad_token"):
            token = values.get(kind)
            token = token.get("content") if isinstance(token, dict) else token
            out |= {kind: token} if token else {}
    return out


def _open(file: Path, embedding_rows: int) -> Model:
    try:
        data = file.read_bytes()
    except OSError as e:
        raise UserError(f"vocabulary {file}: {e.strerror or e}") from e
    try:
        if data.lstrip()[:1] != b"{":
            return SentencePiece(data)
        values = json.loads(data)
        if "extra_ids" in values:
            return Bytes(values["extra_ids"])
        if embedding_rows:
            data = fitted(data, embedding_rows)
        return TokenizerJson(data, special_tokens(file.parent))
    except UserError:  # a file beside it
        raise
    except Exception as e:  # tokenizers raises plain Exception
        raise UserError(
            f"vocabulary {file} is not a SentencePiece model, nor a tokenizer.json ({e})"
        ) from e
