"""The screen Exporters."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class ExportersView(View):
    title: ClassVar[str] = "Exporters"
    key: ClassVar[str] = "3"
