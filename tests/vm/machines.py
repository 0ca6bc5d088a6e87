"""What a scenario sees of virtual machines: commands that run on them, programs that keep running, files."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

ROLES = ("generator", "exporter", "collector")
VAGRANT = Path(__file__).parents[2] / "vagrant"


class Failed(Exception):
    """A command on a machine, or the machine itself, did not do what it should."""


class Done(NamedTuple):
    status: int
    stdout: bytes
    stderr: str


class Machine(ABC):
    """One virtual machine; commands are lines for its shell and run as root."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started: list[Running] = []
        self.services: list[str] = []

    @abstractmethod
    def execute(self, command: str, data: bytes = b"") -> Done:
        """Runs ``command`` with ``data`` on its standard input, to its end. Raises OSError while the machine is
        not there."""

    @abstractmethod
    def booted(self) -> None:
        """Called when the machine answers after a reboot."""

    @abstractmethod
    def disconnect(self) -> None:
        """Called when the machine is about to go: nothing is to wait for an answer that will not come."""

    def run(self, command: str, data: bytes = b"") -> str:
        """What ``command`` printed; raises :class:`Failed` where it fails."""
        done = self.execute(command, data)
        if done.status:
            raise Failed(f"{self.name}$ {command}: status {done.status}\n{done.stdout.decode()}{done.stderr}")
        return done.stdout.decode()

    def put(self, path: str, data: bytes) -> None:
        self.run(f"cat > {shlex.quote(path)}", data)

    def get(self, path: str) -> bytes:
        done = self.execute(f"gzip -1 < {shlex.quote(path)}")  # to send it takes an emulated machine longer
        if done.status:
            raise Failed(f"{self.name}: {done.stderr}")
        return gzip.decompress(done.stdout)

    def wait(self, timeout: float = 300) -> None:
        """Until the machine answers."""
        self._until(lambda: self.execute("true").status == 0, timeout)

    def _until(self, look: Callable[[], bool], timeout: float) -> None:
        """Until ``look`` says so; it may fail meanwhile."""
        deadline = time.monotonic() + timeout
        problem = None
        while time.monotonic() < deadline:
            try:
                if look():
                    return
            except (OSError, Failed) as error:
                problem = error
            time.sleep(0.3)
        raise Failed(f"{self.name} does not answer: {problem}")

    def reboot(self) -> None:
        """As when the power fails and comes back: nothing is ended, nothing is written."""
        before = self.run("cat /proc/sys/kernel/random/boot_id")
        self.execute("sync; (sleep 0.5; echo b > /proc/sysrq-trigger) > /dev/null 2>&1 &")
        self.disconnect()
        time.sleep(1)
        self._until(lambda: self.run("cat /proc/sys/kernel/random/boot_id") != before, 300)
        self.booted()
        self.run(f"sh -s {self.name}", (VAGRANT / "network.sh").read_bytes())

    def start(self, name: str, command: str) -> Running:
        """A program that keeps running; what it says is in files named ``name``."""
        self.started.append(Running(self, name, command))
        return self.started[-1]

    def start_service(self, name: str) -> None:
        """A unit of systemd, until its first message but one: it receives or meters then."""
        self.services.append(name)
        self.run(f"systemctl start {name}")
        self.wait_until(f"journalctl -b -q -u {name} | grep -q 'listening on\\|metering'")

    def clear(self) -> None:
        """Ends what was started and runs still."""
        pids = " ".join(f"{running.path}.pid" for running in self.started if not running.ended)
        if pids:
            self.execute(f"kill -9 $(cat {pids})")
        if self.services:
            self.execute(f"systemctl disable -q --now {' '.join(self.services)}")
        self.started.clear()
        self.services.clear()

    def wait_until(self, condition: str) -> None:
        """Until a command of the shell succeeds; raises :class:`Failed` after five minutes."""
        self.run(_patiently(condition))


class Running:
    """A program on a machine."""

    def __init__(self, machine: Machine, name: str, command: str) -> None:
        self.machine, self.path, self.ended = machine, f"/run/pyflowx-test-{name}", False
        job = f"{command} > {self.path}.out 2> {self.path}.err & echo $! > {self.path}.pid; wait $!"
        job = shlex.quote(f"{job}; echo $? > {self.path}.status")
        machine.run(f"rm -f {self.path}.*; setsid sh -c {job} < /dev/null > /dev/null 2>&1 &")

    def wait_for(self, pattern: str, file: str = "err") -> None:
        """Until a line of what it said matches a basic regular expression."""
        there = f"grep -q -- {shlex.quote(pattern)} {self.path}.{file}"
        done = self.machine.execute(_patiently(f"{there} || [ -e {self.path}.status ]") + f" && {there}")
        if done.status:
            raise Failed(f"{self.machine.name}: {self.path} does not say {pattern}:\n{self.messages()}")

    def messages(self) -> str:
        return self.machine.get(f"{self.path}.err").decode()

    def output(self) -> bytes:
        return self.machine.get(f"{self.path}.out")

    def end(self) -> str:
        """SIGTERM, its orderly end; its messages."""
        self.machine.run(f"kill $(cat {self.path}.pid); {_patiently(f'[ -e {self.path}.status ]')}")
        status = self.machine.run(f"cat {self.path}.status")
        self.ended = True
        messages = self.messages()
        if status.strip() != "0":
            raise Failed(f"{self.machine.name}: {self.path} ended with status {status}{messages}")
        return messages


def _patiently(condition: str) -> str:
    """Shell: waits for a condition, and fails after five minutes; starts few processes, which emulation makes dear."""
    return f"n=0; until {{ {condition}; }} 2> /dev/null; do [ $((n += 1)) -lt 1000 ] && sleep 0.3 || exit 1; done"


class Lap:
    """Says how long a step took."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        print(f"vm: {what}: {now - self.begin:.0f} s", file=sys.stderr, flush=True)
        self.begin = now


def wheel(source: Path) -> str:
    """The wheel that is to be installed, from the folder of sources."""
    (found,) = source.glob("dist/*.whl")
    return str(found.relative_to(source))


def emulated() -> bool:
    """Whether machines are emulated: /dev/kvm may be there without a processor for it."""
    hardware = re.search(r"^flags.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    usable = bool(hardware) and os.access("/dev/kvm", os.W_OK)
    return os.environ.get("PYFLOWX_VM_ACCEL", "kvm" if usable else "tcg") == "tcg"


def local(*words: str, log: Path | None = None, **settings: Mapping[str, str]) -> str:
    """Runs a program here; raises :class:`Failed` with the beginning of what it said."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)
    if log:
        log.write_text(done.stdout)
    if done.returncode:
        # Vagrant's bars of progress and Ruby's frames bury what went wrong.
        lines = [line for line in done.stdout.splitlines() if "Progress:" not in line and "/gems/" not in line]
        raise Failed("\n".join([f"{' '.join(words)}: status {done.returncode}", *lines[-60:]]))
    return done.stdout
