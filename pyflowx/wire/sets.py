"""What NetFlow v9 and IPFIX share on the wire: the Set walk and the reader of Template Records.

v9 says FlowSet for Set. RFC 7011 §3.3, §3.4; RFC 3954 §5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pyflowx.batch import I64, U8
from pyflowx.decoded import Reason, TemplateRecord
from pyflowx.elements import CISCO_PEN, FieldSpecifier, InformationElement
from pyflowx.wire.records import FEW

SET_HEADER = 4
MIN_TEMPLATE_ID = 256
MAX_RECORD = 65535 - SET_HEADER
MAX_EMPTY_FIELDS = 64  # fields of no octets in a Template; nor may they be many more than the octets of a record

NTOP_PEN, PALO_ALTO_PEN = 35632, 25461
ElementOf = Callable[[int, int], InformationElement]  # (pen, id) -> element


class Dialect(NamedTuple):
    """What tells the protocols apart once the message header is read."""

    version: int
    header_octets: int
    template_set: int
    options_set: int
    has_withdrawals: bool
    read_template: Callable[[bytes, int, bool, ElementOf], tuple[TemplateRecord | None, int]]
    """(Set content, offset, is it options, elements) -> (record or None, next offset: past the end if torn)"""


class SetTable(NamedTuple):
    """Sets in the order of their octets: ``span`` (message) each lies in, ``start`` of its header in the
    buffer, ``set_id``, ``length`` with the header. int64 all."""

    span: I64
    start: I64
    set_id: I64
    length: I64


Flaw = tuple[I64, I64, Reason]  # spans, positions in the buffer: the rest of the span was not walked


def walk(octets: U8, starts: I64, ends: I64) -> tuple[SetTable, list[Flaw]]:
    """The Sets of n messages, whose Sets fill ``octets[starts[i]:ends[i]]``, one Set of every message a step."""
    span = np.arange(len(starts))
    cursor = starts
    steps: list[tuple[I64, I64, I64, I64]] = []
    flaws: list[Flaw] = []
    while True:
        left = ends - cursor
        short = left < SET_HEADER
        if short.any():
            _note(flaws, short & (left > 0), span, cursor, Reason.TRAILING_OCTETS)
            span, cursor, ends, left = span[~short], cursor[~short], ends[~short], left[~short]
        if len(span) <= FEW:
            break
        word = np.ndarray((len(octets) - 3,), ">u4", octets, strides=(1,))[cursor].astype(np.int64)
        set_id, length = word >> 16, word & 0xFFFF
        good = (length >= SET_HEADER) & (length <= left)
        if not good.all():
            _note(flaws, length < SET_HEADER, span, cursor, Reason.BAD_SET_LENGTH)
            _note(flaws, length > left, span, cursor, Reason.SET_PAST_MESSAGE)
            span, cursor, ends, set_id, length = (x[good] for x in (span, cursor, ends, set_id, length))
        steps.append((span, cursor, set_id, length))
        cursor = cursor + length
    steps.append(_walk_few(octets, zip(span.tolist(), cursor.tolist(), ends.tolist(), strict=True), flaws))
    if len(steps) == 1:
        return SetTable(*steps[0]), flaws
    table = SetTable(*(np.concatenate(column) for column in zip(*steps, strict=True)))
    if sum(len(step[0]) > 0 for step in steps) > 1:
        order = np.argsort(table.span, kind="stable")
        table = SetTable(*(column[order] for column in table))
    return table, flaws


def _note(flaws: list[Flaw], mask: np.ndarray, span: I64, cursor: I64, reason: Reason) -> None:
    if mask.any():
        flaws.append((span[mask], cursor[mask], reason))


def _walk_few(octets: U8, spans: Iterable[tuple[int, int, int]], flaws: list[Flaw]) -> tuple[I64, I64, I64, I64]:
    """The same, message after message: lockstep does not pay for a few (see FEW)."""
    data = octets.data
    rows: list[tuple[int, int, int, int]] = []
    unpack = struct.Struct(">HH").unpack_from
    for span, cursor, end in spans:
        reason = None
        while end - cursor >= SET_HEADER:
            set_id, length = unpack(data, cursor)
            if length < SET_HEADER:
                reason = Reason.BAD_SET_LENGTH
                break
            if length > end - cursor:
                reason = Reason.SET_PAST_MESSAGE
                break
            rows.append((span, cursor, set_id, length))
            cursor += length
        if reason is None and cursor < end:
            reason = Reason.TRAILING_OCTETS
        if reason is not None:
            flaws.append((np.array([span]), np.array([cursor]), reason))
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


def read_templates(
    dialect: Dialect, content: bytes, is_options: bool, element: ElementOf
) -> tuple[list[TemplateRecord], list[tuple[int, Reason]]]:
    """The good Template Records of a Set's content, and what was wrong: (offset in the content, reason)."""
    records: list[TemplateRecord] = []
    flaws: list[tuple[int, Reason]] = []
    at = 0
    padding = len(content.rstrip(b"\0"))  # from here on nothing but zeros
    while len(content) - at >= 4 and at < padding:
        record, after = dialect.read_template(content, at, is_options, element)
        if after > len(content):
            flaws.append((at, Reason.TRUNCATED_TEMPLATE))
            break
        reason = Reason.BAD_TEMPLATE if record is None else _flaw(dialect, record, is_options)
        if record is not None and reason is None:
            records.append(record)
        else:
            flaws.append((at, reason or Reason.BAD_TEMPLATE))
        at = after
    return records, flaws


def _flaw(dialect: Dialect, record: TemplateRecord, is_options: bool) -> Reason | None:
    if record.is_withdrawal and dialect.has_withdrawals:
        everything = dialect.options_set if is_options else dialect.template_set  # RFC 7011 §8.1
        good = record.template_id >= MIN_TEMPLATE_ID or record.template_id == everything
        return None if good else Reason.BAD_TEMPLATE_ID
    if record.template_id < MIN_TEMPLATE_ID:
        return Reason.BAD_TEMPLATE_ID
    least = sum(1 if field.is_variable else field.length for field in record.fields)
    empty = sum(1 for field in record.fields if not field.length)
    scopes = range(1, len(record.fields) + 1) if is_options else range(1)
    good = 0 < least <= MAX_RECORD and empty <= min(MAX_EMPTY_FIELDS, least + 4) and record.scope_count in scopes
    return None if good else Reason.BAD_TEMPLATE


def read_ipfix_template(
    content: bytes, at: int, is_options: bool, element: ElementOf
) -> tuple[TemplateRecord | None, int]:
    """RFC 7011 §3.4.1, §3.4.2."""
    template_id, count = struct.unpack_from(">HH", content, at)
    at += 4
    if not count:
        return TemplateRecord(template_id, ()), at
    scope_count = 0
    if is_options:
        if at + 2 > len(content):
            return None, len(content) + 1
        (scope_count,) = struct.unpack_from(">H", content, at)
        at += 2
    fields: list[FieldSpecifier] = []
    for _ in range(count):
        if at + 4 > len(content):
            return None, len(content) + 1
        id, length = struct.unpack_from(">HH", content, at)
        at += 4
        pen = 0
        if id & 0x8000:
            if at + 4 > len(content):
                return None, len(content) + 1
            (pen,) = struct.unpack_from(">I", content, at)
            at += 4
        fields.append(FieldSpecifier(element(pen, id & 0x7FFF), length))
    return TemplateRecord(template_id, tuple(fields), scope_count), at


# RFC 3954 §6.1: the scope types of v9 and the elements that say the same in IPFIX. Other numbers are read
# as ordinary field types: exporters that send them mean that.
SCOPE_ELEMENTS = {1: 144, 2: 10, 3: 141, 4: 143, 5: 145}  # System, Interface, Line Card, Cache, Template


# NetFlow v9 has no enterprise numbers: vendors took types from these on for elements of theirs (registry/README.md).
_V9_VENDORS = ((57_472, NTOP_PEN, 57_472), (56_701, PALO_ALTO_PEN, 0), (0x8000, CISCO_PEN, 0x8000))


def v9_element(type: int, element: ElementOf) -> InformationElement:
    """A v9 field type as an element: a vendor's that is known, else IANA's."""
    for first, pen, base in _V9_VENDORS if type & 0x8000 else ():
        if type >= first:
            own = element(pen, type - base)
            if own.name != f"{own.pen}/{own.id}":
                return own
    return element(0, type)


def read_v9_template(
    content: bytes, at: int, is_options: bool, element: ElementOf
) -> tuple[TemplateRecord | None, int]:
    """RFC 3954 §5.2, §6.1: an Options Template says the octets of its specifiers, not their number.

    Some exporters name no scope in one. That is the whole System: it gets this scope, in no octets.
    """
    if not is_options:
        template_id, count = struct.unpack_from(">HH", content, at)
        scope_count, at = 0, at + 4
    else:
        if at + 6 > len(content):
            return None, len(content) + 1
        template_id, scope_octets, option_octets = struct.unpack_from(">HHH", content, at)
        at += 6
        if scope_octets % 4 or option_octets % 4:
            return None, at + scope_octets + option_octets
        scope_count, count = scope_octets // 4, (scope_octets + option_octets) // 4
    after = at + 4 * count
    if after > len(content):
        return None, after
    pairs = struct.unpack_from(f">{2 * count}H", content, at)
    fields: list[FieldSpecifier] = []
    for index, (type, length) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        if index < scope_count and type in SCOPE_ELEMENTS:
            fields.append(FieldSpecifier(element(0, SCOPE_ELEMENTS[type]), length))
        else:
            fields.append(FieldSpecifier(v9_element(type, element), length))
    if is_options and fields and not scope_count:
        fields.insert(0, FieldSpecifier(element(0, SCOPE_ELEMENTS[1]), 0))
        scope_count = 1
    return TemplateRecord(template_id, tuple(fields), scope_count), after
