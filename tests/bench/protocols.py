"""Every protocol on one core, from a capture file and from the socket: ``python tests/bench/protocols.py [FLOWS]``.

``decode``: millions of flows a CPU second out of the decoder. Bars: NetFlow v5, v9 and IPFIX with 20 fields of fixed
length 8, with four fields of variable length 1.5, sFlow with dissected headers 1.5. ``flows``: the same with the
step to the common schema, and from the file or socket on. ``command``: CPU seconds per million flows of ``pyflowx
collect -f common -s discard`` on a capture file, its start left out. Bars: IPFIX and NetFlow v9 0.20, v5 0.12,
sFlow 0.40. Last: what rates that exporters told cost, for 1 and for 10,000 exporters. The best of some rounds counts.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from capture import cpu, datagrams_of, least, records, resource, sflow_datagram
from decode import flows as random_flows

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.cli.numeric import keep_memory
from pyflowx.conversion import Conversion
from pyflowx.elements import default_registry
from pyflowx.transport.capture import CaptureReader
from pyflowx.transport.udp import UdpReceiver, UdpSender
from pyflowx.wire import Decoder, ipfix, netflow9

ROUNDS = 5
BURST = 2000  # datagrams that are in the socket's buffer at a time
NOW = 1_700_000_000 * 10**9
HEAD = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)

Made = tuple[list[bytes], list[bytes], int]  # Templates, datagrams, flows in these


def templated(codec: type, strings: int = 0) -> Callable[[], Made]:
    def make() -> Made:
        encoder, batch = codec.Encoder(max_octets=1400), random_flows(strings)
        data = encoder.encode(batch, NOW).tolist()
        return encoder.template_messages(NOW).tolist(), data, len(batch)

    return make


def netflow5() -> Made:
    templates, full, flows = datagrams_of("netflow5", NOW)
    return templates.tolist(), full.tolist(), len(full) * flows


def sflow() -> Made:
    rng = random.Random(1)
    return [], [sflow_datagram(rng, number) for number in range(3000)], 21_000


# name: how it is made, bar of the decoder, bar of the command (0: none)
CASES: dict[str, tuple[Callable[[], Made], float, float]] = {
    "IPFIX": (templated(ipfix), 8, 0.20),
    "NetFlow v9": (templated(netflow9), 8, 0.20),
    "NetFlow v5": (netflow5, 8, 0.12),
    "IPFIX, variable length": (templated(ipfix, 4), 1.5, 0),
    "sFlow": (sflow, 1.5, 0.40),
}


class Cost:
    """CPU seconds of the parts of a run."""

    def __init__(self, batches: Iterable[PacketBatch], decoder: Decoder) -> None:
        conversion = Conversion()
        self.decode, self.flows = 0.0, 0
        begin = time.process_time()
        for packets in batches:
            before = time.process_time()
            decoded, problems = decoder.decode(packets, int(packets.received_ns[-1]))
            self.decode += time.process_time() - before
            assert not len(problems)
            self.flows += sum(len(batch) for part in decoded for batch in conversion(part))
        self.all = time.process_time() - begin


def from_socket(datagrams: list[bytes]) -> Iterator[Iterator[PacketBatch]]:
    """The datagrams in bursts, each received after it has been sent."""
    parts = [PacketBatch.of(datagrams[at : at + BURST]) for at in range(0, len(datagrams), BURST)]
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=64 << 20) as receiver:
        ((_, port),) = receiver.addresses
        with UdpSender([("127.0.0.1", port)]) as sender:
            for part in parts:
                sender.send(part)
                yield iter(lambda: receiver.receive(0), None)
        assert not receiver.dropped


def learned(templates: list[bytes]) -> Decoder:
    decoder = Decoder()
    if templates:
        decoder.decode(PacketBatch.of(templates, V4_MAPPED + b"\x7f\0\0\1"), NOW)
    return decoder


def measure(name: str, folder: Path, wanted: int) -> None:
    make, bar, command_bar = CASES[name]
    templates, datagrams, flows = make()
    times = max(1, wanted // flows)
    path, start = folder / "a.pcap", folder / "b.pcap"
    head = HEAD + records(PacketBatch.of(templates), NOW)
    body = records(PacketBatch.of(datagrams), NOW)
    path.write_bytes(head + body * times)
    start.write_bytes(head + records(PacketBatch.of(datagrams[:1]), NOW))

    def read() -> Cost:
        with CaptureReader(str(path)) as reader:
            return Cost(reader, Decoder())

    file = [read() for _ in range(ROUNDS)]
    assert all(cost.flows == flows * times for cost in file)
    bursts = [Cost(burst, learned(templates)) for _ in range(ROUNDS) for burst in from_socket(datagrams)]
    full = [cost for cost in bursts if cost.flows == max(cost.flows for cost in bursts)]
    print(f"{name:<24}", end="")
    for costs in (file, full):
        decode = max(cost.flows / cost.decode for cost in costs) / 1e6
        print(f"{decode:8.1f} {max(cost.flows / cost.all for cost in costs) / 1e6:7.1f}", end="")
    print(f"{bar:7.1f}", end="")
    if command_bar:
        spent = least(lambda: collect(path), resource.RUSAGE_CHILDREN) - least(
            lambda: collect(start), resource.RUSAGE_CHILDREN
        )
        print(f"{spent / (flows * times) * 1e6:10.3f}{command_bar:6.2f}", end="")
    print()


def collect(path: Path) -> None:
    command = [sys.executable, "-m", "pyflowx", "collect", "--pcap", str(path), "-f", "common", "-s", "discard"]
    subprocess.run(command, check=True, capture_output=True)


def told_rates(exporters: int) -> None:
    """The step to the common schema where each exporter told the rate of 4 selectors, which its flows refer to."""
    field = default_registry().field
    fields = b"".join(
        struct.pack(">HH", field(name).element.id, field(name).length) for name in ("flowId", "selectorId")
    )
    options = struct.pack(">HHHHHHHHH", 3, 18, 257, 2, 1, 302, 8, 34, 4) + struct.pack(">HH", 257, 52)
    options += b"".join(struct.pack(">QI", id, 100 + id) for id in range(4))
    template = struct.pack(">HHHH", 2, 16, 256, 2) + fields
    data = struct.pack(">HH", 256, 4 + 16 * 20) + b"".join(struct.pack(">QQ", n, n % 4) for n in range(20))
    tell, flows = (struct.pack(">HHIII", 10, 16 + len(body), 0, 0, 1) + body for body in (template + options, data))
    addresses = [V4_MAPPED + struct.pack(">I", 0x0A000000 + number) for number in range(exporters)]
    decoder, conversion = Decoder(), Conversion()
    for part in decoder.decode(PacketBatch.of([tell] * exporters, addresses), NOW)[0]:
        conversion(part)
    senders = [addresses[n % exporters] for n in range(10_000)]
    batches = [PacketBatch.of([flows] * 1000, senders[at : at + 1000]) for at in range(0, 10_000, 1000)]
    decoded = [part for batch in batches for part in decoder.decode(batch, NOW)[0]]
    best = 1e9
    for _ in range(ROUNDS):
        begin = cpu(resource.RUSAGE_SELF)
        for part in decoded:
            (batch,) = conversion(part)
            assert np.array_equal(np.unique(batch.columns["sampling_rate"].values), [100, 101, 102, 103])
        best = min(best, cpu(resource.RUSAGE_SELF) - begin)
    print(f"rates by selector, {exporters:>6} exporters: {best / 200_000 * 1e6:.3f} CPU s a million flows")


def main(flows: int) -> None:
    keep_memory()
    print(f"{'':24}{'from a file':>16}{'from a socket':>16}{'':7}{'command':>10}")
    print(f"{'':24}" + f"{'decode':>8} {'flows':>7}" * 2 + f"{'bar':>7}{'s/M':>10}{'bar':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            measure(name, Path(folder), flows)
    for exporters in (1, 10_000):
        told_rates(exporters)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
