"""The rules that are installed, by udev itself: what holds a sealed volume is not taken for empty, and a block device gets its volume's
name. A loop device stands in for both, since the kernel that runs this may have no ublk."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, running_lab

RULES = pathlib.Path("/run/udev/rules.d/61-fallgate-test.rules")
TEST = ("udevadm", "test", "--action")

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("udevadm") is None, reason="needs root and udevadm (package udev)")


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)


@pytest.fixture
def loop():
    """image -> its loop device, with nothing left behind."""
    made = []

    def make(image):
        done = run("losetup", "--find", "--show", "--read-only", image)
        if done.returncode != 0:
            pytest.skip(f"no loop device is to be had here: {done.stderr.strip()}")
        made.append(done.stdout.strip())
        return pathlib.Path(made[-1])

    yield make
    for device in made:
        run(*TEST, "remove", f"/sys/block/{pathlib.Path(device).name}")
        run("losetup", "--detach", device)
    RULES.unlink(missing_ok=True)


def properties(device, rules):
    RULES.parent.mkdir(parents=True, exist_ok=True)
    RULES.write_text(rules)
    done = run(*TEST, "add", f"/sys/block/{device.name}")
    assert done.returncode == 0, done.stderr
    assert not re.search(rf"{RULES.name}.*(Invalid|Unknown|Failed)", done.stderr), done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def the_rules():
    text = (BUILD / "generated/61-fallgate.rules").read_text()
    text, count = re.subn(r'"\S+/fallgate volume', f'"{BUILD}/bin/fallgate volume', text)
    assert count == 1
    return text


def test_a_sealed_disk_has_a_type(tmp_path, loop):
    lab = running_lab()
    try:
        lab.stop()
        image = tmp_path / "sealed.img"
        shutil.copy(lab.root / "volumes/demo.img", image)
    finally:
        lab.close()
    found = properties(loop(image), the_rules())
    assert found["ID_FS_TYPE"] == "fallgate_volume" and found["ID_FS_USAGE"] == "crypto"
    assert f"/dev/disk/by-uuid/{found['ID_FS_UUID']}" in found["DEVLINKS"].split()


def test_other_disks_are_left_as_they_are(tmp_path, loop):
    plain, blank = tmp_path / "ext4.img", tmp_path / "blank.img"
    for image in (plain, blank):
        image.write_bytes(bytes(4 << 20))
    assert run("mke2fs", "-q", "-t", "ext4", plain).returncode == 0
    assert properties(loop(plain), the_rules())["ID_FS_TYPE"] == "ext4"
    assert "ID_FS_TYPE" not in properties(loop(blank), the_rules())


def test_a_block_device_has_its_volumes_name(tmp_path, loop):
    image = tmp_path / "device.img"
    image.write_bytes(bytes(1 << 20))
    device = loop(image)
    marks = tmp_path / "devices"
    marks.mkdir()
    rules = the_rules().replace("/run/fallgate/devices", str(marks)).replace("ublkb[0-9]*", "loop[0-9]*")
    assert "fallgate/" not in properties(device, rules).get("DEVLINKS", ""), "a device that is not ours"
    (marks / device.name).write_text("FALLGATE_VOLUME=udev-test\n")
    assert "/dev/fallgate/udev-test" in properties(device, rules)["DEVLINKS"].split()
    assert pathlib.Path("/dev/fallgate/udev-test").resolve() == device
