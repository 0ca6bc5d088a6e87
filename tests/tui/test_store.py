"""The store of flows against a plain dictionary of them."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyflowx_tui.columns import MAX_LABELS, Labels, address_octets, address_text, columns_of_rows
from pyflowx_tui.grouping import DIMENSIONS, dimension_of, dimensions, group, network_text, networks
from pyflowx_tui.query import Query
from pyflowx_tui.screens.flows import Pairs
from pyflowx_tui.store import KEY, STEP_NS, STEPS, TYPES, FlowStore

from pyflowx.common import CommonBatch
from pyflowx.sinks.ndjson import CommonNdjson

SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND

addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.1.1", "2001:db8::1", "2001:db8::2"])
rows = st.fixed_dictionaries(
    {"flow_type": st.just("IPFIX"), "sequence_num": st.integers(0, 9), "bytes": st.integers(0, 1 << 40),
     "packets": st.integers(0, 99), "src_addr": addresses, "dst_addr": addresses},
    optional={"src_port": st.sampled_from([1, 443]), "dst_port": st.sampled_from([1, 443]),
              "proto": st.sampled_from([6, 17]), "in_if": st.integers(0, 2), "sampler_address": addresses,
              "tcp_flags": st.integers(0, 255), "dst_country": st.sampled_from(["DE", "FR", "\x1b[2J"]),
              "score": st.integers(-5, 5), "src_mac": st.just("00:53:00:01:02:03")},
)  # fmt: skip
snapshots = st.lists(st.lists(rows, min_size=1, max_size=12), min_size=1, max_size=5)


def section(flows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "flows": len(flows),
        "octets": sum(flow["bytes"] for flow in flows),
        "packets": sum(flow["packets"] for flow in flows),
        "rows": flows,
    }


def key_of(flow: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(flow.get(name, 0) for name in KEY)


@settings(max_examples=40)
@given(snapshots)
def test_flows_are_added_up_and_say_what_the_last_record_said(seen: list[list[dict[str, Any]]]) -> None:
    store = FlowStore()
    octets: dict[Any, int] = defaultdict(int)
    last: dict[Any, dict[str, Any]] = {}
    first: dict[Any, int] = {}
    for number, flows in enumerate(seen):
        store.add(section(flows), BEGIN + number * SECOND)
        for flow in flows:
            octets[key_of(flow)] += flow["bytes"]
            first.setdefault(key_of(flow), BEGIN + number * SECOND)
            last.setdefault(key_of(flow), {}).update(flow)
    assert len(store) == len(octets)
    assert sorted(store.own("octets").tolist()) == sorted(octets.values())
    assert sorted(store.own("first_ns").tolist()) == sorted(first.values())
    assert store.totals == store.told
    found = as_rows(store)
    for flow in found:
        told = last[key_of(flow)]
        assert flow["bytes"] == octets[key_of(flow)]
        assert flow["sequence_num"] == told["sequence_num"]
        assert flow["src_addr"] == told["src_addr"]


def as_rows(store: FlowStore) -> list[dict[str, Any]]:
    batch = store.batch(np.arange(len(store)))
    return [json.loads(line) for _, text in CommonNdjson().encode(batch) for line in bytes(text).splitlines()]


@settings(max_examples=40)
@given(st.lists(rows, min_size=1, max_size=20, unique_by=key_of))
def test_rows_come_out_as_they_went_in(flows: list[dict[str, Any]]) -> None:
    store = FlowStore()
    store.add(section(flows), BEGIN)
    kept = [{name: value for name, value in flow.items() if name not in KEY or value} for flow in flows]
    found = [{name: value for name, value in flow.items() if name not in KEY or value} for flow in as_rows(store)]
    assert found == kept


@settings(max_examples=40)
@given(snapshots)
def test_columns_of_a_collector_in_this_process_give_the_same_as_json(seen: list[list[dict[str, Any]]]) -> None:
    stores = FlowStore(seed=1), FlowStore(seed=1)
    for number, flows in enumerate(seen):
        batch: CommonBatch = columns_of_rows(flows, TYPES)
        stores[0].add(section(flows), BEGIN + number * SECOND)
        stores[1].add({**section(flows), "rows": None, "batches": [batch]}, BEGIN + number * SECOND)
    assert as_rows(stores[0]) == as_rows(stores[1])


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=60), min_size=1, max_size=30), st.integers(8, 64))
def test_no_peer_can_fill_the_memory(seen: list[list[int]], capacity: int) -> None:
    """The flows that were seen longest ago go."""
    store = FlowStore(capacity)
    for number, ports in enumerate(seen):
        flows = [{"flow_type": "IPFIX", "bytes": 1, "packets": 1, "src_port": port + 1} for port in ports]
        store.add(section(flows), BEGIN + number * SECOND)
        assert len(store) <= capacity
        newest = {flow["src_port"] for flow in flows}
        there = set(store.column("src_port").tolist())
        assert len(newest & there) == min(len(newest), capacity)
        assert len(there) == len(store)  # none is there twice


def test_rates_and_the_last_minute() -> None:
    store = FlowStore()
    for second in range(100):
        flows = [{"flow_type": "IPFIX", "bytes": 1000, "packets": 2, "src_port": 1}]
        if second < 50:
            flows.append({"flow_type": "IPFIX", "bytes": 500, "packets": 1, "src_port": 2})
        store.add(section(flows), BEGIN + second * SECOND)
    one, two = (np.flatnonzero(store.column("src_port") == port)[0] for port in (1, 2))
    assert store.rates()[one] == pytest.approx(1000, rel=0.15)
    assert store.rates("packets")[one] == pytest.approx(2, rel=0.15)
    assert store.rates()[two] == 0
    history = store.history(np.array([one, two]))
    assert history.shape == (2, STEPS)
    assert history[0].tolist() == [2000.0] * STEPS
    assert history[1].sum() == pytest.approx(500 * (60 - 50), rel=0.2)
    assert STEPS * STEP_NS == 60 * SECOND


def test_a_frozen_store_stands_still() -> None:
    store = FlowStore()
    store.add(section([{"flow_type": "IPFIX", "bytes": 5, "packets": 1, "src_port": 1}]), BEGIN)
    frozen = store.freeze()
    store.add(section([{"flow_type": "IPFIX", "bytes": 7, "packets": 1, "src_port": port} for port in (1, 2)]), BEGIN)
    assert (len(frozen), frozen.own("octets").tolist(), frozen.totals["octets"]) == (1, [5], 5)
    assert store.own("octets").tolist() == [12, 7]


def test_a_filter_on_the_store() -> None:
    store = FlowStore()
    flows = [
        {"flow_type": "IPFIX", "bytes": 5, "packets": 1, "src_addr": "10.0.0.1", "dst_port": 443, "country": "DE"},
        {"flow_type": "IPFIX", "bytes": 500, "packets": 1, "src_addr": "192.0.2.1", "ip_tos": 0},
        {"flow_type": "NETFLOW_V9", "bytes": 7, "packets": 1, "src_addr": "2001:db8::1", "dst_port": 53},
    ]
    store.add(section(flows), BEGIN)

    def found(text: str) -> list[int]:
        return np.flatnonzero(Query.parse(text).mask(store.query_columns(), n=len(store))).tolist()

    assert found("src:10/8") == [0]
    assert found("bytes>6") == [1, 2]
    assert found("port:443") == [0]
    assert found("ip_tos<5") == [1]  # null is nothing
    assert found("type:NETFLOW_V9") == [2]
    assert found("country:DE") == [0]
    assert found("not country:DE") == [1, 2]


@settings(max_examples=40)
@given(snapshots, st.lists(st.sampled_from([d.name for d in DIMENSIONS] + ["tcp_flags"]), min_size=1, max_size=3))
def test_groups(seen: list[list[dict[str, Any]]], names: list[str]) -> None:
    store = FlowStore()
    for number, flows in enumerate(seen):
        store.add(section(flows), BEGIN + number * SECOND)
    groups = group(store, [dimension_of(name, store) for name in names])
    expected: dict[Any, int] = defaultdict(int)
    for flow, octets in zip(as_rows(store), store.own("octets").tolist(), strict=True):
        expected[tuple(plain_dimension(name, flow) for name in names)] += octets
    found = dict(zip(range(len(groups)), groups.sum(store.own("octets")).tolist(), strict=True))
    assert sorted(found.values()) == sorted(map(float, expected.values()))
    assert groups.flows.sum() == len(store)
    history = groups.history(store, np.arange(len(groups)))
    assert history.sum() == pytest.approx(sum(expected.values()), rel=1e-5)


def plain_dimension(name: str, flow: dict[str, Any]) -> Any:
    if name == "service":
        low, high = sorted((flow.get("src_port", 0), flow.get("dst_port", 0)))
        return low or high
    if name.endswith("net24"):
        address = flow.get(f"{name[:3]}_addr", "::")
        return address.rpartition(".")[0] if "." in address else address.partition("::")[0]
    return flow.get(name, 0)


def test_networks() -> None:
    octets = np.frombuffer(address_octets("192.0.2.77") + address_octets("2001:db8:1:2:3::4"), np.uint8).reshape(2, 16)
    assert [network_text(row.tobytes()) for row in networks(octets)] == ["192.0.2.0/24", "2001:db8:1:2::/64"]
    assert address_text(bytes(16)) == ""


def test_whatever_there_is_can_be_grouped_by() -> None:
    store = FlowStore()
    store.add(
        section(
            [{"flow_type": "IPFIX", "bytes": 5, "packets": 1, "dst_country": "DE", "src_mac": "00:53:00:00:00:01"}]
        ),
        BEGIN,
    )
    for each in dimensions(store):
        groups = group(store, [each])
        assert len(groups) == 1
        assert len(each.render(groups.values(each, store))) == 1


@settings(max_examples=40)
@given(st.lists(rows, min_size=1, max_size=20))
def test_pairs(flows: list[dict[str, Any]]) -> None:
    """Both directions of a conversation are in one row, what began it is forward."""
    for number, flow in enumerate(flows):
        flow["time_flow_start_ns"] = BEGIN + number
    store = FlowStore()
    store.add(section(flows), BEGIN)
    found = as_rows(store)
    pairs = Pairs(store, None)
    forward, back = pairs.sums(store.own("octets"))
    expected: dict[Any, dict[Any, int]] = defaultdict(dict)
    for flow in found:
        ends = tuple((flow[f"{side}_addr"], flow.get(f"{side}_port", 0)) for side in ("src", "dst"))
        of = expected[(*sorted(ends), flow.get("proto", 0), flow.get("sampler_address", ""))]
        of[ends[0]] = of.get(ends[0], 0) + flow["bytes"]
    assert len(pairs.first) == len(expected)
    assert sorted((forward + back)[pairs.first].tolist()) == sorted(sum(of.values()) for of in expected.values())
    for row in pairs.first.tolist():
        flow = found[row]
        ends = tuple((flow[f"{side}_addr"], flow.get(f"{side}_port", 0)) for side in ("src", "dst"))
        of = expected[(*sorted(ends), flow.get("proto", 0), flow.get("sampler_address", ""))]
        assert forward[row] == of[ends[0]]


def test_labels_are_bounded() -> None:
    labels = Labels.empty(0)
    codes = labels.codes_of(np.arange(MAX_LABELS + 100), [f"name {number}" for number in range(MAX_LABELS + 100)])
    assert len(labels.texts) <= MAX_LABELS + 1
    assert labels.with_codes(codes[-1:]).tolist() == ["…"]


def test_a_growing_list_of_labels() -> None:
    labels, told = Labels.empty(0), ["a"]
    first = labels.codes_of(np.array([0]), told)
    told.append("b")
    assert labels.with_codes(labels.codes_of(np.array([1, 0]), told)).tolist() == ["b", "a"]
    assert first.tolist() == labels.codes_of(np.array([0]), told).tolist()


@pytest.mark.parametrize(
    "bad", [{"src_addr": "no address"}, {"src_mac": "x"}, {"src_port": "http"}, {"proto": 1 << 70}]
)
def test_a_feed_of_another_version_does_no_harm(bad: dict[str, Any]) -> None:
    store = FlowStore()
    store.add(section([{"flow_type": "IPFIX", "bytes": 1, "packets": 1, **bad}]), BEGIN)
    assert len(store) == 1
