"""The Collecting Process: datagrams from a source, decoded, in one format, into a sink, everything counted.

One thread does it all: while it works, datagrams wait in the socket's buffer, and what the kernel has no room for it
counts. The batch is the unit, so that the cost of a step is shared by hundreds of datagrams at load, and at
low traffic a datagram waits :data:`LINGER_S` at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from typing import Protocol as Interface

import numpy as np

from pyflowx.batch import I64, Array, PacketBatch
from pyflowx.common import CommonBatch, Sampling, to_common
from pyflowx.decoded import Decoded, Problems, Protocol, Reason
from pyflowx.sinks import Sink
from pyflowx.sinks.target import ReaderGoneError
from pyflowx.wire import Decoder

if TYPE_CHECKING:
    from pyflowx.enrich.table import Enrichment

LINGER_S = 0.06  # how long a batch gathers datagrams; a line has to be out 0.1 s after its datagram
_IDLE_S = 1.0  # without a datagram for so long, sinks get to hand on what they hold back
MAX_EXPORTERS = 1000  # with counts of their own; a peer may forge any number of addresses

Consume = Callable[[Decoded], None]


class Source(Interface):
    """Where datagrams come from: :class:`~pyflowx.transport.udp.UdpReceiver` or a capture file.

    A source that can end has a true ``exhausted`` when it has.
    """

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None: ...


@dataclass(slots=True)
class ExporterCounts:
    """What came from one exporter; ``problems`` has a count for each Reason."""

    datagrams: int = 0
    octets: int = 0
    problems: I64 = field(default_factory=lambda: np.zeros(len(Reason), np.int64))


@dataclass(slots=True)
class ProtocolCounts:
    """What was decoded of one protocol. ``options``: Options Data Records, which are not flows."""

    messages: int = 0
    flows: int = 0
    options: int = 0
    templates: int = 0


@dataclass(slots=True)
class Counters:
    """Monotonic counts of a Collecting Process.

    ``exporters`` is keyed by the 16 octets of an address and holds at most :data:`MAX_EXPORTERS`; ``others`` is
    the sum over the rest. ``problems`` has a count for each Reason, over all exporters.
    """

    datagrams: int = 0
    octets: int = 0
    protocols: dict[Protocol, ProtocolCounts] = field(default_factory=dict)
    problems: I64 = field(default_factory=lambda: np.zeros(len(Reason), np.int64))
    exporters: dict[bytes, ExporterCounts] = field(default_factory=dict)
    others: ExporterCounts = field(default_factory=ExporterCounts)

    @property
    def flows(self) -> int:
        return sum(counts.flows for counts in self.protocols.values())

    def add(self, packets: PacketBatch, decoded: list[Decoded], problems: Problems) -> None:
        """Count one batch and what was made of it."""
        self.datagrams += len(packets)
        self.octets += int(packets.length.sum())
        for part in decoded:
            counts = self.protocols.setdefault(part.protocol, ProtocolCounts())
            counts.messages += int((part.messages.packet >= 0).sum())
            counts.templates += len(part.templates)
            counts.options += sum(len(flows) for flows in part.flows if flows.scope_count)
            counts.flows += sum(len(flows) for flows in part.flows if not flows.scope_count)
        self._add_exporters(packets, problems)

    def _add_exporters(self, packets: PacketBatch, problems: Problems) -> None:
        addresses, codes = _distinct(packets.exporter)
        n = len(addresses)
        datagrams = np.bincount(codes, minlength=n)
        octets = np.bincount(codes, weights=packets.length, minlength=n).astype(np.int64)
        table = np.zeros((n, len(Reason)), np.int64)
        if len(problems):
            rows, reasons = problems.packet, problems.reason
            self.problems += np.bincount(reasons, minlength=len(Reason))
            here = rows >= 0  # the others are about datagrams of earlier batches
            np.add.at(table, (codes[rows[here]], reasons[here]), 1)
        for i, address in enumerate(addresses):
            counts = self.exporters.get(address)
            if counts is None:
                full = len(self.exporters) >= MAX_EXPORTERS
                counts = self.others if full else self.exporters.setdefault(address, ExporterCounts())
            counts.datagrams += int(datagrams[i])
            counts.octets += int(octets[i])
            counts.problems += table[i]


def _distinct(addresses: Array) -> tuple[list[bytes], I64]:
    """The distinct rows of ``(n, 16)`` octets, and which of them each row is."""
    if (addresses == addresses[0]).all():
        return [addresses[0].tobytes()], np.zeros(len(addresses), np.int64)
    rows = np.ascontiguousarray(addresses).view("V16")[:, 0]
    distinct, codes = np.unique(rows, return_inverse=True)
    return [row.tobytes() for row in distinct], codes


def consume_common(
    sink: Sink[CommonBatch], sampling: Sampling | None = None, enrichments: Sequence[Enrichment] = ()
) -> Consume:
    """Decoded to flows in the common schema, with the columns of tables, into a sink."""

    def consume(decoded: Decoded) -> None:
        for batch in to_common(decoded, sampling):
            for enrichment in enrichments:
                batch.columns.update(enrichment.apply(batch.columns))
            sink.write(batch)

    return consume


class Collector:
    """Runs sources through a decoder into a sink.

    ``consume`` takes what was decoded: ``sink.write`` for raw output, :func:`consume_common` for flows.
    :meth:`stop` may be called from a signal handler or another thread; a source that is to be woken by it is
    made with :attr:`wake_fd`.
    """

    def __init__(self, decoder: Decoder, sink: Sink[Decoded] | Sink[CommonBatch], consume: Consume) -> None:
        self.counters = Counters()
        self.reader_gone = False
        """Whether the end came because nobody reads our output any more."""
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._decoder, self._sink, self._consume = decoder, sink, consume
        self._stopped_ns: int | None = None

    @property
    def is_stopping(self) -> bool:
        return self._stopped_ns is not None

    def stop(self) -> None:
        """Take what has arrived until now, then end."""
        if self._stopped_ns is None:
            self._stopped_ns = time.time_ns()
            os.eventfd_write(self.wake_fd, 1)

    def run(self, source: Source) -> None:
        """Until :meth:`stop`, the end of the source or of the reader of our output; SinkError where output fails."""
        try:
            while not self.is_stopping:
                packets = source.receive(_IDLE_S, LINGER_S)
                if packets is not None:
                    self._process(packets)
                elif getattr(source, "exhausted", False):
                    return
                else:
                    self._sink.flush()
            self._drain(source)
        except ReaderGoneError:
            self.reader_gone = True
            self.stop()

    def _drain(self, source: Source) -> None:
        """What was in the socket's buffer when we were stopped; a capture file simply ends."""
        if hasattr(source, "exhausted"):
            return
        while (packets := source.receive(0, 0)) is not None:
            self._process(packets)
            if self._stopped_ns is None or int(packets.received_ns[-1]) > self._stopped_ns:
                return

    def _process(self, packets: PacketBatch) -> None:
        decoded, problems = self._decoder.decode(packets, int(packets.received_ns[-1]))
        self.counters.add(packets, decoded, problems)
        for part in decoded:
            self._consume(part)

    def close(self) -> None:
        """Complete the output. Call once, whatever happened; may raise SinkError."""
        if self.wake_fd >= 0:
            os.close(self.wake_fd)
            self.wake_fd = -1
            self._sink.close()
