"""What the tests of tables share."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from pyflowx.enrich.options import parse_enrich
from pyflowx.enrich.table import Enrichment, load_table
from pyflowx.fill import CommonColumn

FLOW_COLUMNS = {
    "src_addr": "address",
    "dst_addr": "address",
    "next_hop": "address",
    "bgp_next_hop": "address",
    "sampler_address": "address",
    "in_if": "integer",
    "out_if": "integer",
    "proto": "integer",
    "dst_port": "integer",
    "flow_type": "label",
}


def addresses(texts: Sequence[Any], wide: bool = True) -> CommonColumn:
    """A column of addresses; None is null. Not ``wide``: as uint32, for IPv4 alone."""
    found = [ipaddress.ip_address(text or "0.0.0.0") for text in texts]
    valid = np.array([text is not None for text in texts], np.bool_)
    mask = None if valid.all() else valid
    if not wide:
        return CommonColumn("address", np.array([int(address) for address in found], np.uint32), mask)
    octets = (a.packed if a.version == 6 else bytes(10) + b"\xff\xff" + a.packed for a in found)
    return CommonColumn("address", np.frombuffer(b"".join(octets), np.uint8).reshape(-1, 16), mask)


def decode(column: CommonColumn) -> list[Any]:
    """A result column as Python values."""
    valid = np.ones(len(column.values), np.bool_) if column.valid is None else column.valid
    return [
        column.labels[code] if ok else None for code, ok in zip(column.values.tolist(), valid.tolist(), strict=True)
    ]


def load(option: str, data: bytes) -> Enrichment:
    """An ``--enrich`` option at work, with what its file holds."""
    spec = parse_enrich(option, FLOW_COLUMNS)
    return Enrichment(spec, load_table(spec, data, FLOW_COLUMNS))


class Tools(NamedTuple):
    columns: dict[str, str]
    addresses: Callable[..., CommonColumn]
    integers: Callable[[Sequence[int]], CommonColumn]
    decode: Callable[[CommonColumn], list[Any]]
    load: Callable[[str, bytes], Enrichment]


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools(FLOW_COLUMNS, addresses, lambda values: CommonColumn("u64", np.array(values, np.uint64)), decode, load)
