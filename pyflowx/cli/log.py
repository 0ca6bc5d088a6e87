"""What is said to the user: on stderr, as text or as JSON lines; a warning that repeats is held back and counted."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO, TypeVar

import click

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
BURST = 3  # of one kind of warning that are said ...
WINDOW_S = 60.0  # ... in such a time
_KINDS = 256  # of warnings that are remembered
_RECENT = 200  # lines that viewers may ask for

_F = TypeVar("_F", bound=Callable[..., Any])


class Line(NamedTuple):
    """What was said; ``number`` counts lines from 1."""

    number: int
    time_ns: int
    level: str
    message: str


@dataclass(slots=True)
class _Repeats:
    begin: float
    said: int = 0
    held_back: int = 0
    last: str = ""


class Log:
    """One a process: :data:`LOG`. May be used by any thread.

    Two warnings are of one kind when they differ only in their numbers. Beyond :data:`BURST` of a kind within
    :data:`WINDOW_S` seconds they are counted; the next one after that time, or :meth:`flush`, says how many.
    """

    def __init__(self, stream: Callable[[], TextIO] = lambda: sys.stderr, clock: Callable[[], float] = time.monotonic):
        self.level, self.format = "info", "text"
        self.recent: deque[Line] = deque(maxlen=_RECENT)
        self.held_back = 0
        """Warnings that were counted and not said, since the start."""
        self.elsewhere: Callable[[str, str], None] | None = None
        """Where another process says what we have to say: takes level and message."""
        self._stream, self._clock = stream, clock
        self._lock = threading.RLock()
        self._number = 0
        self._repeats: OrderedDict[str, _Repeats] = OrderedDict()

    def lines(self) -> list[Line]:
        """The last lines of every level."""
        with self._lock:
            return list(self.recent)

    def say(self, level: str, message: str) -> None:
        """By the name of the level."""
        if level == "warning":
            self.warning(message)
        else:
            self._say(level, message)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody says anything meanwhile: a process that is forked gets a log that is not half-way through a line."""
        with self._lock:
            yield

    def debug(self, message: str) -> None:
        self._say("debug", message)

    def info(self, message: str) -> None:
        self._say("info", message)

    def error(self, message: str) -> None:
        self._say("error", message)

    def warning(self, message: str) -> None:
        if self.elsewhere is not None:
            self.elsewhere("warning", message)
            return
        kind = re.sub(r"\d+", "#", message)
        now = self._clock()
        with self._lock:
            repeats = self._repeats.get(kind)
            if repeats is None or now - repeats.begin >= WINDOW_S:
                if repeats is not None:
                    self._tell(repeats)
                elif len(self._repeats) >= _KINDS:
                    self._tell(self._repeats.popitem(last=False)[1])
                repeats = self._repeats[kind] = _Repeats(now)
                self._repeats.move_to_end(kind)
            if repeats.said >= BURST:
                repeats.held_back += 1
                repeats.last = message
                self.held_back += 1
                return
            repeats.said += 1
        self._say("warning", message)

    def flush(self) -> None:
        """Tell of every warning that was held back."""
        with self._lock:
            for repeats in self._repeats.values():
                self._tell(repeats)
            self._repeats.clear()

    def _tell(self, repeats: _Repeats) -> None:
        if repeats.held_back:
            times = "once more" if repeats.held_back == 1 else f"{repeats.held_back} times more, the last time"
            self._say("warning", f"{times}: {repeats.last}")

    def _say(self, level: str, message: str) -> None:
        if self.elsewhere is not None:
            self.elsewhere(level, message)
            return
        with self._lock:
            self._number += 1
            line = Line(self._number, time.time_ns(), level, message)
            self.recent.append(line)
            if LEVELS.index(level) < LEVELS.index(self.level):
                return
            with suppress(OSError, ValueError):  # nobody reads stderr any more
                print(_json(line) if self.format == "json" else _text(line), file=self._stream(), flush=True)


def _text(line: Line) -> str:
    return f"pyflowx: warning: {line.message}" if line.level == "warning" else f"pyflowx: {line.message}"


def _json(line: Line) -> str:
    import json  # only where it is asked for

    seconds, ns = divmod(line.time_ns, 1_000_000_000)
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns // 1_000_000:03}Z"
    return json.dumps({"time": when, "level": line.level, "message": line.message})


LOG = Log()


def _configure(ctx: click.Context, option: click.Parameter, value: str) -> None:
    setattr(LOG, "level" if option.name == "log_level" else "format", value)


def log_options(command: _F) -> _F:
    """Adds --log-level and --log-format to a command; they take effect by themselves."""
    for name, choices, default, text in (
        ("--log-format", FORMATS, "text", "How messages are written to stderr; json: an object a line."),
        ("--log-level", LEVELS, "info", "The least important messages that are written to stderr."),
    ):
        command = click.option(
            name,
            type=click.Choice(choices),
            default=default,
            show_default=True,
            expose_value=False,
            callback=_configure,
            help=text,
        )(command)
    return command
