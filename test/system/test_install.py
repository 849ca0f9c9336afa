"""What a package would hold: the installed tree, whole and nothing more, and the example configuration in it, judged by the installed
program on a real token."""

import os
import pathlib
import re
import shutil
import subprocess

from conftest import BUILD, ROOT
from lab import UIDS

PROGRAMS = {"sbin/fallgated", "bin/fallgate", "bin/fallgate-custodian"} | {
    f"libexec/fallgate/{name}" for name in ("fallgate-hsm", "fallgate-mgmt", "fallgate-dataplane", "fallgate-hooks", "fallgate-nbd.so",
                                             "fallgate-ublk")}
PAGES = {"fallgate.1", "fallgate-volume.1", "fallgate-custodian.1", "fallgate.conf.5", "fallgated.8"} | {
    f"fallgate-{name}.8" for name in ("hsm", "mgmt", "dataplane", "hooks", "ublk")}
if (BUILD / "bin/fallgate-tpm").exists():  # HAL_TPM
    PROGRAMS |= {"libexec/fallgate/fallgate-tpm"}
    PAGES |= {"fallgate-tpm.8"}
DOCUMENTS = {"README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "THREATS.md", "MANAGEMENT.md", "PROTOCOL.md", "STATES.md", "SPEC.md",
             "DESIGN.md", "example/fallgate.conf", "example/volumes.d/data.conf"}


def install(into):
    done = subprocess.run(["cmake", "--install", str(BUILD), "--prefix", str(into)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}


def test_the_installed_tree_is_whole_and_has_no_test_tools(tmp_path):
    pages = {f"share/man/man{name[-1]}/{name}" for name in PAGES}
    documents = {f"share/doc/fallgate/{name}" for name in DOCUMENTS}
    assert install(tmp_path) == PROGRAMS | pages | documents | {"lib/udev/rules.d/61-fallgate.rules"}
    for name in PROGRAMS - {"libexec/fallgate/fallgate-nbd.so"}:
        assert os.access(tmp_path / name, os.X_OK), name
    for name in pages if shutil.which("man") else ():
        shown = subprocess.run(["man", "-l", str(tmp_path / name)], capture_output=True, text=True, env={**os.environ, "MANPAGER": "cat"})
        assert shown.returncode == 0 and "NAME" in shown.stdout and not shown.stderr, (name, shown.stderr)


def test_the_example_configuration_is_good(lab):
    tree = lab.root / "tree"
    tree.mkdir()
    install(tree)
    example = tree / "share/doc/fallgate/example"
    text = (example / "fallgate.conf").read_text()
    text = text.replace("/etc/fallgate/softhsm2.conf", str(lab.softhsm_conf)).replace("/etc/fallgate/pins/main", f"{lab.root}/pins/pin")
    text = text.replace("[agent]", f"[agent]\nlibexec_dir = {tree}/libexec/fallgate")
    for key, value in (("state_dir = /var/lib/fallgate", f"{lab.root}/state"), ("run_dir = /run/fallgate", f"{lab.root}/run")):
        assert f"# {key}\n" in text
        text = text.replace(f"# {key}\n", f"{key.split()[0]} = {value}\n")
    for name, number in ((n, u) for n, u in UIDS.items() if n != "tpm"):
        text, count = re.subn(rf"(?m)^user_{name} = .*\n", f"user_{name} = {number}\n" if lab.as_root else "", text)
        assert count == 1, name
    (lab.root / "fallgate.conf").write_text(text)
    volume = (example / "volumes.d/data.conf").read_text().replace("/var/lib/fallgate/data.img", f"{lab.root}/volumes/data.img")
    (lab.root / "volumes.d/data.conf").write_text(volume)
    result = lab.run(tree / "bin/fallgate", "config", "check", "--config", lab.root / "fallgate.conf", check=False)
    assert result.code == 0 and "kek main: good" in result.out, result


def test_the_manual_has_every_exit_code_and_no_other():
    """fallgate(1), EXIT STATUS, against base/error.c."""
    rows = re.findall(r'\[-ERR_\w+\]\s*=\s*\{\s*"([a-z-]+)",\s*"[^"]*",\s*(\d+),', (ROOT / "firmware/base/error.c").read_text())
    table = {int(code): name for name, code in rows}
    assert len(table) == len(rows) > 20
    page = (ROOT / "tools/fallgate/fallgate.1.scd").read_text()
    section = page[page.index("# EXIT STATUS"):page.index("# EXAMPLES")]
    listed = {int(code): words for code, words in re.findall(r"(?m)^\*(\d+)\* ([^\n]*?)(?:\+\+)?$", section)}
    assert set(listed) == set(table)
    for code, name in table.items():
        assert code == 0 or re.match(rf"{name}(:|$)", listed[code]), (code, name, listed[code])


def test_the_manuals_name_only_exit_codes_that_exist():
    codes = {int(c) for c in re.findall(r'"[^"]*",\s*"[^"]*",\s*(\d+),', (ROOT / "firmware/base/error.c").read_text())}
    own = {1, 70, 71, 125, 126, 127}  # an hsm without its dataplane; a broken promise; a fault; what fallgate-hooks could not run
    pages = [ROOT / "tools/fallgate-custodian/fallgate-custodian.1.scd", *ROOT.glob("firmware/*/*.8.scd")]
    assert len(pages) > 6
    for page in pages:
        section = re.search(r"# EXIT STATUS\n(.*?)\n#", page.read_text(), re.S)[1]
        named = {int(n) for n in re.findall(r"(?:^|; |: |code |\*)(\d+)\b", section, re.M)} - own
        assert named and named <= codes, (page, named - codes)


def test_the_manual_has_every_key_of_the_configuration():
    """fallgate.conf(5) against the tables of config_keys.c: each key has its paragraph, and each paragraph its key."""
    keys = set(re.findall(r'\{ "([a-z0-9_]+)",\s+[a-z]_\w+,\s+(?:true|false),', (ROOT / "firmware/supervisor/config_keys.c").read_text()))
    assert len(keys) > 40
    page = (ROOT / "firmware/supervisor/fallgate.conf.5.scd").read_text()
    told = {key for line in re.findall(r"(?m)^(\*.*)\n\t", page) for key in re.findall(r"\*([a-z0-9_]+)\*(?=,| \(|$| \*)", line.split(" (")[0])}
    assert told == keys, (told ^ keys)


def test_every_document_that_is_named_is_there():
    for document in pathlib.Path(ROOT).glob("**/*.md"):
        if "build" in document.parts or ".cache" in document.parts:
            continue
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), (document, target)
