"""What a collector costs: ``python tests/bench/collect.py [packets a second] [folder]``.

The load is ``pyflowx generate``: 10,000 packets a second of 19 IPFIX flows over loopback, for 6 seconds. For each
format the CPU seconds per million flows, of the collector's whole process, start and end included, the less of two
runs; the same with two fields of an MMDB table looked up for both addresses, without what loading the table takes
once; and the highest of some rates that passes without a loss, with the generator beside it. Files go into the folder,
a temporary one if none is given: writing to memory that a virtual machine's host has to find first costs system time
that is not ours (a tmpfs that was filled before shows it). Then the latency of a line, from the send call of a single
datagram until the line has been read.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from enrich import write_mmdb

SECONDS, FLOWS_A_PACKET = 6, 19
PYFLOWX = [sys.executable, "-m", "pyflowx"]
LINES = 100
PREFIXES = 40_000
STEPS = (20_000, 40_000, 60_000, 80_000, 100_000, 130_000)  # packets a second
# CPU seconds per million flows, and what is to pass without loss (packets a second)
BARS = {
    "discard": (0.30, 100_000),
    "json": (1.2, 0),
    "csv": (0.85, 0),
    "parquet": (0.60, 60_000),
    "protobuf": (0.80, 0),
    "arrow-ipc": (0.35, 100_000),
}


class Result(NamedTuple):
    """``cpu`` in seconds, ``memory`` in MiB; ``lost``: flows that were sent and not counted."""

    flows: int
    lost: int
    cpu: float
    memory: int

    @property
    def cost(self) -> float:
        """CPU seconds per million flows."""
        return self.cpu / self.flows * 1e6


def start(*options: str, **settings) -> tuple[subprocess.Popen, int]:
    command = [*PYFLOWX, "collect", "-H", "127.0.0.1", "-p", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)
    return process, int(re.search(r"port (\d+)", process.stderr.readline())[1])


def run(packets: int, rate: int, folder: str | None, *options: str) -> Result:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        output = ["-o", str(Path(place, "out"))] if "discard" not in options else []
        process, port = start("--no-metrics", "--no-live", *options, *output)
        load = ["-p", str(port), "-r", str(rate), "-n", str(packets), "-f", str(FLOWS_A_PACKET)]
        everywhere = ["--dst-cidr", "0.0.0.0/0"]
        subprocess.run([*PYFLOWX, "generate", *load, *everywhere], check=True, stderr=subprocess.DEVNULL)
        seen = Path("/proc", str(process.pid), "status").read_text()  # what getrusage says was inherited from us
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, said
    memory = int(re.search(r"VmHWM:\s+(\d+)", seen)[1]) >> 10
    flows = int(re.search(r"IPFIX: \d+ messages, (\d+) flows", said)[1])
    lost = packets * FLOWS_A_PACKET - flows
    return Result(flows, lost, usage.ru_utime + usage.ru_stime, memory)


def costs(rate: int, folder: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as tables:
        path = Path(tables, "geo.mmdb")
        write_mmdb(path, PREFIXES)
        enrich = ["--enrich", f"source={path},fields=src_addr@asn:src_asn|org:src_org;dst_addr@asn:dst_asn|org:dst_org"]
        nothing = ["-f", "common", "-s", "discard"]
        with_table, without = (min(run(1, 1, folder, *nothing, *more).cpu for _ in range(3)) for more in (enrich, []))
        once = with_table - without
        for form, (bar, _) in BARS.items():
            options = ["-f", "common", "-s", form]
            plain, rich = (
                min((run(rate * SECONDS, rate, folder, *options, *more) for _ in range(2)), key=lambda each: each.cpu)
                for more in ([], enrich)
            )
            print(
                f"{form:<10} {plain.cost:.3f} CPU s per million flows (bar {bar:.2f}), {plain.memory} MiB, "
                f"{plain.lost} lost; with fields of both addresses {(rich.cpu - once) / plain.cpu - 1:+.0%}, "
                f"and {once:.2f} s once",
                flush=True,
            )
    raw = run(rate * SECONDS, rate, folder, "-f", "raw")
    print(f"raw json   {raw.cost:.3f} CPU s per million flows, {raw.memory} MiB, {raw.lost} lost")


def highest_rates(folder: str | None) -> None:
    for form, (_, bar) in BARS.items():
        best, memory, note = 0, 0, ""
        for rate in STEPS:
            found = run(rate * 2, rate, folder, "-f", "common", "-s", form)
            memory = max(memory, found.memory)
            if found.lost:
                note = f"; at {rate} {found.lost / (found.flows + found.lost):.1%} are lost"
                break
            best = rate
        wanted = f" (bar {bar})" if bar else ""
        print(f"{form:<10} {best} packets/s pass without loss{wanted}{note}; {memory} MiB at most", flush=True)


def latency() -> None:
    """One datagram at a time, with pauses: low traffic."""
    process, port = start("-f", "common", stdout=subprocess.PIPE)
    fields = struct.pack(">HHHHHH", 2, 12, 256, 1, 1, 4)
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        for number in range(LINES):
            sets = fields + struct.pack(">HHI", 256, 8, number)
            begin = time.perf_counter()
            sock.send(struct.pack(">HHIII", 10, 16 + len(sets), 0, number, 1) + sets)
            assert json.loads(process.stdout.readline())["bytes"] == number
            found.append(time.perf_counter() - begin)
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate()
    found.sort()
    median, longest = found[LINES // 2] * 1e3, found[-1] * 1e3
    print(f"a line           {median:6.1f} ms after its datagram in the median, {longest:.1f} at most")


if __name__ == "__main__":
    rate = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    folder = sys.argv[2] if len(sys.argv) > 2 else None
    costs(rate, folder)
    highest_rates(folder)
    latency()
