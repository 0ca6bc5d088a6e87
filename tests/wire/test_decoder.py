"""Telling the protocols apart, and what is none of them."""

from __future__ import annotations

import struct

import numpy as np

from pyflowx.batch import PacketBatch
from pyflowx.decoded import Protocol, Reason
from pyflowx.wire import Decoder

IPFIX = struct.pack(">HHIII", 10, 16, 0, 0, 1)
V9 = struct.pack(">HHIIII", 9, 0, 0, 0, 0, 1)
V5 = struct.pack(">HHIIIIBBH", 5, 0, 0, 0, 0, 0, 0, 0, 0)


def test_each_protocol_has_its_own_result() -> None:
    packets = PacketBatch.of([V9, IPFIX, V5, V9, IPFIX])
    decoded, problems = Decoder().decode(packets, 0)
    assert not len(problems)
    rows = {each.protocol: each.messages.packet.tolist() for each in decoded}
    assert rows == {Protocol.NETFLOW_V5: [2], Protocol.NETFLOW_V9: [0, 3], Protocol.IPFIX: [1, 4]}


def test_what_is_no_protocol_is_reported_and_loses_no_neighbour() -> None:
    packets = PacketBatch.of([b"", b"\0", b"GET / HTTP", b"\0\x0b", b"\0\0\0\4", b"\0\0", IPFIX])
    (decoded,), problems = Decoder().decode(packets, 0)
    assert decoded.messages.packet.tolist() == [6]
    assert sorted(problems.tolist()) == [
        (0, 0, Reason.EMPTY_DATAGRAM),
        (1, 0, Reason.TRUNCATED_HEADER),
        *((row, 0, Reason.UNKNOWN_VERSION) for row in (2, 3, 4, 5)),
    ]


def test_protocols_that_are_not_wanted_are_told() -> None:
    decoded, problems = Decoder(protocols=frozenset({Protocol.NETFLOW_V9})).decode(PacketBatch.of([IPFIX, V9]), 0)
    assert [each.protocol for each in decoded] == [Protocol.NETFLOW_V9]
    assert problems.tolist() == [(0, 0, Reason.OTHER_PROTOCOL)]


def test_each_input_has_protocols_of_its_own() -> None:
    packets = PacketBatch.of([IPFIX, V9, IPFIX, V9, b"\0\x0b"])
    packets.input = np.array([0, 0, 1, 1, 1], np.uint16)
    decoder = Decoder(protocols=[frozenset({Protocol.IPFIX}), frozenset({Protocol.NETFLOW_V9})])
    decoded, problems = decoder.decode(packets, 0)
    assert {each.protocol: each.messages.packet.tolist() for each in decoded} == {
        Protocol.IPFIX: [0],
        Protocol.NETFLOW_V9: [3],
    }
    other = [(row, 0, Reason.OTHER_PROTOCOL) for row in (1, 2)]
    assert sorted(problems.tolist()) == [*other, (4, 0, Reason.UNKNOWN_VERSION)]


def test_no_packets_are_no_results() -> None:
    decoded, problems = Decoder().decode(PacketBatch.of([]), 0)
    assert not decoded and not len(problems)


def test_datagrams_shorter_than_any_header_in_narrow_rows() -> None:
    packets = PacketBatch.of([b"\0\x0a", b"\0\x09\0"])
    assert packets.data.shape == (2, 3)
    decoded, problems = Decoder().decode(packets, 0)
    assert [len(each.messages) for each in decoded] == [0, 0]
    assert sorted(problems.tolist()) == [(0, 0, Reason.TRUNCATED_HEADER), (1, 0, Reason.TRUNCATED_HEADER)]


def test_memory_that_is_not_contiguous_decodes_the_same() -> None:
    template = struct.pack(">HHHHHH", 2, 12, 256, 1, 4, 1)
    datagram = struct.pack(">HHIII", 10, 36, 0, 0, 1) + template + struct.pack(">HHBBBB", 256, 8, 1, 2, 3, 4)
    packets = PacketBatch.of([datagram] * 3)
    wide = PacketBatch.of([datagram + bytes(64)] * 3)
    wide.data, wide.length = wide.data[:, : len(datagram)], packets.length
    for each in (packets, wide):
        (decoded,), _ = Decoder().decode(each, 0)
        assert decoded.flows[0].columns[0].tolist() == [1, 2, 3, 4] * 3
