"""CSV text against the csv module, and the distinct values of its columns."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import Octets
from pyflowx.enrich import cells as cells_module
from pyflowx.enrich import csvtext
from pyflowx.enrich.cells import CellNumbers, padded, texts
from pyflowx.enrich.csvtext import Csv
from pyflowx.enrich.values import CellEncoder
from pyflowx.errors import ConfigError


def cells_from(alphabet: str) -> st.SearchStrategy[str]:
    return st.text(alphabet=st.sampled_from(alphabet), max_size=6)


def rows_of(data: bytes) -> list[list[str]]:
    text = Csv(data, "t.csv")
    return [list(row) for block in text.blocks() for row in zip(*map(texts, block.columns), strict=True)]


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, list[list[str]]]:
    width = draw(st.integers(2, 4))
    quoting, alphabet = draw(st.sampled_from([(csv.QUOTE_MINIMAL, 'ab,"\né 1'), (csv.QUOTE_ALL, 'ab,"\n\ré 1')]))
    rows = draw(st.lists(st.lists(cells_from(alphabet), min_size=width, max_size=width), max_size=12))
    out = io.StringIO(newline="")
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(out, quoting=quoting, lineterminator=ends).writerows([[f"c{i}" for i in range(width)], *rows])
    text = out.getvalue()
    return (text if draw(st.booleans()) else text.removesuffix(ends)).encode(), rows


@given(tables(), st.sampled_from([8, 16, 64, 1 << 23]))
def test_what_the_csv_module_writes_is_read(table: tuple[bytes, list[list[str]]], block: int) -> None:
    data, rows = table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csvtext, "_BLOCK", block)
        assert rows_of(data) == rows


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('a "b" c,d', ['a "b" c', "d"]),  # a lone quote inside a cell stands for itself
        ('5" disk,x', ['5" disk', "x"]),
        ('"5"" disk","x"', ['5" disk', "x"]),
        ('"",""', ["", ""]),
        ('"a,b","c\nd"', ["a,b", "c\nd"]),
        (" a , b ", [" a ", " b "]),
        (",", ["", ""]),
    ],
)
def test_quotes(line: str, row: list[str]) -> None:
    assert rows_of(f"one,two\n{line}\nlast,row".encode()) == [row, ["last", "row"]]


def test_blank_lines_and_a_byte_order_mark_are_skipped() -> None:
    text = Csv(b"\xef\xbb\xbf\n\r\n one,two \r\n\r\na,b\n\n\nc,d\n\n", "t.csv")
    assert text.header == ["one", "two"]
    assert rows_of(b"\n\none,two\r\n\r\na,b\n\n\nc,d\n\n") == [["a", "b"], ["c", "d"]]


def test_a_header_alone_is_an_empty_table() -> None:
    assert rows_of(b"one,two") == rows_of(b"one,two\n") == []


def test_octets_that_are_no_utf_8_show() -> None:
    assert rows_of(b"one,two\n\xff,b\n") == [["\ufffd", "b"]]


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^t\.csv:1: the file is empty; expected a header"):
        Csv(data, "t.csv")


@pytest.mark.parametrize("block", [4, 1 << 23])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("one,two\na,b\n\nc\n", "t.csv:4: 1 columns; expected 2"),
        ("one,two\na,b\nc,d,e\nf,g\n", "t.csv:3: 3 columns; expected 2"),
        ('one,two\n"a\nb",c\nx\n', "t.csv:4: 1 columns; expected 2"),
        ('one,two\na,b\nc,"d\ne,f\n', "t.csv:3"),
    ],
)
def test_the_line_of_a_bad_row(monkeypatch: pytest.MonkeyPatch, data: str, message: str, block: int) -> None:
    monkeypatch.setattr(csvtext, "_BLOCK", block)
    if message == "t.csv:3":  # a quote that is never closed: the rest of the file is its cell
        assert rows_of(data.encode())[-1] == ["c", "d\ne,f\n"]
        return
    with pytest.raises(ConfigError) as caught:
        rows_of(data.encode())
    assert str(caught.value).startswith(message)


def test_the_line_of_a_row_that_somebody_else_finds_bad() -> None:
    blocks = list(Csv(b'one,two\n\n"a\nb",c\nd,e\n', "t.csv").blocks())
    assert str(blocks[0].error(0, "no")) == "t.csv:3: no"
    assert str(blocks[0].error(1, "no")) == "t.csv:5: no"


def test_an_unknown_column_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no column 'three' for fields=three; the columns are: one, two"):
        Csv(b"one,two\n", "t.csv").find("three", "fields=three")


OCTETS = st.lists(st.binary(max_size=20), max_size=30)


def column(rows: list[bytes]) -> Octets:
    packed = Octets.of(rows)
    return Octets(padded(b"".join(rows)), packed.starts + cells_module.MARGIN, packed.lengths)


def numbered(blocks: list[list[bytes]]) -> list[bytes]:
    """Blocks of cells as their numbers say they are."""
    numbers = CellNumbers()
    rows = [numbers.add(column(block)) for block in blocks]
    cells = numbers.cells()
    assert len(set(cells)) == len(cells)
    return [cells[number] for row in rows for number in row.tolist()]


@given(st.lists(OCTETS | st.lists(st.sampled_from([b"", b"\0", b"\0\0", b"a", b"a\0", b"abcdefgh", b"abcdefgh\0"]))))
def test_numbers_stand_for_exactly_the_same_octets(blocks: list[list[bytes]]) -> None:
    assert numbered(blocks) == [row for block in blocks for row in block]


@given(st.lists(OCTETS, min_size=1))
def test_a_hash_that_collides_changes_nothing(blocks: list[list[bytes]]) -> None:
    blocks = [[b"longer than seven" + row for row in block] for block in blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "_hash", lambda cells, first, longest: cells.lengths.astype("u8"))
        assert numbered(blocks) == [row for block in blocks for row in block]


def test_many_distinct_cells() -> None:
    rows = [b"%d of some" % (number % 70_000) for number in range(100_000)]
    assert numbered([rows[:10_000], rows[10_000:]]) == rows


def values(rows: list[bytes], kind: str | None = None) -> tuple[str, list[object]]:
    encoder = CellEncoder()
    half = len(rows) // 2
    encoder.add(column(rows[:half]))
    encoder.add(column(rows[half:]))
    coded = encoder.finish("c", kind)
    return coded.dictionary.kind, [None if c < 0 else coded.dictionary.values[c] for c in coded.codes.tolist()]


@pytest.mark.parametrize(
    ("rows", "kind", "expected"),
    [
        ([b"1", b"-2", b"", b"0", b"1"], "integer", [1, -2, None, 0, 1]),
        ([b"9223372036854775807", b"-9223372036854775808"], "integer", [2**63 - 1, -(2**63)]),
        ([b"9223372036854775808"], "float", [2.0**63]),
        ([b"1", b"2.5", b"-3e2"], "float", [1.0, 2.5, -300.0]),
        ([b"007", b"1"], "text", ["007", "1"]),
        ([b"AS1", b"2"], "text", ["AS1", "2"]),
        ([b"1_000"], "text", ["1_000"]),
        ([b"nan"], "text", ["nan"]),
        ([b"", b""], "text", [None, None]),
        ([], "text", []),
        ([b' "', b"two\nlines"], "text", [' "', "two\nlines"]),
        ([b"1\n2"], "text", ["1\n2"]),
    ],
)
def test_kinds_of_values(rows: list[bytes], kind: str, expected: list[object]) -> None:
    found, read = values(rows)
    assert (found, read) == (kind, expected)
    assert [type(value) for value in read] == [type(value) for value in expected]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers(numbers: list[int]) -> None:
    assert values([str(number).encode() for number in numbers]) == ("integer", numbers)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e90, max_value=1e90), min_size=1))
def test_floats(numbers: list[float]) -> None:
    kind, read = values([f"{number:.17e}".encode() for number in numbers])
    assert kind == "float" and all(map(math.isclose, read, numbers))  # type: ignore[arg-type]


def test_a_kind_that_is_given_stays() -> None:
    assert values([b"1", b"2"], "text") == ("text", ["1", "2"])
    assert values([b"1", b"2"], "float") == ("float", [1.0, 2.0])
    with pytest.raises(ConfigError, match="column 'c' holds 'x'; expected integer as in the table before"):
        values([b"1", b"x"], "integer")
