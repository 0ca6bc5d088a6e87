"""Biflows (RFC 5103) as two flows: one each way.

What the record says of its forward direction stays as it is. The second flow has source and destination in each other's
places, and the reverse elements as its own. What a forward element says of its direction's packets (counters, flags,
TTL, next hop, ...) is not said of the second flow; what holds for both directions (protocol, times where it has none of
its own, ...) is.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from pyflowx.batch import Array, Column, FlowBatch, take
from pyflowx.elements import CERT_PEN, CERT_REVERSE_BIT, IANA_PEN, REVERSE_PEN, FieldSpecifier, Registry
from pyflowx.fill import NUMBER, field_class

_PAIRS = (
    *((8, 12), (27, 28), (7, 11), (10, 14), (9, 13), (29, 30), (16, 17), (44, 45), (169, 170), (58, 59)),
    *((56, 80), (81, 57), (128, 129), (180, 181), (182, 183), (225, 226), (281, 282), (227, 228), (243, 254)),
    *((245, 255), (252, 253), (231, 232), (298, 299), (234, 235), (368, 369)),
)
_SWAPPED = dict(_PAIRS) | {there: here for here, there in _PAIRS}
# Beside counters and flags these are of the packets of one direction: ToS, TTL, ICMP, fragments, next hops, sections...
_ONE_WAY = frozenset(
    (
        *(5, 15, 18, 25, 26, 31, 32, 52, 53, 54, 55, 61, 62, 63, 70, 88, 98, 104, 139, 176, 177, 178, 179),
        *(*range(184, 197), 200, 204, 205, 207, 224, *range(312, 318)),
    )
)
_ONE_WAY_SEMANTICS = frozenset(("deltaCounter", "totalCounter", "flags"))
_DIRECTION = 239  # biflowDirection: 1 the Source is the initiator, 2 the Destination is
_START, _REVERSE_DELAY = 152, (CERT_PEN, 21)  # flowStartMilliseconds; the second flow began so many ms later


class _Plan(NamedTuple):
    """How to make the second flow: its fields and the places of their columns; where the packets and the octets of
    the reverse direction are counted."""

    fields: tuple[FieldSpecifier, ...]
    places: tuple[int, ...]
    counts: tuple[int, ...]


def split(flows: list[FlowBatch], registry: Registry) -> list[FlowBatch]:
    """``flows``, and behind each batch of Biflows the flows of the reverse direction, where packets (octets, where only
    these are counted) came back."""
    found = []
    for batch in flows:
        found.append(batch)
        if any(field.element.is_reverse for field in batch.fields) and not batch.scope_count:
            second = _reverse(batch, _plan(batch.fields, registry))
            if second is not None:
                found.append(second)
    return found


def _reverse(batch: FlowBatch, plan: _Plan) -> FlowBatch | None:
    counts = [np.asarray(batch.columns[place]) for place in plan.counts]
    if not counts:
        return None
    rows = np.flatnonzero(counts[0] != 0)
    if not len(rows):
        return None
    columns = [take(batch.columns[place], rows) for place in plan.places]
    _amend(plan.fields, columns, batch, rows)
    return FlowBatch(plan.fields, columns, batch.message[rows], batch.set_offset[rows], batch.template_id[rows])


def _amend(fields: tuple[FieldSpecifier, ...], columns: list[Column], batch: FlowBatch, rows: Array) -> None:
    """What the second flow says otherwise: who its initiator is, seen from its own Source, and its start."""
    delay = batch.find(*_REVERSE_DELAY)
    for place, field in enumerate(fields):
        column = columns[place]
        if field.element.pen != IANA_PEN or not isinstance(column, np.ndarray):
            continue
        if field.element.id == _DIRECTION:
            columns[place] = np.where((column == 1) | (column == 2), 3 - column, column).astype(column.dtype)
        if field.element.id == _START and isinstance(delay, np.ndarray):
            own = any(one.element[:2] == (REVERSE_PEN, _START) for one in batch.fields)
            columns[place] = column if own else column + delay[rows]


@functools.lru_cache(maxsize=256)  # a peer may send any number of Templates
def _plan(fields: tuple[FieldSpecifier, ...], registry: Registry) -> _Plan:
    reverse = {_forward(field): place for place, field in reversed(list(enumerate(fields))) if field.element.is_reverse}
    made: list[FieldSpecifier] = []
    places: list[int] = []
    for key, place in reverse.items():
        made.append(fields[place]._replace(element=registry.get(*key)))
        places.append(place)
    for place, field in enumerate(fields):
        element = field.element
        key = element.pen, element.id
        if element.is_reverse or key in reverse or key == _REVERSE_DELAY:
            continue
        if element.pen == IANA_PEN and element.id in _SWAPPED:
            field = field._replace(element=registry.get(IANA_PEN, _SWAPPED[element.id]))
        elif element.semantics in _ONE_WAY_SEMANTICS or (element.pen == IANA_PEN and element.id in _ONE_WAY):
            continue
        made.append(field)
        places.append(place)
    counted = [reverse[IANA_PEN, id] for id in (2, 86, 1, 85) if (IANA_PEN, id) in reverse]
    counts = tuple(place for place in counted if field_class(fields[place]) == NUMBER)
    return _Plan(tuple(made), tuple(places), counts[:1])


def _forward(field: FieldSpecifier) -> tuple[int, int]:
    """What a reverse element is the reverse of."""
    element = field.element
    return (IANA_PEN, element.id) if element.pen == REVERSE_PEN else (CERT_PEN, element.id & ~CERT_REVERSE_BIT)
