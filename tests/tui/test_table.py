"""The table: what is drawn, and that only that is made into text."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyflowx_tui.table import GAP, ColumnSpec, Rows, Table, fit, lay_out
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.pilot import Pilot

N = 100_000


class Host(App[None]):
    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def compose(self) -> ComposeResult:
        yield self.table


def run(table: Table, steps: Callable[[Pilot[None]], Awaitable[None]], size: tuple[int, int] = (40, 12)) -> None:
    async def go() -> None:
        async with Host(table).run_test(size=size) as pilot:
            table.focus()
            await pilot.pause()
            await steps(pilot)

    asyncio.run(go())


def test_only_what_is_on_the_screen_is_made_into_text() -> None:
    made: list[int] = []

    def render(values: Any) -> Sequence[str]:
        made.append(len(values))
        return [str(value) for value in values]

    table = Table([ColumnSpec("n", "N", 10, render=render)])

    async def steps(pilot: Pilot[None]) -> None:
        table.set_rows(Rows({"n": np.arange(N)}, np.arange(N)))
        await pilot.pause()
        await pilot.press("end")
        await pilot.pause()
        assert table.render_line(table.size.height - 1).text.startswith(str(N - 1))
        assert sum(made) < 200
        del made[:]
        await pilot.press("up", "up", "up")
        assert not made  # moving the cursor renders nothing anew

    run(table, steps)


def test_the_cursor_follows_its_key_and_keeps_its_height() -> None:
    table = Table([ColumnSpec("n", "N", 10)])

    async def steps(pilot: Pilot[None]) -> None:
        keys = np.arange(1000)
        table.set_rows(Rows({"n": keys}, keys))
        table.move_cursor(500)
        await pilot.pause()
        height = table.cursor - int(table.scroll_offset.y)
        table.set_rows(Rows({"n": keys}, keys, np.arange(999, -1, -1)))
        await pilot.pause()
        assert (table.cursor, table.cursor_key) == (499, 500)
        assert table.cursor - int(table.scroll_offset.y) == height
        table.set_rows(Rows({"n": keys}, keys, np.arange(0, 1000, 3)))  # 500 has gone
        assert table.cursor == 333
        table.set_rows(Rows({"n": keys[:0]}, keys[:0]))
        assert table.cursor_key is None and table.cursor_row is None
        await pilot.press("down", "up", "end", "enter", "right")

    run(table, steps)


def test_a_cursor_that_nobody_has_moved_stays_on_top() -> None:
    table = Table([ColumnSpec("n", "N", 10)])

    async def steps(pilot: Pilot[None]) -> None:
        keys = np.arange(50)
        table.set_rows(Rows({"n": keys}, keys))
        table.set_rows(Rows({"n": keys}, keys, keys[::-1].copy()))
        assert table.cursor == 0

    run(table, steps)


def test_columns_scroll_beside_those_that_are_fixed() -> None:
    specs = [ColumnSpec("a", "A", 8), *(ColumnSpec(name, name.upper(), 12, align="right") for name in "bcde")]
    table = Table(specs, fixed=1)

    async def steps(pilot: Pilot[None]) -> None:
        table.set_rows(Rows({spec.name: [f"{spec.name}{row}" for row in range(3)] for spec in specs}, [0, 1, 2]))
        await pilot.pause()
        assert table.render_line(1).text.split() == ["a0", "b0", "c0"]
        assert "›" in table.render_line(0).text  # noqa: RUF001
        await pilot.press("right")
        assert table.render_line(1).text.split() == ["a0", "c0", "d0"]
        await pilot.press("right", "right", "right", "right")
        assert table.render_line(1).text.split()[-1] == "e0"
        assert "›" not in table.render_line(0).text  # noqa: RUF001
        for y in range(4):
            assert table.render_line(y).cell_length == table.size.width

    run(table, steps)


def test_rows_of_lists_and_labels() -> None:
    table = Table([ColumnSpec("a", "A", 8), ColumnSpec("b", "B", 8, style=lambda values: ["bad"] * len(values))])

    async def steps(pilot: Pilot[None]) -> None:
        table.set_rows(Rows({"a": ["x", "y", "z"], "b": ["1", "2", "3"]}, ["k1", "k2", "k3"], np.array([2, 0])))
        await pilot.press("down")
        assert (table.cursor_key, table.cursor_row) == ("k1", 0)
        assert table.render_line(1).text.split() == ["z", "3"]

    run(table, steps)


@given(st.text(max_size=30), st.integers(1, 20), st.sampled_from(["left", "right"]))
def test_a_cell_has_its_width(text: str, width: int, align: str) -> None:
    clean = "".join(letter for letter in text if letter.isprintable())
    assert cell_len(fit(clean, width, align)) == width


@given(
    st.lists(st.tuples(st.integers(3, 30), st.integers(0, 10), st.integers(0, 3)), min_size=1, max_size=8),
    st.integers(10, 200),
)
def test_layout(columns: list[tuple[int, int, int]], width: int) -> None:
    """What is left is shared out to the cell; nothing gets less than its least width."""
    specs = [ColumnSpec(str(at), "", wide, least, flex=flex) for at, (wide, least, flex) in enumerate(columns)]
    widths = lay_out(specs, width)
    natural = sum(spec.width for spec in specs) + GAP * (len(specs) - 1)
    used = sum(widths) + GAP * (len(specs) - 1)
    for spec, found in zip(specs, widths, strict=True):
        assert found >= (min(spec.width, spec.min_width) or spec.width)
    if natural <= width and any(spec.flex for spec in specs):
        assert used == width
    if natural > width:
        assert width <= used <= natural


@pytest.mark.parametrize("size", [(20, 5), (80, 24), (300, 90)])
def test_sizes(size: tuple[int, int]) -> None:
    table = Table([ColumnSpec("n", "N", 10, flex=1), ColumnSpec("m", "M", 30, 8)])
    table.empty = "Nothing yet\nIt will come"

    async def steps(pilot: Pilot[None]) -> None:
        text = "\n".join(table.render_line(y).text for y in range(size[1]))
        assert "Nothing yet" in text
        table.set_rows(Rows({"n": np.arange(N), "m": np.arange(N)}, np.arange(N)))
        for y in range(size[1]):
            assert table.render_line(y).cell_length == table.size.width

    run(table, steps, size)
