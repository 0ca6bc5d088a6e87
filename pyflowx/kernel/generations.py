"""The two hashes of flows that take turns: one counts while the other is emptied."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from pyflowx.errors import KernelError
from pyflowx.kernel import syscall
from pyflowx.kernel.syscall import Array, Map

_FIRST = bytes(4)  # the only index of an array of one
_BURST = 8  # a hash that once held so many times what it holds now ...
_CALM_DRAINS = 8  # ... for so many drains ...
_WORN = 1 << 16  # ... and more flows than this, is replaced


class Generations:
    """Programs find the active hash in ``map``, an array of one.

    Hashes are preallocated: one insertion costs half as much, and each flow is inserted again after each drain; and no
    packet meets an allocation that fails. The kernel gives their entries out in the order in which they were freed:
    after a burst the few flows of quiet times lie far apart in the memory, and a packet costs a quarter more. A hash
    that has seen a burst is replaced by a fresh one when it is over.
    """

    def __init__(self, key_dtype: np.dtype[Any], value_dtype: np.dtype[Any], entries: int) -> None:
        self._key, self._value, self._entries = key_dtype, value_dtype, entries
        self._resources = ExitStack()
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self._hashes: list[Map] = []  # the active one first
            for _ in range(2):
                self._hashes.append(self._make())
            outer = Map(syscall.MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, "pyflowx_active", inner=self.active.fd)
            self.map = self._resources.enter_context(outer)
            self._activate()
            on_error.pop_all()
        self._most = [0, 0]  # flows that each has held at once
        self._calm = [0, 0]  # drains since it last held many

    @property
    def active(self) -> Map:
        return self._hashes[0]

    def close(self) -> None:
        self._resources.close()
        for each in self._hashes:
            each.close()

    def drain(self, kept: Iterable[bytes]) -> tuple[Array, Array]:
        """Let the hashes change places and empty the one that is quiet then; ``kept``: keys that are to be in the
        active one, with values of 0."""
        for key in kept:
            self._hashes[1].update(key, bytes(self._value.itemsize))
        for pair in (self._hashes, self._most, self._calm):
            pair.reverse()
        self._activate()
        keys, values = self._hashes[1].drain(self._key, self._value)
        self._note(len(keys))
        return keys, values

    def _make(self) -> Map:
        return Map(syscall.MAP_TYPE_HASH, self._key.itemsize, self._value.itemsize, self._entries, "pyflowx_flows")

    def _activate(self) -> None:
        """Returns when no program sees the other one any more."""
        self.map.update(_FIRST, struct.pack("=I", self.active.fd))

    def _note(self, count: int) -> None:
        """What the quiet hash held; replaces it where a burst is over."""
        self._most[1] = max(self._most[1], count)
        is_calm = count * _BURST < self._most[1] > _WORN
        self._calm[1] = self._calm[1] + 1 if is_calm else 0
        if self._calm[1] == _CALM_DRAINS:
            with suppress(KernelError):  # no memory for a third one: it goes on as it is
                fresh = self._make()
                self._hashes[1].close()
                self._hashes[1], self._most[1], self._calm[1] = fresh, 0, 0
