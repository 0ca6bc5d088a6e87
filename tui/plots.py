"""Numbers over time as pictures of characters: braille dots, four a cell in height and two in width."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget

from . import text

_BRAILLE = 0x2800
_LEFT, _RIGHT = (0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08)  # dots of a column from the bottom to the top
_EMPTY = "⠀"


def resample(values: Sequence[float | None], n: int) -> list[float | None]:
    """The last values as n numbers: the largest of each part where there are more, with nothing before them where
    there are less."""
    count = len(values)
    if count <= n:
        return [None] * (n - count) + list(values)
    found: list[float | None] = []
    for place in range(n):
        part = [value for value in values[place * count // n : (place + 1) * count // n] if value is not None]
        found.append(max(part) if part else None)
    return found


def braille(values: Sequence[float | None], width: int, height: int, top: float) -> list[str]:
    """An area below a curve, ``height`` lines of ``width`` cells; ``top`` is the number at the upper edge. What is
    above nothing has a dot at least; None leaves a gap."""
    dots = resample(values, 2 * width)
    most = 4 * height
    levels = [
        0 if value is None or value <= 0 else max(1, min(most, round(value / top * most) if top > 0 else 0))
        for value in dots
    ]
    lines = []
    for line in range(height - 1, -1, -1):
        cells = []
        for left, right in zip(levels[::2], levels[1::2], strict=True):
            code = sum(_LEFT[: max(0, min(4, left - 4 * line))]) + sum(_RIGHT[: max(0, min(4, right - 4 * line))])
            cells.append(chr(_BRAILLE + code))
        lines.append("".join(cells))
    return lines


def nice_top(values: Sequence[float | None]) -> float:
    """The edge of a plot: 1, 2 or 5 times a power of ten, at least the largest value."""
    most = max((value for value in values if value is not None), default=0.0)
    if most <= 0:
        return 1.0
    power = 10.0 ** int(f"{most:e}".split("e")[1])
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most)


class Plot(Widget):
    """A plot with a title, its last value and the number at its upper edge. ``show`` may be called at any time."""

    DEFAULT_CSS = "Plot { height: 1fr; min-height: 4; width: 1fr; padding: 0 2 0 0; }"

    def __init__(self, title: str, unit: str = "", style: str = "$text-accent") -> None:
        super().__init__()
        self.title, self.unit, self.style = title, unit, style
        self.values: Sequence[float | None] = ()
        self.limit: float | None = None

    def show(self, values: Sequence[float | None], limit: float | None = None) -> None:
        """``limit``: the number at the upper edge, if it is not to follow the values."""
        self.values, self.limit = values, limit
        self.refresh()

    def _number(self, value: float | None) -> str:
        return text.rate(value, self.unit).rstrip()

    def render(self) -> Content:
        width, height = max(8, self.content_size.width), max(1, self.content_size.height - 1)
        shown = [value for value in self.values if value is not None]
        top = self.limit if self.limit is not None else nice_top(self.values)
        now, edge = (self._number(shown[-1]) if shown else "—"), f"⌈{self._number(top)}"
        room = width - len(self.title) - len(now) - 2
        head: list[str | tuple[str, str]] = [
            (self.title, "bold"),
            "  ",
            (now, self.style),
            (edge.rjust(room) if len(edge) < room else "", "$text-muted"),
        ]
        if not shown:
            return Content.assemble(*head, "\n", ("nothing yet", "$text-muted"))
        lines = braille(self.values, width, height, top)
        return Content.assemble(*head, *(("\n" + line, self.style) for line in lines))
