"""The compiled row writer against the same thing in Python, and what it refuses."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import V4_MAPPED, Octets
from pyflowx.sinks._rows import fill
from pyflowx.sinks.rows import FIXED_LENGTH, NO_LENGTH, SLACK, VARINT_LENGTH, Cell, RowWriter, Value, cell, json_string

LABELS = (b"", b"one", b"a much longer label than any number has digits, longer than a block of thirty-two")


def ipv6_text(octets: bytes, mapped_as_ipv4: bool) -> str:
    address = ipaddress.IPv6Address(octets)
    if address.ipv4_mapped is not None:
        return f"{'' if mapped_as_ipv4 else '::ffff:'}{address.ipv4_mapped}"
    return str(address)


def varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def oracle(kind: str, values: Any, extra: Any, row: int) -> bytes:
    if kind == "c":
        octets, ends, _ = extra
        return octets.tobytes()[ends[values[row]] : ends[values[row] + 1]]
    if kind == "t":
        return Octets(values, *extra).tolist()[row]
    if kind in "6a":
        return ipv6_text(values[row].tobytes(), kind == "a").encode()
    if kind == "B":
        octets = values[row].tobytes()
        octets = octets[12:] if octets.startswith(V4_MAPPED) else octets
        return bytes([len(octets)]) + octets
    value = int(values[row])
    if kind == "v":
        return varint(value % (1 << 64))
    if kind == "b":
        return b"\4" + value.to_bytes(4, "big")
    if kind == "l":
        return bytes(extra[value])
    if kind == "m":
        return (value & (2**48 - 1)).to_bytes(6, "big").hex(":").encode()
    return (str(ipaddress.IPv4Address(value)) if kind == "4" else str(value)).encode()


def edges(bits: int, signed: bool = False) -> st.SearchStrategy[int]:
    """Integers of so many bits; the powers of ten and their neighbours, where the number of digits changes."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    near = [10**k + d for k in range(20) for d in (-1, 0, 1)]
    found = [s * v for v in near for s in (1, -1) if low <= s * v <= high]
    return st.sampled_from([*found, low, high]) | st.integers(low, high)


ADDRESSES = (
    st.binary(min_size=16, max_size=16)
    | st.builds(
        lambda groups: b"".join(groups),
        st.lists(st.sampled_from([b"\0\0", b"\0\1", b"\x0a\0", b"\xff\xff"]), min_size=8, max_size=8),
    )
    | st.builds(lambda low: V4_MAPPED + low, st.binary(min_size=4, max_size=4))
)


@st.composite
def columns(draw: st.DrawFn, n: int) -> tuple[str, Any, Any]:
    kind = draw(st.sampled_from("ui46almtvbBc"))
    extra: Any = None
    values: Any
    few = draw(st.booleans())  # values that come again are copied from the row before

    def some(strategy: st.SearchStrategy[Any]) -> list[Any]:
        if few:
            return draw(
                st.lists(st.sampled_from(draw(st.lists(strategy, min_size=1, max_size=2))), min_size=n, max_size=n)
            )
        return draw(st.lists(strategy, min_size=n, max_size=n))

    if kind in "ui":
        size = draw(st.sampled_from([1, 2, 4, 8]))
        values = np.array(some(edges(8 * size, kind == "i")), f"{kind}{size}")
    elif kind == "v":
        dtype = draw(st.sampled_from(["u1", "u2", "u4", "u8", "i8"]))
        values = np.array(some(edges(8 * int(dtype[1]), dtype == "i8")), dtype)
    elif kind in "4b":
        values = np.array(some(edges(32)), np.uint32)
    elif kind == "m":
        values = np.array(some(edges(64)), np.uint64)
    elif kind in "6aB":
        values = np.frombuffer(b"".join(some(ADDRESSES)), np.uint8).reshape(n, 16)
    elif kind == "l":
        values = np.array(some(st.integers(0, len(LABELS) - 1)), draw(st.sampled_from(["u1", "u2", "u4"])))
        extra = LABELS
    elif kind == "c":
        values = np.array(some(st.integers(0, len(LABELS) - 1)), draw(st.sampled_from(["i4", "u4"])))
        ends = np.cumsum([0, *map(len, LABELS)])
        extra = np.frombuffer(b"".join(LABELS) + bytes(SLACK), np.uint8), ends, max(map(len, LABELS))
    else:
        text = Octets.of([t.encode() for t in some(st.text(max_size=80))])
        values, extra = text.buffer, (text.starts, text.lengths)
    if kind not in "t6aB" and draw(st.booleans()):  # a view with a stride
        values = np.repeat(values, 3)[::3]
    return kind, values, extra


@given(
    st.integers(0, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(columns(n), max_size=5))),
    st.booleans(),
    st.data(),
)
def test_every_kind_against_python(
    case: tuple[int, list[tuple[str, Any, Any]]], nulls: bool, data: st.DataObject
) -> None:
    n, found = case
    masks = [data.draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n)) for _ in found]
    texts = data.draw(st.lists(st.sampled_from([b"", b",", b'"key":', b"x" * 70]), min_size=2, max_size=2))
    specs = tuple(
        (kind, texts[0], texts[1], values, None if mask is None else np.array(mask, bool), extra)
        for (kind, values, extra), mask in zip(found, masks, strict=True)
    )
    length = data.draw(st.sampled_from([NO_LENGTH, VARINT_LENGTH, FIXED_LENGTH]))
    writer = RowWriter(b"{", b";", b"}\n", nulls=nulls, length=length, capacity=data.draw(st.integers(1, 400)))
    block, ends = writer.block(specs, n)
    expected = []
    for row in range(n):
        cells = []
        for (kind, values, extra), mask in zip(found, masks, strict=True):
            if mask is None or mask[row]:
                cells.append(texts[0] + oracle(kind, values, extra, row) + texts[1])
            elif nulls:
                cells.append(b"")
        line = b"{" + b";".join(cells) + b"}\n"
        head = {NO_LENGTH: b"", VARINT_LENGTH: varint(len(line)), FIXED_LENGTH: len(line).to_bytes(4, "little")}
        expected.append(head[length] + line)
    assert block == b"".join(expected)
    assert ends.tolist() == np.cumsum([len(line) for line in expected]).tolist()
    whole, same_ends = writer.whole(specs, n)
    assert (bytes(whole), same_ends.tolist()) == (block, ends.tolist())


def test_one_value_for_all_rows() -> None:
    column = np.broadcast_to(np.uint64(7), 3)
    assert RowWriter(b"", b",", b"\n").block((cell(b"", Value("u", False, column)),), 3)[0] == b"7\n7\n7\n"


@pytest.mark.parametrize("sizes", [[126, 128, 126], [1, 16_382, 1, 16_384, 127, 128], [2_100_000, 3]])
def test_lengths_whose_own_length_changes(sizes: list[int]) -> None:
    """The row moves; what comes after it must not copy from where it was."""
    text = Octets.of([b"x" * size for size in sizes])
    same = np.full(len(sizes), 7, np.uint8)
    cells = cell(b"", Value.text(text)), cell(b"#", Value("v", False, same))
    expected = b"".join(varint(size + 2) + b"x" * size + b"#\7" for size in sizes)
    assert RowWriter(b"", b"", b"", length=VARINT_LENGTH).block(cells, len(sizes))[0] == expected


def test_no_columns_and_no_rows() -> None:
    assert RowWriter(b"{", b",", b"}").block((), 2)[0] == b"{}{}"
    assert RowWriter(b"{", b",", b"}").block((cell(b"", Value("u", False, np.zeros(0, np.uint8))),), 0)[0] == b""


@given(st.text())
def test_json_strings_read_back_and_leave_terminals_alone(text: str) -> None:
    literal = json_string(text)
    assert json.loads(literal) == text
    assert literal.isprintable()


U8 = np.zeros(2, np.uint8)
OFFSETS = np.zeros(2, np.int64)
CODES, TEXTS = np.array([0, 1], np.int32), np.zeros(10 + SLACK, np.uint8)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (("u", b"", b"", np.zeros(1, np.uint8), None, None), "with 1 rows"),
        (("u", b"", b"", np.zeros(2, np.int8), None, None), "unsigned"),
        (("u", b"", b"", np.zeros(2, ">u4"), None, None), "unsigned"),
        (("u", b"", b"", np.zeros(2, np.float64), None, None), "unsigned"),
        (("u", b"", b"", np.uint8(1), None, None), "unsigned"),
        (("u", b"", b"", np.zeros((2, 0), np.uint8), None, None), "unsigned: 2 dimensions"),
        (("u", b"", b"", U8, np.zeros((2, 0), bool), None), "valid: 2 dimensions"),
        (("i", b"", b"", U8, None, None), "signed"),
        (("m", b"", b"", np.zeros(2, np.uint32), None, None), "MAC"),
        (("4", b"", b"", np.zeros(2, np.uint64), None, None), "IPv4"),
        (("6", b"", b"", np.zeros((2, 15), np.uint8), None, None), "IPv6"),
        (("6", b"", b"", np.zeros((2, 32), np.uint8)[:, ::2], None, None), "IPv6"),
        (("a", b"", b"", np.zeros(32, np.uint8), None, None), "IPv6"),
        (("u", b"", b"", U8, np.zeros(1, bool), None), "valid"),
        (("u", b"", b"", U8, np.zeros(2, np.int32), None), "valid"),
        (("l", b"", b"", np.ones(2, np.uint8), None, (b"one",)), "label"),
        (("t", b"", b"", U8, None, (OFFSETS, OFFSETS + 3)), "outside"),
        (("t", b"", b"", U8, None, (OFFSETS + 3, OFFSETS)), "outside"),
        (("t", b"", b"", U8, None, (OFFSETS - 1, OFFSETS)), "outside"),
        (("t", b"", b"", U8, None, (OFFSETS, OFFSETS - 1)), "outside"),
        (("t", b"", b"", U8, None, (OFFSETS + 2**62, OFFSETS + 2**62)), "outside"),
        (("t", b"", b"", np.zeros(8, np.uint8)[::2], None, (OFFSETS, OFFSETS)), "one run"),
        (("t", b"", b"", U8, None, (OFFSETS.astype(np.int32), OFFSETS)), "starts"),
        (("c", b"", b"", CODES, None, (TEXTS, np.array([0, 1]), 9)), "without a label"),
        (("c", b"", b"", CODES, None, (TEXTS, np.array([0, 1, 3]), 1)), "without a label"),
        (("c", b"", b"", CODES, None, (TEXTS, np.array([0, -1, 3]), 9)), "without a label"),
        (("c", b"", b"", CODES, None, (TEXTS, np.array([0, 2, 1]), 9)), "without a label"),
        (("c", b"", b"", CODES, None, (TEXTS, np.array([0, 1, len(TEXTS) - SLACK + 1]), 9)), "without a label"),
        (("c", b"", b"", CODES, None, (TEXTS[: SLACK - 1], np.array([0, 0, 0]), 0)), "one run"),
        (("c", b"", b"", CODES, None, (TEXTS, np.array([0, 1, 2]), len(TEXTS) + 1)), "one run"),
        (("c", b"", b"", CODES, None, (TEXTS, np.array([0, 1, 2]), -1)), "negative"),
        (("c", b"", b"", CODES, None, (TEXTS, np.zeros(0, np.int64), 9)), "ends"),
        (("c", b"", b"", CODES.astype(np.int64), None, (TEXTS, np.array([0, 1, 2]), 9)), "codes"),
        (("x", b"", b"", U8, None, None), "no kind"),
        (("v", b"", b"", np.zeros(2, np.int32), None, None), "varint"),
        (("b", b"", b"", np.zeros(2, np.uint64), None, None), "IPv4"),
        (("B", b"", b"", np.zeros((2, 15), np.uint8), None, None), "IPv6"),
    ],
)
def test_a_wrong_column_is_an_error(spec: Cell, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        RowWriter(b"", b"", b"").block((spec,), 2)


@pytest.mark.parametrize(
    "spec",
    [
        (),
        ("u", b"", b"", U8, None),
        ("uu", b"", b"", U8, None, None),
        (1, b"", b"", U8, None, None),
        ("u", "", b"", U8, None, None),
        ("l", b"", b"", U8, None, [b"one"]),
        ("l", b"", b"", U8, None, ("one",)),
        ("t", b"", b"", U8, None, None),
        ("c", b"", b"", CODES, None, None),
        ("c", b"", b"", CODES, None, (TEXTS, np.array([0, 1, 2]), "9")),
        ("u", b"", b"", [1, 2], None, None),
    ],
)
def test_a_column_of_wrong_types_is_an_error(spec: Any) -> None:
    with pytest.raises(TypeError):
        RowWriter(b"", b"", b"").block((spec,), 2)


@pytest.mark.parametrize(("first", "last"), [(-1, 1), (2, 1)])
def test_rows_that_are_no_range_are_an_error(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        fill(bytearray(9), first, last, b"", b"", b"", False, 0, (), None)


def test_ends_that_are_too_few_are_an_error() -> None:
    with pytest.raises(ValueError, match="ends"):
        fill(bytearray(999), 0, 2, b"", b"", b"", False, 0, (), np.zeros(1, np.int64))


def test_only_whole_rows_are_written() -> None:
    """The end of the buffer is never passed: rows go in as long as the longest they might be does."""
    spec = cell(b"", Value("u", False, np.arange(100, dtype=np.uint64)))
    for size in range(0, 600, 7):
        out = bytearray(b"#" * (size + 8))
        following, used = fill(memoryview(out)[:size], 0, 100, b"", b",", b"\n", False, 0, (spec,), None)  # type: ignore[arg-type]
        assert bytes(out[:used]) == b"".join(b"%d\n" % i for i in range(following))
        assert out[size:] == b"#" * 8
