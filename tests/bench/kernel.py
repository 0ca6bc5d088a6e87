"""What metering costs a packet, by hook, packet and option, and what draining a million flows costs. Needs root.

    sudo python tests/bench/kernel.py [kinds]

The programs as they are loaded, on the maps of a Meter, run by the kernel's own test runs (BPF_PROG_TEST_RUN)
on a TCP packet of 154 octets, and on packets of all kinds (``kinds``: on these only). What a test run of an empty
program takes is part of the figures, except of "net". With many flows each run has another source address and
comes by a tail call. A table expects as many flows as there were before the last drain: shown is what many flows cost
where nothing is known yet, where they are expected, and when they come suddenly, until the next drain.
"""

from __future__ import annotations

import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN

from pyflowx.kernel import Meter, MeterConfig, syscall
from pyflowx.kernel.compiler import compile_programs
from pyflowx.kernel.syscall import Map, Program

FLOWS = (1, 1 << 16, 1 << 20)
BARS = {1: 90, 1 << 16: 400, 1 << 20: 600}  # ns a packet
DRAIN_BAR = 1.5  # s a million flows
RUNS = 1 << 20
ROUNDS = 7
KINDS = {"xdp": (syscall.PROG_TYPE_XDP, "vary_xdp"), "ingress": (syscall.PROG_TYPE_SCHED_CLS, "vary_tc")}
TYPES = {"xdp": syscall.PROG_TYPE_XDP, "ingress": syscall.PROG_TYPE_SCHED_CLS, "egress": syscall.PROG_TYPE_SCHED_CLS}
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
    return Program.load(TYPES[hook], "empty", code, {})


def measure(program: Program, frame: bytes) -> list[int]:
    return [program.test_run(frame, RUNS).nanoseconds for _ in range(ROUNDS)]


def row(name: str, figures: Sequence[float], unit: str, bar: float | None, net: float | None = None) -> None:
    best = min(figures)
    against = "" if bar is None else f"{bar:>6g}  {'ok' if best <= bar else 'MISSED'}"
    print(
        f"{name:<32}{best:>8.4g}{statistics.median(figures):>8.4g}{'' if net is None else f'{net:.4g}':>8}"
        f"  {unit:<10}{against}"
    )


def packets(meter: Meter, hook: str, frame: bytes, flows: int) -> None:
    """On a meter that has seen nothing yet."""
    with empty(hook) as program:
        idle = min(measure(program, frame))
    program = meter._programs.load(hook) if flows == 1 else varied(meter, hook, flows)
    for state in ("", ", expected", ", sudden")[: 1 if flows == 1 else 3]:
        if state == ", sudden":
            meter.drain()
            meter.drain()
        program.test_run(frame, flows)  # every flow is there
        figures = measure(program, frame)
        bar = None if state == ", sudden" else BARS[flows]
        row(f"{hook}, {flows} flow{'s' * (flows > 1)}{state}", figures, "ns/packet", bar, min(figures) - idle)
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


def kinds() -> Iterator[tuple[str, bytes, dict[str, object]]]:
    """(name, frame, what the meter is told)."""
    v4 = IP(src="192.0.2.1", dst="198.51.100.2")
    v6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
    ether, ports, data = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"),
        {"sport": 40000, "dport": 443},
        bytes(100),
    )
    tcp, udp = TCP(**ports) / data, UDP(**ports) / data
    inner = UDP(dport=4789) / VXLAN(vni=5) / ether / v4 / tcp
    frames = {
        "TCP over IPv4": ether / v4 / tcp,
        "UDP over IPv4": ether / v4 / udp,
        "ICMP over IPv4": ether / v4 / ICMP() / data,
        "ESP over IPv4": ether / v4 / ESP(spi=1, seq=1, data=data),
        "IPv4 with 40 octets of options": ether / IP(options=[IPOption_NOP()] * 40) / tcp,
        "first fragment": ether / IP(flags="MF") / udp,
        "later fragment": ether / IP(frag=9, proto=17) / data,
        "TCP over IPv6": ether / v6 / tcp,
        "UDP behind 3 extension headers": ether
        / v6
        / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrRouting()
        / udp,
        "TCP behind 2 VLAN tags": ether / Dot1AD(vlan=5) / Dot1Q(vlan=6) / v4 / tcp,
        "TCP behind 3 MPLS labels": ether / MPLS(s=0) / MPLS(s=0) / MPLS(s=1) / v4 / tcp,
        "TCP in PPPoE": ether / PPPoE() / PPP(proto=0x21) / v4 / tcp,
        "ARP, not metered": ether / ARP(hwsrc="02:00:00:00:00:01", psrc="192.0.2.1") / bytes(18),
    }
    for name, frame in frames.items():
        yield name, bytes(frame), {}
    plain = bytes(ether / v4 / tcp)
    yield "TCP, --key ip", plain, {"key": "ip"}
    yield "TCP, --key ether", plain, {"key": "ether"}
    yield "TCP in VXLAN", bytes(ether / v4 / inner), {}
    yield "TCP in VXLAN, --tunnels", bytes(ether / v4 / inner), {"tunnels": True}
    yield "TCP, --tunnels", plain, {"tunnels": True}
    yield "TCP, --filter 'tcp port 443'", plain, {"filter": "tcp port 443"}
    yield "TCP, --filter 'udp': left out", plain, {"filter": "udp"}
    yield "TCP, 1 in 100", plain, {"sampling_interval": 100}
    yield "TCP, 1 in 100 by chance", plain, {"sampling_interval": 100, "sampling_random": True}
    yield "TCP, one collector left out", plain, {"exclude": ((bytes(16), 4739),)}


def by_kind() -> None:
    hooks = ("xdp", "ingress", "egress")
    idle = {hook: min(measure(program, packet())) for hook in hooks if (program := empty(hook))}
    print(f"\n{'best ns a packet of a flow that is there':<42}" + "".join(f"{hook:>10}" for hook in hooks))
    print(f"{'empty program':<42}" + "".join(f"{idle[hook]:>10}" for hook in hooks))
    told: dict[str, object] = {}
    with ExitStack() as stack:
        meter = None
        for name, frame, options in kinds():
            if meter is None or options != told:
                stack.close()
                meter, told = stack.enter_context(Meter(MeterConfig(["lo"], max_flows=1 << 12, **options))), options
            programs = [meter._programs.load(hook) for hook in hooks]
            best = [min(measure(program, frame)) for program in programs]
            print(f"{name:<42}" + "".join(f"{figure:>10}" for figure in best), flush=True)


def main() -> None:
    if "kinds" in sys.argv[1:]:
        by_kind()
        return
    print(f"{'':<32}{'best':>8}{'median':>8}{'net':>8}  {'':<10}{'bar':>6}")
    for hook in KINDS:
        for flows in FLOWS:
            with Meter(MeterConfig(["lo"], max_flows=1 << 20)) as meter:
                packets(meter, hook, packet(), flows)
    with Meter(MeterConfig(["lo"], max_flows=1 << 20)) as meter:
        drain(meter, packet())
    by_kind()


if __name__ == "__main__":
    main()
