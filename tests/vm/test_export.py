"""The exporter on virtio_net: what it counts is what the interface counts, whatever happens to the interface."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.vm

COLLECTOR = "192.168.58.30"
EXPORT = f"pyflowx export -i eth1 -H {COLLECTOR} -p 4739 --active-timeout 5 --inactive-timeout 2"
CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF = 12, 38, 39
CAPABILITIES = 1 << CAP_NET_ADMIN | 1 << CAP_PERFMON | 1 << CAP_BPF


def counters(machine, link="eth1"):
    """Packets and octets, with Ethernet headers, that the interface has received and sent."""
    (found,) = json.loads(machine.run(f"ip -s -j link show dev {link}"))
    stats = found["stats64"]
    return tuple(stats["rx"][name] + stats["tx"][name] for name in ("packets", "bytes"))


def metered(messages):
    """Of a summary: packets, octets and octets on layer 2 in flows; packets and octets of frames that are not IP."""
    flows = re.search(r"metered (\d+) packets?, (\d+) IP octets, (\d+) octets", messages)
    others = re.search(r"left out not ip: (\d+) packets?, (\d+) octets", messages)
    return [int(n) for n in flows.groups()], [int(n) for n in others.groups()] if others else [0, 0]


def collected(collect):
    """Packets and octets of the flows that a collector has written."""
    flows = [json.loads(line) for line in collect.output().splitlines()]
    assert all(flow["sampler_address"] == "192.168.58.20" for flow in flows)
    return [sum(flow["packets"] for flow in flows), sum(flow["bytes"] for flow in flows)]


def attached(machine):
    """The hooks that anything is at; what is at TCX a process has as a descriptor."""
    (link,) = json.loads(machine.run("ip -d -j link show dev eth1"))
    tcx = machine.run("grep -ls 'link_type:.*tcx' /proc/[0-9]*/fdinfo/* || true")
    found = {"xdp": "xdp" in link, "tcx": tcx, "tc": "clsact" in machine.run("tc qdisc show dev eth1")}
    return {hook for hook, there in found.items() if there}


@pytest.fixture
def tc(expected):
    """The hook that TC is on this kernel."""
    return "tcx" if expected["programs at TCX"] else "tc"


@pytest.fixture
def wire(generator, exporter):
    """Both ends of the metered link send packets as they are counted: one segment each, nothing by themselves. It is up
    again when a scenario ends."""
    for machine in (generator, exporter):
        machine.run("ethtool -K eth1 tso off gso off gro off; sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1")
    yield
    exporter.execute("ip link set eth1 up")


def traffic(generator, exporter):
    """TCP, UDP and ICMP, to the exporter and through it."""
    exporter.run("iperf3 -s -D -1 > /dev/null")
    # twice what is looked for: iperf3 drops what is still on its way when the client ends
    generator.run("iperf3 -c 192.168.57.20 -n 8M --connect-timeout 9000")
    exporter.run("iperf3 -s -D -1 > /dev/null")
    generator.run("iperf3 -u -b 1M -l 400 -n 400K -c 192.168.57.20")
    generator.run(f"ping -q -i 0.2 -c 10 -s 1000 {COLLECTOR}")


@pytest.mark.needs("programs at XDP", "programs at TC")
def test_native_xdp_and_tc_count_what_the_interface_counts(wire, generator, exporter, collector, tc):
    collect = collector.start("collect", f"pyflowx collect -H {COLLECTOR} -p 4739 -f common")
    exporter.run("ip link set eth1 down")
    export = exporter.start("export", EXPORT)
    export.wait_for(f"metering eth1 egress ({tc})")
    export.wait_for("metering eth1 ingress (xdp)")  # xdp-generic is what a driver without it gets
    collect.wait_for("listening on .* UDP port 4739")
    assert attached(exporter) == {"xdp", tc}
    before = counters(exporter)
    exporter.run("ip link set eth1 up")
    traffic(generator, exporter)
    exporter.run("ip link set eth1 down")
    after = counters(exporter)
    (packets, octets, frames), others = metered(export.end())
    exporter.run("ip link set eth1 up")
    collect.end()
    assert (packets + others[0], frames + others[1]) == tuple(b - a for a, b in zip(before, after, strict=True))
    assert packets > 4000
    assert collected(collect) == [packets, octets]
    assert attached(exporter) == set()


def test_an_interface_that_goes_down_or_away_is_metered_when_it_is_back(wire, generator, exporter, collector):
    collect = collector.start("collect", f"pyflowx collect -H {COLLECTOR} -p 4739 -f common")
    export = exporter.start("export", EXPORT)
    export.wait_for("metering eth1 egress")
    collect.wait_for("listening on .* UDP port 4739")
    ping = f"ping -q -i 0.2 -c 10 -w 30 {COLLECTOR}"
    generator.run(ping)
    exporter.run("ip link set eth1 down; sleep 1; ip link set eth1 up")
    generator.run(ping)
    device = exporter.run("basename $(readlink /sys/class/net/eth1/device)").strip()
    exporter.run(f"echo {device} > /sys/bus/virtio/drivers/virtio_net/unbind")
    export.wait_for("eth1 is gone")
    exporter.run(f"echo {device} > /sys/bus/virtio/drivers/virtio_net/bind")
    exporter.run("ip address replace 192.168.57.20/24 dev eth1; ip link set eth1 up")
    export.wait_for("eth1 is back")
    generator.run(ping)
    export.end()
    collect.end()
    flows = [json.loads(line) for line in collect.output().splitlines()]
    asked = [flow for flow in flows if flow["proto"] == 1 and flow["src_addr"] == "192.168.57.10"]
    assert sum(flow["packets"] for flow in asked) == 30
    assert attached(exporter) == set()


def test_the_service_has_three_capabilities_and_no_more(wire, generator, exporter, collector):
    collect = collector.start("collect", f"pyflowx collect -H {COLLECTOR} -p 4739 -f common")
    collect.wait_for("listening on .* UDP port 4739")
    options = f'interface = ["eth1"]\ncollector-host = "{COLLECTOR}"\ncollector-port = 4739\ninactive-timeout = 2\n'
    exporter.put("/etc/pyflowx/pyflowx.toml", f"[export]\n{options}".encode())
    exporter.start_service("pyflowx-export")
    pid = exporter.run("systemctl show -P MainPID pyflowx-export").strip()
    status = dict(line.split(":\t", 1) for line in exporter.run(f"cat /proc/{pid}/status").splitlines())
    sets = {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")}
    assert sets.pop("CapInh") == sets.pop("CapAmb") == 0
    assert set(sets.values()) == {CAPABILITIES}
    assert "0" not in status["Uid"].split()
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    generator.run(f"ping -q -i 0.2 -c 5 {COLLECTOR}")
    exporter.run("systemctl stop pyflowx-export")
    assert exporter.run("systemctl show -P Result pyflowx-export").strip() == "success"
    collect.end()
    flows = [json.loads(line) for line in collect.output().splitlines()]
    assert sum(f["packets"] for f in flows if f["proto"] == 1 and f["src_addr"] == "192.168.57.10") == 5
    assert attached(exporter) == set()
