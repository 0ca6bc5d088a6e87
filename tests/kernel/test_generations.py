"""The two hashes of flows that take turns."""

from __future__ import annotations

import numpy as np
import pytest

from pyflowx.errors import KernelError
from pyflowx.kernel import generations
from pyflowx.kernel.generations import Generations

pytestmark = pytest.mark.kernel

DTYPE = np.dtype("u8")
CALM = generations._CALM_DRAINS


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(generations, "_WORN", 100)
    pair = Generations(DTYPE, DTYPE, 1000)
    yield pair
    pair.close()


def fill(pair, numbers):
    for number in numbers:
        pair.active.update(number.to_bytes(8, "little"), (number + 1).to_bytes(8, "little"))


def drained(pair):
    keys, values = pair.drain([])
    assert (values == keys + np.uint64(1)).all()
    return sorted(keys.tolist())


def test_each_drain_has_what_came_since_the_last_one(pair):
    for count in (3, 0, 1000, 7):
        fill(pair, range(count))
        assert drained(pair) == list(range(count))
    assert len(pair.drain([bytes(8)])[0]) == 0
    assert pair.drain([])[0].tolist() == [0]


def test_after_a_burst_both_hashes_are_fresh_ones(pair):
    first = list(pair._hashes)
    for _ in range(2):
        fill(pair, range(1000))
        drained(pair)
    for number in range(2 * CALM):
        assert set(pair._hashes) == set(first) or number >= 2 * CALM - 1
        fill(pair, range(number + 1))
        assert drained(pair) == list(range(number + 1))
    assert not set(pair._hashes) & set(first)
    assert [each.fd for each in first] == [-1, -1]


def test_many_flows_now_and_then_are_no_burst_that_is_over(pair):
    first = set(pair._hashes)
    for number in range(6 * CALM):
        fill(pair, range(1000 if number % CALM < 2 else 5))
        drained(pair)
    assert set(pair._hashes) == first


def test_without_memory_for_a_fresh_one_it_goes_on(pair, monkeypatch):
    first = set(pair._hashes)

    def refuse():
        raise KernelError("no memory")

    monkeypatch.setattr(pair, "_make", refuse)
    fill(pair, range(1000))
    for _ in range(4 * CALM):
        drained(pair)
        fill(pair, range(5))
    assert set(pair._hashes) == first
