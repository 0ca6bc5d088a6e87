"""A table with what there is to say about the row under its cursor, below it or beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from . import text
from .screens.base import Options, TableView
from .state import State
from .table import Table

WIDE = 132  # cells from which there is room beside a table
Part = str | tuple[str, str]  # text, or text and its style


def line(*parts: Part) -> Content:
    """A line of clean text."""
    return Content.assemble(
        *(text.clean(part) if isinstance(part, str) else (text.clean(part[0]), part[1]) for part in parts)
    )


def heading(words: str, more: str = "") -> Content:
    return line((words, "bold $text-primary"), ("  " + more if more else "", "$text-muted"))


def listed(name: str, value: str, style: str = "", width: int = 14) -> Content:
    """A name and its value."""
    return line((f"  {name:<{width}} ", "$text-muted"), (value, style))


class Panel(VerticalScroll, can_focus=True):
    """Lines that scroll."""

    DEFAULT_CSS = """
    Panel { height: 1fr; background: $surface; padding: 0 1; scrollbar-size-vertical: 1; }
    Panel:focus { background: $boost; }
    Panel > Static { width: 1fr; height: auto; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._body = Static()
        self._shown: tuple[str, object] = ("", ())

    def compose(self) -> ComposeResult:
        yield self._body

    @property
    def plain(self) -> str:
        """What stands there, without styles."""
        return self._shown[0]

    def show(self, lines: Iterable[Content]) -> None:
        made = Content("\n").join(list(lines))
        shown = made.plain, made.spans  # contents that differ in their styles alone are equal
        if shown != self._shown:
            self._shown = shown
            self._body.update(made)


class SplitView(TableView):
    """A table and a panel. ``Enter`` gives the panel all the room, ``Esc`` the table its own again."""

    supports: ClassVar[frozenset[str]] = frozenset({"filter", "sort", "export", "copy", "detail"})
    DEFAULT_CSS = """
    SplitView { layout: vertical; }
    SplitView.-beside { layout: horizontal; }
    SplitView > .part { height: 2fr; border-top: solid $panel-lighten-1; background: $surface; }
    SplitView.-beside > .part { height: 1fr; width: 2fr; border-top: none; border-left: solid $panel-lighten-1; }
    SplitView > Table { height: 3fr; }
    SplitView.-beside > Table { height: 1fr; width: 3fr; }
    SplitView.-full > Table { display: none; }
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.panel: Widget = self.make_panel()
        self.panel.add_class("part")

    def make_panel(self) -> Widget:
        return Panel()

    def compose(self) -> ComposeResult:
        yield self.table
        yield self.panel

    def on_mount(self) -> None:
        self.watch(self.table, "cursor", self._moved, init=False)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width >= WIDE, "-beside")

    def _moved(self) -> None:
        if self.state is not None:
            self.show_row(self.state, self.table.cursor_row)

    def refresh_from(self, state: State) -> None:
        super().refresh_from(state)
        self.show_row(state, self.table.cursor_row)

    def show_row(self, state: State, row: int | None) -> None:
        """Say what there is to say about a row of the columns."""
        if isinstance(self.panel, Panel):
            self.panel.show([] if row is None else self.about_row(state, row))

    def about_row(self, state: State, row: int) -> Sequence[Content]:
        """The lines of the panel."""
        return ()

    def detail(self) -> None:
        self.add_class("-full")
        self.panel_focus().focus()

    def panel_focus(self) -> Widget:
        """What of the panel takes the keyboard."""
        return self.panel

    def on_table_selected(self, event: Table.Selected) -> None:
        if event.table is self.table:
            event.stop()
            self.detail()

    def back(self) -> bool:
        if self.has_class("-full"):
            self.remove_class("-full")
            self.table.focus()
            return True
        return super().back()
