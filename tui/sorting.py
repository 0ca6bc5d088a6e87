"""Order of rows, fast enough for a hundred thousand of them twice a second.

NumPy sorts 16-bit integers by radix in linear time; wider ones take a pass for each 16 bits here, which is three
times as fast as its comparing sort, and as stable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .columns import Labels
from .table import Order, Values, take

Array = npt.NDArray[Any]


def _bits(values: Array) -> Array:
    """Unsigned integers in the order of the values."""
    if values.dtype.kind not in "uif":
        return np.unique(values, return_inverse=True)[1].astype(np.uint32)  # bool, text
    if values.dtype.kind == "u":
        return values
    unsigned: Any = np.dtype(f"u{values.dtype.itemsize}").type
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # there is one zero only
    bits, top = values.view(unsigned), unsigned(1 << (8 * values.dtype.itemsize - 1))
    return np.asarray(np.where(bits & top, ~bits, bits | top) if values.dtype.kind == "f" else bits ^ top)


def argsort(values: Array, descending: bool = False) -> Order:
    """Places in the order of the values; those that are equal stay as they were, in both directions."""
    bits = np.ascontiguousarray(_bits(np.ascontiguousarray(values)))
    if descending:
        bits = ~bits
    if bits.dtype.itemsize <= 2:
        return np.argsort(bits, kind="stable")
    order: Order | None = None
    digits = bits.astype(bits.dtype.newbyteorder("<"), copy=False).view("<u2").reshape(len(bits), bits.itemsize // 2)
    for digit in digits.T:
        part = np.ascontiguousarray(digit, np.uint16)
        if len(part) == 0 or part.min() == part.max():
            continue
        order = np.argsort(part, kind="stable") if order is None else order[np.argsort(part[order], kind="stable")]
    return np.arange(len(bits)) if order is None else order


def distinct(values: Array) -> tuple[Array, Order, Order]:
    """(distinct values in order, the first place of each, for each value which it is); as ``np.unique``."""
    order = argsort(values)
    ordered = values[order]
    new = np.concatenate([np.ones(min(1, len(values)), bool), ordered[1:] != ordered[:-1]])
    codes = np.empty(len(values), np.int64)
    codes[order] = np.cumsum(new) - 1
    return ordered[new], order[new], codes


def sort_rows(columns: Mapping[str, Values], name: str, descending: bool, order: Order | None = None) -> Order:
    """Places of rows (all, or those of ``order``) by a column; rows that are equal stay as they were."""
    values: Any = columns[name]
    if order is not None:
        values = take(values, order)
    if isinstance(values, Labels):
        values = values.ranks()
    elif isinstance(values, np.ndarray) and values.ndim == 2:
        found = _sort_octets(values, descending)
        return found if order is None else order[found]
    found = argsort(np.asarray(values), descending)
    return found if order is None else order[found]


def _sort_octets(values: Array, descending: bool) -> Order:
    """Rows of octets, as addresses are ordered."""
    halves = np.ascontiguousarray(values).view(">u8").astype(np.uint64)
    found = argsort(halves[:, 1], descending)
    return found[argsort(halves[found, 0], descending)]
