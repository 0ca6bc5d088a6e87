"""What ``make install-services`` left on each machine, and whether its kernel has what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pyflowx

pytestmark = pytest.mark.vm

OF_OPTIONS = ("export", "collect")  # rows of the table that begin so: what test programs load, not the doctor


def test_installed_and_the_doctor_finds_what_the_table_of_features_says(lab, exporter, kernel, expected):
    for machine in lab.values():
        assert machine.run("uname -r").startswith(f"{kernel}.")
        assert machine.run("pyflowx --version").split()[-1] == pyflowx.__version__
    features = {name: there for name, there in expected.items() if not name.startswith(OF_OPTIONS)}
    checks = json.loads(exporter.run("pyflowx doctor --json"))["checks"]  # they all have the same kernel
    status = {check["name"]: check["status"] for check in checks}
    assert {name: status[name] == "ok" for name in features} == features, checks
    assert "fail" not in status.values()


def test_the_kernel_takes_the_programs_of_all_options(lab, expected):
    script = Path(__file__).with_name("load.py").read_bytes()
    running = []
    for part, machine in enumerate(lab.values()):  # the verifier is slow where it is emulated
        machine.put("/run/load.py", script)
        running.append(machine.start("load", f"/opt/pyflowx/bin/python /run/load.py {part} {len(lab)}"))
    lacks = {}
    for load in running:
        load.wait_for("}", "out")
        lacks |= json.loads(load.output())
    options = {name: there for name, there in expected.items() if name.startswith(OF_OPTIONS)}
    assert {name: lack is None for name, lack in lacks.items()} == options, lacks
