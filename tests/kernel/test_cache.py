"""Compiled programs in files: what is found again, what is not trusted, and a host without a compiler."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from glob import glob
from pathlib import Path

import demo
import pytest
from exports import COLLECTOR, HERE, attached, export

from pyflowx.errors import ConfigError, KernelError
from pyflowx.kernel import cache, compiler
from pyflowx.kernel.builds import all_builds
from pyflowx.kernel.cache import Build, Entry
from pyflowx.kernel.compiler import compile_programs, find_compiled, source_folder, toolchain
from pyflowx.kernel.programs import FILES

ENTRY = Entry({"bcc": "1.2", "headers": "of 6.1"}, {"one": bytes(range(16)), "two": bytes(8)})


@pytest.fixture
def build(tmp_path):
    source = tmp_path / "some.c"
    source.write_text("int one(void *ctx) { return 1; } int two(void *ctx) { return 2; }\n")
    return Build(source, ("one", "two"), ("A", "B=1"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache; nothing is found elsewhere."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.delenv("PYFLOWX_PROGRAMS", raising=False)
    monkeypatch.setattr(cache, "SYSTEM_FOLDER", tmp_path / "nowhere")
    return tmp_path / "cache"


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_what_was_written_is_read(folder, build):
    cache.write(folder, build, ENTRY)
    assert cache.read(folder, build) == ENTRY
    path = only_file(folder)
    assert path.stat().st_mode & 0o777 & ~0o644 == 0
    manifest = json.loads(path.read_bytes().partition(b"\n")[0])
    assert manifest["made_with"] == ENTRY.made_with
    assert manifest["macros"] == ["A", "B=1"]


def test_the_name_says_what_makes_other_code(build, monkeypatch, tmp_path):
    names = {build.file_name(), build._replace(names=("one",)).file_name(), build._replace(macros=("A",)).file_name()}
    build.file.write_text("int one(void *ctx) { return 3; }\n")
    names.add(build.file_name())
    headers = tmp_path / "bpf"
    headers.mkdir()
    monkeypatch.setattr(cache, "source_folder", lambda: headers)
    for content in ("#define A 1\n", "#define A 2\n"):
        (headers / "a.h").write_text(content)
        names.add(build.file_name())
    monkeypatch.setattr("platform.machine", lambda: "mips")
    names.add(build.file_name())
    assert len(names) == 7
    assert build._replace(macros=("B=1", "A")).file_name() in names  # their order says nothing


DAMAGE = {
    "empty": lambda octets: b"",
    "cut": lambda octets: octets[:-8],
    "longer": lambda octets: octets + bytes(8),
    "a bit": lambda octets: octets[:-1] + bytes([octets[-1] ^ 1]),
    "no manifest": lambda octets: octets.partition(b"\n")[2],
    "no object": lambda octets: b"[]\n" + octets.partition(b"\n")[2],
    "another format": lambda octets: octets.replace(b'"format": 1', b'"format": 0'),
    "another length": lambda octets: octets.replace(b'"one": 16', b'"one": 12'),
    "a length that is none": lambda octets: octets.replace(b'"one": 16', b'"one": []'),
    "a program less": lambda octets: octets.replace(b'"one"', b'"uno"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_not_there(folder, build, damage):
    cache.write(folder, build, ENTRY)
    path = only_file(folder)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    assert cache.read(folder, build) is None


def link(path):
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


UNSAFE = {
    "the file, by its group": lambda path: path.chmod(0o664),
    "the file, by all": lambda path: path.chmod(0o646),
    "the folder": lambda path: path.parent.chmod(0o777),
    "a link": link,
}


@pytest.mark.parametrize("change", UNSAFE.values(), ids=UNSAFE)
def test_what_others_could_write_is_not_loaded(folder, build, change):
    cache.write(folder, build, ENTRY)
    path = only_file(folder)
    change(path)
    assert cache.read(folder, build) is None


@pytest.mark.kernel
@pytest.mark.parametrize("whose", ["file", "folder"])
def test_what_belongs_to_others_is_not_loaded(folder, build, whose):
    cache.write(folder, build, ENTRY)
    os.chown(folder if whose == "folder" else only_file(folder), 65534, 65534)
    assert cache.read(folder, build) is None


def test_the_cache_is_bounded(folder, build):
    for number in range(5):
        cache.write(folder, build._replace(macros=(f"N={number}",)), ENTRY)
        os.utime(folder / build._replace(macros=(f"N={number}",)).file_name(), (number, number))
    (folder / f".{build.file_name()}.77.part").touch()
    os.utime(folder / f".{build.file_name()}.77.part", (0, 0))
    assert cache.read(folder, build._replace(macros=("N=0",))) == ENTRY  # used: young again
    cache.remove_old(folder, keep=3)
    left = {path.name for path in folder.iterdir()}
    assert left == {build._replace(macros=(f"N={number}",)).file_name() for number in (0, 3, 4)}


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cache.cache_folder() == Path("/var/cache/pyflowx")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "pyflowx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache.cache_folder() == Path("/home/somebody/.cache/pyflowx")


def test_a_chosen_folder_must_be_ours(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PYFLOWX_PROGRAMS", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"No such file.*pyflowx compile -o DIR"):
        cache.given_folders()
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    monkeypatch.setenv("PYFLOWX_PROGRAMS", str(chosen))
    assert cache.given_folders()[0] == chosen
    chosen.chmod(0o777)
    with pytest.raises(ConfigError, match="others cannot write"):
        cache.given_folders()


def test_another_compiler_makes_it_anew_and_none_takes_what_there_is(folder, build, monkeypatch):
    cache.write(folder, build, ENTRY)
    monkeypatch.setattr(compiler, "toolchain", lambda: {**ENTRY.made_with})
    assert find_compiled(build) == ENTRY
    monkeypatch.setattr(compiler, "toolchain", lambda: {**ENTRY.made_with, "bcc": "1.3"})
    assert find_compiled(build) is None
    monkeypatch.setattr(compiler, "toolchain", lambda: None)
    assert find_compiled(build) == ENTRY
    given = folder.parent / "given"
    given.mkdir()
    only_file(folder).rename(given / build.file_name())
    monkeypatch.setattr(compiler, "toolchain", lambda: {"bcc": "1.3", "headers": "of 6.12"})
    monkeypatch.setenv("PYFLOWX_PROGRAMS", str(given))
    assert find_compiled(build) == ENTRY


@pytest.mark.kernel
def test_it_is_compiled_once(folder, build, monkeypatch):
    first = compile_programs(*build)
    assert [len(code) % 8 for code in first.values()] == [0, 0]
    assert cache.read(folder, build).made_with == toolchain()
    monkeypatch.setattr(compiler, "compile_build", lambda _: pytest.fail("compiled again"))
    assert compile_programs(*build) == first


@pytest.mark.kernel
def test_without_a_place_for_it_it_is_compiled_all_the_same(build, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file"))
    assert set(compile_programs(*build)) == {"one", "two"}


def test_every_program_is_compiled_beforehand():
    found = {
        (source.name, name)
        for source in source_folder().glob("*.c")
        for name in re.findall(r"^int (pyflowx_\w+)\(", source.read_text(), re.MULTILINE)
    }
    assert len(found) >= 5
    assert {(build.file.name, name) for build in all_builds() for name in build.names} == found
    assert len({build.file_name() for build in all_builds()}) == len(list(all_builds()))


# --- a host without a compiler -------------------------------------------------------------------------------------


def hidden():
    """What a host without BCC, LLVM and kernel headers does not have, as words of mount."""
    folders = [*glob("/usr/lib/python3*/dist-packages/bcc"), "/usr/src", "/lib/modules"]
    for path in folders:
        if os.path.isdir(path):
            yield ["-t", "tmpfs", "none", path]
    for pattern in ("libbcc.so*", "libclang*.so*", "libLLVM*.so*"):
        for path in glob(f"/usr/lib/*/{pattern}"):
            if not os.path.islink(path):
                yield ["--bind", "/dev/null", path]


@pytest.fixture
def bare(tmp_path):
    """Begins a command for which none of that is there."""
    script = tmp_path / "bare.sh"
    mounts = "".join(f"mount {' '.join(words)}\n" for words in hidden())
    script.write_text(f'set -e\n{mounts}exec "$@"\n')
    return ["unshare", "--mount", "sh", str(script)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The programs of one configuration, as pyflowx compile would write them."""
    folder = tmp_path_factory.mktemp("programs")
    for file, names in FILES.items():
        build = Build(source_folder() / file, names, ())
        cache.write(folder, build, Entry(toolchain(), compile_programs(*build)))
    return folder


def run(bare, *words, **environment):
    command = [*bare, sys.executable, "-m", "pyflowx", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.kernel
def test_without_a_compiler_the_way_is_named(bare, tmp_path):
    done = run(bare, "export", "-i", "lo", "--dry-run", CACHE_DIRECTORY=str(tmp_path / "empty"))
    assert done.returncode == KernelError.exit_code
    assert "install linux-headers-amd64" in done.stderr or "install python3-bpfcc" in done.stderr
    assert "pyflowx compile -o DIR" in done.stderr


@pytest.mark.kernel
def test_a_host_without_a_compiler_meters(stack, bare, programs, tmp_path):
    environment = ("env", f"CACHE_DIRECTORY={tmp_path}/empty")
    words = ("-i", "wire", "-H", COLLECTOR, "--programs", str(programs))
    program = demo.Program(HERE, "export", *words, prefix=[*environment, *bare])
    stack.callback(program.kill)
    program.wait_for("metering")
    assert len(attached()) >= 1
    maps = Path(f"/proc/{program.process.pid}/maps").read_text()
    assert "numpy" in maps
    assert not re.search("libLLVM|libclang|libbcc", maps)


@pytest.mark.kernel
def test_a_warm_start_loads_no_compiler(stack):
    export(stack).kill()
    program = export(stack)
    maps = Path(f"/proc/{program.process.pid}/maps").read_text()
    assert "numpy" in maps
    assert not re.search("libLLVM|libclang|libbcc", maps)
