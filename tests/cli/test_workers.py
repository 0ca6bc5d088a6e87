"""``pyflowx collect --workers``: real processes on one port, killed, restarted, read back, summed up."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pyflowx.batch import V4_MAPPED
from pyflowx.kernel.steering import worker_of

WORKERS = 3
COLLECT = [sys.executable, "-m", "pyflowx", "collect", "-H", "127.0.0.1", "-p", "0", "--workers", str(WORKERS)]
TEMPLATE = struct.pack(">HHHHHHHH", 2, 16, 256, 2, 7, 2, 1, 4)  # source port, octets
DISCARD = ("-f", "common", "-s", "discard")


def message(domain: int, *octets: int, sequence: int = 0, template: bool = False) -> bytes:
    records = b"".join(struct.pack(">HI", 80, count) for count in octets)
    body = (TEMPLATE if template else b"") + (struct.pack(">HH", 256, 4 + len(records)) + records if octets else b"")
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, sequence, domain) + body


class Exporter:
    """An address of the loopback network and an Observation Domain; its flows are numbered in their octets."""

    def __init__(self, last: int, domain: int) -> None:
        self.address, self.domain = f"127.0.9.{last}", domain
        self.worker = worker_of(V4_MAPPED + socket.inet_aton(self.address), domain, WORKERS)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((self.address, 0))
        self.sent: list[int] = []
        self._sequence = 0

    def send(self, port: int, *octets: int, template: bool = False) -> None:
        self.socket.sendto(
            message(self.domain, *octets, sequence=self._sequence, template=template), ("127.0.0.1", port)
        )
        self._sequence += len(octets)
        self.sent += octets


@pytest.fixture
def collect(collect: Callable[..., Any]) -> Callable[..., Any]:
    """With workers."""
    return functools.partial(collect, command=COLLECT)


@pytest.fixture
def exporters() -> Iterator[list[Exporter]]:
    """Some for each worker."""
    made = [Exporter(last, domain) for last in range(1, 9) for domain in (0, 7)]
    assert {exporter.worker for exporter in made} == set(range(WORKERS))
    yield made
    for exporter in made:
        exporter.socket.close()


def send_all(exporters: Sequence[Exporter], port: int, rounds: int = 20) -> list[int]:
    """Flows of all of them, each with octets of its own; what was sent, sorted."""
    for number in range(rounds):
        for index, exporter in enumerate(exporters):
            first = (number * len(exporters) + index) * 40
            exporter.send(port, *range(first, first + 40), template=number == 0)
    return sorted(octets for exporter in exporters for octets in exporter.sent)


# --- what is written -------------------------------------------------------------------------------------------------


def ndjson(data: bytes) -> list[int]:
    return [json.loads(line)["bytes"] for line in data.splitlines()]


def raw(data: bytes) -> list[int]:
    lines = [json.loads(line) for line in data.splitlines()]
    return [row["octetDeltaCount"] for line in lines for part in line["sets"] for row in part.get("records", ())]


def table(data: bytes) -> list[int]:
    return [int(row["bytes"]) for row in csv.DictReader(io.StringIO(data.decode()))]


def arrow(data: bytes) -> list[int]:
    return pa.ipc.open_stream(data).read_all()["bytes"].to_pylist()


def parquet(data: bytes) -> list[int]:
    return pq.read_table(pa.BufferReader(data))["bytes"].to_pylist()


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A value, and where it ends."""
    value = shift = 0
    while True:
        octet, at = data[at], at + 1
        value |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return value, at


def protobuf(data: bytes) -> list[int]:
    """Field 8 of each message, all of whose fields are varints or strings of octets."""
    found, at = [], 0
    while at < len(data):
        length, at = varint(data, at)
        end = at + length
        while at < end:
            tag, at = varint(data, at)
            value, at = varint(data, at)
            if tag & 7 == 2:
                at += value
            elif tag >> 3 == 8:
                found.append(value)
        assert at == end
    return found


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[bytes], list[int]]]] = {
    "raw": (("-f", "raw"), raw),
    "json": (("-f", "common"), ndjson),
    "csv": (("-f", "common", "-s", "csv"), table),
    "protobuf": (("-f", "common", "-s", "protobuf"), protobuf),
    "arrow": (("-f", "common", "-s", "arrow-ipc"), arrow),
    "parquet": (("-f", "common", "-s", "parquet"), parquet),
    "json.zst": (
        ("-f", "common", "--compress", "zstd"),
        lambda data: ndjson(zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()),
    ),
    "csv.gz": (("-f", "common", "-s", "csv", "--compress", "gzip"), lambda data: table(gzip.decompress(data))),
}


@pytest.mark.parametrize("name", FORMATS)
def test_one_output_of_all_is_complete_in_every_format(
    name: str, collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    options, read = FORMATS[name]
    path = tmp_path / f"flows.{name}"
    run = collect(*options, "-o", str(path), "--no-live")
    sent = send_all(exporters, run.port)
    assert run.end() == 0
    assert sorted(read(path.read_bytes())) == sent, run.said
    rows = len(sent) if name != "raw" else 20 * len(exporters)
    assert f"{rows} rows, {path.stat().st_size} octets written" in run.said


def test_lines_on_a_pipe_are_never_torn(collect: Callable[..., Any], exporters: list[Exporter]) -> None:
    run = collect("-f", "common", "--no-live", stdout=subprocess.PIPE)
    sent = send_all(exporters, run.port, 100)
    run.process.send_signal(signal.SIGINT)
    assert sorted(ndjson(run.process.stdout.read())) == sent
    assert run.process.wait() == 0


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_a_tree_has_files_of_each_worker(
    name: str, collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    options, read = FORMATS[name]
    run = collect(*options, "-o", str(tmp_path / "tree"), "--interval", "1h", "--no-live")
    sent = send_all(exporters, run.port)
    assert run.end() == 0
    files = sorted((tmp_path / "tree").glob("flows-*"))
    assert {re.search(r"-w(\d)\.", file.name)[1] for file in files} == {"0", "1", "2"}
    assert sorted(octets for file in files for octets in read(file.read_bytes())) == sent
    assert f"{len(sent)} rows" in run.said


def test_sighup_goes_on_in_a_new_file(collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path) -> None:
    path, moved = tmp_path / "flows.parquet", tmp_path / "flows-1.parquet"
    run = collect("-f", "common", "-s", "parquet", "-o", str(path), "--no-live")
    first = send_all(exporters, run.port, 5)
    run.wait_for("workers;")
    time.sleep(0.5)  # they have read it by then, or it is in the other file: all of it is in one of them
    run.process.send_signal(signal.SIGHUP)
    run.until(path.exists)
    for exporter in exporters:
        exporter.send(run.port, 10**6)
    assert run.end() == 0
    both = parquet(path.read_bytes()) + parquet(moved.read_bytes())
    assert sorted(both) == [*first, *[10**6] * len(exporters)]


def test_a_full_disk_ends_it(collect: Callable[..., Any], exporters: list[Exporter]) -> None:
    run = collect("-f", "common", "-o", "/dev/full", "--no-live")
    send_all(exporters, run.port, 2)
    assert run.process.wait() == 4
    assert "/dev/full: No space left on device" in run.said


def test_it_ends_with_its_reader(collect: Callable[..., Any], exporters: list[Exporter]) -> None:
    run = collect("-f", "common", "--no-live", stdout=subprocess.PIPE)
    exporters[0].send(run.port, 1, template=True)
    assert json.loads(run.process.stdout.readline())["bytes"] == 1
    run.process.stdout.close()
    exporters[1].send(run.port, 2, template=True)
    assert run.process.wait() == 0
    assert "Traceback" not in run.said


def test_what_comes_after_the_output_has_failed_is_counted_as_lost(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    """Each worker holds rows of an Arrow stream back for a second; the first of them find no room."""
    path = tmp_path / "flows.arrows"
    run = collect("-f", "common", "-s", "arrow-ipc", "-o", str(path), "--no-live")
    written = sum(part.stat().st_size for part in tmp_path.glob(".flows.arrows*"))  # the schema
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (written, written))
    pid = run.process.pid
    workers = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # until all has come
    sent = send_all(exporters, run.port, 2)
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    assert run.process.wait() == 4
    assert f"{path}: File too large" in run.said
    assert f"0 rows, {written} octets written, {len(sent)} rows lost" in run.said


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_metrics_and_the_live_feed_are_sums(collect: Callable[..., Any], exporters: list[Exporter]) -> None:
    run = collect(*DISCARD, "--metrics-host", "127.0.0.1", "--metrics-port", "0")
    snapshots = run.snapshots()
    next(snapshots)
    sent = send_all(exporters, run.port, 4)
    exporters[0]._sequence += 5
    exporters[0].send(run.port, 1)
    exporters[0].socket.sendto(b"\0\x63", ("127.0.0.1", run.port))
    exporters[1].send(run.port, 1, template=True)
    flows, datagrams = len(sent) + 2, 4 * len(exporters) + 3

    def complete() -> Any:
        found = run.metrics()
        return found if sum(v for (name, _), v in found.items() if name == "pyflowx_flows_total") == flows else None

    run.until(complete)
    found = run.metrics()  # all of one moment
    by_exporter = {dict(labels)["exporter"]: n for (name, labels), n in found.items() if name == "pyflowx_flows_total"}
    assert by_exporter["127.0.9.8"] == 2 * 4 * 40 and by_exporter["127.0.9.1"] == 2 * 4 * 40 + 2
    assert found["pyflowx_received_packets_total", (("exporter", "127.0.9.8"),)] == 8
    assert found["pyflowx_rows_written_total", ()] == flows
    assert found["pyflowx_templates", ()] == len(exporters)
    assert found["pyflowx_template_events_total", (("event", "defined"),)] == len(exporters)
    lost = (("domain", "0"), ("exporter", "127.0.9.1"), ("protocol", "IPFIX"))
    assert found["pyflowx_sequence_missing_total", lost] == 5
    bad = (("exporter", "127.0.9.1"), ("reason", "UNKNOWN_VERSION"))
    run.until(lambda: run.metrics().get(("pyflowx_problems_total", bad)) == 1)
    of_workers = [found["pyflowx_worker_flows_total", (("worker", str(number)),)] for number in range(WORKERS)]
    assert of_workers == [
        sum(len(exporter.sent) for exporter in exporters if exporter.worker == number) for number in range(WORKERS)
    ]
    assert [found["pyflowx_worker_up", (("worker", str(number)),)] for number in range(WORKERS)] == [1] * WORKERS
    seen = next(s for s in snapshots if s["counters"]["datagrams"] == datagrams and s["templates"])
    assert [row["flows"] for row in seen["workers"]] == of_workers
    assert len({row["pid"] for row in seen["workers"]} | {run.process.pid}) == WORKERS + 1
    assert len(seen["templates"]) == seen["template_counts"]["stored"] == len(exporters)
    assert {row["address"]: row["templates"] for row in seen["exporters"]}["127.0.9.3"] == 2
    assert seen["counters"]["flows"] == flows and seen["counters"]["memory_octets"] > WORKERS << 20
    assert {stage["stage"]: stage["passed"] for stage in seen["pipeline"]}["socket"] == datagrams
    assert run.end() == 0
    assert f"{datagrams} datagrams" in run.said and f"{flows} flows" in run.said


def test_viewers_see_flows_of_all(collect: Callable[..., Any], exporters: list[Exporter]) -> None:
    run = collect("-f", "raw", stdout=subprocess.DEVNULL)
    snapshots = run.snapshots()
    next(snapshots)
    shown: set[int] = set()
    sent = dict(enumerate(exporters, 1))
    for octets, exporter in sent.items():
        exporter.send(run.port, octets, template=True)
    for snapshot in snapshots:
        shown |= {row["bytes"] for row in snapshot["flows"]["rows"]}
        if len(shown) == len(sent):
            break
        for octets, exporter in sent.items():  # what came before a worker knew that somebody watches is not shown
            exporter.send(run.port, octets)
    assert shown == set(sent)


def test_tables_are_summed_up_and_loaded_again_by_all(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    names, path = tmp_path / "names.csv", tmp_path / "flows.ndjson"
    names.write_text("src_port,name\n80,before\n")
    enrich = f"type=exact,source={names},key=src_port,fields=name:service"
    run = collect("-f", "common", "-o", str(path), "--enrich", enrich)
    first = send_all(exporters, run.port, 1)
    run.until(lambda: path.read_bytes().count(b"\n") == len(first))
    names.write_text("src_port,name\n80,after\n")
    run.process.send_signal(signal.SIGHUP)
    run.until(lambda: len(set(re.findall(r"worker (\d): .*loaded again", run.said))) == WORKERS)
    for exporter in exporters:
        exporter.send(run.port, 1)
    assert run.end() == 0
    services = [json.loads(line)["service"] for line in path.read_text().splitlines()]
    assert services == ["before"] * len(first) + ["after"] * len(exporters)
    total = len(services)
    assert f"names.csv: {total} of {total} look-ups found, loaded again 1 times" in run.said


# --- what holds for all Observation Domains of an exporter ---------------------------------------------------------


def apart(exporters: list[Exporter]) -> Iterator[tuple[Exporter, Exporter]]:
    """Observation Domains 0 and 7 of an exporter, where they are with different workers."""
    for zero, seven in zip(exporters[::2], exporters[1::2], strict=True):
        assert (zero.address, zero.domain, seven.domain) == (seven.address, 0, 7)
        if zero.worker != seven.worker:
            yield zero, seven


def message_of(domain: int, *sets: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack(">HH", number, 4 + len(content)) + content for number, content in sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 0, domain) + body


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_rates_of_domain_0_hold_with_other_workers(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    zero, seven = next(apart(exporters))
    path = tmp_path / "flows.ndjson"
    run = collect("-f", "common", "-o", str(path))
    before = run.workers()
    options = struct.pack(">HHHHHHH", 257, 2, 1, 144, 4, 34, 4)  # scope: exporting process; sampling interval
    zero.socket.sendto(message_of(0, (3, options), (257, struct.pack(">II", 1, 1000))), ("127.0.0.1", run.port))
    seven.send(run.port, 1, template=True)

    def told() -> bool:
        seven.send(run.port, 2)
        return any(row.get("sampling_rate") == 1000 for row in lines(path))

    run.until(told)
    os.kill(before[seven.worker]["pid"], signal.SIGKILL)
    run.until(lambda: run.workers()[seven.worker]["restarts"])
    seven.send(run.port, 3, template=True)
    run.until(lambda: lines(path)[-1]["bytes"] == 3)
    assert lines(path)[-1]["sampling_rate"] == 1000


def test_elements_that_an_exporter_describes_are_known_to_all(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    zero, seven = next(apart(exporters))
    path = tmp_path / "messages.ndjson"
    run = collect("-f", "raw", "-o", str(path), "--no-live")
    fields = struct.pack(">HHHHHHHHHH", 346, 4, 303, 2, 339, 1, 344, 1, 341, 65535)  # RFC 5610, two of them the scope
    described = struct.pack(">IHBBB", 55555, 17, 3, 0, 5) + b"score"
    to = ("127.0.0.1", run.port)
    zero.socket.sendto(message_of(0, (3, struct.pack(">HHH", 300, 5, 2) + fields), (300, described)), to)
    template = struct.pack(">HHHHI", 301, 1, 0x8000 | 17, 4, 55555)

    def known() -> bool:
        seven.socket.sendto(message_of(7, (2, template), (301, struct.pack(">I", 99))), to)
        shown = [part["records"] for line in lines(path) for part in line["sets"] if part["id"] == 301]
        return any(row.get("score") == 99 for rows in shown for row in rows)

    run.until(known)
    assert run.end() == 0


# --- processes that end ----------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_no_others_data(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    path = tmp_path / "flows.ndjson"
    run = collect("-f", "common", "-o", str(path), "--metrics-host", "127.0.0.1", "--metrics-port", "0")
    first = send_all(exporters, run.port, 3)
    run.until(lambda: path.read_bytes().count(b"\n") == len(first))
    before = run.workers()
    run.until(lambda: run.metrics()["pyflowx_rows_written_total", ()] == len(first))
    time.sleep(1.2)  # it has said what its Templates are, which it does once a second
    os.kill(before[1]["pid"], signal.SIGKILL)
    for number in range(50):  # while it is dead, and while it is started again: nobody sends a Template again
        for index, exporter in enumerate(exporters):
            exporter.send(run.port, 10**6 + number * 100 + index)
    sent = sorted(octets for exporter in exporters for octets in exporter.sent)
    run.until(lambda: path.read_bytes().count(b"\n") == len(sent))
    assert sorted(ndjson(path.read_bytes())) == sent
    run.wait_for(r"warning: worker 1 \(process \d+\) ended with signal 9; it is started again")
    after = run.workers()
    assert [row["restarts"] for row in after] == [0, 1, 0]
    assert [a["pid"] == b["pid"] for a, b in zip(before, after, strict=True)] == [True, False, True]

    def complete() -> Any:
        found = run.metrics()
        return found if found["pyflowx_worker_flows_total", (("worker", "1"),)] == mine else None

    mine = sum(len(exporter.sent) for exporter in exporters if exporter.worker == 1)
    found = run.until(complete)
    assert found["pyflowx_worker_restarts_total", (("worker", "1"),)] == 1
    assert found["pyflowx_template_events_total", (("event", "defined"),)] == len(exporters)
    assert run.end() == 0
    assert f"{len(sent)} flows" in run.said


def test_a_worker_that_is_asked_to_end_is_replaced(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    path = tmp_path / "flows.csv"
    run = collect("-f", "common", "-s", "csv", "-o", str(path))
    for worker in run.workers():
        os.kill(worker["pid"], signal.SIGTERM)
    sent = send_all(exporters, run.port, 3)
    run.until(lambda: sum(row["restarts"] for row in run.workers()) == WORKERS)
    run.until(lambda: len(table(path.read_bytes())) == len(sent))
    assert run.end() == 0
    assert sorted(table(path.read_bytes())) == sent


def test_workers_end_with_the_process_that_started_them(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    run = collect("-f", "common", "-s", "parquet", "-o", str(tmp_path / "tree"), "--interval", "1h")
    workers = [row["pid"] for row in run.workers()]
    sent = send_all(exporters, run.port, 3)
    run.process.kill()
    run.process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.02)
    files = (tmp_path / "tree").glob("flows-*.parquet")
    assert sorted(octets for file in files for octets in parquet(file.read_bytes())) == sent
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", run.port))  # nobody has it any more


def test_a_worker_that_is_killed_while_all_end_loses_nothing_that_waits(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    path = tmp_path / "flows.ndjson"
    run = collect("-f", "common", "-o", str(path))
    workers = {row["number"]: row["pid"] for row in run.workers()}
    for pid in workers.values():
        os.kill(pid, signal.SIGSTOP)
    sent = send_all(exporters, run.port, 2)  # all of it waits in the sockets
    run.process.send_signal(signal.SIGTERM)
    for pid in workers.values():
        os.kill(pid, signal.SIGKILL)
    assert run.process.wait() == 0
    assert sorted(ndjson(path.read_bytes())) == sent


def test_templates_outlive_it_with_another_number_of_workers(
    collect: Callable[..., Any], exporters: list[Exporter], tmp_path: Path
) -> None:
    state, path = tmp_path / "templates.json", tmp_path / "flows.ndjson"
    options = ("--template-file", str(state), "--no-live")
    run = collect(*DISCARD, *options)
    send_all(exporters, run.port, 1)
    assert run.end() == 0
    assert len(json.loads(state.read_bytes())["templates"]) == len(exporters)
    for count in ("2", "1", "3"):
        again = collect("-f", "common", "-o", str(path), *options, "--workers", count)
        assert f"{len(exporters)} Templates read" in again.said
        for exporter in exporters:
            exporter.send(again.port, int(count))
        assert again.end() == 0
        assert ndjson(path.read_bytes()) == [int(count)] * len(exporters)
        assert len(json.loads(state.read_bytes())["templates"]) == len(exporters)
        path.unlink()


# --- how it is started -----------------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_without_privilege_the_classic_program_steers(collect: Callable[..., Any], exporters: list[Exporter]) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("probe: there is no setpriv here")
    run = collect(*DISCARD, "--no-live", command=[setpriv, "--bounding-set=-all", "--inh-caps=-all", *COLLECT])
    run.wait_for(rf"{WORKERS} workers; classic BPF keeps")
    sent = send_all(exporters, run.port, 3)
    assert run.end() == 0
    assert f"{len(sent)} flows" in run.said and "problems" not in run.said


@pytest.mark.kernel
def test_powers_that_are_not_needed_are_given_up(collect: Callable[..., Any]) -> None:
    run = collect(*DISCARD)
    for pid in [run.process.pid, *(row["pid"] for row in run.workers())]:
        status = Path(f"/proc/{pid}/status").read_text()
        assert int(re.search(r"CapPrm:\s*(\w+)", status)[1], 16) & ~0b100_0000_1111 == 0  # files, low ports
        assert re.search(r"NoNewPrivs:\s*1", status)
    assert run.end() == 0


def test_a_port_of_other_workers_is_taken(collect: Callable[..., Any], tmp_path: Path) -> None:
    run = collect(*DISCARD, "--no-live")
    command = [*COLLECT, *DISCARD, "--no-live", "--no-metrics", "-p", str(run.port)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"port {run.port}: Address already in use" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--workers", "0"), "--workers 0: expected a number from 1 to 256, or auto"),
        (("--workers", "many"), "expected a number from 1 to 256, or auto"),
        (("--workers", "2", "--pcap", "x.pcap"), "a capture file is read by one process"),
        (("--udp-gro",), "leave one of the two out"),
        (("-p", "0", "-o", "/no/such/file"), "/no/such/file: No such file or directory"),
        (("-p", "0", "-o", "/proc/x", "--interval", "1h"), "-o/--output /proc/x"),
    ],
)
def test_what_cannot_work_is_said(options: tuple[str, ...], told: str) -> None:
    command = [sys.executable, "-m", "pyflowx", "collect", "--workers", "3", "--no-live", "--no-metrics", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (2, 4)
    assert told in done.stderr and "Traceback" not in done.stderr


def test_auto_leaves_the_kernel_a_cpu(collect: Callable[..., Any]) -> None:
    cpus = len(os.sched_getaffinity(0))
    run = collect(*DISCARD, "--no-live", "--workers", "auto")
    if cpus > 2:
        run.wait_for(f"{cpus - 1} workers;")
    assert run.end() == 0
    assert cpus > 2 or "workers" not in run.said
