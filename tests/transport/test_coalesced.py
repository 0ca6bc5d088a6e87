"""Datagrams that the kernel puts together come out as they were sent: real sockets, the sender's kernel joins them
(UDP_SEGMENT), so that they arrive together on the loopback interface."""

from __future__ import annotations

import random
import socket
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.transport.coalesced import CoalescingReceiver, cut
from pyflowx.transport.udp import UdpReceiver

PATIENCE_S = 10.0
_SOL_UDP, _UDP_SEGMENT = 17, 103


def messages() -> list[tuple[int, bytes]]:
    """(length of datagrams, octets): what is sent by one call each."""
    choose = random.Random(5)
    found = [(0, b""), (1, b"x"), (1400, choose.randbytes(1400)), (0, choose.randbytes(60_000))]
    for length in (1, 2, 100, 1399, 1400, 1472):
        for count in (2, 3, 40, 64):
            for last in (1, length // 2 or 1, length):
                octets = length * (count - 1) + last
                if octets < 65_000:
                    found.append((length, choose.randbytes(octets)))
    choose.shuffle(found)
    return found


def send(sock: socket.socket, length: int, octets: bytes, to: tuple[str, int]) -> list[bytes]:
    """The datagrams."""
    if not length:
        sock.sendto(octets, to)
        return [octets]
    parts = [octets[at : at + length] for at in range(0, len(octets), length)]
    sock.sendmsg([octets], [(_SOL_UDP, _UDP_SEGMENT, length.to_bytes(2, "little"))], 0, to)
    return parts


def received(
    receiver: UdpReceiver, hosts: list[tuple[str, str]], sent: list[tuple[int, bytes]]
) -> dict[tuple[bytes, int], list[bytes]]:
    """The datagrams of each (exporter, port) in their order; each is compared with what was sent there."""
    wanted: dict[tuple[bytes, int], list[bytes]] = {}
    found: dict[tuple[bytes, int], list[bytes]] = defaultdict(list)
    for index, (source, exporter) in enumerate(hosts):
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            to = source if family == socket.AF_INET6 else "127.0.0.1", receiver.addresses[index % 2][1]
            key = socket.inet_pton(socket.AF_INET6, exporter), sock.getsockname()[1]
            wanted[key] = []
            for length, octets in sent:
                wanted[key] += send(sock, length, octets, to)
                while (batch := receiver.receive(0, 0)) is not None:
                    assert (batch.received_ns > 1_600_000_000 * 10**9).all()
                    for row, octet_row, port in zip(batch.tolist(), batch.exporter, batch.port.tolist(), strict=True):
                        found[octet_row.tobytes(), port].append(row)
    while sum(map(len, found.values())) < sum(map(len, wanted.values())):
        batch = receiver.receive(PATIENCE_S, 0)
        assert batch is not None
        for row, octet_row, port in zip(batch.tolist(), batch.exporter, batch.port.tolist(), strict=True):
            found[octet_row.tobytes(), port].append(row)
    assert found == wanted
    return found


HOSTS = [("127.0.0.1", "::ffff:127.0.0.1"), ("127.5.6.7", "::ffff:127.5.6.7"), ("::1", "::1")]


def test_boundaries_and_addresses_are_those_of_the_sender() -> None:
    sent = messages()
    addresses = [("::", 0), ("::", 0)]
    with CoalescingReceiver(addresses, recv_buffer=16 << 20) as receiver:
        assert received(receiver, HOSTS, sent)
    with UdpReceiver(addresses, recv_buffer=16 << 20) as receiver:
        assert received(receiver, HOSTS, sent)


def test_they_do_arrive_together() -> None:
    with CoalescingReceiver([("127.0.0.1", 0)]) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sock:
        parts = send(sock, 1000, bytes(range(256)) * 200, receiver.addresses[0])
        batch = receiver.receive(PATIENCE_S, 0)
        assert batch is not None and batch.tolist() == parts and len(parts) == 52
        assert receiver._segment[0] == 1000  # one message
        assert len(set(batch.received_ns.tolist())) == 1


def test_drops_are_counted_beside_lengths() -> None:
    addresses = [("127.0.0.1", 0)]
    with CoalescingReceiver(addresses, recv_buffer=4096) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sock:
        for _ in range(50):
            send(sock, 500, bytes(1500), receiver.addresses[0])
        came = 0
        while (batch := receiver.receive(0.2, 0)) is not None:
            assert (batch.length == 500).all()
            came += len(batch)
        assert 0 < came < 150
        assert receiver.dropped == 50 - came // 3  # of the messages
        send(sock, 500, b"a" * 500 + b"b" * 20, receiver.addresses[0])
        batch = receiver.receive(PATIENCE_S, 0)
        assert batch is not None and batch.tolist() == [b"a" * 500, b"b" * 20]
        assert receiver._listening.drops[0].total == receiver.dropped == 50 - came // 3


@given(st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, 3000)), min_size=1, max_size=20))
def test_cut_is_what_a_loop_gives(rows: list[tuple[int, int]]) -> None:
    octets, segment = np.array(rows, np.int64).T
    wanted = [
        (message, at, min(length or total, total - at))
        for message, (total, length) in enumerate(rows)
        for at in (range(0, total, length or total) if total else [0])
    ]
    assert list(zip(*(column.tolist() for column in cut(octets, segment)), strict=True)) == wanted


def test_more_than_a_batch_is_left_for_the_next() -> None:
    with CoalescingReceiver([("127.0.0.1", 0)], recv_buffer=64 << 20) as receiver:
        if receiver.granted < 4 << 20:
            pytest.skip("probe: the kernel grants no buffer that holds 400 messages (net.core.rmem_max)")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for number in range(400):
                send(sock, 4, b"%04d" % number * 2, receiver.addresses[0])
        rows: list[bytes] = []
        while len(rows) < 800:
            batch = receiver.receive(PATIENCE_S, 0)
            assert batch is not None and len(batch) <= 512
            rows += batch.tolist()
    assert rows == [b"%04d" % (number // 2) for number in range(800)]
