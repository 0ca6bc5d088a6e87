"""The common schema: what fills each column, and that nothing else does."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx import common
from pyflowx.batch import V4_MAPPED, FlowBatch
from pyflowx.common import TABLE, CommonBatch, CommonColumn, _plan, to_common, told_rates
from pyflowx.decoded import Decoded, Messages, Protocol
from pyflowx.elements import REVERSE_PEN, FieldSpecifier, default_registry

Make = Callable[..., Decoded]
EXPORT_NS = 1_700_000_000_000_000_000
MS = 1_000_000
V4, V6 = int(ipaddress.IPv4Address("10.0.0.1")), ipaddress.IPv6Address("2001:db8::1").packed
NO_V6 = bytes(16)

NAMES = [
    "flow_type",
    "time_received_ns",
    "sequence_num",
    "sampling_rate",
    "sampler_address",
    "time_flow_start_ns",
    "time_flow_end_ns",
    "bytes",
    "packets",
    "src_addr",
    "dst_addr",
    "src_mac",
    "dst_mac",
    "etype",
    "proto",
    "src_port",
    "dst_port",
    "in_if",
    "out_if",
    "ip_tos",
    "ip_ttl",
    "tcp_flags",
    "icmp_type",
    "icmp_code",
    "ipv6_flow_label",
    "fragment_id",
    "fragment_offset",
    "src_as",
    "dst_as",
    "next_hop",
    "src_net",
    "dst_net",
    "bgp_next_hop",
    "src_vlan",
    "dst_vlan",
    "observation_domain_id",
    "template_id",
]

# What a record has without any element of ours
FACTS = {
    "flow_type": "IPFIX",
    "time_received_ns": 1_700_000_000_123_456_789,
    "sequence_num": 7,
    "sampler_address": "192.0.2.1",
    "bytes": 0,
    "packets": 0,
    "observation_domain_id": 42,
    "template_id": 256,
}


def cell(column: CommonColumn, row: int) -> Any:
    """One value as a reader sees it, None for a null."""
    if column.valid is not None and not column.valid[row]:
        return None
    value = column.values[row]
    if column.type == "label":
        return column.labels[value]
    if column.type == "address":
        address = ipaddress.ip_address(value.tobytes() if column.values.ndim == 2 else int(value))
        return str(getattr(address, "ipv4_mapped", None) or address)
    return int(value)


def row(batch: CommonBatch, number: int = 0) -> dict[str, Any]:
    found = {name: cell(column, number) for name, column in batch.columns.items()}
    return {name: value for name, value in found.items() if value is not None}


def ipv6(*rows: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)


def ntp(ns: int) -> int:
    seconds, rest = divmod(ns, 1_000_000_000)
    return (seconds + 2_208_988_800) << 32 | -(-(rest << 32) // 1_000_000_000)


# A record of these elements, and every column it fills beside the facts
GOLDEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"octetDeltaCount": 5, "packetDeltaCount": 2}, {"bytes": 5, "packets": 2}),
    ({"octetDeltaCount:4": 5, "packetDeltaCount:3": 2}, {"bytes": 5, "packets": 2}),
    ({"octetTotalCount": 5, "packetTotalCount": 2}, {"bytes": 5, "packets": 2}),
    ({"initiatorOctets": 5, "initiatorPackets": 2}, {"bytes": 5, "packets": 2}),
    (
        {"responderOctets": 6, "initiatorOctets": 5, "responderPackets": 3, "initiatorPackets": 2},
        {"bytes": 5, "packets": 2},
    ),
    ({"responderOctets": 6, "responderPackets": 3}, {"bytes": 6, "packets": 3}),
    ({"layer2OctetDeltaCount": 5}, {"bytes": 5}),
    ({"layer2OctetTotalCount": 5}, {"bytes": 5}),
    ({"postOctetDeltaCount": 5, "postPacketDeltaCount": 2}, {"bytes": 5, "packets": 2}),
    ({"postOctetDeltaCount": 6, "octetDeltaCount": 5}, {"bytes": 5}),
    ({"octetTotalCount": 9, "octetDeltaCount": 5}, {"bytes": 5}),
    ({"dataLinkFrameSize": 1500}, {"bytes": 1500, "packets": 1}),
    ({"sourceIPv4Address": V4}, {"src_addr": "10.0.0.1", "etype": 0x0800}),
    ({"destinationIPv4Address": V4}, {"dst_addr": "10.0.0.1", "etype": 0x0800}),
    ({"sourceIPv6Address": ipv6(V6)}, {"src_addr": "2001:db8::1", "etype": 0x86DD}),
    ({"destinationIPv6Address": ipv6(V6)}, {"dst_addr": "2001:db8::1", "etype": 0x86DD}),
    # a Template for both versions: zeros in the other one
    (
        {"sourceIPv4Address": V4, "sourceIPv6Address": ipv6(NO_V6)},
        {"src_addr": "10.0.0.1", "etype": 0x0800},
    ),
    ({"sourceIPv4Address": 0, "sourceIPv6Address": ipv6(V6)}, {"src_addr": "2001:db8::1", "etype": 0x86DD}),
    (
        {"ipVersion": 6, "sourceIPv4Address": V4, "sourceIPv6Address": ipv6(NO_V6)},
        {"src_addr": "::", "etype": 0x86DD},
    ),
    ({"postNATSourceIPv4Address": V4}, {"src_addr": "10.0.0.1"}),
    ({"postNATSourceIPv6Address": ipv6(V6)}, {"src_addr": "2001:db8::1"}),
    ({"postNATDestinationIPv4Address": V4}, {"dst_addr": "10.0.0.1"}),
    (
        {"sourceIPv4Address": V4, "postNATSourceIPv4Address": V4 + 1},
        {"src_addr": "10.0.0.1", "etype": 0x0800},
    ),
    # a NAT event (RFC 8158)
    (
        {
            "observationTimeMilliseconds": 1_700_000_000_000,
            "natEvent": 4,
            "sourceIPv4Address": V4,
            "sourceTransportPort": 1024,
            "postNATSourceIPv4Address": V4 + 1,
            "postNAPTSourceTransportPort": 2048,
            "protocolIdentifier": 6,
        },
        {
            "time_flow_start_ns": EXPORT_NS,
            "time_flow_end_ns": EXPORT_NS,
            "src_addr": "10.0.0.1",
            "src_port": 1024,
            "etype": 0x0800,
            "proto": 6,
        },
    ),
    ({"sourceMacAddress": 0x001A2B3C4D5E}, {"src_mac": 0x001A2B3C4D5E}),
    ({"postSourceMacAddress": 1}, {"src_mac": 1}),
    ({"destinationMacAddress": 2}, {"dst_mac": 2}),
    ({"postDestinationMacAddress": 3, "sourceMacAddress": 1}, {"src_mac": 1, "dst_mac": 3}),
    ({"ethernetType": 0x0806, "ipVersion": 4}, {"etype": 0x0806}),
    ({"ipVersion": 4}, {"etype": 0x0800}),
    ({"ipVersion": 6}, {"etype": 0x86DD}),
    ({"ipVersion": 0}, {}),
    ({"protocolIdentifier": 17}, {"proto": 17}),
    ({"protocolIdentifier:2": 255}, {"proto": 255}),
    ({"protocolIdentifier:2": 256}, {}),
    ({"sourceTransportPort": 53, "destinationTransportPort": 1024}, {"src_port": 53, "dst_port": 1024}),
    ({"sourceTransportPort:4": 65536}, {}),
    ({"udpSourcePort": 53, "udpDestinationPort": 1024}, {"src_port": 53, "dst_port": 1024}),
    ({"tcpSourcePort": 80, "tcpDestinationPort": 1024}, {"src_port": 80, "dst_port": 1024}),
    ({"postNAPTSourceTransportPort": 1, "postNAPTDestinationTransportPort": 2}, {"src_port": 1, "dst_port": 2}),
    ({"ingressInterface": 4, "egressInterface:2": 5}, {"in_if": 4, "out_if": 5}),
    ({"ingressPhysicalInterface": 4, "egressPhysicalInterface": 5}, {"in_if": 4, "out_if": 5}),
    ({"ingressInterface:8": 1 << 32, "egressInterface:8": (1 << 32) - 1}, {"out_if": (1 << 32) - 1}),
    ({"ipClassOfService": 0xB8}, {"ip_tos": 0xB8}),
    ({"postIpClassOfService": 0xB8}, {"ip_tos": 0xB8}),
    ({"ipTTL": 64, "minimumTTL": 60}, {"ip_ttl": 64}),
    ({"minimumTTL": 60, "maximumTTL": 64}, {"ip_ttl": 60}),
    ({"maximumTTL": 64}, {"ip_ttl": 64}),
    ({"tcpControlBits:1": 0x12}, {"tcp_flags": 0x12}),
    ({"tcpControlBits": 0x112}, {"tcp_flags": 0x112}),
    ({"icmpTypeIPv4": 3, "icmpCodeIPv4": 1}, {"icmp_type": 3, "icmp_code": 1}),
    ({"icmpTypeIPv6": 128, "icmpCodeIPv6": 0}, {"icmp_type": 128, "icmp_code": 0}),
    (
        {"icmpTypeIPv4": 0, "icmpTypeIPv6": 128, "protocolIdentifier": 58},
        {"icmp_type": 128, "proto": 58},
    ),
    ({"icmpTypeIPv4": 8, "icmpTypeIPv6": 0, "protocolIdentifier": 1}, {"icmp_type": 8, "proto": 1}),
    ({"icmpTypeCodeIPv4": 0x0301}, {"icmp_type": 3, "icmp_code": 1}),
    ({"icmpTypeCodeIPv6": 0x8001}, {"icmp_type": 128, "icmp_code": 1}),
    (
        {"icmpTypeCodeIPv4": 0, "icmpTypeCodeIPv6": 0x8001, "protocolIdentifier": 58},
        {"icmp_type": 128, "icmp_code": 1, "proto": 58},
    ),
    (
        {"protocolIdentifier": 1, "destinationTransportPort": 0x0301},
        {"proto": 1, "dst_port": 0x0301, "icmp_type": 3, "icmp_code": 1},
    ),
    (
        {"protocolIdentifier": 58, "destinationTransportPort": 0x8000},
        {"proto": 58, "dst_port": 0x8000, "icmp_type": 128, "icmp_code": 0},
    ),
    ({"protocolIdentifier": 6, "destinationTransportPort": 0x0301}, {"proto": 6, "dst_port": 0x0301}),
    ({"flowLabelIPv6": 0xFFFFF}, {"ipv6_flow_label": 0xFFFFF}),
    ({"fragmentIdentification": 9, "fragmentOffset": 185}, {"fragment_id": 9, "fragment_offset": 185}),
    (
        {"bgpSourceAsNumber": 4_200_000_000, "bgpDestinationAsNumber:2": 65000},
        {"src_as": 4_200_000_000, "dst_as": 65000},
    ),
    ({"bgpNextAdjacentAsNumber": 1, "bgpPrevAdjacentAsNumber": 2}, {}),
    ({"ipNextHopIPv4Address": V4}, {"next_hop": "10.0.0.1"}),
    ({"ipNextHopIPv6Address": ipv6(V6)}, {"next_hop": "2001:db8::1"}),
    ({"bgpNextHopIPv4Address": V4}, {"bgp_next_hop": "10.0.0.1"}),
    ({"bgpNextHopIPv6Address": ipv6(V6)}, {"bgp_next_hop": "2001:db8::1"}),
    ({"sourceIPv4PrefixLength": 24, "destinationIPv4PrefixLength": 16}, {"src_net": 24, "dst_net": 16}),
    ({"sourceIPv6PrefixLength": 64, "destinationIPv6PrefixLength": 48}, {"src_net": 64, "dst_net": 48}),
    (
        {"ipVersion": 6, "sourceIPv4PrefixLength": 0, "sourceIPv6PrefixLength": 64},
        {"src_net": 64, "etype": 0x86DD},
    ),
    ({"vlanId": 10, "postVlanId": 20}, {"src_vlan": 10, "dst_vlan": 20}),
    ({"dot1qVlanId": 10, "postDot1qVlanId": 20}, {"src_vlan": 10, "dst_vlan": 20}),
    ({"samplingInterval": 100}, {"sampling_rate": 100}),
    ({"samplingInterval": 0}, {}),
    ({"samplerRandomInterval": 100}, {"sampling_rate": 100}),
    ({"samplingPacketInterval": 100}, {"sampling_rate": 100}),
    ({"samplingPacketInterval": 1, "samplingPacketSpace": 99}, {"sampling_rate": 100}),
    ({"samplingPacketInterval": 0, "samplingPacketSpace": 99}, {}),
    ({"samplingSize": 2, "samplingPopulation": 2000}, {"sampling_rate": 1000}),
    ({"samplingProbability": 0.001}, {"sampling_rate": 1000}),
    ({"samplingProbability": 0.0}, {}),
    ({"samplingProbability": float("nan")}, {}),
    ({"exporterIPv4Address": V4}, {"sampler_address": "10.0.0.1"}),
    ({"exporterIPv6Address": ipv6(V6)}, {"sampler_address": "2001:db8::1"}),
    (
        {"flowStartSeconds": 1_700_000_000, "flowEndSeconds": 1_700_000_001},
        {"time_flow_start_ns": EXPORT_NS, "time_flow_end_ns": EXPORT_NS + 1000 * MS},
    ),
    (
        {"flowStartMilliseconds": 1_700_000_000_001, "flowEndMilliseconds": 1_700_000_000_002},
        {"time_flow_start_ns": EXPORT_NS + MS, "time_flow_end_ns": EXPORT_NS + 2 * MS},
    ),
    (
        {"flowStartMicroseconds": ntp(EXPORT_NS + 7000), "flowEndMicroseconds": ntp(EXPORT_NS + 9000)},
        {"time_flow_start_ns": EXPORT_NS + 7000, "time_flow_end_ns": EXPORT_NS + 9000},
    ),
    (
        {"flowStartNanoseconds": ntp(EXPORT_NS + 7), "flowEndNanoseconds": ntp(EXPORT_NS + 9)},
        {"time_flow_start_ns": EXPORT_NS + 7, "time_flow_end_ns": EXPORT_NS + 9},
    ),
    ({"flowEndNanoseconds": 0}, {}),
    ({"flowEndMilliseconds": (1 << 64) - 1}, {}),
    (
        {"flowStartSeconds": 1, "flowStartMilliseconds": 1_700_000_000_001},
        {"time_flow_start_ns": EXPORT_NS + MS},
    ),
    (
        {"flowStartDeltaMicroseconds": 5_000_000, "flowEndDeltaMicroseconds": 1},
        {"time_flow_start_ns": EXPORT_NS - 5000 * MS, "time_flow_end_ns": EXPORT_NS - 1000},
    ),
    (
        {
            "systemInitTimeMilliseconds": 1_699_999_000_000,
            "flowStartSysUpTime": 900_000,
            "flowEndSysUpTime": 1_000_000,
        },
        {"time_flow_start_ns": EXPORT_NS - 100_000 * MS, "time_flow_end_ns": EXPORT_NS},
    ),
    ({"flowStartSysUpTime": 1}, {}),  # IPFIX has no sysUptime in its header
    (
        {"observationTimeNanoseconds": ntp(EXPORT_NS + 7)},
        {"time_flow_start_ns": EXPORT_NS + 7, "time_flow_end_ns": EXPORT_NS + 7},
    ),
    ({"flowId": 1, "applicationName": b"web", "9/12235": b"\1"}, {}),
]


def test_the_columns_and_their_order() -> None:
    assert [column.name for column in TABLE] == NAMES
    assert len(TABLE) == 37


@pytest.mark.parametrize(("record", "expected"), GOLDEN, ids=lambda case: " ".join(case))
def test_a_record_fills_these_columns_and_no_other(
    make_decoded: Make, record: dict[str, Any], expected: dict[str, Any]
) -> None:
    columns = {name: value if isinstance(value, np.ndarray) else [value] for name, value in record.items()}
    (batch,) = to_common(make_decoded(columns))
    assert row(batch) == FACTS | expected
    assert list(batch.columns) == [name for name in NAMES if name in batch.columns]


def test_every_column_has_a_golden_case() -> None:
    assert {name for _, expected in GOLDEN for name in expected} | set(FACTS) == set(NAMES)


def test_an_element_in_a_length_that_its_type_does_not_have_is_null(make_decoded: Make) -> None:
    columns = {
        "octetDeltaCount:9": [bytes(9)],
        "sourceIPv4Address:16": [bytes(16)],
        "destinationIPv6Address:4": [bytes(4)],
        "sourceMacAddress:8": [bytes(8)],
        "flowStartMilliseconds:4": [bytes(4)],
    }
    (batch,) = to_common(make_decoded(columns))
    assert row(batch) == FACTS


def test_reverse_elements_fill_nothing() -> None:
    registry = default_registry()
    fields = tuple(
        FieldSpecifier(registry.get(REVERSE_PEN, id), registry.get(0, id).data_type.width) for id in (1, 2, 7)
    )
    assert all(field.element.is_reverse for field in fields)
    assert _plan(fields) == _plan(())


def test_a_vendor_element_is_not_taken_for_the_iana_one_of_its_number() -> None:
    field = default_registry().field("octetDeltaCount")
    vendor = FieldSpecifier(field.element._replace(pen=6871), field.length)
    assert _plan((vendor,)) == _plan(())


def test_of_a_repeated_element_the_first_counts(make_decoded: Make) -> None:
    (batch,) = to_common(make_decoded({"vlanId": [10], "vlanId+": [20]}))
    assert row(batch)["src_vlan"] == 10


def test_options_records_are_not_flows(make_decoded: Make) -> None:
    decoded = make_decoded({"meteringProcessId": [1], "exportedFlowRecordTotalCount": [2]}, scope_count=1)
    assert to_common(decoded) == []


def test_rows_take_the_facts_of_their_message(make_decoded: Make) -> None:
    decoded = make_decoded(
        {"octetDeltaCount": [1, 2, 3]},
        message=[1, 0, 1],
        sequence_number=np.array([5, 6], np.uint32),
        exporter=np.stack([np.frombuffer(V4_MAPPED + b"\1\1\1\1", np.uint8), np.frombuffer(V6, np.uint8)]),
    )
    (batch,) = to_common(decoded)
    assert [row(batch, i)["sequence_num"] for i in range(3)] == [6, 5, 6]
    assert [row(batch, i)["sampler_address"] for i in range(3)] == ["2001:db8::1", "1.1.1.1", "2001:db8::1"]


@pytest.mark.parametrize("protocol", Protocol)
def test_every_protocol_has_its_flow_type(make_decoded: Make, protocol: Protocol) -> None:
    (batch,) = to_common(make_decoded({"octetDeltaCount": [1]}, protocol))
    assert row(batch)["flow_type"] == protocol.name


def test_the_rate_of_netflow_5_is_in_its_header(make_decoded: Make) -> None:
    header = {"sampling_interval": np.array([0, 100], np.uint16)}
    decoded = make_decoded({"octetDeltaCount:4": [1, 2]}, Protocol.NETFLOW_V5, template_id=0, header=header)
    (batch,) = to_common(decoded)
    assert [row(batch, i).get("sampling_rate") for i in range(2)] == [None, 100]
    assert "template_id" not in row(batch)


def test_an_sflow_sample_is_one_packet_seen_by_the_agent(make_decoded: Make) -> None:
    agent = np.frombuffer(V4_MAPPED + b"\x0a\0\0\x09", np.uint8).reshape(1, 16)
    columns = {"samplingInterval": [512], "dataLinkFrameSize": [1518], "ipTotalLength": [1500]}
    (batch,) = to_common(make_decoded(columns, Protocol.SFLOW_V5, template_id=0, header={"agent_address": agent}))
    assert row(batch) == {
        "flow_type": "SFLOW_V5",
        "time_received_ns": FACTS["time_received_ns"],
        "sequence_num": 7,
        "sampling_rate": 512,
        "sampler_address": "10.0.0.9",
        "time_flow_start_ns": FACTS["time_received_ns"],
        "time_flow_end_ns": FACTS["time_received_ns"],
        "bytes": 1518,
        "packets": 1,
        "observation_domain_id": 42,
    }


@given(
    start=st.integers(0, 1 << 40),
    age=st.integers(0, (1 << 31) - 1),
)
def test_sysuptime_is_absolute_across_its_wrap(make_decoded: Make, start: int, age: int) -> None:
    """A flow that began ``age`` ms ago, by an exporter that has been up for ``start + age`` ms."""
    uptime = start + age
    boot_ns = EXPORT_NS - (uptime & 0xFFFFFFFF) * MS  # what a header with 32 bits of sysUptime says
    decoded = make_decoded(
        {"flowStartSysUpTime": [start & 0xFFFFFFFF]}, Protocol.NETFLOW_V9, boot_ns=np.array([boot_ns])
    )
    (batch,) = to_common(decoded)
    assert row(batch)["time_flow_start_ns"] == EXPORT_NS - age * MS


def test_a_rate_that_is_known_from_elsewhere_stands_in_the_place_of_its_column(make_decoded: Make) -> None:
    seen = []

    def sampling(flows: FlowBatch, messages: Messages, made: CommonColumn | None) -> CommonColumn:
        seen.append(made)
        return CommonColumn("u32", np.full(len(flows), 512, np.uint32), np.arange(len(flows)) > 0)

    (batch,) = to_common(make_decoded({"octetDeltaCount": [1, 2]}), sampling)
    assert [row(batch, i).get("sampling_rate") for i in range(2)] == [None, 512]
    assert list(batch.columns) == [name for name in NAMES if name in batch.columns]
    to_common(make_decoded({"samplingInterval": [100, 0]}), sampling)
    assert seen[0] is None
    assert seen[1].values.tolist() == [100, 0] and seen[1].valid.tolist() == [True, False]


def test_rates_told_by_any_element(make_decoded: Make) -> None:
    columns = {"samplingInterval": [0, 5, 0], "samplerRandomInterval": [7, 6, 0], "samplingPacketInterval:1": [1, 1, 0]}
    decoded = make_decoded(columns | {"samplingPacketSpace": [9, 9, 9]}, scope_count=1)
    assert told_rates(decoded.flows[0], decoded).tolist() == [7, 5, 0]
    decoded = make_decoded({"octetDeltaCount": [1, 2]}, scope_count=1)
    assert told_rates(decoded.flows[0], decoded).tolist() == [0, 0]


def test_the_four_columns_that_are_never_null(make_decoded: Make) -> None:
    negative = np.array([-1, 5], np.int64)  # as a user's mapping may type the element
    registry = default_registry()
    element = registry.get(0, 1)._replace(data_type=registry.field("mibObjectValueInteger").element.data_type)
    decoded = make_decoded({"octetDeltaCount": [0, 0]})
    decoded.flows[0].fields, decoded.flows[0].columns = (FieldSpecifier(element, 8),), [negative]
    (batch,) = to_common(decoded)
    for name in ("flow_type", "sequence_num", "bytes", "packets"):
        assert batch.columns[name].valid is None
    assert batch.columns["bytes"].values.tolist() == [0, 5]


@given(st.lists(st.sampled_from(list(default_registry())), min_size=1, max_size=30), st.data())
def test_any_record_becomes_a_row(make_decoded: Make, elements: list[Any], data: st.DataObject) -> None:
    """Columns of any element in any length its type has or not: a batch of as many rows, columns of the right types."""
    n = data.draw(st.integers(1, 3))
    fields, columns = [], []
    for element in elements:
        length = data.draw(st.sampled_from(sorted(element.data_type.lengths) or [3]))
        raw = data.draw(st.binary(min_size=n * length, max_size=n * length))
        fields.append(FieldSpecifier(element, length))
        if fields[-1].has_column:
            columns.append(element.data_type.to_column(np.frombuffer(raw, np.uint8).reshape(n, length)))
        else:
            columns.append(make_decoded({"applicationName": [b"x"] * n}).flows[0].columns[0])
    decoded = make_decoded({"flowId": [0] * n}, boot_ns=np.full(n, 1))
    decoded.flows[0].fields, decoded.flows[0].columns = tuple(fields), columns
    (batch,) = to_common(decoded)
    types = {column.name: column.type for column in TABLE}
    widths = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "time": 8, "mac": 8, "label": 1}
    for name, column in batch.columns.items():
        assert column.type == types[name]
        assert len(column.values) == n
        assert column.valid is None or (column.valid.dtype == bool and len(column.valid) == n)
        if column.type == "address":
            assert column.values.shape == (n, 16) or column.values.dtype == np.uint32
        else:
            assert column.values.dtype.itemsize == widths[column.type]


def test_what_is_remembered_of_field_lists_is_bounded(make_decoded: Make) -> None:
    """An exporter may redefine its Templates as often as it likes."""
    flows = make_decoded({"octetDeltaCount": [7]})
    (counter,), (column,) = flows.flows[0].fields, flows.flows[0].columns
    count = 0
    for storm in range(20):
        for id in range(20):
            unknown = FieldSpecifier(default_registry().get(4711 + storm, id), 1)
            flows.flows[0].fields = (counter, *[unknown] * 1000)
            flows.flows[0].columns = [column] + [np.zeros(1, np.uint8)] * 1000
            (batch,) = to_common(flows)
            count += int(batch.columns["bytes"].values[0])
    assert count == 20 * 20 * 7
    assert 0 < common._plans.fields <= common.PLANNED_FIELDS
    assert common._plans.fields == sum(map(len, common._plans._known))
