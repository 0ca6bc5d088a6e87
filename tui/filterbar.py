"""The line in which a filter is typed: completion (Tab), whether it is right (colour), history (Up, Down)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from .query import Query, QueryError, complete, word_start
from .settings import History

_SHOWN = 12  # completions


class FilterInput(Input):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "complete(1)", "Complete", priority=True, id="filter.complete"),
        Binding("shift+tab", "complete(-1)", "Complete backward", show=False, priority=True),
        Binding("up", "history(-1)", "Earlier", id="filter.earlier"),
        Binding("down", "history(1)", "Later", show=False, id="filter.later"),
        Binding("escape", "leave", "Leave", priority=True, id="filter.leave"),
    ]

    def action_complete(self, by: int) -> None:
        self.post_message(FilterBar.Key("complete", by))

    def action_history(self, by: int) -> None:
        self.post_message(FilterBar.Key("history", by))

    def action_leave(self) -> None:
        self.post_message(FilterBar.Key("leave", 0))


class FilterBar(Vertical):
    """Hidden until :meth:`open`."""

    class Key(Message):
        def __init__(self, name: str, by: int) -> None:
            super().__init__()
            self.name, self.by = name, by

    class Chosen(Message):
        """A filter that is right, or (query None) no filter; ``left``: the user wants none other than before."""

        def __init__(self, text: str, query: Query | None, *, left: bool = False) -> None:
            super().__init__()
            self.text, self.query, self.left = text, query, left

    def __init__(self, history: History) -> None:
        super().__init__(id="filter-bar")
        self.history = history
        self._names: Sequence[str] = ()
        self._place = 0  # in the history
        self._found: list[str] = []  # completions of the word that was typed
        self._chosen = -1
        self._typed = ""
        self._start = 0
        self._own = 0  # changes of the text that are ours

    def compose(self) -> ComposeResult:
        yield Static(id="filter-hint")
        with Horizontal():
            yield Static("/", id="filter-sign")
            yield FilterInput(placeholder="src:10/8 and port:443 and bytes>1M and not proto:udp", compact=True)

    def open(self, text: str, names: Sequence[str]) -> None:
        """Type a filter; ``names``: the columns there are."""
        self._names = names
        self._place = len(self.history.lines)
        self.display = True
        field = self.query_one(FilterInput)
        field.value = text
        field.cursor_position = len(text)
        field.focus()
        self._look()

    def close(self) -> None:
        self.display = False

    def on_mount(self) -> None:
        self.display = False

    @on(Input.Changed)
    def changed(self) -> None:
        if self._own:
            self._own -= 1
        else:
            self._chosen = -1
        self._look()

    def _look(self, submitted: bool = False) -> None:
        """Colour and hint for what is typed now: how the word can go on, or what is wrong."""
        field = self.query_one(FilterInput)
        text = field.value
        if self._chosen < 0:
            self._typed, self._start = text, word_start(text, field.cursor_position)
            self._found = complete(text, field.cursor_position, self._names)
        error = self._error(text)
        field.set_class(error is not None, "-wrong")
        field.set_class(error is None and bool(text.strip()), "-right")
        self.query_one("#filter-hint", Static).update(self._hint(error, submitted))

    def _error(self, text: str) -> QueryError | None:
        try:
            Query.parse(text, self._names)
        except QueryError as error:
            return error
        return None

    def _hint(self, error: QueryError | None, submitted: bool) -> Content:
        between = self._typed[-1:].isspace()  # two words
        empty = not self._typed and self._chosen < 0
        if self._found and not empty and not (error is not None and (submitted or between)):
            first = max(0, self._chosen - _SHOWN + 1)
            words = [
                (f" {word} ", "reverse" if at == self._chosen else "$foreground-muted")
                for at, word in enumerate(self._found[first : first + _SHOWN], first)
            ]
            more = len(self._found) - first - _SHOWN
            return Content.assemble("  ", *words, (f" +{more}" if more > 0 else "", "$foreground-muted"))
        if error is not None:
            return Content.assemble((" " * (2 + error.position) + "^ ", "$text-error"), (error.message, "$text-error"))
        return Content.styled("  Enter filters · Tab completes · ↑ earlier ones · Esc leaves", "$foreground-muted")

    @on(Key)
    def key_pressed(self, event: Key) -> None:
        event.stop()
        if event.name == "leave":
            self.post_message(self.Chosen("", None, left=True))
        elif event.name == "history":
            self._earlier(event.by)
        elif self._found:
            self._complete(event.by)

    def _complete(self, by: int) -> None:
        field = self.query_one(FilterInput)
        self._chosen = (self._chosen + by) % len(self._found) if self._chosen >= 0 or by > 0 else len(self._found) - 1
        head = self._typed[: self._start] + self._found[self._chosen]
        if len(self._found) == 1:
            self._chosen = -1  # what comes next can be completed too
        if field.value != head:
            self._own += self._chosen >= 0
            field.value = head
            field.cursor_position = len(head)

    def _earlier(self, by: int) -> None:
        lines = self.history.lines
        self._place = min(max(0, self._place + by), len(lines))
        field = self.query_one(FilterInput)
        field.value = lines[self._place] if self._place < len(lines) else ""
        field.cursor_position = len(field.value)

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        event.stop()
        text = event.value.strip()
        try:
            query = Query.parse(text, self._names)
        except QueryError:
            self._look(submitted=True)
            return
        self.history.add(text)
        self.post_message(self.Chosen(text, query if query else None))
