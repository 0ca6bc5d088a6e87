"""Machines of QEMU alone: booted without a boot loader, spoken to through the guest agent, joined by cables.

The guest agent needs no network, so a scenario may take every interface down; and no login, so a command takes little.

What takes emulated machines long is done once: pyflowx is installed on one disk (as a program, ``qemu BOX KERNEL
WORK``), which is then that of all kernels; of each kernel one machine is booted, and the three begin as copies of it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
import socket
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from vm.machines import ROLES, VAGRANT, Done, Failed, Lap, Machine, emulated, local, wheel

DISK = "installed.img"
AGENT = "org.qemu.guest_agent.0"
# Interfaces eth1, eth2 as with Vagrant, where eth0 is how one logs in. Role -> (cable, address) of each. All machines
# have both, so that they can be copies of one.
INTERFACES = ("eth1", "eth2")
LINKS = {
    "generator": [("traffic", "192.168.57.10")],
    "exporter": [("traffic", "192.168.57.20"), ("export", "192.168.58.20")],
    "collector": [("export", "192.168.58.30")],
}
# Services that nobody needs here and that wait for a network or a login.
MASKED = ("networking", "ssh", "systemd-logind", "getty@tty1", "serial-getty@ttyS0", "e2scrub_reap")
PATIENCE_S = 30  # for an answer of the agent
REBOOTING_S = 5  # while it may go away in the middle of one


class QemuMachine(Machine):
    """``disk``: what QEMU is to know of it; ``state``: made by :meth:`save`, of a machine that this one goes on as."""

    def __init__(self, name: str, folder: Path, box: Path, kernel: str, disk: str, state: Path | None = None) -> None:
        super().__init__(name)
        self.folder, self.links = folder, LINKS.get(name, [])
        self._socket: socket.socket | None = None
        self._patience_s = PATIENCE_S
        command = [*self._command(box, kernel, disk), *self._network()]
        command += ["-incoming", f"exec:cat {shlex.quote(str(state))}"] if state else []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def _command(self, box: Path, kernel: str, disk: str) -> list[str]:
        masked = " ".join(f"systemd.mask={unit}.service" for unit in MASKED)
        tcg = emulated()
        command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "512", "-smp", "1"]
        command += ["-accel", "tcg,thread=single,tb-size=256" if tcg else "kvm", "-cpu", "Nehalem" if tcg else "host"]
        command += ["-kernel", str(box / f"vmlinuz-{kernel}"), "-initrd", str(box / f"initrd-{kernel}")]
        command += ["-append", f"root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off quiet {masked}"]
        command += ["-drive", f"{disk},if=virtio,format=qcow2,cache=unsafe"]
        command += ["-device", "virtio-rng-pci", "-serial", f"file:{self.folder / self.name}.log"]
        command += ["-monitor", f"unix:{self.folder / self.name}.monitor,server=on,wait=off"]
        agent = self.folder / f"{self.name}.agent"
        command += ["-chardev", f"socket,id=agent,path={agent},server=on,wait=off", "-device", "virtio-serial-pci"]
        return [*command, "-device", f"virtserialport,chardev=agent,name={AGENT}"]

    def _network(self) -> list[str]:
        command = ["-netdev", "user,id=eth0,restrict=on", "-device", "virtio-net-pci,netdev=eth0,romfile="]
        for number, link in enumerate(INTERFACES):
            net, mac = f"user,id={link},restrict=on", f"52:54:00:00:00:0{number}"  # no cable
            if number < len(self.links):
                cable, address = self.links[number]
                ends = [self.folder / f"{cable}-{role}" for role in (self.name, *(r for r in ROLES if r != self.name))]
                other = next(end for end in ends[1:] if any(end.name == f"{c}-{r}" for r in ROLES for c, _ in LINKS[r]))
                net = f"dgram,id={link},local.type=unix,local.path={ends[0]},remote.type=unix,remote.path={other}"
                mac = _mac(address)
            command += ["-netdev", net, "-device", f"virtio-net-pci,netdev={link},mac={mac},romfile="]
        return command

    def _ask(self, command: str, **arguments: Any) -> Any:
        """The agent's answer. What a machine that went away in the middle of an answer left is not taken for one."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(1)
                self._socket.connect(str(self.folder / f"{self.name}.agent"))
                number = time.monotonic_ns() & 0x7FFFFFFF
                # A byte that is no JSON ends whatever the agent has half read.
                self._socket.sendall(b"\xff" + _line("guest-sync-delimited", id=number))
                answer = b""
                while json.dumps({"return": number}).encode() not in answer:
                    answer += self._read()
                self._socket.settimeout(self._patience_s)
            self._socket.sendall(_line(command, **arguments))
            answer = b""
            while not answer.endswith(b"\n"):
                answer += self._read()
        except OSError:
            self.disconnect()
            raise
        result = json.loads(answer)
        if "error" in result:
            raise Failed(f"{self.name}: {command}: {result['error']['desc']}")
        return result["return"]

    def _read(self) -> bytes:
        assert self._socket
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError(f"{self.name}: QEMU ended")
        return data

    def execute(self, command: str, data: bytes = b"") -> Done:
        settings = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        pid = self._ask("guest-exec", **settings, **{"input-data": base64.b64encode(data).decode()})["pid"]
        pause = 0.02
        while not (state := self._ask("guest-exec-status", pid=pid))["exited"]:
            time.sleep(pause)
            pause = min(0.3, pause * 1.5)
        out, err = (base64.b64decode(state.get(f"{name}-data", "")) for name in ("out", "err"))
        return Done(state.get("exitcode", 128 + state.get("signal", 0)), out, err.decode(errors="replace"))

    def disconnect(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None
        self._patience_s = REBOOTING_S

    def booted(self) -> None:
        self._patience_s = PATIENCE_S
        for link, (_, address) in zip(INTERFACES, self.links, strict=False):
            self.wait_until(f"[ -e /sys/class/net/{link} ]")  # the agent may be there before the driver
            own = f"ip link set {link} address {_mac(address)}"  # not that of the machine that it is a copy of
            self.run(f"{own} && ip address replace {address}/24 dev {link} && ip link set {link} up")

    def save(self, state: Path) -> None:
        """Writes down what is in its memory, and ends."""
        self._monitor(f'migrate "exec:cat > {shlex.quote(str(state))}"', "quit")

    def stop(self) -> None:
        """As when somebody pulls the plug, but its disk is whole."""
        self._monitor("quit")

    def _monitor(self, *lines: str) -> None:
        """What ends with the end of QEMU."""
        self.disconnect()
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.folder / f"{self.name}.monitor"))
            monitor.sendall("".join(f"{line}\n" for line in lines).encode())
            while monitor.recv(1 << 16):
                pass
        self.process.wait()

    def end(self) -> None:
        self.disconnect()
        self.process.kill()
        self.process.wait()


def _mac(address: str) -> str:
    return "52:54:00:" + ":".join(f"{int(octet):02x}" for octet in address.split(".")[1:])


def _line(command: str, **arguments: Any) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def copy(disk: Path, path: Path) -> Path:
    """A disk that begins as another one, and holds what is written to it."""
    local("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(disk), str(path))
    return path


def install(box: Path, kernel: str, work: Path) -> None:
    """Makes a disk with pyflowx on it, as ``vagrant up`` does it on each machine."""
    lap = Lap()
    source = work / "source"
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(source, "pyflowx")
    machine = QemuMachine("install", work, box, kernel, f"file={copy(box / 'box.img', work / DISK)}")
    try:
        machine.wait()
        machine.booted()
        lap(f"boot, kernel {kernel}")
        machine.run("mkdir -p /usr/src && tar -C /usr/src -xz", archive.getvalue())
        machine.run(f"env FROM={wheel(source)} sh /usr/src/pyflowx/vagrant/provision.sh")
        machine.run("sync")
        machine.stop()
        lap("install")
    finally:
        machine.end()


def boot(folder: Path, box: Path, kernel: str, disk: Path, state: Path) -> None:
    """Makes the disk and the state of a machine that has booted."""
    machine = QemuMachine("boot", folder, box, kernel, f"file={copy(folder.parent / DISK, disk)}")
    try:
        machine.wait()
        machine.save(state)
    finally:
        machine.end()


@contextlib.contextmanager
def machines(folder: Path, box: Path, kernel: str, work: Path) -> Any:
    """The three machines by their roles; what one writes to the disk is its own."""
    lap = Lap()
    disk, state = folder / "booted.img", folder / "booted"
    boot(folder, box, kernel, disk, state)
    lap(f"boot, kernel {kernel}")
    found: dict[str, QemuMachine] = {}
    try:
        for role in ROLES:
            found[role] = QemuMachine(role, folder, box, kernel, f"file={disk},snapshot=on", state)
        for role, machine in found.items():
            machine.wait()
            machine.run(f"date -s @{time.time():.1f}")  # it was stopped, and so was its clock
            machine.booted()
            machine.run(f"sh -s {role}", (VAGRANT / "network.sh").read_bytes())
        lap("three of it")
        yield found
    finally:
        for machine in found.values():
            machine.end()


if __name__ == "__main__":
    install(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
