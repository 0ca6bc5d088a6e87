"""Any octets give datagrams and counters, or a ConfigError; never another exception, in bounded memory."""

from __future__ import annotations

import gzip
import os
import struct
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import CookedLinux, Dot1Q, Ether
from scapy.packet import Raw

from pyflowx.errors import ConfigError
from pyflowx.transport.capture import CaptureReader

Read = Callable[..., tuple[list[Any], CaptureReader]]


def frames() -> list[bytes]:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    udp = UDP(sport=1, dport=2055) / Raw(bytes(50))
    head = IPv6() / IPv6ExtHdrFragment() / IPv6ExtHdrDestOpt()
    packets = [
        ether / IP() / udp,
        ether / Dot1Q() / IPv6() / IPv6ExtHdrDestOpt() / udp,
        CookedLinux(proto=0x800) / IP() / udp,
    ]
    packets += [ether / part for part in fragment(IP() / UDP(dport=2055) / Raw(bytes(900)), 400)]
    packets += [ether / part for part in fragment6(head / UDP(dport=2055) / Raw(bytes(900)), 500)]
    return [bytes(packet) for packet in packets]


def pcap(order: str, link: int) -> bytes:
    head = struct.pack(order + "IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    return head + b"".join(struct.pack(order + "IIII", 1, 2, len(octets), len(octets)) + octets for octets in frames())


def pcapng(order: str) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = struct.pack(order + "I", 12 + len(body))
        return struct.pack(order + "I", kind) + length + body + length

    unit = struct.pack(order + "HHB3xHHq", 9, 1, 0x80 | 20, 14, 8, 5)
    parts = [block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    parts += [block(1, struct.pack(order + "HHI", link, 0, 0) + unit) for link in (1, 113, 101)]
    for number, octets in enumerate(frames()):
        size = len(octets)
        parts.append(block(6, struct.pack(order + "IIIII", number == 2, number, 0, size, size) + octets))
        parts.append(block(2, struct.pack(order + "HHIIII", number == 2, 0, number, 0, size, size) + octets))
        parts.append(block(3, struct.pack(order + "I", size) + octets))
    return b"".join(parts)


SEEDS = [pcap("<", 1), pcap(">", 113), pcapng("<"), pcapng(">"), pcapng("<") + pcapng(">")]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A capture with some octets changed, cut, repeated or put in."""
    octets = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, len(octets) - 1))
        value = draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\n\r\r\n"])))
        kind = draw(st.sampled_from(["change", "insert", "cut", "repeat"]))
        if kind == "change":
            octets[at : at + len(value)] = value
        elif kind == "insert":
            octets[at:at] = value
        elif kind == "cut":
            del octets[at : at + draw(st.integers(0, 100))]
        else:
            octets[at:at] = octets[at : at + draw(st.integers(0, 300))]
        if not octets:
            break
    return bytes(octets)


def whole(read_capture: Read, path: Path | str) -> Any:
    try:
        found, reader = read_capture(path)
    except ConfigError:
        return None
    return found, reader.counters, reader.problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)
@given(octets=st.one_of(damaged(), st.binary(max_size=300), st.sampled_from(SEEDS)), compressed=st.booleans())
def test_any_octets(tmp_path: Path, read_capture: Read, octets: bytes, compressed: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(octets) if compressed else octets)
    whole(read_capture, path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(octets=damaged(), cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255))))
def test_any_gzip(tmp_path: Path, read_capture: Read, octets: bytes, cut: int, flips: list[tuple[int, int]]) -> None:
    packed = bytearray(gzip.compress(octets))
    for at, bits in flips:
        packed[at % len(packed)] ^= bits
    path = tmp_path / "a"
    path.write_bytes(packed[: len(packed) - cut])
    whole(read_capture, path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(octets=damaged(), steps=st.lists(st.integers(1, 700), min_size=1, max_size=20))
def test_how_a_pipe_cuts_changes_nothing(tmp_path: Path, read_capture: Read, octets: bytes, steps: list[int]) -> None:
    path = tmp_path / "a"
    path.write_bytes(octets)
    out, into = os.pipe()

    def feed() -> None:
        with os.fdopen(into, "wb", buffering=0) as file:
            at = 0
            try:
                while at < len(octets):
                    for step in steps:
                        at += file.write(octets[at : at + step])
            except BrokenPipeError:  # the reader found out that it is no capture
                return

    writer = threading.Thread(target=feed)
    writer.start()
    try:
        piped = whole(read_capture, f"/dev/fd/{out}")
    finally:
        os.close(out)
        writer.join()
    assert piped == whole(read_capture, path)


@pytest.mark.parametrize("seed", SEEDS, ids=["pcap <", "pcap >", "pcapng <", "pcapng >", "pcapng < and >"])
def test_every_octet_changed(tmp_path: Path, read_capture: Read, seed: bytes) -> None:
    path = tmp_path / "a"
    for at in range(min(len(seed), 700)):
        for value in (0, 0xFF):
            path.write_bytes(seed[:at] + bytes([value]) + seed[at + 1 :])
            whole(read_capture, path)


SECTION = {order: struct.pack(order + "IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28) for order in "<>"}
INTERFACE = struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20)
HEAD = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)


def fragments() -> bytes:
    ip = bytes(IPv6(nh=44, plen=16))
    pieces = [ip + struct.pack(">BBHI", 17, 0, 1, number) + bytes(8) for number in range(30_000)]
    return HEAD + b"".join(struct.pack("<IIII", 1, 0, len(piece), len(piece)) + piece for piece in pieces)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "sections": lambda: SECTION["<"] * 40_000,
    "sections of both byte orders": lambda: (SECTION["<"] + SECTION[">"]) * 20_000,
    "interfaces": lambda: SECTION["<"] + INTERFACE * 100_000,
    "empty blocks": lambda: SECTION["<"] + struct.pack("<III", 0xBAD, 12, 12) * 300_000,
    "empty records": lambda: HEAD + bytes(16) * 300_000,
    "fragments": fragments,
    "a block of 4 GiB": lambda: SECTION["<"] + struct.pack("<II", 0xBAD, 0xFFFFFFFC) + bytes(1000),
    "a gzip bomb": lambda: gzip.compress(HEAD + bytes(200_000_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_in_bounded_memory(tmp_path: Path, read_capture: Read, name: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(HOSTILE[name]())
    tracemalloc.start()
    try:
        with CaptureReader(str(path)) as reader:
            for batch in reader:
                assert batch.data.size <= 8 << 20
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert reader.exhausted
