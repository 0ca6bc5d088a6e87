"""What the kernel counts on the way of a packet to a socket, and the limits of this host. Linux, read from /proc.

``/proc/net`` is that of our network namespace. Every function takes the root of the file system, for tests; what
is not there counts 0.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class Interface(NamedTuple):
    """Packets of an interface since it came up; ``dropped`` are those the device or the kernel had no room for."""

    received: int
    dropped: int


class Udp(NamedTuple):
    """Of all UDP sockets of the namespace. ``full``: dropped for a full socket buffer; ``bad``: wrong checksums."""

    received: int
    full: int
    bad: int


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def interfaces(root: Path = ROOT) -> dict[str, Interface]:
    """All of them by name (proc_net(5), /proc/net/dev)."""
    found = {}
    for line in _read(root / "proc/net/dev").splitlines()[2:]:
        name, _, numbers = line.partition(":")
        _, received, _, dropped, fifo, *_ = map(int, numbers.split())
        found[name.strip()] = Interface(received, dropped + fifo)
    return found


def backlog_dropped(root: Path = ROOT) -> int:
    """Packets dropped because a CPU's input queue was full (net.core.netdev_max_backlog), on all CPUs."""
    return sum(int(line.split()[1], 16) for line in _read(root / "proc/net/softnet_stat").splitlines())


def udp(root: Path = ROOT) -> Udp:
    """IPv4 and IPv6 together."""
    counted: dict[str, int] = {}
    lines = [line.split() for line in _read(root / "proc/net/snmp").splitlines() if line.startswith("Udp:")]
    if len(lines) == 2:
        counted = dict(zip(lines[0][1:], map(int, lines[1][1:]), strict=True))
    for line in _read(root / "proc/net/snmp6").splitlines():
        name, number = line.split()
        if name.startswith("Udp6"):
            counted[name[4:]] = counted.get(name[4:], 0) + int(number)
    return Udp(*(counted.get(name, 0) for name in ("InDatagrams", "RcvbufErrors", "InCsumErrors")))


def sysctl(name: str, root: Path = ROOT) -> str | None:
    """The value of ``net.core.rmem_max`` and the like; None where there is none."""
    return _read(root / "proc/sys" / name.replace(".", "/")).strip() or None


def memory_octets() -> int:
    """Of this process, resident."""
    return int(_read(ROOT / "proc/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def runtime_folder() -> Path:
    """Where sockets of running processes are: systemd's choice for a unit, the user's, or the system's."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]  # systemd may list several
    if given:
        return Path(given)
    user = os.environ.get("XDG_RUNTIME_DIR")
    return Path(user, "pyflowx") if user else Path("/run/pyflowx")
