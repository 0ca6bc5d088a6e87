"""The live feed: its place, what viewers get, and that none of them can hold it up."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyflowx import live
from pyflowx.errors import ConfigError
from pyflowx.live import FeedReader, LiveFeed, Section, is_dead, remove_dead, section


class Content:
    """Sections that count how often they are made."""

    def __init__(self) -> None:
        self.made = 0
        self.version = 1
        self.filler = ""
        self.watched: list[bool] = []
        self.changed = threading.Event()

    def sections(self) -> dict[str, Section]:
        self.made += 1
        return {
            "count": section(self.made),
            "filler": section(self.filler),
            "rare": section({"version": self.version}, self.version),
        }

    def watch(self, by_somebody: bool) -> None:
        self.watched.append(by_somebody)
        self.changed.set()


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> Content:
    monkeypatch.setattr(live, "INTERVAL_S", 0.02)
    return Content()


@pytest.fixture
def feed(content: Content, tmp_path: Path) -> Iterator[LiveFeed]:
    with LiveFeed(tmp_path / "run" / "feed.sock", "collect", "1.2", content.sections, content.watch) as made:
        yield made


def test_a_viewer_is_told_whom_it_watches_and_gets_snapshots(feed: LiveFeed, content: Content) -> None:
    with FeedReader(feed.path) as reader:
        assert reader.hello["role"] == "collect" and reader.hello["pyflowx"] == "1.2"
        assert (reader.hello["version"], reader.hello["pid"]) == (live.VERSION, os.getpid())
        found = [snapshot for snapshot, _ in zip(reader, range(3), strict=False)]
    assert [snapshot["number"] for snapshot in found] == [1, 2, 3]
    assert [snapshot["count"] for snapshot in found] == [1, 2, 3]
    assert {snapshot["dropped"] for snapshot in found} == {0}


def test_a_section_that_rarely_changes_is_sent_when_it_has(feed: LiveFeed, content: Content) -> None:
    with FeedReader(feed.path) as reader:
        snapshots = iter(reader)
        assert next(snapshots)["rare"] == {"version": 1}
        assert "rare" not in next(snapshots)
        content.version = 2
        later = [snapshot for snapshot, _ in zip(snapshots, range(5), strict=False)]
        assert [snapshot["rare"] for snapshot in later if "rare" in snapshot] == [{"version": 2}]
        with FeedReader(feed.path) as another:
            assert next(iter(another))["rare"] == {"version": 2}


def test_nothing_is_made_while_nobody_watches(feed: LiveFeed, content: Content) -> None:
    assert not content.watched
    with FeedReader(feed.path) as reader:
        next(iter(reader))
        assert content.watched == [True]
    content.changed.clear()
    while content.watched != [True, False]:
        content.changed.wait(1)
    made = content.made
    assert feed.counts.viewers == 0
    threading.Event().wait(0.2)
    assert content.made == made > 0


def test_a_viewer_that_does_not_read_holds_nobody_up(feed: LiveFeed, content: Content) -> None:
    content.filler = "x" * (1 << 20)  # more than a socket's buffer takes
    with socket.socket(socket.AF_UNIX) as stalled, FeedReader(feed.path) as reader:
        stalled.connect(str(feed.path))
        snapshots = iter(reader)
        for _ in range(10):
            next(snapshots)  # it goes on; on a busy machine this reader may miss some too
        while feed.counts.dropped < 5:
            next(snapshots)
        lines = stalled.makefile("rb")
        json.loads(lines.readline())
        first, second = json.loads(lines.readline()), json.loads(lines.readline())
    assert first["dropped"] == 0
    assert second["dropped"] >= 5
    assert second["number"] - first["number"] == second["dropped"] + 1


def test_what_is_too_large_is_left_out_and_named(
    feed: LiveFeed, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_SNAPSHOT", 1000)
    content.filler = "x" * 2000
    with FeedReader(feed.path) as reader:
        snapshot = next(iter(reader))
    assert snapshot["left_out"] == ["filler"] and "filler" not in snapshot
    assert "count" in snapshot and "rare" in snapshot


def test_the_number_of_viewers_is_bounded(feed: LiveFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 2)
    with FeedReader(feed.path), FeedReader(feed.path), pytest.raises(ConfigError, match="2 viewers are attached"):
        FeedReader(feed.path)


def test_what_a_viewer_says_is_of_no_interest(feed: LiveFeed) -> None:
    with socket.socket(socket.AF_UNIX) as talker:
        talker.connect(str(feed.path))
        talker.sendall(os.urandom(20_000))
        lines = talker.makefile("rb")
        assert json.loads(lines.readline())["feed"] == "pyflowx"
        assert json.loads(lines.readline())["number"] == 1


def test_the_socket_is_its_owners_and_goes_with_the_feed(content: Content, tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    feed = LiveFeed(path, "collect", "1", content.sections, content.watch)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with FeedReader(path) as reader:
        next(iter(reader))
        feed.close()
        assert list(reader) == [] or select.select([reader], [], [], 0)[0]
    assert not path.exists()
    feed.close()


def test_a_socket_that_another_has_put_there_stays(content: Content, tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    with LiveFeed(path, "collect", "1", content.sections, content.watch):
        path.rename(tmp_path / "moved")
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_the_socket_of_a_process_that_lives_is_an_error_that_says_whose(feed: LiveFeed, content: Content) -> None:
    with pytest.raises(ConfigError, match=f"process {os.getpid()} has its live feed there"):
        LiveFeed(feed.path, "collect", "1", content.sections, content.watch)
    with FeedReader(feed.path) as reader:
        next(iter(reader))


def left_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def test_the_socket_of_a_dead_process_is_replaced(content: Content, tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    left_over(path)
    assert is_dead(path)
    with LiveFeed(path, "collect", "1", content.sections, content.watch), FeedReader(path) as reader:
        assert not is_dead(path)
        next(iter(reader))


def test_only_the_sockets_of_dead_processes_are_removed(feed: LiveFeed) -> None:
    folder = feed.path.parent
    left_over(folder / "dead.sock")
    (folder / "file.sock").write_text("no socket")
    remove_dead(folder)
    remove_dead(folder / "missing")
    assert sorted(path.name for path in folder.iterdir()) == ["feed.sock", "file.sock"]


def file(path: Path) -> Path:
    path.write_text("precious")
    return path


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (lambda folder: file(folder / "file"), "no socket, so it is not replaced"),
        (lambda folder: folder / ("x" * 200), "too long"),
        (lambda folder: file(folder / "file") / "feed.sock", "File exists|Not a directory"),
    ],
)
def test_a_path_that_cannot_be_is_named(place: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    content = Content()
    path = place(tmp_path)
    with pytest.raises(ConfigError, match=says) as error:
        LiveFeed(path, "collect", "1", content.sections, content.watch)
    assert f"--live {path}" in str(error.value)
    assert not (tmp_path / "file").exists() or (tmp_path / "file").read_text() == "precious"


def test_of_many_that_begin_at_once_one_gets_the_place(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    left_over(path)
    code = f"""
import sys
from pyflowx.errors import ConfigError
from pyflowx.live import LiveFeed
try:
    feed = LiveFeed({str(path)!r}, "collect", "1", dict, lambda by_somebody: None)
except ConfigError as error:
    print("no", flush=True)
else:
    print("yes", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(6)]
    try:
        answers = [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.communicate()
    assert sorted(answers) == ["no"] * 5 + ["yes"]


@pytest.mark.parametrize("line", [b"", b"garbage\n", b"[1]\n", b'{"feed": "pyflowx", "version": 99}\n'])
def test_what_is_no_feed_is_said(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(line)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigError, match=str(path)):
            FeedReader(path)
        thread.join()
    with pytest.raises(ConfigError, match="is a pyflowx running"):
        FeedReader(path)
