"""What a collecting process is made of, and what it says at its end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyflowx.cli.decoding import Decoding
from pyflowx.cli.enriching import summary as summary_of_table
from pyflowx.cli.inputs import Inputs, read_captures
from pyflowx.cli.log import LOG
from pyflowx.cli.outputs import Outputs

if TYPE_CHECKING:
    from pyflowx.collecting import Collector, Source
    from pyflowx.collectview import CollectorView
    from pyflowx.conversion import Conversion
    from pyflowx.enrich.table import Enrichment
    from pyflowx.reload import Reloader
    from pyflowx.sinks import Sink
    from pyflowx.supervising import Supervisor
    from pyflowx.wire import Decoder


class Parts(NamedTuple):
    """What a collecting process is made of."""

    decoder: Decoder
    collector: Collector
    view: CollectorView


def assemble(
    decoding: Decoding,
    inputs: Inputs,
    tables: Sequence[Reloader],
    form: str,
    open_sink: Callable[[Mapping[str, str]], Sink[Any]],
) -> Parts:
    """``open_sink``: makes the sink, from the types of the columns that are added."""
    from pyflowx.collecting import Collector, consume_common
    from pyflowx.collectview import CollectorView
    from pyflowx.recent import RecentFlows, Tap

    enrichments = [table.enrichment for table in tables]
    conversion = conversion_of(decoding, enrichments)
    decoder = decoding.decoder(inputs.accepted)
    sink = open_sink(types_of_added(enrichments, conversion))
    seen = RecentFlows()
    consume = consume_common(Tap(sink, seen), conversion, enrichments) if form == "common" else sink.write
    collector = Collector(decoder, sink, consume)
    view = CollectorView(collector.counters, decoder.templates, sink, tables=tables, log=LOG.lines, flows=seen)
    view.rates = conversion.rates
    return Parts(decoder, collector, view)


def work(collector: Collector, inputs: Inputs, outputs: Outputs, receiver: Source | None) -> None:
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


def conversion_of(decoding: Decoding, enrichments: Sequence[Enrichment]) -> Conversion:
    """What makes flows of records, beside the columns of tables."""
    return decoding.conversion([output for enrichment in enrichments for output in enrichment.spec.outputs])


def types_of_added(enrichments: list[Enrichment], conversion: Conversion) -> dict[str, str]:
    """The columns beside the common ones, with their types, in the order that they have in every output."""
    types = dict(conversion.types())
    for enrichment in enrichments:
        types |= enrichment.types()
    return types


def on_signal(process: Collector | Supervisor) -> None:
    """The first signal ends the collector in good order, a second one at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    process.stop()


def finish(collector: Collector, view: CollectorView) -> None:
    """The summary counts what is written at the very end too."""
    try:
        collector.close()
    finally:
        tell_end(collector)
        summarise(view, [table.enrichment.table.unfit for table in view.tables])


def tell_end(process: Collector | Supervisor) -> None:
    """Why it ended, where nobody asked for it."""
    if process.reader_gone:
        say("the program that read the output has ended, so this is the end")


def summarise(view: CollectorView, unfit: Sequence[int]) -> None:
    """What came in, what went out, what was lost and why. ``unfit``: values of each table that did not fit."""
    from pyflowx.decoded import Reason

    counters, sink, dropped = view.counters, view.sink, view.socket_drops()
    say(f"{counters.datagrams} datagrams, {counters.octets} octets from {len(counters.exporters)} exporters received")
    for protocol, counts in sorted(counters.protocols.items()):
        say(
            f"{protocol.name}: {counts.messages} messages, {counts.flows} flows, {counts.options} options records, "
            f"{counts.templates} Templates"
        )
    say(f"{sink.rows} rows, {sink.octets} octets written" + (f", {sink.lost} rows lost" if sink.lost else ""))
    if failed := getattr(sink, "commands_failed", 0):
        say(f"{failed} times a program of --exec or --expire-exec failed")
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
    for line in view.gate.summary() if view.gate is not None else ():
        say(line)
    for row, values in zip(view.table_rows(), unfit, strict=True):
        say(summary_of_table(row, values))
