# SPDX-License-Identifier: Apache-2.0
"""Batches from a small cache written here: every token accounted for, for both architectures."""

import itertools

import numpy as np
import pytest

from itx.audit import audit as audits
from itx.audit import sentences
from itx.config import DataConfig
from itx.data import cache
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.order import ORDER_VERSION
from itx.errors import UserError
from itx.prepare import new_lock

pytestmark = pytest.mark.smoke


def make_lock(tmp_path, architecture="decoder", **changes):
    """Two tasks of 40 and 15 records; tokens name their task and record. Token 1 is EOS and also
    pad (0 is not)."""
    lock = {
        "version": 1, "order_version": ORDER_VERSION, "architecture": architecture, "prefix_lm": False, "bos_id": 0, "eos_id": 1, "pad_id": 0,
        "sequence_length": 40, "target_length": 16, "global_batch": 4, "window_examples": 64, "seed": 0,
        "renderings": 1, "weighting": "token", "too_long": "error", "tasks": [], "evaluation": [],
        "vocabulary": {"hash": "v", "size": 1000},
    } | changes  # fmt: skip
    lock.setdefault("loss_positions", [lock["target_length"]])
    draw = np.random.default_rng(0)
    for task, n in enumerate((40, 15)):
        records = [
            [(draw.integers(2, 9, draw.integers(3, 20)).tolist() + [100 * (task + 1) + i], False),
             (draw.integers(10, 19, draw.integers(1, 8)).tolist(), True)]
            for i in range(n)
        ]  # fmt: skip
        folder = tmp_path / f"t{task}"
        cache.write(
            folder,
            cache.Columns.of(records, list(range(n)), [0] * n, 1000),
            {"templates": ["t0"]},
            [],
        )
        lock["tasks"].append({
            "name": f"t{task}", "rate": (0.7, 0.3)[task], "examples": n, "folders": [f"t{task}"],
            "target_tokens": sum(len(r[1][0]) + 1 for r in records),
            "sha256": [cache.manifest_hash(folder)], "excluded": [[]],
        })  # fmt: skip
    return lock


def segments(batch, b):
    """[(task, input side, targets, weights)] of a row, read back through the segment ids."""
    for s in range(1, batch["decoder_segment_ids"][b].max() + 1):
        at = batch["decoder_segment_ids"][b] == s
        yield (
            at,
            {k: v[b][at] for k, v in batch.items() if k.startswith("decoder") or k == "task_ids"},
        )


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_rows_hold_their_records_token_for_token(tmp_path, architecture):
    lock = make_lock(tmp_path, architecture)
    batches = Batches(lock, tmp_path)
    packed = 0
    for step in range(5):
        batch = batches.batch(step)
        for b in range(4):
            row = batches.order.row(step * 4 + b)
            packed += len(row) > 1
            found = list(segments(batch, b))
            assert len(found) == len(row)
            for s, ((task, record, _), (_, f)) in enumerate(zip(row, found, strict=True), 1):
                (prompt, _), (target, _) = batches.data.records[task][0][record]
                want = [*target, 1]
                if architecture == "encoder_decoder":
                    inside = batch["encoder_segment_ids"][b] == s
                    assert batch["encoder_input_tokens"][b][inside].tolist() == [*prompt, 1]
                    assert batch["encoder_positions"][b][inside].tolist() == list(
                        range(len(prompt) + 1)
                    )
                else:
                    want = [*prompt, *want]
                assert f["decoder_target_tokens"].tolist() == want
                assert f["decoder_input_tokens"].tolist() == [0, *want[:-1]]
                assert f["decoder_positions"].tolist() == list(range(len(want)))
                assert f["decoder_loss_weights"].tolist() == [0.0] * (
                    len(want) - len(target) - 1
                ) + [1.0] * (len(target) + 1)
                assert set(f["task_ids"]) == {task}
            loss = batch["loss_positions"][b]
            assert (
                loss[loss >= 0].tolist()
                == np.flatnonzero(batch["decoder_loss_weights"][b]).tolist()
            )
    assert packed > 5  # the rows above really shared


def test_prefix_lm_marks_the_prompt_as_inputs_see_it(tmp_path):
    batch = Batches(make_lock(tmp_path, prefix_lm=True), tmp_path).batch(0)
    for _, f in segments(batch, 0):
        prompt = int((f["decoder_loss_weights"] == 0).sum())
        # BOS and the prompt's tokens: one place more than the prompt, as SeqIO's PrefixLM converter
        # has it
        assert f["decoder_causal_attention"].tolist() == [1] * (prompt + 1) + [0] * (
            len(f["task_ids"]) - prompt - 1
        )
    assert "decoder_causal_attention" not in Batches(
        make_lock(tmp_path / "b"), tmp_path / "b"
    ).batch(0)


def test_batches_do_not_depend_on_where_reading_starts(tmp_path):
    lock = make_lock(tmp_path)
    steps = [b["decoder_target_tokens"] for b in Batches(lock, tmp_path).iterate(0, 12)]
    later = [b["decoder_target_tokens"] for b in Batches(lock, tmp_path).iterate(7, 12)]
    assert len(steps) == 12 and (steps[0] != steps[1]).any()
    assert all((a == b).all() for a, b in zip(steps[7:], later, strict=True))
    halves = [
        Batches(lock, tmp_path).batch(7, rows)["decoder_target_tokens"]
        for rows in (range(0, 2), range(2, 4))
    ]
    assert (np.concatenate(halves) == steps[7]).all()


@pytest.mark.parametrize("weighting", ["example", "task"])
def test_weighting_changes_weights_and_nothing_else(tmp_path, weighting):
    plain = Batches(make_lock(tmp_path), tmp_path).batch(0)
    other = Batches(make_lock(tmp_path / "b", weighting=weighting), tmp_path / "b").batch(0)
    assert (plain["decoder_target_tokens"] == other["decoder_target_tokens"]).all()
    assert (plain["decoder_loss_weights"] != other["decoder_loss_weights"]).any()
    if weighting == "example":
        for _, f in segments(other, 0):
            assert f["decoder_loss_weights"].sum() == pytest.approx(1.0)


def test_a_changed_cache_is_refused(tmp_path):
    lock = make_lock(tmp_path)
    lock["tasks"][1]["sha256"] = ["0" * 64]
    with pytest.raises(UserError, match="t1.*not what the lock names"):
        Batches(lock, tmp_path)


def test_records_of_skipped_batches_are_not_said_to_be_trained_on(tmp_path):
    order = Batches(make_lock(tmp_path), tmp_path).order
    size, steps, skipped = order.lock["global_batch"], 12, {2, 3, 9}
    of = {
        t: {s[:2] for r in range(t * size, (t + 1) * size) for s in order.row(r)}
        for t in range(steps)
    }
    seen = set().union(*of.values())
    trained = set().union(*(of[t] for t in range(steps) if t not in skipped))
    assert trained < seen
    distinct = order.distinct([t for t in range(steps) if t not in skipped])
    assert distinct.tolist() == [
        sum(task == i for task, _ in trained) for i in range(len(order.names))
    ]
    facts = {"mixture": {"steps": steps}, "tasks": {
        name: {"read": built, "kept": built, "skipped": {}} for name, built in zip(order.names, order.n[:, 0].tolist(), strict=True)
    }}  # fmt: skip
    said = sentences.accounts(audits.with_uses(facts, order.counts(steps * size), distinct))
    rest = order.n[:, 0].sum() - len(seen)
    assert said.startswith(
        f"{order.n[:, 0].sum()} records read = {len(trained)} trained on + {len(seen - trained)} in skipped batches alone + "
        f"{rest} usable but not reached in {steps} steps"
    )


def test_long_examples_are_refused_dropped_or_cut_but_never_their_targets(tmp_path):
    lock = make_lock(tmp_path, sequence_length=20)
    size = locks.sizes(cache.Records(tmp_path / "t0").lengths, "decoder")
    with pytest.raises(UserError, match=r"task t0: \d+ of 40 examples are longer than a row"):
        locks.check_fit("t0", size, lock)
    out, counts = locks.check_fit("t0", size, lock | {"too_long": "drop"})
    assert 0 < out.sum() == counts["longer than a row"] < 40
    lock |= {"too_long": "cut_left"}
    out, counts = locks.check_fit("t0", size, lock)
    assert not out.any() and counts == {}
    batches = Batches(lock, tmp_path)
    cut = 0
    for r in range(20):
        for task, record, rendering in batches.order.row(r):
            prompt, target, _ = batches.segment(task, record, rendering)
            (whole, _), (answer, _) = batches.data.records[task][rendering][record]
            assert target.tolist() == [*answer, 1]
            assert prompt.tolist() == whole[len(whole) - len(prompt) :].tolist()
            cut += len(prompt) < len(whole)
    assert cut > 0
    # the lock's entry counts what the loader leaves out, and the audit's sentence says it
    manifest = {
        "task": "t0",
        "cluster": "c",
        "records": 40,
        "audit": {"read": 40, "kept": 40, "skipped": {}},
    }
    entry = new_lock.task_entry(
        "t0", 1.0, [("t0", manifest)], lock, DataConfig(cache_dir=str(tmp_path))
    )
    pieces = [(batches.segment(0, i, 0)[0], batches.data.records[0][0][i][0][0]) for i in range(40)]
    lost = [len(whole) - len(prompt) for prompt, whole in pieces]
    facts = entry["audit"]
    assert (facts["cut"], facts["cut_tokens"]) == (sum(x > 0 for x in lost), sum(lost)) and facts[
        "cut"
    ] > 0
    said = sentences.accounts({"tasks": {"t0": facts}})
    assert said.endswith(f"; {facts['cut']} prompts lost {sum(lost)} tokens to fit a row.")


@pytest.mark.parametrize("shard_bytes, shards", [(1, 40), (60, None), (10**9, 1)])
def test_shards_part_no_record_and_change_no_batch(tmp_path, shard_bytes, shards):
    """A record longer than a shard has one to itself."""
    lock = make_lock(tmp_path)
    whole = cache.Records(tmp_path / "t0")
    want = [[(ids.tolist(), trained) for ids, trained in whole[i]] for i in range(len(whole))]
    columns = cache.Columns.of(want, list(range(40)), [0] * 40, 1000)
    cache.write(tmp_path / "cut", columns, {"templates": ["t0"]}, [], max_shard_bytes=shard_bytes)
    cut = cache.Records(tmp_path / "cut")
    assert [[(ids.tolist(), trained) for ids, trained in cut[i]] for i in range(len(cut))] == want
    if shards is None:
        assert 10 < len(cut.shards) < 40 and max(s.nbytes for s in cut.shards) <= shard_bytes
    else:
        assert len(cut.shards) == shards
    places = np.arange(3, cut.num_tokens, 7)
    assert (cut.take(places) == whole.take(places)).all()
    other = {**lock, "tasks": [{**lock["tasks"][0], "folders": ["cut"], "sha256": [cache.manifest_hash(cut.folder)]},
                               lock["tasks"][1]]}  # fmt: skip
    for step in range(4):
        a, b = Batches(lock, tmp_path).batch(step), Batches(other, tmp_path).batch(step)
        assert all((a[k] == b[k]).all() for k in a)


def test_rows_may_be_given_as_an_array(tmp_path):
    """mesh.local_rows gives an array where there are several processes."""
    batches = Batches(make_lock(tmp_path), tmp_path)
    whole, part = batches.batch(2), batches.batch(2, np.array([0, 3]))
    assert all((part[k] == v[[0, 3]]).all() for k, v in whole.items())
    with pytest.raises(UserError, match="step -1"):
        batches.batch(-1)


def test_task_weights_count_what_is_trained_on(tmp_path):
    """Under `task` weighting an example weighs 1 on average over the records that are left."""
    lock = make_lock(tmp_path, weighting="task")
    longest = np.argsort(cache.Records(tmp_path / "t0").lengths[:, 2])[-20:]
    lock["tasks"][0]["excluded"] = [sorted(longest.tolist())]
    batches = Batches(lock, tmp_path)
    assert (
        batches.weights != Batches(make_lock(tmp_path, weighting="task"), tmp_path).weights
    ).any()
    for task, usable in enumerate(u[0] for u in batches.data.usable):
        weights = [batches.segment(task, int(r), 0)[2].sum() for r in usable]
        assert np.mean(weights) == pytest.approx(1.0)


@pytest.mark.parametrize("renderings", [1, 2])
def test_what_each_weighting_makes_of_a_task_with_long_targets(tmp_path, renderings):
    """Shares of all loss weight: by tokens the task of long targets takes more than its rate, by
    examples each takes what its examples are; under `task` its rate, whichever rendering is
    long."""

    def shares(weighting: str) -> tuple[float, float]:
        """The first task's share of the loss, and of the examples."""
        folder = tmp_path / weighting
        lock = make_lock(
            folder, weighting=weighting, renderings=renderings, sequence_length=80, target_length=60
        )
        long = [[([100 + i, 3], False), ([5] * 40, True)] for i in range(40)]
        cache.write(
            folder / "long",
            cache.Columns.of(long, list(range(40)), [0] * 40, 1000),
            {"templates": ["t0"]},
            [],
        )
        for task in lock["tasks"]:
            task |= {k: task[k] * renderings for k in ("folders", "sha256", "excluded")}
        lock["tasks"][0]["folders"][-1], lock["tasks"][0]["sha256"][-1] = (
            "long",
            cache.manifest_hash(folder / "long"),
        )
        batches = Batches(lock, folder)
        weight, examples = np.zeros(2), np.zeros(2)
        for step in range(120):
            batch = batches.batch(step)
            np.add.at(weight, batch["task_ids"], batch["decoder_loss_weights"])
            examples += np.bincount(
                batches.order.rows(list(range(4 * step, 4 * step + 4)))[0][:, 0], minlength=2
            )
        return weight[0] / weight.sum(), examples[0] / examples.sum()

    by_token, rate = shares("token")
    assert rate == pytest.approx(0.7, abs=0.02) and by_token > rate + 0.1
    for weighting in ("example", "task"):
        assert shares(weighting)[0] == pytest.approx(rate, abs=0.03), weighting


def test_the_documentation_of_weighting_says_what_it_does():
    from itx.config import fields_by_name

    assert "share of the loss is its rate" in str(dict(fields_by_name()["data.weighting"].metadata))


def test_a_lock_of_another_config_is_refused(tmp_path):
    import dataclasses

    from itx.config import DataConfig, ModelConfig, RunConfig

    lock = make_lock(tmp_path)
    same = {
        k: lock[k]
        for k in (
            "sequence_length",
            "target_length",
            "global_batch",
            "window_examples",
            "renderings",
        )
    }
    config = RunConfig(ModelConfig(), DataConfig(**same))
    locks.check_config(lock, config, "some.json")
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, seed=9))
    with pytest.raises(UserError, match="some.json: made with data.seed=0, and the config has 9"):
        locks.check_config(lock, other, "some.json")
    with pytest.raises(UserError, match="model.architecture='decoder'"):
        locks.check_config(
            lock, dataclasses.replace(config, model=ModelConfig("encoder_decoder")), "some.json"
        )


# ---- the same batches, segment by segment


def many_pieces(tmp_path, architecture, **changes):
    """A lock of three tasks and two renderings whose records have one to six pieces, some of them
    empty."""
    lock = make_lock(tmp_path, architecture, renderings=2, **changes)
    draw = np.random.default_rng(5)
    lock["tasks"] = []
    for task, n in enumerate((50, 9, 23)):
        entry = {"name": f"m{task}", "rate": (0.5, 0.2, 0.3)[task], "examples": n, "target_tokens": 0, "folders": [],
                 "sha256": [], "excluded": []}  # fmt: skip
        for r in range(2):
            records = []
            for _ in range(n):
                before = [(draw.integers(2, 999, draw.integers(0, 9)).tolist(), bool(draw.integers(2)))
                          for _ in range(draw.integers(0, 6))]  # fmt: skip
                records.append(
                    [*before, (draw.integers(2, 999, draw.integers(1, 6)).tolist(), True)]
                )
            folder = tmp_path / f"m{task}r{r}"
            cache.write(
                folder,
                cache.Columns.of(records, list(range(n)), [0] * n, 1000),
                {"templates": ["t0"]},
                [],
            )
            size = locks.sizes(cache.Records(folder).lengths, architecture)
            out, _ = locks.check_fit("m", size, lock)
            entry["folders"].append(folder.name)
            entry["sha256"].append(cache.manifest_hash(folder))
            entry["excluded"].append(np.flatnonzero(out).tolist())
        lock["tasks"].append(entry)
    return lock


def segment_by_segment(batches, numbers):
    """What Batches.rows gives, written down piece by piece."""
    lock = batches.lock
    both, eos = lock["architecture"] == "encoder_decoder", lock["eos_id"]
    length, targets = lock["sequence_length"], lock["target_length"]
    out = {f"decoder_{k}": np.zeros((len(numbers), targets if both else length), np.int32)
           for k in ("input_tokens", "target_tokens", "segment_ids", "positions")}  # fmt: skip
    if both:
        for k in ("input_tokens", "segment_ids", "positions"):
            out[f"encoder_{k}"] = np.zeros((len(numbers), length), np.int32)
    elif lock["prefix_lm"]:
        out["decoder_causal_attention"] = np.zeros((len(numbers), length), np.int32)
    out["decoder_loss_weights"] = np.zeros(out["decoder_positions"].shape, np.float32)
    out["task_ids"] = np.zeros(out["decoder_positions"].shape, np.int32)
    out["loss_positions"] = np.full((len(numbers), targets), -1, np.int32)
    for b, r in enumerate(numbers):
        at = encoder_at = 0
        for s, (task, record, rendering) in enumerate(batches.order.row(r), 1):
            pieces = [
                (ids.tolist(), trained)
                for ids, trained in batches.data.records[task][rendering][record]
            ]
            cut = len(pieces) - 1 if both else [t for _, t in pieces].index(True)
            prompt = [i for ids, _ in pieces[:cut] for i in ids]
            rest = [i for ids, trained in pieces[cut:] for i in (*ids, *[eos] * trained)]
            marks = [
                float(trained) for ids, trained in pieces[cut:] for _ in range(len(ids) + trained)
            ]
            over = max(0, sum(map(int, marks)) - targets, len(rest) + 1 - length if not both else 0)
            assert not over or (lock["too_long"] == "cut_targets" and over <= len(pieces[-1][0]))
            rest, marks = rest[: len(rest) - over], marks[: len(marks) - over]
            room = lock["sequence_length"] - (1 if both else len(rest))
            prompt = (
                prompt[:room]
                if lock["too_long"] == "cut_right"
                else prompt[max(0, len(prompt) - room) :]
            )
            if both:
                end = encoder_at + len(prompt) + 1
                out["encoder_input_tokens"][b, encoder_at:end] = [*prompt, eos]
                out["encoder_segment_ids"][b, encoder_at:end] = s
                out["encoder_positions"][b, encoder_at:end] = range(len(prompt) + 1)
                prompt, encoder_at = [], end
            weight = {"token": 1.0, "example": 1.0 / sum(marks), "task": batches.weights[task]}[
                lock["weighting"]
            ]
            tokens = [*prompt, *rest]
            end, first = at + len(tokens), at + len(prompt)
            out["decoder_target_tokens"][b, at:end] = tokens
            out["decoder_input_tokens"][b, at:end] = [lock["bos_id"], *tokens[:-1]]
            out["decoder_loss_weights"][b, first:end] = [m * weight for m in marks]
            out["decoder_segment_ids"][b, at:end] = s
            out["decoder_positions"][b, at:end] = range(len(tokens))
            out["task_ids"][b, at:end] = task
            if "decoder_causal_attention" in out:
                out["decoder_causal_attention"][b, at : first + 1] = 1
            at = end
        positions = np.flatnonzero(out["decoder_loss_weights"][b] > 0)
        out["loss_positions"][b, : len(positions)] = positions
    return out


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("weighting", ["token", "example", "task"])
@pytest.mark.parametrize(
    "too_long, length, room",
    [("error", 64, 32), ("cut_left", 24, 32), ("cut_right", 24, 32), ("cut_targets", 15, 4)],
)
def test_batches_are_those_made_segment_by_segment(
    tmp_path, architecture, weighting, too_long, length, room
):
    lock = many_pieces(
        tmp_path, architecture, weighting=weighting, too_long=too_long, sequence_length=length, target_length=room,
        prefix_lm=weighting == "token", bos_id=7,
    )  # fmt: skip
    batches = Batches(lock, tmp_path)
    seen = set()
    for step in range(12):
        numbers = [4 * step + b for b in range(4)]
        got, want = batches.batch(step), segment_by_segment(batches, numbers)
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert got[key].dtype == value.dtype and got[key].shape == value.shape
            assert got[key].tobytes() == value.tobytes(), key
        seen |= {s for r in numbers for s in batches.order.row(r)}
    found = [batches.data.records[t][r][i] for t, i, r in seen]
    assert {r for _, _, r in seen} == {0, 1} and {len(f) for f in found} == set(range(1, 7))
    whole = [sum(len(ids) + trained for ids, trained in f) for f in found]
    assert (max(whole) > length) == (too_long != "error")
    ends = [batches.segment(*s)[1][-1] == 1 for s in seen]
    assert all(ends) == (too_long != "cut_targets")
    # a segment alone is what stands in the row
    for task, record, rendering in sorted(seen)[:20]:
        prompt, rest, weight = batches.segment(task, record, rendering)
        (trained,) = {float(w) for w in weight if w} if weighting != "token" else {1.0}
        assert len(rest) == len(weight) and trained > 0 and (len(prompt) < length)


def test_a_step_has_as_many_loss_positions_as_its_rows_need(tmp_path):
    """All hosts' rows count; what is trained on is the same as with room for the longest
    everywhere."""
    lock = many_pieces(
        tmp_path, "decoder", sequence_length=64, target_length=32, loss_positions=[8, 16, 24, 32]
    )
    batches, seen = Batches(lock, tmp_path), set()
    for t in range(12):
        whole = batches.batch(t)
        most = int((whole["decoder_loss_weights"] > 0).sum(1).max())
        cap = whole["loss_positions"].shape[1]
        assert cap == min(c for c in lock["loss_positions"] if c >= most)
        at = whole["loss_positions"]
        assert [sorted(r[r >= 0]) for r in at] == [
            np.flatnonzero(w).tolist() for w in whole["decoder_loss_weights"]
        ]
        assert all(batches.batch(t, [b])["loss_positions"].shape == (1, cap) for b in range(4))
        seen.add(cap)
    assert len(seen) > 1


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_and_restarts_change_no_batch(tmp_path, hosts):
    lock = many_pieces(tmp_path, "decoder", sequence_length=64, target_length=32, global_batch=8)
    whole = [Batches(lock, tmp_path).batch(t) for t in range(9)]
    assert all(
        (a["decoder_target_tokens"] != b["decoder_target_tokens"]).any()
        for a, b in itertools.pairwise(whole)
    )
    size = 8 // hosts
    for start in range(9):
        parts = [
            list(Batches(lock, tmp_path).iterate(start, 9, range(h * size, h * size + size)))
            for h in range(hosts)
        ]
        for t in range(start, 9):
            for key, value in whole[t].items():
                assert (np.concatenate([p[t - start][key] for p in parts]) == value).all()


def test_without_bos_a_segment_begins_with_its_first_token(tmp_path):
    """As inference has it where a tokenizer puts nothing before a prompt: inputs p p t, not B p p
    t."""
    lock = many_pieces(tmp_path, "decoder", sequence_length=64, target_length=32, prefix_lm=True)
    with_bos, without = (Batches(lock | {"bos_id": i}, tmp_path) for i in (7, -1))
    untold = 0
    for t in range(6):
        a, b = with_bos.batch(t), without.batch(t)
        first = (a["decoder_positions"] == 0) & (a["decoder_segment_ids"] > 0)
        assert (a["decoder_input_tokens"][first] == 7).all() and first.sum() > 4
        assert (b["decoder_segment_ids"] == np.where(first, 0, a["decoder_segment_ids"])).all()
        rest = b["decoder_segment_ids"] > 0
        assert (b["decoder_positions"][rest] == a["decoder_positions"][rest] - 1).all()
        for key in (
            "decoder_input_tokens",
            "decoder_target_tokens",
            "decoder_causal_attention",
            "task_ids",
        ):
            assert (b[key][rest] == a[key][rest]).all(), key
        assert (b["decoder_loss_weights"] == np.where(first, 0, a["decoder_loss_weights"])).all()
        untold += int((a["decoder_loss_weights"][first] > 0).sum())  # of records without a prompt
        for row, weights in zip(b["loss_positions"], b["decoder_loss_weights"], strict=True):
            assert row[row >= 0].tolist() == np.flatnonzero(weights).tolist()
    assert untold
