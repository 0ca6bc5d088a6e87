"""Information Elements and their abstract data types (RFC 7011 §6.1, RFC 7012, RFC 5103).

One table (:data:`DATA_TYPES`) has one row for each abstract data type: its wire width, whether
reduced-size encoding is allowed, and how cells become a column and a column becomes cells.
*Cells* are an ``(n, length)`` uint8 matrix whose last axis is contiguous: the same field of n
records. A column keeps exactly what the wire said, in the units of the wire (times included, see
:func:`to_nanoseconds`), so that ``to_wire(to_column(cells)) == cells``.

Types without a fixed machine representation (octetArray, string, unsigned256 and the structured
types) have no conversion here: their column is :class:`pyflowx.batch.Octets`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.errors import ConfigError, EncodeError

Cells = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

IANA_PEN = 0
CISCO_PEN = 9
CERT_PEN = 6871
REVERSE_PEN = 29305  # RFC 5103 §6.1: element n of this PEN is the reverse of IANA's element n
CERT_REVERSE_BIT = 0x4000  # CERT's own way of saying the same for its elements
VARIABLE_LENGTH = 65535  # RFC 7011 §7

NTP_UNIX_OFFSET = 2_208_988_800  # seconds from 1900 to 1970 (RFC 5905 §6)
_NS = 1_000_000_000


def _pow2(length: int) -> int:
    return 1 << (length - 1).bit_length()


def _natural(dtype: str, column: Array) -> Cells:
    """A column as big-endian cells of exactly ``dtype``'s width."""
    width = np.dtype(dtype).itemsize
    return np.ascontiguousarray(column, dtype=dtype).view(np.uint8).reshape(len(column), width)


def _unsigned_column(cells: Cells, width: int) -> Array:
    n, length = cells.shape
    wide = _pow2(length)
    if wide == length:
        raw = cells.view(f">u{length}")[:, 0]
    else:  # 3, 5, 6, 7 octets: gather into the next wider integer
        padded = np.zeros((n, wide), np.uint8)
        padded[:, wide - length :] = cells
        raw = padded.view(f">u{wide}")[:, 0]
    return raw.astype(f"u{max(width, wide)}")


def _unsigned_wire(column: Array, length: int) -> Cells:
    if length < column.dtype.itemsize and len(column) and int(column.max()) >> (8 * length):
        raise EncodeError(f"{int(column.max())} does not fit in {length} octets; use a longer field")
    wide = _pow2(length)
    return _natural(f">u{wide}", column)[:, wide - length :]


def _signed_column(cells: Cells, width: int) -> Array:
    n, length = cells.shape
    wide = _pow2(length)
    if wide == length:
        raw = cells.view(f">i{length}")[:, 0]
    else:  # extend the sign by hand
        padded = np.repeat(np.where(cells[:, :1] & 0x80, 0xFF, 0).astype(np.uint8), wide, axis=1)
        padded[:, wide - length :] = cells
        raw = padded.view(f">i{wide}")[:, 0]
    return raw.astype(f"i{max(width, wide)}")


def _signed_wire(column: Array, length: int) -> Cells:
    bound = 1 << (8 * length - 1)
    if (
        length < column.dtype.itemsize
        and len(column)
        and not (-bound <= int(column.min()) and int(column.max()) < bound)
    ):
        raise EncodeError(f"a value of this column does not fit in {length} octets; use a longer field")
    wide = _pow2(length)
    return _natural(f">i{wide}", column)[:, wide - length :]


def _float_column(cells: Cells, width: int) -> Array:
    length = cells.shape[1]  # a float64 in four octets stays float32: a cast would change the payload of a NaN
    return cells.view(f">f{length}")[:, 0].astype(f"f{length}")


def _float_wire(column: Array, length: int) -> Cells:
    with np.errstate(over="ignore"):
        out = column.astype(f">f{length}")
    if length < column.dtype.itemsize and not np.array_equal(out.astype(column.dtype), column, equal_nan=True):
        raise EncodeError(f"a value of this column is not exact in {length} octets; use 8 octets")
    return _natural(f">f{length}", out)


def _ipv6_column(cells: Cells, width: int) -> Array:
    return np.ascontiguousarray(cells)


def _ipv6_wire(column: Array, length: int) -> Cells:
    return np.ascontiguousarray(column, np.uint8)


class DataType(NamedTuple):
    """One abstract data type (RFC 7012 §3.1).

    ``width`` is its natural length in octets (0: any length), ``lengths`` what a Field Specifier may
    say for a column to be made; any other length gives :class:`~pyflowx.batch.Octets`. An unsigned
    or signed column is as wide as the larger of ``width`` and the field (exporters do send an
    unsigned8 in four octets; a wider column squeezes nothing).
    """

    name: str
    width: int
    lengths: frozenset[int]
    reducible: bool
    column: Callable[[Cells, int], Array] | None
    wire: Callable[[Array, int], Cells] | None

    def to_column(self, cells: Cells) -> Array:
        """``(n, length)`` cells to a column of n; ``length`` is one of ``lengths``."""
        assert self.column is not None
        return self.column(cells, self.width)

    def to_wire(self, column: Array, length: int) -> Cells:
        """A column of n to ``(n, length)`` cells; :class:`EncodeError` if a value does not fit."""
        if self.wire is None or length not in self.lengths:
            raise EncodeError(f"{self.name} cannot be sent in {length} octets")
        return self.wire(column, length)

    @property
    def is_time(self) -> bool:
        return self.name.startswith("dateTime")

    @property
    def is_list(self) -> bool:
        """basicList, subTemplateList, subTemplateMultiList (RFC 6313)."""
        return self.name.endswith("List")


_ANY: frozenset[int] = frozenset()
_INT = frozenset(range(1, 9))


def _row(name: str, width: int, lengths: Iterable[int], reducible: bool, codec: Any = (None, None)) -> DataType:
    return DataType(name, width, frozenset(lengths), reducible, codec[0], codec[1])


_UNSIGNED = (_unsigned_column, _unsigned_wire)
_SIGNED = (_signed_column, _signed_wire)
_FLOAT = (_float_column, _float_wire)
_IPV6 = (_ipv6_column, _ipv6_wire)

DATA_TYPES: dict[str, DataType] = {
    row.name: row
    for row in (
        # name, natural width, lengths with a column, reducible (RFC 7011 §6.2), codec
        _row("octetArray", 0, _ANY, False),
        _row("unsigned8", 1, _INT, False, _UNSIGNED),
        _row("unsigned16", 2, _INT, True, _UNSIGNED),
        _row("unsigned32", 4, _INT, True, _UNSIGNED),
        _row("unsigned64", 8, _INT, True, _UNSIGNED),
        _row("unsigned256", 32, _ANY, True),
        _row("signed8", 1, _INT, False, _SIGNED),
        _row("signed16", 2, _INT, True, _SIGNED),
        _row("signed32", 4, _INT, True, _SIGNED),
        _row("signed64", 8, _INT, True, _SIGNED),
        _row("float32", 4, {4}, False, _FLOAT),
        _row("float64", 8, {4, 8}, True, _FLOAT),
        _row("boolean", 1, {1}, False, _UNSIGNED),  # on the wire 1 is true, 2 is false; the column keeps that
        _row("macAddress", 6, {6}, False, _UNSIGNED),  # a 48-bit integer in a u8 column
        _row("string", 0, _ANY, False),
        _row("dateTimeSeconds", 4, {4}, False, _UNSIGNED),
        _row("dateTimeMilliseconds", 8, {8}, False, _UNSIGNED),
        _row("dateTimeMicroseconds", 8, {8}, False, _UNSIGNED),  # NTP: seconds since 1900, fraction
        _row("dateTimeNanoseconds", 8, {8}, False, _UNSIGNED),  # NTP likewise
        _row("ipv4Address", 4, {4}, False, _UNSIGNED),
        _row("ipv6Address", 16, {16}, False, _IPV6),  # an (n, 16) column
        _row("basicList", 0, _ANY, False),
        _row("subTemplateList", 0, _ANY, False),
        _row("subTemplateMultiList", 0, _ANY, False),
    )
}


def to_nanoseconds(type_name: str, column: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """A dateTime column as (ns since 1970, valid). Not valid: past the year 2262, and NTP's 0 ("unknown").

    NTP seconds below 1970 belong to the era that begins in 2036 (RFC 7011 §6.1.9, RFC 5905 §6). Of
    dateTimeMicroseconds the low 11 bits of the fraction are ignored (RFC 7011 §6.1.9) and the result
    is rounded to a microsecond.
    """
    if type_name == "dateTimeSeconds":
        return column.astype(np.int64) * _NS, np.ones(len(column), bool)
    value = column.astype(np.uint64)
    if type_name == "dateTimeMilliseconds":
        valid = value <= np.uint64((2**63 - 1) // 1_000_000)
        return (np.where(valid, value, 0) * np.uint64(1_000_000)).astype(np.int64), valid
    seconds = (value >> np.uint64(32)).astype(np.int64) - NTP_UNIX_OFFSET
    seconds += np.where(seconds < 0, 1 << 32, 0)
    fraction = value & np.uint64(0xFFFFFFFF)
    unit = _NS
    if type_name == "dateTimeMicroseconds":
        fraction &= np.uint64(0xFFFFF800)
        unit = 1_000_000
    ticks = (fraction * np.uint64(unit) + np.uint64(1 << 31)) >> np.uint64(32)
    return seconds * _NS + ticks.astype(np.int64) * (_NS // unit), value != 0


def from_nanoseconds(type_name: str, ns: npt.NDArray[np.int64]) -> Array:
    """Nanoseconds since 1970 as a dateTime column; the inverse of :func:`to_nanoseconds` to the type's unit."""
    if type_name == "dateTimeSeconds":
        return (ns // _NS).astype(np.uint32)
    if type_name == "dateTimeMilliseconds":
        return (ns // 1_000_000).astype(np.uint64)
    seconds = ((ns // _NS + NTP_UNIX_OFFSET) & 0xFFFFFFFF).astype(np.uint64)
    fraction = ((ns % _NS).astype(np.uint64) << np.uint64(32)) // np.uint64(_NS)
    if type_name == "dateTimeMicroseconds":
        whole = (ns % _NS // 1000).astype(np.uint64)  # first to the unit: the 11 bits cost up to half of one
        fraction = ((whole << np.uint64(32)) // np.uint64(1_000_000)) & np.uint64(0xFFFFF800)
    else:  # truncation would read back one nanosecond early
        fraction += np.uint64(1)
    return (seconds << np.uint64(32)) | fraction


class InformationElement(NamedTuple):
    """One element; its identity is ``(pen, id)`` (RFC 7011 §3.2), never the id alone."""

    pen: int
    id: int
    name: str
    data_type: DataType
    semantics: str = "default"
    units: str = ""
    status: str = "current"
    source: str = ""

    @property
    def is_reverse(self) -> bool:
        return self.pen == REVERSE_PEN or (self.pen == CERT_PEN and bool(self.id & CERT_REVERSE_BIT))


class FieldSpecifier(NamedTuple):
    """An element and its length in octets as a Template says it; 65535 is variable (RFC 7011 §3.2)."""

    element: InformationElement
    length: int

    @property
    def is_variable(self) -> bool:
        return self.length == VARIABLE_LENGTH

    @property
    def has_column(self) -> bool:
        """Whether the field becomes a NumPy column (else :class:`pyflowx.batch.Octets`)."""
        return self.length in self.element.data_type.lengths


def reverse_name(name: str) -> str:
    """RFC 5103 §6.1: ``octetDeltaCount`` -> ``reverseOctetDeltaCount``."""
    return "reverse" + name[:1].upper() + name[1:]


class Registry:
    """The elements that are known, by identity and by name; IANA's name wins over a vendor's."""

    def __init__(self, elements: Iterable[InformationElement] = ()) -> None:
        self._by_key: dict[tuple[int, int], InformationElement] = {}
        self._by_name: dict[str, InformationElement] = {}
        for element in elements:
            self.add(element)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[InformationElement]:
        return iter(self._by_key.values())

    def copy(self) -> Registry:
        return Registry(self)

    def add(self, element: InformationElement) -> None:
        """Add or replace; a name that another element has already stays with that one."""
        old = self._by_key.get((element.pen, element.id))
        if old is not None and self._by_name.get(old.name) is old:
            del self._by_name[old.name]
        self._by_key[element.pen, element.id] = element
        self._by_name.setdefault(element.name, element)

    def known(self, pen: int, id: int) -> InformationElement | None:
        """The element with this identity, reverse elements computed; None where no name is known."""
        found = self._by_key.get((pen, id))
        if found is not None:
            return found
        if pen == REVERSE_PEN:
            forward = self._by_key.get((IANA_PEN, id))
        elif pen == CERT_PEN and id & CERT_REVERSE_BIT:
            forward = self._by_key.get((pen, id & ~CERT_REVERSE_BIT))
        else:
            forward = None
        return forward and forward._replace(pen=pen, id=id, name=reverse_name(forward.name))

    def get(self, pen: int, id: int) -> InformationElement:
        """The element, or an octetArray called ``<pen>/<id>`` where no name is known (not kept: a peer
        could fill the memory)."""
        return self.known(pen, id) or InformationElement(pen, id, f"{pen}/{id}", DATA_TYPES["octetArray"])

    def by_name(self, name: str) -> InformationElement | None:
        """The element called ``name``: a name, ``reverse...``, ``id`` or ``pen/id``."""
        found = self._by_name.get(name)
        if found is not None:
            return found
        pen, slash, id = name.rpartition("/")
        if id.isdecimal() and id.isascii() and (pen.isdecimal() if slash else True):
            key = int(pen or 0), int(id)
            return self.get(*key) if slash else self.known(*key)
        if name.startswith("reverse") and len(name) > 7:
            forward = self._by_name.get(name[7].lower() + name[8:]) or self._by_name.get(name[7:])
            if forward is not None and forward.pen == IANA_PEN:
                return self.known(REVERSE_PEN, forward.id)
        return None

    def field(self, name: str, length: int | None = None) -> FieldSpecifier:
        """A Field Specifier by name; the default length is the natural one, variable for types without."""
        element = self.by_name(name)
        if element is None:
            raise KeyError(name)
        return FieldSpecifier(element, length if length is not None else element.data_type.width or VARIABLE_LENGTH)


def read_elements(lines: Iterable[str]) -> Iterator[InformationElement]:
    """Rows of our registry files: pen,id,name,data_type,semantics,units,status,source."""
    rows = csv.reader(lines)
    next(rows)
    for pen, id, name, data_type, semantics, units, status, source in rows:
        yield InformationElement(int(pen), int(id), name, DATA_TYPES[data_type], semantics, units, status, source)


_MAPPING = ("id", "enterprise_number", "name", "data_type")


def read_mapping(lines: Iterable[str]) -> list[InformationElement]:
    """Elements of a user's CSV file with the columns id, enterprise_number (empty: 0), name, data_type in any order.

    Data types by IANA's name, in any case. ConfigError names the line and what is accepted there.
    """
    rows = csv.DictReader(lines, skipinitialspace=True)
    if rows.fieldnames is None or not set(_MAPPING) <= set(rows.fieldnames):
        raise ConfigError(f"line 1: the columns {','.join(_MAPPING)} are needed")
    types = {name.lower(): row for name, row in DATA_TYPES.items()}
    try:
        return [_mapped(row, rows.line_num, types) for row in rows]
    except csv.Error as error:
        raise ConfigError(f"line {rows.line_num}: {error}") from error


def _mapped(row: dict[str, str], line: int, types: dict[str, DataType]) -> InformationElement:
    id, pen, name, type_name = ((row[column] or "").strip() for column in _MAPPING)
    pen = pen or "0"
    for text, column, most in ((id, "id", 0x7FFF), (pen, "enterprise_number", 0xFFFFFFFF)):
        if not (text.isascii() and text.isdecimal() and int(text) <= most):
            raise ConfigError(f"line {line}: {column} {text!r}: use a number from 0 to {most}")
    if not name or not name.isprintable() or "/" in name:
        raise ConfigError(f"line {line}: name {name!r}: use printable characters, but no slash")
    if type_name.lower() not in types:
        raise ConfigError(f"line {line}: data_type {type_name!r}: use one of {', '.join(DATA_TYPES)}")
    return InformationElement(int(pen), int(id), name, types[type_name.lower()], source="mapping")


@functools.cache
def default_registry() -> Registry:
    """The registry that is shipped (registry/README.md says where it comes from). Shared: copy before adding."""
    registry = Registry()
    for name in ("iana.csv", "vendors.csv"):
        text = (
            Path(__file__).with_name("registry").joinpath(name).read_text("utf-8")
        )  # importlib.resources takes 5 ms to import
        for element in read_elements(text.splitlines()):
            registry.add(element)
    return registry
