"""``pyflowx tui``: watch a running collector or exporter in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx_tui.sources import Source

SCREENS = ("flows", "top", "exporters", "templates", "messages", "metrics", "kernel", "log")

EPILOG = """
\b
Examples:
  pyflowx tui                                  every pyflowx that runs here, one a tab
  pyflowx tui --connect /run/pyflowx/collect-9995.sock
  pyflowx tui -p 9995                          listens itself: no collector is needed
  pyflowx tui --demo                           a made-up network, to look around
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
@click.option("--connect", multiple=True, metavar="PATH", help="Live feed to attach to; repeatable, one a tab.")
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), help="Listen on this UDP port with a collector of our own."
)
@click.option("--demo", is_flag=True, help="A made-up network; needs nothing.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the demo: the same seed, the same network.")
@click.option("--screen", type=click.Choice(SCREENS), default="flows", show_default=True, help="The first to see.")
@click.option("--filter", "query", metavar="FILTER", help="Show only these flows; ? explains it.")
@click.option("--keymap", type=click.Path(path_type=Path), metavar="FILE", help="Keys and theme (TOML).")
@click.option("--theme", help="Colours: textual-dark, nord, gruvbox, ansi-dark (the terminal's 16) and others.")
def command(
    connect: tuple[str, ...],
    port: int | None,
    demo: bool,
    seed: int,
    screen: str,
    query: str | None,
    keymap: Path | None,
    theme: str | None,
) -> None:
    """Watch flows, exporters, Templates and losses of a running collector or exporter, without privilege.

    Without options it attaches to every pyflowx that runs here and may be looked at.
    """
    given = [name for name, value in (("--connect", connect), ("-p", port is not None), ("--demo", demo)) if value]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} each say where flows come from; give one of them")
    _check_terminal()
    from pyflowx_tui.app import PyflowxApp
    from pyflowx_tui.query import Query, QueryError
    from pyflowx_tui.settings import Settings, history_file

    settings = Settings.read(keymap)
    if theme is not None:
        settings = settings.with_theme(theme)
    try:
        Query.parse(query or "")
    except QueryError as error:
        raise ConfigError(f"--filter: {error.message} (at {error.position + 1})") from error
    sources, options = _sources(connect, port, seed if demo else None)
    app = PyflowxApp(sources, settings, history=history_file(), connect=options, screen=screen, filter=query or "")
    try:
        app.run()
    finally:
        for source in sources:
            source.close()
    if app.return_code:
        sys.exit(app.return_code)


def _check_terminal() -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("pyflowx tui needs a terminal; pyflowx top --once prints without one")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise ConfigError("TERM says that this terminal cannot move its cursor; set it, such as TERM=xterm-256color")


def _sources(connect: Sequence[str], port: int | None, seed: int | None) -> tuple[Sequence[Source], Sequence[str]]:
    """The sources, and the options that name them on another command line."""
    if seed is not None:
        from pyflowx_tui.demo import demo_sources

        return demo_sources(seed), ("--demo", "--seed", str(seed))
    from pyflowx_tui.sources import ProcessSource, feed_sources

    if port is not None:
        return [ProcessSource(["-p", str(port)], f"port {port}")], ("-p", str(port))
    return feed_sources(connect), [word for path in connect for word in ("--connect", path)]
