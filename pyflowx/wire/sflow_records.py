"""The records of sFlow samples: flow records beside each other in one row, counter records each for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64, U8, Column, FlowBatch, Octets, take
from pyflowx.elements import VARIABLE_LENGTH, FieldSpecifier, default_registry
from pyflowx.wire.headers import Has, HeaderProtocol, Headers, dissect
from pyflowx.wire.layers import BITS
from pyflowx.wire.records import gather
from pyflowx.wire.section import COARSE, groups, header_columns, header_fields
from pyflowx.wire.sflow_samples import (
    DISCARDED,
    DROPS,
    IN_FORMAT,
    IN_VALUE,
    NO_INTERFACE,
    OUT_FORMAT,
    OUT_VALUE,
    POOL,
    RATE,
    REASON,
    SEQUENCE,
    SOURCE_INDEX,
    SOURCE_TYPE,
    Samples,
    about,
)
from pyflowx.wire.sflow_structures import own, structures
from pyflowx.wire.sflow_xdr import Entries, Pair, read, variants, walk

Mask = npt.NDArray[np.bool_]

SAMPLED_HEADER, SAMPLED_IPV4, SAMPLED_IPV6, HOST_ADAPTERS = 1, 3, 4, 2001
_FEW = 8  # formats that are looked for one by one, which is faster than sorting

# Bits of a sample's mask: those of its header (Has), then what its head holds, then its records.
_FLOW, _DISCARDED, _INPUT, _INPUT_OTHER, _OUTPUT, _OUTPUT_OTHER = (1 << BITS + n for n in range(6))
_FIRST_PART = BITS + 6
_COARSE = COARSE | _FLOW | _DISCARDED | _INPUT | _INPUT_OTHER | _OUTPUT | _OUTPUT_OTHER

# bit: (line of Samples.words, field) each; IANA's elements where there is a colon
_SOURCE = ((SEQUENCE, "sequence_number"), (SOURCE_TYPE, "source_id_type"), (SOURCE_INDEX, "source_id_index"))
_HEAD: dict[int, tuple[tuple[int, str], ...]] = {
    _FLOW: (*_SOURCE, (RATE, ":samplingInterval"), (POOL, "sample_pool"), (DROPS, "drops")),
    _DISCARDED: (*_SOURCE, (DROPS, "drops"), (REASON, "drop_reason")),
    _INPUT: ((IN_VALUE, ":ingressInterface"),),
    _INPUT_OTHER: ((IN_FORMAT, "input_format"), (IN_VALUE, "input_value")),
    _OUTPUT: ((OUT_VALUE, ":egressInterface"),),
    _OUTPUT_OTHER: ((OUT_FORMAT, "output_format"), (OUT_VALUE, "output_value")),
}


def element(name: str) -> FieldSpecifier:
    """A field of four octets: ":" and IANA's name, or sFlow's own."""
    return default_registry().field(name[1:], 4) if name[0] == ":" else own(name)


class _Part(NamedTuple):
    """Records of one kind, the first in each of their samples: ``rows`` are the samples."""

    rows: I64
    fields: tuple[Pair, ...]
    columns: list[Column]
    has_ipv6: bool


def _present(formats: I64) -> list[int]:
    """The distinct formats, ascending."""
    found: list[int] = []
    while len(formats) and len(found) < _FEW:
        found.append(int(formats[0]))
        formats = formats[formats != found[-1]]
    return sorted({*found, *np.unique(formats).tolist()})


def _first(owner: I64) -> Mask:
    """Whether an entry is the first of its owner."""
    mask: Mask = np.ones(len(owner), bool)
    np.not_equal(owner[1:], owner[:-1], out=mask[1:])
    return mask


def _as_octets(octets: U8, samples: Samples, records: Entries, index: I64, skip: I64 | int = 0) -> FlowBatch:
    """Records, or what is left of them behind ``skip`` octets, as they are."""
    content = Octets(octets, records.at[index] + skip, records.octets[index] - skip)
    columns: list[Column] = [records.word[index].astype(np.uint32), content]
    return about(samples, records.owner[index], (own("record_format"), own("record_octets")), columns)


def _read(
    octets: U8, samples: Samples, records: Entries, wanted: Mask, data: str, flows: list[FlowBatch]
) -> Iterator[tuple[I64, _Part] | I64]:
    """The wanted records by format: (their indices, what they hold), then the indices of those that do not parse.
    These, records without a structure and octets behind a structure go to ``flows`` as octets."""
    table = structures(data)
    for format in _present(records.word if wanted.all() else records.word[wanted]):
        index = np.flatnonzero(wanted & (records.word == format))
        if format in ((SAMPLED_HEADER,) if data == "flow" else (HOST_ADAPTERS,)):
            continue
        for structure in table.get(format, ()):
            at, end = records.at[index], records.at[index] + records.octets[index]
            found = read(octets, structure, at, end)
            for fields in variants(structure, found.columns, found.good):
                yield index[fields.rows], _Part(records.owner[index[fields.rows]], *fields[1:])
            longer = np.flatnonzero(found.good & (found.stop < end))
            if len(longer):
                flows.append(_as_octets(octets, samples, records, index[longer], (found.stop - at)[longer]))
            index = index[~found.good]
        if len(index):
            flows.append(_as_octets(octets, samples, records, index))
            if format in table:
                yield index[records.whole[index]]


def read_flows(
    octets: U8, samples: Samples, records: Entries, wanted: Mask, flows: list[FlowBatch], tunnels: bool
) -> Iterator[I64]:
    """Appends the flow samples to ``flows``; yields the indices of records that do not parse."""
    extra: list[FlowBatch] = []
    mask = _head_bits(samples)
    parts: list[_Part] = []
    headers, header_rows = Headers.empty(0), np.zeros(0, np.int64)
    index = np.flatnonzero(wanted & (records.word == SAMPLED_HEADER))
    if len(index):
        content, protocol, header_rows, torn = _headers(octets, samples, records, index, parts, extra)
        headers = dissect(content, protocol, tunnels)
        mask[header_rows] |= headers.valid
        yield torn
    for found in _read(octets, samples, records, wanted, "flow", extra):
        if isinstance(found, np.ndarray):
            yield found
            continue
        index, part = found
        first = _first(part.rows)
        if not first.all():
            again = np.flatnonzero(~first)
            extra.append(_beside(samples, part, again))
            part = part._replace(
                rows=part.rows[first], columns=[take(column, np.flatnonzero(first)) for column in part.columns]
            )
        family = {SAMPLED_IPV4: Has.IPV4, SAMPLED_IPV6: Has.IPV6}.get(int(records.word[index[0]]))
        if family:
            unknown = part.rows[mask[part.rows] & (Has.IPV4 | Has.IPV6) == 0]
            mask[unknown] |= family
        parts.append(part)
    extra.extend(_beside(samples, part, np.arange(len(part.rows))) for part in parts[63 - _FIRST_PART :])
    flows.extend(_rows(samples, mask, headers, header_rows, parts[: 63 - _FIRST_PART], extra))
    flows.extend(extra)


def _beside(samples: Samples, part: _Part, index: I64) -> FlowBatch:
    """Records of a part as options data, beside the row of their sample."""
    pick = 1 if part.has_ipv6 else 0
    fields = tuple(pair[pick] for pair in part.fields)
    return about(samples, part.rows[index], fields, [take(column, index) for column in part.columns])


def _head_bits(samples: Samples) -> I64:
    """What the heads of flow samples and discarded packets hold; 0 for counter samples."""
    words = samples.words
    mask = np.where(samples.format == DISCARDED, _DISCARDED, _FLOW)
    for kind, value, plain, other in (
        (IN_FORMAT, IN_VALUE, _INPUT, _INPUT_OTHER),
        (OUT_FORMAT, OUT_VALUE, _OUTPUT, _OUTPUT_OTHER),
    ):
        mask |= np.where((words[kind] == 0) & (words[value] != NO_INTERFACE), plain, other)
    return np.where(samples.is_counters, 0, mask)


def _headers(
    octets: U8, samples: Samples, records: Entries, index: I64, parts: list[_Part], extra: list[FlowBatch]
) -> tuple[Octets, I64, I64, I64]:
    """sampled_header records: (headers, what they begin with, their samples), the first of each sample, and the
    indices of records that do not parse. A header that its record cuts short is there as far as it goes."""
    head = gather(octets, records.at[index], 16).view(">u4")
    room = records.octets[index] - 16
    good = room >= 0
    torn = index[(~good | (head[:, 3] > room)) & records.whole[index]]
    if not good.all():
        extra.append(_as_octets(octets, samples, records, index[~good]))
        index, head, room = index[good], head[good], room[good]
    protocol = head[:, 0].astype(np.int64)
    content = Octets(octets, records.at[index] + 16, np.minimum(head[:, 3].astype(np.int64), room))
    numbers: list[Column] = [head[:, word].astype(np.uint32) for word in range(3)]
    is_ip = (protocol == HeaderProtocol.IPV4) | (protocol == HeaderProtocol.IPV6)
    rows = records.owner[index]
    first = _first(rows)
    names = ("header_protocol", ":dataLinkFrameSize", "stripped")
    for name, mask in ((":dataLinkFrameSection", ~is_ip), (":ipHeaderPacketSection", is_ip)):
        section = default_registry().field(name[1:], VARIABLE_LENGTH)
        fields = tuple((field, field) for field in (*(element(each) for each in names), section))
        for chosen, again in ((mask & first, False), (mask & ~first, True)):
            if chosen.any():
                which = slice(None) if chosen.all() else np.flatnonzero(chosen)
                part = _Part(rows[which], fields, [take(column, which) for column in (*numbers, content)], False)
                if again:
                    extra.append(_beside(samples, part, np.arange(len(part.rows))))
                else:
                    parts.append(part)
    if not first.all():
        which = np.flatnonzero(first)
        rows, protocol, content = rows[which], protocol[which], content.take(which)
    return content, protocol, rows, torn


def _rows(
    samples: Samples, mask: I64, headers: Headers, header_rows: I64, parts: list[_Part], extra: list[FlowBatch]
) -> Iterator[FlowBatch]:
    """One FlowBatch for the samples with the same mask."""
    n = len(mask)
    for bit, part in enumerate(parts, _FIRST_PART):
        mask[part.rows if len(part.rows) < n else slice(None)] |= np.int64(1 << bit)
    places = [_places(part.rows, n) for part in parts]
    header_places = _places(header_rows, n)
    kept = np.zeros(n, np.int64)
    for group, rows in groups(mask, _COARSE):
        if group == 0:
            continue
        kept[rows] = group
        six = bool(group & Has.IPV6)
        fields: list[FieldSpecifier] = []
        columns: list[Column] = []
        for bit, head in _HEAD.items():
            if group & bit:
                fields += [element(name) for _, name in head]
                columns += [samples.words[line, rows] for line, _ in head]
        fields += [field.specifier for field in header_fields(group & (1 << BITS) - 1)]
        columns += header_columns(headers, group & (1 << BITS) - 1, _at(header_places, rows))
        for bit, (part, place) in enumerate(zip(parts, places, strict=True), _FIRST_PART):
            if group >> bit & 1:
                pick = 1 if six or (part.has_ipv6 and not group & Has.IPV4) else 0
                fields += [pair[pick] for pair in part.fields]
                where = _at(place, rows)
                columns += [take(column, where) for column in part.columns]
        message, offset = samples.message[rows], samples.offset[rows]
        yield FlowBatch(tuple(fields), columns, message, offset, np.zeros(len(message), np.uint16))
    dropped = mask & ~kept
    for bit, part in enumerate(parts if dropped.any() else (), _FIRST_PART):
        lost = np.flatnonzero(dropped[part.rows] >> bit & 1)
        if len(lost):
            extra.append(_beside(samples, part, lost))


def _places(rows: I64, n: int) -> I64 | None:
    """Where in ``rows`` each of n samples is (None: at its own number); nonsense where it is not."""
    if len(rows) == n:
        return None
    places = np.zeros(n, np.int64)
    places[rows] = np.arange(len(rows))
    return places


def _at(places: I64 | None, rows: Any) -> Any:
    return rows if places is None else places[rows]


def read_counters(
    octets: U8, samples: Samples, records: Entries, wanted: Mask, flows: list[FlowBatch]
) -> Iterator[I64]:
    """Appends the counter samples to ``flows``; yields the indices of records that do not parse."""
    bare = samples.is_counters
    if not bare.any():
        return
    bare[records.owner[wanted]] = False
    if bare.any():
        flows.append(about(samples, np.flatnonzero(bare), (), []))
    index = np.flatnonzero(wanted & (records.word == HOST_ADAPTERS))
    if len(index):
        yield _adapters(octets, samples, records, index, flows)
    for found in _read(octets, samples, records, wanted, "counter", flows):
        if isinstance(found, np.ndarray):
            yield found
        else:
            part = found[1]
            flows.append(_beside(samples, part, np.arange(len(part.rows))))


def _adapters(octets: U8, samples: Samples, records: Entries, index: I64, flows: list[FlowBatch]) -> I64:
    """host_adapters: a row for each MAC address of each adapter, or for an adapter without one."""
    at, end = records.at[index], records.at[index] + records.octets[index]
    count = gather(octets, at, 4).view(">u4")[:, 0].astype(np.int64)
    found = walk(octets, at + 4, end, np.where(at + 4 <= end, count, 0), unit=8)
    good = (at + 4 <= end) & (found.missing == 0)
    np.logical_and.at(good, found.owner, found.whole)
    fine = good[found.owner]
    owner = records.owner[index[found.owner]]
    none = np.flatnonzero(fine & (found.units == 0))
    if len(none):
        flows.append(about(samples, owner[none], (own("adapter_ifIndex"),), [found.word[none].astype(np.uint32)]))
    each = np.repeat(np.arange(len(fine)), np.where(fine, found.units, 0))
    if len(each):
        ordinal = np.arange(len(each)) - np.searchsorted(each, each)
        cells = gather(octets, found.at[each] + 8 * ordinal, 6)
        mac = own("adapter_mac")
        columns: list[Column] = [found.word[each].astype(np.uint32), mac.element.data_type.to_column(cells)]
        flows.append(about(samples, owner[each], (own("adapter_ifIndex"), mac), columns))
    bad = index[~good]
    if len(bad):
        flows.append(_as_octets(octets, samples, records, bad))
    torn: I64 = bad[records.whole[bad]]
    return torn
