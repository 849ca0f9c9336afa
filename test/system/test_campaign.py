"""The campaign of faults against the whole agent, with a volume that is written to: every function of the token fails in every way. What
is held against each: the supervisor lives, the data plane never crashes, nothing hangs beyond its bound; the gate ends in the state that
the fault calls for; a gate that has fallen has no key in any process; and when the fault is over the volume serves what was acknowledged.
By itself a sample; FALLGATE_CAMPAIGN=1: everything. (Every code at every call, against fallgate-hsm alone: test/hsm/test_campaign.c.)"""

import os
import re
import time

import pytest

from conftest import running_lab
from test_causes import INTERVAL, SLACK
from test_forensics import patterns, search
from test_gate import connect, read_error
from test_modules import Writer

BUDGET, DEADLINE = 1.0, 0.5
KEK = f"probe_interval = {int(INTERVAL * 1000)}ms\nfresh_every = 2\nhsm_deadline = {int(DEADLINE * 1000)}ms\noutage_budget = {int(BUDGET * 1000)}ms\n"
BOUND = INTERVAL + BUDGET + 3 * DEADLINE + SLACK
EVERYTHING = "FALLGATE_CAMPAIGN" in os.environ

ALWAYS = ["C_Initialize", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_Login", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal",
          "C_GetAttributeValue"]
BY_TYPE = {"rsa2048": ["C_DecryptInit", "C_Decrypt"], "aes256": ["C_UnwrapKey", "C_WrapKey", "C_CreateObject", "C_GenerateRandom"]}
HARMLESS = {"C_Finalize": ["hang", "crash"], "C_CloseSession": ["hang", "rv 0x30"], "C_DestroyObject": ["rv 0x30", "rv 0x82"]}

# effect: the causes that the gate may fall for. Weather once takes nothing down; for ever it spends the budget.
WEATHER = {"unreachable"}
ANY = {"unreachable", "module-broken", "replaced", "deleted", "disabled", "access-revoked", "dek-refused", "token-gone"}
EFFECTS = {
    "hang": WEATHER, "crash": WEATHER, "abort": WEATHER, "exit 0": WEATHER, "delay 900": WEATHER,
    "rv 0x30": WEATHER, "rv 0xb3": WEATHER, "rv 0x80000001": WEATHER,
    "rv 0x54": {"module-broken", "unreachable"}, "rv 0x68": {"disabled", "unreachable"}, "rv 0x5": {"unreachable", "replaced"},
    "rv 0x82": {"unreachable", "deleted"}, "rv 0xe0": {"unreachable"}, "lost 0x30": WEATHER,
    "length huge": ANY, "length zero": ANY, "garbage": ANY, "handle 0x7777": ANY,
}


def cases(kek_type):
    functions = ALWAYS + BY_TYPE[kek_type]
    if EVERYTHING:
        found = [(f, e) for f in functions for e in EFFECTS if not (f == "C_Login" and e.startswith("lost"))]
    else:  # each function once, each effect at least once in the two types together
        effects = list(EFFECTS)
        start = 0 if kek_type == "rsa2048" else len(functions) // 2
        found = [(f, effects[(start + 3 * i) % len(effects)]) for i, f in enumerate(functions)][kek_type == "aes256"::2]
    return found + [(f, e) for f, effects in HARMLESS.items() for e in effects[:2 if EVERYTHING else 1]]


@pytest.fixture(scope="module", params=["rsa2048", "aes256"])
def world(request):
    lab = running_lab(volumes=(("demo", "16M"),), kek=KEK, hsm="faulty", kek_type=request.param)
    try:
        yield lab
    finally:
        lab.close()


def settle(lab, cause_free, causes):
    """Until the gate has fallen for one of the causes, or has not for long enough; its last state."""
    end = time.monotonic() + BOUND
    quiet = time.monotonic() + (3 * INTERVAL + 2 * DEADLINE if cause_free else BOUND)
    while time.monotonic() < end:
        status = lab.status()
        if status["state"] == "INACCESSIBLE" and status["cause"] in causes:
            return status
        if status["state"] == "AVAILABLE" and time.monotonic() > quiet:
            return status
        time.sleep(0.1)
    return lab.status()


def judge(lab, what, status, causes, harmless, text):
    crashed = re.findall(r"dataplane of demo ended \(signal.*", text) + re.findall(r".*DEFECT.*|.*ALARM.*", text)
    if lab.agent.poll() is not None:
        return f"{what}: the supervisor ended with {lab.agent.returncode}"
    if crashed:
        return f"{what}: {crashed[0]}"
    if harmless and status["state"] != "AVAILABLE":
        return f"{what}: fell for {status['cause']}: {status['text']}"
    if status["state"] == "AVAILABLE":
        return None
    if status["state"] != "INACCESSIBLE" or status["cause"] not in causes:
        return f"{what}: {status['state']}, {status['cause']}: {status['text']}"
    if not read_error(lab):
        return f"{what}: a volume that is shut gave data"
    return key_left(lab, what) if os.geteuid() == 0 else None


def key_left(lab, what):
    for _ in range(10):  # hsm processes come and go: one that went while it was looked for is looked for again
        keys = search(lab, lab.patterns, "--inject")
        if keys.code == 0:
            return None
        if keys.code == 1 or "No such" not in keys.out + keys.err:
            break
    return f"{what}: a key is left, or a process could not be read\n{keys.out[:2000]}{keys.err[:500]}"


def test_every_fault_ends_in_a_right_state(world, capsys):
    image = world.root / "volumes/demo.img"
    world.patterns = patterns(world, image) if os.geteuid() == 0 else ""
    if os.geteuid() == 0:
        assert search(world, world.patterns, "--inject").code == 1, "the search is blind"
    wrong, fallen = [], 0
    for function, effect in cases(world.kek_type):
        harmless = function in HARMLESS
        what = f"{function} {effect}"
        alerts = len(world.log())
        writer = Writer(world)
        writer.start()
        world.hsm.order(f"{function} 0 9999 {effect}")
        status = settle(world, harmless or EFFECTS.get(effect) is ANY, EFFECTS[effect])
        wrong.append(judge(world, what, status, EFFECTS[effect], harmless, world.log()[alerts:]))
        fallen += status["state"] == "INACCESSIBLE"
        world.hsm.order()
        world.wait_state("AVAILABLE", timeout=2 * INTERVAL + DEADLINE + 2 * SLACK)
        writer.stop()
        handle = connect(world)
        lost = [at for at, data in writer.acknowledged.items() if bytes(handle.pread(4096, at)) != data]
        if lost:
            wrong.append(f"{what}: acknowledged writes at {lost} are lost")
        handle.shutdown()
    with capsys.disabled():
        print(f"\n{world.kek_type}: {len(cases(world.kek_type))} faults, {fallen} fell", end="")
    assert fallen > 3, "no fault did anything"
    assert not [w for w in wrong if w], "\n".join(w for w in wrong if w)
