"""MaxMind DB files (format 2.0): the search tree as intervals.

The tree is walked once, when the file is loaded, all nodes of a depth at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64
from pyflowx.enrich.intervals import Intervals32, Intervals128, Starts, merge
from pyflowx.enrich.numbering import Numbers, ordered
from pyflowx.enrich.prefixes import PrefixIndex
from pyflowx.errors import ConfigError

_MARKER = b"\xab\xcd\xefMaxMind.com"
_METADATA_WITHIN = 128 * 1024  # octets from the end of the file
_SEPARATOR = 16  # zero octets between the tree and the data section
_EMPTY = -1


class Tree(NamedTuple):
    """The search tree: ``children`` is ``(nodes, 2)``; a child from ``nodes`` on is a leaf (equal: no record)."""

    children: npt.NDArray[np.uint32]
    bits: int  # of the addresses it holds: 32 or 128

    @property
    def nodes(self) -> int:
        return len(self.children)


class Mmdb:
    """A file in memory; :class:`ConfigError` where it is none."""

    def __init__(self, data: bytes, name: str) -> None:
        from maxminddb.decoder import Decoder  # takes a while, and few need it
        from maxminddb.errors import InvalidDatabaseError

        self.name = name
        start = data.rfind(_MARKER, max(0, len(data) - _METADATA_WITHIN)) + len(_MARKER)
        if start < len(_MARKER):
            raise self.error("no MaxMind DB metadata in it; expected an .mmdb file (format=csv reads text)")
        try:
            metadata: Any = Decoder(data, start).decode(start)[0]
            nodes, size, version = (int(metadata[key]) for key in ("node_count", "record_size", "ip_version"))
        except (InvalidDatabaseError, LookupError, TypeError, ValueError) as error:
            raise self.error(f"its metadata cannot be read ({error})") from error
        self._leaf_base = tree_size = nodes * size // 4  # a leaf says how far behind this its record is
        if size not in (24, 28, 32) or version not in (4, 6) or nodes < 0:
            raise self.error(f"record size {size}, IP version {version}; expected 24, 28 or 32, and 4 or 6")
        if tree_size + _SEPARATOR > start - len(_MARKER):
            raise self.error("it ends inside its search tree; fetch it again")
        self.tree = Tree(_children(np.frombuffer(data, np.uint8, tree_size), size), 32 if version == 4 else 128)
        self.data, self.data_end = data, start - len(_MARKER)

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.name}: {message}")

    @property
    def pointer_base(self) -> int:
        """Where the data section begins, from which its pointers count."""
        return self._leaf_base + _SEPARATOR

    def index(self) -> tuple[PrefixIndex, I64]:
        """The index of both families, and for each record number the offset of the record in the file."""
        ipv4_root, alias = 0, None
        if self.tree.bits == 128:
            for _ in range(96):
                if ipv4_root < self.tree.nodes:
                    ipv4_root = int(self.tree.children[ipv4_root, 0])
            alias = ipv4_root
            six, found6 = self._leaves(0, 128, alias)
        else:
            six, found6 = Starts(np.zeros(1, np.uint64), None), np.full(1, _EMPTY, np.int64)
        four, found4 = self._leaves(ipv4_root, 32, None)
        both = np.concatenate([found4, found6])
        records = both >= 0
        numbers = both.astype(np.int32)  # -1 and aliases stay
        offsets = both[records]
        numbers[records], rows = Numbers().add(offsets.astype(np.uint64))
        ipv4 = Intervals32(four.high.astype(np.uint32), numbers[: len(found4)])
        return PrefixIndex(ipv4, Intervals128(six, numbers[len(found4) :])), offsets[rows]

    def _leaves(self, root: int, bits: int, alias: int | None) -> tuple[Starts, I64]:
        """The leaves below a node as intervals: offsets of records in the file, -1, or an alias (``-2 - depth``)."""
        children, count = self.tree.children, self.tree.nodes
        nodes, places = np.full(1, root, np.int64), Starts(np.zeros(1, np.uint64), np.zeros(1, np.uint64))
        found: list[tuple[Starts, I64]] = []
        seen = 0
        for depth in range(bits + 1):
            values = nodes - count + self._leaf_base
            values[nodes == count] = _EMPTY
            ends = nodes >= count
            if alias is not None and alias < count:
                values[nodes == alias] = -2 - depth
                ends |= (nodes == alias) & (depth <= 96)
            found.append((places.take(ends), values[ends]))
            nodes, places = nodes[~ends], places.take(~ends)
            seen += len(nodes)
            if not len(nodes):
                break
            if depth == bits or seen > 4 * count:  # a tree has each node once; some writers share subtrees
                raise self.error("its search tree has loops; fetch it again")
            nodes = children[nodes].astype(np.int64).reshape(-1)
            places = _halved(places, (128 if bits == 128 else 96) - depth - 1)  # IPv4: in the low half of `high`
        return self._in_order(found)

    def _in_order(self, found: Sequence[tuple[Starts, I64]]) -> tuple[Starts, I64]:
        high = np.concatenate([starts.high for starts, _ in found])
        low = np.concatenate([starts.low for starts, _ in found if starts.low is not None])
        values = np.concatenate([part for _, part in found])
        if len(values) and int(values.max()) >= self.data_end:
            raise self.error("its search tree points behind its data; fetch it again")
        starts = Starts(high, low if low.any() else None)
        order = ordered(*starts.columns)
        return merge(starts.take(order), values[order])


def _children(tree: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint32]:
    if size == 32:
        return tree.view(">u4").astype(np.uint32).reshape(-1, 2)
    octets = tree.reshape(-1, size // 4)
    pair = np.zeros((len(octets), 2), np.uint32)
    for side, first in ((0, 0), (1, 3 if size == 24 else 4)):
        for place in range(3):
            pair[:, side] |= octets[:, first + place].astype(np.uint32) << np.uint32(16 - 8 * place)
    if size == 28:  # the fourth octet holds the upper four bits of both
        pair[:, 0] |= (octets[:, 3] & np.uint8(0xF0)).astype(np.uint32) << np.uint32(20)
        pair[:, 1] |= (octets[:, 3] & np.uint8(0x0F)).astype(np.uint32) << np.uint32(24)
    return pair


def _halved(places: Starts, bit: int) -> Starts:
    """Each place twice, the second time with a bit set (counted from the low end of the address)."""
    assert places.low is not None
    high, low = places.high.repeat(2), places.low.repeat(2)
    if bit >= 64:
        high[1::2] |= np.uint64(1 << (bit - 64))
    else:
        low[1::2] |= np.uint64(1 << bit)
    return Starts(high, low)
