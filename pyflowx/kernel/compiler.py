"""Compiles the programs of ``bpf/`` with BCC, which is used for nothing else, or finds them compiled."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from pyflowx.errors import KernelError
from pyflowx.kernel import cache
from pyflowx.kernel.cache import Build, Entry, source_folder
from pyflowx.kernel.headers import Headers, find_headers

# Where distributions install Python packages, which a virtual environment does not see.
_SYSTEM_PACKAGES = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
)
_ERROR_LINES = 12  # of the compiler, in an error
ELSEWHERE = "or compile on another machine: pyflowx compile -o DIR there, and --programs DIR here"

__all__ = ["ELSEWHERE", "bcc", "compile_build", "compile_programs", "find_compiled", "source_folder", "toolchain"]


def bcc() -> ModuleType:
    """The module bcc: this interpreter's, else the system's."""
    try:
        return importlib.import_module("bcc")
    except ImportError:
        pass
    for folder in _system_bcc():
        spec = importlib.util.spec_from_file_location(
            "bcc", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules["bcc"] = module
        try:
            spec.loader.exec_module(module)
        except (ImportError, OSError) as error:
            del sys.modules["bcc"]
            raise KernelError(f"the system's bcc in {folder} does not work here: {error}") from error
        return module
    raise KernelError("bcc is not installed: install python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora, RHEL)")


def _system_bcc() -> Iterator[Path]:
    for pattern in _SYSTEM_PACKAGES:
        yield from sorted(Path("/").glob(f"{pattern[1:]}/bcc"))


def toolchain() -> dict[str, str] | None:
    """With what this host would compile, without loading any of it; None where something is missing."""
    with contextlib.suppress(KernelError, ImportError, ValueError):
        own = importlib.util.find_spec("bcc")
        folder = Path(own.origin).parent if own is not None and own.origin else next(_system_bcc(), None)
        if folder is not None:
            version = folder / "version.py"
            text = version.read_text("utf-8") if version.exists() else ""
            return {"bcc": text.partition("=")[2].strip(" '\"\n") or "unknown", "headers": find_headers().version()}
    return None


def compile_programs(file: Path, names: Sequence[str], macros: Sequence[str] = ()) -> dict[str, bytes]:
    """The instructions of each program ``names`` of a C file; ``macros`` as ``NAME`` or ``NAME=value``.

    Compiled only where no file has them: in the folders of programs that were compiled elsewhere, or in our own
    cache, where this host's compiler made them with its header files or the host has none.
    """
    build = Build(file, tuple(names), tuple(macros))
    entry = find_compiled(build)
    if entry is None:
        entry = compile_build(build)
        folder = cache.cache_folder()
        with contextlib.suppress(OSError):  # no room for it, or not ours: then the next start compiles again
            cache.write(folder, build, entry)
            cache.remove_old(folder)
    return entry.programs


def find_compiled(build: Build) -> Entry | None:
    """The files' part of :func:`compile_programs`."""
    for folder in cache.given_folders():
        entry = cache.read(folder, build)
        if entry is not None:
            return entry
    entry = cache.read(cache.cache_folder(), build)
    return entry if entry is not None and toolchain() in (None, entry.made_with) else None


def compile_build(build: Build) -> Entry:
    """Compile in any case."""
    try:
        headers = find_headers()
        bcc()
    except KernelError as error:
        raise KernelError(f"{error}; {ELSEWHERE}") from error
    cflags = [f"-I{source_folder()}", *(f"-D{macro}" for macro in build.macros), *headers.cflags]
    with tempfile.TemporaryFile() as log:
        try:
            with _kernel_source(headers), _standard_error(log.fileno()):
                module = bcc().BPF(src_file=os.fsencode(build.file), cflags=cflags)
        except Exception as error:  # what BCC raises, all of it
            log.seek(0)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            where = headers.source or "the running kernel's own"
            head = f"BCC cannot compile {build.file.name} with headers {where}: {error}"
            raise KernelError("\n  ".join([head, *lines[:_ERROR_LINES]])) from error
    try:
        return Entry(toolchain() or {}, {name: module.dump_func(name.encode()) for name in build.names})
    finally:
        module.cleanup()


@contextlib.contextmanager
def _kernel_source(headers: Headers) -> Iterator[None]:
    """BCC reads the place of the headers from the environment, once a compilation."""
    before = os.environ.pop("BCC_KERNEL_SOURCE", None)
    if headers.source is not None:
        os.environ["BCC_KERNEL_SOURCE"] = str(headers.source)
    try:
        yield
    finally:
        os.environ.pop("BCC_KERNEL_SOURCE", None)
        if before is not None:
            os.environ["BCC_KERNEL_SOURCE"] = before


@contextlib.contextmanager
def _standard_error(target: int) -> Iterator[None]:
    """The compiler writes to descriptor 2, whatever Python's sys.stderr is."""
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(target, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
