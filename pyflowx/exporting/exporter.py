"""The Exporting Process (RFC 5470 §5.3): kernel maps -> flow table -> records -> sessions.

In mode ``flows`` one tick a second drains the maps, ages the flows and sends what ended. Where there are many flows
the maps are drained less often (:func:`ticks_between_drains`), unless they fill: a flow that is counted in the kernel
for five seconds costs as little as one that is for one, each drain costs the same again. In mode ``packet`` ten ticks
a second send the starts of the selected packets.
"""

from __future__ import annotations

import os
import select
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from pyflowx.batch import Array, FlowBatch
from pyflowx.exporting.biflow import FIN, RST, Pairing, ended, ended_biflows
from pyflowx.exporting.fields import MERGES, Schema
from pyflowx.exporting.options import Facts, options
from pyflowx.exporting.samples import packet_batches
from pyflowx.exporting.sessions import Encoder, Session, SessionCounts, Tick
from pyflowx.flowtable import Ending, EndReason, FlowRecords, FlowTable
from pyflowx.kernel import Attachment, LinkChange, PacketSamples
from pyflowx.kernel.layout import dtypes

TICK_NS = 1_000_000_000
PACKET_TICK_NS = TICK_NS // 10  # in mode packet: the kernel's buffer holds so many
TICK_SPREAD = 0.7  # the part of a tick that sending may take
END_SPREAD_S = 3.0  # ... and the time that the last flows may take
DRAIN_SHARE = 0.005  # of a processor, that draining may take before it is done less often
MAX_DRAIN_TICKS = 5
DRAIN_FILL = 0.5  # of the kernel's table, that makes a drain due
IGNORED = ("malformed", "lost")  # statistics of packets that are in no flow though they should be


class MeterPart(Protocol):
    """What the Exporter needs of :class:`pyflowx.kernel.Meter`."""

    @property
    def attachments(self) -> list[Attachment]: ...
    @property
    def waiting(self) -> int: ...
    def attach(self) -> list[Attachment]: ...
    def watch(self) -> list[LinkChange]: ...
    def packets(self) -> PacketSamples: ...
    def drain(self) -> tuple[Array, Array]: ...
    def offset_ns(self) -> int: ...
    def statistics(self) -> dict[str, tuple[int, int]]: ...
    def detach(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Timeouts are in seconds, ``max_flows`` bounds the flow table. ``protocol`` to ``biflow``: as in
    :class:`~pyflowx.exporting.fields.Schema`, ``key`` is its ``level``. The sampling and the ``mode`` are the
    meter's."""

    active_timeout: float = 60
    inactive_timeout: float = 15
    observation_domain_id: int = 1
    max_flows: int = 1 << 18
    protocol: str = "ipfix"
    key: str = "vlan"
    time_unit: str = "ms"
    biflow: bool = False
    sampling_interval: int = 1
    sampling_random: bool = False
    mode: str = "flows"


def ticks_between_drains(cost_s: float, inactive_timeout: float) -> int:
    """How many ticks from a drain that cost ``cost_s`` to the next one: no more than a third of the timeout."""
    return max(1, min(MAX_DRAIN_TICKS, int(cost_s / DRAIN_SHARE), int(inactive_timeout / 3)))


@dataclass(slots=True)
class ExportCounters:
    """What happened since the start. Metered is what came out of the maps, exported what records said; refused is what
    the protocol cannot carry; not sent is what no collector could be given. Messages are those of all sessions."""

    ticks: int = 0
    drains: int = 0
    slow_ticks: int = 0  # took longer than a tick
    skipped_ticks: int = 0  # were not begun for that reason
    packets_metered: int = 0
    octets_metered: int = 0
    l2_octets_metered: int = 0
    packets_exported: int = 0
    octets_exported: int = 0
    l2_octets_exported: int = 0
    flows: Counter[EndReason] = field(default_factory=Counter)
    samples: int = 0  # Packet Reports
    refused_flows: int = 0
    refused_packets: int = 0
    not_sent_flows: int = 0
    not_sent_packets: int = 0
    messages: int = 0
    message_octets: int = 0
    template_messages: int = 0
    last_drain_ns: int = 0
    last_tick_ns: int = 0

    def metered(self, values: Array) -> None:
        self.packets_metered += int(values["packets"].sum())
        self.octets_metered += int(values["octets"].sum())
        self.l2_octets_metered += int(values["l2_octets"].sum())

    def exported(self, records: FlowRecords) -> None:
        names = records.values.dtype.names or ()
        for way in ("", "r_"):
            if f"{way}packets" in names:
                self.packets_exported += int(records.values[f"{way}packets"].sum())
                self.octets_exported += int(records.values[f"{way}octets"].sum())
                self.l2_octets_exported += int(records.values[f"{way}l2_octets"].sum())
        for reason, count in enumerate(np.bincount(records.reason).tolist()):
            if count:
                self.flows[EndReason(reason)] += count

    def sessions(self, counts: Sequence[SessionCounts]) -> None:
        """Sum up what they say."""
        self.messages = sum(each.messages for each in counts)
        self.message_octets = sum(each.octets for each in counts)
        self.template_messages = sum(each.template_messages for each in counts)
        self.not_sent_flows = sum(each.not_sent_flows for each in counts)
        self.not_sent_packets = sum(each.not_sent_packets for each in counts)


class Exporter:
    """Runs meter, table and sessions; closes the sessions, the meter stays the caller's to close.

    ``start()`` attaches, ``run()`` ticks until ``stop()`` (safe in a signal handler) and then drains: the
    programs are detached first, so that what they counted is complete, and all flows go out with
    reason 4.
    """

    def __init__(self, meter: MeterPart, sessions: Sequence[Session], config: ExportConfig) -> None:
        self._meter, self._sessions, self._config = meter, sessions, config
        self._schema = Schema(
            config.protocol, config.key, config.time_unit, config.biflow, sampled=config.sampling_interval > 1
        )
        key, value = dtypes(config.key)
        self._pairing = Pairing(key, value) if config.biflow else None
        self._table = FlowTable(
            key,
            self._pairing.value_dtype if self._pairing else value,
            self._pairing.merges if self._pairing else MERGES,
            active_ns=int(config.active_timeout * 1e9),
            idle_ns=int(config.inactive_timeout * 1e9),
            max_flows=config.max_flows,
            ending=Ending("tcp_flags", FIN | RST, ended_biflows if self._pairing else ended),
        )
        self._facts = Facts(
            config.observation_domain_id,
            sampling_interval=config.sampling_interval,
            sampling_random=config.sampling_random,
            reports_packets=config.mode == "packet",
        )
        self._tick_ns = PACKET_TICK_NS if config.mode == "packet" else TICK_NS
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._ticks = 0  # since the last drain
        self._wanted_ticks = 1  # until the next one
        self.counters = ExportCounters()
        self.observe: Callable[[Sequence[FlowBatch], int], None] | None = None
        """Is shown the flows that are exported, and the Export Time in ns."""
        self.notice: Callable[[LinkChange], None] | None = None
        """Is told what becomes of interfaces."""

    def __len__(self) -> int:
        """Flows in the table."""
        return len(self._table)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> list[Attachment]:
        attachments = self._meter.attach()
        self._name_interfaces(attachments)
        return attachments

    def _name_interfaces(self, attachments: Sequence[Attachment]) -> None:
        self._facts.interfaces = list(dict.fromkeys((at.ifindex, at.interface) for at in attachments))

    def stop(self) -> None:
        """End ``run()`` soon."""
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Tick until ``stop()``, then :meth:`finish`. The first tick is at once, so that collectors are told
        beforehand what is to come; the others keep their pace, counted from the start."""
        tick_ns = self._tick_ns
        due = time.monotonic_ns()
        while not self._stopped(due):
            begin = time.monotonic_ns()
            self.tick()
            end = time.monotonic_ns()
            self.counters.last_tick_ns = end - begin
            self.counters.slow_ticks += end - begin > tick_ns
            due += tick_ns
            if end > due:
                late = (end - due) // tick_ns + 1
                self.counters.skipped_ticks += late
                due += late * tick_ns
        self.finish()

    def _stopped(self, due_ns: int) -> bool:
        """Wait until a tick is due or ``stop()``."""
        return bool(self._poll.poll(max(0, due_ns - time.monotonic_ns()) / 1e6))

    def tick(self) -> None:
        """Look after the interfaces; drain and age where it is time for it; send what ended."""
        self.counters.ticks += 1
        self._watch()
        statistics = self._meter.statistics()
        self._count_ignored(statistics)
        spread_s = TICK_SPREAD * self._tick_ns / 1e9
        if self._config.mode == "packet":
            self._export([], spread_s)
            return
        parts: list[FlowRecords] = []
        self._ticks += 1
        if self._ticks >= self._wanted_ticks or self._meter.waiting > DRAIN_FILL * self._config.max_flows:
            begin = time.monotonic_ns()
            parts = self._drain()
            parts.append(self._table.expire(time.monotonic_ns()))
            cost_s = (time.monotonic_ns() - begin) / 1e9
            self._wanted_ticks = ticks_between_drains(cost_s, self._config.inactive_timeout)
            self._ticks = 0
        self._export(parts, spread_s)

    def finish(self) -> None:
        """Detach, drain once more, send all flows."""
        try:
            self._meter.detach()
        finally:
            self._count_ignored(self._meter.statistics())
            # Twice: a program that a processor was just running may have counted where the next drain looks.
            parts = [] if self._config.mode == "packet" else [*self._drain(), *self._drain(), self._table.flush()]
            self._export(parts, END_SPREAD_S)

    def _watch(self) -> None:
        """What became of the interfaces is told to collectors and to whom it may concern."""
        changes = self._meter.watch()
        if changes:
            self._name_interfaces(self._meter.attachments)
            for session in self._sessions:
                session.refresh()
        for change in changes:
            if self.notice is not None:
                self.notice(change)

    def close(self) -> None:
        """What sessions could not send is counted now."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
            for session in self._sessions:
                session.close()
            self._count_sessions()

    def _count_sessions(self) -> None:
        self.counters.sessions([session.counts for session in self._sessions])

    def _drain(self) -> list[FlowRecords]:
        """The meter's deltas into the table; what had to leave for lack of room, in the kernel's map or here."""
        begin = time.monotonic_ns()
        keys, values = self._meter.drain()
        self.counters.last_drain_ns = time.monotonic_ns() - begin
        self.counters.drains += 1
        self.counters.metered(values)
        full = keys["ip_version"] == 0
        if "ethertype" in (keys.dtype.names or ()):  # else: a flow of what is not IP
            full &= (keys["ethertype"] == 0) & ~keys["src_mac"].any(axis=1) & ~keys["dst_mac"].any(axis=1)
        found = []
        if full.any():
            drained = FlowRecords(keys, values, np.full(len(keys), EndReason.LACK_OF_RESOURCES, np.uint8))
            found.append(drained.take(full))
            keys, values, _ = drained.take(~full)
        if self._pairing is None:
            return [*found, self._table.update(keys, values)]
        return [*found, self._table.update(*self._pairing.deltas(keys, values))]

    def _export(self, parts: Sequence[FlowRecords], spread_s: float) -> None:
        offset_ns = self._meter.offset_ns()
        tick = Tick(time.monotonic_ns(), time.time_ns(), offset_ns, spread_s)
        batches = [batch for records in parts if len(records) for batch in self._batches(records, offset_ns)]
        if self._config.mode == "packet":
            batches = self._packets(offset_ns)
        if self.observe is not None:
            self.observe(batches, tick.export_ns)
        for session in self._sessions:
            session.send(batches, self._options, tick)
        self._count_sessions()

    def _batches(self, records: FlowRecords, offset_ns: int) -> list[FlowBatch]:
        if self._pairing is not None and records.values.dtype == self._pairing.value_dtype:
            records = self._pairing.records(records)
        self.counters.exported(records)
        carried, refused = self._schema.carried(records)
        self.counters.refused_flows += len(refused)
        self.counters.refused_packets += int(refused.values["packets"].sum())
        return self._schema.batches(carried, offset_ns)

    def _packets(self, offset_ns: int) -> list[FlowBatch]:
        samples = self._meter.packets()
        octets = int(samples.frame_length.sum())
        self.counters.samples += len(samples)
        self.counters.packets_metered += len(samples)
        self.counters.packets_exported += len(samples)
        self.counters.l2_octets_metered += octets
        self.counters.l2_octets_exported += octets
        return packet_batches(samples, offset_ns)

    def _options(self, counts: SessionCounts, encoder: Encoder) -> list[FlowBatch]:
        return options(self._facts, self._schema, counts, encoder)

    def _count_ignored(self, statistics: Mapping[str, tuple[int, int]]) -> None:
        """Note what was ignored, and when; and how many packets were sampled of how many."""
        facts = self._facts
        facts.selected = statistics.get("metered", (0, 0))[0]
        facts.observed = facts.selected + statistics.get("not_selected", (0, 0))[0]
        ignored = [statistics.get(name, (0, 0)) for name in IGNORED]
        packets = sum(count for count, _ in ignored)
        if packets > facts.ignored_packets:
            facts.ignored_packets, facts.ignored_octets = packets, sum(octets for _, octets in ignored)
            facts.ignored_last_ns = time.time_ns()
            facts.ignored_first_ns = facts.ignored_first_ns or facts.ignored_last_ns
