"""Address text against :mod:`ipaddress`, one row at a time."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import Octets
from pyflowx.enrich.addresses import halves, is_mapped, parse_prefixes
from pyflowx.enrich.cells import MARGIN, padded

IPV4 = st.builds(lambda v, n: f"{ipaddress.IPv4Address(v)}/{n}", st.integers(0, 2**32 - 1), st.integers(0, 32))
IPV6_VALUES = st.one_of(
    st.integers(0, 2**128 - 1),
    st.lists(st.sampled_from([0, 0, 1, 0xFFFF, 0x12, 0xABC]), min_size=8, max_size=8).map(
        lambda groups: sum(group << 16 * place for place, group in enumerate(groups))
    ),
)


def spellings(value: int, length: int, style: int) -> str:
    address = ipaddress.IPv6Address(value)
    text = (address.compressed, address.exploded, address.compressed.upper(), address.compressed)[style]
    return text if style == 3 else f"{text}/{length}"


IPV6 = st.builds(spellings, IPV6_VALUES, st.integers(0, 128), st.integers(0, 3))
MIXED = st.builds(lambda v: f"::ffff:{ipaddress.IPv4Address(v)}", st.integers(0, 2**32 - 1))
NEAR = st.text(alphabet="0123456789abcdefg:./ ", max_size=24)


def oracle(text: str) -> tuple[int, int] | None:
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None
    if network.version == 4:
        return int(network.network_address) | 0xFFFF << 32, network.prefixlen + 96
    return int(network.network_address), network.prefixlen


def cells(texts: list[str]) -> Octets:
    """As a CSV column: other text between the rows."""
    encoded = [text.encode() for text in texts]
    lengths = np.array([len(text) for text in encoded], np.int64)
    starts = MARGIN + np.cumsum(lengths + 3) - lengths - 2
    return Octets(padded(b"".join(b"," + text + b"/8" for text in encoded)), starts, lengths)


def parse(texts: list[str]) -> list[tuple[int, int] | None]:
    found = parse_prefixes(cells(texts))
    rows = zip(found.high.tolist(), found.low.tolist(), found.length.tolist(), found.ok.tolist(), strict=True)
    return [(high << 64 | low, length) if ok else None for high, low, length, ok in rows]


@given(st.lists(st.one_of(IPV4, IPV6, MIXED), min_size=1, max_size=40))
def test_columns_of_prefixes_read_as_ipaddress_reads_them(texts: list[str]) -> None:
    assert parse(texts) == [oracle(text) for text in texts]


@given(NEAR)
def test_what_is_nearly_a_prefix_is_judged_as_ipaddress_does(text: str) -> None:
    assert parse([text]) == [oracle(text)]


@given(st.one_of(IPV4, IPV6), st.integers(0, 50), st.sampled_from("0:./f9 "))
def test_one_wrong_octet_is_judged_as_ipaddress_does(text: str, place: int, octet: str) -> None:
    place %= len(text)
    for changed in (text[:place] + octet + text[place + 1 :], text[:place] + octet + text[place:], text[:place]):
        assert parse([changed]) == [oracle(changed)]


@pytest.mark.parametrize(
    "text",
    [
        "", "/", ":", "::", "::/0", ":::", "1::2::3", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7",
        "::2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "1:2:3:4::5:6:7:8", "1::8/129", "1::/064", "01.2.3.4", "1.2.3.4/33",
        "1.2.3.4/032", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.4/", "1..2.3", "12345::", "fe80::1%eth0",
        "0.0.0.0/0", "::ffff:1.2.3.4/120", "1.2.3.4/24",
    ],
)  # fmt: skip
def test_edges(text: str) -> None:
    assert parse([text]) == [oracle(text)]


def test_rows_behind_the_first_bad_one_do_not_matter_but_it_is_found() -> None:
    found = parse(["10.0.0.0/8", "nonsense", "2001:db8::/32"])
    assert found[0] == oracle("10.0.0.0/8") and found[1] is None


def test_halves_and_mapped() -> None:
    rows = [ipaddress.IPv6Address(text) for text in ("::ffff:192.0.2.1", "2001:db8::1", "::1")]
    high, low = halves(np.frombuffer(b"".join(row.packed for row in rows), np.uint8).reshape(-1, 16))
    assert [h << 64 | n for h, n in zip(high.tolist(), low.tolist(), strict=True)] == [int(row) for row in rows]
    assert is_mapped(high, low).tolist() == [True, False, False]
