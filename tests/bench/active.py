"""CPU of an exporter in its steady state: ``python tests/bench/active.py [flows]``. Needs root.

100,000 flows of which each has a packet a second (the bar: 15 % of a core at a tick of 1 s), then a million flows
that share 200,000 packets a second; over veth, with the default timeouts. ``drain each tick``: what it costs where
the maps are drained once a second, which the exporter does less often when it is dear. No packet may be lost.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
import time

import exporters

from pyflowx.live import FeedReader

WARM_S, SECONDS = 8, 20
BAR = 15.0  # % of a core
CASES = ((100_000, 100_000), (1_000_000, 200_000))  # flows, packets/s
EACH_TICK = "import sys; from pyflowx.exporting import exporter; exporter.MAX_DRAIN_TICKS = 1; "
WAYS = {
    "as it is": ["-m", "pyflowx"],
    "drain each tick": ["-c", EACH_TICK + "sys.argv[0] = 'pyflowx'; from pyflowx.cli import main; main()"],
}


def measure(load: exporters.Load, rate: int, program: list[str], feed: str) -> tuple[float, dict, int]:
    """(% of a core, the feed's last snapshot, packets that the records told of)."""
    collector = exporters.Collector()
    command = [sys.executable, *program, "export", "-i", "v", "-H", "127.0.0.1", "-p", str(exporters.PORT)]
    command += ["--direction", "ingress", "--no-metrics", "--live", feed, "--max-flows", str(load.flows + 5000)]
    process = exporters.start(exporters.Candidate(command, "live feed"))
    sending = threading.Thread(target=load.send, args=(rate, rate * (WARM_S + SECONDS)), daemon=True)
    sending.start()
    time.sleep(WARM_S)
    before, begin = exporters.process_cpu(process.pid), time.perf_counter()
    sending.join()
    share = 100 * (exporters.process_cpu(process.pid) - before) / (time.perf_counter() - begin)
    with FeedReader(feed) as reader:
        snapshot = next(iter(reader))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    return share, snapshot, collector.end()


def main() -> None:
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        exporters.build(stack)
        print(f"{'flows':>9} {'packets/s':>10}  {'':<16} {'% of a core':>11} {'drains':>7} {'drain ms':>9} {'lost':>6}")
        for flows, rate in (case for case in CASES if not sys.argv[1:] or str(case[0]) in sys.argv[1:]):
            load = exporters.Load(flows)
            for name, program in WAYS.items():
                share, snapshot, told = measure(load, rate, program, f"{folder}/feed")
                kernel, lost = snapshot["map"], rate * (WARM_S + SECONDS) - told
                figures = f"{share:11.1f} {kernel['drains']:7} {kernel['drain_ns'] / 1e6:9.0f} {lost:6}"
                bar = "" if flows > CASES[0][0] else ("  ok" if share <= BAR else "  MISSED")
                print(f"{flows:9,} {rate:10,}  {name:<16} {figures}{bar}", flush=True)


if __name__ == "__main__":
    main()
