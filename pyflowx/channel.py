"""Messages from a process to the one that forked it: each whole, or, where it was killed half-way, not at all."""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

_HEAD = struct.Struct("<BIQ")  # kind, octets of the object, octets of data
_CAPACITY = 1 << 20  # octets of the pipe; more needs privilege
_READ = 1 << 20
_MOST_BUFFERS = 1024  # of one writev (IOV_MAX)


class Message(NamedTuple):
    """``kind``: a number that both sides know; ``value``: an object; ``data``: octets, valid until the next message is
    asked for."""

    kind: int
    value: Any
    data: memoryview


class Sending:
    """The end that messages are sent by; any thread may. Waits while the pipe is full; BrokenPipeError where the other
    process has gone."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, kind: int, value: Any = None, data: Any = b"") -> None:
        """``data``: octets, or several buffers that are sent one behind the other."""
        parts = data if isinstance(data, list) else [data]
        views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        octets = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        head = _HEAD.pack(kind, len(octets), sum(map(len, views)))
        views[:0] = [memoryview(head + octets)]
        with self._lock:
            for first in range(0, len(views), _MOST_BUFFERS):
                self._write(views[first : first + _MOST_BUFFERS])

    def _write(self, views: list[memoryview]) -> None:
        written = os.writev(self._fd, views)
        for view in views:
            while written < len(view):
                view, written = view[written:], 0
                written = os.write(self._fd, view)
            written -= len(view)


class Receiving:
    """The other end. It never waits for the rest of a message, so that a process that stands still stops nobody."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        """Whether nothing more can come."""
        self._room = memoryview(bytearray(_READ))  # as long as the longest message
        self._head: tuple[int, int, int] | None = None  # of the message whose rest is on its way
        self._wanted, self._got = _HEAD.size, 0
        os.set_blocking(fd, False)

    def receive(self) -> Iterator[Message]:
        """The messages that the pipe completes now; after a mebibyte it is another one's turn."""
        read = 0
        while read < _READ:
            if self._got < self._wanted:
                try:
                    more = os.readv(self.fd, [self._room[self._got : self._wanted]])
                except BlockingIOError:
                    return
                self.ended = not more
                if self.ended:
                    return
                self._got += more
                read += more
            elif self._head is None:
                self._begin()
            else:
                yield self._complete(*self._head)

    def _begin(self) -> None:
        kind, of_object, of_data = self._head = _HEAD.unpack(self._room[: _HEAD.size])
        self._wanted, self._got = of_object + of_data, 0
        if self._wanted > len(self._room):
            self._room = memoryview(bytearray(self._wanted))

    def _complete(self, kind: int, of_object: int, of_data: int) -> Message:
        self._head, self._wanted, self._got = None, _HEAD.size, 0
        # From a process that we forked: it is ourselves.
        value = pickle.loads(self._room[:of_object])  # noqa: S301
        return Message(kind, value, self._room[of_object : of_object + of_data])

    def close(self) -> None:
        os.close(self.fd)


def encode(value: object) -> bytes:
    """For a socket that keeps messages apart, to a process that we forked; see :func:`decode`."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def decode(octets: bytes) -> Any:
    """From the process that forked us."""
    return pickle.loads(octets)  # noqa: S301 # it is ourselves


def open_channel() -> tuple[int, int]:
    """The descriptors of a pipe: to receive by, to send by."""
    receiving, sending = os.pipe()
    with suppress(OSError):  # as much as others of this user leave us
        fcntl.fcntl(sending, fcntl.F_SETPIPE_SZ, _CAPACITY)
    return receiving, sending
