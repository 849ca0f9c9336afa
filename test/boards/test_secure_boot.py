"""Secure Boot on the flashed image: the machine takes its owner's keys from the disk, starts what they signed and nothing else, and a
slot that the firmware refuses is left for the one before it."""

import re
import shutil
import subprocess

import pytest

from machine import Guest, SOURCE
from test_update import esp, make_slot, slots

BOARD = "generic_x86_64_uefi"
OUTPUTS = ("manifest.json", "vmlinuz", "initramfs.zst", "fallgate.efi", "disk.img")


def tool(name, *arguments):
    return subprocess.run([SOURCE / "tools" / name, *[str(a) for a in arguments]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "own"
    done = tool("secure-boot-keys", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def image(tmp_path):
    """A copy of the board's image: what is signed here is the test's own."""
    folder = tmp_path / "image"
    folder.mkdir()
    for name in OUTPUTS:
        subprocess.run(["cp", "--sparse=always", SOURCE / "build/image" / f"{BOARD}-dev" / name, folder], check=True)
    return folder


def sign(image, keys, *more):
    return tool("image", BOARD, "--built", "--out", image, "--sign-key", keys / "db.key", "--sign-cert", keys / "db.crt", *more)


def answer(guest, command, pattern):
    guest.type(f"{command}; echo TOLD''-ALL")
    guest.wait_for("TOLD-ALL")
    match = re.search(pattern, guest.text)
    assert match, f"'{command}' did not say '{pattern}':\n{guest.text[-2000:]}"
    guest.text = ""


def put(guest, path, version, tries):
    """A slot with so many tries left."""
    esp(guest, "mcopy", "-o", str(path), f"::/EFI/Linux/fallgate_{version}+{tries}.efi")


def remake(guest, version, tmp_path, keys):
    """Another version's slot: (unsigned, signed) files."""
    plain, signed = tmp_path / f"{version}.efi", tmp_path / f"{version}-signed.efi"
    make_slot(guest, version, plain)
    esp(guest, "mdel", f"::/EFI/Linux/fallgate_{version}+3.efi")
    subprocess.run(["sbsign", "--key", keys / "db.key", "--cert", keys / "db.crt", "--output", signed, plain], check=True, capture_output=True)
    return plain, signed


def test_only_what_the_owner_signed_starts(tmp_path, image, keys, build):
    unsigned = {name: (image / name).read_bytes() for name in ("fallgate.efi", "manifest.json")}
    done = sign(image, keys, "--enrol", keys)
    assert done.returncode == 0, done.stderr
    assert unsigned == {name: (image / name).read_bytes() for name in unsigned}, "what is reproducible must stay as it is"
    guest = Guest(BOARD, tmp_path / "vm", build, image=image, reboots=True, secure=True)
    try:
        # firmware in setup mode takes the keys from the disk, restarts, and checks from then on; the kernel locks itself down
        guest.boot()
        guest.wait_for(r"healthy: fallgate_0\.1\.0\.efi is good", 600)
        answer(guest, "dmesg | grep secureboot", "secureboot: Secure boot enabled")
        answer(guest, "mount -t securityfs none /sys/kernel/security; cat /sys/kernel/security/lockdown", r"\[integrity\]")
        guest.cut_power()

        # an update that is signed is taken as always
        plain, signed = remake(guest, "0.1.1", tmp_path, keys)
        put(guest, signed, "0.1.1", 3)
        guest.boot()
        guest.wait_for(r"healthy: fallgate_0\.1\.1\.efi is good", 400)
        guest.cut_power()

        # one that was altered after it was signed, and one that nobody signed: each costs its tries and nothing more
        plain, signed = remake(guest, "0.1.2", tmp_path, keys)
        altered = bytearray(signed.read_bytes())
        altered[len(altered) // 2] ^= 1
        (tmp_path / "altered.efi").write_bytes(altered)
        put(guest, plain, "0.1.2", 1)
        put(guest, tmp_path / "altered.efi", "0.1.3", 1)
        for _ in range(4):  # firmware may wait for somebody once it has been refused: as often as it takes, its power is cut
            guest.boot()
            if guest.wait_for(r"fallgated 0\.1\.0|No bootable option", 400)[0].startswith("fallgated"):
                break
            assert re.search(r"Error loading \\EFI\\Linux\\fallgate_0\.1\.[23]\S*: (Access Denied|Security Violation)", guest.text)
            guest.cut_power()
        guest.wait_for(r"AVAILABLE", 200)
        guest.cut_power()
        assert slots(guest) == ["fallgate_0.1.0.efi", "fallgate_0.1.1.efi", "fallgate_0.1.2+0-1.efi", "fallgate_0.1.3+0-1.efi"]

        # the loader itself
        loader = tmp_path / "loader"
        esp(guest, "mcopy", "::/EFI/BOOT/BOOTX64.EFI", str(loader))
        altered = bytearray(loader.read_bytes())
        altered[len(altered) // 2] ^= 1
        loader.write_bytes(altered)
        esp(guest, "mcopy", "-o", str(loader), "::/EFI/BOOT/BOOTX64.EFI")
        guest.boot()
        guest.wait_for(r"failed to (load|start) Boot\d+ .*(Access Denied|Security Violation)[\s\S]*No bootable option", 200)
        assert "fallgated" not in guest.text
    finally:
        guest.close()


def test_keys_that_do_not_fit_sign_nothing(tmp_path, image, keys):
    other = tmp_path / "other"
    assert tool("secure-boot-keys", other).returncode == 0
    assert "never written over" in tool("secure-boot-keys", other).stderr
    damaged = tmp_path / "damaged.key"
    damaged.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    key, certificate = keys / "db.key", keys / "db.crt"
    for options, why in (
            (["--sign-key", key], "go together"),
            (["--enrol", keys], "goes with"),
            (["--sign-key", other / "db.key", "--sign-cert", certificate], "is not the key of"),
            (["--sign-key", damaged, "--sign-cert", certificate], "is no private key"),
            (["--sign-key", key, "--sign-cert", key], "is no certificate"),
            (["--sign-key", tmp_path / "none", "--sign-cert", certificate], "No such file"),
            (["--sign-key", key, "--sign-cert", tmp_path], "Is a directory"),
            (["--sign-key", key, "--sign-cert", certificate, "--enrol", other], "would not start this image"),
            (["--sign-key", key, "--sign-cert", certificate, "--enrol", tmp_path], "PK.auth: No such file")):
        done = tool("image", BOARD, "--built", "--out", image, *options)
        assert done.returncode == 1 and why in done.stderr and done.stderr.count("\n") == 1, (options, done.stderr)
        assert not (image / "signed").exists()
    with open(image / "fallgate.efi", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"altered")
    done = sign(image, keys)
    assert done.returncode == 1 and "are not those of manifest.json" in done.stderr, done.stderr
    (image / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in sign(image, keys).stderr
    shutil.rmtree(image)
    assert "nothing is built there" in sign(image, keys).stderr
