"""Data Sets that came before their Template: kept for a while, within bounds."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

_OVERHEAD = 1024  # octets of memory that keeping even an empty Set costs, counted against the caps


class HeldMessage(NamedTuple):
    """What is kept of a Message: the row of :class:`~pyflowx.decoded.Messages` as Python values."""

    exporter: bytes
    port: int
    received_ns: int
    header: dict[str, int]
    sequence_number: int
    observation_domain_id: int
    export_ns: int
    boot_ns: int


class HeldSet(NamedTuple):
    """A Data Set without its header; ``set_offset`` is that of the header in its message."""

    message: HeldMessage
    set_offset: int
    set_id: int
    octets: bytes
    held_ns: int

    @property
    def cost(self) -> int:
        return len(self.octets) + _OVERHEAD


class HeldData:
    """Held Sets by Template key, the oldest first; every operation costs what it adds or removes.

    ``sets`` and ``octets`` are what is held now; ``released``, ``expired`` and ``dropped`` count Sets since the start
    (dropped: over a cap).
    """

    def __init__(self, octets_per_exporter: int, octets: int, age_ns: int) -> None:
        self.octets_per_exporter, self.octets_limit, self.age_ns = octets_per_exporter, octets, age_ns
        self.released = self.expired = self.dropped = self.octets = 0
        self._by_number: OrderedDict[int, tuple[bytes, HeldSet]] = OrderedDict()
        self._numbers: dict[bytes, dict[int, None]] = {}  # in order
        self._of_exporter: dict[bytes, int] = {}
        self._next = 0

    @property
    def sets(self) -> int:
        return len(self._by_number)

    def hold(self, key: bytes, held: HeldSet) -> bool:
        """Keep a Set; False, and counted, where a cap is reached."""
        of_exporter = self._of_exporter.get(held.message.exporter, 0)
        if of_exporter + held.cost > self.octets_per_exporter or self.octets + held.cost > self.octets_limit:
            self.dropped += 1
            return False
        self._of_exporter[held.message.exporter] = of_exporter + held.cost
        self.octets += held.cost
        self._by_number[self._next] = (key, held)
        self._numbers.setdefault(key, {})[self._next] = None
        self._next += 1
        return True

    def release(self, key: bytes) -> list[HeldSet]:
        """Take out what waits for a Template, in order of arrival."""
        found = [self._by_number.pop(number)[1] for number in self._numbers.pop(key, ())]
        for held in found:
            self._forget(held)
        self.released += len(found)
        return found

    def waiting(self, limit: int) -> list[tuple[bytes, int, int]]:
        """(Template key, Sets, when the oldest came in ns) of those that wait longest; for viewers, of any thread."""
        found = []
        for key, numbers in list(self._numbers.items())[:limit]:
            first = self._by_number.get(next(iter(list(numbers)), -1))
            if first is not None:
                found.append((key, len(numbers), first[1].held_ns))
        return found

    def expire(self, now_ns: int) -> None:
        """Give up what is too old."""
        while self._by_number:
            number, (key, held) = next(iter(self._by_number.items()))
            if now_ns - held.held_ns <= self.age_ns:
                return
            del self._by_number[number]
            del self._numbers[key][number]
            if not self._numbers[key]:
                del self._numbers[key]
            self._forget(held)
            self.expired += 1

    def _forget(self, held: HeldSet) -> None:
        self.octets -= held.cost
        left = self._of_exporter[held.message.exporter] - held.cost
        if left:
            self._of_exporter[held.message.exporter] = left
        else:
            del self._of_exporter[held.message.exporter]
