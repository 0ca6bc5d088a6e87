"""What there is to say of one flow: every element of its Template, or every column of the schema, with its meaning."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyflowx.batch import V4_MAPPED
from pyflowx.common import TABLE
from pyflowx.elements import IANA_PEN, VARIABLE_LENGTH, InformationElement, default_registry, from_nanoseconds

from . import cells, text
from .columns import Labels, address_text
from .names import service
from .state import State
from .store import FlowStore

UNKNOWN = "–"  # noqa: RUF001 # stands where the feed does not say
_DSCP = {
    0: "CS0",
    8: "CS1",
    16: "CS2",
    24: "CS3",
    32: "CS4",
    40: "CS5",
    48: "CS6",
    56: "CS7",
    46: "EF",
    44: "VA",
    1: "LE",
}
_DSCP |= {8 * cls + 2 * drop: f"AF{cls}{drop}" for cls in range(1, 5) for drop in range(1, 4)}
_ECN = ("not ECT", "ECT(1)", "ECT(0)", "CE")
_FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")
_ETYPES = {
    0x0800: "IPv4",
    0x86DD: "IPv6",
    0x0806: "ARP",
    0x8100: "VLAN",
    0x8847: "MPLS",
    0x88A8: "QinQ",
    0x88CC: "LLDP",
}
_ICMP = {
    0: "echo reply",
    3: "unreachable",
    5: "redirect",
    8: "echo request",
    11: "time exceeded",
    12: "parameter problem",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """``number``: ``8`` or ``6871/14``; ``octets``: in hex, as on the wire."""

    number: str
    name: str
    length: str
    octets: str
    value: str
    meaning: str


@functools.cache
def _columns_of_elements() -> Mapping[int, str]:
    """IANA element -> the column that it fills."""
    found: dict[int, str] = {}
    for column in TABLE:
        for source in column.sources:
            for id in source.elements:
                found.setdefault(id, column.name)
    return found


def facts(state: State, row: int) -> list[Fact]:
    """Of the flow in a row of the state's store."""
    store = state.store
    template = find_template(state, row)
    if template is None:
        return [_of_column(store, row, column.name) for column in TABLE if store.valid(column.name)[row]] + _added(
            store, row
        )
    made, told = [], set()
    for pen, id, name, length in template["fields"]:
        column = _columns_of_elements().get(id) if pen == IANA_PEN else None
        element = default_registry().get(pen, id)
        if column is not None and not _is_of(store, row, column, element):
            column = None
        made.append(_fact(store, row, column, element, text.clean(name, 128), length))
        told.add(column)
    rest = [column.name for column in TABLE if column.name not in told and store.valid(column.name)[row]]
    return [*made, *(_of_column(store, row, name) for name in rest), *_added(store, row)]


def find_template(state: State, row: int) -> Mapping[str, Any] | None:
    """The Template that the last record of a flow was sent with, if the feed tells it."""
    store = state.store
    if not store.valid("template_id")[row]:
        return None
    id, domain = int(store.column("template_id")[row]), int(store.column("observation_domain_id")[row])
    exporter = address_text(store.column("sampler_address")[row].tobytes())
    found = [each for each in state.section("templates", ()) if each.get("id") == id and each.get("domain") == domain]
    exact = [each for each in found if each.get("exporter") == exporter]
    return exact[0] if exact else None


def _is_of(store: FlowStore, row: int, column: str, element: InformationElement) -> bool:
    """An element of IPv4 says nothing of a flow of IPv6."""
    if not store.valid(column)[row]:
        return False
    values = store.column(column)
    if isinstance(values, Labels) or values.ndim == 1:
        return True
    is_v4: bool = values[row].tobytes().startswith(V4_MAPPED)
    return is_v4 is (element.data_type.name == "ipv4Address")


def _of_column(store: FlowStore, row: int, name: str) -> Fact:
    """A column that no field of a Template is known to fill: under its own name."""
    return _fact(store, row, name, None, name, 0)


def _added(store: FlowStore, row: int) -> list[Fact]:
    """Enrichment."""
    return [_of_column(store, row, name) for name in store.extra() if store.valid(name)[row]]


def _fact(
    store: FlowStore, row: int, column: str | None, element: InformationElement | None, name: str, length: int
) -> Fact:
    number = "" if element is None else str(element.id) if element.pen == IANA_PEN else f"{element.pen}/{element.id}"
    long = "" if not length else "var" if length == VARIABLE_LENGTH else str(length)
    if column is None:
        return Fact(number, name, long, UNKNOWN, UNKNOWN, _semantics(element))
    values = store.column(column)
    if isinstance(values, Labels):
        return Fact(number, name, long, "", text.clean(values.texts[int(values.codes[row])], 1024), _semantics(element))
    shown, meaning = _shown(store, row, column)
    return Fact(number, name, long, _octets(values[row], element, length), shown, meaning or _semantics(element))


def _semantics(element: InformationElement | None) -> str:
    if element is None:
        return ""
    parts = [element.data_type.name, element.semantics if element.semantics != "default" else "", element.units]
    return ", ".join(part for part in parts if part and part != "none")


def _octets(value: Any, element: InformationElement | None, length: int) -> str:
    """The octets of a value in a field of this length; empty where they cannot be told from it."""
    if element is None or not 0 < length < VARIABLE_LENGTH:
        return ""
    kind = element.data_type
    if np.ndim(value):
        return value.tobytes()[16 - length :].hex(" ") if length in (4, 16) else ""
    if kind.is_time:
        value = from_nanoseconds(kind.name, np.array([value], np.int64))[0]
    elif not kind.name.startswith(("unsigned", "macAddress")) or element.id in (21, 22):  # uptimes were converted
        return ""
    number = int(value)
    return number.to_bytes(length, "big").hex(" ") if 0 <= number < 1 << 8 * length else ""


# --- meanings ---------------------------------------------------------------------------------------------------------


def _shown(store: FlowStore, row: int, column: str) -> tuple[str, str]:
    """(value, meaning)."""
    values = store.column(column)
    type = store.types[column]
    if type == "address":
        return address_text(values[row].tobytes()), ""
    value = values[row].item()
    if type == "time":
        return iso(value), f"{text.age(max(0, store.time_ns - value))} ago"
    if type == "mac":
        return ":".join(f"{value:012x}"[at : at + 2] for at in range(0, 12, 2)), ""
    meaning = _MEANINGS.get(column)
    return str(value), meaning(store, row, value) if meaning is not None else ""


def iso(ns: int) -> str:
    seconds, rest = divmod(ns, 1_000_000_000)
    try:
        return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M:%S}.{rest // 1_000_000:03} UTC"
    except (OverflowError, ValueError, OSError):
        return str(ns)


def flag_names(value: int) -> str:
    return " ".join(name for bit, name in enumerate(_FLAG_NAMES) if value >> bit & 1) or "no flag"


def tos(value: int) -> str:
    """RFC 2474, RFC 3168."""
    return f"DSCP {_DSCP.get(value >> 2, value >> 2)}, {_ECN[value & 3]}"


def _icmp(store: FlowStore, row: int, value: int) -> str:
    return _ICMP.get(value, "") if int(store.column("proto")[row]) == 1 else ""


def _port(store: FlowStore, row: int, value: int) -> str:
    protocol = cells.protocol(int(store.column("proto")[row])).lower()
    found = service(value, protocol) if protocol in ("tcp", "udp", "sctp", "dccp") else ""
    return found if found != str(value) else ""


def _of(function: Callable[[int], str]) -> Callable[[FlowStore, int, int], str]:
    return lambda store, row, value: function(value)


_MEANINGS: Mapping[str, Callable[[FlowStore, int, int], str]] = {
    "proto": _of(cells.protocol),
    "tcp_flags": _of(flag_names),
    "ip_tos": _of(tos),
    "etype": _of(lambda value: _ETYPES.get(value, f"{value:#06x}")),
    "bytes": _of(lambda value: f"{text.octets(value)} of the last record"),
    "packets": _of(lambda value: f"{text.count(value)} of the last record"),
    "sampling_rate": _of(lambda value: f"one in {value}" if value > 1 else "every packet"),
    "src_net": _of(lambda value: f"/{value}"),
    "dst_net": _of(lambda value: f"/{value}"),
    "src_port": _port,
    "dst_port": _port,
    "icmp_type": _icmp,
}


def summary(store: FlowStore, row: int) -> Sequence[tuple[str, str]]:
    """(title, value) of what is known of the flow beside its last record."""
    octets, packets = int(store.own("octets")[row]), int(store.own("packets")[row])
    rate, packet_rate = (float(store.rates(of)[row]) for of in ("octets", "packets"))
    first, last = int(store.own("first_ns")[row]), int(store.own("last_ns")[row])
    return (
        ("Rate", f"{text.rate(rate * 8)}  {text.rate(packet_rate, 'pkt/s')}"),
        ("In all", f"{text.octets(octets)}  {text.count(packets)} packets  {int(store.own('records')[row])} records"),
        ("Seen", f"first {text.age(store.time_ns - first)} ago, last {text.age(store.time_ns - last)} ago"),
    )


def ends(store: FlowStore, row: int) -> str:
    """``10.0.0.1:443 → 10.0.0.2:50000 TCP``."""
    parts = []
    for side in ("src", "dst"):
        address = address_text(store.column(f"{side}_addr")[row].tobytes()) or "?"
        port = int(store.column(f"{side}_port")[row])
        parts.append(f"[{address}]:{port}" if port and ":" in address else f"{address}:{port}" if port else address)
    return f"{parts[0]} → {parts[1]}  {cells.protocol(int(store.column('proto')[row]))}"
