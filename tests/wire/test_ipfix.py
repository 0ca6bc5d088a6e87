"""IPFIX, the table of edge cases: what good and bad messages decode to (RFC 7011)."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pyflowx.batch import V4_MAPPED, FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded, Protocol, Reason
from pyflowx.elements import FieldSpecifier, default_registry
from pyflowx.errors import EncodeError
from pyflowx.wire import Decoder, TemplateLimits
from pyflowx.wire.ipfix import Encoder

PORTS = struct.pack(">HHHHHH", 256, 2, 7, 2, 11, 2)  # Template 256: source and destination port
NAME = struct.pack(">HHHHHH", 257, 2, 7, 2, 82, 65535)  # Template 257: source port and a name of variable length
RECORD = struct.pack(">HH", 1000, 80)
SECOND = 10**9


def set_of(set_id: int, content: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content) if length is None else length) + content


def message(*sets: bytes, domain: int = 1, sequence: int = 0, length: int | None = None, time: int = 1000) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body) if length is None else length, time, sequence, domain) + body


def address(last: int) -> bytes:
    return V4_MAPPED + bytes([192, 0, 2, last])


def decode(
    *datagrams: bytes, decoder: Decoder | None = None, exporter: bytes = address(1), port: int = 0, now_ns: int = 0
) -> tuple[Decoded, list[tuple[int, int, Reason]]]:
    packets = PacketBatch.of(datagrams, exporter, port)
    decoded, problems = (decoder or Decoder()).decode(packets, now_ns)
    packets.data[:] = 0xEE  # the result must not refer to it
    (only,) = decoded
    assert only.protocol is Protocol.IPFIX
    return only, problems.tolist()


def ports(decoded: Decoded) -> list[tuple[int, int]]:
    """(source, destination) of all port records."""
    rows = []
    for batch in decoded.flows:
        columns = [batch.column(name).tolist() for name in ("sourceTransportPort", "destinationTransportPort")]
        rows += list(zip(*columns, strict=True))
    return rows


def test_a_template_and_its_data_in_one_message() -> None:
    decoded, problems = decode(message(set_of(2, PORTS), set_of(256, RECORD * 2), domain=7, sequence=99, time=1234))
    assert not problems and ports(decoded) == [(1000, 80)] * 2
    (batch,) = decoded.flows
    assert batch.message.tolist() == [0, 0] and batch.set_offset.tolist() == [32, 32]
    assert batch.template_id.tolist() == [256, 256] and batch.scope_count == 0
    messages = decoded.messages
    assert messages.packet.tolist() == [0] and messages.exporter.tobytes() == address(1)
    assert list(messages.header) == ["version", "length", "export_time", "sequence_number", "observation_domain_id"]
    assert [column.tolist() for column in messages.header.values()] == [[10], [44], [1234], [99], [7]]
    assert messages.sequence_number.tolist() == [99] and messages.observation_domain_id.tolist() == [7]
    assert messages.export_ns.tolist() == [1234 * SECOND] and messages.boot_ns.tolist() == [0]
    (template,) = decoded.templates
    assert (template.message, template.set_offset, template.set_id) == (0, 16, 2)
    assert template.record.template_id == 256 and template.record.scope_count == 0
    names = [(field.element.name, field.length) for field in template.record.fields]
    assert names == [("sourceTransportPort", 2), ("destinationTransportPort", 2)]


def test_several_templates_in_one_set_and_sets_in_any_order() -> None:
    decoded, problems = decode(message(set_of(2, PORTS + NAME), set_of(257, b"\0\7\2ab"), set_of(256, RECORD)))
    assert not problems and len(decoded.templates) == 2
    name, port = decoded.flows
    assert name.column("interfaceName").tolist() == [b"ab"] and port.column("sourceTransportPort").tolist() == [1000]


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_set_length_below_4_ends_the_message_but_not_its_neighbours(length: int) -> None:
    bad = message(set_of(2, PORTS), set_of(256, RECORD), set_of(256, RECORD, length), set_of(256, RECORD))
    decoded, problems = decode(bad, message(set_of(256, RECORD)))
    assert problems == [(0, 40, Reason.BAD_SET_LENGTH)] and len(ports(decoded)) == 2
    (opaque,) = decoded.opaque
    assert (opaque.message, opaque.set_offset, opaque.set_id, opaque.held) == (0, 40, 256, False)
    assert opaque.octets == bad[40:]


def test_a_set_past_its_message_is_not_decoded() -> None:
    decoded, problems = decode(message(set_of(2, PORTS), set_of(256, RECORD), set_of(256, RECORD, 9)))
    assert problems == [(0, 40, Reason.SET_PAST_MESSAGE)] and len(ports(decoded)) == 1


def test_a_message_past_its_datagram_keeps_its_whole_sets() -> None:
    cut = message(set_of(2, PORTS), set_of(256, RECORD), set_of(256, RECORD * 3))[:-1]
    decoded, problems = decode(cut)
    assert problems == [(0, 55, Reason.MESSAGE_PAST_DATAGRAM), (0, 40, Reason.SET_PAST_MESSAGE)]
    assert len(ports(decoded)) == 1


@pytest.mark.parametrize("length", [0, 15])
def test_a_message_length_below_16_has_no_sets(length: int) -> None:
    decoded, problems = decode(message(set_of(2, PORTS), length=length))
    assert problems == [(0, 2, Reason.BAD_MESSAGE_LENGTH)] and not decoded.templates and len(decoded.messages) == 1


@pytest.mark.parametrize("length", [4, 15])
def test_a_truncated_header_is_no_message(length: int) -> None:
    decoded, problems = decode(message()[:length], message(set_of(2, PORTS)))
    assert problems == [(0, 0, Reason.TRUNCATED_HEADER)]
    assert decoded.messages.packet.tolist() == [1] and len(decoded.templates) == 1


def test_octets_behind_the_message_and_behind_the_last_set_are_reported() -> None:
    behind_message = message(set_of(2, PORTS)) + b"abc"
    behind_set = message(set_of(256, RECORD), b"\1\2\3")
    decoded, problems = decode(behind_message, behind_set)
    assert sorted(problems) == [(0, 32, Reason.TRAILING_OCTETS), (1, 24, Reason.TRAILING_OCTETS)]
    assert [(o.message, o.set_offset) for o in sorted(decoded.opaque)] == [(0, 32), (1, 24)]
    assert len(ports(decoded)) == 1


@pytest.mark.parametrize("set_id", [0, 1, 4, 255])
def test_a_reserved_set_id_is_reported_and_kept(set_id: int) -> None:
    decoded, problems = decode(message(set_of(set_id, b"abcd"), set_of(2, PORTS), set_of(256, RECORD)))
    assert problems == [(0, 16, Reason.RESERVED_SET_ID)] and len(ports(decoded)) == 1
    assert [(each.set_id, each.octets) for each in decoded.opaque] == [(set_id, b"abcd")]


def test_an_empty_set_is_no_problem() -> None:
    decoded, problems = decode(message(set_of(2), set_of(2, PORTS), set_of(256), set_of(256, RECORD)))
    assert not problems and len(ports(decoded)) == 1


def test_padding_is_no_problem() -> None:
    decoded, problems = decode(message(set_of(2, PORTS + b"\0\0\0\0"), set_of(256, RECORD + b"\0\0\0")))
    assert not problems and len(ports(decoded)) == 1


@pytest.mark.parametrize("template_id", [0, 1, 4, 255])
def test_a_template_id_below_256_loses_no_other_template(template_id: int) -> None:
    bad = struct.pack(">HHHH", template_id, 1, 7, 2)
    decoded, problems = decode(message(set_of(2, bad + PORTS), set_of(256, RECORD)))
    assert problems == [(0, 20, Reason.BAD_TEMPLATE_ID)] and len(ports(decoded)) == 1


@pytest.mark.parametrize(
    ("set_id", "record"),
    [
        (2, struct.pack(">HHHH", 300, 1, 7, 0)),  # no octets
        (2, struct.pack(">HHHHHH", 300, 2, 7, 65534, 11, 65534)),  # longer than any Set
        (3, struct.pack(">HHHHH", 300, 1, 0, 7, 2)),  # no scope
        (3, struct.pack(">HHHHH", 300, 1, 2, 7, 2)),  # more scopes than fields
        (2, struct.pack(">HH", 300, 66) + struct.pack(">HH", 210, 0) * 65 + struct.pack(">HH", 7, 2)),
    ],
    ids=["zero length", "length overflow", "no scope", "scopes beyond the fields", "too many empty fields"],
)
def test_a_template_that_cannot_be_is_not_used(set_id: int, record: bytes) -> None:
    decoded, problems = decode(message(set_of(set_id, record), set_of(2, PORTS), set_of(256, RECORD)))
    assert problems == [(0, 20, Reason.BAD_TEMPLATE)] and len(ports(decoded)) == 1
    assert [each.octets for each in decoded.opaque] == [record]


@pytest.mark.parametrize("cut", [1, 2, 4, 5, 7])
def test_a_truncated_template_keeps_the_ones_before(cut: int) -> None:
    enterprise = struct.pack(">HHHHIHH", 300, 2, 0x8001, 4, 9, 7, 2)
    decoded, problems = decode(message(set_of(2, PORTS + enterprise[:-cut]), set_of(256, RECORD)))
    assert problems == [(0, 32, Reason.TRUNCATED_TEMPLATE)] and len(ports(decoded)) == 1


def test_options_records_are_marked_by_their_scope_count() -> None:
    options = struct.pack(">HHHHHHHHH", 258, 3, 1, 145, 2, 34, 4, 35, 1)
    decoded, problems = decode(message(set_of(3, options), set_of(258, struct.pack(">HIB", 256, 100, 2))))
    (batch,) = decoded.flows
    assert not problems and batch.scope_count == 1
    assert [field.element.name for field in batch.fields] == ["templateId", "samplingInterval", "samplingAlgorithm"]
    assert [np.asarray(column).tolist() for column in batch.columns] == [[256], [100], [2]]


def test_the_same_element_twice_keeps_both_in_order() -> None:
    twice = struct.pack(">HHHHHH", 256, 2, 7, 2, 7, 2)
    decoded, _ = decode(message(set_of(2, twice), set_of(256, RECORD)))
    assert [np.asarray(column).tolist() for column in decoded.flows[0].columns] == [[1000], [80]]


def test_an_unknown_enterprise_element_keeps_its_number_and_octets() -> None:
    template = struct.pack(">HHHHI", 256, 1, 0x8001, 3, 77777)
    decoded, _ = decode(message(set_of(2, template), set_of(256, b"abcdef")))
    (batch,) = decoded.flows
    assert (batch.fields[0].element.pen, batch.fields[0].element.id) == (77777, 1)
    column = batch.column("77777/1")
    assert isinstance(column, Octets) and column.tolist() == [b"abc", b"def"]


def test_a_reverse_element_is_not_the_forward_one() -> None:
    template = struct.pack(">HHHHHHI", 256, 2, 1, 4, 0x8001, 4, 29305)
    decoded, _ = decode(message(set_of(2, template), set_of(256, struct.pack(">II", 1, 2))))
    (batch,) = decoded.flows
    assert batch.find(0, 1).tolist() == [1] and batch.find(29305, 1).tolist() == [2]  # type: ignore[union-attr]
    assert batch.fields[1].element.name == "reverseOctetDeltaCount" and batch.fields[1].element.is_reverse


@pytest.mark.parametrize(
    ("length", "long_form"), [(0, False), (1, False), (254, False), *((n, True) for n in (0, 1, 254, 255, 256, 65000))]
)
@pytest.mark.parametrize("copies", [1, 40])
def test_variable_length_in_both_forms(length: int, long_form: bool, copies: int) -> None:
    prefix = b"\xff" + struct.pack(">H", length) if long_form else bytes([length])
    value = bytes(i % 251 for i in range(length))
    data = message(set_of(257, b"\0\7" + prefix + value))
    decoded, problems = decode(message(set_of(2, NAME)), *[data] * copies)
    (batch,) = decoded.flows
    assert not problems and batch.column("interfaceName").tolist() == [value] * copies
    assert batch.column("sourceTransportPort").tolist() == [7] * copies


@pytest.mark.parametrize("content", [b"\0\7\5abcd", b"\0\7\xff", b"\0\7\xff\0", b"\0\7\xff\xff\xff"])
@pytest.mark.parametrize("copies", [1, 40])
def test_a_variable_length_past_its_set_keeps_the_records_before(content: bytes, copies: int) -> None:
    data = message(set_of(257, b"\0\6\1x" + content), set_of(257, b"\0\7\1y"))
    decoded, problems = decode(message(set_of(2, NAME)), *[data] * copies)
    assert sorted(problems) == [(1 + i, 24, Reason.TRUNCATED_RECORD) for i in range(copies)]
    assert sorted(decoded.flows[0].column("interfaceName").tolist()) == [b"x"] * copies + [b"y"] * copies


def test_records_stay_in_order_of_arrival_however_many_a_set_has() -> None:
    content = [[f"{m}.{r}".encode() for r in range(m % 7)] for m in range(60)]
    sets = [set_of(257, b"".join(b"\0\7" + bytes([len(name)]) + name for name in names)) for names in content]
    decoded, problems = decode(message(set_of(2, NAME)), *[message(each) for each in sets])
    (batch,) = decoded.flows
    assert not problems and batch.column("interfaceName").tolist() == [name for names in content for name in names]
    assert batch.message.tolist() == [1 + m for m, names in enumerate(content) for _ in names]


def test_the_same_template_id_means_different_things_in_two_domains() -> None:
    other = struct.pack(">HHHHHH", 256, 2, 11, 2, 7, 2)
    decoded, problems = decode(
        message(set_of(2, PORTS), domain=1),
        message(set_of(2, other), domain=2),
        message(set_of(256, RECORD), domain=1),
        message(set_of(256, RECORD), domain=2),
    )
    assert not problems and ports(decoded) == [(1000, 80), (80, 1000)]


def test_the_same_template_id_means_different_things_from_two_exporters() -> None:
    decoder = Decoder()
    other = struct.pack(">HHHHHH", 256, 2, 11, 2, 7, 2)
    packets = PacketBatch.of(
        [message(set_of(2, PORTS)), message(set_of(2, other)), *[message(set_of(256, RECORD))] * 2],
        [address(1), address(2), address(1), address(2)],
    )
    (decoded,), problems = decoder.decode(packets, 0)
    assert not len(problems) and ports(decoded) == [(1000, 80), (80, 1000)]


def test_an_exporter_may_change_its_port() -> None:
    decoder = Decoder()
    decode(message(set_of(2, PORTS)), decoder=decoder, port=1111)
    decoded, problems = decode(message(set_of(256, RECORD)), decoder=decoder, port=2222)
    assert not problems and ports(decoded) == [(1000, 80)] and decoded.messages.port.tolist() == [2222]


def test_a_redefinition_applies_to_later_sets_only() -> None:
    other = struct.pack(">HHHHHH", 256, 2, 11, 2, 7, 2)
    decoder = Decoder()
    decoded, problems = decode(
        message(set_of(2, PORTS), set_of(256, RECORD), set_of(2, other), set_of(256, RECORD)),
        message(set_of(256, RECORD)),
        decoder=decoder,
    )
    assert not problems and ports(decoded) == [(1000, 80), (80, 1000), (80, 1000)]
    assert decoder.templates.redefined == 1 and len(decoder.templates) == 1


def test_a_withdrawal_applies_to_later_sets_only() -> None:
    withdrawal = set_of(2, struct.pack(">HH", 256, 0))
    decoded, problems = decode(message(set_of(2, PORTS), set_of(256, RECORD), withdrawal, set_of(256, RECORD)))
    assert ports(decoded) == [(1000, 80)] and problems == [(0, 48, Reason.HELD_DATA)]
    assert decoded.templates[1].record.is_withdrawal


@pytest.mark.parametrize("template_id", [256, 2])
def test_withdrawing_all_templates_leaves_options_templates_and_other_domains(template_id: int) -> None:
    decoder = Decoder()
    options = struct.pack(">HHHHHHH", 258, 2, 1, 145, 2, 34, 4)
    decode(message(set_of(2, PORTS), set_of(3, options)), message(set_of(2, PORTS), domain=2), decoder=decoder)
    _, problems = decode(message(set_of(2, struct.pack(">HH", template_id, 0))), decoder=decoder)
    assert not problems and len(decoder.templates) == 2 and decoder.templates.withdrawn == 1
    _, problems = decode(message(set_of(3, struct.pack(">HH", 3, 0))), decoder=decoder)
    assert not problems and len(decoder.templates) == 1
    decoded, _ = decode(message(set_of(256, RECORD), domain=2), decoder=decoder)
    assert ports(decoded) == [(1000, 80)]


@pytest.mark.parametrize("set_id", [2, 3])
def test_a_withdrawal_of_what_is_not_there_is_reported(set_id: int) -> None:
    template = [] if set_id == 2 else [set_of(2, PORTS)]  # a Template is not an Options Template
    _, problems = decode(message(*template, set_of(set_id, struct.pack(">HH", 256, 0))))
    assert [reason for _, _, reason in problems] == [Reason.UNKNOWN_WITHDRAWAL]


def test_data_before_its_template_in_the_same_message() -> None:
    decoded, problems = decode(message(set_of(256, RECORD), set_of(2, PORTS), set_of(256, RECORD)))
    assert ports(decoded) == [(1000, 80)] * 2 and problems == [(0, 16, Reason.HELD_DATA)]
    assert decoded.flows[0].set_offset.tolist() == [16, 40] and not decoded.opaque


def test_data_before_its_template_in_the_same_batch() -> None:
    decoded, problems = decode(message(set_of(256, RECORD), sequence=5), message(set_of(2, PORTS)))
    assert ports(decoded) == [(1000, 80)] and problems == [(0, 16, Reason.HELD_DATA)]
    assert decoded.messages.packet.tolist() == [0, 1] and decoded.flows[0].message.tolist() == [0]


def test_data_a_minute_before_its_template_comes_with_its_own_header() -> None:
    decoder = Decoder()
    early, problems = decode(message(set_of(256, RECORD), sequence=5, time=60), decoder=decoder, port=9)
    assert problems == [(0, 16, Reason.HELD_DATA)] and not early.flows and decoder.templates.held.sets == 1
    assert [(o.set_id, o.octets, o.held) for o in early.opaque] == [(256, RECORD, True)]
    late, problems = decode(
        message(set_of(2, PORTS), set_of(256, RECORD * 2), sequence=6, time=120), decoder=decoder, now_ns=60 * SECOND
    )
    assert not problems and ports(late) == [(1000, 80)] * 3
    assert late.messages.packet.tolist() == [-1, 0] and late.flows[0].message.tolist() == [0, 1, 1]
    assert late.messages.sequence_number.tolist() == [5, 6] and late.messages.port.tolist() == [9, 0]
    assert late.messages.header["export_time"].tolist() == [60, 120] and late.templates[0].message == 1
    held = decoder.templates.held
    assert (held.sets, held.octets, held.released) == (0, 0, 1)


def test_held_data_is_given_up_when_it_is_too_old() -> None:
    decoder = Decoder(limits=TemplateLimits(held_age_ns=10))
    decode(message(set_of(256, RECORD)), decoder=decoder, now_ns=100)
    decode(message(set_of(257, RECORD)), decoder=decoder, now_ns=105)
    late, _ = decode(message(set_of(2, PORTS)), decoder=decoder, now_ns=111)
    held = decoder.templates.held
    assert not late.flows and (held.expired, held.sets) == (1, 1)


def test_held_data_over_the_cap_of_an_exporter_is_dropped_and_counted() -> None:
    decoder = Decoder(limits=TemplateLimits(held_octets_per_exporter=2200))
    decoded, problems = decode(*[message(set_of(256, RECORD))] * 3, decoder=decoder)
    dropped = [(packet, offset) for packet, offset, reason in problems if reason is Reason.HELD_DATA_DROPPED]
    assert dropped == [(2, 16)] and [o.held for o in decoded.opaque] == [True, True, False]
    _, problems = decode(message(set_of(256, RECORD)), decoder=decoder, exporter=address(2))
    assert problems == [(0, 16, Reason.HELD_DATA)]  # another exporter has room of its own
    assert decoder.templates.held.dropped == 1


def test_held_data_over_the_cap_in_all_is_dropped_and_counted() -> None:
    decoder = Decoder(limits=TemplateLimits(held_octets=2200))
    for last in range(3):
        _, problems = decode(message(set_of(256, RECORD)), decoder=decoder, exporter=address(last))
    assert [reason for _, _, reason in problems] == [Reason.HELD_DATA, Reason.HELD_DATA_DROPPED]


@pytest.mark.parametrize(
    "limits",
    [
        TemplateLimits(templates_per_exporter=1),
        TemplateLimits(templates=1),
        TemplateLimits(fields_per_exporter=3),
        TemplateLimits(fields=3),
    ],
    ids=["templates per exporter", "templates", "fields per exporter", "fields"],
)
def test_a_template_over_a_limit_is_refused_and_the_others_live(limits: TemplateLimits) -> None:
    decoder = Decoder(limits=limits)
    decoded, problems = decode(message(set_of(2, PORTS + NAME), set_of(256, RECORD)), decoder=decoder)
    assert problems == [(0, 16, Reason.TEMPLATE_LIMIT)] and ports(decoded) == [(1000, 80)]
    assert decoder.templates.refused == 1
    decode(message(set_of(2, struct.pack(">HH", 256, 0))), decoder=decoder)
    _, problems = decode(message(set_of(2, NAME)), decoder=decoder)  # a withdrawal makes room
    assert not problems


def test_a_template_with_too_many_fields_is_refused_and_the_old_one_gone() -> None:
    decoder = Decoder(limits=TemplateLimits(fields_per_template=2))
    three = struct.pack(">HHHHHHHH", 256, 3, 7, 2, 11, 2, 4, 1)
    _, problems = decode(message(set_of(2, PORTS), set_of(2, three), set_of(256, RECORD)), decoder=decoder)
    assert [reason for _, _, reason in problems] == [Reason.TEMPLATE_LIMIT, Reason.HELD_DATA]


def test_templates_expire_unless_they_are_refreshed() -> None:
    decoder = Decoder(limits=TemplateLimits(timeout_ns=10))
    decode(message(set_of(2, PORTS + NAME)), decoder=decoder, now_ns=0)
    decode(message(set_of(2, NAME)), decoder=decoder, now_ns=5)
    _, problems = decode(message(set_of(256, RECORD), set_of(257, b"\0\7\1y")), decoder=decoder, now_ns=11)
    assert problems == [(0, 16, Reason.HELD_DATA)] and decoder.templates.expired == 1


def test_what_lies_behind_a_datagram_in_its_row_never_shows() -> None:
    datagram = message(set_of(2, PORTS), set_of(256, RECORD * 4))
    packets = PacketBatch.of([datagram])
    packets.length[0] = len(datagram) - 6
    (decoded,), problems = Decoder().decode(packets, 0)
    assert not decoded.flows and Reason.MESSAGE_PAST_DATAGRAM in {reason for _, _, reason in problems.tolist()}
    assert all(RECORD * 3 not in each.octets for each in decoded.opaque)


def test_a_string_may_hold_any_octets() -> None:
    decoded, _ = decode(message(set_of(2, NAME), set_of(257, b"\0\7\4a\xff\0\0")))
    assert decoded.flows[0].column("interfaceName").tolist() == [b"a\xff\0\0"]


def test_a_field_of_an_unusual_length_is_octets_not_a_squeezed_number() -> None:
    template = struct.pack(">HHHHHH", 256, 2, 8, 5, 7, 9)
    decoded, _ = decode(message(set_of(2, template), set_of(256, bytes(range(14)))))
    assert [column.tolist() for column in decoded.flows[0].columns] == [[bytes(range(5))], [bytes(range(5, 14))]]


def test_many_empty_sets_and_one_octet_records_end() -> None:
    one = struct.pack(">HHHH", 256, 1, 4, 1)
    variable = struct.pack(">HHHH", 257, 1, 82, 65535)
    content = bytes(60000)
    decoded, problems = decode(
        message(set_of(2, one + variable)),
        message(set_of(256) * 16000),
        message(set_of(256, content)),
        message(set_of(257, content)),
    )
    assert not problems and [len(batch) for batch in decoded.flows] == [60000, 60000]


PORT_FIELDS = tuple(default_registry().field(name) for name in ("sourceTransportPort", "destinationTransportPort"))


def flows_of(n: int) -> FlowBatch:
    return FlowBatch(PORT_FIELDS, [np.arange(n, dtype=np.uint16), np.arange(n, dtype=np.uint16)])


def test_the_encoder_fills_messages_and_counts_data_records() -> None:
    encoder = Encoder(observation_domain_id=9, max_octets=60)
    first = encoder.encode(flows_of(23), 5 * SECOND)
    assert [len(each) for each in first.tolist()] == [60, 60, 32]  # ten records fit in 60 octets
    assert encoder.sequence_number == 23
    second = encoder.encode(flows_of(4), 6 * SECOND, records_per_message=2)
    decoded, problems = decode(*encoder.template_messages(6 * SECOND).tolist(), *first.tolist(), *second.tolist())
    assert not problems and decoded.messages.sequence_number.tolist() == [27, 0, 10, 20, 23, 25]
    assert decoded.messages.header["export_time"].tolist() == [6, 5, 5, 5, 6, 6]
    assert set(decoded.messages.observation_domain_id.tolist()) == {9}
    assert [a for a, _ in ports(decoded)] == [*range(23), *range(4)]


def test_batches_share_messages_with_the_templates_before_them() -> None:
    encoder = Encoder(max_octets=100)
    other = FlowBatch(PORT_FIELDS[:1], [np.arange(3, dtype=np.uint16)])
    options = FlowBatch(PORT_FIELDS, flows_of(2).columns, scope_count=1)
    sent = encoder.encode_all([flows_of(25), other, flows_of(0), options, flows_of(45)], 5 * SECOND, templates="all")
    assert max(len(each) for each in sent.tolist()) <= 100
    assert encoder.with_templates == 1
    assert len(sent) == 2 + 1 + 2  # what is left over with three Templates, one and two Messages of 20 records
    decoded, problems = decode(*sent.tolist())
    assert not problems and [each.message for each in decoded.templates] == [0, 0, 0]
    assert encoder.sequence_number == 75
    records = np.bincount(np.concatenate([batch.message for batch in decoded.flows]), minlength=5)
    assert decoded.messages.sequence_number.tolist() == [0, *np.cumsum(records)[:-1].tolist()]
    found = {(*batch.fields, batch.scope_count): sorted(batch.columns[0].tolist()) for batch in decoded.flows}
    assert found[(*PORT_FIELDS, 0)] == sorted([*range(25), *range(45)])
    assert found[(*PORT_FIELDS[:1], 0)] == [0, 1, 2] and found[(*PORT_FIELDS, 1)] == [0, 1]


def test_only_new_templates_go_along() -> None:
    encoder = Encoder()
    known = {"none": 0, "new": 1, "all": 2}
    encoder.encode_all([flows_of(1)], 0, "new")
    other = FlowBatch(PORT_FIELDS[:1], [np.arange(3, dtype=np.uint16)])
    for which, count in known.items():
        decoded, _ = decode(*encoder.encode_all([flows_of(1), other], 0, which).tolist(), decoder=Decoder())
        assert len(decoded.templates) == count
    assert len(encoder.encode_all([], 0, "new")) == 0
    encoder.register(PORT_FIELDS, 1)
    encoder.withdraw(0)
    assert len(encoder.encode_all([], 0, "new")) == 0


def test_the_sequence_number_wraps() -> None:
    encoder = Encoder()
    encoder.sequence_number = 2**32 - 1
    decoded, _ = decode(*encoder.encode(flows_of(4), 0, 2).tolist())
    assert decoded.messages.sequence_number.tolist() == [2**32 - 1, 1] and encoder.sequence_number == 3


def test_templates_are_spread_over_messages_that_fit() -> None:
    encoder = Encoder(max_octets=100)
    ids = [encoder.register((FieldSpecifier(PORT_FIELDS[0].element, 2),) * n) for n in range(1, 11)]
    assert ids == list(range(256, 266)) and encoder.register((PORT_FIELDS[0],)) == 256
    messages = encoder.template_messages(0)
    assert len(messages) > 1 and messages.length.max() <= 100
    decoded, problems = decode(*messages.tolist())
    assert not problems and [each.record.template_id for each in decoded.templates] == ids


def test_a_withdrawal_by_the_encoder_is_understood() -> None:
    encoder, decoder = Encoder(), Decoder()
    encoder.register(PORT_FIELDS)
    encoder.register(PORT_FIELDS, scope_count=1)
    one = encoder.register(PORT_FIELDS[:1])
    decode(*encoder.template_messages(0).tolist(), decoder=decoder)
    assert len(decoder.templates) == 3
    decode(*encoder.withdraw(0, one).tolist(), decoder=decoder)
    assert len(decoder.templates) == 2 and encoder.register(PORT_FIELDS[:1]) != one
    decode(*encoder.withdraw(0).tolist(), decoder=decoder)
    assert not len(decoder.templates) and not len(encoder.template_messages(0))
    with pytest.raises(EncodeError, match="no Template 300"):
        encoder.withdraw(0, 300)


def test_what_ipfix_cannot_carry_is_an_encode_error() -> None:
    registry = default_registry()
    encoder = Encoder(max_octets=100)
    with pytest.raises(EncodeError, match="50 records a message: use 1 to 20 for 100 octets"):
        encoder.encode(flows_of(100), 0, 50)
    assert encoder.max_records(PORT_FIELDS) == 20
    with pytest.raises(EncodeError, match="octetDeltaCount: 65536 does not fit in 2 octets"):
        encoder.encode(FlowBatch((registry.field("octetDeltaCount", 2),), [np.array([65536], np.uint64)]), 0)
    name = registry.field("interfaceName")
    with pytest.raises(EncodeError, match="a record does not fit in a message of 100 octets"):
        encoder.encode(FlowBatch((name,), [Octets.of([bytes(80)])]), 0)
    with pytest.raises(EncodeError, match="interfaceName: a value is not of 4 octets"):
        encoder.encode(FlowBatch((FieldSpecifier(name.element, 4),), [Octets.of([b"abc"])]), 0)
    with pytest.raises(EncodeError, match="octetDeltaCount: only octets can have a variable length"):
        encoder.encode(FlowBatch((registry.field("octetDeltaCount", 65535),), [np.array([1], np.uint64)]), 0)
    with pytest.raises(EncodeError, match="does not fit in 100 octets"):
        encoder.register(PORT_FIELDS * 20)
    with pytest.raises(EncodeError, match="a Template of 0 fields"):
        encoder.register(())
    with pytest.raises(EncodeError, match="use 28 to 65535"):
        Encoder(max_octets=10)


def test_no_rows_make_no_messages() -> None:
    assert len(Encoder().encode(flows_of(0), 0)) == 0
