"""Where snapshots come from: live feeds, a collector of our own, capture files, recordings, the demo.

A snapshot is that of the live feed (:mod:`pyflowx.live`), complete: sections that were not sent again are filled in. No
source blocks who polls it, and none keeps more than :data:`BACKLOG` snapshots for somebody who does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pyflowx.errors import ConfigError
from pyflowx.host import runtime_folder
from pyflowx.live import FeedReader, is_dead

Snapshot = dict[str, Any]
State = Literal["connecting", "live", "stalled", "ended", "failed"]

BACKLOG = 128
STALLED_S = 3.5  # without a snapshot; one comes each second
_ANSWER_S = 5.0
_RETRY_S = 0.5
_TOLD = 2000  # characters of what a process says


class Source:
    """``name`` is for the tab; ``hello`` the feed's first line once there is one; ``message`` belongs to the state.

    ``state``: connecting, live, stalled (nothing has come for a while, though it should), ended (no more will come),
    failed (nothing will come until somebody does something).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.hello: Snapshot | None = None
        self.message = ""
        self._state: State = "connecting"
        self._queue: deque[Snapshot] = deque(maxlen=BACKLOG)

    @property
    def state(self) -> State:
        return self._state

    def poll(self) -> list[Snapshot]:
        """What came since the last call, in order; what was too much is missing from the beginning."""
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._queue.popleft())
        return found

    def close(self) -> None:
        """Let everything go."""


class FeedSource(Source):
    """The live feed at a Unix socket. Connects again when the process that had it is started again."""

    def __init__(self, path: str | Path, name: str = "") -> None:
        super().__init__(name or Path(path).stem)
        self.path = Path(path)
        self._last_s = time.monotonic()
        self._reader: FeedReader | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feed {self.path}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        if self._state == "live" and time.monotonic() - self._last_s > STALLED_S:
            return "stalled"
        return self._state

    def close(self) -> None:
        self._closed.set()
        reader = self._reader
        if reader is not None:
            reader.interrupt()
        self._thread.join(2 * _RETRY_S)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with FeedReader(self.path, _ANSWER_S) as reader:
                    reader.wait_for_ever()
                    self._reader = reader
                    if self._closed.is_set():
                        return
                    self._follow(reader)
                self._state, self.message = "connecting", f"{self.path}: the process has ended; waiting for the next"
            except ConfigError as error:
                self._state, self.message = self._failure(), str(error)
            except (OSError, ValueError, TypeError) as error:  # it speaks otherwise than a feed
                self._state, self.message = "connecting", f"{self.path}: {error}"
            finally:
                self._reader = None
            self._closed.wait(_RETRY_S)

    def _failure(self) -> State:
        """What is no use waiting for is failed, though it is tried again."""
        exists = self.path.exists()
        return "failed" if exists and not os.access(self.path, os.W_OK) else "connecting"

    def _follow(self, reader: FeedReader) -> None:
        known: Snapshot = {}
        for snapshot in reader:
            known.update(snapshot)
            known["left_out"] = snapshot.get("left_out", [])
            self._queue.append(dict(known))
            self._last_s = time.monotonic()
            self.hello, self._state, self.message = reader.hello, "live", ""


def feed_paths() -> list[Path]:
    """The sockets of running processes where they are by default; also those of system services and other folders."""
    folders = dict.fromkeys([runtime_folder(), Path("/run/pyflowx"), *sorted(Path("/run").glob("pyflowx-*"))])
    return [path for folder in folders for path in sorted(folder.glob("*.sock")) if not is_dead(path)]


def feed_sources(paths: Sequence[str] = ()) -> list[Source]:
    """Those asked for, else all that run. ConfigError where there is none."""
    found = list(paths) or [str(path) for path in feed_paths()]
    if not found:
        raise ConfigError(
            "no pyflowx with a live feed is running here; start pyflowx collect or export, name a feed with --connect "
            "PATH, listen here with -p 9995, or see --demo"
        )
    return [FeedSource(path) for path in dict.fromkeys(found)]


class ProcessSource(FeedSource):
    """A collector of our own, in a process of its own that is ended with us: ``pyflowx collect`` with these options."""

    def __init__(self, options: Sequence[str], name: str = "collector") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pyflowx-tui-")
        path = Path(self._folder.name, "feed.sock")
        fixed = ("-f", "common", "-s", "discard", "--no-metrics", "--live", str(path))
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyflowx", "collect", *options, *fixed],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the viewer, which ends it then
        )
        self._told: deque[str] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, name="collector's messages", daemon=True)
        self._listener.start()
        super().__init__(path, name)

    @property
    def state(self) -> State:
        if self._process.poll() is not None and not self._closed.is_set():
            self._listener.join(1)
            self.message = self._told[-1] if self._told else f"the collector ended ({self._process.returncode})"
            return "failed"
        return super().state

    def _listen(self) -> None:
        """A process whose messages nobody takes would stop one day."""
        assert self._process.stderr is not None
        while line := self._process.stderr.readline(_TOLD):
            self._told.append(line.decode(errors="replace").strip())

    def close(self) -> None:
        self._process.terminate()
        super().close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(1)
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._folder.cleanup()


class ThreadSource(Source):
    """Snapshots from a function that a thread runs: it gives them to ``put``, which waits while too many are there."""

    def __init__(self, name: str, work: Callable[[ThreadSource], None]) -> None:
        super().__init__(name)
        self._closed = threading.Event()
        self._taken = threading.Event()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def begin(self, hello: Snapshot) -> None:
        self.hello, self._state = hello, "live"

    def put(self, snapshot: Snapshot) -> None:
        """Waits until there is room."""
        while len(self._queue) >= BACKLOG // 2 and not self._closed.is_set():
            self._taken.wait(0.1)
            self._taken.clear()
        self._queue.append(snapshot)

    def poll(self) -> list[Snapshot]:
        found = super().poll()
        self._taken.set()
        return found

    def wait(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _run(self) -> None:
        try:
            self._work(self)
            self._state = "ended"
        except (ConfigError, OSError) as error:
            self._state, self.message = "failed", str(error)

    def close(self) -> None:
        self._closed.set()
        self._taken.set()
        if self._thread.ident is not None:
            self._thread.join(5)


class ListSource(Source):
    """Snapshots that are there already; for tests and pictures."""

    def __init__(self, name: str, hello: Snapshot, snapshots: Iterable[Snapshot]) -> None:
        super().__init__(name)
        self._queue = deque(snapshots)
        self.hello, self._state = hello, "live"
