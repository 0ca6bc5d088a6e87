"""A datagram as a tree: nothing is left out, nothing makes it fail, its values are those of the decoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyflowx_tui.demonetwork import NS, Network, devices
from pyflowx_tui.dissect import MAX_NODES, Node, dissect, hex_lines

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.decoded import TemplateRecord
from pyflowx.text import render
from pyflowx.wire import Decoder

NOW = 1_753_872_000 * NS


@pytest.fixture(scope="module")
def sent() -> dict[str, list[bytes]]:
    """Datagrams of every protocol, by exporter."""
    rng = np.random.default_rng(5)
    network, found = Network(rng), {}
    for device in devices():
        device.start(NOW, 3)
        device.loss, device.withholds = 0.0, False
        found[device.address] = device.datagrams(network, 0, NOW, rng)
    return found


def nothing(domain: int) -> dict[int, TemplateRecord]:
    return {}


def decoded(datagrams: list[bytes]) -> tuple[Decoder, list[Any]]:
    decoder = Decoder()
    parts, problems = decoder.decode(PacketBatch.of(datagrams, V4_MAPPED + b"\xc0\0\2\1", 4739, NOW), NOW)
    assert not len(problems)
    return decoder, parts


def templates_of(decoder: Decoder) -> Any:
    def find(domain: int) -> dict[int, TemplateRecord]:
        return {
            int.from_bytes(key[22:], "big"): TemplateRecord(0, layout.fields, layout.scope_count)
            for key, layout in decoder.templates.layouts.items()
            if int.from_bytes(key[18:22], "big") == domain
        }

    return find


def leaves(nodes: list[Node]) -> list[Node]:
    return [
        node
        for node, after in zip(nodes, [*nodes[1:], None], strict=True)
        if after is None or after.depth <= node.depth
    ]


@pytest.mark.parametrize("address", [device.address for device in devices()])
def test_values_are_those_of_the_decoder(sent: dict[str, list[bytes]], address: str) -> None:
    decoder, parts = decoded(sent[address])
    find = templates_of(decoder)
    trees = [dissect(datagram, find) for datagram in sent[address]]
    assert not [node for tree in trees for node in tree if node.is_odd]
    shown: dict[str, list[str]] = {}
    for node in (node for tree in trees for node in tree):
        shown.setdefault(node.name.removeprefix("scope "), []).append(node.value)
    compared = 0
    for part in parts:
        for flows in part.flows:
            if address == "192.0.2.4":  # what sFlow tells of a packet is in its header: only the samples are compared
                compared += len(flows)
                continue
            for field, column in zip(flows.fields, flows.columns, strict=True):
                texts = [text.decode() for text in render(field.element.data_type, column).tolist()]
                found = shown[field.element.name]
                assert sorted(texts) == sorted(found) or set(texts) <= set(found)
                compared += 1
    assert compared
    if address == "192.0.2.4":
        assert shown["sampling_rate"] == ["512"] * compared


@pytest.mark.parametrize("address", [device.address for device in devices()])
def test_every_octet_is_explained_once(sent: dict[str, list[bytes]], address: str) -> None:
    decoder, _ = decoded(sent[address])
    for datagram in sent[address]:
        nodes = dissect(datagram, templates_of(decoder))
        explained, leaf = np.zeros(len(datagram), bool), np.zeros(len(datagram), int)
        for node in nodes:
            explained[node.offset : node.offset + node.length] = True
        for node in leaves(nodes):
            leaf[node.offset : node.offset + node.length] += 1
        assert explained.all() and leaf.max() == 1


def test_a_template_in_the_datagram_counts(sent: dict[str, list[bytes]]) -> None:
    template, *rest = sent["192.0.2.1"]
    names = [node.name for node in dissect(template, nothing)]
    assert "Template Set 2" in names and "Template 256" in names and "sourceIPv4Address" in names
    missing = [node for node in dissect(rest[-1], nothing) if node.is_odd]
    assert [node.name for node in missing] == ["its Template is not known"]


def test_what_was_not_kept_is_said(sent: dict[str, list[bytes]]) -> None:
    datagram = sent["192.0.2.3"][0]
    nodes = dissect(datagram[:100], nothing, len(datagram))
    assert nodes[-1].value == f"{len(datagram) - 100} octets more are not kept"


@pytest.mark.parametrize("address", [device.address for device in devices()])
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_datagrams(sent: dict[str, list[bytes]], address: str, data: st.DataObject) -> None:
    decoder, _ = decoded(sent[address])
    octets = bytearray(data.draw(st.sampled_from(sent[address])))
    for _ in range(data.draw(st.integers(0, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(octets[: data.draw(st.integers(0, len(octets)))]), templates_of(decoder))


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\0\x0a", b"\0\x09", b"\0\x05", b"\0\x01", b"\0\x07", b"\0\0\0\x05"]),
)
def test_any_octets(octets: bytes, head: bytes) -> None:
    check(head + octets, nothing)


def check(octets: bytes, find: Any) -> None:
    nodes = dissect(octets, find)
    assert len(nodes) <= MAX_NODES + 1
    for node in nodes:
        assert 0 <= node.offset <= len(octets) and node.offset + node.length <= len(octets)


def test_the_tree_is_bounded() -> None:
    nodes = dissect(b"\0\x0a\xff\xff" + bytes(12) + b"\1\0\0\4" * 10_000, nothing)
    assert len(nodes) == MAX_NODES + 1 and nodes[-1].name == "…"


def test_hex() -> None:
    lines = list(hex_lines(bytes(range(48, 67)), 16))
    assert lines[0][0] == "0000" and lines[0][1][:3] == ["30", "31", "32"] and lines[0][2] == "0123456789:;<=>?"
    assert lines[1] == ("0010", ["40", "41", "42"], "@AB")
