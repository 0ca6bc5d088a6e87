"""UDP datagrams that the kernel puts together (UDP_GRO): many cross it as one packet, and are read as one message.

It does so with datagrams of one length that come from one socket one behind the other (a last one may be shorter), as
far as the network card hands over several at once. Here they become rows again.
"""

from __future__ import annotations

import socket

import numpy as np

from pyflowx.batch import I64, Array, PacketBatch
from pyflowx.transport.capture_blocks import gather
from pyflowx.transport.udp import IOVEC, UdpReceiver, lazy_octets, row_addresses

_SOL_UDP, _UDP_GRO = 17, 104  # linux/udp.h
_ROOM = 1 << 16  # octets of a message
_MESSAGES = 256  # of a batch: each may be as many datagrams as the kernel puts together (64 or 128)

# Control messages, in the kernel's order: the time; drops, if there were any; the length, of datagrams put together.
_FURTHER = np.dtype(
    [("len", np.uintp), ("level", np.int32), ("type", np.int32), ("value", np.uint32), ("pad", np.uint32)]
)
_CONTROL = np.dtype(
    [
        ("len", np.uintp),
        ("level", np.int32),
        ("type", np.int32),
        ("seconds", np.int64),
        ("nanoseconds", np.int64),
        ("further", _FURTHER, 2),
    ]
)
_TIME_ONLY = _CONTROL.fields["further"][1]  # type: ignore[index]


class CoalescingReceiver(UdpReceiver):
    """A :class:`~pyflowx.transport.udp.UdpReceiver` of sockets with UDP_GRO.

    The datagrams of a message have one time of reception. A message that the kernel drops counts as one drop, however
    many datagrams it was: see the sequence numbers. A batch may hold some 16,000 datagrams.
    """

    def _allocate(self, size: int) -> None:
        for sock in self._sockets:
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        size = min(size, _MESSAGES)
        self._area = lazy_octets((size + 1) * _ROOM)  # one more: a window of any width begins in the last one
        self._segment = np.zeros(size, np.int64)
        iov = np.zeros((size, 1), IOVEC)
        iov["base"][:, 0], iov["len"][:, 0] = row_addresses(self._area.reshape(-1, _ROOM)[:size]), _ROOM
        self._allocate_headers(iov, _CONTROL)

    def _parse_control(self, index: int, start: int, stop: int) -> None:
        """The octets of the datagrams of each message, 0 where it is one; the kernel's drops."""
        used = self._headers["msg"]["controllen"][start:stop]
        segment: I64 = np.zeros(stop - start, np.int64)
        for number in range(2):
            further = self._control["further"][start:stop, number]
            there = used >= _TIME_ONLY + (number + 1) * _FURTHER.itemsize
            is_length = there & (further["level"] == _SOL_UDP) & (further["type"] == _UDP_GRO)
            segment[is_length] = further["value"][is_length]
            if there[-1] and further["level"][-1] == socket.SOL_SOCKET:
                self._listening.drops[index].update(int(further["value"][-1]))
        self._segment[start:stop] = segment

    def _batch(self, count: int) -> PacketBatch:
        self._parse_all(count)
        control = self._control[:count]
        received_ns = control["seconds"] * 1_000_000_000 + control["nanoseconds"]
        octets = self._headers["len"][:count].astype(np.int64)
        message, offset, length = cut(octets, self._segment[:count])
        data = gather(self._area, message * _ROOM + offset, max(1, int(length.max())))
        exporter, port = self._exporter[message], self._port[message]
        return PacketBatch(data, length.astype(np.int32), exporter, port, received_ns[message], self._input[message])


def cut(octets: I64, segment: I64) -> tuple[Array, I64, I64]:
    """Datagrams of messages of so many octets: the message, offset and length of each. ``segment``: the length of the
    datagrams of a message but the last one, 0 where it is one."""
    segment = np.where(segment == 0, np.maximum(octets, 1), segment)
    parts = np.maximum(1, -(-octets // segment))
    message = np.repeat(np.arange(len(octets)), parts)
    place = np.arange(len(message)) - np.repeat(np.cumsum(parts) - parts, parts)
    offset = place * segment[message]
    return message, offset, np.minimum(segment[message], octets[message] - offset)
