"""The life of a Meter on interfaces: left-overs, neighbours, strangers, refusals."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys

import pytest
from attached import TC, tcx

from pyflowx.errors import ConfigError, KernelError
from pyflowx.kernel import Meter, MeterConfig, syscall
from pyflowx.kernel.layout import NumberSlot
from pyflowx.kernel.links import Claim, Links
from pyflowx.kernel.syscall import Program

pytestmark = pytest.mark.kernel

EXPORTER = """
import sys, time
from pyflowx.kernel import Meter, MeterConfig, links
if sys.argv[1] == "clsact":
    links.Links._attach_tcx = lambda *_: False
    sys.argv[1] = "tc"
meter = Meter(MeterConfig(["v"], hook=sys.argv[1], max_flows=100))
meter.attach()
print("attached", flush=True)
time.sleep(1000)
"""
MOVE, EXIT = 0xB7, 0x95


def stranger(kind, retval, name="stranger"):
    """A foreign program that returns ``retval``."""
    code = struct.pack("<BBhi", MOVE, 0, 0, retval) + struct.pack("<BBhi", EXIT, 0, 0, 0)
    return Program.load(kind, name, code, {})


def small(hook="auto", interface="v", direction="both"):
    return MeterConfig([interface], hook=hook, direction=direction, max_flows=100)


def send(count):
    """UDP datagrams out of the metered namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for _ in range(count):
            out.sendto(b"x", ("10.9.0.2", 9))


def udp_packets(meter):
    keys, values = meter.drain()
    return int(values["packets"][keys["protocol"] == 17].sum())


@pytest.fixture
def exporter(wire):
    """Starts exporters as processes of their own, by hook, and kills what is left of them."""
    started = []

    def start(hook):
        command = ["ip", "netns", "exec", wire.near.name, sys.executable, "-c", EXPORTER, hook]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"attached\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def tap(wire):
    """An interface whose driver has native XDP and is not veth."""
    with wire.near:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        iff_tap, iff_no_pi = 2, 0x1000
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", b"tap", iff_tap | iff_no_pi))  # TUNSETIFF
    wire.near.ip("link", "set", "tap", "up")
    yield "tap"
    os.close(descriptor)


def test_nothing_stays_at_the_end(wire, way):
    with wire.near:
        with Meter(small(way.option)) as meter:
            assert tuple(at.hook for at in meter.attach()) == way.hooks
            assert len(wire.near.attached()) == (1 if way.hooks == ("tc", "tc") else 2)
            meter.detach()
            assert wire.near.attached() == []
            meter.detach()
        assert wire.near.attached() == []


@pytest.mark.parametrize(("dead", "next_one"), [("xdp", "xdp"), ("clsact", "clsact"), ("clsact", "tc")])
def test_left_overs_of_a_dead_exporter_are_removed(wire, exporter, request, dead, next_one):
    process = exporter(dead)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = wire.near.attached()
    assert len(left) == (2 if dead == "xdp" and TC == "tc" else 1)
    if next_one == "clsact":
        request.getfixturevalue("no_tcx")
    with wire.near, Meter(small("xdp" if next_one == "xdp" else "tc")) as meter:
        ifindex = meter.attach()[0].ifindex
        assert next_one != "xdp" or wire.near.attached()[0] != left[0]
        for direction, attach_type in (("ingress", syscall.TCX_INGRESS), ("egress", syscall.TCX_EGRESS)):
            filters = wire.near.tc("filter", "show", "dev", "v", direction).count("pyflowx/")
            programs = len(tcx(wire.near.name, ifindex, attach_type))
            ours = 0 if next_one == "xdp" and direction == "ingress" else 1
            assert (filters, programs) == ((0, ours) if TC == "tcx" and next_one != "clsact" else (ours, 0))
        send(3)
        assert udp_packets(meter) >= 3
    assert wire.near.attached() == []


def test_at_tcx_nothing_is_left_over(wire, exporter):
    process = exporter("tc")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(wire.near.attached()) == (0 if TC == "tcx" else 1)


@pytest.mark.parametrize("hook", ["tc", "clsact"])
def test_two_exporters_on_one_interface_both_see_everything(wire, exporter, hook):
    process = exporter(hook)
    with wire.near:
        with Meter(small()) as meter:
            meter.attach()
            send(5)
            assert udp_packets(meter) == 5
            process.terminate()
            process.wait()  # without a handler SIGTERM leaves its filters at clsact behind, not ours to remove now
            send(5)
            assert udp_packets(meter) == 5
        with Meter(small()) as meter:
            meter.attach()
        assert wire.near.attached() == []


def test_a_living_exporter_is_left_alone(wire, exporter):
    exporter("xdp")
    before = wire.near.attached()
    with wire.near:
        with (
            Meter(small("xdp")) as meter,
            pytest.raises(KernelError, match=r"\(pyflowx_xdp\) is attached"),
        ):
            meter.attach()
        assert wire.near.attached() == before
        with Meter(small("tc")) as meter:
            meter.attach()
        assert wire.near.attached() == before


def test_exporters_in_one_process_share_an_interface(wire):
    with wire.near:
        with Meter(small()) as first:
            first.attach()
            with Meter(small()) as second:
                second.attach()
                send(2)
                assert udp_packets(second) == udp_packets(first) == 2
            send(2)
            assert udp_packets(first) == 2
        assert wire.near.attached() == []


def test_a_foreign_xdp_program_is_named_and_stays(wire):
    xdp_pass = 2
    with wire.near, stranger(syscall.PROG_TYPE_XDP, xdp_pass) as foreign, Links() as links:
        ifindex = links.index("v")
        assert links.attach_xdp(ifindex, foreign, native=True) == 0
        with Meter(small("xdp")) as meter:
            with pytest.raises(KernelError, match=rf"program {foreign.info().id} \(stranger\) is attached at XDP of v"):
                meter.attach()
            meter.detach()
        assert links.xdp(ifindex)[1] == foreign.info().id
        assert wire.near.tc("filter", "show", "dev", "v", "egress") == ""


def test_auto_is_native_xdp_where_the_driver_has_it_and_tc_where_it_is_taken(wire, tap):
    with wire.near:
        with Meter(small("auto", tap)) as meter:
            assert [(a.hook, a.direction) for a in meter.attach()] == [("xdp", "ingress"), (TC, "egress")]
        assert wire.near.attached() == []
        with stranger(syscall.PROG_TYPE_XDP, 2) as foreign, Links() as links:
            ifindex = links.index(tap)
            links.attach_xdp(ifindex, foreign, native=True)
            with Meter(small("auto", tap)) as meter:
                assert [(a.hook, a.direction) for a in meter.attach()] == [(TC, "ingress"), (TC, "egress")]
            assert links.xdp(ifindex)[1] == foreign.info().id


def test_auto_takes_tc_on_veth(wire):
    with wire.near, Meter(small("auto")) as meter:
        assert [a.hook for a in meter.attach()] == [TC, TC]


def test_a_filter_may_ask_for_what_only_ethernet_has(wire):
    with wire.near, Meter(dataclasses.replace(small(), filter="vlan 5")) as meter:
        assert len(meter.attach()) == 2


def test_where_the_verifier_gives_up_fewer_tunnels_are_looked_into(wire, monkeypatch):
    """As that of Linux 5.10 may, for programs that are too long; said in one line."""
    real = Program.load

    def load(kind, name, instructions, maps, flags=0, functions=None, numbers=None):
        if numbers[NumberSlot.TUNNELS] > 1:
            raise KernelError("BPF program is too large")
        return real(kind, name, instructions, maps, flags, functions, numbers)

    monkeypatch.setattr(Program, "load", load)
    with wire.near, Meter(dataclasses.replace(small(), tunnels=True)) as meter:
        assert {at.note for at in meter.attach()} == {
            "a tunnel in a tunnel is not looked into: the verifier of this kernel gives up"
        }
        send(3)
        assert udp_packets(meter) == 3
    with wire.near, Meter(small()) as meter, pytest.raises(KernelError, match="too large"):
        meter.attach()


def test_foreign_filters_stay_and_hide_nothing_from_us(wire):
    """A filter that ends the classification, there before us: ours goes before it."""
    tc_act_ok = 0
    with wire.near, stranger(syscall.PROG_TYPE_SCHED_CLS, tc_act_ok) as foreign, Links() as links:
        links._netlink.add_clsact(links.index("v"))
        parent = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
        for number in parent.values():
            links._netlink.add_filter(links.index("v"), number, 1, foreign.fd, "x")
        before = wire.near.attached()
        with Meter(small()) as meter:
            meter.attach()
            send(4)
            assert udp_packets(meter) == 4
        assert wire.near.attached() == before
        for direction in parent:
            assert wire.near.tc("filter", "show", "dev", "v", direction).count("handle") == 1


@pytest.mark.skipif(TC != "tcx", reason="probe: this kernel has no TCX")
def test_foreign_programs_at_tcx_stay_and_hide_nothing_from_us(wire):
    """One that ends the classification, there before us: ours goes before it."""
    bpf_prog_attach, tcx_pass = 8, 0
    with wire.near, stranger(syscall.PROG_TYPE_SCHED_CLS, tcx_pass) as foreign, Links() as links:
        ifindex = links.index("v")
        for attach_type in (syscall.TCX_INGRESS, syscall.TCX_EGRESS):
            syscall._call(bpf_prog_attach, syscall._attr("4I", ifindex, foreign.fd, attach_type, 0))
        with Meter(small()) as meter:
            meter.attach()
            send(4)
            assert udp_packets(meter) == 4
            ours = meter.run_statistics()["egress"].id
            assert tcx(wire.near.name, ifindex, syscall.TCX_EGRESS) == [ours, foreign.info().id]
        assert wire.near.attached() == [foreign.info().id] * 2


def test_on_an_error_nothing_stays_attached(wire):
    with wire.near, Meter(MeterConfig(["v", "lo", "nowhere"], max_flows=100)) as meter:
        with pytest.raises(ConfigError, match="no interface nowhere; there are lo, v"):
            meter.attach()
        assert wire.near.attached() == []


def test_an_interface_that_goes_takes_its_programs_with_it(wire):
    with wire.near, Meter(small()) as meter:
        meter.attach()
        send(3)
        wire.near.ip("link", "del", "v")
        meter.detach()
        assert udp_packets(meter) == 3


def test_a_claim_ends_with_its_holder(wire):
    with wire.near:
        claim, again = Claim(4_000_000_000), Claim(4_000_000_000)
        assert Claim.is_live(4_000_000_000)
        claim.close()
        again.close()
        assert not Claim.is_live(4_000_000_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hook": "ebpf"}, "hook ebpf: must be one of auto, xdp, tc"),
        ({"direction": "up"}, "direction up: must be one of both, ingress, egress"),
        ({"hook": "xdp", "direction": "egress"}, "use tc or auto"),
        ({"interfaces": []}, "no interface"),
        ({"max_flows": 0}, "max_flows 0: must be 1 to"),
        ({"exclude": ((None, 4739),) * 17}, "17 collectors; at most 16"),
    ],
)
def test_a_bad_configuration_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Meter(MeterConfig(**{"interfaces": ["lo"], **changes}))


def test_without_privilege_it_says_what_is_needed():
    code = "import os; from pyflowx.kernel import *; os.setuid(65534); Meter(MeterConfig(['lo'], max_flows=100))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pyflowx.errors.KernelError: cannot make the map")
    assert "permission denied; run as root (sudo), or with CAP_BPF" in done.stderr


def test_the_kernel_counts_runs_and_time(wire):
    with wire.near, Meter(dataclasses.replace(small("xdp"), run_statistics=True)) as meter:
        meter.attach()
        assert meter.run_statistics()["xdp"].mean_ns == 0
        send(100)
        costs = meter.run_statistics()
        assert costs["egress"].runs >= 100
        assert 0 < costs["egress"].mean_ns < 1e6
        assert set(costs) == {"xdp", "egress"}  # what is not attached is not loaded


def test_the_first_runs_are_measured(wire, sender):
    with wire.far:
        frames = sender([bytes(12) + b"\x08\x06" + bytes(46)] * 10)
    with wire.near, Meter(dataclasses.replace(small(), hook="tc", measured_runs=5)) as meter:
        meter.attach()
        assert measures()
        frames.send()
        wire.wait_for_silence()
        measured = meter.run_statistics()["ingress"]
        assert measured.runs >= 10
        assert measured.mean_ns > 0
        meter.watch()
        assert not measures()  # the kernel may go on for another process that asked for it


def measures():
    """Whether this process lets the kernel measure."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return "anon_inode:bpf-stats" in [os.readlink(link) for link in links if os.path.islink(link)]


def test_the_verifier_is_quoted():
    with pytest.raises(KernelError, match=r"(?s)refuses the program broken; the verifier says:.*R0 !read_ok"):
        Program.load(syscall.PROG_TYPE_XDP, "broken", struct.pack("<BBhi", EXIT, 0, 0, 0), {})


def test_a_program_that_has_gone_is_none():
    with stranger(syscall.PROG_TYPE_XDP, 2) as program:
        program_id = program.info().id
        with Program.by_id(program_id) as same:
            assert same.info() == program.info()
    assert Program.by_id(program_id) is None
