"""Packets of every kind, and an oracle written from the RFCs that says what to make of them."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from scapy.contrib.geneve import GENEVE
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
from scapy.layers.ppp import PPP, PPPoE, PPPoED
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from pyflowx.kernel import Statistic

MACS = {"src": "02:00:00:00:00:02", "dst": "02:00:00:00:00:01"}  # else Scapy asks the network for them
ETH = Ether(**MACS)
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
    inner_vlan: int = 0
    segment: int = 0
    tunnel: int = 0
    fragment_flags: int = 0
    fragment_id: int = 0
    flow_label: int = 0
    extensions: int = 0
    tcp_window: int = 0
    tcp_mss: int = 0
    tcp_window_scale: int = 0
    mpls: tuple[bytes, ...] = ()
    mpls_depth: int = 0
    ethertype: int = 0
    macs: bytes = b""


# The oracle.

EXTENSIONS = {60: 0, 0: 1, 43: 5, 135: 12, 51: 14, 139: 16, 140: 17, 44: 4}  # protocol -> bit (RFC 9740 §4.1)
FIRST_FRAGMENT, LATER_FRAGMENT, ENCRYPTED = 1 << 4, 1 << 6, 1 << 13


def be16(octets, offset):
    return int.from_bytes(octets[offset : offset + 2], "big")


def be32(octets, offset):
    return int.from_bytes(octets[offset : offset + 4], "big")


def link(frame):
    """(EtherType, offset of the payload, what it says of the flow), or None where the frame ends too early."""
    kind, offset, vlans = be16(frame, 12), 14, []
    while kind in (0x8100, 0x88A8) and len(vlans) < 2:  # IEEE 802.1Q §9
        if len(frame) < offset + 4:
            return None
        vlans.append(be16(frame, offset) & 0xFFF)
        kind, offset = be16(frame, offset + 2), offset + 4
    known = dict(zip(("vlan", "inner_vlan"), vlans, strict=False)) | {"ethertype": kind, "macs": frame[:12]}
    if kind == 0x8864:  # RFC 2516 §4, RFC 1661 §2
        if len(frame) < offset + 8:
            return None
        if be16(frame, offset) == 0x1100:
            kind = {0x0021: 0x0800, 0x0057: 0x86DD}.get(be16(frame, offset + 6), kind)
        return kind, offset + 8, known
    if kind not in (0x8847, 0x8848):
        return kind, offset, known
    labels = []
    while len(labels) < 8:  # RFC 3032 §2.1, and as deep as we look
        if len(frame) < offset + 4:
            return None
        labels.append(frame[offset : offset + 3])
        offset += 4
        if frame[offset - 2] & 1:
            if len(frame) <= offset:
                return None
            kind = {4: 0x0800, 6: 0x86DD}.get(frame[offset] >> 4, kind)
            break
    return kind, offset, known | {"mpls": tuple(labels[:3]), "mpls_depth": len(labels)}


def tcp_options(octets):
    """RFC 9293 §3.2, RFC 7323 §2.2."""
    found = {}
    end, at = (octets[12] >> 4) * 4, 20
    while at < min(end, len(octets)) and octets[at] != 0:
        if octets[at] == 1:
            at += 1
            continue
        if at + 2 > len(octets) or octets[at + 1] < 2 or at + octets[at + 1] > end:
            break
        kind, size = octets[at], octets[at + 1]
        if (kind, size) in ((2, 4), (3, 3)) and at + size > len(octets):
            break
        if (kind, size) == (2, 4):
            found["tcp_mss"] = be16(octets, at + 2)
        if (kind, size) == (3, 3):
            found["tcp_window_scale"] = octets[at + 2]
        at += size
    return found


def transport(protocol, octets, common):
    """RFC 9293 §3.1, RFC 768, RFC 9260 §3.1, RFC 4340 §5.1, RFC 3828 §3.1, RFC 792, RFC 4443 §2.1, RFC 3376 §4, RFC
    4303 §2, RFC 4302 §2. ``octets`` None: this packet has no transport header."""
    fields = {}
    if octets is None:
        return common | {"protocol": protocol}
    if protocol in (6, 17, 33, 132, 136) and len(octets) >= 4:
        fields = {"src_port": be16(octets, 0), "dst_port": be16(octets, 2)}
    if protocol == 6 and len(octets) >= 14:
        fields["tcp_flags"] = be16(octets, 12) & 0xFFF
    if protocol == 6 and len(octets) >= 16:
        fields["tcp_window"] = be16(octets, 14)
        if octets[13] & 2:
            fields |= tcp_options(octets)
    if protocol in (1, 58) and len(octets) >= 2:
        fields["icmp"] = octets[0], octets[1]
    if protocol == 2 and octets:
        fields["icmp"] = octets[0], 0
    if protocol == 50:
        if common["version"] == 6:
            fields["extensions"] = common["extensions"] | ENCRYPTED
        if len(octets) >= 4:
            fields["segment"] = be32(octets, 0)
    if protocol == 51 and len(octets) >= 8:
        fields["segment"] = be32(octets, 4)
    return common | {"protocol": protocol} | fields


def ipv4(octets):
    """(fields, transport octets), or None for a bad header."""
    if len(octets) < 20 or octets[0] >> 4 != 4:
        return None
    header, total = (octets[0] & 15) * 4, be16(octets, 2)
    if header < 20 or total < header or total > len(octets):  # RFC 791 §3.1
        return None
    src, dst = (str(ipaddress.IPv4Address(octets[at : at + 4])) for at in (12, 16))
    common = {"version": 4, "src": src, "dst": dst, "tos": octets[1], "ttl": octets[8], "octets": total}
    common |= {"fragment_flags": octets[6] & 0xE0, "fragment_id": be16(octets, 4)}
    payload = None if be16(octets, 6) & 0x1FFF else octets[header:total]
    return transport(octets[9], payload, common), payload


def ipv6(octets):
    if len(octets) < 40 or octets[0] >> 4 != 6:
        return None
    length, following = be16(octets, 4), octets[6]
    total = len(octets) if length == 0 and following == 0 else 40 + length  # RFC 2675 §2
    if total > len(octets):
        return None
    src, dst = (str(ipaddress.IPv6Address(octets[at : at + 16])) for at in (8, 24))
    tos = be16(octets, 0) >> 4 & 0xFF
    common = {"version": 6, "src": src, "dst": dst, "tos": tos, "ttl": octets[7], "octets": total}
    common |= {"flow_label": be32(octets, 0) & 0xFFFFF, "extensions": 0}
    following, rest, more = extension_headers(following, octets[40:total])
    return transport(following, rest, common | more), rest


def extension_headers(following, rest):
    """RFC 8200 §4.1: (protocol, what follows or None, what the headers say)."""
    known = {"extensions": 0}
    for _ in range(8):  # as many as we look at
        if following not in EXTENSIONS:
            return following, rest, known
        if len(rest) < 8:
            return following, None, known
        bit, size = 1 << EXTENSIONS[following], (rest[1] + 1) * 8
        if following == 51:
            size = max((rest[1] + 2) * 4, 8)  # RFC 4302 §2.2
        if following == 44:
            size = 8
            known |= {"fragment_id": be32(rest, 4), "fragment_flags": (be16(rest, 2) & 1) << 5}
            if be16(rest, 2) >> 3:
                return rest[0], None, known | {"extensions": known["extensions"] | LATER_FRAGMENT}
        if size > len(rest):
            return following, None, known
        known["extensions"] |= bit
        following, rest = rest[0], rest[size:]
    return following, None if following in EXTENSIONS else rest, known


TUNNEL_IP, TUNNEL_GRE, TUNNEL_NVGRE, TUNNEL_VXLAN, TUNNEL_GENEVE = range(1, 6)


def gre(octets):
    """RFC 2784 §2, RFC 2890 §2, RFC 7637 §3.2: (kind, segment, EtherType, octets)."""
    if len(octets) < 4 or be16(octets, 0) & 0x4007:
        return None
    flags, kind, at, key = octets[0], be16(octets, 2), 4, 0
    at += 4 if flags & 0x80 else 0
    if flags & 0x20:
        key = be32(octets, at)
        at += 4
    at += 4 if flags & 0x10 else 0
    if at > len(octets):
        return None
    return TUNNEL_NVGRE if kind == 0x6558 else TUNNEL_GRE, key, kind, octets[at:]


def overlay(octets, port):
    """RFC 7348 §5, RFC 8926 §3.4, behind a UDP header."""
    if len(octets) < 16:
        return None
    network = be32(octets, 12) >> 8
    if port != 6081:
        return (TUNNEL_VXLAN, network, 0x6558, octets[16:]) if octets[8] & 8 else None
    at = 16 + (octets[8] & 63) * 4
    return (TUNNEL_GENEVE, network, be16(octets, 10), octets[at:]) if octets[8] >> 6 == 0 else None


def inside(known, octets):
    """(kind, segment, EtherType, octets) of what a packet carries, or None."""
    protocol, port = known["protocol"], known.get("dst_port", 0)
    if octets is None:
        return None
    found = None
    if protocol in (4, 41):
        found = TUNNEL_IP, 0, {4: 0x0800, 41: 0x86DD}[protocol], octets
    if protocol == 47:
        found = gre(octets)
    if protocol == 17 and port in (4789, 8472, 6081):
        found = overlay(octets, port)
    if found is not None and found[2] == 0x6558:
        frame, offset, tags = found[3], 14, 0
        while tags < 2 and be16(frame, offset - 2) in (0x8100, 0x88A8):
            offset, tags = offset + 4, tags + 1
        found = (*found[:2], be16(frame, offset - 2), frame[offset:]) if len(frame) >= offset else None
    return found


def innermost(known, octets):
    """The packet in the packet in the packet, as deep as we look."""
    for _ in range(2):
        found = inside(known, octets)
        parse = {0x0800: ipv4, 0x86DD: ipv6}.get(found[2]) if found else None
        inner = parse(found[3]) if parse else None
        if inner is None:
            break
        known, octets = {"tunnel": found[0], "segment": found[1]} | inner[0], inner[1]
    return known


def oracle(frame, tunnels=False):
    """Expected, or the statistic that counts the packet."""
    found = link(frame)
    if found is None:
        return Statistic.MALFORMED
    kind, offset, known = found
    if kind not in (0x0800, 0x86DD):
        return Statistic.NOT_IP
    parsed = (ipv4 if kind == 0x0800 else ipv6)(frame[offset:])
    if parsed is None:
        return Statistic.MALFORMED
    return Expected(**known, **(innermost(*parsed) if tunnels else parsed[0]))


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
    return ETH / packet


PORTS = {"sport": 40000, "dport": 443}
HBH, DST, ROUTING = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["2001:db8::9"])
AUTHENTICATION = AH(nh=6, payloadlen=4, spi=1, icv=bytes(12))
SYN = TCP(**PORTS, flags="S", options=[("MSS", 1460)])
TCP_ALL = TCP(**PORTS, flags=0x0FFF & 0x1FF, reserved=7)

# name -> (packet, what must come out of it, as far as it is worth saying)
PACKETS = {
    "tcp": (ETH / V4 / TCP(**PORTS, flags="SA") / b"data", {"protocol": 6, "dst_port": 443, "tcp_flags": 0x12}),
    "tcp, all flags": (ETH / V4 / TCP_ALL, {"tcp_flags": 0xFFF}),
    "tcp, options": (ETH / V4 / TCP(**PORTS, options=[("MSS", 1460), ("WScale", 7)]), {"src_port": 40000}),
    "udp": (ETH / V4 / UDP(**PORTS) / b"data", {"protocol": 17, "tos": 0xB8, "ttl": 61, "octets": 32}),
    "udp, padded frame": (ETH / V4 / UDP(**PORTS) / Raw(b"") / b"", {"octets": 28}),
    "udp, trailer": (bytes(ETH / V4 / UDP(**PORTS)) + bytes(18), {"octets": 28}),
    "sctp": (ETH / V4 / SCTP(**PORTS) / SCTPChunkData(data=b"x"), {"protocol": 132, "dst_port": 443}),
    "dccp": (ETH / V4.copy(), None),  # replaced below: Scapy has no DCCP
    "icmp": (ETH / V4 / ICMP(type=3, code=4), {"protocol": 1, "icmp": (3, 4)}),
    "icmpv6": (ETH / V6 / ICMPv6EchoRequest(), {"protocol": 58, "icmp": (128, 0)}),
    "gre": (ETH / V4 / GRE() / V4 / UDP(**PORTS), {"protocol": 47, "dst_port": 0}),
    "esp": (ETH / V4 / ESP(spi=1, seq=2, data=b"x" * 20), {"protocol": 50, "src_port": 0}),
    "ah over ipv4": (ETH / V4 / AUTHENTICATION / UDP(**PORTS), {"protocol": 51, "src_port": 0}),
    "tcp over ipv6": (ETH / V6 / TCP(**PORTS, flags="F"), {"version": 6, "tos": 0x2E, "ttl": 59, "tcp_flags": 1}),
    "udp over ipv6": (ETH / V6 / UDP(**PORTS) / b"data", {"octets": 52, "dst": "2001:db8:ffff::2"}),
    "sctp over ipv6": (ETH / V6 / SCTP(**PORTS), {"protocol": 132, "src_port": 40000}),
    "esp over ipv6": (ETH / V6 / ESP(spi=1, seq=2, data=b"x" * 20), {"protocol": 50}),
    "ipv4-mapped addresses in ipv6": (
        ETH / IPv6(src="::ffff:192.0.2.1", dst="::ffff:198.51.100.7") / UDP(**PORTS),
        {"version": 6},
    ),
    "vlan": (ETH / Dot1Q(vlan=101, prio=5) / V4 / UDP(**PORTS), {"vlan": 101, "dst_port": 443}),
    "priority tag": (ETH / Dot1Q(vlan=0, prio=5) / V4 / UDP(**PORTS), {"vlan": 0, "dst_port": 443}),
    "vlan, ipv6": (ETH / Dot1Q(vlan=4095) / V6 / TCP(**PORTS), {"vlan": 4095, "version": 6}),
    "qinq": (ETH / Dot1AD(vlan=200) / Dot1Q(vlan=101) / V4 / UDP(**PORTS), {"vlan": 200, "src_port": 40000}),
    "three tags": (ETH / Dot1AD(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / V4, Statistic.NOT_IP),
    "mpls": (ETH / MPLS(label=17, s=1) / V4 / UDP(**PORTS), {"version": 4, "dst_port": 443}),
    "mpls, ipv6": (ETH / MPLS(label=17, s=0) / MPLS(label=3, s=1) / V6 / UDP(**PORTS), {"version": 6}),
    "mpls behind qinq": (
        ETH / Dot1AD(vlan=5) / Dot1Q(vlan=6) / MPLS(s=0) / MPLS(s=0) / MPLS(s=1) / V6 / TCP(**PORTS),
        {"vlan": 5, "protocol": 6},
    ),
    "mpls, pseudowire": (ETH / MPLS(s=1) / Raw(b"\0\0\0\1" + bytes(ETH / V4)), Statistic.NOT_IP),
    "mpls, bottomless": (Ether(**MACS, type=0x8847) / Raw(bytes(64)), Statistic.NOT_IP),
    "options": (ETH / IP(options=[IPOption_Router_Alert(), IPOption_NOP()] * 4) / UDP(**PORTS), {"dst_port": 443}),
    "longest header": (ETH / IP(options=[IPOption_NOP()] * 40) / TCP(**PORTS), {"octets": 80, "dst_port": 443}),
    "header too short": (damaged(ETH / V4 / UDP(**PORTS), 14, 0x44), Statistic.MALFORMED),
    "no header length": (damaged(ETH / V4 / UDP(**PORTS), 14, 0x40), Statistic.MALFORMED),
    "header past the length": (damaged(ETH / V4 / UDP(**PORTS), 14, 0x4F), Statistic.MALFORMED),
    "version 5 in ipv4": (damaged(ETH / V4 / UDP(**PORTS), 14, 0x55), Statistic.MALFORMED),
    "version 7 in ipv6": (damaged(ETH / V6 / UDP(**PORTS), 14, 0x70), Statistic.MALFORMED),
    "length below the header": (damaged(ETH / V4 / UDP(**PORTS), 17, 19), Statistic.MALFORMED),
    "length past the frame": (damaged(ETH / V4 / UDP(**PORTS), 17, 29), Statistic.MALFORMED),
    "length 0": (damaged(ETH / V4 / UDP(**PORTS), 17, 0), Statistic.MALFORMED),
    "length ends in the ports": (damaged(ETH / V4 / UDP(**PORTS), 17, 23), {"octets": 23, "dst_port": 0}),
    "ipv6 length past the frame": (damaged(ETH / V6 / UDP(**PORTS), 19, 9), Statistic.MALFORMED),
    "ipv6 length 0": (damaged(ETH / V6 / UDP(**PORTS), 19, 0), {"octets": 40, "dst_port": 0}),
    "first fragment": (ETH / IP(flags="MF") / UDP(**PORTS) / bytes(16), {"dst_port": 443}),
    "later fragment": (ETH / IP(frag=100, proto=17, id=2) / Raw(bytes(16)), {"protocol": 17, "dst_port": 0}),
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
    "no next header": (ETH / IPv6(nh=59), {"protocol": 59, "octets": 40}),
    "jumbogram": (
        ETH / IPv6(plen=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=16)]) / UDP(**PORTS),
        {"octets": 56, "dst_port": 443},
    ),
    "arp": (ETH / ARP(), Statistic.NOT_IP),
    "802.3": (Ether(**MACS, type=46) / Raw(bytes(46)), Statistic.NOT_IP),
    "type 0": (Ether(**MACS, type=0) / Raw(bytes(46)), Statistic.NOT_IP),
    "ipv6 in an ipv4 frame": (Ether(**MACS, type=0x0800) / Raw(bytes(V6 / UDP(**PORTS))), Statistic.MALFORMED),
}
PACKETS |= {
    "mss and scale": (
        ETH / V4 / TCP(**PORTS, flags="S", window=512, options=[("NOP", None), ("MSS", 1460), ("WScale", 7)]),
        {"tcp_mss": 1460, "tcp_window_scale": 7, "tcp_window": 512},
    ),
    "options end": (
        ETH / V6 / TCP(**PORTS, flags="S", options=[("WScale", 3), ("EOL", None), ("MSS", 1460)]),
        {"tcp_mss": 0, "tcp_window_scale": 3},
    ),
    "options of nothing": (
        ETH / V4 / TCP(**PORTS, flags="S", options=[("NOP", None)] * 36 + [("MSS", 536)]),
        {"tcp_mss": 536},
    ),
    "option of no length": (damaged(ETH / V4 / SYN, 55, 0), {"tcp_mss": 0}),
    "option past the options": (damaged(ETH / V4 / SYN, 55, 9), {"tcp_mss": 0}),
    "options without a syn": (ETH / V4 / TCP(**PORTS, flags="A", options=[("MSS", 1460)]), {"tcp_mss": 0}),
    "igmp": (ETH / IP(proto=2) / Raw(b"\x16\0\0\0" + bytes(4)), {"protocol": 2, "icmp": (0x16, 0)}),
    "esp, spi": (ETH / V4 / ESP(spi=0xDEADBEEF, seq=2, data=b"x" * 20), {"segment": 0xDEADBEEF}),
    "don't fragment": (ETH / IP(flags="DF", id=77) / UDP(**PORTS), {"fragment_flags": 0x40, "fragment_id": 77}),
    "mobility": (
        extensions(IPv6ExtHdrHopByHop(nh=135)) / Raw(bytes([59, 0]) + bytes(6)),
        {"extensions": 1 << 1 | 1 << 12},
    ),
    "four labels": (
        ETH / MPLS(label=16, cos=3, s=0) / MPLS(label=17, s=0) / MPLS(label=18, s=0) / MPLS(s=1) / V4 / UDP(**PORTS),
        {"mpls": (b"\x00\x01\x06", b"\x00\x01\x10", b"\x00\x01\x20"), "mpls_depth": 4, "ethertype": 0x8847},
    ),
    "pppoe": (
        ETH / PPPoE(sessionid=5) / PPP(proto=0x21) / V4 / UDP(**PORTS),
        {"dst_port": 443, "ethertype": 0x8864},
    ),
    "pppoe, ipv6": (ETH / Dot1Q(vlan=7) / PPPoE() / PPP(proto=0x57) / V6 / TCP(**PORTS), {"version": 6, "vlan": 7}),
    "pppoe, lcp": (ETH / PPPoE() / PPP(proto=0xC021) / Raw(bytes(20)), Statistic.NOT_IP),
    "pppoe, discovery": (ETH / PPPoED(code=9), Statistic.NOT_IP),
    "pppoe, wrong code": (ETH / PPPoE(code=7) / PPP(proto=0x21) / V4, Statistic.NOT_IP),
}
DCCP = struct.pack("!HHBBHI", 40000, 443, 4, 0, 0, 0) + bytes(4)
PACKETS["dccp"] = (ETH / IP(proto=33) / Raw(DCCP), {"protocol": 33, "dst_port": 443})
PACKETS["udp-lite"] = (ETH / IP(proto=136) / Raw(bytes(UDP(**PORTS))), {"protocol": 136, "src_port": 40000})
FRAMES = {name: bytes(packet) for name, (packet, _) in PACKETS.items()}

INNER4 = IP(src="10.0.0.1", dst="10.0.0.2", tos=4, ttl=9, id=5) / TCP(sport=1, dport=2, flags="S", window=9)
INNER6 = IPv6(src="fd00::1", dst="fd00::2", fl=3) / IPv6ExtHdrDestOpt() / UDP(sport=3, dport=4) / b"payload"
BROKEN = damaged(INNER4, 0, 0x95)
TUNNELS = {
    "ip in ip": (ETH / V4 / INNER4, {"src": "10.0.0.1", "octets": 40, "tunnel": TUNNEL_IP, "tcp_window": 9}),
    "6in4": (ETH / V4 / INNER6, {"src": "fd00::1", "dst_port": 4, "flow_label": 3, "extensions": 1}),
    "4in6": (ETH / V6 / IPv6ExtHdrDestOpt() / INNER4, {"version": 4, "extensions": 0, "fragment_id": 5}),
    "6in6": (ETH / V6 / INNER6, {"dst": "fd00::2"}),
    "gre": (ETH / V4 / GRE() / INNER4, {"dst_port": 2, "tunnel": TUNNEL_GRE}),
    "gre with everything": (
        ETH / V4 / GRE(chksum_present=1, key_present=1, seqnum_present=1, key=77, sequence_number=5) / INNER6,
        {"segment": 77, "src_port": 3},
    ),
    "gre with routing": (ETH / V4 / GRE(routing_present=1) / INNER4, {"protocol": 47, "tunnel": 0}),
    "pptp": (ETH / V4 / GRE(version=1) / INNER4, {"protocol": 47}),
    "nvgre": (
        ETH / V4 / GRE(proto=0x6558, key_present=1, key=0x12345678) / ETH / INNER4,
        {"tunnel": TUNNEL_NVGRE, "segment": 0x12345678},
    ),
    "vxlan": (
        ETH / V4 / UDP(dport=4789) / VXLAN(vni=0xABCDEF) / ETH / INNER4,
        {"tunnel": TUNNEL_VXLAN, "segment": 0xABCDEF, "src_port": 1, "octets": 40},
    ),
    "vxlan of linux, tags": (
        ETH / Dot1Q(vlan=9) / V6 / UDP(dport=8472) / VXLAN(vni=1) / ETH / Dot1AD(vlan=2) / Dot1Q(vlan=3) / INNER6,
        {"vlan": 9, "inner_vlan": 0, "src_port": 3},
    ),
    "vxlan, arp": (ETH / V4 / UDP(dport=4789) / VXLAN(vni=5) / ETH / ARP(), {"dst_port": 4789, "segment": 0}),
    "vxlan without a network": (
        ETH / V4 / UDP(dport=4789) / VXLAN(flags=0, vni=5) / ETH / INNER4,
        {"dst_port": 4789, "tunnel": 0},
    ),
    "geneve": (
        ETH / V4 / UDP(dport=6081) / GENEVE(vni=99, options=[b"\0\1\2\1abcd"]) / ETH / INNER4,
        {"tunnel": TUNNEL_GENEVE, "segment": 99, "dst": "10.0.0.2"},
    ),
    "geneve, ipv6": (ETH / V4 / UDP(dport=6081) / GENEVE(vni=98, proto=0x86DD) / INNER6, {"dst": "fd00::2"}),
    "vxlan in ip in ip": (
        ETH / V4 / V4 / UDP(dport=4789) / VXLAN(vni=6) / ETH / INNER4,
        {"tunnel": TUNNEL_VXLAN, "src_port": 1},
    ),
    "too deep": (ETH / V4 / V4 / V4 / INNER4, {"src": "192.0.2.1", "protocol": 4, "octets": 60}),
    "a broken packet inside": (ETH / V4.__class__(proto=4) / Raw(BROKEN), {"src": "127.0.0.1", "tunnel": 0}),
    "a fragment inside": (ETH / V4 / IP(src="10.0.0.9", frag=5, proto=17) / Raw(bytes(20)), {"src": "10.0.0.9"}),
    "esp inside": (
        ETH / V4 / GRE() / IP() / ESP(spi=5, seq=1, data=b"x" * 9),
        {"segment": 5, "tunnel": TUNNEL_GRE},
    ),
}
TUNNEL_FRAMES = {name: bytes(packet) for name, (packet, _) in TUNNELS.items()}


def address(version, octets):
    if version == 6:
        return str(ipaddress.IPv6Address(octets))
    assert octets[:12] == bytes(10) + b"\xff\xff"
    return str(ipaddress.IPv4Address(octets[12:]))
