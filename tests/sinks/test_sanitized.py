"""The tests of the compiled modules once more, on builds that stops at memory errors and undefined behaviour."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SINKS = HERE.parents[1] / "pyflowx" / "sinks"
RUN = """
import importlib.util, sys
import pytest
import pyflowx.sinks
spec = importlib.util.spec_from_file_location("pyflowx.sinks." + sys.argv[4], sys.argv[1])
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", sys.argv[3]]
sys.exit(pytest.main([*options, sys.argv[2]]))
"""


@pytest.mark.parametrize(("module", "tests"), [("_rows", "test_rows.py"), ("_codes", "test_codes.py")])
def test_under_sanitizers(tmp_path: Path, module: str, tests: str) -> None:
    library = tmp_path / f"{module}.abi3.so"
    flags = ["-shared", "-fPIC", "-O1", "-g", "-std=c11", "-DPy_LIMITED_API=0x030B0000"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(["gcc", *flags, include, str(SINKS / f"{module}.c"), "-o", str(library)], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    environment = os.environ | {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps much until its end
        "PYTHONMALLOC": "malloc",  # each object its own block, so that its neighbours are guarded
    }
    arguments = [str(library), str(HERE / tests), str(HERE.parents[1]), module]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
