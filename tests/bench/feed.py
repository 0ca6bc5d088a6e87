"""What a viewer of the live feed costs a collector: its CPU seconds a million flows without one and with one.

A collector (-f common) is loaded by ``pyflowx generate`` at a steady rate; spans without a viewer and spans
with one follow each other, so that whatever else the machine does falls on both. Bar: at most 2 % more. Usage:
``feed.py [packets a second] [pairs of spans] [seconds of a span] [format]``; the format is ``discard`` if not given.
"""

from __future__ import annotations

import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyflowx.live import FeedReader

FLOWS_PER_PACKET = 24
BAR = 0.02


def schedule_ns(pid: int) -> int:
    """Time of a process on a CPU, all of its threads (/proc/PID/task/*/schedstat)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


@contextmanager
def collector(feed: Path, form: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    options = ("-H", "127.0.0.1", "-p", "0", "-f", "common", "-s", form, "--no-metrics", "--live", str(feed))
    command = [sys.executable, "-m", "pyflowx", "collect", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"port (\d+)", process.stderr.readline())
        assert found is not None and "live feed" in process.stderr.readline()
        yield process, int(found[1])
        process.send_signal(signal.SIGTERM)
        print(process.communicate()[1].strip(), file=sys.stderr)


@contextmanager
def load(port: int, rate: int) -> Iterator[None]:
    options = ("-H", "127.0.0.1", "-p", str(port), "-r", str(rate), "-f", str(FLOWS_PER_PACKET), "-n", "0")
    command = [sys.executable, "-m", "pyflowx", "generate", *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        yield
        process.send_signal(signal.SIGINT)
        process.wait()


@contextmanager
def viewer(feed: Path, wanted: bool) -> Iterator[list[int]]:
    """Reads everything, as a screen does; the snapshots' octets are added up."""
    octets = [0]
    if not wanted:
        yield octets
        return
    reader = FeedReader(feed)
    reader.wait_for_ever()

    def read() -> None:
        for line in reader._file:
            octets[0] += len(line)

    thread = threading.Thread(target=read)
    thread.start()
    yield octets
    reader.interrupt()
    thread.join()
    reader.close()


def main() -> None:
    rate, pairs, seconds = (
        int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 5000), (2, 8), (3, 4))
    )
    form = sys.argv[4] if len(sys.argv) > 4 else "discard"
    cost: dict[bool, list[float]] = {False: [], True: []}
    seen = 0
    with tempfile.TemporaryDirectory() as folder:
        feed = Path(folder, "feed.sock")
        with collector(feed, form) as (process, port), load(port, rate):
            time.sleep(2)
            for span in range(2 * pairs):
                wanted = span % 4 in (1, 2)  # without, with, with, without: what drifts falls on both
                with viewer(feed, wanted) as octets:
                    time.sleep(0.3)
                    begin, before = time.monotonic(), schedule_ns(process.pid)
                    time.sleep(seconds)
                    used, took = schedule_ns(process.pid) - before, time.monotonic() - begin
                cost[wanted].append(used / 1e9 / took)
                seen += octets[0]
    without, with_one = (statistics.median(cost[wanted]) for wanted in (False, True))
    ratio = with_one / without - 1
    flows = rate * FLOWS_PER_PACKET
    print(f"{form}: {flows} flows/s; spans of {seconds} s, {pairs} of each, medians")
    for name, share in (("without a viewer", without), ("with one", with_one)):
        print(f"  {name:<17} {100 * share:6.2f} % of a core, {1e6 * share / flows:.3f} CPU s a million flows")
    sent = seen / 1e6 / pairs / seconds
    print(f"  a viewer costs {100 * ratio:+.2f} %, and is sent {sent:.2f} MB/s; bar {100 * BAR:.0f} %")
    print("ok" if ratio <= BAR else "TOO MUCH")


if __name__ == "__main__":
    main()
