"""What exporters say they have sent, against what arrived: gaps in sequence numbers by exporter and Observation Domain.

A sequence belongs to a Transport Session and an Observation Domain (RFC 7011 §3.1), so the exporter's port tells
sequences apart as well: two exporting processes behind one address do not look like loss. What is counted differs:
IPFIX counts Data Records, NetFlow v5 and v7 flows, v9 export packets, sFlow datagrams (see :data:`UNITS`).

What stands behind the number we wait for is late or a copy; what stands far away may be an exporter that began
anew, which the next message shows: it goes on from there (RFC 3550 appendix A.1 does the same for RTP).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pyflowx.batch import I64, Array
from pyflowx.decoded import Decoded, Messages, Problems, Protocol

UNITS = {
    Protocol.NETFLOW_V5: "flows",
    Protocol.NETFLOW_V7: "flows",
    Protocol.NETFLOW_V9: "packets",
    Protocol.IPFIX: "records",
    Protocol.SFLOW_V5: "datagrams",
}
"""What the sequence number of a protocol counts; NetFlow v1 has none."""

MAX_DOMAINS = 4096  # with counts of their own
MAX_SEQUENCES = 8192  # followed at once; a peer may forge any number of addresses and ports
_MAX_GAPS = 32  # of a sequence that late messages may still fill
_MAX_MISSING = 1 << 24  # a jump over more is no loss but another sequence
_MASK = 0xFFFFFFFF
_UNKNOWN = -1
_FEW = 8  # messages for which a loop is faster than columns


@dataclass(slots=True)
class SequenceCounts:
    """Of one exporter and Observation Domain, all monotonic.

    ``missing``: units that a gap said had been sent; ``late``: how many of these came after all, so that
    ``missing - late`` are lost. ``gaps``: how often some were missing. ``reordered``: messages that came behind a
    later one, copies included. ``restarts``: how often the numbers began anew.
    """

    missing: int = 0
    late: int = 0
    gaps: int = 0
    reordered: int = 0
    restarts: int = 0

    @property
    def lost(self) -> int:
        return self.missing - self.late


@dataclass(slots=True)
class _Sequence:
    counts: SequenceCounts
    expected: int = _UNKNOWN
    suspect: int = _UNKNOWN  # where a sequence that began anew would go on
    open_gaps: list[tuple[int, int]] = field(default_factory=list)  # first number, how many


Domain = tuple[Protocol, bytes, int]  # protocol, exporter (16 octets), Observation Domain


class Sequences:
    """Follows the sequence numbers of all exporters.

    ``counts`` is keyed by (protocol, the exporter's 16 octets, Observation Domain) and holds at most
    :data:`MAX_DOMAINS`; ``others`` is the sum over the rest.
    """

    def __init__(self) -> None:
        self.counts: dict[Domain, SequenceCounts] = {}
        self.others = SequenceCounts()
        self._sequences: dict[bytes, _Sequence] = {}

    def total(self) -> SequenceCounts:
        """The sum over all of them."""
        rows = [*self.counts.values(), self.others]
        return SequenceCounts(*(sum(getattr(row, name) for row in rows) for name in SequenceCounts.__slots__))

    def add(self, decoded: Decoded, problems: Problems, records: I64) -> None:
        """Take in what was decoded of one protocol; ``records``: the Data Records of each Message."""
        messages = decoded.messages
        if decoded.protocol not in UNITS:
            return
        units = _units(decoded, problems, records)
        keys = _keys(messages)
        if not (messages.packet >= 0).all():  # held Sets of earlier Messages, which were followed then
            here = np.flatnonzero(messages.packet >= 0)
            keys, units, numbers = keys[here], units[here], messages.sequence_number[here]
        else:
            numbers = messages.sequence_number
        if len(keys) > _FEW and (keys == keys[0]).all():
            self._follow_one(decoded.protocol, keys[0].tobytes(), numbers.astype(np.int64), units)
            return
        for key, number, count in zip(_rows(keys), numbers.tolist(), units.tolist(), strict=True):
            sequence = self._sequences.get(key) or self._begin(decoded.protocol, key)
            _follow(sequence, number, count)

    def _follow_one(self, protocol: Protocol, key: bytes, numbers: I64, units: I64) -> None:
        """Many messages of one sequence, which mostly has no gap."""
        sequence = self._sequences.get(key) or self._begin(protocol, key)
        ends = (numbers + units) & _MASK
        whole = numbers[0] == sequence.expected and bool((units >= 0).all()) and np.array_equal(ends[:-1], numbers[1:])
        if whole and sequence.suspect == _UNKNOWN:
            sequence.expected = int(ends[-1])
            return
        for number, count in zip(numbers.tolist(), units.tolist(), strict=True):
            _follow(sequence, number, count)

    def _begin(self, protocol: Protocol, key: bytes) -> _Sequence:
        if len(self._sequences) >= MAX_SEQUENCES:
            del self._sequences[next(iter(self._sequences))]  # the oldest; if it goes on, it is met anew
        domain = protocol, key[:16], int.from_bytes(key[16:20], "big")
        counts = self.counts.get(domain)
        if counts is None:
            full = len(self.counts) >= MAX_DOMAINS
            counts = self.others if full else self.counts.setdefault(domain, SequenceCounts())
        sequence = self._sequences[key] = _Sequence(counts)
        return sequence


def _units(decoded: Decoded, problems: Problems, records: I64) -> I64:
    """By how much each message moves its sequence on; -1: not known, as not all of it was read."""
    messages, protocol = decoded.messages, decoded.protocol
    if protocol in (Protocol.NETFLOW_V9, Protocol.SFLOW_V5):
        return np.ones(len(messages), np.int64)
    if protocol is not Protocol.IPFIX:
        return messages.header["count"].astype(np.int64)
    units = records.copy()
    if len(problems):
        units[np.isin(messages.packet, problems.packet)] = _UNKNOWN
    for opaque in decoded.opaque:
        units[opaque.message] = _UNKNOWN
    return units


def _keys(messages: Messages) -> Array:
    """``(n, 40)`` octets: exporter, domain, port, protocol's agent (sFlow: one forwarder may send for many)."""
    keys = np.zeros((len(messages), 40), np.uint8)
    keys[:, :16] = messages.exporter
    keys[:, 16:20] = messages.observation_domain_id.astype(">u4").view(np.uint8).reshape(-1, 4)
    keys[:, 20:22] = messages.port.astype(">u2").view(np.uint8).reshape(-1, 2)
    agent = messages.header.get("agent_address")
    if agent is not None:
        keys[:, 22:38] = agent
    keys[:, 38] = np.asarray(messages.header["version"]).astype(np.uint8)
    return keys


def _rows(keys: Array) -> Iterable[bytes]:
    rows: list[bytes] = keys.view("V40")[:, 0].tolist()
    return rows


def _follow(sequence: _Sequence, number: int, count: int) -> None:
    """One message: it begins at ``number`` and holds ``count`` units (-1: not known)."""
    end = (number + count) & _MASK if count >= 0 else _UNKNOWN
    ahead = (number - sequence.expected) & _MASK
    if sequence.expected == _UNKNOWN or ahead == 0:
        _go_on(sequence, end)
    elif ahead <= _MAX_MISSING:
        sequence.counts.gaps += 1
        sequence.counts.missing += ahead
        sequence.open_gaps = [*sequence.open_gaps[1 - _MAX_GAPS :], (sequence.expected, ahead)]
        _go_on(sequence, end)
    elif number == sequence.suspect:
        sequence.counts.restarts += 1
        sequence.open_gaps.clear()
        sequence.expected, sequence.suspect = end, _UNKNOWN
    else:
        _behind(sequence, number, count, end)


def _go_on(sequence: _Sequence, end: int) -> None:
    sequence.expected = end
    if sequence.suspect != _UNKNOWN:  # nothing went on from there: it was a message out of order
        sequence.counts.reordered += 1
        sequence.suspect = _UNKNOWN


def _behind(sequence: _Sequence, number: int, count: int, end: int) -> None:
    """A message from before the one we wait for: late, or the first of a sequence that began anew."""
    for index, (first, missing) in enumerate(sequence.open_gaps):
        within = (number - first) & _MASK
        if within < missing:
            came = min(max(count, 0), missing - within)
            left = [(first, within), ((number + came) & _MASK, missing - within - came)]
            sequence.open_gaps[index : index + 1] = [gap for gap in left if gap[1]]
            sequence.counts.late += came
            sequence.counts.reordered += 1
            return
    if sequence.suspect != _UNKNOWN:
        sequence.counts.reordered += 1
    sequence.suspect = end
