"""Where the files of a tree are: windows of time, folders, names, and commands that are told of a file."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass

from pyflowx.errors import ConfigError

LEVELS = ("none", "day", "hour", "five minutes")  # of folders
_FOLDERS = ("%Y-%m-%d", "%H", "%M")
_HIVE = ("date=%Y-%m-%d", "hour=%H", "minute=%M")
_NAME = "%Y%m%dT%H%M%SZ"
_MINUTES = 5


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of files by the start of their window, all in UTC.

    ``interval_s``: windows begin at multiples of it since 1970. ``level``: 0 no folders, 1 one a day, 2 then one an
    hour, 3 then one for five minutes; ``hive``: folders called ``date=2026-11-05/hour=18/minute=30``. ``part``: behind
    the time, what tells the files of several processes apart.
    """

    interval_s: int
    level: int = 0
    prefix: str = "flows-"
    hive: bool = False
    part: str = ""

    def start_of(self, ns: int) -> int:
        """The start of the window that a time is in, in seconds since 1970."""
        return ns // 1_000_000_000 // self.interval_s * self.interval_s

    def path(self, start: int, suffix: str) -> str:
        """Of the file of a window, below the root of the tree."""
        folder = time.gmtime(start // (60 * _MINUTES) * 60 * _MINUTES)
        parts = [time.strftime(part, folder) for part in (_HIVE if self.hive else _FOLDERS)[: self.level]]
        name = self.prefix + time.strftime(_NAME, time.gmtime(start)) + self.part
        return "/".join([*parts, name + suffix])


class CommandLine:
    """A program and its arguments, with places that a file fills in.

    ``%f``: its path, ``%p``: its path below the root of the tree, ``%t``: the start of its window
    (``2026-11-05T18:30:00Z``), ``%u``: the same in seconds since 1970, ``%%``: a percent sign. No shell reads it.
    """

    _PLACES = re.compile("%(.?)", re.DOTALL)

    def __init__(self, option: str, text: str) -> None:
        try:
            self._words = shlex.split(text)
        except ValueError as error:
            raise ConfigError(f"{option} {text}: {error}; expected a program and its arguments") from error
        if not self._words:
            raise ConfigError(f"{option}: expected a program and its arguments, such as 'gzip %f'")
        for place in self._PLACES.findall(text):
            if place not in tuple("fptu%"):
                raise ConfigError(f"{option} {text}: %{place} has no meaning; expected %f, %p, %t, %u or %%")

    def fill(self, root: str, path: str, start: int) -> list[str]:
        """The words for a file: its path below ``root``, the start of its window."""
        values = {
            "f": f"{root}/{path}",
            "p": path,
            "t": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)),
            "u": str(start),
            "%": "%",
        }
        return [self._PLACES.sub(lambda match: values[match[1]], word) for word in self._words]
