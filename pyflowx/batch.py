"""The two currencies: :class:`PacketBatch` (datagrams) and :class:`FlowBatch` (columns of Data Records).

No room keeps Python objects per packet or per flow. Everything here is NumPy arrays with one entry
(or one row) a packet, a message or a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyflowx.elements import FieldSpecifier

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

V4_MAPPED = bytes(10) + b"\xff\xff"  # the first 12 octets of an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2)


class Octets:
    """A column of octet strings: row i is ``buffer[starts[i] : starts[i] + lengths[i]]``.

    ``buffer`` is 1-d uint8 and may be shared between columns and hold other data between the rows, so
    that taking rows copies no octets. ``starts`` and ``lengths`` are int64.
    """

    __slots__ = ("buffer", "lengths", "starts")

    def __init__(self, buffer: U8, starts: I64, lengths: I64) -> None:
        self.buffer, self.starts, self.lengths = buffer, starts, lengths

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> Octets:
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.frombuffer(b"".join(rows), np.uint8), np.cumsum(lengths) - lengths, lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, index: Any) -> Octets:
        """The rows of an index array, boolean mask or slice."""
        return Octets(self.buffer, self.starts[index], self.lengths[index])

    def tolist(self) -> list[bytes]:
        data = self.buffer.tobytes()
        return [data[a:b] for a, b in zip(self.starts.tolist(), (self.starts + self.lengths).tolist(), strict=True)]

    def packed(self) -> Octets:
        """The same rows with a buffer that holds nothing else, row after row (Arrow's layout)."""
        total = int(self.lengths.sum())
        ends = np.cumsum(self.lengths)
        index = np.arange(total) + np.repeat(self.starts - (ends - self.lengths), self.lengths)
        return Octets(self.buffer[index], ends - self.lengths, self.lengths)

    @classmethod
    def concat(cls, parts: Iterable[Octets]) -> Octets:
        parts = [part.packed() for part in parts]
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.buffer for part in parts]), np.cumsum(lengths) - lengths, lengths)


# A column: 1-d numbers, (n, 16) uint8 for IPv6 addresses, Octets, or 1-d objects for structured data (RFC 6313).
Column = Array | Octets


def take(column: Column, index: Any) -> Column:
    return column.take(index) if isinstance(column, Octets) else column[index]


def concat(columns: Sequence[Column]) -> Column:
    if isinstance(columns[0], Octets):
        return Octets.concat(column for column in columns if isinstance(column, Octets))
    return np.concatenate([np.asarray(column) for column in columns])


@dataclass(slots=True)
class Datagrams:
    """n datagrams: ``data`` is an ``(n, stride)`` uint8 matrix, ``length`` the octets of each that count.

    What lies behind ``length`` in a row is undefined, and no decoder may let it show.
    """

    data: U8
    length: I32

    def __len__(self) -> int:
        return len(self.length)

    def tolist(self) -> list[bytes]:
        return [row[:n].tobytes() for row, n in zip(self.data, self.length.tolist(), strict=True)]


@dataclass(slots=True)
class PacketBatch(Datagrams):
    """Datagrams as they were received.

    ``exporter``: ``(n, 16)`` uint8, IPv4 as IPv4-mapped; ``port``: the exporter's; ``received_ns``:
    int64 ns since 1970; ``input``: by which of the addresses and files that are read it came, None: by the first. The
    arrays may be reused by the receiver once the next batch is asked for.
    """

    exporter: U8
    port: U16
    received_ns: I64
    input: U16 | None = None

    @classmethod
    def of(
        cls,
        datagrams: Sequence[bytes],
        exporter: bytes | Sequence[bytes] = V4_MAPPED + b"\x7f\0\0\1",
        port: int = 0,
        received_ns: int | Sequence[int] = 0,
    ) -> PacketBatch:
        """From byte strings; a convenience for small inputs and tests."""
        n = len(datagrams)
        data = np.zeros((n, max(map(len, datagrams), default=0)), np.uint8)
        for row, datagram in zip(data, datagrams, strict=True):
            row[: len(datagram)] = np.frombuffer(datagram, np.uint8)
        addresses = [exporter] * n if isinstance(exporter, bytes) else exporter
        return cls(
            data,
            np.fromiter(map(len, datagrams), np.int32, n),
            np.frombuffer(b"".join(addresses), np.uint8).reshape(n, 16),
            np.full(n, port, np.uint16),
            np.broadcast_to(np.asarray(received_ns, np.int64), n).copy(),
        )

    def take(self, index: Any) -> PacketBatch:
        return PacketBatch(
            self.data[index],
            self.length[index],
            self.exporter[index],
            self.port[index],
            self.received_ns[index],
            None if self.input is None else self.input[index],
        )


@dataclass(slots=True)
class FlowBatch:
    """Records with the same fields: one column a field, n rows, no nulls.

    ``fields`` stand in the order of the wire and may name an element twice; ``columns`` go with them.
    The first ``scope_count`` fields are scope fields: > 0 makes these options data (RFC 7011 §3.4.2.2).
    Where records came from: ``message`` is the row in the :class:`~pyflowx.decoded.Messages` beside
    the batch, ``set_offset`` the octet offset of their Set (sFlow: sample) in that message, ``template_id`` the
    Set ID (0 where the protocol has no Templates). Batches we make ourselves leave these at 0.
    """

    fields: tuple[FieldSpecifier, ...]
    columns: list[Column]
    message: I32 = field(default_factory=lambda: np.zeros(0, np.int32))
    set_offset: I32 = field(default_factory=lambda: np.zeros(0, np.int32))
    template_id: U16 = field(default_factory=lambda: np.zeros(0, np.uint16))
    scope_count: int = 0

    def __post_init__(self) -> None:
        n = len(self.columns[0]) if self.columns else len(self.message)
        if len(self.message) != n:
            self.message = np.zeros(n, np.int32)
            self.set_offset = np.zeros(n, np.int32)
            self.template_id = np.zeros(n, np.uint16)

    def __len__(self) -> int:
        return len(self.message)

    def find(self, pen: int, id: int) -> Column | None:
        """The column of the first field with this identity, or None."""
        for specifier, column in zip(self.fields, self.columns, strict=True):
            if specifier.element.id == id and specifier.element.pen == pen:
                return column
        return None

    def column(self, name: str) -> Column:
        """The column of the first field with this element name; KeyError where there is none."""
        for specifier, column in zip(self.fields, self.columns, strict=True):
            if specifier.element.name == name:
                return column
        raise KeyError(name)

    def take(self, index: Any) -> FlowBatch:
        return FlowBatch(
            self.fields,
            [take(column, index) for column in self.columns],
            self.message[index],
            self.set_offset[index],
            self.template_id[index],
            self.scope_count,
        )
