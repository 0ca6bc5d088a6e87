"""Every key, pressed in the application with the seeded demo."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pyflowx_tui.app import VIEWS, PyflowxApp
from pyflowx_tui.dialogs import DetailScreen, ExportScreen, HelpScreen, Picker
from pyflowx_tui.filterbar import FilterInput
from pyflowx_tui.screens.flows import FlowsView
from pyflowx_tui.screens.top import TopView
from pyflowx_tui.settings import Settings
from pyflowx_tui.sources import ListSource, Source
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

Drive = Callable[..., PyflowxApp]
P = Pilot[None]


def line(app: PyflowxApp, name: str) -> str:
    return str(app.screen_stack[0].query_one(f"#{name}", Static).content)


def flows(app: PyflowxApp) -> FlowsView:
    view = app.views["flows"]
    assert isinstance(view, FlowsView)
    return view


def column(view: Any, name: str) -> np.ndarray:
    """A column as it is shown."""
    rows = view.table.rows
    return np.asarray(rows.columns[name])[rows.at(0, len(rows))]


def test_numbers_show_screens(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        for view in VIEWS:
            await pilot.press(view.key)
            assert app.view.title == view.title
            assert f" {view.key} {view.title} " in line(app, "screens")

    drive(steps)


def test_arrows_move_the_cursor_and_columns(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        table = flows(app).table
        for keys, row in (
            (["down", "down", "j"], 3),
            (["up", "k"], 1),
            (["pagedown"], 1 + table.visible_rows),
            (["pageup"], 1),
            (["end"], len(table.rows) - 1),
            (["home"], 0),
        ):
            await pilot.press(*keys)
            assert table.cursor == row
        await pilot.press("right", "right")
        assert table.scroll_offset.x > 0
        await pilot.press("left", "left")
        assert table.scroll_offset.x == 0

    drive(steps)


def test_the_cursor_stays_with_its_flow(drive: Drive, demo: Callable[..., list[Source]]) -> None:
    source = demo(60)[0]
    snapshots = source.poll()
    feed = ListSource("feed", source.hello or {}, snapshots[:40])

    async def steps(app: PyflowxApp, pilot: P) -> None:
        table = flows(app).table
        await pilot.press("down", "down", "down")
        key, moved = table.cursor_key, set()
        for snapshot in snapshots[40:]:
            feed._queue.append(snapshot)
            app.poll()
            await pilot.pause()
            assert table.cursor_key == key
            moved.add(table.cursor)
        assert len(moved) > 1

    drive(steps, sources=[feed])


def test_filter(drive: Drive, tmp_path: Path) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        view = flows(app)
        everything = len(view.table.rows)
        await pilot.press("/", *"dst_port:44")
        field = app.query_one(FilterInput)
        assert field.has_class("-right")
        await pilot.press("3", "enter")
        assert not app.filter_bar.display
        assert 0 < len(view.table.rows) < everything
        assert set(column(view, "dst_port").tolist()) == {443}
        assert "/dst_port:443" in line(app, "status")
        await pilot.press("escape")
        assert len(view.table.rows) == everything

    drive(steps, history=tmp_path / "filters")
    assert (tmp_path / "filters").read_text() == "dst_port:443\n"


def test_a_wrong_filter_is_shown_as_wrong_and_where(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        everything = len(flows(app).table.rows)
        await pilot.press("/", *"bytes>much ", "enter")
        assert app.filter_bar.display
        assert app.query_one(FilterInput).has_class("-wrong")
        assert "much" in line(app, "filter-hint")
        await pilot.press("escape")
        assert not app.filter_bar.display
        assert len(flows(app).table.rows) == everything
        assert app.focused is flows(app).table

    drive(steps)


def test_completion_and_history_of_filters(drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "filters").write_text("proto:udp\nproto:tcp\n")

    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("/", *"sampler", "tab")
        field = app.query_one(FilterInput)
        assert field.value == "sampler_address:"
        field.value = ""
        await pilot.press(*"src_", "tab")
        first = field.value
        await pilot.press("tab")
        assert first.startswith("src_") and field.value.startswith("src_") and field.value != first
        await pilot.press("shift+tab")
        assert field.value == first
        await pilot.press("up")
        assert field.value == "proto:tcp"
        await pilot.press("up", "up")
        assert field.value == "proto:udp"
        await pilot.press("down", "down", "down")
        assert field.value == ""

    drive(steps, history=tmp_path / "filters")


def test_sort_and_the_other_way(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        view = flows(app)
        rates = column(view, "rate")
        assert (np.diff(rates) <= 0).all()
        await pilot.press("S")
        assert (np.diff(column(view, "rate")) >= 0).all()
        await pilot.press("s", *"dst_port", "enter")
        assert view.sorted_by() == ("dst_port", True)
        assert (np.diff(column(view, "dst_port").astype(int)) <= 0).all()
        await pilot.press("s", "escape")
        assert view.sorted_by() == ("dst_port", True)

    drive(steps)


def test_a_click_sorts_and_selects(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        view = flows(app)
        await pilot.click(view.table, offset=(25, 0))  # the title of the port
        assert view.sorted_by() == ("src_port", True)
        await pilot.click(view.table, offset=(25, 0))
        assert view.sorted_by() == ("src_port", False)
        await pilot.click(view.table, offset=(25, 4))
        assert view.table.cursor == 3
        await pilot.click(view.table, offset=(25, 4), times=2)
        assert isinstance(app.screen, DetailScreen)
        await pilot.press("escape")
        await pilot.click("#screens", offset=(12, 0))
        assert app.view.title == "Top"

    drive(steps)


def test_group_by_up_to_three(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("2")
        view = app.view
        assert isinstance(view, TopView)
        by_source = len(view.table.rows)
        await pilot.press("g")
        assert isinstance(app.screen, Picker)
        await pilot.press("space", *"protocol", "space")  # the source goes, the protocol comes
        await pilot.press(*["backspace"] * 8, *"exporter", "space", "enter")
        assert view.by == ("proto", "sampler_address")
        assert 1 < len(view.table.rows) < by_source
        assert column(view, "flows").sum() == len(app.state.store)
        assert column(view, "percent").sum() == pytest.approx(1)
        await pilot.press("g", *"dst_country", "enter")
        assert view.by == ("proto", "sampler_address", "dst_country")

    drive(steps)


def test_enter_on_a_group_shows_its_flows_and_esc_leads_back(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("2", "down", "enter")
        top = app.views["top"]
        assert app.view is flows(app)
        source = top.table.rows.columns["src_addr"][top.table.cursor_row]  # type: ignore[attr-defined]
        assert (column(app.view, "src_addr") == source).all()
        assert len(flows(app).table.rows) == column(top, "flows")[1]
        await pilot.press("escape", "escape")
        assert app.view is top

    drive(steps)


def test_detail_has_every_element(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("/", *"type:IPFIX proto:tcp", "enter", "enter")
        detail = app.screen
        assert isinstance(detail, DetailScreen)
        facts = {fact.name: fact for fact in detail.facts}
        source = facts["sourceIPv4Address"] if "sourceIPv4Address" in facts else facts["sourceIPv6Address"]
        assert source.number in ("8", "27") and source.length in ("4", "16")
        assert len(bytes.fromhex(source.octets)) == int(source.length)
        assert facts["protocolIdentifier"].meaning == "TCP"
        assert bytes.fromhex(facts["protocolIdentifier"].octets) == b"\x06"
        assert int.from_bytes(bytes.fromhex(facts["octetDeltaCount"].octets)) == int(facts["octetDeltaCount"].value)
        await pilot.press("y")
        assert "protocolIdentifier" in app.clipboard
        await pilot.press("escape")
        assert app.view is flows(app) and len(app.screen_stack) == 1

    drive(steps)


def test_pause_stops_the_view_only(drive: Drive, demo: Callable[..., list[Source]]) -> None:
    source = demo(60)[0]
    snapshots = source.poll()
    feed = ListSource("feed", source.hello or {}, snapshots[:20])

    async def steps(app: PyflowxApp, pilot: P) -> None:
        view = flows(app)
        rows = len(view.table.rows)
        await pilot.press("p")
        feed._queue.extend(snapshots[20:])
        app.poll()
        await pilot.pause()
        assert len(view.table.rows) == rows
        assert len(app.states[0].store) > rows
        assert "PAUSED" in line(app, "banner") and " old" in line(app, "banner")
        await pilot.press("S")  # what stands still can be looked at
        assert len(view.table.rows) == rows
        await pilot.press("p")
        assert len(view.table.rows) == len(app.states[0].store) > rows
        assert line(app, "banner") == ""

    drive(steps, sources=[feed])


def test_units_totals_and_scale(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        view = flows(app)
        store = app.state.store
        rows = view.table.rows
        await pilot.press("r")
        assert "totals" in line(app, "status")
        assert (view.table.rows.columns["rate"] == store.own("octets") * 8).all()
        await pilot.press("u")
        assert (view.table.rows.columns["rate"] == store.own("octets")).all()
        await pilot.press("x")
        rates = np.maximum(store.column("sampling_rate"), 1)
        assert (rates > 1).any()
        assert (view.table.rows.columns["rate"] == store.own("octets") * rates).all()
        assert "scaled" in line(app, "status")
        await pilot.press("x", "u", "r")
        assert (view.table.rows.columns["rate"] == rows.columns["rate"]).all()

    drive(steps)


def test_names_are_asked_for_only_when_wanted(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 is in every hosts file."""
    row = {"flow_type": "IPFIX", "bytes": 9, "packets": 1, "src_addr": "127.0.0.1", "dst_addr": "127.0.0.1",
           "dst_port": 443, "proto": 6}  # fmt: skip
    flows_section = {"flows": 1, "octets": 9, "packets": 1, "rows": [row]}
    feed = ListSource("feed", {"role": "collect"}, [{"number": 1, "time_ns": 10**18, "flows": flows_section}])

    async def steps(app: PyflowxApp, pilot: P) -> None:
        table = flows(app).table
        assert "127.0.0.1" in table.render_line(1).text
        assert not app.options.resolver._threads
        await pilot.press("n")
        for _ in range(100):
            app.again()
            if "localhost" in table.render_line(1).text:
                break
            await pilot.pause(0.02)
        assert "localhost" in table.render_line(1).text
        assert "https" in table.render_line(1).text
        await pilot.press("n")
        assert "127.0.0.1" in table.render_line(1).text

    drive(steps, sources=[feed])


def test_pairs(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        view = flows(app)
        rows = len(view.table.rows)
        await pilot.press("b")
        assert len(view.table.rows) < rows
        assert (column(view, "back") > 0).any()
        await pilot.press("b")
        assert len(view.table.rows) == rows

    drive(steps)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_export_of_flows(form: str, drive: Drive, tmp_path: Path) -> None:
    path = tmp_path / f"found.{form}"

    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("/", *"dst_port:443", "enter", "e")
        assert isinstance(app.screen, ExportScreen)
        app.screen.query_one(Input).value = str(path)
        await pilot.pause()
        assert app.screen.form == form
        assert "--demo" in str(app.screen.query_one("#command", Static).content)
        await pilot.press("ctrl+y")
        assert app.clipboard.startswith("pyflowx top --once --demo")
        await pilot.press("enter")
        await pilot.pause()

    app = drive(steps, connect=["--demo"])
    view = flows(app)
    expected = column(view, "bytes").tolist()
    if form == "json":
        octets = [json.loads(each)["bytes"] for each in path.read_text().splitlines()]
    elif form == "csv":
        octets = [int(row["bytes"]) for row in csv.DictReader(path.read_text().splitlines())]
    else:
        octets = pl.read_parquet(path)["bytes"].to_list()
    assert octets == expected
    assert len(octets) > 10


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_export_of_groups(form: str, drive: Drive, tmp_path: Path) -> None:
    path = tmp_path / f"found.{form}"

    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("2", "e")
        app.screen.query_one(Input).value = str(path)
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()

    view = drive(steps).views["top"]
    read = {"csv": pl.read_csv, "json": pl.read_ndjson, "parquet": pl.read_parquet}[form](path)
    assert read.columns == ["src_addr", "rate", "share", "percent", "packet_rate", "flows"]
    assert read["flows"].to_list() == column(view, "flows").tolist()
    assert read["src_addr"].is_not_null().all()


def test_export_overwrites_nothing(drive: Drive, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("mine")

    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("e")
        app.screen.query_one(Input).value = str(path)
        await pilot.press("enter")
        await pilot.pause()
        assert "exists" in str(app.screen.query_one("#export-error", Static).content)
        app.screen.query_one(Input).value = str(tmp_path / "missing" / "x.csv")
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ExportScreen)
        await pilot.press("escape")

    drive(steps)
    assert path.read_text() == "mine"


def test_copy(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("down", "y")
        cells = app.clipboard.split("\t")
        assert cells[0] in flows(app).table.render_line(2).text
        assert len(cells) == len(flows(app).table.specs)

    drive(steps)


def test_sources_are_tabs(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        assert "demo collector" in line(app, "sources") and "demo exporter" in line(app, "sources")
        collected = len(flows(app).table.rows)
        await pilot.press("]")
        assert "demo exporter" in line(app, "status")
        assert len(flows(app).table.rows) != collected
        await pilot.press("[")
        assert "demo collector" in line(app, "status")

    drive(steps)


def test_help_says_every_key(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("?")
        assert isinstance(app.screen, HelpScreen)
        said = "\n".join(str(each.content) for each in app.screen.query(Static))
        for key, what in (("/", "Filter"), ("b", "Pairs"), ("p", "Pause"), ("x", "sampling rate"), ("8", "Log")):
            assert f" {key} " in said and what in said
        await pilot.press("escape")
        assert len(app.screen_stack) == 1

    drive(steps)


@pytest.mark.parametrize("key", ["colon", "ctrl+p"])
def test_command_palette(key: str, drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press(key)
        await pilot.press(*"Screen Log")
        for _ in range(200):
            found = app.screen.query(OptionList)
            if found and found.first().option_count and "Log" in str(found.first().get_option_at_index(0).prompt):
                break
            await pilot.pause(0.02)
        await pilot.press("enter")
        await pilot.pause(0.1)
        await pilot.press("enter")
        for _ in range(100):
            if app.view.title == "Log":
                break
            await pilot.pause(0.02)
        assert app.view.title == "Log"

    drive(steps)


def test_themes(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        for theme in app.available_themes:
            app.theme = theme
            await pilot.pause()
        await pilot.press("t")
        assert len(app.screen_stack) == 2

    drive(steps)


def test_keys_from_a_file(drive: Drive, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('theme = "nord"\n[keys]\nfilter = "f"\n"show.top" = "f2, t"\n')

    async def steps(app: PyflowxApp, pilot: P) -> None:
        assert app.theme == "nord"
        await pilot.press("f")
        assert app.filter_bar.display
        await pilot.press("escape", "f2")
        assert app.view.title == "Top"
        await pilot.press("1", "?")  # those that were not named are as they were
        said = "\n".join(str(each.content) for each in app.screen.query(Static))
        assert " f  " in said

    drive(steps, settings=Settings.read(path))


@pytest.mark.parametrize("text", ["keys = 1", "[keys]\nfilter = 2", "no toml"])
def test_a_wrong_file_of_keys_names_itself(text: str, tmp_path: Path) -> None:
    from pyflowx.errors import ConfigError

    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.toml"):
        Settings.read(path)
    with pytest.raises(ConfigError, match="no such file"):
        Settings.read(tmp_path / "missing.toml")


def test_keys_that_a_screen_has_no_use_for_do_nothing(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        for view in VIEWS:
            await pilot.press(view.key, "g", "escape", "escape", "b", "S", "y", "r", "u", "x", "enter", "escape")
            await pilot.press("s", "escape", "/", "escape", "p", "p")
            assert len(app.screen_stack) == 1

    drive(steps)


def test_quit(drive: Drive) -> None:
    async def steps(app: PyflowxApp, pilot: P) -> None:
        await pilot.press("q")

    assert drive(steps).return_code == 0


def test_a_stalled_feed_is_shown_as_stalled(drive: Drive, demo: Callable[..., list[Source]]) -> None:
    source = demo()[0]

    async def steps(app: PyflowxApp, pilot: P) -> None:
        for state, shown in (("stalled", "STALLED"), ("failed", "FAILED"), ("ended", "ENDED"), ("connecting", "CONN")):
            source._state = state  # type: ignore[assignment]
            app.poll()
            assert line(app, "banner").startswith(shown)
            assert app.query_one("#banner").display
        assert "old" in line(app, "banner")

    drive(steps, sources=[source])


def test_nothing_yet(drive: Drive) -> None:
    """Every screen says what to do where there is nothing to show."""
    feed = ListSource("feed", {"role": "collect"}, [{"number": 1, "dropped": 0, "time_ns": 10**18}])

    async def steps(app: PyflowxApp, pilot: P) -> None:
        for view in VIEWS:
            await pilot.press(view.key)
            await pilot.pause()
        await pilot.press("1")
        await pilot.pause()
        text = "\n".join(flows(app).table.render_line(row).text for row in range(20))
        assert "No flows yet" in text and "pyflowx generate" in text

    drive(steps, sources=[feed])


def test_text_from_the_network_steers_no_terminal(drive: Drive) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\r\n"
    row = {"flow_type": evil, "bytes": 9, "packets": 1, "src_addr": evil, "dst_addr": "10.0.0.1", "country": evil,
           "template_id": 256, "observation_domain_id": 0, "sampler_address": "10.0.0.9"}  # fmt: skip
    snapshot = {
        "number": 1, "time_ns": 10**18, "flows": {"flows": 1, "octets": 9, "packets": 1, "rows": [row]},
        "exporters": [], "log": [[1, 10**18, "info", evil]],
        "templates": [{"exporter": "10.0.0.9", "version": 10, "domain": 0, "id": 256, "scope_count": 0,
                       "fields": [[0, 8, evil, 4], [9, 1, evil, 65535]]}],
    }  # fmt: skip
    feed = ListSource(evil, {"role": "collect"}, [snapshot])
    feed.message = evil

    async def steps(app: PyflowxApp, pilot: P) -> None:
        seen = []
        for keys in (["1"], ["end", "right", "right"], ["enter"], ["escape", "2"], ["g", *"country", "enter"],
                     ["4"], ["8"]):  # fmt: skip
            await pilot.press(*keys)
            await pilot.pause()
            seen += [segment.text for strip in app.screen._compositor.render_strips() for segment in strip]
        text = "".join(seen)
        assert "owned" in text
        assert not {"\x1b", "\x07", "\r", "\n", "\u202e"} & set(text)

    drive(steps, sources=[feed], size=(160, 30))
