"""Longest prefix match of CSV tables against a search through all prefixes with :mod:`ipaddress`."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.errors import ConfigError

OPTION = "source=t.csv,key=dst_addr,fields=id:dst_id"
ENDS = ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::ffff:ffff:ffff", "::1:0:0:0"]


@st.composite
def networks(draw: st.DrawFn) -> list[Any]:
    """Prefixes that overlap, repeat and touch: few bits vary."""
    found = []
    for _ in range(draw(st.integers(0, 25))):
        if draw(st.booleans()):
            base, bits, cls = 10 << 24, 32, ipaddress.IPv4Network
        else:
            base, bits, cls = 0x20010DB8 << 96, 128, ipaddress.IPv6Network
        length = draw(st.sampled_from([0, 1, 6, 8, 12, 16, 24, 31, 32, 33, 48, 63, 64, 65, 66, 100, 127, 128]))
        noise = draw(st.integers(0, 7)) << draw(st.sampled_from([0, 8, 16, 24, 29, 61, 62, 63, 64, 80, 120, 125]))
        value = (base ^ noise) & ((1 << bits) - 1)
        found.append(cls((value, min(length, bits)), strict=False))
    return found


def csv_of(rows: list[Any]) -> bytes:
    return b"prefix,id\n" + b"".join(f"{row},{number}\n".encode() for number, row in enumerate(rows))


def oracle(rows: list[Any], address: Any) -> int | None:
    mapped = address.ipv4_mapped if address.version == 6 else None
    address = mapped or address
    holding = [(row.prefixlen, number) for number, row in enumerate(rows) if address in row]
    return max(holding)[1] if holding else None


def near(rows: list[Any]) -> list[str]:
    """The edges of all prefixes and what lies beside them."""
    found = list(ENDS)
    for row in rows:
        limit = (1 << row.max_prefixlen) - 1
        edges = int(row.network_address), int(row.broadcast_address)
        cls = type(row.network_address)
        found += [str(cls(place)) for edge in edges for place in (edge - 1, edge, edge + 1) if 0 <= place <= limit]
    return found


@given(networks())
def test_the_longest_prefix_counts_and_of_equal_ones_the_last(tools: Any, rows: list[Any]) -> None:
    table = tools.load(OPTION, csv_of(rows))
    asked = near(rows)
    found = table.apply({"dst_addr": tools.addresses(asked)})
    assert tools.decode(found["dst_id"]) == [oracle(rows, ipaddress.ip_address(text)) for text in asked]
    four = [text for text in asked if "." in text and ":" not in text]
    found = table.apply({"dst_addr": tools.addresses(four, wide=False)})
    assert tools.decode(found["dst_id"]) == [oracle(rows, ipaddress.ip_address(text)) for text in four]


@pytest.mark.parametrize("version", [4, 6])
def test_many_prefixes(tools: Any, version: int) -> None:
    """Enough for a direct table with several intervals in a bucket; the oracle asks a dict per length."""
    rng = random.Random(version)
    bits, cls = (32, ipaddress.IPv4Network) if version == 4 else (128, ipaddress.IPv6Network)
    lengths = [8, 16, 20, 24, 28, 32] if version == 4 else [16, 32, 48, 64, 96, 128]
    few = [rng.getrandbits(bits) for _ in range(40)]
    rows = []
    for _ in range(20_000):
        value = rng.choice(few) ^ rng.getrandbits(rng.choice([4, 12, 20, bits - 8]))
        rows.append(cls((value, rng.choice(lengths)), strict=False))
    known = {(row.prefixlen, int(row.network_address)): number for number, row in enumerate(rows)}
    asked = [int(rng.choice(rows).network_address) ^ rng.getrandbits(rng.choice([2, 10, 30])) for _ in range(20_000)]

    def expected(value: int) -> int | None:
        for length in reversed(lengths):
            number = known.get((length, value >> (bits - length) << (bits - length)))
            if number is not None:
                return number
        return None

    texts = [str(ipaddress.ip_address(value.to_bytes(bits // 8, "big"))) for value in asked]
    found = tools.load(OPTION, csv_of(rows)).apply({"dst_addr": tools.addresses(texts)})
    assert tools.decode(found["dst_id"]) == [expected(value) for value in asked]


def test_fields_kinds_and_quotes(tools: Any) -> None:
    data = b'asn,prefix,org,share\r\n64500,192.0.2.0/24,"A, ""B""",0.5\r\n,"2001:db8::/32",C,\r\n'
    table = tools.load("source=t.csv,key=src_addr,fields=org:src_org;asn:src_asn;share", data)
    assert table.types() == {"src_org": "label", "src_asn": "i64", "share": "f64"}
    found = table.apply({"src_addr": tools.addresses(["192.0.2.9", "2001:db8::1", "::", None])})
    assert {name: tools.decode(column) for name, column in found.items()} == {
        "src_org": ['A, "B"', "C", None, None],
        "src_asn": [64500, None, None, None],
        "share": [0.5, None, None, None],
    }
    assert (table.looked_up, table.matched) == (4, 2)


def test_both_addresses_look_into_one_table_and_an_absent_column_is_left_out(tools: Any) -> None:
    table = tools.load("source=t.csv,fields=src_addr@id:a|id:b;dst_addr@id:c", b"prefix,id\n10.0.0.0/8,x\n")
    found = table.apply({"dst_addr": tools.addresses(["10.1.1.1", "11.1.1.1"], wide=False)})
    assert {name: tools.decode(column) for name, column in found.items()} == {"c": ["x", None]}
    found = table.apply({name: tools.addresses(["10.1.1.1"]) for name in ("src_addr", "dst_addr")})
    assert {name: tools.decode(column) for name, column in found.items()} == {"a": ["x"], "b": ["x"], "c": ["x"]}


def test_a_mapped_prefix_is_ipv4_and_an_ipv6_default_route_is_not(tools: Any) -> None:
    table = tools.load(OPTION, b"prefix,id\n::ffff:192.0.2.0/120,four\n::/0,six\n")
    found = table.apply({"dst_addr": tools.addresses(["192.0.2.1", "192.0.3.1", "::1", "::ffff:192.0.2.1"])})
    assert tools.decode(found["dst_id"]) == ["four", None, "six", "four"]


def test_no_rows(tools: Any) -> None:
    table = tools.load(OPTION, csv_of([]))
    for wide in (True, False):
        found = table.apply({"dst_addr": tools.addresses([], wide)})
        assert found["dst_id"].values.dtype == np.int32 and not len(found["dst_id"].values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t.csv:1: the file is empty"),
        (b"network,id\n10.0.0.0/8,1\n", "t.csv:1: no column 'prefix' for the prefixes; key_column= names another"),
        (b"prefix,name\n", "t.csv:1: no column 'id' for fields=id; the columns are: prefix, name"),
        (b"prefix,id\n10.0.0.0/8,1\n\n10.0.0.0/33,2\n", "t.csv:4: '10.0.0.0/33' is no prefix; expected one such as"),
        (b"prefix,id\n10.0.0.0/8,1\n2001::/16,1\nx,2\ny,3\n", "t.csv:4: 'x' is no prefix"),
        (b"prefix,id\n10.0.0.0/8\n", "t.csv:2: 1 columns; expected 2"),
    ],
)
def test_a_bad_file_says_where_and_what_is_expected(tools: Any, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tools.load(OPTION, data)
    assert str(caught.value).startswith(message)


def test_another_key_column(tools: Any) -> None:
    table = tools.load(OPTION + ",key_column=network", b"id,network\n7,10.0.0.0/8\n")
    assert tools.decode(table.apply({"dst_addr": tools.addresses(["10.0.0.1"])})["dst_id"]) == [7]
