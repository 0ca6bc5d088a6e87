"""Columns as text, against the standard library and against reading the text back."""

from __future__ import annotations

import datetime as dt
import ipaddress
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx import text
from pyflowx.batch import Octets
from pyflowx.elements import DATA_TYPES, from_nanoseconds

EPOCH = dt.datetime(1970, 1, 1)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def shown(column: Octets) -> list[str]:
    return [row.decode() for row in column.tolist()]


def render(type_name: str, column: Any) -> list[str]:
    return shown(text.render(DATA_TYPES[type_name], column))


@given(st.lists(U64))
def test_unsigned(values: list[int]) -> None:
    assert render("unsigned64", np.array(values, np.uint64)) == [str(value) for value in values]


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_signed(values: list[int]) -> None:
    assert render("signed64", np.array(values, np.int64)) == [str(value) for value in values]


@given(st.lists(st.floats()))
def test_floats_read_back_to_the_same_value(values: list[float]) -> None:
    for value, shown_as in zip(values, render("float64", np.array(values, np.float64)), strict=True):
        assert struct.pack(">d", float(shown_as)) == struct.pack(">d", value) or value != value
        assert value == value or shown_as == "NaN"


@given(st.lists(st.floats(width=32)))
def test_short_floats_read_back_to_the_same_value(values: list[float]) -> None:
    column = np.array(values, np.float32)
    again = np.array([float(row) for row in render("float32", column)], np.float32)
    assert np.array_equal(column, again, equal_nan=True)


def test_infinite_floats() -> None:
    assert render("float64", np.array([np.inf, -np.inf, 0.1])) == ["inf", "-inf", "0.1"]


def test_booleans_are_1_and_2() -> None:
    assert render("boolean", np.array([1, 2, 0, 255], np.uint8)) == ["true", "false", "0", "255"]


@given(st.lists(U32))
def test_ipv4(values: list[int]) -> None:
    assert render("ipv4Address", np.array(values, np.uint32)) == [str(ipaddress.IPv4Address(v)) for v in values]


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_ipv6(values: list[bytes]) -> None:
    column = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), 16)
    assert [ipaddress.IPv6Address(row).packed for row in render("ipv6Address", column)] == values


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("2001:0db8:0000:0000:0001:0000:0000:0001", "2001:db8::1:0:0:1"),  # RFC 5952 §4.2.3: the first of equal runs
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),  # §4.2.2: not for one group
        ("::", "::"),
        ("::ffff:c000:0201", "::ffff:192.0.2.1"),  # §5
        ("::c000:0201", "::c000:201"),
    ],
)
def test_ipv6_canonical(address: str, expected: str) -> None:
    column = np.frombuffer(ipaddress.IPv6Address(address).packed, np.uint8).reshape(1, 16)
    assert render("ipv6Address", column) == [expected]


@given(st.lists(st.integers(0, 2**48 - 1)))
def test_mac(values: list[int]) -> None:
    expected = [value.to_bytes(6, "big").hex(":") for value in values]
    assert render("macAddress", np.array(values, np.uint64)) == expected


@given(st.lists(st.integers(0, 2**63 - 1)), st.sampled_from([0, 3, 6, 9]))
def test_times(values: list[int], fraction: int) -> None:
    for ns, row in zip(values, shown(text.iso_times(np.array(values, np.int64), fraction)), strict=True):
        moment = EPOCH + dt.timedelta(microseconds=ns // 1000)
        expected = moment.strftime("%Y-%m-%dT%H:%M:%S")
        digits = f"{ns % 1_000_000_000:09d}"[:fraction]
        assert row == (f"{expected}.{digits}" if fraction else expected)


@pytest.mark.parametrize(
    ("type_name", "expected"),
    [
        ("dateTimeSeconds", "2026-11-05T18:31:01"),
        ("dateTimeMilliseconds", "2026-11-05T18:31:01.135"),
        ("dateTimeMicroseconds", "2026-11-05T18:31:01.135246"),
        ("dateTimeNanoseconds", "2026-11-05T18:31:01.135246357"),
    ],
)
def test_a_time_has_the_digits_of_its_type(type_name: str, expected: str) -> None:
    moment = int((dt.datetime(2026, 11, 5, 18, 31, 1) - EPOCH).total_seconds()) * 1_000_000_000 + 135_246_357
    assert render(type_name, from_nanoseconds(type_name, np.array([moment], np.int64))) == [expected]


def test_what_is_no_time_stays_the_number_it_is() -> None:
    assert render("dateTimeNanoseconds", np.array([0, 2_208_988_800 << 32], np.uint64)) == [
        "0",
        "1970-01-01T00:00:00.000000000",
    ]
    assert render("dateTimeMilliseconds", np.array([2**64 - 1], np.uint64)) == [str(2**64 - 1)]


@given(st.lists(st.binary()))
def test_octets_are_hex(values: list[bytes]) -> None:
    shared = Octets(
        np.frombuffer(b"xyz" + b"".join(values), np.uint8), Octets.of(values).starts + 3, Octets.of(values).lengths
    )
    assert render("octetArray", shared) == [value.hex() for value in values]
    assert render("unsigned32", shared) == [value.hex() for value in values]


@given(st.lists(st.binary(min_size=32, max_size=32)))
def test_unsigned256(values: list[bytes]) -> None:
    assert render("unsigned256", Octets.of(values)) == [str(int.from_bytes(value, "big")) for value in values]


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"Gi0/0/1", "Gi0/0/1"),
        (b"Gi0/0/1\0\0\0", "Gi0/0/1"),
        ("Zürich".encode(), "Zürich"),
        (b"a\xffb", "a\\xffb"),
        (b"\x1b[2J", "\\x1b[2J"),
        ("\u202eabc".encode(), "\\u202eabc"),
        (b"", ""),
    ],
)
def test_strings(octets: bytes, expected: str) -> None:
    assert render("string", Octets.of([octets])) == [expected]


@given(st.lists(st.binary()))
def test_no_string_acts_on_a_terminal(values: list[bytes]) -> None:
    assert all(row.isprintable() for row in render("string", Octets.of(values)))


def test_structured_data_has_a_place_holder() -> None:
    column = np.empty(2, object)
    assert render("basicList", column) == ["[...]", "[...]"]
