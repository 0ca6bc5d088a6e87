"""What the screen Top shows, without a screen: for ``pyflowx top``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyflowx.errors import ConfigError

from . import cells, text
from .columns import Labels, address_text
from .grouping import MOST, Dimension, dimension_of, group
from .query import Query, QueryError
from .store import FlowStore
from .table import take
from .terms import columns_of

SORTS = ("bytes", "packets", "flows")
_NS = 1_000_000_000
_BAR = 20


@dataclass(frozen=True, slots=True)
class Question:
    """``by``: what flows are grouped by, names of columns, aliases or dimensions; ``scaled``: octets and packets times
    the sampling rate."""

    by: tuple[str, ...] = ("src_addr",)
    filter: str = ""
    sort: str = "bytes"
    rows: int = 10
    scaled: bool = False

    def query(self) -> Query:
        """ConfigError shows where the filter is wrong."""
        try:
            return Query.parse(self.filter)
        except QueryError as error:
            place = f"\n  {self.filter}\n  {' ' * error.position}^"
            raise ConfigError(f"--filter: {error.message}{place}") from error

    def check(self) -> None:
        """ConfigError for what no flows could answer."""
        self.query()
        if not 1 <= len(self.by) <= MOST:
            raise ConfigError(f"-g {','.join(self.by)}: give 1 to {MOST} columns")


@dataclass(slots=True)
class Gathering:
    """Flows out of snapshots, from the first to the last of them."""

    store: FlowStore = field(default_factory=FlowStore)
    snapshots: int = 0
    first_ns: int = 0
    last_ns: int = 0

    def add(self, snapshot: dict[str, Any], before_ns: int = 0) -> None:
        """``before_ns``: the time of the snapshot before it; 0: there is none, a feed has just begun to tell."""
        time_ns = int(snapshot.get("time_ns", 0))
        if not self.snapshots:
            self.first_ns = before_ns or time_ns
        self.snapshots += 1
        self.last_ns = max(self.last_ns, time_ns)
        self.store.add(snapshot.get("flows") or {}, time_ns)

    @property
    def span_s(self) -> float:
        """From the first snapshot to the last."""
        return (self.last_ns - self.first_ns) / _NS

    @property
    def seconds(self) -> float:
        """The time that rates are of: a second at least, as every snapshot is of one."""
        return max(1.0, self.span_s)


def answer(gathered: Gathering, question: Question) -> dict[str, Any]:
    """The object that ``-o json`` prints."""
    store, query = gathered.store, question.query()
    by = [_dimension(name, store) for name in question.by]
    try:
        found = query.mask(store.query_columns(), n=len(store), now_ns=store.time_ns)
    except QueryError as error:
        raise ConfigError(f"--filter: {error.message}") from error
    rows = np.flatnonzero(found)
    groups = group(store, by, rows)
    rate = np.maximum(store.column("sampling_rate"), 1).astype(np.float64) if question.scaled else np.ones(len(store))
    sums = {
        "bytes": groups.sum(store.own("octets") * rate),
        "packets": groups.sum(store.own("packets") * rate),
        "flows": groups.sum(store.own("records").astype(np.float64)),
    }
    order = np.argsort(-sums[question.sort], kind="stable")[: question.rows]
    columns = {
        name: _values(each, store, take(each.values(store), groups.first[order]), groups.first[order])
        for name, each in zip(question.by, by, strict=True)
    }
    totals = {name: float(values.sum()) for name, values in sums.items()}
    made = []
    for place, index in enumerate(order.tolist()):
        row = {name: values[place] for name, values in columns.items()}
        row |= {name: round(float(values[index])) for name, values in sums.items()}
        row["bits_per_second"] = round(8 * float(sums["bytes"][index]) / gathered.seconds, 1)
        row["share"] = round(float(sums[question.sort][index]) / (totals[question.sort] or 1.0), 6)
        made.append(row)
    return {
        "time_ns": gathered.last_ns,
        "seconds": round(gathered.seconds, 3),
        "group": list(question.by),
        "filter": question.filter,
        "sort": question.sort,
        "scaled": question.scaled,
        "passed": {"flows": store.totals["flows"], "bytes": store.totals["octets"], "packets": store.totals["packets"]},
        "seen": {"flows": store.told["flows"], "bytes": store.told["octets"], "packets": store.told["packets"]},
        "matched": {name: round(totals[name]) for name in ("flows", "bytes", "packets")},
        "groups": len(groups),
        "rows": made,
    }


def _dimension(name: str, store: FlowStore) -> Dimension:
    columns = columns_of(name, store.types)
    return dimension_of(columns[0] if len(columns) == 1 else name, store)


def _values(dimension: Dimension, store: FlowStore, values: Any, flows: npt.NDArray[Any]) -> list[Any]:
    """As JSON has them: numbers, texts, null where no record had one."""
    if dimension.name not in store.types:  # made of a column
        return [shown or None for shown in dimension.render(values)] if values.ndim == 2 else values.tolist()
    valid = store.valid(dimension.name)[flows].tolist()
    if isinstance(values, Labels):
        found: list[Any] = values.tolist()
    elif values.ndim == 2:
        found = [address_text(row.tobytes()) for row in values]
    elif store.types[dimension.name] == "mac":
        found = cells.macs(values)
    else:
        found = values.tolist()
    return [value if there else None for value, there in zip(found, valid, strict=True)]


def table(found: dict[str, Any]) -> list[str]:
    """Lines of text: the same for people."""
    by: Sequence[str] = found["group"]
    rows = [[_shown(row[name], name) for name in by] for row in found["rows"]]
    rows = [
        [
            *shown,
            text.rate(row["bits_per_second"]),
            text.octets(row["bytes"]),
            text.count(row["packets"]),
            text.count(row["flows"]),
            f"{100 * row['share']:.1f}%",
            cells.bar(row["share"], _BAR).rstrip(),
        ]
        for shown, row in zip(rows, found["rows"], strict=True)
    ]
    heads = [*by, "rate", "octets", "packets", "flows", "share", ""]
    widths = [max(len(each[place]) for each in [heads, *rows]) for place in range(len(heads))]
    right = range(len(by), len(heads) - 1)
    lines = [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heads, *rows]
    ]
    matched, seen, passed = (found[name]["flows"] for name in ("matched", "seen", "passed"))
    about = f"{found['groups']} groups of {text.count(matched)} flows in {found['seconds']:.0f} s"
    if passed > seen:
        about += f"; the feed told {text.count(seen)} of {text.count(passed)} flows, the heaviest"
    return [*lines, about]


def _shown(value: Any, name: str) -> str:
    if value is None:
        return "-"
    return cells.protocol(value) if name == "proto" else text.clean(value, 40)
