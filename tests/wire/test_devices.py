"""What devices of certain vendors send that others do not: their Templates, made here from the vendors' documents."""

from __future__ import annotations

import json
import struct

import pytest

from pyflowx.batch import PacketBatch
from pyflowx.decoded import Decoded, Reason
from pyflowx.sinks import raw
from pyflowx.wire import Decoder


def set_of(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def v9(*sets: bytes) -> bytes:
    return struct.pack(">HHIIII", 9, len(sets), 1000, 1_700_000_000, 7, 1) + b"".join(sets)


def ipfix(*sets: bytes) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 7, 1) + body


def template(*fields: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """Template 256; a field is id, length and, for an enterprise element of IPFIX, PEN."""
    specifiers = [
        struct.pack(">HH", *field) if len(field) == 2 else struct.pack(">HHI", field[0] | 0x8000, *field[1:])
        for field in fields
    ]
    return struct.pack(">HH", 256, len(fields)) + b"".join(specifiers)


def decode(datagram: bytes) -> tuple[Decoded, list[tuple[int, int, Reason]]]:
    (decoded,), problems = Decoder().decode(PacketBatch.of([datagram]), 0)
    return decoded, problems.tolist()


def shown(datagram: bytes) -> list[dict[str, object]]:
    """The Data Records as raw output shows them; nothing may be wrong with the message."""
    decoded, problems = decode(datagram)
    assert not problems
    (line,) = raw.lines(decoded)
    return [record for each in json.loads(line)["sets"] for record in each.get("records", [])]


def test_palo_alto_names_applications_and_users() -> None:
    fields = template((8, 4), (56701, 32), (56702, 64))
    record = bytes([10, 0, 0, 1]) + b"web-browsing".ljust(32, b"\0") + b"corp\\alice".ljust(64, b"\0")
    assert shown(v9(set_of(0, fields), set_of(256, record))) == [
        {"sourceIPv4Address": "10.0.0.1", "paloAltoAppId": "web-browsing", "paloAltoUserId": "corp\\alice"}
    ]


@pytest.mark.parametrize("protocol", ["v9", "ipfix"])
def test_nprobe_has_the_same_elements_in_netflow_v9_and_ipfix(protocol: str) -> None:
    record = struct.pack(">HI", 7, 1500) + b"GET /".ljust(16, b"\0")
    if protocol == "v9":
        fields = template((57472 + 118, 2), (57472 + 84, 4), (57472 + 180, 16))
        datagram = v9(set_of(0, fields), set_of(256, record))
    else:
        fields = template((118, 2, 35632), (84, 4, 35632), (180, 16, 35632))
        datagram = ipfix(set_of(2, fields), set_of(256, record))
    assert shown(datagram) == [{"L7_PROTO": 7, "SRC_TO_DST_AVG_THROUGHPUT": 1500, "HTTP_URL": "GET /"}]


def test_a_v9_type_that_nobody_is_known_for_keeps_its_number() -> None:
    assert shown(v9(set_of(0, template((60000, 2), (33000 + 7, 1))), set_of(256, b"\1\2\3"))) == [
        {"0/60000": "0102", "0/33007": "03"}
    ]


def test_ciscos_elements_have_one_identity_in_both_protocols() -> None:
    record = struct.pack(">HI", 2025, 1)
    nine = shown(v9(set_of(0, template((33002, 2), (45000, 4))), set_of(256, record + b"\0\0")))
    ten = shown(ipfix(set_of(2, template((234, 2, 9), (12232, 4, 9))), set_of(256, record)))
    assert nine == ten == [{"firewallEventExtended": 2025, "appCategoryName": "\0\0\0\x01"}]


def test_nokias_nat_events_name_the_subscriber() -> None:
    fields = template((91, 2, 637), (92, 2, 637), (93, 65535, 637))
    record = struct.pack(">HH", 100, 0) + bytes([16]) + b"USR1@10.10.10.12"
    assert shown(ipfix(set_of(2, fields), set_of(256, record))) == [
        {"aluInsideServiceId": 100, "aluOutsideServiceId": 0, "aluNatSubString": "USR1@10.10.10.12"}
    ]


def test_vmware_tells_the_inner_flow_and_the_port() -> None:
    fields = template((880, 1, 6876), (881, 4, 6876), (886, 2, 6876), (898, 65535, 6876), (950, 4, 6876))
    record = bytes([6, 10, 0, 0, 1]) + struct.pack(">H", 443) + b"\4port" + struct.pack(">I", 1001)
    assert shown(ipfix(set_of(2, fields), set_of(256, record))) == [
        {
            "tenantProtocol": 6,
            "tenantSourceIPv4": "10.0.0.1",
            "tenantSourcePort": 443,
            "virtualObsID": "port",
            "ruleId": 1001,
        }
    ]


def test_an_options_template_of_v9_without_a_scope_is_about_the_whole_system() -> None:
    options = struct.pack(">HHHHHHH", 256, 0, 8, 34, 4, 35, 1)
    datagram = v9(set_of(1, options + b"\0\0"), set_of(256, struct.pack(">IB", 1000, 2) + bytes(3)))
    decoded, problems = decode(datagram)
    (batch,) = decoded.flows
    assert not problems and batch.scope_count == 1 and batch.fields[0] == (batch.fields[0].element, 0)
    assert shown(datagram) == [{"exportingProcessId": "", "samplingInterval": 1000, "samplingAlgorithm": 2}]


def test_a_scope_of_no_octets() -> None:
    options = struct.pack(">HHHHHHH", 256, 4, 4, 1, 0, 34, 4)
    datagram = v9(set_of(1, options + b"\0\0"), set_of(256, struct.pack(">I", 1000)))
    assert shown(datagram) == [{"exportingProcessId": "", "samplingInterval": 1000}]


@pytest.mark.parametrize("padding", [b"\xff", b"\0\0\1", b"abc"])
def test_padding_need_not_be_zeros(padding: bytes) -> None:
    """RFC 7011 §3.3.1: it SHOULD be; what is shorter than a record is padding whatever it says."""
    assert shown(ipfix(set_of(2, template((7, 2), (11, 2))), set_of(256, struct.pack(">HH", 1, 2) + padding))) == [
        {"sourceTransportPort": 1, "destinationTransportPort": 2}
    ]


def test_fields_that_have_no_octets_are_not_many_more_than_the_octets_of_a_record() -> None:
    """Else a few octets would become columns, and lines of output, without end."""
    fair = template((4, 1), (10, 1), (82, 0), (82, 0))
    assert shown(v9(set_of(0, fair), set_of(256, b"\6\1"))) == [
        {"protocolIdentifier": 6, "ingressInterface": 1, "interfaceName": ["", ""]}
    ]
    unfair = template((4, 1), *[(82, 0)] * 6)
    decoded, problems = decode(v9(set_of(0, unfair), set_of(256, b"\6\1\2\3")))
    assert problems == [(0, 24, Reason.BAD_TEMPLATE), (0, 56, Reason.HELD_DATA)] and not decoded.flows


def test_octets_behind_a_message_are_in_raw_output_also_beside_late_data() -> None:
    """Some send the next message in the same datagram; it is counted, and nothing of it is lost."""
    decoder = Decoder()
    early, later = ipfix(set_of(256, b"\0\1")), ipfix(set_of(2, template((7, 2))))
    decoder.decode(PacketBatch.of([early]), 0)
    (decoded,), problems = decoder.decode(PacketBatch.of([later + early]), 0)
    assert problems.tolist() == [(0, len(later), Reason.TRAILING_OCTETS)]
    late, now = (json.loads(line) for line in raw.lines(decoded))
    assert late["late"] and late["sets"] == [{"id": 256, "records": [{"sourceTransportPort": 1}]}]
    assert now["sets"][-1] == {"id": 0, "held": False, "octets": early.hex()}


def test_a_length_in_v9_that_no_record_can_have_is_a_variable_one() -> None:
    """RFC 3954 has fixed lengths only; who sends 65535 means what IPFIX says it does."""
    fields = template((82, 65535), (7, 2))
    assert shown(v9(set_of(0, fields), set_of(256, b"\4eth0\0\x50"))) == [
        {"interfaceName": "eth0", "sourceTransportPort": 80}
    ]
