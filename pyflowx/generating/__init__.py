"""The generating process: random flows, encoded and sent at an exact rate.

:class:`FlowSource` makes columns of random flows, :class:`Pacer` says how many packets are due,
:class:`Generator` puts them together with an encoder of :mod:`pyflowx.wire` and a
:class:`~pyflowx.transport.udp.UdpSender`. Nothing here prints.
"""

from pyflowx.generating.generator import Generator, Pacer, Summary
from pyflowx.generating.settings import PROTOCOLS, Network, Settings
from pyflowx.generating.source import FlowSource

__all__ = ["PROTOCOLS", "FlowSource", "Generator", "Network", "Pacer", "Settings", "Summary"]
