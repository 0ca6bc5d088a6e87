"""CPU time and loss of exporters beside each other: ``python tests/bench/exporters.py [packets/s...] [part of a
name...] [x5]``, the last for five rounds and their medians: on a shared host one round says little. Needs root.
RustFlow is one of them where its program is in the PATH, or where the variable RUSTFLOW says.

Two namespaces joined by veth. Far sends UDP frames of 65,536 flows (100 octets each, in an order of their own) at a
fixed rate, 1 M in all; near has the exporter, which meters what comes in, and a collector that counts the packets that
its records tell of. Measured is what an exporter costs beside itself: CPU time of its process from the first packet
to its end, and by how much it makes the sender and ksoftirqd slower, which do the receiving: slower than they were
without an exporter just before and after. "Nobody" is a process that sleeps, measured like the others: what its row
says beside 0.00 is error. "Not there" is the part of what is lost that the interface itself did not receive (its ring
at XDP is short). The bar for ours: 0.45 CPU s for 1 M packets, no packet lost.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyflowx.transport.udp import UdpReceiver
from pyflowx.wire import Decoder

PACKETS, FLOWS, SIZE = 1_000_000, 65_536, 100
RATES = (100_000, 200_000)
PORT = 19_995
BURST = 64
NEAR, FAR = (f"pyflowx-bench-{os.getpid()}-{side}" for side in ("near", "far"))
MACS = {NEAR: "02:00:00:00:00:01", FAR: "02:00:00:00:00:02"}
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

SOFTFLOWD = "softflowd -i v -n 127.0.0.1:{port} -v 9 -m 200000 -t maxlife=3600 -d -p {folder}/pid -c {folder}/ctl"
PMACCTD = """
daemonize: false
pcap_interface: v
aggregate: src_host, dst_host, src_port, dst_port, proto, tos
plugins: nfprobe
plugin_buffer_size: 1024000
plugin_pipe_size: 102400000
nfprobe_receiver: 127.0.0.1:{port}
nfprobe_version: 9
nfprobe_maxflows: 200000
nfprobe_timeouts: general=3600:maxlife=3600
"""


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def inside(namespace: str):
    """What this thread opens belongs to the namespace."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


def build(stack: contextlib.ExitStack) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which takes the namespaces away, too
    for namespace in (NEAR, FAR):
        run("ip", "netns", "add", namespace)
        stack.callback(run, "ip", "netns", "del", namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        with inside(namespace):
            for name in ("router_solicitations", "accept_dad"):
                Path(f"/proc/sys/net/ipv6/conf/default/{name}").write_text("0")
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    run("ip", "-n", NEAR, "link", "add", "v", "type", "veth", "peer", "name", "v", "netns", FAR)
    for namespace, mac in MACS.items():
        run("ip", "-n", namespace, "link", "set", "v", "address", mac, "up")


class Load:
    """Frames of all flows, ready for sendmmsg."""

    class _Header(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_void_p),
            ("name_len", ctypes.c_uint32),
            ("vector", ctypes.c_void_p),
            ("vectors", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("control_len", ctypes.c_size_t),
            ("flags", ctypes.c_int),
            ("sent", ctypes.c_uint),
        ]

    def __init__(self, flows: int = FLOWS) -> None:
        self.flows = flows
        mac = bytes.fromhex(MACS[NEAR].replace(":", "")) + bytes.fromhex(MACS[FAR].replace(":", ""))
        head = mac + struct.pack(
            ">HBBHHHBBHIIHHHH", 0x800, 0x45, 0, SIZE - 14, 0, 0, 64, 17, 0, 0, 0, 0, 9, SIZE - 34, 0
        )
        self.frames = np.tile(np.frombuffer(head.ljust(SIZE, b"\0"), np.uint8), (self.flows, 1))
        numbers = np.random.default_rng(1).permutation(self.flows).astype(np.uint32)
        self.frames[:, 26:30] = (0x0A000000 + numbers).astype(">u4").view(np.uint8).reshape(-1, 4)
        self.frames[:, 30:34] = np.frombuffer(socket.inet_aton("192.0.2.1"), np.uint8)
        self.frames[:, 34:36] = (1024 + numbers % 60_000).astype(">u2").view(np.uint8).reshape(-1, 2)
        words = self.frames[:, 14:34].copy().view(">u2").sum(axis=1, dtype=np.uint32)
        words = (words & 0xFFFF) + (words >> 16)
        self.frames[:, 24:26] = (~(words + (words >> 16)) & 0xFFFF).astype(">u2").view(np.uint8).reshape(-1, 2)
        self.vectors = np.zeros((self.flows, 2), np.uintp)
        self.vectors[:, 0] = self.frames.ctypes.data + np.arange(self.flows) * SIZE
        self.vectors[:, 1] = SIZE
        self.headers = (self._Header * self.flows)()
        for number in range(self.flows):
            self.headers[number].vector = self.vectors.ctypes.data + 16 * number
            self.headers[number].vectors = 1

    def send(self, rate: int, packets: int = PACKETS) -> tuple[float, float]:
        """So many packets at a rate; (CPU seconds of this thread, seconds)."""
        with inside(FAR):
            out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            out.bind(("v", 0))
        size, sent = ctypes.sizeof(self._Header), 0
        cpu, begin = time.thread_time(), time.perf_counter()
        with out:
            while sent < packets:
                place = sent % self.flows
                count = min(BURST, self.flows - place, packets - sent)
                done = libc.sendmmsg(out.fileno(), ctypes.byref(self.headers, place * size), count, 0)
                if done < 0:
                    assert ctypes.get_errno() == errno.ENOBUFS
                    continue
                sent += done
                early = begin + sent / rate - time.perf_counter()
                if early > 0.0005:
                    time.sleep(early)
        return time.thread_time() - cpu, time.perf_counter() - begin


def ksoftirqd() -> float:
    """CPU seconds of the kernel's threads that receive when there is much to do."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "comm").read_text().startswith("ksoftirqd/"):
                total += int((folder / "schedstat").read_text().split()[0])
    return total / 1e9


def process_cpu(pid: int) -> float:
    """Of all threads of a process and its children that live."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return (
        sum(int(task.read_text().split()[0]) for one in pids for task in Path(f"/proc/{one}/task").glob("*/schedstat"))
        / 1e9
    )


class Collector:
    """Counts the packets that records tell of."""

    def __init__(self) -> None:
        with inside(NEAR):
            self.receiver = UdpReceiver([("127.0.0.1", PORT)], recv_buffer=1 << 27)
        self.packets = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        decoder = Decoder()
        while (batch := self.receiver.receive(0.2)) is not None or not self.done.is_set():
            if batch is None:
                continue
            decoded, _ = decoder.decode(batch, time.time_ns())
            for flows in (flows for part in decoded for flows in part.flows):
                if (count := flows.find(0, 2)) is not None and (port := flows.find(0, 11)) is not None:
                    self.packets += int(count[port == 9].sum())

    def end(self) -> int:
        self.done.set()
        self.thread.join()
        assert self.receiver.dropped == 0
        self.receiver.close()
        return self.packets


class Candidate(NamedTuple):
    """An exporter: how it is started, what it says when it is ready (empty: wait a second), what ends it (empty:
    SIGTERM)."""

    command: list[str]
    ready: str = ""
    end: tuple[str, ...] = ()


NOBODY = Candidate(["sleep", "infinity"])


def exporters(folder: str) -> dict[str, Candidate]:
    config = Path(folder, "pmacctd.conf")
    config.write_text(PMACCTD.format(port=PORT))
    ours = [sys.executable, "-m", "pyflowx", "export", "-i", "v", "-H", "127.0.0.1", "-p", str(PORT)]
    ours += ["--direction", "ingress", "--no-metrics", "--no-live", "--active-timeout", "3600"]
    found = {
        "pyflowx, TC": Candidate([*ours, "--hook", "tc"], "metering"),
        "pyflowx, XDP": Candidate([*ours, "--hook", "xdp"], "metering"),
    }
    if shutil.which("softflowd"):
        end = ("softflowctl", "-c", f"{folder}/ctl", "shutdown")  # on SIGTERM it exports nothing
        found["softflowd"] = Candidate(SOFTFLOWD.format(port=PORT, folder=folder).split(), end=end)
    if shutil.which("pmacctd"):
        found["pmacctd"] = Candidate(["pmacctd", "-f", str(config)])
    if rustflow := shutil.which(os.environ.get("RUSTFLOW", "rustflow")):
        words = "export -i v --capture af-packet -H 127.0.0.1 --active-timeout 3600 --inactive-timeout 3600 -p"
        found["RustFlow"] = Candidate([rustflow, *words.split(), str(PORT)])
    return found


def start(candidate: Candidate) -> subprocess.Popen:
    command = ["nsenter", f"--net=/run/netns/{NEAR}", *candidate.command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    atexit.register(process.kill)  # where we end before it
    if candidate.ready:
        while candidate.ready not in (line := process.stderr.readline()):
            assert line, "it did not start"
    threading.Thread(target=process.stderr.read, daemon=True).start()
    time.sleep(1)
    return process


def sending(load: Load, rate: int) -> tuple[float, float]:
    """(CPU seconds of sender and ksoftirqd, seconds)."""
    before = ksoftirqd()
    cpu, seconds = load.send(rate)
    time.sleep(0.5)
    return cpu + ksoftirqd() - before, seconds


def received() -> int:
    """Packets that the interface of near has counted."""
    (link,) = json.loads(run("ip", "-n", NEAR, "-j", "-s", "link", "show", "v"))
    return int(link["stats64"]["rx"]["packets"])


def measure(load: Load, rate: int, candidate: Candidate) -> tuple[float, float, float, int, int]:
    """(CPU s of the process, of sender and ksoftirqd, seconds it took to send, packets told of, packets that the
    interface received)."""
    collector = Collector()
    process = start(candidate)
    before, packets = process_cpu(process.pid), received()
    cpu, seconds = sending(load, rate)
    packets = received() - packets
    if candidate.end:
        run(*candidate.end)
    else:
        process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    return usage.ru_utime + usage.ru_stime - before, cpu, seconds, collector.end(), packets


def row(name: str, rate: float, process: float, kernel: float, lost: float, missing: float) -> None:
    costs = f"{process:8.2f} {kernel:+8.2f} {process + kernel:8.2f}"
    print(f"{name:<14}{rate:9,.0f} {costs} {lost:>9.3%} {missing:>9.3%}", flush=True)


def compare(load: Load, rate: int, candidates: dict[str, Candidate], rounds: int) -> None:
    """Of all candidates, one after the other, and that again."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in candidates}
    _, before, *_ = measure(load, rate, NOBODY)
    for _ in range(rounds):
        for name, candidate in candidates.items():
            process, kernel, seconds, told, packets = measure(load, rate, candidate)
            _, after, *_ = measure(load, rate, NOBODY)
            kernel, before = kernel - (before + after) / 2, after
            figures = PACKETS / seconds, process, kernel, 1 - told / PACKETS, 1 - packets / PACKETS
            found[name].append(figures)
            row(name, *figures)
    if rounds > 1:
        print("median")
        for name, each in found.items():
            row(name, *map(statistics.median, zip(*each, strict=True)))


def main() -> None:
    words = sys.argv[1:]
    rates = [int(word) for word in words if word.isdecimal()] or RATES
    rounds = next((int(word[1:]) for word in words if re.fullmatch(r"x\d+", word)), 1)
    wanted = [word.lower() for word in words if not re.fullmatch(r"x?\d+", word)] or [""]
    load = Load()
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        build(stack)
        print(f"{PACKETS:,} packets of {FLOWS:,} flows; CPU seconds")
        print(f"{'':<14}{'rate':>9} {'process':>8} {'kernel':>8} {'sum':>8} {'lost':>9} {'not there':>9}")
        candidates = {
            name: candidate
            for name, candidate in exporters(folder).items()
            if any(word in name.lower() for word in wanted)
        } | {"nobody": NOBODY}
        for rate in rates:
            compare(load, rate, candidates, rounds)


if __name__ == "__main__":
    main()
