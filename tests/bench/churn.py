"""Ten million packets of flows that come and go, at each hook: ``python tests/bench/churn.py``. Needs root.

Half of 32,768 flows stay, the others are new in each of 320 rounds: 5 M flows. Packets and octets of all flows must
be what the interface counted, and each flow must have exactly its packets, while the maps swap twenty times a second.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "kernel")]
from turnover import churn
from wires import Sender, Wire

ROUNDS = 320


def main() -> None:
    print(f"{'hook':<6} {'packets':>12} {'drains':>7} {'seconds':>8}")
    for hook in ("tc", "xdp"):
        with contextlib.ExitStack() as stack:
            wire = Wire(stack)
            make = lambda frames, stack=stack: stack.enter_context(contextlib.closing(Sender(frames)))  # noqa: E731
            begin = time.perf_counter()
            packets, drains = churn(wire, make, hook, ROUNDS)
            seconds = time.perf_counter() - begin
            print(f"{hook:<6} {packets:>12,} {drains:>7} {seconds:>8.0f}  equal", flush=True)


if __name__ == "__main__":
    main()
