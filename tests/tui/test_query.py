"""The filter language: against an oracle in plain Python, its errors and their places, completion."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyflowx_tui.query import ALIASES, Labels, Query, QueryError, complete, known_names
from pyflowx_tui.terms import number_of, prefix_of

Row = dict[str, Any]
ADDRESSES = ("10.0.0.1", "10.1.2.3", "192.0.2.7", "2001:db8::1", "2001:db8:1::9", None)
COUNTRIES = ("DE", "FR", "United States", None)
PORTS = (0, 53, 80, 443, 1024, 65535, None)


def rows_strategy() -> st.SearchStrategy[list[Row]]:
    times = st.one_of(st.none(), st.integers(10**18, 10**18 + 10**11))
    row = st.fixed_dictionaries(
        {
            "src_addr": st.sampled_from(ADDRESSES),
            "dst_addr": st.sampled_from(ADDRESSES),
            "src_port": st.sampled_from(PORTS),
            "dst_port": st.sampled_from(PORTS),
            "proto": st.sampled_from([6, 17, 58]),
            "bytes": st.integers(0, 10**13),
            "tcp_flags": st.integers(0, 255),
            "src_country": st.sampled_from(COUNTRIES),
            "time_flow_start_ns": times,
            "time_flow_end_ns": times,
        }
    )
    return st.lists(row, max_size=8)


def columns_of(rows: list[Row], as_text: bool) -> dict[str, Any]:
    """As the screens hold them; ``as_text``: as the feed sends them."""
    columns: dict[str, Any] = {}
    for name in ("src_addr", "dst_addr"):
        texts = [row[name] for row in rows]
        octets = b"".join(_octets(text) for text in texts)
        columns[name] = texts if as_text else np.frombuffer(octets, np.uint8).reshape(-1, 16)
    for name in ("src_port", "dst_port", "time_flow_start_ns", "time_flow_end_ns"):
        values = [row[name] for row in rows]
        kind = np.uint16 if name.endswith("port") else np.int64
        columns[name] = np.ma.array([value or 0 for value in values], kind, mask=[value is None for value in values])
    for name, kind in (("proto", np.uint8), ("bytes", np.uint64), ("tcp_flags", np.uint16)):
        columns[name] = np.array([row[name] for row in rows], kind)
    labels = [label for label in COUNTRIES if label is not None]
    texts = [row["src_country"] for row in rows]
    codes = np.array([-1 if text is None else labels.index(text) for text in texts], np.int32)
    columns["src_country"] = texts if as_text else Labels(codes, labels)
    return columns


def _octets(text: str | None) -> bytes:
    if text is None:
        return bytes(16)
    packed = ipaddress.ip_address(text).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


# --- terms, each with what it says about a row ------------------------------------------------------------------------


def in_network(name: str, network: str) -> Any:
    net = ipaddress.ip_network(network)
    return lambda row: row[name] is not None and ipaddress.ip_address(row[name]) in net


def duration_of(row: Row) -> int | None:
    start, end = row["time_flow_start_ns"], row["time_flow_end_ns"]
    return None if start is None or end is None else end - start


TERMS: list[tuple[str, Any]] = [
    ("src:10/8", in_network("src_addr", "10.0.0.0/8")),
    ("src_addr:10.1", in_network("src_addr", "10.1.0.0/16")),
    ("dst:2001:db8::/32", in_network("dst_addr", "2001:db8::/32")),
    ("dst=192.0.2.7", in_network("dst_addr", "192.0.2.7/32")),
    ("destinationIPv4Address:10.0.0.0/15", in_network("dst_addr", "10.0.0.0/15")),
    ("host:192.0.2.7", lambda row: "192.0.2.7" in (row["src_addr"], row["dst_addr"])),
    ("10.0.0.1", lambda row: "10.0.0.1" in (row["src_addr"], row["dst_addr"])),
    ("src_addr~^10", lambda row: (row["src_addr"] or "").startswith("10")),
    ("port:443", lambda row: 443 in (row["src_port"], row["dst_port"])),
    ("port:dns,https", lambda row: bool({53, 443} & {row["src_port"], row["dst_port"]})),
    ("dst_port:1024-65535", lambda row: row["dst_port"] is not None and row["dst_port"] >= 1024),
    ("sport!=80", lambda row: row["src_port"] != 80),
    ("sport<=80", lambda row: row["src_port"] is not None and row["src_port"] <= 80),
    ("proto:udp", lambda row: row["proto"] == 17),
    ("proto:tcp,58", lambda row: row["proto"] in (6, 58)),
    ("udp", lambda row: row["proto"] == 17),
    ("bytes>1M", lambda row: row["bytes"] > 10**6),
    ("octetDeltaCount >= 4GiB", lambda row: row["bytes"] >= 4 << 30),
    ("bytes<1.5k", lambda row: row["bytes"] < 1500),
    ("bytes:0-9999999", lambda row: row["bytes"] < 10**7),
    ("flags:SA", lambda row: row["tcp_flags"] & 18 == 18),
    ("flags=S", lambda row: row["tcp_flags"] == 2),
    ("flags:0x11", lambda row: row["tcp_flags"] & 17 == 17),
    ("src_country:de", lambda row: row["src_country"] == "DE"),
    ('country:"united states"', lambda row: row["src_country"] == "United States"),
    ("src_country:*t*", lambda row: row["src_country"] == "United States"),
    ("src_country~^(de|fr)$", lambda row: row["src_country"] in ("DE", "FR")),
    ("src_country!~e", lambda row: row["src_country"] not in ("DE", "United States")),
    ("duration>5s", lambda row: duration_of(row) is not None and duration_of(row) > 5 * 10**9),
    ("duration<=250ms", lambda row: duration_of(row) is not None and duration_of(row) <= 25 * 10**7),
    ("in_if:3", lambda row: False),  # a column of the schema that nobody sent is null
]


def trees(terms: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    def both(pair: tuple[tuple[str, Any], tuple[str, Any]], word: str) -> tuple[str, Any]:
        (left, a), (right, b) = pair
        text = f"({left}) {word} ({right})"
        return text, (lambda row: a(row) or b(row)) if word == "or" else (lambda row: a(row) and b(row))

    def inverse(one: tuple[str, Any], word: str) -> tuple[str, Any]:
        text, says = one
        return f"{word}({text})", lambda row: not says(row)

    return st.recursive(
        terms,
        lambda inner: st.one_of(
            st.builds(both, st.tuples(inner, inner), st.sampled_from(["and", "or", "", "&&"])),
            st.builds(inverse, inner, st.sampled_from(["not ", "!", "NOT"])),
        ),
        max_leaves=6,
    )


@given(rows_strategy(), trees(st.sampled_from(TERMS)), st.booleans())
def test_masks_are_those_of_plain_python(rows: list[Row], tree: tuple[str, Any], as_text: bool) -> None:
    text, says = tree
    columns = columns_of(rows, as_text)
    found = Query.parse(text, columns).mask(columns)
    assert found.dtype == np.bool_
    assert found.tolist() == [bool(says(row)) for row in rows]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term[0])
@pytest.mark.parametrize("as_text", [False, True], ids=["columns", "texts"])
def test_every_term(term: tuple[str, Any], as_text: bool) -> None:
    """Each alone, on rows of every kind."""
    rows = [
        {
            "src_addr": ADDRESSES[i % 6],
            "dst_addr": ADDRESSES[i // 6 % 6],
            "src_port": PORTS[i % 7],
            "dst_port": PORTS[i // 7 % 7],
            "proto": (6, 17, 58)[i % 3],
            "bytes": (0, 999, 1500, 10**6, 10**7, 1 << 33)[i % 6],
            "tcp_flags": (0, 2, 18, 17, 255)[i % 5],
            "src_country": COUNTRIES[i % 4],
            "time_flow_start_ns": None if i % 11 == 0 else 10**18,
            "time_flow_end_ns": 10**18 + (0, 2 * 10**8, 6 * 10**9)[i % 3],
        }
        for i in range(420)
    ]
    columns = columns_of(rows, as_text)
    expected = [bool(term[1](row)) for row in rows]
    assert Query.parse(term[0]).mask(columns).tolist() == expected
    assert any(expected) != (term[0] == "in_if:3") and not all(expected)


def test_or_binds_less_than_and() -> None:
    columns = {"a": np.array([1, 1, 0, 0]), "b": np.array([1, 0, 1, 0])}
    assert Query.parse("a:1 and b:1 or a:0 b:0").mask(columns).tolist() == [True, False, False, True]
    assert Query.parse("not a:1 or b:1").mask(columns).tolist() == [True, False, True, True]
    assert Query.parse("  ").mask(columns).all() and not Query.parse("")


def test_ipv4_columns_of_numbers_and_numbers_with_nan() -> None:
    columns = {"src_addr": np.array([0x0A000001, 0xC0000207], np.uint32), "score": np.array([1.5, np.nan])}
    assert Query.parse("src:10/8").mask(columns).tolist() == [True, False]
    assert Query.parse("src:2001:db8::/32").mask(columns).tolist() == [False, False]
    assert Query.parse("score<2").mask(columns).tolist() == [True, False]
    assert Query.parse("not score<2", columns).mask(columns).tolist() == [False, True]


def test_macs() -> None:
    numbers = {"src_mac": np.array([0x005300010203, 5], np.uint64)}
    assert Query.parse("mac:00:53:00:01:02:03").mask(numbers).tolist() == [True, False]
    assert Query.parse("src_mac:0053.0001.0203").mask({"src_mac": ["00:53:00:01:02:03", None]}).tolist() == [
        True,
        False,
    ]


def test_age_is_by_the_clock_that_is_given() -> None:
    columns = {"time_received_ns": np.array([10**18, 10**18 + 90 * 10**9])}
    assert Query.parse("age>1m").mask(columns, now_ns=10**18 + 100 * 10**9).tolist() == [True, False]
    assert Query.parse("age>1m").mask(columns).tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("src:foo", "foo is not an address or a prefix", 4),
        ("bytes>1M and", "a term is missing", 12),
        ("(src:10/8", r"this \( has no \)", 0),
        ("src:10/8)", r"a \) too many", 8),
        ("port:99x", "99x is not a port", 5),
        ("  nonsense:1", "no column or element is called nonsense", 2),
        ("bytes>5m", "5m is not a number", 6),
        ("duration>5M", "5M is not a time", 9),
        ("src<10/8", "src has no order", 0),
        ("flags>2", "flags has no order", 0),
        ("src_addr~(", "the value is missing", 9),
        ("src_addr~[", "unterminated", 9),
        ("proto:zzz", "zzz is not a protocol", 6),
        ("proto:", "the value is missing", 6),
        ('country:"DE', 'this " has no other', 8),
        ("hello", "expected a term", 0),
        ("and src:10/8", "a term is missing", 0),
        ("src:10/8 or or", "a term is missing", 12),
        ("(" * 60 + "a:1", "parentheses", 40),
        ("!" * 60 + "a:1", "nots", 40),
        ("tcp " * 300, "more than 256 terms", 1024),
        ("src:10.0.0.0/33", "is not an address", 4),
    ],
)
def test_errors_say_what_and_where(text: str, message: str, position: int) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        Query.parse(text, ["src_addr", "bytes"])
    assert caught.value.position == position


def test_what_does_not_go_with_a_column() -> None:
    columns: dict[str, Any] = {"x": np.array([1]), "y": ["a"], "z": np.zeros((1, 16), np.uint8)}
    for text, message in (("x~1", "holds numbers"), ("y>1", "no order"), ("z>1", "no order"), ("q:1", "is called q")):
        with pytest.raises(QueryError, match=message):
            Query.parse(text).mask(columns)


@given(st.text('()!:=<>~,and ornt/*"\\0123456789abcdefx.-[]{}+?|^$', max_size=40))
@example("0/0:1")
@example("a:1 (b:2) !c~(x)")
def test_any_text_is_a_query_or_an_error_with_a_place(text: str) -> None:
    columns: dict[str, Any] = {"a": np.arange(3), "bytes": np.arange(3), "b": ["x", None, "y"]}
    error = None
    try:
        found = Query.parse(text).mask(columns)
    except QueryError as caught:
        error = caught
    if error is None:
        assert len(found) == 3
    else:
        assert 0 <= error.position <= len(text) and error.message


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_prefixes(address: int, length: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    found = prefix_of(f"{ipaddress.ip_address(address)}/{length}")
    assert found is not None
    assert found[0][12:] == network.network_address.packed and found[1][12:] == network.netmask.packed
    assert found[0][:12] == bytes(10) + b"\xff\xff" and found[1][:12] == b"\xff" * 12


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1k", 1000),
        ("1K", 1000),
        ("1.5M", 1_500_000),
        ("4KiB", 4096),
        ("2Gi", 2 << 30),
        ("0x1F", 31),
        ("-5", -5),
        ("10B", 10),
        ("1.25", 1.25),
        ("1e3", None),
        ("", None),
        ("k", None),
        ("1m", None),
        ("1.", 1),
    ],
)
def test_numbers(text: str, number: float | None) -> None:
    assert number_of(text) == number


def test_completion() -> None:
    names = ["bytes", "src_addr", "own_column"]
    assert complete("pro", 3, names)[:1] == ["proto:"]
    assert complete("port:443 and proto:u", 20, names) == ["proto:udp", "proto:udplite"]
    assert complete("proto:tcp,ud", 12, names) == ["proto:tcp,udp", "proto:tcp,udplite"]
    assert complete("(own", 4, names) == ["own_column:"]
    assert "sourceIPv4Address:" in complete("not sourceI", 11, names)
    assert {f"{name}:" for name in ALIASES} <= set(complete("", 0, names))
    assert complete("src:10/8 an", 11, names) == ["and"]
    assert complete("bytes:", 6, names) == []


@given(st.text(max_size=20), st.integers(0, 20))
def test_completion_continues_the_word(text: str, cursor: int) -> None:
    cursor = min(cursor, len(text))
    word = re.split(r"[\s()!]", text[:cursor])[-1]
    for found in complete(text, cursor, ["bytes"]):
        assert found.lower().startswith(word.lower().rpartition(",")[0]) and found != word


def test_every_known_name_is_one() -> None:
    for name in known_names():
        Query.parse(f"{name}~x")
