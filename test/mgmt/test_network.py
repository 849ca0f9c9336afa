"""fallgate-mgmt over real DTLS: who may do what, what cannot be done late or twice, what strangers get, and that it ends when it must."""

import os
import pathlib
import random
import shutil
import socket
import subprocess
import time

import cbor2
import pytest

from bench import BUILD, COMMANDED, ROLES, Agent, Relay, free_port

READABLE = {"status", "volumes", "volumes/demo", "volumes/demo/state", "posture"}
POSTERS = {  # resource: the role, and what a bare POST by it gets
    "volumes": ("operator", "4.00"),
    "volumes/demo/attach": ("operator", "4.12"),
    "volumes/demo/detach": ("operator", "2.04"),
    "volumes/demo/revoke": ("officer", "2.04"),
    "volumes/demo/restore": ("officer", "4.12"),
    "revoke": ("officer", "2.04"),
}
RESOURCES = READABLE | set(POSTERS)
METHODS = ("GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "IPATCH")


@pytest.fixture
def agent():
    a = Agent()
    for role in ROLES:
        a.enroll(role, role)
    a.volume("demo", seq=300, text="all is well")
    yield a
    a.close()


def expected_code(role, resource, method):
    if method == "GET":
        return "2.05" if resource in READABLE else "4.05"
    if method == "POST" and resource in POSTERS:
        may, code = POSTERS[resource]
        return code if may == role else "4.03"
    return "4.05"


@pytest.mark.parametrize("role", ROLES)
def test_every_role_on_every_resource_with_every_method(agent, role):
    probe = agent.probe(role)
    for resource in sorted(RESOURCES):
        for method in METHODS:
            answer = probe.ask(f"{method} {resource} ct=60")
            assert answer.code == expected_code(role, resource, method), (role, method, resource, answer)
            if answer.code[0] == "4":
                assert set(answer.body) == {"error", "text", "remedy", "exit"}, answer
    probe.close()


def test_what_is_there_is_listed(agent):
    probe = agent.probe("auditor")
    answer = probe.ask("GET .well-known/core")
    listing = answer.raw.decode()
    for resource in RESOURCES:
        assert f"</{resource}>" in listing, (resource, listing)
    assert 'ct=60' in listing and "obs" in listing
    probe.close()


def test_unknown_things_are_told_apart(agent):
    probe = agent.probe("auditor")
    assert probe.ask("GET nothing").code == "4.04"
    assert probe.ask("GET volumes/nosuch").code == "4.04"
    assert "nosuch" in probe.ask("GET volumes/nosuch/state").body["text"]
    assert probe.ask("GET volumes/NOSUCH").code == "4.00"
    assert probe.ask("GET volumes/" + "a" * 32).code == "4.00"
    assert probe.ask("DELETE nothing").code == "4.04"
    assert probe.ask("GET status query=a=b").code == "4.00"
    assert probe.ask("GET status accept=50").code == "4.06"
    assert probe.ask("GET status accept=60").code == "2.05"
    assert probe.ask("DELETE volumes/demo").code == "4.05"
    probe.close()


def test_bodies_say_what_the_supervisor_said(agent):
    probe = agent.probe("auditor")
    gate = probe.ask("GET volumes/demo/state")
    assert gate.fields["etag"] == "012c"
    assert gate.body["gate_seq"] == 300 and gate.body["state"] == "AVAILABLE" and gate.body["text"] == "all is well"
    whole = probe.ask("GET volumes/demo").body
    assert whole["size"] == 1 << 30 and whole["export"].endswith("/demo.sock") and whole["stats"]["bad_tags"] == 0
    assert len(whole["uuid"]) == 16
    assert probe.ask("GET posture").body["findings"] == [{"good": True, "what": "keys in memfd_secret"}, {"good": False, "what": "a software token"}]
    status = probe.ask("GET status").body
    assert [v["name"] for v in status["volumes"]] == ["demo"] and status["audit_good"] is True
    agent.volume("demo", seq=0)
    assert probe.ask("GET volumes/demo/state").fields["etag"] == "00"
    probe.close()


# ---- strangers ----


def test_an_unknown_identity_and_a_wrong_key_fail_alike(agent):
    def shape(identity):
        relay = Relay(agent.port)
        probe = agent.probe(identity, key="ab" * 32, address=relay.address)
        probe.tell("GET status")
        probe.expect("^closed|^nack")
        time.sleep(0.1)
        probe.close()
        relay.close()
        return relay.answers()

    for _ in range(4):  # on a machine that stands still for a second a datagram is sent twice, to either
        shapes = [shape("auditor"), shape("stranger")]  # the second is not enrolled; both with a key that is nobody's
        if shapes[0] == shapes[1]:
            break
    assert shapes[0] == shapes[1] and len(shapes[0]) > 2, shapes


def test_no_weaker_suite_is_spoken(agent):
    """A client that offers everything but our two suites is refused."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl program")
    for suite in ("PSK-AES128-CCM8", "PSK-AES256-GCM-SHA384", "ECDHE-PSK-AES128-CBC-SHA256"):
        done = subprocess.run(["openssl", "s_client", "-dtls1_2", "-connect", agent.address, "-psk_identity", "auditor", "-psk", agent.keys["auditor"],
                               "-cipher", suite + ":@SECLEVEL=0"], input=b"", capture_output=True, timeout=20)
        assert b"Cipher is " + suite.encode() not in done.stdout, suite
    done = subprocess.run(["openssl", "s_client", "-dtls1_2", "-connect", agent.address, "-psk_identity", "auditor", "-psk", agent.keys["auditor"],
                           "-cipher", "ECDHE-PSK-CHACHA20-POLY1305"], input=b"", capture_output=True, timeout=20)
    assert b"ECDHE-PSK-CHACHA20-POLY1305" in done.stdout, done.stdout[-500:]


@pytest.mark.parametrize("tool", ["coap-client-gnutls", "coap-client-openssl"])
def test_a_client_nobody_here_wrote(agent, tool):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed (libcoap3-bin)")
    key = "0123456789abcdef0123456789abcdef"  # these tools take a key as text
    agent.enroll("guest", "auditor", key=key.encode().hex())

    def get(path, *more):
        return subprocess.run([tool, "-B", "5", "-u", "guest", "-k", key, *more, f"coaps://{agent.address}/{path}"], capture_output=True, timeout=20)

    listing = get(".well-known/core")
    assert b"</volumes/demo/state>" in listing.stdout, listing
    status = get("status")
    assert cbor2.loads(status.stdout.rstrip(b"\n"))["volumes"][0]["name"] == "demo", status
    refused = get("revoke", "-m", "post")
    assert b"4.03" in refused.stderr + refused.stdout, refused
    stranger = subprocess.run([tool, "-B", "5", "-u", "guest", "-k", key[::-1], f"coaps://{agent.address}/status"], capture_output=True, timeout=20)
    assert b"demo" not in stranger.stdout


def test_junk_disturbs_nobody(agent):
    relay = Relay(agent.port)
    probe = agent.probe("auditor", address=relay.address)
    assert probe.ask("GET status").code == "2.05"
    hello = next(data for way, data in relay.passed if way == ">")
    sealed = [data for way, data in relay.passed if way == ">"][-1]
    r = random.Random(3)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.connect(("127.0.0.1", agent.port))
    for i in range(1500):
        junk = r.randbytes(r.randrange(1, 1400))
        broken = bytearray(r.choice([hello, sealed]))
        broken[r.randrange(len(broken))] ^= 1 << r.randrange(8)
        for data in (junk, bytes(broken[: r.randrange(1, len(broken) + 1)])):
            try:
                (relay.forge if i % 2 else stranger.send)(data)
            except ConnectionRefusedError:
                pytest.fail("the agent is gone")
    relay.forge(sealed)  # a replay
    relay.forge(b"\x15\xfe\xfd\0\0\0\0\0\0\0\0\0\x02\x02\x28")  # a forged alert
    assert probe.ask("GET status").code == "2.05"
    fresh = agent.probe("officer")
    assert fresh.ask("POST volumes/demo/revoke").code == "2.04"
    for p in (probe, fresh):
        p.close()
    relay.close()
    stranger.close()


def test_a_flood_of_first_hellos_shuts_nobody_out(agent):
    relay = Relay(agent.port)
    probe = agent.probe("auditor", address=relay.address)
    assert probe.ask("GET status").code == "2.05"
    hello = next(data for way, data in relay.passed if way == ">")
    sockets = []
    for _ in range(300):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.connect(("127.0.0.1", agent.port))
        s.send(hello)
        sockets.append(s)
    fresh = agent.probe("officer")
    assert fresh.ask("POST volumes/demo/revoke").code == "2.04"
    assert probe.ask("GET status").code == "2.05"
    for thing in [probe, fresh, relay, *sockets]:
        thing.close()


def test_nobody_takes_the_port_away(agent):
    """Whoever bound it once more, with SO_REUSEADDR as libcoap has it, would get every datagram."""
    for option in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        for address in ("127.0.0.1", "0.0.0.0"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
                if option:
                    thief.setsockopt(socket.SOL_SOCKET, option, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind((address, agent.port))
    probe = agent.probe("auditor")
    assert probe.ask("GET status").code == "2.05"
    probe.close()


# ---- guarded requests ----


def test_a_guarded_request_needs_the_present_seq_and_a_fresh_echo(agent):
    probe = agent.probe("officer")
    path = "POST volumes/demo/restore"
    assert probe.ask(path).code == "4.12"
    stale = probe.ask(path + " if-match=012b")
    assert stale.code == "4.12" and "300" in stale.body["text"]
    for bad in ("", "00012c", "0000"):
        assert probe.ask(f"{path} if-match={bad}").code == "4.00", bad
    probe.tell(f"{path} if-match=" + "01" * 9)
    probe.expect("^nack 2")  # no such option: libcoap resets the message
    assert probe.ask(path + " if-match=012c if-match=012c").code == "4.00"
    demand = probe.ask(path + " if-match=012c")
    assert demand.code == "4.01" and len(demand.fields["echo"]) == 16
    other = agent.probe("officer")
    assert other.ask(f"{path} if-match=012c echo={demand.fields['echo']}").code == "4.01", "an Echo value of another session"
    assert probe.ask(path + " if-match=012c echo=" + "00" * 8).code == "4.01"
    assert probe.ask(f"{path} if-match=012c echo={demand.fields['echo'][:14]}").code == "4.01"
    assert not [line for line in list(agent.said.queue) if line.startswith("request")], "the supervisor was asked too early"
    done = probe.ask(f"{path} if-match=012c echo={demand.fields['echo']}")
    assert done.code == "2.04" and done.fields["etag"] == "012d" and done.body["gate_seq"] == 301
    assert "verb=5 role=3 identity=officer volume=demo if_match=300" in agent.expect("^request")
    # what was good once is not good again: the gate moved on
    assert probe.ask(f"{path} if-match=012c echo={demand.fields['echo']}").code == "4.12"
    probe.close()
    other.close()


def test_the_supervisor_has_the_last_word_on_the_seq(agent):
    """It may know of a transition that this process was not yet told of."""
    probe = agent.probe("operator")
    agent.tell("answers -17 the gate moved on")
    demand = probe.ask("POST volumes/demo/attach if-match=012c")
    refused = probe.ask(f"POST volumes/demo/attach if-match=012c echo={demand.fields['echo']}")
    assert refused.code == "4.09" and refused.body == {"error": "state", "text": "the gate moved on", "remedy": refused.body["remedy"], "exit": 18}
    probe.close()


def test_a_delayed_request_does_not_undo_a_later_revoke(agent):
    officer = agent.probe("officer")
    demand = officer.ask("POST volumes/demo/restore if-match=012c")
    assert officer.ask("POST volumes/demo/revoke").code == "2.04"
    late = officer.ask(f"POST volumes/demo/restore if-match=012c echo={demand.fields['echo']}")
    assert late.code == "4.12"
    officer.close()


def test_an_echo_value_lives_ten_seconds_and_the_process_longer_than_libcoaps_caches(agent):
    probe = agent.probe("officer")
    demand = probe.ask("POST volumes/demo/restore if-match=012c")
    time.sleep(10.2)
    late = probe.ask(f"POST volumes/demo/restore if-match=012c echo={demand.fields['echo']}")
    assert late.code == "4.01" and late.fields["echo"] != demand.fields["echo"]
    time.sleep(21)  # after 30 s libcoap asks for the network interfaces anew, which the filter refuses
    assert probe.ask("GET status").code == "2.05"
    fresh = agent.probe("auditor")
    assert fresh.ask("GET status").code == "2.05"
    probe.close()
    fresh.close()


def test_revoking_needs_nothing(agent):
    probe = agent.probe("officer")
    answer = probe.ask("POST revoke")
    assert answer.code == "2.04" and answer.body == {"durable": True}
    assert "verb=4 role=3 identity=officer volume= if_match=-0" in agent.expect("^request")
    probe.close()


# ---- bodies from outside ----


def create_body(**values):
    return cbor2.dumps(values).hex()


@pytest.mark.parametrize("body", [
    "", "a0", "80", "f6", "00", "6464656d6f", "ff", "a1", "a1646e616d65", "a1646e616d6564", "bf646e616d656464656d6fff", "a1646e616d65780464656d6f",
    "a2646e616d656464656d6f646e616d656464656d6f", "a1646e616d656464656d6f00", "a1446e616d656464656d6f", "c1a1646e616d656464656d6f",
    create_body(name=1), create_body(name="DEMO"), create_body(name=""), create_body(name="a" * 32), create_body(name="../x"), create_body(name="demo\0"),
    create_body(name="demo", force=1), create_body(name="demo", force=None), create_body(name="demo", other=True), create_body(force=True),
    "a1646e616d6564ff646d6f", "bbffffffffffffffff", "9bffffffffffffffff" + "00" * 16,
])
def test_a_malformed_create_gets_4_00(agent, body):
    probe = agent.probe("operator")
    answer = probe.ask(f"POST volumes ct=60 body={body}" if body else "POST volumes ct=60")
    assert answer.code == "4.00" and answer.body["error"] == "usage" and answer.body["exit"] == 2, answer
    assert agent.said.empty()
    probe.close()


def test_bodies_of_the_wrong_kind_or_size(agent):
    probe = agent.probe("operator")
    good = create_body(name="demo")
    assert probe.ask(f"POST volumes ct=50 body={good}").code == "4.15"
    assert probe.ask(f"POST volumes ct=60 body={'00' * 257}").code == "4.13"
    assert probe.ask(f"POST volumes ct=60 block1=8 body={'00' * 16}").code == "4.13"
    assert probe.ask("POST volumes/demo/detach body=a10000").code == "4.00"
    assert probe.ask("POST volumes/demo/detach body=a1646e616d656464656d6f").code == "4.00"
    assert probe.ask("POST volumes/demo/detach body=a0").code == "2.04"
    created = probe.ask(f"POST volumes ct=60 body={create_body(name='demo', force=True)}")
    assert created.code == "2.01"
    assert "verb=1 role=2 identity=operator volume=demo if_match=-0 force=1" in agent.expect("verb=1")
    # one whose file was written since the start: only the supervisor can tell
    assert probe.ask(f"POST volumes ct=60 body={create_body(name='nosuch')}").code == "2.01"
    assert "volume=nosuch" in agent.expect("verb=1")
    probe.close()


# ---- the supervisor ----


@pytest.mark.parametrize("error,code,name", [(-14, "5.03", "unreachable"), (-13, "4.09", "refused"), (-7, "4.09", "exists"), (-16, "4.03", "denied"),
                                             (-19, "5.01", "unsupported"), (-15, "5.04", "timeout"), (-4, "5.00", "io")])
def test_its_errors_become_problems(agent, error, code, name):
    probe = agent.probe("operator")
    agent.tell(f"answers {error} the reason in its words")
    answer = probe.ask("POST volumes/demo/detach")
    assert answer.code == code and answer.body["error"] == name and answer.body["text"] == "the reason in its words"
    probe.close()


def test_one_that_does_not_answer_gets_5_04_and_nobody_waits_for_it(agent):
    officer, auditor = agent.probe("officer"), agent.probe("auditor")
    agent.tell("answers none")
    began = time.monotonic()
    officer.tell("POST volumes/demo/revoke")
    agent.expect("^request")
    for _ in range(20):
        assert auditor.ask("GET status", timeout=3).code == "2.05"
    answer = officer.expect("^reply")
    assert "code=5.04" in answer and 4 < time.monotonic() - began < 15
    agent.tell("answers good")
    assert officer.ask("POST volumes/demo/revoke").code == "2.04"
    officer.close()
    auditor.close()


def test_too_many_requests_are_refused_and_forgotten(agent):
    agent.tell("answers none")
    probes = []
    for _ in range(66):
        p = agent.probe("officer")
        p.ask("GET status")  # its session stands: what follows is sent by all at once
        probes.append(p)
    for p in probes:
        p.tell("POST revoke")
    answers = [p.next(20) for p in probes]
    assert sum("code=5.03" in a for a in answers) == 2 and sum("code=5.04" in a for a in answers) == 64, answers
    agent.tell("answers good")
    assert probes[0].ask("POST revoke").code == "2.04"
    for p in probes:
        p.close()


def test_observers_hear_of_a_change_within_a_second_and_of_nothing_else(agent):
    probe = agent.probe("auditor")
    first = probe.ask("GET volumes/demo/state observe")
    assert first.code == "2.05" and "observe" in first.fields
    agent.volume("demo", seq=300, text="all is well")  # the same again
    assert probe.next(0.5) is None
    last = int(first.fields["observe"] or "0", 16)
    late = 0
    for seq in range(301, 311):
        agent.volume("demo", "INACCESSIBLE", COMMANDED, 1, COMMANDED, seq)
        began = time.monotonic()
        told = probe.notified()
        late += time.monotonic() - began > 1
        assert told.body["gate_seq"] == seq and told.body["latched"] and told.body["remedy"] and told.fields["etag"] == f"{seq:04x}"
        assert int(told.fields["observe"], 16) > last
        last = int(told.fields["observe"], 16)
    assert late <= 2, "the machine may stand still for a second, but not for each of ten"
    agent.tell("locked demo 100000 300000 2000000")
    assert probe.notified().body["lock"] == {"detected_ns": 1000, "cut_ns": 101000, "wiped_ns": 301000, "drained_ns": 2001000}
    agent.tell("gone demo")
    assert probe.notified().code == "4.04"
    assert probe.ask("GET volumes/demo").code == "4.04"
    probe.close()


def test_the_status_is_observed_too(agent):
    probe = agent.probe("auditor")
    assert len(probe.ask("GET status observe").body["volumes"]) == 1
    agent.volume("second")
    assert [v["name"] for v in probe.notified().body["volumes"]] == ["demo", "second"]
    agent.volume("second", "INACCESSIBLE", 1, seq=2)
    assert probe.notified().body["volumes"][1]["cause"] == "disabled"
    agent.tell("gone second")
    assert len(probe.notified().body["volumes"]) == 1
    probe.close()


def test_many_volumes_come_block_by_block(agent):
    for i in range(250):
        agent.volume(f"volume-{i:03}")
    agent.volume("zzz")
    probe = agent.probe("auditor")
    whole, number = b"", 0
    while True:
        answer = probe.ask(f"GET volumes block2={number << 4 | 6}")
        assert answer.code == "2.05"
        whole += answer.raw
        if not int(answer.fields["block2"], 16) & 8:
            break
        number += 1
    assert number >= 5 and len(cbor2.loads(whole)) == 252
    probe.close()


def test_a_removed_credential_ends_its_sessions_at_once(agent):
    agent.enroll("leaver", "officer")
    leaver, stayer = agent.probe("leaver"), agent.probe("auditor")
    assert leaver.ask("GET volumes/demo/state observe").code == "2.05"
    assert stayer.ask("GET volumes/demo/state observe").code == "2.05"
    agent.remove("leaver")
    leaver.expect("^closed")
    agent.volume("demo", seq=301)
    assert stayer.notified().body["gate_seq"] == 301
    assert not [line for line in list(leaver.said.queue) if line.startswith("notify")]
    again = agent.probe("leaver")
    again.tell("GET status")
    again.expect("^closed|^nack")
    for p in (leaver, stayer, again):
        p.close()


def test_a_changed_credential_counts_at_once(agent):
    agent.enroll("changer", "officer")
    probe = agent.probe("changer")
    assert probe.ask("POST volumes/demo/revoke").code == "2.04"
    agent.enroll("changer", "auditor", key=agent.keys["changer"])
    probe.expect("^closed")
    again = agent.probe("changer")
    assert again.ask("POST volumes/demo/revoke").code == "4.03"
    probe.close()
    again.close()


def test_a_session_that_goes_takes_its_requests_along(agent):
    agent.tell("answers none")
    agent.enroll("leaver", "officer")
    leaver = agent.probe("leaver")
    leaver.tell("POST volumes/demo/revoke")
    agent.expect("^request")
    agent.remove("leaver")
    leaver.expect("^closed")
    agent.tell("answers good")
    officer = agent.probe("officer")
    assert officer.ask("POST volumes/demo/revoke").code == "2.04"
    for p in (leaver, officer):
        p.close()


# ---- the process ----


def test_it_stands_behind_its_walls(agent):
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{agent.pid}/status").read_text().splitlines() if ":\t" in line)
    program = (BUILD / "bin/fallgate-mgmt").read_bytes()
    sanitized = b"__asan_init" in program or b"__tsan_init" in program
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == ("0" if sanitized else "2")
    kinds = sorted(os.readlink(f"/proc/{agent.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{agent.pid}/fd"))
    assert set(kinds) <= {"/dev/null", "socket", "anon_inode", "pipe"}, kinds


def test_it_ends_with_its_supervisor():
    agent = Agent()
    agent.tell("quit")
    assert agent.expect("^ended") == "ended with 0"
    agent.close()


def test_a_supervisor_that_breaks_the_protocol_is_left():
    agent = Agent()
    agent.tell("junk")
    agent.expect("^lost")
    assert agent.expect("^ended") == "ended with 70"
    agent.close()


@pytest.mark.parametrize("address,code", [("localhost:5684", 2), ("127.0.0.1", 2), ("203.0.113.77:5684", 9), ("127.0.0.1:0", 2)])
def test_an_address_that_cannot_be_listened_on_is_named(address, code):
    agent = Agent(listen=False)
    agent.tell(f"listen {address}")
    assert agent.expect("^ended") == f"ended with {code}"
    agent.expect_error(address, "fallgate.conf")
    agent.close()


def test_an_address_in_use_is_named():
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", port))
        agent = Agent(listen=False)
        agent.tell(f"listen 127.0.0.1:{port}")
        assert agent.expect("^ended") == "ended with 7"
        agent.expect_error(str(port), "in use")
        agent.close()


def test_by_hand_it_says_so():
    program = BUILD / "bin/fallgate-mgmt"
    assert subprocess.run([program, "--version"], capture_output=True, text=True).stdout.startswith("fallgate-mgmt ")
    assert "fallgated" in subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    assert subprocess.run([program, "--frob"], capture_output=True, text=True).returncode == 2
    alone = subprocess.run([program], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert alone.returncode == 70 and "started by fallgated" in alone.stderr
