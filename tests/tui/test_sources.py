"""Sources: a live feed that stalls, ends and comes again; a collector of our own; the demo."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyflowx_tui import sources
from pyflowx_tui.demo import FIXED_NS, demo_sources
from pyflowx_tui.sources import BACKLOG, FeedSource, ListSource, ProcessSource, Source, ThreadSource, feed_sources

from pyflowx.errors import ConfigError
from pyflowx.live import LiveFeed, Section, section


class Process:
    """What has a live feed: two sections, one of which is only sent when it has changed."""

    def __init__(self, path: Path) -> None:
        self.calls, self.templates = 0, 1
        self.feed = LiveFeed(path, "collect", "1", self.sections, lambda watched: None)

    def sections(self) -> dict[str, Section]:
        self.calls += 1
        return {"counters": section(self.calls), "templates": section([self.templates], self.templates)}


def wait_until(what: Callable[[], Any]) -> Any:
    """A true result; the test's runner limits how long."""
    while not (found := what()):
        time.sleep(0.02)
    return found


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.setattr("pyflowx.live.INTERVAL_S", 0.05)
    made = Process(tmp_path / "one.sock")
    yield made
    made.feed.close()


def collect(source: Source, n: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    wait_until(lambda: found.extend(source.poll()) or len(found) >= n)
    return found


def test_sections_that_are_not_sent_again_are_filled_in(process: Process) -> None:
    source = FeedSource(process.feed.path)
    try:
        assert source.name == "one"
        found = collect(source, 3)
        assert source.state == "live" and source.hello is not None and source.hello["role"] == "collect"
        assert [snapshot["templates"] for snapshot in found] == [[1]] * len(found)
        process.templates = 2
        wait_until(lambda: any(snapshot["templates"] == [2] for snapshot in source.poll()))
        numbers = [snapshot["counters"] for snapshot in collect(source, 2)]
        assert numbers == sorted(set(numbers))
    finally:
        source.close()


def test_a_feed_that_ends_and_comes_again(process: Process) -> None:
    source = FeedSource(process.feed.path)
    try:
        collect(source, 1)
        process.feed.close()
        wait_until(lambda: source.state == "connecting")
        assert source.message
        again = Process(process.feed.path)
        try:
            wait_until(lambda: source.state == "live")
            collect(source, 1)
        finally:
            again.feed.close()
    finally:
        source.close()


def test_a_feed_that_stands_still_is_stalled(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "STALLED_S", 0.2)
    source = FeedSource(process.feed.path)
    try:
        collect(source, 1)
        monkeypatch.setattr("pyflowx.live.INTERVAL_S", 3600.0)
        wait_until(lambda: source.state == "stalled")
    finally:
        source.close()


def test_what_nobody_takes_is_bounded(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyflowx.live.INTERVAL_S", 0.0)
    source = FeedSource(process.feed.path)
    try:
        wait_until(lambda: process.calls > 2 * BACKLOG)
        process.feed.close()
        wait_until(lambda: source.message)  # it has read all that was sent before the end
        numbers = [snapshot["counters"] for snapshot in source.poll()]
        assert numbers == list(range(numbers[-1] - BACKLOG + 1, numbers[-1] + 1)) and numbers[-1] >= process.calls - 1
    finally:
        source.close()


@pytest.mark.parametrize("line", [b"{}\n", b"[1]\n", b"no json\n", b"\xff\n", b'{"feed": "pyflowx", "version": 99}\n'])
def test_what_is_no_feed_is_said(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        source = FeedSource(path)
        try:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(line)
                wait_until(lambda: source.message)
            assert source.state == "connecting" and str(path) in source.message and source.poll() == []
        finally:
            source.close()


@pytest.mark.parametrize("line", [b"[1]\n", b"no json\n", b"7\n"])
def test_a_line_that_is_no_snapshot_is_no_end(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        source = FeedSource(path)
        try:
            for lines in (line, b'{"number": 5}\n'):
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(b'{"feed": "pyflowx", "version": 1, "role": "collect"}\n' + lines)
            assert collect(source, 1)[0]["number"] == 5
        finally:
            source.close()


def test_nobody_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "feed_paths", list)
    with pytest.raises(ConfigError, match=r"--connect PATH.*-p 9995.*--demo"):
        feed_sources()


def test_those_that_run_are_found(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(process.feed.path.parent))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(process.feed.path.parent / "dead.sock"))
    assert process.feed.path in sources.feed_paths()
    assert process.feed.path.parent / "dead.sock" not in sources.feed_paths()


def test_a_collector_of_our_own() -> None:
    source = ProcessSource(["-H", "127.0.0.1", "-p", "0"])
    try:
        snapshot = collect(source, 1)[0]
        assert snapshot["counters"]["datagrams"] == 0 and source.hello is not None
        assert "listening on 127.0.0.1" in snapshot["log"][0][3]
        pid = source.hello["pid"]
        os.kill(pid, 0)
    finally:
        source.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_collector_of_our_own_that_cannot_be() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        source = ProcessSource(["-H", "127.0.0.1", "-p", str(taken.getsockname()[1])])
        try:
            wait_until(lambda: source.state == "failed")
            assert "in use" in source.message
        finally:
            source.close()


def test_a_thread_waits_for_who_takes() -> None:
    made = []

    def work(source: ThreadSource) -> None:
        source.begin({"role": "collect"})
        for number in range(1000):
            source.put({"number": number})
            made.append(number)

    source = ThreadSource("work", work)
    source.start()
    wait_until(lambda: len(made) >= BACKLOG // 2)
    time.sleep(0.05)
    assert len(made) < BACKLOG
    assert [snapshot["number"] for snapshot in collect(source, 1000)] == list(range(1000))
    wait_until(lambda: source.state == "ended")
    source.close()


def test_a_thread_that_fails_and_one_that_is_closed() -> None:
    def fail(source: ThreadSource) -> None:
        raise ConfigError("no such file")

    failing = ThreadSource("fail", fail)
    failing.start()
    wait_until(lambda: failing.state == "failed")
    assert failing.message == "no such file"

    def for_ever(source: ThreadSource) -> None:
        while not source.is_closed:
            source.put({})

    busy = ThreadSource("busy", for_ever)
    busy.start()
    busy.close()
    assert busy.state == "ended"


# --- the demo ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> list[list[dict[str, Any]]]:
    return [source.poll() for source in demo_sources(1, FIXED_NS)]


def test_the_demo_is_the_same_for_the_same_seed(demo: list[list[dict[str, Any]]]) -> None:
    again = [source.poll() for source in demo_sources(1, FIXED_NS, 20)]
    other = [source.poll() for source in demo_sources(2, FIXED_NS, 20)]
    once_more = [source.poll() for source in demo_sources(1, FIXED_NS, 20)]
    assert again == once_more and again != other
    assert [len(snapshots) for snapshots in demo] == [60, 60]


def test_the_demo_has_every_section_filled(demo: list[list[dict[str, Any]]]) -> None:
    for snapshots in demo:
        last = json.loads(json.dumps(snapshots[-1]))
        assert not [name for name, value in last.items() if value in ([], {}, None)]
        assert last["time_ns"] == FIXED_NS - 10**9
    collect, export = demo[0][-1], demo[1][-1]
    assert set(collect["counters"]["protocols"]) == {"NETFLOW_V5", "NETFLOW_V9", "IPFIX", "SFLOW_V5"}
    assert {row["sampling"]["source"] for row in collect["exporters"] if row["sampling"]} == {
        "header",
        "sample",
        "options",
    }
    assert any(row["clock_skew_ns"] > 90 * 10**9 for row in collect["exporters"])
    assert any(row["lost"] for row in collect["domains"])
    assert collect["held_for"][0]["exporter"] == "192.0.2.6" and collect["redefinitions"][0]["exporter"] == "192.0.2.2"
    assert {"BAD_SET_LENGTH", "UNKNOWN_VERSION", "HELD_DATA"} <= set(collect["counters"]["problems"])
    assert any(datagram["problems"] for snapshot in demo[0] for datagram in snapshot["datagrams"])
    assert {row["src_country"] for row in collect["flows"]["rows"] if "src_country" in row}
    assert {hook["hook"] for hook in export["hooks"]} == {"xdp", "tcx"}


def test_counts_of_the_demo_only_grow(demo: list[list[dict[str, Any]]]) -> None:
    for snapshots in demo:
        for before, after in itertools.pairwise(snapshots):
            for name, value in before["counters"].items():
                if isinstance(value, int) and name not in ("alive", "memory_octets", "last_drain_ns", "last_tick_ns"):
                    assert after["counters"][name] >= value


def test_the_demo_goes_on() -> None:
    running = demo_sources(1, seconds=3)
    try:
        for source in running:
            found = collect(source, 4)
            assert source.state == "live" and isinstance(source, Source) and not isinstance(source, ListSource)
            assert abs(found[-1]["time_ns"] - time.time_ns()) < 60 * 10**9
    finally:
        for source in running:
            source.close()
