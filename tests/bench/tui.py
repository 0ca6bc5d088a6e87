"""The TUI under load: 100 000 flows, all of which change twice a second, on a real pseudo-terminal.

Prints the share of a core that it takes (process time), and the time from a key to the cursor's new line on the
terminal. Usage: python tests/bench/tui.py [--flows 100000] [--seconds 20] [--size 160x50] [--screen flows]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

KEYS = 60
HEADER = 2  # lines above the rows: the screen that is shown has the cursor's colour too
CURSOR = re.compile(rb"\x1b\[(\d+);\d+H(?:(?!\x1b\[\d+;\d+H).)*?48;2;1;120;212", re.DOTALL)  # a line in its colour


class Load:
    """A source whose snapshots change every flow, twice a second; as a collector in this process gives them."""

    name, state, message = "load", "live", ""
    hello = {"role": "collect"}

    def __init__(self, flows: int) -> None:
        from pyflowx.common import TABLE, CommonBatch, CommonColumn

        rng = np.random.default_rng(1)
        dtypes = {"u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8", "time": "i8", "mac": "u8", "address": "u4"}
        columns = {
            column.name: CommonColumn(column.type, rng.integers(1, 200, flows).astype(dtypes.get(column.type, "u1")))
            for column in TABLE
        }
        for name in ("src_addr", "dst_addr"):
            columns[name] = CommonColumn("address", rng.integers(1, 2**32, flows).astype(np.uint32))
        columns["flow_type"] = CommonColumn("label", np.zeros(flows, np.uint8), None, ("IPFIX",))
        heavy = rng.pareto(1.2, flows) * 3000
        counts = [heavy * factor for factor in (1.0, 1.2, 0.9, 1.1)]  # all change, none overtakes: the cursor stays
        self._batches = [
            CommonBatch({**columns, "bytes": CommonColumn("u64", octets.astype(np.uint64))}, flows) for octets in counts
        ]
        self._next = time.monotonic()
        self._number = 0

    def poll(self) -> list[dict[str, object]]:
        if time.monotonic() < self._next:
            return []
        self._next += 0.5
        self._number += 1
        batch = self._batches[self._number % len(self._batches)]
        flows = {"flows": len(batch), "octets": 1, "packets": 1, "batches": [batch]}
        return [{"number": self._number, "dropped": 0, "time_ns": time.time_ns(), "flows": flows}]

    def close(self) -> None:
        pass


def child(options: argparse.Namespace) -> None:
    from pyflowx_tui.app import PyflowxApp, run
    from pyflowx_tui.settings import Settings

    app = PyflowxApp([Load(options.flows)], Settings(theme="textual-dark"), screen=options.screen)
    if options.profile:
        import cProfile

        profile = cProfile.Profile()
        profile.runcall(run, app)
        profile.dump_stats(options.profile)
    else:
        run(app)


@contextmanager
def terminal(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(process, its terminal)."""
    columns, rows = map(int, options.size.split("x"))
    pid, fd = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        os.environ.pop("NO_COLOR", None)
        os.execv(sys.executable, [sys.executable, __file__, "--child", *sys.argv[1:]])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    os.kill(pid, signal.SIGWINCH)
    try:
        yield pid, fd
    finally:
        os.write(fd, b"q")
        read_for(fd, 1)
        os.close(fd)
        os.waitpid(pid, 0)


def read_for(fd: int, seconds: float) -> bytes:
    """What comes in a while."""
    end, found = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            try:
                found += os.read(fd, 1 << 16)
            except OSError:  # the process has ended
                break
    return found


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def echo_delays(rng: np.random.Generator) -> list[float]:
    """Seconds from a key to its echo by a program that does nothing else: what terminal and machine take anyhow."""
    pid, fd = pty.fork()
    if pid == 0:
        tty.setraw(0)
        os.execvp("cat", ["cat", "-u"])
    read_for(fd, 0.5)
    found = []
    for _ in range(KEYS):
        time.sleep(float(rng.uniform(0.05, 0.15)))
        begin = time.monotonic()
        os.write(fd, b"k")
        os.read(fd, 16)
        found.append(time.monotonic() - begin)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(fd)
    return found


def told(delays: list[float]) -> str:
    delays = sorted(delays)
    p95 = delays[int(0.95 * len(delays))]
    return f"median {1e3 * statistics.median(delays):.0f} ms, 95% {1e3 * p95:.0f} ms, most {1e3 * delays[-1]:.0f} ms"


def cursor_line(painted: bytes) -> int | None:
    """The line of the terminal that the cursor was painted in last."""
    return next((line for line in map(int, reversed(CURSOR.findall(painted))) if line > HEADER), None)


def key_to_paint(fd: int, rng: np.random.Generator) -> list[float]:
    """Seconds from each key to the first paint of the cursor in another line of the terminal."""
    os.write(fd, b"\x1b[6~" + 12 * b"\x1b[A")  # where ten lines further down need no scrolling
    line = cursor_line(read_for(fd, 1.5)) or 0
    found = []
    for number in range(KEYS):
        read_for(fd, float(rng.uniform(0.05, 0.35)))  # at any phase of the refreshes
        begin, seen, new = time.monotonic(), b"", line
        os.write(fd, b"\x1b[B" if number % 20 < 10 else b"\x1b[A")
        while new == line and time.monotonic() - begin < 5:
            seen += os.read(fd, 1 << 16) if select.select([fd], [], [], 0.5)[0] else b""
            new = cursor_line(seen) or line
        found.append(time.monotonic() - begin)
        line = new
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--size", default="160x50")
    parser.add_argument("--screen", default="flows")
    parser.add_argument("--profile")
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    with terminal(options) as (pid, fd):
        read_for(fd, 6)
        before, begin = cpu_seconds(pid), time.monotonic()
        octets = len(read_for(fd, options.seconds))
        share = (cpu_seconds(pid) - before) / (time.monotonic() - begin)
        delays = key_to_paint(fd, np.random.default_rng(2))
    anyhow = echo_delays(np.random.default_rng(3))
    print(
        f"{options.flows} flows, all changed at 2 Hz, {options.screen} at {options.size}: {100 * share:.1f}% of a core"
    )
    print(f"{octets / options.seconds / 1e3:.0f} kB/s to the terminal")
    print(f"key to paint: {told(delays)} ({KEYS} keys); an echo takes {told(anyhow)}")


if __name__ == "__main__":
    main()
