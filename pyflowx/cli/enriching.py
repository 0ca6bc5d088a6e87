"""``--enrich`` of ``pyflowx collect``: tables that are loaded before the first flow, and kept up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.reload import Reloader

HELP = (
    "Add columns from a table (CSV, .mmdb, or a program that prints CSV), for example "
    "source=asn.csv,key=dst_addr,fields=asn:dst_asn;org:dst_org,reload=30s; repeatable."
)


@contextmanager
def tables_of(options: Sequence[str], form: str, say: Callable[[str], None]) -> Iterator[list[Reloader]]:
    """The tables of the options while flows pass; at the end ``say`` tells what was found in them."""
    if not options:
        yield []
        return
    if form != "common":
        raise ConfigError(f"--enrich adds columns to flows, and -f {form} writes none: give -f common")
    from pyflowx.reload import open_tables

    tables = open_tables(options, say)
    for table in tables:
        table.start()
    try:
        yield tables
    finally:
        for table in tables:
            table.stop()
            say(_summary(table))


def _summary(table: Reloader) -> str:
    enrichment, counts = table.enrichment, table.counts
    found = f"{enrichment.spec.name}: {enrichment.matched} of {enrichment.looked_up} look-ups found"
    if counts.reloads or counts.failures:
        found += f", loaded again {counts.reloads} times, failed {counts.failures} times"
    if enrichment.table.unfit:
        found += f", {enrichment.table.unfit} values unfit"
    return found
