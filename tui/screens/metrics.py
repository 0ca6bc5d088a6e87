"""The screen Metrics: rates over time, and the way from the interface to the file with what was lost at each stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar, NamedTuple

from textual import events
from textual.app import ComposeResult
from textual.containers import Grid, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from .. import text
from ..panels import WIDE, heading, line
from ..plots import Plot
from ..state import State
from .base import Options, View

Past = Mapping[str, Any]  # the small sections of a snapshot
SECONDS = 300  # that plots show
_MEGA = 1e6


class Series(NamedTuple):
    """``value``: of a snapshot; ``is_count``: it only grows, so its rate is shown. ``limit``: the plot's upper edge."""

    title: str
    unit: str
    style: str
    value: Callable[[Past], float | None]
    is_count: bool = True
    limit: Callable[[Past], float | None] = lambda past: None


def _counter(*names: str, times: float = 1.0) -> Callable[[Past], float | None]:
    def value(past: Past) -> float | None:
        found = [past["counters"].get(name) for name in names]
        return times * sum(map(float, found)) if None not in found else None

    return value


def _lost(past: Past) -> float:
    return float(sum(stage["lost"] or 0 for stage in past["pipeline"]))


def _queue(past: Past) -> float | None:
    socket = past.get("socket") or {}
    return 100 * float(socket["queued"]) / max(1, socket["limit"]) if socket.get("limit") else None


def _fill(past: Past) -> float | None:
    found = past.get("map") or {}
    return 100 * float(found["flows"]) / max(1, found["max_flows"]) if found else None


def _drain(past: Past) -> float | None:
    return float(past["counters"].get("last_drain_ns", 0)) / 1e9


def _hundred(past: Past) -> float:
    return 100.0


_CPU = Series("CPU", "%", "$text-warning", _counter("cpu_seconds", times=100.0))
_MEMORY = Series("Memory", "B", "$text-secondary", _counter("memory_octets"), is_count=False)
_LOST = Series("Lost", "/s", "$text-error", _lost)
SERIES: Mapping[str, tuple[Series, ...]] = {
    "collect": (
        Series("Flows", "/s", "$text-accent", _counter("flows")),
        Series("Datagrams", "/s", "$text-primary", _counter("datagrams")),
        Series("Received", "b/s", "$text-primary", _counter("octets", times=8.0)),
        _LOST,
        _CPU,
        Series("Socket buffer", "%", "$text-warning", _queue, is_count=False, limit=_hundred),
        Series("Decoding", "%", "$text-secondary", _counter("decode_seconds", times=100.0)),
        Series("Output", "%", "$text-secondary", _counter("output_seconds", times=100.0)),
        _MEMORY,
    ),
    "export": (
        Series("Packets", "/s", "$text-accent", _counter("packets_metered")),
        Series("Traffic", "b/s", "$text-primary", _counter("octets_metered", times=8.0)),
        Series("Messages", "/s", "$text-primary", _counter("messages")),
        _LOST,
        _CPU,
        Series("Kernel map", "%", "$text-warning", _fill, is_count=False, limit=_hundred),
        Series("Drain", "s", "$text-secondary", _drain, is_count=False),
        Series("Flows alive", "", "$text-secondary", _counter("alive"), is_count=False),
        _MEMORY,
    ),
}


def values_of(history: Sequence[Past], series: Series) -> list[float | None]:
    """A number for each snapshot of the last :data:`SECONDS`, rates for what only grows (None where it began anew)."""
    last_ns = history[-1]["time_ns"] if history else 0
    past = [each for each in history if last_ns - each["time_ns"] <= SECONDS * 1_000_000_000]
    numbers = [series.value(each) if "counters" in each else None for each in past]
    if not series.is_count:
        return numbers
    found: list[float | None] = []
    for place in range(1, len(past)):
        before, now = numbers[place - 1], numbers[place]
        seconds = (past[place]["time_ns"] - past[place - 1]["time_ns"]) / 1e9
        grown = now - before if before is not None and now is not None else -1.0
        found.append(grown / seconds if grown >= 0 and seconds > 0 else None)
    return found


def pipeline(state: State) -> list[Content]:
    """A line a stage, from the wire on: what passed, how fast, what was lost."""
    stages: Sequence[Past] = state.section("pipeline", ())
    before = {(stage["stage"], stage["unit"]): stage for stage in state.previous.get("pipeline", ())}
    lines, seconds = [], state.seconds
    network = [*takewhile(lambda stage: stage["stage"] == "network", stages)]
    if network:
        lines.append(_network(network, before))
    for stage in stages[len(network) :]:
        then = before.get((stage["stage"], stage["unit"]))
        passed = "" if stage["passed"] is None else text.count(stage["passed"])
        speed = ""
        if then is not None and seconds and stage["passed"] is not None:
            speed = text.rate(max(0, stage["passed"] - then["passed"]) / seconds, "/s")
        fresh = then is not None and stage["lost"] > then["lost"]
        lost = f"{text.count(stage['lost'])} lost" + (" ▲" if fresh else "") if stage["lost"] else "·"
        style = "$text-error" + (" bold" if fresh else "") if stage["lost"] else "$text-success"
        arrow = "▼" if lines else " "
        lines.append(
            line(
                (f"{arrow} ", "$text-muted"),
                (f"{stage['stage']:<10}", "bold"),
                (f"{stage['unit']:<10}", "$text-muted"),
                f"{passed:>7} {speed:>9}  ",
                (lost, style),
            )
        )
    return lines


def _network(stages: Sequence[Past], before: Mapping[tuple[str, str], Past]) -> Content:
    """What sequence numbers say: units of several kinds."""
    lost = [f"{text.count(stage['lost'])} {stage['unit']}" for stage in stages if stage["lost"]]
    fresh = any(stage["lost"] > before.get(("network", stage["unit"]), stage)["lost"] for stage in stages)
    said = ", ".join(lost) + " lost" + (" ▲" if fresh else "") if lost else "nothing missing by sequence numbers"
    style = "$text-error" + (" bold" if fresh else "") if lost else "$text-success"
    return line("  ", ("network   ", "bold"), (said, style))


def advice(state: State) -> list[Content]:
    """What to do about the stages that lose something, in their order."""
    from pyflowx.doctor import ADVICE

    found = dict.fromkeys(
        (stage["stage"], ADVICE[state.role, stage["stage"]])
        for stage in state.section("pipeline", ())
        if stage["lost"] and (state.role, stage["stage"]) in ADVICE
    )
    return [line((f"{stage}: ", "$text-warning"), (words, "$text-muted")) for stage, words in found]


class MetricsView(View):
    title: ClassVar[str] = "Metrics"
    key: ClassVar[str] = "6"
    about: ClassVar[str] = (
        "The way from the wire to the file (an exporter: from the interface to the collector), what was lost at each "
        "stage and what to do about it (▲: just now); rates of the last five minutes, as far as they have been seen."
    )
    DEFAULT_CSS = """
    MetricsView { layout: vertical; }
    MetricsView > VerticalScroll { height: auto; max-height: 55%; background: $surface; padding: 0 1; }
    MetricsView > Grid { grid-size: 2; grid-rows: 1fr; height: 1fr; padding: 0 0 0 1; }
    MetricsView.-wide { layout: horizontal; }
    MetricsView.-wide > VerticalScroll { width: 52; height: 1fr; max-height: 100%; }
    MetricsView.-wide > Grid { width: 1fr; height: 1fr; grid-size: 3; padding: 0 0 0 2; }
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.way = Static()
        self.box = VerticalScroll(self.way, classes="focus-first", can_focus=True)
        self.grid = Grid()
        self._role = ""
        self._plots: list[tuple[Series, Plot]] = []

    def compose(self) -> ComposeResult:
        yield self.box
        yield self.grid

    def on_resize(self, event: events.Resize) -> None:
        wide = event.size.width >= WIDE
        self.set_class(wide, "-wide")
        shown = 9 if wide else 6 if event.size.height >= 28 else 4
        for place, (_, plot) in enumerate(self._plots):
            plot.display = place < shown

    def refresh_from(self, state: State) -> None:
        super().refresh_from(state)
        self.way.update(Content("\n").join([heading("From the wire to the end"), *pipeline(state), *advice(state)]))
        self._lay_out(state.role)
        history = list(state.history)
        for series, plot in self._plots:
            plot.show(values_of(history, series), series.limit(state.snapshot))

    def _lay_out(self, role: str) -> None:
        """The plots of a role."""
        if role == self._role or role not in SERIES:
            return
        self._role = role
        self.grid.remove_children()
        self._plots = [(series, Plot(series.title, series.unit, series.style)) for series in SERIES[role]]
        self.grid.mount(*(plot for _, plot in self._plots))
        wide, high = self.has_class("-wide"), self.size.height >= 28
        for place, (_, plot) in enumerate(self._plots):
            plot.display = place < (9 if wide else 6 if high else 4)

    def copied(self) -> str:
        return "\n".join(each.plain for each in pipeline(self.state)) if self.state is not None else ""
