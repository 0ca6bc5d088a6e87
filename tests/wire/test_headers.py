"""Dissected headers against an oracle that reads one packet at a time, and against tshark."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import FlowBatch, Octets
from pyflowx.elements import default_registry
from pyflowx.wire import section
from pyflowx.wire.headers import MAX_TUNNELS, Has, HeaderProtocol, Headers, dissect
from pyflowx.wire.internet import MAX_EXTENSIONS
from pyflowx.wire.layers import MAX_LINK_LAYERS

# --- the oracle: RFC by RFC, one packet, no arrays ------------------------------------------------

NAMES = {
    Has.DESTINATION_MAC: "destination_mac", Has.SOURCE_MAC: "source_mac", Has.ETHERNET_TYPE: "ethernet_type",
    Has.VLAN: "vlan", Has.INNER_VLAN: "inner_vlan", Has.TOS: "tos", Has.FLOW_LABEL: "flow_label",
    Has.LENGTH: "length", Has.FRAGMENT_ID: "fragment_id", Has.FRAGMENT_OFFSET: "fragment_offset", Has.TTL: "ttl",
    Has.PROTOCOL: "protocol", Has.SOURCE_PORT: "source_port", Has.DESTINATION_PORT: "destination_port",
    Has.TCP_FLAGS: "tcp_flags", Has.ICMP_TYPE: "icmp_type", Has.ICMP_CODE: "icmp_code", Has.IGMP_TYPE: "icmp_type",
}  # fmt: skip
LINK = {"destination_mac", "source_mac", "ethernet_type", "vlan", "inner_vlan"}
Found = dict[str, Any]


def big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def link(data: bytes, kind: int | str, found: Found | None) -> tuple[bytes, int]:
    """What is left at the IP header, and its version (0: none)."""
    out: Found = found if found is not None else {}
    if kind == "ethernet":
        if len(data) >= 6:
            out["destination_mac"] = big(data[:6])
        if len(data) >= 12:
            out["source_mac"] = big(data[6:12])
        if len(data) < 14:
            return b"", 0
        kind, data = big(data[12:14]), data[14:]
        if kind < 1536:
            if data[:6] != b"\xaa\xaa\x03\0\0\0" or len(data) < 8:
                return b"", 0
            kind, data = big(data[6:8]), data[8:]
        out["ethernet_type"] = kind
    for _ in range(MAX_LINK_LAYERS):
        if kind in (0x8100, 0x88A8, 0x9100, 0x9200):
            if len(data) >= 2 and "inner_vlan" not in out:
                out["inner_vlan" if "vlan" in out else "vlan"] = big(data[:2]) & 0xFFF
            out.pop("ethernet_type", None)
            if len(data) < 4:
                return b"", 0
            kind = out["ethernet_type"] = big(data[2:4])
            data = data[4:]
        elif kind in (0x8847, 0x8848):
            if len(data) < 4:
                return b"", 0
            kind, data = ("ip" if data[2] & 1 else 0x8847), data[4:]
        elif kind == 0x8864:
            if len(data) < 6 or data[:2] != b"\x11\0":
                return b"", 0
            kind, data = "ppp", data[6:]
        elif kind == "ppp":
            if data[:2] == b"\xff\x03":
                data = data[2:]
            if not data or (len(data) < 2 and not data[0] & 1):
                return b"", 0
            width = 1 if data[0] & 1 else 2
            kind = {0x21: 0x800, 0x57: 0x86DD, 0x281: 0x8847, 0x283: 0x8847}.get(big(data[:width]), 0)
            data = data[width:]
        else:
            break
    if kind == "ip" and data:
        return data, data[0] >> 4 if data[0] >> 4 in (4, 6) else 0
    return data, {0x800: 4, 0x86DD: 6}.get(kind, 0)  # type: ignore[arg-type]


IPV4_FIELDS = (
    ("tos", 1, 2), ("length", 2, 4), ("fragment_id", 4, 6), ("fragment_offset", 6, 8), ("ttl", 8, 9),
    ("protocol", 9, 10), ("source", 12, 16), ("destination", 16, 20),
)  # fmt: skip


def ipv4(data: bytes, out: Found) -> bytes | None:
    if not data or data[0] >> 4 != 4 or data[0] & 15 < 5:
        return None
    out["family"] = 4
    for name, start, end in IPV4_FIELDS:
        if len(data) >= end:
            out[name] = big(data[start:end])
    if "fragment_offset" in out:
        out["fragment_offset"] &= 0x1FFF
    if len(data) < 20:
        return None
    data = data[: out["length"] or None]
    size = (data[0] & 15) * 4
    return data[size:] if len(data) >= size else None


def ipv6(data: bytes, out: Found) -> bytes | None:
    if not data or data[0] >> 4 != 6:
        return None
    out["family"] = 6
    if len(data) >= 2:
        out["tos"] = big(data[:2]) >> 4 & 255
    if len(data) >= 4:
        out["flow_label"] = big(data[1:4]) & 0xFFFFF
    if len(data) >= 6:
        out["length"] = big(data[4:6]) + 40
    if len(data) >= 8:
        out["ttl"] = data[7]
    if len(data) >= 24:
        out["source"] = big(data[8:24])
    if len(data) >= 40:
        out["destination"] = big(data[24:40])
    if len(data) < 7:
        return None
    chain = (0, 43, 44, 51, 60, 135, 139, 140)
    number = data[6]
    if number not in chain:
        out["protocol"] = number
    if len(data) < 40:
        return None
    data = data[40 : 40 + big(data[4:6])] if big(data[4:6]) else data[40:]
    for _ in range(MAX_EXTENSIONS):
        if number not in chain:
            return data
        if not data:
            return None
        later = False
        if number == 44:
            size = 8
            if len(data) >= 4:
                out["fragment_offset"] = big(data[2:4]) >> 3
                later = out["fragment_offset"] > 0
            if len(data) >= 8:
                out["fragment_id"] = big(data[4:8])
        elif number == 51:
            size = (data[1] + 2) * 4 if len(data) > 1 else 8
        else:
            size = (data[1] + 1) * 8 if len(data) > 1 else 8
        number = data[0]
        if number not in chain or later:
            out["protocol"] = number
        if len(data) < size:
            return None
        data = data[size:]
        if later:
            return None
    return data if number not in chain else None


def transport(data: bytes, out: Found) -> tuple[bytes, int | str] | None:
    """Reads ports and types; what stands inside, if this is a tunnel."""
    if out.get("fragment_offset"):
        return None
    number, family = out["protocol"], out["family"]
    if number in (6, 17, 33, 132, 136):
        if len(data) >= 2:
            out["source_port"] = big(data[:2])
        if len(data) >= 4:
            out["destination_port"] = big(data[2:4])
        if number == 6 and len(data) >= 14:
            out["tcp_flags"] = big(data[12:14]) & 0xFFF
    if (number, family) in ((1, 4), (58, 6)):
        if len(data) >= 1:
            out["icmp_type"] = data[0]
        if len(data) >= 2:
            out["icmp_code"] = data[1]
    if (number, family) == (2, 4) and data:
        out["icmp_type"] = data[0]
    if number == 17:
        return udp_tunnel(data, out)
    if number == 47:
        return gre(data)
    if number == 97 and len(data) >= 2:
        return data[2:], "ethernet"
    kind = {4: 0x800, 41: 0x86DD, 137: 0x8847}.get(number)
    return (data, kind) if kind else None


def udp_tunnel(data: bytes, out: Found) -> tuple[bytes, int | str] | None:
    port = out.get("destination_port")
    body = data[8:]
    if port == 6635 and len(data) >= 8:
        return body, 0x8847
    if port not in (4789, 8472, 4790, 6081, 2152) or len(body) < 8:
        return None
    if port in (4789, 8472):
        return (body[8:], "ethernet") if body[0] & 8 else None
    if port == 4790:
        kind = {1: 0x800, 2: 0x86DD, 3: "ethernet", 5: 0x8847}.get(body[3]) if body[0] & 4 else "ethernet"
        return (body[8:], kind) if body[0] & 8 and kind else None
    if port == 6081:
        size = 8 + (body[0] & 63) * 4
        kind = big(body[2:4])
        inside: int | str = "ethernet" if kind == 0x6558 else kind
        return (body[size:], inside) if body[0] >> 6 == 0 and len(body) >= size else None
    if body[0] >> 4 != 3 or body[1] != 255:
        return None
    size = 12 if body[0] & 7 else 8
    if len(body) < size:
        return None
    following = body[11] if body[0] & 4 else 0
    while following:
        if len(body) <= size or body[size] == 0 or 8 + size + body[size] * 4 >= 64:
            return None
        size += body[size] * 4
        if len(body) < size:
            return None
        following = body[size - 1]
    return body[size:], "ip"


def gre(data: bytes) -> tuple[bytes, int | str] | None:
    if len(data) < 4:
        return None
    flags, kind = big(data[:2]), big(data[2:4])
    version = flags & 7
    if flags & 0x4000 or version > 1 or (version == 1 and kind != 0x880B):
        return None
    size = 4 + 4 * sum(bool(flags & bit) for bit in (0x8000, 0x2000, 0x1000)) + 4 * (version == 1 and flags >> 7 & 1)
    inside: int | str = {0x880B: "ppp", 0x6558: "ethernet"}.get(kind, kind)
    if kind == 0x88BE:
        size, inside = size + 8 * bool(flags & 0x1000), "ethernet"
    if kind == 0x22EB:
        if len(data) < size + 12:
            return None
        inside = {0: "ethernet", 2: "ip"}.get(data[size + 10] >> 2 & 31, 0)
        size += 20 if data[size + 11] & 1 else 12
    return (data[size:], inside) if len(data) >= size else None


def oracle(data: bytes, protocol: int = 1, tunnels: bool = True) -> Found:
    kinds = {1: "ethernet", 7: "ppp", 14: "ppp", 11: 0x800, 12: 0x86DD, 13: 0x8847, -1: "ip"}
    if protocol not in kinds:
        return {}
    frame: Found = {}
    inside: tuple[bytes, int | str] | None = (data, kinds[protocol])
    result: Found = {}
    for level in range(1 + MAX_TUNNELS * tunnels):
        if inside is None:
            break
        rest, version = link(*inside, frame if level == 0 else None)
        here: Found = {}
        behind = {4: ipv4, 6: ipv6}[version](rest, here) if version else None
        inside = transport(behind, here) if behind is not None else None
        if level == 0 or ("source" in here and "destination" in here):
            result = here
            if level and "ethernet_type" in frame:
                frame["ethernet_type"] = 0x86DD if here["family"] == 6 else 0x800
    return frame | result


def row(headers: Headers, index: int) -> Found:
    """One row of Headers in the oracle's words."""
    valid = Has(int(headers.valid[index]))
    found = {name: int(getattr(headers, name)[index]) for bit, name in NAMES.items() if bit in valid}
    for bit, version in ((Has.IPV4, 4), (Has.IPV6, 6)):
        if bit in valid:
            found["family"] = version
            for end in (Has.SOURCE, Has.DESTINATION):
                if end in valid:
                    value = getattr(headers, f"{end.name.lower()}_ipv{version}")[index]
                    found[end.name.lower()] = int(value) if version == 4 else big(value.tobytes())
    return found


def check(packets: list[bytes], protocol: int = 1, tunnels: bool = True) -> None:
    headers = dissect(Octets.of(packets), protocol, tunnels)
    for index, packet in enumerate(packets):
        assert row(headers, index) == oracle(packet, protocol, tunnels), packet.hex()


# --- packets --------------------------------------------------------------------------------------


@functools.cache
def table() -> dict[str, bytes]:
    """Ethernet frames by what they show; Scapy made them."""
    from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
    from scapy.contrib.geneve import GENEVE
    from scapy.contrib.gtp import GTP_U_Header
    from scapy.contrib.mpls import MPLS
    from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP, IPOption_RR
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.layers.ipsec import AH, ESP
    from scapy.layers.l2 import LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
    from scapy.layers.ppp import PPP, PPPoE
    from scapy.layers.sctp import SCTP
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    dot3 = Dot3(src="02:00:00:00:00:01", dst="01:80:c2:00:00:00")
    four = IP(src="192.0.2.1", dst="198.51.100.2", ttl=61, tos=0xB8, id=0x1234)
    six = IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=60, tc=0x2E, fl=0xABCDE)
    tcp, udp = TCP(sport=1024, dport=443, flags="SAEC") / b"payload", UDP(sport=5353, dport=53) / b"payload"
    vxlan = UDP(sport=40000, dport=4789) / VXLAN(flags=8, vni=7)
    geneve = UDP(sport=40000, dport=6081)
    inner = Ether(src="06:00:00:00:00:01", dst="06:00:00:00:00:02")
    inner4 = IP(src="10.1.1.1", dst="10.2.2.2", ttl=9) / TCP(sport=7, dport=8, flags="F") / b"x"
    inner6 = IPv6(src="fd00::1", dst="fd00::2", hlim=8) / UDP(sport=9, dport=10) / b"x"
    gtp_extended = bytes.fromhex("34ff0040 00000005 00000085 01100000")
    pptp = bytes.fromhex("3081880b 00200001 00000001 00000002 ff030021")
    packets = {
        "tcp4": ether / four / tcp,
        "udp4": ether / four / udp,
        "icmp4": ether / four / ICMP(type=3, code=13) / b"payload",
        "igmp": ether / IP(src="192.0.2.1", dst="224.0.0.1", ttl=1, proto=2) / Raw(b"\x11\x64\xee\x9b\0\0\0\0"),
        "sctp4": ether / four / SCTP(sport=2905, dport=2906),
        "esp4": ether / four / ESP(spi=1, seq=2),
        "ah4": ether / four / AH(nh=6, spi=1) / tcp,
        "options4": ether / IP(src="192.0.2.1", dst="198.51.100.2", options=[IPOption_RR()]) / tcp,
        "first fragment4": ether / IP(src="192.0.2.1", dst="198.51.100.2", id=77, flags="MF") / udp,
        "later fragment4": ether / IP(src="192.0.2.1", dst="198.51.100.2", id=77, frag=185, proto=17) / Raw(b"z" * 40),
        "padded4": ether / four / UDP(sport=1, dport=2) / Raw(b"") / b"".ljust(18, b"\xff"),
        "tcp6": ether / six / tcp,
        "udp6": ether / six / udp,
        "icmp6": ether / six / ICMPv6EchoRequest(data=b"payload"),
        "extensions6": ether / six / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / tcp,
        "ah6": ether / six / AH(spi=3) / tcp,
        "first fragment6": ether / six / IPv6ExtHdrFragment(id=0x01020304, m=1) / udp,
        "later fragment6": ether / six / IPv6ExtHdrFragment(id=0x01020304, offset=185, nh=17) / Raw(b"z" * 40),
        "no next header6": ether / IPv6(src="::1", dst="::2", nh=59),
        "vlan": ether / Dot1Q(vlan=5, prio=3) / four / tcp,
        "qinq": ether / Dot1AD(vlan=100) / Dot1Q(vlan=200) / six / udp,
        "three tags": ether / Dot1AD(vlan=100) / Dot1Q(vlan=200) / Dot1Q(vlan=300) / four / udp,
        "mpls": ether / MPLS(label=16, s=0) / MPLS(label=17, s=1) / four / udp,
        "mpls6": ether / MPLS(label=16, s=1) / six / tcp,
        "pppoe4": ether / PPPoE(sessionid=1) / PPP() / four / tcp,
        "pppoe6": ether / PPPoE(sessionid=1) / PPP() / six / tcp,
        "snap": dot3 / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=0x800) / four / udp,
        "spanning tree": dot3 / LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(b"\0" * 35),
        "arp": ether / Raw(b"\0\x01\x08\0\x06\x04\0\x01" + b"\1" * 20),
        "gre": ether / four / GRE(chksum_present=1, key_present=1, seqnum_present=1, key=5) / inner4,
        "gre6": ether / six / GRE() / inner6,
        "nvgre": ether / four / GRE(key_present=1, key=5, proto=0x6558) / inner / inner4,
        "gre mpls": ether / four / GRE(proto=0x8847) / MPLS(label=3, s=1) / inner6,
        "ipip": ether / four / inner4,
        "6in4": ether / four / inner6,
        "4in6": ether / IPv6(src="2001:db8::1", dst="2001:db8::2", nh=4) / inner4,
        "etherip": ether / IP(src="192.0.2.1", dst="198.51.100.2", proto=97) / Raw(b"\x30\0" + bytes(inner / inner4)),
        "vxlan": ether / four / vxlan / inner / Dot1Q(vlan=9) / inner6,
        "vxlan arp": ether / four / vxlan / inner / Raw(b"\0\x01\x08\0" + b"\1" * 24),
        "vxlan gpe": ether / four / UDP(sport=40000, dport=4790) / Raw(b"\x0c\0\0\x01\0\0\x07\0" + bytes(inner4)),
        "geneve": ether / six / geneve / GENEVE(proto=0x6558, optionlen=2) / Raw(b"\0" * 8) / inner / inner4,
        "geneve4": ether / four / geneve / GENEVE(proto=0x0800, vni=7) / inner4,
        "gtp": ether / four / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=5, gtp_type=255) / inner4,
        "gtp extension": ether / four / UDP(sport=40000, dport=2152) / Raw(gtp_extended + bytes(inner6)),
        "erspan 1": ether / four / GRE(proto=0x88BE) / inner / inner4,
        "erspan 2": ether / four / GRE(proto=0x88BE, seqnum_present=1) / ERSPAN_II() / inner / inner4,
        "erspan 3": ether / four / GRE(proto=0x22EB, seqnum_present=1) / ERSPAN_III() / inner / inner6,
        "pptp": ether / IP(src="192.0.2.1", dst="198.51.100.2", proto=47) / Raw(pptp + bytes(inner4)),
        "mpls in udp": ether / four / UDP(sport=40000, dport=6635) / MPLS(label=3, s=1) / inner4,
        "mpls in ip": ether / IP(src="192.0.2.1", dst="198.51.100.2", proto=137) / MPLS(label=3, s=1) / inner4,
    }  # fmt: skip
    for depth in range(1, 7):
        packet = IP(src="10.0.0.99", dst="10.0.0.98") / UDP(sport=5, dport=6)
        for level in range(depth):
            packet = IP(src=f"10.0.{level}.1", dst=f"10.0.{level}.2") / packet
        packets[f"{depth} tunnels"] = ether / packet
    return {name: bytes(packet) for name, packet in packets.items()}


def test_every_kind_of_packet_cut_at_every_octet_as_the_oracle_reads_it() -> None:
    assert len(table()) > 50
    for tunnels in (True, False):
        check([packet[:n] for packet in table().values() for n in range(len(packet) + 1)], 1, tunnels)


@pytest.mark.parametrize("protocol", [*HeaderProtocol, 2, 5, 0xFFFFFFFF])
def test_every_header_protocol_as_the_oracle_reads_it(protocol: int) -> None:
    starts = {HeaderProtocol.PPP: b"\xff\x03\0\x21", HeaderProtocol.POS: b"\x21", HeaderProtocol.MPLS: b"\0\0\x11\1"}
    for name in ("tcp4", "udp6", "extensions6", "gre", "ipip"):
        body = starts.get(protocol, b"") + table()[name][0 if protocol == 1 else 14 :]  # type: ignore[call-overload]
        check([body[:n] for n in range(len(body) + 1)], protocol)
    for version, number in ((table()["tcp4"][14:], 11), (table()["tcp6"][14:], 12)):
        assert bool(dissect(Octets.of([version]), protocol).valid[0] & Has.TCP_FLAGS) == (protocol in (number, -1))


def test_known_values_of_a_tunnel() -> None:
    packet = table()["vxlan"]
    headers = dissect(Octets.of([packet]), HeaderProtocol.ETHERNET)
    found = row(headers, 0)
    assert found["source"] == 0xFD00 << 112 | 1 and found["destination"] == 0xFD00 << 112 | 2
    assert (found["source_port"], found["destination_port"], found["protocol"], found["ttl"]) == (9, 10, 17, 8)
    assert found["source_mac"] == 0x020000000001 and found["ethernet_type"] == 0x86DD and "vlan" not in found
    outer = row(dissect(Octets.of([packet]), HeaderProtocol.ETHERNET, tunnels=False), 0)
    assert outer["source"] == 0xC0000201 and outer["destination_port"] == 4789 and outer["ethernet_type"] == 0x0800


def test_four_tunnels_are_entered_and_a_fifth_is_not() -> None:
    packets = [table()[f"{depth} tunnels"] for depth in range(1, 7)]
    headers = dissect(Octets.of(packets), HeaderProtocol.ETHERNET)
    assert [hex(value) for value in headers.source_ipv4] == ["0xa000063"] * 4 + ["0xa000001", "0xa000101"]


TSHARK = {  # field: (occurrence, name of ours)
    "eth.src": (0, "source_mac"), "ip.src": (-1, "source"), "ip.dst": (-1, "destination"),
    "ipv6.src": (-1, "source"), "ipv6.dst": (-1, "destination"), "tcp.srcport": (-1, "source_port"),
    "tcp.dstport": (-1, "destination_port"), "udp.srcport": (-1, "source_port"),
    "udp.dstport": (-1, "destination_port"), "tcp.flags": (-1, "tcp_flags"), "icmp.type": (-1, "icmp_type"),
    "icmpv6.type": (-1, "icmp_type"), "ip.id": (-1, "fragment_id"), "ip.len": (-1, "length"),
    "ipv6.flow": (-1, "flow_label"), "ip.ttl": (-1, "ttl"), "ipv6.hlim": (-1, "ttl"),
}  # fmt: skip


def number(text: str) -> int:
    from ipaddress import ip_address

    if text.count(":") == 5 and len(text) == 17:
        return int(text.replace(":", ""), 16)
    return int(ip_address(text)) if "." in text or ":" in text else int(text, 0)


def test_tshark_finds_the_same_innermost_addresses_and_ports(tmp_path: Path) -> None:
    from scapy.utils import RawPcapWriter

    names = [name for name in table() if name[0] not in "56" and name not in ("vxlan arp", "arp", "spanning tree")]
    writer = RawPcapWriter(str(tmp_path / "packets.pcap"), linktype=1)
    for name in names:
        writer.write(table()[name])
    writer.close()
    command = [
        "tshark",
        "-r",
        str(tmp_path / "packets.pcap"),
        "-d",
        "udp.port==6635,mpls",
        "-d",
        "udp.port==8472,vxlan",
    ]
    command += ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-T", "fields"]
    for field in TSHARK:
        command += ["-e", field]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[: len(names)]
    headers = dissect(Octets.of([table()[name] for name in names]), HeaderProtocol.ETHERNET)
    compared = 0
    for index, (name, line) in enumerate(zip(names, lines, strict=True)):
        ours = row(headers, index)
        layers = {"eth", {4: "ip", 6: "ipv6"}.get(ours.get("family", 0), "")}
        layers.add({6: "tcp", 17: "udp", 1: "icmp", 58: "icmpv6"}.get(ours.get("protocol", 0), ""))
        for (field, (occurrence, column)), cell in zip(TSHARK.items(), line.split("\t"), strict=True):
            if cell and column in ours and field.split(".")[0] in layers:
                assert number(cell.split(",")[occurrence]) == ours[column], (name, field, cell)
                compared += 1
    assert compared > 350


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(st.sampled_from(sorted(table().values()))))
    for _ in range(draw(st.integers(0, 4))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.integers(0, len(packet)))])


@given(st.lists(mutated() | st.binary(max_size=100), max_size=8), st.sampled_from([*HeaderProtocol]), st.booleans())
def test_mutated_packets_as_the_oracle_reads_them(packets: list[bytes], protocol: int, tunnels: bool) -> None:
    check(packets, protocol, tunnels)


def test_what_lies_behind_a_header_does_not_show() -> None:
    packets = [packet[:n] for packet in list(table().values())[:20] for n in range(0, 60, 3)]
    tight = dissect(Octets.of(packets), 1)
    parts = [packet + b"\xff" * 70 for packet in packets]
    loose = Octets.of(parts)
    loose.lengths = loose.lengths - 70
    wide = dissect(loose, 1)
    assert [row(tight, n) for n in range(len(packets))] == [row(wide, n) for n in range(len(packets))]


def test_a_protocol_for_each_row() -> None:
    packets = [table()["tcp4"], table()["tcp4"][14:], table()["tcp6"][14:]]
    headers = dissect(Octets.of(packets), np.array([1, 11, 12]))
    assert headers.source_port.tolist() == [1024] * 3 and len(headers.source_ipv6) == 3


def test_no_rows() -> None:
    assert len(dissect(Octets.of([]), 1).valid) == 0
    assert list(section.groups(np.zeros(0, np.int64), 0)) == []


# --- as fields ------------------------------------------------------------------------------------


def test_sections_of_flow_records_become_fields_in_groups() -> None:
    packets = [table()[name] for name in ("tcp4", "udp6", "tcp4", "icmp6", "arp", "vlan")]
    field = default_registry().field("dataLinkFrameSection")
    flows = FlowBatch(
        (field,), [Octets.of(packets)], np.arange(6, dtype=np.int32), np.zeros(6, np.int32), np.zeros(6, np.uint16)
    )
    batches = section.dissected(flows, flows.columns[0], HeaderProtocol.ETHERNET)  # type: ignore[arg-type]
    assert sorted(batch.message.tolist() for batch in batches) == [[0, 2], [1], [3], [4], [5]]
    for batch in batches:
        names = [specifier.element.name for specifier in batch.fields]
        found = oracle(packets[batch.message[0]])
        family = found.get("family", 4)
        assert ("sourceIPv4Address" in names) == (found.get("family") == 4)
        if "source" in found:
            value = np.asarray(batch.column(f"sourceIPv{family}Address"))[0]
            assert found["source"] == (int(value) if family == 4 else big(value.tobytes()))
        assert ("dot1qVlanId" in names) == ("vlan" in found)
        assert ("icmpTypeIPv6" in names) == (family == 6 and "icmp_type" in found)
        for specifier, column in zip(batch.fields, batch.columns, strict=True):
            assert len(column) == len(batch)
            if not isinstance(column, Octets):  # the column that decoding the element would give
                kind = specifier.element.data_type
                cells = np.zeros((len(batch), kind.width), np.uint8)
                assert column.dtype == kind.to_column(cells).dtype and column.shape == kind.to_column(cells).shape


def test_only_flow_records_without_a_key_are_dissected() -> None:
    field = default_registry().field
    frames, packets = Octets.of([table()["tcp4"]] * 2), Octets.of([table()["tcp6"][14:], table()["tcp4"][14:]])
    ports = field("sourceTransportPort")
    psamp = FlowBatch(
        (field("ipHeaderPacketSection"), field("observationPointId")), [packets, np.arange(2, dtype=np.uint64)]
    )
    framed = FlowBatch((field("dataLinkFrameSection"),), [frames])
    keyed = FlowBatch((field("sourceIPv4Address"), field("dataLinkFrameSection")), [np.zeros(2, np.uint32), frames])
    options = FlowBatch((field("dataLinkFrameSection"),), [frames], scope_count=1)
    found = section.with_sections([psamp, framed, keyed, options])
    assert [len(batch) for batch in found] == [1, 1, 2, 2, 2]
    assert found[3] is keyed and found[4] is options
    assert sorted(int(batch.column("observationPointId")[0]) for batch in found[:2]) == [0, 1]  # type: ignore[index]
    assert all(ports in batch.fields for batch in found[:3])


def test_groups_hold_each_row_once_in_order_and_their_number_is_bounded() -> None:
    generator = np.random.default_rng(1)
    mask = generator.integers(0, 1 << 16, 5000)
    coarse = 0b111
    seen = np.concatenate([rows for _, rows in section.groups(mask, coarse)])
    assert np.array_equal(np.sort(seen), np.arange(5000))
    found = list(section.groups(mask, coarse))
    assert len(found) <= section.MAX_GROUPS + 8
    assert all((np.diff(rows) > 0).all() for _, rows in found)
    kept = sum(len(rows) for value, rows in found if (mask[rows] == value).all())
    assert kept >= section.MAX_GROUPS
    few = generator.integers(0, 4, 5000)
    assert all((few[rows] == value).all() for value, rows in section.groups(few, 0))
