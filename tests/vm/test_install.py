"""What ``make install-services`` left on each machine, and whether its kernel has what the table says."""

from __future__ import annotations

import json

import pytest

import pyflowx

pytestmark = pytest.mark.vm


def test_installed_and_the_doctor_finds_what_the_table_of_features_says(lab, kernel, expected):
    for machine in lab.values():
        assert machine.run("uname -r").startswith(f"{kernel}.")
        assert machine.run("pyflowx --version").split()[-1] == pyflowx.__version__
        checks = json.loads(machine.run("pyflowx doctor --json"))["checks"]
        status = {check["name"]: check["status"] for check in checks}
        assert {name: status[name] == "ok" for name in expected} == expected, checks
        assert "fail" not in status.values()
