"""What holds for every test."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Machines differ in speed and nothing here tests time.
settings.register_profile("pyflowx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pyflowx")

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
    if os.environ.get("CI") != "true":
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    for report in reporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if not reason.startswith(PROBE) and not hasattr(report, "wasxfail"):
            reporter.write_line(f"skipped without a probe: {report.nodeid}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
