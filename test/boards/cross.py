"""The cross build for 64-bit ARM, and what of its tests qemu-user cannot run."""

import os
import pathlib
import subprocess

SOURCE = pathlib.Path(__file__).resolve().parents[2]
LIST = pathlib.Path(__file__).with_name("not-under-qemu-user")


def run(*command, **kwargs):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def not_under_qemu_user():
    """[(name, reason)]"""
    return [tuple(line.split(None, 1)) for line in LIST.read_text().splitlines() if line and line[0] != "#"]


def cross_build():
    build = SOURCE / "build/aarch64"
    run("cmake", "-S", SOURCE, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_TOOLCHAIN_FILE={SOURCE}/tools/cmake/aarch64.cmake")
    run("cmake", "--build", build, "-j", os.cpu_count() or 1)
    return build
