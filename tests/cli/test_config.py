"""``--config``: the same names as the options, the command line wins, mistakes are named with what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pyflowx.cli import SETTINGS, collect
from pyflowx.cli.config import config_option
from pyflowx.errors import ConfigError


@click.command("collect", context_settings=SETTINGS)
@click.option("-p", "--port", type=click.IntRange(0, 65535))
@click.option("-t", "--type", "kind", type=click.Choice(["auto", "sflow"]), default="auto")
@click.option("--enrich", multiple=True)
@click.option("--scale", is_flag=True)
@click.option("--no-metrics", "metrics", flag_value=False, default=True)
@click.option("--ratio", type=float, default=1.0)
@click.option("--recv-buffer", type=int, default=5)
@config_option
@click.pass_context
def command(ctx: click.Context, **options: Any) -> None:
    """Keeps its options."""
    ctx.obj.update(options)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "pyflowx.toml"

    def run(text: str, *arguments: str) -> dict[str, Any]:
        path.write_text(text)
        found: dict[str, Any] = {}
        command.main([*arguments, "--config", str(path)], prog_name="collect", standalone_mode=False, obj=found)
        return found

    return run


def test_every_kind_of_option(run: Any) -> None:
    found = run(
        """
        [collect]
        port = 2055
        type = "sflow"
        enrich = ["a", "b"]
        scale = true
        no-metrics = true
        ratio = 2
        recv_buffer = 7
        [export]
        interface = "of no interest here"
        """
    )
    expected = {"port": 2055, "kind": "sflow", "enrich": ("a", "b"), "scale": True, "metrics": False}
    assert found == {**expected, "ratio": 2.0, "recv_buffer": 7}


def test_the_command_line_wins(run: Any) -> None:
    text = '[collect]\nport = 2055\ntype = "sflow"\nenrich = ["a"]\nno-metrics = false'
    found = run(text, "-p", "1", "--enrich", "c", "--type", "auto")
    assert (found["port"], found["kind"], found["enrich"], found["metrics"]) == (1, "auto", ("c",), True)


def test_one_value_for_an_option_that_may_be_repeated(run: Any) -> None:
    assert run('[collect]\nenrich = "a"')["enrich"] == ("a",)


def test_without_a_table_nothing_changes(run: Any) -> None:
    assert run("")["kind"] == "auto"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[colect]\nport = 1", "did you mean collect"),
        ("port = 1", "unknown table or key 'port'"),
        ("collect = 3", r"write \[collect\]"),
        ("[collect]\nprot = 1", r"\[collect\] prot: no such option: did you mean port"),
        ("[collect]\nkind = 'sflow'", "no such option"),
        ("[collect]\nconfig = 'x'", "no such option"),
        ("[collect]\nhelp = true", "no such option"),
        ("[collect]\nzzz = 1", "expected one of .*enrich.*port"),
        ("[collect]\nport = 70000", r"\[collect\] port = 70000: .*0<=x<=65535"),
        ("[collect]\nport = 'many'", "port = 'many': .*not a valid integer"),
        ("[collect]\nport = true", "expected a value"),
        ("[collect]\nport = [1, 2]", "expected a value"),
        ("[collect]\nscale = 1", "scale = 1: expected true or false"),
        ("[collect]\nenrich = [true]", "expected one or several values"),
        ("[collect]\ntype = 'slow'", "'auto', 'sflow'"),
        ("[collect]\nrecv-buffer = 1\nrecv_buffer = 2", "twice"),
        ("[collect\n", "expected TOML"),
        ("[collect]\nport = 1\nport = 2", "expected TOML"),
        ("\xff", "expected TOML"),
    ],
)
def test_a_mistake_is_named_with_the_file(run: Any, tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        run(text)
    assert str(tmp_path / "pyflowx.toml") in str(error.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "pyflowx.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected TOML"):
        command.main(["--config", str(path)], prog_name="collect", standalone_mode=False, obj={})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*expected a file"):
        command.main(["--config", str(tmp_path / "missing.toml")], prog_name="collect", standalone_mode=False, obj={})


def test_every_option_of_collect_has_a_long_name() -> None:
    for option in collect.command.params:
        assert any(spelling.startswith("--") for spelling in option.opts)
