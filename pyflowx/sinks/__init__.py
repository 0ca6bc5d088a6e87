"""What becomes of the flows: an encoder turns batches into octets, a sink takes them where they belong.

A new file format is one module with an :class:`Encoder`: appended to a file or to standard output by
:class:`~pyflowx.sinks.output.Output`, in a file a window by :class:`~pyflowx.sinks.tree.Tree`. A new place to
write to (a message broker, a database) is one module with a :class:`Sink`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Generic, Protocol, TypeVar

Batch = TypeVar("Batch", contravariant=True)
AnyBatch = TypeVar("AnyBatch")

Octets = bytes | memoryview
Data = Octets | list[Any]  # octets, or several buffers that are to be written one behind the other
Piece = tuple[int, Data]  # rows that are complete with this piece of a file; valid until the next one is asked for


class Sink(Protocol[Batch]):
    """Takes batches: :class:`~pyflowx.common.CommonBatch`, or :class:`~pyflowx.decoded.Decoded` for raw output.

    ``rows``: flows (raw: messages) that were written; ``octets``: how many octets they took. Both count
    what the target has accepted. ``lost``: rows that were given to a sink that could not write them and went on.
    ``prompt``: somebody may wait for each row, so that batches are to be kept short.
    Every method may raise :class:`~pyflowx.errors.SinkError`.
    """

    @property
    def prompt(self) -> bool: ...

    @property
    def rows(self) -> int: ...

    @property
    def octets(self) -> int: ...

    @property
    def lost(self) -> int: ...

    def write(self, batch: Batch, /) -> None: ...

    def flush(self) -> None:
        """Hand everything on that is still held back. Called about once a second."""

    def close(self) -> None:
        """Complete the output. Called once, also after an error."""


class Encoder(Generic[AnyBatch]):
    """A file format. One instance makes one file after the other: begin, encode and flush, end, begin again...

    Every method yields pieces that are to be written in their order. A piece that could not be written is
    not asked on from: what comes after it goes on as if it had never been.
    """

    suffix: ClassVar[str]
    """Of the names of such files."""
    appends: ClassVar[bool] = True
    """Whether two files one behind the other are a file (with one beginning)."""
    live: ClassVar[bool] = True
    """Whether a file can be read before its end is written."""
    prompt: ClassVar[bool] = True
    """Whether rows are written as they come; else some are held back until the next flush."""

    def count(self, batch: AnyBatch) -> int:
        """The rows of a batch."""
        return len(batch)  # type: ignore[arg-type]

    def begin(self) -> Iterator[Piece]:
        """What a file begins with. Rows that are held back are forgotten."""
        yield from ()

    def encode(self, batch: AnyBatch) -> Iterator[Piece]:
        raise NotImplementedError

    def flush(self) -> Iterator[Piece]:
        """The rows that are held back."""
        yield from ()

    def note(self) -> Any:
        """What the encoder that ends a file has to know of the piece with rows that this one gave last."""
        return None

    def adopt(self, rows: int, note: Any) -> None:
        """A piece of another encoder of this kind was written next into the file that this one ends."""

    def end(self) -> Iterator[Piece]:
        """What completes a file; :meth:`flush` comes first, or what is held back is not in it."""
        yield from ()
