"""One TCP connection to a collector, made again when it breaks (RFC 7011 §10.4).

Nothing here waits but :meth:`TcpConnection.wait`: connecting and writing go on while the process does its other
work. Linux.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import Self

from pyflowx.errors import ConfigError
from pyflowx.transport.udp import SendCounts

RETRY_S = (1.0, 2.0, 5.0, 10.0)  # between attempts; the last one for all that follow
CONNECT_S = 10.0  # that an attempt may take
STALL_S = 30.0  # without an acknowledgement of what was sent, after which the kernel gives a connection up
_SEND_BUFFER = 1 << 20
_ACKNOWLEDGED = struct.Struct("=120xQ")  # tcpi_bytes_acked of struct tcp_info (linux/tcp.h)
_BUSY = (errno.EAGAIN, errno.EINPROGRESS, errno.EALREADY, errno.EINTR)


class TcpConnection:
    """A connection to ``host`` and ``port``. ConfigError where the name does not resolve.

    ``counts``: ``sent`` and ``octets`` are Messages and octets that the kernel took, ``reports`` failed attempts and
    connections that broke, ``last_error`` why. ``unacknowledged``: octets of broken connections that the other host
    never confirmed. ``number`` counts connections.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"-H/--collector-host {host}: {reason}; give a name that resolves or an address such as 192.0.2.10"
            ) from error
        self._family, self._address = found[0][0], found[0][4]
        self.counts = SendCounts()
        self.unacknowledged = 0
        self.number = 0
        self._socket: socket.socket | None = None
        self._is_open = False
        self._written = 0  # octets of this connection
        self._failures = 0
        self._next_s = 0.0  # when to try again, or to give an attempt up

    @property
    def is_open(self) -> bool:
        return self._is_open

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def open(self, now_s: float) -> bool:
        """Whether it is connected; connects and goes on connecting when it is time for it."""
        if self._is_open:
            self._look()
        if self._is_open:
            return True
        if self._socket is None:
            if now_s < self._next_s:
                return False
            try:
                self._begin(now_s)
            except OSError as error:
                self._fail(error.errno or 0, now_s)
                return False
        assert self._socket is not None
        code = self._socket.connect_ex(self._address)
        if code in (0, errno.EISCONN):
            self._is_open, self._written, self._failures, self._next_s = True, 0, 0, 0.0
            self.number += 1
        elif code not in _BUSY or now_s >= self._next_s:
            self._fail(code if code not in _BUSY else errno.ETIMEDOUT, now_s)
        return self._is_open

    def _begin(self, now_s: float) -> None:
        self._socket = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_S * 1000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._next_s = now_s + CONNECT_S

    def _fail(self, code: int, now_s: float) -> None:
        self._drop(code)
        self._next_s = now_s + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1

    def _drop(self, code: int) -> None:
        self.counts.reports += 1
        self.counts.last_error = os.strerror(code)
        if self._socket is not None:
            if self._is_open:
                self.unacknowledged += self._outstanding()
            self._socket.close()
        self._socket, self._is_open = None, False

    def _outstanding(self) -> int:
        """Octets that were written and are not confirmed."""
        assert self._socket is not None
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
        confirmed: int = _ACKNOWLEDGED.unpack(info)[0]
        return max(0, self._written - max(0, confirmed - 1))  # our SYN counts as one

    def _look(self) -> None:
        """Notice that the other side has gone: a collector sends nothing, so what can be read is the end."""
        assert self._socket is not None
        try:
            while data := self._socket.recv(4096):
                del data
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(error.errno or 0)
            return
        self._drop(errno.ECONNRESET)

    def write(self, octets: memoryview) -> int:
        """How many of them the kernel took; 0 where it has no room or the connection broke (see ``is_open``)."""
        assert self._socket is not None
        try:
            taken = self._socket.send(octets, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._drop(error.errno or 0)
            return 0
        self._written += taken
        self.counts.octets += taken
        return taken

    def wait(self, timeout_s: float) -> None:
        """Until it takes octets, is connected, or breaks."""
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        poll.poll(max(0.0, timeout_s) * 1000)

    def close(self) -> None:
        """Leave it to the kernel to deliver what it has."""
        if self._socket is not None:
            self._socket.close()
            self._socket, self._is_open = None, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
