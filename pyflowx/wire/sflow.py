"""sFlow version 5 (sflow.org, "sFlow Version 5" and its extensions): datagrams to flows and counters.

Samples of all datagrams, then records of all samples, are walked in lockstep; the records of one format are
read together. What becomes of them:

- *Flow samples* (formats 1, 3) and *discarded packets* (5) are flows, one row each. Rows with the same fields form a
  FlowBatch: the sample's numbers, ``ingressInterface``/``egressInterface`` (where the sample names an interface; else
  ``input_format``, ``input_value``, ``output_format``, ``output_value``: format 1 is a packet discarded, 2 several
  interfaces, and format 0 with the value 0xFFFFFFFF the device itself), the dissected header, then the record
  of each format. Compact and expanded samples come to the same fields. For the common schema: a row is
  one packet of ``dataLinkFrameSize`` (312; where there is no frame ``ipTotalLength``) octets, its rate is
  ``samplingInterval`` (34), its time the time of receipt, its sampler ``agent_address`` in the message header.
- *Counter samples* (2, 4) are options data: FlowBatches with ``scope_count`` 2, whose scope is the data source
  (``source_id_type``, ``source_id_index``), then ``sequence_number``, then the fields of one counter record.
- Of the same form is what stands beside the row of a flow sample: a second record of a format, and records
  that are not known or do not parse, as ``record_format`` (``enterprise << 12 | format``) and ``record_octets``.
- Samples of unknown format, and octets that belong to nothing, are in ``Decoded.opaque``.

``set_offset`` of a row is the octet offset of its sample in the datagram. Fields that only sFlow has are elements of
PEN 4300 (see :mod:`~pyflowx.wire.sflow_structures`). Header fields in ``Messages.header``: version, agent_address_type
(1 IPv4, 2 IPv6), agent_address (``(n, 16)``; the exporter's where the type is 0), sub_agent_id, sequence_number,
uptime (ms), num_samples. ``observation_domain_id`` is the sub-agent, ``export_ns`` the time of receipt.
"""

from __future__ import annotations

import numpy as np

from pyflowx.batch import I32, I64, U8, V4_MAPPED, PacketBatch
from pyflowx.decoded import Decoded, Messages, OpaqueSet, Problems, Protocol, Reason
from pyflowx.wire.layers import select
from pyflowx.wire.records import gather
from pyflowx.wire.sflow_encode import Encoder
from pyflowx.wire.sflow_records import read_counters, read_flows
from pyflowx.wire.sflow_samples import HEAD_OCTETS, Samples, read_samples
from pyflowx.wire.sflow_xdr import SPARE, Entries, walk

__all__ = ["Encoder", "decode"]

_AGENT_OCTETS = np.array([0, 4, 16])
_FIXED_OCTETS = 24  # of a datagram's header, without the agent's address


class _Grid:
    """The datagrams side by side in one buffer of our own: ``start`` and ``end`` of each."""

    def __init__(self, packets: PacketBatch, rows: I32) -> None:
        length = packets.length[rows].astype(np.int64)
        used = int(length.max(initial=0))
        width = used + 3 & ~3
        self.octets: U8 = np.zeros(len(rows) * width + SPARE, np.uint8)
        cells = self.octets[: len(rows) * width].reshape(len(rows), width)
        cells[:, :used] = packets.data[:, :used] if len(rows) == len(packets) else packets.data[rows, :used]
        self.start: I64 = np.arange(len(rows), dtype=np.int64) * width
        self.end: I64 = self.start + length


def decode(
    packets: PacketBatch, rows: I32, state: object, now_ns: int, problems: Problems, tunnels: bool = True
) -> Decoded:
    """The datagrams ``rows`` of ``packets``; ``state`` and ``now_ns`` are not used. A record or sample that does not
    fit (BAD_SAMPLE) is kept as octets and loses none of its neighbours. ``tunnels``: see
    :func:`~pyflowx.wire.headers.dissect`."""
    grid = _Grid(packets, rows)
    octets = grid.octets
    messages, body, kept = _messages(packets, rows, grid, problems)
    decoded = Decoded(Protocol.SFLOW_V5, messages)
    start, end = grid.start[kept], grid.end[kept]
    count = messages.header["num_samples"].astype(np.int64)
    entries = walk(octets, body, end, count)
    short = entries.missing > 0
    problems.add(messages.packet[short], (entries.stop - start)[short], Reason.BAD_COUNT)
    trailing = ~short & (entries.stop < end)
    problems.add(messages.packet[trailing], (entries.stop - start)[trailing], Reason.TRAILING_OCTETS)
    for row in np.flatnonzero(entries.stop < end).tolist():
        rest = octets[entries.stop[row] : end[row]].tobytes()
        decoded.opaque.append(OpaqueSet(row, int(entries.stop[row] - start[row]), 0, rest, held=False))
    samples = _samples(octets, entries, start, decoded, problems)
    if not len(samples.format):
        return decoded
    records = walk(octets, samples.begin, samples.end, samples.records)
    _check(octets, samples, records, start, decoded, problems)
    counters = samples.is_counters[records.owner]
    torn = [*read_flows(octets, samples, records, ~counters, decoded.flows, tunnels)]
    torn += [*read_counters(octets, samples, records, counters, decoded.flows)]
    for index in torn:
        owner = samples.message[records.owner[index]]
        problems.add(messages.packet[owner], records.at[index] - 8 - start[owner], Reason.BAD_SAMPLE)
    return decoded


def _messages(packets: PacketBatch, rows: I32, grid: _Grid, problems: Problems) -> tuple[Messages, I64, I64]:
    """(Messages, where the samples of each begin, their rows in the grid)."""
    kind = gather(grid.octets, grid.start + 4, 4).view(">u4")[:, 0].astype(np.int64)
    size = _FIXED_OCTETS + _AGENT_OCTETS[np.minimum(kind, 2)]
    good = (kind <= 2) & (grid.start + size <= grid.end)
    problems.add(rows[~good], (grid.end - grid.start)[~good], Reason.TRUNCATED_HEADER)
    kept = np.flatnonzero(good)
    rows, kind, start, body = rows[kept], kind[kept], grid.start[kept], (grid.start + size)[kept]
    exporter = packets.exporter.take(rows, axis=0)
    agent = exporter.copy()
    cells = gather(grid.octets, start + 8, 16)
    four, six = select(kind == 1), np.flatnonzero(kind == 2)
    agent[six] = cells[six]
    agent[four, :12] = np.frombuffer(V4_MAPPED, np.uint8)
    agent[four, 12:] = cells[four, :4]
    rest = gather(grid.octets, body - 16, 16).view(">u4").astype(np.uint32)
    received = packets.received_ns[rows]
    header = {
        "version": np.full(len(rows), 5, np.uint32),
        "agent_address_type": kind.astype(np.uint32),
        "agent_address": agent,
        **dict(zip(("sub_agent_id", "sequence_number", "uptime", "num_samples"), rest.T.copy(), strict=True)),
    }
    messages = Messages(
        packet=rows.astype(np.int32),
        exporter=exporter,
        port=packets.port[rows],
        received_ns=received,
        header=header,
        sequence_number=header["sequence_number"],
        observation_domain_id=header["sub_agent_id"],
        export_ns=received.copy(),
        boot_ns=received - header["uptime"].astype(np.int64) * 1_000_000,
    )
    return messages, body, kept


def _samples(octets: U8, entries: Entries, start: I64, decoded: Decoded, problems: Problems) -> Samples:
    """The samples that have a head we know; the others become opaque."""
    offset = entries.at - 8 - start[entries.owner]
    packet = decoded.messages.packet[entries.owner]
    heads = np.zeros(len(HEAD_OCTETS) + 2, np.int64)
    heads[list(HEAD_OCTETS)] = list(HEAD_OCTETS.values())
    needed = heads[np.minimum(entries.word, len(heads) - 1)]
    known = (needed > 0) & (needed <= entries.octets)
    problems.add(packet[needed == 0], offset[needed == 0], Reason.UNKNOWN_SAMPLE)
    bad = (needed > 0) & (~entries.whole | ~known)
    problems.add(packet[bad], offset[bad], Reason.BAD_SAMPLE)
    for row in np.flatnonzero(~known).tolist():
        held = octets[entries.at[row] : entries.at[row] + entries.octets[row]].tobytes()
        number = int(entries.word[row])
        decoded.opaque.append(OpaqueSet(int(entries.owner[row]), int(offset[row]), number, held, held=False))
    return read_samples(octets, entries, offset, known)


def _check(octets: U8, samples: Samples, records: Entries, start: I64, decoded: Decoded, problems: Problems) -> None:
    """Problems of the walk over records, where the sample itself was whole; octets behind the last record."""
    packet = decoded.messages.packet[samples.message]
    short = (records.missing > 0) & samples.whole
    problems.add(packet[short], samples.offset[short], Reason.BAD_SAMPLE)
    cut = np.flatnonzero(~records.whole)
    cut = cut[samples.whole[records.owner[cut]]]
    owner = records.owner[cut]
    problems.add(packet[owner], records.at[cut] - 8 - start[samples.message[owner]], Reason.BAD_SAMPLE)
    left = np.flatnonzero(records.stop < samples.end)
    extra = left[records.missing[left] == 0]
    problems.add(packet[extra], records.stop[extra] - start[samples.message[extra]], Reason.TRAILING_OCTETS)
    for row in left.tolist():
        rest = octets[records.stop[row] : samples.end[row]].tobytes()
        message = int(samples.message[row])
        at = int(records.stop[row] - start[message])
        decoded.opaque.append(OpaqueSet(message, at, int(samples.format[row]), rest, held=False))
