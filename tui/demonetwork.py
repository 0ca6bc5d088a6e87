"""A network for the demo: hosts that talk to servers, and the routers, switches and probes that export it.

Everything follows from a seed. What the exporters send are real datagrams of every protocol, made by the project's
encoders; addresses, networks and Autonomous Systems are those for documents (RFC 5737, 3849, 5398) and private ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network, ip_address
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import V4_MAPPED, Array, FlowBatch
from pyflowx.elements import default_registry
from pyflowx.generating import FlowSource, Settings

NS = 1_000_000_000
_TCP, _UDP, _ICMP = 6, 17, 1
_SHOWN = 24  # datagrams of an exporter in a second, at most
_FLAGS = (0x18, 0x1B, 0x02, 0x12, 0x14)
_V6 = "2001:db8::"


class Service(NamedTuple):
    protocol: int
    port: int
    share: float
    octets: float  # of a flow, the median
    spread: float


SERVICES = (
    Service(_TCP, 443, 0.42, 9_000, 1.9),
    Service(_UDP, 443, 0.16, 24_000, 1.8),
    Service(_UDP, 53, 0.16, 180, 0.5),
    Service(_TCP, 80, 0.06, 4_000, 1.5),
    Service(_TCP, 22, 0.03, 12_000, 1.7),
    Service(_TCP, 25, 0.02, 30_000, 1.2),
    Service(_UDP, 123, 0.04, 90, 0.1),
    Service(_TCP, 3306, 0.03, 3_000, 1.4),
    Service(_TCP, 445, 0.03, 60_000, 1.6),
    Service(_UDP, 5060, 0.02, 700, 0.4),
    Service(_ICMP, 0, 0.03, 168, 0.4),
)


class Site(NamedTuple):
    """Where servers stand."""

    prefix: int  # a /24
    asn: int
    country: str
    organisation: str
    share: float


SITES = (
    Site(0xC6336400, 64500, "US", "Northwind Cloud", 0.34),
    Site(0xCB007100, 64501, "DE", "Rheinnetz", 0.24),
    Site(0xC6120A00, 64502, "NL", "Polder CDN", 0.18),
    Site(0xC6121400, 64503, "FR", "Lumiere Hosting", 0.10),
    Site(0xC6122800, 64504, "JP", "Sakura Transit", 0.08),
    Site(0xC6130500, 64505, "BR", "Verde Telecom", 0.06),
)
COUNTRIES = tuple(sorted({site.country for site in SITES}))
ORGANISATIONS = tuple(site.organisation for site in SITES)
_HOME_AS = 64496


def sites_of(addresses: Array) -> Array:
    """The place in :data:`SITES` of IPv4 addresses, or of IPv6 ones whose last 32 bits are such; -1: at home."""
    prefixes = np.array([site.prefix for site in SITES], np.uint32)
    same = (np.asarray(addresses, np.uint32)[:, None] & np.uint32(0xFFFFFF00)) == prefixes
    return np.where(same.any(axis=1), same.argmax(axis=1), -1)


class Network:
    """Conversations that go on for a while, with a burst of DNS answers to one host now and then."""

    def __init__(self, rng: np.random.Generator, size: int = 400) -> None:
        self._rng, self._size = rng, size
        self._pool = self._conversations(size)

    def _conversations(self, n: int) -> dict[str, Array]:
        rng = self._rng
        kinds = rng.choice(len(SERVICES), n, p=_shares(SERVICES))
        sites = rng.choice(len(SITES), n, p=_shares(SITES))
        prefixes = np.array([site.prefix for site in SITES], np.uint32)[sites]
        hosts = np.minimum(rng.geometric(0.06, n), 120).astype(np.uint32)
        return {
            "client": 0x0A010000 + (rng.integers(0, 3, n, np.uint32) << np.uint32(8)) + hosts,
            "server": prefixes + np.minimum(rng.geometric(0.2, n), 60).astype(np.uint32),
            "port": rng.integers(32_768, 61_000, n, np.uint16),
            "kind": kinds,
            "asn": np.array([site.asn for site in SITES], np.uint32)[sites],
        }

    def flows(self, n: int, second: int) -> dict[str, Array]:
        """Columns of n flows by element name, IPv4; some conversations end and others begin."""
        rng, pool = self._rng, self._pool
        gone = rng.random(self._size) < 0.04
        fresh = self._conversations(self._size)
        for name, column in pool.items():
            pool[name] = np.where(gone, fresh[name], column)
        picked = np.minimum((rng.pareto(0.9, n) * 8).astype(np.int64), self._size - 1)
        one = {name: column[picked] for name, column in pool.items()}
        if 20 <= second % 60 < 32:  # somebody's resolver answers to somebody who has not asked
            burst = rng.random(n) < 0.35
            one["client"] = np.where(burst, np.uint32(0x0A010217), one["client"])
            one["kind"] = np.where(burst, 2, one["kind"])
            one["server"] = np.where(burst, SITES[5].prefix + rng.integers(1, 60, n), one["server"]).astype(np.uint32)
            one["asn"] = np.where(burst, SITES[5].asn, one["asn"]).astype(np.uint32)
        return self._columns(one, rng.random(n) < 0.62)

    def _columns(self, one: dict[str, Array], down: npt.NDArray[np.bool_]) -> dict[str, Array]:
        """``down``: from the server to the client."""
        rng, n = self._rng, len(down)
        kinds = one["kind"]
        of_kind: Any = {name: np.array([getattr(s, name) for s in SERVICES])[kinds] for name in Service._fields}
        octets = of_kind["octets"] * np.exp(rng.normal(0, 1, n) * of_kind["spread"]) * np.where(down, 3.0, 0.6)
        octets = np.clip(octets, 60, 4e8).astype(np.uint64)
        tcp, no_ports = of_kind["protocol"] == _TCP, of_kind["protocol"] == _ICMP
        served = of_kind["port"].astype(np.uint16)
        client_port = np.where(no_ports, np.uint16(0), one["port"])
        home = np.full(n, _HOME_AS, np.uint32)
        return {
            "sourceIPv4Address": np.where(down, one["server"], one["client"]),
            "destinationIPv4Address": np.where(down, one["client"], one["server"]),
            "sourceTransportPort": np.where(down, served, client_port),
            "destinationTransportPort": np.where(down, client_port, served),
            "protocolIdentifier": of_kind["protocol"].astype(np.uint8),
            "ipClassOfService": np.where(of_kind["port"] == 5060, 184, 0).astype(np.uint8),
            "tcpControlBits": np.where(tcp, rng.choice(_FLAGS, n, p=[0.3, 0.5, 0.1, 0.06, 0.04]), 0).astype(np.uint16),
            "octetDeltaCount": octets,
            "packetDeltaCount": np.maximum(1, octets // rng.integers(300, 1300, n).astype(np.uint64)),
            "ingressInterface": np.where(down, 1, 3 + (one["client"] >> 8) % 3).astype(np.uint32),
            "egressInterface": np.where(down, 3 + (one["client"] >> 8) % 3, 1).astype(np.uint32),
            "bgpSourceAsNumber": np.where(down, one["asn"], home),
            "bgpDestinationAsNumber": np.where(down, home, one["asn"]),
            "sourceIPv4PrefixLength": np.where(down, 24, 16).astype(np.uint8),
            "destinationIPv4PrefixLength": np.where(down, 16, 24).astype(np.uint8),
            "flowDirection": (~down).astype(np.uint8),
        }


def _shares(rows: tuple[Any, ...]) -> npt.NDArray[np.float64]:
    shares = np.array([row.share for row in rows])
    found: npt.NDArray[np.float64] = shares / shares.sum()
    return found


def _to_ipv6(columns: dict[str, Array]) -> dict[str, Array]:
    """The same flows of hosts in 2001:db8::/32."""
    made = {}
    for name, column in columns.items():
        if name.endswith("IPv4Address"):
            octets = np.tile(np.frombuffer(ip_address(_V6).packed, np.uint8), (len(column), 1))
            octets[:, 12:] = column.astype(">u4").view(np.uint8).reshape(-1, 4)
            made[name.replace("IPv4", "IPv6")] = octets
        else:
            made[name.replace("IPv4", "IPv6")] = column * np.uint8(2) if name.endswith("PrefixLength") else column
    return made


# --- who exports it ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Device:
    """An exporter. ``skew_ns``: by how much its clock is behind; ``loss``: the share of its datagrams that are lost on
    the way; ``sampling``: 1 in so many; ``withholds``: its Templates never come; ``redefines``: the second in which its
    Template becomes another."""

    address: str
    protocol: str
    domain: int
    flows: int  # in a second
    sampling: int = 0
    skew_ns: int = 0
    loss: float = 0.0
    withholds: bool = False
    redefines: int = 0
    port: int = 40_001
    _source: FlowSource = field(init=False)
    _encoder: Any = field(init=False)
    _boot_ns: int = 0

    @property
    def octets(self) -> bytes:
        packed = ip_address(self.address).packed
        return packed if len(packed) == 16 else V4_MAPPED + packed

    @property
    def _is_v6(self) -> bool:
        return ":" in self.address

    def start(self, now_ns: int, seed: int) -> None:
        settings = Settings(protocol=self.protocol, seed=seed)
        if self._is_v6:
            settings = replace(settings, src_cidr=IPv6Network(_V6 + "/32"), dst_cidr=IPv6Network(_V6 + "/32"))
        self._source = FlowSource(settings)
        self._boot_ns = now_ns - 864_000 * NS
        self._encoder = self._new_encoder()

    def _new_encoder(self) -> Any:
        import importlib

        options: dict[str, Any] = {} if self.protocol == "ipfix" else {"boot_ns": self._boot_ns}
        if self.protocol == "sflow":
            options["agent"] = ip_address(self.address).packed
        encoder = importlib.import_module(f"pyflowx.wire.{self.protocol}").Encoder(self.domain, **options)
        if self.protocol == "netflow5":
            encoder.sampling = 1 << 14 | self.sampling
        return encoder

    def datagrams(self, network: Network, second: int, now_ns: int, rng: np.random.Generator) -> list[bytes]:
        """What it sends in a second."""
        export_ns = now_ns - self.skew_ns
        sent: list[bytes] = []
        if second == self.redefines and self.redefines:
            self._redefine()
        n = max(1, int(self.flows * (1 + 0.3 * np.sin(second / 9)) * rng.uniform(0.8, 1.2)))
        columns = self._source.draw(n) | self._own(network.flows(n, second))
        flows = self._source.flows(columns, export_ns // 1_000_000 * 1_000_000, self._boot_ns)
        kept = [pair for pair in zip(flows.fields, flows.columns, strict=True) if self._has(pair[0])]
        shown = FlowBatch(tuple(field for field, _ in kept), [column for _, column in kept])
        self._encoder.register(shown.fields)
        if second % 10 == 0 or second == self.redefines:
            told = self._options()
            head = self._encoder.template_messages(export_ns).tolist()
            head += [] if told is None else self._encoder.encode(told, export_ns).tolist()
            sent += [] if self.withholds else head
        sent += self._encoder.encode(shown, export_ns).tolist()[:_SHOWN]
        return [datagram for datagram in sent if rng.random() >= self.loss]

    def _own(self, columns: dict[str, Array]) -> dict[str, Array]:
        if self._is_v6:
            return _to_ipv6(columns)
        if self.protocol == "netflow5":
            columns["octetDeltaCount"] = np.minimum(columns["octetDeltaCount"], 2**32 - 1)
        if self.protocol == "sflow":  # a sample is one packet
            columns["octetDeltaCount"] = np.minimum(columns["octetDeltaCount"], 1514)
            columns["packetDeltaCount"] = np.full(len(columns["octetDeltaCount"]), self.sampling, np.uint64)
        return columns

    def _has(self, field: Any) -> bool:
        """Before it is redefined the Template has no prefix lengths."""
        return not (self.redefines and field.element.name.endswith("PrefixLength")) or self._redefined

    _redefined: bool = False

    def _redefine(self) -> None:
        """The same Template ID with other fields: the device has been configured anew."""
        self._redefined = True
        sequence = self._encoder.sequence_number
        self._encoder = self._new_encoder()
        self._encoder.sequence_number = sequence

    def _options(self) -> FlowBatch | None:
        """Options data that tell the sampling rate."""
        if not self.sampling or self.protocol not in ("ipfix", "netflow9"):
            return None
        scope = default_registry().field("observationDomainId" if self.protocol == "ipfix" else "lineCardId", 4)
        fields = (scope, default_registry().field("samplingInterval", 4))
        self._encoder.register(fields, 1)
        return FlowBatch(
            fields, [np.array([self.domain], np.uint32), np.array([self.sampling], np.uint32)], scope_count=1
        )


def devices() -> list[Device]:
    """Each shows something of its own."""
    return [
        Device("192.0.2.1", "ipfix", 1, 90, sampling=1000, port=4739),
        Device("192.0.2.2", "netflow9", 0, 60, sampling=100, redefines=35),
        Device("192.0.2.3", "netflow5", 0x0102, 50, sampling=64),
        Device("192.0.2.4", "sflow", 0, 40, sampling=512, port=6343),
        Device("2001:db8::5", "ipfix", 7, 40, skew_ns=93 * NS, loss=0.04),
        Device("192.0.2.6", "netflow9", 12, 12, withholds=True),
    ]


def broken(second: int, now_ns: int, rng: np.random.Generator) -> list[bytes]:
    """What a device with a fault sends: datagrams that end too early, of no version, with Sets of no length."""
    if second % 3:
        return []
    head = b"\0\x0a\0\x40" + (now_ns // NS).to_bytes(4, "big") + second.to_bytes(4, "big") + b"\0\0\0\x63"
    kinds = (head + b"\0\2\0\x30" + rng.bytes(20), b"\0\x63" + rng.bytes(40), head + b"\1\0\0\2" + rng.bytes(44))
    return [kinds[second // 3 % 3]]
