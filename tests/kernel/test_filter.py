"""Filters: our translation against libpcap's own interpreter, on the same packets."""

from __future__ import annotations

import ctypes
import struct

import packets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyflowx.errors import ConfigError, KernelError
from pyflowx.kernel import Statistic, filter, syscall
from pyflowx.kernel.filter import ETHERNET, RAW_IP, Classic, compile_classic, translate
from pyflowx.kernel.syscall import Program

pytestmark = pytest.mark.kernel

EXPRESSIONS = [
    "tcp",
    "tcp port 443",
    "udp and dst port 443",
    "ip6",
    "not ip and not ip6",
    "host 192.0.2.1 or net 2001:db8::/32",
    "portrange 400-500",
    "ether src 02:00:00:00:00:02 and greater 90",
    "not ether multicast and ip6",
    "vlan",
    "vlan 101",
    "vlan and udp port 443",
    "vlan 200 and vlan 101 and host 198.51.100.7",
    "mpls 17",
    "pppoes and udp",
    "icmp[icmptype] = icmp-unreach",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "ip[0] & 0xf > 5",
    "ip6 and ip6[6] = 44",
    "greater 80",
    "less 60 or ether[60] = 0",
    "len % 7 = 3",
    "ip[8] * 3 - ip[9] / 2 > 100",
    "ip[2:2] << 2 > 200 or (ip[2:2] >> 3) & 1 = 0",
    "ip[6:2] & 0x1fff != 0",
    "sctp or proto 33 or proto 136",
    "ether[14:4] & 0xffffff00 = 0x4500 << 16 or ether[13:4] = 1",
    "ether[10:4] & 0xffff > 0x7fff or ether[11:2] & 0xff = 8",
    "ip[0:4] & 0xff0000 = 0xb80000",
]
COMPUTED = ["ether[ether[20]] = 0", "ether[ether[13] + 6 : 2] > 8", "udp[ip[8] - 59 : 2] = 443"]


def libpcap_matches(classic, frame):
    """libpcap's bpf_filter on the classic program."""
    code = (filter._Instruction * len(classic))(*classic)
    data = ctypes.create_string_buffer(frame, len(frame))
    return bool(filter.libpcap().bpf_filter(code, data, len(frame), len(frame)))


class Judge:
    """A program that does nothing but ask the filter; 1 is a match."""

    HELPERS = {"tc": syscall.HELPER_SKB_LOAD_BYTES, "xdp": syscall.HELPER_XDP_LOAD_BYTES, "xdp-old": None}

    def __init__(self, hook, classic, tag=0):
        kind = syscall.PROG_TYPE_SCHED_CLS if hook == "tc" else syscall.PROG_TYPE_XDP
        start, end = (76, 80) if hook == "tc" else (0, 4)  # in struct __sk_buff, struct xdp_md
        code = [
            (0xBF, 6, 1, 0, 0),  # r6 = context
            (0x61, 2, 6, start, 0),  # r2 = data
            (0x61, 3, 6, end, 0),  # r3 = data_end
            (0xBF, 4, 3, 0, 0),
            (0x1F, 4, 2, 0, 0),  # r4 = length
            *[(0x61, 4, 6, 0, 0)] * (hook == "tc"),  # of the whole packet
            (0x07, 4, 0, 0, 4 * (tag != 0)),
            (0xB4, 5, 0, 0, tag),
            (0xBF, 1, 6, 0, 0),
            (0x85, 0, 0, 0, filter.FILTER_CALL),
            (0x15, 0, 0, 1, 0),
            (0xB7, 0, 0, 0, 1),
            (0x95, 0, 0, 0, 0),
        ]
        packed = b"".join(
            struct.pack("<BBhi", op, source << 4 | to, offset, value) for op, to, source, offset, value in code
        )
        function = translate(classic, self.HELPERS[hook], tagged=tag != 0)
        flags = syscall.XDP_HAS_FRAGS if hook == "xdp" else 0
        self.program = Program.load(kind, "judge", packed, {}, flags, {filter.FILTER_CALL: function})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.close()

    def matches(self, frame):
        return self.program.test_run(frame).retval == 1


def accepted(hook, frame):
    """Whether the kernel does a test run of the frame."""
    kind = int.from_bytes(frame[12:14], "big")
    return len(frame) >= (15 if hook != "tc" else 14 + {0x0800: 20, 0x86DD: 40}.get(kind, 1))


@pytest.mark.parametrize("hook", Judge.HELPERS)
@pytest.mark.parametrize("expression", EXPRESSIONS + COMPUTED)
def test_a_filter_is_libpcaps(expression, hook):
    classic = compile_classic(expression)
    verdicts = set()
    with Judge(hook, classic) as judge:
        for frame in [*packets.FRAMES.values(), *packets.TUNNEL_FRAMES.values()]:
            for cut in (frame[:length] for length in range(14, len(frame) + 1, 3)):
                if accepted(hook, cut):
                    assert judge.matches(cut) is libpcap_matches(classic, cut), (cut.hex(), expression)
                    verdicts.add(libpcap_matches(classic, cut))
    assert verdicts == {True, False}


@pytest.mark.parametrize("expression", EXPRESSIONS + COMPUTED)
def test_what_direct_access_does_not_reach_comes_from_the_kernel(monkeypatch, expression):
    monkeypatch.setattr(filter, "_DIRECT", 0)
    classic = compile_classic(expression)
    with Judge("tc", classic) as judge:
        for frame in packets.FRAMES.values():
            assert judge.matches(frame) is libpcap_matches(classic, frame), (frame.hex(), expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_tag_that_was_taken_out_is_looked_at_where_it_was(expression):
    classic = compile_classic(expression)
    tag = 0x8100 << 16 | 0x6065  # VLAN 101, priority 3
    with Judge("tc", classic, tag=tag - (1 << 32)) as judge:
        for frame in packets.FRAMES.values():
            whole = frame[:12] + struct.pack("!I", tag) + frame[12:]
            assert judge.matches(frame) is libpcap_matches(classic, whole), (frame.hex(), expression)


# Programs that libpcap does not make: every operation of classic BPF (linux/filter.h).
ALU = [0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x90, 0xA0]  # add sub mul div or and mod xor
constants = st.integers(1, 2**32 - 1)
steps = st.one_of(
    st.builds(lambda op, k: Classic(0x04 | op, 0, 0, k), st.sampled_from(ALU), constants),
    st.builds(lambda op, k: Classic(0x04 | op, 0, 0, k), st.sampled_from([0x60, 0x70]), st.integers(0, 31)),
    st.builds(lambda op: Classic(0x0C | op, 0, 0, 0), st.sampled_from(ALU)),
    st.just(Classic(0x84, 0, 0, 0)),  # neg
    st.builds(lambda code, k: Classic(code, 0, 0, k), st.sampled_from([0x02, 0x03, 0x60, 0x61]), st.integers(0, 15)),
    st.sampled_from([Classic(0x07, 0, 0, 0), Classic(0x87, 0, 0, 0), Classic(0x80, 0, 0, 0), Classic(0x81, 0, 0, 0)]),
    st.builds(lambda code, k: Classic(code, 0, 0, k), st.sampled_from([0x20, 0x28, 0x30, 0xB1]), st.integers(0, 70)),
    st.builds(lambda code, k: Classic(code, 0, 0, k), st.sampled_from([0x40, 0x48, 0x50]), st.integers(0, 70)),
    st.builds(lambda code, k: Classic(code, 0, 0, k), st.sampled_from([0x00, 0x01]), constants),
)
tests = st.builds(
    lambda op, jt, jf, k: Classic(0x05 | op, jt, jf, k),
    st.sampled_from([0x10, 0x20, 0x30, 0x40, 0x18, 0x28, 0x38, 0x48]),
    st.integers(0, 2),
    st.integers(0, 2),
    constants,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.lists(st.one_of(steps, tests), max_size=25), small=st.integers(0, 63), data=st.data())
def test_any_classic_program_does_what_libpcaps_interpreter_does(body, small, data):
    words = [Classic(code, 0, 0, place) for place in range(16) for code in (0x02,)]
    start = [Classic(0x01, 0, 0, small), Classic(0x00, 0, 0, small), *words]
    program = [*start, *body, Classic(0x16, 0, 0, 0), Classic(0x06, 0, 0, 1), Classic(0x06, 0, 0, 0)]
    names = data.draw(st.lists(st.sampled_from(sorted(packets.FRAMES)), min_size=5, max_size=5))
    with Judge("tc", program) as judge:
        for name in names:
            frame = packets.FRAMES[name]
            assert judge.matches(frame) is libpcap_matches(program, frame)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("tcp prot 5", "syntax error.*for example: tcp port 443"),
        ("inbound", "not supported|not in the packet"),
        ("ip6 protochain 6", "loop"),
        ("ether[0 - 4] = 1", "a place before its start"),
    ],
)
def test_what_cannot_be_a_filter_is_said(expression, message):
    with pytest.raises(ConfigError, match=message):
        translate(compile_classic(expression), None, tagged=False)


def test_without_libpcap_the_package_is_named(monkeypatch):
    monkeypatch.setattr(filter, "_LIBRARIES", ())
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    filter.libpcap.cache_clear()
    with pytest.raises(KernelError, match="install libpcap"):
        filter.libpcap()
    filter.libpcap.cache_clear()


@pytest.mark.parametrize("kind", ["xdp", "xdp-frags", "ingress", "egress"])
@pytest.mark.parametrize("expression", ["udp port 443", "ip6 and tcp", "vlan 101", "ip[8] * 2 = 122"])
def test_what_does_not_match_is_counted_and_not_metered(make_bench, kind, expression):
    bench = make_bench(kind, filter=expression)
    classic = compile_classic(expression)
    expected = {}
    for frame in packets.FRAMES.values():
        slot = packets.oracle(frame)
        slot = slot if isinstance(slot, Statistic) else Statistic.METERED
        slot = slot if libpcap_matches(classic, frame) else Statistic.FILTERED
        count = expected.get(slot, (0, 0))
        expected[slot] = count[0] + 1, count[1] + len(frame)
        bench.program.test_run(frame)
    keys, values = bench.drain()
    assert bench.statistic() == expected
    assert values["packets"].sum() == expected[Statistic.METERED][0]
    assert expected[Statistic.FILTERED][0] > 10


def test_the_filter_of_a_device_without_ethernet_begins_with_ip():
    classic = compile_classic("udp dst port 443", RAW_IP)
    assert classic != compile_classic("udp dst port 443", ETHERNET)
    packet = packets.FRAMES["udp"][14:]
    assert libpcap_matches(classic, packet)
