"""The user's choices between two runs: keys and theme from a file, the filters that were used."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyflowx.errors import ConfigError

HISTORY = 200  # filters


def config_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "pyflowx", "tui.toml")


def history_file() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "pyflowx", "filters")


@dataclass(frozen=True, slots=True)
class Settings:
    """``keys``: binding's id -> keys, several with commas. ``theme``: its name, empty for the one that suits."""

    keys: Mapping[str, str] = field(default_factory=dict)
    theme: str = ""

    def with_theme(self, theme: str) -> Settings:
        return replace(self, theme=theme)

    @classmethod
    def read(cls, path: Path | None = None) -> Settings:
        """Of a TOML file: ``theme = "nord"``, a table ``[keys]``. Without ``path`` the user's own, if there is one."""
        place = path or config_file()
        try:
            found = tomllib.loads(place.read_text("utf-8"))
        except FileNotFoundError as error:
            if path is None:
                return cls()
            raise ConfigError(f"--keymap {path}: there is no such file") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{place}: {error}") from error
        keys, theme = found.get("keys", {}), found.get("theme", "")
        if not isinstance(keys, dict) or not all(isinstance(value, str) for value in keys.values()):
            raise ConfigError(f'{place}: [keys] has lines such as sort = "o" or "show.flows" = "f1"')
        return cls(_flat(keys), str(theme))


def _flat(keys: Mapping[str, str]) -> dict[str, str]:
    return {str(name): value.replace(" ", "") for name, value in keys.items()}


class History:
    """Filters that were used, the last one last; kept in a file if that is possible."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.lines: list[str] = []
        if path is not None:
            with suppress(OSError, UnicodeError):
                self.lines = path.read_text("utf-8").splitlines()[-HISTORY:]

    def add(self, line: str) -> None:
        if not line or (self.lines and self.lines[-1] == line):
            return
        self.lines = [*(each for each in self.lines if each != line), line][-HISTORY:]
        if self._path is None:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}.part")
            temporary.write_text("\n".join(self.lines) + "\n", "utf-8")
            temporary.replace(self._path)
