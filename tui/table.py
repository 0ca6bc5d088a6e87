"""A table of columns on Textual's line API: only the rows on the screen are ever made into text.

A view gives columns (NumPy arrays or lists of n values), keys (one a row, so that the cursor stays on its row when
others come and go) and, if it has sorted or filtered them itself, the order of rows that is shown. What is on the
screen is rendered column by column, once for each change; moving the cursor costs two lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

Order = npt.NDArray[np.int64]
Values = Any  # npt.NDArray, list[str], or anything with take(Order) -> Values and __len__
GAP = 1  # cells between two columns


def plain(values: Values) -> list[str]:
    """Values as they are."""
    return [str(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]


def take(values: Values, rows: Order) -> Values:
    """Some rows of a column of any kind."""
    if isinstance(values, list):
        return [values[row] for row in rows.tolist()]
    return values.take(rows, axis=0) if isinstance(values, np.ndarray) else values.take(rows)


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A column of a table.

    ``width``: cells that it would like; it shrinks to ``min_width`` (0: not) before the table scrolls sideways, and
    grows by its share ``flex`` of what is left. ``render``: values of the rows on the screen to texts, which must be
    clean (:mod:`pyflowx_tui.text`). ``style``: a name of :data:`STYLES`, or values to one name a row.
    """

    name: str
    title: str
    width: int = 10
    min_width: int = 0
    align: Literal["left", "right"] = "left"
    render: Callable[[Any], Sequence[str]] = plain
    style: str | Callable[[Any], Sequence[str]] = "text"
    flex: int = 0
    help: str = ""


STYLES = ("text", "dim", "number", "address", "accent", "good", "warn", "bad", "bar", "spark", "head")


@dataclass(slots=True)
class Rows:
    """n rows as columns by name; ``keys`` are distinct, of any type that can be compared. ``order``: the rows that are
    shown, in their order (None: all as they are)."""

    columns: Mapping[str, Values] = field(default_factory=dict)
    keys: Values = field(default_factory=list)
    order: Order | None = None

    def __len__(self) -> int:
        return len(self.keys) if self.order is None else len(self.order)

    def at(self, first: int, last: int) -> Order:
        """The places in the columns of the rows that are shown from ``first`` to ``last``."""
        if self.order is None:
            return np.arange(first, min(last, len(self.keys)))
        return self.order[first:last]

    def key(self, row: int) -> Any:
        """The key of a row that is shown."""
        return self.keys[int(self.at(row, row + 1)[0])]

    def find(self, key: Any) -> int | None:
        """Where a key is shown."""
        if key is None or not len(self):
            return None
        if isinstance(self.keys, np.ndarray):
            shown = self.keys if self.order is None else self.keys[self.order]
            places = np.flatnonzero(shown == key)
            return int(places[0]) if len(places) else None
        try:
            place = self.keys.index(key)
        except ValueError:
            return None
        if self.order is None:
            return int(place)
        places = np.flatnonzero(self.order == place)
        return int(places[0]) if len(places) else None


class Table(ScrollView, can_focus=True):
    """The widget. ``fixed``: how many columns stay when the others scroll sideways."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *(f"table--{name}" for name in STYLES),
        "table--header",
        "table--sorted",
        "table--cursor",
        "table--odd",
        "table--even",
    }
    DEFAULT_CSS = """
    Table {
        background: $background; color: $foreground; height: 1fr; overflow-x: auto; overflow-y: scroll;
        scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0;
        & > .table--text { color: $foreground; }
        & > .table--dim { color: $foreground-muted; }
        & > .table--number { color: $foreground; }
        & > .table--address { color: $text-primary; }
        & > .table--accent { color: $text-accent; }
        & > .table--good { color: $text-success; }
        & > .table--warn { color: $text-warning; }
        & > .table--bad { color: $text-error; text-style: bold; }
        & > .table--bar { color: $primary; }
        & > .table--spark { color: $text-success; }
        & > .table--head { color: $text-accent; text-style: bold; }
        & > .table--header { background: $panel; color: $foreground; text-style: bold; }
        & > .table--sorted { background: $panel; color: $text-accent; text-style: bold; }
        & > .table--cursor { background: $block-cursor-blurred-background; }
        & > .table--odd { background: $surface; }
        & > .table--even { background: $background; }
        &:focus > .table--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="table.page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="table.page-down"),
        Binding("home", "edge(0)", "First row", show=False, id="table.first"),
        Binding("end,G", "edge(1)", "Last row", show=False, id="table.last"),
        Binding("left", "sideways(-1)", "Columns to the left", show=False, id="table.left"),
        Binding("right", "sideways(1)", "Columns to the right", show=False, id="table.right"),
        Binding("enter", "select", "Detail", show=False, id="table.select"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)

    class Selected(Message):
        """Enter, or a second click: ``row`` is the row's place in the columns."""

        def __init__(self, table: Table, key: Any, row: int) -> None:
            super().__init__()
            self.table, self.key, self.row = table, key, row

    class HeaderClicked(Message):
        """A click on the title of a column."""

        def __init__(self, table: Table, column: str) -> None:
            super().__init__()
            self.table, self.column = table, column

    def __init__(self, specs: Sequence[ColumnSpec], *, fixed: int = 0, id: str | None = None) -> None:
        super().__init__(id=id)
        self.specs: tuple[ColumnSpec, ...] = tuple(specs)
        self.rows = Rows()
        self.fixed = fixed
        self.sorted_by: tuple[str, bool] | None = None  # (name, descending), shown in the header
        self.empty = ""  # what is said where there are no rows
        self._key: Any = None
        self._widths = lay_out(self.specs, 80)  # until there is a size
        self._lines: dict[tuple[int, bool], Strip] = {}
        self._style_cache: dict[str, Style] = {}
        self._block: tuple[int, list[Sequence[str]], list[str | Sequence[str]]] | None = None

    # -- what is shown -------------------------------------------------------------------------------------------------

    def set_specs(self, specs: Sequence[ColumnSpec], fixed: int | None = None) -> None:
        """Other columns; rows that have them must be set next."""
        self.specs, self.rows = tuple(specs), Rows()
        self.fixed = self.fixed if fixed is None else fixed
        self._lay_out()

    def set_rows(self, rows: Rows) -> None:
        """Show these. The cursor goes with its row's key, and stays where it is if that has gone."""
        top = self.cursor - int(self.scroll_offset.y)
        self.rows = rows
        place = rows.find(self._key) if self._key is not None else None
        moved = place is not None and place != self.cursor
        self.set_reactive(Table.cursor, min(max(0, place if place is not None else self.cursor), max(0, len(rows) - 1)))
        self._key = rows.key(self.cursor) if (len(rows) and self.cursor > 0) or place is not None else None
        self._lay_out()
        if moved:  # it keeps its height on the screen
            self.scroll_to(y=max(0, self.cursor - top), animate=False, force=True)

    @property
    def cursor_key(self) -> Any:
        """The key of the row under the cursor; None where there are no rows."""
        return self.rows.key(self.cursor) if len(self.rows) else None

    @property
    def cursor_row(self) -> int | None:
        """Its place in the columns."""
        return int(self.rows.at(self.cursor, self.cursor + 1)[0]) if len(self.rows) else None

    def _lay_out(self) -> None:
        self._widths = lay_out(self.specs, self.size.width - self.styles.scrollbar_size_vertical)
        self.virtual_size = Size(sum(self._widths) + GAP * max(0, len(self.specs) - 1), len(self.rows) + 1)
        self._forget()

    def _forget(self) -> None:
        self._lines.clear()
        self._block = None
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        self._lay_out()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._style_cache.clear()
        self._forget()

    def watch_has_focus(self, has_focus: bool) -> None:
        super().watch_has_focus(has_focus)
        self._style_cache.clear()
        self._forget()

    # -- lines ---------------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        if y == 0:
            return self._cached(-1, False)
        row = y - 1 + int(self.scroll_offset.y)
        if row >= len(self.rows):
            if not len(self.rows) and self.empty:
                return self._empty_line(y)
            return Strip.blank(self.size.width, self._style("even"))
        return self._cached(row, row == self.cursor)

    def _cached(self, row: int, is_cursor: bool) -> Strip:
        strip = self._lines.get((row, is_cursor))
        if strip is None:
            strip = self._header() if row < 0 else self._row(row, is_cursor)
            self._lines[row, is_cursor] = strip
        return strip

    def watch_scroll_x(self, old: float, new: float) -> None:
        super().watch_scroll_x(old, new)
        if round(old) != round(new):
            self._lines.clear()

    def watch_scroll_y(self, old: float, new: float) -> None:
        super().watch_scroll_y(old, new)
        if len(self._lines) > 2000:
            self._lines.clear()

    def _style(self, name: str) -> Style:
        style = self._style_cache.get(name)
        if style is None:
            style = self._style_cache[name] = self.get_component_rich_style(
                f"table--{name}", partial=name not in _WHOLE
            )
        return style

    def _empty_line(self, y: int) -> Strip:
        lines = self.empty.splitlines()
        first = max(1, (self.size.height - len(lines)) // 2 - 1)
        text = lines[y - first] if first <= y < first + len(lines) else ""
        style = self._style("even") + self._style("head" if y == first else "dim")
        return Strip([Segment(set_cell_size(text.center(self.size.width), self.size.width), style)])

    def _texts(self, row: int) -> tuple[int, list[Sequence[str]], list[str | Sequence[str]]]:
        """The texts and styles of the rows on the screen, of which ``row`` is one: (first row, texts, styles)."""
        if self._block is None or not 0 <= row - self._block[0] < len(self._block[1][0]):
            first = min(int(self.scroll_offset.y), row)
            rows = self.rows.at(first, max(first + self.size.height + 8, row + 1))
            texts: list[Sequence[str]] = []
            styles: list[str | Sequence[str]] = []
            for spec in self.specs:
                values = take(self.rows.columns[spec.name], rows)
                texts.append(spec.render(values))
                styles.append(spec.style if isinstance(spec.style, str) else spec.style(values))
            self._block = first, texts, styles
        return self._block

    def _row(self, row: int, is_cursor: bool) -> Strip:
        first, texts, styles = self._texts(row)
        place = row - first
        cells = []
        for text, style in zip(texts, styles, strict=True):
            cells.append((text[place], self._style(style if isinstance(style, str) else style[place])))
        ground = self._style("cursor") if is_cursor else self._style("odd" if row % 2 else "even")
        return self._line(cells, ground, is_cursor)

    def _header(self) -> Strip:
        cells = []
        for spec in self.specs:
            by, descending = self.sorted_by or ("", False)
            mark = ("▼" if descending else "▲") if spec.name == by else ""
            cells.append((spec.title + mark, self._style("sorted" if mark else "header")))
        strip = self._line(cells, self._style("header"), False)
        if self.virtual_size.width - self.scroll_offset.x > self.size.width:  # there are columns further right
            last = self.size.width - self.styles.scrollbar_size_vertical - 1
            more = Strip([Segment("›", self._style("sorted"))])  # noqa: RUF001
            strip = Strip.join([strip.crop(0, last), more, strip.crop(last + 1)])
        return strip

    def _line(self, cells: list[tuple[str, Style]], ground: Style, override: bool) -> Strip:
        """Cells to a line as wide as the table; ``override``: the ground's colours win (the cursor)."""
        width, scrolled = self.size.width, int(self.scroll_offset.x)
        fixed: list[Segment] = []
        rest: list[Segment] = []
        x = end = start = 0
        for place, ((text, style), cell_width, spec) in enumerate(zip(cells, self._widths, self.specs, strict=True)):
            if place < self.fixed:
                end = x + cell_width + GAP
            elif x + cell_width + GAP <= scrolled + end or x >= scrolled + width:
                x += cell_width + GAP
                continue
            segment = Segment(
                fit(text, cell_width, spec.align) + " " * GAP, style + ground if override else ground + style
            )
            if place < self.fixed:
                fixed.append(segment)
            else:
                if not rest:
                    start = x
                rest.append(segment)
            x += cell_width + GAP
        strip = Strip(fixed)
        if rest:
            skipped = scrolled + end - start
            strip = Strip([*fixed, *Strip(rest).crop(max(0, skipped), max(0, skipped) + width)])
        return strip.adjust_cell_length(width, ground).crop(0, width)

    # -- keys and mouse ------------------------------------------------------------------------------------------------

    def move_cursor(self, row: int) -> None:
        """The cursor to a row that is shown; the table scrolls so that it can be seen."""
        row = min(max(0, row), max(0, len(self.rows) - 1))
        self.cursor = row
        self._key = self.rows.key(row) if len(self.rows) else None
        top, height = int(self.scroll_offset.y), self.visible_rows
        if row < top:
            self.scroll_to(y=row, animate=False, force=True)
        elif row >= top + height:
            self.scroll_to(y=row - height + 1, animate=False, force=True)

    @property
    def visible_rows(self) -> int:
        return max(1, self.scrollable_content_region.height - 1)

    def watch_cursor(self, old: int, new: int) -> None:
        for row in (old, new):
            self.refresh_line(row + 1 - int(self.scroll_offset.y))

    def refresh_line(self, y: int) -> None:
        """One line of the widget is drawn anew."""
        if 0 <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def action_move(self, by: int) -> None:
        self.move_cursor(self.cursor + by)

    def action_page(self, by: int) -> None:
        self.move_cursor(self.cursor + by * self.visible_rows)

    def action_edge(self, last: int) -> None:
        self.move_cursor(len(self.rows) - 1 if last else 0)

    def action_sideways(self, by: int) -> None:
        """One column further; a column that was cut off is shown whole."""
        starts = np.cumsum([0, *(width + GAP for width in self._widths)])[self.fixed : -1]
        starts = starts - (starts[0] if len(starts) else 0)
        now = int(self.scroll_offset.x)
        further = starts[starts > now][:1] if by > 0 else starts[starts < now][-1:]
        if len(further):
            self.scroll_to(x=int(further[0]), animate=False, force=True)

    def action_select(self) -> None:
        if len(self.rows):
            self.post_message(self.Selected(self, self.cursor_key, self.cursor_row or 0))

    def column_at(self, x: int) -> str | None:
        """The column at a place in the widget."""
        at = 0
        for place, (spec, width) in enumerate(zip(self.specs, self._widths, strict=True)):
            left = at if place < self.fixed else at - int(self.scroll_offset.x)
            if left <= x < left + width + GAP:
                return spec.name
            at += width + GAP
        return None

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            column = self.column_at(event.x)
            if column is not None:
                self.post_message(self.HeaderClicked(self, column))
            return
        row = event.y - 1 + int(self.scroll_offset.y)
        if row < len(self.rows):
            self.move_cursor(row)
            if event.chain == 2:
                self.action_select()


_WHOLE = ("header", "sorted", "cursor", "odd", "even")  # styles that have a ground of their own


def fit(text: str, width: int, align: str) -> str:
    """The text in so many cells; what is cut off ends with an ellipsis."""
    length = len(text) if text.isascii() else cell_len(text)
    if length == width:
        return text
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    return " " * (width - length) + text if align == "right" else text + " " * (width - length)


def lay_out(specs: Sequence[ColumnSpec], width: int) -> list[int]:
    """The widths of columns in a table of ``width`` cells."""
    widths = [max(spec.width, cell_len(spec.title) + 1) for spec in specs]
    room = width - sum(widths) - GAP * max(0, len(widths) - 1)
    shares = [
        spec.flex if room > 0 else max(0, wide - max(spec.min_width, 1)) * bool(spec.min_width)
        for spec, wide in zip(specs, widths, strict=True)
    ]
    total = sum(shares)
    if not total or not room:
        return widths
    change = room if room > 0 else max(room, -total)
    edges = [change * sum(shares[: place + 1]) // total for place in range(len(shares))]
    steps = [edges[0], *(b - a for a, b in pairwise(edges))]
    return [wide + step for wide, step in zip(widths, steps, strict=True)]
