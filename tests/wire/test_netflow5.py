"""NetFlow v1, v5, v7: layouts against struct and tshark, counts and lengths that lie, round trips, fuzzing."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import FlowBatch, PacketBatch
from pyflowx.decoded import Decoded, Problems, Protocol, Reason
from pyflowx.elements import default_registry
from pyflowx.errors import EncodeError
from pyflowx.wire import netflow5

VERSIONS = netflow5.VERSIONS
EXPORT_NS = 1_700_000_000_123_456_789
# one record of v5 as struct says it: every field another value
V5_RECORD = struct.pack(
    ">4s4s4sHHIIIIHHBBBBHHBBH",
    *(bytes([10, 0, 0, n]) for n in (1, 2, 3)),
    4, 5, 6, 7, 8, 9, 10, 11, 0, 13, 14, 15, 16, 17, 18, 19, 0,
)  # fmt: skip


def v5_header(count: int, **changes: int) -> bytes:
    fields = {"version": 5, "count": count, "uptime": 3_600_000, "secs": 1_700_000_000, "nsecs": 5, "sequence": 77}
    fields |= {"engine_type": 1, "engine_id": 2, "sampling": 0x4000 | 100} | changes
    return struct.pack(">HHIIIIBBH", *fields.values())


def decode(*datagrams: bytes) -> tuple[Decoded, Problems]:
    packets = PacketBatch.of(datagrams, received_ns=1)
    problems = Problems()
    return netflow5.decode(packets, np.arange(len(packets), dtype=np.int32), None, 0, problems), problems


def test_every_field_of_a_v5_datagram() -> None:
    decoded, problems = decode(v5_header(1) + V5_RECORD)
    assert not len(problems) and decoded.protocol is Protocol.NETFLOW_V5
    values = {f.element.name: int(c[0]) for f, c in zip(decoded.flows[0].fields, decoded.flows[0].columns, strict=True)}
    assert values == {
        "sourceIPv4Address": 0x0A000001,
        "destinationIPv4Address": 0x0A000002,
        "ipNextHopIPv4Address": 0x0A000003,
        "ingressInterface": 4,
        "egressInterface": 5,
        "packetDeltaCount": 6,
        "octetDeltaCount": 7,
        "flowStartSysUpTime": 8,
        "flowEndSysUpTime": 9,
        "sourceTransportPort": 10,
        "destinationTransportPort": 11,
        "tcpControlBits": 13,
        "protocolIdentifier": 14,
        "ipClassOfService": 15,
        "bgpSourceAsNumber": 16,
        "bgpDestinationAsNumber": 17,
        "sourceIPv4PrefixLength": 18,
        "destinationIPv4PrefixLength": 19,
    }


def test_header_of_v5_with_sampling_mode_apart_from_its_interval() -> None:
    decoded, _ = decode(v5_header(1, sampling=0xC000 | 16383) + V5_RECORD)
    messages = decoded.messages
    assert {name: int(column[0]) for name, column in messages.header.items()} == {
        "version": 5, "count": 1, "sys_uptime": 3_600_000, "unix_secs": 1_700_000_000, "unix_nsecs": 5,
        "flow_sequence": 77, "engine_type": 1, "engine_id": 2, "sampling_mode": 3, "sampling_interval": 16383,
    }  # fmt: skip
    assert messages.sequence_number.tolist() == [77]
    assert messages.observation_domain_id.tolist() == [0x0102]
    assert messages.export_ns.tolist() == [1_700_000_000 * 10**9 + 5]
    assert messages.boot_ns.tolist() == [(1_700_000_000 - 3600) * 10**9 + 5]


@pytest.mark.parametrize(
    ("count", "records", "extra", "found"),
    [
        (2, 1, b"", 1),
        (1, 2, b"", 1),
        (2, 2, b"xyz", 2),
        (2, 1, b"half a record", 1),
        (0, 1, b"", 0),
        (0xFFFF, 0, b"", 0),
    ],
)
def test_a_count_that_lies_is_a_problem_and_what_is_there_is_decoded(
    count: int, records: int, extra: bytes, found: int
) -> None:
    datagram = v5_header(count) + V5_RECORD * records + extra
    good = v5_header(1) + V5_RECORD
    decoded, problems = decode(good, datagram, good)
    end = 24 + 48 * found
    assert problems.tolist() == [(1, end, Reason.BAD_COUNT)]
    assert sum(map(len, decoded.flows)) == found + 2
    assert b"".join(opaque.octets for opaque in decoded.opaque) == datagram[end:]


def test_header_cut_short_at_every_octet() -> None:
    datagram = v5_header(1) + V5_RECORD
    decoded, problems = decode(*(datagram[:n] for n in range(2, 24)), datagram)
    assert problems.reason.tolist() == [Reason.TRUNCATED_HEADER] * 22
    assert decoded.messages.packet.tolist() == [22] and len(decoded.flows[0]) == 1


def test_rows_of_other_protocols_are_left_alone_and_the_result_owns_its_memory() -> None:
    packets = PacketBatch.of([b"\0\x0a" + bytes(90), v5_header(1) + V5_RECORD, v5_header(2) + V5_RECORD * 2])
    decoded = netflow5.decode(packets, np.array([1, 2], np.int32), None, 0, Problems())
    before = [column.tolist() for column in decoded.flows[0].columns]
    packets.data[:] = 0xEE
    assert [column.tolist() for column in decoded.flows[0].columns] == before
    assert decoded.messages.packet.tolist() == [1, 2]
    assert decoded.flows[0].message.tolist() == [0, 1, 1]


def test_no_rows_give_nothing() -> None:
    decoded = netflow5.decode(PacketBatch.of([]), np.zeros(0, np.int32), None, 0, Problems())
    assert len(decoded.messages) == 0 and decoded.flows == []


@st.composite
def flow_batches(draw: st.DrawFn, version: int) -> FlowBatch:
    fields = netflow5.FORMATS[version].fields
    n = draw(st.integers(1, 70))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = [
        generator.integers(0, 256**field.length, n, np.uint64).astype(
            np.dtype(f"u{max(field.length, field.element.data_type.width)}")
        )
        for field in fields
    ]
    return FlowBatch(fields, list(columns))


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_decode_of_encode_is_the_same_flows(version: int, data: st.DataObject) -> None:
    flows = data.draw(flow_batches(version))
    per = data.draw(st.integers(1, 20))
    encoder = netflow5.Encoder(7, version=version, boot_ns=EXPORT_NS - 10**12)
    datagrams = encoder.encode(flows, EXPORT_NS, per)
    decoded, problems = decode(*datagrams.tolist())
    assert not len(problems) and decoded.protocol == version
    assert decoded.flows[0].fields == flows.fields
    for got, sent in zip(decoded.flows[0].columns, flows.columns, strict=True):
        assert got.dtype == sent.dtype and np.array_equal(got, sent)
    assert decoded.messages.export_ns.tolist() == [EXPORT_NS] * len(datagrams)
    assert decoded.messages.boot_ns.tolist() == [EXPORT_NS - 10**12] * len(datagrams)
    if version != 1:
        assert decoded.messages.sequence_number.tolist() == list(range(0, len(flows), per))
    if version == 5:
        assert set(decoded.messages.observation_domain_id.tolist()) == {7}


def test_encoder_leaves_missing_fields_zero_and_counts_on() -> None:
    flows = FlowBatch((default_registry().field("octetDeltaCount"),), [np.array([5, 6, 7], np.uint64)])
    encoder = netflow5.Encoder()
    encoder.encode(flows, EXPORT_NS)
    decoded, _ = decode(*encoder.encode(flows, EXPORT_NS).tolist())
    assert decoded.flows[0].column("octetDeltaCount").tolist() == [5, 6, 7]
    assert decoded.flows[0].column("sourceIPv4Address").tolist() == [0, 0, 0]
    assert decoded.messages.sequence_number.tolist() == [3]
    assert len(encoder.template_messages(EXPORT_NS)) == 0
    assert len(encoder.encode(flows.take(slice(0, 0)), EXPORT_NS)) == 0


def test_the_encoder_says_how_packets_were_sampled() -> None:
    encoder = netflow5.Encoder()
    encoder.sampling = 1 << 14 | 100
    flows = FlowBatch((default_registry().field("octetDeltaCount"),), [np.arange(2, dtype=np.uint64)])
    decoded, _ = decode(*encoder.encode(flows, EXPORT_NS).tolist())
    header = decoded.messages.header
    assert (header["sampling_mode"].tolist(), header["sampling_interval"].tolist()) == ([1], [100])


def test_batches_of_different_fields_share_datagrams() -> None:
    field = default_registry().field
    octets = FlowBatch((field("octetDeltaCount"),), [np.arange(20, dtype=np.uint64)])
    ports = FlowBatch((field("sourceTransportPort"),), [np.arange(20, 40, dtype=np.uint16)])
    datagrams = netflow5.Encoder().encode_all([octets, ports], EXPORT_NS)
    decoded, problems = decode(*datagrams.tolist())
    assert not len(problems) and decoded.messages.header["count"].tolist() == [28, 12]
    assert decoded.flows[0].column("octetDeltaCount").tolist() == [*range(20), *[0] * 20]
    assert decoded.flows[0].column("sourceTransportPort").tolist() == [*[0] * 20, *range(20, 40)]
    assert len(netflow5.Encoder().encode_all([], EXPORT_NS)) == 0


def test_what_v5_cannot_carry_is_refused() -> None:
    field = default_registry().field
    octets = FlowBatch((field("octetDeltaCount"),), [np.array([1 << 32], np.uint64)])
    with pytest.raises(EncodeError, match="does not fit"):
        netflow5.Encoder().encode(octets, EXPORT_NS)
    with pytest.raises(EncodeError, match="sourceIPv6Address"):
        netflow5.Encoder().register((field("sourceIPv6Address"),))
    with pytest.raises(EncodeError, match="twice"):
        netflow5.Encoder().register((field("octetDeltaCount"),) * 2)
    with pytest.raises(EncodeError, match="options"):
        netflow5.Encoder().register((field("octetDeltaCount"),), 1)
    with pytest.raises(EncodeError, match="1 to 28"):
        netflow5.Encoder().encode(octets, EXPORT_NS, 29)
    with pytest.raises(EncodeError, match="engine"):
        netflow5.Encoder(0x10000)
    with pytest.raises(EncodeError, match="no record"):
        netflow5.Encoder(max_octets=71)
    with pytest.raises(EncodeError, match="1, 5, 7"):
        netflow5.Encoder(version=6)


@given(st.sampled_from(VERSIONS), st.lists(st.tuples(st.binary(max_size=200), st.integers(0, 255)), max_size=8))
def test_any_octets_give_flows_and_problems_the_same_alone_and_together(
    version: int, bodies: list[tuple[bytes, int]]
) -> None:
    datagrams = [struct.pack(">HH", version, count) + body for body, count in bodies]
    decoded, problems = decode(*datagrams)
    alone = [decode(datagram) for datagram in datagrams]
    expected = [(at, r) for at, (_, each) in enumerate(alone) for r in each.reason.tolist()]
    assert sorted((packet, reason) for packet, _, reason in problems.tolist()) == expected
    assert len(decoded.messages) == sum(len(one.messages) for one, _ in alone)
    for index, field in enumerate(netflow5.FORMATS[version].fields):
        together = [value for flows in decoded.flows for value in flows.columns[index].tolist()]
        assert together == [v for one, _ in alone for f in one.flows for v in f.columns[index].tolist()], field


NAMES = {  # tshark's field -> ours
    "cflow.srcaddr": "sourceIPv4Address", "cflow.dstaddr": "destinationIPv4Address",
    "cflow.nexthop": "ipNextHopIPv4Address", "cflow.inputint": "ingressInterface",
    "cflow.outputint": "egressInterface", "cflow.packets": "packetDeltaCount", "cflow.octets": "octetDeltaCount",
    "cflow.srcport": "sourceTransportPort", "cflow.dstport": "destinationTransportPort",
    "cflow.protocol": "protocolIdentifier", "cflow.srcas": "bgpSourceAsNumber", "cflow.dstas": "bgpDestinationAsNumber",
    "cflow.tcpflags": "tcpControlBits", "cflow.srcmask": "sourceIPv4PrefixLength",
    "cflow.dstmask": "destinationIPv4PrefixLength",
}  # fmt: skip


def number(text: str) -> int:
    return int.from_bytes(socket.inet_aton(text), "big") if text.count(".") == 3 else int(text, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_tshark_reads_what_we_encode(version: int, tmp_path: Path) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    generator = np.random.default_rng(version)
    fields = netflow5.FORMATS[version].fields
    columns = [generator.integers(0, 256**field.length, 9, np.uint64).astype(np.uint64) for field in fields]
    datagrams = netflow5.Encoder(3, version=version).encode(FlowBatch(fields, list(columns)), EXPORT_NS, 4)
    frames = [Ether() / IP(dst="127.0.0.1") / UDP(sport=1, dport=2055) / bytes(one) for one in datagrams.tolist()]
    wrpcap(str(tmp_path / "flows.pcap"), frames)
    command = ["tshark", "-r", str(tmp_path / "flows.pcap"), "-d", "udp.port==2055,cflow", "-T", "fields"]
    known = {name: ours for name, ours in NAMES.items() if ours in {field.element.name for field in fields}}
    for name in known:
        command += ["-e", name]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    cells = [[row.split(",") for row in line.split("\t")] for line in lines]
    decoded, _ = decode(*datagrams.tolist())
    for at, ours in enumerate(known.values()):
        theirs = [number(value) for line in cells for value in line[at]]
        assert theirs == decoded.flows[0].column(ours).tolist(), json.dumps([ours, theirs])
