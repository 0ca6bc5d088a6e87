"""``pyflowx collect --workers``: several processes that share the ports, and the one that starts and shows them.

Tables of ``--enrich`` are loaded once, before workers are forked, and shared until one is loaded again: each worker
does that by itself, and has it on its own from then on.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pyflowx.cli import enriching
from pyflowx.cli.collector import assemble, conversion_of, on_signal, say, summarise, tell_end, types_of_added, work
from pyflowx.cli.decoding import Decoding
from pyflowx.cli.inputs import Inputs, tell_listening
from pyflowx.cli.log import LOG
from pyflowx.cli.operating import Operation, Watch, collector_served, on_hangup, open_anew, watcher
from pyflowx.cli.outputs import Outputs, make_output, make_part
from pyflowx.errors import ConfigError, PyflowxError

if TYPE_CHECKING:
    from pyflowx.channel import Message, Sending
    from pyflowx.cli.gating import RunningGate
    from pyflowx.conversion.sampling import OfAll
    from pyflowx.reload import Reloader
    from pyflowx.sinks import Sink
    from pyflowx.supervising import Command, Worker
    from pyflowx.transport.sockets import Listening

MAX_WORKERS = 256
_ROWS = 500  # of a command
_COMMAND = 1 << 18  # octets, at most
_MOST_TOLD = 65_536
_F = TypeVar("_F", bound=Callable[..., Any])


def workers_option(command: _F) -> _F:
    """Adds --workers to a command."""
    return click.option(
        "--workers",
        default="1",
        show_default=True,
        metavar="N",
        help="Processes that share the work, each exporter's Observation Domain always with the same one; auto: one "
        "less than CPUs. With --interval each writes files of its own (...-w0.parquet), else all write one output.",
    )(command)


def count_of(text: str, inputs: Inputs) -> int:
    """How many processes --workers means."""
    if text != "auto" and not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_WORKERS):
        raise ConfigError(f"--workers {text}: expected a number from 1 to {MAX_WORKERS}, or auto")
    if inputs.captures:
        if text not in ("1", "auto"):
            raise ConfigError(
                f"--workers {text} share what comes from the network, and a capture file is read by one "
                "process: give --workers 1, or leave the capture files out"
            )
        return 1
    if inputs.udp_gro:
        if text not in ("1", "auto"):
            raise ConfigError(
                f"--workers {text} share by Observation Domain, and --udp-gro puts those of an exporter together: "
                "leave one of the two out"
            )
        return 1
    if text == "auto":  # one CPU is the kernel's, which receives for them all, and that of whoever writes
        return min(max(1, len(os.sched_getaffinity(0)) - 1), MAX_WORKERS)
    return int(text)


@dataclass(frozen=True, slots=True)
class Setup:
    """The options, and the tables that were loaded."""

    decoding: Decoding
    inputs: Inputs
    outputs: Outputs
    operation: Operation
    gate: RunningGate | None
    form: str
    tables: Sequence[Reloader]
    count: int


def run(setup: Setup) -> None:
    """The process that the others are children of."""
    from pyflowx.kernel.steering import Steering
    from pyflowx.privileges import CAP_NET_BIND_SERVICE, FILES, keep
    from pyflowx.transport.sockets import listen_together

    with ExitStack() as stack:
        together = listen_together(setup.inputs.addresses, setup.inputs.recv_buffer, setup.count)
        for listening in together:
            stack.callback(listening.close)
        steering = Steering([list(group) for group in zip(*(one.sockets for one in together), strict=True)])
        if steering.kind == "BPF" and setup.gate is None:  # which gives up what it does not need itself
            keep(*FILES, CAP_NET_BIND_SERVICE)
        parent = _Parent(setup, together)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: on_signal(parent.supervisor))
        stack.enter_context(setup.decoding.templates_kept(parent.supervisor, parent.templates, say))
        tell_listening(together[0])
        say(f"{setup.count} workers; {steering.kind} keeps each exporter's Observation Domain on one of them")
        LOG.debug(steering.reason or "the kernel took our program")
        parent.run()


class _Parent:
    """What becomes of the events of workers, and what each of these is made of."""

    def __init__(self, setup: Setup, together: Sequence[Listening]) -> None:
        from pyflowx.kernel.steering import worker_of
        from pyflowx.supervising import Supervisor
        from pyflowx.templatefile import SharedTemplates
        from pyflowx.workersview import WorkersView

        self._setup, self._together = setup, together
        enrichments = [table.enrichment for table in setup.tables]
        types = types_of_added(enrichments, conversion_of(setup.decoding, enrichments))
        self._output = make_output(setup.outputs, setup.form, types)
        # Queues of AF_XDP sockets are filled by the card: which worker's an exporter is does not depend on its domain.
        by_queue = setup.gate is not None and setup.gate.redirects
        self.templates = SharedTemplates(
            setup.count,
            setup.decoding.limits,
            None if by_queue else lambda exporter, domain: worker_of(exporter, domain, setup.count),
        )
        self.supervisor = Supervisor(setup.count, _fork, self._begin, self._output, self._take, self._gone, LOG.warning)
        self._told: dict[tuple[Any, ...], int] = {}
        self._view = WorkersView(self.supervisor.workers, together, self._output, LOG.lines)

    def run(self) -> None:
        supervisor, view = self.supervisor, self._view
        on_hangup(supervisor, self._again)
        supervisor.each_second += [_Paced(view.refresh), Watch(view)]
        addresses, gate = self._together[0].addresses, self._setup.gate
        _load_modules()
        gc.freeze()  # tables above all are the workers' too, for as long as nobody writes to them
        supervisor.start()  # before there are threads
        try:
            with collector_served(self._setup.operation, view, addresses[0][1], supervisor.watch):
                if gate is not None:
                    view.gate = gate.view
                    gate.start(addresses)
                    supervisor.each_second.append(gate.watch)
                supervisor.run()
        finally:
            self._finish()

    def _again(self) -> None:
        self.supervisor.reopen()
        if self._view.gate is not None:
            self._view.gate.reload()

    def _finish(self) -> None:
        try:
            if self._output is not None:
                self._output.close()
        finally:
            self._view.refresh()
            tell_end(self.supervisor)
            summarise(self._view, [table.enrichment.table.unfit for table in self._setup.tables])

    def _take(self, worker: Worker, message: Message) -> None:
        from pyflowx.supervising import Event

        if message.kind == Event.REPORT:
            self._view.take(worker.number, message.value)
        elif message.kind == Event.STATE:
            self._share_elements(worker, self.templates.take(worker.number, bytes(message.data), message.value))
        elif message.kind == Event.TOLD:
            self._share_told(worker, message.value)
        elif message.kind == Event.LINE:
            level, text = message.value
            LOG.say(level, f"worker {worker.number}: {text}")

    def _share_elements(self, worker: Worker, rows: list[dict[str, Any]]) -> None:
        from pyflowx.supervising import Command
        from pyflowx.templatefile import elements_state

        for first in range(0, len(rows), _ROWS):
            self.supervisor.tell(Command.TEACH, elements_state(rows[first : first + _ROWS]), but=worker)

    def _share_told(self, worker: Worker, rows: list[OfAll]) -> None:
        """What a worker was told of whole exporters, whose other Observation Domains others may have."""
        from pyflowx.supervising import Command

        new = [row for row in rows if self._told.get(row[:3]) != row[3]]
        for *key, value in new:
            if len(self._told) < _MOST_TOLD or tuple(key) in self._told:
                self._told[tuple(key)] = value
        for first in range(0, len(new), _ROWS):
            self.supervisor.tell(Command.TELL, new[first : first + _ROWS], but=worker)

    def _gone(self, worker: Worker) -> None:
        self._view.gone(worker.number)

    # -- in the worker ---------------------------------------------------------------------------------------------

    def _begin(self, worker: Worker, sending_fd: int, commands: socket.socket) -> NoReturn:
        """All its life."""
        from pyflowx.channel import Sending
        from pyflowx.supervising import Event

        status = 1
        try:
            listening = self._together[worker.number]
            gate, setup = self._setup.gate, self._setup
            queues = gate.descriptors(worker.number, setup.count) if gate is not None else set()
            _let_go({sending_fd, commands.fileno(), *(sock.fileno() for sock in listening.sockets), *queues})
            sending = Sending(sending_fd)
            try:
                LOG.elsewhere = lambda level, text: sending.send(Event.LINE, (level, text))
                working = _Working(self._setup, worker, sending, commands)
                working.know(self.templates.states[worker.number], self.templates.elements(), self._told)
                working.run(listening)
                status = 0
            except PyflowxError as error:
                status = error.exit_code
                sending.send(Event.FAILED, error)
        except BrokenPipeError:  # there is nobody to write for
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)


class _Working:
    """A worker."""

    def __init__(self, setup: Setup, worker: Worker, sending: Sending, commands: socket.socket) -> None:
        self._setup, self._worker, self._sending, self._commands = setup, worker, sending, commands
        self._is_watched = False
        self._parts = assemble(setup.decoding, setup.inputs, setup.tables, setup.form, self._open_part)

    def _open_part(self, types: Mapping[str, str]) -> Sink[Any]:
        from pyflowx.supervising import Event

        def send(rows: int, data: Any, note: Any) -> None:
            self._sending.send(Event.PIECE, (rows, note), data)

        return make_part(self._setup.outputs, self._setup.form, types, self._worker.number, send)

    def know(self, state: bytes, elements: bytes, told: Mapping[tuple[Any, ...], int]) -> None:
        """To begin with: our Templates; elements that were learned; what options data told of whole exporters."""
        view = self._parts.view
        view.templates.load(state)
        view.templates.load(elements)
        if self._worker.restarts:
            view.templates.defined = 0  # they have been counted
        if view.rates is not None:
            view.rates.take_over((*key, value) for key, value in told.items())
            view.rates.of_all = []

    def run(self, listening: Listening) -> None:
        from pyflowx.supervising import Event
        from pyflowx.templatefile import StateSender
        from pyflowx.transport.udp import UdpReceiver

        setup, collector, view = self._setup, self._parts.collector, self._parts.view
        receiver = UdpReceiver(listening, wake_fd=collector.wake_fd)
        view.receivers = [receiver]
        gate, wake_fd, count = setup.gate, collector.wake_fd, setup.count
        source = gate.source(receiver, wake_fd, self._worker.number, count) if gate is not None else receiver
        self._set_signals()
        states = StateSender(view.templates, lambda octets, count: self._send(Event.STATE, count, octets))
        collector.each_second += [self._share, states.keep, _Paced(self._report)]
        threading.Thread(target=self._obey, name="commands", daemon=True).start()
        with enriching.kept(setup.tables):
            if self._worker.restarts:
                for table in setup.tables:
                    table.reload()
            with closing(collector):
                work(collector, setup.inputs, setup.outputs, source)
        setup.decoding.tell_refused(LOG.info)
        self._is_watched = False
        states.close()
        self._report()

    def _set_signals(self) -> None:
        """A terminal sends Ctrl-C to all of us; the one who started us says when to end, or an administrator."""
        from pyflowx.supervising import SIGNALS

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: self._parts.collector.stop())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _send(self, event: int, value: object = None, data: bytes = b"") -> None:
        try:
            self._sending.send(event, value, data)
        except BrokenPipeError:  # we are alone, and what is open is still to be completed
            self._parts.collector.stop()

    def _report(self) -> None:
        from pyflowx.supervising import Event
        from pyflowx.workersview import Report

        self._send(Event.REPORT, Report.of(self._parts.view, self._is_watched))

    def _share(self) -> None:
        """What is true of exporters some of whose Observation Domains are with others."""
        from pyflowx.supervising import Event

        rates = self._parts.view.rates
        if rates is not None and rates.of_all:
            self._send(Event.TOLD, rates.of_all)
            rates.of_all = []

    def _obey(self) -> None:
        """Do what we are told, in a thread; end when nobody can tell us anything any more."""
        from pyflowx.channel import decode

        while octets := self._commands.recv(_COMMAND):
            self._do(*decode(octets))
        with suppress(OSError):  # it has ended already
            self._parts.collector.stop()

    def _do(self, command: Command, value: Any) -> None:
        from pyflowx.supervising import Command

        collector, view = self._parts.collector, self._parts.view
        if command == Command.REOPEN:
            collector.soon(self._reopen)
        elif command == Command.WATCH:
            self._is_watched = value
            watcher(collector, view, self._setup.form)(value)
        elif command == Command.TEACH:
            collector.soon(lambda: view.templates.load(value))
        elif (rates := view.rates) is not None:
            collector.soon(lambda: rates.take_over(value))

    def _reopen(self) -> None:
        from pyflowx.supervising import Event

        open_anew(self._parts.view)
        self._send(Event.REOPENED)


class _Paced:
    """Leaves a function out so often that it takes a twentieth of the time at most: exporters may be thousands."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function, self._next = function, 0.0

    def __call__(self) -> None:
        begin = time.monotonic()
        if begin >= self._next:
            self._function()
            end = time.monotonic()
            self._next = end + 20 * (end - begin)


def _load_modules() -> None:
    """All that workers and the threads beside us may both need: who is forked while a thread imports one of these would
    wait for it for ever."""
    from pyflowx.wire import MODULES

    for name in (*_MODULES, *(f"wire.{name}" for name in MODULES.values())):
        importlib.import_module(f"pyflowx.{name}")


_MODULES = (
    *("channel", "collecting", "collectview", "conversion", "recent", "templatefile", "workersview", "transport.udp"),
    *(
        "transport.windows",
        "sinks.handover",
        "sinks.discard",
        "sinks.ndjson",
        "sinks.raw",
        "sinks.tree",
        "sinks.csvtext",
    ),
    *("sinks.csvtext", "sinks.arrow", "sinks.parquet", "sinks.protobuf", "sinks.compress"),
)


def _fork() -> int:
    with LOG.held():
        return os.fork()


def _let_go(kept: set[int]) -> None:
    """Of what we have got from the process that forked us all but that and the standard ones: who holds a socket or
    pipe of its would keep others from seeing its end. The numbers stay taken: objects that are still there will close
    them."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in kept and number != nothing:
            os.dup2(nothing, number, inheritable=False)
