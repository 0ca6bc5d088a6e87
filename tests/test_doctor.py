"""The checks of doctor, on hosts made of files."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from pyflowx import doctor
from pyflowx.doctor import FAIL, NOTE, OK, WARN, Check
from pyflowx.errors import KernelError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "proc/self/status": "Name:\tx\nCapEff:\t0000000000000000\n",
        "proc/net/dev": "x\ny\n  eth0: 1 100 0 20 4 0 0 0 0 0 0 0 0 0 0 0\n    lo: 1 9 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        "proc/net/snmp": "Udp: InDatagrams RcvbufErrors InCsumErrors\nUdp: 10 3 2\n",
        "proc/net/softnet_stat": "00000001 0000000a 00000000\n",
        "proc/sys/net/core/rmem_max": "212992\n",
        "proc/sys/net/core/netdev_max_backlog": "1000\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def collect(root: Path) -> dict[str, Check]:
    return {check.name: check for check in doctor._collect(root)}


def test_a_host_that_drops_is_told_with_advice(root: Path) -> None:
    found = collect(root)
    assert {check.status for check in found.values()} == {WARN}
    assert found["UDP drops"].found.startswith("3 datagrams")
    assert found["UDP checksums"].found.startswith("2 datagrams")
    assert found["input queues"].found.startswith("10 packets") and "netdev_max_backlog" in found["input queues"].advice
    assert found["interface eth0"].found.startswith("24 of 124") and "ethtool -S eth0" in found["interface eth0"].advice
    assert "interface lo" not in found
    assert f"rmem_max={doctor.RECEIVE_BUFFER}" in found["receive buffer"].advice
    assert all(check.advice for check in found.values())


def test_a_host_where_all_is_well(root: Path) -> None:
    for name in ("dev", "snmp", "softnet_stat"):
        (root / "proc/net" / name).unlink()
    (root / "proc/sys/net/core/rmem_max").write_text("33554432\n")
    found = collect(root)
    assert {check.status for check in found.values()} == {OK}
    assert not any(check.advice for check in found.values())


def test_privilege_goes_past_the_limit_of_buffers(root: Path) -> None:
    (root / "proc/self/status").write_text(f"CapEff:\t{1 << 12 | 1 << 39:016x}\n")
    assert doctor.capabilities(root) == {"CAP_NET_ADMIN", "CAP_BPF"}
    assert collect(root)["receive buffer"].status == OK


def test_what_the_exporter_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise KernelError("install linux-headers")

    monkeypatch.setattr(doctor, "capabilities", set)
    monkeypatch.setattr(importlib.import_module("pyflowx.kernel.probe"), "find_headers", missing)
    found = {check.name: check for check in doctor._export()}
    assert [found[name].status for name in ("privilege", "bcc", "kernel headers")] == [NOTE, OK, NOTE]
    assert found["kernel headers"].advice == "install linux-headers"
    assert "our programs" not in found  # nothing to try them with


def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "5.4.0-26-generic")
    (kernel, clock) = doctor._host()
    assert kernel.status == WARN and "5.10" in kernel.advice
    assert clock.status in (OK, NOTE)
    monkeypatch.setattr("platform.release", lambda: "6.1.0-56-amd64")
    assert next(doctor._host()).status == OK


@pytest.mark.kernel
def test_this_host_takes_the_programs() -> None:
    found = {check.name: check for check in doctor._export()}
    assert {check.status for check in found.values()} == {OK}
    assert found["our programs"].found == "egress, ingress, xdp"
    assert {"ring buffer", "libpcap", "arrays in our own memory"} <= set(found)


def test_without_a_compiler_it_depends_on_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = importlib.import_module("pyflowx.kernel.probe")
    monkeypatch.setattr(doctor, "capabilities", set)
    monkeypatch.setattr(probe, "toolchain", lambda: None)
    for there, status in ((None, FAIL), ("an entry", OK)):
        monkeypatch.setattr(probe, "find_compiled", lambda build, there=there: there)
        found = {check.name: check for check in doctor._export()}
        assert found["compiled programs"].status == status
    assert found["compiled programs"].found.endswith("no compiler is needed")


def test_there_is_advice_for_every_stage() -> None:
    assert {stage for role, stage in doctor.ADVICE if role == "collect"} == {
        "network", "interface", "gate", "af_xdp", "backlog", "socket", "decoder", "output"
    }  # fmt: skip
