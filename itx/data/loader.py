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


def cut_prompt(prompt: np.ndarray, room: int) -> np.ndarray:
    """The prompt's last `room` tokens: the question mostly stands at the end."""
    return prompt if len(prompt) <= room else prompt[len(prompt) - room :]


class Batches:
    """`batch(t)` is the batch of step t, `iterate(start, stop)` the same in order, read ahead."""

    def __init__(self, lock: dict, cache_dir: str | Path):
        self.lock = lock
        self.data = LockedData(lock, cache_dir)
        self.order = Order(lock, self.data.usable, self.data.sizes)
        # of a target token under `task` weighting: tasks count by their examples, not by their length
        self.weights = [
            len(u[0]) / float(targets(r[0], lock["architecture"])[u[0]].sum())
            for r, u in zip(self.data.records, self.data.usable, strict=True)
        ]

    def segment(self, task: int, record: int, rendering: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(prompt, what follows it, the weight of each token of that) of one example.

        Decoder-only: the prompt ends before the first trained piece; behind it pieces that are not trained
        have weight 0, and each trained one ends in EOS. Encoder-decoder: the last piece and EOS follow.
        """
        pieces = self.data.records[task][rendering][record]
        both = self.lock["architecture"] == "encoder_decoder"
        eos = np.array([self.lock["eos_id"]])
        cut = len(pieces) - 1 if both else next(i for i, (_, trained) in enumerate(pieces) if trained)
        prompt = np.concatenate([[], *(ids for ids, _ in pieces[:cut])])
        rest = np.concatenate([x for ids, trained in pieces[cut:] for x in ((ids, eos) if trained else (ids,))])
        marks = np.concatenate([np.full(len(ids) + trained, trained, float) for ids, trained in pieces[cut:]])
        room = self.lock["sequence_length"] - (1 if both else len(rest))
        weight = {"token": 1.0, "example": 1.0 / marks.sum(), "task": self.weights[task]}[self.lock["weighting"]]
        return cut_prompt(prompt, room).astype(np.int32), rest.astype(np.int32), marks * weight

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
        out = self.empty(len(numbers))
        for b, r in enumerate(numbers):
            at = encoder_at = 0
            for s, (task, record, rendering) in enumerate(self.order.row(r), 1):
                prompt, rest, weight = self.segment(task, record, rendering)
                if self.lock["architecture"] == "encoder_decoder":
                    encoder_at = self._encoder(out, b, s, encoder_at, prompt)
                    prompt = prompt[:0]
                at = self._decoder(out, b, s, at, prompt, rest, weight, task)
            positions = np.flatnonzero(out["decoder_loss_weights"][b] > 0)
            out["loss_positions"][b, : len(positions)] = positions
        return out

    def _encoder(self, out: Batch, b: int, s: int, at: int, prompt: np.ndarray) -> int:
        end = at + len(prompt) + 1
        out["encoder_input_tokens"][b, at:end] = np.append(prompt, self.lock["eos_id"])
        out["encoder_segment_ids"][b, at:end] = s
        out["encoder_positions"][b, at:end] = np.arange(end - at)
        return end

    def _decoder(self, out: Batch, b: int, s: int, at: int, prompt, rest, weight, task: int) -> int:
        tokens = np.concatenate([prompt, rest])
        end, first = at + len(tokens), at + len(prompt)
        out["decoder_target_tokens"][b, at:end] = tokens
        out["decoder_input_tokens"][b, at + 1 : end] = tokens[:-1]
        out["decoder_input_tokens"][b, at] = self.lock["bos_id"]
        out["decoder_loss_weights"][b, first:end] = weight
        out["decoder_segment_ids"][b, at:end] = s
        out["decoder_positions"][b, at:end] = np.arange(end - at)
        out["task_ids"][b, at:end] = task
        if "decoder_causal_attention" in out:
            out["decoder_causal_attention"][b, at : first + 1] = 1  # BOS and prompt stand one place later as inputs
        return end

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
