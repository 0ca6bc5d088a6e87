"""Compiled programs in files, so that a start needs no compiler, nor its libraries.

What the compiler made of a build is one file: a line of JSON, the manifest, and then the instructions. The file's name
is made of the sources, the options and the machine, so that it is found without a compiler; with what else it was made
(BCC, header files) stands in the manifest. A file that somebody else could have written is never used, and what is
damaged counts as not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pyflowx import __version__
from pyflowx.errors import ConfigError

PROGRAMS = "PYFLOWX_PROGRAMS"  # environment: a folder of programs that were compiled elsewhere
SYSTEM_FOLDER = Path("/usr/lib/pyflowx/programs")
SUFFIX = ".bpf"
MAX_FILES = 128  # in the cache: several versions of all builds, some 5 MB
_FORMAT = 1  # of a file, and of the compiler's own options: another number makes all files stale
_MAX_LEN = 1 << 23
_INSTRUCTION_LEN = 8
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Build(NamedTuple):
    """Something to compile: ``names`` are the functions of a C file, ``macros`` as ``NAME`` or ``NAME=value``."""

    file: Path
    names: tuple[str, ...]
    macros: tuple[str, ...] = ()

    def file_name(self) -> str:
        """What it is called in the cache; the same on every host with the same sources."""
        digest = hashlib.sha256()
        identity = [_FORMAT, platform.machine(), self.file.name, self.names, sorted(self.macros)]
        digest.update(json.dumps(identity).encode())
        for source in (self.file, *sorted(source_folder().glob("*.h"))):
            content = source.read_bytes()
            digest.update(f"\n{source.name} {len(content)}\n".encode() + content)
        return f"{self.file.stem}-{digest.hexdigest()[:32]}{SUFFIX}"


class Entry(NamedTuple):
    """``made_with``: the compiler and header files; ``programs``: instructions by name."""

    made_with: Mapping[str, str]
    programs: dict[str, bytes]


def source_folder() -> Path:
    """The folder of our C sources."""
    return Path(str(resources.files("pyflowx_bpf")))


def cache_folder() -> Path:
    """Where we keep what we compiled: systemd's choice (CacheDirectory=), the system's for root, else the user's."""
    given = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/cache/pyflowx")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyflowx"


def given_folders() -> list[Path]:
    """Folders of programs that were compiled elsewhere, for use here whatever compiler this host has. ConfigError
    where the user's choice cannot be one."""
    chosen = os.environ.get(PROGRAMS)
    if not chosen:
        return [SYSTEM_FOLDER]
    folder = Path(chosen)
    try:
        found = folder.stat()
    except OSError as error:
        raise ConfigError(f"programs in {chosen}: {error.strerror}; make them with: pyflowx compile -o DIR") from error
    if not _is_ours(found):
        advice = "it must be a folder of root or yours that others cannot write to (chown, chmod go-w)"
        raise ConfigError(f"programs in {chosen}: {advice}")
    return [folder, SYSTEM_FOLDER]


def read(folder: Path, build: Build) -> Entry | None:
    """What is there of a build; None where there is nothing that can be used."""
    try:
        descriptor = os.open(folder / build.file_name(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not (_is_ours(folder.stat()) and _is_ours(os.fstat(descriptor), stat.S_ISREG)):
            return None
        with suppress(OSError):
            os.utime(descriptor)  # the files used last are kept
        return _parse(file.read(_MAX_LEN), build)


def write(folder: Path, build: Build, entry: Entry) -> None:
    """Put it there in one step, readable for all. OSError where that is not possible."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    body = b"".join(entry.programs.values())
    manifest = {
        "format": _FORMAT,
        "pyflowx": __version__,
        "machine": platform.machine(),
        "file": build.file.name,
        "macros": build.macros,
        "made_with": entry.made_with,
        "programs": {name: len(code) for name, code in entry.programs.items()},
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    path = folder / build.file_name()
    part = folder / f".{path.name}.{os.getpid()}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(manifest).encode() + b"\n" + body)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def remove_old(folder: Path, keep: int = MAX_FILES) -> None:
    """Remove the files that were used longest ago, and what was left half written, beyond ``keep``."""
    files = [path for pattern in (f"*{SUFFIX}", f".*{SUFFIX}.*.part") for path in folder.glob(pattern)]
    for path in sorted(files, key=_used_ns, reverse=True)[keep:]:
        with suppress(OSError):
            path.unlink()


def files(folder: Path) -> list[Path]:
    """The compiled programs of a folder, of whatever sources."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def _used_ns(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _is_ours(found: os.stat_result, kind: Any = stat.S_ISDIR) -> bool:
    """Whether it is of that kind, and nobody but root and us could have written it."""
    return kind(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & _OTHERS_WRITE


def _parse(content: bytes, build: Build) -> Entry | None:
    head, _, body = content.partition(b"\n")
    try:
        manifest = json.loads(head)
        lengths = dict(zip(build.names, _lengths(manifest, build.names), strict=True))
        if manifest["format"] != _FORMAT or manifest["sha256"] != hashlib.sha256(body).hexdigest():
            return None
        made_with = {str(name): str(value) for name, value in dict(manifest["made_with"]).items()}
    except (ValueError, KeyError, TypeError):
        return None
    if sum(lengths.values()) != len(body):
        return None
    programs, place = {}, 0
    for name, length in lengths.items():
        programs[name] = body[place : place + length]
        place += length
    return Entry(made_with, programs)


def _lengths(manifest: Mapping[str, Any], names: Iterable[str]) -> list[int]:
    found = [manifest["programs"][name] for name in names]
    if not all(type(length) is int and length > 0 and length % _INSTRUCTION_LEN == 0 for length in found):
        raise ValueError("not a number of instructions")
    return found
