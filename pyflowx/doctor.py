"""What this host can do for pyflowx, and where running processes lose something.

A check changes nothing; those of ``export`` compile and load its programs, but attach them nowhere.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyflowx import host
from pyflowx.errors import ConfigError
from pyflowx.live import FeedReader, is_dead

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "fail"
KERNEL = (5, 10)  # the first that has all that the programs need
RECEIVE_BUFFER = 32 << 20  # what collect asks for

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_STA_UNSYNC = 0x40  # adjtimex(2)
_ANSWER_S = 10.0  # for a process to send its first snapshot


class Check(NamedTuple):
    """A line: ``part`` is ``host``, ``collect`` or ``export``; ``advice`` says what to do, empty where all is well."""

    part: str
    name: str
    status: str
    found: str
    advice: str = ""


class Process(NamedTuple):
    """A running process: the first line of its feed, and its first snapshot (None: it did not answer)."""

    path: str
    hello: Mapping[str, Any]
    snapshot: Mapping[str, Any] | None
    problem: str = ""


def checks() -> Iterator[Check]:
    """All of them, one after the other."""
    yield from _host()
    yield from _collect()
    yield from _workers()
    yield from _gate()
    yield from _export()


# --- the host ------------------------------------------------------------------------------------------------------


def _host() -> Iterator[Check]:
    release = platform.release()
    version = tuple(map(int, re.findall(r"\d+", release)[:2]))
    old = version < KERNEL
    needed = ".".join(map(str, KERNEL))
    yield Check(
        "host",
        "kernel",
        WARN if old else OK,
        f"Linux {release}, {platform.machine()}",
        f"export needs Linux {needed} or newer; collect works" if old else "",
    )
    yield _clock()


def _clock() -> Check:
    """Flow times and clock skews are only as good as our clock."""
    state = ctypes.create_string_buffer(256)  # struct timex, modes 0: only asks
    ctypes.CDLL(None, use_errno=True).adjtimex(state)
    status = ctypes.c_int.from_buffer(state, 40).value
    if status & _STA_UNSYNC:
        advice = "run a time service (chrony, systemd-timesyncd); in a container the host may do it"
        return Check("host", "clock", NOTE, "the kernel does not know that it is synchronised", advice)
    return Check("host", "clock", OK, "synchronised")


# --- collect -------------------------------------------------------------------------------------------------------


def capabilities(root: Path = host.ROOT) -> set[str]:
    """Those of :data:`CAPABILITIES` that this process has."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", (root / "proc/self/status").read_text(), re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    return {name for name, bit in CAPABILITIES.items() if bits >> bit & 1}


def _collect(root: Path = host.ROOT) -> Iterator[Check]:
    yield _receive_buffer(root)
    counted = host.udp(root)
    yield Check(
        "collect",
        "UDP drops",
        WARN if counted.full else OK,
        f"{counted.full} datagrams since the start of the host, for full socket buffers (of all programs)",
        "look at the socket stage of running collectors; if it loses: a larger --recv-buffer" if counted.full else "",
    )
    if counted.bad:
        advice = "ethtool -S shows what the card does with checksums; the path damages packets"
        yield Check("collect", "UDP checksums", WARN, f"{counted.bad} datagrams with wrong checksums", advice)
    yield _backlog(root)
    yield from _interfaces(root)


def _workers() -> Iterator[Check]:
    from pyflowx.kernel.probe import WORKERS_NEED

    yield from _probed("collect", *WORKERS_NEED)


def _gate() -> Iterator[Check]:
    """Needs privilege to be tried."""
    if not _may_load():
        yield Check("collect", "gate", NOTE, "not tried: --xdp needs root", "run pyflowx doctor with sudo to try it")
        return
    from pyflowx.kernel.probe import GATE_NEEDS

    yield from _probed("collect", *GATE_NEEDS)


def _probed(part: str, *needed_for: str) -> Iterator[Check]:
    """Features of this host, by trying them: those that something needs."""
    from pyflowx.kernel.probe import probe

    for feature in probe(*needed_for):
        if feature.present:
            yield Check(part, feature.name, OK, feature.message)
        elif feature.needed_for == "export":
            yield Check(part, feature.name, FAIL, "does not work", feature.message)
        else:
            yield Check(part, feature.name, NOTE, f"does not work; for {feature.needed_for}", feature.message)


def _receive_buffer(root: Path) -> Check:
    limit = int(host.sysctl("net.core.rmem_max", root) or 0)
    may_exceed = "CAP_NET_ADMIN" in capabilities(root)
    found = f"up to {limit} octets without privilege"
    if limit >= RECEIVE_BUFFER or may_exceed:
        return Check("collect", "receive buffer", OK, found + (", any size for us" if may_exceed else ""))
    advice = f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER}, and the same in /etc/sysctl.d/; else bursts are lost"
    return Check("collect", "receive buffer", WARN, found, advice)


def _backlog(root: Path) -> Check:
    dropped = host.backlog_dropped(root)
    queue = host.sysctl("net.core.netdev_max_backlog", root) or "?"
    advice = "raise net.core.netdev_max_backlog; spread the card's queues over more CPUs" if dropped else ""
    found = f"{dropped} packets dropped since the start of the host, queues of {queue}"
    return Check("collect", "input queues", WARN if dropped else OK, found, advice)


def _interfaces(root: Path) -> Iterator[Check]:
    for name, link in host.interfaces(root).items():
        if link.dropped:
            found = f"{link.dropped} of {link.received + link.dropped} packets dropped since it came up"
            advice = f"ethtool -S {name} says why; a larger ring (ethtool -G {name} rx ...) takes longer bursts"
            yield Check("collect", f"interface {name}", WARN, found, advice)


# --- export --------------------------------------------------------------------------------------------------------


def _may_load() -> bool:
    """Whether we may load and attach programs."""
    held = capabilities()
    return {"CAP_SYS_ADMIN"} <= held or {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"} <= held


def _export() -> Iterator[Check]:
    held, enough = capabilities(), _may_load()
    advice = "" if enough else "run pyflowx export, and this, with sudo; or give CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    yield Check("export", "privilege", OK if enough else NOTE, ", ".join(sorted(held)) or "none", advice)
    jit = host.sysctl("net.core.bpf_jit_enable")
    slow = jit == "0"
    advice = "sysctl -w net.core.bpf_jit_enable=1: the programs run many times faster" if slow else ""
    yield Check("export", "BPF compiler", WARN if slow else OK, "off" if slow else "on", advice)
    from pyflowx.kernel.probe import EXPORT_NEEDS, UNPRIVILEGED

    yield from _probed("export", *(EXPORT_NEEDS if enough else UNPRIVILEGED))


# --- running processes ---------------------------------------------------------------------------------------------


def feeds() -> list[Path]:
    """The live feeds of processes, in the runtime folders of ours and of the system's services."""
    folders = dict.fromkeys((host.runtime_folder(), Path("/run/pyflowx"), *Path("/run").glob("pyflowx-*")))
    found = sorted(path for folder in folders for path in folder.glob("*.sock"))
    return [path for path in found if not is_dead(path)]


def look(path: Path | str) -> Process:
    """A running process as it is now."""
    try:
        with FeedReader(path, _ANSWER_S) as reader:
            snapshot = next(iter(reader), None)
            return Process(str(path), reader.hello, snapshot, "" if snapshot else f"{path}: it ended meanwhile")
    except (ConfigError, OSError) as error:
        return Process(str(path), {}, None, str(error))


ADVICE = {
    ("collect", "network"): "lost between exporter and host: look at the path, and at the exporter's own drops",
    ("collect", "interface"): "ethtool -S shows why; a larger ring (ethtool -G) takes longer bursts",
    ("collect", "backlog"): "raise net.core.netdev_max_backlog; spread the card's queues over more CPUs",
    ("collect", "socket"): "a larger --recv-buffer takes longer bursts; if it is always full, write less: -s, --column",
    ("collect", "gate"): "no export messages, or of exporters that may not send: the lines below say whose",
    ("collect", "af_xdp"): "a larger --recv-buffer takes longer bursts; more queues (ethtool -L) feed more --workers",
    ("collect", "decoder"): "the problems below say what was not read, and whose it was",
    ("collect", "output"): "the log says what the target refused; make room, or give another",
    ("export", "hook"): "packets that end inside their headers; in packet mode: no room to hand them over",
    ("export", "map"): "a larger --max-flows keeps these flows apart; their packets are counted",
    ("export", "socket"): "the kernel refused to send: the log and ip -s link say why",
    (
        "export",
        "network",
    ): "nobody listens where the Messages go: does the collector run, does a firewall let them pass?",
}
"""What to do about losses of a role's stage."""
