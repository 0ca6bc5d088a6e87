"""Network namespaces, traffic and a bare set of maps for the tests of the kernel room."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

import demo
import numpy as np
import pytest
from attached import attached

from pyflowx.kernel import MeterConfig, Statistic, syscall
from pyflowx.kernel.compiler import compile_programs, source_folder
from pyflowx.kernel.filter import ETHERNET, FILTER_CALL, RAW_IP, compile_classic, translate
from pyflowx.kernel.gate import Gate, GateConfig
from pyflowx.kernel.gate_layout import Outcome
from pyflowx.kernel.generations import Generations
from pyflowx.kernel.layout import FRAGMENT_KEY_LEN, FRAGMENT_LEN, OWN_EXPORT_DTYPE, STATISTIC_DTYPE, MapSlot, dtypes
from pyflowx.kernel.links import Links
from pyflowx.kernel.programs import FILES, macros, numbers
from pyflowx.kernel.samples import PacketRing
from pyflowx.kernel.syscall import Map, Program

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SYSCTLS = {  # no chatter of the kernel's own, and headers of TCP that are all of the same size
    "ipv6/conf/v/router_solicitations": "0",
    "ipv6/conf/v/accept_dad": "0",
    "ipv6/conf/v/addr_gen_mode": "1",
    "ipv6/conf/v/mldv2_unsolicited_report_interval": "10",
    "ipv4/tcp_sack": "0",
    "ipv4/tcp_timestamps": "0",
}
libc = ctypes.CDLL(None, use_errno=True)


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class Namespace:
    """A network namespace; ``with`` moves this thread into it."""

    def __init__(self, name):
        self.name, self._homes = name, []
        run("ip", "netns", "add", name)

    def __enter__(self):
        self._homes.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        with open(f"/run/netns/{self.name}") as there:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        return self

    def __exit__(self, *_):
        home = self._homes.pop()
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)

    def ip(self, *words):
        return run("ip", "-n", self.name, *words)

    def tc(self, *words):
        return run("tc", "-n", self.name, *words)

    def run(self, *words):
        return run("ip", "netns", "exec", self.name, *words)

    def counters(self, link):
        """What the interface has counted: ``rx`` and ``tx`` as (packets, octets), ``lost``: what it could not send."""
        stats = json.loads(self.ip("-s", "-j", "link", "show", "dev", link))[0]["stats64"]
        counted = {side: (stats[side]["packets"], stats[side]["bytes"]) for side in ("rx", "tx")}
        return {**counted, "lost": stats["tx"]["dropped"]}

    def attached(self):
        """What is attached to any link."""
        return attached(self.name)


class Wire:
    """Two namespaces with one veth link, ``v`` at both ends; what stands in ``near`` is metered."""

    def __init__(self, stack):
        names = [f"pyflowx-test-{os.getpid()}-{side}" for side in ("near", "far")]
        self.near, self.far = (self._namespace(stack, name) for name in names)
        self.near.ip("link", "add", "v", "type", "veth", "peer", "name", "v", "netns", self.far.name)
        for number, namespace in enumerate((self.near, self.far), 1):
            with namespace:
                for name, value in SYSCTLS.items():
                    Path("/proc/sys/net", name).write_text(value)
            namespace.ip("addr", "add", f"10.9.0.{number}/24", "dev", "v")
            namespace.ip("addr", "add", f"fd09::{number}/64", "dev", "v")
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("link", "set", "v", "address", f"02:00:00:00:00:0{number}", "up")
        self.wait_for_silence()

    def wait_for_silence(self):
        """Until all has arrived, and the hello to multicast neighbours with which the kernel greets a link, XDP too."""
        before, pause = None, threading.Event()
        while before != (before := [space.counters("v") for space in (self.near, self.far)]):
            pause.wait(0.2)

    @staticmethod
    def _namespace(stack, name):
        namespace = Namespace(name)
        stack.callback(run, "ip", "netns", "del", name)
        return namespace


@pytest.fixture
def no_tcx(monkeypatch):
    """As on Linux before 6.6: TC is a filter of clsact."""
    monkeypatch.setattr(Links, "_attach_tcx", lambda *_: False)


@pytest.fixture
def wire():
    with contextlib.ExitStack() as stack:
        yield Wire(stack)


class Sender:
    """Sends frames as they are out of an interface of the namespace it is made in."""

    class _Header(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_void_p),
            ("name_len", ctypes.c_uint32),
            ("vector", ctypes.c_void_p),
            ("vectors", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("control_len", ctypes.c_size_t),
            ("flags", ctypes.c_size_t),  # an int, and padding
            ("sent", ctypes.c_size_t),
        ]

    def __init__(self, frames, link="v"):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: it receives nothing
        self.socket.bind((link, 0))
        self.count = len(frames)
        self._buffers = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        self._vectors = (ctypes.c_size_t * (2 * len(frames)))()
        self._headers = (self._Header * len(frames))()
        for index, buffer in enumerate(self._buffers):
            self._vectors[2 * index] = ctypes.addressof(buffer)
            self._vectors[2 * index + 1] = len(buffer)
            self._headers[index].vector = ctypes.addressof(self._vectors) + 16 * index
            self._headers[index].vectors = 1

    def send(self, rounds=1):
        """All frames, ``rounds`` times."""
        for _ in range(rounds):
            sent = 0
            while sent < self.count:
                position = ctypes.byref(self._headers, sent * ctypes.sizeof(self._Header))
                done = libc.sendmmsg(self.socket.fileno(), position, self.count - sent, 0)
                if done > 0:
                    sent += done
                else:  # the queue to the other end of the link is full: this frame was not sent
                    assert ctypes.get_errno() == errno.ENOBUFS
                    os.sched_yield()

    def close(self):
        self.socket.close()


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


@pytest.fixture(scope="module", params=Bench.KINDS)
def bench(request):
    with contextlib.closing(Bench(request.param)) as bench:
        yield bench


@pytest.fixture
def make_bench():
    """Makes a Bench that is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *kind, **config: stack.enter_context(contextlib.closing(Bench(*kind, **config)))


class TestGate(Gate):
    """A gate that tells what it counted since it was asked last."""

    __test__ = False

    @property
    def program(self):
        """That of the first interface."""
        return self._port(self.config.interfaces[0]).program

    def counted(self):
        """Outcome -> frames, of those that are not 0, since the last call; ``stateless`` beside them."""
        (*counts, stateless) = sum(total["packets"] for total in self.statistics().values()).tolist()
        before = getattr(self, "_before", {})
        self._before = {**dict(zip(Outcome, counts, strict=True)), "stateless": stateless}
        return {
            slot: count - before.get(slot, 0) for slot, count in self._before.items() if count > before.get(slot, 0)
        }


@pytest.fixture(scope="session")
def gate_class():
    return TestGate


@pytest.fixture
def make_gate():
    """Makes a Gate that is closed at the end; of ``lo`` where nothing else is said."""
    with contextlib.ExitStack() as stack:

        def make(**config):
            return stack.enter_context(TestGate(GateConfig(**{"interfaces": ["lo"], **config})))

        yield make


@pytest.fixture
def stack():
    """What a test starts ends in the reverse order, whatever happens; the two namespaces of the demo."""
    with contextlib.ExitStack() as stack:
        stack.callback(demo.clean_up)
        demo.build()
        yield stack


@pytest.fixture
def sender():
    """Makes a Sender that is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda frames, link="v": stack.enter_context(contextlib.closing(Sender(frames, link)))
