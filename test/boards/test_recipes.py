"""The recipes' CMake call for 64-bit ARM, as a vendor's build system makes it: a toolchain file and a pkg-config of its own, a staging root
with every library, sources that nobody may write to, DESTDIR, SOURCE_DATE_EPOCH; twice, in different places, and the same bytes."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "test/tools"))
from recipes import buildroot_options, yocto_options  # noqa: E402

CACHE = pathlib.Path(os.environ.get("FALLGATE_CACHE") or SOURCE / ".cache")
TOOLCHAIN = """set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_SYSROOT {staging})
set(CMAKE_FIND_ROOT_PATH {staging})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
"""
PKG_CONFIG = """#!/bin/sh
export PKG_CONFIG_SYSROOT_DIR='{staging}'
export PKG_CONFIG_LIBDIR='{staging}/usr/lib/aarch64-linux-gnu/pkgconfig:{staging}/usr/share/pkgconfig'
exec /usr/bin/pkg-config "$@"
"""


def run(*command, **kwargs):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def vendor(tmp_path_factory):
    """A staging root, its pkg-config and toolchain file, and the sources as a release has them: what git knows, and read-only."""
    place = tmp_path_factory.mktemp("vendor")
    sysroot = run(SOURCE / "tools/sysroot", "aarch64", "--cache", CACHE).splitlines()[-1]
    staging = place / "staging"
    run("cp", "-a", sysroot, staging)
    run(SOURCE / "tools/build-deps", "--cache", CACHE, "--cc", "aarch64-linux-gnu-gcc", "--toolchain", SOURCE / "tools/cmake/aarch64.cmake",
        "--stage", staging, env={**os.environ, "FALLGATE_SYSROOT": sysroot})
    (place / "toolchain.cmake").write_text(TOOLCHAIN.format(staging=staging))
    (place / "pkg-config").write_text(PKG_CONFIG.format(staging=staging))
    (place / "pkg-config").chmod(0o755)
    sources = place / "the sources"
    files = run("git", "-C", SOURCE, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, files):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        if (SOURCE / name).exists():
            shutil.copy(SOURCE / name, sources / name)
    run("chmod", "-R", "a-w", sources)
    yield place, sources
    run("chmod", "-R", "u+w", sources)


def build(vendor, options, name):
    place, sources = vendor
    into, out = place / name, place / f"{name} out"
    env = {**os.environ, "PKG_CONFIG": str(place / "pkg-config"), "SOURCE_DATE_EPOCH": "1700000000",
           "PKG_CONFIG_PATH": str(place / "staging/usr/lib/fallgate-deps/lib/pkgconfig")}
    env.pop("FALLGATE_CACHE", None)
    env.pop("FALLGATE_SYSROOT", None)
    # Buildroot's and Yocto's own: the place of a build stays out of what it makes
    maps = f"-ffile-prefix-map='{sources}'=/usr/src/fallgate -ffile-prefix-map='{into}'=/usr/src/build"
    run("cmake", "-S", sources, "-B", into, "-G", "Ninja", f"-DCMAKE_TOOLCHAIN_FILE={place}/toolchain.cmake", "-DCMAKE_INSTALL_PREFIX=/usr",
        "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_C_FLAGS={maps}", *options, env=env)
    run("cmake", "--build", into, "-j", os.cpu_count() or 1, env=env)
    run("cmake", "--install", into, "--strip", env={**env, "DESTDIR": str(out)})
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*")) if p.is_file()}, out


# The two recipes at their defaults come to the same call (test_packaging.py): one of them from each, and one with all of it.
@pytest.mark.skipif(os.uname().machine == "aarch64", reason="this machine is what the cross build is for")
def test_the_recipes_call_builds_for_64_bit_arm_twice_to_the_same_bytes(vendor):
    first, out = build(vendor, yocto_options("aarch64", "ublk systemd"), "first")
    again, _ = build(vendor, buildroot_options("aarch64"), "second, elsewhere")
    assert first == again, {name for name in set(first) | set(again) if first.get(name) != again.get(name)}
    programs = {name for name in first if "/sbin/" in name or "/libexec/" in name}
    assert {"usr/sbin/fallgated", "usr/libexec/fallgate/fallgate-hsm"} <= programs and "usr/libexec/fallgate/fallgate-nbd.so" not in programs
    assert "usr/lib/systemd/system/fallgated.service" in first
    for name in programs:
        assert "AArch64" in run("readelf", "-h", out / name), name


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="this machine is what the cross build is for")
def test_with_nbd_and_the_custodian_for_64_bit_arm(vendor):
    chosen = dict.fromkeys(("BR2_PACKAGE_FALLGATE_NBD", "BR2_PACKAGE_FALLGATE_CUSTODIAN"), "y")
    files, _ = build(vendor, buildroot_options("aarch64", BR2_PACKAGE_FALLGATE_UBLK="n", **chosen), "nbd")
    assert {"usr/libexec/fallgate/fallgate-nbd.so", "usr/bin/fallgate-custodian"} <= set(files)
    assert "usr/libexec/fallgate/fallgate-ublk" not in files
