"""Finds the kernel header files that BCC needs to compile.

Our programs use only the user API, so the headers of any kernel will do. A tree is usable when it has
``include/linux/kconfig.h``, which BCC includes first, and ``include/generated/autoconf.h``, which that
includes. Debian puts the two in different packages: ``-amd64`` has the generated half, and its
Makefile names the other, ``-common``.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyflowx.errors import KernelError

_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "powerpc", "s390x": "s390"}


class Headers(NamedTuple):
    """Where BCC is to look. ``source`` None: BCC unpacks the kernel's own copy (kheaders)."""

    source: Path | None
    cflags: tuple[str, ...] = ()

    def version(self) -> str:
        """What tells these headers from others: their place, and what their kernel says of itself."""
        if self.source is None:
            return f"kheaders of {platform.release()} {platform.version()}"
        include = Path(self.cflags[0].removeprefix("-I")) if self.cflags else self.source / "include"
        files = (include / "generated" / name for name in ("utsrelease.h", "utsversion.h", "uapi/linux/version.h"))
        lines = [line for file in files if file.exists() for line in file.read_text("utf-8").splitlines()]
        wanted = re.compile("#define (?=UTS_|LINUX_VERSION_CODE)")
        defined = [wanted.sub("", line) for line in lines if wanted.match(line)]
        return ", ".join([str(self.source), *defined])


def find_headers(root: Path = Path("/")) -> Headers:
    """The first that is there: BCC_KERNEL_SOURCE, the running kernel's, kheaders, any installed tree."""
    chosen = os.environ.get("BCC_KERNEL_SOURCE")
    if chosen:
        found = _tree(Path(chosen))
        if found is None:
            raise KernelError(f"BCC_KERNEL_SOURCE={chosen} has no kernel headers; unset it, or name a tree that has")
        return found
    release = platform.release()
    modules = root / "lib/modules" / release
    for path in (modules / "build", modules / "source"):
        found = _tree(path)
        if found is not None:
            return found
    if (root / "sys/kernel/kheaders.tar.xz").exists() or any(modules.glob("kernel/kernel/kheaders.ko*")):
        return Headers(None)
    for path in _installed(root):
        found = _tree(path)
        if found is not None:
            return found
    raise KernelError(
        "no kernel header files, which BCC needs: install linux-headers-amd64 (Debian; linux-headers-generic on "
        "Ubuntu, kernel-devel on Fedora and RHEL) or set BCC_KERNEL_SOURCE; any kernel version will do"
    )


def _installed(root: Path) -> Iterator[Path]:
    """Header trees of other kernels, newest first."""
    trees = [*root.glob("usr/src/linux-headers-*"), *root.glob("usr/src/kernels/*"), *root.glob("lib/modules/*/build")]
    yield from sorted(trees, key=lambda tree: [int(n) for n in re.findall(r"\d+", str(tree))], reverse=True)


def _tree(path: Path) -> Headers | None:
    """Headers at ``path``, with the other half where the tree is split; None where there are none."""
    if (path / "include/generated/autoconf.h").exists():
        if (path / "include/linux/kconfig.h").exists():
            return Headers(path)
        return _split(path)
    if (path / "include/linux/kconfig.h").exists():  # the common half alone: look beside it for the other
        stem = path.resolve().name.removesuffix("common")
        for generated in sorted(path.resolve().parent.glob(f"{stem}*")):
            found = _split(generated)
            if found is not None and found.source is not None and found.source.samefile(path):
                return found
    return None


def _split(generated: Path) -> Headers | None:
    """A generated half together with the common half that its Makefile includes."""
    makefile = generated / "Makefile"
    match = re.search(r"^include (.+)/Makefile$", makefile.read_text(), re.MULTILINE) if makefile.exists() else None
    if match is None or not (generated / "include/generated/autoconf.h").exists():
        return None
    common = Path(match[1])
    if not (common / "include/linux/kconfig.h").exists():
        raise KernelError(f"half of the kernel headers is missing; install the package {common.name}")
    arch = generated / "arch" / _ARCHITECTURES.get(platform.machine(), platform.machine()) / "include/generated"
    parts = (generated / "include", arch, arch / "uapi", generated / "include/generated/uapi")
    return Headers(common, tuple(f"-I{part}" for part in parts))
