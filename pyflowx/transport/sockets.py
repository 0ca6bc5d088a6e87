"""UDP sockets: opened with names and addresses as users give them; what the kernel says of their queues."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pyflowx.errors import ConfigError

# Socket options that Python's socket module does not name (asm-generic/socket.h).
SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")  # linux/sock_diag.h: 0 is octets queued, 1 the limit of that, 8 datagrams dropped


def _resolve(host: str, port: int, flags: int = 0) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"-H/--host {host}: {reason}; give a name that resolves or an address such as 127.0.0.1 or ::1"
        ) from error
    return found[0][0], found[0][4]


class DropCounter:
    """The kernel's 32-bit count of drops as one that never wraps nor goes back."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = 0, 0  # total, the kernel's last; together, as other threads look at it

    @property
    def total(self) -> int:
        return self._state[0]

    def update(self, value: int) -> None:
        """``value`` is the kernel's; one that is older than the last seen is ignored."""
        total = self.at(value)
        if total != self._state[0]:
            self._state = total, value

    def at(self, value: int) -> int:
        """What the total would be."""
        total, last = self._state
        delta = (value - last) & 0xFFFFFFFF
        return total + delta if delta < 1 << 31 else total


def _set_buffer(sock: socket.socket, octets: int | None) -> int:
    """Ask for a receive buffer, past net.core.rmem_max where privileged; the octets granted."""
    if octets:
        octets = min(octets, 2**31 - 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles what it is told (socket(7))


def _listen(host: str, port: int, recv_buffer: int | None, shared: bool) -> tuple[socket.socket, int]:
    family, address = _resolve(host, port, socket.AI_PASSIVE)
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"-H/--host {host}: {error.strerror}; give 0.0.0.0 or another IPv4 address") from error
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # :: takes IPv4 too, whatever the sysctl says
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        granted = _set_buffer(sock, recv_buffer)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {host} UDP port {port}: {error.strerror}; give an address of this host with -H/--host"
            " and a port that is free with -p/--port (ss -lunp lists those in use)"
        ) from error
    return sock, granted


def connect(host: str, port: int) -> socket.socket:
    """A socket that sends there. ConfigError where a name does not resolve or there is no route."""
    family, address = _resolve(host, port)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise ConfigError(f"-H/--host {host}: {error.strerror}; give a host that this one has a route to") from error
    return sock


class Listening:
    """Sockets that are listened on, one for each (host, port) of ``addresses``.

    ``::`` takes IPv4 as well, port 0 lets the kernel choose (see :attr:`addresses`). ``recv_buffer``: octets of each
    socket's queue in the kernel. ``shared``: others may share the ports (SO_REUSEPORT). ConfigError where an address
    cannot be used.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], recv_buffer: int | None, shared: bool = False) -> None:
        self.sockets: list[socket.socket] = []
        self.drops = [DropCounter() for _ in addresses]
        self._last_memory: dict[socket.socket, tuple[int, ...]] = {}
        granted = []
        try:
            for host, port in addresses:
                sock, octets = _listen(host, port, recv_buffer, shared)
                self.sockets.append(sock)
                granted.append(octets)
        except ConfigError:
            self.close()
            raise
        self.granted = min(granted)
        """Octets of the smallest receive buffer that the kernel granted."""
        self.warning: str | None = None
        """What to tell the user about the receive buffer, if anything."""
        if recv_buffer and self.granted < recv_buffer:
            self.warning = (
                f"the kernel grants a receive buffer of {self.granted} octets, not {recv_buffer}: "
                f"datagrams of a burst may be lost; as root: sysctl -w net.core.rmem_max={recv_buffer}"
            )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) that each socket has really got."""
        return [sock.getsockname()[:2] for sock in self.sockets]

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel dropped because a queue was full (or a checksum wrong), up to now or to close().

        May be asked by any thread.
        """
        return sum(counter.at(info[8]) for counter, info in zip(self.drops, self._memory(), strict=True))

    @property
    def queued(self) -> tuple[int, int]:
        """Octets of the kernel's memory that the fullest queue takes, and its limit. May be asked by any thread."""
        return max(((info[0], info[1]) for info in self._memory()), key=lambda queue: queue[0] / max(1, queue[1]))

    def _memory(self) -> list[tuple[int, ...]]:
        """SO_MEMINFO of each socket, the last there was if it is closed."""
        for sock in self.sockets:
            with suppress(OSError):
                octets = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
                self._last_memory[sock] = _MEMINFO.unpack(octets)
        return list(self._last_memory.values())

    def close(self) -> None:
        self._memory()
        for sock in self.sockets:
            sock.close()


def listen_together(addresses: Sequence[tuple[str, int]], recv_buffer: int | None, count: int) -> list[Listening]:
    """``count`` times sockets on the same addresses and ports: which of them gets a datagram is the kernel's choice, or
    that of a program (:mod:`pyflowx.kernel.steering`), whose numbers for them are their places in the list."""
    alone = Listening(addresses, None)  # where another process has the port, sharing it must not succeed
    ports = [port for _, port in alone.addresses]
    alone.close()
    same = [(host, port) for (host, _), port in zip(addresses, ports, strict=True)]
    found: list[Listening] = []
    try:
        for _ in range(count):
            found.append(Listening(same, recv_buffer, shared=True))  # noqa: PERF401 # those that are open are closed
    except ConfigError:
        for listening in found:
            listening.close()
        raise
    return found
