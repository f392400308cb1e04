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
    """int32 [b, l] except decoder_loss_weights float32; b rows, l = sequence or target length."""

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


def _places(lengths: np.ndarray, count: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Where segments of `lengths` [n], count[b] of them in row b, stand in rows of `width`.

    Returns (bool [b, width]: there is a token; of each token, row by row: its segment's number from 1, its place in
    the segment; [n]: the first token of each segment).
    """
    stop = lengths.cumsum()
    last = count.cumsum()
    number = np.arange(1, len(lengths) + 1) - np.repeat(last - count, count)
    used = np.add.reduceat(lengths, last - count)
    first = stop - lengths
    position = np.arange(stop[-1]) - np.repeat(first, lengths)
    return np.arange(width) < used[:, None], np.repeat(number, lengths), position, first


def _insert(ids: np.ndarray, ends: np.ndarray, eos: int) -> np.ndarray:
    """`ids` with an EOS before each of the places `ends`, which rise."""
    out = np.full(len(ids) + len(ends), eos, ids.dtype)
    rest = np.ones(len(out), bool)
    rest[ends + np.arange(len(ends))] = False
    out[rest] = ids
    return out


class Index:
    """Where the tokens of every record of the lock are: all folders end to end, as if they were one.

    folder f = first_folder[task] + rendering; record number = first_record[f] + record.
    pieces [records + 1]: record i holds pieces pieces[i]:pieces[i + 1]; starts [pieces + 1]: their first tokens;
    trained [pieces]. Tokens stay in their mapped files: `tokens` copies out what a batch needs.
    """

    def __init__(self, records: list[list[Records]]):
        flat = [r for of_task in records for r in of_task]
        ends = [np.cumsum([0, *counts]) for counts in zip(*((len(r), len(r.piece_lengths), len(r.tokens)) for r in flat),
                                                          strict=True)]  # fmt: skip
        self.first_folder = np.cumsum([0, *(len(of_task) for of_task in records)])
        self.first_record, first_piece, self.first_token = ends
        self.pieces = np.concatenate([*(r.record_pieces[:-1] + p for r, p in zip(flat, first_piece, strict=False)),
                                      first_piece[-1:]])  # fmt: skip
        self.starts = np.concatenate([*(r.piece_starts[:-1] + t for r, t in zip(flat, self.first_token, strict=False)),
                                      self.first_token[-1:]])  # fmt: skip
        self.trained = np.concatenate([r.piece_trained for r in flat])
        self.files = [r.tokens for r in flat]

    def tokens(self, folder: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The tokens start[i]:stop[i], which are folder[i]'s, for all i end to end."""
        before = self.first_token[folder]
        ranges = zip(folder.tolist(), (start - before).tolist(), (stop - before).tolist(), strict=True)
        return np.concatenate([self.files[f][a:b] for f, a, b in ranges])


class Batches:
    """`batch(t)` is the batch of step t, `iterate(start, stop)` the same in order, read ahead."""

    def __init__(self, lock: dict, cache_dir: str | Path):
        self.lock = lock
        self.data = LockedData(lock, cache_dir)
        self.order = Order(lock, self.data.usable, self.data.sizes)
        self.index = Index(self.data.records)
        # of a target token under `task` weighting: tasks count by their examples, not by their length
        self.weights = np.array([
            len(u[0]) / float(targets(r[0], lock["architecture"])[u[0]].sum())
            for r, u in zip(self.data.records, self.data.usable, strict=True)
        ])  # fmt: skip

    def segment(self, task: int, record: int, rendering: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(prompt, what follows it, the weight of each token of that) of one example.

        Decoder-only: the prompt ends before the first trained piece; behind it pieces that are not trained
        have weight 0, and each trained one ends in EOS. Encoder-decoder: the last piece and EOS follow.
        """
        parts = self._parts(np.array([[task, record, rendering]]))
        ids, prompt = parts["decoder"].astype(np.int32), int(parts["prompt"][0])
        before = parts["encoder"][:-1].astype(np.int32) if "encoder" in parts else ids[:prompt]
        return before, ids[prompt:], parts["weights"][prompt:]

    def empty(self, rows: int) -> Batch:
        lock = self.lock
        length, targets = lock["sequence_length"], lock["target_length"]
        both = lock["architecture"] == "encoder_decoder"
        names = ("input_tokens", "target_tokens", "segment_ids", "positions")
        out = {f"decoder_{n}": np.zeros((rows, targets if both else length), np.int32) for n in names}
        if lock["prefix_lm"] and not both:
            out["decoder_causal_attention"] = np.zeros((rows, length), np.int32)
        if both:
            out |= {
                f"encoder_{n}": np.zeros((rows, length), np.int32) for n in ("input_tokens", "segment_ids", "positions")
            }
        out["decoder_loss_weights"] = np.zeros(out["decoder_input_tokens"].shape, np.float32)
        out["task_ids"] = np.zeros(out["decoder_input_tokens"].shape, np.int32)
        out["loss_positions"] = np.full((rows, targets), -1, np.int32)
        return out

    def rows(self, numbers: list[int]) -> Batch:
        """The given rows of the training data as one batch."""
        segments, count = self.order.rows(numbers)
        out, parts = self.empty(len(numbers)), self._parts(segments)
        if "encoder" in parts:
            filled, number, position, _ = _places(parts["encoder_lengths"], count, self.lock["sequence_length"])
            out["encoder_input_tokens"][filled] = parts["encoder"]
            out["encoder_segment_ids"][filled] = number
            out["encoder_positions"][filled] = position
        lengths, ids = parts["decoder_lengths"], parts["decoder"]
        filled, number, position, first = _places(lengths, count, out["decoder_segment_ids"].shape[1])
        inputs = np.empty_like(ids)
        inputs[1:] = ids[:-1]
        inputs[first] = self.lock["bos_id"]
        out["decoder_input_tokens"][filled] = inputs
        out["decoder_target_tokens"][filled] = ids
        out["decoder_loss_weights"][filled] = parts["weights"]
        out["decoder_segment_ids"][filled] = number
        out["decoder_positions"][filled] = position
        out["task_ids"][filled] = np.repeat(segments[:, 0], lengths)
        if "decoder_causal_attention" in out:
            # BOS and prompt stand one place later as inputs
            out["decoder_causal_attention"][filled] = position <= np.repeat(parts["prompt"], lengths)
        row, place = np.nonzero(out["decoder_loss_weights"] > 0)
        before = np.searchsorted(row, np.arange(len(numbers)))
        out["loss_positions"][row, np.arange(len(row)) - before[row]] = place
        return out

    def _parts(self, segments: np.ndarray) -> dict[str, np.ndarray]:
        """What segments [n, 3] (task, record, rendering) put into rows, end to end.

        decoder, weights [tokens]; decoder_lengths, prompt [n]: how many are each segment's, how many of them come
        before what is trained (0 for encoder-decoder); encoder [tokens], encoder_lengths [n] for encoder-decoder.
        """
        lock, at = self.lock, self.index
        task, record, rendering = segments.T
        folder = at.first_folder[task] + rendering
        number = at.first_record[folder] + record
        begin, end = at.pieces[number], at.pieces[number + 1]
        out = {}
        if lock["architecture"] == "encoder_decoder":
            # the last piece is the decoder's, all before it the encoder's
            start = at.starts[end - 1]
            kept = np.minimum(start - at.starts[begin], lock["sequence_length"] - 1)
            out["encoder"] = _insert(at.tokens(folder, start - kept, start), kept.cumsum(), lock["eos_id"])
            out["encoder_lengths"] = kept + 1
            length = at.starts[end] - start
            trained = np.ones(len(length), bool)
            first, of = np.arange(len(length)), np.arange(len(length))
            out["prompt"] = np.zeros_like(length)
        else:
            pieces = end - begin
            first = pieces.cumsum() - pieces  # of each segment, among the pieces of all
            of = np.repeat(np.arange(len(pieces)), pieces)
            piece = np.arange(len(of)) + (begin - first)[of]
            length, trained = at.starts[piece + 1] - at.starts[piece], at.trained[piece]
            seen = trained.cumsum()
            in_prompt = seen == (seen[first] - trained[first])[of]
            prompt = np.add.reduceat(length * in_prompt, first)
            total = np.add.reduceat(length + trained, first)
            # the prompt's last tokens stay: the question mostly stands at the end
            lost = np.clip(total - lock["sequence_length"], 0, prompt)
            start = at.starts[begin] + lost
            length = at.starts[piece + 1] - np.clip(start[of], at.starts[piece], at.starts[piece + 1])
            out["prompt"] = prompt - lost
        ends = length.cumsum()[trained]
        out["decoder"] = _insert(at.tokens(folder, start, at.starts[end]), ends, lock["eos_id"])
        length = length + trained
        out["decoder_lengths"] = np.add.reduceat(length, first)
        if lock["weighting"] == "example":
            weight = 1.0 / np.add.reduceat(length * trained, first)
        else:
            weight = self.weights[task] if lock["weighting"] == "task" else np.ones(len(segments))
        out["weights"] = np.repeat((weight[of] * trained).astype(np.float32), length)
        return out

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Batch:
        """Step's batch, or the part of it that stands at `rows` (of range(global_batch))."""
        size = self.lock["global_batch"]
        if step < 0:
            raise UserError(f"step {step}: steps count from 0")
        return self.rows([step * size + int(r) for r in (range(size) if rows is None else rows)])

    def __len__(self) -> int:
        return 1 << 40  # no last step

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of steps start … stop - 1, read ahead in one thread."""
        import grain

        steps = grain.MapDataset.range(start, stop).map(lambda t: self.batch(int(t), rows))
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))
