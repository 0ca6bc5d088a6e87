"""Sampling rates: from options data, from the user, in their order, whatever the batches."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflowx.batch import V4_MAPPED
from pyflowx.conversion import Conversion
from pyflowx.conversion.sampling import KnownRates, parse_rates
from pyflowx.conversion.told import Told
from pyflowx.errors import ConfigError
from pyflowx.wire import Decoder

Flows = Callable[..., list[dict[str, Any]]]
FLOW = {"octetDeltaCount": 5}


def rates(flows: list[dict[str, Any]]) -> list[int | None]:
    return [flow.get("sampling_rate") for flow in flows]


TELLING = [
    ({"samplingInterval": 100}, 100),
    ({"samplingInterval:1": 100}, 100),
    ({"samplingInterval:8": 100}, 100),
    ({"samplingAlgorithm": 1, "samplingInterval:2": 100}, 100),
    ({"samplerMode": 2, "samplerRandomInterval": 100, "samplerName:4": b"name"}, 100),
    ({"samplingPacketInterval": 1, "samplingPacketSpace": 99, "selectorAlgorithm": 1}, 100),
    ({"samplingPacketSpace:2": 99, "samplingPacketInterval:1": 1}, 100),
    ({"samplingPacketInterval": 100}, 100),
    ({"samplingSize": 2, "samplingPopulation": 200, "selectorAlgorithm": 3}, 100),
    ({"samplingProbability": struct.pack(">d", 0.01), "selectorAlgorithm": 4}, 100),
    ({"samplingInterval": 0, "samplerRandomInterval": 100}, 100),
    ({"samplingInterval:8": 1 << 33}, None),
    ({"samplingInterval": 0}, None),
    ({"selectorAlgorithm": 1}, None),
]
ABOUT = [
    ({"exportingProcessId": 3}, {}),
    ({"meteringProcessId": 3}, {}),
    ({"observationDomainId": 1}, {}),
    ({"observationDomainId": 0}, {}),
    ({"samplerId": 7}, {"samplerId": 7}),
    ({"samplerId:4": 7}, {"selectorId:2": 7}),
    ({"selectorId": 7}, {"selectorId:1": 7}),
    ({"selectorId": 1 << 63}, {"selectorId": 1 << 63}),
    ({"ingressInterface": 7}, {"ingressInterface:2": 7, "egressInterface": 3}),
    ({"ingressInterface": 7}, {"ingressInterface:2": 3, "egressInterface": 7}),
    ({"egressInterface:8": 7}, {"ingressPhysicalInterface": 7}),
    ({"lineCardId": 7}, {"lineCardId": 7}),
    ({"templateId": 257}, {}),  # the second Template that is sent
]


@pytest.mark.parametrize(
    ("told", "expected"), TELLING, ids=lambda case: " ".join(case) if isinstance(case, dict) else ""
)
def test_any_element_that_tells_a_rate(
    exporter: Any, flows_of: Flows, told: dict[str, Any], expected: int | None
) -> None:
    message = exporter.message(exporter.set({"exportingProcessId": 1} | told, scopes=1), exporter.set(FLOW))
    assert rates(flows_of(Conversion(), [message])) == [expected]


@pytest.mark.parametrize("scopes", [1, 2])
@pytest.mark.parametrize(("about", "flow"), ABOUT, ids=lambda case: " ".join(case))
def test_a_rate_holds_for_what_its_record_names(
    exporter: Any, flows_of: Flows, about: dict[str, int], flow: dict[str, int], scopes: int
) -> None:
    """Whether the name is a scope field or not; flows that refer to something else have none."""
    record = about | {"samplingInterval": 100} if scopes == 1 else {"samplingInterval": 100} | about
    if "observationDomainId" in about and scopes == 2:
        record |= {"exportingProcessId": 1}
    options = exporter.set(record, scopes=scopes)
    other = dict.fromkeys(flow, 99)
    flows = exporter.set(FLOW | flow, FLOW | other)
    found = rates(flows_of(Conversion(), [exporter.message(options, flows)]))
    assert found[0] == 100
    assert found[1] == (None if flow else 100)


def test_of_another_template_nothing_is_known(exporter: Any, flows_of: Flows) -> None:
    options = exporter.set({"templateId": 300, "samplingInterval": 100}, scopes=1)
    assert rates(flows_of(Conversion(), [exporter.message(options, exporter.set(FLOW))])) == [None]


def test_the_most_exact_rate_counts(exporter: Any, flows_of: Flows) -> None:
    record = {"samplerId": 7, "ingressInterface": 8, "egressInterface": 9, "octetDeltaCount": 1}
    flows = exporter.set(record, record | {"samplerId": 1}, dict.fromkeys(record, 1))
    options = [
        exporter.set({"exportingProcessId": 1, "samplingInterval": 2}, scopes=1),
        exporter.set({"ingressInterface": 9, "samplingInterval": 3}, scopes=1),
        exporter.set({"ingressInterface": 8, "samplingInterval": 4}, scopes=1),
        exporter.set({"samplerId": 7, "samplingInterval": 5}, scopes=1),
    ]
    found = flows_of(Conversion(), *([exporter.message(each, flows)] for each in options))
    assert rates(found) == [2, 2, 2, 3, 3, 2, 4, 4, 2, 5, 4, 2]


def test_the_rate_in_the_record_wins(exporter: Any, flows_of: Flows) -> None:
    options = exporter.set({"exportingProcessId": 1, "samplingInterval": 100}, scopes=1)
    flows = exporter.set(FLOW | {"samplingInterval": 3}, FLOW | {"samplingInterval": 0})
    assert rates(flows_of(Conversion(), [exporter.message(options, flows)])) == [3, 100]


def test_a_rate_is_of_its_exporter_and_domain(exporters: Any, flows_of: Flows) -> None:
    one, other = exporters(1), exporters(2)
    options = one.set({"exportingProcessId": 1, "samplingInterval": 100}, scopes=1)
    datagrams = [one.message(options, one.set(FLOW)), other.message(other.set(FLOW)), one.message(one.set(FLOW))]
    assert rates(flows_of(Conversion(), datagrams)) == [100, None, 100]
    addresses = [V4_MAPPED + bytes([192, 0, 2, i]) for i in (1, 2)]
    fresh = exporters(1)
    datagrams = [datagrams[0], fresh.message(fresh.set(FLOW))]
    assert rates(flows_of(Conversion(), datagrams, exporter=addresses)) == [100, None]


def test_options_name_the_domain_they_are_about(exporters: Any, flows_of: Flows) -> None:
    one, other = exporters(1), exporters(2)
    options = one.set({"observationDomainId": 2, "samplingInterval": 100}, scopes=1)
    datagrams = [one.message(options, one.set(FLOW)), other.message(other.set(FLOW))]
    assert rates(flows_of(Conversion(), datagrams)) == [None, 100]


def test_domain_0_of_ipfix_speaks_for_the_exporter(exporters: Any, flows_of: Flows) -> None:
    whole, one, other = exporters(0), exporters(1), exporters(2)
    datagrams = [
        whole.message(whole.set({"exportingProcessId": 1, "samplingInterval": 100}, scopes=1)),
        one.message(one.set({"exportingProcessId": 1, "samplingInterval": 5}, scopes=1), one.set(FLOW)),
        other.message(other.set(FLOW)),
    ]
    assert rates(flows_of(Conversion(), datagrams)) == [5, 100]


def test_a_rate_of_netflow_9_with_its_scopes(flows_of: Flows) -> None:
    def message(*sets: bytes) -> bytes:
        return struct.pack(">HHIIII", 9, len(sets), 0, 1_700_000_000, 0, 3) + b"".join(sets)

    system = struct.pack(">HHHHHHHHHH", 1, 20, 300, 4, 4, 1, 4, 34, 4, 0)  # System scope
    interface = struct.pack(">HHHHHHHHHHHH", 1, 24, 301, 4, 8, 2, 4, 50, 1, 49, 1, 0)  # Interface scope
    template = struct.pack(">HHHHHHHH", 0, 16, 256, 2, 10, 2, 1, 4)
    options = struct.pack(">HHII", 300, 12, 0, 100)
    of_interface = struct.pack(">HHIBBH", 301, 12, 7, 50, 2, 0)
    data = struct.pack(">HHHIHI", 256, 16, 7, 5, 8, 5)
    found = flows_of(Conversion(), [message(template, system, interface), message(data), message(options, data)])
    assert rates(found) == [None, None, 100, 100]
    conversion, decoder = Conversion(), Decoder()
    flows_of(conversion, [message(template, system, interface), message(options, of_interface)], decoder=decoder)
    assert rates(flows_of(conversion, [message(data)], decoder=decoder)) == [50, 100]


def test_options_of_another_source_id_of_netflow_9(flows_of: Flows) -> None:
    """With the scope System they are about the whole exporter; what a Source ID says of itself comes first."""

    def message(source: int, *sets: bytes) -> bytes:
        return struct.pack(">HHIIII", 9, len(sets), 0, 1_700_000_000, 0, source) + b"".join(sets)

    system = struct.pack(">HHHHHHHHHH", 1, 20, 300, 4, 4, 1, 4, 34, 4, 0)  # System scope
    sampler = struct.pack(">HHHHHHHHHHHH", 1, 24, 301, 4, 8, 1, 4, 48, 1, 50, 4, 0)
    template = struct.pack(">HHHHHHHH", 0, 16, 256, 2, 48, 1, 1, 4)
    card = struct.pack(">HHHHHHHHHH", 1, 20, 302, 4, 4, 3, 4, 34, 4, 0)  # Line Card scope: of its Source ID alone

    def data(sampler_id: int) -> bytes:
        return struct.pack(">HHBIBBB", 256, 12, sampler_id, 5, 0, 0, 0)

    def rate(number: int, id: int = 300) -> bytes:
        return struct.pack(">HHII", id, 12, 0, number)

    def of_sampler(id: int, number: int) -> bytes:
        return struct.pack(">HHIBIBBB", 301, 16, 0, id, number, 0, 0, 0)

    first = [message(source, template, system, sampler, card) for source in (0, 1, 2)]
    found = flows_of(
        Conversion(),
        first,
        [message(0, rate(7)), message(1, rate(100)), message(2, data(9)), message(0, data(9))],
        [message(1, of_sampler(9, 50)), message(2, data(9)), message(2, data(8)), message(0, data(9))],
        [message(1, rate(33, 302)), message(2, data(8))],
    )
    assert rates(found) == [100, 7, 50, 100, 50, 100]


def test_options_that_took_a_rate_back(exporter: Any, flows_of: Flows) -> None:
    def options(rate: int) -> bytes:
        return exporter.set({"exportingProcessId": 1, "samplingInterval": rate}, scopes=1)

    data = exporter.set(FLOW)
    message = exporter.message(options(7), data, options(0), exporter.set(FLOW), options(9), exporter.set(FLOW))
    assert rates(flows_of(Conversion(), [message])) == [7, None, 9]


EVENTS = st.lists(
    st.tuples(st.sampled_from(["options", "flows", "flows"]), st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)),
    min_size=1,
    max_size=24,
)


@given(events=EVENTS, split=st.lists(st.integers(0, 24), max_size=4), per=st.integers(1, 4))
def test_what_came_before_a_flow_holds_for_it(
    exporters: Any, flows_of: Flows, events: list[tuple[str, int, int, int]], split: list[int], per: int
) -> None:
    """Against a plain reading, Set after Set; the same however Sets are put into messages and messages into batches."""
    by_domain = [exporters(domain) for domain in range(3)]
    known: dict[tuple[int, int], int] = {}
    expected: list[int | None] = []
    messages: list[bytes] = []
    sets: list[bytes] = []
    last = -1
    for kind, domain, id, rate in events:
        exporter = by_domain[domain]
        if sets and (domain != last or len(sets) == per):
            messages.append(by_domain[last].message(*sets))
            sets = []
        last = domain
        if kind == "options":
            known[domain, id] = rate
            about = {"selectorId:2": id, "samplingInterval": rate} if id else {"exportingProcessId": 1}
            sets.append(exporter.set(about | {"samplingInterval": rate}, scopes=1))
        else:
            own = known.get((domain, id), 0) if id else 0
            expected.append(own or known.get((domain, 0), 0) or known.get((0, 0), 0) or None)
            sets.append(exporter.set(FLOW | {"selectorId": id}))
    messages.append(by_domain[last].message(*sets))
    edges = sorted({0, len(messages), *(edge for edge in split if edge < len(messages))})
    batches = [messages[a:b] for a, b in itertools.pairwise(edges)]
    assert rates(flows_of(Conversion(), *batches)) == expected


def test_a_forced_rate_and_a_default(exporter: Any, flows_of: Flows) -> None:
    addresses = [V4_MAPPED + bytes([192, 0, 2, 1]), V4_MAPPED + bytes([10, 0, 0, 1]), b"\x20\x01" + bytes(14)]
    known = parse_rates(["50", "192.0.2.0/24=1000", "192.0.0.0/16=7", "2001::/16=3", "0.0.0.0/0=4", "10.0.0.0/31=2"])
    message = exporter.message(exporter.set(FLOW, FLOW | {"octetDeltaCount": 6}))
    found = flows_of(Conversion(known), [message] * 3, exporter=addresses)
    assert rates(found) == [1000, 1000, 2, 2, 3, 3]
    said = exporter.set(FLOW | {"samplingInterval": 9}, FLOW | {"samplingInterval": 0})
    found = flows_of(Conversion(parse_rates(["50"])), [exporter.message(said)])
    assert rates(found) == [9, 50]
    found = flows_of(Conversion(parse_rates(["192.0.2.1=8"])), [exporter.message(said)], decoder=learned(exporter))
    assert rates(found) == [8, 8]


def learned(exporter: Any) -> Decoder:
    """A decoder that knows the Templates so far."""
    decoder = Decoder()
    exporter._known.clear()
    return decoder


def test_a_default_is_not_for_those_who_tell(exporter: Any, flows_of: Flows) -> None:
    options = exporter.set({"samplerId": 7, "samplingInterval": 100}, scopes=1)
    flows = exporter.set(FLOW | {"samplerId": 7}, FLOW | {"samplerId": 8})
    found = flows_of(Conversion(KnownRates(default=50)), [exporter.message(options, flows)])
    assert rates(found) == [100, 50]


def test_the_rate_of_netflow_5_is_that_of_its_header(flows_of: Flows) -> None:
    def message(interval: int) -> bytes:
        return struct.pack(">HHIIIIBBH", 5, 1, 0, 1_700_000_000, 0, 0, 0, 0, 1 << 14 | interval) + bytes(48)

    assert rates(flows_of(Conversion(), [message(100), message(0)])) == [100, None]
    assert rates(flows_of(Conversion(KnownRates(default=7)), [message(100), message(0)])) == [100, 7]
    forced = parse_rates(["192.0.2.1/32=3"])
    assert rates(flows_of(Conversion(forced), [message(100), message(0)])) == [3, 3]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["0"], "--sampling-rate 0: expected a rate from 1 to 4294967295, or PREFIX=RATE"),
        (["4294967296"], "expected a rate from 1"),
        (["x"], "expected a rate from 1"),
        (["192.0.2.0/24="], "expected a rate from 1"),
        (["192.0.2.1/24=5"], "has host bits set; expected a prefix such as 192.0.2.0/24=1000"),
        (["example=5"], "expected a prefix such as"),
        (["5", "6"], "one default only, it is 5 already"),
    ],
)
def test_rates_that_are_not_usable(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rates(texts)


# --- bounds, and the time of boot ------------------------------------------------------------------------------


def test_what_exporters_tell_is_bounded() -> None:
    told = Told(per_exporter=2, limit=3)
    exporter, other = np.zeros((1, 16), np.uint8), np.ones((1, 16), np.uint8)
    for id in range(5):
        told.tell(bytes(16) + b"\0\x0a" + bytes(4), 0, id, 100 + id, 1)
        told.tell(b"\1" * 16 + b"\0\x0a" + bytes(4), 0, id, 200 + id, 1)
    ids, when = np.arange(5), np.full(5, 2)
    mine, others = (np.repeat(told.domains(address, 10, 0), 5) for address in (exporter, other))
    assert told.look(0, mine, ids, when).tolist() == [100, 101, 0, 0, 0]
    assert told.look(0, others, ids, when).tolist() == [200, 0, 0, 0, 0]
    assert told.refused == 7
    told.tell(bytes(16) + b"\0\x0a" + bytes(4), 0, 1, 9, 1)
    assert told.look(0, mine, ids, when).tolist() == [100, 9, 0, 0, 0]
    assert told.look(1, mine, ids, when).tolist() == [0] * 5


def test_a_flood_of_exporters_leaves_room_for_newcomers_and_keeps_those_that_go_on() -> None:
    """Of 64 numbers 8 are kept free; the exporters that were not heard of for longest are forgotten."""
    told = Told(limit=64)

    def key(number: int) -> bytes:
        return number.to_bytes(16, "big") + b"\0\x09" + bytes(4)

    def rate(number: int) -> int:
        address = np.frombuffer(key(number)[:16], np.uint8)[None]
        found = told.look(0, told.domains(address, 9, 0), np.ones(1), np.full(1, 1))
        return int(found[0])

    for number in range(2000):
        told.begin()
        told.tell(key(number), 0, 1, 1000 + number, 0)
        assert rate(0) == 1000  # it sends on
        assert rate(number) == 1000 + number
        assert rate(max(0, number - 20)) == 1000 + max(0, number - 20)
    assert told.refused == 0 and rate(1000) == 0
    told.begin()
    for number in range(3000, 3100):  # in one call no more than there is room for: times would mix
        told.tell(key(number), 0, 1, 7, 0)
    assert told.refused == 100 - 8
    told.begin()
    told.tell(key(4000), 0, 1, 8, 0)
    assert rate(4000) == 8 and rate(0) == 1000


def test_uptimes_of_ipfix_from_the_time_of_boot_in_options_data(exporters: Any, flows_of: Flows) -> None:
    boot_ms = 1_699_999_000_000
    one, other = exporters(1), exporters(2)
    flow = {"flowStartSysUpTime": 900_000, "flowEndSysUpTime": 1_000_000}
    options = one.set({"exportingProcessId": 1, "systemInitTimeMilliseconds": boot_ms}, scopes=1)
    first = flows_of(
        conversion := Conversion(),
        [one.message(one.set(flow)), one.message(options), one.message(one.set(flow)), other.message(other.set(flow))],
    )
    start, end = (boot_ms + 900_000) * 10**6, (boot_ms + 1_000_000) * 10**6
    times = [(found.get("time_flow_start_ns"), found.get("time_flow_end_ns")) for found in first]
    assert times == [(None, None), (start, end), (None, None)]
    fresh = exporters(1)
    (later,) = flows_of(conversion, [fresh.message(fresh.set(flow))])
    assert (later["time_flow_start_ns"], later["time_flow_end_ns"]) == (start, end)
