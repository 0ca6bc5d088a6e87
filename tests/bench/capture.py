"""Cost of capture files: ``python tests/bench/capture.py [PACKETS [PROTOCOL ...]]`` (default 200,000, all).

For each protocol a capture of full datagrams of random flows is made (sFlow: samples of 128 octets of header), then
measured: reading alone (microseconds of CPU a packet; the bar is 1), and all of ``pyflowx collect --pcap FILE -f common
-s discard`` (CPU seconds per million flows; the start of the command, measured with a capture of one packet, left out).
"""

from __future__ import annotations

import importlib
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyflowx.batch import Datagrams, PacketBatch
from pyflowx.generating import PROTOCOLS, FlowSource, Settings
from pyflowx.transport.capture import CaptureReader

OCTETS = 1400  # of a datagram at most
FLOWS = 100_000  # that are different
SAMPLES = 7  # of an sFlow datagram
BARS = {"ipfix": 0.20, "netflow9": 0.20, "netflow5": 0.12, "sflow": 0.40}
REPEATS = 5


def datagrams_of(protocol: str, now_ns: int) -> tuple[Datagrams, Datagrams, int]:
    """Templates, full datagrams of different flows, flows in each."""
    if protocol == "sflow":
        rng = random.Random(1)
        rows = [sflow_datagram(rng, number) for number in range(FLOWS // SAMPLES)]
        return PacketBatch.of([]), PacketBatch.of(rows), SAMPLES
    source = FlowSource(Settings(protocol=protocol, seed=1))
    encoder = importlib.import_module(f"pyflowx.wire.{protocol}").Encoder(max_octets=OCTETS)
    made = encoder.encode(source.flows(source.draw(FLOWS), now_ns, now_ns - 10**12), now_ns)
    templates = encoder.template_messages(now_ns)
    return templates, Datagrams(made.data[:-1], made.length[:-1]), -(-FLOWS // len(made))


def sflow_datagram(rng: random.Random, number: int) -> bytes:
    """As a switch sends it: the head of a TCP packet (record 1) and its VLANs (record 1001) in each sample."""
    out = struct.pack(">IIIIIII", 5, 1, 0xC0000209, 0, number, 1000 * number, SAMPLES)
    for sample in range(SAMPLES):
        ip = struct.pack(">BBHIBBHII", 0x45, 0, 1400, 0, 64, 6, 0, rng.getrandbits(32), rng.getrandbits(32))
        frame = bytes(12) + b"\x08\0" + ip + struct.pack(">HHIIBB", rng.getrandbits(16), 443, 0, 0, 0x50, 0x10)
        sampled = struct.pack(">IIIIII", 1, 144, 1, 1418, 4, 128) + frame.ljust(128, b"\0")
        vlans = struct.pack(">IIIIII", 1001, 16, 10, 0, 20, 0)
        head = struct.pack(">IIIIIIII", number * SAMPLES + sample, 1, 1000, 0, 0, 1, 2, 2)
        out += struct.pack(">II", 1, len(head + sampled + vlans)) + head + sampled + vlans
    return out


def make(path: Path, protocol: str, packets: int) -> int:
    """A pcap of the Templates, then ``packets`` datagrams; the flows in it."""
    now = time.time_ns() // 1_000_000 * 1_000_000
    templates, full, flows = datagrams_of(protocol, now)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        file.write(records(templates, now))
        block = records(full, now)
        for _ in range(packets // len(full)):
            file.write(block)
        left = packets % len(full)
        file.write(records(Datagrams(full.data[:left], full.length[:left]), now))
    return packets * flows


def records(datagrams: Datagrams, now_ns: int) -> bytes:
    out = []
    for payload in datagrams.tolist():
        udp = struct.pack(">HHHH", 40_000, 9995, 8 + len(payload), 0)
        ip = struct.pack(">BBHIBBHII", 0x45, 0, 28 + len(payload), 0, 64, 17, 0, 0x7F000001, 0x7F000001)
        frame = bytes(12) + b"\x08\0" + ip + udp + payload
        seconds, nanoseconds = divmod(now_ns, 10**9)
        out.append(struct.pack("<IIII", seconds, nanoseconds // 1000, len(frame), len(frame)) + frame)
    return b"".join(out)


def cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def least(step: Callable[[], object], who: int) -> float:
    """CPU seconds of the cheapest of several runs."""
    costs = []
    for _ in range(REPEATS):
        before = cpu(who)
        step()
        costs.append(cpu(who) - before)
    return min(costs)


def read(path: Path) -> None:
    with CaptureReader(str(path)) as reader:
        for _ in reader:
            pass


def collect(path: Path) -> None:
    command = [sys.executable, "-m", "pyflowx", "collect", "--pcap", str(path), "-f", "common", "-s", "discard"]
    subprocess.run(command, check=True, capture_output=True)


def main(packets: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, empty = Path(folder) / "a.pcap", Path(folder) / "b.pcap"
        for protocol in sys.argv[2:] or PROTOCOLS:
            flows = make(path, protocol, packets)
            make(empty, protocol, 1)
            reading = least(lambda: read(path), resource.RUSAGE_SELF) / packets * 1e6
            start = least(lambda: collect(empty), resource.RUSAGE_CHILDREN)
            whole = least(lambda: collect(path), resource.RUSAGE_CHILDREN)
            cost = (whole - start) / flows * 1e6
            print(
                f"{protocol:<9} {flows / 1e6:5.1f} M flows, {path.stat().st_size / 1e6:4.0f} MB:"
                f" reading {reading:.2f} us a packet;"
                f" collect {cost:.3f} CPU s a million flows (bar {BARS[protocol]:.2f}), start {start:.2f} s"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
