"""Values as texts for the cells of tables and details: of those rows only that are on the screen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import text
from .columns import Labels, address_text
from .names import Names, service
from .terms import FLAGS, PROTOCOLS

Array = npt.NDArray[Any]
Render = Callable[[Any], Sequence[str]]

PROTOCOL_NAMES = {number: name.upper() for name, number in PROTOCOLS.items()} | {58: "ICMPv6", 41: "IPv6", 0: "HOPOPT"}
_FLAG_LETTERS = [(bit, letter) for letter, bit in FLAGS.items() if bit < 64]
_BLOCKS = " ▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉█"


def addresses(values: Array) -> list[str]:
    return [address_text(row.tobytes()) for row in values]


def short(address: str, width: int) -> str:
    """An address in so many cells: of a long one the middle is left out, for both its ends tell more."""
    if len(address) <= width:
        return address
    head = width // 2
    return f"{address[:head]}…{address[len(address) - (width - head - 1) :]}"


def short_addresses(width: int) -> Render:
    return lambda values: [short(address_text(row.tobytes()), width) for row in values]


def named(names: Names) -> Render:
    """Addresses as names where there is one."""
    return lambda values: names.addresses([row.tobytes() for row in values])


def services(values: Array) -> list[str]:
    return [service(port, "tcp") if port else "" for port in values.tolist()]


def numbers(values: Array) -> list[str]:
    """0 stands where an exporter sends nothing."""
    return [str(value) if value else "" for value in values.tolist()]


def plain_numbers(values: Array) -> list[str]:
    return [str(value) for value in values.tolist()]


def protocol(number: int) -> str:
    return PROTOCOL_NAMES.get(number, str(number))


def protocols(values: Array) -> list[str]:
    return [protocol(value) for value in values.tolist()]


def _unit_aligned(number: float) -> str:
    """Digits stand below digits: a place is kept where there is no unit."""
    found = text.count(number)
    return f"{found} " if found[-1:].isdigit() else found


def counts(values: Array) -> list[str]:
    return [_unit_aligned(value) for value in values.tolist()]


def rates(values: Array) -> list[str]:
    """Rates; a mere dot where nothing passes, so that the eye finds what does."""
    return [_unit_aligned(value) if value >= 0.05 else "· " for value in values.tolist()]


def octets(values: Array) -> list[str]:
    return [text.octets(value) for value in values.tolist()]


def flag_letters(number: int) -> str:
    """``·AP···``: a place for each of FIN, SYN, RST, PSH, ACK, URG."""
    return "".join(letter if number & bit else "·" for bit, letter in _FLAG_LETTERS) if number else ""


def flags(values: Array) -> list[str]:
    return [flag_letters(value) for value in values.tolist()]


def macs(values: Array) -> list[str]:
    return [f"{value:012x}" if value else "" for value in values.tolist()]


def labels(values: Labels) -> list[str]:
    return [text.clean(label, 256) for label in values.tolist()]


def clock(ns: int) -> str:
    """The time of day in UTC, with milliseconds."""
    if ns <= 0:
        return ""
    seconds, rest = divmod(ns, 1_000_000_000)
    try:
        return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%H:%M:%S}.{rest // 1_000_000:03}"
    except (OverflowError, ValueError, OSError):
        return "?"


def clocks(values: Array) -> list[str]:
    return [clock(value) for value in values.tolist()]


def ages(values: Array) -> list[str]:
    """Time spans in ns; below 0 (a clock that is ahead) as 0."""
    return [text.age(max(0, value)) if value < 1_000_000_000 * 1e9 else "" for value in values.tolist()]


def shares(values: Array) -> list[str]:
    return [f"{100 * value:.1f}%" for value in values.tolist()]


def bar(share: float, width: int) -> str:
    """A share of 1 as a bar of eighths of cells."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0 and eighths == 0:
        eighths = 1
    return "█" * (eighths // 8) + (_PARTS[eighths % 8] if eighths % 8 else "")


def bars(width: int) -> Render:
    return lambda values: [bar(value, width) for value in values.tolist()]


def sparkline(values: Sequence[float], width: int, most: float | None = None) -> str:
    """The last values as columns of eighths, two of the values a cell where there are twice as many."""
    found = np.asarray(values, float)
    if len(found) >= 2 * width:
        found = found[len(found) - 2 * width :].reshape(width, 2).mean(axis=1)
    found = found[-width:]
    top = most if most is not None else float(found.max(initial=0))
    if top <= 0:
        return _BLOCKS[0] * len(found)
    levels = np.ceil(np.clip(found / top, 0, 1) * 8).astype(int)
    return "".join(_BLOCKS[level] for level in levels.tolist())


def sparklines(width: int) -> Render:
    return lambda values: [sparkline(row, width) for row in values]
