"""``pyflowx schema``: what flows look like to a program that reads them."""

from __future__ import annotations

import click


@click.command(short_help="Print the columns of flows, or their protobuf schema.")
@click.argument("kind", type=click.Choice(["columns", "protobuf", "goflow2"]), default="columns")
def command(kind: str) -> None:
    """Print what flows are made of.

    \b
    columns    the columns of -f common with their types, in their order
    protobuf   the .proto file of -s protobuf
    goflow2    the fields of GoFlow2's FlowMessage that --schema goflow2 fills
    """
    from pyflowx.common import TABLE
    from pyflowx.sinks.protobuf_schema import proto_text

    if kind == "columns":
        for column in TABLE:
            print(f"{column.name:24}{column.type}{'' if column.nullable else ', never null'}")
        return
    print(proto_text("pyflowx" if kind == "protobuf" else kind), end="")
