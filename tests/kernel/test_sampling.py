"""Sampling in flows and in packet mode; the starts of packets as they were on the wire."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

import numpy as np
import packets
import pytest

from pyflowx.kernel import Meter, MeterConfig, Statistic
from pyflowx.kernel.samples import RING_LEN

pytestmark = pytest.mark.kernel

KINDS = ("xdp", "xdp-frags", "ingress", "egress")


@pytest.fixture
def one_cpu():
    """The thread stays on one CPU: each counts for itself."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("kind", KINDS)
def test_each_nth_packet_is_metered_and_the_others_are_counted(make_bench, one_cpu, kind):
    bench = make_bench(kind, sampling_interval=10)
    frame = packets.FRAMES["udp"]
    for count, expected in ((9, 0), (1, 1), (10, 1), (995, 99), (5, 1)):
        bench.program.test_run(frame, count)
        _, values = bench.drain()
        assert values["packets"].sum() == expected
    assert bench.statistic() == {
        Statistic.METERED: (102, 102 * len(frame)),
        Statistic.NOT_SELECTED: (918, 918 * len(frame)),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_random_sampling_has_its_probability(make_bench, kind):
    bench = make_bench(kind, sampling_interval=10, sampling_random=True)
    bench.program.test_run(packets.FRAMES["udp"], 100_000)
    _, values = bench.drain()
    metered = int(values["packets"].sum())
    assert abs(metered - 10_000) < 600  # more than six standard deviations
    assert bench.statistic()[Statistic.NOT_SELECTED][0] == 100_000 - metered
    gaps = []
    for _ in range(300):
        bench.program.test_run(packets.FRAMES["udp"], 10)
        gaps.append(int(bench.drain()[1]["packets"].sum()))
    assert len(set(gaps)) > 2  # not each 10th


@pytest.mark.parametrize("kind", KINDS)
def test_of_what_matches_the_filter_each_nth_is_metered(make_bench, one_cpu, kind):
    bench = make_bench(kind, sampling_interval=5, filter="udp")
    for _ in range(10):
        bench.program.test_run(packets.FRAMES["tcp"], 3)
        bench.program.test_run(packets.FRAMES["udp"], 2)
    keys, values = bench.drain()
    assert (keys["protocol"].tolist(), values["packets"].tolist()) == ([17], [4])
    slots = {slot: packets for slot, (packets, _) in bench.statistic().items()}
    assert slots == {Statistic.METERED: 4, Statistic.NOT_SELECTED: 16, Statistic.FILTERED: 30}


@pytest.mark.parametrize("clip_length", [1, 8, 15, 16, 60, 128, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_the_start_of_each_packet_comes_out(make_bench, kind, clip_length):
    bench = make_bench(kind, mode="packet", clip_length=clip_length)
    before = time.monotonic_ns()
    frames = [frame.ljust(60, b"\xaa") for frame in packets.FRAMES.values()]
    for frame in frames:
        bench.program.test_run(frame)
    samples = bench.ring.read()
    assert len(samples) == len(frames)
    assert samples.octets.shape == (len(frames), clip_length)
    for row, length, frame in zip(samples.octets, samples.length.tolist(), frames, strict=True):
        assert row[:length].tobytes() == frame[:clip_length]
    assert samples.frame_length.tolist() == [len(frame) for frame in frames]
    assert set(samples.direction.tolist()) == {int(kind == "egress")}
    assert samples.ethernet.all()
    times = samples.time_ns
    assert before <= times[0] <= times[-1] <= time.monotonic_ns()
    assert (np.diff(times.astype(np.int64)) >= 0).all()
    assert bench.statistic() == {Statistic.METERED: (len(frames), sum(map(len, frames)))}
    assert len(bench.drain()[0]) == 0
    assert len(bench.ring.read()) == 0


def test_the_ring_goes_round_and_what_finds_it_full_is_counted(make_bench):
    bench = make_bench("ingress", mode="packet", clip_length=1000)
    room = RING_LEN // (1000 + 24 + 8)
    frame = packets.FRAMES["udp"]
    bench.program.test_run(frame, 100)
    assert len(bench.ring.read()) == 100
    bench.program.test_run(frame, room + 500)
    samples = bench.ring.read()
    assert room - 1 <= len(samples) <= room
    assert (samples.octets[:, : len(frame)] == np.frombuffer(frame, np.uint8)).all()
    lost = room + 500 - len(samples)
    assert bench.statistic() == {
        Statistic.METERED: (100 + len(samples), (100 + len(samples)) * len(frame)),
        Statistic.LOST: (lost, lost * len(frame)),
    }
    bench.program.test_run(frame, 5)
    assert len(bench.ring.read()) == 5


def test_a_tag_that_the_kernel_took_out_is_put_back(wire, sender):
    names = ["vlan", "qinq", "vlan, ipv6", "udp", "mpls behind qinq"]
    frames = [packets.FRAMES[name] for name in names]
    with wire.far:
        traffic = sender(frames)
    config = MeterConfig(
        ["v"], hook="tc", direction="ingress", mode="packet", clip_length=64, filter="not icmp6 and not arp"
    )
    with wire.near, Meter(config) as meter:
        meter.attach()
        traffic.send()
        samples = meter.packets()
    assert [row[:n].tobytes() for row, n in zip(samples.octets, samples.length.tolist(), strict=True)] == [
        frame[:64] for frame in frames
    ]
    assert samples.frame_length.tolist() == [len(frame) for frame in frames]


@pytest.mark.parametrize("protocol", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_own_export_is_no_sample_and_no_flow(wire, protocol):
    """Of TCP neither what goes to the collector nor what comes back."""
    ours = bytes(10) + b"\xff\xff" + socket.inet_aton("10.9.0.2")
    with wire.far:
        collector = socket.socket(socket.AF_INET, protocol)
    collector.bind(("10.9.0.2", 4739))
    if protocol == socket.SOCK_STREAM:
        collector.listen()
    for mode in ("packet", "flows"):
        with wire.near, contextlib.ExitStack() as stack:
            meter = stack.enter_context(Meter(MeterConfig(["v"], exclude=((ours, 4739),), mode=mode, filter="ip")))
            meter.attach()
            out = stack.enter_context(socket.socket(socket.AF_INET, protocol))
            out.connect(("10.9.0.2", 4739))
            out.sendall(bytes(100))
            if protocol == socket.SOCK_STREAM:
                peer = stack.enter_context(collector.accept()[0])
                peer.recv(100)
                assert meter.statistics("ingress")["own_export"][0] >= 1
            else:
                collector.recv(200)
            assert meter.statistics("egress")["own_export"][0] >= 1
            assert len(meter.packets() if mode == "packet" else meter.drain()[0]) == 0
    collector.close()


def test_a_super_packet_is_one_of_n(make_bench, one_cpu):
    bench = make_bench("ingress", sampling_interval=2)
    frame = packets.FRAMES["tcp, options"] + bytes(3000)
    frame = frame[:16] + struct.pack("!H", len(frame) - 14) + frame[18:]
    for _ in range(4):
        bench.program.test_run(frame, context=struct.pack("=164xI8xI12x", 11, 300))
    assert bench.drain()[1]["packets"].tolist() == [22]
    assert bench.statistic()[Statistic.NOT_SELECTED] == (2, 2 * len(frame))
