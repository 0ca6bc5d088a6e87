"""AF_XDP sockets (Documentation/networking/af_xdp.rst, linux/if_xdp.h): memory and rings that the kernel and we share.

A socket belongs to one receive queue of an interface. What a program at XDP redirects to it lies in a frame of its
memory (UMEM), and a descriptor in its RX ring says where; what we have read goes back to the kernel through the fill
ring. The indices of rings are read and written as aligned 32-bit words of shared memory. On x86-64 such loads and
stores are never torn, loads are not reordered with loads nor stores with stores, which is all that the
protocol of the rings asks of a consumer and a producer; other machines need barriers that Python does not have, so
that we refuse there.

Memory and rings are shared mappings: a process that was forked goes on where another stopped.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import Any, Self

import numpy as np

from pyflowx.batch import I32, I64, U8, Array
from pyflowx.errors import ConfigError, KernelError

_AF_XDP, _SOL_XDP = 44, 283
_MMAP_OFFSETS, _RX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING, _STATISTICS, _OPTIONS = 1, 2, 4, 5, 6, 7, 8
_PAGE_RX, _PAGE_FILL = 0, 0x100000000
_USE_NEED_WAKEUP, _NEED_WAKEUP, _ZERO_COPY = 1 << 3, 1, 1
HEADROOM = 256  # that the kernel leaves in front of a frame (XDP_PACKET_HEADROOM)
_SPARE = 4  # octets behind a frame, so that it can be summed in words
_LINK_OCTETS = 14 + 2 * 4  # of Ethernet and two tags
_LEAST, _MOST = 1024, 1 << 16  # frames of a socket
_MANY_QUEUES = 8  # more share the memory of so many
_RUNS = 32  # of rows that follow each other: more are not copied one by one
_STATISTIC_NAMES = ("rx_dropped", "rx_invalid_descs", "", "rx_ring_full", "rx_fill_ring_empty_descs", "")
_DESCRIPTOR = np.dtype([("address", np.uint64), ("length", np.uint32), ("options", np.uint32)])
_SIOCGIFMTU, _SIOCETHTOOL, _GCHANNELS = 0x8921, 0x8946, 0x3C

RECEIVED, BAD_CHECKSUM, UNREADABLE = 0, 1, 2  # what we count ourselves
_COUNTED = ("received", "bad_checksum", "unreadable")

_HINTS = {
    errno.EPERM: "; it needs root or CAP_NET_RAW",
    errno.ENOBUFS: " as locked memory; it needs CAP_IPC_LOCK, a higher limit (ulimit -l) or a smaller --recv-buffer",
    errno.EBUSY: "; another program has it",
}

_libc = ctypes.CDLL(None, use_errno=True)


def chunk_octets(interface: str) -> int:
    """The size of a frame's place in memory that holds what the interface receives, as far as there is one. ConfigError
    for an interface that is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFMTU, struct.pack("16si20x", interface.encode(), 0))
        except OSError as error:
            raise ConfigError(
                f"no interface {interface}: {error.strerror}; ip link lists those that there are"
            ) from error
    mtu: int = struct.unpack_from("i", answer, 16)[0]
    return 2048 if mtu + _LINK_OCTETS <= frame_octets(2048) else 4096


def frame_octets(chunk: int) -> int:
    """The longest frame that is put into a place of that size."""
    return chunk - HEADROOM - _SPARE


def receive_queues(interface: str) -> int:
    """How many the interface has; 1 where the driver does not say."""
    channels = ctypes.create_string_buffer(struct.pack("=9I", _GCHANNELS, *[0] * 8), 36)
    request = struct.pack("16sQ16x", interface.encode(), ctypes.addressof(channels))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, suppress(OSError):
        fcntl.ioctl(asking, _SIOCETHTOOL, request)
    counts: tuple[int, ...] = struct.unpack("=9I", channels.raw)
    return max(1, counts[5] + counts[8])  # rx_count, combined_count


class _Ring:
    """One of the two rings of a socket that we use: a window of its memory."""

    def __init__(self, fd: int, page: int, offsets: tuple[int, ...], dtype: Any, size: int) -> None:
        producer, consumer, descriptors, flags = offsets
        self._memory = mmap.mmap(fd, descriptors + size * np.dtype(dtype).itemsize, offset=page)

        def word(at: int) -> Array:
            return np.frombuffer(self._memory, np.uint32, 1, at)

        self.producer, self.consumer, self.flags = word(producer), word(consumer), word(flags)
        self.entries = np.frombuffer(self._memory, dtype, size, descriptors)
        self._mask = np.uint32(size - 1)

    def filled(self) -> int:
        """Entries that are produced and not yet consumed."""
        return (int(self.producer[0]) - int(self.consumer[0])) & 0xFFFFFFFF

    def places(self, first: int, count: int) -> Array:
        """The entries of ``count`` indices."""
        return (np.arange(count, dtype=np.uint32) + np.uint32(first & 0xFFFFFFFF)) & self._mask

    def close(self) -> None:
        del self.producer, self.consumer, self.flags, self.entries
        self._memory.close()


class XskSocket:
    """A socket of one receive queue; ``fd`` is for the map of the program that redirects.

    KernelError where there is no AF_XDP, or none for this queue. ``size`` (a power of 2) frames of ``chunk`` octets
    are its memory.
    """

    def __init__(self, interface: str, ifindex: int, queue: int, size: int = 4096, chunk: int = 2048) -> None:
        self.interface, self.ifindex, self.queue, self.chunk = interface, ifindex, queue, chunk
        self._looked: dict[str, Any] = {}
        self._room: U8 = np.empty(0, np.uint8)
        self._used = 0
        self.size = size
        if platform.machine() != "x86_64" or sys.byteorder != "little":
            raise KernelError(f"AF_XDP is supported on x86-64 only, this is {platform.machine()}")
        self._stack = ExitStack()
        with ExitStack() as on_error:
            on_error.callback(self._stack.close)
            try:
                self._open()
            except OSError as error:
                reason = f"{error.strerror}{_HINTS.get(error.errno or 0, '')}"
                raise KernelError(f"no AF_XDP socket for {interface} queue {queue}: {reason}") from error
            on_error.pop_all()

    def _open(self) -> None:
        self._socket = self._stack.enter_context(socket.socket(_AF_XDP, socket.SOCK_RAW))
        self.fd = self._socket.fileno()
        octets = self.size * self.chunk  # a multiple of pages
        memory = mmap.mmap(-1, octets + mmap.PAGESIZE)
        self._stack.callback(memory.close)
        self.frames: U8 = np.frombuffer(memory, np.uint8, octets).reshape(self.size, self.chunk)
        self._counts: Array = np.frombuffer(memory, np.uint64, len(_COUNTED), octets)
        self._stack.callback(self._forget)
        self._set(_UMEM_REG, struct.pack("=QQIIII", self.frames.ctypes.data, octets, self.chunk, 0, 0, 0))
        for ring in (_FILL_RING, _COMPLETION_RING, _RX_RING):  # the kernel wants the second too
            self._set(ring, struct.pack("=I", 64 if ring == _COMPLETION_RING else self.size))
        offsets = struct.unpack("=16Q", self._socket.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128))
        self._rx = _Ring(self.fd, _PAGE_RX, offsets[0:4], _DESCRIPTOR, self.size)
        self._stack.callback(self._rx.close)
        self._fill = _Ring(self.fd, _PAGE_FILL, offsets[8:12], np.uint64, self.size)
        self._stack.callback(self._fill.close)
        self._fill.entries[:] = np.arange(self.size, dtype=np.uint64) * self.chunk
        self._fill.producer[0] = self.size
        # neither XDP_COPY nor XDP_ZEROCOPY: the second where the driver can
        address = struct.pack("=HHIII", _AF_XDP, _USE_NEED_WAKEUP, self.ifindex, self.queue, 0)
        if _libc.bind(self.fd, address, len(address)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def _set(self, option: int, value: bytes) -> None:
        self._socket.setsockopt(_SOL_XDP, option, value)

    def _forget(self) -> None:
        del self.frames, self._counts

    @property
    def zero_copy(self) -> bool:
        """Whether the driver writes into our memory itself."""
        return bool(struct.unpack("=I", self._socket.getsockopt(_SOL_XDP, _OPTIONS, 4))[0] & _ZERO_COPY)

    @property
    def depth(self) -> int:
        """Frames that wait."""
        return self._rx.filled()

    def peek(self, most: int) -> tuple[I64, I64, I32]:
        """Up to ``most`` of the frames that wait: their rows in :attr:`frames`, where they begin in the row, their
        octets. They are ours until :meth:`release`."""
        self._used = 0
        count = min(self._rx.filled(), most)
        descriptors = self._rx.entries[self._rx.places(int(self._rx.consumer[0]), count)]
        rows, begins = np.divmod(descriptors["address"].astype(np.int64), self.chunk)
        return rows, begins, descriptors["length"].astype(np.int32)

    def copy(self, rows: I64, at: int, width: int) -> U8:
        """``(n, width)`` octets from a place of each of these rows; they stay until the next :meth:`peek`. (Fresh
        memory for each batch would cost more than the copy.)"""
        if not len(self._room):
            self._room = np.empty(self.frames.size, np.uint8)
        place = self._room[self._used : self._used + len(rows) * width].reshape(len(rows), width)
        self._used += len(rows) * width
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        if len(cuts) > _RUNS:
            place[:] = self.frames[:, at : at + width][rows]
            return place
        for first, end in pairwise(cuts):  # the kernel fills one frame after the other, mostly
            row = int(rows[first])
            place[first:end] = self.frames[row : row + end - first, at : at + width]
        return place

    def release(self, rows: I64) -> None:
        """Give the frames of the last :meth:`peek` back to the kernel."""
        count = len(rows)
        fill = self._fill
        at = int(fill.producer[0])
        fill.entries[fill.places(at, count)] = rows.astype(np.uint64) * self.chunk
        fill.producer[0] = (at + count) & 0xFFFFFFFF
        self._rx.consumer[0] = (int(self._rx.consumer[0]) + count) & 0xFFFFFFFF
        if fill.flags[0] & _NEED_WAKEUP:
            with suppress(OSError):
                self._socket.recv(0, socket.MSG_DONTWAIT)

    def count(self, what: int, number: int) -> None:
        """Add to RECEIVED, BAD_CHECKSUM or UNREADABLE."""
        self._counts[what] += np.uint64(number)

    def look(self) -> dict[str, Any]:
        """For viewers: where it is, how full, what we counted, what the kernel lost (XDP_STATISTICS). By any thread or
        process; when it is closed, as it was when it was last looked at."""
        with suppress(OSError, AttributeError):
            kernel = struct.unpack("=6Q", self._socket.getsockopt(_SOL_XDP, _STATISTICS, 48))
            self._looked = {
                "interface": self.interface,
                "queue": self.queue,
                "zero_copy": self.zero_copy,
                "depth": self.depth,
                "size": self.size,
                **dict(zip(_COUNTED, self._counts.tolist(), strict=True)),
                **{name: number for name, number in zip(_STATISTIC_NAMES, kernel, strict=True) if name},
            }
        return self._looked

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_sockets(interface: str, ifindex: int, chunk: int, octets: int) -> list[XskSocket]:
    """One for each receive queue of an interface, or KernelError. ``octets``: of memory, about, for each (of more than
    eight: for eight together)."""
    queues = receive_queues(interface)
    frames = octets * min(queues, _MANY_QUEUES) // queues // chunk
    size = min(_MOST, max(_LEAST, 1 << max(0, frames.bit_length() - 1)))
    with ExitStack() as on_error:
        found = [on_error.enter_context(XskSocket(interface, ifindex, queue, size, chunk)) for queue in range(queues)]
        on_error.pop_all()
    return found
