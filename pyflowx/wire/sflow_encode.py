"""Flows to sFlow version 5 datagrams.

A *piece* is a run of octets of every sample: an ``(n, width)`` matrix, or Octets where the width differs from
row to row. A sample is a list of pieces; all samples are put in their datagrams piece by piece.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyflowx.batch import I64, U8, Array, Column, Datagrams, FlowBatch, Octets
from pyflowx.elements import FieldSpecifier
from pyflowx.errors import EncodeError
from pyflowx.wire.headers import Has, HeaderProtocol, dissect
from pyflowx.wire.records import gather, windows
from pyflowx.wire.section import header_fields
from pyflowx.wire.sflow_records import SAMPLED_HEADER
from pyflowx.wire.sflow_samples import COUNTERS_EXPANDED, DISCARDED, FLOW, FLOW_EXPANDED, NO_INTERFACE
from pyflowx.wire.sflow_structures import KINDS, Field, Structure, structures

Piece = U8 | Octets
_SOURCE_ADDRESS = {"sampled_ipv4": "sourceIPv4Address", "sampled_ipv6": "sourceIPv6Address"}


class _Columns:
    """The columns of a FlowBatch by element name; each is taken once."""

    def __init__(self, flows: FlowBatch) -> None:
        self.n = len(flows)
        self._left: dict[str, list[Column]] = {}
        for field, column in zip(flows.fields, flows.columns, strict=True):
            self._left.setdefault(field.element.name, []).append(column)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Column | None:
        found = self._left.get(name)
        if not found:
            return None
        column = found.pop(0)
        if not found:
            del self._left[name]
        return column

    def numbers(self, name: str, default: int | Array = 0) -> Array:
        column = self.take(name)
        if isinstance(column, np.ndarray):
            return column
        return np.broadcast_to(np.asarray(default, np.uint32), self.n)

    @property
    def names(self) -> list[str]:
        return list(self._left)


def _words(*columns: Array) -> U8:
    """Numbers as unsigned ints side by side."""
    for column in columns:
        if len(column) and (int(column.max()) > 0xFFFFFFFF or int(column.min()) < 0):
            raise EncodeError(f"{int(column.max())} does not fit in 32 bits")
    matrix = np.stack([np.asarray(column).astype(np.uint32) for column in columns], axis=1)
    return matrix.astype(">u4").view(np.uint8)


def _padded(octets: Octets) -> list[Piece]:
    """Octets with their padding; a matrix where all rows are equally long."""
    lengths = octets.lengths
    n = len(octets)
    if n and (lengths == lengths[0]).all():
        width = int(lengths[0])
        spare = np.zeros(max(0, int(octets.starts.max()) + width - len(octets.buffer)), np.uint8)
        cells = gather(np.concatenate([octets.buffer, spare]), octets.starts, width)
        return [np.concatenate([cells, np.zeros((n, -width % 4), np.uint8)], axis=1)]
    return [octets]


def _counted(octets: Octets, unit: int = 1) -> list[Piece]:
    """A variable-length value behind its length in ``unit`` octets."""
    if (octets.lengths % unit).any():
        raise EncodeError(f"a list of unsigned ints needs a multiple of {unit} octets")
    return [_words(octets.lengths // unit), *_padded(octets)]


def _parsed(texts: Octets, path: bool) -> list[Piece]:
    """AS paths or communities from their text; each distinct text is parsed once."""
    rows = texts.tolist()
    known = {text: (_path_octets if path else _community_octets)(text.decode("ascii", "replace")) for text in set(rows)}
    return _padded(Octets.of([known[text] for text in rows]))


def _community_octets(text: str) -> bytes:
    try:
        numbers = [int(high) << 16 | int(low) for high, _, low in (word.partition(":") for word in text.split())]
        return b"".join(number.to_bytes(4, "big") for number in (len(numbers), *numbers))
    except (ValueError, OverflowError):
        raise EncodeError(f"{text!r} is not a list of communities; write 65001:1 65001:2") from None


def _path_octets(text: str) -> bytes:
    segments: list[tuple[int, list[int]]] = []
    inside = False
    try:
        for word in text.split():
            kind = 1 if inside or word.startswith("{") else 2
            if (kind == 1 and not inside) or not segments or segments[-1][0] != kind:
                segments.append((kind, []))
            segments[-1][1].append(int(word.strip("{}")))
            inside = kind == 1 and not word.endswith("}")
        words = [len(segments)]
        for kind, numbers in segments:
            words += [kind, len(numbers), *numbers]
        return b"".join(word.to_bytes(4, "big") for word in words)
    except (ValueError, OverflowError):
        raise EncodeError(f"{text!r} is not an AS path; write 65001 65002 {{65003 65004}}") from None


def _field_pieces(field: Field, columns: _Columns) -> list[Piece]:
    """One field of every sample; zeros or nothing where ``columns`` does not have it."""
    n = columns.n
    name, six = field.four.element.name, field.six.element.name
    if field.kind == "address":
        return _address_pieces(name, six, columns)
    column = columns.take(name)
    if column is None and six != name:
        column = columns.take(six)
    if field.kind == "path":
        last = columns.take("bgpDestinationAsNumber")  # the path says it too, where there is one
        columns.take("bgpNextAdjacentAsNumber")
        if column is None and isinstance(last, np.ndarray):
            return [_words(*(np.full(n, word) for word in (1, 2, 1)), last)]
    if field.octets and column is None:
        return [np.zeros((n, field.octets), np.uint8)]
    if isinstance(column, np.ndarray):
        kind = KINDS[field.kind]
        cells = field.four.element.data_type.to_wire(column, kind.length)
        return [np.concatenate([cells, np.zeros((n, kind.octets - kind.length), np.uint8)], axis=1)]
    octets = column if isinstance(column, Octets) else Octets.of([b""] * n)
    if field.octets:
        if (octets.lengths != field.octets).any():
            raise EncodeError(f"{name} has {field.octets} octets")
        return _padded(octets)
    if field.kind in ("path", "communities"):
        return _parsed(octets, field.kind == "path")
    return _counted(octets, 4 if field.kind == "words" else 1)


def _address_pieces(name: str, six: str, columns: _Columns) -> list[Piece]:
    for kind, each in ((1, name), (2, six)):
        column = columns.take(each)
        if isinstance(column, np.ndarray):
            cells = column if column.ndim == 2 else column.astype(">u4").view(np.uint8).reshape(-1, 4)
            return [_words(np.full(columns.n, kind)), cells]
    return [np.zeros((columns.n, 4), np.uint8)]


def _size(pieces: Sequence[Piece], n: int) -> I64:
    """Octets of every row, with padding."""
    total = np.zeros(n, np.int64)
    for piece in pieces:
        total += (piece.lengths + 3 & ~3) if isinstance(piece, Octets) else piece.shape[1]
    return total


def _wrap(format: int, pieces: list[Piece], n: int) -> list[Piece]:
    """A record or sample: its format and length before its pieces."""
    return [_words(np.full(n, format), _size(pieces, n)), *pieces]


def _header_record(columns: _Columns) -> list[Piece]:
    """The sampled_header record, if there is a section; takes what the header itself says."""
    is_ip = "ipHeaderPacketSection" in columns
    section = columns.take("ipHeaderPacketSection" if is_ip else "dataLinkFrameSection")
    if not isinstance(section, Octets):
        return []
    n = columns.n
    protocol = columns.numbers("header_protocol", HeaderProtocol.IPV4 if is_ip else HeaderProtocol.ETHERNET)
    headers = dissect(section, protocol.astype(np.int64))
    common = int(np.bitwise_and.reduce(headers.valid))  # with no rows: all bits
    for field in (*header_fields(common), *(() if n else header_fields(common & ~Has.IPV6))):
        given = columns.take(field.specifier.element.name)
        if given is not None and not np.array_equal(np.asarray(given), getattr(headers, field.column)):
            raise EncodeError(f"{field.specifier.element.name} is not what the sampled header says; leave it out")
    size = columns.numbers("dataLinkFrameSize", section.lengths)
    return _wrap(SAMPLED_HEADER, [_words(protocol, size, columns.numbers("stripped")), *_counted(section)], n)


def _claims(structure: Structure, columns: _Columns) -> bool:
    """Whether a record of this structure is needed for what is left in ``columns``."""
    needed = _SOURCE_ADDRESS.get(structure.name)
    if needed is not None:
        return needed in columns
    names = {name for field in structure.fields for name in (field.four.element.name, field.six.element.name)}
    if any(field.kind == "path" for field in structure.fields):
        names |= {"bgpDestinationAsNumber", "bgpNextAdjacentAsNumber"}
    return any(name in columns for name in names)


def _records(data: str, columns: _Columns) -> tuple[list[Piece], int]:
    """(the records that carry what is left in ``columns``, their number)."""
    pieces: list[Piece] = []
    number = 0
    for choices in structures(data).values():
        structure = choices[0]
        if len(choices) > 1 and structure.fields[-1].four.element.name not in columns:
            structure = choices[-1]
        if _claims(structure, columns):
            content = [piece for field in structure.fields for piece in _field_pieces(field, columns)]
            pieces += _wrap(structure.format, content, columns.n)
            number += 1
    if columns.names:
        raise EncodeError(f"sFlow cannot carry {', '.join(columns.names)}")
    return pieces, number


def _interface(columns: _Columns, name: str, way: str) -> tuple[Array, Array]:
    """(format, value) of an interface."""
    return columns.numbers(f"{way}_format"), columns.numbers(name, columns.numbers(f"{way}_value"))


def _flow_sample(columns: _Columns, sequence: Array) -> list[Piece]:
    n = columns.n
    source = [columns.numbers(name) for name in ("source_id_type", "source_id_index")]
    sequence = columns.numbers("sequence_number", sequence)
    drops = columns.numbers("drops")
    ways = [_interface(columns, "ingressInterface", "input"), _interface(columns, "egressInterface", "output")]
    discarded = "drop_reason" in columns
    reason = columns.numbers("drop_reason")
    if not discarded:
        rate, pool = columns.numbers("samplingInterval", 1), columns.numbers("sample_pool")
    header = _header_record(columns)
    records, number = _records("flow", columns)
    count = np.full(n, number + bool(header))
    if discarded:
        head = _words(sequence, *source, drops, ways[0][1], ways[1][1], reason, count)
        return _wrap(DISCARDED, [head, *header, *records], n)
    compact = (source[0] < 256).all() and (source[1] < 1 << 24).all()
    compact &= all((kind < 4).all() and ((value < 0x3FFFFFFF) | (value == NO_INTERFACE)).all() for kind, value in ways)
    if compact:
        single = source[0].astype(np.uint32) << 24 | source[1].astype(np.uint32)
        packed = [kind.astype(np.uint32) << 30 | (value.astype(np.uint32) & 0x3FFFFFFF) for kind, value in ways]
        head = _words(sequence, single, rate, pool, drops, *packed, count)
    else:
        head = _words(sequence, *source, rate, pool, drops, *ways[0], *ways[1], count)
    return _wrap(FLOW if compact else FLOW_EXPANDED, [head, *header, *records], n)


def _counter_sample(columns: _Columns, sequence: Array) -> list[Piece]:
    source = [columns.numbers(name) for name in ("source_id_type", "source_id_index")]
    sequence = columns.numbers("sequence_number", sequence)
    records, number = _records("counter", columns)
    head = _words(sequence, *source, np.full(columns.n, number))
    return _wrap(COUNTERS_EXPANDED, [head, *records], columns.n)


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring matrices as one: fewer, larger copies."""
    merged: list[Piece] = []
    for piece in pieces:
        if merged and isinstance(piece, np.ndarray) and isinstance(merged[-1], np.ndarray):
            merged[-1] = np.concatenate([merged[-1], piece], axis=1)
        else:
            merged.append(piece)
    return merged


def _put(flat: U8, cursor: I64, piece: Piece) -> I64:
    """Writes a piece at the cursors; returns them behind it and its padding."""
    if isinstance(piece, Octets):
        source = piece.packed()
        ends = np.cumsum(source.lengths)
        places = np.arange(len(source.buffer)) + np.repeat(cursor - (ends - source.lengths), source.lengths)
        flat[places] = source.buffer
        return cursor + (piece.lengths + 3 & ~3)
    width = piece.shape[1]
    if width:
        windows(flat, width)[cursor] = np.ascontiguousarray(piece).view(f"V{width}")[:, 0]
    after: I64 = cursor + width
    return after


class Encoder:
    """Flows to datagrams, one sample a row.

    ``decode(encode(flows)) == flows`` for batches as :func:`~pyflowx.wire.sflow.decode` makes them: samples with any
    of the structures in the table, a sampled header (whose dissected fields are not sent again), counters
    (``scope_count`` 2). Fields that a structure needs and ``flows`` has not are 0 or empty. Without a packet
    section, addresses and ports go out as sampled_ipv4 or sampled_ipv6. ``agent``: 4 or 16 octets;
    ``observation_domain_id``: the sub-agent; ``boot_ns``: when uptime was 0.
    """

    def __init__(
        self,
        observation_domain_id: int = 1,
        max_octets: int = 1400,
        agent: bytes = b"\x7f\0\0\1",
        boot_ns: int = 0,
    ) -> None:
        if not 0 <= observation_domain_id <= 0xFFFFFFFF:
            raise EncodeError(f"a sub-agent has 32 bits, not {observation_domain_id}")
        if len(agent) not in (4, 16):
            raise EncodeError("an agent address has 4 or 16 octets")
        self.observation_domain_id, self.max_octets = observation_domain_id, max_octets
        self.agent, self.boot_ns = agent, boot_ns
        self.sequence_number = self.sample_number = 0

    def register(self, fields: tuple[FieldSpecifier, ...], scope_count: int = 0) -> int:
        """Checks that sFlow can carry ``fields``; always 0."""
        columns: list[Column] = []
        for field in fields:
            data_type = field.element.data_type
            width = data_type.width
            known = data_type.column is not None and width > 0
            columns.append(data_type.to_column(np.zeros((0, width), np.uint8)) if known else Octets.of([]))
        self._sample(FlowBatch(fields, columns, scope_count=scope_count))
        return 0

    def template_messages(self, export_ns: int) -> Datagrams:
        """None: sFlow has no Templates."""
        return Datagrams(np.zeros((0, 28), np.uint8), np.zeros(0, np.int32))

    def encode(self, flows: FlowBatch, export_ns: int, records_per_message: int | None = None) -> Datagrams:
        """One sample a row; as many a datagram as ``records_per_message`` says or ``max_octets`` allows."""
        n = len(flows)
        if not n:
            return self.template_messages(export_ns)
        pieces = self._sample(flows)
        self.sample_number = self.sample_number + n & 0xFFFFFFFF
        size = _size(pieces, n)
        head = 24 + len(self.agent)
        first = self._split(size, head, records_per_message)
        before = np.cumsum(size) - size
        samples = np.diff(first, append=n)
        message = np.repeat(np.arange(len(first)), samples)
        length = head + np.add.reduceat(size, first)
        stride = int(length.max())
        flat = np.zeros(len(first) * stride, np.uint8)
        cursor = message * stride + head + before - before[first][message]
        for piece in _merged(pieces):
            cursor = _put(flat, cursor, piece)
        data = flat.reshape(len(first), stride)
        data[:, :head] = self._heads(samples, export_ns)
        return Datagrams(data, length.astype(np.int32))

    def _sample(self, flows: FlowBatch) -> list[Piece]:
        sequence = self.sample_number + np.arange(1, len(flows) + 1) & 0xFFFFFFFF
        if flows.scope_count not in (0, 2):
            raise EncodeError("options data of sFlow has two scope fields, source_id_type and source_id_index")
        make = _counter_sample if flows.scope_count else _flow_sample
        return make(_Columns(flows), sequence)

    def _split(self, size: I64, head: int, per: int | None) -> I64:
        """The first sample of each datagram."""
        room = self.max_octets - head
        if int(size.max()) > room:
            raise EncodeError(f"a sample of {int(size.max())} octets does not fit in {self.max_octets} with the header")
        if per is None and (size == size[0]).all():
            per = room // int(size[0])
        if per is not None:
            first: I64 = np.arange(0, len(size), max(per, 1))
            if per < 1 or int(np.add.reduceat(size, first).max()) > room:
                raise EncodeError(f"{per} samples do not fit in {self.max_octets} octets; ask for fewer")
            return first
        ends = np.cumsum(size)
        starts = [0]
        while True:
            begin = int(ends[starts[-1] - 1]) if starts[-1] else 0
            following = int(np.searchsorted(ends, begin + room, "right"))
            if following >= len(size):
                return np.array(starts)
            starts.append(following)

    def _heads(self, samples: I64, export_ns: int) -> U8:
        n = len(samples)
        sequence = self.sequence_number + np.arange(1, n + 1) & 0xFFFFFFFF
        self.sequence_number = self.sequence_number + n & 0xFFFFFFFF
        uptime = (export_ns - self.boot_ns) // 1_000_000 & 0xFFFFFFFF
        kind = 1 if len(self.agent) == 4 else 2
        agent = np.broadcast_to(np.frombuffer(self.agent, np.uint8), (n, len(self.agent)))
        numbers = _words(np.full(n, self.observation_domain_id), sequence, np.full(n, uptime), samples)
        return np.concatenate([_words(np.full(n, 5), np.full(n, kind)), agent, numbers], axis=1)
