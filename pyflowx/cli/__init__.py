"""The command line. This package is the only place that prints or ends the process.

One module a verb; a verb's module, and what it needs, is imported when the verb runs, so that
``pyflowx --help`` answers at once.
"""

from __future__ import annotations

import gc
import importlib
import sys

import click

from pyflowx import __version__
from pyflowx.errors import PyflowxError

# verb -> one line for --help. The module pyflowx.cli.<verb> holds a click command `command`.
VERBS = {
    "collect": "Receive NetFlow, IPFIX and sFlow; write flows.",
    "compile": "Compile the kernel programs, for hosts without a compiler.",
    "doctor": "Say what this host can do, and where flows are lost.",
    "elements": "Look up Information Elements.",
    "export": "Meter an interface in the kernel; send IPFIX.",
    "generate": "Send made-up flows to load a collector.",
    "schema": "Print the columns of flows, or their protobuf schema.",
    "top": "Say who has most, of running processes or a capture file.",
    "tui": "Watch flows in the terminal.",
}

# New objects between two searches for cycles. The usual 700 are many searches while modules are imported, which make
# nothing but objects that stay: a tenth of the time until a verb does its work.
_OBJECTS = 20_000

EPILOG = """
\b
Examples:
  sudo pyflowx export -i eth0 -H 192.0.2.10 -p 4739
  pyflowx collect -p 9995 -f common
  pyflowx generate -p 9995 -r 1000 -n 10000
  pyflowx tui
"""

SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: token.replace("_", "-"),  # --flows_per_packet works too
    "max_content_width": 110,
}


class Verbs(click.Group):
    """Finds a verb's module by its name when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"pyflowx.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(VERBS.items()))


@click.group(cls=Verbs, context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(__version__, "-V", "--version", message="pyflowx %(version)s")
def group() -> None:
    """Network flows from the wire to the screen: export, collect, generate, watch."""


def main() -> None:
    """The entry point: runs a verb and turns our exceptions into a message and an exit status."""
    gc.set_threshold(_OBJECTS)
    try:
        group.main(prog_name="pyflowx", standalone_mode=True)
    except PyflowxError as error:
        from pyflowx.cli.log import LOG

        LOG.error(str(error))
        sys.exit(error.exit_code)
    finally:
        gc.freeze()  # what is alive goes with the process: it need not be searched for cycles first
