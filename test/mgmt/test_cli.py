"""The command line client against a real fallgate-mgmt: what people read, what scripts get, exit codes, and whom it trusts."""

import json
import os
import pathlib
import socket
import stat
import struct
import subprocess
import threading
import time

import pytest

from bench import BUILD, COMMANDED, ROLES, Agent, cli, free_port

ERRORS = {  # error: exit code and name, as error.c has them
    -1: (2, "usage"), -2: (3, "config"), -3: (4, "no-memory"), -4: (5, "io"), -5: (6, "no-space"), -6: (7, "busy"), -7: (8, "exists"),
    -8: (9, "not-found"), -9: (10, "range"), -10: (11, "corrupt"), -11: (12, "foreign"), -12: (13, "revoked"), -13: (14, "refused"),
    -14: (15, "unreachable"), -15: (16, "timeout"), -16: (17, "denied"), -17: (18, "state"), -18: (19, "protocol"), -19: (20, "unsupported"),
    -20: (21, "fail-stop"),
}


class World:
    def __init__(self, folder):
        self.agent = Agent()
        self.files = {}
        for role in ROLES:
            self.agent.enroll(role, role)
            self.files[role] = self.agent.credentials(folder / role, role)
        self.agent.volume("demo", seq=300, text="all is well")

    def __call__(self, *argv, role="auditor", **kwargs):
        return cli(*argv, credentials=self.files[role], **kwargs)


@pytest.fixture
def world(tmp_path):
    w = World(tmp_path)
    yield w
    w.agent.close()


def test_what_people_read(world):
    text = world("status").stdout
    assert "demo" in text and "AVAILABLE" in text and "audit ledger good" in text
    text = world("status", "demo").stdout
    for line in ("volume     demo", "state      AVAILABLE", "size       1 GiB", "kek        customer", "seq        300", "note       all is well"):
        assert line in text, text
    assert "1 GiB" in world("volumes").stdout
    posture = world("posture").stdout
    assert "good       keys in memfd_secret" in posture and "weak       a software token" in posture
    world.agent.volume("demo", "INACCESSIBLE", 1, seq=301)
    world.agent.tell("locked demo 100000 300000 2000000")
    text = world("status", "demo").stdout
    assert "cause      disabled" in text and "remedy     enable the KEK" in text
    assert "I/O cut after 0.1 ms, keys wiped after 0.3 ms, data saved after 2.0 ms" in text
    world.agent.volume("new", "LOCKED", formatted=0)
    assert "not created" in world("status").stdout


def test_what_scripts_get(world):
    volume = json.loads(world("--json", "status", "demo").stdout)
    assert volume["gate_seq"] == 300 and volume["uuid"] == "00" * 16 and volume["latched"] is False and volume["size"] == 1 << 30
    assert [v["name"] for v in json.loads(world("status", "--json").stdout)["volumes"]] == ["demo"]
    assert json.loads(world("volumes", "--json").stdout)[0]["kek"] == "customer"
    assert json.loads(world("posture", "--json").stdout)["findings"][1] == {"good": False, "what": "a software token"}
    done = json.loads(world("revoke", "demo", "--json", role="officer").stdout)
    assert done == {"name": "demo", "gate_seq": 301, "durable": True}
    refused = world("--json", "status", "nosuch")
    problem = json.loads(refused.stdout)
    assert refused.returncode == 9 and problem["error"] == "not-found" and problem["exit"] == 9 and "nosuch" in problem["text"] and problem["remedy"]


def test_roles_are_told(world):
    for role, verb in (("auditor", "revoke"), ("operator", "restore"), ("officer", "attach"), ("officer", "detach"), ("officer", "create")):
        done = world(verb, "demo", role=role)
        assert done.returncode == 17 and role in done.stderr and "enroll" in done.stderr, done
        assert done.stderr.count("\n") == 1


def test_orders_arrive_with_seq_and_echo(world):
    assert world("restore", "demo", role="officer").returncode == 0
    assert "verb=5 role=3 identity=officer volume=demo if_match=300" in world.agent.expect("^request")
    assert world("attach", "demo", role="operator").returncode == 0
    assert "verb=2 role=2 identity=operator volume=demo if_match=301" in world.agent.expect("^request")
    assert world("detach", "demo", role="operator").returncode == 0
    assert "verb=3" in world.agent.expect("^request")
    assert world("create", "demo", "--force", role="operator").returncode == 0
    assert "verb=1 role=2 identity=operator volume=demo if_match=-0 force=1" in world.agent.expect("^request")
    assert world("revoke", "--all", role="officer").returncode == 0
    assert "verb=4 role=3 identity=officer volume= " in world.agent.expect("^request")


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_its_exit_code_and_its_remedy(world, error):
    """The whole table: what the supervisor says comes out as its name, its code, its words and one line of what to do."""
    code, name = ERRORS[error]
    world.agent.tell(f"answers {error} the reason in its words")
    done = world("--json", "detach", "demo", role="operator")
    problem = json.loads(done.stdout)
    assert done.returncode == code and problem["error"] == name and problem["text"] == "the reason in its words" and problem["exit"] == code
    assert len(problem["remedy"]) > 20
    assert done.stderr == f"fallgate: the reason in its words; {problem['remedy']}\n"


def test_hostile_words_do_not_reach_the_terminal(world):
    world.agent.tell("answers -4 red \x1b[31m and bell \x07")
    done = world("detach", "demo", role="operator")
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr


# ---- watching ----


def watch(world, *argv):
    return subprocess.Popen([BUILD / "bin/fallgate", "--credentials", world.files["auditor"], *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watch_says_a_line_per_change(world):
    process = watch(world, "status", "demo", "--watch")
    try:
        assert "AVAILABLE" in process.stdout.readline()
        began = time.monotonic()
        world.agent.volume("demo", "INACCESSIBLE", COMMANDED, 1, COMMANDED, 301)
        line = process.stdout.readline()
        assert time.monotonic() - began < 5
        assert "INACCESSIBLE" in line and "commanded (latched)" in line and "-> " in line
    finally:
        process.kill()
        process.wait()


def test_watch_of_everything_says_what_changed_only(world):
    world.agent.volume("other")
    process = watch(world, "status", "--watch")
    try:
        first = {process.stdout.readline().split()[2], process.stdout.readline().split()[2]}
        assert first == {"demo", "other"}
        world.agent.volume("other", "INACCESSIBLE", 1, seq=2)
        assert "other" in process.stdout.readline()
        world.agent.volume("demo", "INACCESSIBLE", 1, seq=301)
        assert "demo" in process.stdout.readline()
    finally:
        process.kill()
        process.wait()


def test_watch_in_json_ends_when_the_identity_is_removed(world):
    process = watch(world, "--json", "status", "demo", "--watch")
    assert json.loads(process.stdout.readline())["state"] == "AVAILABLE"
    world.agent.volume("demo", "LOCKING", COMMANDED, 1, COMMANDED, 301)
    assert json.loads(process.stdout.readline())["state"] == "LOCKING"
    world.agent.remove("auditor")
    assert process.wait(20) == 17
    assert "removed" in process.stderr.read()


def test_watch_ends_when_the_agent_is_gone(world):
    process = watch(world, "status", "--watch")
    assert "demo" in process.stdout.readline()
    world.agent.process.kill()  # the harness; fallgate-mgmt ends with its supervisor
    assert process.wait(40) in (16, 17)
    assert "agent" in process.stderr.read()


# ---- whom it trusts ----


def test_nobody_home(world, tmp_path):
    shut = world.agent.credentials(tmp_path / "shut", "auditor", address=f"127.0.0.1:{free_port()}")
    done = cli("status", credentials=shut)
    assert done.returncode == 16 and "is the agent running?" in done.stderr
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % deaf.getsockname()[1]
        began = time.monotonic()
        done = cli("status", credentials=world.agent.credentials(tmp_path / "deaf", "auditor", address=address))
        assert done.returncode == 16 and f"no answer from {address} in 5 s: is the agent running?" in done.stderr
        assert 4 < time.monotonic() - began < 15


def test_an_agent_without_the_key_gets_nothing(world, tmp_path):
    """Somebody else's fallgate-mgmt on the agent's address: the session does not come to be."""
    other = Agent()
    other.enroll("auditor", "auditor")
    done = cli("status", credentials=world.agent.credentials(tmp_path / "c", "auditor", address=other.address))
    assert done.returncode == 17 and "does not accept" in done.stderr
    other.close()


def test_a_supervisor_that_does_not_answer(world):
    world.agent.tell("answers none")
    done = world("revoke", "demo", role="officer")
    assert done.returncode == 16 and "did not answer in time" in done.stderr


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_credentials_open_to_others_are_refused(world, mode):
    world.files["auditor"].chmod(mode)
    done = world("status")
    assert done.returncode == 17 and "chmod 600" in done.stderr


def test_the_key_is_in_no_message(world, tmp_path):
    broken = world.agent.credentials(tmp_path / "broken", "auditor", key=world.agent.keys["auditor"] + "f")
    for done in (cli("status", credentials=broken), world("status", "nosuch"), world("--json", "status", "demo")):
        assert world.agent.keys["auditor"] not in done.stdout + done.stderr


@pytest.mark.parametrize("address", ["localhost:5684", "127.0.0.1", "nonsense"])
def test_an_address_that_is_none(world, tmp_path, address):
    done = cli("status", credentials=world.agent.credentials(tmp_path / "c", "auditor", address=address))
    assert done.returncode == 3 and address in done.stderr


# ---- the console ----

# struct message: type, size, nonce, body. The values are those of message.h.
CON_REQUEST_BODY = struct.Struct("<BB64s32s")
CON_REPLY_BODY = struct.Struct("<i256s64s32s?3x")


@pytest.fixture(scope="module")
def types():
    """Message numbers, counted from message.h."""
    text = (pathlib.Path(__file__).resolve().parents[2] / "firmware/ipc/message.h").read_text()
    body = text.split("enum message_type {")[1].split("};")[0]
    names = [w for line in body.splitlines() for w in line.split("/*")[0].replace(",", " ").split() if w.startswith("MSG_")]
    return {name: i for i, name in enumerate(names)}


class Console:
    """The supervisor's side of the console, one connection at a time."""

    def __init__(self, folder, types, reply):
        self.types, self.reply, self.requests = types, reply, []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(str(folder / "console.sock"))
        self.socket.listen(4)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            data = connection.recv(65536)
            type_, size, nonce = struct.unpack_from("<IIQ", data)
            assert type_ == self.types["MSG_CON_REQUEST"] and size == CON_REQUEST_BODY.size == len(data) - 16
            verb, role, identity, volume = CON_REQUEST_BODY.unpack_from(data, 16)
            self.requests.append((verb, role, identity.rstrip(b"\0").decode(), volume.rstrip(b"\0").decode()))
            if self.reply is not None:
                body = CON_REPLY_BODY.pack(*self.reply, True)
                connection.send(struct.pack("<IIQ", self.types["MSG_CON_REPLY"], len(body), nonce) + body)
            connection.close()


KEY = bytes(range(32))


@pytest.fixture
def console(tmp_path, types):
    c = Console(tmp_path, types, (0, b"", b"127.0.0.1:5684", KEY))
    yield c
    c.socket.close()


def test_enroll_writes_a_file_for_its_owner_and_prints_no_secret(console, tmp_path):
    out = tmp_path / "deep" / "file"
    done = cli("enroll", "--run-dir", tmp_path, "--role", "officer", "me", "--out", out)
    assert done.returncode == 0 and str(out) in done.stdout, done
    assert KEY.hex() not in done.stdout + done.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert f"address = 127.0.0.1:5684\nidentity = me\nkey = {KEY.hex()}\n" in out.read_text()
    assert console.requests == [(1, 3, "me", "")]
    again = cli("enroll", "--run-dir", tmp_path, "--role", "officer", "me", "--out", out)
    assert again.returncode == 8 and "--force" in again.stderr
    assert len(console.requests) == 1, "a key was made that nobody could keep"
    assert cli("enroll", "--run-dir", tmp_path, "--role", "auditor", "you", "--out", out, "--force").returncode == 0
    assert "identity = you" in out.read_text()
    assert not [p for p in out.parent.iterdir() if p != out], "something was left beside it"


def test_enroll_writes_to_the_default_place(console, tmp_path):
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    assert cli("--run-dir", tmp_path, "enroll", "--role", "auditor", "me", env=env).returncode == 0
    assert stat.S_IMODE((tmp_path / ".config/fallgate/credentials").stat().st_mode) == 0o600


def test_the_other_console_verbs(console, tmp_path):
    for argv, request in ((("remove", "me"), (5, 0, "me", "")), (("stop",), (4, 0, "", "")), (("revoke", "demo", "--local"), (2, 0, "", "demo")),
                          (("revoke", "--all", "--local"), (2, 0, "", ""))):
        done = cli(*argv, "--run-dir", tmp_path)
        assert done.returncode == 0 and done.stdout.strip(), done
        assert console.requests[-1] == request
    assert json.loads(cli("stop", "--json", "--run-dir", tmp_path).stdout)["done"] == "stop"


def test_what_the_console_refuses(console, tmp_path):
    console.reply = (-7, b"the identity me is enrolled already", b"", b"")
    done = cli("enroll", "--run-dir", tmp_path, "--role", "officer", "me", "--out", tmp_path / "c")
    assert done.returncode == 8 and "enrolled already" in done.stderr and not (tmp_path / "c").exists()
    console.reply = None
    done = cli("stop", "--run-dir", tmp_path)
    assert done.returncode == 17 and "closed the console" in done.stderr


def test_no_console(tmp_path):
    done = cli("stop", "--run-dir", tmp_path)
    assert done.returncode == 16 and "console.sock" in done.stderr and "is it running" in done.stderr
    assert cli("stop", "--run-dir", "/" + "x" * 200).returncode == 2


# ---- the rest ----


def test_config_check_runs_fallgated_and_passes_its_exit_code_on(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    os.link(BUILD / "bin/fallgate", folder / "fallgate") if os.stat(BUILD).st_dev == os.stat(tmp_path).st_dev else \
        (folder / "fallgate").write_bytes((BUILD / "bin/fallgate").read_bytes())
    (folder / "fallgate").chmod(0o755)
    fake = folder / "fallgated"
    fake.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    fake.chmod(0o755)
    done = subprocess.run([folder / "fallgate", "config", "check", "--config", "/some/where"], capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout == "--check --config /some/where\n"
    fake.unlink()
    done = subprocess.run([folder / "fallgate", "config", "check"], capture_output=True, text=True, env={"PATH": "/nonexistent"})
    assert done.returncode == 9 and "fallgated" in done.stderr


def test_version_help_and_nonsense():
    assert cli("--version").stdout.startswith("fallgate ") and cli("version").stdout == cli("--version").stdout
    text = cli("--help").stdout
    for verb in ("status", "volumes", "posture", "create", "attach", "detach", "revoke", "restore", "enroll", "remove", "stop", "config check"):
        assert verb in text
    for argv in ((), ("frobnicate",), ("revoke",), ("status", "--frob"), ("enroll", "x"), ("status", "UPPER")):
        done = cli(*argv)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, (argv, done)
    assert json.loads(cli("--json", "frobnicate").stdout)["exit"] == 2
    assert cli("status", env={"PATH": "/"}).returncode == 3
    assert cli("status", env={"HOME": "/nonexistent"}).returncode == 9


def test_a_full_disk_below_the_output_is_an_error(world):
    with open("/dev/full", "w") as full:
        done = subprocess.run([BUILD / "bin/fallgate", "--credentials", world.files["auditor"], "status"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 5 and b"standard output" in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
