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
from itx.data.types import Lock
from itx.errors import UserError


class Batch(TypedDict):
    """Arrays of b packed rows: int32 [b, l], decoder_loss_weights float32, with l the sequence or
    target length; loss_positions int32 [b, t], with t the smallest of the lock's `loss_positions`
    that holds what every row of the step has."""

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


class Places:
    """Where the tokens of segments stand in b packed rows.

    Args:
        lengths: int [n], tokens of each segment.
        count: int [b], segments of each row.
        width: tokens of a row; padding fills what its segments leave.
    """

    def __init__(self, lengths: np.ndarray, count: np.ndarray, width: int):
        self.row_ends = count.cumsum()  # int [b], in segments
        used = np.add.reduceat(lengths, self.row_ends - count)
        self.filled = np.arange(width) < used[:, None]  # bool [b, width]
        # int [n + b]: each row's padding counts as a segment of its own
        self.lengths = np.insert(lengths, self.row_ends, width - used)
        self.first = self.lengths.cumsum() - self.lengths  # place of each segment's first token
        number = np.arange(1, len(lengths) + 1) - np.repeat(self.row_ends - count, count)
        self.segment_ids = self.spread(number)
        places = np.arange(self.filled.size, dtype=np.int32).reshape(self.filled.shape)
        self.positions = (places - self._repeated(self.first)) * self.filled

    def _repeated(self, values: np.ndarray) -> np.ndarray:
        """int32 [b, width] of values int [n + b]."""
        return np.repeat(values.astype(np.int32), self.lengths).reshape(self.filled.shape)

    def spread(self, values: np.ndarray, padding: int = 0) -> np.ndarray:
        """int32 [b, width]: each segment's value at its tokens."""
        return self._repeated(np.insert(values, self.row_ends, padding))

    def put(self, values: np.ndarray, dtype: type = np.int32) -> np.ndarray:
        """[b, width]: the tokens' own values."""
        out = np.zeros(self.filled.shape, dtype)
        out[self.filled] = values
        return out

    def shifted(self, tokens: np.ndarray, bos_id: int) -> np.ndarray:
        """int32 [b, width]: the token before, BOS before each segment's first."""
        out = np.empty_like(tokens)
        flat = out.reshape(-1)
        flat[1:] = tokens.reshape(-1)[:-1]
        bos = np.insert(np.full(len(self.first) - len(self.row_ends), bos_id), self.row_ends, 0)
        is_there = self.lengths > 0
        flat[self.first[is_there]] = bos[is_there]
        return out


def _end_to_end(parts: Sequence[np.ndarray], starts: np.ndarray) -> np.ndarray:
    """Several folders' starts [n + 1] as those of one, each shifted to where its folder begins."""
    shifted = [x[:-1] + start for x, start in zip(parts, starts, strict=False)]
    return np.concatenate([*shifted, starts[-1:]])


class Index:
    """Where the tokens of every record of the lock are: all folders end to end, as if they were
    one.

    folder f = first_folder[task] + rendering; record number = first_record[f] + record.
    pieces [records + 1]: record i holds pieces pieces[i]:pieces[i + 1]; starts [pieces + 1]: their
    first tokens; trained [pieces]; heads [records]: the piece at which the prompt has ended, which
    is the last one for encoder-decoders and else the first trained one. Tokens stay in their mapped
    shards: `tokens` copies out what a batch needs.
    """

    def __init__(self, records: list[list[Records]], encoder_decoder: bool):
        self.encoder_decoder = encoder_decoder
        folders = [r for of_task in records for r in of_task]
        self.first_folder = np.cumsum([0, *map(len, records)])
        self.first_record = np.cumsum([0, *map(len, folders)])
        first_piece = np.cumsum([0, *(len(r.piece_lengths) for r in folders)])
        first_token = np.cumsum([0, *(r.num_tokens for r in folders)])
        self.pieces = _end_to_end([r.record_pieces for r in folders], first_piece)
        self.starts = _end_to_end([r.piece_starts for r in folders], first_token)
        self.trained = np.concatenate([r.piece_trained for r in folders])
        if encoder_decoder:
            self.heads = self.pieces[1:] - 1
        else:
            places = np.flatnonzero(self.trained)
            self.heads = places[np.searchsorted(places, self.pieces[:-1])]
        self.shards = [shard for r in folders for shard in r.shards]
        self.first_token = np.cumsum([0, *map(len, self.shards)])  # of each shard

    def tokens(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The tokens start[i]:stop[i], which are one record's, for all i end to end."""
        shard = np.searchsorted(self.first_token[1:-1], start, "right")
        before = self.first_token[shard]
        ranges = (shard, start - before, stop - before)
        return np.concatenate(
            [self.shards[i][a:b] for i, a, b in zip(*map(np.ndarray.tolist, ranges), strict=True)]
        )


class Batches:
    """`batch(t)` is the batch of step t, `iterate(start, stop)` the same in order, read ahead."""

    def __init__(self, lock: Lock, cache_dir: str | Path):
        self.lock = lock
        self.data = LockedData(lock, cache_dir)
        self.order = Order(lock, self.data.usable, self.data.sizes)
        self.index = Index(self.data.records, lock["architecture"] == "encoder_decoder")
        # a target token's weight under `task` weighting: one over the task's mean target, so that a
        # task's share of the loss is its rate in the mixture, however long its targets are
        self.weights = np.array(list(map(self._mean_weight, self.data.usable, self.data.sizes)))

    def _mean_weight(self, usable: list[np.ndarray], sizes: list[np.ndarray]) -> float:
        """One over the mean target, in tokens, of a task's usable records."""
        usable = usable[: self.lock["renderings"]]
        tokens = sum(size[u, 1].sum() for size, u in zip(sizes, usable, strict=False))
        return sum(map(len, usable)) / float(tokens)

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
        """The packed rows of these numbers as one batch; `cap` is how many loss positions it has
        (default: the smallest of the lock's that holds them)."""
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
        segment_ids, positions = at.segment_ids, at.positions
        if lock["bos_id"] < 0:
            # without BOS nothing foretells a segment's first token: its place takes part in nothing
            first = (positions == 0) & at.filled
            segment_ids = np.where(first, 0, segment_ids)
            positions = np.maximum(positions - 1, 0)
            weights[first] = 0
        out["decoder_input_tokens"] = at.shifted(tokens, max(lock["bos_id"], 0))
        out["decoder_target_tokens"], out["decoder_loss_weights"] = tokens, weights
        out["decoder_segment_ids"], out["decoder_positions"] = segment_ids, positions
        out["task_ids"] = at.spread(segments[:, 0])
        if lock["prefix_lm"] and "encoder" not in parts:
            # BOS and prompt stand one place later as inputs
            in_prompt = at.positions <= at.spread(parts["prompt"], -1)
            out["decoder_causal_attention"] = in_prompt.astype(np.int32)
        cap = cap or self.order.cap(numbers)
        out["loss_positions"] = np.full((len(numbers), cap), -1, np.int32)
        places = np.flatnonzero(weights > 0)
        row_starts = np.arange(len(numbers) + 1) * width
        ends = np.searchsorted(places, row_starts)
        for b, positions in enumerate(out["loss_positions"]):
            positions[: ends[b + 1] - ends[b]] = places[ends[b] : ends[b + 1]] - row_starts[b]
        return out

    def _parts(self, segments: np.ndarray) -> dict[str, np.ndarray]:
        """What segments [n, 3] (task, record, rendering) put into rows, end to end.

        decoder, weights [tokens]; decoder_lengths, prompt [n]: how many are each segment's, how
        many of them come before what is trained (0 for encoder-decoder); encoder [tokens],
        encoder_lengths [n] for encoder-decoder.
        """
        lock, index = self.lock, self.index
        task, record, rendering = segments.T
        number = index.first_record[index.first_folder[task] + rendering] + record
        head, end = index.heads[number], index.pieces[number + 1]
        size, target = self.order.size(task, record, rendering).T  # as the lock cuts them
        # pieces behind the prompt, those of all segments end to end
        pieces = end - head
        first = pieces.cumsum() - pieces
        piece = np.arange(first[-1] + pieces[-1]) + np.repeat(head - first, pieces)
        length = index.starts[piece + 1] - index.starts[piece]
        trained = index.trained[piece]
        has_eos = trained.copy()
        # what the last target loses: its EOS, then tokens
        lost = np.add.reduceat((length + 1) * trained, first) - target
        last = first + pieces - 1
        length[last] -= np.maximum(lost - 1, 0)
        has_eos[last] = lost == 0
        rest, body = np.add.reduceat(length + has_eos, first), np.add.reduceat(length, first)
        kept = size - (1 if index.encoder_decoder else rest)  # tokens of the prompt
        begin, start = index.starts[index.pieces[number]], index.starts[head]
        low = begin if lock["too_long"] == "cut_right" else start - kept
        prompt = np.zeros_like(kept) if index.encoder_decoder else kept
        out = {"prompt": prompt}
        if index.encoder_decoder:
            ids = index.tokens(low, low + kept)
            out["encoder"] = np.insert(ids, kept.cumsum(), lock["eos_id"])
            out["encoder_lengths"] = kept + 1
            tokens = index.tokens(start, start + body)
        elif lock["too_long"] == "cut_right":  # a gap may lie between prompt and target
            ranges = ((low, start), (low + kept, start + body))
            tokens = index.tokens(*(np.stack(x, 1).ravel() for x in ranges))
        else:
            tokens = index.tokens(low, start + body)
        # from here on each prompt is a piece as well, before the others of its segment
        length = np.insert(length, first, prompt)
        trained, has_eos = np.insert(trained, first, False), np.insert(has_eos, first, False)
        out["decoder"] = np.insert(tokens, length.cumsum()[has_eos], lock["eos_id"])
        out["decoder_lengths"] = rest + prompt
        if lock["weighting"] == "example":
            weight = 1.0 / target
        elif lock["weighting"] == "task":
            weight = self.weights[task]
        else:
            weight = np.ones(len(segments))
        of_piece = np.repeat(weight, pieces + 1) * trained
        out["weights"] = np.repeat(of_piece.astype(np.float32), length + has_eos)
        return out

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Batch:
        """Step's batch, or the part of it that stands at `rows` (of range(global_batch))."""
        size = self.lock["global_batch"]
        if step < 0:
            raise UserError(f"step {step}: steps count from 0")
        numbers = range(step * size, (step + 1) * size)
        chosen = [numbers[int(r)] for r in (range(size) if rows is None else rows)]
        return self.rows(chosen, self.order.cap(numbers))

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of steps start … stop - 1, read ahead in one thread."""
        import grain

        steps = grain.MapDataset.range(start, stop).map(lambda t: self.batch(int(t), rows))
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))
