"""Machines of ``vagrant up``, spoken to through SSH."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from vm.machines import ROLES, VAGRANT, Done, Lap, Machine, local, wheel


class VagrantMachine(Machine):
    def __init__(self, name: str, config: Path) -> None:
        super().__init__(name)
        # One connection for all commands: what takes long is to agree on its keys.
        self._ssh = ["ssh", "-F", str(config), "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"]
        self._ssh += ["-o", f"ControlPath={config.parent}/{name}.ssh", "-o", "ConnectTimeout=5", name]

    def execute(self, command: str, data: bytes = b"") -> Done:
        words = [*self._ssh, f"sudo sh -c {shlex.quote(command)}"]
        done = subprocess.run(words, input=data, capture_output=True)
        if done.returncode == 255:  # of ssh itself
            self.disconnect()
            raise ConnectionError(done.stderr.decode())
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def disconnect(self) -> None:
        subprocess.run([*self._ssh[:-1], "-O", "exit", self.name], capture_output=True)

    def booted(self) -> None:
        pass  # the guest's own configuration has the addresses


@contextlib.contextmanager
def machines(folder: Path, box: Path, kernel: str, work: Path) -> Any:
    """The three machines by their roles."""
    lap = Lap()
    source = work / "source"
    environment = {
        **os.environ,
        "PYFLOWX_BOX": "pyflowx/vm",
        "PYFLOWX_VM_KERNEL": kernel,
        "PYFLOWX_VM_MEMORY": "512",
        "PYFLOWX_SOURCE": str(source),
        "PYFLOWX_FROM": wheel(source),
        "VAGRANT_HOME": str(folder / "vagrant.d"),
        "VAGRANT_DOTFILE_PATH": str(folder / ".vagrant"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_NO_COLOR": "1",
    }

    def vagrant(*words: str) -> str:
        return local("vagrant", *words, log=folder / f"vagrant-{words[0]}.log", cwd=VAGRANT, env=environment)

    vagrant("box", "add", "--name", "pyflowx/vm", str(box / "pyflowx.box"))
    lap("vagrant box add")
    vagrant("up", "--provider=libvirt")
    lap("vagrant up")
    config = folder / "ssh.conf"
    config.write_text(vagrant("ssh-config"))
    yield {role: VagrantMachine(role, config) for role in ROLES}
    # They end with the namespace that they are in, at once; `vagrant destroy` takes half a minute.
