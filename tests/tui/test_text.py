"""Nothing from the network steers the terminal; numbers fit into columns."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyflowx_tui import text

HOSTILE = "eth0\x1b[31m\x1b]0;owned\x07\x9b2J\r\n\t\u202egnp\u200b\ud800\u2028\x00"


def test_what_steers_a_terminal_is_replaced() -> None:
    assert text.clean(HOSTILE) == "eth0�[31m�]0;owned��2J   �gnp����"
    assert text.clean("Zürich → 東京 é 🙂") == "Zürich → 東京 é 🙂"
    assert text.clean(None) == "None" and text.clean(7) == "7"


@given(st.text(st.characters(), max_size=60))
def test_what_is_clean_has_nothing_else(given_text: str) -> None:
    shown = text.clean(given_text)
    assert shown == text.clean(shown)
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for character in shown)
    assert "\n" not in shown and len(shown) <= len(given_text)


def test_a_text_is_bounded_and_does_not_grow_upwards() -> None:
    assert len(text.clean("x" * 10_000)) == 4096
    assert text.clean("a" + "\u0301" * 50 + "b") == "a\u0301\u0301b"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (1234, "1.23k"),
        (45_600_000, "45.6M"),
        (999_999, "1.00M"),
        (0.5, "0.50"),
        (-1500, "-1.50k"),
        (10**24, "1000Z"),
        (None, "—"),
    ],
)
def test_counts(number: float | None, shown: str) -> None:
    assert text.count(number) == shown


def test_octets_and_rates() -> None:
    assert text.octets(1_234_567) == "1.23 MB"
    assert text.octets(1 << 20, binary=True) == "1.00 MiB"
    assert text.rate(2_500_000_000) == "2.50 Gb/s"
    assert text.rate(12, "pkt/s") == "12 pkt/s"


@given(st.integers(0, 10**20))
def test_a_number_is_short_and_right_in_three_digits(number: int) -> None:
    shown = text.count(number)
    prefix = shown.lstrip("0123456789.")
    value = float(shown.removesuffix(prefix)) * 1000 ** " kMGTPEZ".index(prefix or " ")
    assert len(shown) <= 5
    assert value == pytest.approx(number, rel=0.0051)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.4, "0.4s"),
        (12, "12s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (273_600, "3d04h"),
        (0.012, "12ms"),
        (3.4e-4, "340µs"),
        (8.5e-8, "85ns"),
        (-93, "-1m33s"),
        (None, "—"),
    ],
)
def test_ages(seconds: float | None, shown: str) -> None:
    assert text.age(None if seconds is None else seconds * 1e9) == shown
