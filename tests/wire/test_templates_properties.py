"""Properties of the codecs with Templates: round trip, batches split at will, any octets.

The invariant: any list of byte strings decodes to flows and problems, never to an exception.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyflowx.batch import V4_MAPPED, Column, FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded, Protocol, Reason
from pyflowx.elements import DATA_TYPES, VARIABLE_LENGTH, FieldSpecifier, InformationElement, default_registry
from pyflowx.wire import Decoder, TemplateLimits, ipfix, netflow9, structured

# An element of every type, once with a number of IANA's range and once a vendor's.
ELEMENTS = [
    InformationElement(pen, 20_000 + number, f"test{pen}{name}", data_type)
    for pen in (0, 55_555)
    for number, (name, data_type) in enumerate(DATA_TYPES.items())
]
REGISTRY = default_registry().copy()
for _element in ELEMENTS:
    REGISTRY.add(_element)
PLAIN = [element for element in ELEMENTS if not element.data_type.is_list]
EXPORTERS = [V4_MAPPED + bytes([10, 0, 0, n]) for n in range(3)]


def new_decoder(limits: TemplateLimits | None = None) -> Decoder:
    return Decoder(REGISTRY, limits, frozenset({Protocol.NETFLOW_V9, Protocol.IPFIX}))


def specifiers(protocol: str) -> st.SearchStrategy[FieldSpecifier]:
    elements = PLAIN if protocol == "ipfix" else [element for element in PLAIN if element.pen == 0]

    def lengths(element: InformationElement) -> st.SearchStrategy[FieldSpecifier]:
        known = sorted(element.data_type.lengths)
        any_length = st.integers(0, 40) if protocol == "netflow9" else st.integers(0, 40) | st.just(VARIABLE_LENGTH)
        return st.builds(FieldSpecifier, st.just(element), st.sampled_from(known) | any_length if known else any_length)

    return st.sampled_from(elements).flatmap(lengths)


@st.composite
def columns(draw: st.DrawFn, field: FieldSpecifier, rows: int) -> Column:
    if field.has_column:
        return field.element.data_type.to_column(draw(hnp.arrays(np.uint8, (rows, field.length))))
    if field.is_variable:
        sizes = st.integers(0, 12) | st.sampled_from([253, 254, 255, 256, 700])
    else:
        sizes = st.just(field.length)
    seed = draw(st.integers(0, 255))
    lengths = draw(st.lists(sizes, min_size=rows, max_size=rows))
    return Octets.of([bytes((seed + row + i) % 256 for i in range(n)) for row, n in enumerate(lengths)])


@st.composite
def flow_batches(draw: st.DrawFn, protocol: str) -> FlowBatch:
    fields = draw(st.lists(specifiers(protocol), min_size=1, max_size=6).filter(lambda all: any(f.length for f in all)))
    rows = draw(st.integers(1, 30))
    made = [draw(columns(field, rows)) for field in fields]
    return FlowBatch(tuple(fields), made, scope_count=draw(st.integers(0, len(fields))))


def values(column: Column) -> list[object]:
    """A column as comparable Python values, exact to the bit."""
    if isinstance(column, Octets):
        return list(column.tolist())
    if column.dtype == object:
        return [plain(item) for item in column.tolist()]
    return [(str(column.dtype), row.tobytes()) for row in column]


def plain(item: object) -> object:
    if isinstance(item, structured.BasicList):
        return "basic", item.semantic, item.field, values(item.values)
    if isinstance(item, structured.RecordList):
        batch = item.records
        inner = None if batch is None else (batch.fields, [values(column) for column in batch.columns])
        return "records", item.semantic, item.template_id, inner, item.octets
    if isinstance(item, structured.MultiList):
        return "multi", item.semantic, tuple(plain(each) for each in item.lists)
    return item


def same(one: FlowBatch, other: FlowBatch) -> bool:
    return (one.fields, one.scope_count) == (other.fields, other.scope_count) and all(
        values(a) == values(b) for a, b in zip(one.columns, other.columns, strict=True)
    )


@pytest.mark.parametrize("protocol", ["ipfix", "netflow9"])
@given(data=st.data())
def test_decode_of_encode_is_identity(protocol: str, data: st.DataObject) -> None:
    codec = {"ipfix": ipfix, "netflow9": netflow9}[protocol]
    encoder = codec.Encoder(max_octets=data.draw(st.sampled_from([9000, 65535])))
    flows = data.draw(flow_batches(protocol))
    per_message = data.draw(st.sampled_from([None, 1, 2]))
    sent = encoder.encode(flows, 10**9, per_message)
    assert sent.length.max() <= encoder.max_octets
    if per_message:
        assert len(sent) == -(-len(flows) // per_message)
    packets = PacketBatch.of(encoder.template_messages(10**9).tolist() + sent.tolist())
    (decoded,), problems = new_decoder().decode(packets, 0)
    packets.data[:] = 0x55
    assert not problems.tolist()
    (received,) = decoded.flows
    assert same(received, flows)
    assert received.message.tolist() == sorted(received.message.tolist())


@pytest.mark.parametrize("protocol", ["ipfix", "netflow9"])
@given(data=st.data())
def test_batches_that_share_messages_lose_no_record(protocol: str, data: st.DataObject) -> None:
    codec = {"ipfix": ipfix, "netflow9": netflow9}[protocol]
    batches = data.draw(st.lists(flow_batches(protocol), max_size=4))
    encoder = codec.Encoder(max_octets=data.draw(st.sampled_from([9000, 65535])))
    sent = encoder.encode_all(batches, 10**9, templates="all")
    assert not len(sent) or sent.length.max() <= encoder.max_octets
    decoded, problems = new_decoder().decode(PacketBatch.of(sent.tolist()), 0)
    assert not problems.tolist()

    def rows(found: list[FlowBatch]) -> Counter[str]:
        return Counter(
            repr((batch.fields, batch.scope_count, row))
            for batch in found
            for row in zip(*(values(column) for column in batch.columns), strict=True)
        )

    assert rows([batch for part in decoded for batch in part.flows]) == rows(batches)


# -- hostile input -----------------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """Real messages of every kind, to be cut and bent."""
    registry = default_registry()
    ports = tuple(registry.field(name) for name in ("sourceTransportPort", "octetDeltaCount", "sourceIPv6Address"))
    fixed = FlowBatch(
        ports, [np.arange(5, dtype=np.uint16), np.arange(5, dtype=np.uint64), np.zeros((5, 16), np.uint8)]
    )
    named = FlowBatch(
        (ports[0], registry.field("interfaceName"), registry.field("wlanSSID"), ports[1]),
        [fixed.columns[0], Octets.of([b"x" * n for n in (0, 1, 9, 254, 300)]), Octets.of([b"y"] * 5), fixed.columns[1]],
    )
    options = FlowBatch(ports[:2], fixed.columns[:2], scope_count=1)
    found: list[bytes] = []
    for encoder in (ipfix.Encoder(), netflow9.Encoder()):
        for batch in (fixed, options, named) if isinstance(encoder, ipfix.Encoder) else (fixed, options):
            found += encoder.encode(batch, 10**9).tolist()
        found += encoder.template_messages(10**9).tolist()
        if isinstance(encoder, ipfix.Encoder):
            found += encoder.withdraw(10**9).tolist()
    # structured data: a basicList, a subTemplateList and a subTemplateMultiList of Template 256
    inner = struct.pack(">HHHH", 256, 1, 7, 2)
    outer = struct.pack(">HHHHHHHHHH", 300, 4, 7, 2, 291, 65535, 292, 65535, 293, 65535)
    lists = [b"\3\0\7\0\2\0\1\0\2", b"\3\1\0\0\1\0\2", b"\3\1\0\0\6\0\1\1\1\0\7abc"]
    record = b"\0\5" + b"".join(bytes([len(each)]) + each for each in lists)
    found.append(ipfix_message((2, inner + outer), (300, record * 2)))
    # type information (RFC 5610) of element 7 of vendor 55556, and data with it
    information = struct.pack(">HHHHHHHHHHHHH", 302, 5, 2, 346, 4, 303, 2, 339, 1, 341, 65535, 344, 1)
    vendor = struct.pack(">HHHHI", 303, 1, 0x8007, 2, 55_556)
    learned = struct.pack(">IHB", 55_556, 7, 2) + b"\4abcd\1"
    found.append(ipfix_message((2, vendor), (303, b"\1\2"), (3, information), (302, learned), (303, b"\1\2")))
    return found


def ipfix_message(*sets: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack(">HH", set_id, 4 + len(content)) + content for set_id, content in sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 0, 0, 1) + body


SEEDS = seeds()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real message with octets changed, cut out, repeated or added."""
    octets = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(octets)))
        kind = draw(st.sampled_from(["set", "word", "cut", "insert", "repeat"]))
        if kind == "set" and at < len(octets):
            octets[at] = draw(st.sampled_from([0, 1, 2, 3, 255]) | st.integers(0, 255))
        elif kind == "word" and at + 2 <= len(octets):
            octets[at : at + 2] = draw(
                st.sampled_from([b"\0\0", b"\0\2", b"\0\3", b"\0\4", b"\xff\xff", b"\1\0", b"\1\1"])
            )
        elif kind == "cut":
            del octets[at : at + draw(st.integers(1, 30))]
        elif kind == "insert":
            octets[at:at] = draw(st.binary(max_size=20))
        else:
            octets[at:at] = octets[at : at + 40] * draw(st.integers(1, 4))
    if draw(st.booleans()) and len(octets) >= 4 and octets[:2] == b"\0\x0a":
        octets[2:4] = min(len(octets), 65535).to_bytes(2, "big")  # let the mutation get past the length check
    return bytes(octets)


def datagram_lists() -> st.SearchStrategy[list[bytes]]:
    return st.lists(mutated() | mutated() | st.sampled_from(SEEDS) | st.binary(max_size=80), max_size=40)


def records(decoded: Iterable[Decoded]) -> Counter[object]:
    """All records, with the header of their message, whatever the batch they came in."""
    found: Counter[object] = Counter()
    for part in decoded:
        heads = [
            (part.protocol, exporter.tobytes(), *header)
            for exporter, *header in zip(part.messages.exporter, *part.messages.header.values(), strict=True)
        ]
        for batch in part.flows:
            rows = zip(
                batch.message.tolist(),
                batch.set_offset.tolist(),
                batch.template_id.tolist(),
                *(values(column) for column in batch.columns),
                strict=True,
            )
            for message, *row in rows:
                found[repr((heads[message], batch.fields, batch.scope_count, row))] += 1
    return found


def state(decoder: Decoder) -> list[str]:
    """The state file, without its order: protocols of a batch are decoded one after the other."""
    state = json.loads(decoder.templates.dump())
    return sorted(repr(row) for row in state["templates"] + state["elements"])


def check_consistency(decoded: Decoded, packets: PacketBatch) -> None:
    """What every consumer relies on."""
    n = len(decoded.messages)
    assert all(len(column) == n for column in decoded.messages.header.values())
    assert all(-1 <= packet < len(packets) for packet in decoded.messages.packet.tolist())
    for batch in decoded.flows:
        assert len(batch) and all(len(column) == len(batch) for column in batch.columns)
        assert all(0 <= message < n for message in batch.message.tolist())
        for column in batch.columns:
            if isinstance(column, Octets):
                assert (
                    int((column.starts + column.lengths).max()) <= len(column.buffer) and int(column.starts.min()) >= 0
                )
    for opaque in decoded.opaque:
        assert 0 <= opaque.message < n
    for template in decoded.templates:
        assert 0 <= template.message < n


@settings(max_examples=300)
@given(datagrams=datagram_lists(), exporters=st.randoms(use_true_random=False))
def test_any_octets_decode_and_the_split_into_batches_does_not_matter(
    datagrams: list[bytes], exporters: object
) -> None:
    choose: Callable[[list[bytes]], bytes] = exporters.choice  # type: ignore[attr-defined]
    addresses = [choose(EXPORTERS) for _ in datagrams]
    packets = PacketBatch.of(datagrams, addresses)
    decoder = new_decoder()
    together, problems = decoder.decode(packets, 0)
    for part in together:
        check_consistency(part, packets)
    assert all(0 <= packet < len(packets) for packet in problems.packet.tolist())

    single = new_decoder()
    apart: list[Decoded] = []
    reasons: Counter[Reason] = Counter()
    for row in range(len(datagrams)):
        decoded, more = single.decode(packets.take([row]), 0)
        apart += decoded
        reasons.update(reason for _, _, reason in more.tolist())
    assert records(together) == records(apart)
    assert Counter(reason for _, _, reason in problems.tolist()) == reasons
    assert state(decoder) == state(single)
    assert decoder.templates.held.octets == single.templates.held.octets


@given(datagrams=datagram_lists())
def test_limits_hold_whatever_arrives(datagrams: list[bytes]) -> None:
    limits = TemplateLimits(
        templates_per_exporter=2, templates=3, fields=9, learned=1, held_octets=700, held_octets_per_exporter=600
    )
    decoder = new_decoder(limits)
    for part in (datagrams[::2], datagrams[1::2]):
        decoder.decode(PacketBatch.of(part), 0)
        store = decoder.templates
        assert len(store) <= 3 and store.held.octets <= 600
        assert sum(len(layout.fields) for layout in set(store.layouts.values())) <= 9


@given(datagrams=datagram_lists(), copies=st.sampled_from([20, 40]))
def test_lockstep_and_plain_loop_agree(datagrams: list[bytes], copies: int) -> None:
    """Few messages are walked one after another, many at once."""
    alone, problems = new_decoder().decode(PacketBatch.of(datagrams), 0)
    exporters = [V4_MAPPED + bytes([10, 0, 0, copy]) for copy in range(copies)]
    batch = PacketBatch.of(datagrams * copies, [address for address in exporters for _ in datagrams])
    together, more = new_decoder().decode(batch, 0)
    assert len(more) == copies * len(problems)
    expected = {key.replace(repr(V4_MAPPED + b"\x7f\0\0\1"), ""): n * copies for key, n in records(alone).items()}
    found: Counter[str] = Counter()
    for key, n in records(together).items():
        for address in exporters:
            key = key.replace(repr(address), "")
        found[key] += n
    assert found == expected
