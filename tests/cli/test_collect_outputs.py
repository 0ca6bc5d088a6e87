"""``pyflowx collect`` from sockets to files: every format, files by time, faults of the disk, a kill at any moment."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pyflowx.errors import ConfigError, SinkError
from pyflowx.sinks.protobuf_schema import proto_text

COLLECT = [sys.executable, "-m", "pyflowx", "collect"]
QUIET = ["--no-metrics", "--no-live"]


def set_of(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def message(*sets: bytes) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 0, 42) + body


TEMPLATE = set_of(2, struct.pack(">HHHHHHHH", 256, 3, 8, 4, 12, 4, 1, 8))  # addresses, octets


def flows(*octets: int) -> bytes:
    return set_of(256, b"".join(struct.pack(">IIQ", 0x0A000000 + n % 65536, 0xC0000201, n) for n in octets))


class Running:
    """``pyflowx collect`` on a port that the kernel chose, and a socket to send to it. Its messages are kept."""

    def __init__(self, *options: str, **settings: Any) -> None:
        command = [*COLLECT, "-H", "127.0.0.1", "-p", "0", "-f", "common", *QUIET, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)
        self.said: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        port = self.wait_for(r"listening on 127\.0\.0\.1 UDP port (\d+)")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", int(port)))
        self.socket.send(message(TEMPLATE))
        self.sent = 0

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.said.append(line)
                self._changed.notify_all()
        with self._changed:
            self.said.append("")  # the end
            self._changed.notify_all()

    def wait_for(self, pattern: str) -> str:
        """The first group of a message that is or will be said."""
        at = 0
        with self._changed:
            while True:
                for line in self.said[at:]:
                    found = re.search(pattern, line)
                    if found:
                        return found[1] if found.groups() else found[0]
                    assert line, f"{pattern!r} was never said: {self.said}"
                at = len(self.said)
                self._changed.wait()

    def send(self, count: int, each: int = 50) -> None:
        """So many flows more, numbered on."""
        for first in range(self.sent, self.sent + count, each):
            self.socket.send(message(flows(*range(first, min(first + each, self.sent + count)))))
        self.sent += count

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        status = self.process.wait()
        self._reader.join()
        return status, "".join(self.said)

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.wait()
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


# --- readers that are not ours: the octet counts of a file --------------------------------------------------------


def read_ndjson(path: Path) -> list[int]:
    return [json.loads(line)["bytes"] for line in path.read_text().splitlines()]


def read_zstd(path: Path) -> list[int]:
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    return [json.loads(line)["bytes"] for line in text.splitlines()]


def read_gzip_csv(path: Path) -> list[int]:
    with gzip.open(path, "rt", newline="") as file:
        return [int(row["bytes"]) for row in csv.DictReader(file)]


def read_csv(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["bytes"]) for row in csv.DictReader(file)]


def read_parquet(path: Path) -> list[int]:
    found: list[int] = pq.ParquetFile(path).read()["bytes"].to_pylist()
    return found


def read_arrow(path: Path) -> list[int]:
    octets = path.read_bytes()
    assert octets.endswith(b"\xff\xff\xff\xff\0\0\0\0")
    found: list[int] = pa.ipc.open_stream(io.BytesIO(octets)).read_all()["bytes"].to_pylist()
    return found


def read_protobuf(path: Path) -> list[int]:
    folder = path.parent.parent
    (folder / "flow.proto").write_text(proto_text("pyflowx"))
    (folder / "all.proto").write_text(
        'syntax = "proto3"; import "flow.proto"; message All { repeated pyflowx.Flow flow = 1; }'
    )
    octets, tagged, at = path.read_bytes(), bytearray(), 0
    while at < len(octets):  # each is shorter than 128 octets
        end = at + 1 + octets[at]
        assert octets[at] < 128 and end <= len(octets)
        tagged += b"\x0a" + octets[at:end]
        at = end
    command = ["protoc", f"-I{folder}", "--decode=All", str(folder / "all.proto")]
    text = subprocess.run(command, input=bytes(tagged), capture_output=True, check=True).stdout.decode()
    return [
        int(re.search(r"^  bytes: (\d+)$", block, re.M)[1]) if "  bytes:" in block else 0
        for block in text.split("flow {")[1:]
    ]  # type: ignore[index]


FORMATS: dict[str, tuple[list[str], str, Callable[[Path], list[int]]]] = {
    "json": (["-s", "json"], ".ndjson", read_ndjson),
    "zstd": (["-s", "json", "--compress", "zstd"], ".ndjson.zst", read_zstd),
    "csv": (["-s", "csv"], ".csv", read_csv),
    "gzip": (["-s", "csv", "--compress", "gzip"], ".csv.gz", read_gzip_csv),
    "parquet": (["-s", "parquet"], ".parquet", read_parquet),
    "binary": (["-s", "parquet", "--address-format", "binary", "--compress", "none"], ".parquet", read_parquet),
    "protobuf": (["-s", "protobuf"], ".pb", read_protobuf),
    "arrow": (["-s", "arrow-ipc"], ".arrows", read_arrow),
}
every_format = pytest.mark.parametrize("name", FORMATS)


@every_format
def test_a_file_of_every_format(tmp_path: Path, name: str) -> None:
    options, suffix, read = FORMATS[name]
    path = tmp_path / "out" / f"flows{suffix}"
    path.parent.mkdir()
    with running(*options, "-o", str(path)) as run:
        run.send(20_000)
        status, said = run.end()
    assert status == 0, said
    assert read(path) == list(range(20_000))
    assert f"20000 rows, {path.stat().st_size} octets written\n" in said
    assert list(path.parent.iterdir()) == [path]


@every_format
def test_files_by_time_of_every_format(tmp_path: Path, name: str) -> None:
    options, suffix, read = FORMATS[name]
    root = tmp_path / "out"
    with running(*options, "-o", str(root), "--interval", "1s", "--level", "3") as run:
        for _ in range(25):
            run.send(500)
            time.sleep(0.1)
        status, said = run.end()
    assert status == 0, said
    found = sorted(root.rglob(f"*{suffix}"))
    assert len(found) >= 3
    numbers = [number for path in found for number in read(path)]
    assert numbers == list(range(12_500))
    assert not list(root.rglob("*.part"))


def test_duckdb_reads_what_is_written(tmp_path: Path) -> None:
    readers = {"json": "read_json('{}')", "csv": "read_csv('{}')", "parquet": "'{}'"}
    for name, reader in readers.items():
        path = tmp_path / f"flows.{name}"
        with running("-s", name, "-o", str(path)) as run:
            run.send(1000)
            run.end()
        source = reader.format(path)
        found = duckdb.sql(f"SELECT count(*), sum(bytes), min(src_addr), any_value(flow_type) FROM {source}").fetchall()
        assert found == [(1000, 499_500, "10.0.0.0", "IPFIX")], name


def test_a_tree_in_hive_style_is_one_table(tmp_path: Path) -> None:
    with running("-s", "parquet", "-o", str(tmp_path), "--interval", "1s", "--hive") as run:
        for _ in range(15):
            run.send(100)
            time.sleep(0.1)
        run.end()
    day = time.strftime("%Y-%m-%d", time.gmtime())
    source = f"read_parquet('{tmp_path}/**/*.parquet', hive_partitioning = true)"
    found = duckdb.sql(f"SELECT count(*), max(date::VARCHAR), count(DISTINCT hour) > 0 FROM {source}").fetchall()
    assert found[0][0] == 1500
    assert found[0][1] >= day[:8]
    assert found[0][2]


def test_an_arrow_stream_is_read_while_it_is_written() -> None:
    with running("-s", "arrow-ipc", stdout=subprocess.PIPE, bufsize=0) as run:
        run.send(10)
        stream = pa.ipc.open_stream(pa.PythonFile(run.process.stdout.buffer, mode="r"))  # type: ignore[union-attr]
        assert stream.read_next_batch()["bytes"].to_pylist() == list(range(10))
        run.send(10)
        assert stream.read_next_batch()["bytes"].to_pylist() == list(range(10, 20))
        run.process.send_signal(signal.SIGINT)
        with pytest.raises(StopIteration):
            stream.read_next_batch()


def test_lines_of_another_run_are_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "flows.csv"
    for _ in range(2):
        with running("-s", "csv", "-o", str(path)) as run:
            run.send(10)
            run.end()
    assert read_csv(path) == [*range(10), *range(10)]
    path.write_text("other,columns\n1,2\n")
    done = subprocess.run(
        [*COLLECT, "-p", "0", "-f", "common", "-s", "csv", "-o", path], capture_output=True, text=True
    )
    assert done.returncode == ConfigError.exit_code
    assert "begins with other" in done.stderr


@pytest.mark.parametrize("name", ["parquet", "arrow", "protobuf", "zstd"])
def test_what_cannot_be_appended_to_is_not_written_over(tmp_path: Path, name: str) -> None:
    options, suffix, _ = FORMATS[name]
    path = tmp_path / f"flows{suffix}"
    path.write_text("precious")
    done = subprocess.run([*COLLECT, "-p", "0", "-f", "common", *options, "-o", path], capture_output=True, text=True)
    assert done.returncode == ConfigError.exit_code
    assert "exists" in done.stderr and "give another name" in done.stderr
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-f", "raw", "-s", "csv"], "give -f common, or -s json or discard"),
        (["-f", "raw", "-s", "parquet"], "-f/--format raw has none"),
        (["--schema", "goflow2"], "--schema is for -s/--serialization protobuf"),
        (["-s", "protobuf", "--schema", "goflow2", "--column", "x=1"], "give --schema pyflowx"),
        (["--address-format", "binary"], "--address-format is for"),
        (["-s", "protobuf", "--compress", "zstd"], "--compress zstd is for"),
        (["--interval", "5m"], "name it with -o/--output"),
        (["--interval", "0", "-o", "x"], "--interval 0: expected"),
        (["--interval", "5 parsecs", "-o", "x"], "--interval 5 parsecs: expected"),
        (["--exec", "gzip %f", "-o", "x"], "--exec is about files by time; give --interval"),
        (["--level", "0", "-o", "x"], "--level is about files by time; give --interval"),
        (["--interval", "5m", "-o", "x", "--exec", "gzip %x"], "%x has no meaning"),
        (["--interval", "5m", "-o", "x", "--expire-exec", "gzip %f"], "give --expire too"),
        (["--interval", "5m", "-o", "x", "--prefix", "a/b"], "--level and --hive"),
        (["--interval", "5m", "-o", "x", "--hive", "--level", "0"], "give --level 1 to 3"),
        (["-s", "discard", "-o", "x"], "discard writes nothing; leave one out"),
        (["-H", "127.0.0.1", "--pcap", "a.pcap"], "-H/--host 127.0.0.1 is about -p/--port"),
        (["--recv-buffer", "9999", "--pcap", "a.pcap"], "--recv-buffer is about the network"),
        (["-I", "ipfix://localhost:1"], "netflow://host:port, sflow://host:port"),
        (["-I", "netflow://localhost:port"], "expected a host and a port"),
        (["-I", "netflow://localhost:65536"], "expected a host and a port"),
    ],
)
def test_impossible_combinations_say_what_to_change(tmp_path: Path, options: list[str], says: str) -> None:
    if "-f" not in options:
        options = ["-f", "common", *options]
    done = subprocess.run([*COLLECT, "-p", "0", *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-t", "sflow"], "each -I/--input says what it takes"),
        (["-H", "127.0.0.1"], "put the address into the URL"),
    ],
)
def test_options_that_urls_leave_nothing_to_do(options: list[str], says: str) -> None:
    command = [*COLLECT, "-I", "netflow://127.0.0.1:0", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == ConfigError.exit_code and says in done.stderr


def test_octets_are_not_for_a_terminal(tmp_path: Path) -> None:
    config = tmp_path / "pyflowx.toml"
    config.write_text('[collect]\noutput = "flows.pb"\nhost = "127.0.0.1"\n')
    ours, theirs = os.openpty()
    try:
        for options in (["-s", "parquet"], ["-s", "csv", "--compress", "gzip"]):
            command = [*COLLECT, "-p", "0", "-f", "common", *options]
            done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True)
            assert done.returncode == ConfigError.exit_code and "is not for a terminal" in done.stderr
        with running(
            "-s", "discard", "--config", str(config), stdout=theirs
        ) as run:  # what a file says is no contradiction
            assert run.end()[0] == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_every_input_in_one_process(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    packet = (
        Ether(dst="02:00:00:00:00:02")
        / IP(src="10.0.0.1", dst="10.0.0.2")
        / UDP(sport=1, dport=4739)
        / message(TEMPLATE, flows(1))
    )
    wrpcap(str(tmp_path / "a.pcap"), [packet])
    sflow = struct.pack(">IIIIIII", 5, 1, 0xC0000209, 0, 1, 1000, 0)
    files = [f"sflow+pcap://{tmp_path}/a.pcap", f"netflow+pcap://{tmp_path}/a.pcap"]  # read one after the other
    inputs = [*files, "netflow://127.0.0.1:0", "sflow://[::1]:0"]
    command = [*COLLECT, "-f", "common", *QUIET, *(word for url in inputs for word in ("-I", url))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        ports = [int(re.search(r"UDP port (\d+)", process.stderr.readline())[1]) for _ in range(2)]  # type: ignore[index]
        assert json.loads(process.stdout.readline())["bytes"] == 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(sflow, ("127.0.0.1", ports[0]))  # what the other port takes
            sender.sendto(message(TEMPLATE, flows(2)), ("127.0.0.1", ports[0]))
        assert json.loads(process.stdout.readline())["bytes"] == 2
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(message(TEMPLATE, flows(3)), ("::1", ports[1]))
            sender.sendto(sflow, ("::1", ports[1]))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert "SFLOW_V5: 1 messages" in said and "IPFIX: 2 messages, 2 flows" in said
    assert "problems: OTHER_PROTOCOL 3\n" in said  # each input takes its own kind only
    assert f"{tmp_path}/a.pcap: " in said


def test_windows_of_a_capture_file_are_those_of_its_packets(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    packets = []
    for number in range(10):
        packet = (
            Ether(dst="02:00:00:00:00:02")
            / IP(src="10.0.0.1", dst="10.0.0.2")
            / UDP(sport=1, dport=1)
            / message(TEMPLATE, flows(number))
        )
        packet.time = 1_700_000_100 + 60 * number
        packets.append(packet)
    wrpcap(str(tmp_path / "a.pcap"), packets)
    root = tmp_path / "out"
    command = [
        *COLLECT,
        "--pcap",
        tmp_path / "a.pcap",
        "-f",
        "common",
        "-o",
        root,
        "--interval",
        "5m",
        "--exec",
        "rm %f",
    ]
    assert subprocess.run(command[:-2], capture_output=True).returncode == 0
    first, second = sorted(root.glob("*.ndjson"))
    assert (first.name, second.name) == ("flows-20231114T221500Z.ndjson", "flows-20231114T222000Z.ndjson")
    assert (read_ndjson(first), read_ndjson(second)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert sorted(root.glob("*.ndjson")) == [first, second]  # the others were removed by the command


# --- faults ---------------------------------------------------------------------------------------------------


@every_format
def test_a_kill_at_any_moment_leaves_whole_files(tmp_path: Path, name: str) -> None:
    """Under load, with a file a second: what has a name reads to its end, and holds whole windows in their order."""
    options, suffix, read = FORMATS[name]
    chance = random.Random(name)
    root = tmp_path / "out"
    for _ in range(3):
        with running(*options, "-o", str(root), "--interval", "1s") as run:
            until = time.monotonic() + chance.uniform(1.2, 3.0)
            while time.monotonic() < until:
                run.send(500)
                time.sleep(0.002)
            run.process.kill()
            run.wait()
            numbers = [number for path in sorted(root.glob(f"*{suffix}")) for number in read(path)]
            assert numbers == list(range(len(numbers)))
            assert 0 < len(numbers) <= run.sent
        shutil.rmtree(root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def accounted(run: Running, root: Path, suffix: str, read: Callable[[Path], list[int]]) -> tuple[int, int]:
    """Rows that are in files and that were lost: together they are the flows that came."""
    status, said = run.end()
    assert status == 0, said
    flows_counted = int(re.search(r"IPFIX: \d+ messages, (\d+) flows", said)[1])  # type: ignore[index]
    rows, lost = re.search(r"(\d+) rows, \d+ octets written(?:, (\d+) rows lost)?", said).groups("0")  # type: ignore[union-attr]
    numbers = [number for path in sorted(root.rglob(f"*{suffix}")) for number in read(path)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == int(rows)
    assert flows_counted == int(rows) + int(lost)
    return int(rows), int(lost)


@pytest.mark.kernel
@every_format
def test_a_full_disk(small_disk: Path, name: str) -> None:
    """It is said, what was written stays whole, and when there is room again it goes on."""
    options, suffix, read = FORMATS[name]
    root = small_disk / "a" / "out"
    with running(*options, "-o", str(root), "--interval", "1s") as run:
        run.send(1000)
        time.sleep(1.2)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(2 << 20))
        while not any("No space left on device" in line for line in run.said):
            run.send(1000)
            time.sleep(0.1)
        filler.unlink()
        while not any("writing again" in line for line in run.said):
            run.send(10)
            time.sleep(0.1)
        run.send(100)
        rows, lost = accounted(run, root, suffix, read)
    assert rows >= 1100 and lost > 0
    assert sum("No space left" in line for line in run.said) < 10


@pytest.mark.kernel
def test_a_disk_that_becomes_read_only(small_disk: Path) -> None:
    with running("-o", str(small_disk), "--interval", "1s") as run:
        run.send(100)
        time.sleep(2.5)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        while not any("Read-only file system" in line for line in run.said):
            run.send(10)
            time.sleep(0.1)
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        while not any("writing again" in line for line in run.said):
            run.send(10)
            time.sleep(0.1)
        rows, lost = accounted(run, small_disk, ".ndjson", read_ndjson)
    assert rows > 100 and lost > 0


@every_format
def test_a_target_that_is_removed(tmp_path: Path, name: str) -> None:
    options, suffix, read = FORMATS[name]
    root = tmp_path / "out"
    with running(*options, "-o", str(root), "--interval", "1h", "--level", "2") as run:
        run.send(100)
        while not list(root.rglob("*.part")):
            time.sleep(0.01)
        shutil.rmtree(root)
        run.wait_for("it was removed")
        run.send(1)
        time.sleep(1.2)
        run.send(50)
        rows, lost = accounted(run, root, suffix, read)
    assert rows >= 50 and lost >= 100
    assert rows + lost == 151


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["parquet", "arrow", "zstd"])
def test_a_full_disk_without_windows_ends_with_status_4(small_disk: Path, name: str) -> None:
    """A file that nothing can be appended to has no place to go on in; what was written before is whole."""
    options, suffix, read = FORMATS[name]
    path = small_disk / f"flows{suffix}"
    with running(*options, "-o", str(path)) as run:
        run.send(2000)
        time.sleep(1.2)
        with contextlib.suppress(OSError):
            (small_disk / "filler").write_bytes(bytes(2 << 20))
        if name == "parquet":
            (small_disk / "filler").write_bytes(bytes((1 << 20) - 16384))  # the footer needs some
        while run.process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                run.send(1000)
            time.sleep(0.02)
            if name == "parquet" and run.sent > 300_000:
                run.process.send_signal(signal.SIGINT)
                break
        status, said = run.wait()
    assert status == SinkError.exit_code, said
    assert "No space left on device" in said and str(path) in said
    assert "Traceback" not in said
    if name != "parquet":
        numbers = read(path)
        assert numbers == list(range(len(numbers))) and len(numbers) >= 2000


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["json", "csv"])
def test_a_file_of_lines_goes_on_when_there_is_room_again(small_disk: Path, name: str) -> None:
    options, suffix, read = FORMATS[name]
    path, filler = small_disk / f"flows{suffix}", small_disk / "filler"
    with running(*options, "-o", str(path)) as run:
        run.send(2000)
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(2 << 20))
        while not any("No space left on device" in line for line in run.said):
            run.send(1000)
            time.sleep(0.05)
        filler.unlink()
        while not any("writing again" in line for line in run.said):
            run.send(10)
            time.sleep(0.1)
        run.send(100)
        status, said = run.end(signal.SIGTERM)
    rows = read(path)
    lost = int(re.search(r"octets written, (\d+) rows lost", said)[1])  # type: ignore[index]
    assert status == 0 and f"{path}: No space left on device" in said and "trying again each second" in said
    assert len(rows) + lost == run.sent and lost and sorted(set(rows)) == rows
    assert rows[-100:] == list(range(run.sent - 100, run.sent))


@pytest.mark.kernel
def test_a_file_that_cannot_be_written_to_the_end_is_status_4(small_disk: Path) -> None:
    path = small_disk / "flows.ndjson"
    with running("-o", str(path)) as run:
        run.send(100)
        with contextlib.suppress(OSError):
            (small_disk / "filler").write_bytes(bytes(2 << 20))
        while not any("No space left on device" in line for line in run.said):
            run.send(1000)
            time.sleep(0.05)
        status, said = run.end(signal.SIGTERM)
    assert status == SinkError.exit_code and "rows were lost" in said
    rows, lost = read_ndjson(path), int(re.search(r"octets written, (\d+) rows lost", said)[1])  # type: ignore[index]
    assert rows == list(range(len(rows))) and len(rows) + lost == run.sent


def test_a_file_of_lines_that_is_removed_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "out" / "flows.csv"
    path.parent.mkdir()
    with running("-s", "csv", "-o", str(path)) as run:
        run.send(10)
        while not path.read_bytes().endswith(b"\n") or len(path.read_bytes().splitlines()) < 11:
            time.sleep(0.01)
        shutil.rmtree(path.parent)
        run.send(5)
        run.wait_for("No such file or directory; give a file in a folder")
        path.parent.mkdir()
        while not any("writing again" in line for line in run.said):
            run.send(1)
            time.sleep(0.1)
        run.send(20)
        status, said = run.end(signal.SIGTERM)
    assert status == 0 and f"{path}: it was removed while it was written" in said
    rows, lost = read_csv(path), int(re.search(r"octets written, (\d+) rows lost", said)[1])  # type: ignore[index]
    assert rows[-20:] == list(range(run.sent - 20, run.sent))
    assert 10 + lost + len(rows) == run.sent


def test_a_program_that_reads_and_ends(tmp_path: Path) -> None:
    for name in ("csv", "arrow", "protobuf"):
        with running(*FORMATS[name][0], stdout=subprocess.PIPE) as run:
            assert run.process.stdout is not None
            run.send(10)
            run.process.stdout.buffer.read(10)
            run.process.stdout.close()
            run.process.stdout = None
            with contextlib.suppress(ConnectionRefusedError):  # it has ended already
                run.send(100_000)
            status, said = run.wait()
        assert status == 0, said
        assert "Traceback" not in said and "the program that read the output has ended" in said
        decoded = int(re.search(r"messages, (\d+) flows", said)[1])  # type: ignore[index]
        rows, lost = re.search(r"(\d+) rows, \d+ octets written, (\d+) rows lost", said).groups()  # type: ignore[union-attr]
        assert int(rows) + int(lost) == decoded
