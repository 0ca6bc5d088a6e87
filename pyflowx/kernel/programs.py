"""The programs that a configuration needs: compiled once, loaded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

from pyflowx.errors import KernelError
from pyflowx.kernel import syscall
from pyflowx.kernel.compiler import compile_programs, source_folder
from pyflowx.kernel.config import MeterConfig
from pyflowx.kernel.filter import ETHERNET, FILTER_CALL, RAW_IP, compile_classic, translate
from pyflowx.kernel.layout import KEY_LEVELS, clip_room
from pyflowx.kernel.syscall import Map, Program

SIDES = ("ingress", "egress")
_TC = tuple(f"{side}{link}" for side in SIDES for link in ("", "_ip"))  # _ip: of devices without Ethernet header


def macros(config: MeterConfig) -> list[str]:
    """What the compiler defines for a configuration."""
    found = [f"KEY_LEVEL={KEY_LEVELS.index(config.key)}", f"OWN_EXPORTS={len(config.exclude)}"]
    if config.key == "ether":
        found.append("KEY_ETHER")
    if config.tunnels:
        found.append("TUNNELS")
    if config.filter:
        found.append(f"FILTER_CALL={FILTER_CALL}")
    if config.sampling_interval > 1:
        found.append(f"SAMPLING_INTERVAL={config.sampling_interval}U")
        if config.sampling_random:
            found.append("SAMPLING_RANDOM")
    if config.mode == "packet":
        found.append(f"CLIP_LENGTH={clip_room(config.clip_length)}")
    return found


def load_xdp(load: Callable[..., Program]) -> Program:
    """``load(flags, *macros)`` for frames of several buffers, or else for those of one."""
    try:
        return load(syscall.XDP_HAS_FRAGS, "XDP_FRAGS")
    except KernelError:  # before Linux 5.18; whatever else is wrong is wrong again
        return load(0)


class Programs(Mapping[str, Program]):
    """Those that are loaded, by hook: ``xdp``; at TC ``ingress``, ``egress``, and these with ``_ip`` for devices
    without Ethernet header. :meth:`load` adds one."""

    def __init__(self, config: MeterConfig, maps: dict[int, Map], resources: ExitStack) -> None:
        self._config, self._maps, self._resources = config, maps, resources
        self._loaded: dict[str, Program] = {}
        self._macros = macros(config)
        self._filters = {link: compile_classic(config.filter, link) for link in (ETHERNET, RAW_IP) if config.filter}
        names = {hook: f"pyflowx_{hook}" for hook in _TC}
        code = compile_programs(source_folder() / "meter_tc.c", list(names.values()), self._macros)
        self._tc = {hook: code[name] for hook, name in names.items()}
        if config.hook != "tc" and config.direction != "egress":
            self._loaded["xdp"] = self._load_xdp()
        for side in SIDES:
            self.load(side)

    def __getitem__(self, hook: str) -> Program:
        return self._loaded[hook]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def load(self, hook: str) -> Program:
        """The program of one of TC's hooks."""
        if hook not in self._loaded:
            link = RAW_IP if hook.endswith("_ip") else ETHERNET
            functions = self._functions(link, syscall.HELPER_SKB_LOAD_BYTES, tagged=link == ETHERNET)
            program = Program.load(
                syscall.PROG_TYPE_SCHED_CLS, f"pyflowx_{hook}"[:15], self._tc[hook], self._maps, functions=functions
            )
            self._loaded[hook] = self._resources.enter_context(program)
        return self._loaded[hook]

    def _load_xdp(self) -> Program:
        def load(flags: int, *more: str) -> Program:
            code = compile_programs(source_folder() / "meter_xdp.c", ["pyflowx_xdp"], [*self._macros, *more])
            functions = self._functions(ETHERNET, syscall.HELPER_XDP_LOAD_BYTES if flags else None, tagged=False)
            instructions = code["pyflowx_xdp"]
            kind = syscall.PROG_TYPE_XDP
            return Program.load(kind, "pyflowx_xdp", instructions, self._maps, flags, functions)

        return self._resources.enter_context(load_xdp(load))

    def _functions(self, link: int, helper: int | None, tagged: bool) -> dict[int, bytes]:
        if not self._filters:
            return {}
        return {FILTER_CALL: translate(self._filters[link], helper, tagged)}
