# SPDX-License-Identifier: Apache-2.0
"""Batches by step number, through Grain; the loader's whole state is that number.

A decoder-only row of two segments (prompt p, target t, EOS e), L = 8, loss positions T = 4:

    decoder_target_tokens   p p t e p t e 0      next tokens
    decoder_input_tokens    B p p t B p t 0      shifted inside each segment, first BOS (0 for T5)
    decoder_loss_weights    0 0 1 1 0 1 1 0      from pieces, never from token ids
    decoder_segment_ids     1 1 1 1 2 2 2 0
    decoder_positions       0 1 2 3 0 1 2 0
    decoder_causal_attention 1 1 1 0 1 1 0 0     only with model.prefix_lm: the inputs B p p
    loss_positions          2 3 5 6              where the weight is above 0; padding -1

Without BOS (the lock's bos_id is -1, as a model's tokenizer puts none before a prompt) the place of
a segment's first token belongs to segment 0, and positions count from the next: the inputs are p p
t, the first of them at position 0.

Encoder-decoder: encoder_* hold prompt + EOS [b, L], decoder_* hold target + EOS [b, T].
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from itx.data.cache import Records
from itx.data.lock import LockedData
from itx.data.order import Order
from itx.errors import UserError


class Batch(TypedDict):
    """int32 [b, l] except decoder_loss_weights float32; b rows, l = sequence or target length;
    loss_positions [b, t], t the least of the lock's `loss_positions` that holds those of every row
    of the step."""

    decoder_input_tokens: np.ndarray
    decoder_target_tokens: np.ndarray
    decoder_loss_weights: np.ndarray
    decoder_segment_ids: np.ndarray
    decoder_positions: np.ndarray
    task_ids: np.ndarray
    loss_positions: np.ndarray
    decoder_causal_attention: NotRequired[np.ndarray]
    encoder_input_tokens: NotRequired[np.ndarray]
    encoder_segment_ids: NotRequired[np.ndarray]
    encoder_positions: NotRequired[np.ndarray]


def targets(records: Records, architecture: str) -> np.ndarray:
    """Tokens [n] under the loss of each record, EOS included."""
    _, _, trained, pieces, last = records.lengths.T
    return last + 1 if architecture == "encoder_decoder" else trained + pieces


class Places:
    """Segments of `lengths` [n], count[b] of them in row b, in rows of `width` that end in
    padding."""

    def __init__(self, lengths: np.ndarray, count: np.ndarray, width: int):
        self.last = count.cumsum()
        used = np.add.reduceat(lengths, self.last - count)
        self.filled = np.arange(width) < used[:, None]  # bool [b, width]
        # [n + b], the padding a segment of its own
        self.lengths = np.insert(lengths, self.last, width - used)
        self.first = self.lengths.cumsum() - self.lengths
        number = np.arange(1, len(lengths) + 1) - np.repeat(self.last - count, count)
        self.segment_ids = self.spread(number)
        self.positions = np.arange(self.filled.size, dtype=np.int32).reshape(self.filled.shape)
        self.positions -= np.repeat(self.first.astype(np.int32), self.lengths).reshape(
            self.filled.shape
        )
        self.positions *= self.filled

    def spread(self, values: np.ndarray, padding: int = 0) -> np.ndarray:
        """int32 [b, width]: each segment's value at its tokens."""
        return np.repeat(
            np.insert(values, self.last, padding).astype(np.int32), self.lengths
        ).reshape(self.filled.shape)

    def put(self, values: np.ndarray, dtype: type = np.int32) -> np.ndarray:
        """[b, width]: the tokens' own values."""
        out = np.zeros(self.filled.shape, dtype)
        out[self.filled] = values
        return out

    def shifted(self, tokens: np.ndarray, bos_id: int) -> np.ndarray:
        """int32 [b, width]: the token before, BOS before each segment's first."""
        out = np.empty_like(tokens)
        out.reshape(-1)[1:] = tokens.reshape(-1)[:-1]
        first = np.insert(np.full(len(self.first) - len(self.last), bos_id), self.last, 0)
        there = self.lengths > 0
        out.reshape(-1)[self.first[there]] = first[there]
        return out


def _insert(ids: np.ndarray, ends: np.ndarray, eos: int) -> np.ndarray:
    """`ids` with an EOS before each of the places `ends`, which rise."""
    out = np.full(len(ids) + len(ends), eos, ids.dtype)
    rest = np.ones(len(out), bool)
    rest[ends + np.arange(len(ends))] = False
    out[rest] = ids
    return out


class Index:
    """Where the tokens of every record of the lock are: all folders end to end, as if they were
    one.

    folder f = first_folder[task] + rendering; record number = first_record[f] + record.
    pieces [records + 1]: record i holds pieces pieces[i]:pieces[i + 1]; starts [pieces + 1]: their
    first tokens; trained [pieces]; heads [records]: the piece at which the prompt has ended, which
    for encoder-decoders (`both`) is the last one and else the first trained one. Tokens stay in
    their mapped shards: `tokens` copies out what a batch needs.
    """

    def __init__(self, records: list[list[Records]], both: bool):
        self.both = both
        flat = [r for of_task in records for r in of_task]
        ends = [np.cumsum([0, *counts]) for counts in zip(*((len(r), len(r.piece_lengths), r.num_tokens) for r in flat),
                                                          strict=True)]  # fmt: skip
        self.first_folder = np.cumsum([0, *(len(of_task) for of_task in records)])
        self.first_record, first_piece, first_token = ends
        self.pieces = np.concatenate([*(r.record_pieces[:-1] + p for r, p in zip(flat, first_piece, strict=False)),
                                      first_piece[-1:]])  # fmt: skip
        self.starts = np.concatenate([*(r.piece_starts[:-1] + t for r, t in zip(flat, first_token, strict=False)),
                                      first_token[-1:]])  # fmt: skip
        self.trained = np.concatenate([r.piece_trained for r in flat])
        places = np.flatnonzero(self.trained)
        self.heads = (
            self.pieces[1:] - 1 if both else places[np.searchsorted(places, self.pieces[:-1])]
        )
        self.shards = [shard for r in flat for shard in r.shards]
        self.first_token = np.cumsum([0, *map(len, self.shards)])

    def tokens(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The tokens start[i]:stop[i], which are one record's, for all i end to end."""
        shard = np.searchsorted(self.first_token[1:-1], start, "right")
        before = self.first_token[shard]
        ranges = zip(
            shard.tolist(), (start - before).tolist(), (stop - before).tolist(), strict=True
        )
        return np.concatenate([self.shards[i][a:b] for i, a, b in ranges])


class Batches:
    """`batch(t)` is the batch of step t, `iterate(start, stop)` the same in order, read ahead."""

    def __init__(self, lock: dict, cache_dir: str | Path):
        self.lock = lock
        self.data = LockedData(lock, cache_dir)
        self.order = Order(lock, self.data.usable, self.data.sizes)
        self.index = Index(self.data.records, lock["architecture"] == "encoder_decoder")
        # of a target token under `task` weighting: one over the task's mean target, so that a
        # task's share of the loss is its rate in the mixture, however long its targets are
        several = lock["renderings"]
        self.weights = np.array([
            sum(map(len, u[:several])) / float(sum(of[kept, 1].sum() for of, kept in zip(s, u[:several], strict=False)))
            for u, s in zip(self.data.usable, self.data.sizes, strict=True)
        ])  # fmt: skip

    def segment(
        self, task: int, record: int, rendering: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(prompt, what follows it, the weight of each token of that) of one example.

        Decoder-only: the prompt ends before the first trained piece; behind it pieces that are not
        trained have weight 0, and each trained one ends in EOS. Encoder-decoder: the last piece and
        EOS follow.
        """
        parts = self._parts(np.array([[task, record, rendering]]))
        ids, prompt = parts["decoder"].astype(np.int32), int(parts["prompt"][0])
        before = parts["encoder"][:-1].astype(np.int32) if "encoder" in parts else ids[:prompt]
        return before, ids[prompt:], parts["weights"][prompt:]

    def rows(self, numbers: list[int], cap: int | None = None) -> Batch:
        """The given rows of the training data as one batch; `cap` is how many loss positions it has
        (default: as few as the lock has for them)."""
        segments, count = self.order.rows(numbers)
        lock, parts, out = self.lock, self._parts(segments), {}
        width = lock["sequence_length"]
        if "encoder" in parts:
            at = Places(parts["encoder_lengths"], count, width)
            out["encoder_input_tokens"] = at.put(parts["encoder"])
            out["encoder_segment_ids"], out["encoder_positions"] = at.segment_ids, at.positions
            width = lock["target_length"]
        at = Places(parts["decoder_lengths"], count, width)
        tokens, weights = at.put(parts["decoder"]), at.put(parts["weights"], np.float32)
        seen, positions = at.segment_ids, at.positions
        if lock["bos_id"] < 0:
            # without BOS nothing foretells a segment's first token: its place takes part in nothing
            first = (positions == 0) & at.filled
            seen, positions, weights[first] = (
                np.where(first, 0, seen),
                np.maximum(positions - 1, 0),
                0,
            )
        out |= {
            "decoder_input_tokens": at.shifted(tokens, max(lock["bos_id"], 0)), "decoder_target_tokens": tokens,
            "decoder_loss_weights": weights, "decoder_segment_ids": seen, "decoder_positions": positions,
            "task_ids": at.spread(segments[:, 0]),
        }  # fmt: skip
        if lock["prefix_lm"] and "encoder" not in parts:
            # BOS and prompt stand one place later as inputs
            out["decoder_causal_attention"] = (
                at.positions <= at.spread(parts["prompt"], -1)
            ).astype(np.int32)
        out["loss_positions"] = np.full(
            (len(numbers), cap or self.order.cap(numbers)), -1, np.int32
        )
        place = np.flatnonzero(weights > 0)
        ends = np.searchsorted(place, np.arange(len(numbers) + 1) * width)
        for b, positions in enumerate(out["loss_positions"]):
            positions[: ends[b + 1] - ends[b]] = place[ends[b] : ends[b + 1]] - b * width
        return out

    def _parts(self, segments: np.ndarray) -> dict[str, np.ndarray]:
        """What segments [n, 3] (task, record, rendering) put into rows, end to end.

        decoder, weights [tokens]; decoder_lengths, prompt [n]: how many are each segment's, how
        many of them come before what is trained (0 for encoder-decoder); encoder [tokens],
        encoder_lengths [n] for encoder-decoder.
        """
        lock, at = self.lock, self.index
        task, record, rendering = segments.T
        number = at.first_record[at.first_folder[task] + rendering] + record
        head, end = at.heads[number], at.pieces[number + 1]
        size, target = self.order.size(task, record, rendering).T  # as the lock cuts them
        pieces = end - head  # of each segment, behind its prompt
        first = pieces.cumsum() - pieces
        piece = np.arange(first[-1] + pieces[-1]) + np.repeat(head - first, pieces)
        length, trained, ends = (
            at.starts[piece + 1] - at.starts[piece],
            at.trained[piece],
            at.trained[piece],
        )
        # of the last target: its EOS, then tokens
        lost = np.add.reduceat((length + 1) * trained, first) - target
        length[first + pieces - 1] -= np.maximum(lost - 1, 0)
        ends[first + pieces - 1] = lost == 0  # which pieces EOS stands behind
        rest, body = np.add.reduceat(length + ends, first), np.add.reduceat(length, first)
        kept = size - (1 if at.both else rest)  # of the prompt
        begin, start = at.starts[at.pieces[number]], at.starts[head]
        low = begin if lock["too_long"] == "cut_right" else start - kept
        out = {"prompt": np.zeros_like(kept) if at.both else kept}
        if at.both:
            out["encoder"] = _insert(at.tokens(low, low + kept), kept.cumsum(), lock["eos_id"])
            out["encoder_lengths"] = kept + 1
            tokens = at.tokens(start, start + body)
        elif lock["too_long"] == "cut_right":
            between = [np.stack(x, 1).ravel() for x in ((low, start), (low + kept, start + body))]
            tokens = at.tokens(*between)
        else:
            tokens = at.tokens(low, start + body)
        length, trained, ends = (np.insert(x, first, y) for x, y in
                                 ((length, out["prompt"]), (trained, False), (ends, False)))  # fmt: skip
        out["decoder"] = _insert(tokens, length.cumsum()[ends], lock["eos_id"])
        out["decoder_lengths"] = rest + out["prompt"]
        if lock["weighting"] == "example":
            weight = 1.0 / target
        else:
            weight = self.weights[task] if lock["weighting"] == "task" else np.ones(len(segments))
        out["weights"] = np.repeat(
            (np.repeat(weight, pieces + 1) * trained).astype(np.float32), length + ends
        )
        return out

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Batch:
        """Step's batch, or the part of it that stands at `rows` (of range(global_batch))."""
        size = self.lock["global_batch"]
        if step < 0:
            raise UserError(f"step {step}: steps count from 0")
        numbers = range(step * size, (step + 1) * size)
        return self.rows(
            [numbers[int(r)] for r in (range(size) if rows is None else rows)],
            self.order.cap(numbers),
        )

    def __len__(self) -> int:
        return 1 << 40  # no last step

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of steps start … stop - 1, read ahead in one thread."""
        import grain

        steps = grain.MapDataset.range(start, stop).map(lambda t: self.batch(int(t), rows))
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))
