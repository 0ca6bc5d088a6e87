"""Keys that record what is shown, and those that steer a recording."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyflowx.errors import ConfigError

from . import text
from .record import Recorder, ReplaySource, new_name

if TYPE_CHECKING:
    from .state import State

SEEK_S = 10
# action, keys, what it says in the footer and help, in the footer
KEYS: tuple[tuple[str, str, str, bool], ...] = (
    ("record", "R", "Record, or end the recording", False),
    ("play", "space", "Recording: stop, play", True),
    ("seek(1)", "full_stop", f"Recording: {SEEK_S} s on", False),
    ("seek(-1)", "comma", f"Recording: {SEEK_S} s back", False),
    ("faster(1)", "greater_than_sign", "Recording: faster", False),
    ("faster(-1)", "less_than_sign", "Recording: slower", False),
)
STEERS = ("play", "seek", "faster")


class Playback:
    """A part of the application; ``states`` and ``current`` are its own. Recordings are made in :attr:`folder`."""

    states: list[State]
    current: int
    folder = Path()
    notify: Any

    # -- recording -----------------------------------------------------------------------------------------------------

    def action_record(self) -> None:
        """Begin a recording of the source that is shown, or end it."""
        state = self.states[self.current]
        if state.recorder is not None:
            self._end(state)
            return
        if state.source.hello is None:
            self.notify("There is nothing to record yet", severity="warning")
            return
        path = self.folder / new_name(state.source.name, time.time())
        try:
            state.recorder = Recorder(path, state.source.hello, state.source.name)
        except ConfigError as error:
            self.notify(text.clean(error), severity="error", markup=False)
            return
        if state.snapshot:
            state.record(state.snapshot)
        self.notify(f"Recording to {text.clean(path)}; R ends it", markup=False)

    def _end(self, state: State) -> None:
        recorder, state.recorder = state.recorder, None
        if recorder is None:
            return
        try:
            recorder.close()
        except OSError as error:
            self.notify(f"{text.clean(recorder.path)}: {error.strerror}", severity="error", markup=False)
            return
        told = f"{recorder.snapshots} snapshots, {text.octets(os.path.getsize(recorder.path))}"
        self.notify(f"{text.clean(recorder.path)}: {told}. pyflowx tui --replay plays it", markup=False)

    def watch_recordings(self) -> None:
        """Say why a recording has ended by itself."""
        for state in self.states:
            recorder = state.recorder
            if recorder is not None and (recorder.is_full or recorder.error):
                why = recorder.error or "it is as long as a recording may be"
                self.notify(f"The recording ends: {text.clean(why)}", severity="warning", markup=False)
                self._end(state)

    def end_recordings(self) -> None:
        """Complete those that are being made."""
        for state in self.states:
            self._end(state)

    # -- a recording that is shown -------------------------------------------------------------------------------------

    def replayed(self) -> ReplaySource | None:
        """The recording that is shown, if it is one."""
        source = self.states[self.current].source
        return source if isinstance(source, ReplaySource) else None

    def action_play(self) -> None:
        """Stop, or go on; from the beginning after the end."""
        source = self.replayed()
        if source is not None:
            source.pause()

    def action_seek(self, way: int) -> None:
        """Some seconds on, or back."""
        source = self.replayed()
        if source is not None:
            source.seek(way * SEEK_S)

    def action_faster(self, way: int) -> None:
        """Faster, or slower."""
        source = self.replayed()
        if source is not None:
            source.faster(way)


def about(state: State) -> str:
    """For the status line: where a recording is that is played, how long one is that is made."""
    parts = [state.source.about()] if isinstance(state.source, ReplaySource) else []
    if state.recorder is not None:
        parts.append(f"● REC {state.recorder.snapshots}")
    return "  ".join(parts)
