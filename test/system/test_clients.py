"""Clients that nobody here wrote, on the export: nbdinfo, nbdcopy, qemu-io, nbdfuse, fio, libnbd."""

import hashlib
import os
import random
import shutil

import nbd
import pytest


def connect(lab, name="demo"):
    handle = nbd.NBD()
    handle.add_meta_context("base:allocation")
    handle.connect_uri(lab.uri(name))
    return handle


def test_nbdcopy_there_and_back(shared, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(64 << 20))
    back = tmp_path / "back"
    shared.run("nbdcopy", source, shared.uri())
    shared.run("nbdcopy", shared.uri(), back)
    assert hashlib.sha256(source.read_bytes()).digest() == hashlib.sha256(back.read_bytes()).digest()


def test_what_was_written_is_not_on_the_backing_file(shared):
    marker = b"plainly readable words " * 179
    handle = connect(shared)
    handle.pwrite(marker[:4096], 8192)
    handle.flush()
    raw = (shared.root / "volumes/demo.img").read_bytes()
    assert marker[:64] not in raw
    assert bytes(handle.pread(4096, 8192)) == marker[:4096]


def test_nbdinfo_says_what_is_true(shared):
    out = shared.run("nbdinfo", "--json", shared.uri()).json()["exports"][0]
    assert out["export-size"] == 64 << 20
    assert out["is_read_only"] is False
    assert out["can_flush"] and out["can_fua"] and out["can_trim"] and out["can_zero"] and out["can_fast_zero"]
    sizes = out.get("block_size_minimum", out.get("block_minimum")), out.get("block_size_preferred", out.get("block_preferred"))
    assert sizes == (1, 4096), out


def test_any_alignment_against_an_oracle(shared):
    handle = connect(shared)
    size = 2 << 20
    base = 16 << 20
    oracle = bytearray(size)
    handle.zero(size, base)
    dice = random.Random(7)
    for _ in range(400):
        at = dice.randrange(size - 1)
        length = min(size - at, dice.choice([1, 7, 511, 512, 4095, 4096, 4097, 40000, 300000]))
        kind = dice.randrange(4)
        if kind == 0:
            data = dice.randbytes(length)
            handle.pwrite(data, base + at, nbd.CMD_FLAG_FUA if dice.random() < 0.1 else 0)
            oracle[at:at + length] = data
        elif kind == 1:
            handle.zero(length, base + at)
            oracle[at:at + length] = bytes(length)
        elif kind == 2 and dice.random() < 0.2:
            handle.flush()
        else:
            assert bytes(handle.pread(length, base + at)) == bytes(oracle[at:at + length])
    assert bytes(handle.pread(size, base)) == bytes(oracle)


def test_extents_show_the_zeroes(shared):
    handle = connect(shared)
    handle.zero(8 << 20, 32 << 20)
    handle.pwrite(os.urandom(1 << 20), 34 << 20)
    seen = []

    def note(context, offset, entries, error):
        seen.extend(entries)

    handle.block_status(8 << 20, 32 << 20, note)
    pairs = list(zip(seen[::2], seen[1::2]))
    assert [(length, flags & 2) for length, flags in pairs][:3] == [(2 << 20, 2), (1 << 20, 0), (5 << 20, 2)]


def test_a_flush_covers_every_connection(shared):
    if not connect(shared).can_multi_conn():
        pytest.skip("the export does not announce multi-conn")
    writer, flusher, reader = connect(shared), connect(shared), connect(shared)
    for i in range(50):
        data = os.urandom(4096)
        writer.pwrite(data, i * 4096)
        flusher.flush()
        assert bytes(reader.pread(4096, i * 4096)) == data


def test_qemu_io(shared):
    uri = f"nbd+unix:///?socket={shared.root}/run/demo.sock"
    out = shared.run("qemu-io", "-f", "raw", "-c", "write -P 0xa5 1M 1M", "-c", "flush", "-c", "read -P 0xa5 1M 1M", "-c",
                     "write -z 1M 64k", "-c", "read -P 0 1M 64k", "-c", "discard 2M 1M", uri)
    assert "Pattern verification failed" not in out.out + out.err


def test_nbdfuse_with_a_file_system(shared, tmp_path):
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse on this machine")
    place = tmp_path / "disk"
    place.mkdir()
    process = shared.spawn("nbdfuse", place, shared.uri())
    try:
        shared.wait_for(lambda: (place / "nbd").exists(), 10, "nbdfuse")
        shared.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", "/usr/share/common-licenses", place / "nbd")
        shared.run("e2fsck", "-fn", place / "nbd")
        assert "GNU GENERAL PUBLIC" in shared.run("debugfs", "-R", "cat GPL-2", place / "nbd").out
    finally:
        shared.run("fusermount3", "-u", place, check=False)
        process.wait(10)


def test_fio_verifies_its_own_writes(shared):
    if "nbd" not in shared.run("fio", "--enghelp", check=False).out:
        pytest.skip("this fio has no nbd engine")
    out = shared.run("fio", "--name=verify", "--ioengine=nbd", f"--uri={shared.uri()}", "--rw=randrw", "--bsrange=4k-64k", "--iodepth=16",
                     "--size=48M", "--io_size=48M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", timeout=120)
    assert "err= 0" in out.out, out


def test_out_of_bounds_is_refused(shared):
    handle = connect(shared)
    handle.set_strict_mode(0)
    with pytest.raises(nbd.Error):
        handle.pread(4096, 64 << 20)
    assert len(handle.pread(512, (64 << 20) - 512)) == 512


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="no nbdkit")
def test_a_plugin_started_by_hand_says_so(shared):
    result = shared.run("nbdkit", "-f", shared.bin / "fallgate-nbd.so", check=False, timeout=10)
    assert result.code != 0
    assert "outside the agent" in result.err
