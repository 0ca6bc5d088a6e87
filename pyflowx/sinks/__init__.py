"""What becomes of the flows: a sink turns batches into octets, a target takes the octets.

A new format is one module with a :class:`Sink`; a new place to write to is one with a
:class:`~pyflowx.sinks.target.Target`.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

Batch = TypeVar("Batch", contravariant=True)


class Sink(Protocol[Batch]):
    """Takes batches: :class:`~pyflowx.common.CommonBatch`, or :class:`~pyflowx.decoded.Decoded` for raw output.

    ``rows``: flows (raw: messages) that were written; ``octets``: how many octets they took. Both count
    what the target has accepted. Every method may raise :class:`~pyflowx.errors.SinkError`.
    """

    rows: int
    octets: int

    def write(self, batch: Batch, /) -> None: ...

    def flush(self) -> None:
        """Hand everything on that is still held back."""

    def close(self) -> None:
        """Complete the output. Called once, also after an error."""
