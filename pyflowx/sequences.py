"""What exporters say they have sent, against what arrived: gaps in sequence numbers by exporter and Observation Domain.

A sequence belongs to a Transport Session and an Observation Domain (RFC 7011 §3.1), so the exporter's port tells
sequences apart as well: two exporting processes behind one address do not look like loss. What is counted differs:
IPFIX counts Data Records, NetFlow v5 and v7 flows, v9 export packets, sFlow datagrams (see :data:`UNITS`).

What stands behind the number we wait for is late or a copy; what stands far away may be an exporter that began
anew, which the next message shows: it goes on from there (RFC 3550 appendix A.1 does the same for RTP).

Not every exporter counts as its protocol says: softflowd's IPFIX leaves options records out and has the records of
the message itself in its number, others count packets. Where the numbers fit such a rule (:data:`RULES`) again and
again, and not the protocol's, that rule holds from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
_VOTES = 2  # messages in doubt that fit a rule, with none that does not, for it to be taken


class Amounts(NamedTuple):
    """What a message holds, in the units that there are; -1: not known, as not all of it was read."""

    records: int
    flows: int
    packets: int = 1


class Rule(NamedTuple):
    """``unit``: the field of :class:`Amounts` that is counted; ``included``: the message itself is in its number."""

    unit: int
    included: bool = False


RULES = (Rule(0), Rule(1), Rule(2), Rule(0, included=True), Rule(1, included=True))
_RULE_OF = {
    Protocol.NETFLOW_V5: 1,
    Protocol.NETFLOW_V7: 1,
    Protocol.NETFLOW_V9: 2,
    Protocol.IPFIX: 0,
    Protocol.SFLOW_V5: 2,
}


@dataclass(slots=True)
class SequenceCounts:
    """Of one exporter and Observation Domain, all monotonic.

    ``missing``: units that a gap said had been sent; ``late``: how many of these came after all (or never were: see
    :data:`RULES`), so that ``missing - late`` are lost. ``gaps``: how often some were missing. ``reordered``:
    messages that came behind a later one, copies included. ``restarts``: how often the numbers began anew.
    """

    missing: int = 0
    late: int = 0
    gaps: int = 0
    reordered: int = 0
    restarts: int = 0

    @property
    def lost(self) -> int:
        return self.missing - self.late

    def __reduce__(self) -> tuple[Any, ...]:
        return SequenceCounts, (self.missing, self.late, self.gaps, self.reordered, self.restarts)

    def merge(self, other: SequenceCounts) -> None:
        """Add what another process counted."""
        self.missing += other.missing
        self.late += other.late
        self.gaps += other.gaps
        self.reordered += other.reordered
        self.restarts += other.restarts


@dataclass(slots=True)
class _Sequence:
    counts: SequenceCounts
    rule: int
    expected: int = _UNKNOWN
    suspect: int = _UNKNOWN  # where a sequence that began anew would go on
    open_gaps: list[tuple[int, int]] = field(default_factory=list)  # first number, how many
    last: tuple[int, Amounts] | None = None  # number and amounts of the message before
    votes: list[int] = field(default_factory=lambda: [0] * len(RULES))
    doubt: int = 0  # units counted as missing that another rule would not miss


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

    def merge(self, other: Sequences) -> None:
        """Add what another process counted; its sequences are not followed here."""
        for domain, counts in other.counts.items():
            self.counts.setdefault(domain, SequenceCounts()).merge(counts)
        self.others.merge(other.others)

    def add(self, decoded: Decoded, problems: Problems, flows: I64, options: I64) -> None:
        """Take in what was decoded of one protocol; ``flows``, ``options``: the Data Records of each Message."""
        messages = decoded.messages
        if decoded.protocol not in UNITS:
            return
        amounts = _amounts(decoded, problems, flows, options)
        keys, numbers = _keys(messages), messages.sequence_number.astype(np.int64)
        if not (messages.packet >= 0).all():  # held Sets of earlier Messages, which were followed then
            here = np.flatnonzero(messages.packet >= 0)
            keys, numbers, amounts = keys[here], numbers[here], amounts[here]
        if len(keys) > _FEW and (keys == keys[0]).all():
            self._follow_one(decoded.protocol, keys[0].tobytes(), numbers, amounts)
            return
        for key, number, row in zip(_rows(keys), numbers.tolist(), amounts.tolist(), strict=True):
            sequence = self._sequences.get(key) or self._begin(decoded.protocol, key)
            _follow(sequence, number, Amounts(*row))

    def _follow_one(self, protocol: Protocol, key: bytes, numbers: I64, amounts: I64) -> None:
        """Many messages of one sequence, which mostly has no gap: runs at once, what breaks them one by one."""
        sequence = self._sequences.get(key) or self._begin(protocol, key)
        at = 0
        while at < len(numbers):
            at += _follow_run(sequence, numbers[at:], amounts[at:])
            odd = slice(at, at + _FEW)
            for number, row in zip(numbers[odd].tolist(), amounts[odd].tolist(), strict=True):
                _follow(sequence, number, Amounts(*row))
            at += _FEW

    def _begin(self, protocol: Protocol, key: bytes) -> _Sequence:
        if len(self._sequences) >= MAX_SEQUENCES:
            del self._sequences[next(iter(self._sequences))]  # the oldest; if it goes on, it is met anew
        domain = protocol, key[:16], int.from_bytes(key[16:20], "big")
        counts = self.counts.get(domain)
        if counts is None:
            full = len(self.counts) >= MAX_DOMAINS
            counts = self.others if full else self.counts.setdefault(domain, SequenceCounts())
        sequence = self._sequences[key] = _Sequence(counts, _RULE_OF[protocol])
        return sequence


def _amounts(decoded: Decoded, problems: Problems, flows: I64, options: I64) -> I64:
    """``(n, 3)``: the :class:`Amounts` of each message."""
    messages = decoded.messages
    if decoded.protocol in (Protocol.NETFLOW_V5, Protocol.NETFLOW_V7):
        flows, options = messages.header["count"].astype(np.int64), np.zeros(len(messages), np.int64)
    amounts = np.stack([flows + options, flows, np.ones(len(messages), np.int64)], axis=1)
    if decoded.protocol in (Protocol.NETFLOW_V9, Protocol.IPFIX):
        if len(problems):
            amounts[np.isin(messages.packet, problems.packet), :2] = _UNKNOWN
        for opaque in decoded.opaque:
            amounts[opaque.message, :2] = _UNKNOWN
    return amounts


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


def _span(rule: Rule, number: int, amounts: Amounts) -> tuple[int, int]:
    """Where a message begins, and where the next one does."""
    units = amounts[rule.unit]
    if rule.included:
        return ((number - units) & _MASK if units >= 0 else _UNKNOWN), number
    return number, ((number + units) & _MASK if units >= 0 else _UNKNOWN)


def _follow(sequence: _Sequence, number: int, amounts: Amounts) -> None:
    """One message with its sequence number."""
    begin, end = _span(RULES[sequence.rule], number, amounts)
    if _UNKNOWN in (begin, sequence.expected) or begin == sequence.expected:
        if any(sequence.votes) and sequence.last is not None:
            for index, rule in enumerate(RULES):
                sequence.votes[index] *= _fits(rule, sequence.last, number, amounts)
        _go_on(sequence, end)
    elif not _take_other_rule(sequence, number, amounts):
        _odd(sequence, begin, end)
    sequence.last = number, amounts


def _follow_run(sequence: _Sequence, numbers: I64, amounts: I64) -> int:
    """As many messages as follow each other and what is expected, as :func:`_follow` does it; how many they are."""
    rule = RULES[sequence.rule]
    units = amounts[:, rule.unit]
    begins = (numbers - units) & _MASK if rule.included else numbers
    ends = (begins + units) & _MASK
    if sequence.suspect != _UNKNOWN or begins[0] != sequence.expected:
        return 0
    broken = units < 0
    broken[1:] |= begins[1:] != ends[:-1]
    n = int(broken.argmax()) if broken.any() else len(numbers)
    if n == 0:
        return 0
    if any(sequence.votes) and sequence.last is not None:
        number, before = sequence.last
        all_numbers = np.append(number, numbers[:n])
        all_amounts = np.vstack([np.array(before), amounts[:n]])
        for index, rule in enumerate(RULES):
            if sequence.votes[index]:
                sequence.votes[index] *= _all_fit(rule, all_numbers, all_amounts)
    sequence.expected = int(ends[n - 1])
    sequence.last = int(numbers[n - 1]), Amounts(*amounts[n - 1].tolist())
    return n


def _all_fit(rule: Rule, numbers: I64, amounts: I64) -> bool:
    """Whether each message but the first follows the one before it by a rule, as :func:`_fits` says."""
    counted = (amounts[1:] if rule.included else amounts[:-1])[:, rule.unit]
    return bool(((counted > 0) & ((numbers[:-1] + counted) & _MASK == numbers[1:])).all())


def _fits(rule: Rule, last: tuple[int, Amounts], number: int, amounts: Amounts) -> bool:
    """Whether a message follows the last one by a rule, and not only because nothing was counted."""
    counted = (amounts if rule.included else last[1])[rule.unit]
    return counted > 0 and _span(rule, *last)[1] == _span(rule, number, amounts)[0]


def _take_other_rule(sequence: _Sequence, number: int, amounts: Amounts) -> bool:
    """Whether this is one message too many that fits a rule, though not ours."""
    if sequence.last is None:
        return False
    for index, rule in enumerate(RULES):
        fits = _fits(rule, sequence.last, number, amounts)
        sequence.votes[index] = sequence.votes[index] + 1 if fits else 0
    most = max(sequence.votes)
    if most < _VOTES:
        return False
    sequence.rule = sequence.votes.index(most)
    sequence.counts.late += sequence.doubt  # it was never missing
    sequence.votes = [0] * len(RULES)
    sequence.doubt, sequence.suspect = 0, _UNKNOWN
    sequence.open_gaps.clear()
    sequence.expected = _span(RULES[sequence.rule], number, amounts)[1]
    return True


def _odd(sequence: _Sequence, begin: int, end: int) -> None:
    """A message that does not begin where we wait for it."""
    ahead = (begin - sequence.expected) & _MASK
    if ahead <= _MAX_MISSING:
        sequence.counts.gaps += 1
        sequence.counts.missing += ahead
        sequence.doubt = sequence.doubt + ahead if any(sequence.votes) else 0
        sequence.open_gaps = [*sequence.open_gaps[1 - _MAX_GAPS :], (sequence.expected, ahead)]
        _go_on(sequence, end)
    elif begin == sequence.suspect:
        sequence.counts.restarts += 1
        sequence.open_gaps.clear()
        sequence.expected, sequence.suspect = end, _UNKNOWN
    else:
        _behind(sequence, begin, end)


def _go_on(sequence: _Sequence, end: int) -> None:
    sequence.expected = end
    if sequence.suspect != _UNKNOWN:  # nothing went on from there: it was a message out of order
        sequence.counts.reordered += 1
        sequence.suspect = _UNKNOWN


def _behind(sequence: _Sequence, number: int, end: int) -> None:
    """A message from before the one we wait for: late, or the first of a sequence that began anew."""
    for index, (first, missing) in enumerate(sequence.open_gaps):
        within = (number - first) & _MASK
        if within < missing:
            came = min((end - number) & _MASK if end >= 0 else 0, missing - within)
            left = [(first, within), ((number + came) & _MASK, missing - within - came)]
            sequence.open_gaps[index : index + 1] = [gap for gap in left if gap[1]]
            sequence.counts.late += came
            sequence.counts.reordered += 1
            return
    if sequence.suspect != _UNKNOWN:
        sequence.counts.reordered += 1
    sequence.suspect = end
