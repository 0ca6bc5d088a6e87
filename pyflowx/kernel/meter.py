"""The Metering Process: programs at the hooks of interfaces, flows as arrays."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pyflowx.errors import KernelError
from pyflowx.kernel import syscall
from pyflowx.kernel.attaching import LinkChange, MeterHooks
from pyflowx.kernel.config import MeterConfig
from pyflowx.kernel.generations import Generations
from pyflowx.kernel.layout import (
    FRAGMENT_KEY_LEN,
    FRAGMENT_LEN,
    MAX_FRAGMENTS,
    OWN_EXPORT_DTYPE,
    STATISTIC_DTYPE,
    MapSlot,
    Statistic,
    dtypes,
)
from pyflowx.kernel.links import Attachment
from pyflowx.kernel.programs import SIDES, Programs
from pyflowx.kernel.samples import PacketRing, PacketSamples
from pyflowx.kernel.syscall import Map, ProgramInfo


class Meter:
    """Has the programs compiled; ``attach()`` loads those that the interfaces need and starts metering. A context
    manager.

    Errors: :class:`~pyflowx.errors.KernelError` (privilege, feature, verifier, header files, foreign
    program), :class:`~pyflowx.errors.ConfigError` for a value of the configuration.
    """

    def __init__(self, config: MeterConfig) -> None:
        config.check()
        self.config = config
        self.key_dtype, self.value_dtype = dtypes(config.key)
        self.fill = 0  # flows in the generation drained last, of config.max_flows
        self._resources = ExitStack()  # what close() gives back, newest first
        with ExitStack() as on_error:
            on_error.callback(self._resources.close)
            syscall.lift_memory_limit()
            self._measuring = self._resources.enter_context(ExitStack())
            self._measure()
            self._make_maps()
            self._programs = Programs(config, self._maps, self._generations.numbers, self._resources)
            self._hooks = MeterHooks(config, self._programs)
            self._resources.callback(self._hooks.close)
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def load(self, *hooks: str) -> list[str]:
        """Load the programs of some hooks, or else all that interfaces with Ethernet headers may need, and attach none:
        to see whether the kernel takes them."""
        config = self.config
        wanted = list(hooks) or [side for side in SIDES if config.direction in ("both", side)]
        if not hooks and config.hook != "tc" and config.direction != "egress":
            wanted.append("xdp")
        for hook in wanted:
            self._programs.load(hook)
        return wanted

    @property
    def note(self) -> str:
        """What the kernel does not take of what is loaded, in one line."""
        return self._programs.note

    def attach(self) -> list[Attachment]:
        """Attach to all interfaces or, on an error, to none; removes left-overs of dead exporters first."""
        self._hooks.attach()
        return self.attachments

    @property
    def attachments(self) -> list[Attachment]:
        """What is attached now."""
        return list(self._hooks.attachments)

    def watch(self) -> list[LinkChange]:
        """What has happened to the interfaces since the last call, repaired where that is possible: one that has come
        back is metered again, and so is one from which somebody has removed our programs. Does not wait; to be
        called once a tick, before :meth:`drain`."""
        measured = sum(program.runs for program in self.run_statistics().values())
        if not self.config.run_statistics and measured >= self.config.measured_runs:
            self._measuring.close()
        return self._hooks.watch()

    def drain(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Swap generations and empty the quiet one: n keys (``key_dtype``) and n values (``value_dtype``), deltas
        since the last drain; a key may be there twice. No packet is in two drains or in none. ``fill`` then says
        how many of the ``max_flows`` were used; what found no room is counted in the statistic ``map_full``.

        A key with ``ip_version``, ``ethertype`` and MAC addresses 0 is the catch-all flow of its ifindex and
        direction (the packets of statistic ``map_full``): only the counters and times of its value have a meaning.
        """
        keys, values = self._generations.drain()
        self.fill = len(keys)
        return keys, values

    @property
    def waiting(self) -> int:
        """The flows that a drain would find now."""
        return self._generations.waiting

    def packets(self) -> PacketSamples:
        """In packet mode: the starts of the packets selected since the last call. What finds the ring buffer full
        (16 MiB, 100,000 packets of 128 octets) is counted in the statistic ``lost``."""
        if self._ring is None:
            raise ValueError("there are packets in mode packet only")
        return self._ring.read()

    def statistics(self, direction: str | None = None) -> dict[str, tuple[int, int]]:
        """(packets, layer 2 octets) since the start by :class:`~pyflowx.kernel.layout.Statistic` in lower
        case, of one direction (``ingress``, ``egress``) or of both. The last few packets are in it when they are
        drained. May be called after detach()."""
        totals = np.zeros((2, len(Statistic), 2), np.uint64)
        for index in np.ndindex(2, len(Statistic)):
            slot = struct.pack("=I", index[0] * len(Statistic) + index[1])
            cpus = np.frombuffer(self._statistics.lookup(slot), STATISTIC_DTYPE)
            totals[index] = cpus["packets"].sum(), cpus["octets"].sum()
        totals[:, Statistic.METERED] += np.array(self._generations.metered, np.uint64)
        sides = {None: slice(0, 2), "ingress": slice(0, 1), "egress": slice(1, 2)}
        packets, octets = totals[sides[direction]].sum(axis=0).T.tolist()
        return {slot.name.lower(): (packets[slot], octets[slot]) for slot in Statistic}

    def run_statistics(self) -> dict[str, ProgramInfo]:
        """How often each program has run and for how long, by hook (``xdp``) or direction at TC (``_ip``: of devices
        without Ethernet headers); counted with ``run_statistics`` or ``measured_runs`` in the configuration, or
        where kernel.bpf_stats_enabled is 1."""
        return {name: program.info() for name, program in self._programs.items()}

    def offset_ns(self) -> int:
        """What to add to a flow's times to get ns since 1970; changes when the clock is set."""

        def measure() -> tuple[int, int]:
            before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            return after - before, now - (before + after) // 2

        return min(measure() for _ in range(3))[1]

    def detach(self) -> None:
        """Remove our programs from the interfaces; what they counted can still be drained."""
        self._hooks.detach()

    def close(self) -> None:
        """Detach and give programs and maps back to the kernel."""
        self.detach()
        self._resources.close()

    def _measure(self) -> None:
        """Let the kernel measure. It asks for CAP_SYS_ADMIN, which is given up later: this is the only time."""
        if self.config.run_statistics:
            self._measuring.enter_context(syscall.enable_statistics())
        elif self.config.measured_runs:
            with suppress(KernelError):
                self._measuring.enter_context(syscall.enable_statistics())

    def _make_maps(self) -> None:
        config = self.config

        def make(kind: int, key_size: int, value_size: int, entries: int, name: str) -> Map:
            return self._resources.enter_context(Map(kind, key_size, value_size, entries, name))

        max_flows = config.max_flows if config.mode == "flows" else 0
        self._generations = Generations(self.key_dtype, self.value_dtype, max_flows, 2 * len(config.interfaces))
        self._resources.callback(self._generations.close)
        slots = 2 * len(Statistic)
        self._statistics = make(syscall.MAP_TYPE_PERCPU_ARRAY, 4, STATISTIC_DTYPE.itemsize, slots, "pyflowx_stats")
        fragment = FRAGMENT_KEY_LEN, FRAGMENT_LEN, MAX_FRAGMENTS
        self._ring = PacketRing(config.clip_length) if config.mode == "packet" else None
        if self._ring is not None:
            self._resources.callback(self._ring.close)
        own = make(syscall.MAP_TYPE_ARRAY, 4, OWN_EXPORT_DTYPE.itemsize, max(1, len(config.exclude)), "pyflowx_own")
        for index, (address, port) in enumerate(config.exclude):
            entry = np.zeros(1, OWN_EXPORT_DTYPE)
            entry["port"], entry["any_address"] = port, address is None
            entry["address"] = np.frombuffer(address or bytes(16), np.uint8)
            own.update(struct.pack("=I", index), entry.tobytes())
        self._maps: dict[int, Map] = {
            MapSlot.FLOWS: self._generations.map,
            MapSlot.STATISTICS: self._statistics,
            MapSlot.OWN_EXPORTS: own,
            MapSlot.FRAGMENTS: make(syscall.MAP_TYPE_LRU_HASH, *fragment, "pyflowx_frags"),
            MapSlot.SAMPLING: make(syscall.MAP_TYPE_PERCPU_ARRAY, 4, 4, 1, "pyflowx_sample"),
        }
        if self._ring is not None:
            self._maps[MapSlot.PACKETS] = self._ring.map
