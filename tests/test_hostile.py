"""A collector among hostile exporters: what the good one sends is exact, memory has a bound, every problem is counted.

Nothing here measures time: memory is what tracemalloc counts (NumPy's arrays too), cost is the number of calls.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pyflowx import collecting
from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.collecting import Collector, consume_common
from pyflowx.common import CommonBatch
from pyflowx.decoded import Reason
from pyflowx.wire import Decoder, TemplateLimits

GOOD = V4_MAPPED + bytes([10, 0, 0, 1])
ROWS = 50  # datagrams of a batch; the good exporter sends one of ten
LIMITS = TemplateLimits(
    templates_per_exporter=100,
    templates=500,
    fields_per_exporter=2000,
    fields=5000,
    held_octets_per_exporter=50_000,
    held_octets=100_000,
)


def set_of(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def message(*sets: bytes, domain: int = 1) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 0, domain) + body


def template(id: int, fields: list[tuple[int, int]]) -> bytes:
    return struct.pack(">HH", id, len(fields)) + b"".join(struct.pack(">HH", *field) for field in fields)


def good(number: int) -> bytes:
    """Ten flows of `number` octets each; the first message has the Template."""
    data = set_of(300, struct.pack(">HI", 80, number) * 10)
    return message(set_of(2, template(300, [(11, 2), (1, 4)])), data) if number == 0 else message(data)


# --- the floods: the datagram that comes as number n, from `exporter` ----------------------------------------------

Flood = Callable[[random.Random, int], bytes]


def garbage(source: random.Random, number: int) -> bytes:
    head = source.choice([b"", b"\0\1", b"\0\5", b"\0\7", b"\0\x09", b"\0\x0a", b"\0\0\0\5"])
    return (head + source.randbytes(source.choice([0, 1, 2, 20, 60, 1400])))[:1400]


def templates(source: random.Random, number: int) -> bytes:
    fields = [(source.randrange(1, 290), source.randrange(1, 9)) for _ in range(20)]
    return message(*[set_of(2, template(id, fields)) for id in range(256, 268)], domain=number)


def redefinitions(source: random.Random, number: int) -> bytes:
    fields = [(source.randrange(1, 290), source.randrange(1, 9)) for _ in range(60)]
    octets = sum(length for _, length in fields)
    return message(set_of(2, template(256, fields)), set_of(256, bytes(octets)))


def early_data(source: random.Random, number: int) -> bytes:
    return message(set_of(256 + number % 4000, bytes(1300)), domain=number)


def tiny_sets(source: random.Random, number: int) -> bytes:
    return message(*[set_of(256 + number % 999, b"\0")] * 100)


def lists(source: random.Random, number: int) -> bytes:
    items = [struct.pack(">BBHH", 5, 3, 7, source.randrange(1, 60_000)) for _ in range(40)]
    return message(set_of(2, template(256, [(291, 65535)])), set_of(256, b"".join(items)))


def samplers(source: random.Random, number: int) -> bytes:
    options = struct.pack(">HHH8H", 256, 8, 4, 1, 4, 48, 2, 34, 4, 0, 0)[:-4]
    records = b"".join(struct.pack(">IHI", 1, number * 50 + row & 0xFFFF, 100) for row in range(50))
    return struct.pack(">HHIIII", 9, 2, 0, 1_700_000_000, 0, number) + set_of(1, options) + set_of(256, records)


def empty_samples(source: random.Random, number: int) -> bytes:
    return struct.pack(">7I", 5, 1, 1, 1, 1, 1, 170) + struct.pack(">II", 99, 0) * 170


FLOODS: dict[str, tuple[Flood, int]] = {  # and how many addresses it comes from
    "garbage": (garbage, 5000),
    "templates": (templates, 10_000),
    "redefinitions": (redefinitions, 3),
    "early_data": (early_data, 10_000),
    "tiny_sets": (tiny_sets, 100),
    "lists": (lists, 1000),
    "samplers": (samplers, 10_000),
    "empty_samples": (empty_samples, 10_000),
}


class Source:
    """Batches in which one datagram of ten is the good exporter's."""

    def __init__(self, flood: str, batches: int) -> None:
        self.flood, self.addresses = FLOODS[flood]
        self.left = batches
        self.random = random.Random(flood)
        self.sent = self.bad = 0

    @property
    def exhausted(self) -> bool:
        return not self.left

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
        if not self.left:
            return None
        self.left -= 1
        datagrams, exporters = [], []
        for row in range(ROWS):
            if row % 10 == 0:
                datagrams.append(good(self.sent))
                exporters.append(GOOD)
                self.sent += 1
            else:
                datagrams.append(self.flood(self.random, self.bad))
                exporters.append(V4_MAPPED + struct.pack(">I", 0xAC100000 + self.bad % self.addresses))
                self.bad += 1
        return PacketBatch.of(datagrams, exporters, 4739, 1_700_000_000_000_000_000 + self.sent * 1000)


class Flows:
    """A sink that keeps the octets of the good exporter's flows."""

    prompt = True

    def __init__(self) -> None:
        self.rows = self.octets = 0
        self.good: list[int] = []

    def write(self, batch: CommonBatch) -> None:
        self.rows += len(batch)
        template_id, port = batch.columns.get("template_id"), batch.columns.get("dst_port")
        sampler = batch.columns["sampler_address"].values
        if template_id is None or port is None or sampler.ndim != 1:
            return
        mine = (template_id.values == 300) & (sampler == 0x0A000001)
        self.good += batch.columns["bytes"].values[mine].tolist()

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to complete."""


def run(flood: str, batches: int) -> tuple[Collector, Flows, Source]:
    sink, source = Flows(), Source(flood, batches)
    collector = Collector(Decoder(limits=LIMITS), sink, consume_common(sink))
    try:
        collector.run(source)
    finally:
        collector.close()
    return collector, sink, source


@pytest.mark.parametrize("flood", FLOODS)
def test_the_good_exporters_flows_are_exact(flood: str) -> None:
    collector, sink, source = run(flood, 10)
    assert sorted(sink.good) == sorted(number for number in range(source.sent) for _ in range(10))
    counts = collector.counters
    assert counts.datagrams == 10 * ROWS
    assert not counts.exporters[GOOD].problems.any() and counts.exporters[GOOD].datagrams == source.sent


@pytest.mark.parametrize("flood", FLOODS)
def test_memory_has_a_bound(flood: str) -> None:
    """Once the caps are reached, three times the flood takes no more than the flood."""

    def peak(batches: int) -> int:
        tracemalloc.start()
        try:
            run(flood, batches)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # what is made once: modules, the registry, tables
    once, thrice = peak(3), peak(9)
    assert thrice < 1.3 * once + (1 << 20)
    assert thrice < 32 << 20


@pytest.mark.parametrize("flood", FLOODS)
def test_the_cost_of_a_flood_is_linear(flood: str) -> None:
    """Counted in calls of functions: four times the flood is not much more than four times as many."""

    def calls(batches: int) -> int:
        count = 0

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            run(flood, batches)
        finally:
            sys.setprofile(None)
        return count

    calls(1)
    assert calls(4) < 4 * 1.3 * calls(1)


@pytest.mark.parametrize(
    ("flood", "reasons"),
    [
        ("garbage", {Reason.UNKNOWN_VERSION, Reason.TRUNCATED_HEADER, Reason.BAD_COUNT, Reason.EMPTY_DATAGRAM}),
        ("templates", {Reason.TEMPLATE_LIMIT}),
        ("early_data", {Reason.HELD_DATA, Reason.HELD_DATA_DROPPED}),
        ("tiny_sets", {Reason.HELD_DATA, Reason.HELD_DATA_DROPPED}),
        ("empty_samples", {Reason.UNKNOWN_SAMPLE}),
        ("lists", set()),
        ("redefinitions", set()),
        ("samplers", set()),
    ],
)
def test_every_problem_is_counted_with_its_reason(flood: str, reasons: set[Reason]) -> None:
    collector, _, source = run(flood, 10)
    counted = collector.counters.problems
    assert all(counted[reason] > 0 for reason in reasons)
    if not reasons:
        assert not counted.any()
    if flood == "early_data":
        assert counted[Reason.HELD_DATA] == source.bad
    if flood == "templates":  # each datagram has twelve
        store = collector._decoder.templates  # type: ignore[attr-defined]
        assert counted[Reason.TEMPLATE_LIMIT] == store.refused == 12 * source.bad + 1 - len(store)
    if flood == "empty_samples":
        assert counted[Reason.UNKNOWN_SAMPLE] == 170 * source.bad


def test_many_long_datagrams_are_decoded_a_few_at_a_time() -> None:
    """A batch of the receiver may hold 1024 datagrams of 65,507 octets."""
    packets = PacketBatch.of([bytes(size) for size in (60_000,) * 100 + (10,) * 100])
    parts = list(collecting.pieces(packets))
    assert sum(map(len, parts)) == len(packets)
    assert np.array_equal(np.concatenate([part.length for part in parts]), packets.length)
    assert all(part.length.sum() <= collecting.MAX_OCTETS + 60_000 for part in parts)
    assert all(np.shares_memory(part.data, packets.data) for part in parts)
    few = packets.take(slice(100, 200))
    assert list(collecting.pieces(few)) == [few]


def captured(datagrams: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """(IPv4 source, payload) as a capture of raw IP."""
    yield struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101)
    for source, payload in datagrams:
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0, source, bytes([127, 0, 0, 1]))
        packet = ip + struct.pack(">HHHH", 1000, 2055, 8 + len(payload), 0) + payload
        yield struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet


def test_the_whole_command_among_all_floods(tmp_path: Path) -> None:
    """Every flood at once in a capture: the good flows come out, the summary names the problems."""
    rounds = 100

    def mixed() -> Iterator[tuple[bytes, bytes]]:
        source = random.Random(1)
        for number in range(rounds):
            yield GOOD[12:], good(number)
            for which, (flood, addresses) in enumerate(FLOODS.values()):
                yield struct.pack(">I", 0xAC100000 + (which << 16) + number % addresses), flood(source, number)

    (tmp_path / "floods.pcap").write_bytes(b"".join(captured(mixed())))
    command = [sys.executable, "-m", "pyflowx", "collect", "--pcap", str(tmp_path / "floods.pcap"), "-f", "common"]
    done = subprocess.run([*command, "-o", str(tmp_path / "flows")], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    with open(tmp_path / "flows") as lines:
        found = [json.loads(line) for line in lines if '"10.0.0.1"' in line]
    mine = [flow["bytes"] for flow in found if flow["sampler_address"] == "10.0.0.1" and flow["template_id"] == 300]
    assert sorted(mine) == sorted(number for number in range(rounds) for _ in range(10))
    problems = next(line for line in done.stderr.splitlines() if "problems: " in line)
    for reason in (Reason.UNKNOWN_VERSION, Reason.HELD_DATA, Reason.BAD_COUNT, Reason.UNKNOWN_SAMPLE):
        assert reason.name in problems
