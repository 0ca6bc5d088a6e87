"""Where octets go, and what is left when that fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyflowx.errors import SinkError
from pyflowx.sinks.target import ReaderGoneError, Target


def write(path: Path, *lines: bytes) -> None:
    target = Target(str(path))
    for line in lines:
        target.write(line)
    target.close()


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    write(path, b"one\n", b"two\n")
    write(path, b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_an_unfinished_line_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    path.write_bytes(b'one\n{"tw')
    write(path, b"three\n")
    assert path.read_bytes() == b'one\n{"tw\nthree\n'


@pytest.mark.parametrize("name", ["missing/flows.json", ""])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SinkError, match=f"-o/--output {tmp_path}") as caught:
        Target(str(tmp_path / name))
    assert caught.value.exit_code == 4


def test_a_write_that_fails_half_way_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flows.json"
    path.write_bytes(b"before\n")
    target = Target(str(path))
    target.write(b"whole\n")
    real, calls = os.write, []

    def half(fd: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(SinkError, match="No space left on device; 6 octets of this run are kept complete") as caught:
        target.write(b"this does not fit\n")
    assert str(path) in str(caught.value)
    assert len(calls) == 2
    assert path.read_bytes() == b"before\nwhole\n"
    assert target.octets == 6
    target.close()


def test_what_somebody_else_appended_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flows.json"
    target = Target(str(path))
    real, calls = os.write, []

    def half(fd: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done = real(fd, data[:4])
        with path.open("ab") as other:
            real(other.fileno(), b"theirs\n")
        return done

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(SinkError, match="a part of a line"):
        target.write(b"ours are longer\n")
    assert path.read_bytes() == b"ourstheirs\n"
    target.close()


def test_a_full_device() -> None:
    target = Target("/dev/full")
    with pytest.raises(SinkError, match="/dev/full: No space left on device"):
        target.write(b"line\n")
    target.close()


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    target = Target(str(fifo))
    target.write(b"line\n")
    os.close(reader)
    with pytest.raises(ReaderGoneError) as caught:
        target.write(b"line\n")
    assert caught.value.exit_code == 0
    target.close()


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything() -> None:
    code = """
import os
from pyflowx.sinks.target import Target
os.set_blocking(1, False)
target = Target()
for i in range(20):
    target.write(bytes([65 + i]) * 65535 + b"\\n")
target.close()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = child.stdout.read().splitlines()
    assert child.returncode == 0
    assert [(line[:1], len(line)) for line in lines] == [(bytes([65 + i]), 65535) for i in range(20)]
