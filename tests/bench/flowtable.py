"""Milliseconds of a tick of the flow table: ``python tests/bench/flowtable.py``.

A table of 1 M flows; at each tick 100,000 of them have new packets. With churn, 100,000 flows are new at each tick
besides, and as many end by their idle timeout. Keys and values are the kernel's own. The bar is 50 ms.
"""

from __future__ import annotations

import time

import numpy as np

from pyflowx.exporting import MERGES
from pyflowx.flowtable import FlowTable
from pyflowx.kernel import KEY_DTYPE, VALUE_DTYPE

FLOWS, ACTIVE, TICKS = 1_000_000, 100_000, 5
START, IDLE = 10**9, 10**6  # in ticks; IDLE ticks after its last packet a flow ends


def deltas(numbers, last):
    keys, values = np.zeros(len(numbers), KEY_DTYPE), np.zeros(len(numbers), VALUE_DTYPE)
    words = keys.view(np.uint64).reshape(len(numbers), -1)
    words[:, 1] = numbers
    words[:, 3] = numbers * np.uint64(0x9E3779B97F4A7C15)
    values["packets"], values["octets"], values["first_ns"], values["last_ns"] = 3, 1500, last, last
    return keys, values


def run(name, churn):
    rng = np.random.default_rng(1)
    table = FlowTable(KEY_DTYPE, VALUE_DTYPE, MERGES, active_ns=2 * START, idle_ns=IDLE, max_flows=1 << 21)
    hot, cold = np.arange(FLOWS // 2, dtype=np.uint64), np.arange(FLOWS // 2, FLOWS, dtype=np.uint64)
    table.update(*deltas(rng.permutation(hot), START))
    ages = rng.permutation(len(cold)) // max(churn, 1) if churn else np.full(len(cold), TICKS)
    table.update(*deltas(cold, START - IDLE + ages))
    cost, ended = [], 0
    for tick in range(TICKS):
        numbers = rng.choice(hot, ACTIVE, replace=False)
        new = np.arange(churn, dtype=np.uint64) + np.uint64(FLOWS + tick * churn)
        batch = deltas(np.concatenate([numbers, new]), START + tick)
        begin = time.perf_counter()
        table.update(*batch)
        ended += len(table.expire(START + tick))
        cost.append(time.perf_counter() - begin)
    assert ended == churn * TICKS
    print(f"{name:<52} {np.median(cost) * 1e3:6.1f} ms median {max(cost) * 1e3:6.1f} ms worst")


if __name__ == "__main__":
    run("100,000 of 1 M flows active", 0)
    run("100,000 of 1 M flows active, 100,000 new and ended", 100_000)
