"""What real exporters send, decoded, compared with the traffic that they saw and with what nfcapd reads.

The exporters read a capture that the test made. A program that is missing is a failure: ``make test`` installs them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from pyflowx.batch import PacketBatch
from pyflowx.collecting import Collector, consume_common
from pyflowx.common import CommonBatch, to_common
from pyflowx.conversion import Conversion
from pyflowx.decoded import Decoded
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.output import Output
from pyflowx.sinks.target import Target
from pyflowx.transport.udp import UdpReceiver, UdpSender
from pyflowx.wire import Decoder

START = int(time.time()) - 100  # some exporters count from when they were started, with 32 bits of milliseconds
CHECK_SEQUENCE = 4  # octets behind a frame of Ethernet, which sFlow counts
Key = tuple[str, str, int, int, int]  # source, destination, their ports (0 where there are none), protocol
Exporter = Callable[[Path, int], list[str]]
SOFTFLOWD = ["softflowd", "-d", "-a", "-c", "none", "-A", "milli"]


@dataclass
class Flow:
    """The packets with one key."""

    packets: int = 0
    octets: int = 0  # with IP headers
    first_ns: int = 2**63
    last_ns: int = 0
    flags: int = 0
    tos: set[int] = field(default_factory=set)

    def add(self, packets: int, octets: int, first_ns: int, last_ns: int, flags: int, tos: int) -> None:
        self.packets += packets
        self.octets += octets
        self.first_ns, self.last_ns = min(self.first_ns, first_ns), max(self.last_ns, last_ns)
        self.flags |= flags
        self.tos.add(tos)


@dataclass
class Traffic:
    """A capture, and what it holds."""

    path: Path
    frames: list[tuple[Any, ...]]  # as rows() below
    flows: dict[Key, Flow]


def frames() -> Iterator[tuple[Key, Packet, Packet, int]]:
    """Flows of several packets each: key, IP packet, frame, TCP flags."""
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for number in range(30):
        tos, port = number % 8 * 4, 20_000 + number
        if number % 3:
            ip: Packet = IP(src=f"10.0.{number}.1", dst="192.0.2.1", tos=tos)
        else:
            ip = IPv6(src=f"2001:db8::{number + 1:x}", dst="2001:db8:1::1", tc=tos)
        if number == 10:
            parts = [ICMP(type=8, id=number, seq=packet) for packet in range(3)]
        elif number % 2:
            parts = [TCP(sport=port, dport=443, flags=flags) for flags in ("S", "A", "PA", "PA")[: number % 4 + 1]]
        else:
            parts = [UDP(sport=port, dport=4433)] * (number % 7 + 1)
        for at, part in enumerate(parts):
            packet = ip / part / Raw(bytes(17 * number + at))
            protocol = {TCP: 6, UDP: 17, ICMP: 1}[type(part)]
            ports = (0, 0) if protocol == 1 else (port, part.dport)
            yield (ip.src, ip.dst, *ports, protocol), packet, ether / packet, int(part.flags) if protocol == 6 else 0


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    flows: dict[Key, Flow] = {}
    written, seen = [], []
    for number, (key, packet, frame, flags) in enumerate(frames()):
        frame.time = START + number / 100
        written.append(frame)
        time_ns = START * 10**9 + number * 10_000_000
        tos = packet.tc if IPv6 in packet else packet.tos
        flows.setdefault(key, Flow()).add(1, len(packet), time_ns, time_ns, flags, tos)
        seen.append((key, len(frame) + CHECK_SEQUENCE, flags, tos, 64, frame.src, frame.dst))
    path = tmp_path_factory.mktemp("traffic") / "traffic.pcap"
    wrpcap(str(path), written)
    return Traffic(path, seen, flows)


# --- exporters: the command that reads the capture and sends to the port ------------------------------------------


def softflowd(version: str) -> Exporter:
    def command(capture: Path, port: int) -> list[str]:
        pidfile = str(capture.with_suffix(f".{os.getpid()}.pid"))
        return [*SOFTFLOWD, "-r", str(capture), "-n", f"127.0.0.1:{port}", "-v", version, "-p", pidfile]

    return command


def pmacctd(*plugin: str) -> Exporter:
    def command(capture: Path, port: int) -> list[str]:
        lines = ["daemonize: false", f"pcap_savefile: {capture}", *plugin]
        config = capture.with_suffix(".conf")
        config.write_text("\n".join(line.replace("PORT", str(port)) for line in lines) + "\n")
        return ["pmacctd", "-f", str(config)]

    return command


def nfprobe(version: int) -> Exporter:
    return pmacctd(
        "aggregate: src_host, dst_host, src_port, dst_port, proto, tos, tcpflags",
        "plugins: nfprobe",
        "nfprobe_receiver: 127.0.0.1:PORT",
        f"nfprobe_version: {version}",
    )


def nfreplay(version: str) -> Exporter:
    """nfpcapd makes flows of the capture, nfreplay sends them."""

    def command(capture: Path, port: int) -> list[str]:
        folder = capture.with_suffix(f".{version}.flows")
        folder.mkdir()
        run(["nfpcapd", "-r", str(capture), "-w", str(folder), "-t", "3600"])
        (flows,) = folder.glob("nfcapd.*")
        return ["nfreplay", "-r", str(flows), "-H", "127.0.0.1", "-p", str(port), "-v", version]

    return command


def run(command: list[str]) -> None:
    """To its end, and that of all that it started: they hold its output open."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    # pmacctd fails with these words if its plugin, having sent everything, was quicker to end than itself.
    is_done = ended.returncode == 0 or ended.stdout.endswith(b"no more plugins active. Shutting down.\n")
    assert is_done, ended.stdout.decode()


EXPORTERS: dict[str, Exporter] = {
    "softflowd v5": softflowd("5"),
    "softflowd v9": softflowd("9"),
    "softflowd IPFIX": softflowd("10"),
    "nfprobe v5": nfprobe(5),
    "nfprobe v9": nfprobe(9),
    "nfprobe IPFIX": nfprobe(10),
    "nfreplay v5": nfreplay("5"),
    "nfreplay v9": nfreplay("9"),
}


# --- what arrives, and what it says -----------------------------------------------------------------------------


class Recorded:
    """Batches that were received, for a Collector."""

    def __init__(self, batches: list[PacketBatch]) -> None:
        self._batches = list(batches)

    @property
    def exhausted(self) -> bool:
        return not self._batches

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
        return self._batches.pop(0) if self._batches else None


def export(exporter: Exporter, capture: Path) -> list[PacketBatch]:
    with UdpReceiver([("127.0.0.1", 0)]) as receiver:
        ((_, port),) = receiver.addresses
        run(exporter(capture, port))
        batches = []
        while (batch := receiver.receive(0)) is not None:
            batches.append(batch.take(np.arange(len(batch))))  # a copy: the receiver uses its memory again
        assert receiver.dropped == 0
    return batches


def our_reading(
    batches: list[PacketBatch], path: Path, convert: Callable[[Decoded], list[CommonBatch]] = to_common
) -> tuple[list[dict[str, Any]], Collector]:
    """The flows in the common schema; nothing may have been wrong with what came."""
    sink = Output(CommonNdjson(), Target(str(path)))
    collector = Collector(Decoder(), sink, consume_common(sink, convert))
    collector.run(Recorded(batches))
    collector.close()
    assert collector.counters.problems.sum() == 0
    return [json.loads(line) for line in path.read_text().splitlines()], collector


def key_of(row: dict[str, Any]) -> Key:
    ports = (0, 0) if row["proto"] == 1 else (row["src_port"], row["dst_port"])
    return row["src_addr"], row["dst_addr"], *ports, row["proto"]


def by_key(rows: list[dict[str, Any]]) -> dict[Key, Flow]:
    flows: dict[Key, Flow] = {}
    for row in rows:
        flow = flows.setdefault(key_of(row), Flow())
        times = row["time_flow_start_ns"], row["time_flow_end_ns"]
        flow.add(row["packets"], row["bytes"], *times, row.get("tcp_flags", 0), row["ip_tos"])
    return flows


def nfcapd_reading(batches: list[PacketBatch], folder: Path) -> Counter[tuple[Key, str]]:
    """Packets and octets by key, as nfcapd reads the same datagrams."""
    folder.mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["nfcapd", "-b", "127.0.0.1", "-p", str(port), "-w", str(folder), "-t", "3600"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: queued(port) is not None, process)
            with UdpSender([("127.0.0.1", port)]) as sender:
                for batch in batches:
                    sender.send(batch)
            wait_until(lambda: queued(port) == 0, process)
        finally:
            process.terminate()
    listed = subprocess.run(["nfdump", "-R", str(folder), "-o", "json"], capture_output=True, check=True).stdout
    found: Counter[tuple[Key, str]] = Counter()
    for row in json.loads(listed):
        if row["type"] != "FLOW":
            continue
        source, destination = (row.get(f"{end}4_addr") or row[f"{end}6_addr"] for end in ("src", "dst"))
        ports = (0, 0) if row["proto"] == 1 else (row["src_port"], row["dst_port"])
        key = (source, destination, *ports, row["proto"])
        found[key, "packets"] += row["in_packets"]
        found[key, "octets"] += row["in_bytes"]
    return found


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "it ended too early"
        time.sleep(0.01)


def queued(port: int) -> int | None:
    """Octets that wait in the socket of a port; None while there is no such socket."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].partition(":")[2], 16) == port:
            return int(words[4].partition(":")[2], 16)
    return None


@pytest.mark.parametrize("name", EXPORTERS)
def test_flows_are_what_the_traffic_was(traffic: Traffic, tmp_path: Path, name: str) -> None:
    """None of these exporters reports the traffic class of IPv6, and nfpcapd no ToS at all."""
    batches = export(EXPORTERS[name], traffic.path)
    rows, collector = our_reading(batches, tmp_path / "flows")
    flows = by_key(rows)
    only_four = name.endswith("v5")
    expected = {key: flow for key, flow in traffic.flows.items() if not only_four or ":" not in key[0]}
    assert {key: (flow.packets, flow.octets) for key, flow in flows.items()} == {
        key: (flow.packets, flow.octets) for key, flow in expected.items()
    }
    slack_ns = 10**9 if name == "nfprobe v5" else 0  # its header and its records disagree about the fraction
    for key, flow in flows.items():
        assert flow.flags == expected[key].flags
        assert abs(flow.first_ns - expected[key].first_ns) <= slack_ns
        assert flow.last_ns - flow.first_ns == expected[key].last_ns - expected[key].first_ns
        assert flow.tos == (expected[key].tos if ":" not in key[0] and "nfreplay" not in name else {0})
    assert {row["sampler_address"] for row in rows} == {"127.0.0.1"}
    theirs = nfcapd_reading(batches, tmp_path / "nfcapd")
    assert theirs == {(key, what): getattr(flow, what) for key, flow in flows.items() for what in ("packets", "octets")}


def test_samples_are_what_the_traffic_was(traffic: Traffic, tmp_path: Path) -> None:
    """Every packet is sampled, but those that did not fill a datagram when it ends sfprobe does not send."""
    exporter = pmacctd(
        "plugins: sfprobe", "sfprobe_receiver: 127.0.0.1:PORT", "sfprobe_agentip: 192.0.2.99", "sampling_rate: 1"
    )
    rows, _ = our_reading(export(exporter, traffic.path), tmp_path / "flows")
    assert len(rows) > len(traffic.frames) / 2
    assert {(row["flow_type"], row["sampler_address"], row["sampling_rate"], row["packets"]) for row in rows} == {
        ("SFLOW_V5", "192.0.2.99", 1, 1)
    }
    samples = Counter(
        (
            key_of(row),
            row["bytes"],
            row.get("tcp_flags", 0),
            row["ip_tos"],
            row["ip_ttl"],
            row["src_mac"],
            row["dst_mac"],
        )
        for row in rows
    )
    assert samples == Counter(traffic.frames[: len(rows)])


@pytest.mark.parametrize("version", ["5", "9", "10"])
def test_softflowd_tells_its_rate_and_the_origin_of_its_times(traffic: Traffic, tmp_path: Path, version: str) -> None:
    """One packet in seven. v5 says so in its header, v9 by interface, IPFIX in options data, with the time of its
    start; v9 counts from a whole second."""

    def command(capture: Path, port: int) -> list[str]:
        receiver = ["-n", f"127.0.0.1:{port}", "-v", version, "-s", "7"]
        pidfile = str(tmp_path / "pid")
        return ["softflowd", "-d", "-a", "-c", "none", "-r", str(capture), *receiver, "-p", pidfile]

    rows, _ = our_reading(export(command, traffic.path), tmp_path / "flows", Conversion())
    assert len(rows) >= 5
    assert {row["sampling_rate"] for row in rows} == {7}
    slack_ns = 10**9 if version == "9" else 10**6
    for row in rows:
        seen = traffic.flows[key_of(row)]
        assert (
            seen.first_ns - slack_ns <= row["time_flow_start_ns"] <= row["time_flow_end_ns"] <= seen.last_ns + slack_ns
        )
