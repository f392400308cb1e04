# SPDX-License-Identifier: Apache-2.0
"""Mixing, shuffling and packing: properties over random lengths, rates and seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itx.data.order import ORDER_VERSION, Order, permutation
from itx.data.packing import fill, length_pair, loss_caps, pack
from itx.errors import UserError

pytestmark = pytest.mark.smoke


def make_order(
    seed=0,
    rates=(0.5, 0.3, 0.2),
    sizes=(50, 400, 7),
    window=256,
    renderings=3,
    phases=None,
    caps=(24,),
):
    draw = np.random.default_rng(1)
    lock = {
        "tasks": [{"name": f"t{i}", "rate": r} for i, r in enumerate(rates)], "seed": seed, "window_examples": window,
        "renderings": renderings, "sequence_length": 64, "target_length": 24, "loss_positions": list(caps), "order_version": ORDER_VERSION,
        "global_batch": 8, **({"phases": phases} if phases else {}),
    }  # fmt: skip
    usable = [[np.arange(n)] * renderings for n in sizes]
    shape = [
        [np.stack([draw.integers(5, 60, n), draw.integers(1, 20, n)], 1)] * renderings
        for n in sizes
    ]
    return Order(lock, usable, shape)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 5000), key=st.integers(0, 2**63))
def test_permutation_is_a_bijection(n, key):
    out = permutation(np.arange(n), n, key)
    assert sorted(out) == list(range(n))


def test_permutation_depends_on_the_key_and_on_nothing_else():
    a, b = (permutation(np.arange(1000), 1000, k) for k in (1, 2))
    assert (a != b).mean() > 0.9
    some = np.array([17, 3, 999])
    assert (permutation(some, 1000, 1) == a[some]).all()  # any part of it, in any order


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 24)), min_size=1, max_size=200))
def test_packing_keeps_every_example_and_both_capacities(lengths):
    lengths = np.array(lengths)
    rows, n = pack(lengths, (64, 24))
    assert set(rows) == set(range(n))
    for r in range(n):
        assert (lengths[rows == r].sum(0) <= (64, 24)).all()
    # a row is opened only where none has room, and rows only fill up: one example of the last row
    # fits no other
    left = np.array([(64, 24) - lengths[rows == r].sum(0) for r in range(n - 1)]).reshape(-1, 2)
    assert any(not (left >= example).all(1).any() for example in lengths[rows == n - 1])


def drawn(seed, n, mean, longest, target=0.25):
    """Lengths [n, 2] with the long tail that instruction data have; targets take the share `target`
    on average."""
    draw = np.random.default_rng(seed)
    whole = np.clip(draw.lognormal(np.log(mean) - 0.18, 0.6, n), 4, longest).astype(int)
    return np.stack([whole, np.maximum(1, whole * draw.beta(2, 2 / target - 2, n)).astype(int)], 1)


@pytest.mark.parametrize("mean, row, n", [(30, 1024, 16384), (200, 1024, 4096), (600, 4096, 4096)])
@pytest.mark.parametrize("seed", range(3))
def test_packing_fills_rows(mean, row, n, seed):
    """All but the window's last row, which is half empty on average: a window should have a few
    hundred rows."""
    lengths = drawn(seed, n, mean, row)
    assert (
        fill(lengths, (row, row))[0] > 0.995
        and pack(lengths, (row, row))[1] < lengths[:, 0].sum() / row + 2 + n / 2000
    )


@pytest.mark.parametrize("mean, row", [(30, 512), (30, 1024), (120, 1024), (200, 2048)])
def test_the_proposed_length_pair_fills_both_sides(mean, row):
    lengths = drawn(0, 4096, mean, row // 2)
    pair = length_pair(lengths, (row, row))
    assert pair[0] == row > pair[1] >= lengths[:, 1].max() and pair[1] % 8 == 0
    now, then = fill(lengths, (row, row)), fill(lengths, pair)
    assert then[0] > 0.95 and then[1] > max(0.8, 1.5 * now[1])
    # long answers to short questions: the other side is the one that is kept
    assert length_pair(lengths[:, ::-1], (row, row)) == pair[::-1]


@pytest.mark.parametrize("mean", [30, 120, 200])
def test_caps_spread_the_targets_over_rows_and_leave_long_ones_to_few(mean):
    lengths = drawn(0, 8192, mean, 512)
    lengths[7] = (900, 890)  # one long answer must not set the cap of all
    caps = loss_caps(lengths, (1024, 1024))
    assert (
        len(caps) == 4
        and caps == sorted(caps)
        and caps[-1] == 1024
        and lengths[:, 1].mean() < caps[0] < 450
    )

    def rows_of(*caps):
        rows, n = pack(lengths, (1024, 1024), caps)
        return np.bincount(rows, lengths[:, 1], n), np.bincount(rows, lengths[:, 0], n)

    (free, _), (targets, tokens) = rows_of(), rows_of(*caps)
    assert (
        len(targets) <= len(free) * 1.003 + 1
        and tokens.max() <= 1024
        and targets.sum() == free.sum()
    )
    used = np.array(caps)[np.searchsorted(caps, targets)]
    assert used.max() == 1024 and used.mean() < 0.5 * 1024
    share = targets.sum() / used.sum()  # of the positions at which logits are computed
    assert share > 0.7 > targets.sum() / (len(free) * free.max()) + 0.2
    # as many rows beyond the first cap as examples need, and no more
    beyond = (targets > caps[0]).sum()
    assert 1 <= beyond <= (lengths[:, 1] > caps[0]).sum()


def test_caps_that_save_little_are_not_made():
    lengths = drawn(0, 2048, 120, 512)
    even = int(1024 * lengths[:, 1].mean() / lengths[:, 0].mean())
    assert loss_caps(lengths, (1024, int(1.1 * even))) == [int(1.1 * even)]


def test_a_length_pair_holds_the_longest_example():
    lengths = np.array([[100, 1]] * 500 + [[20, 90]])
    assert length_pair(lengths, (64, 32))[0] == 100 and length_pair(lengths, (64, 32))[1] >= 90


def test_many_examples_are_packed_as_well_as_few():
    lengths = np.minimum(drawn(0, 60_000, 200, 1024), (1024, 512))
    rows, n = pack(lengths, (1024, 512))
    taken = np.stack([np.bincount(rows, lengths[:, i], n) for i in (0, 1)])
    assert (
        (taken[0] <= 1024).all() and (taken[1] <= 512).all() and taken[0].sum() / (n * 1024) > 0.997
    )


def test_a_misfit_is_refused():
    with pytest.raises(ValueError, match="example 1"):
        pack(np.array([[3, 3], [65, 1]]), (64, 24))


def test_a_lock_of_another_order_is_refused():
    order = make_order()
    with pytest.raises(
        UserError, match=f"order version 1, this itx lays rows out by version {ORDER_VERSION}"
    ):
        Order(order.lock | {"order_version": 1}, [], [])


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.integers(1, 1000), min_size=1, max_size=8),
    window=st.integers(16, 400),
    seed=st.integers(0, 2**31),
)
def test_shares_never_stray_by_one_example(parts, window, seed):
    rates = tuple(p / sum(parts) for p in parts)
    order = make_order(seed, rates, [5 + 3 * i for i in range(len(rates))], window)
    placed = np.zeros(len(rates))
    for w in range(8):
        task, _, _ = order.examples(w)
        placed += np.bincount(task, minlength=len(rates))
        assert np.abs(placed - order.rates * window * (w + 1)).max() < 1
        of_rows = np.bincount(order.window(w).segments[:, 0], minlength=len(rates))
        assert (of_rows == np.bincount(task, minlength=len(rates))).all()


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12),
    window=st.integers(1, 100_000),
    w=st.integers(0, 1_000_000),
)
def test_totals_follow_any_rates_however_many_windows_went_before(parts, window, w):
    rates = np.array(parts) / sum(parts)
    order = make_order(0, rates.tolist(), [5] * len(rates), window)
    before, after = order.placed(w), order.placed(w + 1)
    for placed, windows in ((before, w), (after, w + 1)):
        assert (
            np.abs(placed - rates * window * windows).max() <= 0.5 + 1e-3
        )  # half of one, and 10^11 examples of floats
    assert (after >= before).all() and abs((after - before).sum() - window) <= len(rates)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    left_out=st.integers(0, 5),
    renderings=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_every_usable_record_is_taken_once_per_epoch(sizes, left_out, renderings, seed):
    draw = np.random.default_rng(seed)
    order = make_order(seed, [1 / len(sizes)] * len(sizes), sizes, 64, renderings)
    usable = [[np.sort(draw.permutation(n)[: max(1, n - draw.integers(0, left_out + 1))]) for _ in range(renderings)]
              for n in sizes]  # fmt: skip
    shape = [[np.tile([9, 3], (n, 1))] * renderings for n in sizes]
    order = Order(order.lock, usable, shape)
    seen = {}
    for w in range(8):
        for task, record, epoch in zip(*(x.tolist() for x in order.examples(w)), strict=True):
            seen.setdefault((task, epoch), []).append(record)
    for task in range(len(sizes)):
        last = max(e for t, e in seen if t == task)
        for epoch in range(last + 1):
            records, wanted = seen[task, epoch], usable[task][epoch % renderings].tolist()
            assert len(set(records)) == len(records) and set(records) <= set(wanted)
            assert epoch == last or sorted(records) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_where_a_row_stands_says_nothing_of_its_examples(seed):
    """Packed large first, but rows are permuted: neither fill nor length, loss positions or task
    follows a row's place."""
    order = make_order(seed, sizes=(4000, 4000, 4000), window=4096)
    window = order.window(seed)
    size, n = order.size(*window.segments.T), np.diff(window.starts)
    taken = np.add.reduceat(size[:, 0], window.starts[:-1])
    facts = {
        "fill": taken,
        "length": taken / n,
        "loss positions": np.add.reduceat(size[:, 1], window.starts[:-1]),
        "task": np.add.reduceat(window.segments[:, 0] == 0, window.starts[:-1]) / n,
    }
    for name, fact in facts.items():
        r = np.corrcoef(np.arange(len(n)), fact)[0, 1]
        assert abs(r) < 4 / len(n) ** 0.5, (name, r)


def test_rows_that_need_many_loss_positions_stand_in_steps_of_their_own():
    order = make_order(sizes=(4000, 4000, 4000), window=400, caps=[14, 18, 24])
    steps = [order.cap(range(8 * t, 8 * t + 8)) for t in range(150)]
    targets = np.array(
        [sum(order.size(*np.array([s]).T)[0, 1] for s in order.row(r)) for r in range(8 * 150)]
    )
    assert all((targets[8 * t : 8 * t + 8] <= c).all() for t, c in enumerate(steps))
    needed = np.array([14, 18, 24])[np.searchsorted([14, 18, 24], targets)]
    shuffled = np.random.default_rng(0).permutation(needed).reshape(-1, 8).max(1)
    assert needed.mean() <= np.mean(steps) < needed.mean() + 0.2 * (shuffled.mean() - needed.mean())
    windows = len(order.starts) - 1
    assert windows >= 3 and len({*steps}) == 3
    # each window has its own, and they stand anywhere in it
    at = [
        np.flatnonzero(needed[order.starts[w] : order.starts[w + 1]] == 24).mean()
        / (order.starts[w + 1] - order.starts[w])
        for w in range(3)
    ]
    assert max(at) - min(at) > 0.05
    again = make_order(sizes=(4000, 4000, 4000), window=400, caps=[14, 18, 24])
    assert [again.row(r) for r in (1000, 3, 500)] == [order.row(r) for r in (1000, 3, 500)]


def test_every_epoch_sees_every_record_once_in_its_own_order():
    order = make_order()
    seen = {}
    for w in range(6):
        for task, record, epoch in zip(*order.examples(w), strict=True):
            seen.setdefault((int(task), int(epoch)), []).append(int(record))
    first, second = seen[0, 0], seen[0, 1]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_rows_are_a_function_of_their_number_alone():
    forwards, backwards = make_order(), make_order()
    numbers = list(range(0, 300, 7))
    a = [forwards.row(r) for r in numbers]
    b = [backwards.row(r) for r in reversed(numbers)][::-1]
    assert a == b
    other = make_order(seed=1)
    assert a != [other.row(r) for r in numbers]


def test_windows_are_independent_of_the_ones_before():
    """The layout of window 3 needs no earlier window; only its first row's number does."""
    fresh, used = make_order(), make_order()
    for r in range(200):
        used.row(r)
    assert (fresh.window(3).segments == used.window(3).segments).all()
    assert (fresh.window(3).starts == used.window(3).starts).all()


def test_renderings_follow_epochs():
    order = make_order(renderings=3)
    pairs = {(t, r) for row in (order.row(i) for i in range(400)) for t, _, r in row}
    assert {r for t, r in pairs if t == 2} == {0, 1, 2}  # 7 records: many epochs
    assert {r for t, r in pairs if t == 1} <= {0, 1}


def test_counts_are_those_of_the_rows():
    order = make_order()
    for rows in (0, 1, 37, order.starts[-1], 150):
        want = np.zeros(3, int)
        for r in range(rows):
            for task, _, _ in order.row(r):
                want[task] += 1
        assert (make_order().counts(rows) == want).all()
    assert len(order.starts) > 2  # over whole windows and a part of one


PHASES = [
    {"step": 0, "rates": [0.5, 0.3, 0.2]},
    {"step": 30, "rates": [0.0, 0.3, 0.7]},
    {"step": 60, "rates": [0.1, 0.9, 0.0]},
]


def test_steps_of_a_record_are_those_whose_rows_hold_it():
    order, size = make_order(), 8
    trained = [step for step in range(40) if step not in (3, 4, 17)]
    wanted = [(0, 7, 0), (2, 3, 0), (2, 3, 1)]
    brute = [
        step
        for step in trained
        for row in range(step * size, (step + 1) * size)
        for segment in order.row(row)
        if segment in wanted
    ]
    assert order.steps_with(wanted, trained) == brute and len(set(brute)) > 5
    assert order.steps_with([], trained) == order.steps_with(wanted, []) == []
    with_all = order.steps_with(wanted, list(range(40)))
    assert set(with_all) - set(brute) <= {3, 4, 17}


def test_rates_change_at_the_first_window_behind_a_phases_step():
    order, plain = make_order(phases=PHASES, renderings=8), make_order(renderings=8)
    rows = [order.row(r) for r in range(8 * 100)]
    first = [plain.row(r) for r in range(8 * 100)]
    changed = next(w for w, row in enumerate(order.starts) if row >= 8 * 30)
    at = order.starts[changed]
    assert (
        rows[:at] == first[:at]
        and rows[at : at + 50] != first[at : at + 50]
        and order.starts[changed - 1] < 8 * 30
    )
    expected = np.zeros(3)
    for w in range(len(order.starts) - 1):
        phase = max(i for i, p in enumerate(PHASES) if order.starts[w] >= 8 * p["step"])
        expected += np.array(PHASES[phase]["rates"]) * 256
        # totals follow all phases so far
        assert (np.abs(order.placed(w + 1) - expected) <= 0.5 + 1e-6).all()
        seen = set(order.window(w).segments[:, 0].tolist())
        assert seen == {i for i, r in enumerate(PHASES[phase]["rates"]) if r}
    assert {0, 1, 2} == set(range(phase + 1))


def test_phases_leave_rows_a_function_of_their_number():
    numbers = [500, 3, 260, 790, 8 * 30, 8 * 60 + 5]
    whole = make_order(phases=PHASES, renderings=8)
    assert [make_order(phases=PHASES, renderings=8).row(r) for r in numbers] == [
        whole.row(r) for r in numbers
    ]
    # a later phase changes nothing before it
    more = [*PHASES, {"step": 90, "rates": [1.0, 0.0, 0.0]}]
    assert [make_order(phases=more, renderings=8).row(r) for r in range(8 * 90)] == [
        whole.row(r) for r in range(8 * 90)
    ]
    assert (
        whole.counts(8 * 80)
        == sum(np.bincount([t for t, _, _ in whole.row(r)], minlength=3) for r in range(8 * 80))
    ).all()
