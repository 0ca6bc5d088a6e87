"""Messages by hand, and what becomes of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.common import CommonColumn
from pyflowx.conversion import Conversion
from pyflowx.elements import default_registry
from pyflowx.wire import Decoder

EXPORTER = V4_MAPPED + b"\xc0\0\2\1"


def record_of(values: dict[str, int | bytes]) -> bytes:
    """``{"samplerId:4": 7}``: element by name, its length behind a colon, its value."""
    octets = b""
    for key, value in values.items():
        name, _, length = key.partition(":")
        width = default_registry().field(name, int(length) if length else None).length
        octets += value if isinstance(value, bytes) else value.to_bytes(width, "big")
    return octets


def fields_of(keys: Sequence[str]) -> bytes:
    octets = b""
    for key in keys:
        name, _, length = key.partition(":")
        element, width = default_registry().field(name, int(length) if length else None)
        if element.pen:
            octets += struct.pack(">HHI", element.id | 0x8000, width, element.pen)
        else:
            octets += struct.pack(">HH", element.id, width)
    return octets


def set_of(id: int, content: bytes) -> bytes:
    return struct.pack(">HH", id, 4 + len(content)) + content


class Exporter:
    """Makes IPFIX messages of Observation Domain ``domain``; each kind of record has a Template of its own."""

    def __init__(self, domain: int = 1) -> None:
        self.domain = domain
        self._known: dict[tuple[Any, ...], int] = {}

    def set(self, *records: dict[str, Any], scopes: int = 0) -> bytes:
        """A Data Set, and its Template before it the first time."""
        key = (tuple(records[0]), scopes)
        known = key in self._known
        id = self._known.setdefault(key, 256 + len(self._known))
        template = b""
        if not known:
            head = struct.pack(">HH", id, len(records[0])) + (struct.pack(">H", scopes) if scopes else b"")
            template = set_of(3 if scopes else 2, head + fields_of(list(records[0])))
        return template + set_of(id, b"".join(record_of(record) for record in records))

    def message(self, *sets: bytes) -> bytes:
        body = b"".join(sets)
        return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 0, self.domain) + body


def cells(column: CommonColumn | None, n: int) -> list[Any]:
    if column is None:
        return [None] * n
    valid = [True] * n if column.valid is None else column.valid.tolist()
    values = column.values.tolist() if column.labels is None else [column.labels[code] for code in column.values]
    return [value if good else None for value, good in zip(values, valid, strict=True)]


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture(scope="session")
def exporters() -> type[Exporter]:
    return Exporter


@pytest.fixture(scope="session")
def flows_of() -> Callable[..., list[dict[str, Any]]]:
    """The flows that messages become, in the order of arrival of their Sets, batch after batch."""

    def flows(
        conversion: Conversion,
        *batches: Sequence[bytes],
        decoder: Decoder | None = None,
        exporter: bytes | Sequence[bytes] = EXPORTER,
    ) -> list[dict[str, Any]]:
        decoder = decoder or Decoder()
        found: list[dict[str, Any]] = []
        for datagrams in batches:
            decoded, problems = decoder.decode(PacketBatch.of(datagrams, exporter, received_ns=10**18), 10**18)
            assert not len(problems), problems.tolist()
            for part in decoded:
                places: list[tuple[int, int]] = []
                rows: list[dict[str, Any]] = []
                kept = [flow for flow in part.flows if not flow.scope_count and len(flow)]
                for source, batch in zip(kept, conversion(part), strict=True):
                    columns = {name: cells(column, len(batch)) for name, column in batch.columns.items()}
                    rows += [{name: column[i] for name, column in columns.items()} for i in range(len(batch))]
                    places += zip(source.message.tolist(), source.set_offset.tolist(), strict=True)
                order = np.lexsort(np.array(places).T[::-1]) if places else []
                found += [{k: v for k, v in rows[i].items() if v is not None} for i in order]
        return found

    return flows


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    """The flows that one message becomes, batch after batch."""

    def rows(conversion: Conversion, message: bytes, decoder: Decoder | None = None) -> list[dict[str, Any]]:
        (decoded,), problems = (decoder or Decoder()).decode(PacketBatch.of([message], EXPORTER), 10**18)
        assert not len(problems), problems.tolist()
        found: list[dict[str, Any]] = []
        for batch in conversion(decoded):
            columns = {name: cells(column, len(batch)) for name, column in batch.columns.items()}
            found += [{k: v[i] for k, v in columns.items() if v[i] is not None} for i in range(len(batch))]
        return found

    return rows
