"""Interfaces go, come back and are changed while they are metered."""

from __future__ import annotations

import os
import socket

import pytest
from attached import TC

from pyflowx.kernel import LinkChange, Meter, MeterConfig, syscall
from pyflowx.kernel.links import Links
from pyflowx.kernel.syscall import Program

pytestmark = pytest.mark.kernel

BPF_LINK_DETACH = 34
PASS_XDP = b"\xb7\0\0\0\2\0\0\0\x95\0\0\0\0\0\0\0"  # r0 = XDP_PASS; exit


def send(count, host="10.9.0.2"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for _ in range(count):
            out.sendto(b"x", (host, 9))


def udp_packets(meter):
    keys, values = meter.drain()
    return int(values["packets"][keys["protocol"] == 17].sum())


def remake(wire):
    """The link anew, as it was."""
    wire.near.ip("link", "add", "v", "type", "veth", "peer", "name", "v", "netns", wire.far.name)
    for number, namespace in enumerate((wire.near, wire.far), 1):
        namespace.ip("addr", "add", f"10.9.0.{number}/24", "dev", "v")
        namespace.ip("link", "set", "v", "address", f"02:00:00:00:00:0{number}", "up")
    wire.wait_for_silence()


@pytest.fixture
def meter(wire, way):
    with wire.near, Meter(MeterConfig(["v"], hook=way.option, max_flows=100)) as meter:
        meter.attach()
        meter.watch()  # of what attaching itself changed
        meter.drain()
        yield meter


def events(meter):
    return [(change.interface, change.event) for change in meter.watch()]


def test_nothing_happens(wire, meter):
    before = meter.attachments
    assert meter.watch() == []
    send(3)
    assert meter.watch() == []
    assert meter.attachments == before
    assert udp_packets(meter) == 3


def test_an_interface_that_comes_back_is_metered_again(wire, meter, way):
    send(3)
    first = meter.attachments[0].ifindex
    wire.near.ip("link", "del", "v")
    assert meter.watch() == [LinkChange("v", first, "gone")]
    assert meter.attachments == []
    assert udp_packets(meter) == 3
    assert meter.watch() == []
    remake(wire)
    assert events(meter) == [("v", "attached")]
    second = meter.attachments[0].ifindex
    assert second != first
    assert tuple(at.hook for at in meter.attachments) == way.hooks
    meter.drain()
    send(5)
    keys, values = meter.drain()
    assert int(values["packets"][keys["protocol"] == 17].sum()) == 5
    assert set(keys["ifindex"].tolist()) == {second}
    assert meter.statistics()["lost"] == (0, 0)


def test_gone_and_back_between_two_looks(wire, meter):
    wire.near.ip("link", "del", "v")
    remake(wire)
    assert events(meter) == [("v", "gone"), ("v", "attached")]
    meter.drain()
    send(2)
    assert udp_packets(meter) == 2


def test_the_catch_all_of_the_new_interface_is_there_when_the_map_is_full(wire, meter, sender):
    with wire.near:
        for port in range(300):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.sendto(b"x", ("10.9.0.2", 20000 + port))
    wire.near.ip("link", "del", "v")
    remake(wire)
    meter.watch()
    meter.drain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for port in range(300):
            out.sendto(b"x", ("10.9.0.2", 20000 + port))
    keys, values = meter.drain()
    assert values["packets"][keys["direction"] == 1].sum() >= 300
    assert (keys["ip_version"] == 0).any()
    assert meter.statistics()["lost"][0] == 0


def detach(number):
    """What ``bpftool link detach`` does, of one of this process's links."""
    links = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fdinfo/{fd}")]
    links = [fd for fd in links if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:bpf_link"]
    syscall._call(BPF_LINK_DETACH, syscall._attr("I", int(links[number])))


@pytest.mark.parametrize("what", ["first", "second"])
def test_what_somebody_has_removed_is_put_back(wire, meter, way, what):
    if way.hooks[1] == "tcx":
        detach(0 if what == "first" else -1)
    elif what == "first":
        wire.near.tc("qdisc", "del", "dev", "v", "clsact")
    else:
        wire.near.tc("filter", "del", "dev", "v", "egress")
    assert events(meter) == [("v", "restored")]
    assert tuple(at.hook for at in meter.attachments) == way.hooks
    send(4)
    assert udp_packets(meter) == 4
    assert meter.watch() == []


def test_an_xdp_program_that_somebody_has_removed_is_put_back(wire):
    with wire.near, Meter(MeterConfig(["v"], hook="xdp", max_flows=100)) as meter:
        meter.attach()
        meter.watch()
        wire.near.ip("link", "set", "dev", "v", "xdp", "off")
        assert events(meter) == [("v", "restored")]
        assert [at.hook for at in meter.attachments] == ["xdp", TC]
        assert meter.watch() == []


def test_what_somebody_else_has_put_there_meanwhile_stays(wire):
    """Our XDP program is taken off and a foreign one put on: that is reported, and its program is left alone."""
    foreign = Program.load(syscall.PROG_TYPE_XDP, "stranger", PASS_XDP, {})
    with foreign, wire.near, Meter(MeterConfig(["v"], hook="xdp", max_flows=100)) as meter, Links() as links:
        meter.attach()
        meter.watch()
        wire.near.ip("link", "set", "dev", "v", "xdp", "off")
        ifindex = links.index("v")
        assert links.attach_xdp(ifindex, foreign, native=True) == 0
        (change,) = meter.watch()
        assert (change.event, change.ifindex) == ("failed", ifindex)
        assert "(stranger) is attached at XDP of v" in change.message
        wire.near.ip("link", "set", "dev", "v", "mtu", "1400")
        assert meter.watch() == []  # once is enough
        assert links.xdp(ifindex)[1] == foreign.info().id
        links.detach_xdp(ifindex, foreign, links.xdp(ifindex)[0])
        assert events(meter) == [("v", "attached")]


def test_a_renamed_interface_is_metered_on(wire, meter):
    wire.near.ip("link", "set", "dev", "v", "down")
    wire.near.ip("link", "set", "dev", "v", "name", "w")
    wire.near.ip("link", "set", "dev", "w", "up")
    assert [change for change in meter.watch() if change.event != "restored"] == []
    meter.drain()
    send(2)
    assert udp_packets(meter) == 2


@pytest.mark.parametrize("mtu", [1280, 3000, 9000])
def test_the_mtu_changes(wire, meter, mtu):
    for namespace in (wire.near, wire.far):
        namespace.ip("link", "set", "dev", "v", "mtu", str(mtu))
    assert meter.watch() == []
    meter.drain()
    with wire.far:
        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        near.bind(("10.9.0.1", 9))
        far.sendto(bytes(mtu - 28), ("10.9.0.1", 9))
        assert len(near.recv(10000)) == mtu - 28
        near.sendto(bytes(mtu - 28), ("10.9.0.2", 9))
    keys, values = meter.drain()
    for direction in (0, 1):
        mine = (keys["protocol"] == 17) & (keys["direction"] == direction)
        assert values["octets"][mine].tolist() == [mtu]


def test_auto_says_which_program_it_left_xdp_to(wire):
    """On a tap, whose driver has native XDP."""
    import fcntl
    import os
    import struct

    with wire.near:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", b"tap", 2 | 0x1000))  # TUNSETIFF
    wire.near.ip("link", "set", "tap", "up")
    foreign = Program.load(syscall.PROG_TYPE_XDP, "stranger", PASS_XDP, {})
    with foreign, wire.near, Links() as links, Meter(MeterConfig(["tap"], max_flows=100)) as meter:
        links.attach_xdp(links.index("tap"), foreign, native=True)
        ingress, egress = meter.attach()
        assert (ingress.hook, egress.note) == (TC, "")
        assert ingress.note == f"program {foreign.info().id} (stranger) is attached at XDP of tap"
    os.close(descriptor)
