"""Fuzzing with atheris: ``python tests/fuzz/fuzz.py SECONDS [TARGET...]``, or ``make fuzz SECONDS=60``.

Every target runs in a process of its own for that long. The corpus is kept in ``.fuzz/TARGET/``, an input that breaks
the invariant as ``.fuzz/TARGET.crash-...``: ``python tests/fuzz/fuzz.py TARGET FILE`` runs it again.
The folder that ``PYFLOWX_VECTORS`` names, if any, gives more seeds: files of export messages.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

KEPT = Path(__file__).parents[2] / ".fuzz"
MAX_LENGTH = 4096  # octets of an input: longer ones find nothing more, but slower


def write_seeds(target: str) -> Path:
    """The corpus of a target: what earlier runs found, good inputs, real messages."""
    from seeds import seeds
    from targets import REPAIR, join

    corpus = KEPT / target
    corpus.mkdir(parents=True, exist_ok=True)
    made = seeds(target)
    vectors = sorted(Path(os.environ.get("PYFLOWX_VECTORS", corpus)).glob("*.dat"))
    made += [join([path.read_bytes()[: MAX_LENGTH - 16]], 1, REPAIR) for path in vectors]
    for seed in made:
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    return corpus


def fuzz(target: str, seconds: str) -> None:
    """Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["pyflowx"], enable_loader_override=False):
        from targets import TARGETS

        import pyflowx.wire.ipfix
        import pyflowx.wire.netflow5
        import pyflowx.wire.netflow9
        import pyflowx.wire.sflow  # noqa: F401

    corpus = write_seeds(target)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", "-timeout=20", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={corpus}.", "-print_final_stats=1"]
    warnings.simplefilter("error")
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[target])
    atheris.Fuzz()


def replay(target: str, path: str) -> None:
    from targets import TARGETS

    warnings.simplefilter("error")
    TARGETS[target](Path(path).read_bytes())


def main(arguments: list[str]) -> int:
    """The status to exit with: 0 where no target was broken."""
    if len(arguments) == 3 and arguments[0] == "one":
        fuzz(*arguments[1:])  # before anything of ours is imported
    from targets import TARGETS

    if arguments and arguments[0] in TARGETS:
        replay(*arguments)
        return 0
    broken = []
    for target in arguments[1:] or TARGETS:
        print(f"== {target}", flush=True)
        command = [sys.executable, __file__, "one", target, arguments[0]]
        if subprocess.run(command, check=False).returncode:
            broken.append(target)
    print(f"broken: {', '.join(broken)}" if broken else "no target was broken")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["60"]))
