"""CPU of receiving a datagram of 1400 octets: ``python tests/bench/udp.py``.

At a steady rate (a process of its own sends) and as fast as it goes; user and system time of the receiving
process, and how many datagrams a batch held. Below, the same system call alone on datagrams that lie there already.
"""

from __future__ import annotations

import multiprocessing
import socket
import time

import numpy as np

from pyflowx.batch import Datagrams
from pyflowx.transport.udp import UdpReceiver, UdpSender

OCTETS = 1400


def send(address: tuple[str, int], rate: int, seconds: float) -> None:
    datagrams = Datagrams(np.zeros((1000, OCTETS), np.uint8), np.full(1000, OCTETS, np.int32))
    with UdpSender([address]) as sender:
        begin, sent = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < seconds:
            due = min(1000, int(passed * rate) - sent)
            sender.send(Datagrams(datagrams.data[:due], datagrams.length[:due]))
            sent += due
            time.sleep(0.001)


def steady(rate: int, seconds: float = 5) -> None:
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=16 << 20) as receiver:
        process = multiprocessing.Process(target=send, args=(receiver.addresses[0], rate, seconds))
        process.start()
        receiver.receive(10)
        cpu, count, batches = time.process_time(), 0, 0
        while (batch := receiver.receive(1)) is not None:
            count += len(batch)
            batches += 1
        cpu = time.process_time() - cpu
        process.join()
        print(
            f"{rate:7} packets/s: {cpu / count * 1e6:5.2f} us a datagram, {count / batches:5.0f} a batch,"
            f" {receiver.dropped} dropped"
        )


def backlog(size: int = 1024, rounds: int = 200) -> None:
    datagrams = Datagrams(np.zeros((size, OCTETS), np.uint8), np.full(size, OCTETS, np.int32))
    ours = plain = 0.0
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=16 << 20) as receiver, UdpSender(receiver.addresses) as sender:
        for _ in range(rounds):
            sender.send(datagrams)
            begin = time.perf_counter()
            batch = receiver.receive(1)
            ours += time.perf_counter() - begin
            assert batch is not None and len(batch) == size
            sender.send(datagrams)
            begin = time.perf_counter()
            assert receiver._read(receiver._sockets[0], 0) == size
            plain += time.perf_counter() - begin
            receiver._batch(size)
    each = 1e6 / rounds / size
    print(f"backlog: {ours * each:.2f} us a datagram, of that {plain * each:.2f} in recvmmsg")


def plain_socket(count: int = 50_000) -> None:
    """What one recvfrom a datagram costs instead."""
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=256 << 20) as receiver, UdpSender(receiver.addresses) as sender:
        for _ in range(count // 1000):
            sender.send(Datagrams(np.zeros((1000, OCTETS), np.uint8), np.full(1000, OCTETS, np.int32)))
        sock: socket.socket = receiver._sockets[0]
        begin = time.perf_counter()
        for _ in range(count):
            sock.recvfrom(65535)
        print(f"socket.recvfrom: {(time.perf_counter() - begin) / count * 1e6:.2f} us a datagram")


if __name__ == "__main__":
    backlog()
    plain_socket()
    for packets_a_second in (1_000, 10_000, 50_000):
        steady(packets_a_second)
