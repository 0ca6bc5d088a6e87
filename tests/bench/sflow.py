"""Samples per second of sFlow v5, with dissected headers: ``python tests/bench/sflow.py``.

Datagrams of 6 to 7 flow samples (header of 128 octets, extended_switch; one in three with extended_router),
as many at once as a receiver under load hands over. ``plain``: all headers Ethernet, IPv4, TCP; ``mixed``: IPv4 and
IPv6, TCP, UDP, ICMP, VLAN, and tunnels (one in eight VXLAN). The bar is 1.5 M samples/s on one core.
NetFlow v5 stands beside it: the bar is 8 M flows/s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from pyflowx.batch import Datagrams, FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Problems
from pyflowx.elements import default_registry
from pyflowx.wire import netflow5, sflow
from pyflowx.wire.headers import dissect
from pyflowx.wire.sflow_structures import own

SAMPLES = 12_000
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FOUR, SIX = IP(src="192.0.2.1", dst="198.51.100.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
PAYLOAD = b"x" * 128
INNER = ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2) / PAYLOAD
FRAMES = {
    "plain": [ETHER / FOUR / TCP(sport=1024, dport=443) / PAYLOAD],
    "mixed": [
        ETHER / FOUR / TCP(sport=1024, dport=443) / PAYLOAD,
        ETHER / SIX / UDP(sport=53, dport=5353) / PAYLOAD,
        ETHER / FOUR / UDP(sport=53, dport=5353) / PAYLOAD,
        ETHER / Dot1Q(vlan=5) / FOUR / TCP() / PAYLOAD,
        ETHER / SIX / TCP(sport=1024, dport=443) / PAYLOAD,
        ETHER / FOUR / ICMP() / PAYLOAD,
        ETHER / FOUR / TCP(sport=1024, dport=443) / PAYLOAD,
        ETHER / FOUR / UDP(sport=40000, dport=4789) / VXLAN(flags=8) / INNER,
    ],
}


def packets(parts: list[Datagrams]) -> PacketBatch:
    return PacketBatch.of([octets for part in parts for octets in part.tolist()])


def samples(name: str) -> PacketBatch:
    frames = [bytes(frame)[:128] for frame in FRAMES[name]]
    parts = []
    encoder = sflow.Encoder()
    field = default_registry().field
    for at in range(0, SAMPLES, 6):
        values = np.arange(at, at + 6, dtype=np.uint32)
        section = Octets.of([frames[n % len(frames)] for n in values.tolist()])
        fields = [own("source_id_index"), field("samplingInterval"), field("ingressInterface"), field("vlanId", 4)]
        columns = [values % 48, values * 0 + 1000, values % 48, values % 4094]
        if at % 18 == 0:
            fields += [field("ipNextHopIPv4Address"), field("sourceIPv4PrefixLength", 4)]
            columns += [values, values % 33]
        fields += [field("dataLinkFrameSize", 4), field("dataLinkFrameSection")]
        parts.append(encoder.encode(FlowBatch(tuple(fields), [*columns, values + 64, section]), 10**18))
    return packets(parts)


def netflow() -> PacketBatch:
    fields = netflow5.FORMATS[5].fields
    rng = np.random.default_rng(1)
    cells = [rng.integers(0, 256, (SAMPLES, field.length), np.uint8) for field in fields]
    columns = [field.element.data_type.to_column(cell) for field, cell in zip(fields, cells, strict=True)]
    return packets([netflow5.Encoder().encode(FlowBatch(fields, list(columns)), 10**18)])


def best(run: Callable[[], object], times: int = 30) -> float:
    seconds = []
    for _ in range(times):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def main() -> None:
    print(f"{'':24}{'M/s':>8}{'batches':>9}{'datagrams':>11}")
    for name in FRAMES:
        batch = samples(name)
        rows = np.arange(len(batch), dtype=np.int32)
        decoded = sflow.decode(batch, rows, None, 0, Problems())
        assert sum(map(len, decoded.flows)) == SAMPLES
        seconds = best(lambda batch=batch, rows=rows: sflow.decode(batch, rows, None, 0, Problems()))
        print(f"{'sFlow, ' + name:24}{SAMPLES / seconds / 1e6:8.2f}{len(decoded.flows):9}{len(batch):11}")
        frames = Octets.of([bytes(FRAMES[name][n % len(FRAMES[name])])[:128] for n in range(SAMPLES)])
        seconds = best(lambda frames=frames: dissect(frames, 1))
        print(f"{'headers alone, ' + name:24}{SAMPLES / seconds / 1e6:8.2f}")
    batch = netflow()
    rows = np.arange(len(batch), dtype=np.int32)
    seconds = best(lambda: netflow5.decode(batch, rows, None, 0, Problems()))
    print(f"{'NetFlow v5':24}{SAMPLES / seconds / 1e6:8.2f}{1:9}{len(batch):11}")


if __name__ == "__main__":
    main()
