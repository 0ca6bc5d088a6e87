"""A bounded choice of what passed in the last second, for viewers: the heaviest flows, some datagrams.

The thread that collects adds, the feed's takes; only while somebody is watching. What a batch costs here does not
depend on how many flows it has, but for finding the heaviest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from pyflowx.batch import I64, Array, FlowBatch, PacketBatch
from pyflowx.common import CommonBatch, CommonColumn, to_common, told_rates
from pyflowx.decoded import Decoded, Problems, Protocol, Reason
from pyflowx.sinks import Sink

FLOWS = 1000  # in a snapshot
DATAGRAMS = 10
DATAGRAM_OCTETS = 2048
_FLOWS_OF_BATCH = 100  # at least; the first batches of a second give more
_DATAGRAMS_OF_BATCH = 3
_BATCHES_CHOSEN = 20  # of a second; from then on flows must be ever heavier
_BUSY = 8 * FLOWS  # flows of a second from which on the next one begins with what this one has taught
_BATCHES = 64  # that may wait for a snapshot; then the oldest go
_RATE_ROWS, _RATE_BATCHES, _RATE_EXPORTERS = 4, 8, 1000  # that are looked at for sampling rates
_RATE_PAUSE_NS = 200_000_000
_FEW_LABELS = 64
_OCTETS, _PACKETS = (1, 85), (2, 86)  # the elements that count them: of a delta, in total


def take_rows(batch: CommonBatch, rows: Any) -> CommonBatch:
    """Some rows of a batch, on their own: nothing of the batch's is kept, of labels only those that occur."""
    columns = {}
    for name, column in batch.columns.items():
        valid = None if column.valid is None else column.valid[rows]
        values, labels = column.values[rows], column.labels
        if labels is not None and len(labels) > _FEW_LABELS:
            codes = np.unique(values if valid is None else values[valid])
            if not len(codes):
                continue
            values = np.minimum(np.searchsorted(codes, values), len(codes) - 1).astype(values.dtype)
            labels = tuple(labels[code] for code in codes.tolist())
        columns[name] = CommonColumn(column.type, values, valid, labels)
    return CommonBatch(columns, len(rows))


def heaviest(octets: Array, count: int, least: int = 0) -> I64:
    """The rows of the ``count`` largest values of those that are at least ``least``, in their order."""
    rows = np.flatnonzero(octets >= least) if least else np.arange(len(octets))
    if len(rows) <= count:
        return rows
    return np.sort(rows[np.argpartition(octets[rows] if least else octets, -count)[-count:]])


def joined(batches: Sequence[CommonBatch]) -> list[CommonBatch]:
    """Batches that follow each other and have the same columns, with the same labels, as one."""
    found: list[CommonBatch] = []
    for _, group in groupby(batches, _shape):
        some = list(group)
        columns = {}
        for name, first in some[0].columns.items() if len(some) > 1 else ():
            parts = [batch.columns[name] for batch in some]
            valid = None if first.valid is None else np.concatenate([part.valid for part in parts])
            columns[name] = first._replace(values=np.concatenate([part.values for part in parts]), valid=valid)
        found.append(CommonBatch(columns, sum(map(len, some))) if columns else some[0])
    return found


def _shape(batch: CommonBatch) -> list[object]:
    return [
        (name, column.values.dtype, column.values.ndim, column.valid is None, column.labels)
        for name, column in batch.columns.items()
    ]


def _counts(flows: FlowBatch, ids: tuple[int, int]) -> Array:
    """The first of the elements that the records have as numbers, else zeros."""
    for id in ids:
        column = flows.find(0, id)
        if isinstance(column, np.ndarray) and column.dtype.kind == "u" and column.ndim == 1:
            return column
    return np.zeros(len(flows), np.uint8)


@dataclass(slots=True)
class FlowTotals:
    """All flows that passed while flows were chosen from them, so that shares can be told."""

    flows: int = 0
    octets: int = 0
    packets: int = 0


class RecentFlows:
    """The heaviest flows of each batch, in the common schema. ``wanted``: whether somebody is watching."""

    def __init__(self) -> None:
        self.wanted = False
        self._batches: deque[CommonBatch] = deque(maxlen=_BATCHES)
        self._begin()

    def _begin(self) -> None:
        self._totals = FlowTotals()
        self._kept = self._chosen = self._least = self._floor = 0

    def _choose(self, octets: Array) -> I64 | None:
        """The rows that a batch gives: half of what is left, so that at low rates nearly all are shown. When there
        are enough, only of flows as heavy as those that batches before could give, and of less and less batches: at
        high rates a batch costs a look for its heaviest flow. What was far too light a second ago is not looked at."""
        if self._kept >= FLOWS and (not len(octets) or octets.max() < self._least):
            return None
        share = max(_FLOWS_OF_BATCH, (FLOWS - self._kept) // 2)
        rows = heaviest(octets, share, max(self._floor, self._least if self._kept >= FLOWS else 0))
        if len(rows) == share < len(octets):
            self._least = max(self._least, int(octets[rows].min()))
        self._kept += len(rows)
        self._chosen += 1
        if self._chosen > _BATCHES_CHOSEN:
            self._least *= 2
        return rows

    def add(self, batch: CommonBatch) -> None:
        octets = np.ascontiguousarray(batch.columns["bytes"].values)  # its neighbours in the record are read once
        self._totals.flows += len(batch)
        self._totals.octets += int(octets.sum())
        self._totals.packets += int(batch.columns["packets"].values.sum())
        rows = self._choose(octets)
        if rows is not None:
            self._batches.append(take_rows(batch, rows))

    def add_decoded(self, decoded: Decoded) -> None:
        """Of records that are not converted to the common schema otherwise."""
        for flows in decoded.flows:
            if flows.scope_count or not len(flows):
                continue
            octets, packets = _counts(flows, _OCTETS), _counts(flows, _PACKETS)
            rows = self._choose(octets)
            if rows is not None:
                self._batches.extend(to_common(Decoded(decoded.protocol, decoded.messages, [flows.take(rows)])))
            self._totals.flows += len(flows)
            self._totals.octets += int(octets.sum())
            self._totals.packets += int(packets.sum())

    def merge(self, batches: list[CommonBatch], totals: FlowTotals) -> None:
        """Add what another process gave from :meth:`take`."""
        self._batches.extend(batches)
        self._totals.flows += totals.flows
        self._totals.octets += totals.octets
        self._totals.packets += totals.packets

    def take(self) -> tuple[list[CommonBatch], FlowTotals]:
        """What came since the last call, :data:`FLOWS` at most."""
        batches, totals = self._batches, self._totals
        self._batches = deque(maxlen=_BATCHES)
        self._begin()
        found = joined(batches)
        if sum(map(len, found)) <= FLOWS:
            return found, totals
        octets = np.concatenate([batch.columns["bytes"].values.astype(np.uint64) for batch in found])
        rows = heaviest(octets, FLOWS)
        if totals.flows > _BUSY:
            self._floor = int(octets[rows].min()) // 4
        ends = np.cumsum([len(batch) for batch in found])
        parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
        starts = ends - [len(batch) for batch in found]
        chosen = [take_rows(batch, part - start) for batch, part, start in zip(found, parts, starts, strict=True)]
        return [batch for batch in chosen if len(batch)], totals


class Tap:
    """Writes into a sink; what was written is shown to viewers, while there are any."""

    def __init__(self, sink: Sink[CommonBatch], flows: RecentFlows) -> None:
        self._sink, self._flows = sink, flows

    def write(self, batch: CommonBatch) -> None:
        self._sink.write(batch)
        if self._flows.wanted:
            self._flows.add(batch)


class RecentDatagrams:
    """Some datagrams of each batch, those with problems first."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, Any]] = deque(maxlen=DATAGRAMS)

    def add(self, packets: PacketBatch, decoded: list[Decoded], problems: Problems) -> None:
        bad = np.unique(problems.packet[problems.packet >= 0])[:_DATAGRAMS_OF_BATCH].tolist() if len(problems) else []
        rows = list(dict.fromkeys([*bad, len(packets) - 1]))[:_DATAGRAMS_OF_BATCH]
        found = problems.tolist() if bad and len(problems) < 1000 else []
        for row in rows:
            self._rows.append(
                {
                    "exporter": packets.exporter[row].tobytes(),
                    "port": int(packets.port[row]),
                    "time_ns": int(packets.received_ns[row]),
                    "protocol": _protocol(decoded, row),
                    "length": int(packets.length[row]),
                    "octets": packets.data[row, : min(int(packets.length[row]), DATAGRAM_OCTETS)].tobytes().hex(),
                    "problems": [(offset, Reason(why).name) for packet, offset, why in found if packet == row],
                }
            )

    def merge(self, rows: list[dict[str, Any]]) -> None:
        """Add what another process gave from :meth:`take`."""
        self._rows.extend(rows)

    def take(self) -> list[dict[str, Any]]:
        """What came since the last call; ``exporter`` as 16 octets."""
        rows, self._rows = self._rows, deque(maxlen=DATAGRAMS)
        return list(rows)


def _protocol(decoded: list[Decoded], row: int) -> str | None:
    found: Protocol | None = next((part.protocol for part in decoded if (part.messages.packet == row).any()), None)
    return found.name if found is not None else None


class RecentRates:
    """The sampling rates that records, or what they came in, tell; looked for in some records a few times a second.

    ``rates``: exporter (16 octets) to (rate, ``record``, ``header`` (NetFlow v5) or ``sample`` (sFlow)).
    """

    def __init__(self) -> None:
        self.rates: dict[bytes, tuple[int, str]] = {}
        self._looked: dict[bytes, int] = {}  # the exporter at the end of a batch -> when, in ns
        self._turn = 0

    def add(self, packets: PacketBatch, decoded: list[Decoded]) -> None:
        now_ns, last = int(packets.received_ns[-1]), packets.exporter[-1].tobytes()
        if 0 <= now_ns - self._looked.get(last, -_RATE_PAUSE_NS) < _RATE_PAUSE_NS:
            return
        if len(self._looked) >= _RATE_EXPORTERS:
            self._looked.clear()
        self._looked[last] = now_ns
        self._turn += 1
        for part in decoded:
            flows = [batch for batch in part.flows if len(batch) and not batch.scope_count]
            for batch in flows[:_RATE_BATCHES]:
                self._look(part, batch)

    def _look(self, part: Decoded, batch: FlowBatch) -> None:
        step = max(1, len(batch) // _RATE_ROWS)
        some = batch.take(np.arange(self._turn % step, len(batch), step)[:_RATE_ROWS])
        source = _RATE_SOURCES.get(part.protocol, "record")
        for message, rate in zip(some.message.tolist(), told_rates(some, part).tolist(), strict=True):
            exporter = part.messages.exporter[message].tobytes()
            if rate and (len(self.rates) < _RATE_EXPORTERS or exporter in self.rates):
                self.rates[exporter] = rate, source


_RATE_SOURCES = {Protocol.NETFLOW_V5: "header", Protocol.SFLOW_V5: "sample"}
