"""A running collector as others may see it: the numbers of metrics, summary and doctor, the sections of the live feed.

Sections of a snapshot (:mod:`pyflowx.live`) of the role ``collect``; all counts are since the start, all times in ns
since 1970:

- ``counters``: ``datagrams``, ``octets``, ``flows``, ``options`` (records), ``rows`` and ``written_octets``,
  ``decode_seconds``, ``output_seconds``, ``cpu_seconds``, ``memory_octets``, ``protocols`` and ``problems`` by name.
- ``pipeline``: the way from the wire to the file, in its order: ``stage``, ``unit``, ``passed`` (null: not known),
  ``lost``. Stages: ``network`` (gaps in sequence numbers), ``interface``, ``backlog``, ``socket``, ``decoder``,
  ``output``; ``network`` stands there for each unit that exporters count, ``units`` being those of many.
- ``socket``: octets ``queued`` and ``limit`` of the fullest socket, ``dropped`` datagrams.
- ``exporters``: the :data:`EXPORTERS` with most datagrams; ``exporters_in_all`` says how many there are. ``sampling``:
  rate and who says so (``record``, ``header``, ``sample``, ``options``, ``forced``, ``default``), null: nobody.
- ``domains``: sequence accounting by exporter, protocol and Observation Domain, those with most losses first.
- ``templates``: ``exporter``, ``version``, ``domain``, ``id``, ``scope_count``, ``fields`` as [pen, id, name, length];
  sent when one has changed. ``template_uses``: [defined_ns, refreshed_ns, refreshes] of each, in the same order.
  ``redefinitions``: the last ones, ``before`` and ``after`` being fields. ``template_counts``: those there are, and
  what happened to them; ``held`` data, ``held_for`` the Templates that it waits for: ``sets`` and ``oldest_ns``.
- ``flows``: ``rows`` in the common schema as NDJSON output has them, the heaviest of the last second; all that
  passed meanwhile are counted in ``flows``, ``octets``, ``packets``.
- ``datagrams``: some of the last second, those with problems first: ``octets`` in hex (the first 2048), ``problems``.
- ``tables``: those of ``--enrich``. ``log``: the last lines, as [number, time_ns, level, message].
- ``workers``: a row for each process of ``--workers``, none where there is one process: ``number``, ``pid`` (null: it
  has died and is being started again), ``restarts``, ``datagrams``, ``flows``, ``cpu_seconds``, ``memory_octets``, of
  its sockets ``queued``, ``limit``, ``dropped``.
- ``gate``: see :mod:`pyflowx.gateview`, null without ``--xdp``; stages of the pipeline: ``gate`` and ``af_xdp``.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyflowx import host
from pyflowx.batch import V4_MAPPED
from pyflowx.common import CommonBatch
from pyflowx.counters import Counters, ExporterCounts
from pyflowx.decoded import Reason
from pyflowx.live import FeedCounts, Section, section
from pyflowx.recent import FlowTotals, RecentDatagrams, RecentFlows, RecentRates
from pyflowx.sequences import UNITS, SequenceCounts
from pyflowx.sinks import Sink
from pyflowx.wire import TemplateStore
from pyflowx.wire.records import Layout

if TYPE_CHECKING:
    from pyflowx.conversion.sampling import Rates

EXPORTERS = 200  # in a snapshot
DOMAINS = 200
TEMPLATE_FIELDS = 8192  # of all Templates together
FLOW_OCTETS = 1 << 20
HELD_FOR = 50  # Templates that did not come
OTHERS = "other"  # the label of what has no counts of its own


class Receiver(Protocol):
    """What is needed of :class:`~pyflowx.transport.udp.UdpReceiver`."""

    @property
    def dropped(self) -> int: ...
    @property
    def queued(self) -> tuple[int, int]: ...


class Stage(NamedTuple):
    """A step on the way from the wire to the file."""

    stage: str
    unit: str
    passed: int | None
    lost: int


class GateLook(Protocol):
    """What is needed of :class:`~pyflowx.gateview.GateView`."""

    def stages(self) -> list[Stage]: ...
    def section(self) -> dict[str, Any]: ...
    def summary(self) -> list[str]: ...
    @property
    def reload(self) -> Callable[[], None]: ...


def octets_of(address: str) -> bytes:
    """The reverse of :func:`address_text`."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return V4_MAPPED + socket.inet_pton(socket.AF_INET, address)


def address_text(octets: bytes) -> str:
    """Of 16 octets, IPv4-mapped ones as IPv4."""
    if octets.startswith(V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, octets[12:])
    return socket.inet_ntop(socket.AF_INET6, octets)


@dataclass(slots=True)
class CollectorView:
    """The parts of a collector to look at. Looking changes nothing and may be done by any thread.

    ``tables``: those of ``--enrich`` (:class:`pyflowx.reload.Reloader`). ``log``: the last lines that were said.
    ``rates``: what options data and the user tell of sampling.
    """

    counters: Counters
    templates: TemplateStore
    sink: Sink[Any]
    receivers: Sequence[Receiver] = ()
    tables: Sequence[Any] = ()
    log: Callable[[], Iterable[Sequence[Any]]] = tuple
    feed: FeedCounts = field(default_factory=FeedCounts)
    flows: RecentFlows = field(default_factory=RecentFlows)
    datagrams: RecentDatagrams = field(default_factory=RecentDatagrams)
    recorded: RecentRates = field(default_factory=RecentRates)
    rates: Rates | None = None
    gate: GateLook | None = None
    started_ns: int = field(default_factory=time.time_ns)
    _interfaces: Mapping[str, host.Interface] = field(default_factory=host.interfaces)
    _backlog: int = field(default_factory=host.backlog_dropped)

    # -- numbers ---------------------------------------------------------------------------------------------------

    def exporters(self) -> list[tuple[str, ExporterCounts]]:
        """Address and counts of each exporter, and of all that have none of their own."""
        found = [(address_text(octets), counts) for octets, counts in list(self.counters.exporters.items())]
        return [*found, (OTHERS, self.counters.others)] if self.counters.others.datagrams else found

    def domains(self) -> list[tuple[tuple[str, str, str], SequenceCounts]]:
        """(exporter, protocol, Observation Domain) and counts of each."""
        sequences = self.counters.sequences
        found = [
            ((address_text(exporter), protocol.name, str(domain)), counts)
            for (protocol, exporter, domain), counts in list(sequences.counts.items())
        ]
        return [*found, ((OTHERS, OTHERS, OTHERS), sequences.others)] if sequences.others != SequenceCounts() else found

    def interface_drops(self) -> dict[str, host.Interface]:
        """What each interface received and dropped since the start (of all traffic)."""
        found = {}
        for name, now in host.interfaces().items():
            then = self._interfaces.get(name, host.Interface(0, 0))
            if now.received >= then.received and now.dropped >= then.dropped:  # else it is a new one of this name
                found[name] = host.Interface(now.received - then.received, now.dropped - then.dropped)
        return found

    def backlog_drops(self) -> int:
        return max(0, host.backlog_dropped() - self._backlog)

    def socket_drops(self) -> int:
        return sum(receiver.dropped for receiver in self.receivers)

    def socket_queue(self) -> tuple[int, int]:
        """(octets queued, limit) of the fullest socket."""
        queues = [receiver.queued for receiver in self.receivers]
        return max(queues, key=lambda queue: queue[0] / max(1, queue[1]), default=(0, 0))

    def undecoded(self) -> int:
        """Messages of which something was not read."""
        return self.counters.damaged + self.templates.held.expired

    def pipeline(self) -> list[Stage]:
        """Where things were lost, from the wire to the file."""
        counters = self.counters
        stages = []
        for unit in dict.fromkeys(UNITS[protocol] for protocol in counters.protocols if protocol in UNITS):
            rows = [counts for key, counts in list(counters.sequences.counts.items()) if UNITS[key[0]] == unit]
            stages.append(Stage("network", unit, None, sum(row.lost for row in rows)))
        if counters.sequences.others.lost:
            stages.append(Stage("network", "units", None, counters.sequences.others.lost))
        if self.receivers:
            links = self.interface_drops().values()
            received, dropped = sum(link.received for link in links), sum(link.dropped for link in links)
            stages.append(Stage("interface", "packets", received, dropped))
            stages += self.gate.stages() if self.gate is not None else []
            stages.append(Stage("backlog", "packets", None, self.backlog_drops()))
            stages.append(Stage("socket", "datagrams", counters.datagrams, self.socket_drops()))
        messages = sum(counts.messages for counts in list(counters.protocols.values()))
        stages.append(Stage("decoder", "messages", messages, self.undecoded()))
        stages.append(Stage("output", "rows", self.sink.rows, self.sink.lost))
        return stages

    # -- sections of the feed --------------------------------------------------------------------------------------

    def sections(self) -> dict[str, Section]:
        """A snapshot."""
        exporters = sorted(self.exporters(), key=lambda row: -row[1].datagrams)
        domains = sorted(self.domains(), key=lambda row: -row[1].lost)[:DOMAINS]
        queued, limit = self.socket_queue()
        return {
            "counters": section(self._totals()),
            "pipeline": section([stage._asdict() for stage in self.pipeline()]),
            "socket": section({"queued": queued, "limit": limit, "dropped": self.socket_drops()}),
            "exporters": section([self._exporter(*row) for row in exporters[:EXPORTERS]]),
            "exporters_in_all": section(len(exporters)),
            "domains": section([_domain(*row) for row in domains]),
            **self._template_sections(),
            "flows": Section(flow_section(*self.flows.take())),
            "datagrams": section([{**row, "exporter": address_text(row["exporter"])} for row in self.datagrams.take()]),
            "tables": section(self.table_rows()),
            "log": section([list(line) for line in self.log()]),
            "workers": section(self.workers()),
            "gate": section(self.gate.section() if self.gate is not None else None),
        }

    def _template_sections(self) -> dict[str, Section]:
        store = self.templates
        made = {name: section(*value) for name, value in self.template_values().items()}
        counts = {"stored": len(store), **{name: getattr(store, name) for name in EVENTS}}
        held = {name: getattr(store.held, name) for name in HELD}
        return {**made, "template_counts": section(counts), "held": section(held)}

    def template_values(self) -> dict[str, tuple[list[Any], object]]:
        """Sections about single Templates: rows, and what changes with them (None: sent each time)."""
        store = self.templates
        rows, keys = _templates(store)
        held = [{**_template_key(key), "sets": n, "oldest_ns": ns} for key, n, ns in store.held.waiting(HELD_FOR)]
        return {
            "templates": (rows, store.changes),
            "template_uses": ([_use(store, key) for key in keys], None),
            "redefinitions": (_redefinitions(store), store.redefined),
            "held_for": (held, None),
        }

    def templates_of(self, exporter: bytes) -> int:
        """How many it has."""
        return self.templates.count_of(exporter)

    def sampling_of(self, exporter: bytes) -> tuple[int, str] | None:
        """Its rate and who says so."""
        recorded = self.recorded.rates.get(exporter)
        return self.rates.of(exporter, recorded) if self.rates is not None and exporter else recorded

    def table_rows(self) -> list[dict[str, Any]]:
        """The tables of ``--enrich``."""
        return [_table(table) for table in self.tables]

    def workers(self) -> list[dict[str, Any]]:
        """The processes of ``--workers``."""
        return []

    def usage(self) -> tuple[float, int]:
        """Seconds of CPU, octets of memory."""
        return cpu_seconds(), host.memory_octets()

    def _exporter(self, address: str, counts: ExporterCounts) -> dict[str, Any]:
        octets = octets_of(address) if address != OTHERS else b""
        found = self.sampling_of(octets)
        return {
            "address": address,
            "datagrams": counts.datagrams,
            "octets": counts.octets,
            "last_ns": counts.last_ns,
            "clock_skew_ns": counts.clock_skew_ns,
            "protocols": {protocol.name: slots_of(each) for protocol, each in list(counts.protocols.items())},
            "problems": _problems(counts.problems),
            "sampling": None if found is None else {"rate": found[0], "source": found[1]},
            "templates": self.templates_of(octets),
        }

    def _totals(self) -> dict[str, Any]:
        counters = self.counters
        protocols = {protocol.name: slots_of(counts) for protocol, counts in sorted(counters.protocols.items())}
        seconds, memory = self.usage()
        return {
            "datagrams": counters.datagrams,
            "octets": counters.octets,
            "flows": counters.flows,
            "options": sum(counts["options"] for counts in protocols.values()),
            "rows": self.sink.rows,
            "written_octets": self.sink.octets,
            "decode_seconds": counters.decode_seconds,
            "output_seconds": counters.output_seconds,
            "cpu_seconds": seconds,
            "memory_octets": memory,
            "protocols": protocols,
            "problems": _problems(counters.problems),
        }


EVENTS = ("defined", "redefined", "withdrawn", "expired", "refused")  # of Templates
HELD = ("sets", "octets", "released", "expired", "dropped")


def cpu_seconds() -> float:
    """Of this process and those it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def slots_of(counts: Any) -> dict[str, Any]:
    """The fields of a dataclass with slots."""
    return {name: getattr(counts, name) for name in counts.__slots__}


def _problems(counts: Any) -> dict[str, int]:
    return {reason.name: int(counts[reason]) for reason in Reason if counts[reason]}


def _domain(key: tuple[str, str, str], counts: SequenceCounts) -> dict[str, Any]:
    exporter, protocol, domain = key
    return {"exporter": exporter, "protocol": protocol, "domain": domain, "lost": counts.lost, **slots_of(counts)}


_Fields = list[tuple[int, int, str, int]]


def _template_key(key: bytes) -> dict[str, Any]:
    return {
        "exporter": address_text(key[:16]),
        "version": int.from_bytes(key[16:18], "big"),
        "domain": int.from_bytes(key[18:22], "big"),
        "id": int.from_bytes(key[22:], "big"),
    }


def _fields(layout: Layout) -> _Fields:
    return [(field.element.pen, field.element.id, field.element.name, field.length) for field in layout.fields]


def _templates(store: TemplateStore) -> tuple[list[dict[str, Any]], list[bytes]]:
    """As many as there is room for, and their keys."""
    rows: list[dict[str, Any]] = []
    keys: list[bytes] = []
    room = TEMPLATE_FIELDS
    known: dict[Layout, _Fields] = {}
    for key, layout in list(store.layouts.items()):
        room -= len(layout.fields)
        if room < 0:
            break
        fields = known.get(layout)
        if fields is None:
            fields = known[layout] = _fields(layout)
        rows.append({**_template_key(key), "scope_count": layout.scope_count, "fields": fields})
        keys.append(key)
    return rows, keys


def _use(store: TemplateStore, key: bytes) -> list[int]:
    use = store.use(key)
    return [0, 0, 0] if use is None else [use.defined_ns, use.refreshed_ns, use.refreshes]


def _redefinitions(store: TemplateStore) -> list[dict[str, Any]]:
    """The last ones, as many as there is room for, the newest first."""
    rows: list[dict[str, Any]] = []
    room = TEMPLATE_FIELDS
    for key, time_ns, before, after in reversed(list(store.redefinitions)):
        room -= len(before.fields) + len(after.fields)
        if room < 0:
            break
        rows.append({**_template_key(key), "time_ns": time_ns, "before": _fields(before), "after": _fields(after)})
    return rows


def flow_section(batches: Sequence[CommonBatch], totals: FlowTotals) -> bytes:
    """Flows as JSON, as many as fit into :data:`FLOW_OCTETS`."""
    from pyflowx.sinks.ndjson import CommonNdjson  # only where somebody is watching

    encoder = CommonNdjson()
    lines = (line for batch in batches for _, text in encoder.encode(batch) for line in bytes(text).splitlines())
    kept, octets = [], 0
    for line in lines:
        octets += len(line) + 1
        if octets > FLOW_OCTETS:
            break
        kept.append(line)
    counted = totals.flows, totals.octets, totals.packets
    return b'{"flows":%d,"octets":%d,"packets":%d,"rows":[%s]}' % (*counted, b",".join(kept))


def _table(table: Any) -> dict[str, Any]:
    enrichment = table.enrichment
    return {
        "source": enrichment.spec.name,
        "rows": enrichment.table.rows,
        "looked_up": enrichment.looked_up,
        "matched": enrichment.matched,
        "reloads": table.counts.reloads,
        "failures": table.counts.failures,
    }
