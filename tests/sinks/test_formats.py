"""Every format read back by a reader that is not ours: what it reads is what the columns hold."""

from __future__ import annotations

import csv
import gzip
import io
import ipaddress
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyflowx.batch import V4_MAPPED
from pyflowx.common import TABLE, CommonBatch, CommonColumn
from pyflowx.fill import FLOW_TYPES
from pyflowx.sinks.arrow import CommonArrow
from pyflowx.sinks.compress import Compressed
from pyflowx.sinks.csvtext import CommonCsv
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.parquet import GROUP_ROWS, CommonParquet
from pyflowx.sinks.protobuf import CommonProtobuf
from pyflowx.sinks.protobuf_schema import SCHEMAS, proto_text

Row = dict[str, Any]
TYPES = {column.name: column.type for column in TABLE}
ANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
SOME = settings(ANY, max_examples=25)  # a program runs for each


def wide(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else V4_MAPPED + address.packed


def mac(text: str) -> int:
    return int(text.replace(":", ""), 16)


def from_columns(table: Any, types: dict[str, str]) -> list[Row]:
    """Rows of an Arrow table in the form that the batches fixture has."""
    found: list[Row] = [{} for _ in range(table.num_rows)]
    for name, type in types.items():
        column = table.column(name)
        if type == "time":
            assert column.type == pa.timestamp("ns", "UTC")
            column = column.cast(pa.int64())
        for row, value in zip(found, column.to_pylist(), strict=True):
            if isinstance(value, str) and type in ("address", "mac"):
                value = wide(value) if type == "address" else mac(value)
            elif isinstance(value, bytes) and type == "mac":
                value = int.from_bytes(value, "big")
            row[name] = value
    return found


@given(data=st.data(), flush_each=st.booleans())
@ANY
def test_csv(flow_batches: Any, added_columns: dict[str, str], encoded: Any, data: st.DataObject, flush_each: bool):
    batches, rows = data.draw(flow_batches(added_columns))
    text = encoded(CommonCsv(added_columns), batches, flush_each).decode()
    types = TYPES | added_columns
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.splitlines()[0] == ",".join(types)
    make: dict[str, Callable[[str], Any]] = {"address": wide, "mac": mac, "label": str, "f64": float}
    for row, expected in zip(found, rows, strict=True):
        for name, type in types.items():
            wanted = expected[name]
            if not row[name] and (wanted is None or wanted == ""):  # CSV cannot tell these two apart
                continue
            assert make.get(type, int)(row[name]) == wanted, name


@pytest.mark.parametrize("binary", [False, True])
@given(data=st.data(), flush_each=st.booleans())
@ANY
def test_arrow(
    flow_batches: Any, added_columns: dict[str, str], encoded: Any, data: st.DataObject, binary: bool, flush_each: bool
):
    batches, rows = data.draw(flow_batches(added_columns))
    stream = encoded(CommonArrow(added_columns, binary=binary), batches, flush_each)
    table = pa.ipc.open_stream(pa.BufferReader(stream)).read_all()
    table.validate(full=True)
    assert from_columns(table, TYPES | added_columns) == rows
    assert pl.read_ipc_stream(io.BytesIO(stream)).equals(pl.from_arrow(table))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("compress", ["zstd", "gzip", "none"])
@given(data=st.data(), flush_each=st.booleans())
@ANY
def test_parquet(
    flow_batches: Any,
    added_columns: dict[str, str],
    encoded: Any,
    data: st.DataObject,
    binary: bool,
    compress: str,
    flush_each: bool,
):
    batches, rows = data.draw(flow_batches(added_columns))
    octets = encoded(CommonParquet(added_columns, binary=binary, compress=compress), batches, flush_each)
    file = pq.ParquetFile(pa.BufferReader(octets))
    table = file.read()
    table.validate(full=True)
    assert from_columns(table, TYPES | added_columns) == rows
    assert pl.read_parquet(io.BytesIO(octets)).equals(pl.from_arrow(table))
    groups = file.metadata
    assert sum(groups.row_group(i).num_rows for i in range(groups.num_row_groups)) == len(rows)


@given(data=st.data())
@SOME
def test_parquet_is_read_by_duckdb(
    flow_batches: Any, added_columns: dict[str, str], encoded: Any, data: st.DataObject, tmp_path_factory: Any
):
    batches, rows = data.draw(flow_batches(added_columns))
    path = tmp_path_factory.mktemp("parquet") / "flows.parquet"
    path.write_bytes(encoded(CommonParquet(added_columns), batches))
    wanted = ["bytes", "src_addr", "org", "asn", "latitude", "tcp_flags"]
    times = "epoch_ns(time_received_ns) AS time_received_ns"
    found = duckdb.sql(f"SELECT {', '.join(wanted)}, {times} FROM '{path}'").fetchall()
    for row, expected in zip(found, rows, strict=True):
        shown = dict(zip([*wanted, "time_received_ns"], row, strict=True))
        if shown["src_addr"] is not None:
            shown["src_addr"] = wide(shown["src_addr"])
        if abs(expected["time_received_ns"] or 0) >= 2**63 - 1:  # what DuckDB has for infinity
            del shown["time_received_ns"]
        assert shown == {name: expected[name] for name in shown}


# --- protobuf -------------------------------------------------------------------------------------------------


def decode_messages(octets: bytes, schema: str, folder: Path) -> list[list[tuple[str, str]]]:
    """The fields of each message as protoc reads them: names and texts. A nested message's lines are joined."""
    name = SCHEMAS[schema]
    (folder / "flow.proto").write_text(proto_text(schema))
    # A file of messages, each with its length before it, is a repeated field but for the tags.
    (folder / "all.proto").write_text(
        f'syntax = "proto3"; import "flow.proto"; message All {{ repeated {name.package}.{name.message} flow = 1; }}'
    )
    tagged, at = bytearray(), 0
    while at < len(octets):
        size = shift = 0
        start = at
        while True:
            size |= (octets[at] & 0x7F) << shift
            shift += 7
            at += 1
            if octets[at - 1] < 0x80:
                break
        tagged += b"\x0a" + octets[start : at + size]
        at += size
    command = ["protoc", f"-I{folder}", "--decode=All", str(folder / "all.proto")]
    text = subprocess.run(command, input=bytes(tagged), capture_output=True, check=True).stdout.decode("latin-1")
    found: list[list[tuple[str, str]]] = []
    for block in re.split(r"^flow \{\n", text, flags=re.M)[1:]:
        fields = re.findall(r"^  (\w+)(?:: (.*)| \{\n((?:    .*\n)*)  \})$", block, flags=re.M)
        found.append([(field, value or nested) for field, value, nested in fields])
    return found


def unescaped(text: str) -> bytes:
    return text[1:-1].encode("latin-1").decode("unicode_escape").encode("latin-1")


def shortened(address: bytes) -> bytes:
    return address[12:] if address.startswith(V4_MAPPED) else address


@given(data=st.data())
@SOME
def test_protobuf(
    flow_batches: Any, added_columns: dict[str, str], encoded: Any, data: st.DataObject, tmp_path_factory: Any
):
    batches, rows = data.draw(flow_batches(added_columns))
    octets = encoded(CommonProtobuf(SCHEMAS["pyflowx"]), batches)
    messages = decode_messages(octets, "pyflowx", tmp_path_factory.mktemp("proto"))
    for fields, expected in zip(messages, rows, strict=True):
        shown: Row = {}
        for name, value in fields:
            if name == "enrichment":
                key, text = re.findall(r"\"(?:[^\"\\]|\\.)*\"", value)
                shown[unescaped(key).decode()] = unescaped(text).decode()
            else:
                shown[name] = unescaped(value) if value.startswith('"') else value
        wanted = {}
        for name, value in expected.items():
            if value is None:
                continue
            if name in TYPES:
                wanted[name] = shortened(value) if TYPES[name] == "address" else str(value)
            elif added_columns[name] == "address":
                wanted[name] = str(ipaddress.ip_address(shortened(value)))
                value = shown[name]
                shown[name] = str(ipaddress.ip_address(shortened(wide(value))))
            else:
                wanted[name] = str(value)
        for name in ("sequence_num", "bytes", "packets"):
            wanted[name] = wanted[name] if wanted[name] != "0" else shown.setdefault(name, "0")
        assert shown == wanted


@given(data=st.data())
@SOME
def test_protobuf_as_goflow2_has_it(flow_batches: Any, encoded: Any, data: st.DataObject, tmp_path_factory: Any):
    batches, rows = data.draw(flow_batches({}))
    schema = SCHEMAS["goflow2"]
    columns = {field.name: field.column for field in schema.fields}
    messages = decode_messages(encoded(CommonProtobuf(schema), batches), "goflow2", tmp_path_factory.mktemp("proto"))
    enum = {"SFLOW_V5": "SFLOW_5", "NETFLOW_V1": "FLOWUNKNOWN", "NETFLOW_V7": "FLOWUNKNOWN"}
    for fields, expected in zip(messages, rows, strict=True):
        shown = {columns[name]: unescaped(value) if value.startswith('"') else value for name, value in fields}
        for name in columns.values():
            value = expected[name]
            if name == "flow_type":
                assert shown.get(name, "FLOWUNKNOWN") == enum.get(value, value)
            elif TYPES[name] == "address":
                assert shown.get(name, b"") == (b"" if value is None else shortened(value))
            else:  # a null and a zero are the same here; GoFlow2's times are unsigned
                assert int(shown.get(name, "0")) == (value or 0) % (1 << 64)


def test_the_proto_file_that_is_shipped_is_that_of_the_code() -> None:
    shipped = Path(__file__).parents[2] / "pyflowx" / "share" / "pyflowx.proto"
    assert shipped.read_text() == proto_text("pyflowx"), "run: pyflowx schema protobuf > pyflowx/share/pyflowx.proto"


def test_protobuf_tags_are_the_places_of_the_columns() -> None:
    fields = SCHEMAS["pyflowx"].fields
    assert [(field.name, field.number) for field in fields] == [(c.name, i) for i, c in enumerate(TABLE, 1)]
    assert len(fields) == 37 and SCHEMAS["pyflowx"].enrichment == 38


# --- large batches --------------------------------------------------------------------------------------------


def large(n: int, seed: int, *, six: bool = False, distinct: int = 1 << 32) -> CommonBatch:
    """Flows whose columns have few values, many, long runs, nulls; IPv6 addresses or not."""
    chance = np.random.default_rng(seed)
    addresses = chance.integers(0, distinct, n).astype("u4")
    columns = {
        "flow_type": CommonColumn("label", np.broadcast_to(np.uint8(2), n), None, FLOW_TYPES),
        "time_received_ns": CommonColumn("time", np.repeat(chance.integers(0, 1 << 62, n // 7 + 1), 7)[:n]),
        "sequence_num": CommonColumn("u32", np.arange(n, dtype="u4")),
        "bytes": CommonColumn("u64", chance.integers(0, 1 << 63, n).astype("u8")),
        "packets": CommonColumn("u64", np.broadcast_to(np.uint64(1), n)),
        "src_addr": CommonColumn("address", addresses, chance.integers(0, 2, n).astype(bool)),
        "proto": CommonColumn("u8", chance.choice([6, 17], n).astype("u1")),
        "src_port": CommonColumn("u16", chance.integers(0, 1 << 16, n).astype("u2")),
        "dst_port": CommonColumn("u16", chance.integers(0, 300, n).astype("u2"), np.arange(n) % 1000 < 900),
        "src_mac": CommonColumn("mac", chance.integers(0, 50, n).astype("u8")),
        "org": CommonColumn("label", chance.integers(0, 3, n).astype("i4"), None, ["a", "b", "c"]),
    }
    if six:
        columns["src_addr"] = CommonColumn("address", chance.integers(0, 4, (n, 16)).astype("u1"))
    return CommonBatch(columns, n)


SIZES = [
    [20_000] * 16,  # beyond a row group
    [5, 3000, 40_000, 1, 20_000, 32_768, 10],  # gathered, and as they are
    [300] * 300,
]


@pytest.mark.parametrize("sizes", SIZES, ids=["large", "mixed", "small"])
@pytest.mark.parametrize("distinct", [100, 20_000, 1 << 32])
def test_parquet_and_arrow_agree(sizes: list[int], distinct: int, encoded: Any) -> None:
    batches = [large(n, i, six=i % 5 == 3, distinct=distinct) for i, n in enumerate(sizes)]
    org = batches[0].columns["org"].labels
    for batch in batches:
        batch.columns["org"] = batch.columns["org"]._replace(labels=org)
    octets = encoded(CommonParquet({"org": "label"}), batches)
    file = pq.ParquetFile(pa.BufferReader(octets))
    stream = encoded(CommonArrow({"org": "label"}), batches)
    table = pa.ipc.open_stream(pa.BufferReader(stream)).read_all()
    assert table.num_rows == sum(sizes)
    assert file.read().combine_chunks().equals(table.combine_chunks())
    at = 0
    for batch in batches:
        part = table.slice(at, len(batch))
        assert part["bytes"].to_numpy().tolist() == batch.columns["bytes"].values.tolist()
        at += len(batch)
    assert file.metadata.num_row_groups <= sum(sizes) // (GROUP_ROWS // 2) + 1


def test_parquet_statistics(encoded: Any) -> None:
    batch = large(50_000, 1)
    octets = encoded(CommonParquet({"org": "label"}), [batch])
    file = pq.ParquetFile(pa.BufferReader(octets))
    for i in range(file.metadata.num_columns):
        column = file.metadata.row_group(0).column(i)
        made = batch.columns.get(column.path_in_schema)
        values = made.values[made.valid] if made and made.valid is not None else made and made.values
        assert column.statistics.null_count == 50_000 - (0 if values is None else len(values))
        if values is not None and made and made.type in ("u8", "u16", "u32", "u64"):
            assert (column.statistics.min, column.statistics.max) == (int(values.min()), int(values.max()))


def test_labels_of_another_table_begin_another_row_group(encoded: Any) -> None:
    first, second = large(20_000, 1), large(20_000, 2)
    second.columns["org"] = second.columns["org"]._replace(labels=["x", "y", "z"])
    octets = encoded(CommonParquet({"org": "label"}), [first, second])
    table = pq.read_table(pa.BufferReader(octets))
    stream = encoded(CommonArrow({"org": "label"}), [first, second])
    assert set(table["org"].to_pylist()[:20_000]) == {"a", "b", "c"}
    assert set(table["org"].to_pylist()[20_000:]) == {"x", "y", "z"}
    assert pa.ipc.open_stream(pa.BufferReader(stream)).read_all()["org"].equals(table["org"])


def test_no_flows_at_all_is_a_file_too(encoded: Any) -> None:
    assert pa.ipc.open_stream(pa.BufferReader(encoded(CommonArrow(), []))).read_all().num_rows == 0
    table = pq.read_table(pa.BufferReader(encoded(CommonParquet(), [])))
    assert (table.num_rows, table.column_names) == (0, list(TYPES))
    assert encoded(CommonProtobuf(SCHEMAS["pyflowx"]), []) == b""


# --- compressed text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zstd", "gzip"])
@pytest.mark.parametrize("make", [CommonNdjson, CommonCsv])
def test_compressed_text_is_the_text(method: str, make: Any, encoded: Any) -> None:
    batches = [large(n, i) for i, n in enumerate([10, 20_000, 5])]
    for batch in batches:
        del batch.columns["org"]
    octets = encoded(Compressed(make(), method), batches)
    plain = encoded(make(), batches)
    if method == "gzip":
        assert gzip.decompress(octets) == plain
    else:
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(octets), read_across_frames=True)
        assert reader.read() == plain
    assert len(octets) < len(plain)


def test_frames_end_where_rows_end(encoded: Any) -> None:
    """What is there of a file that was not completed can be read."""
    encoder = Compressed(CommonNdjson(), "zstd")
    batch = large(20_000, 1)
    frames = [(rows, bytes(data)) for rows, data in encoder.encode(batch)]  # type: ignore[arg-type]
    assert len(frames) > 1
    for rows, frame in frames:
        text = zstandard.ZstdDecompressor().decompress(frame)
        assert text.count(b"\n") == rows and text.endswith(b"}\n")
