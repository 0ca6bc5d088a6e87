"""Every screen at three widths, as a picture, with the seeded demo. ``pytest tests/tui --snapshot-update`` makes them
anew; look at them before you commit them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyflowx_tui.app import VIEWS, PyflowxApp
from pyflowx_tui.settings import Settings
from pytest_textual_snapshot import SVGImageExtension
from syrupy import SnapshotAssertion
from textual.pilot import Pilot

Drive = Callable[..., PyflowxApp]
HEIGHT = 24
OPENED = {"detail": ["enter"], "help": ["?"], "export": ["e"], "sort": ["s"], "pairs": ["b"]}
OPENED |= {"filter": ["/", *"src:10/8 por"]}


@pytest.fixture
def picture(snapshot: SnapshotAssertion) -> Callable[[PyflowxApp, str], bool]:
    pictures = snapshot.use_extension(SVGImageExtension)
    return lambda app, name: bool(app.export_screenshot(simplify=True) == pictures(name=name))


@pytest.mark.parametrize("width", [80, 120, 160])
def test_screens(width: int, drive: Drive, picture: Callable[[PyflowxApp, str], bool]) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        different = []
        for view in VIEWS:
            await pilot.press(view.key)
            await pilot.pause()
            if not picture(app, view.title.lower()):
                different.append(view.title)
        assert not different

    drive(steps, size=(width, HEIGHT), seconds=60)


def test_what_keys_open(drive: Drive, picture: Callable[[PyflowxApp, str], bool]) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        different = []
        for name, keys in OPENED.items():
            await pilot.press(*keys)
            await pilot.pause()
            if not picture(app, name):
                different.append(name)
            await pilot.press("escape")
        assert not different

    drive(steps, size=(100, HEIGHT), seconds=60)


@pytest.mark.parametrize("theme", ["ansi-dark", "textual-light"])
def test_themes(theme: str, drive: Drive, picture: Callable[[PyflowxApp, str], bool]) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        assert picture(app, "top")

    drive(steps, size=(80, HEIGHT), settings=Settings(theme=theme), screen="top")


def test_no_color(drive: Drive, picture: Callable[[PyflowxApp, str], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR (no-color.org): shades of grey."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        assert picture(app, "top")

    drive(steps, size=(80, HEIGHT), screen="top")
