"""From what was decoded to flows in the common schema, as the user asked for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyflowx.batch import FlowBatch
from pyflowx.common import CommonBatch, to_common
from pyflowx.conversion.sampling import HAVE_OPTIONS, KnownRates, Rates
from pyflowx.decoded import Decoded
from pyflowx.elements import IANA_PEN, Registry, default_registry

if TYPE_CHECKING:
    from pyflowx.conversion.further import Further

__all__ = ["Conversion", "scale"]

_SECTIONS = frozenset((104, 313, 315, 316, 317))  # those of pyflowx.wire.section, which is imported for them only
_U64_MAX = np.uint64((1 << 64) - 1)


class Conversion:
    """Flows of a Decoded in the common schema; keeps what options data tell from call to call.

    ``rates``: what the user says of sampling; ``further``: columns beside the common ones; ``split_biflow``: Biflows
    become two flows (RFC 5103), with the names of ``registry``; ``tunnels``: packet sections (PSAMP) give the
    innermost addresses, else the outermost; ``scaled``: :func:`scale`.
    """

    def __init__(
        self,
        rates: KnownRates | None = None,
        *,
        further: Further | None = None,
        registry: Registry | None = None,
        split_biflow: bool = False,
        tunnels: bool = True,
        scaled: bool = False,
    ) -> None:
        self.rates = Rates(rates)
        self._further, self._registry = further, registry or default_registry()
        self._split_biflow, self._tunnels, self._scaled = split_biflow, tunnels, scaled

    def types(self) -> dict[str, str]:
        """The further columns with their types."""
        return {} if self._further is None else self._further.types()

    def __call__(self, decoded: Decoded) -> list[CommonBatch]:
        messages, sampling = self.rates.take_in(decoded)
        flows = [batch for batch in decoded.flows if not batch.scope_count and len(batch)]
        if decoded.protocol in HAVE_OPTIONS and any(map(_has_section, flows)):
            from pyflowx.wire.section import with_sections

            flows = with_sections(flows, self._tunnels)
        if self._split_biflow:
            from pyflowx.conversion.biflow import split

            flows = split(flows, self._registry)
        batches = to_common(replace(decoded, messages=messages, flows=flows), sampling)
        if self._further is not None:
            for batch, source in zip(batches, flows, strict=True):
                batch.columns.update(self._further.of(source))
        if self._scaled:
            for batch in batches:
                scale(batch)
        return batches


def _has_section(flows: FlowBatch) -> bool:
    return any(field.element.id in _SECTIONS and field.element.pen == IANA_PEN for field in flows.fields)


def scale(batch: CommonBatch) -> None:
    """Octets and packets times the sampling rate (1 where it is null), at most what fits into 64 bits."""
    rate = batch.columns.get("sampling_rate")
    if rate is None:
        return
    rates = rate.values.astype(np.uint64)
    rates = np.maximum(rates if rate.valid is None else np.where(rate.valid, rates, 1), 1)
    for name in ("bytes", "packets"):
        values = batch.columns[name].values
        scaled = np.where(values > _U64_MAX // rates, _U64_MAX, values * rates)
        batch.columns[name] = batch.columns[name]._replace(values=scaled)
