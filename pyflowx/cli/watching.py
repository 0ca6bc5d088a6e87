"""The options of ``pyflowx tui`` and ``pyflowx top`` that say what is watched."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx_tui.sources import Source

_F = TypeVar("_F", bound=Callable[..., Any])


def watch_options(command: _F) -> _F:
    """Adds the options to a command."""
    options = (
        click.option(
            "-c",
            "--connect",
            multiple=True,
            metavar="PATH",
            help="The live feed of a running collect or export (its Unix socket); repeatable. All that are found if no "
            "option says what to watch.",
        ),
        click.option(
            "-p", "--port", type=click.IntRange(0, 65535), help="Collect here, on this UDP port. With --pcap: its port."
        ),
        click.option("-H", "--host", help="... on this address only.", metavar="ADDRESS"),
        click.option("--pcap", metavar="FILE", help="The flows in a capture file."),
        click.option("--replay", metavar="FILE", help="A recording that R in pyflowx tui has made."),
        click.option("--demo", is_flag=True, help="A made-up network."),
        click.option("--seed", type=int, default=1, show_default=True, help="... another one."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Watched:
    """The options by their names."""

    connect: tuple[str, ...]
    port: int | None
    host: str | None
    pcap: str | None
    replay: str | None
    demo: bool
    seed: int

    @classmethod
    def take(cls, options: dict[str, Any]) -> Self:
        """Out of those of a command; ConfigError where they do not go together."""
        found = cls(**{field.name: options.pop(field.name) for field in fields(cls)})
        asked = [
            name
            for name, is_asked in (
                ("--connect", bool(found.connect)),
                ("-p", found.collects),
                ("--pcap", bool(found.pcap)),
                ("--replay", bool(found.replay)),
                ("--demo", found.demo),
            )
            if is_asked
        ]
        if len(asked) > 1:
            raise ConfigError(f"{' and '.join(asked)} each say where flows come from; give one of them")
        return found

    @property
    def collects(self) -> bool:
        """Whether we listen ourselves."""
        return (self.port is not None or self.host is not None) and not self.pcap

    def open(self, at_once: bool = False) -> list[Source]:
        """The sources; they are to be closed. ``at_once``: a recording as fast as it can be read."""
        if self.demo:
            from pyflowx_tui.demo import demo_sources

            return [*demo_sources(self.seed)]
        if self.pcap:
            from pyflowx_tui.capture import capture_source

            return [capture_source(self.pcap, self.port)]
        if self.replay:
            from pyflowx_tui.record import ReplaySource

            return [ReplaySource(self.replay, at_once=at_once)]
        return self._running()

    def _running(self) -> list[Source]:
        from pyflowx_tui.sources import ProcessSource, feed_sources

        for path in self.connect:
            if not os.path.exists(path):
                raise ConfigError(f"--connect {path}: nothing is there; pyflowx collect and export say where theirs is")
        if not self.collects:
            return [*feed_sources(self.connect)]
        port = [] if self.port is None else ["-p", str(self.port)]
        host = [] if self.host is None else ["-H", self.host]
        name = f"UDP port {9995 if self.port is None else self.port}"
        return [ProcessSource([*host, *port], name)]

    def arguments(self) -> list[str]:
        """The options again, for a command line."""
        words: list[str] = []
        for path in self.connect:
            words += ["--connect", path]
        for option, value in (("-H", self.host), ("-p", self.port), ("--pcap", self.pcap), ("--replay", self.replay)):
            words += [] if value is None else [option, str(value)]
        return [*words, *(["--demo", "--seed", str(self.seed)] if self.demo else [])]
