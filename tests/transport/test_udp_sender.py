"""UdpSender against real sockets on loopback."""

import ctypes
import errno
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyflowx.batch import Datagrams, PacketBatch
from pyflowx.errors import ConfigError
from pyflowx.transport import udp
from pyflowx.transport.udp import UdpReceiver, UdpSender

PATIENCE_S = 20


def received(receiver: UdpReceiver, count: int) -> list[bytes]:
    rows: list[bytes] = []
    while len(rows) < count:
        batch = receiver.receive(PATIENCE_S, 0)
        assert batch is not None, f"{len(rows)} of {count} datagrams came"
        rows += batch.tolist()
    return rows


def unused_port(family: socket.AddressFamily, host: str) -> int:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
    return port


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=3000), max_size=40), st.booleans())
def test_mixed_sizes_arrive_each_as_its_own(datagrams: list[bytes], sliced: bool) -> None:
    batch: Datagrams = PacketBatch.of(datagrams)
    if sliced:  # rows that do not lie one behind the other
        wide = np.zeros((len(datagrams), batch.data.shape[1] + 5), np.uint8)
        wide[:, : batch.data.shape[1]] = batch.data
        batch = Datagrams(wide[:, : batch.data.shape[1]], batch.length)
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=4 << 20) as receiver, UdpSender(receiver.addresses) as sender:
        sender.send(batch)
        assert received(receiver, len(datagrams)) == datagrams
        assert sender.counts[0].sent == len(datagrams)
        assert sender.counts[0].octets == sum(map(len, datagrams))
        assert sender.counts[0].lost == sender.counts[0].reports == 0


def test_more_than_one_system_call_takes() -> None:
    datagrams = [b"%d" % number for number in range(3000)]
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=16 << 20) as receiver, UdpSender(receiver.addresses) as sender:
        sender.send(PacketBatch.of(datagrams))
        assert received(receiver, 3000) == datagrams
        assert sender.counts[0].sent == 3000


def test_several_destinations_names_and_families() -> None:
    with UdpReceiver([("127.0.0.1", 0)]) as four, UdpReceiver([("::1", 0)]) as six:
        destinations = [*four.addresses, *six.addresses, ("localhost", four.addresses[0][1])]
        if socket.getaddrinfo("localhost", 1)[0][0] == socket.AF_INET6:
            destinations[2] = ("localhost", six.addresses[0][1])
        with UdpSender(destinations) as sender:
            sender.send(PacketBatch.of([b"a", b"bb"]))
            by_name = six if destinations[2][1] == six.addresses[0][1] else four
            for receiver in (four, six):
                want = [b"a", b"bb"] * (2 if receiver is by_name else 1)
                assert received(receiver, len(want)) == want
            assert [(counts.sent, counts.octets) for counts in sender.counts] == [(2, 3)] * 3


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_nobody_listens_is_counted(family: socket.AddressFamily, host: str) -> None:
    with UdpSender([(host, unused_port(family, host))]) as sender:
        for _ in range(2):
            sender.send(PacketBatch.of([b"a"] * 10))
        (counts,) = sender.counts
        assert counts.sent == 20 and counts.octets == 20
        assert counts.lost == 0
        assert 0 < counts.reports < 20


def test_a_collector_that_starts_late_gets_every_datagram_from_then_on() -> None:
    """The report about an earlier datagram does not cost the next one."""
    port = unused_port(socket.AF_INET, "127.0.0.1")
    with UdpSender([("127.0.0.1", port)]) as sender:
        sender.send(PacketBatch.of([b"nobody"]))
        with UdpReceiver([("127.0.0.1", port)]) as receiver:
            sender.send(PacketBatch.of([b"first", b"second"]))
            assert received(receiver, 2) == [b"first", b"second"]
        assert sender.counts[0].reports == 1


def test_a_look_counts_the_report_before_the_next_datagram() -> None:
    port = unused_port(socket.AF_INET, "127.0.0.1")
    with UdpSender([("127.0.0.1", port)]) as sender:
        sender.send(PacketBatch.of([b"nobody"]))
        assert sender.counts[0].reports == 0
        for _ in range(2):
            sender.look()
            assert sender.counts[0].reports == 1


def test_a_dead_destination_does_not_harm_the_live_one() -> None:
    with UdpReceiver([("127.0.0.1", 0)]) as receiver:
        dead = ("127.0.0.1", unused_port(socket.AF_INET, "127.0.0.1"))
        with UdpSender([dead, *receiver.addresses]) as sender:
            datagrams = [b"%d" % number for number in range(50)]
            sender.send(PacketBatch.of(datagrams))
            assert received(receiver, 50) == datagrams
            assert [counts.sent for counts in sender.counts] == [50, 50]


def test_too_long_a_datagram_is_lost_alone() -> None:
    datagrams = [b"before", bytes(65_508), b"between", bytes(65_509), b"after"]
    with UdpReceiver([("127.0.0.1", 0)]) as receiver, UdpSender(receiver.addresses) as sender:
        sender.send(PacketBatch.of(datagrams))
        assert received(receiver, 3) == [b"before", b"between", b"after"]
        (counts,) = sender.counts
        assert (counts.sent, counts.lost, counts.reports) == (3, 2, 0)
        assert counts.last_error == "Message too long"


class Kernel:
    """sendmmsg that takes at most two datagrams a call and fails as its script says."""

    def __init__(self, script: list[int]) -> None:
        self.script = script
        self.real = udp._sendmmsg

    def __call__(self, fd: int, headers: int, count: int, flags: int) -> int:
        code = self.script.pop(0) if self.script else 0
        if code:
            ctypes.set_errno(code)
            return -1
        done: int = self.real(fd, headers, min(count, 2), flags)
        return done


def test_no_buffers_are_counted_and_partial_sends_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    datagrams = [b"%d" % number for number in range(8)]
    script = [errno.ENOBUFS, 0, errno.EINTR, errno.ENOBUFS, errno.ECONNREFUSED, 0, *[errno.ENETUNREACH] * 3]
    with UdpReceiver([("127.0.0.1", 0)]) as receiver, UdpSender(receiver.addresses) as sender:
        monkeypatch.setattr(udp, "_sendmmsg", Kernel(script))
        sender.send(PacketBatch.of(datagrams))
        # 0 lost (no buffers); 1 2; interrupted; 3 lost (no buffers); refused: told about an earlier one; 4 5; 6 lost; 7
        assert received(receiver, 5) == [b"1", b"2", b"4", b"5", b"7"]
        (counts,) = sender.counts
        assert (counts.sent, counts.lost, counts.reports) == (5, 3, 1)
        assert counts.last_error == "Network is unreachable"


def test_a_patient_sender_waits_for_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    real, no_route = udp.connect, [True]

    def connect(host: str, port: int) -> socket.socket:
        if not no_route[0]:
            return real(host, port)
        raise ConfigError("no route") from OSError(errno.ENETUNREACH, "")

    monkeypatch.setattr(udp, "connect", connect)
    with UdpReceiver([("127.0.0.1", 0)]) as receiver:
        with pytest.raises(ConfigError):
            UdpSender(receiver.addresses)
        with UdpSender(receiver.addresses, patient=True) as sender:
            sender.look()
            sender.send(PacketBatch.of([b"1", b"2"]))
            no_route.clear()
            no_route.append(False)
            sender.send(PacketBatch.of([b"3"]))
            assert received(receiver, 1) == [b"3"]
            (counts,) = sender.counts
            assert (counts.sent, counts.lost, counts.reports, counts.reconnects) == (1, 2, 0, 1)
            assert counts.last_error == "Network is unreachable"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "1.2.3.4.5", ""])
def test_bad_host_names_the_option(host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        UdpSender([("127.0.0.1", 9), (host, 9)])


def test_broadcast_is_refused_with_the_option() -> None:
    with pytest.raises(ConfigError, match=r"--host 255\.255\.255\.255: .*route"):
        UdpSender([("255.255.255.255", 9)])
