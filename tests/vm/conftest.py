"""The three machines of all scenarios, and what their kernel is expected to have."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

DRIVER = os.environ.get("PYFLOWX_VM")
PROBE = "probe: "  # how the reason of an honest skip begins
if not DRIVER:  # `make vm`, `make vm-matrix`: machines are no part of `make test`
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def kernel():
    """The version of the machines' kernel, such as 6.1."""
    return os.environ["PYFLOWX_VM_KERNEL"]


@pytest.fixture(scope="session")
def expected(kernel):
    """Feature -> whether this kernel is to have it."""
    with Path(__file__).with_name("features.csv").open() as lines:
        return {row["feature"]: row[kernel] == "yes" for row in csv.DictReader(lines)}


@pytest.fixture(scope="session")
def machines(kernel):
    """The machines by their roles, the same ones for all scenarios."""
    if DRIVER == "vagrant":
        from vm.vagrant import machines
    else:
        from vm.qemu import machines
    folder, box, work = (Path(os.environ[f"PYFLOWX_VM_{name}"]) for name in ("FOLDER", "BOX", "WORK"))
    with machines(folder, box, kernel, work) as found:
        yield found


@pytest.fixture
def lab(machines):
    """The machines; what a scenario left running is killed."""
    yield machines
    for machine in machines.values():
        machine.clear()


@pytest.fixture
def generator(lab):
    return lab["generator"]


@pytest.fixture
def exporter(lab):
    return lab["exporter"]


@pytest.fixture
def collector(lab):
    return lab["collector"]


@pytest.fixture(autouse=True)
def _features(request, kernel, expected):
    """A scenario that needs a feature runs wherever the table says that it is there, and skips elsewhere only."""
    for marker in request.node.iter_markers("needs"):
        for feature in marker.args:
            if not expected[feature]:
                pytest.skip(f"{PROBE}Linux {kernel} has no {feature}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Any other skip is a failure."""
    report = yield
    if report.skipped and not str(report.longrepr[2]).startswith(f"Skipped: {PROBE}Linux"):
        report.outcome, report.longrepr = "failed", f"skipped without need: {report.longrepr[2]}"
    return report
