"""``pyflowx export``: meter interfaces in the kernel, send IPFIX."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from pyflowx.cli.compile import programs_option
from pyflowx.cli.export_options import check, collector_options, meter_options, record_options, selection_options
from pyflowx.cli.log import LOG
from pyflowx.cli.numeric import prepare_numpy
from pyflowx.cli.operating import Operation, operation_options, served
from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pyflowx.exporting import ExportConfig, ExportCounters, Exporter
    from pyflowx.exporting.sessions import Session
    from pyflowx.kernel import LinkChange, MeterConfig
    from pyflowx.transport.udp import SendCounts

EPILOG = """
\b
Examples:
  sudo pyflowx export -i eth0 -H 192.0.2.10 -p 4739
  sudo pyflowx export -i eth0 -i eth1 -H collector.example --active-timeout 30
  sudo pyflowx export -i eth0 --filter 'tcp port 443' --dry-run
  sudo pyflowx export -i lo -p 9995        beside: pyflowx collect -p 9995 -f common

\b
Ends on SIGINT and SIGTERM: it detaches, sends all flows and prints a summary. A second signal ends it at once.
"""

IN_FLOWS = ("metered", "map_full", "gso_added")  # statistics of packets that records tell of; all others are left out
MEASURED_RUNS = 100_000  # of our programs, for ns a packet; some 7 ms in all
Targets = Sequence[tuple[str, "SendCounts"]]


def _interfaces(names: Sequence[str]) -> list[str]:
    """The interfaces, each once; an error names those that exist."""
    known = [name for _, name in socket.if_nameindex()]
    for name in names:
        if name not in known:
            raise ConfigError(f"-i/--interface {name}: no such interface; this host has {', '.join(known)}")
    return list(dict.fromkeys(names))


def _collector(host: str, port: int) -> tuple[str, bytes]:
    """The collector's address as text and as 16 octets (IPv4 as IPv4-mapped). Resolved once: what we send to
    and what is left out of the flows are the same."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"-H/--collector-host {host}: {reason}; give a name that resolves or an address such as 192.0.2.10"
        ) from error
    text = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    octets = socket.inet_pton(family, text.partition("%")[0])
    return text, octets if family == socket.AF_INET6 else bytes(10) + b"\xff\xff" + octets


@contextmanager
def _signals(exporter: Exporter) -> Iterator[None]:
    """SIGINT and SIGTERM stop the exporter, the next one ends the process; none of them disturbs detaching."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    seen = []

    def handle(number: int, frame: FrameType | None) -> None:
        exporter.stop()
        seen.append(number)
        if len(seen) > 1:
            raise SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _notice(change: LinkChange) -> None:
    """What became of an interface."""
    said = {
        "gone": "is gone; it is metered again when it comes back",
        "attached": "is back: metering it again",
        "restored": "had lost our programs: metering it again",
        "failed": f"cannot be metered: {change.message}",
    }
    LOG.warning(f"{change.interface} {said[change.event]}")


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def summary(counters: ExportCounters, statistics: Mapping[str, tuple[int, int]], targets: Targets) -> Iterator[str]:
    """The lines that say where everything went."""
    c = counters
    packets = _plural(c.packets_metered, "packet")
    yield f"metered {packets}, {c.octets_metered} IP octets, {c.l2_octets_metered} octets on layer 2"
    for name, (count, octets) in statistics.items():
        if count and name not in IN_FLOWS:
            yield f"left out {name.replace('_', ' ')}: {_plural(count, 'packet')}, {octets} octets on layer 2"
    reasons = ", ".join(f"{reason.name.lower().replace('_', ' ')} {n}" for reason, n in sorted(c.flows.items()))
    if c.samples:
        yield f"exported {_plural(c.samples, 'packet report')}"
    else:
        yield f"exported {_plural(c.flows.total(), 'flow')}" + (f" ({reasons})" if reasons else "")
    if full := statistics.get("map_full", (0, 0))[0]:
        yield f"map full: {_plural(full, 'packet')} counted without their flow; a larger --max-flows keeps them apart"
    if c.refused_flows:
        refused = f"{_plural(c.refused_flows, 'flow')} of {_plural(c.refused_packets, 'packet')}"
        yield f"refused {refused}: NetFlow v5 carries IPv4 only; --protocol ipfix carries all"
    if targets:
        templates = f"{c.template_messages} of them with Templates"
        yield f"sent {_plural(c.messages, 'message')} ({templates}), {c.message_octets} octets"
    for name, send in targets:
        if send.lost:
            yield f"lost {_plural(send.lost, 'message')} to {name} that the kernel refused: {send.last_error}"
        if send.reports:
            reports = _plural(send.reports, "report")
            yield f"unheard: {reports} that {name} did not get messages; is the collector running?"
    if c.not_sent_flows:
        yield f"not sent: {_plural(c.not_sent_flows, 'flow')} of {_plural(c.not_sent_packets, 'packet')}"
    if c.slow_ticks:
        yield f"slow: {_plural(c.slow_ticks, 'tick')} of {c.ticks} took longer than a second"


def _pick(kind: type[Any], options: Mapping[str, Any], **further: Any) -> Any:
    """A configuration from the options of the same names."""
    names = kind.__dataclass_fields__
    return kind(**{name: value for name, value in options.items() if name in names}, **further)


def _configs(options: Mapping[str, Any], own: Sequence[bytes]) -> tuple[ExportConfig, MeterConfig]:
    from pyflowx.exporting import ExportConfig
    from pyflowx.kernel import MeterConfig

    exclude = tuple((octets, options["collector_port"]) for octets in own)
    known = {**options, "interfaces": _interfaces(options["interfaces"])}
    exact = options["biflow"] or options["time_unit"] in ("us", "ns")  # who spoke first is a matter of microseconds
    meter = _pick(MeterConfig, known, exclude=exclude, measured_runs=MEASURED_RUNS, exact_times=exact)
    meter.check()
    return _pick(ExportConfig, options), meter


def _sessions(
    stack: ExitStack, options: Mapping[str, Any], hosts: Sequence[str]
) -> tuple[list[Session], list[tuple[str, SendCounts]]]:
    """Where records go, and the counts of each collector."""
    from pyflowx.exporting import SinkSession, TcpSession, UdpSession
    from pyflowx.exporting.sessions import udp_encoder

    if options["dry_run"]:
        from pyflowx.sinks.ndjson import CommonNdjson
        from pyflowx.sinks.output import Output
        from pyflowx.sinks.target import Target

        return [SinkSession(Output(CommonNdjson(), Target()))], []
    port, refresh_ns = options["collector_port"], int(options["template_refresh_rate"] * 1e9)
    names = [f"{host}:{port}" for host in hosts]
    if options["transport"] == "tcp":
        from pyflowx.transport.tcp import TcpConnection

        connections = [TcpConnection(host, port) for host in hosts]
        domain = options["observation_domain_id"]
        counts = [connection.counts for connection in connections]
        tcp: list[Session] = [TcpSession(domain, connection, refresh_ns) for connection in connections]
        return tcp, list(zip(names, counts, strict=True))
    from pyflowx.transport.udp import UdpSender

    sender = stack.enter_context(UdpSender([(host, port) for host in hosts], patient=True))
    sampling = options["sampling_interval"], options["sampling_random"]
    encoder = udp_encoder(options["protocol"], options["observation_domain_id"], sampling)
    return [UdpSession(encoder, sender, refresh_ns)], list(zip(names, sender.counts, strict=True))


@click.command("export", epilog=EPILOG, short_help="Meter an interface in the kernel; send IPFIX.")
@meter_options
@selection_options
@record_options
@collector_options
@programs_option
@operation_options
def command(**options: Any) -> None:
    """Meter the packets of interfaces with programs in the kernel and send their flows as IPFIX (RFC 7011).

    Needs root. Our own export traffic is left out. Nothing stays attached when it ends.
    """
    operation = Operation.take(options)
    check(options)
    prepare_numpy()
    from pyflowx.exporting import Exporter, SinkSession
    from pyflowx.exportview import ExporterView
    from pyflowx.kernel import Meter
    from pyflowx.metrics import EXPORTER
    from pyflowx.privileges import CAP_NET_RAW, drop, find_user

    user = find_user(options["user"]) if options["user"] else None
    resolved = dict(_collector(host, options["collector_port"]) for host in options["collectors"])
    config, meter_config = _configs(options, [] if options["dry_run"] else list(resolved.values()))
    with ExitStack() as stack:
        sessions, targets = _sessions(stack, options, list(resolved))
        meter = stack.enter_context(Meter(meter_config))
        exporter = stack.enter_context(Exporter(meter, sessions, config))
        for session in sessions:
            if isinstance(session, SinkSession):
                session.gone = exporter.stop
        stack.enter_context(_signals(exporter))
        for at in exporter.start():
            LOG.info(f"metering {at.interface} {at.direction} ({at.hook})" + (f": {at.note}" if at.note else ""))
        exporter.notice = _notice
        drop(user, *([CAP_NET_RAW] if meter_config.promiscuous else []))
        view = ExporterView(exporter, meter, targets, LOG.lines)
        name = f"export-{meter_config.interfaces[0]}.sock"
        with served(operation, "export", name, EXPORTER, view, view.sections, view.watched):
            exporter.run()
        exporter.close()
        for line in summary(exporter.counters, meter.statistics(), targets):
            LOG.info(line)
