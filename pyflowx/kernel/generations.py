"""The two tables of flows that take turns: one counts while the other is read and emptied (``bpf/table.h``)."""

from __future__ import annotations

import mmap
import secrets
import struct
from contextlib import ExitStack
from typing import Any

import numpy as np

from pyflowx.flowtable import opaque
from pyflowx.kernel import syscall
from pyflowx.kernel.layout import (
    CATCH_ALL_PROBES,
    NEAR_PROBES,
    RECENT,
    TABLE_STATE_DTYPE,
    TABLE_WORDS,
    NumberSlot,
    flow_dtype,
)
from pyflowx.kernel.syscall import Array, Map

_FIRST = bytes(4)  # the only index of an array of one
_FEW = 1 << 15  # places in use, at least
_SPACE = 2  # times as many places as flows
_LOAD = 0.6  # of the places in use that may be taken: then it is quicker to look elsewhere
_WHOLE = 1 / 4  # of the places: where so many are taken, all are cleared, which is the quicker then


class _Table:
    """A table of ``places`` flows, mapped into our memory. Only what no program writes to any more may be read."""

    def __init__(self, flow: np.dtype[Any], places: int) -> None:
        self.bits = -(-places // (64 * TABLE_WORDS))  # entries
        recent = places + 1 + self.bits
        entries = recent + (1 + RECENT) * syscall.possible_cpus()
        self.map = Map(syscall.MAP_TYPE_ARRAY, 4, flow.itemsize, entries, "pyflowx_flows", syscall.MMAPABLE)
        self._memory = mmap.mmap(self.map.fd, -(-entries * flow.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE)
        flows = np.frombuffer(self._memory, flow, entries)
        self._places = flows[:places]
        self._state = flows[places : places + 1].view(np.uint8)[: TABLE_STATE_DTYPE.itemsize].view(TABLE_STATE_DTYPE)
        words = flows[places + 1 : recent].view(np.uint64).reshape(-1, flow.itemsize // 8)
        self._bits = words[:, :TABLE_WORDS]
        self._recent = flows[recent:].reshape(-1, 1 + RECENT)

    @property
    def flows(self) -> int:
        """How many there are; also while programs write. Those that wait for a place may be in it twice."""
        return int(self._state["flows"][0]) + int(self._recent["claims"][:, 0].sum())

    def begin(self, places: int, flows: int) -> None:
        """Where the programs are to look first, and how many flows get a place there."""
        self._state["places"], self._state["expected"] = places, flows

    def waiting(self) -> Array:
        """The flows that wait for a place, of all processors."""
        counts = self._recent["claims"][:, :1]
        return self._recent[:, 1:][np.arange(RECENT) < counts]

    def drain(self) -> tuple[Array, int]:
        """All flows, those that have a place and then those that wait, and how many these are. The table is empty
        then."""
        taken = np.flatnonzero(np.unpackbits(self._bits.copy().view(np.uint8), bitorder="little"))
        recent = self.waiting()
        places = opaque(self._places)
        flows = np.empty(len(taken) + len(recent), places.dtype)
        np.take(places, taken, out=flows[: len(taken)], mode="clip")  # "raise" would copy once more
        flows[len(taken) :] = opaque(recent)
        if len(taken) > _WHOLE * len(places) or self._state["spoiled"][0]:
            self._places.view(np.uint64)[:] = 0
        else:
            places[taken] = np.void(bytes(places.itemsize))
        self._recent["claims"][:, 0] = 0
        self._bits[:] = 0
        self._state.view(np.uint64)[:] = 0
        return flows.view(self._places.dtype), len(recent)

    def close(self) -> None:
        # unmapped when nobody looks at it any more
        del self._recent, self._places, self._state, self._bits, self._memory
        self.map.close()


class Generations:
    """Programs find the active table in ``map``, an array of one; what else they need to know of it is in
    ``numbers``. A table has half as many places again as ``max_flows``, so that a flow is found near the place that
    its hash says, and others for ``catch_alls`` catch-all flows."""

    def __init__(self, key: np.dtype[Any], value: np.dtype[Any], max_flows: int, catch_alls: int) -> None:
        self._key, self._value, self._flow = key, value, flow_dtype(key, value)
        self._most, others = max_flows + max_flows // 2 + 1, 4 * catch_alls + 1
        self.numbers = {
            NumberSlot.MAX_FLOWS: max_flows,
            NumberSlot.PLACES: self._most,
            NumberSlot.CATCH_ALL_PLACES: others,
        } | {NumberSlot.HASH + word: secrets.randbits(64) for word in range(1 + key.itemsize // 4)}
        self.metered = [(0, 0), (0, 0)]
        """By direction: packets and layer 2 octets that the programs had not counted yet when they were drained."""
        self._resources = ExitStack()
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self._tables: list[_Table] = []  # the active one first
            for _ in range(2):
                table = _Table(self._flow, self._most + NEAR_PROBES + others + CATCH_ALL_PROBES)
                self._resources.callback(table.close)
                self._tables.append(table)
            inner = self._tables[0].map.fd
            outer = Map(syscall.MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, "pyflowx_active", inner=inner)
            self.map = self._resources.enter_context(outer)
            self.numbers[NumberSlot.TABLE_BITS] = self._tables[0].bits
            self._activate(max_flows)  # nobody knows yet
            on_error.pop_all()

    @property
    def waiting(self) -> int:
        """Flows in the active table, without the catch-all ones."""
        return self._tables[0].flows

    def drain(self) -> tuple[Array, Array]:
        """Let the tables change places and empty the one that is quiet then: n keys and n values, side by side in
        memory. A key may be there twice."""
        expected = self.waiting  # as many as there were now
        self._tables.reverse()
        self._activate(expected)
        flows, uncounted = self._tables[1].drain()
        self._count(flows[len(flows) - uncounted :])
        return flows["key"], flows["value"]

    def _count(self, flows: Array) -> None:
        for direction, (packets, octets) in enumerate(self.metered):
            ours = flows["value"][flows["key"]["direction"] == direction]
            self.metered[direction] = packets + int(ours["packets"].sum()), octets + int(ours["l2_octets"].sum())

    def _activate(self, expected: int) -> None:
        """Returns when no program sees the other one any more."""
        places = max(_FEW, _SPACE * expected)
        if places < self._most // 2:
            self._tables[0].begin(places, int(places * _LOAD))
        else:  # room for many more
            self._tables[0].begin(self._most, self.numbers[NumberSlot.MAX_FLOWS])
        self.map.update(_FIRST, struct.pack("=I", self._tables[0].map.fd))

    def close(self) -> None:
        self._resources.close()
