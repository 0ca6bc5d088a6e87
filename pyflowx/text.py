"""Columns as text, in bulk, as RFC 7373 says: for raw output and the screen.

Every function takes a column of n and gives :class:`~pyflowx.batch.Octets` of n UTF-8 texts. No function
runs Python for each row but those for strings (memoised), unsigned256 and IPv6 (once for each distinct value).
"""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
from collections.abc import Callable

import numpy as np

from pyflowx.batch import I64, U8, Array, Column, Octets
from pyflowx.elements import DataType, to_nanoseconds

_NS = 1_000_000_000
_DAY_NS = 86_400 * _NS
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
# Digits of the fraction of a second
_FRACTION = {
    "dateTimeSeconds": 0,
    "dateTimeMilliseconds": 3,
    "dateTimeMicroseconds": 6,
    "dateTimeNanoseconds": 9,
}
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)


@functools.cache
def _digits(width: int) -> U8:
    """``(10 ** width, width)``: the numbers with leading zeros."""
    return np.frombuffer(b"".join(b"%0*d" % (width, i) for i in range(10**width)), np.uint8).reshape(-1, width)


@functools.cache
def _dotted() -> U8:
    """``(256, 4)``: the octets in decimal with a dot behind, padded with NUL."""
    return np.array([b"%d." % i for i in range(256)], "S4").view(np.uint8).reshape(256, 4)


def _packed(matrix: U8) -> Octets:
    """Rows of characters without their NULs."""
    keep = matrix != 0
    lengths = keep.sum(axis=1, dtype=np.int64)
    return Octets(matrix[keep], np.cumsum(lengths) - lengths, lengths)


def _whole(matrix: U8) -> Octets:
    """Rows of characters that are all full."""
    n, width = matrix.shape
    return Octets(np.ascontiguousarray(matrix).reshape(-1), np.arange(n) * width, np.full(n, width, np.int64))


def _shared(texts: list[bytes], codes: Array) -> Octets:
    """Row i is ``texts[codes[i]]``; no text is copied."""
    return Octets.of(texts).take(codes)


def _choose(mask: Array, yes: Octets, no: Octets) -> Octets:
    """Row i of one or the other."""
    buffer = np.concatenate([yes.buffer, no.buffer])
    starts = np.where(mask, yes.starts, no.starts + len(yes.buffer))
    return Octets(buffer, starts, np.where(mask, yes.lengths, no.lengths))


def numbers(column: Array) -> Octets:
    """Integers; floats as the shortest text that reads back to the same value, ``NaN``, ``inf`` or ``-inf``."""
    width = 32 if column.dtype.kind == "f" else 21
    text = _packed(column.astype(f"S{width}").view(np.uint8).reshape(len(column), width))
    if column.dtype.kind == "f" and np.isnan(column).any():
        return _choose(np.isnan(column), _shared([b"NaN"], np.zeros(len(column), np.int64)), text)
    return text


def booleans(column: Array) -> Octets:
    """1 is true, 2 is false (RFC 7011 §6.1.5); anything else stays the number it is."""
    texts = [b"%d" % i for i in range(256)]
    texts[1:3] = [b"true", b"false"]
    return _shared(texts, column.astype(np.uint8))


def ipv4(column: Array) -> Octets:
    octets = column.astype(">u4").view(np.uint8).reshape(-1, 4)
    matrix = _dotted()[octets].reshape(-1, 16)
    text = _packed(matrix)
    return Octets(text.buffer, text.starts, text.lengths - 1)  # without the last dot


def ipv6_text(octets: bytes) -> bytes:
    """RFC 5952; an IPv4-mapped address with its IPv4 address in decimal (§5)."""
    address = ipaddress.IPv6Address(octets)
    return (f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)).encode()


def ipv6(column: U8) -> Octets:
    rows = np.ascontiguousarray(column).view("V16")[:, 0]
    distinct, codes = np.unique(rows, return_inverse=True)
    return _shared([ipv6_text(row.tobytes()) for row in distinct], codes)


def mac(column: Array) -> Octets:
    """``00:1a:2b:3c:4d:5e``."""
    matrix = np.full((len(column), 6, 3), ord(":"), np.uint8)
    matrix[:, :, :2] = _HEX[column.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 2:]]
    return _whole(matrix.reshape(-1, 18)[:, :17])


def _dates(days: I64) -> U8:
    """Days since 1970 as ``(n, 10)`` characters."""
    distinct, codes = np.unique(days, return_inverse=True)
    texts = [dt.date.fromordinal(_EPOCH_DAY + day).isoformat().encode() for day in distinct.tolist()]
    return np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), 10)[codes]


def iso_times(ns: I64, fraction: int = 9) -> Octets:
    """ns since 1970 in UTC, ``fraction`` (0, 3, 6, 9) digits behind the point: ``2026-11-05T18:31:01.135``."""
    n = len(ns)
    days = ns // _DAY_NS
    seconds = (ns - days * _DAY_NS) // _NS
    matrix = np.empty((n, 20 + fraction), np.uint8)
    matrix[:, [10, 13, 16, 19]] = np.frombuffer(b"T::.", np.uint8)
    matrix[:, :10] = _dates(days)
    for at, value in ((11, seconds // 3600), (14, seconds // 60 % 60), (17, seconds % 60)):
        matrix[:, at : at + 2] = _digits(2)[value]
    for group in range(fraction // 3):
        matrix[:, 20 + 3 * group : 23 + 3 * group] = _digits(3)[ns // 10 ** (6 - 3 * group) % 1000]
    return _whole(matrix if fraction else matrix[:, :19])


def times(data_type: DataType, column: Array) -> tuple[Octets, Array]:
    """A dateTime column, and which rows are times; the others (NTP's 0, beyond 2262) are the number that was sent."""
    ns, valid = to_nanoseconds(data_type.name, column)
    text = iso_times(np.where(valid, ns, 0), _FRACTION[data_type.name])
    return (text if valid.all() else _choose(valid, text, numbers(column))), valid


def hexadecimal(column: Octets) -> Octets:
    packed = column.packed()
    return Octets(_HEX[packed.buffer].reshape(-1), packed.starts * 2, packed.lengths * 2)


def unsigned256(column: Octets) -> Octets:
    return Octets.of([b"%d" % int.from_bytes(row, "big") for row in column.packed().tolist()])


def decode_string(octets: bytes) -> str:
    """UTF-8 without the NULs that pad it; octets that are no UTF-8 as ``\\xff``."""
    return octets.rstrip(b"\0").decode("utf-8", "backslashreplace")


def display_string(text: str) -> str:
    """What would move a terminal's cursor or hide (controls, bidirectional marks) as ``\\x1b`` or ``\\u202e``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def strings(column: Octets, show: Callable[[str], str] = display_string) -> Octets:
    """Strings, each made fit for its place by ``show``."""
    known: dict[bytes, bytes] = {}
    texts = []
    for row in column.packed().tolist():
        text = known.get(row)
        if text is None:
            text = known[row] = show(decode_string(row)).encode()
        texts.append(text)
    return Octets.of(texts)


def render(data_type: DataType, column: Column) -> Octets:
    """A column of :class:`~pyflowx.batch.FlowBatch` for a reader's eyes; hex for octets whose type does not say more.

    Structured data is shown by who knows its parts; here it is ``[...]``.
    """
    if isinstance(column, Octets):
        if data_type.name == "string":
            return strings(column)
        return unsigned256(column) if data_type.name == "unsigned256" else hexadecimal(column)
    if data_type.is_time:
        return times(data_type, column)[0]
    if data_type.is_list:
        return _shared([b"[...]"], np.zeros(len(column), np.int64))
    by_name: dict[str, Callable[[Array], Octets]] = {
        "boolean": booleans,
        "ipv4Address": ipv4,
        "ipv6Address": ipv6,
        "macAddress": mac,
    }
    return by_name.get(data_type.name, numbers)(column)
