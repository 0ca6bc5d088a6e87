"""Counts flows and writes nothing: the cost of everything before the output."""

from __future__ import annotations

from collections.abc import Sized


class Discard:
    """A :class:`~pyflowx.sinks.Sink` of anything that has a length."""

    def __init__(self) -> None:
        self.rows = 0
        self.octets = 0

    def write(self, batch: Sized) -> None:
        self.rows += len(batch)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to complete."""
