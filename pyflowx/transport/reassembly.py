"""IP fragments put together (RFC 791 §3.2, RFC 8200 §4.5), in bounded memory, aged by the time of the packets."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pyflowx.batch import V4_MAPPED

MAX_AGE_NS = 30_000_000_000  # from the first fragment that came
MAX_OCTETS = 16 << 20  # of all fragments that are kept
MAX_PACKETS = 4096  # that are not complete
MAX_PAYLOAD = 0xFFFF - 20  # octets of a packet behind its IPv4 header; no exporter sends more over IPv6
_PIECE_OCTETS = 256  # what a fragment costs beside its octets


@dataclass(slots=True)
class _Incomplete:
    first_ns: int
    pieces: dict[int, bytes] = field(default_factory=dict)  # by offset
    octets: int = 0
    total: int | None = None  # known once the last fragment came
    protocol: int = 0  # of the first fragment
    overlap: bool = False  # what comes for it is dropped too (RFC 5722 §4)

    @property
    def cost(self) -> int:
        return self.octets + _PIECE_OCTETS * (1 + len(self.pieces))


class Reassembler:
    """Gives a whole IP packet when its last missing fragment comes.

    ``dropped`` counts the fragments that never became part of one: too old, pushed out by newer ones, overlapping, or
    of impossible size. A repeated fragment counts there too.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._incomplete: dict[bytes, _Incomplete] = {}  # oldest first
        self._octets = 0

    def add(self, key: bytes, fragment: int, protocol: int, octets: bytes, time_ns: int) -> tuple[int, bytes] | None:
        """Add one fragment; ``(protocol, payload)`` of the packet when it is complete.

        ``key`` is what the fragments of a packet share; ``fragment`` the offset in octets with More Fragments in bit 0.
        """
        self._age(time_ns)
        known = self._incomplete.get(key)
        if known is not None and abs(time_ns - known.first_ns) > MAX_AGE_NS:
            self._drop(key)
            known = None
        if known is None:
            known = self._incomplete[key] = _Incomplete(time_ns)
            self._octets += known.cost
        self._octets -= known.cost
        self._place(known, fragment, protocol, octets)
        self._octets += known.cost
        if known.octets == known.total and not known.overlap:
            return self._complete(key, known)
        while self._octets > MAX_OCTETS or len(self._incomplete) > MAX_PACKETS:
            self._drop(next(iter(self._incomplete)))
        return None

    def close(self) -> None:
        """Count what is still incomplete as dropped."""
        for key in list(self._incomplete):
            self._drop(key)

    def _place(self, known: _Incomplete, fragment: int, protocol: int, octets: bytes) -> None:
        offset, more = fragment & ~7, fragment & 1
        if known.overlap or len(known.pieces.get(offset, b"")) == len(octets):
            self.dropped += 1
            return
        end = offset + len(octets)
        if offset in known.pieces or (more and len(octets) % 8) or end > MAX_PAYLOAD:
            known.overlap = True
        if not more:
            known.overlap |= known.total is not None and known.total != end
            known.total = end
        if known.overlap or (known.total is not None and known.octets + len(octets) > known.total):
            self._spoil(known)
            return
        if not offset:
            known.protocol = protocol
        known.pieces[offset] = octets
        known.octets += len(octets)

    def _spoil(self, known: _Incomplete) -> None:
        self.dropped += len(known.pieces) + 1
        known.overlap, known.octets = True, 0
        known.pieces.clear()

    def _complete(self, key: bytes, known: _Incomplete) -> tuple[int, bytes] | None:
        end = 0
        for offset in sorted(known.pieces):
            if offset != end:
                self._octets -= known.cost
                self._spoil(known)
                self._octets += known.cost
                return None
            end += len(known.pieces[offset])
        del self._incomplete[key]
        self._octets -= known.cost
        return known.protocol, b"".join(known.pieces[offset] for offset in sorted(known.pieces))

    def _age(self, time_ns: int) -> None:
        while self._incomplete:
            key, oldest = next(iter(self._incomplete.items()))
            if time_ns - oldest.first_ns <= MAX_AGE_NS:
                return
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        known = self._incomplete.pop(key)
        self._octets -= known.cost
        self.dropped += len(known.pieces)


def rebuild(addresses: bytes, protocol: int, payload: bytes) -> bytes:
    """An IP packet without fragmentation; ``addresses`` as of :func:`~pyflowx.transport.capture_link.addresses`."""
    if addresses.startswith(V4_MAPPED):
        head = struct.pack(">BBHIBBH", 0x45, 0, 20 + len(payload), 0, 64, protocol, 0)
        return head + addresses[12:16] + addresses[28:] + payload
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload
