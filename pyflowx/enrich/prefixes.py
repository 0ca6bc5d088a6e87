"""Longest prefix match: address columns to the numbers of records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, Array
from pyflowx.enrich.addresses import halves, is_mapped
from pyflowx.enrich.intervals import Intervals32, Intervals128
from pyflowx.enrich.numbering import U64


class PrefixIndex:
    """The intervals of both families.

    In those of IPv6 a value below -1 is an alias: at ``-2 - value`` bits stands an IPv4 address, and
    its record counts (6to4 and the like in MMDB files).
    """

    def __init__(self, ipv4: Intervals32, ipv6: Intervals128) -> None:
        self._ipv4, self._ipv6 = ipv4, ipv6

    def find(self, columns: Sequence[Array]) -> I32:
        """Record numbers, -1 for none, of one column: uint32 IPv4 addresses, or ``(n, 16)`` uint8 (mapped: IPv4)."""
        (addresses,) = columns
        if addresses.ndim == 1:
            return self._ipv4.find(addresses)
        high, low = halves(addresses)
        mapped = is_mapped(high, low)
        found = np.empty(len(high), np.int32)
        found[mapped] = self._ipv4.find(low[mapped].astype(np.uint32))
        six = ~mapped
        found[six] = self._find_ipv6(high[six], low[six])
        return found

    def _find_ipv6(self, high: U64, low: U64) -> I32:
        found = self._ipv6.find(high, low)
        for value in np.unique(found[found < -1]).tolist():
            rows = np.flatnonzero(found == value)
            found[rows] = self._ipv4.find(_embedded(high[rows], low[rows], -2 - value))
        return found


def _embedded(high: U64, low: U64, bits: int) -> npt.NDArray[np.uint32]:
    """The 32 bits behind the first ``bits`` (0..96) of addresses."""
    shift = 96 - bits
    if shift >= 64:
        word = high >> np.uint64(shift - 64)
    elif shift:
        word = (low >> np.uint64(shift)) | (high << np.uint64(64 - shift))
    else:
        word = low
    return word.astype(np.uint32)
