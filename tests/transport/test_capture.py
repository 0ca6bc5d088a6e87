"""Capture files, written and read back by Scapy, and turned into their variants by editcap and tcpdump."""

from __future__ import annotations

import gzip
import itertools
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN
from scapy.layers.l2 import ARP, GRE, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapReader, PcapWriter

from pyflowx.errors import ConfigError
from pyflowx.transport import capture
from pyflowx.transport.capture import CaptureReader

Read = Callable[..., tuple[list[Any], CaptureReader]]
START = 1_700_000_000
PORT = 2055
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")  # else Scapy asks the network for them


def udp(number: int, size: int = 100) -> Packet:
    return UDP(sport=40_000 + number, dport=PORT) / Raw(bytes([number % 256]) * size)


def traffic() -> list[Packet]:
    """One of each kind; what is UDP comes from 10.0.0.x or 2001:db8::x."""
    four, six = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    options = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 12)]) / IPv6ExtHdrDestOpt()
    return [
        ETHER / four / udp(1),
        ETHER / six / udp(2),
        ETHER / Dot1Q(vlan=5) / four / udp(3, 1372),
        ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=5) / six / udp(4),
        ETHER / IP(src="10.0.0.3", dst="10.0.0.2", options=[IPOption_Timestamp()]) / udp(5),
        ETHER / six / options / IPv6ExtHdrRouting(addresses=["2001:db8::9"]) / udp(6, 1),
        ETHER / four / udp(7, 0),
        ETHER / four / TCP(sport=1, dport=PORT) / Raw(b"x" * 400),
        ETHER / four / ICMP() / Raw(b"ping"),
        ETHER / four / GRE() / four / udp(8),
        ETHER / ARP(psrc="10.0.0.1", hwsrc="02:00:00:00:00:01"),
        ETHER / six / UDP(sport=40_009, dport=9995) / Raw(b"other port"),
    ]


def write(path: Path, packets: list[Packet], linktype: int = 1, **options: Any) -> Path:
    with PcapWriter(str(path), linktype=linktype, sync=True, **options) as writer:
        for number, packet in enumerate(packets):
            packet.time = START + number / 8
            writer.write(packet)
    return path


def scapy_says(path: Path) -> list[tuple[str, int, int, bytes]]:
    """The datagrams that Scapy finds in frames without fragments."""
    found = []
    with PcapReader(str(path)) as reader:
        for frame in reader:
            if GRE in frame or UDP not in frame:
                continue
            layer = frame[UDP]
            ip = frame[IP] if IP in frame else frame[IPv6]
            found.append((ip.src, layer.sport, int(frame.time * 1_000_000_000), layer.original[8 : layer.len]))
    return found


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_of_both_byte_orders_and_units(tmp_path: Path, read_capture: Read, order: str, nano: bool) -> None:
    path = write(tmp_path / "a.pcap", traffic(), endianness=order, nano=nano)
    found, reader = read_capture(path)
    assert found == scapy_says(path)
    assert [len(datagram.payload) for datagram in found] == [100, 100, 1372, 100, 100, 1, 0, 10]
    assert [datagram.time_ns for datagram in found[:2]] == [START * 10**9, START * 10**9 + 125_000_000]
    assert (reader.counters.packets, reader.counters.not_udp, reader.problem) == (12, 4, None)
    assert reader.progress() == (path.stat().st_size, path.stat().st_size)


def test_a_port_narrows_to_the_destination(tmp_path: Path, read_capture: Read) -> None:
    path = write(tmp_path / "a.pcap", traffic())
    found, reader = read_capture(path, 9995)
    assert [(datagram.address, datagram.payload) for datagram in found] == [("2001:db8::1", b"other port")]
    assert reader.counters.other_port == 7


@pytest.mark.parametrize("kind", ["pcapng", "nsecpcap", "pcap"])
def test_variants_of_editcap(tmp_path: Path, read_capture: Read, kind: str) -> None:
    path, variant = write(tmp_path / "a.pcap", traffic(), nano=True), tmp_path / "b"
    run("editcap", "-F", kind, path, variant)
    found, _ = read_capture(variant)
    assert found == scapy_says(variant) == scapy_says(path)


def test_tcpdump_writes_what_we_read(tmp_path: Path, read_capture: Read) -> None:
    path, filtered = write(tmp_path / "a.pcap", traffic()), tmp_path / "b"
    run("tcpdump", "-r", path, "-w", filtered, "udp port 2055 and not vlan")
    assert read_capture(filtered)[0] == scapy_says(filtered) != []


@pytest.mark.parametrize("kind", ["modpcap", "suse6_3pcap", "snoop"])
def test_other_formats_are_refused_with_what_to_do(tmp_path: Path, kind: str) -> None:
    path, variant = write(tmp_path / "a.pcap", traffic()), tmp_path / "b"
    run("editcap", "-F", kind, path, variant)
    with pytest.raises(ConfigError, match=r"editcap -F pcapng IN OUT; pcap .* and pcapng are accepted"):
        CaptureReader(str(variant))


def test_a_variant_that_looks_like_pcap_ends_with_a_problem(tmp_path: Path, read_capture: Read) -> None:
    path, variant = write(tmp_path / "a.pcap", traffic()), tmp_path / "b"
    run("editcap", "-F", "rh6_1pcap", path, variant)
    assert "octets of packet; reading ended there" in read_capture(variant)[1].problem


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"", "is empty"),
        (b"\xd4\xc3\xb2\xa1\x02\0", "no capture file"),
        (b"PK\x03\x04" + bytes(40), "no capture file"),
        (gzip.compress(b"hello" * 20, mtime=0), "no capture file"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"\x1f\x8b nonsense", "the gzip data is damaged"),
        (b"\x1f", "no capture file"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "zstd"),
        (b"\xfd7zXZ\0" + bytes(40), "compressed with xz"),
        (b"\n\r\r\n" + bytes(40), "byte order"),
        (struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 3, 0, 0, 65535, 1), "version 2.3"),
        (struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 127), "link type 127; accepted are Ethernet"),
    ],
)
def test_what_is_no_capture_is_an_error_that_says_what_is(tmp_path: Path, octets: bytes, says: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match=says) as caught:
        CaptureReader(str(path))
    assert str(caught.value).startswith(f"--pcap {path}: ")


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_opened_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name a readable capture file, or - for stdin"):
        CaptureReader(str(tmp_path / name))


@pytest.mark.parametrize("members", [1, 3])
def test_gzip(tmp_path: Path, read_capture: Read, members: int) -> None:
    path, packed = write(tmp_path / "a.pcap", traffic()), tmp_path / "b.gz"
    octets = path.read_bytes()
    cuts = [len(octets) * i // members for i in range(members + 1)]
    packed.write_bytes(b"".join(gzip.compress(octets[a:b]) for a, b in itertools.pairwise(cuts)) + bytes(7))
    found, reader = read_capture(packed)
    assert found == scapy_says(path)
    assert reader.problem is None
    assert reader.progress() == (packed.stat().st_size, packed.stat().st_size)


def test_damaged_gzip_gives_what_came_before(tmp_path: Path, read_capture: Read) -> None:
    packets = [ETHER / IP() / UDP(sport=number, dport=PORT) / Raw(os.urandom(500).hex()) for number in range(600)]
    path, packed = write(tmp_path / "a.pcap", packets), tmp_path / "b.gz"
    octets = gzip.compress(path.read_bytes())
    expected = scapy_says(path)
    for damaged, says in (
        (octets[:-100_000], "the gzip data ends in the middle"),
        (octets[:250_000] + bytes(300) + octets[250_300:], "the gzip data is damaged"),
        (octets[:-8] + bytes(8), "incorrect data check"),
    ):
        packed.write_bytes(damaged)
        found, reader = read_capture(packed)
        assert says in reader.problem
        assert len(found) > 250 and found[:-1] == expected[: len(found) - 1]


LINKS = [
    (0, struct.pack("=I", 2), 4),
    (0, struct.pack("=I", 30), 6),
    (12, b"", 4),
    (14, b"", 6),
    (101, b"", 4),
    (101, b"", 6),
    (108, struct.pack(">I", 24), 6),
    (113, bytes(CookedLinux(proto=0x0800)), 4),
    (113, bytes(CookedLinux(proto=0x8100) / Dot1Q(vlan=3, type=0x86DD)), 6),
    (228, b"", 4),
    (229, b"", 6),
    (276, bytes(CookedLinuxV2(proto=0x0800)), 4),
    (276, bytes(CookedLinuxV2(proto=0x86DD)), 6),
]


@pytest.mark.parametrize(("link", "head", "version"), LINKS)
def test_link_types(tmp_path: Path, read_capture: Read, link: int, head: bytes, version: int) -> None:
    source = "192.0.2.1" if version == 4 else "2001:db8::1"
    ip = IP(src=source) if version == 4 else IPv6(src=source)
    path = tmp_path / "a.pcap"
    octets = head + bytes(ip / udp(1))
    path.write_bytes(pcap_of([octets, octets[: len(head)], octets + b"trailer"], link))
    found, reader = read_capture(path)
    assert [datagram[:2] + datagram[3:] for datagram in found] == [(source, 40_001, b"\1" * 100)] * 2
    assert reader.counters.not_udp == 1


def pcap_of(frames: list[bytes], link: int = 1) -> bytes:
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    return head + b"".join(struct.pack("<IIII", START, 0, len(frame), len(frame)) + frame for frame in frames)


def test_snap_length_cuts_are_counted_and_what_is_there_is_passed_on(tmp_path: Path, read_capture: Read) -> None:
    path, cut = write(tmp_path / "a.pcap", traffic()), tmp_path / "b.pcap"
    run("editcap", "-F", "pcap", "-s", "100", path, cut)
    found, reader = read_capture(cut)
    whole = [datagram for datagram in scapy_says(path) if datagram[1] != 40_006]
    assert [datagram.port for datagram in found] == [datagram[1] for datagram in whole]
    for datagram, expected in zip(found, whole, strict=True):
        assert expected[3].startswith(datagram.payload)
    assert reader.counters.truncated == sum(len(d.payload) < len(e[3]) for d, e in zip(found, whole, strict=True)) > 3
    assert reader.counters.malformed == 1  # IPv6 with so many headers that UDP is behind octet 100


@pytest.mark.parametrize(
    ("frame", "delivered"),
    [
        (IP() / UDP(dport=PORT, len=8 + 5) / Raw(b"12345678"), b"12345"),
        (IP() / UDP(dport=PORT, len=7) / Raw(b"12345678"), None),
        (IP() / UDP(dport=PORT, len=0) / Raw(b"12345678"), None),
        (IP() / UDP(dport=PORT, len=17) / Raw(b"12345678"), None),
        (IP(len=20 + 8 + 3) / UDP(dport=PORT, len=8 + 3) / Raw(b"12345678"), b"123"),
        (IP(len=0) / UDP(dport=PORT) / Raw(b"12345678"), b"12345678"),  # segmentation offload
        (IP(len=19) / UDP(dport=PORT) / Raw(b"12345678"), None),
        (IP(ihl=4) / UDP(dport=PORT) / Raw(b"12345678"), None),
        (IP(ihl=15) / UDP(dport=PORT) / Raw(b"12345678"), None),
        (IPv6(plen=3) / UDP(dport=PORT) / Raw(b"12345678"), None),
        (IPv6(plen=8 + 3) / UDP(dport=PORT, len=8 + 3) / Raw(b"12345678"), b"123"),
        (IPv6() / IPv6ExtHdrDestOpt(len=200) / UDP(dport=PORT) / Raw(b"12345678"), None),
    ],
)
def test_lengths_that_do_not_fit(tmp_path: Path, read_capture: Read, frame: Packet, delivered: bytes | None) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_of([bytes(ETHER / frame)]))
    found, reader = read_capture(path)
    assert [datagram.payload for datagram in found] == ([] if delivered is None else [delivered])
    assert reader.counters.malformed == (delivered is None)


def test_endless_ipv6_headers_end(tmp_path: Path, read_capture: Read) -> None:
    chain = bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 8000
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_of([bytes(IPv6(nh=60, plen=len(chain))) + chain], 101))
    assert read_capture(path)[1].counters.malformed == 1


def test_a_file_cut_anywhere_gives_what_came_before(tmp_path: Path, read_capture: Read) -> None:
    path, ng, cut = write(tmp_path / "a.pcap", [traffic()[n] for n in (0, 5, 6)]), tmp_path / "ng", tmp_path / "cut"
    run("editcap", "-F", "pcapng", path, ng)
    expected = scapy_says(path)
    for whole, least, boundaries in ((path.read_bytes(), 24, [0, 1, 2]), (ng.read_bytes(), 28, [0, 0, 1, 2])):
        counts = []
        for length in range(least, len(whole)):
            cut.write_bytes(whole[:length])
            found, reader = read_capture(cut)
            assert found == expected[: len(found)]
            counts.append((len(found), reader.problem is None))
        assert counts == sorted(counts, key=lambda count: count[0])
        assert {count for count, _ in counts} == {0, 1, 2}
        assert [count for count, complete in counts if complete] == boundaries


def test_lengths_that_cannot_be_cost_no_memory(tmp_path: Path, read_capture: Read) -> None:
    path = tmp_path / "a.pcap"
    frame = bytes(ETHER / IP() / udp(1))
    for length in (0xFFFFFFFF, 262_145):
        path.write_bytes(pcap_of([frame]) + struct.pack("<IIII", 0, 0, length, length) + bytes(1000))
        found, reader = read_capture(path)
        assert len(found) == 1
        assert f"says {length} octets of packet; reading ended there" in reader.problem
        assert reader.counters.bad_blocks == 1


def test_long_and_short_datagrams_share_no_large_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MAX_OCTETS", 200_000)
    monkeypatch.setattr(capture, "MAX_ROWS", 300)
    sizes = [20, 30_000, *[40] * 1000, 60_000, 60_001, *range(100), 65_507]
    packets = [IP() / UDP(sport=number + 1, dport=PORT) / Raw(bytes(size)) for number, size in enumerate(sizes)]
    with CaptureReader(str(write(tmp_path / "a.pcap", packets, linktype=101))) as reader:
        batches = list(reader)
    assert all(batch.data.size <= 200_000 and len(batch) <= 300 for batch in batches)
    assert [length for batch in batches for length in batch.length.tolist()] == sizes
    assert [port for batch in batches for port in batch.port.tolist()] == list(range(1, len(sizes) + 1))


def test_many_packets_pass_the_window(tmp_path: Path, read_capture: Read) -> None:
    """More than the window holds, with runs of equal lengths and without."""
    frames = [bytes(ETHER / IP() / UDP(sport=n + 1, dport=PORT) / Raw(bytes([n % 251]) * 1400)) for n in range(40)]
    odd = [
        bytes(ETHER / IP() / UDP(sport=n + 1, dport=PORT) / Raw(bytes([n % 251]) * (n * 37 % 1400))) for n in range(40)
    ]
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_of(frames * 60 + odd * 60 + frames * 30))
    found, _ = read_capture(path)
    payloads = [frame[42:] for frame in frames], [frame[42:] for frame in odd]
    assert [datagram.payload for datagram in found] == payloads[0] * 60 + payloads[1] * 60 + payloads[0] * 30


READ_STDIN = """
import sys
from pyflowx.transport.capture import CaptureReader
for batch in CaptureReader("-"):
    print(*batch.port.tolist(), flush=True)
"""


def test_stdin_is_read_as_it_comes(tmp_path: Path) -> None:
    """Each packet comes out before the next goes in."""
    octets = write(tmp_path / "a.pcap", traffic()[:2]).read_bytes()
    middle = 24 + 16 + struct.unpack_from("<I", octets, 24 + 8)[0]
    with subprocess.Popen([sys.executable, "-c", READ_STDIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(octets[:middle])
        process.stdin.flush()
        assert process.stdout.readline() == b"40001\n"
        process.stdin.write(octets[middle:])
        process.stdin.close()
        assert process.stdout.read() == b"40002\n"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_pipe_may_cut_anywhere(tmp_path: Path, read_capture: Read, step: int, compressed: bool) -> None:
    path, ng = write(tmp_path / "a.pcap", traffic()), tmp_path / "ng"
    run("editcap", "-F", "pcapng", path, ng)
    octets = gzip.compress(ng.read_bytes()) if compressed else ng.read_bytes()
    out, into = os.pipe()

    def feed() -> None:
        with os.fdopen(into, "wb", buffering=0) as file:
            for at in range(0, len(octets), step):
                file.write(octets[at : at + step])

    writer = threading.Thread(target=feed)
    writer.start()
    try:
        found, reader = read_capture(f"/dev/fd/{out}")
    finally:
        os.close(out)
        writer.join()
    assert found == scapy_says(path)
    assert reader.progress() == (len(octets), None)


def test_waiting_for_a_pipe_ends_in_time_and_on_a_wake_up() -> None:
    (out, into), (awake, wake) = os.pipe(), os.pipe()
    try:
        with CaptureReader(f"/dev/fd/{out}", wake_fd=awake) as reader:
            assert reader.receive(0.01) is None
            assert not reader.exhausted
            os.write(into, pcap_of([])[:10])
            assert reader.receive(0.01) is None
            os.write(wake, b"x")
            assert reader.receive(None) is None
            os.write(into, pcap_of([bytes(ETHER / IP() / udp(9))])[10:])
            batch = reader.receive(0)
            assert batch is not None and batch.port.tolist() == [40_009]
            assert reader.receive(0.01) is None
            os.close(into)
            assert reader.receive(None) is None
            assert reader.exhausted and reader.problem is None
    finally:
        for descriptor in (out, awake, wake):
            os.close(descriptor)


def test_a_pipe_without_a_capture_is_an_error_when_it_is_read() -> None:
    out, into = os.pipe()
    os.write(into, b"GET / HTTP/1.0\r\n\r\n and more")
    os.close(into)
    try:
        with CaptureReader(f"/dev/fd/{out}") as reader, pytest.raises(ConfigError, match="no capture file"):
            reader.receive(None)
    finally:
        os.close(out)
