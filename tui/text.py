"""Text for a terminal: what came from the network without anything that steers one; numbers as short as columns."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "�"  # U+FFFD stands for every character that is not shown
_STEERS = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_MARKS = 2  # combining ones that may follow a character: more would grow over the rows above

_DECIMAL = ("", "k", "M", "G", "T", "P", "E", "Z")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi")


def clean(text: object, limit: int = 4096) -> str:
    """One line that is safe to show, of at most ``limit`` characters.

    Control codes (C0, C1, and so ANSI sequences), format characters (bidirectional overrides, zero width), lone
    surrogates, private and unassigned code points become U+FFFD, tabs and line ends a space; at most two combining
    marks stay on a character.
    """
    text = text if isinstance(text, str) else str(text)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    made, marks = [], 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me", "Mc") else 0
        if marks > _MARKS:
            continue
        if character in "\t\n\r" or category == "Zs":
            made.append(" ")
        else:
            made.append(REPLACEMENT if category in _STEERS else character)
    return "".join(made)


def _scaled(number: float, base: float, units: tuple[str, ...]) -> tuple[str, str]:
    """Three significant digits, and the unit's prefix."""
    size, power = abs(number), 0
    while size >= base * (1 - 0.0005) and power < len(units) - 1:
        size /= base
        power += 1
    if size >= 99.95 or (power == 0 and size == int(size)):
        digits = f"{size:.0f}"
    else:
        digits = f"{size:.2f}" if size < 9.995 else f"{size:.1f}"
    return ("-" if number < 0 else "") + digits, units[power]


def count(number: float | None) -> str:
    """``999``, ``1.23k``, ``45.6M``; an em dash where nothing is known."""
    return "—" if number is None else "".join(_scaled(number, 1000, _DECIMAL))


def octets(number: float | None, binary: bool = False) -> str:
    """``512 B``, ``1.23 MB``, or ``1.17 MiB``."""
    if number is None:
        return "—"
    digits, prefix = _scaled(number, 1024 if binary else 1000, _BINARY if binary else _DECIMAL)
    return f"{digits} {prefix}B"


def rate(number: float | None, unit: str = "b/s") -> str:
    """``number`` of a unit that there are in a second: ``1.23 Mb/s``."""
    if number is None:
        return "—"
    digits, prefix = _scaled(number, 1000, _DECIMAL)
    return f"{digits} {prefix}{unit}"


_AGES = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


def age(ns: float | None) -> str:
    """A time span: ``3d04h``, ``2h05m``, ``3m12s``, ``12s``, ``0.4s``, ``12ms``, ``340µs``, ``85ns``."""
    if ns is None:
        return "—"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    seconds = ns / 1e9
    for size, unit, smaller, small in _AGES:
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{sign}{whole}{unit}{rest // smaller:02}{small}"
    if seconds >= 9.95:
        return f"{sign}{int(seconds)}s"
    if seconds >= 0.0995:
        return f"{sign}{seconds:.1f}s"
    if ns >= 1e6:
        return f"{sign}{ns / 1e6:.0f}ms"
    return f"{sign}{ns / 1e3:.0f}µs" if ns >= 1e3 else f"{sign}{ns:.0f}{'ns' if ns else 's'}"
