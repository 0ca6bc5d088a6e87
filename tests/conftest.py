"""What holds for every test."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from pyflowx.batch import V4_MAPPED, FlowBatch, Octets
from pyflowx.decoded import Decoded, Messages, Protocol
from pyflowx.elements import default_registry

# Machines differ in speed and nothing here tests time.
settings.register_profile("pyflowx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pyflowx")

# What an assert in a helper module compared is shown too.
pytest.register_assert_rewrite("benches", "exports", "gate_collector", "totals", "turnover", "wires")

PROBE = "probe: "  # how the reason of an honest skip begins: what was tried on this machine, and what it said


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kernel tests need root; elsewhere they skip, saying so."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason=f"{PROBE}kernel tests need root (sudo make test)"))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip is a failure unless a probe said why: a feature that this machine has must be tested."""
    if os.environ.get("CI") != "true" or hasattr(session.config, "workerinput"):  # workers report to the one who counts
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    for report in reporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple | list) else ""
        if not reason.startswith(PROBE) and not hasattr(report, "wasxfail"):
            reporter.write_line(f"skipped without a probe: {report.nodeid}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """pytest's own, with the names of worker and test in it, is longer than the path of a Unix socket may be."""
    with tempfile.TemporaryDirectory(prefix="pyflowx-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def make_decoded() -> Callable[..., Decoded]:
    """Decoded by hand: ``make_decoded({"octetDeltaCount": [1, 2], "protocolIdentifier:2": [6, 6]})``.

    A key is an element by name or ``pen/id``, with a length behind a colon where it is not the natural one.
    A value is a column; byte strings make Octets. Every record is in a Message of its own unless ``message`` says
    otherwise; what else a Message has can be given by name.
    """

    def make(
        columns: Mapping[str, Sequence[Any]],
        protocol: Protocol = Protocol.IPFIX,
        message: Sequence[int] | None = None,
        scope_count: int = 0,
        template_id: int = 256,
        **facts: Any,
    ) -> Decoded:
        fields, data = [], []
        for key, values in columns.items():
            name, _, length = key.rstrip("+").partition(":")  # a + tells a repeated element from the first
            field = default_registry().field(name, int(length) if length else None)
            fields.append(field)
            if isinstance(values, np.ndarray):
                data.append(values)
            elif isinstance(values[0], bytes):
                data.append(Octets.of(values))
            else:
                kind = "f" if isinstance(values[0], float) else "u"
                width = max(field.element.data_type.width, field.length)
                data.append(np.array(values, f"{kind}{1 << (width - 1).bit_length()}"))
        n = len(data[0])
        rows = np.arange(n, dtype=np.int32) if message is None else np.array(message, np.int32)
        m = int(rows.max()) + 1
        flows = FlowBatch(
            tuple(fields), data, rows, np.full(n, 16, np.int32), np.full(n, template_id, np.uint16), scope_count
        )
        messages = Messages(
            packet=np.arange(m, dtype=np.int32),
            exporter=np.tile(np.frombuffer(V4_MAPPED + b"\xc0\0\2\1", np.uint8), (m, 1)),
            port=np.full(m, 4739, np.uint16),
            received_ns=np.full(m, 1_700_000_000_123_456_789),
            header={"version": np.full(m, 10, np.uint16)},
            sequence_number=np.full(m, 7, np.uint32),
            observation_domain_id=np.full(m, 42, np.uint32),
            export_ns=np.full(m, 1_700_000_000_000_000_000),
            boot_ns=np.zeros(m, np.int64),
        )
        return Decoded(protocol, dataclasses.replace(messages, **facts), [flows])

    return make
