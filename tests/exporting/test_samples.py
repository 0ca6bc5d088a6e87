"""Packet Reports as a collector reads them."""

from __future__ import annotations

import numpy as np
from parts import OFFSET, Clock, Meter, Sender, Stepped, patched

from pyflowx.batch import PacketBatch
from pyflowx.conversion import Conversion
from pyflowx.elements import to_nanoseconds
from pyflowx.exporting import ExportConfig
from pyflowx.exporting.samples import MAX_CLIP_LENGTH, packet_batches
from pyflowx.kernel.samples import PacketSamples
from pyflowx.wire import Decoder

FRAME = (
    bytes.fromhex("020000000002020000000001080045000054000040004011000ac0000201c0000202")
    + b"\x0f\xa0\0\x50"
    + bytes(40)
)


def samples(n, clip=128, ethernet=True):
    rows = np.zeros((n, clip + 8), np.uint8)
    octets = FRAME if ethernet else FRAME[14:]
    rows[:, : len(octets)] = np.frombuffer(octets, np.uint8)
    length = np.minimum(np.arange(n) % 40 + len(octets) - 39, clip).astype(np.uint16)
    frame = np.where(np.arange(n) == 3, 100_000, 98).astype(np.uint32)
    times = np.arange(n, dtype=np.uint64) + np.uint64(10**9)
    direction = (np.arange(n) % 2).astype(np.uint8)
    index = np.full(n, 7, np.uint32)
    return PacketSamples(rows[:, :clip], length, frame, times, index, direction, np.full(n, ethernet))


def sent(meter):
    sender = Sender()
    with patched(Clock()) as clock, Stepped(clock, meter, sender, 0, ExportConfig(mode="packet")) as exporter:
        exporter.tick()
        exporter.finish()
        counters = exporter.counters
    (result,), problems = Decoder().decode(PacketBatch.of(sender.datagrams), 0)
    assert problems.tolist() == []
    return result, counters


def test_each_packet_with_its_first_octets():
    given = samples(100)
    meter = Meter()
    meter.samples = [given, samples(0)]
    result, counters = sent(meter)
    assert "drain" not in meter.calls
    found = {}
    for batch in (batch for batch in result.flows if not batch.scope_count):
        time, _ = to_nanoseconds("dateTimeNanoseconds", batch.column("observationTimeNanoseconds"))
        size, exported = batch.column("dataLinkFrameSize").tolist(), batch.column("sectionExportedOctets").tolist()
        assert set(batch.column("selectionSequenceId").tolist()) == {1}
        sections = batch.column("dataLinkFrameSection").tolist()
        assert [len(section) for section in sections] == exported
        found |= dict(zip(time.tolist(), zip(sections, size, strict=True), strict=True))
    for row in range(100):
        section, size = found[OFFSET + 10**9 + row]
        assert section == given.octets[row, : given.length[row]].tobytes()
        assert size == (0xFFFF if row == 3 else 98)
    assert (counters.samples, counters.packets_exported) == (100, 100)
    assert counters.l2_octets_metered == 99 * 98 + 100_000


def test_packets_without_a_link_header():
    meter = Meter()
    meter.samples = [samples(10, ethernet=False), samples(0)]
    result, _ = sent(meter)
    batches = [batch for batch in result.flows if not batch.scope_count]
    assert sum(len(batch.column("ipHeaderPacketSection")) for batch in batches) == 10


def test_our_collector_finds_flows_in_them():
    meter = Meter()
    meter.samples = [samples(8), samples(0)]
    result, _ = sent(meter)
    rows = [batch for batch in Conversion()(result) if "src_port" in batch.columns]
    assert {int(port) for batch in rows for port in batch.columns["src_port"].values} == {4000}


def test_the_longest_section_fits_in_a_message():
    meter = Meter()
    meter.samples = [samples(3, clip=MAX_CLIP_LENGTH), samples(0)]
    meter.samples[0].length[:] = MAX_CLIP_LENGTH
    result, _ = sent(meter)
    assert sum(len(batch) for batch in result.flows if not batch.scope_count) == 3
    assert packet_batches(samples(0), 0) == []
