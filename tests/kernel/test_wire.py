"""Real packets on veth, tap and lo: totals against the interface's own counters, to the packet and the octet."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from collections import Counter

import packets
import pytest
from attached import TC
from frames import udp_frame
from totals import (
    ETHERNET,
    TCP_INFO_BYTES_SENT,
    TCP_INFO_SEGS_OUT,
    as_merged,
    assert_equal,
    merged,
    rows,
    settle,
    tcp_info,
    total,
)

from pyflowx.kernel import Meter, MeterConfig
from pyflowx.kernel.layout import RECENT

pytestmark = pytest.mark.kernel

UDP_SEGMENT = 103


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_no_packet_is_lost_while_the_maps_swap(wire, sender, hook):
    """Two threads send a million packets of the same flows while the maps swap as fast as they can."""
    flows, rounds = 3000, 175
    with wire.far:
        senders = [sender([udp_frame(number) for number in range(flows)]) for _ in range(2)]
    with wire.near, Meter(MeterConfig(["v"], hook=hook, max_flows=8192)) as meter:
        before = wire.near.counters("v")
        attachments = meter.attach()
        assert [(a.hook, a.direction) for a in attachments] == [
            (TC if hook == "tc" else hook, "ingress"),
            (TC, "egress"),
        ]
        threads = [threading.Thread(target=each.send, args=(rounds,)) for each in senders]
        for thread in threads:
            thread.start()
        drains = []
        while any(thread.is_alive() for thread in threads):
            drains.append(meter.drain())
        for thread in threads:
            thread.join()
        wire.wait_for_silence()
        drains.append(meter.drain())
        after = wire.near.counters("v")
        assert_equal(meter, drains, before, after, native=hook == "xdp")
    assert sum(len(keys) > 0 for keys, _ in drains) > 10
    packets = Counter()
    for keys, values in drains:
        udp = keys["protocol"] == 17
        for port, count in zip(keys["src_port"][udp].tolist(), values["packets"][udp].tolist(), strict=True):
            packets[port] += count
    assert 2 * flows * rounds > 1_000_000
    assert packets == dict.fromkeys(range(flows), 2 * rounds)


def test_a_full_map_keeps_the_totals(wire, sender):
    with wire.far:
        frames = sender([udp_frame(number) for number in range(5000)])
    with wire.near, Meter(MeterConfig(["v"], hook="tc", max_flows=1000)) as meter:
        before = wire.near.counters("v")
        meter.attach()
        drains, full = [], 0
        for _ in range(3):
            frames.send()
            drains.append(meter.drain())
        assert_equal(meter, drains, before, wire.near.counters("v"))
        for keys, values in drains:
            catch_all = keys["ip_version"] == 0
            assert catch_all.sum() == 1
            others = len(keys) - 1
            assert 1000 <= others < 1000 + RECENT * os.cpu_count()  # some have not asked for a place yet
            assert values["packets"][catch_all] == 5000 - others
            full += 5000 - others
            assert keys["ifindex"][catch_all] == keys["ifindex"][~catch_all][0]
            assert 0 < values["first_ns"][catch_all] < values["last_ns"][catch_all]
        assert meter.statistics()["map_full"] == (full, full * len(udp_frame(0)))
        assert len(meter.drain()[0]) == 0


def cut_frames():
    """Every packet of the parser's table cut at every length that gets through: the kernel drops what ends within
    the six octets that it looks at to take a VLAN tag out."""
    frames = [frame[:length] for frame in packets.FRAMES.values() for length in range(15, len(frame) + 1)]
    return [frame for frame in frames if packets.be16(frame, 12) not in (0x8100, 0x88A8) or len(frame) >= 20]


@pytest.mark.parametrize("hook", ["tc", "xdp"])
@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_cut_packets_on_a_wire_are_what_the_oracle_says(wire, sender, hook, side):
    """Frames that no test run accepts, and at TC ingress VLAN tags that the kernel has taken out of the frame."""
    frames = cut_frames()
    with wire.near if side == "egress" else wire.far:
        traffic = sender(frames)
    with wire.near, Meter(MeterConfig(["v"], hook=hook)) as meter:
        before = wire.near.counters("v")
        meter.attach()
        wire.wait_for_silence()
        hello = meter.drain()
        traffic.send()
        wire.wait_for_silence()
        drain = meter.drain()
        assert_equal(meter, [hello, drain], before, wire.near.counters("v"), native=hook == "xdp")
        flows, reasons = merged(packets.oracle, frames)
        assert as_merged(packets.address, [drain]) == flows
        assert {reason: meter.statistics(side)[reason][0] for reason in reasons} == reasons
        assert set(reasons) == {"not_ip", "malformed"}


def test_headers_outside_of_the_linear_part_are_found(wire):
    """A tap interface can make packets of which only the Ethernet header lies in the linear part."""
    with wire.near:
        tap = os.open("/dev/net/tun", os.O_RDWR)
        iff_tap, iff_no_pi, iff_napi, iff_napi_frags = 2, 0x1000, 0x10, 0x20
        flags = iff_tap | iff_no_pi | iff_napi | iff_napi_frags
        fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap", flags))  # TUNSETIFF
    with contextlib.closing(os.fdopen(tap, "wb", buffering=0)):
        wire.near.ip("link", "set", "tap", "up")
        names = ["tcp", "udp over ipv6", "all extensions", "longest header", "icmp"]
        frames = [packets.FRAMES[name] for name in names]
        with wire.near, Meter(MeterConfig(["tap"], hook="tc", direction="ingress")) as meter:
            meter.attach()
            for frame in frames:
                assert os.writev(tap, [frame[:14], frame[14:]]) == len(frame)
            drains = [meter.drain()]
            assert as_merged(packets.address, drains) == merged(packets.oracle, frames)[0]


def exchange(wire, near, family, size, window):
    """A TCP connection, up and idle again after ``size`` octets in each direction; (client, server)."""
    host = "10.9.0.1" if family == socket.AF_INET else "fd09::1"
    with wire.near:
        listener = socket.socket(family)
    with wire.near if near else wire.far:
        client = socket.socket(family)
    for end in (listener, client):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    listener.bind((host, 7000))
    listener.listen()
    client.connect((host, 7000))
    server, _ = listener.accept()
    listener.close()
    for source, target in ((client, server), (server, client)):
        thread = threading.Thread(target=source.sendall, args=(bytes(size),))
        thread.start()
        left = size
        while left:
            left -= len(target.recv(min(left, 1 << 20)))
        thread.join()
        target.sendall(b"x")
        assert source.recv(1) == b"x"
    return client, server


def largest_super_packet(link, octets):
    """Set what ip(8) calls gso_max_size, gro_max_size, gso_ipv4_max_size and gro_ipv4_max_size."""
    attributes = b"".join(struct.pack("=HHI", 8, kind, octets) for kind in (41, 58, 63, 64))
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(link), 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        rtm_newlink, request_and_ack = 16, 5
        netlink.send(struct.pack("=IHHII", 16 + len(body), rtm_newlink, request_and_ack, 1, 0) + body)
        assert struct.unpack_from("=i", netlink.recv(4096), 16) == (0,)


@pytest.mark.parametrize("largest", [65536, 180000], ids=["gso", "big-tcp"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_super_packets_count_as_their_segments(wire, hook, family, largest):
    """TCP with segmentation offload: the interface's counters once what they do not see is taken off, and the
    segments that TCP itself has counted."""
    size = 30_000_000
    for namespace in (wire.near, wire.far):
        with namespace:
            largest_super_packet("v", largest)
    with wire.near, Meter(MeterConfig(["v"], hook=hook)) as meter:
        before = wire.near.counters("v")
        meter.attach()
        # a window that fits in the queue between the two interfaces: 256 packets at XDP
        client, server = exchange(wire, False, family, size, 1 << 20 if hook == "tc" else 1 << 17)
        with client, server:
            drains = settle(meter, client, server)
            wire.wait_for_silence()
            drains.append(meter.drain())
            assert_equal(meter, drains, before, wire.near.counters("v"), native=hook == "xdp")
            added = {side: meter.statistics(side)["gso_added"][0] for side in ("ingress", "egress")}
            assert added["egress"] > 1000
            assert (added["ingress"] > 1000) is (hook == "tc")
            header = 40 if family == socket.AF_INET else 60
            assert wire.near.counters("v")["lost"] == wire.far.counters("v")["lost"] == 0
            for direction, sent_by in ((0, client), (1, server)):
                tcp = [rows(part, (part[0]["protocol"] == 6) & (part[0]["direction"] == direction)) for part in drains]
                packets, octets = (total(tcp, name, direction) for name in ("packets", "octets"))
                # TCP does not count the answer to a SYN; a SYN has 8 octets of options
                assert packets == tcp_info(sent_by, TCP_INFO_SEGS_OUT, "=I") + direction
                assert octets == packets * header + 8 + tcp_info(sent_by, TCP_INFO_BYTES_SENT, "=Q")
                assert max(length for _, values in tcp for length in values["length_max"].tolist()) == 1500


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_udp_segmentation_is_unfolded(wire, family, side):
    """One send of 50 datagrams of 1000 octets and one of 7."""
    host = {socket.AF_INET: "10.9.0.%d", socket.AF_INET6: "fd09::%d"}[family] % (2 if side == "egress" else 1)
    source, target = (wire.near, wire.far) if side == "egress" else (wire.far, wire.near)
    with target:
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind((host, 7001))
    with source:
        out = socket.socket(family, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    with receiver, out, wire.near, Meter(MeterConfig(["v"], hook="tc", direction=side)) as meter:
        meter.attach()
        out.sendto(bytes(50_007), (host, 7001))
        assert [len(receiver.recv(2000)) for _ in range(51)] == [1000] * 50 + [7]
        keys, values = meter.drain()
        flow = values[keys["protocol"] == 17]
        headers = 28 if family == socket.AF_INET else 48
        assert flow["packets"].tolist() == [51]
        assert flow["octets"].tolist() == [50_007 + 51 * headers]
        assert flow["l2_octets"].tolist() == [50_007 + 51 * (headers + ETHERNET)]
        assert (flow["length_min"].tolist(), flow["length_max"].tolist()) == ([7 + headers], [1000 + headers])


@pytest.mark.parametrize(("hook", "expected"), [("auto", TC), ("tc", TC), ("xdp", "xdp-generic")])
def test_on_loopback_each_packet_counts_once(wire, hook, expected):
    with wire.near, Meter(MeterConfig(["lo"], hook=hook)) as meter:
        before = wire.near.counters("lo")
        assert [(at.hook, at.direction) for at in meter.attach()] == [(expected, "ingress")]
        client, server = exchange(wire, True, socket.AF_INET, 3_000_000, 1 << 19)
        with client, server:
            drains = settle(meter, client, server)
            wire.wait_for_silence()
            drains.append(meter.drain())
            after = wire.near.counters("lo")
        extra = meter.statistics()["gso_added"]
        packets = total(drains, "packets", 0) - extra[0]
        octets = total(drains, "l2_octets", 0) - extra[1]
        # lo counts octets without its Ethernet header
        assert [packets, octets - ETHERNET * packets] == [after["rx"][i] - before["rx"][i] for i in (0, 1)]
        assert total(drains, "packets", 1) == 0


def test_own_export_traffic_is_counted_and_not_metered(wire, sender):
    ours = bytes(10) + b"\xff\xff" + socket.inet_aton("10.9.0.2")
    other = bytes(10) + b"\xff\xff" + socket.inet_aton("10.9.0.9")
    config = MeterConfig(["v"], exclude=((other, 4739), (ours, 4739), (None, 6343)))
    with wire.far:
        receivers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for port, receiver in zip((4739, 6343, 5000), receivers, strict=True):
            receiver.bind(("10.9.0.2", port))
    with wire.near, contextlib.ExitStack() as stack, Meter(config) as meter:
        for receiver in receivers:
            stack.enter_context(receiver)
        meter.attach()
        out = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for port in (4739, 6343, 5000):
            out.sendto(bytes(100), ("10.9.0.2", port))
        for receiver in receivers:
            receiver.recv(200)
        keys, values = meter.drain()
        assert keys["dst_port"][keys["protocol"] == 17].tolist() == [5000]
        assert meter.statistics("egress")["own_export"] == (2, 2 * 142)


def test_two_interfaces_and_one_direction(wire, sender):
    with wire.far:
        traffic = sender([udp_frame(1)])
    with wire.near, Meter(MeterConfig(["v", "lo", "v"], direction="egress")) as meter:
        attachments = meter.attach()
        assert [(a.interface, a.hook, a.direction) for a in attachments] == [
            ("v", TC, "egress"),
            ("lo", TC, "egress"),
        ]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.bind(("127.0.0.1", 0))
            out.sendto(b"x", out.getsockname())
            traffic.send(10)
        keys, values = meter.drain()
        lo = next(a.ifindex for a in attachments if a.interface == "lo")
        assert values["packets"][(keys["ifindex"] == lo) & (keys["protocol"] == 17)].tolist() == [1]
        assert keys["direction"].all()
        assert meter.statistics("ingress") == dict.fromkeys(meter.statistics(), (0, 0))


def test_times_are_near_the_clock(wire, sender):
    with wire.far:
        traffic = sender([udp_frame(1)])
    with wire.near, Meter(MeterConfig(["v"])) as meter:
        meter.attach()
        before = time.time_ns()
        traffic.send(200)
        after = time.time_ns()
        keys, values = meter.drain()
        flow = values[keys["protocol"] == 17][0]
        first, last = (int(flow[name]) + meter.offset_ns() for name in ("first_ns", "last_ns"))
        slack = 1_000_000  # of the offset's measurement
        assert before - slack < first <= last < after + slack
        assert flow["packets"] == 200
