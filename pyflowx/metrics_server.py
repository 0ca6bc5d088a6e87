"""The HTTP server that Prometheus asks, see :mod:`pyflowx.metrics` for what it gets.

The library that writes the format, and the modules of HTTP, are imported with the first request: a process that is
never asked pays for a listening socket and a thread that sleeps.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from pyflowx.errors import ConfigError
from pyflowx.metrics import COUNTER, Metric

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

    from prometheus_client.core import Metric as Family

MAX_REQUESTS = 8  # at once; more are turned away
_TIMEOUT_S = 10.0  # for a request to arrive and to be answered


class _Registry:
    """What prometheus-client asks for the families of a view's metrics."""

    def __init__(self, metrics: Iterable[Metric], view: object) -> None:
        self._metrics, self._view = tuple(metrics), view

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for row in self._metrics:
            make = CounterMetricFamily if row.kind == COUNTER else GaugeMetricFamily
            family = make(f"pyflowx_{row.name}", row.help, labels=row.labels)
            for labels, value in row.read(self._view):
                family.add_metric(labels, value)
            yield family


class MetricsServer:
    """Answers ``/metrics`` and ``/healthz`` at ``host`` and ``port`` (0: any, see :attr:`address`) until closed.

    ConfigError where it cannot listen there.
    """

    def __init__(self, host: str, port: int, metrics: Iterable[Metric], view: object) -> None:
        self._registry = _Registry(metrics, view)
        self._socket = _listen(host, port)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        """Sleep until somebody asks; then serve, until closed."""
        server = None
        while self._wake not in select.select([self._socket.fileno(), self._wake], [], [])[0]:
            server = server or _make_server(self._socket, self._registry)
            server.handle_request()

    def close(self) -> None:
        if self._wake < 0:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._wake = -1
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--metrics-host {host}: {error}; give an address of this host, or --no-metrics") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen()
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot serve metrics on {host} port {port}: {error.strerror}; give a free port with --metrics-port, or "
            "--no-metrics"
        ) from error
    return sock


def _make_server(sock: socket.socket, source: _Registry) -> ThreadingHTTPServer:
    from http.server import ThreadingHTTPServer

    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import MetricsHandler

    registry = CollectorRegistry(auto_describe=False)
    registry.register(source)
    ProcessCollector(registry=registry)
    places = threading.BoundedSemaphore(MAX_REQUESTS)

    class Handler(MetricsHandler):
        timeout = _TIMEOUT_S
        server_version, sys_version = "pyflowx", ""

        def do_GET(self) -> None:  # noqa: N802 # its name in the library
            path = self.path.partition("?")[0]
            if path == "/metrics":
                super().do_GET()
            elif path == "/healthz":
                self._say(200, "ok\n")
            else:
                self._say(404, "there are /metrics and /healthz\n")

        def _say(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    Handler.registry = registry

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False
        timeout = 0  # of handle_request, which is called when somebody is there

        def verify_request(self, request: Any, client_address: Any) -> bool:
            return places.acquire(blocking=False)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                places.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), OSError):  # a client that goes away is no error of ours
                super().handle_error(request, client_address)

    server = Server(sock.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = sock
    return server
