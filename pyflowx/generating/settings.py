"""What to generate."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

DEFAULT_SOURCES = IPv4Network("10.0.0.0/8")
DEFAULT_DESTINATIONS = IPv4Network("192.168.0.0/16")
PROTOCOLS = ("ipfix", "netflow9", "netflow5", "sflow")


@dataclass(frozen=True, slots=True)
class Settings:
    """What to generate; the fields are the options of ``pyflowx generate``. Ranges include both ends.

    ``rate``: packets a second, 0 is unlimited. ``count``: packets of flows, 0 is endless. ``protocol``: how to
    encode, one of :data:`PROTOCOLS`. ``protocols``: IP protocol numbers, each flow has one of them.
    """

    host: str = "127.0.0.1"
    port: int = 4739
    protocol: str = "ipfix"
    rate: int = 1000
    flows_per_packet: int = 10
    count: int = 0
    observation_domain_id: int = 1
    template_interval_s: int = 30
    src_cidr: Network = DEFAULT_SOURCES
    dst_cidr: Network = DEFAULT_DESTINATIONS
    protocols: tuple[int, ...] = (6, 17)
    src_port_range: tuple[int, int] = (1024, 65535)
    dst_port_range: tuple[int, int] = (1, 1024)
    seed: int | None = None
    tcp_flags: int = 0
    octet_range: tuple[int, int] = (64, 65535)
    packet_range: tuple[int, int] = (1, 99)
