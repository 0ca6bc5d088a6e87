"""The generator: its flows, its pace, what it sends, and its command."""

import ipaddress
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapWriter

from pyflowx.batch import Datagrams, FlowBatch, PacketBatch, concat, take
from pyflowx.cli import generate as cli
from pyflowx.decoded import Decoded
from pyflowx.elements import FieldSpecifier
from pyflowx.errors import ConfigError
from pyflowx.generating import PROTOCOLS, FlowSource, Generator, Pacer, Settings, Summary
from pyflowx.generating import generator as process
from pyflowx.transport.udp import SendCounts, UdpReceiver
from pyflowx.wire import Decoder

SECOND = 1_000_000_000
PORTS = {"sourceTransportPort", "destinationTransportPort"}  # in sFlow, a packet of ICMP has none
V6 = {
    "src_cidr": ipaddress.ip_network("2001:db8:a::/47"),
    "dst_cidr": ipaddress.ip_network("2001:db8:ffff::42/128"),
}
# Protocol and family of the flows: all that can be generated
KINDS = [(protocol, version) for protocol in PROTOCOLS for version in (4, 6) if (protocol, version) != ("netflow5", 6)]


def settings_of(protocol: str = "ipfix", version: int = 4, **more: object) -> Settings:
    return replace(Settings(protocol=protocol, seed=1, rate=0, **(V6 if version == 6 else {})), **more)  # type: ignore[arg-type]


def generate(settings: Settings) -> tuple[list[bytes], Summary]:
    """Run a generator against a socket of our own: the datagrams that came, the summary."""
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=64 << 20) as receiver:
        generator = Generator(replace(settings, port=receiver.addresses[0][1]))
        generator.start()
        summary = generator.run()
        datagrams: list[bytes] = []
        while len(datagrams) < summary.packets + summary.template_packets:
            batch = receiver.receive(20, 0)
            assert batch is not None, f"{len(datagrams)} datagrams of {summary}"
            datagrams += batch.tolist()
        assert receiver.receive(0, 0) is None
    return datagrams, summary


def decode(datagrams: list[bytes]) -> Decoded:
    (decoded,), problems = Decoder().decode(PacketBatch.of(datagrams), time.time_ns())
    assert problems.tolist() == []
    assert decoded.opaque == []
    return decoded


def single(decoded: Decoded) -> FlowBatch:
    """All flows, in the order they were sent, with the fields that all have (in sFlow, TCP has more than ICMP)."""
    names = [field.element.name for field in decoded.flows[0].fields]
    names = [name for name in names if all(name in map(name_of, flows.fields) for flows in decoded.flows)]
    message = np.concatenate([flows.message for flows in decoded.flows])
    order = np.lexsort([np.concatenate([flows.set_offset for flows in decoded.flows]), message])
    if len(decoded.flows) == 1:
        order = np.arange(len(message))
    columns = [concat([flows.column(name) for flows in decoded.flows]) for name in names]
    fields = tuple(field for field in decoded.flows[0].fields if field.element.name in names)
    return FlowBatch(fields, [take(column, order) for column in columns], message[order])


def name_of(field: FieldSpecifier) -> str:
    return field.element.name


def columns_of(flows: FlowBatch) -> dict[str, list[object]]:
    return {field.element.name: column.tolist() for field, column in zip(flows.fields, flows.columns, strict=True)}


@pytest.mark.parametrize(("protocol", "version"), KINDS)
def test_our_decoder_reads_back_what_was_drawn(protocol: str, version: int) -> None:
    settings = settings_of(
        protocol,
        version,
        count=30,
        flows_per_packet=7,
        observation_domain_id=77,
        tcp_flags=0x12,
        protocols=(1, 6, 17, 58),
    )
    datagrams, summary = generate(settings)
    decoded = decode(datagrams)
    flows = single(decoded)
    assert len(flows) == summary.flows == 210
    assert summary.packets == 30 and summary.octets == sum(map(len, datagrams)) and summary.send_errors == 0
    assert summary.template_packets == len(datagrams) - 30
    assert set(Counter(flows.message.tolist()).values()) == {7}  # each packet has as many as asked for
    assert set(decoded.messages.observation_domain_id.tolist()) == {77}
    drawn = FlowSource(settings).draw(process._BLOCK_PACKETS * 7)
    got = columns_of(flows)
    for name, column in got.items():
        if name in drawn:
            assert column == drawn[name][:210].tolist(), name
    assert {name for name in drawn if name.startswith(("source", "destination"))} - set(got) <= PORTS
    if protocol == "sflow":
        least = 54 if version == 4 else 74
        assert got["dataLinkFrameSize"] == np.maximum(drawn["octetDeltaCount"][:210], least).tolist()
        assert got["samplingInterval"] == drawn["packetDeltaCount"][:210].tolist()
        assert got["sample_pool"] == np.cumsum(drawn["packetDeltaCount"][:210]).tolist()


@pytest.mark.parametrize(("protocol", "version"), [kind for kind in KINDS if kind[0] != "sflow"])
def test_times_are_of_now_and_in_order(protocol: str, version: int) -> None:
    before = time.time_ns() // 1_000_000
    datagrams, _ = generate(settings_of(protocol, version, count=20))
    after = time.time_ns() // 1_000_000
    decoded = decode(datagrams)
    flows = single(decoded)
    names = [field.element.name for field in flows.fields]
    if "flowStartMilliseconds" in names:
        start, end = flows.column("flowStartMilliseconds"), flows.column("flowEndMilliseconds")
    else:
        boot = decoded.messages.boot_ns[flows.message] // 1_000_000
        start = flows.column("flowStartSysUpTime").astype(np.int64) + boot
        end = flows.column("flowEndSysUpTime").astype(np.int64) + boot
    assert (start <= end).all() and len(set(end.tolist())) > 50
    assert before - 2000 < int(end.min()) and int(end.max()) <= after
    assert int((end - start).max()) < 70_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sequence_numbers_have_no_gap(protocol: str) -> None:
    per = 4
    messages = decode(generate(settings_of(protocol, count=3000, flows_per_packet=per))[0]).messages
    steps = np.diff(messages.sequence_number.astype(np.int64))
    if protocol in ("ipfix", "netflow5"):  # they count flows; Templates count nothing
        assert set(steps[1:].tolist()) == {per}
    else:
        assert set(steps.tolist()) == {1}


def test_no_datagram_is_repeated() -> None:
    datagrams, summary = generate(settings_of(count=20_000, flows_per_packet=2))
    assert len(set(datagrams)) == len(datagrams) == summary.packets + summary.template_packets


@given(
    st.tuples(st.integers(0, 32), st.integers(0, 2**32 - 1)),
    st.tuples(st.integers(0, 128), st.integers(0, 2**128 - 1)),
    st.lists(st.integers(0, 65535), min_size=2, max_size=2).map(sorted),
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2).map(sorted),
    st.lists(st.integers(0, 255), min_size=1, max_size=4),
    st.booleans(),
)
def test_ranges_are_honoured(
    v4: tuple[int, int], v6: tuple[int, int], ports: list[int], counts: list[int], protocols: list[int], six: bool
) -> None:
    length, address = v6 if six else v4
    kind = ipaddress.IPv6Network if six else ipaddress.IPv4Network
    network = kind((address, length), strict=False)
    settings = Settings(
        src_cidr=network,
        dst_cidr=network,
        src_port_range=(ports[0], ports[1]),
        dst_port_range=(ports[1], ports[1]),
        octet_range=(counts[0], counts[1]),
        packet_range=(counts[1], counts[1]),
        protocols=tuple(protocols),
        tcp_flags=0x1B,
    )
    drawn = FlowSource(settings).draw(300)
    for end in ("source", "destination"):
        for each in np.unique(drawn[f"{end}IPv{network.version}Address"], axis=0):
            value = int.from_bytes(each.tobytes(), "big") if six else int(each)
            assert ipaddress.ip_address((ipaddress.IPv6Address if six else ipaddress.IPv4Address)(value)) in network
    protocol = drawn["protocolIdentifier"]
    assert set(protocol.tolist()) <= set(protocols)
    with_ports = np.isin(protocol, [6, 17, 33, 132, 136])
    source, destination = drawn["sourceTransportPort"], drawn["destinationTransportPort"]
    assert ((source >= ports[0]) & (source <= ports[1]))[with_ports].all()
    assert (destination[with_ports] == ports[1]).all()
    assert not source[~with_ports].any() and not destination[~with_ports].any()
    octets = drawn["octetDeltaCount"]
    assert ((octets >= counts[0]) & (octets <= counts[1])).all()
    assert (drawn["packetDeltaCount"] == counts[1]).all()
    assert (drawn["tcpControlBits"] == np.where(protocol == 6, 0x1B, 0)).all()


def test_both_ends_of_a_range_and_all_protocols_occur() -> None:
    drawn = FlowSource(
        Settings(seed=3, src_port_range=(5, 7), octet_range=(10, 12), packet_range=(1, 2), protocols=(1, 6, 47))
    ).draw(500)
    assert set(drawn["sourceTransportPort"].tolist()) == {0, 5, 6, 7}  # 0: ICMP and GRE
    assert set(drawn["octetDeltaCount"].tolist()) == {10, 11, 12}
    assert set(drawn["packetDeltaCount"].tolist()) == {1, 2}
    assert set(drawn["protocolIdentifier"].tolist()) == {1, 6, 47}
    assert set(drawn["flowDirection"].tolist()) == {0, 1}
    kinds = set(zip(drawn["protocolIdentifier"].tolist(), drawn["icmpTypeCodeIPv4"].tolist(), strict=True))
    assert kinds == {(1, 8 << 8), (1, 0), (6, 0), (47, 0)}  # echo request and reply


def test_icmp_of_ipv6_has_its_own_types_and_netflow5_its_own_place() -> None:
    drawn = FlowSource(Settings(seed=3, protocols=(58,), **V6)).draw(100)  # type: ignore[arg-type]
    assert set(drawn["icmpTypeCodeIPv6"].tolist()) == {128 << 8, 129 << 8}
    drawn = FlowSource(Settings(seed=3, protocols=(1,), protocol="netflow5")).draw(100)
    assert set(drawn["destinationTransportPort"].tolist()) == {0, 8 << 8}


def test_addresses_fill_their_network() -> None:
    drawn = FlowSource(Settings(seed=3)).draw(20_000)
    sources = drawn["sourceIPv4Address"]
    assert len(set(sources.tolist())) > 19_900
    assert set((sources >> 16 & 0xFF).tolist()) == set(range(256))
    six = FlowSource(Settings(seed=3, **V6)).draw(20_000)["sourceIPv6Address"]  # type: ignore[arg-type]
    assert {len(set(six[:, octet].tolist())) for octet in range(6, 16)} == {256}
    assert set(six[:, 5].tolist()) == {10, 11}  # 2001:db8:a::/47 has its last bit there


def test_seed_gives_the_same_flows_at_any_rate_and_count() -> None:
    def columns(seed: int | None, **more: object) -> dict[str, list[object]]:
        flows = single(decode(generate(settings_of(seed=seed, **more))[0]))
        return {name: column[:60] for name, column in columns_of(flows).items() if "Milliseconds" not in name}

    first = columns(5, count=6)
    assert columns(5, count=8, rate=2000) == columns(5, count=40) == first
    assert columns(6, count=6) != first
    without = [columns(None, count=6)["sourceIPv4Address"] for _ in range(2)]
    assert without[0] != without[1]


@given(st.integers(1, 10**6), st.lists(st.integers(0, SECOND), max_size=60), st.integers(0, 2**62))
def test_pacer_follows_a_virtual_clock(rate: int, steps: list[int], start: int) -> None:
    pacer, now, sent = Pacer(rate, start), start, 0
    for step in steps:
        now += step
        due = pacer.due(now)
        pacer.sent(due)
        sent += due
        assert sent == (now - start) * rate // SECOND + 1
        assert pacer.due(now) == 0
        wait = pacer.wait_ns(now)
        assert 0 < wait <= -(-SECOND // rate)
        assert pacer.due(now + wait) >= 1 and pacer.due(now + wait - 1) == 0


@given(st.integers(1, 10**6), st.integers(SECOND + 1, 1000 * SECOND))
def test_pacer_catches_up_on_one_second_at_most(rate: int, standstill: int) -> None:
    pacer = Pacer(rate, 0)
    pacer.sent(pacer.due(0))
    now = standstill + SECOND // rate
    due = pacer.due(now)
    assert due <= rate + 1
    pacer.sent(due)
    assert pacer.due(now + SECOND) in range(rate - 1, rate + 2)  # and goes on at its pace


def test_unlimited_never_waits() -> None:
    pacer = Pacer(0, 5)
    for now in (5, 5, 6):
        assert pacer.due(now) > 0 and pacer.wait_ns(now) == 0
        pacer.sent(1000)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 7 * SECOND

    def monotonic_ns(self) -> int:
        return self.now

    def time_ns(self) -> int:
        return 1_700_000_000 * SECOND + self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += max(1, round(seconds * SECOND))


class Recorder:
    """Stands for UdpSender; notes when how many packets were sent and whether they are Templates."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.counts = clock, [SendCounts()]
        self.sent: list[tuple[int, int, bool]] = []

    def send(self, datagrams: Datagrams) -> None:
        template = any(datagram[16:18] == b"\0\2" for datagram in datagrams.tolist())
        self.sent.append((self.clock.now - 7 * SECOND, len(datagrams), template))
        self.counts[0].sent += len(datagrams)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def virtual_run(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> list[tuple[int, int, bool]]:
    clock = Clock()
    recorder = Recorder(clock)
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "UdpSender", lambda _: recorder)
    generator = Generator(settings)
    generator.start()
    summary = generator.run()
    assert summary.packets == sum(count for _, count, template in recorder.sent if not template)
    return recorder.sent


@pytest.mark.parametrize("rate", [1, 7, 999, 1000, 1500, 44_000])
def test_every_second_has_exactly_its_packets(monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    sent = virtual_run(monkeypatch, settings_of(rate=rate, count=rate * 3, flows_per_packet=1))
    for second in range(3):
        begin, end = second * SECOND, (second + 1) * SECOND
        packets = sum(count for at, count, template in sent if begin <= at < end and not template)
        assert abs(packets - rate) <= 1 + rate // 1000  # a packet may go out a tick late, never early
    assert sent[-1][0] <= 3 * SECOND
    assert max(count for _, count, template in sent) <= 2 + rate // 1000


def test_templates_come_first_and_at_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = virtual_run(monkeypatch, settings_of(rate=3, count=100, template_interval_s=10))
    assert sent[0][2]
    times = [at / SECOND for at, _, template in sent if template]
    assert times == pytest.approx([0, 10, 20, 30], abs=0.3)


def test_slow_packets_do_not_delay_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pacer, "due", lambda pacer, now: int(now >= (7 + 60 * pacer._sent) * SECOND))
    monkeypatch.setattr(Pacer, "wait_ns", lambda pacer, now: (7 + 60 * pacer._sent) * SECOND - now)
    sent = virtual_run(monkeypatch, settings_of(rate=1, count=2, template_interval_s=10))
    assert [template for _, _, template in sent] == [True, False, True, True, True, True, True, True, False]


def test_stop_ends_an_endless_run() -> None:
    with UdpReceiver([("127.0.0.1", 0)]) as receiver, ThreadPoolExecutor(1) as pool:
        generator = Generator(settings_of(rate=1, port=receiver.addresses[0][1]))
        generator.start()
        running = pool.submit(generator.run)
        assert receiver.receive(20, 0) is not None
        generator.stop()
        assert running.result().template_packets == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src_cidr": V6["src_cidr"]}, "--src-cidr .* is IPv6 and --dst-cidr .* is IPv4.*give both"),
        ({"protocol": "netflow5", **V6}, "netflow5 carries IPv4 only.*give IPv4"),
        ({"protocol": "netflow8"}, "--protocol netflow8: give one of ipfix"),
        ({"src_port_range": (7, 6)}, "--src-port-range 7-6: give .*0-65535"),
        ({"dst_port_range": (0, 65536)}, "--dst-port-range 0-65536: give .*0-65535"),
        ({"octet_range": (0, 1 << 64)}, f"--octet-range 0-{1 << 64}: give .*0-{2**64 - 1}"),
        ({"octet_range": (0, 1 << 32), "protocol": "netflow5"}, f"--octet-range .*0-{2**32 - 1}"),
        ({"packet_range": (0, 1)}, "--packet-range 0-1: give .*1-"),
        ({"tcp_flags": 256}, "--tcp-flags 256: give a number within 0-255"),
        ({"protocols": (6, 256)}, "--protocols: give .* 0-255"),
        ({"protocols": ()}, "--protocols: give .* 0-255"),
        ({"port": 0}, "--port 0: give a number within 1-65535"),
        ({"rate": -1}, "--rate -1: give"),
        ({"count": -1}, "--count -1: give"),
        ({"flows_per_packet": 0}, "--flows-per-packet 0: give a number within 1-"),
        ({"template_interval_s": 0}, "--template-interval 0: give"),
        ({"observation_domain_id": 1 << 32}, "--observation-domain-id 4294967296: give"),
        ({"observation_domain_id": 1 << 16, "protocol": "netflow5"}, "--observation-domain-id.*0 to 65535"),
    ],
)
def test_bad_settings_name_the_option_and_an_accepted_value(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Generator(replace(Settings(), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("protocol", "version"), KINDS)
@pytest.mark.parametrize("asked", [5000, 10**9])
def test_the_largest_packet_is_named_and_works(protocol: str, version: int, asked: int) -> None:
    with pytest.raises(ConfigError, match=rf"--flows-per-packet {asked} does not fit .* give 1 to \d+$") as caught:
        Generator(settings_of(protocol, version, flows_per_packet=asked))
    largest = int(str(caught.value).rpartition(" ")[2])
    datagrams, summary = generate(settings_of(protocol, version, flows_per_packet=largest, count=2))
    assert len(single(decode(datagrams))) == 2 * largest == summary.flows
    with pytest.raises(ConfigError, match=f"give 1 to {largest}$"):
        Generator(settings_of(protocol, version, flows_per_packet=largest + 1))


CHAT = str(0x200000)  # the severity of what tshark says of normal work, such as "connection establish request"


def write_capture(path: Path, datagrams: list[bytes], port: int) -> None:
    with PcapWriter(str(path)) as writer:
        for datagram in datagrams:
            writer.write(Ether() / IP(src="127.0.0.1", dst="127.0.0.1") / UDP(sport=40000, dport=port) / datagram)


@pytest.mark.parametrize(("protocol", "version"), KINDS)
def test_tshark_reads_it_without_complaint(protocol: str, version: int, tmp_path: Path) -> None:
    settings = settings_of(protocol, version, count=40, protocols=(1 if version == 4 else 58, 6, 17, 47, 132))
    if protocol == "sflow":  # tshark dissects the sampled packets too: no port that it knows a protocol for
        settings = replace(
            settings,
            src_port_range=(61_000, 61_999),
            dst_port_range=(62_000, 62_999),
            protocols=(1 if version == 4 else 58, 6, 17),
        )
    datagrams, summary = generate(settings)
    write_capture(tmp_path / "made.pcap", datagrams, 6343 if protocol == "sflow" else 2055)
    arguments = [
        "-d",
        "udp.port==2055,cflow",
        "-d",
        "udp.port==6343,sflow",
        "-o",
        "ip.check_checksum:TRUE",
        "-T",
        "json",
    ]
    run = subprocess.run(
        ["tshark", "-r", tmp_path / "made.pcap", *arguments], capture_output=True, text=True, check=True
    )
    assert "_ws.malformed" not in run.stdout
    assert set(re.findall(r'"_ws.expert.severity": "(\d+)"', run.stdout)) <= {CHAT}
    frames = json.loads(run.stdout)
    assert len(frames) == summary.packets + summary.template_packets
    flow = {"sflow": r'"Flow sample, seq', "netflow5": r'"pdu \d+/10"'}.get(protocol, r'"Flow \d+"')
    assert len(re.findall(flow, run.stdout)) == summary.flows == 400


def queued(port: int) -> int | None:
    """Octets that wait in the socket bound to a port of this host; None where there is none."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return next((int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(f":{port:04X}")), None)


@pytest.mark.parametrize(("protocol", "version"), [kind for kind in KINDS if kind[0] != "sflow"])
def test_nfcapd_reads_it_without_complaint(protocol: str, version: int, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    settings = settings_of(protocol, version, count=200, rate=2000, port=port)
    log = tmp_path / "log"
    with log.open("w") as stderr:
        nfcapd = subprocess.Popen(
            ["nfcapd", "-p", str(port), "-b", "127.0.0.1", "-w", str(tmp_path), "-B", "4000000"],
            stdout=stderr,
            stderr=stderr,
        )
        try:
            while queued(port) is None:
                assert nfcapd.poll() is None, log.read_text()
                time.sleep(0.02)
            generator = Generator(settings)
            generator.start()
            summary = generator.run()
            while queued(port):
                time.sleep(0.02)
        finally:
            nfcapd.send_signal(signal.SIGTERM)
            nfcapd.wait()
    (stored,) = tmp_path.glob("nfcapd.2*")
    text = subprocess.run(["nfdump", "-r", stored, "-o", "json"], capture_output=True, text=True, check=True).stdout
    flows = json.loads(text)
    assert len(flows) == summary.flows == 2000
    drawn = FlowSource(settings).draw(10_240)
    assert sum(flow["in_bytes"] for flow in flows) == int(drawn["octetDeltaCount"][:2000].sum())
    assert sum(flow["in_packets"] for flow in flows) == int(drawn["packetDeltaCount"][:2000].sum())
    networks = (settings.src_cidr, settings.dst_cidr)
    for flow in flows:
        for end, network in zip(("src", "dst"), networks, strict=True):
            assert ipaddress.ip_address(flow[f"{end}{version}_addr"]) in network
    said = log.read_text()
    totals = "Flows: 2000, Packets: {}, Bytes: {}, Sequence Errors: 0, Bad Packets: 0"
    assert totals.format(sum(flow["in_packets"] for flow in flows), sum(flow["in_bytes"] for flow in flows)) in said
    assert not re.search(r"(?i)unexpected|corrupt|skip|unknown|invalid|failed|no template", said), said


def test_command_sends_counts_and_tells() -> None:
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=8 << 20) as receiver:
        port = receiver.addresses[0][1]
        arguments = "-n 50 -r 0 --flows_per_packet 3 --src_cidr 192.0.2.7 --dst_cidr 198.51.100.0/24 --seed 1"
        arguments += " --protocols TCP,icmp,132 --tcp_flags 0x12 --src_port_range 9-9 --dst_port_range 443"
        arguments += " --octet_range 1-2 --packet_range=1-1 --observation_domain_id 9 --template_interval 5"
        run = subprocess.run(
            [sys.executable, "-m", "pyflowx", "generate", "-p", str(port), *arguments.split()],
            capture_output=True,
            text=True,
            check=True,
        )
        datagrams: list[bytes] = []
        while len(datagrams) < 51:
            batch = receiver.receive(20, 0)
            assert batch is not None
            datagrams += batch.tolist()
    assert run.stdout == ""
    octets = sum(map(len, datagrams))
    assert run.stderr.startswith(f"50 packets and 1 of Templates, 150 flows, {octets} octets in ")
    assert run.stderr.endswith("; 0 send errors\n")
    flows = columns_of(single(decode(datagrams)))
    assert set(flows["sourceIPv4Address"]) == {int(ipaddress.ip_address("192.0.2.7"))}
    assert set(flows["protocolIdentifier"]) == {1, 6, 132}
    assert set(
        zip(flows["protocolIdentifier"], flows["destinationTransportPort"], flows["tcpControlBits"], strict=True)
    ) == {
        (1, 0, 0),
        (6, 443, 0x12),
        (132, 443, 0),
    }
    assert set(flows["octetDeltaCount"]) == {1, 2} and set(flows["packetDeltaCount"]) == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rate", ["0", "1", "5000"])
def test_a_signal_ends_it_cleanly_with_a_summary(number: signal.Signals, rate: str) -> None:
    with UdpReceiver([("127.0.0.1", 0)], recv_buffer=256 << 20) as receiver:
        port = receiver.addresses[0][1]
        process = subprocess.Popen(
            [sys.executable, "-m", "pyflowx", "generate", "-p", str(port), "-r", rate],
            stderr=subprocess.PIPE,
            text=True,
        )
        batch = receiver.receive(20, 0)
        assert batch is not None
        received, octets = len(batch), int(batch.length.sum())
        process.send_signal(number)
        while process.poll() is None or batch is not None:
            batch = receiver.receive(0.05, 0)
            received += len(batch) if batch is not None else 0
            octets += int(batch.length.sum()) if batch is not None else 0
        assert process.stderr is not None
        text = process.stderr.read()
        process.stderr.close()
        assert process.returncode == 0
        match = re.fullmatch(
            r"(\d+) packets and 1 of Templates, (\d+) flows, (\d+) octets in .*; 0 send errors\n", text
        )
        assert match, text
        assert int(match[1]) + 1 == received + receiver.dropped
        assert int(match[2]) == 10 * int(match[1])
        if not receiver.dropped:
            assert int(match[3]) == octets


def test_nobody_listening_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    result = CliRunner().invoke(cli.command, ["-p", str(port), "-n", "5", "-r", "0"])
    assert result.exit_code == 0
    assert f"nobody listens on 127.0.0.1 port {port}: " in result.stderr


def test_nothing_sent_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generator, "start", lambda _: None)
    monkeypatch.setattr(Generator, "run", lambda _: Summary(0, 0, 0, 0, 1.0, 5, 0, "Network is unreachable"))
    result = CliRunner().invoke(cli.command, ["-n", "5"])
    assert result.exit_code == 1
    assert "5 send errors\nthe last send error: Network is unreachable\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--src-cidr", "10.0.0.0/33"], "--src-cidr 10.0.0.0/33: give a network such as 10.0.0.0/8"),
        (["--dst-cidr", "x"], "--dst-cidr x: give a network"),
        (["--protocols", "6,foo"], "'foo' is no protocol; give numbers 0-255 or names of icmp"),
        (["--protocols", ""], "is no protocol"),
        (["--tcp-flags", "SYN"], "--tcp-flags SYN: give a number within 0-255"),
        (["--octet-range", "1:2"], "--octet-range 1:2: give two numbers MIN-MAX"),
        (["--src-port-range", "-5"], "--src-port-range -5: give two numbers MIN-MAX"),
        (["-H", "no-such-host.invalid"], "--host no-such-host.invalid: .*; give"),
    ],
)
def test_bad_options_exit_2_and_say_what_is_accepted(arguments: list[str], message: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pyflowx", "generate", "-n", "1", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert re.search(message, run.stderr), run.stderr


def test_defaults_of_the_command_are_those_of_the_settings() -> None:
    defaults = dict(cli.command.make_context("generate", []).params)
    want = Settings()
    assert defaults.pop("template_interval") == want.template_interval_s == 30
    assert cli.parse_protocols(defaults.pop("protocols")) == want.protocols == (6, 17)
    assert cli.parse_flags(defaults.pop("tcp_flags")) == want.tcp_flags == 0
    for name in ("src_cidr", "dst_cidr"):
        assert cli.parse_network(name, defaults.pop(name)) == getattr(want, name)
    for name in ("src_port_range", "dst_port_range", "octet_range", "packet_range"):
        assert cli.parse_range(name, defaults.pop(name)) == getattr(want, name)
    assert defaults == {name: getattr(want, name) for name in defaults}
    assert len(defaults) == 8
    (choice,) = (option for option in cli.command.params if option.name == "protocol")
    assert tuple(choice.type.choices) == PROTOCOLS  # type: ignore[attr-defined]


def test_help_has_examples_and_every_option() -> None:
    text = CliRunner().invoke(cli.command, ["--help"]).stdout
    assert "Examples:" in text and "pyflowx generate -p 9995 -r 10000 -n 50000" in text
    for option in ("-H, --host", "-p, --port", "-r, --rate", "-f, --flows-per-packet", "-n, --count", "--seed"):
        assert option in text
