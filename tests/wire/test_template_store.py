"""What is remembered of exporters: learned elements (RFC 5610), the state file, bounds."""

from __future__ import annotations

import json
import struct

import pytest

from pyflowx.batch import V4_MAPPED, Octets, PacketBatch
from pyflowx.decoded import Decoded, Reason, TemplateRecord
from pyflowx.elements import DATA_TYPES, InformationElement, default_registry
from pyflowx.errors import ConfigError
from pyflowx.wire import Decoder, TemplateLimits, TemplateStore
from pyflowx.wire.template import template_key

VENDOR = 55_556
INFORMATION = struct.pack(">HHH", 302, 7, 2) + struct.pack(
    ">14H", 346, 4, 303, 2, 339, 1, 344, 1, 345, 2, 341, 65535, 340, 65535
)
DATA = struct.pack(">HHHHI", 256, 1, 0x8007, 2, VENDOR)


def set_of(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def message(*sets: bytes) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 0, 0, 1) + body


def described(name: str, id: int = 7, type: int = 2, pen: int = VENDOR, semantics: int = 3, units: int = 2) -> bytes:
    text = name.encode()
    return struct.pack(">IHBBH", pen, id, type, semantics, units) + bytes([len(text)]) + text + b"\4text"


def exporter(last: int) -> bytes:
    return V4_MAPPED + bytes([192, 0, 2, last])


def decode(decoder: Decoder, *datagrams: bytes, address: bytes = exporter(1)) -> Decoded:
    (decoded,), problems = decoder.decode(PacketBatch.of(datagrams, address), 0)
    assert {reason for _, _, reason in problems.tolist()} <= {Reason.HELD_DATA}
    return decoded


def test_a_described_element_has_its_name_type_semantics_and_units() -> None:
    decoder = Decoder()
    decoded = decode(
        decoder,
        message(set_of(3, INFORMATION), set_of(302, described("vendorOctets")), set_of(2, DATA), set_of(256, b"\1\2")),
    )
    assert decoded.flows[1].column("vendorOctets").tolist() == [0x102]
    element = decoded.flows[1].fields[0].element
    assert (element.pen, element.id, element.data_type.name) == (VENDOR, 7, "unsigned16")
    assert (element.semantics, element.units) == ("deltaCounter", "octets")
    assert decoded.flows[0].scope_count == 2  # the description itself is there too


def test_a_description_applies_to_later_sets_of_a_template_that_came_before() -> None:
    data = set_of(256, b"\1\2")
    decoded = decode(
        Decoder(),
        message(set_of(2, DATA), data, set_of(3, INFORMATION), set_of(302, described("vendorOctets")), data),
        message(data),
    )
    by_name = {batch.fields[-1].element.name: batch for batch in decoded.flows}
    before, after = by_name[f"{VENDOR}/7"].columns[0], by_name["vendorOctets"].columns[0]
    assert isinstance(before, Octets) and before.tolist() == [b"\1\2"] and after.tolist() == [0x102, 0x102]


def test_a_description_held_for_its_template_is_learned_with_it() -> None:
    decoder = Decoder()
    decode(decoder, message(set_of(302, described("vendorOctets"))))
    decode(decoder, message(set_of(3, INFORMATION)))
    decoded = decode(decoder, message(set_of(2, DATA), set_of(256, b"\1\2")))
    assert decoded.flows[0].column("vendorOctets").tolist() == [0x102]


def test_what_one_exporter_describes_says_nothing_about_another() -> None:
    decoder = Decoder()
    decode(decoder, message(set_of(3, INFORMATION), set_of(302, described("vendorOctets"))))
    decoded = decode(decoder, message(set_of(2, DATA), set_of(256, b"\1\2")), address=exporter(2))
    assert decoded.flows[0].fields[0].element.name == f"{VENDOR}/7"


@pytest.mark.parametrize("name", ["octetDeltaCount", "", "a b", "x" * 65, "é", "1/2", 'a"b'])
def test_a_described_name_that_is_taken_or_no_name_is_not_used_but_the_type_is(name: str) -> None:
    decoder = Decoder()
    decode(decoder, message(set_of(3, INFORMATION), set_of(302, described(name))))
    decoded = decode(decoder, message(set_of(2, DATA), set_of(256, b"\1\2")))
    assert decoded.flows[0].column(f"{VENDOR}/7").tolist() == [0x102]


def test_two_described_elements_cannot_share_a_name() -> None:
    decoder = Decoder()
    decode(decoder, message(set_of(3, INFORMATION), set_of(302, described("same") + described("same", id=8))))
    names = [decoder.templates.element(exporter(1), VENDOR, id).name for id in (7, 8)]
    assert names == ["same", f"{VENDOR}/8"]


def test_known_elements_cannot_be_described_anew() -> None:
    decoder = Decoder()
    decode(decoder, message(set_of(3, INFORMATION), set_of(302, described("mine", id=1, pen=0, type=13))))
    assert decoder.templates.element(exporter(1), 0, 1) == default_registry().get(0, 1)


def test_an_unknown_data_type_is_an_octet_array() -> None:
    decoder = Decoder()
    decode(decoder, message(set_of(3, INFORMATION), set_of(302, described("odd", type=99, semantics=99, units=9999))))
    element = decoder.templates.element(exporter(1), VENDOR, 7)
    assert (element.data_type.name, element.semantics, element.units) == ("octetArray", "default", "")


def test_described_elements_are_bounded() -> None:
    decoder = Decoder(limits=TemplateLimits(learned_per_exporter=3, learned=5))
    many = b"".join(described(f"e{id}", id=id) for id in range(1, 10))
    for last in (1, 2, 3):
        decode(decoder, message(set_of(3, INFORMATION), set_of(302, many)), address=exporter(last))
    counts = [
        sum("/" not in decoder.templates.element(exporter(last), VENDOR, id).name for id in range(1, 10))
        for last in (1, 2, 3)
    ]
    assert counts == [3, 2, 0] and decoder.templates.refused == 3


PORTS = tuple(default_registry().field(name) for name in ("sourceTransportPort", "destinationTransportPort"))


def test_templates_and_described_elements_survive_a_restart() -> None:
    before = Decoder()
    decode(before, message(set_of(3, INFORMATION), set_of(302, described("vendorOctets")), set_of(2, DATA)))
    six = bytes.fromhex("20010db8") + bytes(12)
    decode(before, message(set_of(2, DATA)), address=six)
    after = Decoder()
    assert after.templates.load(before.templates.dump()) == 3
    assert json.loads(after.templates.dump()) == json.loads(before.templates.dump())
    decoded = decode(after, message(set_of(256, b"\1\2")))
    assert decoded.flows[0].column("vendorOctets").tolist() == [0x102]
    decoded = decode(after, message(set_of(256, b"\1\2")), address=six)
    assert decoded.flows[0].column(f"{VENDOR}/7").tolist() == [b"\1\2"]


def test_a_restored_template_goes_on_growing_old() -> None:
    store = TemplateStore(limits=TemplateLimits(timeout_ns=10))
    store.define(template_key(exporter(1), 10, 1, 256), TemplateRecord(256, PORTS), now_ns=100)
    other = TemplateStore(limits=TemplateLimits(timeout_ns=10))
    assert other.load(store.dump()) == 1
    other.expire(110)
    assert len(other) == 1
    other.expire(111)
    assert len(other) == 0


def test_a_state_within_limits_is_taken_as_far_as_they_go() -> None:
    store = TemplateStore()
    for id in range(256, 266):
        store.define(template_key(exporter(1), 10, 1, id), TemplateRecord(id, PORTS), 0)
    assert TemplateStore(limits=TemplateLimits(templates=4)).load(store.dump()) == 4


GOOD = TemplateStore()
GOOD.define(template_key(exporter(1), 10, 1, 256), TemplateRecord(256, PORTS, 1), 0)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"format": 2, "templates": [], "elements": []}',
        b'{"format": 1, "templates": [{}], "elements": []}',
        GOOD.dump().replace(b'"192.0.2.1"', b'"nowhere"'),
        GOOD.dump().replace(b'"template_id": 256', b'"template_id": 70000'),
        GOOD.dump().replace(b'"scope_count": 1', b'"scope_count": 3'),
        GOOD.dump().replace(b"[[0, 7, 2], [0, 11, 2]]", b"[]"),
        GOOD.dump().replace(b"[[0, 7, 2], [0, 11, 2]]", b"[[0, 7, -2]]"),
        GOOD.dump().replace(b"[[0, 7, 2], [0, 11, 2]]", b"[[0, 7, 2, 2]]"),
        GOOD.dump().replace(b"[[0, 7, 2], [0, 11, 2]]", b'[[0, 7, "2"]]'),
        GOOD.dump().replace(b"[[0, 7, 2], [0, 11, 2]]", b"[[0, 7, 2.0]]"),
        GOOD.dump().replace(b"[[0, 7, 2], [0, 11, 2]]", b"[[0, 7, 70000]]"),
        b"[" * 100_000,
    ],
)
def test_what_is_no_state_file_is_a_config_error(state: bytes) -> None:
    with pytest.raises(ConfigError, match="not a template file of ours"):
        TemplateStore().load(state)


def test_equal_templates_share_a_layout_until_the_last_is_gone() -> None:
    store = TemplateStore(limits=TemplateLimits(fields=2))
    keys = [template_key(exporter(last), 10, 1, 256) for last in range(3)]
    assert all(store.define(key, TemplateRecord(256, PORTS), 0) for key in keys)
    assert len({id(store.layouts[key]) for key in keys}) == 1
    other = TemplateRecord(257, (PORTS[0],))
    assert not store.define(template_key(exporter(1), 10, 1, 257), other, 0)
    assert all(store.withdraw(key, is_options=False) for key in keys)
    assert store.define(template_key(exporter(1), 10, 1, 257), other, 0) and len(store) == 1


def test_elements_of_exporters_that_are_gone_make_room_for_those_of_others() -> None:
    """A flood of forged addresses closes the store to others until its Templates are stale, and not for ever."""
    hour = TemplateLimits().stale_ns
    store = TemplateStore(limits=TemplateLimits(learned=20))

    def learn(number: int, now_ns: int) -> bool:
        who = V4_MAPPED + number.to_bytes(4, "big")
        field = default_registry().field("octetDeltaCount")
        store.define(template_key(who, 10, 1, 256), TemplateRecord(256, (field,)), now_ns)
        store.learn(who, [InformationElement(VENDOR, 7, f"x{number}", DATA_TYPES["string"])], now_ns)
        return store.element(who, VENDOR, 7).name == f"x{number}"

    assert all(learn(number, 0) for number in range(20))
    assert not learn(100, hour) and store.refused == 1  # nobody is stale yet
    who = V4_MAPPED + (3).to_bytes(4, "big")
    store.define(
        template_key(who, 10, 1, 256), TemplateRecord(256, (default_registry().field("octetDeltaCount"),)), hour
    )
    before = store.changes
    assert all(learn(number, hour + 1) for number in range(200, 219)) and store.changes > before
    assert store.element(who, VENDOR, 7).name == "x3"  # it went on
    assert store.element(V4_MAPPED + (4).to_bytes(4, "big"), VENDOR, 7).name == f"{VENDOR}/7"
    assert not learn(300, hour + 1)


def test_the_registry_that_is_given_is_not_changed() -> None:
    registry = default_registry().copy()
    size = len(registry)
    store = TemplateStore(registry)
    store.learn(exporter(1), [InformationElement(VENDOR, 7, "x", DATA_TYPES["string"])])
    assert len(registry) == size and store.element(exporter(1), VENDOR, 7).name == "x"


HOUR = 3600 * 10**9
ONE, TWO = (default_registry().field(name) for name in ("octetDeltaCount", "packetDeltaCount"))


@pytest.mark.parametrize(
    "limits",
    [
        TemplateLimits(templates=3),
        TemplateLimits(fields=3),
        TemplateLimits(templates_per_exporter=3),
        TemplateLimits(fields_per_exporter=3),
    ],
    ids=["templates", "fields", "templates per exporter", "fields per exporter"],
)
def test_stale_templates_make_room_where_a_limit_is_reached(limits: TemplateLimits) -> None:
    """Else forged exporters that filled the store once would shut out all that start later."""
    store = TemplateStore(limits=limits)
    addresses = [exporter(1)] * 5 if limits.templates_per_exporter == 3 or limits.fields_per_exporter == 3 else None
    keys = [template_key((addresses or [exporter(n) for n in range(5)])[n], 10, 1, 256 + n) for n in range(5)]
    fields = [(default_registry().field("octetDeltaCount", 1 + n),) for n in range(5)]

    def define(n: int, now_ns: int) -> bool:
        return store.define(keys[n], TemplateRecord(256 + n, fields[n]), now_ns)

    assert all(define(n, n) for n in range(3))
    assert not define(3, HOUR) and store.refused == 1  # nobody's is older than an hour
    assert define(0, HOUR)  # refreshed
    assert define(3, HOUR + 2) and store.expired == 1  # in the place of Template 257
    assert set(store.layouts) == {keys[0], keys[2], keys[3]}
    assert not define(4, HOUR + 2) and define(4, HOUR + 3)
    assert set(store.layouts) == {keys[0], keys[3], keys[4]}


def test_a_template_that_no_limit_can_hold_drops_nobody_elses() -> None:
    store = TemplateStore(limits=TemplateLimits(fields_per_template=1))
    assert store.define(template_key(exporter(1), 10, 1, 256), TemplateRecord(256, (ONE,)), 0)
    assert not store.define(template_key(exporter(2), 10, 1, 256), TemplateRecord(256, (ONE, TWO)), 2 * HOUR)
    assert len(store) == 1 and store.refused == 1 and store.expired == 0
