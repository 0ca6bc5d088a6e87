"""Where octets go: a file or standard output.

A sink hands over whole lines (rows, row groups) only. What was written stays whole: a write that fails half-way is
taken back as far as the file allows.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pyflowx.errors import ConfigError, SinkError
from pyflowx.sinks import Data

STDOUT = "-"
_MOST_BUFFERS = 1024  # of one writev (IOV_MAX)


class ReaderGoneError(SinkError):
    """The program that read our pipe has ended, as ``head`` does: no failure, but nobody to write for."""

    exit_code = 0


def _behind(views: list[memoryview], octets: int) -> list[memoryview]:
    """What is left of buffers when so many octets of them are written."""
    for i, view in enumerate(views):
        if octets < view.nbytes:
            return [view.cast("B")[octets:], *views[i + 1 :]] if octets else views[i:]
        octets -= view.nbytes
    return []


def size_of(data: Data) -> int:
    """Octets."""
    if isinstance(data, bytes | memoryview):
        return len(data)
    return sum(memoryview(part).nbytes for part in data)


class Target:
    """A file (appended to, made if missing) or, as ``-``, standard output.

    Appending means that a restart loses nothing. With ``lines``, an unfinished line that a killed process left at the
    end is ended, so that the lines after it can be read. ``is_empty``: nothing was there before.
    """

    def __init__(self, path: str = STDOUT, *, lines: bool = True) -> None:
        self.path = path
        self.octets = 0
        self.advice = "make room or give another -o/--output and start again"
        """The end of what is said when a write fails."""
        self.is_stdout = path == STDOUT
        self._lines = lines
        try:
            self._fd = os.dup(1) if self.is_stdout else self._open()
            status = os.fstat(self._fd)
            self._is_file = stat.S_ISREG(status.st_mode)
            # A file behind stdout is at a place of the shell's choice: what is written is the first of our run.
            self.is_empty = self.is_stdout or not self._is_file or status.st_size == 0
        except OSError as error:
            raise SinkError(
                f"-o/--output {path}: {error.strerror}; give a file in a folder that exists and may be written to"
            ) from error
        if lines and not self.is_empty and not _ends_a_line(path):
            self.write(b"\n")

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file that we opened."""
        return self._is_file and not self.is_stdout

    def again(self) -> Target:
        """The same path opened anew: somebody may have moved the file away."""
        new = Target(self.path, lines=self._lines)
        new.advice = self.advice
        return new

    @property
    def is_there(self) -> bool:
        """Whether it still has a name: somebody may have removed it, or its folder."""
        return os.fstat(self._fd).st_nlink > 0

    def write(self, data: Data) -> None:
        """Write all of it; SinkError where that is not possible, with the file as it was before."""
        parts = [data] if isinstance(data, bytes | memoryview) else data
        views = [view for part in parts if (view := memoryview(part)).nbytes]
        done = 0
        try:
            while views:
                written = self._write_some(views)
                done += written
                views = _behind(views, written)
        except OSError as error:
            kept = self._take_back(done)
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError(f"{self.path}: nobody reads it any more") from error
            raise self._error(error, kept) from error
        self.octets += done

    def _error(self, error: OSError, kept: str) -> SinkError:
        """What to say of a write that failed."""
        name = "standard output" if self.is_stdout else self.path
        return SinkError(f"{name}: {error.strerror}; {self.octets} octets of this run are {kept}; {self.advice}")

    def _write_some(self, views: list[memoryview]) -> int:
        try:
            return os.write(self._fd, views[0]) if len(views) == 1 else os.writev(self._fd, views[:_MOST_BUFFERS])
        except BlockingIOError:  # a terminal or pipe that another process made non-blocking
            select.select([], [self._fd], [])
            return 0

    def _take_back(self, written: int) -> str:
        """Cut a file back to the last whole write; what to call the rest."""
        if written == 0:
            return "kept complete"
        if not self._is_file:
            return "followed by a part of a line"
        try:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if end != os.fstat(self._fd).st_size:  # somebody else appended too
                return "followed by a part of a line"
            os.ftruncate(self._fd, end - written)
            os.lseek(self._fd, end - written, os.SEEK_SET)
        except OSError:
            return "followed by a part of a line"
        return "kept complete"

    def check_beginning(self, octets: bytes) -> None:
        """ConfigError where a file that is appended to does not begin with these octets, its header."""
        with open(self.path, "rb") as file:
            if file.read(len(octets)) != octets:
                raise ConfigError(f"-o/--output {self.path} begins with other columns than these; give another name")

    def close(self, is_whole: bool = True) -> None:
        """``is_whole``: what completes the file has been written."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)  # a network file system reports here what it could not write
        except OSError as error:
            raise SinkError(
                f"-o/--output {self.path}: {error.strerror} at its end; check the last lines of the file"
            ) from error


class HiddenFile(Target):
    """A file that gets its name when it is complete: until then it is called ``.<name>.<process id>.part``.

    A name that is taken meanwhile is made free with a number: ``flows-1.parquet``.
    """

    def __init__(self, path: str) -> None:
        self.final = Path(path)
        if not self.final.name:
            raise SinkError(f"-o/--output {path}: a folder; give a file in it")
        super().__init__(str(self.final.with_name(f".{self.final.name}.{os.getpid()}.part")), lines=False)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def _error(self, error: OSError, kept: str) -> SinkError:
        return SinkError(f"{self.final}: {error.strerror}; {self.octets} octets before are {kept}")

    def again(self) -> HiddenFile:
        return HiddenFile(str(self.final))

    def complete(self) -> Path:
        """Everything to the disk, then the final name, which is returned. OSError where that is not possible."""
        fd, self._fd = self._fd, -1
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        found = free_name(self.final)
        os.rename(self.path, found)
        folder = os.open(found.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return found

    def abandon(self) -> None:
        """Remove it: nothing of it can be read."""
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            os.close(fd)
        with suppress(OSError):
            os.unlink(self.path)

    def close(self, is_whole: bool = True) -> None:
        if self._fd < 0:
            return
        if not is_whole:  # the reason has been said
            super().close()
            return
        try:
            self.complete()
        except OSError as error:
            raise SinkError(
                f"-o/--output {self.final}: {error.strerror} at its end; what was written is in {self.path}"
            ) from error


def free_name(path: Path, taken: Collection[Path] = ()) -> Path:
    """The path, or with the first number behind its stem with which neither a file nor one of ``taken`` has it."""
    found, number = path, 0
    while found in taken or os.path.lexists(found):
        number += 1
        stem, dot, suffix = path.name.partition(".")
        found = path.with_name(f"{stem}-{number}{dot}{suffix}")
    return found


def open_target(path: str, *, appends: bool, lines: bool) -> Target:
    """The target of ``-o``. ``appends``: the format can go on in a file that is there; else it has to be a new one."""
    if appends or path == STDOUT or _is_special(path):
        return Target(path, lines=lines)
    if os.path.lexists(path):
        raise ConfigError(
            f"-o/--output {path} exists, and this format cannot be appended to; give another name or remove it"
        )
    return HiddenFile(path)


def _is_special(path: str) -> bool:
    """A device, a pipe."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _ends_a_line(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
