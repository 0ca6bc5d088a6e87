"""The screen Top."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class TopView(View):
    title: ClassVar[str] = "Top"
    key: ClassVar[str] = "2"
