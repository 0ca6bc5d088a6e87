"""Columns out of JSON rows, and text as codes into distinct labels."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyflowx.batch import V4_MAPPED
from pyflowx.common import CommonBatch, CommonColumn

Array = npt.NDArray[Any]
MAX_LABELS = 1 << 16  # of a column; text beyond is shown as OTHER
OTHER = "…"
EMPTY = ""
_INTEGERS = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "time": np.int64}


@dataclass(slots=True)
class Labels:
    """A column of text: ``codes`` into ``texts``; code 0 is the empty text (null)."""

    codes: Array
    texts: list[str] = field(default_factory=lambda: [EMPTY])
    known: dict[str, int] = field(default_factory=lambda: {EMPTY: 0})
    _last: tuple[Sequence[Any], Array] | None = None

    @classmethod
    def empty(cls, n: int) -> Labels:
        return cls(np.zeros(n, np.uint32))

    def __len__(self) -> int:
        return len(self.codes)

    def with_codes(self, codes: Array) -> Labels:
        return Labels(codes, self.texts, self.known)

    def take(self, rows: Array) -> Labels:
        return self.with_codes(self.codes[rows])

    def tolist(self) -> list[str]:
        return [self.texts[code] for code in self.codes.tolist()]

    def ranks(self) -> Array:
        """n integers in the order of the texts."""
        order = sorted(range(len(self.texts)), key=self.texts.__getitem__)
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks[self.codes]

    def code_of(self, text: str) -> int:
        """The code of a text, which is added where it is new."""
        code = self.known.get(text)
        if code is None:
            if len(self.texts) >= MAX_LABELS:
                text = OTHER
            code = self.known.setdefault(text, len(self.texts))
            if code == len(self.texts):
                self.texts.append(text)
        return code

    def codes_of(self, values: Array, labels: Sequence[Any]) -> Array:
        """Codes into other labels as our codes."""
        if self._last is None or self._last[0] is not labels or len(self._last[1]) < len(labels):
            self._last = labels, np.array([self.code_of(str(label)) for label in labels] or [0], np.uint32)
        mapping = self._last[1]
        return mapping[np.minimum(values, len(mapping) - 1)]


@functools.lru_cache(1 << 17)
def address_octets(text: str) -> bytes:
    """16 octets, IPv4 as IPv4-mapped; zeros where the text is no address."""
    try:
        if ":" in text:
            return socket.inet_pton(socket.AF_INET6, text)
        return V4_MAPPED + socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return bytes(16)


def address_text(octets: bytes) -> str:
    """Of 16 octets; nothing of the unspecified address, which stands where there is none."""
    if octets.startswith(V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, octets[12:])
    return socket.inet_ntop(socket.AF_INET6, octets) if any(octets) else ""


def columns_of_rows(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> CommonBatch:
    """JSON objects in the common schema as columns. A name that ``types`` does not have is enrichment's."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        columns[name] = _column(types.get(name) or _type_of(values), values)
    return CommonBatch(columns, len(rows))


def _type_of(values: list[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    return "i64" if kinds == {int} else "f64" if kinds <= {int, float} else "label"


def _column(type: str, values: list[Any]) -> CommonColumn:
    there = np.array([value is not None for value in values], bool)
    valid = None if there.all() else there
    if type == "label":
        texts = ["" if value is None else str(value) for value in values]
        known = {text: code for code, text in enumerate(dict.fromkeys(texts))}
        return CommonColumn(type, np.array([known[text] for text in texts], np.uint32), valid, tuple(known))
    if type == "address":
        octets = b"".join([address_octets(str(value)) if value is not None else bytes(16) for value in values])
        return CommonColumn(type, np.frombuffer(octets, np.uint8).reshape(-1, 16), valid)
    if type == "mac":
        numbers = [0 if value is None else _mac(str(value)) for value in values]
        return CommonColumn(type, np.array(numbers, np.uint64), valid)
    if type == "f64":
        return CommonColumn(type, np.array([float(value or 0) for value in values]), valid, None)
    dtype: Any = _INTEGERS.get(type, np.int64)
    least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    numbers = [min(max(int(value), least), most) if isinstance(value, int) else 0 for value in values]
    return CommonColumn(type, np.array(numbers, dtype), valid)


def _mac(text: str) -> int:
    try:
        return int(text.replace(":", ""), 16) & 0xFFFFFFFFFFFF
    except ValueError:
        return 0
