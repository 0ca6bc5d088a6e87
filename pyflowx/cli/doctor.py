"""``pyflowx doctor``: what this host can do, and where running processes lose something."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pyflowx.doctor import Check, Process

_EXPORTERS = 10  # of whom the gate's reasons are shown

EPILOG = """
\b
Examples:
  sudo pyflowx doctor                     everything; export needs root to be tried
  pyflowx doctor --json | jq '.checks[] | select(.status != "ok")'
  pyflowx doctor --connect /run/pyflowx/collect-9995.sock

\b
Exit status: 0, or 1 where a check failed or a process given by --connect does not answer.
"""


@click.command("doctor", epilog=EPILOG, short_help="Say what this host can do, and where flows are lost.")
@click.option(
    "--connect",
    "paths",
    multiple=True,
    metavar="PATH",
    help="The live feed of a process to look at; all that are found if not given. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(paths: tuple[str, ...], as_json: bool) -> None:
    """Check the host for collecting and exporting, and show for each running process where on the way from the wire
    to the file something was lost, with advice. Changes nothing."""
    from pyflowx import doctor

    found = list(doctor.checks())
    processes = [doctor.look(path) for path in paths or doctor.feeds()]
    if as_json:
        import json

        shown = [_process(process) for process in processes]
        click.echo(json.dumps({"checks": [check._asdict() for check in found], "processes": shown}, indent=2))
    else:
        for line in [*_table(found), *(line for process in processes for line in _report(process))]:
            click.echo(line)
    silent = any(process.snapshot is None for process in processes)
    if any(check.status == doctor.FAIL for check in found) or (paths and silent):
        sys.exit(1)


def _process(process: Process) -> dict[str, Any]:
    """What is kept of a snapshot for --json: what tells of losses."""
    snapshot = process.snapshot or {}
    kept = ("counters", "pipeline", "socket", "domains", "held", "gate", "workers", "statistics", "collectors")
    sections = {name: snapshot[name] for name in kept if name in snapshot}
    return {"path": process.path, "problem": process.problem, **process.hello, **sections}


def _table(found: Sequence[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in found)
    for check in found:
        yield f"{check.status:<5} {check.part:<8} {check.name:<{width}}  {check.found}"
        for line in check.advice.splitlines():
            yield " " * (width + 17) + line


def _report(process: Process) -> Iterator[str]:
    from pyflowx.doctor import ADVICE
    from pyflowx.metrics import XDP_LOSSES

    yield ""
    if process.snapshot is None:
        yield process.problem
        return
    role = process.hello["role"]
    yield f"pyflowx {role}, process {process.hello['pid']}, {process.path}"
    for stage in process.snapshot["pipeline"]:
        passed = "" if stage["passed"] is None else f"{stage['passed']} {stage['unit']}"
        lost = f"{stage['lost']} {stage['unit']} lost" if stage["lost"] else "none lost"
        yield f"  {stage['stage']:<10} {passed:<28} {lost}"
        if stage["lost"]:
            yield f"  {'':<10} {ADVICE[role, stage['stage']]}"
    problems = process.snapshot.get("counters", {}).get("problems") or {}
    if problems:
        yield "  problems: " + ", ".join(f"{name} {count}" for name, count in problems.items())
    for row in ((process.snapshot.get("gate") or {}).get("exporters") or ())[:_EXPORTERS]:
        if row["reasons"]:
            told = ", ".join(f"{name} {count}" for name, count in row["reasons"].items())
            yield f"  gate: {row['address']}: {told}"
    for row in (process.snapshot.get("gate") or {}).get("queues") or ():
        told = ", ".join(f"{name} {row[name]}" for name in XDP_LOSSES if row[name])
        if told:
            yield f"  AF_XDP socket of {row['interface']} queue {row['queue']}: {told}"
    for row in process.snapshot.get("workers") or ():
        how = f"process {row['pid']}" if row["pid"] else "is being started again"
        yield (
            f"  worker {row['number']}: {how}, {row['datagrams']} datagrams, {row['dropped']} lost at its socket, "
            f"{row['restarts']} restarts"
        )
    for row in process.snapshot.get("domains", ()):
        if row["lost"]:
            whose = f"{row['exporter']} {row['protocol']} domain {row['domain']}"
            order = f"{row['reordered']} messages out of order, {row['restarts']} restarts"
            yield f"  {whose}: {row['lost']} missing in {row['gaps']} gaps, {order}"
