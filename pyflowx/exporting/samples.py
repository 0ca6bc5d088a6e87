"""Packet Reports (PSAMP, RFC 5476 §6.4): the start of each selected packet as a record."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from pyflowx.batch import Column, FlowBatch, Octets
from pyflowx.elements import FieldSpecifier, default_registry, from_nanoseconds
from pyflowx.kernel.samples import PacketSamples

MAX_CLIP_LENGTH = 1280  # octets: with the fields beside it, what a Message of 1400 octets holds
SELECTION_SEQUENCE = 1  # the only one: our interfaces, then our selector
_MAX_SIZE = 0xFFFF


@functools.cache
def template(ethernet: bool, egress: bool) -> tuple[FieldSpecifier, ...]:
    """The fields of a Packet Report, in the order of :func:`packet_batches`' columns."""
    registry = default_registry()
    of_frame, of_packet = ("dataLinkFrameSize", "dataLinkFrameSection"), ("ipTotalLength", "ipHeaderPacketSection")
    size, section = of_frame if ethernet else of_packet
    return (
        registry.field("selectionSequenceId", 4),
        registry.field("observationTimeNanoseconds"),
        registry.field("egressInterface" if egress else "ingressInterface"),
        registry.field("flowDirection"),
        registry.field(size),
        registry.field("sectionExportedOctets"),
        registry.field(section),
    )


def packet_batches(samples: PacketSamples, offset_ns: int) -> list[FlowBatch]:
    """Samples as FlowBatches, one for each set of fields; ``offset_ns`` makes their times ns since 1970.

    A size that 16 bits do not hold is 65535 (super-packets, RFC 5477 §8.5.1 has no more).
    """
    kind = samples.ethernet * 2 + samples.direction
    found = []
    for each in np.flatnonzero(np.bincount(kind)).tolist():
        ethernet, egress = bool(each & 2), bool(each & 1)
        rows = np.flatnonzero(kind == each)
        times = samples.time_ns[rows].astype(np.int64) + offset_ns
        size = samples.frame_length[rows]
        length = samples.length[rows]
        columns: list[Column] = [
            np.full(len(rows), SELECTION_SEQUENCE, np.uint64),
            from_nanoseconds("dateTimeNanoseconds", times),
            samples.ifindex[rows].astype(np.uint32),
            samples.direction[rows].astype(np.uint8),
            np.minimum(size, _MAX_SIZE).astype(np.uint16) if ethernet else size.astype(np.uint64),
            length.astype(np.uint16),
            _sections(samples.octets, rows, length),
        ]
        found.append(FlowBatch(template(ethernet, egress), columns))
    return found


def _sections(octets: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], length: npt.NDArray[np.uint16]) -> Octets:
    matrix = np.ascontiguousarray(octets)
    return Octets(matrix.reshape(-1), rows * matrix.shape[1], length.astype(np.int64))
