"""RAUC as the update client that somebody asked for: in the guest it installs a bundle into the slot that does not run, refuses what is
not signed, not for this board, older or no slot, and the loader counts as before."""

import json
import os
import re
import tarfile

import pytest

from machine import Guest, MIB
from test_secure_boot import tool
from test_update import slots, uki
from board import Board
import rauc

BOARD = "generic_x86_64_uefi"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        done = tool("secure-boot-keys", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory, keys):
    folder = tmp_path_factory.mktemp("image")
    done = tool("image", BOARD, "--flavour", "dev", "--out", folder, "--rauc", keys / "own/db.crt", "--rauc-key", keys / "own/db.key")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def bundles(folder, image, keys):
    """Name -> what the guest is to say about it, packed in one archive on a disk."""
    folder.mkdir()
    log = folder / "log"

    def bundle(name, slot, version, key="own", board=BOARD):
        rauc.make_bundle(Board(board), slot, version, keys / key / "db.key", keys / key / "db.crt", folder / f"{name}.raucb", log)

    def small(name, text):
        path = folder / f"{name}.slot"
        path.write_bytes(b"MZ" + bytes(4094) + f"\n{text}\n".encode() + os.urandom(65536))
        return path

    for version in ("0.1.1", "0.1.2"):
        uki(image, version, folder / f"{version}.efi")
        bundle(version, folder / f"{version}.efi", version)
    newer = small("newer", "IMAGE_VERSION=9.9.9")
    bundle("stranger", newer, "9.9.9", key="other")
    bundle("elsewhere", newer, "9.9.9", board="generic_aarch64_uefi")
    bundle("older", small("older", "IMAGE_VERSION=0.0.9"), "0.0.9")
    bundle("same", small("same", "IMAGE_VERSION=0.1.0"), "0.1.0")
    bundle("noslot", small("noslot", "nothing"), "9.9.9")
    bundle("altered", newer, "9.9.9")
    altered = bytearray((folder / "altered.raucb").read_bytes())
    altered[4096] ^= 1
    (folder / "altered.raucb").write_bytes(altered)
    (folder / "cut.raucb").write_bytes((folder / "older.raucb").read_bytes()[:-1000])
    disk = folder / "disk"
    with tarfile.open(disk, "w") as archive:
        for path in sorted(folder.glob("*.raucb")):
            archive.add(path, path.name)
    with open(disk, "r+b") as file:
        file.truncate((disk.stat().st_size + MIB) // MIB * MIB)
    return disk


def update(guest, name):
    """(exit code, what it said)"""
    guest.text = ""
    guest.type(f"/usr/libexec/fallgate/update /run/bundles/{name}.raucb; echo UPDATE''-RC $?")
    code = int(guest.wait_for(r"UPDATE-RC (\d+)", 300)[1])
    return code, guest.text


def fetch(guest):
    guest.type("mkdir /run/bundles; mount -t tmpfs -o size=80m none /run/bundles")
    guest.type("for d in /sys/block/vd*; do [ $(cat $d/serial) != bundles ] || tar -x -f /dev/${d##*/} -C /run/bundles; done; ls /run/bundles")
    guest.type("[ -f /run/bundles/stranger.raucb ] && echo FE''TCHED")
    guest.wait_for("FETCHED")


def test_a_bundle_becomes_a_slot_on_trial(tmp_path, image, keys, build):
    cost = json.loads((image / "manifest.json").read_text())["costs"]["rauc"]
    assert 0 < cost["packed"] < cost["raw"]
    disk = bundles(tmp_path / "bundles", image, keys)
    more = ["-drive", f"if=none,id=bundles,format=raw,readonly=on,file={disk}", "-device", "virtio-blk-pci,drive=bundles,serial=bundles"]
    guest = Guest(BOARD, tmp_path / "vm", build, image=image, reboots=True, more=more)
    try:
        guest.boot()
        guest.wait_for("AVAILABLE", 400)
        guest.wait_for(r"healthy: fallgate_0\.1\.0\.efi is good", 400)
        fetch(guest)
        guest.type("mount -t vfat /dev/vda1 /run/esp; echo old >/run/esp/EFI/Linux/fallgate_0.0.1.efi; "
                   "umount /run/esp; echo OL''DER")
        guest.wait_for("OLDER")
        for name, why in (("stranger", "verify|self.signed|signature"), ("elsewhere", "incompatible|Compatible"), ("altered", "rror"),
                          ("older", "is older than 0.1.0"), ("same", "is what runs"), ("noslot", "is no slot"), ("cut", "rror"),
                          ("missing", "no such file")):
            code, said = update(guest, name)
            assert code == 1 and re.search(why, said), f"{name}: {said}"
        guest.type("mount -t vfat /dev/vda1 /run/esp; ls /run/esp/EFI/Linux | cat; umount /run/esp; echo LIS''TED")
        guest.wait_for("LISTED")
        assert re.search(r"^fallgate_0\.0\.1\.efi", guest.text, re.MULTILINE), "what was refused took a slot away"
        code, said = update(guest, "0.1.1")
        assert code == 0 and "0.1.1 is tried at the next start" in said, said
        guest.type("ls /run; pidof rauc dbus-daemon; mount | grep -c update; echo LE''FT")
        left = guest.wait_for(r"LE''FT\r?\n([\s\S]*)LEFT", 60)[1]
        assert "fallgate-update" not in left and left.split()[-1] == "0", left
        guest.cut_power()
        assert slots(guest) == ["fallgate_0.1.0.efi", "fallgate_0.1.1+3.efi"]

        guest.boot()
        guest.wait_for(r"fallgated 0\.1\.0", 400)
        fetch(guest)
        code, said = update(guest, "0.1.2")  # before it is found good, or after: both are fine, see below
        good = re.search(r"0\.1\.1\.efi is good", guest.text) or guest.wait_for(r"healthy: fallgate_0\.1\.1\.efi is good", 400)
        assert good
        if code != 0:
            assert "has not been found good" in said
            code, said = update(guest, "0.1.2")
        assert code == 0, said
        guest.cut_power()
        assert slots(guest) == ["fallgate_0.1.1.efi", "fallgate_0.1.2+3.efi"], "the running slot stays, the other one gives way"
    finally:
        guest.close()


def test_what_does_not_fit_is_said(tmp_path, keys):
    own, other = keys / "own", keys / "other"
    for board, options, why in (
            (BOARD, ["--rauc-key", own / "db.key"], "goes with --rauc"),
            (BOARD, ["--rauc", own / "db.crt", "--rauc-key", other / "db.key"], "is not the key of"),
            (BOARD, ["--rauc", own / "db.key"], "is no certificate"),
            (BOARD, ["--rauc", tmp_path / "none"], "No such file"),
            ("qemu_x86_64", ["--rauc", own / "db.crt"], "boots without UEFI")):
        done = tool("image", board, "--built", "--out", tmp_path, *options)
        assert done.returncode == 1 and why in done.stderr and done.stderr.count("\n") == 1, (options, done.stderr)
