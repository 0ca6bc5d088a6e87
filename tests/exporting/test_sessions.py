"""Sessions: records over TCP through broken connections, and as text."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time

import numpy as np
import pytest
from parts import OFFSET, SECOND, Meter, flow, records_of

from pyflowx.batch import PacketBatch
from pyflowx.exporting import ExportConfig, Exporter, Schema, SinkSession, TcpSession, Tick, sessions
from pyflowx.sinks.target import ReaderGoneError
from pyflowx.transport import tcp
from pyflowx.transport.tcp import TcpConnection
from pyflowx.wire import Decoder


class Listener:
    """A collector's end."""

    def __init__(self, stack, port=0):
        self.stack = stack
        self.server = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        self.port = self.server.getsockname()[1]
        self.server.settimeout(20)

    def accept(self):
        connection, _ = self.server.accept()
        connection.settimeout(20)
        return self.stack.enter_context(connection)

    def close(self):
        self.server.close()


@pytest.fixture
def listener():
    with contextlib.ExitStack() as stack:
        yield Listener(stack)


def messages(octets):
    found = []
    while octets:
        length = int.from_bytes(octets[2:4], "big")
        found.append(octets[:length])
        octets = octets[length:]
    return found


def read_all(connection):
    """Until the other side ends."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def ports_of(octets):
    """Source ports of the flows in a stream that begins a Transport Session; no problems, no gaps in the sequence."""
    found, sequence = [], 0
    (result,), problems = Decoder().decode(PacketBatch.of(messages(octets)), 0)
    assert problems.tolist() == []
    records = np.zeros(len(result.messages), np.int64)
    for batch in result.flows:
        records += np.bincount(batch.message, minlength=len(records))
        if not batch.scope_count:
            found += batch.column("sourceTransportPort").tolist()
    for said, count in zip(result.messages.sequence_number.tolist(), records.tolist(), strict=True):
        assert said == sequence
        sequence += count
    return found


def options(counts, encoder):
    from pyflowx.exporting.options import Facts, options

    return options(Facts(1, [(7, "eth7")]), Schema(), counts, encoder)


def batches(ports):
    return Schema().batches(records_of(*(flow(src_port=port) for port in ports)), OFFSET)


def tick(spread=2.0):
    return Tick(time.monotonic_ns(), time.time_ns(), OFFSET, spread)


@pytest.fixture
def no_patience(monkeypatch):
    monkeypatch.setattr(tcp, "RETRY_S", (0.0,))


def test_records_over_a_connection(listener):
    session = TcpSession(1, TcpConnection("127.0.0.1", listener.port), 300 * SECOND)
    session.send(batches(range(100)), options, tick())
    session.send(batches(range(100, 150)), options, tick())
    connection = listener.accept()
    session.close()
    assert ports_of(read_all(connection)) == list(range(150))
    counts = session.counts
    assert (counts.flows, counts.not_sent_flows) == (150, 0)
    assert counts.template_messages >= 2


def test_many_records_go_through_a_full_window(listener):
    """More than the kernel holds: the rest goes when the collector has read."""
    session = TcpSession(1, TcpConnection("127.0.0.1", listener.port), 300 * SECOND)
    got = []
    session.send([], options, tick())
    connection = listener.accept()
    (batch,) = batches([1])
    many = batch.take(np.zeros(120_000, np.int64))
    session.send([many], options, tick(0.1))
    assert 0 < session.counts.flows < len(many)
    thread = threading.Thread(target=lambda: got.append(read_all(connection)))
    thread.start()
    while session.counts.flows < len(many):
        session.send([], options, tick())
    session.close()
    thread.join()
    assert len(ports_of(got[0])) == len(many)
    assert session.counts.not_sent_flows == 0


def test_a_collector_that_comes_later_gets_what_waited(no_patience, listener):
    port = listener.port
    listener.close()
    connection = TcpConnection("127.0.0.1", port)
    session = TcpSession(1, connection, 300 * SECOND)
    for begin in (0, 10):
        session.send(batches(range(begin, begin + 10)), options, tick(0.1))
    assert connection.counts.reports >= 1
    assert "refused" in connection.counts.last_error
    listener = Listener(listener.stack, port)
    session.send([], options, tick())
    collector = listener.accept()
    session.close()
    assert ports_of(read_all(collector)) == list(range(20))


def test_a_broken_connection_is_made_again_with_templates_and_options(no_patience, listener):
    session = TcpSession(1, TcpConnection("127.0.0.1", listener.port), 300 * SECOND)
    session.send(batches([1, 2]), options, tick())
    first = listener.accept()
    octets = first.recv(1 << 16)
    first.close()
    time.sleep(0.05)
    session.send(batches([3, 4]), options, tick())
    second = listener.accept()
    session.close()
    assert ports_of(octets) == [1, 2]
    assert ports_of(read_all(second)) == [3, 4]
    assert session.counts.not_sent_flows == 0


def test_what_was_half_written_goes_again(no_patience, listener):
    connection = TcpConnection("127.0.0.1", listener.port)
    session = TcpSession(1, connection, 300 * SECOND)
    session.send([], options, tick())
    first = listener.accept()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    many = batches(range(60_000))
    session.send(many, options, tick(0.1))  # the collector reads nothing: the window is full
    written = session.counts.flows
    first.close()  # reset
    got = []
    session.send([], options, tick(0.1))
    second = listener.accept()
    thread = threading.Thread(target=lambda: got.append(read_all(second)))
    thread.start()
    while session.counts.flows < 60_000:
        session.send([], options, tick())
    session.close()
    thread.join()
    ports = ports_of(got[0])
    assert ports == list(range(60_000 - len(ports), 60_000))
    assert len(ports) <= 60_000 - written
    assert connection.unacknowledged > 0  # what the kernel had taken and nobody confirmed
    assert connection.number == 2


def test_the_oldest_go_where_too_many_wait(monkeypatch, listener):
    monkeypatch.setattr(sessions, "HELD_RECORDS", 25)
    port = listener.port
    listener.close()
    session = TcpSession(1, TcpConnection("127.0.0.1", port), 300 * SECOND)
    session.send(batches(range(20)), options, tick(0.01))
    session.send(batches(range(20, 40)), options, tick(0.01))
    counts = session.counts
    assert (counts.not_sent_flows, counts.not_sent_packets, counts.not_sent_octets) == (15, 45, 4500)
    session.close()
    assert (counts.flows, counts.not_sent_flows) == (0, 40)
    assert counts.not_sent_first_ns <= counts.not_sent_last_ns


def test_a_stalled_collector_costs_no_time(listener):
    session = TcpSession(1, TcpConnection("127.0.0.1", listener.port), 300 * SECOND)
    (batch,) = batches([1])
    many = batch.take(np.zeros(120_000, np.int64))
    waits = []
    connection, wait = session._connection, session._connection.wait
    connection.wait = lambda timeout_s: (waits.append(timeout_s), wait(timeout_s))
    taken = -1
    while taken != (taken := connection.counts.octets):  # until the window is full and stays so
        session.send([many], options, tick(0.2))
    waits.clear()
    for _ in range(3):
        session.send([batch], options, tick(30))
    assert connection.counts.octets == taken
    assert 0 <= min(waits) <= max(waits) <= sessions.STALLED_S
    session.close()


class Output:
    """A sink that is full after two rows."""

    rows = octets = lost = 0

    def __init__(self):
        self.closed = False

    def write(self, batch):
        if self.rows >= 2:
            raise ReaderGoneError("gone")
        self.rows += len(batch)

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_a_reader_who_goes_ends_the_exporter():
    sink = Output()
    session = SinkSession(sink)
    with Exporter(Meter(flow(0), flow(0), flow(0)), [session], ExportConfig(inactive_timeout=1e-6)) as exporter:
        session.gone = exporter.stop
        for _ in range(3):
            exporter.tick()
        exporter.run()  # ends at once
    assert session.counts.flows == 2
    assert sink.closed


def test_flows_as_text():
    from pyflowx.sinks.ndjson import CommonNdjson
    from pyflowx.sinks.output import Output
    from pyflowx.sinks.target import Target

    read, write = os.pipe()
    session = SinkSession(Output(CommonNdjson(), Target(f"/proc/self/fd/{write}")))
    session.send(batches([1, 2]), options, tick())
    session.close()
    os.close(write)
    with open(read) as lines:
        rows = [json.loads(line) for line in lines]
    assert [(row["src_port"], row["packets"], row["bytes"]) for row in rows] == [(1, 3, 300), (2, 3, 300)]
    assert rows[0]["src_addr"] == "192.0.2.1"
    assert rows[0]["src_mac"] == "02:00:00:00:00:01"
