"""What latches a gate besides an officer: a tamper line, too many sectors that fail their check. What a wall clock that is set back or
forward does. What becomes of a volume that stays shut. And a revoke that comes while a volume is being made."""

import os
import signal
import struct
import threading
import time

import nbd
import pytest

from conftest import BUILD, make_lab, running_lab
from lab import Lab

HELD = "on_lock = hold\nhold_timeout = 60s\n"


def client(lab, name="demo"):
    handle = nbd.NBD()
    handle.connect_uri(lab.uri(name))
    return handle


# ---- tamper ----


def lab_with_line(kind, volumes=(("demo", "64M"), ("other", "64M")), more=""):
    lab = make_lab()
    try:
        line = lab.root / "line"
        if kind == "fifo":
            os.mkfifo(line, 0o600)
        else:
            line.write_text("0\n")
        lab.make_token()
        lab.make_kek()
        lab.write_config(kek=f"[tamper]\nsource = {kind}:{line}\n")
        for name, size in volumes:
            lab.write_volume(name, size, more=more)
        lab.start()
        lab.enroll_all()
        for name, _ in volumes:
            lab.cli("create", name, role="operator")
            lab.wait_state("AVAILABLE", name)
        lab.line = line
    except BaseException:
        lab.close()
        raise
    return lab


def touch(lab):
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with open(lab.line, "w") as file:
        file.write("1\n")
    return began


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_a_tamper_line_locks_and_latches_everything(kind):
    lab = lab_with_line(kind, more=HELD)
    try:
        handle = client(lab)
        handle.pwrite(b"t" * 4096, 0)
        began = touch(lab)
        for name in ("demo", "other"):
            lab.wait_for(lambda: lab.status(name)["latched"], 15, "the latch")
            status = lab.wait_state("INACCESSIBLE", name)
            assert status["cause"] == "tamper" and status["latch_cause"] == "tamper"
            assert (status["lock"]["wiped_ns"] + 0) > 0
        wiped = [e["wiped_ns"] for e in lab.wait_ledger("wiped", 2, cause="tamper")]
        assert len(wiped) == 2 and all(w - began < 3_000_000_000 for w in wiped), "the bound proper is measured by tools/bench"
        with pytest.raises(nbd.Error):  # nothing is held for a machine that is being opened
            handle.pread(4096, 0)
            handle.pread(4096, 0)
        if kind == "file":  # still active: a restore does not last
            lab.cli("restore", "demo")
            lab.wait_for(lambda: lab.status()["latched"], 15, "the latch again")
            lab.line.write_text("0\n")
            time.sleep(0.2)
        lab.stop()
        lab.start()
        lab.wait_for(lambda: lab.status()["latched"], 10, "the latch across a restart")
        for name in ("demo", "other"):
            lab.cli("restore", name)
            lab.wait_state("AVAILABLE", name)
        assert client(lab).pread(4096, 0) == b"t" * 4096
    finally:
        lab.close()


def test_a_line_that_is_not_there_is_no_agent():
    lab = make_lab()
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config(kek="[tamper]\nsource = fifo:/no/such/line\n")
        lab.start(wait=False)
        assert lab.agent.wait(20) != 0
        assert "[tamper] source = fifo:/no/such/line" in lab.log()
    finally:
        lab.close()


# ---- integrity ----


def damage(image, first, count):
    """A bit of each of these sectors, in place (SPEC.md: where data begins is in the header)."""
    with open(image, "r+b") as file:
        file.seek(0x58)
        data = struct.unpack("<Q", file.read(8))[0]
        for sector in range(first, first + count):
            file.seek(data + sector * 4096 + 100)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))


def test_too_many_failed_sectors_latch():
    lab = running_lab(create=False, more="integrity_limit = 20/60s\n")
    try:
        image = lab.root / "volumes/demo.img"
        lab.cli("create", "demo", role="operator")
        lab.wait_state("AVAILABLE")
        handle = client(lab)
        handle.pwrite(os.urandom(64 * 4096), 0)
        handle.shutdown()
        for _ in range(2):  # an opening brings what was written last to its place
            lab.cli("detach", "demo", role="operator")
            lab.wait_state("LOCKED")
            lab.wait_for(lambda: not lab.dataplanes(), 10, "the end of the data plane")
            if _ == 1:
                damage(image, 10, 40)
            lab.serve()
        handle = client(lab)
        for sector in range(10, 29):
            with pytest.raises(nbd.Error):
                handle.pread(4096, sector * 4096)
        lab.wait_for(lambda: lab.status()["stats"]["bad_tags"] == 19, 10, "a count of 19", lambda: lab.status()["stats"])
        assert lab.state() == "AVAILABLE"
        assert handle.pread(4096, 0) is not None
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for sector in range(29, 40):  # the vessel empties by one in three seconds
            with pytest.raises(nbd.Error):
                handle.pread(4096, sector * 4096)
        status = lab.wait_state("INACCESSIBLE", timeout=5)
        assert 0 < status["lock"]["wiped_ns"] - began < 3_000_000_000
        assert status["latched"] and status["latch_cause"] == "integrity" and "20" in status["text"]
        lab.ledger_settled()
        assert 1 <= len(lab.ledger("bad-tag")) <= 6  # told when the count doubles, not each time
        lab.cli("restore", "demo")
        lab.wait_state("AVAILABLE")
        assert client(lab).pread(4096, 0) is not None
    finally:
        lab.close()


# ---- clock ----


class ClockedLab(Lab):
    """Its supervisor, and nothing else, has a wall clock that the test sets."""

    def start(self, **options):
        self.environment = {"LD_PRELOAD": str(BUILD / "test-bin/libwall_offset.so"), "FALLGATE_TEST_WALL": str(self.root / "wall")}
        try:
            super().start(**options)
        finally:
            self.environment = {}


@pytest.fixture
def clocked():
    lab = ClockedLab(BUILD)
    lab.wall = lab.root / "wall"
    try:
        lab.wall.write_text("0")
        lab.make_token()
        lab.make_kek()
        lab.write_config()
        lab.write_volume("demo", "64M")
        lab.start()
        lab.enroll_all()
        lab.cli("create", "demo", role="operator")
        lab.wait_state("AVAILABLE")
        yield lab
    finally:
        lab.close()


def test_a_clock_set_back_locks_and_set_right_opens(clocked):
    clocked.wall.write_text("-86400")
    status = clocked.wait_state("INACCESSIBLE")
    assert status["cause"] == "clock" and not status["latched"]
    time.sleep(1.5)
    assert clocked.state() == "INACCESSIBLE"
    clocked.stop()  # the ledger's last lines are a day old now: that must not make it right
    clocked.start()
    clocked.wait_for(lambda: clocked.status()["cause"] == "clock", 10, "cause clock after a restart")
    clocked.wall.write_text("0")
    clocked.wait_state("AVAILABLE")


def test_a_clock_that_was_ahead_is_an_officers_to_forgive(clocked):
    clocked.wall.write_text(str(400 * 86400))  # set forward by mistake: believed, and proven afresh
    clocked.wait_for(lambda: "the wall clock jumped" in clocked.log(), 15, "the jump")
    assert clocked.state() == "AVAILABLE"
    clocked.wall.write_text("0")
    status = clocked.wait_state("INACCESSIBLE")
    assert status["cause"] == "clock" and "officer" in status["remedy"]
    assert clocked.cli("restore", "demo", role="operator", check=False).code != 0
    assert clocked.state() == "INACCESSIBLE"
    clocked.cli("restore", "demo", role="officer")
    clocked.wait_state("AVAILABLE")
    assert [e["identity"] for e in clocked.wait_ledger("clock-restored")] == ["officer"]
    clocked.stop()
    clocked.start()
    clocked.wait_state("AVAILABLE")


# ---- purge ----


def test_a_volume_that_stays_shut_is_purged():
    lab = running_lab(more="purge_after = 5s\n" + HELD)
    try:
        handle = client(lab)
        handle.pwrite(b"p" * 4096, 0)
        handle.flush()
        lab.kek("disable")
        status = lab.wait_state("INACCESSIBLE")
        assert 0 < status["purge_at_ns"] - time.time_ns() <= 5_000_000_000
        status = lab.wait_state("PURGED", timeout=10)
        assert status["latched"] and status["latch_cause"] == "disabled" and "purge_at_ns" not in status
        assert "enable the KEK" in status["remedy"] and "an officer's restore" in status["remedy"]
        lab.wait_for(lambda: not lab.dataplanes(), 15, "no data plane")
        lab.wait_for(lambda: not (lab.root / "run/demo.sock").exists(), 15, "no export")
        last = lab.status()["lock"]
        assert last["drained_ns"] - last["wiped_ns"] < 4_900_000_000, "the purge counts as the lock's drain"
        lab.kek("enable")
        time.sleep(2)
        assert lab.state() == "PURGED"
        lab.stop()
        lab.start()
        lab.wait_for(lambda: lab.state() == "PURGED", 10, "PURGED across a restart")
        assert not lab.dataplanes()
        assert lab.cli("attach", "demo", role="operator", check=False).code != 0
        lab.cli("restore", "demo")
        lab.wait_state("AVAILABLE")
        assert client(lab).pread(4096, 0) == b"p" * 4096
    finally:
        lab.close()


def test_the_countdown_survives_a_restart_and_ends_with_the_key():
    lab = running_lab(more="purge_after = 10s\n")
    try:
        lab.kek("disable")
        due = lab.wait_state("INACCESSIBLE")["purge_at_ns"]
        lab.kek("enable")
        lab.wait_state("AVAILABLE")
        assert "purge_at_ns" not in lab.status()
        lab.kek("disable")
        due = lab.wait_state("INACCESSIBLE")["purge_at_ns"]
        # the record follows the state: an agent killed in between counts from its own start
        record = lab.root / "state/gates/demo"
        lab.wait_for(lambda: f"{due}" in record.read_text(), 5, "the countdown on disk")
        lab.stop()  # of one that is killed no more is left than that record
        assert f"{due}" in record.read_text(), "an orderly stop ended the countdown"
        lab.start()
        assert lab.wait_state("INACCESSIBLE")["purge_at_ns"] == due
        lab.wait_state("PURGED", timeout=20)
        assert time.time_ns() - due < 5_000_000_000
    finally:
        lab.close()


# ---- a revoke while a volume is being made ----


@pytest.mark.parametrize("how", ["all", "name"])
def test_a_revoke_during_the_first_creation_latches(how):
    lab = running_lab(volumes=())
    try:
        lab.write_volume("late", "512M")
        begun = threading.Thread(target=lambda: lab.cli("create", "late", role="operator", check=False))
        begun.start()
        lab.wait_for(lambda: (lab.root / "volumes/late.img").exists(), 20, "the backing file")
        lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "revoke", *(["--all"] if how == "all" else ["late"]), "--local", check=False)
        begun.join(30)
        lab.wait_for(lambda: "late" in lab.cli("volumes", role="auditor").out, 20, "the volume")
        status = lab.status("late")
        if "latched (commanded) while it is being created" not in lab.log() and not status["latched"]:
            pytest.skip("the creation was faster than the revoke")
        assert status["latched"] and status["latch_cause"] == "commanded" and status["state"] in ("LOCKED", "INACCESSIBLE")
        lab.cli("restore", "late")
        lab.serve("late")
    finally:
        lab.close()


# ---- what is told of it ----


def test_a_revoke_that_is_not_durable_has_its_own_exit_code(agent):
    assert agent.cli("revoke", "demo").code == 0
    agent.wait_state("INACCESSIBLE")
    agent.cli("restore", "demo")
    agent.wait_state("AVAILABLE")
    place = agent.root / "state/gates/demo.new"  # where the record is written before it takes its place: one of before may be on its way

    def taken():
        try:
            place.mkdir()
        except FileExistsError:
            return False
        return True

    agent.wait_for(taken, 10, "the last record in its place")
    try:
        assert agent.cli("revoke", "demo", check=False).code == 34
        assert agent.status()["latched"]
        local = agent.run(agent.bin / "fallgate", "--run-dir", agent.root / "run", "revoke", "demo", "--local", check=False)
        assert local.code == 34 and "NOT on disk" in local.out
    finally:
        place.rmdir()
    agent.wait_for(lambda: agent.cli("revoke", "demo", check=False).code == 0, 10, "a durable latch")


def test_old_news_is_marked(agent):
    assert "silent_ns" not in agent.status()
    agent.agent.send_signal(signal.SIGSTOP)
    try:
        time.sleep(6)
        assert agent.status()["silent_ns"] > 4_000_000_000
        assert "OLD: the supervisor has said nothing" in agent.cli("status", role="auditor").out
    finally:
        agent.agent.send_signal(signal.SIGCONT)
    agent.wait_for(lambda: "silent_ns" not in agent.status(), 10, "news")
