"""Tables: from the octets of a file to look-ups on columns, and from the columns of flows to new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pyflowx.batch import I32, Octets
from pyflowx.enrich.addresses import Prefixes, no_prefixes, parse_prefixes
from pyflowx.enrich.csvtext import Csv
from pyflowx.enrich.exact import ExactIndex, no_keys, parse_key
from pyflowx.enrich.intervals import from_prefixes
from pyflowx.enrich.mmdb import Mmdb
from pyflowx.enrich.mmdb_records import MmdbRecords
from pyflowx.enrich.options import EXACT, EnrichSpec
from pyflowx.enrich.prefixes import PrefixIndex
from pyflowx.enrich.values import FLOAT, INTEGER, TEXT, CellEncoder, Coded, Dictionary, Records
from pyflowx.fill import CommonColumn, Joint

# The types of common columns for the kinds of fields.
_TYPES = {INTEGER: "i64", FLOAT: "f64", TEXT: "label"}


class Table:
    """A loaded table. It never changes (but for MMDB records that are decoded when first met)."""

    def __init__(
        self, index: PrefixIndex | ExactIndex, records: Records | MmdbRecords, fields: Sequence[str], rows: int
    ) -> None:
        self.rows = rows  # of the file (MMDB: distinct records)
        self._index, self._records = index, records
        self._places = {field: place for place, field in enumerate(fields)}

    @property
    def unfit(self) -> int:
        """Values of an MMDB file that became null because they are not of their field's kind."""
        return getattr(self._records, "unfit", 0)

    def dictionary(self, field: str) -> Dictionary:
        """The distinct values of a field."""
        return self._records.dictionaries[self._places[field]]

    def kinds(self) -> list[str]:
        """The kinds of the fields, in their order."""
        return [dictionary.kind for dictionary in self._records.dictionaries]

    def find(self, keys: Sequence[CommonColumn]) -> I32:
        """The record for each row of the key columns, -1 for none or where a key is null."""
        records = self._index.find([key.values for key in keys])
        for key in keys:
            if key.valid is not None:
                records = np.where(key.valid, records, np.int32(-1))
        return records

    def joint(self, records: I32) -> Joint:
        """What the fields of records have in common."""
        return Joint(records, self._records.count, self)

    def take(self, records: I32, fields: Sequence[str]) -> list[Coded]:
        """Some fields of records."""
        codes = self._records.codes(records)
        return [Coded(codes[self._places[field]], self.dictionary(field)) for field in fields]


class Enrichment:
    """An ``--enrich`` at work. :attr:`table` is replaced as a whole when the file is loaded again.

    ``looked_up`` counts rows with a key, ``matched`` those that were found.
    """

    def __init__(self, spec: EnrichSpec, table: Table) -> None:
        self.spec, self.table = spec, table
        self.looked_up = 0
        self.matched = 0

    def types(self) -> dict[str, str]:
        """The result columns with their types (``label``, ``i64``, ``f64``), which no reload changes."""
        fields = dict(zip(self.spec.fields, self.table.kinds(), strict=True))
        return {output: _TYPES[fields[field]] for lookup in self.spec.lookups for field, output in lookup.fields}

    def apply(self, columns: Mapping[str, CommonColumn]) -> dict[str, CommonColumn]:
        """The result columns for a batch of flows: codes into labels, the same labels until the table is replaced.

        Those whose key the batch does not have are left out: all null.
        """
        table = self.table  # one table for the whole batch
        made: dict[str, CommonColumn] = {}
        for lookup in self.spec.lookups:
            keys = [columns[key] for key in lookup.keys if key in columns]
            if len(keys) < len(lookup.keys):
                continue
            records = table.find(keys)
            self.looked_up += len(records)
            self.matched += int(np.count_nonzero(records >= 0))
            found = table.take(records, [field for field, _ in lookup.fields])
            joint = table.joint(records) if len(found) > 1 else None
            for (_, output), coded in zip(lookup.fields, found, strict=True):
                made[output] = _common(coded, joint)
        return made


def _common(coded: Coded, joint: Joint | None) -> CommonColumn:
    valid = coded.codes >= 0
    dictionary = coded.dictionary
    return CommonColumn(_TYPES[dictionary.kind], coded.codes, None if valid.all() else valid, dictionary.values, joint)


def load_table(spec: EnrichSpec, data: bytes, columns: Mapping[str, str], before: Table | None = None) -> Table:
    """A table from the octets of a file, or of what a command printed.

    ``columns``: the kinds of a flow's columns; ``before``: the table that this one is to replace: fields
    keep their kinds. :class:`ConfigError` names the file, the line and what is expected.
    """
    kinds = before.kinds() if before else [None] * len(spec.fields)
    if spec.format == "mmdb":
        file = Mmdb(data, spec.name)
        index, offsets = file.index()
        return Table(index, MmdbRecords(file, offsets, spec.fields, kinds), spec.fields, len(offsets))
    text = Csv(data, spec.name)
    if spec.type == EXACT:
        return _load_exact(spec, text, [columns[key] for key in spec.lookups[0].keys], kinds)
    return _load_prefixes(spec, text, kinds)


class _Fields:
    """The columns of a CSV text that hold the wanted fields."""

    def __init__(self, spec: EnrichSpec, text: Csv) -> None:
        self._names = spec.fields
        self._places = [text.find(field, f"fields={field}") for field in spec.fields]
        self._encoders = [CellEncoder() for _ in spec.fields]

    def add(self, columns: Sequence[Octets]) -> None:
        for place, encoder in zip(self._places, self._encoders, strict=True):
            encoder.add(columns[place])

    def records(self, kinds: Sequence[str | None]) -> Records:
        named = zip(self._names, self._encoders, kinds, strict=True)
        return Records([encoder.finish(name, kind) for name, encoder, kind in named])


def _load_prefixes(spec: EnrichSpec, text: Csv, kinds: Sequence[str | None]) -> Table:
    name = spec.key_columns[0] if spec.key_columns else "prefix"
    place = text.find(name, "the prefixes; key_column= names another")
    fields = _Fields(spec, text)
    prefixes = Prefixes(*map(np.concatenate, zip(*_prefixes(text, place, fields), strict=True)))
    records = fields.records(kinds)
    index = PrefixIndex(*from_prefixes(prefixes, records.numbers))
    return Table(index, records, spec.fields, len(records.numbers))


def _prefixes(text: Csv, place: int, fields: _Fields) -> Iterator[Prefixes]:
    yield no_prefixes()
    for block in text.blocks():
        cells = block.columns[place]
        parsed = parse_prefixes(cells)
        if not parsed.ok.all():
            row = int(np.argmin(parsed.ok))
            odd = cells.take(slice(row, row + 1)).packed().tolist()[0].decode("utf-8", "replace")
            raise block.error(row, f"{odd!r} is no prefix; expected one such as 192.0.2.0/24 or 2001:db8::/32")
        fields.add(block.columns)
        yield parsed


def _load_exact(spec: EnrichSpec, text: Csv, key_kinds: Sequence[str], kinds: Sequence[str | None]) -> Table:
    keys = spec.lookups[0].keys
    if spec.key_columns:
        places = [text.find(name, f"key_column={name}") for name in spec.key_columns]
    elif set(keys) <= set(text.header):
        places = [text.header.index(key) for key in keys]
    elif len(text.header) > len(keys):
        places = list(range(len(keys)))
    else:
        raise text.error(0, f"{len(text.header)} columns; expected {len(keys)} with the key, and those with the fields")
    fields, parts = _Fields(spec, text), [no_keys(key_kinds)]
    for block in text.blocks():
        parsed = (parse_key(block, place, kind) for place, kind in zip(places, key_kinds, strict=True))
        parts.append([word for words in parsed for word in words])
        fields.add(block.columns)
    records = fields.records(kinds)
    words = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Table(ExactIndex(key_kinds, words, records.numbers), records, spec.fields, len(records.numbers))
