"""NumPy's view of ``bpf/flow.h``, the one contract between our BPF programs and user space.

A test compiles flow.h and compares every name, offset and size with these dtypes.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

KEY_LEVELS = ("ip", "proto", "full", "vlan", "ether")
"""What a flow is (``enum key_level``); each level has all that the ones before it have: addresses; protocol; ports,
ToS, tunnel; VLANs; MAC addresses and EtherType. What a level leaves out is 0 in the key."""

# The frame's own: at level ether in the key, else in the value (the first packet's). Zero where the device has no
# Ethernet header. MAC addresses as on the wire; ethertype is that of what the frame carries, behind all tags.
_LINK = [("dst_mac", "u1", 6), ("src_mac", "u1", 6), ("ethertype", "=u2")]

# struct flow_key. Addresses are 16 octets in network order, IPv4 as IPv4-mapped (::ffff:a.b.c.d); ports are in
# host order and 0 where the protocol has none or the packet does not show them. ip_version is 4 or 6; 0 marks the
# catch-all flow of an interface and direction: packets that found the map full (at level ether also what is not
# IP, which has an ethertype; the catch-all has none). direction is IANA's flowDirection: 0 ingress, 1 egress. vlan
# is the outer VLAN identifier, 0 for none. With tunnels looked into, the addresses are the innermost packet's,
# tunnel (Tunnel) and segment (VXLAN or Geneve network identifier, GRE key) of the tunnel that carries it. complete
# is 1.
_KEY = [
    ("src", "u1", 16),
    ("dst", "u1", 16),
    ("src_port", "=u2"),
    ("dst_port", "=u2"),
    ("ifindex", "=u4"),
    ("segment", "=u4"),
    ("vlan", "=u2"),
    ("inner_vlan", "=u2"),
    ("protocol", "u1"),
    ("tos", "u1"),
    ("ip_version", "u1"),
    ("direction", "u1"),
    ("tunnel", "u1"),
    ("pad", "u1", 2),
    ("complete", "u1"),
]

# struct flow_value. octets counts IP octets (IANA octetDeltaCount), l2_octets whole frames without FCS
# (layer2OctetDeltaCount); both as the wire has them: a GSO super-packet counts as its segments with their
# headers. Times are ns of CLOCK_MONOTONIC, see Meter.offset_ns(). length_min and length_max are IP lengths. OR of
# all packets: tcp_flags (12 bits), extensions (IPv6 extension headers; 1 << n is bit n of IANA's registry, RFC
# 9740), fragment_flags (IANA fragmentFlags). The first packet's: ICMP's type and code (IGMP's type too),
# flow_label (IPv6), fragment_id (IPv4 identification; IPv6: of a fragment), tcp_window; tcp_mss and
# tcp_window_scale of a SYN, else 0; mpls_depth labels (we look at 8), of which mpls_1 is the top (20 bits of
# label, EXP, S). Times may be up to 15 packets and one jiffy of the kernel (1 to 10 ms) old where a CPU has many
# packets, unless they are to be exact: see bpf/recent.h.
_VALUE = [
    ("packets", "=u8"),
    ("octets", "=u8"),
    ("l2_octets", "=u8"),
    ("first_ns", "=u8"),
    ("last_ns", "=u8"),
    ("length_min", "=u4"),
    ("length_max", "=u4"),
    ("extensions", "=u4"),
    ("tcp_flags", "=u2"),
    ("ttl_min", "u1"),
    ("ttl_max", "u1"),
    ("fragment_flags", "u1"),
    ("icmp_type", "u1"),
    ("icmp_code", "u1"),
    ("mpls_depth", "u1"),
    ("fragment_id", "=u4"),
    ("flow_label", "=u4"),
    ("tcp_window", "=u2"),
    ("tcp_mss", "=u2"),
    ("tcp_window_scale", "u1"),
    ("mpls_1", "u1", 3),
    ("mpls_2", "u1", 3),
    ("mpls_3", "u1", 3),
]

KEY_DTYPE, VALUE_DTYPE = np.dtype(_KEY), np.dtype(_VALUE + _LINK)  # at all levels but ether
ETHER_KEY_DTYPE = np.dtype([*_KEY, *_LINK, ("link_padding", "u1", 2)])
ETHER_VALUE_DTYPE = np.dtype([*_VALUE, ("padding", "u1", 6)])


def dtypes(level: str) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The key's and the value's dtype at one of KEY_LEVELS; both have the same fields together."""
    return (ETHER_KEY_DTYPE, ETHER_VALUE_DTYPE) if level == "ether" else (KEY_DTYPE, VALUE_DTYPE)


def flow_dtype(key: np.dtype[Any], value: np.dtype[Any]) -> np.dtype[Any]:
    """struct flow, a place of a table: 160 octets, 168 at level ether. claims: 0 where it is free; hash is the
    programs' own."""
    return np.dtype([("claims", "=u4"), ("hash", "=u4"), ("key", key), ("value", value)])


# struct table_state
TABLE_STATE_DTYPE = np.dtype([("flows", "=u8"), ("spoiled", "=u8"), ("places", "=u8"), ("expected", "=u8")])
NEAR_PROBES, CATCH_ALL_PROBES, TABLE_WORDS, RECENT = 8, 8, 16, 16  # of bpf/table.h and recent.h


class Tunnel(enum.IntEnum):
    """``enum flow_tunnel``: what carried the packet that a key describes."""

    NONE = 0
    IP = 1  # IP in IP, 6in4 and the like
    GRE = 2
    NVGRE = 3  # Ethernet in GRE
    VXLAN = 4
    GENEVE = 5


STATISTIC_DTYPE = np.dtype([("packets", "=u8"), ("octets", "=u8")])  # struct statistic


class Statistic(enum.IntEnum):
    """``enum statistic_slot``: where each packet that a hook saw went. Octets are layer 2's.

    Every packet is in exactly one of the slots METERED to NOT_SELECTED. GSO_ADDED is no such slot: it says how
    much of their sum are segments and repeated headers of super-packets, which software interfaces
    (veth, lo) do not count and hardware does.
    """

    METERED = 0  # in a flow; in packet mode: handed over
    NOT_IP = 1  # ARP, LLDP, a pseudowire in MPLS ...
    MALFORMED = 2  # ends inside its link or IP header, or the IP header contradicts itself
    OWN_EXPORT = 3  # our own export traffic
    MAP_FULL = 4  # no room for a new flow: in the catch-all flow
    LOST = 5  # not even there (never seen, but if it happens it is counted); in packet mode: no room to hand it over
    FILTERED = 6  # does not match MeterConfig.filter
    NOT_SELECTED = 7  # by sampling, which takes a super-packet for one
    GSO_ADDED = 8


class MapSlot(enum.IntEnum):
    """``enum map_slot``: the numbers by which the programs name their maps; the loader puts descriptors there."""

    FLOWS = 1
    STATISTICS = 2
    OWN_EXPORTS = 3
    FRAGMENTS = 4
    SAMPLING = 5
    PACKETS = 6


class NumberSlot(enum.IntEnum):
    """``enum number_slot``: the numbers by which the programs name numbers that the loader puts in their place."""

    KEY_LEVEL = 1
    OWN_EXPORTS = 2
    SAMPLING_INTERVAL = 3
    SAMPLING_RANDOM = 4
    CLIP_LENGTH = 5
    XDP_FRAGS = 6
    WORKERS = 7
    TUNNELS = 8
    MAX_FLOWS = 9
    PLACES = 10
    CATCH_ALL_PLACES = 11
    TABLE_BITS = 12
    TIMED = 13
    HASH = 14  # and all behind it: one, and one for 32 bits of key


OWN_EXPORT_DTYPE = np.dtype([("address", "u1", 16), ("port", "=u2"), ("any_address", "u1"), ("pad", "u1")])
MAX_OWN_EXPORTS = 16

# struct fragment_key -> struct fragment: the programs' own memory of first fragments, by sizes.
FRAGMENT_KEY_LEN, FRAGMENT_LEN, MAX_FRAGMENTS = 40, 12, 1 << 13


def clip_room(clip_length: int) -> int:
    """The octets that a sample of that many takes: a multiple of 8, with room for MAC addresses and a VLAN tag."""
    return max(16, (clip_length + 7) // 8 * 8)


def sample_dtype(clip_length: int) -> np.dtype[Any]:
    """struct packet_sample. tag: TPID and control information of a VLAN tag that stood behind the MAC addresses and
    is not in the octets, 0 for none. ethernet: 0 where the octets begin with the IP header."""
    head = [("time_ns", "=u8"), ("ifindex", "=u4"), ("frame_length", "=u4"), ("tag", "=u4"), ("length", "=u2")]
    return np.dtype([*head, ("direction", "u1"), ("ethernet", "u1"), ("octets", "u1", clip_room(clip_length))])
