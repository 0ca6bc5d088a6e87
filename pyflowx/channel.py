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
_LARGEST = 1 << 32
_MOST_BUFFERS = 1024  # of one writev (IOV_MAX)


class Message(NamedTuple):
    """``kind``: a number that both sides know; ``value``: an object; ``data``: octets."""

    kind: int
    value: Any
    data: bytes


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
        self._buffer = bytearray()
        os.set_blocking(fd, False)

    def receive(self) -> Iterator[Message]:
        """The messages that are complete with what the pipe holds now (a mebibyte of it at most)."""
        try:
            octets = os.read(self.fd, _READ)
        except BlockingIOError:
            return
        self.ended = not octets
        self._buffer += octets
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            kind, of_object, of_data = _HEAD.unpack_from(self._buffer, at)
            begin, middle = at + _HEAD.size, at + _HEAD.size + of_object
            if of_data > _LARGEST:
                raise ValueError(f"a message of {of_data} octets")
            if len(self._buffer) < middle + of_data:
                break
            at = middle + of_data
            with memoryview(self._buffer) as view:
                # From a process that we forked: it is ourselves.
                value = pickle.loads(view[begin:middle])  # noqa: S301
                data = bytes(view[middle:at])
            yield Message(kind, value, data)
        del self._buffer[:at]

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
