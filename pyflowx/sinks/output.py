"""One output from the start of the process to its end: standard output or a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic

from pyflowx.errors import SinkError
from pyflowx.sinks import AnyBatch, Data, Encoder, Piece
from pyflowx.sinks.target import HiddenFile, ReaderGoneError, Target, size_of


class Output(Generic[AnyBatch]):
    """A :class:`~pyflowx.sinks.Sink`. An error of the target is for the caller: there is no other place to go on in.

    A :class:`~pyflowx.sinks.target.HiddenFile` gets its name when it is complete.
    """

    def __init__(self, encoder: Encoder[AnyBatch], target: Target) -> None:
        self.rows = 0
        self.octets = 0
        self.lost = 0
        self._encoder, self._target = encoder, target
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
        self._put(self._encoder.encode(batch))

    def adopt(self, rows: int, data: Data, note: Any) -> None:
        """A piece of another encoder of this kind (:class:`~pyflowx.sinks.handover.Handover`)."""
        self._put(iter([(rows, data)]))
        self._encoder.adopt(rows, note)

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
        for pieces in (self._encoder.flush(), self._encoder.end()):
            try:
                self._put(pieces)
                is_whole = True
            except ReaderGoneError:
                break
            except SinkError as error:
                problem, is_whole = problem or error, False
        self._target.close(is_whole)
        if problem is not None:
            raise problem

    def _put(self, pieces: Iterator[Piece]) -> None:
        for rows, data in pieces:
            self._target.write(data)
            self.rows += rows
            self.octets += size_of(data)
