"""Packets in packets: by test runs against the oracle; and what a super-packet in a tunnel stands for."""

from __future__ import annotations

import contextlib
import struct

import packets
import pytest
from benches import Bench, accepted, metered
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.packet import Raw

from pyflowx.kernel import Statistic

pytestmark = pytest.mark.kernel

FRAMES, TUNNELS = packets.TUNNEL_FRAMES, packets.TUNNELS


@pytest.fixture(scope="module", params=["xdp", "ingress"])
def looking(request):
    """A program that looks into tunnels."""
    with contextlib.closing(Bench(request.param, tunnels=True)) as bench:
        yield bench


@pytest.fixture(scope="module", params=["ingress", "egress"])
def plain(request):
    """A program at TC that does not."""
    with contextlib.closing(Bench(request.param)) as bench:
        yield bench


@pytest.mark.parametrize("name", TUNNELS)
def test_a_tunnel_is_what_we_say_it_is(name):
    found = packets.oracle(FRAMES[name], tunnels=True)
    assert {field: getattr(found, field) for field in TUNNELS[name][1]} == TUNNELS[name][1]


@pytest.mark.parametrize("name", [*TUNNELS, *packets.FRAMES])
def test_the_innermost_packet_is_metered_at_every_length(looking, name):
    frame = (FRAMES | packets.FRAMES)[name]
    for length in range(34, len(frame) + 1):
        if accepted(looking.kind, frame[:length]):
            assert metered(looking, frame[:length]) == packets.oracle(frame[:length], tunnels=True), length


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_tunnels(looking, data):
    frame = bytearray(data.draw(st.sampled_from(list(FRAMES.values()))))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(12, len(frame) - 1))] = data.draw(st.integers(0, 255))
    assume(accepted(looking.kind, frame))
    assert metered(looking, bytes(frame)) == packets.oracle(bytes(frame), tunnels=True)


@pytest.mark.parametrize("name", TUNNELS)
def test_unless_asked_for_the_outer_packet_is_metered(plain, name):
    assert metered(plain, FRAMES[name]) == packets.oracle(FRAMES[name])


GSO_TUNNELS = ["ip in ip", "6in4", "4in6", "gre", "vxlan", "vxlan of linux, tags", "geneve"]


def check_super_packet(bench, name, tunnels):
    """A super-packet of 11 segments: each has the headers of all packets on the way."""
    whole = TUNNELS[name][0].copy()
    whole.lastlayer().remove_payload()
    if isinstance(whole.lastlayer(), Raw):
        whole.lastlayer().underlayer.remove_payload()
    headers = len(bytes(whole))
    frame = bytes(whole / bytes(10 * 300 + 1))
    bench.program.test_run(frame, context=struct.pack("=164xI8xI12x", 11, 300))
    keys, values = bench.drain()
    assert bench.statistic()[Statistic.METERED] == (11, len(frame) + 10 * headers)
    known = packets.oracle(frame, tunnels)
    ip_headers = headers - (len(frame) - known.octets)
    assert values["packets"].tolist() == [11]
    assert values["l2_octets"].tolist() == [len(frame) + 10 * headers]
    assert values["octets"].tolist() == [known.octets + 10 * ip_headers]
    assert values["length_max"].tolist() == [ip_headers + 300]


@pytest.mark.parametrize("name", GSO_TUNNELS)
def test_a_super_packet_in_a_tunnel_has_its_headers_in_each_segment(plain, name):
    check_super_packet(plain, name, tunnels=False)


@pytest.mark.parametrize("looking", ["ingress"], indirect=True)
@pytest.mark.parametrize("name", GSO_TUNNELS)
def test_and_so_it_has_where_the_tunnel_is_looked_into(looking, name):
    check_super_packet(looking, name, tunnels=True)
