"""The rules of the design that a machine can check: who imports what, and how long things get."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("pyflowx", "tui") for p in sorted((ROOT / folder).rglob("*.py"))]
PURE = ["errors", "elements", "batch", "decoded", "text", "fill", "common", "flowtable", "sequences", "counters"] + [
    f"{room}.{path.stem}"
    for room in ("wire", "enrich", "conversion")
    for path in sorted((ROOT / "pyflowx" / room).glob("[!_]*.py"))
]
# What a pure room must not bring in. (NumPy itself imports threading and time, so the difference to it counts.)
IMPURE = {"asyncio", "bcc", "click", "logging", "multiprocessing", "polars", "prometheus_client", "pyroute2"}
IMPURE |= {"scapy", "selectors", "socket", "subprocess", "textual", "threading"}
CLOCKS = {"time", "sched", "random", "secrets"}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after one statement."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def numpy_modules() -> set[str]:
    return modules_after("import numpy, csv, dataclasses, importlib.resources")


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_loads_no_io(module: str, numpy_modules: set[str]) -> None:
    loaded = {name.split(".")[0] for name in modules_after(f"import pyflowx.{module}") - numpy_modules}
    assert not loaded & IMPURE


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_asks_no_clock(module: str) -> None:
    tree = ast.parse((ROOT / "pyflowx" / (module.replace(".", "/") + ".py")).read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert not names & CLOCKS


def test_help_loads_no_heavy_library() -> None:
    loaded = {name.split(".")[0] for name in modules_after("import pyflowx.cli")}
    assert not loaded & {"numpy", "polars", "scapy", "bcc", "pyroute2", "prometheus_client", "textual", "maxminddb"}


def test_only_the_command_line_prints_or_exits() -> None:
    may = {ROOT / "pyflowx" / "__main__.py"}
    calls = [
        (path, node)
        for path in SOURCES
        if path not in may and "cli" not in path.parts and path.parent != ROOT / "tui"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
    ]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in calls
        if ast.unparse(node.func) in {"print", "exit", "sys.exit", "os._exit"}
    ]
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"
