"""A file that keeps Templates over a restart of the collector, so that data is decoded from the first packet on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from pyflowx.errors import ConfigError, SinkError
from pyflowx.wire import TemplateLimits, TemplateStore
from pyflowx.wire.template import exporter_octets

WRITE_S = 5.0  # between two writes, at least
_SHARE = 20  # and at least so many times what the last one took
_REFRESH_S = 60.0  # where Templates expire, the file says when they were last seen, so it must not get old


class TemplateFile:
    """The Templates of a store in a file: read at once, written while running, complete at any time.

    A file that is not there yet is made. ``report`` takes a line about a write that failed, and about the next that did
    not. :class:`ConfigError` where the file cannot be read, is none of ours, or cannot be written.
    """

    def __init__(self, path: str, store: TemplateStore | SharedTemplates, report: Callable[[str], None]) -> None:
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


_TEMPLATE_KEY = ("exporter", "version", "observation_domain_id", "template_id")


class SharedTemplates:
    """The Templates of several processes, as a :class:`TemplateFile` wants them.

    ``worker_of``: whose the Templates of an exporter (16 octets) and Observation Domain are, None: anybody's.
    ``states``: of each process what :meth:`~pyflowx.wire.TemplateStore.dump` gave last; at first its share of what was
    loaded.
    """

    def __init__(self, count: int, limits: TemplateLimits, worker_of: Callable[[bytes, int], int] | None) -> None:
        self.limits, self.changes = limits, 0
        self._worker_of = worker_of
        self._elements: dict[tuple[str, int, int], dict[str, Any]] = {}
        self._learned = [0] * count
        self.states = [TemplateStore(limits=limits).dump() for _ in range(count)]

    def take(self, number: int, state: bytes, learned: int) -> list[dict[str, Any]]:
        """A process says what it has now, and how many elements exporters taught it (RFC 5610); which of these nobody
        has said before. They are true of all Observation Domains of an exporter, so all processes are to know them."""
        self.states[number] = state
        self.changes += 1
        if learned == self._learned[number]:
            return []
        self._learned[number] = learned
        rows = {(row["exporter"], row["pen"], row["id"]): row for row in json.loads(state)["elements"]}
        new = [key for key in rows if key not in self._elements][: self.limits.learned - len(self._elements)]
        self._elements |= {key: rows[key] for key in new}
        return [rows[key] for key in new]

    def elements(self) -> bytes:
        """All that were taught, as a state without Templates."""
        return elements_state(self._elements.values())

    def load(self, state: bytes) -> int:
        """ConfigError where the octets are not such a state."""
        count = TemplateStore(limits=self.limits).load(state)
        if self._worker_of is None:
            self.states = [state] * len(self.states)
            return count
        whole = json.loads(state)
        shares: list[dict[str, Any]] = [{**whole, "templates": []} for _ in self.states]
        for row in whole["templates"]:
            number = self._worker_of(exporter_octets(row["exporter"]), row["observation_domain_id"])
            shares[number]["templates"].append(row)
        self.states = [json.dumps(share).encode() for share in shares]
        return count

    def dump(self) -> bytes:
        parts = [json.loads(state) for state in self.states]
        elements = {(row["exporter"], row["pen"], row["id"]): row for part in parts for row in part["elements"]}
        templates: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in sorted((row for part in parts for row in part["templates"]), key=itemgetter("refreshed_ns")):
            templates[itemgetter(*_TEMPLATE_KEY)(row)] = row
        whole = {**parts[0], "templates": list(templates.values()), "elements": list(elements.values())}
        return json.dumps(whole).encode()


def elements_state(rows: Iterable[dict[str, Any]]) -> bytes:
    """A state that :meth:`~pyflowx.wire.TemplateStore.load` takes, of elements only."""
    return json.dumps({"format": 1, "templates": [], "elements": list(rows)}).encode()


class StateSender:
    """Tells another process of the Templates of a store when they have changed: what it is then started with again."""

    def __init__(self, store: TemplateStore, send: Callable[[bytes, int], None]) -> None:
        self._store, self._send = store, send
        self._sent, self._next, self._stale = store.changes, 0.0, 0.0

    def keep(self) -> None:
        """If it is time to."""
        begin = time.monotonic()
        is_stale = bool(self._store.limits.timeout_ns) and begin >= self._stale
        if begin < self._next or not (is_stale or self._store.changes != self._sent):
            return
        self.close()
        end = time.monotonic()
        self._next, self._stale = end + _SHARE * (end - begin), end + _REFRESH_S

    def close(self) -> None:
        """A last time."""
        self._sent = self._store.changes
        self._send(self._store.dump(), self._store.learned)
