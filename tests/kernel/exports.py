"""``pyflowx export`` as a process in the demo's namespaces, and what tests need around it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import demo
import numpy as np
from attached import attached as attached_to

from pyflowx.batch import Datagrams
from pyflowx.transport.udp import UdpReceiver, UdpSender
from pyflowx.wire import Decoder

HERE, THERE, PORT = demo.HERE, demo.THERE, 4739
COLLECTOR = "198.51.100.2"


class Collector:
    """Keeps the records that arrive, as FlowBatches, and what the decoder had to complain of."""

    def __init__(self, stack, host=COLLECTOR, port=PORT):
        with demo.inside(THERE):
            self.receiver = UdpReceiver([(host, port)], recv_buffer=1 << 26)
        self.decoder, self.batches, self.options, self.problems, self.datagrams = Decoder(), [], [], [], 0
        self.decoded = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()
        stack.callback(self.end)

    def work(self):
        while not self.done.is_set() or self.take():
            self.take()

    def take(self):
        packets = self.receiver.receive(0.05)
        if packets is None:
            return False
        results, problems = self.decoder.decode(packets, time.time_ns())
        for batch in (batch for result in results for batch in result.flows):
            (self.options if batch.scope_count else self.batches).append(batch)
        self.decoded += results
        self.problems += problems.tolist()
        self.datagrams += len(packets)
        return True

    def end(self):
        """All that was sent is decoded; the exporter has ended."""
        self.done.set()
        self.thread.join()
        dropped = self.receiver.dropped
        self.receiver.close()
        assert dropped == 0
        assert self.problems == []

    def total(self, name):
        return sum(int(batch.column(name).sum()) for batch in self.batches)

    def per_port(self, interface):
        """UDP destination port -> packets of the records that have ``interface``; their size is the same in all."""
        packets, sizes = Counter(), set()
        for batch in self.batches:
            names = {specifier.element.name for specifier in batch.fields}
            if not {interface, "destinationTransportPort"} <= names or "tcpControlBits" in names:
                continue
            count, octets = batch.column("packetDeltaCount"), batch.column("octetDeltaCount")
            sizes |= set((octets / count).tolist())
            for port, n in zip(batch.column("destinationTransportPort").tolist(), count.tolist(), strict=True):
                packets[port] += n
        return packets, sizes


def export(stack, *options, links=("wire",)):
    """The exporter, attached."""
    arguments = [word for link in links for word in ("-i", link)]
    program = demo.Program(HERE, "export", *arguments, "-H", COLLECTOR, "-p", str(PORT), *options)
    stack.callback(program.kill)
    program.wait_for("metering")
    return program


def summary(program):
    """The numbers of each of the summary's lines, by its first word."""
    return {line.split()[1].strip(":"): [int(n) for n in re.findall(r"\d+", line)] for line in program.messages}


def attached():
    """What is attached to the links that are metered."""
    return attached_to(HERE)


def listen(stack, namespace, host, ports):
    """Somebody who takes the packets, so that no ICMP says otherwise."""
    for port in ports:
        with demo.inside(namespace):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind((host, port))


def talk(stack, namespace, host, ports):
    with demo.inside(namespace):
        return stack.enter_context(UdpSender([(host, port) for port in ports]))


def payloads(size, count):
    return Datagrams(np.zeros((count, size), np.uint8), np.full(count, size, np.int32))


def statistics(namespace):
    (link,) = json.loads(demo.run("ip", "-n", namespace, "-s", "-j", "link", "show", "dev", "wire"))
    return link["stats64"]


def run_export(*words, prefix=()):
    return subprocess.run(
        [*prefix, sys.executable, "-m", "pyflowx", "export", *words], capture_output=True, text=True, check=False
    )


def nfdump_totals(folder):
    """Packets and octets of the files that nfcapd wrote."""
    out = demo.run("nfdump", "-R", str(folder), "-q", "-N", "-o", "fmt:%pkt,%byt")
    rows = [line.split(",") for line in out.splitlines() if line.strip()]
    return sum(int(packets) for packets, _ in rows), sum(int(octets) for _, octets in rows)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come up"
        time.sleep(0.05)


def start(stack, *words, namespace=THERE):
    """A program in the collector's namespace, or another, ended with SIGTERM by the function that comes back."""
    command = ["nsenter", f"--net=/run/netns/{namespace}", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end():
        if process.poll() is None:
            process.terminate()
        return process.communicate()

    stack.callback(end)
    return end
