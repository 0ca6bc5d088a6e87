"""What metering costs a packet, and what draining a million flows costs. Needs root.

    sudo python tests/bench/kernel.py

The programs as they are loaded, on the maps of a Meter, run by the kernel's own test runs (BPF_PROG_TEST_RUN)
on a TCP packet of 154 octets. What a test run of an empty program takes is part of the figures, except of
"net". With many flows each run has another source address and comes by a tail call. A map that has been
filled and drained lies in the memory in a random order, which costs more than a fresh one; both are shown.
"""

from __future__ import annotations

import socket
import statistics
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from pyflowx.kernel import Meter, MeterConfig, syscall
from pyflowx.kernel.compiler import compile_programs
from pyflowx.kernel.syscall import Map, Program

FLOWS = (1, 1 << 16, 1 << 20)
BARS = {1: 90, 1 << 16: 400, 1 << 20: 600}  # ns a packet
DRAIN_BAR = 1.5  # s a million flows
RUNS = 1 << 20
ROUNDS = 7
KINDS = {"xdp": (syscall.PROG_TYPE_XDP, "vary_xdp"), "ingress": (syscall.PROG_TYPE_SCHED_CLS, "vary_tc")}
PROG_ARRAY = 3


def packet() -> bytes:
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 140, 0, 0, 64, 6, 0) + addresses
    tcp = struct.pack("!HHIIBBHHH", 40000, 443, 1, 1, 5 << 4, 0x10, 1000, 0, 0)
    return bytes(12) + b"\x08\0" + ip + tcp + bytes(100)


def varied(meter: Meter, hook: str, flows: int) -> Program:
    """A program that runs the metering program on one of ``flows`` flows after the other."""
    kind, name = KINDS[hook]
    code = compile_programs(Path(__file__).with_name("kernel_flows.c"), [name], [f"FLOWS={flows}"])[name]
    target = Map(PROG_ARRAY, 4, 4, 1, "target")
    flags = syscall.XDP_HAS_FRAGS if hook == "xdp" else 0
    program = Program.load(kind, name, code, {1: target}, flags)
    target.update(bytes(4), struct.pack("=I", meter._programs.load(hook).fd))
    return program


def empty(hook: str) -> Program:
    code = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 2; exit
    return Program.load(KINDS[hook][0], "empty", code, {})


def measure(program: Program, frame: bytes) -> list[int]:
    return [program.test_run(frame, RUNS).nanoseconds for _ in range(ROUNDS)]


def row(name: str, figures: Sequence[float], unit: str, bar: float, net: float | None = None) -> None:
    best = min(figures)
    print(
        f"{name:<32}{best:>8.4g}{statistics.median(figures):>8.4g}{'' if net is None else f'{net:.4g}':>8}  {unit:<10}"
        f"{bar:>6g}  {'ok' if best <= bar else 'MISSED'}"
    )


def packets(meter: Meter, hook: str, frame: bytes) -> None:
    with empty(hook) as program:
        idle = min(measure(program, frame))

    def show(flows: int, state: str) -> None:
        program = meter._programs.load(hook) if flows == 1 else varied(meter, hook, flows)
        program.test_run(frame, flows)  # every flow is there
        figures = measure(program, frame)
        row(f"{hook}, {flows} flow{'s' * (flows > 1)}{state}", figures, "ns/packet", BARS[flows], min(figures) - idle)
        meter.drain()

    for flows in FLOWS:
        show(flows, "")
    wear(meter, hook, frame)
    for flows in FLOWS[1:]:
        show(flows, ", used map")


def wear(meter: Meter, hook: str, frame: bytes) -> None:
    program = varied(meter, hook, FLOWS[-1])
    for _ in range(4):  # both generations, twice
        program.test_run(frame, FLOWS[-1])
        meter.drain()


def drain(meter: Meter, frame: bytes) -> None:
    figures, program = [], varied(meter, "xdp", FLOWS[-1])
    for _ in range(5):
        program.test_run(frame, FLOWS[-1])
        start = time.perf_counter()
        keys, _ = meter.drain()
        figures.append(time.perf_counter() - start)
        assert len(keys) == FLOWS[-1]
    row(f"swap and drain, {FLOWS[-1]} flows", figures, "s", DRAIN_BAR)


def main() -> None:
    print(f"{'':<32}{'best':>8}{'median':>8}{'net':>8}  {'':<10}{'bar':>6}")
    for hook in KINDS:
        with Meter(MeterConfig(["lo"], max_flows=1 << 20)) as meter:
            packets(meter, hook, packet())
            if hook == "xdp":
                drain(meter, packet())


if __name__ == "__main__":
    main()
