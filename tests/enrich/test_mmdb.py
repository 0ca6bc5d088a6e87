"""MMDB tables against the maxminddb package on the same file."""

from __future__ import annotations

import io
import ipaddress
import random
from typing import Any

import maxminddb
import mmdb_writer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.enrich import mmdb_records
from pyflowx.enrich.options import parse_enrich
from pyflowx.enrich.table import Enrichment, load_table
from pyflowx.errors import ConfigError

OPTION = "source=t.mmdb,key=dst_addr,fields=country.iso_code:country;n:n;list.1:second;location.latitude:latitude"


def record(number: int) -> dict[str, Any]:
    return {
        "country": {"iso_code": f"C{number % 17}", "names": {"en": f"Land {number}", "de": "Straße"}},
        "n": number,
        "list": [number, {"deep": [1, 2]}] if number % 2 else [],
        **({"location": {"latitude": number / 8}} if number % 3 else {}),
    }


def random_networks(seed: int, version: int) -> list[tuple[str, Any]]:
    rng = random.Random(seed)
    found = [("0.0.0.0/0", record(0))] if seed % 2 else []
    for number in range(300):
        length = rng.randint(1, 32)
        found.append((str(ipaddress.ip_network((rng.getrandbits(32), length), strict=False)), record(number)))
    for number in range(300 if version == 6 else 0):
        length = rng.randint(20, 128)
        value = 0x2003 << 112 | rng.getrandbits(112)
        found.append((str(ipaddress.ip_network((value.to_bytes(16, "big"), length), strict=False)), record(number)))
    return found


def addresses(seed: int) -> list[str]:
    rng = random.Random(seed)
    mapped = [rng.getrandbits(32) for _ in range(1500)]
    six = [0x2003 << 112 | rng.getrandbits(112) for _ in range(1500)]
    aliased = [0x2002 << 112 | rng.getrandbits(112) for _ in range(300)]
    aliased += [0x20010000 << 96 | rng.getrandbits(96) for _ in range(300)]
    others = [rng.getrandbits(128) for _ in range(300)] + [rng.getrandbits(32) for _ in range(100)]
    wide = [str(ipaddress.IPv6Address(value)) for value in six + aliased + others]
    return [str(ipaddress.IPv4Address(value)) for value in mapped] + wide


def expected(reader: Any, text: str, path: list[str | int]) -> Any:
    address = ipaddress.ip_address(text)
    value = reader.get(address) if address.version == 4 or reader.metadata().ip_version == 6 else None
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


@pytest.mark.parametrize("record_size", [24, 28, 32])
@pytest.mark.parametrize(("version", "aliases"), [(4, False), (6, False), (6, True)])
def test_every_look_up_is_that_of_maxminddb(
    tools: Any, monkeypatch: pytest.MonkeyPatch, record_size: int, version: int, aliases: bool
) -> None:
    if record_size == 28:  # as if there were many records: each is looked into when it is met
        monkeypatch.setattr(mmdb_records, "_FEW", 0)
    data = mmdb_writer.write(random_networks(record_size, version), version, record_size, aliases)
    reader = maxminddb.open_database(io.BytesIO(data), maxminddb.MODE_FD)
    table = tools.load(OPTION, data)
    assert table.types() == {"country": "label", "n": "i64", "second": "label", "latitude": "f64"}
    asked = addresses(version)
    found = {name: tools.decode(column) for name, column in table.apply({"dst_addr": tools.addresses(asked)}).items()}
    assert found["country"] == [expected(reader, text, ["country", "iso_code"]) for text in asked]
    assert found["n"] == [expected(reader, text, ["n"]) for text in asked]
    assert found["latitude"] == [expected(reader, text, ["location", "latitude"]) for text in asked]
    assert set(found["second"]) == {None, '{"deep": [1, 2]}'}
    assert len({value for value in found["n"] if value is not None}) > 50
    assert table.table.unfit == 0


@pytest.mark.parametrize(("networks", "hit"), [([], None), ([("::/0", {"a": 1})], 1), ([("::/96", {"a": 2})], None)])
def test_small_trees(tools: Any, networks: list[Any], hit: int | None) -> None:
    data = mmdb_writer.write([*networks, ("8000::/1", {"a": 3})])
    table = tools.load("source=t.mmdb,key=dst_addr,fields=a", data)
    reader = maxminddb.open_database(io.BytesIO(data), maxminddb.MODE_FD)
    asked = ["1.2.3.4", "::1", "1::", "9000::"]
    found = tools.decode(table.apply({"dst_addr": tools.addresses(asked)})["a"])
    assert found == [expected(reader, text, ["a"]) for text in asked]
    assert found[2:] == [hit, 3]


def test_values_of_all_types(tools: Any) -> None:
    rows = [
        ("10.0.0.0/32", {"v": "text"}), ("10.0.0.1/32", {"v": True}), ("10.0.0.2/32", {"v": b"\x01\xff"}),
        ("10.0.0.3/32", {"v": 7}), ("10.0.0.4/32", {"v": {"a": [1]}}), ("10.0.0.5/32", "no map"),
    ]  # fmt: skip
    table = tools.load("source=t.mmdb,key=dst_addr,fields=v", mmdb_writer.write(rows))
    found = table.apply({"dst_addr": tools.addresses([f"10.0.0.{i}" for i in range(7)], wide=False)})
    assert tools.decode(found["v"]) == ["text", "true", "01ff", "7", '{"a": [1]}', None, None]


def test_a_value_of_another_kind_is_null_and_counted(tools: Any) -> None:
    rows = [(f"10.0.0.{i}/32", {"v": value}) for i, value in enumerate([1, "x", 2**63, 2.5, -4, True])]
    table = tools.load("source=t.mmdb,key=dst_addr,fields=v", mmdb_writer.write(rows))
    asked = tools.addresses([f"10.0.0.{i}" for i in range(6)], wide=False)
    assert tools.decode(table.apply({"dst_addr": asked})["v"]) == [1, None, None, None, -4, None]
    assert table.table.unfit == 4
    table.apply({"dst_addr": asked})
    assert table.table.unfit == 4  # decoded once


def test_a_record_is_decoded_once_and_its_value_stored_once(tools: Any) -> None:
    rows = [(f"10.0.{i}.0/24", {"v": f"v{i % 3}", "n": i}) for i in range(50)]
    table = tools.load("source=t.mmdb,key=dst_addr,fields=v", mmdb_writer.write(rows))
    asked = tools.addresses([f"10.0.{i % 50}.1" for i in range(500)], wide=False)
    first = table.apply({"dst_addr": asked})["v"]
    again = table.apply({"dst_addr": asked})["v"]
    assert first.labels is again.labels and sorted(first.labels) == ["v0", "v1", "v2"]
    assert tools.decode(first) == [f"v{i % 50 % 3}" for i in range(500)]


def test_pointers_of_all_widths(tools: Any) -> None:
    sizes = [10, 3_000, 600_000, *range(16_000_000, 16_000_009), 20]  # a text has 16 MiB at most
    rows = [(f"10.0.0.{i}/32", {"skip": {"me": ["x" * size] * 2}, f"k{i}": f"v{i}"}) for i, size in enumerate(sizes)]
    rows += [(f"10.0.1.{i}/32", {f"k{i}": f"v{i}", "k": {"deep": [0, f"v{i}"]}}) for i in range(len(sizes))]
    data = mmdb_writer.write(rows, record_size=32)
    fields = ";".join(f"k{i}" for i in range(len(sizes))) + ";k.deep.1:deep"
    found = tools.load(f"source=t.mmdb,key=dst_addr,fields={fields}", data).apply(
        {"dst_addr": tools.addresses([f"10.0.{net}.{i}" for net in (0, 1) for i in range(len(sizes))], wide=False)}
    )
    values = {name: [value for value in tools.decode(column) if value is not None] for name, column in found.items()}
    assert values == {f"k{i}": [f"v{i}"] * 2 for i in range(len(sizes))} | {
        "deep": [f"v{i}" for i in range(len(sizes))]
    }


def test_a_field_that_no_record_has_is_an_error_with_those_that_there_are(tools: Any) -> None:
    data = mmdb_writer.write([("10.0.0.0/8", {"country": {"iso_code": "DE"}, "list": [1]})])
    with pytest.raises(
        ConfigError, match=r"no field 'country\.code' in it; the fields are: country\.iso_code, list\.0"
    ):
        tools.load("source=t.mmdb,key=dst_addr,fields=country.code:c", data)


def test_a_reload_keeps_the_kinds(tools: Any) -> None:
    spec = parse_enrich("source=t.mmdb,key=dst_addr,fields=v", tools.columns)
    before = load_table(spec, mmdb_writer.write([("10.0.0.0/8", {"v": 1.5})]), tools.columns)
    after = load_table(spec, mmdb_writer.write([("10.0.0.0/8", {"v": 3})]), tools.columns, before)
    found = tools.decode(Enrichment(spec, after).apply({"dst_addr": tools.addresses(["10.0.0.1"])})["v"])
    assert found == [3.0] and type(found[0]) is float


def valid_file() -> bytes:
    octets: bytes = mmdb_writer.write([("10.0.0.0/8", record(1)), ("2003::/20", record(2))], 6, 28, True)
    return octets


@pytest.mark.parametrize("data", [b"", b"prefix,asn\n10.0.0.0/8,1\n", b"\xab\xcd\xefMaxMind.com", b"x" * 300_000])
def test_what_is_no_mmdb_file(tools: Any, data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^t\.mmdb: (no MaxMind DB metadata|its metadata)"):
        tools.load(OPTION, data)


def test_a_file_cut_short(tools: Any) -> None:
    data = valid_file()
    metadata = data[data.index(mmdb_writer.MARKER) :]
    with pytest.raises(ConfigError, match="ends inside its search tree"):
        tools.load(OPTION, data[:500] + metadata)


@pytest.mark.parametrize(("node", "name"), [(0, "loops"), (0xFFFFFFF, "points behind its data")])
def test_a_tree_that_is_none(tools: Any, node: int, name: str) -> None:
    data = bytearray(valid_file())
    data[:7] = mmdb_writer.Writer(6, 28)._node(node, node)
    with pytest.raises(ConfigError, match=name):
        tools.load(OPTION, bytes(data))


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=20))
def test_damage_is_an_error_or_nulls_and_never_more(tools: Any, damage: list[tuple[int, int]]) -> None:
    data = bytearray(valid_file())
    for place, octet in damage:
        data[place % len(data)] = octet
    try:
        table = tools.load(OPTION, bytes(data))
    except ConfigError:
        return
    found = table.apply({"dst_addr": tools.addresses(addresses(1))})
    assert all(len(column.values) == len(addresses(1)) for column in found.values())
