"""The options of ``pyflowx collect`` that say what is written, how, and where; the sink that they mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from pyflowx.cli.config import is_given
from pyflowx.cli.decoding import seconds
from pyflowx.cli.log import LOG
from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.sinks import Encoder, Sink
    from pyflowx.sinks.handover import Send
    from pyflowx.sinks.output import Output

SERIALIZATIONS = ("json", "ndjson", "csv", "parquet", "protobuf", "arrow-ipc", "discard")
_RAW = ("json", "ndjson", "discard")
_TEXT = ("json", "ndjson", "csv")

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Outputs:
    """The options by their names."""

    serialization: str = "json"
    schema: str | None = None
    address_format: str | None = None
    output: str = "-"
    compress: str | None = None
    interval: str | None = None
    level: int | None = None
    prefix: str | None = None
    hive: bool = False
    exec_command: str | None = None
    expire: str | None = None
    expire_exec: str | None = None
    patient: bool = False  # no option: the input does not wait, so that a disk that is full must not end the process

    @classmethod
    def take(cls, options: dict[str, Any], *, patient: bool) -> Self:
        """Out of those of a command. ConfigError for one that would do nothing, or harm."""
        found = cls(**{field.name: options.pop(field.name) for field in fields(cls)[:-1]}, patient=patient)
        if found.serialization == "discard" and is_given("output"):
            raise ConfigError(f"-o/--output {found.output}: -s/--serialization discard writes nothing; leave one out")
        is_text = found.serialization in _TEXT and found.compress in (None, "none")
        if found.uses_stdout and not is_text and sys.stdout.isatty():
            what = found.serialization if found.compress in (None, "none") else found.compress
            raise ConfigError(f"{what} is not for a terminal; name a file with -o/--output, or pipe it to a program")
        return found

    @property
    def uses_stdout(self) -> bool:
        return self.output == "-" and self.serialization != "discard"

    @property
    def interval_s(self) -> int | None:
        return None if self.interval is None else seconds("--interval", self.interval)


OPTIONS = (
    click.option(
        "-s",
        "--serialization",
        type=click.Choice(SERIALIZATIONS),
        default="json",
        show_default=True,
        help="json (also called ndjson): one object a line; arrow-ipc: an Arrow stream; "
        "discard: decode and count only.",
    ),
    click.option(
        "--schema",
        type=click.Choice(["pyflowx", "goflow2"]),
        help="Of protobuf: ours (see pyflowx schema), or GoFlow2's FlowMessage.",
    ),
    click.option(
        "--address-format",
        type=click.Choice(["text", "binary"]),
        help="Of Parquet and Arrow: text, or 16 octets (MAC addresses: 6).  [default: text]",
    ),
    click.option(
        "-o",
        "--output",
        default="-",
        show_default="stdout",
        help="File; lines are appended to one that is there. With --interval a folder.",
    ),
    click.option(
        "--compress",
        type=click.Choice(["zstd", "gzip", "none"]),
        help="Compress text, or the pages of Parquet.  [default: none, Parquet zstd]",
    ),
    click.option(
        "--interval",
        metavar="TIME",
        help="Write a file for each window of so long (5m, 1h), by the time of reception in UTC, into the folder "
        "-o; it gets its name when it is complete.",
    ),
    click.option(
        "--level",
        type=click.IntRange(0, 3),
        help="Folders below -o: 0 none, 1 days, 2 hours, 3 five minutes.  [default: 0]",
    ),
    click.option("--prefix", help="What names of files begin with.  [default: flows-]"),
    click.option("--hive", is_flag=True, help="Folders called date=.../hour=.../minute=...; --level 2 if not given."),
    click.option(
        "--exec",
        "exec_command",
        metavar="COMMAND",
        help="Runs for each complete file, without a shell, 8 at a time: %f path, %p path below -o, %t start of "
        "the window, %u the same in seconds since 1970, %% a percent sign.",
    ),
    click.option(
        "--expire", metavar="TIME", help="Remove files that we wrote longer ago than this (30d), and no others."
    ),
    click.option(
        "--expire-exec",
        metavar="COMMAND",
        help="Runs for each file before it is removed (as --exec does); one for which it fails is kept.",
    ),
)


def output_options(command: _F) -> _F:
    """Adds the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _check(outputs: Outputs, form: str, extra: Mapping[str, str]) -> None:
    """Combinations that mean nothing."""
    kind = outputs.serialization
    if form == "raw" and kind not in _RAW:
        raise ConfigError(
            f"-s/--serialization {kind} writes flows in columns, -f/--format raw has none; "
            "give -f common, or -s json or discard"
        )
    if outputs.schema is not None and kind != "protobuf":
        raise ConfigError(f"--schema is for -s/--serialization protobuf, not {kind}; leave it out or give -s protobuf")
    if outputs.schema == "goflow2" and extra:
        raise ConfigError(
            f"--schema goflow2 has no field for the column {next(iter(extra))}; give --schema pyflowx, "
            "or leave the options out that add columns (--enrich, --column)"
        )
    if outputs.address_format is not None and kind not in ("parquet", "arrow-ipc"):
        raise ConfigError(f"--address-format is for -s/--serialization parquet and arrow-ipc, not {kind}; leave it out")
    if outputs.compress not in (None, "none") and kind not in (*_TEXT, "parquet"):
        raise ConfigError(
            f"--compress {outputs.compress} is for -s/--serialization json, csv and parquet, not {kind}; leave it out"
        )
    _check_tree(outputs)


def _check_tree(outputs: Outputs) -> None:
    """Options about files by time."""
    if outputs.interval_s is None:
        for name in ("level", "prefix", "hive", "exec_command", "expire", "expire_exec"):
            value = getattr(outputs, name)
            if value is not None and value is not False:
                option = "--exec" if name == "exec_command" else f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is about files by time; give --interval too, such as --interval 5m")
        return
    if outputs.interval_s < 1:
        raise ConfigError(f"--interval {outputs.interval}: expected a second or more, such as 60s, 5m or 1h")
    if outputs.output == "-" or outputs.serialization == "discard":
        raise ConfigError("--interval writes files into a folder; name it with -o/--output, and give no -s discard")
    if outputs.hive and outputs.level == 0:
        raise ConfigError("--hive names folders, and --level 0 makes none; give --level 1 to 3, or leave one out")
    if outputs.prefix is not None and "/" in outputs.prefix:
        raise ConfigError(f"--prefix {outputs.prefix}: names of files have no /; folders are --level and --hive")
    if outputs.expire_exec is not None and outputs.expire is None:
        raise ConfigError("--expire-exec runs before --expire removes a file; give --expire too, such as --expire 30d")


def make_encoder(outputs: Outputs, form: str, extra: Mapping[str, str]) -> Encoder[Any]:
    """The file format; its module is imported when it is asked for."""
    encoder = _plain_encoder(outputs, form, extra)
    if outputs.compress not in (None, "none") and outputs.serialization in _TEXT:
        from pyflowx.sinks.compress import Compressed

        return Compressed(encoder, outputs.compress)
    return encoder


def _plain_encoder(outputs: Outputs, form: str, extra: Mapping[str, str]) -> Encoder[Any]:
    if form == "raw":
        from pyflowx.sinks.raw import RawNdjson

        return RawNdjson()
    if outputs.serialization == "csv":
        from pyflowx.sinks.csvtext import CommonCsv

        return CommonCsv(extra)
    if outputs.serialization == "protobuf":
        from pyflowx.sinks.protobuf import CommonProtobuf
        from pyflowx.sinks.protobuf_schema import SCHEMAS

        return CommonProtobuf(SCHEMAS[outputs.schema or "pyflowx"])
    binary = outputs.address_format == "binary"
    if outputs.serialization == "arrow-ipc":
        from pyflowx.sinks.arrow import CommonArrow

        return CommonArrow(extra, binary=binary)
    if outputs.serialization == "parquet":
        from pyflowx.sinks.parquet import CommonParquet

        return CommonParquet(extra, binary=binary, compress=outputs.compress or "zstd")
    from pyflowx.sinks.ndjson import CommonNdjson

    return CommonNdjson()


def make_sink(outputs: Outputs, form: str, extra: Mapping[str, str]) -> Sink[Any]:
    """The sink. ``extra``: names and types of the columns that are added to the common ones."""
    _check(outputs, form, extra)
    return make_output(outputs, form, extra) or _make_own(outputs, form, extra)


def make_output(outputs: Outputs, form: str, extra: Mapping[str, str]) -> Output[Any] | None:
    """The one that writes the output of all processes; None where each writes for itself."""
    _check(outputs, form, extra)
    if outputs.serialization == "discard" or outputs.interval_s is not None:
        return None
    from pyflowx.sinks.output import Output
    from pyflowx.sinks.target import open_target

    encoder = make_encoder(outputs, form, extra)
    target = open_target(outputs.output, appends=encoder.appends, lines=encoder.appends)
    return Output(encoder, target, LOG.warning if outputs.patient else None)


def make_part(outputs: Outputs, form: str, extra: Mapping[str, str], number: int, send: Send) -> Sink[Any]:
    """The sink of one of several processes, by its number."""
    if outputs.serialization == "discard" or outputs.interval_s is not None:
        return _make_own(outputs, form, extra, number)
    from pyflowx.sinks.handover import Handover

    return Handover(make_encoder(outputs, form, extra), send)


def _make_own(outputs: Outputs, form: str, extra: Mapping[str, str], number: int | None = None) -> Sink[Any]:
    if outputs.interval_s is not None:
        return _make_tree(outputs, outputs.interval_s, make_encoder(outputs, form, extra), number)
    from pyflowx.sinks.discard import Discard

    return Discard()


def _make_tree(outputs: Outputs, interval_s: int, encoder: Encoder[Any], number: int | None) -> Sink[Any]:
    from pyflowx.sinks.layout import CommandLine, Layout
    from pyflowx.sinks.tree import Tree

    def command(option: str, text: str | None) -> CommandLine | None:
        return None if text is None else CommandLine(option, text)

    level = (2 if outputs.hive else 0) if outputs.level is None else outputs.level
    prefix = "flows-" if outputs.prefix is None else outputs.prefix
    return Tree(
        encoder,
        outputs.output,
        Layout(interval_s, level, prefix, outputs.hive, "" if number is None else f"-w{number}"),
        LOG.warning,
        command=command("--exec", outputs.exec_command),
        expire_s=None if outputs.expire is None or number else seconds("--expire", outputs.expire),
        expire_command=command("--expire-exec", outputs.expire_exec),
    )
