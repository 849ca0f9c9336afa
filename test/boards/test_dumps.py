"""The whole RAM of a guest, again and again: before an event that shuts the gate every form of the key is found, after it none. Here the
tamper line and a supervisor that hangs; a revoke and an HSM that is gone are in test_hsm.py. --dumps says how often."""

import time

import pytest

from conftest import BOARDS
from machine import Guest
from test_hal import CONFIG, TAMPER, shell

HUNG_S = 4  # keys go 2 s after the last heartbeat


@pytest.fixture(scope="module", params=BOARDS)
def world(request, tmp_path_factory, build):
    """A guest with a tamper line."""
    guest = Guest(request.param, tmp_path_factory.mktemp(request.param) / "vm", build)
    try:
        guest.boot()
        guest.enrolled()
        guest.wait_state("AVAILABLE")
        fifo = TAMPER[request.param].removeprefix("fifo:")
        make = f"mkfifo -m 0600 {fifo}; " if fifo.startswith("/") else ""
        shell(guest, f"{make}printf '[tamper]\\nsource = {TAMPER[request.param]}\\n' >> {CONFIG}; sync")
        mark = len(guest.text)
        shell(guest, "kill -TERM $(pidof fallgated)")
        guest.wait_for("UNLOCKING -> AVAILABLE", 180, mark)
        guest.pull = (lambda: shell(guest, f"echo x > {fifo}")) if make else (lambda: guest.qmp("system_powerdown"))
        yield guest
    finally:
        guest.close()


def search(guest, after):
    """Found before; not found once after() is over."""
    guest.wait_state("AVAILABLE")
    patterns = guest.key_patterns()  # anew: a volume whose process died is opened with a new root
    assert guest.keys_in_ram(patterns)[0], "the search is blind: it must find the keys while the volume serves"
    after()
    found, what = guest.keys_in_ram(patterns)
    assert not found, f"in the whole RAM of the guest:\n{what[:2000]}"


def test_the_tamper_line_is_pulled_again_and_again(world, dumps):
    def pulled():
        world.pull()
        assert world.wait_state("INACCESSIBLE")["cause"] == "tamper"

    for _ in range(dumps):
        search(world, pulled)
        world.cli("restore", "data", role="officer")


def test_the_supervisor_hangs_again_and_again(world, dumps):
    world.qmp("watchdog-set-action", action="none")  # a slow search takes longer than its 10 s; what it does is test_hal.py's

    def hung():
        world.type("kill -STOP $(pidof fallgated)")
        time.sleep(HUNG_S)

    for _ in range(dumps):
        search(world, hung)
        mark = len(world.text)
        world.type("kill -CONT $(pidof fallgated)")
        world.wait_for("UNLOCKING -> AVAILABLE", 120, mark)  # it may think for a moment that all is well
