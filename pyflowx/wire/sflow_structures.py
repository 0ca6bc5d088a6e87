"""The structures of sFlow v5, read from one table (registry/sflow.csv) for decoding and encoding alike.

A row of the table is a structure: what it is data of (flow, counter, sample), its data format, its name and its
fields in the order of the wire: ``kind:name`` is a field that only sFlow has, an element of PEN 4300 called as in
the specifications (with the structure in front where the name alone is not unique); ``kind=element`` is a field
that IANA has an element for; ``kind=four/six`` one that IPv4 and IPv6 have an element each for. Kinds are those of
:data:`KINDS`. A format may have several rows: longer versions first.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import NamedTuple

from pyflowx.elements import DATA_TYPES, VARIABLE_LENGTH, FieldSpecifier, InformationElement, default_registry

SFLOW_PEN = 4300  # InMon, who maintain the structures of sFlow
_FIRST_ID = {"flow": 1 << 40, "counter": 2 << 40, "sample": 3 << 40}  # beyond the ids that a Template can have


class Kind(NamedTuple):
    """An XDR type (RFC 4506): octets on the wire (0: variable), of which ``length`` hold the value; data type."""

    octets: int
    length: int
    data_type: str


KINDS = {
    "u32": Kind(4, 4, "unsigned32"),
    "i32": Kind(4, 4, "signed32"),
    "u64": Kind(8, 8, "unsigned64"),
    "f32": Kind(4, 4, "float32"),
    "mac": Kind(8, 6, "macAddress"),
    "ip4": Kind(4, 4, "ipv4Address"),
    "ip6": Kind(16, 16, "ipv6Address"),
    "o4": Kind(4, 4, "octetArray"),
    "o16": Kind(16, 16, "octetArray"),
    "string": Kind(0, VARIABLE_LENGTH, "string"),
    "opaque": Kind(0, VARIABLE_LENGTH, "octetArray"),
    "words": Kind(0, VARIABLE_LENGTH, "octetArray"),  # an array of unsigned int: four octets each
    "address": Kind(0, 4, "ipv4Address"),  # a union of nothing, ip_v4 and ip_v6
    "path": Kind(0, VARIABLE_LENGTH, "string"),  # an AS path as text: "65001 65002 {65003 65004}"
    "communities": Kind(0, VARIABLE_LENGTH, "string"),  # as text: "65001:1 65001:2"
}


class Field(NamedTuple):
    """A field of a structure: its kind, and its element in IPv4 and in IPv6 (mostly the same)."""

    kind: str
    four: FieldSpecifier
    six: FieldSpecifier

    @property
    def octets(self) -> int:
        """On the wire; 0: variable."""
        return KINDS[self.kind].octets


class Run(NamedTuple):
    """Fields of fixed length that stand together: (place, octet offset in the run) each, then a variable one's
    place (-1: the structure ends)."""

    octets: int
    fixed: tuple[tuple[int, int], ...]
    variable: int


class Structure:
    """``format`` is ``enterprise << 12 | number``."""

    def __init__(self, format: int, name: str, fields: tuple[Field, ...]) -> None:
        self.format, self.name, self.fields = format, name, fields
        runs: list[Run] = []
        fixed: list[tuple[int, int]] = []
        at = 0
        for place, field in enumerate(fields):
            if field.octets:
                fixed.append((place, at))
                at += field.octets
            else:
                runs.append(Run(at, tuple(fixed), place))
                fixed, at = [], 0
        self.runs = (*runs, Run(at, tuple(fixed), -1))


class _Row(NamedTuple):
    data: str
    format: int
    name: str
    fields: tuple[str, ...]


@functools.cache
def _rows() -> tuple[_Row, ...]:
    text = (Path(__file__).parents[1] / "registry" / "sflow.csv").read_text("utf-8")
    rows = []
    for row in csv.DictReader(text.splitlines()):
        enterprise, _, number = row["format"].rpartition("/")
        rows.append(
            _Row(row["data"], int(enterprise or 0) << 12 | int(number), row["name"], tuple(row["fields"].split()))
        )
    return tuple(rows)


@functools.cache
def elements() -> dict[str, InformationElement]:
    """The elements that only sFlow has, by name."""
    found: dict[str, InformationElement] = {}
    for row in _rows():
        for ordinal, token in enumerate(row.fields):
            kind, colon, name = token.partition(":")
            names = (name, f"{name}_ipv6") if kind == "address" else (name,)
            for version, each in enumerate(names if colon else ()):
                id = _FIRST_ID[row.data] | row.format << 8 | version << 7 | ordinal
                data_type = DATA_TYPES["ipv6Address" if version else KINDS[kind].data_type]
                found.setdefault(each, InformationElement(SFLOW_PEN, id, each, data_type, source="sflow.org"))
    return found


def _specifier(kind: str, name: str) -> FieldSpecifier:
    element = elements().get(name) or default_registry().by_name(name)
    if element is None:
        raise KeyError(name)
    return FieldSpecifier(element, 16 if element.data_type.name == "ipv6Address" else KINDS[kind].length)


@functools.cache
def own(name: str) -> FieldSpecifier:
    """The specifier of an element that only sFlow has, in its natural length."""
    element = elements()[name]
    return FieldSpecifier(element, element.data_type.width or VARIABLE_LENGTH)


def _field(token: str) -> Field:
    kind, colon, name = token.partition(":")
    if colon:
        return Field(kind, _specifier(kind, name), _specifier(kind, f"{name}_ipv6" if kind == "address" else name))
    kind, _, names = token.partition("=")
    four, _, six = names.partition("/")
    return Field(kind, _specifier(kind, four), _specifier(kind, six or four))


@functools.cache
def structures(data: str) -> dict[int, tuple[Structure, ...]]:
    """The structures of "flow" or "counter" records by data format, longest version first. Not among them, for
    they are not flat: sampled_header (flow, 1) and host_adapters (counter, 2001)."""
    found: dict[int, tuple[Structure, ...]] = {}
    for row in _rows():
        if row.data == data:
            one = Structure(row.format, row.name, tuple(_field(token) for token in row.fields))
            found[row.format] = (*found.get(row.format, ()), one)
    return found
