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
_ENDS = (("src", "dst"), ("src_port", "dst_port"), ("src_mac", "dst_mac"))
_ONE_WAY = ("direction", "tos")  # of the key; a Biflow has them in its value
_REVERSE = "r_"


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


def ended(keys: Array, values: Array) -> Mask:
    """Which flows, all of those with a FIN or RST of late, have come to their end: a RST, or FINs both ways."""
    over: Mask = values["tcp_flags"] & RST != 0
    rows = np.flatnonzero(~over)
    if not len(rows):
        return over
    same, turned = conversations(keys[rows])
    words = same.view(np.uint64).reshape(len(rows), -1)
    order = np.lexsort(words.T)
    begins = np.ones(len(rows), bool)
    begins[1:] = (words[order][1:] != words[order][:-1]).any(axis=1)
    starts = np.flatnonzero(begins)
    one, other = (np.logical_or.reduceat(side[order], starts) for side in (turned, ~turned))
    over[rows[order]] = np.repeat(one & other, np.diff(starts, append=len(rows)))
    return over


def ended_biflows(keys: Array, values: Array) -> Mask:
    """The same of Biflows, which know both ways."""
    forward, back = values["tcp_flags"], values[f"{_REVERSE}tcp_flags"]
    over: Mask = ((forward | back) & RST != 0) | (forward & back & FIN != 0)
    return over


class Pairing:
    """Makes deltas of single directions into deltas of Biflows, and ended Biflows into records.

    While it is in the table, the value has the direction that is not turned in its plain fields and the other one in
    those named ``r_...``; as a record, the one whose packet came first.
    """

    def __init__(self, key_dtype: np.dtype[np.void], value_dtype: np.dtype[np.void]) -> None:
        kept = [name for name in value_dtype.names or () if name in MERGES]
        one_way = [*((name, key_dtype[name]) for name in _ONE_WAY), *((name, value_dtype[name]) for name in kept)]
        self._names = [name for name, _ in one_way]
        fields = [*one_way, *((_REVERSE + name, dtype) for name, dtype in one_way)]
        size = np.dtype(fields).itemsize
        fields += [("padding", np.dtype(("u1", -size % 8)))] if size % 8 else []
        self.value_dtype = np.dtype(fields)
        self.merges: dict[str, Rule] = {
            prefix + name: MERGES.get(name, KEEP) or prefix + "packets"  # a direction may be without a packet yet
            for prefix in ("", _REVERSE)
            for name in self._names
        }

    def deltas(self, keys: Array, values: Array) -> tuple[Array, Array]:
        """Deltas of conversations."""
        same, turned = conversations(keys)
        made = np.zeros(len(keys), self.value_dtype)
        for name in self._names:
            source = keys[name] if name in _ONE_WAY else values[name]
            mask = turned.reshape(-1, *[1] * (source.ndim - 1))
            nothing = np.iinfo(source.dtype.base).max if self.merges[name] is np.minimum else 0
            made[name] = np.where(mask, nothing, source)
            made[_REVERSE + name] = np.where(mask, source, nothing)
        return same, made

    def records(self, biflows: FlowRecords) -> FlowRecords:
        """Forward is the direction of the first packet."""
        keys, values = biflows.keys.copy(), biflows.values.copy()
        back = values["r_first_ns"] < values["first_ns"]
        _turn(keys, back)
        for name in self._names:
            turned = values[name][back]
            values[name][back] = values[_REVERSE + name][back]
            values[_REVERSE + name][back] = turned
        for name in _ONE_WAY:
            keys[name] = values[name]
        return FlowRecords(keys, values, biflows.reason)
