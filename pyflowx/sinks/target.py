"""Where octets go: a file or standard output.

A sink hands over whole lines only. What was written stays whole: a write that fails half-way is taken
back as far as the file allows.
"""

from __future__ import annotations

import os
import select
import stat

from pyflowx.errors import SinkError

STDOUT = "-"


class ReaderGoneError(SinkError):
    """The program that read our pipe has ended, as ``head`` does: no failure, but nobody to write for."""

    exit_code = 0


class Target:
    """A file (appended to, made if missing) or, as ``-``, standard output.

    Appending means that a restart loses nothing. An unfinished line that a killed process left at the end is
    ended, so that the lines after it can be read.
    """

    def __init__(self, path: str = STDOUT) -> None:
        self.path = path
        self.octets = 0
        self.is_stdout = path == STDOUT
        try:
            self._fd = os.dup(1) if self.is_stdout else _open(path)
            self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        except OSError as error:
            raise SinkError(
                f"-o/--output {path}: {error.strerror}; give a file in a folder that exists and may be written to"
            ) from error
        if self._is_file and not self.is_stdout and not _ends_a_line(path):
            self.write(b"\n")

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it; SinkError where that is not possible, with the file as it was before."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += self._write_some(view[done:])
        except OSError as error:
            kept = self._take_back(done)
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError(f"{self.path}: nobody reads it any more") from error
            name = "standard output" if self.is_stdout else self.path
            raise SinkError(
                f"{name}: {error.strerror}; {self.octets} octets of this run are {kept}; "
                "make room or give another -o/--output and start again"
            ) from error
        self.octets += done

    def _write_some(self, view: memoryview) -> int:
        try:
            return os.write(self._fd, view)
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
        except OSError:
            return "followed by a part of a line"
        return "kept complete"

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)  # a network file system reports here what it could not write
        except OSError as error:
            raise SinkError(
                f"-o/--output {self.path}: {error.strerror} at its end; check the last lines of the file"
            ) from error


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def _ends_a_line(path: str) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
