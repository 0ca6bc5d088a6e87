"""Names of addresses and ports, asked for only when the user wants them (``n``), and never waited for."""

from __future__ import annotations

import functools
import queue
import socket
import threading
from collections.abc import Sequence

from .columns import address_text
from .text import clean

_KNOWN = 1 << 16
_WAITING = 512  # look-ups; those beyond are asked for again when the row is drawn again
_THREADS = 4
_NAME = 64  # characters


class Names:
    """Names by reverse look-up in threads of their own: what is not known yet is shown as the address."""

    def __init__(self) -> None:
        self.version = 0  # grows with each name that is found
        self._known: dict[bytes, str] = {}  # empty: it has none, or is being asked for
        self._asked: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._threads: list[threading.Thread] = []

    def of(self, octets: bytes) -> str:
        """The name of an address, empty while none is known."""
        name = self._known.get(octets)
        if name is None:
            name = ""
            self._ask(octets)
        return name

    def _ask(self, octets: bytes) -> None:
        if not self._threads:
            self._threads = [threading.Thread(target=self._work, daemon=True, name="names") for _ in range(_THREADS)]
            for thread in self._threads:
                thread.start()
        try:
            self._asked.put_nowait(octets)
        except queue.Full:
            return
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[octets] = ""

    def _work(self) -> None:
        while True:
            octets = self._asked.get()
            try:
                name = socket.gethostbyaddr(address_text(octets))[0]
            except (OSError, UnicodeError):
                continue
            self._known[octets] = clean(name, _NAME)
            self.version += 1

    def addresses(self, rows: Sequence[bytes]) -> list[str]:
        return [self.of(octets) or address_text(octets) for octets in rows]


@functools.lru_cache(1 << 16)
def service(port: int, protocol: str) -> str:
    """The name of a port in this host's list of services; its number where there is none."""
    try:
        return socket.getservbyport(port, protocol)
    except (OSError, OverflowError):
        return str(port)
