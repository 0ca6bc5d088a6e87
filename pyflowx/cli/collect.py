"""``pyflowx collect``: receive flow export, write flows."""

from __future__ import annotations

import signal
from contextlib import ExitStack, closing
from typing import Any

import click

from pyflowx.cli import enriching, working
from pyflowx.cli.collector import assemble, finish, on_signal, say, work
from pyflowx.cli.compile import programs_option
from pyflowx.cli.decoding import Decoding, decoding_options
from pyflowx.cli.gating import Gating, gated, gating_options
from pyflowx.cli.inputs import Inputs, input_options, open_receiver
from pyflowx.cli.numeric import prepare_numpy
from pyflowx.cli.operating import Operation, collecting, operation_options
from pyflowx.cli.outputs import Outputs, make_sink, output_options

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
  pyflowx collect -p 9995 --xdp eth0 --af-xdp      good datagrams past the network stack
  pyflowx collect -p 9995 -f common --workers auto -s parquet -o /srv/flows --interval 5m
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
@working.workers_option
@output_options
@click.option("--enrich", multiple=True, metavar="type=...", help=enriching.HELP)
@decoding_options
@gating_options
@programs_option
@operation_options
def command(**options: Any) -> None:
    """Receive NetFlow v5, v9, IPFIX and sFlow v5 on one UDP port and write what they say.

    Ctrl-C ends it: what has arrived is written first, a summary goes to stderr.
    """
    prepare_numpy()
    decoding = Decoding(options, options["form"])
    inputs = Inputs.take(options)
    outputs = Outputs.take(options, patient=bool(inputs.addresses))
    run(decoding, inputs, outputs, Operation.take(options), Gating.take(options), **options)


def run(
    decoding: Decoding,
    inputs: Inputs,
    outputs: Outputs,
    operation: Operation,
    gating: Gating,
    *,
    form: str,
    enrich: tuple[str, ...],
    workers: str,
) -> None:
    """The command with its options as arguments."""
    count = working.count_of(workers, inputs)
    with ExitStack() as stack:
        gate = stack.enter_context(gated(gating, inputs))
        tables = enriching.open_all(enrich, form, say)
        if count > 1:
            working.run(working.Setup(decoding, inputs, outputs, operation, gate, form, tables, count))
            return
        stack.enter_context(enriching.kept(tables))
        parts = assemble(decoding, inputs, tables, form, lambda types: make_sink(outputs, form, types))
        collector, view = stack.enter_context(closing(parts.collector)), parts.view
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: on_signal(collector))
        stack.enter_context(decoding.templates_kept(collector, parts.decoder.templates, say))
        receiver = open_receiver(stack, inputs, collector.wake_fd)
        view.receivers = [receiver] if receiver else []
        view.gate = gate.view if gate is not None else None
        port = receiver.addresses[0][1] if receiver else inputs.capture_port or 0
        try:
            with collecting(operation if receiver else operation.on_request(), collector, view, port, form):
                source = gate.before(receiver, collector) if gate is not None and receiver is not None else receiver
                work(collector, inputs, outputs, source)
        finally:
            finish(collector, view)
