"""What a screen shows, written to a file by the sinks of the project."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.errors import ConfigError
from pyflowx.sinks import Encoder
from pyflowx.sinks.csvtext import CommonCsv
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.output import Output
from pyflowx.sinks.parquet import CommonParquet
from pyflowx.sinks.schema import Field
from pyflowx.sinks.target import HiddenFile

from .columns import Labels
from .store import TYPES
from .table import ColumnSpec, Rows, Values, take

FORMATS = ("csv", "json", "parquet")


def write(batches: Sequence[CommonBatch], form: str, path: str) -> tuple[int, Path]:
    """Write them all: rows written, and the path. A file that is there is not touched: ConfigError.

    The file has its name when it is complete.
    """
    target = Path(path).expanduser()
    if target.exists():
        raise ConfigError(f"{target} exists; give another name")
    sink = Output(_encoder(form, batches), HiddenFile(str(target)))
    try:
        for batch in batches:
            sink.write(batch)
    finally:
        sink.close()
    return sink.rows, target


def _encoder(form: str, batches: Sequence[CommonBatch]) -> Encoder[CommonBatch]:
    types = {name: column.type for batch in batches for name, column in batch.columns.items()}
    if {"flow_type", "bytes", "packets"} <= set(types):  # flows: with all columns of the schema, and of enrichment
        extra = {name: type for name, type in types.items() if name not in TYPES}
        return {"csv": lambda: CommonCsv(extra), "parquet": lambda: CommonParquet(extra), "json": CommonNdjson}[form]()
    only = [Field(name, type) for name, type in types.items()]
    return {
        "csv": lambda: CommonCsv(only=only),
        "parquet": lambda: CommonParquet(only=only),
        "json": CommonNdjson,
    }[form]()


def batch_of(rows: Rows, specs: Sequence[ColumnSpec]) -> CommonBatch:
    """The rows of a table, in the order that is shown; of its columns those that hold values, by their names."""
    order = rows.at(0, len(rows))
    columns = {}
    for spec in specs:
        values = rows.columns[spec.name]
        if isinstance(values, np.ndarray | list | Labels):
            columns[spec.name] = _column(take(values, order))
    return CommonBatch(columns, len(order))


def _column(values: Values) -> CommonColumn:
    if isinstance(values, Labels):
        return CommonColumn("label", values.codes, values.codes > 0, tuple(values.texts))
    if isinstance(values, list):
        labels = list(dict.fromkeys(map(str, values)))
        known = {label: code for code, label in enumerate(labels)}
        return CommonColumn("label", np.array([known[str(v)] for v in values], np.uint32), None, tuple(labels))
    if values.ndim == 2:
        return CommonColumn("address", values)
    if values.dtype.kind == "f":
        distinct, codes = np.unique(values, return_inverse=True)
        return CommonColumn("f64", codes.astype(np.uint32), None, tuple(distinct.tolist()))
    if values.dtype.kind == "i":
        distinct, codes = np.unique(values, return_inverse=True)
        return CommonColumn("i64", codes.astype(np.uint32), None, tuple(distinct.tolist()))
    return CommonColumn("u64", values.astype(np.uint64))


def command(
    options: Sequence[str], path: str, form: str, *, by: Sequence[str] = (), query: str = "", **more: Any
) -> str:
    """The command line that gives the same, or comes nearest to it. ``options``: those that say where the flows come
    from; ``by``: what they are grouped by. ``more``: ``sort``, ``scaled`` of ``pyflowx top``."""
    if not by and not query and options and options[0] in ("-p", "--pcap"):  # the flows themselves
        return shlex.join(["pyflowx", "collect", *options, "-f", "common", "-s", form, "-o", path])
    words = ["pyflowx", "top", "--once", *options, "-g", ",".join(by or ("src_addr", "dst_addr", "service"))]
    if query:
        words += ["--filter", query]
    if more.get("sort"):
        words += ["-s", more["sort"]]
    words += ["-x"] if more.get("scaled") else []
    return f"{shlex.join([*words, '-o', 'json'])} > {shlex.quote(str(Path(path).with_suffix('.json')))}"
