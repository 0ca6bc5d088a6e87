"""The screen Messages: the last datagrams, their octets beside what they mean, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from textual import events
from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from .. import text
from ..dissect import Node, Templates, dissect, hex_lines
from ..panels import Panel, SplitView
from ..state import State
from ..table import ColumnSpec, Rows, Table
from .exporters import many, or_dot, short, styled, texts
from .log import clock

Row = Mapping[str, Any]
_LONG_LINE = 76  # cells that 16 octets in a line take


class Octets(Container):
    """Hex on the left, the tree on the right; the octets of the tree's line are marked."""

    DEFAULT_CSS = """
    Octets { layout: horizontal; }
    Octets > Panel { width: 42; }
    Octets.-long > Panel { width: 78; }
    Octets > Table { width: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.hex = Panel()
        self.fields = Table(
            (
                ColumnSpec("offset", "At", 4, align="right", style="dim"),
                ColumnSpec("name", "Field", 18, 10, render=texts, style=self._style_of, flex=1),
                ColumnSpec("value", "Value", 12, 6, render=texts, style="number", flex=1),
            )
        )
        self.fields.empty = "No datagram"
        self.nodes: list[Node] = []
        self.octets = b""
        self.problems: dict[int, str] = {}
        self._bad: set[str] = set()

    def _style_of(self, names: Sequence[str]) -> list[str]:
        return ["bad" if name in self._bad else "head" if not name.startswith("  ") else "text" for name in names]

    def compose(self) -> ComposeResult:
        yield self.hex
        yield self.fields

    def on_mount(self) -> None:
        self.watch(self.fields, "cursor", self._mark, init=False)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width >= _LONG_LINE + 50, "-long")
        self._mark()

    def show(self, octets: bytes, nodes: list[Node], problems: Sequence[Sequence[Any]]) -> None:
        self.octets, self.nodes = octets, nodes
        self.problems = {}
        for offset, reason in problems:
            self.problems[offset] = f"{self.problems[offset]}, {reason}" if offset in self.problems else reason
        names, values = [], []
        left = dict(self.problems)
        self._bad = set()
        for place, node in enumerate(nodes):
            following = nodes[place + 1].offset if place + 1 < len(nodes) else len(octets) + 1
            here = [why for at, why in left.items() if node.offset <= at < max(following, node.offset + 1)]
            left = {at: why for at, why in left.items() if why not in here}
            name = "  " * node.depth + "".join(f"✗ {why}: " for why in here) + node.name
            if here or node.is_odd:
                self._bad.add(name)
            names.append(name)
            values.append(node.value)
        for at, why in left.items():  # behind everything that there is
            names.append(f"✗ {why}")
            values.append(f"at {at}")
            self._bad.add(names[-1])
            self.nodes = [*self.nodes, Node(0, min(at, len(octets)), 0, why, "", is_odd=True)]
        offsets = np.array([node.offset for node in self.nodes], np.int64)
        self.fields.set_rows(Rows({"offset": offsets, "name": names, "value": values}, np.arange(len(names))))
        self._mark()

    def _mark(self) -> None:
        """The hex, with the octets of the line under the tree's cursor."""
        row = self.fields.cursor_row
        node = self.nodes[row] if row is not None and row < len(self.nodes) else Node(0, 0, 0, "")
        width = 16 if self.has_class("-long") else 8
        lines = []
        for place, (offset, octets, shown) in enumerate(hex_lines(self.octets, width)):
            parts: list[str | tuple[str, str]] = [(offset + " ", "$text-muted")]
            for each, octet in enumerate(octets):
                at = place * width + each
                style = "reverse" if node.offset <= at < node.offset + node.length else ""
                parts.append(
                    (octet, "bold $text-error" + (" reverse" if style else "") if at in self.problems else style)
                )
                gap = at + 1 < node.offset + node.length and each + 1 < len(octets) and bool(style)
                parts.append((" " if (each + 1) % 8 or width == 8 else "  ", "reverse" if gap else ""))
            missing = 3 * (width - len(octets)) + (width == 16 and len(octets) < 8)
            lines.append(Content.assemble(*parts, " " * missing, (shown, "$text-muted")))
        self.hex.show(lines)
        top = node.offset // width
        if not int(self.hex.scroll_y) <= top < int(self.hex.scroll_y) + max(1, self.hex.size.height):
            self.hex.scroll_to(y=max(0, top - 2), animate=False)


class MessagesView(SplitView):
    title: ClassVar[str] = "Messages"
    key: ClassVar[str] = "5"
    about: ClassVar[str] = (
        "The last datagrams, of each second those with problems first: octets beside the decoded tree, what could not "
        "be read and why. Enter goes into the tree; the octets of its line are marked."
    )
    empty: ClassVar[str] = "No datagrams yet\nThe feed of a collector shows some of each second."
    fixed: ClassVar[int] = 0
    default_sort: ClassVar[tuple[str, bool] | None] = ("number", True)
    DEFAULT_CSS = """
    MessagesView > .part { padding: 0; }
    MessagesView.-beside { layout: vertical; }
    MessagesView.-beside > .part { height: 3fr; width: 1fr; border-left: none; border-top: solid $panel-lighten-1; }
    MessagesView.-beside > Table { height: 2fr; width: 1fr; }
    """
    specs: ClassVar[Sequence[ColumnSpec]] = (
        ColumnSpec("number", "#", 5, align="right", style="dim"),
        ColumnSpec("time_ns", "UTC", 8, render=many(clock), style="dim"),
        ColumnSpec("exporter", "Exporter", 15, 9, render=texts, style="address", flex=1),
        ColumnSpec("port", "Port", 5, align="right", style="number"),
        ColumnSpec("protocol", "Protocol", 8, render=texts, style="accent"),
        ColumnSpec("length", "Octets", 6, align="right", style="number"),
        ColumnSpec("problems", "Problems", 8, align="right", render=or_dot(text.count), style=styled(bool)),
        ColumnSpec("reason", "First", 12, 8, render=texts, style="bad", flex=2),
    )

    def make_panel(self) -> Widget:
        self.octets = Octets()
        return self.octets

    def panel_focus(self) -> Widget:
        return self.octets.fields

    def rows(self, state: State) -> Rows:
        found = [datagram for _, datagram in state.datagrams]
        numbers = np.array([number for number, _ in state.datagrams], np.int64)
        columns: dict[str, Any] = {
            "number": numbers,
            "time_ns": np.array([row["time_ns"] for row in found], np.int64),
            "exporter": [row["exporter"] for row in found],
            "port": np.array([row["port"] for row in found], np.int64),
            "protocol": [short(row["protocol"] or "unknown") for row in found],
            "length": np.array([row["length"] for row in found], np.int64),
            "problems": np.array([len(row["problems"]) for row in found], np.int64),
            "reason": [row["problems"][0][1] if row["problems"] else "" for row in found],
        }
        return Rows(columns, numbers)

    def show_row(self, state: State, row: int | None) -> None:
        number, datagram = state.datagrams[row] if row is not None and row < len(state.datagrams) else (0, None)
        if datagram is None:
            self.octets.show(b"", [], ())
            return
        if number == self._shown and self.octets.nodes:
            return
        self._shown = number
        octets = bytes.fromhex(datagram["octets"])
        nodes = dissect(octets, templates_of(state, datagram["exporter"], octets), datagram["length"])
        self.octets.fields.move_cursor(0)
        self.octets.show(octets, nodes, datagram["problems"])

    _shown = 0


def templates_of(state: State, exporter: str, octets: bytes) -> Any:
    """What :func:`dissect` asks for: those of an exporter's Observation Domain, by the feed."""
    from pyflowx.decoded import TemplateRecord
    from pyflowx.elements import FieldSpecifier, default_registry

    version = int.from_bytes(octets[:2], "big")

    def find(domain: int) -> Templates:
        found = {}
        for row in state.section("templates", ()):
            if (row["exporter"], row["version"], row["domain"]) == (exporter, version, domain):
                fields = (FieldSpecifier(default_registry().get(pen, id), size) for pen, id, _, size in row["fields"])
                found[row["id"]] = TemplateRecord(row["id"], tuple(fields), row["scope_count"])
        return found

    return find
