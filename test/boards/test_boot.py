"""Each board boots its image, serves, forgets and comes back: the same sentences as on a developer's machine, on the board's own
kernel, with the whole of the guest's RAM to look at."""

import os

import nbd
import pytest

from conftest import BOARDS
from machine import Guest, MIB


def connect(guest):
    handle = nbd.NBD()
    handle.connect_uri(guest.uri)
    return handle


@pytest.mark.parametrize("board", BOARDS)
def test_from_power_on_to_power_on(board, tmp_path, build):
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

        # off and on again, on the same disks
        guest.power_off()
        guest.boot()
        guest.wait_state("AVAILABLE")
        assert connect(guest).pread(len(content), 0) == content
        guest.power_off()
    finally:
        guest.close()
