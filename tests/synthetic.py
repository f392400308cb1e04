# SPDX-License-Identifier: Apache-2.0
"""Small random examples and their batches, packed or not, for tests of the model and the
trainer."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from itx import compared, restore, train
from itx import mesh as meshes
from itx.config import DataConfig, MeshConfig, RunConfig, TrainConfig
from itx.data.vocabulary import Vocabulary
from itx.eval.runner import Runner
from itx.params import Params
from tests import tiny

VOCAB, BOS, EOS = 61, 0, 1
Example = tuple[list[int], list[int], int]  # prompt, target without EOS, task


def lock(num_tasks: int = 3) -> dict:
    tasks = [
        {
            "name": f"task_{i}",
            "cluster": f"cluster_{i % 2}",
            "rate": 1 / num_tasks,
            "sha256": ["0"],
            "excluded": [[]],
        }
        for i in range(num_tasks)
    ]
    ids = {"bos_id": BOS, "eos_id": EOS, "pad_id": 0}
    return {"vocabulary": {"size": VOCAB, "hash": "0"}, "tasks": tasks, **ids}


def models() -> dict:
    """Both architectures, small, every dimension another number, and the decoder with every setting
    of a family."""
    return {
        "decoder": tiny.decoder(),
        "t5": tiny.t5(),
        "gemma": tiny.gemma(),
    }


def config(model=None, **sections) -> RunConfig:
    base = RunConfig(
        model=model or tiny.decoder(),
        data=DataConfig(global_batch=8, sequence_length=48, target_length=24),
        train=TrainConfig(steps=4, checkpoint_every=2, log_every=1),
        mesh=MeshConfig(data=1),
    )
    new = {k: dataclasses.replace(getattr(base, k), **v) for k, v in sections.items()}
    return dataclasses.replace(base, **new)


def examples(n: int, seed: int = 0, num_tasks: int = 3) -> list[Example]:
    r = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[int]:
        return r.integers(2, VOCAB, r.integers(low, high)).tolist()

    return [(ids(3, 9), ids(1, 5), int(r.integers(num_tasks))) for _ in range(n)]


def batch(rows: list[list[Example]], cfg: RunConfig) -> dict[str, np.ndarray]:
    """One row per list; its examples are packed one behind the other."""
    both = cfg.model.architecture == "encoder_decoder"
    b, length, room = len(rows), cfg.data.sequence_length, cfg.data.target_length
    d = {
        f"decoder_{k}": np.zeros((b, room if both else length), np.int32)
        for k in ("input_tokens", "target_tokens", "segment_ids", "positions")
    }
    d["decoder_loss_weights"] = np.zeros(d["decoder_positions"].shape, np.float32)
    d["task_ids"] = np.zeros_like(d["decoder_positions"])
    if cfg.model.prefix_lm:
        d["decoder_causal_attention"] = np.zeros_like(d["decoder_positions"])
    e = {
        f"encoder_{k}": np.zeros((b, length), np.int32)
        for k in ("input_tokens", "segment_ids", "positions")
    }
    for r, row in enumerate(rows):
        p = q = 0
        for segment, (prompt, target, task) in enumerate(row, 1):
            ids = [*target, EOS] if both else [*prompt, *target, EOS]
            place = slice(p, p + len(ids))
            d["decoder_target_tokens"][r, place] = ids
            d["decoder_input_tokens"][r, place] = [BOS, *ids[:-1]]
            d["decoder_segment_ids"][r, place] = segment
            d["decoder_positions"][r, place] = np.arange(len(ids))
            d["decoder_loss_weights"][r, p + len(ids) - len(target) - 1 : p + len(ids)] = 1.0
            d["task_ids"][r, place] = task
            if cfg.model.prefix_lm:
                d["decoder_causal_attention"][r, p : p + len(prompt) + 1] = 1
            p += len(ids)
            place = slice(q, q + len(prompt) + 1)
            e["encoder_input_tokens"][r, place] = [*prompt, EOS]
            e["encoder_segment_ids"][r, place] = segment
            e["encoder_positions"][r, place] = np.arange(len(prompt) + 1)
            q += len(prompt) + 1
        assert p <= d["decoder_positions"].shape[1] and q <= length
    d["loss_positions"] = np.full((b, room), -1, np.int32)
    for r in range(b):
        at = np.flatnonzero(d["decoder_loss_weights"][r])
        d["loss_positions"][r, : len(at)] = at
    return {**d, **e} if both else d


class Batches:
    """Batch t is a pure function of t; three examples to a row."""

    def __init__(self, cfg: RunConfig, seed: int = 0, bad_steps: tuple[int, ...] = ()):
        self.cfg, self.seed, self.bad = cfg, seed, bad_steps

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rows = self.cfg.data.global_batch
        some = examples(3 * rows, seed=1000 * self.seed + step)
        out = batch([some[3 * r : 3 * r + 3] for r in range(rows)], self.cfg)
        if step in self.bad:
            out["decoder_loss_weights"][:] = np.where(out["decoder_loss_weights"] > 0, np.inf, 0)
        return out

    def iterate(self, start: int, stop: int, rows=None):
        for step in range(start, stop):
            yield self.batch(step)


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files of a run folder that training writes."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_jsonl(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def pretrained(self) -> Path:
        return self.path / "pretrained"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"


def sizes_of(lock: dict) -> tuple[int, int]:
    """(size of the vocabulary, number of tasks), which `train.make_setup` takes of a lock."""
    return lock["vocabulary"]["size"], len(lock["tasks"])


def init_state(
    config: RunConfig, lock: dict, mesh: Mesh
) -> tuple[restore.State, Params, restore.Setup]:
    """A fresh state, the frozen parameters, and the rest of the run's set-up."""
    setup = train.make_setup(config, *sizes_of(lock), mesh)
    state, frozen = setup.init()
    return state, frozen, setup


def same_steps(one: tuple, other: tuple) -> None:
    """Each (config, batch, mesh): loss and gradient of the two steps over `lock()` are the same, and
    every parameter has a gradient."""
    steps = [compared.one_step(cfg, sizes_of(lock()), b, mesh) for cfg, b, mesh in (one, other)]
    assert all(np.abs(gradient).max() > 0 for gradient in steps[0][1].values())
    found = compared.steps("one = other", *steps)
    assert {f.state for f in found} == {"ok"}, found


def changed(runner: Runner, **fields) -> Runner:
    """A Runner whose loaded model has other fields."""
    return Runner(dataclasses.replace(runner.loaded, **fields))


def runner_over(vocabulary: Vocabulary, **fields) -> Runner:
    """A small decoder with random weights over a vocabulary, its loaded model with these fields."""
    lock = {
        "vocabulary": {"size": vocabulary.size},
        "bos_id": vocabulary.first_id("decoder"),
        "eos_id": vocabulary.eos_id,
        "pad_id": vocabulary.pad_id,
    }
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    runner = restore.load_model(Folder(Path("no-run")), config(), lock, 0, mesh)
    return changed(runner, **fields)
