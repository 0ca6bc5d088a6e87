"""CPU seconds of a collector per million flows: ``python tests/bench/collect.py [packets a second]``.

The load is ``pyflowx generate``: 10,000 packets a second of 19 IPFIX flows over loopback, for 6 seconds. CPU is that of
the collector's whole process, its start and end included. Then the latency of a line, from the send call of a single
datagram until the line has been read. Bars: 0.35 (discard), 1.2 (NDJSON); a line within 100 ms.
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


def start(*options: str, **settings) -> tuple[subprocess.Popen, int]:
    command = [*PYFLOWX, "collect", "-H", "127.0.0.1", "-p", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)
    return process, int(re.search(r"port (\d+)", process.stderr.readline())[1])


def run(name: str, rate: int, *options: str) -> None:
    packets = rate * SECONDS
    with tempfile.TemporaryDirectory() as folder:
        output = ["-o", str(Path(folder, "out.json"))] if "discard" not in options else []
        process, port = start(*options, *output)
        load = [*PYFLOWX, "generate", "-p", str(port), "-r", str(rate), "-n", str(packets), "-f", str(FLOWS_A_PACKET)]
        subprocess.run(load, check=True, stderr=subprocess.DEVNULL)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, said
    flows = int(re.search(r"IPFIX: \d+ messages, (\d+) flows", said)[1])
    lost = packets * FLOWS_A_PACKET - flows
    seconds = (usage.ru_utime + usage.ru_stime) / flows * 1e6
    print(
        f"{name:<16} {seconds:6.3f} CPU s per million flows "
        f"(user {usage.ru_utime:.2f} s, system {usage.ru_stime:.2f} s), {usage.ru_maxrss >> 10} MiB, {lost} flows lost"
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
    run("common, discard", rate, "-f", "common", "-s", "discard")
    run("common, NDJSON", rate, "-f", "common")
    run("raw, NDJSON", rate, "-f", "raw")
    latency()
