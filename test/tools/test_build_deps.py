"""tools/build-deps: nothing unpinned is unpacked, and the machine's own mirrors are found in both forms of apt source."""
import hashlib
import importlib.machinery
import importlib.util
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools/build-deps"


def load():
    loader = importlib.machinery.SourceFileLoader("build_deps", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("build_deps", loader))
    loader.exec_module(module)
    return module


deps = load()
import private_apt  # noqa: E402: on the path since build-deps was loaded


def archive(path, members):
    with tarfile.open(path, "w:xz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"debian/patches/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_tarball_with_another_hash_is_not_taken(tmp_path):
    (tmp_path / "mbedtls_3.6.7.orig.tar.bz2").write_bytes(b"not what was pinned")
    with pytest.raises(deps.Failure, match="cannot get mbedtls"):
        deps.obtain("mbedtls", tmp_path, None)


def test_a_patch_with_another_hash_is_refused(tmp_path):
    good = archive(tmp_path / "good.tar.xz", {"CVE-1.patch": b"remedy"})
    pin = deps.Patch("CVE-1.patch", hashlib.sha256(b"remedy").hexdigest())
    assert deps.read_patches(good, [pin]) == [b"remedy"]
    with pytest.raises(deps.Failure, match="not the pinned one"):
        deps.read_patches(archive(tmp_path / "bad.tar.xz", {"CVE-1.patch": b"poison"}), [pin])
    with pytest.raises(deps.Failure, match="has no patch"):
        deps.read_patches(archive(tmp_path / "none.tar.xz", {"CVE-2.patch": b"remedy"}), [pin])


def test_what_apt_delivers_is_hashed_too(tmp_path):
    class Mirror:
        def fetch(self, pin):
            folder = tmp_path / "download"
            folder.mkdir(exist_ok=True)
            (folder / "mbedtls_3.6.7.orig.tar.bz2").write_bytes(b"not what was pinned")
            return folder

    tarballs = tmp_path / "tarballs"
    tarballs.mkdir()
    with pytest.raises(deps.Failure, match="put mbedtls_3.6.7.orig.tar.bz2 or mbedtls_3.6.6.orig.tar.bz2"):
        deps.obtain("mbedtls", tarballs, Mirror())
    assert list(tarballs.iterdir()) == []


def test_the_second_set_of_pins_is_taken_when_the_first_is_gone(tmp_path, monkeypatch):
    data = b"the older one"
    older = deps.Choice("1.0", deps.Pin(("--tar-only", "x/old"), r"x_1\.0\.tar", hashlib.sha256(data).hexdigest()), None, [])
    newer = deps.Choice("2.0", deps.Pin(("--tar-only", "x/new"), r"x_2\.0\.tar", "0" * 64), None, [])
    monkeypatch.setitem(deps.CHOICES, "x", [newer, older])
    (tmp_path / "x_1.0.tar").write_bytes(data)
    assert deps.obtain("x", tmp_path, None) == ("1.0", tmp_path / "x_1.0.tar", [])


def test_offline_with_an_empty_cache_says_what_to_do_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, TOOL, "--offline", "--cache", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "mbedtls_3.6.7.orig.tar.bz2" in last and "FALLGATE_CACHE" in last and str(tmp_path) in last
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("deps-") and p.suffix != ".log"]


def test_every_pin_is_a_whole_hash():
    for choices in deps.CHOICES.values():
        for choice in choices:
            hashes = [choice.tar.sha256, *(patch.sha256 for patch in choice.patches)]
            assert all(len(h) == 64 and int(h, 16) for h in hashes)


DEB822 = """\
# a comment: URIs: http://wrong.example/debian
Types: deb
URIs: http://one.example/debian http://two.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb-src deb
URIs:
 http://three.example/debian
Suites: bookworm
Components: contrib main
"""

ONE_LINE = """\
# deb http://wrong.example/debian bookworm main
deb-src http://wrong.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://four.example/debian bookworm main contrib # why
deb http://vendor.example/apt stable main
deb http://five.example/debian bookworm contrib # main
"""


def test_mirrors_in_both_forms(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/old.sources.disabled").write_text(DEB822.replace("one.example", "disabled.example"))
    assert private_apt.mirrors(tmp_path, "bookworm") == [
        "http://four.example/debian", "http://one.example/debian", "http://two.example/debian", "http://three.example/debian"]


def test_no_sources_at_all(tmp_path):
    assert private_apt.mirrors(tmp_path, "bookworm") == []
