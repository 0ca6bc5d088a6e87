"""Messages: levels, formats, warnings that repeat."""

from __future__ import annotations

import io
import json
import threading

import pytest

from pyflowx.cli import log
from pyflowx.cli.log import BURST, WINDOW_S, Log


class Said(Log):
    """A log with a clock to turn, into memory."""

    def __init__(self) -> None:
        self.out, self.now = io.StringIO(), 100.0
        super().__init__(lambda: self.out, lambda: self.now)

    @property
    def said(self) -> list[str]:
        return self.out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")],
)
def test_a_level_silences_those_below(level: str, expected: str) -> None:
    made = Said()
    made.level = level
    made.debug("d")
    made.info("i")
    made.warning("w")
    made.error("e")
    assert "".join(line[-1] for line in made.said) == expected
    assert [line.message for line in made.lines()] == ["d", "i", "w", "e"]  # viewers see them all


def test_text_and_json() -> None:
    made = Said()
    made.info("listening")
    made.warning("lost")
    assert made.said == ["pyflowx: listening", "pyflowx: warning: lost"]
    made.format = "json"
    made.error('a "quoted"\nline')
    found = json.loads(made.said[2])
    assert (found["level"], found["message"]) == ("error", 'a "quoted"\nline')
    assert found["time"].endswith("Z") and len(made.said) == 3


def test_a_warning_that_repeats_is_held_back_and_counted() -> None:
    made = Said()
    for number in range(50):
        made.warning(f"{number} datagrams dropped")
    assert made.said == [f"pyflowx: warning: {number} datagrams dropped" for number in range(BURST)]
    assert made.held_back == 50 - BURST
    made.warning("disk full")
    made.now += WINDOW_S
    made.warning("7 datagrams dropped")
    assert made.said[BURST:] == [
        "pyflowx: warning: disk full",
        f"pyflowx: warning: {50 - BURST} times more, the last time: 49 datagrams dropped",
        "pyflowx: warning: 7 datagrams dropped",
    ]


def test_at_the_end_all_that_was_held_back_is_told() -> None:
    made = Said()
    for _ in range(BURST + 1):
        made.warning("a")
    made.flush()
    assert made.said[-1] == "pyflowx: warning: once more: a"
    count = len(made.said)
    made.flush()
    assert len(made.said) == count


def test_information_is_never_held_back() -> None:
    made = Said()
    for _ in range(20):
        made.info("the same")
    assert len(made.said) == 20


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_KINDS", 10)
    made = Said()
    for kind in range(100):
        for _ in range(BURST + 1):
            made.warning("kind " + "x" * kind)
    assert len(made._repeats) == 10
    assert len(made.lines()) == log._RECENT
    assert sum("once more" in line for line in made.said) == 90


def test_a_stream_that_is_gone_stops_nobody() -> None:
    made = Said()
    made.out.close()
    made.error("nobody hears it")
    assert made.lines()[-1].message == "nobody hears it"


def test_threads_do_not_mix_lines() -> None:
    made = Said()
    threads = [threading.Thread(target=lambda: [made.info("x" * 50) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.said == ["pyflowx: " + "x" * 50] * 800
    assert made.lines()[-1].number == 800
