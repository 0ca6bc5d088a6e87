"""Which of several sockets on a port gets a datagram: always the same one for an exporter and Observation Domain.

The same function three times: as a BPF program (``bpf/steer_reuseport.c``), which needs privilege, as a classic BPF
program, which needs none, and in Python. What it takes is the exporter's address with NetFlow v9's Source ID, IPFIX's
Observation Domain, NetFlow v5's engine, or sFlow's agent and sub-agent; the address alone where a datagram says none.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from pyflowx.batch import V4_MAPPED, Array, PacketBatch
from pyflowx.errors import KernelError
from pyflowx.kernel import syscall
from pyflowx.kernel.cache import Build, source_folder
from pyflowx.kernel.compiler import compile_programs
from pyflowx.kernel.filter import Classic
from pyflowx.kernel.layout import NumberSlot
from pyflowx.kernel.syscall import Map, Program

_SO_ATTACH_REUSEPORT_CBPF, _SO_ATTACH_REUSEPORT_EBPF = 51, 52  # asm-generic/socket.h
_SOCKETS = 0  # MAP_SOCKETS
_NAME = "pyflowx_steer"
_1, _2 = 0x85EBCA6B, 0xC2B2AE35  # the multipliers of MurmurHash3's last step
_SHORTEST = {9: 20, 10: 16, 5: 24}  # octets of the headers
_SFLOW_HEADER = 28


def build() -> Build:
    """What the compiler makes."""
    return Build(source_folder() / "steer_reuseport.c", (_NAME,))


class Steering:
    """The programs of groups of sockets. ``sockets``: a list for each port, of the sockets on it in the workers' order.

    Attaches our BPF program where that is permitted, the classic one else; :attr:`kind` says which, :attr:`reason`
    why not the other. They stay as long as the sockets do.
    """

    def __init__(self, sockets: Sequence[Sequence[socket.socket]], *, privileged: bool = True) -> None:
        self.kind, self.reason = "classic BPF", ""
        try:
            if privileged:
                _attach_program(sockets)
                self.kind = "BPF"
        except KernelError as error:
            self.reason = str(error)
        if self.kind != "BPF":
            for group in sockets:
                _attach_classic(group)


def _attach_program(groups: Sequence[Sequence[socket.socket]]) -> None:
    count = len(groups[0])
    code = None
    for group in groups:
        with ExitStack() as stack:  # the kernel keeps both for the sockets
            reached = stack.enter_context(Map(syscall.MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 8, count, "pyflowx_workers"))
            for number, sock in enumerate(group):
                reached.update(struct.pack("=I", number), struct.pack("=Q", sock.fileno()))
            if code is None:
                code = compile_programs(*build())[_NAME]
            kind, numbers = syscall.PROG_TYPE_SK_REUSEPORT, {int(NumberSlot.WORKERS): count}
            program = Program.load(kind, _NAME, code, {_SOCKETS: reached}, numbers=numbers)
            stack.enter_context(program)
            try:
                group[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_EBPF, program.fd)
            except OSError as error:
                raise syscall.refused("cannot steer datagrams to workers", error) from error


def _attach_classic(group: Sequence[socket.socket]) -> None:
    program = _classic(len(group))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    filter = struct.pack("@HP", len(program), ctypes.addressof(code))  # struct sock_fprog
    try:
        group[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filter)
    except OSError as error:
        raise KernelError(f"cannot steer datagrams to workers: {error.strerror}; give --workers 1") from error


# --- classic BPF -----------------------------------------------------------------------------------------------------

_NET = 0xFFF00000  # SKF_NET_OFF: from the IP header on; offsets without it are those of the UDP payload
_LD, _LDB, _LD_LEN, _LD_IMM, _LD_MEM, _ST = 0x20, 0x30, 0x80, 0x00, 0x60, 0x02
_JA, _JEQ, _JGE, _RET_A, _TAX = 0x05, 0x15, 0x35, 0x16, 0x07
_ADD_X, _XOR_X, _MUL, _RSH, _MOD = 0x0C, 0xAC, 0x24, 0x74, 0x94

_Line = tuple[int, int] | tuple[int, int, str, str] | str  # code, k; with where to jump if true and false; a label


def _address() -> list[_Line]:
    lines: list[_Line] = [(_LDB, _NET), (_RSH, 4), (_JEQ, 4, "v4", "v6"), "v6", (_LD, _NET + 8)]
    for offset in (12, 16, 20):
        lines += [(_MUL, _1), (_TAX, 0), (_LD, _NET + offset), (_ADD_X, 0)]
    return [*lines, (_JA, 0, "store", ""), "v4", (_LD, _NET + 12), "store", (_MUL, _1), (_ST, 0)]


def _atleast(octets: int) -> list[_Line]:
    label = f"has {octets}"
    return [(_LD_LEN, 0), (_JGE, octets, label, "none"), label]


def _xor(first: int, second: int) -> list[_Line]:
    return [(_LD, first), (_TAX, 0), (_LD, second), (_XOR_X, 0), (_JA, 0, "mix", "")]


def _domain() -> list[_Line]:
    lines: list[_Line] = [*_atleast(4), (_LD, 0), (_JEQ, 5, "sflow", "netflow"), "netflow", (_RSH, 16)]
    lines += [(_JEQ, 9, "9", "not 9"), "not 9", (_JEQ, 10, "10", "not 10"), "not 10", (_JEQ, 5, "5", "none")]
    lines += ["9", *_atleast(_SHORTEST[9]), (_LD, 16), (_JA, 0, "mix", "")]
    lines += ["10", *_atleast(_SHORTEST[10]), (_LD, 12), (_JA, 0, "mix", "")]
    lines += ["5", *_atleast(_SHORTEST[5]), (_LD, 20), (_RSH, 16), (_JA, 0, "mix", "")]
    lines += ["sflow", *_atleast(_SFLOW_HEADER), (_LD, 4), (_JEQ, 2, "agent of 16", "agent of 4")]
    lines += ["agent of 4", *_xor(8, 12), "agent of 16", *_xor(20, 24)]
    return [*lines, "none", (_LD_IMM, 0)]


def _mix(count: int) -> list[_Line]:
    lines: list[_Line] = ["mix", (_TAX, 0), (_LD_MEM, 0), (_ADD_X, 0)]
    for shift, multiplier in ((16, _1), (13, _2), (16, 1)):
        lines += [(_TAX, 0), (_RSH, shift), (_XOR_X, 0), (_MUL, multiplier)]
    return [*lines, (_MOD, count), (_RET_A, 0)]


def _classic(count: int) -> list[Classic]:
    """The program, its labels as distances."""
    lines = [*_address(), *_domain(), *_mix(count)]
    places: dict[str, int] = {}
    code: list[tuple[int, int] | tuple[int, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(code)
        else:
            code.append(line)
    found = []
    for at, (operation, k, *labels) in enumerate(code):
        true, false = (places[str(label)] - at - 1 if label else 0 for label in labels or ("", ""))
        found.append(Classic(operation, 0, 0, true) if operation == _JA else Classic(operation, true, false, int(k)))
    return found


# --- Python ----------------------------------------------------------------------------------------------------------


def workers_of(packets: PacketBatch, count: int) -> Array:
    """The worker, of ``count``, of each datagram."""
    octets = np.zeros((len(packets), _SFLOW_HEADER), np.uint8)
    width = min(_SFLOW_HEADER, packets.data.shape[1])
    octets[:, :width] = packets.data[:, :width]
    words = octets.view(">u4").astype(np.uint32)
    first, n = words[:, 0], packets.length
    sflow = np.where(words[:, 1] == 2, words[:, 5] ^ words[:, 6], words[:, 2] ^ words[:, 3])
    known = [first >> 16 == version for version in _SHORTEST]
    enough = [n >= octets for octets in _SHORTEST.values()]
    cases = [(first == 5) & (n >= _SFLOW_HEADER), *(a & b for a, b in zip(known, enough, strict=True))]
    domains = np.select(cases, [sflow, words[:, 4], words[:, 3], words[:, 5] >> 16], 0)
    return _workers(packets.exporter, domains.astype(np.uint32), count)


def worker_of(exporter: bytes, domain: int, count: int) -> int:
    """The worker, of ``count``, of an exporter (16 octets) and an Observation Domain of NetFlow v9 or IPFIX."""
    return int(_workers(np.frombuffer(exporter, np.uint8)[None], np.array([domain], np.uint32), count)[0])


def _workers(exporter: Array, domain: Array, count: int) -> Array:
    words = np.ascontiguousarray(exporter).view(">u4").astype(np.uint32)
    one, two = np.uint32(_1), np.uint32(_2)
    address = words[:, 0]
    for index in (1, 2, 3):
        address = address * one + words[:, index]
    mapped = (exporter[:, :12] == np.frombuffer(V4_MAPPED, np.uint8)).all(axis=1)
    found = np.where(mapped, words[:, 3], address) * one + domain
    found = (found ^ found >> np.uint32(16)) * one
    found = (found ^ found >> np.uint32(13)) * two
    found = (found ^ found >> np.uint32(16)) % np.uint32(count)
    return np.asarray(found, np.int64)
