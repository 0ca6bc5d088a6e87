"""sFlow v5 decoding: datagrams packed with struct, every sample format and structure, lies about lengths, fuzzing."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded, Problems, Protocol, Reason
from pyflowx.elements import default_registry
from pyflowx.wire import sflow
from pyflowx.wire.sflow_structures import SFLOW_PEN, elements, structures

MAC = bytes.fromhex("020000000001 020000000002".replace(" ", ""))
TCP4 = bytes.fromhex(
    "020000000002 020000000001 0800"
    "45b80034 12340000 3d060000 c0000201 c6336402"
    "040001bb 00000001 00000002 50120400 00000000".replace(" ", "")
)
UDP6 = bytes.fromhex(
    "020000000002 020000000001 86dd 62eabcde 0010113c"
    "20010db8000000000000000000000001 20010db8000000000000000000000002 14e90035 00100000 0102030405060708".replace(
        " ", ""
    )
)


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def string(text: bytes) -> bytes:
    return u32(len(text)) + text + bytes(-len(text) % 4)


def record(format: int, body: bytes) -> bytes:
    return u32(format, len(body)) + body


def header(octets: bytes = TCP4, protocol: int = 1, size: int = 1500) -> bytes:
    return record(1, u32(protocol, size, 4) + string(octets))


def flow(*records: bytes, sequence: int = 9, inputs: int = 7, outputs: int = 8, count: int | None = None) -> bytes:
    number = len(records) if count is None else count
    return record(1, u32(sequence, 3, 1000, 50000, 2, inputs, outputs, number) + b"".join(records))


def expanded(*records: bytes, ways: tuple[int, ...] = (0, 7, 0, 8)) -> bytes:
    return record(3, u32(9, 0, 3, 1000, 50000, 2, *ways, len(records)) + b"".join(records))


def counters(*records: bytes) -> bytes:
    return record(2, u32(5, 2 << 24 | 77, len(records)) + b"".join(records))


def datagram(*samples: bytes, agent: bytes = bytes([10, 0, 0, 1]), count: int | None = None) -> bytes:
    number = len(samples) if count is None else count
    return u32(5, 1 + len(agent) // 16) + agent + u32(4, 99, 3_600_000, number) + b"".join(samples)


def decode(*datagrams: bytes, received_ns: int = 10**18) -> tuple[Decoded, Problems]:
    packets = PacketBatch.of(datagrams, received_ns=received_ns)
    problems = Problems()
    return sflow.decode(packets, np.arange(len(packets), dtype=np.int32), None, 0, problems), problems


def rows(flows: FlowBatch) -> list[dict[str, Any]]:
    """Each row by element name; a repeated name keeps its first value."""
    columns = [column.tolist() for column in flows.columns]
    found = []
    for cells in zip(*columns, strict=True):
        row: dict[str, Any] = {}
        for field, cell in zip(flows.fields, cells, strict=True):
            row.setdefault(field.element.name, bytes(cell) if isinstance(cell, list) else cell)
        found.append(row)
    return found


def only(decoded: Decoded) -> dict[str, Any]:
    assert len(decoded.flows) == 1 and len(decoded.flows[0]) == 1
    return rows(decoded.flows[0])[0]


SOURCE = {"sequence_number": 9, "source_id_type": 0, "source_id_index": 3}
SELF = {"input_format": 0, "input_value": 0xFFFFFFFF}
SAMPLED = SOURCE | {"samplingInterval": 1000, "sample_pool": 50000, "drops": 2}
TCP4_FIELDS = {
    "sourceMacAddress": 0x020000000001, "destinationMacAddress": 0x020000000002, "ethernetType": 0x800,
    "sourceIPv4Address": 0xC0000201, "destinationIPv4Address": 0xC6336402, "protocolIdentifier": 6,
    "ipClassOfService": 0xB8, "ipTTL": 61, "ipTotalLength": 52, "fragmentIdentification": 0x1234,
    "fragmentOffset": 0, "sourceTransportPort": 1024, "destinationTransportPort": 443, "tcpControlBits": 0x12,
}  # fmt: skip
FRAME = {"header_protocol": 1, "dataLinkFrameSize": 1500, "stripped": 4, "dataLinkFrameSection": TCP4}


@pytest.mark.parametrize("sample", [flow(header()), expanded(header())], ids=["compact", "expanded"])
def test_a_flow_sample_with_a_header(sample: bytes) -> None:
    decoded, problems = decode(datagram(sample))
    assert not len(problems) and decoded.protocol is Protocol.SFLOW_V5
    assert only(decoded) == SAMPLED | {"ingressInterface": 7, "egressInterface": 8} | TCP4_FIELDS | FRAME
    flows = decoded.flows[0]
    assert flows.scope_count == 0
    assert (flows.message.tolist(), flows.set_offset.tolist(), flows.template_id.tolist()) == ([0], [28], [0])


@pytest.mark.parametrize("agent", [bytes([10, 0, 0, 1]), bytes(range(16))], ids=["IPv4", "IPv6"])
def test_header_of_the_datagram(agent: bytes) -> None:
    decoded, problems = decode(datagram(flow(header()), agent=agent))
    messages = decoded.messages
    assert not len(problems)
    mapped = agent if len(agent) == 16 else bytes(10) + b"\xff\xff" + agent
    assert messages.header["agent_address"][0].tobytes() == mapped
    assert {name: column.tolist() for name, column in messages.header.items() if name != "agent_address"} == {
        "version": [5], "agent_address_type": [1 + len(agent) // 16], "sub_agent_id": [4], "sequence_number": [99],
        "uptime": [3_600_000], "num_samples": [1],
    }  # fmt: skip
    assert messages.observation_domain_id.tolist() == [4] and messages.sequence_number.tolist() == [99]
    assert messages.export_ns.tolist() == [10**18] and messages.boot_ns.tolist() == [10**18 - 3600 * 10**9]


def test_an_agent_without_address_is_the_exporter() -> None:
    decoded, problems = decode(u32(5, 0, 4, 99, 3_600_000, 1) + flow(header()))
    assert not len(problems) and only(decoded)["sourceTransportPort"] == 1024
    assert np.array_equal(decoded.messages.header["agent_address"], decoded.messages.exporter)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (flow(inputs=0x3FFFFFFF, outputs=0x40000102), SELF | {"output_format": 1, "output_value": 258}),
        (flow(outputs=0x80000007), {"ingressInterface": 7, "output_format": 2, "output_value": 7}),
        (flow(inputs=0), {"ingressInterface": 0, "egressInterface": 8}),
        (expanded(ways=(0, 0x40000000, 2, 5)), {"ingressInterface": 0x40000000, "output_format": 2, "output_value": 5}),
        (expanded(ways=(0, 0xFFFFFFFF, 0, 1)), SELF | {"egressInterface": 1}),
    ],
)  # fmt: skip
def test_what_is_no_interface_is_not_called_one(sample: bytes, expected: dict[str, int]) -> None:
    decoded, problems = decode(datagram(sample))
    assert not len(problems) and only(decoded) == SAMPLED | expected


def test_a_discarded_packet() -> None:
    body = u32(9, 0, 3, 2, 7, 8, 262, 2) + header(UDP6) + record(1038, string(b"tcp_v4_rcv"))
    decoded, problems = decode(datagram(record(5, body)))
    found = only(decoded)
    assert not len(problems)
    assert found["drop_reason"] == 262 and found["symbol"] == b"tcp_v4_rcv" and "samplingInterval" not in found
    assert found["sourceIPv6Address"] == bytes.fromhex("20010db8") + bytes(11) + b"\1"
    assert (found["flowLabelIPv6"], found["ipClassOfService"], found["ipTTL"]) == (0xABCDE, 0x2E, 60)


SWITCH = record(1001, u32(5, 1, 6, 2))
ROUTER = record(1002, u32(1) + bytes([192, 0, 2, 9]) + u32(24, 16))
ROUTER6 = record(1002, u32(2) + bytes(range(16)) + u32(48, 32))
GATEWAY = record(
    1003,
    u32(1)
    + bytes([192, 0, 2, 8])
    + u32(65000, 65001, 65002)
    + u32(2, 2, 2, 65003, 65004, 1, 2, 65005, 65006)
    + u32(2, 65000 << 16 | 1, 65000 << 16 | 2, 100),
)


def test_switch_router_and_gateway_stand_in_the_row_of_their_packet() -> None:
    decoded, problems = decode(datagram(flow(header(), SWITCH, ROUTER, GATEWAY)))
    found = only(decoded)
    assert not len(problems)
    expected = {
        "vlanId": 5, "dot1qPriority": 1, "postVlanId": 6, "dst_priority": 2, "ipNextHopIPv4Address": 0xC0000209,
        "sourceIPv4PrefixLength": 24, "destinationIPv4PrefixLength": 16, "bgpNextHopIPv4Address": 0xC0000208,
        "as": 65000, "bgpSourceAsNumber": 65001, "bgpPrevAdjacentAsNumber": 65002,
        "dst_as_path": b"65003 65004 {65005 65006}", "bgpDestinationAsNumber": 65006,
        "bgpNextAdjacentAsNumber": 65003, "communities": b"65000:1 65000:2", "localpref": 100,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected


def test_no_path_names_no_destination_and_no_next_hop_names_none() -> None:
    gateway = record(1003, u32(0, 65000, 65001, 65002, 0, 0, 100))
    decoded, problems = decode(datagram(flow(header(), record(1002, u32(0, 24, 16)), gateway)))
    found = only(decoded)
    assert not len(problems) and found["dst_as_path"] == b"" and found["sourceIPv4PrefixLength"] == 24
    assert not set(found) & {"bgpDestinationAsNumber", "bgpNextAdjacentAsNumber", "ipNextHopIPv4Address"}


def test_prefix_lengths_are_of_the_packets_ip_version() -> None:
    decoded, _ = decode(
        datagram(flow(header(UDP6), ROUTER)), datagram(flow(header(), ROUTER6)), datagram(flow(ROUTER6))
    )
    found = sorted((batch.message[0], rows(batch)[0]) for batch in decoded.flows)
    assert [("sourceIPv6PrefixLength" in row, "ipNextHopIPv6Address" in row) for _, row in found] == [
        (True, False), (False, True), (True, True),
    ]  # fmt: skip


def test_a_sampled_ipv4_record_without_a_header() -> None:
    body = u32(1480, 17) + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + u32(53, 1024, 0, 0x10)
    found = only(decode(datagram(flow(record(3, body), ROUTER)))[0])
    assert (found["ipTotalLength"], found["protocolIdentifier"], found["sourceIPv4Address"]) == (1480, 17, 0x0A000001)
    body = u32(1480, 17) + bytes(range(32)) + u32(53, 1024, 0, 0x10)
    found = only(decode(datagram(flow(record(4, body), ROUTER)))[0])
    assert found["sourceIPv6Address"] == bytes(range(16)) and found["sourceIPv6PrefixLength"] == 24


def packed(kind: str, seed: int) -> tuple[bytes, Any]:
    """(octets of a value, what its column shows)."""
    number = seed * 2654435761 & 0xFFFFFFFF
    if kind in ("u32", "i32"):
        return u32(number), number if kind == "u32" else struct.unpack(">i", u32(number))[0]
    if kind == "u64":
        return struct.pack(">Q", number << 20 | 5), number << 20 | 5
    if kind == "f32":
        return struct.pack(">f", seed / 4), seed / 4
    if kind == "mac":
        return u32(number) + b"\1\2\0\0", number << 16 | 0x0102
    if kind in ("ip4", "o4"):
        return u32(number), number if kind == "ip4" else u32(number)
    if kind in ("ip6", "o16"):
        return u32(number, 1, 2, 3), u32(number, 1, 2, 3)
    if kind in ("string", "opaque"):
        text = b"abcdefghijklmnop"[: seed % 11]
        return string(text), text
    if kind == "words":
        return u32(seed % 3, *range(seed % 3)), u32(*range(seed % 3))
    if kind == "path":
        return u32(1, 2, 2, number, 7), b"%d 7" % number
    if kind == "communities":
        return u32(1, 65536 * 9 + 8), b"9:8"
    assert kind == "address"
    return u32(1, number), number


FORMATS = [
    (data, number, n)
    for data in ("flow", "counter")
    for number, choices in structures(data).items()
    for n in range(len(choices))
]


def test_the_table_has_the_structures_that_were_asked_for() -> None:
    assert {2, 3, 4, *range(1001, 1013), *range(1020, 1043)} <= set(structures("flow"))
    assert {1, 2, 3, 4, 5, 1001, *range(2002, 2011), 2000} <= set(structures("counter"))


def test_elements_of_sflow_have_names_and_ids_of_their_own() -> None:
    own = elements().values()
    assert len(own) > 450 and len({element.id for element in own}) == len(own)
    assert all(element.pen == SFLOW_PEN and element.id > 0xFFFF for element in own)
    assert not [element.name for element in own if default_registry().by_name(element.name)]


@pytest.mark.parametrize(("data", "number", "choice"), FORMATS)
def test_every_structure_field_by_field(data: str, number: int, choice: int) -> None:
    structure = structures(data)[number][choice]
    for base in (3, 500):
        values = [packed(field.kind, base + n) for n, field in enumerate(structure.fields)]
        body = record(number, b"".join(octets for octets, _ in values))
        sample = flow(body) if data == "flow" else counters(body)
        decoded, problems = decode(datagram(sample))
        assert not len(problems)
        flows = decoded.flows[0]
        assert len(decoded.flows) == 1 and flows.scope_count == (0 if data == "flow" else 2)
        found = only(decoded)
        for field, (_, value) in zip(structure.fields, values, strict=True):
            names = {field.four.element.name, field.six.element.name}
            assert [found[name] for name in names if name in found] == [value]


@pytest.mark.parametrize(("data", "number", "choice"), FORMATS)
def test_a_structure_cut_short_is_kept_as_octets_and_its_neighbour_lives(data: str, number: int, choice: int) -> None:
    structure = structures(data)[number][-1]  # the shortest: a longer one cut short may be a shorter one
    whole = b"".join(packed(field.kind, 500 + n)[0] for n, field in enumerate(structure.fields))
    make = flow if data == "flow" else counters
    for cut in range(0, len(whole), 4):
        decoded, problems = decode(datagram(make(record(number, whole[:cut])), flow(header())))
        kept = [row for batch in decoded.flows for row in rows(batch) if "record_octets" in row]
        last_is_text = structure.fields[-1].kind in ("string", "opaque") and cut == len(whole) - 4
        if not last_is_text:  # there the cut may take padding only
            assert [(row["record_format"], row["record_octets"]) for row in kept] == [(number, whole[:cut])]
            assert [reason for _, _, reason in problems.tolist()] == [Reason.BAD_SAMPLE]
        assert any(row.get("sourceTransportPort") == 1024 for batch in decoded.flows for row in rows(batch))


def test_counters_are_options_data_about_their_source() -> None:
    host = record(2003, struct.pack(">fff", 0.5, 1.5, 2.5) + u32(*range(14)))
    sample = counters(record(5, u32(12) + struct.pack(">Q", 1 << 40) + u32(1, 2, 3, 4)), host)
    decoded, problems = decode(datagram(sample, flow(header())))
    assert not len(problems)
    found = {row["source_id_index"]: row for batch in decoded.flows if batch.scope_count for row in rows(batch)}
    assert set(found) == {77}
    batches = [batch for batch in decoded.flows if batch.scope_count]
    assert [batch.scope_count for batch in batches] == [2, 2]
    vlan, cpu = (rows(batch)[0] for batch in batches)
    scope = {"source_id_type": 2, "source_id_index": 77, "sequence_number": 5}
    counted = {"ucastPkts": 1, "multicastPkts": 2, "broadcastPkts": 3, "discards": 4}
    assert vlan == scope | {"vlan_id": 12, "octets": 1 << 40} | counted
    assert (cpu["load_fifteen"], cpu["contexts"]) == (2.5, 13) and "cpu_steal" not in cpu
    assert decoded.flows[-1].scope_count == 0 or decoded.flows[0].scope_count == 0


def test_host_cpu_of_newer_agents_has_three_fields_more() -> None:
    decoded, _ = decode(datagram(counters(record(2003, struct.pack(">fff", 0.5, 1.5, 2.5) + u32(*range(17))))))
    assert only(decoded)["cpu_guest_nice"] == 16


def test_host_adapters_are_a_row_for_each_address() -> None:
    body = u32(3, 1, 2) + MAC[:6] + b"\0\0" + MAC[6:] + b"\0\0" + u32(2, 0) + u32(9, 1) + MAC[:6] + b"\0\0"
    decoded, problems = decode(datagram(counters(record(2001, body))))
    assert not len(problems)
    found = [(row["adapter_ifIndex"], row.get("adapter_mac")) for batch in decoded.flows for row in rows(batch)]
    assert sorted(found, key=str) == [(1, 0x020000000001), (1, 0x020000000002), (2, None), (9, 0x020000000001)]
    for cut in range(4, len(body), 4):
        decoded, problems = decode(datagram(counters(record(2001, body[:cut]))))
        assert only(decoded)["record_octets"] == body[:cut] and problems.reason.tolist() == [Reason.BAD_SAMPLE]


def test_a_counter_sample_without_records_is_still_seen() -> None:
    assert only(decode(datagram(counters()))[0]) == {"source_id_type": 2, "source_id_index": 77, "sequence_number": 5}


def test_unknown_records_are_kept_and_unknown_samples_too() -> None:
    vendor = record(8800 << 12 | 5, b"\1\2\3\4")
    decoded, problems = decode(datagram(flow(header(), vendor), record(4300 << 12 | 1002, b"abcdefgh"), flow(header())))
    kept = [row for batch in decoded.flows for row in rows(batch) if "record_octets" in row]
    assert [(row["record_format"], row["record_octets"]) for row in kept] == [(8800 << 12 | 5, b"\1\2\3\4")]
    assert kept[0]["sequence_number"] == 9
    assert [(o.set_id, o.octets, o.held) for o in decoded.opaque] == [(4300 << 12 | 1002, b"abcdefgh", False)]
    assert [reason for _, _, reason in problems.tolist()] == [Reason.UNKNOWN_SAMPLE]
    assert sum(len(batch) for batch in decoded.flows if not batch.scope_count) == 2


def test_a_second_record_of_a_format_stands_beside_the_row() -> None:
    decoded, problems = decode(datagram(flow(header(), header(UDP6, size=99), SWITCH, record(1001, u32(8, 8, 8, 8)))))
    main = [batch for batch in decoded.flows if not batch.scope_count]
    beside = [row for batch in decoded.flows if batch.scope_count for row in rows(batch)]
    assert not len(problems) and len(main) == 1 and len(main[0]) == 1
    assert rows(main[0])[0]["vlanId"] == 5 and rows(main[0])[0]["sourceTransportPort"] == 1024
    assert sorted(row.get("vlanId", row.get("dataLinkFrameSize")) for row in beside) == [8, 99]


def test_octets_behind_a_structure_are_kept() -> None:
    decoded, problems = decode(datagram(flow(record(1001, u32(5, 1, 6, 2, 0xAABBCCDD)))))
    assert not len(problems)
    assert [rows(batch)[0].get("record_octets") for batch in decoded.flows] == [None, b"\xaa\xbb\xcc\xdd"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (datagram(flow(header()), count=3), [Reason.BAD_COUNT]),
        (datagram(flow(header()), count=1) + b"rest", [Reason.TRAILING_OCTETS]),
        (datagram(flow(header(), count=2)), [Reason.BAD_SAMPLE]),
        (datagram(flow(header(), b"tail", count=1)), [Reason.TRAILING_OCTETS]),
        (datagram(record(1, b"\0" * 28)), [Reason.BAD_SAMPLE]),
        (datagram(record(77, b"")), [Reason.UNKNOWN_SAMPLE]),
        (datagram(flow(record(1, u32(1, 2, 3, 400) + TCP4))), [Reason.BAD_SAMPLE]),
        (datagram(flow(record(1, u32(1, 2, 3)))), [Reason.BAD_SAMPLE]),
        (datagram(flow(u32(1, 0xFFFFFFFF) + TCP4)), [Reason.BAD_SAMPLE]),
        (datagram(u32(1, 0xFFFFFFFF) + flow(header())[8:]), [Reason.BAD_SAMPLE]),
        (u32(5, 3) + bytes(40), [Reason.TRUNCATED_HEADER]),
    ],
)
def test_lies_about_counts_and_lengths(body: bytes, expected: list[Reason]) -> None:
    good = datagram(flow(header()))
    decoded, problems = decode(good, body, good)
    assert [reason for packet, _, reason in problems.tolist() if packet == 1] == expected
    assert set(problems.packet.tolist()) == {1}
    found = [row for batch in decoded.flows for row in rows(batch) if row.get("sourceTransportPort") == 1024]
    assert len(found) >= 2
    assert sum(map(len, decoded.flows)) + len(decoded.opaque) + (expected == [Reason.TRUNCATED_HEADER]) >= 3


def samples_of(decoded: Decoded) -> list[str]:
    """Everything decoded, order of batches aside."""
    found = [(int(m), int(o), str(sorted(row.items()))) for batch in decoded.flows
             for m, o, row in zip(batch.message, batch.set_offset, rows(batch), strict=True)]  # fmt: skip
    return [text for _, _, text in sorted(found)] + [str(opaque[1:]) for opaque in decoded.opaque]


def test_a_datagram_cut_at_every_octet_loses_only_what_is_cut() -> None:
    samples = [
        flow(header(), SWITCH),
        expanded(header(UDP6), ROUTER6, GATEWAY),
        counters(record(5, u32(1, 0, 2, 3, 4, 5, 6))),
    ]
    body = datagram(*samples)
    ends = np.cumsum([28, *map(len, samples)]).tolist()
    cut = [body[:n] for n in range(2, len(body) + 1)]
    decoded, problems = decode(*cut)
    messages = decoded.messages
    for packet, octets in enumerate(cut):
        found = set()
        for batch in decoded.flows:
            found |= set(zip(messages.packet[batch.message].tolist(), batch.set_offset.tolist(), strict=True))
        whole = [start for start, end in itertools.pairwise(ends) if len(octets) >= end]
        assert all((packet, start) in found for start in whole)
        assert (packet in problems.packet) == (len(octets) < len(body))


def test_many_samples_walk_in_lockstep_as_one_by_one() -> None:
    datagrams = []
    for n in range(60):
        records = [header(TCP4 if n % 3 else UDP6), SWITCH, *([ROUTER] * (n % 2)), *([GATEWAY] * (n % 5 == 0))]
        extra = [counters(record(1001, u32(1, 2, 3, 0, 4, 0, 5)))] * (n % 4)
        datagrams.append(datagram(*[flow(*records, sequence=n * 10 + k) for k in range(n % 7)], *extra))
    decoded, problems = decode(*datagrams)
    assert not len(problems)
    alone = [text for one in datagrams for text in samples_of(decode(one)[0])]
    assert sorted(samples_of(decoded)) == sorted(alone)
    assert sum(len(batch) for batch in decoded.flows if not batch.scope_count) == sum(n % 7 for n in range(60))
    for batch in decoded.flows:
        assert (np.diff(batch.message.astype(np.int64) << 32 | batch.set_offset) >= 0).all()


def test_a_flood_of_combinations_has_a_bounded_number_of_batches_and_loses_nothing() -> None:
    generator = np.random.default_rng(3)
    plain = [
        number
        for number, choices in structures("flow").items()
        if number > 1020 and all(f.octets for f in choices[0].fields)
    ]
    datagrams, sent = [], []
    for n in range(300):
        chosen = generator.choice(plain, 5, replace=False).tolist()
        records = [record(f, b"".join(packed(x.kind, n)[0] for x in structures("flow")[f][0].fields)) for f in chosen]
        datagrams.append(datagram(flow(header(TCP4[: 20 + n % 40]), *records)))
        sent += chosen
    decoded, problems = decode(*datagrams)
    assert not len(problems) and len(decoded.flows) < 250
    assert sum(len(batch) for batch in decoded.flows if not batch.scope_count) == 300
    for number in plain:
        name = structures("flow")[number][0].fields[0].four.element.name
        holding = sum(len(batch) for batch in decoded.flows if name in {f.element.name for f in batch.fields})
        assert holding == sent.count(number), name


def test_the_result_owns_its_memory_and_what_lies_behind_a_datagram_does_not_show() -> None:
    datagrams = [
        datagram(flow(header(TCP4[:40]))),
        datagram(flow(header(TCP4), count=9)),
        datagram(expanded(header(UDP6))),
    ]
    clean = PacketBatch.of(datagrams)
    dirty = PacketBatch.of([d.ljust(400, b"\xee") for d in datagrams])
    dirty.length[:] = [len(d) for d in datagrams]
    index = np.arange(3, dtype=np.int32)
    first, second = (sflow.decode(packets, index, None, 0, Problems()) for packets in (clean, dirty))
    dirty.data[:] = 0x55
    assert samples_of(first) == samples_of(second)


def test_a_tunnel_is_entered_or_not() -> None:
    outer = bytes.fromhex("4500004800000000402f0000c0000201c633640200000800")
    packets = PacketBatch.of([datagram(flow(header(outer + TCP4[14:], protocol=11)))])
    for tunnels, port in ((True, 443), (False, None)):
        decoded = sflow.decode(packets, np.zeros(1, np.int32), None, 0, Problems(), tunnels=tunnels)
        found = only(decoded)
        assert found.get("destinationTransportPort") == port and found["protocolIdentifier"] == (6 if tunnels else 47)
        assert found["ipHeaderPacketSection"] == outer + TCP4[14:]


def test_no_rows_and_rows_among_others() -> None:
    packets = PacketBatch.of([b"\0\5other", datagram(flow(header())), b""])
    assert sflow.decode(packets, np.zeros(0, np.int32), None, 0, Problems()).flows == []
    decoded = sflow.decode(packets, np.array([1], np.int32), None, 0, Problems())
    assert decoded.messages.packet.tolist() == [1] and only(decoded)["ipTTL"] == 61


def test_columns_have_the_types_of_their_fields() -> None:
    decoded, _ = decode(datagram(expanded(header(), SWITCH, ROUTER, GATEWAY), flow(header(UDP6), ROUTER6)))
    assert len(decoded.flows) == 2
    for batch in decoded.flows:
        for field, column in zip(batch.fields, batch.columns, strict=True):
            assert field.has_column == (not isinstance(column, Octets)), field
            if isinstance(column, np.ndarray):
                like = field.element.data_type.to_column(np.zeros((len(batch), field.length), np.uint8))
                assert (column.dtype, column.shape) == (like.dtype, like.shape), field


USER = record(1004, u32(106) + string(b"me") + u32(106) + string(b"you"))
HOST = record(2000, string(b"host") + bytes(16) + u32(3, 2) + string(b"6.1"))
WHOLE = datagram(
    flow(header(), SWITCH, ROUTER, GATEWAY),
    expanded(header(UDP6), USER),
    counters(record(2001, u32(1, 1, 1) + MAC[:6] + b"\0\0"), HOST),
    record(5, u32(9, 0, 3, 2, 7, 8, 262, 1) + header()),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = bytearray(WHOLE)
    for _ in range(draw(st.integers(0, 5))):
        word = draw(st.integers(0, len(body) // 4 - 1)) * 4
        body[word : word + 4] = u32(
            draw(st.integers(0, 40) | st.integers(0, 2**32 - 1) | st.sampled_from([1001, 1002, 1003, 2001]))
        )
    return bytes(body[: draw(st.integers(0, len(body)))]) if draw(st.booleans()) else bytes(body)


@given(st.lists(mutated() | st.binary(max_size=120).map(lambda tail: u32(5) + tail), max_size=6), st.integers(0, 3))
def test_any_octets_give_flows_and_problems_the_same_alone_and_together(bodies: list[bytes], copies: int) -> None:
    datagrams = bodies + [WHOLE] * copies * 10
    decoded, problems = decode(*datagrams)
    alone = [decode(one) for one in datagrams]
    assert sorted(samples_of(decoded)) == sorted(text for one, _ in alone for text in samples_of(one))
    expected = sorted(
        (packet, offset, reason) for packet, (_, each) in enumerate(alone) for _, offset, reason in each.tolist()
    )
    assert sorted(problems.tolist()) == expected


def test_a_datagram_of_nothing_but_empty_samples_or_records_costs_what_its_octets_cost() -> None:
    long = u32(5, 1) + bytes(4) + u32(0, 0, 0, 0xFFFFFFFF)
    empty = [long + u32(99, 0) * 8000, long + record(1, u32(1, 2, 3, 4, 5, 6, 7, 0xFFFFFFFF) + u32(1001, 0) * 8000)]
    decoded, problems = decode(*empty)
    assert len(decoded.opaque) == 8000 and len(problems) >= 16000
    assert sum(len(batch) for batch in decoded.flows) == 8001
