"""All three machines at once, watched while they work."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.vm

COLLECTOR = "192.168.58.30"


def test_flows_that_are_generated_and_the_traffic_that_carries_them_are_seen_together(generator, exporter, collector):
    # Two ports: what goes to its own collector the exporter leaves out.
    ports = f"-I netflow://{COLLECTOR}:9995 -I netflow://{COLLECTOR}:4739"
    collect = collector.start("collect", f"pyflowx collect {ports} -f common --live /run/collect.sock")
    options = f"-i eth1 -H {COLLECTOR} -p 4739 --active-timeout 2 --inactive-timeout 1"
    export = exporter.start("export", f"pyflowx export {options}")
    collect.wait_for("listening on .* UDP port 9995")
    export.wait_for("metering eth1 egress")
    generate = generator.start("generate", f"pyflowx generate -H {COLLECTOR} -p 9995 -t netflow9 -r 20 -f 10")
    collect.wait_for("NETFLOW_V9", "out")
    collect.wait_for("IPFIX", "out")
    watch = "pyflowx top --once -o json -c /run/collect.sock -g sampler_address -s flows -i 15"
    seen = {row["sampler_address"]: row for row in json.loads(collector.run(watch))["rows"]}
    assert set(seen) == {"192.168.57.10", "192.168.58.20"}
    assert seen["192.168.57.10"]["flows"] > 20 * seen["192.168.58.20"]["flows"] > 0
    sent = re.search(r"(\d+) packets and (\d+) of Templates, (\d+) flows, (\d+) octets", generate.end())
    datagrams, flows = int(sent[1]) + int(sent[2]), int(sent[3])
    export.end()
    collect.end()
    rows = [json.loads(line) for line in collect.output().splitlines()]
    assert sum(row["flow_type"] == "NETFLOW_V9" for row in rows) == flows
    carried = [row for row in rows if row["flow_type"] == "IPFIX" and row.get("dst_port") == 9995]
    assert {(row["src_addr"], row["dst_addr"]) for row in carried} == {("192.168.57.10", COLLECTOR)}
    assert sum(row["packets"] for row in carried) == datagrams
    assert sum(row["bytes"] for row in carried) == int(sent[4]) + datagrams * 28  # headers of IP and UDP
