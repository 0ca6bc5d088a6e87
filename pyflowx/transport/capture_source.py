"""Where the octets of a capture come from: a file or a pipe, gzip or not, through one bounded window."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import time
from typing import Protocol

import numpy as np

from pyflowx.batch import U8
from pyflowx.errors import ConfigError

CAPACITY = 2 << 20  # octets read at once (measured: more leaves the cache); no record may be longer than a quarter
SLACK = 1 << 17  # behind the capacity: columns are gathered with one width, so they may read past the last packet
GZIP_MAGIC = b"\x1f\x8b"
_GZIP_INPUT = 1 << 18
_GZIP_WBITS = 31  # a gzip header, any window


class Source(Protocol):
    """What the window reads from."""

    error: str | None  # why reading ended before the end, in words

    @property
    def done(self) -> int:
        """Octets taken from the file, as stored there."""

    @property
    def total(self) -> int | None:
        """Octets of the file, None where that is not known (a pipe)."""

    def wait(self, seconds: float | None) -> bool:
        """Whether :meth:`readinto` would return at once, now or within ``seconds`` (None: whenever that is)."""

    def readinto(self, target: memoryview) -> int | None:
        """Fill the front of ``target``; 0 at the end or at an error, None where nothing is there yet."""

    def close(self) -> None: ...


class FileSource:
    """A path, a named pipe, or ``-`` for stdin; :class:`ConfigError` where it cannot be opened.

    ``wake_fd``: a file descriptor that ends a wait when it becomes readable.
    """

    def __init__(self, path: str, wake_fd: int | None = None) -> None:
        self.error: str | None = None
        self.done = 0
        if path == "-" and sys.stdin is not None and sys.stdin.isatty():
            raise ConfigError("--pcap -: stdin is a terminal; pipe a capture into it (tcpdump -w - ... | pyflowx ...)")
        try:
            self._file = open(0 if path == "-" else path, "rb", buffering=0, closefd=path != "-")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(
                f"--pcap {path}: {error.strerror}; name a readable capture file, or - for stdin"
            ) from None
        status = os.fstat(self._file.fileno())
        self.total = status.st_size if stat.S_ISREG(status.st_mode) else None
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        if wake_fd is not None:
            self._poll.register(wake_fd, select.POLLIN)

    def wait(self, seconds: float | None) -> bool:
        if self.total is not None:
            return True
        ready = self._poll.poll(None if seconds is None else seconds * 1000)
        return any(descriptor == self._file.fileno() for descriptor, _ in ready)

    def readinto(self, target: memoryview) -> int | None:
        try:
            count = self._file.readinto(target)
        except OSError as error:
            self.error = f"reading failed: {error.strerror}"
            return 0
        self.done += count or 0
        return count

    def close(self) -> None:
        self._file.close()


class GzipSource:
    """The octets inside a gzip file of one or more members (RFC 1952); ``start`` is what was read of it already."""

    def __init__(self, source: Source, start: bytes) -> None:
        import zlib  # only where a file is compressed

        self.error: str | None = None
        self._source, self._input = source, start
        self._zlib = zlib
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._space = bytearray(_GZIP_INPUT)
        self._ended = False

    @property
    def done(self) -> int:
        return self._source.done

    @property
    def total(self) -> int | None:
        return self._source.total

    def wait(self, seconds: float | None) -> bool:
        return bool(self._input) or self._source.wait(seconds)

    def readinto(self, target: memoryview) -> int | None:
        while self.error is None:
            if not self._input and not self._read():
                return 0 if self._ended else None
            if self._member.eof:  # anything but another member behind it is padding
                if not self._input.startswith(GZIP_MAGIC[: len(self._input)]):
                    return 0
                self._member = self._zlib.decompressobj(_GZIP_WBITS)
            octets = self._unpack(len(target))
            if octets:
                target[: len(octets)] = octets
                return len(octets)
        return 0

    def _unpack(self, most: int) -> bytes:
        """Decompress of the input what gives up to ``most`` octets; all before the damage where it is damaged."""
        before = self._member.copy()
        try:
            octets = self._member.decompress(self._input, most)
        except self._zlib.error as error:  # zlib keeps what this call gave to itself
            self.error = f"the gzip data is damaged: {error}"
            parts: list[bytes] = []
            with contextlib.suppress(self._zlib.error):
                parts.extend(before.decompress(self._input[at : at + 1]) for at in range(len(self._input)))
            return b"".join(parts)
        self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return octets

    def _read(self) -> bool:
        """Read compressed octets, without waiting for them."""
        if not self._source.wait(0):
            return False
        count = self._source.readinto(memoryview(self._space))
        self._input = bytes(self._space[: count or 0])
        if count == 0:
            self._ended = True
            self.error = self._source.error or (None if self._member.eof else "the gzip data ends in the middle")
        return bool(count)

    def close(self) -> None:
        self._source.close()


class Window:
    """The part of a capture that is in memory: ``data[position:end]``, refilled from the source.

    ``data`` has :data:`SLACK` octets more than are ever filled.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.data: U8 = np.zeros(CAPACITY + SLACK, np.uint8)
        self.view = self.data.data
        self.position = self.end = 0
        self.offset = 0  # of data[0] in the capture
        self.at_end = False
        self._skip = 0

    def __len__(self) -> int:
        return self.end - self.position

    def peek(self, count: int) -> bytes:
        return bytes(self.view[self.position : min(self.position + count, self.end)])

    def skip(self, count: int) -> None:
        """Go past ``count`` octets, also those that are not read yet."""
        here = min(count, len(self))
        self.position += here
        self._skip += count - here

    def replace(self, source: Source) -> None:
        """Begin again with another source."""
        self.source = source
        self.position = self.end = self.offset = 0
        self.at_end = False

    def fill(self, timeout: float | None, linger: float) -> bool:
        """Wait up to ``timeout`` s (None: for ever) for the first octets, up to ``linger`` s more for a full window.

        False if nothing came; :attr:`at_end` says whether anything still may.
        """
        kept = len(self)
        self.view[:kept] = self.view[self.position : self.end]
        self.offset += self.position
        self.position, self.end = 0, kept
        if self.at_end or not self.source.wait(timeout):
            return False
        deadline = time.monotonic() + linger
        while self.end < CAPACITY:
            count = self.source.readinto(self.view[self.end : CAPACITY])
            if not count:
                self.at_end = count == 0
                break
            self._arrived(count)
            if not self.source.wait(max(0.0, deadline - time.monotonic())):
                break
        return self.end > kept

    def _arrived(self, count: int) -> None:
        skipped = min(count, self._skip)  # where something is skipped the window was empty
        if skipped:
            self._skip -= skipped
            self.offset += skipped
            self.view[self.end : self.end + count - skipped] = self.view[self.end + skipped : self.end + count]
        self.end += count - skipped

    @property
    def is_skipping(self) -> bool:
        return self._skip > 0
