"""Flows that come and go while the maps swap; for tests and benchmarks."""

from __future__ import annotations

import ctypes
import struct
import threading

import numpy as np
from frames import udp_frame
from totals import assert_equal

from pyflowx.kernel import Meter, MeterConfig

FLOWS, STAY = 1 << 15, 1 << 14  # of the flows of a round STAY are in each, the others in this one only
SOURCE = slice(26, 30)  # of a frame


def renumber(frames, number):
    """Give the flows that do not stay the source address of a round."""
    address = struct.pack("!I", 0x0A800000 + number)
    for buffer in frames._buffers[STAY:]:
        ctypes.memmove(ctypes.addressof(buffer) + SOURCE.start, address, 4)


def per_flow(drains):
    """Packets of each flow: one row a flow of (source address, source port, destination port, packets)."""
    keys = np.concatenate([keys for keys, _ in drains])
    values = np.concatenate([values for _, values in drains])
    mine = (keys["protocol"] == 17) & (keys["direction"] == 0)
    keys, packets = keys[mine], values["packets"][mine]
    names = np.ascontiguousarray(keys["src"][:, 12:]).view(">u4")[:, 0].astype(np.uint64) << np.uint64(32)
    names |= keys["src_port"].astype(np.uint64) << np.uint64(16) | keys["dst_port"]
    unique, place = np.unique(names, return_inverse=True)
    return unique, np.bincount(place, packets).astype(np.int64)


def churn(wire, sender, hook, rounds):
    """Sends ``rounds`` times all flows, and compares all there is to compare; (packets, drains)."""
    with wire.far:
        frames = sender([udp_frame(number) for number in range(FLOWS)])
    config = MeterConfig(["v"], hook=hook, max_flows=1 << 19)
    with wire.near, Meter(config) as meter:
        before = wire.near.counters("v")
        meter.attach()

        def work():
            for number in range(rounds):
                renumber(frames, number)
                frames.send()

        thread = threading.Thread(target=work)
        thread.start()
        drains = []
        while thread.is_alive():
            drains.append(meter.drain())
            thread.join(0.05)
        wire.wait_for_silence()
        drains.append(meter.drain())
        after = wire.near.counters("v")
        assert_equal(meter, drains, before, after, native=hook == "xdp")
        assert meter.statistics()["map_full"] == (0, 0)
    assert len(drains) > 2
    received = after["rx"][0] - before["rx"][0]
    assert received >= FLOWS * rounds
    flows, packets = per_flow(drains)
    assert len(flows) == STAY + (FLOWS - STAY) * rounds
    stayed = packets > 1
    assert (stayed.sum(), packets[stayed].tolist()) == (STAY, [rounds] * STAY)
    return received, len(drains)
