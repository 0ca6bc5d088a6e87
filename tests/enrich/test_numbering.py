"""Numbers against a dict, the order of rows against sorted()."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.enrich import numbering
from pyflowx.enrich.numbering import Numbers, ordered

KEYS = st.lists(st.integers(0, 8) | st.integers(0, 2**64 - 1))


def u64(keys: list[int]) -> np.ndarray:
    return np.array(keys, np.uint64)


@given(st.lists(KEYS), KEYS, st.sampled_from([1, 3, 1 << 15]))
def test_equal_keys_have_one_number_and_others_none(blocks: list[list[int]], asked: list[int], chunk: int) -> None:
    numbers, known = Numbers(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbering, "_CHUNK", chunk)
        for block in blocks:
            before = numbers.count
            found, new = numbers.add(u64(block))
            assert found[new].tolist() == list(range(before, numbers.count))
            known.update(zip(block, found.tolist(), strict=True))
            assert [known[key] for key in block] == found.tolist()
    assert sorted(known.values()) == list(range(numbers.count))
    asked += list(known)
    assert numbers.find(u64(asked)).tolist() == [known.get(key, -1) for key in asked]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1) | st.integers(0, 1), st.integers(0, 2**32 - 1))))
def test_the_order_is_that_of_sorted_and_stable(rows: list[tuple[int, int, int]]) -> None:
    columns = [
        np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), ("u1", "u8", "u4"), strict=False)
    ]
    for count in range(1, len(columns) + 1):
        expected = sorted(range(len(rows)), key=lambda row: rows[row][:count])
        assert ordered(*columns[:count]).tolist() == expected
