"""The gate before a Collecting Process: a program at XDP that looks at datagrams to its sockets."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from pyflowx.batch import V4_MAPPED
from pyflowx.errors import ConfigError, KernelError
from pyflowx.kernel import syscall
from pyflowx.kernel.attaching import Hooks, LinkChange
from pyflowx.kernel.cache import Build, source_folder
from pyflowx.kernel.compiler import compile_programs
from pyflowx.kernel.gate_layout import (
    ADDRESS_DTYPE,
    CONFIG_DTYPE,
    DESTINATION_DTYPE,
    EXPORTER_DTYPE,
    LOCKS,
    PREFIX4_DTYPE,
    PREFIX6_DTYPE,
    REASONS,
    REFUSED_DTYPE,
    SLOTS,
    GateMap,
)
from pyflowx.kernel.layout import STATISTIC_DTYPE, NumberSlot
from pyflowx.kernel.links import Attachment, Links
from pyflowx.kernel.programs import load_xdp
from pyflowx.kernel.syscall import Array, Map, Program

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

EXPORTERS = 1 << 13  # with a bucket and counts of their own; the least recently seen gives way to a new one
REFUSED = 1 << 10  # sources with counts of what was refused
MAX_PREFIXES = 1 << 16
MAX_DESTINATIONS = 1 << 12  # addresses of the host times ports
MAX_RATE = (1 << 32) - 1
MAX_QUEUES = 1024  # of an interface
_FIRST = bytes(4)  # the only index of an array of one
_NAME = "pyflowx_gate"
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 # what collectors listen on


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What the gate does, and where.

    ``enforce``: drop, else only count; ``allow``: prefixes of exporters that may send, None for all; ``rate``:
    datagrams a second (and at once) that each exporter may send, 0 for any number; ``netflow``, ``sflow``: what is
    accepted. ``redirect``: to AF_XDP sockets, see :meth:`Gate.redirect`, frames of up to ``frame_length`` octets.
    """

    interfaces: Sequence[str]
    enforce: bool = False
    allow: Collection[Prefix] | None = None
    rate: int = 0
    netflow: bool = True
    sflow: bool = True
    redirect: bool = False
    frame_length: int = 0

    def check(self) -> None:
        """ConfigError for what cannot be."""
        if not self.interfaces:
            raise ConfigError("no interface for the gate; give one with --xdp")
        if not 0 <= self.rate <= MAX_RATE:
            raise ConfigError(f"rate {self.rate}: must be 1 to {MAX_RATE} datagrams a second, or 0 for any number")


def build(redirect: bool) -> Build:
    """What the compiler makes, with or without AF_XDP."""
    return Build(source_folder() / "gate_xdp.c", (_NAME,), ("REDIRECT",) if redirect else ())


class Source(NamedTuple):
    """What the gate counted of one source: ``passed`` datagrams and ``octets`` of their payload, refused ones by
    :data:`~pyflowx.kernel.gate_layout.REASONS`."""

    passed: int
    octets: int
    refused: tuple[int, ...]


class _Port:
    """The program of one interface, with what is this interface's alone."""

    def __init__(self, code: bytes, maps: dict[int, Map], queues: int) -> None:
        with ExitStack() as resources:
            slots = SLOTS, "pyflowx_gated"
            self.statistics = resources.enter_context(
                Map(syscall.MAP_TYPE_PERCPU_ARRAY, 4, STATISTIC_DTYPE.itemsize, *slots)
            )
            maps = {**maps, GateMap.STATISTICS: self.statistics}
            if queues:
                self.sockets = resources.enter_context(Map(syscall.MAP_TYPE_XSKMAP, 4, 4, queues, "pyflowx_sockets"))
                maps[GateMap.SOCKETS] = self.sockets

            def load(frags: bool) -> Program:
                flags, numbers = syscall.XDP_HAS_FRAGS * frags, {int(NumberSlot.XDP_FRAGS): int(frags)}
                return Program.load(syscall.PROG_TYPE_XDP, _NAME, code, maps, flags, numbers=numbers)

            self.program = resources.enter_context(load_xdp(load))
            self.close = resources.pop_all().close

    def totals(self) -> Array:
        """(SLOTS,) packets and octets."""
        total = np.zeros(SLOTS, STATISTIC_DTYPE)
        for slot in range(SLOTS):
            cpus = np.frombuffer(self.statistics.lookup(struct.pack("=I", slot)), STATISTIC_DTYPE)
            total[slot] = cpus["packets"].sum(), cpus["octets"].sum()
        return total


class _GateHooks(Hooks):
    """``program`` gives that of an interface, and is asked before the program sees the first packet."""

    def __init__(
        self,
        interfaces: Iterable[str],
        program: Callable[[str], Program],
        on_attach: Callable[[Attachment], None],
        on_gone: Callable[[int], None],
    ) -> None:
        super().__init__(interfaces)
        self._program, self._on_attach, self._on_gone = program, on_attach, on_gone

    def _put(self, links: Links, undo: ExitStack, interface: str, ifindex: int) -> list[Attachment]:
        if not links.is_ethernet(ifindex):
            raise KernelError(f"{interface} has no Ethernet headers, which XDP needs; leave it out of --xdp")
        hook, reason = self._put_xdp(links, undo, interface, ifindex, self._program(interface), generic=True)
        if not hook:
            detach = f"detach it (ip link set dev {interface} xdp off), or " if "is attached" in reason else ""
            raise KernelError(f"{reason}; {detach}leave {interface} out of --xdp")
        found = Attachment(interface, ifindex, hook, "ingress")
        self._on_attach(found)
        return [found]

    def _gone(self, ifindex: int) -> None:
        self._on_gone(ifindex)


class Gate:
    """Compiles and loads the program; ``attach()`` puts it before the interfaces. A context manager.

    Nothing is looked at until :meth:`listen` has said which sockets there are. ``on_attach`` is told of each interface
    that has the program now, ``on_gone`` of one that is no more. Everything but
    :meth:`attach` may be done when privileges other than CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are given up.

    Errors: :class:`~pyflowx.errors.KernelError` (privilege, feature, verifier, header files, foreign program),
    :class:`~pyflowx.errors.ConfigError` for a value of the configuration.
    """

    def __init__(
        self,
        config: GateConfig,
        on_attach: Callable[[Attachment], None] = lambda attachment: None,
        on_gone: Callable[[int], None] = lambda ifindex: None,
    ) -> None:
        config.check()
        self.config = config
        self._resources = ExitStack()  # what close() gives back, newest first
        self._ports: dict[str, _Port] = {}
        self._listening: list[tuple[str, int]] = []
        self._destinations: set[bytes] = set()
        self._prefixes: set[Prefix] = set()
        with ExitStack() as on_error:
            on_error.callback(self._resources.close)
            syscall.lift_memory_limit()
            self._maps = self._make_maps()
            self._code = compile_programs(*build(config.redirect))[_NAME]
            self.allow(config.allow or ())
            for name in config.interfaces:  # what the kernel does not take it says before anything is attached
                self._port(name)
            self._hooks = _GateHooks(config.interfaces, self._program, on_attach, on_gone)
            self._resources.callback(self._hooks.close)
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # what user space tells it

    def attach(self) -> list[Attachment]:
        """Attach to all interfaces or, on an error, to none; removes left-overs of dead collectors first."""
        self._hooks.attach()
        return self.attachments

    @property
    def attachments(self) -> list[Attachment]:
        """What is attached now."""
        return list(self._hooks.attachments)

    def watch(self) -> list[LinkChange]:
        """What has happened to the interfaces since the last call, repaired where that is possible; follows the
        addresses of the host. Does not wait; to be called once a second."""
        changes = self._hooks.watch()
        if self._hooks.links_changed:
            self.listen(self._listening)
        return changes

    def listen(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Look at datagrams to these sockets, (host, port) each; a wildcard stands for all addresses of the host."""
        self._listening = list(addresses)
        with Links() as links:
            own = links.addresses()
        wanted = {entry for host, port in self._listening for entry in _destinations(host, port, own)}
        if len(wanted) > MAX_DESTINATIONS:
            raise KernelError(f"{len(wanted)} addresses and ports to look at; the gate holds {MAX_DESTINATIONS}")
        destinations = self._maps[GateMap.DESTINATIONS]
        for entry in wanted - self._destinations:
            destinations.update(entry, bytes(1))
        for entry in self._destinations - wanted:
            destinations.delete(entry)
        self._destinations = wanted

    def allow(self, prefixes: Iterable[Prefix]) -> None:
        """Replace the prefixes that may send; whoever may send before and after may do so meanwhile."""
        wanted = set(prefixes)
        if len(wanted) > MAX_PREFIXES:
            raise ConfigError(f"{len(wanted)} prefixes to allow; the gate holds {MAX_PREFIXES}")
        for prefix in wanted - self._prefixes:
            slot, key = _trie_key(prefix)
            self._maps[slot].update(key, bytes(1))
        for prefix in self._prefixes - wanted:
            slot, key = _trie_key(prefix)
            self._maps[slot].delete(key)
        self._prefixes = wanted

    @property
    def prefixes(self) -> int:
        """How many may send."""
        return len(self._prefixes)

    def redirect(self, interface: str, queue: int, fd: int) -> None:
        """Hand what is good on a receive queue to an AF_XDP socket that is bound there, until nobody has it open or
        :meth:`keep`."""
        self._port(interface).sockets.update(struct.pack("=I", queue), struct.pack("=I", fd))

    def keep(self, interface: str, queue: int) -> None:
        """Hand nothing to AF_XDP there any more."""
        self._port(interface).sockets.delete(struct.pack("=I", queue))

    # what it tells user space

    def statistics(self) -> dict[str, Array]:
        """By interface: packets and octets of frames (fields of a structured array) in each slot of
        :class:`~pyflowx.kernel.gate_layout.Outcome`, then those without state."""
        return {name: port.totals() for name, port in self._ports.items()}

    def sources(self) -> dict[bytes, Source]:
        """What was counted of the sources seen last, by address (16 octets)."""
        addresses, counted = self._maps[GateMap.EXPORTERS].entries_now(ADDRESS_DTYPE, EXPORTER_DTYPE)
        strangers, reasons = self._maps[GateMap.REFUSED].entries_now(ADDRESS_DTYPE, REFUSED_DTYPE)
        refused = {row.tobytes(): tuple(each) for row, each in zip(strangers, reasons["reasons"].tolist(), strict=True)}
        none = (0,) * (len(REASONS) - 1)
        found = {}
        for row, each in zip(addresses, counted.tolist(), strict=True):
            _, _, passed, octets, limited = each
            address = row.tobytes()
            found[address] = Source(passed, octets, (*refused.pop(address, none), limited))
        return found | {address: Source(0, 0, (*each, 0)) for address, each in refused.items()}

    def detach(self) -> None:
        """Take the program off the interfaces; what it counted can still be read."""
        self._hooks.detach()

    def close(self) -> None:
        """Detach and give program and maps back to the kernel."""
        self.detach()
        self._resources.close()

    # parts

    def _make_maps(self) -> dict[int, Map]:
        def make(kind: int, key_size: int, value_size: int, entries: int, name: str, flags: int = 0) -> Map:
            return self._resources.enter_context(Map(kind, key_size, value_size, entries, f"pyflowx_{name}", flags))

        trie, lru, address = syscall.MAP_TYPE_LPM_TRIE, syscall.MAP_TYPE_LRU_HASH, ADDRESS_DTYPE.itemsize
        maps: dict[int, Map] = {
            GateMap.CONFIG: make(syscall.MAP_TYPE_ARRAY, 4, CONFIG_DTYPE.itemsize, 1, "gate"),
            GateMap.DESTINATIONS: make(syscall.MAP_TYPE_HASH, DESTINATION_DTYPE.itemsize, 1, MAX_DESTINATIONS, "ports"),
            GateMap.ALLOW4: make(trie, PREFIX4_DTYPE.itemsize, 1, MAX_PREFIXES, "allow4", syscall.NO_PREALLOC),
            GateMap.ALLOW6: make(trie, PREFIX6_DTYPE.itemsize, 1, MAX_PREFIXES, "allow6", syscall.NO_PREALLOC),
            GateMap.EXPORTERS: make(lru, address, EXPORTER_DTYPE.itemsize, EXPORTERS, "sources"),
            GateMap.REFUSED: make(lru, address, REFUSED_DTYPE.itemsize, REFUSED, "refused"),
            GateMap.LOCK: self._resources.enter_context(make_locks()),
        }
        config = np.zeros(1, CONFIG_DTYPE)
        config["allow"] = self.config.allow is not None
        for name in ("rate", "frame_length", "enforce", "netflow", "sflow"):
            config[name] = getattr(self.config, name)
        maps[GateMap.CONFIG].update(_FIRST, config.tobytes())
        return maps

    def _program(self, interface: str) -> Program:
        return self._port(interface).program

    def _port(self, interface: str) -> _Port:
        if interface not in self._ports:
            queues = MAX_QUEUES if self.config.redirect else 0
            self._ports[interface] = _Port(self._code, self._maps, queues)
            self._resources.callback(self._ports[interface].close)
        return self._ports[interface]


def make_locks() -> Map:
    """The locks under which buckets are changed. The kernel wants to be told that they are such."""
    names = ("", "int", "bpf_spin_lock", "val", "gate_lock", "lock")
    at = {name: sum(len(before) + 1 for before in names[:index]) for index, name in enumerate(names)}
    kind_int, kind_struct = 1 << 24, 4 << 24 | 1
    types = struct.pack("=4I", at["int"], kind_int, 4, 32)
    types += struct.pack("=6I", at["bpf_spin_lock"], kind_struct, 4, at["val"], 1, 0)
    types += struct.pack("=6I", at["gate_lock"], kind_struct, 4, at["lock"], 2, 0)
    with syscall.load_btf(types, "".join(f"{name}\0" for name in names).encode()) as btf:
        return Map(syscall.MAP_TYPE_ARRAY, 4, 4, LOCKS, "pyflowx_locks", btf=(btf.fd, 1, 3))


def _destinations(host: str, port: int, own: Sequence[bytes]) -> list[bytes]:
    """The entries for a socket."""
    if host == _WILDCARDS[0]:
        addresses = [address for address in own if address.startswith(V4_MAPPED)]
    elif host == _WILDCARDS[1]:
        addresses = list(own)
    elif ":" in host:
        addresses = [socket.inet_pton(socket.AF_INET6, host.partition("%")[0])]
    else:
        addresses = [V4_MAPPED + socket.inet_aton(host)]
    entries = np.zeros(len(addresses), DESTINATION_DTYPE)
    entries["address"] = np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, 16)
    entries["port"] = port
    return [entry.tobytes() for entry in entries]


def _trie_key(prefix: Prefix) -> tuple[GateMap, bytes]:
    slot = GateMap.ALLOW4 if prefix.version == 4 else GateMap.ALLOW6
    return slot, struct.pack("=I", prefix.prefixlen) + prefix.network_address.packed
