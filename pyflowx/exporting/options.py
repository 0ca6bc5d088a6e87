"""Options records: what a collector should know beside the flows.

- interface names (RFC 7012), which interfaces an exporter meters;
- how packets were sampled: Selector Report Interpretation (RFC 5476 §6.5.2), in NetFlow v9 the router's way; with
  Packet Reports also which Selection Sequence they are of, and its counts (§6.5.1, §6.5.3);
- Metering Process (Reliability) Statistics and Exporting Process Reliability Statistics (RFC 7011 §4.1 to 4.3);
- which fields of a Template are the Flow Key (RFC 7011 §4.4).

Strings have fixed lengths: NetFlow v9 has no others, and collectors that read interface names want them so in IPFIX
too. NetFlow v5 has no options.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyflowx.batch import Column, FlowBatch, Octets
from pyflowx.elements import FieldSpecifier, default_registry, from_nanoseconds
from pyflowx.exporting.fields import SELECTOR, Schema
from pyflowx.exporting.samples import SELECTION_SEQUENCE
from pyflowx.exporting.sessions import Encoder, SessionCounts

SYSTEMATIC_COUNT, UNIFORM_PROBABILISTIC = 1, 4  # selectorAlgorithm (RFC 5477 §8.2.1)
_V9_DETERMINISTIC, _V9_RANDOM = 1, 2  # samplingAlgorithm of NetFlow v9
_LENGTHS = {
    "interfaceName": 16,
    "interfaceDescription": 64,
    "selectorId": 2,
    "selectionSequenceId": 4,
}  # octets, if not the natural number
_INTERFACES = Path("/sys/class/net")

Value = int | float | str
Row = tuple[tuple[str, Value], ...]


@dataclass(slots=True)
class Facts:
    """What options records tell of.

    ``interfaces``: (index, name) of those that are metered; ``ignored``: packets and IP octets that a hook saw and
    that are in no flow though they should be, with the times of the first and the last (ns since 1970).
    ``reports_packets``: records are Packet Reports; ``observed``, ``selected``: packets before and after sampling.
    """

    observation_domain_id: int
    interfaces: Sequence[tuple[int, str]] = ()
    sampling_interval: int = 1
    sampling_random: bool = False
    ignored_packets: int = 0
    ignored_octets: int = 0
    ignored_first_ns: int = 0
    ignored_last_ns: int = 0
    reports_packets: bool = False
    observed: int = 0
    selected: int = 0


def _description(name: str) -> str:
    """What the administrator calls the interface, else empty."""
    try:
        return (_INTERFACES / name / "ifalias").read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _batch(scopes: int, rows: Sequence[Row]) -> FlowBatch:
    """Records that have the same elements; the first ``scopes`` are scope fields."""
    fields = tuple(default_registry().field(element, _LENGTHS.get(element)) for element, _ in rows[0])
    columns = [_column(field, [row[at][1] for row in rows]) for at, field in enumerate(fields)]
    return FlowBatch(fields, columns, scope_count=scopes)


def _column(field: FieldSpecifier, values: list[Value]) -> Column:
    kind = field.element.data_type
    if kind.name == "string":
        return Octets.of([str(value).encode()[: field.length].ljust(field.length, b"\0") for value in values])
    if kind.is_time:
        return from_nanoseconds(kind.name, np.array(values, np.int64))
    return np.array(values, f"f{kind.width}" if kind.name.startswith("float") else f"u{kind.width}")


def interface_names(facts: Facts) -> list[FlowBatch]:
    rows: list[Row] = [
        (("ingressInterface", index), ("interfaceName", name), ("interfaceDescription", _description(name)))
        for index, name in facts.interfaces
    ]
    return [_batch(1, rows)] if rows else []


def sampling(facts: Facts, protocol: str) -> list[FlowBatch]:
    """Counters are not scaled: a collector that knows the rate may do it."""
    interval = facts.sampling_interval
    if interval == 1 and not facts.reports_packets:
        return []
    if protocol == "netflow9":
        how = _V9_RANDOM if facts.sampling_random else _V9_DETERMINISTIC
        return [_batch(1, [(("exportingProcessId", 0), ("samplingInterval", interval), ("samplingAlgorithm", how))])]
    selector = ("selectorId", SELECTOR)
    row: Row
    if facts.sampling_random:
        row = selector, ("selectorAlgorithm", UNIFORM_PROBABILISTIC), ("samplingProbability", 1 / interval)
    else:
        rate = ("samplingPacketInterval", 1), ("samplingPacketSpace", interval - 1)
        row = selector, ("selectorAlgorithm", SYSTEMATIC_COUNT), *rate
    return [_batch(1, [row])]


def selection(facts: Facts) -> list[FlowBatch]:
    """Selection Sequence Report Interpretation and Statistics (RFC 5476 §6.5.1, §6.5.3): where packets were observed,
    which selector they passed, how many."""
    if not facts.reports_packets:
        return []
    sequence, selector = ("selectionSequenceId", SELECTION_SEQUENCE), ("selectorId", SELECTOR)
    points: list[Row] = [(sequence, ("ingressInterface", index), selector) for index, _ in facts.interfaces]
    counts = ("selectorIdTotalPktsObserved", facts.observed), ("selectorIdTotalPktsSelected", facts.selected)
    return [*([_batch(1, points)] if points else []), _batch(1, [(sequence, *counts)])]


def statistics(facts: Facts, counts: SessionCounts, protocol: str) -> list[FlowBatch]:
    """Of the Metering and the Exporting Process; losses only where there were some, as they have times."""
    exported = (
        ("exportedMessageTotalCount", counts.messages),
        ("exportedFlowRecordTotalCount", counts.flows),
        ("exportedOctetTotalCount", counts.octets),
    )
    if protocol == "netflow9":
        return [_batch(1, [(("exportingProcessId", 0), *exported)])]
    domain = ("observationDomainId", facts.observation_domain_id)
    found = [_batch(1, [(domain, *exported)])]
    if facts.ignored_packets:
        first, last = facts.ignored_first_ns, facts.ignored_last_ns
        times = ("observationTimeMilliseconds", first), ("observationTimeMilliseconds", last)
        ignored = ("ignoredPacketTotalCount", facts.ignored_packets), ("ignoredOctetTotalCount", facts.ignored_octets)
        found.append(_batch(1, [(domain, *ignored, *times)]))
    if counts.not_sent_flows:
        process = ("exportingProcessId", os.getpid())
        not_sent = (
            ("notSentFlowTotalCount", counts.not_sent_flows),
            ("notSentPacketTotalCount", counts.not_sent_packets),
            ("notSentOctetTotalCount", counts.not_sent_octets),
            ("observationTimeMilliseconds", counts.not_sent_first_ns),
            ("observationTimeMilliseconds", counts.not_sent_last_ns),
        )
        found.append(_batch(1, [(process, *not_sent)]))
    return found


def flow_keys(schema: Schema, encoder: Encoder) -> list[FlowBatch]:
    """Of the Templates that are in use."""
    keys = schema.flow_keys()
    ids = [encoder.register(fields) for fields, _ in keys]
    rows: list[Row] = [
        (("templateId", id), ("flowKeyIndicator", bits)) for id, (_, bits) in zip(ids, keys, strict=True)
    ]
    return [_batch(1, rows)] if rows else []


def options(facts: Facts, schema: Schema, counts: SessionCounts, encoder: Encoder) -> list[FlowBatch]:
    """All of them."""
    protocol = schema.protocol
    if protocol == "netflow5":
        return []
    found = [*interface_names(facts), *sampling(facts, protocol), *statistics(facts, counts, protocol)]
    return [*found, *selection(facts), *flow_keys(schema, encoder)] if protocol == "ipfix" else found
