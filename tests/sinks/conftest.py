"""Batches of any flows, and what should be read of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pyflowx.batch import V4_MAPPED
from pyflowx.common import TABLE, CommonBatch, CommonColumn
from pyflowx.fill import FLOW_TYPES
from pyflowx.sinks import Encoder

ADDED = {"org": "label", "asn": "i64", "latitude": "f64", "app_port": "u16", "seen": "time", "via": "address"}
LABELS: dict[str, list[Any]] = {
    "org": ["", 'A "B", C', "two\nlines", "é", "x" * 200],
    "asn": [0, -(2**63), 2**63 - 1, 64500],
    "latitude": [0.0, -1.5, 1e300, 0.1],
}
BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "mac": 48}
Row = dict[str, Any]


def _column(draw: st.DrawFn, name: str, type: str, n: int) -> tuple[CommonColumn, list[Any]]:
    """A column and its values: addresses as 16 octets, all else as it is meant."""
    mask = None
    if name not in {column.name for column in TABLE if not column.nullable}:
        mask = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    labels: Any = FLOW_TYPES if name == "flow_type" else LABELS.get(name)
    if labels is not None:
        codes = draw(st.lists(st.integers(0, len(labels) - 1), min_size=n, max_size=n))
        values, meant = np.array(codes, "u1" if name == "flow_type" else "i4"), [labels[code] for code in codes]
    elif type == "address" and draw(st.booleans()):
        drawn = draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n))
        values, meant = np.array(drawn, "u4"), [V4_MAPPED + value.to_bytes(4, "big") for value in drawn]
    elif type == "address":
        meant = draw(st.lists(st.binary(min_size=16, max_size=16), min_size=n, max_size=n))
        values = np.frombuffer(b"".join(meant), np.uint8).reshape(n, 16)
    else:
        bits = BITS.get(type)
        numbers = st.integers(-(2**63), 2**63 - 1) if bits is None else st.integers(0, 2**bits - 1)
        meant = draw(st.lists(numbers, min_size=n, max_size=n))
        if draw(st.booleans()):
            meant = [meant[0]] * n
        values = np.array(meant, "i8" if bits is None else f"u{8 if bits == 48 else bits // 8}")
    shown = [value if mask is None or mask[row] else None for row, value in enumerate(meant)]
    return CommonColumn(type, values, None if mask is None else np.array(mask, bool), labels), shown


@st.composite
def _batches(draw: st.DrawFn, added: dict[str, str]) -> tuple[list[CommonBatch], list[Row]]:
    names = {column.name: column.type for column in TABLE} | added
    always = [column.name for column in TABLE if not column.nullable]
    batches, rows = [], []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 6))
        chosen = set(draw(st.lists(st.sampled_from(list(names)), unique=True))) | set(always)
        columns, shown = {}, {}
        for name in names:
            if name in chosen:
                columns[name], shown[name] = _column(draw, name, names[name], n)
        batches.append(CommonBatch(columns, n))
        rows += [{name: shown[name][row] if name in shown else None for name in names} for row in range(n)]
    return batches, rows


@pytest.fixture(scope="session")
def flow_batches() -> Callable[[dict[str, str]], st.SearchStrategy[tuple[list[CommonBatch], list[Row]]]]:
    """Batches of any values and nulls with any of the columns, and their rows: every column by name, None for null."""
    return _batches


@pytest.fixture(scope="session")
def added_columns() -> dict[str, str]:
    return ADDED


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """The file that an encoder makes of batches; ``flush_each``: nothing is gathered."""

    def encode(encoder: Encoder[Any], batches: list[Any], flush_each: bool = False) -> bytes:
        out = bytearray()
        written = 0

        def put(pieces: Iterator[Any]) -> None:
            nonlocal written
            for rows, data in pieces:
                written += rows
                for part in [data] if isinstance(data, bytes | memoryview) else data:
                    out.extend(memoryview(part).tobytes())

        put(encoder.begin())
        for batch in batches:
            put(encoder.encode(batch))
            if flush_each:
                put(encoder.flush())
        put(encoder.flush())
        put(encoder.end())
        assert written == sum(map(encoder.count, batches))
        return bytes(out)

    return encode
