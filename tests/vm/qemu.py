"""Machines of QEMU alone: booted without a boot loader, spoken to through the guest agent, joined by cables.

The guest agent needs no network, so a scenario may take every interface down; and no login, so a command takes little.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from vm.machines import ROLES, VAGRANT, Done, Failed, Lap, Machine, emulated, wheel

AGENT = "org.qemu.guest_agent.0"
# Interfaces eth1, eth2 as with Vagrant, where eth0 is how one logs in. Role -> (cable, address) of each.
LINKS = {
    "generator": [("traffic", "192.168.57.10")],
    "exporter": [("traffic", "192.168.57.20"), ("export", "192.168.58.20")],
    "collector": [("export", "192.168.58.30")],
}
# Services that nobody needs here and that wait for a network or a login.
MASKED = ("networking", "ssh", "systemd-logind", "getty@tty1", "serial-getty@ttyS0", "e2scrub_reap")


class QemuMachine(Machine):
    def __init__(self, name: str, folder: Path, box: Path, kernel: str) -> None:
        super().__init__(name)
        self.folder, self.links = folder, LINKS[name]
        self._socket: socket.socket | None = None
        self.process = subprocess.Popen(self._command(box, kernel), stdin=subprocess.DEVNULL)

    def _command(self, box: Path, kernel: str) -> list[str]:
        masked = " ".join(f"systemd.mask={unit}.service" for unit in MASKED)
        tcg = emulated()
        command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "512", "-smp", "1"]
        command += ["-accel", "tcg,thread=single,tb-size=256" if tcg else "kvm", "-cpu", "Nehalem" if tcg else "host"]
        command += ["-kernel", str(box / f"vmlinuz-{kernel}"), "-initrd", str(box / f"initrd-{kernel}")]
        command += ["-append", f"root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off quiet {masked}"]
        command += ["-drive", f"file={box / 'box.img'},if=virtio,format=qcow2,snapshot=on,cache=unsafe"]
        command += ["-device", "virtio-rng-pci", "-serial", f"file:{self.folder / self.name}.log"]
        agent = self.folder / f"{self.name}.agent"
        command += ["-chardev", f"socket,id=agent,path={agent},server=on,wait=off", "-device", "virtio-serial-pci"]
        command += ["-device", f"virtserialport,chardev=agent,name={AGENT}"]
        command += ["-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0,romfile="]
        for number, (cable, address) in enumerate(self.links, 1):
            ends = [self.folder / f"{cable}-{role}" for role in (self.name, *(r for r in ROLES if r != self.name))]
            other = next(end for end in ends[1:] if any(end.name == f"{c}-{r}" for r in ROLES for c, _ in LINKS[r]))
            net = f"dgram,id=net{number},local.type=unix,local.path={ends[0]},remote.type=unix,remote.path={other}"
            mac = "52:54:00:" + ":".join(f"{int(octet):02x}" for octet in address.split(".")[1:])
            command += ["-netdev", net, "-device", f"virtio-net-pci,netdev=net{number},mac={mac},romfile="]
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
                self._socket.settimeout(30)
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

    def booted(self) -> None:
        for number, (_, address) in enumerate(self.links, 1):
            link = f"eth{number}"
            self.wait_until(f"[ -e /sys/class/net/{link} ]")  # the agent may be there before the driver
            self.run(f"ip address replace {address}/24 dev {link} && ip link set {link} up")

    def end(self) -> None:
        self.disconnect()
        self.process.kill()
        self.process.wait()


def _line(command: str, **arguments: Any) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


@contextlib.contextmanager
def machines(folder: Path, box: Path, kernel: str, source: Path) -> Any:
    """The three machines by their roles, with pyflowx installed as ``vagrant up`` does it."""
    lap = Lap()
    found: dict[str, QemuMachine] = {}
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(source, "pyflowx")
    try:
        for role in ROLES:
            found[role] = QemuMachine(role, folder, box, kernel)
        for machine in found.values():
            machine.wait()
            machine.booted()
        lap(f"boot, kernel {kernel}")
        for role, machine in found.items():
            machine.run("mkdir -p /usr/src && tar -C /usr/src -xz", archive.getvalue())
            machine.put("/run/provision.sh", (VAGRANT / "provision.sh").read_bytes())
            machine.provision = machine.start("provision", f"env FROM={wheel(source)} sh /run/provision.sh")
            machine.run(f"sh -s {role}", (VAGRANT / "network.sh").read_bytes())
        for machine in found.values():
            machine.provision.wait_for("enable --now pyflowx-collect", "out")
        lap("install")
        yield found
    finally:
        for machine in found.values():
            machine.end()
