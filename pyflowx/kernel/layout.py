"""NumPy's view of ``bpf/flow.h``, the one contract between our BPF programs and user space.

A test compiles flow.h and compares every name, offset and size with these dtypes.
"""

from __future__ import annotations

import enum

import numpy as np

# struct flow_key. Addresses are 16 octets in network order, IPv4 as IPv4-mapped (::ffff:a.b.c.d); ports are in
# host order and 0 where the protocol has none or the packet does not show them (later fragments). ip_version
# is 4 or 6; 0 marks the catch-all flow of an interface and direction: packets that found the map full.
# direction is IANA's flowDirection: 0 ingress, 1 egress. vlan is the outer VLAN identifier, 0 for none.
KEY_DTYPE = np.dtype(
    [
        ("src", "u1", 16),
        ("dst", "u1", 16),
        ("src_port", "=u2"),
        ("dst_port", "=u2"),
        ("ifindex", "=u4"),
        ("vlan", "=u2"),
        ("protocol", "u1"),
        ("tos", "u1"),
        ("ip_version", "u1"),
        ("direction", "u1"),
        ("pad", "u1", 2),
    ]
)

# struct flow_value. octets counts IP octets (IANA octetDeltaCount), l2_octets whole frames without FCS
# (layer2OctetDeltaCount); both as the wire has them: a GSO super-packet counts as its segments with their
# headers. Times are ns of CLOCK_MONOTONIC, see Meter.offset_ns(). tcp_flags: 12 bits, OR of all packets.
# length_min and length_max are IP lengths. icmp_type and icmp_code are the first packet's. Of a busy flow
# last_ns may be up to 15 packets and one jiffy of the kernel (1 to 10 ms) old, see bpf/meter.h.
_VALUE_FIELDS = np.dtype(
    [
        ("packets", "=u8"),
        ("octets", "=u8"),
        ("l2_octets", "=u8"),
        ("first_ns", "=u8"),
        ("last_ns", "=u8"),
        ("tcp_flags", "=u4"),
        ("length_min", "=u4"),
        ("length_max", "=u4"),
        ("ttl_min", "u1"),
        ("ttl_max", "u1"),
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
    ]
)
VALUE_DTYPE = np.dtype(
    {
        "names": list(_VALUE_FIELDS.names or ()),
        "formats": [_VALUE_FIELDS[name] for name in _VALUE_FIELDS.names or ()],
        "itemsize": _VALUE_FIELDS.itemsize + 8,  # the programs' own jiffy
    }
)

STATISTIC_DTYPE = np.dtype([("packets", "=u8"), ("octets", "=u8")])  # struct statistic


class Statistic(enum.IntEnum):
    """``enum statistic_slot``: where each packet that a hook saw went. Octets are layer 2's.

    Every packet is in exactly one of the slots METERED to LOST. GSO_ADDED is no such slot: it says how
    much of their sum are segments and repeated headers of super-packets, which software interfaces
    (veth, lo) do not count and hardware does.
    """

    METERED = 0  # in a flow
    NOT_IP = 1  # ARP, LLDP, a pseudowire in MPLS ...
    MALFORMED = 2  # ends inside its link or IP header, or the IP header contradicts itself
    OWN_EXPORT = 3  # our own export traffic
    MAP_FULL = 4  # no room for a new flow: in the catch-all flow
    LOST = 5  # not even there; never seen, but if it happens it is counted
    GSO_ADDED = 6


class MapSlot(enum.IntEnum):
    """``enum map_slot``: the numbers by which the programs name their maps; the loader puts descriptors there."""

    FLOWS = 1
    STATISTICS = 2
    OWN_EXPORTS = 3


OWN_EXPORT_DTYPE = np.dtype([("address", "u1", 16), ("port", "=u2"), ("any_address", "u1"), ("pad", "u1")])
MAX_OWN_EXPORTS = 16
