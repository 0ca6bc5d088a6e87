"""What the probe says of this host, and of one where something is missing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pyflowx.kernel import syscall
from pyflowx.kernel.filter import libpcap
from pyflowx.kernel.meter import Meter
from pyflowx.kernel.probe import probe
from pyflowx.kernel.programs import variants

pytestmark = pytest.mark.kernel


def test_this_host_can_do_everything():
    features = probe()
    assert [feature.name for feature in features if not feature.present] == []
    assert len({feature.name for feature in features}) == len(features) >= 12
    assert {feature.name: feature.message for feature in features}["our programs"] == "egress, ingress, xdp"
    assert all(feature.message and feature.needed_for for feature in features)


@pytest.mark.parametrize("config", variants(), ids=lambda it: f"{it.key}-{it.mode}-{it.tunnels}-{it.filter}")
def test_this_kernel_takes_the_programs_of_all_options(config):
    hooks = ["ingress", "egress", "ingress_ip", "egress_ip", "xdp"]
    with Meter(config) as meter:
        assert meter.load(*hooks) == hooks
        assert meter.note == ""


def test_without_privilege_the_messages_say_so():
    code = (
        "import os; from pyflowx.kernel.probe import probe; os.setuid(65534)\n"
        "for feature in probe(): print(feature.name, feature.present, feature.message, sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {
        name: (present, message) for name, present, message in (line.split("|") for line in done.stdout.splitlines())
    }
    assert found["programs at TC"][0] == "False"
    assert "permission denied; run as root" in found["programs at TC"][1]
    assert found["bcc"][0] == "True"


def test_an_old_kernel_is_told_from_a_new_one(monkeypatch):
    """One that has no ring buffer (before Linux 5.8), and nothing else amiss."""
    real = syscall._call

    def call(command, attr):
        if command == 0 and attr.raw[0] == syscall.MAP_TYPE_RINGBUF:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(command, attr)

    monkeypatch.setattr(syscall, "_call", call)
    (missing,) = [feature for feature in probe() if not feature.present]
    assert (missing.name, missing.since, missing.needed_for) == ("ring buffer", "5.8", "--mode packet")
    assert "it needs Linux 5.8 or newer" in missing.message


def test_without_libpcap_only_filters_are_missing(monkeypatch):
    monkeypatch.setattr("pyflowx.kernel.filter._LIBRARIES", ())
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    libpcap.cache_clear()
    missing = [feature for feature in probe() if not feature.present]
    libpcap.cache_clear()
    assert [(feature.name, feature.needed_for) for feature in missing] == [("libpcap", "--filter")]
