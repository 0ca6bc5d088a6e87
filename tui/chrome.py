"""The lines around a screen: which there are, the sources, what is wrong with one, the state of things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from textual.content import Content

from . import playback, text
from .screens.base import Options, View
from .state import State

_DOTS = {"live": ("●", "$text-success"), "connecting": ("○", "$text-warning"), "stalled": ("◐", "$text-warning")}
_DOTS |= {"ended": ("■", "$foreground-muted"), "failed": ("✗", "$text-error")}


class Banner(NamedTuple):
    kind: Literal["warn", "bad", "paused"]
    text: Content


def screens(views: Iterable[View], shown: View, width: int) -> Content:
    """``1 Flows 2 Top ...``, each to be clicked; the numbers alone where there is no room."""
    views = list(views)
    gap = " " if width < 100 else "   "
    full = sum(len(view.title) + 2 + len(gap) for view in views) + 2 <= width + len(gap)
    parts: list[Content] = []
    for view in views:
        name = view.title if full or view is shown else ""
        label = f"{view.key} {name}".rstrip()
        style = "bold $text on $primary" if view is shown else "$foreground-muted"
        if view is shown:
            parts.append(Content.styled(f" {label} ", style))
            continue
        link = Content.from_markup(f"[@click=app.show('{view.title.lower()}')]$label[/]", label=label)
        parts.append(link)
    return Content(gap).join(parts)


def sources(states: Sequence[State], current: int) -> Content:
    """A tab for each source, with a dot for how it is."""
    parts = []
    for place, state in enumerate(states):
        dot, style = _DOTS.get(state.source.state, _DOTS["failed"])
        label = Content.assemble(
            (dot, style), " ", (text.clean(state.source.name, 40), "bold" if place == current else "")
        )
        parts.append(label.stylize(f"@click=app.select_source({place})"))
    return Content.assemble(" ", Content(" │ ").join(parts))


def banner(state: State, paused_ns: int, now_ns: int) -> Banner | None:
    """What the user must not overlook: a feed that is not live, a view that stands still."""
    source = state.source
    said = text.clean(source.message, 300)
    old = f"what you see is {text.age(now_ns - state.received_ns)} old" if state.received_ns else "nothing has come yet"
    if source.state == "stalled":
        return Banner("bad", Content(f"STALLED  nothing comes from {text.clean(source.name, 60)}: {old}"))
    if source.state == "failed":
        return Banner("bad", Content(f"FAILED  {said or 'the source gives nothing any more'}"))
    if paused_ns:
        return Banner(
            "paused", Content(f"PAUSED  {text.age(max(0, now_ns - state_time(state, paused_ns)))} old · p goes on")
        )
    if source.state == "ended":
        return Banner("warn", Content(f"ENDED  {said or 'there is no more'}"))
    if source.state == "connecting":
        return Banner("warn", Content(f"CONNECTING  {said}" + (f" · {old}" if state.received_ns else "")))
    return None


def state_time(state: State, paused_ns: int) -> int:
    return paused_ns


def status(state: State, view: View, options: Options, width: int) -> Content:
    """The source, its rates and losses; on the right what was chosen."""
    dot, style = _DOTS.get(state.source.state, _DOTS["failed"])
    parts = [Content.assemble(" ", (dot, style), " ", (text.clean(state.source.name, 24), "bold"))]
    played = playback.about(state)
    if played:
        parts.append(Content.styled(played, "$text-accent"))
    parts += [Content(part) for part in _rates(state)]
    left = Content("  ").join(parts)
    right = _choices(view, options)
    room = width - left.cell_length - right.cell_length - 1
    if room < 1:
        return Content.assemble(left.truncate(max(0, width - right.cell_length - 2), ellipsis=True), " ", right)
    return Content.assemble(left, " " * room, right)


def _rates(state: State) -> list[str]:
    found = []
    if state.role == "export":
        found.append(f"{text.rate(state.per_second('counters', 'packets_metered'), 'pkt/s')}")
        found.append(f"{text.count(state.section('counters', {}).get('alive', 0))} flows")
    elif state.snapshot:
        found.append(f"{text.count(state.per_second('counters', 'flows'))} flows/s")
        found.append(f"{text.count(state.per_second('counters', 'datagrams'))} datagrams/s")
    if state.snapshot:
        lost = sum(int(stage.get("lost") or 0) for stage in state.section("pipeline", ()))
        found.append(f"lost {text.count(lost)}" if lost else "nothing lost")
        dropped = int(state.snapshot.get("dropped") or 0)
        if dropped:
            found.append(f"{dropped} snapshots missed")
    return found


def _choices(view: View, options: Options) -> Content:
    parts: list[Content] = []
    if view.query_text:
        parts.append(Content.styled(f"/{text.clean(view.query_text, 40)}", "$text-accent"))
    marks = [name for name, is_set in (("names", options.names), ("scaled", options.scaled)) if is_set]
    marks += ["rates" if options.rates else "totals"]
    parts.append(Content.styled(" ".join(marks), "$foreground-muted"))
    return Content("  ").join([*parts, Content("")])
