"""IO with the kernel: compile, load, attach, and maps as arrays."""

from pyflowx.kernel.attaching import LinkChange
from pyflowx.kernel.config import MeterConfig
from pyflowx.kernel.layout import KEY_DTYPE, VALUE_DTYPE, Statistic
from pyflowx.kernel.links import Attachment
from pyflowx.kernel.meter import Meter
from pyflowx.kernel.samples import PacketSamples

__all__ = [
    "KEY_DTYPE",
    "VALUE_DTYPE",
    "Attachment",
    "LinkChange",
    "Meter",
    "MeterConfig",
    "PacketSamples",
    "Statistic",
]
