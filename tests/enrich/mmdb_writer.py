"""A small writer of MaxMind DB files (format 2.0), for tests and benchmarks."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Any

MARKER = b"\xab\xcd\xefMaxMind.com"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _control(kind: int, size: int) -> bytes:
    """The octets in front of a value: its type and size."""
    if size < 29:
        low, more = size, b""
    elif size < 285:
        low, more = 29, bytes([size - 29])
    elif size < 65821:
        low, more = 30, struct.pack(">H", size - 285)
    else:
        low, more = 31, (size - 65821).to_bytes(3, "big")
    return (bytes([kind << 5 | low]) if kind <= 7 else bytes([low, kind - 7])) + more


def _integer(kind: int, value: int) -> bytes:
    octets = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return _control(kind, len(octets)) + octets


class Data:
    """The data section. Equal texts, and equal maps in records, are stored once, as in MaxMind's own files."""

    def __init__(self, pointers: bool = True) -> None:
        self.octets = bytearray()
        self._pointers = pointers
        self._stored: dict[bytes, int] = {}

    def add(self, value: Any) -> int:
        """The offset of a value in the section."""
        encoded = self._encode(value)
        self.octets += encoded
        return len(self.octets) - len(encoded)

    def _shared(self, encoded: bytes) -> bytes:
        """A pointer to a value that is stored once, of each of the four widths where it fits."""
        if not self._pointers:
            return encoded
        if encoded not in self._stored:
            self._stored[encoded] = len(self.octets)
            self.octets += encoded
        target = self._stored[encoded]
        for width, base in ((1, 0), (2, 2048), (3, 526336)):
            if base <= target < base + (1 << 3 + 8 * width):
                rest = target - base
                return bytes([1 << 5 | width - 1 << 3 | rest >> 8 * width]) + (rest & (1 << 8 * width) - 1).to_bytes(
                    width, "big"
                )
        return bytes([1 << 5 | 3 << 3]) + target.to_bytes(4, "big")

    def _encode(self, value: Any, depth: int = 0) -> bytes:
        if isinstance(value, str):
            return self._shared(_control(2, len(value.encode())) + value.encode())
        if isinstance(value, bool):
            return _control(14, int(value))
        if isinstance(value, int):
            if value < 0:
                return _control(8, 4) + struct.pack(">i", value)
            return _integer(6 if value < 1 << 32 else 9 if value < 1 << 64 else 10, value)
        if isinstance(value, float):
            return _control(3, 8) + struct.pack(">d", value)
        if isinstance(value, bytes):
            return _control(4, len(value)) + value
        if isinstance(value, list):
            return _control(11, len(value)) + b"".join(self._encode(item, depth + 1) for item in value)
        pairs = (self._encode(name) + self._encode(item, depth + 1) for name, item in value.items())
        encoded = _control(7, len(value)) + b"".join(pairs)
        return self._shared(encoded) if depth else encoded


class Writer:
    """Networks with their records; a later network replaces what it covers."""

    def __init__(self, ip_version: int = 6, record_size: int = 24) -> None:
        self._version, self._size = ip_version, record_size
        self._nodes: list[list[Any]] = [[None, None]]  # None: empty, int: node, bytes: a record
        self._records: dict[bytes, int] = {}
        self._data = Data()

    def insert(self, network: Network, record: Any) -> None:
        """The record of a network; equal records (``repr``) are stored once."""
        name = repr(record).encode()
        if name not in self._records:
            self._records[name] = self._data.add(record)
        self._set(*self._path(network), name)

    def alias(self, network: Network, target: Network) -> None:
        """Let a network lead to the tree below another one."""
        value, length = self._path(target)
        node = 0
        for i in range(length):
            side = value >> (self._bits - 1 - i) & 1
            if not isinstance(self._nodes[node][side], int):
                self._nodes[node][side] = self._split(self._nodes[node][side])
            node = self._nodes[node][side]
        self._set(*self._path(network), node)

    @property
    def _bits(self) -> int:
        return 128 if self._version == 6 else 32

    def _path(self, network: Network) -> tuple[int, int]:
        value, length = int(network.network_address), network.prefixlen
        return value, length + (96 if network.version == 4 and self._version == 6 else 0)

    def _split(self, child: Any) -> int:
        self._nodes.append([child, child])
        return len(self._nodes) - 1

    def _set(self, value: int, length: int, leaf: Any) -> None:
        node = 0
        for i in range(length - 1):
            side = value >> (self._bits - 1 - i) & 1
            if not isinstance(self._nodes[node][side], int):
                self._nodes[node][side] = self._split(self._nodes[node][side])
            node = self._nodes[node][side]
        if length:
            self._nodes[node][value >> (self._bits - length) & 1] = leaf
        else:
            self._nodes[0] = [leaf, leaf]

    def _number(self, child: Any) -> int:
        if child is None:
            return len(self._nodes)
        return child if isinstance(child, int) else len(self._nodes) + 16 + self._records[child]

    def _node(self, left: int, right: int) -> bytes:
        if self._size == 28:
            middle = (left >> 24) << 4 | right >> 24
            return (left & 0xFFFFFF).to_bytes(3, "big") + bytes([middle]) + (right & 0xFFFFFF).to_bytes(3, "big")
        width = self._size // 8
        return left.to_bytes(width, "big") + right.to_bytes(width, "big")

    def octets(self) -> bytes:
        """The file."""
        tree = b"".join(self._node(self._number(left), self._number(right)) for left, right in self._nodes)
        metadata = Data(pointers=False)
        metadata.add(
            {
                "binary_format_major_version": 2,
                "binary_format_minor_version": 0,
                "build_epoch": 1_700_000_000,
                "database_type": "Test",
                "description": {"en": "made for a test"},
                "ip_version": self._version,
                "languages": ["en"],
                "node_count": len(self._nodes),
                "record_size": self._size,
            }
        )
        return tree + bytes(16) + bytes(self._data.octets) + MARKER + bytes(metadata.octets)


def write(
    networks: Iterable[tuple[str, Any]], ip_version: int = 6, record_size: int = 24, aliases: bool = False
) -> bytes:
    """A file with these networks, the widest first, so that the longest prefix counts."""
    writer = Writer(ip_version, record_size)
    parsed = [(ipaddress.ip_network(network), record) for network, record in networks]
    parsed.sort(key=lambda pair: pair[0].prefixlen + (96 if pair[0].version == 4 else 0))
    for network, record in parsed:
        writer.insert(network, record)
    if aliases:
        for network in ("::ffff:0:0/96", "2002::/16", "2001::/32"):
            writer.alias(ipaddress.ip_network(network), ipaddress.ip_network("0.0.0.0/0"))
    return writer.octets()
