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
_BLOCK = 1 << 21  # octets at a time
_OPENS, _CLOSES = np.zeros((2, 256), np.bool_)  # what may stand before an opening and behind a closing quote
_OPENS[[_COMMA, _NEWLINE, _QUOTE]] = _CLOSES[[_COMMA, _NEWLINE, _RETURN, _QUOTE]] = True


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
        self._start = 0
        try:
            header = next(row for row in csv.reader(self._lines()) if len(row) > 1 or "".join(row).strip())
        except csv.Error as error:
            raise self.error(self._start - 1, f"{error}; expected a header line such as prefix,asn,org") from error
        self.header = [cell.strip() for cell in header]

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
            while (found := self._block(start, start + size)) is None:
                size *= 2
            block, start = found
            yield block

    def _lines(self) -> Iterator[str]:
        """From the beginning on, for the csv module; ``_start`` is behind the last one."""
        while self._start < len(self._data):
            start, self._start = self._start, self._data.find(b"\n", self._start) + 1 or len(self._data)
            yield self._data[start : self._start].decode("utf-8", "replace")

    def _requote(self, start: int) -> None:
        """The rows from an octet on as the csv module reads them, well quoted."""
        out = io.StringIO(newline="")
        reader = csv.reader(io.StringIO(self._data[start:].decode("utf-8", "surrogateescape"), newline=""))
        try:
            csv.writer(out, lineterminator="\n").writerows(reader)
        except csv.Error as error:
            line = self._data.count(b"\n", 0, start) + reader.line_num
            message = f"{self.name}:{line}: {error}; expected CSV with a quote inside quotes doubled"
            raise ConfigError(message) from error
        self._data = self._data[:start] + out.getvalue().encode("utf-8", "surrogateescape")

    def _block(self, start: int, limit: int) -> tuple[Block, int] | None:
        """The rows that begin at ``start`` and end before ``limit``, and where they end; None where none does."""
        text = self._data[start:limit]
        is_all = limit >= len(self._data)
        buffer = padded(text if not is_all or text.endswith(b"\n") else text + b"\n")
        marks = np.flatnonzero((buffer == _COMMA) | (buffer == _NEWLINE) | (buffer == _QUOTE))
        quotes = buffer[marks] == _QUOTE
        is_quoted = bool(quotes.any())
        ends = marks
        if is_quoted:
            if not _well_quoted(buffer, marks[quotes], is_all):
                self._requote(start)
                return self._block(start, limit)
            # a separator behind an odd number of quotes is inside a cell
            ends = marks[~quotes & (np.cumsum(quotes, dtype=np.int32) & 1 == 0)]
        last = buffer[ends] == _NEWLINE  # does this cell end its line?
        if not last.any():
            return None
        count = len(last) - int(np.argmax(last[::-1]))
        ends, last = ends[:count], last[:count]
        end = min(start + int(ends[-1]) + 1 - MARGIN, len(self._data))
        starts = np.concatenate([[MARGIN], ends[:-1] + 1])
        ends -= last & (buffer[ends - 1] == _RETURN) & (ends > starts)
        blank = last & (ends == starts)
        blank[1:] &= last[:-1]
        if blank.any():
            starts, ends, last = starts[~blank], ends[~blank], last[~blank]
        self._check_width(start, starts, last)
        if is_quoted:
            inside = (buffer[starts] == _QUOTE) & (ends > starts)
            starts, ends = starts + inside, ends - inside
        return Block(self, start, _columns(buffer, starts, ends - starts, len(self.header))), end

    def _check_width(self, start: int, starts: I64, last: Mask) -> None:
        lines = np.flatnonzero(last)
        counts = np.diff(lines, prepend=-1)
        wrong = np.flatnonzero(counts != len(self.header))
        if len(wrong):
            first_cell = int(lines[wrong[0]] - counts[wrong[0]] + 1)
            message = f"{int(counts[wrong[0]])} columns; expected {len(self.header)} as in the header line"
            raise self.error(start + int(starts[first_cell]) - MARGIN, message)


def _well_quoted(buffer: U8, quotes: I64, is_all: bool) -> bool:
    """Do quotes only stand around whole cells, and doubled inside (RFC 4180 §2.5-2.7)?"""
    if is_all and len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    opens = _OPENS[buffer[opening - 1]] | (opening == MARGIN)
    closes = _CLOSES[buffer[closing + 1]] | (closing == len(buffer) - MARGIN - 1)
    return bool(opens.all() and closes.all())


def _columns(buffer: U8, starts: I64, lengths: I64, width: int) -> list[Octets]:
    by_column = zip(starts.reshape(-1, width).T, lengths.reshape(-1, width).T, strict=True)
    return [Octets(buffer, start.copy(), length.copy()) for start, length in by_column]
