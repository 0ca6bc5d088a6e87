"""``pyflowx export`` as a process on a real link, its Messages over a real socket; totals against the kernel's own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pyflowx.batch import Datagrams
from pyflowx.exporting import ExportConfig, Exporter, SessionCounts
from pyflowx.flowtable import EndReason
from pyflowx.kernel import Meter, MeterConfig
from pyflowx.transport.udp import UdpReceiver, UdpSender
from pyflowx.wire import Decoder

spec = importlib.util.spec_from_file_location("demo", Path(__file__).parents[1] / "demo.py")
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)

pytestmark = pytest.mark.kernel

HERE, THERE, PORT = demo.HERE, demo.THERE, 4739
COLLECTOR = "198.51.100.2"


@pytest.fixture
def stack():
    """What a test starts ends in the reverse order, whatever happens; the two namespaces of the demo."""
    with contextlib.ExitStack() as stack:
        stack.callback(demo.clean_up)
        demo.build()
        yield stack


class Collector:
    """Keeps the records that arrive, as FlowBatches, and what the decoder had to complain of."""

    def __init__(self, stack, host=COLLECTOR):
        with demo.inside(THERE):
            self.receiver = UdpReceiver([(host, PORT)], recv_buffer=1 << 26)
        self.decoder, self.batches, self.options, self.problems, self.datagrams = Decoder(), [], [], [], 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()
        stack.callback(self.end)

    def work(self):
        while not self.done.is_set() or self.take():
            self.take()

    def take(self):
        packets = self.receiver.receive(0.05)
        if packets is None:
            return False
        results, problems = self.decoder.decode(packets, time.time_ns())
        for batch in (batch for result in results for batch in result.flows):
            (self.options if batch.scope_count else self.batches).append(batch)
        self.problems += problems.tolist()
        self.datagrams += len(packets)
        return True

    def end(self):
        """All that was sent is decoded; the exporter has ended."""
        self.done.set()
        self.thread.join()
        dropped = self.receiver.dropped
        self.receiver.close()
        assert dropped == 0
        assert self.problems == []

    def total(self, name):
        return sum(int(batch.column(name).sum()) for batch in self.batches)

    def per_port(self, interface):
        """UDP destination port -> packets of the records that have ``interface``; their size is the same in all."""
        packets, sizes = Counter(), set()
        for batch in self.batches:
            names = {specifier.element.name for specifier in batch.fields}
            if not {interface, "destinationTransportPort"} <= names or "tcpControlBits" in names:
                continue
            count, octets = batch.column("packetDeltaCount"), batch.column("octetDeltaCount")
            sizes |= set((octets / count).tolist())
            for port, n in zip(batch.column("destinationTransportPort").tolist(), count.tolist(), strict=True):
                packets[port] += n
        return packets, sizes


def export(stack, *options, links=("wire",)):
    """The exporter, attached."""
    arguments = [word for link in links for word in ("-i", link)]
    program = demo.Program(HERE, "export", *arguments, "-H", COLLECTOR, "-p", str(PORT), *options)
    stack.callback(program.kill)
    program.wait_for("metering")
    return program


def summary(program):
    """The numbers of each of the summary's lines, by its first word."""
    return {line.split()[1].strip(":"): [int(n) for n in re.findall(r"\d+", line)] for line in program.messages}


def attached(namespace=HERE):
    """What is attached to the links of the namespace: programs and clsact qdiscs."""
    links = json.loads(demo.run("ip", "-n", namespace, "-d", "-j", "link", "show"))
    qdiscs = json.loads(demo.run("tc", "-n", namespace, "-j", "qdisc", "show"))
    return [link["xdp"] for link in links if "xdp" in link] + [q for q in qdiscs if q["kind"] == "clsact"]


def listen(stack, namespace, host, ports):
    """Somebody who takes the packets, so that no ICMP says otherwise."""
    for port in ports:
        with demo.inside(namespace):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind((host, port))


def talk(stack, namespace, host, ports):
    with demo.inside(namespace):
        return stack.enter_context(UdpSender([(host, port) for port in ports]))


def payloads(size, count):
    return Datagrams(np.zeros((count, size), np.uint8), np.full(count, size, np.int32))


def statistics(namespace):
    (link,) = json.loads(demo.run("ip", "-n", namespace, "-s", "-j", "link", "show", "dev", "wire"))
    return link["stats64"]


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
    assert len(attached()) == 2  # XDP and clsact
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
    assert len(attached()) == 2
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


def run_export(*words, prefix=()):
    return subprocess.run(
        [*prefix, sys.executable, "-m", "pyflowx", "export", *words], capture_output=True, text=True, check=False
    )


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


def nfdump_totals(folder):
    """Packets and octets of the files that nfcapd wrote."""
    out = demo.run("nfdump", "-R", str(folder), "-q", "-N", "-o", "fmt:%pkt,%byt")
    rows = [line.split(",") for line in out.splitlines() if line.strip()]
    return sum(int(packets) for packets, _ in rows), sum(int(octets) for _, octets in rows)


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come up"
        time.sleep(0.05)


def start(stack, *words):
    """A program in the collector's namespace, ended with SIGTERM by the function that comes back."""
    command = ["nsenter", f"--net=/run/netns/{THERE}", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end():
        if process.poll() is None:
            process.terminate()
        return process.communicate()

    stack.callback(end)
    return end


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
    assert not re.search("Malformed|Expert Info|Unknown|No template", seen), seen
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
