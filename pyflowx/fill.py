"""What fills a column of the common schema: elements, header facts, formulas. ``common.TABLE`` is made of these.

A :class:`Source` names the IANA elements that a record must have, how each is read, and what is made of their
columns; all of it works on columns. A value that does not fit its column is null, never squeezed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import V4_MAPPED, Array, FlowBatch
from pyflowx.decoded import Messages, Protocol
from pyflowx.elements import IANA_PEN, FieldSpecifier, to_nanoseconds

Mask = npt.NDArray[np.bool_]

FLOW_TYPES = ("NETFLOW_V5", "NETFLOW_V9", "IPFIX", "SFLOW_V5", "NETFLOW_V1", "NETFLOW_V7")
_FLOW_TYPE = {Protocol[name]: code for code, name in enumerate(FLOW_TYPES)}
_INTEGERS = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64}
_MS = 1_000_000
_UPTIME_WRAP = (1 << 32) * _MS  # sysUptime counts milliseconds in 32 bits: 49.7 days
_TIME_LIMIT = 1 << 62  # far enough from the end of int64 to add and subtract


class Joint(NamedTuple):
    """What columns that a look-up gave together have in common: rows with equal ``records`` (int32, from -1 up to below
    ``size``) are equal in all of them, for as long as ``table`` is the same object."""

    records: Array
    size: int
    table: object


class CommonColumn(NamedTuple):
    """n values; ``valid`` is a mask of those that are not null, None where all are.

    Where ``labels`` is not None, ``values`` are codes into it (any where not valid). A tuple never changes; a list may
    grow at its end later, and is one list for as long as its labels keep their codes.
    """

    type: str
    values: Array
    valid: Mask | None = None
    labels: Sequence[str | int | float] | None = None
    joint: Joint | None = None


class Facts:
    """What the rows take from their Messages, computed once for all batches of a decode call."""

    def __init__(self, protocol: Protocol, messages: Messages) -> None:
        self.protocol, self.messages = protocol, messages

    @functools.cached_property
    def exporter(self) -> Array:
        return compact_addresses(self.messages.exporter)

    def header(self, name: str) -> Array | None:
        return self.messages.header.get(name)


class Rows:
    """One FlowBatch beside its Messages."""

    def __init__(self, flows: FlowBatch, facts: Facts) -> None:
        self.flows, self.facts = flows, facts

    def __len__(self) -> int:
        return len(self.flows)

    def of(self, per_message: Array) -> Array:
        """One entry a Message to one a row."""
        return per_message.take(self.flows.message, axis=0)

    def number(self, id: int) -> Array | None:
        """The column of an IANA element if it is of numbers."""
        found = self.flows.find(IANA_PEN, id)
        return found if isinstance(found, np.ndarray) and found.ndim == 1 and found.dtype.kind in "ui" else None

    @functools.cached_property
    def is_ipv6(self) -> Mask:
        """ipVersion if sent; else which of the source addresses is there, and where both are, which is not zero."""
        version = self.number(60)
        if version is not None:
            return np.asarray(version == 6)
        for ipv4, ipv6 in ((8, 27), (12, 28)):
            four, six = self.number(ipv4), self.flows.find(IANA_PEN, ipv6)
            if isinstance(six, np.ndarray) and six.ndim == 2:
                return six.any(axis=1) & (four == 0) if four is not None else np.ones(len(self), bool)
        return np.zeros(len(self), bool)

    @functools.cached_property
    def is_icmp6(self) -> Mask:
        protocol = self.number(4)
        return np.asarray(protocol == 58) if protocol is not None else self.is_ipv6


def compact_addresses(addresses: Array) -> Array:
    """``(n, 16)`` to uint32 where all rows are IPv4-mapped, else as it is."""
    if (addresses[:, :12] == np.frombuffer(V4_MAPPED, np.uint8)).all():
        return np.ascontiguousarray(addresses[:, 12:]).view(">u4")[:, 0].astype(np.uint32)
    return addresses


def wide_addresses(addresses: Array) -> Array:
    """An address column as ``(n, 16)`` uint8, IPv4 as IPv4-mapped."""
    if addresses.ndim == 2:
        return addresses
    wide = np.empty((len(addresses), 16), np.uint8)
    wide[:, :12] = np.frombuffer(V4_MAPPED, np.uint8)
    wide[:, 12:] = addresses.astype(">u4").view(np.uint8).reshape(-1, 4)
    return wide


def integers(type: str, values: Array, valid: Mask | None = None) -> CommonColumn:
    """Integers as a column of ``type``; what does not fit is null."""
    dtype, source = np.dtype(_INTEGERS[type]), values.dtype
    limit = (1 << 8 * dtype.itemsize) - 1
    if source.kind == "i" and len(values) and values.min() < 0:
        valid = (values >= 0) if valid is None else valid & (values >= 0)
    if source.itemsize > dtype.itemsize and len(values) and values.max() > limit:
        valid = (values <= limit) if valid is None else valid & (values <= limit)
    return CommonColumn(type, values.astype(dtype, copy=False), valid)


def _times(ns: Array, valid: Mask | None = None) -> CommonColumn:
    return CommonColumn("time", ns, None if valid is None or valid.all() else valid)


# --- what fills a column ---------------------------------------------------------------------------------------

Make = Callable[..., CommonColumn | None]  # (rows, type of the column, one column for each element)
NUMBER, FLOAT, TIME, MAC, IPV4, IPV6, OCTETS = "number", "float", "time", "mac", "ipv4", "ipv6", "octets"
_CLASSES = {"macAddress": MAC, "ipv4Address": IPV4, "ipv6Address": IPV6, "float32": FLOAT, "float64": FLOAT}


def field_class(specifier: FieldSpecifier) -> str | None:
    """How a field can be read; None for one in a length that its type does not have."""
    data_type = specifier.element.data_type
    if not specifier.has_column:
        return OCTETS if data_type.name == "octetArray" else None
    if data_type.is_time:
        return TIME
    return NUMBER if data_type.name.startswith(("unsigned", "signed")) else _CLASSES.get(data_type.name)


class Source(NamedTuple):
    """One way to fill a column: the IANA elements that a record must have, how each is read, what is made of them.

    No elements: the Message says it. ``make`` may return None: not here after all.
    """

    elements: tuple[int, ...]
    classes: tuple[str, ...]
    make: Make


def fact(make: Make) -> Source:
    return Source((), (), make)


def combine(make: Make, *elements: int, read: str = NUMBER) -> Source:
    return Source(elements, (read,) * len(elements), make)


def element(*ids: int, read: str = NUMBER) -> tuple[Source, ...]:
    """Each of these elements as it is, the first that is there."""

    def make(rows: Rows, type: str, values: Array) -> CommonColumn:
        return CommonColumn("mac", values) if read == MAC else integers(type, values)

    return tuple(Source((id,), (read,), make) for id in ids)


def time(*ids: int) -> tuple[Source, ...]:
    def of(id: int) -> Source:
        return Source((id,), (TIME,), lambda rows, type, values: _times(*to_nanoseconds(_TIME_TYPES[id], values)))

    return tuple(of(id) for id in ids)


def address(ipv4: int, ipv6: int) -> tuple[Source, ...]:
    """The element of the row's IP version, where a Template has both (the other one is then filled with zeros)."""

    def both(rows: Rows, type: str, four: Array, six: Array) -> CommonColumn:
        if not rows.is_ipv6.any():
            return CommonColumn(type, four)
        return CommonColumn(type, np.where(rows.is_ipv6[:, None], six, wide_addresses(four)))

    def one(rows: Rows, type: str, values: Array) -> CommonColumn:
        return CommonColumn(type, values)

    return (
        Source((ipv4, ipv6), (IPV4, IPV6), both),
        Source((ipv4,), (IPV4,), one),
        Source((ipv6,), (IPV6,), one),
    )


def by_version(ipv4: int, ipv6: int) -> tuple[Source, ...]:
    """Numbers that IPv4 and IPv6 have elements of their own for."""

    def both(rows: Rows, type: str, four: Array, six: Array) -> CommonColumn:
        return integers(type, np.where(rows.is_ipv6, six, four))

    return combine(both, ipv4, ipv6), *element(ipv4, ipv6)


def icmp(own: tuple[int, int], shift: int) -> tuple[Source, ...]:
    """ICMP type (shift 8) or code (0): elements of their own, the two in one element, or in the destination port.

    NetFlow v5 and v9 exporters put ``type * 256 + code`` where TCP has its destination port.
    """

    def part(rows: Rows, type: str, values: Array) -> CommonColumn:
        return integers(type, values >> shift if shift else values & 0xFF)

    def both(rows: Rows, type: str, four: Array, six: Array) -> CommonColumn:
        return integers(type, np.where(rows.is_icmp6, six, four))

    def both_parts(rows: Rows, type: str, four: Array, six: Array) -> CommonColumn:
        return part(rows, type, np.where(rows.is_icmp6, six, four))

    def port(rows: Rows, type: str, ports: Array, protocol: Array) -> CommonColumn | None:
        icmp = (protocol == 1) | (protocol == 58)
        return part(rows, type, ports)._replace(valid=icmp) if icmp.any() else None

    return (
        combine(both, *own),
        *element(*own),
        combine(both_parts, 32, 139),
        combine(part, 32),
        combine(part, 139),
        combine(port, 11, 4),
    )


# --- facts and formulas ----------------------------------------------------------------------------------------


def flow_type(rows: Rows, type: str) -> CommonColumn:
    code = np.uint8(_FLOW_TYPE[rows.facts.protocol])
    return CommonColumn(type, np.broadcast_to(code, len(rows)), labels=FLOW_TYPES)


def received(rows: Rows, type: str) -> CommonColumn:
    return CommonColumn(type, rows.of(rows.facts.messages.received_ns))


def sequence(rows: Rows, type: str) -> CommonColumn:
    return integers(type, rows.of(rows.facts.messages.sequence_number))


def domain(rows: Rows, type: str) -> CommonColumn:
    return integers(type, rows.of(rows.facts.messages.observation_domain_id))


def template(rows: Rows, type: str) -> CommonColumn:
    return _positive(integers(type, rows.flows.template_id))


def exporter(rows: Rows, type: str) -> CommonColumn:
    return CommonColumn(type, rows.of(rows.facts.exporter))


def agent(rows: Rows, type: str) -> CommonColumn | None:
    """sFlow names the sampler in the datagram, which a relay may have sent on."""
    agent = rows.facts.header("agent_address")
    if agent is None or agent.ndim != 2:
        return None
    return CommonColumn(type, rows.of(compact_addresses(agent)))


def sampled(rows: Rows, type: str) -> CommonColumn | None:
    """An sFlow sample is a packet that was seen just before its datagram was sent."""
    return received(rows, type) if rows.facts.protocol is Protocol.SFLOW_V5 else None


def header_rate(rows: Rows, type: str) -> CommonColumn | None:
    rate = rows.facts.header("sampling_interval")  # NetFlow v5
    return None if rate is None else _positive(integers(type, rows.of(rate)))


def _positive(column: CommonColumn) -> CommonColumn:
    """0 says "none" here."""
    if column.values.all():
        return column
    valid = column.values != 0
    return column._replace(valid=valid if column.valid is None else valid & column.valid)


def rate(rows: Rows, type: str, rate: Array) -> CommonColumn:
    return _positive(integers(type, rate))


def rate_of_runs(rows: Rows, type: str, interval: Array, space: Array) -> CommonColumn:
    """samplingPacketInterval packets taken, then samplingPacketSpace left out (RFC 5477 §8.2)."""
    return rate_of_sizes(rows, type, interval, interval.astype(np.uint64) + space.astype(np.uint64))


def rate_of_sizes(rows: Rows, type: str, size: Array, population: Array) -> CommonColumn:
    """samplingSize out of samplingPopulation, rounded to the nearest whole rate."""
    count = np.maximum(size.astype(np.uint64), 1)
    rate = (population.astype(np.uint64) + count // 2) // count
    return _positive(integers(type, np.where(size > 0, rate, 0)))


def rate_of_probability(rows: Rows, type: str, probability: Array) -> CommonColumn:
    """samplingProbability (RFC 5477 §8.2.5), rounded to the nearest whole rate."""
    some = (probability > 2.0**-32) & (probability <= 1)  # not a number is neither
    rate = np.rint(1 / np.where(some, probability, 1).astype(np.float64)).astype(np.uint64)
    return _positive(integers(type, np.where(some, rate, 0)))


def deltas(rows: Rows, type: str, microseconds: Array) -> CommonColumn:
    """flowStart/EndDeltaMicroseconds: before the export time."""
    return _times(rows.of(rows.facts.messages.export_ns) - microseconds.astype(np.int64) * 1000)


def uptimes(rows: Rows, type: str, ms: Array) -> CommonColumn | None:
    boot = rows.of(rows.facts.messages.boot_ns)
    return _from_boot(rows, boot, boot != 0, ms) if boot.any() else None


def uptimes_from_init(rows: Rows, type: str, ms: Array) -> CommonColumn | None:
    """The same with systemInitTimeMilliseconds in the record (RFC 7011 has no sysUptime in its header)."""
    init = rows.flows.find(IANA_PEN, 160)
    if not isinstance(init, np.ndarray):
        return None
    return _from_boot(rows, *to_nanoseconds("dateTimeMilliseconds", init), ms)


def _from_boot(rows: Rows, boot: Array, valid: Mask, ms: Array) -> CommonColumn:
    """sysUptime in ms as time. It wraps after 49.7 days: the reading nearest to the export time is meant."""
    valid = valid & (np.abs(boot) < _TIME_LIMIT) & (ms < 1 << 32)
    ns = np.where(valid, boot, 0) + np.where(valid, ms, 0).astype(np.int64) * _MS
    export = rows.of(rows.facts.messages.export_ns)
    return _times(ns + (export - ns + _UPTIME_WRAP // 2) // _UPTIME_WRAP * _UPTIME_WRAP, valid)


def etype_of_version(rows: Rows, type: str, version: Array) -> CommonColumn:
    valid = (version == 4) | (version == 6)
    return CommonColumn(type, np.where(version == 6, 0x86DD, 0x0800).astype(np.uint16), None if valid.all() else valid)


def etype_of_address(rows: Rows, type: str, *_: Array) -> CommonColumn:
    return CommonColumn(type, np.where(rows.is_ipv6, 0x86DD, 0x0800).astype(np.uint16))


def nothing_counted(rows: Rows, type: str) -> CommonColumn:
    return CommonColumn(type, np.broadcast_to(np.uint64(0), len(rows)))


def one_packet(rows: Rows, type: str, *_: Array) -> CommonColumn:
    """A record of a sampled packet (RFC 5476, sFlow) stands for one."""
    return CommonColumn(type, np.broadcast_to(np.uint64(1), len(rows)))


_TIME_TYPES = dict.fromkeys((150, 151, 322), "dateTimeSeconds")
_TIME_TYPES |= dict.fromkeys((152, 153, 323), "dateTimeMilliseconds")
_TIME_TYPES |= dict.fromkeys((154, 155, 324), "dateTimeMicroseconds")
_TIME_TYPES |= dict.fromkeys((156, 157, 325), "dateTimeNanoseconds")
