"""The times of packets: read from the clock, or those of the last reading and a nanosecond more (bpf/recent.h)."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
from benches import Bench
from frames import udp_frame
from packets import ETH, V4
from scapy.layers.inet import TCP

pytestmark = pytest.mark.kernel

ROUNDS = 50
MANY = 1000  # packets that a CPU has in much less than a jiffy
JIFFY_NS = 10_000_000  # the longest


def tcp_frame(port, flags):
    return bytes(ETH / V4 / TCP(sport=port, dport=2, flags=flags))


def steps(kind, make, **config):
    """ns from the last packet of many to the next, which is of another flow that ``make`` makes; round by round.
    Times are those of the clock, as far as they have to be."""
    with contextlib.closing(Bench(kind, **config)) as bench:
        begin = time.monotonic_ns()
        for number in range(ROUNDS):
            bench.program.test_run(udp_frame(number + 1), MANY)
            bench.program.test_run(make(number + 1))
        end = time.monotonic_ns()
        keys, values = bench.drain()
    assert begin - JIFFY_NS < values["first_ns"].min() and values["last_ns"].max() < end
    of_port = np.argsort(keys["src_port"], kind="stable")
    ports, values = keys["src_port"][of_port], values[of_port]
    many, one = (np.isin(ports, np.arange(1, ROUNDS + 1) + more) for more in (0, ROUNDS))
    assert values["packets"][many].tolist() == [MANY] * ROUNDS and values["packets"][one].tolist() == [1] * ROUNDS
    found = values["first_ns"][one].astype(np.int64) - values["last_ns"][many].astype(np.int64)
    assert (found > 0).all()  # the order in which they came
    return found


def another(number):
    return udp_frame(ROUNDS + number)


@pytest.mark.parametrize("kind", ["ingress", "egress"])  # a test run of XDP takes longer than a jiffy
def test_a_cpu_with_many_packets_in_a_jiffy_does_not_read_the_clock_for_each(kind):
    assert np.count_nonzero(steps(kind, another) == 1) > ROUNDS // 2


def test_exact_times_are_read_for_each():
    assert (steps("ingress", another, exact_times=True) > 1).all()


@pytest.mark.parametrize("flags", ["S", "SA", "F", "R"])
def test_what_begins_or_ends_a_connection_is_timed(flags):
    assert (steps("ingress", lambda number: tcp_frame(ROUNDS + number, flags)) > 1).all()


def test_a_few_packets_in_a_jiffy_are_timed():
    with contextlib.closing(Bench("ingress")) as bench:
        for number in range(1, 11):
            time.sleep(JIFFY_NS / 1e9)
            bench.program.test_run(udp_frame(number))
            bench.program.test_run(udp_frame(number))
        _, values = bench.drain()
    assert (values["last_ns"] - values["first_ns"] > 1).all()
