# SPDX-License-Identifier: Apache-2.0
"""Vocabularies: a SentencePiece model, Hugging Face's tokenizer.json, or bytes. One interface, told apart by the file.

How a text is cut where a prompt meets its target is said here and nowhere else. A prompt is encoded alone, so that
its ids are those of inference; what follows it stands behind one space. Some vocabularies put that space in front of
every text themselves (SentencePiece's `▁`: T5, Llama 2), to others it must be given (byte-level BPE, bytes).
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

from itx.errors import UserError

# What a vocabulary's file is called in a folder of ours or of Hugging Face's, best first: transformers reads
# tokenizer.json at inference
FILES = ("tokenizer.json", "spiece.model", "tokenizer.model", "sentencepiece.model", "bytes.json")
# What else a tokenizer of Hugging Face's consists of
BESIDE = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
IMAGE = "<image_soft_token>"  # what stands for one in Gemma 3's vocabulary
SENTINELS = 100  # T5's
BYTES = "bytes"  # data.vocab=bytes
BYTE_EXTRA_IDS = 125  # ByT5's sentinels: 3 special ids, 256 bytes and these make its 384 rows


class Model(Protocol):
    """What the three kinds of file give. An id that there is none of is -1."""

    size: int
    pad_id: int
    bos_id: int
    eos_id: int
    unk_id: int
    hash: str

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...
    def starts(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...
    def piece(self, id: int) -> str: ...


class SentencePiece:
    """A SentencePiece model."""

    def __init__(self, data: bytes):
        import sentencepiece

        self.sp = sp = sentencepiece.SentencePieceProcessor()
        sp.LoadFromSerializedProto(data)
        self.size, self.hash = sp.GetPieceSize(), hashlib.sha256(data).hexdigest()[:16]
        if not data or self.size == 0:
            raise ValueError("it is empty")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = sp.pad_id(), sp.bos_id(), sp.eos_id(), sp.unk_id()

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self.sp.Encode(texts)

    def starts(self, text: str) -> list[int]:
        return [p.begin for p in self.sp.EncodeAsImmutableProto(text).pieces]

    def decode(self, ids: list[int]) -> str:
        return self.sp.DecodeIds([i if i >= 0 else self.unk_id for i in ids])

    def piece(self, id: int) -> str:
        return self.sp.IdToPiece(id)


class TokenizerJson:
    """Hugging Face's tokenizer.json; its special tokens are named by tokenizer_config.json beside it."""

    def __init__(self, data: bytes, special: dict[str, str]):
        import tokenizers

        self.tokenizer = t = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        t.no_truncation()  # a file may hold what its tokenizer was last used with
        t.no_padding()
        self.size = max(t.get_vocab().values(), default=-1) + 1
        self.pad_id, self.eos_id = (self._id(special.get(f"{kind}_token")) for kind in ("pad", "eos"))
        # what inference puts before a prompt, which is not always what the file calls its BOS
        plain, whole = (t.encode("a", add_special_tokens=on).ids for on in (False, True))
        self.bos_id = whole[0] if whole[1 : 1 + len(plain)] == plain else -1
        model = json.loads(data)["model"]
        unknown = model.get("unk_token") if model.get("unk_id") is None else None
        self.unk_id = self._id(unknown) if model.get("unk_id") is None else model["unk_id"]
        self.hash = hashlib.sha256(data + json.dumps(special, sort_keys=True).encode()).hexdigest()[:16]

    def _id(self, token: str | None) -> int:
        found = None if token is None else self.tokenizer.token_to_id(token)
        return -1 if found is None else found

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def starts(self, text: str) -> list[int]:
        return [begin for begin, _ in self.tokenizer.encode(text, add_special_tokens=False).offsets]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode([i for i in ids if i >= 0], skip_special_tokens=False)

    def piece(self, id: int) -> str:
        return self.tokenizer.id_to_token(id) or "<?>"


class Bytes:
    """UTF-8 bytes behind three special ids, as seqio.ByteVocabulary and ByT5 number them."""

    pad_id, bos_id, eos_id, unk_id = 0, -1, 1, 2

    def __init__(self, extra_ids: int):
        self.size = 3 + 256 + extra_ids
        self.hash = f"{BYTES}{extra_ids}"

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[3 + b for b in text.encode("utf-8")] for text in texts]

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

    rows: of an embedding that it is to be `fitted` to.
    """

    def __init__(self, file: str | Path, rows: int = 0):
        self.file = str(file)
        self.model = _open(Path(file), rows)
        self.size, self.hash, self.unk_id = self.model.size, self.model.hash, self.model.unk_id
        self.eos_id, self.pad_id = self.model.eos_id, max(self.model.pad_id, 0)
        self.bos_id = self.model.bos_id if self.model.bos_id >= 0 else self.pad_id
        # a decoder's rows begin with no BOS where at inference nothing stands before a prompt (Qwen)
        self.begins = not isinstance(self.model, TokenizerJson) or self.model.bos_id >= 0
        if self.eos_id < 0:
            raise UserError(f"vocabulary {file} has no end-of-sequence piece")
        piece = self.pieces([self.eos_id])[0]
        self.eos_text = piece if self.encode(piece) == [self.eos_id] else ""  # a text that is read as EOS
        one = self.encode("a")
        self.spaced = self.decode([*one, *one]) == "a a"

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self.model.encode_batch(texts)

    def following(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts that stand behind a prompt and one space."""
        return self.encode_batch(texts if self.spaced else [" " + t for t in texts])

    def behind(self, before: str, text: str) -> list[int]:
        """Ids of a text that stands right behind another, as if both were encoded together.

        Where the vocabulary adds a space of its own, and the text does not begin with just that, it is encoded
        behind the last character before it, whose ids are taken off again.
        """
        if not before or not self.spaced:
            return self.encode(text)
        if text.startswith(" ") and not text[1:2].isspace():
            return self.encode(text[1:])
        head, both = self.encode(before[-1]), self.encode(before[-1] + text)
        return both[len(head) :] if both[: len(head)] == head else self.encode(text)

    def starts(self, text: str) -> list[int]:
        """Where in the text each id of `encode` begins."""
        return self.model.starts(text)

    def decode(self, ids: Any) -> str:
        """Text of ids; ids outside the model (padding rows of the embedding) read as unknown."""
        return self.model.decode([int(i) if 0 <= int(i) < self.size else self.unk_id for i in ids])

    def answer(self, ids: Any) -> str:
        """Text of ids that follow a prompt: without the space that joins them."""
        return self.decode(ids).removeprefix("" if self.spaced else " ")

    def pieces(self, ids: Any) -> list[str]:
        return [self.model.piece(int(i)) if 0 <= int(i) < self.size else "<?>" for i in ids]


def fitted(data: bytes, rows: int) -> bytes:
    """A tokenizer.json without the token for images where an embedding of so many rows has none for it: Gemma 3's text
    models share a tokenizer with those that see images. No other token is left out: a text may hold it."""
    held = json.loads(data)
    added = held.get("added_tokens", [])
    held["added_tokens"] = [t for t in added if t["id"] < rows or t["content"] != IMAGE]
    return data if held["added_tokens"] == added else json.dumps(held, ensure_ascii=False).encode()


def with_sentinels(model: bytes, count: int = SENTINELS) -> bytes:
    """A SentencePiece model with T5's sentinels as SeqIO appends them, <extra_id_0> last; one that has some is kept."""
    proto = _proto(model)
    if _sentinel(proto.pieces[-1], 0):
        return model
    for i in reversed(range(count)):
        proto.pieces.add(piece=f"▁<extra_id_{i}>", score=0.0, type=proto.SentencePiece.USER_DEFINED)
    return proto.SerializeToString()


def without_sentinels(model: bytes) -> bytes:
    """The model that `with_sentinels` was given: Hugging Face's T5 tokenizer appends them itself."""
    proto, count = _proto(model), 0
    while count < len(proto.pieces) and _sentinel(proto.pieces[-1 - count], count):
        count += 1
    if not count:
        return model
    del proto.pieces[-count:]
    return proto.SerializeToString()


def _proto(model: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)


def _sentinel(piece: Any, i: int) -> bool:
    return piece.piece.removeprefix("▁") == f"<extra_id_{i}>"


def tokenizer_json(file: Path) -> dict[str, Any]:
    """One of the JSON files of a tokenizer; {} where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{file}: no readable JSON ({e})") from e
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(found).__name__}")
    return found


def special_tokens(folder: Path) -> dict[str, str]:
    """{"bos_token": …, "eos_token": …, "pad_token": …} of a folder with a tokenizer.json; those that it has."""
    out: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        found = tokenizer_json(folder / name)
        for kind in ("bos_token", "eos_token", "pad_token"):
            token = found.get(kind)
            token = token.get("content") if isinstance(token, dict) else token
            out |= {kind: token} if token else {}
    return out


def _open(file: Path, rows: int) -> Model:
    try:
        data = file.read_bytes()
    except OSError as e:
        raise UserError(f"vocabulary {file}: {e.strerror or e}") from e
    try:
        if data.lstrip()[:1] != b"{":
            return SentencePiece(data)
        held = json.loads(data)
        if "extra_ids" in held:
            return Bytes(held["extra_ids"])
        return TokenizerJson(fitted(data, rows) if rows else data, special_tokens(file.parent))
    except UserError:  # a file beside it
        raise
    except Exception as e:  # tokenizers raises plain Exception
        raise UserError(f"vocabulary {file} is not a SentencePiece model, nor a tokenizer.json ({e})") from e
