"""Ethernet frames of random flows as far as an sFlow agent samples them: the headers, no payload."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pyflowx.batch import U8, Array

_ETHERNET = [("destination_mac", ">u2", 3), ("source_mac", ">u2", 3), ("ethernet_type", ">u2")]
_IPV4 = [
    ("version_ihl", "u1"),
    ("tos", "u1"),
    ("length", ">u2"),
    ("identification", ">u2"),
    ("fragment", ">u2"),
    ("ttl", "u1"),
    ("protocol", "u1"),
    ("header_checksum", ">u2"),
    ("source", ">u4"),
    ("destination", ">u4"),
]
_IPV6 = [
    ("version_class_label", ">u4"),
    ("length", ">u2"),
    ("protocol", "u1"),
    ("ttl", "u1"),
    ("source", "u1", 16),
    ("destination", "u1", 16),
]
# The header of TCP; others have their ports in the same place, ICMP its type and code.
_TRANSPORT = [
    ("source_port", ">u2"),
    ("destination_port", ">u2"),
    ("sequence_number", ">u4"),
    ("acknowledgement_number", ">u4"),
    ("data_offset", "u1"),
    ("flags", "u1"),
    ("window", ">u2"),
    ("checksum", ">u2"),
    ("urgent", ">u2"),
]
FRAMES = {4: np.dtype([*_ETHERNET, *_IPV4, *_TRANSPORT]), 6: np.dtype([*_ETHERNET, *_IPV6, *_TRANSPORT])}
_ETHERNET_OCTETS, _IPV4_OCTETS, _IPV6_OCTETS = 14, 20, 40
_TCP, _UDP, _UDPLITE = 6, 17, 136
_LOCAL_MAC = 0x0200  # its first two octets: locally administered; the last one is the number of the interface
_UNVERIFIED = 0xFFFF  # a checksum over octets that nobody has (0 is forbidden in UDP over IPv6)


def frames(columns: Mapping[str, Array], version: int, sizes: npt.NDArray[np.uint32]) -> U8:
    """``(n, 54)``, in IPv6 ``(n, 74)``: the headers of frames of ``sizes`` octets (at least that many)."""
    frame = np.zeros(len(sizes), FRAMES[version])
    family = f"IPv{version}"
    frame["source_mac"][:, 0] = frame["destination_mac"][:, 0] = _LOCAL_MAC
    frame["source_mac"][:, 2], frame["destination_mac"][:, 2] = columns["ingressInterface"], columns["egressInterface"]
    frame["source"], frame["destination"] = columns[f"source{family}Address"], columns[f"destination{family}Address"]
    frame["protocol"], frame["ttl"] = columns["protocolIdentifier"], 64
    octets = np.minimum(sizes - _ETHERNET_OCTETS, 0xFFFF)
    cells = frame.view(np.uint8).reshape(len(frame), -1)
    if version == 4:
        frame["ethernet_type"], frame["version_ihl"], frame["fragment"] = 0x0800, 0x45, 0x4000  # don't fragment
        frame["tos"], frame["length"] = columns["ipClassOfService"], octets
        frame["header_checksum"] = _checksum(cells[:, _ETHERNET_OCTETS : _ETHERNET_OCTETS + _IPV4_OCTETS])
        _put_transport(frame, columns, octets - _IPV4_OCTETS)
    else:
        frame["ethernet_type"], frame["length"] = 0x86DD, octets - _IPV6_OCTETS
        frame["version_class_label"] = columns["ipClassOfService"].astype(np.uint32) << 20 | np.uint32(6 << 28)
        _put_transport(frame, columns, octets - _IPV6_OCTETS)
    return cells


def _put_transport(frame: Array, columns: Mapping[str, Array], octets: npt.NDArray[np.uint32]) -> None:
    """The header behind that of IP, whose payload has ``octets``."""
    protocol = columns["protocolIdentifier"]
    icmp = columns["icmpTypeCodeIPv4" if "icmpTypeCodeIPv4" in columns else "icmpTypeCodeIPv6"]
    frame["source_port"] = columns["sourceTransportPort"] | icmp  # a flow has one of the two
    frame["destination_port"] = columns["destinationTransportPort"]
    tcp, udp = protocol == _TCP, (protocol == _UDP) | (protocol == _UDPLITE)
    frame["data_offset"] = np.where(tcp, 5 << 4, 0)
    frame["flags"] = columns["tcpControlBits"]
    frame["window"] = np.where(tcp, 0xFFFF, 0)
    frame["checksum"] = np.where(tcp, _UNVERIFIED, 0)
    frame["sequence_number"] = np.where(udp, octets << 16 | _UNVERIFIED, 0)  # UDP has length and checksum here


def _checksum(header: U8) -> npt.NDArray[np.uint32]:
    """Of IPv4 headers, one a row, whose own checksum is 0 (RFC 791 §3.1)."""
    words = np.ascontiguousarray(header).view(">u2")
    total: npt.NDArray[np.uint32] = words.sum(axis=1, dtype=np.uint32)
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return ~total & np.uint32(0xFFFF)
