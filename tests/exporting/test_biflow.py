"""Both directions of a conversation: in one record, and when it has ended."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import SECOND, Clock, Meter, Sender, Stepped, decoded, flow, joined, patched

from pyflowx.batch import V4_MAPPED
from pyflowx.exporting import ExportConfig
from pyflowx.exporting.biflow import FIN, QUIET_NS, RST, Pairing, conversations, ended
from pyflowx.flowtable import EndReason
from pyflowx.kernel.layout import KEY_DTYPE, VALUE_DTYPE

ONE, OTHER = V4_MAPPED + bytes([192, 0, 2, 1]), V4_MAPPED + bytes([192, 0, 2, 2])
SYN, ACK = 2, 16


@pytest.fixture
def clock():
    with patched(Clock()) as clock:
        yield clock


def there(now, **fields):
    return flow(now, src=ONE, dst=OTHER, src_port=4000, dst_port=80, direction=1, **fields)


def back(now, **fields):
    return flow(now, src=OTHER, dst=ONE, src_port=80, dst_port=4000, direction=0, **fields)


ends = st.tuples(st.sampled_from([ONE, OTHER]), st.integers(0, 3))


@given(st.lists(st.tuples(ends, ends, st.integers(0, 1), st.integers(0, 3)), min_size=1))
def test_a_conversation_has_one_key_from_both_sides(pairs):
    def keys(turned):
        sides = [(b, a, 1 - way, tos) if turned else (a, b, way, tos) for a, b, way, tos in pairs]
        rows = [
            flow(src=a[0], src_port=a[1], dst=b[0], dst_port=b[1], direction=way, tos=tos) for a, b, way, tos in sides
        ]
        return joined(*rows)[0]

    one, one_turned = conversations(keys(False))
    other, other_turned = conversations(keys(True))
    assert one.tobytes() == other.tobytes()
    same = np.array([a == b for a, b, _, _ in pairs])
    assert (one_turned != other_turned)[~same].all()
    assert not one["direction"].any()
    assert not one["tos"].any()


@pytest.mark.parametrize(
    ("flags", "over"),
    [
        ((ACK | FIN, ACK | FIN), (True, True)),
        ((ACK | FIN, ACK), (False,)),
        ((RST, ACK), (True,)),
        ((ACK | RST, ACK | FIN), (True, True)),
    ],
)
def test_a_connection_ends_by_fin_both_ways_or_reset(flags, over):
    rows = [there(0, tcp_flags=flags[0], tos=2), back(0, tcp_flags=flags[1])]
    seen = joined(*(row for row, flag in zip(rows, flags, strict=True) if flag & (FIN | RST)))
    assert tuple(ended(*seen, SECOND).tolist()) == over
    assert not ended(*seen, QUIET_NS).any()  # something may still come


def test_two_fins_of_one_way_are_not_an_end():
    assert not ended(*joined(there(0, tcp_flags=FIN), there(0, tcp_flags=FIN, tos=4)), SECOND).any()
    assert not ended(*joined(there(0, tcp_flags=FIN), back(0, tcp_flags=FIN, ifindex=8)), SECOND).any()


@pytest.mark.parametrize("biflow", [False, True])
def test_an_ended_connection_goes_out_early_and_says_why(clock, biflow):
    now = clock.now
    sender = Sender()
    drains = [joined(there(now, tcp_flags=SYN | FIN, last_ns=now), back(now, tcp_flags=SYN | ACK, last_ns=now))]
    drains += [back(now + SECOND, tcp_flags=FIN | ACK, last_ns=now + SECOND)]
    with Stepped(clock, Meter(*drains), sender, 0, ExportConfig(biflow=biflow)) as exporter:
        exporter.tick()
        clock.now += SECOND
        exporter.tick()
        assert decoded(sender.datagrams)[0] == []  # a last packet may still come
        clock.now += SECOND
        exporter.tick()
        records, _ = decoded(sender.datagrams)
        assert {record["flowEndReason"] for record in records} == {EndReason.END_OF_FLOW}
        assert len(records) == (1 if biflow else 2)
        assert len(exporter) == 0


def test_a_biflow_has_the_values_of_both_ways(clock):
    now = clock.now
    sender = Sender()
    first = {"packets": 5, "octets": 500, "tcp_flags": SYN | ACK, "tos": 8, "ttl_min": 64, "length_max": 1500}
    answer = {"packets": 3, "octets": 9000, "tcp_flags": ACK, "tos": 0, "ttl_min": 50, "ttl_max": 51}
    drains = [back(now + 10**7, last_ns=now + 10**8, **answer), there(now, **first), there(now + 10**9, **first)]
    with Stepped(clock, Meter(joined(*drains[:2]), drains[2]), sender, 0, ExportConfig(biflow=True)) as exporter:
        exporter.tick()
        exporter.finish()
        (record,), problems = decoded(sender.datagrams)
    assert problems == []
    wanted = {"sourceTransportPort": 4000, "destinationTransportPort": 80, "biflowDirection": 1, "egressInterface": 7}
    wanted |= {"packetDeltaCount": 10, "reversePacketDeltaCount": 3, "octetDeltaCount": 1000, "flowDirection": 1}
    wanted |= {"reverseOctetDeltaCount": 9000, "tcpControlBits": SYN | ACK, "reverseTcpControlBits": ACK}
    wanted |= {"ipClassOfService": 8, "reverseIpClassOfService": 0, "minimumTTL": 64, "reverseMinimumTTL": 50}
    wanted |= {"sourceMacAddress": 0x020000000001, "reverseMaximumTTL": 51, "maximumIpTotalLength": 1500}
    assert {name: record[name] for name in wanted} == wanted
    start, start_back = record["flowStartMilliseconds"], record["reverseFlowStartMilliseconds"]
    assert start_back - start == 10
    assert record["reverseFlowEndMilliseconds"] - start == 100
    assert exporter.counters.packets_exported == exporter.counters.packets_metered == 13


def test_a_way_without_packets_is_absent(clock):
    sender = Sender()
    with Stepped(clock, Meter(there(clock.now)), sender, 0, ExportConfig(biflow=True)) as exporter:
        exporter.finish()
        (record,), _ = decoded(sender.datagrams)
    assert not [name for name in record if name.startswith(("reverse", "biflow"))]
    assert record["minimumTTL"] == 63


sides = st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 2**40))


@given(st.lists(st.lists(sides, max_size=12), max_size=5))
def test_no_packet_is_lost_in_pairs(ticks):
    clock, sender, wanted, got = Clock(), Sender(), Counter(), Counter()
    drains = []
    for rows in ticks:
        flows = []
        for is_back, port, packets in rows:
            one, other = (OTHER, ONE) if is_back else (ONE, OTHER)
            ports = (80, port) if is_back else (port, 80)
            known = {"src": one, "dst": other, "src_port": ports[0], "dst_port": ports[1], "packets": packets}
            flows.append(flow(clock.now, direction=1 - is_back, **known))
            wanted[is_back, port] += packets
        drains.append(joined(*flows) if flows else (np.zeros(0, KEY_DTYPE), np.zeros(0, VALUE_DTYPE)))
    with (
        patched(clock),
        Stepped(clock, Meter(*drains), sender, len(ticks), ExportConfig(biflow=True)) as exporter,
    ):
        exporter.run()
    for record in decoded(sender.datagrams)[0]:
        is_back = record["sourceTransportPort"] == 80
        port = record["destinationTransportPort" if is_back else "sourceTransportPort"]
        got[is_back, port] += record["packetDeltaCount"]
        got[not is_back, port] += record.get("reversePacketDeltaCount", 0)
    assert +got == +wanted


def test_a_pair_takes_its_fields_from_the_first_packet_of_each_way():
    pairing = Pairing(KEY_DTYPE, VALUE_DTYPE)
    keys, values = pairing.deltas(*joined(there(5, icmp_type=8), back(6, icmp_type=0)))
    assert keys[0] == keys[1]
    assert values.dtype.itemsize % 8 == 0
    assert values["f_packets"].tolist() in ([3, 0], [0, 3])
    assert values["last_ns"].tolist() == [5_000_005, 5_000_006]


def test_a_way_that_is_silent_does_not_end_a_biflow(clock):
    """Only packets of the turned direction: the idle timeout counts from the last of them."""
    for one in (there, back):
        sender = Sender()
        drains = [one(clock.now + n * SECOND, last_ns=clock.now + n * SECOND) for n in range(4)]
        config = ExportConfig(biflow=True, inactive_timeout=2, active_timeout=10)
        with Stepped(clock, Meter(*drains), sender, 0, config) as exporter:
            for _ in range(4):
                exporter.tick()
                clock.now += SECOND
            assert (len(exporter), decoded(sender.datagrams)[0]) == (1, [])
            exporter.tick()
            clock.now += SECOND
            exporter.tick()
            assert decoded(sender.datagrams)[0][0]["flowEndReason"] == EndReason.IDLE_TIMEOUT
