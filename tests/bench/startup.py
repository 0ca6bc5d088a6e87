"""From the start of ``pyflowx export`` to its programs being attached. Needs root.

    sudo python tests/bench/startup.py

With compiled programs in the cache (warm) the bar is 0.3 s, and no library of the compiler may be in memory. The
interfaces are in a network namespace of their own: a veth (TC both ways, and with XDP forced), a TUN device (no
Ethernet header), lo. Once with an empty cache (cold: BCC compiles).
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

BAR_S = 0.3
ROUNDS = 11
COMPILER = re.compile(r"libLLVM|libclang|libbcc")
NAMESPACE = f"pyflowx-startup-{os.getpid()}"


class Start(NamedTuple):
    """Until all is attached: seconds, of them in this process; then libraries of the compiler in memory, MiB."""

    seconds: float
    cpu_seconds: float
    libraries: set[str]
    memory_mib: float


def start(options: list[str], environment: dict[str, str]) -> Start:
    words = [sys.executable, "-m", "pyflowx", "export", *options, "-p", "9", "--no-metrics", "--no-live"]
    begin = time.perf_counter()
    process = subprocess.Popen(["ip", "netns", "exec", NAMESPACE, *words], stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    said = b""
    for line in process.stderr:
        said += line
        if b"metering" in line:
            break
    seconds = time.perf_counter() - begin
    assert b"metering" in said, said.decode()
    cpu = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    libraries = set(COMPILER.findall(Path(f"/proc/{process.pid}/maps").read_text()))
    resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    process.terminate()
    process.communicate()
    assert process.returncode == 0 and resident is not None
    return Start(seconds, cpu / os.sysconf("SC_CLK_TCK"), libraries, int(resident[1]) / 1024)


def row(name: str, options: list[str], environment: dict[str, str], rounds: int, bar: float) -> bool:
    runs = [start(options, environment) for _ in range(rounds)]
    seconds = [run.seconds for run in runs]
    libraries = sorted(set().union(*(run.libraries for run in runs)))
    met = statistics.median(seconds) <= bar
    print(
        f"{name:<16}{min(seconds):8.3f}{statistics.median(seconds):8.3f}{min(run.cpu_seconds for run in runs):8.2f} s"
        f"{bar:>6g}  {'ok' if met else 'MISSED':<8}{runs[0].memory_mib:6.0f} MiB  "
        f"{', '.join(libraries) or 'no compiler in memory'}"
    )
    return met


def main() -> None:
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        for words in ("link add v type veth peer name w", "tuntap add t mode tun", "link set v up", "link set lo up"):
            subprocess.run(["ip", "-n", NAMESPACE, *words.split()], check=True)
        print(f"{'':<16}{'best':>8}{'median':>8}{'CPU':>8}  {'bar':>6}")
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "CACHE_DIRECTORY": folder}
            row("cold, veth", ["-i", "v"], environment, 1, 10)
            kinds = {"veth": ["-i", "v"], "tun": ["-i", "t"], "XDP": ["-i", "v", "--hook", "xdp"], "lo": ["-i", "lo"]}
            met = [row(f"warm, {name}", options, environment, ROUNDS, BAR_S) for name, options in kinds.items()]
        sys.exit(0 if all(met) else 1)
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


if __name__ == "__main__":
    main()
