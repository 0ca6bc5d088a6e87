"""What to meter, and how: :class:`MeterConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from pyflowx.errors import ConfigError
from pyflowx.kernel.layout import KEY_LEVELS, MAX_OWN_EXPORTS

HOOKS = ("auto", "xdp", "tc")
DIRECTIONS = ("both", "ingress", "egress")
MODES = ("flows", "packet")
MAX_CLIP_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """What to meter.

    ``hook``: ``auto``, ``xdp`` or ``tc``; ``direction``: ``both``, ``ingress`` or ``egress`` (XDP sees
    ingress only; with ``both`` egress is metered at TC). ``max_flows``: capacity of one generation, that
    is of the flows between two drains; each takes 480 octets of kernel memory from the start: in two
    generations 160 octets, and a table has half as many places again.
    ``exclude``: destinations (16 octets, IPv4 as IPv4-mapped; None is any) and UDP ports of our own
    export traffic, which is counted in the statistic ``own_export`` and not metered.

    ``key``: one of :data:`~pyflowx.kernel.layout.KEY_LEVELS`; ``tunnels``: whether the innermost packet of a
    tunnel is metered (else the outer one). ``filter``: a tcpdump expression, empty for all packets; what does
    not match is counted in the statistic ``filtered``. Of what matches, one in ``sampling_interval`` packets
    is metered: each n-th that a CPU sees or, with ``sampling_random``, each with a probability of 1/n; the
    others are counted in ``not_selected``. Counters are not scaled. ``mode``: ``flows`` or ``packet``: then
    there are no flows, :meth:`Meter.packets` has the first ``clip_length`` octets of each selected packet.
    ``promiscuous``: interfaces receive what is not for them too. ``run_statistics``: the kernel measures
    what our programs cost, which makes each packet 20 to 70 ns dearer; ``measured_runs``: else it does so for so
    many packets at the start, where it can. ``exact_times``: the clock is read for each packet, which makes it 60 ns
    dearer; else, where a CPU has more than 64 packets in a jiffy, for one in 16 of the others.
    """

    interfaces: list[str]
    hook: str = "auto"
    direction: str = "both"
    max_flows: int = 1 << 18
    exclude: tuple[tuple[bytes | None, int], ...] = ()
    key: str = "vlan"
    tunnels: bool = False
    filter: str = ""
    sampling_interval: int = 1
    sampling_random: bool = False
    mode: str = "flows"
    clip_length: int = 128
    promiscuous: bool = False
    run_statistics: bool = False
    measured_runs: int = 0
    exact_times: bool = False

    def check(self) -> None:
        """ConfigError for what cannot be."""
        if self.hook not in HOOKS:
            raise ConfigError(f"hook {self.hook}: must be one of {', '.join(HOOKS)}")
        if self.direction not in DIRECTIONS:
            raise ConfigError(f"direction {self.direction}: must be one of {', '.join(DIRECTIONS)}")
        if self.hook == "xdp" and self.direction == "egress":
            raise ConfigError("hook xdp sees no egress traffic; use tc or auto")
        if self.key not in KEY_LEVELS:
            raise ConfigError(f"key {self.key}: must be one of {', '.join(KEY_LEVELS)}")
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode}: must be one of {', '.join(MODES)}")
        if not 1 <= self.sampling_interval < 1 << 32:
            raise ConfigError(f"sampling_interval {self.sampling_interval}: must be 1 to {(1 << 32) - 1}")
        if not 1 <= self.clip_length <= MAX_CLIP_LENGTH:
            raise ConfigError(f"clip_length {self.clip_length}: must be 1 to {MAX_CLIP_LENGTH}")
        if not self.interfaces:
            raise ConfigError("no interface to meter")
        if not 1 <= self.max_flows <= 1 << 26:
            raise ConfigError(f"max_flows {self.max_flows}: must be 1 to {1 << 26}")
        if len(self.exclude) > MAX_OWN_EXPORTS:
            raise ConfigError(f"{len(self.exclude)} collectors; at most {MAX_OWN_EXPORTS}")
