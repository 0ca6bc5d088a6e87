"""A collector under load for a long time: ``python tests/bench/soak.py [seconds] [packets/s] [collect options...]``.

600 seconds of IPFIX, 19 flows a packet, over loopback from ``pyflowx generate``; without a rate, at half of the highest
that passes 5 seconds without loss. Prometheus and a viewer of the live feed are attached all the time. Bars: not
one datagram dropped, every flow counted, and memory after the first minute (a third of a short run) within 10 % of what
it was then. Exit status 1 where one does not hold.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from pyflowx.live import FeedReader

FLOWS_A_PACKET = 19
PYFLOWX = [sys.executable, "-m", "pyflowx"]
DEFAULT = ["-f", "common", "-s", "discard"]
STEPS = (10_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000, 130_000, 160_000)  # packets a second
MARGIN = 0.10
SCRAPE_S = 10


class Collector:
    """A running collector: its port, its feed, what it said at the end."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        feed = folder / "feed.sock"
        listen = ["-H", "127.0.0.1", "-p", "0", "--live", str(feed)]
        metrics = ["--metrics-host", "127.0.0.1", "--metrics-port", "0"]
        command = [*PYFLOWX, "collect", *listen, *metrics, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.port = int(self._line(r"UDP port (\d+)"))
        self.metrics = self._line(r"metrics at (\S+/metrics)")
        self.feed = feed

    def _line(self, pattern: str) -> str:
        for line in self.process.stderr:
            if found := re.search(pattern, line):
                return found[1]
        raise SystemExit(f"the collector has ended with status {self.process.wait()}")

    def end(self) -> tuple[int, int, float]:
        """(flows, datagrams dropped, CPU seconds)."""
        self.process.send_signal(signal.SIGINT)
        said = self.process.stderr.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        assert status == 0, said
        flows = re.search(r"IPFIX: \d+ messages, (\d+) flows", said)
        dropped = re.search(r"(\d+) datagrams were dropped", said)
        return int(flows[1]), int(dropped[1]) if dropped else 0, usage.ru_utime + usage.ru_stime


def generate(port: int, rate: int, seconds: int) -> subprocess.Popen[bytes]:
    count = str(rate * seconds)
    load = ["-p", str(port), "-r", str(rate), "-n", count, "-f", str(FLOWS_A_PACKET)]
    return subprocess.Popen([*PYFLOWX, "generate", *load], stderr=subprocess.DEVNULL)


def passes(rate: int, options: list[str]) -> bool:
    """Whether 5 seconds at a rate lose nothing and take no longer than that."""
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder), options)
        begin = time.monotonic()
        generate(collector.port, rate, 5).wait()
        took = time.monotonic() - begin
        flows, dropped, _ = collector.end()
    good = not dropped and flows == rate * 5 * FLOWS_A_PACKET and took < 6.5
    print(f"{rate:>8} packets/s: {'passes' if good else f'{dropped} datagrams dropped, {took:.1f} s'}", flush=True)
    return good


def half_of_the_highest(options: list[str]) -> int:
    best = 0
    for rate in STEPS:
        if not passes(rate, options):
            break
        best = rate
    return best // 2


def scrape(url: str, ended: threading.Event, seen: list[int]) -> None:
    while not seen or not ended.wait(SCRAPE_S):
        with urllib.request.urlopen(url) as answer:
            seen.append(len(answer.read()))


def watch(collector: Collector, load: subprocess.Popen[bytes], seconds: int) -> tuple[int, int]:
    """Memory after the warm-up, and the most after that."""
    begin, warm_s, base, most = time.monotonic(), min(60, seconds / 3), 0, 0
    with FeedReader(collector.feed) as reader:
        for snapshot in reader:
            passed = time.monotonic() - begin
            memory = snapshot["counters"]["memory_octets"]
            if passed >= warm_s:
                base = base or memory
                most = max(most, memory)
            if snapshot["number"] % 10 == 0:
                flows, dropped = snapshot["counters"]["flows"], snapshot["socket"]["dropped"]
                print(f"{passed:6.0f} s {memory / 1e6:8.1f} MB {flows:>14} flows {dropped} dropped", flush=True)
            if load.poll() is not None:
                break
    return base, most


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    options = sys.argv[3:] or DEFAULT
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else half_of_the_highest(options)
    if not rate:
        print("no rate passes without loss")
        return 1
    print(f"{seconds} s at {rate} packets/s, {rate * FLOWS_A_PACKET} flows/s: {' '.join(options)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder), options)
        ended, scrapes = threading.Event(), []
        scraper = threading.Thread(target=scrape, args=(collector.metrics, ended, scrapes))
        scraper.start()
        base, most = watch(collector, generate(collector.port, rate, seconds), seconds)
        ended.set()
        scraper.join()
        flows, dropped, cpu = collector.end()
    missing = rate * seconds * FLOWS_A_PACKET - flows
    growth = most / base - 1
    print(f"{flows} flows, {missing} missing, {dropped} datagrams dropped, {len(scrapes)} scrapes")
    print(f"memory {base / 1e6:.1f} to {most / 1e6:.1f} MB: {growth:+.1%}")
    print(f"{cpu / flows * 1e6:.3f} CPU s per million flows")
    return int(bool(missing or dropped) or growth > MARGIN)


if __name__ == "__main__":
    sys.exit(main())
