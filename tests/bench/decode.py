"""Flows a second of the codecs with Templates, one core: ``python tests/bench/decode.py``.

Bars: 8 M flows/s for 20 fields of fixed length (IPFIX and NetFlow v9), 1.5 M with fields of variable length; the cost
of a flow is flat from 1 to 10,000 exporters x Templates. Encoding is what the generator does, 10 flows a message:
2.5 M. The best of several rounds counts; the machine's noise only ever adds.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import numpy as np

from pyflowx.batch import V4_MAPPED, FlowBatch, Octets, PacketBatch
from pyflowx.elements import default_registry
from pyflowx.wire import Decoder, ipfix, netflow9

FLOWS, ROUNDS = 20_000, 30
NAMES = [
    *("sourceIPv4Address", "destinationIPv4Address", "ipNextHopIPv4Address", "ingressInterface", "egressInterface"),
    *("packetDeltaCount", "octetDeltaCount", "flowStartMilliseconds", "flowEndMilliseconds", "sourceTransportPort"),
    *("destinationTransportPort", "tcpControlBits", "protocolIdentifier", "ipClassOfService", "bgpSourceAsNumber"),
    *("bgpDestinationAsNumber", "sourceIPv4PrefixLength", "destinationIPv4PrefixLength", "flowEndReason", "vlanId"),
]
REGISTRY = default_registry()
RANDOM = np.random.default_rng(1)


def flows(strings: int = 0) -> FlowBatch:
    """20 fields of fixed length, the given number of variable length among them (behind every third)."""
    fields, columns = [], []
    for number, name in enumerate(NAMES):
        field = REGISTRY.field(name)
        fields.append(field)
        columns.append(
            field.element.data_type.to_column(RANDOM.integers(0, 256, (FLOWS, field.length)).astype(np.uint8))
        )
        if number % 3 == 2 and strings:
            strings -= 1
            fields.append(REGISTRY.field("interfaceName"))
            columns.append(Octets.of([bytes(n) for n in RANDOM.integers(0, 24, FLOWS)]))
    return FlowBatch(tuple(fields), columns)


def best(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the fastest round."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def report(name: str, count: int, seconds: float, unit: str = "M flows/s") -> None:
    print(f"{name:<58} {count / seconds / 1e6:8.2f} {unit}")


def codec(name: str, module: type, batch: FlowBatch) -> None:
    encoder = module.Encoder()
    data = encoder.encode(batch, 10**18)
    decoder = Decoder()
    decoder.decode(PacketBatch.of(encoder.template_messages(10**18).tolist()), 0)
    packets = PacketBatch.of(data.tolist())
    (decoded,), problems = decoder.decode(packets, 0)
    assert not len(problems) and sum(map(len, decoded.flows)) == len(batch)
    report(f"decode {name}, {len(packets)} messages a batch", len(batch), best(lambda: decoder.decode(packets, 0)))
    one = packets.take([0])
    each = best(lambda: decoder.decode(one, 0), 500)
    print(f"{'':<58} {each * 1e6:8.0f} us for a batch of one message")
    report(f"encode {name}, 10 flows a message", len(batch), best(lambda: encoder.encode(batch, 10**18, 10)))


def peers(exporters: int, templates: int) -> None:
    """Messages of 19 flows, each from the next exporter with the next of its Templates; field lists are equal."""
    batch = flows().take(slice(0, 19))
    encoder = ipfix.Encoder(max_octets=9000)
    (data,) = encoder.encode(batch, 10**18).tolist()
    (template,) = encoder.template_messages(10**18).tolist()
    addresses = [V4_MAPPED + struct.pack(">I", 0x0A000000 + n) for n in range(exporters)]
    numbers = [(address, struct.pack(">H", 256 + n)) for n in range(templates) for address in addresses]
    decoder = Decoder()
    known = [template[:20] + number + template[22:] for _, number in numbers]
    start = time.perf_counter()
    decoder.decode(PacketBatch.of(known, [address for address, _ in numbers]), 0)
    learn = time.perf_counter() - start
    total = max(10_000, len(numbers))
    chosen = [numbers[n % len(numbers)] for n in range(total)]
    batches = []
    for at in range(0, total, 1000):
        part = chosen[at : at + 1000]
        messages = [data[:16] + number + data[18:] for _, number in part]
        batches.append(PacketBatch.of(messages, [address for address, _ in part]))

    def run() -> None:
        for packets in batches:
            (decoded,), problems = decoder.decode(packets, 0)
            assert not len(problems) and len(decoded.flows[0]) == 19_000

    report(f"decode IPFIX, {exporters} exporters x {templates} Templates", total * 19, best(run, 5))
    print(f"{'':<58} {learn / len(numbers) * 1e6:8.1f} us to learn a Template")


def hostile() -> None:
    """Datagrams that are as much work for their octets as can be."""
    head = struct.pack(">HHIII", 10, 65535, 0, 0, 1)
    wide = struct.pack(">HHHH", 2, 4 + 4 + 4 * 1000, 256, 1000) + struct.pack(">HH", 4, 1) * 1000
    tiny = struct.pack(">HHHHHHHHHH", 2, 20, 257, 1, 4, 1, 258, 1, 82, 65535)
    learn = struct.pack(">HHIII", 10, 16 + len(wide) + len(tiny), 0, 0, 1) + wide + tiny
    wide_records = struct.pack(">HH", 256, 1004) + bytes(1000)
    cases = {
        "empty Sets": struct.pack(">HH", 257, 4) * 16_000,
        "Sets of an unknown Template": struct.pack(">HHB", 999, 5, 0) * 13_000,
        "reserved Sets": struct.pack(">HH", 4, 4) * 16_000,
        "records of an octet": struct.pack(">HH", 257, 65_000) + bytes(64_996),
        "empty strings": struct.pack(">HH", 258, 65_000) + bytes(64_996),
        "1000 fields of an octet": wide_records * 65,
        "withdrawals": struct.pack(">HH", 2, 65_000) + struct.pack(">HH", 300, 0) * 16_249,
        "Templates": struct.pack(">HH", 2, 64_004)
        + b"".join(struct.pack(">HHHH", 300 + n, 1, n, 1) for n in range(8_000)),
    }
    for name, body in cases.items():
        datagram = head + body
        datagram = datagram[:2] + struct.pack(">H", len(datagram)) + datagram[4:]

        def run(packets: PacketBatch = PacketBatch.of([datagram])) -> None:  # noqa: B008
            decoder = Decoder()
            decoder.decode(PacketBatch.of([learn]), 0)
            decoder.decode(packets, 0)

        report(f"decode one hostile datagram, {name}", len(datagram), best(run, 3), "MB/s")


if __name__ == "__main__":
    codec("IPFIX, 20 fixed fields", ipfix, flows())
    codec("NetFlow v9, 20 fixed fields", netflow9, flows())
    codec("IPFIX, 1 field of variable length more", ipfix, flows(1))
    codec("IPFIX, 4 fields of variable length more", ipfix, flows(4))
    for shape in ((1, 1), (100, 1), (10_000, 1), (100, 100)):
        peers(*shape)
    hostile()
