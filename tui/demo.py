"""The demo: a collector and an exporter at work on a made-up network, the same for the same seed.

The collector is the real one, but for its sockets: datagrams of :mod:`pyflowx_tui.demonetwork` are decoded, counted and
looked at by :class:`~pyflowx.collectview.CollectorView`. What a host or a kernel would count is made up.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyflowx import __version__
from pyflowx.batch import Array, PacketBatch
from pyflowx.collectview import CollectorView, flow_section
from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.conversion import Conversion
from pyflowx.counters import Counters
from pyflowx.host import Interface
from pyflowx.live import VERSION
from pyflowx.recent import RecentFlows, Tap
from pyflowx.sinks.discard import Discard
from pyflowx.wire import Decoder

from .demonetwork import COUNTRIES, NS, ORGANISATIONS, SITES, Device, Network, broken, devices, sites_of
from .sources import ListSource, Snapshot, Source, ThreadSource

HISTORY = 60  # seconds that are past when the demo begins
FIXED_NS = 1_753_872_000 * NS  # 2025-07-30 10:40 UTC, for pictures and tests
_BROKEN = "203.0.113.66"
_MAP = 16_384


@dataclass(slots=True)
class _Socket:
    """In the place of a receiver: its buffer fills up in a burst, and drops something once."""

    second: int = 0

    @property
    def dropped(self) -> int:
        return 37 if self.second >= 27 else 0

    @property
    def queued(self) -> tuple[int, int]:
        share = 0.94 if self.second % 60 in (26, 27) else 0.03 + 0.02 * (self.second % 7)
        return int(share * (8 << 20)), 8 << 20


@dataclass(slots=True)
class _View(CollectorView):
    """What the kernel counts is made up."""

    second: int = 0

    def interface_drops(self) -> dict[str, Interface]:
        return {"eth0": Interface(self.counters.datagrams + 40 * self.second, 3 if self.second > 12 else 0)}

    def backlog_drops(self) -> int:
        return 0

    def workers(self) -> list[dict[str, Any]]:
        """Two processes that share the datagrams."""
        counters, (queued, limit) = self.counters, self.socket_queue()
        shares = (0.53, 0.47)
        return [
            {
                "number": number,
                "pid": 4712 + number,
                "restarts": int(number == 2 and self.second > 36),
                "datagrams": int(counters.datagrams * share),
                "flows": int(counters.flows * share),
                "cpu_seconds": 0.2 + self.second * 0.006 + counters.flows * share * 8e-6,
                "memory_octets": 67_000_000 + 8_000 * self.second,
                "queued": int(queued * share),
                "limit": limit,
                "dropped": self.socket_drops() if number == 1 else 0,
            }
            for number, share in enumerate(shares, 1)
        ]


def _enrich(batch: CommonBatch) -> None:
    """Countries and organisations of servers, as a table of prefixes would give them."""
    for side in ("src", "dst"):
        column = batch.columns.get(f"{side}_addr")
        if column is None:
            continue
        values = column.values
        numbers = values if values.ndim == 1 else np.ascontiguousarray(values[:, 12:]).view(">u4")[:, 0]
        sites = sites_of(numbers)
        countries = np.array([COUNTRIES.index(site.country) for site in SITES], np.int64)
        for name, codes, labels in (
            ("country", countries[sites], COUNTRIES),
            ("organisation", sites, ORGANISATIONS),
        ):
            batch.columns[f"{side}_{name}"] = CommonColumn(
                "label", np.maximum(codes, 0).astype(np.uint8), sites >= 0, labels
            )


class _Log:
    """The last lines."""

    def __init__(self) -> None:
        self.lines: deque[list[Any]] = deque(maxlen=200)

    def say(self, time_ns: int, level: str, message: str) -> None:
        number = self.lines[-1][0] + 1 if self.lines else 1
        self.lines.append([number, time_ns, level, message])

    def __call__(self) -> list[list[Any]]:
        return list(self.lines)


_COLLECTOR_SAYS = {
    0: ("info", "listening on 0.0.0.0 UDP port 9995"),
    1: ("info", "metrics at http://0.0.0.0:9090/metrics, live feed at /run/pyflowx/collect-9995.sock"),
    13: ("warning", "3 packets dropped by eth0: the ring of the device was full"),
    27: ("warning", "37 datagrams dropped by the kernel, as our socket buffer was full: raise --recv-buffer"),
    33: ("warning", "28 records or packets are missing by their sequence numbers: pyflowx doctor says whose"),
    44: ("info", "asn.csv has changed: 812345 rows loaded"),
    50: ("error", "GeoLite2-City.mmdb: not a MaxMind DB file; the table before it stays in use"),
}
_EXPORTER_SAYS = {
    0: ("info", "metering eth0 (xdp ingress, tc egress), wg0 (tc ingress, tc egress)"),
    1: ("info", "metrics at http://0.0.0.0:9090/metrics, live feed at /run/pyflowx/export.sock"),
    26: ("warning", "the map of flows is 92% full: raise --max-flows (16384)"),
    40: ("info", "wg0 is back: its programs are attached again"),
}


class DemoCollector:
    """:meth:`step` is a second of its life."""

    role = "collect"

    def __init__(self, seed: int, begin_ns: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._network = Network(self._rng)
        self._devices = devices()
        for number, device in enumerate(self._devices):
            device.start(begin_ns, seed + number)
        self._begin_ns, self._second = begin_ns, 0
        self._decoder, self._counters = Decoder(), Counters()
        self._sink, self._socket, self._log = Discard(), _Socket(), _Log()
        seen = RecentFlows()
        seen.wanted = True
        self._tap, self._conversion = Tap(self._sink, seen), Conversion()
        self._view = _View(
            self._counters, self._decoder.templates, self._sink, [self._socket], log=self._log, flows=seen
        )
        self._view.rates = self._conversion.rates

    def step(self) -> Snapshot:
        second, now_ns = self._second, self._begin_ns + self._second * NS
        self._second += 1
        self._socket.second = self._view.second = second
        for device in self._devices:
            self._receive(device, device.datagrams(self._network, second, now_ns, self._rng), now_ns)
        self._receive(Device(_BROKEN, "ipfix", 99, 0, port=2055), broken(second, now_ns, self._rng), now_ns)
        if second in _COLLECTOR_SAYS:
            self._log.say(now_ns, *_COLLECTOR_SAYS[second])
        sections = {name: json.loads(made.octets) for name, made in self._view.sections().items()}
        return {"number": second + 1, "dropped": 0, "time_ns": now_ns, **sections, **self._made_up(sections)}

    def _receive(self, device: Device, datagrams: list[bytes], now_ns: int) -> None:
        if not datagrams:
            return
        spread = now_ns + np.arange(len(datagrams)) * 7_000_000
        packets = PacketBatch.of(datagrams, device.octets, device.port, spread.tolist())
        decoded, problems = self._decoder.decode(packets, now_ns)
        self._counters.add(packets, decoded, problems)
        self._view.datagrams.add(packets, decoded, problems)
        self._view.recorded.add(packets, decoded)
        for part in decoded:
            for batch in self._conversion(part):
                _enrich(batch)
                self._tap.write(batch)

    def _made_up(self, sections: Snapshot) -> Snapshot:
        second, rows = self._second, self._sink.rows
        counters = sections["counters"]
        counters |= {
            "decode_seconds": rows * 4e-6,
            "output_seconds": rows * 3e-6,
            "cpu_seconds": 0.4 + second * 0.011 + rows * 8e-6,
            "memory_octets": 68_000_000 + 9_000 * second,
            "written_octets": rows * 92,
        }
        tables = [
            {"source": "asn.csv", "rows": 812_345, "looked_up": 2 * rows, "matched": rows, "reloads": 1, "failures": 0},
            {"source": "GeoLite2-City.mmdb", "rows": 3_914_220, "looked_up": 2 * rows, "matched": rows}
            | {"reloads": 0, "failures": int(second > 50)},
        ]
        return {"counters": counters, "tables": tables, "gate": self._gate(sections["exporters"])}

    def _gate(self, exporters: list[Snapshot]) -> Snapshot:
        """As if it stood before the sockets on eth0."""
        second, bad = self._second, next((row for row in exporters if row["address"] == _BROKEN), None)
        refused = bad["datagrams"] if bad is not None else 0
        none = dict.fromkeys(("not_allowed", "bad_version", "truncated", "bad_length", "rate_limited"), 0)
        passed = self._counters.datagrams - refused
        outcomes = {"other": 61 * second, "fragment": second // 20, "passed": passed, "redirected": 0}
        outcomes |= none | {"bad_version": refused, "not_allowed": 3 * second}
        rows = [
            {"address": row["address"], "passed": row["datagrams"], "octets": row["octets"], "reasons": none}
            for row in exporters
            if row is not bad
        ]
        scanner = {"address": "203.0.113.99", "passed": 0, "octets": 0, "reasons": none | {"not_allowed": 3 * second}}
        faulty = {"address": _BROKEN, "passed": 0, "octets": 0, "reasons": none | {"bad_version": refused}}
        return {
            "mode": "monitor",
            "rate_limit": 5000,
            "allow": 12,
            "interfaces": [{"interface": "eth0", "hook": "xdp", "outcomes": outcomes, "stateless": 0}],
            "exporters": [scanner, faulty, *rows],
            "others": {"address": "other", "passed": 0, "octets": 0, "reasons": none},
            "queues": [],
        }


@dataclass(slots=True)
class _Metered:
    """Counts of the exporter, all since the start."""

    packets: int = 0
    octets: int = 0
    messages: int = 0
    flows: int = 0
    drain_ns: int = 0
    fill: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


class DemoExporter:
    """:meth:`step` is a second of its life; flows are those of the same kind of network."""

    role = "export"

    def __init__(self, seed: int, begin_ns: int) -> None:
        self._rng = np.random.default_rng(seed + 1000)
        self._network = Network(self._rng)
        self._begin_ns, self._second = begin_ns, 0
        self._counts, self._log = _Metered(), _Log()

    def step(self) -> Snapshot:
        second, now_ns = self._second, self._begin_ns + self._second * NS
        self._second += 1
        busy = 1 + 0.5 * np.sin(second / 8) + (1.5 if 20 <= second % 60 < 32 else 0)
        columns = self._network.flows(int(110 * busy), second)
        self._count(columns, busy)
        if second in _EXPORTER_SAYS:
            self._log.say(now_ns, *_EXPORTER_SAYS[second])
        flows = RecentFlows()
        flows.add(_common(columns, now_ns, self._rng))
        sections: Snapshot = {"flows": json.loads(flow_section(*flows.take())), "log": self._log()}
        return {"number": second + 1, "dropped": 0, "time_ns": now_ns, **self._sections(), **sections}

    def _count(self, columns: dict[str, Array], busy: float) -> None:
        counts, n = self._counts, len(columns["octetDeltaCount"])
        counts.packets += int(columns["packetDeltaCount"].sum())
        counts.octets += int(columns["octetDeltaCount"].sum())
        counts.flows += n
        counts.messages += 1 + n // 18
        counts.fill = min(_MAP, int(5_900 * busy))
        counts.drain_ns = int(counts.fill * 640 * self._rng.uniform(0.9, 1.2))
        for reason, share in (("IDLE_TIMEOUT", 0.5), ("ACTIVE_TIMEOUT", 0.2), ("END_OF_FLOW", 0.3)):
            counts.reasons[reason] = counts.reasons.get(reason, 0) + int(n * share)

    def _sections(self) -> Snapshot:
        counts, second = self._counts, self._second
        full = 212 if second > 26 else 0
        malformed = second // 9
        return {
            "counters": self._counters(),
            "pipeline": [
                {"stage": "hook", "unit": "packets", "passed": counts.packets, "lost": malformed},
                {"stage": "map", "unit": "packets", "passed": counts.packets, "lost": full},
                {"stage": "socket", "unit": "messages", "passed": 2 * counts.messages, "lost": 0},
                {"stage": "network", "unit": "reports", "passed": None, "lost": second // 6},
            ],
            "hooks": [
                {"interface": "eth0", "ifindex": 2, "hook": "xdp", "direction": "ingress", "note": ""},
                {"interface": "eth0", "ifindex": 2, "hook": "tcx", "direction": "egress", "note": ""},
                {"interface": "wg0", "ifindex": 5, "hook": "tcx", "direction": "ingress", "note": ""},
                {"interface": "wg0", "ifindex": 5, "hook": "tcx", "direction": "egress", "note": ""},
            ],
            "programs": [
                {"program": name, "runs": runs, "nanoseconds": runs * ns, "mean_ns": float(ns)}
                for name, runs, ns in (
                    ("xdp", counts.packets * 5 // 9, 83),
                    ("ingress_ip", counts.packets // 9, 121),
                    ("egress", counts.packets // 3, 117),
                )
            ],
            "map": {
                "flows": counts.fill,
                "max_flows": _MAP,
                "inserts_failed": full,
                "drains": second,
                "drain_ns": counts.drain_ns,
            },
            "statistics": {
                "metered": [counts.packets, counts.octets],
                "not_ip": [second * 11, second * 660],
                "malformed": [malformed, malformed * 60],
                "own_export": [2 * counts.messages, 2 * counts.messages * 1_300],
                "map_full": [full, full * 700],
                "lost": [0, 0],
                "filtered": [0, 0],
                "not_selected": [0, 0],
                "gso_added": [counts.packets // 4, counts.packets // 4 * 66],
            },
            "collectors": [
                {"address": "192.0.2.10:4739", "sent": counts.messages, "octets": counts.messages * 1_280}
                | {"lost": 0, "reports": 0, "last_error": ""},
                {"address": "[2001:db8::10]:4739", "sent": counts.messages, "octets": counts.messages * 1_280}
                | {"lost": 0, "reports": second // 6, "last_error": "Connection refused"},
            ],
        }

    def _counters(self) -> Snapshot:
        counts, second = self._counts, self._second
        return {
            "ticks": second,
            "drains": second,
            "slow_ticks": 0,
            "skipped_ticks": 0,
            "packets_metered": counts.packets,
            "octets_metered": counts.octets,
            "l2_octets_metered": counts.octets + 14 * counts.packets,
            "packets_exported": counts.packets,
            "octets_exported": counts.octets,
            "l2_octets_exported": counts.octets + 14 * counts.packets,
            "samples": 0,
            "refused_flows": 0,
            "refused_packets": 0,
            "not_sent_flows": 0,
            "not_sent_packets": 0,
            "messages": 2 * counts.messages,
            "message_octets": 2 * counts.messages * 1_280,
            "template_messages": 2 * (1 + second // 30),
            "last_drain_ns": counts.drain_ns,
            "last_tick_ns": counts.drain_ns + 9_000_000,
            "alive": counts.fill * 2,
            "cpu_seconds": 0.9 + second * 0.031,
            "memory_octets": 121_000_000,
            "reasons": dict(counts.reasons),
        }


def _common(columns: dict[str, Array], now_ns: int, rng: np.random.Generator) -> CommonBatch:
    """Flows as our own exporter tells them."""
    n = len(columns["octetDeltaCount"])
    end = now_ns - rng.integers(0, NS, n)
    values: dict[str, tuple[str, Array]] = {
        "time_received_ns": ("time", np.full(n, now_ns)),
        "sequence_num": ("u32", np.zeros(n, np.uint32)),
        "time_flow_start_ns": ("time", end - (rng.exponential(8, n) * NS).astype(np.int64)),
        "time_flow_end_ns": ("time", end),
        "bytes": ("u64", columns["octetDeltaCount"]),
        "packets": ("u64", columns["packetDeltaCount"]),
        "src_addr": ("address", columns["sourceIPv4Address"].astype(np.uint32)),
        "dst_addr": ("address", columns["destinationIPv4Address"].astype(np.uint32)),
        "etype": ("u16", np.full(n, 0x0800, np.uint16)),
        "proto": ("u8", columns["protocolIdentifier"]),
        "src_port": ("u16", columns["sourceTransportPort"].astype(np.uint16)),
        "dst_port": ("u16", columns["destinationTransportPort"].astype(np.uint16)),
        "in_if": ("u32", np.where(columns["flowDirection"] == 0, 2, 5).astype(np.uint32)),
        "ip_tos": ("u8", columns["ipClassOfService"]),
        "tcp_flags": ("u16", columns["tcpControlBits"]),
    }
    made = {"flow_type": CommonColumn("label", np.zeros(n, np.uint8), None, ("IPFIX",))}
    made |= {name: CommonColumn(type, column) for name, (type, column) in values.items()}
    return CommonBatch(made, n)


# --- as sources -------------------------------------------------------------------------------------------------------

_ROLES = (("demo collector", DemoCollector), ("demo exporter", DemoExporter))


def _hello(role: str, begin_ns: int) -> Snapshot:
    about = {"feed": "pyflowx", "version": VERSION, "role": role, "pyflowx": __version__}
    return {**about, "pid": 4711, "started_ns": begin_ns}


def demo_sources(seed: int = 1, now_ns: int | None = None, seconds: int = HISTORY) -> list[Source]:
    """A collector and an exporter that have run for ``seconds``. With ``now_ns`` time stands still then."""
    if now_ns is None:
        return [_running(name, make, seed, seconds) for name, make in _ROLES]
    begin_ns, found = now_ns - seconds * NS, []
    for name, make in _ROLES:
        process = make(seed, begin_ns)
        found.append(ListSource(name, _hello(make.role, begin_ns), [process.step() for _ in range(seconds)]))
    return [*found]


def _running(name: str, make: Any, seed: int, seconds: int) -> Source:
    def run(source: ThreadSource) -> None:
        begin_ns = time.time_ns() - seconds * NS
        begin_s = time.monotonic() - seconds
        process = make(seed, begin_ns)
        source.begin(_hello(make.role, begin_ns))
        step = 0
        while not source.is_closed:
            wait_s = begin_s + step - time.monotonic()
            if wait_s > 0:
                source.wait(wait_s)
                continue
            source.put(process.step())
            step += 1

    source = ThreadSource(name, run)
    source.start()
    return source
