"""What the tests of capture files share."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pyflowx.transport.capture import CaptureReader


class Datagram(NamedTuple):
    address: str
    port: int
    time_ns: int
    payload: bytes


def address(octets: bytes) -> str:
    found = ipaddress.IPv6Address(octets)
    return str(found.ipv4_mapped or found)


def read(path: Path | str, port: int | None = None) -> tuple[list[Datagram], CaptureReader]:
    """All datagrams of a capture; what must hold for every capture is asserted here."""
    with CaptureReader(str(path), port) as reader:
        found = [
            Datagram(address(exporter.tobytes()), source, time_ns, payload)
            for batch in reader
            for exporter, source, time_ns, payload in zip(
                batch.exporter, batch.port.tolist(), batch.received_ns.tolist(), batch.tolist(), strict=True
            )
        ]
    counters = reader.counters
    others = counters.not_udp + counters.other_port + counters.malformed + counters.unknown_link
    assert counters.datagrams == len(found)
    assert counters.packets == len(found) + others + counters.fragments - counters.reassembled
    assert counters.truncated <= len(found)
    assert counters.fragments_dropped <= counters.fragments
    assert reader.problem is None or counters.bad_blocks
    return found, reader


@pytest.fixture
def read_capture() -> Callable[..., tuple[list[Datagram], CaptureReader]]:
    return read
