"""The generating process: pace, encode, send."""

from __future__ import annotations

import importlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pyflowx.batch import Array, Datagrams, FlowBatch
from pyflowx.elements import FieldSpecifier
from pyflowx.errors import ConfigError, EncodeError
from pyflowx.generating.settings import PROTOCOLS, Settings
from pyflowx.generating.source import FlowSource, flow_fields
from pyflowx.transport.udp import UdpSender

MAX_PAYLOAD = 65_507  # octets of a UDP datagram over IPv4

_NS = 1_000_000_000
_MS = 1_000_000
_BLOCK_FLOWS = 16_384  # flows drawn at once, at most: their columns fit in the cache
_BLOCK_PACKETS = 1024
_SLICE_NS = 50_000_000  # the longest sleep: how late a stop may be noticed
_TICK_NS = _MS  # the shortest sleep: what is due meanwhile goes out together
_TOO_MANY = MAX_PAYLOAD // 8  # flows of a packet: each takes more octets than that, in every protocol
_AHEAD = 10  # a tenth of a second is encoded at once, so that Export Time and flow times are true
_WORTH_A_THREAD = 64  # packets from which sending beside drawing pays
_UPTIME_NS = 3600 * _NS  # a made-up router has been up for an hour when it starts

_NOTHING = Datagrams(np.zeros((0, 0), np.uint8), np.zeros(0, np.int32))


class Encoder(Protocol):
    """What the encoders in :mod:`pyflowx.wire` have in common."""

    def register(self, fields: tuple[FieldSpecifier, ...], scope_count: int = 0) -> int: ...
    def template_messages(self, export_ns: int) -> Datagrams: ...
    def encode(self, flows: FlowBatch, export_ns: int, records_per_message: int | None = None) -> Datagrams: ...


class Pacer:
    """How many packets are due; packet k at ``start_ns + k / rate``, so that errors never add up.

    Pure: the clock is an argument (monotonic ns). ``rate`` 0: as many as one likes, always. After a
    standstill of more than a second only one second is caught up on.
    """

    def __init__(self, rate: int, start_ns: int) -> None:
        self._rate, self._start = rate, start_ns
        self._sent = 0

    def due(self, now_ns: int) -> int:
        """Packets to be sent at once."""
        if not self._rate:
            return _BLOCK_PACKETS
        late = now_ns - self._at(self._sent)
        if late > _NS:
            self._start += late - _NS
        return max(0, (now_ns - self._start) * self._rate // _NS + 1 - self._sent)

    def sent(self, packets: int) -> None:
        self._sent += packets

    def wait_ns(self, now_ns: int) -> int:
        """How long from now until a packet is due."""
        return max(0, self._at(self._sent) - now_ns) if self._rate else 0

    def _at(self, packet: int) -> int:
        return self._start - (-packet * _NS // self._rate)  # rounded up: then it is due indeed


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run has done. ``packets`` carry flows; ``template_packets`` come on top; ``octets`` (of UDP payload)
    count both. ``send_errors``: datagrams that the kernel refused. ``reports``: times that the network said
    that nobody takes them."""

    packets: int
    template_packets: int
    flows: int
    octets: int
    seconds: float
    send_errors: int
    reports: int
    last_error: str

    @property
    def rate(self) -> float:
        """Packets of flows a second."""
        return self.packets / self.seconds if self.seconds else 0.0

    @property
    def flow_rate(self) -> float:
        """Flows a second."""
        return self.flows / self.seconds if self.seconds else 0.0


class Generator:
    """Generates until ``settings.count`` packets are sent or :meth:`stop` is called.

    The constructor raises :class:`~pyflowx.errors.ConfigError` for settings that do not go together,
    :meth:`start` for a host that cannot be reached.
    """

    def __init__(self, settings: Settings) -> None:
        _check(settings)
        self._settings = settings
        self._boot_ns = (time.time_ns() - _UPTIME_NS) // _MS * _MS
        self._source = FlowSource(settings)
        _check_fit(settings, self._boot_ns)
        self._encoder = _new_encoder(settings, self._boot_ns)
        self._encoder.register(self._source.fields)
        self._block_packets = max(1, min(_BLOCK_PACKETS, _BLOCK_FLOWS // settings.flows_per_packet))
        self._block: dict[str, Array] = {}
        self._at = self._block_packets  # packets of the block that are encoded
        self._ready = _NOTHING
        self._packets = self._template_packets = 0
        self._sender: UdpSender | None = None
        self._sending: Future[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Resolve the host and open the socket."""
        self._sender = UdpSender([(self._settings.host, self._settings.port)])

    def stop(self) -> None:
        """Make :meth:`run` return soon; safe in a signal handler and from another thread."""
        self._stopped = True

    def run(self) -> Summary:
        """Send, after :meth:`start`; returns when the count is reached or :meth:`stop` was called."""
        assert self._sender is not None, "start() comes first"
        began = time.monotonic_ns()
        with self._sender as sender, ThreadPoolExecutor(1, "send") as pool:
            self._loop(sender, pool, Pacer(self._settings.rate, began))
            self._settle()
            counts = sender.counts[0]
            return Summary(
                counts.sent - self._template_packets,
                self._template_packets,
                (counts.sent - self._template_packets) * self._settings.flows_per_packet,
                counts.octets,
                (time.monotonic_ns() - began) / _NS,
                counts.lost,
                counts.reports,
                counts.last_error,
            )

    def _loop(self, sender: UdpSender, pool: ThreadPoolExecutor, pacer: Pacer) -> None:
        settings, template_ns = self._settings, 0
        while not self._stopped and not (settings.count and self._packets >= settings.count):
            now = time.monotonic_ns()
            if now >= template_ns:
                self._send_templates(sender)
                template_ns = now + settings.template_interval_s * _NS
            due = pacer.due(now)
            if not due:
                time.sleep(min(max(pacer.wait_ns(now), _TICK_NS), _SLICE_NS) / _NS)
                continue
            datagrams = self._next(due)
            pacer.sent(len(datagrams))
            self._packets += len(datagrams)
            self._settle()
            if len(datagrams) < _WORTH_A_THREAD:
                sender.send(datagrams)
            else:
                self._sending = pool.submit(sender.send, datagrams)

    def _settle(self) -> None:
        """Wait for the packets that are being sent."""
        if self._sending is not None:
            self._sending.result()
            self._sending = None

    def _send_templates(self, sender: UdpSender) -> None:
        self._settle()
        before = sender.counts[0].sent
        sender.send(self._encoder.template_messages(time.time_ns()))
        self._template_packets += sender.counts[0].sent - before

    def _next(self, limit: int) -> Datagrams:
        """The next packets, at least one, at most ``limit``."""
        if not len(self._ready):
            self._ready = self._encode()
        ready = self._ready
        self._ready = Datagrams(ready.data[limit:], ready.length[limit:])
        return Datagrams(ready.data[:limit], ready.length[:limit])

    def _encode(self) -> Datagrams:
        settings = self._settings
        per = settings.flows_per_packet
        if self._at == self._block_packets:
            self._block, self._at = self._source.draw(self._block_packets * per), 0
        packets = self._block_packets - self._at
        if settings.rate:
            packets = min(packets, max(1, settings.rate // _AHEAD))
        if settings.count:
            packets = min(packets, settings.count - self._packets)
        rows = slice(self._at * per, (self._at + packets) * per)
        self._at += packets
        now = time.time_ns() // _MS * _MS  # sysUptime has no finer unit
        flows = self._source.flows({name: column[rows] for name, column in self._block.items()}, now, self._boot_ns)
        return self._encoder.encode(flows, now, per)


def _new_encoder(settings: Settings, boot_ns: int) -> Encoder:
    """An encoder for the largest datagrams that UDP takes: the user says how many flows go into one."""
    module = importlib.import_module(f"pyflowx.wire.{settings.protocol}")
    options = {} if settings.protocol == "ipfix" else {"boot_ns": boot_ns}
    try:
        encoder: Encoder = module.Encoder(settings.observation_domain_id, MAX_PAYLOAD, **options)
    except EncodeError as error:
        raise ConfigError(f"--observation-domain-id for {settings.protocol}: {error}") from error
    return encoder


def _check_fit(settings: Settings, boot_ns: int) -> None:
    """Raise ConfigError where the flows of a packet do not fit in a datagram."""
    source = FlowSource(replace(settings, seed=0))
    reason = ""

    def fits(flows: int) -> bool:
        nonlocal reason
        now = boot_ns + _UPTIME_NS
        try:
            _new_encoder(settings, boot_ns).encode(source.flows(source.draw(flows), now, boot_ns), now, flows)
        except EncodeError as error:
            reason = str(error)
            return False
        return True

    wanted = settings.flows_per_packet
    if wanted < _TOO_MANY and fits(wanted):
        return
    if not fits(1):
        raise ConfigError(f"-t {settings.protocol}: {reason}")
    largest, too_many = 1, min(wanted, _TOO_MANY)
    while too_many - largest > 1:
        middle = (largest + too_many) // 2
        largest, too_many = (middle, too_many) if fits(middle) else (largest, middle)
    raise ConfigError(
        f"-f/--flows-per-packet {wanted} does not fit in a datagram of {settings.protocol}; give 1 to {largest}"
    )


def _most(settings: Settings, name: str) -> int:
    """The largest value that the field of this name holds."""
    if settings.protocol == "sflow":  # its fields have other names and 32 bits
        return 2**32 - 1
    fields = flow_fields(settings.protocol, settings.src_cidr.version)
    return next((1 << (8 * length)) - 1 for element, length in fields if element.name == name)


def _check(settings: Settings) -> None:
    """Raise ConfigError for the first setting that is not usable."""
    source, destination = settings.src_cidr, settings.dst_cidr
    if settings.protocol not in PROTOCOLS:
        raise ConfigError(f"-t/--protocol {settings.protocol}: give one of {', '.join(PROTOCOLS)}")
    if source.version != destination.version:
        raise ConfigError(
            f"--src-cidr {source} is IPv{source.version} and --dst-cidr {destination} is IPv{destination.version}: a"
            " flow has addresses of one kind; give both as IPv4 (10.0.0.0/8) or both as IPv6 (2001:db8::/32)"
        )
    if settings.protocol == "netflow5" and source.version != 4:
        raise ConfigError(
            f"-t netflow5 carries IPv4 only, not --src-cidr {source}; give IPv4 networks or -t ipfix, netflow9 or sflow"
        )
    for option, bounds, least, most in (
        ("--src-port-range", settings.src_port_range, 0, 65535),
        ("--dst-port-range", settings.dst_port_range, 0, 65535),
        ("--octet-range", settings.octet_range, 0, _most(settings, "octetDeltaCount")),
        ("--packet-range", settings.packet_range, 1, _most(settings, "packetDeltaCount")),
        ("--tcp-flags", (settings.tcp_flags,) * 2, 0, 255),
        ("-p/--port", (settings.port,) * 2, 1, 65535),
        ("-r/--rate", (settings.rate,) * 2, 0, 1_000_000_000),
        ("-n/--count", (settings.count,) * 2, 0, 2**63 - 1),
        ("-f/--flows-per-packet", (settings.flows_per_packet,) * 2, 1, 2**31 - 1),
        ("--template-interval", (settings.template_interval_s,) * 2, 1, 2**31 - 1),
        ("--observation-domain-id", (settings.observation_domain_id,) * 2, 0, 2**32 - 1),
    ):
        low, high = bounds
        if not least <= low <= high <= most:
            text = f"{low}-{high}" if option.endswith("range") else low
            what = "two numbers MIN-MAX" if option.endswith("range") else "a number"
            raise ConfigError(f"{option} {text}: give {what} within {least}-{most}")
    if not settings.protocols or not all(0 <= number <= 255 for number in settings.protocols):
        raise ConfigError("--protocols: give IP protocol numbers within 0-255, such as 6,17")
