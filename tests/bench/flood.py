"""A flood of garbage beside good exporters, with and without the gate: ``sudo python tests/bench/flood.py [RATE]``.

The garbage, a million datagrams a second if nothing else is said, is what an interface of its own receives: frames
that the kernel makes for the program at XDP there (BPF_PROG_TEST_RUN with live frames, Linux 5.18), so that no sender
costs anything. Good exporters send 5000 datagrams a second over the link of ingest.py. Shown are the garbage that the
host was through with in a second, what a million of it cost (seconds of a CPU, in the kernel), what the collector
itself used of a CPU, and how many of the good datagrams were lost.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import ingest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from pyflowx.kernel import syscall
from pyflowx.kernel.links import Links
from pyflowx.kernel.syscall import Program

RATE, SECONDS, GOOD = 1_000_000, 6.0, 5000
PIECE = 512  # frames a call
LIVE_FRAMES = 2
SECOND, MAC = "pfxi1", "02:00:00:00:00:11"
ROWS: dict[str, tuple[str, ...]] = {
    "no gate": (),
    "monitor": ("--xdp", "{}", "--xdp", SECOND),
    "enforce": ("--xdp", "{}", "--xdp", SECOND, "--xdp-mode", "enforce"),
    "enforce, AF_XDP": ("--xdp", "{}", "--xdp", SECOND, "--xdp-mode", "enforce", "--af-xdp"),
}


def flood(rate: int, seconds: float) -> None:
    """Prints datagrams a second, and the seconds of a CPU that a million took."""
    with ExitStack() as stack:
        links = stack.enter_context(Links())
        ifindex = links.index(SECOND)
        attached = links.xdp(ifindex)
        assert attached is not None
        program = Program.by_id(attached[1])
        assert program is not None
        stack.enter_context(program)
        frames = [garbage(f"10.79.1.{number}") for number in range(1, 200)]
        done, begin, cpu = 0, time.monotonic(), time.process_time()
        while (passed := time.monotonic() - begin) < seconds:
            if done > passed * rate:
                time.sleep(0.000_5)
                continue
            run_live(program, frames[done // PIECE % len(frames)], ifindex)
            done += PIECE
        print(done / (time.monotonic() - begin), 1e6 * (time.process_time() - cpu) / done)


def garbage(source: str) -> bytes:
    link = Ether(src="02:00:00:00:00:12", dst=MAC)
    return bytes(link / IP(src=source, dst="10.79.0.1") / UDP(dport=ingest.PORT) / (b"garbage" + os.urandom(93)))


def run_live(program: Program, frame: bytes, ifindex: int) -> None:
    """The program sees the frame ``PIECE`` times, received by the interface, and what it passes goes up the stack."""
    context = struct.pack("=6I", 0, len(frame), 0, ifindex, 0, 0)  # struct xdp_md
    data, held = (ctypes.create_string_buffer(octets, len(octets)) for octets in (frame, context))
    attr = syscall._attr(
        "4IQQ4IQQ3I",
        *(program.fd, 0, len(frame), 0, ctypes.addressof(data), 0),
        *(PIECE, 0, len(context), 0, ctypes.addressof(held), 0),
        *(LIVE_FRAMES, 0, 64),
    )
    syscall._call(syscall._PROG_TEST_RUN, attr)


def good(collector: ingest.Collector) -> int:
    """Datagrams received of good exporters."""
    rows = [
        row for family in collector.metrics() if family.name == "pyflowx_received_packets" for row in family.samples
    ]
    return int(sum(row.value for row in rows if row.labels["exporter"].startswith("10.79.0.")))


def measure(far: str, interface: str, name: str, rate: int) -> None:
    options = tuple(option.format(interface) for option in ROWS[name])
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        if not options:  # the interface is to receive with XDP in any case
            passes = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
            program = stack.enter_context(Program.load(syscall.PROG_TYPE_XDP, "passes", passes, {}))
            links = stack.enter_context(Links())
            assert links.attach_xdp(links.index(SECOND), program, native=True) == 0
            stack.callback(links.detach_xdp, links.index(SECOND), program, 4)
        collector = ingest.Collector(Path(folder), options)
        try:
            ingest.load(far, collector, 2000, 0.5)
            command = [sys.executable, __file__, "--flood", str(rate), str(SECONDS)]
            before = collector.cpu()
            flooding = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            time.sleep(1.0)
            before_good = good(collector)
            send = [sys.executable, ingest.__file__, "--send", str(GOOD), str(SECONDS - 2)]
            sent = int(ingest.run("ip", "netns", "exec", far, *send))
            out, _ = flooding.communicate()
            time.sleep(1.2)
            lost = sent - (good(collector) - before_good)
            used = sum(collector.cpu()) - sum(before)
        finally:
            collector.end()
    done, cost = map(float, out.split())
    print(f"{name:<16} {done:12,.0f} {cost:10.2f} {used / SECONDS:10.2f} {lost:8} of {sent}", flush=True)


def main(rate: int) -> None:
    print(f"{'':<16} {'garbage/s':>12} {'CPU s/M':>10} {'collector':>10} {'good lost':>12}")
    with ingest.link() as (far, interface):
        ingest.run("ip", "link", "add", SECOND, "address", MAC, "type", "veth", "peer", "name", SECOND, "netns", far)
        ingest.run("ip", "link", "set", SECOND, "up")
        ingest.run("ip", "-n", far, "link", "set", SECOND, "up")
        for name in ROWS:
            measure(far, interface, name, rate)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--flood"]:
        flood(int(sys.argv[2]), float(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else RATE)
