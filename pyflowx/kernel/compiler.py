"""Compiles the programs of ``bpf/`` with BCC, which is used for nothing else."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType

from pyflowx.errors import KernelError
from pyflowx.kernel.headers import Headers, find_headers

# Where distributions install Python packages, which a virtual environment does not see.
_SYSTEM_PACKAGES = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
)
_ERROR_LINES = 12  # of the compiler, in an error


def bcc() -> ModuleType:
    """The module bcc: this interpreter's, else the system's."""
    try:
        return importlib.import_module("bcc")
    except ImportError:
        pass
    for pattern in _SYSTEM_PACKAGES:
        for folder in sorted(Path("/").glob(f"{pattern[1:]}/bcc")):
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


def source_folder() -> Path:
    """The folder of our C sources."""
    return Path(str(resources.files("pyflowx_bpf")))


def compile_programs(file: Path, names: Sequence[str], macros: Sequence[str] = ()) -> dict[str, bytes]:
    """The instructions of each program ``names`` of a C file; ``macros`` as ``NAME`` or ``NAME=value``."""
    headers = find_headers()
    cflags = [f"-I{source_folder()}", *(f"-D{macro}" for macro in macros), *headers.cflags]
    with tempfile.TemporaryFile() as log:
        try:
            with _kernel_source(headers), _standard_error(log.fileno()):
                module = bcc().BPF(src_file=os.fsencode(file), cflags=cflags)
        except Exception as error:  # what BCC raises, all of it
            if isinstance(error, KernelError):
                raise
            log.seek(0)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            where = headers.source or "the running kernel's own"
            head = f"BCC cannot compile {file.name} with headers {where}: {error}"
            raise KernelError("\n  ".join([head, *lines[:_ERROR_LINES]])) from error
    try:
        return {name: module.dump_func(name.encode()) for name in names}
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
