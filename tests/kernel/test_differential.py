"""The same packets on one link through softflowd, nfpcapd and our exporter: each flow has the same totals."""

from __future__ import annotations

import contextlib
import json
import random
import re
import struct
from pathlib import Path

import demo
import exports
import pytest
from exports import COLLECTOR, HERE, THERE
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from pyflowx.common import to_common
from pyflowx.sinks.ndjson import CommonNdjson

pytestmark = pytest.mark.kernel

FLOWS, PACKETS = 600, 12_000
RATE = 6000  # packets/s: what the others' buffers hold
ETHER = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:99")  # to nobody: no answers
LINKS = (ETHER, ETHER / Dot1Q(vlan=7), ETHER)  # of the flows in turn; the last ones have more headers: IPv4 options ...


def transport(number):
    ports = {"sport": 20_000 + number, "dport": (53, 443, 8080)[number % 3]}
    if number % 10 == 9:
        return None, 0
    return (UDP(**ports), 17) if number % 2 else (TCP(**ports, flags="PA"), 6)


def flow(number):
    """(key, its frames: of two sizes, octets of their link headers, whether there are IPv6 extension headers)."""
    link, extended = LINKS[number % 3], number % 3 == 2
    part, protocol = transport(number)
    if number % 4:
        ip = IP(src=f"10.1.{number >> 8}.{number & 255}", dst="203.0.113.5", tos=number % 64 * 4)
        if extended:
            ip.options = [IPOption_NOP()] * 4
        part, protocol = (part, protocol) if part is not None else (ICMP(type=8, id=number), 1)
    else:
        ip = IPv6(src=f"2001:db8::{number + 1:x}", dst="2001:db8:9::5", tc=number % 64 * 4)
        part, protocol = (part, protocol) if part is not None else (ICMPv6EchoRequest(id=number), 58)
    headers = ip / IPv6ExtHdrDestOpt() if extended and ip.version == 6 else ip
    frames = [bytes(link / headers / part / Raw(bytes(size))) for size in (1 + number, 20)]
    ports = (part.sport, part.dport) if protocol in (6, 17) else (0, 0)
    return (ip.src, ip.dst, *ports, protocol), frames, len(link), extended and ip.version == 6


@pytest.fixture
def traffic(tmp_path):
    """(capture file, what it holds: key -> [packets, IP octets]; of that what nfpcapd can read)."""
    flows = [flow(number) for number in range(FLOWS)]
    choose, totals, readable = random.Random(6), {}, {}
    with open(tmp_path / "traffic.pcap", "wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1))
        for number in range(PACKETS):
            key, frames, link_len, is_extended = flows[number] if number < FLOWS else choose.choice(flows)
            frame = choose.choice(frames)
            file.write(struct.pack("=IIII", number // RATE, number % RATE * 1_000_000 // RATE, len(frame), len(frame)))
            file.write(frame)
            sums = totals.setdefault(key, [0, 0])
            sums[0] += 1
            sums[1] += len(frame) - link_len
            if not is_extended:  # nfpcapd does not look behind extension headers
                readable[key] = sums
    return file.name, totals, readable


def per_flow(rows):
    """key -> [packets, octets] of rows of the common schema, as far as the packets are ours."""
    found = {}
    for row in rows:
        ports = (row["src_port"], row["dst_port"]) if row["proto"] in (6, 17) else (0, 0)
        sums = found.setdefault((row["src_addr"], row["dst_addr"], *ports, row["proto"]), [0, 0])
        sums[0] += row["packets"]
        sums[1] += row["bytes"]
    return found


def rows_of(collector):
    encoder = CommonNdjson()
    batches = [batch for decoded in collector.decoded for batch in to_common(decoded)]
    return [
        json.loads(line) for batch in batches for _, text in encoder.encode(batch) for line in bytes(text).splitlines()
    ]


def nfdump_rows(folder):
    """What nfpcapd wrote, in the words of the common schema."""
    for row in json.loads(demo.run("nfdump", "-R", str(folder), "-o", "json")):
        if row["type"] == "FLOW":
            ends = {f"{end}_addr": row.get(f"{end}4_addr") or row[f"{end}6_addr"] for end in ("src", "dst")}
            yield {"src_port": 0, "dst_port": 0, **row, **ends, "packets": row["in_packets"], "bytes": row["in_bytes"]}


def tasks_there():
    """(name, what it waits for) of each thread in the metered namespace."""
    for pid in demo.run("ip", "netns", "pids", HERE).split():
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):  # it has just ended
                yield (task / "comm").read_text().strip(), (task / "wchan").read_text()


def are_reading(*names):
    """Whether programs that are to read packets wait for some."""
    return {name for name, waits_in in tasks_there() if "poll" in waits_in} >= set(names)


def softflowd_packets(control):
    said = demo.run("softflowctl", "-c", control, "statistics")
    return int(re.search(r"Packets processed: (\d+)", said)[1])


def test_each_flow_has_the_totals_that_softflowd_and_nfpcapd_see(stack, traffic, tmp_path):
    """Two exporters of ours at the same time, at TC and at XDP."""
    capture, expected, of_nfpcapd = traffic
    ports = dict(zip(("tc", "xdp", "softflowd"), range(exports.PORT, exports.PORT + 3), strict=True))
    collectors = {name: exports.Collector(stack, port=port) for name, port in ports.items()}
    folder, control = tmp_path / "nfpcapd", str(tmp_path / "control")
    folder.mkdir()
    softflowd = f"softflowd -d -i wire -B 50000000 -m 100000 -v 10 -n {COLLECTOR}:{ports['softflowd']}"
    programs = [exports.export(stack, "--hook", hook, "-p", str(ports[hook])) for hook in ("tc", "xdp")]
    demo.link_up()
    end_softflowd = exports.start(stack, *softflowd.split(), "-p", f"{tmp_path}/pid", "-c", control, namespace=HERE)
    end_nfpcapd = exports.start(stack, *f"nfpcapd -i wire -w {folder} -t 3600".split(), namespace=HERE)
    exports.wait_until(lambda: are_reading("softflowd", "nfpcapd"))
    nudge = exports.talk(stack, THERE, "192.0.2.1", [9])  # softflowd leaves packets in its buffer until more come
    with demo.inside(THERE):
        demo.run("tcpreplay", "-q", "-i", "wire", f"--pps={RATE}", capture)
    exports.wait_until(lambda: nudge.send(exports.payloads(10, 50)) or softflowd_packets(control) > PACKETS + 100)
    for program in programs:
        program.end()
    demo.run("softflowctl", "-c", control, "shutdown")
    exports.wait_until(lambda: "softflowd" not in dict(tasks_there()))
    end_softflowd()
    end_nfpcapd()
    for collector in collectors.values():
        collector.end()
    rows = {name: rows_of(collector) for name, collector in collectors.items()} | {"nfpcapd": list(nfdump_rows(folder))}
    assert sum(packets for packets, _ in expected.values()) == PACKETS
    for name, found in ((name, per_flow(each)) for name, each in rows.items()):
        wanted = of_nfpcapd if name == "nfpcapd" else expected
        differing = {key: (sums, found.get(key)) for key, sums in wanted.items() if found.get(key) != sums}
        assert not differing, (name, len(differing), dict(list(differing.items())[:3]))
