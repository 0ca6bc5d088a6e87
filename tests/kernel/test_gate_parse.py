"""What the gate's program makes of single frames (BPF_PROG_TEST_RUN), against an oracle."""

from __future__ import annotations

import ipaddress
import os
import random
import struct
import threading
from itertools import pairwise

import pytest
from gate_oracle import Oracle
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.kernel import gate as gate_module
from pyflowx.kernel import syscall
from pyflowx.kernel.gate import GateConfig
from pyflowx.kernel.gate_layout import ADDRESS_DTYPE, EXPORTER_DTYPE, REASONS, GateMap, Outcome
from pyflowx.wire import Decoder

pytestmark = pytest.mark.kernel

PASS, DROP = 2, 1
PORT = 9995
ETH = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
V4, V6 = IP(src="192.0.2.9", dst="198.51.100.1"), IPv6(src="2001:db8::9", dst="2001:db8:1::1")
SOCKETS = [(V4.dst, PORT), (V6.dst, PORT)]
KEYS = {(V4_MAPPED + ipaddress.ip_address(V4.dst).packed, PORT), (ipaddress.ip_address(V6.dst).packed, PORT)}


def v5(count=1, version=5, records=None):
    header, record = {1: (16, 48), 5: (24, 48), 7: (24, 52)}[version]
    return struct.pack(">HH", version, count) + bytes(header - 4 + record * (count if records is None else records))


def v9(*sets, version=9):
    body = b"".join(struct.pack(">HH", kind, 4 + len(octets)) + octets for kind, octets in sets)
    return struct.pack(">HHIIII", 9, len(sets), 0, 0, 1, 7) + body


def ipfix(*sets, more=0):
    body = b"".join(struct.pack(">HH", kind, 4 + len(octets)) + octets for kind, octets in sets)
    return struct.pack(">HHIII", 10, 16 + len(body) + more, 0, 1, 7) + body


def sflow(samples=0, kind=1, more=b""):
    agent = bytes({0: 0, 1: 4, 2: 16}.get(kind, 4))
    return struct.pack(">II", 5, kind) + agent + struct.pack(">4I", 0, 1, 1000, samples) + more


TEMPLATE = (0, struct.pack(">HHHH", 256, 1, 1, 4))
MESSAGES = {
    "empty": b"",
    "one octet": b"\0",
    "zeros": bytes(64),
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "v1": v5(2, version=1),
    "v5": v5(3),
    "v5 of no records": v5(0),
    "v5 with too few records": v5(5, records=4),
    "v5 with more behind": v5(1) + b"more",
    "v5 of many": v5(0xFFFF, records=2),
    "v7": v5(2, version=7),
    "v8": struct.pack(">HH", 8, 1) + bytes(60),
    "v9": v9(TEMPLATE),
    "v9 without Sets": v9(),
    "v9 with a Set of no length": v9() + struct.pack(">HH", 0, 0),
    "v9 with a Set past its end": v9() + struct.pack(">HH", 256, 9) + bytes(4),
    "v9 with padding": v9() + bytes(3),
    "IPFIX": ipfix((2, TEMPLATE[1]), (256, bytes(4))),
    "IPFIX past the datagram": ipfix((2, TEMPLATE[1]), more=1),
    "IPFIX with more behind": ipfix((2, TEMPLATE[1])) + b"more",
    "IPFIX of 15 octets": struct.pack(">HH", 10, 15) + bytes(12),
    "IPFIX with a Set past its end": ipfix()[:2]
    + struct.pack(">H", 20)
    + bytes(12)
    + struct.pack(">HH", 2, 5)
    + bytes(9),
    "sFlow": sflow(1, more=struct.pack(">II", 2, 0)),
    "sFlow of IPv6": sflow(2, kind=2, more=bytes(16)),
    "sFlow without agent": sflow(0, kind=0),
    "sFlow of an unknown address": sflow(0, kind=3),
    "sFlow with too many samples": sflow(3, more=bytes(16)),
    "sFlow of 2^32-1 samples": sflow(0xFFFFFFFF, more=bytes(64)),
    "sFlow version 4": struct.pack(">II", 4, 1) + bytes(40),
}
UDP_OURS = UDP(sport=2055, dport=PORT)
FRAMES = {
    "IPv4": ETH / V4 / UDP_OURS / v5(1),
    "IPv4 options": ETH
    / IP(src=V4.src, dst=V4.dst, options=[IPOption_Router_Alert(), IPOption_NOP()])
    / UDP_OURS
    / v5(1),
    "VLAN": ETH / Dot1Q(vlan=7) / V4 / UDP_OURS / v5(1),
    "QinQ": ETH / Dot1AD(vlan=7) / Dot1Q(vlan=8) / V4 / UDP_OURS / v5(1),
    "three tags": ETH / Dot1Q(vlan=7) / Dot1Q(vlan=8) / Dot1Q(vlan=9) / V4 / UDP_OURS / v5(1),
    "IPv6": ETH / V6 / UDP_OURS / ipfix((2, TEMPLATE[1])),
    "VLAN, IPv6": ETH / Dot1Q(vlan=7) / V6 / UDP_OURS / sflow(),
    "hop-by-hop": ETH / V6 / IPv6ExtHdrHopByHop() / UDP_OURS / v5(1),
    "three extensions": ETH / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / UDP_OURS / v5(1),
    "five extensions": ETH
    / V6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / UDP_OURS
    / v5(1),
    "garbage": ETH / V4 / UDP_OURS / Raw(b"garbage"),
    "first fragment": ETH / IP(src=V4.src, dst=V4.dst, flags="MF") / UDP_OURS / v5(1),
    "later fragment": ETH / IP(src=V4.src, dst=V4.dst, frag=185) / Raw(bytes(60)),
    "IPv6 fragment": ETH / V6 / IPv6ExtHdrFragment(m=1, nh=17) / UDP_OURS / v5(1),
    "IPv6 TCP fragment": ETH / V6 / IPv6ExtHdrFragment(m=1, nh=6) / TCP(dport=PORT),
    "another port": ETH / V4 / UDP(sport=PORT, dport=PORT + 1) / Raw(b"garbage"),
    "another host": ETH / IP(src=V4.src, dst="198.51.100.2") / UDP_OURS / Raw(b"garbage"),
    "TCP": ETH / V4 / TCP(sport=1, dport=PORT) / v5(1),
    "ICMP": ETH / V4 / ICMP(),
    "ARP": ETH / ARP(hwdst="02:00:00:00:00:01", psrc="192.0.2.9", pdst="192.0.2.1"),
    "UDP length too small": ETH / V4 / UDP(sport=1, dport=PORT, len=7) / v5(1),
    "UDP length too large": ETH / V4 / UDP(sport=1, dport=PORT, len=500) / v5(1),
    "UDP shorter than its packet": ETH / V4 / UDP(sport=1, dport=PORT, len=8 + 72) / (v5(1) + b"padding"),
    "UDP of a jumbogram": ETH / V6 / UDP(sport=1, dport=PORT, len=0) / v5(1),
    "a trailer": ETH / V4 / UDP_OURS / v5(1) / Raw(bytes(9)),
    "IP length too large": ETH / IP(src=V4.src, dst=V4.dst, len=900) / UDP_OURS / v5(1),
    "IP length too small": ETH / IP(src=V4.src, dst=V4.dst, len=24) / UDP_OURS / v5(1),
    "IHL of 4": ETH / IP(src=V4.src, dst=V4.dst, ihl=4) / UDP_OURS / v5(1),
}


def frame(message, network=V4):
    return bytes(ETH / network / UDP_OURS / Raw(message))


@pytest.fixture(scope="module", params=[True, False], ids=["frags", "one-buffer"])
def gate(request, gate_class):
    """One that enforces, with the program for frames of several buffers or of one."""

    def load_xdp(load):
        return load(request.param)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_module, "load_xdp", load_xdp)
        with gate_class(GateConfig(["lo"], enforce=True)) as gate:
            gate.listen(SOCKETS)
            yield gate


def judged(gate, octets):
    """The outcome of one frame; what was counted must agree with what the program returns."""
    retval = gate.program.test_run(octets).retval
    (outcome,) = counted = gate.counted()
    assert counted[outcome] == 1
    assert retval == (DROP if outcome in REASONS else PASS)
    return outcome


@pytest.mark.parametrize("name", FRAMES)
def test_frames_at_every_truncation(gate, name):
    octets, known = bytes(FRAMES[name]), Oracle(KEYS)
    for end in range(14, len(octets) + 1):
        assert judged(gate, octets[:end]) == known.outcome(octets[:end]), end


@pytest.mark.parametrize("network", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("name", MESSAGES)
def test_messages_at_every_truncation(gate, name, network):
    known = Oracle(KEYS)
    for end in range(min(len(MESSAGES[name]), 100) + 1):
        octets = frame(MESSAGES[name][:end], network)
        assert judged(gate, octets) == known.outcome(octets) == known.message(MESSAGES[name][:end]), end
    octets = frame(MESSAGES[name], network)
    assert judged(gate, octets) == known.outcome(octets)


def test_the_examples_have_every_outcome():
    found = {Oracle(KEYS).outcome(bytes(FRAMES[name])) for name in FRAMES}
    found |= {Oracle(KEYS).message(message) for message in MESSAGES.values()}
    assert found == set(Outcome) - {Outcome.REDIRECTED, Outcome.NOT_ALLOWED, Outcome.RATE_LIMITED}


def test_random_changes(gate):
    """Octets of frames changed at random, which an oracle that shares nothing with the program judges alike."""
    chance, known, seen = random.Random(7), Oracle(KEYS), set()
    frames = [bytes(packet) for packet in FRAMES.values()] + [frame(message[:1400]) for message in MESSAGES.values()]
    for _ in range(3000):
        octets = bytearray(chance.choice(frames))
        for _ in range(chance.choice((1, 1, 2, 4))):
            octets[chance.randrange(12, len(octets))] = chance.choice(
                (0, 1, 4, 5, 8, 17, 44, 255, chance.randrange(256))
            )
        if chance.random() < 0.3:
            del octets[chance.randrange(14, len(octets) + 1) :]
        outcome = judged(gate, bytes(octets))
        assert outcome == known.outcome(bytes(octets)), octets.hex()
        seen.add(outcome)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("netflow", ["v5", "v9", "IPFIX"], ["sFlow"]), ("sflow", ["sFlow"], ["v1", "v5", "v9", "IPFIX"])],
)
def test_only_what_is_accepted(make_gate, kind, good, bad):
    gate = make_gate(enforce=True, **{"netflow": False, "sflow": False, kind: True})
    gate.listen(SOCKETS)
    assert {judged(gate, frame(MESSAGES[name])) for name in good} == {Outcome.PASSED}
    assert {judged(gate, frame(MESSAGES[name])) for name in bad} == {Outcome.BAD_VERSION}


def test_what_the_gate_refuses_the_decoder_finds_wrong_too():
    """Nothing is refused that the decoder would read without a problem."""
    refused = 0
    cuts = [whole[:end] for whole in MESSAGES.values() for end in range(min(len(whole), 150) + 1)]
    for message in cuts:
        _, problems = Decoder().decode(PacketBatch.of([message]), 1)
        outcome = Oracle(KEYS).message(message)
        refused += outcome in REASONS
        assert outcome == Outcome.PASSED or len(problems), message.hex()
    assert refused > 500


def test_monitoring_passes_what_enforcing_drops(make_gate):
    gate = make_gate(enforce=False)
    gate.listen(SOCKETS)
    wrong = 0
    for packet in FRAMES.values():
        octets = bytes(packet)
        assert gate.program.test_run(octets).retval == PASS
        outcome = Oracle(KEYS).outcome(octets)
        assert gate.counted() == {outcome: 1}
        wrong += outcome in REASONS
    assert wrong >= 3


def test_octets_are_those_of_frames_and_of_payload(make_gate):
    gate = make_gate()
    gate.listen(SOCKETS)
    octets = frame(MESSAGES["v5"])
    gate.program.test_run(octets, 3)
    total = gate.statistics()["lo"][Outcome.PASSED]
    assert total.tolist() == (3, 3 * len(octets))
    (source,) = gate.sources().values()
    assert (source.passed, source.octets) == (3, 3 * len(MESSAGES["v5"]))


def test_prefixes_of_both_families(make_gate):
    prefixes = [
        ipaddress.ip_network(text)
        for text in ("10.0.0.0/8", "192.0.2.8/31", "198.51.100.7/32", "2001:db8::/32", "::/128")
    ]
    gate, known = make_gate(enforce=True, allow=prefixes), Oracle(KEYS, allow=prefixes)
    gate.listen(SOCKETS)
    sources = [
        "10.0.0.0",
        "10.255.255.255",
        "11.0.0.0",
        "9.255.255.255",
        "192.0.2.7",
        "192.0.2.8",
        "192.0.2.9",
        "192.0.2.10",
        "198.51.100.7",
        "0.0.0.0",
    ]
    sources += ["2001:db8::", "2001:db8:ffff:ffff::", "2001:db9::", "::", "::1"]
    found = []
    for source in sources:
        network = IPv6(src=source, dst=V6.dst) if ":" in source else IP(src=source, dst=V4.dst)
        octets = frame(MESSAGES["v5"], network)
        found.append(judged(gate, octets))
        assert found[-1] == known.outcome(octets), source
    assert found.count(Outcome.NOT_ALLOWED) == 7


def test_a_prefix_of_one_family_says_nothing_of_the_other(make_gate):
    gate = make_gate(enforce=True, allow=[ipaddress.ip_network("::/0")])
    gate.listen(SOCKETS)
    assert judged(gate, frame(MESSAGES["v5"], V4)) == Outcome.NOT_ALLOWED
    assert judged(gate, frame(MESSAGES["v5"], V6)) == Outcome.PASSED
    gate.allow([ipaddress.ip_network("0.0.0.0/0")])
    assert judged(gate, frame(MESSAGES["v5"], V4)) == Outcome.PASSED
    assert judged(gate, frame(MESSAGES["v5"], V6)) == Outcome.NOT_ALLOWED
    gate.allow([])
    assert judged(gate, frame(MESSAGES["v5"], V4)) == Outcome.NOT_ALLOWED


def test_many_prefixes(make_gate):
    prefixes = [ipaddress.ip_network((0x0A000000 + 256 * number, 24)) for number in range(5000)]
    gate = make_gate(enforce=True, allow=prefixes)
    gate.listen(SOCKETS)
    for number, outcome in ((0, Outcome.PASSED), (4999, Outcome.PASSED), (5000, Outcome.NOT_ALLOWED)):
        source = ipaddress.ip_address(0x0A000003 + 256 * number)
        assert judged(gate, frame(MESSAGES["v5"], IP(src=str(source), dst=V4.dst))) == outcome


def test_a_wildcard_is_every_address_of_this_host(make_gate):
    gate = make_gate(enforce=True)
    gate.listen([("0.0.0.0", PORT)])
    assert judged(gate, frame(b"garbage", IP(src=V4.src, dst="127.0.0.1"))) == Outcome.BAD_VERSION
    assert judged(gate, frame(b"garbage", V4)) == Outcome.OTHER
    assert judged(gate, frame(b"garbage", IPv6(src="::1", dst="::1"))) == Outcome.OTHER
    gate.listen([("::", PORT)])
    assert judged(gate, frame(b"garbage", IPv6(src="::1", dst="::1"))) == Outcome.BAD_VERSION
    assert judged(gate, frame(b"garbage", IP(src=V4.src, dst="127.0.0.1"))) == Outcome.BAD_VERSION
    gate.listen([("::1", PORT)])
    assert judged(gate, frame(b"garbage", IP(src=V4.src, dst="127.0.0.1"))) == Outcome.OTHER


# --- rates ----------------------------------------------------------------------------------------------------------


def bucket(gate):
    """(datagrams in the bucket in 1e-9, when it was filled, passed, limited) of the only exporter."""
    _, values = gate._maps[GateMap.EXPORTERS].entries_now(ADDRESS_DTYPE, EXPORTER_DTYPE)
    (value,) = values.tolist()
    return value[0], value[1], value[2], value[4]


def spent(before, after, rate):
    """What datagrams took out of the bucket, and what they had: the bucket and what came in with time. The second is
    larger only where the bucket ran over, as nobody asked for a second. In 1e-9 datagrams."""
    return (after[2] - before[2]) * 10**9, before[0] - after[0] + rate * (after[1] - before[1])


@pytest.mark.parametrize("rate", [1, 7, 3333, 50_000])
def test_a_bucket_is_exact(make_gate, rate):
    """No rounding anywhere."""
    gate = make_gate(enforce=True, rate=rate)
    gate.listen(SOCKETS)
    octets, each, states = frame(MESSAGES["v5"]), 3 * rate + 20_000, []
    for _ in range(6):
        gate.program.test_run(octets, each)
        states.append(bucket(gate))
    pairs = [spent(*pair, rate) for pair in pairwise(states)]
    assert all(taken <= there for taken, there in pairs)
    assert any(taken == there for taken, there in pairs)
    _, _, passed, limited = states[-1]
    assert passed + limited == 6 * each and limited > 0
    assert gate.counted() == {Outcome.PASSED: passed, Outcome.RATE_LIMITED: limited}


def test_a_bucket_is_exact_on_all_cpus(make_gate):
    """Threads on several CPUs at one bucket."""
    gate, rate, each = make_gate(enforce=True, rate=50_000), 50_000, 100_000
    gate.listen(SOCKETS)
    octets = frame(MESSAGES["v5"])
    cpus = sorted(os.sched_getaffinity(0))

    def work(cpu):
        os.sched_setaffinity(0, {cpu})
        gate.program.test_run(octets, each)

    states = []
    for _ in range(5):
        threads = [threading.Thread(target=work, args=(cpu,)) for cpu in (*cpus[:4], *cpus[:2])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        states.append(bucket(gate))
    pairs = [spent(*pair, rate) for pair in pairwise(states)]
    assert all(taken <= there for taken, there in pairs)
    assert any(taken == there for taken, there in pairs)
    assert states[-1][2] + states[-1][3] == 5 * len(threads) * each


def test_each_exporter_has_its_own_bucket(make_gate):
    gate = make_gate(enforce=True, rate=5)
    gate.listen(SOCKETS)
    gate.program.test_run(frame(MESSAGES["v5"], V6), 100)
    gate.program.test_run(frame(MESSAGES["v5"], V4), 5)
    sources = gate.sources()
    assert sources[ipaddress.ip_address(V6.src).packed].passed in (5, 6)
    assert sources[V4_MAPPED + ipaddress.ip_address(V4.src).packed][::2] == (5, (0, 0, 0, 0, 0))


def test_what_is_wrong_takes_nothing_out_of_the_bucket(make_gate):
    gate = make_gate(enforce=True, rate=3)
    gate.listen(SOCKETS)
    gate.program.test_run(frame(b"garbage"), 1000)
    gate.counted()
    assert [judged(gate, frame(MESSAGES["v5"])) for _ in range(3)] == [Outcome.PASSED] * 3
    (source,) = gate.sources().values()
    assert source.refused == (0, 1000, 0, 0, 0)


# --- what does not work, passes --------------------------------------------------------------------------------------


def test_where_no_state_can_be_kept_datagrams_pass(make_gate, monkeypatch):
    """A map of exporters that is full and lets nobody go."""
    real = gate_module.Map

    def small(kind, key_size, value_size, entries, name, *rest, **more):
        if name in ("pyflowx_sources", "pyflowx_refused"):
            kind, entries = syscall.MAP_TYPE_HASH, 1
        return real(kind, key_size, value_size, entries, name, *rest, **more)

    monkeypatch.setattr(gate_module, "Map", small)
    gate = make_gate(enforce=True, rate=2)
    gate.listen(SOCKETS)
    gate.program.test_run(frame(MESSAGES["v5"], V6), 2)
    assert gate.counted() == {Outcome.PASSED: 2}
    assert gate.program.test_run(frame(MESSAGES["v5"], V4), 100).retval == PASS
    assert gate.counted() == {Outcome.PASSED: 100, "stateless": 100}
    for network, drops in ((V6, 1), (V4, 2)):
        assert gate.program.test_run(frame(b"garbage", network)).retval == DROP
        assert sum(gate.statistics()["lo"]["packets"][REASONS[0] :].tolist()[:5]) == drops
    assert sum(source.refused[1] for source in gate.sources().values()) == 1


def test_exporters_that_are_busy_stay_when_many_come(make_gate):
    """Forged sources do not push out those who send."""
    gate = make_gate(enforce=True, rate=1000)
    gate.listen(SOCKETS)
    octets = bytearray(frame(MESSAGES["v5"]))
    good, passed = frame(MESSAGES["v5"], V6), 0
    for number in range(2 * gate_module.EXPORTERS):
        struct.pack_into(">I", octets, 26, 0x0A000000 + number)
        gate.program.test_run(octets)
        if number % 64 == 0:
            gate.program.test_run(good)
            passed += 1
    sources = gate.sources()
    assert len(sources) <= gate_module.EXPORTERS
    assert sources[ipaddress.ip_address(V6.src).packed].passed == passed
