"""The Collecting Process: its counters, its ends, and ``pyflowx collect`` over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyflowx import collecting
from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.cli import inputs
from pyflowx.collecting import Collector, consume_common
from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.counters import Counters
from pyflowx.decoded import Problems, Protocol, Reason
from pyflowx.errors import ConfigError, SinkError
from pyflowx.sinks.arrow import CommonArrow
from pyflowx.sinks.csvtext import CommonCsv
from pyflowx.sinks.discard import Discard
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.output import Output
from pyflowx.sinks.parquet import CommonParquet
from pyflowx.sinks.target import ReaderGoneError, Target
from pyflowx.transport import sockets
from pyflowx.wire import Decoder


def set_of(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def message(*sets: bytes, sequence: int = 0) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, sequence, 42) + body


TEMPLATE = set_of(2, struct.pack(">HHHHHH", 256, 2, 7, 2, 1, 4))  # source port, octets
OPTIONS = set_of(3, struct.pack(">HHHHHHH", 257, 2, 1, 143, 4, 41, 8))


def flows(*octets: int) -> bytes:
    return set_of(256, b"".join(struct.pack(">HI", 80, count) for count in octets))


# --- the parts, in this process --------------------------------------------------------------------------------


class Batches:
    """A source of batches, one a call, then nothing."""

    def __init__(self, *batches: PacketBatch, at_end: Callable[[], None] = lambda: None) -> None:
        self.left, self.at_end = list(batches), at_end

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
        if self.left:
            return self.left.pop(0)
        self.at_end()
        return None


class Capture(Batches):
    """The same as a capture file, which says when it has ended."""

    @property
    def exhausted(self) -> bool:
        return not self.left


def batch(*datagrams: bytes, last: int | Sequence[int] = 1, received_ns: int = 1) -> PacketBatch:
    octets = [last] * len(datagrams) if isinstance(last, int) else last
    return PacketBatch.of(datagrams, [V4_MAPPED + b"\xc0\0\2" + bytes([i]) for i in octets], 4739, received_ns)


@contextlib.contextmanager
def collector(sink: Any = None) -> Iterator[Collector]:
    sink = sink or Discard()
    made = Collector(Decoder(), sink, consume_common(sink))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("encoder", "gathers_longer"),
    [(CommonNdjson, False), (CommonCsv, False), (CommonArrow, True), (CommonParquet, True)],
)
def test_batches_are_short_where_somebody_may_wait_for_a_row(
    tmp_path: Path, encoder: type[Any], gathers_longer: bool
) -> None:
    class Asked(Batches):
        def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
            made.stop()
            lingers.append(linger_s)
            return None

    lingers: list[float] = []
    with collector(Output(encoder(), Target(str(tmp_path / "out")))) as made:
        made.run(Asked())
    assert lingers[0] > collecting.LINGER_S if gathers_longer else lingers[0] == collecting.LINGER_S


def test_everything_is_counted() -> None:
    with collector() as made:
        options = set_of(257, struct.pack(">IQ", 1, 2))
        made.run(
            Capture(
                batch(message(TEMPLATE, OPTIONS, flows(1, 2), options), b"", last=[1, 2]),
                batch(message(flows(3)), b"\0\x63garbage", message(flows(4))[:-1], last=[1, 2, 1]),
            )
        )
        counters = made.counters
    assert counters.datagrams == 5
    assert counters.flows == 3
    ipfix = counters.protocols[Protocol.IPFIX]
    assert (ipfix.messages, ipfix.flows, ipfix.options, ipfix.templates) == (3, 3, 1, 2)
    assert sum(exporter.datagrams for exporter in counters.exporters.values()) == 5
    assert sum(exporter.octets for exporter in counters.exporters.values()) == counters.octets
    found = {
        address[-1]: {reason for reason in Reason if exporter.problems[reason]}
        for address, exporter in counters.exporters.items()
    }
    assert found[2] == {Reason.EMPTY_DATAGRAM, Reason.UNKNOWN_VERSION}
    assert Reason.MESSAGE_PAST_DATAGRAM in found[1]
    assert counters.problems.tolist() == sum(e.problems for e in counters.exporters.values()).tolist()


def test_a_problem_of_an_earlier_datagram_has_no_exporter_here() -> None:
    counters, problems = Counters(), Problems()
    problems.add(-1, 0, Reason.HELD_DATA_DROPPED)
    counters.add(batch(b"x"), [], problems)
    assert counters.problems[Reason.HELD_DATA_DROPPED] == 1
    assert not any(exporter.problems.any() for exporter in counters.exporters.values())


def test_the_number_of_exporters_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyflowx.counters.MAX_EXPORTERS", 3)
    with collector() as made:
        made.run(Capture(*(batch(b"\0\x63", b"\0\x63", last=[i, i + 1]) for i in range(0, 10, 2))))
        made.run(Capture(batch(b"\0\x63", last=0)))
        counters = made.counters
    assert len(counters.exporters) == 3
    assert counters.others.datagrams == 7
    assert counters.others.problems[Reason.UNKNOWN_VERSION] == 7
    assert counters.exporters[V4_MAPPED + b"\xc0\0\2\0"].datagrams == 2
    assert counters.problems[Reason.UNKNOWN_VERSION] == 11


def test_stop_takes_what_had_arrived_and_no_more() -> None:
    """After the stop the socket is drained of what came before it, however much comes after."""
    future = 2**62
    with collector() as made:
        made.stop()
        assert made.is_stopping
        endless = Batches(batch(b"a"), batch(b"b"), batch(b"c", received_ns=future), batch(b"d", received_ns=future))
        made.run(endless)
        assert made.counters.datagrams == 3
        assert len(endless.left) == 1


def test_a_signal_after_the_end_does_no_harm() -> None:
    made = Collector(Decoder(), Discard(), lambda decoded: None)
    made.close()
    made.stop()
    assert made.is_stopping


def test_stop_wakes_the_source() -> None:
    with collector() as made:
        made.stop()
        made.stop()
        assert os.eventfd_read(made.wake_fd) == 1


def test_a_stopped_capture_is_not_read_to_its_end() -> None:
    with collector() as made:
        made.stop()
        made.run(Capture(batch(b"a"), batch(b"b")))
        assert made.counters.datagrams == 0


class Failing(Discard):
    def __init__(self, error: SinkError) -> None:
        super().__init__()
        self.error, self.closed, self.flushed = error, 0, 0

    def write(self, batch: Any) -> None:
        raise self.error

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1


def test_a_reader_that_has_gone_ends_it_quietly() -> None:
    sink = Failing(ReaderGoneError("gone"))
    with collector(sink) as made:
        made.run(Batches(batch(message(TEMPLATE, flows(1))), batch(b"never")))
        assert made.reader_gone and made.is_stopping
        assert made.counters.datagrams == 1
    assert sink.closed == 1


def test_an_output_that_fails_ends_it_with_its_error() -> None:
    sink = Failing(SinkError("full"))
    with pytest.raises(SinkError, match="full"), collector(sink) as made:
        made.run(Batches(batch(message(TEMPLATE, flows(1)))))
    assert sink.closed == 1


def test_an_idle_collector_lets_its_sink_hand_on() -> None:
    sink = Failing(SinkError("unused"))
    with collector(sink) as made:
        made.run(Batches(at_end=made.stop))
    assert sink.flushed == 1


def test_what_was_decoded_is_converted_as_the_options_say() -> None:
    seen: list[CommonBatch] = []
    sink = Discard()
    sink.write = seen.append  # type: ignore[method-assign, assignment]
    made = CommonBatch({"proto": CommonColumn("u8", np.array([6], np.uint8))}, 1)
    decoded, _ = Decoder().decode(batch(message(TEMPLATE, flows(1))), 1)
    consume_common(sink, lambda given: [made] if given is decoded[0] else [])(decoded[0])
    assert seen == [made]


# --- the command, over sockets ---------------------------------------------------------------------------------


class Running:
    """``pyflowx collect`` on a port that the kernel chose, and a socket to send to it."""

    def __init__(self, *options: str, **settings: Any) -> None:
        command = [sys.executable, "-m", "pyflowx", "collect", "-H", "127.0.0.1", "-p", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)
        assert self.process.stderr is not None
        found = re.fullmatch(r"pyflowx: listening on 127\.0\.0\.1 UDP port (\d+)\n", self.process.stderr.readline())
        assert found, self.process.stderr.read()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", int(found[1])))

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Exit status and what was said on stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        return self.process.wait(), said

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stderr, self.process.stdout):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def running(*options: str, **settings: Any) -> Iterator[Running]:
    process = Running(*options, **settings)
    try:
        yield process
    finally:
        process.close()


def test_a_line_appears_while_the_collector_waits_for_more() -> None:
    """Each line is read before the next datagram is sent: nothing is held back for a fuller batch."""
    assert collecting.LINGER_S < 0.1
    with running("-f", "common", stdout=subprocess.PIPE) as run:
        assert run.process.stdout is not None
        for octets in range(5):
            run.socket.send(message(TEMPLATE, flows(octets)))
            line = json.loads(run.process.stdout.readline())
            assert (line["bytes"], line["src_port"], line["flow_type"]) == (octets, 80, "IPFIX")
            assert line["sampler_address"] == "127.0.0.1"


def test_raw_is_the_default() -> None:
    with running(stdout=subprocess.PIPE) as run:
        assert run.process.stdout is not None
        run.socket.send(message(TEMPLATE, flows(7)))
        line = json.loads(run.process.stdout.readline())
        assert line["sets"][1]["records"] == [{"sourceTransportPort": 80, "octetDeltaCount": 7}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_nothing_that_had_arrived(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "flows.json"
    with running("-f", "common", "-o", str(path)) as run:
        run.socket.send(message(TEMPLATE))
        for sequence in range(2000):
            run.socket.send(message(flows(sequence), sequence=sequence))
        status, said = run.end(number)
    assert status == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["bytes"] for line in lines] == list(range(2000))
    assert "2001 datagrams" in said
    assert "IPFIX: 2001 messages, 2000 flows, 0 options records, 1 Templates" in said
    assert f"2000 rows, {path.stat().st_size} octets written" in said


def test_hostile_datagrams_leave_it_up_and_are_counted_by_reason() -> None:
    chance = random.Random(7)
    good = message(TEMPLATE, flows(1))
    hostile = [
        b"",
        b"\0",
        b"\0\x0a",
        chance.randbytes(1400),
        good[:10],
        good[:-3],
        good + b"trailing",
        message(set_of(9, b"reserved")),
        message(struct.pack(">HH", 256, 3)),
        message(struct.pack(">HH", 256, 60000)),
        message(set_of(2, struct.pack(">HH", 255, 1) + bytes(4))),
        message(set_of(2, struct.pack(">HH", 256, 0xFFFF))),
        message(set_of(999, b"no Template")),
        struct.pack(">HH", 9, 0xFFFF) + bytes(16),
        struct.pack(">HH", 5, 0xFFFF),
        struct.pack(">II", 5, 1) + b"\xff" * 40,
    ]
    with running("-f", "common", stdout=subprocess.PIPE) as run:
        for datagram in hostile:
            run.socket.send(datagram)
        for _ in range(200):
            octets = bytearray(chance.choice(hostile) or good)
            octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
            run.socket.send(octets)
        run.socket.send(message(TEMPLATE, flows(4711)))
        assert run.process.stdout is not None
        while json.loads(run.process.stdout.readline())["bytes"] != 4711:
            pass
        status, said = run.end()
    assert status == 0
    assert f"{len(hostile) + 201} datagrams" in said
    (line,) = [line for line in said.splitlines() if line.startswith("pyflowx: problems:")]
    for reason in (
        Reason.EMPTY_DATAGRAM,
        Reason.UNKNOWN_VERSION,
        Reason.TRUNCATED_HEADER,
        Reason.MESSAGE_PAST_DATAGRAM,
        Reason.TRAILING_OCTETS,
        Reason.BAD_SET_LENGTH,
        Reason.SET_PAST_MESSAGE,
        Reason.RESERVED_SET_ID,
        Reason.BAD_TEMPLATE_ID,
        Reason.TRUNCATED_TEMPLATE,
        Reason.HELD_DATA,
    ):
        assert re.search(rf"\b{reason.name} [1-9]", line), reason.name
    assert "Traceback" not in said


def test_a_reader_that_goes_away_ends_the_command_cleanly() -> None:
    with running("-f", "common", stdout=subprocess.PIPE) as run:
        assert run.process.stdout is not None
        run.socket.send(message(TEMPLATE, flows(1)))
        run.process.stdout.readline()
        run.process.stdout.close()
        run.process.stdout = None
        run.socket.send(message(flows(2)))
        status, said = run.wait()
    assert status == 0
    assert "1 rows" in said
    assert "Traceback" not in said and "BrokenPipe" not in said


def test_a_full_disk_ends_the_command_with_status_4_and_the_path() -> None:
    with running("-f", "common", "-o", "/dev/full") as run:
        run.socket.send(message(TEMPLATE, flows(1)))
        status, said = run.wait()
    assert status == 4
    assert "pyflowx: /dev/full: No space left on device" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("kind", "accepts"), [("auto", True), ("netflow", True), ("sflow", False)])
def test_the_type_restricts_what_is_accepted(kind: str, accepts: bool) -> None:
    with running("-f", "common", "-s", "discard", "-t", kind) as run:
        run.socket.send(message(TEMPLATE, flows(1)))
        _, said = run.end()
    assert ("1 flows" in said) == accepts
    assert ("OTHER_PROTOCOL 1" in said) != accepts


def test_discard_counts_flows() -> None:
    with running("-f", "common", "-s", "discard", stdout=subprocess.PIPE) as run:
        run.socket.send(message(TEMPLATE, flows(1, 2, 3)))
        _, said = run.end()
        assert run.process.stdout is not None
        assert not run.process.stdout.read()
    assert "3 rows, 0 octets written" in said


def collect_fails(*options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pyflowx", "collect", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        status, said = collect_fails("-H", "127.0.0.1", "-p", str(port))
    assert status == ConfigError.exit_code
    assert str(port) in said and "in use" in said and "-p/--port" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-H", "no-such-host.invalid"], "-H/--host no-such-host.invalid"),
        (["-H", "192.0.2.1"], "-H/--host"),
        (["-p", "65536"], "0<=x<=65535"),
        (["-f", "csv"], "'raw', 'common'"),
        (["-s", "xml"], "'json', 'ndjson', 'csv', 'parquet', 'protobuf', 'arrow-ipc', 'discard'"),
        (["--pcap", "/no/such/file"], "/no/such/file"),
    ],
)
def test_a_wrong_option_is_named_with_accepted_values(options: list[str], says: str) -> None:
    status, said = collect_fails(*options)
    assert status == 2
    assert says in said


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    status, said = collect_fails("-p", "0", "-o", str(tmp_path / "missing" / "flows.json"))
    assert status == SinkError.exit_code
    assert "missing/flows.json" in said


def test_a_small_receive_buffer_is_said_with_the_sysctl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sockets, "_set_buffer", lambda sock, octets: 212_992)  # what an unprivileged user is granted
    wake_fd = os.eventfd(0)
    with inputs.listen([("127.0.0.1", 0)], inputs.RECV_BUFFER, wake_fd):
        said = capsys.readouterr().err
    os.close(wake_fd)
    assert f"sysctl -w net.core.rmem_max={inputs.RECV_BUFFER}" in said


def test_captures_are_read_one_after_the_other(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    paths = []
    for number, payload in enumerate((message(TEMPLATE, flows(1)), message(flows(2)))):
        packet = (
            Ether(dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=4739) / payload
        )
        packet.time = 1_700_000_000 + number
        wrpcap(str(tmp_path / f"{number}.pcap"), [packet])
        paths += ["--pcap", str(tmp_path / f"{number}.pcap")]
    command = [sys.executable, "-m", "pyflowx", "collect", *paths, "-f", "common"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["bytes"], line["time_received_ns"], line["sampler_address"]) for line in lines] == [
        (1, 1_700_000_000 * 10**9, "10.0.0.1"),
        (2, 1_700_000_001 * 10**9, "10.0.0.1"),
    ]


def test_the_help_shows_examples() -> None:
    done = subprocess.run([sys.executable, "-m", "pyflowx", "collect", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "pyflowx collect -p 9995" in done.stdout
