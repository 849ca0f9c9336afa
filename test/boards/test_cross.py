"""The agent for 64-bit ARM, built here against an unpacked root, with every unit test that qemu-user can run, the ARMv8 kernels among
them. What it cannot run stands in not-under-qemu-user, with the reason."""

import os
import pathlib
import re
import subprocess

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
LIST = pathlib.Path(__file__).with_name("not-under-qemu-user")


def run(*command, **kwargs):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="this machine is what the cross build is for")
def test_every_unit_test_under_qemu_user():
    build = SOURCE / "build/aarch64"
    left_out = [line.split()[0] for line in LIST.read_text().splitlines() if line and line[0] != "#"]
    run("cmake", "-S", SOURCE, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_TOOLCHAIN_FILE={SOURCE}/tools/cmake/aarch64.cmake")
    run("cmake", "--build", build, "-j", os.cpu_count() or 1)
    known = re.findall(r"Test +#\d+: (\S+)", run("ctest", "--test-dir", build, "-N", "-L", "unit"))
    assert set(left_out) <= set(known), f"no such test any more: {set(left_out) - set(known)}"
    # campaigns have their own place
    out = run("ctest", "--test-dir", build, "-L", "unit", "-E", f"^({'|'.join(left_out)})$|powercut|fuzz|spin", "-j", os.cpu_count() or 1,
              "--output-on-failure")
    for kind in ("vectors", "agreement", "forgery", "remains"):
        assert re.search(rf"aead_{kind}-armv8 \.+ +Passed", out), f"the ARMv8 kernel's test aead_{kind} was not among them"
    assert "100% tests passed" in out
    print(f"\n{len(known)} unit tests are known; those qemu-user cannot run: {', '.join(left_out)}")
