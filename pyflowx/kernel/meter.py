"""The Metering Process: programs at the hooks of interfaces, flows as arrays."""

from __future__ import annotations

import errno
import os
import resource
import struct
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pyflowx.errors import ConfigError, KernelError
from pyflowx.kernel import syscall
from pyflowx.kernel.compiler import compile_programs, source_folder
from pyflowx.kernel.layout import (
    KEY_DTYPE,
    KEY_LEVELS,
    MAX_OWN_EXPORTS,
    OWN_EXPORT_DTYPE,
    STATISTIC_DTYPE,
    VALUE_DTYPE,
    MapSlot,
    Statistic,
)
from pyflowx.kernel.links import Attachment, Claim, Links, describe
from pyflowx.kernel.syscall import Map, Program, ProgramInfo

HOOKS = ("auto", "xdp", "tc")
DIRECTIONS = ("both", "ingress", "egress")
MODES = ("flows", "packet")
MAX_CLIP_LENGTH = 2048

_FIRST = bytes(4)  # the only index of an array of one
_XDP_BUSY = (errno.EBUSY, errno.EEXIST)
# A driver with native XDP where TC is the better choice: on veth, XDP turns the peer's segmentation offload
# off, which costs every TCP connection more than the whole metering does.
_NOT_WORTH_XDP = ("veth",)


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """What to meter.

    ``hook``: ``auto``, ``xdp`` or ``tc``; ``direction``: ``both``, ``ingress`` or ``egress`` (XDP sees
    ingress only; with ``both`` egress is metered at TC). ``max_flows``: capacity of one generation, that
    is of the flows between two drains; each takes some 450 octets of kernel memory from the start: in two
    generations 160 octets of key and value, 48 of the kernel's own and at least 16 of its hash table.
    ``exclude``: destinations (16 octets, IPv4 as IPv4-mapped; None is any) and UDP ports of our own
    export traffic, which is counted in the statistic ``own_export`` and not metered.

    ``key``: one of :data:`~pyflowx.kernel.layout.KEY_LEVELS`; ``tunnels``: whether the innermost packet of a
    tunnel is metered (else the outer one). ``filter``: a tcpdump expression, empty for all packets; what does
    not match is counted in the statistic ``filtered``. Of what matches, one in ``sampling_interval`` packets
    is metered: each n-th that a CPU sees or, with ``sampling_random``, each with a probability of 1/n; the
    others are counted in ``not_selected``. Counters are not scaled. ``mode``: ``flows`` or ``packet``: then
    there are no flows, :meth:`Meter.packets` has the first ``clip_length`` octets of each selected packet.
    ``promiscuous``: interfaces receive what is not for them too. ``run_statistics``: the kernel measures
    what our programs cost (some 20 ns a packet more).
    """

    interfaces: list[str]
    hook: str = "auto"
    direction: str = "both"
    max_flows: int = 1 << 18
    exclude: tuple[tuple[bytes | None, int], ...] = ()
    key: str = "vlan"
    tunnels: bool = False
    filter: str = ""
    sampling_interval: int = 1
    sampling_random: bool = False
    mode: str = "flows"
    clip_length: int = 128
    promiscuous: bool = False
    run_statistics: bool = False

    def check(self) -> None:
        """ConfigError for what cannot be."""
        if self.hook not in HOOKS:
            raise ConfigError(f"hook {self.hook}: must be one of {', '.join(HOOKS)}")
        if self.direction not in DIRECTIONS:
            raise ConfigError(f"direction {self.direction}: must be one of {', '.join(DIRECTIONS)}")
        if self.hook == "xdp" and self.direction == "egress":
            raise ConfigError("hook xdp sees no egress traffic; use tc or auto")
        if self.key not in KEY_LEVELS:
            raise ConfigError(f"key {self.key}: must be one of {', '.join(KEY_LEVELS)}")
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode}: must be one of {', '.join(MODES)}")
        if not 1 <= self.sampling_interval < 1 << 32:
            raise ConfigError(f"sampling_interval {self.sampling_interval}: must be 1 to {(1 << 32) - 1}")
        if not 1 <= self.clip_length <= MAX_CLIP_LENGTH:
            raise ConfigError(f"clip_length {self.clip_length}: must be 1 to {MAX_CLIP_LENGTH}")
        if not self.interfaces:
            raise ConfigError("no interface to meter")
        if not 1 <= self.max_flows <= 1 << 26:
            raise ConfigError(f"max_flows {self.max_flows}: must be 1 to {1 << 26}")
        if len(self.exclude) > MAX_OWN_EXPORTS:
            raise ConfigError(f"{len(self.exclude)} collectors; at most {MAX_OWN_EXPORTS}")


class Meter:
    """Compiles and loads the programs; ``attach()`` starts metering. A context manager.

    Errors: :class:`~pyflowx.errors.KernelError` (privilege, feature, verifier, header files, foreign
    program), :class:`~pyflowx.errors.ConfigError` for a value of the configuration.
    """

    def __init__(self, config: MeterConfig) -> None:
        config.check()
        self.config = config
        self._resources = ExitStack()  # what close() gives back, newest first
        self._attached = ExitStack()  # what detach() undoes
        self._attachments: list[Attachment] = []
        self._catch_all: list[bytes] = []  # the keys of the catch-all flows
        with ExitStack() as on_error:
            on_error.callback(self._resources.close)
            with suppress(ValueError, OSError):  # before Linux 5.11 maps count as locked memory
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self._make_maps()
            self._programs = self._load()
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def attach(self) -> list[Attachment]:
        """Attach to all interfaces or, on an error, to none; removes left-overs of dead exporters first."""
        links = self._resources.enter_context(Links())
        for program in self._programs.values():
            self._resources.callback(Claim(program.info().id).close)
        try:
            for interface in dict.fromkeys(self.config.interfaces):
                self._attach_to(links, interface)
        except BaseException:
            self.detach()
            raise
        return list(self._attachments)

    def drain(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Swap generations and empty the quiet one: n keys (KEY_DTYPE) and n values (VALUE_DTYPE), deltas
        since the last drain. No packet is in two drains or in none.

        A key with ``ip_version`` 0 is the catch-all flow of its ifindex and direction (the packets of
        statistic ``map_full``): only the counters and times of its value have a meaning.
        """
        quiet, ready = self._generations
        for key in self._catch_all:
            ready.update(key, bytes(VALUE_DTYPE.itemsize))
        self._flows.update(_FIRST, struct.pack("=I", ready.fd))
        self._generations.reverse()
        keys, values = quiet.drain(KEY_DTYPE, VALUE_DTYPE)
        count = len(keys)
        for hole in np.flatnonzero(values["packets"] == 0)[::-1].tolist():  # catch-all flows that caught nothing
            count -= 1
            keys[hole], values[hole] = keys[count], values[count]
        return keys[:count], values[:count]

    def statistics(self, direction: str | None = None) -> dict[str, tuple[int, int]]:
        """(packets, layer 2 octets) since the start by :class:`~pyflowx.kernel.layout.Statistic` in lower
        case, of one direction (``ingress``, ``egress``) or of both. May be called after detach()."""
        totals = np.zeros((2, len(Statistic), 2), np.uint64)
        for index in np.ndindex(2, len(Statistic)):
            slot = struct.pack("=I", index[0] * len(Statistic) + index[1])
            cpus = np.frombuffer(self._statistics.lookup(slot), STATISTIC_DTYPE)
            totals[index] = cpus["packets"].sum(), cpus["octets"].sum()
        sides = {None: slice(0, 2), "ingress": slice(0, 1), "egress": slice(1, 2)}
        packets, octets = totals[sides[direction]].sum(axis=0).T.tolist()
        return {slot.name.lower(): (packets[slot], octets[slot]) for slot in Statistic}

    def costs(self) -> dict[str, ProgramInfo]:
        """How often each program has run and for how long, by hook (``xdp``) or direction at TC; counted while
        :func:`~pyflowx.kernel.syscall.enable_statistics` is in force."""
        return {name: program.info() for name, program in self._programs.items()}

    def offset_ns(self) -> int:
        """What to add to a flow's times to get ns since 1970; changes when the clock is set."""

        def measure() -> tuple[int, int]:
            before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            return after - before, now - (before + after) // 2

        return min(measure() for _ in range(3))[1]

    def detach(self) -> None:
        """Remove our programs from the interfaces; what they counted can still be drained."""
        self._attachments.clear()
        self._attached.close()

    def close(self) -> None:
        """Detach and give programs and maps back to the kernel."""
        self.detach()
        self._resources.close()

    def _make_maps(self) -> None:
        config = self.config

        def make(kind: int, key_size: int, value_size: int, entries: int, name: str, inner: int = 0) -> Map:
            return self._resources.enter_context(Map(kind, key_size, value_size, entries, name, inner=inner))

        # Room for the catch-all flows, at most two of an interface. Preallocated: one insertion costs half as
        # much, and each flow is inserted again in each tick; and no packet meets an allocation that fails.
        entries = config.max_flows + 2 * len(config.interfaces)
        sizes = KEY_DTYPE.itemsize, VALUE_DTYPE.itemsize
        self._generations = [make(syscall.MAP_TYPE_HASH, *sizes, entries, "pyflowx_flows") for _ in range(2)]
        self._flows = make(syscall.MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, "pyflowx_active", self._generations[0].fd)
        self._flows.update(_FIRST, struct.pack("=I", self._generations[0].fd))
        slots = 2 * len(Statistic)
        self._statistics = make(syscall.MAP_TYPE_PERCPU_ARRAY, 4, STATISTIC_DTYPE.itemsize, slots, "pyflowx_stats")
        own = make(syscall.MAP_TYPE_ARRAY, 4, OWN_EXPORT_DTYPE.itemsize, max(1, len(config.exclude)), "pyflowx_own")
        for index, (address, port) in enumerate(config.exclude):
            entry = np.zeros(1, OWN_EXPORT_DTYPE)
            entry["port"], entry["any_address"] = port, address is None
            entry["address"] = np.frombuffer(address or bytes(16), np.uint8)
            own.update(struct.pack("=I", index), entry.tobytes())
        self._maps: dict[int, Map] = {
            MapSlot.FLOWS: self._flows,
            MapSlot.STATISTICS: self._statistics,
            MapSlot.OWN_EXPORTS: own,
        }

    def _load(self) -> dict[str, Program]:
        """The programs that this configuration may need, by hook or direction."""
        macros = [f"OWN_EXPORTS={len(self.config.exclude)}"]
        programs = {}
        if self.config.hook != "tc" and self.config.direction != "egress":
            programs["xdp"] = self._load_xdp(macros)
        names = {side: f"pyflowx_{side}" for side in DIRECTIONS[1:]}
        code = compile_programs(source_folder() / "meter_tc.c", list(names.values()), macros)
        for side, name in names.items():
            program = Program.load(syscall.PROG_TYPE_SCHED_CLS, name, code[name], self._maps)
            programs[side] = self._resources.enter_context(program)
        return programs

    def _load_xdp(self, macros: list[str]) -> Program:
        def load(flags: int, *more: str) -> Program:
            code = compile_programs(source_folder() / "meter_xdp.c", ["pyflowx_xdp"], [*macros, *more])
            return Program.load(syscall.PROG_TYPE_XDP, "pyflowx_xdp", code["pyflowx_xdp"], self._maps, flags)

        try:
            program = load(syscall.XDP_HAS_FRAGS, "XDP_FRAGS")
        except KernelError:  # before Linux 5.18; whatever else is wrong is wrong again
            program = load(0)
        return self._resources.enter_context(program)

    def _attach_to(self, links: Links, interface: str) -> None:
        config = self.config
        ifindex = links.index(interface)
        links.remove_left_overs(ifindex)
        sides = [side for side in DIRECTIONS[1:] if config.direction in ("both", side)]
        if links.is_loopback(ifindex):
            sides = sides[:1]  # each packet passes both ways: once is enough
        position = len(self._attachments)
        for side in reversed(sides):  # XDP last: a link may come up anew with it, and the kernel then says hello
            self._add_catch_all(ifindex, side)
            hook = self._attach_xdp(links, interface, ifindex) if side == "ingress" and config.hook != "tc" else ""
            if not hook:
                hook = "tc"
                handle = links.attach_tc(ifindex, self._programs[side], side)
                self._attached.callback(links.detach_tc, ifindex, side, handle)
            self._attachments.insert(position, Attachment(interface, ifindex, hook, side))

    def _attach_xdp(self, links: Links, interface: str, ifindex: int) -> str:
        """The hook; empty where ``auto`` leaves ingress to TC: no native XDP, not worth it, or taken."""
        forced = self.config.hook == "xdp"
        if not forced and links.driver(ifindex) in _NOT_WORTH_XDP:
            return ""
        program, hook = self._programs["xdp"], "xdp"
        code = links.attach_xdp(ifindex, program, native=True)
        if code and forced and code not in _XDP_BUSY:
            code, hook = links.attach_xdp(ifindex, program, native=False), "xdp-generic"
        attached = links.xdp(ifindex)
        if not code and attached is not None:
            self._attached.callback(links.detach_xdp, ifindex, program, attached[0])
            return hook
        if not forced:
            return ""
        if attached is not None:
            raise KernelError(
                f"{describe(attached[1])} is attached at XDP of {interface}; detach it (ip link set dev {interface} "
                "xdp off) or use --hook tc"
            )
        raise KernelError(f"{interface} refuses an XDP program: {os.strerror(code)}; use --hook tc")

    def _add_catch_all(self, ifindex: int, side: str) -> None:
        key = np.zeros(1, KEY_DTYPE)
        key["ifindex"], key["direction"] = ifindex, side == "egress"
        self._catch_all.append(key.tobytes())
        self._generations[0].update(self._catch_all[-1], bytes(VALUE_DTYPE.itemsize))
