"""One datagram as a tree, octet by octet: a small walk for eyes, beside the decoders, which work on columns.

Every octet belongs to some node, what is not understood too; nothing that a datagram holds makes it fail. Lines are
bounded by :data:`MAX_NODES`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyflowx.batch import Octets
from pyflowx.decoded import TemplateRecord
from pyflowx.elements import FieldSpecifier, InformationElement, default_registry
from pyflowx.text import render
from pyflowx.wire.sets import MIN_TEMPLATE_ID, Dialect, read_templates

MAX_NODES = 4000
Templates = Mapping[int, TemplateRecord]  # of the datagram's exporter and Observation Domain, by ID
_VALUE = 200  # characters


class Node(NamedTuple):
    """``offset``, ``length``: its octets; ``name`` and what they mean. ``is_odd``: something is wrong with it."""

    depth: int
    offset: int
    length: int
    name: str
    value: str = ""
    is_odd: bool = False


class _FullError(Exception):
    """There are as many nodes as are shown."""


class _Walk:
    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.nodes: list[Node] = []

    def add(self, depth: int, offset: int, length: int, name: str, value: object = "", is_odd: bool = False) -> None:
        if len(self.nodes) >= MAX_NODES:
            raise _FullError
        length = max(0, min(length, len(self.octets) - offset))
        self.nodes.append(Node(depth, offset, length, name, str(value)[:_VALUE], is_odd))

    def left_over(self, depth: int, offset: int, end: int, name: str, is_odd: bool = True) -> None:
        """Octets that nothing explains."""
        if end > offset:
            self.add(depth, offset, end - offset, name, f"{end - offset} octets", is_odd)

    def words(self, depth: int, offset: int, names: Sequence[tuple[str, int]], end: int) -> tuple[int, list[int]]:
        """Unsigned integers of so many octets each; where they end (at ``end`` if one is cut), and they."""
        found: list[int] = []
        for name, size in names:
            if offset + size > end:
                self.left_over(depth, offset, end, f"{name}: cut off")
                return end, found
            number = int.from_bytes(self.octets[offset : offset + size], "big")
            self.add(depth, offset, size, name, number)
            found.append(number)
            offset += size
        return offset, found


def dissect(octets: bytes, templates: Callable[[int], Templates], length: int | None = None) -> list[Node]:
    """``templates``: those of an Observation Domain, which the header names. ``length``: of the datagram, where there
    were more octets than these."""
    walk = _Walk(octets)
    version = int.from_bytes(octets[:2], "big")
    try:
        if version == 10:
            _ipfix(walk, templates)
        elif version == 9:
            _netflow9(walk, templates)
        elif version in (1, 5, 7):
            _netflow5(walk, version)
        elif octets[:4] == b"\0\0\0\5":
            _sflow(walk)
        else:
            walk.left_over(0, 0, len(octets), "of no version that is known")
        if length is not None and length > len(octets):
            walk.add(0, len(octets), 0, "cut off", f"{length - len(octets)} octets more are not kept")
    except _FullError:
        walk.nodes.append(Node(0, 0, 0, "…", f"more than {MAX_NODES} lines"))
    return walk.nodes


def _sizes(dtype: np.dtype[np.void]) -> list[tuple[str, int]]:
    return [(name, dtype[name].itemsize) for name in dtype.names or ()]


# --- IPFIX and NetFlow v9 ---------------------------------------------------------------------------------------------


def _ipfix(walk: _Walk, templates: Callable[[int], Templates]) -> None:
    from pyflowx.wire.ipfix import HEADER, IPFIX

    size = len(walk.octets)
    walk.add(0, 0, HEADER.itemsize, "IPFIX Message", f"{size} octets", size < HEADER.itemsize)
    at, words = walk.words(1, 0, _sizes(HEADER), size)
    if len(words) < 5:
        return
    end = min(size, max(words[1], HEADER.itemsize))
    _sets(walk, at, end, IPFIX, templates(words[4]))
    walk.left_over(0, end, size, "behind the Message")


def _netflow9(walk: _Walk, templates: Callable[[int], Templates]) -> None:
    from pyflowx.wire.netflow9 import HEADER, NETFLOW_V9

    size = len(walk.octets)
    walk.add(0, 0, HEADER.itemsize, "NetFlow v9 packet", f"{size} octets", size < HEADER.itemsize)
    at, words = walk.words(1, 0, _sizes(HEADER), size)
    if len(words) == 6:
        _sets(walk, at, size, NETFLOW_V9, templates(words[5]))


def _sets(walk: _Walk, at: int, end: int, dialect: Dialect, templates: Templates) -> None:
    known = dict(templates)
    while end - at >= 4:
        set_id, length = struct.unpack_from(">HH", walk.octets, at)
        good = 4 <= length <= end - at
        after = at + length if good else end
        kind = {dialect.template_set: "Template Set", dialect.options_set: "Options Template Set"}.get(set_id)
        kind = kind or ("Data Set" if set_id >= MIN_TEMPLATE_ID else "Set of a reserved ID")
        odd = not good or (set_id < MIN_TEMPLATE_ID and kind.endswith("reserved ID"))
        why = "" if good else ": its length cannot be"
        walk.add(0, at, after - at, f"{kind} {set_id}", f"{length} octets{why}", odd)
        if kind == "Data Set":
            _records(walk, at + 4, after, known.get(set_id))
        elif kind.endswith("Template Set"):
            _template_set(walk, at + 4, after, dialect, set_id == dialect.options_set, known)
        else:
            walk.left_over(1, at + 4, after, "not read")
        at = after
    walk.left_over(0, at, end, "behind the last Set")


def _template_set(walk: _Walk, at: int, end: int, dialect: Dialect, options: bool, known: dict[int, Any]) -> None:
    while end - at >= 4 and any(walk.octets[at:end]):
        record, after = dialect.read_template(walk.octets[at:end], 0, options, default_registry().get)
        after += at
        if record is None or after > end:
            break
        flaws = read_templates(dialect, walk.octets[at:after], options, default_registry().get)[1]
        why = ", ".join(reason.name for _, reason in flaws)
        what = "Template Withdrawal" if record.is_withdrawal else "Options Template" if options else "Template"
        fields = why or f"{len(record.fields)} fields" + (f", {record.scope_count} scope" if options else "")
        walk.add(1, at, after - at, f"{what} {record.template_id}", fields, bool(why))
        place = after
        for field in reversed(record.fields):
            place -= 8 if dialect.version == 10 and field.element.pen else 4
        for field in record.fields:
            size = 8 if dialect.version == 10 and field.element.pen else 4
            walk.add(2, place, size, field.element.name, "variable" if field.is_variable else f"{field.length} octets")
            place += size
        if not why:
            known[record.template_id] = record
        at = after
    walk.left_over(1, at, end, "padding" if not any(walk.octets[at:end]) else "no Template", any(walk.octets[at:end]))


def _records(walk: _Walk, at: int, end: int, template: TemplateRecord | None) -> None:
    if template is None or not template.fields:
        walk.left_over(1, at, end, "its Template is not known")
        return
    least = sum(1 if field.is_variable else field.length for field in template.fields)
    number = 0
    while least and end - at >= least:
        number += 1
        after, values = at, []
        for field in template.fields:
            begin, size = _place(walk.octets, after, field)
            values.append((begin, size, field))
            after = begin + size
        if after > end:
            break
        what = "Options Data Record" if template.scope_count else "Data Record"
        walk.add(1, at, after - at, f"{what} {number}", f"{after - at} octets")
        for place, (begin, size, field) in enumerate(values):
            scope = "scope " if place < template.scope_count else ""
            walk.add(
                2, begin, size, scope + field.element.name, value_of(field.element, walk.octets[begin : begin + size])
            )
        at = after
    rest = walk.octets[at:end]
    walk.left_over(
        1, at, end, "padding" if not any(rest) and len(rest) < least else "cut off", any(rest) or len(rest) >= least
    )


def _place(octets: bytes, at: int, field: FieldSpecifier) -> tuple[int, int]:
    """Where a value begins, and its octets (RFC 7011 §7)."""
    if not field.is_variable:
        return at, field.length
    size = int.from_bytes(octets[at : at + 1], "big")
    if size < 255:
        return at + 1, size
    return at + 3, int.from_bytes(octets[at + 1 : at + 3], "big")


def value_of(element: InformationElement, octets: bytes) -> str:
    """Octets as the element means them; in hex where they cannot be such a value."""
    column: Any = Octets.of([octets])
    if len(octets) in element.data_type.lengths and element.data_type.column is not None:
        column = element.data_type.to_column(np.frombuffer(octets, np.uint8)[None])
    return render(element.data_type, column).tolist()[0].decode(errors="replace")


# --- NetFlow v5 and its kin -------------------------------------------------------------------------------------------


def _netflow5(walk: _Walk, version: int) -> None:
    from pyflowx.wire.netflow5 import FORMATS

    form, size = FORMATS[version], len(walk.octets)
    walk.add(0, 0, form.header.itemsize, f"NetFlow v{version} datagram", f"{size} octets", size < form.header.itemsize)
    at, words = walk.words(1, 0, _sizes(form.header), size)
    for number in range(1, (words[1] if len(words) > 1 else 0) + 1):
        if at + form.record_length > size:
            walk.add(0, at, size - at, f"record {number}", "cut off", is_odd=True)
            return
        walk.add(0, at, form.record_length, f"record {number}", f"{form.record_length} octets")
        for field, offset in zip(form.fields, form.offsets, strict=True):
            begin = at + offset
            value = value_of(field.element, walk.octets[begin : begin + field.length])
            walk.add(1, begin, field.length, field.element.name, value)
        at += form.record_length
    walk.left_over(0, at, size, "behind the last record")


# --- sFlow ------------------------------------------------------------------------------------------------------------

_W = 4
_SAMPLES: Mapping[int, tuple[str, tuple[str, ...], str]] = {
    1: (
        "flow_sample",
        ("sequence_number", "source_id", "sampling_rate", "sample_pool", "drops", "input", "output", "records"),
        "flow",
    ),
    2: ("counters_sample", ("sequence_number", "source_id", "records"), "counter"),
    3: (
        "flow_sample_expanded",
        (
            *("sequence_number", "source_id_type", "source_id_index", "sampling_rate", "sample_pool", "drops"),
            *("input_format", "input_value", "output_format", "output_value", "records"),
        ),
        "flow",
    ),
    4: ("counters_sample_expanded", ("sequence_number", "source_id_type", "source_id_index", "records"), "counter"),
}


def _format(word: int) -> str:
    return f"{word >> 12}/{word & 0xFFF}" if word >> 12 else str(word)


def _sflow(walk: _Walk) -> None:
    size = len(walk.octets)
    walk.add(0, 0, size, "sFlow v5 datagram", f"{size} octets")
    at, words = walk.words(1, 0, [("version", _W), ("agent_address_type", _W)], size)
    if len(words) < 2:
        return
    length = {1: 4, 2: 16}.get(words[1], 0)
    name = {4: "ipv4Address", 16: "ipv6Address"}.get(length)
    if name is not None and at + length <= size:
        element = default_registry().by_name(f"source{name.replace('ipv', 'IPv')}")
        assert element is not None
        walk.add(1, at, length, "agent_address", value_of(element, walk.octets[at : at + length]))
        at += length
    head = [(each, _W) for each in ("sub_agent_id", "sequence_number", "uptime", "samples")]
    at, words = walk.words(1, at, head, size)
    at = _entries(walk, 0, at, size, words[3] if len(words) == 4 else 0, "sample", _sample)
    walk.left_over(0, at, size, "behind the last sample")


def _entries(
    walk: _Walk, depth: int, at: int, end: int, count: int, data: str, body: Callable[[_Walk, int, int, int, str], None]
) -> int:
    """Structures with a format and a length; where the last one ends."""
    for _ in range(count):
        if end - at < 8:
            walk.left_over(depth, at, end, f"{data}: cut off")
            return end
        word, length = struct.unpack_from(">II", walk.octets, at)
        after = at + 8 + (length + 3 & ~3)
        whole = after <= end
        what = f"{data} {_structure_name(data, word)}"
        walk.add(depth, at, min(after, end) - at, what, f"{length} octets" + ("" if whole else ", cut off"), not whole)
        body(walk, at + 8, min(after, end), word, data)
        at = min(after, end)
    return at


def _structure_name(data: str, word: int) -> str:
    from pyflowx.wire.sflow_structures import structures

    if data == "sample":
        return _SAMPLES[word][0] if word in _SAMPLES else _format(word)
    if (data, word) == ("flow", 1):
        return "sampled_header"
    known = structures(data).get(word)
    return known[0].name if known else _format(word)


def _sample(walk: _Walk, at: int, end: int, word: int, data: str) -> None:
    if word not in _SAMPLES:
        walk.left_over(1, at, end, "not read", is_odd=False)
        return
    _, names, kind = _SAMPLES[word]
    at, words = walk.words(1, at, [(name, _W) for name in names], end)
    at = _entries(walk, 1, at, end, words[-1] if len(words) == len(names) else 0, kind, _structure)
    walk.left_over(1, at, end, "behind the last record")


def _structure(walk: _Walk, at: int, end: int, word: int, data: str) -> None:
    from pyflowx.wire.sflow_structures import KINDS, structures

    if (data, word) == ("flow", 1):
        names = [(name, _W) for name in ("header_protocol", "frame_length", "stripped", "header_length")]
        at, words = walk.words(2, at, names, end)
        size = min(words[3], end - at) if len(words) == 4 else 0
        walk.add(2, at, size, "header", f"{size} octets of the packet")
        walk.left_over(2, at + size, end, "padding", is_odd=False)
        return
    for structure in (structures(data).get(word) or ())[:1]:
        for field in structure.fields:
            kind = KINDS[field.kind]
            if not kind.octets or at + kind.octets > end:
                break  # from here on a length is in the octets
            value = value_of(field.four.element, walk.octets[at + kind.octets - kind.length : at + kind.octets])
            walk.add(2, at, kind.octets, field.four.element.name, value)
            at += kind.octets
    walk.left_over(2, at, end, "further octets", is_odd=False)


# --- hex --------------------------------------------------------------------------------------------------------------


def hex_lines(octets: bytes, width: int) -> Iterator[tuple[str, list[str], str]]:
    """Offset, octets in hex and as ASCII, ``width`` a line."""
    for at in range(0, len(octets), width):
        part = octets[at : at + width]
        shown = "".join(chr(octet) if 32 <= octet < 127 else "·" for octet in part)
        yield f"{at:04x}", [f"{octet:02x}" for octet in part], shown
