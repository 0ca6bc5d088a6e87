"""Datagrams out of AF_XDP sockets as :class:`~pyflowx.batch.PacketBatch`, merged with those of the ordinary sockets.

Frames have passed the gate, which redirects IPv4 and IPv6 datagrams without extension headers; the headers are read
in groups of the same offsets, so that a column is a slice. What the kernel would have done is done here: a datagram
whose UDP checksum is wrong is given up and counted. (What comes over a software interface from this host may have the
sum of its pseudo-header only, the rest being left to hardware that is not there; it is taken.)
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from pyflowx.batch import I32, I64, U8, U16, V4_MAPPED, Array, PacketBatch
from pyflowx.transport.udp import UdpReceiver
from pyflowx.transport.xsk import BAD_CHECKSUM, RECEIVED, UNREADABLE, XskSocket

_PAUSE_S = 0.005  # the error of received_ns
_ENOUGH = 2048  # frames of a socket that are read at once
_FULL = 0.25  # of the ordinary socket: time to read it
_HEADERS = 14 + 2 * 4 + 60 + 8  # octets, at most: Ethernet, tags, IPv4 with options, UDP
_UDP, _UDP_OCTETS = 17, 8
_IPV4, _IPV6, _VLANS = 0x0800, 0x86DD, (0x8100, 0x88A8)


class _Part(NamedTuple):
    """Datagrams of one socket whose headers have the same lengths; ``order``: their places among all of it."""

    order: I64
    payload: U8
    length: I32
    exporter: U8
    port: U16
    local_port: U16


class AfXdpReceiver:
    """AF_XDP sockets and the ordinary ones as one source. ``receive`` as of
    :class:`~pyflowx.transport.udp.UdpReceiver`; ``received_ns`` of what comes by AF_XDP is up to 5 ms late."""

    def __init__(self, udp: UdpReceiver, sockets: Sequence[XskSocket], wake_fd: int | None = None) -> None:
        self._udp, self._wake_fd = udp, wake_fd
        self._kept: PacketBatch | None = None  # of the ordinary sockets, for the next call
        self._inputs = np.zeros(1 << 16, np.uint16)  # by port
        for number, (_, port) in enumerate(udp.addresses):
            self._inputs[port] = number
        self.replace(sockets)

    def replace(self, sockets: Sequence[XskSocket]) -> None:
        """Read from these from now on."""
        self._sockets = list(sockets)
        self._seen: list[list[tuple[int, int]]] = [[] for _ in self._sockets]  # (frames, time) while gathering
        self._poll = select.poll()
        for fd in (*self._udp.filenos, *(each.fd for each in self._sockets)):
            self._poll.register(fd, select.POLLIN)
        if self._wake_fd is not None:
            self._poll.register(self._wake_fd, select.POLLIN)

    def receive(self, timeout_s: float | None, linger_s: float = 0.05) -> PacketBatch | None:
        """The next batch; its arrays are valid until the next call."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        ready = self._poll.poll(None if timeout_s is None else max(0.0, timeout_s * 1000))
        if not any(fd != self._wake_fd for fd, _ in ready):
            return None
        self._gather(time.monotonic() + linger_s)
        batch: PacketBatch | None = self._read()
        self._kept = self._udp.receive(0, 0)
        if batch is None:
            batch, self._kept = self._kept, None
        return batch

    def _gather(self, deadline: float) -> None:
        """Let datagrams come until there are enough, or time is over; note when they came."""
        while True:
            now = time.time_ns()
            depths = [each.depth for each in self._sockets]
            for seen, depth in zip(self._seen, depths, strict=True):
                seen.append((depth, now))
            left = deadline - time.monotonic()
            if left <= 0 or max(depths, default=0) >= _ENOUGH or self._udp.fill() > _FULL:
                return
            time.sleep(min(left, _PAUSE_S))

    def _read(self) -> PacketBatch | None:
        batches = []
        for index, each in enumerate(self._sockets):
            seen, self._seen[index] = self._seen[index], []
            batch = _take(each, seen, self._inputs)
            if batch is not None:
                batches.append(batch)
        return _joined(batches) if batches else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets = []


def _take(sock: XskSocket, seen: Sequence[tuple[int, int]], inputs: U16) -> PacketBatch | None:
    """What waits in a socket. ``seen``: how many frames there were at some times."""
    rows, begins, octets = sock.peek(_ENOUGH)
    if not len(rows):
        return None
    parts: list[_Part] = []
    for begin in np.unique(begins).tolist():  # one, but for a driver that says something in front of a frame
        order = np.flatnonzero(begins == begin)
        parts += _parts(sock, order, rows[order], begin, octets[order])
    sock.release(rows)
    parts = [part for part in parts if len(part.order)]
    if not parts:
        return None
    sock.count(RECEIVED, sum(len(part.order) for part in parts))
    depths, times = np.array(seen, np.int64).reshape(-1, 2).T
    moment = np.searchsorted(depths, np.arange(len(rows)), side="right")
    return _merged(parts, times[np.minimum(moment, len(times) - 1)], inputs)


def _parts(sock: XskSocket, order: I64, rows: I64, begin: int, octets: I32) -> list[_Part]:
    """The datagrams of frames that begin at the same place of their rows."""
    heads = sock.frames[:, begin : begin + _HEADERS][rows]
    network = np.full(len(rows), 14, np.int64)
    kind = _be16(heads, 12)
    for tags in (1, 2):
        tagged = np.flatnonzero((network == 10 + 4 * tags) & np.isin(kind, _VLANS))
        if not len(tagged):
            break
        network[tagged] += 4
        kind[tagged] = _be16(heads[tagged], 12 + 4 * tags)
    first = heads[np.arange(len(rows)), network].astype(np.int64)
    header = np.where(kind == _IPV6, 40, (first & 15) * 4)
    good = ((kind == _IPV4) & (first >> 4 == 4) & (header >= 20)) | ((kind == _IPV6) & (first >> 4 == 6))
    layout = np.where(good, network << 16 | header << 1 | (kind == _IPV6), -1)
    sock.count(UNREADABLE, int((~good).sum()))
    found = []
    for value in np.unique(layout[good]).tolist():
        mine = np.flatnonzero(layout == value)
        at, size, is_ipv6 = value >> 16, (value & 0xFFFF) >> 1, bool(value & 1)
        part = _datagrams(sock, heads[mine], rows[mine], octets[mine], (begin, at, size), is_ipv6)
        if part is not None:
            found.append(part._replace(order=order[mine[part.order]]))
    return found


def _datagrams(
    sock: XskSocket, heads: U8, rows: I64, octets: I32, places: tuple[int, int, int], is_ipv6: bool
) -> _Part | None:
    """Those of frames with one layout: where frame, IP header (in the frame) and, behind that, UDP header begin."""
    begin, network, size = places
    at = network + size
    length = _be16(heads, at + 4) - _UDP_OCTETS
    protocol = heads[:, network + (6 if is_ipv6 else 9)]
    whole = (protocol == _UDP) & (length >= 0) & (at + _UDP_OCTETS + length <= octets)
    if not whole.all():
        sock.count(UNREADABLE, int((~whole).sum()))
    kept = np.flatnonzero(whole)
    if not len(kept):
        return None
    heads, length = heads[kept], length[kept]
    payload = _payload(sock, rows[kept], begin + at + _UDP_OCTETS, length)
    ends = heads[:, network + 8 : network + 40] if is_ipv6 else heads[:, network + 12 : network + 20]
    correct = _is_correct(heads[:, at : at + _UDP_OCTETS], ends, payload, length, is_ipv6)
    if not correct.all():
        sock.count(BAD_CHECKSUM, int((~correct).sum()))
        kept, heads, length, payload = kept[correct], heads[correct], length[correct], payload[correct]
    exporter = np.empty((len(kept), 16), np.uint8)
    if is_ipv6:
        exporter[:] = heads[:, network + 8 : network + 24]
    else:
        exporter[:, :12] = np.frombuffer(V4_MAPPED, np.uint8)
        exporter[:, 12:] = heads[:, network + 12 : network + 16]
    ports = _be16(heads, at).astype(np.uint16), _be16(heads, at + 2).astype(np.uint16)
    return _Part(kept, payload, length.astype(np.int32), exporter, *ports)


def _payload(sock: XskSocket, rows: I64, at: int, length: I64) -> U8:
    """``(n, width)`` octets, zero behind the length of each; the width is a multiple of 4."""
    width = (int(length.max()) + 3) // 4 * 4
    there = min(width, sock.chunk - at)  # less where a driver puts a frame at the very end of its row
    payload = sock.copy(rows, at, there)
    if there < width:
        payload = np.pad(payload, ((0, 0), (0, width - there)))
    shortest = int(length.min())
    payload[:, shortest:][np.arange(shortest, width) >= length[:, None]] = 0
    return payload


def _is_correct(udp: U8, ends: U8, payload: U8, length: I64, is_ipv6: bool) -> Array:
    """Whether the checksum of each datagram is (RFC 768, RFC 8200 §8.1). Sums are of words in the order of this
    machine: that changes nothing (RFC 1071 §2)."""
    said = np.ascontiguousarray(udp[:, 6:8]).view(np.uint16)[:, 0]
    octets = ((length + _UDP_OCTETS).astype(np.uint16).byteswap()).astype(np.uint64)
    pseudo = _sum(ends) + octets + np.uint64(_UDP << 8)
    whole = _folded(pseudo + _sum(udp) + _sum(payload)) == 0xFFFF
    left_out = np.zeros(len(said), bool) if is_ipv6 else said == 0
    correct: Array = whole | left_out | (_folded(pseudo) == said)
    return correct


def _sum(octets: U8) -> Array:
    """Of the words of each row; a row has a multiple of 4 octets."""
    total: Array = np.ascontiguousarray(octets).view(np.uint32).sum(axis=1, dtype=np.uint64)
    return total


def _folded(total: Array) -> Array:
    """To 16 bits."""
    for bits in (32, 16, 16, 16):
        total = (total & np.uint64((1 << bits) - 1)) + (total >> np.uint64(bits))
    return total


def _be16(octets: U8, at: int) -> I64:
    """The 16-bit number at a place of each row."""
    return octets[:, at].astype(np.int64) << 8 | octets[:, at + 1]


def _merged(parts: Sequence[_Part], received_ns: I64, inputs: U16) -> PacketBatch:
    """The parts in the order in which their datagrams came. ``received_ns``: of all frames; ``inputs``: by port."""
    if len(parts) == 1:
        (part,) = parts
        times = received_ns[part.order]
        return PacketBatch(part.payload, part.length, part.exporter, part.port, times, inputs[part.local_port])
    order = np.concatenate([part.order for part in parts])
    turn = np.argsort(order)
    return PacketBatch(
        _stacked([part.payload for part in parts])[turn],
        np.concatenate([part.length for part in parts])[turn],
        np.concatenate([part.exporter for part in parts])[turn],
        np.concatenate([part.port for part in parts])[turn],
        received_ns[order[turn]],
        inputs[np.concatenate([part.local_port for part in parts])[turn]],
    )


def _joined(batches: Sequence[PacketBatch]) -> PacketBatch:
    """Of several sockets, one behind the other."""
    if len(batches) == 1:
        return batches[0]
    return PacketBatch(
        _stacked([batch.data for batch in batches]),
        np.concatenate([batch.length for batch in batches]),
        np.concatenate([batch.exporter for batch in batches]),
        np.concatenate([batch.port for batch in batches]),
        np.concatenate([batch.received_ns for batch in batches]),
        np.concatenate([batch.input for batch in batches if batch.input is not None]),
    )


def _stacked(matrices: Sequence[U8]) -> U8:
    """One below the other, as wide as the widest."""
    width = max(matrix.shape[1] for matrix in matrices)
    return np.concatenate([np.pad(matrix, ((0, 0), (0, width - matrix.shape[1]))) for matrix in matrices])
