"""Scaling, and flows out of packet sections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.conversion import Conversion, scale
from pyflowx.conversion.further import Further, parse_columns
from pyflowx.conversion.sampling import parse_rates
from pyflowx.elements import default_registry

Flows = Callable[..., list[dict[str, Any]]]
MAX = (1 << 64) - 1
PACKET = IP(src="10.0.0.1", dst="10.0.0.2", ttl=63) / TCP(sport=1024, dport=443, flags="S") / (b"x" * 100)
FRAME = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1Q(vlan=7) / PACKET
INSIDE = {
    "src_addr": 0x0A000001,
    "dst_addr": 0x0A000002,
    "src_port": 1024,
    "dst_port": 443,
    "proto": 6,
    "ip_ttl": 63,
    "tcp_flags": 2,
    "packets": 1,
}


# --- scale -------------------------------------------------------------------------------------------------------


def batch_of(rates: CommonColumn | None, octets: list[int], packets: list[int]) -> CommonBatch:
    columns = {"sampling_rate": rates} if rates else {}
    columns["bytes"] = CommonColumn("u64", np.array(octets, np.uint64))
    columns["packets"] = CommonColumn("u64", np.array(packets, np.uint64))
    return CommonBatch(columns, len(octets))


def test_octets_and_packets_times_the_rate() -> None:
    rates = CommonColumn("u32", np.array([10, 99, (1 << 32) - 1, 1000], np.uint32), np.array([True, False, True, True]))
    batch = batch_of(rates, [5, 6, (1 << 33), MAX // 1000], [1, 2, (1 << 32) + 1, MAX // 1000 + 1])
    scale(batch)
    assert batch.columns["bytes"].values.tolist() == [50, 6, MAX, MAX // 1000 * 1000]
    assert batch.columns["packets"].values.tolist() == [10, 2, MAX, MAX]
    assert batch.columns["sampling_rate"] is rates


def test_without_a_rate_nothing_is_scaled() -> None:
    batch = batch_of(None, [5], [1])
    scale(batch)
    assert batch.columns["bytes"].values.tolist() == [5]


def test_flows_are_scaled_by_the_rate_that_they_say(exporter: Any, rows_of: Flows) -> None:
    options = exporter.set({"exportingProcessId": 1, "samplingInterval": 100}, scopes=1)
    message = exporter.message(options, exporter.set({"octetDeltaCount": 7, "packetDeltaCount": 2}))
    (flow,) = rows_of(Conversion(scaled=True), message)
    assert (flow["bytes"], flow["packets"], flow["sampling_rate"]) == (700, 200, 100)
    fresh = type(exporter)()
    (flow,) = rows_of(Conversion(scaled=True), fresh.message(fresh.set({"octetDeltaCount": 7})))
    assert (flow["bytes"], flow["packets"]) == (7, 0)


# --- whatever comes ----------------------------------------------------------------------------------------------

TELLING = ("samplingInterval", "samplerId", "selectorId", "ingressInterface", "templateId", "samplingPacketSpace")
TELLING += ("observationDomainId", "systemInitTimeMilliseconds", "flowStartSysUpTime", "reversePacketDeltaCount")
TELLING += (
    "dataLinkFrameSection",
    "biflowDirection",
    "samplingProbability",
    "mibObjectValueInteger",
    "octetDeltaCount",
)
NAMES = [*TELLING, *(element.name for element in default_registry() if element.pen == 0)]


@given(st.data())
def test_any_record_becomes_rows_under_any_options(exporters: Any, rows_of: Flows, data: st.DataObject) -> None:
    """Options and flows of any elements, in any length, with any octets."""
    exporter, sets = exporters(data.draw(st.integers(0, 2))), []
    flows = 0
    for _ in range(data.draw(st.integers(1, 4))):
        names = data.draw(
            st.lists(st.sampled_from(NAMES) | st.sampled_from(TELLING), min_size=1, max_size=6, unique=True)
        )
        lengths = [data.draw(st.sampled_from([1, 2, 3, 4, 8, 16, 60])) for _ in names]
        record = {
            f"{name}:{length}": data.draw(st.binary(min_size=length, max_size=length))
            for name, length in zip(names, lengths, strict=True)
            if not default_registry().field(name).element.data_type.is_list
        }
        scopes = data.draw(st.sampled_from([0, 0, 1]))
        if record:
            sets.append(exporter.set(record, scopes=scopes))
            flows += not scopes
    columns = [f"c{number}={name}" for number, name in enumerate(TELLING)]
    further = Further(parse_columns(columns, default_registry(), ()))
    rates = parse_rates(data.draw(st.sampled_from([[], ["7"], ["192.0.2.0/24=5"], ["3", "10.0.0.0/8=2"]])))
    plain = rows_of(Conversion(), exporter.message(*sets))
    assert len(plain) == flows
    exporter._known.clear()
    rows = rows_of(Conversion(rates, further=further, split_biflow=True, scaled=True), exporter.message(*sets))
    assert flows <= len(rows) <= 2 * flows
    assert all(row["bytes"] >= 0 and row["packets"] >= 0 for row in rows)


# --- packet sections (PSAMP) -------------------------------------------------------------------------------------

SECTIONS = [
    ("ipHeaderPacketSection", bytes(PACKET), 140),
    ("ipHeaderPacketSection", bytes(PACKET)[:54], 140),
    ("dataLinkFrameSection", bytes(FRAME), 140),
    ("dataLinkFrameSection", bytes(FRAME)[:64], 140),
    ("layer2packetSectionData", bytes(FRAME)[:64], 140),
    ("mplsLabelStackSection", b"\0\x01\x01\x40" + bytes(PACKET)[:60], 140),
    ("mplsPayloadPacketSection", bytes(PACKET)[:60], 140),
]


@pytest.mark.parametrize(
    ("name", "section", "octets"), SECTIONS, ids=lambda case: case if isinstance(case, str) else ""
)
def test_flows_of_packet_sections(exporter: Any, rows_of: Flows, name: str, section: bytes, octets: int) -> None:
    message = exporter.message(exporter.set({f"{name}:{len(section)}": section, "selectorId": 7}))
    (flow,) = rows_of(Conversion(), message)
    assert {key: flow.get(key) for key in INSIDE} == INSIDE
    assert flow["bytes"] == octets
    if "Link" in name or "layer2" in name:
        assert (flow["src_mac"], flow["dst_mac"], flow["src_vlan"]) == (0x020000000001, 0x020000000002, 7)


def test_a_section_of_variable_length(exporter: Any, rows_of: Flows) -> None:
    section = bytes(FRAME)[:70]
    rows = [
        {"selectorId": 7, "dataLinkFrameSection": bytes([len(each)]) + each} for each in (section, section[:20], b"")
    ]
    found = rows_of(Conversion(), exporter.message(exporter.set(*rows)))
    assert sorted(flow.get("src_port", 0) for flow in found) == [0, 0, 1024]
    assert [flow["packets"] for flow in found] == [1, 1, 1]


def test_what_the_record_says_itself_wins(exporter: Any, rows_of: Flows) -> None:
    section = bytes(FRAME)
    record = {f"dataLinkFrameSection:{len(section)}": section, "dataLinkFrameSize": 1518, "ipTTL": 9, "vlanId": 5}
    (flow,) = rows_of(Conversion(), exporter.message(exporter.set(record | {"packetDeltaCount": 3})))
    assert (flow["bytes"], flow["packets"], flow["ip_ttl"], flow["src_vlan"]) == (1518, 3, 9, 5)
    keyed = {f"dataLinkFrameSection:{len(section)}": section, "sourceIPv4Address": 5}
    (flow,) = rows_of(Conversion(), exporter.message(exporter.set(keyed)))
    assert flow["src_addr"] == 5 and "dst_addr" not in flow


@pytest.mark.parametrize(
    "more",
    [{"sectionOffset": 14}, {"dataLinkFrameType": 2}],
    ids=lambda more: next(iter(more)),
)
def test_sections_that_do_not_begin_where_we_can_read(exporter: Any, rows_of: Flows, more: dict[str, int]) -> None:
    section = bytes(FRAME)
    record = {f"dataLinkFrameSection:{len(section)}": section}
    open_, closed = record | {name: int(name == "dataLinkFrameType") for name in more}, record | more
    flows = rows_of(Conversion(), exporter.message(exporter.set(open_, closed)))
    assert sorted("src_addr" in flow for flow in flows) == [False, True]
    assert [flow["packets"] for flow in flows] == [1, 1]


def test_a_frame_without_ip(exporter: Any, rows_of: Flows) -> None:
    frame = bytes(Ether(src="02:00:00:00:00:01") / ARP())
    (flow,) = rows_of(Conversion(), exporter.message(exporter.set({f"dataLinkFrameSection:{len(frame)}": frame})))
    assert (flow["etype"], flow["src_mac"], flow["packets"], flow["bytes"]) == (0x0806, 0x020000000001, 1, 0)


def test_outer_or_inner_addresses_of_a_section(exporter: Any, rows_of: Flows) -> None:
    frame = bytes(
        Ether(dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=4789) / VXLAN(flags=8) / FRAME
    )
    message = exporter.message(exporter.set({f"dataLinkFrameSection:{len(frame)}": frame}))
    assert [flow["src_addr"] for flow in rows_of(Conversion(), message)] == [0x0A000001]
    assert [flow["src_addr"] for flow in rows_of(Conversion(tunnels=False), message)] == [0xC0000201]
