"""Our programs at the hooks of interfaces, for as long as these exist: interfaces go, come back and are changed."""

from __future__ import annotations

import errno
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

from pyflowx.errors import KernelError
from pyflowx.kernel.config import MeterConfig
from pyflowx.kernel.links import Attachment, Claim, Links, describe
from pyflowx.kernel.programs import SIDES, Programs
from pyflowx.kernel.syscall import Program

_XDP_BUSY = (errno.EBUSY, errno.EEXIST)
# A driver with native XDP where TC is the better choice: on veth, XDP turns the peer's segmentation offload
# off, which costs every TCP connection more than the whole metering does.
_NOT_WORTH_XDP = ("veth",)
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1  # linux/if_packet.h


class LinkChange(NamedTuple):
    """What became of an interface. ``event``: ``gone``, ``attached`` (it came back), ``restored`` (somebody had
    removed our programs) or ``failed``, with the reason in ``message``."""

    interface: str
    ifindex: int
    event: str
    message: str = ""


class Hooks(ABC):
    """A kind of programs at interfaces: which ones, and where, says :meth:`_put`."""

    def __init__(self, interfaces: Iterable[str]) -> None:
        self._interfaces = tuple(dict.fromkeys(interfaces))
        self._links: Links | None = None
        self._claims: dict[int, Claim] = {}
        self._used: dict[tuple[int, str], int] = {}  # (interface, side) -> program
        self._attached: dict[int, ExitStack] = {}  # by interface: what takes our programs off it
        self._failed: dict[int, str] = {}  # why an interface has none
        self.attachments: list[Attachment] = []
        self.links_changed = False
        """Whether the last :meth:`watch` found any news."""

    @abstractmethod
    def _put(self, links: Links, undo: ExitStack, interface: str, ifindex: int) -> list[Attachment]:
        """Attach to one interface; ``undo`` takes off what was attached. KernelError where that cannot be."""

    def _gone(self, ifindex: int) -> None:  # noqa: B027 (not all have something to do then)
        """The interface is no more, and its programs have seen their last packet."""

    def attach(self) -> None:
        """Attach to all interfaces or, on an error, to none; removes left-overs of dead processes first."""
        self._links = links = Links()
        try:
            for interface in self._interfaces:
                self._attach_to(links, interface, links.index(interface))
        except BaseException:
            self.detach()
            raise

    def watch(self) -> list[LinkChange]:
        """What has happened since the last call, repaired where that is possible. Does not wait."""
        links = self._links
        self.links_changed = links is not None and links.changed()
        if links is None or not self.links_changed:
            return []
        there = links.names()
        changes = []
        for ifindex in [ifindex for ifindex in self._attached if ifindex not in there]:
            changes.append(LinkChange(self._release(ifindex), ifindex, "gone"))
            self._gone(ifindex)
        bereft = self._bereft(links)
        for ifindex in bereft:
            self._release(ifindex)
        for ifindex, name in there.items():
            if ifindex in bereft or (name in self._interfaces and ifindex not in self._attached):
                changes.append(self._try(links, name, ifindex, "restored" if ifindex in bereft else "attached"))
        return [change for change in changes if self._is_new(change)]

    def detach(self) -> None:
        """Remove our programs from all interfaces."""
        for ifindex in reversed(list(self._attached)):  # XDP cannot change below a device that has it
            self._release(ifindex)
        if self._links is not None:
            self._links.close()
            self._links = None

    def close(self) -> None:
        """Detach; say no more that our programs are in use."""
        self.detach()
        for claim in self._claims.values():
            claim.close()

    def _bereft(self, links: Links) -> list[int]:
        """Interfaces of which somebody has removed a program of ours."""
        lost = [at for at in self.attachments if not links.is_attached(at, self._used[at.ifindex, at.direction])]
        return list(dict.fromkeys(at.ifindex for at in lost))

    def _release(self, ifindex: int) -> str:
        """Take our programs off an interface, if it is still there; returns its name."""
        name = next((at.interface for at in self.attachments if at.ifindex == ifindex), "")
        self.attachments = [at for at in self.attachments if at.ifindex != ifindex]
        self._attached.pop(ifindex).close()
        return name

    def _is_new(self, change: LinkChange) -> bool:
        """Whether it is not the failure that was reported already."""
        known = self._failed.pop(change.ifindex, "")
        if change.event == "failed":
            self._failed[change.ifindex] = change.message
        return change.event != "failed" or change.message != known

    def _try(self, links: Links, name: str, ifindex: int, event: str) -> LinkChange:
        try:
            self._attach_to(links, name, ifindex)
        except KernelError as error:
            return LinkChange(name, ifindex, "failed", str(error))
        return LinkChange(name, ifindex, event)

    def _attach_to(self, links: Links, interface: str, ifindex: int) -> None:
        links.remove_left_overs(ifindex)
        with ExitStack() as undo:
            found = self._put(links, undo, interface, ifindex)
            self._attached[ifindex] = undo.pop_all()
        self.attachments += found

    def _put_xdp(
        self, links: Links, undo: ExitStack, interface: str, ifindex: int, program: Program, generic: bool
    ) -> tuple[str, str]:
        """The hook, or none and why: native XDP, else with ``generic`` the kernel's own."""
        hook = "xdp"
        self._claim(ifindex, "ingress", program)
        code = links.attach_xdp(ifindex, program, native=True)
        if code and generic and code not in _XDP_BUSY:
            code, hook = links.attach_xdp(ifindex, program, native=False), "xdp-generic"
        attached = links.xdp(ifindex)
        if not code and attached is not None:
            undo.callback(links.detach_xdp, ifindex, program, attached[0])
            return hook, ""
        if attached is None:
            return "", f"{interface} refuses an XDP program: {os.strerror(code)}"
        return "", f"{describe(attached[1])} is attached at XDP of {interface}"

    def _claim(self, ifindex: int, side: str, program: Program) -> int:
        """Say to other processes that the program is in use; returns its id."""
        program_id = program.info().id
        self._used[ifindex, side] = program_id
        if program_id not in self._claims:
            self._claims[program_id] = Claim(program_id)
        return program_id


class MeterHooks(Hooks):
    """Those of the metering programs, ingress and egress."""

    def __init__(self, config: MeterConfig, programs: Programs) -> None:
        super().__init__(config.interfaces)
        self._config, self._programs = config, programs

    def _put(self, links: Links, undo: ExitStack, interface: str, ifindex: int) -> list[Attachment]:
        config = self._config
        sides = [side for side in SIDES if config.direction in ("both", side)]
        if links.is_loopback(ifindex):
            sides = sides[:1]  # each packet passes both ways: once is enough
        found: list[Attachment] = []
        self._programs.prepare([self._hook(links, ifindex, side) for side in sides])
        for side in reversed(sides):  # XDP last: a link may come up anew with it, and the kernel then says hello
            hook, note = "", ""
            if side == "ingress" and config.hook != "tc":
                hook, note = self._attach_xdp(links, undo, interface, ifindex)
            if not hook:
                hook = self._attach_tc(links, undo, ifindex, side)
            found.insert(0, Attachment(interface, ifindex, hook, side, note or self._programs.note))
        if config.promiscuous:
            undo.callback(_receive_all(ifindex).close)
        return found

    def _hook(self, links: Links, ifindex: int, side: str) -> str:
        """The program that is tried first."""
        if side == "egress" or self._config.hook == "tc" or not self._may_xdp(links, ifindex):
            return self._tc_hook(links, ifindex, side)
        return "xdp"

    def _may_xdp(self, links: Links, ifindex: int) -> bool:
        """``auto`` leaves out what is not worth it, and lo, which has no driver."""
        wanted = links.driver(ifindex) not in _NOT_WORTH_XDP and not links.is_loopback(ifindex)
        return links.is_ethernet(ifindex) and (wanted or self._config.hook == "xdp")

    @staticmethod
    def _tc_hook(links: Links, ifindex: int, side: str) -> str:
        return side if links.is_ethernet(ifindex) else f"{side}_ip"

    def _attach_tc(self, links: Links, undo: ExitStack, ifindex: int, side: str) -> str:
        program = self._programs.load(self._tc_hook(links, ifindex, side))
        program_id = self._claim(ifindex, side, program)
        hook = links.attach_tc(ifindex, program, side)
        undo.callback(links.detach_tc, ifindex, side, program_id)
        return hook

    def _attach_xdp(self, links: Links, undo: ExitStack, interface: str, ifindex: int) -> tuple[str, str]:
        """The hook and what there is to say of it; no hook where ``auto`` leaves ingress to TC: no native XDP, not
        worth it, or taken."""
        forced = self._config.hook == "xdp"
        if not self._may_xdp(links, ifindex):
            if forced:
                raise KernelError(f"{interface} has no Ethernet headers, which XDP needs; use --hook tc")
            return "", ""
        hook, reason = self._put_xdp(links, undo, interface, ifindex, self._programs.load("xdp"), generic=forced)
        if hook or not forced:
            return hook, reason if "is attached" in reason else ""
        detach = f" detach it (ip link set dev {interface} xdp off) or" if "is attached" in reason else ""
        raise KernelError(f"{reason};{detach} use --hook tc")


def _receive_all(ifindex: int) -> socket.socket:
    """Promiscuous mode, for as long as the socket is open: also when we are killed the kernel ends it."""
    member = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # protocol 0: it receives nothing itself
    request = struct.pack("iHH8x", ifindex, _PROMISCUOUS, 0)
    try:
        member.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
    except OSError as error:
        member.close()
        raise KernelError(f"cannot make interface {ifindex} promiscuous: {error.strerror}") from error
    return member
