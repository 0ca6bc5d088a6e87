"""Ways of datagrams into the collector, on veth: ``sudo python tests/bench/ingest.py [ROW ...]``.

Eight exporters, in a network namespace of their own, send IPFIX of 1400 octets to ``pyflowx collect -f common -s
discard``. At a steady rate: CPU seconds (user and system of all its processes, softirq of the host) per million
datagrams. Then the highest rate, of steps of a fifth, at which none is lost. The receiving interface holds packets back
for 50 us, as cards do that interrupt for several at once; all of it shares the CPUs that there are with the sender.
With a program at XDP veth copies each frame that a socket sent, which no card does; it has one receive queue, so that
AF_XDP feeds one worker.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from decode import flows as random_flows
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pyflowx.batch import Datagrams
from pyflowx.transport.udp import UdpSender
from pyflowx.wire import ipfix

EXPORTERS = 8
PORT = 9995
STEADY, STEADY_S = 20_000, 3.0
LOWEST, HIGHEST, STEP, STEP_S = 10_000, 400_000, 1.2, 1.0
BURST = 32  # datagrams of an exporter that are sent at once
NOW = 1_700_000_000 * 10**9

# What is measured: options of the collector; {} is the interface that receives.
ROWS: dict[str, tuple[str, ...]] = {
    "recvmmsg": (),
    "recvmmsg, UDP_GRO": ("--udp-gro",),
    "2 workers": ("--workers", "2"),
    "gate": ("--xdp", "{}", "--xdp-mode", "enforce"),
    "AF_XDP": ("--xdp", "{}", "--xdp-mode", "enforce", "--af-xdp"),
    "AF_XDP, 2 workers": ("--xdp", "{}", "--xdp-mode", "enforce", "--af-xdp", "--workers", "2"),
}


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


# --- the link --------------------------------------------------------------------------------------------------------


@contextmanager
def link() -> Iterator[tuple[str, str]]:
    """The namespace of the exporters, and the interface in our own, a new one, that receives from there."""
    near, far, mine = f"pfxi{os.getpid()}n", f"pfxi{os.getpid()}f", "pfxi0"
    with ExitStack() as stack:
        for name in (near, far):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
        run("ip", "-n", near, "link", "add", mine, "type", "veth", "peer", "name", mine, "netns", far)
        for name, address in ((near, "10.79.0.1/24"), (far, "10.79.0.2/24")):
            run("ip", "-n", name, "addr", "add", address, "dev", mine)
            for interface in ("lo", mine):
                run("ip", "-n", name, "link", "set", interface, "up")
        for number in range(1, EXPORTERS):
            run("ip", "-n", far, "addr", "add", f"10.79.0.{2 + number}/24", "dev", mine)
        run("ip", "netns", "exec", far, "ethtool", "-K", mine, "tso", "off")  # else veth puts nothing together
        run("ip", "netns", "exec", near, "ethtool", "-K", mine, "gro", "on")
        with open(f"/run/netns/{near}") as there, open("/proc/self/ns/net") as before:
            enter(there.fileno())
            stack.callback(enter, os.dup(before.fileno()))
        settings = (
            f"echo 50000 > /sys/class/net/{mine}/gro_flush_timeout; echo 2 > /sys/class/net/{mine}/napi_defer_hard_irqs"
        )
        run("ip", "netns", "exec", near, "sh", "-c", settings)
        yield far, mine


def enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


# --- the exporters, in a process of their own ------------------------------------------------------------------------


def send(rate: int, seconds: float) -> None:
    """So many datagrams a second, of all together; prints how many they were."""
    encoder = ipfix.Encoder(max_octets=1400)
    made = encoder.encode(random_flows(0), NOW)
    templates = encoder.template_messages(NOW)
    full = made.data[:BURST].copy(), made.length[:BURST].copy()
    records = int.from_bytes(made.data[1, 8:12].tobytes(), "big") - int.from_bytes(made.data[0, 8:12].tobytes(), "big")
    senders = [sender(f"10.79.0.{2 + number}") for number in range(EXPORTERS)]
    for each in senders:
        each.send(templates)
    time.sleep(0.2)
    begin, bursts = time.monotonic(), 0
    while (passed := time.monotonic() - begin) < seconds:
        if bursts * BURST > passed * rate:
            time.sleep(0.000_2)
            continue
        numbers = (np.arange(BURST) + bursts // EXPORTERS * BURST) * records
        full[0][:, 8:12] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
        senders[bursts % EXPORTERS].send(Datagrams(*full))
        bursts += 1
    print(bursts * BURST + EXPORTERS * len(templates))


def sender(address: str) -> UdpSender:
    made = UdpSender([("10.79.0.1", PORT)])
    made._sockets[0].close()
    made._sockets[0] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made._sockets[0].bind((address, 0))
    made._sockets[0].connect(("10.79.0.1", PORT))
    return made


# --- the collector ---------------------------------------------------------------------------------------------------


class Collector:
    def __init__(self, folder: Path, options: tuple[str, ...]) -> None:
        self._said = folder / "said"
        command = [sys.executable, "-m", "pyflowx", "collect", "-p", str(PORT), "-f", "common", "-s", "discard"]
        common = ("--no-live", "--metrics-host", "127.0.0.1", "--metrics-port", "0", "--recv-buffer", str(32 << 20))
        with self._said.open("w") as said:
            self.process = subprocess.Popen([*command, *common, *options], stderr=said)
        while (found := re.search(r"metrics at (\S+)", self._said.read_text())) is None:
            if self.process.poll() is not None:
                raise SystemExit(self._said.read_text())
            time.sleep(0.05)
        self._url = found[1]
        time.sleep(1.0)

    def metrics(self) -> list[Metric]:
        with urllib.request.urlopen(self._url) as answer:
            return list(text_string_to_metric_families(answer.read().decode()))

    def counts(self) -> tuple[int, int]:
        """Datagrams received and lost on the way into it (by the kernel, by the gate's sockets)."""
        families = self.metrics()
        values = {family.name: sum(sample.value for sample in family.samples) for family in families}
        return int(values.get("pyflowx_received_packets", 0)), int(values["pyflowx_socket_dropped_packets"])

    def cpu(self) -> tuple[float, float]:
        """User and system seconds of the process and its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        rows = [
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in [self.process.pid, *children]
        ]
        tick = os.sysconf("SC_CLK_TCK")
        return sum(int(row[11]) for row in rows) / tick, sum(int(row[12]) for row in rows) / tick

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def softirq() -> float:
    """Seconds that all CPUs spent in it."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[7]) / os.sysconf("SC_CLK_TCK")


def load(far: str, collector: Collector, rate: int, seconds: float) -> tuple[int, int]:
    """Datagrams that came, and that did not."""
    received, _ = collector.counts()
    command = ["ip", "netns", "exec", far, sys.executable, __file__, "--send", str(rate), str(seconds)]
    sent = int(run(*command))
    came, before = 0, -1
    while came < sent and came != before:  # the rest is on its way, or is lost
        time.sleep(1.2)
        before, came = came, collector.counts()[0] - received
    return came, sent - came


def measure(far: str, interface: str, name: str) -> None:
    options = tuple(option.format(interface) for option in ROWS[name])
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder), options)
        try:
            load(far, collector, 2000, 0.5)  # everything is imported
            before = (*collector.cpu(), softirq())
            came, lost = load(far, collector, STEADY, STEADY_S)
            spent = [b - a for a, b in zip(before, (*collector.cpu(), softirq()), strict=True)]
            cost = [1e6 * seconds / came for seconds in spent]
            rate = best = LOWEST
            while rate <= HIGHEST:
                came, lost_here = load(far, collector, int(rate), STEP_S)
                if lost_here:
                    break
                best, rate = came / STEP_S, rate * STEP
        finally:
            collector.end()
    shown = " ".join(f"{seconds:8.2f}" for seconds in (*cost, sum(cost)))
    print(f"{name:<20} {shown} {best:12,.0f}" + (f"   ({lost} of the steady ones lost)" if lost else ""), flush=True)


def main(names: list[str]) -> None:
    print(f"{'':<20} {'user':>8} {'system':>8} {'softirq':>8} {'together':>8} {'loss-free':>12}")
    print(f"{'':<20} {'CPU seconds per million datagrams':^35} {'datagrams/s':>12}", flush=True)
    with link() as (far, interface):
        for name in names or ROWS:
            measure(far, interface, name)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--send"]:
        send(int(sys.argv[2]), float(sys.argv[3]))
    else:
        main(sys.argv[1:])
