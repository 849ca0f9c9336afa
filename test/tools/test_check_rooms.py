"""The room checker, on small trees that break one rule each, and on programs with a symbol they must not have."""
import importlib.machinery
import importlib.util
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools/check-rooms"


def load():
    loader = importlib.machinery.SourceFileLoader("check_rooms", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_rooms", loader))
    loader.exec_module(module)
    return module


rooms = load()


def judge(tmp_path, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    for top in ("firmware", "hal", "tools"):
        (tmp_path / top).mkdir(exist_ok=True)
    return rooms.check_sources(tmp_path)[0]


VIOLATIONS = [
    # the one to be ashamed of first: the process that parses the network reaches for keys
    ("firmware/mgmt/routes.c", '#include "hal/aead.h"', "firmware/mgmt may not include hal/aead.h"),
    ("firmware/mgmt/body.c", '#include "hal/secret_memory.h"', "may not include"),
    ("firmware/mgmt/body.c", '#include "volume/keyring.h"', "may not include"),
    ("firmware/mgmt/body.c", "#include <volume/keyring.h>", "may not include"),
    ("firmware/mgmt/body.c", '#  include   "volume/keyring.h"', "may not include"),
    ("firmware/supervisor/main.c", '#include "volume/volume.h"', "may not include"),
    ("firmware/supervisor/main.c", '#include "hal/secret_memory.h"', "may not include"),
    ("firmware/supervisor/main.c", '#include "hsm/token.h"', "may not include"),
    ("firmware/hsm/main.c", '#include "dataplane/keyslot.h"', "may not include"),
    ("firmware/dataplane/control.c", '#include "../hsm/token.h"', "climbs out"),
    ("firmware/base/log.c", '#include "ipc/channel.h"', "may not include"),
    ("firmware/base/log.c", "#include <mbedtls/sha256.h>", "one door"),
    ("firmware/revocation/revocation.c", "#include <time.h>", "knows only"),
    ("firmware/revocation/revocation.c", '#include "base/error.h"', "may not include"),
    ("firmware/hsm/probe.c", "#include <p11-kit/p11-kit.h>", "one door"),
    ("firmware/dataplane/control.c", "#include <nbdkit-plugin.h>", "one door"),
    ("firmware/mgmt/body.c", "#include <coap3/coap.h>", "one door"),
    ("firmware/mgmt/body.c", "#include <openssl/evp.h>", "one door"),
    ("firmware/mgmt/body.c", "#include <sodium.h>", "in no table"),
    ("firmware/mgmt/body.c", "#define H <stdio.h>\n#include H", "name the header"),
    ("firmware/newroom/main.c", "int x;", "in no room"),
]


@pytest.mark.parametrize("path,text,words", VIOLATIONS)
def test_violation_is_named_with_file_and_line(tmp_path, path, text, words):
    problems = judge(tmp_path, path, text)
    assert len(problems) == 1
    assert words in problems[0]
    assert problems[0].startswith(f"{path}:{text.count(chr(10)) + 1}:")


ALLOWED = [
    ("firmware/mgmt/main.c", "#include <coap3/coap.h>"),
    ("firmware/hsm/token.c", "#include <p11-kit/pkcs11.h>"),
    ("firmware/dataplane/nbd_plugin.c", "#include <nbdkit-plugin.h>"),
    ("firmware/volume/volume.c", '#include "hal/aead.h"'),
    ("firmware/supervisor/main.c", '#include "hal/block.h"'),
    ("firmware/mgmt/body.c", '/* #include "hal/aead.h" */'),
    ("firmware/mgmt/body.c", '// #include "hal/aead.h"'),
    ("firmware/mgmt/body.c", "/*\n#include <nbdkit-plugin.h>\n*/\n#include <stdio.h>"),
]


@pytest.mark.parametrize("path,text", ALLOWED)
def test_allowed(tmp_path, path, text):
    assert judge(tmp_path, path, text) == []


def test_line_of_second_include_after_a_comment(tmp_path):
    problems = judge(tmp_path, "firmware/mgmt/body.c", '/* two\nlines */\n#include <stdio.h>\n#include "volume/volume.h"\n')
    assert problems[0].startswith("firmware/mgmt/body.c:4:")


def test_header_beside_the_source(tmp_path):
    (tmp_path / "firmware/mgmt").mkdir(parents=True)
    (tmp_path / "firmware/mgmt/body.h").write_text("")
    assert judge(tmp_path, "firmware/mgmt/body.c", '#include "body.h"') == []


def compile_archive(folder, name, source):
    (folder / f"{name}.c").write_text(source)
    subprocess.run(["cc", "-c", f"{name}.c", "-o", f"{name}.o"], cwd=folder, check=True)
    subprocess.run(["ar", "rcs", f"lib{name}.a", f"{name}.o"], cwd=folder, check=True)
    return folder / f"lib{name}.a"


@pytest.fixture(name="build")
def fixture_build(tmp_path):
    """A build whose fallgate-mgmt calls a function of each library named in `wants`."""
    archives = {name: compile_archive(tmp_path, name, f"int {name}_open(void) {{ return 1; }}\nint {name}_table[4] = {{1}};\n")
                for name in ("hal_aead", "hal_secret_memory", "volume")}

    def link(*wants):
        (tmp_path / "bin").mkdir(exist_ok=True)
        calls = "".join(f"int {name}_open(void);\n" for name in wants)
        body = " + ".join(["0", *(f"{name}_open()" for name in wants)])
        (tmp_path / "main.c").write_text(f"{calls}int main(void) {{ return {body}; }}\n")
        for program in rooms.APART:
            chosen = "main.c" if program == "fallgate-mgmt" else "plain.c"
            (tmp_path / "plain.c").write_text("int main(void) { return 0; }\n")
            subprocess.run(["cc", chosen, "-o", f"bin/{program}", *map(str, archives.values())], cwd=tmp_path, check=True)
        return rooms.check_links(tmp_path, tmp_path / "bin", archives)[0]

    link.folder, link.archives = tmp_path, archives
    return link


@pytest.mark.parametrize("library", ["hal_aead", "hal_secret_memory", "volume"])
def test_mgmt_with_a_symbol_of_the_keys(build, library):
    problems = build(library)
    assert len(problems) == 1
    assert f"fallgate-mgmt: has 2 symbols of {library}" in problems[0]


def test_programs_that_are_apart(build):
    assert build() == []


def test_missing_program_and_missing_library_are_problems(build):
    build()
    (build.folder / "bin/fallgate-mgmt").unlink()
    assert any("fallgate-mgmt: not in" in p for p in rooms.check_links(build.folder, build.folder / "bin", build.archives)[0])
    assert any("libvolume.a: not in" in p for p in rooms.check_links(build.folder, build.folder / "bin", {})[0])


def test_stripped_program_proves_nothing(build):
    build()
    subprocess.run(["strip", build.folder / "bin/fallgate-mgmt"], check=True)
    assert any("stripped" in p for p in rooms.check_links(build.folder, build.folder / "bin", build.archives)[0])
