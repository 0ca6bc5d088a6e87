"""The output of one process that another one writes: several encode at once, and their pieces make one file."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Generic

from pyflowx.sinks import AnyBatch, Data, Encoder, Piece

Send = Callable[[int, Data, Any], None]  # rows, octets, what Output.adopt has to know


class Handover(Generic[AnyBatch]):
    """A :class:`~pyflowx.sinks.Sink` that gives each piece to ``send``, for an :class:`~pyflowx.sinks.output.Output`
    with an encoder of the same kind: that one begins and ends the file, and counts what is written."""

    rows = octets = lost = 0

    def __init__(self, encoder: Encoder[AnyBatch], send: Send) -> None:
        self._encoder, self._send = encoder, send
        for _ in chain(encoder.begin(), encoder.flush()):
            pass

    @property
    def prompt(self) -> bool:
        return self._encoder.prompt

    def write(self, batch: AnyBatch) -> None:
        self._hand_over(self._encoder.encode(batch))

    def flush(self) -> None:
        if self._encoder.live:
            self.reopen()

    def reopen(self) -> None:
        """Hand over everything that is held back: the file is about to be completed."""
        self._hand_over(self._encoder.flush())

    def close(self) -> None:
        self.reopen()

    def _hand_over(self, pieces: chain[Piece] | Any) -> None:
        for rows, data in pieces:
            self._send(rows, data, self._encoder.note())
