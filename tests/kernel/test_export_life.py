"""``pyflowx export`` while the network around it changes, each as a process on a real link."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import demo
import exports
import pytest
from exports import HERE, THERE

from pyflowx.collectview import address_text
from pyflowx.decoded import Reason
from pyflowx.live import FeedReader

pytestmark = pytest.mark.kernel


def address(verb, text):
    demo.run("ip", "-n", HERE, "address", verb, text, "dev", "mgmt")


def lost(path):
    with FeedReader(path) as reader:
        return next(iter(reader))["collectors"][0]["lost"]


def test_a_way_to_the_collector_that_comes_later_and_changes(stack, tmp_path):
    """Without a route at the start, then from one address, then from another."""
    address("del", "198.51.100.1/24")
    collector = exports.Collector(stack)
    program = exports.export(
        stack, "--inactive-timeout", "1", "--template-refresh-rate", "3600", "--live", f"{tmp_path}/feed"
    )
    demo.link_up()
    exports.listen(stack, HERE, "192.0.2.1", [5000, 5001, 5002])
    feeds = [exports.talk(stack, THERE, "192.0.2.1", [port]) for port in (5000, 5001, 5002)]
    told = lambda: collector.per_port("ingressInterface")[0]  # noqa: E731
    feeds[0].send(exports.payloads(10, 3))
    exports.wait_until(lambda: lost(f"{tmp_path}/feed") > 1)
    address("add", "198.51.100.1/24")
    feeds[1].send(exports.payloads(10, 4))
    exports.wait_until(lambda: told()[5001])
    address("del", "198.51.100.1/24")
    address("add", "198.51.100.7/24")
    feeds[2].send(exports.payloads(10, 5))
    program.end()
    exports.wait_until(lambda: told()[5002])
    held = [problem for problem in collector.problems if problem[2] == Reason.HELD_DATA]  # from the new address
    collector.problems = [problem for problem in collector.problems if problem not in held]
    collector.end()
    assert len(held) <= 2
    assert told() == Counter({5001: 4, 5002: 5})
    senders = {address_text(octets.tobytes()) for decoded in collector.decoded for octets in decoded.messages.exporter}
    assert senders == {"198.51.100.1", "198.51.100.7"}
    assert any("Network is unreachable" in line for line in program.messages)


def test_several_exporters_have_a_live_feed_each(stack):
    programs = [exports.export(stack, "--no-metrics") for _ in range(2)]
    feeds = []
    for program in programs:
        program.wait_for("live feed at ")
        feeds += [line.rpartition(" ")[2] for line in program.messages if "live feed at " in line]
    assert len(set(feeds)) == 2
    for program, path in zip(programs, feeds, strict=True):
        with FeedReader(path) as reader:
            assert reader.hello["pid"] == program.process.pid
        program.end()
        assert not Path(path).exists()
