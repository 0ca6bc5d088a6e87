"""``pyflowx export`` as a process on a real link, its Messages over a real socket; totals against the kernel's own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import demo
import pytest
from attached import TC
from exports import (
    COLLECTOR,
    HERE,
    PORT,
    THERE,
    Collector,
    attached,
    export,
    listen,
    nfdump_totals,
    payloads,
    run_export,
    start,
    statistics,
    summary,
    talk,
    wait_until,
)

from pyflowx.exporting import ExportConfig, Exporter, SessionCounts
from pyflowx.flowtable import EndReason
from pyflowx.kernel import Meter, MeterConfig

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_totals_are_equal_over_a_million_packets_while_the_maps_swap(stack, hook):
    collector = Collector(stack)
    program = export(stack, "--hook", hook, "--active-timeout", "2", "--inactive-timeout", "1")
    demo.link_up()
    ports, size = range(5000, 5200), 100
    listen(stack, HERE, "192.0.2.1", ports)
    listen(stack, THERE, "192.0.2.2", ports)
    senders = [talk(stack, THERE, "192.0.2.1", ports), talk(stack, HERE, "192.0.2.2", ports)]
    for _ in range(50):
        for sender in senders:
            sender.send(payloads(size, 50))
        time.sleep(0.05)  # over more ticks
    demo.link_down()
    assert sum(count.sent for sender in senders for count in sender.counts) == 1_000_000
    program.end()
    collector.end()
    link = statistics(HERE)
    lost = link["tx"]["dropped"]  # metered, but the other end had no room
    packets = link["rx"]["packets"] + link["tx"]["packets"] + lost
    octets = link["rx"]["bytes"] + link["tx"]["bytes"] + lost * (size + 42)
    octets += 14 * link["rx"]["packets"] * (hook == "xdp")  # veth leaves out the Ethernet header then
    lines = summary(program)
    assert packets > 900_000
    assert lines["metered"] == [packets, octets - 14 * packets, octets, 2]
    assert collector.total("packetDeltaCount") == packets
    assert collector.total("octetDeltaCount") == octets - 14 * packets
    assert collector.total("layer2OctetDeltaCount") == octets
    sent, sizes = collector.per_port("egressInterface")
    assert (sent, sizes) == (dict.fromkeys(ports, 2500), {size + 28})
    received, sizes = collector.per_port("ingressInterface")
    assert received.total() == 500_000 - statistics(THERE)["tx"]["dropped"]
    assert sizes == {size + 28}
    assert lines["exported"][0] == sum(map(len, collector.batches))
    assert lines["sent"][0] == collector.datagrams
    assert "slow" not in lines
    assert attached() == []


def test_the_end_sends_every_flow_and_detaches(stack):
    collector = Collector(stack)
    program = export(stack, "--hook", "xdp")
    demo.link_up()
    listen(stack, HERE, "192.0.2.1", [5000])
    assert len(attached()) == 2  # XDP, and TC for egress
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(10, 7))
    program.end()
    collector.end()
    received, _ = collector.per_port("ingressInterface")
    assert received == {5000: 7}
    reasons = {reason for batch in collector.batches for reason in batch.column("flowEndReason").tolist()}
    assert reasons == {EndReason.FORCED_END}
    assert attached() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_and_nothing_stays(stack, number):
    program = export(stack)
    program.process.send_signal(signal.SIGSTOP)  # so that both wait for it together
    program.process.send_signal(signal.SIGINT)
    program.process.send_signal(signal.SIGTERM)
    program.process.send_signal(signal.SIGCONT)
    assert program.process.wait(20) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert attached() == []


@pytest.mark.parametrize("host", ["192.0.2.2", "2001:db8::2"])
def test_our_own_messages_are_left_out(stack, host):
    """The collector is on the link that is metered."""
    demo.link_up()
    collector = Collector(stack, host)
    program = demo.Program(HERE, "export", "-i", "wire", "-H", host, "-p", str(PORT), "--inactive-timeout", "1")
    stack.callback(program.kill)
    program.wait_for("metering")
    listen(stack, HERE, "192.0.2.1", [5000])
    sender = talk(stack, THERE, "192.0.2.1", [5000])
    for _ in range(3):
        sender.send(payloads(10, 3))
        time.sleep(2.2)
    sender.send(payloads(10, 3))  # goes out when it has detached
    program.end()
    collector.end()
    assert collector.per_port("egressInterface")[0][PORT] == 0
    assert collector.per_port("ingressInterface")[0] == {5000: 12}
    (own,) = [line for line in program.messages if "own export" in line]
    assert 0 < int(re.findall(r"\d+", own)[0]) < collector.datagrams


def test_a_full_map_loses_no_packet(stack):
    """1,000 flows, room for 100: most packets have no flow of their own, and are all told of."""
    collector = Collector(stack)
    program = export(stack, "--max-flows", "100", "--hook", "tc")
    demo.link_up()
    ports = range(5000, 6000)
    sender = talk(stack, HERE, "192.0.2.2", ports)
    listen(stack, THERE, "192.0.2.2", ports)
    for _ in range(4):
        sender.send(payloads(50, 2))
        time.sleep(0.6)
    demo.link_down()
    program.end()
    collector.end()
    link = statistics(HERE)
    assert link["tx"]["packets"] > 8000
    assert collector.total("packetDeltaCount") == link["rx"]["packets"] + link["tx"]["packets"]
    assert collector.total("layer2OctetDeltaCount") == link["rx"]["bytes"] + link["tx"]["bytes"]
    reasons = Counter(r for batch in collector.batches for r in batch.column("flowEndReason").tolist())
    assert reasons[EndReason.LACK_OF_RESOURCES] > 1
    assert any("map full: " in line for line in program.messages)


def test_nothing_stays_attached_after_an_exception(stack):
    class Broken:
        counts = SessionCounts()

        def send(self, flows, options, tick):
            raise RuntimeError("a fault of ours")

        def close(self):
            pass

    def session():
        with (
            demo.inside(HERE),
            Meter(MeterConfig(["wire"], hook="xdp")) as meter,
            Exporter(meter, [Broken()], ExportConfig(inactive_timeout=1e-6)) as exporter,
        ):
            exporter.start()
            assert len(attached()) == 2
            demo.link_up()
            wait_until(lambda: statistics(HERE)["tx"]["packets"])
            exporter.tick()

    with pytest.raises(RuntimeError, match="a fault"):
        session()
    assert attached() == []


def test_after_a_kill_the_next_one_takes_over(stack):
    killed = export(stack, "--hook", "xdp")
    killed.process.kill()
    killed.process.wait()
    assert len(attached()) == (1 if TC == "tcx" else 2)
    program = export(stack, "--hook", "xdp")
    program.end()
    assert attached() == []


def test_several_interfaces_and_one_direction(stack):
    collector = Collector(stack)
    program = export(stack, "-i", "lo", "--direction", "ingress", "--hook", "tc")
    demo.link_up()
    listen(stack, HERE, "192.0.2.1", [5000])
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(10, 3))
    demo.run("ip", "-n", HERE, "link", "set", "lo", "up")
    with demo.inside(HERE):
        indexes = {name: index for index, name in socket.if_nameindex()}
    talk(stack, HERE, "192.0.2.1", [5000]).send(payloads(10, 4))  # an address of its own: over lo
    program.end()
    collector.end()
    assert collector.per_port("egressInterface")[0] == {}
    seen = Counter()
    for batch in collector.batches:
        interfaces, packets = batch.column("ingressInterface").tolist(), batch.column("packetDeltaCount").tolist()
        for index, n in zip(interfaces, packets, strict=True):
            seen[index] += n
    assert (seen[indexes["lo"]], seen[indexes["wire"]] >= 3) == (4, True)


def test_an_interface_that_does_not_exist():
    done = run_export("-i", "nosuch0")
    assert done.returncode == 2
    assert "nosuch0" in done.stderr
    assert "lo" in done.stderr.split("this host has")[1]


def test_a_collector_that_does_not_resolve():
    done = run_export("-H", "no such host")
    assert done.returncode == 2
    assert "--collector-host" in done.stderr


def test_without_privilege_it_says_sudo():
    done = run_export("-i", "lo", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"))
    assert done.returncode == 3
    assert "sudo" in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_listens_is_counted_and_does_not_stop_it(stack):
    program = export(stack, "--inactive-timeout", "1")
    demo.link_up()
    sender = talk(stack, THERE, "192.0.2.1", [5000])
    for _ in range(3):
        sender.send(payloads(10, 3))
        time.sleep(2.2)
    program.end()
    assert any("unheard" in line for line in program.messages)
    assert attached() == []


def test_nfcapd_and_tshark_read_all_of_it(stack, tmp_path):
    flows = tmp_path / "flows"
    flows.mkdir()
    end_nfcapd = start(stack, "nfcapd", "-w", str(flows), "-p", str(PORT), "-b", COLLECTOR, "-t", "3600")
    capture = tmp_path / "export.pcap"
    end_tcpdump = start(
        stack, "tcpdump", "--immediate-mode", "-i", "mgmt", "-U", "-w", str(capture), "udp", "port", str(PORT)
    )
    wait_until(lambda: f":{PORT}" in demo.run("nsenter", f"--net=/run/netns/{THERE}", "ss", "-lunH"))
    wait_until(lambda: capture.exists())
    program = export(stack, "--inactive-timeout", "1", "--template-refresh-rate", "2")
    demo.link_up()
    demo.ROUNDS = 6
    demo.traffic()
    demo.run("nsenter", f"--net=/run/netns/{HERE}", "ping", "-c", "3", "-i", "0.2", "192.0.2.2")
    demo.run("nsenter", f"--net=/run/netns/{HERE}", "ping", "-6", "-c", "3", "-i", "0.2", "2001:db8::2")
    program.end()
    time.sleep(0.5)
    nfcapd_says = b"".join(end_nfcapd()).decode()
    end_tcpdump()
    metered = summary(program)["metered"][:2]
    assert list(nfdump_totals(flows)) == metered
    # nfdump does not count options records, which are Data Records too (RFC 7011 §3.1): one surprise a refresh.
    surprises = int(re.search(r"Sequence Errors: (\d+)", nfcapd_says)[1])
    assert surprises <= summary(program)["sent"][1]
    complaints = re.sub(r"Sequence Errors: \d+", "", nfcapd_says)
    assert not re.search("error|unknown|sequence", complaints, re.IGNORECASE), nfcapd_says
    seen = demo.run("tshark", "-V", "-r", str(capture), "-d", f"udp.port=={PORT},cflow")
    assert not re.search("Malformed|Expert Info|No template", seen), seen
    # ipv6ExtensionHeadersFull (RFC 9740) and Cisco's tcpMaximumSegmentSize are younger than tshark 4.0.
    assert set(re.findall(r"Unknown ?\(?(\d*)", seen)) <= {"515", "4318"}, seen
    assert sum(int(n) for n in re.findall(r"Packets: (\d+)", seen)) == metered[0]
    assert sum(int(n) for n in re.findall(r"Octets: (\d+)", seen)) == metered[1]


def test_the_demo_cleans_up_on_control_c():
    process = subprocess.Popen(
        [sys.executable, demo.__file__],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = ""
    while "traffic " not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    assert f"pyflowx-demo-{process.pid}-a" in demo.run("ip", "netns", "list")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert f"pyflowx-demo-{process.pid}-" not in demo.run("ip", "netns", "list")
