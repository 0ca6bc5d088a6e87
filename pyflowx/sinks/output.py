"""One output from the start of the process to its end: standard output or a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Generic

from pyflowx.errors import ConfigError, SinkError
from pyflowx.sinks import AnyBatch, Data, Encoder, Piece
from pyflowx.sinks.target import HiddenFile, ReaderGoneError, Target, size_of

_RETRY_S = 1.0


class Output(Generic[AnyBatch]):
    """A :class:`~pyflowx.sinks.Sink`. A :class:`~pyflowx.sinks.target.HiddenFile` gets its name when it is complete.

    An error of the target is for the caller; ``lost`` tells at the end what was given and not written. But with
    ``report``, which takes a line about what goes wrong, a file that can be appended to is tried again after a second;
    what comes meanwhile is ``lost``. So is one that somebody removes begun anew.
    """

    def __init__(self, encoder: Encoder[AnyBatch], target: Target, report: Callable[[str], None] | None = None) -> None:
        self.rows = 0
        self.octets = 0
        self.lost = 0
        self._given = 0
        self._encoder, self._target = encoder, target
        self._report = report if encoder.appends and target.is_file else None
        if self._report is not None:
            target.advice = "trying again each second, what comes meanwhile is lost and counted"
        self._retry_at: float | None = None  # after an error
        self._lost_before = 0  # when the error came
        self._begin()

    @property
    def prompt(self) -> bool:
        return self._encoder.prompt

    def _begin(self) -> None:
        if self._target.is_empty:
            self._put(self._encoder.begin())
            self._put(self._encoder.flush())
        else:
            self._target.check_beginning(b"".join(bytes(octets) for _, octets in self._encoder.begin()))

    def write(self, batch: AnyBatch) -> None:
        count = self._encoder.count(batch)
        self._given += count
        if self._report is None:
            self._put(self._encoder.encode(batch))
        else:
            self._put_patiently(count, self._encoder.encode(batch), self._report)

    def adopt(self, rows: int, data: Data, note: Any) -> None:
        """A piece of another encoder of this kind (:class:`~pyflowx.sinks.handover.Handover`)."""
        self._given += rows
        pieces: Iterator[Piece] = iter([(rows, data)])
        if self._report is None:
            self._put(pieces)
        else:
            self._put_patiently(rows, pieces, self._report)
        self._encoder.adopt(rows, note)

    def miss(self, rows: int) -> None:
        """So many rows come too late to be written."""
        self._given += rows

    def flush(self) -> None:
        if self._encoder.live:
            self._put(self._encoder.flush())

    def reopen(self) -> None:
        """Complete the file and go on in a new one, or in the same if nobody has moved it. SinkError where that
        is not possible; a file that lines are appended to is then written on."""
        if not self._target.is_file:
            return
        if isinstance(self._target, HiddenFile):
            self.close()
            self._target = self._target.again()
        else:
            new = self._target.again()
            try:
                self.close()
            finally:
                self._target = new
        self._begin()

    def close(self) -> None:
        """Also after an error: whatever can be written still is, so that what is there can be read."""
        problem: SinkError | None = None
        is_whole = True
        if self._retry_at is not None:
            problem = SinkError(f"{self._target.path}: the last {self.lost - self._lost_before} rows were lost")
        for pieces in (self._encoder.flush(), self._encoder.end()):
            try:
                self._put(pieces)
                is_whole = True
            except ReaderGoneError:
                break
            except SinkError as error:
                problem, is_whole = problem or error, False
        self.lost = self._given - self.rows
        self._target.close(is_whole)
        if problem is not None:
            raise problem

    def _put_patiently(self, count: int, pieces: Iterator[Piece], report: Callable[[str], None]) -> None:
        """So many rows; those that cannot be written are lost."""
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            self.lost += count
            return
        before = self.rows
        try:
            if not self._target.is_there:
                if self._retry_at is None:
                    report(f"{self._target.path}: it was removed while it was written; it is begun anew")
                new = self._target.again()
                self._target.close()
                self._target = new
                self._begin()
            self._put(pieces)
        except (SinkError, ConfigError) as error:
            if self._retry_at is None:
                self._lost_before = self.lost
                report(str(error))
            self.lost += count - (self.rows - before)
            self._retry_at = time.monotonic() + _RETRY_S
            return
        if self._retry_at is not None:
            self._retry_at = None
            report(f"{self._target.path}: writing again; {self.lost - self._lost_before} rows were lost meanwhile")

    def _put(self, pieces: Iterator[Piece]) -> None:
        for rows, data in pieces:
            self._target.write(data)
            self.rows += rows
            self.octets += size_of(data)
