"""Biflows (RFC 5103): the reverse direction as a flow of its own, nothing of it in the forward one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import FlowBatch, Octets
from pyflowx.conversion import Conversion
from pyflowx.conversion.biflow import split
from pyflowx.conversion.further import Further, parse_columns
from pyflowx.elements import default_registry

Flows = Callable[..., list[dict[str, Any]]]
MS = 1_000_000
SECOND = 1_700_000_000
A, B, V6_A, V6_B = 0x0A000001, 0x0A000002, b"\x20\x01" + bytes(13) + b"\1", b"\x20\x01" + bytes(13) + b"\2"
BIFLOW = {
    "sourceIPv4Address": A,
    "destinationIPv4Address": B,
    "sourceTransportPort": 1024,
    "destinationTransportPort": 443,
    "protocolIdentifier": 6,
    "octetDeltaCount": 500,
    "reverseOctetDeltaCount": 9000,
    "packetDeltaCount": 5,
    "reversePacketDeltaCount": 9,
    "tcpControlBits": 0x02,
    "reverseTcpControlBits": 0x12,
    "flowStartMilliseconds": SECOND * 1000,
    "flowEndMilliseconds": SECOND * 1000 + 500,
    "reverseFlowStartMilliseconds": SECOND * 1000 + 20,
    "reverseFlowEndMilliseconds": SECOND * 1000 + 480,
}
FORWARD = {
    "src_addr": A,
    "dst_addr": B,
    "src_port": 1024,
    "dst_port": 443,
    "proto": 6,
    "bytes": 500,
    "packets": 5,
    "tcp_flags": 0x02,
    "time_flow_start_ns": SECOND * 1000 * MS,
    "time_flow_end_ns": (SECOND * 1000 + 500) * MS,
}
REVERSE = {
    "src_addr": B,
    "dst_addr": A,
    "src_port": 443,
    "dst_port": 1024,
    "proto": 6,
    "bytes": 9000,
    "packets": 9,
    "tcp_flags": 0x12,
    "time_flow_start_ns": (SECOND * 1000 + 20) * MS,
    "time_flow_end_ns": (SECOND * 1000 + 480) * MS,
}
FACTS = ("flow_type", "time_received_ns", "sequence_num", "sampler_address", "observation_domain_id", "template_id")


def found(flows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in flow.items() if k not in (*FACTS, "etype")} for flow in flows]


@pytest.fixture
def converted(rows_of: Flows) -> Flows:
    def convert(message: bytes, columns: tuple[str, ...] = (), split_biflow: bool = True) -> list[dict[str, Any]]:
        further = Further(parse_columns(columns, default_registry(), ()))
        return rows_of(Conversion(split_biflow=split_biflow, further=further), message)

    return convert


def test_two_flows_of_a_biflow(exporter: Any, converted: Flows) -> None:
    flows = converted(exporter.message(exporter.set(BIFLOW)))
    assert found(flows) == [FORWARD, REVERSE]
    assert [flow["etype"] for flow in flows] == [0x0800] * 2
    assert all(flows[0][name] == flows[1][name] for name in FACTS)


def test_without_the_option_reverse_elements_overwrite_nothing(exporter: Any, converted: Flows) -> None:
    reverse_first = dict(sorted(BIFLOW.items(), key=lambda item: not item[0].startswith("reverse")))
    assert found(converted(exporter.message(exporter.set(reverse_first)), split_biflow=False)) == [FORWARD]
    only_reverse = {name: value for name, value in BIFLOW.items() if name.startswith("reverse")}
    (flow,) = found(converted(exporter.message(exporter.set(only_reverse)), split_biflow=False))
    assert flow == {"bytes": 0, "packets": 0}


def test_only_where_packets_came_back(exporter: Any, converted: Flows) -> None:
    rows = [BIFLOW, BIFLOW | {"reversePacketDeltaCount": 0}, BIFLOW | {"sourceTransportPort": 7}]
    flows = found(converted(exporter.message(exporter.set(*rows))))
    ports = [(flow["src_port"], flow["dst_port"]) for flow in flows]
    assert ports == [(1024, 443), (1024, 443), (7, 443), (443, 1024), (443, 7)]


@pytest.mark.parametrize(
    ("counters", "count"),
    [
        ({"reverseOctetDeltaCount": 1}, 2),
        ({"reverseOctetTotalCount": 1}, 2),
        ({"reversePacketTotalCount": 1}, 2),
        ({"reversePacketTotalCount": 0, "reverseOctetTotalCount": 40}, 1),
        ({"reverseOctetDeltaCount": 0}, 1),
        ({"reverseTcpControlBits": 0x12}, 1),  # nothing says that a packet came back
    ],
)
def test_the_counters_that_say_so(exporter: Any, converted: Flows, counters: dict[str, int], count: int) -> None:
    assert len(converted(exporter.message(exporter.set({"sourceIPv4Address": A} | counters)))) == count


EVERYTHING = [
    ("src_addr", "sourceIPv6Address", V6_A, "dst_addr", "destinationIPv6Address", V6_B),
    ("src_mac", "sourceMacAddress", 1, "dst_mac", "destinationMacAddress", 2),
    ("src_mac", "postSourceMacAddress", 1, "dst_mac", "postDestinationMacAddress", 2),
    ("in_if", "ingressInterface", 1, "out_if", "egressInterface", 2),
    ("in_if", "ingressPhysicalInterface", 1, "out_if", "egressPhysicalInterface", 2),
    ("src_as", "bgpSourceAsNumber", 1, "dst_as", "bgpDestinationAsNumber", 2),
    ("src_net", "sourceIPv4PrefixLength", 24, "dst_net", "destinationIPv4PrefixLength", 16),
    ("src_net", "sourceIPv6PrefixLength", 64, "dst_net", "destinationIPv6PrefixLength", 48),
    ("src_vlan", "vlanId", 1, "dst_vlan", "postVlanId", 2),
    ("src_vlan", "dot1qVlanId", 1, "dst_vlan", "postDot1qVlanId", 2),
    ("src_port", "udpSourcePort", 1, "dst_port", "udpDestinationPort", 2),
]


@pytest.mark.parametrize("case", EVERYTHING, ids=lambda case: case[1])
def test_source_and_destination_change_places(exporter: Any, converted: Flows, case: tuple[Any, ...]) -> None:
    here, source, one, there, destination, two = case
    record = {source: one, destination: two, "reverseOctetDeltaCount": 1}
    first, second = converted(exporter.message(exporter.set(record)))
    assert (second[here], second[there]) == (first[there], first[here])
    alone = {source: one, "reverseOctetDeltaCount": 1}
    first, second = converted(exporter.message(exporter.set(alone)))
    assert here in first and there not in first
    assert second[there] == first[here] and here not in second


def test_what_was_said_of_forward_packets_is_not_said_of_the_others(exporter: Any, converted: Flows) -> None:
    record = {
        "sourceIPv4Address": A,
        "octetDeltaCount": 1,
        "packetDeltaCount": 1,
        "tcpControlBits": 2,
        "ipClassOfService": 4,
        "ipTTL": 64,
        "flowLabelIPv6": 7,
        "fragmentIdentification": 8,
        "fragmentOffset": 9,
        "icmpTypeCodeIPv4": 0x800,
        "ipNextHopIPv4Address": B,
        "bgpNextHopIPv4Address": B,
        "samplingInterval": 10,
        "reversePacketDeltaCount": 1,
    }
    _, second = found(converted(exporter.message(exporter.set(record))))
    assert second == {"dst_addr": A, "bytes": 0, "packets": 1, "sampling_rate": 10}


def test_times_that_only_the_biflow_has(exporter: Any, converted: Flows) -> None:
    times = {"flowStartMilliseconds": SECOND * 1000, "flowEndMilliseconds": SECOND * 1000 + 500}
    record = times | {"reverseOctetDeltaCount": 1}
    first, second = converted(exporter.message(exporter.set(record)))
    assert second["time_flow_start_ns"] == first["time_flow_start_ns"]
    delayed = times | {"reverseFlowDeltaMilliseconds": 30, "reverseOctetDeltaCount": 1}
    first, second = converted(exporter.message(exporter.set(delayed)))
    assert second["time_flow_start_ns"] == first["time_flow_start_ns"] + 30 * MS
    assert second["time_flow_end_ns"] == first["time_flow_end_ns"]


def test_who_began_is_seen_from_the_source_of_each_flow(exporter: Any, converted: Flows) -> None:
    rows = [{"biflowDirection": i, "reverseOctetDeltaCount": 1} for i in range(4)]
    flows = converted(exporter.message(exporter.set(*rows)), ("initiator=biflowDirection",))
    assert [flow["initiator"] for flow in flows] == [0, 1, 2, 3, 0, 2, 1, 3]


def test_firewall_records_of_initiator_and_responder_stay_one_flow(exporter: Any, converted: Flows) -> None:
    record = {"sourceIPv4Address": A, "initiatorOctets": 5, "responderOctets": 6, "initiatorPackets": 1}
    assert found(converted(exporter.message(exporter.set(record | {"responderPackets": 2})))) == [
        {"src_addr": A, "bytes": 5, "packets": 1}
    ]


def test_the_reverse_of_a_vendors_elements(exporter: Any, converted: Flows) -> None:
    record = {"6871/500": 1, "6871/16884": 2, "reverseOctetDeltaCount": 1}  # smallPacketCount, and its reverse
    assert default_registry().get(6871, 16884).is_reverse
    small = {f"{name}:4" if "/" in name else name: value for name, value in record.items()}
    flows = converted(exporter.message(exporter.set(small)), ("small=6871/500",))
    assert [flow["small"] for flow in flows] == [1, 2]


def test_options_data_is_left_alone() -> None:
    field = default_registry().field("reverseOctetDeltaCount")
    batch = FlowBatch((field,), [np.ones(1, np.uint64)], np.zeros(1, np.int32), scope_count=1)
    assert split([batch], default_registry()) == [batch]


def test_a_reverse_counter_in_an_odd_length_counts_nothing() -> None:
    field = default_registry().field("reverseOctetDeltaCount", 9)
    batch = FlowBatch((field,), [Octets.of([b"123456789"])])
    batch.message = np.zeros(1, np.int32)
    assert split([batch], default_registry()) == [batch]


@given(st.lists(st.sampled_from(list(default_registry())), min_size=1, max_size=12), st.data())
def test_any_record_splits(elements: list[Any], data: st.DataObject) -> None:
    """Rows with packets in reverse, and no others; the first flows as they were."""
    n = data.draw(st.integers(1, 3))
    registry = default_registry()
    names = [element.name for element in elements] + ["reversePacketDeltaCount"]
    fields = [registry.field(name, sorted(registry.field(name).element.data_type.lengths or [5])[0]) for name in names]
    columns: list[Any] = []
    for field in fields:
        raw = data.draw(st.binary(min_size=n * field.length, max_size=n * field.length))
        cells = np.frombuffer(raw, np.uint8).reshape(n, field.length)
        octets = Octets.of([row.tobytes() for row in cells])
        columns.append(field.element.data_type.to_column(cells) if field.has_column else octets)
    batch = FlowBatch(tuple(fields), columns, np.arange(n, dtype=np.int32), template_id=np.arange(n, dtype=np.uint16))
    batch.set_offset = np.zeros(n, np.int32)
    first, *second = split([batch], registry)
    assert first is batch
    back = np.flatnonzero(columns[-1])
    assert [flow.message.tolist() for flow in second] == ([back.tolist()] if len(back) else [])
    for flow in second:
        assert all(len(column) == len(back) for column in flow.columns)
        assert not any(field.element.is_reverse for field in flow.fields)
