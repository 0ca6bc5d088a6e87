"""Metrics for Prometheus, one row a metric: :data:`COLLECTOR` and :data:`EXPORTER`, by what they are read from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pyflowx import __version__
from pyflowx.decoded import Reason

COUNTER, GAUGE = "counter", "gauge"

XDP_LOSSES = ("bad_checksum", "unreadable", "rx_dropped", "rx_ring_full")
"""Why an AF_XDP socket lost frames: a checksum that we found wrong; what the kernel says (XDP_STATISTICS)."""

Sample = tuple[tuple[str, ...], float]  # values of the labels, value
Read = Callable[[Any], Iterable[Sample]]


class Metric(NamedTuple):
    """A row: name (a counter's without its ``_total``), kind, what reads it from a view, help, labels."""

    name: str
    kind: str
    read: Read
    help: str
    labels: tuple[str, ...] = ()

    @property
    def sample_name(self) -> str:
        """As it stands in a query."""
        return f"pyflowx_{self.name}_total" if self.kind == COUNTER else f"pyflowx_{self.name}"


def _count(name: str, read: Read, help: str, *labels: str) -> Metric:
    return Metric(name, COUNTER, read, help, labels)


def _gauge(name: str, read: Read, help: str, *labels: str) -> Metric:
    return Metric(name, GAUGE, read, help, labels)


# --- what reads them -------------------------------------------------------------------------------------------


def _one(read: Callable[[Any], float]) -> Read:
    return lambda view: [((), read(view))]


def _counter(name: str) -> Read:
    return _one(lambda view: getattr(view.counters, name))


def _feed(name: str) -> Read:
    return _one(lambda view: getattr(view.feed, name))


def _by_exporter(name: str, scale: float = 1) -> Read:
    return lambda view: [((address,), getattr(counts, name) * scale) for address, counts in view.exporters()]


def _by_protocol(name: str) -> Read:
    def read(view: Any) -> Iterator[Sample]:
        for address, counts in view.exporters():
            for protocol, each in list(counts.protocols.items()):
                yield (address, protocol.name), getattr(each, name)

    return read


def _problems(view: Any) -> Iterator[Sample]:
    for address, counts in view.exporters():
        for reason in Reason:
            if counts.problems[reason]:
                yield (address, reason.name), int(counts.problems[reason])


def _by_domain(name: str) -> Read:
    return lambda view: [(labels, getattr(counts, name)) for labels, counts in view.domains()]


def _events(events: tuple[str, ...], read: Callable[[Any], object]) -> Read:
    return lambda view: [((event,), getattr(read(view), event)) for event in events]


def _interfaces(view: Any) -> list[Sample]:
    return [((name,), link.dropped) for name, link in view.interface_drops().items()]


def _by_table(name: str) -> Read:
    return lambda view: [((row["source"],), row[name]) for row in view.table_rows()]


def _by_worker(read: Callable[[dict[str, Any]], float]) -> Read:
    return lambda view: [((str(row["number"]),), read(row)) for row in view.workers()]


def _gated(view: Any) -> Iterator[Sample]:
    for name, outcomes in view.gate.outcomes().items() if view.gate is not None else ():
        for outcome, count in outcomes.items():
            yield (name, outcome), count


def _refused(view: Any) -> Iterable[Sample]:
    return view.gate.refused() if view.gate is not None else ()


def _by_queue(read: Callable[[dict[str, Any]], float]) -> Read:
    def rows(view: Any) -> list[Sample]:
        sockets = view.gate.sockets() if view.gate is not None else []
        return [((row["interface"], str(row["queue"])), read(row)) for row in sockets]

    return rows


def _lost_by_queue(view: Any) -> Iterator[Sample]:
    for row in view.gate.sockets() if view.gate is not None else ():
        for reason in XDP_LOSSES:
            yield (row["interface"], str(row["queue"]), reason), row[reason]


def _statistics(view: Any) -> list[Sample]:
    return [((name,), packets) for name, (packets, _) in view.statistics().items()]


def _by_program(read: Callable[[Any], float]) -> Read:
    return lambda view: [((name,), read(info)) for name, info in view.meter.run_statistics().items()]


def _hooks(view: Any) -> list[Sample]:
    return [((at.interface, at.direction, at.hook), 1) for at in view.meter.attachments]


def _reasons(view: Any) -> list[Sample]:
    return [((reason.name,), count) for reason, count in list(view.counters.flows.items())]


def _sent(name: str) -> Read:
    return lambda view: [((target,), getattr(counts, name)) for target, counts in view.sends()]


def _build(view: Any) -> list[Sample]:
    return [((__version__, platform.python_version()), 1)]


# --- the rows --------------------------------------------------------------------------------------------------

_W = ("worker",)
_IQ = ("interface", "queue")
_E, _EP, _EPD = ("exporter",), ("exporter", "protocol"), ("exporter", "protocol", "domain")

_BOTH = (
    _gauge("build_info", _build, "1; the labels say what is running.", "version", "python"),
    _gauge("live_viewers", _feed("viewers"), "Viewers of the live feed."),
    _count("live_snapshots", _feed("sent"), "Snapshots sent to viewers."),
    _count("live_snapshots_dropped", _feed("dropped"), "Snapshots that slow viewers did not get."),
)

COLLECTOR: tuple[Metric, ...] = (
    *_BOTH,
    # in
    _count("received_packets", _by_exporter("datagrams"), "Datagrams received.", *_E),
    _count("received_octets", _by_exporter("octets"), "Octets of UDP payload received.", *_E),
    _gauge("exporter_last_seen_timestamp_seconds", _by_exporter("last_ns", 1e-9), "When a datagram last came.", *_E),
    _gauge("exporter_clock_skew_seconds", _by_exporter("clock_skew_ns", 1e-9), "How far its clock is behind.", *_E),
    # lost before us
    _count("sequence_missing", _by_domain("missing"), "Units that gaps in sequence numbers missed.", *_EPD),
    _count("sequence_late", _by_domain("late"), "Of these, units that came after all.", *_EPD),
    _count("sequence_gaps", _by_domain("gaps"), "Gaps in sequence numbers.", *_EPD),
    _count("sequence_reordered", _by_domain("reordered"), "Messages behind a later one, or copies.", *_EPD),
    _count("sequence_restarts", _by_domain("restarts"), "Sequences that began anew.", *_EPD),
    _count("interface_dropped_packets", _interfaces, "Dropped by an interface of this host.", "interface"),
    _count("gate_packets", _gated, "Frames that the gate saw, by what it made of them.", "interface", "outcome"),
    _count("gate_refused_packets", _refused, "Datagrams that the gate found wrong.", "exporter", "reason"),
    _count("af_xdp_received_packets", _by_queue(lambda row: row["received"]), "Read from AF_XDP sockets.", *_IQ),
    _count("af_xdp_lost_packets", _lost_by_queue, "Lost there.", *_IQ, "reason"),
    _gauge("af_xdp_queued_packets", _by_queue(lambda row: row["depth"]), "Frames that wait there.", *_IQ),
    _count("backlog_dropped_packets", _one(lambda v: v.backlog_drops()), "Dropped as a CPU's input queue was full."),
    _count("socket_dropped_packets", _one(lambda v: v.socket_drops()), "Dropped as a socket buffer was full."),
    _gauge("socket_queue_octets", _one(lambda v: v.socket_queue()[0]), "Queued in the fullest socket buffer."),
    _gauge("socket_buffer_octets", _one(lambda v: v.socket_queue()[1]), "The size of that buffer."),
    # decoded
    _count("messages", _by_protocol("messages"), "Export messages decoded.", *_EP),
    _count("flows", _by_protocol("flows"), "Flow records decoded.", *_EP),
    _count("options_records", _by_protocol("options"), "Options data records decoded.", *_EP),
    _count("template_records", _by_protocol("templates"), "Template records received.", *_EP),
    _count("problems", _problems, "What was wrong with datagrams.", "exporter", "reason"),
    _gauge("templates", _one(lambda v: len(v.templates)), "Templates stored."),
    _count(
        "template_events",
        _events(("defined", "redefined", "withdrawn", "expired", "refused"), lambda view: view.templates),
        "What happened to Templates.",
        "event",
    ),
    _gauge("held_data_sets", _one(lambda v: v.templates.held.sets), "Data Sets that wait for their Template."),
    _gauge("held_data_octets", _one(lambda v: v.templates.held.octets), "The memory that they take."),
    _count(
        "held_data_events",
        _events(("released", "expired", "dropped"), lambda view: view.templates.held),
        "What became of Data Sets that waited.",
        "event",
    ),
    _count("decode_seconds", _counter("decode_seconds"), "Spent on the way from datagrams to records."),
    # out
    _count("output_seconds", _counter("output_seconds"), "Spent on the way from records to output."),
    _count("rows_written", _one(lambda v: v.sink.rows), "Flows (raw: messages) written."),
    _count("rows_lost", _one(lambda v: v.sink.lost), "Rows that could not be written."),
    _count("octets_written", _one(lambda v: v.sink.octets), "Octets of output."),
    _count("files_written", _one(lambda v: getattr(v.sink, "files", 0)), "Files completed (those of a rotated tree)."),
    _count(
        "commands_failed",
        _one(lambda v: getattr(v.sink, "commands_failed", 0)),
        "Programs that --exec and --expire-exec ran and that failed.",
    ),
    _gauge("enrichment_rows", _by_table("rows"), "Rows of a table.", "table"),
    _count("enrichment_lookups", _by_table("looked_up"), "Look-ups in a table.", "table"),
    _count("enrichment_matches", _by_table("matched"), "Look-ups that found.", "table"),
    _count("enrichment_reloads", _by_table("reloads"), "Times it was loaded again.", "table"),
    _count("enrichment_reload_failures", _by_table("failures"), "Times that failed.", "table"),
    # processes of --workers
    _gauge("worker_up", _by_worker(lambda w: w["pid"] is not None), "Whether it is running.", *_W),
    _count("worker_restarts", _by_worker(lambda w: w["restarts"]), "Times it died and was started again.", *_W),
    _count("worker_received_packets", _by_worker(lambda w: w["datagrams"]), "Datagrams that it received.", *_W),
    _count("worker_flows", _by_worker(lambda w: w["flows"]), "Flow records that it decoded.", *_W),
    _count("worker_cpu_seconds", _by_worker(lambda w: w["cpu_seconds"]), "CPU time that it took.", *_W),
    _count("worker_socket_dropped_packets", _by_worker(lambda w: w["dropped"]), "Dropped as its buffer was full.", *_W),
    _gauge("worker_socket_queue_octets", _by_worker(lambda w: w["queued"]), "Queued in its fullest buffer.", *_W),
)

EXPORTER: tuple[Metric, ...] = (
    *_BOTH,
    _count("metered_packets", _counter("packets_metered"), "Packets in flows."),
    _count("metered_octets", _counter("octets_metered"), "Their IP octets."),
    _count("hook_packets", _statistics, "What the kernel programs did with packets.", "outcome"),
    _count("exported_packets", _counter("packets_exported"), "Packets that Flow Records told of."),
    _count("exported_octets", _counter("octets_exported"), "Their IP octets."),
    _count("exported_flows", _reasons, "Flow Records, by flowEndReason.", "reason"),
    _count("exported_packet_reports", _counter("samples"), "Packet Reports, in packet mode."),
    _count("refused_flows", _counter("refused_flows"), "Flow Records that the protocol cannot carry."),
    _count("refused_packets", _counter("refused_packets"), "Their packets."),
    _count("not_sent_flows", _counter("not_sent_flows"), "Flow Records that no collector could be given."),
    _count("not_sent_packets", _counter("not_sent_packets"), "Their packets."),
    # the kernel
    _gauge("attached", _hooks, "1 for each program that is attached.", "interface", "direction", "hook"),
    _gauge("map_flows", _one(lambda v: v.meter.fill), "Flows that the last drain found in the kernel's map."),
    _gauge("map_max_flows", _one(lambda v: v.meter.config.max_flows), "Flows that it holds."),
    _count("map_inserts_failed", _one(lambda v: v.inserts_failed()), "Packets whose flow found no room in it."),
    _count("drains", _counter("drains"), "Times that it was drained."),
    _gauge("drain_seconds", _one(lambda v: v.counters.last_drain_ns * 1e-9), "What the last drain took."),
    _count("program_runs", _by_program(lambda p: p.runs), "Runs (packets) that the kernel measured.", "program"),
    _count("program_seconds", _by_program(lambda p: p.nanoseconds * 1e-9), "What they took.", "program"),
    _gauge("program_mean_nanoseconds", _by_program(lambda p: p.mean_ns), "The same, a packet.", "program"),
    # out
    _gauge("flow_table_flows", _one(lambda v: v.alive()), "Flows that are alive."),
    _count("exported_messages", _counter("messages"), "Messages made."),
    _count("exported_template_messages", _counter("template_messages"), "Of these, with Templates."),
    _count("sent_packets", _sent("sent"), "Messages handed to the kernel.", "collector"),
    _count("sent_octets", _sent("octets"), "Their octets.", "collector"),
    _count("send_lost_packets", _sent("lost"), "Messages that the kernel refused.", "collector"),
    _count("send_reconnects", _sent("reconnects"), "Times that there was a way again.", "collector"),
    _count("send_reports", _sent("reports"), "Reports that messages did not arrive.", "collector"),
    _count("ticks", _counter("ticks"), "Times that interfaces and flows were looked after, once a second."),
    _count("slow_ticks", _counter("slow_ticks"), "Ticks that took longer than a second."),
    _count("skipped_ticks", _counter("skipped_ticks"), "Ticks that were left out for that."),
    _gauge("tick_seconds", _one(lambda v: v.counters.last_tick_ns * 1e-9), "What the last tick took."),
)
