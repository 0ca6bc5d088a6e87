"""The screen Exporters: who sends, how fast, what is lost on the way, what they sample, how well their clocks go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from textual.content import Content

from .. import text
from ..panels import SplitView, heading, line, listed
from ..state import State
from ..table import ColumnSpec, Rows

Row = Mapping[str, Any]
SKEW_NS = 5_000_000_000  # of a clock, that is worth a colour
SILENT_NS = 60_000_000_000
SOURCES = {
    "record": "told in its records",
    "header": "told in its messages' headers",
    "sample": "told in its samples",
    "options": "told in options data",
    "forced": "forced by --sampling-rate PREFIX=N",
    "default": "the default of --sampling-rate: it tells none",
}


def many(render: Callable[[Any], str]) -> Callable[[Any], list[str]]:
    """A renderer of a column out of one of a value."""
    return lambda values: [render(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]


def texts(values: Sequence[str]) -> list[str]:
    return [text.clean(value) for value in values]


def styled(is_bad: Callable[[Any], bool], bad: str = "bad", good: str = "number") -> Callable[[Any], list[str]]:
    return lambda values: [bad if is_bad(value) else good for value in np.asarray(values).tolist()]


def or_dot(render: Callable[[Any], str]) -> Callable[[Any], list[str]]:
    """A dot where there is nothing."""
    return many(lambda value: render(value) if value else "·")


def one_in(rate: int) -> str:
    return f"1:{rate}" if rate else "·"


def ages(values: Any) -> list[str]:
    """What lies ahead (a clock was set) as no time."""
    return [text.age(max(0, value)) for value in np.asarray(values).tolist()]


class ExportersView(SplitView):
    title: ClassVar[str] = "Exporters"
    key: ClassVar[str] = "3"
    about: ClassVar[str] = (
        "Who sends: protocol, rates, what is missing by sequence numbers, sampling and who says so, Templates, when "
        "the last datagram came, how far the clock is off. Enter: sequences by Observation Domain, problems."
    )
    empty: ClassVar[str] = (
        "No exporter has sent anything yet\nPoint one at this collector's port, or try: pyflowx generate"
    )
    default_sort: ClassVar[tuple[str, bool] | None] = ("datagrams", True)
    specs: ClassVar[Sequence[ColumnSpec]] = (
        ColumnSpec("exporter", "Exporter", 15, 12, render=texts, style="address", flex=2),
        ColumnSpec("protocol", "Proto", 5, render=texts, style="accent", flex=1),
        ColumnSpec("datagrams", "dgram/s", 7, align="right", render=or_dot(text.count), style="number"),
        ColumnSpec("flows", "flows/s", 7, align="right", render=or_dot(text.count), style="number"),
        ColumnSpec("lost", "Lost", 5, align="right", render=or_dot(text.count), style=styled(bool)),
        ColumnSpec("sampling", "Sampl.", 7, align="right", render=many(one_in), style="number"),
        ColumnSpec("templates", "Tmpl", 4, align="right", render=or_dot(text.count), style="number"),
        ColumnSpec("last", "Last", 5, align="right", render=ages, style=styled(lambda ns: ns > SILENT_NS, "warn")),
        ColumnSpec(
            "skew",
            "Clock",
            6,
            align="right",
            render=many(lambda ns: "·" if abs(ns) < 1e9 else text.age(-ns)),
            style=styled(lambda ns: abs(ns) > SKEW_NS, "warn", "dim"),
        ),
        ColumnSpec("source", "Told by", 8, render=texts, style="dim", flex=1),
        ColumnSpec("octets", "Rate", 10, align="right", render=or_dot(text.rate), style="number"),
        ColumnSpec("problems", "Problems", 8, align="right", render=or_dot(text.count), style=styled(bool, "warn")),
    )

    def rows(self, state: State) -> Rows:
        found: Sequence[Row] = state.section("exporters", ())
        before = {row["address"]: row for row in state.previous.get("exporters", ())}
        seconds, now_ns = state.seconds, int(state.snapshot.get("time_ns", 0))
        lost: dict[str, int] = {}
        for domain in state.section("domains", ()):
            lost[domain["exporter"]] = lost.get(domain["exporter"], 0) + domain["lost"]

        def speed(row: Row, of: Callable[[Row], int]) -> float:
            then = before.get(row["address"])
            return max(0, of(row) - of(then)) / seconds if then is not None and seconds else 0.0

        columns: dict[str, Any] = {
            "exporter": [row["address"] for row in found],
            "protocol": [" ".join(map(short, row["protocols"])) or "?" for row in found],
            "datagrams": np.array([speed(row, lambda r: r["datagrams"]) for row in found]),
            "flows": np.array([speed(row, flows_of) for row in found]),
            "octets": np.array([8 * speed(row, lambda r: r["octets"]) for row in found]),
            "lost": np.array([lost.get(row["address"], 0) for row in found], np.int64),
            "sampling": np.array([(row.get("sampling") or {}).get("rate", 0) for row in found], np.int64),
            "source": [(row.get("sampling") or {}).get("source", "") for row in found],
            "templates": np.array([row.get("templates", 0) for row in found], np.int64),
            "last": np.array([now_ns - row["last_ns"] for row in found], np.int64),
            "skew": np.array([row["clock_skew_ns"] for row in found], np.int64),
            "problems": np.array([sum(row["problems"].values()) for row in found], np.int64),
        }
        return Rows(columns, columns["exporter"])

    def about_row(self, state: State, row: int) -> Sequence[Content]:
        exporter: Row = state.section("exporters", ())[row]
        lines = [heading(exporter["address"], f"{exporter['datagrams']} datagrams, {text.octets(exporter['octets'])}")]
        for name, counts in exporter["protocols"].items():
            each = f"{counts['messages']} messages, {counts['flows']} flows, {counts['options']} options records, "
            lines.append(listed(short(name), each + f"{counts['templates']} Templates"))
        lines += [self._sampling(exporter), self._clock(exporter), line(""), heading("Sequence numbers")]
        lines += [_sequence(row) for row in state.section("domains", ()) if row["exporter"] == exporter["address"]] or [
            line(("  none are followed", "$text-muted"))
        ]
        lines += [line(""), heading("Problems")]
        problems = exporter["problems"].items()
        lines += [listed(name.lower(), text.count(n), "$text-warning", 24) for name, n in problems] or [
            line(("  none", "$text-success"))
        ]
        return lines

    def _sampling(self, exporter: Row) -> Content:
        sampling = exporter.get("sampling")
        if not sampling:
            return listed("sampling", "nobody tells a rate: give --sampling-rate if it samples")
        return listed("sampling", f"1 in {sampling['rate']}, {SOURCES.get(sampling['source'], sampling['source'])}")

    def _clock(self, exporter: Row) -> Content:
        skew = int(exporter["clock_skew_ns"])
        if abs(skew) <= SKEW_NS:
            return listed("clock", "right, as far as its export times can tell")
        way = "behind" if skew > 0 else "ahead of"
        return listed(
            "clock", f"{text.age(abs(skew))} {way} ours: set it, or its flows have wrong times", "$text-warning"
        )


def short(protocol: str) -> str:
    """``NETFLOW_V9`` as ``v9``."""
    return {"NETFLOW_V9": "v9", "NETFLOW_V5": "v5", "NETFLOW_V7": "v7", "NETFLOW_V1": "v1", "SFLOW_V5": "sFlow"}.get(
        protocol, protocol
    )


def flows_of(row: Row) -> int:
    return sum(int(counts["flows"]) for counts in row["protocols"].values())


def _sequence(row: Row) -> Content:
    parts = [f"{row[name]} {name}" for name in ("missing", "late", "gaps", "reordered", "restarts") if row[name]]
    style = "$text-error" if row["lost"] else "$text-success"
    what = f"{row['lost']} lost" + (f": {', '.join(parts)}" if parts else "")
    return listed(f"{short(row['protocol'])} domain {row['domain']}", what, style, 20)
