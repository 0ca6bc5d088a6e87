"""A running exporter as others may see it: the numbers of metrics, the sections of the live feed.

Sections of a snapshot (:mod:`pyflowx.live`) of the role ``export``; all counts are since the start:

- ``counters``: those of :class:`~pyflowx.exporting.ExportCounters`, ``alive`` (flows in the table), ``cpu_seconds``,
  ``memory_octets``; ``reasons`` counts Flow Records by flowEndReason.
- ``pipeline``: the way from the interface to the collector, as in :mod:`pyflowx.collectview`. Stages: ``hook`` (packets
  that do not parse), ``map`` (packets whose flow found no room), ``socket`` (Messages that the kernel refused),
  ``network`` (reports that a Message did not arrive).
- ``hooks``: what is attached: ``interface``, ``ifindex``, ``hook`` (``xdp``, ``xdp-generic``, ``tcx``, ``tc``),
  ``direction``, ``note``. ``statistics``: packets and octets by outcome.
- ``programs``: ``program``, ``runs`` (that were measured), ``nanoseconds`` (of these) and ``mean_ns`` (a packet; null
  where none was measured) of each that is loaded.
- ``map``: the kernel's map of flows: ``flows`` that the last drain found in it, ``max_flows``, ``inserts_failed``
  (packets whose flow found no room), ``drains``, ``drain_ns`` (the last one).
- ``collectors``: ``address``, ``sent``, ``octets``, ``lost``, ``reports``, ``reconnects``, ``last_error`` of each.
- ``flows``: as in :mod:`pyflowx.collectview`, of the flows that ended. ``log``: likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyflowx import host
from pyflowx.batch import FlowBatch
from pyflowx.collectview import Stage, cpu_seconds, flow_section, slots_of
from pyflowx.decoded import Decoded, Protocol
from pyflowx.exporting import Exporter, own_message
from pyflowx.kernel import Meter
from pyflowx.kernel.syscall import ProgramInfo
from pyflowx.live import FeedCounts, Section, section
from pyflowx.recent import RecentFlows
from pyflowx.transport.udp import SendCounts

_NO_FLOW = ("malformed", "lost")  # statistics of packets that are in no flow, though they should be


@dataclass(slots=True)
class ExporterView:
    """The parts of an exporter to look at; by any thread, until the meter is closed.

    ``targets``: the collectors with what was sent to each.
    """

    exporter: Exporter
    meter: Meter
    targets: Sequence[tuple[str, SendCounts]]
    log: Callable[[], Iterable[Sequence[Any]]] = tuple
    feed: FeedCounts = field(default_factory=FeedCounts)
    flows: RecentFlows = field(default_factory=RecentFlows)

    @property
    def counters(self) -> Any:
        return self.exporter.counters

    def statistics(self) -> Mapping[str, tuple[int, int]]:
        """Packets and octets by outcome."""
        return self.meter.statistics()

    def inserts_failed(self) -> int:
        """Packets whose flow found no room in the kernel's map."""
        packets = self.statistics()
        return packets["map_full"][0] + (packets["lost"][0] if self.meter.config.mode == "flows" else 0)

    def alive(self) -> int:
        """Flows in the table."""
        return len(self.exporter)

    def sends(self) -> Sequence[tuple[str, SendCounts]]:
        return self.targets

    def watched(self, by_somebody: bool) -> None:
        self.exporter.observe = self._observe if by_somebody else None

    def _observe(self, batches: Sequence[FlowBatch], export_ns: int) -> None:
        messages = own_message(export_ns)
        for batch in batches:
            self.flows.add_decoded(Decoded(Protocol.IPFIX, messages, [batch]))

    def pipeline(self) -> list[Stage]:
        packets = {name: count for name, (count, _) in self.statistics().items()}
        sends = [counts for _, counts in self.targets]
        metered = self.counters.packets_metered
        return [
            Stage("hook", "packets", metered, sum(packets.get(name, 0) for name in _NO_FLOW)),
            Stage("map", "packets", metered, packets.get("map_full", 0)),
            Stage("socket", "messages", sum(counts.sent for counts in sends), sum(counts.lost for counts in sends)),
            Stage("network", "reports", None, sum(counts.reports for counts in sends)),
        ]

    def sections(self) -> dict[str, Section]:
        """A snapshot."""
        counters = slots_of(self.counters)
        reasons = {reason.name: count for reason, count in dict(counters.pop("flows")).items()}
        process = {"alive": self.alive(), "cpu_seconds": cpu_seconds(), "memory_octets": host.memory_octets()}
        return {
            "counters": section({**counters, **process, "reasons": reasons}),
            "pipeline": section([stage._asdict() for stage in self.pipeline()]),
            "hooks": section([hook._asdict() for hook in self.meter.attachments]),
            "programs": section([_program(*row) for row in self.meter.run_statistics().items()]),
            "map": section(self._map()),
            "statistics": section({name: list(both) for name, both in self.statistics().items()}),
            "collectors": section([{"address": name, **slots_of(counts)} for name, counts in self.targets]),
            "flows": Section(flow_section(*self.flows.take())),
            "log": section([list(line) for line in self.log()]),
        }

    def _map(self) -> dict[str, int]:
        counters = self.counters
        return {
            "flows": self.meter.fill,
            "max_flows": self.meter.config.max_flows,
            "inserts_failed": self.inserts_failed(),
            "drains": counters.drains,
            "drain_ns": counters.last_drain_ns,
        }


def _program(name: str, info: ProgramInfo) -> dict[str, Any]:
    mean = info.mean_ns if info.runs else None
    return {"program": name, "runs": info.runs, "nanoseconds": info.nanoseconds, "mean_ns": mean}
