"""The gate as others may see it: what :mod:`pyflowx.collectview` and the metrics tell of it.

Section ``gate`` of a snapshot (null without ``--xdp``); counts are datagrams since the start:

- ``mode``: ``monitor`` or ``enforce``; ``rate_limit``: datagrams a second an exporter, null: any; ``allow``: how many
  prefixes may send, null: all.
- ``interfaces``: ``interface``, ``hook`` (``xdp``, ``xdp-generic``; null: not attached now), ``outcomes``: frames by
  outcome, ``stateless``: datagrams of exporters of which no state could be kept (they pass without limit). Outcomes:
  ``other`` (not UDP to our sockets), ``fragment``, ``passed``, ``redirected`` (to AF_XDP sockets), and the reasons
  ``not_allowed``, ``bad_version``, ``truncated``, ``bad_length``, ``rate_limited``: dropped where the mode is
  ``enforce``, else passed.
- ``exporters``: ``address``, ``passed`` (redirected ones too), ``octets`` of payload, ``reasons``: the
  :data:`EXPORTERS` with most of the last, then with most of the first; ``others``: all other exporters together.
- ``queues``: an AF_XDP socket each, of ``interface`` and ``queue``: ``zero_copy``, frames that wait (``depth``) and
  fit (``size``), ``received``, given up by us: ``bad_checksum``, ``unreadable`` (no datagrams that the gate lets
  through), and by the kernel (XDP_STATISTICS): ``rx_dropped`` (of these ``rx_fill_ring_empty_descs`` for lack of a
  frame), ``rx_ring_full``, ``rx_invalid_descs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pyflowx.collectview import OTHERS, Stage, address_text
from pyflowx.kernel.gate import Gate, Source
from pyflowx.kernel.gate_layout import REASONS, STATELESS, Outcome
from pyflowx.metrics import XDP_LOSSES

EXPORTERS = 200  # in a snapshot, and in metrics

_NAMES = tuple(outcome.name.lower() for outcome in Outcome)
REASON_NAMES = tuple(reason.name.lower() for reason in REASONS)


class Queue(Protocol):
    """What is needed of :class:`~pyflowx.transport.xsk.XskSocket`."""

    def look(self) -> dict[str, Any]: ...


@dataclass(slots=True)
class GateView:
    """The gate, and what reads from AF_XDP sockets. By any thread, until it is closed.

    ``reload`` reads the file of prefixes again.
    """

    gate: Gate
    reload: Callable[[], None]
    queues: Callable[[], Sequence[Queue]] = tuple

    def outcomes(self) -> dict[str, dict[str, int]]:
        """Frames by interface and outcome."""
        found = self.gate.statistics()
        return {name: dict(zip(_NAMES, total["packets"].tolist(), strict=False)) for name, total in found.items()}

    def total(self) -> dict[str, int]:
        """Of all interfaces."""
        rows = self.outcomes().values()
        return {name: sum(row[name] for row in rows) for name in _NAMES}

    def dropped(self) -> int:
        total = self.total()
        return sum(total[name] for name in REASON_NAMES) if self.gate.config.enforce else 0

    def stages(self) -> list[Stage]:
        """Of the way from the wire to the file."""
        total = self.total()
        stages = [Stage("gate", "datagrams", total["passed"] + total["redirected"], self.dropped())]
        if rows := self.sockets():
            stages.append(Stage("af_xdp", "datagrams", sum(row["received"] for row in rows), self.lost()))
        return stages

    def lost(self) -> int:
        """At AF_XDP sockets."""
        return sum(row[name] for row in self.sockets() for name in XDP_LOSSES)

    def exporters(self) -> list[tuple[str, Source]]:
        """Those with most refused and most passed datagrams, and all others together."""
        total = self.total()
        sources = self.gate.sources()
        shown = sorted(sources.items(), key=lambda row: (-sum(row[1].refused), -row[1].passed))[:EXPORTERS]
        found = [(address_text(address), source) for address, source in shown]
        passed = total["passed"] + total["redirected"] - sum(source.passed for _, source in found)
        refused = [
            max(0, total[name] - sum(source.refused[number] for _, source in found))
            for number, name in enumerate(REASON_NAMES)
        ]
        octets = sum(source.octets for source in sources.values()) - sum(source.octets for _, source in found)
        others = Source(max(0, passed), octets, tuple(refused))
        return [*found, (OTHERS, others)] if others.passed or any(refused) else found

    def refused(self) -> list[tuple[tuple[str, str], int]]:
        """Datagrams by exporter and reason."""
        rows = [(address, zip(REASON_NAMES, source.refused, strict=True)) for address, source in self.exporters()]
        return [((address, name), count) for address, each in rows for name, count in each if count]

    def sockets(self) -> list[dict[str, Any]]:
        """A row for each AF_XDP socket."""
        return [row for row in (queue.look() for queue in self.queues()) if row]

    def section(self) -> dict[str, Any]:
        """For the live feed."""
        config = self.gate.config
        hooks = {at.interface: at.hook for at in self.gate.attachments}
        stateless = {name: int(total["packets"][STATELESS]) for name, total in self.gate.statistics().items()}
        exporters = [_exporter(*row) for row in self.exporters()]
        others = exporters.pop() if exporters and exporters[-1]["address"] == OTHERS else _exporter(OTHERS, _NOTHING)
        return {
            "mode": "enforce" if config.enforce else "monitor",
            "rate_limit": config.rate or None,
            "allow": None if config.allow is None else self.gate.prefixes,
            "interfaces": [
                {"interface": name, "hook": hooks.get(name), "outcomes": row, "stateless": stateless[name]}
                for name, row in self.outcomes().items()
            ],
            "exporters": exporters,
            "others": others,
            "queues": self.sockets(),
        }

    def summary(self) -> list[str]:
        """What is said at the end, a line an interface and one an AF_XDP socket that lost something."""
        verb = "dropped" if self.gate.config.enforce else "would be dropped by --xdp-mode enforce"
        lines = []
        for name, row in self.outcomes().items():
            refused = {reason: row[reason] for reason in REASON_NAMES if row[reason]}
            told = ", ".join(f"{reason} {count}" for reason, count in refused.items())
            lines.append(
                f"gate on {name}: {row['passed']} datagrams passed, {row['redirected']} redirected, "
                f"{sum(refused.values())} {verb}" + (f": {told}" if told else "")
            )
        for row in self.sockets():
            lost = {name: row[name] for name in XDP_LOSSES if row[name]}
            if lost:
                told = ", ".join(f"{name} {count}" for name, count in lost.items())
                lines.append(f"AF_XDP socket of {row['interface']} queue {row['queue']} lost: {told}")
        return lines


_NOTHING = Source(0, 0, (0,) * len(REASONS))


def _exporter(address: str, source: Source) -> dict[str, Any]:
    reasons = {name: count for name, count in zip(REASON_NAMES, source.refused, strict=True) if count}
    return {"address": address, "passed": source.passed, "octets": source.octets, "reasons": reasons}
