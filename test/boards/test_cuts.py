"""The power goes at any moment: under load, while the machine comes up, while the gate is shut or opened. QEMU is killed, started again on
the same disks, and the whole volume is read: what was flushed is there, nothing is unreadable, nothing was never written."""

import errno
import random
import struct
import threading
import time

import nbd
import pytest

from conftest import BOARDS
from machine import Guest, MachineError, MIB

SECTOR, WRITERS, LONGEST = 4096, 4, 32
KINDS = ["load"] * 4 + ["boot", "gate"]


def sector(at, version):
    return struct.pack("<QQ", at, version) * (SECTOR // 16) if version else bytes(SECTOR)


class Writer(threading.Thread):
    """Writes its own part of the volume over its own connection. For each sector: the version that a flush (or FUA) has made last, and
    the newest that was handed over at all: after a cut any of those between may be there."""

    def __init__(self, guest, model, first, count, seed):
        super().__init__(daemon=True)
        self.guest, self.model, self.first, self.count, self.random = guest, model, first, count, random.Random(seed)
        self.flushes = 0

    def run(self):
        try:
            handle = nbd.NBD()
            handle.connect_uri(self.guest.uri)
            while True:
                self.write(handle)
        except nbd.Error:
            pass  # the power, or the gate

    def write(self, handle):
        at, count = self.first + self.random.randrange(self.count - LONGEST), self.random.randrange(1, LONGEST)
        lasting = self.random.random() < 0.1
        for s in range(at, at + count):
            self.model.newest[s] += 1
        data = b"".join(sector(s, self.model.newest[s]) for s in range(at, at + count))
        handle.pwrite(data, at * SECTOR, nbd.CMD_FLAG_FUA if lasting else 0)
        written = range(at, at + count)
        if not lasting:
            self.model.waiting[self.first] |= set(written)
            if self.random.random() > 0.1:
                return
            handle.flush()
            written, self.model.waiting[self.first] = self.model.waiting[self.first], set()
        self.flushes += 1
        for s in written:
            self.model.lasting[s] = self.model.newest[s]


class Model:
    def __init__(self, sectors):
        self.disk = None
        self.lasting, self.newest, self.waiting = [0] * sectors, [0] * sectors, {}

    def writers(self, guest):
        part = len(self.newest) // WRITERS
        for n in range(WRITERS):
            self.waiting[n * part] = set()
        return [Writer(guest, self, n * part, part, random.random()) for n in range(WRITERS)]

    def read(self, guest, start, count):
        """On a busy machine the token in the guest can be too slow for its budget: the gate shuts by rights, and opens again."""
        for _ in range(5):
            try:
                if self.disk is None:
                    self.disk = nbd.NBD()
                    self.disk.connect_uri(guest.uri)
                return self.disk.pread(count * SECTOR, start * SECTOR)
            except nbd.Error as error:
                assert error.errnum != errno.EIO, f"sectors from {start} are unreadable: {error}"
                self.disk = None
                guest.wait_state("AVAILABLE")
        raise MachineError(f"five times no answer for sectors from {start}")

    def check(self, guest):
        """Reads everything. What is there now is on the disk, and counts from here."""
        self.disk = None
        for start in range(0, len(self.newest), MIB // SECTOR):
            count = min(MIB // SECTOR, len(self.newest) - start)
            data = self.read(guest, start, count)
            for s in range(start, start + count):
                piece = bytes(data[(s - start) * SECTOR:(s - start + 1) * SECTOR])
                version = struct.unpack_from("<QQ", piece)[1]
                assert piece == sector(s, version), f"sector {s} was never written so: {piece[:32].hex()}"
                assert self.lasting[s] <= version <= self.newest[s], \
                    f"sector {s}: version {version} is there, {self.lasting[s]} was flushed, {self.newest[s]} the newest"
                self.lasting[s] = self.newest[s] = version


def cut(guest, model, kind):
    """Power goes; how many flushes came back before. The machine is off afterwards."""
    if kind == "boot":
        guest.cut_power()
        guest.boot()
        time.sleep(random.uniform(0.5, 12))
        guest.cut_power()
        return 0
    writers = model.writers(guest)
    for w in writers:
        w.start()
    end = time.monotonic() + 60
    while not any(w.flushes for w in writers):
        assert time.monotonic() < end, "nothing is flushed: the load does not run"
        time.sleep(0.02)
    time.sleep(random.uniform(0, 2.5))
    if kind == "gate":
        guest.cli("revoke", "data", role="officer", check=False)
        time.sleep(random.uniform(0, 0.3))
        guest.cli("restore", "data", role="officer", check=False)
        time.sleep(random.uniform(0, 1))
    guest.cut_power()
    for w in writers:
        w.join(20)
        assert not w.is_alive(), "a write hangs"
    return sum(w.flushes for w in writers)


def open_again(guest):
    """A cut between a revoke and its restore leaves the latch: an officer takes it away."""
    guest.boot()
    guest.wait_answer()
    end = time.monotonic() + 120
    while (status := guest.status())["state"] != "AVAILABLE":
        if status["latched"]:
            guest.cli("restore", "data", role="officer", check=False)
        if time.monotonic() > end:
            raise MachineError(f"never AVAILABLE; last: {status}\n{guest.text[-2000:]}")
        time.sleep(0.3)


@pytest.mark.parametrize("board", BOARDS)
def test_the_power_goes(board, tmp_path, build, cuts, kvm):
    guest = Guest(board, tmp_path / "vm", build, data=24 * MIB, kvm=kvm)
    done, flushes = dict.fromkeys(KINDS, 0), 0
    try:
        guest.boot()
        guest.enrolled()
        model = Model(guest.wait_state("AVAILABLE")["size"] // SECTOR)
        for number in range(cuts):
            kind = KINDS[number % len(KINDS)]
            flushes += cut(guest, model, kind)
            done[kind] += 1
            open_again(guest)
            model.check(guest)
            print(f"\r{board}: cut {number + 1} of {cuts}, {flushes} flushes came back", end="", flush=True)
    finally:
        guest.close()
    print(f"\n{board}: " + ", ".join(f"{n} during {k}" for k, n in done.items()) + f"; {flushes} flushes came back, all of it was there")
