"""Thrift's compact protocol: just what the metadata of Parquet need.

A value is a pair of its type and its octets; the functions below make them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_TRUE, _FALSE, _BYTE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 3, 5, 6, 8, 9, 12

Value = tuple[int, bytes]


def varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def i8(value: int) -> Value:
    return _BYTE, bytes([value])


def i32(value: int) -> Value:
    return _I32, _zigzag(value)


def i64(value: int) -> Value:
    return _I64, _zigzag(value)


def binary(octets: bytes | str) -> Value:
    octets = octets.encode() if isinstance(octets, str) else octets
    return _BINARY, varint(len(octets)) + octets


def boolean(value: bool) -> Value:
    """As a field of a struct, where the type is the value."""
    return (_TRUE if value else _FALSE), b""


def items(values: Iterable[Value]) -> Value:
    """A list, all of one type; an empty one is of structs."""
    found = list(values)
    count, kind = len(found), found[0][0] if found else _STRUCT
    head = bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + varint(count)
    return _LIST, head + b"".join(octets for _, octets in found)


def struct(fields: Mapping[int, Value | None]) -> Value:
    """Field numbers, ascending and at most 15 apart, to values; None is left out."""
    parts: list[bytes] = []
    before = 0
    for number, value in fields.items():
        if value is not None:
            parts += (bytes([number - before << 4 | value[0]]), value[1])
            before = number
    return _STRUCT, b"".join(parts) + b"\0"
