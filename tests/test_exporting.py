"""The exporting process with a meter and a sender of our own; its Messages are decoded again."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx import exporting
from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.cli.export import summary
from pyflowx.exporting import MERGES, ExportConfig, Exporter, Trait, flow_batches, template, traits
from pyflowx.flowtable import EndReason, FlowRecords
from pyflowx.kernel import KEY_DTYPE, VALUE_DTYPE
from pyflowx.transport.udp import SendCounts
from pyflowx.wire import Decoder

OFFSET = 1_700_000_000_000_000_000
SECOND = 10**9


class Meter:
    """Gives the prepared drains, one a call, then nothing."""

    def __init__(self, *drains):
        self.drains = list(drains)
        self.calls = []

    def attach(self):
        self.calls.append("attach")
        return []

    def drain(self):
        self.calls.append("drain")
        return self.drains.pop(0) if self.drains else (np.zeros(0, KEY_DTYPE), np.zeros(0, VALUE_DTYPE))

    def offset_ns(self):
        return OFFSET

    def detach(self):
        self.calls.append("detach")


class Sender:
    def __init__(self):
        self.datagrams = []

    def send(self, datagrams):
        self.datagrams += datagrams.tolist()


class Clock:
    """Stands in for the module ``time``: sleeping and waiting advance it, nothing else does."""

    def __init__(self, now=100 * SECOND):
        self.now = now

    def monotonic_ns(self):
        return self.now

    def time_ns(self):
        return self.now + OFFSET

    def monotonic(self):
        return self.now / SECOND

    def sleep(self, seconds):
        self.now += int(seconds * SECOND)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(exporting, "time", clock)
    return clock


class Stepped(Exporter):
    """Waits on the clock above; stops after so many ticks. ``work`` is called in each."""

    def __init__(self, clock, meter, sender, ticks, config=None, work=lambda: None):
        super().__init__(meter, sender, config or ExportConfig())
        self.clock, self.left, self.work, self.begins = clock, ticks, work, []

    def _stopped(self, due_ns):
        self.clock.now = max(self.clock.now, due_ns)
        self.left -= 1
        return self.left < 0

    def tick(self):
        self.begins.append(self.clock.now)
        super().tick()
        self.work()


def flow(now=100 * SECOND, **fields):
    """One key, one value; a TCP flow over IPv4 that came in, unless ``fields`` say otherwise."""
    key, value = np.zeros(1, KEY_DTYPE), np.zeros(1, VALUE_DTYPE)
    known = {"src": V4_MAPPED + bytes([192, 0, 2, 1]), "dst": V4_MAPPED + bytes([192, 0, 2, 2]), "ip_version": 4}
    known |= {"src_port": 4000, "dst_port": 80, "ifindex": 7, "protocol": 6, "tos": 8, "tcp_flags": 0x112}
    known |= {"packets": 3, "octets": 300, "l2_octets": 342, "first_ns": now, "last_ns": now + 5_000_000}
    known |= {"length_min": 40, "length_max": 1500, "ttl_min": 63, "ttl_max": 64, "icmp_type": 3, "icmp_code": 1}
    known |= {"src_mac": bytes([2, 0, 0, 0, 0, 1]), "dst_mac": bytes([2, 0, 0, 0, 0, 2]), "ethertype": 0x800}
    known |= {"fragment_flags": 0x40, "fragment_id": 17, "tcp_window": 1000}
    for name, x in (known | fields).items():
        array = key if name in KEY_DTYPE.names else value
        array[name] = np.frombuffer(x, np.uint8) if isinstance(x, bytes) else x
    return key, value


def joined(*flows):
    return np.concatenate([key for key, _ in flows]), np.concatenate([value for _, value in flows])


def decoded(datagrams):
    """Records as dicts, and the problems that the decoder had."""
    results, problems = Decoder().decode(PacketBatch.of(datagrams), 0)
    records = []
    for batch in (flows for result in results for flows in result.flows):
        names = [specifier.element.name for specifier in batch.fields]
        columns = [column.tolist() for column in batch.columns]
        records += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return records, problems.tolist()


def exported(exporter, sender):
    """All that the exporter sends when it ends now."""
    exporter.finish()
    records, problems = decoded(sender.datagrams)
    assert problems == []
    return records


def test_a_tcp_flow_arrives_with_its_values(clock):
    sender = Sender()
    with Stepped(clock, Meter(flow()), sender, 0) as exporter:
        (record,) = exported(exporter, sender)
    assert record == {
        "sourceIPv4Address": 0xC0000201,
        "destinationIPv4Address": 0xC0000202,
        "sourceTransportPort": 4000,
        "destinationTransportPort": 80,
        "protocolIdentifier": 6,
        "ipClassOfService": 8,
        "tcpControlBits": 0x112,
        "sourceMacAddress": 0x020000000001,
        "destinationMacAddress": 0x020000000002,
        "ethernetType": 0x0800,
        "fragmentFlags": 0x40,
        "fragmentIdentification": 17,
        "tcpWindowSize": 1000,
        "ingressInterface": 7,
        "flowDirection": 0,
        "packetDeltaCount": 3,
        "octetDeltaCount": 300,
        "layer2OctetDeltaCount": 342,
        "flowStartMilliseconds": OFFSET // 10**6 + 100_000,
        "flowEndMilliseconds": OFFSET // 10**6 + 100_005,
        "minimumTTL": 63,
        "maximumTTL": 64,
        "minimumIpTotalLength": 40,
        "maximumIpTotalLength": 1500,
        "flowEndReason": EndReason.FORCED_END,
    }


@pytest.mark.parametrize(
    ("fields", "present", "absent"),
    [
        ({"protocol": 17}, {"sourceTransportPort"}, {"tcpControlBits", "icmpTypeIPv4", "dot1qVlanId"}),
        ({"protocol": 132}, {"destinationTransportPort"}, {"tcpControlBits"}),
        ({"protocol": 1}, {"icmpTypeIPv4", "icmpCodeIPv4"}, {"sourceTransportPort", "icmpTypeIPv6"}),
        ({"protocol": 58, "ip_version": 6}, {"icmpTypeIPv6", "sourceIPv6Address"}, {"icmpTypeIPv4"}),
        ({"protocol": 58}, {"protocolIdentifier"}, {"icmpTypeIPv4", "icmpTypeIPv6"}),  # no ICMP of its IP version
        ({"protocol": 47}, {"protocolIdentifier"}, {"sourceTransportPort", "tcpControlBits"}),
        ({"direction": 1}, {"egressInterface"}, {"ingressInterface"}),
        ({"vlan": 5}, {"dot1qVlanId"}, {"sourceIPv6Address", "dot1qCustomerVlanId", "mplsLabelStackDepth"}),
        ({"vlan": 5, "inner_vlan": 6}, {"dot1qCustomerVlanId"}, {"layer2SegmentId"}),
        ({"segment": 5}, {"layer2SegmentId"}, {"tcpMaximumSegmentSize"}),
        ({"tcp_mss": 1460}, {"tcpMaximumSegmentSize", "tcpWindowScale"}, {"flowLabelIPv6"}),
        ({"mpls_depth": 1, "mpls_1": b"abc"}, {"mplsTopLabelStackSection"}, {"ipv6ExtensionHeaders"}),
        ({"ip_version": 6}, {"destinationIPv6Address", "tcpControlBits"}, {"sourceIPv4Address"}),
    ],
)
def test_a_record_has_the_fields_that_are_known_and_no_others(clock, fields, present, absent):
    sender = Sender()
    with Stepped(clock, Meter(flow(**fields)), sender, 0) as exporter:
        (record,) = exported(exporter, sender)
    assert present <= set(record)
    assert not absent & set(record)


def test_every_combination_of_traits_has_a_record_that_can_be_sent():
    rng = np.random.default_rng(5)
    keys = np.zeros(3000, KEY_DTYPE)
    keys["protocol"] = rng.choice([1, 6, 17, 47, 58, 132], 3000)
    keys["ip_version"], keys["direction"] = rng.choice([0, 4, 6], 3000), rng.integers(0, 2, 3000)
    keys["vlan"] = rng.integers(0, 2, 3000)
    values = np.zeros(3000, VALUE_DTYPE)
    batches = flow_batches(FlowRecords(keys, values, np.ones(3000, np.uint8)), 0)
    assert sum(map(len, batches)) == 3000
    assert len({batch.fields for batch in batches}) == len(batches) == 34
    for known in np.unique(traits(keys, values)).tolist():
        names = [specifier.element.name for specifier in template(Trait(known))[0]]
        assert len(set(names)) == len(names)


def test_the_kernels_values_all_have_a_rule_and_a_field():
    values = set(VALUE_DTYPE.names) - {"jiffy", "padding", "link_padding"}  # the kernel's own
    assert set(MERGES) == values
    keys = set(KEY_DTYPE.names) - {"ip_version", "tunnel", "pad"}
    assert values | keys == {row.source for row in exporting.FIELDS if row.source != "reason"}


def test_what_found_the_map_full_is_a_record_of_its_own(clock):
    sender, meter = (
        Sender(),
        Meter(joined(flow(), flow(ip_version=0, protocol=0, packets=9, octets=900, l2_octets=1000))),
    )
    with Stepped(clock, meter, sender, 0) as exporter:
        exporter.tick()
        (record,), problems = decoded(sender.datagrams)
        assert problems == []
        assert record["flowEndReason"] == EndReason.LACK_OF_RESOURCES
        assert (record["packetDeltaCount"], record["octetDeltaCount"], record["ingressInterface"]) == (9, 900, 7)
        assert "sourceIPv4Address" not in record
        assert "protocolIdentifier" not in record
        assert sum(r["packetDeltaCount"] for r in exported(exporter, sender)) == 12
        assert exporter.counters.flows == {EndReason.LACK_OF_RESOURCES: 1, EndReason.FORCED_END: 1}


deltas = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from([1, 6, 17, 50]), st.sampled_from([4, 6]), st.integers(1, 2**40)),
    max_size=30,
)


@given(st.lists(deltas, max_size=6), st.integers(1, 30))
def test_every_packet_that_was_drained_is_exported_once(ticks, max_flows):
    clock = Clock()
    drains, sent = [], Counter()
    for number, rows in enumerate(ticks):
        flows = []
        for port, protocol, version, packets in rows:
            sent[port, protocol, version] += packets
            now = (100 + number) * SECOND
            known = {"src_port": port, "tos": port, "protocol": protocol, "ip_version": version, "packets": packets}
            flows.append(flow(now, octets=2 * packets, **known))
        drains.append(joined(*flows) if flows else (np.zeros(0, KEY_DTYPE), np.zeros(0, VALUE_DTYPE)))
    sender, got = Sender(), Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "time", clock)
        config = ExportConfig(active_timeout=3, inactive_timeout=2, max_flows=max_flows)
        with Stepped(clock, Meter(*drains), sender, len(ticks) + 3, config) as exporter:
            exporter.run()
            counters = exporter.counters
    records, problems = decoded(sender.datagrams)
    assert problems == []
    for record in records:
        version = 4 if "sourceIPv4Address" in record else 6
        got[record["ipClassOfService"], record["protocolIdentifier"], version] += record["packetDeltaCount"]
        assert record["octetDeltaCount"] == 2 * record["packetDeltaCount"]
    assert got == sent
    assert counters.packets_metered == counters.packets_exported == sent.total()
    assert counters.flows.total() == len(records)


def header(datagram):
    return SimpleNamespace(
        length=int.from_bytes(datagram[2:4]),
        sequence=int.from_bytes(datagram[8:12]),
        domain=int.from_bytes(datagram[12:16]),
        set_id=int.from_bytes(datagram[16:18]),
    )


def test_messages_are_short_and_their_sequence_numbers_count_data_records(clock):
    sender, config = Sender(), ExportConfig(observation_domain_id=77)
    many = joined(*(flow(src_port=port, protocol=6 + 11 * (port % 2)) for port in range(500)))
    with Stepped(clock, Meter(many, many), sender, 0, config) as exporter:
        exporter.tick()
        assert exporter.counters.flows.total() == 0
        exported(exporter, sender)
    count = 0
    decoder = Decoder()
    for datagram in sender.datagrams:
        head = header(datagram)
        assert (head.length, head.sequence, head.domain) == (len(datagram), count, 77)
        assert len(datagram) <= 1400
        results, _ = decoder.decode(PacketBatch.of([datagram]), 0)
        count += sum(len(batch) for result in results for batch in result.flows)
    assert count == 500
    assert exporter.counters.messages == len(sender.datagrams) < 50


def test_templates_come_first_when_new_and_at_refresh(clock):
    def sets():
        """Whether each datagram sent since the last call is Templates (Set ID 2)."""
        new = [header(datagram).set_id == 2 for datagram in sender.datagrams]
        sender.datagrams.clear()
        return new

    sender = Sender()
    quiet = (np.zeros(0, KEY_DTYPE), np.zeros(0, VALUE_DTYPE))
    drains = [flow(0), flow(0), flow(0, protocol=17), quiet]
    with Stepped(clock, Meter(*drains), sender, 0, ExportConfig(template_refresh_rate=10)) as exporter:
        seen = []
        for _ in range(4):  # the flows are old: each goes out at once
            exporter.tick()
            seen.append(sets())
            clock.now += 4 * SECOND
        assert seen == [[True, False], [False], [True, False], []]
        clock.now += 4 * SECOND
        exporter.tick()
        assert sets() == [True]
        exporter.tick()
        assert sets() == []


def test_ticks_keep_their_pace_and_a_slow_one_is_counted(clock):
    slow = iter([0, 0.4, 0.9, 3.5, 0])
    work = lambda: clock.sleep(next(slow, 0))  # noqa: E731
    with Stepped(clock, Meter(), Sender(), 6, work=work) as exporter:
        exporter.run()
    assert [begin // SECOND for begin in exporter.begins] == [101, 102, 103, 104, 108, 109]
    assert all(begin % SECOND == 0 for begin in exporter.begins)
    counters = exporter.counters
    assert (counters.ticks, counters.slow_ticks, counters.skipped_ticks) == (6, 1, 3)


def test_the_end_detaches_before_the_last_drain(clock):
    meter = Meter()
    with Stepped(clock, meter, Sender(), 2) as exporter:
        exporter.start()
        exporter.run()
    assert meter.calls == ["attach", "drain", "drain", "detach", "drain"]


def test_flows_go_out_even_if_detaching_fails(clock):
    meter, sender = Meter(flow()), Sender()
    meter.detach = lambda: (_ for _ in ()).throw(RuntimeError("the interface is gone"))
    with Stepped(clock, meter, sender, 0) as exporter:
        with pytest.raises(RuntimeError):
            exporter.run()
        assert len(decoded(sender.datagrams)[0]) == 1


def test_stop_ends_run_at_once():
    with Exporter(Meter(), Sender(), ExportConfig()) as exporter:
        exporter.stop()
        exporter.run()
        assert exporter.counters.ticks == 0


def test_many_messages_are_spread_over_the_tick(clock):
    sender, times = Sender(), []
    sender.send = lambda datagrams: times.append((clock.now, len(datagrams)))
    many = joined(*(flow(src_port=port) for port in range(2000)))
    with Stepped(clock, Meter(many), sender, 0) as exporter:
        begin = clock.now
        exporter.finish()
    assert max(count for _, count in times) <= exporting.BURST
    sent = sum(count for _, count in times)
    assert sent == exporter.counters.messages > 100
    assert times[-1][0] - begin == pytest.approx(sent / exporting.SLOW_RATE * SECOND, rel=0.2)


def test_the_summary_says_where_everything_went(clock):
    with Stepped(clock, Meter(joined(flow(), flow(ip_version=0, packets=1))), Sender(), 0) as exporter:
        exporter.run()
        counters = exporter.counters
    counters.slow_ticks = 1
    statistics = {
        "metered": (3, 342),
        "not_ip": (1, 60),
        "malformed": (0, 0),
        "map_full": (1, 342),
        "gso_added": (5, 5),
    }
    assert list(summary(counters, statistics, [SendCounts(sent=1, lost=2, reports=1, last_error="No route")])) == [
        "metered 4 packets, 600 IP octets, 684 octets on layer 2",
        "left out not ip: 1 packet, 60 octets on layer 2",
        "exported 2 flows (forced end 1, lack of resources 1)",
        "map full: 1 packet counted without their flow; a larger --max-flows keeps them apart",
        f"sent 3 messages (1 of them with Templates), {counters.message_octets} octets",
        "lost 2 messages that the kernel refused: No route",
        "unheard: 1 report that messages did not arrive; is the collector running?",
        "slow: 1 tick of 0 took longer than a second",
    ]
