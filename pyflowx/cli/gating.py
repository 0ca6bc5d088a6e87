"""The options of ``pyflowx collect`` about the gate in the kernel, and the gate while a collector runs."""

from __future__ import annotations

import ipaddress
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from pyflowx.cli.log import LOG
from pyflowx.errors import ConfigError, KernelError

if TYPE_CHECKING:
    from pyflowx.cli.inputs import Inputs
    from pyflowx.collecting import Collector, Source
    from pyflowx.gateview import GateView
    from pyflowx.kernel import Attachment
    from pyflowx.kernel.gate import Gate, GateConfig, Prefix
    from pyflowx.transport.af_xdp import AfXdpReceiver
    from pyflowx.transport.udp import UdpReceiver
    from pyflowx.transport.xsk import XskSocket

_F = TypeVar("_F", bound=Callable[..., Any])
_PRIVILEGED_PORTS = 1024


def gating_options(command: _F) -> _F:
    """Adds the options to a command."""
    options = (
        click.option(
            "--xdp",
            "interfaces",
            multiple=True,
            metavar="IFACE",
            help="Look at datagrams to our ports in the kernel, where this interface receives them: what is no export "
            "message, or contradicts itself, is counted; other traffic passes. Repeatable; needs root.",
        ),
        click.option(
            "--xdp-mode",
            type=click.Choice(["monitor", "enforce"]),
            default="monitor",
            show_default=True,
            help="monitor: only count; enforce: drop.",
        ),
        click.option(
            "--allow",
            multiple=True,
            metavar="PREFIX",
            help="With --xdp: only these may send: 192.0.2.0/24. Repeatable.",
        ),
        click.option(
            "--allow-file",
            metavar="FILE",
            help="The same from a file, a prefix a line, # begins a comment; read again on SIGHUP.",
        ),
        click.option(
            "--rate-limit",
            type=click.IntRange(1, (1 << 32) - 1),
            metavar="PPS",
            help="With --xdp: datagrams a second (and at once) that each exporter may send.",
        ),
        click.option(
            "--af-xdp",
            is_flag=True,
            help="With --xdp: good datagrams come by AF_XDP sockets, past the network stack; fragments and what is not "
            "good as before.",
        ),
        click.option("--user", metavar="NAME", help="With --xdp: whom to run as when it is attached."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(slots=True)
class Gating:
    """The options by their names."""

    interfaces: tuple[str, ...]
    xdp_mode: str
    allow: tuple[str, ...]
    allow_file: str | None
    rate_limit: int | None
    af_xdp: bool
    user: str | None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Self:
        """Out of those of a command."""
        gating = cls(**{field.name: options.pop(field.name) for field in fields(cls)})
        alone = ("allow", "allow_file", "rate_limit", "af_xdp", "user")
        given = [f"--{name.replace('_', '-')}" for name in alone if getattr(gating, name)]
        if given and not gating.interfaces:
            raise ConfigError(f"{given[0]} belongs to the gate in the kernel: say where with --xdp, such as --xdp eth0")
        return gating

    def prefixes(self) -> list[Prefix] | None:
        """Who may send, None: all."""
        if not self.allow and not self.allow_file:
            return None
        found = [_prefix(text, "--allow") for text in self.allow]
        if self.allow_file:
            found += _read(self.allow_file)
        return found

    def config(self, inputs: Inputs, frame_length: int) -> GateConfig:
        """For the gate; ``frame_length``: of what is redirected, 0: nothing."""
        from pyflowx.decoded import Protocol
        from pyflowx.kernel.gate import GateConfig

        sflow = Protocol.SFLOW_V5 in inputs.protocols
        return GateConfig(
            self.interfaces,
            enforce=self.xdp_mode == "enforce",
            allow=self.prefixes(),
            rate=self.rate_limit or 0,
            netflow=bool(inputs.protocols - {Protocol.SFLOW_V5}),
            sflow=sflow,
            redirect=self.af_xdp,
            frame_length=frame_length,
        )


def _prefix(text: str, where: str) -> Prefix:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"{where} {text}: {error}; give a prefix such as 192.0.2.0/24 or 2001:db8::/32") from error


def _read(path: str) -> list[Prefix]:
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"--allow-file {path}: {reason}; give a file with a prefix a line") from error
    texts = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    found = [_prefix(text, f"--allow-file {path}, line {number}:") for number, text in texts if text]
    if not found:
        raise ConfigError(f"--allow-file {path}: there is no prefix in it, so nobody could send")
    return found


class _Redirection:
    """The AF_XDP sockets, by interface; none where they are not wanted, or cannot be."""

    def __init__(self, gating: Gating, recv_buffer: int) -> None:
        from pyflowx.transport.xsk import chunk_octets, frame_octets

        self.gate: Gate | None = None
        self.is_shared = False
        """Whether workers read, who know the sockets that there were when they began."""
        self._octets = recv_buffer
        self.receiver: AfXdpReceiver | None = None
        self._sockets: dict[int, list[XskSocket]] = {}
        self._chunk = max(map(chunk_octets, gating.interfaces)) if gating.af_xdp else 0
        self.frame_length = frame_octets(self._chunk) if gating.af_xdp else 0

    def sockets(self) -> list[XskSocket]:
        """All of them."""
        return [each for group in list(self._sockets.values()) for each in group]

    def attached(self, at: Attachment) -> None:
        """The gate is before an interface."""
        from pyflowx.transport.xsk import open_sockets

        if not self._chunk or self.gate is None or at.ifindex in self._sockets:
            return
        if self.is_shared:
            LOG.warning(f"AF_XDP on {at.interface} needs a start of the collector; its datagrams come by other sockets")
            return
        try:
            self._sockets[at.ifindex] = found = open_sockets(at.interface, at.ifindex, self._chunk, self._octets)
        except KernelError as error:
            LOG.warning(f"{error}; what {at.interface} receives comes by the ordinary sockets")
            return
        for each in found:
            self.gate.redirect(at.interface, each.queue, each.fd)
        how = "zero-copy" if all(each.zero_copy for each in found) else "copying"
        LOG.info(f"AF_XDP on {at.interface}: {len(found)} receive queue{'s' * (len(found) > 1)}, {how}")
        self._changed()

    def gone(self, ifindex: int) -> None:
        """An interface is no more."""
        gone = self._sockets.pop(ifindex, [])
        self._changed()
        for each in gone:
            if self.gate is not None:
                self.gate.keep(each.interface, each.queue)  # workers have it open too
            each.close()

    def close(self) -> None:
        self.receiver = self.gate = None
        for ifindex in list(self._sockets):
            self.gone(ifindex)

    def _changed(self) -> None:
        if self.receiver is not None:
            self.receiver.replace(self.sockets())


class RunningGate:
    """The gate of a collector."""

    def __init__(self, gate: Gate, gating: Gating, redirection: _Redirection) -> None:
        from pyflowx.gateview import GateView

        self.gate, self._gating, self._redirection = gate, gating, redirection
        self.view: GateView = GateView(gate, self.reload, redirection.sockets)
        self._lost = 0

    @property
    def redirects(self) -> bool:
        """Whether datagrams come by AF_XDP."""
        return self._gating.af_xdp

    def start(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Look at datagrams to the sockets that there are."""
        self.gate.listen(addresses)
        self._redirection.is_shared = self._redirection.receiver is None
        for at in self.gate.attachments:
            LOG.info(f"gate on {at.interface} ({at.hook}): " + _DOES[self.gate.config.enforce])

    def before(self, receiver: UdpReceiver, collector: Collector) -> Source:
        """Start, and go on while the collector runs; what it is to read from."""
        source = self.source(receiver, collector.wake_fd)
        self.start(receiver.addresses)
        collector.each_second.append(self.watch)
        return source

    def source(self, receiver: UdpReceiver, wake_fd: int, worker: int = 0, workers: int = 1) -> Source:
        """The receiver, with what comes by AF_XDP, if anything does: of one of several workers its queues."""
        if not self._gating.af_xdp:
            return receiver
        from pyflowx.transport.af_xdp import AfXdpReceiver

        mine = [each for each in self._redirection.sockets() if each.queue % workers == worker]
        merged = AfXdpReceiver(receiver, mine, wake_fd)
        if workers == 1:
            self._redirection.receiver = merged
        return merged

    def descriptors(self, worker: int, workers: int) -> set[int]:
        """Those that a worker needs."""
        return {each.fd for each in self._redirection.sockets() if each.queue % workers == worker}

    def watch(self) -> None:
        """What has become of the interfaces; once a second."""
        try:
            changes = self.gate.watch()
        except KernelError as error:
            LOG.warning(str(error))
            return
        for change in changes:
            told = f"gate on {change.interface}: {change.event}"
            LOG.warning(told + (f": {change.message}" if change.message else ""))
        lost = self.view.lost()
        if lost > self._lost:
            LOG.warning(f"{lost - self._lost} datagrams lost at AF_XDP sockets: pyflowx doctor says why")
        self._lost = lost

    def reload(self) -> None:
        """Read --allow-file again; what is wrong with it leaves the prefixes as they are."""
        try:
            prefixes = self._gating.prefixes()
            if prefixes is not None:
                self.gate.allow(prefixes)
                LOG.info(f"gate: {self.gate.prefixes} prefixes may send")
        except (ConfigError, KernelError) as error:
            LOG.warning(f"{error}; who may send stays as it is")


@contextmanager
def gated(gating: Gating, inputs: Inputs) -> Iterator[RunningGate | None]:
    """Puts the gate before its interfaces, if there are any, and gives up all privileges that it does not need; to be
    done before there are threads. All passes until :meth:`RunningGate.start`."""
    if not gating.interfaces:
        yield None
        return
    from pyflowx.kernel.gate import Gate
    from pyflowx.privileges import CAP_IPC_LOCK, CAP_NET_BIND_SERVICE, CAP_NET_RAW, drop, find_user

    if not inputs.addresses:
        raise ConfigError("--xdp is for datagrams from the network, and there is only --pcap; leave one of them out")
    user = find_user(gating.user) if gating.user else None
    low = any(0 < port < _PRIVILEGED_PORTS for _, port in inputs.addresses)
    kept = [CAP_NET_BIND_SERVICE] * low + [CAP_NET_RAW, CAP_IPC_LOCK] * gating.af_xdp
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # until the collector has its own: detach
    with closing(_Redirection(gating, inputs.recv_buffer)) as redirection:
        config = gating.config(inputs, redirection.frame_length)
        with Gate(config, redirection.attached, redirection.gone) as gate:
            redirection.gate = gate
            for at in gate.attach():
                if inputs.udp_gro and at.hook == "xdp-generic":
                    raise ConfigError(
                        f"--udp-gro: {at.interface} has no native XDP, so that datagrams are put together before the "
                        "gate sees them; leave one of the options out"
                    )
            drop(user, *kept)
            yield RunningGate(gate, gating, redirection)


_DOES = {False: "counts what is wrong, drops nothing (--xdp-mode enforce does)", True: "drops what is wrong"}
