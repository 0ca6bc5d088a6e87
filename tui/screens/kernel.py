"""The screen Kernel: what runs there for an exporter (hooks, programs, map) or before a collector (gate, workers)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Grid
from textual.content import Content

from .. import cells, text
from ..panels import Panel, heading, line
from ..state import State
from .base import Options, View

Row = Mapping[str, Any]
_BAR = 24
_GOOD = ("passed", "redirected", "metered")
_NEUTRAL = ("other", "not_ip", "own_export", "filtered", "not_selected", "gso_added")


def bar(share: float, width: int = _BAR) -> tuple[str, str]:
    """A share, in the colour of how bad it is to have so much."""
    style = "$text-error" if share > 0.9 else "$text-warning" if share > 0.7 else "$text-success"
    return cells.bar(min(1.0, share), width).ljust(width, "·"), style


def rows_of(
    heads: Sequence[str], rows: Iterable[Sequence[str | tuple[str, str]]], texts: Sequence[int] = (0,)
) -> list[Content]:
    """Lines of a table; the columns but ``texts`` are numbers."""
    made = [[cell if isinstance(cell, tuple) else (cell, "") for cell in row] for row in rows]
    widths = [max([len(head), *(len(row[place][0]) for row in made)]) for place, head in enumerate(heads)]

    def shown(cell: str, place: int) -> str:
        return cell.ljust(widths[place]) if place in texts else cell.rjust(widths[place])

    lines = [line(("  " + "  ".join(shown(head, place) for place, head in enumerate(heads)), "$text-muted"))]
    for row in made:
        parts = [("  " + shown(cell, place), style) for place, (cell, style) in enumerate(row)]
        lines.append(line(*parts))
    return lines


def missing(what: str, how: str) -> list[Content]:
    return [line((f"  {what}", "$text-muted")), line(("  " + how, "$text-accent"))]


class KernelView(View):
    title: ClassVar[str] = "Kernel"
    key: ClassVar[str] = "7"
    about: ClassVar[str] = (
        "Of an exporter: its programs, where they are attached, nanoseconds a packet, how full the map of flows is, "
        "what became of packets. Of a collector: the gate before its sockets, its workers, its socket buffer."
    )
    DEFAULT_CSS = """
    KernelView > Grid { grid-size: 1; grid-rows: 1fr; height: 1fr; }
    KernelView.-wide > Grid { grid-size: 2; }
    KernelView.-wide Panel { border-right: solid $panel-lighten-1; }
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.first, self.second = Panel(), Panel()
        self.first.add_class("focus-first")

    def compose(self) -> ComposeResult:
        with Grid():
            yield self.first
            yield self.second

    def on_resize(self) -> None:
        self.set_class(self.size.width >= 110, "-wide")

    def refresh_from(self, state: State) -> None:
        super().refresh_from(state)
        if state.role == "export":
            self.first.show([*_map(state), line(""), *_programs(state), line(""), *_hooks(state)])
            self.second.show([*_statistics(state), line(""), *_collectors(state)])
        elif state.snapshot:
            self.first.show([*_gate(state), line(""), *_sockets(state)])
            self.second.show([*_workers(state), line(""), *_gate_exporters(state)])

    def copied(self) -> str:
        return f"{self.first.plain}\n{self.second.plain}"


# --- an exporter ------------------------------------------------------------------------------------------------------


def _map(state: State) -> list[Content]:
    found: Row = state.section("map", {})
    if not found:
        return [heading("Map of flows"), *missing("the feed does not tell of it", "attach to a newer pyflowx export")]
    share = found["flows"] / max(1, found["max_flows"])
    failed = found["inserts_failed"]
    return [
        heading("Map of flows", f"{found['drains']} drains, the last in {text.age(found['drain_ns'])}"),
        line("  ", bar(share), f" {100 * share:.0f}% of {text.count(found['max_flows'])}"),
        line(
            ("  found no room ", "$text-muted"),
            (f"{text.count(failed)} packets" if failed else "nobody", "$text-error" if failed else "$text-success"),
            ("  --max-flows makes it larger" if failed else "", "$text-muted"),
        ),
    ]


def _programs(state: State) -> list[Content]:
    found: Sequence[Row] = state.section("programs", ())
    if not any(program["runs"] for program in found):
        return [
            heading("Programs"),
            *missing("no runs have been measured", "pyflowx export --run-statistics measures all of them"),
        ]
    rows = [
        (
            program["program"],
            text.age(program["mean_ns"]) if program["mean_ns"] is not None else "—",
            text.count(program["runs"]),
        )
        for program in found
    ]
    return [heading("Programs", "time a packet"), *rows_of(("program", "mean", "measured"), rows)]


def _hooks(state: State) -> list[Content]:
    found: Sequence[Row] = state.section("hooks", ())
    if not found:
        return [heading("Hooks"), *missing("nothing is attached", "is the interface gone? the log says so")]
    rows = [(hook["interface"], hook["hook"], hook["direction"], hook.get("note") or "") for hook in found]
    return [heading("Hooks"), *rows_of(("interface", "hook", "direction", ""), rows, range(4))]


def _statistics(state: State) -> list[Content]:
    found: Mapping[str, Sequence[int]] = state.section("statistics", {})
    before: Mapping[str, Sequence[int]] = state.previous.get("statistics", {})
    seconds = state.seconds
    rows = []
    for name, (packets, octets) in found.items():
        speed = (packets - before[name][0]) / seconds if name in before and seconds else 0.0
        rows.append(
            (_outcome(name, packets), text.count(packets), text.octets(octets), text.rate(max(0.0, speed), "/s"))
        )
    return [heading("Packets by outcome"), *rows_of(("outcome", "packets", "octets", "now"), rows)]


def _outcome(name: str, count: int) -> tuple[str, str]:
    if name in _GOOD:
        return name, "$text-success"
    return name, "" if name in _NEUTRAL or not count else "$text-error"


def _collectors(state: State) -> list[Content]:
    found: Sequence[Row] = state.section("collectors", ())
    rows = [
        (
            row["address"],
            text.count(row["sent"]),
            text.octets(row["octets"]),
            (text.count(row["lost"]), "$text-error" if row["lost"] else ""),
            (text.count(row["reports"]), "$text-warning" if row["reports"] else ""),
        )
        for row in found
    ]
    lines = [heading("Collectors"), *rows_of(("address", "sent", "octets", "refused", "reports"), rows)]
    said = [line((f"  {row['address']}: {row['last_error']}", "$text-warning")) for row in found if row["last_error"]]
    return [*lines, *said]


# --- a collector ------------------------------------------------------------------------------------------------------


def _gate(state: State) -> list[Content]:
    gate: Row | None = state.section("gate")
    if not gate:
        return [
            heading("Gate", "before the sockets, in the kernel"),
            *missing(
                "not there: everything that comes reaches the sockets", "pyflowx collect --xdp eth0 counts and limits"
            ),
        ]
    mode = "drops what is wrong" if gate["mode"] == "enforce" else "only counts; --xdp-mode enforce drops"
    limit = "any rate" if not gate["rate_limit"] else f"{gate['rate_limit']} datagrams/s an exporter"
    allow = "anybody may send" if gate["allow"] is None else f"{gate['allow']} prefixes may send"
    lines = [heading("Gate", f"{gate['mode']}: {mode}"), line((f"  {limit}, {allow}", "$text-muted"))]
    for interface in gate["interfaces"]:
        hook = interface["hook"] or "not attached now"
        style = "" if interface["hook"] else "$text-error"
        lines.append(line(("  " + interface["interface"], "bold"), " ", (hook, style)))
        rows = [(_outcome(name, count), text.count(count)) for name, count in interface["outcomes"].items()]
        lines += rows_of(("outcome", "frames"), rows)
    return [*lines, *_queues(gate["queues"])]


def _queues(queues: Sequence[Row]) -> list[Content]:
    if not queues:
        return []
    names: Mapping[str, Callable[[Row], int]] = {
        "waiting": lambda row: row["depth"],
        "received": lambda row: row["received"],
        "lost": lambda row: row["rx_dropped"] + row["rx_ring_full"] + row["rx_fill_ring_empty_descs"],
        "bad": lambda row: row["rx_invalid_descs"] + row["bad_checksum"],
    }
    rows: list[list[str | tuple[str, str]]] = []
    for queue in queues:
        how = "zero copy" if queue["zero_copy"] else "copy"
        counts = [
            (text.count(of(queue)), "$text-error" if of(queue) and name == "lost" else "") for name, of in names.items()
        ]
        rows.append([f"{queue['interface']} queue {queue['queue']}, {how}", *counts])
    return [heading("AF_XDP sockets"), *rows_of(("queue", *names), rows)]


def _sockets(state: State) -> list[Content]:
    found: Row = state.section("socket", {})
    if not found.get("limit"):
        return [heading("Socket"), *missing("no socket is read", "datagrams come from a file, or by AF_XDP")]
    share = found["queued"] / found["limit"]
    return [
        heading("Socket buffer", "the fullest one"),
        line("  ", bar(share), f" {100 * share:.0f}% of {text.octets(found['limit'], binary=True)}"),
        line(
            ("  dropped ", "$text-muted"),
            (text.count(found["dropped"]), "$text-error" if found["dropped"] else "$text-success"),
            ("  --recv-buffer makes it larger" if found["dropped"] else "", "$text-muted"),
        ),
    ]


def _workers(state: State) -> list[Content]:
    found: Sequence[Row] = state.section("workers", ())
    if not found:
        return [
            heading("Workers"),
            *missing("one process does it all", "pyflowx collect --workers 4 spreads exporters over processes"),
        ]
    before = {row["number"]: row for row in state.previous.get("workers", ())}
    seconds, rows = state.seconds, []
    for row in found:
        then = before.get(row["number"], row)
        cpu = (row["cpu_seconds"] - then["cpu_seconds"]) / seconds if seconds else 0.0
        speed = (row["flows"] - then["flows"]) / seconds if seconds else 0.0
        rows.append(
            (
                f"{row['number']}  {row['pid'] or 'starting'}",
                text.rate(max(0.0, speed), "/s"),
                f"{100 * max(0.0, cpu):.0f}%",
                text.octets(row["memory_octets"]),
                f"{100 * row['queued'] / max(1, row['limit']):.0f}%",
                (text.count(row["dropped"]), "$text-error" if row["dropped"] else ""),
                (str(row["restarts"]), "$text-warning" if row["restarts"] else ""),
            )
        )
    heads = ("#  process", "flows", "CPU", "memory", "queue", "dropped", "restarts")
    return [heading("Workers"), *rows_of(heads, rows)]


def _gate_exporters(state: State) -> list[Content]:
    gate: Row | None = state.section("gate")
    if not gate:
        return []
    rows = []
    for row in [*gate["exporters"], *([gate["others"]] if any(gate["others"]["reasons"].values()) else ())]:
        reasons = ", ".join(f"{name} {text.count(count)}" for name, count in row["reasons"].items() if count)
        rows.append((row["address"], text.count(row["passed"]), (reasons or "·", "$text-error" if reasons else "")))
    lines = rows_of(("exporter", "passed", "refused"), rows, (0, 2))
    return (
        [heading("Exporters at the gate"), *lines] if rows else [heading("Exporters at the gate"), line("  none yet")]
    )
