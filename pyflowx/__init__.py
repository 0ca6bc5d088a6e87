"""pyflowx: network flows from the wire to the screen."""

__version__ = "0.1.0"
