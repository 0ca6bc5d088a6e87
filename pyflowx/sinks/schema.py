"""The columns of a file whose columns are fixed when it begins: the common ones, then those that were added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pyflowx.common import TABLE


class Field(NamedTuple):
    """A column: its name, its type as :mod:`pyflowx.common` has them, whether it can be null."""

    name: str
    type: str
    nullable: bool = True


def fields(extra: Mapping[str, str] | None = None) -> tuple[Field, ...]:
    """The columns of every file of a run. ``extra``: names and types of those that were added, in their order."""
    added = (Field(name, type) for name, type in (extra or {}).items())
    return *(Field(column.name, column.type, column.nullable) for column in TABLE), *added
