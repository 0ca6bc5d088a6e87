"""The screen Templates."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class TemplatesView(View):
    title: ClassVar[str] = "Templates"
    key: ClassVar[str] = "4"
