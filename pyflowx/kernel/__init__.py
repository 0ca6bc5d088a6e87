"""IO with the kernel: compile, load, attach, and maps as arrays."""

from pyflowx.kernel.layout import KEY_DTYPE, VALUE_DTYPE, Statistic
from pyflowx.kernel.links import Attachment
from pyflowx.kernel.meter import Meter, MeterConfig

__all__ = ["KEY_DTYPE", "VALUE_DTYPE", "Attachment", "Meter", "MeterConfig", "Statistic"]
