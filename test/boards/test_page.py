"""The board page (boards/README.md) as a script: its commands, in order, in a fresh copy of the tree, reach booted images; adding a
board is a folder and nothing else."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
LEFT_OUT = ("build", ".cache", ".git")
LIMIT = 2100


def blocks(path):
    return re.findall(r"^```sh\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(block):
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines() if line]


@pytest.fixture
def tree(tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(SOURCE, copy, ignore=lambda folder, names: LEFT_OUT if pathlib.Path(folder) == SOURCE else (), symlinks=True)
    yield copy
    shutil.rmtree(copy)


def files(tree):
    return {str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file() and p.relative_to(tree).parts[0] not in LEFT_OUT}


def test_two_commands_for_each_architecture():
    page = [commands(b) for b in blocks(SOURCE / "boards/README.md")]
    for arch in ("x86_64", "aarch64"):
        assert [f"tools/image qemu_{arch} --flavour dev", f"tools/qemu qemu_{arch} --until AVAILABLE"] in page
    known = {line for block in page for line in block}
    for line in (line for block in blocks(SOURCE / "README.md") for line in commands(block)):
        assert line in known, f"README.md says '{line}', which boards/README.md does not: nobody runs it"


def test_the_page_is_a_script(tree):
    before = files(tree)
    script = "set -eux\n" + "".join(blocks(tree / "boards/README.md"))
    environment = dict(os.environ, FALLGATE_CACHE=os.environ.get("FALLGATE_CACHE") or str(SOURCE / ".cache"))
    environment.pop("DISK", None)
    done = subprocess.run(["timeout", str(LIMIT), "bash"], input=script, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tree,
                          env=environment, check=False, errors="replace")
    print(done.stdout[-4000:])
    assert done.returncode == 0, "timed out" if done.returncode == 124 else f"the script ended with {done.returncode}"
    boots = re.findall(r"^\+ (?:tools/qemu .*)$", done.stdout, re.MULTILINE)
    assert len(boots) == 5 and done.stdout.count("the console said 'AVAILABLE': switched off") == len(boots), boots
    assert (tree / "build/disk").read_bytes() == (tree / "build/image/generic_x86_64_uefi-dev/disk.img").read_bytes()
    assert files(tree) - before == {f"boards/my_board/{p.name}" for p in (SOURCE / "boards/qemu_x86_64").iterdir()}
    assert before <= files(tree)
