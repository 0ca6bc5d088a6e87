"""Further columns: any element, as what its data type says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import FlowBatch, Octets, PacketBatch
from pyflowx.common import TABLE
from pyflowx.conversion import Conversion, further
from pyflowx.conversion.further import Further, parse_columns
from pyflowx.elements import DATA_TYPES, FieldSpecifier, InformationElement, default_registry, read_mapping
from pyflowx.errors import ConfigError
from pyflowx.wire import Decoder

Flows = Callable[..., list[dict[str, Any]]]
NTP_2023 = (1_700_000_000 + 2_208_988_800) << 32


def of(*texts: str, registry: Any = None) -> Further:
    return Further(parse_columns(texts, registry or default_registry(), ()))


CASES = [
    ("applicationName:3", b"web", "label", "web"),
    ("applicationName:5", b"web\0\0", "label", "web"),
    ("applicationName:2", b"\xffx", "label", "\\xffx"),
    ("applicationId:4", b"\3\0\0\x35", "label", "03000035"),
    ("flowId", 1 << 63, "u64", 1 << 63),
    ("flowId:3", 70_000, "u64", 70_000),
    ("forwardingStatus", 64, "u8", 64),
    ("forwardingStatus:4", 256, "u8", None),
    ("mibObjectValueInteger", (1 << 32) - 5, "i64", -5),
    ("mibObjectValueInteger:2", (1 << 16) - 5, "i64", -5),
    ("samplingProbability", struct.pack(">d", 0.25), "f64", 0.25),
    ("samplingProbability:4", struct.pack(">f", 0.25), "f64", 0.25),
    ("samplingProbability", struct.pack(">d", float("nan")), "f64", None),
    ("samplingProbability:2", b"ab", "f64", None),
    ("dataRecordsReliability", 1, "label", "true"),
    ("dataRecordsReliability", 2, "label", "false"),
    ("observationTimeSeconds", 1_700_000_000, "time", 1_700_000_000 * 10**9),
    ("observationTimeMicroseconds", NTP_2023, "time", 1_700_000_000 * 10**9),
    ("observationTimeMicroseconds", 0, "time", None),
    ("staIPv4Address", 0x0A000001, "address", 0x0A000001),
    ("staIPv4Address:3", b"abc", "address", None),
    ("wtpMacAddress", 0x001122334455, "mac", 0x001122334455),
    ("reverseOctetDeltaCount", 7, "u64", 7),
    ("9/12235:4", b"\1\2\3\4", "label", "\1\2\3\4"),  # Cisco's element is known, and a string
    ("55555/17:2", b"\1\2", "label", "0102"),
]


@pytest.mark.parametrize(("field", "value", "type", "expected"), CASES, ids=lambda case: str(case))
def test_an_element_of_each_type(
    exporter: Any, rows_of: Flows, field: str, value: Any, type: str, expected: object
) -> None:
    columns = of(f"x={field.partition(':')[0]}")
    (flow,) = rows_of(Conversion(further=columns), exporter.message(exporter.set({field: value})))
    assert flow.get("x") == expected
    assert columns.types() == {"x": type}
    assert list(flow)[-1] in ("x", "template_id")


def test_an_ipv6_address(exporter: Any, rows_of: Flows) -> None:
    address = b"\x20\x01" + bytes(14)
    message = exporter.message(exporter.set({"collectorIPv6Address": address}))
    (flow,) = rows_of(Conversion(further=of("x=collectorIPv6Address")), message)
    assert bytes(flow["x"]) == address


def test_several_columns_stand_behind_the_common_ones_in_their_order(exporter: Any) -> None:
    record = {"octetDeltaCount": 1, "flowId": 2, "applicationName:1": b"a"}
    (decoded,), _ = Decoder().decode(PacketBatch.of([exporter.message(exporter.set(record))]), 0)
    conversion = Conversion(further=of("b=flowId", "a=applicationName", "missing=vlanId", "again=flowId"))
    (batch,) = conversion(decoded)
    names = [column.name for column in TABLE if column.name in batch.columns]
    assert list(batch.columns) == [*names, "b", "a", "again"]
    assert conversion.types() == {"b": "u64", "a": "label", "missing": "u16", "again": "u64"}
    assert Conversion().types() == {}


def test_of_a_repeated_element_the_first(rows_of: Flows) -> None:
    field = default_registry().field("flowId")
    batch = FlowBatch((field, field), [np.array([1], np.uint64), np.array([2], np.uint64)])
    assert of("x=flowId").of(batch)["x"].values.tolist() == [1]


def test_elements_of_a_mapping(exporter: Any, rows_of: Flows) -> None:
    registry = default_registry().copy()
    for element in read_mapping(["id,enterprise_number,name,data_type", "17,55555,vendorScore,unsigned16"]):
        registry.add(element)
    message = exporter.message(exporter.set({"55555/17:2": b"\1\2"}))
    (flow,) = rows_of(Conversion(further=of("x=vendorScore", registry=registry)), message, Decoder(registry))
    assert flow["x"] == 0x0102


def test_an_element_that_its_exporter_describes_is_shown_by_its_type() -> None:
    """RFC 5610: the collector's registry does not know the element, so its column is text, but a good one."""
    number = FieldSpecifier(InformationElement(55555, 17, "theirs", DATA_TYPES["unsigned16"]), 2)
    batch = FlowBatch((number,), [np.array([258, 7, 258], np.uint16)])
    column = of("x=55555/17").of(batch)["x"]
    assert column.type == "label" and column.labels is not None
    assert [column.labels[code] for code in column.values] == ["258", "7", "258"]


def test_a_type_that_is_not_the_columns_own_is_null() -> None:
    """NetFlow v5 and sFlow do not read the user's mapping."""
    registry = default_registry().copy()
    registry.add(InformationElement(0, 148, "flowId", DATA_TYPES["dateTimeSeconds"]))
    batch = FlowBatch((default_registry().field("flowId"),), [np.array([1], np.uint64)])
    assert of("x=flowId", registry=registry).of(batch) == {}


def test_fields_of_sflow() -> None:
    columns = of("drops=drops", "host=hostname")
    assert columns.types() == {"drops": "u32", "host": "label"}
    element = columns.columns[0].element
    batch = FlowBatch((FieldSpecifier(element, 4),), [np.array([3], np.uint32)])
    assert columns.of(batch)["drops"].values.tolist() == [3]


def test_labels_are_one_list_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    field = default_registry().field("applicationName")
    columns = of("x=applicationName")

    def labels(*texts: bytes) -> tuple[Any, list[Any]]:
        column = columns.of(FlowBatch((field,), [Octets.of(list(texts))]))["x"]
        assert column.labels is not None
        return column.labels, [column.labels[code] for code in column.values]

    first, shown = labels(b"a", b"b", b"a", b"", b"a\0")
    assert shown == ["a", "b", "a", "", "a"]
    assert sorted(first) == ["", "a", "b"]
    second, shown = labels(b"c", b"a")
    assert second is first and shown == ["c", "a"] and len(first) == 4
    monkeypatch.setattr(further, "_MOST_LABELS", 3)
    third, shown = labels(b"a", b"z")
    assert third is not first and shown == ["a", "z"] and sorted(third) == ["a", "z"]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=30))
def test_octets_of_any_length_read_back_as_hex(rows: list[bytes]) -> None:
    column = of("x=55555/1").of(FlowBatch((default_registry().field("55555/1"),), [Octets.of(rows)]))["x"]
    assert column.labels is not None
    assert [bytes.fromhex(str(column.labels[code])) for code in column.values] == rows
    assert len(set(column.labels)) == len(column.labels) == len(set(rows))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["x"], r"--column x: expected NAME=ELEMENT"),
        (["x="], r"expected NAME=ELEMENT"),
        (["=flowId"], r"expected NAME=ELEMENT"),
        (["a b=flowId"], r"the name of letters, digits and underscores"),
        (["1x=flowId"], r"the name of letters"),
        (["bytes=flowId"], r"there is a column bytes already; use another name: x_bytes"),
        (["src_org=flowId"], r"there is a column src_org already"),
        (["a=flowId", "a=vlanId"], r"there is a column a already"),
        (["a=aplicationName"], r"no element 'aplicationName': did you mean applicationName\?"),
        (["a=zzzzzz"], r"no element 'zzzzzz': pyflowx elements searches them"),
        (["a=40000"], r"an id goes to 32767"),
        (["a=4294967296/1"], r"an enterprise number to 4294967295"),
        (["a=9999"], r"no element '9999'"),
        (["a=basicList"], r"basicList is structured data \(RFC 6313\); -f raw writes it in full"),
    ],
)
def test_options_that_are_not_usable(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_columns(texts, default_registry(), {"bytes", "src_org"})
