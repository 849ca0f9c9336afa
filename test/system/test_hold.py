"""on_lock = hold: a file system above the block device lives through the loss of its key. The device process stays, its keys are gone
(searched for), requests wait, and go on when the key comes back: no error, no remount, nothing lost. And where a hold ends: at
hold_timeout, at a tamper or damage, at a detach, at a death with writes that nobody flushed."""

import os
import signal
import subprocess
import threading
import time

import nbd
import pytest

from conftest import make_lab
from test_forensics import patterns, search

OUTAGE = "probe_interval = 200ms\nhsm_deadline = 1s\noutage_budget = 1s\n"


def held_lab(timeout="60s", more="", **options):
    lab = make_lab(**options)
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config(kek=OUTAGE)
        image = lab.write_volume("demo", "64M", more=f"on_lock = hold\nhold_timeout = {timeout}\n{more}")
        lab.start()
        lab.enroll_all()
        lab.cli("create", "demo", role="operator")
        lab.wait_state("AVAILABLE")
        lab.image = image
    except BaseException:
        lab.close()
        raise
    return lab


@pytest.fixture
def held():
    lab = held_lab()
    yield lab
    lab.close()


@pytest.fixture
def short():
    lab = held_lab("4s")
    yield lab
    lab.close()


def client(lab):
    handle = nbd.NBD()
    handle.connect_uri(lab.uri())
    return handle


def take_token_away(lab):
    """The token's files are not there: the HSM answers, the token is gone."""
    os.rename(lab.root / "tokens", lab.root / "tokens.away")


def give_token_back(lab):
    os.rename(lab.root / "tokens.away", lab.root / "tokens")


class Request(threading.Thread):
    """One request on a connection of its own, and how it ended."""

    def __init__(self, lab, what):
        super().__init__()
        self.handle, self.what, self.error, self.value = client(lab), what, None, None
        self.start()

    def run(self):
        try:
            self.value = self.what(self.handle)
        except nbd.Error as error:
            self.error = error

    def waits(self, seconds=0.3):
        self.join(seconds)
        return self.is_alive()


def test_requests_wait_and_go_on_in_the_same_process(held):
    (pid,) = held.dataplanes()
    before = client(held)
    before.pwrite(b"a" * 8192, 4096)
    held.kek("disable")
    held.wait_state("INACCESSIBLE")
    kinds = [Request(held, what) for what in (lambda h: h.pread(8192, 4096), lambda h: h.pwrite(b"b" * 5000, 100000), lambda h: h.flush(),
                                             lambda h: h.zero(4096, 4096), lambda h: h.trim(4096, 1 << 20))]
    old = threading.Thread(target=lambda: before.pwrite(b"c" * 512, 0))
    old.start()
    assert all(k.waits(0.1) for k in kinds) and old.is_alive()
    assert held.dataplanes() == [pid]
    held.kek("enable")
    held.wait_state("AVAILABLE")
    for k in kinds:
        k.join(20)
        assert not k.is_alive() and k.error is None
    old.join(20)
    assert not old.is_alive()
    assert held.dataplanes() == [pid]
    assert before.pread(512, 0) == b"c" * 512
    assert before.pread(5000, 100000) == b"b" * 5000
    assert kinds[0].value[4096:] == b"a" * 4096
    assert kinds[0].value[:4096] in (b"a" * 4096, b"\0" * 4096)  # the zeroing may have gone before it


def test_again_and_again_and_by_every_cause_that_lifts_itself(held):
    handle = client(held)
    (pid,) = held.dataplanes()
    for i in range(4):
        handle.pwrite(bytes([i + 1]) * 4096, i * 4096)
        if i % 2:
            held.cli("revoke", "demo")
        else:
            held.kek("disable")
        held.wait_state("INACCESSIBLE")
        waiting = threading.Thread(target=lambda: handle.pwrite(b"w" * 4096, 1 << 20))
        waiting.start()
        if i % 2:
            held.cli("restore", "demo")
        else:
            held.kek("enable")
        held.wait_state("AVAILABLE")
        waiting.join(20)
        assert not waiting.is_alive()
        assert [handle.pread(4096, k * 4096)[:1] for k in range(i + 1)] == [bytes([k + 1]) for k in range(i + 1)]
    assert held.dataplanes() == [pid]


def test_after_hold_timeout_they_fail_and_the_process_goes(short):
    (pid,) = short.dataplanes()
    handle = client(short)
    handle.pwrite(b"x" * 4096, 0)
    short.kek("disable")
    short.wait_state("INACCESSIBLE")
    began = time.monotonic()
    late = Request(short, lambda h: h.pread(4096, 0))
    late.join(20)
    assert not late.is_alive() and late.error is not None and late.error.errno == "ESHUTDOWN"
    assert time.monotonic() - began < 6
    short.wait_for(lambda: short.dataplanes() not in ([pid], []), 10, "a process of its own for those who come later")
    began = time.monotonic()
    after = Request(short, lambda h: h.pread(4096, 0))
    after.join(15)
    assert after.error is not None and after.error.errno == "ESHUTDOWN" and time.monotonic() - began < 2
    assert "hold_timeout is over" in short.log()
    short.kek("enable")
    short.wait_state("AVAILABLE")
    assert client(short).pread(4096, 0) == b"x" * 4096


def test_those_who_come_before_the_first_key_wait_too(held):
    held.stop()
    held.kek("disable")
    held.start()
    held.wait_for(lambda: (held.root / "run/demo.sock").exists(), 10, "the export")
    early = Request(held, lambda h: h.pread(4096, 0))
    assert early.waits(1)
    held.kek("enable")
    early.join(15)
    assert not early.is_alive() and early.error is None


def test_a_detach_ends_it(held):
    held.kek("disable")
    held.wait_state("INACCESSIBLE")
    waiting = Request(held, lambda h: h.pread(4096, 0))
    assert waiting.waits()
    held.cli("detach", "demo", role="operator")
    waiting.join(15)
    assert waiting.error is not None
    held.wait_for(lambda: not held.dataplanes(), 15, "no process")
    held.kek("enable")
    held.cli("attach", "demo", role="operator")
    held.wait_state("AVAILABLE")


def test_a_death_with_unflushed_writes_ends_it(held):
    (pid,) = held.dataplanes()
    handle = client(held)
    handle.pwrite(b"y" * 4096, 0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(nbd.Error):
        handle.pread(4096, 0)
        handle.pread(4096, 0)
    held.wait_state("AVAILABLE")
    held.wait_for(lambda: "died-undrained" in (held.root / "state/ledger").read_text(), 10, "the death in the ledger")


def test_the_supervisors_silence_is_held_too(held):
    """It wipes by its own deadline; the keys come back by the supervisor that was only slow."""
    (pid,) = held.dataplanes()
    handle = client(held)
    handle.pwrite(b"z" * 4096, 0)
    held.agent.send_signal(signal.SIGSTOP)
    try:
        time.sleep(2.5)
        waiting = threading.Thread(target=lambda: handle.pread(4096, 0))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
    finally:
        held.agent.send_signal(signal.SIGCONT)
    waiting.join(15)
    assert not waiting.is_alive()
    assert held.dataplanes() == [pid]
    held.wait_for(lambda: '"to":"INACCESSIBLE","cause":"supervisor-lost"' in (held.root / "state/ledger").read_text(), 10, "the loss in the ledger")


def test_connections_are_limited(held):
    held.stop()
    held.write_volume("demo", "64M", more="connections = 3\n")
    held.start()
    held.wait_state("AVAILABLE")
    handles = [client(held) for _ in range(3)]
    with pytest.raises(nbd.Error):
        client(held).pread(512, 0)
    handles.pop().shutdown()
    held.wait_for(lambda: held.status()["stats"]["connections"] == 2, 15, "a free place")
    assert client(held).pread(512, 0) == b"\0" * 512


class Load(threading.Thread):
    """Writes files, syncs each, keeps what it was promised."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.files, self.error, self.stop, self.longest = folder, {}, None, False, 0.0
        self.start()

    def run(self):
        number = 0
        try:
            while not self.stop:
                name, data = f"{number % 40}", os.urandom(20000 + number % 7 * 3000)
                began = time.monotonic()
                with open(self.folder / (name + ".new"), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(self.folder / (name + ".new"), self.folder / name)
                self.files[name] = data
                self.longest = max(self.longest, time.monotonic() - began)
                number += 1
        except OSError as error:
            self.error = error


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and FUSE to mount a file system")
@pytest.mark.parametrize("seconds", [int(os.environ.get("FALLGATE_HOLD_SECONDS", "6"))])
def test_a_file_system_lives_through_it(seconds):
    lab = held_lab("120s")
    device, mounted = lab.root / "device", lab.root / "mounted"
    device.touch()
    mounted.mkdir()
    try:
        lab.spawn("nbdfuse", device, lab.uri())
        lab.wait_for(lambda: device.stat().st_size == 64 << 20, 10, "the device file")
        lab.run("mkfs.ext4", "-q", "-F", device)
        ext4 = lab.spawn("fuse2fs", "-f", "-o", "fakeroot", device, mounted)
        lab.wait_for(lambda: (mounted / "lost+found").exists(), 10, "the file system")
        (pid,) = lab.dataplanes()
        load = Load(mounted)
        time.sleep(1)
        text = patterns(lab, lab.image)
        assert search(lab, text, "--inject").code == 1, "the search is blind"
        take_token_away(lab)
        lab.wait_state("INACCESSIBLE", timeout=20)
        written = len(load.files)
        time.sleep(seconds)
        assert load.error is None and load.is_alive()
        after = search_living(lab, text)
        assert after.code == 0, after.out[:2000]
        give_token_back(lab)
        lab.wait_state("AVAILABLE")
        time.sleep(2)
        load.stop = True
        load.join(20)
        assert not load.is_alive() and load.error is None
        assert len(load.files) >= written and load.longest > seconds / 2
        assert lab.dataplanes() == [pid]
        for name, data in load.files.items():
            assert (mounted / name).read_bytes() == data
        lab.run("fusermount3", "-u", mounted)
        ext4.wait(20)
        lab.run("e2fsck", "-f", "-n", device)
    finally:
        for where in (mounted, device):
            subprocess.run(["umount", "-l", str(where)], capture_output=True)
        lab.close()


def search_living(lab, text):
    """Probers come and go while the token is away: a search that met one on its way out looks again."""
    for _ in range(10):
        found = search(lab, text, "--inject")
        if found.code != 2:
            break
    return found
