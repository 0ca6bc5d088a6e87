"""How far a capture file is read, on the user's terminal."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pyflowx.batch import PacketBatch
    from pyflowx.transport.capture import CaptureReader

_EVERY_S = 0.1
_BAR = 30


class Progress:
    """Passes on what a reader gives and draws a bar on stderr, where that is a terminal without other output."""

    def __init__(self, reader: CaptureReader, path: str, stdout_is_used: bool) -> None:
        self._reader, self._name = reader, os.path.basename(path) if path != "-" else "stdin"
        self._visible = sys.stderr.isatty() and not (stdout_is_used and sys.stdout.isatty())
        self._next = 0.0

    @property
    def exhausted(self) -> bool:
        return self._reader.exhausted

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
        batch = self._reader.receive(timeout_s, linger_s)
        if self._visible and time.monotonic() >= self._next:
            print(f"\r{self.text()}\x1b[K", end="", file=sys.stderr, flush=True)
            self._next = time.monotonic() + _EVERY_S
        return batch

    def text(self) -> str:
        """One line: the bar, or the octets alone where the end is not known."""
        done, total = self._reader.progress()
        if not total:
            return f"{self._name} {done / 1e6:,.0f} MB"
        share = min(done / total, 1.0)
        bar = ("#" * int(share * _BAR)).ljust(_BAR, ".")
        return f"{self._name} [{bar}] {share:4.0%} of {total / 1e6:,.0f} MB"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._visible:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
