"""``pyflowx collect --pcap``, as a user calls it."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from scapy.utils import PcapWriter

SECOND = 1_700_000_000
TEMPLATE = struct.pack(">HHHHHHHH", 2, 16, 256, 2, 8, 4, 1, 4)
SUMMARY = re.compile(r"IPFIX: (\d+) messages, (\d+) flows")


def ipfix(sets: bytes, sequence: int = 0) -> bytes:
    return struct.pack(">HHIII", 10, 16 + len(sets), SECOND, sequence, 1) + sets


def data(octets: int) -> bytes:
    return ipfix(struct.pack(">HHII", 256, 12, 0x0A000001, octets))


def capture(path: Path, messages: list[bytes], port: int = 2055) -> Path:
    with PcapWriter(str(path), linktype=101, sync=True) as writer:
        for message in messages:
            packet = IP(src="192.0.2.7", dst="192.0.2.8") / UDP(sport=4000, dport=port) / Raw(message)
            packet.time = SECOND + 1
            writer.write(packet)
    return path


def collect(*arguments: str | Path, stdin: bytes = b"", status: int = 0) -> tuple[list[dict[str, object]], str]:
    command = [sys.executable, "-m", "pyflowx", "collect", "-f", "common", *map(str, arguments)]
    ended = subprocess.run(command, input=stdin, capture_output=True, check=False)
    errors = ended.stderr.decode()
    assert ended.returncode == status, errors
    return [json.loads(line) for line in ended.stdout.splitlines()], errors


def test_flows_of_a_capture(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [ipfix(TEMPLATE), data(5), data(6)])
    flows, errors = collect("--pcap", path)
    assert [flow["bytes"] for flow in flows] == [5, 6]
    assert {flow["sampler_address"] for flow in flows} == {"192.0.2.7"}
    assert {flow["time_received_ns"] for flow in flows} == {(SECOND + 1) * 10**9}
    assert "3 packets: 172 octets, 3 datagrams" in errors
    assert "\r" not in errors


def test_several_captures_share_their_templates(tmp_path: Path) -> None:
    one, two = capture(tmp_path / "a", [ipfix(TEMPLATE)]), tmp_path / "b.gz"
    two.write_bytes(gzip.compress(capture(tmp_path / "b", [data(7)]).read_bytes()))
    flows, _ = collect("--pcap", one, "--pcap", two)
    assert [flow["bytes"] for flow in flows] == [7]


def test_a_port_narrows(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [ipfix(TEMPLATE), data(5)])
    flows, errors = collect("--pcap", path, "-p", "9996")
    assert flows == []
    assert "2 other port" in errors


def test_stdin(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [ipfix(TEMPLATE), data(5)])
    flows, _ = collect("--pcap", "-", stdin=path.read_bytes())
    assert [flow["bytes"] for flow in flows] == [5]


def test_a_damaged_capture_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [ipfix(TEMPLATE), data(5), data(6)])
    path.write_bytes(path.read_bytes()[:-1])
    flows, errors = collect("--pcap", path)
    assert [flow["bytes"] for flow in flows] == [5]
    assert "ends inside the record at octet" in errors


@pytest.mark.parametrize("content", [None, b"no capture at all, but text"])
def test_what_is_no_capture_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a"
    if content is not None:
        path.write_bytes(content)
    assert f"pyflowx: --pcap {path}: " in collect("--pcap", path, status=2)[1]


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [ipfix(TEMPLATE)])
    head, record = path.read_bytes()[:24], capture(tmp_path / "b.pcap", [data(5)]).read_bytes()[24:]
    path.write_bytes(head + path.read_bytes()[24:] + record * 100_000)
    terminal, child = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "pyflowx",
        "collect",
        "-f",
        "common",
        "-o",
        str(tmp_path / "out"),
        "--pcap",
        str(path),
    ]
    with subprocess.Popen(command, stderr=child, stdout=subprocess.DEVNULL) as process:
        os.close(child)
        shown = b""
        try:
            while octets := os.read(terminal, 65_536):
                shown += octets
        except OSError:  # how a terminal says that nobody writes to it any more
            pass
        finally:
            os.close(terminal)
    assert process.returncode == 0
    shares = [int(share) for share in re.findall(rb"\ra.pcap \[#*\.*\] +(\d+)% of 7 MB\x1b\[K", shown)]
    assert shares and shares == sorted(shares)
    assert re.search(rb"\r\x1b\[Kpyflowx: .*100001 packets", shown)
    found = SUMMARY.search(shown.decode())
    assert found is not None and found.groups() == ("100001", "100000")
