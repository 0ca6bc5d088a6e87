"""On a machine: has its kernel verify the programs of all options, attaches none. ``load N OF``: the N-th part of them,
counted from 0. Prints a JSON object: what is tried -> null, or in one line what the kernel lacks."""

from __future__ import annotations

import itertools
import json
import socket
import sys
from contextlib import ExitStack
from functools import partial

from pyflowx.errors import KernelError
from pyflowx.kernel.gate import Gate, GateConfig
from pyflowx.kernel.meter import Meter
from pyflowx.kernel.programs import variants
from pyflowx.kernel.steering import Steering

# The other direction differs in a constant, and without Ethernet headers there is less to verify: once is enough of
# what emulation makes dear.
HOOKS = ("ingress", "xdp")
OTHERS = ("egress", "ingress_ip", "egress_ip")


def words(config):
    """The options of ``pyflowx export``."""
    chosen = {"--mode packet": config.mode == "packet", "--key ether": config.key == "ether"}
    chosen |= {"--tunnels": config.tunnels, "--filter": bool(config.filter)}
    return " ".join(["export", *(option for option, given in chosen.items() if given)])


def meter(config):
    with Meter(config) as loaded:
        loaded.load(*HOOKS, *(OTHERS if words(config) == "export" else ()))
        return loaded.note


def gate(redirect):
    Gate(GateConfig(["lo"], redirect=redirect)).close()


def steering():
    with ExitStack() as stack:
        group = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for sock in group:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(group[0].getsockname() if sock is not group[0] else ("127.0.0.1", 0))
        return Steering([group]).reason


def tried(load):
    try:
        return load() or None
    except KernelError as error:
        return str(error).replace("\n", " ")


if __name__ == "__main__":
    all_of_them = {words(config): partial(meter, config) for config in variants()}
    all_of_them |= {"collect --xdp": partial(gate, False), "collect --xdp --af-xdp": partial(gate, True)}
    all_of_them["collect --workers"] = steering
    first, step = map(int, sys.argv[1:])
    print(json.dumps({name: tried(load) for name, load in itertools.islice(all_of_them.items(), first, None, step)}))
