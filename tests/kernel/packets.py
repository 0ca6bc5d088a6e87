"""Packets of every kind, and an oracle written from the RFCs that says what to make of them."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from scapy.contrib.mpls import MPLS
from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Raw

from pyflowx.kernel import Statistic

V4 = IP(src="192.0.2.1", dst="198.51.100.7", tos=0xB8, ttl=61)
V6 = IPv6(src="2001:db8::1", dst="2001:db8:ffff::2", tc=0x2E, fl=0xFEDCB, hlim=59)


class Expected(NamedTuple):
    """What one packet makes of the key and the value."""

    version: int
    src: str
    dst: str
    protocol: int
    tos: int
    ttl: int
    octets: int
    vlan: int = 0
    src_port: int = 0
    dst_port: int = 0
    tcp_flags: int = 0
    icmp: tuple[int, int] = (0, 0)


# The oracle.


def be16(octets, offset):
    return int.from_bytes(octets[offset : offset + 2], "big")


def link(frame):
    """(EtherType, offset of the payload, VLAN), or None where the frame ends too early."""
    kind, offset, vlans = be16(frame, 12), 14, []
    while kind in (0x8100, 0x88A8) and len(vlans) < 2:  # IEEE 802.1Q §9
        if len(frame) < offset + 4:
            return None
        vlans.append(be16(frame, offset) & 0xFFF)
        kind, offset = be16(frame, offset + 2), offset + 4
    vlan = vlans[0] if vlans else 0
    if kind not in (0x8847, 0x8848):
        return kind, offset, vlan
    for _ in range(8):  # RFC 3032 §2.1, and as deep as we look
        if len(frame) < offset + 4:
            return None
        bottom = frame[offset + 2] & 1
        offset += 4
        if bottom:
            if len(frame) <= offset:
                return None
            return {4: 0x0800, 6: 0x86DD}.get(frame[offset] >> 4, kind), offset, vlan
    return kind, offset, vlan


def transport(protocol, octets, common):
    """RFC 9293 §3.1, RFC 768, RFC 9260 §3.1, RFC 4340 §5.1, RFC 3828 §3.1, RFC 792, RFC 4443 §2.1."""
    fields = {}
    if protocol in (6, 17, 33, 132, 136) and len(octets) >= 4:
        fields = {"src_port": be16(octets, 0), "dst_port": be16(octets, 2)}
    if protocol == 6 and len(octets) >= 14:
        fields["tcp_flags"] = be16(octets, 12) & 0xFFF
    if protocol in (1, 58) and len(octets) >= 2:
        fields["icmp"] = octets[0], octets[1]
    return Expected(protocol=protocol, **common, **fields)


def ipv4(octets, vlan):
    if len(octets) < 20 or octets[0] >> 4 != 4:
        return None
    header, total = (octets[0] & 15) * 4, be16(octets, 2)
    if header < 20 or total < header or total > len(octets):  # RFC 791 §3.1
        return None
    src, dst = (str(ipaddress.IPv4Address(octets[at : at + 4])) for at in (12, 16))
    common = {"version": 4, "src": src, "dst": dst, "tos": octets[1], "ttl": octets[8], "octets": total, "vlan": vlan}
    payload = b"" if be16(octets, 6) & 0x1FFF else octets[header:total]
    return transport(octets[9], payload, common)


def ipv6(octets, vlan):
    if len(octets) < 40 or octets[0] >> 4 != 6:
        return None
    length, following = be16(octets, 4), octets[6]
    total = len(octets) if length == 0 and following == 0 else 40 + length  # RFC 2675 §2
    if total > len(octets):
        return None
    src, dst = (str(ipaddress.IPv6Address(octets[at : at + 16])) for at in (8, 24))
    tos = be16(octets, 0) >> 4 & 0xFF
    common = {"version": 6, "src": src, "dst": dst, "tos": tos, "ttl": octets[7], "octets": total, "vlan": vlan}
    rest = octets[40:total]
    for _ in range(8):  # RFC 8200 §4.1, and as many as we look at
        if following not in (0, 43, 44, 51, 60, 135, 139, 140):
            break
        if len(rest) < 8:
            return transport(following, b"", common)
        if following == 44:
            following = rest[0]
            if be16(rest, 2) >> 3:
                return transport(following, b"", common)
            rest = rest[8:]
            continue
        size = (rest[1] + 2) * 4 if following == 51 else (rest[1] + 1) * 8  # RFC 4302 §2.2
        if size > len(rest) and size > 8:
            return transport(following, b"", common)
        following, rest = rest[0], rest[max(size, 8) :]
    else:
        if following in (0, 43, 44, 51, 60, 135, 139, 140):
            rest = b""
    return transport(following, rest, common)


def oracle(frame):
    """Expected, or the statistic that counts the packet."""
    found = link(frame)
    if found is None:
        return Statistic.MALFORMED
    kind, offset, vlan = found
    if kind not in (0x0800, 0x86DD):
        return Statistic.NOT_IP
    parse = ipv4 if kind == 0x0800 else ipv6
    return parse(frame[offset:], vlan) or Statistic.MALFORMED


# The table.


def damaged(packet, offset, value):
    """The octets of a packet with one changed."""
    octets = bytearray(bytes(packet))
    octets[offset] = value
    return bytes(octets)


def extensions(*headers):
    packet = V6
    for header in headers:
        packet = packet / header
    return Ether() / packet


PORTS = {"sport": 40000, "dport": 443}
HBH, DST, ROUTING = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["2001:db8::9"])
AUTHENTICATION = AH(nh=6, payloadlen=4, spi=1, icv=bytes(12))
TCP_ALL = TCP(**PORTS, flags=0x0FFF & 0x1FF, reserved=7)

# name -> (packet, what must come out of it, as far as it is worth saying)
PACKETS = {
    "tcp": (Ether() / V4 / TCP(**PORTS, flags="SA") / b"data", {"protocol": 6, "dst_port": 443, "tcp_flags": 0x12}),
    "tcp, all flags": (Ether() / V4 / TCP_ALL, {"tcp_flags": 0xFFF}),
    "tcp, options": (Ether() / V4 / TCP(**PORTS, options=[("MSS", 1460), ("WScale", 7)]), {"src_port": 40000}),
    "udp": (Ether() / V4 / UDP(**PORTS) / b"data", {"protocol": 17, "tos": 0xB8, "ttl": 61, "octets": 32}),
    "udp, padded frame": (Ether() / V4 / UDP(**PORTS) / Raw(b"") / b"", {"octets": 28}),
    "udp, trailer": (bytes(Ether() / V4 / UDP(**PORTS)) + bytes(18), {"octets": 28}),
    "sctp": (Ether() / V4 / SCTP(**PORTS) / SCTPChunkData(data=b"x"), {"protocol": 132, "dst_port": 443}),
    "dccp": (Ether() / V4.copy(), None),  # replaced below: Scapy has no DCCP
    "icmp": (Ether() / V4 / ICMP(type=3, code=4), {"protocol": 1, "icmp": (3, 4)}),
    "icmpv6": (Ether() / V6 / ICMPv6EchoRequest(), {"protocol": 58, "icmp": (128, 0)}),
    "gre": (Ether() / V4 / GRE() / V4 / UDP(**PORTS), {"protocol": 47, "dst_port": 0}),
    "esp": (Ether() / V4 / ESP(spi=1, seq=2, data=b"x" * 20), {"protocol": 50, "src_port": 0}),
    "ah over ipv4": (Ether() / V4 / AUTHENTICATION / UDP(**PORTS), {"protocol": 51, "src_port": 0}),
    "tcp over ipv6": (Ether() / V6 / TCP(**PORTS, flags="F"), {"version": 6, "tos": 0x2E, "ttl": 59, "tcp_flags": 1}),
    "udp over ipv6": (Ether() / V6 / UDP(**PORTS) / b"data", {"octets": 52, "dst": "2001:db8:ffff::2"}),
    "sctp over ipv6": (Ether() / V6 / SCTP(**PORTS), {"protocol": 132, "src_port": 40000}),
    "esp over ipv6": (Ether() / V6 / ESP(spi=1, seq=2, data=b"x" * 20), {"protocol": 50}),
    "ipv4-mapped addresses in ipv6": (
        Ether() / IPv6(src="::ffff:192.0.2.1", dst="::ffff:198.51.100.7") / UDP(**PORTS),
        {"version": 6},
    ),
    "vlan": (Ether() / Dot1Q(vlan=101, prio=5) / V4 / UDP(**PORTS), {"vlan": 101, "dst_port": 443}),
    "priority tag": (Ether() / Dot1Q(vlan=0, prio=5) / V4 / UDP(**PORTS), {"vlan": 0, "dst_port": 443}),
    "vlan, ipv6": (Ether() / Dot1Q(vlan=4095) / V6 / TCP(**PORTS), {"vlan": 4095, "version": 6}),
    "qinq": (Ether() / Dot1AD(vlan=200) / Dot1Q(vlan=101) / V4 / UDP(**PORTS), {"vlan": 200, "src_port": 40000}),
    "three tags": (Ether() / Dot1AD(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / V4, Statistic.NOT_IP),
    "mpls": (Ether() / MPLS(label=17, s=1) / V4 / UDP(**PORTS), {"version": 4, "dst_port": 443}),
    "mpls, ipv6": (Ether() / MPLS(label=17, s=0) / MPLS(label=3, s=1) / V6 / UDP(**PORTS), {"version": 6}),
    "mpls behind qinq": (
        Ether() / Dot1AD(vlan=5) / Dot1Q(vlan=6) / MPLS(s=0) / MPLS(s=0) / MPLS(s=1) / V6 / TCP(**PORTS),
        {"vlan": 5, "protocol": 6},
    ),
    "mpls, pseudowire": (Ether() / MPLS(s=1) / Raw(b"\0\0\0\1" + bytes(Ether() / V4)), Statistic.NOT_IP),
    "mpls, bottomless": (Ether(type=0x8847) / Raw(bytes(64)), Statistic.NOT_IP),
    "options": (Ether() / IP(options=[IPOption_Router_Alert(), IPOption_NOP()] * 4) / UDP(**PORTS), {"dst_port": 443}),
    "longest header": (Ether() / IP(options=[IPOption_NOP()] * 40) / TCP(**PORTS), {"octets": 80, "dst_port": 443}),
    "header too short": (damaged(Ether() / V4 / UDP(**PORTS), 14, 0x44), Statistic.MALFORMED),
    "no header length": (damaged(Ether() / V4 / UDP(**PORTS), 14, 0x40), Statistic.MALFORMED),
    "header past the length": (damaged(Ether() / V4 / UDP(**PORTS), 14, 0x4F), Statistic.MALFORMED),
    "version 5 in ipv4": (damaged(Ether() / V4 / UDP(**PORTS), 14, 0x55), Statistic.MALFORMED),
    "version 7 in ipv6": (damaged(Ether() / V6 / UDP(**PORTS), 14, 0x70), Statistic.MALFORMED),
    "length below the header": (damaged(Ether() / V4 / UDP(**PORTS), 17, 19), Statistic.MALFORMED),
    "length past the frame": (damaged(Ether() / V4 / UDP(**PORTS), 17, 29), Statistic.MALFORMED),
    "length 0": (damaged(Ether() / V4 / UDP(**PORTS), 17, 0), Statistic.MALFORMED),
    "length ends in the ports": (damaged(Ether() / V4 / UDP(**PORTS), 17, 23), {"octets": 23, "dst_port": 0}),
    "ipv6 length past the frame": (damaged(Ether() / V6 / UDP(**PORTS), 19, 9), Statistic.MALFORMED),
    "ipv6 length 0": (damaged(Ether() / V6 / UDP(**PORTS), 19, 0), {"octets": 40, "dst_port": 0}),
    "first fragment": (Ether() / IP(flags="MF") / UDP(**PORTS) / bytes(16), {"dst_port": 443}),
    "later fragment": (Ether() / IP(frag=100, proto=17) / Raw(bytes(16)), {"protocol": 17, "dst_port": 0}),
    "ipv6 first fragment": (extensions(IPv6ExtHdrFragment(m=1), UDP(**PORTS)), {"dst_port": 443, "protocol": 17}),
    "ipv6 later fragment": (
        extensions(IPv6ExtHdrFragment(offset=3, nh=6), Raw(bytes(32))),
        {"protocol": 6, "src_port": 0},
    ),
    "hop by hop": (extensions(HBH, UDP(**PORTS)), {"protocol": 17, "dst_port": 443}),
    "all extensions": (extensions(HBH, DST, ROUTING, IPv6ExtHdrFragment(), DST, TCP(**PORTS)), {"dst_port": 443}),
    "ah over ipv6": (extensions(AUTHENTICATION, TCP(**PORTS)), {"protocol": 6, "dst_port": 443}),
    "eight extensions": (extensions(*[DST] * 8, TCP(**PORTS)), {"protocol": 6, "dst_port": 443}),
    "nine extensions": (extensions(*[DST] * 9, TCP(**PORTS)), {"protocol": 60, "dst_port": 0}),
    "no next header": (Ether() / IPv6(nh=59), {"protocol": 59, "octets": 40}),
    "jumbogram": (
        Ether() / IPv6(plen=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=16)]) / UDP(**PORTS),
        {"octets": 56, "dst_port": 443},
    ),
    "arp": (Ether() / ARP(), Statistic.NOT_IP),
    "802.3": (Ether(type=46) / Raw(bytes(46)), Statistic.NOT_IP),
    "type 0": (Ether(type=0) / Raw(bytes(46)), Statistic.NOT_IP),
    "ipv6 in an ipv4 frame": (Ether(type=0x0800) / Raw(bytes(V6 / UDP(**PORTS))), Statistic.MALFORMED),
}
DCCP = struct.pack("!HHBBHI", 40000, 443, 4, 0, 0, 0) + bytes(4)
PACKETS["dccp"] = (Ether() / IP(proto=33) / Raw(DCCP), {"protocol": 33, "dst_port": 443})
PACKETS["udp-lite"] = (Ether() / IP(proto=136) / Raw(bytes(UDP(**PORTS))), {"protocol": 136, "src_port": 40000})
FRAMES = {name: bytes(packet) for name, (packet, _) in PACKETS.items()}


def address(version, octets):
    if version == 6:
        return str(ipaddress.IPv6Address(octets))
    assert octets[:12] == bytes(10) + b"\xff\xff"
    return str(ipaddress.IPv4Address(octets[12:]))
