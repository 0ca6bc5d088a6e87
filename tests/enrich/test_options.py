"""The text of --enrich, in both spellings."""

from __future__ import annotations

from typing import Any

import pytest

from pyflowx.enrich.options import EXAMPLE, EnrichSpec, Lookup, check_outputs, parse_enrich
from pyflowx.errors import ConfigError

PREFIX = "type=prefix_lookup,source=asn.csv"


def test_the_example_of_the_help(tools: Any) -> None:
    assert parse_enrich(EXAMPLE, tools.columns) == EnrichSpec(
        type="prefix_lookup",
        format="csv",
        source="asn.csv",
        lookups=(Lookup(("dst_addr",), (("asn", "dst_asn"), ("org", "dst_org"))),),
        reload_s=30.0,
    )


@pytest.mark.parametrize(
    ("text", "lookups"),
    [
        ("key=src_addr,fields=asn", [Lookup(("src_addr",), (("asn", "asn"),))]),
        ("key=src_addr,fields=asn|org:o", [Lookup(("src_addr",), (("asn", "asn"), ("org", "o")))]),
        (" key = src_addr , fields = a : b ; c : d ", [Lookup(("src_addr",), (("a", "b"), ("c", "d")))]),
        (
            "fields=src_addr@country.iso_code:src_country|city.names.en:src_city;dst_addr@city.names.en",
            [
                Lookup(("src_addr",), (("country.iso_code", "src_country"), ("city.names.en", "src_city"))),
                Lookup(("dst_addr",), (("city.names.en", "city_names_en"),)),
            ],
        ),
        (
            "key=next_hop,fields=a:x;dst_addr@a:y;b:z",
            [Lookup(("next_hop",), (("a", "x"), ("b", "z"))), Lookup(("dst_addr",), (("a", "y"),))],
        ),
    ],
)
def test_spellings(tools: Any, text: str, lookups: list[Lookup]) -> None:
    assert parse_enrich(f"{PREFIX},{text}", tools.columns).lookups == tuple(lookups)


def test_exact_takes_several_keys_in_any_spelling(tools: Any) -> None:
    for keys in ("sampler_address;in_if", "sampler_address+in_if", "sampler_address|in_if"):
        spec = parse_enrich(f"type=exact,source=i.csv,key={keys},key_column=exporter+if,fields=name", tools.columns)
        assert spec.lookups == (Lookup(("sampler_address", "in_if"), (("name", "name"),)),)
        assert spec.key_columns == ("exporter", "if")


@pytest.mark.parametrize(
    ("text", "command", "timeout"),
    [
        ("command=/bin/list", ("/bin/list",), 30.0),
        ("command=/bin/list timeout=5s", ("/bin/list",), 5.0),
        ("command=/bin/list --all 'two words' timeout=2m", ("/bin/list", "--all", "two words"), 120.0),
        ("command=/bin/list a,b,timeout=1.5s", ("/bin/list", "a,b"), 1.5),
    ],
)
def test_commands(tools: Any, text: str, command: tuple[str, ...], timeout: float) -> None:
    spec = parse_enrich(f"{text},key=dst_addr,fields=a", tools.columns)
    assert (spec.command, spec.timeout_s, spec.source, spec.format) == (command, timeout, "", "csv")


@pytest.mark.parametrize(
    ("text", "reload_s", "watch"),
    [("10s", 10.0, False), ("1m", 60.0, False), ("1h", 3600.0, False), ("never", None, False), ("watch", None, True)],
)
def test_reload(tools: Any, text: str, reload_s: float | None, watch: bool) -> None:
    spec = parse_enrich(f"{PREFIX},key=dst_addr,fields=a,reload={text}", tools.columns)
    assert (spec.reload_s, spec.watch) == (reload_s, watch)


@pytest.mark.parametrize(
    ("source", "format"), [("a.mmdb", "mmdb"), ("A.MMDB", "mmdb"), ("a.csv", "csv"), ("a,format=mmdb", "mmdb")]
)
def test_format(tools: Any, source: str, format: str) -> None:
    assert parse_enrich(f"source={source},key=dst_addr,fields=a", tools.columns).format == format


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name=value pairs, for example type=prefix_lookup"),
        ("sorce=a.csv,key=dst_addr,fields=a", "unknown option 'sorce': did you mean source?"),
        ("zzz=1", "unknown option 'zzz': expected one of type, source"),
        ("key=dst_addr,fields=a", "source= is missing: expected a file, source=asn.csv, or a program"),
        ("source=a,command=b,key=dst_addr,fields=a", "source=a: expected a file"),
        ("source=,key=dst_addr,fields=a", "source= is missing: expected a value"),
        ("source=a,source=b", "source=b: expected it once"),
        ("type=fuzzy,source=a,key=dst_addr,fields=a", "type=fuzzy: expected prefix_lookup or exact"),
        ("source=a,fields=a", "key= is missing: expected the column to look up, key=dst_addr"),
        ("source=a,key=dst_addr", "fields= is missing: expected field:column pairs"),
        ("source=a,key=dst_addr,fields=;", "fields=;: expected field:column pairs"),
        ("source=a,fields=dst_addr@", "fields=dst_addr@: expected field:column pairs"),
        ("source=a,key=dst_addr,fields=a:b c", "fields=a:b c: expected field:column, the column of letters"),
        ("source=a,key=dst_adr,fields=a", "key=dst_adr: expected one of src_addr, dst_addr"),
        ("source=a,key=dst_adr,fields=a", "(did you mean dst_addr?)"),
        ("source=a,key=in_if,fields=a", "key=in_if: expected one of src_addr"),
        ("source=a,key=dst_addr;src_addr,fields=a", "key=dst_addr;src_addr: expected one column"),
        ("type=exact,source=a,key=flow_type,fields=a", "key=flow_type: expected some of src_addr"),
        ("type=exact,source=a,key=in_if;in_if;in_if;in_if;in_if,fields=a", "expected one to 4 columns"),
        ("type=exact,source=a,fields=in_if@a;src_addr@b", "keys of the same kinds in the same order"),
        ("type=exact,source=a,key=in_if,key_column=x;y,fields=a", "key_column=x;y: expected as many names"),
        ("source=a,key=dst_addr,fields=a,reload=soon", "reload=soon: expected a time such as 30s, 1m or 1h, watch or"),
        ("source=a,key=dst_addr,fields=a,reload=0s", "reload=0s: expected a time"),
        ("command=a,key=dst_addr,fields=a,reload=watch", "reload=watch: expected a time such as 1h or never"),
        ("command=a 'b,key=dst_addr,fields=a", "command=a 'b: No closing quotation"),
        ("command=a,timeout=x,key=dst_addr,fields=a", "timeout=x: expected a time such as 30s, 1m or 1h"),
        ("source=a,format=json,key=dst_addr,fields=a", "format=json: expected csv or mmdb"),
        ("type=exact,source=a.mmdb,key=dst_addr,fields=a", ".mmdb file goes with type=prefix_lookup"),
        ("source=a.csv,key=dst_addr,fields=a,b", "fields=a,b: expected field:column"),
    ],
)
def test_errors_name_the_option_and_what_is_accepted(tools: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_enrich(text, tools.columns)
    assert str(caught.value).startswith("--enrich: ") and message in str(caught.value)


def test_results_need_names_of_their_own(tools: Any) -> None:
    one, two = (parse_enrich(f"{PREFIX},key=dst_addr,fields=a:{name}", tools.columns) for name in ("x", "y"))
    check_outputs([one, two], tools.columns)
    for specs in ([one, one], [parse_enrich(f"{PREFIX},key=dst_addr,fields=a:src_addr", tools.columns)]):
        with pytest.raises(ConfigError, match="expected a name that is not taken yet"):
            check_outputs(specs, tools.columns)
