"""What every screen is: a :class:`View` that is given the state of a source, most of them around one table.

The App makes one of each, shows one at a time and calls :meth:`View.refresh_from` of the one that is seen whenever a
snapshot has come (not while paused), when it comes to be seen, and when an option has changed. The keys of all
screens (filter, sort, group, export, copy) end in the methods here; a screen names those that it has in ``supports``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical

from .. import export
from ..names import Names
from ..sorting import sort_rows
from ..state import State
from ..table import ColumnSpec, Order, Rows, Table, take


class Query(Protocol):
    """A filter that has been understood (:class:`pyflowx_tui.query.Query`)."""

    def mask(
        self, columns: Mapping[str, Any], n: int | None = None, now_ns: int | None = None
    ) -> npt.NDArray[np.bool_]: ...


@dataclass(slots=True)
class Options:
    """How numbers and names are shown, on all screens."""

    bits: bool = True  # u: bits, else octets
    scaled: bool = False  # x: octets and packets times the sampling rate
    rates: bool = True  # r: per second, else since the start
    names: bool = False  # n: names of addresses and ports
    resolver: Names = field(default_factory=Names)

    def shape(self) -> tuple[bool, ...]:
        """What columns depend on."""
        return self.bits, self.scaled, self.rates, self.names


class View(Vertical):
    """A screen. ``key``: what shows it; ``about``: its part of the help; ``supports``: of filter, sort, group,
    detail, export, copy."""

    title: ClassVar[str] = ""
    key: ClassVar[str] = ""
    about: ClassVar[str] = ""
    supports: ClassVar[frozenset[str]] = frozenset()
    DEFAULT_CSS = "View { height: 1fr; width: 1fr; }"

    def __init__(self, options: Options) -> None:
        super().__init__(id=type(self).title.lower())
        self.options = options
        self.state: State | None = None
        self.query_text = ""
        self.parsed: Query | None = None

    def refresh_from(self, state: State) -> None:
        """Show this. Called in the App's thread, so it has to be done in milliseconds."""
        self.state = state

    def again(self) -> None:
        """Show the same state anew, after an option, the filter or the order has changed."""
        if self.state is not None:
            self.refresh_from(self.state)

    # -- what the keys of all screens do ---------------------------------------------------------------------------

    def names(self) -> Sequence[str]:
        """The columns that can be sorted by."""
        return ()

    def filter_names(self) -> Sequence[str]:
        """The columns that a filter may name."""
        return self.names()

    def set_query(self, text: str, query: Query | None) -> None:
        """Show only what the filter lets through; None: everything."""
        self.query_text, self.parsed = text, query
        self.again()

    def sort_by(self, name: str, descending: bool | None = None) -> None:
        """Sort by a column; None: downward first, the other way if it is sorted by it already."""

    def sorted_by(self) -> tuple[str, bool] | None:
        """(column, downward)."""
        return None

    def group(self) -> None:
        """``g``: choose what is grouped by."""

    def detail(self) -> None:
        """``Enter``, where the table has not taken it."""

    def back(self) -> bool:
        """``Esc``: close what is open in the view; False where nothing was."""
        if self.parsed is not None:
            self.set_query("", None)
            return True
        return False

    def export_columns(self) -> Any:
        """What ``e`` writes: a list of :class:`pyflowx.common.CommonBatch`, or a :class:`Rows` and its specs."""
        return None

    def exported_specs(self) -> Sequence[ColumnSpec]:
        """The columns of what is exported, where it is a :class:`Rows`."""
        return ()

    def command(self, options: Sequence[str], form: str, path: str) -> str:
        """The command line that writes the same; ``options`` say where from."""
        return export.command(options, path, form, query=self.query_text)

    def copied(self) -> str:
        """What ``y`` copies."""
        return ""

    def focus_first(self) -> None:
        """Give the keyboard to what it is for when the view is shown."""
        for widget in self.query("Table, .focus-first"):
            widget.focus()
            return


class TableView(View):
    """A screen of one table: a subclass has ``specs``, ``empty`` and :meth:`rows`."""

    supports: ClassVar[frozenset[str]] = frozenset({"filter", "sort", "export", "copy"})
    specs: ClassVar[Sequence[ColumnSpec]] = ()
    fixed: ClassVar[int] = 1
    default_sort: ClassVar[tuple[str, bool] | None] = None
    empty: ClassVar[str] = "Nothing yet"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.table = Table(self.specs, fixed=self.fixed)
        self.table.empty = self.empty
        self._sort = self.default_sort

    def compose(self) -> ComposeResult:
        yield self.table

    def on_resize(self, event: events.Resize) -> None:
        """Columns depend on how wide it is, which is not known before it is seen."""
        self.again()

    def rows(self, state: State) -> Rows:
        """All rows there are; ``order`` is left to the filter and the order that the user has chosen."""
        raise NotImplementedError

    def refresh_from(self, state: State) -> None:
        super().refresh_from(state)
        rows = self.rows(state)
        if rows.order is None:
            rows.order = self.order_of(rows)
        self.table.sorted_by = self._sort
        self.table.set_rows(rows)

    def order_of(self, rows: Rows) -> Order | None:
        """Filter, then sort."""
        order: Order | None = None
        if self.parsed is not None and len(rows):
            order = np.flatnonzero(self.parsed.mask(rows.columns))
        if self._sort is not None and len(rows):
            order = sort_rows(rows.columns, *self._sort, order)
        return order

    def names(self) -> Sequence[str]:
        return [spec.name for spec in self.table.specs]

    def sort_by(self, name: str, descending: bool | None = None) -> None:
        if descending is None:
            descending = not self._sort[1] if self._sort is not None and self._sort[0] == name else True
        self._sort = name, descending
        self.again()

    def sorted_by(self) -> tuple[str, bool] | None:
        return self._sort

    def on_table_header_clicked(self, event: Table.HeaderClicked) -> None:
        event.stop()
        self.sort_by(event.column)

    def copied(self) -> str:
        row = self.table.cursor_row
        if row is None:
            return ""
        at = np.array([row])
        return "\t".join(
            spec.render(take(self.table.rows.columns[spec.name], at))[0].strip() for spec in self.table.specs
        )

    def export_columns(self) -> Any:
        return self.table.rows

    def exported_specs(self) -> Sequence[ColumnSpec]:
        return self.table.specs
