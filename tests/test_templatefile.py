"""Templates kept in a file: read, written, complete at any time."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from pyflowx import templatefile
from pyflowx.batch import PacketBatch
from pyflowx.errors import ConfigError, SinkError
from pyflowx.templatefile import TemplateFile
from pyflowx.wire import Decoder, TemplateLimits

NOW = 1_700_000_000 * 10**9


def template(id: int, element: int = 1) -> bytes:
    body = struct.pack(">HHHHHH", 2, 12, id, 1, element, 4)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 0, 1) + body


def learn(decoder: Decoder, *messages: bytes) -> None:
    decoder.decode(PacketBatch.of(messages), NOW)


def ids(path: Path) -> list[int]:
    return sorted(row["template_id"] for row in json.loads(path.read_bytes())["templates"])


class Reports(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(templatefile.time, "monotonic", lambda: now[0])
    return now


def test_templates_survive_a_restart(tmp_path: Path) -> None:
    path, reports = tmp_path / "templates.json", Reports()
    decoder = Decoder()
    file = TemplateFile(str(path), decoder.templates, reports)
    assert (file.loaded, ids(path)) == (0, [])
    learn(decoder, template(256), template(257))
    file.close()
    after = Decoder()
    again = TemplateFile(str(path), after.templates, reports)
    assert again.loaded == 2 and after.templates.layouts.keys() == decoder.templates.layouts.keys()
    assert reports == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["templates.json"]


def test_the_file_is_written_when_something_changed_and_not_too_often(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "templates.json"
    decoder = Decoder()
    file = TemplateFile(str(path), decoder.templates, Reports())
    learn(decoder, template(256))
    file.keep()
    assert ids(path) == []
    clock[0] += templatefile.WRITE_S
    file.keep()
    assert ids(path) == [256]
    written = path.stat().st_ino
    clock[0] += templatefile.WRITE_S
    learn(decoder, template(256))  # a refresh
    file.keep()
    assert path.stat().st_ino == written
    learn(decoder, template(256, element=2))
    file.keep()
    assert path.stat().st_ino != written
    learn(decoder, template(257))
    file.close()
    assert ids(path) == [256, 257]


def test_a_large_file_is_written_less_often(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, decoder = tmp_path / "templates.json", Decoder()
    dump = decoder.templates.dump

    def slow() -> bytes:
        clock[0] += 3.0
        return dump()

    monkeypatch.setattr(decoder.templates, "dump", slow)
    file = TemplateFile(str(path), decoder.templates, Reports())
    learn(decoder, template(256))
    clock[0] += 59.0
    file.keep()
    assert ids(path) == []
    clock[0] += 1.0
    file.keep()
    assert ids(path) == [256]


def test_where_templates_expire_the_file_keeps_up_with_their_refreshes(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "templates.json"
    decoder = Decoder(limits=TemplateLimits(timeout_ns=10**12))
    file = TemplateFile(str(path), decoder.templates, Reports())
    learn(decoder, template(256))
    clock[0] += 10.0
    file.keep()
    decoder.decode(PacketBatch.of([template(256)]), NOW + 10**11)
    clock[0] += 59.0
    file.keep()
    assert json.loads(path.read_bytes())["templates"][0]["refreshed_ns"] == NOW
    clock[0] += 1.0
    file.keep()
    assert json.loads(path.read_bytes())["templates"][0]["refreshed_ns"] == NOW + 10**11


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 2}', b"\xff\xfe", b'{"format": 1, "templates": 5}'])
def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "templates.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--template-file .*templates\.json: not a template file of ours"):
        TemplateFile(str(path), Decoder().templates, Reports())
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; expected a folder that can be written to"):
        TemplateFile(str(tmp_path / "missing" / "templates.json"), Decoder().templates, Reports())
    with pytest.raises(ConfigError, match="Is a directory; expected a file that can be read"):
        TemplateFile(str(tmp_path), Decoder().templates, Reports())


def test_a_write_that_fails_is_reported_once_and_tried_again(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reports, decoder = tmp_path / "templates.json", Reports(), Decoder()
    file = TemplateFile(str(path), decoder.templates, reports)
    learn(decoder, template(256))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(templatefile.os, "fsync", full)
        for _ in range(3):
            clock[0] += templatefile.WRITE_S
            file.keep()
        assert reports == [f"cannot write {path}: No space left on device; tried again every 5 s"]
        assert file.failures == 3
        assert ids(path) == []  # the one before is whole
        assert [entry.name for entry in tmp_path.iterdir()] == ["templates.json"]
        with pytest.raises(SinkError, match="the Templates of the last write are kept"):
            file.close()
    clock[0] += templatefile.WRITE_S
    file.keep()
    assert reports[1:] == [f"{path}: written again"]
    assert ids(path) == [256]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    link.symlink_to(real)
    TemplateFile(str(link), Decoder().templates, Reports()).close()
    assert link.is_symlink() and ids(real) == []
