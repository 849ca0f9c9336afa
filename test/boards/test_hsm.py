"""A release image, in which nobody logs in, with the customer's HSM outside the board: reached over a wire that is cut, goes silent and
comes back; a key that its owner disables there. After each lock the whole of the guest's RAM is searched."""

import signal
import time

from hsm import BUDGET, DEADLINE, INTERVAL

SLACK = 40  # an emulated machine beside others, and its network that finds itself again: bounds are tested where the clock is real


def back(served):
    """Without a restart: two intervals, and the probe that was under way when the HSM came back may have to run into its deadline."""
    began = time.monotonic()
    served.guest.wait_state("AVAILABLE", timeout=2 * INTERVAL + DEADLINE + SLACK)
    assert served.serves()
    return time.monotonic() - began


def falls(served, take, cause):
    """(the console's lines about it, seconds) of an event that shuts the gate. The keys are found before it and not after."""
    found, _ = served.keys()
    assert found, "the search is blind: it must find the keys while the volume serves"
    mark, began = len(served.guest.text), time.monotonic()
    take()
    status = served.guest.wait_state("INACCESSIBLE", timeout=BUDGET + 7 + SLACK)
    took = time.monotonic() - began
    assert status["cause"] == cause
    assert served.refuses()
    found, what = served.keys()
    assert not found, f"{cause}: in the whole RAM of the guest:\n{what[:2000]}"
    return served.guest.text[mark:], took


def test_it_serves(served):
    assert served.status["memory"] == "memfd_secret"
    assert served.serves()


def test_the_hsm_is_gone(served):
    text, took = falls(served, served.hsm.cut, "unreachable")
    assert "-> OUTAGE" in text, "a cut is an outage before it is a lock"
    served.hsm.give()
    print(f"\nHSM gone: locked after {took:.1f} s; back: serves after {back(served):.1f} s")


def test_the_hsm_is_silent(served):
    text, took = falls(served, lambda: served.hsm.signal(signal.SIGSTOP), "unreachable")
    assert "did not answer within" in text
    served.hsm.signal(signal.SIGCONT)
    print(f"\nHSM silent: locked after {took:.1f} s; back: serves after {back(served):.1f} s")


def test_a_short_outage_locks_nothing(served):
    mark = len(served.guest.text)
    served.hsm.cut()
    served.guest.wait_for("-> (SUSPECT|OUTAGE)", 20, mark)
    served.hsm.give()
    back(served)
    assert "LOCKING" not in served.guest.text[mark:]


def test_the_cable_is_pulled(served):
    """The whole network, the operators' way to the board included: it forgets by itself."""
    guest, mark = served.guest, len(served.guest.text)
    guest.qmp("set_link", name="n0", up=False)
    guest.wait_for("LOCKING -> INACCESSIBLE, unreachable", BUDGET + 7 + SLACK, mark)
    found, what = served.keys()
    assert not found, f"with the cable out, in the whole RAM of the guest:\n{what[:2000]}"
    guest.qmp("set_link", name="n0", up=True)
    back(served)


def test_the_key_is_disabled_at_the_hsm(served):
    text, took = falls(served, lambda: served.hsm.key("disable"), "disabled")
    assert "OUTAGE" not in text and "SUSPECT" not in text, "a definite refusal locks at once"
    served.hsm.key("enable")
    print(f"\nkey disabled: locked after {took:.1f} s; enabled: serves after {back(served):.1f} s")


def test_revoked_again_and_again(served, dumps):
    for _ in range(dumps):
        falls(served, lambda: served.guest.cli("revoke", "data", role="officer"), "commanded")
        served.guest.cli("restore", "data", role="officer")
        back(served)


def test_cut_off_again_and_again(served, dumps):
    for _ in range(dumps):
        falls(served, served.hsm.cut, "unreachable")
        served.hsm.give()
        back(served)
