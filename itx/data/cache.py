# SPDX-License-Identifier: Apache-2.0
"""The cache: tokenised renderings, one folder per (task variant, split, rendering).

    <cache_dir>/<variant>/<split>/r<k>-<key>/
        tokens-<i>.npy      every token of every piece, end to end, in the smallest unsigned type;
                            a shard ends at a record's end and holds at most 512 MB
        piece_lengths.npy   int32, tokens of each piece
        piece_trained.npy   bool, whether the loss is taken on the piece
        record_pieces.npy   int64 [n + 1], record i holds pieces
                            record_pieces[i]:record_pieces[i + 1]
        content.npy         uint64 [n], hash of the canonical input content
        template.npy        int16 [n], index into manifest["templates"]
        exemplars.npy       uint64 [n, k], content hashes of few-shot examples, 0: none; the file
                            is absent where no record has any
        examples.jsonl.gz   the texts: all records of an evaluation split, the first ones of a
                            training split
        texts.jsonl.gz      for the leak test, in the first rendering of a training split: the loose
                            forms (itx/leaks/loose.py) of each record's content fields, and of all
                            else that is read or trained
        manifest.json       what this is, what was read and skipped, and the hash of each file

A Record is a list of pieces (token ids, trained?). A key is the hash of all that shapes the
folder's content, so a folder that exists is complete; verify.py says whether it still is what was
written.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from itx import hashing, storage
from itx.data import types
from itx.data.types import Manifest
from itx.errors import UserError

MAX_SHARD_BYTES = 512 * 10**6
MANIFEST, EXAMPLES, TEXTS = "manifest.json", "examples.jsonl.gz", "texts.jsonl.gz"
# A manifest's reasons for skipping a record whose input the split had before: with the same answer,
# and with another one
REPEATED, CONFLICT = "repeated input", "another answer to a repeated input"

Record = list[tuple[list[int], bool]]  # pieces: (token ids, trained?)
Texts = tuple[list[str], list[str]]  # loose forms: of content fields, of all else


def token_type(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def prompt_ids(
    before: Sequence[tuple[Sequence[int], bool]], eos_id: int, architecture: str
) -> list[int]:
    """What the model reads before a record's last piece: the pieces before it; in decoders EOS ends
    each trained one."""
    out: list[int] = []
    for ids, trained in before:
        out += map(int, ids)
        out += [eos_id] * (trained and architecture == "decoder")
    return out


def folder_name(variant: str) -> str:
    """A variant name as a folder name: `a:cot` -> `a_cot` (`#r` stands in r<k>)."""
    return variant.split("#")[0].replace(":", "_")


@dataclass(frozen=True)
class Columns:
    """Some records as arrays, named as the files are; k of `exemplars` [n, k] is the most that any
    record has."""

    tokens: np.ndarray
    piece_lengths: np.ndarray
    piece_trained: np.ndarray
    pieces: np.ndarray  # int64 [n], of each record
    content: np.ndarray
    template: np.ndarray
    exemplars: np.ndarray

    @classmethod
    def of(
        cls,
        records: list[Record],
        content: list[int],
        template: list[int],
        vocab_size: int,
        exemplars: Sequence[tuple[int, ...]] = (),
    ) -> "Columns":
        """From lists; exemplars: the content hashes of each record's few-shot examples."""
        pieces = [p for r in records for p in r]
        most = max(map(len, exemplars), default=0)
        shots = np.zeros((len(records), most), np.uint64)
        for row, hashes in zip(shots, exemplars, strict=False):
            row[: len(hashes)] = hashes
        ids = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in pieces), np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
            bad = int(ids.max() if ids.min() >= 0 else ids.min())
            raise UserError(
                f"the token {bad} is not in the vocabulary, which ends at {vocab_size - 1}"
            )
        return cls(
            tokens=ids.astype(token_type(vocab_size)),
            piece_lengths=np.array([len(ids) for ids, _ in pieces], np.int32),
            piece_trained=np.array([trained for _, trained in pieces], bool),
            pieces=np.array(list(map(len, records)), np.int64),
            content=np.array(content, np.uint64),
            template=np.array(template, np.int16),
            exemplars=shots,
        )

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """The records of several, in turn."""
        most = max(p.exemplars.shape[1] for p in parts)
        columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(cls)}
        shots = columns["exemplars"]
        columns["exemplars"] = [np.pad(x, ((0, 0), (0, most - x.shape[1]))) for x in shots]
        return cls(**{name: np.concatenate(x) for name, x in columns.items()})

    def counts(self, unknown_id: int, eos_id: int, architecture: str) -> dict[str, int]:
        """What a manifest says of tokens. The last piece of a record is its target, and the EOS
        behind it is counted with it; eos_within is EOS in trained pieces beside that one."""
        last = self.pieces.cumsum() - 1
        target = self.piece_lengths[last].astype(np.int64) + 1
        trained = self.piece_trained.copy()
        if architecture == "encoder_decoder":
            trained &= np.isin(np.arange(len(trained)), last)
        ends = self.piece_lengths.cumsum(dtype=np.int64)
        piece_of_eos = np.searchsorted(ends, np.flatnonzero(self.tokens == eos_id), "right")
        return {
            "target_tokens": int(target.sum()),
            "max_target_tokens": int(target.max(initial=0)),
            "input_tokens": len(self.tokens) - int(target.sum()) + len(target),
            "unknown_tokens": int((self.tokens == unknown_id).sum()),
            "eos_within": int(trained[piece_of_eos].sum()),
        }


def write(
    folder: Path,
    columns: Columns,
    manifest: dict,
    examples: list[dict],
    texts: Sequence[Texts] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write one folder whole; a kill leaves none."""
    record_pieces = np.cumsum([0, *columns.pieces])
    with storage.whole_folder(folder) as part:
        for name in ("piece_lengths", "piece_trained", "content", "template"):
            np.save(part / f"{name}.npy", getattr(columns, name))
        np.save(part / "record_pieces.npy", record_pieces)
        if columns.exemplars.shape[1]:
            np.save(part / "exemplars.npy", columns.exemplars)
        piece_ends = np.concatenate([[0], columns.piece_lengths.cumsum(dtype=np.int64)])
        shards = _shards(piece_ends[record_pieces], max_shard_bytes // columns.tokens.itemsize)
        for i, (start, stop) in enumerate(shards):
            np.save(part / f"tokens-{i:05d}.npy", columns.tokens[start:stop])
        storage.write_jsonl_gz(part / EXAMPLES, examples)
        storage.write_jsonl_gz(part / TEXTS, texts)
        files = {p.name: hashing.file_sha256(p) for p in sorted(part.iterdir())}
        held = {**manifest, "records": len(columns.content), "files": files}
        storage.write_json(part / MANIFEST, held)


def _shards(record_ends: np.ndarray, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Token ranges of at most `max_tokens` tokens that part no record; one that is longer by itself
    has a range of its own."""
    i, last = 0, len(record_ends) - 1
    while True:
        within = np.searchsorted(record_ends, record_ends[i] + max(1, max_tokens), "right")
        j = min(max(i + 1, int(within) - 1), last)
        yield int(record_ends[i]), int(record_ends[j])
        if j == last:
            return
        i = j


def manifest_hash(folder: Path) -> str:
    """The hash that a lock names: of the manifest, which holds the hash of every file."""
    return hashing.file_sha256(folder / MANIFEST)


def is_there(folder: Path) -> bool:
    """Whether a folder is whole: one whose manifest was lost is made anew."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path | str) -> Manifest:
    """What manifest.json holds; UserError where that is not as itx/data/types.py says."""
    file = Path(folder) / MANIFEST
    try:
        manifest = storage.read_object(file, "files", "records")
    except OSError as e:
        raise UserError(
            f"cache folder {folder} is missing or broken; build it again (itx data build CONFIG)"
        ) from e
    types.check(manifest, Manifest, file)
    return manifest


def iterate_examples(folder: Path | str) -> Iterator[dict]:
    """The texts that are kept beside the records; in an evaluation folder the templates of one
    content follow each other."""
    return storage.iterate_jsonl_gz(Path(folder) / EXAMPLES)


def iterate_texts(folder: Path | str) -> Iterator[Texts]:
    """The texts of each record of a training folder."""
    return storage.iterate_jsonl_gz(Path(folder) / TEXTS)


def _column(name: str) -> cached_property:
    """An array of a `Records`, read when it is first asked for."""
    return cached_property(lambda records: np.asarray(records.mapped(name)))


@dataclass(frozen=True)
class Records:
    """Random access to one folder's records; arrays are memory-mapped."""

    folder: Path

    piece_lengths = _column("piece_lengths")
    piece_trained = _column("piece_trained")
    record_pieces = _column("record_pieces")
    content = _column("content")
    template = _column("template")

    def mapped(self, name: str) -> np.ndarray:
        """An array of the folder, memory-mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    @cached_property
    def shards(self) -> list[np.ndarray]:
        """The token shards: still mapped, but viewed as plain arrays, whose slices are cheaper."""
        files = sorted(self.folder.glob("tokens-*.npy"))
        return [self.mapped(f.stem).view(np.ndarray) for f in files]

    @cached_property
    def shard_starts(self) -> np.ndarray:
        """int64 [shards + 1], the number of each shard's first token, and of all tokens."""
        return np.cumsum([0, *map(len, self.shards)])

    @property
    def num_tokens(self) -> int:
        return int(self.shard_starts[-1])

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """The tokens start:stop, which are one record's."""
        i = int(np.searchsorted(self.shard_starts[1:], start, "right")) if stop > start else 0
        first = self.shard_starts[i]
        return self.shards[i][start - first : stop - first]

    def take(self, places: np.ndarray) -> np.ndarray:
        """The tokens at `places`, which rise."""
        parts = np.split(places, np.searchsorted(places, self.shard_starts[1:-1]))
        shards = zip(self.shards, parts, self.shard_starts, strict=False)
        return np.concatenate([shard[part - first] for shard, part, first in shards])

    @cached_property
    def piece_starts(self) -> np.ndarray:
        """int64 [pieces + 1], the number of each piece's first token, and of all tokens."""
        return np.concatenate([[0], np.cumsum(self.piece_lengths, dtype=np.int64)])

    @cached_property
    def exemplars(self) -> np.ndarray:
        """uint64 [n, k]; k = 0 for renderings without few-shot examples."""
        if (self.folder / "exemplars.npy").is_file():
            return np.asarray(self.mapped("exemplars"))
        return np.zeros((len(self), 0), np.uint64)

    def __len__(self) -> int:
        return len(self.record_pieces) - 1

    def __getitem__(self, i: int) -> list[tuple[np.ndarray, bool]]:
        """The pieces of record i: (token ids, trained?)."""
        starts = self.piece_starts
        pieces = range(self.record_pieces[i], self.record_pieces[i + 1])
        return [
            (self.tokens(starts[p], starts[p + 1]), bool(self.piece_trained[p])) for p in pieces
        ]

    def prompt_and_target(
        self, i: int, eos_id: int, architecture: str
    ) -> tuple[list[int], list[int]]:
        """(what the model reads before record i's last piece, the ids of that piece)."""
        *before, (target, _) = self[i]
        return prompt_ids(before, eos_id, architecture), target.tolist()

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [n, 5], of each record: tokens in all, tokens before the first trained piece,
        tokens in trained pieces, the number of trained pieces, tokens of the last piece.

        Neither BOS nor EOS is counted: they belong to the architecture, not to the record.
        """
        starts, ends = self.record_pieces[:-1], self.record_pieces[1:]
        if not len(self):
            return np.zeros((0, 5), np.int32)
        untrained = np.flatnonzero(~self.piece_trained[ends - 1])
        if len(untrained):
            raise UserError(f"{self.folder}: record {untrained[0]} does not end in a trained piece")
        first_token = self.piece_starts[starts]
        total = self.piece_starts[ends] - first_token
        pieces = np.add.reduceat(self.piece_trained.astype(np.int64), starts)
        trained = np.add.reduceat(self.piece_lengths * self.piece_trained, starts)
        places = np.flatnonzero(self.piece_trained)
        prompt = self.piece_starts[places[np.searchsorted(places, starts)]] - first_token
        last = self.piece_lengths[ends - 1]
        return np.stack([total, prompt, trained, pieces, last], 1).astype(np.int32)
