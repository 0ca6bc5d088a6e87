"""What a Collecting Process counts, and how a batch is added to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyflowx.batch import I64, Array, PacketBatch
from pyflowx.decoded import HARMLESS, Decoded, Problems, Protocol, Reason
from pyflowx.sequences import Sequences

MAX_EXPORTERS = 1000  # with counts of their own; a peer may forge any number of addresses


@dataclass(slots=True)
class ProtocolCounts:
    """What was decoded of one protocol. ``options``: Options Data Records, which are not flows."""

    messages: int = 0
    flows: int = 0
    options: int = 0
    templates: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ProtocolCounts, (self.messages, self.flows, self.options, self.templates)


def _no_problems() -> I64:
    return np.zeros(len(Reason), np.int64)


@dataclass(slots=True)
class ExporterCounts:
    """What came from one exporter; ``problems`` has a count for each Reason.

    ``last_ns``: when the last datagram came; ``clock_skew_ns``: by how much its clock is behind ours, from the last
    message (as exact as the protocol's export time, mostly a second; the way of the datagram included).
    """

    datagrams: int = 0
    octets: int = 0
    problems: I64 = field(default_factory=_no_problems)
    protocols: dict[Protocol, ProtocolCounts] = field(default_factory=dict)
    last_ns: int = 0
    clock_skew_ns: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Thousands of them go from process to process each second, and most have no problems."""
        problems = self.problems.tobytes() if self.problems.any() else b""
        parts = self.datagrams, self.octets, problems, self.protocols, self.last_ns, self.clock_skew_ns
        return _exporter_counts, parts

    def merge(self, other: ExporterCounts) -> None:
        """Add what another process counted."""
        self.datagrams += other.datagrams
        self.octets += other.octets
        self.problems = self.problems + other.problems if other.problems.any() else self.problems
        _merge_protocols(self.protocols, other.protocols)
        if other.last_ns >= self.last_ns:
            self.last_ns, self.clock_skew_ns = other.last_ns, other.clock_skew_ns


def _exporter_counts(datagrams: int, octets: int, problems: bytes, *others: Any) -> ExporterCounts:
    return ExporterCounts(datagrams, octets, np.frombuffer(problems, np.int64) if problems else _NONE, *others)


_NONE = _no_problems()  # of many: nobody adds to what came from another process


@dataclass(slots=True)
class Counters:
    """Monotonic counts of a Collecting Process.

    ``exporters`` is keyed by the 16 octets of an address and holds at most :data:`MAX_EXPORTERS`; ``others`` is
    the sum over the rest. ``problems`` has a count for each Reason, over all exporters; ``damaged``: datagrams of which
    something was not read, be it for one reason or for several. ``decode_seconds`` and ``output_seconds``: wall time
    from datagrams to Data Records, and from there into the sink.
    """

    datagrams: int = 0
    octets: int = 0
    damaged: int = 0
    decode_seconds: float = 0.0
    output_seconds: float = 0.0
    protocols: dict[Protocol, ProtocolCounts] = field(default_factory=dict)
    problems: I64 = field(default_factory=_no_problems)
    exporters: dict[bytes, ExporterCounts] = field(default_factory=dict)
    others: ExporterCounts = field(default_factory=ExporterCounts)
    sequences: Sequences = field(default_factory=Sequences)

    @property
    def flows(self) -> int:
        return sum(counts.flows for counts in self.protocols.values())

    def add(self, packets: PacketBatch, decoded: list[Decoded], problems: Problems) -> None:
        """Count one batch and what was made of it."""
        self.datagrams += len(packets)
        self.octets += int(packets.length.sum())
        self._add_exporters(packets, problems)
        for part in decoded:
            self._add_part(part, problems)

    def copy(self) -> Counters:
        """What was counted until now, on its own; it can be read and merged, not added to."""
        found = Counters()
        found.merge(self)
        return found

    def merge(self, other: Counters) -> None:
        """Add what another process counted. ``exporters`` and sequences are then as many as those of both."""
        self.datagrams += other.datagrams
        self.octets += other.octets
        self.damaged += other.damaged
        self.decode_seconds += other.decode_seconds
        self.output_seconds += other.output_seconds
        self.problems = self.problems + other.problems
        _merge_protocols(self.protocols, other.protocols)
        for address, counts in other.exporters.items():
            self.exporters.setdefault(address, ExporterCounts()).merge(counts)
        self.others.merge(other.others)
        self.sequences.merge(other.sequences)

    def _exporter(self, address: bytes) -> ExporterCounts:
        counts = self.exporters.get(address)
        if counts is None:
            full = len(self.exporters) >= MAX_EXPORTERS
            counts = self.others if full else self.exporters.setdefault(address, ExporterCounts())
        return counts

    def _add_exporters(self, packets: PacketBatch, problems: Problems) -> None:
        addresses, codes = _distinct(packets.exporter)
        n = len(addresses)
        datagrams = np.bincount(codes, minlength=n).tolist()
        octets = np.bincount(codes, weights=packets.length, minlength=n).astype(np.int64).tolist()
        last = _last(packets.received_ns, codes, n)
        table = None
        if len(problems):
            table = np.zeros((n, len(Reason)), np.int64)
            rows, reasons = problems.packet, problems.reason
            self.problems += np.bincount(reasons, minlength=len(Reason))
            here = rows >= 0  # the others are about datagrams of earlier batches
            np.add.at(table, (codes[rows[here]], reasons[here]), 1)
            harmful = ~np.isin(reasons, list(HARMLESS))
            self.damaged += len(np.unique(rows[here & harmful])) + int(np.count_nonzero(harmful & ~here))
        for i, address in enumerate(addresses):
            counts = self._exporter(address)
            counts.datagrams += datagrams[i]
            counts.octets += octets[i]
            counts.last_ns = last[i]
            if table is not None:
                counts.problems += table[i]

    def _add_part(self, part: Decoded, problems: Problems) -> None:
        messages = part.messages
        n = len(messages)
        if not n:
            return
        flows, options = _records(part, scoped=False), _records(part, scoped=True)
        templates = np.bincount([template.message for template in part.templates], minlength=n)
        whole = [(messages.packet >= 0).astype(np.int64), flows, options, templates.astype(np.int64)]
        _add_to(self.protocols.setdefault(part.protocol, ProtocolCounts()), [int(row.sum()) for row in whole])
        addresses, codes = _distinct(messages.exporter)
        shares = [np.bincount(codes, row, len(addresses)).astype(np.int64).tolist() for row in whole]
        skew = _last(messages.received_ns - messages.export_ns, codes, len(addresses))
        for i, address in enumerate(addresses):
            counts = self._exporter(address)
            _add_to(counts.protocols.setdefault(part.protocol, ProtocolCounts()), [share[i] for share in shares])
            counts.clock_skew_ns = skew[i]
        self.sequences.add(part, problems, flows, options)


def _merge_protocols(counts: dict[Protocol, ProtocolCounts], others: dict[Protocol, ProtocolCounts]) -> None:
    for protocol, other in others.items():
        numbers = [other.messages, other.flows, other.options, other.templates]
        _add_to(counts.setdefault(protocol, ProtocolCounts()), numbers)


def _add_to(counts: ProtocolCounts, numbers: list[int]) -> None:
    messages, flows, options, templates = numbers
    counts.messages += messages
    counts.flows += flows
    counts.options += options
    counts.templates += templates


def _records(part: Decoded, scoped: bool) -> I64:
    """How many Data Records (``scoped``: options records) each Message holds."""
    count = np.zeros(len(part.messages), np.int64)
    for flows in part.flows:
        if (flows.scope_count > 0) == scoped and len(flows):
            count += np.bincount(flows.message, minlength=len(count))
    return count


def _last(values: I64, codes: I64, n: int) -> list[int]:
    """The last value of each code."""
    last = np.zeros(n, np.int64)
    last[codes] = values
    found: list[int] = last.tolist()
    return found


def _distinct(addresses: Array) -> tuple[list[bytes], I64]:
    """The distinct rows of ``(n, 16)`` octets, and which of them each row is."""
    if (addresses == addresses[0]).all():
        return [addresses[0].tobytes()], np.zeros(len(addresses), np.int64)
    rows = np.ascontiguousarray(addresses).view("V16")[:, 0]
    distinct, codes = np.unique(rows, return_inverse=True)
    return [row.tobytes() for row in distinct], codes
