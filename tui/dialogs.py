"""What opens above a screen: a choice, the help, the details of a row, the export of a view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Select, Static
from textual.widgets.option_list import Option

from .facts import Fact
from .table import ColumnSpec, Rows, Table

BACK = Binding("escape,q", "dismiss", "Back", id="back")


class PickerInput(Input):
    """Space is not typed: it marks."""

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return key != "space" and super().check_consume_key(key, character)


class Picker(ModalScreen[tuple[str, ...]]):
    """A choice of up to ``most`` of ``choices`` ((name, title), in the order they were chosen).

    Typing searches; Space takes and gives back; Enter takes what is marked, or what is under the cursor if nothing
    is. Dismissed with nothing by Esc.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "nothing", "Back", id="picker.back"),
        Binding("up", "go(-1)", "Up", show=False, priority=True),
        Binding("down", "go(1)", "Down", show=False, priority=True),
        Binding("space", "mark", "Mark", priority=True),
        Binding("enter", "take", "Take", priority=True),
    ]

    def __init__(
        self, title: str, choices: Sequence[tuple[str, str]], chosen: Sequence[str] = (), most: int = 1
    ) -> None:
        super().__init__()
        self.heading, self.choices, self.most = title, list(choices), most
        self.chosen = list(chosen) if most > 1 else []
        self.now = chosen[0] if chosen else ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Content(self.heading), classes="heading")
            yield PickerInput(placeholder="type to search", compact=True)
            yield OptionList(compact=True)
            keys = "Space marks, in order of levels · " if self.most > 1 else ""
            yield Static(Content(f"{keys}Enter takes · Esc goes back"), classes="hint")

    def on_mount(self) -> None:
        self._fill("")
        self.query_one(Input).focus()

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        self._fill(event.value)

    def _fill(self, text: str) -> None:
        options = self.query_one(OptionList)
        kept = self._under()
        options.clear_options()
        wanted = text.lower().split()
        for name, title in self.choices:
            if all(word in f"{name} {title}".lower() for word in wanted):
                options.add_option(Option(self._prompt(name, title), id=name))
        place = next((at for at in range(options.option_count) if options.get_option_at_index(at).id == kept), 0)
        options.highlighted = place if options.option_count else None

    def _prompt(self, name: str, title: str) -> Content:
        mark = f"{self.chosen.index(name) + 1} " if name in self.chosen else "  "
        other = f"  {name}" if name != title else ""
        return Content.assemble((mark, "bold $accent"), title, (other, "$foreground-muted"))

    def _under(self) -> str:
        options = self.query_one(OptionList)
        if options.highlighted is None:
            return self.now
        return options.get_option_at_index(options.highlighted).id or ""

    def action_go(self, by: int) -> None:
        options = self.query_one(OptionList)
        (options.action_cursor_up if by < 0 else options.action_cursor_down)()

    def action_mark(self) -> None:
        name = self._under()
        if self.most == 1 or not name:
            return
        if name in self.chosen:
            self.chosen.remove(name)
        elif len(self.chosen) < self.most:
            self.chosen.append(name)
        self._fill(self.query_one(Input).value)

    @on(OptionList.OptionSelected)
    def clicked(self, event: OptionList.OptionSelected) -> None:
        self.action_take()

    def action_take(self) -> None:
        under = self._under()
        found = tuple(self.chosen) or ((under,) if under else ())
        if self.most > 1 and self.query_one(Input).value and under and under not in self.chosen:
            found = (*self.chosen, under)[: self.most]  # what was searched for was meant
        self.dismiss(found)

    def action_nothing(self) -> None:
        self.dismiss(())


class HelpScreen(ModalScreen[None]):
    """``sections``: (title, lines of (key, what it does))."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "Back", id="help.back")]

    def __init__(self, about: str, sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
        super().__init__()
        self.about, self.sections = about, sections

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide", can_focus=True):
            yield Static(Content(self.about), classes="about")
            for title, lines in self.sections:
                yield Static(Content(title), classes="heading")
                for key, what in lines:
                    yield Static(Content.assemble((f" {key:<16}", "bold $accent"), what))
            yield Static(Content("Esc goes back"), classes="hint")


class DetailScreen(ModalScreen[None]):
    """A row with all that is known of it: a heading, lines of (title, value), facts as a table. ``spark``: a line."""

    BINDINGS: ClassVar[list[BindingType]] = [BACK, Binding("y", "copy", "Copy", id="detail.copy")]
    SPECS: ClassVar[tuple[ColumnSpec, ...]] = (
        ColumnSpec("number", "No.", 5, align="right", style="dim"),
        ColumnSpec("name", "Element", 28, min_width=25, flex=1, style="address"),
        ColumnSpec("length", "Len", 4, align="right", style="dim"),
        ColumnSpec("octets", "Octets", 23, min_width=11, flex=1, style="dim"),
        ColumnSpec("value", "Value", 27, min_width=15, flex=1, style="number"),
        ColumnSpec("meaning", "Meaning", 26, min_width=10, flex=2, style="text"),
    )

    def __init__(self, heading: str, lines: Sequence[tuple[str, str]], facts: Sequence[Fact], spark: str = "") -> None:
        super().__init__()
        self.heading, self.lines, self.facts, self.spark = heading, lines, facts, spark

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog full"):
            yield Static(Content(self.heading), classes="heading")
            for title, value in self.lines:
                yield Static(Content.assemble((f" {title:<8}", "$foreground-muted"), value))
            if self.spark:
                yield Static(Content.assemble((" 60 s    ", "$foreground-muted"), (self.spark, "$accent")))
            yield Table(self.SPECS)
            yield Static(id="fact")
            yield Static(Content("y copies · Esc goes back"), classes="hint")

    def on_mount(self) -> None:
        table = self.query_one(Table)
        columns = {spec.name: [getattr(fact, spec.name) for fact in self.facts] for spec in self.SPECS}
        table.set_rows(Rows(columns, list(range(len(self.facts)))))
        table.focus()
        self.watch(table, "cursor", self._show)

    def _show(self, row: int) -> None:
        """The fact under the cursor, whole."""
        if row < len(self.facts):
            fact = self.facts[row]
            parts = [fact.value, *(part for part in (fact.octets, fact.meaning) if part)]
            self.query_one("#fact", Static).update(Content.assemble((fact.name, "bold"), " = ", "  ·  ".join(parts)))

    def action_copy(self) -> None:
        lines = [self.heading, *(f"{title}: {value}" for title, value in self.lines)]
        lines += ["\t".join((f.number, f.name, f.length, f.octets, f.value, f.meaning)) for f in self.facts]
        self.app.copy_to_clipboard("\n".join(lines))
        self.notify("Copied: the row with all its elements")


class ExportScreen(ModalScreen[None]):
    """``write``: (format, path) -> what to say; OSError, PyflowxError as they are. ``command``: what gives the same."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", id="export.back"),
        Binding("ctrl+y", "copy", "Copy the command", priority=True, id="export.copy"),
    ]
    FORMATS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("CSV", "csv"),
        ("JSON, an object a line", "json"),
        ("Parquet", "parquet"),
    )

    def __init__(
        self, what: str, name: str, write: Callable[[str, str], str], command: Callable[[str, str], str]
    ) -> None:
        super().__init__()
        self.what, self.stem, self.write, self.command = what, name, write, command

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield Static(Content(f"Export {self.what}"), classes="heading")
            with Horizontal(classes="row"):
                yield Static("Format", classes="label")
                yield Select(self.FORMATS, value="csv", allow_blank=False, compact=True)
            with Horizontal(classes="row"):
                yield Static("File", classes="label")
                yield Input(f"{self.stem}.csv", compact=True)
            yield Static("The nearest on the command line:", classes="label-line")
            yield Static(id="command")
            yield Static(id="export-error")
            yield Static(Content("Enter writes · Ctrl+y copies the command · Esc goes back"), classes="hint")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._show()

    @property
    def form(self) -> str:
        return str(self.query_one(Select).value)

    @on(Select.Changed)
    def other_format(self) -> None:
        path = self.query_one(Input)
        if path.value:
            path.value = str(Path(path.value).with_suffix(f".{self.form}"))
        self._show()

    @on(Input.Changed)
    def other_file(self, event: Input.Changed) -> None:
        suffix = Path(event.value).suffix.removeprefix(".")
        if suffix in {form for _, form in self.FORMATS} and suffix != self.form:
            self.query_one(Select).value = suffix
        self._show()

    def _show(self) -> None:
        self.query_one("#command", Static).update(Content(self.command(self.form, self.query_one(Input).value)))

    @on(Input.Submitted)
    def go(self) -> None:
        from pyflowx.errors import PyflowxError

        path = self.query_one(Input).value.strip()
        if not path:
            self.query_one("#export-error", Static).update("give a name")
            return
        try:
            told = self.write(self.form, path)
        except (OSError, PyflowxError) as error:
            self.query_one("#export-error", Static).update(Content(str(error)))
            return
        self.app.notify(told)
        self.dismiss()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.command(self.form, self.query_one(Input).value))
        self.notify("Copied: the command")
