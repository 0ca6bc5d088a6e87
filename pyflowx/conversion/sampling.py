"""What options data tell of their exporter's flows: sampling rates, and when its sysUptime was 0.

A rate holds for the flows that refer to its sampler or selector (elements 48 and 302), that came in or go out by its
interface, of its line card or its Template, or for the whole Observation Domain, as the options record names one of
these or none, in its scope or elsewhere. What is told of the whole exporter is true of each of its domains that tells
nothing else: in IPFIX by Observation Domain 0 (RFC 7011 §3.1), in NetFlow v9 with the scope System (RFC 3954 §6.1),
under whatever Source ID. NetFlow v9 and IPFIX have options data; NetFlow v5 has a rate in its header and sFlow one in
each sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64, V4_MAPPED, Array, FlowBatch
from pyflowx.common import Sampling, told_rates
from pyflowx.conversion.told import Told, domain_keys, positions
from pyflowx.decoded import Decoded, Messages, Protocol
from pyflowx.elements import IANA_PEN, to_nanoseconds
from pyflowx.errors import ConfigError
from pyflowx.fill import CommonColumn, integers

if TYPE_CHECKING:
    import ipaddress

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SELECTOR, INTERFACE, LINE_CARD, TEMPLATE, DOMAIN, BOOT = range(6)
# The elements that name what an options record is about, the most exact first.
_ABOUT = ((SELECTOR, (302, 48)), (INTERFACE, (10, 14, 252, 253)), (LINE_CARD, (141,)), (TEMPLATE, (145,)))
# What flows refer to these by, in order of preference.
_REFERS = (
    *((SELECTOR, 302), (SELECTOR, 48), (INTERFACE, 10), (INTERFACE, 252), (INTERFACE, 14), (INTERFACE, 253)),
    (LINE_CARD, 141),
)
_OBSERVATION_DOMAIN, _INIT = 149, 160
_RATES = frozenset((34, 50, 305, 306, 309, 310, 311))
_WHOLE = bytes(4)  # Observation Domain 0, at the end of a domain's key
_SYSTEM_SCOPE = 144  # exportingProcessId, which the scope System of v9 is read as
# The version under which what is told of the whole exporter is kept, in domain 0. In v9 a Source ID 0 is one of many.
_WHOLE_VERSION = {Protocol.IPFIX: int(Protocol.IPFIX), Protocol.NETFLOW_V9: 0x8000 | int(Protocol.NETFLOW_V9)}
HAVE_OPTIONS = frozenset((Protocol.NETFLOW_V9, Protocol.IPFIX))
MAX_RATE = (1 << 32) - 1
_MAX_LATEST = 1000  # exporters whose last rate is kept for viewers

_MAX_OF_ALL = 65_536

OfAll = tuple[bytes, int, int, int]  # domain, kind, id, value
_Row = tuple[int, bytes, int, int, int]  # position, and these


@dataclass(frozen=True, slots=True)
class KnownRates:
    """What the user says: ``default`` where nothing is known (0: null), ``forced`` for exporters in a prefix."""

    default: int = 0
    forced: tuple[tuple[Network, int], ...] = ()


def parse_rates(texts: Sequence[str]) -> KnownRates:
    """``--sampling-rate``: ``N``, and any number of ``PREFIX=N``. :class:`ConfigError` says what is accepted."""
    import ipaddress  # not needed by most

    default, forced = 0, []
    for text in texts:
        prefix, equals, number = text.rpartition("=")
        if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= MAX_RATE):
            raise ConfigError(f"--sampling-rate {text}: expected a rate from 1 to {MAX_RATE}, or PREFIX=RATE")
        if not equals:
            if default:
                raise ConfigError(f"--sampling-rate {text}: there can be one default only, it is {default} already")
            default = int(number)
            continue
        try:
            forced.append((ipaddress.ip_network(prefix.strip()), int(number)))
        except ValueError as error:
            raise ConfigError(
                f"--sampling-rate {text}: {error}; expected a prefix such as 192.0.2.0/24=1000 or 2001:db8::1=100"
            ) from error
    return KnownRates(default, tuple(sorted(forced, key=lambda one: one[0].prefixlen + 96 * (one[0].version == 4))))


class Rates:
    """Keeps what options data told, from call to call."""

    def __init__(self, known: KnownRates | None = None) -> None:
        self.told = Told()
        self._known = known or KnownRates()
        self._latest: dict[bytes, int] = {}  # exporter -> the rate that its options data told last
        self._has_whole = False  # whether anything was told by an Observation Domain 0
        self.of_all: list[OfAll] | None = None
        """What was told of whole exporters is noted here, for processes that have their other Observation Domains."""

    def take_in(self, decoded: Decoded) -> tuple[Messages, Sampling]:
        """Learns from the options data of a call: its Messages with ``boot_ns`` where that is known by now, and what
        gives its flows their rates (those that held when they came)."""
        self.told.begin()
        if decoded.protocol not in HAVE_OPTIONS:
            return decoded.messages, _Call(self.told, self._known, None, False).rates
        rows = [row for flows in decoded.flows if flows.scope_count for row in _rows(flows, decoded)]
        rows.sort(key=lambda row: row[0])
        for position, domain, kind, id, value in rows:
            self._tell(position, domain, kind, id, value)
            if self.of_all is not None and domain.endswith(_WHOLE) and len(self.of_all) < _MAX_OF_ALL:
                self.of_all.append((domain, kind, id, value))
        call = _Call(self.told, self._known, decoded, self._has_whole)
        return call.messages(decoded.messages), call.rates

    def take_over(self, rows: Iterable[OfAll]) -> None:
        """What other processes have noted in :attr:`of_all`; between two calls."""
        for row in rows:
            self._tell(0, *row)

    def _tell(self, position: int, domain: bytes, kind: int, id: int, value: int) -> None:
        self.told.tell(domain, kind, id, value, position)
        if kind != BOOT and (len(self._latest) < _MAX_LATEST or domain[:16] in self._latest):
            self._latest[domain[:16]] = value
        self._has_whole |= domain.endswith(_WHOLE)

    def of(self, exporter: bytes, recorded: tuple[int, str] | None) -> tuple[int, str] | None:
        """The rate of an exporter (16 octets) and who says so: ``forced``, where its records tell one ``recorded``,
        then ``options`` or ``default``; None: nobody does. For viewers, of any thread."""
        address = np.frombuffer(exporter, np.uint8)[None]
        forced = [rate for network, rate in self._known.forced if _within(address, network)[0]]
        if forced:
            return forced[-1], "forced"
        if recorded is not None:
            return recorded
        told = self._latest.get(exporter, 0)
        if told:
            return told, "options"
        return (self._known.default, "default") if self._known.default else None


class _Call:
    """Look-ups for the Messages of one call; ``decoded`` None: their protocol has no options data."""

    def __init__(self, told: Told, known: KnownRates, decoded: Decoded | None, has_whole: bool) -> None:
        self._told, self._known = told, known
        self._forced_rates: I64 | None = None
        self._domains = self._wholes = np.zeros(0, np.int64)
        if decoded is not None:
            version, messages = int(decoded.protocol), decoded.messages
            self._domains = told.domains(messages.exporter, version, messages.observation_domain_id)
            self._wholes = np.zeros_like(self._domains)
            if has_whole:
                self._wholes = told.domains(messages.exporter, _WHOLE_VERSION[decoded.protocol], 0)
        # Samplers and interfaces have their numbers in a domain of IPFIX (RFC 5477 §8.2.1), in v9 in the exporter.
        is_v9 = decoded is not None and decoded.protocol is Protocol.NETFLOW_V9
        self._named = (self._domains, self._wholes) if is_v9 else (self._domains,)
        self._is_told = bool(self._domains.any() or self._wholes.any())

    def messages(self, messages: Messages) -> Messages:
        """With the time of boot that options data told by the end of each Message."""
        if not self._is_told or not self._told.has(BOOT) or messages.boot_ns.all():
            return messages
        rows = np.arange(len(messages))
        boot = self._of_domain(BOOT, rows, positions(rows + 1, 0))
        return replace(messages, boot_ns=np.where(messages.boot_ns == 0, boot, messages.boot_ns))

    def rates(self, flows: FlowBatch, messages: Messages, made: CommonColumn | None) -> CommonColumn | None:
        """A :data:`~pyflowx.common.Sampling`: the rate that the record or its Message says, what options data told, the
        user's default; a forced one in the place of all."""
        known = self._known
        if not known.forced and ((made is not None and made.valid is None) or not (known.default or self._is_told)):
            return made
        rates: I64 = np.zeros(len(flows), np.int64)
        if made is not None:
            rates = made.values.astype(np.int64) * (True if made.valid is None else made.valid)
        if self._is_told:
            rates = self._told_of(flows, rates)
        if known.default:
            rates = np.where(rates == 0, known.default, rates)
        if known.forced:
            forced = self._forced(messages)[flows.message]
            rates = np.where(forced == 0, rates, forced)
        some = rates != 0
        return integers("u32", rates, None if some.all() else some) if some.any() else None

    def _told_of(self, flows: FlowBatch, rates: I64) -> I64:
        """``rates``, and where these are 0 what options data told of the flow."""
        when = positions(flows.message, flows.set_offset)
        for kind, ids in _references(flows):
            for domains in self._named:
                if self._told.has(kind) and domains.any() and not rates.all():
                    found = self._told.look(kind, domains[flows.message], ids, when)
                    rates = np.where(rates == 0, found, rates)
        if self._told.has(DOMAIN) and not rates.all():
            rates = np.where(rates == 0, self._of_domain(DOMAIN, flows.message, when), rates)
        return rates

    def _of_domain(self, kind: int, message: Array, when: I64) -> I64:
        found, zero = np.zeros(len(message), np.int64), np.zeros(1, np.uint64)
        for domains in (self._domains, self._wholes):
            if domains.any() and not found.all():
                found = np.where(found == 0, self._told.look(kind, domains[message], zero, when), found)
        return found

    def _forced(self, messages: Messages) -> I64:
        """The forced rate of each Message, 0 for none."""
        if self._forced_rates is None:
            self._forced_rates = np.zeros(len(messages), np.int64)
            for network, rate in self._known.forced:
                self._forced_rates[_within(messages.exporter, network)] = rate
        return self._forced_rates


def _references(flows: FlowBatch) -> Iterator[tuple[int, Array]]:
    """What the flows refer to, the most exact first: kind, ids."""
    for kind, element in _REFERS:
        column = _numbers(flows, element)
        if column is not None:
            yield kind, column
    yield TEMPLATE, flows.template_id


def _numbers(flows: FlowBatch, element: int) -> Array | None:
    column = flows.find(IANA_PEN, element)
    return column if isinstance(column, np.ndarray) and column.dtype.kind == "u" and column.ndim == 1 else None


def _rows(flows: FlowBatch, decoded: Decoded) -> Iterator[_Row]:
    """What options records tell. A rate of 0 takes back one that was told before."""
    elements = {field.element.id for field in flows.fields if field.element.pen == IANA_PEN}
    if elements.isdisjoint((*_RATES, _INIT)):
        return
    messages = decoded.messages
    domains = messages.observation_domain_id[flows.message]
    scope = FlowBatch(flows.fields[: flows.scope_count], flows.columns[: flows.scope_count], flows.message)
    named = _numbers(scope, _OBSERVATION_DOMAIN)
    if named is not None:
        domains = np.where((named == 0) | (named > MAX_RATE), domains, named)
    keys = domain_keys(messages.exporter[flows.message], int(decoded.protocol), domains)
    if decoded.protocol is Protocol.NETFLOW_V9 and any(f.element.id == _SYSTEM_SCOPE for f in scope.fields):
        whole = domain_keys(messages.exporter[flows.message], _WHOLE_VERSION[Protocol.NETFLOW_V9], 0)
        yield from _told(flows, decoded, elements, whole)
    yield from _told(flows, decoded, elements, keys)


def _told(flows: FlowBatch, decoded: Decoded, elements: set[int], keys: list[bytes]) -> Iterator[_Row]:
    """What options records tell of Observation Domains."""
    when = positions(flows.message, flows.set_offset).tolist()
    if not elements.isdisjoint(_RATES):
        kind, ids = _about(flows)
        rates = told_rates(flows, decoded).tolist()
        yield from zip(when, keys, [kind] * len(when), ids.tolist(), rates, strict=True)
    init = _numbers(flows, _INIT)
    if init is not None:
        ns, valid = to_nanoseconds("dateTimeMilliseconds", init)
        nothing = [0] * len(when)
        yield from zip(when, keys, [BOOT] * len(when), nothing, np.where(valid, ns, 0).tolist(), strict=True)


def _about(flows: FlowBatch) -> tuple[int, Array]:
    """What the rates of options records are about: kind, ids."""
    for kind, elements in _ABOUT:
        for element in elements:
            column = _numbers(flows, element)
            if column is not None:
                return kind, column
    return DOMAIN, np.zeros(len(flows), np.uint64)


def _within(exporter: Array, network: Network) -> npt.NDArray[np.bool_]:
    """Which addresses (16 octets) lie in a prefix."""
    four = network.version == 4
    mask = np.frombuffer((bytes([255] * 12) if four else b"") + network.netmask.packed, np.uint8)
    address = np.frombuffer((V4_MAPPED if four else b"") + network.network_address.packed, np.uint8)
    inside: npt.NDArray[np.bool_] = ((exporter & mask) == address).all(axis=1)
    return inside
