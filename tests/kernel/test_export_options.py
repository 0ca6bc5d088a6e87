"""The options of ``pyflowx export``, each as a process on a real link: totals against what was metered."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import demo
import numpy as np
import pytest
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
    summary,
    talk,
    wait_until,
)
from frames import udp_frame

from pyflowx.batch import PacketBatch
from pyflowx.flowtable import EndReason
from pyflowx.privileges import needed
from pyflowx.wire import Decoder

pytestmark = pytest.mark.kernel


def traffic(stack, rounds=4):
    """Some of everything: TCP connections that end, UDP, IPv4 and IPv6."""
    demo.link_up()
    demo.ROUNDS = rounds
    demo.traffic()


def totals(*batches):
    """Packets and octets, both directions of biflows."""
    found = [0, 0]
    for batch in batches:
        for at, id in enumerate((2, 1)):
            for pen in (0, 29305):
                column = batch.find(pen, id)
                found[at] += 0 if column is None else int(column.sum())
    return found


def test_each_collector_gets_all(stack):
    demo.run("ip", "-n", THERE, "address", "add", "198.51.100.3/24", "dev", "mgmt")
    demo.run("ip", "-n", THERE, "address", "add", "2001:db8:9::3/64", "dev", "mgmt", "nodad")
    demo.run("ip", "-n", HERE, "address", "add", "2001:db8:9::1/64", "dev", "mgmt", "nodad")
    hosts = [COLLECTOR, "198.51.100.3", "2001:db8:9::3"]
    collectors = [Collector(stack, host) for host in hosts]
    program = export(stack, *(word for host in hosts[1:] for word in ("-H", host)))
    traffic(stack)
    program.end()
    for collector in collectors:
        collector.end()
        assert totals(*collector.batches) == summary(program)["metered"][:2]
        assert totals(*collector.batches)[0] > 1000
        names = [name.rstrip(b"\0") for b in collector.options if b.find(0, 82) for name in b.find(0, 82).tolist()]
        assert set(names) == {b"wire"}


@pytest.mark.parametrize("protocol", ["netflow9", "netflow5"])
def test_older_protocols(stack, protocol):
    collector = Collector(stack)
    program = export(stack, "--protocol", protocol, "--inactive-timeout", "1")
    traffic(stack)
    program.end()
    collector.end()
    refused = summary(program).get("refused", [0, 0])[1]
    assert (refused > 100) == (protocol == "netflow5")  # IPv6
    assert totals(*collector.batches)[0] == summary(program)["metered"][0] - refused
    if protocol == "netflow9":
        assert any(batch.find(0, 82) is not None for batch in collector.options)
    clock = time.time_ns()
    for batch in collector.batches:  # uptimes, that a header makes times of
        assert (batch.column("flowEndSysUpTime") >= batch.column("flowStartSysUpTime")).all()
        assert abs(int(batch.column("flowEndSysUpTime")[0]) / 1e3 - (time.monotonic() % 2**32)) < 60
    assert clock


class TcpCollector:
    """Accepts one connection after the other; the octets of each."""

    def __init__(self, stack):
        with demo.inside(THERE):
            self.server = stack.enter_context(socket.create_server((COLLECTOR, PORT)))
        self.streams, self.connections = [], []
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while True:
            connection, _ = self.server.accept()
            self.connections.append(connection)
            self.streams.append(bytearray())
            threading.Thread(target=self.read, args=(connection, self.streams[-1]), daemon=True).start()

    def read(self, connection, stream):
        try:
            while part := connection.recv(1 << 16):
                stream += part
        except OSError:
            pass
        connection.close()

    def batches(self):
        """Each stream is a Transport Session of its own."""
        found = []
        for stream in self.streams:
            octets, messages = bytes(stream), []
            while octets:
                length = int.from_bytes(octets[2:4], "big")
                messages.append(octets[:length])
                octets = octets[length:]
            results, problems = Decoder().decode(PacketBatch.of(messages), 0)
            assert problems.tolist() == []
            found += [batch for result in results for batch in result.flows]
        return found


def test_tcp_and_a_connection_that_breaks(stack):
    collector = TcpCollector(stack)
    program = export(stack, "--transport", "tcp", "--inactive-timeout", "1")
    traffic(stack)
    wait_until(lambda: collector.streams)
    time.sleep(2.5)  # what has ended is there
    collector.connections[0].shutdown(socket.SHUT_RDWR)
    listen(stack, HERE, "192.0.2.1", [5000])
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(10, 30))
    program.end()
    wait_until(lambda: totals(*collector.batches()) == summary(program)["metered"][:2])
    assert len(collector.streams) == 2
    assert any("unheard: 1 report" in line for line in program.messages)
    for stream in collector.streams:
        (result,), _ = Decoder().decode(PacketBatch.of([bytes(stream)[: int.from_bytes(stream[2:4], "big")]]), 0)
        assert result.messages.sequence_number.tolist() == [0]


def test_a_collector_that_starts_late_can_read_all_from_then_on(stack):
    program = export(stack, "--inactive-timeout", "1", "--template-refresh-rate", "3600")
    demo.link_up()
    sender = talk(stack, THERE, "192.0.2.1", [5000])
    listen(stack, HERE, "192.0.2.1", [5000])
    sender.send(payloads(10, 3))
    wait_until(lambda: "sent" in program.messages or time.sleep(4) is None)
    collector = Collector(stack)
    sender.send(payloads(10, 4))
    program.end()
    collector.end()
    assert collector.per_port("ingressInterface")[0][5000] == 4
    assert any("unheard" in line for line in program.messages)


def test_dry_run_prints_flows(stack):
    program = export(stack, "--dry-run", "--inactive-timeout", "1")
    traffic(stack)
    program.end()
    metered = summary(program)["metered"]
    assert [sum(flow["packets"] for flow in program.flows), sum(flow["bytes"] for flow in program.flows)] == metered[:2]
    assert "sent" not in summary(program)
    assert {"src_addr", "proto", "src_mac", "time_flow_start_ns"} <= set(program.flows[0])


def test_dry_run_ends_with_its_reader(stack):
    command = ["nsenter", f"--net=/run/netns/{HERE}", sys.executable, "-m", "pyflowx", "export", "-i", "wire"]
    process = subprocess.Popen([*command, "--dry-run", "--inactive-timeout", "1"], stdout=subprocess.PIPE)
    stack.callback(process.kill)
    stack.callback(process.stdout.close)
    demo.link_up()
    wait_until(attached)
    ports = range(5000, 5040)
    listen(stack, HERE, "192.0.2.1", ports)
    for port in ports:  # a flow each; the first may come before all programs are attached
        talk(stack, THERE, "192.0.2.1", [port]).send(payloads(10, 3))
        if process.poll() is not None:
            break
        if not process.stdout.closed and select.select([process.stdout], [], [], 0)[0]:
            assert process.stdout.readline()
            process.stdout.close()
        time.sleep(0.5)
    assert process.returncode == 0
    assert attached() == []


@pytest.mark.parametrize("user", [(), ("--user", "nobody")])
def test_privileges_are_given_up_and_it_still_drains_and_detaches(stack, user):
    collector = Collector(stack)
    program = export(stack, "--hook", "xdp", *user)
    pid = program.process.pid

    def tasks():
        for task in Path(f"/proc/{pid}/task").iterdir():
            with open(task / "status") as lines:
                yield dict(line.rstrip("\n").split(":", 1) for line in lines)

    wait_until(lambda: all(task["NoNewPrivs"].strip() == "1" for task in tasks()))
    for task in tasks():
        assert {int(task[name], 16) for name in ("CapPrm", "CapEff")} == {needed()}
        assert set(task["Uid"].split()) == {"65534" if user else "0"}
    assert os.geteuid() == 0
    traffic(stack, 2)
    program.end()
    collector.end()
    assert totals(*collector.batches) == summary(program)["metered"][:2]
    assert attached() == []


def test_connections_end_when_both_sides_have_closed(stack):
    collector = Collector(stack)
    program = export(stack)  # timeouts of 60 and 15 s
    traffic(stack, 2)
    wait_until(lambda: "tcpControlBits" in str([batch.fields for batch in collector.batches]))
    time.sleep(1.5)
    program.end()
    collector.end()
    reasons = Counter()
    for batch in collector.batches:
        protocols = batch.column("protocolIdentifier").tolist()
        reasons.update(zip(protocols, batch.column("flowEndReason").tolist(), strict=True))
    assert reasons[6, EndReason.END_OF_FLOW] == reasons[17, EndReason.FORCED_END] == 12
    assert reasons[6, EndReason.FORCED_END] == reasons[17, EndReason.END_OF_FLOW] == 0


def test_biflows(stack):
    collector = Collector(stack)
    program = export(stack, "--biflow", "--time-unit", "ns")
    traffic(stack, 3)
    program.end()
    collector.end()
    assert totals(*collector.batches) == summary(program)["metered"][:2]
    assert summary(program)["exported"][0] == sum(map(len, collector.batches))
    pairs = [batch for batch in collector.batches if batch.find(0, 7) is not None]
    assert sum(map(len, pairs)) == 12
    for batch in pairs:
        assert set(batch.column("biflowDirection").tolist()) == {1}
        assert set(batch.column("destinationTransportPort").tolist()) <= {80, 53}  # who asked is the source
        start, back = batch.column("flowStartNanoseconds"), batch.column("reverseFlowStartNanoseconds")
        assert (start <= back).all()
        assert (np.asarray(batch.column("reversePacketDeltaCount")) > 0).all()


def test_each_packet_is_timed_for_nanoseconds(stack, sender):
    """Not by the last reading of the clock and a nanosecond more, as is enough for milliseconds."""
    collector = Collector(stack)
    program = export(stack, "--time-unit", "ns", "--direction", "ingress")
    demo.link_up()
    with demo.inside(THERE):
        sender([udp_frame(number) for number in range(1, 2001)], "wire").send()
    program.end()
    collector.end()
    batches = [batch for batch in collector.batches if batch.find(0, 7) is not None]
    starts = np.sort(np.concatenate([batch.column("flowStartNanoseconds").astype(np.int64) for batch in batches]))
    assert len(starts) >= 2000 and (np.diff(starts) > 5).all()  # 2**-32 s: some four are a nanosecond


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--protocol", "netflow9", "--transport", "tcp"), "--transport tcp"),
        (("--protocol", "netflow5", "--biflow"), "--biflow"),
        (("--protocol", "netflow5", "--time-unit", "ns"), "--time-unit"),
        (("--protocol", "netflow5", "--observation-domain-id", "70000"), "--observation-domain-id"),
        (("--user", "no-such-user"), "--user"),
        (("--clip-length", "64"), "--clip-length"),
        (("--sampling-random",), "--sampling-random"),
        (("--mode", "packet", "--max-flows", "100"), "--max-flows"),
    ],
)
def test_combinations_that_mean_nothing(words, option):
    done = run_export(*words)
    assert done.returncode == 2
    assert option in done.stderr
    assert "Traceback" not in done.stderr


def test_nfcapd_reads_netflow9(stack, tmp_path):
    end_nfcapd = start(stack, "nfcapd", "-w", str(tmp_path), "-p", str(PORT), "-b", COLLECTOR, "-t", "3600")
    wait_until(lambda: f":{PORT}" in demo.run("nsenter", f"--net=/run/netns/{THERE}", "ss", "-lunH"))
    program = export(stack, "--protocol", "netflow9", "--inactive-timeout", "1")
    traffic(stack)
    program.end()
    time.sleep(0.5)
    said = b"".join(end_nfcapd()).decode()
    assert list(nfdump_totals(tmp_path)) == summary(program)["metered"][:2]
    assert not re.search("error|unknown", said.replace("Sequence Errors: 0", ""), re.IGNORECASE), said


def left_out(program, why):
    """Packets that the summary says were left out for a reason."""
    found = [re.search(rf"left out {why}: (\d+) packet", line) for line in program.messages]
    return sum(int(match[1]) for match in found if match)


def test_a_filter(stack):
    collector = Collector(stack)
    program = export(stack, "--filter", "udp and dst port 5001")
    demo.link_up()
    listen(stack, HERE, "192.0.2.1", [5000, 5001])
    talk(stack, THERE, "192.0.2.1", [5000, 5001]).send(payloads(10, 7))
    program.end()
    collector.end()
    assert collector.per_port("ingressInterface")[0] == {5001: 7}
    assert left_out(program, "filtered") >= 7


@pytest.mark.parametrize("way", [(), ("--sampling-random",)])
def test_sampling_is_told_and_not_scaled(stack, way):
    collector = Collector(stack)
    program = export(stack, "--sampling-packet-interval", "10", *way)
    demo.link_up()
    listen(stack, HERE, "192.0.2.1", [5000])
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(10, 20_000))
    program.end()
    collector.end()
    (metered, _, _, _) = summary(program)["metered"]
    assert 1500 < metered < 2500
    assert totals(*collector.batches)[0] == metered
    assert 15_000 < left_out(program, "not selected") < 25_000
    assert all(set(batch.column("selectorId").tolist()) == {1} for batch in collector.batches)
    told = [batch for batch in collector.options if batch.find(0, 304) is not None]
    names = {field.element.name for batch in told for field in batch.fields}
    assert names == {"selectorId", "selectorAlgorithm"} | (
        {"samplingProbability"} if way else {"samplingPacketInterval", "samplingPacketSpace"}
    )


def test_a_dry_run_knows_the_sampling_rate(stack):
    program = export(stack, "--sampling-packet-interval", "10", "--dry-run")
    demo.link_up()
    listen(stack, HERE, "192.0.2.1", [5000])
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(10, 1000))
    program.end()
    assert {flow.get("sampling_rate") for flow in program.flows if flow.get("dst_port") == 5000} == {10}


def test_packets_instead_of_flows(stack):
    collector = Collector(stack)
    program = export(stack, "--mode", "packet", "--clip-length", "60")
    demo.link_up()
    listen(stack, HERE, "192.0.2.1", [5000])
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(100, 50))
    program.end()
    collector.end()
    sections = [section for batch in collector.batches for section in batch.column("dataLinkFrameSection").tolist()]
    ours = [section for section in sections if section[36:38] == (5000).to_bytes(2, "big") and section[23] == 17]
    assert len(ours) == 50
    assert {len(section) for section in ours} == {60}
    sizes = Counter(size for batch in collector.batches for size in batch.column("dataLinkFrameSize").tolist())
    assert sizes[142] == 50
    assert any("packet reports" in line for line in program.messages)
    counts = [
        batch.column("selectorIdTotalPktsSelected") for batch in collector.options if batch.find(0, 319) is not None
    ]
    assert counts


@pytest.mark.parametrize(
    ("level", "flows"), [("ip", {"192.0.2.2"}), ("proto", {("192.0.2.2", 17)}), ("ether", {("192.0.2.2", 17, "x")})]
)
def test_levels_of_the_key(stack, level, flows):
    collector = Collector(stack)
    program = export(stack, "--key", level, "--direction", "ingress")
    demo.link_up()
    ports = range(5000, 5010)
    listen(stack, HERE, "192.0.2.1", ports)
    talk(stack, THERE, "192.0.2.1", ports).send(payloads(10, 3))
    program.end()
    collector.end()
    batches = [batch for batch in collector.batches if batch.find(0, 8) is not None]
    counts = [count for batch in batches for count in batch.column("packetDeltaCount").tolist()]
    assert counts == ([3] * 10 if level == "ether" else [30])
    names = {field.element.name for batch in batches for field in batch.fields}
    assert ("protocolIdentifier" in names) == (level != "ip")
    assert ("destinationTransportPort" in names) == (level == "ether")
    keys = [batch for batch in collector.options if batch.find(0, 173) is not None]
    assert keys == [] or level


def test_an_interface_that_goes_and_comes_back_is_metered_again_without_privileges(stack):
    collector = Collector(stack)
    program = export(stack, "--user", "nobody", "--direction", "ingress")
    demo.link_up()
    listen(stack, HERE, "0.0.0.0", [5000])
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(10, 3))
    demo.run("ip", "-n", HERE, "link", "delete", "wire")
    program.wait_for("is gone")
    demo.run("ip", "-n", HERE, "link", "add", "name", "wire", "type", "veth", "peer", "name", "wire", "netns", THERE)
    for namespace, links in demo.ADDRESSES.items():
        demo.run("ip", "-n", namespace, "link", "set", "dev", "wire", "address", demo.MAC[namespace])
        demo.run("ip", "-n", namespace, "address", "add", links["wire"][0], "dev", "wire")
    program.wait_for("is back")
    demo.link_up()
    talk(stack, THERE, "192.0.2.1", [5000]).send(payloads(10, 4))
    program.end()
    collector.end()
    by_interface = Counter()
    for batch in collector.batches:
        if batch.find(0, 11) is not None:
            rows = zip(
                batch.column("ingressInterface").tolist(), batch.column("packetDeltaCount").tolist(), strict=True
            )
            for index, packets in rows:
                by_interface[index] += packets
    assert sorted(by_interface.values()) == [3, 4]
    named = {
        index for b in collector.options if b.find(0, 82) is not None for index in b.column("ingressInterface").tolist()
    }
    assert named == set(by_interface)
