"""A capture file as a source: a collector in a thread, with a snapshot for each second of the capture.

No flow is left out, unlike in a live feed: the section ``flows`` has ``batches`` (:class:`~pyflowx.common.CommonBatch`)
in the place of ``rows``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import numpy as np

from pyflowx import __version__
from pyflowx.batch import PacketBatch
from pyflowx.collectview import CollectorView
from pyflowx.common import CommonBatch
from pyflowx.conversion import Conversion
from pyflowx.counters import Counters
from pyflowx.live import VERSION
from pyflowx.sinks.discard import Discard
from pyflowx.transport.capture import CaptureReader
from pyflowx.wire import Decoder

from .sources import Snapshot, ThreadSource

_NS = 1_000_000_000
_SNAPSHOTS = 600  # then each is of twice as many seconds
_FLOWS = 50_000  # of a snapshot


class _Reading:
    """What a collector has made of the capture until now."""

    def __init__(self, path: str) -> None:
        self.name = os.path.basename(path) or path
        self._decoder, self._counters, self._sink = Decoder(), Counters(), Discard()
        self._conversion = Conversion()
        self._lines: list[list[object]] = []
        self.view = CollectorView(self._counters, self._decoder.templates, self._sink, log=lambda: self._lines)
        self.view.rates = self._conversion.rates
        self._batches: list[CommonBatch] = []
        self.time_ns = self.flows = self.number = 0

    def say(self, level: str, message: str) -> None:
        self._lines.append([len(self._lines) + 1, self.time_ns, level, message])

    def take(self, packets: PacketBatch) -> None:
        self.time_ns = int(packets.received_ns[-1])
        decoded, problems = self._decoder.decode(packets, self.time_ns)
        self._counters.add(packets, decoded, problems)
        self.view.datagrams.add(packets, decoded, problems)
        self.view.recorded.add(packets, decoded)
        for part in decoded:
            for batch in self._conversion(part):
                self._sink.write(batch)
                self._batches.append(batch)
                self.flows += len(batch)

    def snapshot(self) -> Snapshot:
        sections = {name: json.loads(made.octets) for name, made in self.view.sections().items()}
        batches, self._batches, self.flows = self._batches, [], 0
        self.number += 1
        sums = {
            name: sum(int(batch.columns[column].values.sum()) for batch in batches)
            for name, column in (("octets", "bytes"), ("packets", "packets"))
        }
        flows = {"flows": sum(map(len, batches)), **sums, "batches": batches}
        return {"number": self.number, "dropped": 0, "time_ns": self.time_ns, **sections, "flows": flows}


def _seconds(packets: PacketBatch) -> Iterator[PacketBatch]:
    """The batch in parts of one second each."""
    cuts = np.flatnonzero(np.diff(packets.received_ns // _NS)) + 1
    for rows in np.split(np.arange(len(packets)), cuts):
        yield packets.take(rows)


def capture_source(path: str, port: int | None = None) -> ThreadSource:
    """``port``: only what goes to this UDP port. ConfigError where it is no capture."""
    opened = CaptureReader(path, port)

    def run(source: ThreadSource) -> None:
        with opened as reader:
            reading, shown_ns = _Reading(path), 0
            about = {"feed": "pyflowx", "version": VERSION, "role": "collect", "pyflowx": __version__}
            source.begin({**about, "pid": os.getpid(), "started_ns": 0})
            for packets in (part for batch in reader for part in _seconds(batch)):
                if source.is_closed:
                    return
                reading.take(packets)
                step = _NS << min(20, reading.number // _SNAPSHOTS)
                if reading.flows >= _FLOWS or reading.time_ns // step != shown_ns // step:
                    shown_ns = reading.time_ns
                    source.put(reading.snapshot())
            reading.say("info", f"{reading.name}: {reader.counters}")
            if reader.problem:
                reading.say("warning", f"{reading.name}: {reader.problem}")
            source.put(reading.snapshot())
            source.message = f"{reading.name} is read: {reader.counters}"

    source = ThreadSource(os.path.basename(path) or path, run)
    source.start()
    return source
