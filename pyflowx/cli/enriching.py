"""``--enrich`` of ``pyflowx collect``: tables that are loaded before the first flow, and kept up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyflowx.cli.log import LOG
from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.reload import Reloader

HELP = (
    "Add columns from a table (CSV, .mmdb, or a program that prints CSV), for example "
    "source=asn.csv,key=dst_addr,fields=asn:dst_asn;org:dst_org,reload=30s; repeatable."
)


def open_all(options: Sequence[str], form: str, say: Callable[[str], None]) -> list[Reloader]:
    """The tables of the options, loaded."""
    if not options:
        return []
    if form != "common":
        raise ConfigError(f"--enrich adds columns to flows, and -f {form} writes none: give -f common")
    from pyflowx.reload import open_tables

    return open_tables(options, say, LOG.warning)


@contextmanager
def kept(tables: Sequence[Reloader]) -> Iterator[None]:
    """Loaded again when it is time to, while flows pass."""
    for table in tables:
        table.start()
    try:
        yield
    finally:
        for table in tables:
            table.stop()


def summary(row: Mapping[str, Any], unfit: int) -> str:
    """Of a table: its row in the live feed, and the values that did not fit."""
    found = f"{row['source']}: {row['matched']} of {row['looked_up']} look-ups found"
    if row["reloads"] or row["failures"]:
        found += f", loaded again {row['reloads']} times, failed {row['failures']} times"
    if unfit:
        found += f", {unfit} values unfit"
    return found
