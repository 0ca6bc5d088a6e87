"""The screen Templates: what exporters have defined, how old it is, what changed, and what waits for a Template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, ClassVar

import numpy as np
from textual.content import Content

from .. import text
from ..panels import SplitView, heading, line
from ..state import State
from ..table import ColumnSpec, Rows
from .exporters import ages, many, or_dot, styled, texts

Row = Mapping[str, Any]
Fields = Sequence[Sequence[Any]]  # [pen, id, name, length]
VARIABLE = 65535
_KEY = ("exporter", "version", "domain", "id")


def key_of(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def octets_of(fields: Fields) -> str:
    """Of a record: ``52``, ``52+`` with variable lengths."""
    fixed = sum(field[3] for field in fields if field[3] != VARIABLE)
    return f"{fixed}+" if any(field[3] == VARIABLE for field in fields) else str(fixed)


class TemplatesView(SplitView):
    title: ClassVar[str] = "Templates"
    key: ClassVar[str] = "4"
    about: ClassVar[str] = (
        "The Templates of every exporter and Observation Domain: fields, octets of a record, age, when they were last "
        "sent and how often, redefinitions as a difference; data that waits for a Template stands there as missing."
    )
    empty: ClassVar[str] = "No Templates yet\nNetFlow v9 and IPFIX have them; v5 and sFlow need none."
    default_sort: ClassVar[tuple[str, bool] | None] = ("exporter", False)
    specs: ClassVar[Sequence[ColumnSpec]] = (
        ColumnSpec("exporter", "Exporter", 12, 11, render=texts, style="address", flex=2),
        ColumnSpec("version", "Ver", 5, render=many(lambda v: {9: "v9", 10: "IPFIX"}.get(v, str(v))), style="accent"),
        ColumnSpec("domain", "Dom", 4, align="right", style="number", flex=1),
        ColumnSpec("id", "ID", 4, align="right", style="number"),
        ColumnSpec("kind", "Kind", 7, render=texts, style=styled(lambda kind: kind == "missing", "bad", "text")),
        ColumnSpec("fields", "Flds", 4, align="right", render=or_dot(str), style="number"),
        ColumnSpec("age", "Age", 6, align="right", render=ages, style="dim"),
        ColumnSpec("refreshed", "Sent", 6, align="right", render=ages, style="number"),
        ColumnSpec("refreshes", "Times", 5, align="right", render=many(text.count), style="number"),
        ColumnSpec("redefined", "Redef", 5, align="right", render=or_dot(str), style=styled(bool, "warn")),
        ColumnSpec("held", "Held", 4, align="right", render=or_dot(str), style=styled(bool)),
        ColumnSpec("octets", "Octets", 6, align="right", render=texts, style="number"),
    )

    def rows(self, state: State) -> Rows:
        found = self._found(state)
        now_ns = int(state.snapshot.get("time_ns", 0))
        uses: Sequence[Sequence[int]] = state.section("template_uses", ())
        changes: dict[tuple[Any, ...], int] = {}
        for row in state.section("redefinitions", ()):
            changes[key_of(row)] = changes.get(key_of(row), 0) + 1
        columns: dict[str, Any] = {name: np.array([row[name] for row in found], np.int64) for name in _KEY[1:]}
        columns["exporter"] = [row["exporter"] for row in found]
        columns["kind"] = [
            "missing" if "fields" not in row else "options" if row["scope_count"] else "data" for row in found
        ]
        columns["fields"] = np.array([len(row.get("fields", ())) for row in found], np.int64)
        columns["octets"] = [octets_of(row["fields"]) if "fields" in row else "" for row in found]
        times = [
            uses[place] if place < len(uses) else (row.get("oldest_ns", now_ns), row.get("oldest_ns", now_ns), 0)
            for place, row in enumerate(found)
        ]
        columns["age"] = np.array([now_ns - each[0] for each in times], np.int64)
        columns["refreshed"] = np.array([now_ns - each[1] for each in times], np.int64)
        columns["refreshes"] = np.array([each[2] for each in times], np.int64)
        columns["redefined"] = np.array([changes.get(key_of(row), 0) for row in found], np.int64)
        columns["held"] = np.array([row.get("sets", 0) for row in found], np.int64)
        return Rows(columns, [key_of(row) for row in found])

    def _found(self, state: State) -> Sequence[Row]:
        """Templates, then those that data waits for."""
        there: Sequence[Row] = state.section("templates", ())
        keys = {key_of(row) for row in there}
        return [*there, *(row for row in state.section("held_for", ()) if key_of(row) not in keys)]

    def about_row(self, state: State, row: int) -> Sequence[Content]:
        found = self._found(state)
        if row >= len(found):
            return ()
        template = found[row]
        name = f"Template {template['id']} of {template['exporter']}, domain {template['domain']}"
        if "fields" not in template:
            return [
                heading(name, "has not come"),
                line((f"  {template['sets']} Data Sets wait for it; they are given up when they are too old.", "")),
                line(
                    (
                        "  Exporters send Templates again after a while: look at its template refresh rate,",
                        "$text-muted",
                    )
                ),
                line(("  and keep those of before a restart with pyflowx collect --template-file.", "$text-muted")),
            ]
        lines: list[Content] = []
        for change in state.section("redefinitions", ()):
            if key_of(change) == key_of(template):
                ago = text.age(int(state.snapshot.get("time_ns", 0)) - change["time_ns"])
                lines += [heading("Redefined", f"{ago} ago"), *difference(change["before"], change["after"]), line("")]
        lines.append(
            heading(name, f"{len(template['fields'])} fields, {octets_of(template['fields'])} octets a record")
        )
        scopes = template["scope_count"]
        lines += [_field(field, "scope " if place < scopes else "") for place, field in enumerate(template["fields"])]
        return lines


def _name(field: Sequence[Any]) -> str:
    pen, id, name, length = field
    number = f"{pen}/{id}" if pen else str(id)
    octets = "variable" if length == VARIABLE else f"{length} octets" if length != 1 else "1 octet"
    return f"{number:>10}  {name:<32} {octets}"


def _field(field: Sequence[Any], before: str) -> Content:
    return line((f"  {before}", "$text-accent"), _name(field))


def difference(before: Fields, after: Fields) -> Iterator[Content]:
    """What went and what came, with a field around it that stayed."""
    old, new = [tuple(field) for field in before], [tuple(field) for field in after]
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            if b - a > 2:
                yield line((f"    … {b - a} fields as before", "$text-muted"))
            else:
                for field in old[a:b]:
                    yield line(("    " + _name(field), "$text-muted"))
            continue
        for field in old[a:b]:
            yield line(("  - " + _name(field), "$text-error"))
        for field in new[c:d]:
            yield line(("  + " + _name(field), "$text-success"))
