"""A meter, senders and a clock of our own, flows for them, and what they sent decoded again."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from pyflowx.batch import V4_MAPPED, PacketBatch
from pyflowx.exporting import ExportConfig, Exporter, UdpSession, exporter, sessions
from pyflowx.exporting.sessions import udp_encoder
from pyflowx.flowtable import FlowRecords
from pyflowx.kernel.layout import KEY_DTYPE, VALUE_DTYPE
from pyflowx.transport.udp import SendCounts
from pyflowx.wire import Decoder

OFFSET = 1_700_000_000_000_000_000
SECOND = 10**9


class Meter:
    """Gives the prepared drains, one a call, then nothing."""

    def __init__(self, *drains):
        self.drains = list(drains)
        self.calls, self.ignored, self.changes, self.attachments, self.samples = [], {}, [], [], []
        self.waiting = 0

    def attach(self):
        self.calls.append("attach")
        return []

    def drain(self):
        self.calls.append("drain")
        return self.drains.pop(0) if self.drains else (np.zeros(0, KEY_DTYPE), np.zeros(0, VALUE_DTYPE))

    def watch(self):
        changes, self.changes = self.changes, []
        return changes

    def packets(self):
        return self.samples.pop(0)

    def offset_ns(self):
        return OFFSET

    def statistics(self):
        return self.ignored

    def detach(self):
        self.calls.append("detach")


class Sender:
    """Keeps what it is to send. ``unheard``: how many reports the next look finds."""

    def __init__(self):
        self.datagrams, self.counts, self.unheard = [], [SendCounts()], 0

    def look(self):
        self.counts[0].reports += self.unheard
        self.unheard = 0

    def send(self, datagrams):
        self.datagrams += datagrams.tolist()


class Clock:
    """Stands in for the module ``time``: sleeping and waiting advance it, nothing else does."""

    def __init__(self, now=100 * SECOND):
        self.now = now

    def monotonic_ns(self):
        return self.now

    def time_ns(self):
        return self.now + OFFSET

    def monotonic(self):
        return self.now / SECOND

    def sleep(self, seconds):
        self.now += int(seconds * SECOND)


@contextlib.contextmanager
def patched(clock):
    """The exporter's time is the clock's."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (exporter, sessions):
            patch.setattr(module, "time", clock)
        yield clock


class Stepped(Exporter):
    """Waits on the clock above; stops after so many ticks. ``work`` is called in each."""

    def __init__(self, clock, meter, sender, ticks, config=None, work=lambda: None, refresh=300):
        config = config or ExportConfig()
        sampling = config.sampling_interval, config.sampling_random
        encoder = udp_encoder(config.protocol, config.observation_domain_id, sampling)
        super().__init__(meter, [UdpSession(encoder, sender, refresh * SECOND)], config)
        self.clock, self.left, self.work, self.begins = clock, ticks, work, []

    def _stopped(self, due_ns):
        self.clock.now = max(self.clock.now, due_ns)
        self.left -= 1
        return self.left < 0

    def tick(self):
        self.begins.append(self.clock.now)
        super().tick()
        self.work()


def flow(now=100 * SECOND, **fields):
    """One key, one value; a TCP flow over IPv4 that came in, unless ``fields`` say otherwise."""
    key, value = np.zeros(1, KEY_DTYPE), np.zeros(1, VALUE_DTYPE)
    known = {"src": V4_MAPPED + bytes([192, 0, 2, 1]), "dst": V4_MAPPED + bytes([192, 0, 2, 2]), "ip_version": 4}
    known |= {"src_port": 4000, "dst_port": 80, "ifindex": 7, "protocol": 6, "tos": 8, "tcp_flags": 0x112}
    known |= {"packets": 3, "octets": 300, "l2_octets": 342, "first_ns": now, "last_ns": now + 5_000_000}
    known |= {"length_min": 40, "length_max": 1500, "ttl_min": 63, "ttl_max": 64, "icmp_type": 3, "icmp_code": 1}
    known |= {"src_mac": bytes([2, 0, 0, 0, 0, 1]), "dst_mac": bytes([2, 0, 0, 0, 0, 2]), "ethertype": 0x800}
    known |= {"fragment_flags": 0x40, "fragment_id": 17, "tcp_window": 1000}
    for name, x in (known | fields).items():
        array = key if name in KEY_DTYPE.names else value
        array[name] = np.frombuffer(x, np.uint8) if isinstance(x, bytes) else x
    return key, value


def joined(*flows):
    return np.concatenate([key for key, _ in flows]), np.concatenate([value for _, value in flows])


def records_of(*flows, reason=1):
    """Flow Records."""
    keys, values = joined(*flows)
    return FlowRecords(keys, values, np.full(len(keys), reason, np.uint8))


def decoded(datagrams, options=False):
    """Flow Records (options: options records) as dicts, and the problems that the decoder had."""
    results, problems = Decoder().decode(PacketBatch.of(datagrams), 0)
    records = []
    for batch in (flows for result in results for flows in result.flows if (flows.scope_count > 0) == options):
        names = [specifier.element.name for specifier in batch.fields]
        columns = [column.tolist() for column in batch.columns]
        records += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return records, problems.tolist()
