"""Order and distinct values against NumPy's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pyflowx_tui.columns import Labels, address_octets
from pyflowx_tui.index import Index, mix
from pyflowx_tui.sorting import argsort, distinct, sort_rows

TYPES = ["u1", "u2", "u4", "u8", "i1", "i4", "i8", "f4", "f8"]
columns = st.sampled_from(TYPES).flatmap(
    lambda kind: npst.arrays(kind, st.integers(0, 60), elements={"allow_nan": False} if kind[0] == "f" else None)
)


@given(columns)
def test_order_is_stable_in_both_directions(values: np.ndarray) -> None:
    assert argsort(values).tolist() == np.argsort(values + 0, kind="stable").tolist()
    descending = argsort(values, descending=True)
    expected = sorted(range(len(values)), key=lambda row: -values[row].item())
    assert descending.tolist() == expected


@given(npst.arrays("u8", st.integers(0, 60), elements=st.integers(0, 9).map(lambda n: n << 40)))
def test_distinct_values(values: np.ndarray) -> None:
    found = distinct(values)
    expected = np.unique(values, return_index=True, return_inverse=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.tolist() == theirs.tolist()


def test_addresses_labels_and_a_choice_of_rows() -> None:
    texts = ["10.0.0.9", "2001:db8::1", "10.0.0.10", "9.9.9.9", "10.0.0.9"]
    octets = np.frombuffer(b"".join(map(address_octets, texts)), np.uint8).reshape(-1, 16)
    names = Labels.empty(0)
    codes = np.array([names.code_of(text) for text in ("b", "c", "", "a", "b")], np.uint32)
    rows = {"address": octets, "name": names.with_codes(codes)}
    assert sort_rows(rows, "address", False).tolist() == [3, 0, 4, 2, 1]
    assert sort_rows(rows, "address", True).tolist() == [1, 2, 0, 4, 3]
    assert sort_rows(rows, "name", False).tolist() == [2, 3, 0, 4, 1]
    assert sort_rows(rows, "name", True, np.array([4, 3, 0])).tolist() == [4, 0, 3]


@given(
    st.lists(st.integers(0, 50), unique=True, max_size=40),
    st.lists(st.integers(0, 50), max_size=40),
    st.integers(0, 40),
)
def test_index_finds_what_was_put_in(there: list[int], asked: list[int], first: int) -> None:
    hashes = np.array(there, np.uint64) << np.uint64(14)  # all begin at one place of the table
    index = Index(hashes[:first])
    index.add(hashes[first:], hashes)
    found = index.find(np.array(asked, np.uint64) << np.uint64(14))
    assert found.tolist() == [there.index(each) if each in there else -1 for each in asked]


def test_index_grows() -> None:
    hashes = mix(np.zeros(20_000, np.uint64), np.arange(20_000))
    index = Index(hashes[:10])
    for first in range(10, 20_000, 1999):
        index.add(hashes[first : first + 1999], hashes[: first + 1999])
    assert (index.find(hashes) == np.arange(20_000)).all()


@pytest.mark.parametrize("kind", TYPES)
def test_order_of_many(kind: str) -> None:
    values = np.random.default_rng(3).integers(0, 100, 70_000).astype(kind)
    order = argsort(values)
    assert (order == np.argsort(values, kind="stable")).all()
