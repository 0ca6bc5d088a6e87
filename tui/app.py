"""The application: sources as tabs, eight screens, the keys that all of them share."""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from textual import on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer, Static

from . import chrome, export, facts, playback
from .cells import sparkline
from .dialogs import DetailScreen, ExportScreen, HelpScreen, Picker
from .filterbar import FilterBar
from .grouping import MOST
from .query import Query, QueryError
from .screens.base import Options, View
from .screens.exporters import ExportersView
from .screens.flows import FlowsView
from .screens.kernel import KernelView
from .screens.log import LogView
from .screens.messages import MessagesView
from .screens.metrics import MetricsView
from .screens.templates import TemplatesView
from .screens.top import TopView
from .settings import History, Settings
from .state import Source, State
from .table import Table

VIEWS: tuple[type[View], ...] = (
    FlowsView,
    TopView,
    ExportersView,
    TemplatesView,
    MessagesView,
    MetricsView,
    KernelView,
    LogView,
)
POLL_S = 0.1
BREATH_S = 0.002
# action, keys, what it says in the footer and help, in the footer
_KEYS: tuple[tuple[str, str, str, bool], ...] = (
    ("filter", "slash", "Filter", True),
    ("sort", "s", "Sort", True),
    ("reverse", "S", "Sort the other way", False),
    ("group", "g", "Group", True),
    ("pairs", "b", "Pairs", True),
    ("back", "escape", "Back", False),
    ("pause", "p", "Pause", True),
    ("names", "n", "Names", False),
    ("units", "u", "Bits or octets", False),
    ("scaled", "x", "Measured or scaled by the sampling rate", False),
    ("rates", "r", "Rates or totals", False),
    ("export", "e", "Export", True),
    ("copy", "y", "Copy", False),
    ("source(1)", "right_square_bracket", "Next source", False),
    ("source(-1)", "left_square_bracket", "Previous source", False),
    ("theme", "t", "Theme", False),
    ("command_palette", "colon,ctrl+p", "Commands", False),
    *playback.KEYS,
    ("help", "question_mark", "Help", True),
    ("quit", "q", "Quit", True),
)
_SUPPORTED = {"filter": "filter", "sort": "sort", "reverse": "sort", "group": "group", "pairs": "pairs"}
_SUPPORTED |= {"export": "export", "copy": "copy"}


class PyflowxApp(playback.Playback, App[None]):
    """``sources``: one a tab, at least one. They are closed when the application ends.

    ``history``: the file of filters. ``connect``: the options that say where the flows come from, for command lines.
    ``screen``: the first to be seen. ``filter``: of flows, right at the beginning.
    """

    TITLE = "pyflowx"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(view.key, f"show('{view.title.lower()}')", view.title, show=False, id=f"show.{view.title.lower()}")
            for view in VIEWS
        ),
        *(
            Binding(key, action, what, show=show, id=action.split("(")[0] + ("-back" if "-1" in action else ""))
            for action, key, what, show in _KEYS
        ),
    ]

    def __init__(
        self,
        sources: Sequence[Source],
        settings: Settings | None = None,
        *,
        history: Path | None = None,
        connect: Sequence[str] = (),
        screen: str = "flows",
        filter: str = "",
    ) -> None:
        super().__init__()
        self.options = Options()
        self.settings = settings or Settings()
        self.states = [State(source) for source in sources]
        self.frozen: dict[int, State] = {}  # those that are paused
        self.current = 0  # of states
        self.connect = list(connect)  # the options that say where the flows come from, for command lines
        self.views = {view.title.lower(): view(self.options) for view in VIEWS}
        self.filter_bar = FilterBar(History(history))
        self._came_from: str | None = None
        self.lines = {name: Static(id=name) for name in ("screens", "sources", "banner", "status")}
        self.switcher = ContentSwitcher(initial=screen)
        self._lines: dict[str, object] = {}
        self._reading: set[int] = set()  # sources of which a snapshot is being taken
        self._first_filter = filter

    # -- what is shown -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Of the source that is shown, as it is shown: while it is paused, as it was."""
        return self.frozen.get(self.current, self.states[self.current])

    @property
    def view(self) -> View:
        """The screen that is seen."""
        return self.views[str(self.switcher.current)]

    def compose(self) -> ComposeResult:
        yield self.lines["screens"]
        yield self.lines["sources"]
        yield self.lines["banner"]
        with self.switcher:
            yield from self.views.values()
        yield self.filter_bar
        yield self.lines["status"]
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.theme = self.settings.theme if self.settings.theme in self.available_themes else suitable_theme()
        if self.settings.theme and self.theme != self.settings.theme:
            self.notify(f"There is no theme {self.settings.theme}; t shows which there are", severity="warning")
        if self.settings.keys:
            self.set_keymap(dict(self.settings.keys))
        self.lines["sources"].display = len(self.states) > 1
        self.set_interval(POLL_S, self.poll)
        if self.is_web:
            self.set_interval(POLL_S, self._end_with_server)
        self.call_after_refresh(self._begin)

    def _end_with_server(self) -> None:
        """A killed web server says nothing: its end of our input is closed, and nobody would ever end us."""
        server = select.poll()
        server.register(sys.__stdin__ or 0, select.POLLHUP)
        if server.poll(0):
            self.exit()

    def _begin(self) -> None:
        self.poll()
        if self._first_filter:
            self._filter_all(self._first_filter)
        self.view.focus_first()

    def _filter_all(self, text: str) -> None:
        """Flows and groups of flows have the same columns."""
        for view in self.views.values():
            if isinstance(view, FlowsView | TopView):
                view.set_query(text, Query.parse(text))
        self.again()

    def poll(self) -> None:
        """Take what the sources have; show it, unless the view stands still."""
        for place, state in enumerate(self.states):
            if place not in self._reading:
                self._read(place, state.steps())
        self.watch_recordings()
        self._chrome()

    def _read(self, place: int, steps: Iterator[bool]) -> None:
        """A step of what a source has. A key that was pressed meanwhile goes before the next one."""
        state = self.states[place]
        store, evicted = state.store, state.store.evicted
        news = next(steps, None)
        if news is None:
            self._reading.discard(place)
            return
        if place == self.current and place not in self.frozen:
            if state.store is not store or store.evicted != evicted:  # rows have other places: not to be drawn before
                self.view.refresh_from(state)
            elif news:
                self.call_later(self._show_news, state)
        self._reading.add(place)
        if news:
            self.call_later(self._read, place, steps)
        else:  # a key goes through several queues until it is painted: they need a moment in which nothing else is due
            self.set_timer(BREATH_S, partial(self._read, place, steps))

    def _show_news(self, state: State) -> None:
        if state is self.state:
            self.view.refresh_from(state)

    def _chrome(self) -> None:
        """The lines around the view."""
        view, state = self.view, self.state
        self._line("screens", chrome.screens(self.views.values(), view, self.size.width))
        if len(self.states) > 1:
            self._line("sources", chrome.sources(self.states, self.current))
        banner = chrome.banner(self.states[self.current], state.paused_ns, time.time_ns())
        line = self._line("banner", banner.text if banner is not None else Content(""))
        line.set_class(banner is not None, "-shown")
        for kind in ("bad", "paused"):
            line.set_class(banner is not None and banner.kind == kind, f"-{kind}")
        self._line("status", chrome.status(state, view, self.options, self.size.width))

    def _line(self, name: str, content: Content) -> Static:
        """A line of the chrome, drawn anew only where it says something else."""
        line = self.lines[name]
        if self._lines.get(name) != (shown := (content.plain, tuple(content.spans))):
            self._lines[name] = shown
            line.update(content)
        return line

    def again(self) -> None:
        """Show the same state anew, after something has been chosen."""
        self.view.refresh_from(self.state)
        self._chrome()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in playback.STEERS:
            return self.replayed() is not None
        needed = _SUPPORTED.get(action)
        if needed is not None and self.is_running:
            return needed in self.view.supports
        return True

    # -- screens and sources -----------------------------------------------------------------------------------------

    def action_show(self, name: str) -> None:
        """A screen by its name."""
        self._came_from = None
        self._show(name)

    def _show(self, name: str) -> None:
        self.switcher.current = name
        self._close_filter()
        self.again()
        self.view.focus_first()
        self.refresh_bindings()

    def action_source(self, by: int) -> None:
        """The next tab."""
        self.select_source((self.current + by) % len(self.states))

    def select_source(self, place: int) -> None:
        self.current = place
        self.again()

    def action_select_source(self, place: int) -> None:
        self.select_source(place)

    # -- what the view is asked for ----------------------------------------------------------------------------------

    def action_filter(self) -> None:
        self.filter_bar.open(self.view.query_text, self.view.filter_names())

    @on(FilterBar.Chosen)
    def filter_chosen(self, event: FilterBar.Chosen) -> None:
        if not event.left:
            self._filter(event.text, event.query)
        self._close_filter()
        self.view.focus_first()

    def _filter(self, text: str, query: Query | None) -> None:
        try:
            self.view.set_query(text, query)
        except QueryError as error:
            self.view.set_query("", None)
            self.notify(error.message, severity="error", markup=False)
        self._chrome()

    def _close_filter(self) -> None:
        self.filter_bar.close()

    def action_sort(self) -> None:
        sorted_by = self.view.sorted_by()

        def take(found: tuple[str, ...] | None) -> None:
            if found:
                self.view.sort_by(found[0])

        choices = [(name, name) for name in dict.fromkeys(self.view.names())]
        self.push_screen(Picker("Sort by", choices, (sorted_by[0],) if sorted_by else ()), take)

    def action_reverse(self) -> None:
        sorted_by = self.view.sorted_by()
        if sorted_by is not None:
            self.view.sort_by(sorted_by[0], not sorted_by[1])

    def action_group(self) -> None:
        view = self.view
        if not isinstance(view, TopView):
            view.group()
            return

        def take(found: tuple[str, ...] | None) -> None:
            if found:
                view.group_by(found)

        self.push_screen(Picker("Group by, up to three", view.choices(), view.by, MOST), take)

    def action_pairs(self) -> None:
        if isinstance(self.view, FlowsView):
            self.view.toggle_pairs()

    async def action_back(self) -> None:
        if not self.view.back() and self._came_from is not None:
            self.action_show(self._came_from)
        self._chrome()

    def action_pause(self) -> None:
        """The view stands still; the sources are read on."""
        if self.frozen.pop(self.current, None) is None:
            self.frozen[self.current] = self.states[self.current].freeze()
        self.again()

    def _switch(self, name: str, on_text: str, off_text: str) -> None:
        value = not getattr(self.options, name)
        setattr(self.options, name, value)
        self.again()
        self.notify(on_text if value else off_text, timeout=2)

    def action_names(self) -> None:
        self._switch("names", "Names of addresses and ports, as they are found", "Addresses and ports as numbers")

    def action_units(self) -> None:
        self._switch("bits", "Bits", "Octets")

    def action_scaled(self) -> None:
        self._switch("scaled", "Scaled by the sampling rate", "As measured")

    def action_rates(self) -> None:
        self._switch("rates", "Rates, over ten seconds", "Totals since the flow was first seen")

    def action_copy(self) -> None:
        text = self.view.copied()
        if text:
            self.copy_to_clipboard(text)
            self.notify("Copied", timeout=2)

    @on(Table.Selected)
    def selected(self, event: Table.Selected) -> None:
        """Enter on a flow."""
        if isinstance(self.view, FlowsView):
            self.show_flow(event.row)
        else:
            self.view.detail()

    def show_flow(self, row: int) -> None:
        state = self.state
        store = state.store
        spark = sparkline(store.history(np.array([row]))[0], 30)
        heading = facts.ends(store, row)
        self.push_screen(DetailScreen(heading, facts.summary(store, row), facts.facts(state, row), spark))

    @on(TopView.Chosen)
    def group_chosen(self, event: TopView.Chosen) -> None:
        """Enter on a group: its flows."""
        flows = self.views["flows"]
        self._show("flows")
        self._came_from = "top"
        flows.set_query(event.text, Query.parse(event.text, flows.filter_names()))
        self._chrome()

    def action_export(self) -> None:
        view = self.view
        found = view.export_columns()
        batches = found if isinstance(found, list) else [export.batch_of(found, view.exported_specs())] if found else []
        rows = sum(map(len, batches))
        if not rows:
            self.notify("There are no rows to export", severity="warning")
            return

        def write(form: str, path: str) -> str:
            count, target = export.write(batches, form, path)
            return f"{count} rows written to {target}"

        def command(form: str, path: str) -> str:
            return view.command(self.connect, form, path)

        self.push_screen(ExportScreen(f"{rows} rows of {view.title}", view.title.lower(), write, command))

    # -- help, themes, commands --------------------------------------------------------------------------------------

    def action_theme(self) -> None:
        self.search_themes()

    def action_help(self) -> None:
        keys = [
            (self._key_of(action), what)
            for action, _, what, _ in _KEYS
            if _SUPPORTED.get(action) is None or _SUPPORTED[action] in self.view.supports
        ]
        screens = [(view.key, view.title) for view in VIEWS]
        moves = [
            ("↑ ↓ k j", "Row"),
            ("← →", "Columns"),
            ("Home End PgUp PgDn", "First, last, page"),
            ("Enter", "Detail"),
        ]
        moves += [("Click", "Row; title: sort; twice: detail")]
        sections = [("Keys", keys), ("Screens", screens), ("Table", moves), ("Filter", FILTER_HELP)]
        self.push_screen(HelpScreen(f"{self.view.title}: {self.view.about}", sections))

    def _key_of(self, action: str) -> str:
        name = action.split("(")[0] + ("-back" if "-1" in action else "")
        given = self.settings.keys.get(name)
        key = given or next(key for act, key, _, _ in _KEYS if act == action)
        return " ".join(self.get_key_display(Binding(each, "", "")) for each in key.split(","))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        for view in VIEWS:
            name = view.title.lower()
            yield SystemCommand(
                f"Screen: {view.title}", view.about or view.title, lambda name=name: self.action_show(name)
            )
        for action, _, what, _ in _KEYS:
            base = action.split("(")[0]
            if base in ("command_palette", "source", "back", "seek", "faster") or self.check_action(base, ()) is False:
                continue
            yield SystemCommand(what, f"Key {self._key_of(action)}", getattr(self, f"action_{base}"))
        for name in dict.fromkeys(self.view.names()):
            yield SystemCommand(f"Sort by {name}", "The column of the table", lambda name=name: self.view.sort_by(name))

    async def on_unmount(self) -> None:
        self.end_recordings()
        for state in self.states:
            state.source.close()


FILTER_HELP = (
    ("src:10/8", "an address, a prefix; dst: host: exporter: likewise"),
    ("port:443,8000-9000", "a number, a range, several"),
    ("bytes>1M", "more than; k M G, Ki Mi Gi; times: duration>5s"),
    ("proto:udp", "a protocol by its name; flags:SA TCP flags"),
    ("a and not (b or c)", "together; what stands side by side is and"),
)


def run(app: PyflowxApp) -> None:
    """Until the user quits. What has been loaded until now stays: to look it through for garbage once more would take
    longer than a key may wait."""
    gc.collect()
    gc.freeze()
    app.run()


def suitable_theme() -> str:
    """The one whose 16 colours are the terminal's own where it has no more."""
    if os.environ.get("COLORTERM") or "256" in os.environ.get("TERM", "") or "TEXTUAL_DRIVER" in os.environ:
        return "textual-dark"
    few = os.environ.get("TERM", "") in ("linux", "xterm", "ansi", "screen", "vt100", "vt220", "xterm-16color")
    return "ansi-dark" if few else "textual-dark"
