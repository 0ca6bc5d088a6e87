"""The command line as a user meets it: a real process, its streams and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys


def pyflowx(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pyflowx", *arguments], capture_output=True, text=True, check=False)


def test_help_names_every_verb_and_gives_examples() -> None:
    out = pyflowx("--help")
    assert out.returncode == 0 and not out.stderr
    for verb in ("collect", "elements", "export", "generate"):
        assert f"\n  {verb} " in out.stdout
        help_text = pyflowx(verb, "--help")
        assert help_text.returncode == 0, help_text.stderr
        assert "Examples:" in help_text.stdout


def test_an_unknown_verb_or_option_is_status_2() -> None:
    for arguments in (["nosuch"], ["collect", "--nosuch"]):
        out = pyflowx(*arguments)
        assert out.returncode == 2 and not out.stdout and "nosuch" in out.stderr


def test_elements_by_name_id_part_and_vendor() -> None:
    by_name, by_id = pyflowx("elements", "octetDeltaCount"), pyflowx("elements", "1")
    assert by_name.returncode == 0 and by_name.stdout == by_id.stdout
    assert by_name.stdout.splitlines()[1].split() == [
        "0", "1", "octetDeltaCount", "unsigned64", "deltaCounter", "octets", "current",
    ]  # fmt: skip
    assert len(pyflowx("elements", "TCP").stdout.splitlines()) > 10
    vendor = json.loads(pyflowx("elements", "--json", "9/12236").stdout)
    assert (vendor["name"], vendor["data_type"]) == ("clientIPv4Address", "ipv4Address")
    assert "reversePacketDeltaCount" in pyflowx("elements", "29305/2").stdout
    assert len(pyflowx("elements").stdout.splitlines()) >= 1279


def test_elements_not_found_says_what_is_near() -> None:
    out = pyflowx("elements", "octetDelatCount")
    assert out.returncode == 2 and not out.stdout
    assert "octetDeltaCount" in out.stderr
