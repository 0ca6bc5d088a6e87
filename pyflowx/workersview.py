"""Several collecting processes as they are shown: :class:`~pyflowx.collectview.CollectorView` of their sums.

Each worker sends a :class:`Report` once a second and a last one when it ends in good order. What one has counted stays
counted when it dies, but for the last second.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pyflowx import host
from pyflowx.collectview import EVENTS, EXPORTERS, HELD, CollectorView, Receiver
from pyflowx.common import CommonBatch
from pyflowx.counters import Counters
from pyflowx.recent import FlowTotals
from pyflowx.supervising import Worker

_SINK = ("rows", "octets", "lost", "files", "commands_failed")
_NOW = ("stored", "sets", "octets")  # of Templates and held data: what there is, not what has been


@dataclass(slots=True)
class Shown:
    """What viewers see of a worker: sections about Templates, by exporter its sampling rate and the number of its
    Templates, flows and datagrams of the last second."""

    values: dict[str, tuple[list[Any], object]]
    sampling: dict[bytes, tuple[int, str] | None]
    templates_of: dict[bytes, int]
    flows: tuple[list[CommonBatch], FlowTotals]
    datagrams: list[dict[str, Any]]


def _zeros(names: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@dataclass(slots=True)
class Report:
    """What a worker has counted since it began. ``templates``: those ``stored`` and their events; ``sink``: ``rows``,
    ``octets``, ``lost``, ``files``, ``commands_failed``; ``tables``: rows of the feed's section."""

    counters: Counters = field(default_factory=Counters)
    templates: dict[str, int] = field(default_factory=lambda: _zeros(("stored", *EVENTS)))
    held: dict[str, int] = field(default_factory=lambda: _zeros(HELD))
    sink: dict[str, int] = field(default_factory=lambda: _zeros(_SINK))
    tables: list[dict[str, Any]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    memory_octets: int = 0
    shown: Shown | None = None

    @classmethod
    def of(cls, view: CollectorView, watched: bool) -> Report:
        """By a worker, of itself."""
        store = view.templates
        seconds, memory = view.usage()
        return cls(
            view.counters.copy(),
            {"stored": len(store), **{name: getattr(store, name) for name in EVENTS}},
            {name: getattr(store.held, name) for name in HELD},
            {name: getattr(view.sink, name, 0) for name in _SINK},
            view.table_rows(),
            seconds,
            memory,
            _shown(view) if watched else None,
        )

    def merge(self, other: Report, *, ended: bool = False) -> None:
        """Add what another one has counted; ``ended``: of what it had, nothing is left."""
        self.counters.merge(other.counters)
        for mine, others in ((self.templates, other.templates), (self.held, other.held), (self.sink, other.sink)):
            for name, number in others.items():
                if not (ended and name in _NOW and mine is not self.sink):
                    mine[name] += number
        self.tables = _tables(self.tables, other.tables)
        self.cpu_seconds += other.cpu_seconds
        self.memory_octets += 0 if ended else other.memory_octets


def _shown(view: CollectorView) -> Shown:
    heaviest = sorted(view.counters.exporters.items(), key=lambda row: -row[1].datagrams)[:EXPORTERS]
    exporters = [address for address, _ in heaviest]
    return Shown(
        view.template_values(),
        {exporter: view.sampling_of(exporter) for exporter in exporters},
        {exporter: view.templates_of(exporter) for exporter in exporters},
        view.flows.take(),
        view.datagrams.take(),
    )


def _tables(mine: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Look-ups add up; each worker loads the same."""
    if not (mine and others):
        return [dict(row) for row in mine or others]
    summed = ("looked_up", "matched")
    return [
        {**b, **{name: a[name] + b[name] for name in summed}, "reloads": max(a["reloads"], b["reloads"])}
        for a, b in zip(mine, others, strict=True)
    ]


class _Stored(SimpleNamespace):
    """As much of a :class:`~pyflowx.wire.TemplateStore` as is counted."""

    def __len__(self) -> int:
        return int(self.stored)


class WorkersView(CollectorView):
    """``receivers``: the sockets of each worker, in their order. ``output``: the sink that writes for all, None where
    each worker writes for itself."""

    def __init__(
        self,
        workers: Sequence[Worker],
        receivers: Sequence[Receiver],
        output: Any,
        log: Callable[[], Iterable[Sequence[Any]]],
    ) -> None:
        super().__init__(Counters(), _Stored(), output, receivers, log=log)  # type: ignore[arg-type]
        self._workers, self._output = workers, output
        self._past = [Report() for _ in workers]  # of those that have ended
        self._reports: list[Report | None] = [None] * len(workers)
        self._tables: list[dict[str, Any]] = []
        self._usage = 0.0, 0
        self.refresh()

    def take(self, number: int, report: Report) -> None:
        """A worker's latest."""
        self._reports[number] = report
        if report.shown is not None:
            self.flows.merge(*report.shown.flows)
            self.datagrams.merge(report.shown.datagrams)

    def gone(self, number: int) -> None:
        """A worker has ended."""
        report, self._reports[number] = self._reports[number], None
        if report is not None:
            self._past[number].merge(report, ended=True)

    def refresh(self) -> None:
        """Sum up what has been reported."""
        total = Report()
        for past in self._past:
            total.merge(past)
        for report in self._reports:
            if report is not None:
                total.merge(report)
        self.counters = total.counters
        self.templates = _Stored(**total.templates, held=SimpleNamespace(**total.held))  # type: ignore[assignment]
        self.sink = SimpleNamespace(**total.sink) if self._output is None else self._output
        self._tables = total.tables
        self._usage = total.cpu_seconds, total.memory_octets

    def _all_shown(self) -> list[Shown]:
        return [report.shown for report in self._reports if report is not None and report.shown is not None]

    def template_values(self) -> dict[str, tuple[list[Any], object]]:
        found: dict[str, tuple[list[Any], object]] = {}
        for shown in self._all_shown():
            for name, (rows, version) in shown.values.items():
                before, versions = found.get(name, ([], ()))
                found[name] = [*before, *rows], None if version is None else (*versions, version)  # type: ignore[misc]
        return found or {name: ([], None) for name in ("templates", "template_uses", "redefinitions", "held_for")}

    def templates_of(self, exporter: bytes) -> int:
        return sum(shown.templates_of.get(exporter, 0) for shown in self._all_shown())

    def sampling_of(self, exporter: bytes) -> tuple[int, str] | None:
        found = (shown.sampling.get(exporter) for shown in self._all_shown())
        return next((rate for rate in found if rate is not None), None)

    def table_rows(self) -> list[dict[str, Any]]:
        return self._tables

    def workers(self) -> list[dict[str, Any]]:
        return [self._row(worker) for worker in self._workers]

    def _row(self, worker: Worker) -> dict[str, Any]:
        past, report = self._past[worker.number], self._reports[worker.number] or Report()
        queued, limit = self.receivers[worker.number].queued
        return {
            "number": worker.number,
            "pid": worker.pid or None,
            "restarts": worker.restarts,
            "datagrams": past.counters.datagrams + report.counters.datagrams,
            "flows": past.counters.flows + report.counters.flows,
            "cpu_seconds": past.cpu_seconds + report.cpu_seconds,
            "memory_octets": report.memory_octets,
            "queued": queued,
            "limit": limit,
            "dropped": self.receivers[worker.number].dropped,
        }

    def usage(self) -> tuple[float, int]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds, memory = self._usage
        return seconds + used.ru_utime + used.ru_stime, memory + host.memory_octets()
