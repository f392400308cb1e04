# SPDX-License-Identifier: Apache-2.0
"""Steps without a finite loss: what is said of them, the return to a good checkpoint, the end; and
the loss curve."""

import os
import signal

import jax
import numpy as np

from itx import checkpoint, train
from itx import mesh as meshes
from itx.config import MeshConfig
from tests import synthetic

LOCK = synthetic.lock()


def config(steps, **more):
    return synthetic.config(train={"steps": steps, "checkpoint_every": 10, "log_every": 5, **more},
                            optim={"name": "sgd", "kwargs": {"momentum": 0.5}, "warmup_steps": 0, "clip_norm": 0.0,
                                   "learning_rate": 0.01})  # fmt: skip


def fit(cfg, folder, batches):
    """(the parameters that a run ends with, or None; what ended it otherwise)"""
    setup = train.make_setup(
        cfg, *synthetic.sizes_of(LOCK), meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    )
    try:
        return jax.device_get(train.train(cfg, LOCK, batches, folder, setup=setup)["params"]), None
    except (Exception, SystemExit) as e:
        return None, e


def newest_meta(folder):
    with checkpoint.Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        return checkpoints.meta(checkpoints.latest())


class Stopping(synthetic.Batches):
    """SIGTERM while the batch of each of `at` is made, once."""

    def __init__(self, cfg, at=(), **kwargs):
        super().__init__(cfg, **kwargs)
        self.at = set(at)

    def batch(self, step):
        if step in self.at:
            self.at.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step)


class Spoiling(Stopping):
    """A batch that is finite, but whose weights all but cancel: its step throws the parameters far
    away."""

    def batch(self, step):
        out = super().batch(step)
        if step == 75:
            weights = np.zeros_like(out["decoder_loss_weights"])
            # each in a part of its own, which are added in order
            for row, weight in enumerate((1.0, -1.0, 1e-16)):
                weights[row, np.flatnonzero(out["decoder_loss_weights"][row])[0]] = weight
            out["decoder_loss_weights"] = weights
        return out


def told(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_a_skipped_batch_is_named_as_data_batch_takes_it(tmp_path, capsys):
    fit(config(4), synthetic.Folder(tmp_path), synthetic.Batches(config(4), bad_steps=(1,)))
    assert "itx data batch --step 1)" in told(capsys)


MANY = tuple(step for step in range(8, 48) if step % 10)  # never ten in a row


def test_too_large_a_share_returns_once_and_leaves_the_batches_out(tmp_path, capsys):
    """A kill before the limit, after it and in what is made again changes nothing."""
    cfg, whole, parts = (
        config(90),
        synthetic.Folder(tmp_path / "a"),
        synthetic.Folder(tmp_path / "b"),
    )
    straight, failure = fit(cfg, whole, synthetic.Batches(cfg, bad_steps=MANY))
    said = told(capsys)
    assert failure is None and said.count("training returns to") == 1, said
    batches = Stopping(cfg, at=(13, 35, 47, 66), bad_steps=MANY)
    stops = 0
    while (ended := fit(cfg, parts, batches))[0] is None:
        assert isinstance(ended[1], SystemExit) and ended[1].code == 143, ended
        stops += 1
    assert stops == 4 and not batches.at
    assert all(np.array_equal(straight[p], ended[0][p]) for p in straight)
    one, other = newest_meta(whole), newest_meta(parts)
    assert one["skipped"] == other["skipped"] == [step + 1 for step in MANY]
    assert one["returns"] == other["returns"] and len(one["returns"]) == 1
    assert (
        whole.metrics_jsonl.read_text().count("\n")
        == parts.metrics_jsonl.read_text().count("\n")
        == 18
    )


def test_spoiled_parameters_are_left_behind(tmp_path, capsys):
    """The last good checkpoint is there to return to, though newer ones were kept; the end is
    finite."""
    cfg = config(140, microbatches=4, keep_checkpoints=1)
    whole, parts = synthetic.Folder(tmp_path / "a"), synthetic.Folder(tmp_path / "b")
    straight, failure = fit(cfg, whole, Spoiling(cfg))
    assert failure is None, failure
    meta, said = newest_meta(whole), told(capsys)
    (back,) = meta["returns"]
    assert (back["to"], back["at"]) == (10, 112) and "spoiled" in said
    assert back["left_out"] == list(range(27, 113)) == meta["skipped"]
    batches = Spoiling(cfg, at=(40, 90, 110))
    for _ in range(3):
        assert fit(cfg, parts, batches)[0] is None
    again, _ = fit(cfg, parts, batches)
    assert not batches.at and all(np.array_equal(straight[p], again[p]) for p in straight)
    assert newest_meta(parts)["returns"] == meta["returns"]
    assert all(np.isfinite(x).all() for x in straight.values())
    first = jax.device_get(
        synthetic.init_state(cfg, LOCK, meshes.make_mesh(MeshConfig(), jax.devices()[:1]))[0][
            "params"
        ]
    )
    assert not all(np.array_equal(straight[p], first[p]) for p in straight)


def test_the_second_time_over_the_limit_is_the_end(tmp_path):
    """Counts outlive a process: 30 failures in a row, a stop, and 20 more are 50."""
    cfg, folder = config(400), synthetic.Folder(tmp_path)
    batches = Stopping(cfg, at=(29, 80), bad_steps=range(400))
    failures = [fit(cfg, folder, batches)[1] for _ in range(3)]
    assert [getattr(e, "code", None) for e in failures] == [143, 143, None]
    assert type(failures[-1]).__name__ == "RunFailed" and "step 100" in str(failures[-1])
    assert "\n" not in str(failures[-1]) and "returned from step 50 to step 0" in str(failures[-1])
