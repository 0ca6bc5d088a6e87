"""The two tables of flows that take turns, as a program fills them (bpf/table.h)."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pyflowx.kernel import Statistic, generations
from pyflowx.kernel.layout import KEY_DTYPE, TABLE_PROBES, NumberSlot

spec = importlib.util.spec_from_file_location("wires", Path(__file__).with_name("test_wire.py"))
wires = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wires)
spec = importlib.util.spec_from_file_location("benches", Path(__file__).with_name("conftest.py"))
benches = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benches)

pytestmark = pytest.mark.kernel

MAX_FLOWS = 1000


@pytest.fixture
def bench():
    with contextlib.closing(benches.Bench("ingress", MAX_FLOWS)) as bench:
        yield bench


def run(bench, numbers, repeat=1):
    for number in numbers:
        bench.program.test_run(wires.udp_frame(number), repeat)


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
        run(bench, range(1, count + 1), repeat=2)
        assert bench.generations.waiting == count
        assert ports(bench.drain()) == dict.fromkeys(range(1, count + 1), 2)
        assert not len(bench.drain()[0])
    assert set(bench.statistic()) == {Statistic.METERED}


def test_nothing_of_the_last_flow_is_in_the_next_one(bench):
    run(bench, [1], repeat=100)
    bench.drain()
    bench.drain()
    run(bench, [1])
    keys, values = bench.drain()
    length = len(wires.udp_frame(1))
    assert values[["packets", "octets", "l2_octets"]].tolist() == [(1, length - 14, length)]
    assert values["first_ns"] == values["last_ns"]
    assert keys["complete"] == 1


def test_what_finds_no_room_is_in_the_catch_all_flow(bench):
    run(bench, range(1, MAX_FLOWS + 51), repeat=3)
    keys, values = bench.drain()
    caught = keys["ip_version"] == 0
    assert values["packets"][caught].tolist() == [150]
    assert (keys["direction"][caught] == 0) & (keys["ifindex"][caught] == keys["ifindex"][~caught][0])
    assert ports((keys[~caught], values[~caught])) == dict.fromkeys(range(1, MAX_FLOWS + 1), 3)
    assert bench.statistic()[Statistic.MAP_FULL][0] == 150


def test_a_place_that_another_has_claimed_is_stepped_over(bench):
    for _ in range(2):  # in both tables
        places(bench)[::2] = 1
        run(bench, range(1, 101), repeat=2)
        assert ports(bench.drain()) == dict.fromkeys(range(1, 101), 2)


def test_a_flow_has_two_entries_where_its_first_one_was_not_complete_yet(bench):
    run(bench, [1])
    (taken,) = np.flatnonzero(places(bench))
    table = bench.generations._tables[0]._places
    table["key"]["complete"][taken] = 0
    run(bench, [1])
    table["key"]["complete"][taken] = 1
    keys, values = bench.drain()
    assert (keys[0], values["packets"].tolist()) == (keys[1], [1, 1])


def test_places_that_are_nobodys_are_free_again_after_a_drain(bench):
    table = bench.generations._tables[0]
    table._places["claims"][:] = 2  # by two at once, so that neither has it
    table._state["spoiled"] = len(table._places)
    run(bench, [1])
    assert bench.statistic() == {Statistic.LOST: (1, len(wires.udp_frame(1)))}
    assert not len(bench.drain()[0])
    assert not table._places["claims"].any()
    bench.drain()
    run(bench, [1])
    assert ports(bench.drain()) == {1: 1}


def test_a_burst_has_the_whole_table_and_then_more_of_it_is_in_use():
    few, many = generations._FEW, 3 * generations._FEW
    with contextlib.closing(benches.Bench("ingress", 1 << 17)) as bench:
        bench.drain()  # until then all is in use
        run(bench, range(1, few // 4))
        assert np.flatnonzero(places(bench)).max() < few + TABLE_PROBES
        bench.drain()
        run(bench, range(1, many))
        assert np.flatnonzero(places(bench)).max() > few + TABLE_PROBES
        assert ports(bench.drain()) == dict.fromkeys(range(1, many), 1)
        run(bench, range(1, few))
        assert few < np.flatnonzero(places(bench)).max() < generations._SPACE * many + TABLE_PROBES
        assert set(bench.statistic()) == {Statistic.METERED}


def test_programs_on_several_processors_lose_nothing(bench):
    frames, rounds = [wires.udp_frame(number) for number in range(1, 201)], 300

    def work():
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
        with contextlib.closing(benches.Bench("ingress", MAX_FLOWS)) as other:
            run(other, range(1, 101))
            found.append(np.flatnonzero(places(other)).tolist())
    assert len(found[0]) == len(found[1]) == 100
    assert found[0] != found[1]


def test_unlucky_random_numbers_do_not_heap_flows_up():
    """Flows that differ in one port each have sums at equal distances; here they are as small as can be."""
    word = KEY_DTYPE.fields["src_port"][1] // 4
    with contextlib.closing(benches.Bench("ingress", MAX_FLOWS, table={NumberSlot.HASH + 1 + word: 1})) as bench:
        run(bench, range(1, MAX_FLOWS + 1))
        assert bench.statistic() == {Statistic.METERED: (MAX_FLOWS, MAX_FLOWS * len(wires.udp_frame(1)))}
        quarters = np.bincount(np.flatnonzero(places(bench)) * 4 // len(places(bench)), minlength=4)
        assert quarters.min() > MAX_FLOWS // 8
