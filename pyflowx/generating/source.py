"""Columns of random flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyflowx.batch import Array, Column, FlowBatch, Octets
from pyflowx.elements import FieldSpecifier, default_registry
from pyflowx.generating.settings import Network, Settings

_MS = 1_000_000
_TCP, _ICMP, _ICMPV6 = 6, 1, 58
_WITH_PORTS = (_TCP, 17, 33, 132, 136)  # TCP, UDP, DCCP, SCTP, UDPLite
_FIRST_PRIVATE_AS = 64_512  # RFC 6996: 1023 of them in 16 bits
_NEXT_HOPS_V4 = 0xC000_0200  # 192.0.2.0/24 (RFC 5737)
_NEXT_HOPS_V6 = bytes.fromhex("20010db8") + bytes(12)  # 2001:db8::/32 (RFC 3849)

# What a router usually exports; the length where it is not the element's natural one. IPv6: the same with other names.
_ROUTER_FIELDS: tuple[tuple[str, int | None], ...] = (
    ("sourceIPv4Address", None),
    ("destinationIPv4Address", None),
    ("sourceTransportPort", None),
    ("destinationTransportPort", None),
    ("protocolIdentifier", None),
    ("ipClassOfService", None),
    ("tcpControlBits", 1),
    ("octetDeltaCount", None),
    ("packetDeltaCount", None),
    ("flowStartMilliseconds", None),
    ("flowEndMilliseconds", None),
    ("ingressInterface", None),
    ("egressInterface", None),
    ("bgpSourceAsNumber", None),
    ("bgpDestinationAsNumber", None),
    ("sourceIPv4PrefixLength", None),
    ("destinationIPv4PrefixLength", None),
    ("ipNextHopIPv4Address", None),
    ("flowDirection", None),
    ("icmpTypeCodeIPv4", None),
)
# What an sFlow agent says of a sampled packet beside its headers. The octets of a flow are there the length of the
# frame; its packets are those that the sample stands for, the sampling rate.
_SFLOW_FIELDS: tuple[tuple[str, int | None], ...] = (
    ("source_id_index", None),
    ("samplingInterval", None),
    ("sample_pool", None),
    ("ingressInterface", None),
    ("egressInterface", None),
    ("dataLinkFrameSize", 4),
    ("dataLinkFrameSection", None),
    ("ipNextHopIPv4Address", None),
    ("sourceIPv4PrefixLength", None),
    ("destinationIPv4PrefixLength", None),
    ("bgpSourceAsNumber", None),
    ("bgpDestinationAsNumber", None),
)
# NetFlow says when in milliseconds since the router started (RFC 3954 §8)
_NETFLOW_TIMES = {"flowStartMilliseconds": "flowStartSysUpTime", "flowEndMilliseconds": "flowEndSysUpTime"}


def _table(values: Mapping[int, int], dtype: type[np.generic]) -> Array:
    table = np.zeros(256, dtype)
    table[list(values)] = list(values.values())
    return table


class _Bits:
    """Random bits, handed out a few at a time: cheaper than a draw for each small field."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self._bits = rng.integers(0, 2**64 - 1, n, np.uint64, endpoint=True)

    def take(self, width: int) -> npt.NDArray[np.uint32]:
        """The next ``width`` bits of each; there are 64 in all."""
        taken = (self._bits & np.uint64((1 << width) - 1)).astype(np.uint32)
        self._bits >>= np.uint64(width)
        return taken


def flow_fields(protocol: str, version: int) -> tuple[FieldSpecifier, ...]:
    """The fields of a generated flow; ``version`` is that of IP."""
    if protocol == "netflow5":
        from pyflowx.wire.netflow5 import FORMATS

        return FORMATS[5].fields
    family = f"IPv{version}"
    if protocol == "sflow":
        return tuple(_sflow_field(name.replace("IPv4", family), length) for name, length in _SFLOW_FIELDS)
    names = _NETFLOW_TIMES if protocol == "netflow9" else {}
    return tuple(
        default_registry().field(names.get(name, name).replace("IPv4", family), length)
        for name, length in _ROUTER_FIELDS
    )


def _sflow_field(name: str, length: int | None) -> FieldSpecifier:
    from pyflowx.wire.sflow_structures import elements, own

    return own(name) if name in elements() else default_registry().field(name, length)


class FlowSource:
    """An endless stream of random flows, the same for the same settings and seed but for the clock."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self.version = settings.src_cidr.version
        self.fields = flow_fields(settings.protocol, self.version)
        self._protocols = np.array(settings.protocols, np.uint8)
        self._has_ports = _table(dict.fromkeys(_WITH_PORTS, 1), np.uint16)
        self._pool = np.uint64(0)  # packets that sFlow samples were taken from
        self._flags = _table({_TCP: settings.tcp_flags}, np.uint16)
        icmp, request, reply = (_ICMP, 8, 0) if self.version == 4 else (_ICMPV6, 128, 129)
        self._icmp = np.stack([_table({icmp: kind << 8}, np.uint16) for kind in (request, reply)])

    def draw(self, n: int) -> dict[str, Array]:
        """Columns of n flows by element name; instead of times ``age`` (since the end) and ``duration``, in ms."""
        settings, rng, family = self._settings, self._rng, f"IPv{self.version}"
        protocol = self._protocols[rng.integers(0, len(self._protocols), n, np.uint8)]
        bits = _Bits(rng, n)
        egress = bits.take(5) + np.uint32(1)
        has_ports = self._has_ports[protocol]
        icmp = self._icmp[bits.take(1), protocol]
        source_port = self._between(settings.src_port_range, n, np.uint16) * has_ports
        destination_port = self._between(settings.dst_port_range, n, np.uint16) * has_ports
        if settings.protocol == "netflow5":  # it has no other place for them
            destination_port |= icmp
        return {
            f"source{family}Address": self._addresses(settings.src_cidr, n),
            f"destination{family}Address": self._addresses(settings.dst_cidr, n),
            "sourceTransportPort": source_port,
            "destinationTransportPort": destination_port,
            "protocolIdentifier": protocol,
            "ipClassOfService": (bits.take(6) << 2).astype(np.uint8),  # a DSCP, no ECN
            "tcpControlBits": self._flags[protocol],
            "octetDeltaCount": self._between(settings.octet_range, n, np.uint64),
            "packetDeltaCount": self._between(settings.packet_range, n, np.uint64),
            "ingressInterface": bits.take(5) + np.uint32(1),
            "egressInterface": egress,
            "bgpSourceAsNumber": bits.take(9) + np.uint32(_FIRST_PRIVATE_AS),
            "bgpDestinationAsNumber": bits.take(9) + np.uint32(_FIRST_PRIVATE_AS),
            f"source{family}PrefixLength": np.full(n, settings.src_cidr.prefixlen, np.uint8),
            f"destination{family}PrefixLength": np.full(n, settings.dst_cidr.prefixlen, np.uint8),
            f"ipNextHop{family}Address": self._next_hops(egress),
            "flowDirection": bits.take(1).astype(np.uint8),
            f"icmpTypeCode{family}": icmp,
            "age": bits.take(10),
            "duration": bits.take(16),
        }

    def _between(self, bounds: tuple[int, int], n: int, dtype: type[np.unsignedinteger[Any]]) -> Array:
        narrow = np.uint32 if dtype is np.uint64 and bounds[1] < 1 << 32 else dtype  # half the random bits
        return self._rng.integers(*bounds, n, narrow, endpoint=True).astype(dtype, copy=False)

    def _addresses(self, network: Network, n: int) -> Array:
        if network.version == 4:
            hosts = self._rng.integers(0, 2**32 - 1, n, np.uint32, endpoint=True)
            return (hosts & np.uint32(int(network.hostmask))) | np.uint32(int(network.network_address))
        words = self._rng.integers(0, 2**64 - 1, (n, 2), np.uint64, endpoint=True)
        words &= np.frombuffer(network.hostmask.packed, np.uint64)
        words |= np.frombuffer(network.network_address.packed, np.uint64)
        return words.view(np.uint8)

    def _next_hops(self, egress: npt.NDArray[np.uint32]) -> Array:
        """One neighbour behind each interface."""
        if self.version == 4:
            return egress + np.uint32(_NEXT_HOPS_V4)
        hops = np.tile(np.frombuffer(_NEXT_HOPS_V6, np.uint8), (len(egress), 1))
        hops[:, 15] = egress
        return hops

    def flows(self, columns: Mapping[str, Array], export_ns: int, boot_ns: int) -> FlowBatch:
        """``columns`` of :meth:`draw`, or a slice of them, as flows that have just ended at ``export_ns``."""
        if self._settings.protocol == "sflow":
            made = self._sampled(columns)
        else:
            made = self._timed(columns, export_ns // _MS, boot_ns // _MS)
        names = [field.element.name for field in self.fields]
        return FlowBatch(self.fields, [made[name] if name in made else columns[name] for name in names])

    def _timed(self, columns: Mapping[str, Array], export_ms: int, boot_ms: int) -> dict[str, Column]:
        """When each flow began and ended."""
        end = np.uint64(export_ms) - columns["age"]
        start = end - columns["duration"]
        if self._settings.protocol == "ipfix":
            return {"flowStartMilliseconds": start, "flowEndMilliseconds": end}
        uptimes = ((time - np.uint64(boot_ms)).astype(np.uint32) for time in (start, end))  # modulo 2^32
        return dict(zip(("flowStartSysUpTime", "flowEndSysUpTime"), uptimes, strict=True))

    def _sampled(self, columns: Mapping[str, Array]) -> dict[str, Column]:
        """Each flow as one sampled packet."""
        from pyflowx.generating.frames import FRAMES, frames

        header = FRAMES[self.version].itemsize  # no frame is shorter than its headers
        sizes = np.maximum(columns["octetDeltaCount"], header).astype(np.uint32)
        rate = columns["packetDeltaCount"].astype(np.uint32)
        pool = self._pool + np.cumsum(rate, dtype=np.uint64)
        self._pool = pool[-1]
        starts = np.arange(len(sizes)) * header
        section = Octets(frames(columns, self.version, sizes).reshape(-1), starts, np.full(len(sizes), header))
        return {
            "source_id_index": np.ones(len(sizes), np.uint32),  # one source, so that its numbers follow each other
            "samplingInterval": rate,
            "sample_pool": (pool & np.uint64(0xFFFFFFFF)).astype(np.uint32),
            "dataLinkFrameSize": sizes,
            "dataLinkFrameSection": section,
        }
