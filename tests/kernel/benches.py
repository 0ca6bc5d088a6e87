"""The programs on a bare set of maps, and what they make of a frame."""

from __future__ import annotations

import os
import struct

import numpy as np
from packets import Expected, address, be16

from pyflowx.kernel import MeterConfig, Statistic, syscall
from pyflowx.kernel.compiler import compile_programs, source_folder
from pyflowx.kernel.filter import ETHERNET, FILTER_CALL, RAW_IP, compile_classic, translate
from pyflowx.kernel.generations import Generations
from pyflowx.kernel.layout import FRAGMENT_KEY_LEN, FRAGMENT_LEN, OWN_EXPORT_DTYPE, STATISTIC_DTYPE, MapSlot, dtypes
from pyflowx.kernel.programs import FILES, macros, numbers
from pyflowx.kernel.samples import PacketRing
from pyflowx.kernel.syscall import Map, Program


class Bench:
    """The programs on maps of their own, for test runs: no interface, no Meter. The thread that makes it stays on one
    processor until it closes it: each has flows of its own that wait for a place."""

    KINDS = {
        "xdp": (syscall.PROG_TYPE_XDP, "meter_xdp.c", "pyflowx_xdp"),
        "xdp-frags": (syscall.PROG_TYPE_XDP, "meter_xdp.c", "pyflowx_xdp"),
        "ingress": (syscall.PROG_TYPE_SCHED_CLS, "meter_tc.c", "pyflowx_ingress"),
        "egress": (syscall.PROG_TYPE_SCHED_CLS, "meter_tc.c", "pyflowx_egress"),
    }

    def __init__(self, kind, entries=1 << 12, link="ethernet", table=None, **config):
        self.counted = 0
        self.processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(self.processors)})
        program_type, file, name = self.KINDS[kind]
        self.kind, self.direction = kind, int(kind == "egress")
        self.config = MeterConfig(["lo"], **config)
        self.dtypes = dtypes(self.config.key)
        self.generations = Generations(*self.dtypes, entries, 2)
        self.statistics = Map(syscall.MAP_TYPE_PERCPU_ARRAY, 4, 16, 2 * len(Statistic), "statistics")
        self.fragments = Map(syscall.MAP_TYPE_LRU_HASH, FRAGMENT_KEY_LEN, FRAGMENT_LEN, 64, "fragments")
        self.sampling = Map(syscall.MAP_TYPE_PERCPU_ARRAY, 4, 4, 1, "sampling")
        self.own = Map(syscall.MAP_TYPE_ARRAY, 4, OWN_EXPORT_DTYPE.itemsize, 1, "own")
        self.ring = PacketRing(self.config.clip_length)
        maps = {
            MapSlot.FLOWS: self.generations.map,
            MapSlot.STATISTICS: self.statistics,
            MapSlot.OWN_EXPORTS: self.own,
            MapSlot.FRAGMENTS: self.fragments,
            MapSlot.SAMPLING: self.sampling,
            MapSlot.PACKETS: self.ring.map,
        }
        frags = kind == "xdp-frags"
        name += "_ip" if link == "ip" else ""
        code = compile_programs(source_folder() / file, FILES[file], macros(self.config))[name]
        functions = {}
        if self.config.filter:
            helper = {"xdp": None, "xdp-frags": syscall.HELPER_XDP_LOAD_BYTES}.get(kind, syscall.HELPER_SKB_LOAD_BYTES)
            tagged = program_type == syscall.PROG_TYPE_SCHED_CLS and link == "ethernet"
            classic = compile_classic(self.config.filter, RAW_IP if link == "ip" else ETHERNET)
            functions[FILTER_CALL] = translate(classic, helper, tagged)
        flags = syscall.XDP_HAS_FRAGS * frags
        filled = numbers(self.config, self.generations.numbers | (table or {}), frags)
        self.program = Program.load(program_type, name[:15], code, maps, flags, functions, filled)

    def drain(self):
        """What has been metered; first fragments are forgotten."""
        dtypes = np.dtype(("V", FRAGMENT_KEY_LEN)), np.dtype(("V", FRAGMENT_LEN))
        for key in self.fragments.entries_now(*dtypes)[0]:
            self.fragments.delete(key.tobytes())
        return self.generations.drain()

    def statistic(self):
        """Slot -> (packets, octets), of those that are not 0, since the last call; what waits for a place is
        metered."""
        totals = np.zeros((len(Statistic), 2), np.int64)
        for slot in Statistic:
            index = struct.pack("=I", self.direction * len(Statistic) + slot)
            cpus = np.frombuffer(self.statistics.lookup(index), STATISTIC_DTYPE)
            totals[slot] = cpus["packets"].sum(), cpus["octets"].sum()
        totals[Statistic.METERED] += self.generations.metered[self.direction]
        values = self.generations._tables[0].waiting()["value"]
        totals[Statistic.METERED] += int(values["packets"].sum()), int(values["l2_octets"].sum())
        new, self.counted = totals - self.counted, totals
        return {slot: tuple(new[slot].tolist()) for slot in Statistic if new[slot, 0]}

    def close(self):
        parts = (self.program, self.ring, self.own, self.sampling, self.fragments, self.statistics)
        for part in (*parts, self.generations):
            part.close()
        os.sched_setaffinity(0, self.processors)


def expected_of(key, value):
    """A flow's key and value as the oracle says it."""
    src, dst = (address(key["ip_version"], key[name].tobytes()) for name in ("src", "dst"))
    labels = tuple(value[f"mpls_{place}"].tobytes() for place in (1, 2, 3))
    depth = int(value["mpls_depth"])
    assert not any(map(any, labels[depth:]))
    in_key = ("protocol", "tos", "vlan", "inner_vlan", "src_port", "dst_port", "segment", "tunnel")
    in_value = ("octets", "tcp_flags", "fragment_flags", "fragment_id", "flow_label", "extensions", "tcp_window")
    in_value += ("tcp_mss", "tcp_window_scale", "ethertype")
    return Expected(
        version=int(key["ip_version"]),
        src=src,
        dst=dst,
        ttl=int(value["ttl_min"]),
        icmp=(int(value["icmp_type"]), int(value["icmp_code"])),
        mpls=labels[:depth],
        mpls_depth=depth,
        macs=value["dst_mac"].tobytes() + value["src_mac"].tobytes(),
        **{name: int(key[name]) for name in in_key},
        **{name: int(value[name]) for name in in_value},
    )


def metered(bench, frame):
    """What the program makes of a frame: as the oracle says it."""
    bench.program.test_run(frame)
    keys, values = bench.drain()
    statistic = bench.statistic()
    slot = Statistic.METERED if len(keys) else next(iter(statistic))
    assert statistic == {slot: (1, len(frame))}
    if not len(keys):
        return slot
    key, value = keys[0], values[0]
    assert len(keys) == 1
    assert (key["direction"], value["packets"], value["l2_octets"]) == (bench.direction, 1, len(frame))
    assert (value["length_min"], value["ttl_min"]) == (value["octets"], value["ttl_max"])
    assert value["length_max"] == value["octets"]
    assert 0 < value["first_ns"] == value["last_ns"]
    assert not key["pad"].any()
    assert key["complete"] == 1
    return expected_of(key, value)


def accepted(kind, frame):
    """Whether the kernel does a test run of the frame. Shorter ones are sent over a wire in test_wire.py."""
    least = {0x0800: 20, 0x86DD: 40}.get(be16(frame, 12), 1)
    return len(frame) >= 14 + (1 if kind.startswith("xdp") else least)
