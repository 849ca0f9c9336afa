"""The recipes for Buildroot and Yocto, and the service unit, by what Debian has to judge them with. Their CMake call is run for this
machine here, and for 64-bit ARM in test/boards/test_recipes.py."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from recipes import BB, BUILDROOT, LAYER, MK, ROOT, buildroot_options, buildroot_symbols, buildroot_variables, yocto, yocto_options

LICENSE = (ROOT / "LICENSE").read_bytes()
ARCHES = ("x86_64", "aarch64")


def project_version():
    return re.search(r"project\(fallgate VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]


def kconfig_symbols():
    return set(re.findall(r"(?m)^config (\w+)", "".join(p.read_text() for p in ROOT.glob("*/**/Kconfig"))))


def options_of(system, arch, everything):
    if system == "buildroot":
        chosen = dict.fromkeys(("BR2_PACKAGE_FALLGATE_NBD", "BR2_PACKAGE_FALLGATE_TPM", "BR2_PACKAGE_FALLGATE_CUSTODIAN"), "y") if everything else {}
        return buildroot_options(arch, **chosen)
    return yocto_options(arch, "ublk nbd tpm custodian systemd" if everything else "ublk")


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("system", ["buildroot", "yocto"])
def test_the_cmake_call_is_the_same_of_both(system, arch, everything):
    options = dict(o.removeprefix("-D").split("=", 1) for o in options_of(system, arch, everything))
    assert options["FALLGATE_SYSTEM_DEPS"] == "ON" and options["BUILD_TESTING"] == "OFF"
    assert (ROOT / "boards" / options["BOARD"] / "defconfig").exists() and arch in options["BOARD"]
    config = dict(line.split("=") for line in options["FALLGATE_CONFIG"].split(";"))
    choice = "y" if everything else "n"
    assert config == {"CONFIG_DATAPLANE_UBLK": "y", "CONFIG_DATAPLANE_NBD": choice, "CONFIG_HAL_TPM": choice,
                      "CONFIG_TOOLS_CUSTODIAN": choice}
    assert {name.removeprefix("CONFIG_") for name in config} <= kconfig_symbols()
    known = set(re.findall(r"(?:set|option|find_program)\((\w+)", "".join(p.read_text() for p in ROOT.glob("**/*.cmake")) +
                           "".join(p.read_text() for p in ROOT.glob("*/**/CMakeLists.txt"))))
    assert set(options) - {"BUILD_TESTING", "CMAKE_BUILD_TYPE"} <= known, "an option that no CMake list knows"


def test_further_settings_reach_the_call():
    assert "CONFIG_AEAD_AESNI=n" in str(buildroot_options("x86_64", BR2_PACKAGE_FALLGATE_KCONFIG="CONFIG_AEAD_AESNI=n CONFIG_AEAD_VAES256=n"))
    assert "CONFIG_AEAD_AESNI=n;CONFIG_AEAD_VAES256=n" in str(yocto_options("x86_64", FALLGATE_KCONFIG="CONFIG_AEAD_AESNI=n CONFIG_AEAD_VAES256=n"))


@pytest.mark.parametrize("arch", ARCHES)
def test_buildroot_reads_the_options_and_their_dependencies(arch):
    values, warnings = buildroot_symbols(arch)
    assert not warnings, warnings
    for name in ("LIBCBOR", "INIH", "JANSSON", "P11_KIT", "UTIL_LINUX_LIBBLKID", "LIBURING", "FALLGATE_UBLK", "FALLGATE_OWN_DEPS"):
        assert values.get(f"BR2_PACKAGE_{name}") == "y", name
    assert "BR2_PACKAGE_OPENSSL" not in values and "BR2_PACKAGE_FALLGATE_NBD" not in values
    variables, said = buildroot_variables(values, "FALLGATE_DEPENDENCIES", "FALLGATE_SITE", "FALLGATE_VERSION", "FALLGATE_CONF_ENV")
    assert set(variables["FALLGATE_DEPENDENCIES"].split()) == {"host-pkgconf", "inih", "jansson", "libcbor", "p11-kit", "util-linux", "liburing"}
    assert Path(variables["FALLGATE_SITE"].strip('"')).resolve() == ROOT
    assert variables["FALLGATE_VERSION"] == project_version()
    assert "/staging/usr/lib/fallgate-deps/lib/pkgconfig" in variables["FALLGATE_CONF_ENV"]
    undefined = set(re.findall(r"undefined variable '(\w+)'", said))
    assert all(name.startswith("BR2_") for name in undefined), undefined


def test_selected_packages_follow_the_choice():
    nbd, _ = buildroot_symbols("x86_64", BR2_PACKAGE_FALLGATE_NBD="y", BR2_PACKAGE_FALLGATE_UBLK="n", BR2_PACKAGE_FALLGATE_OWN_DEPS="n")
    assert "BR2_PACKAGE_LIBURING" not in nbd
    needs = buildroot_variables(nbd, "FALLGATE_DEPENDENCIES")[0]["FALLGATE_DEPENDENCIES"].split()
    assert {"nbdkit", "mbedtls", "libcoap"} <= set(needs) and "liburing" not in needs
    custodian, _ = buildroot_symbols("x86_64", BR2_PACKAGE_FALLGATE_CUSTODIAN="y")
    assert custodian["BR2_PACKAGE_OPENSSL"] == "y"


def test_hashes_are_those_of_the_files():
    assert f"sha256  {hashlib.sha256(LICENSE).hexdigest()}  LICENSE" in (MK.parent / "fallgate.hash").read_text().splitlines()
    text = BB.read_text()
    assert f"LICENSE;md5={hashlib.md5(LICENSE).hexdigest()}" in text
    assert 'LICENSE = "Apache-2.0"' in text and "FALLGATE_LICENSE = Apache-2.0" in MK.read_text() and b"Apache License" in LICENSE
    for recipe in BUILDROOT.glob("package/*/*.hash"):
        for line in recipe.read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"sha256  [0-9a-f]{64}  \S+", line), (recipe, line)


def test_versions_are_the_projects():
    assert BB.name == f"fallgate_{project_version()}.bb"
    layer = (LAYER / "conf/layer.conf").read_text()
    for name in ("BBFILE_COLLECTIONS", "BBFILE_PATTERN_fallgate", "LAYERDEPENDS_fallgate", "LAYERSERIES_COMPAT_fallgate"):
        assert name in layer


def test_what_the_layer_packages_need_is_what_cmake_asks_for():
    """A library more in Dependencies.cmake is one more in both recipes."""
    asked = set(re.findall(r"(?m)^\s*fallgate_pkg\((\w+) ", (ROOT / "tools/cmake/Dependencies.cmake").read_text()))
    named = {"p11kit": "p11-kit", "inih": "libinih", "blkid": "util-linux-libblkid", "cbor": "libcbor", "jansson": "jansson"}
    behind = {"nbdkit": "nbd", "uring": "ublk", "crypto": "custodian", "libp11": "custodian", "esys": "tpm", "tss_mu": "tpm",
              "tcti_device": "tpm"}
    tests = {"cmocka", "nbd"}
    assert asked <= set(named) | set(behind) | tests, "add it to the recipes, then here"
    d = yocto("x86_64")
    assert set(named.values()) | {"mbedtls", "libcoap"} == set(d.getVar("DEPENDS").split())
    assert set(behind.values()) <= set(d.flags)


def test_the_users_are_those_of_the_example():
    wanted = set(re.findall(r"user_\w+ = (\S+)", (ROOT / "firmware/supervisor/example/fallgate.conf").read_text()))
    assert set(re.findall(r"--user-group (\S+?)[; ]", BB.read_text())) == wanted
    assert set(re.findall(r"(?m)^\t(\S+) -1 \S+ -1 \* - - - ", MK.read_text())) == wanted


def test_scripts_are_sound():
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck")
    done = subprocess.run(["shellcheck", "-s", "sh", str(MK.parent / "S60fallgate")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_buildroot_files_keep_its_style():
    for path in BUILDROOT.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert text.endswith("\n") and not re.search(r"[ \t]+$", text, re.M), path
            if path.suffix == ".mk" and path.name != "external.mk":
                assert text.startswith("#" * 80 + f"\n#\n# {path.stem}\n#\n" + "#" * 80 + "\n\n"), path
            if path.name == "Config.in" and path.parent != BUILDROOT:
                helps = re.findall(r"(?m)^\t  (.*)$", text)
                assert helps and all(len(line) <= 62 for line in helps), path


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The recipe's call for this machine, from a source folder that nobody may write to, into a folder with a blank in its name."""
    place = tmp_path_factory.mktemp("a vendor's build")
    build, out = place / "build here", place / "image root"
    arch = os.uname().machine
    cache = Path(os.environ.get("FALLGATE_CACHE") or ROOT / ".cache")
    deps = tmp_path_factory.mktemp("deps")  # pkg-config and CMake do not agree about blanks
    subprocess.run([ROOT / "tools/build-deps", "--cache", cache, "--stage", "/", "--stage-prefix", deps], check=True, capture_output=True)
    env = {**os.environ, "PKG_CONFIG_PATH": str(deps / "lib/pkgconfig"), "SOURCE_DATE_EPOCH": "1700000000"}
    options = yocto_options(arch, "ublk systemd")

    def run(*command, **kwargs):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env, **kwargs)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    launcher = ["-DCMAKE_C_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_INSTALL_PREFIX=/usr", *options, *launcher)
    run("cmake", "--build", build, "-j", os.cpu_count() or 1)
    env["DESTDIR"] = str(out)
    run("cmake", "--install", build, "--strip")
    return out


def test_the_call_builds_and_installs_here(installed):
    assert os.access(installed / "usr/sbin/fallgated", os.X_OK)
    assert not (installed / "usr/libexec/fallgate/fallgate-nbd.so").exists(), "the recipe's choice of faces did not reach the build"
    needed = subprocess.run(["readelf", "-d", installed / "usr/libexec/fallgate/fallgate-mgmt"], capture_output=True, text=True).stdout
    assert "libcbor" in needed and "libcrypto" not in needed
    for path in installed.rglob("*"):
        assert not path.is_file() or b"/tools/packaging" not in path.read_bytes(), path


def test_a_face_that_was_left_out_is_refused_by_name(installed, tmp_path):
    (tmp_path / "volumes.d").mkdir()
    (tmp_path / "fallgate.conf").write_text(f"[agent]\nstate_dir = {tmp_path}\nrun_dir = {tmp_path}\n")
    for export, refused in (("", True), ("export = nbd\n", True), ("export = ublk\n", False)):
        (tmp_path / "volumes.d/data.conf").write_text(f"[volume]\nbacking = {tmp_path}/data.img\nkek = main\nsize = 64M\n{export}")
        done = subprocess.run([installed / "usr/sbin/fallgated", "--check", "--config", tmp_path / "fallgate.conf"], capture_output=True,
                              text=True)
        said = "data.conf: export = nbd (the default), and this agent was built without it; set export = ublk" in done.stderr
        assert said == refused and done.returncode == 3, done.stderr


def test_the_unit_is_good(installed, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze")
    unit = (installed / "usr/lib/systemd/system/fallgated.service").read_text()
    assert "@" not in re.sub(r"(?m)^#.*", "", unit) and "ExecStart=/usr/sbin/fallgated " in unit
    assert "CAP_SYS_ADMIN" in unit, "the broker of ublk devices needs it"
    here = tmp_path / "fallgated.service"
    (tmp_path / "fallgated").symlink_to(installed / "usr/sbin/fallgated")
    here.write_text(unit.replace("/usr/sbin/fallgated", str(tmp_path / "fallgated")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(here)], capture_output=True, text=True)
    assert done.returncode == 0 and "fallgated.service" not in done.stderr, done.stderr
    judged = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=55", str(here)], capture_output=True,
                            text=True)
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]
    here.write_text(here.read_text().replace("Type=exec", "Type=never"))
    assert "never" in subprocess.run(["systemd-analyze", "verify", "--man=no", str(here)], capture_output=True, text=True).stderr
