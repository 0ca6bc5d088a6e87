"""Network namespaces with a link between them, and frames for it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

from attached import attached

CLONE_NEWNET = 0x40000000
SYSCTLS = {  # no chatter of the kernel's own, and headers of TCP that are all of the same size
    "ipv6/conf/v/router_solicitations": "0",
    "ipv6/conf/v/accept_dad": "0",
    "ipv6/conf/v/addr_gen_mode": "1",
    "ipv6/conf/v/mldv2_unsolicited_report_interval": "10",
    "ipv4/tcp_sack": "0",
    "ipv4/tcp_timestamps": "0",
}
libc = ctypes.CDLL(None, use_errno=True)


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class Namespace:
    """A network namespace; ``with`` moves this thread into it."""

    def __init__(self, name):
        self.name, self._homes = name, []
        run("ip", "netns", "add", name)

    def __enter__(self):
        self._homes.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        with open(f"/run/netns/{self.name}") as there:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        return self

    def __exit__(self, *_):
        home = self._homes.pop()
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)

    def ip(self, *words):
        return run("ip", "-n", self.name, *words)

    def tc(self, *words):
        return run("tc", "-n", self.name, *words)

    def run(self, *words):
        return run("ip", "netns", "exec", self.name, *words)

    def counters(self, link):
        """What the interface has counted: ``rx`` and ``tx`` as (packets, octets), ``lost``: what it could not send."""
        stats = json.loads(self.ip("-s", "-j", "link", "show", "dev", link))[0]["stats64"]
        counted = {side: (stats[side]["packets"], stats[side]["bytes"]) for side in ("rx", "tx")}
        return {**counted, "lost": stats["tx"]["dropped"]}

    def attached(self):
        """What is attached to any link."""
        return attached(self.name)


class Wire:
    """Two namespaces with one veth link, ``v`` at both ends; what stands in ``near`` is metered."""

    def __init__(self, stack):
        names = [f"pyflowx-test-{os.getpid()}-{side}" for side in ("near", "far")]
        self.near, self.far = (self._namespace(stack, name) for name in names)
        self.near.ip("link", "add", "v", "type", "veth", "peer", "name", "v", "netns", self.far.name)
        for number, namespace in enumerate((self.near, self.far), 1):
            with namespace:
                for name, value in SYSCTLS.items():
                    Path("/proc/sys/net", name).write_text(value)
            namespace.ip("addr", "add", f"10.9.0.{number}/24", "dev", "v")
            namespace.ip("addr", "add", f"fd09::{number}/64", "dev", "v")
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("link", "set", "v", "address", f"02:00:00:00:00:0{number}", "up")
        self.wait_for_silence()

    def wait_for_silence(self):
        """Until all has arrived, and the hello to multicast neighbours with which the kernel greets a link, XDP too."""
        before, pause = None, threading.Event()
        while before != (before := [space.counters("v") for space in (self.near, self.far)]):
            pause.wait(0.2)

    @staticmethod
    def _namespace(stack, name):
        namespace = Namespace(name)
        stack.callback(run, "ip", "netns", "del", name)
        return namespace


class Sender:
    """Sends frames as they are out of an interface of the namespace it is made in."""

    class _Header(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_void_p),
            ("name_len", ctypes.c_uint32),
            ("vector", ctypes.c_void_p),
            ("vectors", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("control_len", ctypes.c_size_t),
            ("flags", ctypes.c_size_t),  # an int, and padding
            ("sent", ctypes.c_size_t),
        ]

    def __init__(self, frames, link="v"):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: it receives nothing
        self.socket.bind((link, 0))
        self.count = len(frames)
        self._buffers = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        self._vectors = (ctypes.c_size_t * (2 * len(frames)))()
        self._headers = (self._Header * len(frames))()
        for index, buffer in enumerate(self._buffers):
            self._vectors[2 * index] = ctypes.addressof(buffer)
            self._vectors[2 * index + 1] = len(buffer)
            self._headers[index].vector = ctypes.addressof(self._vectors) + 16 * index
            self._headers[index].vectors = 1

    def send(self, rounds=1):
        """All frames, ``rounds`` times."""
        for _ in range(rounds):
            sent = 0
            while sent < self.count:
                position = ctypes.byref(self._headers, sent * ctypes.sizeof(self._Header))
                done = libc.sendmmsg(self.socket.fileno(), position, self.count - sent, 0)
                if done > 0:
                    sent += done
                else:  # the queue to the other end of the link is full: this frame was not sent
                    assert ctypes.get_errno() == errno.ENOBUFS
                    os.sched_yield()

    def close(self):
        self.socket.close()
