"""The hardening check, seen to fail: one program for each missing flag."""
import importlib.util
import subprocess
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("check_hardening", Path(__file__).with_name("check_hardening.py"))
hardening = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hardening)

# An array and a string function, so that there is something to protect and to fortify.
SOURCE = """
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) { char name[16]; strcpy(name, argv[argc - 1]); return puts(name); }
"""
GOOD = ["-O2", "-fPIE", "-pie", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2",
        "-Wl,-z,relro,-z,now,-z,noexecstack"]


def build(tmp_path, flags):
    (tmp_path / "p.c").write_text(SOURCE)
    subprocess.run(["cc", "-w", *flags, "p.c", "-o", "p"], cwd=tmp_path, check=True)
    return list(hardening.judge(tmp_path / "p", True, small=1))


def test_a_good_program_passes(tmp_path):
    assert build(tmp_path, GOOD) == []


@pytest.mark.parametrize("flags,words", [
    ([*GOOD, "-Wl,-z,lazy"], "binds lazily"),
    ([*GOOD, "-Wl,-z,norelro"], "no RELRO"),
    ([*GOOD, "-Wl,-z,execstack"], "executable stack"),
    ([*GOOD, "-fno-pie", "-no-pie"], "not position independent"),
    ([*GOOD, "-fno-stack-protector"], "no stack protector"),
    ([*GOOD, "-U_FORTIFY_SOURCE"], "no fortified call"),
    ([*GOOD, "-Wl,-rpath,/opt/x"], "search path"),
])
def test_each_missing_flag_is_named(tmp_path, flags, words):
    assert any(words in problem for problem in build(tmp_path, flags))


@pytest.mark.parametrize("flags,missing", [(["-fcf-protection=full"], []), (["-fcf-protection=none"], ["p.o"])])
def test_cet_marks_of_objects(tmp_path, flags, missing):
    if subprocess.run(["cc", "-dumpmachine"], capture_output=True, text=True, check=True).stdout.split("-")[0] != "x86_64":
        pytest.skip("CET is of x86-64")
    (tmp_path / "p.c").write_text(SOURCE)
    subprocess.run(["cc", "-w", "-c", *flags, "p.c", "-o", "p.o"], cwd=tmp_path, check=True)
    subprocess.run(["ar", "rcs", "libp.a", "p.o"], cwd=tmp_path, check=True)
    assert hardening.judge_cet(tmp_path / "libp.a") == missing
