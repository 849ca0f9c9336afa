"""The same promises on other modules than SoftHSM2: NSS softokn, whose words for the same things are others, and a token at the end of a
wire (p11-kit's server) that is stopped, killed and brought back under a volume that is written to."""

import os
import signal
import threading
import time

import nbd
import pytest

from conftest import running_lab
from test_causes import QUICK, INTERVAL, DEADLINE, SLACK, change_pin, write_new_pin
from test_gate import connect, read_error, same


def new_world(**options):
    lab = running_lab(volumes=(("demo", "16M"),), **options)
    try:
        lab.data = os.urandom(1 << 20)
        connect(lab).pwrite(lab.data, 1 << 20)
    except BaseException:
        lab.close()
        raise
    return lab


def falls_and_comes_back(lab, take, causes, give, timeout=20):
    lab.wait_state("AVAILABLE", timeout=20)
    take()
    lab.wait_state("INACCESSIBLE", timeout=timeout)
    lab.wait_for(lambda: lab.status()["cause"] in causes, 10, f"one of {causes}", lambda: lab.status()["cause"])
    assert read_error(lab), "a volume that is shut gave data"
    give()
    lab.wait_state("AVAILABLE", timeout=2 * INTERVAL + DEADLINE + SLACK)
    assert same(lab, lab.data)


@pytest.mark.parametrize("kek_type", ["rsa2048", "aes256"])
def test_nss_from_creation_to_deletion(kek_type):
    lab = new_world(hsm="nss", kek_type=kek_type, kek=QUICK)
    try:
        lab.cli("detach", "demo", role="operator")
        lab.wait_state("LOCKED")
        lab.cli("attach", "demo", role="operator")
        lab.wait_state("AVAILABLE")
        assert same(lab, lab.data)
        falls_and_comes_back(lab, lambda: lab.kek("disable"), {"disabled"}, lambda: lab.kek("enable"))
        falls_and_comes_back(lab, lambda: lab.cli("revoke", "demo"), {"commanded"}, lambda: lab.cli("restore", "demo"))
        falls_and_comes_back(lab, lambda: change_pin(lab), {"access-revoked"}, lambda: write_new_pin(lab))
        decide = "C_DecryptInit" if kek_type == "rsa2048" else "C_UnwrapKey"
        falls_and_comes_back(lab, lambda: lab.hsm.order(f"{decide} 0 9999 hang"), {"unreachable"}, lambda: lab.hsm.order())
        falls_and_comes_back(lab, lambda: lab.hsm.order("* 0 9999 rv 0x30"), {"unreachable"}, lambda: lab.hsm.order())
        lab.stop()
        lab.start()
        lab.wait_state("AVAILABLE")
        assert same(lab, lab.data)
        lab.kek("delete", "--yes")
        assert lab.wait_state("INACCESSIBLE")["cause"] == "deleted"
        lab.make_kek("kek")
        lab.wait_for(lambda: lab.status()["cause"] == "replaced", 10, "that it is another key", lambda: lab.status()["cause"])
        time.sleep(4 * INTERVAL)
        assert lab.state() == "INACCESSIBLE" and read_error(lab)
    finally:
        lab.close()


def test_a_wrong_pin_costs_one_try_at_nss_too():
    lab = new_world(hsm="nss", kek=QUICK)
    try:
        lab.stop()
        lab._secret("pins/wrong", "wrong-pin-1")
        (lab.root / "pins/wrong").rename(lab.root / "pins/pin")
        before = lab.hsm.calls("C_Login")
        for _ in range(2):
            lab.start()
            assert lab.wait_state("INACCESSIBLE")["cause"] == "access-revoked"
            time.sleep(4 * INTERVAL)
            assert lab.hsm.calls("C_Login") == before + 1
            lab.stop()
    finally:
        lab.close()


# ---- a token at the end of a wire ----

class Writer(threading.Thread):
    """Writes as fast as it may and notes what was acknowledged; a volume that shuts ends its connection, and it makes another."""

    def __init__(self, lab):
        super().__init__(daemon=True)
        self.lab, self.over, self.acknowledged, self.refused = lab, threading.Event(), {}, 0

    def run(self):
        handle, i = None, 0
        while not self.over.is_set():
            i += 1
            at, data = (i % 256) * 4096, os.urandom(4096)
            try:
                handle = handle or connect(self.lab)
                self.acknowledged.pop(at, None)  # until it is acknowledged the old or the new may be there
                handle.pwrite(data, at)
                self.acknowledged[at] = data
            except nbd.Error:
                self.refused += 1
                handle = None
                time.sleep(0.02)

    def stop(self):
        self.over.set()
        self.join(20)
        assert not self.is_alive(), "a write hangs"


@pytest.fixture(scope="module")
def wire():
    lab = new_world(hsm="served", kek=QUICK.replace("outage_budget = 1000ms", "outage_budget = 5s"))
    try:
        yield lab
    finally:
        lab.close()


def under_load(lab, change, restore, timeout=20):
    writer = Writer(lab)
    writer.start()
    try:
        time.sleep(0.2)
        falls_and_comes_back(lab, change, {"unreachable"}, restore, timeout)
        time.sleep(0.2)
    finally:
        writer.stop()
    assert writer.refused > 0, "the writer noticed nothing"
    lab.wait_state("AVAILABLE")
    handle = connect(lab)
    assert len(writer.acknowledged) > 0
    for at, data in writer.acknowledged.items():
        assert bytes(handle.pread(4096, at)) == data, f"an acknowledged write at {at} is lost"


def test_a_server_that_is_stopped_for_good_locks_and_comes_back(wire):
    under_load(wire, lambda: wire.hsm.signal(signal.SIGSTOP), lambda: wire.hsm.signal(signal.SIGCONT))


def test_a_server_that_is_killed_locks_and_comes_back(wire):
    """Without its socket the client module lists no slots at all, and says that all is well."""
    under_load(wire, wire.hsm.stop, wire.hsm.start)


def test_a_server_that_stands_still_for_a_moment_takes_nothing_down(wire):
    wire.wait_state("AVAILABLE", timeout=20)
    before = wire.status().get("lock")
    for hiccup in range(2):
        wire.hsm.signal(signal.SIGSTOP)
        time.sleep(1.2)
        wire.hsm.signal(signal.SIGCONT)
        wire.wait_for(lambda: wire.state() == "AVAILABLE", 10, "the end of the doubt")
    wire.hsm.stop()
    wire.hsm.start()
    wire.wait_for(lambda: wire.state() == "AVAILABLE", 10, "the end of the doubt")
    time.sleep(2 * INTERVAL)
    assert wire.state() == "AVAILABLE" and wire.status().get("lock") == before
    assert same(wire, wire.data)
