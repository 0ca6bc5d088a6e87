"""CSV text (RFC 4180, UTF-8) as columns of cells, without a Python object a line.

Separators are found by array operations, some MiB of text at a time, so that memory stays near the size of the text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np

from pyflowx.batch import I64, U8, Octets
from pyflowx.enrich.cells import MARGIN, Mask, padded
from pyflowx.errors import ConfigError

_COMMA, _NEWLINE, _RETURN, _QUOTE = 44, 10, 13, 34
_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 23


class Block:
    """Rows of a CSV text: for each column of the header its cells, without the quotes around them."""

    __slots__ = ("_position", "_text", "columns")

    def __init__(self, text: Csv, position: int, columns: list[Octets]) -> None:
        self._text, self._position, self.columns = text, position, columns

    def error(self, row: int, message: str) -> ConfigError:
        """An error that names the file and the line of a row."""
        return self._text.error(self._position + int(self.columns[0].starts[row]) - MARGIN, message)


class Csv:
    """A CSV text with a header line; :class:`ConfigError` with file and line where it is none.

    Blank lines are skipped, line ends may be CRLF. A lone quote inside a cell is taken as it is.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name  # of the file, for messages
        self._data = data.removeprefix(_BOM)
        if not self._data or self._data.isspace():
            raise ConfigError(f"{name}:1: the file is empty; expected a header line, for example: prefix,asn,org")
        self._quotes = self._find_quotes()
        if not self._well_quoted():
            self._data = self._requoted()
            self._quotes = self._find_quotes()
        self._start = self._line_end(0)
        first = self._data[: self._start].decode("utf-8", "replace").lstrip()
        self.header = [cell.strip() for cell in next(csv.reader(io.StringIO(first, newline="")))]

    def find(self, column: str, option: str) -> int:
        """The place of a column; ``option`` is what the user gave that asks for it."""
        if column not in self.header:
            names = ", ".join(self.header)
            raise ConfigError(f"{self.name}:1: no column {column!r} for {option}; the columns are: {names}")
        return self.header.index(column)

    def error(self, position: int, message: str) -> ConfigError:
        """An error that names the file and the line of an octet."""
        line = self._data.count(b"\n", 0, position) + 1
        return ConfigError(f"{self.name}:{line}: {message}")

    def blocks(self) -> Iterator[Block]:
        """All rows behind the header, in order."""
        start = self._start
        while start < len(self._data):
            size = _BLOCK
            while (end := self._last_line_end(start, start + size)) == start:
                size *= 2
            yield self._block(start, end)
            start = end

    def _find_quotes(self) -> I64:
        if b'"' not in self._data:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.frombuffer(self._data, np.uint8) == _QUOTE)

    def _well_quoted(self) -> bool:
        """Do quotes only stand around whole cells, and doubled inside (RFC 4180 §2.5-2.7)?"""
        if len(self._quotes) % 2:
            return False
        text = np.frombuffer(self._data, np.uint8)
        opening, closing = self._quotes[::2], self._quotes[1::2]
        before = text[np.maximum(opening - 1, 0)]
        after = text[np.minimum(closing + 1, len(text) - 1)]
        opens = (before == _COMMA) | (before == _NEWLINE) | (before == _QUOTE)
        closes = (after == _COMMA) | (after == _NEWLINE) | (after == _RETURN) | (after == _QUOTE)
        return bool(opens.all() and closes.all())

    def _requoted(self) -> bytes:
        """The same rows as the csv module reads them, well quoted."""
        out = io.StringIO(newline="")
        reader = csv.reader(io.StringIO(self._data.decode("utf-8", "surrogateescape"), newline=""))
        try:
            csv.writer(out, lineterminator="\n").writerows(reader)
        except csv.Error as error:
            message = f"{self.name}:{reader.line_num}: {error}; expected CSV with a quote inside quotes doubled"
            raise ConfigError(message) from error
        return out.getvalue().encode("utf-8", "surrogateescape")

    def _quoted(self, position: int) -> bool:
        return bool(np.searchsorted(self._quotes, position) & 1)

    def _line_end(self, start: int) -> int:
        """Where the line after the first one that is not blank begins."""
        while True:
            found = self._data.find(b"\n", start) + 1 or len(self._data)
            if found == len(self._data) or not (self._quoted(found) or self._data[:found].isspace()):
                return found
            start = found

    def _last_line_end(self, start: int, limit: int) -> int:
        """Where the last line that begins in ``start + 1 .. limit`` does, or ``start``: no line ends there."""
        if limit >= len(self._data):
            return len(self._data)
        while (limit := self._data.rfind(b"\n", start, limit)) >= 0:
            if not self._quoted(limit):
                return limit + 1
        return start

    def _block(self, start: int, end: int) -> Block:
        text = self._data[start:end]
        buffer = padded(text if text.endswith(b"\n") else text + b"\n")
        ends = np.flatnonzero((buffer == _COMMA) | (buffer == _NEWLINE))
        low, high = np.searchsorted(self._quotes, (start, end))
        if low < high:  # a separator behind an odd number of quotes is inside a cell
            ends = ends[np.searchsorted(self._quotes[low:high] + (MARGIN - start), ends) & 1 == 0]
        starts = np.concatenate([[MARGIN], ends[:-1] + 1])
        last = buffer[ends] == _NEWLINE  # does this cell end its line?
        ends -= last & (buffer[ends - 1] == _RETURN) & (ends > starts)
        blank = last & (ends == starts)
        blank[1:] &= last[:-1]
        if blank.any():
            starts, ends, last = starts[~blank], ends[~blank], last[~blank]
        self._check_width(start, starts, last)
        if low < high:
            inside = (buffer[starts] == _QUOTE) & (ends > starts)
            starts, ends = starts + inside, ends - inside
        return Block(self, start, _columns(buffer, starts, ends - starts, len(self.header)))

    def _check_width(self, start: int, starts: I64, last: Mask) -> None:
        lines = np.flatnonzero(last)
        counts = np.diff(lines, prepend=-1)
        wrong = np.flatnonzero(counts != len(self.header))
        if len(wrong):
            first_cell = int(lines[wrong[0]] - counts[wrong[0]] + 1)
            message = f"{int(counts[wrong[0]])} columns; expected {len(self.header)} as in the header line"
            raise self.error(start + int(starts[first_cell]) - MARGIN, message)


def _columns(buffer: U8, starts: I64, lengths: I64, width: int) -> list[Octets]:
    by_column = zip(starts.reshape(-1, width).T, lengths.reshape(-1, width).T, strict=True)
    return [Octets(buffer, start.copy(), length.copy()) for start, length in by_column]
