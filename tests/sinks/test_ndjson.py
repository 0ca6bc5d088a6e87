"""Flows as JSON lines: what json.loads reads is what the columns hold."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.common import TABLE, CommonBatch, CommonColumn, to_common
from pyflowx.decoded import Decoded
from pyflowx.fill import FLOW_TYPES
from pyflowx.sinks.discard import Discard
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.output import Output
from pyflowx.sinks.target import Target

BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "mac": 48}


def written(path: Path, *batches: CommonBatch) -> list[dict[str, Any]]:
    sink = Output(CommonNdjson(), Target(str(path)))
    for batch in batches:
        sink.write(batch)
    sink.flush()
    sink.close()
    text = path.read_bytes()
    assert sink.octets == len(text)
    assert sink.rows == text.count(b"\n")
    return [json.loads(line) for line in text.splitlines()]


@st.composite
def batches(draw: st.DrawFn) -> tuple[CommonBatch, list[dict[str, Any]]]:
    """A batch of any values and nulls, and the rows that should be read from its lines."""
    n = draw(st.integers(1, 5))
    chosen = draw(st.lists(st.sampled_from(TABLE), min_size=1, unique=True))
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    columns = {}
    for column in sorted(chosen, key=TABLE.index):
        mask = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
        labels: tuple[str, ...] | None = None
        if column.type == "label":
            labels = FLOW_TYPES
            codes = draw(st.lists(st.integers(0, len(labels) - 1), min_size=n, max_size=n))
            values, shown = np.array(codes, np.uint8), [labels[code] for code in codes]
        elif column.type == "address":
            raw = draw(st.lists(st.binary(min_size=16, max_size=16), min_size=n, max_size=n))
            values = np.frombuffer(b"".join(raw), np.uint8).reshape(n, 16)
            shown = [str(ipaddress.IPv6Address(octets)) for octets in raw]
        else:
            bits = BITS.get(column.type)
            numbers = st.integers(-(2**63), 2**63 - 1) if bits is None else st.integers(0, 2**bits - 1)
            drawn = draw(st.lists(numbers, min_size=n, max_size=n))
            values = np.array(drawn, "i8" if bits is None else f"u{8 if bits == 48 else bits // 8}")
            shown = [v.to_bytes(6, "big").hex(":") for v in drawn] if column.type == "mac" else drawn
        columns[column.name] = CommonColumn(column.type, values, None if mask is None else np.array(mask), labels)
        for row, value, valid in zip(rows, shown, mask or [True] * n, strict=True):
            if valid:
                row[column.name] = value
    return CommonBatch(columns, n), rows


@given(batches())
def test_lines_read_back_to_the_values(tmp_path_factory: Any, case: tuple[CommonBatch, list[dict[str, Any]]]) -> None:
    batch, rows = case
    path = tmp_path_factory.mktemp("ndjson") / "flows.json"
    for line, row in zip(written(path, batch), rows, strict=True):
        addresses = {c.name for c in TABLE if c.type == "address"} & set(line)
        for name in addresses:  # compared as addresses: IPv4-mapped ones are shown as IPv4
            assert wide(line.pop(name)) == wide(row.pop(name))
        assert line == row
        assert list(line) == list(row)


def wide(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return (
        address.packed.rjust(16, b"\0")
        if isinstance(address, ipaddress.IPv6Address)
        else (bytes(10) + b"\xff\xff" + address.packed)
    )


def test_a_line(make_decoded: Callable[..., Decoded], tmp_path: Path) -> None:
    decoded = make_decoded(
        {
            "sourceIPv4Address": [0x0A000001],
            "destinationIPv4Address": [0xC0A80001],
            "sourceMacAddress": [0x001A2B3C4D5E],
            "protocolIdentifier": [6],
            "octetDeltaCount": [2**64 - 1],
        }
    )
    (batch,) = to_common(decoded)
    written(tmp_path / "flows.json", batch)
    assert (tmp_path / "flows.json").read_text() == (
        '{"flow_type":"IPFIX","time_received_ns":1700000000123456789,"sequence_num":7,"sampler_address":"192.0.2.1",'
        '"bytes":18446744073709551615,"packets":0,"src_addr":"10.0.0.1","dst_addr":"192.168.0.1",'
        '"src_mac":"00:1a:2b:3c:4d:5e","etype":2048,"proto":6,"observation_domain_id":42,"template_id":256}\n'
    )


def test_discard_counts(make_decoded: Callable[..., Decoded]) -> None:
    decoded = make_decoded({"octetDeltaCount": [1, 2, 3]}, message=[0, 0, 1])
    sink = Discard()
    for batch in to_common(decoded):
        sink.write(batch)
    assert (sink.rows, sink.octets) == (3, 0)
    sink.write(decoded)
    assert sink.rows == 3 + 2
