"""What tools/demo shows, step by step: each step does something to the real agent, says what it saw, and stops everything with a
clear line when it is not what it should be."""

import argparse
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import nbd  # noqa: E402  (python3-libnbd)

from lab import Lab, LabError  # noqa: E402

STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MARKER = b"The quick brown fox is a customer's secret"
began = time.monotonic()
table = []


def say(text):
    print(f"  {time.monotonic() - began:6.1f}s  {text}", flush=True)


def row(what, value):
    table.append((what, value))


def expect(condition, what):
    if not condition:
        raise LabError(f"not as it should be: {what}")


def milliseconds(later, earlier):
    return f"{(later - earlier) / 1e6:.1f} ms"


def lock_times(lab, name):
    """Times of the last lock, from its detection on; waits until what was acknowledged is on the disk."""
    lock = lab.wait_for(lambda: lab.status(name)["lock"] if "drained_ns" in lab.status(name)["lock"] else None, 10, "the end of the drain")
    return {k: milliseconds(lock[k], lock["detected_ns"]) for k in ("cut_ns", "wiped_ns", "drained_ns")}


def write_files(root):
    for source in ("/usr/share/common-licenses", "/usr/include/linux"):
        if os.path.isdir(source):
            shutil.copytree(source, root / pathlib.Path(source).name, symlinks=True)
    for i in range(64):
        (root / f"secret-{i}.txt").write_bytes((MARKER + b" %d\n" % i) * 200)
    (root / "random.bin").write_bytes(os.urandom(32 << 20))


def tree_digest(root):
    """How many files there are, and one SHA-256 of all their names and contents."""
    digest = hashlib.sha256()
    files = sorted(p for p in root.rglob("*") if p.is_file() and "lost+found" not in p.parts)
    for path in files:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return len(files), digest.hexdigest()


class MountedFileSystem:
    """ext4 on the export: nbdfuse shows the export as a file, fuse2fs mounts it. No root needed."""

    tools = "nbdfuse, mke2fs, fuse2fs"

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.disk = lab.root / "disk"
        self.mount_point = lab.root / "mnt"
        self.disk.mkdir()
        self.mount_point.mkdir()

    def _attach(self):
        self.nbdfuse = self.lab.spawn("nbdfuse", self.disk, self.lab.uri(self.name))
        self.lab.wait_for(lambda: (self.disk / "nbd").exists(), 10, "nbdfuse")

    def _mount(self):
        self.lab.run("fuse2fs", self.disk / "nbd", self.mount_point, "-o", "rw,fakeroot")
        self.lab.wait_for(lambda: os.path.ismount(self.mount_point), 10, "fuse2fs")

    def _detach(self):
        self.lab.run("fusermount3", "-u", self.mount_point, check=False)
        self.lab.wait_for(lambda: not os.path.ismount(self.mount_point), 10, "the end of fuse2fs")
        time.sleep(0.5)  # fuse2fs writes its last blocks after the mount point is gone
        self.lab.run("fusermount3", "-u", self.disk, check=False)
        self.nbdfuse.wait(10)

    def fill(self):
        """Makes the file system and puts files on it; what they are."""
        self._attach()
        self.lab.run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "payroll2026", self.disk / "nbd", timeout=120)
        self._mount()
        write_files(self.mount_point)
        return self._look()

    def look(self):
        self._attach()
        self._mount()
        return self._look()

    def _look(self):
        try:
            return tree_digest(self.mount_point)
        finally:
            self._detach()


class CopiedFileSystem:
    """The same where /dev/fuse cannot be opened (containers): mke2fs and debugfs on a copy that nbdcopy takes to the export and back."""

    tools = "mke2fs, nbdcopy, debugfs; this machine lets nobody use FUSE"

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.image = lab.root / "ext4.img"
        self.tree = lab.root / "tree"

    def fill(self):
        self.tree.mkdir()
        write_files(self.tree)
        digest = tree_digest(self.tree)
        self.image.touch()
        os.truncate(self.image, 1 << 30)
        self.lab.run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "payroll2026", "-d", self.tree, self.image, timeout=120)
        self.lab.run("nbdcopy", "--flush", self.image, self.lab.uri(self.name), timeout=120)
        self._forget()
        return digest

    def look(self):
        self.tree.mkdir()
        self.lab.run("nbdcopy", self.lab.uri(self.name), self.image, timeout=120)
        self.lab.run("debugfs", "-R", f"rdump / {self.tree}", self.image, timeout=120)
        try:
            return tree_digest(self.tree)
        finally:
            self._forget()

    def _forget(self):
        shutil.rmtree(self.tree)
        self.image.unlink()


def file_system(lab, name):
    return (MountedFileSystem if os.access("/dev/fuse", os.R_OK | os.W_OK) else CopiedFileSystem)(lab, name)


class Load:
    """Writers that remember what was acknowledged: each has its own connection and its own part of the volume."""

    def __init__(self, uri, size, writers=4):
        self.uri = uri
        self.acknowledged = [dict() for _ in range(writers)]
        self.span = size // writers // 4096
        self.threads = [threading.Thread(target=self._write, args=(i,), daemon=True) for i in range(writers)]
        self.errors = []
        self.stop = False

    @staticmethod
    def block(sector, version):
        return hashlib.sha256(f"{sector}:{version}".encode()).digest() * 128

    def start(self):
        for t in self.threads:
            t.start()

    def _write(self, me):
        handle = nbd.NBD()
        handle.connect_uri(self.uri)
        version = 0
        position = me
        try:
            while not self.stop:
                version += 1
                position = (position * 1103515245 + 12345) % self.span
                sector = me * self.span + position
                # A write whose answer never came may be there or not; the one before it must then still be known.
                self.acknowledged[me].setdefault(sector, []).append(-version)
                handle.pwrite(self.block(sector, version), sector * 4096)
                self.acknowledged[me][sector] = [version]
        except nbd.Error as error:
            self.errors.append(error.string)

    def join(self):
        for t in self.threads:
            t.join(20)
        expect(not any(t.is_alive() for t in self.threads), "a writer still waits for its answer 20 s after the revoke")

    def check(self):
        handle = nbd.NBD()
        handle.connect_uri(self.uri)
        good = 0
        for part in self.acknowledged:
            for sector, versions in part.items():
                data = bytes(handle.pread(4096, sector * 4096))
                allowed = [self.block(sector, abs(v)) for v in versions]
                if all(v < 0 for v in versions):
                    allowed.append(bytes(4096))
                expect(data in allowed, f"sector {sector}: neither the acknowledged content nor the unanswered one")
                good += any(v > 0 for v in versions)
        handle.shutdown()
        return good


def read_fails(uri):
    handle = nbd.NBD()
    try:
        handle.connect_uri(uri)
        handle.pread(4096, 0)
    except nbd.Error as error:
        return error.string
    return None


def story(lab):
    say("customer: a token in SoftHSM2 and a KEK in it that cannot leave it")
    lab.make_token()
    lab.make_kek()
    listing = lab.custodian("list", "--token", lab.token, "--pin-file", lab.root / "pins/pin").out
    for line in listing.strip().splitlines():
        say("    " + line)

    lab.write_config()
    backing = lab.write_volume("demo", "1G")
    lab.write_volume("load", "256M")
    say("operator: the configuration is checked before anything starts")
    lab.cli("config", "check", "--config", lab.root / "fallgate.conf")
    say("agent: started" + (" as root, each process under a user of its own" if lab.as_root else " as a plain user, one for all processes"))
    lab.start()
    lab.enroll_all()
    say("console: an officer, an operator and an auditor enrolled; from here on everything goes through CoAP over DTLS")
    before = time.monotonic()
    lab.cli("create", "demo", role="operator")
    row("create a 1 GiB volume (proof of the KEK, wrap, format)", f"{(time.monotonic() - before) * 1000:.0f} ms")
    lab.cli("create", "load", role="operator")
    for name in ("demo", "load"):
        lab.serve(name)
    status = lab.status("demo")
    say(f"volume demo is AVAILABLE: {lab.uri('demo')}  (AES-256-GCM by {status['kernel']}, keys in {status['memory']})")
    info = lab.run("nbdinfo", lab.uri("demo"))
    for line in info.out.splitlines():
        if any(word in line for word in ("export-size", "can_multi_conn", "can_fua", "block_size_preferred")):
            say("    nbdinfo: " + line.strip())

    files = file_system(lab, "demo")
    say(f"client: ext4 with real files through NBD ({files.tools})")
    content = files.fill()
    say(f"    {content[0]} files written, SHA-256 of all of them {content[1][:16]}...")
    raw = backing.read_bytes()
    expect(MARKER not in raw and b"payroll2026" not in raw and b"GNU GENERAL PUBLIC" not in raw, "plaintext on the backing file")
    row("the customer's words found on the backing file", f"none in {len(raw) >> 20} MiB")
    say("backing file searched for the files' words, the file system's label: nothing readable there")
    del raw

    say("customer: disables the KEK in the HSM")
    disabled_at = time.monotonic()
    lab.kek("disable")
    status = lab.wait_state("INACCESSIBLE")
    seconds = time.monotonic() - disabled_at
    expect(status["cause"] == "disabled", f"the cause is {status['cause']}")
    times = lock_times(lab, "demo")
    say(f"volume demo is INACCESSIBLE, cause {status['cause']}; remedy: {status['remedy']}")
    row("KEK disabled until the gate has fallen, as a user sees it", f"{seconds * 1000:.0f} ms (probe interval 1 s)")
    row("   detected -> I/O cut, keys wiped", f"{times['cut_ns']}, {times['wiped_ns']}")
    error = read_fails(lab.uri("demo"))
    expect(error, "a read still succeeds")
    say(f"a read now fails: {error}")

    say("customer: enables it again")
    lab.kek("enable")
    enabled_at = time.monotonic()
    for name in ("demo", "load"):
        lab.wait_state("AVAILABLE", name)
    row("KEK enabled until the volume serves again, by itself", f"{(time.monotonic() - enabled_at) * 1000:.0f} ms")
    expect(files.look() == content, "the files are not what they were")
    say("the files are back, checksums equal")

    say("officer: presses revoke while four writers run at full speed")
    load = Load(lab.uri("load"), 256 << 20)
    load.start()
    time.sleep(2)
    lab.cli("revoke", "load")
    load.join()
    status = lab.wait_state("INACCESSIBLE", "load")
    expect(status["cause"] == "commanded" and status["latched"], "the revoke did not latch")
    times = lock_times(lab, "load")
    row("revoke under load: command -> I/O cut, keys wiped", f"{times['cut_ns']}, {times['wiped_ns']}")
    row("   acknowledged ciphertext on the disk, without keys", times["drained_ns"])
    say(f"the writers were told: {load.errors[0] if load.errors else 'nothing'}")
    time.sleep(2.5)
    expect(lab.state("load") == "INACCESSIBLE", "the volume came back without an officer")
    say("the HSM is well, and still the volume stays shut: a revoke is lifted by an officer only")
    refused = lab.cli("restore", "load", role="operator", check=False)
    expect(refused.code != 0, "an operator could restore")
    say(f"operator tries: {(refused.err or refused.out).strip().splitlines()[0]}")
    lab.cli("restore", "load")
    lab.wait_state("AVAILABLE", "load")
    good = load.check()
    row("acknowledged writes checked after the restore, lost", f"{good} checked, 0 lost")
    say(f"officer restored; {good} acknowledged sectors read back, none lost")

    say("fault: kill -9 the supervisor")
    planes = lab.dataplanes("demo") + lab.dataplanes("load")
    expect(len(planes) == 2, "two data planes should serve")
    killed_at = time.monotonic()
    lab.agent.send_signal(signal.SIGKILL)
    lab.agent.wait()
    lab.wait_for(lambda: not set(planes) & set(lab.processes()), 5, "the end of the data planes")
    row("supervisor killed until the data planes had shut themselves and ended", f"{(time.monotonic() - killed_at) * 1000:.0f} ms")
    say("the data planes wiped their keys, saved what was acknowledged and ended, told by nobody")
    lab.start()
    for name in ("demo", "load"):
        lab.wait_state("AVAILABLE", name)
    say("agent started again: volumes marked attach = auto are AVAILABLE")
    expect(files.look() == content, "the files are not what they were")
    load.check()
    say("files and acknowledged writes are all there")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    for number in STOPPED_BY:
        signal.signal(number, signal.default_int_handler)
    lab = Lab(options.build)
    code = 1
    try:
        story(lab)
        code = 0
        print()
        width = max(len(what) for what, _ in table)
        print("  what was seen".ljust(width + 4) + "measured")
        for what, value in table:
            print(f"  {what.ljust(width)}  {value}")
        print()
        if options.keep:
            lab.keep = True
            cli = f"{lab.bin}/fallgate --credentials {lab.root}"
            print(f"The agent runs on (pid {lab.agent.pid}, everything in {lab.root}). Try:")
            print(f"  nbdinfo '{lab.uri('demo')}'")
            print(f"  {cli}/auditor.credentials status --watch")
            print(f"  {cli}/officer.credentials revoke demo")
            print(f"  {cli}/officer.credentials restore demo")
            print(f"  {lab.bin}/fallgate --run-dir {lab.root}/run stop && sleep 2 && rm -r {lab.root}     # ends it")
            lab.agent = None
            return 0
        print("everything that was started is stopped and removed")
    except (LabError, subprocess.TimeoutExpired, OSError, nbd.Error) as error:
        print(f"tools/demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("tools/demo: interrupted; stopping what was started", file=sys.stderr)
        code = 130
    finally:
        for number in STOPPED_BY:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        if not (options.keep and code == 0):
            for place in ("mnt", "disk"):
                if os.path.ismount(lab.root / place):
                    subprocess.run(["fusermount3", "-uz", str(lab.root / place)], check=False)
            lab.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
