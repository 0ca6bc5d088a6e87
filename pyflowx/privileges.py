"""Give up what is not needed once the programs are attached.

Reading maps, detaching, and attaching to an interface that comes back need CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN
(before Linux 5.8: CAP_SYS_ADMIN), promiscuous interfaces and AF_XDP sockets CAP_NET_RAW too, the latter also
CAP_IPC_LOCK for their memory. All other powers of root are not needed any more. A thread has its own capabilities:
those that were started before keep theirs, so that this comes before any is.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import struct

from pyflowx.errors import ConfigError, KernelError

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 0, 1, 2, 3  # linux/capability.h
CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK = 10, 12, 13, 14
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39
FILES = (CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER)
"""To read and write files as root does."""
_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 8, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)


def find_user(name: str) -> pwd.struct_passwd:
    """By name or number; ConfigError where there is none."""
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"--user {name}: there is no such user; give one of /etc/passwd, such as nobody") from None


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def needed(*also: int) -> int:
    """The capabilities that are kept, a bit each."""
    bpf = 1 << CAP_BPF | 1 << CAP_PERFMON if _last_capability() >= CAP_BPF else 1 << CAP_SYS_ADMIN
    return bpf | 1 << CAP_NET_ADMIN | sum(1 << capability for capability in set(also))


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _permitted() -> int:
    """Those that the thread has now."""
    with open("/proc/thread-self/status") as lines:
        return int(next(line for line in lines if line.startswith("CapPrm:")).split()[1], 16)


def drop(user: pwd.struct_passwd | None = None, *also: int) -> None:
    """Become ``user`` (None: stay who we are) and keep the needed capabilities and ``also`` these, of those that we
    have."""
    _keep(needed(*also), user)


def keep(*capabilities: int) -> None:
    """Only these, of those that we have."""
    _keep(sum(1 << capability for capability in capabilities), None)


def _keep(wanted: int, user: pwd.struct_passwd | None) -> None:
    kept = wanted & _permitted()
    try:
        if kept != _permitted() or user is not None:
            for capability in range(_last_capability() + 1):
                if not kept >> capability & 1:
                    _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused where we may not even do that
        if user is not None:
            _prctl(_PR_SET_KEEPCAPS, 1)
            os.setgroups([])
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
            _check_readable(user.pw_name)
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        _set(kept)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise KernelError(f"cannot give up privileges: {error.strerror}; run as root, or without --user") from error


def _check_readable(name: str) -> None:
    """Modules are loaded when they are first needed, by whoever we are then."""
    if not os.access(__file__, os.R_OK):
        raise ConfigError(
            f"--user {name}: this user cannot read {os.path.dirname(__file__)}; install pyflowx where all can, such as "
            "/opt/pyflowx (make install), or give another user"
        )


def _set(capabilities: int) -> None:
    """Effective and permitted, none of them inherited by programs that are run."""
    header = struct.pack("=Ii", _VERSION_3, 0)
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    if _libc.capset(header, data):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
