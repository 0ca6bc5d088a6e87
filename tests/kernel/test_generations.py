"""The two tables of flows that take turns, as a program fills them (bpf/table.h, bpf/recent.h)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter

import numpy as np
import pytest
from benches import Bench
from frames import udp_frame
from packets import ETH, V4
from scapy.layers.inet import TCP

from pyflowx.kernel import Statistic, generations
from pyflowx.kernel.layout import KEY_DTYPE, NEAR_PROBES, RECENT, NumberSlot

pytestmark = pytest.mark.kernel

MAX_FLOWS = 1000


@pytest.fixture
def bench():
    with contextlib.closing(Bench("ingress", MAX_FLOWS)) as bench:
        yield bench


def run(bench, numbers, repeat=1):
    for number in numbers:
        bench.program.test_run(udp_frame(number), repeat)


def ports(drained):
    """Source port -> packets; what is in no flow of its own has none."""
    keys, values = drained
    found = Counter()
    for port, packets in zip(keys["src_port"].tolist(), values["packets"].tolist(), strict=True):
        found[port] += packets
    return found


def places(bench):
    """The claims of all places of the active table."""
    return bench.generations._tables[0]._places["claims"]


@pytest.mark.parametrize("counts", [(3, 0, MAX_FLOWS, 7, 7), (MAX_FLOWS, 1)])
def test_each_drain_has_what_came_since_the_last_one(bench, counts):
    for count in counts:  # many: the table is emptied as a whole
        run(bench, range(1, count + 1))
        assert bench.generations.waiting == count
        run(bench, range(1, count + 1))
        assert ports(bench.drain()) == dict.fromkeys(range(1, count + 1), 2)
        assert not len(bench.drain()[0])
    assert set(bench.statistic()) == {Statistic.METERED}


def test_nothing_of_the_last_flow_is_in_the_next_one(bench):
    run(bench, [1], repeat=100)
    bench.drain()
    bench.drain()
    run(bench, [1])
    keys, values = bench.drain()
    length = len(udp_frame(1))
    assert values[["packets", "octets", "l2_octets"]].tolist() == [(1, length - 14, length)]
    assert values["first_ns"] == values["last_ns"]
    assert keys["complete"] == 1


def test_what_finds_no_room_is_in_the_catch_all_flow(bench):
    many = MAX_FLOWS + 50
    run(bench, range(1, many + 1))
    keys, values = bench.drain()
    caught = keys["ip_version"] == 0
    assert (keys["direction"][caught] == 0) & (keys["ifindex"][caught] == keys["ifindex"][~caught][0])
    others = ports((keys[~caught], values[~caught]))
    assert MAX_FLOWS <= len(others) < MAX_FLOWS + RECENT  # some have not asked for a place yet
    assert set(others.values()) == {1}
    metered, full, length = len(others), many - len(others), len(udp_frame(1))
    assert values["packets"][caught].tolist() == [full]
    assert bench.statistic() == {
        Statistic.METERED: (metered, metered * length),
        Statistic.MAP_FULL: (full, full * length),
    }


def test_packets_in_a_row_are_added_up_before_they_have_a_place(bench):
    run(bench, [1, 2], repeat=100)
    assert not places(bench).any()
    assert bench.generations.waiting == 2
    assert ports(bench.drain()) == {1: 100, 2: 100}
    assert not len(bench.drain()[0])


def test_flows_in_turn_have_one_place_each(bench):
    for _ in range(RECENT):
        run(bench, [1, 2])
    assert np.count_nonzero(places(bench)) == 2
    keys, values = bench.drain()
    assert sorted(keys["src_port"].tolist()) == [1, 2]
    assert values["packets"].tolist() == [RECENT, RECENT]
    assert (values["first_ns"] < values["last_ns"]).all()


def test_what_the_first_packet_says_is_kept(bench):
    """Those that wait do not come to their places in the order of time."""

    def tcp(flags, **more):
        return bytes(ETH / V4 / TCP(sport=1, dport=2, flags=flags, **more))

    for round in range(2):  # while they wait, and when the flow has a place
        bench.program.test_run(tcp("S", options=[("MSS", 1400)]))
        run(bench, [1])
        bench.program.test_run(tcp("A"))
        run(bench, range(2, RECENT + 1) if round else [])
        keys, values = bench.drain()
        of_flow = values[keys["protocol"] == 6]
        assert len(of_flow) == (1 if round else 2)
        assert of_flow["tcp_mss"][of_flow["first_ns"].argmin()] == 1400
        assert of_flow["packets"].sum() == 2


def test_what_finds_no_place_soon_goes_on_waiting(bench):
    ordinary = bench.generations.numbers[NumberSlot.PLACES] + NEAR_PROBES
    places(bench)[:ordinary] = 1  # all that a program may look at in one go
    run(bench, range(1, 101))
    keys, values = bench.drain()
    caught = keys["ip_version"] == 0
    assert np.count_nonzero(caught) == 1
    assert 0 < np.count_nonzero(~caught) < RECENT
    assert values["packets"].sum() == 100
    assert set(values["packets"][~caught].tolist()) == {1}
    assert set(bench.statistic()) == {Statistic.METERED, Statistic.MAP_FULL}


def test_a_place_that_another_has_claimed_is_stepped_over(bench):
    for _ in range(2):  # in both tables
        places(bench)[::2] = 1
        run(bench, range(1, 101), repeat=2)
        assert ports(bench.drain()) == dict.fromkeys(range(1, 101), 2)


def test_a_flow_has_two_entries_where_its_first_one_was_not_complete_yet(bench):
    run(bench, range(1, RECENT + 1))
    taken = np.flatnonzero(places(bench))
    assert len(taken) == RECENT
    table = bench.generations._tables[0]._places
    table["key"]["complete"][taken] = 0
    run(bench, range(1, RECENT + 1))
    table["key"]["complete"][taken] = 1
    keys, values = bench.drain()
    assert Counter(keys["src_port"].tolist()) == dict.fromkeys(range(1, RECENT + 1), 2)
    assert set(values["packets"].tolist()) == {1}


def test_places_that_are_nobodys_are_free_again_after_a_drain(bench):
    table = bench.generations._tables[0]
    table._places["claims"][:] = 2  # by two at once, so that neither has it
    table._state["spoiled"] = len(table._places)
    run(bench, range(1, RECENT + 1))
    lost = bench.statistic()[Statistic.LOST][0]
    assert 0 < lost <= RECENT  # the others wait
    assert sum(ports(bench.drain()).values()) == RECENT - lost
    assert not table._places["claims"].any()
    bench.drain()
    run(bench, [1])
    assert ports(bench.drain()) == {1: 1}


def test_a_burst_has_the_whole_table_and_then_more_of_it_is_in_use(monkeypatch):
    few, many = 1 << 13, 3 << 13
    monkeypatch.setattr(generations, "_FEW", few)
    with contextlib.closing(Bench("ingress", 1 << 17)) as bench:
        bench.drain()  # until then all is in use
        run(bench, range(1, few // 4))
        assert np.count_nonzero(places(bench)[few + NEAR_PROBES :]) < few // 100
        bench.drain()
        run(bench, range(1, many))
        assert np.flatnonzero(places(bench)).max() > few + NEAR_PROBES
        assert ports(bench.drain()) == dict.fromkeys(range(1, many), 1)
        run(bench, range(1, few))
        taken = np.flatnonzero(places(bench))
        assert np.count_nonzero(taken > few) > len(taken) // 2
        assert np.count_nonzero(taken > generations._SPACE * many + NEAR_PROBES) < few // 100  # eight in a row are rare
        assert set(bench.statistic()) == {Statistic.METERED}


def test_programs_on_several_processors_lose_nothing(bench):
    frames, rounds = [udp_frame(number) for number in range(1, 201)], 300

    def work():
        os.sched_setaffinity(0, bench.processors)
        for _ in range(rounds):
            for frame in frames:
                bench.program.test_run(frame)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    total = Counter()
    while any(thread.is_alive() for thread in threads):
        total += ports(bench.generations.drain())
    for thread in threads:
        thread.join()
    total += ports(bench.generations.drain())
    assert total == dict.fromkeys(range(1, 201), 2 * rounds)


def test_nobody_can_choose_packets_for_one_place(bench):
    """Each pair of tables has a hash of its own: the flows of one are elsewhere in the next."""
    found = []
    for _ in range(2):
        with contextlib.closing(Bench("ingress", MAX_FLOWS)) as other:
            run(other, range(1, 6 * RECENT + 1))
            found.append(np.flatnonzero(places(other)).tolist())
    assert len(found[0]) == len(found[1]) == 6 * RECENT
    assert found[0] != found[1]


def test_unlucky_random_numbers_do_not_heap_flows_up():
    """Flows that differ in one port each have sums at equal distances; here they are as small as can be."""
    word = KEY_DTYPE.fields["src_port"][1] // 4
    with contextlib.closing(Bench("ingress", MAX_FLOWS, table={NumberSlot.HASH + 1 + word: 1})) as bench:
        run(bench, range(1, MAX_FLOWS + 1))
        assert bench.statistic() == {Statistic.METERED: (MAX_FLOWS, MAX_FLOWS * len(udp_frame(1)))}
        quarters = np.bincount(np.flatnonzero(places(bench)) * 4 // len(places(bench)), minlength=4)
        assert quarters.min() > MAX_FLOWS // 8
