"""The Exporting Process (RFC 5470 §5.3): kernel maps -> flow table -> IPFIX Messages -> collector.

One tick a second drains the meter, ages the flows and sends what ended. Which Information Elements a
record has depends on what is known of it (:data:`FIELDS`): no TCP flags for UDP, no VLAN for an untagged
packet, no egress interface for what came in. A collector sees "absent" where nothing was seen.
"""

from __future__ import annotations

import enum
import functools
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from pyflowx.batch import Array, Column, Datagrams, FlowBatch, Octets
from pyflowx.elements import FieldSpecifier, default_registry
from pyflowx.flowtable import KEEP, EndReason, FlowRecords, FlowTable
from pyflowx.kernel import KEY_DTYPE, VALUE_DTYPE, Attachment
from pyflowx.wire.ipfix import Encoder

TICK_NS = 1_000_000_000
TICK_SPREAD_S = 0.7  # the part of a tick that sending may take
END_SPREAD_S = 3.0  # ... and the time that the last flows may take
SLOW_RATE = 5000  # Messages a second, if there are no more than fit in that time
BURST = 16

MERGES: dict[str, np.ufunc | None] = {
    "packets": np.add,
    "octets": np.add,
    "l2_octets": np.add,
    "first_ns": np.minimum,
    "last_ns": np.maximum,
    "tcp_flags": np.bitwise_or,
    "fragment_flags": np.bitwise_or,
    "extensions": np.bitwise_or,
    "length_min": np.minimum,
    "length_max": np.maximum,
    "ttl_min": np.minimum,
    "ttl_max": np.maximum,
    "icmp_type": KEEP,
    "icmp_code": KEEP,
    "mpls_depth": KEEP,
    "mpls_1": KEEP,
    "mpls_2": KEEP,
    "mpls_3": KEEP,
    "flow_label": KEEP,
    "fragment_id": KEEP,
    "tcp_window": KEEP,
    "tcp_mss": np.maximum,
    "tcp_window_scale": np.maximum,
    "dst_mac": KEEP,
    "src_mac": KEEP,
    "ethertype": KEEP,
}
"""How the values of a flow add up from tick to tick."""


class Trait(enum.IntFlag):
    """What is known of a flow; decides which fields its record has."""

    IPV4 = 1
    IPV6 = 2
    IP = 4  # not set: the catch-all flow of what found the map full
    PORTS = 8
    TCP = 16
    ICMP = 32
    VLAN = 64
    INGRESS = 128
    EGRESS = 256
    INNER_VLAN = 512
    MPLS = 1024
    SYN = 2048
    SEGMENT = 4096


_ICMP4, _ICMP6 = Trait.ICMP | Trait.IPV4, Trait.ICMP | Trait.IPV6
_ALWAYS = Trait(0)


class Field(NamedTuple):
    """A field of our records: element, where its value comes from, the traits it needs, octets (None: natural)."""

    element: str
    source: str
    needs: Trait = Trait.IP
    length: int | None = None


FIELDS = (
    Field("sourceIPv4Address", "src", Trait.IPV4),
    Field("destinationIPv4Address", "dst", Trait.IPV4),
    Field("sourceIPv6Address", "src", Trait.IPV6),
    Field("destinationIPv6Address", "dst", Trait.IPV6),
    Field("sourceTransportPort", "src_port", Trait.PORTS),
    Field("destinationTransportPort", "dst_port", Trait.PORTS),
    Field("protocolIdentifier", "protocol"),
    Field("ipClassOfService", "tos"),
    Field("tcpControlBits", "tcp_flags", Trait.TCP),
    Field("icmpTypeIPv4", "icmp_type", _ICMP4),
    Field("icmpCodeIPv4", "icmp_code", _ICMP4),
    Field("icmpTypeIPv6", "icmp_type", _ICMP6),
    Field("icmpCodeIPv6", "icmp_code", _ICMP6),
    Field("dot1qVlanId", "vlan", Trait.VLAN),
    Field("dot1qCustomerVlanId", "inner_vlan", Trait.INNER_VLAN),
    Field("layer2SegmentId", "segment", Trait.SEGMENT),
    Field("sourceMacAddress", "src_mac"),
    Field("destinationMacAddress", "dst_mac"),
    Field("ethernetType", "ethertype"),
    Field("mplsLabelStackDepth", "mpls_depth", Trait.MPLS),
    Field("mplsTopLabelStackSection", "mpls_1", Trait.MPLS, 3),
    Field("mplsLabelStackSection2", "mpls_2", Trait.MPLS, 3),
    Field("mplsLabelStackSection3", "mpls_3", Trait.MPLS, 3),
    Field("flowLabelIPv6", "flow_label", Trait.IPV6),
    Field("ipv6ExtensionHeaders", "extensions", Trait.IPV6),
    Field("fragmentFlags", "fragment_flags"),
    Field("fragmentIdentification", "fragment_id"),
    Field("tcpWindowSize", "tcp_window", Trait.TCP),
    Field("tcpMaximumSegmentSize", "tcp_mss", Trait.SYN),
    Field("tcpWindowScale", "tcp_window_scale", Trait.SYN),
    Field("ingressInterface", "ifindex", Trait.INGRESS),
    Field("egressInterface", "ifindex", Trait.EGRESS),
    Field("flowDirection", "direction", _ALWAYS),
    Field("packetDeltaCount", "packets", _ALWAYS),
    Field("octetDeltaCount", "octets", _ALWAYS),
    Field("layer2OctetDeltaCount", "l2_octets", _ALWAYS),
    Field("flowStartMilliseconds", "first_ns", _ALWAYS),
    Field("flowEndMilliseconds", "last_ns", _ALWAYS),
    Field("minimumTTL", "ttl_min"),
    Field("maximumTTL", "ttl_max"),
    Field("minimumIpTotalLength", "length_min", Trait.IP, 4),
    Field("maximumIpTotalLength", "length_max", Trait.IP, 4),
    Field("flowEndReason", "reason", _ALWAYS),
)

KEY_NAMES = frozenset(KEY_DTYPE.fields or ())
_BY_PROTOCOL = np.zeros((2, 256), np.uint16)  # of IPv4, of IPv6
_BY_PROTOCOL[:, [6, 17, 33, 132, 136]] = Trait.PORTS  # TCP, UDP, DCCP, SCTP, UDP-Lite
_BY_PROTOCOL[:, 6] = Trait.PORTS | Trait.TCP
_BY_PROTOCOL[[0, 1], [1, 58]] = Trait.ICMP
_BY_VALUE = (  # (of the key, field that is not 0, trait)
    (True, "vlan", Trait.VLAN),
    (True, "inner_vlan", Trait.INNER_VLAN),
    (True, "segment", Trait.SEGMENT),
    (False, "mpls_depth", Trait.MPLS),
    (False, "tcp_mss", Trait.SYN),
)
_BY_PROTOCOL[0] |= int(Trait.IPV4 | Trait.IP)
_BY_PROTOCOL[1] |= int(Trait.IPV6 | Trait.IP)


def traits(keys: Array, values: Array) -> npt.NDArray[np.uint16]:
    """The :class:`Trait` flags of each of n flows (KEY_DTYPE, VALUE_DTYPE)."""
    version = keys["ip_version"]
    of_ip = _BY_PROTOCOL[(version == 6).astype(np.intp), keys["protocol"]]
    for part, name, trait in _BY_VALUE:
        of_ip = of_ip | np.where((keys if part else values)[name] > 0, trait, 0)
    hook = np.where(keys["direction"] == 0, Trait.INGRESS, Trait.EGRESS)
    return (np.where(version == 0, 0, of_ip) | hook).astype(np.uint16)


@functools.cache
def template(known: Trait) -> tuple[tuple[FieldSpecifier, ...], tuple[str, ...]]:
    """The fields of a record with these traits, and where the value of each comes from."""
    rows = [row for row in FIELDS if row.needs & known == row.needs]
    registry = default_registry()
    return tuple(registry.field(row.element, row.length) for row in rows), tuple(row.source for row in rows)


def _column(name: str, values: Array, offset_ns: int) -> Column:
    """A column of the element's abstract data type from a field of the kernel's or the table's."""
    if name == "ipv4Address":
        return np.ascontiguousarray(values[:, 12:]).view(">u4")[:, 0].astype(np.uint32)
    if name == "dateTimeMilliseconds":
        return (np.maximum(values.astype(np.int64) + offset_ns, 0) // 1_000_000).astype(np.uint64)
    if name == "macAddress":
        wide = np.zeros((len(values), 8), np.uint8)
        wide[:, 2:] = values
        return wide.view(">u8")[:, 0].astype(np.uint64)
    if name == "octetArray":
        width = values.shape[1]
        starts = np.arange(len(values), dtype=np.int64) * width
        return Octets(np.ascontiguousarray(values).reshape(-1), starts, np.full(len(values), width, np.int64))
    if name.startswith("unsigned"):
        return values.astype(f"u{int(name.removeprefix('unsigned')) // 8}")
    return np.ascontiguousarray(values)


def flow_batches(records: FlowRecords, offset_ns: int) -> list[FlowBatch]:
    """Flow Records with the kernel's keys and values as FlowBatches, one for each set of fields.

    ``offset_ns`` is added to the flows' times to get ns since 1970.
    """
    known = traits(records.keys, records.values)
    batches = []
    for combination in np.unique(known).tolist():
        rows = np.flatnonzero(known == combination)
        fields, sources = template(Trait(combination))
        keys, values, reason = np.take(records.keys, rows), np.take(records.values, rows), records.reason[rows]
        columns = []
        for specifier, source in zip(fields, sources, strict=True):
            part = reason if source == "reason" else keys[source] if source in KEY_NAMES else values[source]
            columns.append(_column(specifier.element.data_type.name, part, offset_ns))
        batches.append(FlowBatch(fields, columns))
    return batches


class MeterPart(Protocol):
    """What the Exporter needs of :class:`pyflowx.kernel.Meter`."""

    def attach(self) -> list[Attachment]: ...
    def drain(self) -> tuple[Array, Array]: ...
    def offset_ns(self) -> int: ...
    def detach(self) -> None: ...


class SenderPart(Protocol):
    """What the Exporter needs of :class:`pyflowx.transport.udp.UdpSender`."""

    def send(self, datagrams: Datagrams) -> object: ...


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Timeouts and the template refresh are in seconds, ``max_flows`` bounds the flow table."""

    active_timeout: float = 60
    inactive_timeout: float = 15
    template_refresh_rate: float = 300
    observation_domain_id: int = 1
    max_flows: int = 1 << 18


@dataclass(slots=True)
class ExportCounters:
    """What happened since the start. Metered is what came out of the maps, exported what records said."""

    ticks: int = 0
    slow_ticks: int = 0  # took longer than a tick
    skipped_ticks: int = 0  # were not begun for that reason
    packets_metered: int = 0
    octets_metered: int = 0
    l2_octets_metered: int = 0
    packets_exported: int = 0
    octets_exported: int = 0
    l2_octets_exported: int = 0
    flows: Counter[EndReason] = field(default_factory=Counter)
    messages: int = 0
    message_octets: int = 0
    template_messages: int = 0
    last_tick_ns: int = 0

    def metered(self, values: Array) -> None:
        self.packets_metered += int(values["packets"].sum())
        self.octets_metered += int(values["octets"].sum())
        self.l2_octets_metered += int(values["l2_octets"].sum())

    def exported(self, records: FlowRecords) -> None:
        self.packets_exported += int(records.values["packets"].sum())
        self.octets_exported += int(records.values["octets"].sum())
        self.l2_octets_exported += int(records.values["l2_octets"].sum())
        for reason, count in enumerate(np.bincount(records.reason).tolist()):
            if count:
                self.flows[EndReason(reason)] += count


class Exporter:
    """Runs meter, table, encoder and sender; meter and sender stay the caller's to close.

    ``start()`` attaches, ``run()`` ticks until ``stop()`` (safe in a signal handler) and then drains: the
    programs are detached first, so that what they counted is complete, and all flows go out with
    reason 4.
    """

    def __init__(self, meter: MeterPart, sender: SenderPart, config: ExportConfig) -> None:
        self._meter, self._sender = meter, sender
        self._table = FlowTable(
            KEY_DTYPE,
            VALUE_DTYPE,
            MERGES,
            active_ns=int(config.active_timeout * 1e9),
            idle_ns=int(config.inactive_timeout * 1e9),
            max_flows=config.max_flows,
        )
        self._encoder = Encoder(config.observation_domain_id)
        self._templates: set[int] = set()
        self._refresh_ns = int(config.template_refresh_rate * 1e9)
        self._next_refresh_ns = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self.counters = ExportCounters()
        self.observe: Callable[[Sequence[FlowBatch], int], None] | None = None
        """Is shown the flows that are exported, and the Export Time in ns."""

    def __len__(self) -> int:
        """Flows in the table."""
        return len(self._table)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> list[Attachment]:
        return self._meter.attach()

    def stop(self) -> None:
        """End ``run()`` soon."""
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Tick until ``stop()``, then :meth:`finish`. Ticks keep their pace: the n-th is due n s after the start."""
        due = time.monotonic_ns() + TICK_NS
        while not self._stopped(due):
            begin = time.monotonic_ns()
            self.tick()
            end = time.monotonic_ns()
            self.counters.last_tick_ns = end - begin
            self.counters.slow_ticks += end - begin > TICK_NS
            due += TICK_NS
            if end > due:
                late = (end - due) // TICK_NS + 1
                self.counters.skipped_ticks += late
                due += late * TICK_NS
        self.finish()

    def _stopped(self, due_ns: int) -> bool:
        """Wait until a tick is due or ``stop()``."""
        return bool(self._poll.poll(max(0, due_ns - time.monotonic_ns()) / 1e6))

    def tick(self) -> None:
        """Drain, age, send what ended."""
        ended = self._drain()
        now = time.monotonic_ns()
        self._export([*ended, self._table.expire(now)], now, TICK_SPREAD_S)
        self.counters.ticks += 1

    def finish(self) -> None:
        """Detach, drain once more, send all flows."""
        try:
            self._meter.detach()
        finally:
            ended = self._drain()
            self._export([*ended, self._table.flush()], time.monotonic_ns(), END_SPREAD_S)

    def close(self) -> None:
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _drain(self) -> list[FlowRecords]:
        """The meter's deltas into the table; what had to leave for lack of room, in the kernel's map or here."""
        keys, values = self._meter.drain()
        self.counters.metered(values)
        full = keys["ip_version"] == 0
        if not full.any():
            return [self._table.update(keys, values)]
        reason = np.full(np.count_nonzero(full), EndReason.LACK_OF_RESOURCES, np.uint8)
        return [FlowRecords(keys[full], values[full], reason), self._table.update(keys[~full], values[~full])]

    def _export(self, parts: Sequence[FlowRecords], now_ns: int, spread_s: float) -> None:
        offset_ns, export_ns = self._meter.offset_ns(), time.time_ns()
        batches = []
        for records in parts:
            if len(records):
                self.counters.exported(records)
                batches += flow_batches(records, offset_ns)
        if self.observe is not None:
            self.observe(batches, export_ns)
        messages = self._templates_for(batches, now_ns, export_ns)
        messages += [self._encoder.encode(batch, export_ns) for batch in batches]
        self._send(messages, spread_s)

    def _templates_for(self, batches: Sequence[FlowBatch], now_ns: int, export_ns: int) -> list[Datagrams]:
        """All Templates, where a new one is needed or the refresh is due (RFC 7011 §8.4: UDP may lose them)."""
        known = len(self._templates)
        self._templates.update(self._encoder.register(batch.fields) for batch in batches)
        if len(self._templates) == known and (not known or now_ns < self._next_refresh_ns):
            return []
        self._next_refresh_ns = now_ns + self._refresh_ns
        messages = self._encoder.template_messages(export_ns)
        self.counters.template_messages += len(messages)
        return [messages]

    def _send(self, parts: Sequence[Datagrams], spread_s: float) -> None:
        """Send in small bursts, spread over ``spread_s`` where there are many: a socket's usual receive
        buffer holds some 90 Messages."""
        total = sum(len(messages) for messages in parts)
        rate = max(SLOW_RATE, total / spread_s)
        begin, sent = time.monotonic(), 0
        for messages in parts:
            for row in range(0, len(messages), BURST):
                burst = Datagrams(messages.data[row : row + BURST], messages.length[row : row + BURST])
                self._sender.send(burst)
                sent += len(burst)
                self.counters.message_octets += int(burst.length.sum())
                if sent < total and (early := begin + sent / rate - time.monotonic()) > 0:
                    time.sleep(early)
        self.counters.messages += sent
