"""FALLGATE_SYSTEM_DEPS: a libcoap on another TLS library than mbedTLS is refused, and named."""
import os
import subprocess
from pathlib import Path

import pytest

CMAKE = Path(__file__).resolve().parents[2] / "tools/cmake"

PROJECT = f"""
cmake_minimum_required(VERSION 3.25)
project(probe C)
find_package(PkgConfig REQUIRED)
list(APPEND CMAKE_MODULE_PATH {CMAKE})
function(fallgate_pkg)
endfunction()
include(SystemCoap)
if(NOT TARGET deps::coap)
	message(FATAL_ERROR "no target")
endif()
"""


def module(folder, name, version, private="", requires=""):
    (folder / f"{name}.pc").write_text(
        f"Name: libcoap\nDescription: CoAP\nVersion: {version}\nLibs: -l{name.removeprefix('lib')}\nLibs.private: {private}\n"
        f"Requires.private: {requires}\n")


def configure(tmp_path, *modules):
    pc = tmp_path / "pc"
    pc.mkdir()
    for arguments in modules:
        module(pc, *arguments)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    done = subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "b"], capture_output=True, text=True, check=False,
                          env={**os.environ, "PKG_CONFIG_LIBDIR": str(pc), "PKG_CONFIG_PATH": ""})
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("modules,named", [
    ([("libcoap-3-gnutls", "4.3.5", "-lgnutls")], "found: libcoap-3-gnutls 4.3.5 with GnuTLS"),
    ([("libcoap-3-openssl", "4.3.5", "-lssl -lcrypto")], "libcoap-3-openssl 4.3.5 with OpenSSL"),
    ([("libcoap-3", "4.3.5", "", "gnutls")], "libcoap-3 4.3.5 with GnuTLS"),
    ([("libcoap-3-notls", "4.3.5")], "libcoap-3-notls 4.3.5 with no TLS library"),
    ([("libcoap-3-mbedtls", "4.3.1", "-lmbedtls")], "libcoap-3-mbedtls 4.3.1 with mbedTLS"),
    ([], "found: none"),
])
def test_refused_by_name(tmp_path, modules, named):
    code, output = configure(tmp_path, *modules)
    assert code != 0
    assert named in output


@pytest.mark.parametrize("name", ["libcoap-3-mbedtls", "libcoap-3"])
def test_one_with_mbedtls_is_taken_beside_others(tmp_path, name):
    code, output = configure(tmp_path, ("libcoap-3-gnutls", "4.3.5", "-lgnutls"), (name, "4.3.5", "-lmbedtls -lmbedcrypto"))
    assert code == 0, output
    assert f"libcoap: {name} 4.3.5, DTLS by mbedTLS" in output
