"""What an exporter may still do when it is attached: tried in a process of its own, as there is no way back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyflowx
from pyflowx.errors import ConfigError
from pyflowx.privileges import find_user, needed

CODE = """
import json, os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy
from pyflowx.privileges import drop, find_user
drop(find_user(sys.argv[1]) if len(sys.argv) > 1 else None)
tasks = []
for task in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{task}/status") as lines:
        tasks.append(dict(line.rstrip("\\n").split(":", 1) for line in lines))
print(json.dumps(tasks))
"""


def status(*words):
    done = subprocess.run([sys.executable, "-c", CODE, *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.kernel
@pytest.mark.parametrize("user", [[], ["nobody"], ["65534"]])
def test_only_the_needed_capabilities_stay_in_any_thread(user):
    assert os.geteuid() == 0
    for task in status(*user):
        assert {int(task[name], 16) for name in ("CapPrm", "CapEff")} == {needed()}
        assert int(task["CapInh"], 16) == int(task["CapAmb"], 16) == 0
        assert int(task["CapBnd"], 16) & ~needed() == 0
        assert task["NoNewPrivs"].strip() == "1"
        uid = find_user(user[0]).pw_uid if user else 0
        assert set(task["Uid"].split()) == {str(uid)}
        if user:
            assert task["Groups"].strip() == ""


def test_a_user_that_is_not_there():
    with pytest.raises(ConfigError, match="--user"):
        find_user("no-such-user")
    with pytest.raises(ConfigError, match="--user"):
        find_user("4000000000")


@pytest.mark.kernel
def test_a_user_who_may_not_read_our_modules_is_refused(tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    shutil.copytree(Path(pyflowx.__file__).parent, private / "pyflowx", ignore=shutil.ignore_patterns("*.c", "*.so"))
    code = "from pyflowx.privileges import drop, find_user; drop(find_user('nobody'))"
    env = {**os.environ, "PYTHONPATH": str(private)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/")
    assert done.returncode and f"cannot read {private}/pyflowx; install pyflowx where all can" in done.stderr
