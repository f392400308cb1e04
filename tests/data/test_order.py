# SPDX-License-Identifier: Apache-2.0
"""Mixing, shuffling and packing: properties over random lengths, rates and seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itx.data.order import Order, permutation
from itx.data.packing import pack

pytestmark = pytest.mark.smoke


def make_order(seed=0, rates=(0.5, 0.3, 0.2), sizes=(50, 400, 7), window=256, renderings=3):
    draw = np.random.default_rng(1)
    lock = {
        "tasks": [{"name": f"t{i}", "rate": r} for i, r in enumerate(rates)], "seed": seed, "window_examples": window,
        "renderings": renderings, "sequence_length": 64, "target_length": 24,
    }  # fmt: skip
    usable = [[np.arange(n)] * renderings for n in sizes]
    shape = [[np.stack([draw.integers(5, 60, n), draw.integers(1, 20, n)], 1)] * renderings for n in sizes]
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
    # what opened the last row fits no other: a row is opened only where none has room, and rows only fill up
    share = (lengths / (64, 24)).max(1)
    opener = lengths[max(np.flatnonzero(rows == n - 1), key=lambda i: (share[i], -i))]
    assert not any((lengths[rows == r].sum(0) + opener <= (64, 24)).all() for r in range(n - 1))


def test_packing_fills_rows():
    draw = np.random.default_rng(0)
    lengths = np.stack([draw.integers(20, 200, 4000), np.ones(4000, int)], 1)
    rows, n = pack(lengths, (1024, 512))
    assert lengths[:, 0].sum() / (n * 1024) > 0.99


def test_a_misfit_is_refused():
    with pytest.raises(ValueError, match="example 1"):
        pack(np.array([[3, 3], [65, 1]]), (64, 24))


def test_shares_never_stray_by_one_example():
    order = make_order()
    placed = np.zeros(3)
    for w in range(12):
        task, _, _ = order.examples(w)
        placed += np.bincount(task, minlength=3)
        assert np.abs(placed - order.rates * 256 * (w + 1)).max() < 1


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
    assert fresh.window(3) == used.window(3)


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
