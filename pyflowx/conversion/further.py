"""``--column NAME=ELEMENT``: any element as a further column beside the common ones.

The type of a column follows from the element's abstract data type, whatever an exporter sends: integers, floats,
times, addresses, MAC addresses are columns of their kind, and a value in a length that its type does not have is null;
strings, booleans and octets (as hex) are labels.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from pyflowx import text
from pyflowx.batch import I32, Array, Column, FlowBatch, Octets
from pyflowx.elements import DataType, FieldSpecifier, InformationElement, Registry, to_nanoseconds
from pyflowx.enrich.cells import MARGIN, CellNumbers, padded
from pyflowx.errors import ConfigError
from pyflowx.fill import CommonColumn, integers
from pyflowx.wire.sflow_structures import elements

_TYPES = {
    **{f"unsigned{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
    **{f"signed{bits}": "i64" for bits in (8, 16, 32, 64)},
    **dict.fromkeys(("float32", "float64"), "f64"),
    **dict.fromkeys(("ipv4Address", "ipv6Address"), "address"),
    **dict.fromkeys(("dateTimeSeconds", "dateTimeMilliseconds", "dateTimeMicroseconds", "dateTimeNanoseconds"), "time"),
    "macAddress": "mac",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_LABELS = 1 << 16  # that are kept from batch to batch


class FurtherColumn(NamedTuple):
    """A column's name and what fills it."""

    name: str
    element: InformationElement

    @property
    def type(self) -> str:
        """As in :mod:`pyflowx.common`; ``label``, ``i64`` and ``f64`` are codes into labels."""
        return _TYPES.get(self.element.data_type.name, "label")


def parse_columns(texts: Sequence[str], registry: Registry, taken: Collection[str]) -> list[FurtherColumn]:
    """``--column`` options; an element is a name (those of sFlow too), an id or ``pen/id``.

    ``taken``: names of columns that there are. :class:`ConfigError` says what is accepted.
    """
    found: list[FurtherColumn] = []
    for option in texts:
        name, equals, wanted = (part.strip() for part in option.partition("="))
        if not (equals and wanted and _NAME.fullmatch(name)):
            raise ConfigError(
                f"--column {option}: expected NAME=ELEMENT, the name of letters, digits and underscores, "
                "for example app=applicationName or score=55555/17"
            )
        if name in taken or any(one.name == name for one in found):
            raise ConfigError(f"--column {option}: there is a column {name} already; use another name: x_{name}")
        found.append(FurtherColumn(name, _element(option, wanted, registry)))
    return found


def _element(option: str, wanted: str, registry: Registry) -> InformationElement:
    pen, _, id = wanted.rpartition("/")
    is_number = all(part.isascii() and part.isdecimal() for part in (pen or "0", id))
    if is_number and not (int(id) <= 0x7FFF and int(pen or 0) <= 0xFFFFFFFF):
        raise ConfigError(f"--column {option}: an id goes to 32767, an enterprise number to 4294967295")
    element = registry.by_name(wanted)
    if element is None:
        element = elements().get(wanted)
    if element is None:
        names = difflib.get_close_matches(wanted, [one.name for one in registry], n=1)
        hint = f"did you mean {names[0]}?" if names else "pyflowx elements searches them; PEN/ID takes any"
        raise ConfigError(f"--column {option}: no element {wanted!r}: {hint}")
    if element.data_type.is_list:
        raise ConfigError(f"--column {option}: {element.name} is structured data (RFC 6313); -f raw writes it in full")
    return element


class Further:
    """Fills the further columns; keeps the labels it has met."""

    def __init__(self, columns: Sequence[FurtherColumn]) -> None:
        self.columns = tuple(columns)
        self._labels = {column.name: _Labels(column.type) for column in columns}

    def types(self) -> dict[str, str]:
        """The columns with their types."""
        return {column.name: column.type for column in self.columns}

    def of(self, flows: FlowBatch) -> dict[str, CommonColumn]:
        """The columns of a batch; those whose element it does not have are left out: all null."""
        made = {}
        for column, place in _places(flows.fields, self.columns):
            filled = self._fill(column, flows.fields[place].element.data_type, flows.columns[place])
            if filled is not None:
                made[column.name] = filled
        return made

    def _fill(self, column: FurtherColumn, data_type: DataType, values: Column) -> CommonColumn | None:
        if column.type == "label":
            return self._labels[column.name].of_texts(*_texts(data_type, values))
        if isinstance(values, Octets) or data_type.name != column.element.data_type.name:
            return None
        if column.type in ("i64", "f64"):
            return self._labels[column.name].of_numbers(values)
        if column.type == "time":
            ns, valid = to_nanoseconds(data_type.name, values)
            return CommonColumn("time", ns, None if valid.all() else valid)
        if column.type in ("mac", "address"):
            return CommonColumn(column.type, values)
        return integers(column.type, values)


def _texts(data_type: DataType, values: Column) -> tuple[I32, list[str]]:
    """A column as (codes, texts): the text of each distinct value is made once."""
    if not isinstance(values, Octets):
        codes, distinct = _distinct(text.render(data_type, values))
        return codes, [row.decode() for row in distinct.tolist()]
    codes, distinct = _distinct(values)
    if data_type.name == "string":
        return codes, [text.decode_string(row) for row in distinct.tolist()]
    return codes, [row.decode() for row in text.render(data_type, distinct).tolist()]


def _distinct(values: Octets) -> tuple[I32, Octets]:
    packed = values.packed()
    numbers = CellNumbers()
    codes = numbers.add(Octets(padded(packed.buffer.tobytes()), packed.starts + MARGIN, packed.lengths))
    return codes, Octets.of(numbers.cells())


class _Labels:
    """The labels of a column, a list that grows so that nobody renders one twice; begun anew when it gets long."""

    def __init__(self, type: str) -> None:
        self._type = type
        self._known: dict[str | int | float, int] = {}
        self._labels: list[str | int | float] = []

    def of_texts(self, codes: Array, labels: Sequence[str | int | float]) -> CommonColumn:
        if len(self._labels) > _MOST_LABELS:
            self._known, self._labels = {}, []
        mine = np.array([self._code(label) for label in labels], np.int32)
        return CommonColumn(self._type, mine[codes], None, self._labels)

    def _code(self, label: str | int | float) -> int:
        code = self._known.setdefault(label, len(self._labels))
        if code == len(self._labels):
            self._labels.append(label)
        return code

    def of_numbers(self, values: Array) -> CommonColumn | None:
        """NaN and infinity, which JSON does not have, are null."""
        valid = np.isfinite(values)
        if not valid.any():
            return None
        distinct, codes = np.unique(np.where(valid, values, values[valid][0]), return_inverse=True)
        return self.of_texts(codes, distinct.tolist())._replace(valid=None if valid.all() else valid)


@functools.lru_cache(maxsize=256)
def _places(
    fields: tuple[FieldSpecifier, ...], columns: tuple[FurtherColumn, ...]
) -> tuple[tuple[FurtherColumn, int], ...]:
    """The first field of each column's element."""
    first: dict[tuple[int, int], int] = {}
    for place, field in enumerate(fields):
        first.setdefault((field.element.pen, field.element.id), place)
    keys = ((column, (column.element.pen, column.element.id)) for column in columns)
    return tuple((column, first[key]) for column, key in keys if key in first)
