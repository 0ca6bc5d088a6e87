"""``pyflowx top``: who has most, without a screen."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from pyflowx.cli.log import LOG, log_options
from pyflowx.cli.numeric import prepare_numpy
from pyflowx.cli.watching import Watched, watch_options
from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx_tui.headless import Gathering, Question
    from pyflowx_tui.sources import Source

_POLL_S = 0.05
_PATIENCE_S = 10.0  # beyond the interval, for the first snapshot of a feed

EPILOG = """
\b
Examples:
  pyflowx top                                        who sends most, of all processes that run here
  pyflowx top --once -o json -g src_addr,dst_port -n 20 --filter 'proto:tcp and not dst:10/8'
  pyflowx top -c /run/pyflowx/collect-9995.sock -g dst_country
  pyflowx top --pcap export.pcap -g src_net24,dst_net24 -s packets
  pyflowx top -p 9995 -o json | jq '.rows[0]'

\b
-o json: an object with time_ns (of the last snapshot), seconds (that it covers), group, filter, sort, scaled; flows,
bytes and packets of all that passed, of those that were seen (a live feed tells the heaviest flows of each second, at
least 1000) and of those that matched; groups (how many there are) and rows, the first ones: the columns that flows
were grouped by (null: no record had one), bytes, packets, flows, bits_per_second, and share (of what matched, by sort).
"""


@click.command(short_help="Say who has most, of running processes or a capture file.", epilog=EPILOG)
@watch_options
@click.option("--once", is_flag=True, help="Print once; at the end of a capture file or recording.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option(
    "-g",
    "--group",
    default="src_addr",
    show_default=True,
    metavar="COLUMN,...",
    help="What flows are grouped by, one to three: columns of pyflowx schema, src_net24, dst_net24, service.",
)
@click.option("--filter", "filter_", default="", metavar="QUERY", help="Only such flows: 'src:10/8 and port:443'.")
@click.option(
    "-s",
    "--sort",
    type=click.Choice(["bytes", "packets", "flows"]),
    default="bytes",
    show_default=True,
    help="By what.",
)
@click.option("-n", "--rows", type=click.IntRange(1), default=10, show_default=True, help="Groups that are printed.")
@click.option("-x", "--scaled", is_flag=True, help="Octets and packets times the sampling rate.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(1, 86400),
    default=5.0,
    show_default=True,
    help="Seconds of flows that are told; then printed, and begun anew without --once.",
)
@log_options
def command(**options: Any) -> None:
    """Group the flows that a live feed, a collector of its own or a file tells, and print those that have most.

    Ctrl-C ends it. What pyflowx tui shows on its screen Top, for scripts.
    """
    prepare_numpy()
    from pyflowx_tui.headless import Question

    watched = Watched.take(options)
    names = tuple(name.strip() for name in options["group"].split(",") if name.strip())
    question = Question(names, options["filter_"], options["sort"], options["rows"], options["scaled"])
    question.check()
    sources = watched.open(at_once=True)
    is_file = bool(watched.pcap or watched.replay)
    try:
        with suppress(KeyboardInterrupt):
            for gathered in gather(sources, options["interval"], options["once"], is_file):
                show(gathered, question, options["output"], is_first=options["once"])
                if options["once"]:
                    break
    finally:
        for source in sources:
            source.close()


def gather(sources: Sequence[Source], interval_s: float, once: bool, is_file: bool) -> Iterator[Gathering]:
    """Each time enough has come: an interval of snapshots, everything of a file. ConfigError where nothing comes."""
    from pyflowx_tui.headless import Gathering

    gathered, before_ns, heard = Gathering(), dict.fromkeys(range(len(sources)), 0), False
    told: set[str] = set()
    patience = time.monotonic() + interval_s + _PATIENCE_S
    while True:
        states = [source.state for source in sources]  # asked before: what comes then is not missed
        for place, source in enumerate(sources):
            for snapshot in source.poll():
                gathered.add(snapshot, before_ns[place])
                before_ns[place], heard = int(snapshot.get("time_ns", 0)), True
        is_end = all(state in ("ended", "failed") for state in states)
        if not is_end and not heard and time.monotonic() > patience:
            raise ConfigError(f"nothing has come: {sources[0].message or sources[0].name}")
        for source in sources:
            if source.state in ("failed", "stalled", "connecting") and source.message and source.message not in told:
                told.add(source.message)
                LOG.info(source.message)
        awaited = any(
            not before_ns[place] and state in ("live", "connecting") and not sources[place].message
            for place, state in enumerate(states)
        )
        is_whole = not is_file and not awaited and gathered.span_s >= interval_s
        if gathered.snapshots and (is_end or is_whole):
            yield gathered
            gathered = Gathering()
        if is_end:
            _fail(sources, heard)
            return
        time.sleep(_POLL_S)


def _fail(sources: Sequence[Source], heard: bool) -> None:
    failed = [source.message for source in sources if source.state == "failed"]
    if failed and not heard:
        raise ConfigError(failed[0])


def show(gathered: Gathering, question: Question, output: str, is_first: bool) -> None:
    from pyflowx_tui.headless import answer, table

    found = answer(gathered, question)
    if output == "json":
        print(json.dumps(found), flush=True)
        return
    if sys.stdout.isatty() and not is_first:
        click.clear()
    print("\n".join(table(found)), flush=True)
