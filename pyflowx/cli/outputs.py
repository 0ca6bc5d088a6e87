"""The options of ``pyflowx collect`` that say what is written, how, and where; the sink that they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.sinks import Encoder, Sink

SERIALIZATIONS = ("json", "ndjson", "csv", "parquet", "protobuf", "arrow-ipc", "discard")
_RAW = ("json", "ndjson", "discard")
_TEXT = ("json", "ndjson", "csv")

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Outputs:
    """The options by their names."""

    serialization: str
    schema: str | None
    address_format: str | None
    output: str
    compress: str | None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Self:
        """Out of those of a command."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})

    @property
    def uses_stdout(self) -> bool:
        return self.output == "-" and self.serialization != "discard"


def output_options(command: _F) -> _F:
    """Adds the options to a command."""
    options = (
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
            "-o", "--output", default="-", show_default="stdout", help="File; lines are appended to one that is there."
        ),
        click.option(
            "--compress",
            type=click.Choice(["zstd", "gzip", "none"]),
            help="Compress text, or the pages of Parquet.  [default: none, Parquet zstd]",
        ),
    )
    for option in reversed(options):
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
    if outputs.serialization == "discard":
        from pyflowx.sinks.discard import Discard

        return Discard()
    from pyflowx.sinks.output import Output
    from pyflowx.sinks.target import open_target

    encoder = make_encoder(outputs, form, extra)
    return Output(encoder, open_target(outputs.output, appends=encoder.appends, lines=encoder.appends))
