"""`fallgate volume` with a key, as an operator uses it: the agent does the work as a job on a volume that nobody serves. Damage is
injected into the backing file; the job is stopped, revoked, abandoned and orphaned; what comes back is compared with what was written."""

import errno
import json
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import nbd
import pytest

from conftest import BUILD, ROOT, running_lab
from test_forensics import patterns, search
from test_gate import HungToken

SECTOR = 4096
GOOD, REPAIRABLE, LOSS = 0, 32, 33
BUSY, FOREIGN, REVOKED, REFUSED, STATE = 7, 12, 13, 14, 18


def connect(lab):
    handle = nbd.NBD()
    handle.connect_uri(lab.uri())
    return handle


def argv(lab, *words):
    return [str(w) for w in (lab.bin / "fallgate", "--run-dir", lab.root / "run", "volume", *words)]


def job(lab, *words, code=GOOD, **kwargs):
    done = lab.run(*argv(lab, *words), check=False, **kwargs)
    assert done.code == code, done
    assert "\033" not in done.out + done.err, done  # no terminal: no bar
    return done


def attach(lab):
    """Until it serves. The agent's own process of an earlier moment may still be on its way out."""
    lab.serve()
    return connect(lab)


def detach(lab):
    if lab.state() != "LOCKED":
        lab.cli("detach", "demo", role="operator")
    lab.wait_state("LOCKED")


def job_processes(lab):
    return [pid for pid, line in lab.processes().items() if "fallgate-dataplane offline" in line]


def settled(lab):
    """The ledger is written by a thread of its own, one line after the other: once a new one stands there, so does all before it."""
    mark = f"mark-{time.monotonic_ns()}"
    lab.enroll("auditor", mark)
    lab.wait_ledger("enrolled", identity=mark)
    lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "remove", mark)


def image(lab):
    return lab.root / "volumes/demo.img"


def make_box():
    lab = running_lab()
    try:
        lab.data = os.urandom(4 << 20)
        handle = connect(lab)
        handle.pwrite(lab.data, 1 << 20)
        handle.flush()
        handle.shutdown()
        detach(lab)
    except BaseException:
        lab.close()
        raise
    return lab


@pytest.fixture(scope="module")
def shelf():
    """The box of all tests that leave it as they found it, or damage it and put it back."""
    lab = make_box()
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def box(shelf):
    """A volume with 4 MiB of known data at 1 MiB, flushed, detached, no latch. What a test did to its file is undone."""
    saved = image(shelf).read_bytes()
    for name in ("out", "out.map"):
        (shelf.root / name).unlink(missing_ok=True)
    yield shelf
    shelf.wait_for(lambda: not job_processes(shelf), 20, "the end of every job")
    if shelf.status()["latched"]:
        detach(shelf)
        shelf.cli("restore", "demo")
    detach(shelf)
    with open(image(shelf), "r+b") as file:
        file.write(saved)


def layout(lab):
    """Where things stand on the device, as the keyless dump says: {name: (offset, blocks)}."""
    text = job(lab, "dump", image(lab)).out
    rows = re.findall(r"^\s+(\d+)\s+(\d+) blocks\s+(.+)$", text, re.MULTILINE)
    assert rows, text
    return {name: (int(at), int(count)) for at, count, name in rows}


def smash(lab, at, size=SECTOR):
    with open(image(lab), "r+b") as file:
        file.seek(at)
        file.write(os.urandom(size))


# ---- each verb ----


def test_every_verb_on_a_good_volume(box):
    begun = len(box.ledger("job-begun"))
    assert "0 lost" in job(box, "check", "demo").out
    scrubbed = job(box, "scrub", "demo").out
    assert "1024 written, each looked at" in scrubbed and "0 lost" in scrubbed
    assert "MAC right" in job(box, "dump", "demo").out
    assert "sector 256" in job(box, "dump", "demo", "--sector", "256").out.lower()
    assert "nothing to do" in job(box, "repair-log", "demo", "--yes").out
    job(box, "salvage", "demo", "--out", box.root / "out")
    out = (box.root / "out").read_bytes()
    assert len(out) == 64 << 20
    assert out[1 << 20:5 << 20] == box.data and not any(out[:1 << 20]) and not any(out[5 << 20:])
    report = json.loads(job(box, "--json", "scrub", "demo").out.splitlines()[-1])
    assert report["lost"] == 0 and report["checked"] > 1024
    settled(box)
    verbs = [line["text"] for line in box.ledger("job-begun")][begun:]
    assert verbs == ["check", "scrub", "dump", "dump", "repair-log", "salvage", "scrub"]
    for line in box.ledger("job-ended")[-len(verbs):]:
        assert line["identity"].startswith("console:uid=") and "done after" in line["text"] and "keys wiped" in line["text"]
        assert line["wiped_ns"] >= line["cut_ns"] > 0
    assert bytes(attach(box).pread(4 << 20, 1 << 20)) == box.data


def test_a_volume_that_is_attached_or_latched_is_refused(box):
    attach(box).shutdown()
    assert "detach it first" in job(box, "scrub", "demo", code=BUSY).err
    box.cli("revoke", "demo")
    box.wait_state("INACCESSIBLE")
    assert "latched (commanded)" in job(box, "scrub", "demo", code=REVOKED).err
    detach(box)
    assert "latched (commanded)" in job(box, "salvage", "demo", "--out", box.root / "out", code=REVOKED).err
    assert not (box.root / "out").exists()
    assert not job_processes(box)
    box.cli("restore", "demo")
    box.wait_state("LOCKED")
    job(box, "scrub", "demo")
    refused = box.wait_ledger("job-refused", 3)
    assert all(line["text"].startswith(("volume demo is attached", "the gate of")) for line in refused[:3])


def test_a_kek_that_says_no_says_no_to_a_job(box):
    box.kek("disable")
    assert "KEK main" in job(box, "scrub", "demo", code=REFUSED).err
    box.kek("enable")
    job(box, "scrub", "demo")


# ---- damage ----


def test_a_node_that_has_one_copy_left_is_mended(box):
    place = layout(box)
    level = next(name for name in place if name.startswith("nodes of level 2, copy A"))
    attach(box).shutdown()  # a clean close has written the nodes
    detach(box)
    smash(box, place[level][0])
    found = job(box, "scrub", "demo", code=REPAIRABLE)
    assert "repairable:" in found.out and "0 lost" in found.out
    before = image(box).read_bytes()
    job(box, "scrub", "demo", code=REPAIRABLE)
    assert image(box).read_bytes() == before  # a look changes nothing
    assert "mended:" in job(box, "scrub", "demo", "--repair").out
    assert "0 mended, 0 repairable, 0 lost" in job(box, "scrub", "demo").out
    assert bytes(attach(box).pread(4 << 20, 1 << 20)) == box.data


def test_a_sector_that_is_gone_is_lost_and_nothing_else(box):
    attach(box).shutdown()  # what was written last before a cut may rightly have been cut; an attach settles it
    detach(box)
    place = layout(box)
    lba = (1 << 20) // SECTOR + 5
    smash(box, place["data"][0] + lba * SECTOR)
    found = job(box, "scrub", "demo", code=LOSS)
    assert f"loss: sector {lba}:" in found.out and "1 lost" in found.out
    job(box, "salvage", "demo", "--out", box.root / "out", code=LOSS)
    out = (box.root / "out").read_bytes()
    at = 5 * SECTOR
    assert out[1 << 20:(1 << 20) + at] == box.data[:at] and out[(1 << 20) + at + SECTOR:5 << 20] == box.data[at + SECTOR:]
    assert str(lba) in (box.root / "out.map").read_text()
    handle = attach(box)
    with pytest.raises(nbd.Error) as error:
        handle.pread(SECTOR, lba * SECTOR)
    assert error.value.errnum == errno.EIO
    assert bytes(handle.pread(at, 1 << 20)) == box.data[:at]


def test_salvage_when_the_upper_levels_are_gone(box):
    """Roots and nodes above the leaves: without them nothing says what is newest, and the leaves still authenticate."""
    attach(box).shutdown()
    detach(box)
    place = layout(box)
    for name, (at, blocks) in place.items():
        if "root ring" in name or re.match(r"nodes of level ([2-9])", name):
            smash(box, at, blocks * SECTOR)
    done = box.run(*argv(box, "salvage", "demo", "--out", box.root / "out"), check=False)
    assert done.code in (GOOD, LOSS), done
    assert "NOT FRESH" in done.out, done
    assert (box.root / "out").read_bytes()[1 << 20:5 << 20] == box.data, done
    box.cli("attach", "demo", role="operator", check=False)
    box.wait_state("INACCESSIBLE")  # what cannot be proven whole is not served


def test_the_header_comes_back_when_both_are_gone(box):
    backup = box.root / "header.backup"
    job(box, "header-backup", image(box), "--out", backup)
    place = layout(box)
    for name in ("header A", "header B"):
        smash(box, *(place[name][0], place[name][1] * SECTOR))
    assert "header-restore" in job(box, "scrub", "demo", code=FOREIGN).err
    job(box, "salvage", "demo", "--out", box.root / "out", "--header", backup)
    assert (box.root / "out").read_bytes()[1 << 20:5 << 20] == box.data
    other = box.root / "other.backup"
    other.write_bytes(backup.read_bytes()[:-1] + b"x")
    job(box, "header-restore", "demo", "--header", other, "--yes", code=11)
    assert "mended:" in job(box, "header-restore", "demo", "--header", backup, "--yes").out
    job(box, "scrub", "demo")
    assert bytes(attach(box).pread(4 << 20, 1 << 20)) == box.data


def test_after_a_kill_under_load_a_scrub_finds_what_the_next_attach_finds(box):
    handle = attach(box)
    rng = random.Random(7)
    flushed = {}
    stop = threading.Event()

    def load():
        pending = {}
        try:
            while not stop.is_set():
                for _ in range(32):
                    lba = rng.randrange(4096)
                    pending[lba] = os.urandom(SECTOR)
                    handle.pwrite(pending[lba], (8 << 20) + lba * SECTOR)
                handle.flush()
                flushed.update(pending)
                pending = {}
        except nbd.Error:
            return

    thread = threading.Thread(target=load)
    thread.start()
    try:
        box.wait_for(lambda: len(flushed) > 300, 30, "writes that were flushed")
        os.kill(box.dataplanes()[0], signal.SIGKILL)
        thread.join(10)
    finally:
        stop.set()
    detach(box)
    for words in (("check", "demo"), ("scrub", "demo")):
        found = job(box, *words)
        assert "0 lost" in found.out, found
    handle = attach(box)
    assert bytes(handle.pread(4 << 20, 1 << 20)) == box.data
    # a sector of the last, unflushed round may be newer than what was flushed; every other one is exactly that
    differ = [lba for lba, data in flushed.items() if bytes(handle.pread(SECTOR, (8 << 20) + lba * SECTOR)) != data]
    assert len(differ) <= 32, len(differ)
    handle.shutdown()
    detach(box)
    assert "0 lost" in job(box, "scrub", "demo").out


# ---- a client of our own, to hold a job where it hurts ----


def message_number(name):
    rows = re.findall(r"^\| ([A-Z_]+) \|", (ROOT / "firmware/ipc/PROTOCOL.md").read_text(), re.MULTILINE)
    return rows.index(name) + 1


class Client:
    """Speaks to the console itself. Its pipe is full from the start: the job stands at its first finding, with its keys in."""

    VERBS = {"check": 1, "scrub": 2}

    def __init__(self, lab, verb="check", full=True):
        self.lines, writing = os.pipe()
        if full:
            os.set_blocking(writing, False)
            try:
                while True:
                    os.write(writing, b"\0" * 4096)
            except BlockingIOError:
                pass
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(str(lab.root / "run/console.sock"))
        body = struct.pack("<Q5?3xB32s", 0, False, False, False, False, False, self.VERBS[verb], b"demo").ljust(56, b"\0")
        self.send(struct.pack("<IIQ", message_number("CON_JOB"), len(body), 9) + body, [writing])
        os.close(writing)

    def send(self, data, fds=()):
        socket.send_fds(self.socket, [data], list(fds))

    def answer(self, timeout=10):
        self.socket.settimeout(timeout)
        data = self.socket.recv(4096)
        if not data:
            return None
        kind, size, nonce = struct.unpack_from("<IIQ", data)
        assert kind == message_number("CON_JOB_DONE") and nonce == 9 and size == len(data) - 16
        error = struct.unpack_from("<i", data, 16)[0]
        return error, data[16 + 8 + 32:].split(b"\0")[0].decode()

    def close(self):
        os.close(self.lines)
        self.socket.close()


def running(lab, **kwargs):
    """A client whose job has its keys, and the job's process."""
    client = Client(lab, **kwargs)
    pid = lab.wait_for(lambda: job_processes(lab), 10, "the job's process")[0]
    lab.wait_for(lambda: f"fallgate-dataplane[{pid}]: volume demo: check:" in lab.log(), 10, "a job with its key")
    lab.wait_for(lambda: not [1 for line in lab.processes().values() if "--one-shot" in line], 10, "the end of the one-shot hsm")
    return client, pid


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to look into other processes")
def test_a_revoke_leaves_no_key_of_a_job(box):
    handle = attach(box)
    handle.pread(1 << 20, 1 << 20)
    handle.shutdown()
    detach(box)
    text = patterns(box, image(box))
    client, pid = running(box)
    found = search(box, text, "--inject")
    assert found.code == 1, f"the search is blind\n{found}"
    where = {line.split()[0] for line in found.out.splitlines() if line.split() and line.split()[0].isdigit()}
    assert where == {str(pid)}, f"keys outside the job's process:\n{found.out[:3000]}"
    box.cli("revoke", "--all")
    error, why = client.answer()
    assert error == -12 and "revoked" in why
    assert gone(pid)
    after = search(box, text, "--inject")
    assert after.code == 0, f"after the revoke:\n{after.out[:3000]}"
    settled(box)
    line = box.ledger("job-ended")[-1]
    assert "keys wiped" in line["text"] and line["wiped_ns"] - line["detected_ns"] < 100_000_000
    assert box.status()["latched"]
    client.close()


def test_the_walls_of_a_jobs_process(box):
    client, pid = running(box)
    links = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        links[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    assert links[0] == links[1] == "/dev/null" and links[2] == str(box.log_path) and links[3].startswith("socket:")
    rest = sorted(target for number, target in links.items() if number > 3)
    kinds = [re.match(r"pipe|socket|anon_inode:\[(eventfd|timerfd)\]|.*", target)[0] for target in rest]
    assert sorted(kinds) == sorted(["pipe", str(image(box)), "anon_inode:[eventfd]", "anon_inode:[timerfd]"]), links
    access = next(int(line.split()[1], 8) for number, target in links.items() if target == str(image(box))
                  for line in pathlib.Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines() if line.startswith("flags"))
    assert access & os.O_ACCMODE == os.O_RDONLY
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1"
    if box.as_root:
        assert set(status["Uid"].split()) == {"64772"} and int(status["CapEff"], 16) == 0
    environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {e.split(b"=")[0] for e in environ if e} == {b"PATH", b"LD_BIND_NOW", b"GLIBC_TUNABLES"}
    client.close()
    box.wait_for(lambda: gone(pid), 10, "the end of the job with its client")


def test_a_detach_is_done_when_nothing_holds_the_volume_any_more(box):
    for _ in range(5):
        handle = attach(box)
        for at in range(8 << 20, 24 << 20, 1 << 20):  # what was acknowledged takes a moment to its place
            handle.pwrite(os.urandom(1 << 20), at)
        box.cli("detach", "demo", role="operator")
        assert not box.dataplanes()
        job(box, "check", "demo")


def test_an_attach_waits_for_nobody_and_works_afterwards(box):
    client, pid = running(box)
    refused = box.cli("attach", "demo", role="operator", check=False)
    assert refused.code == BUSY and "job under way" in refused.err, refused
    assert "job" in box.status()["text"]
    second = job(box, "check", "demo", code=BUSY)
    assert "job under way" in second.err
    box.cli("detach", "demo", role="operator")  # an operator may call it off from afar
    assert client.answer()[0] == -17
    assert gone(pid)
    assert bytes(attach(box).pread(4 << 20, 1 << 20)) == box.data
    client.close()


def test_a_job_ends_with_its_client_its_agent_and_its_process(box):
    client, pid = running(box)
    client.close()
    box.wait_for(lambda: gone(pid), 10, "the end of the job with its client")
    client, pid = running(box)
    os.kill(pid, signal.SIGKILL)
    error, why = client.answer()
    assert error == -4 and "signal 9" in why
    client.close()
    client, pid = running(box)
    box.kill()
    box.wait_for(lambda: gone(pid), 10, "the end of the job with its agent")
    assert client.answer() is None
    client.close()
    box.start()
    box.wait_state("AVAILABLE")
    assert bytes(connect(box).pread(4 << 20, 1 << 20)) == box.data


def test_who_stands_still_is_not_waited_for(box):
    client, pid = running(box)
    os.kill(pid, signal.SIGSTOP)
    box.cli("revoke", "demo")
    assert client.answer()[0] == -12
    assert gone(pid)
    client.close()
    settled(box)
    assert "keys gone with their process, which was killed" in box.ledger("job-ended")[-1]["text"]
    box.cli("restore", "demo")
    client, pid = running(box)
    began = time.monotonic()
    box.agent.send_signal(signal.SIGSTOP)
    try:
        while box.processes().get(pid) and time.monotonic() - began < 20:
            time.sleep(0.02)
        took = time.monotonic() - began
    finally:
        box.agent.send_signal(signal.SIGCONT)
    assert took < 10, took  # its own heartbeat: 2 s
    error, why = client.answer()
    assert error == -12 and "a deadline passed" in why
    client.close()
    job(box, "check", "demo")


def test_a_kek_taken_away_ends_a_running_job(box):
    client, pid = running(box)
    box.kek("disable")
    error, why = client.answer(20)
    assert error == -13 and "enable the key again" in why
    assert gone(pid)
    client.close()
    box.kek("enable")
    job(box, "check", "demo")


def test_what_is_no_message_costs_the_connection_and_nothing_else(box):
    client, pid = running(box)
    client.send(b"junk")
    assert client.answer() is None
    box.wait_for(lambda: gone(pid), 10, "the end of the job with its client")
    client.close()
    for data in (b"", struct.pack("<IIQ", message_number("CON_JOB"), 56, 1) + b"\xff" * 56,
                 struct.pack("<IIQ", message_number("DP_LOCK"), 8, 1) + b"\0" * 8):
        client, pid = running(box)
        client.send(data)
        assert client.answer() is None
        client.close()
        box.wait_for(lambda: "job is under way" not in box.status()["text"] and gone(pid), 10, "the end of the job")
    job(box, "check", "demo")


# ---- the command in an operator's hands ----


def test_ctrl_c_ends_a_job_cleanly(box):
    with HungToken(box):
        running_client = box.spawn(*argv(box, "scrub", "demo"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        box.wait_for(lambda: job_processes(box), 10, "the job's process")
        running_client.send_signal(signal.SIGINT)
        out, err = running_client.communicate(timeout=10)
        assert running_client.returncode == STATE and b"interrupted" in err, (out, err)
        assert not job_processes(box)
    assert bytes(attach(box).pread(4 << 20, 1 << 20)) == box.data


def test_a_terminal_gets_a_bar_and_no_escape_of_the_jobs(box):
    import pty
    reading, writing = pty.openpty()
    done = subprocess.Popen(argv(box, "scrub", "demo"), env=box.env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writing, cwd="/")
    os.close(writing)
    seen = b""
    try:
        while chunk := os.read(reading, 4096):
            seen += chunk
    except OSError:
        pass  # the other end is gone
    assert done.wait(10) == GOOD
    os.close(reading)
    assert set(re.findall(rb"\033\[[0-9;]*[A-Za-z]", seen)) <= {b"\033[K"}, seen


def test_consent_is_asked_for_and_nothing_is_written_without(box):
    before = image(box).read_bytes()
    done = box.run(*argv(box, "repair-log", "demo"), check=False)
    assert done.code != GOOD and "--yes" in done.err
    assert image(box).read_bytes() == before


def test_an_agent_that_is_not_root_does_the_same():
    if os.geteuid() != 0:
        pytest.skip("every other test here runs so already")
    script = f"""
import os, sys
sys.path[:0] = [{str(ROOT / 'tools')!r}, {str(ROOT / 'test/system')!r}]
os.environ["FALLGATE_BUILD"] = {str(BUILD)!r}
import conftest
from test_volume_jobs import *
lab = conftest.running_lab()
try:
    data = os.urandom(1 << 20)
    handle = connect(lab); handle.pwrite(data, 1 << 20); handle.flush(); handle.shutdown()
    detach(lab)
    for words in (["check"], ["scrub"], ["salvage", "--out", lab.root / "out"]):
        job(lab, words[0], "demo", *words[1:])
    assert (lab.root / "out").read_bytes()[1 << 20:2 << 20] == data
    settled(lab)
    assert lab.ledger("job-ended")[-1]["identity"] == "console:uid=65534"
    print("as uid", os.geteuid())
finally:
    lab.close()
"""
    done = subprocess.run([sys.executable, "-B", "-c", script], user=65534, group=65534, extra_groups=[], capture_output=True, text=True,
                          cwd="/", timeout=120)
    assert done.returncode == 0 and "as uid 65534" in done.stdout, done.stdout + done.stderr
