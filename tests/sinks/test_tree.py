"""Files by time: names, windows, completeness, commands, expiry."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.decoded import Decoded
from pyflowx.errors import ConfigError, SinkError
from pyflowx.fill import FLOW_TYPES
from pyflowx.sinks import tree as tree_module
from pyflowx.sinks.layout import CommandLine, Layout
from pyflowx.sinks.ndjson import CommonNdjson
from pyflowx.sinks.parquet import CommonParquet
from pyflowx.sinks.raw import RawNdjson
from pyflowx.sinks.tree import Tree

START = 1_700_000_100  # a multiple of 300: 2023-11-14T22:15:00Z
NAME = "flows-20231114T221500Z"


def flows(*numbers: int, at: float = START) -> CommonBatch:
    n = len(numbers)
    columns = {
        "flow_type": CommonColumn("label", np.zeros(n, np.uint8), None, FLOW_TYPES),
        "time_received_ns": CommonColumn("time", np.full(n, int(at * 1e9), np.int64)),
        "sequence_num": CommonColumn("u32", np.zeros(n, np.uint32)),
        "bytes": CommonColumn("u64", np.array(numbers, np.uint64)),
        "packets": CommonColumn("u64", np.zeros(n, np.uint64)),
    }
    return CommonBatch(columns, n)


def files(root: Path) -> dict[str, list[int]]:
    """The values in the files that have their names."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            lines = path.read_text().splitlines()
            found[str(path.relative_to(root))] = [json.loads(line)["bytes"] for line in lines]
    return found


def hidden(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob(".*.part"))


class Made:
    """A tree of five-minute files and what it reported."""

    def __init__(self, root: Path, *, interval_s: int = 300, encoder: Any = None, **options: Any) -> None:
        self.reports: list[str] = []
        layout = Layout(interval_s, **{k: options.pop(k) for k in ("level", "prefix", "hive") if k in options})
        self.root = root
        self.sink: Tree[Any] = Tree(encoder or CommonNdjson(), str(root), layout, self.reports.append, **options)

    def __enter__(self) -> Tree[Any]:
        return self.sink

    def __exit__(self, *_: object) -> None:
        self.sink.close()


@pytest.mark.parametrize(
    ("level", "hive", "path"),
    [
        (0, False, f"{NAME}.ndjson"),
        (1, False, f"2023-11-14/{NAME}.ndjson"),
        (2, False, f"2023-11-14/22/{NAME}.ndjson"),
        (3, False, f"2023-11-14/22/15/{NAME}.ndjson"),
        (3, True, f"date=2023-11-14/hour=22/minute=15/{NAME}.ndjson"),
    ],
)
def test_names_say_when_the_window_begins(tmp_path: Path, level: int, hive: bool, path: str) -> None:
    with Made(tmp_path, level=level, hive=hive) as sink:
        sink.write(flows(1, at=START + 299.999))
    assert files(tmp_path) == {path: [1]}


def test_short_windows_share_the_folder_of_their_five_minutes(tmp_path: Path) -> None:
    with Made(tmp_path, interval_s=60, level=3, prefix="x") as sink:
        sink.write(flows(1, at=START + 61))
    assert files(tmp_path) == {"2023-11-14/22/15/x20231114T221600Z.ndjson": [1]}


def test_a_file_has_no_name_before_it_is_complete(tmp_path: Path) -> None:
    with Made(tmp_path) as sink:
        sink.write(flows(1, 2))
        sink.flush()
        assert (files(tmp_path), hidden(tmp_path)) == ({}, [f".{NAME}.ndjson.{os.getpid()}.part"])
        sink.write(flows(3, at=START + 300))
        assert len(hidden(tmp_path)) >= 1
    assert files(tmp_path) == {f"{NAME}.ndjson": [1, 2], "flows-20231114T222000Z.ndjson": [3]}
    assert hidden(tmp_path) == []
    assert (sink.rows, sink.lost, sink.files) == (3, 0, 2)
    assert sink.octets == sum(path.stat().st_size for path in tmp_path.glob("*.ndjson"))


def test_windows_without_flows_leave_no_file(tmp_path: Path) -> None:
    with Made(tmp_path) as sink:
        sink.write(flows(1))
        sink.write(flows(at=START + 300))
        sink.write(flows(2, at=START + 3000))
    assert len(files(tmp_path)) == 2
    with Made(tmp_path / "empty"):
        pass
    assert list((tmp_path / "empty").iterdir()) == []


def test_what_is_late_goes_into_the_open_file(tmp_path: Path) -> None:
    with Made(tmp_path) as sink:
        sink.write(flows(1, at=START + 300))
        sink.write(flows(2, at=START + 299))
        sink.write(flows(3, at=START + 301))
    assert files(tmp_path) == {"flows-20231114T222000Z.ndjson": [1, 2, 3]}


def test_another_capture_file_may_be_of_an_earlier_time(tmp_path: Path) -> None:
    with Made(tmp_path) as sink:
        sink.write(flows(1, at=START + 86_400))
        sink.write(flows(2))
    assert list(files(tmp_path).values()) == [[2], [1]]


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.ndjson").write_text('{"bytes":0}\n')
    for number in (1, 2):
        with Made(tmp_path) as sink:
            sink.write(flows(number))
    with Made(tmp_path) as sink:
        sink.write(flows(3))
        sink.reopen()
        sink.write(flows(4))
    found = files(tmp_path)
    assert found == {f"{NAME}{suffix}.ndjson": [i] for i, suffix in enumerate(("", "-1", "-2", "-3", "-4"))}


def test_a_window_that_is_over_by_the_clock_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [START + 10.0]
    monkeypatch.setattr(tree_module.time, "time", lambda: now[0])
    made = Made(tmp_path)
    made.sink.write(flows(1, at=START + 9))
    now[0] = START + 300.5
    made.sink.flush()
    assert len(hidden(tmp_path)) == 1
    now[0] = START + 301.5
    made.sink.flush()
    made.sink.close()
    assert files(tmp_path) == {f"{NAME}.ndjson": [1]}


def test_windows_of_a_capture_file_do_not_end_by_the_clock(tmp_path: Path) -> None:
    with Made(tmp_path) as sink:
        sink.write(flows(1))
        sink.flush()
        sink.write(flows(2))
    assert files(tmp_path) == {f"{NAME}.ndjson": [1, 2]}


def test_parquet_files_are_whole(tmp_path: Path) -> None:
    with Made(tmp_path, encoder=CommonParquet()) as sink:
        for i in range(100):
            sink.write(flows(*range(i * 10, i * 10 + 10), at=START + 6 * i))
    first, second = (pq.read_table(path)["bytes"].to_pylist() for path in sorted(tmp_path.glob("*.parquet")))
    assert len(first) == len(second) == 500
    assert first + second == list(range(1000))
    assert sink.rows == 1000


def test_raw_messages_too(tmp_path: Path, make_decoded: Callable[..., Decoded]) -> None:
    with Made(tmp_path, encoder=RawNdjson()) as sink:
        sink.write(make_decoded({"octetDeltaCount": [1, 2, 3]}, message=[0, 0, 1]))
    (path,) = tmp_path.glob("*.ndjson")
    assert path.name == "flows-20231114T221000Z.ndjson"
    assert len(path.read_text().splitlines()) == sink.rows == 2


# --- commands -------------------------------------------------------------------------------------------------

PYTHON = sys.executable


def test_a_command_is_told_of_each_file(tmp_path: Path) -> None:
    root, told = tmp_path / "a b", tmp_path / "told"
    code = "import sys; open(sys.argv[1], 'a').write(repr(sys.argv[2:]) + '\\n')"
    command = CommandLine("--exec", f"{PYTHON} -c \"{code}\" {told} %f %p x%tx %u '%% ; $HOME'")
    with Made(root, level=1, command=command) as sink:
        sink.write(flows(1))
        sink.write(flows(2, at=START + 300))
    path = f"2023-11-14/{NAME}.ndjson"
    lines = told.read_text().splitlines()
    assert len(lines) == 2
    assert repr([f"{root}/{path}", path, "x2023-11-14T22:15:00Zx", str(START), "% ; $HOME"]) in lines


def test_eight_commands_at_a_time_and_all_are_waited_for(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, sys, time
here = pathlib.Path({str(tmp_path / "running")!r}, str(os.getpid()))
here.touch()
time.sleep(0.3)
with open({str(tmp_path / "most")!r}, "a") as file:
    print(len(list(here.parent.iterdir())), file=file)
here.unlink()
"""
    (tmp_path / "running").mkdir()
    script = tmp_path / "script.py"
    script.write_text(code)
    with Made(tmp_path / "root", interval_s=1, command=CommandLine("--exec", f"{PYTHON} {script} %f")) as sink:
        for i in range(20):
            sink.write(flows(i, at=START + i))
    counts = [int(line) for line in (tmp_path / "most").read_text().splitlines()]
    assert len(counts) == 20
    assert 1 < max(counts) <= 8


@pytest.mark.parametrize(
    ("text", "says"),
    [("/no/such/program %f", "No such file"), (f"{PYTHON} -c 'import sys; sys.exit(3)'", "ended with status 3")],
)
def test_a_command_that_fails_is_reported(tmp_path: Path, text: str, says: str) -> None:
    made = Made(tmp_path, command=CommandLine("--exec", text))
    with made as sink:
        sink.write(flows(1))
    assert len(made.reports) == 1 and says in made.reports[0] and sink.commands_failed == 1
    assert files(tmp_path) == {f"{NAME}.ndjson": [1]}


@pytest.mark.parametrize("text", ["", "gzip '%f", "gzip %x", "gzip %"])
def test_a_command_without_a_meaning_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--exec.*expected"):
        CommandLine("--exec", text)


# --- expiry ---------------------------------------------------------------------------------------------------

DAY = 86_400
REAL_TIME = time.time


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = REAL_TIME() + seconds
    monkeypatch.setattr(tree_module.time, "time", lambda: now)


def test_only_our_own_old_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Made(tmp_path, level=3) as sink:
        sink.write(flows(1))
        sink.write(flows(2, at=START + 7200))
    theirs = tmp_path / "2023-11-14/22/15/flows-20231114T221501Z.ndjson"
    theirs.write_text("not ours")
    left = tmp_path / "2023-11-15/00/15/.flows-20231115T001500Z.ndjson.99.part"
    left.write_text("of a killed process")
    later(monkeypatch, 29 * DAY)
    with Made(tmp_path, level=3, expire_s=30 * DAY) as sink:
        sink.write(flows(3, at=START + 14_400))
    assert len(list(tmp_path.rglob("*.ndjson"))) == 4
    later(monkeypatch, 31 * DAY)
    with Made(tmp_path, level=3, expire_s=30 * DAY):
        pass
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.ndjson*"))
    assert found == [str(theirs.relative_to(tmp_path)), "2023-11-15/02/15/flows-20231115T021500Z.ndjson"]
    assert not (tmp_path / "2023-11-15/00").exists()


@pytest.mark.parametrize(("status", "kept"), [(0, False), (1, True)])
def test_a_command_runs_before_a_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, kept: bool
) -> None:
    root, told = tmp_path / "root", tmp_path / "told"
    with Made(root) as sink:
        sink.write(flows(1))
    code = f"import sys; open({str(told)!r}, 'a').write(open(sys.argv[1]).read() + sys.argv[2]); sys.exit({status})"
    script = tmp_path / "script.py"
    script.write_text(code)
    command = CommandLine("--expire-exec", f"{PYTHON} {script} %f %u")
    later(monkeypatch, 2 * DAY)
    with Made(root, expire_s=DAY, expire_command=command):
        pass
    line, start = told.read_text().splitlines()
    assert (json.loads(line)["bytes"], start) == (1, str(START))
    assert bool(files(root)) == kept
    if kept:  # it is tried again
        with Made(root, expire_s=DAY):
            pass
        assert files(root) == {}


@pytest.mark.parametrize(
    "line", ["1 1 ../outside", "1 1 /etc/hostname", "1 1 a/../../outside", "nonsense", "1 outside", "\xff\x00"]
)
def test_a_list_that_is_not_ours_removes_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / "outside").write_text("x")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / ".pyflowx-files").write_bytes(line.encode("latin-1") + b"\n1 1 ")
    with Made(root, expire_s=0) as sink:
        sink.write(flows(1))
    assert (tmp_path / "outside").exists()
    assert files(root) == {f"{NAME}.ndjson": [1]}


# --- errors ---------------------------------------------------------------------------------------------------


def test_a_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="give a folder") as caught:
        Made(tmp_path / "file" / "below")
    assert caught.value.exit_code == 4


def test_a_file_that_is_removed_is_counted_and_another_is_begun(tmp_path: Path) -> None:
    made = Made(tmp_path, level=1)
    with made as sink:
        sink.write(flows(1, 2))
        for path in tmp_path.rglob("*.part"):
            path.unlink()
        (tmp_path / "2023-11-14").rmdir()
        sink.flush()
        assert (sink.rows, sink.lost) == (0, 2)
        sink.write(flows(3))
        assert (sink.rows, sink.lost) == (0, 3)  # it is tried again each second only
        sink._retry_at = 0.0
        sink.write(flows(4))
    assert files(tmp_path) == {f"2023-11-14/{NAME}.ndjson": [4]}
    assert (sink.rows, sink.lost) == (1, 3)
    assert "removed" in made.reports[0]
    assert made.reports[1].endswith("writing again; 3 rows were lost meanwhile")


def test_a_name_that_somebody_takes_meanwhile_stays_theirs(tmp_path: Path) -> None:
    with Made(tmp_path) as sink:
        sink.write(flows(1))
        (tmp_path / f"{NAME}.ndjson").write_text('{"bytes":99}\n')
    assert files(tmp_path) == {f"{NAME}.ndjson": [99], f"{NAME}-1.ndjson": [1]}
    listed = (tmp_path / ".pyflowx-files").read_text()
    assert f" {NAME}-1.ndjson\n" in listed


def test_a_file_that_cannot_be_completed_is_lost_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path)
    with made as sink:
        sink.write(flows(1, 2))

        def broken(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", broken)
        sink.reopen()
    assert files(tmp_path) == {}
    assert (sink.rows, sink.lost, sink.files) == (0, 2, 0)
    assert "Input/output error" in made.reports[0] and str(tmp_path) in made.reports[0]


def _failing_writes(monkeypatch: pytest.MonkeyPatch, calls: Sequence[int]) -> None:
    """The writes with these numbers find the disk full."""
    real, count = os.write, [0]

    def write(fd: int, data: Any) -> int:
        count[0] += 1
        if count[0] in calls:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)


def test_what_was_written_before_an_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path)
    with made as sink:
        sink.write(flows(1))
        _failing_writes(monkeypatch, [1])
        sink.write(flows(2))
        monkeypatch.undo()
        sink._retry_at = 0.0
        sink.write(flows(3))
    assert files(tmp_path) == {f"{NAME}.ndjson": [1], f"{NAME}-1.ndjson": [3]}
    assert (sink.rows, sink.lost) == (2, 1)
    assert "No space left on device" in made.reports[0]
