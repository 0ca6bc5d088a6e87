"""``make demo``: from packets on a wire to flows on the screen, and every one of them accounted for.

Two network namespaces joined by a veth link; TCP and UDP traffic between them, IPv4 and IPv6;
``pyflowx export`` on one end of the link, ``pyflowx collect`` in the other namespace. The export traffic
takes a second link, so that the metered one carries nothing else. At the end three totals must be equal:
what the interface counted, what the kernel's maps counted, what the collector received.

Flows go to stdout, everything else to stderr. Exit status 0 if the totals are equal. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

ROUNDS = 12  # half a second each
PORT = 4739
CLONE_NEWNET = 0x40000000
HERE, THERE = f"pyflowx-demo-{os.getpid()}-a", f"pyflowx-demo-{os.getpid()}-b"
ADDRESSES = {  # of each namespace: the link that is metered, the link for the export traffic
    HERE: {"wire": ["192.0.2.1/24", "2001:db8::1/64"], "mgmt": ["198.51.100.1/24"]},
    THERE: {"wire": ["192.0.2.2/24", "2001:db8::2/64"], "mgmt": ["198.51.100.2/24"]},
}
MAC = {HERE: "02:00:00:00:00:01", THERE: "02:00:00:00:00:02"}
ETHERNET_HEADER = 14
libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """The demo cannot go on, or its totals differ."""


def say(text: str = "") -> None:
    print(text, file=sys.stderr, flush=True)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """What this thread opens belongs to the namespace."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise Failed(f"setns: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


def build() -> None:
    """The namespaces and their two links. The metered one stays down: its counters begin with the meter."""
    for namespace in (HERE, THERE):
        run("ip", "netns", "add", namespace)
        with inside(namespace):  # no chatter of the kernel's own: router solicitations, duplicate address detection
            for name, value in (("router_solicitations", 0), ("accept_dad", 0), ("addr_gen_mode", 1)):
                with open(f"/proc/sys/net/ipv6/conf/default/{name}", "w") as file:
                    file.write(str(value))
    for link in ("wire", "mgmt"):
        run("ip", "-n", HERE, "link", "add", "name", link, "type", "veth", "peer", "name", link, "netns", THERE)
    for namespace, links in ADDRESSES.items():
        # One segment a packet, as on the wire: a virtual link would count TCP's super-packets as one each.
        run("ip", "-n", namespace, "link", "set", "dev", "wire", "address", MAC[namespace], "gso_max_segs", "1")
        for link, addresses in links.items():
            for address in addresses:
                run("ip", "-n", namespace, "address", "add", address, "dev", link)
        run("ip", "-n", namespace, "link", "set", "dev", "mgmt", "up")


def link_up() -> None:
    for namespace in (HERE, THERE):
        run("ip", "-n", namespace, "link", "set", "dev", "wire", "up")
    for namespace, other in ((HERE, THERE), (THERE, HERE)):  # no ARP, no neighbour discovery
        for address in ADDRESSES[other]["wire"]:
            host = address.partition("/")[0]
            run("ip", "-n", namespace, "neigh", "replace", host, "lladdr", MAC[other], "dev", "wire")


def link_down() -> None:
    """No packet comes any more: the interface's counters and the meter end at the same one."""
    run("ip", "-n", HERE, "link", "set", "dev", "wire", "down")


def interface_counters() -> dict[str, dict[str, int]]:
    """The metered interface's own counters: ``rx`` and ``tx``, each with packets, bytes ..."""
    (link,) = json.loads(run("ip", "-n", HERE, "-s", "-j", "link", "show", "dev", "wire"))
    stats: dict[str, dict[str, int]] = link["stats64"]
    if stats["tx"]["dropped"] or stats["rx"]["dropped"]:
        raise Failed(f"the link dropped packets, so its counters cannot be compared: {stats}")
    return stats


class Program:
    """A ``pyflowx`` process in a namespace; its messages come to our stderr and are kept."""

    def __init__(self, namespace: str, *arguments: str, prefix: Sequence[str] = ()) -> None:
        say(f"          {namespace[-1]}$ pyflowx {' '.join(arguments)}")
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace}", *prefix, sys.executable, "-m", "pyflowx", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is ours; we end it in the right order
        )
        self.messages: list[str] = []
        self.flows: list[dict[str, int]] = []
        self._threads = [threading.Thread(target=target) for target in (self._read_messages, self._read_flows)]
        for thread in self._threads:
            thread.start()

    def _read_messages(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.messages.append(line.rstrip())
                say(f"          {line.rstrip()}")

    def _read_flows(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.flows.append(json.loads(line))
                print(line, end="", flush=True)

    def wait_for(self, what: str) -> None:
        """Until a message holds ``what``."""
        deadline = time.monotonic() + 30
        while not any(what in line for line in self.messages):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed("it did not start")
            time.sleep(0.02)

    def end(self) -> None:
        """SIGTERM, its orderly end, all output read."""
        self.process.terminate()
        status = self.process.wait(20)
        self._join()
        if status:
            raise Failed(f"pyflowx ended with status {status}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()


def receive(sock: socket.socket, size: int) -> None:
    while size:
        chunk = sock.recv(min(size, 1 << 16))
        if not chunk:
            raise Failed("a connection of the demo's traffic broke")
        size -= len(chunk)


def serve_tcp(listener: socket.socket) -> None:
    """Each connection: 4 octets that say how many to send back, again and again."""

    def answer(connection: socket.socket) -> None:
        with connection:
            while header := connection.recv(4, socket.MSG_WAITALL):
                connection.sendall(bytes(struct.unpack("!I", header)[0]))

    with contextlib.suppress(OSError):  # closed: the end
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def serve_udp(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            payload, peer = sock.recvfrom(2000)
            sock.sendto(payload, peer)


def open_sockets(stack: contextlib.ExitStack) -> tuple[list[socket.socket], list[socket.socket]]:
    """Servers in one namespace, clients in the other: (TCP clients, UDP clients), connected."""
    tcp, udp = [], []
    for family, host in ((socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::2")):
        for kind, port, serve, clients in (
            (socket.SOCK_STREAM, 80, serve_tcp, tcp),
            (socket.SOCK_DGRAM, 53, serve_udp, udp),
        ):
            with inside(THERE):
                server = stack.enter_context(socket.socket(family, kind))
            server.bind((host, port))
            if kind == socket.SOCK_STREAM:
                server.listen()
            threading.Thread(target=serve, args=(server,), daemon=True).start()
            for _ in range(3):
                with inside(HERE):
                    client = stack.enter_context(socket.socket(family, kind))
                client.settimeout(5)
                client.connect((host, port))
                clients.append(client)
    return tcp, udp


def traffic() -> None:
    """Requests and answers of many sizes; never more in flight than a link holds."""
    with contextlib.ExitStack() as stack:
        tcp, udp = open_sockets(stack)
        for step in range(ROUNDS):
            begin = time.monotonic()
            for number, client in enumerate(tcp):
                size = 1 << (8 + 2 * (number + step) % 12)
                client.sendall(struct.pack("!I", size))
                receive(client, size)
            for number, client in enumerate(udp):
                for size in range(20, 1400, 60 * (number + 1)):
                    client.send(bytes(size))
                    client.recv(2000)
            time.sleep(max(0.0, begin + 0.5 - time.monotonic()))
    time.sleep(0.3)  # the last FIN and its acknowledgement


def found(pattern: str, lines: list[str]) -> tuple[int, ...]:
    """The numbers of the first line that matches; zeros where none does."""
    for line in lines:
        if match := re.search(pattern, line):
            return tuple(map(int, match.groups()))
    return (0,) * re.compile(pattern).groups


def compare(exporter: Program, collector: Program) -> None:
    """The table of totals; raises :class:`Failed` where they differ."""
    link = interface_counters()
    rx, tx = link["rx"], link["tx"]
    metered = found(r"metered (\d+) packets?, (\d+) IP octets", exporter.messages)
    others, other_octets = found(r"not ip: (\d+) packets?, (\d+) octets", exporter.messages)
    received = sum(flow["packets"] for flow in collector.flows), sum(flow["bytes"] for flow in collector.flows)
    # veth counts what an XDP program receives without its Ethernet header, and what is sent with it.
    headers = ETHERNET_HEADER * tx["packets"]
    not_ip = others, other_octets - ETHERNET_HEADER * others
    ip = rx["packets"] + tx["packets"] - not_ip[0], rx["bytes"] + tx["bytes"] - headers - not_ip[1]
    rows = [
        ("interface, received", rx["packets"], rx["bytes"]),
        ("interface, sent", tx["packets"], tx["bytes"]),
        ("  less Ethernet headers of those sent", 0, -headers),
        ("  less frames that are not IP", -not_ip[0], -not_ip[1]),
        ("interface, IP", *ip),
        ("kernel maps", *metered),
        (f"collector, {len(collector.flows)} flow records", *received),
    ]
    say(f"\n          {'':<40} {'packets':>12} {'octets':>14}")
    for name, count, size in rows:
        if count or size:
            say(f"          {name:<40} {f'{count:,}' if count else '':>12} {size:>14,}")
    if not ip == metered == received or not ip[0]:
        raise Failed("the totals differ")
    say("\n          Equal.")


def demo(stack: contextlib.ExitStack) -> None:
    say("pyflowx demo: from packets on a wire to flows on the screen\n")
    say("link      namespaces a (192.0.2.1, 2001:db8::1) and b (192.0.2.2, 2001:db8::2), joined by veth")
    build()
    say("\nstart     a collector in b; an exporter in a, whose programs the kernel runs for each packet")
    collector = Program(THERE, "collect", "-H", "198.51.100.2", "-p", str(PORT), "-f", "common")
    stack.callback(collector.kill)
    exporter = Program(
        *(HERE, "export", "-i", "wire", "-H", "198.51.100.2", "-p", str(PORT)),
        *("--hook", "xdp", "--active-timeout", "3", "--inactive-timeout", "2"),
    )
    stack.callback(exporter.kill)
    exporter.wait_for("metering")
    link_up()
    say(f"\ntraffic   TCP and UDP, IPv4 and IPv6, for {ROUNDS // 2} seconds; flows as they end:\n")
    traffic()
    link_down()
    say("\nend       detach, drain the maps, send what is left")
    exporter.end()
    collector.end()
    say("\ntotals")
    compare(exporter, collector)


def clean_up() -> None:
    """The namespaces, and with them the links and what is attached; who still runs there held them alive."""
    for namespace in (HERE, THERE):
        if os.path.exists(f"/run/netns/{namespace}"):
            for pid in run("ip", "netns", "pids", namespace).split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "delete", namespace)


def interrupted(number: int, frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # cleaning up is not to be disturbed
    raise SystemExit(128 + number)


def main() -> int:
    if os.geteuid():
        say("the demo makes network namespaces and loads programs into the kernel: run it with sudo")
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(clean_up)  # last: when the programs have ended
            demo(stack)
    except Failed as error:
        say(f"\ndemo failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
