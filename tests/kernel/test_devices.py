"""Devices that are not plain Ethernet: tun has no link header, VXLAN puts one packet into another; promiscuous mode."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import threading
from pathlib import Path

import packets
import pytest
import totals
from attached import TC

from pyflowx.errors import KernelError
from pyflowx.kernel import Meter, MeterConfig

pytestmark = pytest.mark.kernel

VXLAN_HEADERS = 14 + 20 + 8 + 8  # Ethernet, IPv4, UDP, VXLAN


@pytest.fixture
def tun(wire):
    """An interface without Ethernet header; what is written to the descriptor comes in there."""
    with wire.near:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        iff_tun, iff_no_pi = 1, 0x1000
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", b"tun", iff_tun | iff_no_pi))  # TUNSETIFF
        Path("/proc/sys/net/ipv6/conf/tun/addr_gen_mode").write_text("1")
    wire.near.ip("addr", "add", "10.8.0.1/24", "dev", "tun")
    wire.near.ip("link", "set", "tun", "up")
    yield descriptor
    os.close(descriptor)


def without_link():
    """The packets of the parser's table that begin with an IP header, by name."""
    frames = {name: frame for name, frame in packets.FRAMES.items() if frame[12:14] in (b"\x08\0", b"\x86\xdd")}
    return {name: frame[14:] for name, frame in frames.items() if frame[14] >> 4 in (4, 6)}


def as_expected(oracle, packet):
    """What the oracle says of a packet without frame."""
    kind = {4: b"\x08\0", 6: b"\x86\xdd"}[packet[0] >> 4]
    return oracle(bytes(12) + kind + packet)


def test_packets_without_ethernet_header_are_metered(wire, tun):
    names = without_link()
    with wire.near, Meter(MeterConfig(["tun"])) as meter:
        before = wire.near.counters("tun")
        attached = meter.attach()
        assert [(at.hook, at.direction) for at in attached] == [(TC, "ingress"), (TC, "egress")]
        for packet in names.values():
            os.write(tun, packet)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for _ in range(5):
                out.sendto(bytes(100), ("10.8.0.2", 9))
        os.set_blocking(tun, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(tun, 2000):  # counted when it is read
                pass
        drain = meter.drain()
        after = wire.near.counters("tun")
        for direction, side in enumerate(("rx", "tx")):
            statistics = meter.statistics(("ingress", "egress")[direction])
            uncounted = [statistics[reason] for reason in ("not_ip", "malformed")]
            packets_metered = totals.total([drain], "packets", direction) + sum(each[0] for each in uncounted)
            octets = totals.total([drain], "l2_octets", direction) + sum(each[1] for each in uncounted)
            assert [packets_metered, octets] == [after[side][i] - before[side][i] for i in (0, 1)]
        keys, values = drain
        egress = keys["direction"] == 1
        out = egress & (keys["dst_port"] == 9)
        assert (values["packets"][out].tolist(), values["l2_octets"][out].tolist()) == ([5], [5 * 128])
        assert not values["ethertype"].any()
        assert not values["dst_mac"].any()
        flows, reasons = totals.merged(lambda packet: as_expected(packets.oracle, packet), names.values())
        flows = {(*name[:5], 0, 0, *name[7:]): counts for name, counts in flows.items()}
        mine = drain[0][~egress], drain[1][~egress]
        assert totals.as_merged(packets.address, [mine]) == flows
        assert meter.statistics("ingress")["malformed"][0] == reasons["malformed"] > 0


def test_a_filter_and_a_sample_of_a_device_without_ethernet_header(wire, tun):
    names = without_link()
    config = MeterConfig(["tun"], direction="ingress", mode="packet", filter="udp dst port 443", clip_length=40)
    with wire.near, Meter(config) as meter:
        meter.attach()
        for name in ("udp", "tcp", "udp over ipv6", "icmp"):
            os.write(tun, names[name])
        samples = meter.packets()
        assert [row[:n].tobytes() for row, n in zip(samples.octets, samples.length.tolist(), strict=True)] == [
            names[name][:40] for name in ("udp", "udp over ipv6")
        ]
        assert not samples.ethernet.any()
        assert meter.statistics()["filtered"][0] == 2


def test_xdp_on_a_device_without_ethernet_header_is_refused(wire, tun):
    with wire.near, Meter(MeterConfig(["tun"], hook="xdp")) as meter:
        with pytest.raises(KernelError, match="tun has no Ethernet headers, which XDP needs; use --hook tc"):
            meter.attach()
        assert wire.near.attached() == []


@pytest.fixture
def overlay(wire):
    """A VXLAN between the two namespaces: interface ``x`` at both ends, its packets in UDP over ``v``."""
    for number, namespace in enumerate((wire.near, wire.far), 1):
        peer = f"10.9.0.{3 - number}"
        words = ("type", "vxlan", "id", "7", "remote", peer, "dstport", "4789", "dev", "v")
        namespace.ip("link", "add", "x", *words)
        with namespace:
            Path("/proc/sys/net/ipv6/conf/x/addr_gen_mode").write_text("1")
        namespace.ip("addr", "add", f"10.7.0.{number}/24", "dev", "x")
        namespace.ip("link", "set", "x", "up")
    wire.wait_for_silence()


def transfer(wire, size):
    """TCP through the tunnel, there and back."""
    with wire.near:
        listener = socket.create_server(("10.7.0.1", 7000))
    with wire.far:
        client = socket.create_connection(("10.7.0.1", 7000))
    server, _ = listener.accept()
    listener.close()
    for source, target in ((client, server), (server, client)):
        thread = threading.Thread(target=source.sendall, args=(bytes(size),))
        thread.start()
        left = size
        while left:
            left -= len(target.recv(min(left, 1 << 20)))
        thread.join()
    return client, server


@pytest.mark.parametrize("tunnels", [False, True], ids=["outer", "inner"])
def test_tcp_in_vxlan_counts_as_on_the_wire(wire, overlay, tunnels):
    """Super-packets in a tunnel: the interface's counters, and TCP's own count of segments."""
    with wire.near, Meter(MeterConfig(["v"], hook="tc", tunnels=tunnels)) as meter:
        before = wire.near.counters("v")
        meter.attach()
        client, server = transfer(wire, 5_000_000)
        with client, server:
            drains = totals.settle(meter, client, server)
            wire.wait_for_silence()
            drains.append(meter.drain())
            totals.assert_equal(meter, drains, before, wire.near.counters("v"))
            assert meter.statistics("egress")["gso_added"][0] > 100
            for direction, sent_by in ((0, client), (1, server)):
                mine = [totals.rows(part, part[0]["direction"] == direction) for part in drains]
                chosen = [
                    totals.rows(part, (part[0]["protocol"] == 6) if tunnels else (part[0]["dst_port"] == 4789))
                    for part in mine
                ]
                packets, octets, frames = (
                    totals.total(chosen, name, direction) for name in ("packets", "octets", "l2_octets")
                )
                segments = totals.tcp_info(sent_by, totals.TCP_INFO_SEGS_OUT, "=I") + direction  # the answer to a SYN
                if not tunnels:  # ARP of the overlay is in the tunnel too
                    assert 0 <= packets - segments <= 4
                    continue
                sent = totals.tcp_info(sent_by, totals.TCP_INFO_BYTES_SENT, "=Q")
                assert packets == segments
                assert octets == packets * 40 + 8 + sent
                assert frames == octets + packets * (VXLAN_HEADERS + 14)
                assert {each for keys, _ in chosen for each in keys["segment"].tolist()} == {7}


def test_promiscuous_mode_ends_with_the_meter_and_with_the_process(wire):
    def promiscuous():
        (link,) = json.loads(wire.near.ip("-d", "-j", "link", "show", "dev", "v"))
        return link["promiscuity"]

    with wire.near:
        with Meter(MeterConfig(["v"], hook="tc", promiscuous=True)) as meter:
            assert promiscuous() == 0
            meter.attach()
            assert promiscuous() == 1
        assert promiscuous() == 0
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                meter = Meter(MeterConfig(["v"], hook="tc", promiscuous=True, max_flows=100))
                meter.attach()
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        assert promiscuous() == 0
