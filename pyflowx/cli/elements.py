"""``pyflowx elements``: look up Information Elements."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import click

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.elements import InformationElement, Registry

EPILOG = """
\b
Examples:
  pyflowx elements                        all of them
  pyflowx elements octetDeltaCount        one by name
  pyflowx elements 8                      one by id (IANA), pen/id for a vendor's: 9/12236
  pyflowx elements tcp                    those whose name holds "tcp", in any case
  pyflowx elements --pen 6871             those of CERT
"""


def _search(registry: Registry, word: str | None, pen: int | None) -> list[InformationElement]:
    rows = [element for element in registry if pen is None or element.pen == pen]
    if word is None:
        return rows
    exact = registry.known(pen, int(word)) if pen is not None and word.isdecimal() else registry.by_name(word)
    if exact is not None and pen in (None, exact.pen):
        return [exact]
    return [element for element in rows if word.lower() in element.name.lower()]


def _not_found(registry: Registry, word: str) -> ConfigError:
    close = difflib.get_close_matches(word, [element.name for element in registry], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "try a part of the name; no argument lists them all"
    return ConfigError(f"no Information Element matches {word!r}: {hint}")


@click.command("elements", epilog=EPILOG, short_help="Look up Information Elements.")
@click.argument("word", metavar="[NAME|ID]", required=False)
@click.option("--pen", type=click.IntRange(0), help="Only elements of this private enterprise number (0: IANA).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(word: str | None, pen: int | None, as_json: bool) -> None:
    """Search the Information Elements that pyflowx knows and print them: enterprise number, id, name,
    abstract data type, semantics, units, status.

    The same names are keys in raw output. Reverse elements (RFC 5103) are found by name
    (reverseOctetDeltaCount) or as 29305/ID.
    """
    from pyflowx.elements import default_registry

    registry = default_registry()
    rows = _search(registry, word, pen)
    if not rows:
        raise _not_found(registry, word or f"--pen {pen}")
    if as_json:
        import json

        for row in rows:
            click.echo(json.dumps({**row._asdict(), "data_type": row.data_type.name}))
        return
    table = [("PEN", "ID", "NAME", "TYPE", "SEMANTICS", "UNITS", "STATUS")]
    table += [
        (str(row.pen), str(row.id), row.name, row.data_type.name, row.semantics, row.units or "-", row.status)
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
