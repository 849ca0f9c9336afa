"""Parts that hang, lie or flood while the rest goes on: an HSM with a hiccup, a manager that stands still, clients of the block
device and of the network that want nothing good. What is looked at is always the same: does a revoke still get through, in time?"""

import contextlib
import os
import shutil
import signal
import time

import nbd
import pytest

from conftest import make_lab, running_lab
from lab import LabError, UIDS


# ---- an HSM with a hiccup ----

def flaky_programs(lab):
    """A libexec directory whose hsm fails once each time that `mark` is not there: a token that is not seen for a moment."""
    programs = lab.root / "programs"
    programs.mkdir()
    for entry in lab.bin.iterdir():
        (programs / entry.name).symlink_to(entry)
    (lab.root / "flaky").mkdir()
    if lab.as_root:
        os.chown(lab.root / "flaky", UIDS["hsm"], UIDS["hsm"])
    mark = lab.root / "flaky/mark"
    (programs / "fallgate-hsm").unlink()
    (programs / "fallgate-hsm").write_text(f"#!/bin/sh\nmkdir {mark} 2>&- && exit 1\nexec {lab.bin}/fallgate-hsm \"$@\"\n")
    os.chmod(programs / "fallgate-hsm", 0o755)
    lab.libexec = programs
    return mark


@pytest.mark.parametrize("kek_type", ["rsa2048", "aes256"])
def test_a_hiccup_of_the_hsm_does_not_fail_a_creation_or_a_check(kek_type):
    lab = make_lab(kek_type=kek_type)
    try:
        lab.make_token()
        lab.make_kek()
        mark = flaky_programs(lab)
        lab.write_config()
        conf = lab.root / "fallgate.conf"
        lab.write_volume("demo", "16M")
        lab.write_volume("other", "16M")
        checked = lab.cli("config", "check", "--config", conf, check=False)
        assert checked.code == 0 and mark.exists(), checked
        lab.start()
        lab.enroll_all()
        for name in ("demo", "other"):
            mark.rmdir()
            created = lab.cli("create", name, role="operator", check=False)
            assert created.code == 0, created
            assert mark.exists()
            lab.wait_state("AVAILABLE", name)
    finally:
        lab.close()


# ---- a manager that stands still ----

def test_a_manager_that_hangs_is_replaced():
    lab = running_lab(volumes=(("demo", "16M"),))
    try:
        def managers():
            return [pid for pid, line in lab.processes().items() if "fallgate-mgmt" in line]
        hung = managers()
        os.kill(hung[0], signal.SIGSTOP)
        lab.wait_for(lambda: managers() and managers() != hung, 20, "another manager")
        lab.wait_for(lambda: lab.cli("revoke", "demo", role="officer", check=False, timeout=30).code == 0, 10, "a revoke from afar")
        assert lab.wait_state("INACCESSIBLE")["cause"] == "commanded"
        lab.cli("restore", "demo", role="officer")
        lab.wait_state("AVAILABLE")
        still = managers()
        time.sleep(8)
        assert managers() == still, "a manager that is well was replaced"
    finally:
        lab.close()


def test_what_a_manager_had_no_room_for_is_told_again():
    """It stands still for a moment, and of more changes than its channel holds it hears the last one all the same: else it would tell an
    old state for ever, and ask for a restore of a gate that has moved."""
    lab = running_lab(volumes=(("demo", "16M"),))
    try:
        manager = next(pid for pid, line in lab.processes().items() if "fallgate-mgmt" in line)
        os.kill(manager, signal.SIGSTOP)
        began = time.monotonic()
        try:
            while time.monotonic() - began < 3:  # less than what counts as hung
                lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "revoke", "demo", "--local", check=False)
        finally:
            os.kill(manager, signal.SIGCONT)
        last = lab.ledger_settled()[-1]["gate_seq"]
        lab.wait_for(lambda: lab.status()["gate_seq"] == lab.ledger()[-1]["gate_seq"] >= last, 5, "the newest status")
        lab.cli("restore", "demo", role="officer")
        lab.wait_state("AVAILABLE")
    finally:
        lab.close()


def test_a_supervisor_that_was_killed_is_back_at_once_though_its_manager_hangs():
    lab = running_lab(volumes=(("demo", "16M"),))
    try:
        for stopped in ("none", "fallgate-mgmt", "fallgate-hsm", "none"):
            for pid, line in lab.processes().items():
                if stopped in line:
                    os.kill(pid, signal.SIGSTOP)
            lab.kill()
            lab.start()
            lab.wait_for(lambda: lab.cli("status", role="auditor", check=False).code == 0, 10, "the management")
            lab.wait_state("AVAILABLE")
            lab.wait_for(lambda: len(lab.processes()) <= 5, 10, "the end of those of before", lab.processes)
    finally:
        lab.close()


# ---- a store that hangs ----

@contextlib.contextmanager
def store_behind_fuse(*names):
    """The first volume's file is behind FUSE; all are open. Stop the server, and that store hangs."""
    lab = running_lab(volumes=tuple((name, "16M") for name in names))
    place = lab.root / "mount"
    place.mkdir()
    server = None
    try:
        if not (shutil.which("nbdfuse") and os.path.exists("/dev/fuse") and lab.as_root):
            pytest.skip("nbdfuse, /dev/fuse and root are needed")
        lab.stop()
        server = lab.spawn("nbdfuse", "-o", "allow_other", place, "--command", "nbdkit", "-s", "file", lab.root / f"volumes/{names[0]}.img")
        try:
            lab.wait_for((place / "nbd").exists, 5, "the mount")
        except LabError:
            pytest.skip("FUSE cannot be mounted here")
        lab.write_volume(names[0], "16M", backing=place / "nbd")
        lab.start()
        for name in names:
            lab.wait_state("AVAILABLE", name)
        yield lab, server
    finally:
        if server:
            server.send_signal(signal.SIGCONT)
            time.sleep(0.2)
        lab.close()


def test_a_store_that_hangs_in_its_open_holds_up_nobody_else():
    """A file behind FUSE whose server stands still: its own volume is wiped at once, and the others serve, and fall when told to."""
    with store_behind_fuse("demo", "other") as (lab, server):
        server.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # what the kernel knows of the file's attributes is out of date: the next open asks the server
        lab.cli("revoke", "demo", role="officer")
        lab.wait_state("INACCESSIBLE", "demo")
        for _ in range(8):  # longer than a heartbeat: its dataplane would lock itself
            time.sleep(0.5)
            assert lab.state("other") == "AVAILABLE"
        assert "locking" not in lab.log()
        revoked = lab.cli("revoke", "other", role="officer", check=False)
        assert revoked.code == 0 and revoked.seconds < 4, revoked
        assert lab.wait_state("INACCESSIBLE", "other", 4)["cause"] == "commanded"


def test_a_detach_that_cannot_end_does_not_say_that_it_did():
    """Its keys are wiped, and what was acknowledged is still on its way: nobody may take the store yet."""
    with store_behind_fuse("demo") as (lab, server):
        handle = nbd.NBD()
        handle.connect_uri(lab.uri())
        handle.pwrite(os.urandom(1 << 20), 0)
        server.send_signal(signal.SIGSTOP)
        done = lab.cli("detach", "demo", role="operator", check=False)
        assert done.code == 16 and "still being written" in done.err, done
        assert lab.state() == "LOCKED" and lab.dataplanes()
        server.send_signal(signal.SIGCONT)
        assert lab.cli("detach", "demo", role="operator", check=False).code in (0, 18)  # waits for the first one's end, or finds it over
        assert not lab.dataplanes()
