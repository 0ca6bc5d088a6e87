"""A file that keeps Templates over a restart of the collector, so that data is decoded from the first packet on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyflowx.errors import ConfigError, SinkError
from pyflowx.wire import TemplateStore

WRITE_S = 5.0  # between two writes, at least
_SHARE = 20  # and at least so many times what the last one took
_REFRESH_S = 60.0  # where Templates expire, the file says when they were last seen, so it must not get old


class TemplateFile:
    """The Templates of a store in a file: read at once, written while running, complete at any time.

    A file that is not there yet is made. ``report`` takes a line about a write that failed, and about the next that did
    not. :class:`ConfigError` where the file cannot be read, is none of ours, or cannot be written.
    """

    def __init__(self, path: str, store: TemplateStore, report: Callable[[str], None]) -> None:
        self.failures = 0
        self._path, self._store, self._report = Path(path).resolve(), store, report
        self._is_failing = False
        self._written, self._next, self._stale = -1, 0.0, 0.0
        try:
            self.loaded = store.load(self._path.read_bytes())
        except FileNotFoundError:
            self.loaded = 0
        except OSError as error:
            raise ConfigError(
                f"--template-file {path}: {error.strerror}; expected a file that can be read, or a new one"
            ) from error
        except ConfigError as error:
            raise ConfigError(f"--template-file {path}: {error}") from error
        try:
            self._write()
        except OSError as error:
            raise ConfigError(
                f"--template-file {path}: {error.strerror}; expected a folder that can be written to"
            ) from error

    def keep(self) -> None:
        """Write the file if it is time to. A failure is reported, and tried again later."""
        now = time.monotonic()
        if now < self._next or not (self._is_changed or (self._store.limits.timeout_ns and now >= self._stale)):
            return
        try:
            self._write()
        except OSError as error:
            self.failures += 1
            self._next = now + WRITE_S
            if not self._is_failing:
                self._report(f"cannot write {self._path}: {error.strerror}; tried again every {WRITE_S:g} s")
            self._is_failing = True
            return
        if self._is_failing:
            self._report(f"{self._path}: written again")
        self._is_failing = False

    def close(self) -> None:
        """Write the file a last time; :class:`SinkError` where that fails."""
        try:
            self._write()
        except OSError as error:
            raise SinkError(
                f"cannot write {self._path}: {error.strerror}; the Templates of the last write are kept"
            ) from error

    @property
    def _is_changed(self) -> bool:
        return self._store.changes != self._written

    def _write(self) -> None:
        begin = time.monotonic()
        changes = self._store.changes
        whole = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            with open(whole, "wb") as file:
                file.write(self._store.dump())
                file.flush()
                os.fsync(file.fileno())
            os.replace(whole, self._path)
        except OSError:
            with suppress(OSError):
                whole.unlink()
            raise
        self._written = changes
        end = time.monotonic()
        self._next = end + max(WRITE_S, _SHARE * (end - begin))
        self._stale = end + _REFRESH_S
