"""The compiled dictionary encoder against the same thing in Python, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.sinks._codes import encode, pack

WIDTHS = [1, 2, 4, 8, 16]


def unpack(octets: bytes, width: int, n: int) -> list[int]:
    """Parquet's hybrid of runs and bit-packed groups, read as its specification says."""
    found: list[int] = []
    at = 0
    while len(found) < n:
        head = shift = 0
        while True:
            head |= (octets[at] & 0x7F) << shift
            shift += 7
            at += 1
            if octets[at - 1] < 0x80:
                break
        if head & 1:
            size = (head >> 1) * width
            bits = int.from_bytes(octets[at : at + size], "little")
            found += [bits >> i * width & ((1 << width) - 1) for i in range(8 * (head >> 1))]
        else:
            size = (width + 7) // 8
            found += [int.from_bytes(octets[at : at + size], "little")] * (head >> 1)
        at += size
    assert at == len(octets)
    assert len(found) < n + 8
    return found[:n]


@given(
    st.integers(0, 16).flatmap(
        lambda width: st.tuples(
            st.just(width),
            st.lists(
                st.tuples(st.integers(0, (1 << width) - 1), st.sampled_from([1, 2, 7, 8, 9, 63, 700])), max_size=20
            ),
        )
    )
)
def test_codes_are_packed(case: tuple[int, list[tuple[int, int]]]) -> None:
    width, runs = case
    codes = [code for code, count in runs for _ in range(count)]
    out = np.zeros((len(codes) + 7) // 8 * (width + 1) + 16 + 8, np.uint8)
    out[-8:] = 0xAA
    used = pack(np.array(codes, np.uint16), width, out[:-8])
    assert unpack(out[:used].tobytes(), width, len(codes)) == codes
    assert (out[-8:] == 0xAA).all()


@given(st.sampled_from(WIDTHS), st.lists(st.lists(st.binary(min_size=1, max_size=16), max_size=40), max_size=4))
def test_values_get_the_numbers_of_their_first_coming(width: int, batches: list[list[bytes]]) -> None:
    keys, table = np.zeros(16 * width, np.uint8), np.zeros(32, np.uint16)
    known: list[bytes] = []
    count = 0
    for batch in batches:
        values = [value.ljust(width, b"\0")[:width] for value in batch]
        codes = np.zeros(len(values), np.uint16)
        count, done = encode(b"".join(values), width, table, keys, count, codes)
        expected = []
        for value in values:
            if value not in known:
                if len(known) == 16:
                    break
                known.append(value)
            expected.append(known.index(value))
        assert codes[:done].tolist() == expected
        assert keys.tobytes()[: count * width] == b"".join(known)
        if done < len(values):
            break


def test_a_table_that_is_full_of_neighbours_still_finds_all() -> None:
    """Values whose places in the table collide."""
    values = np.arange(10_000, dtype=np.uint64) << np.uint64(40)
    keys, table = np.zeros(8 * 16384, np.uint8), np.zeros(32768, np.uint16)
    codes = np.zeros(len(values), np.uint16)
    assert encode(values, 8, table, keys, 0, codes) == (10_000, 10_000)
    assert codes.tolist() == list(range(10_000))


def arguments(**other: Any) -> list[Any]:
    good: dict[str, Any] = {
        "values": bytes(8),
        "width": 4,
        "table": np.zeros(8, np.uint16),
        "keys": np.zeros(16, np.uint8),
        "count": 0,
        "codes": np.zeros(2, np.uint16),
    }
    return list((good | other).values())


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("width", 3, "width"),
        ("width", 0, "width"),
        ("table", np.zeros(7, np.uint16), "table"),
        ("table", np.zeros(4, np.uint16), "table"),
        ("table", np.zeros(0, np.uint16), "table"),
        ("keys", np.zeros(4 * 65536, np.uint8), "table"),
        ("count", 5, "count"),
        ("count", -1, "count"),
        ("codes", np.zeros(1, np.uint16), "codes"),
    ],
)
def test_sizes_that_do_not_fit_are_errors(name: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        encode(*arguments(**{name: value}))
    assert encode(*arguments()) == (1, 2)


@pytest.mark.parametrize(("width", "room"), [(-1, 100), (17, 100), (16, 0), (8, 9 * 2 + 15)])
def test_an_output_that_is_too_small_is_an_error(width: int, room: int) -> None:
    with pytest.raises(ValueError, match="out: too small"):
        pack(np.zeros(16, np.uint16), width, bytearray(room))


def test_what_is_read_only_is_not_written_to() -> None:
    with pytest.raises((TypeError, BufferError)):
        encode(*arguments(codes=bytes(4)))
