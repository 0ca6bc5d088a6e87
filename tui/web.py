"""The application in a browser: textual-serve, which runs a process for each page.

The page steers the application, so only pages that we have served may talk to it: a browser says where a script comes
from (``Origin``) and whom it means to talk to (``Host``); on a loopback address the latter has to be one too, which
keeps out names that somebody has pointed there.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyflowx.errors import ConfigError

if TYPE_CHECKING:
    from aiohttp import web

MAX_PAGES = 16
_FONT = re.compile(r"<link[^>]*fonts\.googleapis\.com[^>]*>")


def is_loopback(host: str) -> bool:
    """``localhost``, ``127.0.0.1``, ``::1`` and the like."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(netloc: str) -> str:
    """Without the port."""
    return re.sub(r":\d*$", "", netloc) if not netloc.endswith("]") else netloc


def command_of(arguments: Sequence[str]) -> str:
    """What runs for a page; textual-serve gives it to a shell, so every word is quoted."""
    return shlex.join([sys.executable, "-m", "pyflowx", "tui", *arguments])


def serve(host: str, port: int, arguments: Sequence[str], say: Callable[[str], None]) -> None:
    """Until Ctrl-C. ConfigError where textual-serve is not there, or the address cannot be had."""
    try:
        from aiohttp import web
        from textual_serve.server import Server
    except ImportError as error:
        raise ConfigError("--web needs textual-serve: pip install 'pyflowx[web]'") from error

    class Guarded(Server):
        """Serves pages of our own only, and no more than :data:`MAX_PAGES`."""

        pages = 0

        async def on_startup(self, app: web.Application) -> None:
            """Nothing is said before the address is ours."""

        async def handle_index(self, request: web.Request) -> Any:
            self._check_host(request)
            self.public_url = f"{request.scheme}://{request.host}"
            page: Any = await super().handle_index(request)
            page.text = _FONT.sub("", page.text)  # nobody else is to be asked for anything
            page.headers["Content-Security-Policy"] = "frame-ancestors 'none'"
            return page

        async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
            self._check_host(request)
            if request.headers.get("Origin", "").partition("://")[2] != request.host:
                raise web.HTTPForbidden(text="This page may not talk to pyflowx.")
            if self.pages >= MAX_PAGES:
                raise web.HTTPServiceUnavailable(text=f"{MAX_PAGES} pages are open already.")
            self.pages += 1
            try:
                return await super().handle_websocket(request)
            finally:
                self.pages -= 1

        def _check_host(self, request: web.Request) -> None:
            if is_loopback(host) and not is_loopback(host_of(request.host)):
                raise web.HTTPForbidden(text="This address is for browsers on this host.")

    url = f"http://{'[' + host + ']' if ':' in host else host}:{port}/"
    made = Guarded(command_of(arguments), host, port, title="pyflowx")._make_app()
    try:
        web.run_app(made, host=host, port=port, access_log=None, print=lambda *_: say(f"{url}  (Ctrl-C ends it)"))
    except OSError as error:
        raise ConfigError(f"--web-address {host}:{port}: {error.strerror}; give another") from error
