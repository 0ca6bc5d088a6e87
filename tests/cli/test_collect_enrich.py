"""``pyflowx collect --enrich``, as a user calls it."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = struct.pack(">HHHHHHHHHH", 2, 20, 256, 3, 8, 4, 12, 4, 10, 4)
COLLECT = [sys.executable, "-m", "pyflowx", "collect", "-H", "127.0.0.1", "-p", "0"]


def ipfix(sets: bytes) -> bytes:
    return struct.pack(">HHIII", 10, 16 + len(sets), 1_700_000_000, 0, 1) + sets


def flow(last: int) -> bytes:
    """From 192.0.2.1 to 10.0.0.``last``, in at interface ``last``."""
    return ipfix(struct.pack(">HHIII", 256, 16, 0xC0000201, 0x0A000000 + last, last))


class Collector:
    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*COLLECT, "-f", "common", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        port = re.search(r"port (\d+)", self.said("listening on"))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", int(port[1])))
        self.socket.send(ipfix(TEMPLATE))

    def said(self, text: str) -> str:
        """The next line on stderr with a text in it."""
        return next(line for line in self.process.stderr if text in line)

    def ask(self, last: int) -> dict[str, Any]:
        self.socket.send(flow(last))
        return json.loads(self.process.stdout.readline())

    def end(self) -> str:
        self.socket.close()
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate()
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def start() -> Iterator[Callable[..., Collector]]:
    """Starts collectors; ends those that a failed test leaves."""
    started: list[Collector] = []

    def one(*options: str) -> Collector:
        started.append(Collector(*options))
        return started[-1]

    yield one
    for collector in started:
        collector.process.kill()
        collector.process.communicate()
        collector.socket.close()


def test_flows_get_the_columns_of_tables(tmp_path: Path, start: Callable[..., Collector]) -> None:
    (tmp_path / "asn.csv").write_text(
        'prefix,asn,org,share\n10.0.0.0/31,64500,"A ""B""\té",0.25\n192.0.2.0/24,1,Src,2\n'
    )
    (tmp_path / "if.csv").write_text("exporter,ifindex,name\n127.0.0.1,1,eth1\n")
    collector = start(
        "--enrich",
        f"source={tmp_path}/asn.csv,fields=dst_addr@asn:dst_asn|org:dst_org|share:share;src_addr@org:src_org",
        "--enrich",
        f"type=exact,source={tmp_path}/if.csv,key=sampler_address;in_if,fields=name:in_name",
    )
    rows = [collector.ask(last) for last in (1, 2)]
    said = collector.end()
    assert {name: rows[0][name] for name in ("dst_asn", "dst_org", "share", "src_org", "in_name")} == {
        "dst_asn": 64500,
        "dst_org": 'A "B"\té',
        "share": 0.25,
        "src_org": "Src",
        "in_name": "eth1",
    }
    assert rows[1]["src_org"] == "Src" and not rows[1].keys() & {"dst_asn", "dst_org", "share", "in_name"}
    assert list(rows[0])[-5:] == ["dst_asn", "dst_org", "share", "src_org", "in_name"]
    assert "asn.csv: 3 of 4 look-ups found" in said and "if.csv: 1 of 2 look-ups found" in said


def test_a_table_changes_while_flows_pass(tmp_path: Path, start: Callable[..., Collector]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prefix,id\n10.0.0.0/8,old\n")
    collector = start("--enrich", f"source={path},key=dst_addr,fields=id,reload=watch")
    assert collector.ask(1)["id"] == "old"
    path.write_text("prefix,id\n10.0.0.0/8\n")
    collector.said("t.csv:2: 1 columns; expected 2")
    assert collector.ask(2)["id"] == "old"
    path.write_text("prefix,id\n10.0.0.0/8,new\n")
    collector.said("t.csv: loaded again, 1 rows")
    assert collector.ask(3)["id"] == "new"
    assert "loaded again 1 times, failed 1 times" in collector.end()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["-f", "common", "--enrich", "source=t.csv,key=dst_addr,fields=id"],
            "t.csv:3: 'x' is no prefix; expected one",
        ),
        (["-f", "common", "--enrich", "source=no.csv,key=dst_addr,fields=id"], "cannot read no.csv: No such file"),
        (["-f", "common", "--enrich", "sauce=t.csv"], "unknown option 'sauce': did you mean source?"),
        (
            ["-f", "common", "--enrich", "source=t.csv,key=dst_addr,fields=id:bytes"],
            "expected a name that is not taken",
        ),
        (["-f", "raw", "--enrich", "source=t.csv,key=dst_addr,fields=id"], "-f raw writes none: give -f common"),
    ],
)
def test_what_cannot_work_ends_at_start(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "t.csv").write_text("prefix,id\n10.0.0.0/8,1\nx,2\n")
    ended = subprocess.run([*COLLECT, *options, "-o", "out"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and message in ended.stderr
    assert not (tmp_path / "out").exists()
