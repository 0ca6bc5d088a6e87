"""The programs that a configuration needs: compiled once, loaded when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import product

from pyflowx.errors import KernelError
from pyflowx.kernel import syscall
from pyflowx.kernel.cache import Build, source_folder
from pyflowx.kernel.compiler import compile_programs
from pyflowx.kernel.config import MeterConfig
from pyflowx.kernel.filter import ETHERNET, FILTER_CALL, RAW_IP, compile_classic, translate
from pyflowx.kernel.layout import KEY_LEVELS, NumberSlot, clip_room
from pyflowx.kernel.syscall import Map, Program

SIDES = ("ingress", "egress")
_TC = tuple(f"pyflowx_{side}{link}" for side in SIDES for link in ("", "_ip"))  # _ip: devices without Ethernet header
_XDP = ("pyflowx_xdp",)
TUNNELS = 2
_TIMED, _ALL = 64, (1 << 32) - 1  # packets of a CPU in a jiffy that are timed one by one
FILES = {"meter_tc.c": _TC, "meter_xdp.c": _XDP}


def macros(config: MeterConfig) -> list[str]:
    """What the compiler defines for a configuration: what changes structures or costs instructions."""
    found = []
    if config.mode == "packet":
        found.append("PACKETS")
    elif config.key == "ether":
        found.append("KEY_ETHER")
    if config.tunnels:
        found.append("TUNNELS")
    if config.filter:
        found.append(f"FILTER_CALL={FILTER_CALL}")
    return found


def load_xdp(load: Callable[[bool], Program]) -> Program:
    """``load(frags)`` for frames of several buffers, or else for those of one."""
    try:
        return load(True)
    except KernelError:  # before Linux 5.18; whatever else is wrong is wrong again
        return load(False)


def variants() -> Iterator[MeterConfig]:
    """A configuration for each set of programs that there can be."""
    kinds = (("vlan", "flows"), ("ether", "flows"), ("vlan", "packet"))
    for (key, mode), tunnels, filter in product(kinds, (False, True), ("", "ip")):
        yield MeterConfig(["lo"], max_flows=16, key=key, mode=mode, tunnels=tunnels, filter=filter)


def builds() -> Iterator[Build]:
    """What the compiler can make for all configurations."""
    for (file, names), config in product(FILES.items(), variants()):
        yield Build(source_folder() / file, names, tuple(macros(config)))


def numbers(
    config: MeterConfig, table: Mapping[int, int], frags: bool = False, tunnels: int = TUNNELS
) -> dict[int, int]:
    """What the loader puts into the instructions; ``table``: those of the Generations; ``frags``: XDP on frames of
    several buffers; ``tunnels``: in each other, that are looked into."""
    return {
        **table,
        NumberSlot.KEY_LEVEL: KEY_LEVELS.index(config.key),
        NumberSlot.OWN_EXPORTS: len(config.exclude),
        NumberSlot.SAMPLING_INTERVAL: config.sampling_interval,
        NumberSlot.SAMPLING_RANDOM: config.sampling_random,
        NumberSlot.CLIP_LENGTH: clip_room(config.clip_length),
        NumberSlot.XDP_FRAGS: frags,
        NumberSlot.TUNNELS: tunnels,
        NumberSlot.TIMED: _ALL if config.exact_times else _TIMED,
    }


class Programs(Mapping[str, Program]):
    """Those that are loaded, by hook: ``xdp``; at TC ``ingress``, ``egress``, and these with ``_ip`` for devices
    without Ethernet header. :meth:`load` adds one."""

    def __init__(
        self, config: MeterConfig, maps: Mapping[int, Map], table: Mapping[int, int], resources: ExitStack
    ) -> None:
        self._config, self._maps, self._table, self._resources = config, maps, table, resources
        self._loaded: dict[str, Program] = {}
        self.note = ""
        """What the kernel does not take, in one line."""
        if config.filter:
            compile_classic(config.filter)  # what is wrong with it is said before anything is attached
        files = FILES if config.hook != "tc" and config.direction != "egress" else {"meter_tc.c": _TC}
        self._code: dict[str, bytes] = {}
        for file, names in files.items():
            self._code |= compile_programs(source_folder() / file, names, macros(config))

    def __getitem__(self, hook: str) -> Program:
        return self._loaded[hook]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def prepare(self, hooks: Sequence[str]) -> None:
        """Load those that will be asked for, side by side: the verifier uses one CPU for each. What is wrong with one
        is said when it is asked for."""

        def prepare(hook: str) -> None:
            with suppress(KernelError):
                self.load(hook)

        others = [threading.Thread(target=prepare, args=(hook,)) for hook in hooks[1:] if hook not in self._loaded]
        for other in others:
            other.start()
        for hook in hooks[:1]:
            prepare(hook)
        for other in others:
            other.join()

    def load(self, hook: str) -> Program:
        """The program of a hook; the verifier takes its time for each, so that only those in use are loaded."""
        if hook not in self._loaded:
            self._loaded[hook] = self._resources.enter_context(self._load(hook))
        return self._loaded[hook]

    def _load(self, hook: str) -> Program:
        load = self._load_xdp if hook == "xdp" else self._load_tc
        try:
            return load(hook, TUNNELS)
        except KernelError:  # the verifier of Linux 5.10 gives up; whatever else is wrong is wrong again
            if not self._config.tunnels:
                raise
        program = load(hook, 1)
        self.note = "a tunnel in a tunnel is not looked into: the verifier of this kernel gives up"
        return program

    def _load_tc(self, hook: str, tunnels: int) -> Program:
        link = RAW_IP if hook.endswith("_ip") else ETHERNET
        functions = self._functions(link, syscall.HELPER_SKB_LOAD_BYTES, tagged=link == ETHERNET)
        name, kind = f"pyflowx_{hook}", syscall.PROG_TYPE_SCHED_CLS
        filled = numbers(self._config, self._table, tunnels=tunnels)
        return Program.load(kind, name[:15], self._code[name], self._maps, 0, functions, filled)

    def _load_xdp(self, hook: str, tunnels: int) -> Program:
        def load(frags: bool) -> Program:
            functions = self._functions(ETHERNET, syscall.HELPER_XDP_LOAD_BYTES if frags else None, tagged=False)
            flags = syscall.XDP_HAS_FRAGS if frags else 0
            (name,), kind, filled = _XDP, syscall.PROG_TYPE_XDP, numbers(self._config, self._table, frags, tunnels)
            return Program.load(kind, name, self._code[name], self._maps, flags, functions, filled)

        return load_xdp(load)

    def _functions(self, link: int, helper: int | None, tagged: bool) -> dict[int, bytes]:
        if not self._config.filter:
            return {}
        classic = compile_classic(self._config.filter, link)  # not all can be asked of all links: vlan
        return {FILTER_CALL: translate(classic, helper, tagged)}
