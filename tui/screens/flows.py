"""The screen Flows: all flows of the last while, the busiest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from .. import cells
from ..sorting import argsort, sort_rows
from ..state import State
from ..store import FlowStore
from ..table import ColumnSpec, Order, Rows, Values
from .base import Options, TableView

FIRST = ("src_addr", "src_port", "dst_addr", "dst_port", "proto")
_TITLES = {
    "src_addr": "Source",
    "src_port": "Port",
    "dst_addr": "Destination",
    "dst_port": "Port",
    "proto": "Proto",
    "tcp_flags": "Flags",
    "sampler_address": "Exporter",
    "time_received_ns": "Received",
    "time_flow_start_ns": "Start",
    "time_flow_end_ns": "End",
}
_RENDER: Mapping[str, tuple[int, str, cells.Render, str]] = {
    # type -> width, alignment, render, style
    "address": (15, "left", cells.addresses, "address"),
    "time": (12, "right", cells.clocks, "dim"),
    "mac": (12, "left", cells.macs, "dim"),
    "label": (12, "left", cells.labels, "text"),
}
_SPECIAL: Mapping[str, tuple[int, str, cells.Render, str]] = {
    "src_port": (5, "right", cells.numbers, "accent"),
    "dst_port": (5, "right", cells.numbers, "accent"),
    "proto": (6, "left", cells.protocols, "text"),
    "tcp_flags": (6, "left", cells.flags, "text"),
    "bytes": (8, "right", cells.octets, "number"),
    "packets": (7, "right", cells.counts, "number"),
}
_WIDE = 100  # cells from which on there is a sparkline
_NUMBER = (6, "right", cells.numbers, "number")


def spec_of(name: str, type: str) -> ColumnSpec:
    """How a column of flows is shown."""
    width, align, render, style = _SPECIAL.get(name) or _RENDER.get(type) or _NUMBER
    return ColumnSpec(name, _TITLES.get(name, name), width, 0, align, render, style)  # type: ignore[arg-type]


class FlowColumns(Mapping[str, Values]):
    """What the table shows: columns of the store, made when they are asked for, and those that were computed."""

    def __init__(self, store: FlowStore, made: Mapping[str, Values]) -> None:
        self._store, self._made = store, made

    def __getitem__(self, name: str) -> Values:
        found = self._made.get(name)
        return self._store.column(name) if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._made), **dict.fromkeys(self._store.types)})

    def __len__(self) -> int:
        return len({*self._made, *self._store.types})


class FlowsView(TableView):
    title: ClassVar[str] = "Flows"
    key: ClassVar[str] = "1"
    about: ClassVar[str] = (
        "Flows by exporter, interfaces, addresses, protocol and ports; octets and packets of all their records. The "
        "feed tells the heaviest of each second. b joins the two directions of a conversation (biflow pairs)."
    )
    supports: ClassVar[frozenset[str]] = frozenset({"filter", "sort", "export", "copy", "pairs"})
    default_sort: ClassVar[tuple[str, bool] | None] = ("rate", True)
    fixed: ClassVar[int] = 0
    empty: ClassVar[str] = (
        "No flows yet\nThey come when exporters send them: pyflowx generate sends made-up ones,\n"
        "pyflowx export those of an interface. Screen 3 shows who exports, 8 what was said."
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.pairs = False
        self._shape: tuple[object, ...] = ()

    # -- columns -----------------------------------------------------------------------------------------------------

    def _lay_out(self, store: FlowStore) -> None:
        """The columns that there are, as the options want them."""
        options, wide = self.options, self.size.width
        shape = (tuple(store.names()), store.has_ipv6, wide, self.pairs, *options.shape())
        if shape == self._shape:
            return
        self._shape = shape
        spark = 16 if wide >= _WIDE else 0
        room = min(39, max(15, (wide - 46 - spark) // 2))
        address = min(room, 24) if options.names else room if store.has_ipv6 else 15
        first = [self._address(spec_of(name, store.types[name]), address) for name in FIRST]
        others = [
            self._address(spec_of(name, store.types[name]), 15)
            for name in ("tcp_flags", *(name for name in store.names() if name != "tcp_flags"))
            if name not in FIRST and name not in ("bytes", "packets", "time_received_ns") and name in store.names()
        ]
        self.table.set_specs([*first, *self._measures(), *others], self.fixed)

    def _address(self, spec: ColumnSpec, width: int) -> ColumnSpec:
        if spec.render is cells.addresses:
            render = cells.named(self.options.resolver) if self.options.names else cells.short_addresses(width)
            return replace(spec, width=width, render=render)
        if spec.name.endswith("_port") and self.options.names:
            return replace(spec, width=8, render=cells.services)
        return spec

    def _measures(self) -> Sequence[ColumnSpec]:
        options = self.options
        unit = "b" if options.bits else "B"
        render = cells.rates if options.rates else cells.counts
        sums = f"{unit}/s" if options.rates else ("bits" if options.bits else "octets")
        spark = ColumnSpec("minute", "60 s", 15, render=cells.sparklines(15), style="spark")
        tail = [ColumnSpec("age", "Last", 6, align="right", render=cells.ages, style="dim")]
        if self.size.width >= _WIDE:
            tail += [spark, ColumnSpec("records", "Records", 7, align="right", render=cells.counts, style="dim")]
        if self.pairs:
            return [
                ColumnSpec("rate", f"→ {sums}", 8, align="right", render=render, style="number"),
                ColumnSpec("back", f"← {sums}", 8, align="right", render=render, style="number"),
                *tail,
            ]
        packets = "pkt/s" if options.rates else "packets"
        return [
            ColumnSpec("rate", sums, 7, align="right", render=render, style="number"),
            ColumnSpec("packet_rate", packets, 7, align="right", render=render, style="number"),
            *tail,
        ]

    # -- rows --------------------------------------------------------------------------------------------------------

    def rows(self, state: State) -> Rows:
        store = state.store
        self._lay_out(store)
        made: dict[str, Values] = {
            "rate": self._measure(store, "octets"),
            "packet_rate": self._measure(store, "packets"),
            "age": store.time_ns - store.own("last_ns"),
            "records": store.own("records"),
            "bytes": store.own("octets"),
            "packets": store.own("packets"),
            "minute": Minute(store, np.arange(0)),
        }
        order: Order | None = None
        if self.parsed is not None and len(store):
            mask = self.parsed.mask(store.query_columns(), n=len(store), now_ns=store.time_ns)
            order = np.flatnonzero(mask)
        if self.pairs and len(store):
            order = self._join(store, made, order)
        columns = FlowColumns(store, made)
        if self._sort is not None and len(store):
            name = self._sort[0] if self._sort[0] in columns and self._sort[0] != "minute" else "rate"
            order = sort_rows(columns, name, self._sort[1], order)
        return Rows(columns, store.own("id"), order if order is not None else np.arange(len(store)))

    def _measure(self, store: FlowStore, of: str) -> Values:
        """Octets (or bits) or packets, a second or in all."""
        found = store.rates(of) if self.options.rates else store.own(of)
        if self.options.bits and of == "octets":
            found = found * 8
        if self.options.scaled:
            found = found * np.maximum(store.column("sampling_rate"), 1)
        return found

    @staticmethod
    def _join(store: FlowStore, made: dict[str, Values], chosen: Order | None) -> Order:
        """A row a pair: that of the flow that began, with what came back in the column ``back``."""
        pairs = Pairs(store, chosen)
        for name in ("rate", "packet_rate"):
            forward, back = pairs.sums(np.asarray(made[name]))
            made[name] = forward
            if name == "rate":
                made["back"] = back
        return pairs.first

    def names(self) -> Sequence[str]:
        shown = [spec.name for spec in self.table.specs if spec.name != "minute"]
        return list(dict.fromkeys([*shown, *(self.state.store.names() if self.state else ())]))

    def filter_names(self) -> Sequence[str]:
        return list(self.state.store.types) if self.state else ()

    def toggle_pairs(self) -> None:
        """``b``."""
        self.pairs = not self.pairs
        self.again()

    def export_columns(self) -> Any:
        if self.state is None:
            return None
        order = self.table.rows.at(0, len(self.table.rows))
        return [self.state.store.batch(order)] if len(order) else []


class Minute:
    """The column of sparklines: the history of those rows that are drawn."""

    def __init__(self, store: FlowStore, rows: Order) -> None:
        self._store, self._rows = store, rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Order) -> Any:
        return self._store.history(rows)


class Pairs:
    """Flows joined with those back: ``first`` the rows of the flows that began, one a pair."""

    def __init__(self, store: FlowStore, chosen: Order | None) -> None:
        pair = store.own("pair")
        start = store.column("time_flow_start_ns")
        early = argsort(start)
        self._order = early[argsort(pair[early])]
        sorted_ = pair[self._order]
        begins = np.flatnonzero(np.concatenate([[True], sorted_[1:] != sorted_[:-1]]))
        self._begins = begins
        first = self._order[begins]
        which = np.repeat(np.arange(len(begins)), np.diff([*begins, len(pair)]))
        same = np.ones(len(pair), bool)
        for name in ("src_addr", "src_port"):
            values = store.column(name)
            equal = values[self._order] == values[first[which]]
            same &= equal.all(axis=1) if equal.ndim == 2 else equal
        self._same = same
        self._n = len(pair)
        self._first = first
        if chosen is not None:
            wanted = np.zeros(self._n, bool)
            wanted[chosen] = True
            found = np.logical_or.reduceat(wanted[self._order], begins)
            first = first[found]
        self.first = np.sort(first)

    def sums(self, values: Any) -> tuple[Any, Any]:
        """n values forward and back, in the rows of the flows that began."""
        ordered = values[self._order]
        made = []
        for mask in (self._same, ~self._same):
            found = np.zeros(self._n, values.dtype)
            found[self._first] = np.add.reduceat(np.where(mask, ordered, 0), self._begins)
            made.append(found)
        return made[0], made[1]
