"""tools/count-tests on results as ctest writes them, and tools/install-packages where nothing is missing."""
import os
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

TOOLS = Path(__file__).resolve().parents[2] / "tools"

CMOCKA = """[==========] Running 4 test(s).
[ RUN      ] a
[       OK ] a
[ RUN      ] b
[       OK ] b
[ RUN      ] c
[  SKIPPED ] c
[==========] 3 test(s) run.
[  PASSED  ] 2 test(s).
[  SKIPPED ] 1 test(s), listed below:
[  SKIPPED ] c

 1 SKIPPED TEST(S)
"""
CMOCKA_BAD = CMOCKA + "[  FAILED  ] 1 test(s), listed below:\n[  FAILED  ] d\n\n 2 FAILED TEST(S)\n"
PYTEST = "...s   [100%]\nSKIPPED [1] test_x.py:3: no such clock here\n3 passed, 1 skipped in 0.31s\n"
PYTEST_BAD = "==== short test summary info ====\n1 failed, 2 passed, 1 error in 12.01s\n"


def case(name, output="", status="run", inner=""):
    return f'<testcase name="{name}" status="{status}">{inner}<system-out>{escape(output)}</system-out></testcase>'


def count(tmp_path, *builds, broken=()):
    arguments = [x for step in broken for x in ("--broken", step)]
    for number, cases in enumerate(builds):
        path = tmp_path / f"{number}.xml"
        path.write_text(f'<?xml version="1.0"?><testsuite>{"".join(cases)}</testsuite>')
        arguments.append(f"build{number}={path}")
    done = subprocess.run([sys.executable, TOOLS / "count-tests", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_nothing_ran_is_a_failure(tmp_path):
    assert count(tmp_path, []) == (1, ["build0: 0 ctest tests, 0 passed, 0 failed", "0 passed, 0 failed"])
    assert count(tmp_path)[0] == 1


def test_a_crash_after_good_cases_is_one_failure(tmp_path):
    code, lines = count(tmp_path, [case("t", CMOCKA, "fail", '<failure message=""/>')])
    assert (code, lines[-1]) == (1, "2 passed, 1 failed, 1 skipped")
    assert "FAILED: t (build0)" in lines


def test_a_program_that_is_not_there_is_a_failure_and_no_skip(tmp_path):
    code, lines = count(tmp_path, [case("t", "", "notrun", '<skipped message="Unable to find executable"/>'), case("u")])
    assert (code, lines[-1]) == (1, "1 passed, 1 failed")


def test_cases_of_both_harnesses_are_counted_once(tmp_path):
    code, lines = count(tmp_path, [case("a", CMOCKA), case("b", PYTEST), case("c", "neither")])
    assert (code, lines[-1]) == (0, "6 passed, 0 failed, 2 skipped")
    assert "skipped: a (build0): c" in lines
    assert "skipped: b (build0): test_x.py:3: no such clock here" in lines


def test_failed_cases_of_both_harnesses(tmp_path):
    bad = '<failure message=""/>'
    code, lines = count(tmp_path, [case("a", CMOCKA_BAD, "fail", bad), case("b", PYTEST_BAD, "fail", bad)])
    assert (code, lines[-1]) == (1, "4 passed, 4 failed, 1 skipped")


def test_failed_cases_count_even_if_ctest_saw_none(tmp_path):
    assert count(tmp_path, [case("a", CMOCKA_BAD)])[0] == 1


def test_two_builds_count_once_as_in_the_worse(tmp_path):
    code, lines = count(tmp_path, [case("a", CMOCKA), case("only", "x")], [case("a", CMOCKA)])
    assert (code, lines[-1]) == (0, "3 passed, 0 failed, 1 skipped")
    code, lines = count(tmp_path, [case("a", CMOCKA)], [case("a", CMOCKA, "fail", '<failure message=""/>')])
    assert (code, lines[-1]) == (1, "2 passed, 1 failed, 1 skipped")


def test_a_skipped_test_says_why(tmp_path):
    skip = '<skipped message="SKIP_RETURN_CODE=77"/>'
    code, lines = count(tmp_path, [case("a", "hello\nno /dev/ublk-control here\n", "notrun", skip), case("b")])
    assert (code, lines[-1]) == (0, "1 passed, 0 failed, 1 skipped")
    assert "skipped: a (build0): no /dev/ublk-control here" in lines


def test_a_build_that_broke_is_a_failure(tmp_path):
    code, lines = count(tmp_path, [case("a")], broken=["build asan: see log"])
    assert (code, lines[-1]) == (1, "1 passed, 1 failed")
    assert "FAILED: build asan: see log" in lines


def test_no_apt_where_nothing_is_missing(tmp_path):
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho called >> \"$0.log\"\nexit 1\n")
    (tmp_path / "sudo").write_text("#!/bin/sh\necho called >> \"$0.log\"\nexit 1\n")
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\necho installed\n")
    for tool in ("apt-get", "sudo", "dpkg-query"):
        (tmp_path / tool).chmod(0o755)
    done = subprocess.run([TOOLS / "install-packages", "build", "test", "demo"], capture_output=True, text=True, check=False,
                          env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (0, "install-packages: all there\n")
    assert not list(tmp_path.glob("*.log"))


def test_only_the_missing_is_asked_of_apt(tmp_path):
    (tmp_path / "dpkg-query").write_text('#!/bin/sh\nfor last; do :; done\ncase "$last" in fio) exit 1;; *) echo installed;; esac\n')
    (tmp_path / "apt-get").write_text('#!/bin/sh\necho "$@" >> "$0.log"\n')
    (tmp_path / "sudo").write_text('#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
    for tool in ("apt-get", "sudo", "dpkg-query"):
        (tmp_path / tool).chmod(0o755)
    done = subprocess.run([TOOLS / "install-packages", "test"], capture_output=True, text=True, check=False,
                          env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "apt-get.log").read_text().splitlines()
    assert calls[0].endswith(" update") and calls[1].endswith(" install --no-install-recommends fio") and len(calls) == 2


def test_an_unknown_group_is_refused():
    done = subprocess.run([TOOLS / "install-packages", "everything"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "everything" in done.stderr
