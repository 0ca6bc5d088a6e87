"""``pyflowx collect``: receive flow export, write flows."""

from __future__ import annotations

import signal
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import click

from pyflowx.cli import enriching
from pyflowx.cli.decoding import Decoding, decoding_options
from pyflowx.cli.gating import Gating, RunningGate, gated, gating_options
from pyflowx.cli.inputs import Inputs, input_options, open_receiver, read_captures
from pyflowx.cli.log import LOG
from pyflowx.cli.numeric import prepare_numpy
from pyflowx.cli.operating import Operation, collecting, operation_options
from pyflowx.cli.outputs import Outputs, make_sink, output_options

if TYPE_CHECKING:
    from pyflowx.collecting import Collector, Source
    from pyflowx.conversion import Conversion
    from pyflowx.enrich.table import Enrichment
    from pyflowx.sinks import Sink
    from pyflowx.transport.udp import UdpReceiver


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
  pyflowx collect -f common -s parquet -o /srv/flows --interval 5m --hive --expire 30d
  pyflowx collect -I netflow://0.0.0.0:2055 -I sflow://0.0.0.0:6343 -f common
  pyflowx collect -p 9995 -f common -s discard     count only
  pyflowx collect -p 9995 --xdp eth0               count in the kernel what is no export message
  pyflowx collect -p 9995 --xdp eth0 --xdp-mode enforce --allow 192.0.2.0/24 --rate-limit 5000
"""


@click.command(short_help="Receive NetFlow, IPFIX and sFlow; write flows.", epilog=EPILOG)
@input_options
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
@click.option("--enrich", multiple=True, metavar="type=...", help=enriching.HELP)
@decoding_options
@gating_options
@operation_options
def command(**options: Any) -> None:
    """Receive NetFlow v5, v9, IPFIX and sFlow v5 on one UDP port and write what they say.

    Ctrl-C ends it: what has arrived is written first, a summary goes to stderr.
    """
    prepare_numpy()
    decoding = Decoding(options, options["form"])
    taken = Inputs.take(options), Outputs.take(options), Operation.take(options), Gating.take(options)
    run(decoding, *taken, **options)


def run(
    decoding: Decoding,
    inputs: Inputs,
    outputs: Outputs,
    operation: Operation,
    gating: Gating,
    *,
    form: str,
    enrich: tuple[str, ...],
) -> None:
    """The command with its options as arguments."""
    from pyflowx.collecting import Collector, consume_common
    from pyflowx.collectview import CollectorView
    from pyflowx.recent import RecentFlows, Tap

    with ExitStack() as stack:
        gate = stack.enter_context(gated(gating, inputs))
        tables = stack.enter_context(enriching.tables_of(enrich, form, say))
        enrichments = [table.enrichment for table in tables]
        conversion = decoding.conversion([output for enrichment in enrichments for output in enrichment.spec.outputs])
        decoder = decoding.decoder(inputs.protocols)
        sink = make_sink(outputs, form, types_of_added(enrichments, conversion))
        seen = RecentFlows()
        consume = consume_common(Tap(sink, seen), conversion, enrichments) if form == "common" else sink.write
        collector = stack.enter_context(closing(Collector(decoder, sink, consume)))
        view = CollectorView(collector.counters, decoder.templates, sink, tables=tables, log=LOG.lines, flows=seen)
        view.rates = conversion.rates
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: on_signal(collector))
        stack.enter_context(decoding.templates_kept(collector, decoder, say))
        receiver = open_receiver(stack, inputs, collector.wake_fd)
        view.receivers = [receiver] if receiver else []
        view.gate = gate.view if gate is not None else None
        port = receiver.addresses[0][1] if receiver else inputs.capture_port or 0
        try:
            with collecting(operation if receiver else operation.on_request(), collector, view, port, form):
                if gate is not None and receiver is not None:
                    gate.start(receiver.addresses)
                    collector.each_second.append(gate.watch)
                work(collector, inputs, outputs, receiver)
        finally:
            finish(collector, sink, receiver.dropped if receiver else 0, gate)


def work(collector: Collector, inputs: Inputs, outputs: Outputs, receiver: UdpReceiver | None) -> None:
    """Capture files first, then the network until the end."""

    def windowed(source: Source) -> Source:
        if outputs.interval_s is None:
            return source
        from pyflowx.transport.windows import Windowed

        return Windowed(source, outputs.interval_s)

    if inputs.captures:
        read_captures(collector, inputs, receiver, windowed, outputs.uses_stdout)
    if receiver is not None:
        collector.run(windowed(receiver))


def say(message: str) -> None:
    """Everything that is not data goes to stderr."""
    LOG.info(message)


def types_of_added(enrichments: list[Enrichment], conversion: Conversion) -> dict[str, str]:
    """The columns beside the common ones, with their types, in the order that they have in every output."""
    types = dict(conversion.types())
    for enrichment in enrichments:
        types |= enrichment.types()
    return types


def on_signal(collector: Collector) -> None:
    """The first signal ends the collector in good order, a second one at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    collector.stop()


def finish(collector: Collector, sink: Sink[Any], dropped: int, gate: RunningGate | None) -> None:
    """The summary counts what is written at the very end too."""
    try:
        collector.close()
    finally:
        summarise(collector, sink, dropped)
        for line in gate.view.summary() if gate is not None else ():
            say(line)


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
    if lost := counters.sequences.total().lost:
        say(f"{lost} records or packets never came, by the sequence numbers of their exporters")
    if dropped:
        say(
            f"{dropped} datagrams were dropped by the kernel because its buffer was full; "
            "give more with --recv-buffer (without root: sysctl -w net.core.rmem_max=... first)"
        )
