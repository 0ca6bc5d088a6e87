"""Levels of keys, and fragments that find the flow of the first one."""

from __future__ import annotations

import packets
import pytest

from pyflowx.kernel import Statistic
from pyflowx.kernel.layout import KEY_LEVELS

pytestmark = pytest.mark.kernel

KINDS = ("xdp", "ingress", "egress")
# level -> what differs between packets that it still takes for one flow
BLIND = {
    "ip": {"protocol", "port", "tos", "vlan", "inner vlan", "spi", "mac", "network"},
    "proto": {"port", "tos", "vlan", "inner vlan", "spi", "mac", "network"},
    "full": {"vlan", "inner vlan", "mac"},
    "vlan": {"mac"},
    "ether": set(),
}


def variants():
    """What differs -> two packets that differ in it alone."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.ipsec import ESP
    from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
    from scapy.layers.vxlan import VXLAN

    eth, v4, udp = packets.ETH, packets.V4, UDP(sport=1, dport=2)
    inner = packets.ETH / IP(src="10.0.0.1", dst="10.0.0.2") / udp
    found = {
        "address": (eth / v4 / udp, eth / IP(src="192.0.2.9", dst=v4.dst, tos=v4.tos) / udp),
        "protocol": (eth / v4 / udp, eth / v4 / TCP(sport=1, dport=2)),
        "port": (eth / v4 / udp, eth / v4 / UDP(sport=1, dport=3)),
        "tos": (eth / v4 / udp, eth / IP(src=v4.src, dst=v4.dst, tos=0) / udp),
        "vlan": (eth / Dot1Q(vlan=5) / v4 / udp, eth / Dot1Q(vlan=6) / v4 / udp),
        "inner vlan": (
            eth / Dot1AD(vlan=5) / Dot1Q(vlan=1) / v4 / udp,
            eth / Dot1AD(vlan=5) / Dot1Q(vlan=2) / v4 / udp,
        ),
        "spi": (eth / v4 / ESP(spi=1, data=b"x" * 8), eth / v4 / ESP(spi=2, data=b"x" * 8)),
        "mac": (eth / v4 / udp, Ether(src="02:00:00:00:00:09", dst=eth.dst) / v4 / udp),
        "network": tuple(eth / v4 / UDP(dport=4789) / VXLAN(vni=vni) / inner for vni in (1, 2)),
    }
    return {name: (bytes(one), bytes(other)) for name, (one, other) in found.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", KEY_LEVELS)
def test_a_level_tells_apart_what_it_has(make_bench, kind, level):
    bench = make_bench(kind, key=level, tunnels=True)
    for name, pair in variants().items():
        for frame in pair:
            bench.program.test_run(frame)
        keys, values = bench.drain()
        assert len(keys) == (1 if name in BLIND[level] else 2), name
        assert values["packets"].sum() == 2
    bench.statistic()


@pytest.mark.parametrize("level", KEY_LEVELS[:-1])
def test_what_a_level_leaves_out_is_zero(make_bench, level):
    bench = make_bench("ingress", key=level)
    for frame in packets.FRAMES.values():
        bench.program.test_run(frame)
    keys, values = bench.drain()
    beyond = {"proto": ["protocol"], "full": ["src_port", "dst_port", "tos", "segment"], "vlan": ["vlan", "inner_vlan"]}
    left_out = [field for later in KEY_LEVELS[KEY_LEVELS.index(level) + 1 : -1] for field in beyond[later]]
    assert {name for name in keys.dtype.names if not keys[name].any()} >= set(left_out)
    kept = {"ip": "src", "proto": "protocol", "full": "src_port", "vlan": "inner_vlan"}[level]
    assert keys[kept].any()
    assert values["ethertype"].all()


@pytest.mark.parametrize("kind", KINDS)
def test_at_level_ether_what_is_not_ip_is_a_flow(make_bench, kind):
    bench = make_bench(kind, key="ether")
    for name in ("arp", "802.3", "pppoe, lcp", "three tags", "mpls, pseudowire"):
        frame = packets.FRAMES[name]
        bench.program.test_run(frame)
        (key,), (value,) = bench.drain()
        assert bench.statistic() == {Statistic.METERED: (1, len(frame))}
        assert key["dst_mac"].tobytes() + key["src_mac"].tobytes() == frame[:12]
        assert (key["ip_version"], value["octets"], value["l2_octets"]) == (0, 0, len(frame))
        kind_of_frame = packets.link(frame)[2]["ethertype"]
        assert key["ethertype"] == kind_of_frame


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["header too short", "length past the frame", "ipv6 in an ipv4 frame"])
def test_at_level_ether_a_broken_packet_stays_malformed(make_bench, kind, name):
    bench = make_bench(kind, key="ether")
    bench.program.test_run(packets.FRAMES[name])
    assert list(bench.statistic()) == [Statistic.MALFORMED]


def run_all(bench, frames):
    """The flows of frames that came together, by ports: packets."""
    for frame in frames:
        bench.program.test_run(bytes(frame))
    keys, values = bench.drain()
    bench.statistic()
    ports = zip(keys["src_port"].tolist(), keys["dst_port"].tolist(), keys["protocol"].tolist(), strict=True)
    return dict(zip(ports, values["packets"].tolist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_later_fragments_of_ipv4_find_their_flow(make_bench, kind):
    from scapy.layers.inet import IP, UDP, fragment

    bench = make_bench(kind)
    whole = packets.ETH / IP(src="192.0.2.1", dst="192.0.2.2", id=9) / UDP(sport=40000, dport=443) / bytes(3000)
    pieces = fragment(whole, 1000)
    assert len(pieces) == 4
    assert run_all(bench, pieces) == {(40000, 443, 17): 4}
    late = [pieces[1], pieces[0], pieces[2]]
    assert run_all(bench, late) == {(0, 0, 17): 1, (40000, 443, 17): 2}
    other = packets.ETH / IP(src="192.0.2.1", dst="192.0.2.2", id=10, frag=5, proto=17) / bytes(100)
    assert run_all(bench, [pieces[0], other]) == {(40000, 443, 17): 1, (0, 0, 17): 1}
    of_another_protocol = packets.ETH / IP(src="192.0.2.1", dst="192.0.2.2", id=9, frag=5, proto=6) / bytes(100)
    assert run_all(bench, [pieces[0], of_another_protocol]) == {(40000, 443, 17): 1, (0, 0, 6): 1}


@pytest.mark.parametrize("kind", KINDS)
def test_later_fragments_of_ipv6_find_flow_and_protocol(make_bench, kind):
    """A fragment names the first header behind it: here one of options, with UDP behind that."""
    from scapy.layers.inet import UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment

    bench = make_bench(kind)
    ip = IPv6(src="2001:db8::1", dst="2001:db8::2")
    content = bytes(IPv6ExtHdrDestOpt() / UDP(sport=40000, dport=443, chksum=1) / bytes(100))
    first = packets.ETH / ip / IPv6ExtHdrFragment(nh=60, m=1, id=7) / content[:64]
    later = packets.ETH / ip / IPv6ExtHdrFragment(nh=60, offset=8, id=7) / content[64:]
    stranger = packets.ETH / ip / IPv6ExtHdrFragment(nh=60, offset=8, id=8) / content[64:]
    assert run_all(bench, [first, later]) == {(40000, 443, 17): 2}
    assert run_all(bench, [first, stranger]) == {(40000, 443, 17): 1, (0, 0, 60): 1}


@pytest.mark.parametrize("kind", KINDS)
def test_flags_of_all_packets_come_together(make_bench, kind):
    from scapy.layers.inet import IP, TCP

    bench = make_bench(kind)
    ip = {"src": "192.0.2.1", "dst": "192.0.2.2"}
    ports = {"sport": 1, "dport": 2}
    run = [
        packets.ETH / IP(**ip, id=5) / TCP(**ports, flags="S", window=700, options=[("MSS", 1460)]),
        packets.ETH / IP(**ip, id=6, flags="DF", ttl=9) / TCP(**ports, flags="A", window=900) / b"data",
        packets.ETH / IP(**ip, id=7, flags="MF") / TCP(**ports, flags="F", options=[("MSS", 9)]),
    ]
    for frame in run:
        bench.program.test_run(bytes(frame))
    _, (value,) = bench.drain()
    bench.statistic()
    assert (value["packets"], value["tcp_flags"], value["fragment_flags"]) == (3, 0x13, 0x60)
    assert (value["fragment_id"], value["tcp_window"], value["tcp_mss"]) == (5, 700, 1460)
    assert (value["ttl_min"], value["ttl_max"]) == (9, 64)
