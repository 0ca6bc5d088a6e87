"""Pure codecs: octets to FlowBatch and back."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np

from pyflowx.batch import I32, PacketBatch
from pyflowx.decoded import Decoded, Problems, Protocol, Reason
from pyflowx.elements import Registry
from pyflowx.wire.template import TemplateLimits, TemplateStore

__all__ = ["Decoder", "TemplateLimits", "TemplateStore"]

# A codec's module is imported with the first datagram that needs it.
MODULES = {
    Protocol.NETFLOW_V1: "netflow5",
    Protocol.NETFLOW_V5: "netflow5",
    Protocol.NETFLOW_V7: "netflow5",
    Protocol.NETFLOW_V9: "netflow9",
    Protocol.IPFIX: "ipfix",
    Protocol.SFLOW_V5: "sflow",
}


class Decoder:
    """Tells the protocols apart by the first octets of a datagram and decodes each with its codec.

    ``protocols`` restricts what is accepted, on all inputs or on each of them; the rest is Reason.OTHER_PROTOCOL.
    Templates live in :attr:`templates` from call to call. ``tunnels``: of sFlow's sampled packets take the innermost IP
    header, else the outermost.
    """

    def __init__(
        self,
        registry: Registry | None = None,
        limits: TemplateLimits | None = None,
        protocols: frozenset[Protocol] | Sequence[frozenset[Protocol]] | None = None,
        tunnels: bool = True,
    ) -> None:
        self.tunnels = tunnels
        self.templates = TemplateStore(registry, limits)
        known = frozenset(Protocol) if protocols is None else protocols
        self._accepted = [known] if isinstance(known, frozenset) else list(known)

    def decode(self, packets: PacketBatch, now_ns: int) -> tuple[list[Decoded], Problems]:
        """One Decoded for each protocol in the batch. Never raises for what is in ``packets``; the result does not
        refer to it. ``now_ns`` (since 1970) is the collector's clock, by which Templates and held data grow old."""
        problems = Problems()
        self.templates.expire(now_ns)
        result = []
        for protocol, rows in self._sort(packets, problems):
            codec = importlib.import_module(f"pyflowx.wire.{MODULES[protocol]}")
            own = (self.tunnels,) if protocol is Protocol.SFLOW_V5 else ()
            result.append(codec.decode(packets, rows, self.templates, now_ns, problems, *own))
        return result, problems

    def _sort(self, packets: PacketBatch, problems: Problems) -> list[tuple[Protocol, I32]]:
        """The rows of each protocol."""
        n = len(packets)
        octets = np.zeros((n, 4), np.uint8)
        width = min(4, packets.data.shape[1])
        octets[:, :width] = packets.data[:, :width]
        words = octets.view(">u4")[:, 0].astype(np.int64)
        version = words >> 16
        version = np.where((version == 0) & (words == 5) & (packets.length >= 4), int(Protocol.SFLOW_V5), version)
        if n and packets.length.min() < 2:
            version[packets.length < 2] = -1
            problems.add(np.flatnonzero(packets.length == 0), 0, Reason.EMPTY_DATAGRAM)
            problems.add(np.flatnonzero(packets.length == 1), 0, Reason.TRUNCATED_HEADER)
        found: list[tuple[Protocol, I32]] = []
        left = n
        for protocol in Protocol:
            rows = np.flatnonzero(version == protocol).astype(np.int32)
            left -= len(rows)
            taken = self._taken(packets, rows, protocol, problems) if len(rows) else rows
            if len(taken):
                found.append((protocol, taken))
            if not left:
                return found
        unknown = ~np.isin(version, [-1, *Protocol])
        problems.add(np.flatnonzero(unknown), 0, Reason.UNKNOWN_VERSION)
        return found

    def _taken(self, packets: PacketBatch, rows: I32, protocol: Protocol, problems: Problems) -> I32:
        """Of rows of a protocol those whose input takes it."""
        takes = np.array([protocol in accepted for accepted in self._accepted])
        if takes.all():
            return rows
        taken = np.full(len(rows), takes[0]) if packets.input is None else takes[packets.input[rows]]
        problems.add(rows[~taken], 0, Reason.OTHER_PROTOCOL)
        found: I32 = rows[taken]
        return found
