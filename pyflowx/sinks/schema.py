"""The columns of a file whose columns are fixed when it begins: the common ones, then those that were added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pyflowx.batch import Array
from pyflowx.common import TABLE
from pyflowx.fill import CommonColumn


class Field(NamedTuple):
    """A column: its name, its type as :mod:`pyflowx.common` has them, whether it can be null."""

    name: str
    type: str
    nullable: bool = True


def fields(extra: Mapping[str, str] | None = None) -> tuple[Field, ...]:
    """The columns of every file of a run. ``extra``: names and types of those that were added, in their order."""
    added = (Field(name, type) for name, type in (extra or {}).items())
    return *(Field(column.name, column.type, column.nullable) for column in TABLE), *added


_DTYPES = {"u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8", "time": "i8", "mac": "u8"}
CODES = np.dtype("u4")  # of labels


def dtype_of(type: str, dimensions: int = 1) -> np.dtype[Any]:
    """Of the values of a column; ``dimensions`` is 2 for addresses of 16 octets."""
    if type == "address":
        return np.dtype("u4" if dimensions == 1 else "u1")
    return np.dtype(_DTYPES[type]) if type in _DTYPES else CODES


def contiguous(column: CommonColumn) -> Array:
    """The values one behind the other."""
    return np.ascontiguousarray(column.values, dtype_of(column.type, column.values.ndim))
