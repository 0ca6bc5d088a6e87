"""Recordings and capture files as sources: what was seen is seen again, bounded, whole or not at all."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from pyflowx_tui import record
from pyflowx_tui.capture import capture_source
from pyflowx_tui.demo import FIXED_NS, DemoCollector, demo_sources
from pyflowx_tui.demonetwork import NS
from pyflowx_tui.record import SPEEDS, Recorder, ReplaySource, as_json, new_name
from pyflowx_tui.state import State
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from scapy.utils import PcapWriter

from pyflowx.errors import ConfigError

HELLO = {"feed": "pyflowx", "version": 1, "role": "collect"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def recorded(path: Path, seconds: int = 300) -> Path:
    recorder = Recorder(path, HELLO, "one")
    for second in range(seconds):
        recorder.add({"number": second, "time_ns": FIXED_NS + second * NS, "flows": {"flows": 0, "rows": []}})
    recorder.close()
    return path


def numbers(source: ReplaySource) -> list[int]:
    return [snapshot["number"] for snapshot in source.poll()]


def test_it_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson.zst"
    recorder = Recorder(path, HELLO, "one")
    for number in range(100):
        recorder.add({"number": number, "time_ns": number})
    assert [each.name for each in tmp_path.iterdir()] == [f".a.ndjson.zst.{os.getpid()}.part"]
    left = ReplaySource(tmp_path / f".a.ndjson.zst.{os.getpid()}.part", at_once=True)  # a process that was killed
    assert len(left.recording) == 89  # whole frames of 30 lines, of which one is the first
    recorder.close()
    recorder.close()
    assert [each.name for each in tmp_path.iterdir()] == ["a.ndjson.zst"]
    assert len(ReplaySource(path).recording) == 100
    with pytest.raises(ConfigError, match="there already"):
        Recorder(path, HELLO, "one")
    with pytest.raises(ConfigError, match="may be written to"):
        Recorder(tmp_path / "none" / "a", HELLO, "one")


def test_it_is_bounded_and_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_OCTETS", 2000)
    recorder = Recorder(tmp_path / "a", HELLO, "one")
    for number in range(1000):
        recorder.add({"number": number, "time_ns": number, "noise": os.urandom(64).hex()})
    assert recorder.is_full and recorder.snapshots < 100
    recorder.close()
    assert (tmp_path / "a").stat().st_size < 8000
    full = Recorder(tmp_path / "b", HELLO, "one")
    assert full._file is not None
    full._file.close()
    full._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 # the disk
    for number in range(100):
        full.add({"number": number, "time_ns": number})
    assert "No space left" in full.error and full.snapshots == 29
    full.close()


def test_playing(tmp_path: Path) -> None:
    clock = Clock()
    source = ReplaySource(recorded(tmp_path / "a"), clock)
    assert source.name == "one" and source.hello is not None and source.hello["role"] == "collect"
    assert numbers(source) == [0] and numbers(source) == []
    clock.now += 3.5
    assert numbers(source) == [1, 2, 3] and source.about() == "▶ 0:03 of 4:59, 1x"
    source.faster(1)
    clock.now += 2.0
    assert source.speed == 2.0 and numbers(source) == [4, 5, 6, 7]
    source.pause()
    clock.now += 50
    assert numbers(source) == [] and source.about().startswith("⏸ 0:07")
    source.pause()
    clock.now += 0.5
    assert numbers(source) == [8]
    for _ in range(20):
        source.faster(-1)
    assert source.speed == SPEEDS[0]
    for _ in range(20):
        source.faster(1)
    clock.now += 1000
    for _ in range(5):
        source.poll()
    assert source.state == "ended" and source.position_s == source.length_s == 299
    source.pause()  # from the beginning
    assert source.state == "live" and numbers(source) == [0]


def test_jumps(tmp_path: Path) -> None:
    """With the minute before, so that rates and plots are there at once."""
    clock = Clock()
    source = ReplaySource(recorded(tmp_path / "a"), clock)
    state = State(source)
    state.poll()
    source.seek(100)
    assert source.generation == 1
    assert state.poll() and state.snapshot["number"] == 100 and len(state.history) == 60
    source.seek(-30)
    assert state.poll() and state.snapshot["number"] == 70
    assert [each["number"] for each in state.history] == list(range(11, 71))
    source.seek(-1000)
    assert state.poll() and [each["number"] for each in state.history] == [0]
    source.seek(1e9)
    assert state.poll() and state.snapshot["number"] == 299


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"", "is no recording"),
        (b"hello", "give a recording"),
        (zstandard.compress(b"hello\n"), "is no recording"),
        (zstandard.compress(b"[]\n"), "is no recording"),
        (zstandard.compress(b'{"feed": "pyflowx", "recording": 2}\n'), "is no recording"),
        (zstandard.compress(b'{"feed": "pyflowx", "recording": 1}\n'), "is empty"),
        (zstandard.compress(b'{"feed": "pyflowx", "recording": 1}\n[]\n'), "is no recording"),
        (zstandard.compress(b'{"feed": "pyflowx", "recording": 1}\n{"number": 1}\n'), "is no recording"),
        (zstandard.compress(b"x" * (32 << 20)), "longer than"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, octets: bytes, message: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match=message):
        ReplaySource(path)


def test_names_are_safe() -> None:
    assert new_name("../a b\x1b/c", 0) == "pyflowx-a-b--c-19700101T000000Z.ndjson.zst"
    assert new_name("", 0).startswith("pyflowx-feed-")


# --- capture files ----------------------------------------------------------------------------------------------------


def drained(source: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        state = source.state
        found += source.poll()
        if state in ("ended", "failed"):
            return found
        time.sleep(0.01)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Twelve seconds of the demo's datagrams, and what the demo's collector made of them."""
    path = tmp_path_factory.mktemp("capture") / "demo.pcap"
    collector = DemoCollector(1, FIXED_NS)
    snapshots = []
    with PcapWriter(str(path), linktype=101, sync=True) as writer:
        receive = collector._receive

        def copy(device: Any, datagrams: list[bytes], now_ns: int) -> None:
            for place, datagram in enumerate(datagrams if ":" not in device.address else ()):
                packet = IP(src=device.address, dst="192.0.2.9") / UDP(sport=device.port, dport=9995) / Raw(datagram)
                packet.time = (now_ns + place * 7_000_000) / NS
                writer.write(packet)
            receive(device, datagrams if ":" not in device.address else [], now_ns)

        collector._receive = copy  # type: ignore[method-assign]
        snapshots = [collector.step() for _ in range(12)]
    return path, snapshots


def test_a_capture_file_is_as_the_collector_saw_it(capture: tuple[Path, list[dict[str, Any]]]) -> None:
    path, expected = capture
    source = capture_source(str(path))
    found = drained(source)
    assert source.state == "ended" and "datagrams" in source.message
    last, wanted = found[-1], expected[-1]
    for name in ("datagrams", "octets", "flows", "options", "problems", "protocols"):
        assert last["counters"][name] == wanted["counters"][name]
    for name in ("domains", "templates"):
        assert sorted(map(str, last[name])) == sorted(map(str, wanted[name]))
    assert sum(snapshot["flows"]["flows"] for snapshot in found) == wanted["counters"]["flows"]
    assert (
        sum(len(batch) for snapshot in found for batch in snapshot["flows"]["batches"]) == wanted["counters"]["flows"]
    )
    times = [snapshot["time_ns"] for snapshot in found]
    assert 12 <= len(times) <= 14 and times == sorted(times)


def test_columns_are_recorded_as_rows(capture: tuple[Path, list[dict[str, Any]]]) -> None:
    first = drained(capture_source(str(capture[0])))[0]
    line = json.loads(as_json(first))
    assert "batches" not in line["flows"] and len(line["flows"]["rows"]) == line["flows"]["flows"] > 0
    assert line["counters"] == first["counters"]


def test_a_capture_of_another_port(capture: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    assert drained(capture_source(str(capture[0]), 4739))[-1]["counters"]["datagrams"] == 0
    with pytest.raises(ConfigError, match="none"):
        capture_source(str(tmp_path / "none"))


def test_a_capture_that_is_closed_early(capture: tuple[Path, list[dict[str, Any]]]) -> None:
    source = capture_source(str(capture[0]))
    source.close()
    assert source.state == "ended"


def test_a_recording_of_the_demo_shows_the_same(tmp_path: Path) -> None:
    first, second = demo_sources(1, FIXED_NS, 8)[0], demo_sources(1, FIXED_NS, 8)[0]
    seen = State(first)
    seen.recorder = Recorder(tmp_path / "demo", first.hello or {}, first.name)
    seen.poll()
    seen.recorder.close()
    again = State(ReplaySource(tmp_path / "demo", at_once=True))
    again.poll()
    plain = State(second)
    plain.poll()
    assert again.snapshot == plain.snapshot and list(again.history) == list(plain.history)
    assert len(again.store) == len(plain.store) > 100
