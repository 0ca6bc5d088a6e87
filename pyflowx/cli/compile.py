"""``pyflowx compile``: the kernel programs for hosts without a compiler."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pyflowx.cli.log import LOG, log_options
from pyflowx.errors import SinkError

EPILOG = """
\b
Examples:
  pyflowx compile -o programs              needs python3-bpfcc and kernel headers, but no privilege
  scp -r programs router:                  any Linux from 5.10 on, with the same processor and version of pyflowx
  sudo pyflowx export -i eth0 --programs programs

\b
Found without an option: /usr/lib/pyflowx/programs, and what the environment variable PYFLOWX_PROGRAMS names.
"""


def programs_option(command: Any) -> Any:
    """Adds --programs to a command that loads kernel programs."""
    return click.option(
        "--programs",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        envvar="PYFLOWX_PROGRAMS",
        metavar="DIR",
        expose_value=False,
        callback=_chosen,
        help="Kernel programs from pyflowx compile: then neither BCC nor kernel headers are needed.",
    )(command)


def _chosen(ctx: click.Context, option: click.Parameter, folder: Path | None) -> None:
    if folder is not None:
        os.environ["PYFLOWX_PROGRAMS"] = str(folder)  # where the kernel room looks


@click.command("compile", epilog=EPILOG, short_help="Compile the kernel programs, for hosts without a compiler.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    show_default="the cache of this host",
    help="Where to put them; made if it is not there.",
)
@log_options
def command(output: Path | None) -> None:
    """Compile the kernel programs for all options, so that a host that has them needs neither BCC nor LLVM nor kernel
    headers, and starts at once."""
    from pyflowx.kernel import cache
    from pyflowx.kernel.builds import all_builds
    from pyflowx.kernel.compiler import compile_build

    folder = output or cache.cache_folder()
    wanted = list(all_builds())
    for number, build in enumerate(wanted, 1):
        entry = compile_build(build)
        try:
            cache.write(folder, build, entry)
        except OSError as error:
            kept = f"{number - 1} of {len(wanted)} files are there"
            raise SinkError(f"{folder}: {error.strerror}; {kept}; give another folder with -o DIR") from error
        LOG.info(f"{number}/{len(wanted)} {build.file.name} {' '.join(build.macros)}".rstrip())
    LOG.info(
        f"{len(wanted)} files in {folder}" + (f"; use them with: pyflowx export --programs {folder}" if output else "")
    )
