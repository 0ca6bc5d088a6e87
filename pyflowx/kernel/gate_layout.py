"""NumPy's view of ``bpf/gate.h``, the contract between the gate's program and user space.

A test compiles gate.h and compares every name, offset and size with these dtypes.
"""

from __future__ import annotations

import enum

import numpy as np


class Outcome(enum.IntEnum):
    """``enum gate_outcome``: where each frame that the gate saw went. The datagrams of the reasons (from NOT_ALLOWED
    on) are dropped where the gate enforces, else passed."""

    OTHER = 0  # not UDP to our sockets, or not readable: passed
    FRAGMENT = 1  # of a UDP datagram, whosever it is: passed
    PASSED = 2  # to the socket
    REDIRECTED = 3  # to an AF_XDP socket
    NOT_ALLOWED = 4  # its source is in no prefix that is allowed
    BAD_VERSION = 5  # begins like no protocol that is accepted
    TRUNCATED = 6  # ends inside its export header
    BAD_LENGTH = 7  # a length or count says more than there is, or contradicts itself
    RATE_LIMITED = 8  # more than the exporter may send


REASONS = tuple(outcome for outcome in Outcome if outcome >= Outcome.NOT_ALLOWED)
STATELESS = len(Outcome)  # a slot more: datagrams of exporters for which no state could be kept; in the others too
SLOTS = STATELESS + 1


class GateMap(enum.IntEnum):
    """``enum gate_map``: the numbers by which the program names its maps; the loader puts descriptors there."""

    CONFIG = 1
    STATISTICS = 2
    DESTINATIONS = 3
    ALLOW4 = 4
    ALLOW6 = 5
    EXPORTERS = 6
    REFUSED = 7
    LOCK = 8
    SOCKETS = 9


LOCKS = 1024
ADDRESS_DTYPE = np.dtype(("u1", 16))  # IPv4 as IPv4-mapped: the key of both maps of exporters
CONFIG_DTYPE = np.dtype(
    [
        ("rate", "=u4"),  # datagrams a second, and at once; 0: any
        ("frame_length", "=u4"),
        ("enforce", "u1"),
        ("allow", "u1"),
        ("netflow", "u1"),
        ("sflow", "u1"),
        ("pad", "=u4"),
    ]
)
DESTINATION_DTYPE = np.dtype([("address", "u1", 16), ("port", ">u2"), ("pad", "=u2")])
PREFIX4_DTYPE = np.dtype([("length", "=u4"), ("address", "u1", 4)])
PREFIX6_DTYPE = np.dtype([("length", "=u4"), ("address", "u1", 16)])
# bucket: in 1e-9 datagrams; passed counts redirected datagrams too, octets their UDP payload
EXPORTER_DTYPE = np.dtype(
    [("bucket", "=u8"), ("filled_ns", "=u8"), ("passed", "=u8"), ("octets", "=u8"), ("limited", "=u8")]
)
REFUSED_DTYPE = np.dtype([("reasons", "=u8", len(REASONS) - 1)])  # all but RATE_LIMITED
