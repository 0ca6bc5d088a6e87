"""What viewers are shown of the traffic: the heaviest flows, datagrams with problems, never more than the bounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyflowx import recent
from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.decoded import Decoded, Problems, Reason
from pyflowx.recent import RecentDatagrams, RecentFlows, Tap, heaviest, take_rows
from pyflowx.sinks.discard import Discard
from pyflowx.wire import Decoder


def flows(octets: Any, **columns: CommonColumn) -> CommonBatch:
    counted = np.asarray(octets, np.uint64)
    number = CommonColumn("u64", counted)
    return CommonBatch({"bytes": number, "packets": CommonColumn("u64", counted // 10), **columns}, len(counted))


def octets_of(batches: list[CommonBatch]) -> list[int]:
    return [octets for batch in batches for octets in batch.columns["bytes"].values.tolist()]


def test_the_heaviest_of_a_second_and_what_passed_in_all() -> None:
    seen = RecentFlows()
    generator = np.random.default_rng(1)
    batches = [generator.permutation(np.arange(i, 40_000, 20)) for i in range(20)]
    for octets in batches:
        seen.add(flows(octets))
    found, totals = seen.take()
    assert sorted(octets_of(found)) == list(range(40_000 - recent.FLOWS, 40_000))
    assert (totals.flows, totals.octets) == (40_000, sum(range(40_000)))
    assert totals.packets == sum(octets // 10 for octets in range(40_000))
    assert seen.take() == ([], recent.FlowTotals())


def test_a_busy_second_teaches_the_next_one_and_a_calm_one_unteaches() -> None:
    seen = RecentFlows()
    generator = np.random.default_rng(2)
    for _ in range(3):
        for start in range(20):
            seen.add(flows(generator.permutation(np.arange(start, 40_000, 20))))
        assert sorted(octets_of(seen.take()[0])) == list(range(40_000 - recent.FLOWS, 40_000))
    seen.add(flows(range(1, 101)))  # all of them far too light a second ago
    assert (seen.take()[1].flows, seen.take()[0]) == (100, [])
    seen.add(flows(range(1, 101)))
    assert octets_of(seen.take()[0]) == list(range(1, 101))


def test_no_second_is_poorer_for_the_one_before() -> None:
    seen = RecentFlows()
    generator = np.random.default_rng(3)
    for _ in range(6):
        for _ in range(40):
            seen.add(flows((generator.pareto(1.1, 5000) * 1000 + 1).astype(np.uint64)))
        assert sum(map(len, seen.take()[0])) == recent.FLOWS


def test_few_flows_are_all_there_in_their_order() -> None:
    seen = RecentFlows()
    seen.add(flows([5, 1, 3]))
    seen.add(flows([2]))
    assert octets_of(seen.take()[0]) == [5, 1, 3, 2]


def test_nothing_of_the_batch_is_kept() -> None:
    batch = flows([1, 2, 3])
    kept = take_rows(batch, np.array([0, 1, 2]))
    batch.columns["bytes"].values[:] = 99
    assert octets_of([kept]) == [1, 2, 3]


def test_labels_are_those_that_occur() -> None:
    codes = np.array([500, 3, -1, 500], np.int32)
    valid = codes >= 0
    labels = [f"label {i}" for i in range(1000)]
    batch = flows([1, 2, 3, 4], name=CommonColumn("label", codes, valid, labels))
    kept = take_rows(batch, np.array([0, 2, 3])).columns["name"]
    assert (kept.values[[0, 2]].tolist(), kept.labels) == ([0, 0], ("label 500",))
    assert kept.valid is not None and kept.valid.tolist() == [True, False, True]
    assert kept.values.dtype == codes.dtype
    assert "name" not in take_rows(batch, np.array([2])).columns  # null throughout


def test_heaviest() -> None:
    assert heaviest(np.array([5, 9, 1, 7]), 2).tolist() == [1, 3]
    assert heaviest(np.array([5, 9]), 2).tolist() == [0, 1]
    assert heaviest(np.zeros(0), 2).tolist() == []


def test_at_high_rates_less_and_less_batches_give_flows() -> None:
    """One that is far heavier than all is found in whichever it is; everything is counted."""
    seen = RecentFlows()
    generator = np.random.default_rng(2)
    for place in range(200):
        octets = generator.integers(1, 1000, 5000)
        octets[7] = 10**9 + place if place in (150, 199) else octets[7]
        seen.add(flows(octets))
    assert seen._chosen < 40
    found, totals = seen.take()
    assert {10**9 + 150, 10**9 + 199} <= set(octets_of(found))
    assert totals.flows == 200 * 5000 and sum(map(len, found)) <= recent.FLOWS


def test_batches_of_the_same_columns_are_one() -> None:
    def labelled(codes: list[int], labels: tuple[str, ...]) -> CommonBatch:
        return flows(codes, name=CommonColumn("label", np.array(codes, np.uint8), np.array(codes) > 0, labels))

    one, two, other = labelled([0, 1], ("a", "b")), labelled([1], ("a", "b")), labelled([1], ("a", "c"))
    found = recent.joined([one, two, other, flows([9]), flows([8])])
    assert [len(batch) for batch in found] == [3, 1, 2] and octets_of(found) == [0, 1, 1, 1, 9, 8]
    name = found[0].columns["name"]
    assert name.values.tolist() == [0, 1, 1] and name.valid is not None and name.valid.tolist() == [False, True, True]
    assert recent.joined([]) == []


def test_memory_is_bounded_when_nobody_takes() -> None:
    seen = RecentFlows()
    for _ in range(500):
        seen.add(flows(np.arange(1000)))
    found, totals = seen.take()
    assert len(octets_of(found)) <= recent.FLOWS
    assert totals.flows == 500_000
    shown = RecentDatagrams()
    for _ in range(500):
        shown.add(PacketBatch.of([b"x" * 60_000]), [], Problems())
    rows = shown.take()
    assert len(rows) == recent.DATAGRAMS
    assert all(len(row["octets"]) == 2 * recent.DATAGRAM_OCTETS and row["length"] == 60_000 for row in rows)


def test_records_that_are_not_converted_otherwise(make_decoded: Any) -> None:
    seen = RecentFlows()
    heavy: Decoded = make_decoded({"octetDeltaCount": list(range(1000)), "packetDeltaCount": [1] * 1000})
    seen.add_decoded(heavy)
    seen.add_decoded(make_decoded({"sourceTransportPort": [1, 2]}))
    seen.add_decoded(make_decoded({"octetDeltaCount": [7]}, scope_count=1))
    found, totals = seen.take()
    assert octets_of(found) == [*range(500, 1000), 0, 0]
    assert (totals.flows, totals.octets, totals.packets) == (1002, sum(range(1000)), 1000)


def test_a_tap_shows_only_while_somebody_watches() -> None:
    sink, seen = Discard(), RecentFlows()
    tap = Tap(sink, seen)
    tap.write(flows([1]))
    seen.wanted = True
    tap.write(flows([2]))
    assert octets_of(seen.take()[0]) == [2]
    assert sink.rows == 2


def test_datagrams_with_problems_come_first() -> None:
    shown = RecentDatagrams()
    good = b"\0\x05\0\0" + bytes(20)
    packets = PacketBatch.of([good, b"", good, b"\0\x63x", good], V4_MAPPED + b"\xc0\0\2\1", 9, 77)
    decoded, problems = Decoder().decode(packets, 1)
    shown.add(packets, decoded, problems)
    rows = shown.take()
    assert [row["octets"] for row in rows] == ["", b"\0\x63x".hex(), good.hex()]
    assert [row["protocol"] for row in rows] == [None, None, "NETFLOW_V5"]
    assert [row["problems"] for row in rows] == [[(0, Reason.EMPTY_DATAGRAM.name)], [(0, "UNKNOWN_VERSION")], []]
    assert {(row["port"], row["time_ns"], row["exporter"][-1]) for row in rows} == {(9, 77, 1)}
    assert shown.take() == []
