"""Exporters, Templates, Messages, Metrics, Kernel, Log: what they show of the demo, their keys, hostile text."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyflowx_tui.app import VIEWS, PyflowxApp
from pyflowx_tui.demo import FIXED_NS, demo_sources
from pyflowx_tui.demonetwork import NS
from pyflowx_tui.plots import braille, nice_top, resample
from pyflowx_tui.record import ReplaySource
from pyflowx_tui.screens.exporters import ExportersView
from pyflowx_tui.screens.messages import MessagesView
from pyflowx_tui.screens.metrics import SERIES, Series, values_of
from pyflowx_tui.sources import ListSource, Source
from textual.pilot import Pilot

Drive = Callable[..., PyflowxApp]
Screen = Callable[[PyflowxApp], str]
HOSTILE = "\x1b[31mred\x1b]0;owned\x07\x9b2J\u202egnp\u200b\r\n\x00"


@pytest.fixture(scope="session")
def shown() -> Screen:
    """The terminal's lines as one text."""

    def text(app: PyflowxApp) -> str:
        width, height = app.size
        strips = app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip)[:width] for strip in strips[:height])

    return text


async def find(app: PyflowxApp, pilot: Pilot[None], column: str, value: Any) -> None:
    """The cursor of the view's table to a row."""
    table: Any = app.view.table  # type: ignore[attr-defined]
    values = list(table.rows.columns[column])
    order = list(range(len(values))) if table.rows.order is None else table.rows.order.tolist()
    table.move_cursor(next(place for place, row in enumerate(order) if values[row] == value))
    await pilot.pause()


def test_exporters(drive: Drive, shown: Screen) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        await find(app, pilot, "exporter", "2001:db8::5")
        text = shown(app)
        assert "1m33s behind ours" in text and "111 lost" in text and "nobody tells a rate" in text
        await find(app, pilot, "exporter", "192.0.2.2")
        assert "1 in 100, told in options data" in shown(app) and "right, as far as" in shown(app)
        await find(app, pilot, "exporter", "203.0.113.66")
        await pilot.press("enter")
        await pilot.pause()
        assert "bad_set_length" in shown(app) and app.view.has_class("-full")
        await pilot.press("escape")
        assert not app.view.has_class("-full") and app.focused is app.view.table  # type: ignore[attr-defined]

    drive(steps, size=(100, 40), screen="exporters")


def test_exporters_can_be_filtered_and_sorted(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        view = app.view
        assert isinstance(view, ExportersView)
        await pilot.press("slash", *"lost>0", "enter")
        await pilot.pause()
        rows = view.table.rows
        assert {rows.key(place) for place in range(len(rows))} == {"2001:db8::5", "192.0.2.6"}
        await pilot.press("escape")
        view.sort_by("lost")
        assert rows is not view.table.rows and view.table.rows.key(0) == "2001:db8::5"

    drive(steps, screen="exporters")


def test_templates(drive: Drive, shown: Screen) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        await find(app, pilot, "kind", "missing")
        assert "60 Data Sets wait for it" in shown(app)
        await find(app, pilot, "redefined", 1)
        text = shown(app)
        assert "Redefined  24s ago" in text and "… 15 fields as before" in text
        assert "+ " in text and "sourceIPv4PrefixLength" in text

    drive(steps, size=(100, 44), screen="templates")


def test_messages(drive: Drive, shown: Screen) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        view = app.view
        assert isinstance(view, MessagesView)
        await find(app, pilot, "reason", "UNKNOWN_VERSION")
        assert "✗ UNKNOWN_VERSION: of no version" in shown(app)
        await find(app, pilot, "exporter", "192.0.2.3")
        await pilot.press("enter")
        await pilot.pause()
        assert app.focused is view.octets.fields
        before = view.octets.hex._shown
        await pilot.press("down", "down")
        await pilot.pause()
        node = view.octets.nodes[2]
        assert (node.name, node.offset, node.length) == ("count", 2, 2)
        assert before != view.octets.hex._shown  # other octets are marked
        marked = [span for span in view.octets.hex._shown[1] if str(span.style) == "reverse"]  # type: ignore[attr-defined]
        assert sum(span.end - span.start for span in marked) == len("00 11")
        await pilot.press("escape")
        assert app.focused is view.table

    drive(steps, size=(120, 40), screen="messages")


def test_messages_stay_where_they_are_when_others_come(demo: Callable[[], list[Source]], drive: Drive) -> None:
    source = demo()[0]
    snapshots = source.poll()
    slow = ListSource(source.name, source.hello or {}, snapshots[:-1])

    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        view = app.view
        assert isinstance(view, MessagesView)
        await pilot.press("down", "down", "down")
        key, tree = view.table.cursor_key, list(view.octets.nodes)
        slow._queue.append(snapshots[-1])
        while app.state.snapshot is not snapshots[-1]:
            await pilot.pause(0.01)
        await pilot.pause()
        assert view.table.cursor_key == key and view.octets.nodes == tree and view.table.cursor > 3

    drive(steps, sources=[slow], screen="messages")


def test_metrics(drive: Drive, shown: Screen) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        text = shown(app)
        assert "111 records, 5 packets lost" in text and "37 lost" in text and "a larger --recv-buffer" in text
        assert any(0x2801 <= ord(letter) <= 0x28FF for letter in text)
        await pilot.press("right_square_bracket")
        await pilot.pause()
        assert "212 lost" in shown(app) and "Kernel map" in shown(app)

    drive(steps, size=(140, 40), screen="metrics")


def test_kernel(drive: Drive, shown: Screen) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        text = shown(app)
        assert "not_allowed 180" in text and "37" in text and "4714" in text
        await pilot.press("right_square_bracket")
        await pilot.pause()
        text = shown(app)
        assert "52% of 16.4k" in text and "83ns" in text and "Connection refused" in text and "ingress" in text

    drive(steps, size=(140, 40), screen="kernel")


def test_what_is_not_there_says_how_to_have_it(demo: Callable[[], list[Source]], drive: Drive, shown: Screen) -> None:
    source = demo()[0]
    bare = source.poll()[-1] | {"gate": None, "workers": [], "socket": {"queued": 0, "limit": 0, "dropped": 0}}

    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        text = shown(app)
        assert "pyflowx collect --xdp eth0" in text and "--workers 4" in text and "no socket is read" in text

    drive(steps, sources=[ListSource("bare", source.hello or {}, [bare])], size=(140, 40), screen="kernel")


def test_log(drive: Drive, shown: Screen) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        assert "the table before it stays in use" in shown(app)
        await pilot.press("slash", *"level:warning", "enter")
        await pilot.pause()
        assert app.view.table.rows.key(0) == 5  # type: ignore[attr-defined]

    drive(steps, screen="log")


@pytest.mark.parametrize("place", range(len(VIEWS)), ids=[view.title for view in VIEWS])
def test_every_screen_can_be_the_first(place: int, drive: Drive) -> None:
    """Also before anything has come, and of a process that tells nothing that we know."""

    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter", "escape", "end", "home")
        assert app.view.title == VIEWS[place].title

    sources = [ListSource("strange", {"role": "other"}, [{"number": 1, "time_ns": FIXED_NS}])]
    drive(steps, sources=sources, screen=VIEWS[place].title.lower())


# --- hostile text -----------------------------------------------------------------------------------------------------


def poisoned(value: Any, key: str = "") -> Any:
    """Every text that a peer, a table or a name of this host could have made, hostile."""
    keep = ("stage", "unit", "octets", "address", "exporter", "role", "src_addr", "dst_addr", "sampler_address", "mode")
    if isinstance(value, dict):
        return {name: poisoned(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, key) for each in value]
    return HOSTILE + value if isinstance(value, str) and key not in keep else value


@pytest.mark.parametrize("source", [0, 1], ids=["collect", "export"])
def test_no_text_steers_the_terminal(source: int, demo: Callable[[], list[Source]], drive: Drive) -> None:
    hello = {"role": ("collect", "export")[source]}
    snapshots = [poisoned(copy.deepcopy(snapshot)) for snapshot in demo()[source].poll()[-3:]]
    assert json.dumps(snapshots).count("u202e") > 100

    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        app.states[0].source.message = HOSTILE
        for view in VIEWS:
            await pilot.press(view.key)
            await pilot.pause()
            for keys in ((), ("enter",), ("escape",)):
                await pilot.press(*keys)
                await pilot.pause()
                segments = [segment for strip in app.screen._compositor.render_strips() for segment in strip]
                assert not [s.text for s in segments if not s.control and not s.text.isprintable()], view.title
                assert not [s for s in segments if s.control]

    drive(steps, sources=[ListSource(HOSTILE, hello, snapshots)], size=(150, 40))


# --- recording and playing --------------------------------------------------------------------------------------------


def test_record_and_play(demo: Callable[..., list[Source]], drive: Drive, tmp_path: Path) -> None:
    live = demo(60)[0]
    snapshots = live.poll()
    feed = ListSource(live.name, live.hello or {}, snapshots[:10])

    async def record(app: PyflowxApp, pilot: Pilot[None]) -> None:
        app.folder = tmp_path
        await pilot.press("R")
        assert app.states[0].recorder is not None
        feed._queue.extend(snapshots[10:])
        while app.state.snapshot is not snapshots[-1]:
            await pilot.pause(0.01)
        await pilot.pause()
        await pilot.press("R")
        assert app.states[0].recorder is None

    drive(record, sources=[feed])
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("pyflowx-demo-collector-") and path.name.endswith(".ndjson.zst")
    now = [0.0]
    source = ReplaySource(path, lambda: now[0])
    assert len(source.recording) == 51 and source.recording[0] == json.loads(json.dumps(snapshots[9]))

    async def play(app: PyflowxApp, pilot: Pilot[None]) -> None:
        await pilot.press("full_stop", "full_stop")
        assert source.position_s == 20
        await pilot.press("comma")
        assert source.position_s == 10
        await pilot.press("greater_than_sign", "space")
        assert source.speed == 2.0 and source.is_paused
        await pilot.press("space", "less_than_sign")
        assert source.speed == 1.0 and not source.is_paused
        while app.state.snapshot.get("number") != 20:
            await pilot.pause(0.01)

    drive(play, sources=[source])


def test_the_end_of_the_application_ends_a_recording(
    demo: Callable[[], list[Source]], drive: Drive, tmp_path: Path
) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        app.folder = tmp_path
        await pilot.press("R")

    drive(steps)
    (path,) = tmp_path.iterdir()
    assert len(ReplaySource(path).recording) == 1


def test_keys_of_recordings_do_nothing_elsewhere(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        await pilot.press("space", "comma", "full_stop", "less_than_sign", "greater_than_sign")
        assert app.check_action("seek", (1,)) is False and app.check_action("play", ()) is False

    drive(steps)


def test_a_folder_that_may_not_be_written_to(drive: Drive, tmp_path: Path) -> None:
    async def steps(app: PyflowxApp, pilot: Pilot[None]) -> None:
        app.folder = tmp_path / "none"
        await pilot.press("R")
        await pilot.pause()
        assert app.states[0].recorder is None
        assert "may be written to" in str(next(iter(app._notifications)).message)

    drive(steps)


# --- plots ------------------------------------------------------------------------------------------------------------


def test_plots() -> None:
    assert braille([1, 2, 3, 4], 2, 1, 4) == ["⣠⣾"]
    assert braille([0, None, 8, 8], 2, 2, 8) == ["⠀⣿", "⠀⣿"]
    assert braille([0.001, 0], 1, 1, 100) == ["⡀"]  # what is not nothing can be seen
    assert resample([1, 2, 3], 5) == [None, None, 1, 2, 3] and resample([1, 5, 2, 3], 2) == [5, 3]
    assert [nice_top([value]) for value in (0.0, 3, 99, 100, 0.012, None)] == [1, 5, 100, 100, 0.02, 1]


def test_rates_of_plots() -> None:
    flows = next(series for series in SERIES["collect"] if series.title == "Flows")
    past = [{"time_ns": FIXED_NS + second * NS, "counters": {"flows": n}} for second, n in enumerate([0, 10, 30, 5, 6])]
    assert values_of(past, flows) == [10, 20, None, 1]  # it began anew
    assert values_of([], flows) == []
    assert values_of([{"time_ns": FIXED_NS, "counters": {}}] * 2, flows) == [None]
    level = Series("x", "", "", lambda each: float(each["counters"]["flows"]), is_count=False)
    assert values_of(past, level) == [0, 10, 30, 5, 6]


def test_every_series_is_in_the_demo() -> None:
    for source, role in zip(demo_sources(1, FIXED_NS, 5), ("collect", "export"), strict=True):
        past = source.poll()
        for series in SERIES[role]:
            found = values_of(past, series)
            assert found and None not in found, series.title
