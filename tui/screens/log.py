"""The screen Log."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class LogView(View):
    title: ClassVar[str] = "Log"
    key: ClassVar[str] = "8"
