"""Encoding that NetFlow v9 and IPFIX share: FlowBatches to messages, a column at a time.

Records of fixed length are written straight into the matrix of messages; where a field has variable length,
each record's place is computed first and every column is then scattered to its places.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from bisect import bisect_right

import numpy as np

from pyflowx.batch import I64, U8, Array, Column, Datagrams, FlowBatch, Octets
from pyflowx.decoded import TemplateRecord
from pyflowx.elements import FieldSpecifier
from pyflowx.errors import EncodeError
from pyflowx.wire.records import Layout, gather
from pyflowx.wire.sets import MAX_RECORD, MIN_TEMPLATE_ID, SET_HEADER, Dialect

MAX_MESSAGE = 65535


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
        self._next_id += 1
        return self._next_id - 1

    def max_records(self, fields: tuple[FieldSpecifier, ...]) -> int:
        """How many records of these fields a message holds (with empty values where length is variable)."""
        room = self.max_octets - self.dialect.header_octets - SET_HEADER
        return (room - room % self.alignment) // Layout(fields).record_length

    def template_messages(self, export_ns: int) -> Datagrams:
        """All registered Templates and Options Templates."""
        return self._messages([self._template_set(id) for id in self._layouts], export_ns)

    def _template_set(self, template_id: int) -> bytes:
        layout = self._layouts[template_id]
        set_id = self.dialect.options_set if layout.scope_count else self.dialect.template_set
        return self._set(set_id, self._template_record(TemplateRecord(template_id, layout.fields, layout.scope_count)))

    def _set(self, set_id: int, content: bytes) -> bytes:
        content += bytes(-len(content) % self.alignment)
        return struct.pack(">HH", set_id, SET_HEADER + len(content)) + content

    def _messages(self, sets: list[bytes], export_ns: int) -> Datagrams:
        """Sets of one record each in as few messages as their order allows."""
        if not sets:
            return _no_datagrams()
        room = self.max_octets - self.dialect.header_octets
        bodies: list[list[bytes]] = []
        used = room
        for each in sets:
            if used + len(each) > room:
                bodies.append([])
                used = 0
            bodies[-1].append(each)
            used += len(each)
        lengths = np.array([self.dialect.header_octets + sum(map(len, body)) for body in bodies], np.int64)
        data = np.zeros((len(bodies), int(lengths.max())), np.uint8)
        for row, body in zip(data, bodies, strict=True):
            octets = np.frombuffer(b"".join(body), np.uint8)
            row[self.dialect.header_octets : self.dialect.header_octets + len(octets)] = octets
        counts = np.array([len(body) for body in bodies], np.int64)
        data[:, : self.dialect.header_octets] = self._header(lengths, counts, np.zeros_like(counts), export_ns)
        return Datagrams(data, lengths.astype(np.int32))

    def encode(self, flows: FlowBatch, export_ns: int, records_per_message: int | None = None) -> Datagrams:
        """Data messages for all rows, in order; registers the fields if they are new.

        Without ``records_per_message`` as many records a message as fit. EncodeError for values that the fields
        cannot carry and for records, or a number of them, that do not fit in a message.
        """
        template_id = self.register(flows.fields, flows.scope_count)
        layout = self._layouts[template_id]
        if not len(flows):
            return _no_datagrams()
        columns = [_checked(f, column) for f, column in zip(flows.fields, flows.columns, strict=True)]
        if layout.is_fixed:
            data, ends, counts = self._fixed(layout, columns, len(flows), records_per_message)
        else:
            data, ends, counts = self._scattered(layout, columns, len(flows), records_per_message)
        head = self.dialect.header_octets
        padding = -ends % self.alignment  # the header is aligned itself
        lengths = ends + np.where(padding < layout.record_length, padding, 0)  # else it would read as records
        data[:, head : head + SET_HEADER].view(">u2")[:] = np.stack(
            [np.full_like(ends, template_id), lengths - head], 1
        )
        data[:, :head] = self._header(lengths, counts, counts, export_ns)
        return Datagrams(data, lengths.astype(np.int32))

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


def _no_datagrams() -> Datagrams:
    return Datagrams(np.zeros((0, 0), np.uint8), np.zeros(0, np.int32))


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
