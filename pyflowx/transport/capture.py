"""Capture files as a source of datagrams: pcap and pcapng, gzip or not, from a file, a pipe or stdin.

Exporter address and port are the source of the packet, the receive time is the packet's. Everything goes through one
window of a few MiB (:mod:`~pyflowx.transport.capture_source`), as columns over all packets in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from pyflowx.batch import I64, U8, PacketBatch
from pyflowx.errors import ConfigError
from pyflowx.transport.capture_blocks import Pcap, PcapNg, Records, gather, recognise
from pyflowx.transport.capture_link import (
    LINK_NAMES,
    LINKS,
    RAW_IP,
    Packets,
    Udp,
    addresses,
    find_packets,
    find_udp,
    may_hold_udp,
    merge,
    take,
)
from pyflowx.transport.capture_source import GZIP_MAGIC, SLACK, FileSource, GzipSource, Window
from pyflowx.transport.reassembly import Reassembler, rebuild

MAX_ROWS = 4096  # datagrams of a batch
MAX_OCTETS = 8 << 20  # of its matrix
_LINGER_S = 0.02


@dataclass(slots=True)
class CaptureCounters:
    """What became of the packets of a capture.

    ``packets`` = ``datagrams`` + ``not_udp`` + ``other_port`` + ``malformed`` + ``unknown_link`` + ``fragments`` -
    ``reassembled``.
    """

    packets: int = 0
    octets: int = 0  # of the packets, as captured
    datagrams: int = 0  # passed on
    truncated: int = 0  # ... of which the capture holds only the beginning
    not_udp: int = 0
    other_port: int = 0  # UDP to another port than the one asked for
    malformed: int = 0  # IP or UDP headers that are not all there, or whose lengths cannot be
    unknown_link: int = 0  # on an interface with a link type that we do not know
    fragments: int = 0  # of IP packets that may hold UDP
    reassembled: int = 0  # packets put together from them; each counts once more as one of the kinds above
    fragments_dropped: int = 0  # fragments whose packet never became complete
    bad_blocks: int = 0  # records of the file that break its format

    def __str__(self) -> str:
        """What there was, leaving out what there was not."""
        found = [
            f"{getattr(self, name)} {name.replace('_', ' ')}" for name in self.__slots__[1:] if getattr(self, name)
        ]
        return f"{self.packets} packets: {', '.join(found)}" if found else f"{self.packets} packets"


class CaptureReader:
    """Reads the UDP payloads of a capture, all of them or those to one destination port.

    ``path`` is a file or named pipe, ``-`` is stdin. :class:`~pyflowx.errors.ConfigError` where it cannot be opened or
    is no capture, from the constructor for a file, from :meth:`receive` for a pipe. A capture that is damaged further
    on gives everything before that; :attr:`problem` then says where and why reading ended.

    Iterate for :class:`~pyflowx.batch.PacketBatch` es of at most :data:`MAX_ROWS` datagrams, or call :meth:`receive`
    while not :attr:`exhausted`. ``wake_fd``: a descriptor that ends a :meth:`receive` which waits for a pipe when it
    becomes readable (it is not read here).
    """

    def __init__(self, path: str, port: int | None = None, *, wake_fd: int | None = None) -> None:
        self.counters = CaptureCounters()
        self.exhausted = False
        self._path, self._port = path, port
        self._window = Window(FileSource(path, wake_fd))
        self._format: Pcap | PcapNg | None = None
        self._reassembler = Reassembler()
        self._batches: Iterator[PacketBatch] = iter(())
        if self._window.source.total is not None:
            try:
                self._window.fill(0, 0)
                self._begin()
            except ConfigError:
                self.close()
                raise

    @property
    def problem(self) -> str | None:
        """Why the end of the capture was not reached, in words; None where it was, or may still be."""
        if self._window.source.error is not None:
            return self._window.source.error
        if self._format is not None and self._format.problem is not None:
            return f"{self._format.problem}; reading ended there"
        cut = self.exhausted and (len(self._window) or self._window.is_skipping)
        return f"ends inside the record at octet {self._window.offset + self._window.position}" if cut else None

    def progress(self) -> tuple[int, int | None]:
        """Octets of the file that were read, and its size (None for a pipe); of the compressed file for gzip."""
        return self._window.source.done, self._window.source.total

    def receive(self, timeout_s: float | None, linger_s: float = _LINGER_S) -> PacketBatch | None:
        """The next datagrams; None if ``timeout_s`` passed without any, on a wake-up, or when none are left.

        Only a pipe makes us wait, with a ``timeout_s`` of None for ever. The arrays of the batch are its own.
        """
        while not self.exhausted:
            batch = next(self._batches, None)
            if batch is not None:
                return batch
            if self._format is not None and self._format.problem is not None:
                self._finish()
            elif self._window.fill(timeout_s, linger_s) or (self._format is None and self._window.at_end):
                self._begin()
            elif self._window.at_end:
                self._finish()
            else:
                return None
        return None

    def __iter__(self) -> Iterator[PacketBatch]:
        while not self.exhausted:
            batch = self.receive(None)
            if batch is not None:
                yield batch

    def close(self) -> None:
        self._window.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Go on with what is in the window; find out first what it is."""
        try:
            if self._format is None:
                self._unpack()
                self._format = recognise(self._window)
        except ConfigError as error:
            raise ConfigError(f"--pcap {self._path}: {error}") from None
        if isinstance(self._format, Pcap) and self._format.link not in LINKS:
            raise ConfigError(f"--pcap {self._path}: has link type {self._format.link}; accepted are {LINK_NAMES}")
        if self._format is not None:
            self._batches = self._read(self._format)

    def _unpack(self) -> None:
        head = self._window.peek(2)
        if head == GZIP_MAGIC and not isinstance(self._window.source, GzipSource):
            source = GzipSource(self._window.source, self._window.peek(len(self._window)))
            self._window.replace(source)
            self._window.fill(0, 0)

    def _finish(self) -> None:
        self.exhausted = True
        self._reassembler.close()
        self.counters.fragments_dropped = self._reassembler.dropped
        if self._format is not None and self._format.problem is None and self.problem is not None:
            self.counters.bad_blocks += 1

    def _read(self, format: Pcap | PcapNg) -> Iterator[PacketBatch]:
        for records in format.records(self._window):
            self.counters.packets += len(records.start)
            self.counters.octets += int((records.end - records.start).sum())
            data, udp = self._datagrams(self._window.data, records)
            self.counters.datagrams += len(udp.row)
            self.counters.truncated += int(udp.truncated.sum())
            yield from _batches(data, udp, records.time_ns[udp.row])
        self.counters.bad_blocks += format.bad_blocks
        format.bad_blocks = 0

    def _datagrams(self, data: U8, records: Records) -> tuple[U8, Udp]:
        """The datagrams of these records, and the octets that they point into."""
        packets = self._find_packets(data, records)
        is_fragment = packets.fragment != 0
        if not is_fragment.any():
            return data, self._find_udp(data, packets)
        udp = self._find_udp(data, packets.take(~is_fragment))
        rows, whole = self._reassemble(data, packets.take(is_fragment), records.time_ns)
        if not whole:
            return data, udp
        lengths = np.array([len(packet) for packet in whole], np.int64)
        ends = len(data) + np.cumsum(lengths)
        data = np.concatenate([data, np.frombuffer(b"".join(whole), np.uint8), np.zeros(SLACK, np.uint8)])
        links = np.full(len(whole), RAW_IP, np.int32)
        late = self._find_udp(data, self._find_packets(data, Records(ends - lengths, ends, links, ends)))
        late = late._replace(row=np.array(rows, np.int64)[late.row])
        return data, merge(udp, late)

    def _find_packets(self, data: U8, records: Records) -> Packets:
        layers = find_packets(data, records)
        self.counters.unknown_link += layers.unknown_link
        self.counters.not_udp += layers.not_ip
        self.counters.malformed += layers.malformed
        return layers.packets

    def _find_udp(self, data: U8, packets: Packets) -> Udp:
        udp, not_udp, malformed = find_udp(data, packets)
        self.counters.not_udp += not_udp
        self.counters.malformed += malformed
        if self._port is None:
            return udp
        ours = udp.destination == self._port
        other = len(ours) - int(ours.sum())
        self.counters.other_port += other
        return take(udp, ours) if other else udp

    def _reassemble(self, data: U8, fragments: Packets, time_ns: I64) -> tuple[list[int], list[bytes]]:
        """The packets that these fragments complete, and the row of the fragment that did."""
        ours = may_hold_udp(fragments)
        self.counters.not_udp += len(ours) - int(ours.sum())
        fragments = fragments.take(ours)
        self.counters.fragments += len(fragments.row)
        both = addresses(data, fragments)
        rows, whole = [], []
        for i, row in enumerate(fragments.row.tolist()):
            if fragments.held[i] < fragments.end[i]:
                self._reassembler.dropped += 1
                continue
            addressed, protocol = both[i].tobytes(), int(fragments.protocol[i])
            key = addressed + int(fragments.identification[i]).to_bytes(4, "big")
            if fragments.version[i] == 4:
                key += bytes([protocol])
            octets = data[fragments.payload[i] : fragments.end[i]].tobytes()
            found = self._reassembler.add(key, int(fragments.fragment[i]), protocol, octets, int(time_ns[row]))
            if found is not None:
                rows.append(row)
                whole.append(rebuild(addressed, *found))
        self.counters.reassembled += len(whole)
        self.counters.fragments_dropped = self._reassembler.dropped
        return rows, whole


def _batches(data: U8, udp: Udp, time_ns: I64) -> Iterator[PacketBatch]:
    """Batches of at most :data:`MAX_ROWS` rows and :data:`MAX_OCTETS` octets of matrix."""
    parts = [slice(at, min(at + MAX_ROWS, len(time_ns))) for at in range(0, len(time_ns), MAX_ROWS)]
    parts.reverse()
    while parts:
        part = parts.pop()
        rows, width = part.stop - part.start, max(1, int(udp.length[part].max()))
        if rows * width > MAX_OCTETS:  # one long datagram among many short ones
            middle = part.start + rows // 2
            parts += slice(middle, part.stop), slice(part.start, middle)
            continue
        yield PacketBatch(
            data=gather(data, udp.start[part], width),
            length=udp.length[part].astype(np.int32),
            exporter=udp.address[part],
            port=udp.port[part],
            received_ns=time_ns[part],
        )
