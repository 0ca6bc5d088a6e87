"""A collector at work, as the tests of its operation see it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyflowx.live import FeedReader

COLLECT = [sys.executable, "-m", "pyflowx", "collect", "-H", "127.0.0.1", "-p", "0"]


class Running:
    """A process on a port that the kernel chose; what it says is in a file, a socket sends to it."""

    def __init__(self, folder: Path, command: list[str], **settings: Any) -> None:
        self.path, self.runtime = folder / "stderr", folder / "run"
        environment = {**os.environ, "RUNTIME_DIRECTORY": str(self.runtime)}
        with self.path.open("w") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env=environment, **settings)
        self.port = int(self.wait_for(r"UDP port (\d+)")[1])
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", self.port))

    @property
    def said(self) -> str:
        return self.path.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        return self.until(lambda: re.search(pattern, self.said))

    def until(self, look: Callable[[], Any]) -> Any:
        """What ``look`` finds, as soon as it finds something; the collector has to live meanwhile."""
        while True:
            ended = self.process.poll() is not None
            found = look()
            if found:
                return found
            assert not ended, self.said
            time.sleep(0.02)

    @property
    def url(self) -> str:
        """Of the metrics, without the path."""
        return self.wait_for(r"metrics at (http://\S+)/metrics")[1]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path) as answer:
            return answer.read().decode()

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """By name and labels."""
        families = text_string_to_metric_families(self.get("/metrics"))
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

    def feed(self) -> FeedReader:
        return FeedReader(self.wait_for(r"live feed at (\S+)")[1])

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """Each with the sections that had not changed since the last one."""
        whole: dict[str, Any] = {}
        with self.feed() as reader:
            for snapshot in reader:
                whole = {**whole, **snapshot}
                yield whole

    def workers(self) -> list[dict[str, Any]]:
        """When all of them run."""
        rows = (snapshot["workers"] for snapshot in self.snapshots())
        return next(found for found in rows if all(row["pid"] for row in found))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait()

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def collect(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts collectors; without metrics unless a port is given, as other collectors may run on this host."""
    with contextlib.ExitStack() as stack:

        def start(*options: str, command: list[str] = COLLECT, **settings: Any) -> Running:
            folder = tmp_path / str(time.monotonic_ns())
            folder.mkdir()
            metrics = [] if {"--metrics-port", "--config"} & set(options) else ["--no-metrics"]
            made = Running(folder, [*command, *metrics, *options], **settings)
            stack.callback(made.close)
            return made

        yield start
