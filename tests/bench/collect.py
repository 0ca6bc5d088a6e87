"""CPU seconds of a collector per million flows: ``python tests/bench/collect.py [packets a second] [folder]``.

The load is ``pyflowx generate``: 10,000 packets a second of 19 IPFIX flows over loopback, for 6 seconds, once for each
format. CPU is that of the collector's whole process, its start and end included. Files go into the folder, a temporary
one if none is given: writing to memory that a virtual machine's host has to find first costs system time
that is not ours (a tmpfs that was filled before shows it). Then what is lost at rates at which nothing should be, with
the generator beside it. Then the latency of a line, from the send call of a single datagram until the line has been
read.
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

SECONDS, FLOWS_A_PACKET = 6, 19
PYFLOWX = [sys.executable, "-m", "pyflowx"]
LINES = 100
BARS = {  # CPU seconds
    "discard": 0.30,
    "json": 1.2,
    "csv": 0.85,
    "parquet": 0.60,
    "protobuf": 0.80,
    "arrow-ipc": 0.35,
}
LOSS_FREE = {"discard": 100_000, "arrow-ipc": 100_000, "parquet": 60_000}  # packets a second


def start(*options: str, **settings) -> tuple[subprocess.Popen, int]:
    command = [*PYFLOWX, "collect", "-H", "127.0.0.1", "-p", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)
    return process, int(re.search(r"port (\d+)", process.stderr.readline())[1])


def run(
    name: str, rate: int, folder: str | None, *options: str, seconds: int = SECONDS, bar: float | None = None
) -> None:
    packets = rate * seconds
    with tempfile.TemporaryDirectory(dir=folder) as place:
        output = ["-o", str(Path(place, "out"))] if "discard" not in options else []
        process, port = start("--no-metrics", "--no-live", *options, *output)
        load = [*PYFLOWX, "generate", "-p", str(port), "-r", str(rate), "-n", str(packets), "-f", str(FLOWS_A_PACKET)]
        subprocess.run(load, check=True, stderr=subprocess.DEVNULL)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, said
    flows = int(re.search(r"IPFIX: \d+ messages, (\d+) flows", said)[1])
    lost = packets * FLOWS_A_PACKET - flows
    cost = (usage.ru_utime + usage.ru_stime) / flows * 1e6
    print(
        f"{name:<16} {cost:6.3f} CPU s per million flows{f' (bar {bar:.2f})' if bar else ''}: "
        f"user {usage.ru_utime:.2f} s, system {usage.ru_stime:.2f} s, {usage.ru_maxrss >> 10} MiB, {lost} flows lost"
    )


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
    for form, bar in BARS.items():
        run(f"common, {form}", rate, folder, "-f", "common", "-s", form, bar=bar)
    run("raw, json", rate, folder, "-f", "raw")
    for form, most in LOSS_FREE.items():
        run(f"{form} at {most}", most, folder, "-f", "common", "-s", form, seconds=3)
    latency()
