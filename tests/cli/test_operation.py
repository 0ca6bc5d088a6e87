"""A collector in operation: metrics, live feed, signals, messages, doctor; processes and sockets throughout."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyflowx.metrics import COLLECTOR

TEMPLATE = struct.pack(">HHHHHHHH", 2, 16, 256, 2, 7, 2, 1, 4)  # source port, octets


def message(*octets: int, sequence: int = 0, template: bool = False) -> bytes:
    records = b"".join(struct.pack(">HI", 80, count) for count in octets)
    body = (TEMPLATE if template else b"") + (struct.pack(">HH", 256, 4 + len(records)) + records if octets else b"")
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, sequence, 42) + body


DISCARD = ("-f", "common", "-s", "discard")


# --- metrics ---------------------------------------------------------------------------------------------------


def test_metrics_say_what_was_sent(collect: Callable[..., Any]) -> None:
    run = collect(*DISCARD, "--metrics-host", "127.0.0.1", "--metrics-port", "0")
    sent = [message(1, 2, template=True), message(3, sequence=2), message(4, sequence=13), b"\0\x63"]
    for datagram in sent:
        run.socket.send(datagram)
    exporter = ("exporter", "127.0.0.1")
    ipfix = (exporter, ("protocol", "IPFIX"))
    received = ("pyflowx_received_packets_total", (exporter,))
    found = run.until(lambda: (now := run.metrics()).get(received) == len(sent) and now)
    assert found["pyflowx_received_octets_total", (exporter,)] == sum(map(len, sent))
    assert found["pyflowx_flows_total", ipfix] == 4
    assert found["pyflowx_messages_total", ipfix] == 3
    assert found["pyflowx_problems_total", (exporter, ("reason", "UNKNOWN_VERSION"))] == 1
    assert found["pyflowx_sequence_missing_total", (("domain", "42"), *ipfix)] == 10
    assert found["pyflowx_templates", ()] == 1
    assert found["pyflowx_rows_written_total", ()] == 4
    assert found["process_resident_memory_bytes", ()] > 1 << 20
    names = {name for name, _ in found}
    kinds = (("table",), ("worker",))  # of what this one has not: tables, workers, a gate
    gate = ("gate_", "af_xdp_")
    optional = {row.sample_name for row in COLLECTOR if row.labels in kinds or row.name.startswith(gate)}
    assert {row.sample_name for row in COLLECTOR} - optional <= names


def test_commands_that_fail_are_counted(collect: Callable[..., Any], tmp_path: Path) -> None:
    tree = ("-f", "common", "-o", str(tmp_path / "out"), "--interval", "1h", "--exec", "false %f", "--no-live")
    run = collect(*tree, "--metrics-host", "127.0.0.1", "--metrics-port", "0")
    failed = ("pyflowx_commands_failed_total", ())
    assert run.metrics()[failed] == 0
    run.socket.send(message(1, template=True))
    run.until(lambda: run.metrics()["pyflowx_rows_written_total", ()] == 1)
    run.process.send_signal(signal.SIGHUP)  # completes the file
    run.until(lambda: run.metrics()[failed] == 1)
    run.socket.send(message(2))
    assert run.end() == 0
    assert "2 times a program of --exec or --expire-exec failed" in run.said


def test_health_and_other_pages(collect: Callable[..., Any]) -> None:
    run = collect(*DISCARD, "--metrics-host", "::1", "--metrics-port", "0")
    assert run.url.startswith("http://[::1]:")
    assert run.get("/healthz") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        run.get("/")
    assert "# HELP pyflowx_flows_total" in run.get("/metrics?x=1")


def test_clients_that_say_nothing_keep_nobody_out_for_long(collect: Callable[..., Any]) -> None:
    run = collect(*DISCARD, "--metrics-host", "127.0.0.1", "--metrics-port", "0")
    port = int(run.url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)]
        assert silent[-1].recv(1) == b""  # turned away: the places are taken
    run.until(lambda: _answers(run))
    assert run.end() == 0
    assert "Traceback" not in run.said


def _answers(run: Any) -> bool:
    with contextlib.suppress(OSError):
        return run.get("/healthz") == "ok\n"
    return False


def test_a_metrics_port_that_is_taken(collect: Callable[..., Any], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "pyflowx", "collect", "-p", "0", "--no-live", "--metrics-host", "127.0.0.1"]
        done = subprocess.run([*command, "--metrics-port", port], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"port {port}: Address already in use" in done.stderr and "--no-metrics" in done.stderr


def test_the_default_metrics_port_is_no_must(collect: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "empty.toml"
    config.write_text("")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody has it already: as good
            stack.enter_context(socket.create_server(("0.0.0.0", 9090)))
        run = collect(*DISCARD, "--config", str(config))
        run.wait_for(r"warning: cannot serve metrics on 0\.0\.0\.0 port 9090: .*; going on without metrics")
        run.socket.send(message(1, template=True))
        assert run.end() == 0
    assert "1 flows" in run.said


# --- live feed -------------------------------------------------------------------------------------------------


def test_a_viewer_sees_what_is_written(collect: Callable[..., Any]) -> None:
    run = collect("-f", "common", stdout=subprocess.PIPE)
    with run.feed() as reader:
        assert reader.hello["role"] == "collect" and reader.hello["pid"] == run.process.pid
        snapshots = iter(reader)
        next(snapshots)
        run.socket.send(message(7, template=True))
        run.socket.send(message(9, sequence=4)[:-1])
        written = [json.loads(run.process.stdout.readline())]
        seen = next(snapshot for snapshot in snapshots if snapshot["flows"]["rows"])
    assert seen["flows"] == {"flows": 1, "octets": 7, "packets": 0, "rows": written}
    assert seen["counters"]["datagrams"] == 2
    assert seen["counters"]["problems"]["MESSAGE_PAST_DATAGRAM"] == 1
    assert seen["exporters"][0]["address"] == "127.0.0.1"
    assert seen["domains"][0] == {
        "exporter": "127.0.0.1", "protocol": "IPFIX", "domain": "42", "lost": 3, "missing": 3, "late": 0, "gaps": 1,
        "reordered": 0, "restarts": 0,
    }  # fmt: skip
    (template,) = seen["templates"]
    assert (template["id"], template["fields"]) == (
        256,
        [[0, 7, "sourceTransportPort", 2], [0, 1, "octetDeltaCount", 4]],
    )
    shown = {row["octets"]: row["problems"] for row in seen["datagrams"]}
    assert "MESSAGE_PAST_DATAGRAM" in {reason for _, reason in shown[message(9, sequence=4)[:-1].hex()]}
    stages = {stage["stage"]: stage for stage in seen["pipeline"]}
    assert list(stages) == ["network", "interface", "backlog", "socket", "decoder", "output"]
    assert stages["network"]["lost"] == 3 and stages["decoder"]["lost"] == 1
    assert any("listening" in line[3] for line in seen["log"])


def test_flows_of_raw_output_are_shown_too(collect: Callable[..., Any]) -> None:
    run = collect("-f", "raw", stdout=subprocess.DEVNULL)
    with run.feed() as reader:
        snapshots = iter(reader)
        next(snapshots)
        run.socket.send(message(7, template=True))
        seen = next(snapshot for snapshot in snapshots if snapshot["flows"]["rows"])
    assert (seen["flows"]["rows"][0]["bytes"], seen["flows"]["octets"]) == (7, 7)


def test_the_default_place_is_in_the_runtime_folder(collect: Callable[..., Any]) -> None:
    run = collect(*DISCARD)
    path = run.runtime / f"collect-{run.port}.sock"
    assert run.wait_for(r"live feed at (\S+)")[1] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run.end() == 0
    assert not path.exists()


def test_a_place_of_another_collector_is_an_error(collect: Callable[..., Any], tmp_path: Path) -> None:
    path = str(tmp_path / "feed.sock")
    run = collect(*DISCARD, "--live", path)
    run.wait_for("live feed at")
    command = [sys.executable, "-m", "pyflowx", "collect", "-p", "0", "--no-metrics", "--live", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"process {run.process.pid} has its live feed there" in done.stderr
    run.process.kill()  # its socket stays
    run.process.wait()
    after = collect(*DISCARD, "--live", path)
    with after.feed() as reader:
        assert reader.hello["pid"] == after.process.pid


def test_no_feed_on_request_and_none_for_captures(collect: Callable[..., Any], tmp_path: Path) -> None:
    run = collect(*DISCARD, "--no-live")
    assert run.end() == 0
    assert "live feed" not in run.said and not run.runtime.exists()
    capture = tmp_path / "empty.pcap"
    capture.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    command = [sys.executable, "-m", "pyflowx", "collect", "--pcap", str(capture)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "live feed" not in done.stderr and "metrics" not in done.stderr


# --- signals ---------------------------------------------------------------------------------------------------


def octets_in(path: Path) -> list[int]:
    return [json.loads(line)["bytes"] for line in path.read_text().splitlines()] if path.exists() else []


def test_sighup_goes_on_in_a_new_file_and_loads_tables_again(collect: Callable[..., Any], tmp_path: Path) -> None:
    path, moved, table = tmp_path / "flows.ndjson", tmp_path / "moved.ndjson", tmp_path / "names.csv"
    table.write_text("src_port,name\n80,before\n")
    enrich = f"type=exact,source={table},key=src_port,fields=name:service"
    run = collect("-f", "common", "-o", str(path), "--enrich", enrich)
    run.socket.send(message(1, template=True))
    run.until(lambda: octets_in(path) == [1])
    path.rename(moved)
    table.write_text("src_port,name\n80,after\n")
    run.process.send_signal(signal.SIGHUP)
    run.wait_for("SIGHUP")
    run.wait_for("loaded again, 1 rows")
    run.until(path.exists)
    run.socket.send(message(2))
    run.until(lambda: octets_in(path) == [2])
    assert octets_in(moved) == [1]
    assert json.loads(path.read_text())["service"] == "after"
    run.process.send_signal(signal.SIGHUP)  # nobody has moved it: the same file goes on
    run.until(lambda: run.said.count("SIGHUP") == 2)
    run.socket.send(message(3))
    assert run.end() == 0
    assert octets_in(path) == [2, 3]


def test_a_table_that_cannot_be_loaded_again_is_a_warning(collect: Callable[..., Any], tmp_path: Path) -> None:
    table = tmp_path / "names.csv"
    table.write_text("src_port,name\n80,before\n")
    enrich = f"type=exact,source={table},key=src_port,fields=name:service"
    run = collect("-f", "common", "--enrich", enrich, stdout=subprocess.PIPE)
    table.write_text("src_port,name\nhttp,after\n")
    run.process.send_signal(signal.SIGHUP)
    run.wait_for(f"warning: {table}:2: 'http' is no key; expected an integer.*; the table that was loaded before stays")
    run.socket.send(message(1, template=True))
    assert json.loads(run.process.stdout.readline())["service"] == "before"
    run.process.send_signal(signal.SIGHUP)
    run.until(lambda: run.said.count("is no key") == 2)
    run.end()
    assert f"{table}: 1 of 1 look-ups found, loaded again 0 times, failed 2 times" in run.said


ON_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def test_sighup_on_a_terminal_and_a_terminal_that_goes(tmp_path: Path) -> None:
    """A signal that somebody sends means the same everywhere; that of a terminal that was closed ends the collector."""
    path, moved = tmp_path / "flows.ndjson", tmp_path / "moved.ndjson"
    terminal, theirs = os.openpty()
    words = ["collect", "-H", "127.0.0.1", "-p", "0", "-f", "common", "--no-metrics", "--no-live", "-o", str(path)]
    process = subprocess.Popen([sys.executable, "-c", ON_TERMINAL, "-m", "pyflowx", *words], stderr=theirs)
    os.close(theirs)
    said = b""

    def until(text: bytes) -> None:
        nonlocal said
        while text not in said:
            said += os.read(terminal, 4096)

    try:
        until(b"UDP port ")
        until(b"\n")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", int(re.search(rb"port (\d+)", said)[1])))  # type: ignore[index]
            sender.send(message(1, template=True))
            while not path.exists() or not path.stat().st_size:
                time.sleep(0.01)
            path.rename(moved)
            process.send_signal(signal.SIGHUP)
            until(b"opening files anew")
            while not path.exists():
                time.sleep(0.01)
            sender.send(message(2))
            while octets_in(path) != [2]:
                time.sleep(0.01)
        os.close(terminal)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
    assert octets_in(moved) == [1] and octets_in(path) == [2]


def test_sighup_with_the_folder_gone_keeps_the_file(collect: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    run = collect("-f", "common", "-o", str(folder / "flows.ndjson"))
    folder.rename(tmp_path / "elsewhere")
    run.process.send_signal(signal.SIGHUP)
    run.wait_for("warning: -o/--output .*No such file or directory")
    run.socket.send(message(5, template=True))
    assert run.end() == 0
    assert octets_in(tmp_path / "elsewhere" / "flows.ndjson") == [5]


def test_a_second_signal_ends_it_at_once(collect: Callable[..., Any]) -> None:
    run = collect("-f", "common", stdout=subprocess.PIPE)
    run.socket.send(message(1, template=True))
    for _ in range(2000):  # more than a pipe takes: it waits for a reader that does not come
        run.socket.send(message(*range(100)))
    state = Path(f"/proc/{run.process.pid}/wchan")
    run.until(lambda: "pipe" in state.read_text())
    run.process.send_signal(signal.SIGTERM)
    status = Path(f"/proc/{run.process.pid}/status")
    run.until(lambda: re.search(r"SigCgt:\s*([0-9a-f]+)", status.read_text()) and not _catches(status, signal.SIGTERM))
    assert run.process.poll() is None
    assert run.end(signal.SIGTERM) == -signal.SIGTERM


def _catches(status: Path, number: signal.Signals) -> bool:
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status.read_text())
    assert caught
    return bool(int(caught[1], 16) >> (number - 1) & 1)


# --- messages --------------------------------------------------------------------------------------------------


def test_messages_as_json(collect: Callable[..., Any]) -> None:
    run = collect(*DISCARD, "--log-format", "json")
    run.socket.send(message(1, template=True))
    run.socket.send(message(1, sequence=6))
    run.wait_for("missing")
    assert run.end() == 0
    lines = [json.loads(line) for line in run.said.splitlines()]
    assert {line["level"] for line in lines} == {"info", "warning"}
    assert any(re.fullmatch(r"5 records or packets are missing by .*", line["message"]) for line in lines)


def test_a_level_leaves_the_rest_out(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyflowx", "collect", "--pcap", "/no/such", "--log-level", "error"]
    done = subprocess.run([*command, "--log-format", "json"], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "error" and "/no/such" in line["message"]


# --- configuration ---------------------------------------------------------------------------------------------


def test_a_configuration_file(collect: Callable[..., Any], tmp_path: Path) -> None:
    path, out = tmp_path / "pyflowx.toml", tmp_path / "flows.ndjson"
    path.write_text(f'[collect]\nformat = "common"\noutput = "{out}"\nno-metrics = true\nlive = "{tmp_path}/x.sock"\n')
    run = collect("--config", str(path))
    run.wait_for(f"live feed at {tmp_path}/x.sock")
    run.socket.send(message(4, template=True))
    assert run.end() == 0
    assert octets_in(out) == [4]
    assert "metrics" not in run.said


def test_a_key_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "pyflowx.toml"
    path.write_text("[collect]\nrecv-bufer = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "pyflowx", "collect", "--config", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"{path}: [collect] recv-bufer: no such option: did you mean recv-buffer?" in done.stderr


# --- doctor ----------------------------------------------------------------------------------------------------


def doctor(run: Any, *options: str) -> subprocess.CompletedProcess[str]:
    path = run.wait_for(r"live feed at (\S+)")[1]
    command = [sys.executable, "-m", "pyflowx", "doctor", "--connect", path, *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_doctor_says_where_a_running_collector_loses(collect: Callable[..., Any]) -> None:
    run = collect(*DISCARD)
    run.socket.send(message(1, template=True))
    run.socket.send(message(1, sequence=8))
    run.wait_for("missing")
    done = doctor(run)
    assert re.search(r"network +7 records lost\n +lost between exporter and host", done.stdout), done.stdout
    assert re.search(r"socket +2 datagrams +none lost", done.stdout)
    assert "127.0.0.1 IPFIX domain 42: 7 missing in 1 gaps" in done.stdout
    found = json.loads(doctor(run, "--json").stdout)
    (process,) = found["processes"]
    assert process["pid"] == run.process.pid
    assert process["pipeline"][0] == {"stage": "network", "unit": "records", "passed": None, "lost": 7}
    names = {(check["part"], check["name"]) for check in found["checks"]}
    assert {("host", "kernel"), ("host", "clock"), ("collect", "receive buffer"), ("export", "bcc")} <= names


def test_doctor_says_when_a_process_does_not_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyflowx", "doctor", "--connect", str(tmp_path / "none.sock")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "none.sock: No such file or directory; is a pyflowx running" in done.stdout
