"""One boot of each architecture, short enough for every change: the image comes up by itself, serves, shuts the gate, switches off."""

import os

import nbd
import pytest

from conftest import BOARDS
from machine import Guest, MIB


@pytest.mark.parametrize("board", BOARDS)
def test_boots_serves_shuts_and_ends(board, tmp_path, build):
    guest = Guest(board, tmp_path / "vm", build)
    try:
        guest.boot()
        guest.enrolled()
        assert guest.wait_state("AVAILABLE")["memory"] == "memfd_secret"
        disk, piece = nbd.NBD(), os.urandom(MIB)
        disk.connect_uri(guest.uri)
        disk.pwrite(piece, 0)
        disk.flush()
        assert disk.pread(MIB, 0) == piece
        guest.cli("revoke", "data", role="officer")
        guest.wait_state("INACCESSIBLE")
        with pytest.raises(nbd.Error):
            disk.pread(4096, 0)
        guest.power_off()
        assert guest.process.returncode == 0
    finally:
        guest.close()
