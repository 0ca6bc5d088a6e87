"""Raw output: the messages of real decoders as JSON, with everything in its place."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import PacketBatch
from pyflowx.decoded import Decoded
from pyflowx.elements import FieldSpecifier, InformationElement, default_registry
from pyflowx.sinks.output import Output
from pyflowx.sinks.raw import RawNdjson, lines
from pyflowx.sinks.target import Target
from pyflowx.wire import Decoder


def set_of(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def message(*sets: bytes, sequence: int = 0) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, sequence, 42) + body


def template(id: int, *fields: tuple[int, int] | tuple[int, int, int], scope: int = 0) -> bytes:
    record = struct.pack(">HH", id, len(fields)) + (struct.pack(">H", scope) if scope else b"")
    for field in fields:
        bit = 0x8000 if len(field) == 3 else 0
        record += struct.pack(">HH", field[0] | bit, field[1]) + (
            struct.pack(">I", field[2]) if len(field) == 3 else b""
        )
    return record


def raw(*datagrams: bytes, decoder: Decoder | None = None, received_ns: int = 1_700_000_000_123_456_789) -> list[Any]:
    packets = PacketBatch.of(datagrams, port=4739, received_ns=received_ns)
    decoded, _ = (decoder or Decoder()).decode(packets, received_ns)
    return [json.loads(line) for part in decoded for line in lines(part)]


def records(content: bytes, *fields: tuple[int, int] | tuple[int, int, int]) -> list[dict[str, Any]]:
    """The records of a Data Set with these fields."""
    (found,) = raw(message(set_of(2, template(256, *fields)), set_of(256, content)))
    shown: list[dict[str, Any]] = found["sets"][1]["records"]
    return shown


def test_a_message_with_a_template_and_data() -> None:
    (line,) = raw(message(set_of(2, template(256, (8, 4), (7, 2))), set_of(256, b"\x0a\0\0\1\0\x50\x0a\0\0\2\0\x51")))
    assert list(line) == [
        *("version", "length", "export_time", "sequence_number", "observation_domain_id"),
        *("protocol", "exporter_address", "exporter_port", "time_received", "sets"),
    ]
    assert line == {
        "version": 10,
        "length": 16 + 16 + 16,
        "export_time": 1_700_000_000,
        "sequence_number": 0,
        "observation_domain_id": 42,
        "protocol": "IPFIX",
        "exporter_address": "127.0.0.1",
        "exporter_port": 4739,
        "time_received": "2023-11-14T22:13:20.123456789",
        "sets": [
            {
                "id": 2,
                "templates": [
                    {
                        "template_id": 256,
                        "fields": [
                            {"pen": 0, "id": 8, "name": "sourceIPv4Address", "type": "ipv4Address", "length": 4},
                            {"pen": 0, "id": 7, "name": "sourceTransportPort", "type": "unsigned16", "length": 2},
                        ],
                    }
                ],
            },
            {
                "id": 256,
                "records": [
                    {"sourceIPv4Address": "10.0.0.1", "sourceTransportPort": 80},
                    {"sourceIPv4Address": "10.0.0.2", "sourceTransportPort": 81},
                ],
            },
        ],
    }


def test_sets_stand_in_the_order_of_the_message() -> None:
    ports, name = set_of(2, template(256, (7, 2)) + template(257, (82, 65535))), set_of(257, b"\3eth")
    first, second = raw(message(ports, set_of(256, b"\0\1"), name, set_of(256, b"\0\2\0\3")), message(name, name))
    assert [found["id"] for found in first["sets"]] == [2, 256, 257, 256]
    assert [template["template_id"] for template in first["sets"][0]["templates"]] == [256, 257]
    assert [len(found["records"]) for found in first["sets"][1:]] == [1, 1, 2]
    assert second["sets"] == [{"id": 257, "records": [{"interfaceName": "eth"}]}] * 2


@pytest.mark.parametrize(
    ("field", "octets", "expected"),
    [
        ((8, 4), b"\xff\0\0\1", "255.0.0.1"),
        ((27, 16), b"\x20\1\x0d\xb8" + bytes(11) + b"\1", "2001:db8::1"),
        ((27, 16), bytes(10) + b"\xff\xff\x0a\0\0\1", "::ffff:10.0.0.1"),
        ((56, 6), b"\0\x1a\x2b\x3c\x4d\x5e", "00:1a:2b:3c:4d:5e"),
        ((1, 8), b"\xff" * 8, 2**64 - 1),
        ((1, 3), b"\1\0\0", 65536),
        ((434, 4), b"\xff\xff\xff\xfe", -2),
        ((320, 8), struct.pack(">d", 0.1), 0.1),
        ((320, 8), struct.pack(">d", float("inf")), "inf"),
        ((320, 4), struct.pack(">f", 0.5), 0.5),
        ((276, 1), b"\1", True),
        ((276, 1), b"\2", False),
        ((276, 1), b"\0", 0),
        ((150, 4), struct.pack(">I", 1_700_000_000), "2023-11-14T22:13:20"),
        ((152, 8), struct.pack(">Q", 1_700_000_000_001), "2023-11-14T22:13:20.001"),
        ((157, 8), bytes(8), 0),
        ((82, 8), b'e"th\\\x1b\0\0', 'e"th\\\x1b'),
        ((82, 4), b"\xff\xfeab", "\\xff\\xfeab"),
        ((95, 4), b"\3\0\0\x50", "03000050"),
        ((8, 5), b"\1\2\3\4\5", "0102030405"),
        ((515, 32), bytes(31) + b"\7", 7),
        ((1, 4, 999999), b"\xde\xad\xbe\xef", "deadbeef"),
        ((1, 8, 29305), bytes(7) + b"\5", 5),
    ],
)
def test_a_value(field: Any, octets: bytes, expected: Any) -> None:
    element = default_registry().get(field[2] if len(field) == 3 else 0, field[0])
    (record,) = records(octets, field)
    assert record == {element.name: expected}
    assert type(record[element.name]) is type(expected)


def test_an_element_that_comes_again_is_an_array() -> None:
    (record,) = records(b"\0\1\x0a\0\0\1\0\2\0\0\3", (58, 2), (8, 4), (58, 2), (58, 3))
    assert record == {"vlanId": [1, 2, 3], "sourceIPv4Address": "10.0.0.1"}
    assert list(record) == ["vlanId", "sourceIPv4Address"]


def test_two_elements_with_one_name_are_told_apart(make_decoded: Callable[..., Decoded]) -> None:
    decoded = make_decoded({"octetDeltaCount": [1], "packetDeltaCount": [2]})
    batch = decoded.flows[0]
    ours = InformationElement(99999, 5, "octetDeltaCount", batch.fields[0].element.data_type)
    batch.fields = (batch.fields[0], FieldSpecifier(ours, 8))
    (line,) = lines(decoded)
    assert json.loads(line)["sets"][0]["records"] == [{"0/1": 1, "99999/5": 2}]


def test_options_records_say_what_their_scope_is() -> None:
    options = template(258, (143, 4), (41, 8), scope=1)
    (line,) = raw(message(set_of(3, options), set_of(258, bytes(3) + b"\1" + bytes(7) + b"\2")))
    assert line["sets"][0]["templates"][0]["scope_count"] == 1
    assert line["sets"][1] == {
        "id": 258,
        "scope": ["meteringProcessId"],
        "records": [{"meteringProcessId": 1, "exportedMessageTotalCount": 2}],
    }


def test_a_withdrawal() -> None:
    ports = template(256, (7, 2))
    (line,) = raw(message(set_of(2, ports), set_of(2, struct.pack(">HH", 256, 0))))
    assert line["sets"][1] == {"id": 2, "templates": [{"template_id": 256, "withdrawal": True}]}


def test_a_set_that_cannot_be_decoded_is_kept_as_hex() -> None:
    (line,) = raw(message(set_of(9, b"\1\2\3\4")))
    assert line["sets"] == [{"id": 9, "held": False, "octets": "01020304"}]


def test_data_before_its_template_is_held_and_comes_late() -> None:
    decoder = Decoder()
    (early,) = raw(message(set_of(256, b"\0\x50"), sequence=5), decoder=decoder)
    assert early["sets"] == [{"id": 256, "held": True, "octets": "0050"}]
    assert "late" not in early
    found = raw(message(set_of(2, template(256, (7, 2))), sequence=6), decoder=decoder)
    (late,) = [line for line in found if line.get("late")]
    assert late["sequence_number"] == 5
    assert late["sets"] == [{"id": 256, "records": [{"sourceTransportPort": 80}]}]
    (template_line,) = [line for line in found if not line.get("late")]
    assert template_line["sequence_number"] == 6


def test_structured_data_is_nested() -> None:
    """RFC 6313: a basicList of ports; a subTemplateList; a subTemplateMultiList; one that does not parse."""
    ports = template(300, (7, 2))
    basic = b"\3" + struct.pack(">HH", 7, 2) + b"\0\1\0\2"
    sub = b"\4" + struct.pack(">H", 300) + b"\0\3\0\4"
    multi = b"\xff" + struct.pack(">HH", 300, 6) + b"\0\5"
    unknown = b"\4" + struct.pack(">H", 999) + b"\0\3"

    def variable(*items: bytes) -> bytes:
        return b"".join(bytes([len(item)]) + item for item in items)

    main = template(256, (291, 65535), (292, 65535), (293, 65535))
    content = variable(basic, sub, multi) + variable(b"\0", unknown, b"\xff")
    (line,) = raw(message(set_of(2, ports + main), set_of(256, content)))
    first, second = line["sets"][1]["records"]
    assert first == {
        "basicList": {"semantic": "allOf", "sourceTransportPort": [1, 2]},
        "subTemplateList": {
            "semantic": "ordered",
            "template_id": 300,
            "records": [{"sourceTransportPort": 3}, {"sourceTransportPort": 4}],
        },
        "subTemplateMultiList": {
            "semantic": "undefined",
            "lists": [{"semantic": "undefined", "template_id": 300, "records": [{"sourceTransportPort": 5}]}],
        },
    }
    assert second == {
        "basicList": {"octets": "00"},
        "subTemplateList": {"semantic": "ordered", "template_id": 999, "octets": "0003"},
        "subTemplateMultiList": {"semantic": "undefined", "lists": []},
    }


def test_netflow_5_has_its_own_header() -> None:
    record = struct.pack(">IIIHHIIIIHHBBBBHHBBH", 1, 2, 3, 4, 5, 6, 7, 1000, 2000, 80, 81, 0, 2, 6, 0, 9, 10, 24, 16, 0)
    header = struct.pack(">HHIIIIBBH", 5, 1, 5000, 1_700_000_000, 0, 77, 1, 2, 0x4000 | 100)
    (line,) = raw(header + record)
    assert (line["protocol"], line["version"], line["flow_sequence"]) == ("NETFLOW_V5", 5, 77)
    assert (line["sampling_mode"], line["sampling_interval"]) == (1, 100)
    (found,) = line["sets"]
    assert list(found) == ["records"]
    assert found["records"][0]["flowStartSysUpTime"] == 1000


def test_the_sink_counts_messages(make_decoded: Callable[..., Decoded], tmp_path: Path) -> None:
    sink = Output(RawNdjson(), Target(str(tmp_path / "raw.json")))
    sink.write(make_decoded({"octetDeltaCount": list(range(40_000))}, message=np.arange(40_000) // 20))
    sink.flush()
    sink.close()
    text = (tmp_path / "raw.json").read_bytes()
    assert (sink.rows, sink.octets) == (2000, len(text))
    values = [
        record["octetDeltaCount"] for line in text.splitlines() for record in json.loads(line)["sets"][0]["records"]
    ]
    assert values == list(range(40_000))


SETS = st.builds(set_of, st.sampled_from([2, 3, 9, 256, 257, 258]), st.binary(max_size=40))
MESSAGES = st.lists(SETS, max_size=4).map(lambda sets: message(*sets))


@given(st.lists(MESSAGES | st.binary(max_size=60), min_size=1, max_size=4))
def test_whatever_comes_in_is_json(datagrams: list[bytes]) -> None:
    decoder = Decoder()
    raw(message(set_of(2, template(256, (7, 2)) + template(257, (82, 65535), (291, 65535)))), decoder=decoder)
    for line in raw(*datagrams, decoder=decoder):
        for found in line["sets"]:
            assert found.keys() & {"templates", "records", "octets"}
