"""What the long-running verbs share: metrics, live feed, signals, and the options for them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyflowx import __version__
from pyflowx.cli.config import config_option
from pyflowx.cli.log import LOG, log_options
from pyflowx.errors import ConfigError, SinkError

if TYPE_CHECKING:
    from pyflowx.collecting import Collector
    from pyflowx.collectview import CollectorView
    from pyflowx.live import Sections
    from pyflowx.metrics import Metric
    from pyflowx.supervising import Supervisor

METRICS_HOST, METRICS_PORT = "0.0.0.0", 9090  # noqa: S104 # what Prometheus asks from elsewhere
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Operation:
    """The options of :func:`operation_options`. None: not given, so a failure is no error."""

    metrics_host: str | None = None
    metrics_port: int | None = None
    metrics: bool = True
    live: str | None = None
    feed: bool = True

    @classmethod
    def take(cls, options: dict[str, Any]) -> Operation:
        """Take them out of a command's options."""
        return cls(**{name: options.pop(name) for name in cls.__slots__})

    def on_request(self) -> Operation:
        """Only what was asked for: for a process that ends by itself."""
        asked = self.metrics_host is not None or self.metrics_port is not None
        return Operation(self.metrics_host, self.metrics_port, self.metrics and asked, self.live, bool(self.live))


def operation_options(command: _F) -> _F:
    """Adds the options of :class:`Operation`, --config and those of messages to a command."""
    options = (
        click.option("--metrics-host", show_default=METRICS_HOST, help="Address to serve Prometheus metrics on."),
        click.option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            show_default=str(METRICS_PORT),
            help="TCP port for /metrics and /healthz; 0: any.",
        ),
        click.option("--no-metrics", "metrics", flag_value=False, default=True, help="Serve no metrics."),
        click.option(
            "--live",
            metavar="PATH",
            show_default="in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/pyflowx or /run/pyflowx",
            help="Unix socket of the live feed, which viewers attach to.",
        ),
        click.option("--no-live", "feed", flag_value=False, default=True, help="No live feed."),
        config_option,
        log_options,
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def served(
    operation: Operation,
    role: str,
    default_name: str,
    metrics: Iterable[Metric],
    view: Any,
    sections: Sections,
    watched: Callable[[bool], None],
) -> Iterator[None]:
    """Metrics and live feed of a view while the process does its work.

    ConfigError where one that was asked for cannot be; where it was not, the process goes on without.
    """
    with ExitStack() as stack:
        stack.callback(LOG.flush)
        told = []
        if operation.metrics:
            url = _serve_metrics(stack, operation, metrics, view)
            told += [f"metrics at {url}"] if url else []
        if operation.feed:
            path = _serve_feed(stack, operation, role, default_name, sections, watched, view)
            told += [f"live feed at {path}"] if path else []
        if told:
            LOG.info(", ".join(told))
        yield


def _serve_metrics(stack: ExitStack, operation: Operation, metrics: Iterable[Metric], view: object) -> str | None:
    from pyflowx.metrics_server import MetricsServer

    host, port = operation.metrics_host or METRICS_HOST, operation.metrics_port
    try:
        return stack.enter_context(MetricsServer(host, METRICS_PORT if port is None else port, metrics, view)).url
    except ConfigError as error:
        if port is not None or operation.metrics_host is not None:
            raise
        LOG.warning(f"{error}; going on without metrics")
        return None


def _serve_feed(
    stack: ExitStack,
    operation: Operation,
    role: str,
    default_name: str,
    sections: Sections,
    watched: Callable[[bool], None],
    view: Any,
) -> str | None:
    from pyflowx.host import runtime_folder
    from pyflowx.live import LiveFeed, remove_dead

    if operation.live:
        paths = [operation.live]
    else:
        remove_dead(runtime_folder())
        usual = runtime_folder() / default_name
        paths = [str(usual), str(usual.with_stem(f"{usual.stem}-{os.getpid()}"))]  # there may be several of us
    for path in paths:
        try:
            feed = stack.enter_context(LiveFeed(path, role, __version__, sections, watched))
        except ConfigError as error:
            refusal = error
        else:
            view.feed = feed.counts
            return path
    if operation.live:
        raise refusal
    LOG.info(f"{refusal}; going on without a live feed")
    return None


@contextmanager
def collecting(operation: Operation, collector: Collector, view: CollectorView, port: int, form: str) -> Iterator[None]:
    """Everything that belongs to the operation of a collector, while it runs."""
    on_hangup(collector, lambda: open_anew(view))
    collector.each_second.append(Watch(view))
    with collector_served(operation, view, port, watcher(collector, view, form)):
        yield


@contextmanager
def collector_served(
    operation: Operation, view: CollectorView, port: int, watched: Callable[[bool], None]
) -> Iterator[None]:
    """:func:`served`, of a collector."""
    from pyflowx.metrics import COLLECTOR

    with served(operation, "collect", f"collect-{port}.sock", COLLECTOR, view, view.sections, watched):
        yield


def watcher(collector: Collector, view: CollectorView, form: str) -> Callable[[bool], None]:
    """What is to be called when somebody begins to watch, and when nobody does any more."""

    def observe(*batch: Any) -> None:
        view.datagrams.add(*batch)
        view.recorded.add(*batch[:2])
        if form == "raw":
            for decoded in batch[1]:
                view.flows.add_decoded(decoded)

    def watched(by_somebody: bool) -> None:
        view.flows.wanted = by_somebody and form == "common"
        collector.observe = observe if by_somebody else None

    return watched


def on_hangup(process: Collector | Supervisor, again: Callable[[], None]) -> None:
    """SIGHUP: open files anew, load tables again. Where the terminal that we ran on has gone: end in good order."""
    had_terminal = sys.stderr.isatty()

    def said() -> None:
        LOG.info("SIGHUP: opening files anew, loading tables again")
        again()

    def on_signal(number: int, frame: object) -> None:
        if had_terminal and not sys.stderr.isatty():  # one that was hung up is none any more
            process.stop()
        else:
            process.soon(said)

    signal.signal(signal.SIGHUP, on_signal)


def open_anew(view: CollectorView) -> None:
    """Files, tables, and who may send."""
    reopen = getattr(view.sink, "reopen", None)  # what is not a file that lives long has none
    if reopen is not None:
        try:
            reopen()
        except SinkError as error:
            LOG.warning(str(error))
    for table in view.tables:
        table.reload()
    if view.gate is not None:
        view.gate.reload()


class Watch:
    """Warns when something was lost since it last looked."""

    def __init__(self, view: CollectorView) -> None:
        self._view = view
        self._dropped = self._lost = 0

    def __call__(self) -> None:
        dropped = self._view.socket_drops()
        if dropped > self._dropped:
            more = dropped - self._dropped
            LOG.warning(f"{more} datagrams dropped by the kernel, as our socket buffer was full: raise --recv-buffer")
            self._dropped = dropped
        lost = self._view.counters.sequences.total().lost
        if lost > self._lost:
            more = lost - self._lost
            LOG.warning(f"{more} records or packets are missing by their sequence numbers: pyflowx doctor says whose")
            self._lost = lost
