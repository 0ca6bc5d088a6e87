"""The terms of the filter language (:mod:`pyflowx_tui.query`): what names and values mean, and masks of columns."""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import V4_MAPPED

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Labels:
    """A text column as codes into its distinct labels; a code below 0 is null."""

    codes: npt.NDArray[Any]
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.codes)


# Numbers (NaN, or masked: null), ``(n, 16)`` uint8 of addresses (IPv4 as IPv4-mapped; all zero: null), Labels, or texts
# (None: null; addresses as text too).
Column = npt.NDArray[Any] | Labels | Sequence[str | None]

ALIASES: dict[str, tuple[str, ...]] = {
    "src": ("src_addr",),
    "dst": ("dst_addr",),
    "host": ("src_addr", "dst_addr"),
    "net": ("src_addr", "dst_addr"),
    "addr": ("src_addr", "dst_addr"),
    "port": ("src_port", "dst_port"),
    "sport": ("src_port",),
    "dport": ("dst_port",),
    "as": ("src_as", "dst_as"),
    "asn": ("src_as", "dst_as"),
    "if": ("in_if", "out_if"),
    "mac": ("src_mac", "dst_mac"),
    "vlan": ("src_vlan", "dst_vlan"),
    "country": ("src_country", "dst_country"),
    "exporter": ("sampler_address",),
    "nexthop": ("next_hop",),
    "flags": ("tcp_flags",),
    "tos": ("ip_tos",),
    "ttl": ("ip_ttl",),
    "label": ("ipv6_flow_label",),
    "octets": ("bytes",),
    "pkts": ("packets",),
    "sampling": ("sampling_rate",),
    "domain": ("observation_domain_id",),
    "template": ("template_id",),
    "type": ("flow_type",),
    "start": ("time_flow_start_ns",),
    "end": ("time_flow_end_ns",),
}
PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6": 41, "rsvp": 46, "gre": 47,
    "esp": 50, "ah": 51, "icmp6": 58, "eigrp": 88, "ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": 132,
    "udplite": 136,
}  # fmt: skip
PORTS = {
    "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "dns": 53, "dhcp": 67, "tftp": 69, "http": 80, "ntp": 123,
    "snmp": 161, "bgp": 179, "ldap": 389, "https": 443, "smb": 445, "syslog": 514, "imaps": 993, "openvpn": 1194,
    "mysql": 3306, "rdp": 3389, "sip": 5060, "postgresql": 5432, "vxlan": 4789, "redis": 6379,
}  # fmt: skip
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128, "N": 256}
_MADE = ("duration", "age")  # of time columns

_SIZES = {"": 1, **{unit: 1000**power for power, unit in enumerate("kMGTPE", 1)}, "K": 1000}
_SIZES |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", 1)} | {"ki": 1024}
_TIMES = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TIMES |= {"": 10**9, "d": 86_400 * 10**9}
_NUMBER = re.compile(r"(-?(?:0x[0-9a-fA-F]+|\d+(?:\.\d*)?|\.\d+))([a-zA-Zµ]*)")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class QueryError(ValueError):
    """What is wrong with a query, and the place of it in its text."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.message, self.position = message, position


# --- values -----------------------------------------------------------------------------------------------------------


@lru_cache(4096)
def prefix_of(text: str) -> tuple[bytes, bytes] | None:
    """(address, mask) in 16 octets of an address or a prefix; ``10/8`` and ``10.1`` are short for prefixes of IPv4."""
    address, slash, length = text.partition("/")
    parts = address.rstrip(".").split(".")
    if ":" not in address and all(part.isascii() and part.isdecimal() for part in parts) and len(parts) < 4:
        if not slash and len(parts) < 2:
            return None  # a mere number
        length = length if slash else str(8 * len(parts))
        address = ".".join([*parts, *["0"] * (4 - len(parts))])
    try:
        network = ipaddress.ip_network(f"{address}/{length}" if slash or length else address, strict=False)
    except ValueError:
        return None
    if network.version == 4:
        return V4_MAPPED + network.network_address.packed, b"\xff" * 12 + network.netmask.packed
    return network.network_address.packed, network.netmask.packed


def number_of(text: str, units: Mapping[str, int] = _SIZES) -> int | float | None:
    """With a unit; None where it is no number."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    digits, unit = match.groups()
    if units is _SIZES and unit[-1:] in ("B", "b"):
        unit = unit[:-1]
    if unit not in units:
        return None
    if "x" in digits:
        return int(digits, 16) * units[unit]
    if digits.removeprefix("-").isdecimal():
        return int(digits) * units[unit]
    number = float(digits) * units[unit]
    return int(number) if number == int(number) else number


def flags_of(text: str) -> int | None:
    """``SA`` or a number."""
    if text and all(letter in FLAGS for letter in text.upper()):
        return sum({FLAGS[letter] for letter in text.upper()})
    number = number_of(text)
    return number if isinstance(number, int) else None


def mac_of(text: str) -> int | None:
    digits = re.sub(r"[:.-]", "", text)
    return int(digits, 16) if re.fullmatch(r"[0-9a-fA-F]{12}", digits) else None


Range = tuple[int | float, int | float]


def _range_of(text: str, parse: Callable[[str], int | float | None]) -> Range | None:
    one = parse(text)
    if one is not None:
        return one, one
    for match in re.finditer("-", text[1:]):
        low, high = parse(text[: match.start() + 1]), parse(text[match.end() + 1 :])
        if low is not None and high is not None:
            return low, high
    return None


# --- what a name means ------------------------------------------------------------------------------------------------

_EXPECTED = {
    "address": "an address or a prefix such as 10/8 or 2001:db8::/32",
    "mac": "a MAC address such as 00:53:00:01:02:03",
    "proto": "a protocol such as tcp, or its number",
    "port": "a port, a range such as 1024-65535 or a service such as https",
    "flags": "TCP flags such as SA (of FSRPAUEC), or a number",
    "time": "a time such as 5s, 30m or 250ms",
    "number": "a number such as 1500, 10k or 4MiB, or a range such as 1-10",
    "text": "a text",
}
_PARSERS: dict[str, Callable[[str], int | float | None]] = {
    "mac": mac_of,
    "proto": lambda text: PROTOCOLS.get(text.lower().replace("icmpv6", "icmp6"), number_of(text)),
    "port": lambda text: PORTS.get(text.lower(), number_of(text)),
    "flags": flags_of,
    "time": lambda text: number_of(text, _TIMES),
    "number": number_of,
}


class Schema(NamedTuple):
    kinds: Mapping[str, str]  # column of the common schema -> kind
    elements: Mapping[str, str]  # element -> column that it fills


@lru_cache(1)
def schema() -> Schema:
    """The common schema's columns with what kind of value they hold."""
    from pyflowx.common import TABLE
    from pyflowx.elements import IANA_PEN, default_registry

    special = {"proto": "proto", "src_port": "port", "dst_port": "port", "tcp_flags": "flags"}
    types = {"address": "address", "mac": "mac", "label": "text", "time": "time"}
    kinds = {column.name: special.get(column.name, types.get(column.type, "number")) for column in TABLE}
    elements: dict[str, str] = {}
    for column in TABLE:
        for source in column.sources:
            for id in source.elements:
                known = default_registry().known(IANA_PEN, id)
                if known is not None:
                    elements.setdefault(known.name, column.name)
    return Schema(kinds | dict.fromkeys(_MADE, "time"), elements)


def known_names() -> list[str]:
    """Columns of the common schema, aliases, what is made of times."""
    return sorted({*schema().kinds, *ALIASES})


def columns_of(name: str, there: Iterable[str] = ()) -> tuple[str, ...]:
    """The columns that a name stands for; those that are there are taken by their own name. Empty: none is known."""
    if name in there:
        return (name,)
    fields = schema()
    if name in fields.kinds:
        return (name,)
    return ALIASES.get(name.lower()) or ((fields.elements[name],) if name in fields.elements else ())


def kind_of(name: str) -> str | None:
    columns = columns_of(name)
    return schema().kinds.get(columns[0], "text" if columns[0].endswith("country") else None) if columns else None


# --- the tree ---------------------------------------------------------------------------------------------------------

Columns = Mapping[str, Column]


class Rows(NamedTuple):
    """What a query is asked about."""

    columns: Columns
    n: int
    now_ns: int | None

    def find(self, name: str) -> Column | None:
        found = self.columns.get(name)
        return self._made(name) if found is None and name in _MADE else found

    def _made(self, name: str) -> Column | None:
        """``duration`` and ``age`` as nanoseconds; None where the times for them are missing."""
        first, last = ("time_flow_start_ns", "time_flow_end_ns") if name == "duration" else ("time_received_ns",) * 2
        start, end = self.columns.get(first), self.columns.get(last)
        if start is None or end is None:
            return None
        begin: Any = np.ma.asanyarray(start)
        until: Any = np.ma.asanyarray(end)
        if name == "age":
            now = self.now_ns if self.now_ns is not None else (int(until.max()) if self.n else 0)
            until = now
        made: Column = np.ma.asanyarray(until - begin)
        return made


class And(NamedTuple):
    parts: tuple[Any, ...]

    def mask(self, rows: Rows) -> Mask:
        found: Mask = np.logical_and.reduce([part.mask(rows) for part in self.parts])
        return found


class Or(NamedTuple):
    parts: tuple[Any, ...]

    def mask(self, rows: Rows) -> Mask:
        found: Mask = np.logical_or.reduce([part.mask(rows) for part in self.parts])
        return found


class Not(NamedTuple):
    part: Any

    def mask(self, rows: Rows) -> Mask:
        found: Mask = ~self.part.mask(rows)
        return found


class All(NamedTuple):
    def mask(self, rows: Rows) -> Mask:
        return np.ones(rows.n, np.bool_)


class Term(NamedTuple):
    name: str
    op: str
    text: str
    position: int  # of the name
    value_position: int

    def check(self, names: Iterable[str] | None) -> None:
        """QueryError where the value is not one of the name's kind, or nobody knows the name."""
        if names is not None and not columns_of(self.name, names):
            raise QueryError(f"no column or element is called {self.name}", self.position)
        if self.op == "~":
            self._pattern()
            return
        kind = kind_of(self.name)
        if kind is None:
            return
        if self.op in _COMPARE and kind in ("address", "mac", "text", "flags"):
            raise QueryError(f"{self.name} has no order: use {self.name}:… with {_EXPECTED[kind]}", self.position)
        self._values(kind)

    def _pattern(self) -> re.Pattern[str]:
        try:
            return re.compile(self.text, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            raise QueryError(f"{self.text}: {error}", self.value_position) from error

    def _values(self, kind: str) -> list[Any]:
        """Of an address prefixes, of a number ranges, of a text patterns."""
        texts = self.text.split(",") if self.op in (":", "=") else [self.text]
        values: list[Any] = []
        for text in texts:
            if kind == "address":
                value: Any = prefix_of(text)
            elif kind == "text":
                value = text
            elif self.op in _COMPARE:
                value = _PARSERS[kind](text)
            else:
                value = _range_of(text, _PARSERS[kind])
            if value is None:
                raise QueryError(f"{self.name}: {text or 'nothing'} is not {_EXPECTED[kind]}", self.value_position)
            values.append(value)
        return values

    def mask(self, rows: Rows) -> Mask:
        names = columns_of(self.name, rows.columns)
        if not names:
            raise QueryError(f"no column or element is called {self.name}", self.position)
        found = np.zeros(rows.n, np.bool_)
        for name in names:
            column = rows.find(name)
            if column is not None:
                found |= self._of(name, column)
        return found

    def _of(self, name: str, column: Column) -> Mask:
        kind = kind_of(self.name) or kind_of(name)
        array = column if isinstance(column, np.ndarray) else None
        if array is not None and array.ndim == 2:
            return self._addresses(array)
        if array is None or array.dtype.kind in "OUS":
            return self._texts(column, kind)
        if self.op == "~":
            raise QueryError(f"{self.name} holds numbers: ~ is for text", self.position)
        if kind == "address":
            return self._ipv4(array)
        return self._numbers(array, kind if kind in _PARSERS else _time_or_number(name))

    def _addresses(self, rows: npt.NDArray[Any]) -> Mask:
        if self.op == "~":
            return self._pattern_of(_address_labels(rows))
        if self.op in _COMPARE:
            raise QueryError(f"{self.name} has no order: use {self.name}:… with a prefix", self.position)
        words = np.ascontiguousarray(rows).view(np.uint64)
        found = np.zeros(len(rows), np.bool_)
        for address, mask in self._values("address"):
            value, bits = np.frombuffer(address, np.uint64), np.frombuffer(mask, np.uint64)
            found |= (words[:, 0] & bits[0] == value[0]) & (words[:, 1] & bits[1] == value[1])
        found &= (words != 0).any(axis=1)
        return found

    def _ipv4(self, numbers: npt.NDArray[Any]) -> Mask:
        found = np.zeros(len(numbers), np.bool_)
        for address, mask in self._values("address"):
            if mask[:12] == b"\xff" * 12 and address.startswith(V4_MAPPED):
                value, bits = int.from_bytes(address[12:], "big"), int.from_bytes(mask[12:], "big")
                found |= np.ma.filled((numbers & bits) == value, False)
        return found

    def _numbers(self, column: npt.NDArray[Any], kind: str) -> Mask:
        found = np.zeros(len(column), np.bool_)
        for value in self._values(kind):
            if self.op in _COMPARE:
                found |= np.ma.filled(_COMPARE[self.op](column, value), False)
            elif kind == "flags" and self.op == ":" and value[0] == value[1] and value[0]:
                found |= np.ma.filled(
                    (np.ma.asanyarray(column).filled(0).astype(np.int64) & value[0]) == value[0], False
                )
            elif value[0] == value[1]:
                found |= np.ma.filled(column == value[0], False)
            else:
                found |= np.ma.filled((column >= value[0]) & (column <= value[1]), False)
        return found

    def _texts(self, column: Any, kind: str | None) -> Mask:
        labels = column if isinstance(column, Labels) else _labels(column)
        if self.op == "~":
            return self._pattern_of(labels)
        if self.op in _COMPARE:
            raise QueryError(f"{self.name} holds text, which has no order: use : or ~", self.position)
        if kind == "address":
            prefixes = self._values("address")
            return _of_labels(labels, [_within(prefix_of(label), prefixes) for label in labels.labels])
        if kind == "mac":
            wanted = {low for low, _ in self._values("mac")}
            return _of_labels(labels, [mac_of(label) in wanted for label in labels.labels])
        patterns = [_glob(text) for text in self._values("text")]
        return _of_labels(labels, [any(p.fullmatch(label) for p in patterns) for label in labels.labels])

    def _pattern_of(self, labels: Labels) -> Mask:
        search = self._pattern().search
        return _of_labels(labels, [search(label) is not None for label in labels.labels])


def _time_or_number(name: str) -> str:
    return "time" if name.endswith("_ns") else "number"


def _within(address: tuple[bytes, bytes] | None, prefixes: list[tuple[bytes, bytes]]) -> bool:
    if address is None:
        return False
    number = int.from_bytes(address[0], "big")
    return any(number & int.from_bytes(mask, "big") == int.from_bytes(value, "big") for value, mask in prefixes)


def _glob(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.IGNORECASE | re.DOTALL)


def _labels(texts: Iterable[str | None]) -> Labels:
    known: dict[str, int] = {}
    codes = [-1 if text is None else known.setdefault(text, len(known)) for text in texts]
    return Labels(np.array(codes, np.int64), list(known))


def _address_labels(rows: npt.NDArray[Any]) -> Labels:
    from pyflowx.text import ipv4, ipv6

    distinct, codes = np.unique(np.ascontiguousarray(rows).view("V16")[:, 0], return_inverse=True)
    octets = distinct.view(np.uint8).reshape(-1, 16)
    mapped = (octets[:, :12] == np.frombuffer(V4_MAPPED, np.uint8)).all(axis=1)
    texts = np.empty(len(octets), object)
    texts[~mapped] = ipv6(octets[~mapped]).tolist()
    texts[mapped] = ipv4(octets[mapped, 12:].copy().view(">u4")[:, 0]).tolist()
    return Labels(np.where(rows.any(axis=1), codes, -1), [text.decode() for text in texts.tolist()])


def _of_labels(column: Labels, wanted: list[bool]) -> Mask:
    codes = np.asarray(column.codes)
    if not wanted:
        return np.zeros(len(codes), np.bool_)
    found: Mask = np.array(wanted, np.bool_)[np.maximum(codes, 0)] & (codes >= 0)
    return found
