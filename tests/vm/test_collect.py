"""A collector on a machine of its own, fed over the network."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys

import polars as pl
import pytest
from polars.testing import assert_frame_equal

pytestmark = pytest.mark.vm

COLLECTOR = "192.168.58.30"
# What differs between two runs of the generator with the same seed, or between two ways from it to a collector.
OF_A_RUN = ["time_received_ns", "time_flow_start_ns", "time_flow_end_ns", "sampler_address"]
AF_XDP = pytest.param("--af-xdp", "redirected", marks=pytest.mark.needs("AF_XDP sockets"))
PER_MESSAGE = 10  # flows
SERVICE = """
[collect]
port = 9995
format = "common"
output = "flows.ndjson"
"""


def sent(messages):
    """Flows that a generator sent."""
    return int(re.search(r"(\d+) flows,", messages)[1])


def packets(messages):
    """Datagrams that a generator sent, with those of Templates."""
    found = re.search(r"(\d+) packets(?: and (\d+) of Templates)?, (\d+) flows,", messages)
    return int(found[1]) + int(found[2] or 0)


def parquet(path, feed):
    """What a collector on this host writes of the datagrams that ``feed(port)`` sends it."""
    words = [sys.executable, "-m", "pyflowx"]
    options = ["-H", "127.0.0.1", "-p", "0", "-f", "common", "-s", "parquet", "-o", str(path)]
    with subprocess.Popen([*words, "collect", *options], stderr=subprocess.PIPE, text=True) as collect:
        port = next(m[1] for line in collect.stderr if (m := re.search(r"UDP port (\d+)", line)))
        subprocess.run([*words, "generate", "-H", "127.0.0.1", "-p", port, *feed], check=True, capture_output=True)
        collect.send_signal(signal.SIGTERM)
        collect.communicate()
    return pl.read_parquet(path)


def test_flows_of_a_generator_are_read_back_out_of_parquet(generator, collector, tmp_path):
    feed = ["--seed", "7", "-n", "200", "-r", "100", "-f", "20"]
    options = f"-H {COLLECTOR} -p 9995 -f common -s parquet -o /root/flows.parquet"
    collector.run("rm -f /root/flows.parquet")
    collect = collector.start("collect", f"pyflowx collect {options}")
    collect.wait_for("listening on .* UDP port 9995")
    said = generator.execute(f"pyflowx generate -H {COLLECTOR} -p 9995 {' '.join(feed)}")
    assert said.status == 0 and sent(said.stderr) == 4000
    collect.end()
    there = pl.read_parquet(io.BytesIO(collector.get("/root/flows.parquet")))
    here = parquet(tmp_path / "flows.parquet", feed)
    assert len(there) == 4000
    assert_frame_equal(there.drop(OF_A_RUN), here.drop(OF_A_RUN))
    assert there["sampler_address"].unique().to_list() == ["192.168.57.10"]


def test_a_collector_that_reboots_under_load_misses_only_what_it_counts(generator, exporter, collector):
    collector.put("/etc/pyflowx/pyflowx.toml", SERVICE.encode())
    collector.run("systemctl enable -q pyflowx-collect")
    collector.start_service("pyflowx-collect")
    options = f"-H {COLLECTOR} -p 9995 -r 10 -f {PER_MESSAGE} --template-interval 4"
    generate = generator.start("generate", f"pyflowx generate {options}")
    flows = "/var/lib/pyflowx/flows.ndjson"
    collector.wait_until(f"[ $(wc -l < {flows}) -gt 200 ]")
    collector.reboot()
    collector.wait_until("journalctl -b -q -u pyflowx-collect | grep -q 'listening on'")
    lines = int(collector.run(f"wc -l < {flows}"))
    collector.wait_until(f"[ $(wc -l < {flows}) -gt {lines + 200} ]")
    exporter.run("ip link set eth2 down; sleep 2; ip link set eth2 up")  # now it is there, and misses some
    lines = int(collector.run(f"wc -l < {flows}"))
    collector.wait_until(f"[ $(wc -l < {flows}) -gt {lines + 200} ]")
    total = sent(generate.end())
    collector.run("systemctl stop pyflowx-collect")
    said = collector.run("journalctl -b -q -o cat -u pyflowx-collect")
    missed = int(re.search(r"(\d+) records or packets never came", said)[1])
    rows = [json.loads(line) for line in collector.get(flows).splitlines() if line.endswith(b"}")]
    sequence = [row["sequence_num"] for row in rows]
    before = next(i for i in range(1, len(rows)) if sequence[i] > sequence[i - 1] + PER_MESSAGE)
    first = sequence[before]
    assert first > before > 200  # what came while it was away is in neither
    assert missed > 0
    assert first + len(rows) - before + missed == total


@pytest.mark.needs("programs at XDP")
@pytest.mark.parametrize(("way", "outcome"), [("", "passed"), AF_XDP])
def test_the_gate_lets_in_who_may_send_and_what_is_an_export_message(generator, exporter, collector, way, outcome):
    options = f"-H {COLLECTOR} -p 9995 -f common -s discard --live /run/gate.sock --xdp eth1 --xdp-mode enforce {way}"
    collect = collector.start("collect", f"pyflowx collect {options} --allow 192.168.57.0/24 --rate-limit 100")
    collect.wait_for("gate on eth1 (xdp): drops what is wrong")  # native
    good = f"pyflowx generate -H {COLLECTOR} -p 9995 -f 10 --template-interval 3600"
    allowed = generator.execute(f"{good} -n 100 -r 50").stderr
    foreign = exporter.execute(f"{good} -n 50 -r 100").stderr
    generator.run(f"for i in 1 2 3 4 5 6 7; do echo hello > /dev/udp/{COLLECTOR}/9995; done".join(["bash -c '", "'"]))
    flood = generator.execute(f"{good} -n 600 -r 0").stderr
    found = json.loads(collector.run("pyflowx doctor --json --connect /run/gate.sock"))
    (process,) = found["processes"]
    told = {row["address"]: row for row in process["gate"]["exporters"]}
    assert told["192.168.58.20"]["reasons"] == {"not_allowed": packets(foreign)}
    reasons = told["192.168.57.10"]["reasons"]
    assert reasons["bad_version"] == 7
    assert reasons["rate_limited"] > 0
    assert set(reasons) == {"bad_version", "rate_limited"}
    (link,) = process["gate"]["interfaces"]
    assert link["outcomes"][outcome] == packets(allowed) + packets(flood) - reasons["rate_limited"]
    said = collect.end()
    received = re.search(r"(\d+) datagrams, \d+ octets from 1 exporters received", said)
    assert int(received[1]) == link["outcomes"][outcome]
    assert "xdp" not in json.loads(collector.run("ip -d -j link show dev eth1"))[0]
