"""The common flow schema: the same 37 columns whatever the protocol.

:data:`TABLE` has one row a column: its name, its type, and what fills it in order of preference.
Everything that needs the schema (encoders, headers, help, documents) is computed from it. Rules:

- The first source whose elements a record has fills the column; no value is invented. A column that is
  not in :attr:`CommonBatch.columns` is null in every row.
- A value that is too big for its column, or an element sent in a length that its type does not have, is
  null: nothing is squeezed. ``flow_type``, ``sequence_num``, ``bytes`` and ``packets`` are never null: the
  counters are 0 where an exporter sends none.
- Reverse elements (RFC 5103) fill nothing: they describe the other direction.
- Options Data Records are not flows and are left out.

Types: ``u8`` to ``u64``; ``time`` (int64 ns since 1970); ``address`` (uint32, or ``(n, 16)`` uint8 with IPv4
as IPv4-mapped where not all rows are IPv4); ``mac`` (uint64); ``label`` (codes into ``labels``). Columns that are
added to these (enrichment) are ``label``, ``i64`` or ``f64``, all three as codes into ``labels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pyflowx import fill
from pyflowx.batch import Array, FlowBatch
from pyflowx.decoded import Decoded, Messages
from pyflowx.elements import IANA_PEN, FieldSpecifier
from pyflowx.fill import IPV4, IPV6, MAC, CommonColumn, Make, Source

__all__ = ["TABLE", "Column", "CommonBatch", "CommonColumn", "Sampling", "to_common", "told_rates"]


@dataclass(slots=True)
class CommonBatch:
    """n flows; ``columns`` holds those that are not null throughout, in the order of :data:`TABLE`."""

    columns: dict[str, CommonColumn]
    n: int

    def __len__(self) -> int:
        return self.n


# What a collector makes of the sampling rates that records and their messages tell (a u32 column or None), with those
# that it knows from elsewhere: options data, its user.
Sampling = Callable[[FlowBatch, Messages, CommonColumn | None], CommonColumn | None]


class Column(NamedTuple):
    """A row of the table."""

    name: str
    type: str
    sources: tuple[Source, ...]
    nullable: bool = True


TABLE: tuple[Column, ...] = (
    Column("flow_type", "label", (fill.fact(fill.flow_type),), nullable=False),
    Column("time_received_ns", "time", (fill.fact(fill.received),)),
    Column("sequence_num", "u32", (fill.fact(fill.sequence),), nullable=False),
    Column(
        "sampling_rate",
        "u32",
        (
            fill.combine(fill.rate, 34),
            fill.combine(fill.rate, 50),
            fill.combine(fill.rate_of_runs, 305, 306),
            fill.combine(fill.rate, 305),
            fill.combine(fill.rate_of_sizes, 309, 310),
            fill.combine(fill.rate_of_probability, 311, read=fill.FLOAT),
            fill.fact(fill.header_rate),
        ),
    ),
    # exporterIPv4Address is there for the case that a proxy hides the exporter (RFC 5655, IANA).
    Column("sampler_address", "address", (*fill.address(130, 131), fill.fact(fill.agent), fill.fact(fill.exporter))),
    Column(
        "time_flow_start_ns",
        "time",
        (
            *fill.time(156, 154, 152, 150),
            fill.combine(fill.deltas, 158),
            fill.combine(fill.uptimes_from_init, 22),
            fill.combine(fill.uptimes, 22),
            *fill.time(325, 324, 323, 322),
            fill.fact(fill.sampled),
        ),
    ),
    Column(
        "time_flow_end_ns",
        "time",
        (
            *fill.time(157, 155, 153, 151),
            fill.combine(fill.deltas, 159),
            fill.combine(fill.uptimes_from_init, 21),
            fill.combine(fill.uptimes, 21),
            *fill.time(325, 324, 323, 322),
            fill.fact(fill.sampled),
        ),
    ),
    # delta, total, initiator, responder, layer 2, post; then the length of a sampled packet
    Column(
        "bytes",
        "u64",
        (*fill.element(1, 85, 231, 232, 352, 353, 23, 171, 312, 224), fill.fact(fill.nothing_counted)),
        False,
    ),
    Column(
        "packets",
        "u64",
        (
            *fill.element(2, 86, 298, 299, 24, 172),
            *(fill.combine(fill.one_packet, id) for id in (312, 224)),
            *(fill.combine(fill.one_packet, id, read=fill.OCTETS) for id in (315, 104, 313, 314, 316, 317)),
            fill.fact(fill.nothing_counted),
        ),
        nullable=False,
    ),
    Column("src_addr", "address", (*fill.address(8, 27), *fill.address(225, 281))),
    Column("dst_addr", "address", (*fill.address(12, 28), *fill.address(226, 282))),
    Column("src_mac", "mac", fill.element(56, 81, read=MAC)),
    Column("dst_mac", "mac", fill.element(80, 57, read=MAC)),
    Column(
        "etype",
        "u16",
        (
            *fill.element(256),
            fill.combine(fill.etype_of_version, 60),
            *(Source((id,), (IPV4,), fill.etype_of_address) for id in (8, 12)),
            *(Source((id,), (IPV6,), fill.etype_of_address) for id in (27, 28)),
        ),
    ),
    Column("proto", "u8", fill.element(4)),
    Column("src_port", "u16", fill.element(7, 180, 182, 227)),
    Column("dst_port", "u16", fill.element(11, 181, 183, 228)),
    Column("in_if", "u32", fill.element(10, 252)),
    Column("out_if", "u32", fill.element(14, 253)),
    Column("ip_tos", "u8", fill.element(5, 55)),
    Column("ip_ttl", "u8", fill.element(192, 52, 53)),
    Column("tcp_flags", "u16", fill.element(6)),
    Column("icmp_type", "u8", fill.icmp((176, 178), 8)),
    Column("icmp_code", "u8", fill.icmp((177, 179), 0)),
    Column("ipv6_flow_label", "u32", fill.element(31)),
    Column("fragment_id", "u32", fill.element(54)),
    Column("fragment_offset", "u16", fill.element(88)),
    Column("src_as", "u32", fill.element(16)),
    Column("dst_as", "u32", fill.element(17)),
    Column("next_hop", "address", fill.address(15, 62)),
    Column("src_net", "u8", fill.by_version(9, 29)),
    Column("dst_net", "u8", fill.by_version(13, 30)),
    Column("bgp_next_hop", "address", fill.address(18, 63)),
    Column("src_vlan", "u16", fill.element(58, 243, 245)),
    Column("dst_vlan", "u16", fill.element(59, 254, 255)),
    Column("observation_domain_id", "u32", (fill.fact(fill.domain),)),
    Column("template_id", "u16", (fill.fact(fill.template),)),
)

# --- from records to the schema --------------------------------------------------------------------------------

RATE = "sampling_rate"
Ways = tuple[tuple[Make, tuple[int, ...]], ...]
Plan = tuple[tuple[Column, Ways], ...]


PLANNED_FIELDS = 1 << 18


class _Plans:
    """Plans by field list. The oldest are forgotten beyond :data:`PLANNED_FIELDS` fields in all: a peer may send any
    number of Templates, and long ones."""

    def __init__(self) -> None:
        self.fields = 0
        self._known: dict[tuple[FieldSpecifier, ...], Plan] = {}

    def of(self, fields: tuple[FieldSpecifier, ...]) -> Plan:
        plan = self._known.get(fields)
        if plan is None:
            plan = self._known[fields] = _plan(fields)
            self.fields += len(fields)
            while self.fields > PLANNED_FIELDS and len(self._known) > 1:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self.fields -= len(oldest)
        return plan


def _plan(fields: tuple[FieldSpecifier, ...]) -> Plan:
    """For each column the sources that these fields allow, with the places of their fields."""
    places: dict[tuple[int, str], int] = {}
    for place, specifier in enumerate(fields):
        read = fill.field_class(specifier)
        if read is not None and specifier.element.pen == IANA_PEN:
            places.setdefault((specifier.element.id, read), place)

    def usable(sources: Sequence[Source]) -> Iterator[tuple[Make, tuple[int, ...]]]:
        for source in sources:
            wanted = [places.get(key) for key in zip(source.elements, source.classes, strict=True)]
            found = tuple(place for place in wanted if place is not None)
            if len(found) == len(wanted):
                yield source.make, found

    plan = ((column, tuple(usable(column.sources))) for column in TABLE)
    return tuple((column, ways) for column, ways in plan if ways)


_plans = _Plans()


def _fill(rows: fill.Rows, column: Column, ways: Ways) -> CommonColumn | None:
    data: Any = rows.flows.columns
    for make, places in ways:
        filled = make(rows, column.type, *(data[place] for place in places))
        if filled is None:
            continue
        if filled.valid is not None and not column.nullable:
            filled = filled._replace(values=np.where(filled.valid, filled.values, 0), valid=None)
        return filled
    return None


def _columns(rows: fill.Rows, sampling: Sampling | None) -> dict[str, CommonColumn]:
    made: dict[str, CommonColumn] = {}
    for column, ways in _plans.of(rows.flows.fields):
        filled = _fill(rows, column, ways)
        if sampling is not None and column.name == RATE:
            filled = sampling(rows.flows, rows.facts.messages, filled)
        if filled is not None:
            made[column.name] = filled
    return made


def told_rates(flows: FlowBatch, decoded: Decoded) -> Array:
    """The sampling rate that each record tells, by any of the elements that tell one (u32); 0 where none does."""
    rows, rates = fill.Rows(flows, fill.Facts(decoded.protocol, decoded.messages)), np.zeros(len(flows), np.uint32)
    for column, ways in _plans.of(flows.fields):
        for way in ways if column.name == RATE else ():
            filled = _fill(rows, column, (way,))
            if filled is not None:
                told = filled.values if filled.valid is None else np.where(filled.valid, filled.values, 0)
                rates = np.where(rates == 0, told, rates)
    return rates


def to_common(decoded: Decoded, sampling: Sampling | None = None) -> list[CommonBatch]:
    """The flows of a Decoded, a batch for each of its FlowBatches that is not of options data."""
    facts = fill.Facts(decoded.protocol, decoded.messages)
    batches = []
    for flows in decoded.flows:
        if flows.scope_count or not len(flows):
            continue
        batches.append(CommonBatch(_columns(fill.Rows(flows, facts), sampling), len(flows)))
    return batches
