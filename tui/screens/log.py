"""The screen Log: what the process has said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from textual.content import Content

from .. import text
from ..panels import SplitView, heading, line
from ..state import State
from ..table import ColumnSpec, Rows
from .exporters import many, texts

_STYLES = {"error": "bad", "warning": "warn", "info": "text", "debug": "dim"}


def clock(ns: int) -> str:
    """``14:03:09``, UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(ns // 1_000_000_000))


def levels(values: Any) -> list[str]:
    return [_STYLES.get(value, "text") for value in values]


class LogView(SplitView):
    title: ClassVar[str] = "Log"
    key: ClassVar[str] = "8"
    about: ClassVar[str] = (
        "The last lines that the process has said, the newest first. Filter: level:warning, message~loss."
    )
    empty: ClassVar[str] = "Nothing has been said yet"
    fixed: ClassVar[int] = 0
    default_sort: ClassVar[tuple[str, bool] | None] = ("number", True)
    specs: ClassVar[Sequence[ColumnSpec]] = (
        ColumnSpec("number", "#", 5, align="right", style="dim"),
        ColumnSpec("time_ns", "UTC", 8, render=many(clock), style="dim"),
        ColumnSpec("level", "Level", 7, render=texts, style=levels),
        ColumnSpec("message", "Message", 40, 20, render=texts, flex=1),
    )

    def rows(self, state: State) -> Rows:
        found: Sequence[Sequence[Any]] = state.section("log", ())
        numbers = np.array([each[0] for each in found], np.int64)
        columns = {
            "number": numbers,
            "time_ns": np.array([each[1] for each in found], np.int64),
            "level": [str(each[2]) for each in found],
            "message": [str(each[3]) for each in found],
        }
        return Rows(columns, numbers)

    def about_row(self, state: State, row: int) -> Sequence[Content]:
        number, time_ns, level, message = state.section("log", ())[row]
        ago = text.age(max(0, int(state.snapshot.get("time_ns", 0)) - time_ns))
        style = {"error": "$text-error", "warning": "$text-warning"}.get(level, "")
        date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ns // 1_000_000_000))
        return [heading(f"{level} {number}", f"{date}, {ago} ago"), line((str(message), style))]
