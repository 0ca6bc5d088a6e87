"""The columns of a batch: octet strings, taking rows, putting parts together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import FlowBatch, Octets, PacketBatch, concat, take
from pyflowx.elements import default_registry

ROWS = st.lists(st.binary(max_size=12), max_size=8)


@given(rows=ROWS, data=st.data())
def test_octets_are_a_list_of_byte_strings(rows: list[bytes], data: st.DataObject) -> None:
    column = Octets.of(rows)
    assert column.tolist() == rows
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)) if rows else []
    taken = column.take(np.array(index, int))
    assert taken.tolist() == [rows[i] for i in index]
    packed = taken.packed()
    assert packed.tolist() == taken.tolist()
    assert packed.buffer.tobytes() == b"".join(taken.tolist())


@given(parts=st.lists(ROWS, min_size=1, max_size=4))
def test_concat_keeps_order(parts: list[list[bytes]]) -> None:
    joined = concat([Octets.of(rows) for rows in parts])
    assert isinstance(joined, Octets)
    assert joined.tolist() == [row for rows in parts for row in rows]


@given(datagrams=st.lists(st.binary(max_size=40), max_size=6))
def test_a_packet_batch_gives_back_its_datagrams(datagrams: list[bytes]) -> None:
    batch = PacketBatch.of(datagrams, port=9, received_ns=7)
    assert batch.tolist() == datagrams
    assert batch.take(slice(1, None)).tolist() == datagrams[1:]
    assert batch.exporter.shape == (len(datagrams), 16)


def test_a_flow_batch_is_columns_by_identity_and_by_name() -> None:
    registry = default_registry()
    fields = (
        registry.field("octetDeltaCount"),
        registry.field("octetDeltaCount", 4),
        registry.field("applicationName"),
    )
    batch = FlowBatch(fields, [np.array([1, 2], "u8"), np.array([3, 4], "u8"), Octets.of([b"a", b"b"])])
    assert len(batch) == 2 and batch.message.tolist() == [0, 0]
    first = batch.find(0, 1)
    assert isinstance(first, np.ndarray) and first.tolist() == [1, 2]  # the first of a repeated element
    assert batch.find(29305, 1) is None
    with pytest.raises(KeyError):
        batch.column("sourceIPv4Address")
    last = batch.take([1])
    assert len(last) == 1
    assert isinstance(last.columns[2], Octets) and last.columns[2].tolist() == [b"b"]
    np.testing.assert_array_equal(take(np.arange(4), [2, 0]), [2, 0])
