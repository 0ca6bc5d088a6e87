"""The registry's facts, and that every abstract data type is lossless both ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyflowx.elements import (
    DATA_TYPES,
    REVERSE_PEN,
    InformationElement,
    Registry,
    default_registry,
    from_nanoseconds,
    to_nanoseconds,
)
from pyflowx.errors import EncodeError

COLUMN_TYPES = [(name, length) for name, row in DATA_TYPES.items() for length in sorted(row.lengths)]
TIMES = {
    "dateTimeSeconds": 10**9,
    "dateTimeMilliseconds": 10**6,
    "dateTimeMicroseconds": 1000,
    "dateTimeNanoseconds": 1,
}


@pytest.mark.parametrize(("name", "length"), COLUMN_TYPES)
@given(data=st.data())
def test_cells_survive_the_column(name: str, length: int, data: st.DataObject) -> None:
    row = DATA_TYPES[name]
    records = data.draw(hnp.arrays(np.uint8, st.tuples(st.integers(0, 20), st.just(length + 5))))
    cells = records[:, 3 : 3 + length]  # as a field stands inside a record
    column = row.to_column(cells)
    assert len(column) == len(cells)
    np.testing.assert_array_equal(row.to_wire(column, length), cells)


@pytest.mark.parametrize(("kind", "signed"), [("unsigned", False), ("signed", True)])
@pytest.mark.parametrize("width", [8, 16, 32, 64])
@given(data=st.data())
def test_integers_mean_what_python_says(kind: str, signed: bool, width: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 8))
    octets = data.draw(st.binary(min_size=length, max_size=length))
    column = DATA_TYPES[f"{kind}{width}"].to_column(np.frombuffer(octets, np.uint8).reshape(1, length))
    assert int(column[0]) == int.from_bytes(octets, "big", signed=signed)
    assert column.dtype.itemsize >= width // 8


@pytest.mark.parametrize("name", ["unsigned16", "unsigned32", "unsigned64", "signed16", "signed32", "signed64"])
@given(data=st.data())
def test_what_does_not_fit_is_an_error_not_a_squeeze(name: str, data: st.DataObject) -> None:
    row, signed = DATA_TYPES[name], name.startswith("s")
    length = data.draw(st.integers(1, row.width - 1))
    low, high = (-(1 << 8 * row.width - 1), (1 << 8 * row.width - 1) - 1) if signed else (0, (1 << 8 * row.width) - 1)
    value = data.draw(st.integers(low, high))
    column = np.array([value], f"{'i' if signed else 'u'}{row.width}")
    fits = -(1 << 8 * length - 1) <= value < 1 << 8 * length - 1 if signed else value < 1 << 8 * length
    if fits:
        assert row.to_wire(column, length).tobytes() == value.to_bytes(length, "big", signed=signed)
    else:
        with pytest.raises(EncodeError):
            row.to_wire(column, length)


def test_a_float64_in_four_octets_must_be_exact() -> None:
    row = DATA_TYPES["float64"]
    assert row.to_wire(np.array([0.5]), 4).tobytes().hex() == "3f000000"
    with pytest.raises(EncodeError):
        row.to_wire(np.array([0.1]), 4)


@pytest.mark.parametrize(("name", "unit"), TIMES.items())
@given(ns=st.integers(0, (1 << 32) * 10**9 - 1))
def test_times_survive_to_their_unit(name: str, unit: int, ns: int) -> None:
    expected = ns // unit * unit
    column = from_nanoseconds(name, np.array([ns], np.int64))
    back, valid = to_nanoseconds(name, column)
    assert back.tolist() == [expected]
    assert valid.tolist() == [True]


def test_ntp_fractions_not_counts() -> None:
    half = np.array([(2_208_988_800 + 1) << 32 | 1 << 31], np.uint64)  # 1970-01-01 00:00:01.5
    for name in ("dateTimeMicroseconds", "dateTimeNanoseconds"):
        assert to_nanoseconds(name, half)[0].tolist() == [1_500_000_000]


def test_ntp_zero_is_unknown_and_low_seconds_are_the_next_era() -> None:
    ns, valid = to_nanoseconds("dateTimeNanoseconds", np.array([0, 1 << 32], np.uint64))
    assert valid.tolist() == [False, True]
    assert ns[1] == (2**32 - 2_208_988_800 + 1) * 10**9  # 2036


def test_a_time_past_int64_is_not_valid() -> None:
    assert to_nanoseconds("dateTimeMilliseconds", np.array([2**64 - 1], np.uint64))[1].tolist() == [False]


def test_the_registry_is_complete() -> None:
    registry = default_registry()
    iana = [element for element in registry if element.pen == 0]
    assert len(iana) == 502 and max(element.id for element in iana) == 533
    vendors = {9, 637, 3054, 5951, 6871, 6876, 8057, 10704, 25461, 26866, 35632, 39499, 41916, 47729}
    assert {element.pen for element in registry} == {0, *vendors}
    assert len(registry) >= 1890
    assert {element.data_type.name for element in registry} <= set(DATA_TYPES)


def test_every_element_is_found_by_identity_and_name() -> None:
    registry = default_registry()
    for element in registry:
        assert registry.get(element.pen, element.id) is element
        by_name = registry.by_name(element.name)
        assert by_name is not None and by_name.name == element.name
        assert by_name.pen == 0 or element.pen != 0, f"{element.name}: IANA's name wins"


def test_the_enterprise_number_is_part_of_the_identity() -> None:
    registry = default_registry()
    assert registry.get(0, 1).name == "octetDeltaCount"
    assert registry.get(REVERSE_PEN, 1).name == "reverseOctetDeltaCount"
    assert registry.get(REVERSE_PEN, 1).is_reverse
    assert registry.get(12345, 1).name == "12345/1"
    assert registry.get(12345, 1).data_type.name == "octetArray"
    assert registry.by_name("reversePacketDeltaCount") == registry.get(REVERSE_PEN, 2)
    assert registry.by_name("8") == registry.by_name("sourceIPv4Address") == registry.by_name("0/8")
    assert registry.by_name("noSuchElement") is None


def test_an_added_element_replaces_and_the_shared_registry_stays() -> None:
    registry = default_registry().copy()
    registry.add(InformationElement(0, 1, "myCount", DATA_TYPES["unsigned32"]))
    assert registry.get(0, 1).name == "myCount"
    assert registry.by_name("octetDeltaCount") is None
    assert default_registry().get(0, 1).name == "octetDeltaCount"
    assert isinstance(registry, Registry)
