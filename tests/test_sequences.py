"""Sequence numbers against what arrived: loss, order and restarts told apart, in the units of each protocol."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx import sequences
from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.counters import Counters
from pyflowx.decoded import Protocol
from pyflowx.sequences import SequenceCounts
from pyflowx.wire import Decoder

EXPORTER = V4_MAPPED + b"\xc0\0\2\1"


def ipfix(sequence: int, records: int, template: bool = False, domain: int = 7) -> bytes:
    sets = struct.pack(">HHHHHH", 2, 12, 256, 1, 1, 4) if template else b""
    if records:
        sets += struct.pack(">HH", 256, 4 + 4 * records) + bytes(4 * records)
    return struct.pack(">HHIII", 10, 16 + len(sets), 1, sequence & 0xFFFFFFFF, domain) + sets


def netflow9(sequence: int) -> bytes:
    return struct.pack(">HHIIII", 9, 0, 1, 1, sequence & 0xFFFFFFFF, 3)


def netflow5(sequence: int, flows: int) -> bytes:
    return struct.pack(">HHIIIIBBH", 5, flows, 1, 1, 0, sequence & 0xFFFFFFFF, 0, 9, 0) + bytes(48 * flows)


def sflow(sequence: int, agent: int = 1) -> bytes:
    return struct.pack(">IIIIIII", 5, 1, agent, 5, sequence & 0xFFFFFFFF, 1, 0)


class Listener:
    """A decoder with counters: batch after batch."""

    def __init__(self) -> None:
        self.counters, self.decoder = Counters(), Decoder()

    def take(self, *datagrams: bytes, port: int = 4000, exporter: bytes | Sequence[bytes] = EXPORTER) -> None:
        packets = PacketBatch.of(datagrams, exporter, port, 10)
        decoded, problems = self.decoder.decode(packets, 10)
        self.counters.add(packets, decoded, problems)

    @property
    def total(self) -> SequenceCounts:
        return self.counters.sequences.total()


@pytest.fixture(params=["one batch", "a batch each"])
def deliver(request: pytest.FixtureRequest):
    """Sends datagrams to a new listener, together or alone; gives its counts."""

    def send(datagrams: Sequence[bytes]) -> SequenceCounts:
        listener = Listener()
        if request.param == "one batch":
            listener.take(*datagrams)
        else:
            for datagram in datagrams:
                listener.take(datagram)
        return listener.total

    return send


def stream(protocol: Protocol, first: int, count: int = 30) -> list[bytes]:
    """What an exporter sends; two units a message where the protocol does not count messages."""
    if protocol is Protocol.IPFIX:
        return [ipfix(first, 0, template=True), *(ipfix(first + 2 * i, 2) for i in range(count))]
    if protocol is Protocol.NETFLOW_V5:
        return [netflow5(first + 2 * i, 2) for i in range(count)]
    return [(netflow9 if protocol is Protocol.NETFLOW_V9 else sflow)(first + i) for i in range(count)]


UNITS = {Protocol.IPFIX: 2, Protocol.NETFLOW_V5: 2, Protocol.NETFLOW_V9: 1, Protocol.SFLOW_V5: 1}
PROTOCOLS = pytest.mark.parametrize("protocol", UNITS)


@PROTOCOLS
@pytest.mark.parametrize("first", [0, 100, 2**32 - 11])
def test_what_is_complete_has_no_gap(deliver, protocol: Protocol, first: int) -> None:
    assert deliver(stream(protocol, first)) == SequenceCounts()


@PROTOCOLS
@pytest.mark.parametrize("first", [0, 2**32 - 11])
def test_a_loss_is_counted_in_units(deliver, protocol: Protocol, first: int) -> None:
    sent = stream(protocol, first)
    del sent[20:23], sent[5]
    assert deliver(sent) == SequenceCounts(missing=4 * UNITS[protocol], gaps=2)


@PROTOCOLS
def test_what_comes_late_is_not_lost(deliver, protocol: Protocol) -> None:
    sent = stream(protocol, 5)
    moved = sent.pop(10)
    sent.insert(14, moved)
    unit = UNITS[protocol]
    found = deliver(sent)
    assert found == SequenceCounts(missing=unit, late=unit, gaps=1, reordered=1)
    assert found.lost == 0


@PROTOCOLS
def test_copies_are_no_loss_and_no_restart(deliver, protocol: Protocol) -> None:
    sent = stream(protocol, 5)
    twice = [sent[0], *(copy for datagram in sent[1:] for copy in (datagram, datagram))]
    found = deliver(twice)
    assert (found.missing, found.restarts) == (0, 0)
    assert found.reordered >= len(sent) - 3


@PROTOCOLS
def test_a_restart_is_no_loss(deliver, protocol: Protocol) -> None:
    assert deliver(stream(protocol, 500) + stream(protocol, 0)[1:]) == SequenceCounts(restarts=1)
    assert deliver(stream(protocol, 5) + stream(protocol, 3_000_000_000)[1:]) == SequenceCounts(restarts=1)


def test_units_and_keys_of_each_domain() -> None:
    listener = Listener()
    listener.take(
        ipfix(0, 0, True, domain=1), ipfix(0, 3, domain=1), ipfix(0, 0, True, domain=2), ipfix(0, 1, domain=2)
    )
    listener.take(ipfix(8, 1, domain=1), ipfix(1, 1, domain=2), sflow(1), sflow(9))
    counts = listener.counters.sequences.counts
    assert counts[Protocol.IPFIX, EXPORTER, 1].lost == 5
    assert counts[Protocol.IPFIX, EXPORTER, 2].lost == 0
    assert counts[Protocol.SFLOW_V5, EXPORTER, 5].lost == 7


def test_two_processes_or_agents_behind_one_address_are_apart() -> None:
    listener = Listener()
    for number in range(20):
        listener.take(netflow9(number), port=1000)
        listener.take(netflow9(70_000 + number), port=2000)
        listener.take(sflow(number, agent=1), sflow(1_000_000 + number, agent=2))
    assert listener.total == SequenceCounts()


def test_a_message_that_was_not_read_whole_hides_no_later_gap_and_makes_none() -> None:
    listener = Listener()
    unread = struct.pack(">HH", 999, 8) + bytes(4)  # a Set without a Template: no one knows how many records
    odd = bytearray(ipfix(2, 0) + unread)
    struct.pack_into(">H", odd, 2, len(odd))
    listener.take(ipfix(0, 2, template=True), bytes(odd), ipfix(30, 1), ipfix(31, 1), ipfix(40, 1))
    assert listener.total == SequenceCounts(missing=8, gaps=1)


def test_held_data_counts_once() -> None:
    listener = Listener()
    listener.take(ipfix(0, 2))
    listener.take(ipfix(2, 2, template=True))
    listener.take(ipfix(4, 2))
    assert listener.counters.flows == 6
    assert listener.total == SequenceCounts()
    exporter = listener.counters.exporters[EXPORTER].protocols[Protocol.IPFIX]
    assert (exporter.messages, exporter.flows) == (3, 6)


def messages_of(rule: str, lost: set[int] = frozenset()) -> list[bytes]:
    """IPFIX of an exporter with a rule of its own: messages of 2 and 3 records, every tenth with an options record."""
    sets = struct.pack(">HHHHHHH", 3, 14, 257, 1, 1, 143, 4), struct.pack(">HHI", 257, 8, 7)
    number, sent = 0, []
    for i in range(60):
        flows, options = 2 + i % 2, int(i % 10 == 3)
        plain = ipfix(0, flows, template=i == 0)
        body = plain[16:] + (b"".join(sets) if options else b"")
        amount = {"records": flows + options, "flows": flows, "packets": 1}[rule.partition(" ")[0]]
        head = number + amount if rule.endswith("included") else number
        number += amount
        if i not in lost:
            sent.append(struct.pack(">HHIII", 10, 16 + len(body), 1, head, 7) + body)
    return sent


RULES = ["records", "flows", "packets", "records included", "flows included"]


@pytest.mark.parametrize("rule", RULES)
def test_exporters_that_count_otherwise_lose_nothing(deliver, rule: str) -> None:
    found = deliver(messages_of(rule))
    assert (found.lost, found.restarts) == (0, 0)
    assert found.reordered <= 2  # until it was clear how it counts


@pytest.mark.parametrize("rule", RULES)
def test_what_exporters_that_count_otherwise_lose(deliver, rule: str) -> None:
    lost = {31, 32, 45}  # 3, 2 and 3 flows, none with options
    assert deliver(messages_of(rule, lost)).lost == (3 if rule == "packets" else 8)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MAX_SEQUENCES", 8)
    monkeypatch.setattr(sequences, "MAX_DOMAINS", 4)
    listener = Listener()
    for last in range(50):
        listener.take(netflow9(0), netflow9(5), exporter=V4_MAPPED + bytes([10, 0, 0, last]))
    followed = listener.counters.sequences
    assert len(followed.counts) == 4
    assert len(followed._sequences) == 8
    assert followed.others.lost == 46 * 4
    assert followed.total().lost == 50 * 4


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 30)), max_size=60), st.randoms())
def test_any_numbers_give_sane_counts(heads: list[tuple[int, int]], chance: random.Random) -> None:
    listener = Listener()
    chunks = [heads[i : i + 7] for i in range(0, len(heads), 7)]
    for chunk in chunks:
        listener.take(*(netflow5(number, count) for number, count in chunk))
    total = listener.total
    assert 0 <= total.late <= total.missing
    assert total.gaps + total.reordered + total.restarts <= len(heads)


@given(st.integers(0, 2**32 - 1), st.sets(st.integers(1, 58)), st.integers(1, 40))
def test_losses_are_exact_however_they_fall_into_batches(first: int, lost: set[int], size: int) -> None:
    sent = [netflow5(first + 3 * i, 3) for i in range(60) if i not in lost]
    listener = Listener()
    for start in range(0, len(sent), size):
        listener.take(*sent[start : start + size])
    assert (listener.total.lost, listener.total.reordered) == (3 * len(lost), 0)


@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 0, 1, 5, -3, 1 << 30, -(1 << 30)]), st.integers(0, 3)), max_size=60),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 60),
)
def test_runs_at_once_are_the_same_as_one_by_one(steps: list[tuple[int, int]], unit: int, size: int) -> None:
    """Jumps, repetitions and exporters that count otherwise, in batches and alone."""
    datagrams, number = [ipfix(0, 1, template=True)], 1
    for jump, records in steps:
        number += jump
        datagrams.append(ipfix(number, records))
        number += (records, records, 1)[unit]
    together, alone = Listener(), Listener()
    together.take(datagrams[0])
    for first in range(1, len(datagrams), size):
        together.take(*datagrams[first : first + size])
    for datagram in datagrams:
        alone.take(datagram)
    assert together.total == alone.total
