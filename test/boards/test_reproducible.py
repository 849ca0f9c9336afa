"""The same sources give the same bytes, wherever they lie; a build that differs explains itself."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import UEFI_BOARDS

SOURCE = pathlib.Path(__file__).resolve().parents[2]
LEFT_OUT = ("build", ".cache", ".git")


def image(tree, board, *more):
    environment = dict(os.environ, FALLGATE_CACHE=os.environ.get("FALLGATE_CACHE") or str(SOURCE / ".cache"))
    return subprocess.run([tree / "tools/image", board, *[str(m) for m in more]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, env=environment)


def out(tree, board):
    return tree / "build/image" / f"{board}-release"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    tree = tmp_path_factory.mktemp("a folder with another name") / "tree"
    shutil.copytree(SOURCE, tree, ignore=lambda folder, names: LEFT_OUT if pathlib.Path(folder) == SOURCE else (), symlinks=True)
    yield tree
    shutil.rmtree(tree)


@pytest.mark.parametrize("board", UEFI_BOARDS)
def test_two_folders_same_bytes(board, elsewhere):
    done = image(SOURCE, board)
    assert done.returncode == 0, done.stderr
    done = image(elsewhere, board, "--compare", out(SOURCE, board))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bytes: vmlinuz, initramfs.zst, fallgate.efi, disk.img\n" in done.stdout
    for name in json.loads((out(SOURCE, board) / "manifest.json").read_text())["outputs"]:
        assert (out(SOURCE, board) / name).read_bytes() == (out(elsewhere, board) / name).read_bytes()


def test_a_difference_is_explained(elsewhere):
    board = UEFI_BOARDS[0]
    mine, theirs = out(SOURCE, board), out(elsewhere, board)
    # what was changed after it was built is seen although the manifests agree
    with open(theirs / "disk.img", "r+b") as file:
        file.seek((1 << 20) + 3)
        file.write(b"mkdosfs")
    done = image(SOURCE, board, "--built", "--compare", theirs)
    assert done.returncode == 1 and "disk.img: the manifests agree, the files do not" in done.stdout, done.stdout + done.stderr
    assert re.search(r"^  fallgate-esp \+0x0: .* here, .*6d 6b 64 6f 73 66 73.* there$", done.stdout, re.MULTILINE), done.stdout
    # another source: facts, files, and the very line
    with open(elsewhere / "boards/common/rootfs/etc/inittab", "a", encoding="utf-8") as file:
        file.write("::once:/bin/a-difference\n")
    facts = elsewhere / "boards" / board / "board.ini"
    facts.write_text(facts.read_text().replace("command_line = ", "command_line = different "))
    assert image(elsewhere, board).returncode == 0
    done = image(SOURCE, board, "--built", "--compare", theirs)
    assert done.returncode == 1, done.stdout + done.stderr
    told = [line.split(":")[0] for line in done.stdout.splitlines() if line.split(" ")[0] in ("fact", "package", "file", "output")]
    assert told == ["fact command_line", "file etc/inittab", "output disk.img", "output fallgate.efi", "output initramfs.zst"]
    assert "::once:/bin/a-difference" in (mine / "compare-initramfs.zst.txt").read_text()
    # what is no build
    for text, why in (("{", "is damaged"), ('{"outputs": [], "files": {}, "packages": []}', "is damaged"), ("[" * 100000, "is damaged")):
        (theirs / "manifest.json").write_text(text)
        done = image(SOURCE, board, "--built", "--compare", theirs)
        assert done.returncode == 1 and why in done.stderr and done.stderr.count("\n") == 1, done.stderr
    (theirs / "manifest.json").unlink()
    assert "No such file" in image(SOURCE, board, "--built", "--compare", theirs).stderr
