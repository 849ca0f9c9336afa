"""Each board boots its image, serves, forgets and comes back: the same sentences as on a developer's machine, on the board's own
kernel, with the whole of the guest's RAM to look at."""

import os
import random

import nbd
import pytest

from conftest import BOARDS
from machine import Guest, MIB


def connect(guest):
    handle = nbd.NBD()
    handle.connect_uri(guest.uri)
    return handle


@pytest.mark.parametrize("board", BOARDS)
def test_from_power_on_to_power_cut(board, tmp_path, build, cuts):
    guest = Guest(board, tmp_path / "vm", build)
    content = os.urandom(8 * MIB)
    try:
        guest.boot()
        guest.enrolled()
        status = guest.wait_state("AVAILABLE")
        assert status["memory"] == "memfd_secret", "the board's kernel has memfd_secret: keys belong there"
        disk = connect(guest)
        disk.pwrite(content, 0)
        disk.flush()
        assert disk.pread(len(content), 0) == content

        patterns = guest.key_patterns()
        found, what = guest.keys_in_ram(patterns)
        assert found, "the search is blind: it must find the keys while the volume serves"
        guest.cli("revoke", "data", role="officer")
        guest.wait_state("INACCESSIBLE")
        found, what = guest.keys_in_ram(patterns)
        assert not found, f"after the revoke, in the whole RAM of the guest:\n{what[:2000]}"
        with pytest.raises(nbd.Error):
            connect(guest).pread(4096, 0)
        guest.cli("restore", "data", role="officer")
        guest.wait_state("AVAILABLE")
        assert connect(guest).pread(len(content), 0) == content

        for cut in range(cuts):
            disk = connect(guest)
            at = random.randrange(0, 7) * MIB
            piece = os.urandom(MIB)
            disk.pwrite(piece, at)
            disk.flush()
            content = content[:at] + piece + content[at + MIB:]
            for _ in range(random.randrange(1, 40)):  # on the way when the power goes: old or new, never unreadable
                disk.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(os.urandom(65536))), random.randrange(160, 480) * 65536)
            guest.cut_power()
            guest.boot()
            guest.wait_state("AVAILABLE")
            disk = connect(guest)
            assert disk.pread(len(content), 0) == content, f"cut {cut}: flushed data is not there"
            for at in range(10 * MIB, 30 * MIB, MIB):
                disk.pread(MIB, at)
        guest.power_off()
    finally:
        guest.close()
