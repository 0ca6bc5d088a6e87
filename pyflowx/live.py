"""The live feed: what a running process is doing, once a second, for viewers on a Unix socket.

A viewer connects and reads lines, each one JSON object in UTF-8; it need not send anything. The first line says whom
it is talking to::

    {"feed": "pyflowx", "version": 1, "role": "collect", "pyflowx": "0.1.0", "pid": 4711, "started_ns": ...}

Every other line is a snapshot::

    {"number": 1, "dropped": 0, "time_ns": ..., "<section>": ..., ...}

``number`` counts the snapshots of the process, ``dropped`` those that this viewer did not get because it had not read
an earlier one. The sections are those of the role (:mod:`pyflowx.collectview`, :mod:`pyflowx.exportview`). A section
that rarely changes is sent when it has changed since the viewer's last snapshot; where it is missing, what was
sent before holds. ``version`` changes when a section's meaning does; new sections and keys may come at any time.

A thread of its own does everything, and only while somebody is attached: a process without viewers pays for
a thread that sleeps. No viewer can slow the process down or take its memory: one snapshot a viewer is on its way
at most, and at most :data:`MAX_VIEWERS` are served.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from pyflowx.errors import ConfigError

VERSION = 1
INTERVAL_S = 1.0
MAX_VIEWERS = 16
MAX_SNAPSHOT = 4 << 20  # octets; larger sections are left out and named in "left_out"
MAX_LINE = 2 * MAX_SNAPSHOT  # that a viewer takes
_PEER = struct.Struct("3i")  # struct ucred
_INPUT = 4096


class Section(NamedTuple):
    """A part of a snapshot as JSON. One with a ``version`` is only sent to viewers that have another."""

    octets: bytes
    version: object = None


Sections = Callable[[], Mapping[str, Section]]


def section(value: object, version: object = None) -> Section:
    return Section(json.dumps(value, separators=(",", ":")).encode(), version)


@dataclass(slots=True)
class FeedCounts:
    """``viewers`` now; snapshots that were sent and dropped since the start."""

    viewers: int = 0
    sent: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _Viewer:
    sock: socket.socket
    pending: memoryview
    dropped: int = 0
    seen: dict[str, object] = field(default_factory=dict)  # section -> version


class LiveFeed:
    """Listens at ``path`` from the start.

    ``sections`` is called in the feed's thread, once a second while somebody is watching; ``watched`` there as well,
    when the first viewer has come and when the last has gone. ConfigError where the path cannot be used, or another
    process that lives has it; the socket of a dead one is replaced.
    """

    def __init__(
        self, path: str | Path, role: str, version: str, sections: Sections, watched: Callable[[bool], None]
    ) -> None:
        self.path = Path(path)
        self.counts = FeedCounts()
        self._sections, self._watched = sections, watched
        self._listener, self._inode = _listen(self.path)
        hello = {"feed": "pyflowx", "version": VERSION, "role": role, "pyflowx": version, "pid": os.getpid()}
        self._hello = json.dumps({**hello, "started_ns": time.time_ns()}).encode() + b"\n"
        self._number = 0
        self._viewers: dict[int, _Viewer] = {}
        self._poll = select.poll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="live feed", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let all viewers go, remove the socket."""
        if self._wake < 0:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._wake = -1
        with suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)

    def _run(self) -> None:
        next_s = 0.0
        try:
            while True:
                wait_ms = max(0.0, next_s - time.monotonic()) * 1000 if self._viewers else None
                for fd, events in self._poll.poll(wait_ms):
                    if fd == self._wake:
                        return
                    if fd == self._listener.fileno():
                        self._accept()
                    elif fd in self._viewers:
                        self._serve(self._viewers[fd], events)
                if self._viewers and time.monotonic() >= next_s:
                    next_s = time.monotonic() + INTERVAL_S
                    self._send_snapshots()
        finally:
            self._listener.close()
            for viewer in list(self._viewers.values()):
                self._let_go(viewer)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again, or there is no descriptor left: it has to try again
            time.sleep(0.01)
            return
        sock.setblocking(False)
        if len(self._viewers) >= MAX_VIEWERS:
            with suppress(OSError):
                sock.send(json.dumps({"error": f"{MAX_VIEWERS} viewers are attached already"}).encode() + b"\n")
            sock.close()
            return
        viewer = self._viewers[sock.fileno()] = _Viewer(sock, memoryview(self._hello))
        self._poll.register(sock, select.POLLIN)
        self.counts.viewers = len(self._viewers)
        if len(self._viewers) == 1:
            self._watched(True)
        self._write(viewer)

    def _serve(self, viewer: _Viewer, events: int) -> None:
        if events & select.POLLIN:
            try:
                gone = not viewer.sock.recv(_INPUT)
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                self._let_go(viewer)
                return
        if events & select.POLLOUT:
            self._write(viewer)
        elif events & (select.POLLHUP | select.POLLERR):
            self._let_go(viewer)

    def _write(self, viewer: _Viewer) -> None:
        try:
            while viewer.pending:
                viewer.pending = viewer.pending[viewer.sock.send(viewer.pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._let_go(viewer)
            return
        self._poll.modify(viewer.sock, select.POLLIN | (select.POLLOUT if viewer.pending else 0))

    def _let_go(self, viewer: _Viewer) -> None:
        self._poll.unregister(viewer.sock)
        del self._viewers[viewer.sock.fileno()]
        viewer.sock.close()
        self.counts.viewers = len(self._viewers)
        if not self._viewers:
            self._watched(False)

    def _send_snapshots(self) -> None:
        self._number += 1
        sections = None
        for viewer in list(self._viewers.values()):
            if viewer.pending:
                viewer.dropped += 1
                self.counts.dropped += 1
                continue
            if sections is None:
                sections = self._sections()
            viewer.pending = memoryview(_snapshot(self._number, viewer, sections))
            self.counts.sent += 1
            self._write(viewer)


def _snapshot(number: int, viewer: _Viewer, sections: Mapping[str, Section]) -> bytes:
    parts = [b'"number":%d,"dropped":%d,"time_ns":%d' % (number, viewer.dropped, time.time_ns())]
    octets, left_out = 0, []
    for name, made in sections.items():
        if made.version is not None and viewer.seen.get(name) == made.version:
            continue
        if octets + len(made.octets) > MAX_SNAPSHOT:
            left_out.append(name)
            continue
        octets += len(made.octets)
        viewer.seen[name] = made.version
        parts.append(b'"%s":%s' % (name.encode(), made.octets))
    if left_out:
        parts.append(b'"left_out":' + json.dumps(left_out).encode())
    return b"{" + b",".join(parts) + b"}\n"


# --- the socket's place --------------------------------------------------------------------------------------------


def _listen(path: Path) -> tuple[socket.socket, int]:
    """A listening socket that only its owner may use, and its inode."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(sock.fileno(), 0o600)  # before bind: at no time may anybody else connect
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(path.parent):
            _take_place(sock, path)
            sock.listen(MAX_VIEWERS)
            return sock, os.stat(path).st_ino
    except OSError as error:
        sock.close()
        reason = "the path is too long" if not error.strerror else error.strerror
        raise ConfigError(f"--live {path}: {reason}; give a path in a folder that may be written to") from error
    except ConfigError:
        sock.close()
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two processes that begin at once must not take each other's socket for one of the dead."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _take_place(sock: socket.socket, path: Path) -> None:
    try:
        sock.bind(str(path))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _check_dead(path)
        os.unlink(path)
        sock.bind(str(path))


def _check_dead(path: Path) -> None:
    """ConfigError unless ``path`` is a socket that nobody listens at any more."""
    if not path.is_socket():
        raise ConfigError(f"--live {path}: this is no socket, so it is not replaced; give another path")
    pid = "?"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
            pid = str(_PEER.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0])
        except ConnectionRefusedError:
            return
        except BlockingIOError:  # it lives, and many want to talk to it
            pass
    raise ConfigError(f"--live {path}: process {pid} has its live feed there; give another path with --live")


def is_dead(path: Path) -> bool:
    """Whether this is the socket of a process that did not live to remove it."""
    try:
        _check_dead(path)
    except (ConfigError, OSError):
        return False
    return True


def remove_dead(folder: Path) -> None:
    """Remove the sockets that killed processes left in a folder of ours."""
    with suppress(OSError), _locked(folder):
        for path in folder.glob("*.sock"):
            if is_dead(path):
                path.unlink()


# --- the other end -------------------------------------------------------------------------------------------------


class FeedReader:
    """A viewer's end: the feed's first line is :attr:`hello`, iterating gives snapshots until the feed ends.

    ConfigError where nobody answers at ``path`` or it speaks a version of the feed that we do not know.
    """

    def __init__(self, path: str | Path, timeout_s: float | None = None) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise ConfigError(f"{path}: {error.strerror}; is a pyflowx running with its live feed there?") from error
        self._file = self._sock.makefile("rb")
        self.hello: dict[str, Any] = self._line(str(path))
        if self.hello.get("feed") != "pyflowx" or self.hello.get("version") != VERSION:
            self.close()
            raise ConfigError(f"{path}: {self.hello.get('error', 'this is no feed that this pyflowx can read')}")

    def _line(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(self._file.readline(MAX_LINE))
        except (OSError, ValueError) as error:
            self.close()
            raise ConfigError(f"{path}: nothing that this pyflowx can read came from there") from error
        return found if isinstance(found, dict) else {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (line := self._file.readline(MAX_LINE)).endswith(b"\n"):
            yield json.loads(line)

    def fileno(self) -> int:
        return self._sock.fileno()

    def wait_for_ever(self) -> None:
        """From now on no snapshot is too late."""
        self._sock.settimeout(None)

    def interrupt(self) -> None:
        """End the iteration; may be called by another thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._sock.close()
