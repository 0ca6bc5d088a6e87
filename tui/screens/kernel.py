"""The screen Kernel."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class KernelView(View):
    title: ClassVar[str] = "Kernel"
    key: ClassVar[str] = "7"
