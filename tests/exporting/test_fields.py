"""What a record says: fields by what is known of a flow, for each protocol."""

from __future__ import annotations

import numpy as np
import pytest
from parts import OFFSET, SECOND, flow, records_of

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.elements import FieldSpecifier
from pyflowx.exporting import MERGES, PROTOCOLS, Schema, fields
from pyflowx.exporting.fields import FIELDS, Trait
from pyflowx.exporting.sessions import udp_encoder
from pyflowx.flowtable import FlowRecords
from pyflowx.kernel.layout import ETHER_KEY_DTYPE, ETHER_VALUE_DTYPE, KEY_DTYPE, KEY_LEVELS, VALUE_DTYPE, Tunnel, dtypes
from pyflowx.wire import Decoder


def sent(records, schema=None, boot=OFFSET):
    """The records as dicts, as a collector reads them."""
    schema = schema or Schema()
    encoder = udp_encoder(schema.protocol, 1, (1, False))
    encoder.boot_ns = boot
    datagrams = encoder.encode_all(schema.batches(schema.carried(records)[0], OFFSET), OFFSET + 200 * SECOND, "all")
    results, problems = Decoder().decode(PacketBatch.of(datagrams.tolist()), 0)
    assert problems.tolist() == []
    rows = []
    for batch in (batch for result in results for batch in result.flows):
        names = [specifier.element.name for specifier in batch.fields]
        columns = [column.tolist() for column in batch.columns]
        rows += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return rows


@pytest.mark.parametrize(
    ("fields", "present", "absent"),
    [
        ({"protocol": 17}, {"sourceTransportPort"}, {"tcpControlBits", "icmpTypeIPv4", "dot1qVlanId"}),
        ({"protocol": 132}, {"destinationTransportPort"}, {"tcpControlBits"}),
        (
            {"protocol": 1},
            {"icmpTypeIPv4", "icmpCodeIPv4", "icmpTypeCodeIPv4"},
            {"sourceTransportPort", "icmpTypeIPv6"},
        ),
        ({"protocol": 2}, {"igmpType"}, {"icmpTypeIPv4"}),
        ({"protocol": 58, "ip_version": 6}, {"icmpTypeIPv6", "icmpTypeCodeIPv6"}, {"icmpTypeIPv4"}),
        ({"protocol": 58}, {"protocolIdentifier"}, {"icmpTypeIPv4", "icmpTypeIPv6"}),  # no ICMP of its IP version
        ({"protocol": 47}, {"protocolIdentifier"}, {"sourceTransportPort", "tcpControlBits"}),
        ({"direction": 1}, {"egressInterface"}, {"ingressInterface"}),
        ({"vlan": 5}, {"dot1qVlanId", "vlanId"}, {"sourceIPv6Address", "dot1qCustomerVlanId", "mplsLabelStackDepth"}),
        ({"vlan": 5, "inner_vlan": 6}, {"dot1qCustomerVlanId"}, {"layer2SegmentId"}),
        ({"segment": 5, "tunnel": Tunnel.VXLAN}, {"layer2SegmentId"}, {"tcpMaximumSegmentSize", "greKey"}),
        ({"segment": 5, "tunnel": Tunnel.GRE}, {"greKey"}, {"layer2SegmentId"}),
        ({"protocol": 50, "segment": 5}, {"IPSecSPI"}, {"sourceTransportPort", "greKey"}),
        ({"protocol": 51, "segment": 5, "tunnel": Tunnel.GRE}, {"IPSecSPI"}, {"greKey", "layer2SegmentId"}),
        ({"protocol": 50, "ip_version": 6, "segment": 5}, {"IPSecSPI"}, {"sourceIPv4Address"}),
        ({"tunnel": Tunnel.IP}, set(), {"greKey", "layer2SegmentId"}),
        ({"tcp_mss": 1460}, {"tcpMaximumSegmentSize", "tcpWindowScale"}, {"flowLabelIPv6"}),
        ({"protocol": 17, "tcp_mss": 1460}, set(), {"tcpMaximumSegmentSize"}),
        (
            {"mpls_depth": 2, "mpls_1": b"abc", "mpls_2": b"def"},
            {"mplsTopLabelStackSection", "mplsLabelStackSection2"},
            {"ipv6ExtensionHeadersFull", "mplsLabelStackSection3"},
        ),
        ({"ip_version": 6}, {"destinationIPv6Address", "flowLabelIPv6"}, {"sourceIPv4Address"}),
        ({"ip_version": 6, "fragment_id": 0, "fragment_flags": 0}, {"sourceIPv6Address"}, {"fragmentFlags"}),
        ({"ip_version": 6, "extensions": 4}, {"ipv6ExtensionHeadersFull"}, {"icmpTypeIPv6"}),
        ({"ethertype": 0}, {"sourceIPv4Address"}, {"sourceMacAddress", "ethernetType"}),
    ],
)
def test_a_record_has_the_fields_that_are_known_and_no_others(fields, present, absent):
    (record,) = sent(records_of(flow(**fields)))
    assert present <= set(record)
    assert not absent & set(record)


def test_values_in_the_units_and_forms_of_their_elements():
    known = {"ip_version": 6, "extensions": 0x10, "segment": 7, "tunnel": Tunnel.NVGRE, "vlan": 5, "inner_vlan": 6}
    known |= {"mpls_depth": 3, "mpls_1": b"abc", "mpls_2": b"def", "mpls_3": b"ghi", "tcp_mss": 1460}
    (record,) = sent(records_of(flow(tcp_window_scale=7, **known)))
    wanted = {"ipv6ExtensionHeadersFull": b"\0\0\0\x10", "layer2SegmentId": 2 << 56 | 7, "dot1qVlanId": 5}
    wanted |= {"mplsTopLabelStackSection": b"abc", "mplsLabelStackSection3": b"ghi", "mplsLabelStackDepth": 3}
    wanted |= {"tcpMaximumSegmentSize": 1460, "tcpWindowScale": 7, "dot1qCustomerVlanId": 6, "fragmentFlags": 0x40}
    assert {name: record[name] for name in wanted} == wanted


@pytest.mark.parametrize(("protocol", "biflow"), [*((protocol, False) for protocol in PROTOCOLS), ("ipfix", True)])
def test_every_combination_of_traits_has_a_record_that_can_be_sent(protocol, biflow):
    rng = np.random.default_rng(5)
    n = 3000
    keys, values = np.zeros(n, KEY_DTYPE), np.zeros(n, VALUE_DTYPE)
    keys["protocol"] = rng.choice([1, 2, 6, 17, 47, 50, 58, 132], n)
    keys["ip_version"], keys["direction"] = rng.choice([0, 4, 6], n), rng.integers(0, 2, n)
    keys["vlan"], keys["tunnel"] = rng.integers(0, 2, n), rng.integers(0, len(Tunnel), n)
    values["mpls_depth"], values["ethertype"] = rng.integers(0, 5, n), rng.integers(0, 2, n)
    values["tcp_mss"] = rng.integers(0, 2, n)
    records = FlowRecords(keys, values, np.ones(n, np.uint8))
    schema = Schema(protocol, biflow=biflow)
    carried, refused = schema.carried(records)
    assert len(carried) + len(refused) == n
    batches = schema.batches(carried, OFFSET)
    assert sum(map(len, batches)) == len(carried)
    assert len({batch.fields for batch in batches}) >= 8
    for batch in batches:
        names = [specifier.element.name for specifier in batch.fields]
        assert len(set(names)) == len(names)
    assert len(sent(records, schema)) == len(carried)


def test_many_records_are_several_batches(monkeypatch):
    rng = np.random.default_rng(1)
    protocols = rng.choice([1, 6, 17], 100).tolist()
    records = records_of(*(flow(src_port=port, protocol=protocol) for port, protocol in enumerate(protocols)))
    whole = Schema().batches(records, OFFSET)
    assert len(whole) == 3
    monkeypatch.setattr(fields, "MAX_BATCH", 7)
    batches = Schema().batches(records, OFFSET)
    assert max(map(len, batches)) == 7
    assert len(batches) == sum(-(-len(batch) // 7) for batch in whole)
    for batch in whole:
        same = [part for part in batches if part.fields == batch.fields]
        for at, column in enumerate(batch.columns):
            assert np.array_equal(np.concatenate([part.columns[at] for part in same]), column)
    assert len(Schema().batches(records.take(slice(0, 0)), OFFSET)) == 0


def test_the_kernels_values_all_have_a_rule_and_a_field():
    values = set(VALUE_DTYPE.names)
    assert set(MERGES) == values
    keys = set(KEY_DTYPE.names) - {"ip_version", "tunnel", "pad", "complete"}
    made = {"reason", "segment_id", "selector", "icmp"}
    assert values | keys == {row.source for row in FIELDS} - made
    ether = set(ETHER_KEY_DTYPE.names + ETHER_VALUE_DTYPE.names) - {"link_padding", "padding"}
    assert ether == set(KEY_DTYPE.names + VALUE_DTYPE.names)


@pytest.mark.parametrize(
    ("unit", "type", "ns"),
    [
        ("s", "dateTimeSeconds", SECOND),
        ("ms", "dateTimeMilliseconds", 10**6),
        ("us", "dateTimeMicroseconds", 10**3),
        ("ns", "dateTimeNanoseconds", 1),
    ],
)
def test_units_of_time(unit, type, ns):
    from pyflowx.elements import to_nanoseconds

    now = 100 * SECOND + 123_456_789
    records = records_of(flow(now, last_ns=now + 987_654_321))
    (batch,) = Schema(time_unit=unit).batches(records, OFFSET)
    for name, wanted in (("flowStart", now), ("flowEnd", now + 987_654_321)):
        (at,) = [i for i, field in enumerate(batch.fields) if field.element.name.startswith(name + unit_name(unit))]
        assert batch.fields[at].element.data_type.name == type
        got, valid = to_nanoseconds(type, batch.columns[at])
        assert valid.all()
        assert abs(int(got[0]) - OFFSET - wanted) <= (ns if ns > 1 else 0)


def unit_name(unit):
    return {"s": "Seconds", "ms": "Milliseconds", "us": "Microseconds", "ns": "Nanoseconds"}[unit]


@pytest.mark.parametrize("level", KEY_LEVELS)
def test_what_a_level_of_the_key_leaves_out_is_in_no_record(level):
    key, value = dtypes(level)
    keys, values = np.zeros(1, key), np.zeros(1, value)
    keys["ip_version"] = 4
    if level != "ip":
        keys["protocol"] = 6
    (batch,) = Schema(level=level).batches(FlowRecords(keys, values, np.ones(1, np.uint8)), OFFSET)
    names = {field.element.name for field in batch.fields}
    assert ("protocolIdentifier" in names) == (level != "ip")
    assert ("sourceTransportPort" in names) == ("ipClassOfService" in names) == (level not in ("ip", "proto"))


def test_flow_keys_are_told_by_their_places():
    schema = Schema()
    (batch,) = schema.batches(records_of(flow()), OFFSET)
    ((fields, bits),) = schema.flow_keys()
    assert fields == batch.fields
    names = {field.element.name for at, field in enumerate(fields) if bits >> at & 1}
    wanted = {"sourceIPv4Address", "destinationIPv4Address", "sourceTransportPort", "destinationTransportPort"}
    assert names == wanted | {"protocolIdentifier", "ipClassOfService", "ingressInterface", "flowDirection"}
    ether = Schema(level="ether")
    keys, values = np.zeros(1, ETHER_KEY_DTYPE), np.zeros(1, ETHER_VALUE_DTYPE)
    keys["ethertype"] = 0x806
    (batch,) = ether.batches(FlowRecords(keys, values, np.ones(1, np.uint8)), OFFSET)
    ((fields, bits),) = ether.flow_keys()
    assert {"sourceMacAddress", "ethernetType"} <= {f.element.name for at, f in enumerate(fields) if bits >> at & 1}


def test_sampled_flows_name_their_selector():
    (record,) = sent(records_of(flow()), Schema(sampled=True))
    assert record["selectorId"] == 1


def test_netflow9_has_a_routers_times_and_flags():
    (record,) = sent(records_of(flow()), Schema("netflow9"))
    assert (record["flowStartSysUpTime"], record["flowEndSysUpTime"]) == (100_000, 100_005)
    assert record["tcpControlBits"] == 0x12
    assert record["sourceMacAddress"] == 0x020000000001


def test_netflow5_records():
    known = {"octets": 10**6, "tos": 8}
    records = records_of(flow(**known), flow(protocol=1, ifindex=1 << 20, direction=1, src_port=0, dst_port=0, **known))
    rows = sent(records, Schema("netflow5"))
    assert rows[0]["sourceIPv4Address"] == 0xC0000201
    wanted = {
        "sourceTransportPort": 4000,
        "destinationTransportPort": 80,
        "tcpControlBits": 0x12,
        "ingressInterface": 7,
    }
    wanted |= {"flowStartSysUpTime": 100_000, "octetDeltaCount": 10**6, "ipClassOfService": 8, "egressInterface": 0}
    assert {name: rows[0][name] for name in wanted} == wanted
    assert rows[1]["destinationTransportPort"] == 3 << 8 | 1  # ICMP type and code
    assert rows[1]["egressInterface"] == 0  # an index that 16 bits do not hold


def test_netflow5_splits_what_32_bits_do_not_hold_and_refuses_ipv6():
    big = {"packets": 3, "octets": 3 * 2**32 + 5}
    records = records_of(flow(**big), flow(ip_version=6), flow(packets=1, octets=2**32 - 1))
    carried, refused = Schema("netflow5").carried(records)
    assert len(refused) == 1
    rows = sent(records, Schema("netflow5"))
    assert sum(row["packetDeltaCount"] for row in rows) == 4
    assert sum(row["octetDeltaCount"] for row in rows) == big["octets"] + 2**32 - 1
    assert len(rows) == len(carried) == 5


def test_the_fields_that_need_nothing_are_those_of_the_catch_all_flow():
    names = {row.element for row in FIELDS if row.needs == Trait(0)}
    assert {"packetDeltaCount", "octetDeltaCount", "flowDirection", "flowEndReason"} <= names
    assert isinstance(Schema().template(0)[0][0], FieldSpecifier)
    assert V4_MAPPED[10:] == b"\xff\xff"
