"""What the gate is to make of a frame, written from the RFCs and the protocols' own documents."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from pyflowx.batch import V4_MAPPED
from pyflowx.kernel.gate_layout import Outcome

# header and record octets by version (Cisco, NetFlow Services Solutions Guide; v1's record with its padding is 52)
FIXED = {1: (16, 48), 5: (24, 48), 7: (24, 52)}


def be16(octets, at):
    return int.from_bytes(octets[at : at + 2], "big")


def be32(octets, at):
    return int.from_bytes(octets[at : at + 4], "big")


@dataclass
class Oracle:
    """``sockets``: (address of 16 octets, port) each."""

    sockets: set
    allow: list | None = None
    netflow: bool = True
    sflow: bool = True
    source: bytes = field(default=b"", init=False)

    def outcome(self, frame):
        """Of one frame; ``source`` is then whose it was, where that matters."""
        found = self._network(frame)
        if isinstance(found, Outcome):
            return found
        self.source, destination, octets, room, version = found
        if len(octets) < 8 or (destination, be16(octets, 2)) not in self.sockets:
            return Outcome.OTHER
        length = be16(octets, 4)
        if length == 0 and version == 6:
            return Outcome.OTHER
        if length < 8 or length > room:
            return Outcome.BAD_LENGTH
        if self.allow is not None:
            address = ipaddress.ip_address(self.source)
            address = address.ipv4_mapped if version == 4 else address
            if not any(prefix.version == version and address in prefix for prefix in self.allow):
                return Outcome.NOT_ALLOWED
        return self.message(octets[8:length])

    @staticmethod
    def _network(frame):
        """(source, destination, octets behind the network header, how many the packet has, IP version), or what becomes
        of the frame."""
        if len(frame) < 14:
            return Outcome.OTHER
        kind, at = be16(frame, 12), 14
        for _ in range(2):  # IEEE 802.1Q §9
            if kind in (0x8100, 0x88A8) and len(frame) >= at + 4:
                kind, at = be16(frame, at + 2), at + 4
        packet = frame[at:]
        if kind == 0x0800 and len(packet) >= 20:  # RFC 791 §3.1
            header, total = (packet[0] & 15) * 4, be16(packet, 2)
            if packet[0] >> 4 != 4 or header < 20 or packet[9] != 17:
                return Outcome.OTHER
            if be16(packet, 6) & 0x3FFF:
                return Outcome.FRAGMENT
            if total > len(packet):
                return Outcome.OTHER
            ends = V4_MAPPED + packet[12:16], V4_MAPPED + packet[16:20]
            return (*ends, packet[header:], total - header, 4)
        if kind == 0x86DD and len(packet) >= 40 and packet[0] >> 4 == 6:  # RFC 8200 §3
            total, kind, at = 40 + be16(packet, 4), packet[6], 40
            for _ in range(4):
                if kind in (0, 43, 60):  # RFC 8200 §4.3, §4.4, §4.6
                    if len(packet) < at + 2:
                        return Outcome.OTHER
                    kind, at = packet[at], at + 8 + 8 * packet[at + 1]
            if len(packet) < at:
                return Outcome.OTHER
            if kind == 44 and len(packet) > at:
                return Outcome.FRAGMENT if packet[at] == 17 else Outcome.OTHER
            if kind != 17 or total > len(packet):
                return Outcome.OTHER
            return packet[8:24], packet[24:40], packet[at:], total - at, 6
        return Outcome.OTHER

    def message(self, octets):
        """Of the payload of a datagram of somebody who may send."""
        if len(octets) < 4:
            return Outcome.TRUNCATED
        version, second = be16(octets, 0), be16(octets, 2)
        if version == 0:
            return self._sflow(octets) if second == 5 and self.sflow else Outcome.BAD_VERSION
        if version not in (*FIXED, 9, 10) or not self.netflow:
            return Outcome.BAD_VERSION
        if version in FIXED:
            header, record = FIXED[version]
            if len(octets) < header:
                return Outcome.TRUNCATED
            return Outcome.PASSED if header + second * record <= len(octets) else Outcome.BAD_LENGTH
        header = {9: 20, 10: 16}[version]  # RFC 3954 §5.1, RFC 7011 §3.1
        if len(octets) < header:
            return Outcome.TRUNCATED
        if version == 10:
            if not 16 <= second <= len(octets):
                return Outcome.BAD_LENGTH
            octets = octets[:second]
        if len(octets) >= header + 4 and not 4 <= be16(octets, header + 2) <= len(octets) - header:
            return Outcome.BAD_LENGTH
        return Outcome.PASSED

    @staticmethod
    def _sflow(octets):
        """sFlow Version 5, §5: sample_datagram."""
        if len(octets) < 8:
            return Outcome.TRUNCATED
        address = {0: 0, 1: 4, 2: 16}.get(be32(octets, 4))
        if address is None:
            return Outcome.BAD_VERSION
        if len(octets) < 24 + address:
            return Outcome.TRUNCATED
        samples = be32(octets, 20 + address)
        return Outcome.PASSED if samples * 8 <= len(octets) - 24 - address else Outcome.BAD_LENGTH
