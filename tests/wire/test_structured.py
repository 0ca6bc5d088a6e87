"""Structured data in IPFIX (RFC 6313)."""

from __future__ import annotations

import struct

import pytest

from pyflowx.batch import Octets, PacketBatch
from pyflowx.decoded import Decoded, Reason
from pyflowx.wire import Decoder
from pyflowx.wire.structured import MAX_DEPTH, BasicList, MultiList, RecordList, UnreadList

BASIC, SUB, MULTI = 291, 292, 293
LIST_OF = {BASIC: 301, SUB: 302, MULTI: 303}  # a Template for each: one list of variable length
PORT = struct.pack(">HHHH", 256, 1, 7, 2)
NAMED = struct.pack(">HHHHHH", 257, 2, 82, 65535, 4, 1)
TEMPLATES = PORT + NAMED + b"".join(struct.pack(">HHHH", id, 1, element, 65535) for element, id in LIST_OF.items())


def set_of(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def message(*sets: bytes) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 0, 0, 1) + body


def variable(content: bytes) -> bytes:
    return b"\xff" + struct.pack(">H", len(content)) + content


def basic(id: int, length: int, content: bytes, semantic: int = 3, pen: int | None = None) -> bytes:
    if pen is None:
        return struct.pack(">BHH", semantic, id, length) + content
    return struct.pack(">BHHI", semantic, id | 0x8000, length, pen) + content


def sub(template_id: int, content: bytes, semantic: int = 3) -> bytes:
    return struct.pack(">BH", semantic, template_id) + content


def multi(*parts: tuple[int, bytes], semantic: int = 3) -> bytes:
    return bytes([semantic]) + b"".join(set_of(*part) for part in parts)


def decode(*datagrams: bytes, decoder: Decoder | None = None) -> tuple[Decoded, list[tuple[int, int, Reason]]]:
    packets = PacketBatch.of(datagrams)
    (decoded,), problems = (decoder or Decoder()).decode(packets, 0)
    packets.data[:] = 0xEE
    return decoded, problems.tolist()


def decode_lists(element: int, *lists: bytes) -> tuple[list[object], list[tuple[int, int, Reason]]]:
    """The items of records that hold one list each."""
    content = b"".join(map(variable, lists))
    decoded, problems = decode(message(set_of(2, TEMPLATES), set_of(LIST_OF[element], content)))
    (batch,) = decoded.flows
    column = batch.columns[0]
    assert not isinstance(column, Octets) and column.dtype == object and len(column) == len(lists)
    return column.tolist(), problems


def test_a_basic_list_of_numbers() -> None:
    (one, none), problems = decode_lists(BASIC, basic(7, 2, b"\0\1\0\2\0\3"), basic(7, 2, b"", semantic=0))
    assert not problems and isinstance(one, BasicList) and isinstance(none, BasicList)
    assert one.semantic == 3 and one.field.element.name == "sourceTransportPort"
    assert one.values.tolist() == [1, 2, 3] and none.values.tolist() == [] and none.semantic == 0


def test_a_basic_list_of_strings_and_of_an_enterprise_element() -> None:
    (names,), _ = decode_lists(BASIC, basic(82, 65535, b"\3eth\0\xff\0\2lo"))
    assert isinstance(names, BasicList) and names.values.tolist() == [b"eth", b"", b"lo"]
    (vendor,), _ = decode_lists(BASIC, basic(5, 3, b"abcdef", pen=77777))
    assert isinstance(vendor, BasicList) and vendor.field.element.name == "77777/5"
    assert vendor.values.tolist() == [b"abc", b"def"]


def test_a_sub_template_list() -> None:
    (ports, names), problems = decode_lists(SUB, sub(256, b"\0\1\0\2"), sub(257, b"\2ab\6\0\x11", semantic=4))
    assert not problems and isinstance(ports, RecordList) and isinstance(names, RecordList)
    assert ports.template_id == 256 and ports.semantic == 3 and names.semantic == 4
    assert ports.records is not None and ports.records.column("sourceTransportPort").tolist() == [1, 2]
    assert names.records is not None
    assert names.records.column("interfaceName").tolist() == [b"ab", b""]
    assert names.records.column("protocolIdentifier").tolist() == [6, 17]


def test_a_sub_template_multi_list() -> None:
    (item, empty), problems = decode_lists(MULTI, multi((256, b"\0\1"), (257, b"\1x\6"), (256, b"")), multi())
    assert not problems and isinstance(item, MultiList) and [each.template_id for each in item.lists] == [256, 257, 256]
    batches = [each.records for each in item.lists]
    assert [0 if batch is None else len(batch) for batch in batches] == [1, 1, 0]
    assert batches[0] is not None and batches[0].column("sourceTransportPort").tolist() == [1]
    assert isinstance(empty, MultiList) and empty.lists == ()


def test_lists_inside_lists() -> None:
    inner = variable(basic(7, 2, b"\0\1\0\2")) + variable(basic(7, 2, b"\0\3"))
    (item,), problems = decode_lists(MULTI, multi((LIST_OF[SUB], variable(sub(LIST_OF[BASIC], inner)))))
    assert not problems and isinstance(item, MultiList)
    outer = item.lists[0].records
    assert outer is not None
    (records,) = outer.columns[0].tolist()
    assert isinstance(records, RecordList) and records.records is not None
    lists = records.records.columns[0].tolist()
    assert [each.values.tolist() for each in lists] == [[1, 2], [3]]


def test_lists_nest_no_deeper_than_allowed() -> None:
    content = sub(LIST_OF[SUB], b"")
    for _ in range(2 * MAX_DEPTH):
        content = sub(LIST_OF[SUB], variable(content))
    (item,), problems = decode_lists(SUB, content)
    assert [reason for _, _, reason in problems] == [Reason.BAD_STRUCTURED_DATA]
    depth = 0
    while isinstance(item, RecordList):
        assert item.records is not None
        (item,) = item.records.columns[0].tolist()
        depth += 1
    assert isinstance(item, UnreadList) and depth == MAX_DEPTH


@pytest.mark.parametrize(
    ("element", "content"),
    [
        (BASIC, b""),
        (BASIC, b"\3\0\7\0"),
        (BASIC, b"\3\x80\7\0\2\0\0"),
        (BASIC, basic(7, 0, b"\0\1")),
        (BASIC, basic(7, 4, b"\0\1")),
        (BASIC, basic(82, 65535, b"\5ab")),
        (SUB, b"\3\1"),
        (SUB, sub(256, b"\0")),
        (SUB, sub(257, b"\5ab\0")),
        (MULTI, b""),
        (MULTI, b"\3\1\0"),
        (MULTI, b"\3\1\0\0\3"),
        (MULTI, b"\3\1\0\0\x09\0\1"),
        (MULTI, multi((256, b"\0"))),
    ],
)
def test_what_does_not_parse_is_kept_and_loses_no_neighbour(element: int, content: bytes) -> None:
    good = {BASIC: basic(7, 2, b"\0\1"), SUB: sub(256, b"\0\1"), MULTI: multi((256, b"\0\1"))}[element]
    (first, bad, last), problems = decode_lists(element, good, content, good)
    assert bad == UnreadList(content) and not isinstance(first, UnreadList) and not isinstance(last, UnreadList)
    assert problems == [(0, 16 + 4 + len(TEMPLATES), Reason.BAD_STRUCTURED_DATA)]


def test_an_unknown_template_leaves_octets() -> None:
    (item,), problems = decode_lists(SUB, sub(999, b"abc"))
    assert not problems and item == RecordList(3, 999, None, 0, 0, b"abc") and item.records is None


def test_a_list_means_the_template_of_its_time() -> None:
    data = set_of(LIST_OF[SUB], variable(sub(256, b"\0\1\0\2")))
    redefined = set_of(2, struct.pack(">HHHH", 256, 1, 1, 4))
    withdrawn = set_of(2, struct.pack(">HH", 256, 0))
    decoded, problems = decode(
        message(set_of(2, TEMPLATES), data, redefined, data), message(data), message(withdrawn, data)
    )
    (batch,) = decoded.flows
    items = batch.columns[0].tolist()
    assert not problems and [each.records and each.records.fields[0].element.name for each in items] == [
        "sourceTransportPort",
        "octetDeltaCount",
        "octetDeltaCount",
        None,
    ]


def test_a_held_list_means_the_template_that_came_with_its_own() -> None:
    decoder = Decoder()
    decode(message(set_of(LIST_OF[SUB], variable(sub(256, b"\0\1")))), decoder=decoder)
    decoded, _ = decode(message(set_of(2, TEMPLATES)), decoder=decoder)
    (item,) = decoded.flows[0].columns[0].tolist()
    assert item.records.column("sourceTransportPort").tolist() == [1]


def test_a_list_of_fixed_length_beside_plain_fields() -> None:
    template = struct.pack(">HHHHHHHH", 310, 3, 7, 2, BASIC, 7, 11, 2)
    record = b"\0\1" + basic(4, 1, b"\6\x11") + b"\0\2"
    decoded, problems = decode(message(set_of(2, template), set_of(310, record * 2)))
    (batch,) = decoded.flows
    assert not problems and batch.column("sourceTransportPort").tolist() == [1, 1]
    assert [each.values.tolist() for each in batch.columns[1].tolist()] == [[6, 17], [6, 17]]


def test_many_lists_share_their_records() -> None:
    items, _ = decode_lists(SUB, *[sub(256, struct.pack(">H", n)) for n in range(2000)])
    batches = {id(item.batch) for item in items if isinstance(item, RecordList)}
    assert len(batches) == 1 and [(item.start, item.stop) for item in items] == [(n, n + 1) for n in range(2000)]  # type: ignore[attr-defined]
