"""The data section of MaxMind DB files (format 2.0): fields of records, found when a flow first meets a record.

The way to a value is walked here: decoding a whole record of a city database, with its names in eight languages, takes
ten times as long as finding the two fields that are wanted. Texts and unsigned integers are read here as well, all
other values by maxminddb.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyflowx.batch import I32, I64
from pyflowx.enrich.mmdb import Mmdb
from pyflowx.enrich.values import FLOAT, INTEGER, TEXT, Dictionary, Value

Path = tuple[bytes, ...]

_POINTER, _TEXT, _MAP, _ARRAY, _BOOLEAN = 1, 2, 7, 11, 14
_UNSIGNED = 5, 6, 9  # uint16, uint32, uint64
_POINTER_OFFSETS = 0, 2048, 526336, 0
_MOST_ITEMS = 1 << 16  # of a map, an array, or all that is skipped at once: more is damage
_KEPT = 1 << 16  # results behind pointers
_FEW = 1 << 13  # records that are looked into when the file is loaded: less than a tenth of a second
_SAMPLE = 2048  # records that are looked at to find the kind of a field
_NEW, _EMPTY = -2, -1  # codes: not looked for yet; null
_MISSING = object()


class DataSection:
    """Values by their paths. What is damaged raises whatever it may; the caller says what that means."""

    def __init__(self, data: bytes, start: int) -> None:
        from maxminddb.decoder import Decoder  # takes a while, and few need it

        self._data, self._start, self._decoder = data, start, Decoder(data, start)
        self._known: dict[tuple[int, Path], Any] = {}  # records share much of what they point to
        self._keys: dict[bytes, bytes] = {}  # the keys of maps, by pointers to them

    def whole(self, at: int) -> Any:
        """All of the value at an offset."""
        return self._decoder.decode(at)[0]

    def value(self, at: int, path: Path) -> Any:
        """What is below the value at an offset: a key leads into a map, a number into an array. None: nothing."""
        kind, size, behind = self._control(at)
        if kind != _POINTER:
            return self._inside(at, kind, size, behind, path)
        found = self._known.get((size, path), _MISSING)
        if found is _MISSING:
            found = self._inside(size, *self._control(size), path)
            if len(self._known) < _KEPT:
                self._known[size, path] = found
        return found

    def _inside(self, at: int, kind: int, size: int, behind: int, path: Path) -> Any:
        if not path:
            octets = self._data[behind : behind + size]
            if kind == _TEXT:
                return octets.decode()
            return int.from_bytes(octets, "big") if kind in _UNSIGNED else self.whole(at)
        if kind not in (_MAP, _ARRAY):
            return None
        if size > _MOST_ITEMS:
            raise ValueError("too many items")
        step, rest = path[0], path[1:]
        if kind == _ARRAY:
            if not step.isdigit() or int(step) >= size:
                return None
            return self.value(self._skip(behind, int(step)), rest)
        for _ in range(size):
            key, behind = self._key(behind)
            if key == step:
                return self.value(behind, rest)
            behind = self._skip(behind, 1)
        return None

    def _key(self, at: int) -> tuple[bytes, int]:
        data = self._data
        first = data[at]
        if first >> 5 != _POINTER:
            _, size, behind = self._control(at)
            return data[behind : behind + size], behind + size
        behind = at + 2 + (first >> 3 & 3)
        pointer = data[at:behind]
        key = self._keys.get(pointer)
        if key is None:
            _, length, start = self._control(self._control(at)[1])
            key = data[start : start + length]
            if len(self._keys) < _KEPT:
                self._keys[pointer] = key
        return key, behind

    def _skip(self, at: int, values: int) -> int:
        """Where the value behind so many begins."""
        data, steps = self._data, 0
        while values:
            steps += 1
            if steps > _MOST_ITEMS:
                raise ValueError("too many items")
            values -= 1
            first = data[at]
            if 0x40 <= first < 0xE0 and first & 31 < 29:  # short, and holds nothing else: most of all values
                at += 1 + (first & 31)
                continue
            kind, size, at = self._control(at)
            if kind in (_MAP, _ARRAY):
                values += size * (2 if kind == _MAP else 1)
            elif kind not in (_POINTER, _BOOLEAN):
                at += size
        return at

    def _control(self, at: int) -> tuple[int, int, int]:
        """(type, size, where what follows begins); of a pointer the offset that it points to is the size."""
        data = self._data
        first = data[at]
        kind = first >> 5
        at += 1
        if kind == _POINTER:
            width = (first >> 3 & 3) + 1
            high = 0 if width == 4 else (first & 7) << 8 * width
            target = high | int.from_bytes(data[at : at + width], "big")
            return kind, self._start + target + _POINTER_OFFSETS[width - 1], at + width
        if not kind:
            kind = 7 + data[at]
            at += 1
        size = first & 31
        if size < 29:
            return kind, size, at
        width = size - 28
        base = 29, 285, 65821
        return kind, base[width - 1] + int.from_bytes(data[at : at + width], "big"), at + width


class MmdbRecords:
    """Fields of the records of a file, by dotted paths (``country.iso_code``, ``subdivisions.0.iso_code``).

    A record is looked into once: at the beginning where there are few, else when it is first asked for. ``unfit``
    counts values that are not of their field's kind, and fields of records that are damaged: they are null. Not for
    several threads.
    """

    def __init__(self, file: Mmdb, offsets: I64, paths: Sequence[str], kinds: Sequence[str | None]) -> None:
        """``kinds``: what a field has to be; None: what the first records that have it say, text if none does."""
        self._file, self._offsets = file, offsets
        self._section = DataSection(file.data, file.pointer_base)
        self._paths: list[Path] = [tuple(step.encode() for step in path.split(".")) for path in paths]
        self._codes = [np.full(len(offsets) + 1, _NEW, np.int32) for _ in paths]
        for codes in self._codes:
            codes[-1] = _EMPTY  # record -1
        self._index: list[dict[Value, int]] = [{} for _ in paths]
        self.unfit = 0
        found = [kind or self._kind(path) for path, kind in zip(self._paths, kinds, strict=True)]
        self.dictionaries = [Dictionary(kind) for kind in found]
        if len(offsets) <= _FEW:
            for record in range(len(offsets)):
                self._look_into(record)

    @property
    def count(self) -> int:
        """Of distinct records."""
        return len(self._offsets)

    def codes(self, records: I32) -> list[I32]:
        """For each field the codes of some records, -1 for record -1."""
        found = [codes.take(records) for codes in self._codes]  # -1 is the last
        new = found[0] == _NEW
        if not new.any():
            return found
        for record in np.unique(records[new]).tolist():
            self._look_into(record)
        return [codes.take(records) for codes in self._codes]

    def _sample(self) -> list[int]:
        offsets: list[int] = self._offsets[:: max(1, len(self._offsets) // _SAMPLE)].tolist()
        return offsets

    def _kind(self, path: Path) -> str:
        for offset in self._sample():
            value = self._value(offset, path)
            if value is not None:
                return INTEGER if type(value) is int else FLOAT if type(value) is float else TEXT
        if not all(step.isdigit() or _as_key(step) in self._file.data for step in path):
            names = sorted({name for offset in self._sample()[:100] for name in _paths(self._value(offset, ()))})
            known = ", ".join(names[:40]) or "none"
            raise self._file.error(f"no field {b'.'.join(path).decode()!r} in it; the fields are: {known}")
        return TEXT

    def _value(self, offset: int, path: Path) -> Any:
        try:
            return self._section.value(offset, path)
        except Exception:  # damaged; which errors there are depends on the damage and the version of maxminddb
            self.unfit += 1
            return None

    def _look_into(self, record: int) -> None:
        offset = int(self._offsets[record])
        for path, codes, index, dictionary in zip(
            self._paths, self._codes, self._index, self.dictionaries, strict=True
        ):
            found = self._value(offset, path)
            value = None if found is None else _fit(found, dictionary.kind)
            self.unfit += found is not None and value is None
            if value is None:
                codes[record] = _EMPTY
                continue
            code = index.setdefault(value, len(index))
            if code == len(dictionary.values):
                dictionary.values.append(value)
            codes[record] = code


def _as_key(name: bytes) -> bytes:
    """A map key as a file spells it (a longer one: without the octets that say its length)."""
    return bytes([2 << 5 | len(name)]) + name if len(name) < 29 else name


def _fit(value: Any, kind: str) -> Value | None:
    """A value as a field's kind holds it; None where it cannot."""
    if kind == TEXT:
        if isinstance(value, str):
            return value
        if isinstance(value, bytes | bytearray):
            return value.hex()
        return json.dumps(value, ensure_ascii=False, default=lambda octets: octets.hex())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind == FLOAT:
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, int) and -(1 << 63) <= value < 1 << 63 else None


def _paths(record: Any, prefix: str = "") -> list[str]:
    """The dotted paths of all values in a record."""
    if isinstance(record, dict | list):
        items = record.items() if isinstance(record, dict) else enumerate(record)
        return [path for name, value in items for path in _paths(value, f"{prefix}.{name}" if prefix else str(name))]
    return [prefix]
