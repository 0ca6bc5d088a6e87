"""Makes docs/screenshots/*.svg of the seeded demo: ``make screenshots``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("screenshots")


class Shot(NamedTuple):
    """``source``: 0 the collector, 1 the exporter. ``keys``: pressed on the screen."""

    name: str
    screen: str
    size: tuple[int, int]
    source: int = 0
    keys: tuple[str, ...] = ()


SHOTS = (
    Shot("flows", "flows", (120, 28)),
    Shot("flows-detail", "flows", (120, 30), keys=("down", "enter")),
    Shot("top", "top", (120, 28)),
    Shot("exporters", "exporters", (120, 28), keys=("down", "down")),
    Shot("templates", "templates", (150, 30), keys=("down", "down", "down")),
    Shot("messages", "messages", (150, 36), keys=("down", "enter", *["down"] * 9)),
    Shot("metrics", "metrics", (150, 32)),
    Shot("kernel", "kernel", (120, 26), source=1),
    Shot("log", "log", (100, 20)),
    Shot("top-80x24", "top", (80, 24)),
)


async def take(shot: Shot) -> str:
    """The SVG."""
    from pyflowx_tui.app import PyflowxApp
    from pyflowx_tui.demo import FIXED_NS, demo_sources
    from pyflowx_tui.settings import Settings

    app = PyflowxApp(demo_sources(1, FIXED_NS), Settings(theme="textual-dark"), screen=shot.screen)
    async with app.run_test(size=shot.size) as pilot:
        await pilot.pause()
        if shot.source:
            app.action_source(shot.source)
        await pilot.press(*shot.keys)
        await pilot.pause()
        return app.export_screenshot(title="pyflowx tui")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in ("NO_COLOR", "TEXTUAL_DRIVER"):
        os.environ.pop(name, None)
    os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for shot in SHOTS:
        (FOLDER / f"{shot.name}.svg").write_text(asyncio.run(take(shot)), "utf-8")


if __name__ == "__main__":
    main()
