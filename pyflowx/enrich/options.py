"""The text of ``--enrich``: what to look up, by which columns, and what the results are called."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from pyflowx.enrich.exact import ADDRESS
from pyflowx.errors import ConfigError

PREFIX_LOOKUP, EXACT = "prefix_lookup", "exact"
PREFIX_KEYS = ("src_addr", "dst_addr", "next_hop", "bgp_next_hop", "sampler_address")
EXAMPLE = "type=prefix_lookup,source=asn.csv,key=dst_addr,fields=asn:dst_asn;org:dst_org,reload=30s"

_OPTIONS = ("type", "source", "command", "timeout", "format", "key", "key_column", "fields", "reload")
_MOST_KEYS = 4
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_OUTPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Lookup:
    """Key columns of a flow, and for each result the field of the table and the column it becomes."""

    keys: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class EnrichSpec:
    """One ``--enrich``. Either ``source`` (a path) or ``command`` (a program and its arguments) is set."""

    type: str
    format: str  # csv, mmdb
    lookups: tuple[Lookup, ...]
    source: str = ""
    command: tuple[str, ...] = ()
    timeout_s: float = 30.0  # of the command
    key_columns: tuple[str, ...] = ()  # of the file; empty: `prefix`, or the names of the keys
    reload_s: float | None = None  # None: never by itself
    watch: bool = False  # reload when the file changes

    @property
    def name(self) -> str:
        """Of the source, for messages."""
        return self.source or shlex.join(self.command)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the table that are wanted, each once."""
        return tuple(dict.fromkeys(field for lookup in self.lookups for field, _ in lookup.fields))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns that come out."""
        return tuple(output for lookup in self.lookups for _, output in lookup.fields)


def parse_enrich(text: str, columns: Mapping[str, str]) -> EnrichSpec:
    """An ``--enrich`` option.

    ``columns``: the columns of a flow, each with its kind (``address``, ``integer``, or another that is no key).
    :class:`ConfigError` names what is wrong and what is accepted.
    """
    options = _split(text)
    kind = options.get("type", PREFIX_LOOKUP)
    if kind not in (PREFIX_LOOKUP, EXACT):
        _fail("type", kind, f"{PREFIX_LOOKUP} or {EXACT}")
    command = _command(options)
    if bool(command) == ("source" in options):
        _fail(
            "source", options.get("source", ""), "a file, source=asn.csv, or a program, command=/usr/bin/list-prefixes"
        )
    lookups = tuple(_lookups(options, kind, columns))
    key_columns = tuple(_list(options.get("key_column", "")))
    if key_columns and (len(key_columns) != len(lookups[0].keys)):
        _fail("key_column", options["key_column"], f"as many names as there are keys ({len(lookups[0].keys)})")
    reload_s, watch = _reload(options.get("reload", "never"), bool(command))
    return EnrichSpec(
        type=kind,
        format=_format(options, kind),
        lookups=lookups,
        source=options.get("source", ""),
        command=command,
        timeout_s=_duration("timeout", options.get("timeout", "30s")),
        key_columns=key_columns,
        reload_s=reload_s,
        watch=watch,
    )


def check_outputs(specs: Iterable[EnrichSpec], columns: Mapping[str, str]) -> None:
    """:class:`ConfigError` where two results, or a result and a column of a flow, have one name."""
    seen = set(columns)
    for spec in specs:
        for output in spec.outputs:
            if output in seen:
                _fail("fields", output, f"a name that is not taken yet, for example field:enriched_{output}")
            seen.add(output)


def _fail(option: str, value: str, accepted: str) -> NoReturn:
    given = f"{option}={value}" if value else f"{option}= is missing"
    raise ConfigError(f"--enrich: {given}: expected {accepted}")


def _split(text: str) -> dict[str, str]:
    """``name=value`` pairs. A comma that no ``name=`` follows belongs to the value before it."""
    options: dict[str, str] = {}
    for part in re.split(r",(?=\s*[A-Za-z_]+\s*=)", text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            _fail(part.strip() or "(empty)", "", f"name=value pairs, for example {EXAMPLE}")
        if name not in _OPTIONS:
            close = difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(_OPTIONS)}"
            raise ConfigError(f"--enrich: unknown option {name!r}: {hint}")
        if name in options:
            _fail(name, value, "it once")
        if not value:
            _fail(name, "", f"a value, for example {EXAMPLE}")
        options[name] = value.rstrip(",")
    return options


def _command(options: dict[str, str]) -> tuple[str, ...]:
    """The program and its arguments; a ``timeout=30s`` among them is the option."""
    try:
        words = shlex.split(options.get("command", ""))
    except ValueError as error:
        raise ConfigError(f"--enrich: command={options['command']}: {error}; expected quotes in pairs") from error
    for word in [word for word in words if word.startswith("timeout=")]:
        options.setdefault("timeout", word.removeprefix("timeout="))
        words.remove(word)
    return tuple(words)


def _format(options: Mapping[str, str], kind: str) -> str:
    by_name = "mmdb" if options.get("source", "").lower().endswith(".mmdb") else "csv"
    chosen = options.get("format", by_name).lower()
    if chosen not in ("csv", "mmdb"):
        _fail("format", chosen, "csv or mmdb")
    if chosen == "mmdb" and (kind == EXACT or "command" in options or "key_column" in options):
        raise ConfigError("--enrich: an .mmdb file goes with type=prefix_lookup and source=, without key_column=")
    return chosen


def _list(text: str) -> list[str]:
    return [name for name in re.split(r"[;|+]", text) if name]


def _lookups(options: Mapping[str, str], kind: str, columns: Mapping[str, str]) -> Iterable[Lookup]:
    """Both spellings: ``key=K,fields=a:b;c:d`` and ``fields=K@a:b|c:d;K2@...``."""
    if "fields" not in options:
        _fail("fields", "", "field:column pairs, for example fields=asn:dst_asn;org:dst_org")
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for group in filter(None, options["fields"].split(";")):
        before, at, items = group.rpartition("@")
        keys = tuple(_list(before if at else options.get("key", "")))
        if not keys:
            _fail("key", "", "the column to look up, key=dst_addr, or fields=dst_addr@asn:dst_asn")
        _check_keys(keys, kind, columns)
        groups.setdefault(keys, []).extend(_item(item) for item in items.split("|") if item)
    if not groups or not all(groups.values()):
        _fail("fields", options["fields"], "field:column pairs, for example fields=asn:dst_asn;org:dst_org")
    shapes = {tuple(columns[key] for key in keys) for keys in groups}
    if len(shapes) > 1:
        _fail("fields", options["fields"], "keys of the same kinds in the same order, as all look into one table")
    return [Lookup(keys, tuple(fields)) for keys, fields in groups.items()]


def _check_keys(keys: tuple[str, ...], kind: str, columns: Mapping[str, str]) -> None:
    accepted = PREFIX_KEYS if kind == PREFIX_LOOKUP else [name for name in columns if columns[name] in _KEY_KINDS]
    for key in keys:
        if key not in accepted:
            close = difflib.get_close_matches(key, accepted, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            _fail("key", key, f"{'one' if kind == PREFIX_LOOKUP else 'some'} of {', '.join(accepted)}{hint}")
    most = 1 if kind == PREFIX_LOOKUP else _MOST_KEYS
    if len(keys) > most:
        _fail("key", ";".join(keys), "one column" if most == 1 else f"one to {most} columns")


_KEY_KINDS = (ADDRESS, "integer")


def _item(item: str) -> tuple[str, str]:
    field, _, output = (piece.strip() for piece in item.partition(":"))
    output = output or field.replace(".", "_")
    if not field or not _OUTPUT.fullmatch(output):
        _fail("fields", item, "field:column, the column of letters, digits and underscores")
    return field, output


def _duration(option: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= 366 * 86400:
        _fail(option, text, "a time such as 30s, 1m or 1h" + (", watch or never" if option == "reload" else ""))
    return seconds


def _reload(text: str, is_command: bool) -> tuple[float | None, bool]:
    if text == "never":
        return None, False
    if text == "watch":
        if is_command:
            _fail(
                "reload", text, "a time such as 1h or never: a command gives no sign that it would print something new"
            )
        return None, True
    return _duration("reload", text), False
