"""Finding header files and bcc; what the compiler says."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest

from pyflowx.errors import KernelError
from pyflowx.kernel import compiler
from pyflowx.kernel.compiler import compile_programs, source_folder
from pyflowx.kernel.headers import find_headers

KCONFIG, AUTOCONF = "include/linux/kconfig.h", "include/generated/autoconf.h"


def tree(folder, *files):
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def split(root, version):
    """Debian's two packages of one version; (generated half, common half)."""
    common = tree(root / f"usr/src/linux-headers-{version}-common", KCONFIG)
    generated = tree(root / f"usr/src/linux-headers-{version}-amd64", AUTOCONF)
    (generated / "Makefile").write_text(f"include {common}/Makefile\n")
    return generated, common


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)


def test_the_users_choice_comes_first(tmp_path, monkeypatch):
    tree(tmp_path / "lib/modules" / platform.release() / "build", KCONFIG, AUTOCONF)
    chosen = tree(tmp_path / "mine", KCONFIG, AUTOCONF)
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(chosen))
    assert find_headers(tmp_path) == (chosen, ())
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "nowhere"))
    with pytest.raises(KernelError, match="nowhere has no kernel headers; unset it"):
        find_headers(tmp_path)


def test_the_running_kernels_come_before_all_others(tmp_path):
    split(tmp_path, "99.0-1")
    build = tree(tmp_path / "lib/modules" / platform.release() / "build", KCONFIG, AUTOCONF)
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/kheaders.tar.xz").touch()
    assert find_headers(tmp_path) == (build, ())


def test_then_the_kernels_own_copy(tmp_path):
    split(tmp_path, "99.0-1")
    tree(tmp_path / "lib/modules" / platform.release(), "kernel/kernel/kheaders.ko.xz")
    assert find_headers(tmp_path) == (None, ())


def test_then_the_newest_installed(tmp_path):
    split(tmp_path, "6.1.0-9")
    _, newest = split(tmp_path, "6.1.0-56")
    tree(tmp_path / "usr/src/kernels/5.14.0-70.el9.x86_64", KCONFIG, AUTOCONF)
    assert find_headers(tmp_path).source == newest


@pytest.mark.parametrize("half", [0, 1])
def test_debians_halves_find_each_other(tmp_path, monkeypatch, half):
    halves = split(tmp_path, "6.1.0-56")
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(halves[half]))
    source, cflags = find_headers(tmp_path)
    assert source == halves[1]
    assert f"-I{halves[0]}/include" in cflags


def test_a_missing_half_is_named(tmp_path):
    generated, common = split(tmp_path, "6.1.0-56")
    (common / KCONFIG).unlink()
    with pytest.raises(KernelError, match=r"install the package linux-headers-6\.1\.0-56-common"):
        find_headers(tmp_path)


def test_without_any_the_package_is_named(tmp_path):
    with pytest.raises(KernelError, match="install linux-headers-amd64"):
        find_headers(tmp_path)


@pytest.mark.kernel
def test_errors_of_the_compiler_are_shown_and_nothing_is_printed(tmp_path, capfd):
    source = tmp_path / "bad.c"
    source.write_text("int bad(void *ctx) { return nothing; }\n")
    with pytest.raises(KernelError, match=r"(?s)cannot compile bad.c .*use of undeclared identifier 'nothing'"):
        compile_programs(source, ["bad"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.kernel
def test_the_environment_is_left_as_it_was(monkeypatch):
    chosen = str(find_headers().source)
    monkeypatch.setenv("BCC_KERNEL_SOURCE", chosen)
    assert compile_programs(source_folder() / "meter_xdp.c", ["pyflowx_xdp"])
    assert os.environ["BCC_KERNEL_SOURCE"] == chosen


@pytest.mark.kernel
def test_the_systems_bcc_is_found_from_a_virtual_environment():
    """In an interpreter that has no bcc of its own and must not see the system's other packages."""
    code = "import sys; from pyflowx.kernel.compiler import bcc; print(bcc().__file__, len(sys.path))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert re.match(r".*/(dist|site)-packages/bcc/__init__.py", done.stdout)


def test_without_bcc_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bcc", None)
    monkeypatch.setattr(compiler, "_SYSTEM_PACKAGES", ("/nowhere",))
    with pytest.raises(KernelError, match="install python3-bpfcc"):
        compiler.bcc()


def test_every_source_has_its_licence_and_is_formatted():
    sources = sorted([*source_folder().glob("*.c"), *source_folder().glob("*.h")])
    assert len(sources) >= 5
    for source in sources:
        assert "SPDX-License-Identifier: GPL-2.0-only" in source.read_text().splitlines()[0]
    subprocess.run(["clang-format", "--dry-run", "--Werror", *sources], check=True)
