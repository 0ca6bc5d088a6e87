"""The options of ``pyflowx collect`` about decoding: elements, Templates, sampling, what becomes of flows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from pyflowx.collecting import Collector
    from pyflowx.conversion import Conversion
    from pyflowx.elements import Registry
    from pyflowx.supervising import Supervisor
    from pyflowx.templatefile import SharedTemplates, TemplateFile
    from pyflowx.wire import Decoder, TemplateLimits, TemplateStore

_F = TypeVar("_F", bound=Callable[..., Any])
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

OPTIONS = (
    click.option(
        "--sampling-rate",
        multiple=True,
        metavar="[PREFIX=]N",
        help="Sampling rate where an exporter tells none; with a prefix (192.0.2.0/24=1000) the rate of exporters in "
        "it, whatever they tell; repeatable.",
    ),
    click.option("--scale", is_flag=True, help="Multiply octets and packets by the sampling rate."),
    click.option(
        "--column",
        multiple=True,
        metavar="NAME=ELEMENT",
        help="A further column of flows, filled from any element by name, ID or PEN/ID: app=applicationName, "
        "score=55555/17; repeatable.",
    ),
    click.option(
        "--split-biflow", is_flag=True, help="Two flows of a record with reverse elements (RFC 5103), one each way."
    ),
    click.option(
        "--no-tunnels", is_flag=True, help="Of sampled packets in tunnels the outer addresses, not the innermost."
    ),
    click.option(
        "--ie-mapping",
        multiple=True,
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="CSV of your own elements: id,enterprise_number,name,data_type; repeatable.",
    ),
    click.option(
        "--template-timeout",
        default="0",
        metavar="TIME",
        help="Forget Templates not seen for so long (1800, 30m, 2h); 0, the default: never.",
    ),
    click.option(
        "--template-file",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Keep Templates in this file, so that a restarted collector decodes at once.",
    ),
    click.option(
        "--max-templates",
        type=click.IntRange(1),
        metavar="N",
        help="Templates that are kept in all, 262144 if not given.",
    ),
    click.option(
        "--max-templates-per-exporter",
        type=click.IntRange(1),
        metavar="N",
        help="... and of one exporter, 4096 if not given.",
    ),
)


def decoding_options(command: _F) -> _F:
    """Adds the options to a command, in their order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


class Decoding:
    """What the options ask for; takes them out of ``options``. :class:`ConfigError` where one is not usable."""

    def __init__(self, options: dict[str, Any], form: str) -> None:
        taken = {name: options.pop(name) for name in _NAMES}
        for name in ("sampling_rate", "scale", "column", "split_biflow"):
            if taken[name] and form != "common":
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is about flows, and -f {form} writes what exporters sent: give -f common")
        self.tunnels = not taken["no_tunnels"]
        self.registry = read_mappings(taken["ie_mapping"])
        self.limits = _limits(taken)
        self._options = taken
        self._conversion: Conversion | None = None

    def decoder(self, protocols: Sequence[frozenset[Any]]) -> Decoder:
        from pyflowx.wire import Decoder

        return Decoder(self.registry, self.limits, protocols, self.tunnels)

    def conversion(self, taken: list[str]) -> Conversion:
        """``taken``: names of columns that there are beside those of every flow."""
        from pyflowx.common import TABLE
        from pyflowx.conversion import Conversion
        from pyflowx.conversion.sampling import parse_rates

        further = None
        if self._options["column"]:
            from pyflowx.conversion.further import Further, parse_columns
            from pyflowx.elements import default_registry

            names = {*taken, *(column.name for column in TABLE)}
            further = Further(parse_columns(self._options["column"], self.registry or default_registry(), names))
        self._conversion = Conversion(
            parse_rates(self._options["sampling_rate"]),
            further=further,
            registry=self.registry,
            split_biflow=self._options["split_biflow"],
            tunnels=self.tunnels,
            scaled=self._options["scale"],
        )
        return self._conversion

    @contextmanager
    def templates_kept(
        self, process: Collector | Supervisor, store: TemplateStore | SharedTemplates, say: Callable[[str], None]
    ) -> Iterator[None]:
        """--template-file: read now, written while the collector runs and at the end. Then says what did not fit."""
        file = self._template_file(store, say)
        if file is not None:
            process.each_second.append(file.keep)
        try:
            yield
        finally:
            self.tell_refused(say)
            if file is not None:
                file.close()

    def tell_refused(self, say: Callable[[str], None]) -> None:
        """What was told of sampling and did not fit."""
        refused = self._conversion.rates.told.refused if self._conversion else 0
        if refused:
            say(f"{refused} options records told rates of more samplers or interfaces than are kept")

    def _template_file(self, store: TemplateStore | SharedTemplates, say: Callable[[str], None]) -> TemplateFile | None:
        path = self._options["template_file"]
        if path is None:
            return None
        from pyflowx.templatefile import TemplateFile

        file = TemplateFile(path, store, say)
        if file.loaded:
            say(f"{file.loaded} Templates read from {path}")
        return file


_NAMES = (
    *("sampling_rate", "scale", "column", "split_biflow", "no_tunnels", "ie_mapping"),
    *("template_timeout", "template_file", "max_templates", "max_templates_per_exporter"),
)


def read_mappings(paths: tuple[str, ...]) -> Registry | None:
    """The registry with the user's elements; None without any."""
    if not paths:
        return None
    from pyflowx.elements import default_registry, read_mapping

    registry = default_registry().copy()
    for path in paths:
        try:
            lines = Path(path).read_text("utf-8-sig").splitlines()
        except OSError as error:
            raise ConfigError(f"--ie-mapping {path}: {error.strerror}; expected a CSV file") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"--ie-mapping {path}: {error}; expected UTF-8") from error
        try:
            elements = read_mapping(lines)
        except ConfigError as error:
            raise ConfigError(f"--ie-mapping {path}: {error}") from error
        for element in elements:
            registry.add(element)
    return registry


def seconds(option: str, text: str) -> int:
    """A time: a number of seconds, or one with a unit."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip(), re.ASCII)
    if match is None:
        raise ConfigError(f"{option} {text}: expected seconds or a time such as 90s, 30m, 2h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def _limits(options: dict[str, Any]) -> TemplateLimits:
    from pyflowx.wire import TemplateLimits

    given = {"templates": options["max_templates"], "templates_per_exporter": options["max_templates_per_exporter"]}
    timeout_ns = seconds("--template-timeout", options["template_timeout"]) * 10**9
    return TemplateLimits(timeout_ns=timeout_ns, **{name: value for name, value in given.items() if value})
