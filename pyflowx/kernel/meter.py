"""The Metering Process: programs at the hooks of interfaces, flows as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """What to meter.

    ``hook``: ``auto``, ``xdp`` or ``tc``; ``direction``: ``both``, ``ingress`` or ``egress`` (XDP sees
    ingress only). ``max_flows``: capacity of one generation, that is of the flows between two drains.
    ``exclude``: destinations (16 octets, IPv4 as IPv4-mapped; None is any) and UDP ports of our own
    export traffic, which is counted in the statistic ``own_export`` and not metered.
    """

    interfaces: list[str]
    hook: str = "auto"
    direction: str = "both"
    max_flows: int = 1 << 20
    exclude: tuple[tuple[bytes | None, int], ...] = ()


class Attachment(NamedTuple):
    """A program at a hook. ``hook``: ``xdp`` (native), ``xdp-generic`` or ``tc``; ``direction``: ``ingress``, ``egress``."""

    interface: str
    ifindex: int
    hook: str
    direction: str


class Meter:
    """Compiles and loads the programs; ``attach()`` starts metering. A context manager.

    Errors: :class:`~pyflowx.errors.KernelError` (privilege, feature, verifier, header files, foreign
    program), :class:`~pyflowx.errors.ConfigError` for a value of the configuration.
    """

    def __init__(self, config: MeterConfig) -> None:
        self.config = config

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def attach(self) -> list[Attachment]:
        """Attach to all interfaces or, on an error, to none; removes left-overs of dead exporters first."""
        raise NotImplementedError

    def drain(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Swap generations and empty the quiet one: n keys (KEY_DTYPE) and n values (VALUE_DTYPE), deltas
        since the last drain. No packet is in two drains or in none.

        A key with ``ip_version`` 0 is the catch-all flow of its ifindex and direction (the packets of
        statistic ``map_full``): only the counters and times of its value have a meaning.
        """
        raise NotImplementedError

    def statistics(self, direction: str | None = None) -> dict[str, tuple[int, int]]:
        """(packets, layer 2 octets) since the start by :class:`~pyflowx.kernel.layout.Statistic` in lower
        case, of one direction or of both. May be called after detach()."""
        raise NotImplementedError

    def offset_ns(self) -> int:
        """What to add to a flow's times to get ns since 1970; changes when the clock is set."""
        raise NotImplementedError

    def detach(self) -> None:
        """Remove our programs from the interfaces; what they counted can still be drained."""
        raise NotImplementedError

    def close(self) -> None:
        """Detach and give programs and maps back to the kernel."""
        raise NotImplementedError
