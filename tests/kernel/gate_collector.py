"""A collector with a gate in the near namespace of a wire, and frames to send to it."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import threading

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from pyflowx.live import FeedReader

PORT = 9995
NEAR, FAR = "02:00:00:00:00:01", "02:00:00:00:00:02"


def v5(*octets, count=None):
    """A NetFlow v5 datagram with a record for each number of octets."""
    records = b"".join(bytes(16) + struct.pack(">II", 1, n) + bytes(24) for n in octets)
    return struct.pack(">HHIIIIBBH", 5, len(octets) if count is None else count, 0, 1, 0, 0, 0, 0, 0) + records


def frame(payload, source="10.9.0.2", vlan=None, destination="10.9.0.1", port=PORT):
    link = Ether(src=FAR, dst=NEAR) / Dot1Q(vlan=vlan) if vlan else Ether(src=FAR, dst=NEAR)
    network = IPv6(src=source, dst=destination) if ":" in source else IP(src=source, dst=destination)
    return bytes(link / network / UDP(sport=2055, dport=port) / payload)


class Collecting:
    """``pyflowx collect`` in the near namespace."""

    def __init__(self, wire, folder, *options, ready="gate on v "):
        self.feed, self.said_in, self.out = folder / "feed", folder / "said", folder / "flows"
        command = ["ip", "netns", "exec", wire.near.name, sys.executable, "-m", "pyflowx", "collect", "-H", "::"]
        command += ["-p", str(PORT), "-f", "common", "-o", str(self.out), "--no-metrics", "--live", str(self.feed)]
        with self.said_in.open("w") as said:
            self.process = subprocess.Popen([*command, *options], stderr=said)
        if ready:
            self.until(lambda: ready in self.said and self.feed.exists())

    @property
    def said(self):
        return self.said_in.read_text()

    def until(self, look):
        """What ``look`` finds as soon as it finds something; the collector has to live meanwhile."""
        pause = threading.Event()
        while not (found := look()):
            assert self.process.poll() is None, self.said
            pause.wait(0.05)
        return found

    def snapshot(self):
        with FeedReader(self.feed, 30) as reader:
            return next(iter(reader))

    def gate(self):
        return self.snapshot()["gate"]

    def outcomes(self, interface="v"):
        """Those that are not 0, without other traffic."""
        (row,) = [row for row in self.gate()["interfaces"] if row["interface"] == interface]
        return {name: count for name, count in row["outcomes"].items() if count and name != "other"}

    def end(self, number=signal.SIGTERM):
        """Its flows."""
        self.process.send_signal(number)
        assert self.process.wait() == (0 if number == signal.SIGTERM else -number), self.said
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()  # so that it detaches
            self.process.wait()
