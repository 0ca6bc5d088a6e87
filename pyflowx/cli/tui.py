"""``pyflowx tui``: watch a running collector or exporter in the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from pyflowx.cli.log import LOG
from pyflowx.cli.watching import Watched, watch_options
from pyflowx.errors import ConfigError

SCREENS = ("flows", "top", "exporters", "templates", "messages", "metrics", "kernel", "log")

EPILOG = """
\b
Examples:
  pyflowx tui                                  every pyflowx that runs here, one a tab
  pyflowx tui --connect /run/pyflowx/collect-9995.sock
  pyflowx tui -p 9995                          listens itself: no collector is needed
  pyflowx tui --pcap export.pcap               the flows in a capture file
  pyflowx tui --replay pyflowx-eth0.ndjson.zst what R has recorded: space stops, , and . jump, < and > change the speed
  pyflowx tui --demo                           a made-up network, to look around
  pyflowx tui -p 9995 --web                    in a browser: http://127.0.0.1:8000/
  pyflowx tui --screen top --filter 'dst:10/8 and not port:443'
\b
Keys: 1-8 screens, / filter, s sort, g group, Enter detail, p pause, e export, : commands, ? help, q quit.
Keys and theme from a file (~/.config/pyflowx/tui.toml, or --keymap FILE):
  theme = "nord"
  [keys]
  filter = "f"
  "show.top" = "2,t"
"""


@click.command("tui", epilog=EPILOG, short_help="Watch flows in the terminal.")
@watch_options
@click.option("--screen", type=click.Choice(SCREENS), default="flows", show_default=True, help="The first to see.")
@click.option("--filter", "query", metavar="FILTER", help="Show only these flows; ? explains it.")
@click.option("--keymap", type=click.Path(path_type=Path), metavar="FILE", help="Keys and theme (TOML).")
@click.option("--theme", help="Colours: textual-dark, nord, gruvbox, ansi-dark (the terminal's 16) and others.")
@click.option("--web", is_flag=True, help="Serve it to a browser; needs pip install 'pyflowx[web]'.")
@click.option(
    "--web-address",
    default="127.0.0.1:8000",
    show_default=True,
    metavar="HOST:PORT",
    help="... there. Who can reach it can steer it: there is no password.",
)
def command(
    screen: str,
    query: str | None,
    keymap: Path | None,
    theme: str | None,
    web: bool,
    web_address: str,
    **options: Any,
) -> None:
    """Watch flows, exporters, Templates and losses of a running collector or exporter, without privilege.

    Without options it attaches to every pyflowx that runs here and may be looked at.
    """
    watched = Watched.take(options)
    if not web:
        _check_terminal()
    from pyflowx_tui.app import PyflowxApp, run
    from pyflowx_tui.query import Query, QueryError
    from pyflowx_tui.settings import Settings, history_file

    settings = Settings.read(keymap)
    if theme is not None:
        settings = settings.with_theme(theme)
    try:
        Query.parse(query or "")
    except QueryError as error:
        raise ConfigError(f"--filter: {error.message} (at {error.position + 1})") from error
    if web:
        given = (("--screen", screen), ("--filter", query), ("--keymap", keymap), ("--theme", theme))
        _serve(web_address, watched, [word for name, value in given if value for word in (name, str(value))])
        return
    sources, words = watched.open(), watched.arguments()
    app = PyflowxApp(sources, settings, history=history_file(), connect=words, screen=screen, filter=query or "")
    try:
        run(app)
    finally:
        for source in sources:
            source.close()
    if app.return_code:
        sys.exit(app.return_code)


def _serve(address: str, watched: Watched, arguments: list[str]) -> None:
    """Each page is a process of its own; what listens to the network is one for all of them."""
    from pyflowx_tui.web import is_loopback, serve

    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"--web-address {address}: expected a host and a port, such as 127.0.0.1:8000 or [::1]:8000")
    host = host.strip("[]")
    if not is_loopback(host):
        LOG.warning(f"whoever can reach {address} can see this and steer it, files that it writes included")
    sources = watched.open() if watched.collects else []
    try:
        feeds = [word for source in sources for word in ("--connect", str(source.path))]
        serve(host, int(port), [*(feeds or watched.arguments()), *arguments], LOG.info)
    finally:
        for source in sources:
            source.close()


def _check_terminal() -> None:
    if "TEXTUAL_DRIVER" in os.environ:  # a browser's page is the terminal
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("pyflowx tui needs a terminal; pyflowx top --once prints without one")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise ConfigError("TERM says that this terminal cannot move its cursor; set it, such as TERM=xterm-256color")
