"""Counts and writes nothing: the cost of everything before the output."""

from __future__ import annotations

from pyflowx.common import CommonBatch
from pyflowx.decoded import Decoded


class Discard:
    """A :class:`~pyflowx.sinks.Sink` of both formats; ``rows`` counts flows, or messages if it is given Decoded."""

    prompt = False

    def __init__(self) -> None:
        self.rows = 0
        self.octets = 0
        self.lost = 0

    def write(self, batch: CommonBatch | Decoded) -> None:
        self.rows += len(batch.messages if isinstance(batch, Decoded) else batch)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to complete."""
