"""Exact tables against a dict."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.enrich import exact
from pyflowx.errors import ConfigError

ADDRESSES = ["192.0.2.1", "192.0.2.2", "::1", "2001:db8::1", "2001:db8::2", "::ffff:192.0.2.3", "2001:db8:0:1::1"]
KEYS = st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 3), st.integers(2**64 - 3, 2**64 - 1)))


def same(address: str) -> str:
    found = ipaddress.ip_address(address)
    return str((found.ipv4_mapped if found.version == 6 else None) or found)


@given(KEYS, KEYS)
def test_three_key_columns(tools: Any, rows: list[Any], asked: list[Any]) -> None:
    text = "sampler_address,in_if,proto,name\n" + "".join(f"{a},{b},{c},n{i}\n" for i, (a, b, c) in enumerate(rows))
    table = tools.load("type=exact,source=t.csv,key=sampler_address;in_if;proto,fields=name", text.encode())
    known = {(same(a), b, c): f"n{i}" for i, (a, b, c) in enumerate(rows)}
    wanted = asked + rows[:5]
    columns = {
        "sampler_address": tools.addresses([a for a, _, _ in wanted]),
        "in_if": tools.integers([b for _, b, _ in wanted]),
        "proto": tools.integers([c for _, _, c in wanted]),
    }
    assert tools.decode(table.apply(columns)["name"]) == [known.get((same(a), b, c)) for a, b, c in wanted]


@given(st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 9)), st.lists(st.integers(0, 2**64 - 1)))
def test_one_integer_column(tools: Any, rows: dict[int, int], asked: list[int]) -> None:
    text = "port,name\n" + "".join(f"{key},{value}\n" for key, value in rows.items())
    table = tools.load("type=exact,source=t.csv,key=dst_port,fields=name:service", text.encode())
    wanted = asked + list(rows)
    found = table.apply({"dst_port": tools.integers(wanted)})
    assert tools.decode(found["service"]) == [rows.get(key) for key in wanted]


def test_narrow_columns_and_nulls(tools: Any) -> None:
    table = tools.load("type=exact,source=t.csv,key=sampler_address+in_if,fields=name", b"a,b,name\n192.0.2.1,7,eth0\n")
    columns = {"sampler_address": tools.addresses(["192.0.2.1"] * 2 + [None], wide=False)}
    columns["in_if"] = tools.integers([7, 8, 7])._replace(values=np.array([7, 8, 7], np.uint16))
    assert tools.decode(table.apply(columns)["name"]) == ["eth0", None, None]
    assert (table.looked_up, table.matched) == (3, 1)


def test_one_table_for_both_interfaces(tools: Any) -> None:
    option = "type=exact,source=t.csv,key_column=exporter;ifindex,"
    option += "fields=sampler_address+in_if@name:in_name;sampler_address+out_if@name:out_name|speed:out_speed"
    table = tools.load(option, b"name,speed,exporter,ifindex\nlo,1,192.0.2.1,1\neth0,1000,192.0.2.1,2\n")
    columns = {
        "sampler_address": tools.addresses(["192.0.2.1"]),
        "in_if": tools.integers([1]),
        "out_if": tools.integers([2]),
    }
    found = {name: tools.decode(column) for name, column in table.apply(columns).items()}
    assert found == {"in_name": ["lo"], "out_name": ["eth0"], "out_speed": [1000]}


def test_key_columns_are_found_by_name_or_come_first(tools: Any) -> None:
    option = "type=exact,source=t.csv,key=proto;dst_port,fields=name"
    columns = {"proto": tools.integers([6]), "dst_port": tools.integers([443])}
    for data in (b"name,dst_port,proto\nhttps,443,6\n", b"p,port,name\n6,443,https\n"):
        assert tools.decode(tools.load(option, data).apply(columns)["name"]) == ["https"]


def test_hashes_that_collide_get_another_seed(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, real = exact._FIRST_SEED, exact._hash
    monkeypatch.setattr(
        exact, "_hash", lambda words, seed: real(words, seed) & np.uint64(0 if seed == first else -1 % 2**64)
    )
    table = tools.load("type=exact,source=t.csv,key=proto;dst_port,fields=name", b"a,b,name\n1,1,x\n1,2,y\n2,1,z\n")
    columns = {"proto": tools.integers([1, 2, 2]), "dst_port": tools.integers([2, 1, 2])}
    assert tools.decode(table.apply(columns)["name"]) == ["y", "z", None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"sampler_address,in_if,name\n192.0.2.1,x,y\n", "t.csv:2: 'x' is no key; expected an integer"),
        (b"sampler_address,in_if,name\n192.0.2.1,-1,y\n", "t.csv:2: '-1' is no key; expected an integer"),
        (b"sampler_address,in_if,name\n\n192.0.2.1,18446744073709551616,y\n", "t.csv:3: '18446744073709551616' is no"),
        (b"sampler_address,in_if,name\n192.0.2.0/24,1,y\n", "t.csv:2: '192.0.2.0/24' is no key; expected an address"),
        (b"name\nx\n", "t.csv:1: 1 columns; expected 2 with the key"),
    ],
)
def test_a_bad_file_says_where_and_what_is_expected(tools: Any, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tools.load("type=exact,source=t.csv,key=sampler_address;in_if,fields=name", data)
    assert str(caught.value).startswith(message)
