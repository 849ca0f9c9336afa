"""RAUC as a client in the image, for who asks for it: its configuration, and the bundle that it installs.

What must stay true: an image takes bundles for its own board, signed by the one certificate that it carries; what RAUC costs is told by
the manifest; an image made without it has none of it.
"""
import shutil
from pathlib import Path

from private_apt import run
import signing

OVERLAY = Path(__file__).resolve().parent.parent / "boards/common/rauc"
MODULES = ("loop", "squashfs", "dm-verity")
PLACE = "usr/share/fallgate/rauc"
BUNDLE = "fallgate.raucb"
MANIFEST = """[update]
compatible={board}
version={version}

[bundle]
format=verity

[image.uki]
filename=slot.img
"""


def check_certificate(path):
    signing.der_of(path)
    return Path(path).resolve()


def add_client(tree, board, certificate):
    """The client's files, for a tree that has its programs."""
    tree.add_folder(OVERLAY)
    template = f"{PLACE}/system.conf.in"
    _, text, _ = tree.entries.pop(template)
    tree.file(f"{PLACE}/system.conf", text.replace(b"@BOARD@", board.name.encode()), 0o644)
    tree.file(f"{PLACE}/keyring.pem", certificate.read_bytes(), 0o644)


def make_bundle(board, slot, version, key, certificate, out, log):
    """A slot as `update BUNDLE` installs it."""
    signing.need("rauc", "mksquashfs")
    work = out.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    (work / "in").mkdir(parents=True)
    try:
        shutil.copyfile(slot, work / "in/slot.img")
        (work / "in/manifest.raucm").write_text(MANIFEST.format(board=board.name, version=version), encoding="ascii")
        run(["rauc", "--cert", certificate, "--key", key, "--keyring", certificate, "bundle", work / "in", work / BUNDLE], log)
        (work / BUNDLE).replace(out)
    finally:
        shutil.rmtree(work)
