"""Every way to take a key away, end to end on real parts: each is told apart, says what lifts it, is in the alert and in the ledger, and
is over by itself when what was taken is given back, with nothing restarted. And what is none: a hiccup, a slow HSM, slots that change
their numbers, sessions that die of rest."""

import os
import shutil
import signal
import time

import pytest

from conftest import running_lab
from test_gate import HungToken, connect, read_error, same

INTERVAL, DEADLINE, BUDGET = 0.4, 1.0, 1.0
QUICK = f"probe_interval = {int(INTERVAL * 1000)}ms\nfresh_every = 3\nhsm_deadline = {int(DEADLINE * 1000)}ms\noutage_budget = {int(BUDGET * 1000)}ms\n"
SLACK = 5  # seconds for a machine that does other things, too


@pytest.fixture(scope="module")
def world():
    lab = running_lab(volumes=(("demo", "16M"),), kek=QUICK, hsm="faulty")
    try:
        lab.make_kek("other")
        lab.kek_label = "kek"
        lab.data = os.urandom(1 << 20)
        connect(lab).pwrite(lab.data, 1 << 20)
        yield lab
    finally:
        lab.close()


# ---- how each is taken away, and given back ----

def order(*lines):
    return lambda lab: lab.hsm.order(*lines), lambda lab: lab.hsm.order()


def keep_token(lab):
    with HungToken(lab):  # nobody is in the middle of rewriting a file
        shutil.copytree(lab.root / "tokens", lab.root / "kept")
    if lab.as_root:
        for path in (lab.root / "kept").rglob("*"):
            shutil.chown(path, 64771, 64771)


def bring_back(lab):
    """From the customer's backup: the store as it was, in one step."""
    shutil.rmtree(lab.root / "gone", ignore_errors=True)
    (lab.root / "tokens").rename(lab.root / "gone")
    if lab.as_root:
        os.chown(lab.root / "kept", 64771, 64771)
    (lab.root / "kept").rename(lab.root / "tokens")
    shutil.rmtree(lab.root / "gone")


def delete(lab):
    keep_token(lab)
    lab.kek("delete", "--yes")


def replace(lab):
    delete(lab)
    lab.make_kek("kek")


def initialise_anew(lab):
    """Another token of the same label and PIN where the old one was, and a key of the same label in it."""
    keep_token(lab)
    for path in (lab.root / "tokens").iterdir():
        shutil.rmtree(path)
    lab.hsm.make_token(lab.token)
    lab.make_kek("kek")


def change_pin(lab):
    fresh = lab._secret("pins/new", "new-" + os.urandom(4).hex())
    lab.custodian("set-pin", "--token", lab.token, "--pin-file", lab.root / "pins/pin", "--new-pin-file", fresh)
    shutil.copy2(lab.root / "pins/pin", lab.root / "pins/old")
    lab.tries = lab.hsm.calls("C_Login")


def write_new_pin(lab):
    (lab.root / "pins/new").rename(lab.root / "pins/pin")


def take_store(lab):
    (lab.root / "tokens").rename(lab.root / "away")


def return_store(lab):
    (lab.root / "away").rename(lab.root / "tokens")


def spoil_module(lab):
    (lab.root / "module.bad").write_bytes(b"\x7fELF" + os.urandom(4096))
    os.chmod(lab.root / "module.bad", 0o755)
    (lab.root / "module.bad").rename(lab.hsm.module)


CUSTODIAN = {verb: (lambda lab, v=verb: lab.kek(*v.split())) for verb in
             ("disable", "enable", "set-dates --end 20200101", "set-dates --start 20980101", "set-dates --start none --end none")}
UNDATED = CUSTODIAN["set-dates --start none --end none"]

# what: (take, give back), the causes that it may be told as, a word of the text that names it
ROWS = {
    "disabled": ((CUSTODIAN["disable"], CUSTODIAN["enable"]), {"disabled"}, "CKA_DECRYPT"),
    "deleted": ((delete, bring_back), {"deleted"}, "no such key"),
    "replaced": ((replace, bring_back), {"replaced"}, "another key"),
    "expired": ((CUSTODIAN["set-dates --end 20200101"], UNDATED), {"expired"}, "2020"),
    "not yet valid": ((CUSTODIAN["set-dates --start 20980101"], UNDATED), {"not-yet-valid"}, "2098"),
    "PIN changed": ((change_pin, write_new_pin), {"access-revoked"}, "PIN"),
    "PIN file gone": ((lambda lab: (lab.root / "pins/pin").rename(lab.root / "pins/away"),
                       lambda lab: (lab.root / "pins/away").rename(lab.root / "pins/pin")), {"access-revoked"}, "No such file"),
    "PIN file open to all": ((lambda lab: (lab.root / "pins/pin").chmod(0o644),
                              lambda lab: (lab.root / "pins/pin").chmod(0o600)), {"access-revoked"}, "others may read it"),
    "PIN locked": (order("token 0 0 flags 0x40000"), {"access-revoked"}, "locked"),
    "PIN at its last try": (order("token 0 0 flags 0x20000"), {"access-revoked"}, "one try left"),
    "PIN counter low": (order("token 0 0 flags 0x10000"), {"access-revoked"}, "wrongly before"),
    "token without a PIN": (order("C_Login 0 9999 rv 0x102"), {"access-revoked"}, "has no user PIN"),  # nothing was tried, nothing to renew
    "right: CKA_DECRYPT": (order("key 0 0 attribute 0x105=0"), {"disabled"}, "CKA_DECRYPT"),
    "right: CKA_SENSITIVE": (order("key 0 0 attribute 0x103=0"), {"access-revoked"}, "CKA_SENSITIVE"),
    "right: CKA_EXTRACTABLE": (order("key 0 0 attribute 0x162=1"), {"access-revoked"}, "CKA_EXTRACTABLE"),
    "right: PIN at every use": (order("key 0 0 attribute 0x202=1"), {"access-revoked"}, "CKA_ALWAYS_AUTHENTICATE"),
    "right: refused by the HSM": (order("C_DecryptInit 0 9999 rv 0x68"), {"disabled"}, "CKR_KEY_FUNCTION_NOT_PERMITTED"),
    "token initialised anew": ((initialise_anew, bring_back), {"replaced", "deleted"}, ""),
    "token store gone": ((take_store, return_store), {"unreachable"}, ""),
    "module missing": ((lambda lab: lab.hsm.module.unlink(), lambda lab: lab.hsm.install()), {"module-broken"}, "cannot be loaded"),
    "module broken": ((spoil_module, lambda lab: lab.hsm.install()), {"module-broken"}, "cannot be loaded"),
    "module without the mechanism": (order("C_DecryptInit 0 9999 rv 0x70"), {"module-broken"}, "CKR_MECHANISM_INVALID"),
    "unreachable": (order("* 0 9999 rv 0x30"), {"unreachable"}, ""),
    "no slots": (order("C_GetSlotList 0 9999 length 0", "C_DecryptInit 0 9999 rv 0xb3"), {"unreachable"}, ""),
    "hung": (order("* 0 9999 hang"), {"unreachable"}, ""),
    "slower than its deadline": (order("C_DecryptInit 0 9999 delay 1500"), {"unreachable"}, ""),
    "crashes": (order("C_Decrypt 0 9999 crash"), {"unreachable"}, ""),
    "dead until C_Finalize, for ever": (order("session 0 0 idle-dead 1", "C_OpenSession 0 9999 rv 0x30"), {"unreachable"}, ""),
    "another key under the name": (order("C_FindObjectsInit 0 9999 substitute other"), {"replaced"}, "another key"),
    "another key behind the handle": (order("C_DecryptInit 0 9999 use other"), {"replaced"}, ""),
    "an answer that is none": (order("C_Decrypt 0 9999 garbage"), {"replaced"}, "challenge"),
    "command": ((lambda lab: lab.cli("revoke", "demo"), lambda lab: lab.cli("restore", "demo")), {"commanded"}, ""),
    "supervisor hung": ((lambda lab: lab.agent.send_signal(signal.SIGSTOP), None), {"supervisor-lost"}, ""),
}


def told(lab, before, causes):
    """The ledger's lines of this lock: the cut that is recorded, and why."""
    return [e for e in lab.ledger()[before:] if e.get("volume") == "demo" and e.get("cause") in causes and e["to"] in ("LOCKING", "INACCESSIBLE")]


def hold_supervisor(lab):
    """Until its dataplane has shut itself; then let it find out."""
    planes = lab.dataplanes()
    end = time.monotonic() + 10
    while set(planes) & set(lab.dataplanes()) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.1)
    lab.agent.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("what", ROWS)
def test_each_cause_is_told_apart_and_lifted(world, what, capsys):
    (take, give), causes, word = ROWS[what]
    world.wait_state("AVAILABLE", timeout=20)
    assert same(world, world.data)
    lines, alerts = len(world.ledger_settled()), len(world.log())
    take(world)
    if give is None:
        hold_supervisor(world)
        lock = world.wait_for(lambda: told(world, lines, causes), 20, f"{what} in the ledger")[-1]
        world.wait_after(lock["gate_seq"], "AVAILABLE")
        began = time.monotonic()
    else:
        status = world.wait_state("INACCESSIBLE", timeout=20)
        world.wait_for(lambda: world.status()["cause"] in causes, 10, f"{what} told as one of {causes}", lambda: world.status()["cause"])
        status = world.status()
        assert word in status["text"], status["text"]
        assert len(status["remedy"]) > 10
        assert read_error(world), "a volume that is shut gave data"
        world.wait_for(lambda: told(world, lines, causes), 20, f"{what} in the ledger")
        time.sleep(2 * INTERVAL)
        assert world.state() == "INACCESSIBLE", "it opened though nothing was given back"
        give(world)
        began = time.monotonic()
    world.wait_state("AVAILABLE", timeout=2 * INTERVAL + DEADLINE + SLACK)
    took = time.monotonic() - began
    assert same(world, world.data)
    alert = [line for line in world.log()[alerts:].splitlines() if "volume demo:" in line and " -> " in line and any(c in line for c in causes)]
    assert alert and any("remedy: " in line for line in alert), "no alert"
    assert world.agent.poll() is None
    with capsys.disabled():
        print(f"\n{what}: back after {took:.2f} s", end="")
    if what == "PIN changed":
        assert world.hsm.calls("C_Login") - world.tries <= 12, "the changed PIN was tried again and again"
    if what.startswith("PIN at") or what in ("PIN locked", "PIN counter low"):
        assert "no login is tried" in status["text"]


# ---- what is no cause ----

@pytest.mark.parametrize("what, orders", [
    ("a slow HSM", ["C_Decrypt 0 9999 delay 300"]),
    ("slots change their numbers", ["slots 0 0 renumber 7000"]),
    ("slots change their places", ["slots 0 0 rotate"]),
    ("sessions die of rest", ["session 0 0 idle 100"]),
    ("sessions die of rest until C_Finalize", ["session 0 0 idle-dead 100"]),
    ("one lost session", ["C_Decrypt 0 1 rv 0xb3"]),
    ("one general error", ["C_Decrypt 0 1 rv 0x5"]),
    ("one stale handle", ["C_DecryptInit 0 1 rv 0x60"]),
    ("one lost answer", ["C_Decrypt 0 1 lost 0xb3"]),
])
def test_what_is_cured_by_a_step_of_the_ladder_is_no_cause(world, what, orders):
    world.wait_state("AVAILABLE", timeout=20)
    lines = len(world.ledger_settled())
    lock = world.status().get("lock")
    world.hsm.order(*orders)
    try:
        end = time.monotonic() + 6 * INTERVAL
        while time.monotonic() < end:
            assert world.state() == "AVAILABLE", what
            time.sleep(0.1)
        assert same(world, world.data)
        assert world.status().get("lock") == lock
        assert world.ledger()[lines:] == [], "there was nothing to tell"
    finally:
        world.hsm.order()


# ---- budgets ----

@pytest.mark.parametrize("budget, least, most", [("0s", 0, 0.4 + 2), ("2s", 1, 2 + 7)])
def test_only_what_is_unreachable_spends_the_budget(budget, least, most):
    """Budget 0: the first doubt locks. Else the lease counts from the last good proof, and I/O does not extend it."""
    lab = running_lab(volumes=(("demo", "16M"),), kek=QUICK.replace("outage_budget = 1000ms", f"outage_budget = {budget}"), hsm="faulty")
    try:
        handle = connect(lab)
        lab.hsm.order("C_Decrypt 0 9999 rv 0x30")
        began = time.monotonic()
        served = began
        while time.monotonic() - began < most + SLACK:
            try:
                handle.pwrite(os.urandom(4096), 0)
                handle.pread(4096, 0)
                served = time.monotonic()
            except Exception:
                break
        assert least <= served - began <= most, served - began
        assert lab.wait_state("INACCESSIBLE", timeout=5)["cause"] == "unreachable"
        before, began = lab.hsm.calls("C_Initialize"), time.monotonic()
        time.sleep(10 * INTERVAL)
        asked, intervals = lab.hsm.calls("C_Initialize") - before, (time.monotonic() - began) / INTERVAL
        assert 2 <= asked <= intervals / 1.25 + 2, f"asked {asked} times in {intervals:.1f} intervals"
        lab.hsm.order()
        lab.wait_state("AVAILABLE", timeout=2 * INTERVAL + SLACK)
    finally:
        lab.close()


# ---- the PIN ----

def wrong_pin_lab():
    """A volume that was good, an agent that was stopped, and a wrong PIN in its file since."""
    lab = running_lab(volumes=(("demo", "16M"), ("two", "16M"), ("three", "16M")), kek=QUICK, hsm="faulty")
    lab.stop()
    lab.right_pin = (lab.root / "pins/pin").read_text().strip()
    lab._secret("pins/wrong", "wrong-" + os.urandom(4).hex())
    (lab.root / "pins/wrong").rename(lab.root / "pins/pin")
    return lab


def test_a_wrong_pin_costs_one_try_ever():
    """Over starts, kills and three volumes that all would like to open."""
    lab = wrong_pin_lab()
    try:
        before = lab.hsm.calls("C_Login")
        for end in ("stop", "kill", "stop", "kill"):
            lab.start()
            for name in ("demo", "two", "three"):
                assert lab.wait_state("INACCESSIBLE", name)["cause"] == "access-revoked"
            time.sleep(4 * INTERVAL)
            assert lab.hsm.calls("C_Login") == before + 1
            if end == "stop":
                lab.stop()
            else:
                lab.kill()
                lab.wait_for(lambda: not lab.processes(), 15, "the end of every child")
    finally:
        lab.close()


def test_checks_of_a_wrong_pin_cost_one_try_in_all():
    lab = wrong_pin_lab()
    try:
        before = lab.hsm.calls("C_Login")
        for _ in range(3):
            checked = lab.cli("config", "check", "--config", lab.root / "fallgate.conf", check=False)
            assert checked.code != 0 and "access-revoked" in checked.out, checked
        lab.start()
        assert lab.wait_state("INACCESSIBLE")["cause"] == "access-revoked"
        assert lab.hsm.calls("C_Login") == before + 1
        lab._secret("pins/worse", "worse-" + os.urandom(4).hex())  # renewed while the agent runs, and wrong again
        (lab.root / "pins/worse").rename(lab.root / "pins/pin")
        lab.cli("config", "check", "--config", lab.root / "fallgate.conf", check=False)
        time.sleep(4 * INTERVAL)
        assert lab.hsm.calls("C_Login") <= before + 2
        lab._secret("pins/right", lab.right_pin)
        (lab.root / "pins/right").rename(lab.root / "pins/pin")
        lab.wait_state("AVAILABLE", timeout=2 * INTERVAL + DEADLINE + SLACK)
    finally:
        lab.close()


def test_a_pin_whose_login_was_killed_is_not_tried_again():
    """The agent and all its children die in the middle of C_Login, as in a power cut: nobody saw what came of it."""
    lab = wrong_pin_lab()
    try:
        before = lab.hsm.calls("C_Login")
        lab.hsm.order("C_Login 0 9999 hang")
        lab.start()
        lab.wait_for(lambda: lab.hsm.calls("C_Login") == before + 1, 10, "a login")
        for pid in [lab.agent.pid, *lab.processes()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        lab.agent.wait()
        lab.hsm.order()
        for _ in range(2):
            lab.start()
            assert lab.wait_state("INACCESSIBLE")["cause"] == "access-revoked"
            time.sleep(4 * INTERVAL)
            assert lab.hsm.calls("C_Login") == before + 1
            lab.stop()
    finally:
        lab.close()


def test_a_revoke_in_the_middle_of_a_login_does_not_cost_the_token():
    """SoftHSM2 rewrites the token's file at every login. The process is let finish, and the lock does not wait for it."""
    lab = running_lab(volumes=(("demo", "16M"),), kek=QUICK, hsm="faulty")
    try:
        for _ in range(3):
            lab.cli("detach", "demo", role="operator")
            lab.wait_state("LOCKED")
            before = lab.hsm.calls("C_Login")
            lab.hsm.order("C_Login 0 9999 delay 200")
            lab.cli("attach", "demo", role="operator")
            lab.wait_for(lambda: lab.hsm.calls("C_Login") > before, 15, "a login")
            began = time.monotonic()
            lab.cli("revoke", "demo")
            lab.wait_state("INACCESSIBLE", timeout=5)
            assert time.monotonic() - began < 3
            lab.hsm.order()
            lab.cli("restore", "demo")
            lab.wait_state("AVAILABLE")
    finally:
        lab.close()
