"""The demo as sources that are read at once, and an application that is driven by keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pyflowx_tui.app import PyflowxApp
from pyflowx_tui.demo import FIXED_NS, demo_sources
from pyflowx_tui.settings import Settings
from pyflowx_tui.sources import ListSource, Source
from textual.pilot import Pilot

Steps = Callable[[PyflowxApp, "Pilot[None]"], Awaitable[None]]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the terminal of who runs the tests can do makes no difference."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(scope="session")
def demo() -> Callable[..., list[Source]]:
    """The sources of the seeded demo: so many snapshots at once, a minute of them at most."""
    made = [(source.name, source.hello or {}, source.poll()) for source in demo_sources(1, FIXED_NS)]
    return lambda seconds=12: [ListSource(name, hello, found[-seconds:]) for name, hello, found in made]


@pytest.fixture
def make_app(demo: Callable[..., list[Source]]) -> Callable[..., PyflowxApp]:
    def make(sources: list[Source] | None = None, seconds: int = 12, **options: Any) -> PyflowxApp:
        settings = options.pop("settings", Settings(theme="textual-dark"))
        return PyflowxApp(demo(seconds) if sources is None else sources, settings, **options)

    return make


@pytest.fixture
def drive(make_app: Callable[..., PyflowxApp]) -> Callable[..., PyflowxApp]:
    """Runs an application without a terminal, and these steps in it."""

    def run(steps: Steps, *, size: tuple[int, int] = (100, 30), **options: Any) -> PyflowxApp:
        app = make_app(**options)

        async def go() -> None:
            async with app.run_test(size=size) as pilot:
                while app.view.state is None:  # what has come is not shown yet
                    await pilot.pause(0.01)
                await pilot.pause()
                await steps(app, pilot)

        asyncio.run(go())
        return app

    return run


def screen_text(app: PyflowxApp) -> list[str]:
    """The lines that are on the terminal."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip)[:width] for strip in lines[:height]]
