"""Frames that are made quickly."""

from __future__ import annotations

import struct


def udp_frame(number, payload=18):
    """A frame of flow ``number``."""
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 28 + payload, 0, 0, 64, 17, 0, 0x0A090002, 0x0A090001)
    udp = struct.pack("!HHHH", number & 0xFFFF, number >> 16, 8 + payload, 0)
    return b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0" + ip + udp + bytes(payload)
