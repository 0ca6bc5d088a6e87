"""The samples of sFlow datagrams, whatever their format, as one table (sFlow Version 5, sFlow Drops)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, I64, U8, Column, FlowBatch
from pyflowx.elements import FieldSpecifier
from pyflowx.wire.layers import U32, select
from pyflowx.wire.records import gather
from pyflowx.wire.sflow_structures import own
from pyflowx.wire.sflow_xdr import Entries

FLOW, COUNTERS, FLOW_EXPANDED, COUNTERS_EXPANDED, DISCARDED = 1, 2, 3, 4, 5

# The lines of Samples.words.
SEQUENCE, SOURCE_TYPE, SOURCE_INDEX, RATE, POOL, DROPS, IN_FORMAT, IN_VALUE, OUT_FORMAT, OUT_VALUE, REASON = range(11)
_LINES = 11
# What each word of a format's head is a value of; -1: the count of records. Compact forms are taken apart later.
_WORDS = {
    FLOW: (SEQUENCE, SOURCE_INDEX, RATE, POOL, DROPS, IN_VALUE, OUT_VALUE, -1),
    FLOW_EXPANDED: (
        SEQUENCE, SOURCE_TYPE, SOURCE_INDEX, RATE, POOL, DROPS, IN_FORMAT, IN_VALUE, OUT_FORMAT, OUT_VALUE, -1,
    ),
    COUNTERS: (SEQUENCE, SOURCE_INDEX, -1),
    COUNTERS_EXPANDED: (SEQUENCE, SOURCE_TYPE, SOURCE_INDEX, -1),
    DISCARDED: (SEQUENCE, SOURCE_TYPE, SOURCE_INDEX, DROPS, IN_VALUE, OUT_VALUE, REASON, -1),
}  # fmt: skip
HEAD_OCTETS = {number: 4 * len(words) for number, words in _WORDS.items()}
NO_INTERFACE, _NO_INTERFACE_COMPACT = 0xFFFFFFFF, 0x3FFFFFFF  # the packet came from, or went to, the device itself


class Samples(NamedTuple):
    """n samples with a known format: row in Messages, octet offset in the datagram, sample format, an
    ``(11, n)`` matrix of values (lines as named above; 0 where the format has no such value), and where
    their records begin and end in the buffer, how many there should be, and whether the sample is all there."""

    message: I32
    offset: I32
    format: I64
    words: U32
    begin: I64
    end: I64
    records: I64
    whole: npt.NDArray[np.bool_]

    @property
    def is_counters(self) -> npt.NDArray[np.bool_]:
        mask: npt.NDArray[np.bool_] = (self.format == COUNTERS) | (self.format == COUNTERS_EXPANDED)
        return mask


def read_samples(octets: U8, entries: Entries, offset: I64, known: npt.NDArray[np.bool_]) -> Samples:
    """The ``known`` entries: those with the whole head of a format we know. ``offset``: of each in its datagram."""
    rows = select(known)
    number, at = entries.word[rows], entries.at[rows]
    words = np.zeros((_LINES, len(at)), np.uint32)
    count, begin = np.zeros(len(at), np.int64), at.copy()
    for format, lines in _WORDS.items():
        mask = number == format
        if not mask.any():
            continue
        index = slice(None) if mask.all() else np.flatnonzero(mask)
        cells = gather(octets, at[index], 4 * len(lines)).view(">u4")
        for place, line in enumerate(lines):
            if line < 0:
                count[index] = cells[:, place]
            else:
                words[line, index] = cells[:, place]
        begin[index] += 4 * len(lines)
        if format in (FLOW, COUNTERS):
            source = words[SOURCE_INDEX, index]
            words[SOURCE_TYPE, index], words[SOURCE_INDEX, index] = source >> 24, source & 0xFFFFFF
        if format == FLOW:
            for kind, line in ((IN_FORMAT, IN_VALUE), (OUT_FORMAT, OUT_VALUE)):
                value = words[line, index]
                words[kind, index] = value >> 30
                value = np.where(value == _NO_INTERFACE_COMPACT, NO_INTERFACE, value & 0x3FFFFFFF)
                words[line, index] = value
    end = at + entries.octets[rows]
    message, where = entries.owner[rows].astype(np.int32), offset[rows].astype(np.int32)
    return Samples(message, where, number, words, begin, end, count, entries.whole[rows])


def about(samples: Samples, rows: I64, fields: tuple[FieldSpecifier, ...], columns: list[Column]) -> FlowBatch:
    """Records that are not flows, as options data: the scope is the data source, then the number of the sample."""
    scope = (own("source_id_type"), own("source_id_index"), own("sequence_number"))
    lines = [samples.words[line, rows] for line in (SOURCE_TYPE, SOURCE_INDEX, SEQUENCE)]
    template_id = np.zeros(len(rows), np.uint16)
    return FlowBatch(
        (*scope, *fields), [*lines, *columns], samples.message[rows], samples.offset[rows], template_id, scope_count=2
    )
