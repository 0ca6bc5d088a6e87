"""AF_XDP sockets behind the gate: the same datagrams as by ordinary sockets; what is lost is counted."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from gate_collector import PORT, Collecting, v5
from scapy.layers.inet import IP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from pyflowx.batch import V4_MAPPED
from pyflowx.errors import ConfigError, KernelError
from pyflowx.gateview import GateView
from pyflowx.kernel.gate import GateConfig
from pyflowx.metrics import COLLECTOR
from pyflowx.transport.af_xdp import AfXdpReceiver
from pyflowx.transport.udp import UdpReceiver
from pyflowx.transport.xsk import XskSocket, chunk_octets, frame_octets, open_sockets, receive_queues

pytestmark = pytest.mark.kernel

FRAMES = 4096  # of a socket

ETH = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
V4, V6 = IP(src="10.9.0.2", dst="10.9.0.1"), IPv6(src="fd09::2", dst="fd09::1")


def ipfix(octets, number=0):
    """A message of that many octets, all of them in a Data Set; 16 or at least 20."""
    body = struct.pack(">HH", 256, octets - 16) + random.Random(number).randbytes(octets - 20) if octets > 16 else b""
    return struct.pack(">HHIII", 10, octets, 0, number, 1) + body


class Ways:
    """Gate, AF_XDP sockets and the ordinary ones on the near end of a wire, without a collector around."""

    def __init__(self, wire, gate_class, stack):
        with wire.near:
            chunk = chunk_octets("v")
            self.gate = stack.enter_context(
                gate_class(GateConfig(["v"], enforce=True, redirect=True, frame_length=frame_octets(chunk)))
            )
            self.udp = stack.enter_context(UdpReceiver([("::", PORT)], recv_buffer=8 << 20))
            (at,) = self.gate.attach()
            assert at.hook == "xdp"
            self.sockets = open_sockets("v", at.ifindex, chunk, FRAMES * chunk)
            for each in self.sockets:
                stack.callback(each.close)
                self.gate.redirect("v", each.queue, each.fd)
            self.gate.listen([("::", PORT)])
            self.receiver = AfXdpReceiver(self.udp, self.sockets)

    def receive(self, count):
        """(payload, exporter, port) of that many datagrams in their order; times are checked."""
        found = []
        while len(found) < count:
            batch = self.receiver.receive(None, 0.02)
            found += zip(batch.tolist(), map(bytes, batch.exporter), batch.port.tolist(), strict=True)
            now = time.time_ns()
            assert ((now - 60e9 < batch.received_ns) & (batch.received_ns <= now)).all()
            assert (np.diff(batch.received_ns) >= 0).all() or len(self.sockets) > 1
        return found

    def looked(self, name):
        return sum(each.look()[name] for each in self.sockets)


@pytest.fixture
def path(wire, gate_class):
    with contextlib.ExitStack() as stack:
        yield Ways(wire, gate_class, stack)


def test_frames_of_every_layout_in_their_order(wire, path, sender):
    layouts = [
        ETH / V4,
        ETH / IP(src=V4.src, dst=V4.dst, options=[IPOption_Router_Alert(), IPOption_NOP()]),
        ETH / Dot1Q(vlan=7) / V4,
        ETH / Dot1AD(vlan=7) / Dot1Q(vlan=8) / V4,
        ETH / V6,
        ETH / Dot1Q(vlan=7) / V6,
        ETH / Dot1AD(vlan=7) / Dot1Q(vlan=8) / V6,
    ]
    chance = random.Random(11)
    frames, expected = [], []
    for number in range(700):
        layout = layouts[chance.randrange(len(layouts))] if number % 3 else layouts[0]
        message = ipfix(chance.choice([16, 20, 21, 22, 23, 24, 63, chance.randrange(20, 1400)]), number)
        frames.append(bytes(layout / UDP(sport=2000 + number, dport=PORT) / message))
        source = V6.src if layout.haslayer(IPv6) else V4.src
        expected.append((message, ip_octets(source), 2000 + number))
    with wire.far:
        sender(frames).send()
    assert path.receive(len(expected)) == expected
    assert path.gate.counted()[3] == path.looked("received") == len(expected)
    assert path.looked("bad_checksum") == path.looked("unreadable") == 0


def ip_octets(text):
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    octets = socket.inet_pton(family, text)
    return octets if len(octets) == 16 else V4_MAPPED + octets


def test_wrong_checksums_are_counted_and_given_up(wire, path, sender):
    good, bad, kept = [], [], []
    chance = random.Random(5)
    for number in range(200):
        network = V6 if number % 2 else V4
        message = ipfix(chance.randrange(20, 300), number)
        right = bytes(ETH / network / UDP(sport=9, dport=PORT) / message)
        good.append(right)
        kept.append(message)
        wrong = bytearray(right)
        wrong[chance.randrange(len(wrong) - len(message) + 4, len(wrong))] ^= 1 << chance.randrange(8)
        bad.append(bytes(wrong))
    none = [bytes(ETH / network / UDP(sport=9, dport=PORT, chksum=0) / ipfix(64)) for network in (V4, V6)]
    mixed = [frame for pair in zip(good, bad, strict=True) for frame in pair]
    with wire.far:
        sender([*mixed, *none]).send()
    assert [row[0] for row in path.receive(201)] == [*kept, ipfix(64)]  # IPv4 may go without, IPv6 may not
    refused = path.gate.counted().get(7, 0)  # where the changed octet made a length wrong
    assert path.looked("bad_checksum") == 201 - refused
    assert refused < 20


def test_datagrams_of_this_host_have_a_part_of_their_checksum_only(wire, path):
    """What a socket sends over veth is left to hardware to be summed."""
    with wire.far:
        for family, address in ((socket.AF_INET, "10.9.0.1"), (socket.AF_INET6, "fd09::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as out:
                for number in range(50):
                    out.sendto(ipfix(100 + number, number), (address, PORT))
    assert [row[0] for row in path.receive(100)] == [ipfix(100 + number, number) for number in range(50)] * 2
    assert path.looked("received") == 100


def test_what_is_not_redirected_comes_by_the_ordinary_socket(wire, path, sender):
    """Fragments, and IPv6 extension headers."""
    long = v5(*range(60))
    extended = ipfix(200)
    with wire.far:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(long, ("10.9.0.1", PORT))
            out.sendto(ipfix(50), ("10.9.0.1", PORT))
        sender([bytes(ETH / V6 / IPv6ExtHdrDestOpt() / UDP(sport=9, dport=PORT) / extended)]).send()
    assert sorted(row[0] for row in path.receive(3)) == sorted([long, ipfix(50), extended])
    assert path.looked("received") == 1


def test_rings_go_round(wire, path, sender):
    """Five times around, and no datagram twice or not at all; memory does not move."""
    total = 5 * FRAMES
    frames = [bytes(ETH / V4 / UDP(sport=1 + number % 60000, dport=PORT) / ipfix(64, number)) for number in range(1024)]
    where = [each.frames.ctypes.data for each in path.sockets]
    with wire.far:
        out = sender(frames)
        for _ in range(total // 1024):
            out.send()
            assert [row[2] for row in path.receive(1024)] == [1 + number for number in range(1024)]
    assert path.looked("received") == total
    assert path.looked("depth") == 0
    assert [each.frames.ctypes.data for each in path.sockets] == where


def test_what_finds_no_room_is_counted(wire, path, sender):
    frames = [bytes(ETH / V4 / UDP(sport=9, dport=PORT) / ipfix(64, number)) for number in range(1000)]
    with wire.far:
        sender(frames).send(2 * FRAMES // 1000 + 2)
    wire.wait_for_silence()
    sent = path.gate.counted()[3]
    room = FRAMES * len(path.sockets)
    lost = path.looked("rx_dropped") + path.looked("rx_ring_full")
    assert lost == sent - path.looked("depth") > 0
    assert path.looked("depth") <= room
    path.receive(sent - lost)
    assert path.looked("received") == sent - lost
    with wire.far:
        sender(frames).send()
    assert len(path.receive(1000)) == 1000


def test_long_frames_come_by_the_ordinary_socket(wire, gate_class):
    for namespace in (wire.near, wire.far):
        namespace.ip("link", "set", "v", "mtu", "9000")
    with contextlib.ExitStack() as stack:
        path = Ways(wire, gate_class, stack)
        assert path.sockets[0].chunk == 4096
        sizes = [1000, 3000, frame_octets(4096) - 42, frame_octets(4096) - 41, 5000, 8900]
        with wire.far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for size in sizes:
                out.sendto(ipfix(size), ("10.9.0.1", PORT))
        assert sorted(len(row[0]) for row in path.receive(len(sizes))) == sizes
        assert path.looked("received") == 2  # veth has the others in several buffers


def test_a_queue_that_is_taken(wire):
    with wire.near:
        ifindex = socket.if_nametoindex("v")
        with XskSocket("v", ifindex, 0), pytest.raises(KernelError, match="no AF_XDP socket for v queue 0: "):
            XskSocket("v", ifindex, 0)
        with pytest.raises(KernelError, match="no AF_XDP socket for v queue 99: Invalid argument"):
            XskSocket("v", ifindex, 99)
        with pytest.raises(ConfigError, match="no interface nowhere: No such device"):
            chunk_octets("nowhere")
        assert receive_queues("v") >= 1 and receive_queues("lo") == 1


def test_metrics_stages_and_summary_add_up(wire, path, sender):
    view = GateView(path.gate, lambda: None, lambda: path.sockets)
    bad = bytearray(bytes(ETH / V4 / UDP(sport=9, dport=PORT) / ipfix(64)))
    bad[-1] ^= 1
    frames = [bytes(ETH / V4 / UDP(sport=9, dport=PORT) / ipfix(64))] * 5 + [bytes(bad)]
    frames += [bytes(ETH / V4 / UDP(sport=9, dport=PORT) / b"garbage")] * 3
    frames += [bytes(ETH / V4 / UDP(sport=9, dport=PORT) / v5(1))]
    with wire.far:
        sender(frames).send()
    path.receive(6)
    looked = SimpleNamespace(gate=view)
    rows = {row.name: dict(row.read(looked)) for row in COLLECTOR if row.name.startswith(("gate_", "af_xdp_"))}
    assert rows["gate_packets"]["v", "redirected"] == 7 and rows["gate_packets"]["v", "bad_version"] == 3
    assert rows["gate_refused_packets"] == {("10.9.0.2", "bad_version"): 3}
    assert rows["af_xdp_received_packets"] == {("v", "0"): 6}
    assert rows["af_xdp_lost_packets"]["v", "0", "bad_checksum"] == 1
    assert sum(rows["af_xdp_lost_packets"].values()) == 1
    assert rows["af_xdp_queued_packets"] == {("v", "0"): 0}
    assert view.stages() == [("gate", "datagrams", 7, 3), ("af_xdp", "datagrams", 6, 1)]
    assert view.summary() == [
        "gate on v: 0 datagrams passed, 7 redirected, 3 dropped: bad_version 3",
        "AF_XDP socket of v queue 0 lost: bad_checksum 1",
    ]


# --- the collector ---------------------------------------------------------------------------------------------------


@pytest.fixture
def collect(wire, tmp_path):
    with contextlib.ExitStack() as stack:

        def start(name, *options, **more):
            (tmp_path / name).mkdir()
            return stack.enter_context(contextlib.closing(Collecting(wire, tmp_path / name, *options, **more)))

        yield start


@pytest.fixture
def generated(wire):
    """Datagrams of ``pyflowx generate`` in every protocol."""
    found = []
    with wire.near, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sink.bind(("10.9.0.1", PORT))
        for protocol in ("ipfix", "netflow9", "netflow5", "sflow"):
            options = f"-H 10.9.0.1 -p {PORT} -t {protocol} -r 0 -n 200 -f 5 --seed 7"
            wire.far.run(sys.executable, "-m", "pyflowx", "generate", *options.split())
            while True:
                try:
                    found.append(sink.recv(65535, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    break
    assert len(found) == 802  # two of them Templates
    return found


def test_the_flows_are_those_of_an_ordinary_socket(wire, collect, generated, sender):
    """The same datagrams, one collector after the other; all but the time of receipt is equal."""
    frames = [bytes(ETH / V4 / UDP(sport=2055, dport=PORT) / datagram) for datagram in generated]

    def flows(run):
        with wire.far:
            sender(frames).send()
        run.until(lambda: run.snapshot()["counters"]["datagrams"] == len(frames))
        snapshot = run.snapshot()
        found = run.end()
        for flow in found:
            received = flow.pop("time_received_ns")
            if flow["flow_type"] == "SFLOW_V5":  # has no times of its own
                assert flow.pop("time_flow_start_ns") == flow.pop("time_flow_end_ns") == received
        return found, snapshot

    plain, _ = flows(collect("plain", ready="live feed at"))
    fast, snapshot = flows(collect("fast", "--xdp", "v", "--af-xdp"))
    assert len(plain) == 4000 and fast == plain
    (row,) = snapshot["gate"]["queues"]
    assert (row["interface"], row["queue"], row["received"], row["zero_copy"]) == ("v", 0, len(frames), False)
    assert snapshot["gate"]["interfaces"][0]["outcomes"]["redirected"] == len(frames)
    stages = {stage["stage"]: (stage["passed"], stage["lost"]) for stage in snapshot["pipeline"]}
    assert stages["gate"] == stages["af_xdp"] == (len(frames), 0)
    assert wire.near.attached() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interface_that_comes_back_has_new_sockets(wire, collect, workers):
    """Or none, where workers read who cannot be given new ones."""
    run = collect("run", "--xdp", "v", "--af-xdp", "--workers", str(workers))
    wire.near.ip("link", "del", "v")
    run.until(lambda: "gate on v: gone" in run.said)
    wire.near.ip("link", "add", "v", "type", "veth", "peer", "name", "v", "netns", wire.far.name)
    for number, namespace in enumerate((wire.near, wire.far), 1):
        namespace.ip("addr", "add", f"10.9.0.{number}/24", "dev", "v")
        namespace.ip("link", "set", "v", "up")
    run.until(lambda: "AF_XDP on v needs a start" in run.said if workers > 1 else run.said.count("AF_XDP on v: ") == 2)

    def more():
        with wire.far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
            out.sendto(v5(5), ("10.9.0.1", PORT))
        return run.snapshot()["counters"]["flows"] > 0

    run.until(more)
    outcomes = run.outcomes()
    assert set(outcomes) == {"redirected" if workers == 1 else "passed"}
    assert {flow["bytes"] for flow in run.end()} == {5}


def test_where_there_can_be_no_socket_the_ordinary_ones_serve(wire, collect):
    with wire.near, XskSocket("v", socket.if_nametoindex("v"), 0):
        run = collect("run", "--xdp", "v", "--af-xdp")
        assert "no AF_XDP socket for v queue 0" in run.said
        assert "what v receives comes by the ordinary sockets" in run.said
        with wire.far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(v5(5), ("10.9.0.1", PORT))
        run.until(lambda: run.outcomes() == {"passed": 1})
        assert [flow["bytes"] for flow in run.end()] == [5]


def test_a_worker_that_is_killed_is_followed_by_one_that_reads_on(wire, collect):
    """What waits in memory meanwhile is read by the next one."""
    run = collect("run", "--xdp", "v", "--af-xdp", "--workers", "2")
    (worker,) = [row for row in run.snapshot()["workers"] if row["number"] == 0]

    def send(first):
        with wire.far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for number in range(first, first + 100):
                out.sendto(v5(number), ("10.9.0.1", PORT))

    send(1)
    run.until(lambda: run.snapshot()["counters"]["flows"] == 100)
    time.sleep(2.5)  # so that what the worker has written is the parent's
    os.kill(worker["pid"], signal.SIGKILL)
    send(101)
    run.until(lambda: run.snapshot()["counters"]["flows"] == 200)
    assert sorted(flow["bytes"] for flow in run.end()) == list(range(1, 201))
