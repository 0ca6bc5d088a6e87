"""A running exporter as others see it: its metrics, its live feed, what doctor says of it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from attached import TC
from prometheus_client.parser import text_string_to_metric_families

from pyflowx.live import FeedReader
from pyflowx.metrics import EXPORTER

pytestmark = pytest.mark.kernel


@pytest.fixture
def exporter(wire, tmp_path):
    """(process, where its metrics are, its live feed)."""
    feed = tmp_path / "feed.sock"
    options = ["-i", "v", "-H", "10.9.0.2", "--inactive-timeout", "1", "--metrics-port", "0", "--live", str(feed)]
    command = ["ip", "netns", "exec", wire.near.name, sys.executable, "-m", "pyflowx", "export", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = next(line for line in process.stderr if "metrics at" in line)
        yield process, re.search(r"http://\S+/metrics", said)[0].replace("0.0.0.0", "127.0.0.1"), feed
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait() == 0, rest
        assert not feed.exists()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def samples(text):
    families = text_string_to_metric_families(text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_packets_are_in_metrics_and_feed_and_doctor(exporter, wire):
    process, url, feed = exporter
    with FeedReader(feed) as reader:
        assert reader.hello["role"] == "export"
        wire.near.run("ping", "-q", "-c", "5", "-i", "0.1", "10.9.0.2")
        wanted, seen = {("10.9.0.1", 8), ("10.9.0.2", 0)}, {}  # request and reply, among what else there is of ICMP
        for snapshot in reader:
            seen |= {(row["src_addr"], row.get("icmp_type")): row for row in snapshot["flows"]["rows"]}
            if wanted <= seen.keys():
                break
    request, reply = seen["10.9.0.1", 8], seen["10.9.0.2", 0]
    assert (request["packets"], request["bytes"], reply["packets"], reply["bytes"]) == (5, 420, 5, 420)
    assert {(hook["interface"], hook["direction"]) for hook in snapshot["hooks"]} == {("v", "ingress"), ("v", "egress")}
    assert {row["program"] for row in snapshot["programs"]} >= {"ingress", "egress"}
    costs = [row["mean_ns"] for row in snapshot["programs"] if row["program"] in ("ingress", "egress")]
    assert all(20 < cost < 1e6 for cost in costs), costs
    assert snapshot["map"].items() >= {"max_flows": 1 << 18, "inserts_failed": 0}.items()
    assert snapshot["map"]["drain_ns"] > 0 and snapshot["map"]["drains"] >= 2
    stages = {stage["stage"]: stage for stage in snapshot["pipeline"]}
    assert stages["hook"]["passed"] >= 10 and stages["hook"]["lost"] == 0
    with wire.near, urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        found = samples(answer.read().decode())
    assert found["pyflowx_metered_packets_total",] >= 10
    assert found["pyflowx_attached", "ingress", TC, "v"] == found["pyflowx_attached", "egress", TC, "v"] == 1
    assert found["pyflowx_program_runs_total", "ingress"] >= 5 and found["pyflowx_map_max_flows",] == 1 << 18
    assert found["pyflowx_hook_packets_total", "metered"] >= found["pyflowx_metered_packets_total",]
    assert found["pyflowx_exported_flows_total", "IDLE_TIMEOUT"] >= 2
    names = {name for name, *_ in found}
    assert {row.sample_name for row in EXPORTER} <= names
    command = [sys.executable, "-m", "pyflowx", "doctor", "--connect", str(feed)]
    told = subprocess.run(command, capture_output=True, text=True).stdout
    assert f"pyflowx export, process {process.pid}" in told
    assert re.search(r"hook +\d+ packets +none lost", told)
