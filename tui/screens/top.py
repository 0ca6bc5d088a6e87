"""The screen Top: who has most, by one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from .. import cells, export
from ..grouping import MOST, Dimension, Groups, dimension_of, dimensions, group, is_dimension
from ..sorting import sort_rows
from ..state import State
from ..store import FlowStore
from ..table import ColumnSpec, Order, Rows, Table, Values, take
from ..text import count
from .base import Options, TableView

BY = ("src_addr",)
_SPARK = 15


class TopView(TableView):
    title: ClassVar[str] = "Top"
    key: ClassVar[str] = "2"
    about: ClassVar[str] = (
        "Flows grouped by up to three columns (g). Shares are of what is shown; the line above says how much of all "
        "that passed the feed told. Enter shows the flows of a group."
    )
    supports: ClassVar[frozenset[str]] = frozenset({"filter", "sort", "group", "export", "copy"})
    default_sort: ClassVar[tuple[str, bool] | None] = ("rate", True)
    empty: ClassVar[str] = "No flows yet\nGroups come with the first flows."

    class Chosen(Message):
        """The user wants to see the flows of a group: ``text`` is a filter for them."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.by: tuple[str, ...] = BY
        self.groups: Groups | None = None
        self.line = Static(id="top-line")
        self._shape: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        yield self.line
        yield self.table

    # -- columns -----------------------------------------------------------------------------------------------------

    def _lay_out(self, by: Sequence[Dimension]) -> None:
        options, wide = self.options, self.size.width
        shape = (self.by, wide, *options.shape())
        if shape == self._shape:
            return
        self._shape = shape
        unit = "b" if options.bits else "B"
        sums = f"{unit}/s" if options.rates else ("bits" if options.bits else "octets")
        counted = "pkt/s" if options.rates else "packets"
        render = cells.rates if options.rates else cells.counts
        bar = max(8, wide - 57 - sum(self._width(each) + 1 for each in by))
        specs = [self._of(each) for each in by]
        specs += [
            ColumnSpec("rate", sums, 7, align="right", render=render, style="number"),
            ColumnSpec("share", "Share", bar, render=cells.bars(bar), style="bar"),
            ColumnSpec("percent", "%", 6, align="right", render=cells.shares, style="number"),
            ColumnSpec("packet_rate", counted, 7, align="right", render=render, style="dim"),
            ColumnSpec("flows", "Flows", 6, align="right", render=cells.counts, style="dim"),
            ColumnSpec("minute", "60 s", _SPARK, render=cells.sparklines(_SPARK), style="spark"),
        ]
        self.table.set_specs(specs, 0)

    def _width(self, dimension: Dimension) -> int:
        """Of a column: an address takes more where there is room."""
        if dimension.style != "address":
            return dimension.width
        return {80: 15, 120: 24}.get(next((most for most in (80, 120) if self.size.width <= most), 0), 40)

    def _of(self, dimension: Dimension) -> ColumnSpec:
        width, render = self._width(dimension), dimension.render
        if render is cells.addresses:
            render = cells.named(self.options.resolver) if self.options.names else cells.short_addresses(width)
        if self.options.names and dimension.name in ("service", "src_port", "dst_port"):
            render = cells.services
        return ColumnSpec(dimension.name, dimension.title, width, 0, "left", _some(render), dimension.style)

    # -- rows --------------------------------------------------------------------------------------------------------

    def rows(self, state: State) -> Rows:
        store = state.store
        by = [dimension_of(name, store) for name in self.by if is_dimension(name, store)]
        self._lay_out(by)
        chosen: Order | None = None
        if self.parsed is not None and len(store):
            chosen = np.flatnonzero(self.parsed.mask(store.query_columns(), n=len(store), now_ns=store.time_ns))
        groups = self.groups = group(store, by, chosen)
        weights = np.maximum(store.column("sampling_rate"), 1) if self.options.scaled else None
        octets, packets = (
            self._measure(store, groups, "octets", weights),
            self._measure(store, groups, "packets", weights),
        )
        total = float(octets.sum())
        share = octets / total if total else np.zeros(len(groups))
        columns: dict[str, Values] = {each.name: groups.values(each, store) for each in by}
        columns |= {
            "rate": octets * 8 if self.options.bits else octets,
            "share": share / max(float(share.max(initial=0)), 1e-9),  # the largest fills the column
            "percent": share,
            "packet_rate": packets,
            "flows": groups.flows,
            "minute": Minutes(store, groups, weights),
        }
        self.line.update(self._summary(store, groups))
        return Rows(columns, groups.keys)

    def order_of(self, rows: Rows) -> Order | None:
        if self._sort is None or not len(rows):
            return None
        name = self._sort[0] if self._sort[0] in rows.columns and self._sort[0] != "minute" else "rate"
        return sort_rows(rows.columns, name, self._sort[1])

    def _measure(self, store: FlowStore, groups: Groups, of: str, weights: Any) -> Any:
        found = store.rates(of) if self.options.rates else store.own(of)
        return groups.sum(found if weights is None else found * weights)

    def _summary(self, store: FlowStore, groups: Groups) -> Content:
        told, passed = store.told["octets"], store.totals["octets"]
        title = ", ".join(each.title for each in groups.by)
        line = Content.assemble(
            " ", (title, "bold $text-primary"), f"  {count(len(groups))} groups of {count(len(groups.rows))} flows"
        )
        if passed:
            share = 100 * min(1.0, told / passed)
            line = Content.assemble(line, (f"  the feed told {share:.0f}% of all octets", "$foreground-muted"))
        return line

    def names(self) -> Sequence[str]:
        return [spec.name for spec in self.table.specs if spec.name != "minute"]

    def filter_names(self) -> Sequence[str]:
        return list(self.state.store.types) if self.state else ()

    # -- groups ------------------------------------------------------------------------------------------------------

    def command(self, options: Sequence[str], form: str, path: str) -> str:
        sort = {"packet_rate": "packets", "flows": "flows"}.get(self._sort[0] if self._sort else "", "bytes")
        more = {"sort": sort, "scaled": self.options.scaled}
        return export.command(options, path, form, by=self.by, query=self.query_text, **more)

    def choices(self) -> list[tuple[str, str]]:
        """(name, title) of what can be grouped by."""
        store = self.state.store if self.state else FlowStore()
        return [(each.name, each.title) for each in dimensions(store)]

    def group_by(self, names: Sequence[str]) -> None:
        self.by = tuple(names[:MOST]) or BY
        self.again()

    def on_table_selected(self, event: Table.Selected) -> None:
        event.stop()
        text = self.term_of(event.row)
        if text:
            self.post_message(self.Chosen(f"({self.query_text}) and {text}" if self.query_text else text))

    def term_of(self, row: int) -> str:
        """A filter for the flows of a group."""
        assert self.groups is not None
        columns, at = self.table.rows.columns, np.array([row])
        return " and ".join(filter(None, (each.term(take(columns[each.name], at)) for each in self.groups.by)))


def _some(render: cells.Render) -> cells.Render:
    """Where there is nothing, a dash: a group without a name is a group too."""
    return lambda values: [text or "-" for text in render(values)]


class Minutes:
    """The column of sparklines: the history of those groups that are drawn."""

    def __init__(self, store: FlowStore, groups: Groups, weights: Any) -> None:
        self._store, self._groups, self._weights = store, groups, weights

    def __len__(self) -> int:
        return len(self._groups)

    def take(self, rows: Order) -> Any:
        return self._groups.history(self._store, rows, self._weights)
