"""The programs' parser by test runs against the oracle, on whole, cut and damaged packets."""

from __future__ import annotations

import struct

import pytest
from benches import accepted, metered
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packets import FRAMES, PACKETS, oracle
from scapy.packet import Raw

from pyflowx.kernel import Statistic

pytestmark = pytest.mark.kernel

PASS = {
    "xdp": 2,
    "xdp-frags": 2,
    "ingress": 0xFFFFFFFF,
    "egress": 0xFFFFFFFF,
}  # XDP_PASS, TC_ACT_UNSPEC: nothing is ever held back


@pytest.mark.parametrize("name", PACKETS)
def test_a_packet_is_what_we_say_it_is(name):
    """The oracle against the table: what Scapy built is what the oracle reads."""
    expected, found = PACKETS[name][1], oracle(FRAMES[name])
    if isinstance(expected, Statistic):
        assert found is expected
    else:
        assert {field: getattr(found, field) for field in expected} == expected


@pytest.mark.parametrize("name", PACKETS)
def test_the_programs_agree_with_the_oracle_at_every_length(bench, name):
    frame = FRAMES[name]
    cuts = [frame[:length] for length in range(14, len(frame) + 1)]
    for cut in cuts:
        if accepted(bench.kind, cut):
            assert metered(bench, cut) == oracle(cut), len(cut)


@settings(max_examples=400)
@given(data=st.data())
def test_the_programs_agree_with_the_oracle_on_damaged_packets(bench, data):
    frame = bytearray(data.draw(st.sampled_from(list(FRAMES.values()))))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(12, len(frame) - 1))] = data.draw(st.integers(0, 255))
    assume(accepted(bench.kind, frame))
    assert metered(bench, bytes(frame)) == oracle(bytes(frame))


def test_every_packet_is_passed_on(bench):
    for frame in FRAMES.values():
        assert bench.program.test_run(frame).retval == PASS[bench.kind]
    bench.drain()
    bench.statistic()


@pytest.mark.parametrize("bench", ["xdp-frags"], indirect=True)
@pytest.mark.parametrize("name", ["tcp", "udp over ipv6", "jumbogram", "arp", "length past the frame", "length 0"])
def test_a_frame_may_continue_behind_the_first_buffer(bench, name):
    """Of a frame of 9000 octets XDP sees the first 3.5 k."""
    frame = bytearray(FRAMES[name].ljust(9000, b"\0"))
    if name == "tcp":
        frame[16:18] = (9000 - 14).to_bytes(2, "big")
    if name == "udp over ipv6":
        frame[18:20] = (9000 - 54).to_bytes(2, "big")
    if name == "length past the frame":
        frame[16:18] = (9000 - 13).to_bytes(2, "big")
    expected = oracle(bytes(frame))
    assert metered(bench, bytes(frame)) == expected
    if name in ("tcp", "udp over ipv6", "jumbogram"):
        assert expected.octets == 9000 - 14


def gso(segments, size):
    """The start of a struct __sk_buff that says so."""
    return struct.pack("=164xI8xI12x", segments, size)


@pytest.mark.parametrize("bench", ["ingress", "egress"], indirect=True)
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "from a virtual machine"])
@pytest.mark.parametrize("name", ["tcp, options", "tcp over ipv6", "sctp over ipv6", "udp over ipv6", "qinq"])
def test_a_super_packet_is_as_many_packets_as_it_has_segments(bench, name, counted):
    whole = PACKETS[name][0].copy()
    whole.lastlayer().remove_payload()
    if isinstance(whole.lastlayer(), Raw):
        whole.lastlayer().underlayer.remove_payload()
    headers = len(bytes(whole))
    whole = whole / bytes(10 * 300 + 1)
    frame = bytes(whole)
    bench.program.test_run(frame, context=gso(11 * counted, 300))
    keys, values = bench.drain()
    assert values["packets"].tolist() == [11]
    assert values["l2_octets"].tolist() == [len(frame) + 10 * headers]
    link = oracle(frame)
    ip_headers = headers - (len(frame) - link.octets)
    assert values["octets"].tolist() == [link.octets + 10 * ip_headers]
    assert (values["length_min"].tolist(), values["length_max"].tolist()) == ([ip_headers + 1], [ip_headers + 300])
    statistic = bench.statistic()
    assert statistic[Statistic.METERED] == (11, len(frame) + 10 * headers)
    assert statistic[Statistic.GSO_ADDED] == (10, 10 * headers)
