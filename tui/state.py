"""What the application knows of one source: its last snapshot, what came before, its flows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .record import Recorder
from .store import PART, FlowStore

Snapshot = Mapping[str, Any]
DATAGRAMS = 300  # the last ones, with their octets
HISTORY = 600  # snapshots whose small sections are kept: ten minutes of a live feed
STEP_FLOWS = PART
_KEPT = (
    "number",
    "dropped",
    "time_ns",
    "counters",
    "pipeline",
    "socket",
    "statistics",
    "collectors",
    "template_counts",
    "map",
)


class Source(Protocol):
    """Where snapshots come from (:mod:`pyflowx_tui.sources`)."""

    name: str
    hello: Mapping[str, Any] | None
    state: str  # connecting, live, stalled, ended, failed
    message: str

    def poll(self) -> list[dict[str, Any]]: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class State:
    """``snapshot``: the last one, whole (empty before the first); ``previous``: the one before it.

    ``history``: the small sections (counters, pipeline, ...) of the last :data:`HISTORY` snapshots, oldest first.
    ``received_ns``: when the last one came, by our clock. ``paused_ns``: since when the view stands still (0: it
    does not). ``datagrams``: the last ones, numbered.
    """

    source: Source
    snapshot: Snapshot = field(default_factory=dict)
    previous: Snapshot = field(default_factory=dict)
    history: deque[Snapshot] = field(default_factory=lambda: deque(maxlen=HISTORY))
    store: FlowStore = field(default_factory=FlowStore)
    datagrams: deque[tuple[int, Snapshot]] = field(default_factory=lambda: deque(maxlen=DATAGRAMS))
    received_ns: int = 0
    paused_ns: int = 0
    recorder: Recorder | None = None
    generation: int = 0  # of a recording that is played: jumps until now

    def poll(self) -> bool:
        """Take what the source has; whether there was something."""
        return any(list(self.steps()))

    def steps(self) -> Iterator[bool]:
        """Take what the source has in steps of some milliseconds, so that keys can be answered between them: False
        while there is more, True in the end if there was something."""
        found = self.source.poll()
        generation = getattr(self.source, "generation", 0)
        if generation != self.generation:
            self._begin_anew(generation)
        taken = 0
        for snapshot in found:
            self.record(snapshot)
            for flows in self.store.add_parts(snapshot.get("flows") or {}, int(snapshot.get("time_ns", 0))):
                taken += flows
                if taken >= STEP_FLOWS:
                    taken = 0
                    yield False
            self.previous, self.snapshot = self.snapshot, snapshot
            for datagram in snapshot.get("datagrams", ()):
                self.datagrams.append((self.datagrams[-1][0] + 1 if self.datagrams else 1, datagram))
            self.history.append({name: snapshot[name] for name in _KEPT if name in snapshot})
        if found:
            self.received_ns = time.time_ns()
            yield True

    def record(self, snapshot: Snapshot) -> None:
        """Into the recording that is being made, if one is."""
        if self.recorder is not None:
            self.recorder.add(snapshot)

    def _begin_anew(self, generation: int) -> None:
        """What has been seen until now does not go before what comes."""
        self.generation = generation
        self.store, self.previous, self.snapshot = FlowStore(), {}, {}
        self.history.clear()
        self.datagrams.clear()

    def freeze(self) -> State:
        """What is there now, which does not change any more."""
        history, datagrams = deque(self.history, HISTORY), deque(self.datagrams, DATAGRAMS)
        kept = replace(self, history=history, datagrams=datagrams)
        return replace(kept, store=self.store.freeze(), paused_ns=time.time_ns())

    @property
    def role(self) -> str:
        """collect, export, or nothing while it is not known."""
        return str((self.source.hello or {}).get("role", ""))

    @property
    def seconds(self) -> float:
        """Between the last two snapshots; 0 where there are no two."""
        return (
            max(0.0, (self.snapshot.get("time_ns", 0) - self.previous.get("time_ns", 0)) / 1e9)
            if self.previous
            else 0.0
        )

    def section(self, name: str, default: Any = None) -> Any:
        """A section of the last snapshot."""
        found = self.snapshot.get(name)
        return default if found is None else found

    def per_second(self, section: str, name: str) -> float:
        """How fast a count of a section of counts grows."""
        seconds = self.seconds
        if not seconds:
            return 0.0
        now, then = (each.get(section) or {} for each in (self.snapshot, self.previous))
        return max(0.0, float(now.get(name, 0) - then.get(name, 0)) / seconds)
