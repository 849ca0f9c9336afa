"""A PIN that a TPM seals to the boot state, with a software TPM at a socket (swtpm): what opens it, what does not, and that a refusal
costs the token no login."""

import fcntl
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import time

import nbd
import pytest

from conftest import BUILD, make_lab
from lab import UIDS

READY = shutil.which("swtpm") and (BUILD / "bin/fallgate-tpm").exists()
pytestmark = pytest.mark.skipif(not READY, reason="needs swtpm and a build with HAL_TPM_SWTPM")


def listens(path):
    """A socket has its name before it takes connections; flag 0x10000 says that it does."""
    rows = (line.split() for line in pathlib.Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines())
    return any(row[-1] == str(path) and row[3] == "00010000" for row in rows)


class Tpm:
    """A software TPM. Starting it is a power-on: its PCRs are zero again."""

    def __init__(self, lab, name="tpm"):
        self.lab, self.state, self.socket = lab, lab.root / name, lab.root / f"{name}.sock"
        self.state.mkdir()
        self.process = None

    def where(self):
        return f"swtpm:{self.socket}"

    def start(self, measured):
        """It gets its name when the boot is measured, as on a board: an agent that runs already never asks it before."""
        dark = pathlib.Path(f"{self.socket}.dark")
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}", "--server", f"type=unixio,path={dark}",
             "--ctrl", f"type=unixio,path={dark}.ctrl", "--flags", "startup-clear"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for path in (dark, pathlib.Path(f"{dark}.ctrl")):
            self.lab.wait_for(lambda at=path: listens(at), 10, "swtpm's socket")
            if self.lab.as_root:
                os.chown(path, UIDS["tpm"], UIDS["tpm"])
        for pcr, what in measured:
            self.extend(pcr, what, at=dark)
        os.rename(f"{dark}.ctrl", f"{self.socket}.ctrl")
        os.rename(dark, self.socket)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        self.process = None
        for path in (self.socket, pathlib.Path(f"{self.socket}.ctrl")):
            path.unlink(missing_ok=True)

    def extend(self, pcr=7, what="another boot", at=None):
        """TPM2_PCR_Extend, by hand."""
        command = struct.pack(">HIIIIIHBHIH", 0x8002, 65, 0x182, pcr, 9, 0x40000009, 0, 0, 0, 1, 0xB) + what.encode().ljust(32, b"\0")[:32]
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(at or self.socket))
            s.sendall(command)
            assert s.recv(4096)[6:10] == bytes(4), "the TPM refused to extend a PCR"

    def power_on(self, *measured):
        self.stop()
        self.start(measured)


BOOT = ((4, "loader"), (7, "secure boot"), (11, "kernel"))


def tpm_lab(hsm="softhsm", seal=True, more="", **options):
    lab = make_lab(hsm=hsm, **options)
    lab.tpm = Tpm(lab)
    try:
        lab.tpm.power_on(*BOOT)
        lab.make_token()
        lab.make_kek()
        write_config(lab)
        lab.write_volume("demo", "64M", more=more)
        lab.start()
        lab.enroll_all()
        if seal:
            lab.seal()
            shutil.move(lab.root / "pins/pin", lab.root / "pins/kept")  # nothing reads it any more
            lab.cli("create", "demo", role="operator")
            lab.wait_state("AVAILABLE")
    except BaseException:
        close(lab)
        raise
    return lab


def write_config(lab, agent="", kek="", name="main"):
    lab.write_config(agent=f"tpm = {lab.tpm.where()}\n{agent}", kek=kek, name=name)
    path = lab.root / "fallgate.conf"
    path.write_text(path.read_text().replace(f"pin-source=file:{lab.root}/pins/pin", "pin-source=tpm:"))


def seal(lab, kek="main", pin="pins/pin", check=True):
    return lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "seal-pin", kek, "--pin-file", lab.root / pin, check=check)


def close(lab):
    lab.tpm.stop()
    lab.close()


@pytest.fixture
def lab(monkeypatch):
    from lab import Lab

    monkeypatch.setattr(Lab, "seal", seal, raising=False)
    made = []

    def make(**options):
        made.append(tpm_lab(**options))
        return made[-1]

    yield make
    for lab in made:
        close(lab)


def kill_all(lab):
    """As a power cut does: everybody at once."""
    files = lab.token_files()
    os.killpg(lab.agent.pid, signal.SIGKILL)
    lab.agent.wait()
    state = os.open(lab.root / "state", os.O_RDONLY)
    fcntl.flock(state, fcntl.LOCK_EX)  # the last of them may be a moment in dying
    os.close(state)
    lab.put_back(files)


def reboot(lab, *measured):
    lab.stop()
    lab.tpm.power_on(*measured)
    lab.start()


def logins(lab):
    return lab.hsm.calls("C_Login")


def test_a_sealed_pin_opens_the_volume_at_the_next_boot(lab):
    lab = lab(hsm="faulty")
    assert "sealed to the boot state" in lab.cli("posture", role="auditor").out
    reboot(lab, *BOOT)
    lab.wait_state("AVAILABLE")
    time.sleep(0.1)
    pin = (lab.root / "pins/kept").read_bytes().strip()
    for path in [*(lab.root / "state").rglob("*"), lab.log_path]:
        try:
            assert not path.is_file() or pin not in path.read_bytes(), f"the PIN stands in {path}"
        except FileNotFoundError:
            assert path.suffix == ".new"  # it has taken its place
    assert [p for p in (lab.root / "state/keks").iterdir() if p.name == "main.sealed"]


def test_another_boot_state_is_refused_without_a_login(lab):
    lab = lab(hsm="faulty")
    reboot(lab, (4, "loader"), (7, "secure boot"), (11, "another kernel"))
    before = logins(lab)
    status = lab.wait_state("INACCESSIBLE")
    assert status["cause"] == "access-revoked" and "boot state" in status["text"] and "fallgate seal-pin main" in status["text"]
    time.sleep(2.5)
    assert lab.state() == "INACCESSIBLE" and logins(lab) == before
    # the operator meant it: sealed anew, the volume comes back by itself
    shutil.move(lab.root / "pins/kept", lab.root / "pins/pin")
    lab.seal()
    lab.wait_state("AVAILABLE", timeout=30)
    assert logins(lab) > before
    reboot(lab, (4, "loader"), (7, "secure boot"), (11, "another kernel"))
    lab.wait_state("AVAILABLE")


def test_a_pcr_that_is_extended_while_it_runs_ends_the_next_unsealing(lab):
    lab = lab(hsm="faulty")
    lab.tpm.extend(7)
    lab.stop()
    before = logins(lab)
    lab.start()
    assert lab.wait_state("INACCESSIBLE")["cause"] == "access-revoked"
    assert logins(lab) == before


def test_without_a_sealed_pin_it_says_so(lab):
    lab = lab(seal=False)
    refused = lab.cli("create", "demo", role="operator", check=False)
    assert refused.code != 0 and "fallgate seal-pin main" in refused.err
    assert lab.seal("other", check=False).code != 0
    empty = lab.root / "pins/empty"
    empty.write_text("\n")
    refused = lab.seal(pin="pins/empty", check=False)
    assert refused.code == 2 and "empty" in refused.err
    empty.write_text("x" * 97 + "\n")
    assert "longer than the 96 bytes" in lab.seal(pin="pins/empty", check=False).err
    assert lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "seal-pin", "main", input=(lab.root / "pins/pin").read_text()).code == 0
    lab.cli("create", "demo", role="operator")
    lab.wait_state("AVAILABLE")


def test_a_wrong_pin_costs_one_try(lab):
    lab = lab(hsm="faulty")
    lab.stop()
    lab.start()
    lab.wait_state("AVAILABLE")
    wrong = lab.root / "pins/wrong"
    wrong.write_text("not-the-pin\n")
    lab.seal(pin="pins/wrong")
    status = lab.wait_state("INACCESSIBLE", timeout=40)  # at the next fresh process
    assert status["cause"] == "access-revoked"
    tried = logins(lab)
    time.sleep(2.5)
    assert logins(lab) == tried
    reboot(lab, *BOOT)
    lab.wait_state("INACCESSIBLE")
    assert logins(lab) == tried, "a restart tries it again"
    lab.seal(pin="pins/kept")
    status = lab.wait_for(lambda: lab.status() if lab.hsm.calls("C_Login") > tried else None, 20, "a try with the right one")
    assert status


def test_a_tpm_that_is_gone_proves_nothing(lab):
    lab = lab()
    lab.stop()
    lab.tpm.stop()
    lab.start()
    assert lab.wait_state("INACCESSIBLE")["cause"] == "unreachable"
    lab.tpm.power_on(*BOOT)
    lab.wait_state("AVAILABLE", timeout=30)


def test_a_tpm_that_hangs_is_not_waited_for(lab):
    lab = lab()
    lab.stop()
    lab.tpm.process.send_signal(signal.SIGSTOP)
    lab.start()
    status = lab.wait_state("INACCESSIBLE", timeout=20)
    assert status["cause"] == "unreachable"
    began = time.monotonic()
    assert lab.cli("status", "demo", role="auditor").code == 0 and time.monotonic() - began < 5
    lab.tpm.process.send_signal(signal.SIGCONT)
    lab.wait_state("AVAILABLE", timeout=40)
    lab.tpm.process.send_signal(signal.SIGSTOP)  # and what is AVAILABLE stays so: the PIN is held
    time.sleep(3)
    assert lab.state() == "AVAILABLE"


def test_another_tpm_and_one_that_was_cleared_are_told_apart_from_a_boot_state(lab):
    lab = lab(hsm="faulty")
    lab.stop()
    lab.tpm.stop()
    shutil.rmtree(lab.tpm.state)
    lab.tpm.state.mkdir()
    before = logins(lab)
    lab.tpm.power_on(*BOOT)
    lab.start()
    status = lab.wait_state("INACCESSIBLE")
    assert status["cause"] == "access-revoked" and "another TPM" in status["text"]
    assert logins(lab) == before


def test_a_record_that_was_altered_or_swapped_is_refused(lab):
    lab = lab(hsm="faulty")
    path = lab.root / "state/keks/main.sealed"
    good = path.read_bytes()
    lab.stop()
    path.write_bytes(good.replace(b"blob=4647", b"blob=4648"))
    before = logins(lab)
    lab.start()
    status = lab.wait_state("INACCESSIBLE")
    assert status["cause"] == "access-revoked" and "altered" in status["text"]
    lab.stop()
    path.write_bytes(b"")
    lab.start()
    assert lab.wait_state("INACCESSIBLE")["cause"] == "access-revoked"
    assert logins(lab) == before


def test_the_check_unseals_too(lab):
    lab = lab()
    lab.stop()
    good = lab.run(lab.bin / "fallgated", "--check", "--config", lab.root / "fallgate.conf", "--libexec", lab.libexec)
    assert "kek main: good" in good.out
    lab.tpm.extend(11)
    bad = lab.run(lab.bin / "fallgated", "--check", "--config", lab.root / "fallgate.conf", "--libexec", lab.libexec, check=False)
    assert bad.code == 13 or "boot state" in bad.out, repr(bad)


def test_nobody_else_links_the_library():
    for program in sorted((BUILD / "bin").iterdir()):
        if program.is_file() and program.name.startswith("fallgate"):
            out = subprocess.run(["readelf", "-d", str(program)], capture_output=True, text=True).stdout
            assert ("libtss2" in out) == (program.name == "fallgate-tpm"), program


def test_the_ledger_tells_who_sealed(lab):
    lab = lab()
    assert lab.wait_ledger("pin-sealed")[0]["identity"].startswith("console:")


# ---- an older disk put back ----

BOUND = "anti_rollback = tpm\n"


def bound_lab(lab, more=BOUND, **options):
    lab = lab(more=more, **options)
    lab.disk = lab.root / "volumes/demo.img"
    return lab


def put(lab, content, at=0):
    handle = nbd.NBD()
    handle.connect_uri(lab.uri())
    handle.pwrite(content, at)
    handle.flush()
    handle.shutdown()


def get(lab, size=4096, at=0):
    handle = nbd.NBD()
    handle.connect_uri(lab.uri())
    return handle.pread(size, at)


def keep(lab, name):
    subprocess.run(["cp", "--sparse=always", lab.disk, lab.root / name], check=True)


def put_back(lab, name):
    """In place: the file stays the file."""
    subprocess.run(["cp", "--sparse=never", lab.root / name, lab.disk], check=True)


def test_an_older_disk_is_refused_until_an_officer_accepts_it(lab):
    lab = bound_lab(lab)
    put(lab, b"1" * 4096)
    lab.stop()
    keep(lab, "old.img")
    lab.start()
    lab.wait_state("AVAILABLE")
    assert get(lab) == b"1" * 4096
    put(lab, b"2" * 4096)
    lab.stop()
    put_back(lab, "old.img")
    lab.start()
    status = lab.wait_state("INACCESSIBLE")
    assert status["cause"] == "integrity" and status["latched"] and "rolled back" in status["text"], status
    # a restore alone is not enough, nor is a restart
    lab.cli("restore", "demo", role="officer", check=False)
    status = lab.wait_state("INACCESSIBLE")
    assert "rolled back" in status["text"]
    lab.stop()
    lab.start()
    assert lab.wait_state("INACCESSIBLE")["latched"]
    # a backup that was restored is meant
    assert lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "accept-rollback", "demo").code == 0
    lab.cli("restore", "demo", role="officer")
    lab.wait_state("AVAILABLE")
    assert get(lab) == b"1" * 4096
    lab.wait_ledger("rollback-accepted")
    # and from then on as ever
    lab.stop()
    keep(lab, "older.img")
    lab.start()
    lab.wait_state("AVAILABLE")
    lab.stop()
    put_back(lab, "older.img")
    lab.start()
    assert "rolled back" in lab.wait_state("INACCESSIBLE")["text"]


def test_the_state_directory_put_back_with_the_disk_does_not_help(lab):
    lab = bound_lab(lab)
    early = lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "accept-rollback", "demo", check=False)
    assert early.code != 0 and "is open" in early.err, early
    lab.stop()
    keep(lab, "old.img")
    shutil.copytree(lab.root / "state", lab.root / "state.old")
    lab.start()
    lab.wait_state("AVAILABLE")
    lab.stop()
    put_back(lab, "old.img")
    shutil.rmtree(lab.root / "state")
    shutil.copytree(lab.root / "state.old", lab.root / "state")
    os.chmod(lab.root / "state", 0o700)
    lab.start()
    assert "rolled back" in lab.wait_state("INACCESSIBLE")["text"]


def test_a_state_within_a_session_is_refused_after_the_interval(lab):
    lab = bound_lab(lab, more=BOUND + "anti_rollback_interval = 1s\n")
    put(lab, b"1" * 4096)
    keep(lab, "within.img")
    put(lab, b"2" * 4096)
    time.sleep(5)
    lab.stop()
    put_back(lab, "within.img")
    lab.start()
    assert "rolled back" in lab.wait_state("INACCESSIBLE")["text"]


def test_cuts_never_keep_it_shut(lab):
    """The power goes at any moment of opening, serving, stepping: the counter is never ahead of what the disk names."""
    lab = bound_lab(lab, more=BOUND + "anti_rollback_interval = 1s\n")
    for moment in (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.4):
        kill_all(lab)
        lab.tpm.power_on(*BOOT)
        lab.start()
        time.sleep(moment)
    kill_all(lab)
    lab.tpm.power_on(*BOOT)
    lab.start()
    lab.wait_state("AVAILABLE", timeout=30)


def test_without_its_counter_it_stays_shut_until_it_is_accepted(lab):
    lab = bound_lab(lab)
    put(lab, b"1" * 4096)
    lab.stop()
    lab.tpm.stop()
    shutil.rmtree(lab.tpm.state)  # the TPM is cleared
    lab.tpm.state.mkdir()
    lab.tpm.power_on(*BOOT)
    lab.start()
    shutil.copy(lab.root / "pins/kept", lab.root / "pins/pin") if (lab.root / "pins/kept").exists() else None
    lab.seal()
    status = lab.wait_state("INACCESSIBLE")
    lab.wait_for(lambda: "no such counter" in lab.status()["text"], 20, "the counter's absence")
    assert lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "accept-rollback", "demo").code == 0
    lab.cli("detach", "demo", role="operator")
    lab.wait_state("LOCKED")
    lab.cli("attach", "demo", role="operator")
    status = lab.wait_state("AVAILABLE", timeout=30)
    assert status and get(lab) == b"1" * 4096
    reboot(lab, *BOOT)
    lab.wait_state("AVAILABLE")


def test_the_configuration_cannot_forget_it(lab):
    lab = bound_lab(lab)
    lab.stop()
    lab.write_volume("demo", "64M")
    lab.start()
    status = lab.wait_state("INACCESSIBLE")
    assert "anti_rollback = tpm" in status["text"]


def test_a_volume_that_was_made_before_is_bound_at_its_next_opening(lab):
    lab = lab()
    put(lab, b"1" * 4096)
    lab.stop()
    lab.disk = lab.root / "volumes/demo.img"
    keep(lab, "before.img")
    lab.write_volume("demo", "64M", more=BOUND)
    lab.start()
    lab.wait_state("AVAILABLE")
    assert get(lab) == b"1" * 4096
    lab.stop()
    put_back(lab, "before.img")  # from before it was bound
    lab.start()
    assert "rolled back" in lab.wait_state("INACCESSIBLE")["text"]
