"""As much of rtnetlink as interfaces, XDP and the filters of TC need (``man 7 rtnetlink``, linux/rtnetlink.h).

A library for all of netlink (pyroute2) takes longer to import than everything else of a start together; tests compare
the two.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

_HEADER, _LINK, _TC, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=BxxxiIII"), 4
_ERROR, _DONE = 2, 3  # NLMSG_*
_REQUEST, _ACK, _DUMP, _EXCLUSIVE, _CREATE = 1, 4, 0x300, 0x200, 0x400  # NLM_F_*, of requests
_MULTI, _INTERRUPTED, _ACK_HAS_TEXT = 2, 0x10, 0x200  # of answers
_SOL_NETLINK, _CAPPED_ACK, _EXTENDED_ACK = 270, 10, 11
_GET_LINK, _SET_LINK, _GET_ADDRESS = 18, 19, 22  # RTM_*
_NEW_QDISC, _DELETE_QDISC, _NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 36, 37, 44, 45, 46
_ADDRESS_LEN, _IFA_ADDRESS, _IFA_LOCAL = 8, 1, 2  # of struct ifaddrmsg; IFA_*
_IFNAME, _LINKINFO, _INFO_KIND = 3, 18, 1  # IFLA_*
_XDP, _XDP_FD, _XDP_FLAGS, _XDP_DRV_ID, _XDP_SKB_ID, _XDP_EXPECTED_FD = 43, 1, 3, 5, 6, 8
_KIND, _OPTIONS, _BPF_FD, _BPF_NAME, _BPF_FLAGS = 1, 2, 6, 7, 8  # TCA_*
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_ALL_PROTOCOLS = socket.htons(3)  # ETH_P_ALL
_NESTED_MASK = 0x3FFF
_RECEIVE_LEN = 1 << 18


class Link(NamedTuple):
    """An interface. ``type``: ARPHRD_*; ``kind``: of software interfaces (``veth`` ...), empty for others; ``native``
    and ``generic``: the programs at XDP, 0 for none."""

    ifindex: int
    name: str
    type: int
    flags: int
    kind: str
    native: int
    generic: int


class Filter(NamedTuple):
    """A filter of a qdisc; ``name``: a BPF filter's, else empty."""

    priority: int
    handle: int
    name: str


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", _ATTRIBUTE + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, place = {}, 0
    while place + _ATTRIBUTE <= len(data):
        length, kind = struct.unpack_from("=HH", data, place)
        if length < _ATTRIBUTE:
            break
        found[kind & _NESTED_MASK] = data[place + _ATTRIBUTE : place + length]
        place += (length + 3) // 4 * 4
    return found


def _text(octets: bytes | None) -> str:
    return (octets or b"").rstrip(b"\0").decode(errors="replace")


def _number(octets: bytes | None) -> int:
    return int.from_bytes((octets or b"")[:4], "little" if struct.pack("=H", 1)[0] else "big")


class Netlink:
    """A socket in this network namespace. What the kernel refuses is an OSError with the text that it says."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for option in (_CAPPED_ACK, _EXTENDED_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """All interfaces."""
        return [self._link(answer) for answer in self._ask(_GET_LINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0))]

    def link(self, index: int) -> Link:
        """One interface; OSError ENODEV where it is no more."""
        return self._link(next(iter(self._ask(_GET_LINK, 0, _LINK.pack(0, 0, index, 0, 0)))))

    def addresses(self) -> Iterator[bytes]:
        """Our own addresses of all interfaces, of 4 or 16 octets."""
        for answer in self._ask(_GET_ADDRESS, _DUMP, bytes(_ADDRESS_LEN)):
            found = _attributes(answer[_ADDRESS_LEN:])
            octets = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)  # of a tunnel the second is the peer's
            if octets:
                yield octets

    def set_xdp(self, index: int, fd: int, flags: int, expected_fd: int | None = None) -> None:
        """Attach the program ``fd`` to XDP, or with -1 detach what is there."""
        xdp = _attribute(_XDP_FD, struct.pack("=i", fd)) + _attribute(_XDP_FLAGS, struct.pack("=I", flags))
        if expected_fd is not None:
            xdp += _attribute(_XDP_EXPECTED_FD, struct.pack("=i", expected_fd))
        self._ask(_SET_LINK, _ACK, _LINK.pack(0, 0, index, 0, 0) + _attribute(_XDP, xdp))

    def add_clsact(self, index: int) -> None:
        self._ask(_NEW_QDISC, _ACK | _CREATE | _EXCLUSIVE, self._clsact(index))

    def delete_clsact(self, index: int) -> None:
        self._ask(_DELETE_QDISC, _ACK, self._clsact(index))

    def add_filter(self, index: int, parent: int, priority: int, fd: int, name: str) -> None:
        """A BPF filter, which decides itself on packets (direct action), before others of its priority."""
        values = ((_BPF_FD, struct.pack("=I", fd)), (_BPF_NAME, name.encode() + b"\0"))
        options = b"".join(_attribute(kind, value) for kind, value in values)
        options += _attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        body = _TC.pack(0, index, 0, parent, priority << 16 | _ALL_PROTOCOLS)
        body += _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options)
        self._ask(_NEW_FILTER, _ACK | _CREATE | _EXCLUSIVE, body)

    def delete_filter(self, index: int, parent: int, priority: int, handle: int) -> None:
        body = _TC.pack(0, index, handle, parent, priority << 16 | _ALL_PROTOCOLS) + _attribute(_KIND, b"bpf\0")
        self._ask(_DELETE_FILTER, _ACK, body)

    def filters(self, index: int, parent: int) -> Iterator[Filter]:
        """The filters of a qdisc in the order in which they run."""
        for answer in self._ask(_GET_FILTER, _DUMP, _TC.pack(0, index, 0, parent, 0)):
            _, _, handle, _, info = _TC.unpack_from(answer)
            found = _attributes(answer[_TC.size :])
            if handle and _OPTIONS in found:  # else the entry of a priority
                is_bpf = _text(found.get(_KIND)) == "bpf"
                name = _text(_attributes(found[_OPTIONS]).get(_BPF_NAME)) if is_bpf else ""
                yield Filter(info >> 16, handle, name)

    @staticmethod
    def _clsact(index: int) -> bytes:
        return _TC.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + _attribute(_KIND, b"clsact\0")

    @staticmethod
    def _link(answer: bytes) -> Link:
        _, type, index, flags, _ = _LINK.unpack_from(answer)
        found = _attributes(answer[_LINK.size :])
        kind = _text(_attributes(found.get(_LINKINFO, b"")).get(_INFO_KIND))
        xdp = _attributes(found.get(_XDP, b""))
        native, generic = (_number(xdp.get(id)) for id in (_XDP_DRV_ID, _XDP_SKB_ID))
        return Link(index, _text(found.get(_IFNAME)), type, flags, kind, native, generic)

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """The answers to a request, without their headers. A list that changed while it was read is read again."""
        while True:
            self._sequence += 1
            head = _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, self._sequence, 0)
            self._socket.send(head + body)
            answers, interrupted = self._answers(self._sequence)
            if not interrupted:
                return answers

    def _answers(self, sequence: int) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        interrupted = False
        while True:
            data, place = self._socket.recv(_RECEIVE_LEN), 0
            while place + _HEADER.size <= len(data):
                length, kind, flags, number, _ = _HEADER.unpack_from(data, place)
                payload = data[place + _HEADER.size : place + length]
                place += (length + 3) // 4 * 4
                if number != sequence:
                    continue
                interrupted |= bool(flags & _INTERRUPTED)
                if kind == _ERROR:
                    _raise(payload, flags)
                elif kind != _DONE:
                    found.append(payload)
                if kind in (_ERROR, _DONE) or not flags & _MULTI:
                    return found, interrupted


def _raise(payload: bytes, flags: int) -> None:
    """The OSError of an answer, where it is one and not an acknowledgement."""
    code = -struct.unpack_from("=i", payload)[0]
    if code:
        texts = _attributes(payload[4 + _HEADER.size :]) if flags & _ACK_HAS_TEXT else {}
        said = _text(texts.get(1))  # NLMSGERR_ATTR_MSG
        raise OSError(code, os.strerror(code) + (f" ({said})" if said else ""))
