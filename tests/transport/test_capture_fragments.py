"""IP fragments in captures: Scapy cuts, we put together."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_Timestamp, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.packet import Packet, Raw

from pyflowx.transport.capture import CaptureReader
from pyflowx.transport.reassembly import MAX_AGE_NS, MAX_OCTETS, MAX_PACKETS, Reassembler

Read = Callable[..., tuple[list[Any], CaptureReader]]
SECOND = 1_700_000_000


def payload(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def four(number: int, size: int = 3000, **fields: Any) -> list[bytes]:
    packet = IP(src="192.0.2.1", dst="192.0.2.2", id=number, **fields) / UDP(sport=number, dport=2055, chksum=0)
    return [bytes(part) for part in fragment(packet / Raw(payload(number, size)), 1000)]


def six(number: int, size: int = 3000, before: Packet | None = None) -> list[bytes]:
    head = IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=number)
    if before is not None:
        head /= before
    whole = head / UDP(sport=number, dport=2055) / Raw(payload(number, size))
    return [bytes(part) for part in fragment6(whole, 1000)]


def write(path: Path, packets: list[bytes], times: list[int] | None = None) -> Path:
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    rows = zip(times or [0] * len(packets), packets, strict=True)
    path.write_bytes(
        head + b"".join(struct.pack("<IIII", SECOND + at, 0, len(packet), len(packet)) + packet for at, packet in rows)
    )
    return path


@pytest.mark.parametrize("order", ["as sent", "backwards", "mixed"])
def test_fragments_in_any_order(tmp_path: Path, read_capture: Read, order: str) -> None:
    options = [IPOption_Timestamp()]
    datagrams = [four(1), six(2), four(3, 1), four(4, 65_507), six(5, 60_000), four(6, options=options)]
    datagrams.append(six(7, before=IPv6ExtHdrDestOpt()))
    packets = [packet for parts in datagrams for packet in parts]
    if order == "backwards":
        packets.reverse()
    elif order == "mixed":
        random.Random(1).shuffle(packets)
    found, reader = read_capture(write(tmp_path / "a.pcap", packets))
    sizes = {1: 3000, 2: 3000, 3: 1, 4: 65_507, 5: 60_000, 6: 3000, 7: 3000}
    assert {datagram.port: datagram.payload for datagram in found} == {n: payload(n, size) for n, size in sizes.items()}
    assert {datagram.address for datagram in found} == {"192.0.2.1", "2001:db8::1"}
    if order == "as sent":
        assert [datagram.port for datagram in found] == list(sizes)
    assert (reader.counters.reassembled, reader.counters.fragments) == (6, len(packets) - 1)
    assert reader.counters.fragments_dropped == 0


def test_a_datagram_comes_where_its_last_fragment_stood(tmp_path: Path, read_capture: Read) -> None:
    one, two = four(1), four(2)
    packets = [*one[:-1], *two[1:], *four(8, 10), one[-1], *four(9, 10), two[0]]
    found, _ = read_capture(write(tmp_path / "a.pcap", packets, list(range(len(packets)))))
    assert [datagram.port for datagram in found] == [8, 1, 9, 2]
    last = [packets.index(packet) for packet in (*four(8, 10), one[-1], *four(9, 10), two[0])]
    assert [datagram.time_ns for datagram in found] == [(SECOND + at) * 10**9 for at in last]


def test_a_port_narrows_datagrams_of_fragments_too(tmp_path: Path, read_capture: Read) -> None:
    found, reader = read_capture(write(tmp_path / "a.pcap", four(1)), 9995)
    assert (found, reader.counters.other_port, reader.counters.reassembled) == ([], 1, 1)


def test_fragments_of_other_protocols_are_not_kept(tmp_path: Path, read_capture: Read) -> None:
    packets = [bytes(part) for part in fragment(IP() / TCP() / Raw(bytes(3000)), 1000)]
    found, reader = read_capture(write(tmp_path / "a.pcap", packets))
    assert (found, reader.counters.not_udp, reader.counters.fragments) == ([], len(packets), 0)


def test_an_atomic_fragment_is_a_whole_packet(tmp_path: Path, read_capture: Read) -> None:
    """RFC 6946."""
    packet = IPv6() / IPv6ExtHdrFragment(id=5) / IPv6ExtHdrDestOpt() / UDP(sport=3, dport=2055) / Raw(b"atom")
    found, reader = read_capture(write(tmp_path / "a.pcap", [bytes(packet)]))
    assert [(datagram.port, datagram.payload) for datagram in found] == [(3, b"atom")]
    assert reader.counters.fragments == 0


def test_what_stays_incomplete_is_counted(tmp_path: Path, read_capture: Read) -> None:
    found, reader = read_capture(write(tmp_path / "a.pcap", [*four(1)[1:], *six(2)[:-1], *four(3)]))
    assert [datagram.port for datagram in found] == [3]
    assert reader.counters.fragments_dropped == len(four(1)) + len(six(2)) - 2


def test_a_fragment_cut_by_the_capture_cannot_be_used(tmp_path: Path, read_capture: Read) -> None:
    parts = four(1)
    parts[1] = parts[1][:500]
    found, reader = read_capture(write(tmp_path / "a.pcap", parts))
    assert (found, reader.counters.fragments_dropped) == ([], len(parts))


def test_repeated_fragments_do_no_harm(tmp_path: Path, read_capture: Read) -> None:
    one, two = four(1)[:-1], four(1)[-1]
    found, reader = read_capture(write(tmp_path / "a.pcap", [*one, *one, two]))
    assert [datagram.payload for datagram in found] == [payload(1, 3000)]
    assert reader.counters.fragments_dropped == len(one)


def test_fragments_age_by_the_time_of_the_packets(tmp_path: Path, read_capture: Read) -> None:
    """An Identification is used again: the halves of two datagrams are not joined."""
    old, new = four(1), four(1, 3001)
    packets, times = [*old[:2], *new[2:], *new[:2]], [0, 0, *[31] * len(new)]
    found, reader = read_capture(write(tmp_path / "a.pcap", packets, times))
    assert [datagram.payload for datagram in found] == [payload(1, 3001)]
    assert reader.counters.fragments_dropped == 2


def test_impossible_packets_out_of_fragments(tmp_path: Path, read_capture: Read) -> None:
    """Too little for what UDP says; a fragment of a fragment."""
    short = [IP(flags="MF") / UDP(len=100), IP(frag=1, proto=17) / Raw(b"1234")]
    nested = IPv6() / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrFragment(m=1, nh=17, offset=4)
    tail = IPv6() / IPv6ExtHdrFragment(offset=1, nh=44) / Raw(b"12345678")
    found, reader = read_capture(write(tmp_path / "a.pcap", [bytes(packet) for packet in [*short, nested, tail]]))
    assert found == []
    assert (reader.counters.reassembled, reader.counters.malformed, reader.counters.not_udp) == (2, 1, 1)


class TestReassembler:
    def test_overlapping_fragments_drop_the_packet(self) -> None:
        """RFC 5722 §4: and those that come after."""
        for fragment_field, octets in ((9, bytes(16)), (8, bytes(16)), (1, bytes(24))):
            keeper = Reassembler()
            assert keeper.add(b"a", 1, 17, bytes(16), 0) is None
            assert keeper.add(b"a", fragment_field, 17, octets, 0) is None
            assert keeper.add(b"a", 24, 17, bytes(8), 0) is None
            assert keeper.add(b"a", 17, 17, bytes(8), 0) is None
            assert keeper.dropped == 4

    def test_two_ends_drop_the_packet(self) -> None:
        keeper = Reassembler()
        assert keeper.add(b"a", 16, 17, bytes(8), 0) is None
        assert keeper.add(b"a", 24, 17, bytes(8), 0) is None
        assert keeper.add(b"a", 1, 17, bytes(16), 0) is None
        assert keeper.dropped == 3

    def test_odd_lengths_and_too_long_packets(self) -> None:
        keeper = Reassembler()
        assert keeper.add(b"a", 1, 17, bytes(9), 0) is None
        assert keeper.add(b"b", 0xFFF8, 17, bytes(8), 0) is None
        assert keeper.dropped == 2

    def test_memory_is_bounded(self) -> None:
        keeper = Reassembler()
        for number in range(3 * MAX_PACKETS):
            keeper.add(number.to_bytes(4, "big"), 1, 17, bytes(8), 0)
        assert len(keeper._incomplete) == MAX_PACKETS
        assert keeper.dropped == 2 * MAX_PACKETS
        for number in range(300):
            for offset in range(0, 64_000, 64):
                keeper.add(b"%d" % number, offset + 65, 17, bytes(64), 0)
        kept = sum(known.cost for known in keeper._incomplete.values())
        assert kept == keeper._octets <= MAX_OCTETS

    def test_the_oldest_goes_first(self) -> None:
        keeper = Reassembler()
        for number in range(MAX_PACKETS + 1):
            keeper.add(b"%d" % number, 1, 17, bytes(8), 0)
        assert keeper.add(b"0", 8, 17, b"x", 0) is None
        assert keeper.add(b"5", 8, 17, b"x", MAX_AGE_NS) == (17, bytes(8) + b"x")

    @given(st.data())
    def test_any_cut_in_any_order(self, data: st.DataObject) -> None:
        whole = data.draw(st.binary(min_size=1, max_size=300))
        cuts = sorted({0, *data.draw(st.lists(st.integers(0, (len(whole) - 1) // 8).map(lambda at: at * 8)))})
        parts = [(at, whole[at:end], end) for at, end in zip(cuts, [*cuts[1:], len(whole)], strict=True)]
        keeper = Reassembler()
        results = [
            keeper.add(b"a", at + (end < len(whole)), 17 if at == 0 else 0, part, 0)
            for at, part, end in data.draw(st.permutations(parts))
        ]
        assert results == [None] * (len(parts) - 1) + [(17, whole)]
        assert (keeper._octets, keeper.dropped) == (0, 0)
