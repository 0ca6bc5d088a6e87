"""What the tests of the kernel room share: a wire, frames for it, the programs and the gate."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import demo
import pytest
from attached import TC
from benches import Bench
from wires import Sender, Wire

from pyflowx.kernel.gate import Gate, GateConfig
from pyflowx.kernel.gate_layout import Outcome
from pyflowx.kernel.links import Links


@pytest.fixture
def no_tcx(monkeypatch):
    """As on Linux before 6.6: TC is a filter of clsact."""
    monkeypatch.setattr(Links, "_attach_tcx", lambda *_: False)


class Way(NamedTuple):
    """What ``--hook`` says, and the hooks that ingress and egress then have."""

    option: str
    hooks: tuple[str, str]


@pytest.fixture(params=["tc", "xdp", "clsact"])
def way(request):
    if request.param == "clsact":
        request.getfixturevalue("no_tcx")
        return Way("tc", ("tc", "tc"))
    return Way(request.param, (TC if request.param == "tc" else "xdp", TC))


@pytest.fixture
def wire():
    with contextlib.ExitStack() as stack:
        yield Wire(stack)


@pytest.fixture(scope="module", params=Bench.KINDS)
def bench(request):
    with contextlib.closing(Bench(request.param)) as bench:
        yield bench


@pytest.fixture
def make_bench():
    """Makes a Bench that is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *kind, **config: stack.enter_context(contextlib.closing(Bench(*kind, **config)))


class TestGate(Gate):
    """A gate that tells what it counted since it was asked last."""

    __test__ = False

    @property
    def program(self):
        """That of the first interface."""
        return self._port(self.config.interfaces[0]).program

    def counted(self):
        """Outcome -> frames, of those that are not 0, since the last call; ``stateless`` beside them."""
        (*counts, stateless) = sum(total["packets"] for total in self.statistics().values()).tolist()
        before = getattr(self, "_before", {})
        self._before = {**dict(zip(Outcome, counts, strict=True)), "stateless": stateless}
        return {
            slot: count - before.get(slot, 0) for slot, count in self._before.items() if count > before.get(slot, 0)
        }


@pytest.fixture(scope="session")
def gate_class():
    return TestGate


@pytest.fixture
def make_gate():
    """Makes a Gate that is closed at the end; of ``lo`` where nothing else is said."""
    with contextlib.ExitStack() as stack:

        def make(**config):
            return stack.enter_context(TestGate(GateConfig(**{"interfaces": ["lo"], **config})))

        yield make


@pytest.fixture
def stack():
    """What a test starts ends in the reverse order, whatever happens; the two namespaces of the demo."""
    with contextlib.ExitStack() as stack:
        stack.callback(demo.clean_up)
        demo.build()
        yield stack


@pytest.fixture
def sender():
    """Makes a Sender that is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda frames, link="v": stack.enter_context(contextlib.closing(Sender(frames, link)))
