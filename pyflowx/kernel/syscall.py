"""The bpf() system call through ctypes: maps, programs, batches, test runs (``man 2 bpf``, linux/bpf.h).

Every call packs ``union bpf_attr`` by hand: the formats below are its layouts, in the order of the
header. BCC's Python layer cannot set program flags and makes one object of an entry; this one can
and does not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pyflowx.errors import KernelError

Array = npt.NDArray[Any]
Buffer = ctypes.Array[ctypes.c_char]

_CALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351, "armv7l": 386}

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD = 0, 1, 2, 3, 5
_PROG_TEST_RUN, _PROG_FD_BY_ID, _INFO_BY_FD = 10, 13, 15
_BTF_LOAD, _LOOKUP_BATCH, _LINK_CREATE, _ENABLE_STATS = 18, 24, 28, 32

MAP_TYPE_HASH, MAP_TYPE_ARRAY, MAP_TYPE_PERCPU_ARRAY, MAP_TYPE_LRU_HASH = 1, 2, 6, 9
MAP_TYPE_LPM_TRIE, MAP_TYPE_ARRAY_OF_MAPS, MAP_TYPE_XSKMAP = 11, 12, 17
MAP_TYPE_REUSEPORT_SOCKARRAY, MAP_TYPE_RINGBUF = 20, 27
HELPER_SKB_LOAD_BYTES, HELPER_XDP_LOAD_BYTES = 26, 189
PROG_TYPE_SCHED_CLS, PROG_TYPE_XDP, PROG_TYPE_SK_REUSEPORT = 3, 6, 21
NO_PREALLOC = 1
MMAPABLE = 1 << 10
XDP_HAS_FRAGS = 1 << 5
TCX_INGRESS, TCX_EGRESS = 46, 47
_BEFORE = 1 << 3  # with no other program: before all

_ATTR_LEN = 192
_INFO_LEN = 256
_BATCH = 1 << 16  # entries a call
_LOG_LEN = 1 << 24
_LOG_TAIL = 12  # lines of the verifier that an error shows
_ENOTSUPP = 524  # the kernel's own, not in errno.h
_PSEUDO_MAP_FD = _PSEUDO_CALL = 1
_PSEUDO_NUMBER = 15  # of bpf/maps.h
_LOAD_IMM64, _CALL_INSTRUCTION = 0x18, 0x85

PRIVILEGE = "run as root (sudo), or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (before Linux 5.8: CAP_SYS_ADMIN)"

_INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("immediate", "<i4")])

_libc = ctypes.CDLL(None, use_errno=True)


def _attr(layout: str, *values: int | bytes) -> Buffer:
    return ctypes.create_string_buffer(struct.pack("=" + layout, *values), _ATTR_LEN)


def _call(command: int, attr: Buffer) -> int:
    number = _CALL_NUMBERS.get(platform.machine())
    if number is None:
        raise KernelError(f"metering is not supported on {platform.machine()}: the number of its bpf() is not known")
    result: int = _libc.syscall(number, command, attr, len(attr))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def refused(what: str, error: OSError, since: str = "") -> KernelError:
    """The KernelError for a call that was refused; ``since``: the first kernel that has the feature."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return KernelError(f"{what}: permission denied; {PRIVILEGE}")
    hint = ""
    if since and error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, _ENOTSUPP):
        hint = f"; it needs Linux {since} or newer, this is {platform.release()}"
    return KernelError(f"{what}: {error.strerror}{hint}")


def lift_memory_limit() -> None:
    """Before Linux 5.11 maps count as locked memory; that of AF_XDP sockets always does."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().replace(",", "-").rpartition("-")[2]) + 1


def _linked(code: Array, functions: Mapping[int, bytes]) -> Array:
    """Instructions with the functions that they call behind them."""
    for number, function in functions.items():
        calls = np.flatnonzero((code["code"] == _CALL_INSTRUCTION) & (code["immediate"] == number))
        code["registers"][calls] = _PSEUDO_CALL << 4
        code["immediate"][calls] = len(code) - calls - 1
        code = np.concatenate([code, np.frombuffer(function, _INSTRUCTION)])
    return code


def _named(code: Array, kind: int) -> Array:
    """Where the loads of what is named by a slot are."""
    return np.flatnonzero((code["code"] == _LOAD_IMM64) & (code["registers"] >> 4 == kind))


def _filled_in(code: Array, maps: Mapping[int, Map], numbers: Mapping[int, int]) -> None:
    """Put descriptors and numbers in the place of their slots."""
    for place in _named(code, _PSEUDO_MAP_FD).tolist():
        code["immediate"][place] = maps[int(code["immediate"][place])].fd
    for place in _named(code, _PSEUDO_NUMBER).tolist():
        number = numbers[int(code["immediate"][place])]
        code["registers"][place] &= 0x0F
        code["immediate"][[place, place + 1]] = np.array([number], "<u8").view("<i4")


class _Descriptor:
    """Something of the kernel's that is there as long as its descriptor is open."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _info(self) -> Buffer:
        """What the kernel says of it: struct bpf_prog_info, bpf_link_info."""
        info = ctypes.create_string_buffer(_INFO_LEN)
        _call(_INFO_BY_FD, _attr("IIQ", self.fd, _INFO_LEN, ctypes.addressof(info)))
        return info

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Map(_Descriptor):
    """A map; keys and values are octets of fixed sizes. ``inner`` is the pattern for a map of maps; ``btf`` what
    describes keys and values: its descriptor and the numbers of both types."""

    def __init__(
        self,
        kind: int,
        key_size: int,
        value_size: int,
        entries: int,
        name: str,
        flags: int = 0,
        inner: int = 0,
        btf: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        attr = _attr("7I16s4I", kind, key_size, value_size, entries, flags, inner, 0, name.encode(), 0, *btf)
        self.entries = entries
        self.value_size = value_size
        if kind == MAP_TYPE_PERCPU_ARRAY:
            self.value_size = (value_size + 7) // 8 * 8 * possible_cpus()
        try:
            super().__init__(_call(_MAP_CREATE, attr))
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise KernelError(f"no memory for a map of {entries} entries; lower --max-flows") from error
            since = "5.8" if kind == MAP_TYPE_RINGBUF else "5.6"
            raise refused(f"cannot make the map {name}", error, since) from error

    def update(self, key: bytes, value: bytes) -> None:
        """Create or replace an entry; of a map of maps only when no program sees the old one any more."""
        key_buffer, value_buffer = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
        addresses = ctypes.addressof(key_buffer), ctypes.addressof(value_buffer)
        try:
            _call(_MAP_UPDATE, _attr("IIQQQ", self.fd, 0, *addresses, 0))
        except OSError as error:
            raise refused("cannot write to a map", error) from error

    def delete(self, key: bytes) -> None:
        """Remove an entry, if it is there."""
        key_buffer = ctypes.create_string_buffer(key)
        try:
            _call(_MAP_DELETE, _attr("IIQ", self.fd, 0, ctypes.addressof(key_buffer)))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise refused("cannot write to a map", error) from error

    def lookup(self, key: bytes) -> bytes:
        """The value of a key that is there (arrays); of a per-CPU map those of all CPUs."""
        key_buffer, value = ctypes.create_string_buffer(key), ctypes.create_string_buffer(self.value_size)
        _call(_MAP_LOOKUP, _attr("IIQQQ", self.fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value), 0))
        return value.raw

    def entries_now(self, key_dtype: np.dtype[Any], value_dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """The entries of a hash while programs write to it: n keys and n values. What comes or goes meanwhile may be
        missed. The arrays' memory is as large as the map can be, but only what is used is ever touched."""
        keys, values = np.empty(self.entries, key_dtype), np.empty(self.entries, value_dtype)
        token = ctypes.create_string_buffer(8)  # the bucket to go on with, written by the kernel
        found, batch, more, first = 0, _BATCH, True, True
        while more and found < self.entries:
            attr = _attr(
                "QQQQIIQQ",
                0 if first else ctypes.addressof(token),
                ctypes.addressof(token),
                keys.ctypes.data + found * key_dtype.itemsize,
                values.ctypes.data + found * value_dtype.itemsize,
                min(batch, self.entries - found),
                *(self.fd, 0, 0),
            )
            try:
                _call(_LOOKUP_BATCH, attr)
            except OSError as error:
                if error.errno == errno.ENOSPC:  # a bucket with more entries than this batch: nothing was taken
                    batch *= 2
                    continue
                if error.errno != errno.ENOENT:  # which is the end, with a count that holds
                    raise refused("cannot read a map", error, since="5.6") from error
                more = False
            first = False
            found += struct.unpack_from("=I", attr, 32)[0]
        return keys[:found], values[:found]


class TestRun(NamedTuple):
    """What a program made of a packet: its return value and the mean ns of a run."""

    retval: int
    nanoseconds: int


class ProgramInfo(NamedTuple):
    """``nanoseconds`` and ``runs`` grow only while :func:`enable_statistics` is in force."""

    id: int
    name: str
    nanoseconds: int
    runs: int

    @property
    def mean_ns(self) -> float:
        """Nanoseconds of a run, that is of a packet; 0 before the first."""
        return self.nanoseconds / self.runs if self.runs else 0.0


class Program(_Descriptor):
    """A loaded program."""

    @classmethod
    def load(
        cls,
        kind: int,
        name: str,
        instructions: bytes,
        maps: Mapping[int, Map],
        flags: int = 0,
        functions: Mapping[int, bytes] | None = None,
        numbers: Mapping[int, int] | None = None,
    ) -> Program:
        """Verify and load; ``maps`` has the map and ``numbers`` the number for each slot that the instructions name,
        ``functions`` the instructions of what they call by a number that is no helper's."""
        code = _linked(np.frombuffer(instructions, _INSTRUCTION).copy(), functions or {})
        _filled_in(code, maps, numbers or {})
        licence = ctypes.create_string_buffer(b"GPL")

        def load(log: Buffer | None) -> int:
            log_fields = (1, len(log), ctypes.addressof(log)) if log else (0, 0, 0)
            head = (kind, len(code), code.ctypes.data, ctypes.addressof(licence))
            return _call(_PROG_LOAD, _attr("IIQQIIQII16s", *head, *log_fields, 0, flags, name.encode()))

        try:
            return cls(load(None))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOMEM):
                raise refused(f"cannot load the program {name}", error) from error
            if error.errno == errno.E2BIG:  # the log would say no more, and take as long again
                release = platform.release()
                raise KernelError(f"the verifier of the kernel ({release}) gives up on the program {name}") from error
        log = ctypes.create_string_buffer(_LOG_LEN)
        try:
            return cls(load(log))
        except OSError as error:
            lines = log.value.decode(errors="replace").splitlines()[-_LOG_TAIL:]
            reason = "\n  ".join(["the verifier says:", *lines]) if lines else error.strerror
            raise KernelError(f"the kernel ({platform.release()}) refuses the program {name}; {reason}") from error

    @classmethod
    def by_id(cls, id: int) -> Program | None:
        """A program that anybody has loaded; None where it has gone meanwhile, or where we may not look (that takes
        CAP_SYS_ADMIN)."""
        try:
            return cls(_call(_PROG_FD_BY_ID, _attr("III", id, 0, 0)))
        except (FileNotFoundError, PermissionError):
            return None
        except OSError as error:
            raise refused(f"cannot look at program {id}", error) from error

    def info(self) -> ProgramInfo:
        info = self._info()
        name = info.raw[64:80].rstrip(b"\0").decode(errors="replace")
        return ProgramInfo(struct.unpack_from("=I", info, 4)[0], name, *struct.unpack_from("=QQ", info, 192))

    def test_run(self, packet: bytes | bytearray, repeat: int = 1, context: bytes = b"") -> TestRun:
        """Run the program on a packet (BPF_PROG_TEST_RUN), ``context`` being the start of its context."""
        data = ctypes.create_string_buffer(bytes(packet), len(packet))
        head = ctypes.create_string_buffer(context, max(len(context), 1))
        attr = _attr(
            "4IQQ4IQQ",
            *(self.fd, 0, len(packet), 0, ctypes.addressof(data), 0),
            *(repeat, 0, len(context), 0, ctypes.addressof(head) if context else 0, 0),
        )
        _call(_PROG_TEST_RUN, attr)
        return TestRun(struct.unpack_from("=I", attr, 4)[0], struct.unpack_from("=I", attr, 36)[0])


class TcxLink(_Descriptor):
    """A program at TCX (Linux 6.6) of an interface of this network namespace, before all that are there, for as long
    as this is open: the kernel takes it off where we do not. OSError EINVAL where the kernel has no TCX."""

    def __init__(self, program: Program, ifindex: int, attach_type: int) -> None:
        super().__init__(_call(_LINK_CREATE, _attr("4I", program.fd, ifindex, attach_type, _BEFORE)))

    def is_attached(self) -> bool:
        """Not where the interface is no more, or somebody has detached it."""
        ifindex: int = struct.unpack_from("=I", self._info(), 16)[0]
        return ifindex != 0


def load_btf(types: bytes, strings: bytes) -> _Descriptor:
    """Types for the kernel (Documentation/bpf/btf.rst): encoded ones, and their names."""
    header = struct.pack("=HBB5I", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    data = ctypes.create_string_buffer(header + types + strings, len(header) + len(types) + len(strings))
    try:
        return _Descriptor(_call(_BTF_LOAD, _attr("QQI", ctypes.addressof(data), 0, len(data))))
    except OSError as error:
        raise refused("cannot load types", error, since="4.18") from error


def enable_statistics() -> _Descriptor:
    """Let the kernel measure the run time of all programs until the result is closed."""
    try:
        return _Descriptor(_call(_ENABLE_STATS, _attr("I", 0)))
    except OSError as error:
        raise refused("cannot enable BPF statistics", error, since="5.8") from error
