"""Millions of packets of flows that come and go, while the maps swap: none is lost, none counted twice.

Ten million: ``python tests/bench/churn.py``.
"""

from __future__ import annotations

import pytest
from turnover import churn

pytestmark = pytest.mark.kernel

ROUNDS = 20


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_packets_of_flows_that_come_and_go(wire, sender, hook):
    churn(wire, sender, hook, ROUNDS)
