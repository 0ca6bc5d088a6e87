"""Where Flow Records go: Transport Sessions (RFC 7011 §2) over UDP and TCP, or text.

A session is given what ended at each tick. It adds Templates and options records where its transport asks for
them: over UDP again and again, as they may be lost (RFC 7011 §8.4), and over TCP at the beginning of a connection.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pyflowx.batch import V4_MAPPED, Datagrams, FlowBatch
from pyflowx.common import CommonBatch
from pyflowx.conversion import Conversion
from pyflowx.decoded import Decoded, Messages
from pyflowx.decoded import Protocol as FlowProtocol
from pyflowx.elements import FieldSpecifier
from pyflowx.sinks import Sink
from pyflowx.sinks.target import ReaderGoneError
from pyflowx.transport.tcp import TcpConnection
from pyflowx.transport.udp import SendCounts
from pyflowx.wire import ipfix, netflow5, netflow9
from pyflowx.wire.encoding import Templates

SLOW_RATE = 5000  # Messages a second over UDP, if there are no more than fit in the time
BURST = 16
MAX_TCP_MESSAGE = 16_384
HELD_RECORDS = 1 << 18  # for a collector that cannot be reached over TCP; then the oldest go
STALLED_S = 0.01  # the time that a collector gets which took nothing in the last tick
_CHUNK = 4096  # records that are encoded at once for TCP
_GROUP = 4 * _CHUNK  # ... for UDP, about: few Messages are not full for that, and memory is used again


class Tick(NamedTuple):
    """When: CLOCK_MONOTONIC and ns since 1970; when CLOCK_MONOTONIC was 0; the time that sending may take."""

    now_ns: int
    export_ns: int
    boot_ns: int
    spread_s: float


@dataclass(slots=True)
class SessionCounts:
    """What one session did. ``flows``: Flow Records sent; ``not_sent``: flows, packets, octets that were not, and
    when (ns since 1970) for the first and the last time."""

    messages: int = 0
    octets: int = 0
    template_messages: int = 0
    flows: int = 0
    not_sent_flows: int = 0
    not_sent_packets: int = 0
    not_sent_octets: int = 0
    not_sent_first_ns: int = 0
    not_sent_last_ns: int = 0

    def not_sent(self, flows: FlowBatch, export_ns: int) -> None:
        self.not_sent_flows += len(flows)
        self.not_sent_packets += _total(flows, 2)
        self.not_sent_octets += _total(flows, 1)
        self.not_sent_first_ns = self.not_sent_first_ns or export_ns
        self.not_sent_last_ns = export_ns


def _total(flows: FlowBatch, id: int) -> int:
    column = flows.find(0, id)
    return int(column.sum()) if isinstance(column, np.ndarray) else 0


class Encoder(Protocol):
    """What the encoders of :mod:`pyflowx.wire` have in common."""

    with_templates: int

    def register(self, fields: tuple[FieldSpecifier, ...], scope_count: int = 0) -> int: ...
    def encode_all(self, batches: Sequence[FlowBatch], export_ns: int, templates: Templates = "none") -> Datagrams: ...


Options = Callable[[SessionCounts, Encoder], list[FlowBatch]]
"""Makes options records, as they are now, for a session and its encoder."""


class Sender(Protocol):
    """What :class:`UdpSession` needs of :class:`pyflowx.transport.udp.UdpSender`."""

    counts: list[SendCounts]

    def send(self, datagrams: Datagrams) -> None: ...
    def look(self) -> None: ...


class Session(Protocol):
    """One stream of records. ``send`` never raises for what the network does: it counts."""

    counts: SessionCounts

    def send(self, flows: Sequence[FlowBatch], options: Options, tick: Tick) -> None: ...
    def refresh(self) -> None:
        """Options records are to go with what comes next."""

    def close(self) -> None: ...


def udp_encoder(protocol: str, domain: int, sampling: tuple[int, bool]) -> Encoder:
    """For one of :data:`~pyflowx.exporting.fields.PROTOCOLS`; ``sampling``: interval, and whether it is random."""
    if protocol == "netflow5":
        encoder = netflow5.Encoder(domain)
        interval, is_random = sampling
        encoder.sampling = 0 if interval == 1 else (2 if is_random else 1) << 14 | interval
        return encoder
    return netflow9.Encoder(domain) if protocol == "netflow9" else ipfix.Encoder(domain)


def _groups(batches: Sequence[FlowBatch]) -> list[list[FlowBatch]]:
    """One after another, of some :data:`_GROUP` records; at least one."""
    groups: list[list[FlowBatch]] = [[]]
    records = 0
    for batch in batches:
        if records >= _GROUP:
            groups.append([])
            records = 0
        groups[-1].append(batch)
        records += len(batch)
    return groups


class UdpSession:
    """Messages over UDP, the same to all destinations of the sender.

    Templates and options go out at the start, every ``refresh_ns``, and after the network said that Messages did not
    arrive or there was no way: whoever hears us first after that must be able to read the rest.
    """

    def __init__(self, encoder: Encoder, sender: Sender, refresh_ns: int) -> None:
        self.counts = SessionCounts()
        self._encoder, self._sender, self._refresh_ns = encoder, sender, refresh_ns
        self._next_refresh_ns: int | None = None
        self._reports = self._reconnects = 0

    def send(self, flows: Sequence[FlowBatch], options: Options, tick: Tick) -> None:
        if isinstance(self._encoder, netflow5.Encoder | netflow9.Encoder):
            self._encoder.boot_ns = tick.boot_ns  # of uptimes; the clock may have been set
        due = self._next_refresh_ns is None or tick.now_ns >= self._next_refresh_ns
        templates: Templates = "new"
        batches = list(flows)
        if due or (flows and self._unheard()):
            self._next_refresh_ns = tick.now_ns + self._refresh_ns
            templates = "all"
            batches = [*options(self.counts, self._encoder), *batches]
        total = sum(map(len, batches))
        groups = _groups(batches)
        for group in groups:
            share = sum(map(len, group)) / total if total else 1
            messages = self._encoder.encode_all(group, tick.export_ns, templates)
            self._spread(messages, tick.spread_s * share, more=group is not groups[-1])
            templates = "new"
        self.counts.template_messages = self._encoder.with_templates
        self.counts.flows += sum(map(len, flows))
        if self._moved():  # who hears us now knows no Templates of this Transport Session
            again = self._encoder.encode_all(options(self.counts, self._encoder), tick.export_ns, "all")
            self._spread(again, tick.spread_s)

    def refresh(self) -> None:
        self._next_refresh_ns = None

    def _unheard(self) -> bool:
        """Whether reports came since the last look."""
        self._sender.look()
        before, self._reports = self._reports, sum(counts.reports for counts in self._sender.counts)
        return self._reports > before

    def _moved(self) -> bool:
        """Whether there is a way again that there was not, perhaps from another address, since the last look."""
        before, self._reconnects = self._reconnects, sum(counts.reconnects for counts in self._sender.counts)
        return self._reconnects > before

    def _spread(self, messages: Datagrams, spread_s: float, more: bool = False) -> None:
        """Send in small bursts, spread over ``spread_s`` where there are many: a socket's usual receive
        buffer holds some 90 Messages. ``more`` are to follow."""
        total = len(messages)
        rate = max(SLOW_RATE, total / spread_s)
        begin = time.monotonic()
        for row in range(0, total, BURST):
            burst = Datagrams(messages.data[row : row + BURST], messages.length[row : row + BURST])
            self._sender.send(burst)
            sent = row + len(burst)
            if (sent < total or more) and (early := begin + sent / rate - time.monotonic()) > 0:
                time.sleep(early)
        self.counts.messages += total
        self.counts.octets += int(messages.length.sum())

    def close(self) -> None:
        """The sender is the caller's."""


class TcpSession:
    """Messages over TCP to one collector: a Transport Session anew with each connection (RFC 7011 §10.4).

    While there is none, records wait, at most :data:`HELD_RECORDS`. Where a connection breaks, Messages that were not
    wholly written go again over the next one. Options go out at the beginning and every ``refresh_ns``.
    """

    def __init__(self, domain: int, connection: TcpConnection, refresh_ns: int) -> None:
        self.counts = SessionCounts()
        self._domain, self._connection, self._refresh_ns = domain, connection, refresh_ns
        self._encoder = ipfix.Encoder(domain, MAX_TCP_MESSAGE)
        self._number = 0  # of the connection that the encoder is for
        self._next_refresh_ns = 0
        self._queue: deque[FlowBatch] = deque()
        self._held = 0  # Flow Records in the queue and in the chunk
        self._is_stalled = False
        self._chunk: FlowBatch | None = None  # what is being written: its records ...
        self._messages: list[bytes] = []  # ... their Messages ...
        self._next = 0  # ... the first that is not wholly written ...
        self._rest = memoryview(b"")  # ... and what is left of that one

    def send(self, flows: Sequence[FlowBatch], options: Options, tick: Tick) -> None:
        self._queue.extend(flows)
        self._held += sum(map(len, flows))
        begin = time.monotonic()
        deadline = begin + (STALLED_S if self._is_stalled else tick.spread_s)
        before = self._connection.counts.octets
        while not (done := self._work(options, tick)) and time.monotonic() < deadline:
            self._connection.wait(deadline - time.monotonic())
        self._is_stalled = not done and self._connection.counts.octets == before
        self._shed(tick.export_ns)

    def refresh(self) -> None:
        self._next_refresh_ns = 0

    def _work(self, options: Options, tick: Tick) -> bool:
        """Write as much as there is room for; whether there is nothing more to wait for."""
        connection = self._connection
        if not connection.open(time.monotonic()):
            self._take_back()
            return connection.fileno() < 0
        if connection.number != self._number:  # sequence numbers and Templates begin anew
            self._take_back()
            self._number, self._next_refresh_ns = connection.number, 0
            self._encoder = ipfix.Encoder(self._domain, MAX_TCP_MESSAGE)
        if tick.now_ns >= self._next_refresh_ns:
            self._next_refresh_ns = tick.now_ns + self._refresh_ns
            self._queue.extendleft(options(self.counts, self._encoder))
        while self._rest or self._prepare(tick.export_ns):
            taken = connection.write(self._rest)
            self._rest = self._rest[taken:]
            if not self._rest:
                self._written()
            elif not connection.is_open:
                self._take_back()
                return True
            elif not taken:
                return False
        return True

    def _prepare(self, export_ns: int) -> bool:
        """Encode the next records; false where there are none."""
        if not self._queue:
            return False
        chunk = self._queue.popleft()
        if len(chunk) > _CHUNK:
            self._queue.appendleft(chunk.take(slice(_CHUNK, None)))
            chunk = chunk.take(slice(0, _CHUNK))
        self._encoder.register(chunk.fields, chunk.scope_count)
        templates = self._encoder.encode_all([], export_ns, "new").tolist()
        self._chunk, self._messages, self._next = chunk, templates + self._encoder.encode(chunk, export_ns).tolist(), 0
        self.counts.template_messages += len(templates)
        self._rest = memoryview(self._messages[0])
        return True

    def _written(self) -> None:
        """A Message is with the kernel."""
        self.counts.messages += 1
        self.counts.octets += len(self._messages[self._next])
        self._connection.counts.sent += 1
        self._next += 1
        if self._next < len(self._messages):
            self._rest = memoryview(self._messages[self._next])
            return
        if self._chunk is not None and not self._chunk.scope_count:
            self.counts.flows += len(self._chunk)
            self._held -= len(self._chunk)
        self._chunk = None

    def _take_back(self) -> None:
        """The connection is no more: what was not wholly written is to be sent again."""
        if self._chunk is not None:
            begin, end = (int.from_bytes(self._messages[at][8:12], "big") for at in (0, self._next))
            written = (end - begin) % (1 << 32)  # Data Records, by the sequence numbers
            self._queue.appendleft(self._chunk.take(slice(written, None)))
            if not self._chunk.scope_count:
                self.counts.flows += written
                self._held -= written
        self._chunk, self._messages, self._rest = None, [], memoryview(b"")

    def _shed(self, export_ns: int) -> None:
        """Let the oldest records go where too many wait."""
        while self._queue and self._held > HELD_RECORDS:
            batch = self._queue.popleft()
            if batch.scope_count:
                continue
            more = self._held - HELD_RECORDS
            if len(batch) > more:
                self._queue.appendleft(batch.take(slice(more, None)))
                batch = batch.take(slice(0, more))
            self._held -= len(batch)
            self.counts.not_sent(batch, export_ns)

    def close(self) -> None:
        """What still waits is not sent."""
        self._take_back()
        for batch in self._queue:
            if not batch.scope_count:
                self.counts.not_sent(batch, time.time_ns())
        self._queue.clear()
        self._held = 0
        self._connection.close()


def own_message(export_ns: int) -> Messages:
    """The Message that flows of our own are shown in: from this host, now."""
    zero, now = np.zeros(1, np.uint32), np.full(1, export_ns, np.int64)
    exporter = np.frombuffer(V4_MAPPED + b"\x7f\0\0\1", np.uint8).reshape(1, 16)
    return Messages(
        np.zeros(1, np.int32), exporter, np.zeros(1, np.uint16), now, {}, zero, zero, now, np.zeros(1, np.int64)
    )


class SinkSession:
    """Flows in the common schema into a sink; nothing is sent. Biflows are two flows there. ``gone`` is called when
    nobody reads it any more."""

    def __init__(self, sink: Sink[CommonBatch], gone: Callable[[], None] = lambda: None) -> None:
        self.counts = SessionCounts()
        self.gone = gone
        self._sink, self._convert = sink, Conversion(split_biflow=True)
        self._encoder = ipfix.Encoder()  # only numbers Templates
        self._has_options = False
        self._is_gone = False

    def send(self, flows: Sequence[FlowBatch], options: Options, tick: Tick) -> None:
        if self._is_gone:
            for batch in flows:
                self.counts.not_sent(batch, tick.export_ns)
            return
        message = own_message(tick.export_ns)
        if not self._has_options:  # in a call of their own: they hold for what comes after them
            self._has_options = True
            self._convert(Decoded(FlowProtocol.IPFIX, message, options(self.counts, self._encoder)))
        try:
            for rows in self._convert(Decoded(FlowProtocol.IPFIX, message, list(flows))):
                self._sink.write(rows)
                self.counts.flows += len(rows)
            self._sink.flush()
        except ReaderGoneError:
            self._is_gone = True
            self.gone()

    def refresh(self) -> None:
        self._has_options = False

    def close(self) -> None:
        self._sink.close()
