# SPDX-License-Identifier: Apache-2.0
"""The cache: tokenised renderings, one folder per (task variant, split, rendering).

    <cache_dir>/<variant>/<split>/r<k>-<key>/
        tokens-<i>.npy      every token of every piece, end to end, in the smallest unsigned type; a
                            shard
                            ends at a record's end and holds at most 512 MB
        piece_lengths.npy   int32, tokens of each piece
        piece_trained.npy   bool, whether the loss is taken on the piece
        record_pieces.npy   int64 [n + 1], record i holds pieces record_pieces[i]:record_pieces[i +
                            1]
        content.npy         uint64 [n], hash of the canonical input content
        template.npy        int16 [n], index into manifest["templates"]
        exemplars.npy       uint64 [n, k], content hashes of few-shot examples, 0: none; only where
                            there are some
        examples.jsonl.gz   the texts: all records of an evaluation split, the first ones of a
                            training split
        texts.jsonl.gz      of the first rendering of a training split, for the leak test: of each
                            record the loose
                            forms (itx/leaks/loose.py) of its content fields, and of all else that
                            is read or trained
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

SHARD_BYTES = 512 * 10**6
TEXTS = "texts.jsonl.gz"
# What a manifest counts a record under whose input the split had before: with the same answer, and
# with another one
REPEATED, CONFLICT = "repeated input", "another answer to a repeated input"
Piece = tuple[np.ndarray, bool]


Texts = tuple[list[str], list[str]]  # loose forms: of content fields, of all else
Record = list[tuple[list[int], bool]]  # pieces: (token ids, trained?)


def token_type(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def prompt_ids(
    before: Sequence[tuple[Sequence[int], bool]], eos_id: int, architecture: str
) -> list[int]:
    """What the model reads before a record's last piece: the pieces before it, and for decoders EOS
    behind trained ones."""
    ends = architecture == "decoder"
    return [
        int(i) for ids, trained in before for i in (*ids, *((eos_id,) if trained and ends else ()))
    ]


def folder_name(variant: str) -> str:
    """A variant name as a folder name: `a:cot` -> `a_cot` (`#r` stands in r<k>)."""
    return variant.split("#")[0].replace(":", "_")


@dataclass(frozen=True)
class Columns:
    """Some records as arrays, named as the files are; `exemplars` [n, k] has as many columns as any
    of them has."""

    tokens: np.ndarray
    piece_lengths: np.ndarray
    piece_trained: np.ndarray
    pieces: np.ndarray  # int64 [n], of each record
    content: np.ndarray
    template: np.ndarray
    exemplars: np.ndarray

    @classmethod
    def of(cls, records: list[Record], content: list[int], template: list[int],
           vocab_size: int, exemplars: Sequence[tuple[int, ...]] = ()) -> "Columns":  # fmt: skip
        """From lists: exemplars are the content hashes of each record's few-shot examples."""
        pieces = [p for r in records for p in r]
        most = max(map(len, exemplars), default=0)
        shots = np.array([[*e, *[0] * (most - len(e))] for e in exemplars], np.uint64).reshape(
            len(records), most
        )
        ids = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in pieces), np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
            bad = int(ids.max() if ids.min() >= 0 else ids.min())
            raise UserError(
                f"the token {bad} is not in the vocabulary, which ends at {vocab_size - 1}"
            )
        return cls(
            ids.astype(token_type(vocab_size)),
            np.array([len(ids) for ids, _ in pieces], np.int32), np.array([trained for _, trained in pieces], bool),
            np.array([len(r) for r in records], np.int64), np.array(content, np.uint64), np.array(template, np.int16),
            shots,
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        most = max(p.exemplars.shape[1] for p in parts)
        shots = [np.pad(p.exemplars, ((0, 0), (0, most - p.exemplars.shape[1]))) for p in parts]
        names = [f.name for f in fields(cls)][:-1]
        return cls(
            *(np.concatenate([getattr(p, n) for p in parts]) for n in names), np.concatenate(shots)
        )

    def counts(self, unknown_id: int, eos_id: int, architecture: str) -> dict[str, int]:
        """What a manifest says of tokens; the last piece of a record is its target, EOS is counted
        with it. eos_within: EOS in what is trained beside the one that the layout puts behind
        it."""
        last = self.pieces.cumsum() - 1
        target = self.piece_lengths[last].astype(np.int64) + 1
        trained = self.piece_trained.copy()
        if architecture == "encoder_decoder":
            trained &= np.isin(np.arange(len(trained)), last)
        ends = self.piece_lengths.cumsum(dtype=np.int64)
        # the piece of each
        of = np.searchsorted(ends, np.flatnonzero(self.tokens == eos_id), "right")
        return {
            "target_tokens": int(target.sum()), "max_target_tokens": int(target.max(initial=0)),
            "input_tokens": len(self.tokens) - int(target.sum()) + len(target),
            "unknown_tokens": int((self.tokens == unknown_id).sum()), "eos_within": int(trained[of].sum()),
        }  # fmt: skip


def write(folder: Path, columns: Columns, manifest: dict, examples: list[dict],
          texts: Sequence[Texts] = (), shard_bytes: int = SHARD_BYTES) -> None:  # fmt: skip
    """Write one folder whole; a kill leaves none."""
    record_pieces = np.cumsum([0, *columns.pieces])
    with storage.whole_folder(folder) as part:
        for name in ("piece_lengths", "piece_trained", "content", "template"):
            np.save(part / f"{name}.npy", getattr(columns, name))
        np.save(part / "record_pieces.npy", record_pieces)
        if columns.exemplars.shape[1]:
            np.save(part / "exemplars.npy", columns.exemplars)
        ends = np.concatenate([[0], columns.piece_lengths.cumsum(dtype=np.int64)])[
            record_pieces
        ]  # of records, in tokens
        for i, (start, stop) in enumerate(
            _shards(ends, max(1, shard_bytes // columns.tokens.itemsize))
        ):
            np.save(part / f"tokens-{i:05d}.npy", columns.tokens[start:stop])
        storage.write_jsonl_gz(part / "examples.jsonl.gz", examples)
        storage.write_jsonl_gz(part / TEXTS, texts)
        files = {p.name: hashing.file_sha256(p) for p in sorted(part.iterdir())}
        storage.write_json(
            part / "manifest.json", {**manifest, "records": len(columns.content), "files": files}
        )


def _shards(ends: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Token ranges of at most `most` tokens that part no record, but for one that is longer by
    itself."""
    i = 0
    while True:
        j = max(i + 1, int(np.searchsorted(ends, ends[i] + most, "right")) - 1)
        yield int(ends[i]), int(ends[min(j, len(ends) - 1)])
        if j >= len(ends) - 1:
            return
        i = j


def manifest_hash(folder: Path) -> str:
    """The hash that a lock names: of the manifest, which holds the hash of every file."""
    return hashing.file_sha256(folder / "manifest.json")


def is_there(folder: Path) -> bool:
    """Whether a folder is whole: one whose manifest was lost is made anew."""
    return (folder / "manifest.json").is_file()


def read_manifest(folder: Path | str) -> Manifest:
    """What manifest.json holds; UserError where that is not as itx/data/types.py says."""
    file = Path(folder) / "manifest.json"
    try:
        manifest = storage.read_object(file, "files", "records")
    except OSError as e:
        raise UserError(
            f"cache folder {folder} is missing or broken; build it again (itx data build CONFIG)"
        ) from e
    types.check(manifest, Manifest, file)
    return manifest


def iterate_examples(folder: Path | str) -> Iterator[dict]:
    """The texts kept beside the records; of an evaluation folder each content's templates side by
    side."""
    return storage.iterate_jsonl_gz(Path(folder) / "examples.jsonl.gz")


def read_examples(folder: Path | str) -> list[dict]:
    return storage.read_jsonl_gz(Path(folder) / "examples.jsonl.gz")


def iterate_texts(folder: Path | str) -> Iterator[Texts]:
    """Of each record of a training folder."""
    return storage.iterate_jsonl_gz(Path(folder) / TEXTS)


@dataclass(frozen=True)
class Records:
    """Random access to one folder's records; arrays are memory-mapped."""

    folder: Path

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    @cached_property
    def shards(self) -> list[np.ndarray]:
        """The token shards; still mapped, but plain arrays, of which slices are cheaper."""
        return [
            self._array(p.stem).view(np.ndarray) for p in sorted(self.folder.glob("tokens-*.npy"))
        ]

    @cached_property
    def shard_starts(self) -> np.ndarray:
        """int64 [shards + 1], the number of each shard's first token; of all tokens at the end."""
        return np.cumsum([0, *map(len, self.shards)])

    @property
    def num_tokens(self) -> int:
        return int(self.shard_starts[-1])

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """The tokens start:stop, which are one record's."""
        i = int(np.searchsorted(self.shard_starts[1:], start, "right")) if stop > start else 0
        return self.shards[i][start - self.shard_starts[i] : stop - self.shard_starts[i]]

    def take(self, places: np.ndarray) -> np.ndarray:
        """The tokens at `places`, which rise."""
        cuts = np.searchsorted(places, self.shard_starts)
        return np.concatenate([
            shard[places[a:b] - first]
            for shard, first, a, b in zip(self.shards, self.shard_starts, cuts[:-1], cuts[1:], strict=False)
        ])  # fmt: skip

    @cached_property
    def piece_lengths(self) -> np.ndarray:
        return np.asarray(self._array("piece_lengths"))

    @cached_property
    def piece_trained(self) -> np.ndarray:
        return np.asarray(self._array("piece_trained"))

    @cached_property
    def record_pieces(self) -> np.ndarray:
        return np.asarray(self._array("record_pieces"))

    @cached_property
    def piece_starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.piece_lengths, dtype=np.int64)])

    @cached_property
    def content(self) -> np.ndarray:
        return np.asarray(self._array("content"))

    @cached_property
    def template(self) -> np.ndarray:
        return np.asarray(self._array("template"))

    @cached_property
    def exemplars(self) -> np.ndarray:
        """[n, k]; k = 0 for renderings without few-shot examples."""
        there = (self.folder / "exemplars.npy").is_file()
        return (
            np.asarray(self._array("exemplars")) if there else np.zeros((len(self), 0), np.uint64)
        )

    def __len__(self) -> int:
        return len(self.record_pieces) - 1

    def __getitem__(self, i: int) -> list[Piece]:
        out = []
        for p in range(self.record_pieces[i], self.record_pieces[i + 1]):
            start = self.piece_starts[p]
            out.append(
                (self.tokens(start, start + self.piece_lengths[p]), bool(self.piece_trained[p]))
            )
        return out

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [n, 5]: tokens in all, before the first trained piece, in trained pieces; trained
        pieces; tokens of the last of them.

        Neither BOS nor EOS is counted: they belong to the architecture, not to the record.
        """
        starts, ends = self.record_pieces[:-1], self.record_pieces[1:]
        if not len(self):
            return np.zeros((0, 5), np.int32)
        last_trained = self.piece_trained[ends - 1]
        if not last_trained.all():
            bad = int(np.flatnonzero(~last_trained)[0])
            raise UserError(f"{self.folder}: record {bad} does not end in a trained piece")
        total = self.piece_starts[ends] - self.piece_starts[starts]
        pieces = np.add.reduceat(self.piece_trained.astype(np.int64), starts)
        trained = np.add.reduceat(self.piece_lengths * self.piece_trained, starts)
        places = np.flatnonzero(self.piece_trained)
        first = (
            self.piece_starts[places[np.searchsorted(places, starts)]] - self.piece_starts[starts]
        )
        return np.stack([total, first, trained, pieces, self.piece_lengths[ends - 1]], 1).astype(
            np.int32
        )
