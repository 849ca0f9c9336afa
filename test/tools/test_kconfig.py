"""Kconfig: a setting that takes no effect stops the build; the fragment for CMake says what the header says."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2]


def kconfig(tmp_path, *settings, build_type="Release", sanitize="", arch="x86_64"):
    environment = {**os.environ, "srctree": str(SOURCE), "FALLGATE_ARCH": arch, "FALLGATE_SANITIZE": sanitize,
                   "FALLGATE_BUILD_TYPE": build_type, "FALLGATE_BOARD": "dev_host"}
    arguments = [x for setting in settings for x in ("--set", setting)]
    done = subprocess.run([sys.executable, "-B", SOURCE / "tools/cmake/kconfig.py", "--kconfig", "Kconfig", "--out", tmp_path,
                           *arguments, SOURCE / "boards/dev_host/defconfig"],
                          env=environment, capture_output=True, text=True, check=False)
    fragment = tmp_path / "config.cmake"
    return done, fragment.read_text() if done.returncode == 0 else ""


def test_a_release_cannot_be_made_without_the_sandbox(tmp_path):
    done, _ = kconfig(tmp_path, "CONFIG_SANDBOX_SECCOMP=n")
    assert done.returncode != 0
    assert "CONFIG_SANDBOX_SECCOMP was set to 'n' but is 'y'" in done.stderr


def test_a_debug_build_can(tmp_path):
    done, fragment = kconfig(tmp_path, "CONFIG_SANDBOX_SECCOMP=n", build_type="Debug")
    assert done.returncode == 0, done.stderr
    assert "set(CONFIG_SANDBOX_SECCOMP OFF)" in fragment


def test_sanitizers_force_it_off(tmp_path):
    assert "set(CONFIG_SANDBOX_SECCOMP OFF)" in kconfig(tmp_path, sanitize="address,undefined")[1]
    assert kconfig(tmp_path, "CONFIG_SANDBOX_SECCOMP=y", sanitize="address")[0].returncode != 0


@pytest.mark.parametrize("setting,words", [
    ("CONFIG_NO_SUCH_OPTION=y", "undefined symbol"),
    ("CONFIG_AEAD_AESNI=perhaps", "not a valid value"),
    ("nonsense", "ignoring malformed line"),
])
def test_warnings_are_errors(tmp_path, setting, words):
    done, _ = kconfig(tmp_path, setting)
    assert done.returncode != 0
    assert words in done.stderr


def test_what_the_processor_has_not_is_not_compiled(tmp_path):
    assert "set(CONFIG_AEAD_AESNI OFF)" in kconfig(tmp_path, arch="aarch64")[1]


def test_header_and_fragment_agree(tmp_path):
    done, fragment = kconfig(tmp_path, "CONFIG_AEAD_AESNI=n")
    assert done.returncode == 0, done.stderr
    header = (tmp_path / "autoconf.h").read_text()
    for line in fragment.splitlines():
        name, value = line.removeprefix("set(").removesuffix(")").split(" ", 1)
        assert (f"#define {name} 1" in header) == (value == "ON")
