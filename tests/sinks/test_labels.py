"""Columns of codes into labels: rendered once a label, whatever batches ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.fill import Joint
from pyflowx.sinks.csvtext import CommonCsv
from pyflowx.sinks.labels import LabelNumbers, LabelTexts
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.output import Output
from pyflowx.sinks.protobuf import CommonProtobuf
from pyflowx.sinks.protobuf_schema import SCHEMAS
from pyflowx.sinks.target import Target

LABELS = st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


def column(labels: list[str | int | float], codes: list[int]) -> CommonColumn:
    values = np.array(codes, np.int32)
    return CommonColumn("label", values, None if (values >= 0).all() else values >= 0, labels)


@given(st.lists(st.tuples(st.lists(LABELS, max_size=5), st.lists(st.integers(-1, 50), max_size=20)), max_size=5))
def test_a_list_of_labels_that_grows(batches: list[tuple[list[str | int | float], list[int]]]) -> None:
    labels: list[str | int | float] = []
    rendered: list[str | int | float] = []

    def render(label: str | int | float) -> bytes:
        rendered.append(label)
        return json.dumps(label).encode()

    texts = LabelTexts(render)
    for new, wanted in batches:
        labels += new
        codes = [code % len(labels) if code >= 0 and labels else -1 for code in wanted]
        value = texts.value("c", column(labels, codes))
        octets, ends, longest = value.extra
        valid = np.ones(len(codes), np.bool_) if value.valid is None else value.valid
        for code, ok in zip(codes, valid.tolist(), strict=True):
            assert ok == (code >= 0)
            text = octets[ends[code] : ends[code + 1]].tobytes() if ok else b"null"
            assert not ok or (json.loads(text) == labels[code] and len(text) <= longest)
    assert rendered == (labels if batches else [])


@pytest.mark.parametrize(("type", "one", "another"), [("i64", 2**63 - 1, -(2**63)), ("f64", 0.5, -1e300)])
def test_numbers_of_a_list_that_grows(type: str, one: float, another: float) -> None:
    numbers, labels = LabelNumbers(), [one]
    for codes in ([0, 0], [1, -1, 0], [2, 1], []):
        found = numbers.values("c", column(labels, codes)._replace(type=type))
        assert [value for value, code in zip(found.tolist(), codes, strict=True) if code >= 0] == [
            labels[code] for code in codes if code >= 0
        ]
        labels += [another, one]
    assert numbers.values("c", column([another], [0])._replace(type=type)).tolist() == [another]
    assert numbers.values("none", column([], [-1, -1])._replace(type=type)).tolist() == [0, 0]


def test_another_list_is_another_table() -> None:
    texts = LabelTexts(lambda label: str(label).encode())
    for labels in (["a", "b"], ["c"], ["d"]):
        value = texts.value("c", column(list(labels), [0]))
        octets, ends, _ = value.extra
        assert octets[: ends[1]].tobytes() == labels[0].encode()


ENCODERS: dict[str, Callable[[dict[str, str]], Any]] = {
    "ndjson": lambda types: CommonNdjson(),
    "csv": CommonCsv,
    "protobuf": lambda types: CommonProtobuf(SCHEMAS["pyflowx"]),
}


@pytest.mark.parametrize("name", ENCODERS)
@given(
    tables=st.lists(
        st.tuples(
            st.lists(st.tuples(st.none() | LABELS, st.none() | LABELS), min_size=1, max_size=5),
            st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=12), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_columns_of_one_look_up_are_written_as_if_they_had_nothing_in_common(
    name: str, tables: list[tuple[list[tuple[Any, Any]], list[list[int]]]]
) -> None:
    types = {"one": "label", "other": "label", "alone": "label"}
    joined, apart = ENCODERS[name](types), ENCODERS[name](types)
    for rows, batches in tables:
        table, lists = object(), ([], [])
        codes = [
            [-1 if row[i] is None else (lists[i].append(row[i]), len(lists[i]) - 1)[1] for row in rows] for i in (0, 1)
        ]
        for records in batches:
            known = np.array([record if record < len(rows) else -1 for record in records], np.int32)
            joint = Joint(known, len(rows), table)
            made = {"bytes": CommonColumn("u64", np.arange(len(known), dtype=np.uint64))}
            for i, column_name in enumerate(("one", "other")):
                made[column_name] = column(lists[i], [codes[i][record] if record >= 0 else -1 for record in known])
            made["alone"] = column(["x"], [0] * len(known))
            together = {n: c._replace(joint=joint) if n in ("one", "other") else c for n, c in made.items()}
            assert octets(joined, together, len(known)) == octets(apart, made, len(known))


def octets(encoder: Any, columns: dict[str, CommonColumn], n: int) -> bytes:
    return b"".join(bytes(text) for _, text in encoder.encode(CommonBatch(columns, n)))


def test_json_lines(tmp_path: Path) -> None:
    target = tmp_path / "out"
    sink = Output(CommonNdjson(), Target(str(target)))
    n = 3
    columns = {
        "bytes": CommonColumn("u64", np.arange(n, dtype=np.uint64)),
        "org": column(['A "B"\n', "é\x1b"], [1, -1, 0]),
        "asn": column([64500, -1], [0, 1, -1]),
        "latitude": column([1.5, 2.0], [-1, 0, 1]),
        "none": column([], [-1, -1, -1]),
    }
    sink.write(CommonBatch(columns, n))
    sink.close()
    lines = target.read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"bytes": 0, "org": "é\x1b", "asn": 64500},
        {"bytes": 1, "asn": -1, "latitude": 1.5},
        {"bytes": 2, "org": 'A "B"\n', "latitude": 2.0},
    ]
    assert b"\x1b" not in lines[0]
