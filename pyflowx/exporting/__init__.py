"""The exporting process: what ended in the flow table as records, to collectors.

:class:`Exporter` runs a :class:`~pyflowx.kernel.Meter`, a flow table and sessions. :mod:`~pyflowx.exporting.fields`
says what records look like, :mod:`~pyflowx.exporting.options` what else a collector is told,
:mod:`~pyflowx.exporting.sessions` how it all gets there. Nothing here prints.
"""

from pyflowx.exporting.exporter import ExportConfig, ExportCounters, Exporter
from pyflowx.exporting.fields import MERGES, PROTOCOLS, TIME_UNITS, Schema, Trait
from pyflowx.exporting.sessions import SessionCounts, SinkSession, TcpSession, Tick, UdpSession, own_message

__all__ = [
    "MERGES",
    "PROTOCOLS",
    "TIME_UNITS",
    "ExportConfig",
    "ExportCounters",
    "Exporter",
    "Schema",
    "SessionCounts",
    "SinkSession",
    "TcpSession",
    "Tick",
    "Trait",
    "UdpSession",
    "own_message",
]
