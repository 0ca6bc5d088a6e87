"""A source whose batches do not cross windows of time: what is made of a batch then belongs to one window."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from pyflowx.batch import PacketBatch


class Windowed:
    """Another source (:class:`pyflowx.collecting.Source`), its batches cut by the time of reception.

    Windows are ``interval_s`` seconds and begin at multiples of that since 1970. Datagrams of a window keep their
    order.
    """

    def __init__(self, source: Any, interval_s: int) -> None:
        self._source, self._interval_ns = source, interval_s * 1_000_000_000
        self._parts: deque[PacketBatch] = deque()

    def __getattr__(self, name: str) -> Any:
        """What else the source has; it is not exhausted before its last part was given."""
        found = getattr(self._source, name)
        return found and not self._parts if name == "exhausted" else found

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
        if self._parts:
            return self._parts.popleft()
        batch: PacketBatch | None = self._source.receive(timeout_s, linger_s)
        if batch is None or not len(batch):
            return batch
        windows = batch.received_ns // self._interval_ns
        if (windows == windows[0]).all():
            return batch
        self._parts += (batch.take(np.flatnonzero(windows == window)) for window in np.unique(windows))
        return self._parts.popleft()
