"""The screen Metrics."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class MetricsView(View):
    title: ClassVar[str] = "Metrics"
    key: ClassVar[str] = "6"
