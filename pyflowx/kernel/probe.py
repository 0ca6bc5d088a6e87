"""What this host's kernel can do of what we use, by trying it."""

from __future__ import annotations

import errno
import mmap
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from pyflowx.errors import KernelError, PyflowxError
from pyflowx.kernel import syscall
from pyflowx.kernel.builds import all_builds
from pyflowx.kernel.compiler import ELSEWHERE, bcc, find_compiled, toolchain
from pyflowx.kernel.config import MeterConfig
from pyflowx.kernel.filter import libpcap
from pyflowx.kernel.gate import Gate, GateConfig
from pyflowx.kernel.headers import find_headers
from pyflowx.kernel.meter import Meter
from pyflowx.kernel.steering import Steering
from pyflowx.kernel.syscall import Map, Program, TcxLink

_ANSWER = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 2; exit
_NOWHERE = (1 << 31) - 1  # no interface has that number
_AF_XDP = 44  # which Python's socket module does not name
_FUNCTION = 1 << 20  # no helper has that number
_CALL = struct.pack("<BBhi", 0x85, 0, 0, _FUNCTION) + struct.pack("<BBhi", 0x95, 0, 0, 0)


class Feature(NamedTuple):
    """Something that we use. ``since``: the first kernel that has it, empty where that is no matter of the kernel;
    ``needed_for``: what does not work without it; ``message``: what there is, or why not."""

    name: str
    present: bool
    since: str
    needed_for: str
    message: str


def probe(*wanted: str) -> list[Feature]:
    """Each feature, there or not; only those that are named or needed for what is named, if anything is. Makes small
    maps and programs and attaches nothing; without privilege the kernel refuses most, and the message says so."""
    return [_tried(*row) for row in _FEATURES if not wanted or {row[0], row[2]} & set(wanted)]


def _tried(name: str, since: str, needed_for: str, look: Callable[[], str]) -> Feature:
    try:
        return Feature(name, True, since, needed_for, look())
    except (PyflowxError, OSError) as error:
        return Feature(name, False, since, needed_for, str(error).partition("\n")[0])


def _bcc() -> str:
    module = bcc()
    return f"version {getattr(module, '__version__', 'unknown')}"


def _headers() -> str:
    return str(find_headers().source or "the running kernel's own")


def _compiled() -> str:
    wanted = list(all_builds())
    there = sum(find_compiled(build) is not None for build in wanted)
    found = f"{there} of {len(wanted)}"
    if there == len(wanted):
        return f"{found}: no compiler is needed"
    if toolchain() is not None:
        return f"{found}; the others are made when they are asked for"
    if not there:
        raise KernelError(f"none, and no compiler: install python3-bpfcc and linux-headers-amd64, {ELSEWHERE}")
    return f"{found}; options that need the others do not work"


def _libpcap() -> str:
    libpcap()
    return "found"


def _maps() -> str:
    with ExitStack() as stack:
        inner = stack.enter_context(Map(syscall.MAP_TYPE_HASH, 8, 8, 4, "probe"))
        outer = stack.enter_context(Map(syscall.MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, "probe", inner=inner.fd))
        outer.update(bytes(4), struct.pack("=I", inner.fd))
    return "works"


def _mapped() -> str:
    with Map(syscall.MAP_TYPE_ARRAY, 4, 8, 4, "probe", syscall.MMAPABLE) as flows:
        mmap.mmap(flows.fd, mmap.PAGESIZE).close()
    return "works"


def _lru() -> str:
    Map(syscall.MAP_TYPE_LRU_HASH, 8, 8, 16, "probe").close()
    return "works"


def _ring() -> str:
    Map(syscall.MAP_TYPE_RINGBUF, 0, 0, 1 << 16, "probe").close()
    return "works"


def _load(kind: int, flags: int = 0) -> str:
    Program.load(kind, "probe", _ANSWER, {}, flags).close()
    return "works"


def _xdp() -> str:
    return _load(syscall.PROG_TYPE_XDP)


def _xdp_frags() -> str:
    return _load(syscall.PROG_TYPE_XDP, syscall.XDP_HAS_FRAGS)


def _tc() -> str:
    return _load(syscall.PROG_TYPE_SCHED_CLS)


def _tcx() -> str:
    with Program.load(syscall.PROG_TYPE_SCHED_CLS, "probe", _ANSWER, {}) as program:
        try:
            TcxLink(program, _NOWHERE, syscall.TCX_INGRESS).close()
        except OSError as error:
            if error.errno != errno.ENODEV:  # which says that only the interface is missing
                raise
    return "works"


def _functions() -> str:
    kind = syscall.PROG_TYPE_SCHED_CLS
    Program.load(kind, "probe", _CALL, {}, functions={_FUNCTION: _ANSWER}).close()
    return "works"


def _statistics() -> str:
    syscall.enable_statistics().close()
    return "works"


def _programs() -> str:
    with Meter(MeterConfig(["lo"], max_flows=16)) as meter:
        return ", ".join(sorted(meter.load()))


def _gate() -> str:
    with Gate(GateConfig(["lo"])):
        return "compiles, and the kernel takes it"


def _af_xdp() -> str:
    Map(syscall.MAP_TYPE_XSKMAP, 4, 4, 1, "probe").close()
    socket.socket(_AF_XDP, socket.SOCK_RAW).close()
    return "works"


def _steering() -> str:
    with ExitStack() as stack:
        group = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for sock in group:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(group[0].getsockname() if sock is not group[0] else ("127.0.0.1", 0))
        return f"by {Steering([group]).kind}"


_FEATURES: tuple[tuple[str, str, str, Callable[[], str]], ...] = (
    ("bcc", "", "compiling", _bcc),
    ("kernel headers", "", "compiling", _headers),
    ("compiled programs", "", "export", _compiled),
    ("programs at XDP", "4.8", "--hook xdp", _xdp),
    ("programs at TC", "4.5", "export", _tc),
    ("programs at TCX", "6.6", "TC at less cost", _tcx),
    ("maps of maps", "4.12", "export", _maps),
    ("arrays in our own memory", "5.5", "export", _mapped),
    ("LRU hash", "4.10", "later fragments", _lru),
    ("XDP on frames of several buffers", "5.18", "XDP with a large MTU", _xdp_frags),
    ("ring buffer", "5.8", "--mode packet", _ring),
    ("libpcap", "", "--filter", _libpcap),
    ("functions in programs", "5.10", "--filter", _functions),
    ("run time of programs", "5.8", "ns a packet", _statistics),
    ("gate at XDP", "5.10", "--xdp", _gate),
    ("AF_XDP sockets", "5.4", "--af-xdp", _af_xdp),
    ("steering of workers", "", "--workers", _steering),
    ("our programs", "5.10", "export", _programs),
)
UNPRIVILEGED = tuple(name for name, since, needed_for, _ in _FEATURES if not since and needed_for != "--workers")
"""Features that can be tried by anybody."""
GATE_NEEDS = ("--xdp", "--af-xdp")
WORKERS_NEED = ("--workers",)
_OF_COLLECT = (*GATE_NEEDS, *WORKERS_NEED)
EXPORT_NEEDS = tuple({needed_for: None for _, _, needed_for, _ in _FEATURES if needed_for not in _OF_COLLECT})
"""What ``pyflowx collect`` and ``pyflowx export`` may want."""
