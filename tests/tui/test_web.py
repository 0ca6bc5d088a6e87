"""``pyflowx tui --web``: who may talk to it, what it serves, a page in a real browser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pyflowx_tui.web import command_of, host_of, is_loopback

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """``127.0.0.1:port`` of the demo."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "pyflowx", "tui", "--demo", "--web", "--web-address", address, "--screen", "top"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert f"http://{address}/" in process.stderr.readline()
        yield address
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate()
    assert process.returncode == 0 and "Traceback" not in rest


async def ask(address: str, path: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}", headers=headers) as response:
        return response.status, await response.text()


def test_the_page_asks_nobody_else(served: str) -> None:
    status, page = asyncio.run(ask(served, "/"))
    assert status == 200
    assert set(re.findall(r"(?:src|href|url\()=?[\"']?(?:https?|wss?):?//([^/\"')]+)", page)) == {served}


def test_a_name_that_points_here_is_refused(served: str) -> None:
    assert asyncio.run(ask(served, "/", Host="rebound.example:8000"))[0] == 403
    assert asyncio.run(ask(served, "/", Host="localhost:8000"))[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "", "null", "http://localhost:1"])
def test_a_foreign_page_may_not_steer_it(served: str, origin: str) -> None:
    async def connect() -> int:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"http://{served}/ws", headers={"Origin": origin} if origin else {})
            return caught.value.status

    assert asyncio.run(connect()) == 403


def test_our_own_page_gets_the_application(served: str) -> None:
    async def read() -> bytes:
        shown = b""
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"http://{served}/ws?width=100&height=30", headers={"Origin": f"http://{served}"}
            ) as page,
        ):
            async for message in page:
                if message.type == aiohttp.WSMsgType.BINARY:
                    shown += message.data
                    if b"demo collector" in shown and b"Share" in shown:
                        break
        return shown

    assert asyncio.run(read())


def test_a_page_ends_with_a_server_that_was_killed() -> None:
    command = [sys.executable, "-m", "pyflowx", "tui", "--demo"]
    web = {**os.environ, "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=web) as page:
        assert page.stdin is not None and page.stdout is not None
        assert page.stdout.readline() == b"__GANGLION__\n"
        page.stdin.close()
        page.stdout.read()
        assert page.wait() == 0


def test_errors() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for given, message in ((address, "in use"), ("8000", "expected a host and a port"), ("a:b", "expected a host")):
            command = [sys.executable, "-m", "pyflowx", "tui", "--demo", "--web", "--web-address", given]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 2 and message in ended.stderr


def test_without_textual_serve_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "textual_serve").mkdir()
    (tmp_path / "textual_serve" / "__init__.py").write_text("raise ImportError\n")
    command = [sys.executable, "-m", "pyflowx", "tui", "--demo", "--web"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)})
    assert ended.returncode == 2 and "pip install 'pyflowx[web]'" in ended.stderr


def test_words_are_quoted_for_the_shell() -> None:
    command = command_of(["--connect", "/tmp/a b;$(reboot)'\"`x`"])
    out = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "/tmp/a b;$(reboot)'\"`x`"


def test_loopback() -> None:
    assert all(
        is_loopback(host_of(each)) for each in ("localhost:8000", "127.0.0.1:1", "[::1]:80", "127.8.0.1", "[::1]")
    )
    assert not any(
        is_loopback(host_of(each)) for each in ("example.org:80", "localhost.evil.example", "192.0.2.1:8000", "")
    )


# --- a real browser ---------------------------------------------------------------------------------------------------


class Browser:
    """Chromium, steered by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0

    async def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        async for message in self._socket:
            answer = json.loads(message.data)
            if answer.get("id") == self._number:
                return answer["result"]
        raise AssertionError("the browser has gone")

    async def evaluate(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")


@contextlib.contextmanager
def chromium(folder: Path, url: str) -> Iterator[int]:
    """The port of its DevTools."""
    assert BROWSER is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
    quiet = ("--disable-background-networking", "--disable-component-update", "--window-size=1200,800")
    devtools = ("--remote-debugging-port=0", f"--user-data-dir={folder}")
    with subprocess.Popen([BROWSER, *flags, *quiet, *devtools, url], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"DevTools listening on ws://[^:]+:(\d+)/", line)
            if found:
                break
        else:
            raise AssertionError("no DevTools")
        yield int(found[1])
        process.terminate()
        process.communicate()


# Of a picture: how many colours there are, and whether each quarter (from the top) shows anything on its left half.
LOOK = """(async () => {
    const image = new Image(); image.src = "data:image/png;base64,%s"; await image.decode();
    const canvas = document.createElement("canvas"), width = image.width, height = image.height;
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
    const colours = data => new Set(new Uint32Array(data.data.buffer)).size;
    const part = quarter => colours(context.getImageData(0, quarter * height / 4 | 0, width / 2 | 0, height / 4 | 0));
    return [colours(context.getImageData(0, 0, width, height)), ...[0, 1, 2, 3].map(part)];
})()"""


@pytest.mark.skipif(BROWSER is None, reason="probe: no chromium on the PATH (apt install chromium)")
def test_a_page_in_a_browser(served: str, tmp_path: Path) -> None:
    """The application comes up and paints its rows: many colours, over all of the page."""

    async def look(port: int) -> bytes:
        async with aiohttp.ClientSession() as session:
            pages: list[Any] = []
            while not pages:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    pages = [page for page in await response.json() if page["url"].startswith(f"http://{served}")]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as devtools:
                browser = Browser(devtools)
                while not await browser.evaluate("document.body.classList.contains('-first-byte')"):
                    await asyncio.sleep(0.1)
                while True:
                    shot = (await browser.call("Page.captureScreenshot", format="png"))["data"]
                    colours, *quarters = await browser.evaluate(LOOK % shot)
                    if colours > 50 and min(quarters) > 5:
                        return base64.b64decode(shot)
                    await asyncio.sleep(0.3)

    with chromium(tmp_path / "profile", f"http://{served}/") as port:
        shot = asyncio.run(look(port))
    assert shot.startswith(b"\x89PNG")
    (tmp_path / "page.png").write_bytes(shot)
