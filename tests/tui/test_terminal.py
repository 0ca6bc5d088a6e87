"""``pyflowx tui`` in a real terminal (tmux), attached to a live collector that ``pyflowx generate`` feeds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

PROGRAM = [sys.executable, "-m", "pyflowx"]

if shutil.which("tmux") is None:
    pytest.skip("probe: there is no tmux here (apt-get install tmux)", allow_module_level=True)


class Terminal:
    """A terminal of so many cells with a program in it."""

    def __init__(self, folder: Path, *command: str, size: tuple[int, int] = (80, 24), **environment: str) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux")]
        self._status = folder / "status"
        words = [f"{name}={value}" for name, value in environment.items()]
        shell = ["env", "-u", "NO_COLOR", "-u", "COLORTERM", f"XDG_STATE_HOME={folder}", *words, *command]
        line = f"{' '.join(map(_quoted, shell))}; echo $? > {_quoted(str(self._status))}"
        width, height = map(str, size)
        subprocess.run(
            [*self._tmux, "-f", "/dev/null", "new-session", "-d", "-x", width, "-y", height, line], check=True
        )

    def text(self, *options: str) -> str:
        found = subprocess.run(
            [*self._tmux, "capture-pane", "-p", *options], capture_output=True, text=True, check=False
        )
        return found.stdout

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def wait_for(self, pattern: str) -> str:
        """The text, as soon as the pattern is in it."""
        return str(until(lambda: text if re.search(pattern, text := self.text()) else None))

    def exit_status(self) -> int:
        return int(until(lambda: self._status.read_text() if self._status.exists() else None))

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def until(look: Callable[[], Any]) -> Any:
    while True:
        found = look()
        if found:
            return found
        time.sleep(0.05)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, int]]:
    """(process, its live feed, its port); flows come to it all the time."""
    feed, said = tmp_path / "feed.sock", tmp_path / "stderr"
    options = ["-H", "127.0.0.1", "-p", "0", "-f", "common", "-s", "discard", "--no-metrics", "--live", str(feed)]
    with ExitStack() as stack:
        process = subprocess.Popen([*PROGRAM, "collect", *options], stderr=stack.enter_context(said.open("wb")))
        stack.callback(process.wait)
        stack.callback(process.kill)
        port = int(until(lambda: re.search(r"UDP port (\d+)", said.read_text()))[1])
        source = subprocess.Popen(
            [*PROGRAM, "generate", "-H", "127.0.0.1", "-p", str(port), "-r", "200", "-n", "1000000"],
            stderr=subprocess.DEVNULL,
        )
        stack.callback(source.wait)
        stack.callback(source.kill)
        yield process, feed, port


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    with ExitStack() as stack:

        def start(*command: str, **options: Any) -> Terminal:
            folder = tmp_path / "terminal"
            folder.mkdir()
            found = Terminal(folder, *command, **options)
            stack.callback(found.close)
            return found

        yield start


def test_a_live_collector(collector: tuple[Any, Path, int], terminal: Callable[..., Terminal]) -> None:
    process, feed, _ = collector
    screen = terminal(*PROGRAM, "tui", "--connect", str(feed), TERM="xterm-256color", COLORTERM="truecolor")
    screen.wait_for(r"\d+ flows/s +[\d.k]+ datagrams/s +nothing lost")
    flows = screen.wait_for(r"(?m)^\d+\.\d+\.\d+\.\d+ +\d+ +\d+\.\d+\.\d+\.\d+ +\d+ +\w+ ").splitlines()
    assert len(flows) == 24
    assert flows[1].split()[:4] == ["Source", "Port", "Destination", "Port"]

    screen.press("/")
    screen.wait_for("Enter filters")
    screen.press("-l", "proto:udp")
    screen.press("Enter")
    text = screen.wait_for(r"(?m)nothing lost +/proto:udp.*\n(?!.*Complete)")
    rows = [line for line in text.splitlines()[2:-2] if re.match(r"\d+\.\d+\.\d+\.\d+ ", line)]
    assert rows and all(" UDP " in row for row in rows)

    screen.press("2")
    top = screen.wait_for(r"groups of \S+ flows  the feed told \d+%")
    assert "█" in top and re.search(r"\d+\.\d%", top)
    screen.press("3")
    screen.wait_for(r"127\.0\.0\.1")

    process.send_signal(signal.SIGSTOP)
    screen.wait_for(r"STALLED .*old")
    process.send_signal(signal.SIGCONT)
    until(lambda: "STALLED" not in screen.text())
    process.kill()
    screen.wait_for("CONNECTING")
    screen.press("q")
    assert screen.exit_status() == 0


def test_a_collector_of_its_own(terminal: Callable[..., Terminal]) -> None:
    """No process is left behind."""
    screen = terminal(*PROGRAM, "tui", "-p", "0", TERM="xterm-256color", size=(100, 30))
    screen.wait_for("No flows yet")
    children = Path(f"/proc/{_pid_of_tui(screen)}/task").glob("*/children")
    started = [int(pid) for path in children for pid in path.read_text().split()]
    assert started
    screen.press("q")
    assert screen.exit_status() == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def _pid_of_tui(screen: Terminal) -> int:
    found = subprocess.run(
        [*screen._tmux, "list-panes", "-F", "#{pane_pid}"], capture_output=True, text=True, check=True
    )
    shell = found.stdout.strip()
    children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return int(children[0] if children else shell)


@pytest.mark.parametrize(
    ("environment", "unwanted"),
    [
        ({"TERM": "xterm"}, r"\x1b\[[\d;]*[34]8;"),  # 16 colours: none by number
        ({"TERM": "xterm", "NO_COLOR": "1"}, r"\x1b\[(?:[\d;]*;)?(?:3[1-6]|4[1-6]|9[1-6]|10[1-6]|[34]8;5)[;m]"),
    ],
    ids=["16 colours", "NO_COLOR"],
)
def test_colours(environment: dict[str, str], unwanted: str, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(*PROGRAM, "tui", "--demo", **environment)
    screen.wait_for(r"(?m)^[\d.:a-f]+ +443 ")
    assert not re.search(unwanted, screen.text("-e"))
    screen.press("q")
    assert screen.exit_status() == 0


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    """Without a terminal, or with options that contradict each other: exit status 2 and what to do."""
    for options, said in (([], "top --once"), (["--demo", "-p", "1"], "one of them|both")):
        found = subprocess.run(
            [*PROGRAM, "tui", *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)},
        )  # fmt: skip
        assert found.returncode == 2
        assert re.search(said, found.stderr), found.stderr
