"""Encoding that NetFlow v9 and IPFIX share: FlowBatches to messages, a column at a time.

Records of fixed length are written straight into the matrix of messages; where a field has variable length,
each record's place is computed first and every column is then scattered to its places.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from pyflowx.batch import I64, U8, Array, Column, Datagrams, FlowBatch, Octets
from pyflowx.decoded import TemplateRecord
from pyflowx.elements import FieldSpecifier
from pyflowx.errors import EncodeError
from pyflowx.wire.records import Layout, gather
from pyflowx.wire.sets import MAX_RECORD, MIN_TEMPLATE_ID, SET_HEADER, Dialect

MAX_MESSAGE = 65535
Templates = Literal["none", "new", "all"]
"""Which Templates go with data: none, those that have not been sent yet, or all that are registered."""


class _Piece(NamedTuple):
    """A Set that may share a message: its octets, its records, how many of these are Data Records."""

    octets: bytes
    records: int = 1
    data_records: int = 0


class TemplateEncoder(ABC):
    """One Exporting Process's stream of messages for one Observation Domain: Templates, sequence numbers.

    ``max_octets`` bounds a message (UDP payload).
    """

    dialect: Dialect
    alignment = 1  # Sets are padded with zeros to a multiple of this

    def __init__(self, observation_domain_id: int = 1, max_octets: int = 1400) -> None:
        least = self.dialect.header_octets + SET_HEADER + 8
        if not least <= max_octets <= MAX_MESSAGE:
            raise EncodeError(f"a message of at most {max_octets} octets: use {least} to {MAX_MESSAGE}")
        if not 0 <= observation_domain_id < 1 << 32:
            raise EncodeError(f"Observation Domain {observation_domain_id}: use 0 to {2**32 - 1}")
        self.observation_domain_id, self.max_octets = observation_domain_id, max_octets
        self.sequence_number = 0
        self._layouts: dict[int, Layout] = {}
        self._ids: dict[tuple[tuple[FieldSpecifier, ...], int], int] = {}
        self._next_id = MIN_TEMPLATE_ID
        self._unsent: set[int] = set()  # Templates that have been in no message
        self.with_templates = 0
        """Messages made that hold Templates."""

    @abstractmethod
    def _template_record(self, record: TemplateRecord) -> bytes:
        """A Template Record as octets; EncodeError where the protocol cannot carry it."""

    @abstractmethod
    def _header(self, octets: I64, records: I64, data_records: I64, export_ns: int) -> U8:
        """``(n, header)`` octets for messages of these lengths and counts of records; advances the sequence number."""

    def register(self, fields: tuple[FieldSpecifier, ...], scope_count: int = 0) -> int:
        """The ID of the (Options) Template with these fields, a new one if need be."""
        known = self._ids.get((fields, scope_count))
        if known is not None:
            return known
        layout = Layout(fields, scope_count)
        if not 0 < layout.record_length <= MAX_RECORD or not 0 <= scope_count <= len(fields):
            raise EncodeError(f"a Template of {len(fields)} fields, {scope_count} of them scopes, cannot be sent")
        if self._next_id > 0xFFFF:
            raise EncodeError("all Template IDs are used; withdraw some")
        record = self._template_record(TemplateRecord(self._next_id, fields, scope_count))
        if self.dialect.header_octets + SET_HEADER + len(record) > self.max_octets:
            raise EncodeError(f"a Template of {len(fields)} fields does not fit in {self.max_octets} octets")
        self._ids[fields, scope_count] = self._next_id
        self._layouts[self._next_id] = layout
        self._unsent.add(self._next_id)
        self._next_id += 1
        return self._next_id - 1

    def max_records(self, fields: tuple[FieldSpecifier, ...]) -> int:
        """How many records of these fields a message holds (with empty values where length is variable)."""
        room = self.max_octets - self.dialect.header_octets - SET_HEADER
        return (room - room % self.alignment) // Layout(fields).record_length

    def template_messages(self, export_ns: int) -> Datagrams:
        """All registered Templates and Options Templates."""
        self._unsent.clear()
        return self._messages([self._template_set(id) for id in self._layouts], export_ns)

    def _template_set(self, template_id: int) -> bytes:
        layout = self._layouts[template_id]
        set_id = self.dialect.options_set if layout.scope_count else self.dialect.template_set
        return self._set(set_id, self._template_record(TemplateRecord(template_id, layout.fields, layout.scope_count)))

    def _set(self, set_id: int, content: bytes) -> bytes:
        content += bytes(-len(content) % self.alignment)
        return struct.pack(">HH", set_id, SET_HEADER + len(content)) + content

    def _messages(self, sets: Sequence[_Piece | bytes], export_ns: int) -> Datagrams:
        """Sets in as few messages as their order allows; octets alone are a Set of one record that is no data."""
        if not sets:
            return no_datagrams()
        room = self.max_octets - self.dialect.header_octets
        bodies: list[list[_Piece]] = []
        used = room
        for each in sets:
            piece = _Piece(each) if isinstance(each, bytes) else each
            if used + len(piece.octets) > room:
                bodies.append([])
                used = 0
            bodies[-1].append(piece)
            used += len(piece.octets)
        self.with_templates += sum(any(not piece.data_records for piece in body) for body in bodies)
        contents = [b"".join(piece.octets for piece in body) for body in bodies]
        lengths = self.dialect.header_octets + np.fromiter(map(len, contents), np.int64, len(contents))
        data = np.zeros((len(bodies), int(lengths.max())), np.uint8)
        for row, content in zip(data, contents, strict=True):
            octets = np.frombuffer(content, np.uint8)
            row[self.dialect.header_octets : self.dialect.header_octets + len(octets)] = octets
        records = np.array([sum(piece.records for piece in body) for body in bodies], np.int64)
        data_records = np.array([sum(piece.data_records for piece in body) for body in bodies], np.int64)
        data[:, : self.dialect.header_octets] = self._header(lengths, records, data_records, export_ns)
        return Datagrams(data, lengths.astype(np.int32))

    def encode(self, flows: FlowBatch, export_ns: int, records_per_message: int | None = None) -> Datagrams:
        """Data messages for all rows, in order; registers the fields if they are new.

        Without ``records_per_message`` as many records a message as fit. EncodeError for values that the fields
        cannot carry and for records, or a number of them, that do not fit in a message.
        """
        self.register(flows.fields, flows.scope_count)
        if not len(flows):
            return no_datagrams()
        return self._headed(*self._data_sets(flows, records_per_message), export_ns)

    def encode_all(self, batches: Sequence[FlowBatch], export_ns: int, templates: Templates = "none") -> Datagrams:
        """Data messages for the rows of several batches, with the Templates that ``templates`` names before them.

        What does not fill a message shares one with what the other batches leave over; such messages, which
        also have the Templates, come first. Rows of a batch may change their order. Errors as in :meth:`encode`.
        """
        for flows in batches:
            self.register(flows.fields, flows.scope_count)
        head = self.dialect.header_octets
        told = [id for id in self._layouts if templates == "all" or (templates == "new" and id in self._unsent)]
        self._unsent.difference_update(told)
        shared = [_Piece(self._template_set(id)) for id in told]
        whole = []
        for flows in batches:
            if len(flows):
                data, lengths, counts = self._data_sets(flows, None)
                last = int(counts[-1])
                shared.append(_Piece(data[-1, head : lengths[-1]].tobytes(), last, last))
                if len(lengths) > 1:
                    whole.append((data[:-1], lengths[:-1], counts[:-1]))
        return join_datagrams([self._messages(shared, export_ns), *(self._headed(*rows, export_ns) for rows in whole)])

    def _headed(self, data: U8, lengths: I64, counts: I64, export_ns: int) -> Datagrams:
        """Messages of one Data Set each, with their headers."""
        data[:, : self.dialect.header_octets] = self._header(lengths, counts, counts, export_ns)
        return Datagrams(data, lengths.astype(np.int32))

    def _data_sets(self, flows: FlowBatch, wanted: int | None) -> tuple[U8, I64, I64]:
        """Messages of one Data Set each without their headers: (matrix, length of each, records of each)."""
        template_id = self.register(flows.fields, flows.scope_count)
        layout = self._layouts[template_id]
        columns = [_checked(f, column) for f, column in zip(flows.fields, flows.columns, strict=True)]
        make = self._fixed if layout.is_fixed else self._scattered
        data, ends, counts = make(layout, columns, len(flows), wanted)
        head = self.dialect.header_octets
        padding = -ends % self.alignment  # the header is aligned itself
        lengths = ends + np.where(padding < layout.record_length, padding, 0)  # else it would read as records
        data[:, head : head + SET_HEADER].view(">u2")[:] = np.stack(
            [np.full_like(ends, template_id), lengths - head], 1
        )
        return data, lengths, counts

    def _check_count(self, wanted: int | None, fitting: int) -> int:
        if fitting < 1:
            raise EncodeError(f"a record does not fit in a message of {self.max_octets} octets")
        if wanted is None:
            return fitting
        if not 1 <= wanted <= fitting:
            raise EncodeError(f"{wanted} records a message: use 1 to {fitting} for {self.max_octets} octets")
        return wanted

    def _fixed(self, layout: Layout, columns: list[Column], n: int, wanted: int | None) -> tuple[U8, I64, I64]:
        """(matrix, end of the records in each row, count of records in each row)."""
        per = self._check_count(wanted, self.max_records(layout.fields))
        width, begin = layout.record_length, self.dialect.header_octets + SET_HEADER
        messages = -(-n // per)
        room = begin + per * width
        data = np.zeros((messages, room + -room % self.alignment), np.uint8)
        whole = n // per
        for index, offset, field in layout.runs[0].parts:
            if not field.length:
                continue
            cells = _cells(field, columns[index])
            places = np.ndarray(
                (messages, per), cells.dtype, data, offset=begin + offset, strides=(data.shape[1], width)
            )
            places[:whole] = cells[: whole * per].reshape(whole, per)
            if whole < messages:
                places[whole, : n - whole * per] = cells[whole * per :]
        counts = np.full(messages, per)
        counts[-1] = n - per * (messages - 1)
        return data, begin + counts * width, counts

    def _scattered(self, layout: Layout, columns: list[Column], n: int, wanted: int | None) -> tuple[U8, I64, I64]:
        """The same where some fields have variable length."""
        begin = self.dialect.header_octets + SET_HEADER
        lengths = np.full(n, sum(run.length for run in layout.runs))
        for index in layout.variable:
            lengths += _variable(columns[index]).lengths + 1 + 2 * (_variable(columns[index]).lengths > 254)
        ends = np.cumsum(lengths)
        first = self._split(ends, wanted)
        counts = np.diff(first, append=n)
        message = np.repeat(np.arange(len(first)), counts)
        starts = ends - lengths
        in_message = starts - starts[first][message] + begin
        message_ends = (in_message + lengths)[first + counts - 1]
        size = int(message_ends.max())
        data = np.zeros((len(first), size + -size % self.alignment), np.uint8)
        flat, at = data.reshape(-1), message * data.shape[1] + in_message
        for field, column in zip(layout.fields, columns, strict=True):
            if field.is_variable:
                at = _put_variable(flat, at, _variable(column))
            elif field.length:
                cells = _cells(field, column)
                np.ndarray((len(flat) - field.length + 1,), cells.dtype, flat, strides=(1,))[at] = cells
                at = at + field.length
        return data, message_ends, counts

    def _split(self, ends: I64, wanted: int | None) -> I64:
        """The first record of each message."""
        room = self.max_octets - self.dialect.header_octets - SET_HEADER
        room -= room % self.alignment
        bounds, first, n = ends.tolist(), [0], len(ends)
        before = 0
        while True:
            at = first[-1]
            fitting = bisect_right(bounds, before + room, at) - at
            asked = min(wanted, n - at) if wanted is not None else None
            at += self._check_count(asked, fitting)
            if at >= n:
                return np.array(first, np.int64)
            before = bounds[at - 1]
            first.append(at)


def no_datagrams() -> Datagrams:
    return Datagrams(np.zeros((0, 0), np.uint8), np.zeros(0, np.int32))


def join_datagrams(parts: Sequence[Datagrams]) -> Datagrams:
    """One after another."""
    some = [part for part in parts if len(part)]
    if len(some) < 2:
        return some[0] if some else no_datagrams()
    data = np.zeros((sum(map(len, some)), max(part.data.shape[1] for part in some)), np.uint8)
    row = 0
    for part in some:
        data[row : row + len(part), : part.data.shape[1]] = part.data
        row += len(part)
    return Datagrams(data, np.concatenate([part.length for part in some]))


def _checked(field: FieldSpecifier, column: Column) -> Column:
    if isinstance(column, Octets):
        most = MAX_RECORD if field.is_variable else field.length
        least = 0 if field.is_variable else field.length
        if len(column) and not (least <= int(column.lengths.min()) and int(column.lengths.max()) <= most):
            raise EncodeError(
                f"{field.element.name}: a value is not of {field.length} octets; use a variable-length field"
            )
    elif field.is_variable:
        raise EncodeError(f"{field.element.name}: only octets can have a variable length, numbers and lists cannot")
    return column


def _variable(column: Column) -> Octets:
    assert isinstance(column, Octets)
    return column


def _cells(field: FieldSpecifier, column: Column) -> Array:
    """A column as n void items of the field's length, as they go on the wire."""
    if isinstance(column, Octets):
        cells = gather(column.buffer, column.starts, field.length)
    else:
        try:
            cells = np.ascontiguousarray(field.element.data_type.to_wire(column, field.length))
        except EncodeError as error:
            raise EncodeError(f"{field.element.name}: {error}") from None
    return cells.view(f"V{field.length}")[:, 0]


def _put_variable(flat: U8, at: I64, column: Octets) -> I64:
    """Length (RFC 7011 §7, the short form where it can be) and octets at each place; returns where they end."""
    lengths = column.lengths
    long = lengths > 254
    flat[at] = np.where(long, 255, lengths)
    flat[at[long] + 1] = lengths[long] >> 8
    flat[at[long] + 2] = lengths[long] & 0xFF
    begin = at + 1 + 2 * long
    packed = column.packed()
    flat[np.arange(len(packed.buffer)) + np.repeat(begin - packed.starts, lengths)] = packed.buffer
    return begin + lengths
