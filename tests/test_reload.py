"""Tables from files and programs, and their life while flows pass."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pyflowx import reload
from pyflowx.errors import ConfigError
from pyflowx.fill import CommonColumn
from pyflowx.reload import FLOW_COLUMNS, Reloader, open_tables

WAIT_S = 30.0  # how long a test waits for what has to come; no test takes so long


ASKED = {"dst_addr": CommonColumn("address", np.array([10 << 24, 11 << 24], np.uint32))}


def ids(table: Reloader) -> list[object]:
    found = table.enrichment.apply(ASKED)["id"]
    return [None if code < 0 else found.labels[code] for code in found.values.tolist()]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def put(path: Path, text: str) -> None:
    """At once: nobody sees half of it."""
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("prefix,id\n10.0.0.0/8,1\n")
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], tuple[Reloader, list[str]]]]:
    """Opens and starts a table; stops it at the end."""
    monkeypatch.setattr(reload, "WATCH_S", 0.02)
    tables: list[Reloader] = []

    def start(option: str) -> tuple[Reloader, list[str]]:
        lines: list[str] = []
        tables.extend(open_tables([option], lines.append))
        tables[-1].start()
        return tables[-1], lines

    yield start
    for table in tables:
        table.stop()


def test_the_columns_of_flows_as_keys() -> None:
    assert FLOW_COLUMNS["src_addr"] == "address" and FLOW_COLUMNS["in_if"] == "integer"
    assert FLOW_COLUMNS["flow_type"] not in ("address", "integer") and len(FLOW_COLUMNS) == 37


@pytest.mark.parametrize("how", ["watch", "0.05s"])
def test_a_file_that_is_replaced_or_rewritten_is_loaded_again(
    file: Path, opened: Callable[[str], tuple[Reloader, list[str]]], how: str
) -> None:
    table, lines = opened(f"source={file},key=dst_addr,fields=id,reload={how}")
    assert ids(table) == [1, None]
    put(file, "prefix,id\n10.0.0.0/8,2\n11.0.0.0/8,3\n")
    until(lambda: ids(table) == [2, 3])
    file.write_text("prefix,id\n11.0.0.0/8,4\n")
    until(lambda: ids(table) == [None, 4])
    until(lambda: len(lines) >= 2)
    assert lines[0] == f"{file}: loaded again, 2 rows" and table.counts.reloads >= 2


def test_a_bad_file_leaves_the_old_table_and_is_told_once(
    file: Path, opened: Callable[[str], tuple[Reloader, list[str]]]
) -> None:
    table, lines = opened(f"source={file},key=dst_addr,fields=id,reload=watch")
    before = table.enrichment.table
    put(file, "prefix,id\n10.0.0.0/8,5\nnonsense,6\n")
    until(lambda: table.counts.failures == 1)
    assert table.enrichment.table is before and ids(table) == [1, None]
    until(lambda: bool(lines))
    assert lines[0].startswith(f"{file}:3: 'nonsense' is no prefix") and lines[0].endswith("before stays in use")
    file.unlink()
    until(lambda: table.counts.failures == 2)
    assert "No such file" in lines[1] and ids(table) == [1, None]
    put(file, "prefix,id\n10.0.0.0/8,x\n")  # of another kind: what came out before were integers
    until(lambda: table.counts.failures == 3)
    assert "expected integer as in the table before" in lines[2]
    put(file, "prefix,id\n10.0.0.0/8,7\n")
    until(lambda: ids(table) == [7, None])
    assert table.counts.failures == len(lines) - table.counts.reloads == 3


def test_an_error_of_another_kind_does_not_end_the_thread(
    file: Path, opened: Callable[[str], tuple[Reloader, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, lines = opened(f"source={file},key=dst_addr,fields=id")
    with monkeypatch.context() as patch:
        patch.setattr(reload, "load_table", lambda *_: 1 // 0)
        table.reload()
        until(lambda: table.counts.failures == 1)
    table.reload()
    until(lambda: table.counts.reloads == 1)
    assert "ZeroDivisionError" in lines[0] and ids(table) == [1, None]


def test_never_means_never_until_it_is_asked_for(
    file: Path, opened: Callable[[str], tuple[Reloader, list[str]]]
) -> None:
    table, _ = opened(f"source={file},key=dst_addr,fields=id,reload=never")
    file.write_text("prefix,id\n10.0.0.0/8,9\n")
    time.sleep(0.2)
    assert ids(table) == [1, None]
    table.reload()
    until(lambda: ids(table) == [9, None])


def test_no_batch_sees_half_of_a_table(file: Path, opened: Callable[[str], tuple[Reloader, list[str]]]) -> None:
    def write(number: int) -> None:
        rows = "".join(f"{10 + i // 256}.{i % 256}.0.0/16,{number}\n" for i in range(512))
        put(file, f"prefix,id\n{rows}")

    write(0)
    table, _ = opened(f"source={file},key=dst_addr,fields=id,reload=watch")
    asked = {"dst_addr": CommonColumn("address", (10 << 24) + (np.arange(512, dtype=np.uint32) << 16))}
    seen = set()
    for number in range(1, 6):
        write(number)
        end = time.monotonic() + WAIT_S
        while number not in seen:
            found = table.enrichment.apply(asked)["id"]
            values = {found.labels[code] for code in found.values.tolist()}
            assert len(values) == 1 and time.monotonic() < end
            seen |= values
    assert seen == set(range(6))


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def test_a_program_prints_the_table(tmp_path: Path, opened: Callable[[str], tuple[Reloader, list[str]]]) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    run = script(
        tmp_path / "list",
        "import sys; p = sys.argv[1]; n = int(open(p).read()) + 1; open(p, 'w').write(str(n))\n"
        "print('prefix,id'); print(f'10.0.0.0/8,{n}')",
    )
    table, _ = opened(f"command={run} {count} timeout=20s,key=dst_addr,fields=id,reload=0.05s")
    until(lambda: (ids(table)[0] or 0) >= 3)  # type: ignore[operator]


def test_a_program_that_says_the_same_again_changes_nothing(
    tmp_path: Path, opened: Callable[[str], tuple[Reloader, list[str]]]
) -> None:
    runs = tmp_path / "runs"
    run = script(tmp_path / "list", "import sys; open(sys.argv[1], 'a').write('x'); print('prefix,id')")
    table, lines = opened(f"command={run} {runs},key=dst_addr,fields=id,reload=0.05s")
    first = table.enrichment.table
    until(lambda: len(runs.read_text()) > 3)
    assert table.enrichment.table is first and not lines and table.counts.reloads == 0
    table.reload()  # asked for, it is loaded whatever it says
    until(lambda: table.counts.reloads == 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit('no database')", "failed with exit status 1: no database; expected 0 and CSV"),
        ("import os; os.kill(os.getpid(), 9)", "failed with signal 9"),
        ("print('x,y')", ":1: no column 'prefix'"),
        ("import time; time.sleep(60)", "took longer than 0.3 s; timeout= gives it more"),
    ],
)
def test_a_program_that_fails_at_start(tmp_path: Path, text: str, message: str) -> None:
    timeout = "0.3s" if "sleep" in text else "30s"
    with pytest.raises(ConfigError) as caught:
        open_tables([f"command={script(tmp_path / 'list', text)} timeout={timeout},key=dst_addr,fields=id"], print)
    assert message in str(caught.value)


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    run = script(
        tmp_path / "list",
        f"import subprocess, time; p = subprocess.Popen(['sleep', '60']); open({str(pid)!r}, 'w').write(str(p.pid))\n"
        "time.sleep(60)",
    )
    with pytest.raises(ConfigError, match="took longer"):
        open_tables([f"command={run} timeout=3s,key=dst_addr,fields=id"], print)
    child = Path(f"/proc/{pid.read_text()}/stat")
    until(lambda: not child.exists() or child.read_text().split()[2] == "Z")


def test_stop_ends_a_program_that_runs(tmp_path: Path, opened: Callable[[str], tuple[Reloader, list[str]]]) -> None:
    flag = tmp_path / "flag"
    text = (
        f"import os, time; flag = {str(flag)!r}; print('prefix,id')\n"
        "if os.path.exists(flag): os.rename(flag, flag + '2'); time.sleep(600)"
    )
    table, lines = opened(f"command={script(tmp_path / 'list', text)} timeout=1h,key=dst_addr,fields=id")
    flag.touch()
    table.reload()
    until(lambda: Path(f"{flag}2").exists())
    table.stop()
    assert not lines and table.counts.failures == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reload ")]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("source=/no/such.csv", "cannot read /no/such.csv: No such file or directory; source= expects a readable file"),
        ("command=/no/such", "cannot run /no/such: No such file or directory; command= expects a program"),
        (f"source={os.sep}", "cannot read /: Is a directory"),
    ],
)
def test_what_is_not_there(option: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_tables([f"{option},key=dst_addr,fields=id"], print)
    assert str(caught.value).startswith(message)


def test_a_file_that_never_rests(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))
    monkeypatch.setattr(reload, "_signature", lambda path: (next(times), 0, 0, 0))
    with pytest.raises(ConfigError, match="changes while it is read; write it elsewhere and rename it"):
        open_tables([f"source={file},key=dst_addr,fields=id"], print)


def test_two_results_with_one_name(file: Path) -> None:
    option = f"source={file},key=dst_addr,fields=id"
    with pytest.raises(ConfigError, match="expected a name that is not taken yet"):
        open_tables([option, option], print)
