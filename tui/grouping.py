"""Flows grouped by one to three dimensions: columns, or what is made of one (networks, the service's port)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyflowx.batch import V4_MAPPED
from pyflowx.errors import ConfigError

from . import cells
from .columns import Labels, address_text
from .index import mix
from .sorting import argsort, distinct
from .store import FlowStore
from .table import Values, take
from .text import clean

Array = npt.NDArray[Any]
MOST = 3  # dimensions
_V4 = np.frombuffer(V4_MAPPED, np.uint8)
_V4_PREFIX, _V6_PREFIX = 24, 64


@dataclass(frozen=True, slots=True)
class Dimension:
    """``values``: of all flows; ``render``: those of some as texts; ``term``: a filter for one (given as a column of
    one row)."""

    name: str
    title: str
    values: Callable[[FlowStore], Values]
    render: cells.Render
    term: Callable[[Values], str]
    width: int = 10
    style: str = "text"


def networks(addresses: Array) -> Array:
    """Addresses without what is behind /24 (IPv6: /64)."""
    found = addresses.copy()
    is_v4 = (addresses[:, :12] == _V4).all(axis=1)
    found[is_v4, 15] = 0
    found[~is_v4, 8:] = 0
    return found


def network_text(octets: bytes) -> str:
    text = address_text(octets)
    return f"{text}/{_V4_PREFIX if octets.startswith(V4_MAPPED) else _V6_PREFIX}" if text else ""


def _services(store: FlowStore) -> Array:
    """The lower one of the two ports: that of the service, nearly always."""
    source, destination = store.column("src_port"), store.column("dst_port")
    low: Array = np.minimum(source, destination)
    return np.where(low > 0, low, np.maximum(source, destination))


def _column(name: str) -> Callable[[FlowStore], Values]:
    return lambda store: store.column(name)


def _network(name: str) -> Callable[[FlowStore], Values]:
    return lambda store: networks(store.column(name))


def _first(render: cells.Render) -> Callable[[Values], str]:
    return lambda values: render(values)[0]


def _term(name: str, text: Callable[[Values], str]) -> Callable[[Values], str]:
    def make(values: Values) -> str:
        found = text(values)
        if found and all(letter.isalnum() or letter in ".:/_-" for letter in found):
            return f"{name}:{found}"
        return f'{name}:"{found}"' if found and '"' not in found else ""

    return make


def _networks(values: Array) -> list[str]:
    return [network_text(row.tobytes()) for row in values]


def _addresses(name: str, title: str) -> Dimension:
    return Dimension(name, title, _column(name), cells.addresses, _term(name, _first(cells.addresses)), 18, "address")


def _nets(name: str, title: str, column: str) -> Dimension:
    return Dimension(name, title, _network(column), _networks, _term(column, _first(_networks)), 20, "address")


def _numbers(name: str, title: str, width: int = 8, render: cells.Render = cells.plain_numbers) -> Dimension:
    return Dimension(name, title, _column(name), render, _term(name, _first(cells.plain_numbers)), width, "accent")


DIMENSIONS: tuple[Dimension, ...] = (
    _addresses("src_addr", "Source"),
    _addresses("dst_addr", "Destination"),
    _nets("src_net24", "Source network", "src_addr"),
    _nets("dst_net24", "Destination network", "dst_addr"),
    _numbers("src_as", "Source AS", 10),
    _numbers("dst_as", "Destination AS", 14),
    Dimension(
        "service", "Service", _services, cells.plain_numbers, _term("port", _first(cells.plain_numbers)), 8, "accent"
    ),
    _numbers("src_port", "Source port", 11),
    _numbers("dst_port", "Dest. port", 11),
    _numbers("proto", "Protocol", 9, cells.protocols),
    _numbers("in_if", "In interface", 12),
    _numbers("out_if", "Out interface", 13),
    _addresses("sampler_address", "Exporter"),
)
_KNOWN = {dimension.name: dimension for dimension in DIMENSIONS}


def dimensions(store: FlowStore) -> list[Dimension]:
    """What can be grouped by: the usual first (countries, if enrichment tells them), then all other columns."""
    added = [dimension_of(name, store) for name in store.types if name in store.extra()]
    others = [dimension_of(name, store) for name in store.names() if name not in _KNOWN and name not in store.extra()]
    return [*DIMENSIONS, *added, *(each for each in others if not each.name.endswith("_ns"))]


def is_dimension(name: str, store: FlowStore) -> bool:
    """A column of enrichment is none before the first flow that has it."""
    return name in _KNOWN or name in store.types


def dimension_of(name: str, store: FlowStore) -> Dimension:
    """ConfigError names what there is."""
    if name in _KNOWN:
        return _KNOWN[name]
    if name not in store.types:
        raise ConfigError(f"nothing to group by is called {name}; use one of {', '.join({**_KNOWN, **store.types})}")
    type = store.types[name]
    title = clean(name)
    if type == "address":
        return _addresses(name, title)
    if type == "label":
        return Dimension(name, title, _column(name), cells.labels, _term(name, _first(cells.labels)), 16)
    return _numbers(name, title, max(8, len(name) + 1))


@dataclass(frozen=True, slots=True)
class Groups:
    """``count`` groups of flows. ``rows``: the flows in them, ``codes``: the group of each; ``first``: a flow of each
    group; ``keys``: what stays the same while the groups are those of the same dimensions."""

    by: tuple[Dimension, ...]
    rows: Array
    codes: Array
    first: Array
    keys: Array
    flows: Array

    def __len__(self) -> int:
        return len(self.first)

    def sum(self, values: Array) -> Array:
        """Of values of all flows, by group."""
        return np.bincount(self.codes, values[self.rows], len(self))

    def values(self, dimension: Dimension, store: FlowStore) -> Values:
        """Of each group."""
        return take(dimension.values(store), self.first)

    def history(self, store: FlowStore, groups: Array, weights: Array | None = None) -> Array:
        """``(groups, 30)``: octets of each two seconds of the last minute, of some of the groups."""
        places = np.full(len(self), -1, np.int64)
        places[groups] = np.arange(len(groups))
        found = places[self.codes]
        chosen = np.flatnonzero(found >= 0)
        rows = self.rows[chosen]
        return store.history_of(found[chosen], len(groups), rows, None if weights is None else weights[rows])


def group(store: FlowStore, by: Sequence[Dimension], rows: Array | None = None) -> Groups:
    """The flows (all, or those of ``rows``) by what they have in common."""
    chosen = np.arange(len(store)) if rows is None else rows
    hashes = np.full(len(chosen), store.seed, np.uint64)
    for dimension in by:
        for part in _parts(take(dimension.values(store), chosen)):
            hashes = mix(hashes, part)
    keys, first, codes = distinct(hashes)
    order = argsort(first)  # in that of their first flows, whatever the hash
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    keys, first, codes = keys[order], first[order], places[codes]
    return Groups(tuple(by), chosen, codes, chosen[first], keys, np.bincount(codes, minlength=len(keys)))


def _parts(values: Values) -> Iterable[Array]:
    if isinstance(values, Labels):
        return (values.codes,)
    if values.ndim == 2:
        halves = np.ascontiguousarray(values).view(np.uint64)
        return halves[:, 0], halves[:, 1]
    return (values,)
