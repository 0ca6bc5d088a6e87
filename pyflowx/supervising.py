"""Several collecting processes as one: starts workers, starts those again that die, writes what they hand over.

Everything that a worker has to tell comes through its channel (:mod:`pyflowx.channel`) as one of :class:`Event`; what
it is told comes the other way as a :class:`Command`. A worker ends in good order when nobody can tell it
anything any more, so also when this process is killed.
"""

from __future__ import annotations

import enum
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyflowx.channel import Message, Receiving, encode, open_channel
from pyflowx.errors import PyflowxError, SinkError
from pyflowx.sinks.output import Output
from pyflowx.sinks.target import ReaderGoneError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONG_S = 5.0  # a worker that lived so long is started again at once
_PAUSE_S = 1.0  # ... another one after that


class Event(enum.IntEnum):
    """``PIECE``: (rows, note) and octets for the output; ``REPORT``: what was counted; ``STATE``: how many elements
    were learned, Templates as octets; ``LINE``: (level, message); ``REOPENED``: the last piece for the old file was
    sent; ``FAILED``: the error that would end a single process; ``TOLD``: what options data told of whole exporters."""

    PIECE = 1
    REPORT = 2
    STATE = 3
    LINE = 4
    REOPENED = 5
    FAILED = 6
    TOLD = 7


class Command(enum.IntEnum):
    """What a worker is told, with a value: ``REOPEN``: go on in new files; ``WATCH``: whether there are viewers;
    ``TELL``: what others were told of whole exporters; ``TEACH``: elements that others have learned."""

    REOPEN = 1
    WATCH = 2
    TELL = 3
    TEACH = 4


@dataclass(slots=True)
class Worker:
    """``pid`` 0: it does not run. ``due``: when it is to be started (monotonic s)."""

    number: int
    pid: int = 0
    restarts: int = 0
    due: float = 0.0
    started: float = 0.0
    finished: bool = False
    receiving: Receiving | None = None
    commands: socket.socket | None = None


Begin = Callable[[Worker, int, socket.socket], None]
Take = Callable[[Worker, Message], None]


class Supervisor:
    """Runs ``count`` workers until :meth:`stop`, which may be called by a signal handler or another thread.

    ``fork``: makes a process. ``begin``: what a worker does, with the descriptor that it sends by and the socket that
    commands come by; it does not return. ``output``: where PIECEs go. ``take``: is given every other event;
    ``gone``: a worker that has ended. ``warn``: a line about what went wrong.
    """

    def __init__(
        self,
        count: int,
        fork: Callable[[], int],
        begin: Begin,
        output: Output[Any] | None,
        take: Take,
        gone: Callable[[Worker], None],
        warn: Callable[[str], None],
    ) -> None:
        self.workers = [Worker(number) for number in range(count)]
        self.reader_gone = False
        """Whether the end came because nobody reads our output any more."""
        self.each_second: list[Callable[[], None]] = []
        self.is_stopping = False
        self._stopped = 0.0
        self._fork, self._begin, self._output, self._take = fork, begin, output, take
        self._gone, self._warn = gone, warn
        self._is_watched = False
        self._reopening: set[int] | None = None  # workers that have not handed over the rest of the old file
        self._failure: PyflowxError | None = None
        self._soon: deque[Callable[[], object]] = deque()
        self._next_second = 0.0
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake_fd, select.POLLIN)

    def stop(self) -> None:
        """Let all take what has arrived until now, then end."""
        self.soon(self._stop)

    def soon(self, function: Callable[[], object]) -> None:
        """Call it in the loop. For signal handlers and other threads."""
        self._soon.append(function)
        os.eventfd_write(self._wake_fd, 1)

    def watch(self, wanted: bool) -> None:
        """Whether reports are to have what viewers see. May be called by any thread."""

        def tell() -> None:
            self._is_watched = wanted
            self.tell(Command.WATCH, wanted)

        self.soon(tell)

    def reopen(self) -> None:
        """Let all go on in new files and load tables again; in the loop (see :meth:`soon`)."""
        self._reopening = {worker.number for worker in self.workers if worker.pid}
        self.tell(Command.REOPEN)

    def tell(self, command: Command, value: object = None, but: Worker | None = None) -> None:
        """All of them, in the loop."""
        for worker in self.workers:
            if worker is not but:
                self._tell(worker, command, value)

    def start(self) -> None:
        """All of them; before :meth:`run`, where threads are to begin in between."""
        for worker in self.workers:
            self._start(worker)

    def run(self) -> None:
        """Until all have ended. PyflowxError where the output failed, or what a worker cannot go on with."""
        try:
            while not all(worker.finished for worker in self.workers):
                for worker in self.workers:
                    if not (worker.pid or worker.finished) and time.monotonic() >= worker.due:
                        self._start(worker)
                self._wait()
        finally:
            for worker in self.workers:
                if worker.pid:
                    os.kill(worker.pid, signal.SIGKILL)
                    self._end(worker)
        if self._failure is not None and not self.reader_gone:
            raise self._failure

    # -- the loop --------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        now = time.monotonic()
        until = [worker.due for worker in self.workers if not (worker.pid or worker.finished)]
        wait_s = max(0.0, min([self._next_second, *until]) - now)
        ready = {fd for fd, _ in self._poll.poll(wait_s * 1000)}
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
        for worker in self.workers:
            if worker.receiving is not None and worker.receiving.fd in ready:
                self._receive(worker, worker.receiving)
        while self._soon:
            self._soon.popleft()()
        if time.monotonic() >= self._next_second:
            self._next_second = time.monotonic() + 1.0
            for function in self.each_second:
                function()

    def _receive(self, worker: Worker, receiving: Receiving) -> None:
        for message in receiving.receive():
            if message.kind == Event.PIECE:
                self._write(message)
            elif message.kind == Event.FAILED:
                self._fail(message.value)
            elif message.kind == Event.REOPENED:
                self._reopened(worker)
            else:
                self._take(worker, message)
        if receiving.ended:
            self._end(worker)

    def _write(self, message: Message) -> None:
        assert self._output is not None
        rows, note = message.value
        if self._failure is not None:
            self._output.miss(rows)
            return
        try:
            self._output.adopt(rows, message.data, note)
        except SinkError as error:
            self.reader_gone = isinstance(error, ReaderGoneError)
            self._fail(error)

    def _fail(self, error: PyflowxError) -> None:
        self._failure = self._failure or error
        self._stop()
        for worker in self.workers:
            worker.finished |= not worker.pid

    def _reopened(self, worker: Worker) -> None:
        if self._reopening is None:
            return
        self._reopening.discard(worker.number)
        if self._reopening:
            return
        self._reopening = None
        try:
            if self._output is not None:
                self._output.reopen()
        except SinkError as error:
            self._warn(str(error))

    # -- processes -------------------------------------------------------------------------------------------------

    def _start(self, worker: Worker) -> None:
        receiving, sending = open_channel()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the worker has handlers of its own
        try:
            pid = self._fork()
            if pid == 0:
                self._begin(worker, sending, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(sending)
        theirs.close()
        worker.pid, worker.started = pid, time.monotonic()
        worker.receiving, worker.commands = Receiving(receiving), ours
        self._poll.register(receiving, select.POLLIN)
        if self._is_watched:
            self._tell(worker, Command.WATCH, True)
        if self.is_stopping:
            self._let_go(worker)

    def _end(self, worker: Worker) -> None:
        """It has closed its channel, so it is about to be gone, or is."""
        assert worker.receiving is not None
        self._poll.unregister(worker.receiving.fd)
        worker.receiving.close()
        worker.receiving = None
        self._let_go(worker)
        _, status = os.waitpid(worker.pid, 0)
        pid, worker.pid = worker.pid, 0
        now = time.monotonic()
        code = os.waitstatus_to_exitcode(status)
        worker.finished = self._failure is not None or (self.is_stopping and (code == 0 or self._is_last(worker)))
        if not worker.finished:
            how = f"signal {-code}" if code < 0 else f"status {code}"
            self._warn(f"worker {worker.number} (process {pid}) ended with {how}; it is started again")
            worker.restarts += 1
            pause_s = 0.0 if now - worker.started >= _LONG_S or self.is_stopping else _PAUSE_S
            worker.due = now + pause_s
        self._gone(worker)
        self._reopened(worker)

    def _is_last(self, worker: Worker) -> bool:
        """Whether it was started only to take what waited in its sockets."""
        return worker.started >= self._stopped

    def _stop(self) -> None:
        if self.is_stopping:
            return
        self._stopped, self.is_stopping = time.monotonic(), True
        for worker in self.workers:
            worker.due = 0.0  # one that has died takes what waits in its sockets
            self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        """No more commands: it takes what it has, then ends."""
        if worker.commands is not None:
            worker.commands.close()
            worker.commands = None

    def _tell(self, worker: Worker, command: Command, value: object) -> None:
        if worker.commands is not None:
            try:
                worker.commands.send(encode((command, value)), socket.MSG_DONTWAIT)
            except OSError:  # it stands still, or has just ended
                self._warn(f"worker {worker.number} (process {worker.pid}) does not take commands")
