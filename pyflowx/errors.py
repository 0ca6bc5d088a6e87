"""The exceptions that leave this package.

::

    PyflowxError
    ├── ConfigError   exit 2   names the option and an accepted value
    ├── EncodeError   exit 1   we asked for what the protocol cannot carry
    ├── KernelError   exit 3   privilege, feature (with its first kernel), verifier (last lines)
    └── SinkError     exit 4   names the path and what was kept

Each message says what to do next. What a peer gets wrong is never an exception: it is data
(:class:`pyflowx.decoded.Problems`).
"""


class PyflowxError(Exception):
    """Base of all errors that a user may see; ``exit_code`` is the status of the process."""

    exit_code = 1


class ConfigError(PyflowxError):
    """An option, file or table that the user gave is not usable."""

    exit_code = 2


class EncodeError(PyflowxError):
    """A value, length or structure that the protocol cannot carry."""


class KernelError(PyflowxError):
    """The kernel, BCC or the link refused what we asked for."""

    exit_code = 3


class SinkError(PyflowxError):
    """The target of the output failed."""

    exit_code = 4
