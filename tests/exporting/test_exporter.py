"""The exporting process with a meter and a sender of our own; its Messages are decoded again."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import OFFSET, SECOND, Clock, Meter, Sender, Stepped, decoded, flow, joined, patched

from pyflowx.batch import PacketBatch
from pyflowx.cli.export import summary
from pyflowx.exporting import ExportConfig, Exporter, fields, sessions
from pyflowx.exporting.exporter import ticks_between_drains
from pyflowx.flowtable import EndReason
from pyflowx.kernel import Attachment, LinkChange
from pyflowx.kernel.layout import ETHER_KEY_DTYPE, ETHER_VALUE_DTYPE, KEY_DTYPE, VALUE_DTYPE
from pyflowx.transport.udp import SendCounts
from pyflowx.wire import Decoder


@pytest.fixture
def clock():
    with patched(Clock()) as clock:
        yield clock


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


def test_what_found_the_map_full_is_a_record_of_its_own(clock):
    sender, meter = (
        Sender(),
        Meter(joined(flow(), flow(ip_version=0, ethertype=0, protocol=0, packets=9, octets=900, l2_octets=1000))),
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


def test_a_frame_of_type_0_is_no_catch_all_flow(clock):
    keys, values = np.zeros(2, ETHER_KEY_DTYPE), np.zeros(2, ETHER_VALUE_DTYPE)
    keys["src_mac"][0], values["packets"], values["first_ns"], values["last_ns"] = 2, 5, clock.now, clock.now
    sender = Sender()
    with Stepped(clock, Meter((keys, values)), sender, 0, ExportConfig(key="ether")) as exporter:
        exporter.tick()
        exporter.run()
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
    with patched(clock):
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
        results, problems = decoder.decode(PacketBatch.of([datagram]), 0)
        count += sum(len(batch) for result in results for batch in result.flows)
    assert count - len(decoded(sender.datagrams, options=True)[0]) == 500
    assert exporter.counters.messages == len(sender.datagrams) < 50


def test_templates_and_options_come_first_at_refresh_and_new_ones_when_they_are_needed(clock):
    def told():
        """(Templates, options records, flows) since the last call."""
        if not sender.datagrams:
            return None
        results, _ = Decoder().decode(PacketBatch.of(sender.datagrams), 0)
        sender.datagrams.clear()
        (result,) = results
        count = [
            sum(len(each) for each in result.flows if (each.scope_count > 0) == scoped) for scoped in (True, False)
        ]
        return len(result.templates), *count

    sender = Sender()
    quiet = (np.zeros(0, KEY_DTYPE), np.zeros(0, VALUE_DTYPE))
    drains = [quiet, flow(0), flow(0), flow(0, protocol=17), quiet]
    with Stepped(clock, Meter(*drains), sender, 0, refresh=16) as exporter:
        seen = []
        for _ in range(5):  # the flows are old: each goes out at once; but without Templates they cannot be decoded
            exporter.tick()
            seen.append(told())
            clock.now += 4 * SECOND
        assert seen == [(1, 1, 0), (1, 0, 1), (0, 0, 0), (1, 0, 1), (4, 3, 0)]
        exporter.tick()
        assert told() is None


def test_after_reports_that_nobody_hears_templates_go_again(clock):
    sender = Sender()
    with Stepped(clock, Meter(*[flow(0) for _ in range(4)]), sender, 0) as exporter:
        exporter.tick()
        exporter.tick()
        sender.datagrams.clear()
        sender.unheard = 1
        exporter.tick()
        assert len(decoded(sender.datagrams)[0]) == 1  # can be read by whoever hears us first
        sender.datagrams.clear()
        exporter.tick()
        assert decoded(sender.datagrams)[0] == []


def test_ticks_keep_their_pace_and_a_slow_one_is_counted(clock):
    slow = iter([0, 0.4, 0.9, 3.5, 0])
    work = lambda: clock.sleep(next(slow, 0))  # noqa: E731
    with Stepped(clock, Meter(), Sender(), 6, work=work) as exporter:
        exporter.run()
    assert [begin // SECOND for begin in exporter.begins] == [100, 101, 102, 103, 107, 108]
    assert all(begin % SECOND == 0 for begin in exporter.begins)
    counters = exporter.counters
    assert (counters.ticks, counters.slow_ticks, counters.skipped_ticks) == (6, 1, 3)


def test_the_end_detaches_before_the_last_drain(clock):
    meter = Meter()
    with Stepped(clock, meter, Sender(), 2) as exporter:
        exporter.start()
        exporter.run()
    assert meter.calls == ["attach", "drain", "drain", "detach", "drain", "drain"]


def test_flows_go_out_even_if_detaching_fails(clock):
    meter, sender = Meter(flow()), Sender()
    meter.detach = lambda: (_ for _ in ()).throw(RuntimeError("the interface is gone"))
    with Stepped(clock, meter, sender, 0) as exporter:
        with pytest.raises(RuntimeError):
            exporter.run()
        assert len(decoded(sender.datagrams)[0]) == 1


def test_stop_ends_run_at_once():
    with Exporter(Meter(), [], ExportConfig()) as exporter:
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
    assert max(count for _, count in times) <= sessions.BURST
    sent = sum(count for _, count in times)
    assert sent == exporter.counters.messages > 100
    assert times[-1][0] - begin == pytest.approx(sent / sessions.SLOW_RATE * SECOND, rel=0.2)


def test_many_records_go_group_by_group_and_miss_nothing(clock, monkeypatch):
    monkeypatch.setattr(fields, "MAX_BATCH", 50)
    monkeypatch.setattr(sessions, "_GROUP", 300)
    many = joined(*(flow(src_port=port, protocol=6 if port % 3 else 17) for port in range(2000)))
    sender = Sender()
    with Stepped(clock, Meter(many), sender, 0) as exporter:
        begin = clock.now
        exporter.finish()
    records, problems = decoded(sender.datagrams)
    assert problems == []
    assert sorted(record["sourceTransportPort"] for record in records) == list(range(2000))
    sequence = [int.from_bytes(datagram[8:12], "big") for datagram in sender.datagrams]
    assert sequence == sorted(sequence) and sequence[-1] < 2000 + len(decoded(sender.datagrams, options=True)[0])
    templates = [number for number, datagram in enumerate(sender.datagrams) if datagram[16:18] == b"\0\2"]
    assert templates == [0]
    assert clock.now - begin == pytest.approx(len(sender.datagrams) / sessions.SLOW_RATE * SECOND, rel=0.2)


def test_the_summary_says_where_everything_went(clock):
    with Stepped(clock, Meter(joined(flow(), flow(ip_version=0, packets=1))), Sender(), 0) as exporter:
        exporter.run()
        counters = exporter.counters
    counters.slow_ticks, counters.not_sent_flows, counters.not_sent_packets = 1, 2, 3
    counters.refused_flows, counters.refused_packets = 1, 2
    statistics = {
        "metered": (3, 342),
        "not_ip": (1, 60),
        "malformed": (0, 0),
        "map_full": (1, 342),
        "gso_added": (5, 5),
    }
    assert list(
        summary(counters, statistics, [("there:1", SendCounts(sent=1, lost=2, reports=1, last_error="No route"))])
    ) == [
        "metered 4 packets, 600 IP octets, 684 octets on layer 2",
        "left out not ip: 1 packet, 60 octets on layer 2",
        "exported 2 flows (forced end 1, lack of resources 1)",
        "map full: 1 packet counted without their flow; a larger --max-flows keeps them apart",
        "refused 1 flow of 2 packets: NetFlow v5 carries IPv4 only; --protocol ipfix carries all",
        f"sent 1 message (1 of them with Templates), {counters.message_octets} octets",
        "lost 2 messages to there:1 that the kernel refused: No route",
        "unheard: 1 report that there:1 did not get messages; is the collector running?",
        "not sent: 2 flows of 3 packets",
        "slow: 1 tick of 0 took longer than a second",
    ]


@pytest.mark.parametrize(
    ("cost", "timeout", "wanted"),
    [(0.001, 15, 1), (0.011, 15, 2), (0.5, 15, 5), (0.5, 6, 2), (0.5, 1, 1)],
)
def test_many_flows_are_drained_less_often(cost, timeout, wanted):
    assert ticks_between_drains(cost, timeout) == wanted


def test_a_costly_drain_is_followed_by_a_pause_unless_the_map_fills(clock):
    meter = Meter()
    drain = meter.drain
    meter.drain = lambda: (clock.sleep(0.1), drain())[1]
    with Stepped(clock, meter, Sender(), 0, ExportConfig(max_flows=1 << 22)) as exporter:
        seen = []
        for tick in range(12):
            meter.waiting = (1 << 21) + 1 if tick == 8 else 1 << 21
            exporter.tick()
            seen.append(exporter.counters.drains)
        assert seen == [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
        assert exporter.counters.ticks == 12


def test_what_becomes_of_interfaces_is_told(clock):
    sender, meter, told = Sender(), Meter(), []
    meter.attach = lambda: [Attachment("eth7", 7, "tc", "ingress")]
    with Stepped(clock, meter, sender, 0) as exporter:
        exporter.notice = told.append
        exporter.start()
        exporter.tick()
        sender.datagrams.clear()
        meter.attachments = [Attachment("eth7", 9, "tc", "ingress"), Attachment("eth7", 9, "tc", "egress")]
        meter.changes = [LinkChange("eth7", 7, "gone"), LinkChange("eth7", 9, "attached")]
        exporter.tick()
        records, _ = decoded(sender.datagrams, options=True)
    assert [record["ingressInterface"] for record in records if "interfaceName" in record] == [9]
    assert [change.event for change in told] == ["gone", "attached"]


def test_a_clock_that_is_set_moves_flows_as_a_whole(clock):
    sender, meter = Sender(), Meter(flow(), flow())
    offsets = iter([OFFSET, OFFSET, OFFSET - 3600 * SECOND])
    meter.offset_ns = lambda: next(offsets)
    with Stepped(clock, meter, sender, 0) as exporter:
        exporter.tick()
        exporter.tick()
        exporter.finish()
        (record,), _ = decoded(sender.datagrams)
    assert record["flowStartMilliseconds"] == (OFFSET - 3600 * SECOND + 100 * SECOND) // 10**6
    assert record["flowEndMilliseconds"] - record["flowStartMilliseconds"] == 5
