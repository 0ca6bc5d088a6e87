"""Removes old files of a tree: only those that a list in its root says it wrote itself.

The list is a hidden file with a line for each file: the start of its window, when it was begun (seconds since 1970),
its path. The line is written before the file is made: what a killed process leaves behind is found too. The
list is written anew when files have been removed.
"""

from __future__ import annotations

import fcntl
import functools
import glob
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pyflowx.sinks.commands import Commands
from pyflowx.sinks.layout import CommandLine

LIST = ".pyflowx-files"
_LINE = re.compile(r"(-?\d{1,12}) (\d{1,12}) (.+)")


class Listed(NamedTuple):
    """A file of the list: the start of its window and when it was begun, in seconds since 1970; its path."""

    start: int
    begun: int
    path: str

    def __str__(self) -> str:
        return f"{self.start} {self.begun} {self.path}\n"


class FileList:
    """The files of a tree that it wrote itself. Processes may use it together. Every method may raise OSError."""

    def __init__(self, root: Path) -> None:
        self._path = root / LIST

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def add(self, start: int, begun: int, path: str) -> None:
        with self._locked():
            self._append(Listed(start, begun, path))

    def _append(self, file: Listed) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(fd).st_size
            broken = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # of a process that was killed
            os.write(fd, b"\n" * broken + os.fsencode(str(file)))
        finally:
            os.close(fd)

    def read(self) -> list[Listed]:
        """Lines that no list of ours has are left out."""
        try:
            lines = os.fsdecode(self._path.read_bytes()).split("\n")
        except FileNotFoundError:
            return []
        found = (_LINE.fullmatch(line) for line in lines)
        return [Listed(int(match[1]), int(match[2]), match[3]) for match in found if match and _is_inside(match[3])]

    def forget(self, gone: Collection[Listed]) -> None:
        with self._locked():
            self._replace(file for file in self.read() if file not in gone)

    def _replace(self, files: Iterable[Listed]) -> None:
        new = self._path.with_name(f"{LIST}.{os.getpid()}")
        new.write_bytes(os.fsencode("".join(map(str, files))))
        new.replace(self._path)


def _is_inside(path: str) -> bool:
    parsed = PurePosixPath(path)
    return not parsed.is_absolute() and ".." not in parsed.parts


class Expiry:
    """Removes the files that were begun longer ago than ``age_s`` seconds.

    With ``command``, that runs for each of them first, and one that fails keeps its file until the next time.
    """

    def __init__(
        self,
        root: Path,
        files: FileList,
        age_s: int,
        command: CommandLine | None,
        commands: Commands,
        report: Callable[[str], None],
    ) -> None:
        self.removed = 0
        self._root, self._files, self._age_s = root, files, age_s
        self._command, self._commands, self._report = command, commands, report
        self._busy: set[str] = set()

    def run(self, now_s: float) -> None:
        try:
            files = self._files.read()
            old = [file for file in files if file.begun < now_s - self._age_s and file.path not in self._busy]
            if self._command is None:
                self._forget([file for file in old if self._is_removed(file)])
                return
        except OSError as error:
            self._report(f"--expire: {error.filename}: {error.strerror}")
            return
        for file in old:
            if not (self._root / file.path).exists():
                self._after(file, True)
                continue
            self._busy.add(file.path)
            words = self._command.fill(str(self._root), file.path, file.start)
            self._commands.run(words, functools.partial(self._after, file))

    def _after(self, file: Listed, good: bool) -> None:
        """The command for a file has ended."""
        self._busy.discard(file.path)
        try:
            if good and self._is_removed(file):
                self._forget([file])
        except OSError as error:
            self._report(f"--expire: {error.filename}: {error.strerror}")

    def _forget(self, files: list[Listed]) -> None:
        if files:
            self._files.forget(set(files))

    def _is_removed(self, file: Listed) -> bool:
        """Remove a file, what a killed process left of it, and folders that become empty."""
        path = self._root / file.path
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            with suppress(OSError):
                left.unlink()
        try:
            path.unlink()
            self.removed += 1
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self._report(f"--expire: {path}: {error.strerror}")
            return False
        with suppress(OSError):  # there is something left in it
            for folder in list(PurePosixPath(file.path).parents)[:-1]:
                (self._root / folder).rmdir()
        return True
