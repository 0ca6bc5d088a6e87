"""NetFlow v9, the table of edge cases: what good and bad export packets decode to (RFC 3954)."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pyflowx.batch import FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded, Protocol, Reason
from pyflowx.elements import FieldSpecifier, InformationElement, default_registry
from pyflowx.errors import EncodeError
from pyflowx.wire import Decoder
from pyflowx.wire.netflow9 import Encoder

SECOND = 10**9
PORTS = struct.pack(">HHHHHH", 256, 2, 7, 2, 11, 2)
RECORD = struct.pack(">HH", 1000, 80)


def flowset(flowset_id: int, content: bytes = b"") -> bytes:
    return struct.pack(">HH", flowset_id, 4 + len(content)) + content


def packet(*flowsets: bytes, count: int = 1, source_id: int = 1, uptime: int = 0, seconds: int = 1000) -> bytes:
    return struct.pack(">HHIIII", 9, count, uptime, seconds, 7, source_id) + b"".join(flowsets)


def decode(*datagrams: bytes, decoder: Decoder | None = None) -> tuple[Decoded, list[tuple[int, int, Reason]]]:
    packets = PacketBatch.of(datagrams)
    (decoded,), problems = (decoder or Decoder()).decode(packets, 0)
    assert decoded.protocol is Protocol.NETFLOW_V9
    return decoded, problems.tolist()


def rows(decoded: Decoded) -> list[tuple[object, ...]]:
    return [row for batch in decoded.flows for row in zip(*(column.tolist() for column in batch.columns), strict=True)]


def test_a_packet_with_template_and_data() -> None:
    datagram = packet(flowset(0, PORTS), flowset(256, RECORD), uptime=250, seconds=2000, source_id=77)
    decoded, problems = decode(datagram)
    assert not problems and rows(decoded) == [(1000, 80)]
    names = ["version", "count", "sys_uptime", "unix_secs", "sequence_number", "source_id"]
    assert list(decoded.messages.header) == names
    assert [column.tolist() for column in decoded.messages.header.values()] == [[9], [1], [250], [2000], [7], [77]]
    assert decoded.messages.export_ns.tolist() == [2000 * SECOND]
    assert decoded.messages.boot_ns.tolist() == [2000 * SECOND - 250_000_000]
    assert decoded.messages.observation_domain_id.tolist() == [77]
    assert decoded.flows[0].set_offset.tolist() == [36] and decoded.templates[0].set_id == 0


def test_several_templates_in_one_flowset() -> None:
    other = struct.pack(">HHHH", 257, 1, 4, 1)
    decoded, problems = decode(packet(flowset(0, PORTS + other), flowset(257, b"\6\x11\0\0"), flowset(256, RECORD)))
    assert not problems and rows(decoded) == [(6,), (17,), (0,), (0,), (1000, 80)]


@pytest.mark.parametrize("count", [0, 1, 2, 65535])
def test_a_wrong_count_is_tolerated(count: int) -> None:
    decoded, problems = decode(packet(flowset(0, PORTS), flowset(256, RECORD * 5), count=count))
    assert not problems and len(rows(decoded)) == 5


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_padding_and_odd_lengths(padding: int) -> None:
    template = struct.pack(">HHHHHH", 256, 2, 1, 3, 4, 2)
    data = flowset(256, b"\0\1\0\0\6" + bytes(padding))
    decoded, problems = decode(packet(flowset(0, template + bytes(padding)), data))
    assert not problems and rows(decoded) == [(256, 6)]
    assert decoded.flows[0].columns[0].dtype == np.uint64 and decoded.flows[0].columns[1].dtype == np.uint16  # type: ignore[union-attr]


def test_a_field_of_no_octets_is_an_empty_value() -> None:
    template = struct.pack(">HHHHHHHH", 256, 3, 7, 2, 10, 0, 11, 2)
    decoded, problems = decode(packet(flowset(0, template), flowset(256, RECORD)))
    assert not problems and rows(decoded) == [(1000, b"", 80)]


@pytest.mark.parametrize(
    ("type", "name"),
    [
        (1, "exportingProcessId"),
        (2, "ingressInterface"),
        (3, "lineCardId"),
        (4, "meteringProcessId"),
        (5, "templateId"),
    ],
)
def test_scope_types_have_elements(type: int, name: str) -> None:
    template = struct.pack(">HHHHHHH", 256, 4, 4, type, 2, 34, 4)
    decoded, problems = decode(packet(flowset(1, template + b"\0\0"), flowset(256, struct.pack(">HIH", 3, 100, 0))))
    (batch,) = decoded.flows
    assert not problems and rows(decoded) == [(3, 100)] and batch.scope_count == 1
    assert [field.element.name for field in batch.fields] == [name, "samplingInterval"]


def test_a_scope_of_an_odd_length_is_octets() -> None:
    template = struct.pack(">HHHHHHH", 256, 4, 4, 1, 12, 34, 4)
    decoded, _ = decode(packet(flowset(1, template), flowset(256, b"router-three" + struct.pack(">I", 100))))
    assert rows(decoded) == [(b"router-three", 100)]


def test_several_scopes_and_options() -> None:
    template = struct.pack(">HHHHHHHHHHH", 256, 8, 8, 1, 4, 2, 2, 48, 1, 50, 4)
    decoded, problems = decode(packet(flowset(1, template), flowset(256, struct.pack(">IHBI", 1, 2, 3, 4))))
    assert not problems and rows(decoded) == [(1, 2, 3, 4)] and decoded.flows[0].scope_count == 2


@pytest.mark.parametrize(
    "template",
    [
        struct.pack(">HHHHHHH", 256, 3, 5, 1, 2, 34, 4),
        struct.pack(">HHH", 256, 0, 0),
    ],
    ids=["lengths are no multiple of 4", "nothing"],
)
def test_an_options_template_that_cannot_be_is_not_used(template: bytes) -> None:
    decoded, problems = decode(packet(flowset(1, template), flowset(0, PORTS), flowset(256, RECORD)))
    assert problems == [(0, 24, Reason.BAD_TEMPLATE)] and rows(decoded) == [(1000, 80)]


def test_a_template_without_fields_is_no_withdrawal_here() -> None:
    decoded, problems = decode(packet(flowset(0, PORTS + struct.pack(">HH", 256, 0) + PORTS), flowset(256, RECORD)))
    assert problems == [(0, 36, Reason.BAD_TEMPLATE)] and rows(decoded) == [(1000, 80)]


@pytest.mark.parametrize("flowset_id", [2, 3, 255])
def test_a_reserved_flowset_id_is_reported(flowset_id: int) -> None:
    decoded, problems = decode(packet(flowset(flowset_id, b"abcd"), flowset(0, PORTS), flowset(256, RECORD)))
    assert problems == [(0, 20, Reason.RESERVED_SET_ID)] and rows(decoded) == [(1000, 80)]


def test_cisco_types_with_the_high_bit_are_ciscos_elements() -> None:
    template = struct.pack(">HHHHHHHH", 256, 3, 33002, 2, 40001, 4, 60000, 1)
    decoded, _ = decode(packet(flowset(0, template), flowset(256, b"\x07\xd1\xc0\0\2\1\x2a")))
    elements = [field.element for field in decoded.flows[0].fields]
    assert [(each.pen, each.id) for each in elements] == [(9, 234), (9, 7233), (0, 60000)]
    assert [each.name for each in elements] == ["firewallEventExtended", "xlateSourceIPv4Address", "0/60000"]
    assert rows(decoded) == [(2001, 0xC0000201, b"\x2a")]


def test_a_variable_length_field_is_read_though_v9_has_none() -> None:
    template = struct.pack(">HHHHHH", 256, 2, 82, 65535, 7, 2)
    decoded, problems = decode(packet(flowset(0, template), flowset(256, b"\3eth\0\1" + b"\0\0\2")))
    assert not problems and rows(decoded) == [(b"eth", 1), (b"", 2)]


def test_a_truncated_packet_keeps_its_whole_flowsets() -> None:
    datagram = packet(flowset(0, PORTS), flowset(256, RECORD), flowset(256, RECORD))
    decoded, problems = decode(datagram[:-1], datagram[:19], datagram[:-8] + b"\1\2")
    assert sorted(problems) == [
        (0, 44, Reason.SET_PAST_MESSAGE),
        (1, 0, Reason.TRUNCATED_HEADER),
        (2, 44, Reason.TRAILING_OCTETS),
    ]
    assert len(rows(decoded)) == 2


def test_a_v9_template_is_not_an_ipfix_one() -> None:
    decoder = Decoder()
    decode(packet(flowset(0, PORTS)), decoder=decoder)
    ipfix = struct.pack(">HHIII", 10, 24, 0, 0, 1) + flowset(256, RECORD)
    both, problems = decoder.decode(PacketBatch.of([ipfix, packet(flowset(256, RECORD))]), 0)
    assert [each.protocol for each in both] == [Protocol.NETFLOW_V9, Protocol.IPFIX]
    assert problems.tolist() == [(0, 16, Reason.HELD_DATA)]
    assert both[0].messages.packet.tolist() == [1] and rows(both[0]) == [(1000, 80)]


def fields(*names: str) -> tuple[FieldSpecifier, ...]:
    return tuple(default_registry().field(name) for name in names)


def test_the_encoder_pads_counts_packets_and_keeps_time() -> None:
    encoder = Encoder(5, boot_ns=900 * SECOND)
    flows = FlowBatch(fields("protocolIdentifier", "sourceTransportPort"), [np.arange(9, dtype=np.uint8)] * 2)
    flows.columns[1] = np.arange(9, dtype=np.uint16)
    data = encoder.encode(flows, 1000 * SECOND + 5, records_per_message=4)
    templates = encoder.template_messages(1001 * SECOND)
    assert [n % 4 for n in [*data.length.tolist(), *templates.length.tolist()]] == [0] * 4
    decoded, problems = decode(*templates.tolist(), *data.tolist())
    header = decoded.messages.header
    assert not problems and rows(decoded) == [(i, i) for i in range(9)]
    assert header["sequence_number"].tolist() == [3, 0, 1, 2] and header["count"].tolist() == [1, 4, 4, 1]
    assert header["sys_uptime"].tolist() == [101_000, *[100_000] * 3]
    assert set(header["source_id"].tolist()) == {5}
    assert set(decoded.messages.boot_ns.tolist()) == {900 * SECOND}


def test_batches_share_packets() -> None:
    encoder = Encoder(5)
    odd = FlowBatch(fields("protocolIdentifier", "sourceTransportPort"), [np.arange(9, dtype=np.uint8)] * 2)
    odd.columns[1] = np.arange(9, dtype=np.uint16)
    even = FlowBatch(odd.fields[::-1], [np.arange(20, 29, dtype=np.uint16), np.arange(20, 29, dtype=np.uint8)])
    (packet,) = encoder.encode_all([odd, even], 1000 * SECOND, templates="all").tolist()
    decoded, problems = decode(packet)
    assert not problems and decoded.messages.header["count"].tolist() == [2 + 18]
    assert [batch.column("protocolIdentifier").tolist() for batch in decoded.flows] == [[*range(9)], [*range(20, 29)]]
    assert len(packet) % 4 == 0 and encoder.encode_all([], 0).tolist() == []


def test_the_encoder_writes_scopes_as_types() -> None:
    encoder = Encoder()
    options = fields("ingressInterface", "templateId", "samplingInterval")
    flows = FlowBatch(options, [np.array([1], "u4"), np.array([256], "u2"), np.array([100], "u4")], scope_count=2)
    data = encoder.encode(flows, 0).tolist()
    (template,) = encoder.template_messages(0).tolist()
    assert template[20:] == struct.pack(">HHHHH6HH", 1, 24, 256, 8, 4, 2, 4, 5, 2, 34, 4, 0)
    decoded, problems = decode(template, *data)
    assert not problems and decoded.flows[0].fields == options and rows(decoded) == [(1, 256, 100)]


@pytest.mark.parametrize(
    ("pen", "id", "length", "scopes"),
    [(29305, 1, 4, 0), (9, 30000, 4, 0), (0, 70000, 4, 0), (0, 82, 65535, 0), (0, 2, 4, 1)],
    ids=["reverse", "unknown to Cisco", "id too high", "variable length", "an id that is a scope type"],
)
def test_what_v9_cannot_carry_is_an_encode_error(pen: int, id: int, length: int, scopes: int) -> None:
    field = FieldSpecifier(default_registry().get(pen, id), length)
    with pytest.raises(EncodeError, match=field.element.name):
        Encoder().register((field,), scopes)


def test_ciscos_elements_are_encoded_with_the_high_bit() -> None:
    encoder = Encoder()
    user = FieldSpecifier(default_registry().get(9, 7232), 8)
    data = encoder.encode(FlowBatch((user,), [Octets.of([b"someuser"])]), 0)
    (template,) = encoder.template_messages(0).tolist()
    assert template[-4:] == struct.pack(">HH", 40000, 8)
    decoded, _ = decode(template, *data.tolist())
    assert rows(decoded) == [(b"someuser",)] and decoded.flows[0].fields == (user,)


def test_elements_of_a_mapping_are_used() -> None:
    registry = default_registry().copy()
    registry.add(InformationElement(0, 20001, "mine", default_registry().get(0, 7).data_type))
    template = struct.pack(">HHHH", 256, 1, 20001, 2)
    decoded, _ = decode(packet(flowset(0, template), flowset(256, b"\1\0")), decoder=Decoder(registry))
    assert decoded.flows[0].column("mine").tolist() == [256]
