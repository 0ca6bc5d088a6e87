"""UdpReceiver against real sockets on loopback."""

import os
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.errors import ConfigError
from pyflowx.transport import sockets
from pyflowx.transport.sockets import DropCounter
from pyflowx.transport.udp import UdpReceiver, next_pause

PATIENCE_S = 20  # how long a test waits for what must come


def sender(receiver: UdpReceiver, host: str, index: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((host, receiver.addresses[index][1]))
    return sock


def gather(receiver: UdpReceiver, count: int) -> list[tuple[bytes, bytes, int, int]]:
    """(datagram, exporter, port, received_ns) of the next ``count`` datagrams."""
    rows: list[tuple[bytes, bytes, int, int]] = []
    while len(rows) < count:
        batch = receiver.receive(PATIENCE_S, 0)
        assert batch is not None, f"{len(rows)} of {count} datagrams came"
        rows += zip(
            batch.tolist(),
            [row.tobytes() for row in batch.exporter],
            batch.port.tolist(),
            batch.received_ns.tolist(),
            strict=True,
        )
    return rows


def mapped(address: str) -> bytes:
    return V4_MAPPED + socket.inet_aton(address)


@pytest.mark.parametrize(
    ("listen", "to", "exporter"),
    [
        ("0.0.0.0", "127.0.0.1", mapped("127.0.0.1")),
        ("127.0.0.1", "127.0.0.1", mapped("127.0.0.1")),
        ("::", "::1", socket.inet_pton(socket.AF_INET6, "::1")),
        ("::", "127.0.0.1", mapped("127.0.0.1")),
        ("::1", "::1", socket.inet_pton(socket.AF_INET6, "::1")),
        ("localhost", "localhost", None),
    ],
)
def test_address_port_and_octets(listen: str, to: str, exporter: bytes | None) -> None:
    with UdpReceiver([(listen, 0)]) as receiver:
        to = receiver.addresses[0][0] if to == "localhost" else to
        with sender(receiver, to) as sock:
            sock.send(b"hello")
            sock.send(b"")
            port = sock.getsockname()[1]
            rows = gather(receiver, 2)
    assert [row[0] for row in rows] == [b"hello", b""]
    assert {row[2] for row in rows} == {port}
    if exporter is not None:
        assert {row[1] for row in rows} == {exporter}


def test_several_sockets_of_both_families_in_one_batch() -> None:
    with UdpReceiver([("127.0.0.1", 0), ("::1", 0), ("127.0.0.1", 0)]) as receiver:
        hosts = ["127.0.0.1", "::1", "127.0.0.1"]
        socks = [sender(receiver, host, index) for index, host in enumerate(hosts)]
        for round in range(3):
            for index, sock in enumerate(socks):
                sock.send(b"%d %d" % (index, round))
        batch = receiver.receive(PATIENCE_S, 0)
        assert batch is not None
        got = {
            (row, exporter.tobytes(), port)
            for row, exporter, port in zip(batch.tolist(), batch.exporter, batch.port.tolist(), strict=True)
        }
        want = {
            (
                b"%d %d" % (index, round),
                mapped(host) if index != 1 else socket.inet_pton(socket.AF_INET6, host),
                socks[index].getsockname()[1],
            )
            for index, host in enumerate(hosts)
            for round in range(3)
        }
        for sock in socks:
            sock.close()
    assert got == want


def test_rows_are_used_again_by_the_other_family() -> None:
    """A row that held a short IPv4 name and no drops takes a long IPv6 name afterwards."""
    with UdpReceiver([("127.0.0.1", 0), ("::1", 0)], batch_size=4) as receiver:
        for _ in range(3):
            for index, host in enumerate(["127.0.0.1", "::1"]):
                with sender(receiver, host, index) as sock:
                    sock.send(host.encode())
                    ((datagram, exporter, port, _),) = gather(receiver, 1)
                    assert datagram == host.encode()
                    assert exporter == (mapped(host) if index == 0 else socket.inet_pton(socket.AF_INET6, host))
                    assert port == sock.getsockname()[1]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 65_507), min_size=1, max_size=6), st.integers(0, 255))
def test_any_length_arrives_whole(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    datagrams = [rng.bytes(length) for length in lengths]
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=4 << 20) as receiver, sender(receiver, "127.0.0.1") as sock:
        for datagram in datagrams:
            sock.send(datagram)
        assert [row[0] for row in gather(receiver, len(datagrams))] == datagrams


def test_row_after_a_long_batch_is_short_again() -> None:
    with UdpReceiver([("::", 0)], recv_buffer=4 << 20) as receiver, sender(receiver, "::1") as sock:
        long = bytes(range(256)) * 255
        sock.send(long)
        assert gather(receiver, 1)[0][0] == long
        sock.send(b"short")
        batch = receiver.receive(PATIENCE_S, 0)
        assert batch is not None and batch.tolist() == [b"short"]
        assert batch.data.shape[1] < 2048


def test_receive_time_is_the_kernels() -> None:
    with UdpReceiver([("127.0.0.1", 0)]) as receiver, sender(receiver, "127.0.0.1") as sock:
        before = time.time_ns()
        sock.send(b"a")
        between = time.time_ns()
        sock.send(b"b")
        after = time.time_ns()
        time.sleep(0.05)
        (first, second) = (row[3] for row in gather(receiver, 2))
    assert before <= first <= between <= second <= after


def test_batch_boundaries_lose_and_reorder_nothing() -> None:
    with (
        UdpReceiver([("127.0.0.1", 0)], batch_size=7, recv_buffer=1 << 20) as receiver,
        sender(receiver, "127.0.0.1") as sock,
    ):
        datagrams = [b"%d" % number for number in range(30)]
        for datagram in datagrams:
            sock.send(datagram)
        sizes, got = [], []
        while len(got) < len(datagrams):
            batch = receiver.receive(PATIENCE_S, 0.001)
            assert batch is not None
            sizes.append(len(batch))
            got += batch.tolist()
    assert got == datagrams
    assert sizes == [7, 7, 7, 7, 2]


def test_lingers_for_what_comes_after_the_first() -> None:
    """All datagrams that are sent while the receiver lingers are in one batch."""
    with UdpReceiver([("127.0.0.1", 0)], batch_size=5) as receiver, sender(receiver, "127.0.0.1") as sock:

        def send() -> None:
            for number in range(5):
                sock.send(b"%d" % number)
                time.sleep(0.01)

        thread = threading.Thread(target=send)
        thread.start()
        batch = receiver.receive(PATIENCE_S, PATIENCE_S)  # ends because the batch is full
        thread.join()
    assert batch is not None and batch.tolist() == [b"0", b"1", b"2", b"3", b"4"]


def test_timeout_gives_none() -> None:
    with UdpReceiver([("127.0.0.1", 0)]) as receiver:
        assert receiver.receive(0.01, 0.01) is None
        assert receiver.receive(0, 0) is None


def test_wake_up_ends_an_endless_wait() -> None:
    read_end, write_end = os.pipe()
    try:
        with UdpReceiver([("127.0.0.1", 0)], wake_fd=read_end) as receiver:
            timer = threading.Timer(0.05, os.write, (write_end, b"x"))
            timer.start()
            assert receiver.receive(None, 0) is None
            timer.join()
            with sender(receiver, "127.0.0.1") as sock:  # data is not lost by a wake-up
                sock.send(b"a")
                assert gather(receiver, 1)[0][0] == b"a"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_drops_of_a_flood_are_counted_exactly() -> None:
    sent = 2000
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=4096) as receiver, sender(receiver, "127.0.0.1") as sock:
        for number in range(sent):
            sock.send(b"%04d" % number * 100)
        at_once = receiver.dropped
        received = 0
        while (batch := receiver.receive(0.2, 0)) is not None:
            received += len(batch)
        assert 0 < received < sent
        assert receiver.dropped == at_once == sent - received
        # the count that rides on datagrams says the same and adds nothing
        sock.send(b"one more")
        assert len(gather(receiver, 1)) == 1
        assert receiver.dropped == sent - received
        counted = receiver.dropped
    assert receiver.dropped == counted  # also when closed


def test_drops_are_told_by_datagrams_too() -> None:
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=4096) as receiver, sender(receiver, "127.0.0.1") as sock:
        for _ in range(200):
            sock.send(bytes(400))
        received = 0
        while (batch := receiver.receive(0.2, 0)) is not None:
            received += len(batch)
        sock.send(b"after the flood")
        gather(receiver, 1)
        assert sum(counter.total for counter in receiver._listening.drops) == 200 - received


@given(st.floats(1, 1e6), st.floats(1e-4, 0.1), st.floats(1e-3, 0.025))
def test_pauses_settle_below_half_a_queue(rate: float, start: float, longest: float) -> None:
    """A queue that a steady stream fills ``rate`` times a second, up to the brim."""
    pause = start
    for _ in range(40):
        pause = next_pause(pause, min(1.0, rate * pause), longest)
    assert 0.000_2 <= pause <= longest
    assert rate * pause < 0.5 or pause == 0.000_2
    assert rate * pause > 0.35 or pause == longest


def test_a_long_linger_with_a_small_queue_accounts_for_every_datagram() -> None:
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=64 << 10) as receiver, sender(receiver, "127.0.0.1") as sock:

        def send() -> None:
            for _ in range(1000):
                sock.send(bytes(1000))
                time.sleep(0.0003)

        thread = threading.Thread(target=send)
        thread.start()
        received = 0
        while received + receiver.dropped < 1000:
            batch = receiver.receive(PATIENCE_S, 0.2)
            assert batch is not None
            received += len(batch)
        thread.join()
        assert received + receiver.dropped == 1000 and received > 56  # more than the queue holds at once


@given(st.lists(st.integers(0, 2**31 - 1), max_size=20), st.integers(0, 2**32 - 1))
def test_drop_counter_follows_wraps(steps: list[int], late: int) -> None:
    counter, true = DropCounter(), 0
    for step in steps:
        true += step
        counter.update(true & 0xFFFFFFFF)
        assert counter.total == true
        old = true - late % (1 << 31)
        if old >= 0:  # a value that was overtaken
            counter.update(old & 0xFFFFFFFF)
            assert counter.total == true


@pytest.mark.kernel
def test_buffer_granted_in_full_to_root() -> None:
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=32 << 20) as receiver:
        assert receiver.granted == 32 << 20
        assert receiver.warning is None


def test_buffer_granted_less_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def setsockopt(self, level: int, option: int, *value: object) -> None:  # type: ignore[override]
            if option == sockets.SO_RCVBUFFORCE:
                raise PermissionError(1, "Operation not permitted")
            super().setsockopt(level, option, *value)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Unprivileged)
    with open("/proc/sys/net/core/rmem_max") as file:
        limit = int(file.read())
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=limit * 2) as receiver:
        assert receiver.granted == limit
        assert receiver.warning is not None
        assert f"net.core.rmem_max={limit * 2}" in receiver.warning
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=limit) as receiver:
        assert receiver.granted == limit and receiver.warning is None


def test_port_in_use_names_the_option() -> None:
    with UdpReceiver([("127.0.0.1", 0)]) as receiver:
        port = receiver.addresses[0][1]
        with pytest.raises(ConfigError, match=rf"port {port}: Address already in use.*--port"):
            UdpReceiver([("127.0.0.1", 0), ("127.0.0.1", port)])


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_foreign_address_names_the_option(host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        UdpReceiver([(host, 0)])


@pytest.mark.parametrize("host", ["no-such-host.invalid", "300.1.1.1", "a" * 70 + ".example", "::1::"])
def test_bad_host_names_the_option(host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        UdpReceiver([(host, 9995)])


def test_batch_survives_as_copy_only() -> None:
    """The arrays are the receiver's: what is kept must be copied (the contract of PacketBatch)."""
    with UdpReceiver([("127.0.0.1", 0)]) as receiver, sender(receiver, "127.0.0.1") as sock:
        sock.send(b"first")
        batch = receiver.receive(PATIENCE_S, 0)
        assert isinstance(batch, PacketBatch)
        kept = batch.take(np.array([0]))
        sock.send(b"later")
        again = receiver.receive(PATIENCE_S, 0)
        assert again is not None and again.tolist() == [b"later"]
        assert kept.tolist() == [b"first"]
