"""sFlow v5 encoding: round trips of every structure, what is refused, and what tshark makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import Column, FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded, Problems
from pyflowx.elements import FieldSpecifier, default_registry
from pyflowx.errors import EncodeError
from pyflowx.wire import section, sflow
from pyflowx.wire.headers import HeaderProtocol, dissect
from pyflowx.wire.sflow_structures import Field, own, structures

EXPORT_NS = 1_700_000_000_123_456_789
FRAMES = [
    bytes.fromhex("020000000002 020000000001 080045b80034123400003d060000c0000201c6336402")
    + bytes.fromhex("040001bb000000010000000250120400" + tail)
    for tail in ("00000000", "0000000011", "000000001122")
]


def decode(*datagrams: bytes) -> tuple[Decoded, Problems]:
    packets = PacketBatch.of(datagrams, received_ns=EXPORT_NS)
    problems = Problems()
    return sflow.decode(packets, np.arange(len(packets), dtype=np.int32), None, 0, problems), problems


def assert_same(got: FlowBatch, sent: FlowBatch) -> None:
    assert got.fields == sent.fields and got.scope_count == sent.scope_count
    for field, ours, theirs in zip(sent.fields, got.columns, sent.columns, strict=True):
        if isinstance(theirs, Octets):
            assert isinstance(ours, Octets) and ours.tolist() == theirs.tolist(), field
        else:
            assert isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype, field
            assert np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"), field


def column(field: Field, n: int, draw: st.DrawFn) -> Column:
    """Random values of a field that is not an address."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = field.four.element.data_type
    if field.kind == "path":
        texts = [b"65001", b"65001 65002 65003", b"1 {2 3} 4294967295", b"{7}", b"{1 2}"]
        return Octets.of([texts[i] for i in rng.integers(0, len(texts), n)])
    if field.kind == "communities":
        return Octets.of([b" ".join([b"%d:%d" % (i, 65535 - i)] * (i % 4)) for i in rng.integers(0, 65536, n).tolist()])
    if not field.four.has_column:
        unit = 4 if field.kind == "words" else 1
        size = field.octets or unit * draw(st.integers(0, 6))
        lengths = np.full(n, size) if field.octets or draw(st.booleans()) else unit * rng.integers(0, 9, n)
        return Octets.of([rng.bytes(length) for length in lengths.tolist()])
    cells = rng.integers(0, 256, (n, field.four.length), np.uint8)
    return kind.to_column(cells)


def address(field: Field, n: int, version: int) -> tuple[FieldSpecifier, Column]:
    if version == 4:
        return field.four, np.arange(n, dtype=np.uint32) + 0x0A000000
    return field.six, np.arange(16 * n, dtype=np.uint8).reshape(n, 16)


@st.composite
def batches(draw: st.DrawFn, data: str) -> FlowBatch:
    """Rows with some structures, as decoding gives them."""
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def numbers(limit: int) -> npt.NDArray[np.uint32]:
        return rng.integers(0, limit, n, np.uint64).astype(np.uint32)

    names = ["sequence_number", "source_id_type", "source_id_index"] if data == "flow" else []
    fields = [own(name) for name in (*names, "sequence_number")][: len(names)]
    columns = [
        numbers(1 << 32),
        numbers(draw(st.sampled_from([1, 1 << 32]))),
        numbers(draw(st.sampled_from([99, 1 << 32]))),
    ]
    if data == "counter":
        fields = [own("source_id_type"), own("source_id_index"), own("sequence_number")]
        number = draw(st.sampled_from(sorted(structures("counter"))))
        for field in structures("counter")[number][0].fields:
            fields.append(field.four)
            columns.append(column(field, n, draw))
        return FlowBatch(tuple(fields), columns, scope_count=2)
    iana = default_registry().field
    fields += [iana("samplingInterval"), own("sample_pool"), own("drops"), iana("ingressInterface")]
    columns += [numbers(1 << 32) for _ in range(3)] + [
        numbers(1 << draw(st.sampled_from([8, 32]))) & np.uint32(0xFFFFFFFE)
    ]
    if draw(st.booleans()):
        fields += [own("output_format"), own("output_value")]
        columns += [numbers(3) + np.uint32(1), numbers(1 << 30)]
    else:
        fields.append(iana("egressInterface"))
        columns.append(numbers(1 << 30))
    frames = Octets.of([FRAMES[0] if draw(st.booleans()) else FRAMES[i % 3] for i in range(n)])
    with_header = draw(st.booleans())
    if with_header:
        headers = dissect(frames, HeaderProtocol.ETHERNET)
        mask = int(headers.valid[0])
        fields += [field.specifier for field in section.header_fields(mask)]
        columns += section.header_columns(headers, mask, slice(None))
        fields += [own("header_protocol"), iana("dataLinkFrameSize", 4), own("stripped"), iana("dataLinkFrameSection")]
        columns += [np.ones(n, np.uint32), numbers(1 << 32), numbers(9), frames]
    others = [number for number in structures("flow") if number not in (2, 3, 4)]
    chosen = draw(st.sets(st.sampled_from(others), max_size=5))
    if not with_header:
        chosen |= draw(st.sets(st.sampled_from([2, 3]), max_size=2))
    for number in sorted(chosen):
        for field in structures("flow")[number][0].fields:
            if field.kind == "address":
                version = draw(st.sampled_from([0, 4, 6] if with_header else [0, 4]))
                if version:
                    specifier, values = address(field, n, version)
                    fields.append(specifier)
                    columns.append(values)
                continue
            fields.append(field.four)
            columns.append(column(field, n, draw))
            if field.kind == "path":
                texts = [text.replace(b"{", b"").replace(b"}", b"").split() for text in columns[-1].tolist()]
                fields += [iana("bgpDestinationAsNumber"), iana("bgpNextAdjacentAsNumber")]
                columns += [np.array([int(words[end]) for words in texts], np.uint32) for end in (-1, 0)]
    return FlowBatch(tuple(fields), columns)


@pytest.mark.parametrize("data", ["flow", "counter"])
@given(draw=st.data(), per=st.none() | st.integers(1, 3))
def test_decode_of_encode_is_the_same(data: str, draw: st.DataObject, per: int | None) -> None:
    flows = draw.draw(batches(data))
    encoder = sflow.Encoder(3, max_octets=9000)
    assert encoder.register(flows.fields, flows.scope_count) == 0
    datagrams = encoder.encode(flows, EXPORT_NS, per)
    assert (datagrams.length <= 9000).all()
    decoded, problems = decode(*datagrams.tolist())
    assert not len(problems) and not decoded.opaque and len(decoded.flows) == 1
    assert_same(decoded.flows[0], flows)
    assert decoded.messages.observation_domain_id.tolist() == [3] * len(datagrams)
    if per is not None:
        assert decoded.messages.header["num_samples"][:-1].tolist() == [per] * (len(datagrams) - 1)


def addresses(n: int, version: int = 4) -> FlowBatch:
    """What a generator has: no packet, but its addresses, ports and routing."""
    field = default_registry().field
    source, target = field(f"sourceIPv{version}Address"), field(f"destinationIPv{version}Address")
    names = ("protocolIdentifier", "sourceTransportPort", "destinationTransportPort", "bgpSourceAsNumber")
    values = np.arange(n, dtype=np.uint32)
    ends = [values, values + 1] if version == 4 else [np.full((n, 16), 7, np.uint8), np.full((n, 16), 8, np.uint8)]
    columns: list[Column] = [*ends, values.astype(np.uint8), values.astype(np.uint16), values.astype(np.uint16), values]
    fields = (source, target, *(field(name) for name in names), field("bgpDestinationAsNumber"))
    return FlowBatch(fields, [*columns, values + 9])


@pytest.mark.parametrize("version", [4, 6])
def test_addresses_and_ports_without_a_packet_become_sampled_ip(version: int) -> None:
    flows = addresses(50, version)
    decoded, problems = decode(*sflow.Encoder().encode(flows, EXPORT_NS).tolist())
    assert not len(problems) and len(decoded.flows) == 1
    for field, sent in zip(flows.fields, flows.columns, strict=True):
        got = decoded.flows[0].column(field.element.name)
        assert np.array_equal(np.asarray(got), np.asarray(sent)), field
    assert decoded.flows[0].column("dst_as_path").tolist()[:2] == [b"9", b"10"]  # type: ignore[union-attr]
    assert decoded.flows[0].column("sequence_number").tolist() == list(range(1, 51))


def test_numbers_go_on_and_datagrams_are_filled() -> None:
    encoder = sflow.Encoder(max_octets=500, boot_ns=EXPORT_NS - 10**10)
    first, second = (encoder.encode(addresses(20), EXPORT_NS) for _ in range(2))
    decoded, problems = decode(*first.tolist(), *second.tolist())
    assert not len(problems)
    assert decoded.messages.sequence_number.tolist() == list(range(1, len(first) + len(second) + 1))
    assert decoded.flows[0].column("sequence_number").tolist() == list(range(1, 41))
    assert decoded.messages.header["uptime"].tolist() == [10_000] * len(decoded.messages)
    assert (first.length <= 500).all() and (first.length[:-1] > 250).all()
    assert len(encoder.encode(addresses(0), EXPORT_NS)) == 0 and len(encoder.template_messages(EXPORT_NS)) == 0


def test_an_ipv6_agent() -> None:
    datagrams = sflow.Encoder(agent=bytes(range(16))).encode(addresses(1), EXPORT_NS)
    assert decode(*datagrams.tolist())[0].messages.header["agent_address"][0].tobytes() == bytes(range(16))


def test_what_sflow_cannot_carry_is_refused() -> None:
    field = default_registry().field
    encoder = sflow.Encoder()
    with pytest.raises(EncodeError, match="flowStartMilliseconds"):
        encoder.register((field("sourceIPv4Address"), field("flowStartMilliseconds")))
    with pytest.raises(EncodeError, match="does not fit"):
        encoder.encode(FlowBatch((own("drops"),), [np.array([1 << 40], np.uint64)]), EXPORT_NS)
    with pytest.raises(EncodeError, match="fewer"):
        encoder.encode(addresses(50), EXPORT_NS, 50)
    with pytest.raises(EncodeError, match="does not fit in 100"):
        sflow.Encoder(max_octets=100).encode(addresses(1), EXPORT_NS)
    with pytest.raises(EncodeError, match="AS path"):
        encoder.encode(FlowBatch((own("dst_as_path"),), [Octets.of([b"65001 x"])]), EXPORT_NS)
    with pytest.raises(EncodeError, match="communities"):
        encoder.encode(FlowBatch((own("communities"),), [Octets.of([b"65001"])]), EXPORT_NS)
    with pytest.raises(EncodeError, match="multiple of 4"):
        encoder.encode(FlowBatch((own("in_stack"),), [Octets.of([b"12345"])]), EXPORT_NS)
    with pytest.raises(EncodeError, match="16 octets"):
        encoder.encode(FlowBatch((own("s_gid"),), [Octets.of([b"12345"])]), EXPORT_NS)
    lies = FlowBatch((field("ipTTL"), field("dataLinkFrameSection")), [np.array([1], np.uint8), Octets.of(FRAMES[:1])])
    with pytest.raises(EncodeError, match="ipTTL is not what"):
        encoder.encode(lies, EXPORT_NS)
    with pytest.raises(EncodeError, match="two scope fields"):
        encoder.register((own("drops"),), 1)
    with pytest.raises(EncodeError, match="sub-agent"):
        sflow.Encoder(1 << 32)
    with pytest.raises(EncodeError, match="4 or 16"):
        sflow.Encoder(agent=b"")


def test_tshark_reads_what_we_encode(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    iana = default_registry().field
    n = 20
    frames = Octets.of([FRAMES[i % 3] for i in range(n)])
    values = np.arange(n, dtype=np.uint32)
    router, gateway = structures("flow")[1002][0], structures("flow")[1003][0]
    fields = (
        own("sequence_number"), own("source_id_index"), iana("samplingInterval"), iana("ingressInterface"),
        iana("dataLinkFrameSize", 4), iana("dataLinkFrameSection"), iana("vlanId", 4), router.fields[0].four,
        router.fields[1].four, gateway.fields[2].four, own("dst_as_path"), own("communities"), own("localpref"),
    )  # fmt: skip
    paths = Octets.of([b"65003 65004 {65005 65006}"] * n)
    columns: list[Column] = [values, values + 1, values + 2, values + 3, values + 1000, frames, values + 4, values + 5,
                             values + 6, values + 7, paths, Octets.of([b"1:2"] * n), values + 8]  # fmt: skip
    flows = FlowBatch(fields, columns)
    counters = structures("counter")[1][0]
    counted = FlowBatch(
        (own("source_id_type"), own("source_id_index"), *(field.four for field in counters.fields)),
        [np.zeros(3, np.uint32), np.arange(3, dtype=np.uint32)]
        + [np.arange(3, dtype=np.uint32 if field.octets == 4 else np.uint64) + 7 for field in counters.fields],
        scope_count=2,
    )
    encoder = sflow.Encoder()
    datagrams = encoder.encode(flows, EXPORT_NS).tolist() + encoder.encode(counted, EXPORT_NS).tolist()
    wrpcap(str(tmp_path / "s.pcap"), [Ether() / IP(dst="127.0.0.1") / UDP(sport=1, dport=6343) / d for d in datagrams])
    expected = {
        "sflow.flow_sample.sequence_number": values, "sflow.flow_sample.sampling_rate": values + 2,
        "sflow.flow_sample.input_interface": values + 3, "sflow_245.header.frame_length": values + 1000,
        "sflow_245.vlan.in": values + 4, "sflow_245.nexthop.src_mask": values + 6, "sflow_245.srcAS": values + 7,
        "sflow_245.localpref": values + 8, "sflow_245.dstAS": np.tile([65003, 65004, 65005, 65006, 65538], n),
        "sflow_245.ifinoct": np.arange(7, 10), "sflow_245.ifindex": np.arange(7, 10), "tcp.dstport": np.full(n, 443),
        "_ws.malformed": np.zeros(0),
    }  # fmt: skip
    command = ["tshark", "-r", str(tmp_path / "s.pcap"), "-T", "fields"]
    for name in expected:
        command += ["-e", name]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip("\n").split("\n")
    rows = [line.split("\t") + [""] * len(expected) for line in lines]
    for at, (name, numbers) in enumerate(expected.items()):
        found = [int(value, 0) for row in rows if row[at] for value in row[at].split(",")]
        assert found == numbers.tolist(), name
