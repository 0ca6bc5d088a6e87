"""What ``make install-services`` left on a machine, and whether the kernel has what the table says."""

from __future__ import annotations

import json

import pytest

import pyflowx

pytestmark = pytest.mark.vm

FEATURES = """
import json
from pyflowx.kernel.probe import probe
print(json.dumps([feature._asdict() for feature in probe()]))
"""


def test_installed_and_the_doctor_is_content(lab, kernel):
    for machine in lab.values():
        assert machine.run("uname -r").startswith(f"{kernel}.")
        assert machine.run("pyflowx --version").split()[-1] == pyflowx.__version__
        checks = json.loads(machine.run("pyflowx doctor --json"))["checks"]
        bad = [
            check
            for check in checks
            if check["status"] == "fail" or (check["part"], check["status"]) == ("export", "warn")
        ]
        assert bad == []
        assert {"privilege", "programs"} <= {check["name"] for check in checks if check["status"] == "ok"}


def test_the_kernel_has_what_the_table_says(exporter, expected):
    found = json.loads(exporter.run("/opt/pyflowx/bin/python -", FEATURES.encode()))
    assert {feature["name"]: feature["present"] for feature in found} == expected, found
