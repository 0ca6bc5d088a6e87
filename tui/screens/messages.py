"""The screen Messages."""

from __future__ import annotations

from typing import ClassVar

from .base import View


class MessagesView(View):
    title: ClassVar[str] = "Messages"
    key: ClassVar[str] = "5"
