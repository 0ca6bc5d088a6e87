"""The options of ``pyflowx export``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from pyflowx.cli.config import is_given
from pyflowx.errors import ConfigError

SECONDS = click.IntRange(1, 86_400)
_F = TypeVar("_F", bound=Callable[..., Any])


def meter_options(command: _F) -> _F:
    """Where packets are metered, and with how much room."""
    options = (
        click.option(
            "-i",
            "--interface",
            "interfaces",
            multiple=True,
            default=["lo"],
            show_default=True,
            help="What to meter; repeatable.",
        ),
        click.option("--promiscuous", is_flag=True, help="Receive what is for others too."),
        click.option(
            "--hook",
            type=click.Choice(["auto", "xdp", "tc"]),
            default="auto",
            show_default=True,
            help="Where in the kernel; auto: native XDP on ingress where the driver has it, TC elsewhere.",
        ),
        click.option(
            "--direction",
            type=click.Choice(["both", "ingress", "egress"]),
            default="both",
            show_default=True,
            help="Packets that come in, that go out, or both; XDP sees those that come in.",
        ),
        click.option(
            "--max-flows",
            type=click.IntRange(1, 1 << 24),
            default=1 << 18,
            show_default=True,
            help="Flows at once, in the kernel (some 480 octets each) and in the flow table; when full, "
            "the oldest end early.",
        ),
        click.option(
            "--run-statistics",
            is_flag=True,
            help="Measure ns a packet on and on (20 to 70 ns a packet), not of the first 100,000 packets only.",
        ),
    )
    return _with(command, options)


def selection_options(command: _F) -> _F:
    """Which packets are metered, and what a flow is."""
    options = (
        click.option(
            "--filter", default="", metavar="EXPRESSION", help="Meter what matches, in tcpdump's words: 'tcp port 443'."
        ),
        click.option(
            "--sampling-packet-interval",
            "sampling_interval",
            type=click.IntRange(1, 2**32 - 1),
            default=1,
            show_default=True,
            help="Meter one packet in so many; counters are not scaled, options records tell the rate.",
        ),
        click.option("--sampling-random", is_flag=True, help="Sample by chance instead of each n-th packet."),
        click.option("--tunnels", is_flag=True, help="Meter what is inside of IP-in-IP, GRE, VXLAN and Geneve."),
        click.option(
            "--key",
            type=click.Choice(["ip", "proto", "full", "vlan", "ether"]),
            default="vlan",
            show_default=True,
            help="What tells flows apart: addresses; and protocol; and ports and ToS; and VLANs; and MAC addresses.",
        ),
    )
    return _with(command, options)


def record_options(command: _F) -> _F:
    """When flows become records, and how these look."""
    options = (
        click.option(
            "--active-timeout",
            type=SECONDS,
            default=60,
            show_default=True,
            help="Seconds after which a long flow is cut.",
        ),
        click.option(
            "--inactive-timeout",
            type=SECONDS,
            default=15,
            show_default=True,
            help="Seconds without a packet that end a flow.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["flows", "packet"]),
            default="flows",
            show_default=True,
            help="Records of flows, or of each (sampled) packet with its first octets (PSAMP, RFC 5476).",
        ),
        click.option(
            "--clip-length",
            type=click.IntRange(1, 1280),
            default=128,
            show_default=True,
            help="Octets of a packet, in mode packet.",
        ),
        click.option("--biflow", is_flag=True, help="Both directions of a conversation in one record (RFC 5103)."),
        click.option(
            "--time-unit",
            type=click.Choice(["s", "ms", "us", "ns"]),
            default="ms",
            show_default=True,
            help="Of a flow's start and end in IPFIX; with us and ns a busy processor times every packet.",
        ),
        click.option(
            "--observation-domain-id",
            type=click.IntRange(0, 2**32 - 1),
            default=1,
            show_default=True,
            help="Tells exporters behind one address apart.",
        ),
    )
    return _with(command, options)


def collector_options(command: _F) -> _F:
    """Where records go."""
    options = (
        click.option(
            "-H",
            "--collector-host",
            "collectors",
            multiple=True,
            default=["127.0.0.1"],
            show_default=True,
            help="Name, IPv4 or IPv6 address; repeatable: each gets all flows.",
        ),
        click.option(
            "-p",
            "--collector-port",
            type=click.IntRange(1, 65535),
            default=4739,
            show_default=True,
            help="UDP or TCP port.",
        ),
        click.option(
            "--protocol",
            type=click.Choice(["ipfix", "netflow9", "netflow5"]),
            default="ipfix",
            show_default=True,
            help="How flows are encoded; NetFlow v5 carries IPv4 only.",
        ),
        click.option(
            "--transport",
            type=click.Choice(["udp", "tcp"]),
            default="udp",
            show_default=True,
            help="TCP is for IPFIX; a connection that breaks is made again.",
        ),
        click.option(
            "--template-refresh-rate",
            type=SECONDS,
            default=300,
            show_default=True,
            help="Seconds between Templates (over TCP: options records).",
        ),
        click.option("--dry-run", is_flag=True, help="Print flows as NDJSON instead of sending them."),
        click.option(
            "--user", metavar="NAME", help="Whom to run as when the programs are attached.  [default: who started it]"
        ),
    )
    return _with(command, options)


def _with(command: _F, options: Sequence[Callable[[_F], _F]]) -> _F:
    for option in reversed(options):
        command = option(command)
    return command


_OF_FLOWS = ("key", "tunnels", "biflow", "active_timeout", "inactive_timeout", "max_flows", "time_unit")


def _check_use(options: Mapping[str, Any]) -> None:
    """Options that would do nothing."""
    if options["mode"] == "packet":
        for name in filter(is_given, _OF_FLOWS):
            raise ConfigError(f"--{name.replace('_', '-')} is about flows, and --mode packet makes none; leave one out")
    elif is_given("clip_length"):
        raise ConfigError("--clip-length is for --mode packet; give that too, or leave it out")
    if options["sampling_random"] and options["sampling_interval"] == 1:
        raise ConfigError("--sampling-random chooses nothing of all packets; give --sampling-packet-interval 100 too")


def check(options: Mapping[str, Any]) -> None:
    """Combinations that mean nothing."""
    _check_use(options)
    protocol = options["protocol"]
    if protocol != "ipfix":
        ways = (
            ("--transport tcp", "transport", "udp"),
            ("--biflow", "biflow", False),
            ("--mode packet", "mode", "flows"),
        )
        for name, value, usual in ways:
            if options[value] != usual:
                raise ConfigError(f"{name} is for --protocol ipfix, not {protocol}; leave one of them out")
        if options["time_unit"] != "ms":
            raise ConfigError(f"--time-unit: {protocol} has milliseconds only; leave it out or give --protocol ipfix")
    if protocol == "netflow5":
        if options["observation_domain_id"] > 0xFFFF:
            raise ConfigError("--observation-domain-id: NetFlow v5 has 16 bits for it; give 0 to 65535")
        if options["sampling_interval"] > 0x3FFF:
            raise ConfigError("--sampling-packet-interval: NetFlow v5 has 14 bits for it; give 1 to 16383")
