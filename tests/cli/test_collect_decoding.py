"""The options of ``pyflowx collect`` about decoding, as a user gives them."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw
from scapy.utils import PcapWriter

from pyflowx.batch import FlowBatch, Octets
from pyflowx.elements import default_registry
from pyflowx.wire import sflow

SECOND = 1_700_000_000
HEAD = "id,enterprise_number,name,data_type\n"


def set_of(id: int, content: bytes) -> bytes:
    return struct.pack(">HH", id, 4 + len(content)) + content


def ipfix(*sets: bytes, domain: int = 1) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), SECOND, 0, domain) + body


# source and destination, octets, packets, their reverse, application name, vendor's element
TEMPLATE = set_of(
    2,
    struct.pack(">HH", 256, 8)
    + struct.pack(">HHHHHHHH", 8, 4, 12, 4, 1, 4, 2, 4)
    + struct.pack(">HHIHHI", 0x8001, 4, 29305, 0x8002, 4, 29305)
    + struct.pack(">HHHHI", 96, 65535, 0x8000 | 17, 2, 55555),
)
FLOW = set_of(256, struct.pack(">IIIIIIB", 0x0A000001, 0x0A000002, 1000, 10, 4000, 20, 3) + b"web" + b"\1\2")
OPTIONS = set_of(3, struct.pack(">HHHHHHH", 257, 2, 1, 144, 4, 34, 4)) + set_of(257, struct.pack(">II", 1, 100))


def capture(path: Path, *messages: bytes, later: int = 1) -> Path:
    with PcapWriter(str(path), linktype=101, sync=True) as writer:
        for message in messages:
            packet = IP(src="192.0.2.7", dst="192.0.2.8") / UDP(sport=4000, dport=9995) / Raw(message)
            packet.time = SECOND + later
            writer.write(packet)
    return path


def run(*arguments: str | Path, status: int = 0) -> tuple[list[dict[str, Any]], str]:
    command = [sys.executable, "-m", "pyflowx", "collect", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, check=False)
    errors = ended.stderr.decode()
    assert ended.returncode == status, errors
    return [json.loads(line) for line in ended.stdout.splitlines()], errors


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    return capture(tmp_path / "a.pcap", ipfix(TEMPLATE, FLOW, OPTIONS), ipfix(FLOW))


def common(*arguments: str | Path) -> list[dict[str, Any]]:
    return run("-f", "common", *arguments)[0]


def test_rates_of_options_data_and_scale(flows: Path) -> None:
    found = common("--pcap", flows)
    assert [(flow.get("sampling_rate"), flow["bytes"], flow["packets"]) for flow in found] == [
        (None, 1000, 10),
        (100, 1000, 10),
    ]
    scaled = common("--pcap", flows, "--scale", "--sampling-rate", "7")
    assert [(flow["sampling_rate"], flow["bytes"], flow["packets"]) for flow in scaled] == [
        (7, 7000, 70),
        (100, 100_000, 1000),
    ]
    options = ("--sampling-rate", "192.0.2.0/24=3", "--sampling-rate", "198.51.100.0/24=4", "--sampling-rate", "9")
    assert {flow["sampling_rate"] for flow in common("--pcap", flows, *options)} == {3}


def test_more_samplers_than_are_kept(tmp_path: Path) -> None:
    template = set_of(3, struct.pack(">HHHHHHH", 257, 2, 1, 302, 4, 34, 4))
    samplers = set_of(257, b"".join(struct.pack(">II", id, 100) for id in range(5000)))
    _, errors = run("-f", "common", "--pcap", capture(tmp_path / "a.pcap", ipfix(template, samplers)))
    assert "904 options records told rates of more samplers or interfaces than are kept" in errors


def test_further_columns(flows: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "ours.csv"
    mapping.write_text("\ufeff" + HEAD + "17,55555,vendorScore,Unsigned16\n", "utf-8")
    options = ("--column", "app=applicationName", "--column", "raw=55555/17", "--column", "back=reverseOctetDeltaCount")
    (flow, _) = common("--pcap", flows, *options)
    assert (flow["app"], flow["raw"], flow["back"]) == ("web", "0102", 4000)
    assert list(flow)[-3:] == ["app", "raw", "back"]
    (flow, _) = common("--pcap", flows, "--ie-mapping", mapping, "--column", "score=vendorScore")
    assert flow["score"] == 258
    (message, *_) = run("--pcap", flows, "--ie-mapping", mapping)[0]
    assert message["sets"][1]["records"][0]["vendorScore"] == 258


def test_a_further_column_and_a_tables_result_cannot_have_one_name(flows: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("prefix,org\n10.0.0.0/8,ours\n")
    enrich = f"source={table},key=src_addr,fields=org:app"
    options = ("-f", "common", "--enrich", enrich, "--column")
    (flow, _) = run(*options, "id=flowId", "--pcap", flows)[0]
    assert flow["app"] == "ours"
    _, errors = run(*options, "app=applicationName", "--pcap", flows, status=2)
    assert "there is a column app already" in errors


def test_biflows_as_two_flows(flows: Path) -> None:
    one = common("--pcap", flows)
    assert [(flow["src_addr"], flow["dst_addr"], flow["bytes"], flow["packets"]) for flow in one] == [
        ("10.0.0.1", "10.0.0.2", 1000, 10)
    ] * 2
    two = common("--pcap", flows, "--split-biflow")
    assert sorted((flow["src_addr"], flow["dst_addr"], flow["bytes"], flow["packets"]) for flow in two) == [
        *[("10.0.0.1", "10.0.0.2", 1000, 10)] * 2,
        *[("10.0.0.2", "10.0.0.1", 4000, 20)] * 2,
    ]


INNER = Ether(dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2") / TCP()
TUNNEL = (
    Ether(dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=4789) / VXLAN(flags=8) / INNER
)


def test_outer_addresses_of_tunnels(tmp_path: Path) -> None:
    field = default_registry().field
    fields = (field("samplingInterval"), field("dataLinkFrameSize", 4), field("dataLinkFrameSection"))
    columns: list[Any] = [np.ones(1, np.uint32), np.full(1, 128, np.uint32), Octets.of([bytes(TUNNEL)])]
    flow = FlowBatch(fields, columns)
    section = bytes(TUNNEL)
    psamp = set_of(2, struct.pack(">HHHH", 256, 1, 315, len(section))) + set_of(256, section)
    path = capture(tmp_path / "a.pcap", *sflow.Encoder().encode(flow, 10**18).tolist(), ipfix(psamp))
    assert [flow["src_addr"] for flow in common("--pcap", path)] == ["10.0.0.1"] * 2
    assert [flow["src_addr"] for flow in common("--pcap", path, "--no-tunnels")] == ["192.0.2.1"] * 2


class Running:
    """``pyflowx collect`` on a port that the kernel chose."""

    def __init__(self, *options: str) -> None:
        command = [
            sys.executable,
            "-m",
            "pyflowx",
            "collect",
            "-H",
            "127.0.0.1",
            "-p",
            "0",
            "--no-metrics",
            "--no-live",
        ]
        self.process = subprocess.Popen(
            [*command, "-f", "common", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.said: list[str] = []
        while "listening on" not in (line := self.process.stderr.readline()):
            assert line, self.said
            self.said.append(line)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", int(line.rpartition(" ")[2])))

    def ended(self, number: int = signal.SIGTERM) -> list[dict[str, Any]]:
        self.process.send_signal(number)
        out, _ = self.process.communicate()
        self.socket.close()
        return [json.loads(line) for line in out.splitlines()]


def test_templates_outlive_the_collector(tmp_path: Path) -> None:
    """Killed without a chance to write: what was written while it ran is there."""
    path = tmp_path / "templates.json"
    first = Running("--template-file", str(path))
    first.socket.send(ipfix(TEMPLATE, FLOW))
    assert first.process.stdout is not None and first.process.stdout.readline()
    while not json.loads(path.read_bytes())["templates"]:
        first.socket.send(ipfix(FLOW))
        first.process.stdout.readline()
    first.ended(signal.SIGKILL)
    second = Running("--template-file", str(path))
    assert any(f"1 Templates read from {path}" in line for line in second.said)
    second.socket.send(ipfix(FLOW))
    assert [flow["bytes"] for flow in second.ended()] == [1000]
    assert second.process.returncode == 0


def test_templates_time_out(tmp_path: Path) -> None:
    """By the time of the packets."""
    begin = capture(tmp_path / "a.pcap", ipfix(TEMPLATE, FLOW), later=0)
    for later, count in ((60, 2), (61, 1)):
        end = capture(tmp_path / f"{later}.pcap", ipfix(FLOW), later=later)
        found, errors = run("-f", "common", "--pcap", begin, "--pcap", end, "--template-timeout", "1m")
        assert len(found) == count and ("HELD_DATA 1" in errors) == (count == 1)


def test_templates_have_a_limit(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", ipfix(TEMPLATE, FLOW), ipfix(TEMPLATE, FLOW, domain=2))
    for option in ("--max-templates", "--max-templates-per-exporter"):
        found, errors = run("-f", "common", "--pcap", path, option, "1")
        assert len(found) == 1 and "TEMPLATE_LIMIT 1" in errors
        assert len(common("--pcap", path, option, "2")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampling-rate", "0"], "--sampling-rate 0: expected a rate from 1 to 4294967295, or PREFIX=RATE"),
        (["--column", "app=applicationNam"], "no element 'applicationNam': did you mean applicationName?"),
        (["--column", "bytes=flowId"], "there is a column bytes already"),
        (["--template-timeout", "soon"], "--template-timeout soon: expected seconds or a time such as 90s, 30m"),
        (["--ie-mapping", "missing.csv"], "--ie-mapping missing.csv: No such file or directory; expected a CSV file"),
        (["--template-file", "/"], "File '/' is a directory"),
        (["--template-file", "/missing/file"], "--template-file /missing/file: No such file or directory"),
    ],
)
def test_options_that_are_not_usable(flows: Path, options: list[str], message: str) -> None:
    found, errors = run("-f", "common", "--pcap", flows, *options, status=2)
    assert not found and message in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    "option", [["--scale"], ["--sampling-rate", "5"], ["--column", "a=flowId"], ["--split-biflow"]]
)
def test_options_about_flows_need_flows(flows: Path, option: list[str]) -> None:
    _, errors = run("--pcap", flows, *option, status=2)
    assert f"{option[0]} is about flows" in errors and "give -f common" in errors


def test_a_bad_row_of_a_mapping_names_file_line_and_what_is_accepted(flows: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "ours.csv"
    for content, message in (
        (HEAD + "1,9,a,string\n2,9,b,text\n", "line 3: data_type 'text': use one of octetArray, unsigned8"),
        ("id,name\n", "line 1: the columns id,enterprise_number,name,data_type are needed"),
    ):
        mapping.write_text(content)
        _, errors = run("--pcap", flows, "--ie-mapping", mapping, status=2)
        assert f"--ie-mapping {mapping}: {message}" in errors
    mapping.write_bytes(b"\xff\xfe")
    _, errors = run("--pcap", flows, "--ie-mapping", mapping, status=2)
    assert "expected UTF-8" in errors
