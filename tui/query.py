"""The filter language, on columns.

A query is made of terms, ``and``, ``or``, ``not`` and parentheses; terms side by side mean ``and``::

    src:10/8 and port:443 and bytes>1M and not proto:udp
    (host:192.0.2.1 or net:2001:db8::/32) flags:SA duration>5s
    dst_country~^(de|fr)$ src_port:1024-65535 dst_port:80,443

A term is a name, an operator and a value, or a bare address, prefix or protocol. ``:`` matches any of a list: an
address lies in a prefix, a number is equal or within a range ``from-to``, all named TCP flags are set, a text is equal
(case aside; ``*`` stands for anything). ``=`` is the same but for flags, which it wants exactly. ``!=`` is ``not`` with
``=``. ``<`` ``<=`` ``>`` ``>=`` compare numbers and times. ``~`` and ``!~`` search a text for a regular expression.

Names are those of columns, of elements that fill them, and aliases (``src``, ``as``, ``exporter``, see ``ALIASES``);
one that stands for two columns (``host``, ``port``, ``as``, ``if``) matches if either does. ``duration``, ``age`` are
times. Numbers take k, M, G, T (KiB, MiB, GiB, TiB: 1024), times ns, us, ms, s, m, h, d (without one: seconds). Nothing
matches what is null.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .terms import (
    ALIASES,
    PORTS,
    PROTOCOLS,
    All,
    And,
    Column,
    Columns,
    Labels,
    Mask,
    Not,
    Or,
    QueryError,
    Rows,
    Term,
    kind_of,
    known_names,
    prefix_of,
    schema,
)

__all__ = ["ALIASES", "PORTS", "PROTOCOLS", "Column", "Labels", "Query", "QueryError", "complete", "known_names"]

_WORD = re.compile(r"[^\s()]+")
_TERM = re.compile(r"([A-Za-z_][\w.]*|\d+/\d+)\s*(!=|<=|>=|==|!~|[:=<>~])\s*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_REGEX = re.compile(r"(?:\([^()]*\)|[^\s()])+")  # balanced parentheses belong to it
_MAX_TERMS, _MAX_DEPTH = 256, 40


# --- the parser -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Parser:
    text: str
    names: Iterable[str] | None
    at: int = 0
    terms: int = 0
    depth: int = 0

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _word(self) -> str:
        """The word that comes next, which is not taken; a parenthesis is a word."""
        self._space()
        if self.text[self.at : self.at + 1] in ("(", ")"):
            return self.text[self.at]
        match = _WORD.match(self.text, self.at)
        return match[0] if match else ""

    def _took(self, *words: str) -> bool:
        word = self._word()
        if word.lower() not in words:
            return False
        self.at += len(word)
        return True

    def all(self) -> Any:
        if not self.text.strip():
            return All()
        tree = self._either()
        if self._word():
            raise QueryError("there is a ) too many", self.at)
        return tree

    def _either(self) -> Any:
        parts = [self._both()]
        while self._took("or", "||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Any:
        parts = [self._one()]
        while self._took("and", "&&") or self._word().lower() not in ("", ")", "or", "||"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Any:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise QueryError(f"more than {_MAX_DEPTH} parentheses and nots in each other", self.at)
        try:
            if self._took("not"):
                return Not(self._one())
            word, begin = self._word(), self.at
            if word.startswith("!"):
                self.at += 1
                return Not(self._one())
            if word == "(":
                self.at += 1
                tree = self._either()
                if not self._took(")"):
                    raise QueryError("this ( has no )", begin)
                return tree
            return self._term(word)
        finally:
            self.depth -= 1

    def _term(self, word: str) -> Any:
        begin = self.at
        if not word or word == ")" or word.lower() in ("and", "or", "&&", "||"):
            raise QueryError("a term is missing here, such as src:10/8 or bytes>1M", begin)
        self.terms += 1
        if self.terms > _MAX_TERMS:
            raise QueryError(f"more than {_MAX_TERMS} terms", begin)
        bare = self._bare(word)
        if bare is not None:
            self.at += len(word)
            return bare
        match = _TERM.match(self.text, begin)
        if match is None:
            raise QueryError(f"{word}: expected a term such as src:10/8, port:443 or bytes>1M", begin)
        self.at = match.end()
        name, op = match[1], match[2].replace("==", "=")
        value = self._value(name, is_pattern="~" in op)
        negated, op = op.startswith("!"), op.removeprefix("!")
        term = Term(name, op, value, begin, match.end())
        term.check(self.names)
        return Not(term) if negated else term

    def _bare(self, word: str) -> Any:
        """An address, a prefix or a protocol without a name."""
        if prefix_of(word) is not None:
            return Term("host", ":", word, self.at, self.at)
        return Term("proto", ":", word, self.at, self.at) if word.lower() in PROTOCOLS else None

    def _value(self, name: str, is_pattern: bool) -> str:
        begin = self.at
        quoted = _QUOTED.match(self.text, begin)
        if quoted is not None:
            self.at = quoted.end()
            return quoted[1] if is_pattern else re.sub(r"\\(.)", r"\1", quoted[1])
        match = (_REGEX if is_pattern else _WORD).match(self.text, begin)
        if match is None:
            raise QueryError(f"{name}: the value is missing", begin)
        if match[0].startswith('"'):
            raise QueryError('this " has no other', begin)
        self.at = match.end()
        return match[0]


@dataclass(frozen=True, slots=True)
class Query:
    """A filter that was understood. The empty one matches everything."""

    text: str
    _tree: Any

    @classmethod
    def parse(cls, text: str, names: Iterable[str] | None = None) -> Query:
        """QueryError says what is wrong, and where. With ``names``, those of columns, a name that is none of
        them, nor of the common schema or an alias, is wrong as well."""
        return cls(text, _Parser(text, None if names is None else frozenset(names)).all())

    def mask(self, columns: Columns, n: int | None = None, now_ns: int | None = None) -> Mask:
        """Which rows match. A column of the common schema that is not there is null in every row; QueryError for
        names that nobody knows and what does not go with a column. ``n``: rows, if there may be no column."""
        rows = n if n is not None else next((len(column) for column in columns.values()), 0)
        found: Mask = self._tree.mask(Rows(columns, rows, now_ns))
        return found

    def __bool__(self) -> bool:
        return not isinstance(self._tree, All)


# --- completion -------------------------------------------------------------------------------------------------------


def word_start(text: str, cursor: int) -> int:
    """Where the word begins that ends at the cursor."""
    at = cursor
    while at > 0 and not (text[at - 1].isspace() or text[at - 1] in "()!"):
        at -= 1
    return at


def complete(text: str, cursor: int, names: Iterable[str] = ()) -> list[str]:
    """What the word at the cursor may become: ``pro`` ``proto:``, ``proto:u`` ``proto:udp``; sorted, aliases first."""
    word = text[word_start(text, cursor) : cursor]
    match = _TERM.match(word)
    if match is not None:
        kind, typed = kind_of(match[1]), word[match.end() :]
        head, _, last = typed.rpartition(",")
        begun = word[: match.end()] + (head + "," if head else "")
        values = {"proto": PROTOCOLS, "port": PORTS}.get(kind or "", {})
        return [begun + value for value in sorted(values) if value.startswith(last.lower()) and value != last]
    fields = schema()
    found = [f"{name}:" for name in sorted(ALIASES) if name.startswith(word.lower())]
    found += [
        f"{name}:" for name in sorted({*names, *fields.kinds}) if name.startswith(word) and f"{name}:" not in found
    ]
    if word:
        found += [f"{name}:" for name in sorted(fields.elements) if name.lower().startswith(word.lower())]
        found += [name for name in ("and", "not", "or", *sorted(PROTOCOLS)) if name.startswith(word.lower())]
    return [name for name in found if name not in (word, f"{word}:") or word in ALIASES or word in fields.kinds]
