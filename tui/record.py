"""Recordings: snapshots in a file, and a source that plays them.

A recording is NDJSON in zstd: the feed's first line with ``recording`` (1) and ``name`` (of the source), then
snapshots. It has its name when it is complete; until then it is called ``.<name>.<pid>.part``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from pyflowx.collectview import flow_section
from pyflowx.errors import ConfigError
from pyflowx.recent import FlowTotals

from .sources import Snapshot, Source, State

SUFFIX = ".ndjson.zst"
MAX_OCTETS = 256 << 20  # of a recording
MAX_LINE = 16 << 20
SPEEDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
_FRAME = 30  # snapshots of a frame: what is lost at most where a process is killed
_AT_ONCE = 60  # snapshots after a jump: a minute of history
_NS = 1_000_000_000


def as_json(snapshot: Mapping[str, Any]) -> bytes:
    """A line. Flows that are there as columns become rows."""
    flows = snapshot.get("flows") or {}
    batches = flows.get("batches")
    if not batches:
        return json.dumps(snapshot, separators=(",", ":")).encode()
    section = flow_section(batches, FlowTotals(flows["flows"], flows["octets"], flows["packets"]))
    rest = {name: value for name, value in snapshot.items() if name != "flows"}
    return json.dumps(rest, separators=(",", ":")).encode()[:-1] + b',"flows":' + section + b"}"


class Recorder:
    """Writes until :meth:`close`, until the recording is :data:`MAX_OCTETS` long (``is_full``), or until the disk
    refuses (``error``; what was written stays). ConfigError where the file cannot be made."""

    def __init__(self, path: str | Path, hello: Mapping[str, Any], name: str) -> None:
        self.path = Path(path)
        self.snapshots = 0
        self.is_full = False
        self.error = ""
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            if self.path.exists():
                raise ConfigError(f"{path} is there already; give another name")
            self._file: BinaryIO | None = self._part.open("xb")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; give a file in a folder that may be written to") from error
        self._compressor = zstandard.ZstdCompressor(level=3)
        self._lines: list[bytes] = [json.dumps({**hello, "recording": 1, "name": name}).encode()]
        self._octets = 0

    def add(self, snapshot: Mapping[str, Any]) -> None:
        """One more."""
        if self._file is None or self.is_full or self.error:
            return
        self._lines.append(as_json(snapshot))
        self.snapshots += 1
        if len(self._lines) >= _FRAME:
            try:
                self._write()
            except OSError as error:
                self.error = f"{self.path}: {error.strerror}"

    def _write(self) -> None:
        assert self._file is not None
        lines, self._lines = self._lines, []
        self._octets += self._file.write(self._compressor.compress(b"\n".join([*lines, b""])))
        self._file.flush()
        self.is_full = self._octets >= MAX_OCTETS

    def close(self) -> None:
        """Complete it; call it once more and nothing happens."""
        if self._file is None:
            return
        try:
            if self._lines and not self.error:
                self._write()
        finally:
            self._file.close()
            self._file = None
            os.replace(self._part, self.path)


def new_name(name: str, now_s: float) -> str:
    """For a recording that begins now."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")[:40] or "feed"
    return f"pyflowx-{safe}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now_s))}{SUFFIX}"


def lines_of(path: str | Path) -> Iterator[bytes]:
    """The lines of a recording, or of what a killed process left of one. ConfigError where it is none."""
    try:
        with open(path, "rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            rest = b""
            while octets := reader.read(1 << 20):
                *lines, rest = (rest + octets).split(b"\n")
                yield from lines
                if len(rest) > MAX_LINE:
                    raise ConfigError(f"{path}: a line is longer than that of any recording")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a recording, such as R in pyflowx tui makes") from error
    except zstandard.ZstdError as error:
        raise ConfigError(f"{path}: {error}; give a recording, such as R in pyflowx tui makes") from error


class Recording:
    """A recording in memory, each snapshot compressed. ``times_ns``: theirs, ascending."""

    def __init__(self, path: str | Path) -> None:
        self._compressor, self._decompressor = zstandard.ZstdCompressor(1), zstandard.ZstdDecompressor()
        self.times_ns: list[int] = []
        self._snapshots: list[bytes] = []
        lines = lines_of(path)
        try:
            self.hello: Snapshot = json.loads(next(lines, b"null")) or {}
            if self.hello.get("feed") != "pyflowx" or self.hello.get("recording") != 1:
                raise ConfigError(f"{path}: this is no recording that this pyflowx can play")
            for line in lines:
                self._add(line)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ConfigError(f"{path}: this is no recording that this pyflowx can play ({error})") from error
        if not self.times_ns:
            raise ConfigError(f"{path}: the recording is empty")

    def _add(self, line: bytes) -> None:
        time_ns = int(json.loads(line)["time_ns"])
        self.times_ns.append(max(time_ns, self.times_ns[-1] if self.times_ns else time_ns))
        self._snapshots.append(self._compressor.compress(line))

    def __len__(self) -> int:
        return len(self.times_ns)

    def __getitem__(self, place: int) -> Snapshot:
        found: Snapshot = json.loads(self._decompressor.decompress(self._snapshots[place]))
        return found


class ReplaySource(Source):
    """Plays a recording at :attr:`speed`. :attr:`generation` changes with each jump: what came before it is not before
    what comes next. ``at_once``: all of it, as fast as it is polled."""

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.monotonic, *, at_once: bool = False) -> None:
        recording = Recording(path)
        super().__init__(str(recording.hello.get("name") or Path(path).name))
        self.recording, self.hello = recording, recording.hello
        self.generation = 0
        self.speed, self.is_paused = 1.0, False
        self._clock, self._at_once = clock, at_once
        self._lock = threading.Lock()
        self._next = 0
        self._position_ns, self._since_s = recording.times_ns[0], clock()
        self._state = "live"

    @property
    def state(self) -> State:
        return "ended" if self._next >= len(self.recording) and not self.is_paused else "live"

    @property
    def position_s(self) -> float:
        """Seconds from the beginning."""
        return (self._now_ns() - self.recording.times_ns[0]) / _NS

    @property
    def length_s(self) -> float:
        return (self.recording.times_ns[-1] - self.recording.times_ns[0]) / _NS

    def _now_ns(self) -> int:
        if self.is_paused:
            return self._position_ns
        gone = (self._clock() - self._since_s) * self.speed
        return min(self._position_ns + int(gone * _NS), self.recording.times_ns[-1])

    def poll(self) -> list[Snapshot]:
        with self._lock:
            times, now_ns, first = self.recording.times_ns, self._now_ns(), self._next
            last = first
            while last < len(times) and last - first < _AT_ONCE and (self._at_once or times[last] <= now_ns):
                last += 1
            self._next = last
        return [self.recording[place] for place in range(first, last)]

    def pause(self) -> None:
        """Stop, or go on; from the beginning where the end was reached."""
        with self._lock:
            if self._next >= len(self.recording) and not self.is_paused:
                self._jump(self.recording.times_ns[0])
                return
            self._position_ns, self._since_s = self._now_ns(), self._clock()
            self.is_paused = not self.is_paused

    def seek(self, seconds: float) -> None:
        """Forward, or backward."""
        with self._lock:
            first, last = self.recording.times_ns[0], self.recording.times_ns[-1]
            self._jump(min(max(first, self._now_ns() + int(seconds * _NS)), last))

    def _jump(self, time_ns: int) -> None:
        times = self.recording.times_ns
        self._position_ns, self._since_s = time_ns, self._clock()
        place = next((place for place, each in enumerate(times) if each > time_ns), len(times))
        self._next = max(0, place - _AT_ONCE)
        self.generation += 1

    def faster(self, steps: int) -> None:
        """The next of :data:`SPEEDS`, or the one before."""
        with self._lock:
            self._position_ns, self._since_s = self._now_ns(), self._clock()
            place = SPEEDS.index(self.speed) + steps
            self.speed = SPEEDS[min(max(0, place), len(SPEEDS) - 1)]

    def about(self) -> str:
        """Where it is, for the status line."""
        sign = "⏸" if self.is_paused else "▶"
        return f"{sign} {_clock_text(self.position_s)} of {_clock_text(self.length_s)}, {self.speed:g}x"


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
