"""Programs that run once a file: some at a time, the others wait, all are waited for at the end."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable

MOST = 8  # at a time

Done = Callable[[bool], None]  # whether it ended with status 0


class Commands:
    """``report`` takes a line about each that fails. What they print goes to our stderr."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.failures = 0
        self._report = report
        self._waiting: deque[tuple[list[str], Done | None]] = deque()
        self._running: list[tuple[subprocess.Popen[bytes], list[str], Done | None]] = []

    def run(self, words: list[str], done: Done | None = None) -> None:
        self._waiting.append((words, done))
        self.poll()

    def poll(self) -> None:
        """Take note of those that have ended, start those that wait."""
        for item in list(self._running):
            if item[0].poll() is not None:
                self._end(*item)
        while self._waiting and len(self._running) < MOST:
            self._start(*self._waiting.popleft())

    def close(self) -> None:
        """Until all have ended."""
        while self._running:
            self._running[0][0].wait()
            self.poll()

    def _start(self, words: list[str], done: Done | None) -> None:
        try:
            # A group of its own: Ctrl-C at our terminal is for us.
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), process_group=0)
        except (OSError, ValueError) as error:
            self._failed(words, str(error), done)
            return
        self._running.append((process, words, done))

    def _end(self, process: subprocess.Popen[bytes], words: list[str], done: Done | None) -> None:
        self._running.remove((process, words, done))
        if process.returncode:
            self._failed(words, f"it ended with status {process.returncode}", done)
        elif done is not None:
            done(True)

    def _failed(self, words: list[str], reason: str, done: Done | None) -> None:
        self.failures += 1
        self._report(f"{shlex.join(words)}: {reason}")
        if done is not None:
            done(False)
