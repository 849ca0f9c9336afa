"""Bad input, as users give it: one clear line with the remedy, the documented exit code, nothing changed. The table below is the list of
errors and their remedies that the product promises."""

import fcntl
import os
import subprocess
import pathlib
import struct
import time

import pytest

from conftest import make_lab
from lab import SOFTHSM

# name, what is done to a good configuration, exit code, words that the one line must have
CONFIG = [
    ("unknown key", ("fallgate.conf", "state_dir =", "stat_dir ="), 3, ["fallgate.conf:2", "stat_dir"]),
    ("unknown section", ("fallgate.conf", "[agent]", "[agnet]"), 3, ["agnet"]),
    ("unknown section without keys", ("fallgate.conf", "[agent]", "[agnet]\n[agent]"), 3, ["agnet"]),
    ("watchdog that is not there", ("fallgate.conf", "[agent]", "[agent]\nwatchdog = /nowhere"), 9, ["watchdog", "/nowhere"]),
    ("entropy that is not there", ("fallgate.conf", "[agent]", "[agent]\nentropy = /dev/nowhere"), 9, ["entropy", "/dev/nowhere"]),
    ("tamper line that is not there", ("fallgate.conf", "[agent]", "[tamper]\nsource = gpio:/dev/nowhere:3:low\n[agent]"), 9, ["tamper", "/dev/nowhere"]),
    ("bad duration", ("fallgate.conf", "[kek main]", "[kek main]\nprobe_interval = soon"), 3, ["probe_interval", "soon"]),
    ("negative budget", ("fallgate.conf", "[kek main]", "[kek main]\noutage_budget = -1s"), 3, ["outage_budget", "-1s"]),
    ("a PIN in the URI", ("fallgate.conf", "?pin-source=file:", "?pin-value=1234&x="), 3, ["pin-value", "pin-source"]),
    ("URI with an unknown attribute", ("fallgate.conf", "pkcs11:token=", "pkcs11:colour=red;token="), 3, ["uri"]),
    ("URI that does not parse", ("fallgate.conf", "uri = pkcs11:", "uri = pkcs12:"), 3, ["uri"]),
    ("module that is not there", ("fallgate.conf", "module = /usr", "module = /nowhere"), 3, ["fallgate.conf:", "/nowhere"]),
    ("relative path", ("fallgate.conf", "module = /usr", "module = usr"), 3, ["module"]),
    ("volume with an unknown kek", ("volumes.d/demo.conf", "kek = main", "kek = mian"), 3, ["demo.conf", "mian"]),
    ("volume with a bad size", ("volumes.d/demo.conf", "size = 64M", "size = 64Q"), 3, ["demo.conf:3", "64Q"]),
    ("volume with size zero", ("volumes.d/demo.conf", "size = 64M", "size = 0"), 3, ["demo.conf:3", "size"]),
    ("volume with an unaligned size", ("volumes.d/demo.conf", "size = 64M", "size = 1000"), 3, ["demo.conf:3", "4096"]),
    ("volume with an unknown key", ("volumes.d/demo.conf", "attach = auto", "atach = auto"), 3, ["demo.conf:5", "atach"]),
    ("on_lock that is not there", ("volumes.d/demo.conf", "attach = auto", "on_lock = explode"), 3, ["on_lock", "explode"]),
    ("kek that is not in the token", ("fallgate.conf", "object=kek", "object=kekk"), 14, ["fallgate.conf:", "kekk", "deleted"]),
    ("token that is not there", ("fallgate.conf", "token=customer", "token=customers"), 15, ["fallgate.conf:", "customers", "unreachable"]),
]


def edit(lab, change):
    name, old, new = change
    path = lab.root / name
    text = path.read_text()
    assert old in text, (old, text)
    path.write_text(text.replace(old, new, 1))


def check_config(lab):
    return lab.cli("config", "check", "--config", lab.root / "fallgate.conf", check=False)


def test_the_good_configuration_is_good(lab):
    lab.write_volume("demo", "64M")
    result = check_config(lab)
    assert result.code == 0, result
    assert not list((lab.root / "state").iterdir()), "a dry check left something behind"


@pytest.mark.parametrize("name,change,code,words", CONFIG, ids=[row[0].replace(" ", "-") for row in CONFIG])
def test_config(lab, name, change, code, words):
    lab.write_volume("demo", "64M")
    edit(lab, change)
    result = check_config(lab)
    assert result.code == code, result
    text = result.out + result.err
    for word in words:
        assert word in text, (word, result)
    assert not list((lab.root / "state").iterdir()), "a dry check left something behind"


def test_two_volumes_on_one_backing_file(lab):
    lab.write_volume("one", "64M", backing=lab.root / "volumes/same.img")
    lab.write_volume("two", "64M", backing=lab.root / "volumes/same.img")
    result = check_config(lab)
    assert result.code == 3 and "one" in result.out + result.err and "two" in result.out + result.err


def test_programs_that_are_not_there(lab):
    lab.write_volume("demo", "64M")
    result = lab.run(lab.bin / "fallgated", "--config", lab.root / "fallgate.conf", "--libexec", lab.root, "--check", check=False, timeout=20)
    assert result.code == 3 and "fallgate-hsm" in result.err and "--libexec" in result.err, result


BLIND = ("unshare", "-m", "--propagation", "private", "mount", "--bind", "/dev/null", "/usr/bin/nbdkit")


@pytest.mark.skipif(subprocess.run(BLIND, stderr=subprocess.DEVNULL, check=False).returncode != 0, reason="a program cannot be hidden from the agent alone here")
def test_a_server_that_is_not_there_keeps_its_own_volumes_shut(lab):
    """A check fails on it; the agent says it and starts: volumes that another serves are not to stay shut, too."""
    lab.write_volume("demo", "64M")
    folder = lab.root / "blind"
    folder.mkdir()
    for path in lab.bin.iterdir():
        (folder / path.name).symlink_to(path)
    script = folder / "fallgated"
    script.unlink()
    script.write_text("#!/bin/sh\nexec unshare -m --propagation private sh -c 'mount --bind /dev/null /usr/bin/nbdkit && exec \"$0\" \"$@\"' "
                      f'"{lab.bin}/fallgated" "$@"\n')
    script.chmod(0o755)
    lab.bin = folder
    result = lab.run(lab.bin / "fallgated", "--config", lab.root / "fallgate.conf", "--libexec", lab.bin, "--check", check=False, timeout=20)
    assert result.code == 3 and "/usr/bin/nbdkit" in result.err and "install nbdkit" in result.err, result
    lab.start()
    assert "/usr/bin/nbdkit" in lab.log() and "install nbdkit" in lab.log()


def test_a_state_directory_that_others_may_enter(lab):
    lab.write_volume("demo", "64M")
    (lab.root / "state").chmod(0o755)
    result = check_config(lab)
    assert result.code == 17 and "chmod 0700" in result.out + result.err, result


def test_a_bad_name(lab):
    lab.write_volume("Od d", "64M")
    result = check_config(lab)
    assert result.code == 3 and "Od d" in result.out + result.err


def test_the_agent_does_not_start_on_a_bad_configuration(lab):
    lab.write_volume("demo", "64M")
    edit(lab, ("volumes.d/demo.conf", "size = 64M", "size = lots"))
    result = lab.run(lab.bin / "fallgated", "--config", lab.root / "fallgate.conf", "--libexec", lab.bin, check=False, timeout=20)
    assert result.code == 3 and "lots" in result.err


def started(lab):
    lab.start()
    lab.enroll_all()
    return lab


def shut(lab, name="demo"):
    """Until nobody has its file open: LOCKED is when the keys are gone, and the rest follows."""
    lab.cli("detach", name, role="operator", check=False)
    lab.wait_state("LOCKED", name)
    lab.wait_for(lambda: not lab.dataplanes(name), 10, "the end of the data plane")


def create(lab, *more):
    return lab.cli("create", "demo", *more, role="operator", check=False)


def test_wrong_pin_costs_one_try_and_says_so(lab):
    lab.write_volume("demo", "64M")
    good = (lab.root / "pins/pin").read_text()
    (lab.root / "pins/pin").write_text("wrong-pin\n")
    started(lab)
    result = create(lab)
    assert result.code == 14 and "PIN" in result.err, result
    assert not (lab.root / "volumes/demo.img").exists()
    again = create(lab)
    assert again.code == 14 and "PIN" in again.err
    lab._secret("pins/renewed", good.strip())
    (lab.root / "pins/renewed").rename(lab.root / "pins/pin")  # in one step: half a PIN would be one more wrong one
    lab.wait_for(lambda: create(lab).code == 0, 15, "a create with the renewed PIN")


def test_a_kek_without_its_rights(lab):
    lab.write_volume("demo", "64M")
    lab.kek("disable")
    started(lab)
    result = create(lab)
    assert result.code == 14 and ("disabled" in result.err or "CKA_" in result.err), result
    assert not (lab.root / "volumes/demo.img").exists()


@pytest.mark.parametrize("kind,word", [("extractable", "EXTRACTABLE"), ("readable", "SENSITIVE")])
def test_a_kek_that_could_leave_its_token_is_refused(lab, kind, word):
    lab.run(lab.bin / "make_loose_key", SOFTHSM, f"pkcs11:token={lab.token}", lab.root / "pins/pin", "loose", kind, user="hsm")
    lab.write_config(label="loose")
    lab.write_volume("demo", "64M")
    checked = check_config(lab)
    assert checked.code == 14 and word in checked.out + checked.err and "loose" in checked.out + checked.err, checked
    assert not list((lab.root / "state").iterdir()), "a dry check left something behind"
    started(lab)
    result = create(lab)
    assert result.code == 14 and word in result.err and result.err.count("\n") == 1, result
    assert not (lab.root / "volumes/demo.img").exists()


def test_a_file_system_is_not_overwritten(lab):
    backing = lab.write_volume("demo", "64M")
    with open(backing, "wb") as file:
        file.truncate(80 << 20)
    lab.run("mke2fs", "-q", "-F", backing)
    before = backing.read_bytes()
    started(lab)
    result = create(lab)
    assert result.code == 8 and "ext" in result.err and "--force" in result.err, result
    assert backing.read_bytes() == before
    assert create(lab, "--force").code == 0


def test_a_volume_is_not_created_twice(agent):
    result = create(agent)
    assert result.code in (8, 18) and "demo" in result.err


def test_attached_already(agent):
    result = agent.cli("attach", "demo", role="operator", check=False)
    assert result.code == 18 and "demo" in result.err


def test_a_busy_backing_file(lab):
    backing = lab.write_volume("demo", "64M", attach="manual")
    started(lab)
    assert create(lab).code == 0
    shut(lab)
    with open(backing, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        lab.cli("attach", "demo", role="operator", check=False)
        lab.wait_for(lambda: "hold" in lab.status()["text"] or "busy" in lab.status()["text"], 15, "the busy backing named in the status")
        assert lab.state() != "AVAILABLE"


HEADERS = {
    "noise": lambda raw: os.urandom(len(raw)),
    "zeroes": lambda raw: bytes(len(raw)),
    "truncated": lambda raw: raw[: len(raw) // 2 // 4096 * 4096],
    "odd length": lambda raw: raw[:-100],
    "both headers flipped": lambda raw: bytes([raw[0] ^ 1]) + raw[1:0x50] + bytes([raw[0x50] ^ 1]) + raw[0x51:-65536 + 0x50] +
    bytes([raw[-65536 + 0x50] ^ 1]) + raw[-65536 + 0x51:],
}


@pytest.mark.parametrize("kind", list(HEADERS))
def test_corrupt_and_foreign_headers(agent, kind):
    shut(agent)
    backing = agent.root / "volumes/demo.img"
    raw = backing.read_bytes()
    damaged = HEADERS[kind](raw)
    backing.write_bytes(damaged)
    agent.cli("attach", "demo", role="operator", check=False)
    agent.wait_for(lambda: agent.status()["text"], 15, "a clear line about the damage")
    time.sleep(1)
    status = agent.status()
    assert status["state"] != "AVAILABLE"
    assert any(w in status["text"] for w in ("header", "magic", "size", "smaller", "4096")), status["text"]
    assert backing.read_bytes() == damaged, "a damaged volume was written to"
    shut(agent)
    backing.write_bytes(raw)
    agent.cli("attach", "demo", role="operator")
    agent.wait_state("AVAILABLE", timeout=15)


def test_one_damaged_header_is_no_harm(agent):
    shut(agent)
    backing = agent.root / "volumes/demo.img"
    with open(backing, "r+b") as file:
        file.write(os.urandom(65536))
    agent.cli("attach", "demo", role="operator")
    agent.wait_state("AVAILABLE", timeout=15)


def test_records_that_are_damaged_or_another_devices(agent):
    """What is wrong with them, and which copy to bring back, stands where an operator looks: in the status, and in the log."""
    agent.stop()
    record = agent.root / "state/volumes/demo"
    good, key = record.read_bytes(), (agent.root / "state/device.key").read_bytes()
    record.write_bytes(good + b"x")
    agent.start()
    status = agent.status()
    assert not status["formatted"] and "the record of volume demo is damaged" in status["text"] and "backup" in status["text"], status
    agent.stop()
    record.write_bytes(good)
    (agent.root / "state/device.key").unlink()
    agent.start()
    agent.stop()
    assert "device.key was missing and is made anew" in agent.log_path.read_text()
    (agent.root / "state/device.key").write_bytes(key)
    agent.start()
    agent.wait_state("AVAILABLE")


def test_a_volume_of_another_kek(lab):
    """Volume A's file put in the place of volume B: refused, named, unharmed."""
    a = lab.write_volume("demo", "64M")
    b = lab.write_volume("other", "64M")
    started(lab)
    for name in ("demo", "other"):
        assert lab.cli("create", name, role="operator", check=False).code == 0
        lab.wait_state("AVAILABLE", name)
        shut(lab, name)
    a.rename(a.with_suffix(".tmp"))
    pathlib.Path(b).rename(a)
    lab.cli("attach", "demo", role="operator", check=False)
    lab.wait_for(lambda: lab.status()["text"], 15, "a clear line")
    time.sleep(1)
    assert lab.state() != "AVAILABLE"
    assert "another" in lab.status()["text"] or "foreign" in lab.status()["text"] or "uuid" in lab.status()["text"].lower(), lab.status()["text"]


def test_a_full_disk(lab):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    small = lab.root / "small"
    small.mkdir()
    lab.run("mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", small)
    try:
        backing = lab.write_volume("demo", "64M", backing=small / "demo.img")
        (small / "filler").write_bytes(bytes(2 * 1024 * 1024 - 4096))
        started(lab)
        result = create(lab)
        assert result.code == 6 and ("full" in result.err or "space" in result.err), result
        assert not backing.exists(), "half a volume was left behind"
        assert lab.status()["state"] != "AVAILABLE"
        (small / "filler").unlink()
    finally:
        lab.stop()
        lab.run("umount", "-l", small, check=False)


def test_a_file_takes_all_its_room_at_once(lab):
    """A disk that fills up later cannot fail a write that was acknowledged: the volume's room is taken when it is created."""
    backing = lab.write_volume("demo", "64M")
    started(lab)
    assert create(lab).code == 0
    assert os.stat(backing).st_blocks * 512 >= 64 << 20


BACKINGS = [  # name, backing, size, code of the check, of the creation, a word of both
    ("folder", "/etc", "64M", 3, 3, "/etc"),
    ("odd", "/dev/null", "64M", 3, 3, "neither a regular file nor a block device"),
    ("nowhere", "/nowhere/at/all.img", "64M", 9, 3, "/nowhere/at/all.img"),
    ("missing", "/dev/nowhere", None, 9, 3, "there is no such file or device"),
]


def test_a_backing_that_cannot_be(lab):
    """The configuration's line is to blame, and not a failing device nor the rights of whoever asked."""
    for name, backing, size, code, _, word in BACKINGS:
        path = lab.write_volume(name, size, backing=backing)
        result = check_config(lab)
        assert result.code == code and word in result.out and f"{name}.conf" in result.out, result
        (lab.root / "volumes.d" / f"{name}.conf").unlink()
        assert path.exists() == (name in ("folder", "odd"))
    started(lab)
    for name, backing, size, _, code, word in BACKINGS:
        lab.write_volume(name, size, backing=backing)
        result = lab.cli("create", name, role="operator", check=False)
        assert result.code == code and word in result.err and "config check" in result.err, result


def test_what_is_wrong_with_a_backing_is_said(lab):
    odd, link = lab.root / "volumes/odd.img", lab.root / "volumes/link.img"
    odd.write_bytes(bytes((8 << 20) + 123))
    link.symlink_to(lab.root / "volumes/not-there.img")
    lab.write_volume("odd", None, backing=odd)
    lab.write_volume("link", "8M", backing=link)
    started(lab)
    for name, code, word in (("odd", 10, f"{(8 << 20) + 123} bytes"), ("link", 3, "leads nowhere")):
        result = lab.cli("create", name, role="operator", check=False)
        assert result.code == code and word in result.err, result
    assert odd.stat().st_size == (8 << 20) + 123 and link.is_symlink()


def test_a_kernel_that_this_machine_does_not_have(lab):
    other = "armv8" if os.uname().machine == "x86_64" else "vaes512"
    backing = lab.write_volume("demo", "64M", more=f"kernel = {other}\n")
    started(lab)
    result = create(lab)
    assert result.code == 20 and "kernel" in result.err and "auto" in result.err, result
    assert not backing.exists()


def test_a_listener_on_the_network_is_called_weak(lab):
    for name, address in (("inside", "127.0.0.1"), ("outside", "0.0.0.0")):
        lab.write_volume(name, "64M", more=f"listen = tcp:{address}:10999\n")
    started(lab)
    findings = lab.cli("posture", role="auditor").out.splitlines()
    assert [line.split()[:2] for line in findings if "plaintext (tcp" in line] == [["weak", "outside"]], findings


def test_a_volume_larger_than_its_disk(lab):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    small = lab.root / "small"
    small.mkdir()
    lab.run("mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", small)
    try:
        backing = lab.write_volume("demo", "64M", backing=small / "demo.img")
        started(lab)
        result = create(lab)
        assert result.code == 6 and "free" in result.err, result
        assert not backing.exists(), "half a volume was left behind"
    finally:
        lab.stop()
        lab.run("umount", "-l", small, check=False)


def test_a_file_system_that_keeps_no_room(lab):
    """ext2 cannot take a file's room before it is written: a volume that is larger than what is free is refused all the same."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    image, small = lab.root / "ext2.img", lab.root / "small"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    small.mkdir()
    lab.run("mke2fs", "-q", "-F", "-t", "ext2", image)
    if lab.run("mount", "-o", "loop", image, small, check=False).code != 0:
        pytest.skip("no loop device, or no ext2, on this machine")
    try:
        lab.write_volume("demo", "1G", backing=small / "demo.img")
        started(lab)
        result = create(lab)
        assert result.code == 6 and "KiB free" in result.err and "has 0 KiB" not in result.err, result
        assert not (small / "demo.img").exists(), "half a volume was left behind"
        lab.write_volume("demo", "8M", backing=small / "demo.img")
        assert create(lab).code == 0
        lab.wait_state("AVAILABLE")
    finally:
        lab.stop()
        lab.run("umount", "-l", small, check=False)


def test_a_device_that_promises_less_than_4k(lab):
    """A loop device of 512-byte blocks: refused by name, nothing left on it, taken when the operator says he knows better."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make a loop device")
    image = lab.root / "loop.img"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    done = lab.run("losetup", "-f", "--show", "-b", "512", image, check=False)
    if done.code != 0:
        pytest.skip("no loop device on this machine")
    device = done.out.strip()
    try:
        lab.write_volume("demo", None, backing=device)
        started(lab)
        result = create(lab)
        assert result.code == 20 and "assume_4k" in result.err, result
        assert not any(image.read_bytes()), "something was left on the device"
        lab.write_volume("demo", None, backing=device, more="assume_4k = yes\n")
        assert create(lab).code == 0
        lab.wait_state("AVAILABLE")
    finally:
        lab.stop()
        lab.run("losetup", "-d", device, check=False)


def test_odd_names_on_the_command_line(shared):
    for name in ("../../etc/passwd", "", "a" * 200, "x y", "-rf", "\n", "demo/../demo"):
        result = shared.cli("status", "--", name, role="auditor", check=False) if name.startswith("-") else shared.cli("status", name, role="auditor", check=False)
        assert result.code in (2, 9, 10), (name, result)
        assert result.err.strip(), name


def test_unknown_verbs_and_options(shared):
    for argv in (("frobnicate",), ("status", "--frob"), ("revoke",), ("enroll", "--role", "king", "x"), ("attach",)):
        result = shared.cli(*argv, check=False)
        assert result.code == 2 and result.err.strip(), (argv, result)


def test_a_damaged_sector_is_an_error_for_that_sector_only(agent):
    import nbd

    handle = nbd.NBD()
    handle.connect_uri(agent.uri())
    block = os.urandom(1 << 20)
    handle.pwrite(block, 0)
    handle.flush()
    raw = (agent.root / "volumes/demo.img").read_bytes()
    # Find sector 100's place: rewrite it and see which 4 KiB of the data changed. (Where that begins is in the header: SPEC.md.)
    data = struct.unpack_from("<Q", raw, 0x58)[0]
    handle.pwrite(block[:4096], 100 * 4096)
    handle.flush()
    after = (agent.root / "volumes/demo.img").read_bytes()
    (damage,) = [at for at in range(data, data + (1 << 20), 4096) if raw[at:at + 4096] != after[at:at + 4096]]
    assert damage == data + 100 * 4096
    with open(agent.root / "volumes/demo.img", "r+b") as file:
        file.seek(damage + 1000)
        file.write(b"\xff\x00\xff\x00")
    outcomes = {}
    for sector in range(90, 111):
        try:
            data = bytes(handle.pread(4096, sector * 4096))
            outcomes[sector] = data == (block[:4096] if sector == 100 else block[sector * 4096:][:4096])
        except nbd.Error as error:
            outcomes[sector] = error.errno
    assert outcomes[100] == "EIO", outcomes
    assert all(v is True for s, v in outcomes.items() if s != 100), outcomes
    agent.wait_for(lambda: agent.status()["stats"]["bad_tags"] >= 1, 15, "the alarm counted in the status")


def test_a_lab_is_left_clean():
    lab = make_lab()
    root = lab.root
    lab.close()
    assert not root.exists()
