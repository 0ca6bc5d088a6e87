"""What is read from /proc, from files as kernels write them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pyflowx import host

DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compr.
    lo: 7312000   61000    0    0    0     0          0         0  7312000   61000    0    0    0     0       0      0
  eth0:12345678901 100    3   20    4     0          0         1      900       8    0    0    0     0       0      0
"""
SNMP = """\
Icmp: InMsgs InErrors
Icmp: 1 2
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 1000 7 60 2000 50 0 10 0 0
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
UdpLite: 9 9 9 9 9 9 9 9 9
"""
SNMP6 = "Ip6InReceives 5\nUdp6InDatagrams 11\nUdp6RcvbufErrors 3\nUdp6InCsumErrors 1\nUdpLite6InDatagrams 9\n"
SOFTNET = "01ee746b 0000000a 00000002 00000000\n01cfa4e3 00000010 00000002 00000000\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    net = tmp_path / "proc" / "net"
    net.mkdir(parents=True)
    for name, text in (("dev", DEV), ("snmp", SNMP), ("snmp6", SNMP6), ("softnet_stat", SOFTNET)):
        (net / name).write_text(text)
    core = tmp_path / "proc" / "sys" / "net" / "core"
    core.mkdir(parents=True)
    (core / "rmem_max").write_text("212992\n")
    return tmp_path


def test_interfaces(root: Path) -> None:
    assert host.interfaces(root) == {"lo": host.Interface(61000, 0), "eth0": host.Interface(100, 24)}


def test_udp_of_both_families(root: Path) -> None:
    assert host.udp(root) == host.Udp(received=1011, full=53, bad=11)


def test_input_queues_of_all_cpus(root: Path) -> None:
    assert host.backlog_dropped(root) == 26


def test_sysctl(root: Path) -> None:
    assert host.sysctl("net.core.rmem_max", root) == "212992"
    assert host.sysctl("net.core.no_such", root) is None


def test_a_host_without_these_files_counts_nothing(tmp_path: Path) -> None:
    assert host.interfaces(tmp_path) == {}
    assert host.udp(tmp_path) == host.Udp(0, 0, 0)
    assert host.backlog_dropped(tmp_path) == 0


def test_this_host_counts_what_passes() -> None:
    before = host.interfaces()["lo"].received, host.udp().received
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for _ in range(20):
            sock.sendto(b"x", sock.getsockname())
            sock.recv(1)
    assert host.interfaces()["lo"].received >= before[0] + 20
    assert host.udp().received >= before[1] + 20
    assert 1 << 20 < host.memory_octets() < 1 << 40


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/0"}, "/run/a"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/pyflowx"),
        ({}, "/run/pyflowx"),
    ],
)
def test_the_runtime_folder(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(host.runtime_folder()) == expected
