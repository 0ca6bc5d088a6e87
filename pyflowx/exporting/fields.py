"""Which Information Elements a record has, and their columns from what the kernel counted.

One table for IPFIX and NetFlow v9 (:data:`FIELDS`), one for v5. Which rows of it a record has depends on what is
known of the flow (:class:`Trait`): no TCP flags for UDP, no VLAN for an untagged packet, no egress interface for
what came in. A collector sees "absent" where nothing was seen.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import Array, Column, FlowBatch, Octets
from pyflowx.elements import FieldSpecifier, default_registry, from_nanoseconds, reverse_name
from pyflowx.flowtable import KEEP, FlowRecords
from pyflowx.kernel.layout import Tunnel, dtypes

PROTOCOLS = ("ipfix", "netflow9", "netflow5")
MAX_BATCH = 1 << 13  # records: what is done with their columns stays in a processor's cache
SELECTOR = 1  # the only one (RFC 5476 §3.2)
_INITIATOR = 1  # biflowDirection: the forward direction is that of the first packet
TIME_UNITS = {"ms": "Milliseconds", "us": "Microseconds", "ns": "Nanoseconds", "s": "Seconds"}

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

    IPV4 = 1 << 0
    IPV6 = 1 << 1
    IP = 1 << 2  # not set: not IP, or the catch-all flow of what found the map full
    PROTOCOL = 1 << 3
    TOS = 1 << 4
    PORTS = 1 << 5
    TCP = 1 << 6
    SYN = 1 << 7
    ICMP = 1 << 8
    IGMP = 1 << 9
    FRAGMENT = 1 << 10  # of IPv6; IPv4 has the fields in each packet
    EXTENSIONS = 1 << 11
    LINK = 1 << 12
    VLAN = 1 << 13
    INNER_VLAN = 1 << 14
    MPLS = 1 << 15
    MPLS_2 = 1 << 16
    MPLS_3 = 1 << 17
    SEGMENT = 1 << 18
    GRE = 1 << 19
    INGRESS = 1 << 20
    EGRESS = 1 << 21
    REVERSE = 1 << 22  # packets of both directions (RFC 5103)
    SAMPLED = 1 << 23
    SPI = 1 << 24


_ICMP4, _ICMP6 = Trait.ICMP | Trait.IPV4, Trait.ICMP | Trait.IPV6
_ALWAYS = Trait(0)


class Field(NamedTuple):
    """A field of our records: element, where its value comes from, the traits it needs, octets (None: natural).

    ``each_way``: what a Biflow says for its reverse direction too.
    """

    element: str
    source: str
    needs: Trait = Trait.IP
    length: int | None = None
    each_way: bool = False


FIELDS = (
    Field("sourceIPv4Address", "src", Trait.IPV4),
    Field("destinationIPv4Address", "dst", Trait.IPV4),
    Field("sourceIPv6Address", "src", Trait.IPV6),
    Field("destinationIPv6Address", "dst", Trait.IPV6),
    Field("sourceTransportPort", "src_port", Trait.PORTS),
    Field("destinationTransportPort", "dst_port", Trait.PORTS),
    Field("protocolIdentifier", "protocol", Trait.PROTOCOL),
    Field("ipClassOfService", "tos", Trait.TOS, each_way=True),
    Field("tcpControlBits", "tcp_flags", Trait.TCP, each_way=True),
    Field("tcpWindowSize", "tcp_window", Trait.TCP, each_way=True),
    Field("tcpMaximumSegmentSize", "tcp_mss", Trait.SYN),
    Field("tcpWindowScale", "tcp_window_scale", Trait.SYN),
    Field("icmpTypeCodeIPv4", "icmp", _ICMP4),  # what most collectors look for; the two below are more exact
    Field("icmpTypeCodeIPv6", "icmp", _ICMP6),
    Field("icmpTypeIPv4", "icmp_type", _ICMP4, each_way=True),
    Field("icmpCodeIPv4", "icmp_code", _ICMP4, each_way=True),
    Field("icmpTypeIPv6", "icmp_type", _ICMP6, each_way=True),
    Field("icmpCodeIPv6", "icmp_code", _ICMP6, each_way=True),
    Field("igmpType", "icmp_type", Trait.IGMP),
    Field("flowLabelIPv6", "flow_label", Trait.IPV6, each_way=True),
    Field("ipv6ExtensionHeadersFull", "extensions", Trait.EXTENSIONS, 4),
    Field("fragmentFlags", "fragment_flags", Trait.IPV4),
    Field("fragmentFlags", "fragment_flags", Trait.FRAGMENT),
    Field("fragmentIdentification", "fragment_id", Trait.IPV4),
    Field("fragmentIdentification", "fragment_id", Trait.FRAGMENT),
    Field("sourceMacAddress", "src_mac", Trait.LINK),
    Field("destinationMacAddress", "dst_mac", Trait.LINK),
    Field("ethernetType", "ethertype", Trait.LINK),
    Field("vlanId", "vlan", Trait.VLAN),  # likewise
    Field("dot1qVlanId", "vlan", Trait.VLAN),
    Field("dot1qCustomerVlanId", "inner_vlan", Trait.INNER_VLAN),
    Field("mplsLabelStackDepth", "mpls_depth", Trait.MPLS, 1),
    Field("mplsTopLabelStackSection", "mpls_1", Trait.MPLS, 3),
    Field("mplsLabelStackSection2", "mpls_2", Trait.MPLS_2, 3),
    Field("mplsLabelStackSection3", "mpls_3", Trait.MPLS_3, 3),
    Field("layer2SegmentId", "segment_id", Trait.SEGMENT),
    Field("greKey", "segment", Trait.GRE),
    Field("IPSecSPI", "segment", Trait.SPI),
    Field("ingressInterface", "ifindex", Trait.INGRESS),
    Field("egressInterface", "ifindex", Trait.EGRESS),
    Field("flowDirection", "direction", _ALWAYS),
    Field("packetDeltaCount", "packets", _ALWAYS, each_way=True),
    Field("octetDeltaCount", "octets", _ALWAYS, each_way=True),
    Field("layer2OctetDeltaCount", "l2_octets", _ALWAYS, each_way=True),
    Field("flowStartMilliseconds", "first_ns", _ALWAYS, each_way=True),
    Field("flowEndMilliseconds", "last_ns", _ALWAYS, each_way=True),
    Field("minimumTTL", "ttl_min", each_way=True),
    Field("maximumTTL", "ttl_max", each_way=True),
    Field("minimumIpTotalLength", "length_min", Trait.IP, 4, each_way=True),
    Field("maximumIpTotalLength", "length_max", Trait.IP, 4, each_way=True),
    Field("flowEndReason", "reason", _ALWAYS),
    Field("selectorId", "selector", Trait.SAMPLED, 2),
)

# NetFlow v9 as routers send it (RFC 3954 §8): times since the boot, flags in an octet.
_OF_V9 = {
    "flowStartMilliseconds": Field("flowStartSysUpTime", "first_ns", _ALWAYS),
    "flowEndMilliseconds": Field("flowEndSysUpTime", "last_ns", _ALWAYS),
    "tcpControlBits": Field("tcpControlBits", "tcp_flags", Trait.TCP, 1),
}
FIELDS_OF_V5 = (
    Field("sourceIPv4Address", "src", Trait.IPV4),
    Field("destinationIPv4Address", "dst", Trait.IPV4),
    Field("ingressInterface", "ifindex", Trait.INGRESS, 2),
    Field("egressInterface", "ifindex", Trait.EGRESS, 2),
    Field("packetDeltaCount", "packets", _ALWAYS, 4),
    Field("octetDeltaCount", "octets", _ALWAYS, 4),
    Field("flowStartSysUpTime", "first_ns", _ALWAYS),
    Field("flowEndSysUpTime", "last_ns", _ALWAYS),
    Field("sourceTransportPort", "src_port", Trait.PORTS),
    Field("destinationTransportPort", "dst_port", Trait.PORTS),
    Field("destinationTransportPort", "icmp", Trait.ICMP),  # v5 has no other place for type and code
    Field("tcpControlBits", "tcp_flags", Trait.TCP, 1),
    Field("protocolIdentifier", "protocol", Trait.PROTOCOL),
    Field("ipClassOfService", "tos", Trait.TOS),
)
_MOST_OF_V5 = np.uint64(0xFFFFFFFF)  # packets and octets of a record

# What a level of the key leaves out though the protocol would have it.
_LACKS = {
    "ip": Trait.PROTOCOL | Trait.TOS | Trait.PORTS | Trait.TCP | Trait.ICMP | Trait.IGMP | Trait.SPI,
    "proto": Trait.TOS | Trait.PORTS | Trait.SPI,
}
_BY_PROTOCOL = np.zeros((3, 256), np.uint32)  # of what is not IP, of IPv4, of IPv6
_BY_PROTOCOL[1:, [6, 17, 33, 132, 136]] = Trait.PORTS  # TCP, UDP, DCCP, SCTP, UDP-Lite
_BY_PROTOCOL[1:, 6] = Trait.PORTS | Trait.TCP
_BY_PROTOCOL[[1, 2], [1, 58]] = Trait.ICMP
_BY_PROTOCOL[1, 2] = Trait.IGMP
_BY_PROTOCOL[[1, 1, 2], [50, 51, 50]] = Trait.SPI
_BY_PROTOCOL[1] |= int(Trait.IPV4 | Trait.IP | Trait.PROTOCOL | Trait.TOS)
_BY_PROTOCOL[2] |= int(Trait.IPV6 | Trait.IP | Trait.PROTOCOL | Trait.TOS)
_BY_TUNNEL = np.zeros(len(Tunnel), np.uint32)
_BY_TUNNEL[[Tunnel.VXLAN, Tunnel.NVGRE, Tunnel.GENEVE]] = Trait.SEGMENT
_BY_TUNNEL[Tunnel.GRE] = Trait.GRE
# The upper octet of layer2SegmentId says what kind of overlay it is of; IANA has no number for Geneve.
_SEGMENT_KIND = np.zeros(len(Tunnel), np.uint64)
_SEGMENT_KIND[[Tunnel.VXLAN, Tunnel.NVGRE]] = np.array([1, 2], np.uint64) << np.uint64(56)

_NOT_0 = (
    ("vlan", Trait.VLAN),
    ("inner_vlan", Trait.INNER_VLAN),
    ("ethertype", Trait.LINK),
    ("extensions", Trait.EXTENSIONS),
    ("r_packets", Trait.REVERSE),
)


class Rows:
    """Flow Records as named columns, wherever they stand: in the key, in the value, or made of them."""

    def __init__(self, records: FlowRecords) -> None:
        self._records = records
        self._made: dict[str, Callable[[], Array]] = {
            "reason": lambda: records.reason,
            "icmp": lambda: self["icmp_type"].astype(np.uint16) << 8 | self["icmp_code"],
            "segment_id": lambda: self["segment"] | _SEGMENT_KIND[self["tunnel"]],
            "selector": lambda: np.full(len(records), SELECTOR, np.uint16),
            "initiator": lambda: np.full(len(records), _INITIATOR, np.uint8),
        }

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: str) -> bool:
        return any(name in (part.dtype.names or ()) for part in self._records[:2])

    def __getitem__(self, name: str) -> Array:
        for part in self._records[:2]:
            if name in (part.dtype.names or ()):
                column: Array = part[name]
                return column
        return self._made[name]()


def traits(records: FlowRecords) -> npt.NDArray[np.uint32]:
    """The :class:`Trait` flags of each of n flows."""
    rows = Rows(records)
    version, protocol = rows["ip_version"], rows["protocol"]
    found = _BY_PROTOCOL[(version >> 1) - (version > 0), protocol]
    found = found | np.where(rows["direction"] == 0, Trait.INGRESS, Trait.EGRESS).astype(np.uint32)
    found |= np.where(found & Trait.SPI, 0, _BY_TUNNEL[rows["tunnel"]])  # the key has room for one of them
    for name, trait in _NOT_0:
        if name in rows:
            found |= (rows[name] != 0) * np.uint32(trait)
    found |= ((protocol == 6) & (rows["tcp_mss"] != 0)) * np.uint32(Trait.SYN)
    found |= ((version == 6) & ((rows["fragment_flags"] | rows["fragment_id"]) != 0)) * np.uint32(Trait.FRAGMENT)
    for least, trait in enumerate((Trait.MPLS, Trait.MPLS_2, Trait.MPLS_3), 1):
        found |= (rows["mpls_depth"] >= least) * np.uint32(trait)
    result: npt.NDArray[np.uint32] = found
    return result


Plan = tuple[tuple[FieldSpecifier, ...], tuple[str, ...]]


class Schema:
    """What records look like.

    ``protocol``: one of :data:`PROTOCOLS`; ``level``: that of the key (:data:`pyflowx.kernel.layout.KEY_LEVELS`);
    ``time_unit``: one of :data:`TIME_UNITS` (IPFIX); ``biflow``: records are of :mod:`pyflowx.exporting.biflow`;
    ``sampled``: records say which selector (RFC 5476) their packets passed.
    """

    def __init__(
        self,
        protocol: str = "ipfix",
        level: str = "vlan",
        time_unit: str = "ms",
        biflow: bool = False,
        sampled: bool = False,
    ) -> None:
        self.protocol = protocol
        self._never = int(_LACKS.get(level, _ALWAYS))
        self._always = int(Trait.SAMPLED) if sampled and protocol == "ipfix" else 0
        self._rows = _rows(protocol, TIME_UNITS[time_unit], biflow)
        self._plans: dict[int, Plan] = {}
        ways = {"tos", "direction"} if biflow else set()
        self._keys = {"segment_id", *(dtypes(level)[0].names or ())} - ways

    def flow_keys(self) -> list[tuple[tuple[FieldSpecifier, ...], int]]:
        """Of each Template that was made: flowKeyIndicator (RFC 7011 §4.4), whose lowest bit is the first field's."""
        return [
            (fields, sum(1 << at for at, source in enumerate(sources) if source in self._keys))
            for fields, sources in self._plans.values()
        ]

    def traits(self, records: FlowRecords) -> npt.NDArray[np.uint32]:
        """Of each flow, as far as they matter for its fields."""
        return traits(records) & np.uint32(~self._never & 0xFFFFFFFF) | np.uint32(self._always)

    def template(self, known: int) -> Plan:
        """The fields of a record with these traits, and where the value of each comes from."""
        plan = self._plans.get(known)
        if plan is None:
            rows = [row for row in self._rows if row.needs & known == row.needs]
            registry = default_registry()
            fields = tuple(registry.field(row.element, row.length) for row in rows)
            plan = self._plans[known] = fields, tuple(row.source for row in rows)
        return plan

    def carried(self, records: FlowRecords) -> tuple[FlowRecords, FlowRecords]:
        """(what the protocol can carry, what it cannot): v5 knows IPv4 only."""
        if self.protocol != "netflow5":
            return records, records.take(slice(0, 0))
        known = Rows(records)["ip_version"] == 4
        return _split_counters(records.take(known)), records.take(~known)

    def batches(self, records: FlowRecords, offset_ns: int) -> list[FlowBatch]:
        """Flow Records as FlowBatches, each with one set of fields and at most :data:`MAX_BATCH` records.

        ``offset_ns`` is added to the flows' times to get ns since 1970.
        """
        parts = [slice(start, start + MAX_BATCH) for start in range(0, len(records), MAX_BATCH)]
        known = np.concatenate([np.zeros(0, np.uint32), *(self.traits(records.take(part)) for part in parts)])
        found = []
        for combination in _distinct(known):
            fields, sources = self.template(combination)
            mine = np.flatnonzero(known == combination)
            for part in parts[: -(-len(mine) // MAX_BATCH)]:
                rows = Rows(records.take(part if len(mine) == len(known) else mine[part]))
                columns = [_column(field, rows[at], offset_ns) for field, at in zip(fields, sources, strict=True)]
                found.append(FlowBatch(fields, columns))
        return found


def _distinct(values: npt.NDArray[np.uint32]) -> list[int]:
    """The values that there are, of which there are few: np.unique would first load np.ma, for longer than it takes to
    make all records of 10,000 flows."""
    found = []
    while len(values):
        found.append(int(values[0]))
        values = values[values != values[0]]
    return sorted(found)


def _rows(protocol: str, unit: str, biflow: bool) -> tuple[Field, ...]:
    if protocol == "netflow5":
        return FIELDS_OF_V5
    if protocol == "netflow9":
        return tuple(_OF_V9.get(row.element, row) for row in FIELDS)
    rows = tuple(row._replace(element=row.element.replace("Milliseconds", unit)) for row in FIELDS)
    if not biflow:
        return rows
    back = [
        row._replace(element=reverse_name(row.element), source=f"r_{row.source}", needs=row.needs | Trait.REVERSE)
        for row in rows
        if row.each_way
    ]
    return (*rows, *back, Field("biflowDirection", "initiator", Trait.REVERSE))


def _split_counters(records: FlowRecords) -> FlowRecords:
    """The same flows, those that counted more than 32 bits hold as several records."""
    most = np.maximum(records.values["packets"], records.values["octets"])
    if not len(records) or most.max() <= _MOST_OF_V5:
        return records
    parts = ((most + _MOST_OF_V5 - np.uint64(1)) // _MOST_OF_V5).astype(np.int64).clip(1)
    rows = np.repeat(np.arange(len(parts)), parts)
    split = records.take(rows)
    number = (np.arange(len(rows)) - np.repeat(np.cumsum(parts) - parts, parts)).astype(np.uint64)
    share = parts[rows].astype(np.uint64)
    values = split.values.copy()
    for name in ("packets", "octets"):
        values[name] = values[name] // share + (number < values[name] % share)
    return FlowRecords(split.keys, values, split.reason)


def _column(field: FieldSpecifier, values: Array, offset_ns: int) -> Column:
    """A column of the element's abstract data type from a field of the kernel's or the table's."""
    name = field.element.data_type.name
    if name == "ipv4Address":
        return np.ascontiguousarray(values[:, 12:]).view(">u4")[:, 0].astype(np.uint32)
    if name.startswith("dateTime"):
        return from_nanoseconds(name, np.maximum(values.astype(np.int64) + offset_ns, 0))
    if field.element.units == "milliseconds":  # since the boot: our zero of time, which v9's and v5's headers tell
        return (values // np.uint64(1_000_000)).astype(np.uint32)
    if name == "macAddress":
        wide = np.zeros((len(values), 8), np.uint8)
        wide[:, 2:] = values
        return wide.view(">u8")[:, 0].astype(np.uint64)
    if name == "unsigned256":
        return _octets(values.astype(f">u{field.length}").view(np.uint8).reshape(len(values), field.length))
    if name == "octetArray":
        return _octets(np.ascontiguousarray(values))
    if name.startswith("unsigned"):
        return _narrow(values, field.length, field.element.semantics).astype(f"u{field.element.data_type.width}")
    return np.ascontiguousarray(values)


def _octets(cells: npt.NDArray[np.uint8]) -> Octets:
    n, width = cells.shape
    return Octets(cells.reshape(-1), np.arange(n, dtype=np.int64) * width, np.full(n, width, np.int64))


def _narrow(values: Array, length: int, semantics: str) -> Array:
    """What a short field of an old protocol can say: the lower flags; an identifier that is too large is unknown."""
    if values.dtype.itemsize <= length:
        return values
    most = (1 << 8 * length) - 1
    if semantics == "flags":
        lower: Array = values & values.dtype.type(most)
        return lower
    return np.where(values > most, 0, values) if semantics == "identifier" else values
