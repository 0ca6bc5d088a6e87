"""``pyflowx export``: meter interfaces in the kernel, send IPFIX."""

from __future__ import annotations

import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pyflowx.cli.log import LOG
from pyflowx.cli.operating import Operation, operation_options, served
from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pyflowx.exporting import ExportCounters, Exporter
    from pyflowx.transport.udp import SendCounts

EPILOG = """
\b
Examples:
  sudo pyflowx export -i eth0 -H 192.0.2.10 -p 4739
  sudo pyflowx export -i eth0 -i eth1 -H collector.example --active-timeout 30
  sudo pyflowx export -i lo -p 9995        beside: pyflowx collect -p 9995 -f common

\b
Ends on SIGINT and SIGTERM: it detaches, sends all flows and prints a summary. A second signal ends it at once.
"""

IN_FLOWS = ("metered", "map_full", "gso_added")  # statistics of packets that records tell of; all others are left out
SECONDS = click.IntRange(1, 86_400)


def _interfaces(names: tuple[str, ...]) -> list[str]:
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


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def summary(counters: ExportCounters, statistics: dict[str, tuple[int, int]], sends: list[SendCounts]) -> Iterator[str]:
    """The lines that say where everything went."""
    c = counters
    packets = _plural(c.packets_metered, "packet")
    yield f"metered {packets}, {c.octets_metered} IP octets, {c.l2_octets_metered} octets on layer 2"
    for name, (count, octets) in statistics.items():
        if count and name not in IN_FLOWS:
            yield f"left out {name.replace('_', ' ')}: {_plural(count, 'packet')}, {octets} octets on layer 2"
    reasons = ", ".join(f"{reason.name.lower().replace('_', ' ')} {n}" for reason, n in sorted(c.flows.items()))
    yield f"exported {_plural(c.flows.total(), 'flow')}" + (f" ({reasons})" if reasons else "")
    if full := statistics.get("map_full", (0, 0))[0]:
        yield f"map full: {_plural(full, 'packet')} counted without their flow; a larger --max-flows keeps them apart"
    templates = f"{c.template_messages} of them with Templates"
    yield f"sent {_plural(c.messages, 'message')} ({templates}), {c.message_octets} octets"
    for send in sends:
        if send.lost:
            yield f"lost {_plural(send.lost, 'message')} that the kernel refused: {send.last_error}"
        if send.reports:
            yield f"unheard: {_plural(send.reports, 'report')} that messages did not arrive; is the collector running?"
    if c.slow_ticks:
        yield f"slow: {_plural(c.slow_ticks, 'tick')} of {c.ticks} took longer than a second"


@click.command("export", epilog=EPILOG, short_help="Meter an interface in the kernel; send IPFIX.")
@click.option(
    "-i",
    "--interface",
    "interfaces",
    multiple=True,
    default=["lo"],
    show_default=True,
    help="What to meter; repeatable.",
)
@click.option("-H", "--collector-host", default="127.0.0.1", show_default=True, help="Name, IPv4 or IPv6 address.")
@click.option(
    "-p", "--collector-port", type=click.IntRange(1, 65535), default=4739, show_default=True, help="UDP port."
)
@click.option(
    "--active-timeout", type=SECONDS, default=60, show_default=True, help="Seconds after which a long flow is cut."
)
@click.option(
    "--inactive-timeout", type=SECONDS, default=15, show_default=True, help="Seconds without a packet that end a flow."
)
@click.option(
    "--template-refresh-rate", type=SECONDS, default=300, show_default=True, help="Seconds between Templates."
)
@click.option(
    "--observation-domain-id",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    help="Tells exporters behind one address apart.",
)
@click.option(
    "--hook",
    type=click.Choice(["auto", "xdp", "tc"]),
    default="auto",
    show_default=True,
    help="Where in the kernel; auto: native XDP on ingress where the driver has it, TC elsewhere.",
)
@click.option(
    "--direction",
    type=click.Choice(["both", "ingress", "egress"]),
    default="both",
    show_default=True,
    help="Packets that come in, that go out, or both; XDP sees those that come in.",
)
@click.option(
    "--max-flows",
    type=click.IntRange(1, 1 << 24),
    default=1 << 18,
    show_default=True,
    help="Flows at once, in the kernel (some 350 octets each) and in the flow table; when full, the oldest end early.",
)
@operation_options
def command(
    interfaces: tuple[str, ...],
    collector_host: str,
    collector_port: int,
    active_timeout: int,
    inactive_timeout: int,
    template_refresh_rate: int,
    observation_domain_id: int,
    hook: str,
    direction: str,
    max_flows: int,
    **further: Any,
) -> None:
    """Meter the packets of interfaces with programs in the kernel and send their flows as IPFIX (RFC 7011) over UDP.

    Needs root. Our own export traffic is left out. Nothing stays attached when it ends.
    """
    operation = Operation.take(further)
    names = _interfaces(interfaces)
    from pyflowx.exporting import ExportConfig, Exporter
    from pyflowx.exportview import ExporterView
    from pyflowx.kernel import Meter, MeterConfig
    from pyflowx.metrics import EXPORTER
    from pyflowx.transport.udp import UdpSender

    host, octets = _collector(collector_host, collector_port)
    config = ExportConfig(active_timeout, inactive_timeout, template_refresh_rate, observation_domain_id, max_flows)
    meter_config = MeterConfig(names, hook, direction, max_flows, ((octets, collector_port),))
    with (
        UdpSender([(host, collector_port)]) as sender,
        Meter(meter_config) as meter,
        Exporter(meter, sender, config) as exporter,
        _signals(exporter),
    ):
        hooks = exporter.start()
        for at in hooks:
            LOG.info(f"metering {at.interface} {at.direction} ({at.hook})")
        targets = list(zip([f"{host}:{collector_port}"], sender.counts, strict=True))
        view = ExporterView(exporter, meter.statistics, targets, hooks, LOG.lines)
        name = f"export-{names[0]}.sock"
        with served(operation, "export", name, EXPORTER, view, view.sections, view.watched):
            exporter.run()
        for line in summary(exporter.counters, meter.statistics(), sender.counts):
            LOG.info(line)
