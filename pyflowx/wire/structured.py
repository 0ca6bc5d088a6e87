"""Structured data types: basicList, subTemplateList, subTemplateMultiList (RFC 6313).

A field of such a type becomes a column of objects, one a record:

- :class:`BasicList`: ``field`` and ``values``, a column of its items;
- :class:`RecordList` (subTemplateList): ``template_id`` and ``records``, a FlowBatch (None, with ``octets``, where the
  Template is not known);
- :class:`MultiList` (subTemplateMultiList): ``lists``, a tuple of RecordList;
- :class:`UnreadList`: ``octets`` that do not parse (Reason.BAD_STRUCTURED_DATA).

All but the last have ``semantic`` (:data:`SEMANTICS`). The lists of a batch that have the same layout share one
FlowBatch, of which each is a range of rows, so that cost follows octets, not lists. Columns of lists inside these
batches are columns of the same objects again, to :data:`MAX_DEPTH`.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import NamedTuple, Protocol

import numpy as np

from pyflowx.batch import I64, U8, Array, Column, FlowBatch, Octets, take
from pyflowx.elements import FieldSpecifier, InformationElement
from pyflowx.wire.records import Layout, read_records
from pyflowx.wire.sets import walk

SEMANTICS = {0: "noneOf", 1: "exactlyOneOf", 2: "oneOrMoreOf", 3: "allOf", 4: "ordered", 255: "undefined"}
MAX_DEPTH = 8


class UnreadList(NamedTuple):
    octets: bytes


class BasicList(NamedTuple):
    semantic: int
    field: FieldSpecifier
    batch: FlowBatch  # one column; lists of other elements with the same type and length may be in it
    start: int
    stop: int

    @property
    def values(self) -> Column:
        return take(self.batch.columns[0], slice(self.start, self.stop))


class RecordList(NamedTuple):
    semantic: int
    template_id: int
    batch: FlowBatch | None
    start: int
    stop: int
    octets: bytes

    @property
    def records(self) -> FlowBatch | None:
        return None if self.batch is None else self.batch.take(slice(self.start, self.stop))


class MultiList(NamedTuple):
    semantic: int
    lists: tuple[RecordList, ...]


class Context(Protocol):
    """What lists need to know about the Set they are in; ``origin`` is any number that the caller gave."""

    def layout(self, origin: int, template_id: int) -> Layout | None: ...

    def element(self, origin: int, pen: int, id: int) -> InformationElement: ...


class _Span(NamedTuple):
    """The content of a list: row of the column it belongs to, begin and end in the buffer."""

    row: int
    begin: int
    end: int


def read_lists(type_name: str, column: Octets, origin: I64, context: Context, depth: int = 0) -> tuple[Array, I64]:
    """A column of encoded lists as a column of objects, and the origins of rows that hold an UnreadList (anywhere)."""
    reader = _Reader(column, origin, context, depth)
    if depth < MAX_DEPTH:
        {"basicList": reader.basic, "subTemplateList": reader.sub, "subTemplateMultiList": reader.multi}[type_name]()
    return reader.finish()


class _Reader:
    def __init__(self, column: Octets, origin: I64, context: Context, depth: int) -> None:
        self.octets: U8 = column.buffer
        self.data = column.buffer.data
        self.begins, self.ends = column.starts.tolist(), (column.starts + column.lengths).tolist()
        self.origin, self.context, self.depth = origin, context, depth
        self.origins = origin.tolist()
        self.items: list[object] = [None] * len(column)
        self.bad: list[I64] = []

    def finish(self) -> tuple[Array, I64]:
        unread = [row for row, item in enumerate(self.items) if item is None]
        for row in unread:
            self.items[row] = UnreadList(bytes(self.data[self.begins[row] : self.ends[row]]))
        self.bad.append(self.origin[unread])
        objects = np.empty(len(self.items), object)
        objects[:] = self.items
        return objects, np.concatenate(self.bad)

    def basic(self) -> None:
        """RFC 6313 §4.5.1. Lists that are read alike are read together, whatever their element: it costs a peer nothing
        to name another one in each."""
        groups: defaultdict[tuple[str, int], list[tuple[FieldSpecifier, _Span]]] = defaultdict(list)
        for row, (begin, end) in enumerate(zip(self.begins, self.ends, strict=True)):
            if end - begin < 5:
                continue
            id, length = struct.unpack_from(">HH", self.data, begin + 1)
            pen, content = 0, begin + 5
            if id & 0x8000:
                if end - begin < 9:
                    continue
                (pen,) = struct.unpack_from(">I", self.data, content)
                content += 4
            if length:
                element = self.context.element(self.origins[row], pen, id & 0x7FFF)
                pair = FieldSpecifier(element, length), _Span(row, content, end)
                groups[element.data_type.name, length].append(pair)
        for pairs in groups.values():
            batch, ranges = self._records(Layout((pairs[0][0],)), [span for _, span in pairs])
            for (field, span), (start, stop) in zip(pairs, ranges, strict=True):
                if stop >= 0:
                    self.items[span.row] = BasicList(self.data[self.begins[span.row]], field, batch, start, stop)

    def sub(self) -> None:
        """RFC 6313 §4.5.2."""
        spans = [
            (int.from_bytes(self.data[begin + 1 : begin + 3], "big"), _Span(row, begin + 3, end))
            for row, (begin, end) in enumerate(zip(self.begins, self.ends, strict=True))
            if end - begin >= 3
        ]
        for (_, span), item in zip(spans, self._lists(spans), strict=True):
            self.items[span.row] = item

    def multi(self) -> None:
        """RFC 6313 §4.5.3; its parts look like Sets."""
        whole = np.array([row for row in range(len(self.items)) if self.begins[row] < self.ends[row]], np.int64)
        begins, ends = np.array(self.begins, np.int64)[whole], np.array(self.ends, np.int64)[whole]
        table, flaws = walk(self.octets, begins + 1, ends)
        good = np.ones(len(whole), bool)
        for flawed, _, _ in flaws:
            good[flawed] = False
        rows = whole[table.span]
        keep = good[table.span]
        columns = (rows, table.start, table.length, table.set_id)
        spans = [
            (set_id, _Span(row, start + 4, start + length))
            for row, start, length, set_id in zip(*(column[keep].tolist() for column in columns), strict=True)
        ]
        lists: dict[int, list[RecordList] | None] = {row: [] for row in whole[good].tolist()}
        for (_, span), item in zip(spans, self._lists(spans), strict=True):
            parts = lists[span.row]
            if item is None or parts is None:
                lists[span.row] = None
            else:
                parts.append(item)
        for row, found in lists.items():
            if found is not None:
                self.items[row] = MultiList(self.data[self.begins[row]], tuple(found))

    def _lists(self, spans: list[tuple[int, _Span]]) -> list[RecordList | None]:
        """A RecordList for each (Template ID, content); None where the content does not fit its Template."""
        result: list[RecordList | None] = [None] * len(spans)
        groups: defaultdict[Layout, list[int]] = defaultdict(list)
        for number, (template_id, span) in enumerate(spans):
            layout = self.context.layout(self.origins[span.row], template_id)
            if layout is not None:
                groups[layout].append(number)
            else:
                semantic = self.data[self.begins[span.row]]
                result[number] = RecordList(semantic, template_id, None, 0, 0, bytes(self.data[span.begin : span.end]))
        for layout, numbers in groups.items():
            batch, ranges = self._records(layout, [spans[number][1] for number in numbers])
            for number, (start, stop) in zip(numbers, ranges, strict=True):
                template_id, span = spans[number]
                if stop >= 0:
                    result[number] = RecordList(self.data[self.begins[span.row]], template_id, batch, start, stop, b"")
        return result

    def _records(self, layout: Layout, spans: list[_Span]) -> tuple[FlowBatch, list[tuple[int, int]]]:
        """All records of these contents in one batch, and the rows of each; (0, -1) for one that does not parse."""
        rows, begins, ends = np.array(spans, np.int64).reshape(-1, 3).T
        records = read_records(layout, self.octets, begins, ends)
        columns = records.columns
        for index in layout.lists if len(records.owner) else ():
            column = columns[index]
            assert isinstance(column, Octets)
            type_name = layout.fields[index].element.data_type.name
            origin = self.origin[rows[records.owner]]
            columns[index], bad = read_lists(type_name, column, origin, self.context, self.depth + 1)
            self.bad.append(bad)
        count = np.bincount(records.owner, minlength=len(spans))
        stop = np.cumsum(count)
        good = (count > 0) | (begins == ends)
        good[records.torn] = False
        ranges = np.where(good, [stop - count, stop], [[0], [-1]])
        return FlowBatch(layout.fields, columns, scope_count=layout.scope_count), list(
            zip(*ranges.tolist(), strict=True)
        )
