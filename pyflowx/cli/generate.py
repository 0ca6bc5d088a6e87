"""``pyflowx generate``: made-up flows to load a collector."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.generating import Generator, Network, Summary

EPILOG = """
\b
Examples:
  pyflowx generate -p 9995                              1000 packets/s of 10 flows, IPFIX, until Ctrl-C
  pyflowx generate -p 9995 -r 10000 -n 50000            50,000 packets in 5 seconds
  pyflowx generate -p 2055 -t netflow9 -r 0             as fast as it goes
  pyflowx generate -p 6343 -t sflow                     sampled packets
  pyflowx generate -p 9995 --seed 7 -n 100              the same flows each time
  pyflowx generate -H 2001:db8::1 --src-cidr 2001:db8:1::/48 --dst-cidr 2001:db8:2::/48
  pyflowx generate -p 9995 --protocols tcp,udp,icmp --tcp-flags 0x12 --octet-range 64-1500

The exit status is 0, also after SIGINT and SIGTERM; 2 for an option that is not usable; 1 if nothing could be sent.
"""

IP_PROTOCOLS = {  # IANA "Assigned Internet Protocol Numbers", in lower case
    "icmp": 1,
    "igmp": 2,
    "ipv4": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "eigrp": 88,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}


def parse_range(option: str, text: str) -> tuple[int, int]:
    """``MIN-MAX``, or one number for both."""
    low, dash, high = text.partition("-")
    try:
        return int(low), int(high if dash else low)
    except ValueError:
        raise ConfigError(f"{option} {text}: give two numbers MIN-MAX, such as 1024-65535") from None


def parse_network(option: str, text: str) -> Network:
    """A prefix in CIDR notation; bits behind the prefix do not matter, an address alone is a prefix of one."""
    import ipaddress

    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError(f"{option} {text}: give a network such as 10.0.0.0/8 or 2001:db8::/32") from None


def parse_protocols(text: str) -> tuple[int, ...]:
    """IP protocols by number or IANA name, with commas between."""
    numbers = []
    for word in text.split(","):
        name = word.strip().lower()
        number = int(name) if name.isdecimal() and name.isascii() else IP_PROTOCOLS.get(name, -1)
        if not 0 <= number <= 255:
            known = ", ".join(IP_PROTOCOLS)
            raise ConfigError(f"--protocols {text}: {word!r} is no protocol; give numbers 0-255 or names of {known}")
        numbers.append(number)
    return tuple(numbers)


def parse_flags(text: str) -> int:
    """A number, hexadecimal with 0x."""
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"--tcp-flags {text}: give a number within 0-255, such as 18 or 0x12") from None


def report(summary: Summary, host: str, port: int) -> list[str]:
    """The lines that say what was done."""
    templates = f" and {summary.template_packets} of Templates" if summary.template_packets else ""
    sent = f"{summary.packets} packets{templates}, {summary.flows} flows, {summary.octets} octets"
    rates = f"{summary.rate:.1f} packets/s, {summary.flow_rate:.1f} flows/s"
    lines = [f"{sent} in {summary.seconds:.3f} s: {rates}; {summary.send_errors} send errors"]
    if summary.send_errors:
        lines.append(f"the last send error: {summary.last_error}")
    if summary.reports:
        lines.append(
            f"nobody listens on {host} port {port}: at least {summary.reports} packets came back as undeliverable"
        )
    return lines


def run(generator: Generator) -> Summary:
    """Run until it is done or SIGINT or SIGTERM arrives; these then do again what they did before."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: generator.stop()) for number in numbers]
    try:
        return generator.run()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@click.command("generate", epilog=EPILOG, short_help="Send made-up flows to load a collector.")
@click.option(
    "-H", "--host", default="127.0.0.1", show_default=True, help="Where to send: a name, IPv4 or IPv6 address."
)
@click.option("-p", "--port", type=int, default=4739, show_default=True, help="UDP port of the collector.")
@click.option(
    "-t",
    "--protocol",
    type=click.Choice(["ipfix", "netflow9", "netflow5", "sflow"]),
    default="ipfix",
    show_default=True,
    help="How the flows are encoded.",
)
@click.option(
    "-r", "--rate", type=int, default=1000, show_default=True, help="Packets a second, exactly; 0 is unlimited."
)
@click.option(
    "-f", "--flows-per-packet", type=int, default=10, show_default=True, help="Flows in each packet, exactly."
)
@click.option(
    "-n", "--count", type=int, default=0, show_default=True, help="Packets of flows to send; 0 goes on for ever."
)
@click.option(
    "--observation-domain-id",
    type=int,
    default=1,
    show_default=True,
    help="Observation Domain ID (Source ID, engine, sub-agent).",
)
@click.option(
    "--template-interval",
    type=int,
    default=30,
    show_default=True,
    help="Seconds between Templates (the first go out at the start), which are packets of their own beside -n and -r.",
)
@click.option("--src-cidr", default="10.0.0.0/8", show_default=True, help="Network of source addresses, IPv4 or IPv6.")
@click.option("--dst-cidr", default="192.168.0.0/16", show_default=True, help="Network of destination addresses.")
@click.option("--protocols", default="6,17", show_default=True, help="IP protocols of flows: numbers or names.")
@click.option("--src-port-range", default="1024-65535", show_default=True, help="Source ports.")
@click.option("--dst-port-range", default="1-1024", show_default=True, help="Destination ports.")
@click.option("--seed", type=click.IntRange(0), show_default="random", help="The same number gives the same flows.")
@click.option("--tcp-flags", default="0", show_default=True, help="Flags of TCP flows, such as 0x12.")
@click.option(
    "--octet-range",
    default="64-65535",
    show_default=True,
    help="Octets of a flow (sFlow: of the sampled frame, at least its headers).",
)
@click.option(
    "--packet-range", default="1-99", show_default=True, help="Packets of a flow (sFlow: that a sample stands for)."
)
def command(**options: Any) -> None:
    """Send random flows to a collector, at an exact rate or as fast as it goes.

    What was sent is told on stderr at the end.
    """
    settings = {
        name: options[name] for name in ("host", "port", "protocol", "rate", "flows_per_packet", "count", "seed")
    }
    settings["observation_domain_id"] = options["observation_domain_id"]
    settings["template_interval_s"] = options["template_interval"]
    settings["protocols"] = parse_protocols(options["protocols"])
    settings["tcp_flags"] = parse_flags(options["tcp_flags"])
    for name in ("src_cidr", "dst_cidr"):
        settings[name] = parse_network(f"--{name.replace('_', '-')}", options[name])
    for name in ("src_port_range", "dst_port_range", "octet_range", "packet_range"):
        settings[name] = parse_range(f"--{name.replace('_', '-')}", options[name])
    from pyflowx.generating import Generator, Settings

    generator = Generator(Settings(**settings))
    generator.start()
    summary = run(generator)
    for line in report(summary, options["host"], options["port"]):
        click.echo(line, err=True)
    if summary.send_errors and not summary.packets:
        raise SystemExit(1)
