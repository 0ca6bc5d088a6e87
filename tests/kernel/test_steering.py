"""Exporters stay on their workers: real sockets on one port, both programs against the function in Python."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing

import numpy as np
import pytest

from pyflowx.batch import PacketBatch
from pyflowx.kernel.steering import Steering, worker_of, workers_of
from pyflowx.transport.sockets import listen_together
from pyflowx.transport.udp import UdpReceiver

WORKERS = 4
DOMAINS = (0, 1, 42, 0xFFFFFFFF)


def datagram(version: int, domain: int, rest: bytes = b"") -> bytes:
    """A header of NetFlow v5, v9, IPFIX or sFlow (version 0: with an IPv4 agent, -1: an IPv6 one)."""
    if version == 10:
        return struct.pack(">HHIII", 10, 16 + len(rest), 1, 2, domain) + rest
    if version == 9:
        return struct.pack(">HHIIII", 9, 0, 1, 2, 3, domain) + rest
    if version == 5:
        return struct.pack(">HHIIIIHH", 5, 0, 1, 2, 3, 4, domain & 0xFFFF, 0) + rest
    agent = struct.pack(">I4s", 1, b"\xc0\0\2\1") if version == 0 else struct.pack(">I16s", 2, bytes(range(16)))
    return struct.pack(">I", 5) + agent + struct.pack(">IIII", domain, 1, 2, 0) + rest


def kinds() -> Iterator[tuple[bytes, int | None]]:
    """Datagrams, and the Observation Domain that they say."""
    for version in (10, 9, 5, 0, -1):
        for domain in DOMAINS:
            yield datagram(version, domain, b"x" * (domain % 7)), domain if version in (9, 10) else None
    for whole in (datagram(10, 7), datagram(9, 7), datagram(5, 7), datagram(0, 7), datagram(-1, 7)):
        for length in (0, 1, 3, 4, 12, 15, 16, 19, 20, 23, 24, 27):
            yield whole[:length], None
    yield b"no flow export", None


def received(receivers: list[UdpReceiver], count: int) -> list[list[PacketBatch]]:
    """What each of them has got, all together ``count`` datagrams."""
    found: list[list[PacketBatch]] = [[] for _ in receivers]
    while sum(len(batch) for batches in found for batch in batches) < count:
        for batches, receiver in zip(found, receivers, strict=True):
            batch = receiver.receive(0.01, 0)
            if batch is not None:
                batches.append(batch.take(np.arange(len(batch))))
    return found


def steered(
    host: str, sent: list[tuple[str, bytes]], privileged: bool, ports: int = 1
) -> dict[tuple[bytes, bytes], set[int]]:
    """Which workers got the datagrams, by (exporter, octets)."""
    with ExitStack() as stack:
        together = listen_together([(host, 0)] * ports, 8 << 20, WORKERS)
        receivers = [stack.enter_context(closing(UdpReceiver(listening))) for listening in together]
        groups = [list(group) for group in zip(*(listening.sockets for listening in together), strict=True)]
        steering = Steering(groups, privileged=privileged)
        assert steering.kind == ("BPF" if privileged else "classic BPF"), steering.reason
        places = [port for _, port in together[0].addresses]
        for index, (source, octets) in enumerate(sent):
            family = socket.AF_INET6 if ":" in source else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((source, 0))
                sock.sendto(octets, ("::1" if ":" in source else "127.0.0.1", places[index % ports]))
        found: dict[tuple[bytes, bytes], set[int]] = {}
        batches = received(receivers, len(sent))
        for number, batch in ((number, batch) for number, parts in enumerate(batches) for batch in parts):
            assert (workers_of(batch, WORKERS) == number).all()
            for exporter, octets in zip(batch.exporter, batch.tolist(), strict=True):
                found.setdefault((exporter.tobytes(), octets), set()).add(number)
    return found


PRIVILEGED = [pytest.param(True, marks=pytest.mark.kernel, id="BPF"), pytest.param(False, id="classic")]


@pytest.mark.parametrize("privileged", PRIVILEGED)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_kind_of_datagram_goes_where_python_says(host: str, privileged: bool) -> None:
    sources = ["127.0.0.1", "127.9.8.7"] + ["::1"] * (host == "::")
    sent = [(source, octets) for source in sources for octets, _ in kinds()]
    found = steered(host, sent, privileged)
    assert all(len(workers) == 1 for workers in found.values())
    for (exporter, octets), workers in found.items():
        for known, domain in kinds():
            if known == octets and domain is not None:
                assert worker_of(exporter, domain, WORKERS) in workers


@pytest.mark.parametrize("privileged", PRIVILEGED)
def test_200_exporters_with_5_domains_each_stay_on_their_workers(privileged: bool) -> None:
    choose = random.Random(7)
    exporters = [f"127.{choose.randrange(256)}.{choose.randrange(256)}.{choose.randrange(1, 255)}" for _ in range(200)]
    sent = [
        (exporter, datagram(choose.choice((9, 10)), domain, struct.pack(">I", number)))
        for number in range(3)
        for exporter in exporters
        for domain in range(5)
    ]
    choose.shuffle(sent)
    found = steered("0.0.0.0", sent, privileged)
    workers: dict[tuple[bytes, int], set[int]] = {}
    for (exporter, octets), numbers in found.items():
        at = 16 if octets[1] == 9 else 12
        workers.setdefault((exporter, int.from_bytes(octets[at : at + 4], "big")), set()).update(numbers)
    assert len(workers) == len(set(exporters)) * 5
    assert all(len(numbers) == 1 for numbers in workers.values())
    shares = np.bincount([min(numbers) for numbers in workers.values()], minlength=WORKERS)
    assert shares.min() > len(workers) / WORKERS * 0.75  # 250 each: far beyond chance (standard deviation 14)


@pytest.mark.kernel
def test_several_ports_have_groups_of_their_own() -> None:
    sent = [(f"127.0.1.{number}", datagram(10, number)) for number in range(1, 50)]
    assert all(len(workers) == 1 for workers in steered("127.0.0.1", sent, True, ports=3).values())
