"""Address and prefix text (RFC 4291 §2.2, CIDR) as integers, a column at a time.

The usual spellings are read in lockstep by array operations on the octets of all rows; a row that these
do not take (IPv4 inside IPv6, spaces around, an error) goes through :mod:`ipaddress` alone.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64, U8, Array, Octets
from pyflowx.enrich.cells import Mask, words
from pyflowx.enrich.numbering import U64

_CHUNK = 1 << 15  # rows at a time: the scratch arrays stay in the cache
_DOT, _COLON, _SLASH, _ZERO = 46, 58, 47, 48
_LEAST = np.array([0, 0, 10, 100], np.uint32)  # the least number of so many digits
_GATHER = np.uint32(1 << 24 | 1 << 17 | 1 << 10)  # brings the lowest bits of octets 0, 1, 2 to bits 24, 25, 26
_BEHIND = np.array([0, 3, 2, 2, 1, 1, 1, 1])  # by these bits: octets behind the last one that is set
_MAPPED = np.uint64(0xFFFF)  # bits 80..95 of an IPv4-mapped address, above its 32 bits of IPv4


class Prefixes(NamedTuple):
    """n prefixes: 128-bit addresses as two u64, IPv4 as IPv4-mapped; ``length`` u8 counts 128 bits (96 + IPv4's).

    The first row where ``ok`` is not set holds no prefix; rows behind it may not have been tried. Bits
    behind the length are zero.
    """

    high: U64
    low: U64
    length: U8
    ok: Mask

    def part(self, index: slice | Mask) -> Prefixes:
        """Some rows; of a slice they are views."""
        return Prefixes(self.high[index], self.low[index], self.length[index], self.ok[index])

    @property
    def is_ipv4(self) -> Mask:
        return (self.length >= 96) & is_mapped(self.high, self.low)


def no_prefixes(n: int = 0) -> Prefixes:
    """n rows without a prefix."""
    return Prefixes(np.zeros(n, np.uint64), np.zeros(n, np.uint64), np.zeros(n, np.uint8), np.zeros(n, np.bool_))


def is_mapped(high: U64, low: U64) -> Mask:
    """Which addresses are IPv4-mapped (RFC 4291 §2.5.5.2)."""
    mapped: Mask = (high == 0) & (low >> np.uint64(32) == _MAPPED)
    return mapped


def halves(addresses: U8) -> tuple[U64, U64]:
    """``(n, 16)`` uint8 addresses as two u64."""
    pairs = np.ascontiguousarray(addresses).view(">u8").astype(np.uint64)
    return pairs[:, 0], pairs[:, 1]


def parse_prefixes(cells: Octets) -> Prefixes:
    """Cells (of a :class:`~pyflowx.enrich.cells.Csv`) as prefixes; an address alone is a prefix of all its bits."""
    n = len(cells)
    out = no_prefixes(n)
    for at in range(0, n, _CHUNK):
        chunk = cells.take(slice(at, at + _CHUNK))
        part = out.part(slice(at, at + _CHUNK))
        _parse_ipv4(chunk, part)
        rows = np.flatnonzero(~part.ok)
        if len(rows):
            _parse_ipv6(chunk, rows, part)
    for row in np.flatnonzero(~out.ok).tolist():
        if not _parse_one(cells, row, out):
            break
    high_mask, low_mask = _masks()
    out.high[...] &= high_mask[out.length]
    out.low[...] &= low_mask[out.length]
    return out


@functools.cache
def _masks() -> tuple[U64, U64]:
    """The two halves of the network mask for each length 0..128."""
    masks = [((1 << 128) - 1) ^ ((1 << (128 - length)) - 1) for length in range(129)]
    low = (1 << 64) - 1
    return np.array([mask >> 64 for mask in masks], np.uint64), np.array([mask & low for mask in masks], np.uint64)


def _parse_one(cells: Octets, row: int, out: Prefixes) -> bool:
    text = cells.take(slice(row, row + 1)).packed().tolist()[0]
    try:
        network = ipaddress.ip_network(text.decode().strip(), strict=False)
    except ValueError:
        return False
    value = int(network.network_address)
    length = network.prefixlen
    if network.version == 4:
        value, length = value | 0xFFFF << 32, length + 96
    out.high[row], out.low[row] = value >> 64, value & ((1 << 64) - 1)
    out.length[row], out.ok[row] = length, True
    return True


def _decimal(tail: Array, count: Array) -> tuple[Array, Mask]:
    """The last ``count`` (1..3) of the four octets in ``tail`` as a decimal number without leading zeros."""
    units, tens, hundreds = (((tail >> np.uint32(shift)) & np.uint32(255)) - np.uint32(_ZERO) for shift in (24, 16, 8))
    tens *= count > 1
    hundreds *= count > 2
    value = units + np.uint32(10) * tens + np.uint32(100) * hundreds
    ok = (units <= 9) & (tens <= 9) & (hundreds <= 9) & (count > 0) & (count <= 3)
    return value, ok & (value >= _LEAST[np.minimum(count, 3)])


def _digits_behind(tail: Array, mark: int) -> Array:
    """How many of the last three octets stand behind the last ``mark``; 0 where there is none before them."""
    marks = (tail.view(np.uint8) == mark).view("<u4")  # an octet of 0 or 1 for each octet
    found: Array = _BEHIND.take((marks * _GATHER) >> np.uint32(24) & np.uint32(7))
    return found


def _split_length(buffer: U8, ends: I64, widest: int) -> tuple[I64, Array, Mask]:
    """``/length`` at the end of cells: (where the address ends, length, ok); ``widest`` where there is none."""
    tail = words(buffer, 32)[ends - 4]
    digits = _digits_behind(tail, _SLASH)
    length, ok = _decimal(tail, digits)
    none = digits == 0
    length[none] = widest
    return np.where(none, ends, ends - digits - 1), length, (ok & (length <= widest)) | none


def _parse_ipv4(chunk: Octets, out: Prefixes) -> None:
    """Dotted decimal, from the end of each cell to its start."""
    at, length, ok = _split_length(chunk.buffer, chunk.starts + chunk.lengths, 32)
    tails = words(chunk.buffer, 32)
    address = np.full(len(chunk), _MAPPED << np.uint64(32), np.uint64)
    for shift in (0, 8, 16, 24):
        tail = tails[at - 4]
        digits = _digits_behind(tail, _DOT) if shift < 24 else at - chunk.starts
        if not shift and not digits.any():
            return  # IPv6, most probably
        value, good = _decimal(tail, digits)
        ok &= good & (value <= 255)
        address |= value.astype(np.uint64) << np.uint64(shift)
        at = at - digits - 1
    out.low[ok], out.length[ok], out.ok[ok] = address[ok], (length[ok] + 96).astype(np.uint8), True


@functools.cache
def _hex_pairs() -> npt.NDArray[np.int32]:
    """The value of each two octets that are hex digits (the first one in the low bits of the index), else -1."""
    digit = np.full(256, -1, np.int32)
    for value, text in enumerate("0123456789abcdef"):
        digit[[ord(text), ord(text.upper())]] = value
    pairs = (digit[None, :] + (digit[:, None] << 4)).T  # [second, first]
    pairs[(digit[None, :] < 0) | (digit[:, None] < 0)] = -1
    return np.ascontiguousarray(pairs.reshape(-1))


def _group(word: Array, size: Array) -> tuple[U64, Mask]:
    """The first ``size`` (1..4) octets of u32 words as a hex number."""
    blank = (4 - np.clip(size, 1, 4)).astype(np.uint32) * np.uint32(8)
    word = (word << blank) | (np.uint32(0x30303030) & ((np.uint32(1) << blank) - np.uint32(1)))
    pairs = _hex_pairs()
    upper, lower = pairs[word & np.uint32(0xFFFF)], pairs[word >> np.uint32(16)]
    return ((upper << 8) | lower).astype(np.uint64), (upper >= 0) & (lower >= 0) & (size >= 1) & (size <= 4)


def _colon_at(octets: Array, places: range) -> Array:
    """The first of five places (octets of u64 words) that is a colon, as 0..4; 5 where none is."""
    found = np.full(len(octets), 5, np.int64)
    for i in range(4, -1, -1):
        found[((octets >> np.uint64(8 * places[i])) & np.uint64(255)) == _COLON] = i
    return found


def _parse_ipv6(chunk: Octets, rows: I64, out: Prefixes) -> None:
    """Groups of hex digits: forward up to ``::`` or the end, then backward from the end down to ``::``."""
    buffer, starts = chunk.buffer, chunk.starts[rows]
    stops, length, ok = _split_length(buffer, starts + chunk.lengths[rows], 128)
    halves = np.zeros((2, len(rows)), np.uint64)
    leading = (buffer[starts] == _COLON) & (buffer[starts + 1] == _COLON) & (stops - starts >= 2)
    gap = np.where(leading, starts + 2, 0)  # where the groups behind `::` begin; 0: it has not been seen
    count = _forward(buffer, starts, stops, gap, halves, ok)
    _backward(buffer, stops, gap, halves, ok, count)
    ok &= count <= np.where(gap > 0, 7, 8)
    good = rows[ok]
    out.high[good], out.low[good], out.length[good], out.ok[good] = halves[0, ok], halves[1, ok], length[ok], True


def _forward(buffer: U8, starts: I64, stops: I64, gap: I64, halves: Array, ok: Mask) -> I64:
    """Fill ``halves`` and ``gap``; clear ``ok`` where there are no eight groups and no ``::``. Returns groups read."""
    count = np.zeros(len(starts), np.int64)
    at = starts.copy()
    active = np.flatnonzero(ok & (gap == 0))
    for i in range(8):
        here, stop = at[active], stops[active]
        word = words(buffer, 64)[here]
        size = np.minimum(_colon_at(word, range(5)), stop - here)
        value, good = _group(word.astype(np.uint32), size)
        halves[i // 4, active] |= value << np.uint64(48 - 16 * (i % 4))
        count[active] = i + 1
        behind = here + size
        done = behind == stop
        double = ~done & (buffer[behind + 1] == _COLON) & (behind + 1 < stop)
        gap[active[double]] = behind[double] + 2
        ok[active[~(good & ((done & (i == 7)) | double | (~done & (i < 7))))]] = False
        at[active] = behind + 1
        active = active[good & ~done & ~double]
        if not len(active):
            break
    return count


def _backward(buffer: U8, stops: I64, gap: I64, halves: Array, ok: Mask, count: I64) -> None:
    """Fill the groups behind ``::`` into ``halves``, add them to ``count``, clear ``ok`` where they are none."""
    at = stops.copy()
    active = np.flatnonzero(ok & (gap > 0) & (at > gap))
    for j in range(8):
        if not len(active):
            break
        here, floor = at[active], gap[active]
        word = words(buffer, 64)[here - 8]
        size = np.minimum(_colon_at(word, range(7, 2, -1)), here - floor)
        value, good = _group(
            (word >> np.uint64(32)).astype(np.uint32) >> ((4 - np.clip(size, 1, 4)) * 8).astype(np.uint32), size
        )
        halves[1 - j // 4, active] |= value << np.uint64(16 * (j % 4))
        count[active] += 1
        before = here - size
        more = before > floor
        good &= ~more | (before - 1 > floor)  # a group stands before this colon
        ok[active[~good]] = False
        at[active] = before - 1
        active = active[good & more]
