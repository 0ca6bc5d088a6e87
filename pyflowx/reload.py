"""Tables of ``--enrich`` from files and programs, loaded again while the collector runs.

A thread a table: it sleeps until it is time to look, loads beside the table in use, and then puts the new one in its
place by one assignment. A table that cannot be loaded leaves the old one where it is; that is counted and reported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyflowx.common import TABLE
from pyflowx.enrich.options import EnrichSpec, check_outputs, parse_enrich
from pyflowx.enrich.table import Enrichment, load_table
from pyflowx.errors import ConfigError

# The columns of a flow as keys: addresses, integers, and types that are none.
FLOW_COLUMNS: Mapping[str, str] = {
    column.name: "integer" if column.type in {"u8", "u16", "u32", "u64", "time"} else column.type for column in TABLE
}

WATCH_S = 0.5  # how often a watched file is looked at; it is loaded when two looks in a row agree
_READ_AGAIN = 3  # a file that changes while it is read is read again

Signature = tuple[int, int, int, int]
Report = Callable[[str], None]


@dataclass(slots=True)
class ReloadCounts:
    """Monotonic counts of one table after its first load."""

    reloads: int = 0
    failures: int = 0


def open_tables(options: Iterable[str], report: Report, warn: Report | None = None) -> list[Reloader]:
    """The ``--enrich`` options, every table loaded; :class:`ConfigError` says what is wrong and where.

    ``report`` takes a line about each later load, ``warn`` about those that fail.
    """
    specs = [parse_enrich(option, FLOW_COLUMNS) for option in options]
    check_outputs(specs, FLOW_COLUMNS)
    return [Reloader(spec, report, warn or report) for spec in specs]


def read_source(spec: EnrichSpec, stop: threading.Event | None = None) -> bytes:
    """The octets of a table: a file's, or what a program prints. ``stop`` ends the program early."""
    if spec.command:
        return _run(spec, stop)
    path = Path(spec.source)
    try:
        for _ in range(_READ_AGAIN):
            before = _signature(path)
            data = path.read_bytes()
            if _signature(path) == before:
                return data
    except OSError as error:
        raise ConfigError(f"cannot read {spec.source}: {error.strerror}; source= expects a readable file") from error
    raise ConfigError(f"{spec.source} changes while it is read; write it elsewhere and rename it to its place")


def _signature(path: Path) -> Signature:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _digest(data: bytes) -> tuple[int, int, int]:
    """Tells contents apart. (hashlib takes more memory than all the rest of this.)"""
    return len(data), zlib.crc32(data), zlib.adler32(data)


def _run(spec: EnrichSpec, stop: threading.Event | None) -> bytes:
    """What a program prints; it runs in a session of its own, so that nothing it started outlives the timeout."""
    try:
        process = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"cannot run {spec.name}: {error.strerror}; command= expects a program") from error
    out, err = _communicate(process, spec, stop)
    if process.returncode:
        said = err.decode("utf-8", "replace").strip().splitlines()
        how = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise ConfigError(
            f"{spec.name} failed with {how}{': ' + said[-1] if said else ''}; expected 0 and CSV on stdout"
        )
    return out


def _communicate(
    process: subprocess.Popen[bytes], spec: EnrichSpec, stop: threading.Event | None
) -> tuple[bytes, bytes]:
    deadline = time.monotonic() + spec.timeout_s
    try:
        while True:
            left = deadline - time.monotonic()
            try:
                return process.communicate(timeout=max(0.0, min(left, WATCH_S)))
            except subprocess.TimeoutExpired:
                if left <= 0:
                    message = f"{spec.name} took longer than {spec.timeout_s:g} s; timeout= gives it more, timeout=5m"
                    raise ConfigError(message) from None
                if stop is not None and stop.is_set():
                    raise ConfigError(f"{spec.name} was ended, as we are") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


class Reloader:
    """One table: loaded here, and from :meth:`start` on kept up to date in a thread of its own."""

    def __init__(self, spec: EnrichSpec, report: Report, warn: Report) -> None:
        self.counts = ReloadCounts()
        self._spec, self._report, self._warn = spec, report, warn
        self._tried = self._seen = self._look()
        data = read_source(spec)
        self._digest = _digest(data)
        self.enrichment = Enrichment(spec, load_table(spec, data, FLOW_COLUMNS))
        self._stop, self._wake = threading.Event(), threading.Event()
        self._asked = False
        self._thread = threading.Thread(target=self._run, name=f"reload {spec.name}", daemon=True)

    def start(self) -> None:
        """Begin to look for changes."""
        self._thread.start()

    def reload(self) -> None:
        """Load the table again now, whatever ``reload=`` says, in the thread. May be called by a signal handler."""
        self._asked = True
        self._wake.set()

    def stop(self) -> None:
        """End the thread; a program that runs for a table is killed."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        spec = self._spec
        while True:
            self._wake.wait(WATCH_S if spec.watch else spec.reload_s)
            self._wake.clear()
            if self._stop.is_set():
                return
            asked, self._asked = self._asked, False
            if asked or self._is_due():
                self._load(asked)

    def _look(self) -> Signature | None:
        """What tells one content of the file from the next; None: there is no file."""
        try:
            return _signature(Path(self._spec.source))
        except OSError:
            return None

    def _is_due(self) -> bool:
        """A program always is; a file when it is not the one that was tried last (a watched one: and stays so)."""
        spec = self._spec
        if spec.command:
            return True
        found, before = self._look(), self._seen
        self._seen = found
        return found != self._tried and (not spec.watch or found == before)

    def _load(self, asked: bool) -> None:
        """What says the same as before is left alone, but where somebody ``asked``."""
        spec = self._spec
        self._tried = self._look()
        try:
            data = read_source(spec, self._stop)
            digest = _digest(data)
            if digest == self._digest and not asked:
                return
            table = load_table(spec, data, FLOW_COLUMNS, self.enrichment.table)
        except Exception as error:  # whatever it is, the old table is good, and this thread has to live on
            if not self._stop.is_set():
                self.counts.failures += 1
                message = str(error) if isinstance(error, ConfigError) else repr(error)
                self._warn(f"{message}; the table that was loaded before stays in use")
            return
        self.enrichment.table, self._digest = table, digest
        _give_back()
        self.counts.reloads += 1
        self._report(f"{spec.name}: loaded again, {table.rows} rows")


def _give_back() -> None:
    """Return what loading took to the system: the allocator keeps it otherwise, as much again as the table."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
