"""Decoding that NetFlow v9 and IPFIX share: from the Sets of a batch to one FlowBatch a layout.

The Sets of all messages are found in one walk (:mod:`pyflowx.wire.sets`). Those that change what later ones mean
(Templates, RFC 5610 type information) are then taken in order; all others only look up their layout.
Last, all Data Sets of a layout are joined and decoded at once. The result does not depend on how
packets are split into batches.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pyflowx.batch import I32, I64, U8, Array, Column, FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded, Messages, OpaqueSet, Problems, Protocol, Reason, ReceivedTemplate, TemplateRecord
from pyflowx.elements import InformationElement
from pyflowx.wire import structured, typeinfo
from pyflowx.wire.held import HeldMessage, HeldSet
from pyflowx.wire.records import Layout, gather, read_records
from pyflowx.wire.sets import MIN_TEMPLATE_ID, SET_HEADER, Dialect, Flaw, SetTable, read_templates, walk
from pyflowx.wire.template import EXPORTER, PREFIX, TemplateStore


def read_heads(packets: PacketBatch, rows: I32, head: np.dtype[np.void], problems: Problems) -> tuple[I32, Array]:
    """The rows with a whole message header, and their headers as a structured array (big-endian, copied)."""
    whole = packets.length[rows] >= head.itemsize
    if packets.data.shape[1] < head.itemsize:
        whole[:] = False
    if not whole.all():
        problems.add(rows[~whole], 0, Reason.TRUNCATED_HEADER)
        rows = rows[whole]
    octets = packets.data[:, : head.itemsize][rows] if len(rows) else np.zeros((0, head.itemsize), np.uint8)
    return rows, np.ascontiguousarray(octets).view(head)[:, 0]


def native(heads: Array) -> dict[str, Array]:
    """Big-endian header fields as native columns."""
    return {name: heads[name].astype(heads.dtype[name].newbyteorder("=")) for name in heads.dtype.names or ()}


def decode_sets(
    dialect: Dialect,
    packets: PacketBatch,
    messages: Messages,
    message_octets: I64,
    store: TemplateStore,
    now_ns: int,
    problems: Problems,
) -> Decoded:
    """Decode what follows the headers. ``messages``: those with a whole header; ``message_octets``: where each ends."""
    call = _Call(dialect, packets, messages, message_octets, store, now_ns, problems)
    call.resolve()
    call.hold_the_rest()
    call.report()
    return call.result()


class _Late(NamedTuple):
    """A Data Set of an earlier call whose Template came now, in Set ``at`` of this call."""

    held: HeldSet
    layout: Layout
    at: int


class _Call:
    """One decode call. Set numbers below the count of Sets in the batch are its own, later ones are late Sets."""

    def __init__(
        self,
        dialect: Dialect,
        packets: PacketBatch,
        messages: Messages,
        message_octets: I64,
        store: TemplateStore,
        now_ns: int,
        problems: Problems,
    ) -> None:
        self.dialect, self.messages, self.store, self.now_ns, self.problems = (
            dialect,
            messages,
            store,
            now_ns,
            problems,
        )
        self.octets: U8 = packets.data.reshape(-1)  # copies only what is not contiguous
        self.view = self.octets.data
        self.row_start: I64 = messages.packet.astype(np.int64) * packets.data.shape[1]
        self.templates: list[ReceivedTemplate] = []
        self.opaque: list[OpaqueSet] = []
        ends = self.row_start + message_octets
        begins = np.minimum(self.row_start + dialect.header_octets, ends)
        self.table, flaws = walk(self.octets, begins, ends)
        self._report_flaws(flaws, ends)
        self.offset: I64 = self.table.start - self.row_start[self.table.span]
        self.keys = _keys(messages, self.table, dialect.version)
        self.layouts: list[Layout | None] = [None] * len(self.keys)
        self.waiting: defaultdict[bytes, list[int]] = defaultdict(list)
        self.late: list[_Late] = []
        self.found: defaultdict[Reason, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))  # Sets, offsets
        self.resolved_at: dict[int, int] = {}  # Sets before their Template: the Set that brought it
        self.changes: defaultdict[bytes, list[tuple[int, Layout | None]]] = defaultdict(
            list
        )  # (Set, layout until then)

    def _report_flaws(self, flaws: list[Flaw], ends: I64) -> None:
        for spans, positions, reason in flaws:
            offsets = positions - self.row_start[spans]
            self.problems.add(self.messages.packet[spans], offsets, reason)
            for span, begin, end, offset in zip(
                *map(np.ndarray.tolist, (spans, positions, ends[spans], offsets)), strict=True
            ):
                set_id = int.from_bytes(self.view[begin : min(begin + 2, end)], "big")
                self.opaque.append(OpaqueSet(span, offset, set_id, bytes(self.view[begin:end]), False))

    # -- in the order of the Sets: which layout has each -----------------------------------------------------

    def resolve(self) -> None:
        done = 0
        control = np.flatnonzero(self.table.set_id < MIN_TEMPLATE_ID).tolist()
        for number in control:
            self._look_up(done, number)
            self._control(number)
            done = number + 1
        self._look_up(done, len(self.keys))

    def _look_up(self, first: int, last: int) -> None:
        get = self.store.layouts.get
        if self.store.type_information:  # a Set may teach what later ones mean
            for number in range(first, last):
                layout = self.layouts[number] = get(self.keys[number])
                if layout is not None and layout.is_type_information:
                    self._learn(number, layout, self._content(number), self.keys[number])
        else:
            self.layouts[first:last] = list(map(get, self.keys[first:last]))
        if None in self.layouts[first:last]:
            missing = [number for number in range(first, last) if self.layouts[number] is None]
            for number in missing:
                self._problem(number, Reason.HELD_DATA)
                self.waiting[self.keys[number]].append(number)

    def _control(self, number: int) -> None:
        span, offset, set_id = self.places[number]
        if set_id not in (self.dialect.template_set, self.dialect.options_set):
            self._problem(number, Reason.RESERVED_SET_ID)
            self._give_up(number, held=False)
            return
        is_options = set_id == self.dialect.options_set
        key = self.keys[number]
        exporter = key[:EXPORTER]
        records, flaws = read_templates(
            self.dialect, self._content(number), is_options, lambda pen, id: self.store.element(exporter, pen, id)
        )
        for position, reason in flaws:
            self._problem(number, reason, SET_HEADER + position)
        if flaws:
            self._give_up(number, held=False)
        for record in records:
            self.templates.append(ReceivedTemplate(span, offset, set_id, record))
            if record.is_withdrawal:
                self._withdraw(number, key[:PREFIX], record.template_id, is_options)
            else:
                self._define(number, key[:PREFIX] + record.template_id.to_bytes(2, "big"), record)

    def _define(self, number: int, key: bytes, record: TemplateRecord) -> None:
        old = self.store.layouts.get(key)
        known = self.store.define(key, record, self.now_ns)
        layout = self.store.layouts.get(key)
        if layout is not old:
            self.changes[key].append((number, old))
        if not known or layout is None:
            self._problem(number, Reason.TEMPLATE_LIMIT)
            return
        for waiting in self.waiting.pop(key, ()):
            self.layouts[waiting] = layout
            self.resolved_at[waiting] = number
            if layout.is_type_information:
                self._learn(number, layout, self._content(waiting), key)
        for held in self.store.held.release(key):
            self.late.append(_Late(held, layout, number))
            if layout.is_type_information:
                self._learn(number, layout, held.octets, key)

    def _withdraw(self, number: int, prefix: bytes, template_id: int, is_options: bool) -> None:
        if template_id < MIN_TEMPLATE_ID:  # all of this kind (RFC 7011 §8.1)
            keys = self.store.domain(prefix, is_options)
        else:
            keys = [prefix + template_id.to_bytes(2, "big")]
        for key in keys:
            old = self.store.layouts.get(key)
            if self.store.withdraw(key, is_options):
                self.changes[key].append((number, old))
            else:
                self._problem(number, Reason.UNKNOWN_WITHDRAWAL)

    def _learn(self, number: int, layout: Layout, content: bytes, key: bytes) -> None:
        octets = np.frombuffer(content, np.uint8)
        records = read_records(layout, octets, np.array([0]), np.array([len(octets)]))
        for changed, old in self.store.learn(key[:EXPORTER], typeinfo.elements(layout, records), self.now_ns):
            self.changes[changed].append((number, old))

    @cached_property
    def places(self) -> list[tuple[int, int, int]]:
        """(row in messages, offset, Set ID) of each Set; only asked for where Sets are taken one by one."""
        columns = (self.table.span, self.offset, self.table.set_id)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @cached_property
    def extents(self) -> list[tuple[int, int]]:
        """Begin and end of the content of each Set, likewise."""
        ends = self.table.start + self.table.length
        return list(zip((self.table.start + SET_HEADER).tolist(), ends.tolist(), strict=True))

    def _content(self, number: int) -> bytes:
        begin, end = self.extents[number]
        return bytes(self.view[begin:end])

    def _problem(self, number: int, reason: Reason, plus: int = 0) -> None:
        numbers, offsets = self.found[reason]
        numbers.append(number)
        offsets.append(plus)

    def report(self) -> None:
        for reason, (numbers, offsets) in self.found.items():
            self.problems.add(
                self.messages.packet[self.table.span[numbers]], self.offset[numbers] + np.array(offsets), reason
            )

    def _give_up(self, number: int, held: bool) -> None:
        self.opaque.append(OpaqueSet(*self.places[number], self._content(number), held))

    # -- what had no Template in this call -------------------------------------------------------------------

    def hold_the_rest(self) -> None:
        heads: dict[int, HeldMessage] = {}
        numbers = sorted((number, key) for key, waiting in self.waiting.items() for number in waiting)
        for number, key in numbers:
            span, offset, set_id = self.places[number]
            head = heads.get(span) or heads.setdefault(span, self._head(span))
            held = self.store.held.hold(key, HeldSet(head, offset, set_id, self._content(number), self.now_ns))
            if not held:
                self._problem(number, Reason.HELD_DATA_DROPPED)
            self._give_up(number, held)

    def _head(self, span: int) -> HeldMessage:
        m = self.messages
        header = {name: int(column[span]) for name, column in m.header.items()}
        columns = (m.port, m.received_ns, m.sequence_number, m.observation_domain_id, m.export_ns, m.boot_ns)
        port, received_ns, sequence_number, domain, export_ns, boot_ns = (int(column[span]) for column in columns)
        exporter = m.exporter[span].tobytes()
        return HeldMessage(exporter, port, received_ns, header, sequence_number, domain, export_ns, boot_ns)

    # -- all Data Sets of a layout at once -------------------------------------------------------------------

    def result(self) -> Decoded:
        late_rows: dict[int, int] = {}  # by identity: Sets of one message share its head
        for late in self.late:
            late_rows.setdefault(id(late.held.message), len(late_rows))
        heads = {id(late.held.message): late.held.message for late in self.late}
        before = len(late_rows)
        self.message: I64 = np.append(
            self.table.span + before, [late_rows[id(late.held.message)] for late in self.late]
        ).astype(np.int64)
        decoded = Decoded(Protocol(self.dialect.version), _with_late(self.messages, list(heads.values())))
        decoded.templates = (
            [t._replace(message=t.message + before) for t in self.templates] if before else self.templates
        )
        decoded.opaque = [o._replace(message=o.message + before) for o in self.opaque] if before else self.opaque
        decoded.opaque.sort(key=lambda opaque: (opaque.message, opaque.set_offset))
        self.offset = np.append(self.offset, [late.held.set_offset for late in self.late]).astype(np.int64)
        self.set_id: I64 = np.append(self.table.set_id, [late.held.set_id for late in self.late]).astype(np.int64)
        bringer = self.table.span[np.array([late.at for late in self.late], np.int64)]
        self.packet = self.messages.packet[np.append(self.table.span, bringer)]  # that problems of a Set count for
        for layout, numbers in self._groups():
            batch = self._flows(layout, np.array(numbers, np.int64))
            if batch is not None:
                decoded.flows.append(batch)
        return decoded

    def _groups(self) -> list[tuple[Layout, list[int]]]:
        """Set numbers by layout, late ones first."""
        layouts = self.layouts
        if not self.late and layouts and layouts[0] is not None and layouts.count(layouts[0]) == len(layouts):
            return [(layouts[0], list(range(len(layouts))))]
        groups: defaultdict[Layout | None, list[int]] = defaultdict(list)
        for number, late in enumerate(self.late, len(layouts)):
            groups[late.layout].append(number)
        for number, layout in enumerate(layouts):
            groups[layout].append(number)
        return [(layout, numbers) for layout, numbers in groups.items() if layout is not None]

    def _flows(self, layout: Layout, numbers: I64) -> FlowBatch | None:
        octets, starts, ends = self._join(layout, numbers)
        if not (ends - starts >= layout.record_length).any():
            return None
        records = read_records(layout, octets, starts, ends)
        origin = numbers[records.owner]
        if len(records.torn):
            torn = numbers[records.torn]
            within = records.torn_at - starts[records.torn] + SET_HEADER
            self.problems.add(self.packet[torn], self.offset[torn] + within, Reason.TRUNCATED_RECORD)
        if not len(origin):
            return None
        columns = records.columns
        for index in layout.lists:
            column = columns[index]
            assert isinstance(column, Octets)
            columns[index] = self._lists(layout.fields[index].element, column, origin)
        return FlowBatch(
            layout.fields,
            columns,
            self.message[origin].astype(np.int32),
            self.offset[origin].astype(np.int32),
            self.set_id[origin].astype(np.uint16),
            layout.scope_count,
        )

    def _lists(self, element: InformationElement, column: Octets, origin: I64) -> Column:
        items, bad = structured.read_lists(element.data_type.name, column, origin, self)
        if len(bad):
            sets = np.unique(bad)
            self.problems.add(self.packet[sets], self.offset[sets], Reason.BAD_STRUCTURED_DATA)
        return items

    def _join(self, layout: Layout, numbers: I64) -> tuple[U8, I64, I64]:
        """The content of these Sets in a buffer of their own, without padding where its length is known."""
        count = len(self.layouts)
        own = numbers[numbers < count]
        late = [self.late[number - count] for number in numbers[numbers >= count].tolist()]
        parts: list[bytes | memoryview] = [each.held.octets for each in late]
        begins = self.table.start[own] + SET_HEADER
        lengths = self.table.length[own] - SET_HEADER
        if layout.is_fixed:
            lengths -= lengths % layout.record_length
        if not parts and (lengths == lengths[0]).all():
            octets = gather(self.octets, begins, int(lengths[0])).reshape(-1)
        else:
            parts += [self.view[a:b] for a, b in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)]
            octets = np.frombuffer(b"".join(parts), np.uint8)
            lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        ends = np.cumsum(lengths)
        return octets, ends - lengths, ends

    # -- structured.Context ----------------------------------------------------------------------------------

    def layout(self, origin: int, template_id: int) -> Layout | None:
        """The layout that a Template ID meant in the domain and at the time of a Set."""
        own = len(self.layouts)
        at = self.late[origin - own].at if origin >= own else self.resolved_at.get(origin, origin)
        key = self.keys[at][:PREFIX] + template_id.to_bytes(2, "big")
        later = self.changes.get(key)
        if later is not None:
            first = bisect.bisect_right(later, at, key=lambda change: change[0])
            if first < len(later):
                return later[first][1]
        return self.store.layouts.get(key)

    def element(self, origin: int, pen: int, id: int) -> InformationElement:
        own = len(self.layouts)
        at = self.late[origin - own].at if origin >= own else origin
        return self.store.element(self.keys[at][:EXPORTER], pen, id)


def _keys(messages: Messages, table: SetTable, version: int) -> list[bytes]:
    """The Template key of each Set (pyflowx.wire.template)."""
    keys = np.zeros(len(table.span), [("exporter", "V16"), ("version", ">u2"), ("domain", ">u4"), ("id", ">u2")])
    if len(keys):
        keys["exporter"] = np.ascontiguousarray(messages.exporter).view("V16")[:, 0][table.span]
        keys["version"] = version
        keys["domain"] = messages.observation_domain_id[table.span]
        keys["id"] = table.set_id
    rows: list[bytes] = keys.view("V24").tolist()
    return rows


def _with_late(messages: Messages, late: list[HeldMessage]) -> Messages:
    if not late:
        return messages

    def column(name: str, old: Array) -> Array:
        return np.append(np.array([getattr(head, name) for head in late], old.dtype), old)

    return Messages(
        np.append(np.full(len(late), -1, np.int32), messages.packet),
        np.append(np.frombuffer(b"".join(h.exporter for h in late), np.uint8), messages.exporter).reshape(-1, 16),
        column("port", messages.port),
        column("received_ns", messages.received_ns),
        {k: np.append(np.array([h.header[k] for h in late], v.dtype), v) for k, v in messages.header.items()},
        column("sequence_number", messages.sequence_number),
        column("observation_domain_id", messages.observation_domain_id),
        column("export_ns", messages.export_ns),
        column("boot_ns", messages.boot_ns),
    )
