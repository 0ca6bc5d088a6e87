"""``pyflowx top``, as a user calls it: of a capture file, a running collector, a recording, the demo."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyflowx_tui.demo import FIXED_NS, DemoCollector, demo_sources
from pyflowx_tui.headless import Gathering, Question, answer, table
from pyflowx_tui.record import Recorder
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from scapy.utils import PcapWriter

SECOND = 1_700_000_000
TEMPLATE = struct.pack(">HHHH10H", 2, 28, 256, 5, 8, 4, 12, 4, 11, 2, 4, 1, 1, 4)
FLOWS = [  # source, destination port, protocol, octets
    ("10.0.0.1", 443, 6, 5000),
    ("10.0.0.1", 53, 17, 100),
    ("10.0.0.2", 443, 6, 2000),
    ("10.0.1.9", 443, 6, 2500),
]


def ipfix(sets: bytes) -> bytes:
    return struct.pack(">HHIII", 10, 16 + len(sets), SECOND, 0, 1) + sets


def messages() -> list[bytes]:
    records = b"".join(
        socket.inet_aton(source) + socket.inet_aton("192.0.2.9") + struct.pack(">HBI", port, protocol, octets)
        for source, port, protocol, octets in FLOWS
    )
    return [ipfix(TEMPLATE), ipfix(struct.pack(">HH", 256, 4 + len(records)) + records)]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "flows.pcap"
    with PcapWriter(str(path), linktype=101, sync=True) as writer:
        for message in messages():
            packet = IP(src="192.0.2.7", dst="192.0.2.8") / UDP(sport=4000, dport=2055) / Raw(message)
            packet.time = SECOND
            writer.write(packet)
    return path


def top(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "pyflowx", "top", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, check=False, text=True)
    assert ended.returncode == status, ended.stderr
    return ended.stdout, ended.stderr


def found(*arguments: str | Path) -> dict[str, Any]:
    out, _ = top("--once", "-o", "json", *arguments)
    answered: dict[str, Any] = json.loads(out)
    return answered


def test_a_capture_file(capture: Path) -> None:
    answered = found("--pcap", capture)
    assert [(row["src_addr"], row["bytes"], row["flows"]) for row in answered["rows"]] == [
        ("10.0.0.1", 5100, 2),
        ("10.0.1.9", 2500, 1),
        ("10.0.0.2", 2000, 1),
    ]
    assert answered["passed"] == answered["seen"] == answered["matched"] == {"flows": 4, "bytes": 9600, "packets": 0}
    assert answered["rows"][0]["share"] == pytest.approx(5100 / 9600, abs=1e-6)
    assert answered["group"] == ["src_addr"] and answered["time_ns"] == SECOND * 10**9


def test_groups_filter_sort_and_rows(capture: Path) -> None:
    answered = found("--pcap", capture, "-g", "src_net24,dst_port", "--filter", "tcp bytes>=2k", "-n", "1")
    assert answered["groups"] == 2 and answered["matched"]["flows"] == 3
    assert answered["rows"][0] | {"bits_per_second": 0} == {
        "src_net24": "10.0.0.0/24",
        "dst_port": 443,
        "bytes": 7000,
        "packets": 0,
        "flows": 2,
        "bits_per_second": 0,
        "share": pytest.approx(7000 / 9500, abs=1e-6),
    }
    by_flows = found("--pcap", capture, "-g", "dport,in_if", "-s", "flows")
    assert [(row["dport"], row["in_if"], row["flows"]) for row in by_flows["rows"]] == [(443, None, 3), (53, None, 1)]


def test_a_table(capture: Path) -> None:
    out, _ = top("--pcap", capture, "-g", "proto", "--once")
    lines = out.splitlines()
    assert lines[0].split() == ["proto", "rate", "octets", "packets", "flows", "share"]
    assert re.split(r"\s{2,}", lines[1])[0].lower() == "tcp" and "9.50 kB" in lines[1] and "99.0%" in lines[1]
    assert lines[-1] == "2 groups of 4 flows in 1 s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "proto:foo"], r"--filter: proto: foo is not a protocol.*\n  proto:foo\n        \^"),
        (["-g", "nonsense"], "nothing to group by is called nonsense"),
        (["-g", "src_addr,dst_addr,proto,in_if"], "give 1 to 3 columns"),
        (["--demo"], "--pcap and --demo each say where flows come from"),
        (["--filter", "nonsense:1"], "no column or element is called nonsense"),
    ],
)
def test_what_is_wrong_is_said(capture: Path, arguments: list[str], message: str) -> None:
    _, err = top("--pcap", capture, "--once", *arguments, status=2)
    assert re.search(message, err), err


def test_nothing_to_watch(tmp_path: Path) -> None:
    _, err = top("--connect", tmp_path / "nobody.sock", "--once", status=2)
    assert "nothing is there" in err
    _, err = top("--pcap", tmp_path / "none.pcap", "--once", status=2)
    assert "none.pcap" in err
    _, err = top("--replay", tmp_path / "none", "--once", status=2)
    assert "No such file" in err
    (tmp_path / "text").write_text("hello")
    _, err = top("--replay", tmp_path / "text", "--once", status=2)
    assert "give a recording" in err


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A running collector: its feed and its port."""
    feed = tmp_path / "feed.sock"
    options = ("-H", "127.0.0.1", "-p", "0", "-f", "common", "-s", "discard", "--no-metrics", "--live", str(feed))
    process = subprocess.Popen(
        [sys.executable, "-m", "pyflowx", "collect", *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    port = int(line.rsplit(" ", 1)[1])
    assert "live feed at" in process.stderr.readline()
    yield feed, port
    process.send_signal(signal.SIGTERM)
    process.communicate()


def test_a_running_collector(collector: tuple[Path, int]) -> None:
    """Datagrams are sent until the answer has come: what was there before somebody watched is not told."""
    feed, port = collector
    command = [sys.executable, "-m", "pyflowx", "top", "-c", str(feed), "--once", "-o", "json", "-i", "1"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], 0.05)[0]:
            for message in messages():
                sender.sendto(message, ("127.0.0.1", port))
        answered = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert {row["src_addr"] for row in answered["rows"]} == {"10.0.0.1", "10.0.0.2", "10.0.1.9"}
    assert answered["rows"][0]["src_addr"] == "10.0.0.1" and answered["rows"][0]["bytes"] % 5100 == 0


def test_again_and_again_until_interrupted(collector: tuple[Path, int]) -> None:
    feed, _ = collector
    command = [sys.executable, "-m", "pyflowx", "top", "-c", str(feed), "-o", "json", "-i", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0 and "Traceback" not in err
    assert second["time_ns"] > first["time_ns"]


def test_a_collector_of_its_own() -> None:
    out, _ = top("-H", "127.0.0.1", "-p", "0", "--once", "-o", "json", "-i", "1")
    assert json.loads(out)["rows"] == []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        _, err = top("-H", "127.0.0.1", "-p", str(taken.getsockname()[1]), "--once", status=2)
    assert "in use" in err


def test_a_recording_is_what_was_recorded(tmp_path: Path) -> None:
    source = demo_sources(1, FIXED_NS, 5)[0]
    assert source.hello is not None
    recorder = Recorder(tmp_path / "demo.ndjson.zst", source.hello, source.name)
    assert [path.name for path in tmp_path.iterdir()] == [f".demo.ndjson.zst.{os.getpid()}.part"]
    gathered = Gathering()
    for snapshot in source.poll():
        recorder.add(snapshot)
        gathered.add(snapshot)
    recorder.close()
    answered = found("--replay", tmp_path / "demo.ndjson.zst", "-g", "dst_addr,proto")
    assert answered == json.loads(json.dumps(answer(gathered, Question(("dst_addr", "proto")))))
    assert answered["passed"]["flows"] > 1000


def test_the_demo() -> None:
    answered = found(
        "--demo", "--seed", "3", "-g", "country,proto".replace("country", "src_country"), "--filter", "country:*"
    )
    assert answered["rows"] and all(set(row) >= {"src_country", "proto"} for row in answered["rows"])


def test_scaled_by_the_sampling_rate() -> None:
    gathered = Gathering()
    gathered.add(DemoCollector(1, FIXED_NS).step())
    measured = answer(gathered, Question(("sampler_address", "sampling_rate")))
    scaled = answer(gathered, Question(("sampler_address", "sampling_rate"), scaled=True))
    by_exporter = {row["sampler_address"]: row for row in scaled["rows"]}
    for row in measured["rows"]:
        times = row["sampling_rate"] or 1
        assert by_exporter[row["sampler_address"]]["bytes"] == row["bytes"] * times
    assert any(row["sampling_rate"] == 1000 for row in measured["rows"])


def test_hostile_text_in_a_table() -> None:
    gathered = Gathering()
    rows = [{"bytes": 5, "packets": 1, "src_country": "\x1b[31mD\u202eE\x07", "flow_type": "IPFIX", "sequence_num": 1}]
    gathered.add({"time_ns": FIXED_NS, "flows": {"flows": 1, "octets": 5, "packets": 1, "rows": rows}})
    lines = table(answer(gathered, Question(("src_country",))))
    assert "".join(lines).isprintable() and "�[31mD�E�" in lines[1]
