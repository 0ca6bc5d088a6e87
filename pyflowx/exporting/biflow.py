"""Both directions of a conversation: Biflows (RFC 5103), and whether both sides have ended it.

A direction is *turned* when its source is the higher one of the two endpoints; with the turned keys turned round, both
directions have the same *conversation key*. The direction of the interface and the ToS are left out of it: they
belong to one way only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyflowx.batch import Array
from pyflowx.exporting.fields import MERGES
from pyflowx.flowtable import KEEP, FlowRecords, Rule

Mask = npt.NDArray[np.bool_]

FIN, RST = 1, 4  # of tcpControlBits
QUIET_NS = 500_000_000  # after a connection has ended something belated may come
_ENDS = (("src", "dst"), ("src_port", "dst_port"), ("src_mac", "dst_mac"))
_ONE_WAY = ("direction", "tos")  # of the key; a Biflow has them in its value
_WHOLE = ("first_ns", "last_ns", "tcp_flags")  # what the table asks of a Biflow: of both ways
_FORWARD, _REVERSE = "f_", "r_"


def _higher(keys: Array) -> Mask:
    """Whether the source is the higher endpoint."""
    higher: Mask = keys["src_port"] > keys["dst_port"]
    source, target = (np.ascontiguousarray(keys[name]).view(">u8") for name in ("src", "dst"))
    for word in (1, 0):
        ours, theirs = source[:, word], target[:, word]
        higher = (ours > theirs) | ((ours == theirs) & higher)
    return higher


def _turn(keys: Array, mask: Mask) -> None:
    """Exchange the endpoints of the rows of ``mask``."""
    for source, target in _ENDS:
        if source in (keys.dtype.names or ()):
            turned = keys[target][mask]
            keys[target][mask] = keys[source][mask]
            keys[source][mask] = turned


def conversations(keys: Array) -> tuple[Array, Mask]:
    """The conversation key of each of n keys, and which of them were turned."""
    turned, found = _higher(keys), keys.copy()
    _turn(found, turned)
    for name in _ONE_WAY:
        found[name] = 0
    return found, turned


def ended(keys: Array, values: Array, now_ns: int) -> Mask:
    """Which flows, all of those with a FIN or RST, have come to their end: a RST, or FINs both ways, and then nothing
    more for :data:`QUIET_NS`. The flows of a conversation end together."""
    same, turned = conversations(keys)
    words = same.view(np.uint64).reshape(len(keys), -1)
    order = np.lexsort(words.T)
    begins = np.ones(len(keys), bool)
    begins[1:] = (words[order][1:] != words[order][:-1]).any(axis=1)
    starts = np.flatnonzero(begins)
    last = np.maximum.reduceat(values["last_ns"][order], starts)
    reset, one, other = (
        np.logical_or.reduceat(side[order], starts) for side in (values["tcp_flags"] & RST != 0, turned, ~turned)
    )
    over = np.empty(len(keys), bool)
    over[order] = np.repeat((reset | (one & other)) & (last <= now_ns - QUIET_NS), np.diff(starts, append=len(keys)))
    return over


def ended_biflows(keys: Array, values: Array, now_ns: int) -> Mask:
    """The same of Biflows, which know both ways."""
    forward, back = values[f"{_FORWARD}tcp_flags"], values[f"{_REVERSE}tcp_flags"]
    over: Mask = ((forward | back) & RST != 0) | (forward & back & FIN != 0)
    return over & (values["last_ns"] <= now_ns - QUIET_NS)


class Pairing:
    """Makes deltas of single directions into deltas of Biflows, and ended Biflows into records.

    In the table, a value has the direction that is not turned in fields called ``f_...``, the other one in ``r_...``.
    A record has the direction of the first packet in the plain names, the other one in ``r_...``.
    """

    def __init__(self, key_dtype: np.dtype[np.void], value_dtype: np.dtype[np.void]) -> None:
        kept = [name for name in value_dtype.names or () if name in MERGES]
        self._fields = [*((name, key_dtype[name]) for name in _ONE_WAY), *((name, value_dtype[name]) for name in kept)]
        whole = [(name, value_dtype[name]) for name in _WHOLE]
        self.value_dtype = _padded([*whole, *self._prefixed(_FORWARD), *self._prefixed(_REVERSE)])
        self.record_dtype = np.dtype([*self._fields, *self._prefixed(_REVERSE)])
        self.merges: dict[str, Rule] = {name: MERGES[name] for name in _WHOLE}
        for prefix in (_FORWARD, _REVERSE):  # a direction may be without a packet yet
            for name, _ in self._fields:
                self.merges[prefix + name] = MERGES.get(name, KEEP) or f"{prefix}packets"

    def _prefixed(self, prefix: str) -> list[tuple[str, np.dtype[np.void]]]:
        return [(prefix + name, dtype) for name, dtype in self._fields]

    def deltas(self, keys: Array, values: Array) -> tuple[Array, Array]:
        """Deltas of conversations."""
        same, turned = conversations(keys)
        deltas = np.zeros(len(keys), [("key", keys.dtype), ("value", self.value_dtype)])
        deltas["key"], made = same, deltas["value"]
        for name in _WHOLE:
            made[name] = values[name]
        for name, _ in self._fields:
            source = keys[name] if name in _ONE_WAY else values[name]
            mask = turned.reshape(-1, *[1] * (source.ndim - 1))
            nothing = np.iinfo(source.dtype).max if MERGES.get(name) is np.minimum else 0
            made[_FORWARD + name] = np.where(mask, nothing, source)
            made[_REVERSE + name] = np.where(mask, source, nothing)
        return deltas["key"], made

    def records(self, biflows: FlowRecords) -> FlowRecords:
        """Forward is the direction of the first packet."""
        keys, values = biflows.keys.copy(), biflows.values
        back = values[f"{_REVERSE}first_ns"] < values[f"{_FORWARD}first_ns"]
        _turn(keys, back)
        made = np.empty(len(keys), self.record_dtype)
        for name, _ in self._fields:
            one, other = values[_FORWARD + name], values[_REVERSE + name]
            mask = back.reshape(-1, *[1] * (one.ndim - 1))
            made[name], made[_REVERSE + name] = np.where(mask, other, one), np.where(mask, one, other)
        for name in _ONE_WAY:
            keys[name] = made[name]
        return FlowRecords(keys, made, biflows.reason)


def _padded(fields: list[tuple[str, np.dtype[np.void]]]) -> np.dtype[np.void]:
    """To whole words, as the flow table has them."""
    rest = -np.dtype(fields).itemsize % 8
    return np.dtype([*fields, ("padding", np.dtype(("u1", rest)))] if rest else fields)
