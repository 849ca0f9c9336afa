"""The flashed image: it boots through UEFI, finds itself healthy without any HSM, takes an update, and an update that does not work
is tried as often as the loader was told and then left for the one before it. What a slot on trial writes, the older one reads."""

import json
import os
import re
import subprocess
import sys

import nbd
import pytest

from conftest import UEFI_BOARDS
from machine import Guest, SOURCE, MIB

sys.path.insert(0, str(SOURCE / "tools"))
import uefi  # noqa: E402
from board import Board  # noqa: E402

ESP = MIB


def esp(guest, *command):
    """mtools on the disk of a machine that is off."""
    done = subprocess.run([*command[:1], "-i", f"{guest.machine.state}@@{ESP}", *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def slots(guest):
    return sorted(re.sub(r"^::/EFI/Linux/", "", line) for line in esp(guest, "mdir", "-b", "::/EFI/Linux").splitlines())


def uki(image, version, path, initramfs=None):
    """A slot of another version, of the same parts."""
    manifest = json.loads((image / "manifest.json").read_text())
    board = Board(manifest["board"])
    root = subprocess.run([SOURCE / "tools/sysroot", board.arch, "--alone", "--packages", "systemd-boot-efi"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=True).stdout.split()[-1]
    uefi.make_uki(board.arch, uefi.loaders_of(root) / uefi.STUB[board.arch], image / "vmlinuz", initramfs or image / "initramfs.zst",
                  manifest["command_line"], version, manifest["kernel"], path, path.with_suffix(".log"))


def make_slot(guest, version, path, initramfs=None):
    """A slot as an update client would bring it."""
    uki(guest.machine.image, version, path, initramfs)
    esp(guest, "mcopy", "-o", str(path), f"::/EFI/Linux/{uefi.slot_name(version)}")


def connect(guest):
    disk = nbd.NBD()
    disk.connect_uri(guest.uri)
    return disk


def header(guest):
    """What says which format a volume has; who opens a volume writes nothing there."""
    with open(guest.machine.data, "rb") as file:
        return file.read(65536)


def serve_and_write(guest, at):
    guest.wait_state("AVAILABLE")
    disk, piece = connect(guest), os.urandom(MIB)
    disk.pwrite(piece, at)
    disk.flush()
    return piece


@pytest.mark.parametrize("board", UEFI_BOARDS)
def test_a_slot_is_taken_kept_or_left(board, tmp_path, build):
    guest = Guest(board, tmp_path / "vm", build, reboots=True)
    try:
        # the first boot: the slot is on trial, and good once the supervisor answers
        assert slots(guest) == ["fallgate_0.1.0+3.efi"]
        guest.boot()
        guest.wait_for(r"healthy: fallgate_0\.1\.0\.efi is good", 400)
        guest.enrolled()
        first, format_of = serve_and_write(guest, 0), header(guest)
        guest.cut_power()

        # a slot on trial opens the volume, writes, and is given up: the older one finds a volume that it can read
        make_slot(guest, "0.1.1", tmp_path / "trial.efi")
        guest.boot()
        second = serve_and_write(guest, MIB)
        guest.cut_power()
        assert header(guest) == format_of, "a slot on trial changed the volume's header"
        esp(guest, "mdel", "::/EFI/Linux/fallgate_0.1.1*")
        guest.boot()
        guest.wait_state("AVAILABLE")
        assert connect(guest).pread(2 * MIB, 0) == first + second

        # the HSM is cut off for good before the update: firmware is judged without it
        guest.type("mv /state/tokens /state/tokens.away; sync; echo H''SM GONE")
        guest.wait_for("HSM GONE")
        guest.cut_power()
        assert slots(guest) == ["fallgate_0.1.0.efi"]

        make_slot(guest, "0.1.1", tmp_path / "good.efi")
        guest.boot()
        guest.wait_for(r"healthy: fallgate_0\.1\.1\.efi is good", 400)
        assert guest.wait_state("INACCESSIBLE")["state"] == "INACCESSIBLE"
        guest.cut_power()
        assert slots(guest) == ["fallgate_0.1.0.efi", "fallgate_0.1.1.efi"]

        # an update whose initramfs is damaged: the kernel restarts by itself until the loader gives the slot up
        broken = bytearray((guest.machine.image / "initramfs.zst").read_bytes())
        broken[4096:8192] = bytes(4096)
        (tmp_path / "broken.zst").write_bytes(broken)
        make_slot(guest, "0.1.2", tmp_path / "bad.efi", tmp_path / "broken.zst")
        guest.boot()
        guest.wait_for(r"fallgated 0\.1\.0", 900)
        guest.cut_power()
        assert slots(guest) == ["fallgate_0.1.0.efi", "fallgate_0.1.1.efi", "fallgate_0.1.2+0-3.efi"]
    finally:
        guest.close()
