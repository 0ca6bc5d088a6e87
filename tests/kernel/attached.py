"""What is attached to the interfaces of a network namespace, as the kernel says it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct

from demo import inside, run

from pyflowx.kernel import syscall

BPF_PROG_QUERY = 16
TC = "tcx" if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 6) else "tc"
"""The hook that ``--hook tc`` takes on this kernel."""


def tcx(namespace, ifindex, attach_type):
    """The programs at TCX by their numbers, in the order in which they run."""
    ids = (ctypes.c_uint32 * 64)()
    attr = syscall._attr("4IQI", ifindex, attach_type, 0, 0, ctypes.addressof(ids), len(ids))
    try:
        with inside(namespace):
            syscall._call(BPF_PROG_QUERY, attr)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # before Linux 6.6; none
            raise
        return []
    return list(ids[: struct.unpack_from("=I", attr, 24)[0]])


def attached(namespace):
    """XDP programs, clsact qdiscs, TCX programs."""
    links = json.loads(run("ip", "-n", namespace, "-d", "-j", "link", "show"))
    qdiscs = json.loads(run("tc", "-n", namespace, "-j", "qdisc", "show"))
    found = [link["xdp"] for link in links if "xdp" in link]
    found += [qdisc for qdisc in qdiscs if qdisc["kind"] == "clsact"]
    for link in links:
        for attach_type in (syscall.TCX_INGRESS, syscall.TCX_EGRESS):
            found += tcx(namespace, link["ifindex"], attach_type)
    return found
