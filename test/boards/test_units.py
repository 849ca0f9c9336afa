"""Unit tests that look at what a kernel does, or that start processes, on each board's own kernel: those that qemu-user cannot run, and
those that hold a kernel's interface. The machine boots the image's kernel into a shell instead of the agent; programs and libraries come
on a disk made of the folder that the build is against."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from conftest import BOARDS
from cross import SOURCE, cross_build, not_under_qemu_user, run
from machine import Guest, MIB

# they run under qemu-user, too, and say less there
KERNELS = ["test_linux_block", "test_linux_entropy_kernel", "test_linux_tamper"]
# not in the machine either: they ask nothing of a kernel that the building machine's does not have
CLOCKS = "its clocks want a real processor"
ELSEWHERE = {"test_hsm_campaign": "a campaign: too long for an emulated processor"} | dict.fromkeys(
    ("test_dataplane_lock", "test_dataplane_hold", "test_faults", "test_jobs", "test_devices", "test_fault_module", "test_hsm_process",
     "test_hsm_process_nss"), CLOCKS)
NAMES = [name for name, _ in not_under_qemu_user()] + KERNELS
UNWANTED = shutil.ignore_patterns("include", "doc", "man", "locale", "gcc", "cmake", "pkgconfig", "*.a", "*.o", "perl*", "gconv", "info",
                                  "lintian", "python3*", "gdb", "zoneinfo", "dpkg", "apt", "systemd", "udev")


def commands(build):
    """name -> (command line, environment, time limit) of every unit test, as ctest has it."""
    tests = json.loads(run("ctest", "--test-dir", build, "--show-only=json-v1", "-L", "unit"))["tests"]
    found = {}
    for test in tests:
        properties = {p["name"]: p["value"] for p in test["properties"]}
        command = test.get("command", [])
        if command and "qemu-aarch64" in command[0]:  # what ctest puts before it: the emulator, -L and the root
            command = command[3:]
        found[test["name"]] = (command, properties.get("ENVIRONMENT", []), properties.get("TIMEOUT", 120))
    return found


def make_disk(arch, build, path, script):
    """The build's libraries, the build itself where it stands here, and a script that runs the tests."""
    command = [SOURCE / "tools/sysroot", arch]
    root = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout.split()[-1]
    stage = path.with_suffix(".stage")
    shutil.copytree(root, stage, symlinks=True, ignore=UNWANTED)
    for name in ("proc", "sys", "dev", "tmp", "run", "var", "root"):
        (stage / name).mkdir(exist_ok=True)
    (stage / "tmp").chmod(0o1777)
    for name in ("bin", "test-bin"):
        shutil.copytree(build / name, stage / str(build / name).lstrip("/"), symlinks=True)
    (stage / "run-units").write_text(script)
    (stage / "etc").mkdir(exist_ok=True)
    (stage / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    (stage / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    size = sum(f.lstat().st_size for f in stage.rglob("*")) // MIB * 5 // 4 + 192
    run("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", stage, path, f"{size}M")
    shutil.rmtree(stage)


SCRIPT_HEAD = """export PATH=/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
mount --bind /dev /run/t/dev
mount -t proc proc /run/t/proc
mount -t sysfs sys /run/t/sys
mount -t tmpfs run /run/t/run
cp /usr/bin/busybox /run/t/usr/bin/ # tests use a shell and its friends
chroot /run/t /usr/bin/busybox --install -s /usr/bin 2>/dev/null
# unit NAME SECONDS VARIABLES PROGRAM [ARGUMENT]...
unit() {
	name=$1 seconds=$2 variables=$3
	shift 3
	echo "unit $name begins"
	began=$(cut -d. -f1 /proc/uptime)
	env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin $variables timeout $seconds chroot /run/t "$@" </dev/null 2>&1
	echo "unit $name ends with $? after $(($(cut -d. -f1 /proc/uptime) - began)) s"
}
"""


class Units:
    def __init__(self, board, folder, build):
        self.output = ""
        arch = "aarch64" if "aarch64" in board else "x86_64"
        build = build if arch == os.uname().machine else cross_build()
        known = commands(build)
        self.commands = {name: known[name] for name in NAMES if name in known}  # of ELSEWHERE, too: they must be tests
        lines = [shlex.join(["unit", name, str(int(limit) * 2), " ".join(environment), *command])
                 for name, (command, environment, limit) in self.commands.items() if name not in ELSEWHERE and self.can_run(name, build)]
        self.build = build
        make_disk(arch, build, folder / "units.img", SCRIPT_HEAD + "\n".join(lines) + "\necho units are over\nsleep 1000\n")
        guest = Guest(board, folder / "vm", build, append="rdinit=/bin/sh", more=[
            "-drive", f"if=none,id=units,format=raw,file={folder}/units.img,cache=unsafe", "-device", "virtio-blk-pci,drive=units,serial=units"])
        try:
            guest.boot()
            guest.wait_for("# ")
            for line in ("mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run; mkdir /run/t",
                         "while read m; do insmod /lib/modules/$m 2>/dev/null; done </lib/modules/order",
                         "for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" = units ] && mount /dev/${d##*/} /run/t; done",
                         "exec sh /run/t/run-units"):
                guest.type(line)
            guest.wait_for("units are over", 1800)
            self.output = guest.text.replace("\r", "")
        finally:
            guest.close()

    def can_run(self, name, build=None):
        return self.commands[name][0][0].startswith(str(build or self.build))


@pytest.fixture(scope="module", params=BOARDS)
def units(request, tmp_path_factory, build):
    return Units(request.param, tmp_path_factory.mktemp(request.param), build)


@pytest.mark.parametrize("name", NAMES)
def test_unit(units, name):
    assert name in units.commands, "no such test any more"
    if name in ELSEWHERE:
        pytest.skip(f"{name}: {ELSEWHERE[name]}")
    if not units.can_run(name):
        assert re.search(r"/(python3|cmake)", units.commands[name][0][0]), f"{name} is no program of the build: {units.commands[name]}"
        pytest.skip(f"{name} is a script: it runs on the machine that builds")
    text = re.search(rf"unit {name} begins\n(.*?)unit {name} ends with (\d+) after \d+ s", units.output, re.DOTALL)
    assert text, f"{name} did not end:\n{units.output[-3000:]}"
    print(text[1])
    if text[2] == "77":
        pytest.skip(f"{name}: {text[1].strip().splitlines()[-1]}")
    assert text[2] == "0", f"{name} ended with {text[2]}:\n{text[1][-3000:]}"
