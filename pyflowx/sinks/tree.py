"""A tree of files, one a window of time; a file gets its name when it is complete.

Windows are those of the time at which datagrams were received (out of a capture file: at which they were captured).
What arrives late, because its Data Set had to wait for a Template, goes into the file that is open. When a window is
over by the clock, its file is completed without waiting for the next datagram.

An error of the disk loses rows, which are counted and reported, and never ends the process: what was written of the
file before is completed if that is possible, and a second later a new one is tried. Completing a file means
to wait for the disk, which a thread does.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from pyflowx.common import CommonBatch
from pyflowx.decoded import Decoded
from pyflowx.errors import SinkError
from pyflowx.sinks import AnyBatch, Encoder, Piece
from pyflowx.sinks.commands import Commands
from pyflowx.sinks.expiry import Expiry, FileList
from pyflowx.sinks.layout import CommandLine, Layout
from pyflowx.sinks.target import HiddenFile, free_name, size_of

_RETRY_S = 1.0
_GRACE_S = 1.0  # after the end of a window by the clock: what was received before it is through by then
_LATE_S = 600  # what is older than the open window by more is not late: another capture file, or the clock was set
_EXPIRE_EVERY_S = 60.0

Report = Callable[[str], None]


def received_ns(batch: CommonBatch | Decoded) -> int:
    """When the last datagram of a batch was received."""
    if isinstance(batch, Decoded):
        return int(batch.messages.received_ns.max())
    return int(batch.columns["time_received_ns"].values.max())


@dataclass(slots=True)
class _Open:
    """A file that is being written.

    ``path``: below the root; ``closes_at``: when its window is over by the clock, None for one out of a capture file;
    ``given``: rows that the encoder has got for it.
    """

    file: HiddenFile
    path: str
    start: int
    closes_at: float | None
    rows: int = 0
    octets: int = 0
    given: int = 0


class _Completer:
    """Completes files in a thread; what has become of them is fetched with :meth:`results`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Open | None] = queue.SimpleQueue()
        self._results: deque[tuple[_Open, Path | OSError]] = deque()
        self._thread: threading.Thread | None = None

    def complete(self, job: _Open) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="completer", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._results.append((job, job.file.complete()))
            except OSError as error:
                self._results.append((job, error))

    def results(self) -> Iterator[tuple[_Open, Path | OSError]]:
        while self._results:
            yield self._results.popleft()

    def close(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()


class Tree(Generic[AnyBatch]):
    """A :class:`~pyflowx.sinks.Sink`. ``report`` takes a line about each thing that goes wrong, and when it goes on.

    ``rows`` and ``octets`` count what is in files, complete or not; rows of one that could not be completed go over
    to ``lost``. ``files`` counts those that are complete, ``commands_failed`` how often a program that is run for one
    failed. SinkError where the root cannot be written to at the start.
    """

    prompt = False

    def __init__(
        self,
        encoder: Encoder[AnyBatch],
        root: str,
        layout: Layout,
        report: Report,
        *,
        command: CommandLine | None = None,
        expire_s: int | None = None,
        expire_command: CommandLine | None = None,
    ) -> None:
        self.rows = 0
        self.octets = 0
        self.lost = 0
        self.files = 0
        self._encoder, self._root, self._layout, self._report = encoder, Path(root), layout, report
        self._command, self._commands = command, Commands(report)
        self._list = FileList(self._root)
        self._expiry: Expiry | None = None
        if expire_s is not None:
            self._expiry = Expiry(self._root, self._list, expire_s, expire_command, self._commands, report)
        self._next_expiry = 0.0
        self._completer = _Completer()
        self._open: _Open | None = None
        self._promised: set[Path] = set()  # names of files that are not complete yet
        self._retry_at: float | None = None  # after an error
        self._lost_before = 0  # when the error came
        self._check_root()
        self._expire()

    @property
    def commands_failed(self) -> int:
        return self._commands.failures

    def _check_root(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            if not os.access(self._root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it may not be written to")
        except OSError as error:
            raise SinkError(
                f"-o/--output {self._root}: {error.strerror}; with --interval, give a folder that may be written to"
            ) from error

    # -- the interface of a sink -----------------------------------------------------------------------------------

    def write(self, batch: AnyBatch) -> None:
        n = self._encoder.count(batch)
        if not n:
            return
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            self.lost += n
            return
        try:
            found = self._file_for(received_ns(batch))  # type: ignore[arg-type]
        except (OSError, SinkError) as error:
            self.lost += n
            self._failed(error)
            return
        found.given += n
        try:
            self._put(found, self._encoder.encode(batch))
        except SinkError as error:
            self._failed(error)
            self._salvage(found)

    def flush(self) -> None:
        """Nothing of a file can be read before it is complete; what the time demands is done here."""
        found = self._open
        if found is not None and not found.file.is_there:
            self._failed(SinkError(f"{found.file.path}: it was removed while it was written"))
            self._open = None
            self._give_up(found)
        elif found is not None and found.closes_at is not None and time.time() >= found.closes_at:
            self._complete(found)
        self._note_results()
        self._commands.poll()
        self._expire()

    def close(self) -> None:
        self.reopen()
        self._completer.close()
        self._note_results()
        self._commands.close()

    def reopen(self) -> None:
        """Complete the file that is open now; what comes goes into another one, of the same window perhaps."""
        if self._open is not None:
            self._complete(self._open)

    # -- files -----------------------------------------------------------------------------------------------------

    def _file_for(self, ns: int) -> _Open:
        """The open file, or the one of another window. OSError, SinkError."""
        start = self._layout.start_of(ns)
        found = self._open
        if found is not None:
            is_late = start < found.start and ns >= (found.start - _LATE_S) * 1_000_000_000
            if start == found.start or is_late:
                return found
            self._complete(found)
        return self._begin(start)

    def _begin(self, start: int) -> _Open:
        path = self._layout.path(start, self._encoder.suffix)
        final = self._root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        final = free_name(final, self._promised)
        path = str(final.relative_to(self._root))
        now = time.time()
        self._list.add(start, int(now), path)
        closes_at: float | None = start + self._layout.interval_s + _GRACE_S
        if closes_at is not None and now >= closes_at:
            closes_at = None  # out of a capture file
        found = _Open(HiddenFile(str(final)), path, start, closes_at)
        try:
            self._put(found, self._encoder.begin())
        except SinkError:
            found.file.abandon()
            raise
        self._promised.add(final)
        self._open = found
        return found

    def _put(self, found: _Open, pieces: Iterator[Piece]) -> None:
        for rows, data in pieces:
            found.file.write(data)
            found.rows += rows
            self.rows += rows
            octets = size_of(data)
            found.octets += octets
            self.octets += octets
            if rows and self._retry_at is not None:
                self._retry_at = None
                self._report(f"{self._root}: writing again; {self.lost - self._lost_before} rows were lost meanwhile")

    def _complete(self, found: _Open) -> None:
        """The window is over."""
        try:
            self._put(found, self._encoder.flush())
        except SinkError as error:
            self._failed(error)
        self._salvage(found)

    def _salvage(self, found: _Open) -> None:
        """Complete a file with what is in it."""
        self._open = None
        self.lost += found.given - found.rows
        try:
            if found.rows:
                self._put(found, self._encoder.end())
        except SinkError as error:
            self._failed(error)
            found.given = found.rows
            self._give_up(found)
            return
        found.given = found.rows
        if found.rows:
            self._completer.complete(found)
        else:
            self._give_up(found)

    def _give_up(self, found: _Open) -> None:
        """Nothing of it can be read: everything that was given for it is lost."""
        found.file.abandon()
        self._uncount(found)

    def _uncount(self, found: _Open) -> None:
        self._promised.discard(self._root / found.path)
        self.lost += found.given
        self.rows -= found.rows
        self.octets -= found.octets

    def _note_results(self) -> None:
        for found, result in self._completer.results():
            if isinstance(result, OSError):
                self._failed(
                    SinkError(f"{found.file.final}: {result.strerror}; what was written is in {found.file.path}")
                )
                self._uncount(found)
                continue
            self.files += 1
            self._promised.discard(self._root / found.path)
            path = str(result.relative_to(self._root))
            if path != found.path:  # somebody else has made a file of that name
                with suppress(OSError):
                    self._list.add(found.start, int(time.time()), path)
            if self._command is not None:
                self._commands.run(self._command.fill(str(self._root), path, found.start))

    def _failed(self, error: OSError | SinkError) -> None:
        if self._retry_at is None:
            self._lost_before = self.lost
            what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            self._report(f"{what}; trying again each second, what comes meanwhile is lost and counted")
        self._retry_at = time.monotonic() + _RETRY_S

    def _expire(self) -> None:
        now = time.time()
        if self._expiry is not None and now >= self._next_expiry:
            self._next_expiry = now + _EXPIRE_EVERY_S
            self._expiry.run(now)
