"""Attaches programs to interfaces, and detaches no one else's.

At TCX (Linux 6.6) programs go with their process. At XDP, and at TC before that, they stay, attached by
netlink. *Ours* is told from foreign by name: XDP programs are called ``pyflowx_...``, TC filters
``pyflowx/<program id>``. Ours is *live* while its process holds the abstract Unix socket of that program id
(:class:`Claim`); the kernel closes it with the process, however that ends. What is ours and not live was left
over and is removed. Such sockets belong to a network namespace, as interfaces do.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from types import TracebackType
from typing import NamedTuple, Self

from pyflowx.batch import V4_MAPPED
from pyflowx.errors import ConfigError, KernelError
from pyflowx.kernel.netlink import Link, Netlink
from pyflowx.kernel.syscall import PRIVILEGE, TCX_EGRESS, TCX_INGRESS, Program, TcxLink

_UPDATE_IF_NOEXIST, _SKB_MODE, _DRV_MODE, _REPLACE = 1, 2, 4, 16  # XDP_FLAGS_*, linux/if_link.h
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # of clsact, linux/pkt_sched.h
_TCX = {"ingress": TCX_INGRESS, "egress": TCX_EGRESS}
_PRIORITY = 1  # the first; a new BPF filter comes before older ones of its priority
_PREFIX = "pyflowx_"
_NEWS = 1 | 8 | 0x10 | 0x100  # RTMGRP_LINK, _TC, _IPV4_IFADDR, _IPV6_IFADDR
_NEWS_LEN = 1 << 16
_ETHERNET_TYPES = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK, linux/if_arp.h
# PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE (tun, WireGuard): what programs see begins with the IP header
_IP_TYPES = (512, 519, 768, 769, 776, 778, 823, 65534)


class Attachment(NamedTuple):
    """A program at a hook: ``xdp`` (native), ``xdp-generic``, ``tcx`` or ``tc``; ``ingress`` or ``egress``. ``note``
    names the foreign program for which ``auto`` left XDP alone, or what the kernel does not take."""

    interface: str
    ifindex: int
    hook: str
    direction: str
    note: str = ""


class Claim:
    """Says to other exporters, for as long as the process lives, that the program is in use."""

    def __init__(self, program_id: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):  # the name is taken: then that says the same
            self._socket.bind(self._name(program_id))

    def close(self) -> None:
        self._socket.close()

    @staticmethod
    def _name(program_id: int) -> str:
        return f"\0pyflowx/program/{program_id}"

    @classmethod
    def is_live(cls, program_id: int) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(cls._name(program_id))
            except ConnectionRefusedError:
                return False
            return True


def describe(program_id: int) -> str:
    """``program 12 (name)``, for messages."""
    program = Program.by_id(program_id)
    if program is None:
        return f"program {program_id}"
    with program:
        return f"program {program_id} ({program.info().name})"


class Links:
    """The interfaces of this network namespace. Errors: KernelError, and ConfigError for an unknown interface."""

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._tcx: dict[tuple[int, str, int], TcxLink] = {}  # by interface, direction, program
        self._clsact: set[int] = set()  # interfaces whose clsact goes when its last filter goes
        self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._news.bind((0, _NEWS))
        self._news.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """What is at TCX is taken off."""
        for link in self._tcx.values():
            link.close()
        self._news.close()
        self._netlink.close()

    def changed(self) -> bool:
        """Whether the kernel has had news of links, addresses, qdiscs or filters since the last call; of what is taken
        off TCX it tells nobody."""
        found = not all(link.is_attached() for link in self._tcx.values())
        while True:
            try:
                self._news.recv(_NEWS_LEN)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more than there was room for
                    raise KernelError(f"cannot watch interfaces: {error.strerror}") from error
            found = True

    def names(self) -> dict[int, str]:
        """The interfaces that there are now."""
        return {link.ifindex: link.name for link in self._netlink.links()}

    def addresses(self) -> list[bytes]:
        """This host's own unicast addresses, 16 octets each."""
        return [octets if len(octets) == 16 else V4_MAPPED + octets for octets in self._netlink.addresses()]

    def index(self, interface: str) -> int:
        names = self.names()
        for ifindex, name in names.items():
            if name == interface:
                return ifindex
        raise ConfigError(f"no interface {interface}; there are {', '.join(sorted(names.values()))}")

    def is_loopback(self, ifindex: int) -> bool:
        return bool(self._link(ifindex).flags & 0x8)  # IFF_LOOPBACK

    def is_ethernet(self, ifindex: int) -> bool:
        """Whether packets have Ethernet headers; KernelError where they begin with neither that nor IP."""
        link = self._link(ifindex)
        if link.type in _ETHERNET_TYPES:
            return True
        if link.type in _IP_TYPES:
            return False
        raise KernelError(f"{link.name} has link headers of ARP type {link.type}, which we cannot read")

    def is_attached(self, at: Attachment, program_id: int) -> bool:
        """Whether the program is still where it was attached."""
        if at.hook == "tcx":
            return self._tcx[at.ifindex, at.direction, program_id].is_attached()
        if at.hook == "tc":
            return any(found == program_id for found in self.filters(at.ifindex, at.direction).values())
        try:
            attached = self.xdp(at.ifindex)
        except KernelError:
            return False
        return attached is not None and attached[1] == program_id

    def driver(self, ifindex: int) -> str:
        """The kind of a software interface (``veth``, ``bridge`` ...), empty for others."""
        return self._link(ifindex).kind

    def _link(self, ifindex: int) -> Link:
        try:
            return self._netlink.link(ifindex)
        except OSError as error:
            raise KernelError(f"interface {ifindex} is no more") from error

    # XDP

    def xdp(self, ifindex: int) -> tuple[int, int] | None:
        """(flags of the mode, program id) of what is attached at XDP."""
        link = self._link(ifindex)
        if link.native:
            return _DRV_MODE, link.native
        return (_SKB_MODE, link.generic) if link.generic else None

    def attach_xdp(self, ifindex: int, program: Program, native: bool) -> int:
        """0, or the errno with which the kernel or the driver refuses."""
        mode = _DRV_MODE if native else _SKB_MODE
        return self._set_xdp(ifindex, program.fd, _UPDATE_IF_NOEXIST | mode)

    def detach_xdp(self, ifindex: int, program: Program, mode: int) -> None:
        """Detach this program and no other; no error where it or the interface has gone."""
        self._set_xdp(ifindex, -1, _REPLACE | mode, program.fd)

    def _set_xdp(self, ifindex: int, fd: int, flags: int, expected_fd: int | None = None) -> int:
        try:
            self._netlink.set_xdp(ifindex, fd, flags, expected_fd)
        except OSError as error:
            return self._code(error)
        return 0

    # TC

    def filters(self, ifindex: int, direction: str) -> dict[int, int | None]:
        """The filters of clsact in one direction by handle: the program id where one is ours, else None. None of an
        interface that is no more."""
        try:
            found = list(self._netlink.filters(ifindex, _PARENTS[direction]))
        except OSError:
            return {}
        ours = {filter.handle: re.fullmatch(r"pyflowx/(\d+)", filter.name) for filter in found}
        return {handle: int(name[1]) if name else None for handle, name in ours.items()}

    def attach_tc(self, ifindex: int, program: Program, direction: str) -> str:
        """Put the program before all others. The hook: ``tcx``, or ``tc`` where the kernel has no TCX."""
        if self._attach_tcx(ifindex, program, direction):
            return "tcx"
        self._attach_filter(ifindex, program, direction)
        return "tc"

    def _attach_tcx(self, ifindex: int, program: Program, direction: str) -> bool:
        try:
            self._tcx[ifindex, direction, program.info().id] = TcxLink(program, ifindex, _TCX[direction])
        except OSError as error:
            if self._code(error) == errno.EINVAL:
                return False
            raise KernelError(f"cannot attach at TCX {direction}: {error.strerror}") from error
        return True

    def _attach_filter(self, ifindex: int, program: Program, direction: str) -> None:
        self._add_clsact(ifindex)
        program_id = program.info().id
        try:
            self._netlink.add_filter(ifindex, _PARENTS[direction], _PRIORITY, program.fd, f"pyflowx/{program_id}")
        except OSError as error:
            self._code(error)
            raise KernelError(
                f"cannot attach at TC {direction}: {error.strerror}; is another kind of filter at priority {_PRIORITY} "
                "(tc filter show), or a qdisc ingress instead of clsact (tc qdisc show)?"
            ) from error

    def detach_tc(self, ifindex: int, direction: str, program_id: int) -> None:
        """Take a program of ours off TCX, or remove its filter, and clsact with the last one where it was made for
        us."""
        link = self._tcx.pop((ifindex, direction, program_id), None)
        if link is not None:
            link.close()
            return
        parent = _PARENTS[direction]
        for handle in [handle for handle, found in self.filters(ifindex, direction).items() if found == program_id]:
            with contextlib.suppress(OSError):
                self._netlink.delete_filter(ifindex, parent, _PRIORITY, handle)
        if ifindex in self._clsact and not any(self.filters(ifindex, side) for side in _PARENTS):
            with contextlib.suppress(OSError):
                self._netlink.delete_clsact(ifindex)

    def _add_clsact(self, ifindex: int) -> None:
        if any(found for side in _PARENTS for found in self.filters(ifindex, side).values()):
            self._clsact.add(ifindex)  # made by an exporter that may end before us
        try:
            self._netlink.add_clsact(ifindex)
        except OSError as error:
            if self._code(error) != errno.EEXIST:
                reason = f"{error.strerror}; it needs CONFIG_NET_SCH_INGRESS"
                raise KernelError(f"cannot add the qdisc clsact: {reason}") from error
        else:
            self._clsact.add(ifindex)

    def _code(self, error: OSError) -> int:
        if error.errno == errno.EPERM:
            raise KernelError(f"cannot attach to an interface: permission denied; {PRIVILEGE}") from error
        return error.errno or 0

    # left-overs

    def remove_left_overs(self, ifindex: int) -> None:
        """Detach what exporters that are no more have left at this interface."""
        attached = self.xdp(ifindex)
        if attached is not None:
            mode, program_id = attached
            program = Program.by_id(program_id)
            if program is not None:
                with program:
                    if program.info().name.startswith(_PREFIX) and not Claim.is_live(program_id):
                        self.detach_xdp(ifindex, program, mode)
        for direction in _PARENTS:
            for ours in set(self.filters(ifindex, direction).values()):
                if ours is not None and not Claim.is_live(ours):
                    self._clsact.add(ifindex)
                    self.detach_tc(ifindex, direction, ours)
