"""What the fuzzers run, one function a codec, and the invariant that it must keep.

The invariant (:func:`check`): *any list of byte strings decodes to flows and problems, never to an exception, in
linear time and bounded memory*; and whatever was decoded can be written raw (valid JSON, a line a message), brought
to the common schema (Biflows split, packet sections dissected, rates that options told applied), written in its formats
and shown as text.

An input is a list of datagrams: :func:`split` reads it, :func:`join` makes one. The first octet says how many datagrams
a batch has; then each datagram is an octet of flags (the exporter; whether the header is repaired so that what is
behind it is reached) and two octets of length before its own.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from pyflowx import text
from pyflowx.batch import V4_MAPPED, Column, FlowBatch, Octets, PacketBatch
from pyflowx.common import TABLE, CommonBatch
from pyflowx.conversion import Conversion
from pyflowx.decoded import Decoded, Problems, Protocol, Reason
from pyflowx.errors import ConfigError
from pyflowx.sinks import Encoder, raw
from pyflowx.sinks.csvtext import CommonCsv
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.protobuf import CommonProtobuf
from pyflowx.sinks.protobuf_schema import SCHEMAS
from pyflowx.transport.capture import CaptureReader
from pyflowx.wire import Decoder, TemplateLimits

REPAIR = 0x80  # flag of a datagram
NOW_NS = 1_700_000_000_123_456_789

# Small enough that short inputs reach them.
LIMITS = TemplateLimits(
    templates_per_exporter=20,
    templates=40,
    fields_per_template=200,
    fields_per_exporter=400,
    fields=800,
    learned_per_exporter=5,
    learned=8,
    held_octets_per_exporter=2000,
    held_octets=4000,
    held_age_ns=3 * 10**9,
    timeout_ns=4 * 10**9,
)
# Decoded columns of one call, per octet that the decoder ever got: a field of one octet may become an Octets row (16
# octets) or a wider number; an object of structured data costs more.
_FACTOR, _CONSTANT = 600, 1 << 16
_TYPES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "time": 8, "mac": 8, "label": 0, "address": 0}


def split(data: bytes) -> list[list[tuple[int, bytes]]]:
    """Batches of (flags, datagram)."""
    per_batch = 1 + (data[0] & 31) if data else 1
    packets, at = [], 1
    while at + 3 <= len(data):
        flags, size = struct.unpack_from("<BH", data, at)
        packets.append((flags, data[at + 3 : at + 3 + size]))
        at += 3 + size
    return [packets[i : i + per_batch] for i in range(0, len(packets), per_batch)]


def join(datagrams: Iterable[bytes], per_batch: int = 2, flags: int = 0) -> bytes:
    """The inverse of :func:`split` for datagrams with the same flags."""
    parts = [struct.pack("<BH", flags, len(datagram)) + datagram for datagram in datagrams]
    return bytes([per_batch - 1]) + b"".join(parts)


def _repair_netflow(version: int) -> Callable[[bytes], bytes]:
    def repair(datagram: bytes) -> bytes:
        datagram = struct.pack(">H", version) + datagram[2:]
        if version == Protocol.IPFIX and len(datagram) >= 16:
            datagram = datagram[:2] + struct.pack(">H", len(datagram)) + datagram[4:]
        return datagram

    return repair


def _repair_sflow(datagram: bytes) -> bytes:
    if len(datagram) < 28:
        return datagram
    return struct.pack(">II", 5, 1) + datagram[8:24] + struct.pack(">I", datagram[27]) + datagram[28:]


def _packets(batch: list[tuple[int, bytes]], repair: Callable[[bytes], bytes], number: int) -> PacketBatch:
    datagrams = [repair(datagram) if flags & REPAIR else datagram for flags, datagram in batch]
    exporters = [V4_MAPPED + bytes([10, 0, 0, flags & 3]) for flags, _ in batch]
    return PacketBatch.of(datagrams, exporters, 4739, NOW_NS + number * 10**9)


def check(batches: Iterable[PacketBatch]) -> None:
    """The invariant, for these batches one after the other into one decoder."""
    decoder = Decoder(limits=LIMITS)
    convert = Conversion(split_biflow=True, scaled=True)
    octets = 0
    for packets in batches:
        octets += int(packets.length.sum()) + 64 * len(packets)
        lengths = packets.length.tolist()
        decoded, problems = decoder.decode(packets, int(packets.received_ns[-1]))
        packets.data[:] = 0xEE  # nothing may refer to the receiver's buffer
        _check_problems(decoded, problems, lengths)
        for part in decoded:
            assert sum(map(_size, part.flows)) <= _FACTOR * octets + _CONSTANT
            _check_decoded(part)
            _check_raw(part)
            _check_common(convert(part))
        assert decoder.templates.held.octets <= LIMITS.held_octets and len(decoder.templates) <= LIMITS.templates


def _check_problems(decoded: list[Decoded], problems: Problems, lengths: list[int]) -> None:
    """Every datagram is a message or has a problem; every problem has a place in a datagram."""
    rows = sorted(row for part in decoded for row in part.messages.packet.tolist() if row >= 0)
    assert len(set(rows)) == len(rows)
    headless = {Reason.EMPTY_DATAGRAM, Reason.UNKNOWN_VERSION, Reason.TRUNCATED_HEADER}
    places = problems.tolist()
    without = [row for row, _, reason in places if reason in headless]
    assert sorted(rows + without) == list(range(len(lengths)))
    assert all(0 <= row < len(lengths) and 0 <= offset <= 0xFFFF for row, offset, _ in places)


def _check_decoded(decoded: Decoded) -> None:
    count = len(decoded.messages)
    for flows in decoded.flows:
        n = len(flows)
        assert n and len(flows.fields) == len(flows.columns) and 0 <= flows.scope_count <= len(flows.fields)
        assert len(flows.set_offset) == len(flows.template_id) == n
        assert set(flows.message.tolist()) <= set(range(count))
        assert (np.diff(flows.message) >= 0).all()  # in order of arrival
        for field, column in zip(flows.fields, flows.columns, strict=True):
            assert len(column) == n
            shown = text.render(field.element.data_type, column).tolist()
            assert len(shown) == n and all(each.decode().isprintable() for each in shown)
    for template in decoded.templates:
        assert 0 <= template.message < count
    for opaque in decoded.opaque:
        assert 0 <= opaque.message < count


def _size(flows: FlowBatch) -> int:
    return sum(_column_size(column) for column in flows.columns)


def _column_size(column: Column) -> int:
    if isinstance(column, Octets):
        return sum(0 if 0 in array.strides else array.nbytes for array in (column.starts, column.lengths))
    return column.nbytes


def _check_raw(decoded: Decoded) -> None:
    lines = list(raw.lines(decoded))
    assert len(lines) == len(decoded.messages)
    shown = [json.loads(line) for line in lines]
    records = sum(len(each["records"]) for line in shown for each in line["sets"] if "records" in each)
    assert records == sum(map(len, decoded.flows))
    assert sum("octets" in each for line in shown for each in line["sets"]) == len(decoded.opaque)


def _check_common(batches: list[CommonBatch]) -> None:
    for batch in batches:
        for column in TABLE:
            made = batch.columns.get(column.name)
            if made is None:
                assert column.nullable
                continue
            assert len(made.values) == len(batch) and (made.valid is None or len(made.valid) == len(batch))
            width = _TYPES[column.type]
            assert not width or made.values.dtype.itemsize == width, (column.name, made.values.dtype)
            assert column.type != "u8" or made.values.dtype == np.uint8
        _check_formats(batch)


def _check_formats(batch: CommonBatch) -> None:
    """What each format makes of a batch has as many rows."""
    n = len(batch)
    rows = [json.loads(line) for line in _encoded(CommonNdjson(), batch).splitlines()]
    assert len(rows) == n and all("bytes" in row and "packets" in row for row in rows)
    header, *lines = csv.reader(io.StringIO(_encoded(CommonCsv(), batch).decode()))
    assert len(lines) == n and all(len(line) == len(header) for line in lines)
    octets = _encoded(CommonProtobuf(SCHEMAS["pyflowx"]), batch)
    messages = 0
    while octets:  # each behind its length, a varint
        size, shift, at = 0, 0, 0
        while at == 0 or octets[at - 1] & 0x80:
            size |= (octets[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        assert at + size <= len(octets)
        octets = octets[at + size :]
        messages += 1
    assert messages == n


def _encoded(encoder: Encoder[CommonBatch], batch: CommonBatch) -> bytes:
    pieces = itertools.chain(encoder.begin(), encoder.encode(batch), encoder.flush(), encoder.end())
    return b"".join(bytes(part) for _, data in pieces for part in (data if isinstance(data, list) else [data]))


def netflow(version: int) -> Callable[[bytes], None]:
    repair = _repair_netflow(version)

    def run(data: bytes) -> None:
        check(_packets(batch, repair, number) for number, batch in enumerate(split(data)))

    return run


def sflow(data: bytes) -> None:
    check(_packets(batch, _repair_sflow, number) for number, batch in enumerate(split(data)))


def capture(data: bytes) -> None:
    """A capture file, and what is in it decoded."""
    file = os.memfd_create("capture")
    try:
        os.write(file, data)
        check(_captured(f"/proc/self/fd/{file}"))
    finally:
        os.close(file)


def _captured(path: str) -> Iterator[PacketBatch]:
    try:
        reader = CaptureReader(path)
    except ConfigError:
        return
    datagrams = 0
    with reader:
        for batch in reader:
            datagrams += len(batch)
            yield batch
    counts = reader.counters
    assert datagrams == counts.datagrams
    rest = counts.not_udp + counts.other_port + counts.malformed + counts.unknown_link
    assert counts.packets == datagrams + rest + counts.fragments - counts.reassembled


TARGETS: dict[str, Callable[[bytes], None]] = {
    "ipfix": netflow(10),
    "structured": netflow(10),  # other seeds: RFC 6313
    "netflow9": netflow(9),
    "netflow5": netflow(5),
    "netflow1": netflow(1),
    "netflow7": netflow(7),
    "sflow": sflow,
    "capture": capture,
}
