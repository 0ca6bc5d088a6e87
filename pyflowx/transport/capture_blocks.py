"""The records of capture files: pcap, and pcapng (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng).

Both are chains: each record says how long it is. :func:`walk` finds the records of a window; everything else is
columns over all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, I64, U8, Array
from pyflowx.errors import ConfigError
from pyflowx.transport.capture_source import CAPACITY, Window

LATEST = 1 << 62  # ns since 1970 (the year 2116): later times are nonsense, and sums with them must not overflow
_NS = 1_000_000_000
_PCAP_LONGEST = 262_144  # octets of a packet; what libpcap and Wireshark accept at most
_BLOCK_LONGEST = CAPACITY // 4
_SECTION = b"\n\r\r\n"  # Block Type of a Section Header Block, the same in both byte orders
_INTERFACES = 65_536  # remembered in a section
_RUN = 1024
_UNKNOWN_LINK = -1

PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_ACCEPTED = "pcap (micro- and nanoseconds) and pcapng are accepted, also compressed with gzip"
_CONVERT = "a modified pcap; convert it with: editcap -F pcapng IN OUT"
_KNOWN_OTHERS = {
    b"\x34\xcd\xb2\xa1": _CONVERT,
    b"\xa1\xb2\xcd\x34": _CONVERT,
    b"\x12\xcb\xe2\xa1": _CONVERT,
    b"\xa1\xe2\xcb\x12": _CONVERT,
    b"\xab\x01\x00\x1c": _CONVERT,
    b"\x1c\x00\x01\xab": _CONVERT,
    b"\xac\x01\x00\x1c": _CONVERT,
    b"\x1c\x00\x01\xac": _CONVERT,
    b"snoo": "a snoop file; convert it with: editcap -F pcapng IN OUT",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"\x04\x22\x4d\x18": "compressed with lz4; unpack it first",
    b"\xfd7zX": "compressed with xz; unpack it first",
    b"BZh9": "compressed with bzip2; unpack it first",
}


class Records(NamedTuple):
    """Packets of a window, one entry each: octets ``start`` to ``end`` of its data, link type, capture time."""

    start: I64
    end: I64
    link: I32
    time_ns: I64


class Chain(NamedTuple):
    """How :func:`walk` gets from one record to the next: ``base`` + the length that its header says."""

    header: struct.Struct  # -> type (empty where records have none), length
    base: int
    least: int
    most: int
    multiple: int
    key: tuple[int, str]  # offset and dtype of what is equal in records of one type and length


def gather(data: U8, starts: I64, width: int) -> U8:
    """``(n, width)``: the ``width`` octets at each of ``starts``; all must lie inside ``data``."""
    windows: Array = np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))
    return windows[starts].view(np.uint8).reshape(len(starts), width)


def walk(window: Window, chain: Chain) -> tuple[I64, int]:
    """Positions of the whole records from ``window.position`` on, and of what follows the last.

    Ends before a Section Header Block, a record that is not all there, or a length that cannot be.
    """
    position, end, last, equal = window.position, window.end, -1, 0
    head, unpack, view = chain.header.size, chain.header.unpack_from, window.view
    parts: list[I64] = []
    found: list[int] = []
    while position + head <= end:
        kind, length = unpack(view, position)
        following = position + chain.base + length
        if kind == _SECTION or not is_possible(chain, length) or following > end:
            break
        found.append(position)
        equal = equal + 1 if length == last else 0
        last = length
        if equal >= 16:  # exporters fill their datagrams: many records of one length
            run = _run(window, chain, position, following - position)
            if len(run) > 1:
                parts += np.array(found[:-1], np.int64), run
                found = []
                following = int(run[-1]) + following - position
            equal = 0
        position = following
    return np.concatenate([*parts, np.array(found, np.int64)]), position


def is_possible(chain: Chain, length: int) -> bool:
    return chain.least <= length <= chain.most and length % chain.multiple == 0


def _run(window: Window, chain: Chain, position: int, stride: int) -> I64:
    """The records from ``position`` on that have the type and length of the first, ``stride`` octets apart."""
    offset, dtype = chain.key
    count = min((window.end - position) // stride, _RUN)
    keys: Array = np.ndarray((count,), dtype, window.data, position + offset, (stride,))
    differs = keys != keys[0]
    count = int(differs.argmax()) if differs.any() else count
    return position + stride * np.arange(count)


class Pcap:
    """The classic format: one header, one link type, records."""

    def __init__(self, window: Window) -> None:
        head = window.peek(24)
        order, self._unit = PCAP_MAGIC[head[:4]]
        major, minor, _, _, _, network = struct.unpack(order + "HHiIII", head[4:])
        if (major, minor) != (2, 4):
            raise ConfigError(f"is pcap of version {major}.{minor}; version 2.4 is accepted")
        self.link = network & 0x03FFFFFF  # the rest says whether frames end in a check sequence
        self.problem: str | None = None
        self.bad_blocks = 0
        self._dtype = order + "u4"
        self._chain = Chain(struct.Struct(order + "0s8xI"), 16, 0, _PCAP_LONGEST, 1, (8, self._dtype))
        window.skip(24)

    def records(self, window: Window) -> Iterator[Records]:
        """Take the whole records out of the window; :attr:`problem` is set where no more can be found."""
        positions, following = walk(window, self._chain)
        if len(positions):
            header = gather(window.data, positions, 16).view(self._dtype).astype(np.int64)
            start = positions + 16
            link = np.full(len(start), self.link, np.int32)
            yield Records(start, start + header[:, 2], link, header[:, 0] * _NS + header[:, 1] * self._unit)
        window.position = following
        if len(window) >= 16:
            _, length = self._chain.header.unpack_from(window.view, following)
            if not is_possible(self._chain, length):
                self.bad_blocks += 1
                self.problem = f"the record at octet {window.offset + following} says {length} octets of packet"


class PcapNg:
    """Blocks in sections; each section has its byte order and its interfaces."""

    def __init__(self, window: Window) -> None:
        self.problem: str | None = None
        self.bad_blocks = 0
        self._last_ns = 0  # for Simple Packet Blocks, which have no time
        order = _byte_order(window.peek(12))
        if order is None:
            raise ConfigError(f"begins like pcapng, but its byte order is unknown; {_ACCEPTED}")
        self._begin_section(order)

    def _begin_section(self, order: str) -> None:
        self._order = order
        self._chain = Chain(struct.Struct(order + "4sI"), 0, 12, _BLOCK_LONGEST, 4, (0, "u8"))
        self._interfaces: list[tuple[int, int, int, int]] = []  # link type, snap length, if_tsresol, if_tsoffset
        self._more_interfaces = 0  # beyond those that are remembered

    def records(self, window: Window) -> Iterator[Records]:
        """Take the whole blocks out of the window; :attr:`problem` is set where no more can be found."""
        while self.problem is None and len(window) >= 12:
            kind, length = window.peek(4), self._length(window)
            if kind == _SECTION and not self._section(window):
                return
            if kind != _SECTION and not is_possible(self._chain, length):
                self._skip_long(window, length)
                continue
            positions, following = walk(window, self._chain)
            if len(positions):
                records = self._packets(window.data, positions)
                if len(records.start):
                    self._last_ns = int(records.time_ns[-1])
                    yield records
            elif following == window.position and kind != _SECTION:
                return
            window.position = following

    def _length(self, window: Window) -> int:
        length: int = self._chain.header.unpack_from(window.view, window.position)[1]
        return length

    def _section(self, window: Window) -> bool:
        """Take a Section Header Block; False if it is not all there yet, or cannot be one."""
        order = _byte_order(window.peek(12))
        if order is not None:
            self._begin_section(order)
        length = self._length(window)
        if order is None or length < 28 or not is_possible(self._chain, length):
            self._stop(window, "is no Section Header Block")
        elif length <= len(window):
            (major,) = struct.unpack_from(order + "H", window.view, window.position + 12)
            if major == 1:
                window.skip(length)
                return True
            self._stop(window, f"begins a section of pcapng version {major}")
        return False

    def _skip_long(self, window: Window, length: int) -> None:
        """Go past a block that is too long to keep; end where its length cannot be right."""
        if length < 12 or length % 4:
            self._stop(window, f"says a length of {length}")
            return
        kind = int.from_bytes(window.peek(4), "little" if self._order == "<" else "big")
        if kind == 1:
            self._add_interface(b"")
        if kind in _BLOCKS:
            self.bad_blocks += 1
        window.skip(length)

    def _stop(self, window: Window, what: str) -> None:
        self.bad_blocks += 1
        self.problem = f"the block at octet {window.offset + window.position} {what}"

    def _packets(self, data: U8, positions: I64) -> Records:
        u4 = self._order + "u4"
        head = gather(data, positions, 28)  # SLACK allows it for shorter blocks too
        words = head.view(u4).astype(np.int64)
        kind, length = words[:, 0], words[:, 1]
        trailer = gather(data, positions + length - 4, 4).view(u4)[:, 0]
        least = np.select([kind == k for k in _BLOCKS], list(_BLOCKS.values()), 0)
        bad = (trailer != length) | (length < least)
        interfaces = self._read_interfaces(data, positions, kind, length, bad)
        row = np.flatnonzero((least > 0) & (kind != 1) & ~bad)
        simple, kind, length = kind[row] == 3, kind[row], length[row]
        links, snaps, units, offsets = (np.array(column, np.int64) for column in zip(*self._known(), strict=True))
        id = np.where(simple, 0, np.where(kind == 2, head[row].view(self._order + "u2")[:, 4], words[row, 2]))
        no_interface = id >= interfaces[row]
        id[no_interface | (id >= len(links))] = len(links) - 1  # the row for unknown ones
        captured = np.where(simple, np.minimum(words[row, 2], snaps[id]), words[row, 5])
        room = length - np.where(simple, 16, 32)
        captured = np.where(simple, np.minimum(captured, room), captured)
        no_interface |= captured > room
        start = positions[row] + np.where(simple, 12, 28)
        ticks = words[row, 3].astype(np.uint64) << np.uint64(32) | words[row, 4].astype(np.uint64)
        time_ns = self._times(ticks, units[id], offsets[id], simple | no_interface)
        self.bad_blocks += int(bad.sum()) + int(no_interface.sum())
        good = ~no_interface
        link = links[id].astype(np.int32)
        return Records(start[good], (start + captured)[good], link[good], time_ns[good])

    def _read_interfaces(self, data: U8, positions: I64, kind: I64, length: I64, bad: npt.NDArray[np.bool_]) -> I64:
        """Remember Interface Description Blocks; how many the section had before each block."""
        known = len(self._interfaces) + self._more_interfaces
        described = kind == 1
        for row in np.flatnonzero(described).tolist():
            first = int(positions[row])
            self._add_interface(b"" if bad[row] else data[first + 8 : first + int(length[row]) - 4].tobytes())
        return known + np.cumsum(described)

    def _add_interface(self, body: bytes) -> None:
        """From the body of an Interface Description Block; an empty one counts, but nothing is known of it."""
        if len(self._interfaces) >= _INTERFACES:
            self._more_interfaces += 1
        elif not body:
            self._interfaces.append(_NO_INTERFACE)
        else:
            link, _, snap = struct.unpack_from(self._order + "HHI", body)
            options = dict(_options(body[8:], self._order))
            unit = options.get(9, b"\x06")
            offset = options.get(14, bytes(8))
            seconds = struct.unpack(self._order + "q", offset)[0] if len(offset) == 8 else 0
            seconds = max(-(LATEST // _NS), min(LATEST // _NS, seconds))
            self._interfaces.append((link, snap or _PCAP_LONGEST, unit[0] if len(unit) == 1 else 6, seconds))

    def _known(self) -> list[tuple[int, int, int, int]]:
        return [*self._interfaces, _NO_INTERFACE]

    def _times(self, ticks: Array, units: I64, offsets: I64, absent: npt.NDArray[np.bool_]) -> I64:
        """Ticks as ns since 1970; where absent, the time of the packet before."""
        out = np.zeros(len(ticks), np.int64)
        for unit in np.unique(units).tolist():
            rows = units == unit
            out[rows] = to_nanoseconds(ticks[rows], unit) + offsets[rows] * _NS
        out = np.clip(out, 0, LATEST)
        if absent.any():
            source = np.maximum.accumulate(np.where(absent, -1, np.arange(len(out))))
            out = np.where(source < 0, self._last_ns, out[source])
        return out


_BLOCKS = {1: 20, 2: 32, 3: 16, 6: 32}  # Block Types we read (IDB, OPB, SPB, EPB), and their least lengths
_NO_INTERFACE = (_UNKNOWN_LINK, _PCAP_LONGEST, 6, 0)


def _byte_order(head: bytes) -> str | None:
    return {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(head[8:12])


def _options(octets: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(octets):
        code, length = struct.unpack_from(order + "HH", octets, position)
        if code == 0 or position + 4 + length > len(octets):
            return
        yield code, octets[position + 4 : position + 4 + length]
        position += 4 + (length + 3 & ~3)


def to_nanoseconds(ticks: Array, unit: int) -> I64:
    """uint64 ticks of an if_tsresol as ns, at most :data:`LATEST`: 10 ** -unit s, or 2 ** -unit s with the high bit."""
    power, latest = unit & 0x7F, np.uint64(LATEST // _NS)
    if unit & 0x80:
        whole = ticks >> np.uint64(power) if power < 64 else np.zeros_like(ticks)
        part = ticks & np.uint64((1 << min(power, 64)) - 1)
        if power > 34:  # 2 ** 34 ticks times 10 ** 9 is what 64 bits hold
            part = part >> np.uint64(min(power - 34, 63))
        ns = np.minimum(whole, latest) * np.uint64(_NS) + (part * np.uint64(_NS) >> np.uint64(min(power, 34)))
    elif power <= 9:
        scale = 10 ** (9 - power)
        ns = np.minimum(ticks, np.uint64(LATEST // scale)) * np.uint64(scale)
    elif power <= 28:
        ns = ticks // np.uint64(10 ** (power - 9))
    else:  # all 64 bits are less than a nanosecond
        ns = np.zeros_like(ticks)
    return np.minimum(ns, np.uint64(LATEST)).astype(np.int64)


def recognise(window: Window) -> Pcap | PcapNg | None:
    """The reader for what is in the window; None while too little is there to tell.

    :class:`ConfigError` where it is no capture; its text continues a sentence that begins with the name of the file.
    """
    head = window.peek(24)
    if len(head) < 24 and not window.at_end:
        return None
    if head[:4] in PCAP_MAGIC and len(head) == 24:
        return Pcap(window)
    if head[:4] == _SECTION:
        return PcapNg(window)
    if not head:
        raise ConfigError(f"{window.source.error or 'is empty'}; {_ACCEPTED}")
    raise ConfigError(f"is {_KNOWN_OTHERS.get(head[:4], 'no capture file')}; {_ACCEPTED}")
