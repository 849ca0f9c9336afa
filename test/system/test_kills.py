"""A sample of kills.py (kill -9 of each process at each message and change of state), and clocks that jump under the agent: the shim that
kills also lies about the time."""

import os
import random
import signal
import subprocess
import time

import nbd
import pytest

import kills
from lab import LabError
from shim import shimmed_lab

SAMPLE_S = 60


def test_a_kill_at_any_message_leaves_nothing_half_done():
    def enough(done):
        return len(done) > 20 and {role for role, *_ in done} >= {"supervisor", "dataplane", "unwrapper", "prober", "mgmt", "creator"}

    points, done, passed_by = kills.run(kills.sample, until=SAMPLE_S, enough=enough)
    assert enough(done), (points, done)
    assert len(passed_by) <= 2, passed_by


# ---- the dead man's switch, with clocks that jump ----

@pytest.fixture
def shimmed():
    lab = shimmed_lab()
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config(kek="probe_interval = 500ms\noutage_budget = 5s\n", agent=lab.extra_agent)
        lab.write_volume("demo", "16M")
        lab.start()
        lab.enroll_all()
        lab.cli("create", "demo", role="operator")
        lab.wait_state("AVAILABLE")
        yield lab
    finally:
        lab.close()


def serves(lab):
    try:
        handle = nbd.NBD()
        handle.connect_uri(lab.uri())
        handle.pread(4096, 0)
        return True
    except nbd.Error:
        return False


def test_a_boot_clock_that_jumps_past_the_deadlines_shuts_the_data_plane(shimmed):
    before, gate_seq = shimmed.dataplanes(), shimmed.status()["gate_seq"]
    shimmed.orders.clocks("dataplane", boot_ns=3600 * 10**9)
    shimmed.wait_for(lambda: shimmed.dataplanes() != before, 10, "another data plane")
    assert "I/O cut at" in shimmed.log() and "the process ends" in shimmed.log(), "it was not the data plane itself that locked"
    shimmed.orders.clocks("dataplane")
    shimmed.wait_after(gate_seq, "AVAILABLE")
    assert serves(shimmed)


def test_a_boot_clock_that_stands_behind_does_not_lengthen_a_lease(shimmed):
    """The supervisor's clock is right, the data plane's is an hour behind: it would trust an old proof. The supervisor still locks."""
    shimmed.orders.clocks("dataplane", boot_ns=-3600 * 10**9)
    time.sleep(1)
    assert shimmed.state() == "AVAILABLE"
    shimmed.kek("disable")
    assert shimmed.wait_state("INACCESSIBLE", timeout=10)["cause"] == "disabled"


def test_a_wall_clock_that_jumps_ahead_asks_for_a_fresh_proof_and_goes_on(shimmed):
    mark = len(shimmed.log())
    shimmed.orders.clocks("supervisor", wall_ns=86400 * 10**9)
    shimmed.wait_for(lambda: "the wall clock jumped" in shimmed.log()[mark:], 15, "the jump in the log")
    time.sleep(1)
    assert shimmed.state() == "AVAILABLE" and serves(shimmed)


def test_a_wall_clock_that_is_set_back_locks_and_opens_again_when_it_is_right(shimmed):
    time.sleep(1.5)  # it has been seen
    shimmed.orders.clocks("supervisor", wall_ns=-86400 * 10**9)
    status = shimmed.wait_state("INACCESSIBLE", timeout=10)
    assert status["cause"] == "clock" and "clock" in status["remedy"]
    assert not serves(shimmed)
    time.sleep(1.5)
    assert shimmed.state() == "INACCESSIBLE", "a good proof opened what has no clock"
    shimmed.orders.clocks("supervisor")
    shimmed.wait_state("AVAILABLE", timeout=10)


def test_an_hsm_that_hangs_for_ever_while_the_supervisor_stands_still_ends_in_wiped_keys(shimmed):
    """Nobody is left to decide: the data plane's own deadline does it, and says so."""
    for pid, line in shimmed.processes().items():
        if "fallgate-hsm" in line:
            os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    shimmed.agent.send_signal(signal.SIGSTOP)
    try:
        shimmed.wait_for(lambda: "the supervisor has been silent for too long" in shimmed.log(), 10, "the data plane's own lock")
        assert time.monotonic() - began < 6, "2 s, and what a loaded machine may add"
    finally:
        shimmed.agent.send_signal(signal.SIGCONT)
        for pid, line in shimmed.processes().items():
            if "fallgate-hsm" in line:
                os.kill(pid, signal.SIGCONT)
    shimmed.wait_state("AVAILABLE", timeout=20)
    with pytest.raises(LabError):
        shimmed.wait_state("FAULT", timeout=0.2)


# ---- revokes in the middle of everything ----

def test_a_revoke_at_any_moment_of_an_attach_a_detach_or_a_restore(shimmed):
    """Whatever is under way when the signal comes: shut and latched, no FAULT, and the data back after the restore."""
    lab, dice = shimmed, random.Random(7)
    data = os.urandom(1 << 20)
    handle = nbd.NBD()
    handle.connect_uri(lab.uri())
    handle.pwrite(data, 0)
    handle.flush()
    handle.shutdown()
    for n in range(24):
        verb, role = (("attach", "operator"), ("detach", "operator"), ("restore", "officer"))[n % 3]
        if verb == "attach":
            lab.cli("detach", "demo", role="operator")
            lab.wait_state("LOCKED")
        elif verb == "restore":
            lab.cli("revoke", "demo")
            lab.wait_state("INACCESSIBLE")
        mark = len(lab.log())
        client = lab.spawn(lab.bin / "fallgate", "--credentials", lab.credentials[role], verb, "demo", stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0, 0.12))
        lab.agent.send_signal(signal.SIGUSR1)
        client.wait(10)
        said = lab.log()[mark:]
        if verb == "restore" and said.find("SIGUSR1") < said.find("request: restore"):
            lab.agent.send_signal(signal.SIGUSR1)  # the officer asked after the revoke, and knew of it
        status = lab.wait_for(lambda: (lambda s: s if s["latched"] and s["state"] in ("LOCKED", "INACCESSIBLE") else None)(lab.status()), 5,
                              f"round {n}, {verb}: a latched gate")
        assert status["cause"] == "commanded" and not serves(lab)
        lab.wait_for(lambda: lab.cli("restore", "demo", check=False).code == 0, 15, "a restore")
        lab.serve()
        handle = nbd.NBD()
        handle.connect_uri(lab.uri())
        assert bytes(handle.pread(len(data), 0)) == data
        data = os.urandom(1 << 20)
        handle.pwrite(data, 0)  # acknowledged, not flushed: the next lock must not lose it
        handle.shutdown()
