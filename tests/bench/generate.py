"""Packets a second that ``pyflowx generate -r 0`` sends over loopback: ``python tests/bench/generate.py [SECONDS]``.

Packets of 10 flows, to a socket that is never read: its queue fills and the kernel drops the rest, so that no
reader takes a processor away. The whole command is measured, the figure is the one that it tells itself. Besides, the
cost of each step for a packet of 10 flows. The bar is 250,000 packets/s with IPFIX.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from pyflowx.generating import PROTOCOLS, Generator, Settings
from pyflowx.transport.udp import UdpSender

PACKETS = 1024


def command(protocol: str, port: int, seconds: float) -> None:
    arguments = [sys.executable, "-m", "pyflowx", "generate", "-p", str(port), "-r", "0", "-t", protocol, "--seed", "1"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.terminate()
    _, told = process.communicate()
    used = os.times()
    packets, rate = (float(found) for found in re.search(r"(\d+) packets.*: ([\d.]+) packets/s", told).groups())
    print(f"{protocol:<9} {rate:9.0f} packets/s {rate * 10 / 1e6:6.2f} M flows/s", end="")
    cpu = used.children_user + used.children_system - command.before
    command.before += cpu
    print(f"  CPU {cpu / packets * 1e6:5.2f} us a packet, start-up included")


command.before = 0.0


def microseconds(step: Callable[[], object]) -> float:
    """Best of several, for one packet."""
    costs = []
    for _ in range(30):
        begin = time.perf_counter()
        step()
        costs.append(time.perf_counter() - begin)
    return min(costs) / PACKETS * 1e6


def steps(protocol: str, port: int) -> None:
    settings = replace(Settings(), protocol=protocol, port=port, rate=0, seed=1)
    generator = Generator(settings)
    source, encoder, now = generator._source, generator._encoder, time.time_ns()
    drawn = source.draw(PACKETS * 10)
    flows = source.flows(drawn, now, generator._boot_ns)
    datagrams = encoder.encode(flows, now, 10)
    with UdpSender([("127.0.0.1", port)]) as sender:
        print(
            f"{protocol:<9} us a packet: draw {microseconds(lambda: source.draw(PACKETS * 10)):.2f}"
            f"  encode {microseconds(lambda: encoder.encode(flows, now, 10)):.2f}"
            f"  send {microseconds(lambda: sender.send(datagrams)):.2f}"
        )


if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        for each in PROTOCOLS:
            steps(each, sink.getsockname()[1])
            command(each, sink.getsockname()[1], float(sys.argv[1]) if len(sys.argv) > 1 else 5)
