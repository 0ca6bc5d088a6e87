"""Counts of several processes, sent and added up, are those of one that had seen it all."""

from __future__ import annotations

import pickle
import struct

import numpy as np

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.counters import Counters
from pyflowx.decoded import Reason
from pyflowx.wire import Decoder


def netflow9(domain: int, sequence: int) -> bytes:
    return b"\0\x09\0\0" + bytes(8) + sequence.to_bytes(4, "big") + domain.to_bytes(4, "big")


def test_parts_make_the_whole() -> None:
    """Domains of an exporter are with different processes."""
    whole, parts = Counters(), [Counters() for _ in range(3)]
    decoders = [Decoder() for _ in range(4)]
    sent = [(last, domain, step) for step in (0, 1, 5, 4, 9) for last in range(1, 6) for domain in range(4)]
    for last, domain, step in sent:
        datagrams = [netflow9(domain, step), *([b"", b"\0\x63"] if step == 5 else [])]
        packets = PacketBatch.of(datagrams, V4_MAPPED + bytes([192, 0, 2, last]), 9, step * 10)
        part = (last + domain) % 3
        for counters, decoder in ((whole, decoders[3]), (parts[part], decoders[part])):
            counters.add(packets, *decoder.decode(packets, 10))
    merged = Counters()
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part.copy())))
        merged.merge(Counters())
    assert (merged.datagrams, merged.octets, merged.protocols) == (whole.datagrams, whole.octets, whole.protocols)
    assert np.array_equal(merged.problems, whole.problems) and whole.problems[Reason.EMPTY_DATAGRAM] == 20
    assert merged.damaged == whole.damaged == 40
    assert merged.sequences.counts == whole.sequences.counts and whole.sequences.total().missing > 0
    assert merged.exporters.keys() == whole.exporters.keys()
    for address, counts in whole.exporters.items():
        found = merged.exporters[address]
        assert np.array_equal(found.problems, counts.problems)
        for name in ("datagrams", "octets", "protocols", "last_ns", "clock_skew_ns"):
            assert getattr(found, name) == getattr(counts, name), name


def test_a_datagram_with_several_problems_is_damaged_once() -> None:
    cut_off = struct.pack(">HHIIIHH", 10, 26, 0, 0, 1, 256, 10) + bytes(4)  # its Set ends behind it as well
    packets = PacketBatch.of([cut_off, netflow9(1, 0) + b"\0", b"\0\x63"])
    counters = Counters()
    counters.add(packets, *Decoder().decode(packets, 10))
    reasons = (Reason.MESSAGE_PAST_DATAGRAM, Reason.SET_PAST_MESSAGE, Reason.TRAILING_OCTETS, Reason.UNKNOWN_VERSION)
    assert [counters.problems[reason] for reason in reasons] == [1, 1, 1, 1]
    assert counters.damaged == 2  # of what had trailing octets all was read
