"""Options records as a collector reads them."""

from __future__ import annotations

import pytest
from parts import OFFSET, SECOND, Clock, Meter, Sender, Stepped, decoded, flow, patched

from pyflowx.exporting import ExportConfig, Schema, SessionCounts
from pyflowx.exporting.options import Facts, interface_names, options, sampling
from pyflowx.exporting.sessions import udp_encoder


def told(facts, protocol="ipfix", counts=None):
    """The options records as dicts."""
    encoder = udp_encoder(protocol, 1, (1, False))
    batches = options(facts, Schema(protocol), counts or SessionCounts(), encoder)
    records, problems = decoded(encoder.encode_all(batches, OFFSET, "all").tolist(), options=True)
    assert problems == []
    return records


def test_names_of_interfaces():
    record, *_ = told(Facts(1, [(7, "eth7"), (8, "br0")]))
    assert record["ingressInterface"] == 7
    assert record["interfaceName"] == b"eth7".ljust(16, b"\0")
    (batch,) = interface_names(Facts(1, [(7, "eth7"), (8, "br0")]))
    assert (len(batch), batch.scope_count) == (2, 1)
    assert interface_names(Facts(1)) == []


@pytest.mark.parametrize(
    ("is_random", "wanted"),
    [
        (False, {"selectorAlgorithm": 1, "samplingPacketInterval": 1, "samplingPacketSpace": 99}),
        (True, {"selectorAlgorithm": 4, "samplingProbability": 0.01}),
    ],
)
def test_how_packets_were_sampled(is_random, wanted):
    record, *_ = told(Facts(1, sampling_interval=100, sampling_random=is_random))
    assert record == {"selectorId": 1, **wanted}
    (batch,) = sampling(Facts(1, sampling_interval=100, sampling_random=is_random), "ipfix")
    assert batch.scope_count == 1
    assert sampling(Facts(1), "ipfix") == []


def test_netflow9_tells_it_as_a_router_does():
    first, second, third = told(Facts(1, [(7, "eth7")], sampling_interval=100, sampling_random=True), "netflow9")
    assert first["interfaceName"].rstrip(b"\0") == b"eth7"
    assert (second["samplingInterval"], second["samplingAlgorithm"]) == (100, 2)
    assert third["exportedMessageTotalCount"] == 0


def test_netflow5_has_none():
    assert (
        options(Facts(1, [(7, "eth7")]), Schema("netflow5"), SessionCounts(), udp_encoder("netflow5", 1, (1, 0))) == []
    )


def test_statistics_of_both_processes():
    counts = SessionCounts(messages=3, octets=1000, flows=7)
    (record,) = told(Facts(5), counts=counts)
    wanted = {"observationDomainId": 5, "exportedMessageTotalCount": 3, "exportedFlowRecordTotalCount": 7}
    assert record == wanted | {"exportedOctetTotalCount": 1000}
    facts = Facts(5, ignored_packets=2, ignored_octets=120, ignored_first_ns=SECOND, ignored_last_ns=3 * SECOND)
    counts.not_sent_flows, counts.not_sent_packets, counts.not_sent_octets = 4, 40, 4000
    _, ignored, not_sent = told(facts, counts=counts)
    assert (ignored["ignoredPacketTotalCount"], ignored["ignoredOctetTotalCount"]) == (2, 120)
    assert (not_sent["notSentFlowTotalCount"], not_sent["notSentPacketTotalCount"]) == (4, 40)
    assert not_sent["notSentOctetTotalCount"] == 4000
    assert not_sent["exportingProcessId"] > 0


def test_an_exporter_tells_what_happened_to_it():
    sender, meter = Sender(), Meter(flow(0), flow(0))
    meter.ignored = {"malformed": (2, 128), "lost": (0, 0), "not_ip": (9, 900), "metered": (3, 300)}
    with patched(Clock()) as clock, Stepped(clock, meter, sender, 0, ExportConfig(), refresh=2) as exporter:
        exporter.tick()
        clock.now += 2 * SECOND
        exporter.tick()
        records, problems = decoded(sender.datagrams, options=True)
    assert problems == []
    ignored = [record for record in records if "ignoredPacketTotalCount" in record]
    assert {record["ignoredPacketTotalCount"] for record in ignored} == {2}
    exported = [record["exportedFlowRecordTotalCount"] for record in records if "exportedOctetTotalCount" in record]
    assert exported == [0, 1]
    keys, _ = [record for record in records if "flowKeyIndicator" in record]  # in both ticks
    assert keys["flowKeyIndicator"] > 0


def test_packet_reports_say_what_they_were_selected_from():
    facts = Facts(1, [(7, "eth7"), (8, "eth8")], reports_packets=True, observed=100, selected=25)
    records = told(facts)
    assert {"selectorId": 1, "selectorAlgorithm": 1, "samplingPacketInterval": 1, "samplingPacketSpace": 0} in records
    points = [record["ingressInterface"] for record in records if set(record) >= {"selectionSequenceId", "selectorId"}]
    assert points == [7, 8]
    (counts,) = [record for record in records if "selectorIdTotalPktsObserved" in record]
    assert counts == {"selectionSequenceId": 1, "selectorIdTotalPktsObserved": 100, "selectorIdTotalPktsSelected": 25}
