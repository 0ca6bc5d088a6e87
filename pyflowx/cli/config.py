"""``--config pyflowx.toml``: the options of a verb from a file.

A table a verb (``[collect]``, ``[export]``), in it the long options without their dashes in front. An option that may
be repeated takes an array, a flag true or false. What the command line says wins::

    [collect]
    port = 9995
    format = "common"
    enrich = ["source=asn.csv,key=src_addr,fields=asn:src_asn"]
    no-metrics = true
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from pyflowx.errors import ConfigError

TABLES = ("collect", "export")
_F = TypeVar("_F", bound=Callable[..., Any])


def config_option(command: _F) -> _F:
    """Adds --config to a command."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="Options from a TOML file, in a table named like the command; those of the command line win.",
    )(command)


def is_given(name: str) -> bool:
    """Whether the command line has the option of a parameter; one of a file may be of no use with what it says."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _load(ctx: click.Context, option: click.Parameter, path: str | None) -> None:
    if path is not None:
        table = read_config(path).get(ctx.info_name or "", {})
        ctx.default_map = {**(ctx.default_map or {}), **_defaults(path, ctx, table)}


def read_config(path: str) -> dict[str, dict[str, Any]]:
    """The tables of a file; ConfigError says what is wrong with it and where."""
    import tomllib  # only where a file is given

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; expected a file that can be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}; expected TOML (https://toml.io)") from error
    for name, table in tables.items():
        if name not in TABLES:
            raise ConfigError(f"--config {path}: unknown table or key {name!r}: {_near(name, TABLES)}")
        if not isinstance(table, dict):
            raise ConfigError(f"--config {path}: {name} is a table: write [{name}] and its keys below")
    return tables


def _near(name: str, known: Iterable[str]) -> str:
    import difflib  # only for this message

    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"


def _defaults(path: str, ctx: click.Context, table: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the names of the parameters, each tried on its option."""
    options = _options(ctx.command)
    found = {}
    for key, value in table.items():
        spelled = key.replace("_", "-")
        where = f"--config {path}: [{ctx.info_name}] {key}"
        if spelled not in options:
            raise ConfigError(f"{where}: no such option: {_near(spelled, options)}")
        option = options[spelled]
        assert option.name is not None
        if option.name in found:
            raise ConfigError(f"{where} stands there twice, in two spellings; keep one")
        found[option.name] = _checked(where, ctx, option, spelled, value)
    return found


def _options(command: click.Command) -> dict[str, click.Option]:
    """The long options by name, those that end the command left out."""
    options = {}
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in ("config", "help"):
            for spelling in (*option.opts, *option.secondary_opts):
                if spelling.startswith("--"):
                    options[spelling[2:]] = option
    return options


def _checked(where: str, ctx: click.Context, option: click.Option, spelled: str, value: Any) -> Any:
    if option.is_flag:
        if not isinstance(value, bool):
            raise ConfigError(f"{where} = {value!r}: expected true or false")
        is_opposite = f"--{spelled}" in option.secondary_opts
        return bool(option.flag_value) == (value != is_opposite)
    if option.multiple and not isinstance(value, list):
        value = [value]
    values = value if option.multiple else [value]
    for item in values:
        if isinstance(item, bool | dict | list):
            raise ConfigError(
                f"{where} = {item!r}: expected {'one or several values' if option.multiple else 'a value'}"
            )
    texts = [str(item) for item in values]
    result: Any = texts if option.multiple else texts[0]
    try:
        option.type_cast_value(ctx, result)
    except click.BadParameter as error:
        raise ConfigError(f"{where} = {value!r}: {error.message}") from error
    return result
