"""UDP in batches: one system call for many datagrams, both ways (recvmmsg, sendmmsg).

The headers that the kernel reads and writes (msghdr, iovec, sockaddr, cmsghdr) are NumPy structured
arrays, filled in once and read as columns, so that no Python runs per datagram. Linux, 64 bit.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pyflowx.batch import I32, I64, U8, V4_MAPPED, Array, Datagrams, PacketBatch
from pyflowx.errors import ConfigError
from pyflowx.transport.sockets import Listening, connect

MAX_DATAGRAM = 65_535  # octets; the length field of UDP has 16 bits
_MAX_MESSAGES = 1024  # one sendmmsg takes no more (UIO_MAXIOV)

_STRIDE = 1600  # octets of a row: an Ethernet MTU, and an odd number of cache lines, which spreads rows over the sets
_MIN_PAUSE = 0.000_2
_MAX_PAUSE = 0.025
_BURST = 200e6  # octets of the kernel's memory a second (some 85,000 datagrams of 1400) that a pause must survive
_TARGET_FILL = 0.4

IOVEC = np.dtype([("base", np.uintp), ("len", np.uintp)])
_MSGHDR = np.dtype(
    [
        ("name", np.uintp),
        ("namelen", np.uint32),
        ("iov", np.uintp),
        ("iovlen", np.uintp),
        ("control", np.uintp),
        ("controllen", np.uintp),
        ("flags", np.int32),
    ],
    align=True,
)
MMSGHDR = np.dtype([("msg", _MSGHDR), ("len", np.uint32)], align=True)
# sockaddr_in and sockaddr_in6 at once: in the first the address is where the second has its flow label
SOCKADDR = np.dtype(
    [("family", np.uint16), ("port", ">u2"), ("v4", np.uint8, 4), ("v6", np.uint8, 16), ("scope", np.uint32)]
)
# The two control messages that we switch on, in the kernel's order; the second is left out before the first drop
_CONTROL = np.dtype(
    [
        ("len", np.uintp),
        ("level", np.int32),
        ("type", np.int32),
        ("seconds", np.int64),
        ("nanoseconds", np.int64),
        ("drops_len", np.uintp),
        ("drops_level", np.int32),
        ("drops_type", np.int32),
        ("drops", np.uint32),
        ("pad", np.uint32),
    ]
)

_V4_MAPPED = np.frombuffer(V4_MAPPED, np.uint8)

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


def row_addresses(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uintp]]:
    """The address of each row."""
    return (array.ctypes.data + np.arange(len(array)) * array.strides[0]).astype(np.uintp)


def lazy_octets(octets: int) -> U8:
    """Zeroed memory that costs nothing until it is touched (np.zeros would ask for huge pages)."""
    area = mmap.mmap(-1, octets, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(area, np.uint8)


def next_pause(pause_s: float, fill: float, longest_s: float) -> float:
    """The pause after one of ``pause_s`` that left the queue ``fill`` full (0 to 1): so that it stays below half full.

    Long pauses save system calls and wake-ups, but a queue of the kernel's usual size holds only some 90 datagrams.
    """
    factor = min(2.0, max(0.1, _TARGET_FILL / fill)) if fill else 2.0
    return min(longest_s, max(_MIN_PAUSE, pause_s * factor))


class UdpReceiver:
    """Datagrams of one or several sockets as :class:`~pyflowx.batch.PacketBatch`.

    ``addresses``: as of :class:`~pyflowx.transport.sockets.Listening`, or one, which is closed with the receiver.
    ``batch_size``: the most datagrams of a batch. ``wake_fd``: a file descriptor that ends a wait when it becomes
    readable (it is not read here).

    A datagram of any length up to 65,535 octets is kept whole. Memory is bounded by about
    ``2 * batch_size * 65,536`` octets, of which only what datagrams filled is ever touched:
    ``batch_size * 1600`` while none is longer than that.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]] | Listening,
        *,
        batch_size: int = 1024,
        recv_buffer: int | None = None,
        wake_fd: int | None = None,
    ) -> None:
        listening = addresses if isinstance(addresses, Listening) else Listening(addresses, recv_buffer)
        self._listening, self._sockets = listening, listening.sockets
        self.granted, self.warning = listening.granted, listening.warning
        self._first = 0
        self._parts: list[tuple[int, int, int]] = []
        self._longest_pause = min(_MAX_PAUSE, max(10 * _MIN_PAUSE, 2 * self.granted / _BURST))
        self._pause = self._longest_pause
        self._poll = select.poll()
        for sock in self._sockets:
            self._poll.register(sock, select.POLLIN)
        self._wake_fd = wake_fd
        if wake_fd is not None:
            self._poll.register(wake_fd, select.POLLIN)
        self._allocate(batch_size)

    def _allocate(self, size: int) -> None:
        self._data = np.zeros((size, _STRIDE), np.uint8)
        self._tail = lazy_octets(size * (MAX_DATAGRAM + 1 - _STRIDE)).reshape(size, -1)
        self._wide = lazy_octets(size * MAX_DATAGRAM)
        iov = np.zeros((size, 2), IOVEC)
        iov["base"][:, 0], iov["len"][:, 0] = row_addresses(self._data), _STRIDE
        iov["base"][:, 1], iov["len"][:, 1] = row_addresses(self._tail), self._tail.shape[1]
        self._allocate_headers(iov, _CONTROL)

    def _allocate_headers(self, iov: Array, control: np.dtype[np.void]) -> None:
        """``iov``: the buffers of each message; ``control``: of its control messages."""
        size = self._size = len(iov)
        self._exporter = np.zeros((size, 16), np.uint8)
        self._port = np.zeros(size, np.uint16)
        self._input = np.zeros(size, np.uint16)
        self._names = np.zeros(size, SOCKADDR)
        self._control = np.zeros(size, control)
        self._iov = iov
        self._headers = np.zeros(size, MMSGHDR)
        self._headers_at = self._headers.ctypes.data
        message = self._headers["msg"]
        message["name"], message["namelen"] = row_addresses(self._names), SOCKADDR.itemsize
        message["iov"], message["iovlen"] = row_addresses(iov), iov.shape[1]
        message["control"], message["controllen"] = row_addresses(self._control), control.itemsize

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) that each socket has really got."""
        return self._listening.addresses

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel dropped, see :attr:`Listening.dropped`."""
        return self._listening.dropped

    @property
    def queued(self) -> tuple[int, int]:
        """How full the fullest queue is, see :attr:`Listening.queued`."""
        return self._listening.queued

    def receive(self, timeout_s: float | None, linger_s: float = 0.05) -> PacketBatch | None:
        """The next batch; None if ``timeout_s`` passed without a datagram (None waits for ever) or on a wake-up.

        Waits for the first datagram, then gathers more until ``linger_s`` has passed or the batch is
        full. The batch's arrays are valid until the next call.
        """
        ready = self._poll.poll(None if timeout_s is None else max(0.0, timeout_s * 1000))
        if not any(fd != self._wake_fd for fd, _ in ready):
            return None
        deadline = time.monotonic() + linger_s
        count = self._drain(0)
        adapted = False
        while count < self._size and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, self._pause))
            if not adapted and left > self._pause:
                self._pause = next_pause(self._pause, self.fill(), self._longest_pause)
                adapted = True
            count = self._drain(count)
        return self._batch(count) if count else None

    @property
    def filenos(self) -> list[int]:
        """For those who wait for more than this."""
        return [sock.fileno() for sock in self._sockets]

    def fill(self) -> float:
        """How full the fullest queue is, 0 to 1."""
        queued, limit = self.queued
        return queued / limit

    def _drain(self, count: int) -> int:
        """Take what the sockets have now, into the rows from ``count``; the new count."""
        for step in range(len(self._sockets)):
            if count == self._size:
                break
            index = (self._first + step) % len(self._sockets)
            got = self._read(self._sockets[index], count)
            if got:
                self._parts.append((index, count, count + got))
                count += got
        self._first = (self._first + 1) % len(self._sockets)  # no socket starves the others
        return count

    def _read(self, sock: socket.socket, start: int) -> int:
        address = self._headers_at + start * MMSGHDR.itemsize
        got: int = _recvmmsg(sock.fileno(), address, self._size - start, socket.MSG_DONTWAIT, None)
        if got >= 0:
            return got
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, os.strerror(code))

    def _parse(self, index: int, start: int, stop: int) -> None:
        """Exporters of the rows that one socket gave, and the kernel's drops."""
        names, message = self._names[start:stop], self._headers["msg"][start:stop]
        exporter = self._exporter[start:stop]
        if self._sockets[index].family == socket.AF_INET6:
            exporter[:] = names["v6"]
        else:
            exporter[:, :12] = _V4_MAPPED
            exporter[:, 12:] = names["v4"]
        self._port[start:stop] = names["port"]
        self._input[start:stop] = index
        self._parse_control(index, start, stop)
        message["namelen"] = SOCKADDR.itemsize  # the kernel has put in what it used
        message["controllen"] = self._control.dtype.itemsize

    def _parse_control(self, index: int, start: int, stop: int) -> None:
        if self._headers["msg"]["controllen"][stop - 1] == _CONTROL.itemsize:
            self._listening.drops[index].update(int(self._control["drops"][stop - 1]))

    def _parse_all(self, count: int) -> None:
        if len(self._sockets) == 1:
            self._parts = [(0, 0, count)]
        for part in self._parts:
            self._parse(*part)
        self._parts.clear()

    def _batch(self, count: int) -> PacketBatch:
        self._parse_all(count)
        control = self._control[:count]
        length: I32 = self._headers["len"][:count].astype(np.int32)
        received_ns: I64 = control["seconds"] * 1_000_000_000 + control["nanoseconds"]
        longest = int(length.max())
        data = self._data[:count] if longest <= _STRIDE else self._widened(length, longest)
        return PacketBatch(data, length, self._exporter[:count], self._port[:count], received_ns, self._input[:count])

    def _widened(self, length: I32, longest: int) -> U8:
        """The batch with rows of ``longest`` octets, for those that did not fit into ours."""
        count = len(length)
        wide = self._wide[: count * longest].reshape(count, longest)
        wide[:, :_STRIDE] = self._data[:count]
        rows = np.flatnonzero(length > _STRIDE)
        wide[rows, _STRIDE:] = self._tail[rows, : longest - _STRIDE]
        return wide

    def close(self) -> None:
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# What an ICMP message about an earlier datagram makes of the next call (udp(7)); the datagram of that call is not sent
_REPORTS = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENOPROTOOPT, errno.EPROTO}
)

# No way there now, or none from the address that the socket was given when it was connected.
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EINVAL})


@dataclass(slots=True)
class SendCounts:
    """What became of the datagrams for one destination; all monotonic.

    ``sent``, ``octets`` (of payload): handed to the kernel. ``lost``: refused by the kernel for good (no
    buffers, no route, longer than the protocol allows, forbidden by a filter); ``last_error`` is its latest reason.
    ``reports``: times that the network said an earlier datagram did not arrive, mostly because nobody
    listens there (ECONNREFUSED); of several between two calls the kernel keeps one. ``reconnects``: times that
    there was a way again after there had been none; the datagrams then come from another port.
    """

    sent: int = 0
    octets: int = 0
    lost: int = 0
    reports: int = 0
    reconnects: int = 0
    last_error: str = ""


class UdpSender:
    """Sends :class:`~pyflowx.batch.Datagrams` to every one of ``destinations`` (host, port), many a system call.

    Each destination has a connected socket, so that the route is looked up once and ICMP errors are
    seen. Nothing that the network or the kernel says about a datagram raises an exception: it is counted, see
    :class:`SendCounts`. A destination to which there is no way any more, or none from the address we had, is
    connected anew with the next call. :class:`~pyflowx.errors.ConfigError` where a name does not resolve or a host
    has no route; a ``patient`` sender counts what it cannot send until there is one.
    """

    def __init__(self, destinations: Sequence[tuple[str, int]], patient: bool = False) -> None:
        self._destinations = list(destinations)
        self._sockets: list[socket.socket] = []
        self._cut: set[int] = set()  # destinations to which there is no way
        self.counts = [SendCounts() for _ in destinations]
        """One for each destination, in their order."""
        try:
            for number, (host, port) in enumerate(destinations):
                self._sockets.append(self._connect(number, host, port, patient))
        except ConfigError:
            self.close()
            raise
        self._iov = np.zeros(_MAX_MESSAGES, IOVEC)
        self._headers = np.zeros(_MAX_MESSAGES, MMSGHDR)
        self._headers["msg"]["iov"], self._headers["msg"]["iovlen"] = row_addresses(self._iov), 1
        self._headers_at = self._headers.ctypes.data

    def _connect(self, number: int, host: str, port: int, patient: bool) -> socket.socket:
        try:
            return connect(host, port)
        except ConfigError as error:
            cause = error.__cause__
            if not patient or not isinstance(cause, OSError) or cause.errno not in _NO_WAY:
                raise
            self._cut.add(number)
            self.counts[number].last_error = os.strerror(cause.errno)
            return socket.socket(type=socket.SOCK_DGRAM)  # until there is one that is connected

    def _connect_anew(self) -> None:
        """The destinations to which there was no way."""
        for number in list(self._cut):
            self._cut.discard(number)
            fresh = self._connect(number, *self._destinations[number], patient=True)
            self._sockets[number].close()
            self._sockets[number] = fresh
            self.counts[number].reconnects += number not in self._cut

    @property
    def local_addresses(self) -> list[tuple[str, int]]:
        """(host, port) that the datagrams to each destination come from."""
        return [sock.getsockname()[:2] for sock in self._sockets]

    def look(self) -> None:
        """Count what the network has said by now about datagrams that were sent."""
        for sock, counts in zip(self._sockets, self.counts, strict=True):
            if sock.fileno() >= 0 and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _REPORTS:
                counts.reports += 1

    def send(self, datagrams: Datagrams) -> None:
        """Send all of them, in order; returns when the kernel has them (it waits while a queue is full)."""
        data, lengths = datagrams.data, datagrams.length
        if not data.flags.c_contiguous:
            data = np.ascontiguousarray(data)
        base = row_addresses(data)
        self._connect_anew()
        open_ones = [number for number in range(len(self._sockets)) if number not in self._cut]
        for number in self._cut:
            self.counts[number].lost += len(lengths)
        for start in range(0, len(lengths), _MAX_MESSAGES):
            chunk = lengths[start : start + _MAX_MESSAGES]
            self._iov["base"][: len(chunk)] = base[start : start + _MAX_MESSAGES]
            self._iov["len"][: len(chunk)] = chunk
            for number in open_ones:
                self._send(number, chunk)

    def _send(self, number: int, lengths: I32) -> None:
        """Send the first messages of our headers, as many as there are ``lengths``."""
        sock, counts = self._sockets[number], self.counts[number]
        position = 0
        doubt = (
            False  # the last call ended in an error that may have been about an earlier datagram (sendmmsg hides it)
        )
        retried = moved = False
        while position < len(lengths):
            address = self._headers_at + position * MMSGHDR.itemsize
            sent = _sendmmsg(sock.fileno(), address, len(lengths) - position, 0)
            if sent > 0:
                counts.reports += doubt
                counts.sent += sent
                counts.octets += int(lengths[position : position + sent].sum())
                position += sent
                doubt, retried, moved = position < len(lengths), False, False
                continue
            code = ctypes.get_errno()
            if code == errno.EINTR:
                continue
            if code in _REPORTS and not retried:  # that datagram has had no chance yet
                doubt = retried = True
                continue
            if code in _NO_WAY and not moved:
                moved = True
                self._cut.add(number)
                self._connect_anew()
                sock = self._sockets[number]
                if number not in self._cut:  # from another address, perhaps
                    continue
            counts.lost += 1
            counts.last_error = os.strerror(code)
            position += 1
            doubt = retried = moved = False

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
