"""``pyflowx collect --xdp`` on a real link: what is counted, dropped, kept, and what stays when it ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from gate_collector import FAR, NEAR, PORT, Collecting, frame, v5

from pyflowx.kernel import syscall
from pyflowx.kernel.links import Links
from pyflowx.kernel.syscall import Program
from pyflowx.privileges import CAP_IPC_LOCK, CAP_NET_RAW, needed

pytestmark = pytest.mark.kernel


@pytest.fixture
def collect(wire, tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(
            contextlib.closing(Collecting(wire, tmp_path, "--xdp", "v", *options, **more))
        )


@pytest.mark.parametrize("mode", ["monitor", "enforce"])
def test_every_reason_is_counted_and_what_is_good_arrives(wire, collect, sender, mode):
    """IPv4 and IPv6; fragments reach the socket, whatever is in them. The gate judges what has a VLAN tag too, though
    there is no interface for it here, so that no socket gets it."""
    run = collect("--xdp-mode", mode, "--allow", "10.0.0.0/8", "--allow", "fd09::/64", "--rate-limit", "100")
    good = [
        frame(v5(11), vlan=7),
        frame(v5(12, 13)),
        frame(v5(14), source="fd09::2", destination="fd09::1"),
    ]
    bad = {
        "not_allowed": [frame(v5(1), source="192.0.2.2"), frame(v5(1), source="fd10::2", destination="fd09::1")],
        "bad_version": [frame(b"garbage"), frame(bytes(100), vlan=7)],
        "truncated": [frame(v5(1)[:20])],
        "bad_length": [frame(v5(20, count=2)), frame(v5(21, count=30), source="fd09::2", destination="fd09::1")],
    }
    with wire.far:
        sender(good).send()
        for number, frames in enumerate(bad.values(), 1):
            sender(frames).send(number)
        sender([frame(b"garbage", port=PORT + 1)]).send()  # not ours
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(v5(*range(100, 160)), ("10.9.0.1", PORT))  # 2904 octets: fragments
            out.sendto(bytes(3000), ("10.9.0.1", PORT))
    expected = {"passed": 3, "fragment": 5, "not_allowed": 2, "bad_version": 4, "truncated": 3, "bad_length": 8}
    run.until(lambda: sum(run.outcomes().values()) >= sum(expected.values()))
    assert run.outcomes() == expected
    snapshot = run.until(lambda: (now := run.snapshot())["counters"]["flows"] >= 63 and now)
    gate = snapshot["gate"]
    assert (gate["mode"], gate["rate_limit"], gate["allow"]) == (mode, 100, 2)
    assert [(row["interface"], row["hook"]) for row in gate["interfaces"]] == [("v", "xdp")]
    exporters = {row["address"]: (row["passed"], row["reasons"]) for row in gate["exporters"]}
    assert exporters["192.0.2.2"] == (0, {"not_allowed": 1})
    assert exporters["10.9.0.2"] == (2, {"bad_version": 4, "truncated": 3, "bad_length": 4})
    assert exporters["fd09::2"] == (1, {"bad_length": 4})
    assert gate["others"]["reasons"] == {}
    (stage,) = [stage for stage in snapshot["pipeline"] if stage["stage"] == "gate"]
    assert (stage["passed"], stage["lost"]) == (3, 17 if mode == "enforce" else 0)
    flows = run.end()
    kept = [*range(12, 15), *range(100, 160)]
    if mode == "enforce":
        assert sorted(flow["bytes"] for flow in flows) == kept
        assert "17 dropped: not_allowed 2, bad_version 4, truncated 3, bad_length 8" in run.said
    else:
        assert sorted({flow["bytes"] for flow in flows}) == sorted({*kept, 1, 20, 21})
        assert "17 would be dropped by --xdp-mode enforce" in run.said
    assert wire.near.attached() == []


def test_a_rate_is_enforced_exactly(wire, collect, sender):
    run = collect("--xdp-mode", "enforce", "--rate-limit", "200")
    begin = time.monotonic()
    with wire.far:
        sender([frame(v5(number + 1)) for number in range(500)]).send(10)
        sender([frame(v5(7), source="fd09::2", destination="fd09::1")] * 150).send()
    counted = run.until(lambda: sum((now := run.outcomes()).values()) == 5150 and now)
    elapsed = time.monotonic() - begin
    limited = counted["rate_limited"]
    assert 200 <= 5000 - limited <= 200 + 200 * elapsed + 1
    exporters = {row["address"]: (row["passed"], row["reasons"]) for row in run.gate()["exporters"]}
    assert exporters == {"10.9.0.2": (5000 - limited, {"rate_limited": limited}), "fd09::2": (150, {})}
    run.until(lambda: run.snapshot()["counters"]["flows"] == 5150 - limited)
    assert len(run.end()) == 5150 - limited


def test_prefixes_are_read_again_when_privileges_are_gone(wire, collect, sender, tmp_path):
    listed = tmp_path / "allowed"
    listed.write_text("192.0.2.0/24 # elsewhere\n")
    run = collect("--xdp-mode", "enforce", "--allow-file", str(listed))
    for task in os.listdir(f"/proc/{run.process.pid}/task"):
        with open(f"/proc/{run.process.pid}/task/{task}/status") as status:
            held = dict(line.split(":\t") for line in status.read().splitlines() if line.startswith("Cap"))
        assert {int(held[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {needed()}

    def send():
        with wire.far:
            sender([frame(v5(9))]).send()

    def reload(text, said):
        listed.write_text(text)
        run.process.send_signal(signal.SIGHUP)
        run.until(lambda: said in run.said)

    send()
    run.until(lambda: run.outcomes() == {"not_allowed": 1})
    reload("192.0.2.0/24\n\n10.9.0.2\n", "gate: 2 prefixes may send")
    send()
    run.until(lambda: run.outcomes() == {"not_allowed": 1, "passed": 1})
    reload("10.9.0.0/33\n", "line 1: 10.9.0.0/33: '10.9.0.0/33' does not appear to be an IPv4 or IPv6 network")
    assert "who may send stays as it is" in run.said
    reload("# nobody\n", "there is no prefix in it")
    send()
    run.until(lambda: run.outcomes() == {"not_allowed": 1, "passed": 2})
    assert len(run.end()) == 2


def test_it_runs_as_whom_it_is_told(wire, sender):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        run = Collecting(wire, Path(folder), "--xdp", "v", "--af-xdp", "--xdp-mode", "enforce", "--user", "nobody")
        with contextlib.closing(run):
            with open(f"/proc/{run.process.pid}/status") as status:
                said = dict(line.split(":\t", 1) for line in status.read().splitlines() if ":\t" in line)
            assert set(said["Uid"].split()) == {str(pwd.getpwnam("nobody").pw_uid)}
            assert int(said["CapEff"], 16) == needed(CAP_NET_RAW, CAP_IPC_LOCK)
            with wire.far:
                sender([frame(v5(9)), frame(b"garbage")]).send()
            run.until(lambda: run.outcomes() == {"redirected": 1, "bad_version": 1})
            assert len(run.end()) == 1
    assert wire.near.attached() == []


def test_what_a_killed_collector_left_is_removed(wire, collect, sender):
    first = collect()
    first.end(signal.SIGKILL)
    (left,) = wire.near.attached()
    second = collect()
    (now,) = wire.near.attached()
    assert now["prog"]["id"] != left["prog"]["id"]
    with wire.far:
        sender([frame(v5(9))]).send()
    second.until(lambda: second.outcomes() == {"passed": 1})
    second.end()
    assert wire.near.attached() == []


def test_it_detaches_however_early_it_is_told_to_end(wire, collect):
    run = collect(ready="")
    run.until(wire.near.attached)
    run.process.terminate()
    assert run.process.wait() == 0
    assert wire.near.attached() == []


def test_the_program_of_a_living_collector_stays(wire, collect, tmp_path):
    run = collect()
    before = wire.near.attached()
    (tmp_path / "other").mkdir()
    other = Collecting(wire, tmp_path / "other", "--xdp", "v", "-p", "9996", ready="")
    assert other.process.wait() == 3
    assert "(pyflowx_gate) is attached at XDP of v; detach it (ip link set dev v xdp off)" in other.said
    assert wire.near.attached() == before
    run.end()


def test_a_foreign_program_is_named_and_stays(wire, collect):
    code = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
    with wire.near, Program.load(syscall.PROG_TYPE_XDP, "stranger", code, {}) as foreign, Links() as links:
        assert links.attach_xdp(links.index("v"), foreign, native=True) == 0
        run = collect(ready="")
        assert run.process.wait() == 3
        assert re.search(
            r"program \d+ \(stranger\) is attached at XDP of v; detach it .* leave v out of --xdp", run.said
        )
        assert links.xdp(links.index("v"))[1] == foreign.info().id


def test_an_interface_that_goes_and_comes_back_has_its_gate_again(wire, collect, sender):
    run = collect("--xdp-mode", "enforce")
    with wire.far:
        sender([frame(b"garbage")]).send(3)
    run.until(lambda: run.outcomes() == {"bad_version": 3})
    wire.near.ip("link", "del", "v")
    run.until(lambda: "gate on v: gone" in run.said)
    assert run.gate()["interfaces"][0]["hook"] is None
    wire.near.ip("link", "add", "v", "type", "veth", "peer", "name", "v", "netns", wire.far.name)
    wire.near.ip("addr", "add", "10.9.0.5/24", "dev", "v")  # another address than before
    wire.near.ip("link", "set", "v", "address", NEAR, "up")
    wire.far.ip("link", "set", "v", "address", FAR, "up")
    run.until(lambda: "gate on v: attached" in run.said)

    def more():
        with wire.far:
            sender([frame(b"garbage", destination="10.9.0.5")]).send()
        return run.outcomes()["bad_version"] > 3

    run.until(more)
    run.end()


def test_a_program_that_somebody_took_off_is_restored(wire, collect):
    run = collect()
    wire.near.ip("link", "set", "dev", "v", "xdp", "off")
    run.until(lambda: "gate on v: restored" in run.said)
    assert len(wire.near.attached()) == 1
    run.end()


@pytest.mark.parametrize(("option", "outcome"), [([], "passed"), (["--af-xdp"], "redirected")], ids=["", "AF_XDP"])
def test_without_a_driver_that_has_xdp_the_kernels_own_serves(wire, collect, option, outcome):
    """VXLAN has no native XDP."""
    for number, namespace in enumerate((wire.near, wire.far), 1):
        remote = ["remote", f"10.9.0.{3 - number}", "dstport", "4789", "dev", "v"]
        namespace.ip("link", "add", "x", "type", "vxlan", "id", "5", *remote)
        namespace.ip("addr", "add", f"10.8.0.{number}/24", "dev", "x")
        namespace.ip("link", "set", "x", "up")
    refused = collect("--xdp", "x", "--udp-gro", ready="")
    assert refused.process.wait() == 2
    assert "--udp-gro: x has no native XDP" in refused.said and wire.near.attached() == []
    run = collect("--xdp", "x", "--xdp-mode", "enforce", *option, ready="gate on x (xdp-generic)")
    with wire.far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for payload in (v5(9), b"garbage"):
            out.sendto(payload, ("10.8.0.1", PORT))
    run.until(lambda: run.outcomes("x") == {outcome: 1, "bad_version": 1})
    assert len(run.end()) == 1
    assert wire.near.attached() == []


def test_garbage_at_full_speed_costs_good_exporters_nothing(wire, collect, sender):
    """Garbage comes on a link of its own as fast as it can be sent."""
    wire.near.ip("link", "add", "w", "type", "veth", "peer", "name", "w", "netns", wire.far.name)
    for namespace, address in ((wire.near, NEAR), (wire.far, FAR)):
        namespace.ip("link", "set", "w", "address", address, "up")
    run = collect("--xdp", "w", "--xdp-mode", "enforce", "--recv-buffer", str(32 << 20))
    stop, sent = threading.Event(), []

    def flood():
        with wire.far:
            out = sender([frame(os.urandom(60), source=f"10.9.1.{n % 250}") for n in range(500)], "w")
            rounds = 0
            while not stop.is_set():
                out.send()
                rounds += 1
            sent.append(500 * rounds)

    thread = threading.Thread(target=flood)
    thread.start()
    with wire.far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for number in range(4000):
            out.sendto(v5(number + 1), ("10.9.0.1", PORT))
            if number % 50 == 0:
                time.sleep(0.02)
    stop.set()
    thread.join()
    assert sent[0] > 4000
    wire.wait_for_silence()
    assert wire.far.counters("v")["lost"] == 0
    run.until(lambda: run.snapshot()["counters"]["flows"] == 4000)
    refused = run.outcomes("w")
    assert sum(refused.values()) == sent[0] - wire.far.counters("w")["lost"]
    assert refused["bad_version"] > 0.99 * sum(refused.values())
    assert sorted(flow["bytes"] for flow in run.end()) == list(range(1, 4001))


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--allow", "10.0.0.0/8"], 2, "--allow belongs to the gate in the kernel: say where with --xdp"),
        (["--rate-limit", "5"], 2, "--rate-limit belongs to the gate"),
        (["--xdp", "nowhere"], 2, "no interface nowhere; there are"),
        (["--xdp", "lo", "--allow", "ten"], 2, "--allow ten: 'ten' does not appear to be an IPv4 or IPv6 network"),
        (["--xdp", "lo", "--allow-file", "/nowhere"], 2, "--allow-file /nowhere: No such file or directory"),
        (["--xdp", "lo", "--user", "nobody-at-all"], 2, "there is no such user"),
        (["--xdp", "lo", "--pcap", "/nowhere"], 2, "--xdp is for datagrams from the network"),
    ],
)
def test_what_cannot_be_is_said(wire, options, status, said):
    command = [sys.executable, "-m", "pyflowx", "collect", "--no-metrics", "--no-live", *options]
    command += [] if "--pcap" in options else ["-p", "0"]
    done = wire.near.name and subprocess.run(
        ["ip", "netns", "exec", wire.near.name, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status
    assert said in done.stderr
    assert wire.near.attached() == []
