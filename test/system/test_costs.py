"""What a request costs the data plane, counted in the real one under load by count_calls.c: no allocation, and no copy of the payload in user
space. (The kernel copies it twice: from the page cache into the request's buffer, where it is opened in place, and from there to the
socket; a write the other way, sealed from the request's buffer into the cell that is written.) A request of odd bytes copies its edges."""

import os
import platform
import shutil
import struct

import nbd
import pytest

from conftest import BUILD, running_lab

SHIM = BUILD / "test-bin" / "libcount_calls.so"
SECTOR = 4096
REQUESTS = 2000


class Counted:
    def __init__(self, lab, path):
        self.path = path
        self.handle = nbd.NBD()
        self.handle.connect_uri(lab.uri())
        self.errors = []

    def finished(self, error):
        if error:
            self.errors.append(error)
        return 1

    def read(self, size, at):
        self.handle.aio_pread(nbd.Buffer(size), at, completion=self.finished)

    def write(self, data, at):
        self.handle.aio_pwrite(data, at, completion=self.finished)

    def counts(self):
        return struct.unpack("3Q", self.path.read_bytes()[:24])

    def run(self, call, requests):
        """(allocations, payload copies, bytes of them) of that many requests, 8 at once."""
        before = self.counts()
        for n in range(requests):
            while self.handle.aio_in_flight() >= 8:
                self.handle.poll(-1)
            call(n)
        while self.handle.aio_in_flight():
            self.handle.poll(-1)
        assert not self.errors, self.errors[:3]
        return tuple(b - a for a, b in zip(before, self.counts()))


@pytest.fixture(scope="module")
def counted():
    if not SHIM.exists() or platform.machine() != "x86_64":
        pytest.skip("no count_calls in this build")
    import pathlib
    import tempfile
    place = pathlib.Path(tempfile.mkdtemp(prefix="fallgate-costs-"))
    place.chmod(0o755)
    path = place / "counts"
    path.write_bytes(bytes(4096))
    path.chmod(0o666)
    shim = shutil.copy(SHIM, place)
    wrapper = place / "nbdkit"
    wrapper.write_text(f"#!/bin/sh\nLD_PRELOAD={shim} FALLGATE_COUNTS={path} exec {shutil.which('nbdkit')} \"$@\"\n")
    wrapper.chmod(0o755)
    lab = running_lab(agent=f"nbdkit = {wrapper}\n")
    try:
        c = Counted(lab, path)
        c.run(lambda n: c.write(os.urandom(131072), n % 400 * 131072), 400)
        c.handle.flush()
        c.run(lambda n: c.read(131072, n * 131072), 400)  # each thread's buffer and each leaf: once
        assert c.counts()[0] > 0, "the count is not there"
        yield c
    finally:
        lab.close()
        shutil.rmtree(place)


@pytest.mark.parametrize("size", (SECTOR, 131072))
def test_a_read_allocates_and_copies_nothing(counted, size):
    got = counted.run(lambda n: counted.read(size, n * 7 % 400 * size), REQUESTS)
    assert got[0] <= REQUESTS // 100 and got[1:] == (0, 0), got


# A round of the volume's own thread and a checkpoint may allocate; a request may not. What is read while it is held is copied: not here.
@pytest.mark.parametrize("size", (SECTOR, 131072))
def test_a_write_allocates_and_copies_nothing(counted, size):
    data = os.urandom(size)
    got = counted.run(lambda n: counted.write(data, n * 7 % 400 * size), REQUESTS)
    counted.handle.flush()
    assert got[0] <= REQUESTS // 100 and got[2] <= REQUESTS * size // 100, got


def test_the_count_can_fail(counted):
    """Requests of odd bytes copy the parts of sectors that they touch: that is seen."""
    counted.handle.flush()
    got = counted.run(lambda n: counted.read(SECTOR, n * SECTOR + 1000), 100)
    assert got[1] >= 100 and 100 * 2048 <= got[2] <= 100 * SECTOR, got
