"""Elements that an exporter describes itself, in the options records of RFC 5610."""

from __future__ import annotations

from pyflowx.batch import Column, Octets
from pyflowx.elements import DATA_TYPES, IANA_PEN, InformationElement
from pyflowx.wire.records import Layout, Records

# IANA's registries of the values of informationElementDataType, -Semantics, -Units; the first stands for unknown ones.
_TYPES = (
    *("octetArray", "unsigned8", "unsigned16", "unsigned32", "unsigned64", "signed8", "signed16", "signed32"),
    *("signed64", "float32", "float64", "boolean", "macAddress", "string", "dateTimeSeconds", "dateTimeMilliseconds"),
    *("dateTimeMicroseconds", "dateTimeNanoseconds", "ipv4Address", "ipv6Address", "basicList", "subTemplateList"),
    *("subTemplateMultiList", "unsigned256"),
)
_SEMANTICS = (
    *("default", "quantity", "totalCounter", "deltaCounter", "identifier", "flags", "list", "snmpCounter"),
    "snmpGauge",
)
_UNITS = (
    *("", "bits", "octets", "packets", "flows", "seconds", "milliseconds", "microseconds", "nanoseconds"),
    *("4-octet words", "messages", "hops", "entries", "frames", "ports", "inferred"),
)


def elements(layout: Layout, records: Records) -> list[InformationElement]:
    """The elements that these records describe; a missing name is empty, an unknown data type is octetArray."""
    n = len(records.owner)

    def numbers(id: int) -> list[int]:
        column = _find(layout, records, id)
        return [0] * n if column is None or isinstance(column, Octets) else column.tolist()

    names = _find(layout, records, 341)
    texts = names.tolist() if isinstance(names, Octets) else [b""] * n
    found = []
    for id, pen, type, semantics, units, text in zip(
        numbers(303), numbers(346), numbers(339), numbers(344), numbers(345), texts, strict=True
    ):
        found.append(
            InformationElement(
                pen,
                id & 0x7FFF,
                text.rstrip(b"\0").decode("utf-8", "replace"),
                DATA_TYPES[_at(_TYPES, type)],
                _at(_SEMANTICS, semantics),
                _at(_UNITS, units),
                source="RFC 5610 record",
            )
        )
    return found


def _find(layout: Layout, records: Records, id: int) -> Column | None:
    for field, column in zip(layout.fields, records.columns, strict=True):
        if field.element.pen == IANA_PEN and field.element.id == id:
            return column
    return None


def _at(names: tuple[str, ...], value: int) -> str:
    return names[value] if value < len(names) else names[0]
