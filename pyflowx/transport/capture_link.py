"""From captured frames to UDP datagrams: link layer, IPv4, IPv6, UDP as columns over all frames of a window.

Nothing here looks at one packet at a time. A field counts only if it lies before the end of its packet; reading past
that end is harmless, because the data goes on behind it (:data:`~pyflowx.transport.capture_source.SLACK`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64, U8, V4_MAPPED, Array
from pyflowx.transport.capture_blocks import Records, gather

Mask = npt.NDArray[np.bool_]

RAW_IP = 101
# Link type (LINKTYPE_ of tcpdump.org): octets of its header, offset of the EtherType in it (None: the version tells).
LINKS: dict[int, tuple[int, int | None]] = {
    0: (4, None),  # NULL: address family in the byte order of the host that captured
    1: (14, 12),  # Ethernet
    12: (0, None),  # raw IP of some systems
    14: (0, None),  # raw IP of OpenBSD
    RAW_IP: (0, None),
    108: (4, None),  # LOOP of OpenBSD
    113: (16, 14),  # Linux cooked
    228: (0, None),  # IPv4
    229: (0, None),  # IPv6
    276: (20, 0),  # Linux cooked v2
}
LINK_NAMES = "Ethernet, Linux cooked v1 and v2, raw IP, loopback"
_TAGS = 4  # VLAN tags that are looked through
_EXTENSIONS = 16  # IPv6 extension headers that are looked through
_AH, _FRAGMENT, _UDP = 51, 44, 17
_IS_EXTENSION = np.zeros(256, bool)
_IS_EXTENSION[[0, 43, _FRAGMENT, _AH, 60, 135, 139, 140]] = True


@dataclass(slots=True)
class Packets:
    """IP packets, one entry each: what is needed to find a datagram or to put its fragments together."""

    row: I64  # in the Records
    version: U8  # 4 or 6
    header: I64  # where the IP header begins
    payload: I64  # where that begins which is behind the IP header(s)
    end: I64  # of the packet as its header says it
    held: I64  # of the packet as far as the capture holds it; never behind end
    protocol: U8
    fragment: Array  # uint16: the offset in octets and, in bit 0, More Fragments; 0 for a whole packet
    identification: Array  # uint32, of fragments

    def take(self, index: Mask | I64) -> Packets:
        return Packets(*(getattr(self, name)[index] for name in self.__slots__))


class Udp(NamedTuple):
    """UDP datagrams, one entry each."""

    row: I64
    start: I64  # of the payload
    length: I64  # of the payload, as far as the capture holds it
    address: U8  # (n, 16): the source
    port: Array  # the source's
    destination: Array  # port
    truncated: Mask


def take(udp: Udp, index: Mask | I64) -> Udp:
    return Udp._make(column[index] for column in udp)


def merge(one: Udp, other: Udp) -> Udp:
    """Both, in the order of their rows."""
    both = Udp._make(np.concatenate([a, b]) for a, b in zip(tuple[Array, ...](one), other, strict=True))
    return take(both, np.argsort(both.row, kind="stable"))


class Layers(NamedTuple):
    """What the frames of a window hold: packets of IP, and how many frames hold something else."""

    packets: Packets
    unknown_link: int
    not_ip: int
    malformed: int


def be16(data: U8, at: I64) -> I64:
    """The 16-bit numbers at these offsets, which need not be aligned."""
    words: Array = np.ndarray((len(data) - 1,), ">u2", data, strides=(1,))
    return words[at].astype(np.int64)


def find_packets(data: U8, records: Records) -> Layers:
    """The IP packets of these frames."""
    links = records.link
    kinds = links[:1].tolist() if (links == links[:1]).all() else np.unique(links).tolist()
    parts = []
    known = frames = malformed = 0
    for kind in kinds:
        if kind not in LINKS:
            continue
        rows = np.flatnonzero(links == kind)
        known += len(rows)
        start, end = records.start[rows], records.end[rows]
        network, version = _network_layer(data, start, end, *LINKS[kind])
        for number, parse in ((4, _ipv4), (6, _ipv6)):
            which = np.flatnonzero(version == number)
            if len(which):
                frames += len(which)
                parts.append(parse(data, rows[which], network[which], end[which]))
                malformed += len(which) - len(parts[-1].row)
    return Layers(_join(parts), len(links) - known, known - frames, malformed)


def _join(parts: list[Packets]) -> Packets:
    if not parts:
        parts = [_ipv4(np.zeros(20, np.uint8), *(np.zeros(0, np.int64) for _ in range(3)))]
    if len(parts) == 1:
        return parts[0]
    joined = Packets(*(np.concatenate([getattr(part, name) for part in parts]) for name in Packets.__slots__))
    return joined.take(np.argsort(joined.row, kind="stable"))


def _network_layer(data: U8, start: I64, end: I64, size: int, type_offset: int | None) -> tuple[I64, Array]:
    """Where the IP header begins, and the version of IP (0: something else)."""
    network = start + size
    whole = network < end
    version = data[network] >> 4  # its first nibble must agree with the EtherType
    if type_offset is None:
        return network, np.where(whole, version, 0)
    ether_type = be16(data, start + type_offset)
    for _ in range(_TAGS):
        tagged = np.flatnonzero(whole & np.isin(ether_type, (0x8100, 0x88A8, 0x9100)))
        if not len(tagged):
            break
        ether_type[tagged] = be16(data, network[tagged] + 2)
        network[tagged] += 4
        whole[tagged] = network[tagged] < end[tagged]
        version[tagged] = data[network[tagged]] >> 4
    expected = np.where(ether_type == 0x0800, 4, np.where(ether_type == 0x86DD, 6, 0))
    return network, np.where(whole & (version == expected), version, 0)


def _ipv4(data: U8, row: I64, network: I64, end: I64) -> Packets:
    """RFC 791 §3.1; packets whose header does not hold together are left out."""
    header = gather(data, network, 20)
    words = header.view(">u2")
    total = words[:, 1].astype(np.int64)
    total = np.where(total == 0, end - network, total)  # the sender's network card was to cut it into segments
    payload = network + (header[:, 0] & 15).astype(np.int64) * 4
    packets = Packets(
        row=row,
        version=np.full(len(row), 4, np.uint8),
        header=network,
        payload=payload,
        end=network + total,
        held=np.minimum(network + total, end),
        protocol=header[:, 9],
        fragment=_ipv4_fragment(words[:, 3].astype(np.uint16)),
        identification=words[:, 2].astype(np.uint32),
    )
    good = (payload >= network + 20) & (payload <= packets.held)
    return packets if good.all() else packets.take(good)


def _ipv4_fragment(flags_and_offset: Array) -> Array:
    return (flags_and_offset & 0x1FFF) << 3 | (flags_and_offset >> 13 & 1)


def _ipv6(data: U8, row: I64, network: I64, end: I64) -> Packets:
    """RFC 8200 §3; packets whose headers do not hold together are left out."""
    header = gather(data, network, 40)
    length = header.view(">u2")[:, 2].astype(np.int64)
    last = np.where(length == 0, end, network + 40 + length)
    packets = Packets(
        row=row,
        version=np.full(len(row), 6, np.uint8),
        header=network,
        payload=network + 40,
        end=last,
        held=np.minimum(last, end),
        protocol=header[:, 6].copy(),
        fragment=np.zeros(len(row), np.uint16),
        identification=np.zeros(len(row), np.uint32),
    )
    good = packets.payload <= packets.held
    _skip_extensions(data, packets, good)
    return packets if good.all() else packets.take(good)


def _skip_extensions(data: U8, packets: Packets, good: Mask) -> None:
    """Move ``payload`` and ``protocol`` past the extension headers (RFC 8200 §4), up to a fragment of a packet."""
    active = np.flatnonzero(good & _IS_EXTENSION[packets.protocol])
    for _ in range(_EXTENSIONS):
        if not len(active):
            return
        at, protocol = packets.payload[active], packets.protocol[active]
        readable = at + 8 <= packets.held[active]
        good[active[~readable]] = False
        active, at, protocol = active[readable], at[readable], protocol[readable]
        header = gather(data, at, 8)
        units = header[:, 1].astype(np.int64)
        length = np.where(protocol == _AH, (units + 2) * 4, np.where(protocol == _FRAGMENT, 8, (units + 1) * 8))
        packets.payload[active] = at + length
        packets.protocol[active] = header[:, 0]
        fragment = header.view(">u2")[:, 1].astype(np.uint16) & 0xFFF9  # all clear: a packet in one fragment (RFC 6946)
        fragment[protocol != _FRAGMENT] = 0
        packets.fragment[active] = fragment
        packets.identification[active] = header.view(">u4")[:, 1]
        active = active[_IS_EXTENSION[header[:, 0]] & (fragment == 0)]
    good[active] = False


def find_udp(data: U8, packets: Packets) -> tuple[Udp, int, int]:
    """The datagrams of whole packets (RFC 768); how many packets hold none, and how many a malformed one."""
    is_udp = (packets.protocol == _UDP) & (packets.fragment == 0)
    not_udp = len(is_udp) - int(is_udp.sum())
    if not_udp:
        packets = packets.take(is_udp)
    good = packets.payload + 8 <= packets.held
    words = gather(data, packets.payload, 8).view(">u2").astype(np.int64)
    last = packets.payload + words[:, 2]
    good &= (words[:, 2] >= 8) & (last <= packets.end)
    malformed = len(good) - int(good.sum())
    if malformed:
        packets, words, last = packets.take(good), words[good], last[good]
    held = np.minimum(last, packets.held)
    start = packets.payload + 8
    udp = Udp(
        row=packets.row,
        start=start,
        length=held - start,
        address=np.ascontiguousarray(addresses(data, packets)[:, :16]),
        port=words[:, 0].astype(np.uint16),
        destination=words[:, 1],
        truncated=held < last,
    )
    return udp, not_udp, malformed


def may_hold_udp(fragments: Packets) -> Mask:
    """Whether a fragment may be one of UDP: behind IPv6 extension headers only its first one tells."""
    ours: Mask = fragments.protocol == _UDP
    ours |= (fragments.version == 6) & _IS_EXTENSION[fragments.protocol]
    return ours


def addresses(data: U8, packets: Packets) -> U8:
    """``(n, 32)``: source and destination, 16 octets each, IPv4 as IPv4-mapped."""
    out = np.empty((len(packets.row), 32), np.uint8)
    is_four = packets.version == 4
    for number, offset, size in ((4, 12, 4), (6, 8, 16)):
        which = is_four if number == 4 else ~is_four
        if which.any():
            found = gather(data, packets.header[which] + offset, 2 * size)
            both = np.empty((len(found), 32), np.uint8)
            both[:, :12] = both[:, 16:28] = np.frombuffer(V4_MAPPED, np.uint8)
            both[:, 16 - size : 16], both[:, 32 - size :] = found[:, :size], found[:, size:]
            out[which] = both
    return out
