"""The agent for 64-bit ARM, built here against an unpacked root, with every unit test that qemu-user can run, the ARMv8 kernels among
them. What it cannot run stands in not-under-qemu-user, with the reason, and runs in a machine (test_units.py)."""

import os
import re

import pytest

from cross import SOURCE, cross_build, not_under_qemu_user, run


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="this machine is what the cross build is for")
def test_every_unit_test_under_qemu_user():
    build, left_out = cross_build(), [name for name, _ in not_under_qemu_user()]
    known = re.findall(r"Test +#\d+: (\S+)", run("ctest", "--test-dir", build, "-N", "-L", "unit"))
    assert set(left_out) <= set(known), f"no such test any more: {set(left_out) - set(known)}"
    # campaigns have their own place
    out = run("ctest", "--test-dir", build, "-L", "unit", "-E", f"^({'|'.join(left_out)})$|powercut|fuzz|spin", "-j", os.cpu_count() or 1,
              "--output-on-failure")
    for kind in ("vectors", "agreement", "forgery", "remains"):
        assert re.search(rf"aead_{kind}-armv8 \.+ +Passed", out), f"the ARMv8 kernel's test aead_{kind} was not among them"
    assert "100% tests passed" in out
    print("\n" + run(SOURCE / "tools/footprint", "--build", build, "--only", "text"))  # fails if it is over the limit
    print(f"\n{len(known)} unit tests are known; those qemu-user cannot run: {', '.join(left_out)}")
