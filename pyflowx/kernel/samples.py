"""The start of each selected packet (PSAMP, RFC 5476): what the programs put into a ring buffer, as columns."""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.kernel import syscall
from pyflowx.kernel.layout import clip_room, sample_dtype
from pyflowx.kernel.syscall import Array, Map

RING_LEN = 1 << 24  # octets; a power of 2
_HEADER_LEN = 8  # of a record of the ring: length with two flags, page
_BUSY = 1 << 31
_MAC_ADDRESSES, _TAG = 12, 4


class PacketSamples(NamedTuple):
    """n packets in the order in which they were seen.

    ``octets``: (n, clip) uint8, of each row the first ``length`` (uint16) count; ``frame_length`` (uint32): octets of
    the whole frame; ``time_ns`` (uint64): of CLOCK_MONOTONIC, see ``Meter.offset_ns()``; ``ifindex`` (uint32);
    ``direction``: 0 ingress, 1 egress; ``ethernet``: False where the octets begin with the IP header.
    """

    octets: npt.NDArray[np.uint8]
    length: npt.NDArray[np.uint16]
    frame_length: npt.NDArray[np.uint32]
    time_ns: npt.NDArray[np.uint64]
    ifindex: npt.NDArray[np.uint32]
    direction: npt.NDArray[np.uint8]
    ethernet: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.length)


class PacketRing:
    """The ring buffer (Linux 5.8). All records have one size: what has come is a matrix."""

    def __init__(self, clip_length: int) -> None:
        self._clip = clip_length
        self._record = np.dtype([("header", "=u4"), ("page", "=u4"), ("sample", sample_dtype(clip_room(clip_length)))])
        self.map = Map(syscall.MAP_TYPE_RINGBUF, 0, 0, RING_LEN, "pyflowx_packets")
        page = mmap.PAGESIZE
        self._consumer_memory = mmap.mmap(self.map.fd, page)
        # the data is mapped twice, one behind the other, so that no record is broken at the end
        self._producer_memory = mmap.mmap(self.map.fd, page + 2 * RING_LEN, prot=mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_memory, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_memory, np.uint64, 1)
        self._data = np.frombuffer(self._producer_memory, np.uint8, offset=page)

    def read(self) -> PacketSamples:
        """What has come since the last call."""
        start, end = int(self._consumer[0]), int(self._producer[0])
        place, stride = start % RING_LEN, self._record.itemsize
        records = self._data[place : place + (end - start)].view(self._record)
        busy = np.flatnonzero(records["header"] & _BUSY)  # a program is just writing it
        if len(busy):
            records = records[: busy[0]]
        samples = records["sample"].copy()
        self._consumer[0] = start + len(samples) * stride
        return self._columns(samples)

    def _columns(self, samples: Array) -> PacketSamples:
        octets, length = samples["octets"], samples["length"]
        tagged = np.flatnonzero(samples["tag"])
        if len(tagged):
            octets[tagged, _MAC_ADDRESSES + _TAG :] = octets[tagged, _MAC_ADDRESSES:-_TAG]
            octets[tagged, _MAC_ADDRESSES : _MAC_ADDRESSES + _TAG] = (
                samples["tag"][tagged].astype(">u4").view(np.uint8).reshape(-1, _TAG)
            )
            length[tagged] += _TAG
        return PacketSamples(
            octets[:, : self._clip],
            np.minimum(length, self._clip).astype(np.uint16),
            samples["frame_length"],
            samples["time_ns"],
            samples["ifindex"],
            samples["direction"],
            samples["ethernet"].astype(bool),
        )

    def close(self) -> None:
        del self._consumer, self._producer, self._data
        self._consumer_memory.close()
        self._producer_memory.close()
        self.map.close()
