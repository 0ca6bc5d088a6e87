"""The screen Flows."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class FlowsView(View):
    title: ClassVar[str] = "Flows"
    key: ClassVar[str] = "1"
