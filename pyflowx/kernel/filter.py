"""Packet filters: tcpdump's language, compiled by libpcap to classic BPF, translated to a function of our programs.

The function is ``matches(context, start, end, length, tag)`` of ``bpf/select.h``. It reads the packet where
that is in reach and asks the kernel for the octets that are not. It sees what a capture file would have: at
TC a VLAN tag that the kernel took out of the frame is looked at where it was (so that ``vlan 5`` matches),
and, as in files, ``tcp`` alone means a packet without tag. Only an offset that is computed from the packet does
not reach such a tag's own octets.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyflowx.errors import ConfigError, KernelError

ETHERNET, RAW_IP = 1, 12  # libpcap's DLT_EN10MB, DLT_RAW
FILTER_CALL = 0x7066  # stands for the function in our programs' instructions

_LIBRARIES = ("libpcap.so.1", "libpcap.so.0.8")
_SNAPLEN = 262_144
_NO_NETMASK = 0xFFFFFFFF
_MAC_ADDRESSES = 12  # octets: where a VLAN tag stands
_TAG = 4
_NOT_THERE = "the filter asks for what is not in the packet (inbound, outbound, ifindex, a place before its start ...)"
_DIRECT = 0x3FFF  # how far from the start the verifier lets us read
_FARTHEST = 0xFFFFF  # no packet is longer
_MAX_DISTANCE = 0x7FFF  # of a jump


class Classic(NamedTuple):
    """An instruction of classic BPF (linux/filter.h)."""

    code: int
    jt: int
    jf: int
    k: int


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction))]


@functools.cache
def libpcap() -> ctypes.CDLL:
    """The library; KernelError where it is not installed."""
    names = [*_LIBRARIES, ctypes.util.find_library("pcap")]
    for name in filter(None, names):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = library.pcap_close.argtypes = [ctypes.c_void_p]
        library.pcap_compile.argtypes = [
            *(ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32)
        ]
        return library
    raise KernelError("libpcap, which filters need, is not installed: install libpcap0.8 (Debian, Ubuntu) or libpcap")


def compile_classic(expression: str, link: int = ETHERNET) -> list[Classic]:
    """What libpcap makes of a tcpdump expression; ConfigError with what it says of a wrong one."""
    library, program = libpcap(), _Program()
    handle = library.pcap_open_dead(link, _SNAPLEN)
    try:
        if library.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1, _NO_NETMASK):
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise ConfigError(f"filter {expression!r}: {reason}; see man pcap-filter, for example: tcp port 443")
        try:
            found = program.instructions[: program.length]
            return [Classic(each.code, each.jt, each.jf, each.k) for each in found]
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)


# eBPF. r6 context, r7 start of the packet, r8 A, r9 X; below the frame pointer what else came as argument, a
# place for octets from the kernel, and the 16 words of scratch memory.
_R0, _R1, _R2, _R3, _R4, _R5, _CONTEXT, _START, _A, _X, _FRAME = range(11)
_END_SLOT, _LENGTH_SLOT, _TAG_SLOT, _OCTETS_SLOT = -8, -16, -24, -32  # and scratch memory below
_SIZES = {0x00: (4, 0x00), 0x08: (2, 0x08), 0x10: (1, 0x10)}  # of loads: octets, and the bits of eBPF's
_REGISTER = 0x08  # the second operand is a register (classic: X)
_ALU32, _ALU64, _JUMP64, _JUMP32 = 0x04, 0x07, 0x05, 0x06
_ADD, _SUB, _DIV, _OR, _AND, _LSH, _RSH, _NEG, _MOD, _MOV, _SWAP = (
    0,
    0x10,
    0x30,
    0x40,
    0x50,
    0x60,
    0x70,
    0x80,
    0x90,
    0xB0,
    0xD0,
)
_ALWAYS, _EQUAL, _GREATER, _NOT_EQUAL, _LESS, _AT_MOST = 0x00, 0x10, 0x20, 0x50, 0xA0, 0xB0
_CALL, _EXIT = 0x85, 0x95
REJECT = -1  # the label of "does not match"


class _Assembler:
    """eBPF instructions with labels."""

    def __init__(self) -> None:
        self.code: list[list[int]] = []  # opcode, destination, source, offset, immediate
        self.labels: dict[int, int] = {}
        self.jumps: list[tuple[int, int]] = []  # instruction, label
        self._next = -2

    def fresh(self) -> int:
        self._next -= 1
        return self._next

    def place(self, label: int) -> None:
        self.labels[label] = len(self.code)

    def emit(self, opcode: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        self.code.append([opcode, destination, source, offset, immediate])

    def alu(self, operation: int, register: int, immediate: int, bits: int = _ALU32) -> None:
        self.emit(bits | operation, register, immediate=immediate)

    def alu_register(self, operation: int, register: int, source: int, bits: int = _ALU32) -> None:
        self.emit(bits | operation | _REGISTER, register, source)

    def load(self, size: int, register: int, base: int, offset: int) -> None:
        self.emit(0x61 | size, register, base, offset)

    def store(self, size: int, base: int, offset: int, register: int) -> None:
        self.emit(0x63 | size, base, register, offset)

    def jump(self, label: int) -> None:
        self.branch(_JUMP64 | _ALWAYS, label)

    def branch(self, opcode: int, label: int, register: int = 0, source: int = 0, immediate: int = 0) -> None:
        self.jumps.append((len(self.code), label))
        self.emit(opcode, register, source, immediate=immediate)

    def assemble(self) -> bytes:
        for index, label in self.jumps:
            distance = self.labels[label] - index - 1
            if distance > _MAX_DISTANCE:
                raise ConfigError("the filter is too long; make it simpler")
            self.code[index][3] = distance
        packed = bytearray()
        for opcode, destination, source, offset, immediate in self.code:
            packed += struct.pack("<BBhI", opcode, source << 4 | destination, offset, immediate & 0xFFFFFFFF)
        return bytes(packed)


def _word(number: int) -> int:
    """The place of a word of scratch memory."""
    return _OCTETS_SLOT - 4 * (number + 1)


def translate(program: Sequence[Classic], helper: int | None, tagged: bool) -> bytes:
    """The function of a classic program as eBPF instructions.

    ``helper``: the number of the kernel's function that loads octets which direct access does not reach, None
    where there is none (then they count as not there); ``tagged``: whether ``tag`` may be other than 0.
    """
    return _Translator(program, helper, tagged).run()


class _Translator:
    def __init__(self, program: Sequence[Classic], helper: int | None, tagged: bool) -> None:
        self._program, self._helper, self._tagged = program, helper, tagged
        self._out = _Assembler()

    def run(self) -> bytes:
        out = self._out
        reached = _reached(self._program)
        out.alu_register(_MOV, _CONTEXT, _R1, _ALU64)
        out.alu_register(_MOV, _START, _R2, _ALU64)
        for slot, register in ((_END_SLOT, _R3), (_LENGTH_SLOT, _R4), (_TAG_SLOT, _R5)):
            out.store(0x18, _FRAME, slot, register)
        for word in {
            each.k for each in self._program if each.code & 0x07 in (2, 3) or each.code & 0xE7 in (0x60, 0x61)
        }:
            out.emit(0x62, _FRAME, offset=_word(word))
        out.alu(_MOV, _A, 0)
        out.alu(_MOV, _X, 0)
        for index, instruction in enumerate(self._program):
            if index in reached:
                out.place(index)
                self._instruction(index, instruction)
        if any(label == REJECT for _, label in out.jumps):
            out.place(REJECT)
            out.alu(_MOV, _R0, 0)
            out.emit(_EXIT)
        return out.assemble()

    def _instruction(self, index: int, each: Classic) -> None:
        kind = each.code & 0x07
        if kind in (0, 1):  # LD, LDX
            self._load(each, _X if kind else _A)
        elif kind in (2, 3):  # ST, STX
            self._out.store(0x00, _FRAME, _word(each.k), _X if kind == 3 else _A)
        elif kind == 4:
            self._arithmetic(each)
        elif kind == 5:
            self._jump(index, each)
        elif kind == 6:  # RET
            self._return(each)
        else:  # MISC: TXA, TAX
            self._out.alu_register(_MOV, *((_A, _X) if each.code & 0x80 else (_X, _A)))

    def _load(self, each: Classic, register: int) -> None:
        mode, out = each.code & 0xE0, self._out
        if mode == 0x00:
            out.alu(_MOV, register, each.k)
        elif mode == 0x60:
            out.load(0x00, register, _FRAME, _word(each.k))
        elif mode == 0x80:
            out.load(0x00, register, _FRAME, _LENGTH_SLOT)
        elif mode == 0xA0:  # 4 * the header length of IPv4
            self._fixed(1, each.k, _X)
            out.alu(_AND, _X, 0x0F)
            out.alu(_LSH, _X, 2)
        elif mode == 0x20:
            self._fixed(_SIZES[each.code & 0x18][0], each.k, _A)
        else:
            self._indirect(_SIZES[each.code & 0x18][0], each.k)

    def _fixed(self, size: int, place: int, register: int) -> None:
        """Load from a place that the program names, as the frame with its tag has it."""
        out = self._out
        if place > _FARTHEST:  # Linux's extensions are there, which libpcap uses on an interface only
            raise ConfigError(_NOT_THERE)
        if not self._tagged or place + size <= _MAC_ADDRESSES:
            self._packet(size, place, register)
            return
        plain, done = out.fresh(), out.fresh()
        out.load(0x18, _R1, _FRAME, _TAG_SLOT)
        out.branch(_JUMP64 | _EQUAL, plain, _R1)
        if place >= _MAC_ADDRESSES + _TAG:
            self._packet(size, place - _TAG, register)
        elif place >= _MAC_ADDRESSES and place + size <= _MAC_ADDRESSES + _TAG:
            self._bits_of_tag(register, place, size)
        else:
            self._across_tag(size, place, register)
        out.jump(done)
        out.place(plain)
        self._packet(size, place, register)
        out.place(done)

    def _bits_of_tag(self, register: int, place: int, size: int) -> None:
        out = self._out
        out.load(0x18, register, _FRAME, _TAG_SLOT)
        out.alu(_RSH, register, 8 * (_MAC_ADDRESSES + _TAG - place - size))
        out.alu(_AND, register, (1 << 8 * size) - 1)

    def _across_tag(self, size: int, place: int, register: int) -> None:
        """Octets of the frame beside some of the tag: those before it or those behind it."""
        out = self._out
        behind = place + size - _MAC_ADDRESSES - _TAG
        if behind > 0:
            self._packet(size, place - _TAG, register)
            out.alu(_AND, register, (1 << 8 * behind) - 1)
            self._bits_of_tag(_R1, place, size - behind)
            out.alu(_LSH, _R1, 8 * behind)
        else:
            of_tag = place + size - _MAC_ADDRESSES
            self._packet(size, place, register)
            out.alu(_RSH, register, 8 * of_tag)
            out.alu(_LSH, register, 8 * of_tag)
            self._bits_of_tag(_R1, _MAC_ADDRESSES, of_tag)
        out.alu_register(_OR, register, _R1)

    def _indirect(self, size: int, k: int) -> None:
        """Load from X + k into A."""
        out = self._out
        if k > _FARTHEST:
            raise ConfigError(_NOT_THERE)
        out.alu_register(_MOV, _R1, _X)
        out.branch(_JUMP64 | _GREATER, REJECT, _R1, immediate=_FARTHEST)
        out.alu(_ADD, _R1, k, _ALU64)
        if self._tagged:
            known = out.fresh()
            out.load(0x18, _R2, _FRAME, _TAG_SLOT)
            out.branch(_JUMP64 | _EQUAL, known, _R2)
            out.branch(_JUMP64 | _AT_MOST, known, _R1, immediate=_MAC_ADDRESSES - size)
            out.branch(_JUMP64 | _LESS, REJECT, _R1, immediate=_MAC_ADDRESSES + _TAG)  # partly in the tag
            out.alu(_SUB, _R1, _TAG, _ALU64)
            out.place(known)
        slow, done = out.fresh(), out.fresh()
        out.branch(_JUMP64 | _GREATER, slow, _R1, immediate=_DIRECT)
        out.alu_register(_MOV, _R2, _START, _ALU64)
        out.alu_register(_ADD, _R2, _R1, _ALU64)
        self._checked(size, _A, slow, done)
        self._from_kernel(size, _A, slow)
        out.place(done)

    def _packet(self, size: int, place: int, register: int) -> None:
        """Load from a fixed place of the frame as it is."""
        out = self._out
        slow, done = out.fresh(), out.fresh()
        out.alu(_MOV, _R1, place)
        if place <= _DIRECT:
            out.alu_register(_MOV, _R2, _START, _ALU64)
            out.alu(_ADD, _R2, place, _ALU64)
            self._checked(size, register, slow, done)
        self._from_kernel(size, register, slow)
        out.place(done)

    def _checked(self, size: int, register: int, slow: int, done: int) -> None:
        """Load from r2 if it is before the end."""
        out = self._out
        out.alu_register(_MOV, _R3, _R2, _ALU64)
        out.alu(_ADD, _R3, size, _ALU64)
        out.load(0x18, _R4, _FRAME, _END_SLOT)
        out.branch(_JUMP64 | _GREATER | _REGISTER, slow, _R3, _R4)
        self._host_order(size, register, _R2, 0)
        out.jump(done)

    def _from_kernel(self, size: int, register: int, label: int) -> None:
        """Load from the offset in r1 what direct access did not reach."""
        out = self._out
        out.place(label)
        if self._helper is None:
            out.jump(REJECT)
            return
        out.alu_register(_MOV, _R2, _R1, _ALU64)
        out.alu_register(_MOV, _R1, _CONTEXT, _ALU64)
        out.alu_register(_MOV, _R3, _FRAME, _ALU64)
        out.alu(_ADD, _R3, _OCTETS_SLOT, _ALU64)
        out.alu(_MOV, _R4, size)
        out.emit(_CALL, immediate=self._helper)
        out.branch(_JUMP64 | _NOT_EQUAL, REJECT, _R0)
        self._host_order(size, register, _FRAME, _OCTETS_SLOT)

    def _host_order(self, size: int, register: int, base: int, offset: int) -> None:
        out = self._out
        out.load(next(bits for octets, bits in _SIZES.values() if octets == size), register, base, offset)
        if size > 1:
            out.emit(_ALU32 | _SWAP | _REGISTER, register, immediate=8 * size)

    def _arithmetic(self, each: Classic) -> None:
        operation, out = each.code & 0xF0, self._out
        if operation == _NEG:
            out.alu(_NEG, _A, 0)
        elif not each.code & _REGISTER:
            out.alu(operation, _A, each.k)
        else:
            if operation in (_DIV, _MOD):
                out.branch(_JUMP32 | _EQUAL, REJECT, _X)
            out.alu_register(operation, _A, _X)

    def _jump(self, index: int, each: Classic) -> None:
        operation, out = each.code & 0xF0, self._out
        if operation == _ALWAYS:
            if each.k >= len(self._program):
                raise ConfigError("the filter has a loop (protochain), which the kernel does not run")
            out.jump(index + 1 + each.k)
            return
        if each.code & _REGISTER:
            out.branch(_JUMP32 | operation | _REGISTER, index + 1 + each.jt, _A, _X)
        else:
            out.branch(_JUMP32 | operation, index + 1 + each.jt, _A, immediate=each.k)
        if each.jf:
            out.jump(index + 1 + each.jf)

    def _return(self, each: Classic) -> None:
        if each.code & 0x10:
            self._out.alu_register(_MOV, _R0, _A)
        else:
            self._out.alu(_MOV, _R0, int(each.k > 0))
        self._out.emit(_EXIT)


def _reached(program: Sequence[Classic]) -> set[int]:
    """The instructions that can be run; the verifier wants no others."""
    found: set[int] = set()
    pending = [0]
    while pending:
        index = pending.pop()
        if index in found or index >= len(program):
            continue
        found.add(index)
        pending += _successors(index, program[index])
    return found


def _successors(index: int, each: Classic) -> Iterator[int]:
    kind = each.code & 0x07
    if kind == 5 and each.code & 0xF0 == _ALWAYS:
        yield index + 1 + each.k
    elif kind == 5:
        yield from (index + 1 + each.jt, index + 1 + each.jf)
    elif kind != 6:
        yield index + 1
