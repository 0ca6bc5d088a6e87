"""What is shipped for other programs: the Grafana dashboard, systemd units, the example configuration."""

from __future__ import annotations

import configparser
import itertools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from importlib import resources
from pathlib import Path

import click
import pytest

from pyflowx.cli import collect, export
from pyflowx.cli.config import TABLES, read_config
from pyflowx.metrics import COLLECTOR, EXPORTER

SHARE = Path(str(resources.files("pyflowx"))) / "share"
UNITS = sorted((SHARE / "systemd").glob("*.service"))
METRICS = {row.sample_name: row for row in (*COLLECTOR, *EXPORTER)}
COMMANDS = {"collect": collect.command, "export": export.command}
OF_THE_LIBRARY = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


@pytest.fixture(scope="module")
def dashboard() -> dict:
    return json.loads((SHARE / "grafana" / "pyflowx.json").read_text())


def expressions(dashboard: dict) -> list[str]:
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:pyflowx|process)_[a-z0-9_]+", text))


def test_the_dashboard_uses_our_names_and_all_of_them(dashboard: dict) -> None:
    used = set().union(*map(names, expressions(dashboard)))
    assert used == METRICS.keys() | OF_THE_LIBRARY
    for variable in dashboard["templating"]["list"]:
        assert names(variable.get("definition", "")) <= METRICS.keys()


def test_the_dashboard_uses_the_labels_that_metrics_have(dashboard: dict) -> None:
    checked = 0
    for expression in expressions(dashboard):
        ours = [{"instance", *METRICS[name].labels} for name in names(expression) if name in METRICS]
        known = set.intersection(*ours) if ours else {"instance"}
        wanted = set(re.findall(r"(\w+)=~", expression))
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            wanted |= {label.strip() for label in group.split(",")}
        assert wanted <= known, expression
        checked += len(wanted)
    assert checked > 60


def test_the_panels_are_apart(dashboard: dict) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for one, other in itertools.combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_metrics_have_names_of_their_own_and_help() -> None:
    for rows in (COLLECTOR, EXPORTER):
        assert len({row.name for row in rows}) == len(rows)
    for row in METRICS.values():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", row.name) and not row.name.endswith("_total") and row.help.endswith(".")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_run_commands_that_exist(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    program, verb, *options = shlex.split(unit["Service"]["ExecStart"])
    assert program == "/usr/local/bin/pyflowx" and path.stem == f"pyflowx-{verb}"
    known = {spelling for option in COMMANDS[verb].params for spelling in option.opts}
    assert {option for option in options if option.startswith("-")} <= known
    assert int(unit["Service"]["RestartPreventExitStatus"]) == click.UsageError.exit_code == 2


@pytest.fixture(scope="module")
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("probe: no systemd-analyze on this machine")
    return tool


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_has_nothing_to_say_about_units(path: Path, analyze: str, tmp_path: Path) -> None:
    """But for our program, which is not installed here."""
    copy = tmp_path / path.name
    text, count = re.subn("(?m)^ExecStart=/usr/local/bin/pyflowx", "ExecStart=/bin/true", path.read_text())
    assert count == 1
    copy.write_text(text)
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if path.stem in line]) == (0, [])


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_hardened(path: Path, analyze: str) -> None:
    done = subprocess.run([analyze, "security", "--offline=true", str(path)], capture_output=True, text=True)
    found = re.search(r"exposure level for \S+ ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) < 3.0
    wrong = [line for line in done.stderr.splitlines() if "Unknown" in line or "Failed to parse" in line]
    assert not wrong


def test_the_example_configuration_is_accepted() -> None:
    path = SHARE / "pyflowx.toml"
    tables = read_config(str(path))
    assert set(tables) == set(TABLES)
    files = tables["collect"]
    assert {"output", "interval", "expire"} <= set(files)  # nothing of the service grows without end
    # also what stands there as a comment
    whole = re.sub(r"(?m)^# (?=[a-z-]+ = )", "", path.read_text())
    for verb, table in tomllib.loads(whole).items():
        known = {spelling[2:] for option in COMMANDS[verb].params for spelling in option.opts}
        assert set(table) <= known
