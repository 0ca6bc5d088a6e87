"""pcapng as other writers may write it: byte orders, sections, interfaces, clocks, blocks of every kind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from pyflowx.transport.capture import CaptureReader
from pyflowx.transport.capture_blocks import LATEST, to_nanoseconds

Read = Callable[..., tuple[list[Any], CaptureReader]]
SECOND = 1_700_000_000


def frame(number: int, size: int = 33) -> bytes:
    return bytes(IP(src="192.0.2.1") / UDP(sport=number, dport=2055) / Raw(bytes(size)))


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str, major: int = 1) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1))


def interface(order: str, link: int = 101, snap: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", link, 0, snap) + options)


def enhanced(order: str, octets: bytes, ticks: int = SECOND * 10**6, number: int = 0, said: int | None = None) -> bytes:
    captured = len(octets) if said is None else said
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, captured, len(octets))
    return block(order, 6, head + octets)


def obsolete(order: str, octets: bytes, ticks: int, number: int) -> bytes:
    head = struct.pack(order + "HHIIII", number, 7, ticks >> 32, ticks & 0xFFFFFFFF, len(octets), len(octets))
    return block(order, 2, head + octets)


def simple(order: str, octets: bytes, length: int | None = None) -> bytes:
    return block(order, 3, struct.pack(order + "I", len(octets) if length is None else length) + octets)


def unit(order: str, value: int, offset: int = 0) -> bytes:
    return (
        option(order, 2, b"eth0")
        + option(order, 9, bytes([value]))
        + option(order, 14, struct.pack(order + "q", offset))
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_packet_block(tmp_path: Path, read_capture: Read, order: str) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(
        section(order)
        + interface(order)
        + interface(order, options=unit(order, 9))
        + simple(order, frame(1))
        + enhanced(order, frame(2), SECOND * 10**6 + 5)
        + block(order, 4, bytes(40))
        + block(order, 0xBAD, b"what others write")
        + obsolete(order, frame(3), SECOND * 10**9 + 7, 1)
        + simple(order, frame(4))
        + enhanced(order, frame(5), SECOND * 10**9 + 8, 1)
    )
    found, reader = read_capture(path)
    assert [(datagram.port, datagram.time_ns) for datagram in found] == [
        (1, 0),  # Simple Packet Blocks have no time: it is that of the packet before
        (2, SECOND * 10**9 + 5000),
        (3, SECOND * 10**9 + 7),
        (4, SECOND * 10**9 + 7),
        (5, SECOND * 10**9 + 8),
    ]
    assert (reader.problem, reader.counters.bad_blocks) == (None, 0)


def test_sections_begin_anew(tmp_path: Path, read_capture: Read) -> None:
    """Byte order, interfaces and their units belong to a section; the second time there is no interface 1."""
    path = tmp_path / "a.pcapng"
    path.write_bytes(
        section("<")
        + interface("<", 1)
        + interface("<")
        + enhanced("<", frame(1), number=1)
        + section(">")
        + interface(">", options=unit(">", 0, 100))
        + enhanced(">", frame(2), SECOND)
        + enhanced(">", frame(3), SECOND, number=1)
        + section(">")
        + section("<")
        + interface("<", options=unit("<", 3))
        + enhanced("<", frame(4), SECOND * 1000)
    )
    found, reader = read_capture(path)
    times = [SECOND, SECOND + 100, SECOND]
    assert [(d.port, d.time_ns) for d in found] == [(p, t * 10**9) for p, t in zip([1, 2, 4], times, strict=True)]
    assert (reader.counters.bad_blocks, reader.problem) == (1, None)


def test_each_interface_has_its_link_type(tmp_path: Path, read_capture: Read) -> None:
    path, order = tmp_path / "a.pcapng", "<"
    heads = [bytes(12) + b"\x08\0", b"", bytes(14) + b"\x08\0", b"not known"]
    interfaces = b"".join(interface(order, link) for link in (1, 101, 113, 147))
    packets = b"".join(enhanced(order, heads[n % 4] + frame(n + 1, n), number=n % 4) for n in range(400))
    path.write_bytes(section(order) + interfaces + packets)
    found, reader = read_capture(path)
    assert [(d.port, len(d.payload)) for d in found] == [(n + 1, n) for n in range(400) if n % 4 != 3]
    assert reader.counters.unknown_link == 100


def test_an_interface_is_known_from_its_description_on(tmp_path: Path, read_capture: Read) -> None:
    path, order = tmp_path / "a.pcapng", "<"
    early = enhanced(order, frame(1)) + interface(order) + enhanced(order, frame(2))
    path.write_bytes(section(order) + early + interface(order, 1) + enhanced(order, frame(3)))
    found, reader = read_capture(path)
    assert [datagram.port for datagram in found] == [2, 3]
    assert reader.counters.bad_blocks == 1


def test_bad_blocks_do_not_lose_their_neighbours(tmp_path: Path, read_capture: Read) -> None:
    path, order = tmp_path / "a.pcapng", "<"
    good = enhanced(order, frame(1))
    trailer = good[:-4] + bytes(4)
    bad = [
        trailer,
        enhanced(order, frame(2), said=0xFFFFFFFF),
        enhanced(order, frame(2), said=1000),
        block(order, 6, bytes(16)),
        block(order, 2, bytes(16)),
        block(order, 3, b""),
        block(order, 1, bytes(4)),
    ]
    path.write_bytes(section(order) + interface(order) + b"".join(item + good for item in bad))
    found, reader = read_capture(path)
    assert [datagram.port for datagram in found] == [1] * len(bad)
    assert (reader.counters.bad_blocks, reader.problem) == (len(bad), None)


def test_a_simple_packet_is_cut_by_the_snap_length(tmp_path: Path, read_capture: Read) -> None:
    path, order = tmp_path / "a.pcapng", "<"
    packets = simple(order, frame(1, 72)[:50], 100) + simple(order, frame(2, 2))
    path.write_bytes(section(order) + interface(order, snap=50) + packets)
    found, reader = read_capture(path)
    assert [len(datagram.payload) for datagram in found] == [22, 2]
    assert reader.counters.truncated == 1


@pytest.mark.parametrize("kind", [0xBAD, 6])
def test_blocks_too_long_to_keep_are_passed_over(tmp_path: Path, read_capture: Read, kind: int) -> None:
    path, order = tmp_path / "a.pcapng", "<"
    path.write_bytes(
        section(order)
        + interface(order)
        + enhanced(order, frame(1))
        + block(order, kind, bytes(5_000_000))
        + block(order, kind, bytes(600_000))
        + enhanced(order, frame(2))
    )
    found, reader = read_capture(path)
    assert [datagram.port for datagram in found] == [1, 2]
    assert (reader.counters.bad_blocks, reader.problem) == (2 if kind == 6 else 0, None)


def test_a_long_interface_description_still_counts(tmp_path: Path, read_capture: Read) -> None:
    path, order = tmp_path / "a.pcapng", "<"
    long = interface(order, options=option(order, 1, bytes(60_000)) * 10)
    path.write_bytes(
        section(order) + long + interface(order) + enhanced(order, frame(1), number=1) + enhanced(order, b"", 0)
    )
    found, reader = read_capture(path)
    assert [datagram.port for datagram in found] == [1]
    assert (reader.counters.bad_blocks, reader.counters.unknown_link) == (1, 1)


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (struct.pack("<II", 0xBAD, 0xFFFFFFFC) + bytes(100), "ends inside the record"),
        (struct.pack("<II", 0xBAD, 0xFFFFFFFF) + bytes(100), "says a length of 4294967295"),
        (struct.pack("<II", 6, 0) + bytes(100), "says a length of 0"),
        (struct.pack("<II", 6, 33) + bytes(100), "says a length of 33"),
        (section("<", major=2) + bytes(100), "version 2"),
        (struct.pack("<III", 0x0A0D0D0A, 28, 1) + bytes(100), "is no Section Header Block"),
        (struct.pack("<III", 0x0A0D0D0A, 24, 0x1A2B3C4D) + bytes(100), "is no Section Header Block"),
        (b"\0" * 8, "ends inside the record"),
    ],
)
def test_a_chain_that_breaks_ends_with_a_problem(tmp_path: Path, read_capture: Read, end: bytes, says: str) -> None:
    path, order = tmp_path / "a.pcapng", "<"
    path.write_bytes(section(order) + interface(order) + enhanced(order, frame(1)) + end)
    found, reader = read_capture(path)
    assert [datagram.port for datagram in found] == [1]
    assert says in reader.problem
    assert reader.counters.bad_blocks == 1


def test_many_interfaces(tmp_path: Path, read_capture: Read) -> None:
    """Beyond those that are remembered, they are counted as not known."""
    path, order = tmp_path / "a.pcapng", ">"
    last = enhanced(order, frame(1), number=65_535) + enhanced(order, frame(2), number=69_999)
    path.write_bytes(section(order) + interface(order) * 70_000 + last + enhanced(order, frame(3), number=70_000))
    found, reader = read_capture(path)
    assert [datagram.port for datagram in found] == [1]
    assert (reader.counters.unknown_link, reader.counters.bad_blocks) == (1, 1)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(0, 255))
@example([2**64 - 1, 0], 0x80 | 34)
@example([2**64 - 1], 0)
def test_ticks_of_every_unit(ticks: list[int], value: int) -> None:
    scale = Fraction(1, 2 ** (value & 0x7F)) if value & 0x80 else Fraction(1, 10**value)
    found = to_nanoseconds(np.array(ticks, np.uint64), value).tolist()
    for tick, ns in zip(ticks, found, strict=True):
        exact = int(tick * scale * 10**9)
        if exact < LATEST - 10**9:
            assert exact - 1 <= ns <= exact
        else:
            assert LATEST - 10**9 <= ns <= LATEST
