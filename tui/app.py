"""The application: sources as tabs, eight screens, the keys that all of them share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher, Footer, Static

from .screens.base import Options, View
from .screens.exporters import ExportersView
from .screens.flows import FlowsView
from .screens.kernel import KernelView
from .screens.log import LogView
from .screens.messages import MessagesView
from .screens.metrics import MetricsView
from .screens.templates import TemplatesView
from .screens.top import TopView
from .state import Source, State

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


class PyflowxApp(App[None]):
    """``sources``: one a tab, at least one. They are closed when the application ends."""

    TITLE = "pyflowx"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(view.key, f"show('{view.title.lower()}')", view.title, show=False, id=f"show.{view.title.lower()}")
            for view in VIEWS
        ),
        Binding("q", "quit", "Quit", id="quit"),
    ]

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__()
        self.options = Options()
        self.states = [State(source) for source in sources]
        self.current = 0  # of states
        self.views = {view.title.lower(): view(self.options) for view in VIEWS}

    @property
    def state(self) -> State:
        """Of the source that is shown."""
        return self.states[self.current]

    @property
    def view(self) -> View:
        """The screen that is seen."""
        return self.views[str(self.query_one(ContentSwitcher).current)]

    def compose(self) -> ComposeResult:
        yield Static(id="top")
        with ContentSwitcher(initial=next(iter(self.views))):
            yield from self.views.values()
        yield Static(id="status")
        yield Footer()

    def on_mount(self) -> None:
        self.set_interval(POLL_S, self.poll)
        self.poll()

    def poll(self) -> None:
        """Take what the sources have; show it, unless the view stands still."""
        for place, state in enumerate(self.states):
            if state.poll() and place == self.current and not state.paused_ns:
                self.view.refresh_from(state)
        age = (time.time_ns() - self.state.received_ns) // 1_000_000_000 if self.state.received_ns else None
        self.query_one("#status", Static).update(f"{self.state.source.name} {self.state.source.state} {age}")

    def action_show(self, name: str) -> None:
        self.query_one(ContentSwitcher).current = name
        self.view.refresh_from(self.state)
        self.view.focus_first()
