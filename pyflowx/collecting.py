"""The Collecting Process: datagrams from a source, decoded, in one format, into a sink, everything counted.

One thread does it all: while it works, datagrams wait in the socket's buffer, and what the kernel has no room for it
counts. The batch is the unit, so that the cost of a step is shared by hundreds of datagrams at load, and at
low traffic a datagram waits :data:`LINGER_S` at most.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar
from typing import Protocol as Interface

import numpy as np

from pyflowx.batch import PacketBatch
from pyflowx.common import CommonBatch, to_common
from pyflowx.counters import Counters
from pyflowx.decoded import Decoded, Problems
from pyflowx.errors import SinkError
from pyflowx.sinks import Sink
from pyflowx.sinks.target import ReaderGoneError
from pyflowx.wire import Decoder

if TYPE_CHECKING:
    from pyflowx.enrich.table import Enrichment

MAX_OCTETS = 2 << 20
"""Octets of datagrams that are decoded at once. Memory follows them: an octet of hostile ones costs some hundred."""
LINGER_S = 0.06  # how long a batch gathers datagrams; a line has to be out 0.1 s after its datagram
_LONG_LINGER_S = 0.15  # where nobody waits for rows: what a batch costs is shared by more of them
_IDLE_S = 1.0  # what is done each second is done without datagrams too

Consume = Callable[[Decoded], None]
Observe = Callable[[PacketBatch, list[Decoded], Problems], None]


class Source(Interface):
    """Where datagrams come from: :class:`~pyflowx.transport.udp.UdpReceiver` or a capture file.

    A source that can end has a true ``exhausted`` when it has.
    """

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None: ...


class Takes(Interface):
    """What is needed of a sink to hand flows to it."""

    def write(self, batch: CommonBatch, /) -> None: ...


def pieces(packets: PacketBatch) -> Iterator[PacketBatch]:
    """The batch in parts of about :data:`MAX_OCTETS`, which share its memory."""
    ends = np.cumsum(packets.length)
    if ends[-1] <= MAX_OCTETS:
        yield packets
        return
    cuts = np.flatnonzero(np.diff(ends // MAX_OCTETS)) + 1
    for first, end in pairwise([0, *cuts.tolist(), len(packets)]):
        yield packets.take(slice(first, end))


Item = TypeVar("Item")


def each(items: Iterable[Item], take: Callable[[Item], None]) -> None:
    """``take`` each of them, after an error too: a sink counts what it is given and cannot write. Then the error."""
    problem: SinkError | None = None
    for item in items:
        try:
            take(item)
        except SinkError as error:
            problem = problem or error
    if problem is not None:
        raise problem


def consume_common(
    sink: Takes,
    convert: Callable[[Decoded], list[CommonBatch]] = to_common,
    enrichments: Sequence[Enrichment] = (),
) -> Consume:
    """Decoded to flows in the common schema, with the columns of tables, into a sink."""

    def write(batch: CommonBatch) -> None:
        for enrichment in enrichments:
            batch.columns.update(enrichment.apply(batch.columns))
        sink.write(batch)

    return lambda decoded: each(convert(decoded), write)


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
        self.observe: Observe | None = None
        """Is shown every batch with what was decoded of it."""
        self.each_second: list[Callable[[], None]] = [sink.flush]
        """Called about once a second, between two batches."""
        self._soon: deque[Callable[[], object]] = deque()
        self._next_second = 0.0
        self._decoder, self._sink, self._consume = decoder, sink, consume
        self._stopped_ns: int | None = None

    @property
    def is_stopping(self) -> bool:
        return self._stopped_ns is not None

    def stop(self) -> None:
        """Take what has arrived until now, then end."""
        if self._stopped_ns is None:
            self._stopped_ns = time.time_ns()
            if self.wake_fd >= 0:  # a signal may come when all is closed
                os.eventfd_write(self.wake_fd, 1)

    def soon(self, function: Callable[[], object]) -> None:
        """Call it between two batches, a second from now at most. For signal handlers and other threads."""
        self._soon.append(function)

    def run(self, source: Source) -> None:
        """Until :meth:`stop`, the end of the source or of the reader of our output; SinkError where output fails."""
        try:
            while not self.is_stopping:
                packets = source.receive(_IDLE_S, LINGER_S if self._sink.prompt else _LONG_LINGER_S)
                if packets is not None:
                    self._process(packets)
                elif getattr(source, "exhausted", False):
                    return
                self._between()
            self._drain(source)
        except ReaderGoneError:
            self.reader_gone = True
            self.stop()

    def _between(self) -> None:
        """What is to be done between two batches."""
        while self._soon:
            self._soon.popleft()()
        now = time.monotonic()
        if now >= self._next_second:
            self._next_second = now + 1.0
            for function in self.each_second:
                function()

    def _drain(self, source: Source) -> None:
        """What was in the socket's buffer when we were stopped; a capture file simply ends."""
        if hasattr(source, "exhausted"):
            return
        while (packets := source.receive(0, 0)) is not None:
            self._process(packets)
            if self._stopped_ns is None or int(packets.received_ns[-1]) > self._stopped_ns:
                return

    def _process(self, batch: PacketBatch) -> None:
        for packets in pieces(batch):
            self._process_piece(packets)

    def _process_piece(self, packets: PacketBatch) -> None:
        begin = time.perf_counter()
        decoded, problems = self._decoder.decode(packets, int(packets.received_ns[-1]))
        self.counters.add(packets, decoded, problems)
        middle = time.perf_counter()
        self.counters.decode_seconds += middle - begin
        if self.observe is not None:
            self.observe(packets, decoded, problems)
        each(decoded, self._consume)
        self.counters.output_seconds += time.perf_counter() - middle

    def close(self) -> None:
        """Complete the output. Call once, whatever happened; may raise SinkError."""
        if self.wake_fd >= 0:
            os.close(self.wake_fd)
            self.wake_fd = -1
            self._sink.close()
