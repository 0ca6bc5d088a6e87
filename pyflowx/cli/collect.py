"""``pyflowx collect``: receive flow export, write flows."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from pyflowx.cli import enriching
from pyflowx.cli.decoding import Decoding, decoding_options
from pyflowx.cli.log import LOG
from pyflowx.cli.operating import Operation, collecting, operation_options
from pyflowx.cli.outputs import Outputs, make_sink, output_options

if TYPE_CHECKING:
    from pyflowx.collecting import Collector
    from pyflowx.conversion import Conversion
    from pyflowx.enrich.table import Enrichment
    from pyflowx.sinks import Sink
    from pyflowx.transport.udp import UdpReceiver

DEFAULT_PORT = 9995
_KEPT_OCTETS = 256 << 20
_LARGEST_COLUMN = 32 << 20  # the most that glibc takes for M_MMAP_THRESHOLD
RECV_BUFFER = 8 << 20  # holds half a second of 10,000 datagrams of 1400 octets a second

EPILOG = """
\b
Examples:
  pyflowx collect -p 9995                          export messages as they are, one JSON line each
  pyflowx collect -p 9995 -f common                flows, one JSON line each
  pyflowx collect -p 6343 -t sflow -f common -o flows.json
  pyflowx collect -H :: -p 4739 -f common | jq .src_addr
  pyflowx collect -f common --enrich source=GeoLite2-City.mmdb,key=src_addr,fields=country.iso_code:src_country
  pyflowx collect -f common --sampling-rate 192.0.2.0/24=1000 --scale --column app=applicationName
  pyflowx collect --ie-mapping ours.csv --template-file templates.json --template-timeout 30m
  pyflowx collect --pcap export.pcap -f common     out of a capture file
  pyflowx collect --pcap export.pcap -f common -s parquet -o flows.parquet
  pyflowx collect -p 9995 -f common -s discard     count only
"""


@click.command(short_help="Receive NetFlow, IPFIX and sFlow; write flows.", epilog=EPILOG)
@click.option("-H", "--host", default="0.0.0.0", show_default=True, help="Address to listen on; :: is IPv6 and IPv4.")  # noqa: S104 # a collector listens
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="UDP port to listen on, 9995 if not given; 0: any.")
@click.option(
    "-t",
    "--type",
    "kind",
    type=click.Choice(["auto", "netflow", "sflow"]),
    default="auto",
    show_default=True,
    help="What to accept; netflow is v1, v5, v7, v9 and IPFIX.",
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["raw", "common"]),
    default="raw",
    show_default=True,
    help="raw: export messages with all they hold; common: flows with the same columns for every protocol.",
)
@output_options
@click.option(
    "--recv-buffer",
    type=click.IntRange(1024),
    default=RECV_BUFFER,
    show_default=True,
    help="Octets that the kernel may queue for us.",
)
@click.option("--enrich", multiple=True, metavar="type=...", help=enriching.HELP)
@decoding_options
@click.option(
    "--pcap",
    multiple=True,
    metavar="FILE",
    help="Read capture files instead of the network, - is stdin; -p narrows to a UDP port.",
)
@operation_options
def command(**options: Any) -> None:
    """Receive NetFlow v5, v9, IPFIX and sFlow v5 on one UDP port and write what they say.

    Ctrl-C ends it: what has arrived is written first, a summary goes to stderr.
    """
    # NumPy would start a thread of OpenBLAS for every core, which takes longer than all the rest of our start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    keep_memory()
    decoding = Decoding(options, options["form"])
    run(decoding=decoding, operation=Operation.take(options), outputs=Outputs.take(options), **options)


def keep_memory() -> None:
    """Tell glibc to keep what a batch's columns took, for the next batch's.

    It would give each column back to the kernel, which then has to clear the pages again: a third of all CPU time.
    """
    import ctypes  # NumPy needs it anyway

    trim_threshold, mmap_threshold = -1, -3  # from malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, _KEPT_OCTETS)
        mallopt(mmap_threshold, _LARGEST_COLUMN)


def run(
    *,
    decoding: Decoding,
    operation: Operation,
    outputs: Outputs,
    host: str,
    port: int | None,
    kind: str,
    form: str,
    recv_buffer: int,
    enrich: tuple[str, ...],
    pcap: tuple[str, ...],
) -> None:
    """The command with its options as arguments."""
    from pyflowx.collecting import Collector, consume_common
    from pyflowx.collectview import CollectorView
    from pyflowx.recent import RecentFlows, Tap

    with enriching.tables_of(enrich, form, say) as tables:
        enrichments = [table.enrichment for table in tables]
        conversion = decoding.conversion([output for enrichment in enrichments for output in enrichment.spec.outputs])
        decoder = decoding.decoder(accepted(kind))
        sink = make_sink(outputs, form, types_of_added(enrichments, conversion))
        seen = RecentFlows()
        consume = consume_common(Tap(sink, seen), conversion, enrichments) if form == "common" else sink.write
        collector = Collector(decoder, sink, consume)
        view = CollectorView(collector.counters, decoder.templates, sink, tables=tables, log=LOG.lines, flows=seen)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: on_signal(collector))
        with closing(collector), decoding.templates_kept(collector, decoder, say):
            if pcap:
                with collecting(operation.on_request(), collector, view, port or 0, form):
                    read_captures(collector, sink, pcap, port, outputs.uses_stdout)
                return
            with listen(host, DEFAULT_PORT if port is None else port, recv_buffer, collector.wake_fd) as receiver:
                view.receivers = [receiver]
                try:
                    with collecting(operation, collector, view, receiver.addresses[0][1], form):
                        collector.run(receiver)
                finally:
                    finish(collector, sink, receiver.dropped)


def read_captures(
    collector: Collector, sink: Sink[Any], paths: tuple[str, ...], port: int | None, stdout_is_used: bool
) -> None:
    """One after the other, each to its end or to what is wrong with it."""
    from pyflowx.cli.progress import Progress
    from pyflowx.transport.capture import CaptureReader

    try:
        for path in paths:
            if collector.is_stopping:
                break
            with CaptureReader(path, port, wake_fd=collector.wake_fd) as reader:
                with Progress(reader, path, stdout_is_used) as source:
                    collector.run(source)
                say(f"{path}: {reader.counters}")
                if reader.problem:
                    say(f"{path}: {reader.problem}")
    finally:
        finish(collector, sink, 0)


def say(message: str) -> None:
    """Everything that is not data goes to stderr."""
    LOG.info(message)


def types_of_added(enrichments: list[Enrichment], conversion: Conversion) -> dict[str, str]:
    """The columns beside the common ones, with their types, in the order that they have in every output."""
    types = dict(conversion.types())
    for enrichment in enrichments:
        types |= enrichment.types()
    return types


def accepted(kind: str) -> frozenset[Any]:
    """The protocols of ``--type``."""
    from pyflowx.decoded import Protocol

    sflow = frozenset({Protocol.SFLOW_V5})
    return {"auto": frozenset(Protocol), "sflow": sflow, "netflow": frozenset(Protocol) - sflow}[kind]


def listen(host: str, port: int, recv_buffer: int, wake_fd: int) -> UdpReceiver:
    from pyflowx.transport.udp import UdpReceiver

    receiver = UdpReceiver([(host, port)], recv_buffer=recv_buffer, wake_fd=wake_fd)
    for address, number in receiver.addresses:
        say(f"listening on {address} UDP port {number}")
    if receiver.warning:
        say(receiver.warning)
    return receiver


def on_signal(collector: Collector) -> None:
    """The first signal ends the collector in good order, a second one at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    collector.stop()


def finish(collector: Collector, sink: Sink[Any], dropped: int) -> None:
    """The summary counts what is written at the very end too."""
    try:
        collector.close()
    finally:
        summarise(collector, sink, dropped)


def summarise(collector: Collector, sink: Sink[Any], dropped: int) -> None:
    """What came in, what went out, what was lost and why."""
    from pyflowx.decoded import Reason

    counters = collector.counters
    say(f"{counters.datagrams} datagrams, {counters.octets} octets from {len(counters.exporters)} exporters received")
    for protocol, counts in sorted(counters.protocols.items()):
        say(
            f"{protocol.name}: {counts.messages} messages, {counts.flows} flows, {counts.options} options records, "
            f"{counts.templates} Templates"
        )
    say(f"{sink.rows} rows, {sink.octets} octets written" + (f", {sink.lost} rows lost" if sink.lost else ""))
    found = [f"{reason.name} {counters.problems[reason]}" for reason in Reason if counters.problems[reason]]
    if found:
        say("problems: " + ", ".join(found))
    if dropped:
        say(
            f"{dropped} datagrams were dropped by the kernel because its buffer was full; "
            "give more with --recv-buffer (without root: sysctl -w net.core.rmem_max=... first)"
        )
