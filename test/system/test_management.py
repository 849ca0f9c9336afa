"""Management as its three roles see it: who may do what, what the answers say, what --json and the exit codes promise."""

import json
import shutil
import subprocess
import time

import pytest

VERBS = {
    # verb: roles that may
    ("attach", "demo"): {"operator"},
    ("detach", "demo"): {"operator"},
    ("revoke", "demo"): {"officer"},
    ("restore", "demo"): {"officer"},
    ("status", "demo"): {"officer", "operator", "auditor"},
    ("volumes",): {"officer", "operator", "auditor"},
    ("posture",): {"officer", "operator", "auditor"},
}


@pytest.mark.parametrize("role", ["officer", "operator", "auditor"])
def test_roles(shared, role):
    for verb, allowed in VERBS.items():
        if role in allowed:
            continue
        result = shared.cli(*verb, role=role, check=False)
        assert result.code == 17, (verb, result)
        assert role in result.err or "right" in result.err, result
    assert shared.state() == "AVAILABLE"


def test_status_is_json_for_scripts_and_text_for_people(shared):
    status = shared.cli("status", "demo", role="auditor", js=True).json()
    for key in ("name", "state", "cause", "latched", "gate_seq", "size", "export", "kernel", "memory"):
        assert key in status, key
    assert status["size"] == 64 << 20
    text = shared.cli("status", role="auditor").out
    assert "demo" in text and "AVAILABLE" in text


def test_an_unknown_volume(shared):
    result = shared.cli("status", "nosuch", role="auditor", check=False)
    assert result.code == 9 and "nosuch" in result.err


def test_watch_sees_a_revoke_at_once(agent):
    watch = subprocess.Popen([str(agent.bin / "fallgate"), "--credentials", str(agent.credentials["auditor"]), "--json", "status", "demo", "--watch"],
                             stdout=subprocess.PIPE, text=True, env=agent.env())
    try:
        first = json.loads(watch.stdout.readline())
        assert first["state"] == "AVAILABLE"
        agent.cli("revoke", "demo")
        seen = []
        end = time.monotonic() + 5
        while time.monotonic() < end:
            seen.append(json.loads(watch.stdout.readline()))
            if seen[-1]["state"] == "INACCESSIBLE":
                break
        assert seen[-1]["state"] == "INACCESSIBLE" and seen[-1]["cause"] == "commanded"
    finally:
        watch.kill()
        watch.wait()


@pytest.mark.parametrize("client", ["coap-client-openssl", "coap-client-gnutls"])
def test_third_party_client_reads_the_status(shared, client):
    if not shutil.which(client):
        pytest.skip(f"{client} is not installed")
    # These clients take the key as an argument, byte for byte: one with a NUL in it cannot be given.
    for attempt in range(20):
        path = shared.enroll("auditor", f"{client}-{attempt}")
        values = dict(line.split("=", 1) for line in path.read_text().replace(" ", "").splitlines() if "=" in line)
        key = bytes.fromhex(values["key"])
        if 0 not in key:
            break
    for path, word in ((".well-known/core", b"/status"), ("volumes", b"demo")):
        out = subprocess.run([client.encode(), b"-B", b"5", b"-u", values["identity"].encode(), b"-k", key,
                              f"coaps://{values['address']}/{path}".encode()], capture_output=True, env=shared.env(), timeout=30)
        assert word in out.stdout, out


def test_a_stranger_learns_nothing(shared):
    forged = shared.root / "forged.credentials"
    text = shared.credentials["officer"].read_text()
    lines = [("key = " + "ab" * 32) if line.strip().startswith("key") else line for line in text.splitlines()]
    forged.write_text("\n".join(lines) + "\n")
    forged.chmod(0o600)
    shared.credentials["forged"] = forged
    result = shared.cli("status", role="forged", check=False)
    assert result.code != 0 and "AVAILABLE" not in result.out


def test_credentials_open_to_others_are_refused(shared):
    loose = shared.root / "loose.credentials"
    loose.write_text(shared.credentials["officer"].read_text())
    loose.chmod(0o644)
    shared.credentials["loose"] = loose
    result = shared.cli("status", role="loose", check=False)
    assert result.code != 0 and "600" in result.err


def test_nobody_home(lab):
    (lab.root / "c").write_text(f"[agent]\naddress = 127.0.0.1:{lab.port}\nidentity = officer\nkey = {'11' * 32}\n")
    (lab.root / "c").chmod(0o600)
    lab.credentials["officer"] = lab.root / "c"
    result = lab.cli("status", check=False)
    assert result.code == 16 and "is the agent running" in result.err


def test_who_may_do_what_is_in_the_ledger(shared):
    shared.enroll("operator", "olga")
    shared.run(shared.bin / "fallgate", "--run-dir", shared.root / "run", "remove", "olga")

    def both():
        lines = [json.loads(line) for line in (shared.root / "state/ledger").read_text().splitlines()]
        seen = {line["event"]: line.get("text", "") for line in lines if line.get("identity") == "olga"}
        return seen if len(seen) == 2 else None

    seen = shared.wait_for(both, 15, "two lines about olga in the ledger")
    assert "operator" in seen["enrolled"] and "removed" in seen


def test_who_is_enrolled_anew_is_told_so(lab):
    def enroll(role, to):
        return lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "enroll", "--role", role, "otto", "--out", lab.root / to).out

    lab.start()
    assert "in the place" not in enroll("officer", "first")
    lab.credentials["officer"] = lab.root / "first"
    assert "in the place of the officer of that name" in enroll("auditor", "second")
    assert lab.cli("status", check=False).code == 17
    lab.wait_for(lambda: "auditor in the place of the officer" in (lab.root / "state/ledger").read_text(), 15, "its line in the ledger")


def test_every_program_has_a_version_and_takes_no_argument_that_it_does_not_know(shared):
    programs = ["fallgate", "fallgated", "fallgate-hsm", "fallgate-mgmt", "fallgate-dataplane", "fallgate-hooks", "fallgate-ublk",
                "fallgate-custodian"]
    for program in programs + ["fallgate-tpm"] * (shared.bin / "fallgate-tpm").exists():
        out = shared.run(shared.bin / program, "--version").out
        assert out.split()[0] == program and out.split()[1][0].isdigit()
        result = shared.run(shared.bin / program, "--no-such-thing", check=False)
        assert result.code == 2 and result.err, (program, result)


def test_as_many_volumes_as_there_may_be(lab):
    """Each of them is told of, at the console and over the network; one more is refused before anything is made for it."""
    names = [f"v{i:03}-as-long-as-a-name-may-get-" for i in range(128)]
    for name in names:
        lab.write_volume(name, "4096", attach="manual")
    lab.start()
    lab.enroll_all()
    local = lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "status", "--local")
    assert local.out.strip().split("; ") == [f"{name} LOCKED" for name in names] and local.out.count("\n") == 1, local
    told = lab.wait_for(lambda: len(lab.cli("volumes", role="auditor").out.splitlines()) == 129, 10, "all volumes at the manager")
    assert told
    lab.write_volume("extra", "4096")
    refused = lab.cli("create", "extra", role="operator", check=False)
    assert refused.code == 18 and "128 volumes" in refused.err, refused
    assert not (lab.root / "volumes/extra.img").exists()
