"""Flows in the common schema as JSON, one line a flow; a null is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pyflowx.common import CommonBatch
from pyflowx.sinks import Encoder, Piece
from pyflowx.sinks.cells import TextCells
from pyflowx.sinks.rows import RowWriter, json_key, json_string


def json_value(label: str | int | float) -> bytes:
    return (json_string(label) if isinstance(label, str) else json.dumps(label)).encode()


class CommonNdjson(Encoder[CommonBatch]):
    """Lines of flows."""

    suffix = ".ndjson"

    def __init__(self) -> None:
        self._writer = RowWriter(b"{", b",", b"}\n")
        self._cells = TextCells(json_value, quoted=True, lead=json_key)

    def encode(self, batch: CommonBatch) -> Iterator[Piece]:
        return self._writer.chunks(self._cells.row(batch.columns.items(), len(batch)), len(batch))
