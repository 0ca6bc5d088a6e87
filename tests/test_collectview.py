"""What is shown of a collector is bounded and adds up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pyflowx import collectview, host
from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.collectview import OTHERS, CollectorView, address_text, flow_section
from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.conversion import Conversion
from pyflowx.conversion.sampling import parse_rates
from pyflowx.counters import Counters
from pyflowx.decoded import Reason
from pyflowx.metrics import COLLECTOR
from pyflowx.recent import FlowTotals
from pyflowx.sinks.discard import Discard
from pyflowx.wire import Decoder

TEMPLATE = b"\0\x02\0\x0c\1\0\0\1\0\1\0\4"


def netflow9(sequence: int) -> bytes:
    return b"\0\x09\0\0" + bytes(8) + sequence.to_bytes(4, "big") + bytes(4)


class Looked:
    """A view of counters that took datagrams."""

    def __init__(self) -> None:
        self.counters, self.decoder = Counters(), Decoder()
        self.view = CollectorView(self.counters, self.decoder.templates, Discard())

    def take(self, *datagrams: bytes, exporter: bytes = V4_MAPPED + b"\xc0\0\2\1") -> None:
        packets = PacketBatch.of(datagrams, exporter, 9, 10)
        self.counters.add(packets, *self.decoder.decode(packets, 10))

    def snapshot(self) -> dict[str, Any]:
        return {name: json.loads(section.octets) for name, section in self.view.sections().items()}


@pytest.fixture
def looked() -> Looked:
    return Looked()


def test_addresses() -> None:
    assert address_text(V4_MAPPED + b"\xc0\0\2\1") == "192.0.2.1"
    assert address_text(b"\x20\x01\x0d\xb8" + bytes(11) + b"\1") == "2001:db8::1"


def test_a_view_of_nothing(looked: Looked) -> None:
    snapshot = looked.snapshot()
    assert snapshot["exporters"] == snapshot["domains"] == snapshot["templates"] == snapshot["datagrams"] == []
    assert snapshot["flows"] == {"flows": 0, "octets": 0, "packets": 0, "rows": []}
    assert [stage["stage"] for stage in snapshot["pipeline"]] == ["decoder", "output"]
    for row in COLLECTOR:
        assert all(value >= 0 for _, value in row.read(looked.view))


def test_exporters_beyond_the_bound_are_one(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyflowx.counters.MAX_EXPORTERS", 3)
    monkeypatch.setattr("pyflowx.sequences.MAX_DOMAINS", 2)
    for last in range(10):
        looked.take(netflow9(0), netflow9(3), b"", exporter=V4_MAPPED + bytes([10, 0, 0, last]))
    rows = {row.name: dict(row.read(looked.view)) for row in COLLECTOR}
    assert rows["received_packets"] == {("10.0.0.0",): 3, ("10.0.0.1",): 3, ("10.0.0.2",): 3, (OTHERS,): 21}
    assert rows["problems"][OTHERS, "EMPTY_DATAGRAM"] == 7
    assert rows["messages"][OTHERS, "NETFLOW_V9"] == 14
    assert rows["sequence_missing"][OTHERS, OTHERS, OTHERS] == 16
    assert sum(rows["sequence_missing"].values()) == 20
    snapshot = looked.snapshot()
    assert snapshot["exporters"][0]["address"] == OTHERS and snapshot["exporters_in_all"] == 4
    network = {stage["unit"]: stage["lost"] for stage in snapshot["pipeline"] if stage["stage"] == "network"}
    assert network == {"packets": 4, "units": 16}


def test_long_lists_are_cut(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectview, "EXPORTERS", 5)
    monkeypatch.setattr(collectview, "DOMAINS", 4)
    monkeypatch.setattr(collectview, "TEMPLATE_FIELDS", 3)
    ipfix = b"\0\x0a\0\x1c" + bytes(11) + b"\7" + TEMPLATE
    for last in range(20):
        looked.take(netflow9(0), netflow9(1 + last), ipfix, exporter=V4_MAPPED + bytes([10, 0, 0, last]))
    snapshot = looked.snapshot()
    assert (len(snapshot["exporters"]), snapshot["exporters_in_all"]) == (5, 20)
    assert [row["lost"] for row in snapshot["domains"]] == [19, 18, 17, 16]  # those with most losses
    assert len(snapshot["templates"]) == 3 and snapshot["template_counts"]["stored"] == 20


def test_templates_have_a_version(looked: Looked) -> None:
    looked.take(b"\0\x0a\0\x1c" + bytes(11) + b"\7" + TEMPLATE)
    first = looked.view.sections()["templates"]
    assert looked.view.sections()["templates"].version == first.version
    looked.take(b"\0\x0a\0\x1c" + bytes(11) + b"\7" + TEMPLATE.replace(b"\0\1\0\4", b"\0\2\0\4"))
    second = looked.view.sections()["templates"]
    assert second.version != first.version
    assert json.loads(second.octets)[0]["fields"] == [[0, 2, "packetDeltaCount", 4]]


def test_what_became_of_templates(looked: Looked) -> None:
    ipfix = b"\0\x0a\0\x1c" + bytes(11) + b"\7" + TEMPLATE
    looked.take(ipfix, ipfix, ipfix.replace(b"\0\1\0\4", b"\0\2\0\4"))
    looked.take(b"\0\x0a\0\x18" + bytes(11) + b"\7" + b"\1\1\0\x08" + bytes(4))
    snapshot = looked.snapshot()
    assert snapshot["template_uses"] == [[10, 10, 0]]
    key = {"exporter": "192.0.2.1", "version": 10, "domain": 7}
    (redefined,) = snapshot["redefinitions"]
    assert redefined == {
        **key,
        "id": 256,
        "time_ns": 10,
        "before": [[0, 1, "octetDeltaCount", 4]],
        "after": [[0, 2, "packetDeltaCount", 4]],
    }
    assert snapshot["held_for"] == [{**key, "id": 257, "sets": 1, "oldest_ns": 10}]
    assert snapshot["exporters"][0]["templates"] == 1
    looked.take(ipfix.replace(b"\0\1\0\4", b"\0\2\0\4"))
    assert looked.snapshot()["template_uses"] == [[10, 10, 1]]


def test_redefinitions_are_bounded(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectview, "TEMPLATE_FIELDS", 5)
    ipfix = b"\0\x0a\0\x1c" + bytes(11) + b"\7" + TEMPLATE
    for turn in range(100):
        looked.take(ipfix.replace(b"\0\1\0\4", bytes([0, 1 + turn % 2, 0, 4])))
    assert len(looked.decoder.templates.redefinitions) == 32 and looked.decoder.templates.redefined == 99
    assert [row["after"][0][1] for row in looked.snapshot()["redefinitions"]] == [2, 1]


def test_sampling_and_who_says_so(looked: Looked) -> None:
    """NetFlow v5 in its header, options data, the user for a prefix."""
    rates = Conversion(parse_rates(["192.0.2.3/32=7", "1"])).rates
    looked.view.rates = rates
    v5 = b"\0\5\0\1" + bytes(18) + b"\x40\x64" + bytes(48)
    options = b"\0\3\0\x12\1\2\0\2\0\1\0\x95\0\4\0\x22\0\4" + b"\1\2\0\x0c" + bytes(4) + b"\0\0\3\xe8"
    ipfix = b"\0\x0a\0\x2e" + bytes(11) + b"\7" + options
    for last, datagram in ((1, v5), (2, ipfix), (3, v5), (4, netflow9(0))):
        packets = PacketBatch.of([datagram], V4_MAPPED + bytes([192, 0, 2, last]), 9, 10**18 * last)
        decoded, problems = looked.decoder.decode(packets, 10)
        assert not len(problems)
        looked.counters.add(packets, decoded, problems)
        looked.view.recorded.add(packets, decoded)
        for part in decoded:
            rates.take_in(part)
    found = {row["address"]: row["sampling"] for row in looked.snapshot()["exporters"]}
    assert found == {
        "192.0.2.1": {"rate": 100, "source": "header"},
        "192.0.2.2": {"rate": 1000, "source": "options"},
        "192.0.2.3": {"rate": 7, "source": "forced"},
        "192.0.2.4": {"rate": 1, "source": "default"},
    }


def test_flows_are_cut_at_a_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectview, "FLOW_OCTETS", 100)
    batch = CommonBatch({"bytes": CommonColumn("u64", np.arange(1000, dtype=np.uint64))}, 1000)
    found = json.loads(flow_section([batch], FlowTotals(1000, 5, 6)))
    assert found["flows"] == 1000
    assert found["rows"] == [{"bytes": number} for number in range(len(found["rows"]))]
    assert 5 <= len(found["rows"]) <= 10


def test_harmless_problems_are_no_losses(looked: Looked) -> None:
    waiting = b"\0\x0a\0\x18" + bytes(11) + b"\7" + b"\1\0\0\x08" + bytes(4)
    looked.take(waiting, netflow9(0) + b"\0")
    assert looked.counters.problems[Reason.HELD_DATA] == looked.counters.problems[Reason.TRAILING_OCTETS] == 1
    assert looked.view.undecoded() == 0
    looked.take(b"\0\x63")
    assert looked.view.undecoded() == 1
    looked.decoder.templates.expire(10**18)  # nobody sent the Template
    assert looked.view.undecoded() == 2


def test_interface_drops_are_those_since_the_start(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    looked.view._interfaces = {"eth0": host.Interface(100, 5), "eth1": host.Interface(900, 9)}
    now = {"eth0": host.Interface(160, 7), "eth1": host.Interface(10, 1), "new": host.Interface(3, 0)}
    monkeypatch.setattr(host, "interfaces", lambda: now)
    assert looked.view.interface_drops() == {"eth0": host.Interface(60, 2), "new": host.Interface(3, 0)}
