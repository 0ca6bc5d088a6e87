"""Everything that the compiler can be asked for."""

from __future__ import annotations

from collections.abc import Iterator

from pyflowx.kernel import gate, programs, steering
from pyflowx.kernel.cache import Build


def all_builds() -> Iterator[Build]:
    """Of all options: the meter's, the gate's, the workers'."""
    yield from programs.builds()
    yield from (gate.build(redirect) for redirect in (False, True))
    yield steering.build()
