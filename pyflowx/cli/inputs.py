"""The options of ``pyflowx collect`` that say where datagrams come from, and running a collector on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from pyflowx.cli.config import is_given
from pyflowx.cli.log import LOG
from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.batch import PacketBatch
    from pyflowx.collecting import Collector, Source
    from pyflowx.transport.sockets import Listening
    from pyflowx.transport.udp import UdpReceiver

DEFAULT_PORT = 9995
RECV_BUFFER = 32 << 20  # holds 29,000 datagrams of 1400 octets: a third of a second of 100,000 a second
_PORTS = {"netflow": DEFAULT_PORT, "sflow": 6343}
_TURN_S = 0.02  # for a capture file that is still being written, before it is the network's turn
_URL = re.compile(r"(netflow|sflow)(\+pcap)?://(.*)", re.DOTALL)
_HOST_PORT = re.compile(r"(?:\[([^]]+)\]|([^:/\[\]]*))(?::(\d{1,5}))?/?")

_F = TypeVar("_F", bound=Callable[..., Any])
Wrap = Callable[["Source"], "Source"]


def input_options(command: _F) -> _F:
    """Adds the options to a command."""
    options = (
        click.option(
            "-H",
            "--host",
            default="0.0.0.0",  # noqa: S104 # a collector listens
            show_default=True,
            help="Address to listen on; :: is IPv6 and IPv4.",
        ),
        click.option(
            "-p", "--port", type=click.IntRange(0, 65535), help="UDP port to listen on, 9995 if not given; 0: any."
        ),
        click.option(
            "-t",
            "--type",
            "kind",
            type=click.Choice(["auto", "netflow", "sflow"]),
            default="auto",
            show_default=True,
            help="What to accept; netflow is v1, v5, v7, v9 and IPFIX.",
        ),
        click.option(
            "--pcap",
            multiple=True,
            metavar="FILE",
            help="Read capture files instead of the network, - is stdin; -p narrows to a UDP port.",
        ),
        click.option(
            "-I",
            "--input",
            "inputs",
            multiple=True,
            metavar="URL",
            help="netflow://host:port, sflow://host:port, netflow+pcap://file, sflow+pcap://file; repeatable, one "
            "process for all. Each takes its own kind only. Capture files are read while the network is listened to.",
        ),
        click.option(
            "--recv-buffer",
            type=click.IntRange(1024),
            default=RECV_BUFFER,
            show_default=True,
            help="Octets that the kernel may queue for us.",
        ),
        click.option(
            "--udp-gro",
            is_flag=True,
            help="Let the kernel put datagrams of one exporter together: less CPU, where the card hands over several "
            "at once and few exporters send most. What is together is dropped together, and counted as one.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(slots=True)
class Inputs:
    """The options by their names; then what they mean.

    ``addresses``: (host, port) to listen on; ``captures``: files; ``accepted``: the protocols that each of these takes,
    addresses first.
    """

    host: str
    port: int | None
    kind: str
    pcap: tuple[str, ...]
    inputs: tuple[str, ...]
    recv_buffer: int
    udp_gro: bool

    @classmethod
    def take(cls, options: dict[str, Any]) -> Self:
        """Out of those of a command. ConfigError for one that would do nothing."""
        found = cls(**{field.name: options.pop(field.name) for field in fields(cls)})
        found._check()
        return found

    def _check(self) -> None:
        by_url_alone = bool(self.inputs) and not self.pcap and self.port is None
        if by_url_alone and is_given("kind"):
            raise ConfigError(
                f"-t/--type {self.kind} is about -p/--port and --pcap; each -I/--input says what it takes: "
                "netflow://... or sflow://..., so leave it out"
            )
        listens = not self.pcap and not by_url_alone
        if is_given("host") and not listens:
            instead = "put the address into the URL, -I netflow://192.0.2.1:2055" if by_url_alone else "leave it out"
            raise ConfigError(f"-H/--host {self.host} is about -p/--port, and nothing listens there; {instead}")
        if is_given("recv_buffer") and not self.addresses:
            raise ConfigError("--recv-buffer is about the network, and only capture files are read; leave it out")

    @property
    def _urls(self) -> list[tuple[str, bool, str]]:
        return [_parse(url) for url in self.inputs]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        found = [_host_port(kind, place) for kind, is_capture, place in self._urls if not is_capture]
        if not self.pcap and (self.port is not None or not self.inputs):
            found.append((self.host, DEFAULT_PORT if self.port is None else self.port))
        return found

    @property
    def captures(self) -> list[str]:
        return [*self.pcap, *(place for _, is_capture, place in self._urls if is_capture)]

    @property
    def capture_port(self) -> int | None:
        return self.port if self.pcap else None

    @property
    def accepted(self) -> list[frozenset[Any]]:
        listening = [kind for kind, is_capture, _ in self._urls if not is_capture]
        listening += [self.kind] * (len(self.addresses) - len(listening))
        captures = [*(self.kind for _ in self.pcap), *(kind for kind, is_capture, _ in self._urls if is_capture)]
        return [accepted(kind) for kind in (*listening, *captures)]

    @property
    def protocols(self) -> frozenset[Any]:
        """What is accepted by any."""
        return frozenset().union(*self.accepted)


def _parse(url: str) -> tuple[str, bool, str]:
    """Kind, whether it is a capture file, host and port or path."""
    match = _URL.fullmatch(url)
    if match is None or not match[3]:
        raise ConfigError(
            f"-I/--input {url}: expected netflow://host:port, sflow://host:port, netflow+pcap://file or "
            "sflow+pcap://file"
        )
    return match[1], bool(match[2]), match[3]


def _host_port(kind: str, place: str) -> tuple[str, int]:
    match = _HOST_PORT.fullmatch(place)
    port = _PORTS[kind] if match is None or match[3] is None else int(match[3])
    if match is None or port > 65535:
        raise ConfigError(
            f"-I/--input {kind}://{place}: expected a host and a port up to 65535, such as {kind}://0.0.0.0:"
            f"{_PORTS[kind]} or {kind}://[::]:{_PORTS[kind]}"
        )
    return match[1] or match[2] or "0.0.0.0", port  # noqa: S104 # a collector listens


def accepted(kind: str) -> frozenset[Any]:
    """The protocols of ``--type``."""
    from pyflowx.decoded import Protocol

    sflow = frozenset({Protocol.SFLOW_V5})
    return {"auto": frozenset(Protocol), "sflow": sflow, "netflow": frozenset(Protocol) - sflow}[kind]


class _Numbered:
    """A capture file as an input of its own."""

    def __init__(self, source: Source, number: int) -> None:
        self._source, self._number = source, number

    @property
    def exhausted(self) -> bool:
        return bool(getattr(self._source, "exhausted", False))

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
        import numpy as np

        batch = self._source.receive(timeout_s, linger_s)
        if batch is not None:
            batch.input = np.full(len(batch), self._number, np.uint16)
        return batch


class _Together:
    """The network and a capture file by turns, until the file ends."""

    def __init__(self, receiver: Source, capture: Source) -> None:
        self._receiver, self._capture = receiver, capture
        self._network_next = True

    @property
    def exhausted(self) -> bool:
        return bool(getattr(self._capture, "exhausted", False))

    def receive(self, timeout_s: float | None, linger_s: float) -> PacketBatch | None:
        if self._network_next:
            self._network_next = False
            batch = self._receiver.receive(0, 0)
            if batch is not None:
                return batch
        self._network_next = True
        return self._capture.receive(_TURN_S, linger_s)


def listen(addresses: list[tuple[str, int]], recv_buffer: int, wake_fd: int, coalesced: bool = False) -> UdpReceiver:
    from pyflowx.transport.udp import UdpReceiver

    kind = UdpReceiver
    if coalesced:
        from pyflowx.transport.coalesced import CoalescingReceiver

        kind = CoalescingReceiver
    receiver = kind(addresses, recv_buffer=recv_buffer, wake_fd=wake_fd)
    tell_listening(receiver)
    return receiver


def tell_listening(listening: UdpReceiver | Listening) -> None:
    """Where, and what the kernel granted."""
    for address, number in listening.addresses:
        LOG.info(f"listening on {address} UDP port {number}")
    if listening.warning:
        LOG.info(listening.warning)


def read_captures(
    collector: Collector, inputs: Inputs, receiver: Source | None, wrap: Wrap, stdout_is_used: bool
) -> None:
    """One after the other, each to its end or to what is wrong with it; the network, if any, meanwhile."""
    from pyflowx.cli.progress import Progress
    from pyflowx.transport.capture import CaptureReader

    for number, path in enumerate(inputs.captures, len(inputs.addresses)):
        if collector.is_stopping:
            break
        with CaptureReader(path, inputs.capture_port, wake_fd=collector.wake_fd) as reader:
            with Progress(reader, path, stdout_is_used) as source:
                capture = _Numbered(source, number)
                collector.run(wrap(capture if receiver is None else _Together(receiver, capture)))
            LOG.info(f"{path}: {reader.counters}")
            if reader.problem:
                LOG.info(f"{path}: {reader.problem}")


def open_receiver(stack: ExitStack, inputs: Inputs, wake_fd: int) -> UdpReceiver | None:
    """Listens on all addresses, if there are any."""
    addresses = inputs.addresses
    return stack.enter_context(listen(addresses, inputs.recv_buffer, wake_fd, inputs.udp_gro)) if addresses else None
